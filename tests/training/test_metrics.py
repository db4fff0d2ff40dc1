"""The figures against scikit-learn, scipy, the Handbook's own procedure and brute force."""

from __future__ import annotations

import itertools
import json
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import binomtest
from sklearn import metrics as sk

from training.metrics import (
    DAY_MS,
    DEFINITIONS,
    Costs,
    Scored,
    card_precision,
    choose_thresholds,
    classification_text,
    curves,
    exact_interval,
    metrics,
    precision_interval,
)

ISSUE_NAMES = [
    *("average_precision", "roc_auc", "recall", "precision", "f1", "accuracy", "specificity", "kappa", "fpr", "fdr"),
    *("recall_at_precision_0.9", "recall_at_precision_0.99", "cp_at_100", "ece", "brier", "frauds_per_investigation"),
    *("cost_saved", "savings_per_year"),
]


def scored(
    n: int = 4_000, seed: int = 0, *, legit_weight: float = 1.0, ties: bool = False, rate: float = 0.05
) -> Scored:
    rng = np.random.default_rng(seed)
    fraud = (rng.random(n) < rate).astype(np.int8)
    fraud[:2] = (0, 1)
    margin = rng.normal(-3, 1.2, n) + fraud * rng.normal(3, 1.5, n)
    probability = 1 / (1 + np.exp(-margin))
    if ties:
        probability = np.round(probability, 2)
    model = ((probability >= 0.3).astype(np.int8) + (probability >= 0.7)).astype(np.int8)
    policy = np.maximum(model, (rng.random(n) < 0.01).astype(np.int8)).astype(np.int8)
    return Scored(
        is_fraud=fraud,
        probability=probability,
        model_outcome=model,
        policy_outcome=policy,
        amount=rng.lognormal(4, 1, n),
        weight=np.where(fraud == 1, 1.0, legit_weight),
        time_ms=np.sort(rng.integers(0, 10 * DAY_MS, n)) + 1_600_000_000_000 // DAY_MS * DAY_MS,
        party=rng.integers(-1, n // 6, n),
    )


# ------------------------------------------------------------------------------------- against scikit-learn


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("legit_weight", [1.0, 256.36])
def test_every_figure_equals_scikit_learns_with_weights_and_ties(legit_weight: float, ties: bool) -> None:
    rows = scored(legit_weight=legit_weight, ties=ties)
    got = metrics(rows, costs=Costs(), bootstrap=5)
    y, p, w = rows.is_fraud, rows.probability, rows.weight
    flag = (rows.model_outcome != 0).astype(int)
    kw = {"sample_weight": w}
    tn, fp, _, tp = sk.confusion_matrix(y, flag, **kw).ravel()
    expected = {
        "average_precision": sk.average_precision_score(y, p, **kw),
        "roc_auc": sk.roc_auc_score(y, p, **kw),
        "recall": sk.recall_score(y, flag, **kw),
        "precision": sk.precision_score(y, flag, **kw),
        "f1": sk.f1_score(y, flag, **kw),
        "accuracy": sk.accuracy_score(y, flag, **kw),
        "specificity": tn / (tn + fp),
        "kappa": sk.cohen_kappa_score(y, flag, **kw),
        "fpr": fp / (fp + tn),
        "fdr": fp / (fp + tp),
        "brier": sk.brier_score_loss(y, p, **kw),
        "frauds_per_investigation": tp / (tp + fp),
    }
    precision, recall, _ = sk.precision_recall_curve(y, p, **kw)
    for floor in (0.9, 0.99):
        expected[f"recall_at_precision_{floor}"] = recall[precision >= floor].max()
    for name, value in expected.items():
        assert got[name] == pytest.approx(value, abs=1e-12), name
        assert got["model"][name] == got[name]
    assert got["fraud_rate"]["weighted"] == pytest.approx((w * y).sum() / w.sum())
    assert got["fraud_rate"]["sample"] == pytest.approx(y.mean())
    assert got["counts"]["weighted_rows"] == pytest.approx(w.sum())


def test_calibration_error_equals_the_textbook_sum_over_ten_bins() -> None:
    rows = scored(legit_weight=3.0)
    total = 0.0
    for i in range(10):
        inside = (rows.probability >= i / 10) & (rows.probability < (i + 1) / 10)
        if i == 9:
            inside |= rows.probability == 1
        w = rows.weight[inside]
        if w.sum():
            gap = np.average(rows.is_fraud[inside], weights=w) - np.average(rows.probability[inside], weights=w)
            total += w.sum() / rows.weight.sum() * abs(gap)
    assert metrics(rows, costs=Costs(), bootstrap=0)["ece"] == pytest.approx(total, abs=1e-12)


def test_a_weight_of_two_says_the_same_as_the_row_twice() -> None:
    rows = scored(600)
    doubled = replace(rows, weight=rows.weight * np.where(np.arange(600) % 3 == 0, 2.0, 1.0))
    index = np.sort(np.concatenate((np.arange(600), np.arange(0, 600, 3))))
    repeated = Scored(**{name: getattr(rows, name)[index] for name in Scored.__dataclass_fields__})
    left, right = (metrics(r, costs=Costs(), bootstrap=0) for r in (doubled, repeated))
    for part in ("model", "policy"):
        for name, value in right[part].items():
            if name not in ("intervals", "confusion") and not name.startswith("cp_at"):
                assert left[part][name] == pytest.approx(value), name


def test_model_and_policy_are_judged_apart() -> None:
    rows = scored()
    got = metrics(rows, costs=Costs(), bootstrap=0)
    flag = rows.policy_outcome != 0
    assert got["policy"]["recall"] == pytest.approx(rows.is_fraud[flag].sum() / rows.is_fraud.sum())
    assert got["policy"]["precision"] == pytest.approx(rows.is_fraud[flag].mean())
    assert got["policy"]["fpr"] > got["model"]["fpr"]
    assert got["recall"] == got["model"]["recall"]
    assert "average_precision" not in got["policy"]


def test_every_name_of_the_evaluation_contract_is_there_and_defined() -> None:
    got = metrics(scored(), costs=Costs(), bootstrap=3)
    for name in ISSUE_NAMES:
        assert isinstance(got[name], float), name
        assert name in DEFINITIONS


# -------------------------------------------------------------------------------------------------- intervals


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(1, max(1, n - 1)), st.just(n))))
@settings(max_examples=60, deadline=None)
def test_the_exact_interval_is_scipys(pair: tuple[int, int]) -> None:
    successes, trials = pair
    if successes == trials:
        return
    expected = binomtest(successes, trials).proportion_ci(0.95, method="exact")
    assert exact_interval(successes, trials) == pytest.approx((expected.low, expected.high), abs=1e-10)


