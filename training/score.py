"""A file of any size through a bundle: what ``POST /predict/batch`` would say to the same rows in the same order.

The rows are asked as one endless batch, put to a service that has no past of its own: each has those before it in its
past, all of them arrive now. Four steps, each of which takes up where a killed run left it: read (check the rows, lay
them down in pieces, spread their parties' entries over files: see ``spill``), replay, judge (piece by piece), gather.
What lies on disk meanwhile, about half a kilobyte a row, is in a folder beside the result: ``OUT.work``.
"""

import csv
import hashlib
import json
import shutil
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from fraud_api_lambda.errors import RuleFailed
from fraud_api_lambda.features import Floats, fill
from fraud_api_lambda.judge import Scored, Terms, judge
from fraud_api_lambda.reload import Served
from fraud_api_lambda.rules import RuleSet, load_rules
from fraud_api_lambda.schemas import CLOCK_SKEW_MS, Event, Pseudonyms, now_ms
from fraud_api_lambda.settings import Outcome

from . import dataset, evaluate, replay
from .dataset import DataError
from .spill import Spill

#: Rows that are read, judged and written together.
PIECE: Final = 100_000
#: What a spreadsheet would take for the beginning of a formula.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")

_COLUMNS: Final = [
    ("row", pa.int64()),
    ("transaction_id", pa.string()),
    ("fraud_probability", pa.float64()),
    ("outcome", pa.string()),
    ("decided_by", pa.string()),
    ("rules", pa.list_(pa.string())),
    ("degraded", pa.list_(pa.string())),
]
_OUTCOMES: Final = np.array(["approve", "review", "decline"], object)


@dataclass(frozen=True)
class Options:
    """``explain``: also the reasons of what is not approved, as JSON text. ``pseudonyms`` and ``without_model`` are the
    service's settings; the rest is as for ``dataset.stream``.
    """

    data: str
    format: str
    out: Path
    mapping: str | None = None
    where: tuple[str, ...] = ()
    explain: bool = False
    pseudonyms: Pseudonyms | None = None
    without_model: Outcome = "review"


@dataclass(frozen=True)
class Result:
    rows: int
    outcomes: dict[str, int]
    #: Of this run; a part of them may have been judged by an earlier one.
    judged: int
    seconds: float


def open_served(path: str, keys_dir: Path, rules: Path | None = None) -> Served:
    """The bundle at ``path`` (see ``evaluate.open_for_evaluation``), with the file ``rules`` in place of its own."""
    served = evaluate.open_for_evaluation(path, keys_dir)
    if rules is None:
        return served
    return replace(served, rules=load_rules(rules.read_bytes(), served.model.features.columns))


def score(served: Served, options: Options, *, progress: Callable[[str], None] = lambda step: None) -> Result:
    """Judge every row of ``options.data`` and write ``options.out`` (``.parquet`` or ``.csv``), in the file's order.

    Columns: ``row`` (from 1, of the rows kept) · ``transaction_id`` as sent, null where none was ·
    ``fraud_probability`` · ``outcome`` · ``decided_by`` · ``rules`` · ``degraded`` · with ``explain`` ``reasons``. In
    CSV, lists are separated by spaces, and text that a spreadsheet would run as a formula has an apostrophe before it.

    A run that was killed is gone on with by the next one with the same options; the result is the same to the byte.
    Raises :class:`DataError`: for a row that the service would refuse, for a result that is there already, for a work
    folder that belongs to other options or to a run that is still at it.
    """
    began = time.monotonic()
    if options.pseudonyms:
        served = replace(served, rules=served.rules.under(options.pseudonyms))
    if options.out.suffix not in (".parquet", ".csv"):
        raise DataError(f"{options.out}: a result is written as .parquet or .csv.")
    work = options.out.with_name(f"{options.out.name}.work")
    if options.out.exists() and not work.exists():
        raise DataError(f"{options.out} exists already; it is not overwritten.")
    with _State.open(work, fingerprint(served, options)) as state:
        if not options.out.exists():  # else all but the last sweep was done
            run = _Run(served, options, work, state, progress)
            run.read()
            run.replay()
            judged = run.judge()
            run.gather()
        else:
            judged = 0
        counted = Counter[str](state.get("outcomes", {}))
    shutil.rmtree(work)
    return Result(sum(counted.values()), dict(counted), judged, time.monotonic() - began)


