"""Each feature by examples made by hand, and the same function live and in replay to the bit."""

import json
import math
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraud_api_lambda.errors import BundleRefused, InvalidRequest
from fraud_api_lambda.features import (
    CUSTOMER_AT,
    FEATURES,
    NAMES,
    WIDTH,
    Attribute,
    FeatureSet,
    Floats,
    TimeZone,
    describe,
    fill,
    group_of,
    transaction_features,
)
from fraud_api_lambda.schemas import TYPES, RateTable, parse_json, parse_transaction, rfc3339, to_event
from training import replay
from training.dataset import DataError

USD = RateTable("USD", 2)
NAN = math.nan
FAR = 2**52


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def computed(
    data: dict[str, Any],
    *,
    zone: TimeZone | None = None,
    rates: RateTable = USD,
    attributes: tuple[Attribute, ...] = (),
) -> dict[str, float]:
    """The raw features by name of a transaction as it is sent."""
    features = FeatureSet(attributes=attributes, time_zone=zone or TimeZone(), minor_factor=rates.minor_factor)
    event = to_event(parse_transaction(parse_json(json.dumps(data).encode())), rates, FAR)
    return dict(zip(features.columns, features.compute(event).tolist(), strict=True))


def same(left: float, right: float) -> bool:
    return left == right or (math.isnan(left) and math.isnan(right))


# --- each feature ----------------------------------------------------------------------------------------------------

FULL = {
    "amount": 250.5, "type": "TRANSFER", "timestamp": "2026-02-06T02:30:00Z", "lat": -33.5, "long": 151.25,
    "oldbalanceOrg": 1000.25, "newbalanceOrig": 749.75, "oldbalanceDest": 10, "newbalanceDest": 260.5,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("amount", {}, 250.5),
        ("amount", {"amount": 0}, 0.0),
        ("amount", {"amount": 0.005}, 0.0),
        ("is_transfer", {}, 1.0),
        ("is_payment", {}, 0.0),
        ("is_payment", {"type": "PAYMENT"}, 1.0),
        ("is_cash_out", {"type": "CASH_OUT"}, 1.0),
        ("is_cash_in", {"type": "CASH_IN"}, 1.0),
        ("is_debit", {"type": "DEBIT"}, 1.0),
        ("is_debit", {"type": None}, NAN),
        ("hour_of_day", {}, 2.0),
        ("hour_of_day", {"timestamp": "2026-02-06T23:59:59.999Z"}, 23.0),
        ("day_of_week", {}, 4.0),  # a Friday
        ("day_of_week", {"timestamp": "1970-01-01T00:00:00Z"}, 3.0),
        ("day_of_week", {"timestamp": "2026-02-08T23:59:59Z"}, 6.0),
        ("day_of_week", {"timestamp": "2026-02-09T00:00:00Z"}, 0.0),
        ("is_night", {}, 1.0),
        ("is_night", {"timestamp": "2026-02-06T00:00:00Z"}, 1.0),
        ("is_night", {"timestamp": "2026-02-06T05:59:59.999Z"}, 1.0),
        ("is_night", {"timestamp": "2026-02-06T06:00:00Z"}, 0.0),
        ("is_night", {"timestamp": "2026-02-06T23:59:59Z"}, 0.0),
        ("oldbalance_orig", {}, 1000.25),
        ("oldbalance_orig", {"oldbalanceOrg": 0}, 0.0),
        ("oldbalance_dest", {}, 10.0),
        ("amount_to_balance", {}, 250.5 / 1001.25),
        ("amount_to_balance", {"oldbalanceOrg": 0}, 250.5),
        ("amount_to_balance", {"oldbalanceOrg": None}, NAN),
        ("drains_account", {}, 0.0),
        ("drains_account", {"oldbalanceOrg": 250.5}, 1.0),
        ("drains_account", {"oldbalanceOrg": 250.504}, 1.0),  # the same cents
        ("drains_account", {"oldbalanceOrg": 250.51}, 0.0),
        ("drains_account", {"amount": 0, "oldbalanceOrg": 0}, 0.0),  # nothing was there to drain
        ("drains_account", {"oldbalanceOrg": None}, NAN),
        ("balance_shortfall", {}, 0.0),
        ("balance_shortfall", {"oldbalanceOrg": 250.5}, 0.0),
        ("balance_shortfall", {"oldbalanceOrg": 200}, 50.5),
        ("balance_shortfall", {"oldbalanceOrg": None}, NAN),
        ("dest_was_empty", {}, 0.0),
        ("dest_was_empty", {"oldbalanceDest": 0}, 1.0),
        ("dest_was_empty", {"oldbalanceDest": 0.001}, 1.0),
        ("dest_was_empty", {"oldbalanceDest": None}, NAN),
        ("newbalance_orig", {}, 749.75),
        ("newbalance_dest", {}, 260.5),
        ("balance_error_orig", {}, 0.0),
        ("balance_error_orig", {"newbalanceOrig": 1000.25}, 250.5),
        ("balance_error_orig", {"newbalanceOrig": None}, NAN),
        ("balance_error_orig", {"oldbalanceOrg": None}, NAN),
        ("balance_error_dest", {}, 0.0),
        ("balance_error_dest", {"newbalanceDest": 10}, -250.5),
        ("balance_error_dest", {"newbalanceDest": None}, NAN),
        ("balance_error_dest", {"oldbalanceDest": None}, NAN),
        ("latitude", {}, -33.5),
        ("longitude", {}, 151.25),
    ],
)
def test_a_feature_by_an_example_made_by_hand(name: str, changes: dict[str, Any], expected: float) -> None:
    assert same(computed({**FULL, **changes})[name], expected)


