"""Altair charts of many decisions: a batch, days of figures, the last minutes, drift. Colours as in ``charts.py``."""

import itertools
from collections.abc import Sequence
from typing import cast

import altair as alt
import pandas as pd

from streamlit_app.answers import Calibration, Day, Finding
from streamlit_app.charts import ACCENT, APPROVE, DECLINE, QUIET, REVIEW

_OUTCOMES = ["approve", "review", "decline"]
_OUTCOME_COLOR = alt.Color(
    "outcome:N", scale=alt.Scale(domain=_OUTCOMES, range=[APPROVE, REVIEW, DECLINE]), legend=None
)
_LEGEND = alt.Legend(title=None, orient="top", direction="horizontal")


# --- a batch ---------------------------------------------------------------------------------------------------------


def outcome_bars(scored: pd.DataFrame) -> alt.Chart:
    """Rows and money (``amount_base``) by ``outcome``."""
    counts = scored.groupby("outcome", as_index=False).agg(rows=("row", "size"), money=("amount_base", "sum"))
    bars = (
        alt.Chart(counts, title="Rows by outcome")
        .mark_bar(cornerRadius=2, height=22)
        .encode(
            y=alt.Y("outcome:N", sort=_OUTCOMES, title=None),
            x=alt.X("rows:Q", title=None, axis=alt.Axis(format="d", tickCount=4)),
            color=_OUTCOME_COLOR,
            tooltip=["outcome:N", alt.Tooltip("rows:Q", format=","), alt.Tooltip("money:Q", format=",.2f")],
        )
    )
    return cast(alt.Chart, bars.properties(height=170))


def probability_bars(scored: pd.DataFrame) -> alt.Chart:
    """Rows by fraud probability, in bins that are narrow where thresholds lie; the count on a root's scale."""
    edges = [0, 0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0]
    names = [f"{low * 100:g}-{high * 100:g} %" for low, high in itertools.pairwise(edges)]
    known = scored[scored["probability"].notna()]
    binned = pd.cut(known["probability"].astype(float), edges, labels=names, include_lowest=True).astype(str)
    counts = (
        pd.DataFrame({"probability": binned, "outcome": known["outcome"]})
        .groupby(["probability", "outcome"], as_index=False)
        .size()
    )
    bars = (
        alt.Chart(counts, title="Rows by fraud probability (low counts are stretched)")
        .mark_bar(cornerRadius=1)
        .encode(
            x=alt.X("probability:N", sort=names, scale=alt.Scale(domain=names), title=None,
                    axis=alt.Axis(labelAngle=-40)),
            y=alt.Y("size:Q", title=None, scale=alt.Scale(type="sqrt"), axis=alt.Axis(format="d", tickCount=4)),
            color=_OUTCOME_COLOR,
            tooltip=["probability:N", "outcome:N", alt.Tooltip("size:Q", title="rows", format=",")],
        )
    )  # fmt: skip
    return cast(alt.Chart, bars.properties(height=170))


# --- days of figures -------------------------------------------------------------------------------------------------


def _by_day(rows: list[dict[str, object]], title: str) -> alt.Chart:
    return alt.Chart(pd.DataFrame(rows), title=title)


def _day_axis() -> alt.X:
    return alt.X("day:T", title=None, axis=alt.Axis(format="%d %b", tickCount=8, grid=False))


def volume(days: Sequence[Day]) -> alt.Chart:
    """Alerts by day: what was reviewed and what declined; approved ones would hide both and are in the tooltip."""
    rows: list[dict[str, object]] = [
        {"day": day.day, "outcome": name, "n": day.outcomes.get(name, 0), "all": day.decisions}
        for day in days
        for name in ("review", "decline")
    ]
    bars = _by_day(rows, "Alerts a day").mark_bar(cornerRadius=1).encode(
        x=alt.X("day:T", timeUnit="yearmonthdate", title=None, axis=alt.Axis(format="%d %b", tickCount=8, grid=False)),
        y=alt.Y("n:Q", title=None, axis=alt.Axis(format="d", tickCount=4)),
        color=alt.Color("outcome:N", scale=alt.Scale(domain=["review", "decline"], range=[REVIEW, DECLINE]),
                        legend=_LEGEND),
        order=alt.Order("outcome:N", sort="descending"),
        tooltip=["day:T", "outcome:N", alt.Tooltip("n:Q", title="decisions", format=","),
                 alt.Tooltip("all:Q", title="of all", format=",")],
    )  # fmt: skip
    return cast(alt.Chart, bars.properties(height=230))


def lines(
    days: Sequence[Day], series: dict[str, tuple[str, list[float | None]]], title: str, unit: str
) -> alt.LayerChart:
    """Lines over days, name -> (colour, a value or None for each day); ``unit`` is a d3 format.

    Values of days that are not mature yet are hollow: they will still move.
    """
    rows: list[dict[str, object]] = [
        {"day": day.day, "series": name, "value": value, "mature": day.mature}
        for name, (_, values) in series.items()
        for day, value in zip(days, values, strict=True)
        if value is not None
    ]
    frame = pd.DataFrame(rows, columns=["day", "series", "value", "mature"])
    base = alt.Chart(frame, title=title).encode(
        x=_day_axis(),
        y=alt.Y("value:Q", title=None, axis=alt.Axis(format=unit, tickCount=4)),
        color=alt.Color(
            "series:N",
            scale=alt.Scale(domain=list(series), range=[color for color, _ in series.values()]),
            legend=_LEGEND if len(series) > 1 else None,
        ),
        tooltip=["day:T", "series:N", alt.Tooltip("value:Q", format=unit), alt.Tooltip("mature:N", title="settled")],
    )
    points = base.mark_point(size=34, filled=True).transform_filter("datum.mature")
    young = base.mark_point(size=34, filled=False, strokeWidth=1.5).transform_filter("!datum.mature")
    return cast(alt.LayerChart, alt.layer(base.mark_line(opacity=0.7), points, young).properties(height=230))


