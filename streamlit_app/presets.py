"""Examples to start from: five scenarios of ours, test inputs, and the payloads of five other fraud APIs as they stand.

An example is a function of a fresh suffix and the present time, because each use needs a customer without history:
then a second click shows the same verdict.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Preset:
    """``build(suffix, now)`` makes the request; ``story`` says in a sentence or two what happens and what to look for.

    ``name`` is unique. ``icon`` is a Material icon's name; ``foreign`` marks field names of another API.
    """

    name: str
    icon: str
    story: str
    build: Callable[[str, datetime], Body]
    foreign: bool = False


def yesterday(now: datetime, clock: str) -> str:
    """Yesterday in UTC at ``clock`` (``HH:MM:SS``), RFC 3339: never in the future, whenever it is used."""
    return f"{(now.astimezone(UTC) - timedelta(days=1)).date().isoformat()}T{clock}Z"


def _coffee(suffix: str, now: datetime) -> Body:
    return {
        "amount": 4.2,
        "currency": "USD",
        "type": "PAYMENT",
        "customer_id": f"C-{suffix}",
        "counterparty_id": "M-corner-coffee",
        "device_id": f"D-{suffix}",
        "oldbalanceOrg": 1250.0,
        "newbalanceOrig": 1245.8,
        "timestamp": yesterday(now, "08:40:00"),
        "lat": 40.7128,
        "long": -74.006,
    }


def _drain(suffix: str, now: datetime) -> Body:
    return {
        "amount": 181000.0,
        "currency": "USD",
        "type": "TRANSFER",
        "customer_id": f"C-{suffix}",
        "counterparty_id": f"C-mule-{suffix}",
        "oldbalanceOrg": 181000.0,
        "newbalanceOrig": 0.0,
        "oldbalanceDest": 0.0,
        "newbalanceDest": 0.0,
        "timestamp": yesterday(now, "14:05:00"),
    }


def _night(suffix: str, now: datetime) -> Body:
    return {
        "amount": 4500.0,
        "currency": "USD",
        "type": "PAYMENT",
        "customer_id": f"C-{suffix}",
        "counterparty_id": "M-crypto-kiosk",
        "device_id": f"D-{suffix}",
        "oldbalanceOrg": 5120.0,
        "timestamp": yesterday(now, "02:30:00"),
        "lat": 40.7306,
        "long": -73.9866,
    }


def _far(suffix: str, now: datetime) -> Body:
    return {
        "amount": 1890.0,
        "currency": "USD",
        "type": "PAYMENT",
        "customer_id": f"C-{suffix}",
        "counterparty_id": "M-electronics-harbour",
        "device_id": f"D-new-{suffix}",
        "oldbalanceOrg": 2400.0,
        "timestamp": yesterday(now, "11:15:00"),
        "lat": -33.8688,
        "long": 151.2093,
    }


def _probe(suffix: str, now: datetime) -> Body:
    return {
        "amount": 1.0,
        "currency": "USD",
        "type": "PAYMENT",
        "customer_id": f"C-{suffix}",
        "counterparty_id": "M-donations-online",
        "device_id": f"D-new-{suffix}",
        "timestamp": yesterday(now, "03:12:00"),
    }


def _paysim_row(suffix: str, now: datetime) -> Body:
    return {
        "step": 1,
        "type": "TRANSFER",
        "amount": 181.0,
        "nameOrig": f"C1305486145-{suffix}",
        "oldbalanceOrg": 181.0,
        "newbalanceOrig": 0.0,
        "nameDest": "C553264065",
        "oldbalanceDest": 0.0,
        "newbalanceDest": 0.0,
    }


def _card(customer: str, merchant: str, timestamp: str, amount: float, lat: float, long: float) -> Preset:
    """One of the seven card payloads (customer, merchant, place) of the feature-store system."""

    def build(suffix: str, now: datetime) -> Body:
        return {
            "timestamp": timestamp,
            "customer_id": f"{customer}-{suffix}",
            "merchant_id": merchant,
            "amount": amount,
            "lat": lat,
            "long": long,
        }

    expected = "fraud" if amount >= 4500 else "legitimate"
    return Preset(
        f"Card · {merchant} {amount:,.2f} at {timestamp[11:16]}",
        "storefront",
        f"A card payment with place and merchant. Where it comes from it counts as {expected}, for a known customer.",
        build,
        foreign=True,
    )


SCENARIOS: tuple[Preset, ...] = (
    Preset(
        "Morning coffee",
        "local_cafe",
        "A small payment in the morning at a shop near home: the kind of transaction that should never be held up.",
        _coffee,
    ),
    Preset(
        "Account drain",
        "move_up",
        "Everything the customer has, moved by TRANSFER to an account that was empty. "
        "The amount equals the balance before: the mark of a takeover.",
        _drain,
    ),
    Preset(
        "Night spree",
        "dark_mode",
        "A large purchase at 02:30, with most of the balance. Look at the rules that fire beside the model's score.",
        _night,
    ),
    Preset(
        "Far place",
        "travel_explore",
        "An expensive purchase on the other side of the world, from a device not seen before.",
        _far,
    ),
    Preset(
        "Card testing",
        "credit_card",
        "A one-dollar probe of a stolen card number at night. Alone it looks harmless; a burst of them is not.",
        _probe,
    ),
)

PAYLOADS: tuple[Preset, ...] = (
    Preset(
        "PaySim row · TRANSFER of the whole balance",
        "table_rows",
        "A row of the public PaySim file with its own column names (a fraud there); `step` stands for the time.",
        _paysim_row,
        foreign=True,
    ),
    Preset(
        "Balances only · 123.45",
        "account_balance",
        "An amount and two balances, nothing else: what is absent is missing, never zero.",
        lambda suffix, now: {"amount": 123.45, "oldbalanceOrg": 1000, "newbalanceOrig": 876.55},
        foreign=True,
    ),
    Preset(
        "Balances only · 112.00 from 100.00",
        "account_balance",
        "More is paid than the account held.",
        lambda suffix, now: {"amount": 112.00, "oldbalanceOrg": 100.00, "newbalanceOrig": 0.00},
        foreign=True,
    ),
    Preset(
        "Anonymised card row · V1, V2, V3",
        "key_visualizer",
        "Anonymised columns at the top level: recorded, and scored where the model declares them.",
        lambda suffix, now: {"Time": 0, "V1": -1.36, "V2": -0.07, "V3": 2.54, "Amount": 149.62},
        foreign=True,
    ),
    _card("C777777", "Grocery", "2026-02-06T10:00:00", 400, 12.9, 77.6),
    _card("C100002", "Amazon", "2026-02-06T16:10:00", 1200, 13.0, 77.5),
    _card("C_TEST_02", "M_TEST_02", "2023-10-27T12:05:00", 25.50, 40.71, -74.00),
    _card("C100004", "Crypto", "2026-02-06T02:30:00", 4500, 13.1, 77.6),
    _card("C000010", "Electronics", "2026-02-05T02:10:00", 12000, 41.5, 120.2),
    _card("C999999", "M_SCAM", "2023-10-27T10:00:00", 9000.0, 45.0, 45.0),
    _card("C_TEST_01", "M_TEST_01", "2023-10-27T12:00:00", 5500.00, 40.71, -74.00),
)


def _forcing(outcome: str, icon: str, story: str) -> Preset:
    """A test input: the id forces what is answered, the rest is the morning's coffee."""

    def build(suffix: str, now: datetime) -> Body:
        return {**_coffee(suffix, now), "transaction_id": f"test-{outcome}-{suffix}"}

    return Preset(f"Test input · {outcome}", icon, story, build)


TEST_INPUTS: tuple[Preset, ...] = (
    _forcing(
        "approve", "science", "The id forces approve, whatever the score: to try an integration against any model."
    ),
    _forcing("review", "science", "The id forces review, whatever the score: to try an integration against any model."),
    _forcing(
        "decline", "science", "The id forces decline, whatever the score: to try an integration against any model."
    ),
    _forcing("degraded", "science", "Judged as if there were neither model nor history: what a bad day looks like."),
)

ALL: dict[str, Preset] = {preset.name: preset for preset in (*SCENARIOS, *TEST_INPUTS, *PAYLOADS)}
