"""Files of labelled transactions in, one canonical frame out.

:func:`load` reads PaySim, the Fraud Detection Handbook, the built-in generator's files, or any CSV or Parquet through a
small mapping file, from disk or ``s3://``, checks every value against what the service would accept, and returns one
frame whose columns are called as the service's ``Transaction`` fields. A row the service would refuse is refused here
too, naming file, column and row: a model must not learn from what it can never be asked.

The module is one long room on purpose: reading (``_Part``), what each format's columns mean (``_Line``, the plans), and
the checks are the three steps of one path, used by nothing else.
"""

import csv
import difflib
import fnmatch
import hashlib
import io
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import yaml

from fraud_api_lambda.schemas import HOUR_MS, PAYSIM_START_MS, TYPES, rfc3339

Format = Literal["paysim", "handbook", "csv", "synthetic"]
FORMATS: tuple[str, ...] = get_args(Format)

BALANCES = ("oldbalanceOrg", "newbalanceOrig", "oldbalanceDest", "newbalanceDest")
_NUMBERS = ("amount", *BALANCES, "lat", "long")
_TEXTS = ("transaction_id", "currency", "customer_id", "counterparty_id", "device_id", "fraud_scenario")
_TIMES = ("timestamp", "step", "label_timestamp")
#: Every field a mapping may fill, in the order of the canonical frame.
FIELDS: tuple[str, ...] = (
    *(
        "transaction_id",
        "timestamp",
        "step",
        "type",
        "customer_id",
        "counterparty_id",
        "device_id",
        "amount",
        "currency",
    ),
    *(*BALANCES, "lat", "long", "is_fraud", "fraud_scenario", "label_timestamp"),
)

#: What is only known afterwards.
_LABELS = ("is_fraud", "fraud_scenario", "label_timestamp")

