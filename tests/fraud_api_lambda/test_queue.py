"""The entries for SQS and the daily schedule: what is judged once, what comes again, what is laid aside."""

import importlib
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from fastapi import FastAPI

from fraud_api_lambda.bootstrap import build
from fraud_api_lambda.daily import Daily
from fraud_api_lambda.decision_log import Record, Search
from fraud_api_lambda.errors import RetryLater, StoreUnavailable
from fraud_api_lambda.outbox.sqs import pack
from fraud_api_lambda.settings import Settings
from tests.fraud_api_lambda.decision_log.servers import create_table
from tests.fraud_api_lambda.making import KEY, publish_small
from tests.servers import REGION, moto_server, name_aws

pytestmark = pytest.mark.server

EVENTS = Path(__file__).resolve().parents[2] / "events" / "work"
CONTEXT = SimpleNamespace(aws_request_id="r", function_name="f")
NOW_MS = 1_800_000_000_000
DAY_MS = 86_400_000
ARN = f"arn:aws:sqs:{REGION}:123456789012:"


@pytest.fixture(scope="module")
def handler() -> Iterator[Any]:
    """The handler module builds its own app at import; here it is told of a bundle that is not there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FRAUD_MODEL_URL", "file://nowhere/current")
        from fraud_api_lambda import handler

        # Anew: whatever imported it before in this process did so under another environment.
        yield importlib.reload(handler)


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with moto_server(tmp_path_factory.mktemp("moto")) as address:
        yield address


class Clock:
    now_ms = NOW_MS

    def __call__(self) -> int:
        return self.now_ms


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def app(tmp_path: Path, moto: str, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> FastAPI:
    """The service with its log in DynamoDB and its outbox in SQS, and settings as the worker's."""
    name_aws(monkeypatch, moto)
    name = tmp_path.name.replace("_", "-")
    create_table(name)
    client = boto3.client("sqs", region_name=REGION)
    dead = client.create_queue(QueueName=f"{name}-dead.fifo", Attributes={"FifoQueue": "true"})["QueueUrl"]
    arn = client.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    redrive = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 240})
    client.create_queue(QueueName=f"{name}.fifo", Attributes={"FifoQueue": "true", "RedrivePolicy": redrive})
    client.close()
    url = publish_small(tmp_path, "v1")
    settings = Settings(
        model_url=url,
        model_public_keys=KEY.public_line(),
        feature_store_url="memory://",
        decision_log_url=f"dynamodb://{name}",
        outbox_url=f"sqs://{name}.fifo",
        deadline_ms=20_000,
        on_log_failure="refuse",
    )
    return build(settings, clock=clock)


@pytest.fixture
def queue(handler: Any, app: FastAPI) -> Callable[..., list[str]]:
    """``queue(messages)`` gives the ids of the messages that failed."""
    entry = handler.queue_handler(app)

    def invoke(messages: list[dict[str, Any]]) -> list[str]:
        answer = entry({"Records": messages}, CONTEXT)
        assert answer.keys() == {"batchItemFailures"}
        return [item["itemIdentifier"] for item in answer["batchItemFailures"]]

    return invoke


def message(body: Any, number: int = 1, queue: str = "transactions", **more: Any) -> dict[str, Any]:
    return {
        "messageId": f"00000000-0000-4000-8000-{number:012}",
        "receiptHandle": "handle",
        "body": body if isinstance(body, str) else json.dumps(body),
        "attributes": {"ApproximateReceiveCount": "1", "SentTimestamp": str(NOW_MS), "MessageGroupId": "none"},
        "messageAttributes": {},
        "eventSource": "aws:sqs",
        "eventSourceARN": ARN + queue,
        "awsRegion": REGION,
        **more,
    }


