"""The fraud model: at most three members' margins, weighted and added -> one calibrated probability, exact reasons.

A member is a forest or a linear function. A forest is every tree of an ensemble in one set of arrays, evaluated with
numpy alone: no native library, nothing that parses, nothing that can run code. XGBoost's margins are added in float32
in tree order, which makes them equal to its own to the bit; an Isolation Forest's in float64. Whatever is added is
added one by one, in a fixed order, so that a row alone and in a batch say the same to the bit. Calibration is float64,
one function, for one row and for a batch.

Exact reasons are TreeSHAP (Lundberg et al., "From local explanations to global understanding with explainable AI for
trees", 2020, path-dependent form) turned into table look-ups: for a leaf whose path tests m distinct features, its
contribution to each of them depends only on which of the m conditions hold, so 2^m rows per leaf are computed once, at
sealing. A row's contributions are then one look-up a leaf.
"""

import io
import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .bundle import Bundle, Manifest, MemberKind
from .errors import BundleRefused
from .features import Attribute, FeatureSet, Floats, TimeZone, describe, fill
from .schemas import RateTable, Thresholds

Singles = npt.NDArray[np.float32]
#: A forest's thresholds and leaves: float32 as XGBoost's, float64 as scikit-learn's.
Values = npt.NDArray[np.float32] | npt.NDArray[np.float64]
Ints = npt.NDArray[np.int32]

#: A leaf's table has 2^m rows, so the number of distinct features on a path is bounded, and with it the depth.
MAX_DEPTH = 6
MAX_TREES = 5_000
#: Rows evaluated at once: enough to amortise numpy's calls, few enough to stay in cache.
CHUNK = 256
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class LeafTable:
    """Contributions of all leaves whose paths test the same number m of distinct features; L of them.

    ``feature`` (L, m) int32; a condition holds where ``low <= x < high`` ((L, m) float32) or x is missing and
    ``missing`` (L, m) bool says so; ``table`` (L, 2^m, m) float32 by the bits of the conditions that hold.
    """

    feature: Ints
    low: Singles
    high: Singles
    missing: npt.NDArray[np.bool_]
    table: Singles


