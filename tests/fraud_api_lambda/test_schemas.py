"""The boundary: what is accepted, what is refused and how it is told, and the one conversion to our own terms."""

import contextlib
import json
import math
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraud_api_lambda import schemas
from fraud_api_lambda.errors import InvalidRequest, RequestTooLarge
from fraud_api_lambda.schemas import (
    CARD_COLUMNS,
    HOUR_MS,
    MAX_BATCH,
    PAYSIM_START_MS,
    Event,
    RateTable,
    Transaction,
    parse_batch,
    parse_json,
    parse_transaction,
    rfc3339,
    to_event,
    to_minor,
)
from tests.fraud_api_lambda.payloads import ALL, CANARY, HOSTILE

USD = RateTable("USD", 2)
NOW = int(datetime(2026, 6, 1, tzinfo=UTC).timestamp() * 1000)
BALANCES = ("oldbalance_orig", "newbalance_orig", "oldbalance_dest", "newbalance_dest")


def event_of(data: dict[str, Any], rates: RateTable = USD, now: int = NOW) -> Event:
    return to_event(parse_transaction(parse_json(json.dumps(data).encode())), rates, now)


def refused(data: Any, **more: Any) -> dict[str, str]:
    """The fields that are told to be wrong, with their messages."""
    with pytest.raises(InvalidRequest) as caught:
        event_of(data, **more)
    assert caught.value.errors
    return {error.field: error.message for error in caught.value.errors}


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)


# --- payloads of other APIs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("payload", ALL, ids=lambda payload: ",".join(payload)[:40])
def test_payloads_of_other_fraud_apis_are_accepted_as_they_stand(payload: dict[str, Any]) -> None:
    event = event_of(payload)
    assert event.amount == payload.get("amount", payload.get("Amount"))
    assert event.customer_id == payload.get("customer_id", payload.get("nameOrig"))
    assert event.counterparty_id == payload.get("merchant_id", payload.get("nameDest"))


@pytest.mark.parametrize("payload", ALL, ids=lambda payload: ",".join(payload)[:40])
def test_a_balance_that_was_not_sent_is_missing_and_one_of_zero_is_zero(payload: dict[str, Any]) -> None:
    event = event_of(payload)
    sent = ("oldbalanceOrg", "newbalanceOrig", "oldbalanceDest", "newbalanceDest")
    for name, theirs in zip(BALANCES, sent, strict=True):
        value = getattr(event, name)
        if theirs in payload:
            assert value == round(payload[theirs] * 100)
        else:
            assert math.isnan(value)
    for name in ("lat", "long"):
        assert getattr(event, name) == payload[name] if name in payload else math.isnan(getattr(event, name))


def test_only_the_amount_is_needed_and_everything_else_is_missing() -> None:
    event = event_of({"amount": 0})
    assert (event.amount_minor, event.type_code, event.currency, event.time_ms) == (0, -1, "USD", NOW)
    assert event.customer_id is event.counterparty_id is event.device_id is None
    assert all(math.isnan(getattr(event, name)) for name in (*BALANCES, "lat", "long"))
    assert dict(event.attributes) == {}


def test_null_is_as_good_as_absent_except_for_the_amount() -> None:
    data = dict.fromkeys(Transaction.model_fields) | {"amount": 5, "transaction_id": "t"}
    absent, null = event_of({"amount": 5, "transaction_id": "t"}), event_of(data)
    for field in fields(Event):
        left, right = getattr(absent, field.name), getattr(null, field.name)
        assert left == right or (left != left and right != right), field.name
    assert refused({"amount": None}) == {"amount": "must be a number"}


@pytest.mark.parametrize(
    ("theirs", "ours", "value"),
    [
        ("Amount", "amount", 12.5),
        ("nameOrig", "customer_id", "C1"),
        ("nameDest", "counterparty_id", "C2"),
        ("merchant_id", "counterparty_id", "M1"),
    ],
)
def test_another_name_is_accepted_and_both_at_once_are_refused(theirs: str, ours: str, value: object) -> None:
    rest = {} if ours == "amount" else {"amount": 1}
    assert getattr(parse_transaction({**rest, theirs: value}), ours) == value
    for both in ({**rest, theirs: value, ours: value}, {**rest, ours: value, theirs: value}):
        assert refused(both) == {theirs: f"is another name of {ours}: send one of them"}


