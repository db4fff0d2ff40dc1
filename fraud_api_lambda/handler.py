"""The entries: ``handler`` for Lambda behind API Gateway, ``app`` for uvicorn. The very same app, built once at import.

``queue`` takes what Lambda hands over from SQS, ``schedule`` the daily events, ``work`` both; ``pretraffic`` is the
hook of a deployment. This module only maps, and it is the only one that does I/O at import: it reads the environment
and opens the bundle.
"""

import logging
import os
import secrets
import time
from typing import Any

from fastapi import FastAPI
from mangum import Mangum
from mangum.adapter import DEFAULT_TEXT_MIME_TYPES
from starlette.types import ASGIApp, Receive, Scope, Send

from .app import MAX_BODY
from .bootstrap import build, configure_logging, connect_at_start
from .errors import InvalidRequest, RequestError, RequestTooLarge
from .metrics import emit_emf
from .routes_records import served_gauges
from .schemas import parse_json
from .scoring import FraudScorer
from .settings import read_settings
from .web import refusal

log = logging.getLogger("fraud.handler")


def behind_gateway(app: ASGIApp) -> Any:
    """Tell the app its stage: API Gateway leaves ``/stage`` out of the path, and /docs needs it in its links."""

    async def staged(scope: Scope, receive: Receive, send: Send) -> None:
        event = scope.get("aws.event")
        if event:
            inner = event.get("path") or event.get("rawPath") or ""
            outer = (event.get("requestContext") or {}).get("path") or ""
            if inner and outer != inner and outer.endswith(inner):
                stage = outer[: -len(inner)]
                # Both, as ASGI has it: where the path lacks the stage, a stage called "model" would swallow /model.
                scope = {**scope, "root_path": stage, "path": stage + scope["path"]}
        await app(scope, receive, send)

    return staged


def lambda_handler(app: FastAPI) -> Any:
    """A Lambda entry around ``app``: HTTP events only, and a look at the pointer once a minute before the answer."""
    scorer: FraudScorer = app.state.scorer
    # A type that Mangum does not know for text leaves as base64, and the gateway would hand on just that.
    text = [*DEFAULT_TEXT_MIME_TYPES, "application/problem+json"]
    serve = Mangum(behind_gateway(app), lifespan="off", text_mime_types=text)

    def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
        if not isinstance(event, dict) or "requestContext" not in event:
            raise ValueError("Not an HTTP event of API Gateway, and this entry serves nothing else.")
        # Here and not in a thread: Lambda freezes the process between requests, and a frozen download never ends.
        scorer.refresh_if_due()
        began = time.perf_counter()
        try:
            answer: dict[str, Any] = serve(event, context)
        except Exception as error:  # the app's own are answered by the app: this is an event that cannot be read
            log.warning("an event that cannot be read", extra={"error": type(error).__name__})
            answer = _unreadable(scorer, began)
        emit_emf(scorer.metrics, served_gauges(scorer))
        return answer

    return handler


def _unreadable(scorer: FraudScorer, began: float) -> dict[str, Any]:
    """For what no gateway sends (half a base64 word as a body, a list of headers): a 4xx, as for any other request."""
    request_id = secrets.token_hex(16)
    refused = refusal(InvalidRequest("The event is not a request that can be read."), request_id)
    seconds = time.perf_counter() - began
    scorer.metrics.request(
        route=None, method="", status=refused.status_code, seconds=seconds, request_id=request_id, key=None
    )
    headers = {"content-type": "application/problem+json", "x-request-id": request_id}
    body = bytes(refused.body).decode()
    return {"statusCode": refused.status_code, "headers": headers, "body": body, "isBase64Encoded": False}


