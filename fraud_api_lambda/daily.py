"""What is done once a day: by a thread where the process lives on, by the schedule's events on Lambda.

A day is one of UTC, by the scorer's clock. A task that a store does not answer is tried again until it has been done;
none of them is in the way of a request.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from .decision_log import Search
from .errors import StoreUnavailable
from .features import DAY_MS
from .routes_drift import watch_of
from .routes_records import summarize
from .scoring import FraudScorer
from .shadow import Disagreement, judge_recorded

log = logging.getLogger("fraud.daily")

#: Decisions of a day that the challenger judges again at most, the newest.
SHADOWED = 20_000
_PAUSE_S = 60.0


class Daily:
    """The daily tasks of one service. ``retention_days`` None: no record is ever deleted."""

    def __init__(self, scorer: FraudScorer, *, retention_days: int | None = None, pause_s: float = _PAUSE_S):
        self._scorer = scorer
        self._retention_days = retention_days
        self._pause_s = pause_s
        self._watch = watch_of(scorer)
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        #: Task -> what it does for the day before the one that it is given (days since 1970), and answers.
        self.tasks: Mapping[str, Callable[[int], dict[str, Any]]] = {
            "summary": self._summary,
            "retention": self._retention,
            "drift": self._drift,
            "shadow": self._shadow,
        }

    def run(self, task: str, today: int | None = None) -> dict[str, Any]:
        """Do one task now. Raises ``StoreUnavailable``, and ``ValueError`` for a task that there is not."""
        if task not in self.tasks:
            raise ValueError(f"Not a daily task. Choices are: {', '.join(self.tasks)}.")
        return {"task": task, **self.tasks[task](self._today() if today is None else today)}

    def start(self) -> None:
        """Do all of them each time a day is over."""
        self._thread = threading.Thread(target=self._run, name="daily", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _today(self) -> int:
        return self._scorer.clock() // DAY_MS

    def _run(self) -> None:
        done = dict.fromkeys(self.tasks, self._today())
        while not self._stopped.wait(self._pause_s):
            for task, day in done.items():
                while day < self._today() and not self._stopped.is_set():
                    try:
                        self.run(task, day + 1)
                    except StoreUnavailable as error:
                        log.warning("a daily task waits", extra={"task": task, "reason": str(error)})
                        break
                    except Exception:  # a task that fails has no second chance today, and takes none from the others
                        log.exception("a daily task failed", extra={"task": task})
                    day = done[task] = day + 1

    def _summary(self, today: int) -> dict[str, Any]:
        summarize(self._scorer, today - 1)
        return {}

    def _retention(self, today: int) -> dict[str, Any]:
        if self._retention_days is None:
            return {"deleted": 0}
        deleted = self._scorer.decisions.forget((today - self._retention_days) * DAY_MS)
        log.info("old decisions deleted", extra={"deleted": deleted})
        return {"deleted": deleted}

    def _drift(self, today: int) -> dict[str, Any]:
        report = self._watch.run()
        return {"state": None if report is None else report.state}

    def _shadow(self, today: int) -> dict[str, Any]:
        """Judge the day's decisions again with the challenger, from the features in their records."""
        challenger = self._scorer.challenger
        served = None if challenger is None else challenger.current()
        if served is None or served[0] is None:
            return {"judged": 0}
        found: dict[str | None, Disagreement] = {}
        search = Search(since_ms=(today - 1) * DAY_MS, until_ms=today * DAY_MS, test=False, limit=200)
        left = SHADOWED
        while left > 0:
            page = self._scorer.patient.decisions.search(search)
            for stored in page.items[:left]:
                judge_recorded(stored.record, served[0], served[1], found, without_model=self._scorer.without_model)
            left -= len(page.items)
            if page.cursor is None:
                break
            search = Search(
                since_ms=search.since_ms, until_ms=search.until_ms, test=False, limit=200, cursor=page.cursor
            )
        for disagreement in found.values():
            log.info("shadow", extra=disagreement.as_dict())
        return {"judged": sum(each.judged for each in found.values())}
