"""Altair charts of a model and of a change: curves, costs by threshold, a back-test. Colours as in ``charts.py``."""

from collections.abc import Mapping, Sequence
from typing import cast

import altair as alt
import numpy as np
import numpy.typing as npt
import pandas as pd

from streamlit_app.answers import Curves, DayFigures, Move, Thresholds
from streamlit_app.charts import ACCENT, APPROVE, DECLINE, QUIET, REVIEW
from streamlit_app.simulate import Floats, Grid, Policy

_LEGEND = alt.Legend(title=None, orient="top", direction="horizontal")


# --- costs by threshold ----------------------------------------------------------------------------------------------


_POLICIES = alt.Scale(domain=["the model's", "yours", "the best"], range=[QUIET, ACCENT, APPROVE])


def costs(
    grid: Grid, cost: Floats, fits: npt.NDArray[np.bool_], marks: Mapping[str, Policy], currency: str
) -> alt.LayerChart:
    """Cost per 1,000 by review threshold, faint where people cannot keep up, and where policies lie.

    ``cost`` is NaN where there is no such threshold.
    """
    known = np.isfinite(cost) & (grid.threshold <= 1.0)
    frame = pd.DataFrame(
        {
            "threshold": np.clip(grid.threshold[known], 1e-4, 1.0),
            "cost": cost[known],
            "flagged": grid.flagged[known] / 1000,
            "fits": fits[known],
        }
    )
    points = pd.DataFrame(
        [
            {"threshold": max(policy.thresholds.review, 1e-4), "cost": policy.cost, "which": name}
            for name, policy in marks.items()
        ]
    )
    # Where nearly all is reviewed the cost leaves every scale on which the rest could be told apart.
    top = float(max(points["cost"].max() * 2.2, np.nanmin(cost) * 3, 1e-9))
    x = alt.X(
        "threshold:Q",
        title="review from (the low end is stretched)",
        scale=alt.Scale(type="log", domain=[1e-4, 1.0]),
        axis=alt.Axis(format="~%", values=[1e-4, 1e-3, 0.01, 0.1, 1]),
    )
    y = alt.Y(
        "cost:Q",
        title=f"cost per 1,000 ({currency})",
        scale=alt.Scale(domain=[0, top], clamp=True),
        axis=alt.Axis(tickCount=5),
    )
    told = [
        alt.Tooltip("threshold:Q", format=".2%"),
        alt.Tooltip("cost:Q", format=",.2f"),
        alt.Tooltip("flagged:Q", format=".2%"),
    ]
    line = alt.Chart(frame).mark_line(color=QUIET, clip=True).encode(x=x, y=y, tooltip=told)
    color = alt.Color("which:N", scale=_POLICIES, legend=_LEGEND)
    dots = alt.Chart(points).encode(
        x=x,
        color=color,
        tooltip=["which:N", alt.Tooltip("threshold:Q", format=".2%"), alt.Tooltip("cost:Q", format=",.2f")],
    )
    layers = [
        line.encode(opacity=alt.value(0.35)),
        line.transform_filter("datum.fits"),
        dots.mark_rule(strokeDash=[4, 3]),
        dots.mark_point(size=130, filled=True, opacity=1).encode(y=y),
    ]
    return cast(alt.LayerChart, alt.layer(*layers).properties(height=300))


def workload(grid: Grid, per_day: float, capacity: float, marks: Mapping[str, Policy]) -> alt.LayerChart:
    """Share of frauds flagged, against alerts a day: what more people would buy."""
    days = per_day / 1000
    frame = pd.DataFrame({"alerts": grid.flagged * days, "recall": grid.frauds / grid.frauds[-1]})
    most = max(capacity * 3, *(policy.reviews_per_day + policy.declines_per_day for policy in marks.values())) * 1.3
    points = pd.DataFrame(
        [
            {"alerts": policy.reviews_per_day + policy.declines_per_day, "recall": policy.recall, "which": name}
            for name, policy in marks.items()
        ]
    )
    x = alt.X("alerts:Q", title="alerts a day (reviews and declines)", scale=alt.Scale(domain=[0, max(most, 1.0)]),
              axis=alt.Axis(tickCount=6))  # fmt: skip
    y = alt.Y("recall:Q", title="frauds flagged", axis=alt.Axis(format="~%", tickCount=5))
    line = alt.Chart(frame).mark_line(color=QUIET, clip=True, interpolate="step-after").encode(x=x, y=y)
    dots = alt.Chart(points).mark_point(size=130, filled=True, opacity=1).encode(
        x=x, y=y, color=alt.Color("which:N", scale=_POLICIES, legend=_LEGEND),
        tooltip=["which:N", alt.Tooltip("alerts:Q", format=",.1f"), alt.Tooltip("recall:Q", format=".1%")],
    )  # fmt: skip
    return cast(alt.LayerChart, alt.layer(line, dots).properties(height=300))


