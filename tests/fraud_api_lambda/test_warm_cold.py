"""Cold and warm: the first request's own time, connections made before it, and the hooks of Lambda's SnapStart."""

import gc
import json
import random
import socket
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest
import snapshot_restore_py
from awslambdaric import lambda_runtime_hooks_runner as runtime
from fastapi import FastAPI

from fraud_api_lambda import aws
from fraud_api_lambda import bundle as bundles
from fraud_api_lambda.bootstrap import build, connect_at_start
from fraud_api_lambda.feature_store import redis as redis_store
from fraud_api_lambda.scoring import FraudScorer
from fraud_api_lambda.settings import Settings
from tests.fraud_api_lambda.asgi import Client
from tests.fraud_api_lambda.decision_log import servers as log_servers
from tests.fraud_api_lambda.decision_log.servers import PostgresServer, postgres
from tests.fraud_api_lambda.feature_store import servers
from tests.fraud_api_lambda.feature_store.servers import RedisServer
from tests.fraud_api_lambda.lines import Lines
from tests.fraud_api_lambda.making import KEY, TRUSTED, seal_small
from tests.servers import REGION, free_port, listener, moto_server, name_aws

pytestmark = pytest.mark.server

SENT = {"amount": 40.0, "customer_id": "C1", "counterparty_id": "M1"}


def say_nothing(connection: socket.socket) -> None:
    while connection.recv(4096):
        pass


def built(**settings: Any) -> tuple[FastAPI, FraudScorer]:
    app = build(Settings(**{"model_url": "file://nowhere/current", "model_public_keys": KEY.public_line(), **settings}))
    scorer: FraudScorer = app.state.scorer
    return app, scorer


def closed(scorer: FraudScorer) -> None:
    scorer.store.close()
    scorer.decisions.close()
    if scorer.outbox is not None:
        scorer.outbox.close()


# --- the first request -----------------------------------------------------------------------------------------------


