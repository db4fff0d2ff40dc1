"""The outbox in SQS: what a message is, and what becomes of one that is delivered, cannot be now, or never can be."""

import base64
import json
import random
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import boto3
import pytest

from fraud_api_lambda.errors import RetryLater, SettingsError, StoreUnavailable
from fraud_api_lambda.outbox import RETRIES_S, Kind, Progress, open_outbox
from fraud_api_lambda.outbox.sqs import Item, SqsOutbox, pack, unpack
from tests.servers import REGION, http_server, moto_server, name_aws

pytestmark = pytest.mark.server

AMPLE_MS = 20_000


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with moto_server(tmp_path_factory.mktemp("moto")) as address:
        yield address


@pytest.fixture
def queues(moto: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of SQS, where ``outbox.fifo`` and its dead letter queue ``dead.fifo`` are new."""
    name_aws(monkeypatch, moto)
    client = boto3.client("sqs", region_name=REGION)
    dead = client.create_queue(QueueName="dead.fifo", Attributes={"FifoQueue": "true"})["QueueUrl"]
    arn = client.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    redrive = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 240})
    attributes = {"FifoQueue": "true", "VisibilityTimeout": "360", "RedrivePolicy": redrive}
    box = client.create_queue(QueueName="outbox.fifo", Attributes=attributes)["QueueUrl"]
    yield client
    for url in (box, dead):
        client.delete_queue(QueueUrl=url)
    client.close()


@pytest.fixture
def outbox(queues: Any) -> Iterator[SqsOutbox]:
    opened = open_outbox("sqs://outbox.fifo", budget_ms=AMPLE_MS)
    assert isinstance(opened, SqsOutbox)
    yield opened
    opened.close()


def received(client: Any, queue: str = "outbox.fifo", *, confirm: bool = False) -> list[dict[str, Any]]:
    """The messages that can be received now, as Lambda hands them over: ten of a group, more once confirmed."""
    url = client.get_queue_url(QueueName=queue)["QueueUrl"]
    found = []
    while True:
        answer = client.receive_message(
            QueueUrl=url, MaxNumberOfMessages=10, AttributeNames=["All"], MessageAttributeNames=["All"]
        )
        if "Messages" not in answer:
            return found
        for message in answer["Messages"] if confirm else ():
            client.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        found += [
            {
                "messageId": message["MessageId"],
                "receiptHandle": message["ReceiptHandle"],
                "body": message["Body"],
                "attributes": message["Attributes"],
                "messageAttributes": {
                    name: {"stringValue": value["StringValue"], "dataType": "String"}
                    for name, value in message.get("MessageAttributes", {}).items()
                },
                "eventSource": "aws:sqs",
                "eventSourceARN": f"arn:aws:sqs:{REGION}:123456789012:{queue}",
            }
            for message in answer["Messages"]
        ]


def aged(message: dict[str, Any], seconds: float) -> dict[str, Any]:
    sent = str(int((time.time() - seconds) * 1000))
    return {**message, "attributes": {**message["attributes"], "SentTimestamp": sent}}


# --- putting ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["t-1", "T~ !\"#$%&'()*+,-./:;<=>?@[]^_`{|}", "\0\r\n\x1f", "é🂡", "%41", "a" * 64])
def test_an_item_comes_out_as_it_went_in(outbox: SqsOutbox, queues: Any, key: str) -> None:
    data = bytes(range(256)) * 40
    outbox.put("decision", key, data)
    (message,) = received(queues)
    assert unpack(message) == Item("decision", key, data)


def test_items_of_a_kind_come_in_the_order_in_which_they_were_put(outbox: SqsOutbox, queues: Any) -> None:
    for number in range(25):
        outbox.put("decision", f"t-{number}", b"%d" % number)
    assert [unpack(message).data for message in received(queues, confirm=True)] == [b"%d" % n for n in range(25)]


def test_a_kind_is_a_group_and_each_webhook_is_its_own() -> None:
    groups = {kind: {pack(kind, key, b"")["MessageGroupId"] for key in ("a", "b")} for kind in get_args(Kind)}
    assert {kind: len(found) for kind, found in groups.items()} == {
        "decision": 1,
        "profile": 1,
        "label": 1,
        "webhook": 2,
        "stream": 1,
    }
    assert len(set.union(*groups.values())) == 6


def test_what_is_put_twice_is_kept_once_as_it_first_was(outbox: SqsOutbox, queues: Any) -> None:
    for kind in ("decision", "webhook", "stream"):
        outbox.put(kind, "t-1", b"first")
        outbox.put(kind, "t-1", b"second")
        outbox.put(kind, "t-2", b"other")
    found = [unpack(message) for message in received(queues)]
    assert sorted((item.kind, item.data) for item in found) == sorted(
        (kind, data) for kind in ("decision", "webhook", "stream") for data in (b"first", b"other")
    )


def test_a_second_label_of_a_transaction_is_not_dropped_with_the_first_that_is_delivered(
    outbox: SqsOutbox, queues: Any
) -> None:
    outbox.put("label", "t-1", b"t-1")
    assert len(received(queues)) == 1
    outbox.put("label", "t-1", b"t-1")
    url = queues.get_queue_url(QueueName="outbox.fifo")["QueueUrl"]
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    counts = queues.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
    assert sum(map(int, counts.values())) == 2


def test_what_does_not_fit_a_message_is_refused_and_what_can_be_compressed_fits(outbox: SqsOutbox, queues: Any) -> None:
    with pytest.raises(StoreUnavailable, match="size"):
        outbox.put("decision", "t-1", random.Random(1).randbytes(200_000))
    long = b'{"text":"%s"}' % (b"abc" * 500_000)
    outbox.put("decision", "t-2", long)
    assert [unpack(message).data for message in received(queues)] == [long]


def test_what_this_process_put_is_found_for_a_while_and_nothing_else(
    outbox: SqsOutbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert outbox.find("decision", "t-1") is None
    outbox.put("decision", "t-1", b"one")
    assert outbox.find("decision", "t-1") == b"one"
    assert outbox.find("webhook", "t-1") is None
    now = time.monotonic()
    monkeypatch.setattr("fraud_api_lambda.outbox.sqs.time.monotonic", lambda: now + 901)
    assert outbox.find("decision", "t-1") is None


def test_all_that_waits_is_counted_and_drain_leaves_it_to_lambda(outbox: SqsOutbox, queues: Any) -> None:
    assert outbox.waiting() == {"all": 0}
    for number in range(3):
        outbox.put("decision", f"t-{number}", b"")
    assert outbox.drain({"decision": lambda data: pytest.fail("delivered")}) == Progress(0, 0, 0)
    received(queues)
    assert outbox.waiting() == {"all": 3}


def test_the_queues_address_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(operation: str, body: bytes) -> tuple[int, bytes]:
        asked.append(operation)
        address = {"QueueUrl": f"{endpoint}/123456789012/outbox.fifo"}
        return 200, json.dumps(address if operation == "GetQueueUrl" else {"MessageId": "m"}).encode()

    with http_server(answer) as endpoint:
        name_aws(monkeypatch, endpoint)
        outbox = open_outbox("sqs://outbox.fifo", budget_ms=AMPLE_MS)
        outbox.put("decision", "t-1", b"")
        outbox.put("decision", "t-2", b"")
        outbox.close()
    assert asked == ["GetQueueUrl", "SendMessage", "SendMessage"]


def test_a_queue_that_refuses_or_is_absent_is_unavailable(queues: Any) -> None:
    outbox = open_outbox("sqs://absent.fifo", budget_ms=AMPLE_MS)
    for call in (lambda: outbox.put("decision", "t-1", b""), outbox.waiting):
        with pytest.raises(StoreUnavailable, match=r"The outbox \(sqs\) refused: [A-Za-z.]*NonExistentQueue"):
            call()
    assert outbox.find("decision", "t-1") is None, "nothing was promised"
    outbox.close()
    with pytest.raises(StoreUnavailable):
        outbox.put("decision", "t-1", b"")


@pytest.mark.parametrize("url", ["sqs://", "sqs://key:hunter2@queue", "sqs://queue/hunter2", "sqs://queue?hunter2"])
def test_a_malformed_url_is_told_the_form_and_never_repeated(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name_aws(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(SettingsError, match=r"sqs://queue\.fifo") as caught:
        open_outbox(url)
    assert "hunter2" not in str(caught.value)


# --- delivering ------------------------------------------------------------------------------------------------------


def test_a_delivered_item_is_done_with(outbox: SqsOutbox, queues: Any) -> None:
    outbox.put("decision", "t-1", b"one")
    got: list[bytes] = []
    for message in received(queues):
        outbox.deliver(message, {"decision": got.append})
    assert got == [b"one"]
    assert received(queues, "dead.fifo") == []


def test_an_item_that_a_store_does_not_take_comes_again(outbox: SqsOutbox, queues: Any) -> None:
    def sink(data: bytes) -> None:
        raise StoreUnavailable("down")

    outbox.put("decision", "t-1", b"one")
    (message,) = received(queues)
    with pytest.raises(StoreUnavailable):
        outbox.deliver(aged(message, 10 * 86_400), {"decision": sink})
    assert received(queues, "dead.fifo") == [], "however old it is: the queue has a limit of its own"


def test_an_item_that_can_never_be_delivered_is_laid_aside_at_once_as_it_is(outbox: SqsOutbox, queues: Any) -> None:
    def sink(data: bytes) -> None:
        raise ValueError("another transaction stands under this id")

    outbox.put("decision", "t-1", b"one")
    outbox.put("webhook", "w-1", b"two")
    for message in received(queues):
        outbox.deliver(message, {"decision": sink})  # nobody is there for webhooks
    aside = received(queues, "dead.fifo")
    assert sorted(unpack(message) for message in aside) == [
        Item("decision", "t-1", b"one"),
        Item("webhook", "w-1", b"two"),
    ]
    # And it can be moved back by SQS itself.
    assert {message["attributes"]["MessageGroupId"] for message in aside} > {"decision"}


@pytest.mark.parametrize(
    "change",
    [
        {"body": "not base64"},
        {"body": "aGVsbG8="},
        {"messageAttributes": {}},
        {"messageAttributes": {"kind": {"stringValue": "all"}, "key": {"stringValue": "t-1"}}},
        {"messageAttributes": {"kind": {"binaryValue": "YQ=="}, "key": {"stringValue": "t-1"}}},
    ],
)
def test_a_message_that_is_none_of_ours_is_laid_aside(outbox: SqsOutbox, queues: Any, change: dict[str, Any]) -> None:
    outbox.put("decision", "t-1", b"one")
    (message,) = received(queues)
    outbox.deliver({**message, **change}, {"decision": lambda data: pytest.fail("delivered")})
    assert len(received(queues, "dead.fifo")) == 1


def test_a_message_that_unpacks_to_more_than_memory_is_refused() -> None:
    message = {
        "body": base64.b64encode(zlib.compress(bytes(64 * 2**20))).decode(),
        "messageAttributes": {"kind": {"stringValue": "decision"}, "key": {"stringValue": "t-1"}},
    }
    with pytest.raises(ValueError, match="none of the outbox"):
        unpack(message)


def test_retry_later_hides_the_message_for_that_long(outbox: SqsOutbox, queues: Any) -> None:
    hidden: list[int] = []
    queues_client = outbox._client
    queues_client.meta.events.register(
        "provide-client-params.sqs.ChangeMessageVisibility",
        lambda params, **_: hidden.append(params["VisibilityTimeout"]),
    )

    def later(data: bytes) -> None:
        raise RetryLater("busy", 7.0)

    for age_s in (0, RETRIES_S[0] + 1, sum(RETRIES_S[:4]) + 1, sum(RETRIES_S[:-1]) + 1):
        outbox.put("webhook", f"w-{age_s}", b"one")
        (message,) = received(queues)
        with pytest.raises(RetryLater):
            outbox.deliver(aged(message, age_s), {"webhook": later})
    expected = [7, RETRIES_S[1], RETRIES_S[4], 42_000]  # twelve hours is what SQS allows
    assert len(hidden) == len(expected)
    for seconds, least in zip(hidden, expected, strict=True):
        assert least <= seconds <= least * 1.1
    assert received(queues, "dead.fifo") == []
    outbox.put("webhook", "w-1", b"one")
    (message,) = received(queues)
    outbox.deliver(aged(message, sum(RETRIES_S) + 1), {"webhook": later})
    assert len(received(queues, "dead.fifo")) == 1, "tried often enough"


def test_the_sample_event_is_of_todays_form() -> None:
    root = Path(__file__).resolve().parents[3]
    messages = json.loads((root / "events/work/outbox.json").read_text())["Records"]
    assert [(unpack(message).kind, unpack(message).key) for message in messages] == [
        ("decision", "T-2026-000001"),
        ("label", "T-2026-000001"),
    ]


def test_after_disconnecting_it_connects_again(outbox: SqsOutbox) -> None:
    outbox.put("webhook", "m1", b"one")
    outbox.disconnect()
    assert outbox.waiting() == {"all": 1}
    outbox.disconnect()
    outbox.put("webhook", "m2", b"two")
    assert outbox.waiting() == {"all": 2}
