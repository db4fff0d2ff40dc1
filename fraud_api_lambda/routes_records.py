"""The routes over what was decided: transactions, labels, parties, summaries, metrics.

These are read by people, and scoring must not wait for them: every look into the log or the store is made in a few
threads and over connections of their own, whatever the backend, and may take longer.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal, get_args

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import to_json
from starlette.types import Lifespan

from . import profiles
from .decision_log import (
    MAX_PAGE,
    Day,
    Label,
    LabelFilter,
    LabelSource,
    Search,
    Stored,
    read_cursor,
)
from .errors import FieldError, InvalidRequest, NotFound, NotReached, ProfileError, StoreUnavailable
from .features import TimeZone
from .judge import WITHOUT_BUNDLE_RATES
from .metrics import Gauges, exposition, log_summary
from .parties import PartyView, describe
from .schemas import (
    CLOCK_SKEW_MS,
    TYPES,
    WHEN,
    Decision,
    Pseudonyms,
    RateTable,
    day_or_time,
    parse_json,
    parse_rfc3339,
    rfc3339,
)
from .scoring import FraudScorer
from .settings import Outcome
from .web import json_response, query_parameters, read_body, read_query, request_json

#: Reads and labels at once; the rest waits.
THREADS = 4
MAX_FEEDBACK = 8 * 1024
#: Days that one summary covers at most, and by default.
MAX_DAYS = 366
DAYS = 30

_TRANSACTION_ID = re.compile(r"[\x20-\x7e]{1,64}")
LabelName = Literal["fraud", "legitimate"]


# --- what is answered ------------------------------------------------------------------------------------------------


class LabelView(BaseModel):
    label: LabelName
    source: LabelSource
    time: Annotated[str, Field(description="When it was found out.")]
    received_at: Annotated[str, Field(description="When the service was told.")]
    note: str


class TransactionView(BaseModel):
    """A recorded decision with what it was about. Parties are pseudonyms where the service keeps such."""

    transaction_id: str
    received_at: Annotated[str, Field(description="When the request came in; RFC 3339, as every time here.")]
    timestamp: Annotated[str, Field(description="When the transaction took place.")]
    type: str | None
    customer_id: str | None
    counterparty_id: str | None
    device_id: str | None
    latency_ms: float
    label: Annotated[LabelView | None, Field(description="The one that counts; null: nobody has said anything.")]
    decision: Annotated[Decision, Field(description="The answer, as it was given.")]


class TransactionList(BaseModel):
    transactions: list[TransactionView]
    next: Annotated[
        str | None,
        Field(
            description="The `cursor` of the next page; null: there is none. A page may be short and still have one."
        ),
    ]


class TransactionWhole(TransactionView):
    """All that is known of one transaction."""

    labels: Annotated[list[LabelView], Field(description="All that was ever said, by arrival.")]
    record: Annotated[
        dict[str, Any],
        Field(
            description="What made the decision: `event` in the service's own terms (minor units of the base "
            "currency), `features` by name (missing ones left out), `members` (margin of each model), `versions` of "
            "the profiles as seen."
        ),
    ]


class Feedback(BaseModel):
    """What is now known of a transaction."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    transaction_id: Annotated[str, Field(pattern=r"^[\x20-\x7e]{1,64}$")]
    label: LabelName
    source: Annotated[LabelSource, Field(description="chargeback outranks analyst, analyst outranks customer.")]
    time: Annotated[str, Field(max_length=40)] | None = Field(
        None,
        description="RFC 3339, when it was found out; default: now. Send it, and the same label again is one label.",
    )
    note: Annotated[str, Field(max_length=500)] = Field("", description="For people; no personal data, please.")


class FeedbackAnswer(BaseModel):
    transaction_id: str
    label: Annotated[LabelView, Field(description="The label that counts now, which may be an earlier one.")]
    recorded: Annotated[LabelView, Field(description="The label that was sent, as it stands in the log.")]


