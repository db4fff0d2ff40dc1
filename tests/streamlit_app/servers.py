"""What the small servers of the console's tests keep and answer; a decision as the contract has it."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any


@dataclass
class Recorded:
    """A request as a small server has seen it."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class SmallServer:
    url: str
    requests: list[Recorded] = field(default_factory=list)


Answer = Callable[[BaseHTTPRequestHandler], None]


def reply(status: int, body: object, content_type: str = "application/json", **headers: str) -> Answer:
    """An answer of ``status`` with ``body`` (bytes as they are, anything else as JSON)."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Type", content_type)
        handler.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def decision(**changes: Any) -> dict[str, Any]:
    """A decision as the contract has it, with ``changes``."""
    return {
        "transaction_id": "t-1",
        "fraud_probability": 0.73,
        "is_fraud": True,
        "prediction": "FRAUD",
        "confidence": 0.73,
        "outcome": "decline",
        "decided_by": "model",
        "threshold": 0.05,
        "thresholds": {"review": 0.05, "decline": 0.6},
        "rules": [],
        "reasons": [
            {"code": "AMOUNT", "feature": "amount", "value": 4500, "contribution": 2.5, "text": "The amount is high."},
            {"code": "TYPE", "feature": "type", "value": None, "contribution": -0.5, "text": "No type was sent."},
        ],
        "explanation": "Declined.",
        "amount": 4500.0,
        "currency": "USD",
        "amount_base": 4500.0,
        "base_currency": "USD",
        "model_version": "v1",
        "rules_version": "r1",
        "scored_at": "2026-02-06T02:30:00.000Z",
        "test": False,
        "degraded": [],
        **changes,
    }


def by_path(**answers: Answer) -> Answer:
    """Answer by the path's first part: ``by_path(ready=..., predict=...)``; 404 for the rest."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        name = handler.path.strip("/").partition("?")[0]
        answers.get(name, reply(404, {"title": "Not found", "status": 404, "detail": "No such address."}))(handler)

    return answer


READY = reply(200, {"status": "ready", "model": "ok", "model_version": "v1"})