def test_the_first_request_waits_two_seconds_shares_for_a_hanging_redis_and_later_ones_the_usual(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    waits: list[float] = []
    arm = redis_store._TimedSocket._arm

    def recorded(timed: Any) -> None:
        arm(timed)
        waits.append(timed._opened.gettimeout())

    monkeypatch.setattr(redis_store._TimedSocket, "_arm", recorded)
    with listener(say_nothing) as port:
        _, scorer = built(feature_store_url=f"redis://127.0.0.1:{port}")
        assert scorer.answer(SENT).decision.degraded == ("model", "feature_store")
        first, waits[:] = max(waits), []
        assert scorer.answer(SENT).decision.degraded == ("model", "feature_store")
        second = max(waits)
        closed(scorer)
    # What the socket was told: three tenths of 2,000 ms, then of 250 ms. (Some of it is gone by the time it is told.)
    assert 0.25 < first <= 0.6
    assert second <= 0.075


def test_the_first_request_waits_longer_for_a_hanging_dynamodb_and_sqs_than_later_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[float] = []
    wait = aws.wait

    def recorded(calls: Any, timeout: float) -> Any:
        told.append(timeout)
        return wait(calls, timeout=timeout)

    monkeypatch.setattr(aws, "wait", recorded)
    with listener(say_nothing) as port:
        name_aws(monkeypatch, f"http://127.0.0.1:{port}")
        _, scorer = built(
            feature_store_url="dynamodb://profiles",
            decision_log_url="dynamodb://decisions",
            outbox_url="sqs://outbox.fifo",
            first_deadline_ms=1_000,
        )
        assert scorer.answer(SENT).decision.outcome == "review"
        first, told[:] = list(told), []
        assert scorer.answer(SENT).decision.outcome == "review"
        second = list(told)
        closed(scorer)
    # Profiles, record, outbox: 0.3, 0.4, 0.4 of 1,000 ms, then of 250 ms.
    assert [round(timeout, 1) for timeout in first[:3]] == [0.3, 0.4, 0.4]
    assert max(second) <= 0.1


def test_postgresql_is_told_the_first_requests_time_and_then_the_usual(pg: PostgresServer) -> None:
    _, scorer = built(decision_log_url=pg.url(), feature_store_url="memory://")
    scorer.connect()

    def told() -> str:
        with scorer.decisions._log._use() as connection:  # type: ignore[attr-defined]
            return str(connection.execute("SHOW statement_timeout").fetchone()[0])

    assert told() == "800ms"
    assert scorer.answer(SENT).decision.degraded == ("model",)
    assert told() == "100ms"
    closed(scorer)


def test_a_request_that_is_refused_is_not_the_first() -> None:
    _, scorer = built(feature_store_url="memory://", decision_log_url="none://")
    with pytest.raises(Exception, match="not valid"):
        scorer.answer({"amount": "a lot"})
    assert scorer.budget_s == 2.0
    scorer.answer(SENT)
    assert scorer.budget_s == 0.25


def test_a_first_deadline_below_the_usual_one_is_the_usual_one() -> None:
    _, scorer = built(feature_store_url="memory://", decision_log_url="none://", deadline_ms=400, first_deadline_ms=50)
    assert scorer.budget_s == 0.4


# --- connecting before it --------------------------------------------------------------------------------------------


def test_a_start_with_stores_that_are_away_says_so_and_goes_on(lines: Lines) -> None:
    port = free_port()
    _, scorer = built(
        feature_store_url=f"redis://127.0.0.1:{port}",
        decision_log_url=f"postgresql://fraud:secret@127.0.0.1:{port}/fraud",
    )
    scorer.connect()
    reasons = sorted(line["reason"] for line in lines.of("not connected"))
    assert len(reasons) == 2
    assert "refused the connection" in reasons[0]
    assert not any("secret" in reason or str(port) in reason for reason in reasons)
    closed(scorer)


def test_a_new_postgresql_has_its_tables_before_anything_is_appended(pg: PostgresServer) -> None:
    pg.execute("CREATE DATABASE brandnew", "postgres")
    app, scorer = built(decision_log_url=pg.url("brandnew"), feature_store_url="memory://", first_deadline_ms=50_000)
    scorer.connect()
    scorer.decisions.allow(20.0)
    assert Client(app).get("/ready").json()["decision_log"] == "ok"
    closed(scorer)


# --- SnapStart -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pg() -> Iterator[PostgresServer]:
    with postgres() as server:
        yield server


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def moto(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Buckets, tables and a queue such as the template makes."""
    with moto_server(tmp_path_factory.mktemp("moto")) as address:
        name_aws(monkeypatch, address)
        servers.create_table("profiles")
        log_servers.create_table("decisions")
        boto3.client("sqs", region_name=REGION).create_queue(QueueName="outbox.fifo", Attributes={"FifoQueue": "true"})
        place = {"LocationConstraint": REGION}
        boto3.client("s3", region_name=REGION).create_bucket(Bucket="models", CreateBucketConfiguration=place)  # type: ignore[arg-type]
        yield address


@pytest.fixture
def front(moto: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Before the stand-in, which closes each connection after one answer: keeps them open, as AWS does."""
    behind = moto.removeprefix("http://")

    class Kept(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one_request(self) -> None:
            self.raw_requestline = self.rfile.readline(65_537)
            if not self.raw_requestline or not self.parse_request():
                self.close_connection = True
                return
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            asked = HTTPConnection(behind, timeout=60)
            headers = {name: value for name, value in self.headers.items() if name != "Connection"}
            asked.request(self.command, self.path, body, headers)
            answer = asked.getresponse()
            data = answer.read()
            asked.close()
            self.send_response_only(answer.status)
            dropped = {"connection", "content-length", "transfer-encoding"}
            for name, value in answer.getheaders():
                if name.lower() not in dropped:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Kept)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    name_aws(monkeypatch, address)
    yield address
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def hooks() -> Iterator[None]:
    """The runtime's list of hooks, empty before and after."""
    lists = (snapshot_restore_py.get_before_snapshot(), snapshot_restore_py.get_after_restore())
    before = [list(each) for each in lists]
    for each in lists:
        each.clear()
    yield
    for each, old in zip(lists, before, strict=True):
        each[:] = old


def connections_to(address: str) -> int:
    """Open connections of this process to a port of this machine, as the kernel counts them."""
    gc.collect()  # of those that another test's clients had, which nobody holds any more
    port = int(address.rpartition(":")[2].partition("/")[0])
    mine = {entry.readlink().as_posix() for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()}
    count = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        cells = line.split()
        remote, state, inode = cells[2], cells[3], cells[9]
        count += remote.endswith(f":{port:04X}") and state == "01" and f"socket:[{inode}]" in mine
    return count


def none_left(address: str) -> bool:
    """Whether none is open any more; a client may close its own from another thread, a moment later."""
    deadline = time.monotonic() + 10
    while connections_to(address) and time.monotonic() < deadline:
        time.sleep(0.05)
    return connections_to(address) == 0


def publish(tmp_path: Path, version: str) -> None:
    folder = seal_small(tmp_path / "sealed", version)
    bundles.publish(folder, "s3://models/models/current", KEY, TRUSTED)


def test_a_picture_holds_no_connection_and_what_is_made_of_it_connects_again_on_aws(
    front: str, hooks: None, tmp_path: Path
) -> None:
    publish(tmp_path, "v1")
    app, scorer = built(
        model_url="s3://models/models/current",
        feature_store_url="dynamodb://profiles",
        decision_log_url="dynamodb://decisions",
        outbox_url="sqs://outbox.fifo",
        deadline_ms=20_000,
    )
    connect_at_start(app)
    assert connections_to(front) >= 3
    assert scorer.answer({**SENT, "transaction_id": "t-1"}).decision.model_version == "v1"

    runtime.run_before_snapshot()
    assert none_left(front)
    publish(tmp_path, "v2")

    runtime.run_after_restore()
    assert connections_to(front) >= 3
    # Read again although no minute has passed.
    assert scorer.source.served is not None
    assert scorer.source.served.version == "v2"
    decision = scorer.answer({**SENT, "transaction_id": "t-2"}).decision
    assert (decision.model_version, decision.degraded) == ("v2", ())
    assert scorer.answer({**SENT, "transaction_id": "t-1"}).replayed
    closed(scorer)


def test_a_picture_holds_no_connection_and_what_is_made_of_it_connects_again_elsewhere(
    pg: PostgresServer, redis_server: RedisServer, hooks: None
) -> None:
    app, scorer = built(feature_store_url=redis_server.url, decision_log_url=pg.url(), deadline_ms=20_000)
    connect_at_start(app)
    scorer.answer({**SENT, "transaction_id": "t-1"})
    assert connections_to(redis_server.url) >= 1
    assert connections_to(f":{pg.port}") >= 1

    runtime.run_before_snapshot()
    assert none_left(redis_server.url)
    assert none_left(f":{pg.port}")

    runtime.run_after_restore()
    assert connections_to(redis_server.url) >= 1
    assert connections_to(f":{pg.port}") >= 1
    assert scorer.answer({**SENT, "transaction_id": "t-1"}).replayed
    assert scorer.answer({**SENT, "transaction_id": "t-2"}).decision.degraded == ("model",)
    closed(scorer)


def test_two_processes_of_one_picture_draw_other_random_numbers_and_have_a_first_request_each(hooks: None) -> None:
    app, scorer = built(feature_store_url="memory://", decision_log_url="none://")
    connect_at_start(app)
    scorer.answer(SENT)
    assert scorer.budget_s == 0.25
    picture = random.getstate()
    drawn = []
    for _ in range(2):
        random.setstate(picture)
        runtime.run_after_restore()
        drawn.append(random.random())
        assert scorer.budget_s == 2.0
    random.setstate(picture)
    assert len({*drawn, random.random()}) == 3


def test_a_restore_while_everything_is_away_ends_and_the_last_good_bundle_serves(
    moto: str, hooks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tmp_path, "v1")
    app, scorer = built(
        model_url="s3://models/models/current", feature_store_url="dynamodb://profiles", first_deadline_ms=500
    )
    connect_at_start(app)
    runtime.run_before_snapshot()
    boto3.client("s3", region_name=REGION).delete_object(Bucket="models", Key="models/current")
    boto3.client("dynamodb", region_name=REGION).delete_table(TableName="profiles")
    runtime.run_after_restore()
    assert scorer.source.trouble is not None
    decision = scorer.answer(SENT).decision
    assert (decision.model_version, decision.degraded) == ("v1", ("feature_store",))
    closed(scorer)


@pytest.fixture
def fetched(moto: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str | None]]:
    """The environment of a SnapStart function: no keys, an address to fetch them from. Gives the tokens it was sent."""
    tokens: list[str | None] = []

    class Keys(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            tokens.append(self.headers["Authorization"])
            keys = {
                "AccessKeyId": "fetched",
                "SecretAccessKey": "s",
                "Token": "t",
                "Expiration": "2099-01-01T00:00:00Z",
            }
            data = json.dumps(keys).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Keys)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"http://127.0.0.1:{server.server_port}/creds")
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", f"token-{server.server_port}")
    yield tokens
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_snapstart_function_reads_the_bucket_with_the_keys_that_it_is_to_fetch(
    tmp_path: Path, fetched: list[str | None]
) -> None:
    publish(tmp_path, "v1")
    _, scorer = built(model_url="s3://models/models/current")
    assert scorer.source.trouble is None
    assert fetched
    assert all(token is not None and token.startswith("token-") for token in fetched)


def test_keys_that_cannot_be_fetched_leave_the_bundle_unreachable(
    fetched: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"http://127.0.0.1:{free_port()}/creds")
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "another")
    _, scorer = built(model_url="s3://models/models/current")
    assert scorer.source.trouble is not None
    assert scorer.source.trouble.state == "unreachable"