def test_no_error_gives_a_one_sided_bound_not_certainty() -> None:
    low, high = exact_interval(0, 16_582) or (0, 0)
    expected = binomtest(0, 16_582, alternative="less").proportion_ci(0.95, method="exact").high
    assert (low, high) == pytest.approx((0.0, expected), rel=1e-9)
    assert high == pytest.approx(1.8065e-4, rel=1e-3)
    assert exact_interval(5_490, 5_490) == pytest.approx((0.05 ** (1 / 5_490), 1.0))
    assert exact_interval(0, 0) is None
    with pytest.raises(ValueError, match="3 successes in 2 trials"):
        exact_interval(3, 2)


def test_the_precision_interval_is_carried_to_the_weighted_fraud_rate() -> None:
    rows = scored(legit_weight=100.0)
    got = metrics(rows, costs=Costs(), bootstrap=0)
    sample, weighted = got["intervals"]["precision_sample"], got["intervals"]["precision"]
    for end in ("low", "high"):
        assert weighted[end] == pytest.approx(sample[end] / (sample[end] + 100 * (1 - sample[end])))
    assert weighted["low"] < got["precision"] < weighted["high"] < sample["low"]
    uneven = replace(rows, weight=np.linspace(1, 2, len(rows.weight)))
    assert metrics(uneven, costs=Costs(), bootstrap=0)["intervals"]["precision"] is None


