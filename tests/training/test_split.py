"""Who teaches, who calibrates, who judges; the label delay lies free between."""

import numpy as np
import pytest

from training.dataset import DataError
from training.split import (
    DAY_MS,
    Split,
    at_random,
    by_ranges,
    by_time,
    earlier,
    folds,
    parse_day,
    parse_delay,
    parse_range,
    unknown_customers,
)

START = 1_530_403_200_000  # 2018-07-01


def hours(n: int) -> np.ndarray:
    return START + np.arange(n, dtype=np.int64) * 3_600_000


def disjoint(split: Split) -> bool:
    rows = np.concatenate((split.train, split.validation, split.test))
    return len(set(rows.tolist())) == len(rows)


def test_in_time_the_parts_follow_one_another_with_the_delay_free_between() -> None:
    time_ms = hours(1_000)
    delay = 3 * DAY_MS
    split = by_time(time_ms, delay)
    assert len(split.train) == 600
    assert time_ms[split.validation].min() > time_ms[split.train].max() + delay
    assert time_ms[split.validation].max() <= time_ms[split.test].min()
    # What the delay leaves is shared 15 : 25.
    assert len(split.validation) == int((1_000 - 600 - 72) * 0.15 / 0.4)
    assert len(split.validation) + len(split.test) == 1_000 - 600 - 72
    assert disjoint(split)
    assert split.kind == "time, delay 3 d"


def test_rows_out_of_order_are_split_by_their_time() -> None:
    rng = np.random.default_rng(1)
    time_ms = rng.permutation(hours(500))
    split = by_time(time_ms, DAY_MS)
    assert time_ms[split.train].max() + DAY_MS < time_ms[split.validation].min()
    assert time_ms[split.validation].max() < time_ms[split.test].min()


def test_rows_at_the_very_time_of_the_cut_are_on_one_side_only() -> None:
    time_ms = np.repeat(hours(20), 10)
    split = by_time(time_ms, 0)
    assert time_ms[split.train].max() < time_ms[split.validation].min()
    assert disjoint(split)


def test_a_delay_that_leaves_nothing_to_judge_is_refused_with_the_mend() -> None:
    with pytest.raises(DataError, match=r"label delay of 40 days leaves no rows.*--delay"):
        by_time(hours(1_000), 40 * DAY_MS)


def test_too_few_rows_are_refused() -> None:
    for n in (0, 1):
        with pytest.raises(DataError, match="too few rows"):
            by_time(hours(n), 0)


def test_a_random_split_keeps_the_fraud_rate_and_is_the_seeds() -> None:
    labels = (np.arange(10_000) % 50 == 0).astype(np.int8)
    split = at_random(labels, 3)
    assert disjoint(split)
    assert (len(split.train), len(split.validation), len(split.test)) == (6_400, 1_600, 2_000)
    assert [int(labels[part].sum()) for part in (split.train, split.validation, split.test)] == [128, 32, 40]
    np.testing.assert_array_equal(split.test, at_random(labels, 3).test)
    assert not np.array_equal(split.test, at_random(labels, 4).test)


def test_ranges_are_whole_days_with_both_ends_and_a_fifth_calibrates() -> None:
    time_ms = hours(31 * 24)
    split = by_ranges(time_ms, "2018-07-03..2018-07-09", "2018-07-20..2018-07-21", 7 * DAY_MS)
    day = (time_ms - START) // DAY_MS + 1
    assert set(day[split.train]) | set(day[split.validation]) == set(range(3, 10))
    assert len(split.validation) == round(7 * 24 * 0.2)
    assert time_ms[split.train].max() < time_ms[split.validation].min()
    assert set(day[split.test]) == {20, 21}
    assert len(split.test) == 48


def test_the_handbooks_protocol_is_accepted_and_a_day_less_is_not() -> None:
    time_ms = hours(60 * 24)
    by_ranges(time_ms, "2018-07-25..2018-07-31", "2018-08-08..2018-08-14", 7 * DAY_MS)
    with pytest.raises(DataError, match="label delay of 7 days"):
        by_ranges(time_ms, "2018-07-25..2018-07-31", "2018-08-07..2018-08-14", 7 * DAY_MS)


def test_a_validation_range_may_be_named_and_never_teaches() -> None:
    time_ms = hours(31 * 24)
    day = (time_ms - START) // DAY_MS + 1
    apart = by_ranges(time_ms, "2018-07-01..2018-07-05", "2018-07-20..2018-07-21", DAY_MS, "2018-07-08..2018-07-09")
    assert set(day[apart.validation]) == {8, 9}
    assert set(day[apart.train]) == {1, 2, 3, 4, 5}
    within = by_ranges(time_ms, "2018-07-01..2018-07-05", "2018-07-20..2018-07-21", DAY_MS, "2018-07-05..2018-07-06")
    assert set(day[within.train]) == {1, 2, 3, 4}