class _State:
    """What is done, in a small database, which also keeps a second run out: its lock goes with the process."""

    def __init__(self, connection: sqlite3.Connection):
        self._connection = connection

    @classmethod
    @contextmanager
    def open(cls, work: Path, fingerprint: dict[str, Any]) -> Iterator["_State"]:
        work.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(work / "state.db", timeout=0, isolation_level=None)
        try:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL)")
            connection.execute("BEGIN EXCLUSIVE")
            state = cls(connection)
            connection.execute("COMMIT")
            before = state.get("fingerprint")
            if before is None:
                state.put(fingerprint=fingerprint, began_ms=now_ms())
            elif before != (now := json.loads(json.dumps(fingerprint))):
                other = ", ".join(sorted(name for name in now if before.get(name) != now[name]))
                raise DataError(
                    f"{work} holds a run that was not finished, with another {other}. Finish it as it was begun, or "
                    "remove the folder."
                )
            yield state
        except sqlite3.OperationalError:
            raise DataError(f"{work}: another run is at it, or the disk refuses.") from None
        finally:
            connection.close()

    def get(self, name: str, default: Any = None) -> Any:
        found = self._connection.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return default if found is None else json.loads(found[0])

    def put(self, **facts: Any) -> None:
        """Write the facts, all of them or none."""
        self._connection.execute("BEGIN")
        for name, value in facts.items():
            self._connection.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, json.dumps(value)))
        self._connection.execute("COMMIT")


def fingerprint(served: Served, options: Options) -> dict[str, Any]:
    """What the result depends on: a run is gone on with only where all of it is the same."""
    return {
        "data": dataset.identity(options.data),
        "format": options.format,
        "mapping": Path(options.mapping).read_text() if options.mapping and Path(options.mapping).is_file() else None,
        "where": list(options.where),
        "explain": options.explain,
        "without_model": options.without_model,
        "pseudonyms": options.pseudonyms("") if options.pseudonyms else None,
        "bundle": served.version,
        "rules": served.rules.version,
        "code": code_digest(),
    }


@cache
def code_digest() -> str:
    """SHA-256 (hex) of the code that decides, as this process has found it."""
    here = Path(__file__).resolve().parents[1]
    code = hashlib.sha256()
    for path in sorted([*here.glob("fraud_api_lambda/*.py"), *here.glob("training/*.py")]):
        code.update(path.read_bytes())
    return code.hexdigest()


