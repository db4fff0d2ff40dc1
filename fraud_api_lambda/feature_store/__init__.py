"""What the service remembers of each party: versioned bytes under the party's name, and no rule about them.

A store keeps a version number and some bytes for each party until a moment in time. It compares versions and it
compares clocks; what the bytes mean is the business of ``features``. All four answer alike, and one suite of tests
holds them to it: ``memory`` (one process, gone with it), ``sqlite`` (one machine), ``redis`` (Redis, Valkey; ``rediss``
is the same over TLS) and ``dynamodb``. A further one is one more file and one more line in the table below.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from ..settings import backend_of

#: URL scheme -> the module here that serves it, imported only when a URL chooses it.
_MODULES: Final = {
    "memory": "memory",
    "sqlite": "sqlite",
    "redis": "redis",
    "rediss": "redis",
    "dynamodb": "dynamodb",
}


class Change(NamedTuple):
    """What to write for one party, provided that nobody else has written since it was read."""

    party: str
    #: The version that was read; 0: there was none, or it had expired.
    seen_version: int
    data: bytes
    #: UTC ms from which on the party is absent again.
    expires_ms: int


class FeatureStore(Protocol):
    """Versioned bytes by party. Safe to call from many threads, and (memory excepted) from many processes.

    A party is non-empty text, at most 256 bytes of UTF-8, any characters. Every method but ``close`` raises
    :class:`~fraud_api_lambda.errors.StoreUnavailable` when the store did not answer within its budget, refused or
    broke. A ``swap`` that raised may have been written nevertheless, whole or in part: read again, and compare.
    """

    #: True: answers inside the process in microseconds. False: goes over the network, call it from a thread.
    inline: bool

    def read(self, parties: Sequence[str]) -> dict[str, tuple[int, bytes]]:
        """party -> (version, bytes) of those that exist and have not expired; one round trip for all."""
        ...

    def swap(self, changes: Sequence[Change]) -> list[str]:
        """Compare-and-set each change on its own; return the parties in conflict, none of which was written.

        A change is written where the stored version equals ``seen_version``, and the stored version becomes
        ``seen_version + 1``. One round trip for all. Of several changes to one party at most one is written.
        """
        ...

    def erase(self, party: str) -> None:
        """Forget the party, whatever its version. Nothing happens where there is none."""
        ...

    def check(self) -> None:
        """For ``/ready``: return if the store answers, else raise."""
        ...

    def allow(self, budget_s: float) -> None:
        """Every call from now on ends within about ``budget_s``; not more than the store was opened with."""
        ...

    def disconnect(self) -> None:
        """Let go of every connection; the next call makes another. Nobody may be calling meanwhile."""
        ...

    def close(self) -> None:
        """Let go of files, connections and threads; nothing may be called afterwards but ``close``."""
        ...


def open_feature_store(url: str, *, budget_ms: int = 250) -> FeatureStore:
    """The store that ``url`` names; every call of it ends within about ``budget_ms``.

    - ``memory://``
    - ``sqlite:///relative/path`` or ``sqlite:////absolute/path``
    - ``redis://[user:password@]host[:port][/database]``, ``rediss://...`` for TLS
    - ``dynamodb://table[?region=...]``

    Nothing is connected to yet: a store that is down now may answer later. Raises
    :class:`~fraud_api_lambda.errors.SettingsError`, which never shows the URL (it may hold a password).
    """
    store: FeatureStore = backend_of(url, "feature store", __name__, _MODULES).open_url(url, budget_ms / 1000)
    return store
