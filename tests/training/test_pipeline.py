"""Filling, SMOTE inside the pipeline, margins and calibration: each does what the report says it did."""

from typing import Any

import numpy as np
import pytest
import xgboost as xgb
from sklearn.base import clone
from sklearn.model_selection import PredefinedSplit, RandomizedSearchCV

from fraud_api_lambda.features import NAMES, FeatureSet, describe, fill
from fraud_api_lambda.model import calibrate
from training import pipeline

PICKED = ("amount", "is_transfer", "hour_of_day", "oldbalance_orig", "amount_to_balance", "drains_account")
FEATURES = FeatureSet(picked=PICKED)
FLAGS = [at for at, name in enumerate(PICKED) if describe(name).kind == "flag"]


@pytest.fixture(scope="module")
def data() -> tuple[Any, Any]:
    """Raw columns of 3,000 rows, a fifth of the balances missing; 60 frauds that drain accounts."""
    rng = np.random.default_rng(1)
    n = 3_000
    fraud = np.zeros(n, np.int8)
    fraud[rng.permutation(n)[:60]] = 1
    columns = np.full((n, len(NAMES)), np.nan)
    amount = np.exp(rng.normal(4 + 2 * fraud, 1)).round(2)
    balance = np.where(fraud == 1, amount, np.exp(rng.normal(7, 1, n)).round(2))
    balance[rng.random(n) < 0.2] = np.nan
    for name, values in {
        "amount": amount,
        "is_transfer": (rng.random(n) < 0.2 + 0.6 * fraud).astype(float),
        "hour_of_day": rng.integers(0, 24, n).astype(float),
        "oldbalance_orig": balance,
        "amount_to_balance": amount / (balance + 1),
        "drains_account": np.where(np.isnan(balance), np.nan, (amount == balance).astype(float)),
    }.items():
        columns[:, NAMES.index(name)] = values
    return columns, fraud


def built(**options: Any) -> Any:
    settings: dict[str, Any] = {"balance": "smote", "seed": 7, "ratio": 0.1, "n_estimators": 20, **options}
    return pipeline.build(FEATURES, **settings)


# --- filling ---------------------------------------------------------------------------------------------------------


def test_what_is_missing_is_filled_with_the_mean_of_the_rows_that_have_it() -> None:
    columns = np.full((3, len(NAMES)), np.nan)
    columns[:, NAMES.index("amount")] = [10.0, 20.0, 60.0]
    columns[:, NAMES.index("oldbalance_orig")] = [9.0, np.nan, 29.0]
    columns[:, NAMES.index("amount_to_balance")] = [1.0, np.nan, 2.0]
    columns[:, NAMES.index("drains_account")] = [0.0, np.nan, 1.0]
    filler = pipeline.PopulationFill(FEATURES.index).fit(columns)
    population = dict(zip(NAMES, filler.population_.tolist(), strict=True))
    assert (population["amount"], population["oldbalance_orig"], population["drains_account"]) == (30.0, 19.0, 0.5)
    assert np.isnan(population["hour_of_day"])
    vectors = filler.transform(columns)
    assert vectors.dtype == np.float32
    # The share of the balance follows from the filled balance: 20 / (19 + 1), not the mean of the shares.
    np.testing.assert_array_equal(vectors[1], np.array([20, np.nan, np.nan, 19, 1.0, 0.5], np.float32))
    np.testing.assert_array_equal(vectors[2], np.array([60, np.nan, np.nan, 29, 2.0, 1.0], np.float32))


def test_the_population_is_that_of_the_rows_fitted_on_never_of_those_transformed(data: tuple[Any, Any]) -> None:
    filler = pipeline.PopulationFill(FEATURES.index).fit(data[0][:1_000])
    before = filler.population_.copy()
    filler.transform(data[0] * 5)
    np.testing.assert_array_equal(filler.population_, before)
    np.testing.assert_array_equal(
        filler.transform(data[0]), fill(data[0], before)[:, FEATURES.index].astype(np.float32)
    )


# --- SMOTE -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def filled(data: tuple[Any, Any]) -> tuple[Any, Any]:
    return pipeline.PopulationFill(FEATURES.index).fit(data[0]).transform(data[0]), data[1]