class _Run:
    def __init__(self, served: Served, options: Options, work: Path, state: _State, progress: Callable[[str], None]):
        self._served = served
        self._options = options
        self._work = work
        self._state = state
        self._progress = progress
        self._told = time.monotonic()
        self._data = dataset.fetch(options.data, work / "input")
        expected = state.get("expected")
        if expected is None:
            expected = dataset.count(self._data)
            state.put(expected=expected)
        self._spill = Spill(work / "parties", served.model.features, served.model.rates, expected)
        self._expected = expected

    def read(self) -> None:
        """Check all rows; lay them down in pieces, and their parties' entries in the files of the spill."""
        state, spill = self._state, self._spill
        pieces: list[int] = state.get("pieces", [])
        if state.get("read"):
            return
        spill.cut(state.get("sizes", [0] * len(spill.sizes())))
        options = self._options
        limit = state.get("began_ms") + CLOCK_SKEW_MS
        kinds = {attribute.name: attribute.kind for attribute in self._served.model.features.attributes}
        first = sum(pieces)
        for frame in dataset.stream(
            self._data, options.format, mapping=options.mapping, where=options.where, kinds=kinds, rows=PIECE,
            skip=len(pieces),
        ):  # fmt: skip
            late = np.flatnonzero(frame["time_ms"].to_numpy() > limit)
            if len(late):
                raise DataError(f"Row {first + late[0] + 1} lies in the future; the service would refuse it.")
            for name in ("customer_id", "counterparty_id", "device_id"):
                if options.pseudonyms and name in frame:
                    frame[name] = frame[name].map(options.pseudonyms, na_action="ignore")
            with _whole(self._piece(len(pieces))) as path:
                frame.to_feather(path, compression="lz4")
            spill.add(frame, first)
            first += len(frame)
            pieces.append(len(frame))
            state.put(pieces=pieces, sizes=spill.sizes())
            self._tell("read", first)
        if not first:
            raise DataError(f"{options.data}: no row is left by {' '.join(options.where)}.")
        state.put(read=True)

    def replay(self) -> None:
        self._spill.check_ids()
        for number in range(self._spill.files):
            self._spill.play(number)
            self._tell("replayed", self._rows * (number + 1) // self._spill.files)

    def judge(self) -> int:
        """Judge what is not judged yet; how many rows."""
        first = judged = 0
        booster = self._served.bundle.read("model.ubj")
        for number, rows in enumerate(self._state.get("pieces")):
            part = self._part(number)
            if not part.exists() and rows:
                frame = pd.read_feather(self._piece(number))
                columns = self._columns(frame, first)
                table = decisions(self._served, frame, columns, first, booster, self._options)
                with _whole(part) as path:
                    pq.write_table(table, path)
                judged += rows
            self._piece(number).unlink(missing_ok=True)
            first += rows
            self._tell("judged", first)
        return judged

    def gather(self) -> None:
        """Put the parts together, and the result in its place."""
        parts = [self._part(number) for number, rows in enumerate(self._state.get("pieces")) if rows]
        outcomes: Counter[str] = Counter()
        half = self._work / "result"
        facts = {"model_version": self._served.version, "rules_version": self._served.rules.version}
        with writer(self._options.out.suffix, half, facts) as file:
            for part in parts:
                table = pq.read_table(part)
                outcomes.update(table.column("outcome").to_pylist())
                file.write(table)
        self._state.put(outcomes=outcomes)
        half.replace(self._options.out)

    def _columns(self, frame: pd.DataFrame, first: int) -> Floats:
        model = self._served.model
        columns = replay.columns(frame, model.features, model.rates, history=False)
        self._spill.fill(columns, first)
        return columns

    @property
    def _rows(self) -> int:
        return sum(self._state.get("pieces"))

    def _piece(self, number: int) -> Path:
        return self._work / f"rows-{number:06d}.feather"

    def _part(self, number: int) -> Path:
        return self._work / f"part-{number:06d}.parquet"

    def _tell(self, done: str, rows: int) -> None:
        if time.monotonic() - self._told > 10:
            self._told = time.monotonic()
            self._progress(f"{done} {rows:,} of about {max(self._expected, rows):,} rows")


def decisions(
    served: Served, frame: pd.DataFrame, columns: Floats, first: int, booster: bytes | None, options: Options
) -> Any:
    """The decisions on some rows, of which the ``first``-th (from 0) of all comes first, as an Arrow table.

    ``columns`` (n, len(columns)) are their raw features; ``booster`` is the bundle's ``model.ubj``.
    """
    n = len(frame)
    model, rules = served.model, served.rules
    terms_ = Terms(options.without_model, None if options.explain else False)
    filled = fill(columns, model.population)
    vectors = model.vector(filled)
    probability = evaluate.probabilities(model, vectors, booster)
    by_model = evaluate.outcomes(probability, model.thresholds.review, model.thresholds.decline)
    outcome: list[str] = _OUTCOMES[by_model].tolist()
    decided_by = ["model"] * n
    told: list[tuple[str, ...]] = [()] * n
    degraded: list[tuple[str, ...]] = [()] * n
    reasons: list[str | None] = [None] * n
    scores: list[float | None] = probability.tolist()
    for at, event in enumerate(replay.events(frame, model.rates)):
        if not (options.explain and by_model[at]) and not _has_a_say(rules, event, filled[at]):
            continue  # the model's word stands: what judge would say, and nine rows of ten need not ask it
        scored = Scored(filled[at], vectors[at], [], scores[at] or 0.0)
        if event.test_input == "degraded":
            terms = Terms(options.without_model, terms_.explain, ("feature_store",))
            decision = judge(None, rules, event, columns[at], None, terms)
        else:
            decision = judge(model, rules, event, columns[at], scored, terms_)
        scores[at], outcome[at], decided_by[at] = decision.fraud_probability, decision.outcome, decision.decided_by
        told[at], degraded[at] = decision.rules, decision.degraded
        if decision.reasons:
            reasons[at] = json.dumps([asdict(reason) for reason in decision.reasons])
    made: list[Any] = [
        np.arange(first + 1, first + n + 1),
        frame["transaction_id"] if "transaction_id" in frame else pa.nulls(n, pa.string()),
        scores,
        outcome,
        decided_by,
        told,
        degraded,
    ]
    kinds = list(_COLUMNS)
    if options.explain:
        made.append(reasons)
        kinds.append(("reasons", pa.string()))
    arrays = [pa.array(values, kind, from_pandas=True) for values, (_, kind) in zip(made, kinds, strict=True)]
    return pa.Table.from_arrays(arrays, schema=pa.schema(kinds))


def _has_a_say(rules: RuleSet, event: Event, filled: Floats) -> bool:
    """Whether anything but the model decides, or is to be told."""
    if event.test_input is not None or rules.listed(event) is not None:
        return True
    try:
        return bool(rules.fired(event, filled))
    except RuleFailed:
        return True


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """Where to write a file that is to be there whole or not at all."""
    half = path.with_suffix(".half")
    yield half
    half.replace(path)


def writer(suffix: str, path: Path, facts: dict[str, str]) -> "_Parquet | _Csv":
    """What writes tables of decisions one after the other into the file at ``path``, as a ``suffix`` is written."""
    return (_Csv if suffix == ".csv" else _Parquet)(path, facts)


class _Parquet:
    """Tables one after the other into one Parquet file that says which model and rules made it."""

    def __init__(self, path: Path, facts: dict[str, str]):
        self._path = path
        self._facts = facts
        self._writer: Any = None

    def write(self, table: Any) -> None:
        table = table.replace_schema_metadata(self._facts)
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, table.schema, compression="zstd")
        self._writer.write_table(table)

    def __enter__(self) -> "_Parquet":
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()


class _Csv:
    """Tables one after the other into one CSV file, safe to open in a spreadsheet."""

    def __init__(self, path: Path, facts: dict[str, str]):
        self._file = path.open("w", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file, lineterminator="\n")
        self._begun = False

    def write(self, table: Any) -> None:
        if not self._begun:
            self._writer.writerow(table.column_names)
            self._begun = True
        self._writer.writerows(zip(*(map(_cell, column.to_pylist()) for column in table.columns), strict=True))

    def __enter__(self) -> "_Csv":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        value = " ".join(value)
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