#: Lowest and highest legal value, as the service's Transaction has them.
_RANGES = {"amount": (0.0, 1e9), **dict.fromkeys(BALANCES, (0.0, 1e12)), "lat": (-90.0, 90.0), "long": (-180.0, 180.0)}
_MAX_ID = 64
_MAX_ATTRIBUTE_TEXT = 256
#: A timestamp outside is a broken one (1970-01-01 .. 2200-01-01), most likely of another unit.
_TIME_RANGE_MS = (0, 7_258_118_400_000)
_ISO_8601 = r"^\d{4}-\d{2}-\d{2}([Tt ]\d{2}:\d{2}(:\d{2}([.]\d+)?)? ?([Zz]|[+-]\d{2}:?\d{2})?)?$"
_UNIT_MS = {"ns": 1e-6, "us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4, "h": 3.6e6, "d": 8.64e7}
#: Bytes of a CSV that Arrow takes at once: no row may be longer, and kinds of columns are guessed from the first.
_BLOCK = 8 << 20
_NULLS = ["", "NaN", "nan", "null", "NULL", "None"]
#: What other people call the three fields nobody can do without.
_ALSO_CALLED = {
    "amount": ("amount", "amt", "txamount", "transactionamt", "transactionamount", "value", "price"),
    "timestamp": ("timestamp", "datetime", "time", "date", "ts", "transdatetranstime", "transactiondt", "txdatetime"),
    "is_fraud": ("isfraud", "fraud", "class", "label", "target", "fraudbool", "txfraud", "fraudulent", "y"),
}


class DataError(Exception):
    """The data, or the words that chose it, cannot be used. One line: file, column, row where there is one, mend.

    Rows are counted from 1 and without the header.
    """


@dataclass(frozen=True, slots=True)
class _Line:
    """One line of meaning: the source ``column`` that fills ``field``."""

    field: str
    column: str
    required: bool = True
    prefix: str = ""
    unit: str | None = None
    origin_ms: int = 0
    format: str | None = None
    values: Mapping[str, str] | None = None
    kind: str | None = None  #: of an attribute: number, text, or as the file has it

    @property
    def read_as(self) -> Any:
        """The Arrow type a CSV column is parsed as; None: whatever it looks like."""
        if self.values or (self.field in _TIMES and self.field != "step" and not self.unit) or self.kind == "text":
            return pa.string()
        if self.field in (*_TEXTS, "type", "is_fraud"):
            return pa.string()
        return None if self.field.startswith("attributes.") and self.kind is None else pa.float64()


def load(
    path: str,
    format: str,
    *,
    mapping: str | None = None,
    where: Sequence[str] = (),
    legit_weight: float = 1.0,
    require_fraud: bool = True,
    require_rows: bool = True,
) -> pd.DataFrame:
    """The canonical frame of the transactions at ``path``.

    ``path`` is a CSV (``.gz`` too) or Parquet file, a folder of them (read in the order of their names), or either on
    ``s3://`` (a folder there ends with ``/``). ``mapping`` names the YAML file that ``format="csv"`` needs. Each of
    ``where`` is ``COLUMN=VALUE`` over the *file's* columns; several values of one column are alternatives, several
    columns must all agree. ``legit_weight`` is the weight of every legitimate row (frauds weigh 1).

    Columns, as far as the source has them: ``transaction_id`` str · ``time_ms`` int64, UTC · ``type`` Categorical of
    the five types · ``customer_id counterparty_id device_id currency`` str · ``amount``, the four balances, ``lat``,
    ``long`` float64, as sent · ``attributes.NAME`` float64 or str · ``is_fraud`` int8 · ``fraud_scenario`` str ·
    ``label_ms`` int64 · ``weight`` float64. Absent is NaN, never zero. Sorted by ``time_ms``, stable; RangeIndex.

    Raises :class:`DataError`; a file without any fraud is one unless ``require_fraud`` is false, and one of which
    ``where`` leaves nothing unless ``require_rows`` is.
    """
    if format not in FORMATS:
        raise DataError(f"Unknown format '{format}'. Choices are: {', '.join(FORMATS)}.")
    if not (math.isfinite(legit_weight) and legit_weight > 0):
        raise DataError(f"The weight of legitimate rows must be a number above zero, not {legit_weight}.")
    if mapping is not None and format != "csv":
        raise DataError(f"A mapping file belongs to format csv; format {format} has its columns fixed.")
    filters = _parse_where(where)
    parts = _parts(path)
    found = [_Reading.of(part, format, mapping, filters).whole() for part in parts]
    frames = [frame for frame in found if not frame.empty]
    if not frames:
        if require_rows:
            _no_match(parts, filters)
        frames = found[:1]
    frame = pd.concat(frames, ignore_index=True) if len(frames) > 1 else frames[0]
    frame.attrs = frames[0].attrs
    if "transaction_id" in frame:
        twice = (frame["transaction_id"].duplicated() & frame["transaction_id"].notna()).to_numpy()
        if twice.any():
            _refuse_duplicate(frame, int(twice.argmax()))
    if require_fraud and not frame["is_fraud"].any():
        raise DataError(
            f"{path}: column '{frame.attrs['is_fraud']}' marks none of the {len(frame):,} rows as fraud; there is "
            "nothing to learn from. Is it the right column, and does --where keep the frauds?"
        )
    frame["weight"] = np.where(frame["is_fraud"] == 1, 1.0, legit_weight)
    frame = frame.drop(columns=["_part", "_row"])
    frame.attrs = {}
    if not frame["time_ms"].is_monotonic_increasing:
        frame = frame.sort_values("time_ms", kind="stable", ignore_index=True)
    return frame


def stream(
    path: str,
    format: str,
    *,
    mapping: str | None = None,
    where: Sequence[str] = (),
    kinds: Mapping[str, Literal["number", "text"]] | None = None,
    rows: int = 100_000,
    skip: int = 0,
) -> Iterator[pd.DataFrame]:
    """The rows of :func:`load` a piece at a time: in memory that does not grow with the file, and in the file's order.

    Pieces hold ``rows`` rows, fewer at a file's end and where ``where`` leaves some out (then even none); the first
    ``skip`` pieces are passed over. Columns are those of :func:`load` without weights and labels, which need not be
    there; every check of single values is made, but no id is looked for twice. What an attribute of a CSV is, number or
    text, is said by the mapping, else by ``kinds``, else by the file's beginning. A file on ``s3://`` is held in
    memory whole: :func:`fetch` it first.

    Raises :class:`DataError`.
    """
    if format not in FORMATS:
        raise DataError(f"Unknown format '{format}'. Choices are: {', '.join(FORMATS)}.")
    if mapping is not None and format != "csv":
        raise DataError(f"A mapping file belongs to format csv; format {format} has its columns fixed.")
    filters = _parse_where(where)
    for part in _parts(path):
        reading = _Reading.of(part, format, mapping, filters, labelled=False)
        first = 1
        for table in _rebatched(reading.batches(kinds or {}, rows), rows):
            if skip:
                skip -= 1
            else:
                frame = reading.checked(table, first).drop(columns=["_part", "_row"])
                frame.attrs = {}
                yield frame
            first += len(table)
        if first == 1:
            raise DataError(f"{part.name}: holds a header but no row.")


def count(path: str) -> int:
    """How many rows the file or folder holds: exactly for Parquet, for CSV about (its line ends)."""
    return sum(part.rows() for part in _parts(path))


def identity(path: str) -> list[list[str]]:
    """Name, size and mark (time of change, ETag) of each file: what tells that it is still the same, at no cost."""
    return [[part.name, *part.identity()] for part in _parts(path)]


def fetch(path: str, folder: Path) -> str:
    """Copy what lies at ``path`` on ``s3://`` into ``folder``, never holding a file in memory; the copy's path.

    A file that was copied whole is not copied again. What is on this machine already stays where it is.
    """
    if not path.startswith("s3://"):
        return path
    parts = _parts(path)
    folder.mkdir(parents=True, exist_ok=True)
    for number, part in enumerate(parts):
        # Numbered: files of the same name may lie at different depths, and their order is that of their whole names.
        part.copy(folder / f"{number:06d}-{part.name.rsplit('/', 1)[-1]}")
    return str(folder) if parts[0].in_folder else str(next(folder.glob("000000-*")))


def digest(path: str) -> str:
    """SHA-256 (hex) of the file; of a folder: of its files' ``digest  name`` lines, as sha256sum would print them."""
    parts = _parts(path)
    if len(parts) == 1 and not parts[0].in_folder:
        return parts[0].sha256()
    return digest_of({part.name: part.sha256() for part in parts})


def digest_of(files: Mapping[str, str]) -> str:
    """The digest of a folder, from those of its files by name."""
    lines = "".join(f"{sha256}  {name.rsplit('/', 1)[-1]}\n" for name, sha256 in files.items())
    return hashlib.sha256(lines.encode()).hexdigest()


def files(path: str) -> tuple[list[str], bool]:
    """The names of the files that ``path`` stands for, each to be read on its own, and whether it is a folder."""
    parts = _parts(path)
    return [part.name for part in parts], parts[0].in_folder


def describe(frame: pd.DataFrame) -> dict[str, Any]:
    """The data profile of a canonical frame, ready for JSON (None where there is nothing to say).

    ``fraud_rate`` counts rows, ``weighted_fraud_rate`` counts weights: the prevalence the figures stand for.
    """
    fraud = frame["is_fraud"].to_numpy() == 1
    weight = frame["weight"].to_numpy() if "weight" in frame else np.ones(len(frame))
    total = float(weight.sum())
    time_ms = frame["time_ms"].to_numpy()
    hour = time_ms // HOUR_MS % 24
    by_hour = np.bincount(hour, minlength=24), np.bincount(hour[fraud], minlength=24)
    known = [name for name in frame.columns if name not in ("time_ms", "is_fraud", "weight", "fraud_scenario")]
    profile: dict[str, Any] = {
        "rows": len(frame),
        "frauds": int(fraud.sum()),
        "fraud_rate": float(fraud.mean()) if len(frame) else None,
        "weighted_rows": total,
        "weighted_fraud_rate": float(weight[fraud].sum() / total) if total else None,
        "first": rfc3339(int(time_ms.min())) if len(frame) else None,
        "last": rfc3339(int(time_ms.max())) if len(frame) else None,
        "days": float((time_ms.max() - time_ms.min()) / 86_400_000) if len(frame) else None,
        "amount": {
            name: _quantiles(frame["amount"].to_numpy()[rows])
            for name, rows in (("all", np.ones(len(frame), bool)), ("legitimate", ~fraud), ("fraud", fraud))
        },
        "missing": {name: float(frame[name].isna().mean()) for name in known} if len(frame) else {},
        "types": _counts(frame["type"], fraud) if "type" in frame else {},
        "currencies": _counts(frame["currency"], fraud) if "currency" in frame else {},
        "parties": {
            name: int(frame[name].nunique())
            for name in ("customer_id", "counterparty_id", "device_id")
            if name in frame
        },
        "fraud_by_hour": [
            {"hour": at, "rows": int(rows), "frauds": int(frauds)}
            for at, (rows, frauds) in enumerate(zip(*by_hour, strict=True))
        ],
    }
    if "fraud_scenario" in frame:
        names = frame["fraud_scenario"][fraud].value_counts()
        profile["fraud_scenarios"] = {str(name): int(count) for name, count in sorted(names.items())}
    return profile


def _quantiles(amounts: npt.NDArray[np.float64]) -> dict[str, float] | None:
    if not len(amounts):
        return None
    names = {"min": 0.0, "p01": 0.01, "p05": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95, "p99": 0.99}
    at = np.quantile(amounts, [*names.values(), 1.0])
    found = {name: float(value) for name, value in zip([*names, "max"], at, strict=True)}
    return {"mean": float(amounts.mean()), **found, "zero_share": float((amounts == 0).mean())}


def _counts(values: "pd.Series[Any]", fraud: npt.NDArray[np.bool_]) -> dict[str, dict[str, int]]:
    codes, names = pd.factorize(values, use_na_sentinel=True)
    counted = {}
    for code, name in [*enumerate(map(str, names)), (-1, "absent")]:
        rows = codes == code
        if rows.any():
            counted[name] = {"rows": int(rows.sum()), "frauds": int((rows & fraud).sum())}
    return counted


# ---- reading ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    """One file, local or on S3."""

    name: str
    in_folder: bool = False
    delimiter: str = ","

    @cached_property
    def source(self) -> Any:
        """What Arrow reads from: a memory map, or the downloaded bytes."""
        try:
            if self.name.startswith("s3://"):
                store, key = _s3(self.name)
                return pa.py_buffer(store.get(key).bytes())
            return self.name if Path(self.name).stat().st_size else pa.py_buffer(b"")
        except FileNotFoundError:
            raise DataError(f"{self.name}: no such file.") from None
        except OSError as error:
            raise DataError(f"{self.name}: cannot be read ({_first_line(error)}).") from None
        except Exception as error:  # obstore's own tree: permission, endpoint, time-out
            raise DataError(f"{self.name}: cannot be fetched ({_first_line(error)}).") from None

    def open(self) -> Any:
        """The bytes as a stream, unpacked."""
        kind = "gzip" if self.name.endswith(".gz") else None
        return pa.input_stream(self.source, compression=kind)

    def identity(self) -> tuple[str, str]:
        """Size, and time of change or ETag."""
        try:
            if self.name.startswith("s3://"):
                store, key = _s3(self.name)
                meta = store.head(key)
                return str(meta["size"]), str(meta["e_tag"])
            found = Path(self.name).stat()
            return str(found.st_size), str(found.st_mtime_ns)
        except FileNotFoundError:
            raise DataError(f"{self.name}: no such file.") from None
        except Exception as error:  # obstore's own tree: permission, endpoint, time-out
            raise DataError(f"{self.name}: cannot be read ({_first_line(error)}).") from None

    def copy(self, to: Path) -> None:
        """Copy from S3, whole or not at all."""
        if to.exists():
            return
        half = to.with_name(f"{to.name}.half")
        try:
            store, key = _s3(self.name)
            with half.open("wb") as file:
                for chunk in store.get(key).stream(min_chunk_size=8 << 20):
                    file.write(chunk)
            half.replace(to)
        except FileNotFoundError:
            raise DataError(f"{self.name}: no such file.") from None
        except Exception as error:
            raise DataError(f"{self.name}: cannot be fetched ({_first_line(error)}).") from None

    def rows(self) -> int:
        """Exactly for Parquet; for CSV the line ends after the header's."""
        with self.refusing():
            if self.is_parquet:
                return int(pq.read_metadata(self.source).num_rows)
            found = 0
            with self.open() as stream:
                while chunk := stream.read(1 << 20):
                    found += chunk.count(b"\n")
            return max(found - 1, 0)

    def sha256(self) -> str:
        """Digest of the bytes as stored."""
        found = hashlib.sha256()
        with pa.input_stream(self.source, compression=None) as stream:
            while chunk := stream.read(1 << 20):
                found.update(chunk)
        return found.hexdigest()

    @cached_property
    def is_parquet(self) -> bool:
        with pa.input_stream(self.source, compression=None) as stream:
            magic = bool(stream.read(4) == b"PAR1")
        if not magic and self.name.endswith((".parquet", ".pq")):
            raise DataError(f"{self.name}: is not a Parquet file, or was cut off.")
        return magic

    def columns(self) -> list[str]:
        """The names of the file's columns."""
        if self.is_parquet:
            with self.refusing():
                return list(pq.read_schema(pa.BufferReader(self.source) if self._in_memory else self.source).names)
        with self.refusing(), self.open() as stream:
            head = stream.read(1 << 20).decode("utf-8-sig", errors="replace")
        names = next(csv.reader(io.StringIO(head, newline=""), delimiter=self.delimiter), [])
        if not names:
            raise DataError(f"{self.name}: the file is empty.")
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise DataError(f"{self.name}: column '{twice[0]}' stands twice in the header.")
        return names

    def read(self, kinds: Mapping[str, Any]) -> Any:
        """An Arrow table of the columns named in ``kinds``; CSV columns are parsed as its types (None: inferred)."""
        columns = list(kinds)
        if self.is_parquet:
            with self.refusing():
                source = pa.BufferReader(self.source) if self._in_memory else self.source
                return pq.read_table(source, columns=columns, memory_map=True)
        try:
            return self._read_csv({name: kind for name, kind in kinds.items() if kind is not None}, columns)
        except (pa.ArrowException, OSError):
            # Slowly and as text: either this names the ragged row, or the checks below name the value.
            with self.refusing():
                return self._read_csv(dict.fromkeys(columns, pa.string()), columns, slow=True)

    def _read_csv(self, types: Mapping[str, Any], columns: list[str], *, slow: bool = False) -> Any:
        with self._csv(types, columns, slow=slow) as (stream, options):
            return pacsv.read_csv(stream, **options)

    @contextmanager
    def _csv(self, types: Mapping[str, Any], columns: list[str], *, slow: bool) -> Iterator[tuple[Any, dict[str, Any]]]:
        """The file's bytes and how Arrow is to read them; ``slow`` also names the row that is ragged."""
        ragged: list[Any] = []

        def note(row: Any) -> str:
            ragged.append(row)
            return "error"

        with self.open() as stream:
            try:
                yield (
                    stream,
                    {
                        "read_options": pacsv.ReadOptions(use_threads=not slow, block_size=_BLOCK),
                        "parse_options": pacsv.ParseOptions(
                            delimiter=self.delimiter,
                            newlines_in_values=slow,
                            invalid_row_handler=note if slow else None,
                        ),
                        "convert_options": pacsv.ConvertOptions(
                            column_types=types, include_columns=columns, null_values=_NULLS, strings_can_be_null=True
                        ),
                    },
                )
            except pa.ArrowInvalid:
                if not ragged:
                    raise
                row = ragged[0]
                raise DataError(
                    f"{self.name}: row {row.number - 1}: has {row.actual_columns} fields, the header has "
                    f"{row.expected_columns}; was the file cut off, or the delimiter not '{self.delimiter}'?"
                ) from None

    def batches(self, kinds: Mapping[str, Any], rows: int) -> Iterator[Any]:
        """The table of :meth:`read` a piece at a time, of Parquet ``rows`` rows each."""
        columns = list(kinds)
        if self.is_parquet:
            with self.refusing(), pq.ParquetFile(self.source, pre_buffer=False, buffer_size=1 << 20) as file:
                yield from map(_as_table, file.iter_batches(rows, columns=columns))
            return
        types = {name: kind for name, kind in kinds.items() if kind is not None}
        done = 0
        try:
            with self._csv(types, columns, slow=False) as (stream, options):
                for batch in pacsv.open_csv(stream, **options):
                    yield _as_table(batch)
                    done += len(batch)
            return
        except (pa.ArrowException, OSError):
            pass
        # Once more from where it stuck, slowly and as text: see read.
        with self.refusing(), self._csv(dict.fromkeys(columns, pa.string()), columns, slow=True) as (stream, options):
            for batch in pacsv.open_csv(stream, **options):
                if len(batch) > done:
                    yield _as_table(batch.slice(done))
                done = max(done - len(batch), 0)

    @property
    def _in_memory(self) -> bool:
        return not isinstance(self.source, str)

    def refusing(self) -> "_Refusing":
        return _Refusing(self.name)


class _Refusing:
    """What Arrow cannot read becomes a DataError of one line."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, pa.ArrowException | OSError | EOFError):
            raise DataError(f"{self.name}: cannot be read, or was cut off ({_first_line(error)}).") from None


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _s3(url: str) -> tuple[Any, str]:
    """The bucket's store and the key; region, endpoint and credentials come from the environment (AWS_*)."""
    from obstore.store import S3Store

    bucket, _, key = url.removeprefix("s3://").partition("/")
    if not bucket:
        raise DataError(f"{url}: names no bucket; write s3://BUCKET/FILE.")
    endpoint = os.environ.get("AWS_ENDPOINT_URL", "")
    plain = endpoint.startswith("http://")
    return S3Store(
        bucket,
        client_options={"allow_http": plain, "connect_timeout": "5s", "timeout": "10m"},
        retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=30)},
    ), key


