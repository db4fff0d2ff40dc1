"""The hub: a decision holds together, alone as in a batch, with a bundle and without one."""

import dataclasses
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraud_api_lambda.errors import FieldError, InvalidRequest
from fraud_api_lambda.features import CUSTOMER_AT, NAMES, Attribute, FeatureSet, Past, fill
from fraud_api_lambda.judge import MAX_REASONS
from fraud_api_lambda.model import FraudModel, calibrate
from fraud_api_lambda.reload import ModelSource, Served
from fraud_api_lambda.rules import GRAVITY, load_rules, model_outcome
from fraud_api_lambda.schemas import (
    DECISION,
    TYPES,
    Decision,
    RateTable,
    Thresholds,
    Transaction,
    now_ms,
    parse_transaction,
    rfc3339,
    to_event,
)
from fraud_api_lambda.scoring import Answer, FraudScorer
from tests.conftest import Trained
from tests.fraud_api_lambda.asgi import source_of, source_without_bundle
from tests.fraud_api_lambda.payloads import ALL, FRAUDULENT, LEGITIMATE

START = 1_600_000_000_000


def transaction(**data: Any) -> Transaction:
    return parse_transaction({"amount": 100, "transaction_id": "t", **data})


def served_by(scorer: FraudScorer) -> Served:
    assert scorer.source.served is not None
    return scorer.source.served


def other_model(trained: Trained, **changes: Any) -> FraudScorer:
    """A scorer of the trained bundle, its model made anew with ``changes``."""
    source = source_of(trained)
    assert source.served is not None
    names = ("version", "features", "population", "members", "slope", "intercept", "thresholds", "rates")
    parts = {name: getattr(source.served.model, name) for name in names}
    source.served = replace(source.served, model=FraudModel(**{**parts, **changes}))
    return FraudScorer(source)


def other_rules(trained: Trained, *rules: dict[str, Any], **changes: Any) -> FraudScorer:
    """The same with rules of the test's own."""
    scorer = other_model(trained, **changes)
    served = served_by(scorer)
    rule_set = load_rules(json.dumps({"rules": list(rules)}).encode(), served.model.features.columns)
    scorer.source.served = replace(served, rules=rule_set)
    return scorer


#: Thresholds under which the model approves, or declines, whatever it is given.
LENIENT, STRICT = Thresholds(1 - 1e-9, 1 - 1e-9), Thresholds(1e-9, 1e-9)


# --- any valid transaction -------------------------------------------------------------------------------------------

ids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=64)
amounts = st.floats(0, 1e9) | st.integers(0, 10**9) | st.sampled_from([0, 0.005, 0.015, 1, 181.0, 4500, 1e9])
balances = st.floats(0, 1e12) | st.integers(0, 10**12) | st.sampled_from([0, 181.0, 4500])
attribute_maps = st.dictionaries(
    # V1 may also stand at the top level below; sent twice it is refused.
    st.text(max_size=64, min_size=1).filter(lambda name: name != "V1"),
    st.floats(-1e300, 1e300) | st.text(max_size=256),
    max_size=5,
)
transactions = st.fixed_dictionaries(
    {"amount": amounts},
    optional={
        "type": st.sampled_from(TYPES),
        "currency": st.just("USD"),
        "transaction_id": st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=64),
        "timestamp": st.integers(0, START + 10**11).map(rfc3339),
        "customer_id": ids,
        "merchant_id": ids,
        "device_id": ids,
        "oldbalanceOrg": balances,
        "newbalanceOrig": balances,
        "oldbalanceDest": balances,
        "newbalanceDest": balances,
        "lat": st.floats(-90, 90),
        "long": st.floats(-180, 180),
        "attributes": attribute_maps,
        "V1": st.floats(-50, 50),
    },
)


