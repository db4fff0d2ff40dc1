"""Lists, snoozes and dates in a rules file: what is refused, who is met and until when, and who decides in the end."""

import json
import time
import timeit
from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraud_api_lambda.errors import RuleFailed, RulesError
from fraud_api_lambda.features import FeatureSet
from fraud_api_lambda.reload import ModelSource
from fraud_api_lambda.rules import GRAVITY, MAX_ENTRIES, Listed, Rule, RuleSet, decide, load_rules
from fraud_api_lambda.schemas import DECISION, Event, RateTable, Thresholds, parse_rfc3339, parse_transaction, to_event
from fraud_api_lambda.scoring import FraudScorer
from fraud_api_lambda.settings import Outcome
from tests.fraud_api_lambda.making import TRUSTED, publish_small

FAR = 2**52
NOON = "2026-02-06T12:00:00Z"
BEFORE, AFTER = "2026-02-06T11:59:59.999Z", "2026-02-06T12:00:00.001Z"


def event(**data: Any) -> Event:
    return to_event(parse_transaction({"timestamp": NOON, "amount": 100, **data}), RateTable("USD", 2), FAR)


def load(**members: Any) -> RuleSet:
    return load_rules(json.dumps({"rules": [], **members}).encode())


def ruled(*rules: Mapping[str, Any], **members: Any) -> RuleSet:
    made = [{"id": f"r{i}", "expression": "true", "outcome": "review", **rule} for i, rule in enumerate(rules)]
    return load(rules=made, **members)


def fired(rules: RuleSet, **data: Any) -> list[str]:
    one = event(**data)
    return [rule.id for rule in rules.fired(one, FeatureSet().compute(one))]


def entry(entity: str = "customer", party: object = "C1", **more: Any) -> dict[str, Any]:
    return {"entity": entity, "id": party, **more}


def listed(rules: RuleSet, **data: Any) -> tuple[str, str] | None:
    found = rules.listed(event(**data))
    return (found.list, found.entity) if found else None


# --- dates of rules --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dates", "moments"),
    [
        ({}, (True, True, True)),
        ({"from": NOON}, (False, True, True)),
        ({"until": NOON}, (True, False, False)),
        ({"from": BEFORE, "until": AFTER}, (True, True, False)),
        ({"from": AFTER}, (False, False, True)),
        ({"from": None, "until": None}, (True, True, True)),
    ],
)
def test_a_rule_is_in_force_from_its_first_moment_to_before_its_last(
    dates: dict[str, Any], moments: tuple[bool, ...]
) -> None:
    rules = ruled(dates)
    assert tuple(fired(rules, timestamp=moment) == ["r0"] for moment in (BEFORE, NOON, AFTER)) == moments


@pytest.mark.parametrize(
    "written",
    [
        *("2026-02-06T12:00:00Z", "2026-02-06T12:00:00", "2026-02-06 12:00:00z"),
        *("2026-02-06T13:00:00+01:00", "2026-02-06T07:00:00.000-05:00"),
    ],
)
def test_one_moment_may_be_written_in_many_ways(written: str) -> None:
    rules = load_rules(f"rules:\n  - {{id: a, expression: 'true', outcome: review, from: {written!r}}}\n".encode())
    assert rules.rules[0].from_ms == parse_rfc3339(NOON)
    bare = load_rules(f"rules:\n  - id: a\n    expression: 'true'\n    outcome: review\n    from: {written}\n".encode())
    assert bare.rules == rules.rules


@pytest.mark.parametrize(
    "written",
    [
        *("2026-02-06", "tomorrow", "", 5, True, [NOON], "2026-02-30T00:00:00Z", "1969-12-31T23:59:59Z"),
        *("2026-02-06T25:00:00Z", "9999-12-31T23:59:59-14:00"),
    ],
)
@pytest.mark.parametrize("member", ["from", "until"])
def test_a_date_that_is_none_is_refused_with_rule_and_example(member: str, written: object) -> None:
    with pytest.raises(RulesError, match=rf"^Rule 'r0': '{member}' must be RFC 3339.*2026-03-01T00:00:00Z") as caught:
        ruled({member: written})
    assert caught.value.rule == "r0"


