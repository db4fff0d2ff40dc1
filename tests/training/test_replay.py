"""Replay gives a million rows what the service gives one; currencies, attributes and time zones included."""

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest

from fraud_api_lambda.errors import SettingsError
from fraud_api_lambda.features import WIDTH, Attribute, FeatureSet
from fraud_api_lambda.schemas import TYPES, RateTable, parse_transaction, rfc3339, to_event
from training import replay
from training.dataset import DataError

NOW = 1_900_000_000_000
RATES = replay.rate_table(
    "USD", 2, {"2024-01-01": {"EUR": 1.1049, "JPY": 0.0067}, "2025-03-01": {"EUR": 1.0431, "JPY": 0.00665}}
)
ATTRIBUTES = (
    Attribute("V1", "number"),
    Attribute("channel", "text", ("7", "app", "web")),
    Attribute("absent", "number"),
    Attribute("absent text", "text", ("a", "b")),
)


def history(n: int, seed: int = 1) -> pd.DataFrame:
    """A canonical frame with everything a loader may give, half of it missing."""
    rng = np.random.default_rng(seed)

    def maybe(values: Any, share: float = 0.3) -> Any:
        return pd.Series(values).where(rng.random(n) >= share)

    amount = np.where(rng.random(n) < 0.05, 0.0, np.exp(rng.normal(4, 3, n)))
    amount = np.where(rng.random(n) < 0.5, amount.round(2), amount)  # and halves of cents
    amount[: n // 20] = np.round(rng.integers(0, 10_000, n // 20) / 100 + 0.005, 3)
    balance = np.where(rng.random(n) < 0.2, amount, np.exp(rng.normal(6, 3, n)).round(2))
    frame = pd.DataFrame(
        {
            "time_ms": np.sort(rng.integers(1_672_531_200_000, 1_780_000_000_000, n)),
            "type": pd.Categorical.from_codes(rng.integers(-1, 5, n), categories=pd.Index(TYPES)),
            "customer_id": maybe([f"C{i}" for i in rng.integers(0, 50, n)]),
            "amount": amount,
            "currency": maybe(rng.choice(["USD", "EUR", "JPY"], n)),
            "oldbalanceOrg": maybe(balance),
            "newbalanceOrig": maybe(np.maximum(balance - amount, 0)),
            "oldbalanceDest": maybe(np.where(rng.random(n) < 0.3, 0.0, balance * 3)),
            "newbalanceDest": maybe(balance * 3 + amount),
            "lat": maybe(rng.uniform(-90, 90, n)),
            "long": maybe(rng.uniform(-180, 180, n)),
            "attributes.V1": maybe(rng.normal(0, 3, n)),
            "attributes.channel": maybe(rng.choice(["app", "web", "till", "7"], n)),
            "is_fraud": (rng.random(n) < 0.1).astype(np.int8),
            "weight": np.ones(n),
        }
    )
    return frame.sort_values("time_ms", kind="stable", ignore_index=True)


def as_sent(row: dict[str, Any]) -> dict[str, Any]:
    """The JSON a sender would write for a row of the frame."""
    sent: dict[str, Any] = {"timestamp": rfc3339(row["time_ms"]), "attributes": {}}
    for name, value in row.items():
        if name in {"time_ms", "is_fraud", "weight"} or pd.isna(value):
            continue
        if name.startswith("attributes."):
            sent["attributes"][name.removeprefix("attributes.")] = value
        else:
            sent[name] = value
    return sent


def one_at_a_time(frame: pd.DataFrame, features: FeatureSet, rates: RateTable) -> np.ndarray:
    rows = frame.astype({"type": object}).to_dict("records")
    return np.array(
        [features.compute(to_event(parse_transaction(as_sent(row)), rates, NOW)) for row in rows]  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("zone", "minor_units"), [("UTC", 2), ("Europe/Berlin", 2), ("Asia/Kathmandu", 0), ("America/New_York", 3)]
)
def test_columns_are_those_of_the_service_one_at_a_time_to_the_bit(zone: str, minor_units: int) -> None:
    rates = RateTable("USD", minor_units, RATES.tables)
    features = FeatureSet(ATTRIBUTES, time_zone=replay.time_zone(zone), minor_factor=rates.minor_factor)
    frame = history(1_500)
    together = replay.columns(frame, features, rates, history=False)  # with history: tests/test_skew.py
    assert together.shape == (1_500, WIDTH + 1 + 3 + 1 + 2)
    np.testing.assert_array_equal(together, one_at_a_time(frame, features, rates))
    assert np.isnan(together).any(axis=0).sum() > 10


def test_a_frame_with_next_to_nothing_gives_missing_columns_not_zeros() -> None:
    frame = pd.DataFrame({"time_ms": [1_700_000_000_000], "amount": [12.5]})
    features, rates = FeatureSet(ATTRIBUTES), RateTable("USD", 2)
    row = replay.columns(frame, features, rates)
    sent = parse_transaction({"amount": 12.5, "timestamp": "2023-11-14T22:13:20Z"})
    np.testing.assert_array_equal(row, [features.compute(to_event(sent, rates, NOW))])
    known = [name for name, value in zip(features.columns, row[0], strict=True) if not np.isnan(value)]
    assert known == ["amount", "hour_of_day", "day_of_week", "is_night"]


# --- money -----------------------------------------------------------------------------------------------------------


def test_amounts_are_converted_by_the_table_of_their_day() -> None:
    days = ["2023-06-01", "2024-01-01", "2025-02-28", "2025-03-01", "2026-01-01"]
    frame = pd.DataFrame(
        {
            "time_ms": [int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp() * 1000) for day in days],
            "amount": [100.0] * 5,
            "currency": ["EUR"] * 5,
        }
    )
    assert replay.amounts_in_base(frame, RATES).tolist() == [110.49, 110.49, 110.49, 104.31, 104.31]


