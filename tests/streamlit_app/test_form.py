"""The form as data, and the charts that can be checked without looking at them."""

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from streamlit_app import charts, form, presets
from streamlit_app.answers import Reason

NOW = datetime(2026, 11, 20, 0, 1, tzinfo=UTC)


@pytest.mark.parametrize("preset", presets.ALL.values(), ids=lambda preset: preset.name)
def test_a_form_filled_from_an_example_says_what_the_example_says(preset: presets.Preset) -> None:
    body = preset.build("0a1b2c3d", NOW)
    again = form.body_of(form.values_of(body))
    assert form.body_of(form.values_of(again)) == again
    if not preset.foreign:
        assert again == body
    assert again["amount"] == body.get("amount", body.get("Amount"))


def test_other_names_become_ours_in_the_form_and_anonymised_columns_become_attributes() -> None:
    values = form.values_of({"Amount": 3, "nameOrig": "C1", "merchant_id": "M1", "V1": -1.36, "Time": 0, "step": 4})
    assert form.body_of(values) == {
        "amount": 3.0,
        "step": 4,
        "customer_id": "C1",
        "counterparty_id": "M1",
        "attributes": {"V1": -1.36, "Time": 0},
    }


def test_what_is_empty_is_left_out_and_zero_is_not_empty() -> None:
    values = {"amount": 0.0, "currency": "  ", "type": None, "oldbalanceOrg": 0.0, "attributes": "\n"}
    assert form.body_of(values) == {"amount": 0.0, "oldbalanceOrg": 0.0}


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("a = 12", 12),
        ("a = -1.5e3", -1500.0),
        ("a = web", "web"),
        ('a = "12"', "12"),
        ("a = true", "true"),
        ("a = NaN", "NaN"),
        ("a = 007", "007"),
        ("a = x = y", "x = y"),
        ("a", ""),
    ],
)
def test_an_attribute_is_a_number_where_json_says_so_and_text_otherwise(line: str, value: object) -> None:
    assert form.body_of({"attributes": line}) == {"attributes": {"a": value}}


@pytest.mark.parametrize("value", ["web", "12", "true", " spaced ", 'quo"ted', "two\nlines", 12, -1.36, "", "NaN"])
def test_an_attribute_survives_the_form(value: object) -> None:
    body: dict[str, Any] = {"attributes": {"a": value}}
    assert form.body_of(form.values_of(body)) == body


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"amount" 1}', "line 1, column 11"),
        ("", "line 1, column 1"),
        ("[1]", "object"),
        ('{"amount": NaN}', "NaN"),
        ('{"amount": -Infinity}', "-Infinity"),
        ("[" * 200_000, "nested"),
    ],
)
def test_text_that_is_no_request_is_told_in_one_line(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told) as caught:
        form.read_json(text)
    assert "\n" not in str(caught.value)


def test_examples_have_distinct_names_and_fresh_parties() -> None:
    assert len(presets.ALL) == len(presets.SCENARIOS) + len(presets.TEST_INPUTS) + len(presets.PAYLOADS)
    for preset in presets.ALL.values():
        one, two = preset.build("aaaaaaaa", NOW), preset.build("bbbbbbbb", NOW)
        customers = {body.get("customer_id", body.get("nameOrig")) for body in (one, two)}
        assert len(customers) == 2 or customers == {None}
        assert all(len(str(value)) <= 64 for value in one.values())


def test_examples_are_never_in_the_future() -> None:
    for preset in presets.SCENARIOS:
        moment = datetime.fromisoformat(preset.build("a", NOW)["timestamp"])
        assert NOW - timedelta(days=2) < moment < NOW


# --- charts ----------------------------------------------------------------------------------------------------------


def reason(feature: str, contribution: float) -> Reason:
    return Reason(feature.upper(), feature, 1.0, contribution, f"{feature} counts.")


def rows_of(chart: Any) -> list[dict[str, Any]]:
    """The rows of the chart's bars."""
    datasets: dict[str, list[dict[str, Any]]] = chart.to_dict()["datasets"]
    return max(datasets.values(), key=len)


@pytest.mark.parametrize("probability", [0.0, 1e-12, 0.004, 0.5, 0.9997, 1.0])
def test_the_waterfall_adds_up_to_the_score(probability: float) -> None:
    reasons = [reason("amount", 2.5), reason("hour", -0.75), reason("type", 0.1)]
    rows = rows_of(charts.waterfall(reasons, probability, 0.05, 0.6))
    first, *steps, last = rows
    assert [row["what"] for row in steps] == ["amount", "hour", "type"]
    for before, after in zip([first, *steps], [*steps, last], strict=True):
        if after is not last:
            assert after["from"] == pytest.approx(before["to"])
    assert steps[-1]["to"] == pytest.approx(last["to"])
    assert last["to"] == pytest.approx(charts.log_odds(probability))
    assert [row["label"] for row in steps] == ["+2.50", "-0.75", "+0.10"]


def test_two_reasons_of_one_feature_are_two_bars() -> None:
    rows = rows_of(
        charts.waterfall([reason("amount", 1.0), reason("amount", -1.0), reason("the score", 1.0)], 0.5, None, None)
    )
    assert len({row["what"] for row in rows}) == len(rows) == 5


@pytest.mark.parametrize(("review", "decline"), [(0.05, 0.6), (0.0, 1.0), (0.3, 0.3), (1e-6, 2e-6)])
def test_the_gauge_draws_any_thresholds(review: float, decline: float) -> None:
    document = charts.gauge(0.02, review, decline).to_dict()
    assert f"review from {charts.percent(review)}" in str(document["datasets"])
    assert f"decline from {charts.percent(decline)}" in str(document["datasets"])


@pytest.mark.parametrize(
    ("probability", "shown"),
    [(0.0, "0.00 %"), (1.0, "100.00 %"), (1e-6, "< 0.01 %"), (1 - 1e-6, "> 99.99 %"), (0.9731, "97.31 %")],
)
def test_a_percentage_never_rounds_to_certainty(probability: float, shown: str) -> None:
    assert charts.percent(probability) == shown


@pytest.mark.parametrize(
    ("contribution", "shown"),
    [(math.log(2), "× 2.0"), (-math.log(3.2), "÷ 3.2"), (math.log(60), "× 60"), (0.0, "× 1.0"), (1e9, "× 5e+21")],
)
def test_a_contribution_is_told_as_what_it_does_to_the_odds(contribution: float, shown: str) -> None:
    assert charts.odds(contribution) == shown
