"""CodeDeploy's hook: which versions it lets through, and what CodeDeploy is told. Over HTTP, to a stand-in of AWS."""

import asyncio
import base64
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from botocore.exceptions import ClientError

from fraud_api_lambda import pretraffic as hook
from fraud_api_lambda.bootstrap import build
from fraud_api_lambda.pretraffic import pretraffic
from fraud_api_lambda.settings import Settings
from tests.fraud_api_lambda.lines import Lines
from tests.fraud_api_lambda.making import KEY, publish_small
from tests.servers import REGION, name_aws

pytestmark = pytest.mark.server

ARN = "arn:aws:lambda:eu-west-1:123456789012:function:fraud:7"
EVENT = {"DeploymentId": "d-ABC123", "LifecycleEventHookExecutionId": "eyJ.execution.id"}
Version = Callable[[dict[str, Any]], Any]


class Cloud:
    """What the hook talks to: Lambda's Invoke and CodeDeploy's status call, by their wire formats."""

    def __init__(self, address: str) -> None:
        self.address = address
        #: Answers an event as the version would; an exception is a function that failed.
        self.version: Version = lambda event: None
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.told: list[dict[str, Any]] = []
        self.refuse_status = False


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    class Wire(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
            headers, status = {}, 200
            if self.headers.get("X-Amz-Target", "").endswith("PutLifecycleEventHookExecutionStatus"):
                cloud.told.append(body)
                status = 400 if cloud.refuse_status else 200
                answer: Any = {"lifecycleEventHookExecutionId": body["lifecycleEventHookExecutionId"]}
                if cloud.refuse_status:
                    answer = {"__type": "InvalidLifecycleEventHookExecutionIdException", "message": "no"}
            else:
                cloud.asked.append((unquote(self.path), body))
                try:
                    answer = cloud.version(body)
                except Exception as error:
                    headers["X-Amz-Function-Error"] = "Unhandled"
                    answer = {"errorType": type(error).__name__, "errorMessage": "it says a secret"}
            data = json.dumps(answer).encode()
            self.send_response(status)
            for name, value in {"Content-Type": "application/x-amz-json-1.1", **headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Wire)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    cloud = Cloud(f"http://127.0.0.1:{server.server_port}")
    name_aws(monkeypatch, cloud.address)
    monkeypatch.setenv("AWS_REGION", REGION)
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    yield cloud
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def lambda_handler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("FRAUD_MODEL_URL", "file://nowhere/current")
    from fraud_api_lambda.handler import lambda_handler

    return lambda_handler


@pytest.fixture
def version(lambda_handler: Any, tmp_path: Path) -> Callable[..., Version]:
    """The real handler of a service with these settings."""

    def make(**settings: Any) -> Version:
        known = {"feature_store_url": "memory://", "decision_log_url": f"sqlite:///{tmp_path}/decisions.db"}
        app = build(Settings(**{"model_public_keys": KEY.public_line(), **known, **settings}), on_aws=True)
        handler = lambda_handler(app)

        def answer(event: dict[str, Any]) -> Any:
            asyncio.set_event_loop(asyncio.new_event_loop())  # Mangum asks for the thread's, which Lambda's has
            try:
                return handler(event, None)
            finally:
                asyncio.get_event_loop().close()

        return answer

    return make


def run(key: str = "") -> str:
    return pretraffic(EVENT, {"FRAUD_SMOKE_FUNCTION": ARN, "FRAUD_API_KEY": key}, pause_s=0.0)


def reason(lines: Lines) -> str:
    [line] = lines.of("the new version is refused")
    return str(line["reason"])


def test_a_version_that_serves_its_model_gets_the_traffic(
    cloud: Cloud, version: Callable[..., Version], tmp_path: Path
) -> None:
    cloud.version = version(model_url=publish_small(tmp_path, "v1"))
    assert run() == "Succeeded"
    assert cloud.told == [{"deploymentId": "d-ABC123", "lifecycleEventHookExecutionId": "eyJ.execution.id",
                           "status": "Succeeded"}]  # fmt: skip
    # The version itself was asked, not the alias.
    assert {path for path, _ in cloud.asked} == {f"/2015-03-31/functions/{ARN}/invocations"}
    assert [event["path"] for _, event in cloud.asked] == ["/ready", "/predict"]
    assert json.loads(cloud.asked[1][1]["body"])["transaction_id"].startswith("test-approve-")


def test_rules_alone_are_let_through_while_nothing_was_ever_published(
    cloud: Cloud, version: Callable[..., Version], tmp_path: Path, lines: Lines
) -> None:
    cloud.version = version(model_url=f"file://{tmp_path}/nothing/current", model_public_keys="none")
    assert run() == "Succeeded"
    assert "nothing was published" in lines.of("the new version is fit")[0]["said"]


@pytest.mark.parametrize("trusted", ["none", "other-key:" + base64.b64encode(b"k" * 32).decode()])
def test_a_published_bundle_that_is_not_trusted_is_refused(
    cloud: Cloud, version: Callable[..., Version], tmp_path: Path, lines: Lines, trusted: str
) -> None:
    cloud.version = version(model_url=publish_small(tmp_path, "v1"), model_public_keys=trusted)
    assert run() == "Failed"
    assert cloud.told[0]["status"] == "Failed"
    assert reason(lines) == "GET /ready: 503, model refused."
    assert len(cloud.asked) == hook.ATTEMPTS


def test_a_bucket_that_does_not_answer_is_refused(
    cloud: Cloud, version: Callable[..., Version], tmp_path: Path, lines: Lines
) -> None:
    cloud.version = version(model_url="s3://models/current")
    assert run() == "Failed"
    assert "model" in reason(lines)
    assert cloud.told[0]["status"] == "Failed"


def test_a_store_that_is_away_is_refused_and_named(
    cloud: Cloud, version: Callable[..., Version], tmp_path: Path, lines: Lines
) -> None:
    cloud.version = version(model_url=publish_small(tmp_path, "v1"), feature_store_url="redis://127.0.0.1:1")
    assert run() == "Failed"
    assert reason(lines) == "POST /predict: the decision lacks feature_store."


def test_what_only_the_first_answers_of_a_start_lack_is_forgiven(
    cloud: Cloud, version: Callable[..., Version], tmp_path: Path
) -> None:
    good = version(model_url=publish_small(tmp_path, "v1"))
    failures = 2

    def cold(event: dict[str, Any]) -> Any:
        nonlocal failures
        answer = good(event)
        if event["path"] == "/predict" and failures:
            failures -= 1
            answer = {**answer, "body": json.dumps({**json.loads(answer["body"]), "degraded": ["decision_log"]})}
        return answer

    cloud.version = cold
    assert run() == "Succeeded"
    assert failures == 0


def broken(event: dict[str, Any]) -> Any:
    raise RuntimeError


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        (broken, "GET /ready: the function failed."),
        (lambda event: None, "GET /ready: the function failed."),
        (lambda event: {"statusCode": 500, "body": "{}"}, "GET /ready: 500, no reason without a key."),
        (lambda event: {"statusCode": 200, "body": "not JSON"}, "POST /predict: 200."),
        (lambda event: {"statusCode": 200 if event["path"] == "/ready" else 503}, "POST /predict: 503."),
    ],
)
def test_a_version_that_fails_is_refused(cloud: Cloud, lines: Lines, answers: Version, said: str) -> None:
    cloud.version = answers
    assert run() == "Failed"
    assert reason(lines) == said
    assert cloud.told[0]["status"] == "Failed"
    assert "secret" not in lines.text