def _parts(path: str) -> list[_Part]:
    """The files ``path`` stands for."""
    if path.startswith("s3://"):
        if not path.endswith("/"):
            return [_Part(path)]
        store, key = _s3(path)
        try:
            found = [f"s3://{path[5:].partition('/')[0]}/{meta['path']}" for page in store.list(key) for meta in page]
        except Exception as error:
            raise DataError(f"{path}: cannot be listed ({_first_line(error)}).") from None
    elif not Path(path).is_dir():
        return [_Part(path)]
    else:
        found = [str(file) for file in Path(path).iterdir() if file.is_file()]
    names = sorted(name for name in found if name.endswith((".csv", ".csv.gz", ".parquet", ".pq")))
    if not names:
        raise DataError(f"{path}: holds no .csv, .csv.gz or .parquet file.")
    return [_Part(name, in_folder=True) for name in names]


# ---- what the columns mean -------------------------------------------------------------------------------------------


def _plan(part: _Part, format: str, mapping: str | None, has: list[str], *, labelled: bool) -> list[_Line]:
    """The lines for ``part``, whose columns are ``has``; required ones that are missing are refused."""
    if format == "csv":
        return _mapped(part, mapping, has, labelled=labelled)
    if format == "paysim":
        own = {"step": "step", "type": "type", "amount": "amount", "customer_id": "nameOrig"}
        own |= {"counterparty_id": "nameDest", **{name: name for name in BALANCES}, "is_fraud": "isFraud"}
        lines = [_Line(field, column) for field, column in own.items()]
    elif format == "handbook":
        # Customers and terminals count from 0 alike, and parties share one namespace.
        lines = [
            _Line("transaction_id", "TRANSACTION_ID", required=False),
            _Line("timestamp", "TX_DATETIME"),
            _Line("customer_id", "CUSTOMER_ID", prefix="C"),
            _Line("counterparty_id", "TERMINAL_ID", prefix="T"),
            _Line("amount", "TX_AMOUNT"),
            _Line("is_fraud", "TX_FRAUD"),
            _Line("fraud_scenario", "TX_FRAUD_SCENARIO", required=False),
        ]
    else:
        required = ("timestamp", "amount", "is_fraud")
        lines = [_Line(field, field, required=field in required) for field in FIELDS if field != "step"]
        lines += [_Line(name, name) for name in has if name.startswith("attributes.")]
    if not labelled:
        lines = [line for line in lines if line.field not in _LABELS]
    for line in lines:
        if line.required and line.column not in has:
            raise DataError(f"{part.name}: column '{line.column}' is missing{_near(line.column, has)}.")
    return [line for line in lines if line.column in has]


