"""Drift: what the served bundle is asked today, against the rows it was judged on before it was sealed.

For each feature, and for the score, the share of decisions in each of about ten bins (missing values are one of their
own) is compared with the reference in the bundle, by PSI and KS; where the labels are due, frauds are counted against
what the probabilities promised. Reference and look lie side by side here: training writes with :func:`make_reference`
what :class:`Reference` reads.

**When it is an alarm.** Not where PSI is large: on few rows chance alone makes it so, a feature that follows the
calendar is never the same two days running, and one that grows with the age of the log never comes back. A feature's
PSI must lie above a limit of its own, and that is the greater of ``LEVELS`` and the sum of

- twice the furthest that stretches of the reference itself, as long as the one looked at, lay from the whole (so the
  day of the week is judged on whole weeks only, and a counterparty's age never);
- what chance reaches no more often than agreed: PSI of n rows against m is (1/n + 1/m) times chi-square, widened by
  how much more than independent rows the days of the reference scattered. All features, score and calibration together
  raise a false alarm with probability ``ALARMS_A_YEAR`` in a year of ``LOOKS_A_YEAR`` looks.

Only numpy; constant memory; nothing here knows a route or a schedule.
"""

import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from .bundle import Bundle
from .decision_log import MAX_PAGE, DecisionLog, Search, Stored
from .errors import BundleError, BundleRefused, NotServed, StoreUnavailable
from .features import DAY_MS, FeatureSet, Floats, describe
from .metrics import Metrics
from .schemas import HOUR_MS, rfc3339

log = logging.getLogger("fraud.drift")

#: Format of ``reference.json``. A bundle sealed before it had one says less than drift needs.
FORMAT: Final = 2
#: PSI that is worth an alarm however sure it is, by what a feature is made of: what follows from the parties' past
#: moves by itself as they come and go (docs/drift.md has the measurement).
LEVELS: Final[dict[str, float]] = {"history": 0.25, "label": 0.25}
LEVEL: Final = 0.1
#: The probability of any false alarm in a year of looks, over everything looked at.
ALARMS_A_YEAR: Final = 0.05
LOOKS_A_YEAR: Final = 365
#: Decisions below which nothing is said.
MIN_ROWS: Final = 500
#: A look without a given beginning goes back a day, and further until there are so many decisions, but not beyond.
ENOUGH_ROWS: Final = 2_000
LONGEST_MS: Final = 28 * DAY_MS
#: Of so many days' decisions, those whose labels are due, frauds are counted against the probabilities.
CALIBRATION_MS: Final = 28 * DAY_MS
#: Frauds for one expected, or one for so many, that are worth an alarm.
RATIO: Final = 1.5
#: Days and expected frauds below which nothing is said of calibration.
MIN_DAYS: Final = 14
MIN_FRAUDS: Final = 10.0
#: Features of the parties' past are not judged until the log is so old: their longest window is 30 days.
YOUNG_MS: Final = 30 * DAY_MS
#: Probabilities in so many equal bins, as in ``metrics.json``.
ECE_BINS: Final = 10

_BINS = 10
_FINE = 40
_CHUNK = 2_000
_STRIDE, _PAUSE_S = 8, 0.0005
#: Rows of a stretch of the reference that is compared with the whole.
_STRETCH_ROWS = 500
_MOST_SPREAD = 4.0
#: Stretches of the reference, and the ms from which on a window is as long as they are.
_STRETCHES: Final = {"hour": 0, "half day": 12 * HOUR_MS, "day": 20 * HOUR_MS, "week": 6 * DAY_MS + 12 * HOUR_MS}

State = Literal["quiet", "drift", "young", "not enough"]
Ints = npt.NDArray[np.int64]


# --- what is watched -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Variable:
    """One thing that is compared: a column, or the flags that are one thing to a reader (``type``, an attribute).

    ``levels`` (flags only) are the values that the columns stand for.
    """

    name: str
    columns: tuple[str, ...]
    levels: tuple[str, ...] = ()
    source: str = "score"

    @property
    def level(self) -> float:
        return LEVELS.get(self.source, LEVEL)