@pytest.mark.parametrize("until", [NOON, BEFORE])
def test_a_rule_that_is_never_in_force_is_refused(until: str) -> None:
    with pytest.raises(RulesError, match="'r0' is never in force"):
        ruled({"from": NOON, "until": until})


def test_dates_are_compared_with_the_event_and_not_with_the_clock(tmp_path: Path) -> None:
    rules = {"version": "dated", "rules": [{"id": "then", "expression": "true", "outcome": "decline", "until": NOON}]}
    url = publish_small(tmp_path, "v1", files={"rules.yaml": json.dumps(rules).encode()})
    source = ModelSource(url, lambda: TRUSTED)
    source.refresh()
    for clock in ("2026-02-07T00:00:00Z", "2036-02-07T00:00:00Z"):
        now = parse_rfc3339(clock)
        assert now is not None
        scorer = FraudScorer(source, clock=lambda now=now: now)  # type: ignore[misc]
        late = scorer.score(parse_transaction({"amount": 1, "timestamp": BEFORE}))
        assert (late.outcome, late.rules) == ("decline", ("then",))
        assert scorer.score(parse_transaction({"amount": 1, "timestamp": NOON})).rules == ()
        assert scorer.score(parse_transaction({"amount": 1})).rules == ()


# --- lists -----------------------------------------------------------------------------------------------------------


def test_each_party_is_met_in_its_own_role_only() -> None:
    rules = load(lists={"deny": [entry("customer", "A"), entry("counterparty", "B"), entry("device", "C")]})
    assert listed(rules, customer_id="A") == ("deny", "customer")
    assert listed(rules, counterparty_id="B") == ("deny", "counterparty")
    assert listed(rules, merchant_id="B") == ("deny", "counterparty")
    assert listed(rules, device_id="C") == ("deny", "device")
    assert listed(rules, customer_id="B", counterparty_id="C", device_id="A") is None
    assert listed(rules) is None


def test_the_deny_list_is_asked_before_the_allow_list_whoever_is_on_it() -> None:
    rules = load(lists={"allow": [entry("customer", "A")], "deny": [entry("device", "D")]})
    assert listed(rules, customer_id="A", device_id="D") == ("deny", "device")
    assert listed(rules, customer_id="A") == ("allow", "customer")
    both = load(lists={"allow": [entry("customer", "A")], "deny": [entry("customer", "A")]})
    assert listed(both, customer_id="A") == ("deny", "customer")


def test_an_entry_holds_until_its_last_moment_and_then_the_next_one_speaks() -> None:
    deny = [entry("customer", "A", until=NOON), entry("counterparty", "B")]
    rules = load(lists={"deny": deny, "allow": [entry("device", "D", until=AFTER)]})
    who = {"customer_id": "A", "device_id": "D"}
    assert listed(rules, timestamp=BEFORE, **who) == ("deny", "customer")
    assert listed(rules, timestamp=NOON, **who) == ("allow", "device")
    assert listed(rules, timestamp=AFTER, **who) is None
    assert listed(rules, timestamp=NOON, counterparty_id="B", **who) == ("deny", "counterparty")


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        *(("0123", "0123"), ("123", "123"), ("-5", "-5"), ("1.50", "1.50"), ("'true'", "true"), ("yes", "yes")),
        *(('"12"', "12"), ("a b", "a b"), ("Ä€", "Ä€")),
    ],
)
def test_an_id_is_the_text_that_is_sent(written: str, sent: str) -> None:
    rules = load_rules(f"rules: []\nlists:\n  deny:\n    - {{entity: customer, id: {written}}}\n".encode())
    assert listed(rules, customer_id=sent) == ("deny", "customer")
    assert listed(rules, customer_id=sent + " ") is None


