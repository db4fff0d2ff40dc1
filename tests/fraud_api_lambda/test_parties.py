"""A profile told to people says what its events were: by hand, and against the events themselves."""

import math

from hypothesis import given
from hypothesis import strategies as st

from fraud_api_lambda import profiles
from fraud_api_lambda.features import TimeZone
from fraud_api_lambda.parties import UsualAmounts, describe, usual_amounts
from fraud_api_lambda.profiles import DAY_MS, HOUR_MS, RECEIVED, SENT

NOW = 1_770_000_000_000
MINUTE = 60_000
#: East of UTC by two hours, and from NOW - 1 d on by three.
ZONE = TimeZone("Somewhere/East", (0, NOW - DAY_MS), (7_200, 10_800))


def told(s: list[int], now: int = NOW) -> dict[str, object]:
    view = describe("C1", s, now, currency="EUR", minor_factor=100.0, zone=ZONE)
    return {name: getattr(view, name) for name in type(view).__slots__}


def test_a_profile_by_hand() -> None:
    s = profiles.blank()
    profiles.arrive(s, SENT, NOW - 20 * DAY_MS, 1, 5_000, 71, NOW - 20 * DAY_MS)
    profiles.arrive(s, SENT, NOW - 2 * DAY_MS, 2, 1_000, 72, NOW - 2 * DAY_MS)
    profiles.arrive(s, SENT, NOW - 30 * MINUTE, 3, 2_050, 72, NOW - 30 * MINUTE)
    profiles.be_at(s, NOW - 30 * MINUTE, 3, 40_700_000, -74_000_000)
    profiles.arrive(s, RECEIVED, NOW - 5 * HOUR_MS, 4, 99, 73, NOW - 5 * HOUR_MS)
    profiles.label(s, 20_000, 4, NOW, True)
    view = describe("C1", s, NOW, currency="EUR", minor_factor=100.0, zone=ZONE)
    assert (view.party_id, view.base_currency, view.time_zone, view.updates) == ("C1", "EUR", "Somewhere/East", 5)
    assert view.first_seen == "2026-01-13T02:40:00.000Z"
    assert view.frauds_known == 1
    assert view.last_place is not None
    assert (view.last_place.lat, view.last_place.long) == (40.7, -74.0)
    assert view.last_place.time == view.sent.last_seen == "2026-02-02T02:10:00.000Z"
    sent = view.sent
    assert (sent.last_hour.count, sent.last_hour.amount) == (1, 20.5)
    assert (sent.last_day.count, sent.last_7_days.count, sent.last_7_days.amount) == (1, 2, 30.5)
    assert (sent.last_30_days.count, sent.last_30_days.amount) == (3, 80.5)
    assert sent.usual_amounts == UsualAmounts(3, 10.0, 20.5, 50.0, 50.0)
    assert (sent.partners, sent.partners_7_days) == (2, 1)
    # NOW is 02:40 in UTC: twice 04:40 at +2 h, once 05:10 at +3 h.
    assert {hour: n for hour, n in enumerate(sent.hours) if n} == {4: 2, 5: 1}
    assert (view.received.last_day.count, view.received.last_day.amount, view.received.partners) == (1, 0.99, 1)


def test_a_party_of_whom_only_a_label_is_known_has_no_past() -> None:
    s = profiles.blank()
    profiles.label(s, 20_000, 4, NOW, True)
    view = describe("C1", s, NOW, currency="USD", minor_factor=100.0, zone=TimeZone())
    assert view.first_seen is view.last_place is view.sent.last_seen is view.sent.usual_amounts is None
    assert view.frauds_known == 1
    assert sum(view.sent.hours) == view.sent.last_30_days.count == 0


def test_the_future_is_not_counted_and_what_is_older_than_a_window_neither() -> None:
    s = profiles.blank()
    for key, ago in enumerate((-MINUTE, HOUR_MS, DAY_MS, 7 * DAY_MS, 30 * DAY_MS), 1):
        profiles.arrive(s, SENT, NOW - ago, key, 100, 7, NOW)
    sent = describe("C1", s, NOW, currency="USD", minor_factor=100.0, zone=TimeZone()).sent
    assert (sent.last_hour.count, sent.last_day.count, sent.last_7_days.count) == (0, 1, 2)
    assert sent.last_30_days.count == 4  # by day: today as a whole


EVENTS = st.lists(st.tuples(st.integers(0, 6 * 24 * 60), st.integers(0, 10**9)), min_size=1, max_size=150)


@given(EVENTS)
def test_counts_and_sums_are_those_of_the_events_however_many(events: list[tuple[int, int]]) -> None:
    s = profiles.blank()
    for key, (ago, amount) in enumerate(sorted(events, reverse=True), 1):
        profiles.arrive(s, SENT, NOW - ago * MINUTE, key, amount, 7, NOW - ago * MINUTE)
    sent = describe("C1", s, NOW, currency="USD", minor_factor=100.0, zone=TimeZone()).sent
    assert sent.last_7_days.count == sent.last_30_days.count == len(events)
    assert math.isclose(sent.last_7_days.amount, sum(amount for _, amount in events) / 100)
    remembered = [amount for _, amount in sorted(events, reverse=True)][-profiles.RING :]
    assert sent.usual_amounts is not None
    assert sent.usual_amounts.of == sum(sent.hours) == len(remembered)
    assert sent.usual_amounts.max == max(remembered) / 100


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=64))
def test_a_quantile_is_an_amount_with_that_share_at_or_below_it(amounts: list[int]) -> None:
    found = usual_amounts(amounts, 1.0)
    assert found is not None
    for share, value in ((0.1, found.p10), (0.5, found.p50), (0.9, found.p90), (1.0, found.max)):
        assert int(value) in amounts
        assert sum(amount <= value for amount in amounts) >= share * len(amounts)
        assert sum(amount < value for amount in amounts) < share * len(amounts) + 1e-9


def test_what_is_told_names_no_other_party() -> None:
    s = profiles.blank()
    other = profiles.id64("C-secret")
    profiles.arrive(s, SENT, NOW, 1, 100, other, NOW)
    assert str(other) not in str(told(s))
