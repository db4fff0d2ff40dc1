"""docs/performance.md says what was measured, and says it of what is missed too."""

from typing import Any

import pytest

from benchmarks import table

RESULTS = table.read()


def test_the_page_says_what_the_results_say() -> None:
    text = table.PAGE.read_text()
    assert table.page(text, RESULTS) == text, "write it anew: python -m benchmarks.table"


@pytest.mark.parametrize(
    ("better", "value", "verdict"),
    [
        ("more", 4.9, "**missed**"), ("more", 5, "reached"), ("more", 7, "aim reached"),
        ("less", 8, "**missed**"), ("less", 7, "reached"), ("less", 5, "aim reached"),
    ],
)  # fmt: skip
def test_a_miss_is_called_a_miss(better: Any, value: float, verdict: str) -> None:
    limits = (5, 7) if better == "more" else (7, 5)
    assert table.Claim("something", *limits, ("x",), better).verdict(value) == verdict


def test_what_was_not_measured_is_told_and_not_left_out() -> None:
    lines = table.rows({})
    assert len(lines) == len(table.CLAIMS) + 2
    assert all("not measured" in line for line in lines[2:])


@pytest.mark.parametrize("name", [name for name, part in RESULTS.items() if "measured" in part])
def test_each_result_says_when_and_where_it_was_measured(name: str) -> None:
    assert set(RESULTS[name]["measured"]) == {"date", "machine", "versions"}
