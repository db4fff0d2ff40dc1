"""DynamoDB that throttles, holds back, refuses, is silent or absent; and what an item looks like."""

import json
import socket
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import boto3
import pytest

from fraud_api_lambda.errors import StoreUnavailable
from fraud_api_lambda.feature_store import Change, FeatureStore, open_feature_store
from fraud_api_lambda.feature_store.dynamodb import DynamoDBFeatureStore
from tests.servers import REGION, free_port, http_server, listener, name_aws

pytestmark = pytest.mark.server

FAR_MS = 4_000_000_000_001
#: Generous beside the 250 ms that are asked for: the machine may be busy.
ABOUT_THE_BUDGET_S = 2.0


@contextmanager
def opened(
    monkeypatch: pytest.MonkeyPatch, endpoint: str, table: str = "parties", *, budget_ms: int = 10_000
) -> Iterator[FeatureStore]:
    name_aws(monkeypatch, endpoint)
    store = open_feature_store(f"dynamodb://{table}", budget_ms=budget_ms)
    yield store
    store.close()


@contextmanager
def unavailable(said: str | None = None) -> Iterator[None]:
    """The block is refused within about the budget, by an error that shows no secret and no address."""
    started = time.monotonic()
    with pytest.raises(StoreUnavailable, match=said) as caught:
        yield
    assert time.monotonic() - started < ABOUT_THE_BUDGET_S
    shown = "".join(traceback.format_exception(caught.value))
    assert "During handling" not in shown
    assert "a-secret-key" not in str(caught.value)
    assert "127.0.0.1" not in str(caught.value)


def test_an_item_has_the_time_to_live_in_whole_seconds_and_not_too_early(table: str) -> None:
    store = open_feature_store(f"dynamodb://{table}", budget_ms=10_000)
    store.swap([Change("C1", 0, b"one", FAR_MS)])
    store.close()
    client = boto3.client("dynamodb", region_name=REGION)
    assert client.scan(TableName=table)["Items"] == [
        {
            "party": {"S": "C1"},
            "version": {"N": "1"},
            "data": {"B": b"one"},
            "expires_ms": {"N": "4000000000001"},
            "expires_at": {"N": "4000000001"},
        }
    ]
    client.close()


def test_a_party_of_400_bytes_is_one_write_unit() -> None:
    # DynamoDB counts names and values; a number takes about a byte for two digits, and one more.
    names = len("partyversiondataexpires_msexpires_at")
    assert names + 64 + 400 + 3 * 9 < 1024