class Forest:
    """An ensemble of binary trees over ``width`` features.

    Arrays over all N nodes: ``feature`` int32, ``value`` float32 (a threshold, or the leaf's value), ``child``
    (2N,) int32 with the right child at 2i and the left at 2i + 1 (a leaf is its own child), ``missing_left`` bool.
    ``root`` (T,) int32. A row goes left where ``x < value``, or where x is NaN and ``missing_left``. Margins are added
    in the type of ``value``: float32 for XGBoost's trees, float64 for an Isolation Forest's.
    """

    def __init__(
        self,
        *,
        width: int,
        bias: float,
        expected: float,
        root: Ints,
        feature: Ints,
        value: Values,
        child: Ints,
        missing_left: npt.NDArray[np.bool_],
        tables: Sequence[LeafTable],
    ):
        self.width = width
        self.bias = float(bias)
        #: Mean margin by cover: what the contributions are measured from.
        self.expected = expected
        self.root = root
        self.feature = feature
        self.value = value
        self.child = child
        self.missing_left = missing_left
        self.tables = tuple(tables)
        self.depth = self._check()
        # Index types numpy need not convert on every call.
        self._root = root.astype(np.intp)
        self._feature = feature.astype(np.intp)
        self._child = child.astype(np.intp)
        self._lookups = [
            (t.feature.astype(np.intp), t, 1 << np.arange(t.feature.shape[1]), np.arange(len(t.feature)))
            for t in self.tables
        ]

    def _check(self) -> int:
        """Bounds and shape of everything that is ever used as an index; returns the depth. Raises ``BundleRefused``."""
        nodes, trees = len(self.feature), len(self.root)
        if not (1 <= trees <= MAX_TREES and trees <= nodes):
            raise BundleRefused("A forest has an impossible number of trees or nodes.")
        if not (len(self.value) == len(self.missing_left) == nodes and len(self.child) == 2 * nodes):
            raise BundleRefused("A forest's arrays do not have the same length.")
        if self.feature.min() < 0 or self.feature.max() >= self.width:
            raise BundleRefused("A forest tests a feature that does not exist.")
        own = np.repeat(np.arange(nodes), 2)
        if self.child.min() < 0 or self.child.max() >= nodes or bool((self.child < own).any()):
            raise BundleRefused("A forest has a child out of bounds or before its parent.")  # so it has no cycle
        # A node is a leaf on both sides or on neither, or the walk could stop half way.
        if bool(((self.child[0::2] == own[0::2]) != (self.child[1::2] == own[1::2])).any()):
            raise BundleRefused("A forest has a node with one child.")
        if self.root.min() < 0 or self.root.max() >= nodes:
            raise BundleRefused("A forest has a root out of bounds.")
        if not (np.isfinite(self.value).all() and math.isfinite(self.bias) and math.isfinite(self.expected)):
            raise BundleRefused("A forest holds a value that is not finite.")
        depth, front = 0, np.unique(self.root)
        while True:
            below = np.unique(np.concatenate((self.child[2 * front], self.child[2 * front + 1])))
            below = below[self.child[2 * below] != below]
            inner = front[self.child[2 * front] != front]
            if not len(inner):
                break
            depth += 1
            if depth > MAX_DEPTH:
                raise BundleRefused(f"A forest is deeper than {MAX_DEPTH}.")
            front = below if len(below) else front[:0]
            if not len(front):
                break
        for table in self.tables:
            leaves, tested = table.feature.shape
            shapes = (table.low.shape, table.high.shape, table.missing.shape)
            if any(shape != (leaves, tested) for shape in shapes) or not 1 <= tested <= MAX_DEPTH:
                raise BundleRefused("A forest's leaf table has the wrong shape.")
            if table.table.shape != (leaves, 1 << tested, tested) or not np.isfinite(table.table).all():
                raise BundleRefused("A forest's leaf table has the wrong shape or a value that is not finite.")
            if np.isnan(table.low).any() or np.isnan(table.high).any():
                raise BundleRefused("A forest's leaf table has a bound that is not a number.")
            if leaves and (table.feature.min() < 0 or table.feature.max() >= self.width):
                raise BundleRefused("A forest's leaf table names a feature that does not exist.")
        return depth

    def margin(self, x: Singles) -> float:
        """The margin of one row, ``x`` (width,) float32; XGBoost's trees give XGBoost's own to the bit."""
        at = self._root
        gap = np.isnan(x)
        any_gap = bool(gap.any())
        for _ in range(self.depth):
            tested = self._feature[at]
            left = x[tested] < self.value[at]
            if any_gap:
                left |= gap[tested] & self.missing_left[at]
            at = self._child[2 * at + left]
        terms = np.empty(len(at) + 1, self.value.dtype)
        terms[0] = self.bias
        terms[1:] = self.value[at]
        # accumulate adds one by one, in tree order; sum would add in pairs and round differently
        return float(np.add.accumulate(terms)[-1])

    def margins(self, rows: Singles) -> Floats:
        """Margins of many rows, (n, width) float32 -> (n,) float64; each equal to :meth:`margin` to the bit."""
        out = np.empty(len(rows), np.float64)
        for start in range(0, len(rows), CHUNK):
            chunk = rows[start : start + CHUNK]
            n = len(chunk)
            flat = np.ascontiguousarray(chunk).ravel()
            offset = np.arange(n)[:, None] * self.width
            gap = np.isnan(flat) if np.isnan(chunk).any() else None
            at = np.broadcast_to(self._root, (n, len(self._root)))
            for _ in range(self.depth):
                tested = self._feature[at] + offset
                left = flat[tested] < self.value[at]
                if gap is not None:
                    left |= gap[tested] & self.missing_left[at]
                at = self._child[2 * at + left]
            terms = np.empty((n, len(self._root) + 1), self.value.dtype)
            terms[:, 0] = self.bias
            terms[:, 1:] = self.value[at]
            out[start : start + n] = np.add.accumulate(terms, axis=1)[:, -1]
        return out

    def contributions(self, x: Singles) -> Floats:
        """Exact SHAP values of one row in margin units, (width,) float64; with ``expected`` they sum to the margin."""
        total = np.zeros(self.width)
        gap = np.isnan(x)
        any_gap = bool(gap.any())
        for feature, leaf, bits, number in self._lookups:
            value = x[feature]
            holds = (value >= leaf.low) & (value < leaf.high)
            if any_gap:
                holds |= gap[feature] & leaf.missing
            share = leaf.table[number, holds @ bits]
            total += np.bincount(feature.ravel(), weights=share.ravel(), minlength=self.width)
        return total

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Everything by name, ready for :func:`pack`."""
        named: dict[str, npt.NDArray[Any]] = {
            "scalars": np.array([self.width, self.bias, self.expected], np.float64),
            "root": self.root,
            "feature": self.feature,
            "value": self.value,
            "child": self.child,
            "missing_left": self.missing_left,
        }
        for table in self.tables:
            for name in LeafTable.__dataclass_fields__:
                named[f"leaf{table.feature.shape[1]}.{name}"] = getattr(table, name)
        return named

    @classmethod
    def from_arrays(cls, named: Mapping[str, npt.NDArray[Any]], *, double: bool = False) -> "Forest":
        """The inverse of :meth:`arrays`; ``double`` where values are float64. Raises ``BundleRefused`` for a missing
        array, a wrong type or bound.
        """

        def take(name: str, kind: type[np.generic], dimensions: int) -> npt.NDArray[Any]:
            return _take(named, "forest", name, kind, dimensions)

        scalars = take("scalars", np.float64, 1)
        if len(scalars) != 3 or not (np.abs(scalars) <= _LARGEST).all() or scalars[0] % 1:
            raise BundleRefused("The forest's array 'scalars' is not a width and two finite numbers.")
        tables = []
        for tested in range(1, MAX_DEPTH + 1):
            if f"leaf{tested}.table" in named:
                tables.append(
                    LeafTable(
                        feature=take(f"leaf{tested}.feature", np.int32, 2),
                        low=take(f"leaf{tested}.low", np.float32, 2),
                        high=take(f"leaf{tested}.high", np.float32, 2),
                        missing=take(f"leaf{tested}.missing", np.bool_, 2),
                        table=take(f"leaf{tested}.table", np.float32, 3),
                    )
                )
        return cls(
            width=int(scalars[0]),
            bias=float(scalars[1]),
            expected=float(scalars[2]),
            root=take("root", np.int32, 1),
            feature=take("feature", np.int32, 1),
            value=take("value", np.float64 if double else np.float32, 1),
            child=take("child", np.int32, 1),
            missing_left=take("missing_left", np.bool_, 1),
            tables=tables,
        )


class Linear:
    """``intercept`` + the sum of ``coef * clip(x, low, high)`` over ``width`` features, in float64.

    A logistic regression folded with its scaling. ``low`` and ``high`` keep a row within what training saw: beyond, a
    straight line would go on for ever and outvote every tree. ``mean`` are the training rows' mean clipped features,
    what the contributions are measured from. All (width,) float64.
    """

    def __init__(self, *, intercept: float, coef: Floats, low: Floats, high: Floats, mean: Floats):
        self.intercept = intercept
        self.coef = coef
        self.low = low
        self.high = high
        self.mean = mean
        self.width = len(coef)
        if not (coef.shape == low.shape == high.shape == mean.shape and self.width):
            raise BundleRefused("A linear member's arrays do not have the same length.")
        if not all(np.isfinite(part).all() for part in (coef, low, high, mean, np.array(intercept))):
            raise BundleRefused("A linear member holds a value that is not finite.")
        if bool((low > high).any()):
            raise BundleRefused("A linear member has a lower bound above the upper.")
        #: Mean margin: what the contributions are measured from.
        self.expected = self._add(mean[None])[0]

    def margin(self, x: Singles) -> float:
        """The margin of one row, ``x`` (width,) float32."""
        return float(self.margins(x[None])[0])

    def margins(self, rows: Singles) -> Floats:
        """Margins of many rows, (n, width) float32 -> (n,) float64; each equal to :meth:`margin` to the bit."""
        return self._add(self._within(rows))

    def contributions(self, x: Singles) -> Floats:
        """Exact contributions of one row, (width,) float64; with ``expected`` they sum to the margin."""
        shares: Floats = self.coef * (self._within(x) - self.mean)
        return shares

    def _within(self, rows: Singles) -> Floats:
        clipped: Floats = np.clip(rows.astype(np.float64), self.low, self.high)
        return np.where(np.isnan(clipped), self.mean, clipped)  # what is missing even after filling says nothing

    def _add(self, clipped: Floats) -> Floats:
        terms = np.empty((len(clipped), self.width + 1))
        terms[:, 0] = self.intercept
        terms[:, 1:] = self.coef * clipped
        # Neither dot nor sum: their order of adding depends on the library, the machine and the number of rows.
        total: Floats = np.add.accumulate(terms, axis=1)[:, -1]
        return total

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Everything by name, ready for :func:`pack`."""
        return {
            "intercept": np.array([self.intercept]),
            "coef": self.coef,
            "low": self.low,
            "high": self.high,
            "mean": self.mean,
        }

    @classmethod
    def from_arrays(cls, named: Mapping[str, npt.NDArray[Any]]) -> "Linear":
        """The inverse of :meth:`arrays`. Raises ``BundleRefused`` for a missing array, a wrong type or bound."""
        parts = {name: _take(named, "linear member", name, np.float64, 1) for name in ("coef", "low", "high", "mean")}
        intercept = _take(named, "linear member", "intercept", np.float64, 1)
        if len(intercept) != 1:
            raise BundleRefused("The linear member's array 'intercept' is not one number.")
        return cls(intercept=float(intercept[0]), **parts)