def test_customers_known_as_compromised_leave_the_test_days_as_in_the_handbook() -> None:
    """Against the published rule, written down day by day: frauds of the training days, and each test day those of one
    day more.
    """
    rng = np.random.default_rng(4)
    n, delay = 40_000, 7
    time_ms = np.sort(START + rng.integers(0, 40 * DAY_MS, n))
    customer, fraud = rng.integers(0, 900, n), rng.random(n) < 0.02
    day = (time_ms - START) // DAY_MS
    first, length = 10, 7
    known = set(customer[fraud & (day >= first) & (day < first + length)].tolist())
    expected: list[int] = []
    for number in range(7):
        known |= set(customer[fraud & (day == first + length + number - 1)].tolist())
        today = np.flatnonzero(day == first + length + delay + number)
        expected += [row for row in today.tolist() if customer[row] not in known]
    test = by_ranges(time_ms, "2018-07-11..2018-07-17", "2018-07-25..2018-07-31", delay * DAY_MS).test
    kept = unknown_customers(test, time_ms, customer, time_ms + delay * DAY_MS, fraud, "2018-07-11")
    assert kept.tolist() == expected
    assert 0 < len(kept) < len(test)
    more = unknown_customers(test, time_ms, customer, time_ms + delay * DAY_MS, fraud, "2018-07-01")
    assert set(more.tolist()) < set(kept.tolist())


def test_a_row_without_a_customer_stays_and_a_label_told_early_counts_early() -> None:
    time_ms = START + np.array([0, 3, 9, 9, 9], np.int64) * DAY_MS + 1
    customer, fraud = np.array([-1, 1, -1, 1, 2]), np.array([True, True, False, False, False])
    rows = np.array([2, 3, 4])
    for delay, kept in ((5, [2, 4]), (6, [2, 3, 4])):
        known = time_ms + delay * DAY_MS  # at a delay of 6 days the fraud is known a millisecond into the test day
        assert unknown_customers(rows, time_ms, customer, known, fraud, "2018-07-01").tolist() == kept
    assert unknown_customers(rows, time_ms, customer, time_ms, fraud, "2018-07-05").tolist() == [2, 3, 4]


def test_a_range_moves_back_by_whole_days() -> None:
    assert earlier("2018-07-25..2018-07-31", 14 * DAY_MS) == "2018-07-11..2018-07-17"
    assert earlier("2018-03-01..2018-03-01", DAY_MS) == "2018-02-28..2018-02-28"


@pytest.mark.parametrize("text", ["", "2018-07", "2018-07-32", "25.7.2018", "2018-07-25..2018-07-31"])
def test_a_day_that_is_none_is_refused_with_an_example(text: str) -> None:
    assert parse_day("2018-07-01") == START
    with pytest.raises(DataError, match="of the form 2018-07-25"):
        parse_day(text)


@pytest.mark.parametrize("validation", ["2018-07-20..2018-07-20", "2018-07-19..2018-07-25", "2018-07-01..2018-07-30"])
def test_a_validation_range_that_reaches_into_the_test_range_is_refused(validation: str) -> None:
    with pytest.raises(DataError, match="validation range"):
        by_ranges(hours(31 * 24), "2018-07-01..2018-07-05", "2018-07-20..2018-07-25", DAY_MS, validation)


def test_a_test_range_before_the_training_range_is_refused() -> None:
    with pytest.raises(DataError, match="test range begins before"):
        by_ranges(hours(31 * 24), "2018-07-10..2018-07-15", "2018-07-01..2018-07-05", 0)


@pytest.mark.parametrize(
    ("train", "test", "name"),
    [
        ("2017-07-01..2017-07-05", "2018-07-20..2018-07-21", "training"),
        ("2018-07-01..2018-07-05", "2019-07-20..2019-07-21", "test"),
    ],
)
def test_an_empty_range_is_named(train: str, test: str, name: str) -> None:
    with pytest.raises(DataError, match=f"The {name} range holds no rows"):
        by_ranges(hours(31 * 24), train, test, 0)


def test_a_range_is_parsed_to_its_first_ms_and_the_first_after() -> None:
    begin, end = parse_range("2018-07-01..2018-07-01")
    assert (begin, end - begin) == (START, DAY_MS)


@pytest.mark.parametrize("text", ["", "2018-07-01", "a..b", "2018-07-01..", "2018-13-01..2018-13-02", "1..2..3"])
def test_a_range_that_is_none_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(DataError, match=r"such as 2018-07-25\.\.2018-07-31"):
        parse_range(text)


def test_a_range_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(DataError, match="last day must not be before its first"):
        parse_range("2018-07-02..2018-07-01")


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("7d", 7 * DAY_MS),
        ("36h", 36 * 3_600_000),
        ("0", 0),
        ("2", 2 * DAY_MS),
        ("90m", 5_400_000),
        ("0.5d", DAY_MS // 2),
    ],
)
def test_a_delay_is_days_hours_or_minutes(text: str, ms: int) -> None:
    assert parse_delay(text) == ms


@pytest.mark.parametrize("text", ["", "d", "-1d", "7w", "nan", "inf", "1e9d", "seven"])
def test_a_delay_that_is_none_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(DataError, match="such as 7d or 36h"):
        parse_delay(text)


def test_folds_judge_each_row_once_and_share_the_frauds_evenly() -> None:
    labels = (np.arange(1_003) % 100 == 0).astype(np.int8)  # 11 frauds
    parts = folds(labels, 5, 2)
    assert sorted(np.concatenate(parts).tolist()) == list(range(1_003))
    assert sorted(int(labels[part].sum()) for part in parts) == [2, 2, 2, 2, 3]
    assert max(map(len, parts)) - min(map(len, parts)) <= 2
    np.testing.assert_array_equal(parts[0], folds(labels, 5, 2)[0])
