"""The search for hyperparameters, by scikit-learn and by Optuna."""

import sys

import numpy as np
import numpy.typing as npt
import pytest

from fraud_api_lambda.features import NAMES, FeatureSet
from training import tune
from training.dataset import DataError

FEATURES = FeatureSet(picked=("amount", "hour_of_day"))


@pytest.fixture(scope="module")
def rows() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int8]]:
    rng = np.random.default_rng(2)
    raw = np.full((2_500, len(NAMES)), np.nan)
    raw[:, NAMES.index("amount")] = rng.lognormal(4, 1, len(raw))
    raw[:, NAMES.index("hour_of_day")] = rng.integers(0, 24, len(raw))
    labels = (np.log(raw[:, NAMES.index("amount")]) + rng.normal(0, 0.7, len(raw)) > 6).astype(np.int8)
    return raw, labels


def searched(
    rows: tuple[npt.NDArray[np.float64], npt.NDArray[np.int8]], tuner: tune.Tuner, candidates: int
) -> tuple[dict[str, object], list[dict[str, object]]]:
    X, y = rows
    return tune.search(FEATURES, X, y, 2_000, candidates=candidates, tuner=tuner, seed=3, fraud_rate=float(y.mean()))


@pytest.mark.parametrize("tuner", tune.TUNERS)
def test_the_best_candidate_is_chosen_and_the_same_rows_give_the_same_choice(
    rows: tuple[npt.NDArray[np.float64], npt.NDArray[np.int8]], tuner: tune.Tuner
) -> None:
    if tuner == "optuna":
        pytest.importorskip("optuna", reason="Optuna is not installed")
    chosen, tried = searched(rows, tuner, 4)
    assert len(tried) == 4
    whole = [one for one in tried if "pruned_at" not in one]
    best = max(whole, key=lambda one: float(str(one["average_precision"])))
    assert chosen == best["params"]
    assert (chosen, tried) == searched(rows, tuner, 4)


def test_optuna_gives_up_on_what_goes_badly(rows: tuple[npt.NDArray[np.float64], npt.NDArray[np.int8]]) -> None:
    pytest.importorskip("optuna", reason="Optuna is not installed")
    _, tried = searched(rows, "optuna", 12)
    pruned = [one for one in tried if "pruned_at" in one]
    assert pruned
    for one in pruned:
        params = one["params"]
        assert isinstance(params, dict)
        assert int(str(one["pruned_at"])) <= params["n_estimators"]


def test_no_candidate_or_nothing_to_judge_by_takes_the_defaults(
    rows: tuple[npt.NDArray[np.float64], npt.NDArray[np.int8]],
) -> None:
    X, y = rows
    assert searched(rows, "random", 0)[1] == []
    quiet = y.copy()
    quiet[2_000:] = 0
    chosen, tried = tune.search(FEATURES, X, quiet, 2_000, candidates=3, fraud_rate=0.05)
    assert (set(chosen), tried) == ({"ratio"}, [])


def test_optuna_that_is_absent_is_told_in_one_line(
    rows: tuple[npt.NDArray[np.float64], npt.NDArray[np.int8]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(DataError, match="Optuna is not installed"):
        searched(rows, "optuna", 2)


@pytest.mark.parametrize(("rate", "ratios"), [(0.001, [0.02, 0.05, 0.1, 0.2]), (0.06, [0.1, 0.2]), (0.5, [1.0])])
def test_smote_ratios_add_something(rate: float, ratios: list[float]) -> None:
    assert tune.smote_ratios(rate) == ratios
