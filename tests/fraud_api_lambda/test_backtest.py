"""A back-test says what the service itself would say: held against the service, decision by decision."""

import json
import random
import tracemalloc
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fraud_api_lambda import backtest
from fraud_api_lambda.backtest import REPORT, Case, Costs, Made, Policy, Report, case_of, decide_again, wilson
from fraud_api_lambda.decision_log import Label, Record, Stored
from fraud_api_lambda.decision_log.none import NoDecisionLog
from fraud_api_lambda.features import NAMES, Attribute, FeatureSet, TimeZone
from fraud_api_lambda.model import FraudModel
from fraud_api_lambda.reload import Served
from fraud_api_lambda.rules import RuleSet, load_rules
from fraud_api_lambda.schemas import (
    DECISION,
    TYPES,
    Decision,
    RateTable,
    Thresholds,
    parse_transaction,
    rfc3339,
    to_event,
)
from fraud_api_lambda.scoring import FraudScorer
from tests.conftest import Trained
from tests.fraud_api_lambda.asgi import source_of, source_without_bundle
from training import metrics

START = 1_770_000_000_000
HOUR, DAY = 3_600_000, 86_400_000
CLOCK = START + 30 * DAY
COSTS = Costs()


class Kept(NoDecisionLog):
    """Holds what was appended."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def append(self, records: Sequence[Record]) -> list[Record | None]:
        self.records += records
        return [None] * len(records)


def make_traffic(n: int = 160) -> list[dict[str, Any]]:
    """Few parties over some days, so that there is a past; with gaps, attributes and test inputs."""
    rng = random.Random(5)
    made = []
    for i in range(n):
        row: dict[str, Any] = {
            "transaction_id": f"t{i}",
            "timestamp": rfc3339(START + i * HOUR),
            "amount": rng.choice([0, 5, 19.99, 40, 250, 900, 2_500, 9_000]),
            "customer_id": f"C{rng.randrange(6)}",
            "counterparty_id": f"M{rng.randrange(4)}",
        }
        if rng.random() < 0.5:
            row["type"] = rng.choice(TYPES)
        if rng.random() < 0.4:
            row["oldbalanceOrg"] = rng.choice([row["amount"], 0, 1_000])
        if rng.random() < 0.5:
            row["device_id"] = f"D{rng.randrange(3)}"
        if rng.random() < 0.4:
            row |= {"lat": rng.uniform(-60, 60), "long": rng.uniform(-170, 170)}
        if rng.random() < 0.4:
            row["attributes"] = {"channel": rng.choice(["web", "app"]), "age": rng.randrange(90)}
        if i % 40 == 39:
            row["transaction_id"] = f"test-{rng.choice(['approve', 'decline', 'degraded'])}-{i}"
        made.append(row)
    return made


TRAFFIC = make_traffic()


class World:
    """The traffic as the service judged it, and as it judges it under another policy."""

    def __init__(self, trained: Trained):
        self.source = source_of(trained)
        served = self.source.served
        assert served is not None
        self.served: Served = served
        self.model = served.model
        _, self.records = self.live(served)
        self.stored = [Stored(record, label_of(record, i)) for i, record in enumerate(self.records)]

    def live(self, served: Served | None, rules: RuleSet | None = None) -> tuple[list[Decision], list[Record]]:
        """Score all of the traffic with a past that begins anew."""
        self.source.served = served
        self.source._bare = rules
        log = Kept()
        scorer = FraudScorer(self.source, decisions=log, clock=lambda: CLOCK)
        decisions = [scorer.answer(row, explain=False).decision for row in TRAFFIC]
        return decisions, log.records

    def under(self, **changes: Any) -> FraudModel:
        names = ("version", "features", "population", "members", "slope", "intercept", "thresholds", "rates")
        return FraudModel(**{**{name: getattr(self.model, name) for name in names}, **changes})

    def rules(self, text: Mapping[str, Any], columns: tuple[str, ...] | None = None) -> RuleSet:
        return load_rules(json.dumps({"rules": [], **text}).encode(), columns or self.model.features.columns)


def label_of(record: Record, i: int) -> Label | None:
    """A third without one; of the others every fourth a fraud."""
    return None if i % 3 == 0 else Label(record.transaction_id, i % 4 == 1, "analyst", CLOCK, CLOCK)


@pytest.fixture(scope="module")
def world(trained: Trained) -> World:
    return World(trained)


def assert_as_lived(stored: Sequence[Stored], policy: Policy, lived: Sequence[Decision]) -> Report:
    """Every outcome, who decided and what fired, as the service said; and the report counts just that."""
    moves: Counter[tuple[str, str, str]] = Counter()
    hits: Counter[str] = Counter()
    left_out = 0
    for each, decision in zip(stored, lived, strict=True):
        case = case_of(each, policy)
        if each.record.test:
            assert case == "test"
            left_out += 1
            continue
        assert isinstance(case, Case)
        ruling = decide_again(case, policy)
        codes = (*((ruling.listed.code,) if ruling.listed else ()), *(rule.id for rule in ruling.fired))
        assert (ruling.verdict.outcome, ruling.verdict.decided_by, codes) == (
            decision.outcome,
            decision.decided_by,
            decision.rules,
        )
        assert (ruling.failed is not None) == ("rules" in decision.degraded)
        label = "unlabelled" if each.label is None else "fraud" if each.label.is_fraud else "legitimate"
        moves[each.record.outcome, decision.outcome, label] += 1
        hits.update(decision.rules)
    report = backtest.backtest(iter(stored), policy, costs=COSTS, now_ms=CLOCK)
    counted = {
        (move.before, move.after, label): getattr(move, label).decisions
        for move in report.moves
        for label in ("fraud", "legitimate", "unlabelled")
    }
    assert {key: n for key, n in counted.items() if n} == dict(moves)
    assert {rule.id: rule.hits.decisions for rule in report.rules if rule.hits.decisions} == dict(hits)
    assert report.decisions == moves.total()
    assert report.flipped == sum(n for (before, after, _), n in moves.items() if before != after)
    assert sum(report.left_out.values()) == left_out
    return report


# --- against the service ---------------------------------------------------------------------------------------------

EXPRESSIONS = [
    *("amount > 200", "amount > 2000", "is_night && amount > 100", "amount_ratio > 1.5", "count_24h >= 2"),
    *("new_counterparty", "customer_id == 'C1'", "attributes.channel == 'web'", "10 / int(amount) > 0"),
    *("transaction_type == 'TRANSFER'", "hour_of_day < 9", "drains_account", "oldbalance_orig < 50", "true"),
    *("counterparty_count_24h > 3", "device_id == ''", "distance_km > 500", "int(attributes.age) / 0 > 1"),
]
MOMENTS = st.sampled_from([rfc3339(START + at * DAY) for at in (0, 2, 5)])
RULES = st.lists(
    st.fixed_dictionaries(
        {"expression": st.sampled_from(EXPRESSIONS), "outcome": st.sampled_from(["approve", "review", "decline"])},
        optional={"enabled": st.booleans(), "until": MOMENTS},
    ),
    max_size=5,
)
ENTRY = st.fixed_dictionaries(
    {"entity": st.just("customer"), "id": st.sampled_from(["C0", "C1"])}, optional={"until": MOMENTS}
) | st.fixed_dictionaries({"entity": st.sampled_from(["counterparty", "device"]), "id": st.sampled_from(["M1", "D1"])})
LISTS = st.fixed_dictionaries({}, optional={"deny": st.lists(ENTRY, max_size=1), "allow": st.lists(ENTRY, max_size=1)})
PAIRS = st.tuples(st.floats(1e-6, 1 - 1e-6), st.floats(1e-6, 1 - 1e-6)).map(lambda pair: Thresholds(*sorted(pair)))


@st.composite
def files(draw: st.DrawFn) -> dict[str, Any]:
    rules = [{"id": f"r{i}", **rule} for i, rule in enumerate(draw(RULES))]
    file = {"rules": rules, "lists": draw(LISTS)}
    if rules and draw(st.booleans()):
        end = draw(MOMENTS)
        file["snooze"] = [{"rule": "r0", "entity": "customer", "id": "C2", "until": end}]
    return file


@settings(max_examples=40)
@given(files(), st.none() | PAIRS)
def test_a_changed_policy_decides_as_the_service_would(
    world: World, file: dict[str, Any], thresholds: Thresholds | None
) -> None:
    rules = world.rules(file)
    model = world.under(thresholds=thresholds) if thresholds else world.model
    lived, _ = world.live(replace(world.served, model=model, rules=rules))
    assert_as_lived(world.stored, Policy(rules, world.model, thresholds), lived)


@settings(max_examples=15)
@given(files(), st.floats(0.5, 2), st.floats(-3, 3), st.sampled_from([0, 9, -7]), st.none() | PAIRS, st.booleans())
@example({"rules": [{"id": "n", "expression": "is_night", "outcome": "review"}]}, 1.0, 0.0, 9, None, True)
def test_another_model_scores_anew_as_the_service_would(
    world: World,
    file: dict[str, Any],
    slope: float,
    intercept: float,
    hours: int,
    thresholds: Thresholds | None,
    declares: bool,
) -> None:
    zone = TimeZone("elsewhere", (0,), (hours * 3600,))
    attributes = (Attribute("age", "number"), Attribute("channel", "text", ("app", "web"))) if declares else ()
    own = world.model.features
    features = FeatureSet(attributes, own.picked, zone, own.minor_factor, own.label_delay_ms)
    more = len(features.columns) - len(NAMES)
    population = np.concatenate((world.model.population[: len(NAMES)] * 0.5, np.full(more, 0.25)))
    model = world.under(version="other", features=features, population=population, slope=slope, intercept=intercept)
    rules = world.rules(file, features.columns)
    acting = world.under(
        version="other", features=features, population=population, slope=slope, intercept=intercept,
        thresholds=thresholds or model.thresholds,
    )  # fmt: skip
    lived, _ = world.live(replace(world.served, model=acting, rules=rules))
    policy = Policy(rules, model, thresholds, rescore=True)
    report = assert_as_lived(world.stored, policy, lived)
    assert report.models == {world.model.version: report.decisions}
    for stored, decision in zip(world.stored, lived, strict=True):
        case = case_of(stored, policy)
        if isinstance(case, Case):
            assert case.probability == decision.fraud_probability


@settings(max_examples=10)
@given(files())
def test_what_was_decided_without_a_model_is_so_again(
    world: World, tmp_path_factory: pytest.TempPathFactory, file: dict[str, Any]
) -> None:
    bare = World.__new__(World)
    bare.source = source_without_bundle(tmp_path_factory.mktemp("none"))
    _, records = bare.live(None, load_rules(b"rules: []"))
    lived, _ = bare.live(None, load_rules(json.dumps(file).encode()))
    stored = [Stored(record, label_of(record, i)) for i, record in enumerate(records)]
    report = assert_as_lived(stored, Policy(world.rules(file), world.model), lived)
    assert report.models == {"none": report.decisions}
    assert any("without a model" in note for note in report.notes)


def test_the_same_policy_flips_nothing(world: World) -> None:
    for rescore in (False, True):
        policy = Policy(world.served.rules, world.model, rescore=rescore)
        report = backtest.backtest(world.stored, policy, costs=COSTS)
        assert (report.flipped, report.examples, report.decisions) == (0, [], len(TRAFFIC) - 4)
        assert report.before == report.after
        for rule in report.rules:
            assert rule.hits_before == rule.hits.decisions
        assert sum(rule.hits.decisions for rule in report.rules) > 0


def test_a_denied_customer_is_declined_and_the_list_is_told_like_a_rule(world: World) -> None:
    file = {"lists": {"deny": [{"entity": "customer", "id": "C1"}]}}
    report = backtest.backtest(world.stored, Policy(world.rules(file), world.model), costs=COSTS)
    [deny, *gone] = report.rules
    of_c1 = [each for each in world.stored if each.record.customer_id == "C1" and not each.record.test]
    assert (deny.id, deny.outcome, deny.hits.decisions) == ("list:deny", "decline", len(of_c1))
    assert deny.hits.fraud == sum(bool(each.label and each.label.is_fraud) for each in of_c1)
    assert report.after.outcomes["decline"] >= len(of_c1)
    assert all(rule.outcome is None and rule.hits.decisions == 0 and rule.hits_before for rule in gone)


def test_amounts_in_another_currency_are_left_out_and_told(world: World) -> None:
    model = world.under(rates=RateTable("EUR", 2))
    report = backtest.backtest(world.stored, Policy(world.served.rules, model), costs=COSTS)
    assert (report.decisions, report.left_out) == (0, {"currency": len(TRAFFIC) - 4, "test": 4})
    assert report.days == 1.0
    assert report.before.precision == wilson(0, 0)


def test_an_attribute_that_the_model_cannot_take_leaves_the_decision_out(world: World) -> None:
    own = world.model.features
    features = FeatureSet((Attribute("channel", "number"),), own.picked, own.time_zone, own.minor_factor)
    model = world.under(features=features, population=np.append(world.model.population[: len(NAMES)], 0.0))
    report = backtest.backtest(
        world.stored, Policy(world.rules({}, features.columns), model, rescore=True), costs=COSTS
    )
    sent = sum(
        "channel" in row.get("attributes", {}) for row in TRAFFIC if not row["transaction_id"].startswith("test")
    )
    assert report.left_out == {"attributes": sent, "test": 4}


def test_probabilities_of_another_model_are_kept_and_told(world: World) -> None:
    report = backtest.backtest(world.stored, Policy(world.served.rules, world.under(version="newer")), costs=COSTS)
    assert report.flipped == 0
    assert any("another model than newer" in note for note in report.notes)


# --- the figures, by hand --------------------------------------------------------------------------------------------


def case(
    number: int, amount: float, label: str, before: str = "approve", probability: float = 0.0, **data: Any
) -> Case:
    sent = parse_transaction({"amount": amount, "timestamp": rfc3339(START + number * HOUR), **data})
    event = to_event(sent, RateTable("USD", 2), CLOCK)
    made = Made(before, "model", (), probability, "m")  # type: ignore[arg-type]
    columns = FeatureSet().compute(event)
    pair = Thresholds(0.5, 0.9)
    return Case(f"t{number}", event.time_ms, event.amount_minor, label, made, event, columns, probability, pair)  # type: ignore[arg-type]


BY_HAND = [
    case(0, 100, "fraud"),  # caught by both rules
    case(1, 60, "fraud"),  # by the first alone
    case(2, 70, "legitimate"),  # by the first alone
    case(3, 80, "none"),  # by the first alone
    case(4, 10, "legitimate"),
    case(5, 300, "fraud", "review", 0.2),  # flagged then; both rules, so still
    case(6, 20, "fraud", "decline", 0.2),  # flagged then, lost now
    case(7, 30, "legitimate", "decline", 0.2),  # released
    case(8, 500, "legitimate", "decline", 0.95),  # the model declines, whatever the rules say
]
TWO = {
    "rules": [
        {"id": "above50", "expression": "amount > 50", "outcome": "review"},
        {"id": "above90", "expression": "amount > 90", "outcome": "review"},
    ]
}


@pytest.fixture
def by_hand(world: World) -> Report:
    costs = Costs(review_cost=2, false_decline_cost=7, reviews_per_day=4)
    return backtest.report(BY_HAND, Policy(world.rules(TWO, NAMES), world.model), costs=costs, now_ms=START)


def test_hits_and_precision_of_each_rule(by_hand: Report) -> None:
    above50, above90 = by_hand.rules
    assert (above50.hits.fraud, above50.hits.legitimate, above50.hits.unlabelled) == (3, 2, 1)
    assert above50.precision == wilson(3, 5)
    assert above50.hits.fraud_amount == 460
    assert (above90.hits.fraud, above90.hits.legitimate, above90.hits.unlabelled) == (2, 1, 0)
    assert above90.precision.share == pytest.approx(2 / 3)


def test_what_only_one_rule_catches(by_hand: Report) -> None:
    above50, above90 = by_hand.rules
    assert (above50.alone.fraud, above50.alone.legitimate, above50.alone.unlabelled) == (1, 1, 1)
    assert above50.alone.fraud_amount == 60
    assert above90.alone.decisions == 0


def test_money_caught_lost_held_and_released(by_hand: Report) -> None:
    money = by_hand.money
    assert (money.fraud_caught.decisions, money.fraud_caught.amount) == (2, 160)
    assert (money.fraud_lost.decisions, money.fraud_lost.amount) == (1, 20)
    assert (money.legitimate_held.decisions, money.legitimate_held.amount) == (1, 70)
    assert (money.legitimate_released.decisions, money.legitimate_released.amount) == (1, 30)
    assert (money.unlabelled_held.amount, money.unlabelled_released.amount) == (80, 0)


def test_both_sides_reviews_a_day_costs_and_capacity(by_hand: Report) -> None:
    before, after = by_hand.before, by_hand.after
    assert by_hand.days == 1.0
    assert (before.outcomes, after.outcomes) == (
        {"approve": 5, "review": 1, "decline": 3},
        {"approve": 3, "review": 5, "decline": 1},
    )
    assert (before.reviews_per_day, after.reviews_per_day, after.declines_per_day) == (1, 5, 1)
    assert (before.precision, after.precision) == (wilson(2, 4), wilson(3, 5))
    assert (before.recall, after.recall) == (wilson(2, 4), wilson(3, 4))
    assert (before.cost.reviews, before.cost.missed_frauds, before.cost.false_declines) == (2, 160, 14)
    assert (after.cost.reviews, after.cost.missed_frauds, after.cost.false_declines) == (10, 20, 7)
    assert after.cost.total == 37
    assert (by_hand.capacity_per_day, before.capacity_used, after.capacity_used) == (4, 0.25, 1.25)
    assert sum(day.reviews_after for day in by_hand.by_day) == 5


def test_labels_that_may_still_come_are_told(by_hand: Report, world: World) -> None:
    assert (by_hand.labels.fraud, by_hand.labels.legitimate, by_hand.labels.none, by_hand.labels.young) == (4, 4, 1, 1)
    assert any("1 of 9 decisions have no label; for 1 of these the label delay" in note for note in by_hand.notes)
    policy = Policy(world.rules(TWO, NAMES), world.model)
    later = backtest.report(BY_HAND, policy, costs=COSTS, now_ms=START + 400 * DAY)
    assert (later.labels.none, later.labels.young) == (1, 0)


def test_flipped_decisions_are_shown_with_the_most_money_first_and_without_parties(by_hand: Report) -> None:
    assert [(flip.transaction_id, flip.amount, flip.before, flip.after) for flip in by_hand.examples] == [
        ("t0", 100, "approve", "review"),
        ("t3", 80, "approve", "review"),
        ("t2", 70, "approve", "review"),
        ("t1", 60, "approve", "review"),
        ("t7", 30, "decline", "approve"),
        ("t6", 20, "decline", "approve"),
    ]
    assert by_hand.examples[0].rules_after == ("above50", "above90")


def test_at_most_twenty_examples_and_they_are_the_largest(world: World) -> None:
    cases = [case(i, 100 + (i * 7) % 50, "none") for i in range(50)]
    report = backtest.report(cases, Policy(world.rules(TWO, NAMES), world.model), costs=COSTS)
    assert report.flipped == 50
    assert [flip.amount for flip in report.examples] == [float(amount) for amount in range(149, 129, -1)]


def test_the_report_is_json_that_reads_back(by_hand: Report) -> None:
    text = REPORT.dump_json(by_hand)
    assert json.loads(text)["rules"][0]["precision"]["part"] == 3
    assert REPORT.validate_json(text) == by_hand


@pytest.mark.parametrize(
    ("part", "whole", "low", "high"),
    [(8, 10, 0.490162, 0.943318), (0, 20, 0.0, 0.161125), (20, 20, 0.838875, 1.0), (1, 1000, 0.000177, 0.005643)],
)
def test_wilsons_interval_is_the_books(part: int, whole: int, low: float, high: float) -> None:
    share = wilson(part, whole)
    assert (share.low, share.high) == (pytest.approx(low, abs=1e-6), pytest.approx(high, abs=1e-6))


@given(
    st.lists(
        st.tuples(st.sampled_from(["fraud", "legitimate"]), st.integers(0, 10**6), st.sampled_from([0.1, 0.6, 0.95])),
        min_size=1,
        max_size=30,
    ),
    st.floats(0, 1), st.floats(0, 50), st.floats(0, 9), st.floats(0, 1), st.floats(0, 99),
)  # fmt: skip
def test_costs_are_those_by_which_training_chose_the_thresholds(
    world: World,
    rows: list[tuple[str, int, float]],
    share: float,
    fee: float,
    review: float,
    catch: float,
    false: float,
) -> None:
    costs = Costs(share, fee, review, catch, false)
    cases = [case(i, minor / 100, label, probability=p) for i, (label, minor, p) in enumerate(rows)]
    report = backtest.report(cases, Policy(world.rules({}, NAMES), world.model), costs=costs)
    theirs = metrics.Costs(
        fraud_loss_share=share, fraud_fee=fee, review_cost=review, review_catch=catch, false_decline_cost=false
    )
    outcome = np.array([0 if p < 0.5 else 1 if p < 0.9 else 2 for _, _, p in rows], np.int8)
    fraud = np.array([label == "fraud" for label, _, _ in rows], np.int8)
    amount = np.array([minor / 100 for _, minor, _ in rows])
    assert report.after.cost.total == pytest.approx(float(theirs.of(outcome, fraud, amount).sum()), rel=1e-9, abs=1e-6)


def test_memory_does_not_grow_with_the_decisions(world: World) -> None:
    policy = Policy(world.rules(TWO), world.model)
    first = world.stored[0]

    def many(n: int) -> Iterator[Stored]:
        for i in range(n):
            yield Stored(replace(first.record, transaction_id=f"n{i}", received_ms=START + i), None)

    def peak(n: int) -> int:
        tracemalloc.start()
        backtest.backtest(many(n), policy, costs=COSTS)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(50)
    assert peak(3_000) < peak(300) + 100_000


def test_the_answer_of_a_record_is_what_thresholds_come_from(world: World) -> None:
    [first, *_] = world.stored
    decision = DECISION.validate_json(first.record.answer)
    lowered = replace(decision, thresholds=Thresholds(1e-9, 1 - 1e-9))
    changed = Stored(replace(first.record, answer=DECISION.dump_json(lowered)), None)
    found = case_of(changed, Policy(world.rules({}), world.model))
    assert isinstance(found, Case)
    assert found.thresholds == Thresholds(1e-9, 1 - 1e-9)