#: What a member is made of.
Part = Forest | Linear


def _take(
    named: Mapping[str, npt.NDArray[Any]], what: str, name: str, kind: type[np.generic], dimensions: int
) -> npt.NDArray[Any]:
    array = named.get(name)
    if not isinstance(array, np.ndarray) or array.dtype != kind or array.ndim != dimensions:
        raise BundleRefused(f"The {what}'s array '{name}' is missing or has the wrong type.")
    return array


def pack(*parts: Part) -> bytes:
    """The members' arrays, each behind its member's place (``0.root``), as the bytes of an ``.npz`` without pickles."""
    named = {f"{place}.{name}": array for place, part in enumerate(parts) for name, array in part.arrays().items()}
    out = io.BytesIO()
    np.savez(out, allow_pickle=False, **named)
    return out.getvalue()


def unpack(data: bytes, kinds: Sequence[MemberKind] = ("forest",)) -> tuple[Part, ...]:
    """The inverse of :func:`pack` for members of these kinds. Raises ``BundleRefused`` for anything that is not one."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as members:
            # Stored as they are, as pack writes them: then nothing unfolds to more memory than the file has bytes.
            if any(member.compress_type != zipfile.ZIP_STORED for member in members.infolist()):
                raise BundleRefused("forest.npz is compressed; it is sealed without.")
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            named = {name: archive[name] for name in archive.files}
    except BundleRefused:
        raise
    except Exception as error:  # zipfile and numpy raise many kinds; all of them mean the same here
        raise BundleRefused(f"forest.npz cannot be read ({type(error).__name__}).") from None
    parts: list[Part] = []
    for place, kind in enumerate(kinds):
        own = {name.partition(".")[2]: array for name, array in named.items() if name.startswith(f"{place}.")}
        # A lone forest was once sealed without a place before its names.
        own = named if not own and list(kinds) == ["forest"] else own
        parts.append(Linear.from_arrays(own) if kind == "linear" else Forest.from_arrays(own, double=kind != "forest"))
    return tuple(parts)


def singles(values: Floats) -> Singles:
    """As float32, in training and in service; what lies beyond its range is its largest number, never infinite."""
    narrow: Singles = np.minimum(np.maximum(values, -_LARGEST), _LARGEST).astype(np.float32)
    return narrow


def calibrate(margin: float, slope: float, intercept: float) -> float:
    """Platt scaling in float64: the one place where a margin becomes a probability."""
    logit = slope * margin + intercept
    if logit >= 0.0:
        return 1.0 / (1.0 + math.exp(-logit))
    grown = math.exp(logit)  # the other branch would overflow for very negative logits
    return grown / (1.0 + grown)


class FraudModel:
    """A bundle's model, checked and ready to score.

    ``features`` says what a row holds, ``population`` (len(columns),) fills what is missing, ``members`` are
    ``(weight, part)``; the margin is their weighted sum, added in their order.
    """

    def __init__(
        self,
        *,
        version: str,
        features: FeatureSet,
        population: Floats,
        members: Sequence[tuple[float, Part]],
        slope: float,
        intercept: float,
        thresholds: Thresholds,
        rates: RateTable,
    ):
        self.version = version
        self.features = features
        self.population = population
        self.members = tuple(members)
        self.slope = slope
        self.intercept = intercept
        self.thresholds = thresholds
        self.rates = rates
        if len(population) != len(features.columns) or any(
            part.width != len(features.picked) for _, part in self.members
        ):
            raise BundleRefused("The bundle's population values, features and members do not have the same width.")
        if not all(weight > 0 and math.isfinite(weight) for weight, _ in self.members):
            raise BundleRefused("The bundle has a member whose weight is not above 0.")
        if not slope > 0 or not math.isfinite(intercept):
            raise BundleRefused("The bundle's calibration does not rise with the margin.")
        if not 0 < thresholds.review <= thresholds.decline < 1:
            raise BundleRefused("The bundle's thresholds are not 0 < review <= decline < 1.")
        #: A picked column's group, and each group's columns: reasons are told by group.
        groups: dict[str, list[int]] = {}
        for position, name in enumerate(features.picked):
            groups.setdefault(describe(name).group or name, []).append(position)
        self._groups = tuple((group, tuple(positions)) for group, positions in groups.items())

    @classmethod
    def load(cls, bundle: Bundle) -> "FraudModel":
        """Build from an opened bundle: names, bounds, then the golden rows. Raises ``BundleRefused``."""
        kinds = [member.kind for member in bundle.manifest.members]
        model = cls.from_manifest(bundle.manifest, *unpack(bundle.read("forest.npz"), kinds))
        model.check_golden(bundle.read("golden.json"))
        return model

    @classmethod
    def from_manifest(cls, manifest: Manifest, *parts: Part) -> "FraudModel":
        """``parts`` in the order of the manifest's members. Raises ``BundleRefused``."""
        if len(manifest.members) != len(parts):
            raise BundleRefused(f"The manifest names {len(manifest.members)} members, the bundle has {len(parts)}.")
        for named in manifest.features:
            if describe(named.name).version != named.version:
                raise BundleRefused(f"The bundle needs version {named.version} of feature '{named.name}'.")
        features = feature_set(manifest)
        population = np.array(
            [math.nan if (v := manifest.population.get(name)) is None else v for name in features.columns]
        )
        return cls(
            version=manifest.version,
            features=features,
            population=population,
            members=[(member.weight, part) for member, part in zip(manifest.members, parts, strict=True)],
            slope=manifest.calibration.slope,
            intercept=manifest.calibration.intercept,
            thresholds=Thresholds(manifest.thresholds.review, manifest.thresholds.decline),
            rates=rate_table(manifest),
        )

    def vector(self, filled: Floats) -> Singles:
        """What the members see, (..., picked) float32, of filled columns (..., columns) float64."""
        return singles(filled[..., self.features.index])

    def margin(self, vector: Singles) -> float:
        return self._sum(self.margins(vector))

    def margins(self, vector: Singles) -> list[float]:
        """Each member's own margin of one row, in the members' order."""
        return [part.margin(vector) for _, part in self.members]

    def _sum(self, margins: Sequence[float]) -> float:
        total = 0.0
        for (weight, _), own in zip(self.members, margins, strict=True):
            total += weight * own
        return total

    def probability(self, vector: Singles) -> float:
        """The calibrated fraud probability of one row."""
        return self.score(vector)[1]

    def score(self, vector: Singles) -> tuple[list[float], float]:
        """The members' margins of one row, and its calibrated fraud probability."""
        margins = self.margins(vector)
        return margins, calibrate(self._sum(margins), self.slope, self.intercept)

    def probabilities(self, vectors: Singles) -> Floats:
        """The calibrated fraud probabilities of (n, picked) rows; each equal to :meth:`probability` to the bit."""
        return self.calibrated([part.margins(vectors) for _, part in self.members])

    def calibrated(self, margins: Sequence[Floats]) -> Floats:
        """Probabilities (n,) of the members' margins, each (n,), in the members' order."""
        total = np.zeros(len(margins[0]))
        for (weight, _), own in zip(self.members, margins, strict=True):
            total += weight * own
        return np.array([calibrate(margin, self.slope, self.intercept) for margin in total.tolist()])

    def contributions(self, vector: Singles) -> list[tuple[str, float]]:
        """Each group's exact share of the log-odds, strongest first; with ``expected_log_odds`` they add up."""
        total = np.zeros(len(vector))
        for weight, part in self.members:
            total += self.slope * weight * part.contributions(vector)
        values = total.tolist()
        shares = [(group, sum(values[i] for i in positions)) for group, positions in self._groups]
        shares.sort(key=lambda share: (-abs(share[1]), share[0]))
        return shares

    @property
    def expected_log_odds(self) -> float:
        return self.slope * sum(weight * part.expected for weight, part in self.members) + self.intercept

    def check_golden(self, text: bytes) -> None:
        """Score the rows that were scored at sealing; another machine must reach the same numbers.

        Margins must be equal to the bit. Probabilities may differ in the last places, where the C library's ``exp``
        is another one. The file names its columns, so that a service that has learnt further features still reads it.
        """
        try:
            golden = json.loads(text)
            told = np.array(
                [[math.nan if v is None else float(v) for v in row["columns"]] for row in golden["rows"]], np.float64
            )
            names = [str(name) for name in golden.get("names", self.features.columns)]
            margins = [float(row["margin"]) for row in golden["rows"]]
            probabilities = [float(row["probability"]) for row in golden["rows"]]
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            raise BundleRefused("golden.json cannot be read.") from None
        unknown = set(names) - set(self.features.columns) or set(self.features.picked) - set(names)
        if told.ndim != 2 or not len(told) or told.shape[1] != len(names) or len(set(names)) != len(names) or unknown:
            raise BundleRefused("golden.json does not fit the bundle's columns.")
        rows = np.full((len(told), len(self.features.columns)), math.nan)
        rows[:, [self.features.columns.index(name) for name in names]] = told
        for row, margin, probability in zip(rows, margins, probabilities, strict=True):
            vector = self.vector(fill(row, self.population))
            if self.margin(vector) != margin or abs(self.probability(vector) - probability) > 1e-12:
                raise BundleRefused("The golden rows score differently here than when the bundle was sealed.")


def feature_set(manifest: Manifest) -> FeatureSet:
    """The columns a manifest describes. Raises ``BundleRefused`` for a feature this service does not know."""
    zone = manifest.time_zone
    return FeatureSet(
        attributes=tuple(Attribute(a.name, a.kind, a.levels) for a in manifest.attributes),
        picked=tuple(feature.name for feature in manifest.features),
        time_zone=TimeZone(zone.name, zone.starts_ms, zone.offsets_s),
        minor_factor=float(10**manifest.currency.minor_units),
        label_delay_ms=manifest.label_delay_ms,
    )


def rate_table(manifest: Manifest) -> RateTable:
    currency = manifest.currency
    tables = tuple(sorted(((table.from_ms, table.rates) for table in currency.tables), key=lambda item: item[0]))
    return RateTable(currency.base, currency.minor_units, tables)
