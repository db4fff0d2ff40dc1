"""The cost simulator against training's own arithmetic: what the console reads back is what training put in."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from streamlit_app import simulate
from streamlit_app.answers import Curves, Thresholds, read
from training import metrics
from training.metrics import Scored

ROWS = 6_000


def scored_rows(seed: int = 3) -> Scored:
    """Rows with a probability that means something, and frauds that lose more than others."""
    rng = np.random.default_rng(seed)
    is_fraud = (rng.random(ROWS) < 0.03).astype(np.int8)
    odds = rng.normal(-5, 1.4, ROWS) + is_fraud * rng.normal(4.5, 2.0, ROWS)
    amount = np.round(np.exp(rng.normal(4, 1.2, ROWS)) * (1 + 3 * is_fraud), 2)
    return Scored(
        is_fraud=is_fraud,
        probability=1 / (1 + np.exp(-odds)),
        model_outcome=np.zeros(ROWS, np.int8),
        policy_outcome=np.zeros(ROWS, np.int8),
        amount=amount,
        weight=np.ones(ROWS),
        time_ms=np.arange(ROWS, dtype=np.int64),
        party=np.arange(ROWS, dtype=np.int64),
    )


@pytest.fixture(scope="module")
def rows() -> Scored:
    return scored_rows()


def curves(rows: Scored, costs: metrics.Costs, points: int = 400) -> Curves:
    return read(Curves, metrics.curves(rows, points, costs=costs))


def truth(rows: Scored, costs: metrics.Costs, pair: Thresholds) -> tuple[float, float, float, float]:
    """By the rows themselves: cost per 1,000, reviews and declines per 1,000, share of frauds flagged."""
    outcome = np.where(rows.probability >= pair.decline, 2, np.where(rows.probability >= pair.review, 1, 0))
    cost = costs.of(_as(outcome), rows.is_fraud, rows.amount).sum() / ROWS * 1000
    flagged = outcome > 0
    recall = (flagged & (rows.is_fraud == 1)).sum() / rows.is_fraud.sum()
    return cost, (outcome == 1).mean() * 1000, (outcome == 2).mean() * 1000, recall


def _as(outcome: Any) -> Any:
    return np.array([metrics.APPROVE, metrics.REVIEW, metrics.DECLINE], np.int8)[outcome]


COSTS = [
    metrics.Costs(),
    metrics.Costs(fraud_fee=0.0, review_cost=2.5, review_catch=1.0, false_decline_cost=80.0),
    metrics.Costs(fraud_loss_share=0.7, fraud_fee=100.0, review_cost=12.0, review_catch=0.8, false_decline_cost=1.5),
]


@pytest.mark.parametrize("costs", COSTS)
def test_the_costs_of_training_are_read_back_from_its_curves(rows: Scored, costs: metrics.Costs) -> None:
    found = simulate.read_back(curves(rows, costs), Thresholds(0.05, 0.5))
    assert found is not None
    _, own = found
    assert own.review == pytest.approx(costs.review_cost, rel=0.01)
    assert own.catch == pytest.approx(costs.review_catch, abs=0.005)
    assert own.false_decline == pytest.approx(costs.false_decline_cost, rel=0.01)
    approve, _, _ = costs.by_outcome(rows.is_fraud, rows.amount)
    assert own.fraud == pytest.approx(approve.sum() / rows.is_fraud.sum(), rel=0.001)


@pytest.mark.parametrize("pair", [Thresholds(0.05, 0.5), Thresholds(0.2, 0.2), Thresholds(0.001, 0.9)])
def test_a_policy_costs_what_its_rows_cost(rows: Scored, pair: Thresholds) -> None:
    costs = metrics.Costs()
    found = simulate.read_back(curves(rows, costs), pair)
    assert found is not None
    grid, own = found
    policy = simulate.judge(grid, replace(own, per_day=1000.0), pair)
    cost, reviews, declines, recall = truth(rows, costs, pair)
    # The curves have some hundred points of thousands of rows: between two of them lie a few rows.
    assert policy.cost == pytest.approx(cost, rel=0.06)
    assert policy.reviews_per_day == pytest.approx(reviews, rel=0.02, abs=6)
    assert policy.declines_per_day == pytest.approx(declines, abs=3)
    assert policy.recall == pytest.approx(recall, abs=0.02)


def test_other_costs_give_what_the_rows_give_under_those(rows: Scored) -> None:
    found = simulate.read_back(curves(rows, metrics.Costs(fraud_fee=0.0)), Thresholds(0.05, 0.5))
    assert found is not None
    grid, own = found
    twice = metrics.Costs(
        fraud_loss_share=2.0, fraud_fee=0.0, review_cost=9.0, review_catch=0.6, false_decline_cost=50.0
    )
    asked = replace(own, fraud=own.fraud * 2, review=9.0, catch=0.6, false_decline=50.0)
    pair = Thresholds(0.04, 0.4)
    assert simulate.judge(grid, asked, pair).cost == pytest.approx(truth(rows, twice, pair)[0], rel=0.06)


def test_the_best_pair_is_as_good_as_trainings_exact_search(rows: Scored) -> None:
    costs = metrics.Costs(capacity=0.02, decline_precision=0.9)
    review, decline = metrics.choose_thresholds(rows.probability, rows.is_fraud, rows.amount, rows.weight, costs)
    found = simulate.read_back(curves(rows, costs), Thresholds(review, decline))
    assert found is not None
    grid, own = found
    best = simulate.best(grid, replace(own, per_day=1000.0, capacity=20.0, precision=0.9))
    exact, *_ = truth(rows, costs, Thresholds(review, decline))
    really, reviews, *_ = truth(rows, costs, best.thresholds)
    assert really <= exact * 1.08
    assert reviews <= 20.0 + 1e-6
    assert best.within


def test_no_pair_of_the_grid_that_holds_the_limits_is_cheaper(rows: Scored) -> None:
    found = simulate.read_back(curves(rows, metrics.Costs(), 60), Thresholds(0.05, 0.5))
    assert found is not None
    grid, own = found
    costs = replace(own, per_day=500.0, capacity=6.0, precision=0.85)
    best = simulate.best(grid, costs)
    inside = np.clip(grid.threshold, 1e-6, 1 - 1e-6)
    for decline in inside:
        for review in inside[inside <= decline]:
            other = simulate.judge(grid, costs, Thresholds(float(review), float(decline)))
            assert not other.within or other.cost >= best.cost - 1e-6


def test_nobody_to_review_means_no_reviews(rows: Scored) -> None:
    found = simulate.read_back(curves(rows, metrics.Costs()), Thresholds(0.05, 0.5))
    assert found is not None
    grid, own = found
    assert simulate.best(grid, replace(own, capacity=0.0)).reviews_per_day == 0


def test_a_dearer_fraud_never_raises_the_best_review_threshold(rows: Scored) -> None:
    found = simulate.read_back(curves(rows, metrics.Costs()), Thresholds(0.05, 0.5))
    assert found is not None
    grid, own = found
    free = replace(own, capacity=1e9)
    found_at = [simulate.best(grid, replace(free, fraud=own.fraud * f)).thresholds.review for f in (0.2, 1, 5, 25)]
    assert found_at == sorted(found_at, reverse=True)
    assert found_at[0] > found_at[-1]


def test_curves_without_frauds_give_nothing_to_compute_with() -> None:
    rows = scored_rows()
    none = replace(rows, is_fraud=np.zeros(ROWS, np.int8))
    assert simulate.read_back(curves(none, metrics.Costs()), Thresholds(0.05, 0.5)) is None
