"""A training run, or the decisions on a large file, over the machines of a Dask cluster: ``--engine dask``.

A feature reads a transaction and *one* party's profile, so history can be replayed party by party wherever a party's
entries are together. Rows are read file by file and cut into pieces; each piece spreads its parties' entries over
buckets by a hash of the party (customers, counterparties and devices are one namespace); each bucket is replayed on its
own by the very same compiled function; what was replayed goes back to the pieces by the number of the row. The columns
are those of one machine to the bit, however many workers there are and whichever dies.

What one machine still holds: the time and the label of every row (some forty bytes a row), and a bounded number of rows
to search, calibrate and judge by. Everything else stays on the workers, and comes about again where one of them is
lost.

Whoever reaches a scheduler runs code on its workers: a private network, or ``tls://`` with certificates.
"""

import contextlib
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt
import pandas as pd

from fraud_api_lambda import profiles
from fraud_api_lambda.bundle import Bundle, SigningKey, Store
from fraud_api_lambda.errors import BundleRefused
from fraud_api_lambda.features import Attribute, FeatureSet, Floats, fill
from fraud_api_lambda.model import singles
from fraud_api_lambda.reload import Served, load
from fraud_api_lambda.rules import load_rules
from fraud_api_lambda.schemas import CLOCK_SKEW_MS, TYPES, RateTable, now_ms, rfc3339

from . import dataset, pipeline, replay, score, spill, split, train, tune
from .dataset import DataError

Ints = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int8]
#: Row numbers of a piece: where they follow one another, as they mostly do, only the first and the end are sent.
Rows = range | Ints

#: Rows of one piece, at most: read, spread, judged together.
PIECE: Final = 250_000
#: Entries of one bucket, about.
BUCKET: Final = 1_000_000
#: Rows of validation, and of test, that are fetched to calibrate and judge by; above, legitimate ones are thinned.
JUDGED: Final = 2_000_000
#: How often the growing of trees is begun anew where a worker was lost meanwhile.
ATTEMPTS: Final = 4
#: How long a cluster without workers is waited for, in seconds.
PATIENCE: Final = 60

_GAP, _TRAIN, _VALIDATION, _TEST = range(4)
_OF_TWO_KINDS: Final = "'{}' is numbers in one file and text in another; say in the mapping which, with `as:`."
_TOGETHER: Final = "Start scheduler and workers of the same release, or leave out --engine."


@contextlib.contextmanager
def connected(scheduler: str) -> Iterator[Any]:
    """A client of the cluster at ``scheduler`` (``tcp://`` or ``tls://``), all of whose workers run this very code.

    Raises :class:`DataError` where Dask is not installed, nobody answers, or a worker has other code.
    """
    try:
        from distributed import Client
    except ImportError:
        raise DataError(
            "Dask is not installed. Install it (pip install dask distributed), or leave out --engine."
        ) from None
    try:
        client: Any = Client(scheduler, timeout=PATIENCE, set_as_default=False)
    except (OSError, ValueError, TimeoutError):
        raise DataError(
            "No Dask scheduler answers at --scheduler; its address is of the form tcp://host:8786."
        ) from None
    try:
        with _told():
            client.wait_for_workers(1, timeout=PATIENCE)
            codes = set(client.run(score.code_digest).values())
        if codes != {score.code_digest()}:
            raise DataError(f"A worker has other code than this machine: its features might be others. {_TOGETHER}")
        with client.as_current():
            yield client
    finally:
        client.close()


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """What a cluster suffers becomes a DataError of one line."""
    from distributed import CancelledError, KilledWorker

    try:
        yield
    except KilledWorker:
        raise DataError("Several workers died over the same step: is their memory enough for a bucket?") from None
    except (CancelledError, TimeoutError):
        raise DataError("The cluster lost its scheduler, or all of its workers.") from None


# --- what workers do: plain functions of what they are given ---------------------------------------------------------


