"""Requests that wait at the same time share a write, and each is told only what is true of its own."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest

from fraud_api_lambda.app import create_app
from fraud_api_lambda.decision_log import Record, open_decision_log
from fraud_api_lambda.decision_log.together import Together, Written
from fraud_api_lambda.errors import StoreUnavailable
from fraud_api_lambda.feature_store import open_feature_store
from fraud_api_lambda.reload import ModelSource
from fraud_api_lambda.scoring import FraudScorer
from tests.fraud_api_lambda.decision_log.conftest import AMPLE_MS
from tests.fraud_api_lambda.decision_log.records import record
from tests.fraud_api_lambda.feature_store.servers import ROOT


class Gated:
    """The SQLite log, whose writes wait until they are let through; how many records each was given."""

    inline = True
    durable = True

    def __init__(self, path: Path) -> None:
        self.real = open_decision_log(f"sqlite:///{path}/decisions.db", budget_ms=AMPLE_MS)
        self.find = self.real.find
        self.gate = threading.Event()
        self.writes: list[int] = []
        self.down = False

    def append(self, records: Sequence[Record]) -> list[Record | None]:
        self.gate.wait(30)
        self.writes.append(len(records))
        if self.down:
            raise StoreUnavailable("down")
        return self.real.append(records)


@pytest.fixture
def gated(tmp_path: Path) -> Gated:
    return Gated(tmp_path)


async def together(log: Gated, *requests: Sequence[Record]) -> list[Written | BaseException]:
    """All at once: the first is being written while the others come."""
    shared = Together(log)  # type: ignore[arg-type]
    tasks = [asyncio.create_task(shared.append(records)) for records in requests]
    await asyncio.sleep(0.05)
    assert not any(task.done() for task in tasks), "answered before it was written"
    log.gate.set()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    shared.close()
    return found


def test_requests_at_the_same_time_share_writes_and_each_is_told_of_its_own(gated: Gated) -> None:
    requests = [[record(f"t-{number}"), record(f"u-{number}")] for number in range(20)]
    assert asyncio.run(together(gated, *requests)) == [[None, None]] * 20
    assert sum(gated.writes) == 40
    assert len(gated.writes) <= 2
    assert len(gated.find([one.transaction_id for records in requests for one in records])) == 40


def test_one_id_at_the_same_time_is_written_once_and_told_to_the_other(gated: Gated) -> None:
    first, second = record("t-1", digest=bytes(32)), record("t-1", digest=bytes([1] * 32))
    assert asyncio.run(together(gated, [first], [second])) == [[None], [first]]


def test_a_log_that_is_down_is_told_to_all_and_none_is_written(gated: Gated) -> None:
    gated.down = True
    found = asyncio.run(together(gated, [record("t-1")], [record("t-2")]))
    assert all(isinstance(one, StoreUnavailable) for one in found)
    gated.down = False
    assert gated.find(["t-1", "t-2"]) == {}


def test_what_the_log_cannot_hold_costs_nobody_else_anything(gated: Gated) -> None:
    found = asyncio.run(
        together(gated, [record("t-0")], [record("t-1")], [record("t-2", amount_minor=2**70)], [record("t-3")])
    )
    assert [found[0], found[1], found[3]] == [[None]] * 3
    assert isinstance(found[2], OverflowError)
    assert set(gated.find(["t-0", "t-1", "t-2", "t-3"])) == {"t-0", "t-1", "t-3"}


def test_the_routes_answer_once_it_is_written_and_write_together(gated: Gated, tmp_path: Path) -> None:
    source = ModelSource(f"file://{tmp_path}/none", dict)
    scorer = FraudScorer(source, open_feature_store("memory://"), gated, budget_ms=AMPLE_MS)  # type: ignore[arg-type]
    app = create_app(scorer)

    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            body = {"amount": 5, "customer_id": "C1"}
            asked = [client.post("/predict", json={**body, "transaction_id": f"t-{number}"}) for number in range(12)]
            asked.append(client.post("/predict/batch", json={"transactions": [body, body]}))
            tasks = [asyncio.create_task(one) for one in asked]
            await asyncio.sleep(0.2)
            assert not any(task.done() for task in tasks)
            gated.gate.set()
            return await asyncio.gather(*tasks)

    answers = asyncio.run(ask())
    assert all(answer.status_code == 200 for answer in answers)
    assert sum(gated.writes) == 14
    assert len(gated.writes) <= 4
    # One customer's at the same time: none of them is lost to its profile.
    assert scorer.store.read(["C1"])["C1"][0] >= 1
    from fraud_api_lambda import profiles

    state = profiles.decode(scorer.store.read(["C1"])["C1"][1])
    assert state[profiles.SENT + profiles.COUNT] == 14


WRITER = """
import asyncio, os, sys
from fraud_api_lambda.decision_log import open_decision_log
from fraud_api_lambda.decision_log.together import Together
from tests.fraud_api_lambda.decision_log.records import record
log = open_decision_log(sys.argv[1], budget_ms=20_000)
async def one(shared, name):
    number = 0
    while True:
        id = f"{sys.argv[2]}-{name}-{number}"
        assert await shared.append([record(id)]) == [None]
        os.write(1, (id + "\\n").encode())
        number += 1
async def main():
    shared = Together(log)
    await asyncio.gather(*(one(shared, name) for name in range(8)))
asyncio.run(main())
"""


def test_nothing_acknowledged_is_lost_when_the_process_is_killed(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/decisions.db"
    open_decision_log(url, budget_ms=AMPLE_MS).check()
    acknowledged: list[str] = []
    for turn in range(3):
        command = [sys.executable, "-c", WRITER, url, str(turn)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        acknowledged += [process.stdout.readline().strip() for _ in range(40 + 17 * turn)]
        os.kill(process.pid, signal.SIGKILL)
        acknowledged += process.stdout.read().split()
        process.wait()
        process.stdout.close()
    log = open_decision_log(url, budget_ms=AMPLE_MS)
    assert len(acknowledged) == len(set(acknowledged)) > 150
    assert set(log.find(acknowledged)) == set(acknowledged)
    log.close()
