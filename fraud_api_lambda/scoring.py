"""The hub: a validated transaction in, a recorded decision out, one step a line; and what is learned of it later.

A request makes at most three round trips to stores: the parties' profiles are read, the record is appended, the
profiles are swapped. The record comes before the profiles because it is the truth and they are a cache of it: whoever
dies between the two leaves an event that a repeated request, or ``rebuild-profiles``, brings into the profiles. What a
store does not take goes into the outbox; what that does not take either is decided by ``on_log_failure``, never passed
over in silence.
"""

import hashlib
import hmac
import json
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import numpy as np
from pydantic_core import to_json

from . import profiles
from .breaker import Breaker
from .decision_log import DecisionLog, Label, Record, Stored, open_decision_log, pack_record, unpack_record
from .errors import FieldError, InvalidRequest, NotFound, NotRecorded, RequestConflict, RequestError, StoreUnavailable
from .feature_store import FeatureStore, open_feature_store
from .features import FeatureSet, Floats, Past
from .history import History
from .judge import WITHOUT_BUNDLE_RATES, Scored, Terms, judge, score_row, score_rows
from .metrics import Metrics
from .outbox import Kind, Outbox, Sink
from .reload import ModelSource, Served
from .rules import RuleSet
from .schemas import (
    DECISION,
    TEST_INPUTS,
    Decision,
    Degraded,
    Event,
    Pseudonyms,
    Transaction,
    now_ms,
    pack_event,
    parse_transaction,
    same_money,
    to_event,
    unpack_event,
)
from .settings import LogFailure, Outcome
from .shadow import Shadow

log = logging.getLogger("fraud.scoring")

_WITHOUT_BUNDLE = FeatureSet()
#: Of a request's time: each of the two calls of the feature store, and the one of the decision log or, in its place, of
#: the outbox.
FEATURE_STORE_SHARE: Final = 0.3
DECISION_LOG_SHARE: Final = 0.4
#: How often a label's profile is written while others come to count; then the outbox goes on.
_LOOKS: Final = 5

#: Replays of what was received longer ago tell nobody again.
_TOLD_AGAIN_MS: Final = 86_400_000
_NO_TEST_IDS: Final = FieldError(
    "transaction_id", f"must not begin with test-{', test-'.join(TEST_INPUTS)}: test inputs are switched off here"
)
#: Writes one request's records: what ``DecisionLog.append`` answers, or why the log did not take them.
Append = Callable[[Sequence[Record]], Awaitable[list[Record | None] | StoreUnavailable]]

#: What is to be told to others of a decision: (kind, key, bytes) for the outbox.
Notices = Callable[[Decision, bytes], Sequence[tuple[Kind, str, bytes]]]


class Stores(NamedTuple):
    """Profiles and decision log, with one budget for each call."""

    store: FeatureStore
    decisions: DecisionLog


@dataclass(frozen=True, slots=True)
class Answer:
    """``body`` is the decision as JSON, as it was recorded. ``replayed``: it was given before, for the same body."""

    body: bytes
    replayed: bool = False

    @property
    def decision(self) -> Decision:
        return DECISION.validate_json(self.body)


@dataclass(slots=True)
class _Case:
    """One transaction on its way: what was sent, and what has become of it."""

    transaction: Transaction
    digest: bytes
    answer: Answer | RequestError | None = None
    #: The same id stood earlier in the same request.
    first: "_Case | None" = None

    def done(self) -> Answer | RequestError:
        if self.first is not None:
            answer = self.first.done()
            return (
                answer if isinstance(answer, RequestError) else _replayed(answer.body, self.first.digest, self.digest)
            )
        assert self.answer is not None
        return self.answer


_Steps = Generator[Sequence[Record], list[Record | None] | StoreUnavailable, list[Answer | RequestError]]


@dataclass(frozen=True, slots=True)
class _New:
    """A case that is new, as far as is known, and what is to judge it."""

    case: _Case
    event: Event
    served: Served | None
    rules: RuleSet
    features: FeatureSet


@dataclass(slots=True)
class _Judged:
    """What was made of a new case. ``features`` are the raw ones, gaps left out; ``scored`` is None without a model."""

    new: _New
    features: dict[str, float]
    scored: Scored | None
    decision: Decision


