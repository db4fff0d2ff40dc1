"""What a request and a cold start may cost, in counts: they are the same on any machine, however busy.

The limits stand in ``benchmarks/budget.toml``; the figures by clock are the business of ``make bench``.
"""

import gc
import logging
import os
import subprocess
import sys
import tempfile
import tomllib
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from benchmarks import trips
from fraud_api_lambda.decision_log.sqlite import SqliteDecisionLog
from fraud_api_lambda.feature_store.sqlite import SqliteFeatureStore
from fraud_api_lambda.scoring import FraudScorer
from tests.conftest import Trained
from tests.fraud_api_lambda.asgi import source_of

ROOT = Path(__file__).resolve().parents[1]
BUDGET = tomllib.loads((ROOT / "benchmarks" / "budget.toml").read_text())
BODY = {
    "amount": 12.5, "type": "TRANSFER", "timestamp": "2026-02-06T02:30:00Z", "customer_id": "C1",
    "counterparty_id": "M1", "device_id": "D1", "oldbalanceOrg": 100.0,
}  # fmt: skip


def within(name: str, found: float) -> None:
    """At most the budget; and above three quarters of it, or the budget has become no guard at all."""
    limit = BUDGET[name]
    assert found <= limit, f"{name}: {found:,.0f}, and benchmarks/budget.toml allows {limit:,}"
    assert found >= 0.75 * limit, f"{name}: {found:,.0f}; lower benchmarks/budget.toml from {limit:,}"


# --- a cold start ----------------------------------------------------------------------------------------------------

COLD = """
import sys
from fraud_api_lambda.handler import handler
from benchmarks.serving import HOT, event
assert handler(event(HOT), None)["statusCode"] == 200
ours = {name for name in sys.modules if not name.startswith("benchmarks")}
sys.stderr.write(" ".join(sorted(ours)))
"""


@pytest.fixture(scope="module")
def imported(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What is imported by the time of the first answer."""
    env = {
        **os.environ,
        "FRAUD_MODEL_URL": f"file://{trained.root}/models/current",
        "FRAUD_MODEL_PUBLIC_KEYS": f"file://{trained.root}/keys/development.pub",
        "FRAUD_FEATURE_STORE_URL": "memory://",
        "FRAUD_DECISION_LOG_URL": "none://",
        "FRAUD_OUTBOX_URL": f"file://{tmp_path_factory.mktemp('outbox')}",
    }
    done = subprocess.run([sys.executable, "-c", COLD], cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stderr.split()


def test_a_cold_start_imports_no_more_modules_than_allowed(imported: list[str]) -> None:
    within("modules_until_the_first_answer", len(imported))


@pytest.mark.parametrize(
    "name",
    ["alembic", "aws_lambda_powertools", "boto3", "botocore", "prometheus_client", "psycopg", "redis", "sqlalchemy"],
)
def test_a_cold_start_imports_nothing_that_its_settings_do_not_ask_for(imported: list[str], name: str) -> None:
    assert name not in imported


# --- a request -------------------------------------------------------------------------------------------------------


@pytest.fixture
def ask(trained: Trained) -> Callable[[int], Any]:
    """One transaction through the scorer, profiles in memory, nothing recorded; its parties have a past."""
    scorer = FraudScorer(source_of(trained))

    def call(number: int) -> Any:
        return scorer.answer({**BODY, "amount": 1.0 + number % 7, "transaction_id": f"t-{number}"}, False)

    for number in range(200):
        call(number)
    return call


def test_a_request_runs_no_more_of_pythons_instructions_than_allowed(ask: Callable[[int], Any]) -> None:
    """Counted by the interpreter; what callgrind counts, where valgrind is: ``python -m benchmarks.instructions``."""
    monitoring, tool = sys.monitoring, sys.monitoring.PROFILER_ID
    count = 0

    def one(*_: object) -> None:
        nonlocal count
        count += 1

    monitoring.use_tool_id(tool, "budget")
    try:
        monitoring.register_callback(tool, monitoring.events.INSTRUCTION, one)
        monitoring.set_events(tool, monitoring.events.INSTRUCTION)
        for number in range(1_000, 1_010):
            ask(number)
    finally:
        monitoring.set_events(tool, 0)
        monitoring.free_tool_id(tool)
    within("python_instructions_of_a_request", count / 10)


def test_a_request_takes_no_more_memory_than_allowed_and_leaves_none(ask: Callable[[int], Any]) -> None:
    tracemalloc.start()
    try:
        ask(1_000)
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        ask(1_001)
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    within("peak_bytes_of_a_request", peak)
    logging.disable()  # where a test before this one has turned the log on, pytest keeps every line
    try:
        gc.collect()
        blocks = sys.getallocatedblocks()
        for number in range(2_000, 2_300):
            ask(number)
        gc.collect()
        # Of full profiles nothing more is remembered, however many come.
        assert (sys.getallocatedblocks() - blocks) / 300 < 1
    finally:
        logging.disable(logging.NOTSET)


def test_a_request_asks_sqlite_no_more_statements_than_allowed(trained: Trained, tmp_path: Path) -> None:
    store, log = SqliteFeatureStore(tmp_path / "profiles.db", 20), SqliteDecisionLog(tmp_path / "decisions.db", 20)
    scorer = FraudScorer(source_of(trained), store, log)
    scorer.answer({**BODY, "transaction_id": "t-0"})
    said: list[str] = []
    for connection in (store._connection, log._writer._connection):
        assert connection is not None
        connection.set_trace_callback(said.append)
    scorer.answer({**BODY, "transaction_id": "t-1"})
    store.close()
    log.close()
    within("sqlite_statements_of_a_request", len(said))


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest.mark.server
def test_a_request_waits_for_redis_and_postgresql_no_more_often_than_allowed(folder: Path) -> None:
    with ExitStack() as running:
        store, proxies = running.enter_context(trips.redis_store(folder))
        log, more = running.enter_context(trips.postgresql_log())
        within("round_trips_redis_postgresql", trips.count(store, log, [*proxies, *more]))


@pytest.mark.server
def test_a_request_waits_for_dynamodb_no_more_often_than_allowed(folder: Path) -> None:
    with trips.dynamodb(folder) as (store, log, proxies):
        within("round_trips_dynamodb", trips.count(store, log, proxies))


# --- the guard guards ------------------------------------------------------------------------------------------------


def test_the_budget_refuses_more_and_far_less() -> None:
    limit = BUDGET["sqlite_statements_of_a_request"]
    within("sqlite_statements_of_a_request", limit)
    for found in (limit + 1, limit / 2):
        with pytest.raises(AssertionError, match=r"budget\.toml"):
            within("sqlite_statements_of_a_request", found)


def test_every_line_of_the_budget_is_held_by_a_test() -> None:
    here = Path(__file__).read_text()
    assert all(f'within("{name}"' in here for name in BUDGET)
