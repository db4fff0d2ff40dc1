"""Rules: what is refused at loading and where, what fires on what, and the decision policy as a whole table."""

import json
import math
from collections.abc import Mapping
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from fraud_api_lambda.errors import RuleFailed, RulesError
from fraud_api_lambda.features import NAMES, Attribute, FeatureSet, describe
from fraud_api_lambda.rules import (
    GRAVITY,
    MAX_RULES,
    Rule,
    RuleSet,
    compile_expression,
    decide,
    default_rules,
    load_rules,
    model_outcome,
)
from fraud_api_lambda.schemas import RateTable, Thresholds, parse_transaction, to_event
from fraud_api_lambda.settings import Outcome

FAR = 2**52
NOON, NIGHT = "2026-02-06T12:00:00Z", "2026-02-06T02:30:00Z"


def rule(expression: str, outcome: object = "review", rule_id: object = "mine", **more: object) -> dict[str, object]:
    return {"id": rule_id, "expression": expression, "outcome": outcome, **more}


def load(*rules: object, columns: tuple[str, ...] = (), **more: object) -> RuleSet:
    return load_rules(yaml.safe_dump({"rules": list(rules), **more}).encode(), columns)


def fired(rules: RuleSet, data: Mapping[str, Any], attributes: tuple[Attribute, ...] = ()) -> list[str]:
    """Ids of the rules that fire on a transaction as it is sent, nothing filled in."""
    event = to_event(parse_transaction({"timestamp": NOON, **data}), RateTable("USD", 2), FAR)
    return [one.id for one in rules.fired(event, FeatureSet(attributes=attributes).compute(event))]


def is_true(expression: str, **data: Any) -> bool:
    return bool(fired(load(rule(expression)), {"amount": 100, **data}))


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "line", "column", "told"),
    [
        ("amuont > 5.0", 1, 1, "undeclared reference to 'amuont'"),
        ("amount > 2000 && nosuch > 1", 1, 18, "undeclared reference to 'nosuch'"),
        ("amount > 2000 &&\n  nosuch", 2, 3, "undeclared reference to 'nosuch'"),
        ("lat > 1", 1, 1, "undeclared reference to 'lat'"),
        ("amount > 'x'", 1, 8, "no matching overload for '_>_' applied to '(double, string)'"),
        ("is_night > 0", 1, 10, "no matching overload"),
        ("amount > 5 && customer_id > 5.0", 1, 27, "applied to '(string, double)'"),
        ("transaction_type == 5", 1, 18, "no matching overload"),
        ("amount >", 1, 9, "Syntax error"),
        ("amount > 5 &&\n\n  && true", 3, 3, "Syntax error"),
        ("amount = 5.0", 1, 8, "Syntax error"),
        ("nosuch(amount)", 1, 7, "undeclared reference to 'nosuch'"),
    ],
)
def test_an_expression_that_does_not_compile_is_refused_with_rule_line_and_column(
    expression: str, line: int, column: int, told: str
) -> None:
    with pytest.raises(RulesError) as caught:
        load(rule("amount > 1", rule_id="fine"), rule(expression, rule_id="broken"))
    error = caught.value
    assert (error.rule, error.line, error.column) == ("broken", line, column)
    assert str(error).startswith(f"Rule 'broken', line {line}, column {column}: ")
    assert told in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("expression", "kind"),
    [("amount", "DOUBLE"), ("customer_id", "STRING"), ("1 + 1", "INT"), ("attributes.x", "DYN")],
)
def test_an_expression_that_is_not_boolean_is_refused_with_what_it_is(expression: str, kind: str) -> None:
    with pytest.raises(RulesError, match=rf"^Rule 'mine' must be true or false, and it is {kind}\.$") as caught:
        load(rule(expression))
    assert caught.value.rule == "mine"


def test_whole_numbers_that_cannot_all_be_doubles_are_told_with_the_mend() -> None:
    with pytest.raises(RulesError, match=r"column 8: .*; write the number as a double, such as 2000\.0$"):
        load(rule("amount > 2000 && size(customer_id) > 3"))
    assert is_true("amount > 50.0 && size(customer_id) > 3", customer_id="C1234")