def _near(name: str, has: Iterable[str]) -> str:
    """``; did you mean 'x'? Columns are: ...``"""
    names = list(has)
    by_plain = {_plain(candidate): candidate for candidate in names}
    close = difflib.get_close_matches(_plain(name), by_plain, n=1, cutoff=0.6)
    shown = ", ".join(names[:40]) + (f" and {len(names) - 40} more" if len(names) > 40 else "")
    return (f"; did you mean '{by_plain[close[0]]}'?" if close else ";") + f" Columns are: {shown}"


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _guess(field: str, has: list[str]) -> str | None:
    """The column that is most likely ``field``."""
    by_plain = {_plain(name): name for name in has}
    for known in (_plain(field), *_ALSO_CALLED.get(field, ())):
        if known in by_plain:
            return by_plain[known]
    close = difflib.get_close_matches(_plain(field), by_plain, n=1, cutoff=0.7)
    return by_plain[close[0]] if close else None


def _mapped(part: _Part, mapping: str | None, has: list[str], *, labelled: bool) -> list[_Line]:
    needed = {
        field: _guess(field, has) or f"YOUR_{field.upper()}_COLUMN"
        for field in _ALSO_CALLED
        if labelled or field not in _LABELS
    }
    if mapping is None:
        line = ", ".join(f"{field}: {column}" for field, column in needed.items())
        raise DataError(
            f"{part.name}: format csv needs a mapping file (--mapping FILE). Begin it with the line "
            f"`columns: {{{line}}}`. Columns are: {', '.join(has[:40])}."
        )
    spec = _read_mapping(mapping)
    columns, values = _section(mapping, spec, "columns"), _section(mapping, spec, "values")
    if not labelled:  # the same mapping file serves rows that have no labels yet
        columns, values = ({f: told for f, told in part_.items() if f not in _LABELS} for part_ in (columns, values))
    lines: list[_Line] = []
    for field, told in columns.items():
        if field not in FIELDS:
            close = difflib.get_close_matches(field, FIELDS, n=1)
            hint = f" Write `{close[0]}: {told}`." if close and isinstance(told, str) else ""
            raise DataError(
                f"{mapping}: columns: '{field}' is no field.{hint} Choices are: {', '.join(FIELDS)}; "
                f"a column of your own goes under `attributes: [{told if isinstance(told, str) else field}]`."
            )
        lines.append(_column_line(mapping, part, field, told, has))
    for field, table in values.items():
        if not isinstance(table, dict) or field not in {line.field for line in lines}:
            raise DataError(f"{mapping}: values: write `{field}: {{theirs: ours}}`, for a field named under columns.")
        lines = [replace(line, values=table) if line.field == field else line for line in lines]
    lines += _attribute_lines(mapping, part, spec.get("attributes", []), has)
    filled = {line.field for line in lines}
    if {"timestamp", "step"} <= filled:
        raise DataError(f"{mapping}: columns: give either timestamp or step, not both.")
    for field, column in needed.items():
        if field not in filled and not (field == "timestamp" and "step" in filled):
            raise DataError(
                f"{mapping}: '{field}' has no line. Under `columns:` write `{field}: {column}`. "
                f"Columns of {part.name} are: {', '.join(has[:40])}."
            )
    return lines


