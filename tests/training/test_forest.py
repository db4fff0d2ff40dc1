"""A sealed forest says what XGBoost says: margins to the bit, contributions as pred_contribs."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import xgboost as xgb

from fraud_api_lambda.errors import BundleRefused
from fraud_api_lambda.model import MAX_DEPTH, Forest, pack, unpack
from training.forest import check_parity, flatten

WIDTH = 12
ROWS = 100_000
Singles = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def data() -> tuple[Singles, npt.NDArray[np.int8]]:
    """Rows as transactions are: heavy-tailed money, flags, whole hours, gaps; a tenth are frauds."""
    rng = np.random.default_rng(1)
    n = 8_000
    rows = np.column_stack(
        [
            np.exp(rng.normal(4, 2, n)).round(2),
            np.exp(rng.normal(6, 3, n)).round(2),
            *(rng.integers(0, 2, n) for _ in range(4)),
            rng.integers(0, 24, n),
            rng.normal(0, 1, (n, 4)),
            rng.normal(0, 1e-30, n),
        ]
    ).astype(np.float32)
    score = (rows[:, 0] > 60) + rows[:, 2] * rows[:, 3] + rows[:, 7] + (rows[:, 6] < 6)
    labels = (score > np.quantile(score, 0.9)).astype(np.int8)
    rows[rng.random(rows.shape) < 0.1] = np.nan
    return rows, labels


@pytest.fixture(scope="module")
def judged(data: tuple[Singles, npt.NDArray[np.int8]]) -> Singles:
    """A hundred thousand further rows, a fifth of their values missing, a few rows without any."""
    rng = np.random.default_rng(2)
    base = data[0]
    rows = np.column_stack([rng.choice(base[:, column], ROWS) for column in range(WIDTH)])
    rows[:, 7:11] += rng.normal(0, 0.1, (ROWS, 4)).astype(np.float32)
    rows[rng.random(rows.shape) < 0.12] = np.nan
    rows[:50] = np.nan
    return np.ascontiguousarray(rows, np.float32)


def train(data: tuple[Singles, npt.NDArray[np.int8]], **options: Any) -> xgb.Booster:
    rows, labels = data
    settings = {"n_estimators": 60, "max_depth": 5, "n_jobs": 1, "random_state": 3, "tree_method": "hist", **options}
    booster: xgb.Booster = xgb.XGBClassifier(**settings).fit(rows, labels).get_booster()
    return booster


def early_stopped(data: tuple[Singles, npt.NDArray[np.int8]]) -> xgb.Booster:
    rows, labels = data
    model = xgb.XGBClassifier(n_estimators=400, learning_rate=0.5, early_stopping_rounds=3, n_jobs=1)
    model.fit(rows[:6_000], labels[:6_000], eval_set=[(rows[6_000:], labels[6_000:])], verbose=False)
    assert model.best_iteration < 399
    return model.get_booster()[: model.best_iteration + 1]


def rare(data: tuple[Singles, npt.NDArray[np.int8]]) -> xgb.Booster:
    """Four frauds among eight thousand: base_score far from a half."""
    rows, labels = data
    few = np.zeros_like(labels)
    few[np.flatnonzero(labels)[:4]] = 1
    return train((rows, few), min_child_weight=0.01)


def with_missing_never_seen(data: tuple[Singles, npt.NDArray[np.int8]]) -> xgb.Booster:
    return train((np.nan_to_num(data[0], nan=0.0), data[1]))


def continued(data: tuple[Singles, npt.NDArray[np.int8]]) -> xgb.Booster:
    rows, labels = data
    first = xgb.XGBClassifier(n_estimators=20, max_depth=3, n_jobs=1).fit(rows, labels)
    booster: xgb.Booster = (
        xgb.XGBClassifier(n_estimators=20, max_depth=5, n_jobs=1)
        .fit(rows, 1 - labels, xgb_model=first.get_booster())
        .get_booster()
    )
    return booster


MODELS: dict[str, Callable[[tuple[Singles, npt.NDArray[np.int8]]], xgb.Booster]] = {
    "as the default bundle, 250 trees": lambda data: train(
        data, n_estimators=250, learning_rate=0.1, subsample=0.9, colsample_bytree=0.9
    ),
    "base_score .02": lambda data: train(data, base_score=0.02),
    "base_score .97, depth 6": lambda data: train(data, base_score=0.97, max_depth=6, n_estimators=40),
    "four frauds in eight thousand": rare,
    "early stopped": early_stopped,
    "one tree": lambda data: train(data, n_estimators=1),
    "stumps": lambda data: train(data, max_depth=1, n_estimators=100),
    "one stump": lambda data: train(data, max_depth=1, n_estimators=1),
    "trees without a question": lambda data: train(data, gamma=1e9, n_estimators=3),
    "trained where nothing was missing": with_missing_never_seen,
    "several trees a round, weighted": lambda data: train(
        data, n_estimators=20, num_parallel_tree=3, scale_pos_weight=30.0, subsample=0.5, colsample_bynode=0.5
    ),
    "exact splits, leaf-wise, large steps": lambda data: train(
        data, tree_method="exact", learning_rate=1.0, reg_lambda=0.0, n_estimators=30
    ),
    "grown in two runs": continued,
}


@pytest.fixture(scope="module", params=MODELS)
def pair(request: pytest.FixtureRequest, data: tuple[Singles, npt.NDArray[np.int8]]) -> tuple[Forest, xgb.Booster]:
    booster = MODELS[request.param](data)
    return flatten(booster, WIDTH), booster


def margins_of(booster: xgb.Booster, rows: Singles) -> Singles:
    return np.asarray(booster.inplace_predict(rows, predict_type="margin", missing=np.nan), np.float32)


def bits(margins: npt.NDArray[np.float64]) -> npt.NDArray[np.int32]:
    """The bits of margins that are float32 numbers, told in float64."""
    single = margins.astype(np.float32)
    np.testing.assert_array_equal(single.astype(np.float64), margins)
    return single.view(np.int32)


def test_margins_equal_xgboosts_to_the_bit(pair: tuple[Forest, xgb.Booster], judged: Singles) -> None:
    forest, booster = pair
    theirs = margins_of(booster, judged)
    np.testing.assert_array_equal(bits(forest.margins(judged)), theirs.view(np.int32))
    alone = np.array([forest.margin(row) for row in judged[:300]], np.float32)
    np.testing.assert_array_equal(bits(alone), theirs[:300].view(np.int32))


def test_margins_equal_where_values_lie_on_a_threshold_or_next_to_it(
    pair: tuple[Forest, xgb.Booster], judged: Singles
) -> None:
    forest, booster = pair
    inner = forest.child[::2] != np.arange(len(forest.feature))
    rng = np.random.default_rng(4)
    rows = judged[1_000:5_000].copy()
    for column in range(WIDTH):
        at = forest.value[inner & (forest.feature == column)]
        if len(at):
            edge = rng.choice(at, len(rows))
            toward = rng.choice(np.array([-np.inf, np.inf], np.float32), len(rows))
            rows[:, column] = np.where(rng.random(len(rows)) < 0.5, edge, np.nextafter(edge, toward))
    rows[0], rows[1], rows[2] = 0.0, -0.0, np.finfo(np.float32).max
    rows[3], rows[4] = np.finfo(np.float32).min, np.finfo(np.float32).smallest_subnormal
    np.testing.assert_array_equal(bits(forest.margins(rows)), margins_of(booster, rows).view(np.int32))


def test_contributions_are_pred_contribs_and_add_up(pair: tuple[Forest, xgb.Booster], judged: Singles) -> None:
    forest, booster = pair
    rows = judged[40:300]  # ten of them without any value
    theirs = booster.predict(xgb.DMatrix(rows, missing=np.nan), pred_contribs=True)
    ours = np.array([forest.contributions(row) for row in rows])
    assert np.abs(ours - theirs[:, :-1]).max() <= 1e-4
    assert np.abs(forest.expected - theirs[:, -1]).max() <= 1e-4
    assert np.abs(forest.expected + ours.sum(axis=1) - forest.margins(rows)).max() <= 1e-4


def test_a_flattened_forest_survives_packing(pair: tuple[Forest, xgb.Booster], judged: Singles) -> None:
    forest, _ = pair
    (again,) = unpack(pack(forest))
    assert isinstance(again, Forest)
    np.testing.assert_array_equal(again.margins(judged[:2_000]), forest.margins(judged[:2_000]))
    assert pack(again) == pack(forest)


def test_contributions_are_shapley_values_by_their_definition(data: tuple[Singles, npt.NDArray[np.int8]]) -> None:
    from itertools import combinations
    from math import factorial

    forest = flatten(train(data, n_estimators=3, max_depth=3), WIDTH)
    used = sorted(set(forest.feature[forest.child[::2] != np.arange(len(forest.feature))].tolist()))
    booster = train(data, n_estimators=3, max_depth=3)
    cover = covers(booster)
    row = data[0][17]

    def worth(known: frozenset[int]) -> float:
        """The mean margin of rows that agree with ``row`` on ``known``, by cover."""

        def walk(at: int) -> float:
            right, left = int(forest.child[2 * at]), int(forest.child[2 * at + 1])
            if left == at:
                return float(forest.value[at])
            tested = int(forest.feature[at])
            if tested in known:
                value = row[tested]
                goes_left = bool(forest.missing_left[at]) if np.isnan(value) else bool(value < forest.value[at])
                return walk(left if goes_left else right)
            return (cover[left] * walk(left) + cover[right] * walk(right)) / cover[at]

        return sum(walk(int(root)) for root in forest.root)

    n = len(used)
    expected = np.zeros(WIDTH)
    for feature in used:
        others = [other for other in used if other != feature]
        for size in range(n):
            share = factorial(size) * factorial(n - size - 1) / factorial(n)
            for chosen in combinations(others, size):
                expected[feature] += share * (worth(frozenset({*chosen, feature})) - worth(frozenset(chosen)))
    np.testing.assert_allclose(forest.contributions(row), expected, atol=1e-5)


def covers(booster: xgb.Booster) -> list[float]:
    """The cover of each node in the forest's order: breadth first, tree by tree."""
    frame = booster.trees_to_dataframe()
    found = []
    for _, tree in frame.groupby("Tree", sort=True):
        by_id = tree.set_index("ID")
        order = [tree["ID"].iloc[0]]
        for name in order:
            if by_id.loc[name, "Feature"] != "Leaf":
                order += [by_id.loc[name, "Yes"], by_id.loc[name, "No"]]
        found += [float(by_id.loc[name, "Cover"]) for name in order]
    return found


