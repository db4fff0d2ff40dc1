"""What SQLite and PostgreSQL have in common: three tables, what a row holds, which index a search goes along.

``decisions`` has a row for each record, with the label that counts beside it (``label``, ``label_order``), so that a
listing by label is an index and a summary one pass. ``decision_rules`` has a row for each rule that fired, ``labels``
one for each that was ever said. They are made by ``migrations``.

A search takes the records in the order of an index until the page is full, from where the last page ended (a keyset,
never an offset), so that it costs the same on the first page and on the thousandth, among a hundred thousand decisions
and among ten million. Where a filter allows several values of an index's leading columns, each has its own branch that
gives at most a page, and the branches are merged: a level of probability (:data:`LEVELS`), an outcome with a label.
Statements are written with ``?``; the values never stand in the text.
"""

import itertools
import json
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple, get_args

from ..errors import FieldError, InvalidRequest
from ..settings import Outcome
from . import Day, Label, LabelFilter, Page, Record, Search, Stored, latency_edge, read_cursor, write_cursor

DAY_MS: Final = 86_400_000
#: Lower edges of the levels of probability, whose number a row holds: narrow at the top, where few pass.
LEVELS: Final = (
    *(0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    *(0.95, 0.98, 0.99, 0.995, 0.998, 0.999),
)
#: Records deleted in one transaction, so that none holds up an append for long.
DELETED_AT_ONCE: Final = 200
#: What nobody waits for with money in his hand may take so long: a summary, a batch of deletions, a migration. Seconds.
PATIENCE_S: Final = 10.0

#: A record's members as the tables hold them, then what is derived for listing and counting.
_MEMBERS: Final = tuple(Record.__dataclass_fields__)
COLUMNS: Final = (*_MEMBERS, "level", "latency_edge")
_LABEL_MEMBERS: Final = ("is_fraud", "source", "time_ms", "received_ms", "note")
LABEL_COLUMNS: Final = ("transaction_id", *_LABEL_MEMBERS, "label_key", "label_order")

#: A record with the label that counts: see :func:`stored_of`.
STORED: Final = (
    f"SELECT {', '.join(f'd.{name}' for name in _MEMBERS)}, {', '.join(f'l.{name}' for name in _LABEL_MEMBERS)} "  # noqa: S608
    "FROM {source} LEFT JOIN labels l ON l.transaction_id = d.transaction_id AND l.label_order = d.label_order"
)
FIND: Final = STORED.format(source="decisions d") + " WHERE d.transaction_id"
LABELS: Final = f"SELECT transaction_id, {', '.join(_LABEL_MEMBERS)} FROM labels WHERE transaction_id = ?"  # noqa: S608
#: Several may have come in together: then by what they say, so that the list is always the same.
LABELS_BY_ARRIVAL: Final = f"{LABELS} ORDER BY received_ms, label_key"
ADD_LABEL: Final = (
    f"INSERT INTO labels ({', '.join(LABEL_COLUMNS)}) VALUES ({', '.join('?' * len(LABEL_COLUMNS))}) "  # noqa: S608
    "ON CONFLICT (transaction_id, label_key) DO NOTHING"
)
#: ``Label.order`` is the only rule, in whichever order labels arrive.
LET_COUNT: Final = (
    "UPDATE decisions SET label = ?, label_order = ? WHERE transaction_id = ? "
    "AND (label_order IS NULL OR label_order < ?)"
)
SUMMARY: Final = (
    f"SELECT received_ms / {DAY_MS}, outcome, label, degraded <> '[]', latency_edge, count(*), sum(amount_minor) "  # noqa: S608
    "FROM decisions WHERE received_ms >= ? AND received_ms < ? AND test = ? GROUP BY 1, 2, 3, 4, 5"
)
#: What an erasure looks for, each by its index.
PARTY_COLUMNS: Final = ("customer_id", "counterparty_id", "device_id")


def row_of(record: Record) -> dict[str, Any]:
    """Column -> value of ``decisions``."""
    row: dict[str, Any] = {name: getattr(record, name) for name in _MEMBERS}
    row["rules"] = json.dumps(record.rules)
    row["degraded"] = json.dumps(record.degraded)
    row["level"] = None if record.probability is None else bisect_right(LEVELS, record.probability)
    row["latency_edge"] = latency_edge(record.latency_us)
    return row


def stored_of(row: Sequence[Any]) -> Stored:
    """From a row of :data:`STORED`."""
    members: dict[str, Any] = dict(zip(_MEMBERS, row, strict=False))
    members["test"] = bool(members["test"])
    for name in ("rules", "degraded"):
        members[name] = tuple(json.loads(members[name]))
    label = row[len(_MEMBERS) :]
    return Stored(Record(**members), None if label[0] is None else label_of((members["transaction_id"], *label)))


def label_row(label: Label) -> tuple[Any, ...]:
    """The values of ``LABEL_COLUMNS``."""
    return (label.transaction_id, *(getattr(label, name) for name in _LABEL_MEMBERS), label.key, label.order)


def label_of(row: Sequence[Any]) -> Label:
    """From a row of :data:`LABELS`."""
    transaction_id, is_fraud, source, time_ms, received_ms, note = row
    return Label(transaction_id, bool(is_fraud), source, time_ms, received_ms, note)


def label_name(label: Label) -> LabelFilter:
    return "fraud" if label.is_fraud else "legitimate"


# --- search ----------------------------------------------------------------------------------------------------------


class _Way(NamedTuple):
    """An index to go along: where from, and the conditions that lead to it, one set for each branch."""

    source: str
    by: str
    branches: list[list[tuple[str, Any]]]


def search_statement(search: Search, *, name_index: bool) -> tuple[str, list[Any]]:
    """The statement that finds a page and one record more, with its values.

    ``name_index``: the statement says which index to use, as SQLite can be told and PostgreSQL cannot. Raises
    ``InvalidRequest`` where the cursor is none.
    """
    way = _way(search)
    after, direction = (">", "ASC") if search.oldest_first else ("<", "DESC")
    keys = "r" if way.source.startswith("decision_rules") else "d"
    common: list[tuple[str, list[Any]]] = []
    if search.since_ms is not None:
        common.append((f"{keys}.received_ms >= ?", [search.since_ms]))
    if search.until_ms is not None:
        common.append((f"{keys}.received_ms < ?", [search.until_ms]))
    if search.cursor is not None:
        common.append((f"({keys}.received_ms, {keys}.transaction_id) {after} (?, ?)", [*_position(search.cursor)]))
    order = f"received_ms {direction}, transaction_id {direction} LIMIT {int(search.limit) + 1}"
    source = way.source.replace("INDEX", f"INDEXED BY {way.by}" if name_index else "")
    texts: list[str] = []
    values: list[Any] = []
    for branch in way.branches:
        conditions = [*((text, [value]) for text, value in branch), *common]
        where = " AND ".join(text for text, _ in conditions) or "TRUE"
        texts.append(
            f"SELECT * FROM (SELECT {keys}.transaction_id, {keys}.received_ms FROM {source} WHERE {where} "  # noqa: S608
            f"ORDER BY {keys}.received_ms {direction}, {keys}.transaction_id {direction} "
            f"LIMIT {int(search.limit) + 1}) b{len(texts)}"
        )
        values += itertools.chain.from_iterable(each for _, each in conditions)
    found = f"(SELECT * FROM ({' UNION ALL '.join(texts)}) a ORDER BY {order}) f"  # noqa: S608
    statement = STORED.format(source=f"{found} JOIN decisions d ON d.transaction_id = f.transaction_id")
    return f"{statement} ORDER BY f.received_ms {direction}, f.transaction_id {direction}", values


def page_of(search: Search, rows: Sequence[Sequence[Any]]) -> Page:
    """What :func:`search_statement` found, without the one record more."""
    items = tuple(map(stored_of, rows[: search.limit]))
    if len(rows) <= search.limit:
        return Page(items, None)
    return Page(items, write_cursor(items[-1].record.received_ms, items[-1].record.transaction_id))


def _way(search: Search) -> _Way:
    """Along the filter that leaves least, as a rule; the others are looked at on the way."""
    outcome, label, test = search.outcome, search.label, search.test
    states = [
        (f"d.{name} = ?", value)
        for name, value in (("outcome", outcome), ("label", label), ("test", test))
        if value is not None
    ]
    rules = [] if search.rule is None else [(_HAS_RULE, search.rule)]
    parties = [
        (f"d.{name} = ?", value)
        for name in ("customer_id", "counterparty_id")
        if (value := getattr(search, name)) is not None
    ]
    likely = [] if search.min_probability is None else [("d.probability >= ?", search.min_probability)]
    if parties:
        index = "decisions_customer" if search.customer_id is not None else "decisions_counterparty"
        return _Way("decisions d INDEX", index, [[*parties, *rules, *likely, *states]])
    if search.rule is not None:
        source = "decision_rules r JOIN decisions d ON d.transaction_id = r.transaction_id"
        return _Way(source, "", [[("r.rule = ?", search.rule), *likely, *states]])
    if search.min_probability is not None:
        lowest = bisect_right(LEVELS, search.min_probability)
        levels = range(lowest, len(LEVELS) + 1)
        # Above the lowest level everything passes.
        return _Way(
            "decisions d INDEX",
            "decisions_level",
            [[("d.level = ?", level), *(likely if level == lowest else []), *states] for level in levels],
        )
    if states:
        product = itertools.product(
            get_args(Outcome) if outcome is None else [outcome],
            get_args(LabelFilter) if label is None else [label],
            [False, True] if test is None else [test],
        )
        branches = [
            [("d.outcome = ?", one), ("d.label = ?", two), ("d.test = ?", three)] for one, two, three in product
        ]
        return _Way("decisions d INDEX", "decisions_state", branches)
    return _Way("decisions d INDEX", "decisions_time", [[]])


_HAS_RULE: Final = (
    "EXISTS (SELECT 1 FROM decision_rules r WHERE r.rule = ? AND r.received_ms = d.received_ms "
    "AND r.transaction_id = d.transaction_id)"
)


def _position(cursor: str) -> tuple[int, str]:
    try:
        received_ms, transaction_id = read_cursor(cursor)
    except (ValueError, RecursionError):
        received_ms = transaction_id = None
    if type(received_ms) is not int or not 0 <= received_ms < 2**63 or type(transaction_id) is not str:
        raise InvalidRequest(
            "The cursor is not one that a page of this listing gave.",
            (FieldError("cursor", "must be what the page before gave as its cursor, or be left out"),),
        )
    return received_ms, transaction_id


# --- summary ---------------------------------------------------------------------------------------------------------


def days_of(rows: Iterable[Sequence[Any]]) -> list[Day]:
    """From the rows of :data:`SUMMARY`."""
    days: dict[int, list[Sequence[Any]]] = {}
    for row in rows:
        days.setdefault(row[0], []).append(row[1:])
    return [_day(day, days[day]) for day in sorted(days)]


def _day(day: int, rows: list[Sequence[Any]]) -> Day:
    decisions = degraded = amount_minor = declined_minor = 0
    by_outcome: dict[str, int] = {}
    labels: dict[tuple[bool, bool], int] = {}
    fraud_minor: dict[bool, int] = {}
    latency_us: dict[int, int] = {}
    for outcome, label, is_degraded, edge, count, amount in rows:
        money, flagged = int(amount), outcome != "approve"
        decisions += count
        amount_minor += money
        by_outcome[outcome] = by_outcome.get(outcome, 0) + count
        latency_us[edge] = latency_us.get(edge, 0) + count
        if is_degraded:
            degraded += count
        if outcome == "decline":
            declined_minor += money
        if label != "none":
            said = (flagged, label == "fraud")
            labels[said] = labels.get(said, 0) + count
        if label == "fraud":
            fraud_minor[flagged] = fraud_minor.get(flagged, 0) + money
    edges = tuple(sorted(latency_us.items()))
    return Day(day, decisions, by_outcome, degraded, amount_minor, declined_minor, labels, fraud_minor, edges)
