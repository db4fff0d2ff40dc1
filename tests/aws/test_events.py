"""events/: what API Gateway would hand to the function, in its two formats, for the same requests."""

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import pytest

EVENTS = Path(__file__).resolve().parents[2] / "events"
NAMES = sorted({path.name.split(".")[0] for path in EVENTS.glob("*.json")})
Event = dict[str, Any]

CARD_ROW = {"Time": 0, "V1": -1.36, "V2": -0.07, "V3": 2.54, "Amount": 149.62}
PAYSIM = {
    "step": 1,
    "type": "TRANSFER",
    "amount": 181.0,
    "nameOrig": "C1305486145",
    "oldbalanceOrg": 181.0,
    "newbalanceOrig": 0.0,
    "nameDest": "C553264065",
    "oldbalanceDest": 0.0,
    "newbalanceDest": 0.0,
}
BALANCES = {"amount": 123.45, "oldbalanceOrg": 1000, "newbalanceOrig": 876.55}
OVER_BALANCE = {"amount": 112.0, "oldbalanceOrg": 100.0, "newbalanceOrig": 0.0}


def event(name: str, version: str) -> Event:
    loaded: Event = json.loads((EVENTS / f"{name}.{version}.json").read_text())
    return loaded


def body(item: Event) -> bytes | None:
    text = item.get("body")
    if text is None:
        return None
    return base64.b64decode(text) if item["isBase64Encoded"] else text.encode()


def through_mangum(item: Event) -> tuple[str, str, bytes, bytes, dict[bytes, bytes]]:
    """Method, path, query, body and headers as an ASGI application behind Mangum gets them."""
    from mangum import Mangum

    seen: list[tuple[str, str, bytes, bytes, dict[bytes, bytes]]] = []

    async def app(
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None:
        sent = (await receive()).get("body", b"")
        seen.append((scope["method"], scope["path"], scope["query_string"], sent, dict(scope["headers"])))
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        assert Mangum(app, lifespan="off")(item, object())["statusCode"] == 204  # type: ignore[arg-type]
    finally:
        asyncio.set_event_loop(None)
        loop.close()
    return seen[0]


def test_every_event_is_there_in_both_formats() -> None:
    files = {path.name for path in EVENTS.glob("*.json")}
    assert files == {f"{name}.{version}.json" for name in NAMES for version in ("v1", "v2")}
    assert {"predict-paysim", "health", "ready", "batch", "predict-wrong-field", "predict-broken-json"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_both_formats_of_an_event_are_the_same_request(name: str) -> None:
    *first, headers_1 = through_mangum(event(name, "v1"))
    *second, headers_2 = through_mangum(event(name, "v2"))
    assert first == second
    assert headers_1.get(b"content-type") == headers_2.get(b"content-type")


@pytest.mark.parametrize("name", NAMES)
def test_a_v1_event_is_a_rest_proxy_event_behind_the_stage(name: str) -> None:
    item = event(name, "v1")
    assert "version" not in item
    assert item["requestContext"]["path"] == f"/{item['requestContext']['stage']}{item['path']}"
    assert item["requestContext"]["stage"] == "v1"
    assert item["resource"] == "/{proxy+}"
    assert item["path"] == f"/{item['pathParameters']['proxy']}"
    assert {key: [value] for key, value in item["headers"].items()} == item["multiValueHeaders"]
    assert "body" in item


@pytest.mark.parametrize("name", NAMES)
def test_a_v2_event_is_an_http_api_event(name: str) -> None:
    item = event(name, "v2")
    assert item["version"] == "2.0"
    assert item["rawPath"] == item["requestContext"]["http"]["path"]
    assert all(key == key.lower() for key in item["headers"])
    sent = body(item)
    assert (sent is None) == ("content-length" not in item["headers"])
    if sent is not None:
        assert int(item["headers"]["content-length"]) == len(sent)


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        ("predict-paysim", PAYSIM),
        ("predict-balances", BALANCES),
        ("predict-over-balance", OVER_BALANCE),
        ("predict-card-row", CARD_ROW),
        ("predict-base64", PAYSIM),
        ("predict-with-id", {"transaction_id": "T-2026-000001", **PAYSIM}),
    ],
)
def test_an_event_carries_the_public_payload_unchanged(name: str, sent: dict[str, object]) -> None:
    for version in ("v1", "v2"):
        text = body(event(name, version))
        assert text is not None
        assert json.loads(text) == sent


def test_the_batch_holds_every_known_payload_once() -> None:
    text = body(event("batch", "v1"))
    assert text is not None
    sent = json.loads(text)["transactions"]
    assert len(sent) == 11
    for payload in (BALANCES, CARD_ROW, OVER_BALANCE, PAYSIM):
        assert sent.count(payload) == 1
    assert sum("merchant_id" in item for item in sent) == 7


def test_the_broken_event_is_no_json_at_all_and_the_wrong_one_is() -> None:
    broken, wrong = body(event("predict-broken-json", "v1")), body(event("predict-wrong-field", "v1"))
    assert broken is not None
    assert wrong is not None
    with pytest.raises(json.JSONDecodeError):
        json.loads(broken)
    assert json.loads(wrong) == {"amount": "a lot", "colour": "red"}


@pytest.mark.parametrize("path", sorted(EVENTS.glob("*.json")), ids=lambda path: path.name)
def test_no_event_names_a_real_address_account_or_key(path: Path) -> None:
    text = path.read_text()
    assert "203.0.113." in text, "an address reserved for documentation"
    assert '"accountId": "123456789012"' in text
    assert "EXAMPLE-KEY-NOT-A-SECRET" in text or path.name.endswith(".v2.json")
