"""Every request of the corpus, in process, under uvicorn and in the Lambda runtime: the status that was promised, never
a 5xx, a problem of at most 4 kB, nothing of what was sent in it or in a log line."""

import asyncio
import base64
import json
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest

from fraud_api_lambda.app import create_app
from fraud_api_lambda.scoring import FraudScorer
from tests.bad_input.corpus import CANARY, CARD, CASES, FINE, UNSEEN, Case
from tests.conftest import Trained
from tests.fraud_api_lambda.asgi import source_of
from tests.fraud_api_lambda.lines import Lines
from tests.lambda_runtime.conftest import Start
from tests.servers import ROOT, child, free_port
from training.runtime import EmulatorError, Runtime

MOST = 4_096
HTML = {"/docs", "/model/report"}


@dataclass(frozen=True)
class Answered:
    status: int
    headers: dict[str, str]
    body: bytes


def assert_kept_to(case: Case, answer: Answered, *, app: bool = True) -> None:
    """``app``: the app has seen the request, so that a refusal is a problem document."""
    assert answer.status == (case.status if app else case.server)
    seen = (answer.body.decode("latin-1") + json.dumps(answer.headers)).lower()
    made_up = answer.headers.get("x-request-id", "")  # hex digits, and now and then 7731
    for sent in UNSEEN:
        assert sent not in seen.replace(made_up, "")
    if answer.status >= 400:
        assert len(answer.body) <= MOST
        if app:
            problem = json.loads(answer.body)
            assert answer.headers["content-type"] == "application/problem+json"
            assert problem["status"] == answer.status
            assert problem["title"]
            assert problem["detail"]


def assert_unseen(log: str) -> None:
    for sent in UNSEEN:
        assert sent not in log.lower()
    assert "Traceback" not in log


# --- in process ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def app(trained: Trained) -> Any:
    return create_app(FraudScorer(source_of(trained)))


async def ask(app: Any, case: Case) -> Answered:
    """The request as ASGI, whose headers may hold what no client would send."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": case.body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    path = unquote_to_bytes(case.path).decode(errors="replace")
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": case.method, "scheme": "http",
        "path": path, "raw_path": case.path.encode(), "root_path": "", "query_string": case.query,
        "headers": [(b"host", b"localhost"), *case.headers], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
    }  # fmt: skip
    await app(scope, receive, send)
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in sent[0]["headers"]}
    return Answered(sent[0]["status"], headers, b"".join(message.get("body", b"") for message in sent[1:]))


@pytest.mark.parametrize("name", CASES)
def test_in_process_bad_input_is_a_small_problem_that_repeats_nothing(app: Any, lines: Lines, name: str) -> None:
    assert_kept_to(CASES[name], asyncio.run(ask(app, CASES[name])))
    assert_unseen(lines.text)


def test_the_corpus_is_as_large_as_it_says() -> None:
    assert len(CASES) >= 150
    assert sum(CANARY.encode() in case.body or CARD.encode() in case.body for case in CASES.values()) >= 40


# --- over a socket ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Served:
    port: int
    log_file: Path


@pytest.fixture(scope="module")
def uvicorn(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The service as it is started by hand, with uvicorn's own log as it comes."""
    port, folder = free_port(), tmp_path_factory.mktemp("served")
    env = {
        "FRAUD_MODEL_URL": f"file://{trained.root}/models/current",
        "FRAUD_MODEL_PUBLIC_KEYS": f"file://{trained.root}/keys/development.pub",
        "FRAUD_LOG_LEVEL": "DEBUG",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "uvicorn", "fraud_api_lambda.handler:app", "--host", "127.0.0.1"]
    with child([*command, "--port", str(port)], port, folder / "log", env, cwd=folder):
        yield Served(port, folder / "log")


