"""A file of transactions as data: reading it, mapping its columns, sending it in parts, and what came back.

Nothing here judges a row: what cannot be a number is sent as the text it is, and the API says what is wrong with it, so
that there is one source of reasons.
"""

import csv
import hashlib
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from streamlit_app.answers import BatchItem
from streamlit_app.form import NUMBERS

#: Rows that one file may have; more is for ``python -m training score``.
MAX_ROWS = 100_000
#: Rows sent at once: an answer of that many with reasons stays far below what a client or a Lambda takes.
PART = 200
#: What a column can be, in the order in which it is offered. The amount alone is required.
TARGETS = (
    "amount", "currency", "type", "transaction_id", "timestamp", "step", "customer_id", "counterparty_id", "device_id",
    "oldbalanceOrg", "newbalanceOrig", "oldbalanceDest", "newbalanceDest", "lat", "long",
)  # fmt: skip
#: Other names under which columns go, compared without case, spaces and underscores.
_KNOWN_AS: Mapping[str, tuple[str, ...]] = {
    "amount": ("value", "transactionamount", "amt", "betrag", "amountusd", "txamount"),
    "currency": ("currencycode", "ccy"),
    "type": ("transactiontype", "txtype"),
    "transaction_id": ("id", "txid", "transid", "transnum", "transaction"),
    "timestamp": ("time", "date", "datetime", "txdatetime", "transdatetranstime", "createdat", "transactiontime"),
    "customer_id": ("customer", "nameorig", "account", "accountid", "ccnum", "cardid", "user", "userid", "client"),
    "counterparty_id": ("counterparty", "namedest", "merchant", "merchantid", "terminal", "terminalid", "beneficiary"),
    "device_id": ("device",),
    "oldbalanceOrg": ("oldbalanceorig", "balance", "balancebefore"),
    "newbalanceOrig": ("newbalanceorg", "balanceafter"),
    "lat": ("latitude", "merchlat"),
    "long": ("longitude", "lon", "lng", "merchlong"),
}
_NAMELESS = re.compile(r"[^a-z0-9]")


class Unreadable(Exception):
    """The file cannot be read; the message is one line that says how to mend it."""


def read_file(name: str, data: bytes) -> pd.DataFrame:
    """A CSV file (texts, as they stand) or a Parquet file (its own types). Raises :class:`Unreadable`.

    The CSV's separator is found out, its encoding is UTF-8 or, failing that, Windows-1252. Ids keep their zeros.
    """
    try:
        parquet = name.lower().endswith((".parquet", ".pq")) or data[:4] == b"PAR1"
        frame = pd.read_parquet(io.BytesIO(data)) if parquet else _read_csv(data)
    except Unreadable:
        raise
    except Exception:  # whatever a parser makes of a broken file; what it says may repeat the file
        raise Unreadable(
            "This is neither CSV nor Parquet, or it is damaged. Save it again and upload it anew."
        ) from None
    if not len(frame.columns) or not len(frame):
        raise Unreadable("There are no rows in this file. The first line names the columns, each line after it is one.")
    if len(frame) > MAX_ROWS:
        raise Unreadable(
            f"{len(frame):,} rows are more than the {MAX_ROWS:,} that are scored here. Split the file, or score it "
            "on the server: python -m training score."
        )
    frame.columns = pd.Index(_distinct([str(name) for name in frame.columns]))
    return frame.reset_index(drop=True)