def _read_mapping(mapping: str) -> dict[str, Any]:
    try:
        # BaseLoader: every scalar stays text, so that a column or value called `no`, `on` or 007 is what it says.
        spec = yaml.load(Path(mapping).read_text(encoding="utf-8"), Loader=yaml.BaseLoader)  # noqa: S506
    except FileNotFoundError:
        raise DataError(f"{mapping}: no such mapping file.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{mapping}: cannot be read ({_first_line(error)}).") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f" at line {mark.line + 1}" if mark else ""
        raise DataError(f"{mapping}: is not YAML{at} ({getattr(error, 'problem', None) or 'unreadable'}).") from None
    known = ("columns", "attributes", "values", "delimiter")
    if not isinstance(spec, dict) or not isinstance(spec.get("columns"), dict):
        raise DataError(f"{mapping}: write `columns:` and under it lines `our_field: their_column`.")
    for key in spec:
        if key not in known:
            raise DataError(f"{mapping}: unknown key '{key}'. Choices are: {', '.join(known)}.")
    return spec


def _section(mapping: str, spec: dict[str, Any], key: str) -> dict[str, Any]:
    section = spec.get(key) or {}
    if not isinstance(section, dict):
        raise DataError(f"{mapping}: `{key}:` holds lines `name: ...`, nothing else.")
    return section


def _column_line(mapping: str, part: _Part, field: str, told: Any, has: list[str]) -> _Line:
    options = {"column": told} if isinstance(told, str) else told
    legal = {"column", "unit", "origin", "format"} if field in ("timestamp", "label_timestamp") else {"column"}
    if not isinstance(options, dict) or "column" not in options or not set(options) <= legal:
        raise DataError(f"{mapping}: columns: write `{field}: COLUMN` or `{field}: {{{', '.join(sorted(legal))}}}`.")
    column = options["column"]
    if column not in has:
        guess = _guess(column, has) or _guess(field, has)
        line = f" Write `{field}: {guess}`." if guess else ""
        raise DataError(
            f"{mapping}: columns: `{field}: {column}`, but {part.name} has no such column.{line} "
            f"Columns are: {', '.join(has[:40])}."
        )
    unit = options.get("unit")
    if unit is not None and unit not in _UNIT_MS:
        raise DataError(f"{mapping}: columns: {field}: unknown unit '{unit}'. Choices are: {', '.join(_UNIT_MS)}.")
    origin_ms = 0
    if "origin" in options:
        try:
            origin = datetime.fromisoformat(options["origin"])
        except ValueError:
            raise DataError(f"{mapping}: columns: {field}: write origin as 2013-09-01T00:00:00Z.") from None
        origin_ms = round((origin if origin.tzinfo else origin.replace(tzinfo=UTC)).timestamp() * 1000)
        if unit is None:
            raise DataError(f"{mapping}: columns: {field}: an origin needs a unit, e.g. `unit: s`.")
    return _Line(field, column, unit=unit, origin_ms=origin_ms, format=options.get("format"))


