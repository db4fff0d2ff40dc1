"""A rules file as text: written from the rules in force, and a rule put into it. What a file may hold, the API says.

YAML is written so that every text is a JSON string, which is YAML too: nothing in it can be taken for anything else.
Comments and lists of a file that somebody brings along stay as they are.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

#: Members of a rule in the order in which they are written; what is None or the default is left out.
MEMBERS = ("id", "expression", "outcome", "reason", "enabled", "from", "until")
OUTCOMES = ("review", "decline", "approve")

_RULES_LINE = re.compile(r"^rules:[ \t]*(\[\s*\])?[ \t]*(#.*)?$", re.MULTILINE)
#: The list's first item, behind comments and empty lines.
_FIRST = re.compile(r"(?:[ \t]*(?:#[^\n]*)?\n)*(?P<indent>[ \t]*)- ")


class NoPlace(Exception):
    """The rule cannot be put into this text; the message is one line that says what to do instead."""


def text_of(rules: Sequence[Mapping[str, Any]], version: str = "draft") -> str:
    """A whole file with these rules and no lists."""
    head = f"version: {_scalar(version)}\n"
    return head + ("rules:\n" + "".join(item(rule) for rule in rules) if rules else "rules: []\n")


def item(rule: Mapping[str, Any], indent: str = "  ") -> str:
    """One rule as an item of the list, with its line's end."""
    kept = {
        name: rule[name]
        for name in MEMBERS
        if rule.get(name) is not None and rule.get(name) != "" and (name, rule[name]) != ("enabled", True)
    }
    lines = [f"{name}: {_scalar(value)}" for name, value in kept.items()]
    return "".join(f"{indent}{'- ' if number == 0 else '  '}{line}\n" for number, line in enumerate(lines))


def put(text: str, rule: Mapping[str, Any]) -> str:
    """The file with the rule in it: in place of the one with its id, where that is written as :func:`item` does, else
    as the first. Raises :class:`NoPlace`.
    """
    line = _RULES_LINE.search(text)
    if line is None:
        raise NoPlace("There is no line rules: of its own in this file. Write the rule into it by hand.")
    head, rest = text[: line.start()] + "rules:\n", text[line.end() :].removeprefix("\n")
    first = _FIRST.match(rest)
    indent = first["indent"] if first else "  "
    names = "|".join(re.escape(each) for each in (_scalar(rule["id"]), str(rule["id"])))
    deeper = rf"(?:{re.escape(indent)}[ \t]+[^\n]*\n?|[ \t]*\n)*"
    block = re.compile(rf"^{re.escape(indent)}- id: (?:{names})[ \t]*(?:#[^\n]*)?\n{deeper}", re.MULTILINE)
    whole = head + rest
    if block.search(whole):
        return block.sub(lambda _: item(rule, indent), whole, count=1)
    return head + item(rule, indent) + rest


def put_entry(text: str, where: str, entry: Mapping[str, Any]) -> str:
    """The file with a line for a party in it: ``where`` is ``deny`` or ``allow``, lists, or ``snooze``.

    All else stays as it is. Raises :class:`NoPlace`.
    """
    if _RULES_LINE.search(text) is None:
        raise NoPlace("There is no line rules: of its own in this file. Write the entry into it by hand.")
    kept = ", ".join(f"{name}: {_scalar(value)}" for name, value in entry.items() if value not in (None, ""))
    line = f"- {{{kept}}}\n"
    section = "snooze" if where == "snooze" else "lists"
    found = _line(section).search(text)
    if found is None:
        if re.search(rf"^[\"']?{section}\b", text, re.MULTILINE):
            raise NoPlace(f"There is no line {section}: of its own in this file. Write the entry into it by hand.")
        inside = f"  {line}" if section == "snooze" else f"  {where}:\n    {line}"
        return f"{text.rstrip()}\n\n{section}:\n{inside}"
    head, rest = f"{text[: found.start()]}{section}:\n", text[found.end() :].removeprefix("\n")
    if section == "snooze":
        first = _FIRST.match(rest)
        return f"{head}{first['indent'] if first else '  '}{line}{rest}"
    block = re.match(r"(?:[ \t]+[^\n]*(?:\n|$)|[ \t]*(?:#[^\n]*)?\n)*", rest)
    assert block is not None
    within, after = block[0], rest[block.end() :]
    member = re.search(r"^([ \t]+)(?:deny|allow):", within, re.MULTILINE)
    indent = member[1] if member else "  "
    listed = _line(where, indent).search(within)
    if listed is None:
        if re.search(rf"^{indent}[\"']?{where}\b", within, re.MULTILINE):
            raise NoPlace(f"There is no line {where}: of its own in this file. Write the entry into it by hand.")
        return f"{head}{indent}{where}:\n{indent}  {line}{within}{after}"
    others = within[listed.end() :].removeprefix("\n")
    first = _FIRST.match(others)
    deeper = first["indent"] if first and len(first["indent"]) >= len(indent) else f"{indent}  "
    return f"{head}{within[: listed.start()]}{indent}{where}:\n{deeper}{line}{others}{after}"


def _line(name: str, indent: str = "") -> re.Pattern[str]:
    """A member's own line, with nothing or an empty value behind it."""
    return re.compile(rf"^{indent}{name}:[ \t]*(\[\s*\]|\{{\s*\}})?[ \t]*(#.*)?$", re.MULTILINE)


def caret(expression: str, message: str) -> str | None:
    """The expression's line that a message names, with a mark under the column; None where it names none."""
    place = re.search(r"line (\d{1,4}), column (\d{1,5})", message)
    lines = expression.splitlines()
    if place is None or not 1 <= int(place[1]) <= len(lines):
        return None
    line = lines[int(place[1]) - 1].replace("\t", " ")
    return f"{line}\n{' ' * min(max(int(place[2]) - 1, 0), len(line))}^"


def _scalar(value: Any) -> str:
    """A JSON value, readable: letters of other alphabets stay, what YAML holds as an escape only becomes one."""
    plain = json.dumps(value, ensure_ascii=False)
    return "".join(each if each.isprintable() else f"\\U{ord(each):08x}" for each in plain)
