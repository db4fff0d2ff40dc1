"""Requests that mean no good, as data: each with the status that it gets, by name.

``CANARY`` and ``CARD`` stand in most of them, and must be seen again nowhere. ``HOSTILE`` (payloads.py) has the bodies
of ``POST /predict`` that were there first; here they are once more, with headers, other routes, sizes and encodings.
"""

import gzip
import json
import zlib
from dataclasses import dataclass
from typing import Any

from tests.fraud_api_lambda.payloads import CANARY, HOSTILE

#: The best known test card: no network has ever issued it.
CARD = "4111111111111111"
FINE = b'{"amount": 1}'
JSON = (b"content-type", b"application/json")


@dataclass(frozen=True)
class Case:
    """One request. ``server`` is the status that uvicorn gives before the app sees anything, where it does so."""

    status: int
    body: bytes = b""
    path: str = "/predict"
    query: bytes = b""
    method: str = "POST"
    headers: tuple[tuple[bytes, bytes], ...] = (JSON,)
    server: int | None = None


def _json(data: Any) -> bytes:
    return json.dumps(data).encode()


def _padded(size: int) -> bytes:
    return _json({"amount": 1, "attributes": {"a": CANARY + "x" * size}})


_DEEP = 100_000
_BOMB = gzip.compress(b'{"amount": 1, "attributes": {"a": "' + b"0" * 50_000_000 + b'"}}', 9)