def outbox_message(app: FastAPI, kind: Any, key: str, data: bytes, number: int) -> dict[str, Any]:
    packed = pack(kind, key, data)
    attributes = {
        "ApproximateReceiveCount": "1",
        "SentTimestamp": str(NOW_MS),
        "MessageGroupId": packed["MessageGroupId"],
        "MessageDeduplicationId": packed["MessageDeduplicationId"],
    }
    named = {name: {"stringValue": value["StringValue"]} for name, value in packed["MessageAttributes"].items()}
    name = app.state.scorer.outbox.queue
    return message(packed["MessageBody"], number, name, attributes=attributes, messageAttributes=named)


def records(app: FastAPI) -> dict[str, Record]:
    found = app.state.scorer.decisions.search(Search(limit=200)).items
    return {stored.record.transaction_id: stored.record for stored in found}


# --- transactions ----------------------------------------------------------------------------------------------------


def test_a_transaction_of_the_queue_is_judged_and_recorded_as_over_http(app: FastAPI, queue: Any) -> None:
    sent = {"transaction_id": "t-1", "amount": 181.0, "customer_id": "C1"}
    assert queue([message(sent)]) == []
    stands = app.state.scorer.answer(sent)  # the very body over HTTP
    assert stands.replayed
    assert records(app)["t-1"].answer == stands.body
    assert stands.decision.model_version == "v1"


def test_a_message_that_comes_again_counts_once(app: FastAPI, queue: Any) -> None:
    sent = [message({"amount": 10, "customer_id": "C1"}, number) for number in range(3)]
    for _ in range(3):
        assert queue(sent) == []
    found = records(app)
    assert found.keys() == {one["messageId"] for one in sent}, "without an id of its own it takes the message's"
    app.state.scorer.answer({"transaction_id": "t-last", "amount": 10, "customer_id": "C1"})
    assert json.loads(records(app)["t-last"].document)["versions"]["C1"] == 3, "updates of its profile"


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ("hunter2", ["body"]),
        ("[]", None),
        ('{"amount": "hunter2"}', ["amount"]),
        ('{"amount": 1, "currency": "hunter2"}', ["currency"]),
        ('{"amount": 1, "amount": 2}', ["body"]),
        ('"\ud800"', ["body"]),
        (json.dumps({"amount": 1, "attributes": {"a": "x" * 70_000}}), []),
    ],
)
def test_a_body_that_is_no_transaction_fails_and_only_its_fields_are_told(
    app: FastAPI, queue: Any, body: str, fields: list[str] | None, caplog: pytest.LogCaptureFixture
) -> None:
    good = message({"transaction_id": "t-1", "amount": 1}, 1)
    bad = message(body, 2)
    assert queue([bad, good]) == [bad["messageId"]], "the others of the batch are not held up"
    assert records(app).keys() == {"t-1"}
    (told,) = [vars(line) for line in caplog.records if line.message == "a transaction of the queue is not judged"]
    assert told["message_id"] == bad["messageId"]
    if fields is not None:
        assert told["fields"] == fields
    assert "hunter2" not in str([vars(line) for line in caplog.records if line.name.startswith("fraud")])


def test_another_transaction_under_a_known_id_fails(app: FastAPI, queue: Any) -> None:
    first, other = (
        message({"transaction_id": "t-1", "amount": 1}, 1),
        message({"transaction_id": "t-1", "amount": 2}, 2),
    )
    assert queue([first, other]) == [other["messageId"]]
    assert records(app)["t-1"].amount_minor == 100


