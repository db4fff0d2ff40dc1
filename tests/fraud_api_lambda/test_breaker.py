"""A store that has stopped answering is not waited for: breakers open, let one call look, and close."""

import sqlite3
import threading
import time
from pathlib import Path

import pytest

from fraud_api_lambda.bootstrap import build
from fraud_api_lambda.breaker import Breaker
from fraud_api_lambda.errors import StoreUnavailable
from fraud_api_lambda.settings import Settings
from tests.fraud_api_lambda.asgi import Client
from tests.fraud_api_lambda.decision_log.servers import postgres
from tests.fraud_api_lambda.feature_store.servers import RedisServer
from tests.fraud_api_lambda.lines import Lines


def fails() -> None:
    raise StoreUnavailable("The store did not answer.")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def opened(clock: Clock) -> Breaker:
    breaker = Breaker("decision_log", failures=3, seconds=2.0, monotonic=clock)
    for _ in range(3):
        with pytest.raises(StoreUnavailable, match="did not answer"):
            breaker.call(fails)
    return breaker


def test_after_some_failures_in_a_row_the_store_is_not_asked() -> None:
    breaker = opened(Clock())
    assert breaker.state == "open"
    with pytest.raises(StoreUnavailable, match="was not asked"):
        breaker.call(pytest.fail)


def test_an_answer_in_between_begins_the_count_anew() -> None:
    breaker = Breaker("decision_log", failures=3, seconds=2.0)
    for _ in range(10):
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                breaker.call(fails)
        assert breaker.call(lambda: 7) == 7
    assert breaker.state == "closed"


def test_another_error_is_an_answer() -> None:
    breaker = Breaker("decision_log", failures=1, seconds=2.0)
    with pytest.raises(ValueError):
        breaker.call(int, "x")
    assert breaker.state == "closed"


def test_after_some_seconds_one_call_looks_and_its_success_closes(lines: Lines) -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += 1.9
    with pytest.raises(StoreUnavailable, match="not asked"):
        breaker.call(pytest.fail)
    clock.now += 0.2

    def look() -> str:
        assert breaker.state == "half-open"
        with pytest.raises(StoreUnavailable, match="not asked"):
            breaker.call(pytest.fail)  # one looks, the others do not wait for it
        return "back"

    assert breaker.call(look) == "back"
    assert breaker.state == "closed"
    assert [line["call"] for line in (*lines.of("breaker opened"), *lines.of("breaker closed"))] == ["decision_log"] * 2


def test_a_look_that_fails_keeps_it_open_as_long_again() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += 2.0
    with pytest.raises(StoreUnavailable, match="did not answer"):
        breaker.call(fails)
    clock.now += 1.9
    with pytest.raises(StoreUnavailable, match="not asked"):
        breaker.call(pytest.fail)


def test_a_call_begun_before_it_opened_does_not_close_it() -> None:
    breaker = Breaker("decision_log", failures=1, seconds=60.0)
    begun, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        assert go_on.wait(10)

    thread = threading.Thread(target=breaker.call, args=(slow,))
    thread.start()
    assert begun.wait(10)
    with pytest.raises(StoreUnavailable):
        breaker.call(fails)
    go_on.set()
    thread.join(10)
    assert breaker.state == "open"


def test_with_zero_failures_it_never_opens() -> None:
    breaker = Breaker("decision_log", failures=0, seconds=2.0)
    for _ in range(50):
        with pytest.raises(StoreUnavailable, match="did not answer"):
            breaker.call(fails)
    assert breaker.state == "closed"


def test_what_lives_in_memory_has_none(tmp_path: Path) -> None:
    app = build(
        Settings(model_url=f"file://{tmp_path}/none", feature_store_url="memory://", decision_log_url="none://")
    )
    assert app.state.scorer.breakers == {}
    assert "breakers" not in Client(app).get("/ready").json()


def test_a_locked_file_costs_a_few_waits_and_reads_do_not_take_them_back(tmp_path: Path) -> None:
    app = build(Settings(model_url=f"file://{tmp_path}/none", feature_store_url=f"sqlite:///{tmp_path}/p.db"))
    client = Client(app)

    def ask(n: int) -> None:
        assert client.post("/predict", json={"amount": n, "customer_id": "C"}).json()["degraded"] == ["model"]

    ask(0)
    other = sqlite3.connect(tmp_path / "p.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    for n in range(1, 8):
        ask(n)
    breakers = client.get("/ready").json()["breakers"]
    other.close()
    assert breakers["feature_store.swap"] == "open"
    assert breakers["feature_store.read"] == "closed"
    assert app.state.scorer.outbox.waiting()["profile"] == 7


@pytest.mark.server
def test_frozen_servers_cost_a_few_waits_and_no_record(tmp_path: Path) -> None:
    redis = RedisServer(tmp_path)
    with postgres() as server:
        redis.start()
        try:
            app = build(
                Settings(
                    model_url=f"file://{tmp_path}/none",
                    feature_store_url=redis.url,
                    decision_log_url=server.url(),
                    outbox_url=f"file://{tmp_path}/outbox",
                    breaker_seconds=1,
                    deadline_ms=1_000,
                )
            )
            client, scorer = Client(app), app.state.scorer

            def ask(n: int) -> list[str]:
                answer = client.post("/predict", json={"amount": 1, "transaction_id": f"t-{n}", "customer_id": "C"})
                assert answer.status_code == 200
                degraded: list[str] = answer.json()["degraded"]
                return degraded

            assert ask(0) == ["model"]
            server.freeze()
            redis.freeze()
            for n in range(1, 6):
                assert ask(n) == ["model", "feature_store", "decision_log"]
            assert client.get("/metrics").text.count("fraud_breaker_open") >= 4
            breakers = client.get("/ready").json()["breakers"]
            assert (breakers["feature_store.read"], breakers["decision_log.append"]) == ("open", "open")
            asked = scorer.outbox.waiting()["decision"]
            assert asked == 5
            redis.thaw()
            server.thaw()
            deadline = time.monotonic() + 30
            n = 6
            while ask(n) != ["model"]:
                assert time.monotonic() < deadline
                time.sleep(0.2)
                n += 1
            assert set(client.get("/ready").json()["breakers"].values()) == {"closed"}
            for kind in ("decision", "profile"):
                while scorer.outbox.waiting().get(kind):
                    assert time.monotonic() < deadline
                    scorer.outbox.drain(app.state.sinks)
                    time.sleep(0.2)
            rows = server.execute("SELECT count(*), count(DISTINCT transaction_id) FROM decisions")
            assert rows == [(n + 1, n + 1)]
        finally:
            redis.stop()
