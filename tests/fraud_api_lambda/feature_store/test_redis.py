"""Redis that is stopped, frozen, restarted, slow, full, a replica, foreign or guarded; over TCP and over TLS."""

import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fraud_api_lambda.errors import StoreUnavailable
from fraud_api_lambda.feature_store import Change, FeatureStore, open_feature_store
from fraud_api_lambda.feature_store.redis import PLACES, PREFIX, RedisFeatureStore
from tests.fraud_api_lambda.feature_store.servers import RedisServer
from tests.servers import certificate, listener

pytestmark = pytest.mark.server

FAR_MS = 4_000_000_000_000
BUDGET_MS = 400
#: Generous beside the budget: the machine may be busy.
ABOUT_THE_BUDGET_S = 2.5
ONE = {"C1": (1, b"one")}


@contextmanager
def opened(url: str, *, budget_ms: int = BUDGET_MS) -> Iterator[FeatureStore]:
    store = open_feature_store(url, budget_ms=budget_ms)
    yield store
    store.close()


@contextmanager
def unavailable(said: str | None = None) -> Iterator[None]:
    """The block is refused within about the budget, by an error that shows nothing of the URL."""
    started = time.monotonic()
    with pytest.raises(StoreUnavailable, match=said) as caught:
        yield
    assert time.monotonic() - started < ABOUT_THE_BUDGET_S
    shown = "".join(traceback.format_exception(caught.value))
    assert "hunter2" not in shown
    assert "During handling" not in shown


def eventually(call: Callable[[], object]) -> None:
    """``call`` is accepted within a few tries."""
    deadline = time.monotonic() + 20
    while True:
        try:
            call()
        except StoreUnavailable:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        else:
            return


@pytest.fixture
def store(redis_server: RedisServer) -> Iterator[FeatureStore]:
    with opened(redis_server.url) as store:
        eventually(lambda: store.swap([Change("C1", 0, b"one", FAR_MS)]))
        yield store


def test_a_stopped_server_is_unavailable_and_a_new_one_is_found(store: FeatureStore, redis_server: RedisServer) -> None:
    redis_server.stop()
    for _ in range(3 * PLACES):  # a call that fails gives its place back
        with unavailable():
            store.read(["C1"])
    with unavailable("ConnectionError"):
        store.swap([Change("C1", 1, b"two", FAR_MS)])
    with unavailable():
        store.erase("C1")
    with unavailable():
        store.check()
    redis_server.start()
    eventually(store.check)
    assert store.read(["C1"]) == {}
    assert store.swap([Change("C1", 0, b"one", FAR_MS)]) == []
    assert store.read(["C1"]) == ONE


def test_a_restart_between_two_calls_goes_unnoticed(store: FeatureStore, redis_server: RedisServer) -> None:
    # The open connection is dead, and the new server does not know the script. Not even the first call fails.
    redis_server.stop()
    redis_server.start()
    assert store.swap([Change("C2", 0, b"two", FAR_MS)]) == []
    assert store.read(["C2"]) == {"C2": (1, b"two")}


def test_a_server_that_has_forgotten_the_script_is_sent_it_again(
    store: FeatureStore, redis_server: RedisServer
) -> None:
    redis_server.command("SCRIPT", "FLUSH")
    assert store.swap([Change("C1", 1, b"two", FAR_MS), Change("C2", 1, b"x", FAR_MS)]) == ["C2"]
    assert store.read(["C1", "C2"]) == {"C1": (2, b"two")}


def test_a_frozen_server_is_unavailable_within_the_budget_and_answers_again_once_thawed(
    store: FeatureStore, redis_server: RedisServer
) -> None:
    redis_server.freeze()
    with unavailable(f"did not answer within {BUDGET_MS} ms"):
        store.read(["C1"])
    with unavailable():  # on a new connection, which the kernel accepts for the frozen process
        store.swap([Change("C9", 0, b"one", FAR_MS)])
    redis_server.thaw()
    eventually(store.check)
    assert store.read(["C1"]) == ONE