def variables(features: FeatureSet) -> tuple[Variable, ...]:
    """What is watched of a bundle: all that its picked columns are part of, in the order of the columns."""
    groups: dict[str, list[str]] = {}
    for name in features.columns:
        feature = describe(name)
        own = feature.kind == "flag" and feature.group
        groups.setdefault(feature.group if own else name, []).append(name)
    picked = set(features.picked)
    found = []
    for name, columns in groups.items():
        if picked.intersection(columns):
            flags = describe(columns[0]).group == name and describe(columns[0]).kind == "flag"
            levels = tuple(column.partition("=")[2] or column.removeprefix("is_").upper() for column in columns)
            found.append(Variable(name, tuple(columns), levels if flags else (), describe(columns[0]).source))
    return tuple(found)


SCORE: Final = Variable("score", ())


@dataclass(frozen=True, slots=True)
class Bins:
    """How a variable's values are counted. The last bin holds what is missing.

    A number falls into the bin whose upper edge is the first not below it; ``groups`` (bins,) joins the fine bins that
    KS is taken on to those of PSI. Of flags each level is a bin, and one more is for rows with none of them.
    """

    edges: Floats
    groups: Ints
    levels: int = 0

    @property
    def count(self) -> int:
        return len(self.groups)

    def of(self, values: Floats) -> Ints:
        """The bins of (n, columns) values, (n,)."""
        if self.levels:
            found = np.where((values == 1.0).any(axis=1), np.argmax(values == 1.0, axis=1), self.levels)
        else:
            found = np.searchsorted(self.edges, values[:, 0], side="left")
        missing = np.isnan(values).any(axis=1)
        return np.where(missing, self.count - 1, found).astype(np.int64)

    def grouped(self, counts: Floats) -> Floats:
        """Counts of fine bins as those of PSI's."""
        return np.bincount(self.groups, weights=counts, minlength=int(self.groups[-1]) + 1)


def _number_bins(edges: Sequence[float], upper: Sequence[float]) -> Bins:
    """``upper`` are those of ``edges`` at which a bin of PSI ends."""
    fine = np.array(edges, np.float64)
    groups = np.searchsorted(np.array(upper, np.float64), fine, side="left")
    last = len(upper)
    return Bins(fine, np.concatenate((groups, [last, last + 1])).astype(np.int64))


def _flag_bins(levels: int) -> Bins:
    return Bins(np.zeros(0), np.arange(levels + 2, dtype=np.int64), levels)


def _edges(values: Floats, weight: Floats) -> tuple[list[float], list[float]]:
    """Fine edges, and those of PSI among them: weighted quantiles, or every value where there are few."""
    present = ~np.isnan(values)
    distinct, inverse = np.unique(values[present], return_inverse=True)
    if len(distinct) <= _BINS + 1:
        edges = distinct[:-1].tolist()
        return edges, edges
    below = np.cumsum(np.bincount(inverse, weights=weight[present]))
    at = below[-1] * np.arange(1, _FINE) / _FINE
    # Sums of weights miss a share of the whole by their rounding.
    place = np.searchsorted(below, at * (1 - 1e-12), side="left")
    place = np.minimum(place, len(distinct) - 2)  # the largest value is never an edge: there must be a bin above
    step = _FINE // _BINS
    return distinct[np.unique(place)].tolist(), distinct[np.unique(place[step - 1 :: step])].tolist()


# --- the reference ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Baseline:
    """A variable as it was: ``counts`` (bins,) of ``rows`` rows' worth.

    ``spread``: by how much the reference's days scatter more than independent rows do. ``moved``: kind of stretch ->
    how far from the whole one of the reference lay, as PSI beyond chance; kinds as in ``_STRETCHES``, shortest first,
    as far as the reference has such.
    """

    variable: Variable
    bins: Bins
    counts: Floats
    rows: float
    spread: float = 1.0
    moved: Mapping[str, float] = field(default_factory=dict)

    def psi(self, counts: Floats) -> float:
        return psi(self.bins.grouped(self.counts), self.bins.grouped(counts), self.rows)

    def limit(self, n: float, span_ms: int, alpha: float) -> float:
        """The PSI of ``n`` decisions within ``span_ms`` above which there is an alarm."""
        moved = self.moved
        # The longest kind of stretch that is no longer than the window, or the longest there is; and all longer ones.
        fits = [kind for kind in moved if _STRETCHES[kind] <= span_ms]
        at = _STRETCHES[fits[-1]] if fits else 0
        reached = max((far for kind, far in moved.items() if _STRETCHES[kind] >= at), default=0.0)
        groups = int(np.count_nonzero(self.bins.grouped(self.counts))) or 1
        noise = self.spread * (1 / n + 1 / self.rows) * chi_square_above(max(groups - 1, 1), alpha)
        return max(self.variable.level, 2 * reached + noise)


