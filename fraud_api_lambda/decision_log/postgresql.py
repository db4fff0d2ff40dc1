"""The decision log in PostgreSQL, for several machines: the tables of ``sql``, behind a pool of connections.

Durability: an append is one statement, committed on return; a server or user set to ``synchronous_commit = off`` is
overruled. What survives the loss of the server's disk is the server's business (replicas, backups).

Time: every wait of a call ends with its budget, on this side, whatever the server does: a server that is frozen answers
no protocol and no ``statement_timeout``. The connection is then thrown away. On the server's side the same budget is
the ``statement_timeout``, so that nothing goes on there that nobody waits for. Connecting happens beside the calls, in
the pool's threads: a server far away costs the first calls their answer, and none of the later ones.
"""

import base64
import json
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import psycopg
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout

from ..errors import SettingsError, StoreUnavailable
from . import Day, DecisionLog, Label, Page, Record, Search, Stored, migrations, sql

_FORM: Final = (
    "A PostgreSQL decision log is written postgresql://[user[:password]@]host[:port]/database[?sslmode=...], other "
    "characters than letters and digits in user and password percent-encoded."
)
_OPTIONS: Final = frozenset({"sslmode", "sslrootcert", "sslcert", "sslkey", "channel_binding", "application_name"})
#: Connections of one process at most.
_MOST: Final = 10
#: How often a call that waits for a connection looks whether it was refused, in seconds.
_LOOK_S: Final = 0.02
#: Any number, as long as nothing else in the database locks by it.
_LOCK: Final = "SELECT pg_advisory_xact_lock(7021883354)"

# What a connection is told once. enable_seqscan: a plan made while the tables were small is kept when they have grown,
# and every statement here has its index.
_CONFIGURE: Final = """SELECT set_config('statement_timeout', %s, false),
    set_config('idle_in_transaction_session_timeout', '10000', false),
    set_config('default_transaction_isolation', 'read committed', false),
    set_config('enable_seqscan', 'off', false),
    set_config('synchronous_commit', CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on'
        ELSE current_setting('synchronous_commit') END, false)"""
_REVISION: Final = "SELECT to_regclass('alembic_version') IS NOT NULL"

_KINDS: Final = {
    **dict.fromkeys(("received_ms", "time_ms", "amount_minor", "latency_us", "level", "latency_edge"), "bigint"),
    "probability": "double precision",
    "test": "boolean",
}
_DECODED: Final = {"digest": "decode(digest, 'base64')", "answer": "decode(answer, 'base64')"}
# One statement, one round trip, whatever the number of records. Sorted: two calls that overlap wait for one another in
# one direction only. The last SELECT sees the table as it was before: what stood there already. A record that another
# session wrote meanwhile is neither written nor seen: see append.
_APPEND: Final = f"""WITH input AS MATERIALIZED (
    SELECT * FROM json_to_recordset(%s::json) AS i ({", ".join(f"{c} {_KINDS.get(c, 'text')}" for c in sql.COLUMNS)})
), written AS (
    INSERT INTO decisions ({", ".join(sql.COLUMNS)})
    SELECT {", ".join(_DECODED.get(c, c) for c in sql.COLUMNS)} FROM input ORDER BY transaction_id
    ON CONFLICT (transaction_id) DO NOTHING RETURNING transaction_id
), fired AS (
    INSERT INTO decision_rules (rule, received_ms, transaction_id)
    SELECT r.rule, received_ms, transaction_id FROM input JOIN written USING (transaction_id)
    CROSS JOIN LATERAL json_array_elements_text(rules::json) AS r (rule) ON CONFLICT DO NOTHING
)
SELECT i.transaction_id, w.transaction_id IS NOT NULL, s.*
FROM input i LEFT JOIN written w ON w.transaction_id = i.transaction_id
LEFT JOIN LATERAL ({sql.FIND} = i.transaction_id) s ON TRUE"""  # noqa: S608
_DELETE: Final = """DELETE FROM decisions WHERE transaction_id IN (
    SELECT transaction_id FROM decisions WHERE {condition} ORDER BY received_ms, transaction_id LIMIT %s FOR UPDATE
) RETURNING transaction_id, received_ms, rules"""
_DELETE_RULES: Final = """DELETE FROM decision_rules d USING json_to_recordset(%s::json)
    AS i (rule text, received_ms bigint, transaction_id text)
    WHERE d.rule = i.rule AND d.received_ms = i.received_ms AND d.transaction_id = i.transaction_id"""


