"""Bodies that callers of other fraud APIs send, as they stand; shared by the tests of schemas, scoring and HTTP."""

import json
from typing import Any

#: What PaySim, card and balance APIs are sent.
OTHERS: tuple[dict[str, Any], ...] = (
    {"amount": 123.45, "oldbalanceOrg": 1000, "newbalanceOrig": 876.55},
    {"Time": 0, "V1": -1.36, "V2": -0.07, "V3": 2.54, "Amount": 149.62},
    {"Time": 406.0, **{f"V{i}": -0.5 * i for i in range(1, 29)}, "Amount": 0},
    {"amount": 112.00, "oldbalanceOrg": 100.00, "newbalanceOrig": 0.00},
    {
        "step": 1, "type": "TRANSFER", "amount": 181.0, "nameOrig": "C1305486145", "oldbalanceOrg": 181.0,
        "newbalanceOrig": 0.0, "nameDest": "C553264065", "oldbalanceDest": 0.0, "newbalanceDest": 0.0,
    },
)  # fmt: skip


def _purchase(moment: str, customer: str, merchant: str, amount: float, lat: float, long: float) -> dict[str, Any]:
    who = {"timestamp": moment, "customer_id": customer, "merchant_id": merchant}
    return {**who, "amount": amount, "lat": lat, "long": long}


#: What an API with profiles of customers is sent, by the answer its documentation gives.
LEGITIMATE = (
    _purchase("2026-02-06T10:00:00", "C777777", "Grocery", 400, 12.9, 77.6),
    _purchase("2026-02-06T16:10:00", "C100002", "Amazon", 1200, 13.0, 77.5),
    _purchase("2023-10-27T12:05:00", "C_TEST_02", "M_TEST_02", 25.50, 40.71, -74.00),
)
FRAUDULENT = (
    _purchase("2026-02-06T02:30:00", "C100004", "Crypto", 4500, 13.1, 77.6),
    _purchase("2026-02-05T02:10:00", "C000010", "Electronics", 12000, 41.5, 120.2),
    _purchase("2023-10-27T10:00:00", "C999999", "M_SCAM", 9000.0, 45.0, 45.0),
    _purchase("2023-10-27T12:00:00", "C_TEST_01", "M_TEST_01", 5500.00, 40.71, -74.00),
)
ALL = (*OTHERS, *LEGITIMATE, *FRAUDULENT)

CANARY = "Canary-7731-word"

