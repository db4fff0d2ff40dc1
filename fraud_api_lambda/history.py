"""One request's view of its parties' past: read once, changed by each of its events, written back once.

The store compares versions and knows no rule; the rule is ``profiles``. Where somebody else has written meanwhile, the
party is read again and the same events are applied to what is there now, until the deadline. A store that does not
answer costs history, never the answer: the caller learns of it and flags it.
"""

import logging
import time
from collections.abc import Callable, Sequence

from . import profiles
from .errors import ProfileError, StoreUnavailable
from .feature_store import Change, FeatureStore
from .features import Past
from .schemas import Event

log = logging.getLogger("fraud.history")


class History:
    """The past of all parties of some events. ``available`` turns false once the store has failed.

    ``deadline`` is a time of ``monotonic`` after which no further attempt is begun; ``received`` is when the request
    came in, ms of UTC.
    """

    def __init__(
        self,
        store: FeatureStore,
        events: Sequence[Event],
        *,
        received: int,
        deadline: float,
        monotonic: Callable[[], float] = time.monotonic,
    ):
        self._store = store
        self._received = received
        self._deadline = deadline
        self._monotonic = monotonic
        self._states: dict[str, list[int]] = {}
        self._versions: dict[str, int] = {}
        self._applied: list[Event] = []
        self._changed: dict[str, None] = {}
        self.available = True
        parties = dict.fromkeys(party for event in events for party in Past.parties(event))
        if parties:
            try:
                self._read(list(parties))
            except StoreUnavailable:
                self.available = False
                log.warning("feature store did not answer", extra={"doing": "read"})

    def before(self, event: Event) -> Past | None:
        """The profiles as they are before ``event``; None where the store did not answer."""
        return Past(event, self._states, self._received) if self.available else None

    def apply(self, event: Event, past: Past | None) -> None:
        """Remember ``event``, to be written by :meth:`save`. An event that is remembered already changes nothing."""
        if past is not None:
            self._applied.append(event)
            self._changed.update(dict.fromkeys(past.after(event)))

    def save(self) -> None:
        """Write what changed. ``available`` is false afterwards where something could not be written in time."""
        if not self.available:
            return
        pending = list(self._changed)
        try:
            while pending:
                conflicts = self._store.swap([self._change(party) for party in pending])
                if not conflicts:
                    return
                if self._monotonic() >= self._deadline:
                    self.available = False
                    log.warning("profiles not updated in time", extra={"parties": len(conflicts)})
                    return
                pending = self._again(conflicts)
        except StoreUnavailable:
            self.available = False
            log.warning("feature store did not answer", extra={"doing": "swap"})

    def _read(self, parties: Sequence[str]) -> None:
        found = self._store.read(parties)
        for party in parties:
            version, data = found.get(party, (0, b""))
            self._versions[party] = version
            if data:
                try:
                    self._states[party] = profiles.decode(data)
                except ProfileError as error:
                    # A cache that cannot be read is begun anew; the decision log can rebuild it.
                    log.error("profile cannot be read", extra={"reason": str(error)})

    def _change(self, party: str) -> Change:
        state = self._states[party]
        expires = state[profiles.LAST_RECEIVED] + profiles.EXPIRES_MS
        return Change(party, self._versions[party], profiles.encode(state), expires)

    def _again(self, conflicts: Sequence[str]) -> list[str]:
        """Read the parties in conflict and apply this request's events to them once more; those that changed."""
        for party in conflicts:
            self._states.pop(party, None)
        self._read(conflicts)
        changed: dict[str, None] = {}
        for event in self._applied:
            mine = [party for party in Past.parties(event) if party in conflicts]
            if mine:
                changed.update(dict.fromkeys(Past(event, self._states, self._received).after(event, only=mine)))
        return list(changed)
