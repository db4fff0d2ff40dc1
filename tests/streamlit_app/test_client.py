"""The client against real servers on the loopback interface that do what servers do on bad days."""

import json
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from streamlit_app.client import (
    DEFAULT_URL,
    MAX_ANSWER_BYTES,
    Address,
    AddressWrong,
    ApiDown,
    ApiError,
    ApiFailed,
    ApiSlow,
    FraudApi,
    KeyRefused,
    NotServed,
    NotTheApi,
    RequestRefused,
    TooManyRequests,
)
from tests.streamlit_app.servers import Answer, SmallServer, decision, reply

StartServer = Callable[[Answer], SmallServer]
StartRaw = Callable[[Callable[[socket.socket], None]], str]

BODY = '{"amount": 12.5}'


def api(url: str, key: str | None = None, *, total: float = 5.0) -> FraudApi:
    return FraudApi(Address(url, key), connect_seconds=1.0, silence_seconds=0.4, total_seconds=total)


def failure_of(url: str, key: str | None = None) -> ApiError:
    with pytest.raises(ApiError) as caught:
        api(url, key).score(BODY)
    error = caught.value
    assert error.message.strip()
    assert error.mend.strip()
    assert "\n" not in error.message + error.mend
    return error


# --- the address -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "secrets", "expected"),
    [
        ({}, {}, DEFAULT_URL),
        ({}, {"FRAUD_API_URL": "http://secret:1/"}, "http://secret:1"),
        ({"BACKEND_URL": "http://backend:2"}, {"FRAUD_API_URL": "http://secret:1"}, "http://backend:2"),
        (
            {"FRAUD_API_URL": "https://first/Prod/", "BACKEND_URL": "http://backend:2"},
            {"FRAUD_API_URL": "http://secret:1"},
            "https://first/Prod",
        ),
        ({"FRAUD_API_URL": "  "}, {"BACKEND_URL": "http://secret:3"}, "http://secret:3"),
    ],
)
def test_the_environment_comes_before_the_secrets_and_both_before_the_default(
    environ: dict[str, str], secrets: dict[str, object], expected: str
) -> None:
    assert Address.find(environ, secrets).url == expected


def test_the_key_comes_from_the_environment_else_from_the_secrets() -> None:
    assert Address.find({"FRAUD_API_KEY": "a"}, {"FRAUD_API_KEY": "b"}).key == "a"
    assert Address.find({}, {"FRAUD_API_KEY": "b"}).key == "b"
    assert Address.find({}, {}).key is None


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host", "http://", "//host", "http://[::1", "http://h:99999"])
def test_a_wrong_address_names_the_setting_and_shows_how_to_write_it(url: str) -> None:
    with pytest.raises(AddressWrong) as caught:
        Address.find({"FRAUD_API_URL": url}, {})
    assert "FRAUD_API_URL" in caught.value.message
    assert DEFAULT_URL in caught.value.mend


def test_a_password_in_the_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(AddressWrong) as caught:
        Address.find({"BACKEND_URL": "https://user:hunter2@host"}, {})
    assert "BACKEND_URL" in caught.value.message
    assert "hunter2" not in caught.value.message + caught.value.mend


def test_a_key_that_cannot_be_a_header_is_refused_and_not_repeated() -> None:
    with pytest.raises(AddressWrong) as caught:
        Address.find({"FRAUD_API_KEY": "schlüssel"}, {})
    assert "schlüssel" not in caught.value.message + caught.value.mend


def test_an_address_shows_neither_its_path_nor_its_key() -> None:
    address = Address("https://host:8443/Prod", "s3cret")
    assert address.host == "host:8443"
    assert "s3cret" not in repr(address)


# --- what is sent ----------------------------------------------------------------------------------------------------


def test_the_body_is_sent_as_it_stands_with_the_key_and_a_wish_for_reasons(small_server: StartServer) -> None:
    server = small_server(reply(200, decision()))
    text = '{ "amount":1e2,\n "customer_id": "Zoë" }'
    api(server.url + "/Prod", "the-key").score(text)
    [request] = server.requests
    assert (request.method, request.path) == ("POST", "/Prod/predict?explain=true")
    assert request.body == text.encode()
    assert request.headers["x-api-key"] == "the-key"
    assert request.headers["content-type"] == "application/json"


def test_no_key_header_is_sent_without_a_key(small_server: StartServer) -> None:
    server = small_server(reply(200, decision()))
    api(server.url).score(BODY)
    assert "x-api-key" not in server.requests[0].headers