#: Bodies that are refused with 422, whatever they try: name -> bytes. Those with a canary must not see it again.
HOSTILE: dict[str, bytes] = {
    "nothing": b"",
    "white space": b" \n\t ",
    "cut off": b'{"amount": 1',
    "more after the end": b'{"amount": 1} {"amount": 2}',
    "null": b"null",
    "a number": b"12",
    "a text": json.dumps(CANARY).encode(),
    "a list": b"[]",
    "a list of one": b'[{"amount": 1}]',
    "no amount": b"{}",
    "null amount": b'{"amount": null}',
    "NaN": b'{"amount": NaN}',
    "Infinity": b'{"amount": Infinity}',
    "minus Infinity": b'{"amount": -Infinity}',
    "1e999": b'{"amount": 1e999}',
    "NaN in an attribute": b'{"amount": 1, "attributes": {"a": NaN}}',
    "1e999 in an attribute": b'{"amount": 1, "attributes": {"a": 1e999}}',
    "1e999 in a balance": b'{"amount": 1, "oldbalanceOrg": 1e999}',
    "1e999 in V1": b'{"amount": 1, "V1": 1e999}',
    "negative amount": b'{"amount": -0.01}',
    "amount beyond a billion": b'{"amount": 1000000000.01}',
    "negative balance": b'{"amount": 1, "oldbalanceOrg": -1}',
    "amount as text": b'{"amount": "12"}',
    "amount as boolean": b'{"amount": true}',
    "amount as list": b'{"amount": [1]}',
    "amount as object": b'{"amount": {"value": 1}}',
    "huge whole amount": b'{"amount": ' + b"9" * 5_000 + b"}",
    "huge whole step": b'{"amount": 1, "step": ' + b"9" * 400 + b"}",
    "step 0": b'{"amount": 1, "step": 0}',
    "step with a fraction": b'{"amount": 1, "step": 1.5}',
    "step as boolean": b'{"amount": 1, "step": true}',
    "lone surrogate": b'{"amount": 1, "customer_id": "\\ud800Canary-7731-word"}',
    "lone surrogate in a name": b'{"amount": 1, "\\udfffCanary-7731-word": 1}',
    "lone surrogate in an attribute": b'{"amount": 1, "attributes": {"a": "\\ud800"}}',
    "every byte": bytes(range(256)),
    "not UTF-8": b'{"amount": 1, "customer_id": "\xff\xfe"}',
    "UTF-16": '{"amount": 1}'.encode("utf-16"),
    "UTF-32": '{"amount": 1}'.encode("utf-32"),
    "a byte order mark": b'\xef\xbb\xbf{"amount": 1}',
    "a form": b"amount=1&customer_id=Canary-7731-word",
    "XML": b"<amount>Canary-7731-word</amount>",
    "deep lists": b"[" * 60_000,
    "deep objects": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "deep attribute": b'{"amount": 1, "attributes": ' + b'{"a":' * 9_000 + b"1" + b"}" * 9_001,
    "the same name twice": b'{"amount": 1, "amount": 2}',
    "the same name twice, one escaped": b'{"amount": 1, "\\u0061mount": 2}',
    "the same attribute twice": b'{"amount": 1, "attributes": {"Canary-7731-word": 1, "Canary-7731-word": 2}}',
    "unknown name": b'{"amount": 1, "Canary-7731-word": 1}',
    "unknown name that is an address": b'{"amount": 1, "canary@example.org": 1}',
    "unknown name that is a card number": b'{"amount": 1, "4111111111111111": 1}',
    "a very long name": b'{"amount": 1, "' + b"Canary-7731-word" * 3_000 + b'": 1}',
    "thousands of names": json.dumps({"amount": 1, **{f"{CANARY} {i}": i for i in range(2_000)}}).encode(),
    "hundreds of wrong attributes": json.dumps(
        {"amount": 1, "attributes": {f"{CANARY} {i}": [i] for i in range(250)}}
    ).encode(),
    "too many attributes": json.dumps({"amount": 1, "attributes": {f"a{i}": i for i in range(257)}}).encode(),
    "a list of attributes": b'{"amount": 1, "attributes": [1]}',
    "a list of attributes and V1": b'{"amount": 1, "V1": 1, "attributes": [1]}',
    "boolean attribute": b'{"amount": 1, "attributes": {"a": true}}',
    "null attribute": b'{"amount": 1, "attributes": {"a": null}}',
    "attribute without a name": b'{"amount": 1, "attributes": {"": 1}}',
    "V29": b'{"amount": 1, "V29": 1}',
    "V01": b'{"amount": 1, "V01": 1}',
    "null V1": b'{"amount": 1, "V1": null}',
    "lower-case currency": b'{"amount": 1, "currency": "usd"}',
    "currency and a line break": b'{"amount": 1, "currency": "USD\\n"}',
    "unknown currency": b'{"amount": 1, "currency": "ZZZ"}',
    "id beyond ASCII": '{"amount": 1, "transaction_id": "Ä"}'.encode(),
    "id and a line break": b'{"amount": 1, "transaction_id": "a\\n"}',
    "empty id": b'{"amount": 1, "transaction_id": ""}',
    "empty customer": b'{"amount": 1, "customer_id": ""}',
    "customer as a number": b'{"amount": 1, "customer_id": 7731}',
    "latitude beyond the pole": b'{"amount": 1, "lat": 90.001}',
    "longitude beyond the date line": b'{"amount": 1, "long": -180.001}',
    **{
        f"canary in {name}": json.dumps({"amount": 1, name: CANARY}).encode()
        for name in (
            *("amount", "Amount", "currency", "type", "timestamp", "step", "lat", "long", "attributes"),
            *("oldbalanceOrg", "newbalanceOrig", "oldbalanceDest", "newbalanceDest"),
        )
    },
    **{
        f"too long a canary in {name}": json.dumps({"amount": 1, name: CANARY * 20}).encode()
        for name in ("customer_id", "nameOrig", "counterparty_id", "nameDest", "device_id", "transaction_id", "V1")
    },
}
