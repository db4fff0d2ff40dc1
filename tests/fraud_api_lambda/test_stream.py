"""Decisions sent on, against the mock brokers that librdkafka brings: the real protocol over real sockets."""

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Message, Producer

from fraud_api_lambda.errors import SettingsError, StoreUnavailable
from fraud_api_lambda.outbox import Progress, open_outbox
from fraud_api_lambda.stream import KafkaSink, _silent
from tests.servers import free_port

#: So wide that a busy machine does not decide what is found.
AMPLE_S = 20.0
#: Until brokers that have gone count as gone; the test waits that long.
GONE_S = 5.0
ROOT = Path(__file__).resolve().parents[2]


def decision(name: str, **more: object) -> bytes:
    return json.dumps({"transaction_id": name, "outcome": "review", **more}).encode()


@dataclass
class Cluster:
    """Two brokers in this process, for as long as their producer lives."""

    producer: Producer
    brokers: str

    def url(self, topic: str) -> str:
        return f"kafka://{self.brokers}/{topic}"

    def read(self, topic: str, many: int) -> list[Message]:
        """The first ``many`` messages, and any that come within a second after them."""
        config = {"bootstrap.servers": self.brokers, "group.id": topic, "auto.offset.reset": "earliest"}
        consumer = Consumer({**config, "logger": _silent()})
        consumer.subscribe([topic])
        messages: list[Message] = []
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            message = consumer.poll(1.0)
            if message is None:
                if len(messages) >= many:
                    break
            elif message.error() is None:
                messages.append(message)
        consumer.close()
        return messages


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    producer = Producer({"test.mock.num.brokers": 2, "bootstrap.servers": "replaced:1", "logger": _silent()})
    brokers = producer.list_topics(timeout=30).brokers.values()
    return Cluster(producer, ",".join(f"{broker.host}:{broker.port}" for broker in brokers))


@pytest.mark.server
def test_a_decision_arrives_under_its_transaction_id_as_it_was_replied(cluster: Cluster) -> None:
    sink = KafkaSink(cluster.url("decisions"), deadline_s=AMPLE_S)
    sent = [decision(f"order-{number % 5}", number=number, note="é") for number in range(20)]
    for data in sent:
        sink(data)
    sink.close()
    messages = cluster.read("decisions", len(sent))
    assert sorted(message.value() for message in messages) == sorted(sent)
    partitions: dict[bytes, set[int]] = {}
    for message in messages:
        assert message.key() == json.loads(message.value())["transaction_id"].encode()
        partitions.setdefault(message.key(), set()).add(message.partition())
    assert all(len(of_one_key) == 1 for of_one_key in partitions.values())
    for key in partitions:
        numbers = [json.loads(message.value())["number"] for message in messages if message.key() == key]
        assert numbers == sorted(numbers)


@pytest.mark.server
def test_what_waits_in_the_outbox_is_sent_once_the_brokers_are_there(cluster: Cluster, tmp_path: Path) -> None:
    outbox = open_outbox(f"file://{tmp_path}/outbox")
    for number in range(3):
        outbox.put("stream", f"order-{number}", decision(f"order-{number}"))
    nobody = KafkaSink(f"kafka://127.0.0.1:{free_port()}/later", deadline_s=0.5)
    assert outbox.drain({"stream": nobody}) == Progress(0, 0, 3)
    nobody.close()
    sink = KafkaSink(cluster.url("later"), deadline_s=AMPLE_S)
    assert outbox.drain({"stream": sink}, seconds=60) == Progress(3, 0, 0)
    sink.close()
    assert sorted(message.key() for message in cluster.read("later", 3)) == [b"order-0", b"order-1", b"order-2"]


@pytest.mark.server
def test_brokers_that_go_away_are_told_in_time() -> None:
    other = Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "replaced:1", "logger": _silent()})
    (broker,) = other.list_topics(timeout=30).brokers.values()
    sink = KafkaSink(f"kafka://{broker.host}:{broker.port}/topic", deadline_s=GONE_S)
    sink(decision("order-1"))
    del other
    begun = time.monotonic()
    with pytest.raises(StoreUnavailable) as down:
        sink(decision("order-2"))
    assert str(broker.port) not in str(down.value)
    assert time.monotonic() - begun < 2 * GONE_S
    sink.close()


