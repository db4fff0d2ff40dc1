"""One warm request through Mangum, in process: ours against the null endpoint and the predecessors' design.

Rounds of all candidates are interleaved, so that a noisy neighbour hits all alike; printed are medians and the middle
half of the rounds. Uses ``models/current`` where ``make run`` has left one, else trains a small bundle.
"""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import keep

ROUNDS = 30
CALLS = 20

BODY = {
    "amount": 4500.0,
    "type": "TRANSFER",
    "timestamp": "2026-02-06T02:30:00Z",
    "customer_id": "C100004",
    "counterparty_id": "C553264065",
    "oldbalanceOrg": 4500.0,
    "oldbalanceDest": 0.0,
}


def event(path: str) -> dict[str, Any]:
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
        "body": json.dumps(BODY),
        "isBase64Encoded": False,
    }


def bundle(folder: Path) -> Path:
    """A folder with ``models/current`` and its public key."""
    if Path("models/current").is_file() and Path("keys/development.pub").is_file():
        return Path()
    from training.train import ensure_default_bundle

    ensure_default_bundle(folder, rows=40_000)
    return folder


def candidates(folder: Path) -> dict[str, Callable[[], Any]]:
    from mangum import Mangum

    from fraud_api_lambda.bootstrap import build
    from fraud_api_lambda.handler import lambda_handler
    from fraud_api_lambda.settings import Settings

    from .references import null_app, predecessor_app, train_predecessor

    root = bundle(folder)
    app = build(
        Settings(
            model_url=f"file://{root}/models/current",
            model_public_keys=f"file://{root}/keys/development.pub",
            feature_store_url="memory://",
            decision_log_url="none://",
            log_level="ERROR",
        )
    )
    ours = lambda_handler(app)
    train_predecessor(folder / "pipeline.joblib")
    null = Mangum(null_app(), lifespan="off")
    theirs = Mangum(predecessor_app(folder / "pipeline.joblib"), lifespan="off")
    plain, silent, reasons = event("/predict"), event("/predict?explain=false"), event("/predict?explain=true")
    return {
        "null endpoint": lambda: null(plain, None),
        "ours, no reasons": lambda: ours(silent, None),
        "ours, exact reasons": lambda: ours(reasons, None),
        "predecessors' design": lambda: theirs(plain, None),
    }


def main() -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder:
        calls = candidates(Path(folder))
        for name, call in calls.items():
            answer = call()
            assert answer["statusCode"] == 200, f"{name}: {answer}"
        taken: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(ROUNDS):
            for name, call in calls.items():
                start = time.perf_counter()
                for _ in range(CALLS):
                    call()
                taken[name].append((time.perf_counter() - start) / CALLS)
    null = statistics.median(taken["null endpoint"])
    results = {}
    print(f"{'':22}{'median':>10}{'middle half':>20}{'/ null':>9}")
    for name, times in taken.items():
        low, median, high = statistics.quantiles(times, n=4)
        results[name] = {"median_us": median * 1e6, "low_us": low * 1e6, "high_us": high * 1e6, "ratio": median / null}
        print(f"{name:22}{median * 1e6:7.0f} us{low * 1e6:10.0f} - {high * 1e6:4.0f} us{median / null:9.2f}")
    ratio = results["predecessors' design"]["median_us"] / results["ours, no reasons"]["median_us"]
    print(f"predecessors / ours: {ratio:.1f}")
    keep("request", {**results, "predecessors / ours": ratio})


if __name__ == "__main__":
    main()
