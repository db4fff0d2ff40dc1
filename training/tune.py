"""Which hyperparameters: randomised search by scikit-learn, or Optuna, which gives up early on what goes badly.

Both judge a candidate by average precision on the last rows given, with the first to learn from; SMOTE stands inside
and only ever sees those. Both are seeded: the same rows give the same choice.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import xgboost as xgb
from sklearn.model_selection import PredefinedSplit, RandomizedSearchCV

from fraud_api_lambda.features import FeatureSet, Floats

from . import metrics, pipeline
from .dataset import DataError

Tuner = Literal["random", "optuna"]
TUNERS: Sequence[Tuner] = ("random", "optuna")

#: What the randomised search draws from. SMOTE's ratio is one of the things that are searched.
RATIOS = (0.02, 0.05, 0.1, 0.2)
TREES: Mapping[str, Sequence[float | int]] = {
    "max_depth": (4, 5),
    "n_estimators": (150, 250),
    "learning_rate": (0.06, 0.1, 0.15),
    "min_child_weight": (1.0, 5.0),
    "subsample": (0.8, 1.0),
    "colsample_bytree": (0.7, 1.0),
}
#: Rows a search looks at; more change its ranking no further, and cost time.
ROWS = 300_000
#: Trees between two looks at an Optuna candidate.
STEP = 25


def search(
    features: FeatureSet,
    X: Floats,
    y: npt.NDArray[np.int8],
    cut: int,
    *,
    candidates: int,
    tuner: Tuner = "random",
    seed: int = 0,
    fraud_rate: float,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The best of ``candidates`` on raw rows X, y: those before ``cut`` teach, the others judge; and all that were
    tried.

    What is tried: [{params, average_precision}], with ``pruned_at`` (trees) where Optuna gave up. None where there is
    nothing to judge by, or no candidate. Raises ``DataError`` where Optuna is wanted and absent.
    """
    ratios = smote_ratios(fraud_rate)
    if candidates < 1 or not (int(y[cut:].sum()) > 0 and int(y[:cut].sum()) > 1):
        return {"ratio": ratios[-1]}, []
    if tuner == "optuna":
        return _optuna(features, X, y, cut, candidates, seed, ratios)
    space: dict[str, Sequence[Any]] = {f"xgb__{name}": values for name, values in TREES.items()}
    space["smote__ratio"] = ratios
    found = RandomizedSearchCV(
        pipeline.build(features, balance="smote", seed=seed),
        space,
        n_iter=candidates,
        scoring="average_precision",
        cv=PredefinedSplit(np.where(np.arange(len(y)) < cut, -1, 0)),
        refit=False,
        random_state=seed,
        error_score="raise",
    ).fit(X, y)
    tried = [
        {"params": _plain(params), "average_precision": float(score)}
        for params, score in zip(found.cv_results_["params"], found.cv_results_["mean_test_score"], strict=True)
    ]
    return _plain(found.best_params_), tried


def smote_ratios(fraud_rate: float) -> list[float]:
    """SMOTE ratios that add something to data of this fraud rate."""
    now = fraud_rate / (1 - fraud_rate)
    return [ratio for ratio in RATIOS if ratio > 1.2 * now] or [min(1.0, 1.5 * now)]


def _plain(params: Mapping[str, Any]) -> dict[str, Any]:
    """scikit-learn's step__name -> our names, numbers as Python's own."""
    return {
        name.split("__")[-1]: value.item() if isinstance(value, np.generic) else value for name, value in params.items()
    }


def _optuna(
    features: FeatureSet,
    X: Floats,
    y: npt.NDArray[np.int8],
    cut: int,
    candidates: int,
    seed: int,
    ratios: Sequence[float],
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    try:
        import optuna
    except ImportError:
        raise DataError("Optuna is not installed. Install it (pip install optuna), or leave out --tuner.") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    judged, labels = X[cut:], y[cut:]
    even = np.ones(len(labels))

    class Watch(xgb.callback.TrainingCallback):
        """Reports average precision every ``STEP`` trees, and stops where the pruner says so."""

        def __init__(self, trial: Any, vectors: npt.NDArray[np.float32]):
            self.trial = trial
            self.vectors = vectors
            self.score = 0.0
            self.pruned_at: int | None = None

        def after_iteration(self, model: xgb.Booster, epoch: int, evals_log: Any) -> bool:
            if (epoch + 1) % STEP:
                return False
            self.score = metrics.average_precision(pipeline.margins(model, self.vectors), labels, even)
            self.trial.report(self.score, epoch + 1)
            if self.trial.should_prune():
                self.pruned_at = epoch + 1
                return True
            return False

    def objective(trial: Any) -> float:
        params = {
            "max_depth": trial.suggest_int("max_depth", 3, 5),
            "n_estimators": trial.suggest_int("n_estimators", 100, 400, step=STEP),
            "learning_rate": trial.suggest_float("learning_rate", 0.02, 0.2, log=True),
            "min_child_weight": trial.suggest_float("min_child_weight", 1.0, 20.0, log=True),
            "subsample": trial.suggest_float("subsample", 0.6, 1.0),
            "colsample_bytree": trial.suggest_float("colsample_bytree", 0.4, 1.0),
        }
        ratio = trial.suggest_categorical("ratio", [0.0, *ratios])  # 0: no SMOTE
        model = pipeline.build(features, balance="smote", seed=seed, ratio=ratio, **params)
        watch = Watch(trial, model["fill"].fit(X[:cut]).transform(judged))
        model.set_params(xgb__callbacks=[watch]).fit(X[:cut], y[:cut])
        if watch.pruned_at is not None:
            trial.set_user_attr("pruned_at", watch.pruned_at)
            raise optuna.TrialPruned
        return watch.score

    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=min(10, max(2, candidates // 3))),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=STEP),
    )
    study.optimize(objective, n_trials=candidates)
    tried = []
    for trial in study.trials:
        score = trial.value if trial.value is not None else trial.intermediate_values[max(trial.intermediate_values)]
        tried.append({"params": dict(trial.params), "average_precision": float(score), **trial.user_attrs})
    return dict(study.best_params), tried
