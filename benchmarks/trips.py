"""How often a request waits for a store over the network: counted by a proxy before a real server for each store.

A transaction with three parties that were seen before, once for each pair of stores, connections open already; the
median of several requests. Redis, PostgreSQL and the stand-in for DynamoDB; what is not installed is left out.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from fraud_api_lambda.decision_log import open_decision_log
from fraud_api_lambda.feature_store import open_feature_store
from fraud_api_lambda.reload import ModelSource
from fraud_api_lambda.scoring import FraudScorer
from tests.fraud_api_lambda.decision_log.servers import create_table as create_decisions
from tests.fraud_api_lambda.decision_log.servers import postgres
from tests.fraud_api_lambda.feature_store.servers import RedisServer, moto_server, name_aws
from tests.fraud_api_lambda.feature_store.servers import create_table as create_parties
from tests.fraud_api_lambda.trips import Trips, counting

from . import keep

REQUESTS = 9
BODY = {"amount": 12.5, "customer_id": "C1", "counterparty_id": "M1", "device_id": "D1"}
#: So wide that a busy machine breaks nothing off.
BUDGET_MS = 20_000


@contextmanager
def redis_store(folder: Path) -> Iterator[tuple[str, list[Trips]]]:
    server = RedisServer(folder)
    server.start()
    try:
        with counting(server.port) as trips:
            yield f"redis://127.0.0.1:{trips.port}", [trips]
    finally:
        server.stop()


@contextmanager
def postgresql_log() -> Iterator[tuple[str, list[Trips]]]:
    with postgres() as server, counting(server.port) as trips:
        yield server.url().replace(f":{server.port}/", f":{trips.port}/"), [trips]


@contextmanager
def dynamodb(folder: Path) -> Iterator[tuple[str, str, list[Trips]]]:
    """Both tables, and their one server."""
    with moto_server(folder) as address, pytest.MonkeyPatch.context() as patch:
        name_aws(patch, address)
        create_parties("parties")
        create_decisions("decisions")
        port = urlsplit(address).port
        assert port is not None
        with counting(port) as trips:
            patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{trips.port}")
            yield "dynamodb://parties", "dynamodb://decisions", [trips]


def count(store_url: str, log_url: str, proxies: list[Trips]) -> int:
    """Round trips of one request: the fewest of several, since what goes out side by side may start late on a machine
    that has other work, which only ever adds.
    """
    source = ModelSource(f"file://{os.devnull}/none", dict)
    store = open_feature_store(store_url, budget_ms=BUDGET_MS)
    log = open_decision_log(log_url, budget_ms=BUDGET_MS)
    scorer = FraudScorer(source, store, log, budget_ms=BUDGET_MS)
    counted = []
    try:
        for number in range(REQUESTS):
            before = sum(trips.count for trips in proxies)
            answer = scorer.answer({**BODY, "transaction_id": f"{log_url[:8]}-{number}"}).decision
            assert answer.degraded == ("model",), answer.degraded
            counted.append(sum(trips.count for trips in proxies) - before)
    finally:
        store.close()
        log.close()
    return min(counted[2:])  # the first ones connect


def measure() -> dict[str, int]:
    found = {}
    with tempfile.TemporaryDirectory() as name, ExitStack() as running:
        with suppress(pytest.skip.Exception):
            store, proxies = running.enter_context(redis_store(Path(name)))
            found["redis, none"] = count(store, "none://", proxies)
            with suppress(pytest.skip.Exception):
                log, more = running.enter_context(postgresql_log())
                found["redis, postgresql"] = count(store, log, [*proxies, *more])
        store, log, proxies = running.enter_context(dynamodb(Path(name)))
        found["dynamodb, dynamodb"] = count(store, log, proxies)
    return found


def main() -> None:
    found = measure()
    print("round trips a request:", found)
    keep("trips", {"stores": found, "most": max(found.values())})


if __name__ == "__main__":
    main()