@pytest.mark.server
def test_after_close_the_next_one_connects_anew(cluster: Cluster) -> None:
    sink = KafkaSink(cluster.url("anew"), deadline_s=AMPLE_S)
    for name in ("order-1", "order-2"):
        sink(decision(name))
        sink.close()
    assert sorted(message.key() for message in cluster.read("anew", 2)) == [b"order-1", b"order-2"]


def test_nobody_there_is_told_within_the_deadline() -> None:
    sink = KafkaSink(f"kafka://127.0.0.1:{free_port()}/topic", deadline_s=0.5)
    begun = time.monotonic()
    with pytest.raises(StoreUnavailable, match="Kafka did not"):
        sink(decision("order-1"))
    assert time.monotonic() - begun < 10
    sink.close()


@pytest.mark.parametrize("data", [b"", b"nothing", b"[]", b"{}", b'{"transaction_id":7}'])
def test_what_is_no_decision_is_a_dead_letter(tmp_path: Path, data: bytes) -> None:
    sink = KafkaSink(f"kafka://127.0.0.1:{free_port()}/topic")
    outbox = open_outbox(f"file://{tmp_path}/outbox")
    outbox.put("stream", "key", data)
    assert outbox.drain({"stream": sink}) == Progress(0, 1, 0)
    sink.close()


def test_what_is_too_large_for_any_broker_is_a_dead_letter() -> None:
    sink = KafkaSink(f"kafka://127.0.0.1:{free_port()}/topic")
    with pytest.raises(ValueError, match="MSG_SIZE_TOO_LARGE"):
        sink(decision("order-1", note="x" * 2_000_000))
    sink.close()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("swordfish", "is written kafka://host:port"),
        ("http://swordfish:1/topic", "is written kafka://host:port"),
        ("kafka://swordfish/topic", "is written kafka://host:port"),
        ("kafka://swordfish:9092", "is written kafka://host:port"),
        ("kafka://swordfish:9092/", "is written kafka://host:port"),
        ("kafka://swordfish:9092,/topic", "is written kafka://host:port"),
        ("kafka://user:swordfish@host:9092/topic", "is written kafka://host:port"),
        ("kafka://host:9092/sword fish", "is written kafka://host:port"),
        ("kafka://host:9092/swordfish/more", "is written kafka://host:port"),
        ("kafka://host:9092/topic?swordfish", "name=value"),
        ("kafka://host:9092/topic?swordfish=1", "Choices are: sasl.mechanism, sasl.password"),
        ("kafka://host:9092/topic?security.protocol=swordfish", "does not take"),
        ("kafka://host:9092/topic?security.protocol=SSL&ssl.ca.location=/none/swordfish", "does not take"),
    ],
)
def test_a_wrong_url_is_refused_and_never_shown(url: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said) as refused:
        KafkaSink(url)
    assert "FRAUD_KAFKA_URL" in str(refused.value)
    assert "swordfish" not in str(refused.value)


def test_who_we_are_may_stand_in_the_url() -> None:
    options = "security.protocol=SASL_SSL&sasl.mechanism=PLAIN&sasl.username=me&sasl.password=a%26b"
    sink = KafkaSink(f"kafka://127.0.0.1:{free_port()},127.0.0.1:{free_port()}/topic?{options}")
    assert sink._config["sasl.password"] == "a&b"
    sink.close()


def test_without_the_package_the_service_starts_and_the_setting_says_what_is_missing() -> None:
    program = """
import sys
sys.modules["confluent_kafka"] = None  # as where it is not installed
import fraud_api_lambda.stream
try:
    fraud_api_lambda.stream.KafkaSink("kafka://swordfish:9092/topic")
except fraud_api_lambda.errors.SettingsError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "FRAUD_KAFKA_URL needs the package confluent-kafka: install it.\n"


def test_importing_the_module_does_not_import_the_package() -> None:
    program = "import sys, fraud_api_lambda.stream; print('confluent_kafka' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_the_library_writes_no_addresses() -> None:
    program = f"""
from fraud_api_lambda.stream import KafkaSink
try:
    KafkaSink("kafka://127.0.0.1:{free_port()}/topic", deadline_s=0.5)(b'{{"transaction_id": "order-1"}}')
except Exception as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "Kafka did not take the decision: _MSG_TIMED_OUT.\n"
    assert done.stderr == ""
