"""kill -9 while decisions are written: what was acknowledged is there, once and whole, whatever was killed.

``KILLS=500`` in the environment kills more often than the fifty times of an ordinary run.
"""

import itertools
import os
import random
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from fraud_api_lambda.decision_log import DecisionLog, Record, Search, open_decision_log
from fraud_api_lambda.errors import StoreUnavailable
from tests.fraud_api_lambda.decision_log.conftest import AMPLE_MS
from tests.fraud_api_lambda.decision_log.records import record
from tests.fraud_api_lambda.decision_log.servers import PostgresServer
from tests.servers import ROOT

KILLS = int(os.environ.get("KILLS", "50"))
#: Of the kills on PostgreSQL, how many hit the whole server: it takes seconds to come back.
SERVER_KILLS = max(5, KILLS // 10)
RULES = ("night", "velocity")

# Starting an interpreter takes longer than a round: one process has everything imported and forks those that write.
NURSERY = """
import os, sys
from fraud_api_lambda.decision_log import open_decision_log
from tests.fraud_api_lambda.decision_log.test_kill import write_until_killed
url, budget_ms = sys.argv[1], int(sys.argv[2])
open_decision_log(url).close()
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        write_until_killed(url, budget_ms, line.strip())
    os.write(1, f"writer {child}\\n".encode())
    os.waitpid(child, 0)
    os.write(1, b"end\\n")
"""


def written(name: str, number: int) -> Record:
    """What a writer writes under an id, to be known again to the byte."""
    id = f"{name}-{number:05}"
    return record(
        id,
        answer=random.Random(id).randbytes(300).hex().encode(),
        received_ms=1_700_000_000_000 + number,
        rules=RULES,
        document='{"event":{"id":"' + id + '"}}',
    )


def write_until_killed(url: str, budget_ms: int, name: str) -> None:
    """Two new records a call, so that a kill may fall between them, and one that is there already."""
    try:
        log = open_decision_log(url, budget_ms=budget_ms)
        for number in itertools.count():
            records = [written(name, 2 * number), written(name, 2 * number + 1), written(name, 0)]
            while True:  # what was not acknowledged is appended again
                try:
                    answers = log.append(records)
                except StoreUnavailable:
                    continue
                break
            assert all(answer in (None, one) for answer, one in zip(answers, records, strict=True))
            os.write(1, f"{records[0].transaction_id} {records[1].transaction_id}\n".encode())
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


class Writers:
    """Processes that append, one after the other, and say each id once it is acknowledged."""

    def __init__(self, url: str, budget_ms: int) -> None:
        command = [sys.executable, "-c", NURSERY, url, str(budget_ms)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
        self._writer = 0

    def start(self, name: str) -> list[str]:
        """A writer; the ids it has acknowledged when the first of them are known."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{name}\n")
        self._process.stdin.flush()
        self._writer = 0
        acknowledged: list[str] = []
        while not self._writer or not acknowledged:
            acknowledged += self.more()
        return acknowledged

    def more(self) -> list[str]:
        """The ids of one more call."""
        assert self._process.stdout is not None
        words = self._process.stdout.readline().split()
        assert words, "the process that starts the writers has ended"
        assert words != ["end"], "the writer has ended by itself"
        if words[0] == "writer":
            self._writer = int(words[1])
            return []
        return words

    def kill(self) -> list[str]:
        """The ids acknowledged up to the kill."""
        assert self._process.stdout is not None
        os.kill(self._writer, signal.SIGKILL)
        acknowledged: list[str] = []
        while (words := self._process.stdout.readline().split()) != ["end"]:
            assert words, "the process that starts the writers has ended"
            acknowledged += words
        return acknowledged

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def everything(log: DecisionLog, rule: str | None) -> Iterator[Record]:
    search = Search(limit=200, rule=rule)
    while True:
        page = log.search(search)
        yield from (stored.record for stored in page.items)
        if page.cursor is None:
            return
        search = Search(limit=200, rule=rule, cursor=page.cursor)


def hold_to_account(log: DecisionLog, acknowledged: list[str], names: list[str]) -> None:
    """Every acknowledged record once and whole, with its rules; of the others no part."""
    assert len(acknowledged) == len(set(acknowledged)) > len(names)
    listed = list(everything(log, None))
    ids = [one.transaction_id for one in listed]
    assert len(ids) == len(set(ids))
    assert not set(acknowledged) - set(ids)
    for one in listed:
        name, _, number = one.transaction_id.rpartition("-")
        assert one == written(name, int(number))
    for rule in RULES:
        assert sorted(one.transaction_id for one in everything(log, rule)) == sorted(ids)
    # Not acknowledged and there all the same: at most the call that was under way at each kill, whole or not at all.
    extra = set(ids) - set(acknowledged)
    for name in names:
        mine = sorted(id for id in extra if id.startswith(f"{name}-"))
        assert len(mine) in (0, 2), mine
    again = log.append([written(*_split(id)) for id in acknowledged[:200]])
    assert [one and one.transaction_id for one in again] == acknowledged[:200]


def _split(id: str) -> tuple[str, int]:
    name, _, number = id.rpartition("-")
    return name, int(number)


def kill_clients(url: str, kills: int) -> tuple[list[str], list[str]]:
    """Ids acknowledged, and the writers' names; each writer is killed at a random moment of its writing."""
    chance = random.Random()
    acknowledged: list[str] = []
    names = [f"w{number}" for number in range(kills)]
    writers = Writers(url, AMPLE_MS)
    for name in names:
        acknowledged += writers.start(name)
        time.sleep(chance.random() * 0.15)
        acknowledged += writers.kill()
    writers.close()
    return acknowledged, names


def test_no_acknowledged_record_is_lost_or_doubled_when_processes_are_killed_on_sqlite(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/decisions.db"
    log = open_decision_log(url, budget_ms=AMPLE_MS)
    log.check()
    acknowledged, names = kill_clients(url, KILLS)
    hold_to_account(log, acknowledged, names)
    log.close()


@pytest.mark.server
def test_no_acknowledged_record_is_lost_or_doubled_when_processes_are_killed_on_postgresql(
    postgres_server: PostgresServer,
) -> None:
    log = open_decision_log(postgres_server.url(), budget_ms=AMPLE_MS)
    log.check()
    acknowledged, names = kill_clients(postgres_server.url(), KILLS - SERVER_KILLS)
    hold_to_account(log, acknowledged, names)
    log.close()


@pytest.mark.server
def test_no_acknowledged_record_is_lost_or_doubled_when_the_postgresql_server_is_killed(
    postgres_server: PostgresServer,
) -> None:
    url = postgres_server.url()
    log = open_decision_log(url, budget_ms=AMPLE_MS)
    log.check()
    log.close()
    chance = random.Random()
    acknowledged: list[str] = []
    # The same writer throughout: it appends again what was not acknowledged, and never learns what it was.
    writers = Writers(url, 1_000)
    acknowledged += writers.start("w0")
    for _ in range(SERVER_KILLS):
        acknowledged += writers.more()
        time.sleep(chance.random() * 0.2)
        postgres_server.kill()
        postgres_server.start()
    acknowledged += writers.more()
    acknowledged += writers.kill()
    writers.close()
    again = open_decision_log(url, budget_ms=AMPLE_MS)
    listed = [one.transaction_id for one in everything(again, None)]
    assert len(listed) == len(set(listed))
    assert not set(acknowledged) - set(listed)
    assert all(one == written(*_split(one.transaction_id)) for one in everything(again, None))
    for rule in RULES:
        assert sorted(one.transaction_id for one in everything(again, rule)) == sorted(listed)
    again.close()