def test_a_redirect_is_not_followed_so_the_key_stays_here(small_server: StartServer) -> None:
    elsewhere = small_server(reply(200, decision()))
    server = small_server(reply(307, b"", Location=elsewhere.url + "/predict"))
    error = failure_of(server.url, "the-key")
    assert isinstance(error, NotTheApi)
    assert not elsewhere.requests


# --- good answers ----------------------------------------------------------------------------------------------------


def test_a_decision_is_read_whole(small_server: StartServer) -> None:
    scored = api(small_server(reply(200, decision(), Idempotent_Replayed="true")).url).score(BODY)
    assert scored.decision.outcome == "decline"
    assert (scored.decision.review_from, scored.decision.decline_from) == (0.05, 0.6)
    assert [reason.contribution for reason in scored.decision.reasons] == [2.5, -0.5]
    assert scored.raw == decision()
    assert scored.replayed
    assert 0 < scored.seconds < 5


def test_a_decision_without_a_model_has_neither_probability_nor_thresholds(small_server: StartServer) -> None:
    changes: dict[str, Any] = {"fraud_probability": None, "thresholds": None, "model_version": None, "reasons": []}
    scored = api(small_server(reply(200, decision(**changes))).url).score(BODY)
    assert scored.decision.fraud_probability is None
    assert scored.decision.review_from is None
    assert not scored.replayed


def test_a_decision_may_have_members_this_console_does_not_know(small_server: StartServer) -> None:
    assert api(small_server(reply(200, decision(shadow={"p": 1}))).url).score(BODY).raw["shadow"] == {"p": 1}


def test_readiness_tells_the_model_or_why_there_is_none(small_server: StartServer) -> None:
    ready = api(small_server(reply(200, {"status": "ready", "model": "ok", "model_version": "v7"})).url).ready()
    assert (ready.ready, ready.model_version, ready.detail) == (True, "v7", None)
    degraded = {"status": "degraded", "model": "refused", "detail": "The signature is not good."}
    ready = api(small_server(reply(503, degraded)).url).ready()
    assert (ready.ready, ready.model, ready.detail) == (False, "refused", "The signature is not good.")
    stale = {"status": "ready", "model": "ok", "model_version": "v7", "last_refresh": {"detail": "Not reached."}}
    ready = api(small_server(reply(200, stale)).url).ready()
    assert (ready.ready, ready.detail) == (True, "Not reached.")


def test_rules_are_told_by_id(small_server: StartServer) -> None:
    rule = {"id": "night", "expression": "is_night", "outcome": "review", "reason": "At night.", "enabled": True}
    rules = api(small_server(reply(200, {"rules": [rule]})).url).rules()
    assert rules["night"].reason == "At night."


# --- bad days --------------------------------------------------------------------------------------------------------


def test_nobody_listening_is_told_with_the_way_to_start_it(closed_url: str) -> None:
    error = failure_of(closed_url)
    assert isinstance(error, ApiDown)
    assert "make run" in error.mend


def test_a_host_that_does_not_exist_is_told_as_a_name() -> None:
    error = failure_of("http://no-such-host.invalid")
    assert isinstance(error, ApiDown)
    assert "no-such-host.invalid" in error.message


def test_https_where_http_is_spoken_is_told_as_tls(small_server: StartServer) -> None:
    error = failure_of(small_server(reply(200, {})).url.replace("http://", "https://"))
    assert isinstance(error, ApiDown)
    assert "TLS" in error.message


def test_an_api_that_never_answers_is_slow(raw_server: StartRaw) -> None:
    started = time.monotonic()
    error = failure_of(raw_server(lambda _: time.sleep(3)))
    assert isinstance(error, ApiSlow)
    assert time.monotonic() - started < 2.5