def test_every_feature_has_an_example_above() -> None:
    marks = [mark for mark in test_a_feature_by_an_example_made_by_hand.pytestmark if mark.name == "parametrize"]
    assert {case[0] for case in marks[0].args[1]} == set(NAMES[:CUSTOMER_AT])  # history: test_history_features.py


def test_what_was_not_sent_is_missing_in_every_feature_that_needs_it() -> None:
    row = computed({"amount": 5, "timestamp": "2026-02-06T12:00:00Z"})
    known = {name for name, value in row.items() if not math.isnan(value)}
    assert known == {"amount", "hour_of_day", "day_of_week", "is_night"}


def test_exactly_one_type_is_set() -> None:
    flags = ("is_payment", "is_transfer", "is_cash_out", "is_cash_in", "is_debit")
    for position, word in enumerate(TYPES):
        row = computed({"amount": 1, "type": word})
        assert [row[flag] for flag in flags] == [float(i == position) for i in range(5)]


def test_the_function_writes_only_its_own_columns() -> None:
    out = [7.0] * (WIDTH + 2)
    transaction_features(0, 0, 1, 100.0, 0, NAN, NAN, NAN, NAN, NAN, NAN, out)
    assert out[WIDTH:] == [7.0, 7.0]


def test_a_currency_of_no_minor_units_is_computed_in_whole_units() -> None:
    row = computed({"amount": 1234.4, "oldbalanceOrg": 1234}, rates=RateTable("JPY", 0))
    assert (row["amount"], row["drains_account"]) == (1234.0, 1.0)


@pytest.mark.parametrize(
    ("zone", "moment", "hour", "day"),
    [
        ("UTC", "2026-02-06T23:30:00", 23, 4),
        ("Europe/Berlin", "2026-02-06T23:30:00", 0, 5),
        ("America/New_York", "2026-02-06T02:30:00", 21, 3),
        ("Asia/Kolkata", "2026-02-06T18:45:00", 0, 5),
        ("Europe/Berlin", "2026-03-29T00:59:59.999", 1, 6),  # the clock is put forward at 01:00 UTC
        ("Europe/Berlin", "2026-03-29T01:00:00", 3, 6),
        ("Europe/Berlin", "2026-10-25T00:59:59.999", 2, 6),  # and back again
        ("Europe/Berlin", "2026-10-25T01:00:00", 2, 6),
    ],
)
def test_hours_and_days_are_local(zone: str, moment: str, hour: int, day: int) -> None:
    table = replay.time_zone(zone, 2025, 2027)
    row = computed({"amount": 1, "timestamp": f"{moment}Z"}, zone=table)
    assert (row["hour_of_day"], row["day_of_week"], row["is_night"]) == (hour, day, float(hour < 6))


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe"])
def test_a_zones_table_agrees_with_the_zone_database_on_both_sides_of_every_change(zone: str) -> None:
    table = replay.time_zone(zone, 2020, 2030)
    for start in table.starts_ms[1:]:
        for time_ms in (start - 1, start, start + 1):
            offset = datetime.fromtimestamp(time_ms / 1000, ZoneInfo(zone)).utcoffset()
            assert offset is not None
            assert table.offset_at(time_ms) == offset.total_seconds()
    assert table.offset_at(table.starts_ms[0] - 1) == table.offsets_s[0]


