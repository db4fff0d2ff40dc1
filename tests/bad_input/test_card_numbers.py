"""A card number in every field that there is: it appears nowhere, and what was kept under it is found by it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraud_api_lambda import card_numbers
from fraud_api_lambda.errors import InvalidRequest
from fraud_api_lambda.schemas import Pseudonyms, parse_transaction
from tests.bad_input.corpus import CARD
from tests.conftest import Trained
from tests.fraud_api_lambda.decision_log.servers import create_table as create_decisions
from tests.fraud_api_lambda.decision_log.servers import postgres
from tests.fraud_api_lambda.feature_store.servers import RedisServer
from tests.fraud_api_lambda.feature_store.servers import create_table as create_profiles
from tests.servers import REGION, ROOT, child, free_port, moto_server, name_aws

# --- what looks like one ---------------------------------------------------------------------------------------------

LOOK_ALIKE = [
    *("4111111111111111", "5555555555554444", "378282246310005", "6011111111111117", "30569309025904"),
    *("4222222222222", "6304000000000000", "4111 1111 1111 1111", "4111-1111-1111-1111", "3782 822463 10005"),
    *("4111.1111.1111.1111", "C4111111111111111", "order-4111111111111111-2", "card=4111111111111111;"),
    *("４１１１１１１１１１１１１１１１", "4111\u00a01111\u00a01111\u00a01111", "4111\u20111111\u20111111\u20111111"),
]  # fmt: skip
OTHERS = [
    *("", "0", "4111111111111112", "411111111111", "41111111111111111111111", "4111 1111", "2026-02-06T10:00:00Z"),
    *("550e8400-e29b-41d4-a716-446655440000", "00004111-1111-1111-1111-000000000000", "C1305486145", "1.7.2026"),
    "4111  1111  1111  1111",
]


@pytest.mark.parametrize("text", LOOK_ALIKE)
def test_a_card_number_is_found_however_it_is_written(text: str) -> None:
    assert card_numbers.is_in(text)
    assert card_numbers.is_in(f"paid with {text}, thanks")
    assert not card_numbers.is_in(card_numbers.masked(text))


@pytest.mark.parametrize("text", OTHERS)
def test_what_is_none_is_left_alone(text: str) -> None:
    assert not card_numbers.is_in(text)
    assert card_numbers.masked(text) == text


def test_a_tenth_of_all_ids_of_sixteen_digits_look_like_one() -> None:
    found = sum(card_numbers.is_in(f"{n * 7919:016d}") for n in range(10_000))
    assert 900 <= found <= 1_100


@given(st.text())
def test_the_name_of_a_text_and_the_mask_look_like_no_card_number(text: str) -> None:
    assert not card_numbers.is_in(card_numbers.name_for(text, b""))
    assert not card_numbers.is_in(card_numbers.masked(text))


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (4111111111111111.0, True), (-4111111111111111.0, True), (378282246310005.0, True), (2223003122003222.0, True),
        (4111111111111112.0, False), (4111111111111.5, False), (1e12, False), (1e300, False), (0.0, False),
        *((1_770_000_000_000.0 + n, False) for n in range(20)),  # a time in milliseconds
    ],
)  # fmt: skip
def test_a_number_is_one_by_its_length_check_digit_and_beginning(value: float, found: bool) -> None:
    assert card_numbers.is_number(value) is found


# --- what becomes of it ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [None, "k" * 32])
def test_one_number_has_one_name_and_the_name_is_its_own(key: str | None) -> None:
    known_as = Pseudonyms(key)
    assert known_as(CARD) == known_as(CARD) != known_as("5555555555554444")
    assert known_as.of(known_as(CARD)) == known_as(CARD)
    assert known_as.transaction(known_as.transaction(CARD)) == known_as.transaction(CARD) != CARD
    assert Pseudonyms("another key of thirty-two letters")(CARD) != known_as(CARD)


def test_an_id_that_is_none_stays_as_it_is() -> None:
    known_as = Pseudonyms()
    transaction = parse_transaction({"amount": 1, "transaction_id": "order-1", "attributes": {"a": "b", "c": 1.5}})
    assert known_as("C1305486145") == "C1305486145"
    assert known_as.shield(transaction) is transaction


def test_a_test_input_stays_one() -> None:
    assert Pseudonyms().transaction(f"test-decline-{CARD}").startswith("test-decline-pan_")


def test_where_card_numbers_are_refused_each_field_is_named() -> None:
    sent = {
        "amount": 1, "transaction_id": CARD, "customer_id": f"C{CARD}", "counterparty_id": "M1", "device_id": CARD,
        "attributes": {"note": f"card {CARD}", "number": int(CARD), CARD: 1, "fine": 2},
    }  # fmt: skip
    with pytest.raises(InvalidRequest) as refused:
        Pseudonyms(refuse_cards=True).shield(parse_transaction(sent))
    fields = [error.field for error in refused.value.errors]
    assert fields[:3] == ["transaction_id", "customer_id", "device_id"]
    assert fields[3:] == ["attributes.note", "attributes.number", "attributes.(a field)"]
    assert CARD not in str(refused.value.errors)


# --- nowhere ---------------------------------------------------------------------------------------------------------

Stores = Callable[[Path, pytest.MonkeyPatch], AbstractContextManager[tuple[dict[str, str], Callable[[], bytes]]]]


@contextmanager
def on_disk(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[tuple[dict[str, str], Callable[[], bytes]]]:
    """SQLite files and the outbox, at their default places; they are looked at with everything else there."""
    yield {}, lambda: b""


@contextmanager
def on_servers(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[tuple[dict[str, str], Callable[[], bytes]]]:
    """PostgreSQL and Redis, all that they keep read out again."""
    redis = RedisServer(folder)
    with postgres() as server:
        redis.start()

        def everything() -> bytes:
            rows = [
                str(server.execute(f"SELECT t::text FROM {name} AS t"))
                for (name,) in server.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
            ]
            keys = redis.command("KEYS", "*")
            dumped = [key + redis.command("DUMP", key) for key in keys]
            assert len(keys) > 2
            assert any("pan_" in row for row in rows)
            return "".join(rows).encode() + b"".join(dumped) + written(server.folder) + written(folder)

        try:
            yield {"FRAUD_DECISION_LOG_URL": server.url(), "FRAUD_FEATURE_STORE_URL": redis.url}, everything
        finally:
            redis.stop()


@contextmanager
def on_aws(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[tuple[dict[str, str], Callable[[], bytes]]]:
    """DynamoDB tables of a stand-in."""
    with moto_server(folder) as address:
        name_aws(patch, address)
        create_decisions("decisions")
        create_profiles("profiles")

        def everything() -> bytes:
            client = boto3.client("dynamodb", region_name=REGION)
            found = [client.scan(TableName=name)["Items"] for name in ("decisions", "profiles")]
            client.close()
            assert all(found)
            return str(found).encode() + (folder / "log").read_bytes()

        yield (
            {
                "FRAUD_DECISION_LOG_URL": "dynamodb://decisions",
                "FRAUD_FEATURE_STORE_URL": "dynamodb://profiles",
                "AWS_ENDPOINT_URL": address,
            },
            everything,
        )


def send_everywhere(client: httpx.Client) -> list[httpx.Response]:
    """The card number in every field of every route, whole and as people write it."""
    headers = {"X-Request-ID": CARD, "User-Agent": CARD, "Referer": f"http://localhost/{CARD}", "Cookie": f"a={CARD}"}
    answers = []
    for n, text in enumerate((CARD, "4111-1111-1111-1111", f"C{CARD}")):
        whole: dict[str, Any] = {
            "amount": 9_000, "type": "TRANSFER", "oldbalanceOrg": 9_000, "oldbalanceDest": 0,
            "transaction_id": text, "customer_id": text, "counterparty_id": text, "device_id": text,
            "attributes": {"text": f"paid by {text}", "number": int(CARD), text: 1, "V1": int(CARD)},
        }  # fmt: skip
        assert answers or n == 0
        answers += [client.post("/predict?explain=true", json=whole, headers=headers) for _ in range(2)]
        answers.append(client.post("/predict", json={**whole, "amount": 1}, headers=headers))  # a conflict
        answers.append(client.post("/predict/batch", json={"transactions": [whole, {**whole, "currency": text}]}))
        answers += [client.post("/predict", json={"amount": 1, name: text}, headers=headers) for name in whole]
        answers += [client.post("/predict", json={"amount": 1, name: [text]}, headers=headers) for name in whole]
        answers.append(client.post("/predict", json={"amount": 1, text: text}, headers=headers))
        label = {"transaction_id": text, "label": "fraud", "source": "chargeback", "note": f"says {text}!"}
        answers += [client.post("/feedback", json={**label, name: text}, headers=headers) for name in (*label, text)]
        answers.append(client.post("/feedback", json=label, headers=headers))
        paths = [f"/transactions/{text}", f"/parties/{text}", f"/{text}", f"/model?{text}={text}", "/summary", "/drift"]
        names = ("customer_id", "counterparty_id", "rule", "since", "cursor", text)
        paths += [f"/transactions?{name}={text}" for name in names]
        answers += [client.get(path, headers=headers) for path in paths]
        rules = f"rules: [{{id: a, expression: 'customer_id == \"{text}\"', outcome: review, reason: r}}]"
        answers += [client.post(path, json={"rules": rules}, headers=headers) for path in ("/rules/check", "/backtest")]
    answers += [client.get(path, headers=headers) for path in ("/transactions?limit=200", "/metrics", "/ready")]
    return answers


def written(folder: Path) -> bytes:
    """All bytes of all files below, the outbox's included."""
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