def open_url(url: str, budget_s: float, retention_days: int | None) -> DecisionLog:
    """``postgresql://[user[:password]@]host[:port]/database[?sslmode=...]``; records do not expire by themselves."""
    try:
        parts = urlsplit(url)
        options = {name for name, _ in parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))}
        conninfo_to_dict(url)
        whole = bool(parts.hostname and parts.path.strip("/") and not parts.fragment and parts.port != 0)
    except (ValueError, psycopg.Error):
        whole, options = False, set()
    if not whole:
        raise SettingsError(_FORM) from None
    if not options <= _OPTIONS:
        raise SettingsError(f"A PostgreSQL decision log takes these options only: {', '.join(sorted(_OPTIONS))}.")
    return PostgresqlDecisionLog(url, budget_s)


class PostgresqlDecisionLog:
    """The tables of ``sql`` in one database, in the first schema of the user's search path."""

    inline = False
    durable = True

    def __init__(self, conninfo: str, budget_s: float = 0.25) -> None:
        # The driver's own messages hold addresses and the names of users and databases.
        logging.getLogger("psycopg").setLevel(logging.CRITICAL)
        self._conninfo = conninfo
        self._budget_s = budget_s
        self._patience_s = max(budget_s, sql.PATIENCE_S)
        self._lock = threading.Lock()
        self._opened = self._closed = self._current = False
        self._upgrade: Future[None] | None = None
        self._upgrading = ThreadPoolExecutor(1, thread_name_prefix="decision-log")
        self._refusal = ""
        self._refusals = 0
        self._pool = self._new_pool()

    def _new_pool(self) -> "ConnectionPool[_Connection]":
        return ConnectionPool(
            self._conninfo,
            connection_class=_Connection,
            kwargs={**self._parameters(), "autocommit": True, "refused": self._note_refusal},
            configure=self._configure,
            min_size=1,
            max_size=_MOST,
            open=False,
            # A connection that could not be made is given up; the next call asks for another. The pool's own growing
            # pauses between attempts would go on after the server is back.
            reconnect_timeout=0,
        )

    def append(self, records: Sequence[Record]) -> list[Record | None]:
        if not records:
            return []
        first: dict[str, Record] = {}
        for record in records:
            first.setdefault(record.transaction_id, record)
        rows = json.dumps([_input(record) for record in first.values()])
        stands: dict[str, Record] = {}
        written: set[str] = set()
        with self._use() as connection:
            for id, is_written, *row in connection.execute(_APPEND, (rows,), prepare=True).fetchall():
                if is_written:
                    written.add(id)
                elif row[0] is not None:
                    stands[id] = _stored(row).record
            unseen = [id for id in first if id not in written and id not in stands]
            if unseen:
                stands.update((id, stored.record) for id, stored in _find(connection, unseen).items())
        if len(stands) + len(written) != len(first):  # it was there, and is erased by now
            raise StoreUnavailable("The decision log (postgresql) has just deleted the record that stood there.")
        answers: list[Record | None] = []
        for record in records:
            id = record.transaction_id
            answers.append(None if id in written else stands.get(id, first[id]))
            written.discard(id)  # of several with one id, the first
        return answers

    def find(self, transaction_ids: Sequence[str]) -> dict[str, Stored]:
        if not transaction_ids:
            return {}
        with self._use() as connection:
            return _find(connection, transaction_ids)

    def label(self, label: Label) -> tuple[Stored, Label] | None:
        id = _text(label.transaction_id)
        with self._use() as connection, connection.transaction():
            # From here on the record is ours until the end: labels and erasures of it come one after the other.
            lock = "SELECT 1 FROM decisions WHERE transaction_id = %s FOR UPDATE"
            if connection.execute(lock, (id,)).fetchone() is None:
                return None
            if _run(connection, sql.ADD_LABEL, sql.label_row(label)).rowcount == 1:
                name, order = sql.label_name(label), label.order
                _run(connection, sql.LET_COUNT, (name, order, id, order))
            stands = _run(connection, f"{sql.LABELS} AND label_key = ?", (id, label.key)).fetchone()
            stored = _run(connection, f"{sql.FIND} = ?", (id,)).fetchone()
            assert stands is not None
            assert stored is not None
            return _stored(stored), _label(stands)

    def labels(self, transaction_id: str) -> list[Label]:
        with self._use() as connection:
            return list(map(_label, _run(connection, sql.LABELS_BY_ARRIVAL, (transaction_id,))))

    def search(self, search: Search) -> Page:
        with self._use() as connection:

            def run(statement: str, values: Sequence[Any]) -> list[list[Any]]:
                return [_plain(row) for row in _run(connection, statement, values, prepare=False)]

            return sql.search_page(search, run, name_index=False)

    def summary(self, since_day: int, until_day: int) -> list[Day]:
        times = (since_day * sql.DAY_MS, until_day * sql.DAY_MS)
        with self._use() as connection, self._patiently(connection):
            return sql.days_of(_run(connection, sql.SUMMARY, (*times, False)).fetchall())

    def erase(self, party: str) -> int:
        return sum(self._delete(f"{column} = %s", _text(party)) for column in sql.PARTY_COLUMNS)

    def forget(self, before_ms: int) -> int:
        return self._delete("received_ms < %s", before_ms)

    def check(self) -> None:
        """The server answers and takes writes, which a replica and a full one do not."""
        with self._use() as connection:
            row = connection.execute("SELECT current_setting('transaction_read_only')").fetchone()
        if row != ("off",):
            raise StoreUnavailable("The decision log (postgresql) takes no writes: is this a replica?")

    def allow(self, budget_s: float) -> None:
        self._budget_s = budget_s

    def disconnect(self) -> None:
        with self._lock:
            pool, self._pool, self._opened = self._pool, self._new_pool(), False
        pool.close(timeout=1)

    def close(self) -> None:
        with self._lock:
            self._closed = True
        self._pool.close(timeout=1)
        self._upgrading.shutdown(wait=False, cancel_futures=True)

    # --- connections -------------------------------------------------------------------------------------------------

    @contextmanager
    def _use(self) -> Iterator["_Connection"]:
        """A connection for one call, which ends within the budget; what goes wrong is ``StoreUnavailable``."""
        until = time.monotonic() + self._budget_s
        try:
            connection = self._take(until)
            try:
                if not self._current:
                    self._ensure_tables(connection, until)
                yield connection
            finally:
                if connection.info.transaction_status == psycopg.pq.TransactionStatus.ACTIVE:
                    connection.close()  # an answer may still come, and nobody waits for it
                self._pool.putconn(connection)
        except psycopg.DataError:  # no fault of the server's: asking again would not help
            raise ValueError("A value that PostgreSQL has no place for.") from None
        except psycopg.Error as error:
            if isinstance(error, psycopg.errors.UndefinedTable):
                self._current = False  # a database that was made anew
            raise self._unavailable(error) from None

    def _take(self, until: float) -> "_Connection":
        with self._lock:
            if self._closed:
                raise StoreUnavailable("The decision log (postgresql) is closed.")
            if not self._opened:
                self._pool.open()
                self._opened = True
        while True:
            connection = self._connected(until)
            connection.until = until
            if connection.is_quiet():
                if connection.told_s != self._budget_s:
                    self._configure(connection)
                return connection
            # The server has closed it: it was restarted. The pool makes another in its place.
            connection.close()
            self._pool.putconn(connection)

    def _connected(self, until: float) -> "_Connection":
        """A connection of the pool, old or new. Whoever waits for one that is refused meanwhile waits no longer."""
        refusals = self._refusals
        while True:
            try:
                return self._pool.getconn(timeout=max(0.0, min(_LOOK_S, until - time.monotonic())))
            except PoolTimeout:
                if self._refusals != refusals or time.monotonic() >= until:
                    raise

    @contextmanager
    def _patiently(self, connection: "_Connection") -> Iterator[None]:
        """A transaction that may take as long as nobody's payment waits for it; one that begins within the budget."""
        with connection.transaction():
            connection.execute("SELECT set_config('statement_timeout', %s, true)", (_ms(self._patience_s),))
            connection.until = time.monotonic() + self._patience_s
            yield

    def _configure(self, connection: "_Connection") -> None:
        budget_s = self._budget_s
        connection.execute(_CONFIGURE, (_ms(budget_s),))
        connection.told_s = budget_s

    def _parameters(self) -> dict[str, Any]:
        return {
            "connect_timeout": self._connect_s,
            "client_encoding": "utf8",
            # A peer that has vanished is noticed by idle connections too.
            "keepalives_idle": 30,
            "keepalives_interval": 10,
            "keepalives_count": 3,
            "tcp_user_timeout": int(max(1.0, self._budget_s) * 2000),
        }

    @property
    def _connect_s(self) -> int:
        """The driver takes whole seconds, two at least."""
        return max(2, math.ceil(self._budget_s))

    def _note_refusal(self, error: psycopg.Error | None) -> None:
        """What the last attempt to connect met with: ``getconn`` itself only knows that there was no connection."""
        text = str(error).lower()
        if error is None or isinstance(error, psycopg.errors.ConnectionTimeout):
            self._refusal = ""
            return
        self._refusals += 1
        if "connection refused" in text:
            self._refusal = "refused the connection (does it run, and on this port?)"
        elif "resolve" in text or "name or service not known" in text or "no address associated" in text:
            self._refusal = "has a host name that leads nowhere"
        elif "password" in text or "authentication" in text:
            self._refusal = "refused the user name or the password"
        elif "does not exist" in text:
            self._refusal = "has no such database or user"
        elif "ssl" in text or "certificate" in text:
            self._refusal = "cannot be trusted, or asks for TLS: see sslmode"
        elif "starting up" in text or "shutting down" in text or "recovery" in text:
            self._refusal = "is starting or stopping"
        else:
            self._refusal = f"cannot be connected to: {type(error).__name__}"

    def _unavailable(self, error: psycopg.Error) -> StoreUnavailable:
        if isinstance(error, PoolClosed):
            said = "is closed"
        elif isinstance(error, PoolTimeout) and self._refusal:
            said = self._refusal
        elif isinstance(error, PoolTimeout | psycopg.errors._WaitTimeout | psycopg.errors.QueryCanceled):
            said = f"did not answer within {self._budget_s * 1000:.0f} ms"
        else:
            said = f"failed: {type(error).__name__}"
        return StoreUnavailable(f"The decision log (postgresql) {said}.")

    # --- tables ------------------------------------------------------------------------------------------------------

    def _ensure_tables(self, connection: "_Connection", until: float) -> None:
        """Asked once a process. Making them takes longer than a call may: it goes on beside the calls."""
        revision = None
        if connection.execute(_REVISION).fetchone() == (True,):
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
            revision = None if row is None else str(row[0])
        if migrations.is_current(revision, "postgresql"):
            self._current = True
            return
        with self._lock:
            if self._upgrade is None or self._upgrade.done():
                if self._closed:
                    raise StoreUnavailable("The decision log (postgresql) is closed.")
                self._upgrade = self._upgrading.submit(self._make_tables)
            upgrade = self._upgrade
        try:
            upgrade.result(timeout=max(0.0, until - time.monotonic()))
        except FutureTimeout:
            raise StoreUnavailable("The decision log (postgresql) is being given its tables: try again.") from None
        self._current = True

    def _make_tables(self) -> None:
        def connect() -> psycopg.Connection:
            connection = psycopg.connect(self._conninfo, **self._parameters())
            connection.execute(f"SET statement_timeout = {_ms(6 * self._patience_s)}".encode())
            connection.commit()
            return connection

        migrations.upgrade("postgresql", "psycopg", connect, _LOCK)

    def _delete(self, condition: str, value: str | int) -> int:
        count = 0
        while True:
            with self._use() as connection, self._patiently(connection):
                delete = _DELETE.format(condition=condition)
                rows = connection.execute(delete.encode(), (value, sql.DELETED_AT_ONCE)).fetchall()
                # A statement of its own: it sees labels that were given while the first one waited for the record.
                ids = [id for id, _, _ in rows]
                connection.execute("DELETE FROM labels WHERE transaction_id = ANY(%s)", (ids,))
                fired = [
                    {"rule": rule, "received_ms": received_ms, "transaction_id": id}
                    for id, received_ms, rules in rows
                    for rule in json.loads(rules)
                ]
                connection.execute(_DELETE_RULES.encode(), (json.dumps(fired),))
            count += len(rows)
            if len(rows) < sql.DELETED_AT_ONCE:
                return count


