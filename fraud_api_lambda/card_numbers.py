"""What looks like a payment card's number, so that it is kept nowhere: found, and written as something else.

A card number is 13 to 19 digits that pass Luhn's check, in one run or in the groups that cards print. A tenth of all
ids of so many digits pass too, and nobody can tell them apart: so what is found is not refused but known by another
name, the same one every time, and whoever sends the number again finds what was kept under it.
"""

import hashlib
import re
from typing import Final

_SEPARATOR = r"[ ._/\-\u00a0\u2009\u202f\u2010-\u2015]"
#: One run, or groups as printed: 4-4-4-4(-3), 4-6-5, 4-4-4-1. Letters beside a run do not matter (``C4111...``)
#: but they do beside groups, or parts of UUIDs would be found.
_RUN = re.compile(
    r"(?<!\d)\d{13,19}(?!\d)"
    rf"|(?<![0-9A-Za-z\-])\d{{4}}{_SEPARATOR}(?:\d{{6}}{_SEPARATOR}\d{{5}}"
    rf"|\d{{4}}{_SEPARATOR}\d{{4}}{_SEPARATOR}\d{{1,4}}(?:{_SEPARATOR}\d{{1,3}})?)(?![0-9A-Za-z])"
)
_SHORTEST: Final = 13
#: What a found one becomes in a text for people. Not longer than any that is found.
MASKED: Final = "(card number)"
#: Digits of a number that a float64 holds exactly; of a longer one they are lost as it is read.
_EXACT: Final = 2**53
_LETTERS = str.maketrans("0123456789abcdef", "abcdefghijklmnop")
# Each digit's share where it counts twice.
_TWICE: Final = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)


def passes_luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of those before it."""
    numbers = [int(digit) for digit in reversed(digits)]
    return (sum(numbers[::2]) + sum(_TWICE[n] for n in numbers[1::2])) % 10 == 0


def _is_card(found: re.Match[str]) -> bool:
    digits = "".join(character for character in found[0] if character.isdecimal())
    return _SHORTEST <= len(digits) <= 19 and passes_luhn(digits)


def is_in(text: str) -> bool:
    """Whether a card number, or what looks like one, stands anywhere in the text."""
    return len(text) >= _SHORTEST and any(map(_is_card, _RUN.finditer(text)))


def is_number(value: float) -> bool:
    """Whether a number looks like a card's: by length and check digit, and beginning as the networks' cards do.

    The beginning matters for numbers alone: a time in milliseconds since 1970 has 13 digits, and a tenth of all pass.
    """
    if not 1e12 <= abs(value) < _EXACT or value % 1:
        return False
    digits = str(abs(int(value)))
    return (digits[0] in "3456" or "2221" <= digits[:4] <= "2720") and passes_luhn(digits)


def masked(text: str) -> str:
    """The text with :data:`MASKED` wherever a card number stands in it."""
    return _RUN.sub(lambda found: MASKED if _is_card(found) else found[0], text)


def name_for(text: str, key: bytes) -> str:
    """What the whole text is known by: ``pan_`` and 32 letters, the same for the same text and key (empty: none).

    It holds no digit, so it looks like no card number itself. Without a key whoever has it can find the number by
    trying all there are; with one, nobody who does not have the key.
    """
    found = hashlib.blake2b(text.encode(), key=key, digest_size=16, person=b"card number").hexdigest()
    return "pan_" + found.translate(_LETTERS)