def test_of_two_other_names_for_one_thing_the_second_is_refused() -> None:
    message = "is another name of counterparty_id: send one of them"
    assert refused({"amount": 1, "nameDest": "a", "merchant_id": "b"}) == {"merchant_id": message}
    assert refused({"amount": 1, "merchant_id": "b", "nameDest": "a"}) == {"nameDest": message}


def test_card_columns_at_the_top_level_become_attributes_in_the_order_they_were_sent() -> None:
    sent = {f"V{i}": float(i) for i in range(28, 0, -1)} | {"Time": 7.0}
    event = event_of({"amount": 1, **sent, "attributes": {"mine": "x"}})
    assert list(event.attributes.items()) == [("mine", "x"), *sent.items()]
    assert set(sent) == CARD_COLUMNS


def test_a_card_column_sent_at_both_places_is_refused() -> None:
    assert refused({"amount": 1, "V1": 1, "attributes": {"V1": 1}}) == {"V1": "is sent twice"}


def test_attributes_may_be_null_beside_card_columns() -> None:
    assert dict(event_of({"amount": 1, "V1": 1, "attributes": None}).attributes) == {"V1": 1.0}


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_body_is_refused_with_a_message_that_repeats_nothing(name: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        to_event(parse_transaction(parse_json(HOSTILE[name])), USD, NOW)
    told = " ".join([caught.value.detail, *(f"{e.field} {e.message}" for e in caught.value.errors)])
    for canary in (CANARY, "canary", "4111111111111111", "7731", "ZZZ"):
        assert canary not in told
    assert 1 <= len(caught.value.errors) <= 20


def test_nesting_of_a_hundred_thousand_levels_is_refused() -> None:
    for body in (b"[" * 100_000, b'{"a":' * 100_000, b"[" * 100_000 + b"]" * 100_000):
        with pytest.raises(InvalidRequest):
            parse_json(body)


@pytest.mark.parametrize(
    ("data", "field", "message"),
    [
        ({}, "amount", "is required"),
        ({"amount": "1"}, "amount", "must be a number"),
        ({"amount": True}, "amount", "must be a number"),
        ({"amount": -1}, "amount", "must be at least 0.0"),
        ({"amount": 1e9 + 1}, "amount", "must be at most 1000000000.0"),
        ({"amount": 1, "type": "REFUND"}, "type", "must be one of 'PAYMENT', 'TRANSFER', 'CASH_OUT', "),
        ({"amount": 1, "step": 1.5}, "step", "must be a whole number"),
        ({"amount": 1, "currency": "euro"}, "currency", "must be three capital letters (ISO 4217)"),
        ({"amount": 1, "transaction_id": "ü"}, "transaction_id", "must be 1 to 64 printable ASCII characters"),
        ({"amount": 1, "customer_id": "x" * 65}, "customer_id", "must have at most 64 characters"),
        ({"amount": 1, "customer_id": 5}, "customer_id", "must be text"),
        ({"amount": 1, "attributes": 5}, "attributes", "must be an object"),
        ({"amount": 1, "attributes": {"age": True}}, "attributes.age", "must be a number or text"),
        ({"amount": 1, "attributes": {"age": None}}, "attributes.age", "must be a number or text"),
    ],
)
def test_what_is_wrong_is_told_by_field(data: dict[str, Any], field: str, message: str) -> None:
    found = refused(data)
    assert list(found) == [field]
    assert found[field].startswith(message)


@pytest.mark.parametrize(
    ("sent", "value"),
    [("Amount", -1), ("nameOrig", 5), ("nameDest", ""), ("merchant_id", "x" * 65), ("V1", None), ("Time", [1])],
)
def test_what_is_wrong_is_told_under_the_name_that_was_sent(sent: str, value: object) -> None:
    data = {sent: value} if sent == "Amount" else {"amount": 1, sent: value}
    assert list(refused(data)) == [sent]


def test_everything_that_is_wrong_is_told_at_once() -> None:
    assert set(refused({"amount": -1, "lat": 91, "type": "X", "device_id": ""})) == {
        "amount",
        "lat",
        "type",
        "device_id",
    }


@pytest.mark.parametrize(
    ("written", "nearest"),
    [
        ("amonut", "amount"),
        ("ammount", "amount"),
        ("oldBalanceOrg", "oldbalanceOrg"),
        ("oldbalanceOrig", "oldbalanceOrg"),
        ("customerId", "customer_id"),
        ("merchantid", "merchant_id"),
        ("time_stamp", "timestamp"),
        ("namedest", "nameDest"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_choice(written: str, nearest: str) -> None:
    found = refused({"amount": 1, written: 1})
    assert list(found) == [written]
    assert found[written].startswith(f"is not a known field. Did you mean {nearest}?")


def test_an_unknown_name_near_to_nothing_points_to_attributes() -> None:
    assert refused({"amount": 1, "ip": "::1"}) == {"ip": "is not a known field. Your own columns go in attributes"}


@pytest.mark.parametrize("label", ["isFraud", "isFlaggedFraud", "Class", "is_fraud"])
def test_a_label_of_a_data_set_is_sent_to_feedback_and_not_into_attributes(label: str) -> None:
    assert refused({"amount": 1, label: 1}) == {label: "is a label, not part of a transaction: POST /feedback takes it"}


@pytest.mark.parametrize(
    "body",
    [
        b'{"amount": 1, "amount": 1}',
        b'{"amount": 1, "attributes": {"a": 1, "a": 1}}',
        b'[{"a": 1}, {"b": 1, "b": 2}]',
        b'{"amount": 1, "\\u0061mount": 2}',
    ],
)
def test_a_name_that_stands_twice_in_one_object_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="twice"):
        parse_json(body)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(-1e6, 1e6) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity", "nan", "undefined", "01", "+1", ".5", "1.", "0x1"])
def test_words_that_are_not_json_are_refused_wherever_they_stand(word: str) -> None:
    for body in (word, f"[{word}]", f'{{"attributes": {{"a": {word}}}}}'):
        with pytest.raises(InvalidRequest):
            parse_json(body.encode())


@given(JSON)
def test_json_is_read_as_the_standard_library_reads_it(data: Any) -> None:
    assert parse_json(json.dumps(data).encode()) == data
    assert parse_json(json.dumps(data, ensure_ascii=False).encode()) == data


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_bytes_are_either_json_or_refused(body: bytes) -> None:
    with contextlib.suppress(InvalidRequest):
        assert isinstance(parse_transaction(parse_json(body)), Transaction)


# --- the batch -------------------------------------------------------------------------------------------------------


def test_a_batch_is_a_list_of_still_unchecked_items() -> None:
    assert parse_batch(b'{"transactions": [{"amount": 1}, 7]}') == [{"amount": 1}, 7]


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"{}",
        b'{"transactions": {}}',
        b'{"transactions": null}',
        b'{"transactions": []}',
        b'{"transactions": [{"amount": 1}], "more": 1}',
        b'{"transactions": [1], "transactions": [1]}',
        json.dumps({"transactions": [{}] * (MAX_BATCH + 1)}).encode(),
    ],
)
def test_a_batch_of_another_form_or_size_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        parse_batch(body)


@pytest.mark.parametrize("unit", [b"{}", b"[]", b"1"])
def test_a_batch_of_more_values_than_transactions_can_hold_is_not_parsed(unit: bytes) -> None:
    body = b'{"transactions": [{"attributes": [%s]}]}' % b",".join([unit] * 700_000)
    assert len(body) < 6 * 2**20
    with pytest.raises(RequestTooLarge, match="more than 600,000 values"):
        parse_batch(body)


def test_a_batch_may_use_every_field_and_attribute_of_every_transaction() -> None:
    whole = {**dict.fromkeys(Transaction.model_fields, 1), "attributes": {f"a{i}": 1 for i in range(256)}}
    body = json.dumps({"transactions": [whole] * MAX_BATCH}, separators=(",", ":")).encode()
    assert len(parse_batch(body)) == MAX_BATCH


# --- time ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "utc"),
    [
        ("2026-02-06T02:30:00Z", "2026-02-06T02:30:00+00:00"),
        ("2026-02-06t02:30:00z", "2026-02-06T02:30:00+00:00"),
        ("2026-02-06 02:30:00", "2026-02-06T02:30:00+00:00"),
        ("2026-02-06T02:30:00", "2026-02-06T02:30:00+00:00"),
        ("2026-02-06T02:30:00+05:30", "2026-02-05T21:00:00+00:00"),
        ("2026-02-06T02:30:00-11:00", "2026-02-06T13:30:00+00:00"),
        ("2026-02-06T02:30:00.5Z", "2026-02-06T02:30:00.500+00:00"),
        ("2026-02-06T02:30:00.123456789Z", "2026-02-06T02:30:00.123+00:00"),
        ("1970-01-01T00:00:00Z", "1970-01-01T00:00:00+00:00"),
        ("2024-02-29T12:00:00Z", "2024-02-29T12:00:00+00:00"),
    ],
)
def test_a_timestamp_is_rfc_3339_and_without_an_offset_utc(text: str, utc: str) -> None:
    assert event_of({"amount": 1, "timestamp": text}).time_ms == ms(utc)