def _attribute_lines(mapping: str, part: _Part, told: Any, has: list[str]) -> list[_Line]:
    if isinstance(told, list):
        names: dict[str, Any] = {}
        for pattern in told:
            found = [name for name in has if isinstance(pattern, str) and fnmatch.fnmatchcase(name, pattern)]
            if not found:
                raise DataError(
                    f"{mapping}: attributes: {part.name} has no column '{pattern}'{_near(str(pattern), has)}."
                )
            names |= {name: name for name in found}
    elif isinstance(told, dict):
        names = told
    else:
        raise DataError(f"{mapping}: write `attributes: [COLUMN, ...]` or lines `name: COLUMN` under it.")
    lines = []
    for name, options in names.items():
        options = {"column": options} if isinstance(options, str) else options
        if not isinstance(options, dict) or "column" not in options or not set(options) <= {"column", "as"}:
            raise DataError(f"{mapping}: attributes: write `{name}: COLUMN` or `{name}: {{column: COLUMN, as: text}}`.")
        if options["column"] not in has:
            near = _near(options["column"], has)
            raise DataError(f"{mapping}: attributes: {part.name} has no column '{options['column']}'{near}.")
        if options.get("as") not in (None, "text", "number"):
            raise DataError(f"{mapping}: attributes: {name}: `as` is text or number.")
        if not 1 <= len(name) <= _MAX_ID:
            raise DataError(f"{mapping}: attributes: the name '{name}' is longer than {_MAX_ID} characters.")
        lines.append(_Line(f"attributes.{name}", options["column"], kind=options.get("as")))
    return lines


_TEXTUAL = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_boolean, pa.types.is_null)


# ---- the checks ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Column:
    """One source column with the rows it came from, so that every refusal can name its place."""

    part: _Part
    line: _Line
    data: Any
    rows: npt.NDArray[np.int64]
    mend: str = ""

    def refuse(self, bad: Any, why: str) -> None:
        """Raise for the first true of ``bad``; ``{}`` in ``why`` becomes the value."""
        flags = np.asarray(bad, dtype=bool)
        if flags.any():
            at = int(flags.argmax())
            value = str(self.data[at].as_py())
            shown = repr(value if len(value) <= 40 else value[:40] + "...")
            self.stop(f", row {self.rows[at]}: {why.format(shown)}.")

    def stop(self, why: str) -> NoReturn:
        raise DataError(f"{self.part.name}: column '{self.line.column}'{why}{self.mend}")

    @cached_property
    def null(self) -> npt.NDArray[np.bool_]:
        return np.asarray(pc.is_null(self.data))

    def text(self) -> Any:
        """As Arrow strings: whole numbers without a point, empty text as null, ``values`` applied."""
        data, kind = self.data, self.data.type
        if pa.types.is_floating(kind):
            # Whole numbers with gaps are stored as floats by many writers.
            numbers = data.to_numpy()
            whole = np.isnan(numbers) | (np.isfinite(numbers) & (numbers == np.floor(numbers)))
            self.refuse(~whole, "{} is neither text nor a whole number")
            data = pc.cast(pa.array(numbers, from_pandas=True), pa.int64())
        elif not any(test(kind) for test in _TEXTUAL):
            self.stop(f" is of type {kind}; it must be text or whole numbers.")
        data = pc.cast(data, pa.string())
        if self.line.values:
            table = self.line.values
            found = pc.index_in(data, value_set=pa.array(list(table), pa.string()))
            data = pc.coalesce(pc.take(pa.array([str(ours) for ours in table.values()], pa.string()), found), data)
        data = pc.if_else(pc.equal(data, ""), pa.scalar(None, pa.string()), data)
        return data if not self.line.prefix else pc.binary_join_element_wise(self.line.prefix, data, "")

    def number(self) -> npt.NDArray[np.float64]:
        """As float64, null as NaN; what is written but is no finite number is refused."""
        kind = self.data.type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            found: npt.NDArray[np.float64] = _to_numbers(self.data)
            self.refuse(np.isnan(found) & ~self.null, "{} is not a number")
        elif pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind):
            found = np.array(self.data.cast(pa.float64()).to_numpy(), dtype=np.float64)
        elif pa.types.is_decimal(kind):
            found = np.array(pc.cast(self.data, pa.float64()).to_numpy(), dtype=np.float64)
        elif pa.types.is_null(kind):
            found = np.full(len(self.data), np.nan)
        else:
            self.stop(f" is of type {kind}; it must hold numbers.")
        self.refuse(np.isinf(found), "{} is not a finite number")
        return found

    def time_ms(self) -> npt.NDArray[np.int64]:
        """As int64 milliseconds of UTC; a time without offset is UTC."""
        line, kind = self.line, self.data.type
        self.refuse(self.null, "is missing")
        if line.field == "step" or line.unit:
            number = self.number()
            self.refuse(np.isnan(number), "is missing")
            if line.field == "step":
                self.refuse((number < 1) | (number != np.floor(number)), "{} is no step (whole hours from 1)")
                found = PAYSIM_START_MS + (number - 1) * HOUR_MS
            else:
                found = line.origin_ms + number * _UNIT_MS[line.unit or "ms"]
            self.refuse((found < _TIME_RANGE_MS[0]) | (found >= _TIME_RANGE_MS[1]), "{} is no time from 1970 to 2199")
            return found.astype(np.int64)
        if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
            stamps = np.asarray(self.data.cast(pa.timestamp("ms"), safe=False).cast(pa.int64()))
        elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
            parsed = pd.to_datetime(self.data.to_pandas(), utc=True, format=line.format or "ISO8601", errors="coerce")
            if not line.format:
                # pandas reads more than ISO 8601 under that name: "-1.5" is a time to it.
                self.refuse(
                    ~np.asarray(pc.match_substring_regex(self.data, _ISO_8601)), "{} is no timestamp (RFC 3339)"
                )
            self.refuse(parsed.isna(), "{} is no timestamp" + (f" of the form {line.format}" if line.format else ""))
            stamps = parsed.dt.as_unit("ms").astype("int64").to_numpy()
        else:
            unit = f"`{line.field}: {{column: {line.column}, unit: s}}`"
            self.stop(
                f" is of type {kind}; for numbers write the mapping line {unit}, with an origin if they need one."
            )
        self.refuse((stamps < _TIME_RANGE_MS[0]) | (stamps >= _TIME_RANGE_MS[1]), "{} is no time from 1970 to 2199")
        return np.asarray(stamps, dtype=np.int64)

    def label(self) -> npt.NDArray[np.int8]:
        """0 or 1; true and false count, absent does not."""
        text = pc.utf8_lower(self.text() if not pa.types.is_floating(self.data.type) else self._whole_label())
        self.refuse(np.asarray(pc.is_null(text)), "is missing")
        positive = pc.is_in(text, value_set=pa.array(["1", "1.0", "true"]))
        negative = pc.is_in(text, value_set=pa.array(["0", "0.0", "false"]))
        self.refuse(~np.asarray(pc.or_(positive, negative)), "{} is not 0 or 1")
        return np.asarray(positive).astype(np.int8)

    def _whole_label(self) -> Any:
        number = self.data.to_numpy()
        self.refuse(np.isnan(number), "is missing")
        self.refuse((number != 0) & (number != 1), "{} is not 0 or 1")
        return pc.cast(self.data, pa.int8()).cast(pa.string())

    def attribute(self) -> Any:
        """float64 or str, as the service would be sent it."""
        kind = self.data.type
        textual = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        if self.line.kind == "text" or (textual and self.line.kind is None):
            text = self.text()
            self.refuse(
                pc.fill_null(pc.greater(pc.utf8_length(text), _MAX_ATTRIBUTE_TEXT), False), "is over 256 characters"
            )
            return text.to_pandas()
        return self.number()