def test_half_a_cent_is_rounded_to_even_as_the_service_does() -> None:
    frame = pd.DataFrame({"time_ms": [0] * 4, "amount": [0.125, 0.375, 0.625, 2.5]})
    assert replay.amounts_in_base(frame, RateTable("USD", 2)).tolist() == [0.12, 0.38, 0.62, 2.5]
    assert replay.amounts_in_base(frame, RateTable("JPY", 0)).tolist() == [0.0, 0.0, 1.0, 2.0]


def test_an_absent_currency_is_the_base() -> None:
    frame = pd.DataFrame({"time_ms": [0, 0], "amount": [5.0, 5.0], "currency": [None, "USD"]})
    assert replay.amounts_in_base(frame, RATES).tolist() == [5.0, 5.0]


def test_a_currency_without_a_rate_is_named_with_the_choices() -> None:
    frame = pd.DataFrame({"time_ms": [0], "amount": [5.0], "currency": ["GBP"]})
    with pytest.raises(DataError, match=r"'GBP'. Choices are: USD, EUR, JPY; add it with --rates"):
        replay.columns(frame, FeatureSet(), RATES)


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"soon": {"EUR": 1.1}}, "soon"),
        ({"2026-01-01": {"EUR": 0.0}}, "EUR"),
        ({"2026-01-01": {"EUR": -1.0}}, "EUR"),
        ({"2026-01-01": {"EUR": float("nan")}}, "EUR"),
        ({"2026-01-01": {"BTC": 60_000.0}}, "BTC"),
        ({"2026-01-01": {"eur": 1.1}}, "eur"),
    ],
)
def test_a_rate_table_that_a_bundle_could_not_hold_is_refused_at_once(
    tables: dict[str, dict[str, float]], words: str
) -> None:
    with pytest.raises(SettingsError, match=words):
        replay.rate_table("USD", 2, tables)


@pytest.mark.parametrize("base", ["usd", "", "DOLLAR"])
def test_a_base_currency_that_is_none_is_refused_at_once(base: str) -> None:
    with pytest.raises(SettingsError, match="ISO 4217"):
        replay.rate_table(base, 2, {})


# --- attributes ------------------------------------------------------------------------------------------------------


