"""What may be done with the records: taken out, for training or to keep; erased, for one party; forgotten, by age."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, Final

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from fraud_api_lambda.decision_log import DecisionLog, Label, Record, Search, Stored, pack_record, unpack_record
from fraud_api_lambda.feature_store import FeatureStore
from fraud_api_lambda.features import type_name
from fraud_api_lambda.outbox import Kind, Outbox
from fraud_api_lambda.schemas import TYPES, rfc3339

from .dataset import DataError

#: Records of a page.
PAGE: Final = 200
_ROWS: Final = 20_000
_DAY_MS: Final = 86_400_000

#: Column -> its type; those up to ``label_timestamp`` are read by ``--format synthetic``.
_COLUMNS: Final = {
    **dict.fromkeys(("transaction_id", "timestamp", "type"), pa.string()),
    **dict.fromkeys(("customer_id", "counterparty_id", "device_id"), pa.string()),
    "amount": pa.float64(),
    "currency": pa.string(),
    **dict.fromkeys(("oldbalanceOrg", "newbalanceOrig", "oldbalanceDest", "newbalanceDest"), pa.float64()),
    **dict.fromkeys(("lat", "long"), pa.float64()),
    "is_fraud": pa.int8(),
    "label_timestamp": pa.string(),
    # what the service made of it
    **dict.fromkeys(("label", "label_source", "received_at"), pa.string()),
    "fraud_probability": pa.float64(),
    **dict.fromkeys(("outcome", "decided_by", "model_version", "rules_version"), pa.string()),
    "sent_amount": pa.float64(),
    "sent_currency": pa.string(),
}
#: Column -> the feature that holds it, in the base currency.
_MONEY: Final = {
    "amount": "amount",
    "oldbalanceOrg": "oldbalance_orig",
    "newbalanceOrig": "newbalance_orig",
    "oldbalanceDest": "oldbalance_dest",
    "newbalanceDest": "newbalance_dest",
}


def records(log: DecisionLog, since_ms: int | None, until_ms: int | None, test: bool | None = None) -> Iterator[Stored]:
    """The records that arrived in ``[since, until)``, oldest first; test inputs only, without them, or all (None)."""
    search = Search(since_ms=since_ms, until_ms=until_ms, test=test, oldest_first=True, limit=PAGE)
    while True:
        page = log.search(search)
        yield from page.items
        if page.cursor is None:
            return
        search = Search(**{**asdict(search), "cursor": page.cursor})


# --- taking out ------------------------------------------------------------------------------------------------------


def export(
    log: DecisionLog,
    out: Path,
    *,
    since_ms: int | None = None,
    until_ms: int | None = None,
    labelled_only: bool = False,
    progress: Callable[[str], None] = lambda step: None,
) -> int:
    """Write the records of some time to ``out``, oldest first, and say how many. Memory does not grow with them.

    ``.jsonl``: every record whole, test inputs too, a line each: ``{"record": ..., "labels": [...]}``, nothing lost.
    ``.parquet``: the transactions without test inputs, as ``--format synthetic`` reads them, so that a model can learn
    from them: money in the base currency (as it was judged; ``sent_amount`` in ``sent_currency``), ``is_fraud`` by the
    label that counts, 0 where nobody has said anything (``label`` tells which; ``labelled_only`` leaves those out),
    ``label_timestamp`` when the service learned of it.

    Raises :class:`DataError` where there is nothing to write or ``out`` is there already.
    """
    if out.suffix not in (".parquet", ".jsonl"):
        raise DataError(f"{out}: records are written as .parquet or .jsonl.")
    if out.exists():
        raise DataError(f"{out} exists already; it is not overwritten.")
    out.parent.mkdir(parents=True, exist_ok=True)
    half = out.with_name(f"{out.name}.half")
    whole = out.suffix == ".jsonl"
    found = (
        stored
        for stored in _counted(records(log, since_ms, until_ms, None if whole else False), progress)
        if stored.label is not None or not labelled_only
    )
    count = _lines(log, found, half) if whole else _table(found, half)
    if not count:
        half.unlink(missing_ok=True)
        raise DataError("The log holds no such record.")
    half.replace(out)
    return count


def frame(log: DecisionLog, until_ms: int, progress: Callable[[str], None] = lambda step: None) -> pd.DataFrame:
    """The records that arrived before ``until_ms`` as ``dataset.load`` would give them, in the order of arrival.

    Test inputs are left out. Money is in the base currency as it was judged. Beside the canonical columns stand
    ``received_ms``; ``is_fraud`` and ``label_ms`` by the label that counts and was known by then (else 0 and the time
    of arrival); ``labelled``, whether there is one; ``flagged``, whether the outcome was not approve. Raises
    ``DataError`` where there is no such record.
    """
    found: dict[str, list[Any]] = {name: [] for name in _FRAME}
    attributes: dict[str, dict[int, float | str]] = {}
    base = set()
    for number, (record, label) in enumerate(_counted(records(log, None, until_ms, test=False), progress)):
        document = json.loads(record.document)
        event, features = document["event"], document["features"]
        known = label if label is not None and label.received_ms < until_ms else None
        values = (
            record.transaction_id,
            record.time_ms,
            type_name(event["type_code"]),
            record.customer_id,
            record.counterparty_id,
            record.device_id,
            *(features.get(feature) for feature in _MONEY.values()),
            event["lat"],
            event["long"],
            known is not None and known.is_fraud,
            max(record.time_ms, known.received_ms if known else record.received_ms),
            record.received_ms,
            known is not None,
            record.outcome != "approve",
        )
        for name, value in zip(_FRAME, values, strict=True):
            found[name].append(value)
        for name, value in event["attributes"].items():
            if _present(value):
                attributes.setdefault(name, {})[number] = value
        base.add(json.loads(record.answer)["base_currency"])
    if not base:
        raise DataError("The log holds no such record.")
    if len(base) > 1:
        raise DataError("The log's amounts are in several base currencies; no one model learns from them.")
    made = pd.DataFrame({name: _column(name, values) for name, values in found.items()})
    made.insert(7, "currency", pd.Series([base.pop()] * len(made), dtype="str"))
    for name, given in sorted(attributes.items()):
        text = any(isinstance(value, str) for value in given.values())
        own = {at: _as_text(value) for at, value in given.items()} if text else given
        made[f"attributes.{name}"] = pd.Series(own, dtype="str" if text else "float64").reindex(made.index)
    made["weight"] = 1.0
    return made


#: Column of :func:`frame` -> its pandas type.
_FRAME: Final = {
    "transaction_id": "str",
    "time_ms": "int64",
    "type": "category",
    **dict.fromkeys(("customer_id", "counterparty_id", "device_id"), "str"),
    **dict.fromkeys((*_MONEY, "lat", "long"), "float64"),
    "is_fraud": "int8",
    "label_ms": "int64",
    "received_ms": "int64",
    **dict.fromkeys(("labelled", "flagged"), "bool"),
}


def _column(name: str, values: list[Any]) -> Any:
    if name == "type":
        return pd.Categorical(values, categories=pd.Index(TYPES))
    return pd.Series(values, dtype=_FRAME[name])


def _as_text(value: float | str) -> str:
    """A number where others sent text is the text that the service makes of it."""
    return value if isinstance(value, str) else format(value, ".15g")


def _counted(found: Iterator[Stored], progress: Callable[[str], None]) -> Iterator[Stored]:
    for number, stored in enumerate(found, 1):
        yield stored
        if number % 20_000 == 0:
            progress(f"{number:,} records")


def _lines(log: DecisionLog, found: Iterator[Stored], path: Path) -> int:
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for stored in found:
            labels = log.labels(stored.record.transaction_id) if stored.label is not None else []
            line = {"record": json.loads(pack_record(stored.record)), "labels": [asdict(label) for label in labels]}
            file.write(json.dumps(line, separators=(",", ":")) + "\n")
            count += 1
    return count


def read_lines(path: Path) -> Iterator[tuple[Record, list[Label]]]:
    """What :func:`export` wrote as ``.jsonl``."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            data = json.loads(line)
            yield unpack_record(json.dumps(data["record"]).encode()), [Label(**label) for label in data["labels"]]