class _Connection(psycopg.Connection[tuple[Any, ...]]):
    """A connection whose every wait ends at ``until`` (monotonic seconds), however many waits an answer takes."""

    until = math.inf
    #: The budget that the server was told.
    told_s = math.nan

    @classmethod
    def connect(  # type: ignore[override]
        cls, conninfo: str, *, refused: Callable[[psycopg.Error | None], None], connect_timeout: int, **parameters: Any
    ) -> "_Connection":
        try:
            connection = super().connect(conninfo, connect_timeout=connect_timeout, **parameters)
        except psycopg.Error as error:
            refused(error)
            raise
        refused(None)
        connection.until = time.monotonic() + connect_timeout  # to be configured
        return connection

    def wait[T](self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        left = self.until - time.monotonic()
        return super().wait(gen, interval, left if timeout is None else min(left, timeout))

    def is_quiet(self) -> bool:
        """Whether an idle connection is good, so far as this side knows."""
        try:
            # A server that ends says so, then closes: the first reads what it said, the second that it has closed.
            self.pgconn.consume_input()
            self.pgconn.consume_input()
        except psycopg.Error:
            return False
        return self.pgconn.status == psycopg.pq.ConnStatus.OK


# --- values ----------------------------------------------------------------------------------------------------------


def _run(
    connection: _Connection, statement: str, values: Sequence[Any], *, prepare: bool | None = None
) -> "psycopg.Cursor[tuple[Any, ...]]":
    """A statement of ``sql``."""
    marked = statement.replace("%", "%%").replace("?", "%s").encode()
    return connection.execute(
        marked, [_text(value) if type(value) is str else value for value in values], prepare=prepare
    )


def _find(connection: _Connection, transaction_ids: Sequence[str]) -> dict[str, Stored]:
    rows = connection.execute(f"{sql.FIND} = ANY(%s)".encode(), ([_text(id) for id in transaction_ids],))
    return {row[0]: _stored(row) for row in rows}


def _input(record: Record) -> dict[str, Any]:
    row = sql.row_of(record)
    for name in ("digest", "answer"):
        row[name] = base64.b64encode(row[name]).decode()
    return {name: _text(value) if type(value) is str else value for name, value in row.items()}


def _stored(row: Sequence[Any]) -> Stored:
    return sql.stored_of(_plain(row))


def _label(row: Sequence[Any]) -> Label:
    return sql.label_of(_plain(row))


def _plain(row: Sequence[Any]) -> list[Any]:
    return [_untext(value) if type(value) is str else value for value in row]


def _text(value: str) -> str:
    """PostgreSQL's text has no place for U+0000, which an id of a party or a note may hold: U+0001 is the escape."""
    return value.replace("\1", "\1\1").replace("\0", "\1\2") if "\0" in value or "\1" in value else value


def _untext(value: str) -> str:
    if "\1" not in value:
        return value
    return "\1".join(part.replace("\1\2", "\0") for part in value.split("\1\1"))


def _ms(seconds: float) -> str:
    return str(max(1, round(seconds * 1000)))
