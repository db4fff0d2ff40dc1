"""Features of the past, each by an example made by hand."""

import math
from typing import Any

import numpy as np
import pytest

from fraud_api_lambda import profiles
from fraud_api_lambda.features import CUSTOMER_AT, NAMES, FeatureSet, Past, distance_km, fill
from fraud_api_lambda.schemas import RateTable, parse_transaction, rfc3339, to_event

NOON = 1_770_033_600_000  # 2026-02-02T12:00:00Z, a Monday
HOUR, DAY = profiles.HOUR_MS, profiles.DAY_MS
RATES = RateTable("USD", 2)


class Lived:
    """A past made of transactions given in the order of arrival; ``ms`` is the event time, relative to noon."""

    def __init__(self) -> None:
        self.states: dict[str, list[int]] = {}
        self.count = 0

    def see(self, ms: int, amount: float = 10.0, received: int | None = None, **sent: Any) -> dict[str, float]:
        """The history columns of one transaction, which is remembered afterwards."""
        self.count += 1
        body = {"amount": amount, "timestamp": rfc3339(NOON + ms), "transaction_id": f"t{self.count}", **sent}
        event = to_event(parse_transaction(body), RATES, 2**43)
        past = Past(event, self.states, NOON + (ms if received is None else received))
        row = FeatureSet().compute(event, past)
        past.after(event)
        return dict(zip(NAMES[CUSTOMER_AT:], row[CUSTOMER_AT:].tolist(), strict=True))


def test_a_first_transaction_has_counts_of_zero_and_no_averages() -> None:
    row = Lived().see(0, customer_id="C", counterparty_id="M", device_id="D", lat=1.0, long=2.0)
    missing = {name for name, value in row.items() if math.isnan(value)}
    assert missing == {
        "avg_amount_7d", "amount_ratio", "avg_amount_30d", "seconds_since_last", "distance_km", "speed_kmh",
        "amount_ratio_30d", "avg_amount_trend",
        "counterparty_fraud_rate_1d", "counterparty_fraud_rate_7d", "counterparty_fraud_rate_30d",
    }  # fmt: skip
    assert (row["new_counterparty"], row["new_device"], row["counterparty_age_days"]) == (1.0, 1.0, 0.0)
    assert row["count_last_1h"] == row["count_24h"] == row["amount_24h"] == row["in_last_1h"] == 0.0


def test_without_parties_all_of_history_is_missing() -> None:
    assert all(math.isnan(value) for value in Lived().see(0).values())


def test_the_last_hour_is_one_hour_to_the_millisecond() -> None:
    past = Lived()
    past.see(-HOUR, 100.0, customer_id="C")
    past.see(-HOUR + 1, 20.0, customer_id="C")
    past.see(-1, 3.0, customer_id="C")
    row = past.see(0, customer_id="C")
    assert (row["count_last_1h"], row["amount_last_1h"]) == (2.0, 23.0)
    assert (row["count_24h"], row["amount_24h"]) == (3.0, 123.0)
    assert row["seconds_since_last"] == 0.001
    assert row["out_last_1h"] == row["amount_last_1h"]


def test_an_average_and_its_ratio_leave_the_transaction_itself_out() -> None:
    past = Lived()
    past.see(-7 * DAY, 1_000.0, customer_id="C")  # a millisecond too old
    past.see(-6 * DAY, 30.0, customer_id="C")
    past.see(-1 * DAY, 10.0, customer_id="C")
    row = past.see(0, 80.0, customer_id="C")
    assert (row["avg_amount_7d"], row["amount_ratio"]) == (20.0, 4.0)
    assert (row["count_30d"], row["avg_amount_30d"]) == (3.0, 1_040.0 / 3)
    assert (row["amount_ratio_30d"], row["avg_amount_trend"]) == (80.0 / (1_040.0 / 3), 20.0 / (1_040.0 / 3))


def test_days_are_whole_utc_days_before_today() -> None:
    past = Lived()
    past.see(-12 * HOUR - 1, 50.0, customer_id="C")  # yesterday
    past.see(-12 * HOUR, 70.0, customer_id="C")  # today
    row = past.see(0, customer_id="C")
    assert (row["count_30d"], row["avg_amount_30d"]) == (1.0, 50.0)


