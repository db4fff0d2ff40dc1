"""Parties in a dictionary: for tests, benchmarks and a first look. One process, and gone with it.

Bounded: past ``limit`` parties the one used longest ago is forgotten, which reads as if it had expired. 100,000 parties
of some 400 bytes are about 60 MB.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from ..errors import SettingsError, StoreUnavailable
from . import Change, FeatureStore

LIMIT: Final = 100_000


def open_url(url: str, budget_s: float) -> FeatureStore:
    """``memory://``, without anything behind it."""
    if url != "memory://":
        raise SettingsError("A memory feature store is written memory:// and nothing more.")
    return MemoryFeatureStore()


class MemoryFeatureStore:
    """A dictionary and a lock, which is never held for longer than it takes to walk through one call's parties."""

    inline = True

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        #: party -> (version, bytes, expires_ms), the one used longest ago first.
        self._parties: OrderedDict[str, tuple[int, bytes, int]] = OrderedDict()
        self._closed = False

    def read(self, parties: Sequence[str]) -> dict[str, tuple[int, bytes]]:
        now_ms = time.time_ns() // 1_000_000
        found: dict[str, tuple[int, bytes]] = {}
        with self._lock:
            self.check()
            for party in parties:
                if (stored := self._alive(party, now_ms)) is not None:
                    found[party] = stored[:2]
                    self._parties.move_to_end(party)
        return found

    def swap(self, changes: Sequence[Change]) -> list[str]:
        now_ms = time.time_ns() // 1_000_000
        conflicts: list[str] = []
        with self._lock:
            self.check()
            for party, seen_version, data, expires_ms in changes:
                stored = self._alive(party, now_ms)
                if seen_version != (stored[0] if stored else 0):
                    conflicts.append(party)
                    continue
                self._parties[party] = (seen_version + 1, data, expires_ms)
                self._parties.move_to_end(party)
                if len(self._parties) > self._limit:
                    self._parties.popitem(last=False)
        return conflicts

    def erase(self, party: str) -> None:
        with self._lock:
            self.check()
            self._parties.pop(party, None)

    def check(self) -> None:
        if self._closed:
            raise StoreUnavailable("The feature store (memory) is closed.")

    def allow(self, budget_s: float) -> None:
        pass

    def disconnect(self) -> None:
        pass

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._parties.clear()

    def _alive(self, party: str, now_ms: int) -> tuple[int, bytes, int] | None:
        stored = self._parties.get(party)
        if stored is not None and stored[2] <= now_ms:
            del self._parties[party]
            return None
        return stored
