"""Profiles made once more from the decision log, of which they are a cache: every event and label in its order.

The log is read oldest first, and what the service did then is done again, by the very same functions, to profiles in a
small database of its own (``work``); labels wait there until their time comes. Each page is one transaction with the
place in the log, so that a rebuild that was killed goes on where it was, and memory holds one page. At the end the
profiles are written into the store: each in place of the party's old one, whatever that was.

Equal to the byte to what the service wrote, for parties whose requests did not overlap in time (nor begin in the same
millisecond). What the log has
forgotten (retention, erasure) cannot come back; parties that the log does not know are left in the store as they are.
Run it into a fresh store, or while nobody writes: what comes in after the last page is not in the profiles.
"""

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from fraud_api_lambda import profiles
from fraud_api_lambda.decision_log import DecisionLog, Label, Record, Search, Stored
from fraud_api_lambda.errors import SettingsError, StoreUnavailable
from fraud_api_lambda.feature_store import Change, FeatureStore
from fraud_api_lambda.features import Past
from fraud_api_lambda.schemas import now_ms, unpack_event

#: Records of a page, and parties written to the store at once.
PAGE: Final = 200
_AT_ONCE: Final = 50
#: Somebody writes while we do: so often a party is tried.
_TRIES: Final = 5

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS parties (party TEXT PRIMARY KEY, data BLOB NOT NULL, expires_ms INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS labels (
    received_ms INTEGER NOT NULL, key TEXT NOT NULL, event_ms INTEGER NOT NULL, party TEXT NOT NULL,
    label TEXT NOT NULL, PRIMARY KEY (received_ms, key));
CREATE TABLE IF NOT EXISTS counting (transaction_id TEXT PRIMARY KEY, label TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT);
"""


@dataclass(frozen=True)
class Rebuilt:
    records: int
    labels: int
    parties: int


def rebuild(
    log: DecisionLog,
    store: FeatureStore,
    work: Path,
    *,
    progress: Callable[[str], None] = lambda step: None,
    clock: Callable[[], int] = now_ms,
) -> Rebuilt:
    """Make all profiles anew in ``work`` and write them into ``store``; ``work`` is removed at the end.

    Raises ``StoreUnavailable``: then the next run goes on. ``SettingsError`` where ``work`` is another's.
    """
    with _opened(work) as scratch:
        rebuilding = _Rebuilding(scratch)
        rebuilding.read(log, progress)
        parties = rebuilding.write(store, clock(), progress)
        done = Rebuilt(rebuilding.records, rebuilding.labels, parties)
    for path in (work, *(work.with_name(work.name + end) for end in ("-wal", "-shm"))):
        path.unlink(missing_ok=True)
    return done


def _first_of_last(items: Sequence[Stored]) -> int:
    """Where the last that came in together begin."""
    last = items[-1].record.received_ms if items else 0
    return next((place for place, stored in enumerate(items) if stored.record.received_ms == last), 0)


@contextmanager
def _opened(work: Path) -> Iterator[sqlite3.Connection]:
    work.parent.mkdir(parents=True, exist_ok=True)
    scratch = sqlite3.connect(work, timeout=0, isolation_level=None)
    try:
        scratch.execute("PRAGMA journal_mode = WAL")
        scratch.execute("PRAGMA locking_mode = EXCLUSIVE")
        scratch.executescript(_SCHEMA)
        scratch.execute("BEGIN IMMEDIATE")
        scratch.execute("COMMIT")
        yield scratch
    except sqlite3.Error as error:
        raise SettingsError(
            f"{work} cannot be worked in ({error.sqlite_errorname}). Is another rebuild at it? Choose another --work."
        ) from None
    finally:
        scratch.close()


class _Rebuilding:
    def __init__(self, scratch: sqlite3.Connection):
        self._scratch = scratch
        self._states: dict[str, list[int]] = {}
        self._expires: dict[str, int] = {}
        self.records = int(self._fact("records") or 0)
        self.labels = int(self._fact("labels") or 0)

    # --- the log into the scratch ------------------------------------------------------------------------------------

    def read(self, log: DecisionLog, progress: Callable[[str], None]) -> None:
        if self._fact("read"):
            return
        since = self._fact("since")
        if (last := self._fact("last")) is not None and last not in log.find([last]):
            raise SettingsError("The work file belongs to another log, or its last record is gone. Remove it.")
        held: list[Stored] = []
        cursor = None
        while True:
            page = log.search(
                Search(since_ms=None if since is None else int(since), oldest_first=True, limit=PAGE, cursor=cursor)
            )
            held += page.items
            # The items of one request came in together, and may go on on the next page.
            cut = len(held) if page.cursor is None else _first_of_last(held)
            self._take_all(log, held[:cut], last=page.cursor is None)
            held, cursor = held[cut:], page.cursor
            if cursor is None:
                return
            if self.records % 20_000 < PAGE:
                progress(f"{self.records:,} records read")

    def _take_all(self, log: DecisionLog, ready: Sequence[Stored], *, last: bool) -> None:
        """One transaction: what the service did with these, and how far that is."""
        # Labels come after what they are about, so that none is missed by taking them with their records.
        told = {
            stored.record.transaction_id: log.labels(stored.record.transaction_id)
            for stored in ready
            if stored.label is not None
        }
        self._scratch.execute("BEGIN")
        self._load([party for stored in ready for party in stored.record.parties])
        # The items of one request are timed from its beginning, and so tell their order.
        for record in sorted((stored.record for stored in ready), key=lambda r: (r.received_ms, r.latency_us)):
            self._label_until(record.received_ms)
            self._take(record, told.get(record.transaction_id, []))
        if last:
            self._label_until(None)
            self._note("read", "yes")
        self._keep()
        self.records += len(ready)
        if ready:
            self._note("since", str(ready[-1].record.received_ms + 1))
            self._note("last", ready[-1].record.transaction_id)
        self._note("records", str(self.records))
        self._note("labels", str(self.labels))
        self._scratch.execute("COMMIT")

    def _take(self, record: Record, labels: Iterable[Label]) -> None:
        """What the service did with this transaction, and what is to be done with its labels when they come."""
        if record.test:
            return
        event = unpack_event(record.event)
        self._let_expire(record.parties, record.received_ms)
        for party in Past(event, self._states, record.received_ms).after(event):
            self._expires[party] = self._states[party][profiles.LAST_RECEIVED] + profiles.EXPIRES_MS
        if record.counterparty_id is not None:
            self._scratch.executemany(
                "INSERT OR IGNORE INTO labels VALUES (?, ?, ?, ?, ?)",
                [
                    (label.received_ms, label.key, record.time_ms, record.counterparty_id, json.dumps(asdict(label)))
                    for label in labels
                ],
            )

    def _label_until(self, received_ms: int | None) -> None:
        """Apply the labels that came in before; None: all of them."""
        while True:
            found = self._scratch.execute(
                "SELECT received_ms, key, event_ms, party, label FROM labels "
                "WHERE received_ms < ? ORDER BY received_ms, key LIMIT 1",
                (2**62 if received_ms is None else received_ms,),
            ).fetchone()
            if found is None:
                return
            arrived_ms, key, event_ms, party, text = found
            self._scratch.execute("DELETE FROM labels WHERE received_ms = ? AND key = ?", (arrived_ms, key))
            self.labels += 1
            label = self._counting(Label(**json.loads(text)))
            self._load([party])
            self._let_expire([party], arrived_ms)
            state = self._states.setdefault(party, profiles.blank())
            day, key64 = event_ms // profiles.DAY_MS, profiles.id64(label.transaction_id)
            if profiles.label(state, day, key64, label.received_ms, label.is_fraud):
                last = state[profiles.LAST_RECEIVED] if state[profiles.FIRST_SEEN] >= 0 else arrived_ms
                self._expires[party] = last + profiles.EXPIRES_MS

    def _counting(self, label: Label) -> Label:
        """The label that counts for the transaction, now that this one has come in."""
        found = self._scratch.execute(
            "SELECT label FROM counting WHERE transaction_id = ?", (label.transaction_id,)
        ).fetchone()
        before = None if found is None else Label(**json.loads(found[0]))
        if before is not None and before.order > label.order:
            return before
        self._scratch.execute(
            "INSERT OR REPLACE INTO counting VALUES (?, ?)", (label.transaction_id, json.dumps(asdict(label)))
        )
        return label

    def _load(self, parties: Iterable[str]) -> None:
        for party in parties:
            if party not in self._states:
                found = self._scratch.execute(
                    "SELECT data, expires_ms FROM parties WHERE party = ?", (party,)
                ).fetchone()
                if found is not None:
                    self._states[party], self._expires[party] = profiles.decode(found[0]), found[1]

    def _let_expire(self, parties: Iterable[str], at_ms: int) -> None:
        """A profile that the store had let go of by then is begun anew."""
        for party in parties:
            if self._expires.get(party, at_ms + 1) <= at_ms:
                del self._states[party], self._expires[party]

    def _keep(self) -> None:
        """Write the profiles at hand, and forget them here."""
        self._scratch.executemany(
            "INSERT OR REPLACE INTO parties VALUES (?, ?, ?)",
            [(party, profiles.encode(self._states[party]), expires) for party, expires in self._expires.items()],
        )
        self._states.clear()
        self._expires.clear()

    def _fact(self, name: str) -> str | None:
        found = self._scratch.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if found is None else found[0]

    def _note(self, name: str, value: str | None) -> None:
        self._scratch.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    # --- the scratch into the store ----------------------------------------------------------------------------------

    def write(self, store: FeatureStore, now: int, progress: Callable[[str], None]) -> int:
        """Put every profile that has not expired into the store; how many."""
        done, after = 0, ""
        while True:
            rows = self._scratch.execute(
                "SELECT party, data, expires_ms FROM parties WHERE party > ? AND expires_ms > ? ORDER BY party LIMIT ?",
                (after, now, _AT_ONCE),
            ).fetchall()
            if not rows:
                return done
            pending = {party: (data, expires) for party, data, expires in rows}
            for _ in range(_TRIES):
                versions = store.read(list(pending))
                changes = [
                    Change(party, versions[party][0] if party in versions else 0, data, expires)
                    for party, (data, expires) in pending.items()
                ]
                conflicts = store.swap(changes)
                pending = {party: pending[party] for party in conflicts}
                if not pending:
                    break
            else:
                raise StoreUnavailable("Somebody goes on writing profiles: stop the service, or use a fresh store.")
            done += len(rows)
            after = rows[-1][0]
            if done % 10_000 < _AT_ONCE:
                progress(f"{done:,} profiles written")