def test_attributes_are_declared_as_numbers_or_as_text_with_their_levels() -> None:
    frame = history(500)
    frame["attributes.empty"] = np.nan
    frame["attributes.shop"] = [f"s{i % 45:02d}" if i % 3 else "s07" for i in range(500)]
    declared = {attribute.name: attribute for attribute in replay.declare_attributes(frame)}
    assert set(declared) == {"V1", "channel", "shop"}
    assert declared["V1"] == Attribute("V1", "number")
    assert declared["channel"].levels == ("7", "app", "till", "web")
    assert len(declared["shop"].levels) == replay.MAX_LEVELS
    assert "s07" in declared["shop"].levels
    assert list(declared["shop"].levels) == sorted(declared["shop"].levels)


def test_an_attribute_of_the_wrong_kind_is_refused_by_name() -> None:
    frame = history(20)
    with pytest.raises(DataError, match="'channel' must hold numbers"):
        replay.columns(frame, FeatureSet((Attribute("channel", "number"),)), RATES)


def test_a_number_where_text_is_declared_is_compared_as_the_service_writes_it() -> None:
    values = [7.0, 7.5, 1e20, 0.1, float("nan")]
    frame = pd.DataFrame({"time_ms": [0] * 5, "amount": [1.0] * 5, "attributes.code": values})
    features = FeatureSet((Attribute("code", "text", ("0.1", "1e+20", "7", "7.5")),))
    found = replay.columns(frame, features, RateTable("USD", 2))[:, WIDTH:]
    np.testing.assert_array_equal(found[:4], np.eye(4)[[2, 3, 1, 0]])
    assert np.isnan(found[4]).all()
    for value, row in zip(values[:4], found, strict=False):
        event = to_event(parse_transaction({"amount": 1.0, "attributes": {"code": value}}), RateTable("USD", 2), NOW)
        np.testing.assert_array_equal(features.compute(event)[WIDTH:], row)


# --- what rules read -------------------------------------------------------------------------------------------------


def test_rules_are_shown_each_rows_ids_type_currency_and_attributes() -> None:
    frame = history(200)
    shown = list(replay.events(frame, RATES))
    rows = frame.astype({"type": object}).to_dict("records")
    assert len(shown) == 200
    for event, row in zip(shown, rows, strict=True):
        asked = to_event(parse_transaction(as_sent(row)), RATES, NOW)
        for name in ("time_ms", "amount", "currency", "type_code", "customer_id", "counterparty_id", "device_id"):
            assert getattr(event, name) == getattr(asked, name), name
        assert event.attributes == asked.attributes


# --- time zones ------------------------------------------------------------------------------------------------------

ZONES = (
    *("UTC", "Europe/Berlin", "America/New_York", "America/Sao_Paulo", "Asia/Kolkata", "Asia/Kathmandu"),
    *("Australia/Lord_Howe", "Africa/Casablanca", "Pacific/Apia", "America/Caracas", "Asia/Pyongyang", "Europe/Dublin"),
)


@pytest.mark.parametrize("name", ZONES)
def test_a_zones_table_is_zoneinfo_at_random_instants_and_around_each_change(name: str) -> None:
    table = replay.time_zone(name)
    rng = np.random.default_rng(3)
    first, last = 946_684_800_000, 2_840_140_800_000  # 2000 .. 2060
    instants = rng.integers(first, last, 5_000).tolist()
    instants += [start + step for start in table.starts_ms[1:] for step in (-60_000, -1, 0, 1, 60_000)]
    zone = ZoneInfo(name)
    for at in instants:
        moment = datetime.fromtimestamp(at // 1000, UTC).astimezone(zone)
        offset = moment.utcoffset()
        assert offset is not None
        assert table.offset_at(at) == offset.total_seconds(), moment
    assert list(table.starts_ms) == sorted(set(table.starts_ms))


def test_a_zone_with_summer_time_changes_twice_a_year() -> None:
    assert len(replay.time_zone("Europe/Berlin").starts_ms) == 1 + 2 * 60
    assert replay.time_zone("UTC").starts_ms == (946_684_800_000,)


@pytest.mark.parametrize("name", ["", "Berlin", "../UTC", "Europe", "/etc/localtime", "UTC\0"])
def test_an_unknown_zone_is_refused_with_an_example(name: str) -> None:
    with pytest.raises(SettingsError, match="IANA name such as Europe/Berlin"):
        replay.time_zone(name)