def test_many_ids_share_one_entry() -> None:
    rules = load(lists={"deny": [{"entity": "device", "ids": ["D1", 2, "D3"], "until": NOON, "reason": "Stolen."}]})
    assert rules.listed(event(device_id="2", timestamp=BEFORE)) == Listed("deny", "device", "Stolen.")
    assert listed(rules, device_id="D3") is None
    assert rules.lists.sizes == {"deny": 3, "allow": 0, "snooze": 0}


@pytest.mark.parametrize(
    ("item", "told"),
    [
        ("C1", "Entry 2 of the deny list is not a mapping with the members entity, id, ids, reason, until."),
        (entry("merchant"), "Entry 2 of the deny list needs an 'entity': customer, counterparty, device."),
        (entry(["customer"]), "needs an 'entity'"),  # type: ignore[arg-type]
        ({"id": "C1"}, "needs an 'entity'"),
        (entry(untl=NOON), "Entry 2 of the deny list has the unknown member 'untl'. Choices are: entity, id, ids"),
        (entry(until="soon"), "Entry 2 of the deny list: 'until' must be RFC 3339"),
        (entry(until=["x"]), "'until' must be RFC 3339"),
        (entry(reason=5), "'reason' is text of up to 300 characters."),
        (entry(reason=None), "'reason' is text"),
        (entry(reason="x" * 301), "'reason' is text"),
        (entry(reason="\ud800"), "'reason' is text"),
        ({"entity": "customer"}, "needs either 'id' or 'ids'"),
        (entry(ids=["C2"]), "needs either 'id' or 'ids'"),
        ({"entity": "customer", "ids": "C2"}, "'ids' is a list."),
        ({"entity": "customer", "ids": {"C2": 1}}, "'ids' is a list."),
        (entry(party=True), "an id is text of 1 to 64 characters."),
        (entry(party=None), "an id is text"),
        (entry(party=""), "an id is text"),
        (entry(party="x" * 65), "an id is text"),
        (entry(party=["C2"]), "an id is text"),
        ({"entity": "customer", "ids": ["C3", "C3"]}, "Entry 2 of the deny list holds an id that stands there already"),
        (entry(party="C0"), "stands there already"),
        (entry(party="C0", until=NOON), "stands there already"),
    ],
)
def test_a_wrong_entry_is_refused_by_its_number_and_never_shows_an_id(item: object, told: str) -> None:
    with pytest.raises(RulesError) as caught:
        load(lists={"deny": [entry(party="C0"), item]})
    assert told in str(caught.value)
    assert "C0" not in str(caught.value)


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ({"lists": []}, "'lists' has the members 'allow' and 'deny'"),
        ({"lists": {"dney": []}}, "'lists' has the unknown member 'dney'. Choices are: allow, deny."),
        ({"lists": {"deny": {"C1": 1}}}, "the deny list is a list of entries."),
        ({"snooze": {}}, "'snooze' is a list of entries."),
        (
            {"snoozes": []},
            "The rules file has the unknown member 'snoozes'. Choices are: lists, rules, snooze, version.",
        ),
        ({"version": ["x"]}, "'version' is text"),
        ({"version": True}, "'version' is text"),
        ({"version": "x" * 65}, "'version' is text"),
        ({"version": "\ud800"}, "'version' is text"),
    ],
)
def test_a_wrong_member_of_the_file_is_refused_with_the_choices(members: dict[str, Any], told: str) -> None:
    with pytest.raises(RulesError) as caught:
        load(**members)
    assert told in str(caught.value)


def test_empty_lists_are_as_good_as_none() -> None:
    rules = load_rules(b"rules: []\nlists:\n  deny:\n  allow: []\nsnooze:\n")
    assert rules.lists.sizes == {"deny": 0, "allow": 0, "snooze": 0}
    assert rules.silent
    assert not load(lists={"allow": [entry()]}).silent
    assert not ruled({}).silent
    assert ruled({"enabled": False}).silent