def latest(frame: pd.DataFrame, warn_from: float) -> alt.LayerChart:
    """The latest decisions by ``arrived``: ``probability`` against time, by ``outcome``, and the warning's line."""
    points = alt.Chart(frame, title="The latest decisions").mark_circle(size=55, opacity=0.75).encode(
        x=alt.X("arrived:T", title=None, axis=alt.Axis(format="%d %b %H:%M", tickCount=6, grid=False)),
        y=alt.Y("probability:Q", title="fraud probability", scale=alt.Scale(domain=[0, 1]),
                axis=alt.Axis(format="~%", tickCount=5)),
        color=_OUTCOME_COLOR,
        tooltip=["transaction_id:N", alt.Tooltip("arrived:T", format="%Y-%m-%d %H:%M:%S"), "outcome:N",
                 alt.Tooltip("probability:Q", format=".2%"), alt.Tooltip("amount:Q", format=",.2f")],
    )  # fmt: skip
    line = alt.Chart(pd.DataFrame({"at": [warn_from]})).mark_rule(color=DECLINE, strokeDash=[5, 3]).encode(y="at:Q")
    return cast(alt.LayerChart, alt.layer(line, points).properties(height=230))


# --- drift -----------------------------------------------------------------------------------------------------------


def histogram(finding: Finding) -> alt.Chart:
    """Shares of one feature's bins, as it was when the model was judged and as it is."""
    names = bin_names(finding)
    rows = [
        {"bin": name, "when": when, "share": share}
        for when, shares in (("training", finding.histogram.reference), ("now", finding.histogram.found))
        for name, share in zip(names, shares, strict=False)
    ]
    bars = alt.Chart(pd.DataFrame(rows)).mark_bar(cornerRadius=1).encode(
        x=alt.X("bin:N", sort=None, title=None, axis=alt.Axis(labelAngle=-40, labelLimit=110)),
        xOffset=alt.XOffset("when:N", sort=["training", "now"]),
        y=alt.Y("share:Q", title="share of decisions", axis=alt.Axis(format="~%", tickCount=4)),
        color=alt.Color("when:N", scale=alt.Scale(domain=["training", "now"], range=[QUIET, ACCENT]), legend=_LEGEND),
        tooltip=["bin:N", "when:N", alt.Tooltip("share:Q", format=".2%")],
    )  # fmt: skip
    return cast(alt.Chart, bars.properties(height=250))


def bin_names(finding: Finding) -> list[str]:
    """Names of the histogram's bins, the last ones for what is none of them and what is missing."""
    shape = finding.histogram
    if shape.levels:
        names = [*shape.levels, "none of them", "missing"]
    elif not shape.edges:
        names = ["all", "missing"]
    else:
        inner = [f"to {short(high)}" for high in shape.edges]
        names = [*inner, f"above {short(shape.edges[-1])}", "missing"]
    bins = len(shape.reference)
    return [*names[: bins - 1], names[-1]] if bins < len(names) else names


def short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def drift_bars(findings: Sequence[Finding], most: int = 15) -> alt.LayerChart:
    """PSI of what moved furthest against its own limit: the bar is red where it lies beyond the tick."""
    judged = [f for f in findings if f.psi is not None and f.limit is not None]
    judged.sort(key=lambda f: -(f.psi or 0.0) / (f.limit or 1.0))
    frame = pd.DataFrame(
        [
            {"feature": f.name, "psi": f.psi, "limit": f.limit, "state": "drift" if f.alarm else "quiet"}
            for f in judged[:most]
        ],
        columns=["feature", "psi", "limit", "state"],
    )
    y = alt.Y(
        "feature:N",
        sort=None,
        title=None,
        axis=alt.Axis(labelLimit=190, ticks=False, domain=False, labelOverlap=False, labelFlush=False),
    )
    told = ["feature:N", alt.Tooltip("psi:Q", format=".3f"), alt.Tooltip("limit:Q", format=".3f"), "state:N"]
    bars = alt.Chart(frame).mark_bar(height=12, cornerRadius=2).encode(
        y=y, x=alt.X("psi:Q", title="PSI; the mark is the feature's own limit", axis=alt.Axis(tickCount=5)),
        color=alt.Color("state:N", scale=alt.Scale(domain=["drift", "quiet"], range=[DECLINE, ACCENT]), legend=None),
        tooltip=told,
    )  # fmt: skip
    ticks = alt.Chart(frame).mark_tick(color=QUIET, thickness=2, size=18).encode(y=y, x="limit:Q", tooltip=told)
    return cast(alt.LayerChart, alt.layer(bars, ticks).properties(height=22 * len(frame) + 40))


def promised(calibration: Calibration) -> str:
    """What became of the probabilities, as a sentence."""
    if calibration.ratio is None:
        return "Too few labels are due to hold the probabilities against what became of them."
    interval = (
        f" (between {calibration.low:.2f} and {calibration.high:.2f} in 95 of 100 cases)"
        if calibration.low is not None and calibration.high is not None
        else ""
    )
    return (
        f"{calibration.observed:,} frauds where the probabilities promised {calibration.expected:,.1f}: "
        f"{calibration.ratio:.2f} times as many{interval}, of {calibration.n:,} decisions on {calibration.days} days."
    )
