"""The handler in the real Lambda runtime, its bundle in S3: uvicorn's very bytes, and no bundle breaks it."""

import base64
import hashlib
import json
import shlex
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest

from fraud_api_lambda import bundle as bundles
from fraud_api_lambda.bundle import SigningKey
from tests.conftest import Trained
from tests.lambda_runtime.conftest import MotoServer, Start
from tests.servers import ROOT, child, free_port
from training.runtime import Runtime, release_copy

pytestmark = pytest.mark.server

EVENTS = ROOT / "events"
NAMES = sorted({path.name.split(".")[0] for path in EVENTS.glob("*.json")})
FIXED = "tests.lambda_runtime.fixed_clock"
BUCKET = "fraud-models"
SECRET = "a-key-of-the-tests"
Event = dict[str, Any]


@dataclass(frozen=True)
class Published:
    """A release of the small bundle in S3, and the settings with which a service finds it there."""

    key: SigningKey
    folder: Path  # the signed copy on disk
    version: str
    env: Mapping[str, str]


@pytest.fixture(scope="module")
def published(trained: Trained, moto_server: MotoServer, tmp_path_factory: pytest.TempPathFactory) -> Published:
    key = SigningKey.generate("release-test")
    copy = tmp_path_factory.mktemp("release") / trained.version
    copy.mkdir()
    for file in trained.folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    bundles.resign(copy, key, bundles.parse_public_keys((trained.root / "keys" / "development.pub").read_text()))
    url = f"s3://{BUCKET}/models/current"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in moto_server.env.items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        bundles.publish(copy, url, key, bundles.parse_public_keys(key.public_line()))
    settings = {
        "FRAUD_MODEL_URL": url,
        "FRAUD_MODEL_PUBLIC_KEYS": key.public_line(),
        "FRAUD_API_KEYS": f"tests:admin:{hashlib.sha256(SECRET.encode()).hexdigest()}",
        "FRAUD_FEATURE_STORE_URL": "memory://",  # each process its own: both see the same requests in the same order
    }
    return Published(key, copy, trained.version, {**moto_server.env, **settings})


