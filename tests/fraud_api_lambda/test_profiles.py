"""The profile: its windows against brute force, its update, its bytes."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraud_api_lambda import profiles as p
from fraud_api_lambda.errors import ProfileError

T = 1_770_000_000_000
SENT, RECEIVED = p.SENT, p.RECEIVED


def arrivals(n: int, seed: int = 1, spread_ms: int = 3 * p.DAY_MS) -> list[tuple[int, int, int, int, int]]:
    """(event time, key, amount, other, received), in the order of arrival, some of them late."""
    rng = random.Random(seed)
    received, events = T, []
    for key in range(1, n + 1):
        received += rng.randrange(max(1, 2 * spread_ms // n))
        late = rng.randrange(p.HOUR_MS) if rng.random() < 0.2 else 0
        events.append((received - late, key, rng.randrange(1, 10**6), rng.randrange(1, 50), received))
    return events


def profile(events: list[tuple[int, int, int, int, int]], side: int = SENT) -> list[int]:
    s = p.blank()
    for t, key, amount, other, received in events:
        assert p.arrive(s, side, t, key, amount, other, received)
    return s


def read(s: list[int], t: int, key: int = 0, side: int = SENT) -> list[int]:
    out = [0] * 7
    p.windows(s, side, t, key, out)
    return out


@pytest.mark.parametrize("n", [0, 1, 5, 63, 64])
def test_windows_of_a_party_that_fits_the_ring_are_exact_to_the_millisecond(n: int) -> None:
    events = arrivals(n)
    s = profile(events)
    for t in [T, *(e[0] + d for e in events for d in (-1, 0, 1, p.HOUR_MS, p.DAY_MS - 1, p.DAY_MS, 7 * p.DAY_MS))]:
        expected = []
        for width in (p.HOUR_MS, p.DAY_MS, 7 * p.DAY_MS):
            inside = [e for e in events if 0 <= t - e[0] < width]
            expected += [len(inside), sum(e[2] for e in inside)]
        last = max((e[0] for e in events if e[0] <= t and t - e[0] >= 0), default=-1)
        assert read(s, t) == [*expected, last]


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0, 1, 60_000, p.HOUR_MS, p.DAY_MS, 6 * p.DAY_MS, 41 * p.DAY_MS]),
            st.sampled_from([0, 0, 1, p.HOUR_MS, p.DAY_MS, 8 * p.DAY_MS, 50 * p.DAY_MS]),
            st.integers(1, 40),
        ),
        min_size=1,
        max_size=12,
    ),
    st.sampled_from([-8 * p.DAY_MS, -p.HOUR_MS, 0, 1, p.DAY_MS - 1, 7 * p.DAY_MS]),
)
@settings(max_examples=300, deadline=None)
def test_tiles_are_passed_over_only_where_they_hold_nothing(bursts: list[tuple[int, int, int]], later: int) -> None:
    """The windows are those of a read that looks into every tile, late arrivals and overwritten days alike."""
    s = p.blank()
    received, key = T, 0
    for step, late, count in bursts:
        received += step
        for _ in range(count):
            key += 1
            p.arrive(s, SENT, received - late, key, key, 1 + key % 3, received)
    t = received + later
    quick = read(s, t, key)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(p, "_left", lambda *_: True)
        assert quick == read(s, t, key)


def test_a_day_whose_tile_a_newer_one_has_taken_is_looked_into() -> None:
    """Forty days later at another hour: the day's tile is gone, the hour's is still there."""
    day = T // p.DAY_MS * p.DAY_MS
    first = [(day + i, 1 + i, 10, 1, day + i) for i in range(p.RING)]
    then = day + p.DAYS * p.DAY_MS + p.HOUR_MS
    s = profile([*first, *((then + i, 1_000 + i, 10, 1, then + i) for i in range(p.RING))])
    assert read(s, day + p.MINUTE_MS) == [p.RING, 10 * p.RING] * 3 + [-1]


def test_an_event_never_sees_itself() -> None:
    s = profile([(T, 7, 500, 1, T)])
    assert read(s, T, key=7) == [0, 0, 0, 0, 0, 0, -1]
    assert read(s, T, key=8)[:2] == [1, 500]


def test_later_events_are_no_history_of_an_earlier_one() -> None:
    s = profile([(T + 1, 1, 500, 1, T + 1)])
    assert read(s, T) == [0, 0, 0, 0, 0, 0, -1]


def test_past_the_ring_nothing_is_lost_but_the_sharpness_of_the_left_edge() -> None:
    """Every event is counted exactly once, and a window errs by what lies within one tile of its edge at most."""
    events = arrivals(1_000, seed=3, spread_ms=2 * p.DAY_MS)
    s = profile(events)
    t = events[-1][4]
    n1, a1, n24, a24, n7, a7, _ = read(s, t)
    assert (n7, a7) == (1_000, sum(e[2] for e in events))
    for count, total, width, tile in ((n1, a1, p.HOUR_MS, p.MINUTE_MS), (n24, a24, p.DAY_MS, p.HOUR_MS)):
        surely = [e for e in events if t - e[0] < width - tile]
        possibly = [e for e in events if t - e[0] < width]
        assert len(surely) <= count <= len(possibly)
        assert sum(e[2] for e in surely) <= total <= sum(e[2] for e in possibly)


def test_an_update_is_idempotent_while_the_ring_holds_its_key() -> None:
    s = profile(arrivals(64))
    before = s.copy()
    t, key, amount, other, received = arrivals(64)[10]
    assert not p.arrive(s, SENT, t, key, amount, other, received)
    assert s == before


def test_a_re_application_is_skipped_unless_the_ring_proves_it_new() -> None:
    s = profile(arrivals(63))
    assert p.provably_new(s, SENT, T - 1)  # not full: whatever was applied is still there
    s = profile(arrivals(65))
    oldest = s[SENT + p.RING_AT + 5 * s[SENT + p.NEXT] + 4]
    assert not p.provably_new(s, SENT, oldest)
    assert p.provably_new(s, SENT, oldest + 1)


def test_partners_are_remembered_up_to_their_number_and_the_longest_unseen_goes() -> None:
    s = p.blank()
    for i in range(p.PARTNERS + 1):
        p.arrive(s, RECEIVED, T + i, i + 1, 1, 1_000 + i, T + i)
    assert not p.knows(s, RECEIVED, 1_000)
    assert p.knows(s, RECEIVED, 1_001)
    assert p.distinct(s, RECEIVED, T + p.PARTNERS) == p.PARTNERS
    assert p.distinct(s, RECEIVED, T + 7 * p.DAY_MS + p.PARTNERS - 1) == 1


def test_frauds_count_on_their_day_and_only_once_known() -> None:
    s = profile([(T, 1, 500, 3, T)], side=RECEIVED)
    today = T // p.DAY_MS
    assert p.label(s, today, 1, T + 5, True)
    assert p.frauds(s, today, today + 1, T + 4) == 0
    assert p.frauds(s, today, today + 1, T + 5) == 1
    assert p.frauds(s, today + 1, today + 2, T + 5) == 0


def test_a_label_adds_once_and_a_reversal_removes() -> None:
    s = p.blank()
    assert p.label(s, 10, 1, T, True)
    assert not p.label(s, 10, 1, T, True)
    assert p.label(s, 10, 2, T, True)
    assert p.label(s, 10, 1, T, False)
    assert not p.label(s, 10, 1, T, False)
    assert p.frauds(s, 10, 11, T) == 1
    assert s[p.VERSION] == 3


def test_frauds_are_bounded_and_the_oldest_day_goes_first() -> None:
    s = p.blank()
    for i in range(p.FRAUDS + 10):
        p.label(s, 100 + i, i + 1, T, True)
    assert s[p.FRAUD_COUNT] == p.FRAUDS
    assert p.frauds(s, 0, 110, T) == 0
    assert p.frauds(s, 110, 1_000, T) == p.FRAUDS


def test_a_place_is_the_latest_by_event_time_not_by_arrival() -> None:
    s = p.blank()
    p.be_at(s, T, 1, 10, 20)
    p.be_at(s, T - 1, 2, 30, 40)
    assert (s[p.PLACE_TIME], s[p.PLACE_LAT]) == (T, 10)


def test_reset_makes_a_used_profile_blank() -> None:
    s = profile(arrivals(500))
    p.label(s, 3, 4, 5, True)
    p.be_at(s, T, 1, 10, 20)
    p.reset(s)
    # what lies beyond a count of zero is never read
    assert p.encode(s) == p.encode(p.blank())
    for at, slots in ((p.DAY_AT, p.DAYS), (p.MINUTE_AT, p.MINUTES), (p.HOUR_AT, p.HOURS)):
        assert all(s[SENT + at + 3 * i] == -1 for i in range(slots))


@pytest.mark.parametrize(("n", "most"), [(1, 400), (5, 400), (64, 4_100)])
def test_a_profile_is_small(n: int, most: int) -> None:
    events = [
        (t, p.id64(f"k{key}"), amount, p.id64(f"m{other}"), received) for t, key, amount, other, received in arrivals(n)
    ]
    assert len(p.encode(profile(events))) < most


@given(
    st.lists(
        st.tuples(
            st.sampled_from([SENT, RECEIVED]),
            st.integers(0, 2**43),
            st.integers(-(2**63), 2**63 - 1).filter(bool),
            st.integers(0, 10**15),
            st.integers(-(2**63), 2**63 - 1),
            st.integers(0, 2**43),
        ),
        max_size=150,
    ),
    st.lists(st.tuples(st.integers(0, 50_000), st.integers(1, 9), st.integers(0, 2**43), st.booleans()), max_size=20),
)
@settings(max_examples=200, deadline=None)
def test_bytes_give_the_very_profile_back(events: list, labels: list) -> None:
    s = p.blank()
    for side, t, key, amount, other, received in events:
        if p.arrive(s, side, t, key, amount, other, received) and t % 2:
            p.be_at(s, t, key, t % 90_000_000, -(t % 180_000_000))
    for day, key, known, is_fraud in labels:
        p.label(s, day, key, known, is_fraud)
    again = p.decode(p.encode(s))
    assert again[p.VERSION] == s[p.VERSION]
    assert p.encode(again) == p.encode(s)
    for side in (SENT, RECEIVED):
        for t in (0, 2**42, 2**43):
            assert read(again, t, side=side) == read(s, t, side=side)
            assert p.distinct(again, side, t) == p.distinct(s, side, t)


@given(st.binary(max_size=300), st.integers(0, 10_000))
@settings(max_examples=500, deadline=None)
def test_damaged_bytes_are_refused_in_one_way(noise: bytes, at: int) -> None:
    good = p.encode(profile(arrivals(70)))
    for data in (noise, good[: at % len(good)], good + noise, bytes([p.FORMAT]) + noise):
        try:
            assert len(p.decode(data)) == p.SIZE
        except ProfileError:
            continue


def test_ids_are_64_bit_and_never_nobody() -> None:
    ids = {p.id64(f"C{i}") for i in range(10_000)}
    assert len(ids) == 10_000
    assert p.NOBODY not in ids
    assert all(-(2**63) <= number < 2**63 for number in ids)
