"""The entries: ``handler`` for Lambda behind API Gateway, ``app`` for uvicorn. The very same app, built once at import.

This module only maps, and it is the only one that does I/O at import: it reads the environment and opens the bundle.
"""

import os
from typing import Any

from fastapi import FastAPI
from mangum import Mangum
from mangum.adapter import DEFAULT_TEXT_MIME_TYPES
from starlette.types import ASGIApp, Receive, Scope, Send

from .bootstrap import build
from .metrics import emit_emf, prepare_emf
from .routes_records import gauges
from .scoring import FraudScorer
from .settings import read_settings


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
        answer: dict[str, Any] = serve(event, context)
        emit_emf(scorer.metrics, gauges(scorer))
        return answer

    return handler


_ON_AWS = "AWS_LAMBDA_FUNCTION_NAME" in os.environ
app = build(read_settings(os.environ), on_aws=_ON_AWS)
if _ON_AWS:
    prepare_emf()
handler = lambda_handler(app)