BODIES: dict[str, Case] = {
    **{f"predict: {name}": Case(422, body) for name, body in HOSTILE.items()},
    "a hundred thousand lists": Case(413, b"[" * _DEEP),
    "as many objects": Case(413, b'{"a":' * _DEEP),
    "as many lists in a batch": Case(422, b'{"transactions": ' + b"[" * _DEEP + b"]" * _DEEP + b"}", "/predict/batch"),
    "10 MB": Case(413, _padded(10_000_000)),
    "10 MB in a batch": Case(413, _padded(10_000_000), "/predict/batch"),
    "64 kB and one byte": Case(413, FINE + b" " * (64 * 1024 + 1 - len(FINE))),
    "a digit for every byte": Case(413, b'{"amount": ' + b"1" * 70_000 + b"}"),
    "an amount of 5,000 digits after the point": Case(200, b'{"amount": 0.' + b"1" * 5_000 + b"}"),
    "an exponent of 5,000 digits": Case(422, b'{"amount": 1e' + b"9" * 5_000 + b"}"),
    "the smallest exponent": Case(200, b'{"amount": 1e-999}'),
    "1e308": Case(422, b'{"amount": 1e308}'),
    "minus zero": Case(200, b'{"amount": -0.0}'),
    "a text of underscores": Case(422, b'{"amount": "1_000"}'),
    "a number of underscores": Case(422, b'{"amount": 1_000}'),
    "a hexadecimal number": Case(422, b'{"amount": 0x10}'),
    "a leading zero": Case(422, b'{"amount": 01}'),
    "a plus": Case(422, b'{"amount": +1}'),
    "single quotes": Case(422, b"{'amount': 1}"),
    "a comma too many": Case(422, b'{"amount": 1,}'),
    "a comment": Case(422, b'{"amount": 1 /* Canary-7731-word */}'),
    "null bytes": Case(422, b"\0" * 1_000),
    "a null byte in a name": Case(422, b'{"amount\\u0000": 1}'),
    "a null byte in a customer": Case(200, b'{"amount": 1, "customer_id": "a\\u0000b"}'),
    "a null byte in an attribute": Case(200, b'{"amount": 1, "attributes": {"a": "\\u0000"}}'),
    "a control character in a text": Case(422, b'{"amount": 1, "customer_id": "a\nb"}'),
    "an escaped line break in a customer": Case(200, b'{"amount": 1, "customer_id": "a\\r\\nX-Evil: 1"}'),
    "right to left": Case(200, _json({"amount": 1, "customer_id": "\u202e\u2066abc"})),
    "every plane of Unicode": Case(200, _json({"amount": 1, "customer_id": "a\u00e4\u20ac\U0001f4b3"})),
    "a noncharacter": Case(200, _json({"amount": 1, "customer_id": "\uffff\ufdd0"})),
    "overlong UTF-8": Case(422, b'{"amount": 1, "customer_id": "\xc0\xaf"}'),
    "a surrogate as UTF-8": Case(422, b'{"amount": 1, "customer_id": "\xed\xa0\x80"}'),
    "beyond Unicode": Case(422, b'{"amount": 1, "customer_id": "\xf4\x90\x80\x80"}'),
    "half an escape": Case(422, b'{"amount": 1, "customer_id": "\\ud83d\\u00"}'),
    "low before high surrogate": Case(422, b'{"amount": 1, "customer_id": "\\udc00\\ud800"}'),
    "UTF-16 without a mark": Case(422, '{"amount": 1}'.encode("utf-16-le")),
    "UTF-7": Case(422, "{+ACI-amount+ACI-: 1}".encode("ascii")),
    "EBCDIC": Case(422, '{"amount": 1}'.encode("cp037")),
    "SQL in a customer": Case(200, _json({"amount": 1, "customer_id": "'; DROP TABLE decisions; --"})),
    "a template in a customer": Case(200, _json({"amount": 1, "customer_id": "{{7*7}}${jndi:ldap://127.0.0.1/a}"})),
    "a format in a customer": Case(200, _json({"amount": 1, "customer_id": "%s%s%n{0.__class__}"})),
    "a path as a customer": Case(200, _json({"amount": 1, "customer_id": "../../etc/passwd"})),
    "a prototype": Case(422, b'{"amount": 1, "__proto__": {"admin": true}}'),
    "a constructor among attributes": Case(200, b'{"amount": 1, "attributes": {"__class__": "a", "constructor": 1}}'),
    "an attribute called like a feature": Case(200, b'{"amount": 1, "attributes": {"amount": 5, "is_night": 1}}'),
    "amount under both names": Case(422, b'{"amount": 1, "Amount": 2}'),
    "two customers": Case(422, b'{"amount": 1, "customer_id": "a", "nameOrig": "b"}'),
    "both times": Case(422, b'{"amount": 1, "step": 1, "timestamp": "2026-01-01T00:00:00Z"}'),
    "a time of year 0": Case(422, b'{"amount": 1, "timestamp": "0000-01-01T00:00:00Z"}'),
    "a time of year 10000": Case(422, b'{"amount": 1, "timestamp": "10000-01-01T00:00:00Z"}'),
    "a time far ahead": Case(422, b'{"amount": 1, "timestamp": "9999-12-31T23:59:59Z"}'),
    "a time before 1970": Case(422, b'{"amount": 1, "timestamp": "1969-12-31T23:59:59Z"}'),
    "a time of digits of another script": Case(422, _json({"amount": 1, "timestamp": "\u0662\u0660" * 10})),
    "a time as a number": Case(422, b'{"amount": 1, "timestamp": 1770000000}'),
    "a second that does not exist": Case(422, b'{"amount": 1, "timestamp": "2026-02-30T10:00:61Z"}'),
    "an offset of days": Case(422, b'{"amount": 1, "timestamp": "2026-01-01T00:00:00+99:99"}'),
    "a step of a million years": Case(422, b'{"amount": 1, "step": 9007199254740993}'),
    "a type in lower case": Case(422, b'{"amount": 1, "type": "transfer"}'),
    "a type of another script": Case(422, _json({"amount": 1, "type": "PAYM\u0415NT"})),
    "a latitude that is none": Case(422, b'{"amount": 1, "lat": 1e400, "long": 0}'),
    "an id of a megabyte": Case(413, _json({"amount": 1, "transaction_id": CANARY * 65_536})),
    "an id of 65 characters": Case(422, _json({"amount": 1, "transaction_id": "a" * 65})),
    "a delete character in an id": Case(422, b'{"amount": 1, "transaction_id": "a\\u007f"}'),
    "a thousand attributes": Case(422, _json({"amount": 1, "attributes": {f"{CANARY}{i}": 1 for i in range(1_000)}})),
    "an attribute's name of 65 characters": Case(422, _json({"amount": 1, "attributes": {"n" * 65: 1}})),
    "an attribute of 257 characters": Case(422, _json({"amount": 1, "attributes": {"n": "v" * 257}})),
    "a card number where a number belongs": Case(422, _json({"amount": int(CARD)})),
    "a card number as a type": Case(422, _json({"amount": 1, "type": CARD})),
    "a card number as a currency": Case(422, _json({"amount": 1, "currency": CARD})),
    "a card number as a step": Case(422, _json({"amount": 1, "step": int(CARD)})),
    "a card number as a time": Case(422, _json({"amount": 1, "timestamp": CARD})),
    "a card number as a name": Case(422, _json({"amount": 1, CARD: 1})),
    "a card number as a place": Case(422, _json({"amount": 1, "lat": int(CARD)})),
    "a card number and nothing more": Case(422, CARD.encode()),
    "gzip": Case(422, gzip.compress(FINE), headers=(JSON, (b"content-encoding", b"gzip"))),
    "a gzip bomb of 50 MB": Case(422, _BOMB, headers=(JSON, (b"content-encoding", b"gzip"))),
    "a gzip bomb without saying so": Case(422, _BOMB),
    "deflate": Case(422, zlib.compress(FINE), headers=(JSON, (b"content-encoding", b"deflate"))),
    "a gzip bomb for a batch": Case(422, _BOMB, "/predict/batch", headers=(JSON, (b"content-encoding", b"gzip"))),
}

