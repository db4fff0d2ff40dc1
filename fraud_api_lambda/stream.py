"""Decisions sent on to Kafka, from the outbox: an optional extra (``confluent-kafka``), loaded only where asked for.

A message's key is the transaction id and its value the answer as replied, so that the messages of one transaction lie
in one partition. Delivery is at least once: after a kill or a lost acknowledgement a decision comes again, same key.
"""

import json
import logging
import re
import threading
import time
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl

from .errors import SettingsError, StoreUnavailable

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Producer

_NAME: Final = "FRAUD_KAFKA_URL"
_FORM: Final = "kafka://host:port[,host:port]/topic"
_URL: Final = re.compile(
    r"kafka://(?P<brokers>[^/?#@\s]+:\d{1,5}(?:,[^/?#@\s,]+:\d{1,5})*)/(?P<topic>[A-Za-z0-9._-]{1,249})(?:\?(?P<options>\S*))?"
)
#: What may follow the topic, as ``?name=value&name=value``: who we are and whom we trust, librdkafka's names.
_OPTIONS: Final = frozenset(
    {"security.protocol", "sasl.mechanism", "sasl.username", "sasl.password", "ssl.ca.location"}
)


class KafkaSink:
    """Sends one decision and waits until all replicas in sync have it; a ``Sink`` of the outbox, for any thread.

    ``deadline_s`` bounds the wait. Raises ``StoreUnavailable`` where the decision was not acknowledged by then, and
    ``ValueError``, so a dead letter, for one that no broker will ever take: not a decision, or too large.
    """

    def __init__(self, url: str, *, deadline_s: float = 5.0) -> None:
        """Waits for no broker. Raises ``SettingsError``, which never shows the URL (it may hold a password)."""
        try:
            import confluent_kafka
        except ModuleNotFoundError:
            raise SettingsError(f"{_NAME} needs the package confluent-kafka: install it.") from None
        brokers, self._topic, options = _parse(url)
        self._kafka = confluent_kafka
        self._deadline_s = deadline_s
        self._lock = threading.Lock()
        self._config: dict[str, Any] = {
            **options,
            "bootstrap.servers": brokers,
            "client.id": "fraud-detection-api",
            "acks": "all",
            "enable.idempotence": True,
            "linger.ms": 0,
            # What was not acknowledged in time is given up by the library too: it comes again from the outbox.
            "message.timeout.ms": int(deadline_s * 1000),
            "request.timeout.ms": int(deadline_s * 1000),
            "reconnect.backoff.max.ms": 2000,
            "logger": _silent(),
        }
        try:
            self._producer: Producer | None = confluent_kafka.Producer(self._config)
        except confluent_kafka.KafkaException:
            raise SettingsError(f"{_NAME} has an option that the library does not take.") from None

    def __call__(self, data: bytes) -> None:
        key = json.loads(data)["transaction_id"]
        if not isinstance(key, str):
            raise ValueError("This is not a decision.")
        with self._lock:
            self._send(key.encode(), data)

    def close(self) -> None:
        """What was not acknowledged is given up: it waits in the outbox."""
        with self._lock:
            self._drop()

    def _send(self, key: bytes, value: bytes) -> None:
        answers: list[KafkaError | None] = []
        if self._producer is None:
            self._producer = self._kafka.Producer(self._config)
        try:
            self._producer.produce(self._topic, value, key, on_delivery=lambda error, _: answers.append(error))
        except self._kafka.KafkaException as error:
            self._judge(error.args[0])
        except BufferError:
            raise StoreUnavailable("Kafka did not take the decision: too many wait for it.") from None
        # The library looks for messages whose time is over once a second.
        until = time.monotonic() + self._deadline_s + 2.0
        while not answers and time.monotonic() < until:
            self._producer.poll(0.1)
        if not answers:
            self._drop()
            raise StoreUnavailable("Kafka did not answer in time.")
        if answers[0] is not None:
            self._judge(answers[0])

    def _judge(self, error: "KafkaError") -> None:
        """Raise what a message's error means. Its text is not told: it may hold addresses."""
        kinds = self._kafka.KafkaError
        if error.fatal():  # this producer is of no more use
            self._drop()
        if error.code() in {kinds.MSG_SIZE_TOO_LARGE, kinds.INVALID_MSG, kinds.INVALID_RECORD}:
            raise ValueError(f"Kafka refused the decision: {error.name()}.")
        raise StoreUnavailable(f"Kafka did not take the decision: {error.name()}.")

    def _drop(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.purge()
            producer.poll(0)


def _parse(url: str) -> tuple[str, str, dict[str, str]]:
    """Brokers, topic, options."""
    matched = _URL.fullmatch(url)
    if matched is None:
        raise SettingsError(f"{_NAME} is written {_FORM}.")
    try:
        options = dict(
            parse_qsl(matched["options"] or "", keep_blank_values=True, strict_parsing=bool(matched["options"]))
        )
    except ValueError:
        raise SettingsError(f"{_NAME} is written {_FORM}?name=value&name=value.") from None
    if not options.keys() <= _OPTIONS:
        raise SettingsError(f"{_NAME} has an unknown option. Choices are: {', '.join(sorted(_OPTIONS))}.")
    return matched["brokers"], matched["topic"], options


def _silent() -> logging.Logger:
    """The library tells addresses, of its own accord and to standard error; what matters is raised."""
    logger = logging.Logger("librdkafka", logging.CRITICAL + 1)
    logger.addHandler(logging.NullHandler())
    return logger
