"""The composition root: where the trusted keys come from, and what a log line holds."""

import io
import json
import logging
import math
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from fraud_api_lambda.bootstrap import JsonLines, build, configure_logging, public_keys
from fraud_api_lambda.bundle import SigningKey, parse_public_keys
from fraud_api_lambda.errors import BundleMissing, BundleUnreachable, SettingsError
from fraud_api_lambda.settings import Settings
from tests.fraud_api_lambda.asgi import Client
from tests.fraud_api_lambda.decision_log.servers import postgres
from tests.fraud_api_lambda.making import KEY, OTHER_KEY, publish_small

DEV_KEY = SigningKey.generate("dev-laptop")


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """``build`` sets the logger up once for a process; here each test gets it as it was."""
    logger = logging.getLogger("fraud")
    before = (logger.handlers[:], logger.level, logger.propagate)
    logger.handlers = []
    yield
    logger.handlers, logger.propagate = before[0], before[2]
    logger.setLevel(before[1])


# --- keys ------------------------------------------------------------------------------------------------------------


def test_keys_come_from_the_setting_itself() -> None:
    text = f"{KEY.public_line()}, {OTHER_KEY.public_line()}"
    assert public_keys(text, on_aws=True) == parse_public_keys(text)


def test_keys_come_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "some.pub").write_text(KEY.public_line() + "\n")
    assert set(public_keys(f"file://{tmp_path}/some.pub", on_aws=False)) == {"test-key"}
    monkeypatch.chdir(tmp_path)
    assert set(public_keys("file://some.pub", on_aws=False)) == {"test-key"}


def test_a_missing_key_file_is_a_missing_bundle_with_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(BundleMissing, match="python -m training keys"):
        public_keys(f"file://{tmp_path}/none.pub", on_aws=False)


@pytest.mark.parametrize("text", ["", "none", "  none\n"])
def test_no_key_yet_is_a_missing_bundle_that_says_what_to_do(text: str, tmp_path: Path) -> None:
    (tmp_path / "some.pub").write_text(text)
    with pytest.raises(BundleMissing, match="publish a bundle first"):
        public_keys(f"file://{tmp_path}/some.pub", on_aws=True)


def test_a_key_file_of_something_else_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "some.pub").write_bytes(b"\xff\xfe\x00binary")
    with pytest.raises(SettingsError, match="key"):
        public_keys(f"file://{tmp_path}/some.pub", on_aws=False)


def test_malformed_keys_are_refused() -> None:
    with pytest.raises(SettingsError, match="key_id:base64"):
        public_keys("not a key", on_aws=False)


@pytest.mark.server
def test_keys_come_from_a_parameter_of_ssm(aws: str) -> None:
    import boto3

    lines = f"{KEY.public_line()}\n{OTHER_KEY.public_line()}"
    boto3.client("ssm").put_parameter(Name="/fraud/keys", Value=lines, Type="String")
    boto3.client("ssm").put_parameter(Name="/fraud/secret", Value=lines, Type="SecureString")
    for name in ("/fraud/keys", "/fraud/secret"):
        assert set(public_keys(f"ssm:{name}", on_aws=True)) == {"test-key", "other-key"}


@pytest.mark.server
def test_a_parameter_that_holds_no_key_yet_is_a_missing_bundle(aws: str) -> None:
    import boto3

    boto3.client("ssm").put_parameter(Name="/fraud/keys", Value="none", Type="String")
    with pytest.raises(BundleMissing, match="publish a bundle first"):
        public_keys("ssm:/fraud/keys", on_aws=True)


@pytest.mark.server
def test_a_parameter_that_is_not_there_or_not_allowed_is_unreachable(aws: str, refuse_all: Callable[[], None]) -> None:
    with pytest.raises(BundleUnreachable, match="parameter"):
        public_keys("ssm:/fraud/none", on_aws=True)
    refuse_all()
    with pytest.raises(BundleUnreachable, match="parameter") as unreachable:
        public_keys("ssm:/fraud/none", on_aws=True)
    assert "/fraud/none" not in str(unreachable.value)


@pytest.mark.timeout(30)
def test_an_ssm_that_does_not_answer_is_unreachable_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BundleUnreachable, match="parameter"):
        public_keys("ssm:/fraud/keys", on_aws=True)


def test_development_keys_are_refused_on_aws_and_only_there() -> None:
    text = f"{DEV_KEY.public_line()},{KEY.public_line()}"
    assert set(public_keys(text, on_aws=False)) == {"dev-laptop", "test-key"}
    assert set(public_keys(text, on_aws=True)) == {"test-key"}


def test_on_aws_a_bundle_signed_on_a_laptop_is_not_served(tmp_path: Path) -> None:
    url = publish_small(tmp_path, "v1", key=DEV_KEY)
    settings = Settings(model_url=url, model_public_keys=DEV_KEY.public_line())
    assert build(settings).state.scorer.source.served is not None
    source = build(settings, on_aws=True).state.scorer.source
    assert source.served is None
    assert source.trouble.state == "refused"


# --- the application -------------------------------------------------------------------------------------------------