@pytest.mark.parametrize(
    ("item", "told"),
    [
        (
            "text",
            "Rule number 1 is not a mapping with the members enabled, expression, from, id, outcome, reason, until.",
        ),
        (rule("true", rule_id=None), "Rule number 1 needs an 'id'"),
        (rule("true", rule_id=5), "Rule number 1 needs an 'id'"),
        (rule("true", rule_id="no spaces"), "Rule number 1 needs an 'id'"),
        (rule("true", rule_id="x" * 65), "Rule number 1 needs an 'id'"),
        (rule("true", "refuse"), "Rule 'mine' needs an outcome: approve, review, decline."),
        (rule("true", None), "Rule 'mine' needs an outcome"),
        (rule("true", ["review"]), "Rule 'mine' needs an outcome"),
        (rule("true", {"review": 1}), "Rule 'mine' needs an outcome"),
        (
            rule("true", outcmoe="review"),
            "unknown member 'outcmoe'. Choices are: enabled, expression, from, id, outcome",
        ),
        (rule("true", reason=5), "Rule 'mine': 'reason' is text, 'enabled' is true or false."),
        (rule("true", reason="x" * 301), "'reason' is text"),
        (rule("true", enabled="yes"), "'enabled' is true or false"),
        (rule(""), "Rule 'mine' needs an 'expression' of up to 2000 characters."),
        (rule("true || " * 300 + "true"), "Rule 'mine' needs an 'expression'"),
        ({"id": "mine", "outcome": "review", "expression": True}, "Rule 'mine' needs an 'expression'"),
    ],
)
def test_a_malformed_rule_is_refused_by_number_or_id_with_the_choices(item: object, told: str) -> None:
    with pytest.raises(RulesError) as caught:
        load(item)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"null", b"[]", b"rules", b"rules: 5", b"rules: {a: 1}", b"rules: []\nmore: 1", b"\xff\xfe\x00"),
        *(b"rules: [", b"rules: [\x07]", b"rules: !!python/object/apply:os.getpid []", b"? [a]\n: 1"),
        *(b"rules: " + b"[" * 5_000, b"a: &a [*a]\nrules: *b"),
    ],
)
def test_a_file_that_is_no_rules_file_is_refused(text: bytes) -> None:
    with pytest.raises(RulesError):
        load_rules(text)


def test_yaml_that_does_not_parse_is_told_with_its_line() -> None:
    with pytest.raises(RulesError) as caught:
        load_rules(b"version: 1\nrules:\n  - id: [\n")
    assert caught.value.line is not None
    assert caught.value.line >= 3


def test_two_rules_of_one_id_are_refused() -> None:
    with pytest.raises(RulesError, match="Rule 'mine' is there twice"):
        load(rule("true"), rule("false"))


def test_more_rules_than_are_evaluated_in_time_are_refused() -> None:
    with pytest.raises(RulesError, match="at most 200 rules"):
        load(*(rule("true", rule_id=f"r{i}") for i in range(MAX_RULES + 1)))


def test_one_broken_rule_refuses_the_whole_file_even_if_it_is_not_enabled() -> None:
    with pytest.raises(RulesError):
        load(rule("amount > 1"), rule("nosuch", rule_id="off", enabled=False))


# --- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "expression",
    [
        *(
            "amount > 99",
            "99 < amount",
            "amount >= 100",
            "amount == 100",
            "amount != 101",
            "amount > -5",
            "amount > 1e1",
        ),
        *("amount*2 > 199", "amount in [100, 200]", "amount in [1, 2, 100.0]", "(amount - 1) / 3 == 33"),
        *("amount > (is_night ? 1000 : 50)", "hour_of_day == 12 && amount > 5", "amount > 50 ? true : false"),
        *("int(amount) == 100", "double(hour_of_day) == 12", "amount > 99999999999999999999 || amount > 1"),
        "amount > 1 // 5 isn't an 'amount\n && amount < 1000",
    ],
)
def test_whole_numbers_may_stand_where_doubles_are_meant(expression: str) -> None:
    assert is_true(expression)


QUOTES = ['"{}"', "'{}'", '"""{}"""', "'''{}'''"]