@dataclass(frozen=True)
class _Source:
    """How files are read: ``dataset.load``'s words, the mapping file as text. ``code`` is what a worker must have."""

    format: str
    mapping: str | None
    where: tuple[str, ...]
    legit_weight: float
    code: str

    @contextlib.contextmanager
    def on_disk(self) -> Iterator[str | None]:
        """The mapping as a file here. Raises :class:`DataError` where this process has other code."""
        if score.code_digest() != self.code:
            raise DataError(f"A worker has other code than the machine that asks. {_TOGETHER}")
        if self.mapping is None:
            yield None
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "mapping.yaml")
            path.write_text(self.mapping, encoding="utf-8")
            yield str(path)


@dataclass(frozen=True)
class _Contract:
    """What columns are made by."""

    features: FeatureSet
    rates: RateTable


@dataclass(frozen=True)
class _Heard:
    """What a file's rows say that concerns all: times and labels (n,), when its frauds became known (frauds,) where the
    file says it, and the values of attributes: None for numbers, else how often each stands there.
    """

    time_ms: Ints
    fraud: Codes
    told_ms: Ints | None
    attributes: dict[str, Counter[str] | None]  #: by column; an empty one says nothing, not even what it is
    sha256: str


def _read(name: str, source: _Source) -> pd.DataFrame:
    with source.on_disk() as mapping:
        return dataset.load(
            name, source.format, mapping=mapping, where=source.where, legit_weight=source.legit_weight,
            require_fraud=False, require_rows=False,
        )  # fmt: skip


def _hear(frame: pd.DataFrame, name: str) -> _Heard:
    attributes: dict[str, Counter[str] | None] = {}
    for column in frame.columns:
        if column.startswith("attributes."):
            values = frame[column].dropna()
            number = len(values) > 0 and pd.api.types.is_numeric_dtype(values)
            attributes[column] = None if number else Counter(map(str, values))
    fraud = frame["is_fraud"].to_numpy(np.int8)
    told = frame["label_ms"][fraud == 1] if "label_ms" in frame else None
    told_ms = None if told is None else told.fillna(-1).to_numpy(np.int64)
    return _Heard(frame["time_ms"].to_numpy(np.int64), fraud, told_ms, attributes, dataset.digest(name))


def _cut(frame: pd.DataFrame, first: int, end: int) -> pd.DataFrame:
    piece = frame.iloc[first:end].reset_index(drop=True)
    # What says nothing in this piece may have been read as another kind than elsewhere.
    empty = [name for name in piece.columns if name.startswith("attributes.") and piece[name].isna().all()]
    return piece.drop(columns=empty)


def _numbered(rows: Rows) -> Ints:
    return np.arange(rows.start, rows.stop) if isinstance(rows, range) else rows


def _spread(
    frame: pd.DataFrame, rows: Rows, labels: tuple[Ints, Ints] | None, live: bool, contract: _Contract, buckets: int
) -> list[tuple[Any, Any]]:
    """The piece's entries and its transactions' ids by bucket. ``labels`` are, for its frauds, when each became known
    and its place among all arrivals; ``live``: rows come in at their time and test inputs count as others do, as in
    training; else all is one moment, as in one request.
    """
    numbered = _numbered(rows)
    entries, named = spill.entries_of(frame, numbered, contract.rates)
    timed = np.zeros(len(entries), spill.TIMED)
    for name in spill.ENTRY.names or ():
        timed[name] = entries[name]
    timed["place"] = 2 * timed["row"]
    if live:
        timed["passing"] = False
        timed["received"] = timed["time_ms"]
    if labels is not None:
        known_ms, place = labels
        fraud = np.flatnonzero(frame["is_fraud"].to_numpy() == 1)
        of_counterparty = timed[timed["role"] == replay.COUNTERPARTY]
        at = np.searchsorted(of_counterparty["row"], numbered[fraud])
        at = np.minimum(at, max(len(of_counterparty) - 1, 0))
        there = of_counterparty["row"][at] == numbered[fraud] if len(of_counterparty) else np.zeros(len(fraud), bool)
        made = of_counterparty[at[there]] if len(of_counterparty) else timed[:0]
        made["role"], made["known_ms"], made["place"] = replay.LABEL, known_ms[there], place[there]
        timed = np.concatenate((timed, made))
    ids = np.stack((named, numbered), axis=1)[named != profiles.NOBODY]
    return list(zip(_by(timed, timed["party"], buckets), _by(ids, ids[:, 0], buckets), strict=True))


