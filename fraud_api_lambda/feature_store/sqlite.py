"""Parties in one SQLite file: the default. It survives a restart, and the processes of one machine may share it.

Durability: a write-ahead log with ``synchronous=NORMAL``. Once ``swap`` has returned, the change is with the operating
system, so a process killed at any instant loses nothing; a power cut may take back the last moments (and never damages
the file). ``FULL`` would close that gap at the price of an fsync for every transaction, inside the request, for what is
a cache of the decision log.

Time: one connection behind a lock. Threads of a process wait at the lock, which wakes one the moment it is free, where
SQLite's own busy handler sleeps and tries again; that one is for other processes only. Each of the two waits may take
half the budget. Reading waits for no writer. What no program can bound is the disk itself.

The connection is made at first use, and again after the file turned out to be unusable: a disk that was full, or a
damaged file moved away, needs no restart. It must not be carried across a fork.
"""

import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from ..errors import StoreUnavailable
from ..sqlite_file import DAMAGED, code_of, path_of, use_write_ahead_log
from . import Change, FeatureStore

# expires_ms stands before the bytes, so that looking at it reads no overflow page; it has no index, since every write
# moves it: see _sweep. The rowid is stable under UPDATE and what the sweep goes by.
_SCHEMA: Final = """CREATE TABLE IF NOT EXISTS parties (
    id INTEGER PRIMARY KEY, party TEXT NOT NULL UNIQUE, version INTEGER NOT NULL, expires_ms INTEGER NOT NULL,
    data BLOB NOT NULL)"""
_INSERT: Final = """INSERT INTO parties (party, version, expires_ms, data) VALUES (:party, 1, :expires_ms, :data)
    ON CONFLICT (party) DO UPDATE SET version = 1, expires_ms = excluded.expires_ms, data = excluded.data
    WHERE expires_ms <= :now_ms"""
_UPDATE: Final = """UPDATE parties SET version = version + 1, expires_ms = :expires_ms, data = :data
    WHERE party = :party AND version = :seen_version AND expires_ms > :now_ms"""
#: Parties asked for in one statement; SQLite takes at most 32,766 parameters.
_AT_ONCE: Final = 500
#: After this many writes as many rows are looked at for expiry, so that a round takes a write a row.
_SWEEP: Final = 64
#: After these the connection is still good.
_PASSING: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL})


def open_url(url: str, budget_s: float) -> FeatureStore:
    """``sqlite:///relative/path`` or ``sqlite:////absolute/path``."""
    return SqliteFeatureStore(path_of(url, "feature store", "dynamodb://table"), budget_s)


class SqliteFeatureStore:
    """One table in one file; its folder is made when it is missing."""

    inline = True

    def __init__(self, path: Path, budget_s: float = 0.25) -> None:
        self._path = path
        self._wait_s = budget_s / 2
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._closed = False
        self._unswept = 0
        self._swept_to = 0

    def read(self, parties: Sequence[str]) -> dict[str, tuple[int, bytes]]:
        now_ms = time.time_ns() // 1_000_000
        found: dict[str, tuple[int, bytes]] = {}
        if not parties:
            return found
        with self._use() as connection:
            for start in range(0, len(parties), _AT_ONCE):
                some = parties[start : start + _AT_ONCE]
                marks = ",".join("?" * len(some))
                query = f"SELECT party, version, data FROM parties WHERE party IN ({marks}) AND expires_ms > ?"  # noqa: S608
                for party, version, data in connection.execute(query, (*some, now_ms)):
                    found[party] = (version, data)
        return found

    def swap(self, changes: Sequence[Change]) -> list[str]:
        now_ms = time.time_ns() // 1_000_000
        conflicts: list[str] = []
        if not changes:
            return conflicts
        with self._use() as connection:
            # IMMEDIATE: the right to write is taken before anything is compared.
            connection.execute("BEGIN IMMEDIATE")
            for change in changes:
                statement = _UPDATE if change.seen_version else _INSERT
                if connection.execute(statement, {**change._asdict(), "now_ms": now_ms}).rowcount != 1:
                    conflicts.append(change.party)
            self._unswept += len(changes)
            if self._unswept >= _SWEEP:
                self._sweep(connection, now_ms)
            connection.execute("COMMIT")
        return conflicts

    def erase(self, party: str) -> None:
        with self._use() as connection:
            connection.execute("DELETE FROM parties WHERE party = ?", (party,))

    def check(self) -> None:
        """The file takes writes: the row of a party that nobody can be is written, and no other looked at."""
        with self._use() as connection:
            # Not BEGIN IMMEDIATE and no more: that succeeds on a file that is read-only, and on a full disk.
            connection.execute("INSERT OR REPLACE INTO parties VALUES (0, '', 0, 0, '')")

    def allow(self, budget_s: float) -> None:
        self._wait_s = budget_s / 2

    def disconnect(self) -> None:
        with self._lock:
            self._disconnect()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._disconnect()

    @contextmanager
    def _use(self) -> Iterator[sqlite3.Connection]:
        """The connection, ours alone, with no transaction left open whatever happens."""
        if not self._lock.acquire(timeout=self._wait_s):
            raise StoreUnavailable("The feature store (sqlite) is busy in this process.")
        try:
            if self._closed:
                raise StoreUnavailable("The feature store (sqlite) is closed.")
            if self._connection is None:
                self._connection = self._connect()
            yield self._connection
        except BaseException as error:
            with suppress(sqlite3.Error):
                if self._connection is not None and self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
            if not isinstance(error, sqlite3.Error | OSError):
                raise
            code = code_of(error)
            if code not in _PASSING:
                self._disconnect()
            if code in DAMAGED:
                said = "is damaged: move the file away, with those beside it that end in -wal and -shm"
            else:
                said = f"failed: {getattr(error, 'sqlite_errorname', type(error).__name__)}"
            raise StoreUnavailable(f"The feature store (sqlite) {said}.") from None
        finally:
            self._lock.release()

    def _connect(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # isolation_level None: transactions are ours to begin. Statements are prepared once, by their text.
        connection = sqlite3.connect(self._path, timeout=self._wait_s, isolation_level=None, check_same_thread=False)
        try:
            use_write_ahead_log(connection, time.monotonic() + self._wait_s)
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute(_SCHEMA)
        except BaseException:
            connection.close()
            raise
        return connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    def _sweep(self, connection: sqlite3.Connection, now_ms: int) -> None:
        """Delete what has expired among the next few rows, going round and round through the table."""
        self._unswept = 0
        last = connection.execute("SELECT max(id) FROM parties").fetchone()[0] or 0
        start = self._swept_to if self._swept_to < last else 0
        self._swept_to = start + _SWEEP
        connection.execute(
            "DELETE FROM parties WHERE id > ? AND id <= ? AND expires_ms <= ?", (start, self._swept_to, now_ms)
        )