@pytest.mark.parametrize(
    "text",
    [
        *("", "now", "2026-02-06", "20260206T023000Z", "2026-02-06T02:30Z", "2026-02-06T02:30:00.Z", "1767225600"),
        *("2026-13-01T00:00:00Z", "2026-02-30T00:00:00Z", "2023-02-29T00:00:00Z", "2026-02-06T25:00:00Z"),
        *("2016-12-31T23:59:60Z", "2026-02-06T02:30:00+24:00", "2026-02-06T02:30:00+0530", "2026-W06-5T00:00:00Z"),
        *("1969-12-31T23:59:59Z", "1970-01-01T00:00:00+00:01", "0001-01-01T00:00:00+10:00", "0000-01-01T00:00:00Z"),
        *("２０２６-02-06T02:30:00Z", " 2026-02-06T02:30:00Z", "2026-02-06T02:30:00Z\n", "9" * 41),
        "9999-12-31T23:59:59-10:00",
    ],
)
def test_a_timestamp_of_another_form_is_refused(text: str) -> None:
    found = refused({"amount": 1, "timestamp": text})
    assert list(found) == ["timestamp"]


@pytest.mark.parametrize(("ahead", "fine"), [(0, True), (300_000, True), (300_001, False), (86_400_000, False)])
def test_a_time_more_than_five_minutes_ahead_is_refused(ahead: int, fine: bool) -> None:
    data = {"amount": 1, "timestamp": rfc3339(NOW + ahead)}
    if fine:
        assert event_of(data).time_ms == NOW + ahead
    else:
        assert refused(data) == {"timestamp": "must not be more than five minutes in the future"}


