"""The fraud model: forests as flat arrays -> one margin -> one calibrated probability, and exact reasons.

A forest is every tree of an ensemble in one set of arrays, evaluated with numpy alone: no native library, nothing that
parses, nothing that can run code. Margins are added in float32 in tree order, which makes them equal to XGBoost's to
the bit; calibration is float64, one function, for one row and for a batch.

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

from .bundle import Bundle, Manifest
from .errors import BundleRefused
from .features import Attribute, FeatureSet, Floats, TimeZone, describe, fill
from .schemas import RateTable, Thresholds

Singles = npt.NDArray[np.float32]
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
    ``root`` (T,) int32. A row goes left where ``x < value``, or where x is NaN and ``missing_left``.
    """

    def __init__(
        self,
        *,
        width: int,
        bias: float,
        expected: float,
        root: Ints,
        feature: Ints,
        value: Singles,
        child: Ints,
        missing_left: npt.NDArray[np.bool_],
        tables: Sequence[LeafTable],
    ):
        self.width = width
        self.bias = np.float32(bias)
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

    def margin(self, x: Singles) -> np.float32:
        """The margin of one row, ``x`` (width,) float32 -> float32, equal to XGBoost's to the bit."""
        at = self._root
        gap = np.isnan(x)
        any_gap = bool(gap.any())
        for _ in range(self.depth):
            tested = self._feature[at]
            left = x[tested] < self.value[at]
            if any_gap:
                left |= gap[tested] & self.missing_left[at]
            at = self._child[2 * at + left]
        terms = np.empty(len(at) + 1, np.float32)
        terms[0] = self.bias
        terms[1:] = self.value[at]
        # accumulate adds one by one, in tree order; sum would add in pairs and round differently
        result: np.float32 = np.add.accumulate(terms)[-1]
        return result

    def margins(self, rows: Singles) -> Singles:
        """Margins of many rows, (n, width) float32 -> (n,) float32; each equal to :meth:`margin` to the bit."""
        out = np.empty(len(rows), np.float32)
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
            terms = np.empty((n, len(self._root) + 1), np.float32)
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
    def from_arrays(cls, named: Mapping[str, npt.NDArray[Any]]) -> "Forest":
        """The inverse of :meth:`arrays`. Raises ``BundleRefused`` for a missing array, wrong type or bound."""

        def take(name: str, kind: type[np.generic], dimensions: int) -> npt.NDArray[Any]:
            array = named.get(name)
            if not isinstance(array, np.ndarray) or array.dtype != kind or array.ndim != dimensions:
                raise BundleRefused(f"The forest's array '{name}' is missing or has the wrong type.")
            return array

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
            value=take("value", np.float32, 1),
            child=take("child", np.int32, 1),
            missing_left=take("missing_left", np.bool_, 1),
            tables=tables,
        )


def pack(forest: Forest) -> bytes:
    """The forest as the bytes of an ``.npz`` without pickles."""
    out = io.BytesIO()
    np.savez(out, allow_pickle=False, **forest.arrays())
    return out.getvalue()


def unpack(data: bytes) -> Forest:
    """The inverse of :func:`pack`. Raises ``BundleRefused`` for anything that is not one."""
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
    return Forest.from_arrays(named)


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
    ``(weight, forest)``; the margin is their weighted sum.
    """

    def __init__(
        self,
        *,
        version: str,
        features: FeatureSet,
        population: Floats,
        members: Sequence[tuple[float, Forest]],
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
        if len(population) != len(features.columns) or any(f.width != len(features.picked) for _, f in self.members):
            raise BundleRefused("The bundle's population values, features and forest do not have the same width.")
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
        model = cls.from_manifest(bundle.manifest, unpack(bundle.read("forest.npz")))
        model.check_golden(bundle.read("golden.json"))
        return model

    @classmethod
    def from_manifest(cls, manifest: Manifest, forest: Forest) -> "FraudModel":
        if len(manifest.members) != 1:
            raise BundleRefused("The bundle has several members; this service serves models of one.")
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
            members=[(manifest.members[0].weight, forest)],
            slope=manifest.calibration.slope,
            intercept=manifest.calibration.intercept,
            thresholds=Thresholds(manifest.thresholds.review, manifest.thresholds.decline),
            rates=rate_table(manifest),
        )

    def vector(self, filled: Floats) -> Singles:
        """What the forest sees, (..., picked) float32, of filled columns (..., columns) float64."""
        return singles(filled[..., self.features.index])

    def margin(self, vector: Singles) -> float:
        total = 0.0
        for weight, forest in self.members:
            total += weight * float(forest.margin(vector))
        return total

    def probability(self, vector: Singles) -> float:
        """The calibrated fraud probability of one row."""
        return calibrate(self.margin(vector), self.slope, self.intercept)

    def probabilities(self, vectors: Singles) -> Floats:
        """The calibrated fraud probabilities of (n, picked) rows; each equal to :meth:`probability` to the bit."""
        total = np.zeros(len(vectors))
        for weight, forest in self.members:
            total += weight * forest.margins(vectors).astype(np.float64)
        return np.array([calibrate(margin, self.slope, self.intercept) for margin in total.tolist()])

    def contributions(self, vector: Singles) -> list[tuple[str, float]]:
        """Each group's exact share of the log-odds, strongest first; with ``expected_log_odds`` they add up."""
        total = np.zeros(len(vector))
        for weight, forest in self.members:
            total += self.slope * weight * forest.contributions(vector)
        values = total.tolist()
        shares = [(group, sum(values[i] for i in positions)) for group, positions in self._groups]
        shares.sort(key=lambda share: (-abs(share[1]), share[0]))
        return shares

    @property
    def expected_log_odds(self) -> float:
        return self.slope * sum(w * f.expected for w, f in self.members) + self.intercept

    def check_golden(self, text: bytes) -> None:
        """Score the rows that were scored at sealing; another machine must reach the same numbers.

        Margins must be equal to the bit. Probabilities may differ in the last places, where the C library's ``exp``
        is another one.
        """
        try:
            golden = json.loads(text)
            rows = np.array(
                [[math.nan if v is None else float(v) for v in row["columns"]] for row in golden["rows"]], np.float64
            )
            margins = [float(row["margin"]) for row in golden["rows"]]
            probabilities = [float(row["probability"]) for row in golden["rows"]]
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            raise BundleRefused("golden.json cannot be read.") from None
        if rows.ndim != 2 or not len(rows) or rows.shape[1] != len(self.features.columns):
            raise BundleRefused("golden.json does not fit the bundle's columns.")
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