def check(decision: Decision, sent: Transaction, scorer: FraudScorer) -> None:
    """What holds of every decision."""
    served = scorer.source.served
    assert decision.is_fraud == (decision.outcome != "approve") == (decision.prediction == "FRAUD")
    assert decision.amount == sent.amount
    assert decision.currency == decision.base_currency == "USD"
    assert decision.amount_base == round(sent.amount * 100) / 100
    assert decision.transaction_id == (sent.transaction_id or decision.transaction_id)
    assert decision.explanation.endswith(".")
    assert decision.test is False
    assert len(decision.reasons) <= MAX_REASONS
    strengths = [abs(reason.contribution) for reason in decision.reasons]
    assert strengths == sorted(strengths, reverse=True)
    assert 0.0 not in strengths
    for reason in decision.reasons:
        assert reason.code == reason.feature.upper()
        assert ("raises" if reason.contribution > 0 else "lowers") in reason.text
        assert not (isinstance(reason.value, float) and math.isnan(reason.value))
    if served is None:
        assert decision.fraud_probability is decision.threshold is decision.thresholds is decision.model_version is None
        assert decision.confidence is None
        assert decision.reasons == ()
        assert "model" in decision.degraded
        assert decision.decided_by in {"rule", "fallback"}
        assert (decision.decided_by == "rule") == bool(decision.rules)
    else:
        assert decision.degraded == ()
        assert decision.fraud_probability is not None
        assert 0.0 < decision.fraud_probability < 1.0
        thresholds = served.model.thresholds
        assert decision.thresholds == thresholds
        assert decision.threshold == thresholds.review
        assert decision.model_version == served.version
        by_model = model_outcome(decision.fraud_probability, thresholds)
        assert GRAVITY[decision.outcome] >= GRAVITY[by_model]  # the bundle's rules approve nothing
        if decision.decided_by == "model":
            assert decision.outcome == by_model
            expected = decision.fraud_probability if decision.is_fraud else 1 - decision.fraud_probability
            assert decision.confidence == expected
        else:
            assert decision.rules
            assert decision.confidence is None
    # What goes out is JSON, and every number in it finite.
    assert json.loads(DECISION.dump_json(decision), parse_constant=lambda word: pytest.fail(word))


@settings(max_examples=500)
@given(transactions, st.sampled_from([None, True, False]))
def test_any_valid_transaction_gets_a_decision_that_holds_together(
    scorer: FraudScorer, bare_scorer: FraudScorer, data: dict[str, Any], explain: bool | None
) -> None:
    sent = parse_transaction(data)
    for one in (scorer, bare_scorer):
        decision = one.score(sent, explain)
        check(decision, sent, one)
        if explain is False or (explain is None and not decision.is_fraud):
            assert decision.reasons == ()


@settings(max_examples=25)
@given(st.lists(transactions, min_size=1, max_size=40), st.sampled_from([None, True]))
def test_alone_and_in_a_batch_a_transaction_gets_the_same_bytes(
    trained: Trained, scorer: FraudScorer, bare_scorer: FraudScorer, rows: list[dict[str, Any]], explain: bool | None
) -> None:
    moment = now_ms()
    sent = [{**data, "transaction_id": f"t{i}"} for i, data in enumerate(rows)]
    for source in (scorer.source, bare_scorer.source):
        together = FraudScorer(source, clock=lambda: moment).answer_many(sent, explain)
        one_by_one = FraudScorer(source, clock=lambda: moment)  # with a past of its own, empty like the other's
        alone = [one_by_one.answer(each, explain) for each in sent]
        assert together == alone


@settings(max_examples=200)
@given(transactions)
def test_the_contributions_add_up_to_the_probability(scorer: FraudScorer, data: dict[str, Any]) -> None:
    model = served_by(scorer).model
    event = to_event(parse_transaction(data), model.rates, now_ms())
    vector = model.vector(fill(model.features.compute(event), model.population))
    log_odds = model.expected_log_odds + sum(share for _, share in model.contributions(vector))
    probability = model.probability(vector)
    assert log_odds == pytest.approx(math.log(probability) - math.log1p(-probability), abs=1e-4)
    assert calibrate(log_odds, 1.0, 0.0) == pytest.approx(probability, abs=1e-4)