def _read_csv(data: bytes) -> pd.DataFrame:
    if b"\0" in data[:4096]:
        raise Unreadable("This is no text. Save the table as CSV (UTF-8) or Parquet and upload it anew.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("cp1252", "replace")
    head = "\n".join(text.splitlines()[:20])
    try:
        separator = csv.Sniffer().sniff(head, delimiters=",;\t|").delimiter
    except csv.Error:
        separator = ","  # one column, or too little to tell
    return pd.read_csv(io.StringIO(text), sep=separator, dtype=str, keep_default_na=False, skipinitialspace=True)


def _distinct(names: Sequence[str]) -> list[str]:
    """``names`` with a number behind those already taken."""
    taken: list[str] = []
    for name in names:
        fresh, number = name.strip() or "column", 2
        while fresh in taken:
            fresh, number = f"{name.strip() or 'column'} ({number})", number + 1
        taken.append(fresh)
    return taken


def guess(columns: Sequence[str]) -> dict[str, str]:
    """Which column is what: target -> column. A name of the contract comes before one that only resembles it."""
    plain = {column: _NAMELESS.sub("", column.lower()) for column in columns}
    found: dict[str, str] = {}
    for target in TARGETS:
        wanted = (_NAMELESS.sub("", target.lower()), *_KNOWN_AS.get(target, ()))
        for name in wanted:
            column = next((c for c in columns if plain[c] == name and c not in found.values()), None)
            if column is not None:
                found[target] = column
                break
    if "timestamp" in found and "step" in found:
        del found["timestamp"]  # the contract takes one of the two, and who has steps has no clock
    return found


def request_of(
    row: Mapping[str, Any], mapping: Mapping[str, str], attributes: Sequence[str], own_id: str
) -> dict[str, Any]:
    """One row as the API takes it. What is empty is left out; ``own_id`` is for a row without a transaction_id."""
    body: dict[str, Any] = {}
    for target, column in mapping.items():
        value = _plain(row[column])
        if value is None:
            continue
        if target in NUMBERS:
            value = _number(value)
        elif target == "step":
            number = _number(value)
            value = int(number) if isinstance(number, float) and number.is_integer() else number
        else:
            value = _text(value)
        body[target] = value
    body.setdefault("transaction_id", own_id)
    extra = {name: _attribute(value) for name in attributes if (value := _plain(row[name])) is not None}
    if extra:
        body["attributes"] = extra
    return body


def fingerprint(data: bytes, mapping: Mapping[str, str], attributes: Sequence[str]) -> str:
    """Names the file, read in this way, in the ids of rows that have none: the same again is the same transactions."""
    how = repr((sorted(mapping.items()), list(attributes))).encode()
    return hashlib.blake2b(hashlib.blake2b(data).digest() + how, digest_size=6).hexdigest()


def _plain(value: Any) -> Any:
    """A cell as Python knows it; None for an empty one."""
    if value is None or value is pd.NaT or (isinstance(value, float) and math.isnan(value)):
        return None
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, str):
        return value.strip() or None
    return value


def _number(value: Any) -> Any:
    if isinstance(value, str):
        try:
            number = float(value) if "_" not in value else math.nan
        except ValueError:
            return value
        return number if math.isfinite(number) else value
    if isinstance(value, bool):
        return str(value)
    try:
        number = float(value)
    except (TypeError, ValueError):
        return str(value)
    return number if math.isfinite(number) else str(value)


def _text(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # an id that a missing value in its column has made a number with a point
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    return str(value)


def _attribute(value: Any) -> float | str:
    number = _number(value)
    return number if isinstance(number, float) else _text(value)


# --- what came back --------------------------------------------------------------------------------------------------


@dataclass
class Run:
    """One file on its way: what is sent, what has come back. ``done`` rows of ``requests`` are settled.

    ``name`` and ``mark`` are the file's, for whoever shows it.
    """

    name: str
    mark: str
    requests: list[dict[str, Any]]
    items: list[BatchItem] = field(default_factory=list)

    @property
    def done(self) -> int:
        return len(self.items)

    @property
    def finished(self) -> bool:
        return self.done == len(self.requests)

    def parts(self) -> Iterator[list[dict[str, Any]]]:
        """What is still to be sent, in parts."""
        while not self.finished:
            yield self.requests[self.done : self.done + PART]

    def take(self, items: Sequence[BatchItem]) -> None:
        self.items.extend(items)

    def scored(self) -> pd.DataFrame:
        """The decisions by row (counted from 1, as the file's rows are), in their order."""
        return pd.DataFrame(
            [
                {
                    "row": number,
                    "transaction_id": d.transaction_id,
                    "outcome": d.outcome,
                    "probability": d.fraud_probability,
                    "amount": d.amount,
                    "currency": d.currency,
                    "amount_base": d.amount_base,
                    "decided_by": d.decided_by,
                    "rules": ", ".join(d.rules),
                    "why": d.explanation,
                    "test": d.test,
                    "degraded": ", ".join(d.degraded),
                    "model_version": d.model_version or "",
                }
                for number, item in enumerate(self.items, 1)
                if (d := item.decision) is not None
            ],
            columns=[
                "row", "transaction_id", "outcome", "probability", "amount", "currency", "amount_base", "decided_by",
                "rules", "why", "test", "degraded", "model_version",
            ],
        )  # fmt: skip

    def refused(self) -> pd.DataFrame:
        """The rows that were not scored, a line for each thing that is wrong with one."""
        lines = []
        for number, item in enumerate(self.items, 1):
            if item.problem is None:
                continue
            errors = [(error.field, error.message) for error in item.problem.errors or ()]
            lines += [
                {"row": number, "field": name, "what is wrong": text}
                for name, text in errors or [("", item.problem.detail)]
            ]
        return pd.DataFrame(lines, columns=["row", "field", "what is wrong"])