def _by(records: Any, key: Ints, buckets: int) -> list[Any]:
    place = (np.ascontiguousarray(key).view(np.uint64) % np.uint64(buckets)).astype(np.int64)
    ordered = records[np.argsort(place, kind="stable")]
    return np.split(ordered, np.cumsum(np.bincount(place, minlength=buckets))[:-1])


#: Of one piece from one bucket: the rows and the values of each role's columns.
_Played = dict[int, tuple[Ints, Floats]]


def _play(pieces: Sequence[tuple[Any, Any]], features: FeatureSet) -> list[_Played]:
    """Replay one bucket; what of it belongs to each piece. Raises :class:`DataError` for an id that stands twice."""
    ids = np.concatenate([ids for _, ids in pieces])
    ids = ids[np.lexsort((ids[:, 1], ids[:, 0]))]
    twice = np.flatnonzero(ids[1:, 0] == ids[:-1, 0])
    if len(twice):
        at = twice[ids[twice + 1, 1].argmin()]
        raise DataError(
            f"Row {ids[at + 1, 1] + 1} (by time) has the transaction id of row {ids[at, 1] + 1}; an id names one "
            "transaction."
        )
    entries = np.concatenate([entries for entries, _ in pieces])
    origin = np.repeat(np.arange(len(pieces)), [len(entries) for entries, _ in pieces])
    # Of labels between the same two arrivals first the one that became known first, as on one machine.
    order = np.lexsort([entries[name] for name in ("role", "row", "known_ms", "place", "party")])
    entries, origin = entries[order], origin[order]
    values = spill.play(entries, replay.blank(), features, carried=False)
    found: list[_Played] = []
    for number in range(len(pieces)):
        own = origin == number
        played = {}
        for role, columns in spill.COLUMNS.items():
            mine = np.flatnonzero(own & (entries["role"] == role))
            played[role] = entries["row"][mine], values[mine, columns]
        found.append(played)
    return found


def _join(frame: pd.DataFrame, rows: Rows, played: Sequence[_Played], contract: _Contract) -> Floats:
    """The piece's raw columns, (n, len(features.columns)): its own, and what was replayed of its parties."""
    out = replay.columns(frame, contract.features, contract.rates, history=False)
    numbered = _numbered(rows)  # ascending: a file is in the order of its times, and so are all rows
    for of_bucket in played:
        for role, (row, values) in of_bucket.items():
            out[np.searchsorted(numbered, row), spill.COLUMNS[role]] = values
    return out


def _tell(columns: Floats, part: Codes | int) -> tuple[Ints, Floats, list[tuple[float, float, bytes]]]:
    """Of the rows that teach: how many have each column, its sum, and what ``train.told`` says."""
    X = columns[_which(part, _TRAIN, len(columns))]
    present = ~np.isnan(X)
    said = [train.told(X[:, at]) for at in range(X.shape[1])]
    return present.sum(axis=0), np.where(present, X, 0.0).sum(axis=0), said


def _which(part: Codes | int, wanted: int, n: int) -> npt.NDArray[np.bool_]:
    return np.full(n, part == wanted) if isinstance(part, int) else part == wanted


def _vectors(columns: Floats, part: Codes | int, population: Floats, index: Any) -> npt.NDArray[np.float32]:
    X = columns[_which(part, _TRAIN, len(columns))]
    return singles(fill(X, population)[:, index])


def _labels(frame: pd.DataFrame, part: Codes | int) -> npt.NDArray[np.float32]:
    return frame["is_fraud"].to_numpy(np.float32)[_which(part, _TRAIN, len(frame))]


def _fetch(frame: pd.DataFrame, columns: Floats, keep: npt.NDArray[np.bool_]) -> tuple[pd.DataFrame, Floats]:
    return frame[keep], columns[keep]


# --- training --------------------------------------------------------------------------------------------------------