def test_the_reasons_of_an_answer_are_the_strongest_contributions(scorer: FraudScorer) -> None:
    model = served_by(scorer).model
    for payload in ALL:
        sent = parse_transaction(payload)
        decision = FraudScorer(scorer.source).score(sent, True)
        event = to_event(sent, model.rates, now_ms())
        never_seen = Past(event, {}, now_ms())
        vector = model.vector(fill(model.features.compute(event, never_seen), model.population))
        strongest = [share for share in model.contributions(vector) if share[1] != 0.0][:MAX_REASONS]
        if "timestamp" in payload or "step" in payload:
            assert [(reason.feature, reason.contribution) for reason in decision.reasons] == strongest


# --- explanations ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("payload", ALL, ids=lambda payload: ",".join(payload)[:40])
def test_reasons_are_given_when_asked_for_or_where_the_outcome_is_not_approve(
    scorer: FraudScorer, payload: dict[str, Any]
) -> None:
    sent = parse_transaction(payload)
    by_default, asked, never = (FraudScorer(scorer.source).score(sent, explain) for explain in (None, True, False))
    assert asked.reasons
    assert never.reasons == ()
    assert bool(by_default.reasons) == by_default.is_fraud
    assert asked.fraud_probability == by_default.fraud_probability == never.fraud_probability


def test_a_reason_tells_the_value_that_was_sent_and_says_what_was_not(scorer: FraudScorer) -> None:
    full = {
        "amount": 4500, "type": "TRANSFER", "timestamp": "2026-02-06T02:30:00Z", "oldbalanceOrg": 4500.0,
        "oldbalanceDest": 0, "lat": 12.5, "long": -70.25,
    }  # fmt: skip
    told = {reason.feature: reason for reason in scorer.score(transaction(**full), True).reasons}
    expected = {
        "amount": (4500.0, "The amount (4,500.00 USD) "),
        "type": ("TRANSFER", "The type (TRANSFER) "),
        "hour_of_day": (2.0, "The hour of day (2) "),
        "is_night": (1.0, "That it happened at night "),
        "oldbalance_orig": (4500.0, "The customer's balance before (4,500.00 USD) "),
        "drains_account": (1.0, "That it empties the account to the cent "),
        "dest_was_empty": (1.0, "That the counterparty's account was empty "),
        "latitude": (12.5, "The latitude (12.5) "),
        "longitude": (-70.25, "The longitude (-70.25) "),
    }
    assert len(told.keys() & expected.keys()) >= 3
    for name in told.keys() & expected.keys():
        assert told[name].value == expected[name][0]
        assert told[name].text.startswith(expected[name][1])
        assert told[name].text.endswith((" raises the risk.", " lowers the risk."))
    bare = scorer.score(transaction(timestamp="2026-02-06T12:00:00Z"), True)
    missing = [
        reason for reason in bare.reasons if reason.feature not in {"amount", "hour_of_day", "day_of_week", "is_night"}
    ]
    assert missing
    for reason in missing:
        assert reason.value is None
        of_the_past = reason.feature in NAMES[CUSTOMER_AT:]
        gap = "is not known yet" if of_the_past else "was not sent"
        assert f" {gap}; the usual value " in reason.text


def test_an_attribute_is_told_by_its_name_and_value(trained: Trained) -> None:
    """The forest of the small bundle, its first column declared to be an attribute instead."""
    model = served_by(other_model(trained)).model
    picked = ("attributes.spent", *model.features.picked[1:])
    features = FeatureSet((Attribute("spent", "number"),), picked, model.features.time_zone)
    assert model.features.picked[0] == "amount"
    scorer = other_model(trained, features=features, population=np.append(model.population, 50.0))
    sent = scorer.score(transaction(amount=1, attributes={"spent": 9000}), True)
    told = {reason.feature: reason for reason in sent.reasons}["attributes.spent"]
    assert (told.value, told.code) == (9000.0, "ATTRIBUTES.SPENT")
    assert told.text.startswith("The attribute spent (9000.0) ")
    with pytest.raises(InvalidRequest) as caught:
        scorer.score(transaction(attributes={"spent": "a lot"}))
    assert caught.value.errors[0].field == "attributes.spent"