@pytest.mark.server
@pytest.mark.parametrize("stores", [on_disk, on_servers, on_aws])
def test_a_card_number_in_every_field_appears_nowhere_and_its_history_is_found(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stores: Stores
) -> None:
    port, served = free_port(), tmp_path / "served"
    beside = tmp_path / "beside"
    served.mkdir()
    beside.mkdir()
    with stores(beside, monkeypatch) as (chosen, everything):
        env = {
            "FRAUD_MODEL_URL": f"file://{trained.root}/models/current",
            "FRAUD_MODEL_PUBLIC_KEYS": f"file://{trained.root}/keys/development.pub",
            "FRAUD_LOG_LEVEL": "DEBUG",
            # Nobody listens there: what is to be told of decisions stays in the outbox.
            "FRAUD_WEBHOOKS": f"http://127.0.0.1:{free_port()}/#whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
            "FRAUD_DEADLINE_MS": "5000",
            "PYTHONPATH": str(ROOT),
            **chosen,
        }
        command = [sys.executable, "-m", "uvicorn", "fraud_api_lambda.handler:app", "--host", "127.0.0.1"]
        with child([*command, "--port", str(port)], port, served / "log", env, cwd=served):
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client:
                answers = send_everywhere(client)
                assert {answer.status_code for answer in answers} == {200, 404, 409, 422}
                # What was kept under the number is found by the number, and by the name that it was given.
                named = client.get(f"/transactions/{CARD}").json()["transaction_id"]
                assert client.get(f"/transactions/{named}").json()["labels"]
                party = client.get(f"/parties/{CARD}").json()
                assert party["sent"]["last_day"]["count"] >= 1
                assert client.get(f"/parties/{party['party_id']}").json() == party
                listed = client.get("/transactions", params={"customer_id": CARD}).json()["transactions"]
                assert listed
                waiting = time.monotonic() + 10
                while client.get("/ready").json()["outbox"].get("webhook", 0) == 0:
                    assert time.monotonic() < waiting, "no alert waits"
                    time.sleep(0.1)
            exported = served / "exported.jsonl"
            export = [sys.executable, "-m", "training", "export", "--out", str(exported)]
            done = subprocess.run(export, cwd=served, env={**os.environ, **env}, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            assert exported.stat().st_size > 1_000
        kept = written(served) + everything()
    told = b"".join(answer.content + str(answer.headers).encode() for answer in answers)
    assert b"pan_" in told
    assert b"pan_" in kept
    for form in (CARD, "4111-1111-1111-1111", "4.111111111111111e", "4111111111111111.0", "4111 1111"):
        assert form.encode() not in told
        assert form.encode() not in kept


@pytest.mark.server
def test_where_card_numbers_are_refused_nothing_is_kept(trained: Trained, tmp_path: Path) -> None:
    port = free_port()
    env = {"FRAUD_REFUSE_PAN": "1", "FRAUD_MODEL_URL": f"file://{tmp_path}/none", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "uvicorn", "fraud_api_lambda.handler:app", "--host", "127.0.0.1"]
    with (
        child([*command, "--port", str(port)], port, tmp_path / "log", env, cwd=tmp_path),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
    ):
        answer = client.post("/predict", json={"amount": 1, "customer_id": CARD})
        assert answer.status_code == 422
        assert json.loads(answer.content)["errors"][0]["field"] == "customer_id"
        assert client.post("/predict", json={"amount": 1, "transaction_id": "a"}).status_code == 200
        label = {"transaction_id": "a", "label": "fraud", "source": "analyst", "note": f"see {CARD}"}
        assert client.post("/feedback", json=label).status_code == 422
        assert client.post("/feedback", json={**label, "note": "see the file"}).status_code == 200
        assert len(client.get("/transactions").json()["transactions"]) == 1
    assert CARD.encode() not in written(tmp_path)