# --- missing values --------------------------------------------------------------------------------------------------


def row_of(**known: float) -> Floats:
    row = np.full(WIDTH, NAN)
    for name, value in known.items():
        row[NAMES.index(name)] = value
    return row


def test_a_missing_value_becomes_the_populations_and_a_sent_one_stays() -> None:
    population = np.arange(1.0, WIDTH + 1)
    filled = fill(row_of(amount=9.0, hour_of_day=3.0), population)
    assert filled[NAMES.index("amount")] == 9.0
    assert filled[NAMES.index("hour_of_day")] == 3.0
    assert filled[NAMES.index("latitude")] == population[NAMES.index("latitude")]
    assert not np.isnan(filled).any()


def test_a_ratio_of_filled_parts_is_computed_anew() -> None:
    population = np.arange(1.0, WIDTH + 1)
    balance = population[NAMES.index("oldbalance_orig")]
    filled = fill(row_of(amount=90.0), population)
    assert filled[NAMES.index("amount_to_balance")] == 90.0 / (balance + 1.0)
    assert filled[NAMES.index("balance_shortfall")] == 90.0 - balance
    small = fill(row_of(amount=1.0), population)
    assert small[NAMES.index("balance_shortfall")] == 0.0


def test_a_ratio_that_is_known_is_not_touched_by_other_gaps() -> None:
    population = np.arange(1.0, WIDTH + 1)
    row = row_of(amount=90.0, oldbalance_orig=50.0, amount_to_balance=0.125, balance_shortfall=7.0)
    filled = fill(row, population)
    assert filled[NAMES.index("amount_to_balance")] == 0.125
    assert filled[NAMES.index("balance_shortfall")] == 7.0


def test_every_ratio_of_the_contract_is_computed_anew() -> None:
    population = np.full(WIDTH, 1e6)
    filled = fill(row_of(amount=1.0), population)
    for feature in FEATURES:
        changed = filled[NAMES.index(feature.name)] != 1e6
        assert changed == (feature.kind == "ratio" or feature.name == "amount"), feature.name


def test_what_even_the_population_does_not_know_stays_missing() -> None:
    filled = fill(row_of(amount=1.0), np.full(WIDTH, NAN))
    assert np.isnan(filled[1:]).all()


def test_a_row_without_gaps_is_returned_as_it_is_and_the_given_row_is_never_changed() -> None:
    whole = np.ones(WIDTH)
    assert fill(whole, np.zeros(WIDTH)) is whole
    gaps = row_of(amount=1.0)
    fill(gaps, np.zeros(WIDTH))
    assert np.isnan(gaps[1:]).all()


@settings(max_examples=30)
@given(st.integers(0, 2**32))
def test_rows_are_filled_together_as_one_by_one(seed: int) -> None:
    draw = np.random.default_rng(seed)
    rows = np.where(draw.random((40, WIDTH)) < 0.3, NAN, draw.normal(0, 1000, (40, WIDTH)))
    population = np.where(draw.random(WIDTH) < 0.1, NAN, draw.normal(0, 1000, WIDTH))
    together = fill(rows, population)
    for row, expected in zip(rows, together, strict=True):
        np.testing.assert_array_equal(fill(row, population), expected)


# --- attributes and sets ---------------------------------------------------------------------------------------------

DECLARED = (Attribute("age", "number"), Attribute("channel", "text", ("5", "app", "web")))


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ({}, [NAN, NAN, NAN, NAN]),
        ({"age": 41, "channel": "web"}, [41.0, 0.0, 0.0, 1.0]),
        ({"channel": "phone"}, [NAN, 0.0, 0.0, 0.0]),  # a level not seen in training is none of them
        ({"channel": 5}, [NAN, 1.0, 0.0, 0.0]),
        ({"channel": 5.0}, [NAN, 1.0, 0.0, 0.0]),
        ({"age": 0, "other": "x"}, [0.0, NAN, NAN, NAN]),
    ],
)
def test_declared_attributes_are_columns_and_others_are_not(sent: dict[str, Any], expected: list[float]) -> None:
    row = list(computed({"amount": 1, "attributes": sent}, attributes=DECLARED).values())[WIDTH:]
    assert len(row) == 4
    assert all(same(left, right) for left, right in zip(row, expected, strict=True))


