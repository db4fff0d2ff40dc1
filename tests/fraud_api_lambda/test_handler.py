"""The Lambda entry: which events it takes, and what the app is told of them. Without a Lambda runtime."""

import base64
import importlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI

from fraud_api_lambda.bootstrap import build
from fraud_api_lambda.settings import Settings
from tests.fraud_api_lambda.asgi import Client
from tests.fraud_api_lambda.making import KEY, publish_small

EVENTS = Path(__file__).resolve().parents[2] / "events"
CONTEXT = SimpleNamespace(aws_request_id="r", function_name="f")


@pytest.fixture(scope="module", autouse=True)
def _elsewhere() -> Iterator[None]:
    """A folder for what lies at default places; not under /tmp, where a function is refused its SQLite files."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        os.chdir(folder)
        yield
        os.chdir(before)


@pytest.fixture(scope="module")
def lambda_handler(_elsewhere: None) -> Iterator[Any]:
    """The handler module builds its own app at import; here it is told of a bundle that is not there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FRAUD_MODEL_URL", "file://nowhere/current")
        patch.setenv("AWS_LAMBDA_FUNCTION_NAME", "fraud")
        from fraud_api_lambda import handler

        # Anew: whatever imported it before in this process did so under another environment.
        yield importlib.reload(handler).lambda_handler


@pytest.fixture
def app(tmp_path: Path) -> FastAPI:
    url = publish_small(tmp_path, "v1")
    settings = Settings(model_url=url, model_public_keys=KEY.public_line())
    return build(settings, clock=lambda: 1_800_000_000_000, on_aws=True)


@pytest.fixture
def serve(lambda_handler: Any, app: FastAPI) -> Any:
    return lambda_handler(app)


def event(name: str, version: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((EVENTS / f"{name}.{version}.json").read_text())
    return loaded


def body_of(answer: dict[str, Any]) -> bytes:
    return base64.b64decode(answer["body"]) if answer["isBase64Encoded"] else answer["body"].encode()


def sent(event: dict[str, Any]) -> bytes:
    text = event.get("body") or ""
    return base64.b64decode(text) if event["isBase64Encoded"] else text.encode()


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("name", sorted({path.name.split(".")[0] for path in EVENTS.glob("*.json")}))
def test_every_sample_event_is_answered_as_http_would_be(serve: Any, app: FastAPI, name: str, version: str) -> None:
    asked = event(name, version)
    answer = serve(asked, CONTEXT)
    path = asked.get("path") or asked["rawPath"]
    method = asked.get("httpMethod") or asked["requestContext"]["http"]["method"]
    query = asked.get("rawQueryString") or "&".join(
        f"{key}={value}" for key, value in (asked.get("queryStringParameters") or {}).items()
    )
    headers = {"content-type": "application/json"} if sent(asked) else {}
    expected = Client(app).request(method, path + (f"?{query}" if query else ""), content=sent(asked), headers=headers)
    assert answer["statusCode"] == expected.status_code
    ours, theirs = body_of(answer), expected.content
    if ours.startswith(b"{"):
        assert without_ids(json.loads(ours)) == without_ids(json.loads(theirs))
    else:
        assert len(ours) > 0


def without_ids(data: Any) -> Any:
    """Ids that are made up where none was sent differ from call to call."""
    if isinstance(data, dict):
        return {key: without_ids(value) for key, value in data.items() if key not in {"request_id", "transaction_id"}}
    return [without_ids(item) for item in data] if isinstance(data, list) else data


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_base64_body_is_the_body(serve: Any, version: str) -> None:
    asked = event("predict-base64", version)
    assert asked["isBase64Encoded"]
    answer = serve(asked, CONTEXT)
    assert answer["statusCode"] == 200
    assert json.loads(body_of(answer))["amount"] == 181.0
    plain = {**asked, "isBase64Encoded": False, "body": sent(asked).decode()}
    assert without_ids(json.loads(body_of(serve(plain, CONTEXT)))) == without_ids(json.loads(body_of(answer)))


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"Records": [{"eventSource": "aws:sqs", "body": "{}"}]},
        {"source": "aws.events", "detail-type": "Scheduled Event"},
        {"amount": 5},
        [],
        None,
        "text",
    ],
)
def test_an_event_that_is_not_http_is_refused(serve: Any, asked: Any) -> None:
    with pytest.raises(ValueError, match="Not an HTTP event"):
        serve(asked, CONTEXT)


