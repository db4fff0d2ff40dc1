"""The three that are measured against one another, as a Lambda or a server would start them, and what they are sent.

Each is a module with ``handler`` and ``app``: the service itself, and two in ``references``. All get the same bodies: a
stream of the generator's transactions, whose customers have short histories, or one body over and over (``hot``): an
account whose rings are full.
"""

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import ROOT
from .references import train_predecessor

#: What is measured -> the module that serves it.
MODULES = {
    "null": "benchmarks.null",
    "ours": "fraud_api_lambda.handler",
    "predecessors": "benchmarks.predecessors",
}

HOT = {
    "amount": 4500.0,
    "type": "TRANSFER",
    "timestamp": "2026-02-06T02:30:00Z",
    "customer_id": "C100004",
    "counterparty_id": "C553264065",
    "oldbalanceOrg": 4500.0,
    "oldbalanceDest": 0.0,
}


@dataclass(frozen=True)
class Prepared:
    """A folder with a bundle, its key and the predecessors' pipeline."""

    folder: Path

    def env(self, **settings: str) -> dict[str, str]:
        """The environment in which any of the three is started."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("FRAUD_", "AWS_"))}
        return {
            **kept,
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
            "BENCH_PIPELINE": str(self.folder / "pipeline.joblib"),
            "FRAUD_MODEL_URL": f"file://{self.folder}/models/current",
            "FRAUD_MODEL_PUBLIC_KEYS": f"file://{self.folder}/keys/development.pub",
            "FRAUD_FEATURE_STORE_URL": "memory://",
            "FRAUD_DECISION_LOG_URL": "none://",
            "FRAUD_OUTBOX_URL": f"file://{self.folder}/outbox",
            **settings,
        }


@contextmanager
def prepared() -> Iterator[Prepared]:
    """Trains both models: 40,000 rows, the service's by its own search, the predecessors' as ``references`` says."""
    from training.train import ensure_default_bundle

    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        print("training the bundle and the predecessors' pipeline", flush=True)
        ensure_default_bundle(folder, rows=40_000, progress=lambda _: None)
        train_predecessor(folder / "pipeline.joblib")
        yield Prepared(folder)


def bodies(count: int, seed: int = 7) -> list[dict[str, Any]]:
    """Transactions of the generator in their order."""
    from fraud_api_lambda.schemas import rfc3339
    from training.synthetic import generate

    frame = generate(max(count, 1_000), seed).head(count)
    left_out = {"time_ms", "is_fraud", "weight", "label_ms", "fraud_scenario"}
    found = []
    for row in frame.astype({"type": object}).to_dict("records"):
        sent = {k: v for k, v in row.items() if v is not None and v == v and k not in left_out}
        sent.pop("transaction_id", None)  # or a second round would be replays
        found.append({**sent, "timestamp": rfc3339(row["time_ms"])})
    return found


def event(body: dict[str, Any], path: str = "/predict") -> dict[str, Any]:
    """An API Gateway v2 event for POST ``path``."""
    path, _, query = path.partition("?")
    return {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": query,
        "headers": {"content-type": "application/json", "host": "localhost"},
        "requestContext": {
            "http": {"method": "POST", "path": path, "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1"},
            "stage": "$default",
        },
        "body": json.dumps(body),
        "isBase64Encoded": False,
    }


def events(sent: Sequence[dict[str, Any]], path: str = "/predict") -> list[dict[str, Any]]:
    return [event(body, path) for body in sent]
