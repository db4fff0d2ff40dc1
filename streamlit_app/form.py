"""The score page's form as data: from a request to the form's values and back, and JSON as it is typed.

The form speaks the API's own field names. Values are what Streamlit's widgets hold: a number or None, a text.
"""

import json
from collections.abc import Mapping
from typing import Any

TYPES = ("PAYMENT", "TRANSFER", "CASH_OUT", "CASH_IN", "DEBIT")
BALANCES = ("oldbalanceOrg", "newbalanceOrig", "oldbalanceDest", "newbalanceDest")
NUMBERS = ("amount", *BALANCES, "lat", "long")
TEXTS = ("currency", "transaction_id", "timestamp", "customer_id", "counterparty_id", "device_id")
#: Every form field in the order in which it is sent.
FIELDS = (
    "amount",
    "currency",
    "type",
    "transaction_id",
    "timestamp",
    "step",
    "customer_id",
    "counterparty_id",
    "device_id",
    *BALANCES,
    "lat",
    "long",
    "attributes",
)
_OTHER_NAMES = {
    "Amount": "amount",
    "nameOrig": "customer_id",
    "nameDest": "counterparty_id",
    "merchant_id": "counterparty_id",
}
_CARD_COLUMNS = frozenset({"Time", *(f"V{number}" for number in range(1, 29))})


def values_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """The form's values for a request; other APIs' names become ours. Every field is there, absent ones empty."""
    values: dict[str, Any] = {name: "" if name in (*TEXTS, "attributes") else None for name in FIELDS}
    attributes: dict[str, Any] = dict(body.get("attributes", {}))
    for key, value in body.items():
        name = _OTHER_NAMES.get(key, key)
        if key in _CARD_COLUMNS:
            attributes[key] = value
        elif name in NUMBERS:
            values[name] = float(value)
        elif name in values and name != "attributes":
            values[name] = value
    values["attributes"] = "\n".join(f"{name} = {_shown(value)}" for name, value in attributes.items())
    return values


def body_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """The request for the form's values: what is empty is left out, because absent is missing and never zero."""
    body: dict[str, Any] = {}
    for name in FIELDS:
        value = values.get(name)
        if isinstance(value, str):
            value = value.strip()
        if value is None or value == "":
            continue
        body[name] = _attributes(value) if name == "attributes" else value
    return body


def pretty(body: Mapping[str, Any]) -> str:
    return json.dumps(body, indent=2, ensure_ascii=False)


def read_json(text: str) -> dict[str, Any]:
    """The JSON object in ``text``. Raises ``ValueError`` with one line that says where it goes wrong."""
    try:
        body = json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise ValueError(f"This is not JSON: {error.msg}, line {error.lineno}, column {error.colno}.") from None
    except RecursionError:
        raise ValueError("This is not JSON that an API takes: it is nested too deeply.") from None
    if not isinstance(body, dict):
        raise ValueError("A transaction is a JSON object: it begins with { and ends with }.")
    return body


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON: leave the field out when it is not known.")


def _attributes(text: str) -> dict[str, float | int | str]:
    """``name = value`` a line; a value that is a JSON number is one, one in double quotes is the text inside."""
    attributes: dict[str, float | int | str] = {}
    for line in text.splitlines():
        name, _, value = line.partition("=")
        if name.strip():
            attributes[name.strip()] = _value(value.strip())
    return attributes


def _value(text: str) -> float | int | str:
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, int | float | str) and not isinstance(value, bool) else text


def _shown(value: Any) -> str:
    """``value`` as a line shows it: quotes only where it would be read as something else without them."""
    if isinstance(value, str):
        plain = value == value.strip() and "\n" not in value and _value(value) == value
        return value if plain else json.dumps(value)
    return json.dumps(value)