def _tried(call: Callable[[], object]) -> StoreUnavailable | None:
    try:
        call()
    except StoreUnavailable as error:
        return error
    return None


def _scores(new: Sequence[_New], rows: Sequence[Floats]) -> list[Scored | None]:
    """Each row scored with its own model; rows of one model at once."""
    if len(rows) == 1:
        served = new[0].served
        return [score_row(served.model, rows[0]) if served else None]
    scores: list[Scored | None] = [None] * len(rows)
    groups: dict[str, list[int]] = {}
    for position, each in enumerate(new):
        if each.served is not None:
            groups.setdefault(each.served.version, []).append(position)
    for positions in groups.values():
        served = new[positions[0]].served
        assert served is not None
        for position, scored in zip(
            positions, score_rows(served.model, np.stack([rows[i] for i in positions])), strict=True
        ):
            scores[position] = scored
    return scores


def _again(record: Record, decision: Decision) -> Record:
    """The record of a decision that had to change after it was made."""
    return replace(
        record,
        outcome=decision.outcome,
        decided_by=decision.decided_by,
        degraded=decision.degraded,
        answer=DECISION.dump_json(decision),
    )


def _replayed(body: bytes, stands: bytes, sent: bytes) -> Answer | RequestConflict:
    """The answer to a transaction whose id is recorded: the same bytes for the same body, else the conflict."""
    if hmac.compare_digest(stands, sent):
        return Answer(body, replayed=True)
    return RequestConflict(
        "This transaction_id was sent before with another body. Each transaction has an id of its own."
    )


def _only(answers: Sequence[Answer | RequestError]) -> Answer:
    [answer] = answers
    if isinstance(answer, RequestError):
        raise answer
    return answer


def _given(done: StopIteration) -> list[Answer | RequestError]:
    answers: list[Answer | RequestError] = done.value
    return answers