def test_many_callers_of_a_frozen_server_each_wait_about_the_budget(
    store: FeatureStore, redis_server: RedisServer
) -> None:
    redis_server.freeze()
    took: list[float] = []

    def call() -> None:
        started = time.monotonic()
        with pytest.raises(StoreUnavailable):
            store.read(["C1"])
        took.append(time.monotonic() - started)

    threads = [threading.Thread(target=call) for _ in range(4 * PLACES)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(took) == 4 * PLACES
    assert max(took) < ABOUT_THE_BUDGET_S
    redis_server.thaw()
    eventually(lambda: store.read(["C1"]))
    assert store.read(["C1"]) == ONE


def test_no_more_connections_are_made_than_there_are_places(store: FeatureStore, redis_server: RedisServer) -> None:
    threads = [threading.Thread(target=lambda: [store.read(["C1"]) for _ in range(20)]) for _ in range(3 * PLACES)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    clients = redis_server.command("CLIENT", "LIST").decode().splitlines()
    assert 1 <= len(clients) - 1 <= PLACES
    store.close()
    deadline = time.monotonic() + 10
    while len(redis_server.command("CLIENT", "LIST").decode().splitlines()) > 1:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def trickle(connection: socket.socket) -> None:
    """Answer a read with a byte at a time, each well within any timeout."""
    connection.recv(4096)
    for byte in b"*1\r\n$100\r\n" + b"x" * 100:
        connection.sendall(bytes([byte]))
        time.sleep(0.1)


def foreign(connection: socket.socket) -> None:
    connection.recv(4096)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def wrong_type(connection: socket.socket) -> None:
    connection.recv(4096)
    connection.sendall(b":1\r\n")


@pytest.mark.parametrize("answer", [trickle, foreign, wrong_type, lambda _: time.sleep(5), lambda peer: peer.close()])
def test_a_server_that_trickles_talks_something_else_or_stays_silent_is_unavailable(
    answer: Callable[[socket.socket], None],
) -> None:
    with listener(answer) as port, opened(f"redis://:hunter2@127.0.0.1:{port}") as store:
        for _ in range(2):
            with unavailable():
                store.read(["C1"])
    with listener(answer) as port, opened(f"redis://127.0.0.1:{port}") as store:
        for _ in range(2):
            with unavailable():
                store.read(["C1"])


def test_slow_connecting_costs_a_call_its_budget_and_then_serves_the_next(redis_server: RedisServer) -> None:
    # TLS to far away, or a slow name server: as long as the budget and longer. The calls after it are not slow.
    from fraud_api_lambda.feature_store.redis import _PlainConnection

    class Slow(_PlainConnection):
        def connect(self) -> None:
            time.sleep(0.6)
            super().connect()

    store = RedisFeatureStore(lambda: Slow(host="127.0.0.1", port=redis_server.port, socket_timeout=0.25), 0.25)
    with unavailable("did not answer within 250 ms"):
        store.check()
    time.sleep(1.5)
    store.check()
    store.close()


def test_a_name_that_is_not_known_is_unavailable() -> None:
    with opened("redis://:hunter2@redis.invalid") as store, unavailable():
        store.read(["C1"])


def test_timeouts_are_those_of_the_budget_and_nothing_is_tried_twice(redis_server: RedisServer) -> None:
    with opened(redis_server.url, budget_ms=120) as store:
        assert isinstance(store, RedisFeatureStore)
        eventually(store.check)
        connection = store._places.get()
        assert connection is not None
        assert connection.socket_timeout == connection.socket_connect_timeout == 0.12  # type: ignore[attr-defined]
        assert connection.retry.get_retries() == 0  # type: ignore[attr-defined]
        store._places.put(connection)


def test_a_full_server_is_unavailable_for_writing_only(store: FeatureStore, redis_server: RedisServer) -> None:
    redis_server.command("CONFIG", "SET", "maxmemory", "1mb")
    with unavailable():
        for number in range(1_000):
            store.swap([Change(f"C{number}", number == 1, b"x" * 10_000, FAR_MS)])
    with unavailable():
        store.check()
    assert store.read(["C1"])["C1"][0] >= 1


def test_a_read_only_replica_fails_the_check(store: FeatureStore, redis_server: RedisServer) -> None:
    redis_server.command("CONFIG", "SET", "replica-serve-stale-data", "yes")
    redis_server.command("REPLICAOF", "127.0.0.1", "9")
    with unavailable("ReadOnlyError"):
        store.check()
    with unavailable():
        store.swap([Change("C1", 1, b"two", FAR_MS)])
    redis_server.command("REPLICAOF", "NO", "ONE")
    eventually(store.check)


def test_a_password_is_asked_for_and_never_shown(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, options=("--requirepass", "hunter2/:@#%é"))
    server.start()
    try:
        for userinfo in ("", ":hunter2wrong@", "hunter2user:hunter2@"):
            with opened(f"redis://{userinfo}127.0.0.1:{server.port}") as store, unavailable():
                store.read(["C1"])
        with opened(f"redis://:wrong@127.0.0.1:{server.port}") as store, unavailable("user name or the password"):
            store.check()
        with opened(f"redis://:hunter2%2F%3A%40%23%25%C3%A9@127.0.0.1:{server.port}/3") as store:
            eventually(store.check)
            assert store.swap([Change("C1", 0, b"one", FAR_MS)]) == []
            assert store.read(["C1"]) == ONE
            assert "hunter2" not in repr(vars(store)["_places"].queue)
        with opened(f"redis://default:hunter2%2F%3A%40%23%25%C3%A9@127.0.0.1:{server.port}/2") as store:
            eventually(store.check)
            assert store.read(["C1"]) == {}  # another database
    finally:
        server.stop()


def test_a_party_is_one_key_that_redis_itself_lets_expire(store: FeatureStore, redis_server: RedisServer) -> None:
    assert redis_server.command("KEYS", "*") == [PREFIX + b"C1"]
    assert redis_server.command("GET", "fraud:party:C1") == b"\0\0\0\0\0\0\0\1one"
    assert redis_server.command("PEXPIRETIME", "fraud:party:C1") == FAR_MS


# --- TLS -------------------------------------------------------------------------------------------------------------


@contextmanager
def tls_server(folder: Path, address: str) -> Iterator[tuple[RedisServer, Path]]:
    certificate_file, key_file = certificate(folder, address)
    options = ("--tls-cert-file", str(certificate_file), "--tls-key-file", str(key_file), "--tls-auth-clients", "no")
    server = RedisServer(folder, options=options, tls=True)
    server.start()
    try:
        yield server, certificate_file
    finally:
        server.stop()


def test_tls_works_with_a_trusted_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tls_server(tmp_path, "127.0.0.1") as (server, certificate_file):
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate_file))
        with opened(server.url, budget_ms=5_000) as store:
            assert store.swap([Change("C1", 0, b"one", FAR_MS)]) == []
            assert store.read(["C1"]) == ONE
            server.stop()
            server.start()
            eventually(store.check)


def test_tls_refuses_a_certificate_that_is_not_trusted_or_bears_another_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tls_server(tmp_path, "127.0.0.1") as (server, _), opened(server.url) as store, unavailable("ConnectionError"):
        store.check()
    with tls_server(tmp_path, "127.0.0.2") as (server, certificate_file):
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate_file))
        with opened(server.url) as store, unavailable("ConnectionError"):
            store.check()


def test_plain_text_is_not_spoken_where_tls_is_asked_for(store: FeatureStore, redis_server: RedisServer) -> None:
    with opened(f"rediss://:hunter2@127.0.0.1:{redis_server.port}") as tls, unavailable():
        tls.check()