# --- a back-test -----------------------------------------------------------------------------------------------------


def moves(found: Sequence[Move]) -> alt.LayerChart:
    """Decisions by outcome before and after."""
    order = ["approve", "review", "decline"]
    frame = pd.DataFrame(
        [
            {
                "before": move.before, "after": move.after,
                "changed": "changed" if move.before != move.after else "same",
                "n": move.fraud.decisions + move.legitimate.decisions + move.unlabelled.decisions,
                "fraud": move.fraud.decisions, "legitimate": move.legitimate.decisions,
                "unlabelled": move.unlabelled.decisions,
            }
            for move in found
        ]
    )  # fmt: skip
    base = alt.Chart(frame).encode(
        x=alt.X("after:N", sort=order, scale=alt.Scale(domain=order), title="after",
                axis=alt.Axis(labelAngle=0, orient="top", domain=False, ticks=False)),
        y=alt.Y("before:N", sort=order, scale=alt.Scale(domain=order), title="before",
                axis=alt.Axis(domain=False, ticks=False)),
        tooltip=["before:N", "after:N", alt.Tooltip("n:Q", title="decisions", format=","),
                 alt.Tooltip("fraud:Q", format=","), alt.Tooltip("legitimate:Q", format=","),
                 alt.Tooltip("unlabelled:Q", format=",")],
    )  # fmt: skip
    cells = base.mark_rect(cornerRadius=4, opacity=0.35).encode(
        color=alt.Color("changed:N", scale=alt.Scale(domain=["changed", "same"], range=[ACCENT, QUIET]), legend=None)
    )
    numbers = base.mark_text(fontSize=14, color=QUIET, fontWeight="bold").encode(text=alt.Text("n:Q", format=","))
    return cast(alt.LayerChart, alt.layer(cells, numbers).properties(height=230))


def reviews_by_day(days: Sequence[DayFigures], capacity: float) -> alt.LayerChart:
    """Reviews a day before and after, and how many people can do."""
    frame = pd.DataFrame(
        [
            {"day": day.day, "when": when, "reviews": value}
            for day in days
            for when, value in (("before", day.reviews_before), ("after", day.reviews_after))
        ]
    )
    bars = alt.Chart(frame, title="Reviews a day; the line is what people can do").mark_bar(cornerRadius=1).encode(
        x=alt.X("day:O", title=None, axis=alt.Axis(labelAngle=-40, labelOverlap=True)),
        xOffset=alt.XOffset("when:N", sort=["before", "after"]),
        y=alt.Y("reviews:Q", title=None, axis=alt.Axis(tickCount=4, format="d")),
        color=alt.Color("when:N", scale=alt.Scale(domain=["before", "after"], range=[QUIET, ACCENT]), legend=_LEGEND),
        tooltip=["day:O", "when:N", alt.Tooltip("reviews:Q", format=",")],
    )  # fmt: skip
    line = alt.Chart(pd.DataFrame({"at": [capacity]})).mark_rule(color=DECLINE, strokeDash=[5, 3]).encode(y="at:Q")
    return cast(alt.LayerChart, alt.layer(bars, line).properties(height=190))


# --- a model's curves ------------------------------------------------------------------------------------------------


def precision_recall(curves: Curves, thresholds: Thresholds) -> alt.LayerChart:
    """Precision by recall at the true rate of fraud, with both thresholds on it."""
    assert curves.pr is not None
    pr = curves.pr
    frame = pd.DataFrame({"recall": pr.recall, "precision": pr.precision, "threshold": pr.threshold})
    x = alt.X("recall:Q", title="recall: frauds that are flagged", scale=alt.Scale(domain=[0, 1]),
              axis=alt.Axis(format="~%", tickCount=5))  # fmt: skip
    y = alt.Y("precision:Q", title="precision", scale=alt.Scale(domain=[0, 1]),
              axis=alt.Axis(format="~%", tickCount=5))  # fmt: skip
    line = alt.Chart(frame).mark_line(color=ACCENT).encode(x=x, y=y, tooltip=_told("recall", "precision"))
    return cast(alt.LayerChart, alt.layer(line, *_thresholds(frame, thresholds, x, y)).properties(height=260))


