"""The leaderboard: every kind of model and every way to meet rarity, trained and judged on the very same rows.

Each candidate learns from the training rows, is calibrated (and blended, stacked) on the validation rows, and judged on
the test rows with intervals. The test rows choose nothing: what to serve is read off the validation column, and
``run`` decides by it. A candidate here is judged by its estimator, not through a sealed bundle.
"""

import csv
import io
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from imblearn.pipeline import Pipeline
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression

from fraud_api_lambda.features import FeatureSet, Floats

from . import ensemble, forest, metrics, pipeline, replay, split, train, tune
from .pipeline import PopulationFill
from .train import Data, Options, Progress

SHOWN = ("average_precision", "roc_auc", "recall_at_precision_0.9", "cp_at_100", "ece", "brier")


@dataclass(frozen=True)
class Row:
    """One candidate: ``validation`` is its average precision there, ``test`` the figures with their intervals."""

    name: str
    kind: str  #: lr, xgb, lgbm, isolation, blend or stack
    params: Mapping[str, Any]
    validation: float
    test: Mapping[str, Any]
    seconds: float
    note: str = ""


@dataclass(frozen=True)
class Leaderboard:
    """The rows, best on the validation rows first; what was left out and why; the facts of the comparison."""

    rows: tuple[Row, ...]
    absent: Mapping[str, str]
    facts: Mapping[str, Any]


