"""What may stand beside XGBoost in a served model, and what each has to show for it.

A served model is a weighted sum of at most three members' margins. XGBoost comes first; a logistic regression and an
Isolation Forest may join. A member's weight is fitted on the validation rows, by average precision, one member at a
time; it earns the weight where the gain over the model without it lies above what resampling those rows makes of it.
What earns nothing is reported and not shipped: a member costs time in every request, and one more thing to explain.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from imblearn.pipeline import Pipeline
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.ensemble import IsolationForest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from fraud_api_lambda.bundle import MemberKind
from fraud_api_lambda.features import FeatureSet, Floats
from fraud_api_lambda.model import Part, Singles

from . import forest, metrics
from .pipeline import PopulationFill

#: How the second and third member's weights come about.
Blending = Literal["fitted", "equal", "none"]
#: Shares a member may have of the blend's spread. It never takes all: then it would not be a blend.
SHARES = np.arange(1, 20) / 20
#: Trees of the Isolation Forest, and rows each sees: 2 to the power of the depth that leaf tables allow at most.
ISOLATION_TREES = 100
ISOLATION_SAMPLES = 64
#: Shares of the training rows beyond which a feature is clipped for the logistic regression.
TAIL = 0.001


@dataclass(frozen=True)
class Member:
    """A fitted member: ``pipeline`` takes raw columns and has the margin as its ``decision_function``; ``part`` is what
    is sealed, proved equal to it.
    """

    name: str
    kind: MemberKind
    weight: float
    pipeline: Any
    part: Part


@dataclass(frozen=True)
class Trial:
    """What one member was worth on the validation rows: average precision with and without it, and whether it stays."""

    name: str
    share: float
    weight: float
    before: float
    after: float
    low: float
    high: float
    shipped: bool

    def __str__(self) -> str:
        verdict = "shipped" if self.shipped else "not shipped"
        return (
            f"{self.name}: share {self.share:.2f}, average precision {self.before:.4f} -> {self.after:.4f} "
            f"(gain {self.after - self.before:+.4f} [{self.low:+.4f}, {self.high:+.4f}]), {verdict}"
        )


class Clip(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Keeps each feature within what nearly all training rows show, (n, width) -> (n, width) float64.

    Flags and other features whose tail is all there is to them keep their whole range.
    """

    def fit(self, X: npt.NDArray[Any], y: object = None) -> Self:
        values = X.astype(np.float64)
        low, high = np.quantile(values, (TAIL, 1 - TAIL), axis=0)
        flat = ~(low < high) | (np.ptp(values, axis=0) <= 1.0)
        self.low_ = np.where(flat, values.min(axis=0), low)
        self.high_ = np.where(flat, values.max(axis=0), high)
        return self

    def transform(self, X: npt.NDArray[Any]) -> Floats:
        clipped: Floats = np.clip(X.astype(np.float64), self.low_, self.high_)
        return clipped