@dataclass(frozen=True)
class _Reading:
    """What is to be read of one file, and what its columns mean."""

    part: _Part
    mapping: str | None
    filters: Mapping[str, list[str]]
    lines: list[_Line]

    @classmethod
    def of(
        cls, part: _Part, format: str, mapping: str | None, filters: Mapping[str, list[str]], *, labelled: bool = True
    ) -> "_Reading":
        """``labelled``: the file must say which rows are frauds; if not, labels are passed over."""
        if mapping is not None and (delimiter := _read_mapping(mapping).get("delimiter")):
            if not isinstance(delimiter, str) or len(delimiter.replace("\\t", "\t")) != 1:
                raise DataError(f'{mapping}: delimiter is one character, e.g. `delimiter: ";"`.')
            part = replace(part, delimiter=delimiter.replace("\\t", "\t"))
        has = part.columns()
        for column in filters:
            if column not in has:
                raise DataError(f"{part.name}: --where {column}=...: no such column{_near(column, has)}.")
        return cls(part, mapping, filters, _plan(part, format, mapping, has, labelled=labelled))

    @property
    def kinds(self) -> dict[str, Any]:
        """Column -> the Arrow type it is parsed as; None: whatever it looks like."""
        kinds: dict[str, Any] = {column: pa.string() for column in self.filters}
        for line in self.lines:
            # One column may serve twice (a time that is also an attribute); text can become whatever either wants.
            before, wanted = kinds.get(line.column), line.read_as
            clash = before is not None and wanted is not None and before != wanted
            kinds[line.column] = pa.string() if clash else before or wanted
        return kinds

    def whole(self) -> pd.DataFrame:
        """The checked frame of the file, unsorted."""
        table = _untemporal(self.part, self.part.read(self.kinds), self.lines, self.kinds)
        if not len(table):
            raise DataError(f"{self.part.name}: holds a header but no row.")
        return self.checked(table, 1)

    def batches(self, attributes: Mapping[str, Literal["number", "text"]], rows: int) -> Iterator[Any]:
        """The file's table a piece at a time; ``attributes`` by name are numbers or text."""
        if not self.part.is_parquet:
            told = {f"attributes.{name}": kind for name, kind in attributes.items()}
            self.lines[:] = [replace(line, kind=line.kind or told.get(line.field)) for line in self.lines]
            unsure = [line for line in self.lines if line.field.startswith("attributes.") and line.kind is None]
            if unsure:  # what they are in the first piece they are to the end
                first = next(self.part.batches({line.column: None for line in unsure}, rows), None)
                seen = {
                    line.field: "number" if _is_number(first.schema.field(line.column).type) else "text"
                    for line in unsure
                    if first is not None
                }
                self.lines[:] = [replace(line, kind=line.kind or seen.get(line.field)) for line in self.lines]
        yield from self.part.batches(self.kinds, rows)

    def checked(self, table: Any, first: int) -> pd.DataFrame:
        """The canonical frame of the rows, of which the file's ``first`` comes first, with ``_part`` and ``_row`` for
        what can only be checked over all.
        """
        part = self.part
        rows = np.arange(first, first + len(table))
        for column, wanted in self.filters.items():
            keep = _matches(table.column(column), wanted)
            table, rows = table.filter(pa.array(keep)), rows[keep]
        columns: dict[str, Any] = {"_row": rows, "_part": np.full(len(rows), part.name, dtype=object)}
        mend = ""
        for line in self.lines:
            data = table.column(line.column)
            if pa.types.is_dictionary(data.type):
                data = pc.cast(data, data.type.value_type)
            if self.mapping is not None and line.field == "type":
                mend = " In the mapping write `values: {type: {THEIRS: PAYMENT, ...}}`."
            if self.mapping is not None and line.field == "is_fraud":
                mend = " In the mapping write `values: {is_fraud: {THEIRS: 1, ...}}`."
            column_ = _Column(part, line, data, rows, mend)
            mend = ""
            with part.refusing():
                columns |= _field(column_)
        if "label_ms" in columns:
            late = next(line for line in self.lines if line.field == "label_timestamp")
            early = columns["label_ms"] < columns["time_ms"]
            _Column(part, late, table.column(late.column), rows).refuse(early, "{} is before the transaction itself")
        order = [*FIELDS, "time_ms", "label_ms"]
        first_ = {"timestamp": "time_ms", "step": "time_ms", "label_timestamp": "label_ms"}
        names = dict.fromkeys(first_.get(name, name) for name in order if first_.get(name, name) in columns)
        frame = pd.DataFrame(
            {name: columns[name] for name in [*names, *(set_ for set_ in columns if set_ not in names)]}
        )
        frame.attrs = {line.field: line.column for line in self.lines}
        return frame