def queue_handler(app: FastAPI) -> Any:
    """A Lambda entry around ``app`` for messages of SQS: transactions to judge, and the outbox to deliver.

    Answers which messages failed (``ReportBatchItemFailures``); the queue brings them again, and lays them aside after
    a while. Which of the two a message is depends on the queue that it comes from and on nothing in it: whoever may
    send transactions has no say in the outbox.
    """
    scorer: FraudScorer = app.state.scorer

    def queue(event: dict[str, Any], context: Any) -> dict[str, Any]:
        # Only here: no request should wait for it to be imported.
        from aws_lambda_powertools.utilities.batch import (
            BatchProcessor,
            EventType,
            SqsFifoPartialProcessor,
            process_partial_response,
        )

        from .outbox.sqs import SqsOutbox

        messages = event.get("Records") if isinstance(event, dict) else None
        if not messages or not all(message.get("eventSource") == "aws:sqs" for message in messages):
            raise ValueError("Not an event of SQS, and this entry serves nothing else.")
        queues = {message["eventSourceARN"].rpartition(":")[2] for message in messages}
        outbox = scorer.outbox
        scorer.refresh_if_due()
        if isinstance(outbox, SqsOutbox) and queues == {outbox.queue}:
            sinks = app.state.sinks
            processor: BatchProcessor = SqsFifoPartialProcessor(skip_group_on_error=True)

            def each(message: dict[str, Any]) -> None:
                outbox.deliver(message, sinks)
        else:
            processor, each = BatchProcessor(EventType.SQS), judge
        # That all failed is no error of this function's, and the exception would carry their texts.
        processor.raise_on_entire_batch_failure = False
        answer = process_partial_response(event, lambda record: each(record.raw_event), processor, context)
        emit_emf(scorer.metrics, served_gauges(scorer), waited_for=False)
        return dict(answer)

    def judge(message: dict[str, Any]) -> None:
        """Judge and record the message's transaction; nothing is done twice, as often as it may come.

        Without an id of its own a transaction takes the message's, which is the same whenever the message comes.
        """
        try:
            body = message["body"].encode(errors="surrogatepass")
            if len(body) > MAX_BODY:
                raise RequestTooLarge(f"A transaction takes at most {MAX_BODY} bytes.")
            data = parse_json(body)
            if isinstance(data, dict) and not data.get("transaction_id"):
                data["transaction_id"] = message["messageId"]
            scorer.answer(data)
        except RequestError as problem:
            fields = [error.field for error in problem.errors]
            told = {"message_id": message["messageId"], "status": problem.status, "fields": fields}
            log.error("a transaction of the queue is not judged", extra=told)
            raise

    return queue


def schedule_handler(app: FastAPI) -> Any:
    """A Lambda entry around ``app`` for the daily events such as ``{"task": "summary"}``: what ``daily`` names.

    ``{"task": "heartbeat"}`` is counted and nothing else. Raises ``StoreUnavailable``: Lambda then tries twice more.
    """
    scorer: FraudScorer = app.state.scorer

    def schedule(event: dict[str, Any], context: Any) -> dict[str, Any]:
        scorer.refresh_if_due()
        task = event.get("task") if isinstance(event, dict) else None
        if task == "heartbeat":  # that it comes to this line is the answer, and its absence an alarm
            scorer.metrics.add("heartbeats")
            answer: dict[str, Any] = {"task": task}
        else:
            answer = app.state.daily.run(task if isinstance(task, str) else "")
        emit_emf(scorer.metrics, served_gauges(scorer))
        return answer

    return schedule


def pretraffic(event: dict[str, Any], context: Any) -> str:
    """CodeDeploy's hook before traffic, in a function of its own."""
    from .pretraffic import pretraffic as examine

    return examine(event, os.environ)


_ON_AWS = "AWS_LAMBDA_FUNCTION_NAME" in os.environ
_SETTINGS = read_settings(os.environ)
if "FRAUD_SMOKE_FUNCTION" in os.environ:
    # The hook judges nothing: it needs no bundle, no table and none of the rights to them.
    configure_logging(_SETTINGS.log_level)
else:
    app = build(_SETTINGS, on_aws=_ON_AWS)
    if _ON_AWS:
        connect_at_start(app)
    handler = lambda_handler(app)
    queue = queue_handler(app)
    schedule = schedule_handler(app)


def work(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """``queue`` or ``schedule``, whichever the event is for: one function does both."""
    answer: dict[str, Any] = (schedule if isinstance(event, dict) and "task" in event else queue)(event, context)
    return answer