@dataclass(frozen=True, slots=True)
class Reference:
    """What a bundle's decisions are compared with."""

    version: str
    features: tuple[Baseline, ...]
    score: Baseline
    label_delay_ms: int

    @property
    def alpha(self) -> float:
        """The probability with which one comparison may be wrong, for the promise over all to hold."""
        return ALARMS_A_YEAR / LOOKS_A_YEAR / (len(self.features) + 2)


def make_reference(
    columns: Floats, score: Floats, time_ms: Ints, weight: Floats, features: FeatureSet
) -> dict[str, Any]:
    """What ``reference.json`` holds, of rows that the model did not learn from: raw ``columns`` (n, len(features
    .columns)), probabilities, times and weights (n,).

    The latest rows are best: the parties' past is longest there, as it will be when decisions are compared with them.
    """
    order = np.argsort(time_ms, kind="stable")
    columns, score, time_ms, weight = columns[order], score[order], time_ms[order], weight[order]
    rows = float(weight.sum() ** 2 / np.square(weight).sum())
    stretches = _stretches(time_ms)
    told: dict[str, Any] = {"format": FORMAT, "rows": rows, "columns": {}}
    for variable in variables(features):
        values = columns[:, [features.columns.index(name) for name in variable.columns]]
        told["columns"][variable.name] = _tell(variable, values, weight, rows, stretches)
    told["score"] = _tell(SCORE, score[:, None], weight, rows, stretches)
    return told


def _tell(
    variable: Variable, values: Floats, weight: Floats, rows: float, stretches: Mapping[str, list[Ints]]
) -> dict[str, Any]:
    told: dict[str, Any]
    if variable.levels:
        bins = _flag_bins(len(variable.levels))
        told = {"levels": list(variable.levels)}
    else:
        edges, upper = _edges(values[:, 0], weight)
        bins = _number_bins(edges, upper)
        told = {"edges": edges, "upper": upper}
    which = bins.of(values)
    counts = np.bincount(which, weights=weight, minlength=bins.count)
    told["counts"] = [float(f"{count:.9g}") for count in counts.tolist()]
    plain = Baseline(variable, bins, counts, rows)
    groups = int(np.count_nonzero(bins.grouped(counts)))
    told["spread"], told["moved"] = 1.0, {}
    if groups < 2:
        return told
    ratios = []
    middle = (1 - 2 / (9 * (groups - 1))) ** 3  # the median of chi-square over its degrees of freedom
    for kind, each in stretches.items():
        reached = []
        for at in each:
            n = float(weight[at].sum() ** 2 / np.square(weight[at]).sum())
            lay = plain.psi(np.bincount(which[at], weights=weight[at] * n / weight[at].sum(), minlength=bins.count))
            chance = max(1 / n - 1 / rows, 1 / rows)  # the stretch is part of the whole it is compared with
            reached.append(max(0.0, lay - chance * chi_square_above(groups - 1, 0.05 / len(each))))
            if kind == "day":
                ratios.append(lay / (chance * (groups - 1) * middle))
        if reached:
            told["moved"][kind] = float(f"{max(reached):.4g}")
    if ratios:
        # The median, and bounded: what moves from day to day is told by ``moved``, this is of rows that come in runs.
        told["spread"] = float(f"{min(max(1.0, float(np.median(ratios))), _MOST_SPREAD):.4g}")
    return told