@dataclass(frozen=True, slots=True)
class DayView:
    """One UTC day of arrivals, test inputs left out; money in the base currency.

    Shares are of what is labelled; null where there is nothing to divide by. Mostly what was flagged gets a label, so
    `recall` and `false_positive_rate` are as good as the labels of what was not.
    """

    day: str
    decisions: int
    outcomes: dict[Outcome, int]
    alerts: Annotated[int, Field(description="Sent to review or declined.")]
    degraded: int
    amount: float
    declined_amount: float
    labelled: int
    fraud: int
    fraud_amount_flagged: float
    fraud_amount_missed: float
    precision: Annotated[float | None, Field(description="Of the alerts that are labelled, the share that is fraud.")]
    recall: float | None
    false_positive_rate: float | None
    mature: Annotated[bool, Field(description="The label delay has passed: most labels are there.")]
    latency_p50_ms: Annotated[float | None, Field(description="At most this, as the next quantile; from buckets.")]
    latency_p99_ms: float | None
    complete: Annotated[bool, Field(description="false: more was decided on that day than was counted.")]


class Summary(BaseModel):
    base_currency: str
    label_delay_days: float
    days: list[DayView]


DAY = TypeAdapter(DayView)
PARTY = TypeAdapter(PartyView)

_LISTED: dict[str, tuple[str, dict[str, Any]]] = {
    "since": ("Arrived at this time, or on this day, or later; RFC 3339 or a day of UTC.", {"type": "string"}),
    "until": ("Arrived before this time, or before this day.", {"type": "string"}),
    "outcome": ("", {"enum": list(get_args(Outcome))}),
    "label": ("The label that counts; `none`: without one.", {"enum": list(get_args(LabelFilter))}),
    "min_probability": ("", {"type": "number", "minimum": 0, "maximum": 1}),
    "customer_id": ("", {"type": "string", "maxLength": 64}),
    "counterparty_id": ("", {"type": "string", "maxLength": 64}),
    "rule": ("Id of a rule that fired, or `list:deny`, `list:allow`.", {"type": "string", "maxLength": 128}),
    "test": ("Only test inputs, or none; default: both.", {"type": "boolean"}),
    "order": ("By arrival; default: newest.", {"enum": ["newest", "oldest"]}),
    "limit": ("Default: 50.", {"type": "integer", "minimum": 1, "maximum": MAX_PAGE}),
    "cursor": ("`next` of the page before; the other parameters stay the same.", {"type": "string"}),
}
_SUMMED: dict[str, tuple[str, dict[str, Any]]] = {
    "since": (f"First day, or a time in it; default: {DAYS} days ago.", {"type": "string"}),
    "until": ("Day after the last, or a time in the last; default: now.", {"type": "string"}),
}