@pytest.mark.parametrize("quotes", QUOTES)
@pytest.mark.parametrize("text", ["5", "C 5 x", "// 7", "a 1 b 2", "", "5 // it", "1.5 and 7"])
def test_a_number_inside_a_string_is_left_alone(quotes: str, text: str) -> None:
    literal = quotes.format(text)
    sent = {"attributes": {"x": text}}
    assert is_true(f"amount > 5 && attributes.x == {literal} && amount > 6", **sent)
    assert is_true(f"amount > 5 && attributes.x == r{literal} && amount > 6", **sent)


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        (r"""amount > 5 && attributes.x == "a \" 5 " """, 'a " 5 '),
        (r"""amount > 5 && attributes.x == 'a \' 5 ' """, "a ' 5 "),
        (r"""amount > 5 && attributes.x.matches(r"^\d 5 \.$")""", "1 5 ."),
        (r"""amount > 5 && attributes.x.matches(r'^\d 5 "$')""", '1 5 "'),
        ("""amount > 5 && attributes.x == '''it's 5''' """, "it's 5"),
        ('''amount > 5 && attributes.x == """say "5" """ ''', 'say "5" '),
        ("amount > 5 // it's less\n && attributes.x == 'a 5'", "a 5"),
        ("attributes.x.matches('^C[0-9]{3}$') && amount > 5", "C123"),
    ],
)
def test_strings_of_every_form_are_left_alone(expression: str, text: str) -> None:
    assert is_true(expression, attributes={"x": text})


@settings(max_examples=150)
@given(st.text(st.sampled_from("0159 .'\"\\/ab\n"), max_size=14))
def test_any_text_in_a_string_is_left_alone(text: str) -> None:
    literal = json.dumps(text)
    assert is_true(f"amount > 5 && attributes.x == {literal} && amount > 6", attributes={"x": text})


# --- what fires ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "data", "fires"),
    [
        ("is_night", {"timestamp": NIGHT}, True),
        ("is_night", {"timestamp": NOON}, False),
        ("!is_night && day_of_week == 4", {}, True),
        ("transaction_type == 'TRANSFER'", {"type": "TRANSFER"}, True),
        ("transaction_type == ''", {}, True),
        ("transaction_type in ['TRANSFER', 'CASH_OUT']", {"type": "PAYMENT"}, False),
        ("is_transfer", {"type": "TRANSFER"}, True),
        ("customer_id.startsWith('C')", {"customer_id": "C1"}, True),
        ("customer_id == ''", {}, True),
        ("counterparty_id == 'M' && device_id == 'D'", {"merchant_id": "M", "device_id": "D"}, True),
        ("currency == 'USD'", {}, True),
        ("drains_account", {"oldbalanceOrg": 100}, True),
        ("amount_to_balance > 0.5", {"oldbalanceOrg": 100}, True),
        ("latitude > 40 && longitude < -70", {"lat": 40.7, "long": -74}, True),
        ("'amount' == 'amount'", {}, True),
    ],
)
def test_a_rule_sees_the_transaction_and_its_features(expression: str, data: dict[str, Any], fires: bool) -> None:
    assert is_true(expression, **data) is fires


@pytest.mark.parametrize("name", [n for n in NAMES if n not in {"amount", "hour_of_day", "day_of_week", "is_night"}])
def test_a_missing_number_never_fires_a_comparison(name: str) -> None:
    rules = load(
        *(rule(f"{name} {op} 0", rule_id=f"r{i}") for i, op in enumerate([">", "<", ">=", "<=", "=="]))
        if describe(name).kind != "flag"
        else (rule(name),)
    )
    assert fired(rules, {"amount": 5}) == []


def test_an_attribute_that_was_not_sent_is_absent_and_no_error() -> None:
    for expression in ("attributes.score > 5", "attributes['score'] == 6", "attributes.channel == 'web'"):
        assert not is_true(expression)
    assert is_true("!('score' in attributes)")
    assert is_true("!has(attributes.score) || attributes.score > 5")
    assert is_true("attributes.score > 5 || amount > 1")


@pytest.mark.parametrize(
    ("expression", "value", "fires"),
    [
        ("attributes.x > 5", 6, True),
        ("attributes.x > 5", 5, False),
        ("attributes.x == 5", 5.0, True),
        ("attributes.x > 5", "text", False),
        ("attributes.x == 'web'", "web", True),
        ("attributes.x == 'web'", 5, False),
        ("attributes.x > 5 && amount > 50", 6, True),
        ("has(attributes.x)", 0, True),
    ],
)
def test_attributes_are_numbers_or_text_as_they_were_sent(expression: str, value: object, fires: bool) -> None:
    assert is_true(expression, attributes={"x": value}) is fires