def _table(found: Iterator[Stored], path: Path) -> int:
    """Attributes are columns of their own, and which there are is known at the end only: so twice, over a spool."""
    texts: dict[str, bool] = {}  # attribute -> whether any of its values is text
    with TemporaryFile("w+", encoding="utf-8", dir=path.parent) as spool:
        count = 0
        for stored in found:
            row = _row(stored)
            for name, value in row["attributes"].items():
                texts[name] = texts.get(name, False) or isinstance(value, str)
            spool.write(json.dumps(row, separators=(",", ":")) + "\n")
            count += 1
        if count:
            spool.seek(0)
            _write(spool, dict(sorted(texts.items())), path)
    return count


def _write(spool: IO[str], texts: dict[str, bool], path: Path) -> None:
    own = [(f"attributes.{name}", pa.string() if text else pa.float64()) for name, text in texts.items()]
    schema = pa.schema([*_COLUMNS.items(), *own])
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        rows: list[dict[str, Any]] = []
        for line in spool:
            row = json.loads(line)
            for name, value in row.pop("attributes").items():
                row[f"attributes.{name}"] = _as_text(value) if texts[name] else value
            rows.append(row)
            if len(rows) == _ROWS:
                writer.write_table(pa.Table.from_pylist(rows, schema))
                rows.clear()
        if rows:
            writer.write_table(pa.Table.from_pylist(rows, schema))


