"""The decision log in one SQLite file: the default. The processes of one machine may share it.

Durability: a write-ahead log with ``synchronous=FULL``. Once ``append`` has returned, the records are on the disk:
neither a process killed at any instant nor a power cut takes one back. The price is an fsync for every append, inside
the request; the profiles (``feature_store``) do without, since they can be made again from here.

Time: three connections, each behind a lock: one writes, one finds records by their ids, one lists and counts. In a
write-ahead log readers see the last commit and wait for nobody, so that a long summary holds up no decision. A wait for
the lock or for another process takes half the budget at most, and reading is broken off at its end. What no program can
bound is the disk itself.

A connection is made at first use, and again after the file turned out to be unusable or is another one: a disk that was
full, or a damaged file moved away, needs no restart. It must not be carried across a fork.
"""

import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from ..errors import StoreUnavailable
from ..sqlite_file import DAMAGED, code_of, path_of, use_write_ahead_log
from . import Day, DecisionLog, Label, Page, Record, Search, Stored, migrations, sql

#: Ids asked for in one statement; SQLite takes at most 32,766 parameters.
_AT_ONCE: Final = 500
_INSERT: Final = (
    f"INSERT INTO decisions ({', '.join(sql.COLUMNS)}) VALUES ({', '.join(f':{name}' for name in sql.COLUMNS)}) "  # noqa: S608
    "ON CONFLICT (transaction_id) DO NOTHING"
)
_INSERT_RULE: Final = "INSERT OR IGNORE INTO decision_rules (rule, received_ms, transaction_id) VALUES (?, ?, ?)"
_DELETE_RULE: Final = "DELETE FROM decision_rules WHERE rule = ? AND received_ms = ? AND transaction_id = ?"
#: Steps of SQLite's machine between two looks at the clock.
_STEPS: Final = 5_000
#: After these the connection is still good.
_PASSING: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_INTERRUPT})


def open_url(url: str, budget_s: float, retention_days: int | None) -> DecisionLog:
    """``sqlite:///relative/path`` or ``sqlite:////absolute/path``. Records do not expire by themselves: ``forget``."""
    return SqliteDecisionLog(path_of(url, "decision log", "dynamodb://table or postgresql://host/database"), budget_s)