HEADERS: dict[str, Case] = {
    "no content type": Case(200, FINE, headers=()),
    "an image": Case(200, FINE, headers=((b"content-type", b"image/png"),)),
    "a form with files": Case(
        422, b"--x\r\n\r\n" + CARD.encode(), headers=((b"content-type", b"multipart/form-data; boundary=x"),)
    ),
    "a form": Case(
        422, b"amount=1&card=" + CARD.encode(), headers=((b"content-type", b"application/x-www-form-urlencoded"),)
    ),
    "a charset that does not exist": Case(
        200, FINE, headers=((b"content-type", b"application/json; charset=klingon"),)
    ),
    "a content type of 8 kB": Case(200, FINE, headers=((b"content-type", b"a/" + b"b" * 8_000),)),
    "a content type of every byte": Case(200, FINE, headers=((b"content-type", bytes(range(0xA0, 0x100))),)),
    "an encoding that does not exist": Case(200, FINE, headers=(JSON, (b"content-encoding", b"Canary-7731-word"))),
    "a card number as a request id": Case(200, FINE, headers=(JSON, (b"x-request-id", CARD.encode()))),
    "a card number within a request id": Case(
        404, b"", "/nowhere", headers=((b"x-request-id", b"order-" + CARD.encode()),)
    ),
    "a request id of markup": Case(200, FINE, headers=(JSON, (b"x-request-id", b"<script>Canary-7731-word</script>"))),
    "a request id of 8 kB": Case(200, FINE, headers=(JSON, (b"x-request-id", CANARY.encode() * 500))),
    "two request ids": Case(200, FINE, headers=(JSON, (b"x-request-id", b"<a>"), (b"x-request-id", b"<b>"))),
    "bytes beyond ASCII in a header": Case(200, FINE, headers=(JSON, (b"x-other", bytes(range(0x80, 0x100))))),
    "a hundred headers": Case(200, FINE, headers=(JSON, *((b"x-h%d" % i, CANARY.encode()) for i in range(90)))),
    "headers of 50 kB": Case(200, FINE, headers=(JSON, *((b"x-h%d" % i, b"c" * 2_000) for i in range(25)))),
    "a cookie of a card number": Case(200, FINE, headers=(JSON, (b"cookie", b"card=" + CARD.encode()))),
    "an agent of a card number": Case(200, FINE, headers=(JSON, (b"user-agent", CARD.encode()))),
    "a referer of a card number": Case(
        200, FINE, headers=(JSON, (b"referer", b"http://localhost/?card=" + CARD.encode()))
    ),
    "a trace of a card number": Case(200, FINE, headers=(JSON, (b"traceparent", b"00-" + CARD.encode() + b"-1-01"))),
    "another method by header": Case(200, FINE, headers=(JSON, (b"x-http-method-override", b"DELETE"))),
    "a range": Case(200, b"", "/health", method="GET", headers=((b"range", b"bytes=0-,0-,0-,0-,0-"),)),
    "an expectation": Case(200, FINE, headers=(JSON, (b"expect", b"Canary-7731-word"))),
    "a condition": Case(200, b"", "/health", method="GET", headers=((b"if-none-match", b"*"),)),
    "an accept that nothing meets": Case(200, FINE, headers=(JSON, (b"accept", b"Canary-7731-word/xml;q=nan"))),
    "a foreign origin": Case(401, FINE, headers=(JSON, (b"origin", b"https://Canary-7731-word.example"))),
    "an origin that is no URL": Case(401, FINE, headers=(JSON, (b"origin", b"http://[::1"))),
    "a forwarded address": Case(401, FINE, headers=(JSON, (b"x-forwarded-for", b"127.0.0.1, Canary-7731-word"))),
}