def test_a_counterparty_is_new_once_and_a_device_is_new_for_each_customer() -> None:
    past = Lived()
    past.see(-2, customer_id="C", counterparty_id="M", device_id="D")
    row = past.see(-1, customer_id="C", counterparty_id="M", device_id="D")
    assert (row["new_counterparty"], row["new_device"]) == (0.0, 0.0)
    row = past.see(0, customer_id="E", counterparty_id="M", device_id="D")
    assert (row["new_counterparty"], row["new_device"]) == (1.0, 1.0)


def test_what_came_in_and_went_on_within_the_hour_shows_a_mule() -> None:
    past = Lived()
    past.see(-HOUR, 500.0, customer_id="X", counterparty_id="mule")  # too old
    past.see(-HOUR + 1, 900.0, customer_id="Y", counterparty_id="mule")
    row = past.see(0, 899.0, customer_id="mule", counterparty_id="Z")
    assert (row["in_last_1h"], row["out_last_1h"], row["in_out_ratio"]) == (900.0, 0.0, 1.0)


def test_distance_and_speed_are_from_the_latest_place() -> None:
    past = Lived()
    past.see(-2 * HOUR, customer_id="C", lat=52.52, long=13.405)  # Berlin
    row = past.see(0, customer_id="C", lat=48.137, long=11.575)  # Munich
    assert row["distance_km"] == pytest.approx(504.0, rel=0.01)
    assert row["speed_kmh"] == pytest.approx(row["distance_km"] / 2)
    assert math.isnan(past.see(1, customer_id="C")["distance_km"])


@pytest.mark.parametrize(
    ("here", "there"),
    [((52.52, 13.405), (48.137, 11.575)), ((40.7, -74.0), (42.36, -71.06)), ((0.0, 179.9), (0.0, -179.9))],
)
def test_distance_is_within_a_hundredth_of_the_great_circle_near_by(
    here: tuple[float, float], there: tuple[float, float]
) -> None:
    a, b = (np.radians(place) for place in (here, there))
    cosine = np.sin(a[0]) * np.sin(b[0]) + np.cos(a[0]) * np.cos(b[0]) * np.cos(a[1] - b[1])
    great_circle = 6_371.0 * float(np.arccos(np.clip(cosine, -1, 1)))
    micro = [round(v * 1e6) for v in (*here, *there)]
    assert distance_km(*micro) == pytest.approx(great_circle, rel=0.01)


def test_a_counterpartys_receipts_and_senders_are_counted() -> None:
    past = Lived()
    past.see(-8 * DAY, 5.0, customer_id="old", counterparty_id="M")
    for i in range(3):
        past.see(-HOUR + i, 10.0, customer_id=f"C{i % 2}", counterparty_id="M")
    row = past.see(0, customer_id="C9", counterparty_id="M")
    assert (row["counterparty_count_24h"], row["counterparty_amount_24h"]) == (3.0, 30.0)
    assert row["counterparty_distinct_senders_7d"] == 2.0
    assert row["counterparty_age_days"] == 8.0
    assert row["counterparty_count_30d"] == 1.0


def test_a_fraud_rate_looks_past_the_label_delay_and_only_at_frauds_known_by_then() -> None:
    """Label delay 7 days, so the window of one day is the eighth day back."""
    past = Lived()
    for key in range(4):
        past.see(-8 * DAY, customer_id=f"C{key}", counterparty_id="M")
    today = NOON // DAY
    profiles.label(past.states["M"], today - 8, profiles.id64("t1"), NOON - 1, True)
    profiles.label(past.states["M"], today - 8, profiles.id64("t2"), NOON + 1, True)  # known a moment later
    row = past.see(0, customer_id="C", counterparty_id="M")
    assert row["counterparty_fraud_rate_1d"] == row["counterparty_fraud_rate_30d"] == 0.25
    row = past.see(1, customer_id="C", counterparty_id="M")
    assert row["counterparty_fraud_rate_1d"] == 0.5
    assert math.isnan(past.see(-DAY, customer_id="C", counterparty_id="M")["counterparty_fraud_rate_1d"])