def test_a_table_that_is_not_there_is_unavailable_by_name(moto: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(monkeypatch, moto, "absent") as store:
        with pytest.raises(StoreUnavailable, match="refused: ResourceNotFoundException"):
            store.check()
        with pytest.raises(StoreUnavailable, match="refused: ResourceNotFoundException"):
            store.swap([Change("C1", 0, b"one", FAR_MS)])


def test_an_endpoint_that_is_not_there_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(monkeypatch, f"http://127.0.0.1:{free_port()}") as store:
        with unavailable("EndpointConnectionError"):
            store.read(["C1"])
        with unavailable():
            store.erase("C1")


def test_missing_credentials_are_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    name_aws(monkeypatch, f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    store = open_feature_store("dynamodb://parties", budget_ms=10_000)
    with unavailable("NoCredentialsError"):
        store.check()
    store.close()


@pytest.mark.parametrize("silent", [True, False])
def test_an_endpoint_that_is_silent_or_trickles_is_unavailable_within_the_budget(
    monkeypatch: pytest.MonkeyPatch, silent: bool
) -> None:
    def answer(connection: socket.socket) -> None:
        connection.recv(65536)
        for byte in b"" if silent else b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"{" * 1000:
            connection.sendall(bytes([byte]))
            time.sleep(0.05)
        time.sleep(3)

    with listener(answer) as port, opened(monkeypatch, f"http://127.0.0.1:{port}", budget_ms=250) as store:
        with unavailable("did not answer within 250 ms"):
            store.read(["C1"])
        with unavailable("did not answer within 250 ms"):
            store.swap([Change(f"C{number}", 0, b"one", FAR_MS) for number in range(40)])
        took: list[float] = []

        def call() -> None:
            started = time.monotonic()
            with pytest.raises(StoreUnavailable):
                store.read(["C1"])
            took.append(time.monotonic() - started)

        threads = [threading.Thread(target=call) for _ in range(30)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(took) == 30
        assert max(took) < ABOUT_THE_BUDGET_S


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("ThrottlingException", "is throttled"),
        ("ProvisionedThroughputExceededException", "is throttled"),
        ("InternalServerError", "refused: InternalServerError"),
        ("AccessDeniedException", "refused: AccessDeniedException"),
        ("a-secret-key", "refused: no code"),
    ],
)
def test_throttling_and_refusal_are_unavailable_and_tried_once(
    monkeypatch: pytest.MonkeyPatch, code: str, said: str
) -> None:
    asked: list[str] = []

    def answer(operation: str, body: bytes) -> tuple[int, bytes]:
        asked.append(operation)
        status = 500 if code == "InternalServerError" else 400
        return status, json.dumps({"__type": f"com.amazon#{code}", "message": "a-secret-key"}).encode()

    with http_server(answer) as endpoint, opened(monkeypatch, endpoint) as store:
        with unavailable(said):
            store.read(["C1"])
        with unavailable(said):
            store.swap([Change("C1", 0, b"one", FAR_MS)])
    assert asked == ["BatchGetItem", "PutItem"]


def test_what_is_left_over_is_asked_for_again_within_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def answer(operation: str, body: bytes) -> tuple[int, bytes]:
        request = json.loads(body)["RequestItems"]["parties"]
        assert request["ConsistentRead"] is True
        first, *rest = request["Keys"]
        asked.append(1 + len(rest))
        item = {
            **first,
            "version": {"N": "7"},
            "data": {"B": "b25l"},
            "expires_ms": {"N": str(FAR_MS)},
            "expires_at": {"N": "4000000001"},
        }
        left = {"parties": {"Keys": rest, "ConsistentRead": True}} if rest else {}
        return 200, json.dumps({"Responses": {"parties": [item]}, "UnprocessedKeys": left}).encode()

    with http_server(answer) as endpoint, opened(monkeypatch, endpoint) as store:
        assert store.read(["C1", "C2", "C3"]) == dict.fromkeys(["C1", "C2", "C3"], (7, b"one"))
    assert asked == [3, 2, 1]


def test_what_is_held_back_for_good_is_throttling(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(operation: str, body: bytes) -> tuple[int, bytes]:
        left = json.loads(body)["RequestItems"]
        return 200, json.dumps({"Responses": {}, "UnprocessedKeys": left}).encode()

    with http_server(answer) as endpoint, opened(monkeypatch, endpoint, budget_ms=250) as store, unavailable():
        store.read(["C1"])


def test_of_changes_side_by_side_one_that_fails_makes_the_call_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(operation: str, body: bytes) -> tuple[int, bytes]:
        party = json.loads(body)["Item"]["party"]["S"]
        if party == "C2":
            return 400, b'{"__type": "com.amazon#ThrottlingException"}'
        return 200, b"{}"

    with http_server(answer) as endpoint, opened(monkeypatch, endpoint) as store, unavailable("throttled"):
        store.swap([Change(f"C{number}", 0, b"one", FAR_MS) for number in range(4)])


def test_timeouts_are_those_of_the_budget_and_nothing_is_tried_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    name_aws(monkeypatch, "http://127.0.0.1:9")
    store = open_feature_store("dynamodb://parties", budget_ms=120)
    assert isinstance(store, DynamoDBFeatureStore)
    config = store._service.client.meta.config
    assert (config.connect_timeout, config.read_timeout) == (0.12, 0.12)
    assert config.retries["total_max_attempts"] == 1
    assert config.tcp_keepalive
    store.close()