def add_records(app: FastAPI, scorer: FraudScorer, *, scraped: bool = True) -> None:
    """Add the routes to ``app``. ``scraped`` false: metrics go elsewhere, and ``/metrics`` says so (404)."""
    threads = ThreadPoolExecutor(THREADS, thread_name_prefix="records")
    app.router.lifespan_context = _around(app.router.lifespan_context, threads)
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    invalid: dict[int | str, dict[str, Any]] = {422: {"description": "The request is not valid.", "content": content}}
    missing: dict[int | str, dict[str, Any]] = {404: {"description": "There is no such one.", "content": content}}
    silent: dict[int | str, dict[str, Any]] = {503: {"description": "A store did not answer.", "content": content}}

    async def call[**P, T](what: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(threads, lambda: what(*args, **kwargs))
        except StoreUnavailable as error:
            raise NotReached(f"{error} Try again.") from None

    @app.get(
        "/transactions",
        summary="List recorded decisions",
        response_model=None,
        responses={200: {"model": TransactionList}, **invalid, **silent},
        openapi_extra={"parameters": query_parameters(_LISTED)},
    )
    async def transactions(request: Request) -> Response:
        search = parse_search(read_query(request, _LISTED), lambda party: known_as(scorer, party))

        def read() -> bytes:
            page = scorer.patient.decisions.search(search)
            items = b",".join(_with(_view(stored), decision=stored.record.answer) for stored in page.items)
            return b'{"transactions":[%s],"next":%s}' % (items, to_json(page.cursor))

        return json_response(await call(read))

    @app.get(
        "/transactions/{transaction_id:path}",
        summary="All about one transaction",
        response_model=None,
        responses={200: {"model": TransactionWhole}, **missing, **silent},
        openapi_extra={"parameters": [_in_path("transaction_id")]},
    )
    async def transaction(request: Request) -> Response:
        transaction_id = scorer.pseudonyms.transaction(request.path_params["transaction_id"])

        def read() -> bytes:
            known = _TRANSACTION_ID.fullmatch(transaction_id) is not None
            stored = scorer.patient.decisions.find([transaction_id]).get(transaction_id) if known else None
            if stored is None:
                raise NotFound("No transaction with this id is recorded.")
            view = {
                **_view(stored),
                "labels": [_label(label) for label in scorer.patient.decisions.labels(transaction_id)],
            }
            return _with(view, decision=stored.record.answer, record=stored.record.document.encode())

        return json_response(await call(read))

    @app.post(
        "/feedback",
        summary="Say what a transaction turned out to be",
        response_model=None,
        responses={200: {"model": FeedbackAnswer}, **missing, **invalid, **silent},
        openapi_extra={
            "requestBody": request_json(
                "Feedback",
                {"a chargeback": {"value": {"transaction_id": "order-1001", "label": "fraud", "source": "chargeback"}}},
            )
        },
    )
    async def feedback(request: Request) -> Response:
        sent = parse_feedback(parse_json(await read_body(request, MAX_FEEDBACK)))
        label = to_label(sent, scorer.clock(), scorer.pseudonyms)
        stored, recorded = await call(scorer.feedback, label, timed=sent.time is not None)
        if not stored.record.test:
            scorer.metrics.add("labels", label.source, _name(label))
        counts = stored.label or recorded
        answer = {"transaction_id": label.transaction_id, "label": _label(counts), "recorded": _label(recorded)}
        return json_response(to_json(answer))

    @app.get(
        "/parties/{party_id:path}",
        summary="A party's normal",
        response_model=None,
        responses={200: {"model": PartyView}, **missing, **silent},
        openapi_extra={"parameters": [_in_path("party_id")]},
    )
    async def party(request: Request) -> Response:
        asked = request.path_params["party_id"]
        view = await call(view_party, scorer, known_as(scorer, asked)) if 0 < len(asked) <= 64 else None
        if view is None:
            raise NotFound("Nothing is known of a party with this id.")
        return json_response(PARTY.dump_json(view))

    @app.get(
        "/summary",
        summary="Figures by day",
        response_model=None,
        responses={200: {"model": Summary}, **invalid, **silent},
        openapi_extra={"parameters": query_parameters(_SUMMED)},
    )
    async def summary(request: Request) -> Response:
        since, until = parse_days(read_query(request, _SUMMED), scorer.clock())
        days = await call(lambda: scorer.patient.decisions.summary(since, until))
        now, rates, delay_ms = scorer.clock(), _rates(scorer), _label_delay_ms(scorer)
        views = [describe_day(day, now, minor_factor=rates.minor_factor, label_delay_ms=delay_ms) for day in days]
        told = {"base_currency": rates.base, "label_delay_days": delay_ms / profiles.DAY_MS, "days": views}
        return json_response(to_json(told))

    @app.get(
        "/metrics",
        summary="Counters for Prometheus",
        response_model=None,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **missing},
    )
    async def scrape() -> Response:
        if not scraped:
            raise NotFound("Metrics are not kept here: they go to the platform's own (docs/operations.md).")
        text, content_type = await call(lambda: exposition(scorer.metrics, gauges(scorer)))
        return Response(text, headers={"Content-Type": content_type})


def _around(lifespan: Lifespan[Any], threads: ThreadPoolExecutor) -> Lifespan[Any]:
    """The app's lifespan; after it the threads end."""

    @contextlib.asynccontextmanager
    async def around(app: Any) -> AsyncIterator[Mapping[str, Any] | None]:
        async with lifespan(app) as state:
            yield state
        threads.shutdown(wait=False, cancel_futures=True)

    return around  # type: ignore[return-value]  # Lifespan is a union of with and without a state


