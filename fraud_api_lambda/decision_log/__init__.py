"""The decision log: the truth about every transaction that was judged, of which the profiles are but a cache.

A record is written once, before the reply, and never changed; labels are added beside it. What a label means for the
record is one rule, :attr:`Label.order`, so that every backend and every order of arrival ends in the same place. All
backends answer alike, and one suite of tests holds them to it: ``sqlite`` and ``postgresql`` (``sql``), ``dynamodb``;
``none`` keeps nothing and is for measuring. A further one is one more file and one more line in the table below.
"""

import base64
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, NamedTuple, Protocol

from ..schemas import DecidedBy, Degraded
from ..settings import Outcome, backend_of

#: URL scheme -> the module here that serves it, imported only when a URL chooses it.
_MODULES: Final = {"sqlite": "sqlite", "postgresql": "postgresql", "dynamodb": "dynamodb", "none": "none"}

#: Who says so, weakest first: a chargeback outranks an analyst, who outranks the customer's own word.
LabelSource = Literal["customer", "analyst", "chargeback"]
_RANKS: Final[dict[LabelSource, int]] = {"customer": 1, "analyst": 2, "chargeback": 3}
#: How a record is labelled, as a filter.
LabelFilter = Literal["fraud", "legitimate", "none"]
#: Records on one page at most.
MAX_PAGE: Final = 200
#: The E12 series: each about a fifth above the one before.
_EDGES: Final = (100, 120, 150, 180, 220, 270, 330, 390, 470, 560, 680, 820, 1000)


@dataclass(frozen=True, slots=True)
class Label:
    """Somebody's word on a transaction: append-only, several may stand beside one another."""

    transaction_id: str
    is_fraud: bool
    source: LabelSource
    #: When it was found out, as the sender says, ms of UTC.
    time_ms: int
    #: When it came in, ms of UTC: from then on the service knew.
    received_ms: int
    note: str = ""

    @property
    def key(self) -> str:
        """What makes a label the same label, sent again: all but when it came in and the note. 32 hex digits."""
        text = f"{self.transaction_id}\n{self.is_fraud}\n{self.source}\n{self.time_ms}"
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    @property
    def order(self) -> str:
        """The greatest in text order is the one that counts: rank of the source, then time, then arrival."""
        return f"{_RANKS[self.source]}{self.time_ms:015d}{self.received_ms:015d}{self.key}"


@dataclass(frozen=True, slots=True)
class Record:
    """One decision with all that made it. Ids are pseudonyms where ``FRAUD_PSEUDONYM_KEY`` is set.

    ``document`` is what only a reader of the whole record needs, JSON text (a float is written so that it reads back to
    the bit, null is NaN): ``event``, ``features`` by name (raw: gaps are gaps), ``members`` (margins by member),
    ``versions`` of the parties' profiles as seen.
    """

    transaction_id: str
    #: SHA-256 of the body's canonical JSON, 32 bytes: the same id with another digest is another transaction.
    digest: bytes
    #: The answer's bytes, exactly as replied.
    answer: bytes
    received_ms: int  #: when the request came in
    time_ms: int  #: when the transaction took place
    customer_id: str | None
    counterparty_id: str | None
    device_id: str | None
    amount_minor: int  #: in minor units of the base currency
    outcome: Outcome
    decided_by: DecidedBy
    probability: float | None
    rules: tuple[str, ...]
    model_version: str | None
    rules_version: str
    latency_us: int  #: from the request's arrival in the scorer to the record
    test: bool
    degraded: tuple[Degraded, ...]
    document: str = field(repr=False)

    @property
    def parties(self) -> tuple[str, ...]:
        """The transaction's parties, each once."""
        return tuple(dict.fromkeys(p for p in (self.customer_id, self.counterparty_id, self.device_id) if p))

    @property
    def event(self) -> dict[str, Any]:
        """The transaction in the service's own terms, as ``document`` keeps it."""
        event: dict[str, Any] = json.loads(self.document)["event"]
        return event


class Stored(NamedTuple):
    """A record in the log, with the label that counts (None: nobody has said anything)."""

    record: Record
    label: Label | None = None


@dataclass(frozen=True, slots=True)
class Search:
    """What to list. All that is given must hold; times are those of arrival, ms, ``[since, until)``."""

    since_ms: int | None = None
    until_ms: int | None = None
    outcome: Outcome | None = None
    label: LabelFilter | None = None
    min_probability: float | None = None
    customer_id: str | None = None
    counterparty_id: str | None = None
    rule: str | None = None
    #: None: test inputs and others alike.
    test: bool | None = None
    oldest_first: bool = False
    limit: int = 50
    cursor: str | None = None


class Page(NamedTuple):
    """``cursor`` continues the search (in ``Search.cursor``); None: there is nothing more.

    A page may hold fewer than ``limit`` records, even none, and still have a cursor.
    """

    items: tuple[Stored, ...]
    cursor: str | None


@dataclass(frozen=True, slots=True)
class Day:
    """One UTC day of arrivals, test inputs left out. Money is in minor units of the base currency."""

    day: int  #: days since 1970-01-01
    decisions: int
    #: What did not occur has no entry, here and below.
    by_outcome: dict[str, int]
    degraded: int
    amount_minor: int
    #: Of what was declined.
    declined_minor: int
    #: Labels that count, by (flagged, is_fraud): flagged is an outcome that is not approve.
    labels: dict[tuple[bool, bool], int]
    #: Money of what was labelled fraud, flagged or not: (flagged, minor units).
    fraud_minor: dict[bool, int]
    #: Decisions by latency: (upper edge in us, see :func:`latency_edge`, count), ascending.
    latency_us: tuple[tuple[int, int], ...]
    #: False: the backend stopped counting before the end of the day's records.
    complete: bool = True


