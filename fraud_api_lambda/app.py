"""The HTTP contract: routes, and the one table that turns an error into problem+json.

Endpoints are ``async`` and read the body themselves: one parse, one validation, no thread hop, and no framework error
page that repeats what was sent.
"""

import asyncio
import contextlib
import json
import logging
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema
from pydantic_core import to_json
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import HTMLResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from . import __version__, card_numbers
from .access import Access, Guard, GuardedRoute, Me, describe_caller, document_access
from .daily import Daily
from .decision_log.together import Together
from .errors import FieldError, FraudError, InvalidRequest, NotServed, RequestError, StoreUnavailable
from .metrics import Metrics
from .outbox import Kind, Sink
from .outbox.loop import Drain
from .reload import ModelSource
from .routes_drift import add_drift
from .routes_learning import BODIES as LEARNING_BODIES
from .routes_learning import add_backtest
from .routes_records import Feedback, add_records
from .schemas import (
    Batch,
    BatchResult,
    Decision,
    Transaction,
    parse_batch,
    parse_json,
    rfc3339,
)
from .scoring import Answer, FraudScorer
from .web import json_response as _json
from .web import problem as _problem
from .web import problem_response as _problem_response
from .web import read_body as _body
from .web import refusal
from .web import request_json as _json_body

log = logging.getLogger("fraud.app")

MAX_BODY = 64 * 1024
MAX_BATCH_BODY = 6 * 2**20  # what Lambda takes at most
#: Requests that may wait for a store over the network at once.
THREADS = 16
_CARD = "model_card.md"
_REPLAYED = {"Idempotent-Replayed": "true"}
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")

#: Bodies that other fraud APIs' callers send: accepted as they stand, and the examples under /docs.
EXAMPLES: dict[str, dict[str, Any]] = {
    "large transfer at night": {
        "amount": 4500, "type": "TRANSFER", "timestamp": "2026-02-06T02:30:00Z", "customer_id": "C100004",
        "counterparty_id": "C553264065", "oldbalanceOrg": 4500, "oldbalanceDest": 0,
    },
    "everyday purchase": {
        "timestamp": "2026-02-06T10:00:00", "customer_id": "C777777", "merchant_id": "Grocery", "amount": 40,
        "lat": 40.7, "long": -74.0,
    },
    "PaySim row": {
        "step": 1, "type": "TRANSFER", "amount": 181.0, "nameOrig": "C1305486145", "oldbalanceOrg": 181.0,
        "newbalanceOrig": 0.0, "nameDest": "C553264065", "oldbalanceDest": 0.0, "newbalanceDest": 0.0,
    },
    "balances only": {"amount": 123.45, "oldbalanceOrg": 1000, "newbalanceOrig": 876.55},
    "card row": {"Time": 0, "V1": -1.36, "V2": -0.07, "V3": 2.54, "Amount": 149.62},
}  # fmt: skip


