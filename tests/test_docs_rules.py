"""docs/rules.md against the code: every example loads, every variable and message stands there as it is.

Run as a program, this file writes the two generated parts anew: ``PYTHONPATH=. python tests/test_docs_rules.py``.
"""

import re
from pathlib import Path

import pytest

from fraud_api_lambda.errors import RulesError
from fraud_api_lambda.features import FEATURES
from fraud_api_lambda.rules import TEXT_VARIABLES, load_rules
from fraud_api_lambda.schemas import parse_rfc3339
from training.backtest import Hits

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "rules.md"

#: What a file says -> shown in the document with what it is answered.
MISTAKES = {
    "a name that is not there": b"rules: [{id: night, expression: is_night && amuont > 2000, outcome: review}]",
    "text compared with a number": b"rules: [{id: who, expression: customer_id > 5, outcome: review}]",
    "not true or false": b"rules: [{id: much, expression: amount * 2, outcome: review}]",
    "a whole number that cannot be a double": (
        b"rules: [{id: long, expression: 'amount > 2000 && size(customer_id) > 3', outcome: review}]"
    ),
    "an outcome that is none": b"rules: [{id: night, expression: is_night, outcome: block}]",
    "an unknown member": b"rules: [{id: night, expression: is_night, outcome: review, untill: 2026-03-01T00:00:00Z}]",
    "a date without a time": b"rules: [{id: night, expression: is_night, outcome: review, until: 2026-03-01}]",
    "an entity that is none": b"rules: []\nlists: {deny: [{entity: merchant, id: M1}]}",
    "an id twice on one list": b"rules: []\nlists: {deny: [{entity: customer, id: C1}, {entity: customer, id: C1}]}",
    "a snooze of a rule that is not there": (
        b"rules: [{id: night, expression: is_night, outcome: review}]\n"
        b"snooze: [{rule: nigth, entity: customer, id: C1, until: 2026-03-01T00:00:00Z}]"
    ),
    "a snooze without an end": (
        b"rules: [{id: night, expression: is_night, outcome: review}]\n"
        b"snooze: [{rule: night, entity: customer, id: C1}]"
    ),
    "an alias": b"rules: []\nlists: {deny: &who [], allow: *who}",
    "a member twice": b"rules: []\nrules: []",
}


def variables() -> str:
    """The rows of the features in the table of variables."""
    lines = []
    for feature in FEATURES:
        kind = "true/false" if feature.kind == "flag" else "number"
        unit = "" if feature.kind == "flag" else f" ({feature.unit})"
        subject = feature.subject.removeprefix("That ")
        if feature.group == "type":
            subject = f"the type is {feature.name.removeprefix('is_').upper()}"
        lines.append(f"| `{feature.name}` | {kind} | {subject[0].lower()}{subject[1:]}{unit} |")
    return "\n".join(lines)


def errors() -> str:
    lines = ["| mistake | answer |", "|---|---|"]
    for what, text in MISTAKES.items():
        with pytest.raises(RulesError) as caught:
            load_rules(text)
        shown = str(caught.value).replace("|", "\\|")
        lines.append(f"| {what} | {shown} |")
    return "\n".join(lines)


def document() -> str:
    return DOCUMENT.read_text(encoding="utf-8")


def test_the_variables_are_those_of_the_code() -> None:
    assert variables() in document()
    rows = re.findall(r"^\| (`.*?`) \|", document(), re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert sorted(named) == sorted([*TEXT_VARIABLES, "attributes", *(feature.name for feature in FEATURES)])


def test_every_variable_can_be_named_in_a_rule() -> None:
    for feature in FEATURES:
        expression = feature.name if feature.kind == "flag" else f"{feature.name} > 1"
        load_rules(f"rules: [{{id: a, expression: {expression}, outcome: review}}]".encode())


def test_every_mistake_is_answered_as_the_document_says() -> None:
    assert errors() in document()


def test_every_example_loads() -> None:
    blocks = re.findall(r"^```yaml\n(.*?)^```", document(), re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        rules = load_rules(block.encode())
        assert rules.rules
        assert rules.version.startswith("2026-02+")
        assert rules.lists.sizes == {"deny": 3, "allow": 1, "snooze": 1}
        assert rules.rules[1].from_ms == parse_rfc3339("2026-02-13T03:00:00Z")


def test_the_lines_of_a_run_look_as_the_document_says() -> None:
    kept = Hits("amount_above_usual", "review", True, 23_763, 124, 293, 96)
    off = Hits("weekend", "review", False, 23_763, 6_633, 293, 88, switched_off=True)
    assert kept.line in document()
    assert off.line in document()


def test_what_the_document_points_to_is_there() -> None:
    for link in re.findall(r"\]\(((?!http)[^)#]+)\)", document()):
        assert (DOCUMENT.parent / link).is_file(), link


def _write() -> None:
    text = re.sub(r"(?<=\n)(VARIABLES|\| `amount` \|(.*\n\|)*.*)(?=\n)", lambda _: variables(), document(), count=1)
    text = re.sub(r"(?<=\n)(ERRORS|\| mistake \|(.*\n\|)*.*)(?=\n)", lambda _: errors(), text, count=1)
    DOCUMENT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    _write()