def known_as(scorer: FraudScorer, asked: str) -> str:
    """The party as log and profiles know it: its pseudonym, where they keep such."""
    return scorer.pseudonyms.of(asked)


# --- reading the question --------------------------------------------------------------------------------------------


def parse_search(values: Mapping[str, str], known_as: Callable[[str], str]) -> Search:
    """What to list. Raises ``InvalidRequest`` naming every parameter that is wrong."""
    problems: list[FieldError] = []

    def read[T](name: str, parse: Callable[[str], T | None], message: str) -> T | None:
        if name not in values:
            return None
        value = parse(values[name])
        if value is None:
            problems.append(FieldError(name, message))
        return value

    def choice[T: str](name: str, choices: tuple[T, ...]) -> T | None:
        return read(name, lambda text: next((c for c in choices if c == text), None), f"must be one of {_or(choices)}")

    test = choice("test", ("true", "false"))
    found = Search(
        since_ms=read("since", day_or_time, WHEN),
        until_ms=read("until", day_or_time, WHEN),
        outcome=choice("outcome", get_args(Outcome)),
        label=choice("label", get_args(LabelFilter)),
        min_probability=read("min_probability", _share, "must be a number from 0 to 1"),
        customer_id=read("customer_id", lambda text: _short(text, 64), "must have 1 to 64 characters"),
        counterparty_id=read("counterparty_id", lambda text: _short(text, 64), "must have 1 to 64 characters"),
        rule=read("rule", lambda text: _short(text, 128), "must have 1 to 128 characters"),
        test=None if test is None else test == "true",
        oldest_first=choice("order", ("newest", "oldest")) == "oldest",
        limit=read("limit", _limit, f"must be a whole number, 1 to {MAX_PAGE}") or 50,
        cursor=read("cursor", _cursor, "is not one of this list's: begin again without it"),
    )
    if problems:
        raise InvalidRequest("The query is not valid.", tuple(problems))
    parties = {
        name: known_as(party)
        for name in ("customer_id", "counterparty_id")
        if (party := getattr(found, name)) is not None
    }
    return _replaced(found, parties)


def _replaced(search: Search, changes: Mapping[str, Any]) -> Search:
    return Search(**{name: changes.get(name, getattr(search, name)) for name in Search.__dataclass_fields__})


def _or(choices: tuple[str, ...]) -> str:
    return f"{', '.join(choices[:-1])} or {choices[-1]}"


def _short(text: str, most: int) -> str | None:
    return text if 0 < len(text) <= most and "\0" not in text else None


def _share(text: str) -> float | None:
    if not re.fullmatch(r"\d{0,3}\.?\d{1,20}|\d{1,20}e-\d{1,3}", text, re.ASCII):
        return None
    value = float(text)
    return value if 0.0 <= value <= 1.0 else None


def _limit(text: str) -> int | None:
    return int(text) if re.fullmatch(r"\d{1,3}", text, re.ASCII) and 1 <= int(text) <= MAX_PAGE else None


def _cursor(text: str) -> str | None:
    try:
        read_cursor(text)
    except ValueError:
        return None
    return text if len(text) <= 1024 else None


def parse_days(values: Mapping[str, str], now_ms: int) -> tuple[int, int]:
    """The days ``[since, until)`` since 1970 that were asked for. Raises ``InvalidRequest``."""
    moments: dict[str, int] = {}
    problems = []
    for name, text in values.items():
        moment = day_or_time(text)
        if moment is None:
            problems.append(FieldError(name, WHEN))
        else:
            moments[name] = moment
    if not problems:
        until = -(-moments.get("until", now_ms + 1) // profiles.DAY_MS)
        since = moments["since"] // profiles.DAY_MS if "since" in moments else until - DAYS
        if not 0 < until - since <= MAX_DAYS:
            problems.append(FieldError("since", f"must be before until, by {MAX_DAYS} days at most"))
    if problems:
        raise InvalidRequest("The query is not valid.", tuple(problems))
    return max(since, 0), until


def parse_feedback(data: Any) -> Feedback:
    """Validate feedback from what ``parse_json`` gave. Raises ``InvalidRequest`` naming every field that is wrong."""
    try:
        return Feedback.model_validate(data)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False, include_context=False)
        found = dict.fromkeys(_field_error(detail["type"], detail["loc"]) for detail in details[:20])
        raise InvalidRequest("The feedback is not valid.", tuple(found)) from None