def test_the_explanation_is_one_sentence_about_who_decided(scorer: FraudScorer, trained: Trained) -> None:
    for payload in ALL:
        decision = scorer.score(parse_transaction(payload))
        word = {"approve": "Approved", "review": "Sent to review", "decline": "Declined"}[decision.outcome]
        assert decision.explanation.startswith(word)
        if decision.decided_by == "model":
            assert f"{decision.fraud_probability:.2%}" in decision.explanation
    ruled = other_rules(
        trained,
        {"id": "mild", "expression": "true", "outcome": "review", "reason": "Mild."},
        {"id": "grave", "expression": "true", "outcome": "decline", "reason": "Grave."},
    )
    assert ruled.score(transaction()).explanation == "Declined by rule grave: Grave."


# --- rules and model together ----------------------------------------------------------------------------------------


def test_an_approving_rule_overrules_the_model_and_a_review_rule_does_not_rescue(trained: Trained) -> None:
    plain = other_rules(trained, thresholds=STRICT).score(transaction())
    assert (plain.outcome, plain.decided_by, plain.rules) == ("decline", "model", ())
    friend = {"id": "friend", "expression": "amount > 1", "outcome": "approve"}
    approving = other_rules(trained, friend, thresholds=STRICT).score(transaction())
    assert (approving.outcome, approving.decided_by, approving.rules) == ("approve", "rule", ("friend",))
    assert approving.is_fraud is False
    assert approving.confidence is None
    assert approving.fraud_probability is not None
    look = {"id": "look", "expression": "amount > 1", "outcome": "review"}
    reviewing = other_rules(trained, look, thresholds=STRICT).score(transaction())
    assert (reviewing.outcome, reviewing.decided_by, reviewing.rules) == ("decline", "model", ("look",))


def test_a_declining_rule_raises_what_the_model_approves(trained: Trained) -> None:
    plain = other_rules(trained, thresholds=LENIENT).score(transaction())
    assert (plain.outcome, plain.decided_by, plain.reasons) == ("approve", "model", ())
    no = {"id": "no", "expression": "amount > 1", "outcome": "decline"}
    decision = other_rules(trained, no, thresholds=LENIENT).score(transaction())
    assert (decision.outcome, decision.decided_by, decision.rules) == ("decline", "rule", ("no",))
    assert decision.is_fraud
    assert decision.reasons


def test_a_rule_that_cannot_be_evaluated_is_flagged_and_the_others_still_decide(trained: Trained) -> None:
    broken = {"id": "broken", "expression": "double(customer_id) > 5.0", "outcome": "approve"}
    scorer = other_rules(trained, broken, {"id": "no", "expression": "amount > 1", "outcome": "decline"})
    decision = scorer.score(transaction(customer_id="C1"))
    assert decision.degraded == ("rules",)
    assert (decision.outcome, decision.rules) == ("decline", ("no",))
    assert scorer.score(transaction(customer_id="3")).degraded == ()


def test_rules_with_a_bundle_see_filled_values(trained: Trained) -> None:
    """With a bundle the population stands in for what is missing; what is not sent is then no longer NaN."""
    scorer = other_rules(trained, {"id": "any", "expression": "oldbalance_orig >= 0", "outcome": "review"})
    model = served_by(scorer).model
    known = not math.isnan(model.population[model.features.columns.index("oldbalance_orig")])
    assert (scorer.score(transaction()).rules == ("any",)) == known


# --- without a bundle ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("without_model", ["approve", "review", "decline"])
def test_without_a_bundle_and_a_rule_the_setting_decides(tmp_path: Path, without_model: Any) -> None:
    scorer = FraudScorer(source_without_bundle(tmp_path), without_model=without_model)
    decision = scorer.score(transaction(timestamp="2026-02-06T12:00:00Z"), True)
    assert (decision.outcome, decision.decided_by) == (without_model, "fallback")
    assert decision.degraded == ("model",)
    assert decision.is_fraud == (without_model != "approve")
    assert decision.explanation.endswith("no model is loaded and no rule fired.")


@pytest.mark.parametrize("payload", FRAUDULENT, ids=lambda payload: payload["customer_id"])
def test_without_a_bundle_the_images_rules_catch_what_another_apis_users_expect(
    bare_scorer: FraudScorer, payload: dict[str, Any]
) -> None:
    decision = bare_scorer.score(parse_transaction(payload))
    assert (decision.prediction, decision.decided_by) == ("FRAUD", "rule")
    assert decision.rules