def run(
    options: train.Options,
    out: Path,
    key: SigningKey,
    scheduler: str,
    *,
    progress: Callable[[str], None] = lambda step: None,
) -> train.Result:
    """``train.run`` with its rows and trees on the cluster at ``scheduler``; the same bundle comes of it.

    ``options.data`` is a path that every worker can read, best a folder of at least as many files as there are workers,
    or ``s3://``. In place of SMOTE, whose neighbours of a row are nowhere together, each fraud weighs as much more as
    makes frauds SMOTE's ratio of the legitimate rows. There is no ablation, no blend and no cross-validation. The trees
    depend on how rows lie on workers, so that two runs are alike within noise, not to the bit.

    Raises what ``train.run`` raises, and :class:`DataError` for what is not possible here.
    """
    refused = {
        "--cv": options.folds,
        "--champion": options.champion != "xgboost",
        "--rehearse": options.rehearse_ms is not None,
        "--without-known-frauds": options.known_since is not None,
    }
    if asked := [name for name, wanted in refused.items() if wanted]:
        raise DataError(f"{asked[0]} is not possible with --engine dask; leave it out, or train on one machine.")
    with connected(scheduler) as client, _told():
        training = OnCluster(client, replace(options, ablation=False), progress)
        return train.run(training.options, out, key, elsewhere=training.elsewhere(), progress=progress)