def test_parity_is_checked_to_the_last_bit(data: tuple[Singles, npt.NDArray[np.int8]], judged: Singles) -> None:
    booster = train(data, n_estimators=10)
    forest = flatten(booster, WIDTH)
    check_parity(forest, booster, judged[:500])
    forest.bias = np.nextafter(forest.bias, np.float32(9), dtype=np.float32)
    with pytest.raises(BundleRefused, match=r"differ from XGBoost's on .* of 500 rows; not sealed"):
        check_parity(forest, booster, judged[:500])


def test_a_tree_too_deep_is_refused_with_the_mend(data: tuple[Singles, npt.NDArray[np.int8]]) -> None:
    with pytest.raises(BundleRefused, match=r"max_depth|deeper than"):
        flatten(train(data, max_depth=MAX_DEPTH + 4, min_child_weight=0.0, n_estimators=5), WIDTH)


def test_a_model_of_another_kind_is_refused(data: tuple[Singles, npt.NDArray[np.int8]]) -> None:
    rows, labels = data
    hinge = xgb.XGBClassifier(n_estimators=2, n_jobs=1, objective="binary:hinge").fit(rows, labels).get_booster()
    regression = xgb.XGBRegressor(n_estimators=2, n_jobs=1).fit(rows, labels).get_booster()
    for booster in (hinge, regression):
        with pytest.raises(BundleRefused, match="binary:logistic models of gbtree"):
            flatten(booster, WIDTH)


def test_a_model_with_dropout_is_refused(data: tuple[Singles, npt.NDArray[np.int8]]) -> None:
    with pytest.raises(BundleRefused, match="dropout"):
        flatten(train(data, n_estimators=8, rate_drop=0.5), WIDTH)


def test_a_booster_without_trees_is_refused() -> None:
    empty = xgb.train({"objective": "binary:logistic"}, xgb.DMatrix(np.zeros((4, WIDTH)), np.array([0, 1, 0, 1])), 0)
    with pytest.raises(BundleRefused, match="tree"):
        flatten(empty, WIDTH)