def test_what_can_be_recorded_nowhere_comes_again(app: FastAPI, queue: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = app.state.scorer
    sent = message({"transaction_id": "t-1", "amount": 1})
    with monkeypatch.context() as patch:
        patch.setattr(scorer.decisions._log, "_table", "absent")
        patch.setattr(scorer.outbox, "queue", "absent.fifo")
        assert queue([sent]) == [sent["messageId"]], "nobody hears the answer, so it must not be lost"
    assert records(app) == {}
    assert queue([sent]) == []
    assert records(app).keys() == {"t-1"}


def test_what_the_log_does_not_take_waits_in_the_outbox_and_is_delivered_from_there(
    app: FastAPI, queue: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = app.state.scorer
    with monkeypatch.context() as patch:
        patch.setattr(scorer.decisions._log, "_table", "absent")
        assert queue([message({"transaction_id": "t-1", "amount": 1})]) == []
    assert records(app) == {}
    client = boto3.client("sqs", region_name=REGION)
    address = client.get_queue_url(QueueName=scorer.outbox.queue)["QueueUrl"]
    (waits,) = client.receive_message(QueueUrl=address, AttributeNames=["All"], MessageAttributeNames=["All"])[
        "Messages"
    ]
    client.close()
    named = {name: {"stringValue": value["StringValue"]} for name, value in waits["MessageAttributes"].items()}
    delivered = message(waits["Body"], 9, scorer.outbox.queue, attributes=waits["Attributes"], messageAttributes=named)
    for _ in range(2):
        assert queue([delivered]) == []
    assert records(app)["t-1"].degraded == ("decision_log",)


def test_the_sample_event_of_transactions_has_one_that_fails(app: FastAPI, queue: Any) -> None:
    messages = json.loads((EVENTS / "transactions.json").read_text())["Records"]
    assert queue(messages) == [messages[2]["messageId"]]
    assert records(app).keys() == {"Q-2026-000001", messages[1]["messageId"]}


# --- the outbox ------------------------------------------------------------------------------------------------------


def test_items_go_to_their_sinks_and_a_failure_stops_its_group_only(app: FastAPI, queue: Any) -> None:
    got: list[bytes] = []

    def decisions(data: bytes) -> None:
        if data == b"d-2":
            raise StoreUnavailable("down")
        got.append(data)

    app.state.sinks = {"decision": decisions, "label": got.append}
    items = [("decision", b"d-1"), ("label", b"l-1"), ("decision", b"d-2"), ("decision", b"d-3"), ("label", b"l-2")]
    messages = [outbox_message(app, kind, data.decode(), data, n) for n, (kind, data) in enumerate(items)]
    assert queue(messages) == [messages[2]["messageId"], messages[3]["messageId"]]
    assert got == [b"d-1", b"l-1", b"l-2"]


def test_webhooks_do_not_hold_up_one_another(app: FastAPI, queue: Any) -> None:
    got: list[bytes] = []

    def webhook(data: bytes) -> None:
        if data == b"w-1":
            raise RetryLater("busy", 5)
        got.append(data)

    app.state.sinks = {"webhook": webhook}
    messages = [outbox_message(app, "webhook", f"w-{n}", b"w-%d" % n, n) for n in range(3)]
    assert queue(messages) == [messages[1]["messageId"]]
    assert got == [b"w-0", b"w-2"]


def test_who_may_send_transactions_has_no_say_in_the_outbox(app: FastAPI, queue: Any) -> None:
    app.state.sinks = {"decision": lambda data: pytest.fail("delivered")}
    forged = outbox_message(app, "decision", "t-1", b"{}", 1)
    assert queue([{**forged, "eventSourceARN": ARN + "transactions"}]) == [forged["messageId"]]


def test_the_sample_event_of_the_outbox_is_delivered(
    app: FastAPI, handler: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = json.loads((EVENTS / "outbox.json").read_text())
    monkeypatch.setattr(app.state.scorer.outbox, "queue", event["Records"][0]["eventSourceARN"].rpartition(":")[2])
    for _ in range(2):
        assert handler.queue_handler(app)(event, CONTEXT) == {"batchItemFailures": []}
    assert records(app).keys() == {"T-2026-000001"}


@pytest.mark.parametrize(
    "event",
    [
        None,
        [],
        {},
        {"Records": []},
        {"Records": [{"eventSource": "aws:s3"}]},
        {"task": "summary"},
        {"requestContext": {}},
    ],
)
def test_an_event_that_is_none_of_sqs_is_refused(app: FastAPI, handler: Any, event: Any) -> None:
    with pytest.raises(ValueError, match="Not an event of SQS"):
        handler.queue_handler(app)(event, CONTEXT)


# --- the schedule ----------------------------------------------------------------------------------------------------


def test_the_daily_summary_is_a_line_about_the_day_before(
    app: FastAPI, handler: Any, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    scorer = app.state.scorer
    for number in range(3):
        scorer.answer({"transaction_id": f"t-{number}", "amount": 10 + number, "customer_id": "hunter2"})
    clock.now_ms += DAY_MS
    scorer.answer({"transaction_id": "t-today", "amount": 1_000})
    event = json.loads((EVENTS / "summary.json").read_text())
    assert handler.schedule_handler(app)(event, CONTEXT) == {"task": "summary"}
    (told,) = [vars(line) for line in caplog.records if line.message == "daily summary"]
    assert told["day"] == datetime.fromtimestamp(NOW_MS / 1000, UTC).date().isoformat()
    assert (told["decisions"], told["amount"], told["complete"]) == (3, 33.0, True)
    assert "hunter2" not in str([vars(line) for line in caplog.records])


def test_retention_deletes_what_is_older_than_its_days_and_nothing_where_there_are_none(
    app: FastAPI, handler: Any, clock: Clock
) -> None:
    scorer = app.state.scorer
    scorer.answer({"transaction_id": "t-old", "amount": 1})
    clock.now_ms += 31 * DAY_MS
    scorer.answer({"transaction_id": "t-new", "amount": 1})
    event = json.loads((EVENTS / "retention.json").read_text())
    assert handler.schedule_handler(app)(event, CONTEXT) == {"task": "retention", "deleted": 0}
    assert records(app).keys() == {"t-old", "t-new"}
    app.state.daily = Daily(scorer, retention_days=30)
    assert handler.schedule_handler(app)(event, CONTEXT) == {"task": "retention", "deleted": 1}
    assert records(app).keys() == {"t-new"}


def test_a_look_for_drift_is_counted_and_sent_to_cloudwatch(
    app: FastAPI, handler: Any, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    event = json.loads((EVENTS / "drift.json").read_text())
    told = handler.schedule_handler(app)(event, CONTEXT)
    assert told["task"] == "drift"
    assert sum(n for series, n in app.state.scorer.metrics.counts().items() if series[0] == "drift_looks") == 1
    assert '"DriftLooks":[1.0]' in capsys.readouterr().out.replace(" ", "")
    assert len([line for line in caplog.records if line.name == "fraud.drift"]) == 1


def test_a_heartbeat_is_counted_and_does_nothing_else(
    app: FastAPI, handler: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert handler.work({"task": "heartbeat"}, CONTEXT) == {"task": "heartbeat"}
    capsys.readouterr()
    assert handler.schedule_handler(app)({"task": "heartbeat"}, CONTEXT) == {"task": "heartbeat"}
    (line,) = [json.loads(text) for text in capsys.readouterr().out.splitlines() if '"_aws"' in text]
    assert line["Heartbeats"] == [1.0]


@pytest.mark.parametrize("event", [None, [], {}, {"task": "hunter2"}, {"task": ["summary"]}, {"Records": []}])
def test_an_unknown_task_is_told_the_choices_and_not_repeated(app: FastAPI, handler: Any, event: Any) -> None:
    with pytest.raises(ValueError, match=r"Choices are: summary, retention, drift, shadow\.") as caught:
        handler.schedule_handler(app)(event, CONTEXT)
    assert "hunter2" not in str(caught.value)


def test_one_entry_does_both_kinds_of_work(handler: Any) -> None:
    assert handler.work({"task": "retention"}, CONTEXT) == {"task": "retention", "deleted": 0}
    with pytest.raises(ValueError, match="Not an event of SQS"):
        handler.work({"Records": []}, CONTEXT)


def test_powertools_are_imported_by_the_first_batch_and_not_before() -> None:
    import os
    import subprocess
    import sys

    program = """
import sys
from fraud_api_lambda import handler
assert not any(name.startswith("aws_lambda_powertools.utilities.batch") for name in sys.modules)
"""
    environ = {**os.environ, "FRAUD_MODEL_URL": "file://nowhere/current"}
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60, env=environ, cwd=EVENTS.parents[1])