def create_app(
    scorer: FraudScorer,
    *,
    cors_origins: Sequence[str] = (),
    guard: Guard | None = None,
    sinks: Mapping[Kind, Sink] | None = None,
    retention_days: int | None = None,
    scraped: bool = True,
) -> FastAPI:
    """The application around a scorer. Does no I/O; while it is served, tasks beside it look for new bundles, drain the
    outbox into ``sinks`` (the scorer's own where None), judge with the challenger and do what is due once a day.

    Without a ``guard``, programs on this machine may do everything. ``scraped``: whether /metrics has them.
    """
    source = scorer.source
    guard = Guard(origins=cors_origins) if guard is None else guard
    # A store inside the process answers at once; one over the network is waited for in a thread, so that its slowness
    # holds up nobody else.
    threads = None if scorer.inline else ThreadPoolExecutor(THREADS, thread_name_prefix="scoring")

    # What waits for the disk gathers there, and others are judged meanwhile: requests at the same time share an fsync.
    together = Together(scorer.decisions) if scorer.inline and scorer.decisions.durable else None

    async def _call[**P, T](call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if threads is None:
            return call(*args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(threads, lambda: call(*args, **kwargs))

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if not scorer.inline:
            await asyncio.to_thread(scorer.connect)
        watching = asyncio.create_task(_watch(scorer))
        drain = None if scorer.outbox is None else Drain(scorer.outbox, app.state.sinks)
        if drain is not None:
            drain.start()
        if scorer.shadow is not None:
            scorer.shadow.start()
        daily = app.state.daily
        daily.start()
        yield
        watching.cancel()
        await asyncio.to_thread(daily.stop)
        if scorer.shadow is not None:
            scorer.shadow.stop()
        if drain is not None:
            await asyncio.to_thread(drain.stop)
        if together is not None:
            together.close()
        if threads is not None:
            threads.shutdown(wait=False, cancel_futures=True)

    app = FastAPI(
        title="Fraud detection",
        version=__version__,
        description="Judges a transaction: calibrated fraud probability, outcome, exact reasons.",
        lifespan=lifespan,
        openapi_url="/openapi.json",
        redoc_url=None,
        redirect_slashes=False,  # a redirect would repeat the Host that was sent
    )
    app.state.scorer = scorer
    app.state.sinks = scorer.sinks if sinks is None else sinks
    app.state.daily = Daily(scorer, retention_days=retention_days)
    app.router.route_class = GuardedRoute
    # Not under "model": FastAPI would say application/json. The schema itself comes with the batch's answer.
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    problems: dict[int | str, dict[str, Any]] = {
        413: {"description": "The body is too large.", "content": problem},
        422: {"description": "The request is not valid.", "content": problem},
    }
    judged: dict[int | str, dict[str, Any]] = {
        409: {"description": "The `transaction_id` was sent before with another body.", "content": problem},
        503: {"description": "The decision could be recorded nowhere, and is to be refused then.", "content": problem},
    }
    not_served: dict[int | str, dict[str, Any]] = {503: {"description": "No bundle is loaded.", "content": problem}}
    replayed = {
        "Idempotent-Replayed": {
            "description": "`true`: the same transaction was sent before, and this is the answer that it got.",
            "schema": {"type": "string"},
        }
    }
    explain_parameter = {
        "name": "explain",
        "in": "query",
        "required": False,
        "schema": {"type": "boolean"},
        "description": "true: always give reasons; false: never; default: unless the outcome is approve.",
    }

    @app.post(
        "/predict",
        summary="Judge one transaction",
        response_model=None,
        responses={200: {"model": Decision, "headers": replayed}, **problems, **judged},
        openapi_extra={
            "parameters": [explain_parameter],
            "requestBody": _json_body("Transaction", {name: {"value": value} for name, value in EXAMPLES.items()}),
        },
    )
    async def predict(request: Request) -> Response:
        explain = _explain(request)
        data = parse_json(await _body(request, MAX_BODY))
        if together is None:
            answer = await _call(scorer.answer, data, explain)
        else:
            answer = await scorer.answer_async(data, explain, together.append)
        return _json(answer.body, headers=_REPLAYED if answer.replayed else None)

    @app.post(
        "/predict/batch",
        summary="Judge up to 1,000 transactions",
        response_model=None,
        responses={200: {"model": BatchResult}, **problems},
        openapi_extra={
            "parameters": [explain_parameter],
            "requestBody": _json_body("Batch", {"two": {"value": {"transactions": list(EXAMPLES.values())[:2]}}}),
        },
    )
    async def predict_batch(request: Request) -> Response:
        explain = _explain(request)
        items = parse_batch(await _body(request, MAX_BATCH_BODY))
        guard.charge(request.scope, len(items) - 1)
        if together is None:
            answers = await _call(scorer.answer_many, items, explain)
        else:
            answers = await scorer.answer_many_async(items, explain, together.append)
        parts = []
        for index, answer in enumerate(answers):
            if isinstance(answer, Answer):
                parts.append(b'{"index":%d,"decision":%s}' % (index, answer.body))
            else:
                parts.append(b'{"index":%d,"problem":%s}' % (index, to_json(_problem(answer, None))))
        return _json(b'{"results":[' + b",".join(parts) + b"]}")

    @app.get("/model", summary="What is served", response_model=None, responses=not_served)
    async def model() -> Response:
        def described() -> bytes:
            return to_json({**_describe_model(source), "challenger": _describe_challenger(scorer)})

        # The bundle's files come from disk or S3: read in a thread, beside the requests.
        return _json(await asyncio.to_thread(described))

    @app.get(
        "/model/report",
        summary="The bundle's report",
        response_model=None,
        response_class=HTMLResponse,
        responses=not_served,
    )
    async def report() -> Response:
        if source.served is None:
            raise _nothing_served(source)
        # From disk or S3, checked against its digest.
        page = await asyncio.to_thread(source.served.bundle.read, "report.html")
        policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
        return Response(page, media_type="text/html", headers={"Content-Security-Policy": policy})

    @app.get("/health", summary="Whether the process is alive", response_model=None)
    async def health() -> Response:
        return _json(b'{"status":"ok"}')

    @app.get("/ready", summary="Whether a model is served", response_model=None, responses={503: {}})
    async def ready(request: Request) -> Response:
        if not request.scope.get("caller"):
            # Looking into the stores writes into them: not for everybody, who is not told either.
            return _status_alone(_ready(source, {}))
        return _ready(source, await _call(_stores, scorer))

    @app.get("/me", summary="Whose key this is, and what it opens", response_model=None, responses={200: {"model": Me}})
    async def me(request: Request) -> Response:
        return _json(to_json(describe_caller(request.scope["caller"])))

    add_records(app, scorer, scraped=scraped)
    add_backtest(app, scorer)
    add_drift(app, scorer)

    app.add_exception_handler(RequestError, _on_request_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(FraudError, _on_fraud_error)
    app.add_middleware(Access, guard=guard)
    app.add_middleware(Boundary, metrics=scorer.metrics)
    if cors_origins:
        from starlette.middleware.cors import CORSMiddleware

        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Content-Type", "X-API-Key", "X-Request-ID"],
            expose_headers=["Idempotent-Replayed", "Retry-After", "X-Request-ID"],
        )
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]  # FastAPI documents this way
    return app


async def _watch(scorer: FraudScorer) -> None:
    """Look for new bundles once a minute, in a thread, beside the requests."""
    sources = [scorer.source, *([scorer.challenger] if scorer.challenger else [])]
    while True:
        await asyncio.sleep(1.0)
        for source in sources:
            if source.due():
                await asyncio.to_thread(source.refresh_if_due)


# --- requests --------------------------------------------------------------------------------------------------------


def _explain(request: Request) -> bool | None:
    query = request.scope["query_string"]
    if not query:
        return None
    sent = request.query_params.getlist("explain")
    if not sent:
        return None
    if len(sent) == 1 and sent[0] in {"true", "false"}:
        return sent[0] == "true"
    raise InvalidRequest("The query is not valid.", (FieldError("explain", "must be true or false"),))


# --- answers ---------------------------------------------------------------------------------------------------------


async def _on_request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return refusal(error, request.scope.get("request_id"))


async def _on_fraud_error(request: Request, error: Exception) -> Response:
    """A bundle's file that could not be read while it was asked for."""
    log.error("not served", extra={"error": type(error).__name__})
    return _problem_response(_problem(NotServed(str(error)), request.scope.get("request_id")))


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    titles = {404: "Not found", 405: "Method not allowed"}
    details = {
        404: "There is no such address here; /docs lists what there is.",
        405: "This address does not take that method; /docs lists what there is.",
    }
    problem = {
        "type": "about:blank",
        "title": titles.get(error.status_code, "Request refused"),
        "status": error.status_code,
        "detail": details.get(error.status_code, "The request was refused."),
        "request_id": request.scope.get("request_id"),
    }
    return _problem_response(problem, dict(error.headers) if error.headers else None)


def _stores(scorer: FraudScorer) -> dict[str, Any]:
    """Whether the stores answer, and what waits in the outbox."""

    def state(call: Callable[[], Any]) -> Any:
        try:
            found = call()
        except StoreUnavailable:
            return "unavailable"
        return "ok" if found is None else found

    found = {"feature_store": state(scorer.store.check), "decision_log": state(scorer.decisions.check)}
    if scorer.outbox is not None:
        found["outbox"] = state(scorer.outbox.waiting)
    if scorer.breakers:
        found["breakers"] = {name: breaker.state for name, breaker in scorer.breakers.items()}
    return found


def _ready(source: ModelSource, stores: dict[str, Any]) -> Response:
    """200 while a model is served, even where the last look for a newer one or for the rules failed, the model is the
    image's own or a store does not answer: scores are still given, flagged. All of it is told.
    """
    trouble, served = source.trouble, source.served
    body: dict[str, Any] = {"status": "ready" if served and not served.baked else "degraded"}
    if served is not None:
        body |= {"model": "baked" if served.baked else "ok", "model_version": served.version}
    else:
        state, detail = (trouble.state, trouble.detail) if trouble else ("missing", "No bundle is loaded.")
        body |= {"model": state, "detail": detail, "rules_version": source.rules.version}
    body |= stores
    if source.rules_state is not None:
        body["rules"] = source.rules_state
    if served is not None and trouble is not None:
        body["last_refresh"] = {"model": trouble.state, "detail": trouble.detail}
    return _json(to_json(body), 200 if served else 503)


def _status_alone(whole: Response) -> Response:
    """For whoever has no key: load balancers have none, and the reasons are not for everybody."""
    return _json(to_json({"status": json.loads(bytes(whole.body))["status"]}), whole.status_code)


def _nothing_served(source: ModelSource) -> NotServed:
    detail = source.trouble.detail if source.trouble else "No bundle is loaded."
    return NotServed(f"{detail} Transactions are decided by rules alone.")


def _describe_challenger(scorer: FraudScorer) -> dict[str, Any] | None:
    """What stands beside the champion; None where no challenger is set or found."""
    served = scorer.challenger.served if scorer.challenger else None
    if served is None:
        return None
    return {
        "model_version": served.version,
        "serial": served.bundle.serial,
        "share": served.bundle.share,
        "thresholds": served.bundle.manifest.thresholds.model_dump(),
        "trained_at": served.bundle.manifest.created_at,
        "metrics": json.loads(served.bundle.read("metrics.json")).get("test"),
        "shadow": scorer.shadow.found() if scorer.shadow else None,
    }


def _describe_model(source: ModelSource) -> dict[str, Any]:
    served = source.served
    if served is None:
        raise _nothing_served(source)
    manifest = served.bundle.manifest
    measured = json.loads(served.bundle.read("metrics.json"))
    return {
        "model_version": served.version,
        "serial": served.bundle.serial,
        "champion": manifest.champion,
        "trained_at": manifest.created_at,
        "features": [feature.model_dump() for feature in manifest.features],
        "attributes": [attribute.model_dump() for attribute in manifest.attributes],
        "thresholds": manifest.thresholds.model_dump(),
        "base_currency": manifest.currency.base,
        "currencies": served.model.rates.currencies,
        "time_zone": manifest.time_zone.name,
        "rules_version": served.rules.version,
        "rules": [
            {
                "id": rule.id,
                "expression": rule.expression,
                "outcome": rule.outcome,
                "reason": rule.reason,
                "enabled": rule.enabled,
                "from": None if rule.from_ms is None else rfc3339(rule.from_ms),
                "until": None if rule.until_ms is None else rfc3339(rule.until_ms),
            }
            for rule in served.rules.rules
        ],
        "lists": served.rules.lists.sizes,
        "metrics": measured.get("test"),
        "curves": measured.get("curves"),
        "validation_curves": measured.get("validation_curves"),
        "importance": measured.get("importance"),
        "model_card": served.bundle.read(_CARD).decode() if _CARD in manifest.files else None,
        "degraded": [*(["model"] if source.trouble else []), *(["rules"] if served.rules.stand_in else [])],
    }


# --- the contract, written down --------------------------------------------------------------------------------------


def _openapi(app: FastAPI) -> dict[str, Any]:
    """Built when asked for, once. Adds the schemas of the bodies that the endpoints read themselves."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        _, bodies = models_json_schema(
            [
                (Transaction, "validation"),
                (Batch, "validation"),
                (Feedback, "validation"),
                *((body, "validation") for body in LEARNING_BODIES),
            ],
            ref_template="#/components/schemas/{model}",
        )
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas.update({name: schema for name, schema in bodies["$defs"].items() if name not in schemas})
        schemas["Transaction"] = bodies["$defs"]["Transaction"]
        document_access(document)
        app.openapi_schema = document
    return app.openapi_schema


# --- the outermost layer ---------------------------------------------------------------------------------------------


class Boundary:
    """Gives every request an id, turns whatever escapes into a 500 that says nothing about it, and counts and logs."""

    def __init__(self, app: ASGIApp, metrics: Metrics):
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        sent = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"").decode("latin-1")
        own = _REQUEST_ID.fullmatch(sent) and not card_numbers.is_in(sent)
        request_id = sent if own else secrets.token_hex(16)
        scope["request_id"] = request_id
        began = time.perf_counter()
        started = 0  # the status, once the answer has begun

        async def answer(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = message["status"]
                MutableHeaders(scope=message).append("X-Request-ID", request_id)
            await send(message)

        try:
            await self.app(scope, receive, answer)
        except ClientDisconnect:
            pass  # it went away with its body half sent: no fault of ours, and counted as 499
        except Exception as error:
            log.exception("unexpected error", extra={"request_id": request_id})
            if started:
                raise
            problem = _problem(RequestError(f"An unexpected error ({type(error).__name__})."), request_id)
            await _problem_response(problem)(scope, receive, answer)
        finally:
            route, caller = scope.get("route"), scope.get("caller")
            self.metrics.request(
                route=getattr(route, "path_format", None),
                method=scope["method"],
                status=started or 499,  # nobody was there any more to take an answer
                seconds=time.perf_counter() - began,
                request_id=request_id,
                key=caller.name if caller else None,
            )