def test_more_ids_than_a_file_may_hold_are_refused_wherever_they_stand() -> None:
    half = [f"C{i}" for i in range(MAX_ENTRIES // 2)]
    full = {"deny": [{"entity": "customer", "ids": half}], "allow": [{"entity": "device", "ids": half}]}
    assert load(lists=full).lists.sizes["deny"] == MAX_ENTRIES // 2
    with pytest.raises(RulesError, match="at most 200,000 ids"):
        ruled({}, lists=full, snooze=[entry(rule="r0", until=NOON)])


def test_a_hundred_thousand_entries_load_in_two_seconds_and_cost_a_decision_microseconds() -> None:
    lines = "".join(f"    - {{entity: customer, id: C{i}, until: {NOON}}}\n" for i in range(100_000))
    text = f"rules: []\nlists:\n  deny:\n{lines}".encode()
    began = time.process_time()  # of this process alone: the machine may be busy
    many = load_rules(text)
    assert time.process_time() - began < 4  # about 1.5 on a quiet core
    few = load(lists={"deny": [entry()]})
    missed = event(customer_id="X", counterparty_id="Y", device_id="Z")

    def best(rules: RuleSet) -> float:
        return min(timeit.repeat(lambda: rules.listed(missed), number=2_000, repeat=9)) / 2_000

    assert best(many) < 20e-6
    assert best(many) < 5 * best(few) + 2e-6
    assert listed(many, customer_id="C99999", timestamp=BEFORE) == ("deny", "customer")


# --- snoozes ---------------------------------------------------------------------------------------------------------


def snooze(rule: object = "r0", **more: Any) -> dict[str, Any]:
    return {**entry(), "rule": rule, "until": AFTER, **more}


def test_a_snoozed_rule_sleeps_for_that_party_until_then_and_the_others_fire() -> None:
    rules = ruled({}, {}, snooze=[snooze(), snooze(entity="device", id="D1", until=NOON)])
    assert fired(rules, customer_id="C1", timestamp=NOON) == ["r1"]
    assert fired(rules, customer_id="C1", timestamp=AFTER) == ["r0", "r1"]
    assert fired(rules, customer_id="C2", device_id="D1", timestamp=BEFORE) == ["r1"]
    assert fired(rules, customer_id="C2", device_id="D1", timestamp=NOON) == ["r0", "r1"]
    assert fired(rules, counterparty_id="C1") == ["r0", "r1"]
    assert fired(rules) == ["r0", "r1"]
    assert rules.lists.sizes["snooze"] == 2


def test_a_party_may_be_snoozed_for_several_rules_but_once_for_each() -> None:
    rules = ruled({}, {}, {}, snooze=[snooze("r0"), snooze("r2")])
    assert fired(rules, customer_id="C1") == ["r1"]
    with pytest.raises(RulesError, match="Entry 2 of 'snooze' holds an id that stands there already"):
        ruled({}, snooze=[snooze(), snooze(until=NOON)])


def test_a_snoozed_rule_that_cannot_be_evaluated_is_nobodys_trouble() -> None:
    rules = ruled({"expression": "double(customer_id) > 5.0"}, {}, snooze=[snooze()])
    assert fired(rules, customer_id="C1") == ["r1"]
    with pytest.raises(RuleFailed):
        fired(rules, customer_id="C2")


@pytest.mark.parametrize(
    ("item", "told"),
    [
        (snooze("r9"), "Entry 1 of 'snooze' needs a 'rule' of this file. Did you mean r1? Choices are: r0, r1."),
        (snooze(None), "needs a 'rule' of this file"),
        (snooze(["r0"]), "needs a 'rule' of this file"),
        (snooze(until=None), "Entry 1 of 'snooze' needs an 'until': a snooze ends."),
        (snooze(until="later"), "Entry 1 of 'snooze': 'until' must be RFC 3339"),
        (snooze(outcome="approve"), "Choices are: entity, id, ids, reason, rule, until."),
        (snooze(entity="rule"), "needs an 'entity'"),
    ],
)
def test_a_wrong_snooze_is_refused_with_the_choices(item: object, told: str) -> None:
    with pytest.raises(RulesError) as caught:
        ruled({}, {}, snooze=[item])
    assert told in str(caught.value) or told.replace("r1?", "r0?") in str(caught.value)


def test_a_snooze_in_a_file_without_rules_says_that_there_are_none() -> None:
    with pytest.raises(RulesError, match=r"Choices are: none\."):
        load(snooze=[snooze()])


# --- who decides -----------------------------------------------------------------------------------------------------

THRESHOLDS = Thresholds(review=0.2, decline=0.6)
OUTCOMES: tuple[Outcome, ...] = ("approve", "review", "decline")
RULE_SETS = list(product((False, True), repeat=3))


def expected(
    on_deny: bool, on_allow: bool, by_rules: list[Outcome], by_model: Outcome | None, without: Outcome
) -> tuple[Outcome, str]:
    """Precedence, written down once more and otherwise: deny list, allow list, rules, model."""
    if on_deny:
        return "decline", "list"
    if on_allow:
        return "approve", "list"
    if by_model is None:
        return (max(by_rules, key=OUTCOMES.index), "rule") if by_rules else (without, "fallback")
    if "decline" in by_rules:
        return "decline", "rule"
    if "review" in by_rules:
        return ("decline", "model") if by_model == "decline" else ("review", "rule")
    if by_rules:
        return "approve", "rule"
    return by_model, "model"


def policy_file() -> dict[str, Any]:
    """Whoever's name holds the word meets the list or the rule of that word."""
    rules = [
        {"id": word, "expression": f"customer_id.contains('{word[0].upper()}')", "outcome": word} for word in OUTCOMES
    ]
    return {"version": "table", "rules": rules, "lists": {
        "deny": [{"entity": "counterparty", "id": "bad", "reason": "Seen before."}],
        "allow": [{"entity": "device", "id": "good"}],
    }}  # fmt: skip


@pytest.fixture(scope="module")
def table_scorers(tmp_path_factory: pytest.TempPathFactory) -> Mapping[tuple[bool, Outcome], FraudScorer]:
    """With the small bundle and without any, for each outcome of ``without_model``; all with the same rules file."""
    root = tmp_path_factory.mktemp("table")
    (root / "rules.yaml").write_text(json.dumps(policy_file()))
    url = publish_small(root, "v1")
    made: dict[tuple[bool, Outcome], FraudScorer] = {}
    for with_model in (True, False):
        address = url if with_model else f"file://{root}/nothing/current"
        source = ModelSource(address, lambda: TRUSTED, rules_url=f"file://{root}/rules.yaml")
        source.refresh()
        assert (source.served is not None) == with_model
        for without in OUTCOMES:
            made[with_model, without] = FraudScorer(source, without_model=without)
    return made


@pytest.mark.parametrize("by_model", [None, *OUTCOMES])
@pytest.mark.parametrize(("on_deny", "on_allow"), list(product((False, True), repeat=2)))
def test_precedence_is_deny_list_allow_list_rules_model(
    table_scorers: Mapping[tuple[bool, Outcome], FraudScorer], on_deny: bool, on_allow: bool, by_model: Outcome | None
) -> None:
    for present, without in product(RULE_SETS, OUTCOMES):
        by_rules = [word for word, here in zip(OUTCOMES, present, strict=True) if here]
        scorer = table_scorers[by_model is not None, without]
        sent: dict[str, Any] = {"amount": 100, "customer_id": "c" + "".join(word[0].upper() for word in by_rules)}
        if on_deny:
            sent["counterparty_id"] = "bad"
        if on_allow:
            sent["device_id"] = "good"
        if by_model == "decline":
            sent["oldbalanceOrg"] = 100  # the small bundle's one question
        if by_model == "review":
            served = scorer.source.served
            assert served is not None
            moved = replace(served, model=_with_thresholds(served.model, Thresholds(0.01, 0.9)))
            scorer = FraudScorer(_Fixed(moved), without_model=without)
        decision = scorer.score(parse_transaction(sent))
        outcome, who = expected(on_deny, on_allow, by_rules, by_model, without)
        assert (decision.outcome, decision.decided_by) == (outcome, who)
        assert decision.is_fraud == (outcome != "approve")
        assert decision.prediction == ("LEGIT" if outcome == "approve" else "FRAUD")
        first = ["list:deny"] if on_deny else ["list:allow"] if on_allow else []
        assert list(decision.rules) == [*first, *by_rules]
        assert (decision.fraud_probability is None) == (by_model is None)  # the score is always computed
        assert (decision.confidence is not None) == (who == "model")
        assert decision.rules_version.startswith("table+")
        assert "rules" not in decision.degraded
        DECISION.dump_json(decision)
        if on_deny:
            assert decision.explanation == "Declined: the counterparty is on the deny list: Seen before."
        elif on_allow:
            assert decision.explanation == "Approved: the device is on the allow list."


def _with_thresholds(model: Any, thresholds: Thresholds) -> Any:
    import copy

    moved = copy.copy(model)
    moved.thresholds = thresholds
    return moved


class _Fixed(ModelSource):
    """A source that serves just this."""

    def __init__(self, served: Any):
        super().__init__("file://models/current", dict)
        self.served = served


@given(
    st.floats(0, 1) | st.none(),
    st.lists(st.sampled_from(OUTCOMES), max_size=4),
    st.sampled_from(OUTCOMES),
    st.sampled_from([None, "deny", "allow"]),
)
def test_a_list_has_the_last_word_and_nothing_else_changes(
    probability: float | None, outcomes: list[Outcome], without: Outcome, name: Any
) -> None:
    rules = [Rule(f"r{i}", "true", outcome, "", True, None) for i, outcome in enumerate(outcomes)]
    on_list = Listed(name, "customer", "") if name else None
    verdict = decide(probability, rules, THRESHOLDS, without, on_list)
    if on_list is None:
        assert verdict == decide(probability, rules, THRESHOLDS, without)
        assert verdict.decided_by != "list"
    else:
        assert (verdict.outcome, verdict.decided_by) == ({"deny": "decline", "allow": "approve"}[name], "list")
    assert verdict.outcome in GRAVITY


# --- other columns ---------------------------------------------------------------------------------------------------


def test_rules_for_other_columns_are_the_same_rules_compiled_anew() -> None:
    rules = ruled({"expression": "amount > 50", "until": AFTER}, lists={"deny": [entry()]}, version="v")
    columns = (*rules.columns, "attributes.x")
    other = rules.for_columns(columns)
    assert (other.version, other.rules, other.lists, other.columns) == (
        rules.version,
        rules.rules,
        rules.lists,
        columns,
    )
    one = event()
    assert [rule.id for rule in other.fired(one, np.append(FeatureSet().compute(one), 1.0))] == ["r0"]
    with pytest.raises(RulesError, match="'r0', line 1, column 1: undeclared reference to 'amount'"):
        rules.for_columns(("hour_of_day",))


def test_a_stand_in_says_so_and_decides_the_same() -> None:
    rules = ruled({}, lists={"deny": [entry()]}, version="v")
    stand_in = rules.standing_in()
    assert (rules.stand_in, stand_in.stand_in) == (False, True)
    assert fired(stand_in) == fired(rules)
    assert stand_in.listed(event(customer_id="C1")) == rules.listed(event(customer_id="C1"))
    assert stand_in.version == rules.version