class Anomaly(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """An Isolation Forest of the legitimate rows whose ``decision_function`` rises with strangeness.

    It never sees which frauds there are, only what is not one: what it adds, if anything, is a sense for the new.
    """

    def __init__(self, trees: int = ISOLATION_TREES, samples: int = ISOLATION_SAMPLES, seed: int = 0):
        self.trees = trees
        self.samples = samples
        self.seed = seed

    def fit(self, X: Singles, y: npt.NDArray[np.int8]) -> Self:
        self.classes_ = np.array([0, 1])
        self.forest_ = IsolationForest(
            n_estimators=self.trees, max_samples=self.samples, random_state=self.seed, n_jobs=1
        ).fit(X[y == 0])
        return self

    def decision_function(self, X: Singles) -> Floats:
        """Minus the mean path length, in units of its expectation, (n,)."""
        score: Floats = np.log2(-self.forest_.score_samples(X))
        return score

    def predict(self, X: Singles) -> npt.NDArray[np.int8]:
        """Fraud where a row is easier to isolate than a random one, (n,); every classifier is asked for it."""
        return (self.decision_function(X) > -1).astype(np.int8)


class Blend(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Fitted members' margins, weighted and added: the estimator that calibration is fitted over."""

    def __init__(self, members: Sequence[tuple[str, float, Any]]):
        self.members = members
        self.classes_ = np.array([0, 1])

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def fit(self, X: object, y: object = None) -> Self:
        return self  # its members are fitted already

    def decision_function(self, X: Floats) -> Floats:
        total = np.zeros(len(X))
        for _, weight, pipeline in self.members:
            total += weight * pipeline.decision_function(X)
        return total

    def predict(self, X: Floats) -> npt.NDArray[np.int8]:
        """Fraud where the margin is above 0, (n,); scikit-learn asks every classifier for it."""
        return (self.decision_function(X) > 0).astype(np.int8)


def linear_pipeline(features: FeatureSet, *, class_weight: str | None = None) -> Pipeline:
    """Logistic regression on filled, clipped, standardised features."""
    return Pipeline(
        [
            ("fill", PopulationFill(features.index)),
            ("clip", Clip()),
            ("scale", StandardScaler()),
            ("linear", LogisticRegression(max_iter=2_000, class_weight=class_weight)),
        ]
    )


def isolation_pipeline(features: FeatureSet, seed: int) -> Pipeline:
    """Isolation Forest on filled features."""
    return Pipeline([("fill", PopulationFill(features.index)), ("isolation", Anomaly(seed=seed))])


def seal_linear(pipeline: Pipeline, X: Floats) -> Member:
    """The member of a fitted :func:`linear_pipeline`; raises ``BundleRefused`` where it differs on raw rows ``X``."""
    scale, clip, model = pipeline["scale"], pipeline["clip"], pipeline["linear"]
    part = forest.fold(
        intercept=float(model.intercept_[0]),
        coef=model.coef_[0].astype(np.float64),
        centre=scale.mean_,
        scale=scale.scale_,
        low=clip.low_,
        high=clip.high_,
    )
    forest.check_near(part, pipeline.decision_function(X), pipeline["fill"].transform(X), 1e-12)
    return Member("linear", "linear", 1.0, pipeline, part)


def seal_isolation(pipeline: Pipeline, X: Floats) -> Member:
    """The member of a fitted :func:`isolation_pipeline`, as :func:`seal_linear`."""
    part = forest.flatten_isolation(pipeline["isolation"].forest_, len(pipeline["fill"].index))
    forest.check_near(part, pipeline.decision_function(X), pipeline["fill"].transform(X), 1e-9)
    return Member("isolation", "isolation", 1.0, pipeline, part)


def fitted_beside(
    first: Member,
    others: Sequence[Member],
    X: Floats,
    y: npt.NDArray[np.int8],
    weight: Floats,
    *,
    seed: int,
    blending: Blending = "fitted",
) -> tuple[tuple[Member, ...], list[Trial]]:
    """The members that stay, ``first`` always among them, and what each was worth on the rows X (raw), y.

    ``fitted``: one after another is offered at the share that ranks best; it stays where the lower end of its gain's
    interval (95 %, paired bootstrap) is above 0. ``equal``: the first two at one half each, earned or not, since that
    is what was asked for.
    """
    members = [first]
    total = first.weight * first.pipeline.decision_function(X)
    trials: list[Trial] = []
    for other in others:
        own = other.pipeline.decision_function(X)
        before = metrics.average_precision(total, y, weight)
        if blending == "equal":
            if len(members) > 1:
                continue
            share, scale = 0.5, 1.0  # both are log-odds, so that halves of them are halves
        else:
            # In units of the blend's own spread, so that a share means the same for log-odds and path lengths.
            scale = float(total.std() / own.std()) if own.std() > 0 else 0.0
            share = best_share(total, scale * own, y, weight)
        joined = (1 - share) * total + share * scale * own
        low, high = metrics.gain_interval(total, joined, y, weight, seed=seed)
        stays = blending == "equal" or (scale > 0 and low > 0)
        trials.append(
            Trial(
                name=other.name,
                share=share,
                weight=share * scale,
                before=before,
                after=metrics.average_precision(joined, y, weight),
                low=low,
                high=high,
                shipped=stays,
            )
        )
        if stays:
            members = [replace(member, weight=(1 - share) * member.weight) for member in members]
            members.append(replace(other, weight=share * scale))
            total = joined
    return tuple(members), trials


def best_share(total: Floats, own: Floats, y: npt.NDArray[np.int8], weight: Floats) -> float:
    """The share s of ``own`` in ``(1 - s) * total + s * own`` that ranks best by average precision: a grid of 0.05,
    then steps of 0.01 around its best. Of equals the smaller.
    """

    def precision(share: float) -> float:
        return metrics.average_precision((1 - share) * total + share * own, y, weight)

    best = float(max(SHARES, key=precision))
    near = [round(best + step / 100, 2) for step in range(-4, 5)]
    return float(max((share for share in near if 0 < share < 1), key=precision))