@pytest.mark.parametrize("ties", [False, True])
def test_bootstrap_intervals_agree_with_resampling_every_row(ties: bool) -> None:
    rows = scored(3_000, ties=ties, legit_weight=5.0)
    got = metrics(rows, costs=Costs(), bootstrap=2_000)["intervals"]
    rng = np.random.default_rng(3)
    y, p, w = rows.is_fraud, rows.probability, rows.weight
    draws = []
    for _ in range(400):
        pick = np.concatenate([rng.choice(np.flatnonzero(y == c), int((y == c).sum())) for c in (0, 1)])
        one = {"sample_weight": w[pick]}
        draws.append((sk.average_precision_score(y[pick], p[pick], **one), sk.roc_auc_score(y[pick], p[pick], **one)))
    expected = np.quantile(np.array(draws), [0.025, 0.975], axis=0)
    for i, name in enumerate(("average_precision", "roc_auc")):
        width = expected[1, i] - expected[0, i]
        assert got[name]["low"] == pytest.approx(expected[0, i], abs=0.15 * width)
        assert got[name]["high"] == pytest.approx(expected[1, i], abs=0.15 * width)


def test_the_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    rows = scored()
    first, again, other = (metrics(rows, costs=Costs(), seed=s)["intervals"] for s in (1, 1, 2))
    assert first == again
    assert first["average_precision"]["low"] != other["average_precision"]["low"]


def test_average_precisions_own_interval_is_that_of_the_metrics() -> None:
    rows = scored(500, legit_weight=5.0)
    told = metrics(rows, costs=Costs(), seed=3)["intervals"]["average_precision"]
    alone = precision_interval(rows.probability, rows.is_fraud, rows.weight, seed=3)
    assert alone == (told["low"], told["high"])
    assert precision_interval(rows.probability, np.zeros_like(rows.is_fraud), rows.weight) is None


def test_a_ranking_without_error_still_has_a_bound() -> None:
    rows = scored(500)
    perfect = replace(rows, probability=np.where(rows.is_fraud == 1, 0.9, 0.1))
    got = metrics(perfect, costs=Costs())
    frauds = int(rows.is_fraud.sum())
    assert got["average_precision"] == got["roc_auc"] == 1.0
    assert got["intervals"]["average_precision"]["low"] == pytest.approx(0.05 ** (1 / frauds))
    assert "no ranking error" in got["intervals"]["roc_auc"]["method"]


# ------------------------------------------------------------------------------------- card precision and costs