def test_a_step_is_an_hour_of_paysim() -> None:
    assert event_of({"amount": 1, "step": 1}).time_ms == PAYSIM_START_MS == ms("2023-01-01T00:00:00+00:00")
    assert event_of({"amount": 1, "step": 743}).time_ms == ms("2023-01-31T22:00:00+00:00")


def test_a_step_in_the_future_is_refused_and_so_are_two_times() -> None:
    ahead = (NOW - PAYSIM_START_MS) // HOUR_MS + 2
    assert refused({"amount": 1, "step": ahead}) == {"step": "must not be more than five minutes in the future"}
    both = {"amount": 1, "step": 1, "timestamp": "2023-01-01T00:00:00Z"}
    assert refused(both) == {"step": "send either timestamp or step"}


@given(st.integers(0, ms("2100-01-01T00:00:00+00:00")))
def test_a_time_that_we_wrote_reads_back_as_itself(time_ms: int) -> None:
    assert event_of({"amount": 1, "timestamp": rfc3339(time_ms)}, now=2**53).time_ms == time_ms


# --- money -----------------------------------------------------------------------------------------------------------

DATED = RateTable(
    "EUR",
    2,
    (
        (ms("2025-01-01T00:00:00+00:00"), {"USD": 0.96, "JPY": 0.0061}),
        (ms("2026-01-01T00:00:00+00:00"), {"USD": 0.85, "JPY": 0.0055, "GBP": 1.15}),
    ),
)