@pytest.mark.parametrize("ratio", [0.05, 0.1, 0.5, 1.0])
def test_smote_adds_frauds_up_to_the_ratio_and_leaves_the_rows_that_were_there_as_they_were(
    filled: tuple[Any, Any], ratio: float
) -> None:
    X, y = filled
    sampler = pipeline.ScaledSMOTE(ratio=ratio, flags=tuple(FLAGS), seed=3)
    grown, labels = sampler.fit_resample(X.copy(), y.copy())
    np.testing.assert_array_equal(grown[: len(X)], X)
    np.testing.assert_array_equal(labels[: len(y)], y)
    assert grown.dtype == X.dtype
    assert set(labels[len(y) :]) == {1}
    assert int(labels.sum()) == int(ratio * (len(y) - 60))
    assert sampler.synthetic_ == len(grown) - len(X)


def test_synthetic_rows_are_finite_keep_flags_and_lie_between_frauds(filled: tuple[Any, Any]) -> None:
    X, y = filled
    grown, _ = pipeline.ScaledSMOTE(ratio=0.5, flags=tuple(FLAGS), seed=3).fit_resample(X, y)
    made, frauds = grown[len(X) :], X[y == 1]
    assert np.isfinite(made).all()
    assert set(np.unique(made[:, FLAGS])) <= {0.0, 1.0}
    numbers = [at for at in range(len(PICKED)) if at not in FLAGS]
    slack = 1e-5 * np.abs(X).max(axis=0)[numbers]
    assert (made[:, numbers] >= frauds[:, numbers].min(axis=0) - slack).all()
    assert (made[:, numbers] <= frauds[:, numbers].max(axis=0) + slack).all()


def test_neighbours_are_found_on_scaled_features_so_money_does_not_decide_alone() -> None:
    # Two groups of frauds, told apart by a small feature; money is spread wide within both.
    rng = np.random.default_rng(5)
    n, each = 2_000, 15
    X = np.column_stack([rng.uniform(0, 1e6, n), rng.normal(0, 0.001, n)]).astype(np.float32)
    y = np.zeros(n, np.int8)
    y[: 2 * each] = 1
    X[:each, 1], X[each : 2 * each, 1] = -0.01, 0.01
    X[: 2 * each, 0] = rng.uniform(4.9e5, 5.1e5, 2 * each)
    grown, _ = pipeline.ScaledSMOTE(ratio=0.2, seed=1).fit_resample(X, y)
    between = np.abs(grown[n:, 1]) < 0.009
    assert not between.any()


@pytest.mark.parametrize("frauds", [2, 3, 6])
def test_smote_takes_as_few_as_two_frauds(filled: tuple[Any, Any], frauds: int) -> None:
    X, y = filled
    few = np.zeros_like(y)
    few[np.flatnonzero(y)[:frauds]] = 1
    _, labels = pipeline.ScaledSMOTE(ratio=0.01, seed=1).fit_resample(X, few)
    assert int(labels.sum()) == int(0.01 * (len(y) - frauds))


def test_data_with_enough_frauds_or_only_one_is_left_as_it_is(filled: tuple[Any, Any]) -> None:
    X, y = filled
    sampler = pipeline.ScaledSMOTE(ratio=0.02)
    grown, labels = sampler.fit_resample(X, y)
    assert (len(grown), sampler.synthetic_) == (len(X), 0)
    one = np.zeros_like(y)
    one[5] = 1
    grown, labels = pipeline.ScaledSMOTE(ratio=0.5).fit_resample(X, one)
    assert (len(grown), int(labels.sum())) == (len(X), 1)


def test_the_same_seed_makes_the_same_rows_and_another_seed_others(filled: tuple[Any, Any]) -> None:
    X, y = filled
    first, _ = pipeline.ScaledSMOTE(ratio=0.1, seed=1).fit_resample(X, y)
    again, _ = pipeline.ScaledSMOTE(ratio=0.1, seed=1).fit_resample(X, y)
    other, _ = pipeline.ScaledSMOTE(ratio=0.1, seed=2).fit_resample(X, y)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_column_that_no_training_row_has_stops_neither_smote_nor_training(data: tuple[Any, Any]) -> None:
    columns, y = data[0].copy(), data[1]
    columns[:, NAMES.index("hour_of_day")] = np.nan  # recorded from next month on, say
    model = built().fit(columns, y)
    assert model["smote"].synthetic_ > 0
    assert np.isfinite(model.predict_proba(data[0])).all()


# --- the pipeline ----------------------------------------------------------------------------------------------------


class Watched(pipeline.MarginXGBClassifier):
    """Notes how many rows each fit and each prediction saw."""

    seen: list[tuple[str, int, int]] = []  # noqa: RUF012

    def fit(self, X: Any, y: Any, **rest: Any) -> Any:
        Watched.seen.append(("fit", len(X), int(y.sum())))
        return super().fit(X, y, **rest)

    def predict_proba(self, X: Any, **rest: Any) -> Any:
        Watched.seen.append(("judge", len(X), 0))
        return super().predict_proba(X, **rest)

    def decision_function(self, X: Any) -> Any:
        Watched.seen.append(("judge", len(X), 0))
        return super().decision_function(X)


