"""The estimator: an imbalanced-learn pipeline of fill, balance and XGBoost, and Platt calibration over it.

SMOTE stands inside the pipeline, so that a cross-validation fold's own rows are never synthesised from; calibration is
fitted on later rows that neither SMOTE nor XGBoost has seen.
"""

import warnings
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import xgboost as xgb
from imblearn.base import BaseSampler
from imblearn.over_sampling import ADASYN, SMOTE, BorderlineSMOTE
from imblearn.pipeline import Pipeline
from imblearn.under_sampling import RandomUnderSampler
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import IsolationForest
from sklearn.frozen import FrozenEstimator

from fraud_api_lambda.features import FeatureSet, Floats, describe, fill
from fraud_api_lambda.model import singles

#: How the rarity of fraud is met: synthetic frauds (of three kinds), nothing, a weight on the frauds (as many as the
#: legitimate rows, or SMOTE's ratio of them), fewer legitimate rows, or none of the strangest among these.
Balance = Literal["smote", "borderline", "adasyn", "none", "scale_pos_weight", "weighted", "undersample", "no_outliers"]


class PopulationFill(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Raw columns (n, len(columns)) -> the model's features (n, len(picked)) float32, without gaps.

    Fitting takes the mean of each column over the rows that have it; ``population_`` (len(columns),) goes into the
    manifest, NaN where no row has the column.
    """

    def __init__(self, index: npt.NDArray[np.intp]):
        self.index = index

    def fit(self, X: Floats, y: object = None) -> Self:
        present = ~np.isnan(X)
        count = present.sum(axis=0)
        total = np.where(present, X, 0.0).sum(axis=0)
        self.population_ = np.where(count > 0, total / np.maximum(count, 1), np.nan)
        return self

    def transform(self, X: Floats) -> npt.NDArray[np.float32]:
        return singles(fill(X, self.population_)[:, self.index])


class ScaledSMOTE(BaseSampler):  # type: ignore[misc]
    """SMOTE (Chawla et al. 2002) whose neighbours are found on standardised features, flags kept 0 or 1; or one of its
    kin: Borderline-SMOTE (Han et al. 2005), ADASYN (He et al. 2008).

    Unscaled, money alone would decide who is a neighbour of whom. Original rows pass unchanged. ``ratio`` is frauds to
    legitimate rows afterwards; data that has as many already is left as it is.
    """

    _sampling_type = "over-sampling"
    _parameter_constraints: dict[str, Any] = {}  # noqa: RUF012  (scikit-learn's own protocol)

    def __init__(
        self,
        ratio: float = 0.1,
        neighbours: int = 5,
        flags: tuple[int, ...] = (),
        seed: int = 0,
        kind: Literal["smote", "borderline", "adasyn"] = "smote",
    ):
        super().__init__(sampling_strategy="auto")
        self.kind = kind
        self.ratio = ratio
        self.neighbours = neighbours
        self.flags = flags
        self.seed = seed

    def fit_resample(self, X: Any, y: Any, **rest: Any) -> tuple[Any, Any]:
        """As every sampler's; a column that no row has (it is recorded from later on) stays empty."""
        empty = np.isnan(X).all(axis=0)
        grown, labels = super().fit_resample(np.where(empty, 0.0, X).astype(X.dtype) if empty.any() else X, y, **rest)
        grown[:, empty] = np.nan
        return grown, labels

    def _fit_resample(self, X: Any, y: Any, **_: Any) -> tuple[Any, Any]:
        frauds = int((y == 1).sum())
        legitimate = len(y) - frauds
        self.synthetic_ = 0
        if frauds < 2 or frauds >= self.ratio * legitimate:
            return X, y
        mean, scale = X.mean(axis=0, dtype=np.float64), X.std(axis=0, dtype=np.float64)
        scale = np.where(scale > 0, scale, 1.0)
        near = min(self.neighbours, frauds - 1)
        if self.kind == "adasyn":
            smote = ADASYN(sampling_strategy=self.ratio, n_neighbors=near, random_state=self.seed)
        else:
            made_by = BorderlineSMOTE if self.kind == "borderline" else SMOTE
            smote = made_by(sampling_strategy=self.ratio, k_neighbors=near, random_state=self.seed)
        grown, labels = smote.fit_resample((X - mean) / scale, y)
        made = (grown[len(X) :] * scale + mean).astype(X.dtype)
        flags = list(self.flags)
        made[:, flags] = np.rint(np.clip(made[:, flags], 0, 1))
        self.synthetic_ = len(made)
        return np.concatenate((X, made)), np.concatenate((y, labels[len(X) :]))


class WithoutOutliers(BaseSampler):  # type: ignore[misc]
    """Leaves out the share of legitimate rows that an Isolation Forest of them finds strangest; frauds all stay."""

    _sampling_type = "clean-sampling"
    _parameter_constraints: dict[str, Any] = {}  # noqa: RUF012  (scikit-learn's own protocol)

    def __init__(self, share: float = 0.01, seed: int = 0):
        super().__init__(sampling_strategy="auto")
        self.share = share
        self.seed = seed

    def _fit_resample(self, X: Any, y: Any, **_: Any) -> tuple[Any, Any]:
        others = np.flatnonzero(y == 0)
        score = IsolationForest(random_state=self.seed, n_jobs=1).fit(X[others]).score_samples(X[others])
        keep = np.ones(len(y), bool)
        keep[others[np.argsort(score, kind="stable")[: int(self.share * len(others))]]] = False
        return X[keep], y[keep]


class MarginXGBClassifier(xgb.XGBClassifier):
    """XGBoost whose ``decision_function`` is the margin, so that Platt scaling works on log-odds, in float64."""

    def decision_function(self, X: Any) -> Floats:
        return margins(self.get_booster(), np.asarray(X))


def margins(booster: xgb.Booster, vectors: npt.NDArray[np.float32]) -> Floats:
    """XGBoost's own margins of (n, features) rows as float64; NaN is missing."""
    values: Floats = booster.inplace_predict(vectors, predict_type="margin", missing=np.nan).astype(np.float64)
    return values


def build(
    features: FeatureSet, *, balance: Balance, seed: int, ratio: float = 0.1, weight: float = 1.0, **tree: Any
) -> Pipeline:
    """The untrained pipeline. ``ratio`` (frauds to legitimate rows) belongs to SMOTE, its kin and undersampling,
    ``weight`` to scale_pos_weight and weighted, ``tree`` to XGBoost.
    """
    flags = tuple(i for i, name in enumerate(features.picked) if describe(name).kind == "flag")
    steps: list[tuple[str, Any]] = [("fill", PopulationFill(features.index))]
    if balance in ("smote", "borderline", "adasyn"):
        steps.append(("smote", ScaledSMOTE(ratio=ratio, flags=flags, seed=seed, kind=balance)))
    elif balance == "undersample":
        steps.append(("fewer", RandomUnderSampler(sampling_strategy=ratio, random_state=seed)))
    elif balance == "no_outliers":
        steps.append(("outliers", WithoutOutliers(seed=seed)))
    classifier = MarginXGBClassifier(
        **{
            "n_estimators": 200,
            "max_depth": 5,
            "learning_rate": 0.1,
            "subsample": 0.9,
            "colsample_bytree": 0.9,
            "min_child_weight": 2.0,
            **tree,
        },
        tree_method="hist",
        objective="binary:logistic",
        scale_pos_weight=weight if balance in ("scale_pos_weight", "weighted") else 1.0,
        random_state=seed,
        # OpenMP's threads wait by spinning: where the cores are shared, two are many times slower than one.
        n_jobs=1,
    )
    return Pipeline([*steps, ("xgb", classifier)])


def calibrated(
    pipeline: Pipeline, X: Floats, y: npt.NDArray[np.int8], weight: Floats | None = None
) -> CalibratedClassifierCV:
    """Platt scaling of a fitted pipeline on rows it has not seen; the pipeline stays as it is."""
    with warnings.catch_warnings():
        # "sample weights will only be used for the calibration": which is what is meant here.
        warnings.filterwarnings("ignore", message="Since FrozenEstimator does not appear to accept sample_weight")
        # Folds without a fraud are no matter: the frozen pipeline predicts the same in all of them.
        warnings.filterwarnings("ignore", message="The least populated class in y")
        return CalibratedClassifierCV(FrozenEstimator(pipeline), method="sigmoid").fit(X, y, sample_weight=weight)


def platt(calibration: CalibratedClassifierCV) -> tuple[float, float]:
    """Slope and intercept so that log-odds = slope * margin + intercept."""
    sigmoid = calibration.calibrated_classifiers_[0].calibrators[0]
    return -float(sigmoid.a_), -float(sigmoid.b_)