def test_card_columns_are_attributes_to_a_rule() -> None:
    assert is_true("attributes.V1 < -1", V1=-1.36)


def test_a_bundles_own_columns_may_be_loaded_with() -> None:
    declared = (Attribute("age", "number"), Attribute("channel", "text", ("web",)))
    columns = FeatureSet(attributes=declared).columns
    rules = load(rule("attributes.age > 60 && attributes.channel == 'web' && amount > 5"), columns=columns)
    assert rules.columns == columns
    sent = {"amount": 9, "attributes": {"age": 61, "channel": "web"}}
    assert fired(rules, sent, declared) == ["mine"]


def test_rules_that_are_not_enabled_never_fire_and_the_rest_fire_in_file_order() -> None:
    rules = load(
        rule("amount > 1", "approve", "b"),
        rule("amount > 1", "decline", "off", enabled=False),
        rule("amount > 1000", "decline", "not"),
        rule("amount > 1", "review", "a"),
    )
    assert fired(rules, {"amount": 5}) == ["b", "a"]
    assert [one.id for one in rules.rules] == ["b", "off", "not", "a"]


def test_a_file_without_rules_fires_nothing() -> None:
    assert fired(load(), {"amount": 5}) == []


@pytest.mark.parametrize(
    "broken", ["10 / int(hour_of_day - 12.0) > 1", "double(customer_id) > 5.0", "int(latitude) > 5"]
)
def test_a_rule_that_cannot_be_evaluated_does_not_silence_the_others(broken: str) -> None:
    rules = load(
        rule("amount > 1", rule_id="before"), rule(broken, rule_id="broken"), rule("amount > 1", rule_id="after")
    )
    with pytest.raises(RuleFailed) as caught:
        fired(rules, {"amount": 5, "customer_id": "C1"})
    assert [one.id for one in caught.value.fired] == ["before", "after"]
    assert caught.value.rule == "broken"
    assert str(caught.value) == "Rule 'broken' cannot be evaluated."


def test_a_rule_has_a_reason_even_where_none_was_written() -> None:
    rules = load(rule("true", rule_id="a"), rule("true", rule_id="b", reason="Because."))
    assert [one.reason for one in rules.rules] == ["Rule a.", "Because."]


def test_the_version_names_the_file_and_changes_with_its_bytes() -> None:
    one, two = load(rule("true"), version="2026-02"), load(rule("false"), version="2026-02")
    assert one.version.startswith("2026-02+")
    assert two.version.startswith("2026-02+")
    assert one.version != two.version
    assert load(rule("true"), version="2026-02").version == one.version
    assert "+" not in load(rule("true")).version


def test_a_single_expression_is_checked_by_the_same_rules() -> None:
    assert compile_expression("amount > 5", NAMES)
    with pytest.raises(RulesError, match=r"^The expression, line 1, column 1: undeclared"):
        compile_expression("nosuch", NAMES)
    with pytest.raises(RulesError, match=r"^The expression must be true or false"):
        compile_expression("amount", NAMES)


# --- the image's own rules -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "ids"),
    [
        ({"amount": 4500, "timestamp": NIGHT}, ["night_large_amount"]),
        ({"amount": 2000, "timestamp": NIGHT}, []),
        ({"amount": 4500, "timestamp": NOON}, []),
        ({"amount": 5500, "timestamp": NOON}, ["very_large_amount"]),
        ({"amount": 5000, "timestamp": NOON}, []),
        ({"amount": 181, "oldbalanceOrg": 181, "type": "TRANSFER"}, ["drains_account"]),
        ({"amount": 181, "oldbalanceOrg": 181, "type": "CASH_OUT"}, ["drains_account"]),
        ({"amount": 181, "oldbalanceOrg": 181, "type": "PAYMENT"}, []),
        ({"amount": 181, "oldbalanceOrg": 181}, []),
        ({"amount": 181, "type": "TRANSFER"}, []),
        ({"amount": 182, "oldbalanceOrg": 181, "type": "TRANSFER"}, ["beyond_balance"]),
        ({"amount": 0, "oldbalanceOrg": 0, "type": "CASH_OUT"}, []),
    ],
)
def test_the_default_rules_fire_on_what_they_say(data: dict[str, Any], ids: list[str]) -> None:
    assert fired(default_rules(), data) == ids