@pytest.mark.parametrize(
    ("currency", "moment", "minor"),
    [
        ("EUR", "2025-06-01T00:00:00Z", 10_000),
        (None, "2025-06-01T00:00:00Z", 10_000),
        ("USD", "2025-12-31T23:59:59.999Z", 9_600),
        ("USD", "2026-01-01T00:00:00Z", 8_500),
        ("USD", "1999-01-01T00:00:00Z", 9_600),  # before the first table its rates hold
        ("JPY", "2026-02-01T00:00:00Z", 55),
        ("GBP", "2026-02-01T00:00:00Z", 11_500),
    ],
)
def test_money_is_converted_by_the_rates_of_its_day(currency: str | None, moment: str, minor: int) -> None:
    data = {"amount": 100, "oldbalanceOrg": 100, "newbalanceDest": 200, "timestamp": moment, "currency": currency}
    event = event_of(data, DATED)
    assert event.amount_minor == event.oldbalance_orig == minor
    assert event.newbalance_dest == 2 * minor
    assert (event.amount, event.currency) == (100, currency or "EUR")


def test_a_currency_without_a_rate_is_refused_with_the_choices() -> None:
    told = refused({"amount": 1, "currency": "CHF"}, rates=DATED)
    assert told == {"currency": "no rate is known; choices are: EUR, GBP, JPY, USD"}
    assert refused({"amount": 1, "currency": "EUR"}) == {"currency": "no rate is known; choices are: USD"}
    early = {"amount": 1, "currency": "GBP", "timestamp": "2025-06-01T00:00:00Z"}
    assert list(refused(early, rates=DATED)) == ["currency"]


@pytest.mark.parametrize(("units", "minor"), [(0, 12), (2, 1234), (3, 12345)])
def test_the_minor_unit_is_the_base_currencys(units: int, minor: int) -> None:
    assert event_of({"amount": 12.345}, RateTable("XTS", units)).amount_minor in {minor, minor + 1}
    assert event_of({"amount": 12}, RateTable("XTS", units)).amount_minor == 12 * 10**units


@pytest.mark.parametrize(("value", "cents"), [(0.125, 12), (0.375, 38), (0.005, 0), (0.015, 2), (2.5, 250), (0, 0)])
def test_half_a_cent_goes_to_the_even_cent(value: float, cents: int) -> None:
    assert to_minor(value, 100.0) == cents


@given(
    st.floats(0, 1e12) | st.integers(0, 10**12).map(lambda n: n / 8) | st.integers(0, 10**11).map(lambda n: n / 1000),
    st.sampled_from([1.0, 100.0, 1000.0]) | st.floats(1e-6, 1e6),
)
def test_minor_units_are_what_numpy_rounds_to(value: float, factor: float) -> None:
    assert to_minor(value, factor) == np.rint(value * factor)
    assert float(to_minor(value, factor)).hex() == float(np.rint(np.float64(value) * np.float64(factor))).hex()


# --- ids and the answer ----------------------------------------------------------------------------------------------


def test_a_missing_id_is_generated_and_never_the_same() -> None:
    ids = {event_of({"amount": 1}).transaction_id for _ in range(50)}
    assert len(ids) == 50
    assert all(len(one) == 32 and one.isascii() for one in ids)


@pytest.mark.parametrize("sent", ["order 1", "~", "x" * 64, "<script>", '"'])
def test_an_id_of_printable_ascii_is_kept(sent: str) -> None:
    assert event_of({"amount": 1, "transaction_id": sent}).transaction_id == sent


def test_a_transaction_cannot_be_changed() -> None:
    with pytest.raises(ValueError):
        parse_transaction({"amount": 1}).amount = 2.0


def test_the_decisions_fields_stand_in_the_contracts_order() -> None:
    assert [field.name for field in fields(schemas.Decision)] == [
        *("transaction_id", "fraud_probability", "is_fraud", "prediction", "confidence", "outcome", "decided_by"),
        *("threshold", "thresholds", "rules", "reasons", "explanation", "amount", "currency", "amount_base"),
        *("base_currency", "model_version", "rules_version", "scored_at", "test", "degraded"),
    ]
    assert [field.name for field in fields(schemas.Reason)] == ["code", "feature", "value", "contribution", "text"]