ADDRESSES: dict[str, Case] = {
    "a path that climbs": Case(404, path="/../../etc/passwd", method="GET", headers=()),
    "a path that climbs in escapes": Case(404, path="/%2e%2e/%2e%2e/etc/passwd", method="GET", headers=()),
    "a path of a null byte": Case(404, path="/%00Canary-7731-word", method="GET", headers=()),
    "a path that is no UTF-8": Case(404, path="/%ff%fe", method="GET", headers=()),
    "a path of 4 kB": Case(404, path="/" + CANARY * 250, method="GET", headers=()),
    "a card number as a path": Case(404, path="/" + CARD, method="GET", headers=()),
    "slashes": Case(404, path="//predict//", headers=()),
    "a slash too many": Case(404, FINE, path="/predict/"),
    "capital letters": Case(404, FINE, path="/PREDICT"),
    "the environment": Case(404, path="/.env", method="GET", headers=()),
    "a transaction that is a card number": Case(404, path="/transactions/" + CARD, method="GET", headers=()),
    "a transaction of half a surrogate": Case(404, path="/transactions/%ED%A0%80", method="GET", headers=()),
    "a transaction of line breaks": Case(404, path="/transactions/a%0d%0aX-Evil:%201", method="GET", headers=()),
    "a party that is a card number": Case(404, path="/parties/" + CARD, method="GET", headers=()),
    "a party of 65 characters": Case(404, path="/parties/" + "a" * 65, method="GET", headers=()),
    "a party of a null byte": Case(404, path="/parties/%00", method="GET", headers=()),
    "a party that is no UTF-8": Case(404, path="/parties/%ff", method="GET", headers=()),
    "a query of a card number": Case(
        422, path="/transactions", query=b"card=" + CARD.encode(), method="GET", headers=()
    ),
    "a query of ten thousand names": Case(
        422, path="/transactions", query=b"&".join(b"c%d=1" % i for i in range(4_000)), method="GET", headers=()
    ),
    "a limit of 5,000 digits": Case(
        422, path="/transactions", query=b"limit=" + b"9" * 5_000, method="GET", headers=()
    ),
    "a limit of underscores": Case(422, path="/transactions", query=b"limit=1_0", method="GET", headers=()),
    "a limit of another script": Case(422, path="/transactions", query=b"limit=%D9%A1", method="GET", headers=()),
    "a probability that is none": Case(
        422, path="/transactions", query=b"min_probability=nan", method="GET", headers=()
    ),
    "a probability beyond one": Case(
        422, path="/transactions", query=b"min_probability=1e308", method="GET", headers=()
    ),
    "a cursor of nonsense": Case(422, path="/transactions", query=b"cursor=Canary-7731-word", method="GET", headers=()),
    "a cursor of deep lists": Case(
        422, path="/transactions", query=b"cursor=" + b"W1tb" * 1_000, method="GET", headers=()
    ),
    "a time of nonsense": Case(422, path="/transactions", query=b"since=" + CARD.encode(), method="GET", headers=()),
    "an outcome of nonsense": Case(
        422, path="/transactions", query=b"outcome=" + CARD.encode(), method="GET", headers=()
    ),
    "a query of bytes beyond ASCII": Case(
        422, path="/transactions", query=b"limit=\xd9\xa1", method="GET", headers=(), server=400
    ),
    "a query that is no UTF-8": Case(
        422, path="/transactions", query=b"customer_id=%ff&%fe=1", method="GET", headers=()
    ),
    "a summary of all time": Case(422, path="/summary", query=b"since=1970-01-01T00:00:00Z", method="GET", headers=()),
    "drift of nonsense": Case(422, path="/drift", query=b"days=Canary-7731-word", method="GET", headers=()),
    "explain of a card number": Case(422, FINE, query=b"explain=" + CARD.encode()),
    "PUT": Case(405, FINE, method="PUT"),
    "DELETE a transaction": Case(405, path="/transactions/" + CARD, method="DELETE", headers=()),
    "TRACE": Case(405, FINE, method="TRACE"),
    "CONNECT": Case(405, FINE, method="CONNECT"),
    "a method of our own": Case(405, FINE, method="CANARY7731"),
    "a body on GET": Case(200, CARD.encode(), path="/health", method="GET"),
}

