"""Circuit breakers: a store that has stopped answering is not waited for by every request.

After some failures in a row a breaker opens: calls fail at once, and what a decision needs goes the way that it would
have gone after the wait (no history, the outbox in the log's place), only without the wait. After some seconds one call
is let through to see; its success closes the breaker, its failure keeps it open as long again. Only what requests wait
for goes through it: people's searches, erasure and ``check`` ask the store itself.

Each kind of call has a breaker of its own. A locked SQLite file, a full Redis or a PostgreSQL that takes no writes
still reads, and each read that succeeds would take back what the writes have counted.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, Literal

from .decision_log import Day, DecisionLog, Label, Page, Record, Search, Stored
from .errors import StoreUnavailable
from .feature_store import Change, FeatureStore

log = logging.getLogger("fraud.breaker")

State = Literal["closed", "open", "half-open"]
#: The breakers' names.
READ: Final = "feature_store.read"
SWAP: Final = "feature_store.swap"
APPEND: Final = "decision_log.append"
FIND: Final = "decision_log.find"


class Breaker:
    """Counts a store's failures in a row. ``failures`` 0: it never opens. Safe to call from many threads."""

    def __init__(
        self, name: str, *, failures: int, seconds: float, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._name = name
        self._most = failures
        self._seconds = seconds
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._failed = 0
        self._opened: float | None = None
        self._probing = False

    @property
    def state(self) -> State:
        with self._lock:
            return "closed" if self._opened is None else "half-open" if self._probing else "open"

    def call[**P, T](self, what: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What ``what`` returns or raises; ``StoreUnavailable`` at once while the breaker is open."""
        probe = self._admit()
        try:
            found = what(*args, **kwargs)
        except StoreUnavailable:
            self._note(probe, ok=False)
            raise
        except BaseException:
            self._note(probe, ok=True)  # the store has answered, or the call is no fault of its
            raise
        self._note(probe, ok=True)
        return found

    def _admit(self) -> bool:
        """Whether the call is the one that looks whether the store is back."""
        with self._lock:
            if self._opened is None:
                return False
            if self._probing or self._monotonic() < self._opened + self._seconds:
                raise StoreUnavailable(f"The store was not asked ({self._name}): it has not answered.")
            self._probing = True
            return True

    def _note(self, probe: bool, *, ok: bool) -> None:
        with self._lock:
            was_open = self._opened is not None
            if probe:
                self._probing = False
            elif was_open:
                return  # begun before it opened: the probe alone decides
            self._failed = 0 if ok else self._failed + 1
            if ok:
                self._opened = None
            elif probe or 0 < self._most <= self._failed:
                self._opened = self._monotonic()
            is_open = self._opened is not None
        if is_open != was_open:
            level = logging.ERROR if is_open else logging.WARNING
            log.log(level, "breaker opened" if is_open else "breaker closed", extra={"call": self._name})


class GuardedFeatureStore:
    """A feature store whose reads and swaps go through breakers."""

    def __init__(self, store: FeatureStore, breaker: Callable[[str], Breaker]) -> None:
        self.inline = store.inline
        self._store = store
        self._read, self._swap = breaker(READ), breaker(SWAP)

    def read(self, parties: Sequence[str]) -> dict[str, tuple[int, bytes]]:
        return self._read.call(self._store.read, parties)

    def swap(self, changes: Sequence[Change]) -> list[str]:
        return self._swap.call(self._store.swap, changes)

    def erase(self, party: str) -> None:
        self._store.erase(party)

    def allow(self, budget_s: float) -> None:
        self._store.allow(budget_s)

    def disconnect(self) -> None:
        self._store.disconnect()

    def check(self) -> None:
        self._store.check()

    def close(self) -> None:
        self._store.close()


class GuardedDecisionLog:
    """A decision log of which what requests wait for goes through breakers."""

    def __init__(self, decisions: DecisionLog, breaker: Callable[[str], Breaker]) -> None:
        self.inline, self.durable = decisions.inline, decisions.durable
        self._log = decisions
        self._append, self._find = breaker(APPEND), breaker(FIND)

    def append(self, records: Sequence[Record]) -> list[Record | None]:
        return self._append.call(self._log.append, records)

    def find(self, transaction_ids: Sequence[str]) -> dict[str, Stored]:
        return self._find.call(self._log.find, transaction_ids)

    def label(self, label: Label) -> tuple[Stored, Label] | None:
        return self._append.call(self._log.label, label)

    def labels(self, transaction_id: str) -> list[Label]:
        return self._log.labels(transaction_id)

    def search(self, search: Search) -> Page:
        return self._log.search(search)

    def summary(self, since_day: int, until_day: int) -> list[Day]:
        return self._log.summary(since_day, until_day)

    def erase(self, party: str) -> int:
        return self._log.erase(party)

    def forget(self, before_ms: int) -> int:
        return self._log.forget(before_ms)

    def allow(self, budget_s: float) -> None:
        self._log.allow(budget_s)

    def disconnect(self) -> None:
        self._log.disconnect()

    def check(self) -> None:
        self._log.check()

    def close(self) -> None:
        self._log.close()