class Stack(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A logistic regression over fitted members' margins, fitted on rows that they have not seen."""

    def __init__(self, members: tuple[tuple[str, Any], ...]):
        self.members = members

    def fit(self, X: Floats, y: npt.NDArray[np.int8]) -> Self:
        self.classes_ = np.array([0, 1])
        margins = self._margins(X)
        self.scale_ = np.where(margins.std(axis=0) > 0, margins.std(axis=0), 1.0)
        self.meta_ = LogisticRegression(max_iter=2_000).fit(margins / self.scale_, y)
        return self

    def decision_function(self, X: Floats) -> Floats:
        margins: Floats = self.meta_.decision_function(self._margins(X) / self.scale_)
        return margins

    def predict(self, X: Floats) -> npt.NDArray[np.int8]:
        return (self.decision_function(X) > 0).astype(np.int8)

    def _margins(self, X: Floats) -> Floats:
        return np.stack([member.decision_function(X) for _, member in self.members], axis=1)


class MarginLightGBM(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """LightGBM whose ``decision_function`` is the margin. For comparison only: it is never sealed."""

    def __init__(self, seed: int = 0, params: Mapping[str, Any] | None = None):
        self.seed = seed
        self.params = params

    def fit(self, X: Any, y: npt.NDArray[np.int8]) -> Self:
        import lightgbm

        self.classes_ = np.array([0, 1])
        options = {"n_estimators": 200, "num_leaves": 31, "learning_rate": 0.05, **(self.params or {})}
        self.model_ = lightgbm.LGBMClassifier(
            **options, random_state=self.seed, n_jobs=1, verbosity=-1, deterministic=True
        ).fit(X, y)
        return self

    def decision_function(self, X: Any) -> Floats:
        margins: Floats = np.asarray(self.model_.booster_.predict(X, raw_score=True), np.float64)
        return margins

    def predict(self, X: Any) -> npt.NDArray[np.int8]:
        return (self.decision_function(X) > 0).astype(np.int8)


def compare(options: Options, *, progress: Progress = lambda _: None) -> Leaderboard:
    """Train and judge every candidate on the rows and the split of ``options``. Raises ``DataError``."""
    progress("loading data")
    data = train.load_data(options)
    parts = train.split_data(options, data)
    features = train.pick_columns(data, parts.train, options)
    progress(f"{len(data.frame):,} rows, {int(data.labels.sum()):,} frauds; searching {options.tune} candidates")
    chosen, search = train.search_candidates(data, features, parts.train, options)
    rows: list[Row] = []
    fitted: dict[str, Any] = {}
    for name, kind, params, make in _singles(data, features, parts, options, chosen):
        progress(name)
        began = time.monotonic()
        try:
            model = make()
        except ValueError as error:  # ADASYN, where no fraud has a legitimate neighbour
            progress(f"{name}: left out ({error})")
            continue
        fitted[name] = model
        rows.append(_row(name, kind, params, model, data, parts, options, began))
    absent = {} if "LightGBM" in fitted else {"LightGBM": "not installed; pip install lightgbm"}
    rows += _sums(fitted, data, parts, options, progress)
    rows.sort(key=lambda row: -row.validation)
    facts = {
        "data": Path(options.data).name,
        "format": options.format,
        "split": parts.kind,
        "rows": {part: len(getattr(parts, part)) for part in ("train", "validation", "test")},
        "frauds": {part: int(data.labels[getattr(parts, part)].sum()) for part in ("train", "validation", "test")},
        "features": list(features.picked),
        "seed": options.seed,
        "search": search,
    }
    return Leaderboard(tuple(rows), absent, facts)


def _singles(
    data: Data, features: FeatureSet, parts: split.Split, options: Options, chosen: Mapping[str, Any]
) -> Iterator[tuple[str, str, dict[str, Any], Callable[[], Any]]]:
    """Name, kind, parameters and maker of every candidate that is one model."""
    X, y = data.take(parts.train)
    rate = float(y.mean())
    tree = {name: value for name, value in chosen.items() if name != "ratio"}
    best = float(chosen.get("ratio", 0.1))

    def boosted(balance: pipeline.Balance, ratio: float = best) -> Callable[[], Any]:
        weight = (1 - rate) / rate
        return lambda: pipeline.build(
            features, balance=balance, seed=options.seed, ratio=ratio, weight=weight, **tree
        ).fit(X, y)

    yield "logistic regression", "lr", {}, lambda: ensemble.linear_pipeline(features).fit(X, y)
    balanced = {"class_weight": "balanced"}
    yield (
        "logistic regression, class weights",
        "lr",
        balanced,
        lambda: ensemble.linear_pipeline(features, class_weight="balanced").fit(X, y),
    )
    yield "Isolation Forest", "isolation", {}, lambda: ensemble.isolation_pipeline(features, options.seed).fit(X, y)
    yield "XGBoost", "xgb", tree, boosted("none")
    yield (
        "XGBoost, scale_pos_weight",
        "xgb",
        {**tree, "scale_pos_weight": (1 - rate) / rate},
        boosted("scale_pos_weight"),
    )
    for ratio in sorted({best, *tune.smote_ratios(rate)}):
        yield f"XGBoost, SMOTE {ratio:g}", "xgb", {**tree, "smote": ratio}, boosted("smote", ratio)
    yield f"XGBoost, Borderline-SMOTE {best:g}", "xgb", {**tree, "borderline": best}, boosted("borderline")
    yield f"XGBoost, ADASYN {best:g}", "xgb", {**tree, "adasyn": best}, boosted("adasyn")
    yield f"XGBoost, undersampling {best:g}", "xgb", {**tree, "undersample": best}, boosted("undersample")
    yield "XGBoost, outliers left out", "xgb", {**tree, "outliers": 0.01}, boosted("no_outliers")
    if _installed("lightgbm"):
        steps = [("fill", PopulationFill(features.index)), ("lgbm", MarginLightGBM(options.seed))]
        yield "LightGBM", "lgbm", {}, lambda: Pipeline(steps).fit(X, y)


def _sums(
    fitted: Mapping[str, Any], data: Data, parts: split.Split, options: Options, progress: Progress
) -> Iterator[Row]:
    """The blends of what can be sealed together, and the stack of everything, weighted on the validation rows."""
    X, y = data.take(parts.validation)
    weight = data.frame["weight"].to_numpy(np.float64)[parts.validation]
    booster = fitted["XGBoost"]["xgb"].get_booster()
    flat = forest.flatten(booster, len(fitted["XGBoost"]["fill"].index))
    first = ensemble.Member("xgboost", "forest", 1.0, fitted["XGBoost"], flat)
    others = [
        ensemble.seal_linear(fitted["logistic regression"], X[:1_000]),
        ensemble.seal_isolation(fitted["Isolation Forest"], X[:1_000]),
    ]
    for name, blending in (("blend, fitted weights", "fitted"), ("blend, 0.5/0.5", "equal")):
        progress(name)
        began = time.monotonic()
        # Offered at its best share, earned or not: the note says which would be shipped.
        kept, trials = ensemble.fitted_beside(first, others, X, y, weight, seed=options.seed, blending=blending)  # type: ignore[arg-type]
        if len(kept) == 1:
            kept = (replace(first, weight=1 - trials[0].share), replace(others[0], weight=trials[0].weight))
        model = ensemble.Blend([(member.name, member.weight, member.pipeline) for member in kept])
        params = {member.name: member.weight for member in kept}
        note = "; ".join(map(str, trials))
        yield replace(_row(name, "blend", params, model, data, parts, options, began), note=note)
    progress("stacking")
    began = time.monotonic()
    members = [name for name in ("XGBoost", "logistic regression", "Isolation Forest", "LightGBM") if name in fitted]
    stack = Stack(tuple((name, fitted[name]) for name in members)).fit(X, y)
    params = dict(zip(members, stack.meta_.coef_[0].tolist(), strict=True))
    yield _row("stacking", "stack", params, stack, data, parts, options, began)


def _row(
    name: str,
    kind: str,
    params: Mapping[str, Any],
    model: Any,
    data: Data,
    parts: split.Split,
    options: Options,
    began: float,
) -> Row:
    X, y = data.take(parts.validation)
    weight = data.frame["weight"].to_numpy(np.float64)[parts.validation]
    estimator = pipeline.calibrated(model, X, y, weight)
    probability = estimator.predict_proba(X)[:, 1]
    amount = replay.amounts_in_base(data.frame.iloc[parts.validation], data.rates)
    thresholds = metrics.choose_thresholds(probability, y, amount, weight, options.costs)
    judged = train.unsealed(data, parts.test, estimator, thresholds)
    return Row(
        name=name,
        kind=kind,
        params=dict(params),
        validation=metrics.average_precision(model.decision_function(X), y, weight),
        test=metrics.metrics(judged, costs=options.costs, seed=options.seed),
        seconds=time.monotonic() - began,
    )


def _installed(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(name) is not None


# --- showing it ------------------------------------------------------------------------------------------------------


def text(board: Leaderboard) -> str:
    """The leaderboard as lines of text, with the fraud rate its figures belong to."""
    rate = board.rows[0].test["fraud_rate"]["weighted"]
    width = max(len(row.name) for row in board.rows)
    lines = [
        f"{board.facts['rows']['test']:,} test rows at a fraud rate of {rate:.4%}; best on validation rows first",
        "  ".join(
            ("".ljust(width), "val. AP", f"{'average precision':^23}", f"{'ROC AUC':^23}", " R@P.9  CP@100     s")
        ),
    ]
    for row in board.rows:
        lines.append(
            f"{row.name:{width}}  {row.validation:7.4f}  {_around(row.test, 'average_precision'):^23}  "
            f"{_around(row.test, 'roc_auc'):^23}  {_number(row.test.get('recall_at_precision_0.9')):>6}  "
            f"{_number(row.test.get('cp_at_100')):>6}  {row.seconds:4.0f}"
        )
        if row.note:
            lines += [f"{'':{width}}    {part}" for part in row.note.split("; ")]
    lines += [f"{name}: {why}" for name, why in board.absent.items()]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _around(figures: Mapping[str, Any], name: str) -> str:
    interval = (figures.get("intervals") or {}).get(name)
    around = f" [{interval['low']:.4f}, {interval['high']:.4f}]" if interval else ""
    return _number(figures.get(name)) + around


def as_json(board: Leaderboard) -> dict[str, Any]:
    """Everything, as plain values."""
    return {
        "facts": dict(board.facts),
        "absent": dict(board.absent),
        "rows": [{**asdict(row), "test": {name: row.test.get(name) for name in (*SHOWN, "intervals", "fraud_rate")}}
                 for row in board.rows],
    }  # fmt: skip


def as_csv(board: Leaderboard) -> str:
    """One line a candidate; intervals of average precision and ROC AUC as columns of their own."""
    out = io.StringIO()
    ends = [(name, end) for name in ("average_precision", "roc_auc") for end in ("low", "high")]
    writer = csv.writer(out, lineterminator="\n")
    head = ["name", "kind", "validation_average_precision", *SHOWN, *(f"{name}_{end}" for name, end in ends)]
    writer.writerow([*head, "seconds", "params", "note"])
    for row in board.rows:
        intervals = row.test.get("intervals") or {}
        figures = [row.test.get(name) for name in SHOWN]
        bounds = [(intervals.get(name) or {}).get(end) for name, end in ends]
        rest = [round(row.seconds, 1), json.dumps(row.params), row.note]
        writer.writerow([row.name, row.kind, row.validation, *figures, *bounds, *rest])
    return out.getvalue()


def plot(board: Leaderboard) -> bytes:
    """The leaderboard as a PNG: average precision on the test rows with its interval, and on the validation rows."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = list(reversed(board.rows))
    figure = Figure(figsize=(9, 0.36 * len(rows) + 1.4), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for at, row in enumerate(rows):
        value = row.test["average_precision"]
        interval = (row.test.get("intervals") or {}).get("average_precision") or {"low": value, "high": value}
        axis.plot([interval["low"], interval["high"]], [at, at], color="#2b6cb0", linewidth=2, solid_capstyle="round")
        axis.plot(value, at, "o", color="#2b6cb0", label="test rows, 95 % interval" if at == 0 else None)
        axis.plot(row.validation, at, "|", color="#c05621", markersize=11, label="validation rows" if at == 0 else None)
    axis.set_yticks(range(len(rows)), [row.name for row in rows])
    axis.set_xlabel("Average precision")
    rate = board.rows[0].test["fraud_rate"]["weighted"]
    axis.set_title(f"{board.facts['data']}: {board.facts['split']}, fraud rate {rate:.3%}", loc="left", fontsize=10)
    axis.grid(axis="x", alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(loc="upper left", fontsize=8, frameon=False)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110, metadata={"Software": None})
    return out.getvalue()


def write(board: Leaderboard, folder: Path) -> list[Path]:
    """``leaderboard.json``, ``.csv``, ``.txt`` and ``.png`` in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "leaderboard.json": json.dumps(as_json(board), indent=1).encode(),
        "leaderboard.csv": as_csv(board).encode(),
        "leaderboard.txt": (text(board) + "\n").encode(),
        "leaderboard.png": plot(board),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return [folder / name for name in files]
