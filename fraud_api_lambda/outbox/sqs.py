"""The outbox as a FIFO queue of SQS: for the service on AWS. Lambda hands its messages to ``handler.queue``.

A message's group is its kind, so that a kind is delivered in order and kinds never wait for one another; a webhook is a
group of its own, because one that cannot be delivered now must not hold up the others. SQS drops what has a
deduplication id of the last five minutes, delivered or not: it is made of kind and key, but for profiles and labels, of
which a second one may have something new to say. What is delivered twice does no harm: sinks are idempotent.

What comes of a message is the queue's doing: one that is not confirmed comes again after the queue's visibility timeout
(``RetryLater``: after the time it says, some twelve hours at most), and lies in the dead letter queue when that has
happened ``maxReceiveCount`` times. What can never be delivered is laid there at once, or it would hold up its group
until then. To try dead letters again: ``aws sqs start-message-move-task --source-arn <arn of the dead letter queue>``.

Needs ``sqs:SendMessage``, ``GetQueueUrl`` and ``GetQueueAttributes``; to deliver, ``ChangeMessageVisibility`` as well,
and ``SendMessage`` and ``GetQueueUrl`` on the dead letter queue.
"""

import base64
import binascii
import hashlib
import itertools
import json
import logging
import secrets
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, get_args
from urllib.parse import quote, unquote

from ..aws import Service, open_service
from ..errors import RetryLater, StoreUnavailable
from . import RETRIES_S, Kind, Outbox, Progress, Sink, retry_in

log = logging.getLogger("fraud.outbox")

#: What a message may hold, in bytes. (SQS takes more since August 2025, but not everywhere.)
MAX_BYTES: Final = 262_144
#: What one may be unpacked to.
_MAX_UNPACKED: Final = 16_777_216
#: Room for the attributes.
_ATTRIBUTES: Final = 1_024
#: Items that this process put last, for ``find``, and for how many seconds: by then they are delivered, as a rule.
_REMEMBERED: Final = 256
_REMEMBERED_S: Final = 900.0
#: What stands in a message's attribute as it is; SQS refuses some of the rest.
_PLAIN: Final = " !#$&'()*+,/:;=?@[]|"
#: SQS hides a message for twelve hours at most, counted from when it was received.
_LONGEST_S: Final = 42_000


class Item(NamedTuple):
    kind: Kind
    key: str
    data: bytes


def open_url(url: str, budget_s: float) -> Outbox:
    """``sqs://queue[?region=...]``, a FIFO queue's name, as :func:`~fraud_api_lambda.aws.open_service` reads it."""
    service, queue = open_service("sqs", url, budget_s, what="SQS outbox", example="sqs://queue.fifo")
    return SqsOutbox(service, queue)


