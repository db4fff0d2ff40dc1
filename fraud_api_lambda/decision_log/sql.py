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
from collections.abc import Callable, Iterable, Sequence
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
#: Records of a range that are looked at one by one for a page.
ASKED: Final = 2_000
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


_Condition = tuple[str, Any]


class _Branch(NamedTuple):
    """A range of an index in the order of arrival, and what each record in it is then asked."""

    lead: list[_Condition]
    rest: list[_Condition]


class _Way(NamedTuple):
    """Which table a search goes along, as ``keys``, and by which index of it; ``rest`` needs ``join``."""

    table: str
    keys: str
    by: str
    branches: list[_Branch]
    join: str = ""
    #: Records of a branch that are asked for one page.
    asked: int = 0


def search_page(search: Search, run: Callable[[str, list[Any]], Sequence[Sequence[Any]]], *, name_index: bool) -> Page:
    """A page, by one or two statements that ``run`` gives the rows of.

    ``name_index``: statements say which index to use, as SQLite can be told and PostgreSQL cannot. Raises
    ``InvalidRequest`` where the cursor is none.
    """
    way = _way(search)
    after, before, direction = (">", "<", "ASC") if search.oldest_first else ("<", ">", "DESC")
    position = f"({way.keys}.received_ms, {way.keys}.transaction_id)"
    order = f"ORDER BY {way.keys}.received_ms {direction}, {way.keys}.transaction_id {direction}"
    table = f"{way.table} INDEXED BY {way.by}" if name_index and way.by else way.table
    span: list[tuple[str, tuple[Any, ...]]] = []
    if search.since_ms is not None:
        span.append((f"{way.keys}.received_ms >= ?", (search.since_ms,)))
    if search.until_ms is not None:
        span.append((f"{way.keys}.received_ms < ?", (search.until_ms,)))
    if search.cursor is not None:
        span.append((f"{position} {after} (?, ?)", _position(search.cursor)))

    def union(columns: str, branches: Iterable[tuple[str, list[_Condition]]], limit: str) -> tuple[str, list[Any]]:
        """The first of each branch, together."""
        texts: list[str] = []
        values: list[Any] = []
        for source, conditions in branches:
            where = " AND ".join(text for text, _ in (*conditions, *span)) or "TRUE"
            branch = f"SELECT {columns} FROM {source} WHERE {where} {order} {limit}"  # noqa: S608
            texts.append(f"SELECT * FROM ({branch}) b{len(texts)}")  # noqa: S608
            values += (value for _, value in conditions)
            values += itertools.chain.from_iterable(each for _, each in span)
        return " UNION ALL ".join(texts), values

    columns = f"{way.keys}.received_ms, {way.keys}.transaction_id"
    # Where records are asked one by one, a page ends with the last that may be asked, full or not.
    stop: tuple[int, str] | None = None
    asking = [(table, branch.lead) for branch in way.branches if branch.rest]
    if asking:
        stops = run(*union(columns, asking, f"LIMIT 1 OFFSET {way.asked - 1}"))
        stop = (min if search.oldest_first else max)(((row[0], row[1]) for row in stops), default=None)
    if stop is not None:
        span.append((f"{position} {before}= (?, ?)", stop))
    sources = [(f"{table} {way.join if one.rest else ''}", [*one.lead, *one.rest]) for one in way.branches]
    limit = f"LIMIT {int(search.limit) + 1}"
    found, values = union(columns, sources, limit)
    found = f"(SELECT * FROM ({found}) a ORDER BY received_ms {direction}, transaction_id {direction} {limit}) f"  # noqa: S608
    statement = STORED.format(source=f"{found} JOIN decisions d ON d.transaction_id = f.transaction_id")
    rows = run(f"{statement} ORDER BY f.received_ms {direction}, f.transaction_id {direction}", values)
    items = tuple(map(stored_of, rows[: search.limit]))
    if len(rows) > search.limit:
        stop = (items[-1].record.received_ms, items[-1].record.transaction_id)
    return Page(items, None if stop is None else write_cursor(*stop))


def _way(search: Search) -> _Way:
    """Along the filter that leaves least, as a rule; the others are asked of each record on the way."""
    outcome, label, test = search.outcome, search.label, search.test
    given = (("outcome", outcome), ("label", label), ("test", test))
    states = [(f"d.{name} = ?", value) for name, value in given if value is not None]
    likely = [] if search.min_probability is None else [("d.probability >= ?", search.min_probability)]
    fired = [] if search.rule is None else [(_HAS_RULE, search.rule)]
    if search.customer_id is not None or search.counterparty_id is not None:
        ids = (("customer_id", search.customer_id), ("counterparty_id", search.counterparty_id))
        first, *other = [(f"d.{name} = ?", value) for name, value in ids if value is not None]
        index = "decisions_counterparty" if search.customer_id is None else "decisions_customer"
        branch = _Branch([first], [*other, *fired, *likely, *states])
        return _Way("decisions d", "d", index, [branch], asked=ASKED)
    if search.rule is not None:
        branch = _Branch([("r.rule = ?", search.rule)], [*likely, *states])
        join = "JOIN decisions d ON d.transaction_id = r.transaction_id"
        return _Way("decision_rules r", "r", "", [branch], join, ASKED)
    if search.min_probability is not None:
        lowest = bisect_right(LEVELS, search.min_probability)
        # Above the lowest level everything passes.
        levels = [
            _Branch([("d.level = ?", level)], [*(likely if level == lowest else []), *states])
            for level in range(lowest, len(LEVELS) + 1)
        ]
        return _Way("decisions d", "d", "decisions_level", levels, asked=ASKED)
    if states:
        product = itertools.product(
            get_args(Outcome) if outcome is None else [outcome],
            get_args(LabelFilter) if label is None else [label],
            [False, True] if test is None else [test],
        )
        branches = [
            _Branch([("d.outcome = ?", one), ("d.label = ?", two), ("d.test = ?", three)], [])
            for one, two, three in product
        ]
        return _Way("decisions d", "d", "decisions_state", branches)
    return _Way("decisions d", "d", "decisions_time", [_Branch([], [])])


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