def test_the_default_rules_only_send_to_review_and_say_why() -> None:
    assert {one.outcome for one in default_rules().rules} == {"review"}
    assert all(one.reason != f"Rule {one.id}." and one.enabled for one in default_rules().rules)
    assert default_rules().version.startswith("default-1+")


# --- the policy ------------------------------------------------------------------------------------------------------

THRESHOLDS = Thresholds(review=0.2, decline=0.6)
#: The rules' outcomes that fired -> what is decided where the model says approve, review, decline. A capital letter
#: is the deciding outcome (Approve, Review, Decline), then who decided (m: the model, r: a rule).
TABLE = {
    "": ("Am", "Rm", "Dm"),
    "approve": ("Ar", "Ar", "Ar"),
    "review": ("Rr", "Rr", "Dm"),
    "decline": ("Dr", "Dr", "Dr"),
    "approve review": ("Rr", "Rr", "Dm"),
    "approve decline": ("Dr", "Dr", "Dr"),
    "review decline": ("Dr", "Dr", "Dr"),
    "approve review decline": ("Dr", "Dr", "Dr"),
}
WORDS: dict[str, Outcome] = {"A": "approve", "R": "review", "D": "decline"}


def fired_with(outcomes: str, backwards: bool = False) -> list[Rule]:
    words = outcomes.split()
    rules = [Rule(f"r{i}", "true", WORDS[word[0].upper()], "", True, None) for i, word in enumerate(words)]
    return rules[::-1] if backwards else rules


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("without_model", ["approve", "review", "decline"])
@pytest.mark.parametrize("probability", [0.0, 0.19999, 0.2, 0.59999, 0.6, 1.0])
@pytest.mark.parametrize("outcomes", TABLE)
def test_the_policy_with_a_model(outcomes: str, probability: float, without_model: Outcome, backwards: bool) -> None:
    column = 0 if probability < 0.2 else 1 if probability < 0.6 else 2
    letter, who = TABLE[outcomes][column]
    verdict = decide(probability, fired_with(outcomes, backwards), THRESHOLDS, without_model)
    assert (verdict.outcome, verdict.decided_by) == (WORDS[letter], {"m": "model", "r": "rule"}[who])


@pytest.mark.parametrize("without_model", ["approve", "review", "decline"])
@pytest.mark.parametrize("outcomes", TABLE)
@pytest.mark.parametrize(("probability", "thresholds"), [(None, None), (None, THRESHOLDS), (0.9, None)])
def test_the_policy_without_a_model(
    outcomes: str, without_model: Outcome, probability: float | None, thresholds: Thresholds | None
) -> None:
    verdict = decide(probability, fired_with(outcomes), thresholds, without_model)
    if outcomes:
        gravest = max(outcomes.split(), key=("approve", "review", "decline").index)
        assert (verdict.outcome, verdict.decided_by) == (gravest, "rule")
    else:
        assert (verdict.outcome, verdict.decided_by) == (without_model, "fallback")


def test_equal_thresholds_leave_no_room_for_review() -> None:
    narrow = Thresholds(0.5, 0.5)
    assert [model_outcome(p, narrow) for p in (0.49, 0.5, 0.51)] == ["approve", "decline", "decline"]


@given(
    st.floats(0, 1),
    st.lists(st.sampled_from(sorted(GRAVITY)), max_size=5),
    st.floats(0.01, 0.99),
    st.floats(0.01, 0.99),
)
def test_only_an_approving_rule_ever_lowers_what_the_model_says(
    probability: float, outcomes: list[str], one: float, other: float
) -> None:
    thresholds = Thresholds(min(one, other), max(one, other))
    verdict = decide(probability, fired_with(" ".join(outcomes)), thresholds, "review")
    if set(outcomes) != {"approve"}:
        assert GRAVITY[verdict.outcome] >= GRAVITY[model_outcome(probability, thresholds)]
        assert all(GRAVITY[verdict.outcome] >= GRAVITY[WORDS[word[0].upper()]] for word in outcomes)
    assert not math.isnan(probability)