_FIELDS = {
    "transaction_id": "must be 1 to 64 printable ASCII characters",
    "label": f"must be {_or(get_args(LabelName))}",
    "source": f"must be one of {_or(get_args(LabelSource))}",
    "time": "must be RFC 3339, from 1970 on, such as 2026-02-06T10:00:00Z",
    "note": "must be text of at most 500 characters",
}


def _field_error(kind: str, loc: tuple[int | str, ...]) -> FieldError:
    field = str(loc[0]) if loc else "body"
    if field not in _FIELDS:
        message = f"must be a JSON object with {', '.join(_FIELDS)}"
        return FieldError("body", message) if not loc else FieldError("(a field)", f"is not known; {message[5:]}")
    return FieldError(field, "is required" if kind == "missing" else _FIELDS[field])


def to_label(feedback: Feedback, now_ms: int, known_as: Pseudonyms) -> Label:
    """Raises ``InvalidRequest`` for a time that is none or lies ahead, and for card numbers where those are refused."""
    time_ms = now_ms if feedback.time is None else parse_rfc3339(feedback.time)
    if time_ms is None:
        raise InvalidRequest("The feedback is not valid.", (FieldError("time", _FIELDS["time"]),))
    if time_ms > now_ms + CLOCK_SKEW_MS:
        problem = FieldError("time", "must not be more than five minutes in the future")
        raise InvalidRequest("The feedback is not valid.", (problem,))
    return Label(
        transaction_id=known_as.transaction(feedback.transaction_id),
        is_fraud=feedback.label == "fraud",
        source=feedback.source,
        time_ms=time_ms,
        received_ms=now_ms,
        note=known_as.note("note", feedback.note),
    )


# --- writing the answer ----------------------------------------------------------------------------------------------


def _view(stored: Stored) -> dict[str, Any]:
    record = stored.record
    code = record.event["type_code"]
    return {
        "transaction_id": record.transaction_id,
        "received_at": rfc3339(record.received_ms),
        "timestamp": rfc3339(record.time_ms),
        "type": TYPES[code] if code >= 0 else None,
        "customer_id": record.customer_id,
        "counterparty_id": record.counterparty_id,
        "device_id": record.device_id,
        "latency_ms": record.latency_us / 1000,
        "label": None if stored.label is None else _label(stored.label),
    }


def _label(label: Label) -> dict[str, Any]:
    return {
        "label": _name(label),
        "source": label.source,
        "time": rfc3339(label.time_ms),
        "received_at": rfc3339(label.received_ms),
        "note": label.note,
    }


def _name(label: Label) -> LabelName:
    return "fraud" if label.is_fraud else "legitimate"


def _with(view: Mapping[str, Any], **documents: bytes) -> bytes:
    """The view as JSON, with members that are JSON already, byte for byte as they were stored."""
    parts = b"".join(b',"%s":%s' % (name.encode(), data) for name, data in documents.items())
    return to_json(view)[:-1] + parts + b"}"


def view_party(scorer: FraudScorer, party: str) -> PartyView | None:
    """The party's profile, told to people; None where nothing is known. Raises ``StoreUnavailable``."""
    found = scorer.patient.store.read([party]).get(party)
    if found is None:
        return None
    try:
        state = profiles.decode(found[1])
    except ProfileError:
        return None  # the next transaction begins it anew
    rates = _rates(scorer)
    served = scorer.source.served
    zone = served.model.features.time_zone if served else TimeZone()
    return describe(party, state, scorer.clock(), currency=rates.base, minor_factor=rates.minor_factor, zone=zone)