class OnCluster:
    """The rows of one run on the cluster."""

    def __init__(self, client: Any, options: train.Options, progress: Callable[[str], None]):
        self.client = client
        self.options = options
        self.progress = progress
        progress(f"loading data on {_workers(client)} workers")
        source = _source(options.format, options.mapping, options.where, options.legit_weight)
        names, in_folder = _files(options.data)
        files = [client.submit(_read, name, source, pure=False) for name in names]
        heard = client.gather([client.submit(_hear, *pair, pure=False) for pair in zip(files, names, strict=True)])
        self.sha256 = (
            dataset.digest_of({name: own.sha256 for name, own in zip(names, heard, strict=True)})
            if in_folder
            else heard[0].sha256
        )
        time_ms = np.concatenate([own.time_ms for own in heard])
        fraud = np.concatenate([own.fraud for own in heard])
        if not len(time_ms):
            raise DataError(f"{options.data}: no row is left by {' '.join(options.where)}.")
        if not fraud.any():
            raise DataError(f"{options.data}: none of the {len(time_ms):,} rows is marked as fraud.")
        # The number of a row is its place by time, as on one machine: stable, in the order of the files.
        order = np.argsort(time_ms, kind="stable")
        number = np.empty(len(order), np.int64)
        number[order] = np.arange(len(order))
        self.time_ms, self.fraud = time_ms[order], fraud[order]
        features, rates = train.contract(options, _declared([own.attributes for own in heard]), self.time_ms)
        self.contract = _Contract(features, rates)
        self.parts = train.split_rows(options, self.time_ms, self.fraud)
        self.part = np.zeros(len(order), np.int8)
        for code, rows in ((_TRAIN, self.parts.train), (_VALIDATION, self.parts.validation), (_TEST, self.parts.test)):
            self.part[rows] = code
        self.frames: list[Any] = []
        self.rows: list[Rows] = []
        labels: list[tuple[Ints, Ints]] = []
        begin = 0
        for file, own in zip(files, heard, strict=True):
            known = _known(own, features.label_delay_ms)
            place = 2 * np.searchsorted(self.time_ms, known, side="right") - 1
            frauds = np.flatnonzero(own.fraud == 1)
            for first in range(0, len(own.time_ms), PIECE):
                end = min(first + PIECE, len(own.time_ms))
                some = (frauds >= first) & (frauds < end)
                self.frames.append(client.submit(_cut, file, first, end, pure=False))
                self.rows.append(_span(number[begin + first : begin + end]))
                labels.append((known[some], place[some]))
            begin += len(own.time_ms)
        progress(f"replaying {len(time_ms):,} rows in {len(self.frames)} pieces")
        self.columns = _replayed(
            client, self.frames, self.rows, labels, self.contract, live=True, history=options.history
        )

    def elsewhere(self) -> train.Elsewhere:
        """Everything that ``train.run`` has to have here."""
        parts = [_constant(self.part[_numbered(rows)]) for rows in self.rows]
        asked = [self.client.submit(_tell, *pair, pure=False) for pair in zip(self.columns, parts, strict=True)]
        told = self.client.gather(asked)
        count = np.sum([count for count, _, _ in told], axis=0)
        total = np.sum([total for _, total, _ in told], axis=0)
        population = np.where(count > 0, total / np.maximum(count, 1), np.nan)
        picked = train.pick(
            self.contract.features,
            [_together(of_column) for of_column in zip(*(said for *_, said in told), strict=True)],
            self.options,
        )
        teaching = self.parts.train
        frauds, rows = int(self.fraud[teaching].sum()), len(teaching)
        data, split_, shares = self._fetched(picked)

        def grow(params: Mapping[str, Any]) -> train.Fit:
            ratio = float(params["ratio"])
            weight = max(1.0, ratio * (rows - frauds) / frauds)
            facts["fraud_weight"] = weight
            tree = {name: value for name, value in params.items() if name != "ratio"}
            model = pipeline.build(picked, balance="weighted", seed=self.options.seed, weight=weight, **tree)
            model["fill"].population_ = population
            self._grow(model["xgb"], parts, population, picked.index)
            facts["engine"]["workers"] = _workers(self.client)  # those that were left at the end
            held = data.columns[split_.validation[:20_000]]
            return train.grown(model, picked, held, "weighted", dict(params))

        learned = np.concatenate((self.parts.train, self.parts.validation))
        of = {"train": self.parts.train, "validation": self.parts.validation, "test": self.parts.test}
        facts: dict[str, Any] = {
            "rows": {name: len(rows) for name, rows in of.items()},
            "frauds": {name: int(self.fraud[rows].sum()) for name, rows in of.items()},
            "learned_until": rfc3339(int(self.time_ms[learned].max())),
            "engine": {"name": "dask", "pieces": len(self.frames)},
            "share_of_legitimate_rows_judged": {"validation": shares[_VALIDATION], "test": shares[_TEST]},
        }
        return train.Elsewhere(data, split_, picked, frauds / rows, grow, facts)

    def _fetched(self, picked: FeatureSet) -> tuple[train.Data, split.Split, dict[int, float]]:
        """All frauds, and of the legitimate rows as many as one machine can hold; the shares of these that came."""
        rng = np.random.default_rng(self.options.seed)
        keep = np.zeros(len(self.part), bool)
        shares: dict[int, float] = {}
        for code, most in ((_TRAIN, tune.ROWS), (_VALIDATION, JUDGED), (_TEST, JUDGED)):
            own = np.flatnonzero(self.part == code)
            share = min(1.0, most / len(own))
            keep[own] = (self.fraud[own] == 1) | (rng.random(len(own)) < share)
            legitimate = self.fraud[own] == 0
            shares[code] = float(keep[own][legitimate].mean()) if legitimate.any() else 1.0
        self.progress(f"fetching {int(keep.sum()):,} rows")
        wanted = [keep[_numbered(rows)] for rows in self.rows]
        asked = [
            self.client.submit(_fetch, *three, pure=False)
            for three in zip(self.frames, self.columns, wanted, strict=True)
        ]
        got = self.client.gather(asked)
        numbers = np.concatenate([_numbered(rows)[mine] for rows, mine in zip(self.rows, wanted, strict=True)])
        order = np.argsort(numbers)
        frame = pd.concat([own for own, _ in got if len(own)], ignore_index=True).iloc[order].reset_index(drop=True)
        if "type" in frame:  # a categorical that is missing in one piece
            frame["type"] = pd.Categorical(frame["type"], categories=pd.Index(TYPES))
        columns = np.concatenate([own for _, own in got])[order]
        code = self.part[numbers[order]]
        labels = frame["is_fraud"].to_numpy(np.int8)
        # A row that stands for others weighs as they did together.
        stands_for = np.array([1.0, *(1.0 / shares[part] for part in (_TRAIN, _VALIDATION, _TEST))])[code]
        frame["weight"] = frame["weight"].to_numpy(np.float64) * np.where(labels == 1, 1.0, stands_for)
        place = np.full(len(self.part), -1, np.int64)
        place[numbers[order]] = np.arange(len(order))
        teach, hold, judge = (
            (rows := place[own])[rows >= 0] for own in (self.parts.train, self.parts.validation, self.parts.test)
        )
        data = train.Data(frame, columns, labels, self.contract.features, self.contract.rates, self.sha256)
        return data, split.Split(teach, hold, judge, self.parts.kind), shares

    def _grow(self, model: Any, parts: Sequence[Codes | int], population: Floats, index: Any) -> None:
        """Grow the trees of ``model`` on all rows that teach, and give them to it."""
        import dask.array as da
        from dask.delayed import delayed
        from xgboost import dask as xgboost_dask
        from xgboost.collective import Config

        params = model.get_xgb_params()
        rounds = params.pop("n_estimators", None) or model.n_estimators
        for name in ("n_jobs", "nthread"):
            params.pop(name, None)
        here = [_count(part, rows) for part, rows in zip(parts, self.rows, strict=True)]
        for attempt in range(1, ATTEMPTS + 1):
            self.progress(f"growing {rounds} trees on {_workers(self.client)} workers")
            X, y = [], []
            for frame, columns, part, n in zip(self.frames, self.columns, parts, here, strict=True):
                if n:
                    vectors = delayed(_vectors, pure=False)(columns, part, population, index)
                    labels = delayed(_labels, pure=False)(frame, part)
                    X.append(da.from_delayed(vectors, (n, len(index)), np.float32))
                    y.append(da.from_delayed(labels, (n,), np.float32))
            try:
                matrix = xgboost_dask.DaskQuantileDMatrix(
                    self.client, da.concatenate(X), da.concatenate(y), max_bin=256
                )
                grown = xgboost_dask.train(
                    self.client, params, matrix, num_boost_round=rounds, coll_cfg=Config(retry=1, timeout=60)
                )
            except DataError:
                raise
            except Exception:
                # XGBoost gives up where one of its workers is lost; what it held is made again on those that are left.
                if attempt == ATTEMPTS:
                    raise
                self.client.wait_for_workers(1, timeout=PATIENCE)
                continue
            model.load_model(bytearray(grown["booster"].save_raw("ubj")))
            return