class SqliteDecisionLog:
    """The tables of ``sql`` in one file; its folder is made when it is missing."""

    inline = True
    durable = True

    def __init__(self, path: Path, budget_s: float = 0.25) -> None:
        self._budget_s = budget_s
        self._writer = _Access(path, budget_s, writes=True)
        self._finder = _Access(path, budget_s)
        self._lister = _Access(path, budget_s)

    def append(self, records: Sequence[Record]) -> list[Record | None]:
        answers: list[Record | None] = []
        if not records:
            return answers
        with self._writer.use(writing=True) as connection:
            for record in records:
                if connection.execute(_INSERT, sql.row_of(record)).rowcount == 1:
                    connection.executemany(_INSERT_RULE, _rules(record))
                    answers.append(None)
                else:
                    row = connection.execute(f"{sql.FIND} = ?", (record.transaction_id,)).fetchone()
                    answers.append(sql.stored_of(row).record)
        return answers

    def find(self, transaction_ids: Sequence[str]) -> dict[str, Stored]:
        found: dict[str, Stored] = {}
        if not transaction_ids:
            return found
        with self._finder.use() as connection:
            for start in range(0, len(transaction_ids), _AT_ONCE):
                some = transaction_ids[start : start + _AT_ONCE]
                marks = ", ".join("?" * len(some))
                for row in connection.execute(f"{sql.FIND} IN ({marks})", some):
                    found[row[0]] = sql.stored_of(row)
        return found

    def label(self, label: Label) -> tuple[Stored, Label] | None:
        with self._writer.use(writing=True) as connection:
            find = (f"{sql.FIND} = ?", (label.transaction_id,))
            if connection.execute(*find).fetchone() is None:
                return None
            if connection.execute(sql.ADD_LABEL, sql.label_row(label)).rowcount == 1:
                name, order = sql.label_name(label), label.order
                connection.execute(sql.LET_COUNT, (name, order, label.transaction_id, order))
            stands = connection.execute(f"{sql.LABELS} AND label_key = ?", (label.transaction_id, label.key)).fetchone()
            return sql.stored_of(connection.execute(*find).fetchone()), sql.label_of(stands)

    def labels(self, transaction_id: str) -> list[Label]:
        with self._finder.use() as connection:
            return [sql.label_of(row) for row in connection.execute(sql.LABELS_BY_ARRIVAL, (transaction_id,))]

    def search(self, search: Search) -> Page:
        with self._lister.use() as connection:

            def run(statement: str, values: Sequence[Any]) -> list[Any]:
                return connection.execute(statement, values).fetchall()

            return sql.search_page(search, run, name_index=True)

    def summary(self, since_day: int, until_day: int) -> list[Day]:
        times = (since_day * sql.DAY_MS, until_day * sql.DAY_MS)
        with self._lister.use(max(self._budget_s, sql.PATIENCE_S)) as connection:
            return sql.days_of(connection.execute(sql.SUMMARY, (*times, False)))

    def erase(self, party: str) -> int:
        return sum(self._delete(f"{column} = ?", party) for column in sql.PARTY_COLUMNS)

    def forget(self, before_ms: int) -> int:
        return self._delete("received_ms < ?", before_ms)

    def check(self) -> None:
        """The file takes writes: a row that nobody reads is written, as durably as any."""
        with self._writer.use(writing=True) as connection:
            # Not BEGIN IMMEDIATE and no more: that succeeds on a file that is read-only, and on a full disk.
            connection.execute("INSERT OR REPLACE INTO probe VALUES (0, ?)", (time.time_ns() // 1_000_000,))

    def allow(self, budget_s: float) -> None:
        self._budget_s = budget_s
        for access in (self._writer, self._finder, self._lister):
            access.allow(budget_s)

    def disconnect(self) -> None:
        for access in (self._writer, self._finder, self._lister):
            access.disconnect()

    def close(self) -> None:
        for access in (self._writer, self._finder, self._lister):
            access.close()

    def _delete(self, condition: str, value: str | int) -> int:
        """A batch at a time, and let others write in between; how many."""
        statement = f"SELECT transaction_id, received_ms, rules FROM decisions WHERE {condition} LIMIT ?"  # noqa: S608
        count = 0
        while True:
            with self._writer.use(writing=True) as connection:
                rows = connection.execute(statement, (value, sql.DELETED_AT_ONCE)).fetchall()
                fired = [(rule, received_ms, id) for id, received_ms, rules in rows for rule in json.loads(rules)]
                connection.executemany(_DELETE_RULE, fired)
                for table in ("labels", "decisions"):
                    delete = f"DELETE FROM {table} WHERE transaction_id = ?"  # noqa: S608
                    connection.executemany(delete, [(id,) for id, _, _ in rows])
            count += len(rows)
            if len(rows) < sql.DELETED_AT_ONCE:
                return count
            time.sleep(0.002)  # whoever waits at the lock gets it: it goes to the first who asks, not to the longest


class _Access:
    """One connection behind a lock, which threads of this process wait at."""

    def __init__(self, path: Path, budget_s: float, *, writes: bool = False) -> None:
        self._path = path
        self.allow(budget_s)
        self._writes = writes
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._closed = False
        self._opened = 0
        self._until = 0.0

    @contextmanager
    def use(self, seconds: float | None = None, *, writing: bool = False) -> Iterator[sqlite3.Connection]:
        """The connection, ours alone; no transaction is left open whatever happens. ``seconds``: in place of budget."""
        started = time.monotonic()
        if not self._lock.acquire(timeout=self._wait_s):
            raise StoreUnavailable("The decision log (sqlite) is busy in this process.")
        try:
            if self._closed:
                raise StoreUnavailable("The decision log (sqlite) is closed.")
            if self._connection is not None and self._file() != self._opened:
                # Moved away, or another put in its place: what goes into the old one would be found by nobody.
                self._disconnect()
            if self._connection is None:
                self._connection = self._connect()
                self._opened = self._file()
                started = time.monotonic()  # its tables may have been made just now
            self._until = started + (self._budget_s if seconds is None else seconds)
            if writing:
                # IMMEDIATE: the right to write is taken before anything is compared.
                self._connection.execute("BEGIN IMMEDIATE")
            yield self._connection
            if writing:
                self._connection.execute("COMMIT")
        except BaseException as error:
            with suppress(sqlite3.Error):
                if self._connection is not None and self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
            if isinstance(error, sqlite3.ProgrammingError | sqlite3.InterfaceError):
                raise  # a value that SQLite does not take: no fault of the file's
            if not isinstance(error, sqlite3.Error | OSError):
                raise
            code = code_of(error)
            if code not in _PASSING:
                self._disconnect()
            if code in DAMAGED:
                said = "is damaged: move the file away, with those beside it that end in -wal and -shm"
            elif code == sqlite3.SQLITE_INTERRUPT:
                said = f"did not answer within {(seconds or self._budget_s) * 1000:.0f} ms"
            else:
                said = f"failed: {getattr(error, 'sqlite_errorname', type(error).__name__)}"
            raise StoreUnavailable(f"The decision log (sqlite) {said}.") from None
        finally:
            self._lock.release()

    def allow(self, budget_s: float) -> None:
        self._budget_s, self._wait_s = budget_s, budget_s / 2

    def disconnect(self) -> None:
        with self._lock:
            self._disconnect()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._disconnect()

    def _connect(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        connection = self._open(self._wait_s)
        try:
            use_write_ahead_log(connection, time.monotonic() + self._wait_s)
            if not migrations.is_current(_revision(connection), "sqlite"):
                migrations.upgrade("sqlite", "pysqlite", lambda: self._open(sql.PATIENCE_S), "BEGIN EXCLUSIVE")
            if self._writes:
                connection.execute("PRAGMA synchronous = FULL")
                # macOS: fsync alone leaves the bytes in the disk's own cache. Nothing elsewhere.
                connection.execute("PRAGMA fullfsync = ON")
                # What was erased is overwritten, and not left in pages that are free.
                connection.execute("PRAGMA secure_delete = ON")
            else:
                connection.execute("PRAGMA query_only = ON")
                connection.set_progress_handler(lambda: time.monotonic() > self._until, _STEPS)
        except BaseException:
            connection.close()
            raise
        return connection

    def _file(self) -> int:
        """Which file is there now."""
        try:
            return self._path.stat().st_ino
        except FileNotFoundError:
            return 0

    def _open(self, wait_s: float) -> sqlite3.Connection:
        # isolation_level None: transactions are ours to begin. Statements are prepared once, by their text.
        return sqlite3.connect(self._path, timeout=wait_s, isolation_level=None, check_same_thread=False)

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()


def _rules(record: Record) -> list[tuple[str, int, str]]:
    return [(rule, record.received_ms, record.transaction_id) for rule in record.rules]


def _revision(connection: sqlite3.Connection) -> str | None:
    """What Alembic has written down."""
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone() is None:
        return None
    row: tuple[Any, ...] | None = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return None if row is None else str(row[0])