def staged(name: str, stage: str) -> dict[str, Any]:
    """A REST API's event behind ``stage``: its path is without, the context's with it."""
    asked = event(name, "v1") if name != "docs" else {**event("health", "v1"), "path": "/docs"}
    path = asked["path"]
    return {**asked, "requestContext": {**asked["requestContext"], "stage": stage, "path": f"/{stage}{path}"}}


@pytest.mark.parametrize("stage", ["prod", "Prod", "docs", "predict", "model", "health"])
def test_docs_behind_a_stage_link_to_the_stages_schema(serve: Any, stage: str) -> None:
    answer = serve(staged("docs", stage), CONTEXT)
    assert answer["statusCode"] == 200
    assert f"'/{stage}/openapi.json'" in body_of(answer).decode()


@pytest.mark.parametrize("stage", ["predict", "model", "health", "ready", "prod"])
def test_a_stage_called_like_an_address_of_ours_changes_no_route(serve: Any, stage: str) -> None:
    assert serve(staged("health", stage), CONTEXT)["statusCode"] == 200
    assert serve(staged("predict-paysim", stage), CONTEXT)["statusCode"] == 200
    assert serve(staged("model", stage), CONTEXT)["statusCode"] == 200
    assert serve(staged("unknown-path", stage), CONTEXT)["statusCode"] == 404


def test_docs_without_a_stage_link_to_the_root(serve: Any) -> None:
    asked = event("health", "v2")
    context = {**asked["requestContext"], "http": {**asked["requestContext"]["http"], "path": "/docs"}}
    answer = serve({**asked, "rawPath": "/docs", "requestContext": context}, CONTEXT)
    assert "'/openapi.json'" in body_of(answer).decode()


def test_a_new_bundle_is_looked_for_before_the_answer_once_a_minute(serve: Any, app: FastAPI, tmp_path: Path) -> None:
    source = app.state.scorer.source
    publish_small(tmp_path, "v2")
    ask = event("ready", "v1")
    assert json.loads(body_of(serve(ask, CONTEXT)))["model_version"] == "v1"
    source._next = float("-inf")  # a minute later
    assert json.loads(body_of(serve(ask, CONTEXT)))["model_version"] == "v2"


def test_what_was_counted_is_told_to_cloudwatch_after_the_answer(
    serve: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    serve(event("predict-grocery-by-day", "v1"), CONTEXT)  # the first answer's latency is not sent
    capsys.readouterr()
    serve(event("predict-crypto-by-night", "v1"), CONTEXT)
    serve(event("predict-broken-json", "v1"), CONTEXT)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    first, second = [line for line in lines if "_aws" in line]
    (directive,) = first["_aws"]["CloudWatchMetrics"]
    assert directive["Namespace"] == "FraudDetection"
    assert first["Requests"] == second["Requests"] == [1.0]
    assert sum(first.get(name, [0.0])[0] for name in ("Approved", "Reviewed", "Declined")) == 1.0
    assert first["DecisionLatency"][0] > 0
    assert second["ClientErrors"] == [1.0]
    assert "DecisionLatency" not in second


def test_the_module_serves_one_app_and_a_missing_bundle_does_not_stop_it(lambda_handler: Any) -> None:
    from fraud_api_lambda import handler

    answer = handler.handler(event("ready", "v1"), CONTEXT)
    assert answer["statusCode"] == 503
    assert Client(handler.app).get("/ready").json() == json.loads(body_of(answer))