def describe_day(day: Day, now_ms: int, *, minor_factor: float, label_delay_ms: int) -> DayView:
    """A day of the log's, told to people. The label delay counts from the day's end."""
    caught, false_alarms = day.labels.get((True, True), 0), day.labels.get((True, False), 0)
    missed, passed = day.labels.get((False, True), 0), day.labels.get((False, False), 0)
    outcomes = {outcome: day.by_outcome.get(outcome, 0) for outcome in get_args(Outcome)}
    return DayView(
        day=rfc3339(day.day * profiles.DAY_MS)[:10],
        decisions=day.decisions,
        outcomes=outcomes,
        alerts=outcomes["review"] + outcomes["decline"],
        degraded=day.degraded,
        amount=day.amount_minor / minor_factor,
        declined_amount=day.declined_minor / minor_factor,
        labelled=caught + false_alarms + missed + passed,
        fraud=caught + missed,
        fraud_amount_flagged=day.fraud_minor.get(True, 0) / minor_factor,
        fraud_amount_missed=day.fraud_minor.get(False, 0) / minor_factor,
        precision=_ratio(caught, caught + false_alarms),
        recall=_ratio(caught, caught + missed),
        false_positive_rate=_ratio(false_alarms, false_alarms + passed),
        mature=(day.day + 1) * profiles.DAY_MS + label_delay_ms < now_ms,
        latency_p50_ms=_latency_ms(day, 0.5),
        latency_p99_ms=_latency_ms(day, 0.99),
        complete=day.complete,
    )


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _latency_ms(day: Day, share: float) -> float | None:
    """The upper edge of the bucket in which the quantile lies."""
    wanted = share * sum(n for _, n in day.latency_us)
    seen = 0
    for edge, n in day.latency_us:
        seen += n
        if n and seen >= wanted:
            return edge / 1000
    return None


def summarize(scorer: FraudScorer, day: int) -> None:
    """Write the line of one day (days since 1970) into the log. Raises ``StoreUnavailable``."""
    for found in scorer.patient.decisions.summary(day, day + 1):
        factor = _rates(scorer).minor_factor
        view = describe_day(found, scorer.clock(), minor_factor=factor, label_delay_ms=_label_delay_ms(scorer))
        log_summary(DAY.dump_python(view))


def gauges(scorer: FraudScorer) -> Gauges:
    """What ``metrics.GAUGES`` names, as it is now."""
    found = served_gauges(scorer)
    if scorer.outbox is not None and scorer.outbox.inline:  # over the network the platform counts for itself
        with contextlib.suppress(StoreUnavailable):
            found.update({("outbox_waiting", kind): float(n) for kind, n in scorer.outbox.waiting().items()})
    return found


def served_gauges(scorer: FraudScorer) -> dict[tuple[str, ...], float]:
    """Those of them about bundle and rules, which cost no look at a disk."""
    source = scorer.source
    trouble = source.trouble
    unpublished = source.served is None and trouble is not None and trouble.state == "missing"
    found: dict[tuple[str, ...], float] = {
        ("model_trouble",): float(trouble is not None),
        ("unpublished",): float(unpublished),
    }
    for name, breaker in scorer.breakers.items():
        found["breaker_open", name] = float(breaker.state != "closed")
    if source.rules_state is not None:
        found["rules_trouble",] = float(source.rules_state["state"] != "ok")
    if source.served is not None:
        bundle = source.served.bundle
        if bundle.serial is not None:
            found["bundle_serial",] = float(bundle.serial)
        made = _read_time(bundle.manifest.created_at)
        if made is not None:
            found["bundle_age_seconds",] = (scorer.clock() - made) / 1000
    return found


_read_time = lru_cache(maxsize=4)(parse_rfc3339)


def _rates(scorer: FraudScorer) -> RateTable:
    served = scorer.source.served
    return served.model.rates if served else WITHOUT_BUNDLE_RATES


def _label_delay_ms(scorer: FraudScorer) -> int:
    served = scorer.source.served
    return served.model.features.label_delay_ms if served else 7 * profiles.DAY_MS


# --- the contract, written down --------------------------------------------------------------------------------------


def _in_path(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1, "maxLength": 64}}