def test_text_where_a_number_is_declared_is_refused_by_name_and_not_repeated() -> None:
    with pytest.raises(InvalidRequest) as caught:
        computed({"amount": 1, "attributes": {"age": "forty-one"}}, attributes=DECLARED)
    assert caught.value.errors[0].field == "attributes.age"
    assert "forty-one" not in caught.value.errors[0].message


def test_a_set_picks_its_columns_by_name() -> None:
    features = FeatureSet(attributes=DECLARED, picked=("attributes.age", "amount", "attributes.channel=web"))
    assert features.columns[: WIDTH + 2] == (*NAMES, "attributes.age", "attributes.channel=5")
    assert features.index.tolist() == [WIDTH, 0, WIDTH + 3]


def test_an_unknown_feature_refuses_the_bundle_by_name() -> None:
    with pytest.raises(BundleRefused, match="does not know: moon_phase"):
        FeatureSet(picked=("amount", "moon_phase"))


def test_a_column_declared_twice_refuses_the_bundle() -> None:
    with pytest.raises(BundleRefused, match="twice"):
        FeatureSet(attributes=(Attribute("age", "number"), Attribute("age", "number")))


def test_columns_are_described_and_grouped() -> None:
    assert describe("is_transfer").group == group_of("is_transfer") == "type"
    assert group_of("amount") == "amount"
    assert (describe("attributes.age").kind, describe("attributes.channel=web").kind) == ("number", "flag")
    assert group_of("attributes.channel=web") == group_of("attributes.channel=app") == "attributes.channel"


def test_every_flag_says_both_sentences() -> None:
    assert all(feature.otherwise for feature in FEATURES if feature.kind == "flag")


# --- live and in replay ----------------------------------------------------------------------------------------------

RATES = RateTable(
    "EUR", 2, ((ms("2021-01-01"), {"USD": 0.82, "JPY": 0.0079}), (ms("2023-06-01"), {"USD": 0.935, "JPY": 0.0067}))
)
ZONES = {name: replay.time_zone(name, 2020, 2027) for name in ("UTC", "Europe/Berlin", "America/St_Johns")}
MIXED = (Attribute("age", "number"), Attribute("channel", "text", ("app", "web")), Attribute("mcc", "text", ("5411",)))


def bits(values: npt.ArrayLike) -> npt.NDArray[np.uint64]:
    """The doubles' bits; every NaN counts as the same one."""
    array = np.array(values, np.float64)
    array[np.isnan(array)] = np.nan
    return array.view(np.uint64)


def money(draw: np.random.Generator, n: int, top: float) -> Floats:
    """Amounts of every kind: whole, in cents, with halves of a cent, with all their digits, zero."""
    kind = draw.integers(0, 5, n)
    any_digits = draw.random(n) * top
    return np.select(
        [kind == 0, kind == 1, kind == 2, kind == 3],
        [np.zeros(n), np.rint(any_digits), np.rint(any_digits * 100) / 100, (np.floor(any_digits * 8) + 0.5) / 8],
        any_digits,
    )


def rows_of(seed: int, n: int, zone: TimeZone) -> list[dict[str, Any]]:
    """Transactions as they are sent, every optional part sometimes absent, times crowded around the zone's changes."""
    draw = np.random.default_rng(seed)
    changes = np.array(zone.starts_ms)
    time_ms = draw.integers(ms("2020-01-01"), ms("2027-01-01"), n)
    near = draw.random(n) < 0.4
    time_ms[near] = draw.choice(changes, near.sum()) + draw.integers(-2, 3, near.sum()) * draw.choice(
        [1, HOUR], near.sum()
    )
    amount = money(draw, n, 10.0 ** draw.integers(0, 10))
    columns: dict[str, list[Any]] = {
        "timestamp": [rfc3339(int(t)) for t in time_ms],
        "amount": amount.tolist(),
        "currency": draw.choice(["EUR", "USD", "JPY", ""], n).tolist(),
        "type": draw.choice([*TYPES, ""], n).tolist(),
        "lat": draw.uniform(-90, 90, n).tolist(),
        "long": draw.uniform(-180, 180, n).tolist(),
    }
    for name in ("oldbalanceOrg", "newbalanceOrig", "oldbalanceDest", "newbalanceDest"):
        equal = draw.random(n) < 0.2
        columns[name] = np.where(equal, amount, money(draw, n, 1e12)).tolist()
    absent = {name: draw.random(n) < 0.25 for name in ("lat", "long", *list(columns)[-4:])}
    ages, channels, mccs = (
        draw.normal(40, 20, n).tolist(),
        draw.choice(["app", "web", "tel"], n),
        draw.integers(5, 6000, n),
    )
    rows = []
    for i in range(n):
        row = {
            name: values[i]
            for name, values in columns.items()
            if values[i] != "" and not (name in absent and absent[name][i])
        }
        sent = {"age": ages[i], "channel": str(channels[i]), "mcc": 5411 if i % 3 == 0 else int(mccs[i])}
        row["attributes"] = {name: value for name, value in sent.items() if draw.random() < 0.7}
        rows.append(row)
    return rows


