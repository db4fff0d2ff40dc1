"""A challenger beside the champion: judged after the answer, never in its way.

``Shadow`` has a thread and a short queue of its own. A challenger that is slow, hangs or fails fills the queue, and
what finds it full is passed over and counted: an answer neither waits for it nor hears of it. Where there is no thread
that outlives an answer (Lambda), the schedule judges again from the log what the queue would have held.
"""

import json
import logging
import queue
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .decision_log import Record
from .errors import BundleRefused
from .judge import Terms, columns_of, judge, score_row
from .reload import ModelSource, Served
from .rules import RuleSet
from .schemas import DECISION, Decision, Event, unpack_event
from .settings import Outcome

log = logging.getLogger("fraud.shadow")

#: Decisions that may wait to be judged again.
WAITING = 1_000


@dataclass(slots=True)
class Disagreement:
    """How a challenger's decisions differ from those that were given. Test inputs are left out."""

    champion: str | None
    challenger: str
    judged: int = 0
    failed: int = 0
    by_outcome: Counter[tuple[Outcome, Outcome]] = field(default_factory=Counter)
    difference: float = 0.0  #: sum of |probability - probability|

    def add(self, given: Decision, instead: Decision) -> None:
        self.judged += 1
        self.by_outcome[given.outcome, instead.outcome] += 1
        if given.fraud_probability is not None and instead.fraud_probability is not None:
            self.difference += abs(given.fraud_probability - instead.fraud_probability)

    @property
    def flipped(self) -> int:
        """Decisions whose outcome would be another."""
        return sum(n for (given, instead), n in self.by_outcome.items() if given != instead)

    def as_dict(self) -> dict[str, Any]:
        """For ``GET /model`` and reports."""
        return {
            "champion": self.champion,
            "challenger": self.challenger,
            "judged": self.judged,
            "failed": self.failed,
            "flipped": self.flipped,
            "flipped_share": self.flipped / self.judged if self.judged else None,
            "mean_probability_difference": self.difference / self.judged if self.judged else None,
            "by_outcome": [
                {"champion": given, "challenger": instead, "decisions": n}
                for (given, instead), n in sorted(self.by_outcome.items())
            ],
        }


def judge_recorded(
    record: Record,
    served: Served,
    rules: RuleSet,
    found: dict[str | None, Disagreement],
    *,
    without_model: Outcome = "review",
) -> None:
    """Judge a recorded decision again with a challenger, and add it to what was ``found``, by the model that made it.

    A test input, a decision of the challenger's own and one that it cannot judge are not ``judged``.
    """
    given = DECISION.validate_json(record.answer)
    if record.test or given.model_version == served.version:
        return
    each = found.setdefault(given.model_version, Disagreement(given.model_version, served.version))
    document = json.loads(record.document)
    try:
        event, features = unpack_event(document["event"]), document["features"]
        each.add(given, _instead(given, served, rules, event, features, without_model))
    except Exception:
        log.exception("the challenger failed")
        each.failed += 1


def _instead(
    given: Decision,
    served: Served,
    rules: RuleSet,
    event: Event,
    features: Mapping[str, float],
    without_model: Outcome,
) -> Decision:
    if given.base_currency != served.model.rates.base:
        raise BundleRefused("The challenger counts in another currency.")  # and would take yen for cents
    columns = columns_of(served.model.features, event, features)
    scored = score_row(served.model, columns)
    return judge(served.model, rules, event, columns, scored, Terms(without_model, explain=False))


@dataclass(frozen=True, slots=True)
class _Given:
    event: Event
    features: Mapping[str, float]
    decision: Decision


class Shadow:
    """Judges what was decided once more, with what ``challenger`` serves. Nothing happens before :meth:`start`."""

    def __init__(self, challenger: ModelSource, *, without_model: Outcome = "review", waiting: int = WAITING):
        self._challenger = challenger
        self._without_model = without_model
        self._queue: queue.Queue[_Given | None] = queue.Queue(waiting)
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._found: Disagreement | None = None
        self._passed_over = 0

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float = 1.0) -> None:
        """Judge no more. A challenger that hangs is left behind; its thread ends with the process."""
        thread, self._thread = self._thread, None
        if thread is not None:
            try:
                self._queue.put_nowait(None)
            except queue.Full:
                return
            thread.join(timeout_s)

    def offer(self, event: Event, features: Mapping[str, float], decision: Decision) -> None:
        """Have it judged some time. ``features`` are the raw ones by name, gaps left out. Never waits or raises."""
        if self._thread is None or decision.test:
            return
        try:
            self._queue.put_nowait(_Given(event, features, decision))
        except queue.Full:
            with self._lock:
                self._passed_over += 1

    def found(self) -> dict[str, Any] | None:
        """What was found since this pair of models met; None: nothing was judged yet."""
        with self._lock:
            if self._found is None:
                return None
            found = self._found.as_dict()
            return {**found, "passed_over": self._passed_over}

    def _run(self) -> None:
        while (given := self._queue.get()) is not None:
            try:
                self._judge(given)
            except Exception:
                log.exception("the challenger failed")
                with self._lock:
                    if self._found is not None:
                        self._found.failed += 1

    def _judge(self, given: _Given) -> None:
        served, rules = self._challenger.current()
        champion = given.decision.model_version
        # A decision that the rules made alone says nothing of two models, nor does it begin another comparison.
        if served is None or champion is None or served.version == champion:
            return
        with self._lock:
            found = self._found
            if found is None or (found.champion, found.challenger) != (champion, served.version):
                found = self._found = Disagreement(champion, served.version)
                self._passed_over = 0
        instead = _instead(given.decision, served, rules, given.event, given.features, self._without_model)
        with self._lock:
            found.add(given.decision, instead)