def _stretches(time_ms: Ints) -> dict[str, list[Ints]]:
    """Row numbers of the hours and of the half days (of all days together), of runs of whole days, and of weeks, as
    far as there are two of a kind with rows enough. ``time_ms`` ascends.
    """
    hour = time_ms // HOUR_MS % 24
    since = time_ms - time_ms[0]
    day = since // DAY_MS
    whole = int((since[-1] + HOUR_MS) // DAY_MS)
    runs: list[Ints] = []
    run: list[Ints] = []
    for this in range(whole):
        run.append(np.flatnonzero(day == this))
        if sum(map(len, run)) >= _STRETCH_ROWS:
            runs.append(np.concatenate(run))
            run = []
    found = {
        "hour": [np.flatnonzero(hour == this) for this in range(24)],
        "half day": [np.flatnonzero((hour - this) % 24 < 12) for this in range(0, 24, 2)],
        "day": runs,
        "week": [np.flatnonzero(day // 7 == this) for this in range(whole // 7)],
    }
    least = {"hour": 50, "half day": 250, "day": _STRETCH_ROWS, "week": 250}
    kept = {kind: [at for at in each if len(at) >= least[kind]] for kind, each in found.items()}
    return {kind: each for kind, each in kept.items() if len(each) > 1}


def read_reference(bundle: Bundle, features: FeatureSet) -> Reference:
    """The bundle's reference. Raises ``BundleError``: also where the bundle was sealed before there was such."""
    manifest = bundle.manifest
    try:
        told = json.loads(bundle.read("reference.json"))
        if not isinstance(told, dict) or told.get("format") != FORMAT:
            raise BundleRefused(
                "This bundle's reference tells too little to look for drift: it was sealed by an earlier version. "
                "Train and publish a new one."
            )
        rows = float(told["rows"])
        found = tuple(_baseline(variable, told["columns"][variable.name], rows) for variable in variables(features))
        return Reference(manifest.version, found, _baseline(SCORE, told["score"], rows), manifest.label_delay_ms)
    except (ValueError, KeyError, TypeError):
        raise BundleRefused("The bundle's 'reference.json' is not of its format.") from None


def _baseline(variable: Variable, told: Mapping[str, Any], rows: float) -> Baseline:
    if variable.levels:
        bins = _flag_bins(len(variable.levels))
        if tuple(told["levels"]) != variable.levels:
            raise ValueError
    else:
        bins = _number_bins(told["edges"], told["upper"])
    counts = np.array(told["counts"], np.float64)
    if counts.shape != (bins.count,) or not counts.sum() > 0 or not rows > 0:
        raise ValueError
    moved = {kind: float(told["moved"][kind]) for kind in _STRETCHES if kind in told["moved"]}
    return Baseline(variable, bins, counts, rows, float(told["spread"]), moved)


# --- the statistics --------------------------------------------------------------------------------------------------


def psi(reference: Floats, counts: Floats, rows: float | None = None) -> float:
    """Population stability index of ``counts`` against ``reference``, both (bins,): sum of (p - q) ln(p / q).

    ``rows``: how many the reference's counts are worth, where they are weighted. Half a row in each bin of the
    reference, and one row spread like it among the counts, keep a bin that only one of them has finite, without moving
    equal shares apart.
    """
    rows = float(reference.sum()) if rows is None else rows
    there = (reference > 0) | (counts > 0)
    reference, counts = reference[there], counts[there]
    q = (reference / reference.sum() * rows + 0.5) / (rows + 0.5 * len(reference))
    p = (counts + q) / (counts.sum() + 1.0)
    return float(((p - q) * np.log(p / q)).sum())


def ks(reference: Floats, counts: Floats) -> float | None:
    """The greatest gap between the shares below each edge, of what is not missing; None where nothing is there.

    Exact at the edges; between two of them the gap may be larger by what the reference has there, 1/40 as a rule.
    """
    theirs, ours = reference[:-1], counts[:-1]
    if not theirs.sum() > 0 or not ours.sum() > 0:
        return None
    gaps = np.cumsum(ours) / ours.sum() - np.cumsum(theirs) / theirs.sum()
    return float(np.abs(gaps).max())


def chi_square_above(freedom: int, alpha: float) -> float:
    """What chi-square exceeds with probability ``alpha`` (Wilson and Hilferty; a little too large where it errs)."""
    z = NormalDist().inv_cdf(1 - alpha)
    step = 2 / (9 * freedom)
    return float(freedom * (1 - step + z * math.sqrt(step)) ** 3)


def student_beyond(freedom: int, alpha: float) -> float:
    """What Student's t exceeds in size with probability ``alpha`` (Cornish and Fisher; for 10 degrees and more)."""
    z = NormalDist().inv_cdf(1 - alpha / 2)
    n = float(freedom)
    return (
        z
        + (z**3 + z) / (4 * n)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * n**4)
    )


# --- a look ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Histogram:
    """Shares of each of PSI's bins, the missing ones last.

    Of a number ``edges`` lie between the bins (upper edges belong to the bin below); of flags ``levels`` names the
    bins, before the one with none of them.
    """

    edges: tuple[float, ...]
    levels: tuple[str, ...]
    reference: tuple[float, ...]
    found: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """One feature, or the score, as it is against as it was.

    ``alarm`` exactly where ``state`` is drift: ``psi`` is above ``limit``. ``young``: the log is younger than the
    feature's past, so nothing is said; ``not enough``: fewer than 500 decisions. ``ks`` is null for what has no order.
    """

    name: str
    state: State
    alarm: bool
    n: int
    psi: float | None
    limit: float | None
    ks: float | None
    missing: float | None
    missing_reference: float
    histogram: Histogram


@dataclass(frozen=True, slots=True)
class Calibration:
    """Frauds against what the probabilities promised, of decisions whose labels are due.

    What was approved and nobody complained of counts as legitimate; what was flagged counts once it is labelled.
    ``ratio`` = observed / expected with the interval that holds it in 95 of 100 cases; days are taken as independent,
    not transactions. ``bins``: (n, mean probability, share of frauds) of each tenth of the probabilities that has any.
    """

    state: State
    alarm: bool
    since: str | None
    until: str | None
    n: int
    days: int
    labelled: int
    observed: int
    expected: float
    ratio: float | None
    low: float | None
    high: float | None
    ece: float | None
    bins: tuple[tuple[int, float, float], ...]


@dataclass(frozen=True, slots=True)
class DriftReport:
    """One look. ``since`` and ``until`` are times of arrival, ``until`` not included; ``n`` decisions were compared.

    Left out are test inputs, decisions of other bundles and those made without a model or without the parties' past.
    ``complete`` false: there were more decisions than are read at once, and the newest were taken. ``alarms`` names all
    that drifts, furthest beyond its limit first; ``history_days`` is how far the log goes back.
    """

    state: State
    model_version: str
    since: str
    until: str
    n: int
    left_out: int
    complete: bool
    history_days: float
    alarms: tuple[str, ...]
    features: tuple[Finding, ...]
    score: Finding
    calibration: Calibration


class Tally:
    """Counts of decisions, a few kilobytes however many there were."""

    def __init__(self, reference: Reference):
        self._reference = reference
        self._watched = (*reference.features, reference.score)
        self._names = [name for baseline in reference.features for name in baseline.variable.columns]
        self._counts = [np.zeros(baseline.bins.count) for baseline in self._watched]
        self._rows: list[list[float]] = []
        self.n = 0
        self.left_out = 0
        self._span = (math.inf, -math.inf, math.inf, -math.inf)

    def add(self, stored: Stored) -> None:
        """Count one decision, if it is one of the bundle's."""
        record = stored.record
        if record.test or record.probability is None or record.model_version != self._reference.version:
            self.left_out += 1
            return
        if "feature_store" in record.degraded:
            self.left_out += 1
            return
        features = json.loads(record.document)["features"]
        row = [features.get(name) for name in self._names]
        self._rows.append([math.nan if value is None else value for value in row] + [record.probability])
        began, ended, first, last = self._span
        at, arrived = record.time_ms, record.received_ms
        self._span = min(began, at), max(ended, at), min(first, arrived), max(last, arrived)
        self.n += 1
        if len(self._rows) >= _CHUNK:
            self._count()

    def _count(self) -> None:
        if not self._rows:
            return
        values = np.array(self._rows, np.float64)
        self._rows = []
        at = 0
        for baseline, counts in zip(self._watched, self._counts, strict=True):
            width = len(baseline.variable.columns) or 1
            counts += np.bincount(baseline.bins.of(values[:, at : at + width]), minlength=baseline.bins.count)
            at += width

    def findings(self, history_ms: int) -> tuple[tuple[Finding, ...], Finding]:
        """Of every feature, and of the score. ``history_ms``: how far the log goes back."""
        self._count()
        began, ended, first, last = self._span
        # A log that was filled in an hour from weeks of transactions has been through every hour of the day; so has a
        # day of decisions whose clocks are wrong.
        span = int(max(ended - began, last - first)) if self.n else 0
        alpha = self._reference.alpha
        follows = [baseline.variable.source in LEVELS for baseline in self._reference.features]
        follows.append(any(follows))  # the score, from all of them
        found = [
            _finding(baseline, counts, span, alpha, young=history_ms < YOUNG_MS and past)
            for baseline, counts, past in zip(self._watched, self._counts, follows, strict=True)
        ]
        return tuple(found[:-1]), found[-1]


def _finding(baseline: Baseline, counts: Floats, span_ms: int, alpha: float, *, young: bool) -> Finding:
    variable, bins = baseline.variable, baseline.bins
    n = int(counts.sum())
    theirs, ours = bins.grouped(baseline.counts), bins.grouped(counts)
    value, limit, state = None, None, "not enough"
    if n >= MIN_ROWS:
        value, limit = baseline.psi(counts), baseline.limit(n, span_ms, alpha)
        state = "drift" if value > limit else "quiet"
        if young:
            state = "young"
    missing = baseline.counts[-1] / baseline.counts.sum()
    upper = tuple(bins.edges[np.flatnonzero(np.diff(bins.groups[: len(bins.edges) + 1]))].tolist())
    return Finding(
        name=variable.name,
        state=state,  # type: ignore[arg-type]  # one of its words, all of them above
        alarm=state == "drift",
        n=n,
        psi=value,
        limit=limit,
        ks=None if variable.levels else ks(baseline.counts, counts),
        missing=float(counts[-1]) / n if n else None,
        missing_reference=float(missing),
        histogram=Histogram(
            edges=() if variable.levels else upper,
            levels=variable.levels,
            reference=tuple((theirs / theirs.sum()).tolist()),
            found=tuple((ours / n).tolist()) if n else (),
        ),
    )


class Due:
    """Frauds against probabilities, of decisions whose labels are due; a few numbers a day."""

    def __init__(self, reference: Reference):
        self._reference = reference
        self._days: dict[int, list[float]] = {}  # day -> frauds, probabilities, their variance
        self._bins = np.zeros((ECE_BINS, 3))  # decisions, probabilities, frauds
        self._labelled = 0
        self._span: tuple[int, int] | None = None

    def add(self, stored: Stored) -> None:
        record, label = stored
        chance = record.probability
        if record.test or chance is None or record.model_version != self._reference.version:
            return
        if label is None and record.outcome != "approve":
            return  # flagged, and nobody has looked: no word of the customer's would come either
        fraud = bool(label and label.is_fraud)
        self._labelled += label is not None
        day = self._days.setdefault(record.received_ms // DAY_MS, [0.0, 0.0, 0.0])
        day[0] += fraud
        day[1] += chance
        day[2] += chance * (1 - chance)
        self._bins[min(int(chance * ECE_BINS), ECE_BINS - 1)] += (1, chance, fraud)
        first, last = self._span or (record.received_ms, record.received_ms)
        self._span = min(first, record.received_ms), max(last, record.received_ms)

    def calibration(self) -> Calibration:
        days = np.array(list(self._days.values())).reshape(-1, 3)
        n = int(self._bins[:, 0].sum())
        observed, expected = float(days[:, 0].sum()), float(days[:, 1].sum())
        state: State = "not enough"
        ratio = low = high = None
        if len(days) >= MIN_DAYS and n >= MIN_ROWS and expected >= MIN_FRAUDS and self._labelled:
            surplus = days[:, 0] - days[:, 1]
            scatter = float(np.square(surplus - surplus.mean()).sum()) * len(days) / (len(days) - 1)
            # Frauds come in runs, so that days scatter more than coins; never less.
            error = math.sqrt(max(scatter, float(days[:, 2].sum())))
            ratio = observed / expected
            around = student_beyond(len(days) - 1, 0.05) * error / expected
            low, high = max(0.0, ratio - around), ratio + around
            sure = abs(observed - expected) > student_beyond(len(days) - 1, self._reference.alpha) * error
            state = "drift" if sure and not 1 / RATIO <= ratio <= RATIO else "quiet"
        filled = self._bins[self._bins[:, 0] > 0]
        return Calibration(
            state=state,
            alarm=state == "drift",
            since=rfc3339(self._span[0]) if self._span else None,
            until=rfc3339(self._span[1] + 1) if self._span else None,
            n=n,
            days=len(days),
            labelled=self._labelled,
            observed=int(observed),
            expected=expected,
            ratio=ratio,
            low=low,
            high=high,
            ece=float(np.abs(self._bins[:, 2] - self._bins[:, 1]).sum() / n) if state != "not enough" else None,
            bins=tuple((int(row[0]), row[1] / row[0], row[2] / row[0]) for row in filled.tolist()),
        )


def compare(
    reference: Reference,
    decisions: Iterable[Stored],
    due: Iterable[Stored] = (),
    *,
    since_ms: int,
    until_ms: int,
    history_ms: int,
    complete: bool = True,
) -> DriftReport:
    """Compare ``decisions``, and of those ``due`` frauds with probabilities. ``history_ms``: how old the log is."""
    tally, owed = Tally(reference), Due(reference)
    for stored in decisions:
        tally.add(stored)
    for stored in due:
        owed.add(stored)
    features, score = tally.findings(history_ms)
    calibration = owed.calibration()
    beyond = {
        found.name: found.psi / found.limit for found in (*features, score) if found.alarm and found.psi and found.limit
    }
    names = sorted(beyond, key=lambda name: -beyond[name]) + (["calibration"] if calibration.alarm else [])
    judged = [calibration.state, score.state, *(found.state for found in features)]
    state: State = "drift" if names else "quiet" if "quiet" in judged else "not enough"
    return DriftReport(
        state=state,
        model_version=reference.version,
        since=rfc3339(since_ms),
        until=rfc3339(until_ms),
        n=tally.n,
        left_out=tally.left_out,
        complete=complete,
        history_days=history_ms / DAY_MS,
        alarms=tuple(names),
        features=features,
        score=score,
        calibration=calibration,
    )


# --- the log ---------------------------------------------------------------------------------------------------------


def measure(
    decisions: DecisionLog,
    reference: Reference,
    now_ms: int,
    *,
    since_ms: int | None = None,
    until_ms: int | None = None,
    bounds: "Bounds | None" = None,
) -> DriftReport:
    """Look at what arrived in ``[since_ms, until_ms)``, by default in the last day, or in so many more, up to 28, that
    there are 2,000 decisions; and at 28 days of decisions whose labels are due. Raises ``StoreUnavailable``.
    """
    bounds = bounds or Bounds()
    until = now_ms if until_ms is None else until_ms
    begin = until - LONGEST_MS if since_ms is None else since_ms
    taken = _Newest(decisions, begin, until, bounds, None if since_ms is not None else until - DAY_MS)
    due_until = min(until, now_ms) - reference.label_delay_ms
    due = _Newest(decisions, due_until - CALIBRATION_MS, due_until, bounds)
    oldest = decisions.search(Search(test=False, oldest_first=True, limit=1)).items
    history_ms = until - oldest[0].record.received_ms if oldest else 0
    report = compare(reference, taken, due, since_ms=begin, until_ms=until, history_ms=max(0, history_ms))
    return replace(report, since=rfc3339(taken.since_ms), complete=taken.complete and due.complete)


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much is read: the newest ``rows`` of what is compared, and of what is due; for ``seconds`` each.

    ``gently``: a thread that never waits keeps the others from the interpreter for 5 ms at a time, so it waits often.
    """

    rows: int | None = None
    seconds: float | None = None
    gently: bool = False


class _Newest:
    """The decisions that arrived in ``[since_ms, until_ms)``, newest first, test inputs left out.

    With ``enough_ms``, no more that arrived before it once there are ``ENOUGH_ROWS``. Afterwards ``since_ms`` is from
    when on they are all there, and ``complete`` tells whether ``bounds`` cut them short.
    """

    def __init__(
        self, decisions: DecisionLog, since_ms: int, until_ms: int, bounds: Bounds, enough_ms: int | None = None
    ):
        self._decisions = decisions
        self._until_ms = until_ms
        self._bounds = bounds
        self._enough_ms = enough_ms
        self.since_ms = since_ms
        self.complete = True

    def __iter__(self) -> Iterator[Stored]:
        rows, seconds = self._bounds.rows, self._bounds.seconds
        ends = math.inf if seconds is None else time.monotonic() + seconds
        search = Search(since_ms=max(0, self.since_ms), until_ms=max(0, self._until_ms), test=False, limit=MAX_PAGE)
        n, last = 0, self._until_ms
        while True:
            page = self._decisions.search(search)
            for stored in page.items:
                arrived = stored.record.received_ms
                enough = self._enough_ms is not None and n >= ENOUGH_ROWS and arrived < self._enough_ms
                if enough or n == rows:
                    self.since_ms, self.complete = last, enough
                    return
                yield stored
                n, last = n + 1, arrived
                if self._bounds.gently and n % _STRIDE == 0:
                    time.sleep(_PAUSE_S)
            if page.cursor is None:
                return
            if time.monotonic() > ends:
                self.since_ms, self.complete = last, False
                return
            search = replace(search, cursor=page.cursor)


#: For somebody who waits (Lambda ends what takes ten seconds), and on schedule (sixty).
WAITED_FOR: Final = Bounds(20_000, 3.5, gently=True)
SCHEDULED: Final = Bounds(100_000, 20.0, gently=True)


class DriftWatch:
    """Looks for drift in a log with the bundle that is served: for a route that shows it, and on a schedule."""

    def __init__(
        self,
        decisions: Callable[[], DecisionLog],
        served: Callable[[], tuple[Bundle, FeatureSet] | None],
        metrics: Metrics,
        clock: Callable[[], int],
    ):
        self._decisions = decisions
        self._served = served
        self._metrics = metrics
        self._clock = clock
        self._reference: Reference | None = None

    def look(
        self, since_ms: int | None = None, until_ms: int | None = None, bounds: Bounds = WAITED_FOR
    ) -> DriftReport:
        """As :func:`measure`. Raises ``NotServed`` where no bundle is served, or none that tells what it was made of,
        and ``StoreUnavailable``.
        """
        served = self._served()
        if served is None:
            raise NotServed("No bundle is loaded, so there is nothing to compare with.")
        reference = self._reference
        if reference is None or reference.version != served[0].manifest.version:
            try:
                reference = read_reference(*served)
            except BundleError as error:
                raise NotServed(str(error)) from None
            self._reference = reference
        return measure(self._decisions(), reference, self._clock(), since_ms=since_ms, until_ms=until_ms, bounds=bounds)

    def run(self) -> DriftReport | None:
        """The scheduled look: counted, and one line in the log, a warning that names what drifts.

        None, with a line that says why, where there is no bundle to compare with. Raises ``StoreUnavailable``: try
        again.
        """
        try:
            report = self.look(bounds=SCHEDULED)
        except NotServed as error:
            self._metrics.add("drift_looks", "failed")
            log.error("no look for drift", extra={"reason": str(error)})
            return None
        except StoreUnavailable:
            self._metrics.add("drift_looks", "failed")
            raise
        self._metrics.add("drift_looks", report.state)
        if report.alarms:
            self._metrics.add("drift_alarms", n=len(report.alarms))
        line = {
            "state": report.state,
            "alarms": list(report.alarms),
            "decisions": report.n,
            "since": report.since,
            "until": report.until,
            "model_version": report.model_version,
        }
        log.log(logging.WARNING if report.alarms else logging.INFO, "drift", extra=line)
        return report