HOUR = 3_600_000


def frame_of(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """The same transactions as training's loaders hand them over."""
    flat = [{**row, **{f"attributes.{k}": v for k, v in row["attributes"].items()}} for row in rows]
    frame = pd.DataFrame(flat).drop(columns="attributes")
    frame["time_ms"] = [ms(row["timestamp"].removesuffix("Z")) for row in rows]
    frame["type"] = pd.Categorical(frame["type"], categories=TYPES)
    return frame.drop(columns="timestamp")


@settings(max_examples=8)
@given(seed=st.integers(0, 2**32), zone=st.sampled_from(sorted(ZONES)))
def test_the_service_and_replay_compute_the_same_bits(seed: int, zone: str) -> None:
    rows = rows_of(seed, 2_500, ZONES[zone])
    features = FeatureSet(attributes=MIXED, time_zone=ZONES[zone])
    replayed = replay.columns(frame_of(rows), features, RATES)
    live = [
        features.compute(to_event(parse_transaction(parse_json(json.dumps(row).encode())), RATES, FAR)) for row in rows
    ]
    different = np.argwhere(bits(replayed) != bits(np.stack(live)))
    assert not len(different), [(features.columns[c], rows[r]) for r, c in different[:3]]


@settings(max_examples=60)
@given(
    amount=st.floats(0, 1e9).map(abs),
    balance=st.none() | st.floats(0, 1e12).map(abs),
    receiver=st.none() | st.floats(0, 1e12).map(abs),
    word=st.sampled_from([None, *TYPES]),
    time_ms=st.integers(0, ms("2040-01-01")),
)
def test_any_single_transaction_is_the_same_bits_live_and_in_replay(
    amount: float, balance: float | None, receiver: float | None, word: str | None, time_ms: int
) -> None:
    row = {"amount": amount, "oldbalanceOrg": balance, "newbalanceDest": receiver, "type": word}
    features = FeatureSet(time_zone=ZONES["Europe/Berlin"])
    event = to_event(parse_transaction({**row, "timestamp": rfc3339(time_ms)}), USD, FAR)
    frame = pd.DataFrame([row]).astype({"amount": float, "oldbalanceOrg": float, "newbalanceDest": float})
    frame["type"] = pd.Categorical(frame["type"], categories=TYPES)
    frame["time_ms"] = time_ms
    assert bits(replay.columns(frame, features, USD)[0]).tolist() == bits(features.compute(event)).tolist()


def test_columns_that_a_file_does_not_have_are_missing_in_replay_as_they_are_live() -> None:
    frame = pd.DataFrame({"time_ms": [0, ms("2026-02-06")], "amount": [1.0, 2.5]})
    features = FeatureSet(attributes=MIXED)
    live = [features.compute(to_event(parse_transaction({"amount": a, "timestamp": rfc3339(t)}), USD, FAR)) for t, a in
            zip(frame["time_ms"].tolist(), frame["amount"].tolist(), strict=True)]  # fmt: skip
    assert (bits(replay.columns(frame, features, USD)) == bits(np.stack(live))).all()


def test_what_the_service_refuses_replay_refuses() -> None:
    features = FeatureSet(attributes=(Attribute("age", "number"),))
    base = {"time_ms": [0], "amount": [1.0]}
    with pytest.raises(DataError, match="currency 'CHF'"):
        replay.columns(pd.DataFrame({**base, "currency": ["CHF"]}), features, RATES)
    with pytest.raises(DataError, match="Attribute 'age' must hold numbers"):
        replay.columns(pd.DataFrame({**base, "attributes.age": ["old"]}), features, RATES)