def _replayed(
    client: Any,
    frames: Sequence[Any],
    rows: Sequence[Rows],
    labels: Sequence[tuple[Ints, Ints]] | None,
    contract: _Contract,
    *,
    live: bool,
    history: bool = True,
) -> list[Any]:
    """The raw columns of each piece, where they lie on the cluster. An id that stands twice is refused."""
    from dask.delayed import delayed

    total = sum(map(len, rows))
    buckets = max(_workers(client), -(-3 * total // BUCKET))
    join = delayed(_join, pure=False)
    delayed_frames = [delayed(frame) for frame in frames]
    spread = [
        delayed(_spread, pure=False, nout=buckets)(
            frame, own, None if labels is None else labels[at], live, contract, buckets
        )
        for at, (frame, own) in enumerate(zip(delayed_frames, rows, strict=True))
    ]
    played = [
        delayed(_play, pure=False, nout=len(frames))([piece[bucket] for piece in spread], contract.features)
        for bucket in range(buckets)
    ]
    joined = [
        join(frame, own, [bucket[at] for bucket in played] if history else [], contract)
        for at, (frame, own) in enumerate(zip(delayed_frames, rows, strict=True))
    ]
    checks = [] if history else played
    columns = client.compute(joined)
    client.gather(client.compute([delayed(len)(bucket) for bucket in checks]))
    _finished(columns)
    return list(columns)


def _finished(futures: Sequence[Any]) -> None:
    """Wait for all; raise the error of the first that failed."""
    from distributed import as_completed

    for future in as_completed(futures):
        if future.status == "error":
            future.result()


def _files(path: str) -> tuple[list[str], bool]:
    """``dataset.files`` by names that mean the same in every worker's working directory."""
    names, in_folder = dataset.files(path)
    return [name if name.startswith("s3://") else str(Path(name).absolute()) for name in names], in_folder


def _workers(client: Any) -> int:
    return max(len(client.nthreads()), 1)


def _source(format: str, mapping: str | None, where: Sequence[str], legit_weight: float = 1.0) -> _Source:
    if format not in dataset.FORMATS:
        raise DataError(f"Unknown format '{format}'. Choices are: {', '.join(dataset.FORMATS)}.")
    text = None
    if mapping is not None:
        try:
            text = Path(mapping).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            raise DataError(f"{mapping}: cannot be read.") from None
    return _Source(format, text, tuple(where), legit_weight, score.code_digest())


def _declared(heard: Sequence[Mapping[str, Counter[str] | None]]) -> tuple[Attribute, ...]:
    """``replay.declare_attributes`` over all files."""
    levels: dict[str, Counter[str] | None] = {}
    for own in heard:
        for name, counts in own.items():
            before = levels.get(name)
            if counts is None and before:
                raise DataError(_OF_TWO_KINDS.format(name.removeprefix("attributes.")))
            if counts and name in levels and before is None:
                raise DataError(_OF_TWO_KINDS.format(name.removeprefix("attributes.")))
            if counts is None or name not in levels:
                levels[name] = counts
            elif before is not None:
                levels[name] = before + counts
    declared = []
    for name, counted in levels.items():
        plain = name.removeprefix("attributes.")
        if counted is None:
            declared.append(Attribute(plain, "number"))
        elif counted:
            ranked = sorted(counted, key=lambda level: (-counted[level], level))[: replay.MAX_LEVELS]
            declared.append(Attribute(plain, "text", tuple(sorted(ranked))))
    return tuple(declared)


def _known(heard: _Heard, delay_ms: int) -> Ints:
    """When a file's frauds became known, (frauds,): ``replay.labels_known`` of them."""
    known: Ints = heard.time_ms[heard.fraud == 1] + delay_ms
    if heard.told_ms is not None:
        known = np.where(heard.told_ms >= 0, heard.told_ms, known)
    return known


def _span(rows: Ints) -> Rows:
    first, last = int(rows[0]), int(rows[-1])
    return range(first, last + 1) if last - first + 1 == len(rows) else rows


def _constant(part: Codes) -> Codes | int:
    return int(part[0]) if (part == part[0]).all() else part


def _count(part: Codes | int, rows: Rows) -> int:
    return int(_which(part, _TRAIN, len(rows)).sum())


def _together(said: Sequence[tuple[float, float, bytes]]) -> tuple[float, float, bytes]:
    """What a column says in all pieces together."""
    low, high = np.array([own[0] for own in said]), np.array([own[1] for own in said])
    if np.isnan(low).all():
        return np.nan, np.nan, b"".join(own[2] for own in said)
    return float(np.nanmin(low)), float(np.nanmax(high)), b"".join(own[2] for own in said)


# --- scoring ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Judge:
    """What decides, in a form that travels: the verified bundle with the files it needs, the rules in place of its own,
    and how to judge.
    """

    bundle: Bundle
    rules: bytes | None
    options: score.Options

    def served(self) -> Served:
        """The bundle as the service opens it, once in each process."""
        mine = self.bundle.manifest.version, self.rules, self.options.pseudonyms and self.options.pseudonyms("")
        if mine not in _SERVED:
            served = load(self.bundle)
            if self.rules is not None:
                served = replace(served, rules=load_rules(self.rules, served.model.features.columns))
            if self.options.pseudonyms:
                served = replace(served, rules=served.rules.under(self.options.pseudonyms))
            _SERVED.clear()
            _SERVED[mine] = served
        return _SERVED[mine]


_SERVED: dict[Any, Served] = {}


def _read_unlabelled(name: str, source: _Source, judge: _Judge) -> pd.DataFrame:
    kinds = {attribute.name: attribute.kind for attribute in judge.served().model.features.attributes}
    with source.on_disk() as mapping:
        pieces = dataset.stream(name, source.format, mapping=mapping, where=source.where, kinds=kinds, rows=score.PIECE)
        frame = pd.concat(list(pieces), ignore_index=True)
    for party in ("customer_id", "counterparty_id", "device_id"):
        if judge.options.pseudonyms and party in frame:
            frame[party] = frame[party].map(judge.options.pseudonyms, na_action="ignore")
    return frame


def _look(frame: pd.DataFrame, limit: int) -> tuple[int, int]:
    """How many rows, and the first that lies in the future, -1: none."""
    late = np.flatnonzero(frame["time_ms"].to_numpy() > limit)
    return len(frame), int(late[0]) if len(late) else -1


def _decide(frame: pd.DataFrame, columns: Floats, first: int, judge: _Judge) -> Any:
    return score.decisions(judge.served(), frame, columns, first, judge.bundle.read("model.ubj"), judge.options)


def score_file(
    served: Served,
    options: score.Options,
    scheduler: str,
    *,
    rules: bytes | None = None,
    progress: Callable[[str], None] = lambda step: None,
) -> score.Result:
    """``score.score`` with its rows on the cluster at ``scheduler``: the same decisions in the same order, to the bit.

    ``rules`` are those that ``served`` was opened with in place of the bundle's own. The result is written here, piece
    by piece; a run whose client was killed is begun anew. Raises :class:`DataError`.
    """
    began = time.monotonic()
    if options.out.exists():
        raise DataError(f"{options.out} exists already; it is not overwritten.")
    if options.out.suffix not in (".parquet", ".csv"):
        raise DataError(f"{options.out}: a result is written as .parquet or .csv.")
    if options.pseudonyms and not scheduler.startswith(("tls://", "tcp://127.0.0.1:", "tcp://localhost:")):
        raise DataError("FRAUD_PSEUDONYM_KEY would travel in the clear; use a tls:// scheduler.")
    judge = _Judge(_travelling(served.bundle), rules, options)
    source = _source(options.format, options.mapping, options.where)
    limit = now_ms() + CLOCK_SKEW_MS
    half = options.out.with_name(f"{options.out.name}.half")
    facts = {"model_version": served.version, "rules_version": served.rules.version}
    outcomes: Counter[str] = Counter()
    with connected(scheduler) as client, _told():
        names, _ = _files(options.data)
        sent = client.submit(_same, judge, pure=False)
        files = [client.submit(_read_unlabelled, name, source, sent, pure=False) for name in names]
        looked = client.gather([client.submit(_look, file, limit, pure=False) for file in files])
        frames: list[Any] = []
        rows: list[Rows] = []
        begin = 0
        for file, (many, late) in zip(files, looked, strict=True):
            if late >= 0:
                raise DataError(f"Row {begin + late + 1} lies in the future; the service would refuse it.")
            for first in range(0, many, PIECE):
                end = min(first + PIECE, many)
                frames.append(client.submit(_cut, file, first, end, pure=False))
                rows.append(range(begin + first, begin + end))
            begin += many
        if not begin:
            raise DataError(f"{options.data}: no row is left by {' '.join(options.where)}.")
        progress(f"replaying {begin:,} rows in {len(frames)} pieces on {_workers(client)} workers")
        contract = _Contract(served.model.features, served.model.rates)
        columns = _replayed(client, frames, rows, None, contract, live=False)
        progress("judging")
        decided = [
            client.submit(_decide, frame, own, of[0], sent, pure=False)
            for frame, own, of in zip(frames, columns, rows, strict=True)
        ]
        try:
            with score.writer(options.out.suffix, half, facts) as out:
                for at in range(len(decided)):
                    table = decided[at].result()
                    decided[at] = None  # the worker may forget it
                    outcomes.update(table.column("outcome").to_pylist())
                    out.write(table)
            half.replace(options.out)
        finally:
            half.unlink(missing_ok=True)
    return score.Result(begin, dict(outcomes), begin, time.monotonic() - began)


def _same(judge: _Judge) -> _Judge:
    return judge


def _travelling(bundle: Bundle) -> Bundle:
    """The verified bundle with its files inside, all but the pages for people."""
    names = [name for name in bundle.manifest.files if not name.endswith((".html", ".png", ".md"))]
    return replace(bundle, _store=cast(Store, _Nowhere()), _cache={name: bundle.read(name) for name in names})


class _Nowhere:
    """A store of a bundle that has with it all it needs."""

    def read(self, name: str) -> tuple[bytes, str]:
        raise BundleRefused(f"'{name}' did not travel with the bundle.")
