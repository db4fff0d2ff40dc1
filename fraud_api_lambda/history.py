"""One request's view of its parties' past: read once, changed by each of its events, written back once.

The store compares versions and knows no rule; the rule is ``profiles``. Where somebody else has written meanwhile, the
party is read again and the same updates are applied to what is there now, until the deadline. A store that does not
answer costs history, never the answer: the caller learns of it and flags it, and what could not be written is told, so
that it can be written later.
"""

import logging
import time
from collections.abc import Callable, Container, Sequence

from . import profiles
from .errors import ProfileError, StoreUnavailable
from .feature_store import Change, FeatureStore
from .features import Past
from .schemas import Event

log = logging.getLogger("fraud.history")

#: Applies one event or label to the profiles in the map, of these parties only; gives those that it changed.
Update = Callable[[dict[str, list[int]], Container[str]], list[str]]


class History:
    """The past of some parties. ``available`` turns false where the store did not answer when it was read.

    ``deadline`` is a time of ``monotonic`` after which no further attempt is begun; ``received`` is when the request
    came in, ms of UTC. ``versions`` are those of the profiles as they were read, 0 for a party never seen.
    """

    def __init__(
        self,
        store: FeatureStore,
        parties: Sequence[str],
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
        self._updates: list[Update] = []
        #: Events that :meth:`apply` was given, with when they came in.
        self.applied: list[tuple[Event, int]] = []
        self._seen: tuple[Event | None, Past | None] = (None, None)
        self._changed: dict[str, None] = {}
        self.versions: dict[str, int] = {}
        self.available = True
        if parties:
            try:
                self._read(list(dict.fromkeys(parties)))
            except StoreUnavailable:
                self.available = False
                log.warning("feature store did not answer", extra={"doing": "read"})

    def before(self, event: Event) -> Past | None:
        """The profiles as they are before ``event``; None where the store did not answer."""
        if not self.available:
            return None
        past = Past(event, self._states, self._received)
        self._seen = (event, past)
        return past

    def apply(self, event: Event, *, received: int | None = None, only: Container[str] | None = None) -> None:
        """Remember ``event``, to be written by :meth:`save`. An event that is remembered already changes nothing.

        ``received`` says when it came in, for one that may have been applied then: it is skipped where the profile
        cannot rule that out. ``only`` some of its parties.
        """
        again = received is not None
        moment = self._received if received is None else received
        wanted = _EVERYBODY if only is None else only
        self.applied.append((event, moment))
        # What was looked up to judge the event serves to remember it, once: after a conflict it is another's past.
        seen, past = self._seen
        known = past if seen is event and not again else None

        def update(states: dict[str, list[int]], parties: Container[str]) -> list[str]:
            nonlocal known
            past, known = known, None
            mine = [party for party in (past.known if past else Past.parties(event)) if party in parties]
            mine = [party for party in mine if party in wanted]
            return (past or Past(event, states, moment)).after(event, only=mine, again=again) if mine else []

        self._do(update)

    def label(self, party: str, event_day: int, key: int, known_ms: int, is_fraud: bool) -> None:
        """Remember that an event of the party was a fraud, or was none after all, to be written by :meth:`save`."""

        def update(states: dict[str, list[int]], parties: Container[str]) -> list[str]:
            if party not in parties:
                return []
            state = states.setdefault(party, profiles.blank())
            return [party] if profiles.label(state, event_day, key, known_ms, is_fraud) else []

        self._do(update)

    def save(self) -> list[str]:
        """Write what changed; gives the parties that could not be written in time, or of which that is not known."""
        pending = list(self._changed)
        if not self.available:
            return pending
        try:
            while pending:
                conflicts = self._store.swap([self._change(party) for party in pending])
                if not conflicts:
                    return []
                pending = conflicts
                if self._monotonic() >= self._deadline:
                    log.warning("profiles not updated in time", extra={"parties": len(conflicts)})
                    return pending
                pending = self._again(conflicts)
        except StoreUnavailable:
            log.warning("feature store did not answer", extra={"doing": "swap"})
        return pending

    def _do(self, update: Update) -> None:
        self._updates.append(update)
        self._changed.update(dict.fromkeys(update(self._states, _EVERYBODY)))

    def _read(self, parties: Sequence[str]) -> None:
        found = self._store.read(parties)
        for party in parties:
            version, data = found.get(party, (0, b""))
            self.versions[party] = version
            if data:
                try:
                    self._states[party] = profiles.decode(data)
                except ProfileError as error:
                    # A cache that cannot be read is begun anew; the decision log can rebuild it.
                    log.error("profile cannot be read", extra={"reason": str(error)})

    def _change(self, party: str) -> Change:
        state = self._states[party]
        # A party that only a label is known of has no arrival to count from.
        last = state[profiles.LAST_RECEIVED] if state[profiles.FIRST_SEEN] >= 0 else self._received
        return Change(party, self.versions.get(party, 0), profiles.encode(state), last + profiles.EXPIRES_MS)

    def _again(self, conflicts: Sequence[str]) -> list[str]:
        """Read the parties in conflict and apply this request's updates to them once more; those that changed."""
        for party in conflicts:
            self._states.pop(party, None)
        self._read(conflicts)
        changed: dict[str, None] = {}
        for update in self._updates:
            changed.update(dict.fromkeys(update(self._states, conflicts)))
        return list(changed)


class _Everybody:
    """A collection of all parties."""

    def __contains__(self, party: object) -> bool:
        return True


_EVERYBODY = _Everybody()