class DecisionLog(Protocol):
    """Safe to call from many threads and many processes.

    Every method but ``close`` raises :class:`~fraud_api_lambda.errors.StoreUnavailable` when the log did not answer
    within its budget, refused or broke. An ``append`` that raised may have been written nevertheless: append again.
    """

    #: True: answers inside the process, in about a millisecond. False: over the network, call it from a thread.
    inline: bool
    #: True: an append waits until the records are safe, for a disk or a server. False: nothing is kept.
    durable: bool

    def append(self, records: Sequence[Record]) -> list[Record | None]:
        """Write each record whose id is not there yet, durable on return; one round trip for all.

        For each: None where it was written, else the record that stands under its id, which may be the very same.
        Of several with one id in one call the first is written.
        """
        ...

    def find(self, transaction_ids: Sequence[str]) -> dict[str, Stored]:
        """id -> what is stored, of those that exist; one round trip."""
        ...

    def label(self, label: Label) -> tuple[Stored, Label] | None:
        """Add the label, unless the same one is there; None where there is no such transaction.

        Gives the record with the label that counts from now on, and the label as it stands in the log: the first one
        with this ``key``, whatever was sent later.
        """
        ...

    def labels(self, transaction_id: str) -> list[Label]:
        """All that was ever said of the transaction, by arrival."""
        ...

    def search(self, search: Search) -> Page:
        """Newest arrivals first, or ``oldest_first``; records that arrived together are ordered by id."""
        ...

    def summary(self, since_day: int, until_day: int) -> list[Day]:
        """The days ``[since_day, until_day)`` that have any decision, ascending."""
        ...

    def erase(self, party: str) -> int:
        """Delete every record that names the party as customer, counterparty or device, with its labels; how many."""
        ...

    def forget(self, before_ms: int) -> int:
        """Delete the records that arrived before, with their labels; how many. For retention."""
        ...

    def check(self) -> None:
        """For ``/ready``: return if the log answers, else raise."""
        ...

    def allow(self, budget_s: float) -> None:
        """Every call that a request waits for ends from now on within about ``budget_s``; not more than at opening."""
        ...

    def disconnect(self) -> None:
        """Let go of every connection; the next call makes another. Nobody may be calling meanwhile."""
        ...

    def close(self) -> None:
        """Let go of files, connections and threads; nothing may be called afterwards but ``close``."""
        ...


def open_decision_log(url: str, *, budget_ms: int = 250, retention_days: int | None = None) -> DecisionLog:
    """The log that ``url`` names; every call of it that a request waits for ends within about ``budget_ms``.

    - ``sqlite:///relative/path`` or ``sqlite:////absolute/path``
    - ``postgresql://[user[:password]@]host[:port]/database[?sslmode=...]``
    - ``dynamodb://table[?region=...]``
    - ``none://`` keeps nothing

    ``retention_days`` is for backends that let records expire by themselves. Nothing is connected to yet: a log that is
    down now may answer later. Raises :class:`~fraud_api_lambda.errors.SettingsError`, which never shows the URL (it may
    hold a password).
    """
    log: DecisionLog = backend_of(url, "decision log", __name__, _MODULES).open_url(
        url, budget_ms / 1000, retention_days
    )
    return log


# --- records as bytes ------------------------------------------------------------------------------------------------


def pack_record(record: Record) -> bytes:
    """The record as JSON, for the outbox and for export."""
    members = {name: getattr(record, name) for name in Record.__dataclass_fields__}
    members["digest"] = record.digest.hex()
    members["answer"] = record.answer.decode()
    return json.dumps(members, separators=(",", ":")).encode()


def unpack_record(data: bytes) -> Record:
    """The inverse of :func:`pack_record`. Raises ``ValueError``."""
    members = json.loads(data)
    if not isinstance(members, dict) or members.keys() != Record.__dataclass_fields__.keys():
        raise ValueError("These bytes are not a decision record.")
    members["digest"] = bytes.fromhex(members["digest"])
    members["answer"] = members["answer"].encode()
    for name in ("rules", "degraded"):
        members[name] = tuple(members[name])
    return Record(**members)


def latency_edge(latency_us: int) -> int:
    """The upper edge of the bucket that a latency falls into, in us: 12 buckets a decade, from 100 us on."""
    decade = int(10 ** max(0, len(str(max(latency_us - 1, 0))) - 3))
    return next(edge * decade for edge in _EDGES if latency_us <= edge * decade)


def write_cursor(*position: int | str) -> str:
    """A page's end as text that a URL carries as it is."""
    return base64.urlsafe_b64encode(json.dumps(position, separators=(",", ":")).encode()).decode().rstrip("=")


def read_cursor(text: str) -> list[Any]:
    """What :func:`write_cursor` was given. Raises ``ValueError`` for anything else; a backend checks the members."""
    try:
        position = json.loads(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
    except RecursionError:
        raise ValueError("not a cursor") from None
    json.dumps(position, ensure_ascii=False).encode()  # half a surrogate pair, which no store takes: ValueError
    if not isinstance(position, list) or not all(type(part) in (int, str) for part in position):
        raise ValueError("not a cursor")
    return position


def walk(log: DecisionLog, search: Search) -> Iterator[Stored]:
    """All that ``search`` finds, from its cursor on, one by one over as many pages as it takes."""
    while True:
        page = log.search(search)
        yield from page.items
        if page.cursor is None:
            return
        search = replace(search, cursor=page.cursor)