def handbook(rows: Scored, k: int) -> float:
    """The Handbook's procedure step by step: per day group by customer (maximum score, maximum label), take the first
    k, divide by k, and leave found customers out from then on."""
    frame = pd.DataFrame(
        {"day": rows.time_ms // DAY_MS, "customer": rows.party, "p": rows.probability, "fraud": rows.is_fraud}
    )
    found: set[int] = set()
    daily = []
    for _, today in frame.groupby("day"):
        today = today[~today["customer"].isin(found)]
        top = today.groupby("customer").max().sort_values("p", ascending=False).head(k)
        hits = top[top["fraud"] == 1].index
        daily.append(len(hits) / k)
        found.update(hits)
    return float(np.mean(daily))


@pytest.mark.parametrize("k", [1, 10, 40, 10_000])
def test_card_precision_is_the_handbooks_with_found_customers_removed(k: int) -> None:
    rows = scored(3_000)
    rows = replace(rows, party=np.abs(rows.party))
    assert card_precision(rows, k) == pytest.approx(handbook(rows, k))


def test_a_customer_found_on_one_day_is_left_out_on_later_days() -> None:
    rows = scored(4)
    rows = replace(
        rows,
        is_fraud=np.array([1, 0, 1, 0], np.int8),
        probability=np.array([0.9, 0.1, 0.9, 0.5]),
        party=np.array([7, 8, 7, 9]),
        time_ms=np.array([0, 1, DAY_MS, DAY_MS + 1]),
    )
    assert card_precision(rows, 1) == 0.5


def test_rows_without_a_customer_count_one_by_one() -> None:
    rows = scored(2_000)
    rows = replace(rows, party=np.full(2_000, -1))
    single = replace(rows, party=np.arange(2_000))
    assert card_precision(rows, 20) == card_precision(single, 20)


def test_with_weights_a_customer_takes_as_many_places_as_it_stands_for() -> None:
    rows = scored(3)
    rows = replace(
        rows,
        is_fraud=np.array([1, 0, 1], np.int8),
        probability=np.array([0.9, 0.8, 0.7]),
        party=np.array([1, 2, 3]),
        time_ms=np.array([0, 1, 2]),
        weight=np.array([1.0, 8.0, 3.0]),
    )
    assert card_precision(rows, 10) == pytest.approx((1 + 1) / 10)
    assert card_precision(rows, 9) == pytest.approx(1 / 9)


def test_no_ranking_beats_the_best_possible_card_precision() -> None:
    rows = scored(3_000)
    got = metrics(rows, costs=Costs(), bootstrap=0, k=15)
    assert 0 < got["cp_at_15"] <= got["cp_at_15_best_possible"] <= 1
    perfect = replace(rows, probability=rows.is_fraud * 0.5 + rows.probability * 0.4)
    got = metrics(perfect, costs=Costs(), bootstrap=0, k=15)
    assert got["cp_at_15"] == pytest.approx(got["cp_at_15_best_possible"])


def test_cost_saved_is_what_a_ledger_would_say() -> None:
    rows = scored(4)
    rows = replace(
        rows,
        is_fraud=np.array([1, 1, 1, 0], np.int8),
        model_outcome=np.array([0, 1, 2, 2], np.int8),
        policy_outcome=np.array([2, 2, 2, 0], np.int8),
        amount=np.array([100.0, 200.0, 400.0, 50.0]),
        weight=np.array([1.0, 1.0, 1.0, 10.0]),
        time_ms=np.array([0, 1, 2, 73 * DAY_MS]),
    )
    costs = Costs(fraud_fee=25, review_cost=5, review_catch=0.9, false_decline_cost=20)
    got = metrics(rows, costs=costs, bootstrap=0)
    approve_all = 125 + 225 + 425
    cost = 125 + (5 + 0.1 * 225) + 0 + 10 * 20
    assert got["cost_saved"] == pytest.approx(approve_all - cost)
    assert got["savings_per_year"] == pytest.approx((approve_all - cost) * 365.25 / 73)
    assert got["policy"]["cost_saved"] == pytest.approx(approve_all)
    assert got["value_recall"] == pytest.approx(600 / 700)


def test_a_cost_out_of_range_is_named() -> None:
    with pytest.raises(ValueError, match=r"Costs\.review_catch is 1\.5, expected a share"):
        Costs(review_catch=1.5)
    with pytest.raises(ValueError, match=r"Costs\.fraud_fee"):
        Costs(fraud_fee=-1)


# --------------------------------------------------------------------------------------------------- edge cases


@pytest.mark.parametrize("label", [0, 1])
def test_rows_of_one_class_give_strict_json_with_nothing_in_place_of_undefined_figures(label: int) -> None:
    rows = scored(300)
    rows = replace(rows, is_fraud=np.full(300, label, np.int8))
    got = metrics(rows, costs=Costs())
    text = json.dumps({"metrics": got, "curves": curves(rows)}, allow_nan=False)
    assert got["roc_auc"] is None
    assert "NaN" not in text
    assert got["average_precision"] == (1.0 if label else None)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("probability", np.nan), ("probability", 1.2), ("is_fraud", 2)),
        *(("model_outcome", 3), ("weight", -1.0), ("amount", np.inf)),
    ],
)
def test_a_value_out_of_range_is_named_with_its_row(field: str, value: float) -> None:
    rows = scored(10)
    wrong = getattr(rows, field).copy()
    wrong[3] = value
    with pytest.raises(ValueError, match=rf"Scored\.{field}: row 3"):
        replace(rows, **{field: wrong})