def roc(curves: Curves, thresholds: Thresholds) -> alt.LayerChart:
    """True positive rate by false positive rate, whose low end alone is of use and is stretched."""
    assert curves.roc is not None
    found = curves.roc
    frame = pd.DataFrame({"fpr": found.fpr, "tpr": found.tpr, "threshold": found.threshold})
    x = alt.X(
        "fpr:Q",
        title="false positive rate (stretched)",
        scale=alt.Scale(type="sqrt", domain=[0, 1]),
        axis=alt.Axis(format="~%", values=[0, 0.01, 0.05, 0.1, 0.25, 0.5, 1]),
    )
    y = alt.Y("tpr:Q", title="recall", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="~%", tickCount=5))
    line = alt.Chart(frame).mark_line(color=ACCENT).encode(x=x, y=y, tooltip=_told("fpr", "tpr"))
    return cast(alt.LayerChart, alt.layer(line, *_thresholds(frame, thresholds, x, y)).properties(height=260))


def _told(*names: str) -> list[alt.Tooltip]:
    return [alt.Tooltip(f"{name}:Q", format=".3%") for name in (*names, "threshold")]


def _thresholds(frame: pd.DataFrame, thresholds: Thresholds, x: alt.X, y: alt.Y) -> list[alt.Chart]:
    """The points of the curve at which the model's own thresholds lie."""
    rows = []
    for name, at in (("decline", thresholds.decline), ("review", thresholds.review)):
        above = frame[frame["threshold"] >= at]
        if not above.empty:
            point = above.sort_values("threshold").head(1).to_dict("records")[0]
            rows.append({**point, "which": name})
    if not rows:
        return []
    points = pd.DataFrame(rows)
    color = alt.Color("which:N", scale=alt.Scale(domain=list(points["which"]), range=[DECLINE, REVIEW]), legend=_LEGEND)
    return [alt.Chart(points).mark_point(size=110, filled=True, opacity=1).encode(x=x, y=y, color=color)]


def calibration(curves: Curves) -> alt.LayerChart:
    """What became of each probability, with its interval: on the diagonal one can take it at its word."""
    frame = pd.DataFrame(
        [
            {
                "promised": max(each.mean_probability, 1e-5), "came": max(each.fraud_rate, 1e-5),
                "low": max(each.interval[0], 1e-5) if each.interval else None,
                "high": max(each.interval[1], 1e-5) if each.interval else None,
                "rows": each.rows, "frauds": each.frauds,
            }
            for each in curves.calibration
        ]
    )  # fmt: skip
    scale = alt.Scale(type="log", domain=[1e-5, 1], clamp=True)
    axis = alt.Axis(format="~%", values=[1e-5, 1e-4, 1e-3, 0.01, 0.1, 1])
    x = alt.X("promised:Q", title="probability that was given", scale=scale, axis=axis)
    told = [
        alt.Tooltip("promised:Q", format=".3%"), alt.Tooltip("came:Q", format=".3%"),
        alt.Tooltip("rows:Q", format=","), alt.Tooltip("frauds:Q", format=","),
    ]  # fmt: skip
    base = alt.Chart(frame).encode(x=x, tooltip=told)
    diagonal = alt.Chart(pd.DataFrame({"promised": [1e-5, 1.0], "came": [1e-5, 1.0]})).mark_line(
        color=QUIET, strokeDash=[4, 3]
    ).encode(x=x, y=alt.Y("came:Q", title="share that was fraud", scale=scale, axis=axis))  # fmt: skip
    bars = base.mark_rule(color=ACCENT, strokeWidth=2, opacity=0.6).encode(y=alt.Y("low:Q"), y2="high:Q")
    points = base.mark_point(size=70, filled=True, color=ACCENT, opacity=1).encode(y=alt.Y("came:Q"))
    return cast(alt.LayerChart, alt.layer(diagonal, bars, points).properties(height=260))


def weights(found: Sequence[tuple[str, float]], title: str) -> alt.Chart:
    """Features by how far they move the score, in log-odds."""
    frame = pd.DataFrame(found, columns=["feature", "weight"])
    bars = alt.Chart(frame).mark_bar(color=ACCENT, cornerRadius=2, height=13).encode(
        y=alt.Y("feature:N", sort=None, title=None,
                axis=alt.Axis(labelLimit=200, ticks=False, domain=False, labelOverlap=False, labelFlush=False)),
        x=alt.X("weight:Q", title=title, axis=alt.Axis(tickCount=5)),
        tooltip=["feature:N", alt.Tooltip("weight:Q", format=".3f")],
    )  # fmt: skip
    return cast(alt.Chart, bars.properties(height=22 * len(frame) + 40))