class SqsOutbox:
    """One FIFO queue."""

    inline = False

    def __init__(self, service: Service, queue: str) -> None:
        self.queue = queue
        self._service = service
        self._client = service.client
        self._addresses: dict[str, str] = {}
        self._lock = threading.Lock()
        self._put_here: OrderedDict[tuple[Kind, str], tuple[float, bytes]] = OrderedDict()

    def put(self, kind: Kind, key: str, data: bytes) -> None:
        """Refuses what is longer than a message may be when compressed: some megabytes of JSON."""
        message = pack(kind, key, data)
        if len(message["MessageBody"]) > MAX_BYTES - _ATTRIBUTES:
            raise StoreUnavailable("The outbox (sqs) takes no item of this size.")
        self._service.call(lambda: self._client.send_message(QueueUrl=self._address(self.queue), **message))
        with self._lock:
            self._put_here[kind, key] = time.monotonic(), data
            while len(self._put_here) > _REMEMBERED:
                self._put_here.popitem(last=False)

    def find(self, kind: Kind, key: str) -> bytes | None:
        """Among those that this process put in the last quarter of an hour, delivered or not."""
        with self._lock:
            put_at, data = self._put_here.get((kind, key), (float("-inf"), b""))
        return data if time.monotonic() - put_at < _REMEMBERED_S else None

    def drain(self, sinks: Mapping[Kind, Sink], *, seconds: float = 1.0) -> Progress:
        """Nothing to do: Lambda delivers."""
        return Progress(0, 0, 0)

    def waiting(self) -> dict[Kind, int]:
        """About how many; SQS does not tell kinds apart, so all of them stand under the word ``all``."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]

        def ask() -> dict[str, str]:
            answer = self._client.get_queue_attributes(QueueUrl=self._address(self.queue), AttributeNames=names)
            return dict(answer["Attributes"])

        return {"all": sum(int(number) for number in self._service.call(ask).values())}  # type: ignore[dict-item]

    def remove(self, unwanted: Callable[[Kind, bytes], bool]) -> int | None:
        """A queue shows no message without taking it, and its dead letters are another queue's."""
        return None

    def allow(self, budget_s: float) -> None:
        self._service.allow(budget_s)

    def disconnect(self) -> None:
        self._service.disconnect()

    def close(self) -> None:
        self._service.close()

    # --- delivery

    def deliver(self, message: Mapping[str, Any], sinks: Mapping[Kind, Sink]) -> None:
        """Deliver a message of this queue, as Lambda hands it over, or lay it aside: on return it is done with.

        Raises ``StoreUnavailable`` where it is to come again.
        """
        try:
            item = unpack(message)
            sink = sinks[item.kind]
        except (ValueError, LookupError) as error:
            self._lay_aside(message, type(error).__name__)
            return
        try:
            sink(item.data)
        except RetryLater as later:
            seconds = retry_in(_attempts(message), later.seconds)
            if seconds is None:
                self._lay_aside(message, "tried often enough")
                return
            self._hide(message, seconds)
            raise
        except StoreUnavailable:
            raise
        except Exception as error:
            self._lay_aside(message, type(error).__name__)

    def _lay_aside(self, message: Mapping[str, Any], reason: str) -> None:
        """Move the message into the queue's dead letter queue. (Twice at worst: it is the same message there.)"""
        log.error("an item of the outbox is laid aside", extra={"reason": reason, "message_id": message["messageId"]})

        def send() -> None:
            name = json.loads(self._attribute("RedrivePolicy"))["deadLetterTargetArn"].rpartition(":")[2]
            self._client.send_message(
                QueueUrl=self._address(name),
                MessageBody=message["body"],
                MessageGroupId=message["attributes"]["MessageGroupId"],
                MessageDeduplicationId=message["attributes"]["MessageDeduplicationId"],
                MessageAttributes={
                    name: {"DataType": "String", "StringValue": attribute["stringValue"]}
                    for name, attribute in message["messageAttributes"].items()
                    if attribute.get("stringValue")
                },
            )

        self._service.call(send)

    def _hide(self, message: Mapping[str, Any], seconds: float) -> None:
        """Let the message come again after ``seconds``."""
        self._service.call(
            lambda: self._client.change_message_visibility(
                QueueUrl=self._address(self.queue),
                ReceiptHandle=message["receiptHandle"],
                VisibilityTimeout=min(_LONGEST_S, max(1, int(seconds))),
            )
        )

    def _attribute(self, name: str) -> str:
        answer = self._client.get_queue_attributes(QueueUrl=self._address(self.queue), AttributeNames=[name])
        return str(answer["Attributes"][name])

    def _address(self, queue: str) -> str:
        """The queue's URL, asked for once."""
        if queue not in self._addresses:
            self._addresses[queue] = self._client.get_queue_url(QueueName=queue)["QueueUrl"]
        return self._addresses[queue]


def _attempts(message: Mapping[str, Any]) -> int:
    """Which attempt it is by the message's age: SQS counts deliveries, and not each of them is an attempt."""
    age_s = time.time() - int(message["attributes"]["SentTimestamp"]) / 1000
    return 1 + sum(total <= age_s for total in itertools.accumulate(RETRIES_S))


def pack(kind: Kind, key: str, data: bytes) -> dict[str, Any]:
    """The message of an item, as ``SendMessage`` takes it. A body is text, so: compressed, as base64."""
    name = hashlib.blake2b(f"{kind}\n{key}".encode(), digest_size=32).hexdigest()
    once = kind not in ("profile", "label")
    return {
        "MessageBody": base64.b64encode(zlib.compress(data, 9)).decode(),
        "MessageGroupId": name if kind == "webhook" else kind,
        "MessageDeduplicationId": name if once else secrets.token_hex(32),
        "MessageAttributes": {
            "kind": {"DataType": "String", "StringValue": kind},
            "key": {"DataType": "String", "StringValue": quote(key, safe=_PLAIN)},
        },
    }


def unpack(message: Mapping[str, Any]) -> Item:
    """The item of a message as Lambda hands it over. Raises ``ValueError`` for one that :func:`pack` did not make."""
    try:
        attributes = message["messageAttributes"]
        kind, key = attributes["kind"]["stringValue"], unquote(attributes["key"]["stringValue"])
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(base64.b64decode(message["body"], validate=True), _MAX_UNPACKED)
        if not unpacker.eof or kind not in get_args(Kind):
            raise ValueError
    except (LookupError, TypeError, ValueError, binascii.Error, zlib.error):
        raise ValueError("This message is none of the outbox.") from None
    return Item(kind, key, data)