def test_a_field_of_another_length_is_named() -> None:
    with pytest.raises(ValueError, match=r"Scored\.amount has shape \(9,\)"):
        replace(scored(10), amount=np.ones(9))


scores = hnp.arrays(np.float64, st.integers(2, 60), elements=st.floats(0, 1, width=16))


@given(scores, st.integers(0, 2**32 - 1))
@settings(max_examples=80, deadline=None)
def test_figures_stay_in_their_ranges_whatever_the_scores(probability: np.ndarray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = len(probability)
    rows = Scored(
        is_fraud=rng.integers(0, 2, n).astype(np.int8),
        probability=probability,
        model_outcome=rng.integers(0, 3, n).astype(np.int8),
        policy_outcome=rng.integers(0, 3, n).astype(np.int8),
        amount=rng.random(n) * 100,
        weight=rng.random(n) + 0.1,
        time_ms=rng.integers(0, 3 * DAY_MS, n),
        party=rng.integers(-1, 5, n),
    )
    got = metrics(rows, costs=Costs(), bootstrap=10)
    json.dumps([got, curves(rows, points=20)], allow_nan=False)
    for name in ISSUE_NAMES[:15]:
        if got[name] is not None:
            assert -1e-12 <= got[name] <= 1 + 1e-12 or name == "kappa", name
    for name, interval in got["intervals"].items():
        if interval:
            assert interval["low"] <= interval["high"], name
    if rows.is_fraud.any():
        weights = {"sample_weight": rows.weight}
        expected = sk.average_precision_score(rows.is_fraud, probability, **weights)
        assert got["average_precision"] == pytest.approx(expected, abs=1e-9)
        if not rows.is_fraud.all():
            assert got["roc_auc"] == pytest.approx(sk.roc_auc_score(rows.is_fraud, probability, **weights), abs=1e-9)


def test_a_million_rows_take_seconds() -> None:
    rows = scored(1_000_000, rate=0.005)
    start = time.process_time()
    metrics(rows, costs=Costs())
    curves(rows)
    choose_thresholds(rows.probability, rows.is_fraud, rows.amount, rows.weight, Costs())
    assert time.process_time() - start < 20


# ------------------------------------------------------------------------------------------------------- curves


def test_curves_are_short_and_lie_on_scikit_learns() -> None:
    rows = scored(20_000, legit_weight=7.0)
    got = curves(rows, points=100)
    y, p, w = rows.is_fraud, rows.probability, rows.weight
    precision, recall, _ = sk.precision_recall_curve(y, p, sample_weight=w)
    fpr, tpr, _ = sk.roc_curve(y, p, sample_weight=w, drop_intermediate=False)
    for name, x, line in (("pr", recall, precision), ("roc", fpr, tpr)):
        drawn = got[name]
        ours = zip(*(drawn[key] for key in (("recall", "precision") if name == "pr" else ("fpr", "tpr"))), strict=True)
        for at, value in ours:
            assert np.min(np.abs(x - at) + np.abs(line - value)) < 1e-5, name
    assert got["roc"]["fpr"][0] == got["roc"]["tpr"][0] == 0.0
    assert got["roc"]["fpr"][-1] == got["roc"]["tpr"][-1] == 1.0
    for name in ("pr", "roc", "cost"):
        assert all(2 <= len(line) <= 101 for line in got[name].values() if isinstance(line, list)), name
    assert len(json.dumps(got)) < 30_000


def test_the_cost_curve_is_the_cost_at_its_thresholds() -> None:
    rows = scored(2_000, legit_weight=3.0)
    costs = Costs(review_cost=7)
    line = curves(rows, costs=costs)["cost"]
    for i in range(0, len(line["threshold"]), 9):
        flag = rows.probability >= line["threshold"][i]
        for kind, code in (("review", 1), ("decline", 2)):
            outcome = np.where(flag, code, 0).astype(np.int8)
            total = rows.weight @ costs.of(outcome, rows.is_fraud, rows.amount)
            assert line[kind][i] == pytest.approx(1000 * total / rows.weight.sum(), rel=1e-5)
        assert line["flagged"][i] == pytest.approx(rows.weight[flag].sum() / rows.weight.sum(), rel=1e-5)
    assert line["threshold"] == sorted(line["threshold"])


def test_calibration_bins_hold_every_row_once() -> None:
    rows = scored(5_000)
    bins = curves(rows)["calibration"]
    assert sum(b["rows"] for b in bins) == 5_000
    assert sum(b["frauds"] for b in bins) == rows.is_fraud.sum()
    for b in bins:
        assert b["low"] <= b["mean_probability"] <= b["high"]
        assert b["interval"][0] <= b["fraud_rate"] <= b["interval"][1]


# --------------------------------------------------------------------------------------------------- thresholds


def cost_of(pair: tuple[float, float], rows: Scored, costs: Costs) -> float:
    review, decline = pair
    outcome = np.where(rows.probability >= decline, 2, np.where(rows.probability >= review, 1, 0)).astype(np.int8)
    mass = rows.weight.sum()
    reviewed, declined, flagged = outcome == 1, outcome == 2, outcome > 0
    caught = rows.weight * rows.is_fraud
    if rows.weight[reviewed].sum() > costs.capacity * mass + 1e-7 * mass:
        return np.inf
    if caught[declined].sum() < costs.decline_precision * rows.weight[declined].sum() - 1e-7 * mass:
        return np.inf
    if caught[flagged].sum() < costs.flag_precision * rows.weight[flagged].sum() - 1e-7 * mass:
        return np.inf
    return float(rows.weight @ costs.of(outcome, rows.is_fraud, rows.amount))


@given(
    st.integers(0, 2**32 - 1),
    st.integers(2, 25),
    st.integers(2, 30),
    st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    st.sampled_from([0.0, 0.5, 0.9]),
    st.sampled_from([0.0, 0.3]),
)
@settings(max_examples=150, deadline=None)
def test_no_pair_of_thresholds_is_cheaper(
    seed: int, n: int, levels: int, capacity: float, decline_precision: float, flag_precision: float
) -> None:
    rng = np.random.default_rng(seed)
    rows = scored(n, seed=seed % 1000, legit_weight=float(rng.choice([1.0, 9.0])))
    rows = replace(
        rows,
        probability=rng.integers(1, levels, n) / (levels + 1),
        is_fraud=np.where(np.arange(n) == 0, 1, rng.integers(0, 2, n)).astype(np.int8),
    )
    costs = Costs(
        fraud_fee=3,
        review_cost=float(rng.choice([1, 5, 30])),
        review_catch=float(rng.choice([0.5, 0.95])),
        false_decline_cost=float(rng.choice([1, 20, 200])),
        capacity=capacity,
        decline_precision=decline_precision,
        flag_precision=flag_precision,
    )
    got = choose_thresholds(rows.probability, rows.is_fraud, rows.amount, rows.weight, costs)
    assert 0 < got[0] <= got[1] < 1
    edges = np.concatenate((np.unique(rows.probability) - 1e-6, [0.9999]))
    best = min(cost_of(pair, rows, costs) for pair in itertools.combinations_with_replacement(edges, 2))
    assert cost_of(got, rows, costs) == pytest.approx(best, rel=1e-9, abs=1e-9)


def test_thresholds_lie_half_way_between_the_classes_a_perfect_score_parts() -> None:
    fraud = np.array([0, 0, 1, 1], np.int8)
    pair = choose_thresholds(np.array([0.1, 0.2, 0.8, 0.9]), fraud, np.full(4, 500.0), np.ones(4), Costs(capacity=0))
    assert pair == pytest.approx((0.5, 0.5))


def test_review_never_takes_more_than_the_capacity() -> None:
    rows = scored(20_000, ties=True)
    rows = replace(rows, probability=np.clip(rows.probability, 0.001, 0.999))
    for capacity in (0.0, 0.001, 0.01, 0.1):
        costs = Costs(capacity=capacity)
        review, decline = choose_thresholds(rows.probability, rows.is_fraud, rows.amount, rows.weight, costs)
        assert ((rows.probability >= review) & (rows.probability < decline)).mean() <= capacity + 1e-9


def test_nothing_is_flagged_below_the_least_probability() -> None:
    rng = np.random.default_rng(4)
    probability = rng.random(500)
    fraud = (rng.random(500) < probability).astype(np.int8)
    amount, weight = np.full(500, 1_000.0), np.ones(500)
    assert choose_thresholds(probability, fraud, amount, weight, Costs(decline_precision=0))[0] < 0.5
    held = choose_thresholds(probability, fraud, amount, weight, Costs(decline_precision=0, flag_probability=0.5))
    assert 0.5 <= held[0] <= held[1] < 1
    at_the_end = choose_thresholds(probability, fraud, amount, weight, Costs(flag_probability=1.0))
    assert 0 < at_the_end[0] <= at_the_end[1] < 1


def test_huge_frauds_do_not_decline_customers_below_the_precision_floor() -> None:
    rows = scored(20_000, rate=0.005)
    rich = np.full(20_000, 300_000.0)
    free = choose_thresholds(rows.probability, rows.is_fraud, rich, rows.weight, Costs(decline_precision=0))
    held = choose_thresholds(rows.probability, rows.is_fraud, rich, rows.weight, Costs(decline_precision=0.5))
    assert rows.is_fraud[rows.probability >= free[1]].mean() < 0.2
    assert rows.is_fraud[rows.probability >= held[1]].mean() >= 0.5


@pytest.mark.parametrize(
    "probability",
    [
        np.array([0.0, 1.0, 1.0, 0.0]),
        np.array([0.0, 0.0, 0.0, 0.0]),
        np.array([1.0, 1.0, 1.0, 1.0]),
        np.array([0.0, np.nextafter(1, 0), 1.0, 5e-324]),
        np.array([0.5, 0.5, 0.5, 0.5]),
        np.array([0.5, np.nextafter(0.5, 1), 0.5, np.nextafter(0.5, 0)]),
    ],
)
@pytest.mark.parametrize("amount", [0.0, 1e6])
def test_extreme_and_tied_scores_still_give_thresholds_inside_zero_and_one(
    probability: np.ndarray, amount: float
) -> None:
    fraud = np.array([0, 1, 1, 0], np.int8)
    for costs in (Costs(), Costs(capacity=1), Costs(decline_precision=1, flag_precision=1)):
        review, decline = choose_thresholds(probability, fraud, np.full(4, amount), np.ones(4), costs)
        assert 0 < review <= decline < 1


def test_without_a_fraud_there_is_no_threshold_to_choose() -> None:
    with pytest.raises(ValueError, match="hold no fraud"):
        choose_thresholds(np.array([0.1, 0.2]), np.zeros(2, np.int8), np.ones(2), np.ones(2), Costs())


def test_scores_and_labels_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="is_fraud has 3 rows, probability has 2"):
        choose_thresholds(np.array([0.1, 0.2]), np.ones(3, np.int8), np.ones(2), np.ones(2), Costs())


# -------------------------------------------------------------------------------------------------- text report


def test_the_text_report_is_scikit_learns_classification_report() -> None:
    rows = scored()
    text = classification_text(rows)
    for outcome in (rows.model_outcome, rows.policy_outcome):
        expected = sk.classification_report(
            rows.is_fraud, (outcome != 0).astype(int), target_names=["LEGIT", "FRAUD"], digits=4
        )
        assert expected in text
    assert f"fraud rate {rows.is_fraud.mean():.4%}" in text


def test_weighted_rows_get_a_weighted_report_beside_the_plain_one() -> None:
    rows = scored(legit_weight=256.36)
    text = classification_text(rows)
    assert text.count("Model alone") == 2
    weighted = (rows.weight * rows.is_fraud).sum() / rows.weight.sum()
    assert f"by weight, fraud rate {weighted:.4%}" in text


def test_a_report_on_one_class_divides_by_nothing() -> None:
    rows = replace(scored(50), is_fraud=np.zeros(50, np.int8), model_outcome=np.zeros(50, np.int8))
    assert "0.0000" in classification_text(rows)