@contextmanager
def log_of_its_own() -> Iterator[dict[str, str]]:
    """Settings of a log and an outbox for one process; not under /tmp, where a function is refused its SQLite files."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        yield {"FRAUD_DECISION_LOG_URL": f"sqlite:///{folder}/log.db", "FRAUD_OUTBOX_URL": f"file://{folder}/outbox"}


@pytest.fixture(scope="module")
def function(rie: Start, published: Published) -> Iterator[Runtime]:
    """The handler in the Lambda runtime, its clock standing still."""
    with (
        log_of_its_own() as settings,
        rie(handler=f"{FIXED}.handler", env={**published.env, **settings}, root=ROOT) as running,
    ):
        yield running


@pytest.fixture(scope="module")
def uvicorn_url(published: Published, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The same app under uvicorn."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", f"{FIXED}:app", "--host", "127.0.0.1", "--port", str(port)]
    log_file = tmp_path_factory.mktemp("uvicorn") / "log"
    with log_of_its_own() as settings, child(command, port, log_file, {**published.env, **settings}):
        yield f"http://127.0.0.1:{port}"


# --- events and requests ---------------------------------------------------------------------------------------------


def load(name: str, version: str) -> Event:
    event: Event = json.loads((EVENTS / f"{name}.{version}.json").read_text())
    set_header(event, "X-API-Key", SECRET)
    return event


def sent_body(event: Event) -> bytes:
    text = event.get("body") or ""
    return base64.b64decode(text) if event["isBase64Encoded"] else text.encode()


def with_ids(event: Event) -> Event:
    """The event with a request id, and a transaction id where one would otherwise be made up."""
    set_header(event, "X-Request-ID", "same-for-both")
    try:
        body = json.loads(sent_body(event))
    except ValueError:
        return event
    for number, item in enumerate(body.get("transactions", [body])):
        item.setdefault("transaction_id", f"given-{number}")
    text = json.dumps(body)
    set_header(event, "Content-Length", str(len(text)))
    event["body"] = base64.b64encode(text.encode()).decode() if event["isBase64Encoded"] else text
    return event


def set_header(event: Event, name: str, value: str) -> None:
    for headers, new in ((event["headers"], value), (event.get("multiValueHeaders", {}), [value])):
        for known in [known for known in headers if known.lower() == name.lower()]:
            del headers[known]
        headers[name] = new


def predict(body: Mapping[str, Any]) -> Event:
    event = load("predict-paysim", "v1")
    event["body"] = json.dumps(body)
    set_header(event, "Content-Length", str(len(event["body"])))
    return event


def answered_bytes(answer: Mapping[str, Any]) -> bytes:
    body = answer["body"]
    return base64.b64decode(body) if answer.get("isBase64Encoded") else body.encode()


def answered(answer: Mapping[str, Any]) -> dict[str, Any]:
    decoded: dict[str, Any] = json.loads(answered_bytes(answer))
    return decoded


def content_type(answer: Mapping[str, Any]) -> str:
    headers = {name.lower(): value for name, value in (answer.get("headers") or {}).items()}
    many = {name.lower(): value[0] for name, value in (answer.get("multiValueHeaders") or {}).items()}
    return str({**headers, **many}["content-type"])


def over_http(url: str, event: Event) -> httpx.Response:
    """The request that the event (format 2) describes."""
    http = event["requestContext"]["http"]
    query = f"?{event['rawQueryString']}" if event.get("rawQueryString") else ""
    headers = {name: value for name, value in event["headers"].items() if name.lower() not in {"host"}}
    with httpx.Client(trust_env=False) as client:
        return client.request(
            http["method"], url + event["rawPath"] + query, headers=headers, content=sent_body(event) or None
        )


# --- the same bytes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_lambda_runtime_answers_the_same_bytes_as_uvicorn(
    function: Runtime, uvicorn_url: str, name: str, version: str
) -> None:
    expected = over_http(uvicorn_url, with_ids(load(name, "v2")))
    answer = function.invoke(with_ids(load(name, version)))
    assert answer["statusCode"] == expected.status_code
    assert answered_bytes(answer) == expected.content
    assert content_type(answer) == expected.headers["content-type"]


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_payment_is_judged_by_the_bundle_in_s3(function: Runtime, published: Published, version: str) -> None:
    answer = function.invoke(load("predict-with-id", version))
    decision = answered(answer)
    assert answer["statusCode"] == 200
    assert decision["transaction_id"] == "T-2026-000001"
    assert decision["model_version"] == published.version
    assert 0 <= decision["fraud_probability"] <= 1
    assert decision["reasons"]
    assert decision["degraded"] == []


def test_a_cold_start_reads_pointer_and_bundle_once_and_warm_calls_read_nothing(
    rie: Start, published: Published, moto_server: MotoServer
) -> None:
    files = [f"/{BUCKET}/models/current", f"/{BUCKET}/models/{published.version}/forest.npz"]
    with rie(env=published.env, root=ROOT) as running:
        before = [moto_server.requests(f"GET {file}") for file in files]
        for _ in range(5):
            assert running.invoke(predict({"amount": 10}))["statusCode"] == 200
        after = [moto_server.requests(f"GET {file}") for file in files]
    assert [late - early for early, late in zip(before, after, strict=True)] == [1, 1]


# --- bundles that cannot be served -----------------------------------------------------------------------------------


def assert_rules_only(running: Runtime, state: str) -> None:
    """/ready says 503 and why; a payment is still judged, by rules, and says so; nothing crashed."""
    ready = running.invoke(load("ready", "v1"))
    assert ready["statusCode"] == 503
    assert answered(ready)["status"] == "degraded"
    assert answered(ready)["model"] == state
    assert answered(ready)["detail"]
    judged = running.invoke(predict({"amount": 25.5}))
    decision = answered(judged)
    assert judged["statusCode"] == 200
    assert decision["fraud_probability"] is None
    assert decision["model_version"] is None
    assert decision["outcome"] == "review"  # FRAUD_WITHOUT_MODEL's default
    assert "model" in decision["degraded"]
    assert running.invoke(load("health", "v1"))["statusCode"] == 200
    assert "Traceback" not in running.log()


def test_without_a_bundle_rules_decide(rie: Start, published: Published) -> None:
    env = {**published.env, "FRAUD_MODEL_URL": f"s3://{BUCKET}/nothing-here/current"}
    with rie(env=env, root=ROOT) as running:
        assert_rules_only(running, "missing")


def test_with_a_corrupt_bundle_rules_decide(rie: Start, published: Published, moto_server: MotoServer) -> None:
    client = boto3.client(
        "s3",
        endpoint_url=moto_server.url,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    pointer = client.get_object(Bucket=BUCKET, Key="models/current")["Body"].read()
    client.put_object(Bucket=BUCKET, Key="corrupt/current", Body=pointer)
    for file in published.folder.iterdir():
        data = file.read_bytes()
        if file.name == "forest.npz":
            data = data[:-100] + bytes([data[-100] ^ 1]) + data[-99:]  # one bit
        client.put_object(Bucket=BUCKET, Key=f"corrupt/{published.version}/{file.name}", Body=data)
    env = {**published.env, "FRAUD_MODEL_URL": f"s3://{BUCKET}/corrupt/current"}
    with rie(env=env, root=ROOT) as running:
        assert_rules_only(running, "refused")


def test_a_bundle_signed_by_a_stranger_is_refused(rie: Start, published: Published) -> None:
    stranger = SigningKey.generate("release-test")  # the same id, another key
    env = {**published.env, "FRAUD_MODEL_PUBLIC_KEYS": stranger.public_line()}
    with rie(env=env, root=ROOT) as running:
        assert_rules_only(running, "refused")


def test_a_development_key_opens_nothing_in_lambda(rie: Start, trained: Trained) -> None:
    env = {
        "FRAUD_MODEL_URL": f"file://{trained.root}/models/current",
        "FRAUD_MODEL_PUBLIC_KEYS": (trained.root / "keys" / "development.pub").read_text().strip(),
        "FRAUD_FEATURE_STORE_URL": "memory://",
    }
    with rie(env=env, root=ROOT) as running:
        assert_rules_only(running, "refused")


def test_with_an_unreachable_store_rules_decide(rie: Start, published: Published) -> None:
    env = {**published.env, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}"}
    with rie(env=env, root=ROOT) as running:
        assert_rules_only(running, "unreachable")


def test_an_event_that_is_no_request_is_an_error_of_that_call_only(function: Runtime) -> None:
    assert "errorMessage" in function.invoke({"Records": []})
    assert function.invoke(load("health", "v1"))["statusCode"] == 200


def test_make_lambda_serves_the_default_bundle_signed_with_a_throw_away_key(
    rie: Start, trained: Trained, tmp_path: Path
) -> None:
    with rie(env=release_copy(trained.root, tmp_path), root=ROOT) as running:
        assert answered(running.invoke(load("ready", "v2")))["model_version"] == trained.version


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A folder that is not under /tmp, where a function is refused its SQLite files."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        yield Path(folder)


def test_make_lambda_prints_a_command_that_works_and_stops_cleanly(
    rie: Start, trained: Trained, elsewhere: Path
) -> None:
    tmp_path = elsewhere
    for name in ("fraud_api_lambda", "training", "events"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name in ("models", "keys"):
        (tmp_path / name).symlink_to(trained.root / name)
    port = free_port()
    log_file = tmp_path / "said"
    command = [sys.executable, "-m", "training.runtime", "--port", str(port)]
    with child(command, port, log_file, {"PYTHONUNBUFFERED": "1"}, cwd=tmp_path) as process:
        deadline = time.monotonic() + 30
        while "Ctrl-C" not in log_file.read_text():
            assert time.monotonic() < deadline, log_file.read_text()
            time.sleep(0.1)
        line = next(line for line in log_file.read_text().splitlines() if "curl " in line)
        words = shlex.split(line)
        event = (tmp_path / words[words.index("-d") + 1].removeprefix("@")).read_bytes()
        answer = httpx.post(words[2], content=event, trust_env=False, timeout=60).json()
        assert answered(answer)["model_version"] == trained.version
        process.terminate()
        assert process.wait(timeout=30) == 0
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
