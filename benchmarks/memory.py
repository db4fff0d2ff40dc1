"""What a request costs a Lambda function of each size: processor time measured here, divided by what AWS gives.

Measured is processor time, which does not mind neighbours: of starting (a fresh interpreter imports the handler) and of
one warm POST /predict through the Lambda entry with memory and SQLite behind it; and the bytes that one request logs. A
function of M MB has M / 1769 of a processor, as AWS says, one at most in one thread. Waiting for tables is not in it.
"""

import contextlib
import io
import json
import logging
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from . import keep
from .request import BODY, bundle, event

SIZES = (256, 512, 1024, 1769)
ROUNDS = 30
CALLS = 50
STARTS = 5
#: MB of memory for each whole processor.
MB_A_PROCESSOR = 1769


def start_ms(environment: dict[str, str]) -> float:
    """Processor time of an interpreter that imports the handler and ends."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", "import fraud_api_lambda.handler"], check=True, env=environment, timeout=120)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1000


def main() -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        root = bundle(folder).resolve()
        settings = {
            "FRAUD_MODEL_URL": f"file://{root}/models/current",
            "FRAUD_MODEL_PUBLIC_KEYS": f"file://{root}/keys/development.pub",
            "FRAUD_FEATURE_STORE_URL": "memory://",
            "FRAUD_DECISION_LOG_URL": f"sqlite:///{folder}/decisions.db",
            "FRAUD_OUTBOX_URL": f"file://{folder}/outbox",
        }
        os.environ.update(settings)
        starts = [start_ms(dict(os.environ)) for _ in range(STARTS)]
        heard = io.StringIO()
        with contextlib.redirect_stdout(heard):
            from fraud_api_lambda.bootstrap import build
            from fraud_api_lambda.handler import lambda_handler
            from fraud_api_lambda.settings import read_settings

            entry = lambda_handler(build(read_settings(os.environ)))
            asked = event("/predict")
            taken: list[float] = []
            number = 0
            for _ in range(ROUNDS):
                begun = time.process_time()
                for _ in range(CALLS):
                    number += 1
                    asked["body"] = json.dumps({**BODY, "customer_id": f"C{number % 997}"})
                    answer = entry(asked, None)
                    assert answer["statusCode"] == 200, answer
                taken.append((time.process_time() - begun) / CALLS * 1000)
        logging.shutdown()
        lines = heard.getvalue().splitlines()
    start, request = statistics.median(starts), statistics.median(taken)
    logged = sum(len(line.encode()) + 1 for line in lines) / number
    print(f"processor time: start {start:.0f} ms, a request {request:.2f} ms; {logged:.0f} bytes logged a request")
    print(f"{'MB':>6}{'start, s':>10}{'request, ms':>13}{'GB-s a million':>16}")
    table = {}
    for size in SIZES:
        share = min(1.0, size / MB_A_PROCESSOR)
        seconds, millis = start / 1000 / share, request / share
        billed = millis / 1000 * size / 1024 * 1e6
        table[str(size)] = {"start_s": seconds, "request_ms": millis, "gb_s_a_million": billed}
        print(f"{size:6}{seconds:10.2f}{millis:13.2f}{billed:16,.0f}")
    keep("memory", {"start_cpu_ms": start, "request_cpu_ms": request, "log_bytes": logged, "sizes": table})


if __name__ == "__main__":
    main()