def test_an_api_that_drips_is_given_up_when_its_time_is_over(raw_server: StartRaw) -> None:
    def drip(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9999\r\n\r\n")
        for _ in range(100):
            connection.sendall(b" ")
            time.sleep(0.1)

    started = time.monotonic()
    with pytest.raises(ApiSlow):
        api(raw_server(drip), total=1.0).score(BODY)
    assert time.monotonic() - started < 4


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_told_and_where_the_key_belongs(small_server: StartServer, status: int) -> None:
    server = small_server(reply(status, {"message": "Forbidden"}))
    with_key, without = failure_of(server.url, "s3cret"), failure_of(server.url)
    assert isinstance(with_key, KeyRefused)
    assert isinstance(without, KeyRefused)
    assert "refused the key" in with_key.message
    assert "wants a key" in without.message
    assert "FRAUD_API_KEY" in with_key.mend
    assert "s3cret" not in with_key.message + with_key.mend


def test_too_many_requests_are_told(small_server: StartServer) -> None:
    assert isinstance(failure_of(small_server(reply(429, {"message": "Limit Exceeded"})).url), TooManyRequests)


def test_a_refused_transaction_names_its_fields(small_server: StartServer) -> None:
    errors = [{"field": "amount", "message": "is required"}, {"field": "lat"}, "nonsense"]
    problem = {"title": "Invalid request", "status": 422, "detail": "The transaction is not valid.", "errors": errors}
    error = failure_of(small_server(reply(422, problem, "application/problem+json")).url)
    assert isinstance(error, RequestRefused)
    assert error.message == "The transaction is not valid."
    assert error.fields == (("amount", "is required"),)


def test_a_used_transaction_id_is_told_with_its_own_mend(small_server: StartServer) -> None:
    error = failure_of(small_server(reply(409, {"title": "Conflict", "status": 409})).url)
    assert isinstance(error, RequestRefused)
    assert "transaction_id" in error.mend


def test_503_with_a_problem_is_the_service_speaking_and_500_is_a_fault(small_server: StartServer) -> None:
    problem = {"title": "No model loaded", "status": 503, "detail": "No bundle is loaded."}
    error = failure_of(small_server(reply(503, problem)).url)
    assert isinstance(error, NotServed)
    assert error.message == "No bundle is loaded."
    for status in (500, 502, 503, 504):
        assert isinstance(failure_of(small_server(reply(status, b"<html>oops</html>", "text/html")).url), ApiFailed)


@pytest.mark.parametrize(
    "body",
    [
        b"<!doctype html><title>Welcome to nginx</title>",
        b"",
        b"[]",
        b'{"status": "ok"}',
        b'{"outcome": ',
        b"\xff\xfe\x00garbage",
        b"[" * 100_000,
        json.dumps(decision(outcome="perhaps")).encode(),
        json.dumps(decision(fraud_probability="high")).encode(),
        json.dumps(decision(fraud_probability=float("nan"))).encode(),
        json.dumps(decision(reasons=[{"text": "no number"}])).encode(),
        json.dumps(decision(thresholds={"review": True, "decline": 1})).encode(),
    ],
)
def test_an_answer_of_another_kind_is_told_as_the_wrong_address(small_server: StartServer, body: bytes) -> None:
    error = failure_of(small_server(reply(200, body, "text/html")).url)
    assert isinstance(error, NotTheApi)
    assert "FRAUD_API_URL" in error.mend


def test_a_route_that_is_not_there_is_told_as_the_wrong_address(small_server: StartServer) -> None:
    assert isinstance(failure_of(small_server(reply(404, b"nothing", "text/plain")).url), NotTheApi)


def test_something_that_is_not_http_is_told_as_the_wrong_address(raw_server: StartRaw) -> None:
    def greet(connection: socket.socket) -> None:
        connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):  # to the end: closing on what is not read would take the greeting back
            pass

    assert isinstance(failure_of(raw_server(greet)), NotTheApi)


def test_a_server_that_hangs_up_early_is_an_error_of_ours_not_a_crash(raw_server: StartRaw) -> None:
    def cut(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{")

    assert isinstance(failure_of(raw_server(cut)), ApiError)


def test_an_endless_answer_is_not_read_to_its_end(raw_server: StartRaw) -> None:
    sent = 0

    def flood(connection: socket.socket) -> None:
        nonlocal sent
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n")
        while sent < 40 * MAX_ANSWER_BYTES:
            sent += connection.send(b" " * 65536)

    assert isinstance(failure_of(raw_server(flood)), NotTheApi)
    time.sleep(0.3)
    assert sent < 5 * MAX_ANSWER_BYTES


# --- the service itself ----------------------------------------------------------------------------------------------


@pytest.mark.server
def test_the_real_service_is_understood(rules_only_url: str) -> None:
    client = FraudApi(Address(rules_only_url))
    ready = client.ready()
    assert (ready.ready, ready.model, ready.model_version) == (False, "missing", None)
    scored = client.score('{"amount": 9000, "transaction_id": "t-9", "timestamp": "2026-02-06T12:00:00Z"}')
    assert scored.decision.transaction_id == "t-9"
    assert scored.decision.rules == ("very_large_amount",)
    assert scored.decision.fraud_probability is None
    with pytest.raises(RequestRefused) as refused:
        client.score('{"amount": -1, "colour": "red"}')
    assert {name for name, _ in refused.value.fields} == {"amount", "colour"}
    with pytest.raises(NotServed):
        client.rules()
