"""The route that shows drift."""

import asyncio
import threading
from collections.abc import Mapping
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from pydantic import TypeAdapter

from .drift import DriftReport, DriftWatch
from .errors import FieldError, InvalidRequest, NotReached, StoreUnavailable, TooManyRequests
from .features import DAY_MS
from .schemas import WHEN, day_or_time
from .scoring import FraudScorer
from .web import json_response, query_parameters, read_query

#: A window that is asked for is at most so long.
MAX_DAYS: Final = 400

REPORT = TypeAdapter(DriftReport)

_SINCE = (
    "Arrived at this time or later, or on this day or later; default: a day before `until`, or so many more, up to 28, "
    "that there are 2,000 decisions."
)
_ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "since": (_SINCE, {"type": "string"}),
    "until": ("Arrived before this time, or before this day; default: now.", {"type": "string"}),
}


def watch_of(scorer: FraudScorer) -> DriftWatch:
    """What looks for drift in the scorer's log."""

    def served() -> Any:
        now = scorer.source.served
        return None if now is None else (now.bundle, now.model.features)

    return DriftWatch(lambda: scorer.patient.decisions, served, scorer.metrics, scorer.clock)


def add_drift(app: FastAPI, scorer: FraudScorer) -> None:
    """Add ``GET /drift`` to ``app``."""
    watch = watch_of(scorer)
    looking = threading.Lock()
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    problems: dict[int | str, dict[str, Any]] = {
        422: {"description": "The request is not valid.", "content": content},
        429: {"description": "Somebody is looking already.", "content": content},
        503: {"description": "No bundle to compare with, or the log did not answer.", "content": content},
    }

    @app.get(
        "/drift",
        summary="What has changed since the model was trained",
        response_model=None,
        responses={200: {"model": DriftReport}, **problems},
        openapi_extra={"parameters": query_parameters(_ASKED)},
    )
    async def drift(request: Request) -> Response:
        since, until = parse_window(read_query(request, _ASKED), scorer.clock())
        if not looking.acquire(blocking=False):
            raise TooManyRequests("Somebody is looking for drift already: one at a time.", 5)

        def look() -> bytes:
            try:
                return REPORT.dump_json(watch.look(since, until))
            except StoreUnavailable as error:
                raise NotReached(f"{error} Try again.") from None
            finally:
                looking.release()

        return json_response(await asyncio.to_thread(look))


def parse_window(values: Mapping[str, str], now_ms: int) -> tuple[int | None, int | None]:
    """The times that were asked for, ms; None where they were not. Raises ``InvalidRequest``."""
    moments: dict[str, int] = {}
    problems = []
    for name, text in values.items():
        moment = day_or_time(text)
        if moment is None:
            problems.append(FieldError(name, WHEN))
        else:
            moments[name] = moment
    since, until = moments.get("since"), moments.get("until")
    if not problems and since is not None and not 0 < (now_ms if until is None else until) - since <= MAX_DAYS * DAY_MS:
        problems.append(FieldError("since", f"must be before until, by {MAX_DAYS} days at most"))
    if problems:
        raise InvalidRequest("The query is not valid.", tuple(problems))
    return since, until