def watched(**options: Any) -> Any:
    model = built(**options)
    classifier = Watched(**model["xgb"].get_params())
    model.steps[-1] = ("xgb", classifier)
    return model


def test_smote_works_inside_the_fold_and_the_held_out_fold_is_never_resampled(data: tuple[Any, Any]) -> None:
    X, y = data
    fold = np.where(np.arange(len(X)) < 2_400, -1, 0)
    Watched.seen = []
    search = RandomizedSearchCV(
        watched(), {"smote__ratio": [0.1, 0.3]}, n_iter=2, scoring="average_precision", cv=PredefinedSplit(fold),
        refit=False, error_score="raise",
    )  # fmt: skip
    search.fit(X, y)
    frauds = int(y[:2_400].sum())
    legitimate = 2_400 - frauds
    fitted = sorted((rows, found) for what, rows, found in Watched.seen if what == "fit")
    assert fitted == [(legitimate + int(r * legitimate), int(r * legitimate)) for r in (0.1, 0.3)]
    assert {rows for what, rows, _ in Watched.seen if what == "judge"} == {600}


def test_calibration_sees_untouched_rows_only_and_leaves_the_pipeline_as_it_was(data: tuple[Any, Any]) -> None:
    X, y = data
    model = watched().fit(X[:2_000], y[:2_000])
    before = model["xgb"].get_booster().save_raw("ubj")
    Watched.seen = []
    estimator = pipeline.calibrated(model, X[2_000:], y[2_000:], np.ones(1_000))
    assert not [entry for entry in Watched.seen if entry[0] == "fit"]
    assert sum(rows for what, rows, _ in Watched.seen if what == "judge") == 1_000
    assert model["xgb"].get_booster().save_raw("ubj") == before
    assert estimator.calibrated_classifiers_[0].estimator.estimator is model


def test_platts_numbers_are_scikit_learns_probability(data: tuple[Any, Any]) -> None:
    X, y = data
    model = built().fit(X[:2_000], y[:2_000])
    estimator = pipeline.calibrated(model, X[2_000:], y[2_000:], np.where(y[2_000:] == 1, 1.0, 20.0))
    slope, intercept = pipeline.platt(estimator)
    assert slope > 0
    ours = [calibrate(margin, slope, intercept) for margin in model.decision_function(X).tolist()]
    np.testing.assert_allclose(ours, estimator.predict_proba(X)[:, 1], atol=1e-12)


def test_the_weight_of_legitimate_rows_lowers_the_calibrated_probability(data: tuple[Any, Any]) -> None:
    X, y = data
    model = built().fit(X[:2_000], y[:2_000])
    plain = pipeline.calibrated(model, X[2_000:], y[2_000:], np.ones(1_000))
    heavy = pipeline.calibrated(model, X[2_000:], y[2_000:], np.where(y[2_000:] == 1, 1.0, 250.0))
    assert heavy.predict_proba(X)[:, 1].mean() < plain.predict_proba(X)[:, 1].mean()


def test_the_decision_function_is_xgboosts_margin_in_float64(filled: tuple[Any, Any]) -> None:
    X, y = filled
    model = pipeline.MarginXGBClassifier(n_estimators=5, n_jobs=1).fit(X, y)
    theirs = model.get_booster().predict(xgb.DMatrix(X), output_margin=True)
    assert model.decision_function(X).dtype == np.float64
    np.testing.assert_array_equal(model.decision_function(X).astype(np.float32), theirs)


@pytest.mark.parametrize(
    ("balance", "steps", "weight"),
    [
        ("smote", ["fill", "smote", "xgb"], 1.0),
        ("none", ["fill", "xgb"], 1.0),
        ("scale_pos_weight", ["fill", "xgb"], 49.0),
    ],
)
def test_a_balance_is_a_step_or_a_weight(balance: str, steps: list[str], weight: float) -> None:
    model = built(balance=balance, weight=49.0)
    assert [name for name, _ in model.steps] == steps
    assert model["xgb"].scale_pos_weight == weight


def test_flags_are_given_to_smote_by_position() -> None:
    assert list(built()["smote"].flags) == FLAGS


def test_the_pipeline_can_be_cloned_and_trained_to_the_same_trees(data: tuple[Any, Any]) -> None:
    model = built()
    first = model.fit(*data)["xgb"].get_booster().save_raw("ubj")
    assert clone(model).fit(*data)["xgb"].get_booster().save_raw("ubj") == first