def test_where_keys_are_set_the_hook_sends_its_own_and_401_without_one_is_an_answer(
    cloud: Cloud, version: Callable[..., Version], tmp_path: Path, lines: Lines
) -> None:
    import hashlib

    item = f"hook:score:{hashlib.sha256(b'fraud_hook').hexdigest()}"
    cloud.version = version(model_url=publish_small(tmp_path, "v1"), api_keys=item)
    assert run("fraud_hook") == "Succeeded"
    assert run() == "Succeeded"
    assert lines.of("the new version is fit")[-1]["said"] == "ready, and open to keys only"
    assert run("fraud_wrong") == "Failed"
    assert reason(lines) == "POST /predict: 401."
    assert "fraud_hook" not in lines.text
    assert "fraud_wrong" not in lines.text


def test_codedeploy_is_told_even_where_nothing_is_named_to_ask(cloud: Cloud) -> None:
    assert pretraffic(EVENT, {}, pause_s=0.0) == "Failed"
    assert cloud.told[0]["status"] == "Failed"


def test_that_codedeploy_cannot_be_told_is_a_failure_of_the_hook(cloud: Cloud) -> None:
    cloud.refuse_status = True
    with pytest.raises(ClientError):
        pretraffic(EVENT, {}, pause_s=0.0)


@pytest.mark.parametrize("event", [{}, {"DeploymentId": "d"}, [], None, {"DeploymentId": 1}])
def test_any_other_event_is_refused(event: Any) -> None:
    with pytest.raises(ValueError, match="Not an event of CodeDeploy"):
        pretraffic(event, {"FRAUD_SMOKE_FUNCTION": ARN})


def test_all_of_its_calls_fit_into_the_minute_that_its_function_has() -> None:
    asking, telling = hook._ASKING, hook._TELLING
    attempt = 2 * (asking.connect_timeout + asking.read_timeout)  # type: ignore[attr-defined]
    told = 2 * (telling.connect_timeout + telling.read_timeout)  # type: ignore[attr-defined]
    assert hook.PATIENCE_S + attempt + told < 60
    assert asking.retries["total_max_attempts"] == 1  # type: ignore[attr-defined]
    assert telling.retries["total_max_attempts"] == 2  # type: ignore[attr-defined]


def test_the_hooks_function_builds_no_service(tmp_path: Path) -> None:
    """It has none of the rights: settings that could not be used there do not stop it."""
    import os
    import subprocess
    import sys

    code = (
        "from fraud_api_lambda import handler\n"
        "assert callable(handler.pretraffic) and not hasattr(handler, 'app')\n"
        "import sys; print('fraud_api_lambda.bundle' in sys.modules)"
    )
    environment = {
        **os.environ,
        "AWS_LAMBDA_FUNCTION_NAME": "hook",
        "FRAUD_SMOKE_FUNCTION": ARN,
        "FRAUD_API_KEYS": "ssm:/nobody/may/read",
        "FRAUD_PSEUDONYM_KEY": "ssm:/nobody/may/read",
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
    }
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, check=True, timeout=120)
