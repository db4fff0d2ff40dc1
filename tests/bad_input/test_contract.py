"""Requests made from docs/openapi.json against the running service: right ones, wrong ones, and sequences of them."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import httpx
import pytest

from tests.conftest import Trained
from tests.lambda_runtime.conftest import ROOT, child, free_port

CONTRACT = ROOT / "docs" / "openapi.json"
SECRET = "a-key-of-the-tests"
#: Cases of each operation, short and in full; the phases come on top.
FEW, MANY = 10, 2_000


@pytest.mark.server
@pytest.mark.chaos
@pytest.mark.timeout(7_200)
def test_every_operation_keeps_its_contract_whatever_is_sent(trained: Trained, tmp_path: Path, full: bool) -> None:
    program = Path(sys.executable).with_name("schemathesis")
    if not program.exists():
        pytest.skip("schemathesis is not installed (make setup)")
    port = free_port()
    env = {
        "FRAUD_MODEL_URL": f"file://{trained.root}/models/current",
        "FRAUD_MODEL_PUBLIC_KEYS": f"file://{trained.root}/keys/development.pub",
        "FRAUD_API_KEYS": f"tests:admin:{hashlib.sha256(SECRET.encode()).hexdigest()}",
        "FRAUD_DEADLINE_MS": "5000",
        "PYTHONPATH": str(ROOT),
    }
    serve = [
        sys.executable,
        "-m",
        "uvicorn",
        "fraud_api_lambda.handler:app",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    command = [
        *(str(program), "--config-file", str(Path(__file__).with_name("schemathesis.toml")), "run", str(CONTRACT)),
        *("--url", f"http://127.0.0.1:{port}", "--header", f"X-API-Key: {SECRET}", "--seed", "10", "--no-color"),
        *("--max-examples", str(MANY if full else FEW), "--continue-on-failure"),
        *("--suppress-health-check", "all", "--request-timeout", "30"),
        *(() if full else ("--phases", "examples,coverage,fuzzing")),
    ]
    with child(serve, port, tmp_path / "log", env, cwd=tmp_path):
        done = subprocess.run(
            command, cwd=tmp_path, env={**os.environ, "NO_PROXY": "*"}, capture_output=True, text=True, check=False
        )
        url = f"http://127.0.0.1:{port}/metrics"
        sent = counted(httpx.get(url, headers={"X-API-Key": SECRET}, trust_env=False, timeout=30).text)
    assert done.returncode == 0, done.stdout[-20_000:]
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log
    assert "unexpected error" not in log
    operations = {
        f"{method.upper()} {path}"
        for path, methods in json.loads(CONTRACT.read_text())["paths"].items()
        for method in methods
    }
    assert sent.keys() >= operations
    if full:
        few = {name: sent[name] for name in operations if sent[name] < MANY and name not in FIXED}
        assert not few, f"fewer cases than promised: {few}"


#: Operations that take nothing: there is little to vary.
FIXED = frozenset({"GET /health", "GET /ready", "GET /me", "GET /model", "GET /model/report", "GET /metrics"})


def counted(metrics: str) -> Counter[str]:
    """Requests by operation, as the service itself has counted them."""
    found: Counter[str] = Counter()
    for line in re.findall(r"^fraud_requests_total\{(.*)\} ([0-9.]+)$", metrics, flags=re.M):
        labels = dict(re.findall(r'(\w+)="([^"]*)"', line[0]))
        found[f"{labels['method']} {labels['route']}"] += int(float(line[1]))
    return found