def over_socket(port: int, data: bytes, *, finish: bool = False) -> Answered:
    """The answer to the bytes; ``finish``: nothing more comes, which the server learns."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        try:
            connection.sendall(data)
            if finish:
                connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the server has answered before it had read everything
        answer = HTTPResponse(connection)
        answer.begin()
        return Answered(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())


def raw(case: Case) -> bytes:
    target = case.path.encode() + (b"?" + case.query if case.query else b"")
    headers = [(b"host", b"localhost"), (b"content-length", b"%d" % len(case.body)), *case.headers]
    lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
    return case.method.encode() + b" " + target + b" HTTP/1.1\r\n" + lines + b"connection: close\r\n\r\n" + case.body


@pytest.mark.server
@pytest.mark.parametrize("name", CASES)
def test_under_uvicorn_bad_input_is_a_small_problem_that_repeats_nothing(uvicorn: Served, name: str) -> None:
    case = CASES[name]
    before = uvicorn.log_file.stat().st_size
    assert_kept_to(case, over_socket(uvicorn.port, raw(case)), app=case.server is None)
    assert_unseen(uvicorn.log_file.read_bytes()[before:].decode(errors="replace"))


_POST = b"POST /predict HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
#: Bytes that are no request, or two: name -> (bytes, status). Uvicorn refuses them before there is a request.
RAW: dict[str, tuple[bytes, int]] = {
    "a line break in a header": (_POST + b"x-other: a\r\nx-evil\r\n\r\n", 400),
    "a carriage return in a header": (_POST + b"x-other: a\rX-Evil: 1\r\n\r\n", 400),
    "a null byte in a header": (_POST + b"x-other: Canary-7731-word\0\r\n\r\n", 400),
    "a folded header": (_POST + b"x-other: a\r\n Canary-7731-word\r\ncontent-length: 13\r\n\r\n" + FINE, 200),
    "white space before the colon": (_POST + b"content-length : 13\r\n\r\n" + FINE, 400),
    "a header without a name": (_POST + b": Canary-7731-word\r\n\r\n", 400),
    "two lengths": (_POST + b"content-length: 13\r\ncontent-length: 5\r\n\r\n" + FINE, 400),
    "a negative length": (_POST + b"content-length: -1\r\n\r\n" + FINE, 400),
    "a length of letters": (_POST + b"content-length: Canary-7731-word\r\n\r\n" + FINE, 400),
    "a length of 5,000 digits": (_POST + b"content-length: " + b"9" * 5_000 + b"\r\n\r\n" + FINE, 400),
    "a length and chunks": (
        _POST + b"content-length: 13\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + FINE, 422,
    ),
    "an encoding that does not exist": (_POST + b"transfer-encoding: Canary-7731-word\r\n\r\n" + FINE, 400),
    "a chunk of letters": (_POST + b"transfer-encoding: chunked\r\n\r\nCanary-7731-word\r\n", 400),
    "a chunk of 2**84 bytes": (_POST + b"transfer-encoding: chunked\r\n\r\n" + b"f" * 21 + b"\r\n" + FINE, 400),
    "chunks beyond the limit": (
        _POST + b"transfer-encoding: chunked\r\n\r\n" + (b"1000\r\n" + b" " * 4096 + b"\r\n") * 20, 413,
    ),
    "a body longer than it says": (_POST + b"content-length: 5\r\n\r\n" + FINE, 422),
    "no version": (b"GET /health\r\n\r\n", 400),
    "another version": (b"GET /health HTTP/9.9\r\nhost: localhost\r\nconnection: close\r\n\r\n", 200),
    "no host": (b"GET /health HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET /health HTTP/1.1\r\nhost: localhost\r\nhost: Canary-7731-word\r\n\r\n", 400),
    "a foreign host": (b"GET /model HTTP/1.1\r\nhost: Canary-7731-word\r\nconnection: close\r\n\r\n", 401),
    "a line break in the target": (b"GET /health\r\n /x HTTP/1.1\r\nhost: localhost\r\n\r\n", 400),
    "a null byte in the target": (b"GET /\0 HTTP/1.1\r\nhost: localhost\r\n\r\n", 400),
    "a target of 30 kB": (b"GET /" + b"a" * 30_000 + b" HTTP/1.1\r\nhost: localhost\r\n\r\n", 404),
    "a greeting of TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500) + b"\r\n\r\n", 400),
    "the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 404),
    "nothing but zeros": (bytes(10_000) + b"\r\n\r\n", 400),
    "a card number": (CARD.encode() + b"\r\n\r\n", 400),
}  # fmt: skip


@pytest.mark.server
@pytest.mark.parametrize("name", RAW)
def test_what_is_no_request_is_refused_in_a_few_words(uvicorn: Served, name: str) -> None:
    data, status = RAW[name]
    before = uvicorn.log_file.stat().st_size
    answer = over_socket(uvicorn.port, data)
    assert answer.status == status
    if status != 200:
        assert len(answer.body) <= MOST
    seen = (answer.body.decode("latin-1") + json.dumps(answer.headers)).lower()
    for sent in UNSEEN:
        assert sent not in seen
    assert_unseen(uvicorn.log_file.read_bytes()[before:].decode(errors="replace"))


@pytest.mark.server
def test_a_body_that_never_ends_holds_up_nobody_else(uvicorn: Served) -> None:
    begun = []
    try:
        for _ in range(50):
            connection = socket.create_connection(("127.0.0.1", uvicorn.port), timeout=20)
            connection.sendall(_POST + b"content-length: 60000\r\n\r\n{")
            begun.append(connection)
        case = Case(200, FINE)
        assert_kept_to(case, over_socket(uvicorn.port, raw(case)))
    finally:
        for connection in begun:
            connection.close()
    assert_kept_to(case, over_socket(uvicorn.port, raw(case)))


# --- in the Lambda runtime -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def function(rie: Start, trained: Trained) -> Iterator[Runtime]:
    """The handler in the Lambda runtime, behind a gateway that lets everybody through. It has no bundle."""
    import tempfile

    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        env = {
            "FRAUD_MODEL_URL": f"file://{folder}/current",
            "FRAUD_FEATURE_STORE_URL": "memory://",
            "FRAUD_DECISION_LOG_URL": f"sqlite:///{folder}/log.db",
            "FRAUD_OUTBOX_URL": f"file://{folder}/outbox",
            "FRAUD_LOG_LEVEL": "DEBUG",
        }
        with rie(env=env, root=ROOT) as running:
            yield running


def event_of(case: Case, version: str) -> dict[str, Any]:
    """The event that API Gateway would make of the request."""
    event: dict[str, Any] = json.loads((ROOT / "events" / f"health.{version}.json").read_text())
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in case.headers}
    # To the app, API Gateway is nobody's browser and no proxy of ours.
    headers = {name: value for name, value in headers.items() if name not in {"origin", "x-forwarded-for"}}
    try:
        event["body"], event["isBase64Encoded"] = case.body.decode(), False
    except UnicodeDecodeError:
        event["body"], event["isBase64Encoded"] = base64.b64encode(case.body).decode(), True
    event["headers"] = headers
    path, query = case.path, case.query.decode("latin-1")
    if version == "v1":
        event |= {"path": path, "httpMethod": case.method, "multiValueHeaders": {k: [v] for k, v in headers.items()}}
        event["requestContext"] |= {"path": "/v1" + path, "httpMethod": case.method}
        pairs = [pair.partition("=")[::2] for pair in query.split("&")] if query else []
        event["queryStringParameters"] = dict(pairs) or None
        event["multiValueQueryStringParameters"] = {name: [value] for name, value in pairs} or None
    else:
        event |= {"rawPath": path, "rawQueryString": query}
        event["requestContext"]["http"] |= {"path": path, "method": case.method}
    return event


def answered(answer: dict[str, Any]) -> Answered:
    assert "statusCode" in answer, answer
    body = answer["body"]
    many = {name.lower(): values[0] for name, values in (answer.get("multiValueHeaders") or {}).items()}
    one = {name.lower(): value for name, value in (answer.get("headers") or {}).items()}
    data = base64.b64decode(body) if answer.get("isBase64Encoded") else body.encode()
    return Answered(answer["statusCode"], {**many, **one}, data)


#: What Lambda hands over is at most 6 MB.
TAKEN = {name: case for name, case in CASES.items() if len(case.body) < 4_000_000}
#: What only the machine itself may be refused: whoever passed the gateway is let in.
OPEN = {"a foreign origin", "an origin that is no URL", "a forwarded address"}


@pytest.mark.server
@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("name", [name for name in TAKEN if name not in OPEN])
def test_in_the_lambda_runtime_bad_input_is_a_small_problem_that_repeats_nothing(
    function: Runtime, version: str, name: str
) -> None:
    case = TAKEN[name]
    before = len(function.log())
    answer = answered(function.invoke(event_of(case, version)))
    assert_kept_to(case, answer)
    assert_unseen(function.log()[before:])


def _event(version: str = "v1", **changes: Any) -> dict[str, Any]:
    return {**event_of(Case(200, FINE), version), **changes}


#: Events that no gateway sends: name -> (event, status).
ODD: dict[str, tuple[dict[str, Any], int]] = {
    "no body": (_event(body=None), 422),
    "no body, and base64": (_event(body=None, isBase64Encoded=True), 422),
    "a body that is no base64": (_event(body="Canary-7731-word!", isBase64Encoded=True), 422),
    "a body of half a base64 word": (_event(body="Q2FuYXJ5LTc3", isBase64Encoded=True), 422),
    "a body of one base64 letter": (_event(body="Q", isBase64Encoded=True), 422),
    "a body that is a number": (_event(body=7731), 422),
    "a body that is an object": (_event(body={"amount": CARD}), 422),
    "half a surrogate in the body": (_event(body="\ud800Canary-7731-word"), 422),
    "no headers": (_event(headers=None, multiValueHeaders=None), 200),
    "headers that are a list": (_event(headers=[CANARY], multiValueHeaders=None), 422),
    "a header that is a number": (_event(headers={"x-other": 7731}, multiValueHeaders=None), 422),
    "half a surrogate in a header": (_event(headers={"x-other": "\ud800"}, multiValueHeaders=None), 422),
    "a header beyond Latin-1": (_event(headers={"x-other": "\u20ac"}, multiValueHeaders={"x-other": ["\u20ac"]}), 200),
    "no path": (_event(path=None), 404),
    "a path that is a number": (_event(path=7731), 422),
    "no method": (_event(httpMethod=None), 405),
    "no context": (_event(requestContext=None), 422),
    "a context that is a text": (_event(requestContext=CARD), 422),
    "v2: no body": (_event("v2", body=None), 422),
    "v2: no headers": (_event("v2", headers=None), 422),
    "v2: a body of one base64 letter": (_event("v2", body="Q", isBase64Encoded=True), 422),
    "v2: a body that is a number": (_event("v2", body=7731), 422),
    "v2: no path": (_event("v2", rawPath=None), 200),
    "v2: no context": (_event("v2", requestContext={}), 422),
    "v2: a query that is a number": (_event("v2", rawQueryString=7731), 422),
}


@pytest.mark.server
@pytest.mark.parametrize("name", ODD)
def test_an_event_that_no_gateway_sends_is_a_problem_too(function: Runtime, name: str) -> None:
    event, status = ODD[name]
    before = len(function.log())
    assert_kept_to(Case(status), answered(function.invoke(event)))
    assert_unseen(function.log()[before:])


@pytest.mark.server
@pytest.mark.parametrize("event", [{}, {"Records": [{"body": CARD}]}, {"amount": CARD}, {CANARY: CARD}])
def test_an_event_that_is_no_request_at_all_is_an_error_that_repeats_nothing(
    function: Runtime, event: dict[str, Any]
) -> None:
    before = len(function.log())
    answer = function.invoke(event)
    assert "errorMessage" in answer
    for text in (json.dumps(answer), function.log()[before:]):
        for sent in UNSEEN:
            assert sent not in text.lower()


@pytest.mark.server
def test_the_function_still_serves_afterwards(function: Runtime) -> None:
    try:
        assert answered(function.invoke(_event()))
    except EmulatorError as error:  # pragma: no cover
        pytest.fail(str(error))