def test_days_since_a_fraud_count_what_is_known_and_end_at_forty() -> None:
    past = Lived()
    names = ("counterparty_days_since_fraud", "counterparty_days_since_first_fraud")
    for day in (45, 30, 12, 2):
        past.see(-day * DAY, customer_id="C", counterparty_id="M")
    today, state = NOON // DAY, past.states["M"]
    row = past.see(-2, customer_id="C", counterparty_id="M")
    assert [row[name] for name in names] == [40.0, 40.0]
    profiles.label(state, today - 45, profiles.id64("t1"), NOON - DAY, True)  # too long ago
    profiles.label(state, today - 30, profiles.id64("t2"), NOON - DAY, True)
    profiles.label(state, today - 12, profiles.id64("t3"), NOON - DAY, True)
    profiles.label(state, today - 2, profiles.id64("t4"), NOON, True)  # sooner than the label delay: known is known
    row = past.see(-1, customer_id="C", counterparty_id="M")
    assert [row[name] for name in names] == [12.0, 30.0]
    row = past.see(0, customer_id="C", counterparty_id="M")
    assert [row[name] for name in names] == [2.0, 30.0]


def test_a_day_is_legitimate_while_something_of_it_is_not_known_to_be_a_fraud() -> None:
    """Label delay 7 days: the days within it say nothing yet."""
    past = Lived()
    name = "counterparty_days_since_legitimate"
    for day in (20, 9, 9, 3):
        past.see(-day * DAY, customer_id="C", counterparty_id="M")
    today, state = NOON // DAY, past.states["M"]
    assert past.see(0, customer_id="C", counterparty_id="M")[name] == 9.0
    profiles.label(state, today - 9, profiles.id64("t2"), NOON, True)
    assert past.see(0, customer_id="C", counterparty_id="M")[name] == 9.0
    profiles.label(state, today - 9, profiles.id64("t3"), NOON + 1, True)
    assert past.see(0, customer_id="C", counterparty_id="M")[name] == 9.0
    assert past.see(1, customer_id="C", counterparty_id="M")[name] == 20.0
    profiles.label(state, today - 20, profiles.id64("t1"), NOON, True)
    assert past.see(1, customer_id="C", counterparty_id="M")[name] == 40.0


def test_a_late_event_counts_from_its_arrival_on() -> None:
    past = Lived()
    past.see(-10, 40.0, customer_id="C", received=-10)
    past.see(-30, 2.0, customer_id="C", received=0)  # came after, happened before
    row = past.see(1, customer_id="C")
    assert (row["count_last_1h"], row["amount_last_1h"]) == (2.0, 42.0)


def test_a_duplicate_is_remembered_once() -> None:
    past = Lived()
    past.see(-2, 40.0, customer_id="C", transaction_id="same")
    past.see(-1, 40.0, customer_id="C", transaction_id="same")
    assert past.see(0, customer_id="C")["count_last_1h"] == 1.0


def test_a_profile_expires_after_four_hundred_days_of_silence() -> None:
    past = Lived()
    past.see(-400 * DAY, customer_id="C", counterparty_id="M")
    assert past.see(0, customer_id="C", counterparty_id="M")["new_counterparty"] == 0.0
    past = Lived()
    past.see(-400 * DAY - 1, customer_id="C", counterparty_id="M")
    assert past.see(0, customer_id="C", counterparty_id="M")["new_counterparty"] == 1.0


def test_fill_puts_in_the_population_and_computes_ratios_anew() -> None:
    """A customer without a past is compared with everybody's average."""
    event = to_event(parse_transaction({"amount": 1_500.0, "customer_id": "C"}), RATES, NOON)
    row = FeatureSet().compute(event, Past(event, {}, NOON))
    population = np.full(len(NAMES), 2.0)
    population[NAMES.index("avg_amount_7d")] = 500.0
    population[NAMES.index("amount_ratio")] = 1.1
    filled = dict(zip(NAMES, fill(row, population).tolist(), strict=True))
    assert filled["amount_ratio"] == 3.0
    assert filled["seconds_since_last"] == 2.0
    assert filled["count_24h"] == 0.0