class FraudScorer:
    """Scores transactions with whatever ``source`` serves at that moment.

    ``store`` remembers the parties' past, ``decisions`` every decision; without them the past is remembered until the
    process ends, and decisions are not. ``pseudonyms`` is what parties are known by; None: ids, card numbers excepted.
    ``notices`` says what goes out about a decision. ``challenger`` answers the share of customers that its pointer says
    and is judged beside the others. ``metrics`` counts and logs. ``breakers`` are those of the stores, to be told of.
    ``without_model`` is the outcome where neither a model nor a rule has a say; ``budget_ms`` bounds the attempts to
    update profiles; ``clock`` gives ms of UTC. ``first_ms`` is what the first request has after :meth:`begin`, where
    that is more. ``test_ids`` False refuses test inputs. ``open_patient`` opens the same two stores for those who can
    wait longer than money does.
    """

    def __init__(
        self,
        source: ModelSource,
        store: FeatureStore | None = None,
        decisions: DecisionLog | None = None,
        outbox: Outbox | None = None,
        *,
        pseudonyms: Pseudonyms | None = None,
        notices: Notices | None = None,
        challenger: ModelSource | None = None,
        metrics: Metrics | None = None,
        breakers: Mapping[str, Breaker] | None = None,
        without_model: Outcome = "review",
        on_log_failure: LogFailure = "review",
        budget_ms: int = 250,
        first_ms: int = 0,
        test_ids: bool = True,
        open_patient: Callable[[], Stores] | None = None,
        clock: Callable[[], int] = now_ms,
    ):
        self.source = source
        self.store = open_feature_store("memory://") if store is None else store
        self.decisions = open_decision_log("none://") if decisions is None else decisions
        self.outbox = outbox
        self.pseudonyms = Pseudonyms() if pseudonyms is None else pseudonyms
        self.notices = notices
        self.challenger = challenger
        self.shadow = None if challenger is None else Shadow(challenger, without_model=without_model)
        self.metrics = Metrics() if metrics is None else metrics
        self.breakers: Mapping[str, Breaker] = {} if breakers is None else breakers
        self.without_model = without_model
        self.on_log_failure = on_log_failure
        self.budget_s = self._usual_s = budget_ms / 1000
        self._first_s = max(first_ms, budget_ms) / 1000
        self._first = False
        self._open_patient = open_patient
        self._patient: Stores | None = None
        self._opening = threading.Lock()
        self.clock = clock
        self._test_ids = test_ids

    @property
    def inline(self) -> bool:
        """Whether all of scoring happens inside this process, so that no thread need wait for it."""
        return self.store.inline and self.decisions.inline and (self.outbox is None or self.outbox.inline)

    @property
    def patient(self) -> Stores:
        """The two stores for whom only people or a schedule wait; opened when first asked for.

        With connections of their own: what takes long here takes none of scoring's.
        """
        if self._open_patient is None:
            return Stores(self.store, self.decisions)
        with self._opening:
            if self._patient is None:
                self._patient = self._open_patient()
            return self._patient

    def refresh(self) -> None:
        """Look for a newer bundle, challenger and rules now."""
        self.source.refresh()
        if self.challenger is not None:
            self.challenger.refresh()

    def refresh_if_due(self) -> None:
        """Look for a newer bundle, challenger and rules, once a minute at most."""
        self.source.refresh_if_due()
        if self.challenger is not None:
            self.challenger.refresh_if_due()

    # --- warm and cold -----------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """The process starts, or starts again: the next request has ``first_ms``, those after it ``budget_ms``."""
        self._first = True
        self._allow(self._first_s)

    def connect(self) -> None:
        """Make the connections that a request would have to wait for, side by side. One that is not made in time may
        be made later, by a request. Never raises.
        """
        calls: list[Callable[[], object]] = [part.check for part in (self.store, self.decisions) if not part.inline]
        if self.outbox is not None and not self.outbox.inline:
            calls.append(self.outbox.waiting)
        if calls:
            with ThreadPoolExecutor(len(calls), thread_name_prefix="connecting") as threads:
                for found in threads.map(_tried, calls):
                    if found is not None:
                        log.warning("not connected", extra={"reason": str(found)})

    def disconnect(self) -> None:
        """Let go of every connection; requests make others. Nobody may be asking meanwhile."""
        self.source.disconnect()
        if self.challenger is not None:
            self.challenger.disconnect()
        for store in (self.store, self.decisions, *(self._patient or ())):
            store.disconnect()
        if self.outbox is not None:
            self.outbox.disconnect()

    def _allow(self, seconds: float) -> None:
        self.budget_s = seconds
        self.store.allow(seconds * FEATURE_STORE_SHARE)
        self.decisions.allow(seconds * DECISION_LOG_SHARE)
        if self.outbox is not None:
            self.outbox.allow(seconds * DECISION_LOG_SHARE)

    # --- decisions ---------------------------------------------------------------------------------------------------

    def answer(self, data: Any, explain: bool | None = None) -> Answer:
        """Judge one transaction, an object that ``parse_json`` gave, and record the decision.

        The same id with the same body answers the same bytes. ``explain`` None gives reasons unless the outcome is
        approve. Raises ``InvalidRequest`` for what the contract, or the served bundle, cannot take,
        ``RequestConflict`` where the id stands for another transaction, ``NotRecorded`` where the decision could be
        written nowhere and is therefore not given.
        """
        return _only(self._answer([self._case(parse_transaction(data), data)], explain))

    async def answer_async(self, data: Any, explain: bool | None, append: Append) -> Answer:
        """:meth:`answer`, which waits for nothing but ``append`` to write the records; others may come in between."""
        return _only(await self._answer_async([self._case(parse_transaction(data), data)], explain, append))

    def answer_many(self, items: Sequence[Any], explain: bool | None = None) -> list[Answer | RequestError]:
        """Judge many in their order, each with those before it in its past; a problem stands in its place.

        Each answer equals, to the bit, what :meth:`answer` would say one by one at the same moment.
        """
        cases = self._cases(items)
        answers = iter(self._answer([case for case in cases if isinstance(case, _Case)], explain))
        return [next(answers) if isinstance(case, _Case) else case for case in cases]

    async def answer_many_async(
        self, items: Sequence[Any], explain: bool | None, append: Append
    ) -> list[Answer | RequestError]:
        """:meth:`answer_many`, as :meth:`answer_async`."""
        cases = self._cases(items)
        answers = iter(await self._answer_async([case for case in cases if isinstance(case, _Case)], explain, append))
        return [next(answers) if isinstance(case, _Case) else case for case in cases]

    def score(self, transaction: Transaction, explain: bool | None = None) -> Decision:
        """:meth:`answer` for a transaction that is parsed already."""
        return self.answer(transaction.model_dump(exclude_none=True), explain).decision

    def _cases(self, items: Sequence[Any]) -> list[_Case | RequestError]:
        cases: list[_Case | RequestError] = []
        for data in items:
            try:
                cases.append(self._case(parse_transaction(data), data))
            except InvalidRequest as problem:
                cases.append(problem)
        return cases

    def _case(self, transaction: Transaction, data: Any) -> _Case:
        return _Case(self.pseudonyms.shield(transaction), self.pseudonyms.digest(data))

    def _answer(self, cases: Sequence[_Case], explain: bool | None) -> list[Answer | RequestError]:
        try:
            steps = self._steps(cases, explain)
            try:
                steps.send(self._append(next(steps)))
            except StopIteration as done:
                return _given(done)
            raise AssertionError("The records are written once.")
        finally:
            self._had_first(cases)

    async def _answer_async(
        self, cases: Sequence[_Case], explain: bool | None, append: Append
    ) -> list[Answer | RequestError]:
        try:
            steps = self._steps(cases, explain)
            try:
                steps.send(await append(next(steps)))
            except StopIteration as done:
                return _given(done)
            raise AssertionError("The records are written once.")
        finally:
            self._had_first(cases)

    def _had_first(self, cases: Sequence[_Case]) -> None:
        if cases and self._first:
            self._first = False
            self._allow(self._usual_s)

    def _steps(self, cases: Sequence[_Case], explain: bool | None) -> _Steps:
        """All of a request but the writing of its records: they are given, once at most, to be appended to the log,
        and what it answered is to be sent.
        """
        started = time.perf_counter()
        received = self.clock()
        known = self._answer_known(cases, look=len(cases) > 1)
        new = self._events(cases, received)
        if len(cases) == 1 and isinstance(cases[0].answer, InvalidRequest):
            # What is refused now, by a bundle without its currency, may have been judged by the one before.
            known = self._answer_known(cases, look=True)
        parties = [party for record in known for party in record.parties]
        history = self._history([*parties, *(p for each in new for p in Past.parties(each.event))], received)
        self._remember_again(history, known)
        judged = self._judge(new, explain, history)
        records = [self._record(each, history, received, started) for each in judged]
        standing = self._stand(judged, records, (yield records)) if records else []
        if any(standing):
            # Somebody has answered some of these before: the profiles may hold them, or nothing of them.
            history = self._history(list(history.versions), received)
            self._remember_again(history, known)
            for each, stands in zip(judged, standing, strict=True):
                if stands is None:
                    self._remember(history, each.new.event)
                elif isinstance(stands, Record):
                    self._remember_again(history, [stands])
        self._save(history)
        answers = [case.done() for case in cases]
        replays = sum(isinstance(answer, Answer) and answer.replayed for answer in answers)
        if replays:
            self.metrics.add("replays", n=replays)
        for record in [*known, *(stands for stands in standing if isinstance(stands, Record))]:
            self._tell_again(record)
        return answers

    def _answer_known(self, cases: Sequence[_Case], *, look: bool) -> list[Record]:
        """Answer what waits in the outbox and, where we ``look``, what the log holds, without judging it.

        Gives the records that were answered with. The log is asked too where something waits, and its word counts.
        """
        ids = list(dict.fromkeys(id for case in cases if (id := case.transaction.transaction_id)))
        waiting = {id: record for id in ids if (record := self._waiting(id)) is not None}
        found: dict[str, Stored] = {}
        try:
            if ids and (look or waiting):
                found = self.decisions.find(ids)
        except StoreUnavailable:
            pass  # what is there will show when it is appended
        known = {**waiting, **{id: stored.record for id, stored in found.items()}}
        used: dict[str, Record] = {}
        for case in cases:
            record = known.get(case.transaction.transaction_id or "")
            if record is not None:
                case.answer = _replayed(record.answer, record.digest, case.digest)
                if isinstance(case.answer, Answer):
                    used[record.transaction_id] = record
        return list(used.values())

    def _waiting(self, transaction_id: str) -> Record | None:
        """The record of a decision that has not reached the log yet."""
        try:
            data = None if self.outbox is None else self.outbox.find("decision", transaction_id)
        except StoreUnavailable:
            return None  # as far as can be known at no cost
        return None if data is None else unpack_record(data)

    def _serving(self, case: _Case) -> tuple[Served | None, RuleSet]:
        """Whose model answers: the same one for a customer every time, unless the challenger's share shrinks.

        A challenger that counts in another currency answers nobody: the profiles are in the champion's.
        """
        champion, rules = self.source.current()
        if self.challenger is None:
            return champion, rules
        challenger, own = self.challenger.current()
        if challenger is None or not challenger.bundle.share:
            return champion, rules
        if champion is not None and not same_money(champion.model.rates, challenger.model.rates):
            return champion, rules
        sent = case.transaction
        who = sent.customer_id or sent.transaction_id or case.digest.hex()  # or all who name nobody would be one
        # Salted with the version, so that it is not the same customers who try every challenger.
        number = hashlib.blake2b(f"{challenger.version}/{who}".encode(), digest_size=8).digest()
        mine = int.from_bytes(number, "little") % 100 < challenger.bundle.share
        return (challenger, own) if mine else (champion, rules)

    def _events(self, cases: Sequence[_Case], received: int) -> list[_New]:
        """The cases that are to be judged; a problem becomes the case's answer."""
        found = []
        firsts: dict[str, _Case] = {}
        for case in cases:
            name = case.transaction.transaction_id
            if case.answer is None and name is not None:
                # One that is refused holds no id: the next with the same is judged.
                case.first = firsts.get(name)
            if case.answer is None and case.first is None:
                served, rules = self._serving(case)
                rates = served.model.rates if served else WITHOUT_BUNDLE_RATES
                features = served.model.features if served else _WITHOUT_BUNDLE
                try:
                    event = to_event(case.transaction, rates, received, self.pseudonyms)
                    features.check(event)
                    if event.test_input is not None and not self._test_ids:
                        raise InvalidRequest("The transaction is not valid.", (_NO_TEST_IDS,))
                except InvalidRequest as problem:
                    case.answer = problem
                    continue
                found.append(_New(case, event, served, rules, features))
                if name is not None:
                    firsts[name] = case
        return found

    def _judge(self, new: Sequence[_New], explain: bool | None, history: History) -> list[_Judged]:
        """Judge each event with those before it in its past."""
        rows = []
        for each in new:
            rows.append(each.features.compute(each.event, history.before(each.event)))
            self._remember(history, each.event)
        judged = []
        for each, columns, scored in zip(new, rows, _scores(new, rows), strict=True):
            model = each.served.model if each.served else None
            without = each.event.test_input == "degraded"  # as if there were neither model nor history
            if without:
                model = scored = None
            missing: tuple[Degraded, ...] = () if history.available and not without else ("feature_store",)
            if model is not None and each.served is not None and each.served.baked:
                missing = ("model", *missing)
            terms = Terms(self.without_model, explain, missing, self.clock())
            decision = judge(model, each.rules, each.event, columns, scored, terms)
            raw = zip(each.features.columns, columns.tolist(), strict=True)
            judged.append(_Judged(each, {name: value for name, value in raw if value == value}, scored, decision))
        return judged

    # --- the record --------------------------------------------------------------------------------------------------

    def _record(self, judged: _Judged, history: History, received: int, started: float) -> Record:
        event, served, decision, scored = judged.new.event, judged.new.served, judged.decision, judged.scored
        names = [member.name for member in served.bundle.manifest.members] if served else []
        document = {
            "event": pack_event(event),
            "features": judged.features,
            "members": dict(zip(names, scored.margins, strict=True)) if scored else {},
            "versions": {party: history.versions.get(party) for party in Past.parties(event)},
        }
        return Record(
            transaction_id=event.transaction_id,
            digest=judged.new.case.digest,
            answer=DECISION.dump_json(decision),
            received_ms=received,
            time_ms=event.time_ms,
            customer_id=event.customer_id,
            counterparty_id=event.counterparty_id,
            device_id=event.device_id,
            amount_minor=event.amount_minor,
            outcome=decision.outcome,
            decided_by=decision.decided_by,
            probability=decision.fraud_probability,
            rules=decision.rules,
            model_version=decision.model_version,
            rules_version=decision.rules_version,
            latency_us=int((time.perf_counter() - started) * 1e6),
            test=decision.test,
            degraded=decision.degraded,
            document=to_json(document).decode(),
        )

    def _append(self, records: Sequence[Record]) -> list[Record | None] | StoreUnavailable:
        try:
            return self.decisions.append(records)
        except StoreUnavailable as error:
            return error

    def _stand(
        self, judged: Sequence[_Judged], records: Sequence[Record], found: list[Record | None] | StoreUnavailable
    ) -> list[Record | RequestError | None]:
        """Answer the cases: with what was written, or with what stood there before, which is what the log has told.

        For each: None where it is new, else the record that stands, or why there is no answer.
        """
        if isinstance(found, StoreUnavailable):
            self.metrics.add("log_failures", n=len(records))
            log.error("the decision log did not take decisions", extra={"n": len(records), "reason": str(found)})
            return [self._spool(each, record) for each, record in zip(judged, records, strict=True)]
        standing: list[Record | RequestError | None] = []
        for each, record, stands in zip(judged, records, found, strict=True):
            if stands is None:
                self._done(each, record)
            standing.append(None if stands is None else self._stood(each.new.case, stands))
        return standing

    def _done(self, judged: _Judged, record: Record) -> None:
        """Answer with what was recorded, and put what is to be told to others into the outbox."""
        judged.new.case.answer = Answer(record.answer)
        self.metrics.decided(judged.decision, record.latency_us)
        if self.notices is not None:
            for kind, key, data in self.notices(judged.decision, record.answer):
                self._keep(kind, key, data)
        if self.shadow is not None:
            self.shadow.offer(judged.new.event, judged.features, judged.decision)

    def _tell_again(self, record: Record) -> None:
        """What is to be told of a decision is put into the outbox once more when it is asked for again: whoever
        recorded it may have died before. What waits there is kept as it is; receivers know the notice by its id.
        """
        if self.notices is None or record.outcome == "approve":
            return
        if self.clock() - record.received_ms < _TOLD_AGAIN_MS:
            for kind, key, data in self.notices(DECISION.validate_json(record.answer), record.answer):
                self._keep(kind, key, data)

    def _stood(self, case: _Case, stands: Record) -> Record | RequestError:
        """Answer with what had been recorded under the id."""
        case.answer = _replayed(stands.answer, stands.digest, case.digest)
        return case.answer if isinstance(case.answer, RequestError) else stands

    def _spool(self, judged: _Judged, record: Record) -> Record | RequestError | None:
        """Keep a record that the log did not take; the answer says so."""
        judged.decision = replace(judged.decision, degraded=(*judged.decision.degraded, "decision_log"))
        record = _again(record, judged.decision)
        try:
            if self.outbox is None:
                raise StoreUnavailable("There is no outbox.")
            waiting = self._waiting(record.transaction_id)
            if waiting is not None:
                return self._stood(judged.new.case, waiting)
            self.outbox.put("decision", record.transaction_id, pack_record(record))
        except StoreUnavailable as error:
            log.error("a decision is recorded nowhere", extra={"policy": self.on_log_failure, "reason": str(error)})
            if self.on_log_failure == "refuse":
                judged.new.case.answer = NotRecorded("The decision could not be recorded, so none is given. Try again.")
                return judged.new.case.answer
            if judged.decision.outcome == "approve":
                judged.decision = replace(
                    judged.decision,
                    outcome="review",
                    decided_by="fallback",
                    is_fraud=True,
                    prediction="FRAUD",
                    confidence=None,
                    explanation="Sent to review: the decision could not be recorded.",
                )
                record = _again(record, judged.decision)
        self._done(judged, record)
        return None

    # --- the past ----------------------------------------------------------------------------------------------------

    def _history(self, parties: Sequence[str], received: int) -> History:
        return History(self.store, parties, received=received, deadline=time.monotonic() + self.budget_s)

    def _remember(self, history: History, event: Event, *, received: int | None = None) -> None:
        if event.test_input is None:
            history.apply(event, received=received)

    def _remember_again(self, history: History, records: Sequence[Record]) -> None:
        """Remember what was judged before, where the profiles do not: whoever judged it may have died then."""
        for record in records:
            self._remember(history, unpack_event(record.event), received=record.received_ms)

    def _save(self, history: History) -> None:
        """Write the profiles; what could not be written goes into the outbox."""
        left = history.save()
        if not left:
            return
        for event, received in history.applied:
            parties = [party for party in Past.parties(event) if party in left]
            if parties:
                update = {"event": pack_event(event), "received_ms": received, "parties": parties}
                self._keep("profile", event.transaction_id, to_json(update))

    def _keep(self, kind: Kind, key: str, data: bytes) -> None:
        """Put what concerns the profiles, or others, into the outbox: its loss would cost no record."""
        try:
            if self.outbox is None:
                raise StoreUnavailable("There is no outbox.")
            self.outbox.put(kind, key, data)
        except StoreUnavailable as error:
            log.error("kept nowhere", extra={"kind": kind, "reason": str(error)})

    # --- labels ------------------------------------------------------------------------------------------------------

    def feedback(self, label: Label, *, timed: bool = True) -> tuple[Stored, Label]:
        """Record somebody's word on a transaction; the counterparty's fraud rate learns of it.

        Gives the record with the label that counts, and the label as it stands. Raises ``NotFound`` for a transaction
        that was never judged, ``NotRecorded`` where the log does not answer: nothing was promised then.

        ``timed`` False: the sender did not say when it was found out. Where the same source said the same last, it is
        that very label, sent again.
        """
        try:
            decisions = self.patient.decisions
            if not timed:
                said = [one for one in decisions.labels(label.transaction_id) if one.source == label.source]
                if said and said[-1].is_fraud == label.is_fraud:
                    label = replace(label, time_ms=said[-1].time_ms)
            found = decisions.label(label)
        except StoreUnavailable:
            raise NotRecorded("The label could not be recorded. Send it again later.") from None
        if found is None:
            if self.outbox is not None and self.outbox.find("decision", label.transaction_id) is not None:
                raise NotRecorded("The decision has not reached the log yet. Send the label again later.")
            raise NotFound("There is no such transaction.")
        if not self._label_profile(found[0]):
            self._keep("label", label.transaction_id, label.transaction_id.encode())
        return found

    def _label_profile(self, stored: Stored) -> bool:
        """Tell the counterparty's profile what counts; False where that is not known to be written."""
        record, label = stored
        if record.test or label is None or record.counterparty_id is None:
            return True
        day, key = record.time_ms // profiles.DAY_MS, profiles.id64(record.transaction_id)
        for _ in range(_LOOKS):
            history = self._history([record.counterparty_id], self.clock())
            history.label(record.counterparty_id, day, key, label.received_ms, label.is_fraud)
            if history.save():
                return False
            # Another may have come to count meanwhile, and have been written before this one.
            try:
                now = self.decisions.find([record.transaction_id]).get(record.transaction_id)
            except StoreUnavailable:
                return False
            if now is None or now.label is None or now.label.order == label.order:
                return True
            label = now.label
        return False

    # --- what the outbox brings back ---------------------------------------------------------------------------------

    @property
    def sinks(self) -> dict[Kind, Sink]:
        """What to do with the outbox's items about records and profiles."""
        return {"decision": self._deliver_decision, "profile": self._deliver_profile, "label": self._deliver_label}

    def _deliver_decision(self, data: bytes) -> None:
        record = unpack_record(data)
        [stands] = self.decisions.append([record])
        if stands is not None and stands.digest != record.digest:
            raise ValueError("another transaction stands under this id")

    def _deliver_profile(self, data: bytes) -> None:
        update = json.loads(data)
        event = unpack_event(update["event"])
        history = self._history(update["parties"], self.clock())
        history.apply(event, received=update["received_ms"], only=update["parties"])
        if history.save():
            raise StoreUnavailable("The feature store did not take a profile.")

    def _deliver_label(self, data: bytes) -> None:
        found = self.decisions.find([data.decode()])
        for stored in found.values():
            if not self._label_profile(stored):
                raise StoreUnavailable("The feature store did not take a label.")