def test_the_application_is_built_and_ready_with_a_bundle(tmp_path: Path) -> None:
    url = publish_small(tmp_path, "v1")
    client = Client(
        build(
            Settings(model_url=url, model_public_keys=KEY.public_line(), feature_store_url="memory://"),
            clock=lambda: 10**12,
        )
    )
    assert client.get("/ready").json() == {
        "status": "ready",
        "model": "ok",
        "model_version": "v1",
        "feature_store": "ok",
        "decision_log": "ok",
        "outbox": dict.fromkeys(["decision", "label", "profile", "stream", "webhook"], 0),
        "breakers": {"decision_log.append": "closed", "decision_log.find": "closed"},
    }
    decision = client.post("/predict", json={"amount": 50.0, "oldbalanceOrg": 50.0}).json()
    assert decision["fraud_probability"] == 1 / (1 + math.exp(-4))
    assert decision["scored_at"] == "2001-09-09T01:46:40.000Z"


def test_the_application_is_built_without_a_bundle_and_decides_by_rules(tmp_path: Path) -> None:
    settings = Settings(
        model_url=f"file://{tmp_path}/current", model_public_keys=KEY.public_line(), without_model="decline"
    )
    client = Client(build(settings))
    ready = client.get("/ready")
    assert (ready.status_code, ready.json()["model"]) == (503, "missing")
    decision = client.post("/predict", json={"amount": 50.0}).json()
    assert (decision["outcome"], decision["fraud_probability"]) == ("decline", None)
    assert "model" in decision["degraded"]


def test_a_memory_of_profiles_is_the_same_for_people(tmp_path: Path) -> None:
    client = Client(build(Settings(model_url=f"file://{tmp_path}/current", feature_store_url="memory://")))
    client.post("/predict", json={"amount": 50.0, "customer_id": "C1"})
    assert client.get("/parties/C1").status_code == 200


@pytest.mark.server
def test_people_wait_for_a_busy_log_longer_than_scoring_does(tmp_path: Path) -> None:
    with postgres() as server:
        settings = Settings(
            model_url=f"file://{tmp_path}/current",
            model_public_keys=KEY.public_line(),
            decision_log_url=server.url(),
            deadline_ms=1_000,
            read_deadline_ms=60_000,
        )
        app = build(settings)
        client = Client(app)
        app.state.scorer.patient.decisions.check()  # connected, and the tables are there
        for number in range(100):  # scoring's own connection is made beside its first requests
            before = client.post("/predict", json={"amount": 50.0, "transaction_id": f"before-{number}"}).json()
            if before["degraded"] == ["model"]:
                break
        with psycopg.connect(server.url()) as other, ThreadPoolExecutor(4) as people:
            other.execute("LOCK TABLE decisions IN ACCESS EXCLUSIVE MODE")
            label = {"transaction_id": before["transaction_id"], "label": "fraud", "source": "analyst"}
            asked = [
                people.submit(Client(app).get, "/transactions"),
                people.submit(Client(app).get, f"/transactions/{before['transaction_id']}"),
                people.submit(Client(app).get, "/summary"),
                people.submit(Client(app).post, "/feedback", json=label),
            ]
            decision = client.post("/predict", json={"amount": 51.0, "transaction_id": "during"}).json()
            # It gave the log up after its own budget, while the others go on waiting.
            assert "decision_log" in decision["degraded"]
            assert not any(answer.done() for answer in asked)
            other.rollback()
            assert [answer.result().status_code for answer in asked] == [200] * 4
        labelled = client.get("/transactions", params={"label": "fraud"}).json()["transactions"]
        assert [each["transaction_id"] for each in labelled] == [before["transaction_id"]]
        for stores in (app.state.scorer, app.state.scorer.patient):
            stores.decisions.close()


# --- log lines -------------------------------------------------------------------------------------------------------


def logged(write: Callable[[logging.Logger], None]) -> list[dict[str, object]]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    logger = logging.getLogger("fraud.test")
    logger.addHandler(handler)
    logger.setLevel("DEBUG")
    try:
        write(logger)
    finally:
        logger.removeHandler(handler)
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_log_line_is_one_json_object_with_what_was_given_as_extra() -> None:
    (line,) = logged(lambda log: log.warning("bundle\nnot refreshed", extra={"state": "missing", "path": Path("x")}))
    assert line["level"] == "WARNING"
    assert line["logger"] == "fraud.test"
    assert line["message"] == "bundle\nnot refreshed"
    assert (line["state"], line["path"]) == ("missing", "x")
    assert str(line["time"]).endswith("+00:00")
    assert set(line) == {"time", "level", "logger", "message", "state", "path"}


def test_a_log_line_says_where_an_exception_was_and_never_what_it_said() -> None:
    def write(log: logging.Logger) -> None:
        try:
            try:
                raise KeyError("4111 1111 1111 1111")
            except KeyError:
                raise ValueError("amount 99.99 of customer C1") from None
        except ValueError:
            log.exception("unexpected error", extra={"request_id": "r1"}, stack_info=True)

    (line,) = logged(write)
    text = json.dumps(line)
    assert line["error"] == "ValueError"
    assert str(line["at"]).startswith("test_bootstrap.py:")
    assert "4111" not in text
    assert "99.99" not in text
    assert "Traceback" not in text


def test_logging_is_set_up_once_on_standard_output(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = logging.getLogger("fraud")
    monkeypatch.setattr(logger, "handlers", [])  # pytest's own listen here as well
    configure_logging("WARNING")
    configure_logging("DEBUG")
    assert len(logger.handlers) == 1
    assert isinstance(logger.handlers[0], logging.StreamHandler)
    assert logger.handlers[0].stream is sys.stdout
    logging.getLogger("fraud.x").info("hello", extra={"n": 1})
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["message"] for line in lines] == ["hello"]
