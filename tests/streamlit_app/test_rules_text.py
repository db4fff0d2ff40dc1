"""The rules file as the console writes it, read by the service's own strict reader."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraud_api_lambda import rules_file as service
from fraud_api_lambda.rules import load_rules
from streamlit_app import rules_file

NIGHT: dict[str, Any] = {
    "id": "night", "expression": "is_night && amount > 2000", "outcome": "review", "reason": "At night.",
    "enabled": True, "from": None, "until": None,
}  # fmt: skip
OLD: dict[str, Any] = {
    **NIGHT, "id": "old", "enabled": False, "from": "2026-01-01T00:00:00.000Z", "until": "2026-02-01T00:00:00.000Z",
}  # fmt: skip

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def rules_in(text: str) -> list[dict[str, Any]]:
    found = service.read(text.encode())
    assert isinstance(found, dict)
    return list(found["rules"])


def test_the_rules_in_force_are_written_so_that_the_service_loads_the_same() -> None:
    loaded = load_rules(rules_file.text_of([NIGHT, OLD], "draft").encode())
    assert [rule.id for rule in loaded.rules] == ["night", "old"]
    assert loaded.rules[0].expression == NIGHT["expression"]
    assert not loaded.rules[1].enabled
    assert loaded.rules[1].until_ms is not None
    assert loaded.version.startswith("draft+")


def test_no_rules_are_a_file_too() -> None:
    assert rules_in(rules_file.text_of([])) == []
    assert rules_in(rules_file.put(rules_file.text_of([]), NIGHT))[0]["id"] == "night"


@given(st.lists(st.fixed_dictionaries({"id": TEXT, "expression": TEXT, "outcome": TEXT, "reason": TEXT}), max_size=4))
def test_any_text_in_a_rule_is_read_back_as_it_was(rules: list[dict[str, str]]) -> None:
    kept = [{name: value for name, value in rule.items() if value} for rule in rules if any(rule.values())]
    written = rules_file.text_of([rule for rule in rules if any(rule.values())])
    assert rules_in(written) == kept


def test_a_rule_takes_the_place_of_the_one_with_its_id_and_the_others_stay() -> None:
    text = rules_file.put(rules_file.text_of([NIGHT, OLD]), {**NIGHT, "outcome": "decline"})
    assert [(rule["id"], rule["outcome"]) for rule in rules_in(text)] == [("night", "decline"), ("old", "review")]


def test_a_new_rule_comes_first() -> None:
    text = rules_file.put(rules_file.text_of([NIGHT]), {**NIGHT, "id": "new"})
    assert [rule["id"] for rule in rules_in(text)] == ["new", "night"]


BROUGHT = """\
# ours, since 2024
version: 2026-02
rules:
# the first
- id: night   # by Ann
  expression: is_night && amount > 2000
  outcome: review
- id: dear
  expression: amount > 9000
  outcome: decline

lists:
  deny:
    - {entity: customer, id: C1}
"""


def test_a_file_that_somebody_brings_keeps_its_lists_comments_and_other_rules() -> None:
    text = rules_file.put(BROUGHT, {**NIGHT, "id": "dear", "outcome": "review"})
    found = service.read(text.encode())
    assert isinstance(found, dict)
    assert [(rule["id"], rule["outcome"]) for rule in found["rules"]] == [("night", "review"), ("dear", "review")]
    assert found["lists"] == {"deny": [{"entity": "customer", "id": "C1"}]}
    assert "# ours, since 2024" in text
    added = rules_file.put(BROUGHT, {**NIGHT, "id": "new"})
    assert [rule["id"] for rule in rules_in(added)] == ["new", "night", "dear"]
    assert "# the first" in added


ENTRY = {"entity": "device", "id": "D: 1 # {x}", "reason": "", "until": "2027-01-01T00:00:00Z"}
KEPT = {name: value for name, value in ENTRY.items() if value}


@pytest.mark.parametrize(
    "text",
    [
        BROUGHT,
        rules_file.text_of([NIGHT]),
        rules_file.text_of([NIGHT]) + "lists: {}\n",
        rules_file.text_of([NIGHT]) + "lists:\n  deny: []  # none\n  allow:\n  - {entity: customer, id: C2}\n",
        "lists:\n    # who\n    allow:\n        - entity: customer\n          id: C2\n" + rules_file.text_of([NIGHT]),
    ],
)
def test_a_party_is_put_on_a_list_and_all_else_stays(text: str) -> None:
    before = service.read(text.encode())
    assert isinstance(before, dict)
    for where in ("deny", "allow"):
        written = rules_file.put_entry(text, where, ENTRY)
        found = service.read(written.encode())
        assert isinstance(found, dict)
        lists = {"deny": [], "allow": [], **(before.get("lists") or {})}
        lists[where] = [KEPT, *lists[where]]
        assert {"deny": [], "allow": [], **found["lists"]} == lists
        assert {**found, "lists": 0} == {**before, "lists": 0}
        assert load_rules(written.encode()).lists.sizes[where] == len(lists[where])
    assert all(line in written for line in re.findall("# .*", text) if "none" not in line)


@pytest.mark.parametrize(
    "snooze", ["", "snooze: []\n", "snooze:\n- {rule: night, entity: customer, id: C1, until: 2027-01-01T00:00:00Z}\n"]
)
def test_a_rule_is_snoozed_for_a_party(snooze: str) -> None:
    text = BROUGHT + snooze
    written = rules_file.put_entry(text, "snooze", {"rule": "night", **ENTRY})
    assert load_rules(written.encode()).lists.sizes == {"deny": 1, "allow": 0, "snooze": 1 + ("C1" in snooze)}


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("{}", "deny"),
        ("rules: []\nlists: {deny: [{entity: customer, id: C1}]}\n", "deny"),
        ("rules: []\nlists:\n  deny: [{entity: customer, id: C1}]\n", "deny"),
        ("rules: []\nsnooze: [{rule: a}]\n", "snooze"),
    ],
)
def test_where_there_is_no_place_for_an_entry_that_is_said(text: str, where: str) -> None:
    with pytest.raises(rules_file.NoPlace, match="by hand"):
        rules_file.put_entry(text, where, ENTRY)


@pytest.mark.parametrize("text", ["", "{}", '{"version": "1", "rules": []}', "rules: [{id: a}]"])
def test_where_there_is_no_place_for_a_rule_that_is_said(text: str) -> None:
    with pytest.raises(rules_file.NoPlace, match="by hand"):
        rules_file.put(text, NIGHT)


@pytest.mark.parametrize(
    ("expression", "message", "expected"),
    [
        ("amuont > 2", "The expression, line 1, column 1: this name is not declared.", "amuont > 2\n^"),
        ("a &&\nb", "line 2, column 1: no", "b\n^"),
        ("a", "line 9, column 1: no", None),
        ("a", "no place", None),
        ("a", "line 1, column 99999: far", "a\n ^"),
    ],
)
def test_the_place_of_a_mistake_is_marked(expression: str, message: str, expected: str | None) -> None:
    assert rules_file.caret(expression, message) == expected