def _is_number(kind: Any) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind))


def _as_table(batch: Any) -> Any:
    return pa.Table.from_batches([batch])


def _rebatched(tables: Iterable[Any], rows: int) -> Iterator[Any]:
    """The same rows in tables of ``rows`` rows; the last may have fewer, and one before columns change their types."""
    held: list[Any] = []
    total = 0
    for table in tables:
        if held and table.schema != held[0].schema:
            if total:
                yield pa.concat_tables(held)
            held, total = [], 0
        held.append(table)
        total += len(table)
        if total >= rows:
            whole = pa.concat_tables(held)
            for start in range(0, total - total % rows, rows):
                yield whole.slice(start, rows)
            held, total = [whole.slice(total - total % rows)], total % rows
    if total:
        yield pa.concat_tables(held)


def _field(column: _Column) -> dict[str, Any]:
    """The checked column under its canonical name."""
    field = column.line.field
    if field in _TIMES:
        return {"label_ms" if field == "label_timestamp" else "time_ms": column.time_ms()}
    if field == "is_fraud":
        return {field: column.label()}
    if field.startswith("attributes."):
        return {field: column.attribute()}
    if field in _NUMBERS:
        number = column.number()
        low, high = _RANGES[field]
        if field == "amount":
            column.refuse(np.isnan(number), "is missing")
        column.refuse(number < low, "{} is negative" if low == 0 else f"{{}} is below {low:g}")
        column.refuse(number > high, f"{{}} is above {high:g}")
        return {field: number}
    text = column.text()
    if field == "type":
        codes = pc.index_in(text, value_set=pa.array(TYPES))
        column.refuse(pc.and_(pc.is_null(codes), pc.is_valid(text)), f"{{}} is no type; choices are {', '.join(TYPES)}")
        found: npt.NDArray[np.int64] = np.asarray(pc.fill_null(codes, -1), dtype=np.int64)
        return {field: pd.Categorical.from_codes(found, categories=pd.Index(TYPES))}
    if field == "fraud_scenario":
        return {field: pc.if_else(pc.is_in(text, value_set=pa.array(["0"])), None, text).to_pandas()}
    if field == "currency":
        legal = pc.fill_null(pc.match_substring_regex(text, "^[A-Z]{3}$"), True)
        column.refuse(pc.invert(legal), "{} is no ISO 4217 code such as USD")
        return {field: text.to_pandas()}
    column.refuse(pc.fill_null(pc.greater(pc.utf8_length(text), _MAX_ID), False), f"{{}} is over {_MAX_ID} characters")
    if field == "transaction_id":
        legal = pc.fill_null(pc.match_substring_regex(text, r"^[\x20-\x7e]+$"), True)
        column.refuse(pc.invert(legal), "{} is not printable ASCII")
    return {field: text.to_pandas()}


def _untemporal(part: _Part, table: Any, lines: list[_Line], kinds: dict[str, Any]) -> Any:
    """Attributes of a CSV that merely look like dates are text."""
    dates = {
        line.column: pa.string()
        for line in lines
        if line.field.startswith("attributes.") and pa.types.is_temporal(table.schema.field(line.column).type)
    }
    return part.read(kinds | dates) if dates and not part.is_parquet else table


def _refuse_duplicate(frame: pd.DataFrame, at: int) -> NoReturn:
    twice = frame["transaction_id"].iloc[at]
    first = int((frame["transaction_id"] == twice).to_numpy().argmax())
    place = f"row {frame['_row'].iloc[first]}"
    if frame["_part"].iloc[first] != frame["_part"].iloc[at]:
        place += f" of {frame['_part'].iloc[first]}"
    raise DataError(
        f"{frame['_part'].iloc[at]}: column '{frame.attrs['transaction_id']}', row {frame['_row'].iloc[at]}: {twice!r} "
        f"stands already in {place}; an id names one transaction."
    )


# ---- --where ---------------------------------------------------------------------------------------------------------


def _parse_where(where: Sequence[str]) -> dict[str, list[str]]:
    filters: dict[str, list[str]] = {}
    for clause in where:
        column, found, value = clause.partition("=")
        if not found or not column:
            raise DataError(f"--where '{clause}': write COLUMN=VALUE.")
        filters.setdefault(column.strip(), []).append(value.strip())
    return filters


def _to_numbers(text: Any) -> npt.NDArray[np.float64]:
    """Arrow strings as float64; what is no number is NaN."""
    found = pd.to_numeric(text.to_pandas(), errors="coerce")
    return np.asarray(found.to_numpy(dtype=np.float64, na_value=np.nan))


def _matches(data: Any, wanted: list[str]) -> npt.NDArray[np.bool_]:
    """Which rows hold one of ``wanted``, as text, or as numbers where both are."""
    kind = data.type
    if pa.types.is_dictionary(kind):
        data = pc.cast(data, kind.value_type)
        kind = data.type
    numbers = [float(value) for value in wanted if re.fullmatch(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?", value)]
    if pa.types.is_floating(kind) or pa.types.is_integer(kind):
        return np.isin(np.array(data.cast(pa.float64()).to_numpy()), numbers)
    text = pc.cast(data, pa.string())
    keep = np.asarray(pc.is_in(text, value_set=pa.array(wanted, pa.string())))
    return keep | np.isin(_to_numbers(text), numbers) if numbers else keep


def _no_match(parts: list[_Part], filters: Mapping[str, list[str]]) -> NoReturn:
    told = ", ".join(f"{column}={value}" for column, values in filters.items() for value in values)
    column = next(iter(filters))
    values = parts[0].read({column: pa.string()}).column(column)
    seen = [str(value) for value in pc.unique(values).to_pylist()]
    shown = ", ".join(seen[:12]) + (" ..." if len(seen) > 12 else "")
    raise DataError(f"{parts[0].name}: no row has {told}. Values of column '{column}' are: {shown}.")