def _row(stored: Stored) -> dict[str, Any]:
    record, label = stored
    document, answer = json.loads(record.document), json.loads(record.answer)
    event, features = document["event"], document["features"]
    known_ms = max(record.time_ms, label.received_ms if label else record.received_ms)
    return {
        "transaction_id": record.transaction_id,
        "timestamp": rfc3339(record.time_ms),
        "type": type_name(event["type_code"]),
        "customer_id": record.customer_id,
        "counterparty_id": record.counterparty_id,
        "device_id": record.device_id,
        **{column: features.get(feature) for column, feature in _MONEY.items()},
        "currency": answer["base_currency"],
        "lat": event["lat"],
        "long": event["long"],
        "is_fraud": int(label is not None and label.is_fraud),
        "label_timestamp": rfc3339(known_ms),
        "label": "none" if label is None else "fraud" if label.is_fraud else "legitimate",
        "label_source": label.source if label else None,
        "received_at": rfc3339(record.received_ms),
        "fraud_probability": record.probability,
        "outcome": record.outcome,
        "decided_by": record.decided_by,
        "model_version": record.model_version,
        "rules_version": record.rules_version,
        "sent_amount": event["amount"],
        "sent_currency": event["currency"],
        "attributes": {name: value for name, value in event["attributes"].items() if _present(value)},
    }


def _present(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and math.isnan(value))


# --- taking away -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Erased:
    """``profile``: whether there was one. ``waiting``: items of the outbox, None where it cannot be looked through (a
    queue of SQS).
    """

    records: int
    profile: bool
    waiting: int | None

    @property
    def anything(self) -> bool:
        """False: nobody knew this party, which is also what a mistyped id or a missing pseudonym key looks like."""
        return bool(self.records or self.profile or self.waiting)


def erase(party: str, log: DecisionLog, store: FeatureStore, outbox: Outbox) -> Erased:
    """Erase the party, known as the service knows it: its waiting items, its records with labels, its profile.

    In this order, so that no item writes a record again that was erased before it. Others' profiles keep a 64-bit hash
    of the party among their partners until they are made anew (``rebuild-profiles``). Raises ``StoreUnavailable``: then
    erase again.
    """
    waiting = outbox.remove(lambda kind, data: party in _parties(kind, data))
    count = log.erase(party)
    profile = party in store.read([party])
    store.erase(party)
    return Erased(count, profile, waiting)


def _parties(kind: Kind, data: bytes) -> tuple[str, ...]:
    """Whom a waiting item names. Of the others, none holds a party: a label names a transaction, a notice tells what
    was decided of it.
    """
    if kind not in {"decision", "profile"}:
        return ()
    try:
        if kind == "decision":
            return unpack_record(data).parties
        event = json.loads(data)["event"]
        return tuple(event[name] for name in ("customer_id", "counterparty_id", "device_id") if event[name])
    except (ValueError, KeyError, TypeError):
        return ()


def forget(log: DecisionLog, days: int, now_ms: int) -> int:
    """Delete the records, with their labels, that arrived more than so many days ago; how many."""
    return log.forget(now_ms - days * _DAY_MS)