@pytest.mark.parametrize("payload", LEGITIMATE, ids=lambda payload: payload["customer_id"])
def test_without_a_bundle_no_rule_of_the_image_fires_on_what_is_legitimate(
    bare_scorer: FraudScorer, payload: dict[str, Any]
) -> None:
    assert bare_scorer.score(parse_transaction(payload)).rules == ()


def test_without_a_bundle_only_dollars_are_taken(bare_scorer: FraudScorer) -> None:
    with pytest.raises(InvalidRequest, match="currency"):
        bare_scorer.score(transaction(currency="EUR"))


# --- money, time, batches --------------------------------------------------------------------------------------------


def test_an_amount_in_another_currency_is_told_in_both(trained: Trained) -> None:
    rates = RateTable("USD", 2, ((0, {"EUR": 1.1}), (START, {"EUR": 1.25})))
    scorer = other_model(trained, rates=rates)
    early = scorer.score(transaction(amount=80, currency="EUR", timestamp=rfc3339(START - 1)))
    late = scorer.score(transaction(amount=80, currency="EUR", timestamp=rfc3339(START)))
    assert (early.amount, early.currency, early.amount_base, early.base_currency) == (80.0, "EUR", 88.0, "USD")
    assert late.amount_base == 100.0
    dollars = scorer.score(transaction(amount=100, timestamp=rfc3339(START)))
    assert dollars.fraud_probability == late.fraud_probability


def test_the_clock_stamps_the_answer_and_stands_in_for_an_absent_time(scorer: FraudScorer) -> None:
    three_at_night = 1_770_346_800_123
    fixed = FraudScorer(scorer.source, clock=lambda: three_at_night)
    decision = fixed.score(transaction(amount=2500))
    assert decision.scored_at == "2026-02-06T03:00:00.123Z"
    sent = fixed.score(transaction(amount=2500, timestamp="2026-02-06T03:00:00.123Z"))
    assert decision == sent


def test_in_a_batch_a_problem_stands_in_its_place(scorer: FraudScorer, bare_scorer: FraudScorer) -> None:
    for one in (scorer, bare_scorer):
        answers = one.answer_many(
            [
                {"amount": 100},
                {"amount": "100"},
                {"amount": 100, "currency": "ZZZ"},
                {"amount": 100, "step": 999_999},
                {"amount": 7},
            ]
        )
        assert [type(answer) for answer in answers] == [Answer, *[InvalidRequest] * 3, Answer]
        assert isinstance(answers[1], InvalidRequest)
        assert answers[1].errors == (FieldError("amount", "must be a number"),)
        assert isinstance(answers[4], Answer)
        assert answers[4].decision.amount == 7.0
        assert [type(answer) for answer in one.answer_many([None])] == [InvalidRequest]
        assert one.answer_many([]) == []


def test_without_ids_every_transaction_of_a_batch_gets_its_own(scorer: FraudScorer) -> None:
    answers = scorer.answer_many([{"amount": 1}] * 20)
    assert len({answer.decision.transaction_id for answer in answers if isinstance(answer, Answer)}) == 20


def test_a_bundle_swapped_in_meanwhile_serves_the_next_request(trained: Trained, tmp_path: Path) -> None:
    source: ModelSource = source_without_bundle(tmp_path)
    scorer = FraudScorer(source)
    assert scorer.score(transaction()).model_version is None
    source.served = source_of(trained).served
    assert scorer.score(transaction()).model_version == trained.version


def test_an_answer_without_reasons_is_flagged_and_given_all_the_same(trained: Trained) -> None:
    """Spoilt by hand, since loading refuses what could fail here: the score stands, the reasons cannot be made."""
    scorer = other_model(trained)
    model = served_by(scorer).model
    model._groups = (("amount", (10_000,)), *model._groups[1:])
    decision = scorer.score(transaction(), True)
    assert decision.degraded == ("explanation",)
    assert decision.reasons == ()
    assert decision.fraud_probability is not None


def test_a_decision_cannot_be_changed(scorer: FraudScorer) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        scorer.score(transaction()).outcome = "approve"  # type: ignore[misc]
