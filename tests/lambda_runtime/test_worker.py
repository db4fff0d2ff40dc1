"""The worker in the real Lambda runtime: both queues and the schedule, its tables and queues in a stand-in for AWS."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from fraud_api_lambda.decision_log import Record, Search, open_decision_log
from tests.fraud_api_lambda.decision_log.servers import create_table as create_decisions
from tests.fraud_api_lambda.feature_store.servers import create_table as create_profiles
from tests.fraud_api_lambda.making import KEY, publish_small
from tests.lambda_runtime.conftest import Start
from tests.servers import REGION, ROOT, moto_server, name_aws
from training.runtime import Runtime

pytestmark = pytest.mark.server

EVENTS = ROOT / "events" / "work"


def event(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((EVENTS / f"{name}.json").read_text())
    return loaded


@pytest.fixture(scope="module")
def worker(rie: Start, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    """`handler.work` with the settings that the template gives it; the environment names the stand-in."""
    folder: Path = tmp_path_factory.mktemp("worker")
    with moto_server(folder) as address, pytest.MonkeyPatch.context() as patch:
        name_aws(patch, address)
        create_decisions("decisions")
        create_profiles("profiles")
        client = boto3.client("sqs", region_name=REGION)
        dead = client.create_queue(QueueName="dead.fifo", Attributes={"FifoQueue": "true"})["QueueUrl"]
        arn = client.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        redrive = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 240})
        # The name that the sample event of the outbox has.
        name = event("outbox")["Records"][0]["eventSourceARN"].rpartition(":")[2]
        client.create_queue(QueueName=name, Attributes={"FifoQueue": "true", "RedrivePolicy": redrive})
        client.close()
        env = {
            "AWS_ENDPOINT_URL": address,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "a-secret-key",
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "FRAUD_MODEL_URL": publish_small(folder, "v1"),
            "FRAUD_MODEL_PUBLIC_KEYS": KEY.public_line(),
            "FRAUD_FEATURE_STORE_URL": "dynamodb://profiles",
            "FRAUD_DECISION_LOG_URL": "dynamodb://decisions",
            "FRAUD_OUTBOX_URL": f"sqs://{name}",
            "FRAUD_RETENTION_DAYS": "36500",  # the samples grow old
            "FRAUD_DEADLINE_MS": "20000",
            "FRAUD_ON_LOG_FAILURE": "refuse",
        }
        with rie(handler="fraud_api_lambda.handler.work", env=env, root=ROOT) as running:
            yield running


def records() -> dict[str, Record]:
    log = open_decision_log("dynamodb://decisions", budget_ms=20_000)
    found = {stored.record.transaction_id: stored.record for stored in log.search(Search(limit=200)).items}
    log.close()
    return found


def test_transactions_of_the_queue_are_recorded_once_and_the_wrong_one_is_told(worker: Runtime) -> None:
    messages = event("transactions")["Records"]
    for _ in range(2):  # SQS may hand anything over twice
        answer = worker.invoke(event("transactions"))
        assert answer == {"batchItemFailures": [{"itemIdentifier": messages[2]["messageId"]}]}
    found = records()
    assert {"Q-2026-000001", messages[1]["messageId"]} <= found.keys()
    assert json.loads(found["Q-2026-000001"].answer)["model_version"] == "v1"
    assert found["Q-2026-000001"].degraded == ()
    versions = json.loads(found["Q-2026-000001"].document)["versions"]
    assert set(versions.values()) == {0}, "as it was the first time"
    assert "a lot" not in worker.log()


def test_the_outbox_is_delivered_into_the_log(worker: Runtime) -> None:
    assert worker.invoke(event("outbox")) == {"batchItemFailures": []}
    assert "T-2026-000001" in records()


def test_the_schedule_is_kept(worker: Runtime) -> None:
    assert worker.invoke(event("summary")) == {"task": "summary"}
    assert worker.invoke(event("retention"))["task"] == "retention"


def test_an_event_that_is_no_work_is_an_error_of_that_call_only(worker: Runtime) -> None:
    assert "errorMessage" in worker.invoke({"requestContext": {}})
    said = worker.invoke({"task": "hunter2"})["errorMessage"]
    assert "Choices are: " in said
    assert "hunter2" not in said
    assert worker.invoke(event("summary")) == {"task": "summary"}