_FEEDBACK = {"transaction_id": "none-such", "label": "fraud", "source": "analyst"}
OTHER_BODIES: dict[str, Case] = {
    "batch: nothing": Case(422, b"", "/predict/batch"),
    "batch: no list": Case(422, b'{"transactions": {"Canary-7731-word": 1}}', "/predict/batch"),
    "batch: empty": Case(422, b'{"transactions": []}', "/predict/batch"),
    "batch: one too many": Case(422, _json({"transactions": [{"amount": 1}] * 1_001}), "/predict/batch"),
    "batch: a name beside": Case(422, _json({"transactions": [{"amount": 1}], CARD: 1}), "/predict/batch"),
    "batch: a million objects": Case(413, b'{"transactions":[' + b"{}," * 1_000_000 + b"{}]}", "/predict/batch"),
    "batch: the same name twice": Case(422, b'{"transactions":[{"amount":1}],"transactions":[]}', "/predict/batch"),
    "feedback: nothing": Case(422, b"", "/feedback"),
    "feedback: a card number as the id of no one": Case(404, _json({**_FEEDBACK, "transaction_id": CARD}), "/feedback"),
    "feedback: a card number as the label": Case(422, _json({**_FEEDBACK, "label": CARD}), "/feedback"),
    "feedback: a card number as the source": Case(422, _json({**_FEEDBACK, "source": CARD}), "/feedback"),
    "feedback: a card number as the time": Case(422, _json({**_FEEDBACK, "time": CARD}), "/feedback"),
    "feedback: a card number as a name": Case(422, _json({**_FEEDBACK, CARD: 1}), "/feedback"),
    "feedback: a note of a megabyte": Case(413, _json({**_FEEDBACK, "note": CANARY * 65_536}), "/feedback"),
    "feedback: a note of half a surrogate": Case(
        422, b'{"transaction_id":"a","label":"fraud","source":"analyst","note":"\\ud800"}', "/feedback"
    ),
    "feedback: deep lists": Case(422, b"[" * 8_000, "/feedback"),
    "rules: nothing": Case(422, b"", "/rules/check"),
    "rules: a list": Case(422, b"[]", "/rules/check"),
    "rules: a text of a card number": Case(422, _json({"rules": 1, CARD: CARD}), "/rules/check"),
    "rules: deep lists": Case(422, b"[" * 50_000, "/rules/check"),
    "back-test: nothing": Case(422, b"", "/backtest"),
    "back-test: a card number for a threshold": Case(
        422, _json({"thresholds": {"review": int(CARD), "decline": 1}}), "/backtest"
    ),
    "back-test: a number that is none": Case(422, b'{"thresholds": {"review": NaN, "decline": 1}}', "/backtest"),
    "back-test: a time of a card number": Case(422, _json({"since": CARD}), "/backtest"),
}

CASES: dict[str, Case] = {**BODIES, **HEADERS, **ADDRESSES, **OTHER_BODIES}
#: Lower-cased, as what must not be seen again is looked for.
UNSEEN = (CANARY.lower(), CARD, "x-evil", "7731-word")
