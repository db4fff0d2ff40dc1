"""Altair charts that read well on light and on dark: own colours for marks, the theme's for axes and labels."""

import math
from collections.abc import Sequence
from typing import Literal, cast

import altair as alt
import pandas as pd

from streamlit_app.answers import Reason, UsualAmounts

APPROVE, REVIEW, DECLINE = "#2a9d6f", "#e0a021", "#d8474f"
#: Readable on white and on near-black alike (contrast above 4 to 1 on both): text marks know no theme.
QUIET = "#7b8494"
#: What is looked at now, among what was before.
ACCENT = "#3f7fe8"
_START = "start and all else"
_SCORE = "the score"


def gauge(probability: float, review_from: float, decline_from: float) -> alt.LayerChart:
    """The calibrated probability among the three outcomes. The scale is stretched at its low end (square root).

    All heights are pixels from the top: two rows of labels (one for each threshold, so that close thresholds do not
    write over each other), then the band with the needle, then the axis.
    """
    axis = alt.Axis(
        title="fraud probability (the low end is stretched)",
        titlePadding=8,
        values=[0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1],
        format="~%",
        grid=False,
        domain=False,
        ticks=False,
        labelOverlap=True,
        orient="bottom",
    )
    scale = alt.Scale(type="sqrt", domain=[0, 1], nice=False)
    bands = pd.DataFrame(
        {
            "from": [0.0, review_from, decline_from],
            "to": [review_from, decline_from, 1.0],
            "outcome": ["approve", "review", "decline"],
        }
    )
    layers: list[alt.Chart] = [
        alt.Chart(bands)
        .mark_rect(y=42, y2=66)
        .encode(
            x=alt.X("from:Q", scale=scale, axis=axis),
            x2="to:Q",
            color=alt.Color(
                "outcome:N",
                scale=alt.Scale(domain=["approve", "review", "decline"], range=[APPROVE, REVIEW, DECLINE]),
                legend=None,
            ),
            tooltip=[
                alt.Tooltip("outcome:N"),
                alt.Tooltip("from:Q", format=".2%"),
                alt.Tooltip("to:Q", format=".2%"),
            ],
        )
    ]
    for name, threshold, color, top in (("review", review_from, REVIEW, 8), ("decline", decline_from, DECLINE, 26)):
        mark = alt.Chart(pd.DataFrame({"at": [threshold], "label": [f"{name} from {percent(threshold)}"]}))
        leftwards = threshold > 0.3  # a square root later: past the middle
        side: Literal["left", "right"] = "right" if leftwards else "left"
        layers += [
            mark.mark_rule(color=color, strokeWidth=2, y=top - 7, y2=66).encode(x="at:Q"),
            mark.mark_text(color=QUIET, align=side, dx=-6 if leftwards else 6, y=top, fontSize=12).encode(
                x="at:Q", text="label:N"
            ),
        ]
    # Dark within white stands out on each of the three colours, and in both themes.
    here = alt.Chart(pd.DataFrame({"at": [probability]})).encode(x="at:Q")
    layers += [
        here.mark_rule(color="#ffffff", strokeWidth=9, strokeCap="round", y=38, y2=70),
        here.mark_rule(color="#11151d", strokeWidth=5, strokeCap="round", y=38, y2=70),
    ]
    return cast(alt.LayerChart, alt.layer(*layers).properties(height=126))


def waterfall(
    reasons: Sequence[Reason], probability: float, review_from: float | None, decline_from: float | None
) -> alt.LayerChart:
    """From where the model starts to the score, in log-odds: the given reasons and, first, all the rest together.

    The rest is what is left of the score's log-odds, so the bars always add up. ``probability`` is kept within
    1e-9 of 0 and 1, where log-odds are finite.
    """
    score = log_odds(probability)
    at = score - math.fsum(reason.contribution for reason in reasons)
    rows: list[dict[str, object]] = []

    def row(what: str, start: float, end: float, push: str, text: str) -> None:
        shown = end - start
        rows.append(
            {
                "what": what,
                "from": start,
                "to": end,
                "right": max(start, end),
                "push": push,
                "label": f"{shown:+.2f}",
                "text": text,
            }
        )

    row(_START, 0.0, at, "sum", "Where the model starts, and all that is not named here.")
    names = _distinct([reason.feature for reason in reasons])
    for name, reason in zip(names, reasons, strict=True):
        row(name, at, at + reason.contribution, "fraud" if reason.contribution > 0 else "legitimate", reason.text)
        at += reason.contribution
    row(_SCORE, 0.0, score, "sum", f"A probability of {percent(probability)}.")
    frame = pd.DataFrame(rows)
    # Both thresholds stay in view, and there is room on the right for the numbers.
    thresholds = [
        (f"{name} from {percent(threshold)}", log_odds(threshold), color)
        for name, threshold, color in (("review", review_from, REVIEW), ("decline", decline_from, DECLINE))
        if threshold is not None
    ]
    ends = [*frame["from"], *frame["to"], *(at for _, at, _ in thresholds)]
    low, high = min(ends), max(ends)
    room = max(high - low, 1.0) * 0.14
    x = alt.X(
        "from:Q",
        title="log-odds of fraud",
        scale=alt.Scale(domain=[low - room / 4, high + room], nice=False),
        axis=alt.Axis(grid=True, tickCount=6),
    )
    y = alt.Y("what:N", sort=None, title=None, axis=alt.Axis(labelLimit=170, ticks=False, domain=False, labelPadding=6))
    bars = (
        alt.Chart(frame)
        .mark_bar(height=16, cornerRadius=2)
        .encode(
            y=y,
            x=x,
            x2="to:Q",
            color=alt.Color(
                "push:N",
                scale=alt.Scale(domain=["fraud", "legitimate", "sum"], range=[DECLINE, APPROVE, QUIET]),
                legend=None,
            ),
            tooltip=[alt.Tooltip("text:N", title="reason"), alt.Tooltip("label:N", title="log-odds")],
        )
    )
    numbers = (
        alt.Chart(frame)
        .mark_text(align="left", dx=5, color=QUIET, fontSize=12)
        .encode(y=y, x=alt.X("right:Q"), text="label:N")
    )
    lines = [
        alt.Chart(pd.DataFrame({"at": [at], "name": [name]}))
        .mark_rule(color=color, strokeWidth=2, strokeDash=[5, 3])
        .encode(x=alt.X("at:Q"), tooltip=[alt.Tooltip("name:N", title="threshold")])
        for name, at, color in thresholds
    ]
    return cast(alt.LayerChart, alt.layer(*lines, bars, numbers).properties(height=29 * len(rows) + 52))


def log_odds(probability: float) -> float:
    """ln(p / (1 - p)), with p kept within 1e-9 of 0 and 1."""
    inside = min(max(probability, 1e-9), 1 - 1e-9)
    return math.log(inside / (1 - inside))


def percent(probability: float) -> str:
    """``97.31 %``; never 0 or 100 for what is neither."""
    if 0 < probability < 0.0001:
        return "< 0.01 %"
    if 0.9999 < probability < 1:
        return "> 99.99 %"
    return f"{probability * 100:.2f} %"


def odds(contribution: float) -> str:
    """What a contribution in log-odds does to the odds of fraud: ``× 10`` or ``÷ 3.2``."""
    factor = math.exp(min(abs(contribution), 50.0))
    size = f"{factor:.1f}" if factor < 9.95 else f"{factor:,.0f}" if factor < 999_999.5 else f"{factor:.0e}"
    return f"{'×' if contribution >= 0 else '÷'} {size}"


def _distinct(names: Sequence[str]) -> list[str]:
    """``names`` with a number behind those already taken: two rows of one name would be drawn as one."""
    taken = {_START, _SCORE}
    distinct = []
    for name in names:
        fresh, number = name, 2
        while fresh in taken:
            fresh, number = f"{name} ({number})", number + 1
        taken.add(fresh)
        distinct.append(fresh)
    return distinct


# --- a party's normal ------------------------------------------------------------------------------------------------


def amounts(usual: UsualAmounts, here: float, currency: str) -> alt.LayerChart:
    """The band of usual amounts (10 % to 90 %), the middle one, the largest, and this one, on a logarithm of money.

    Cents at least: a logarithm knows no zero. Heights are pixels from the top, as in :func:`gauge`.
    """
    low, middle, high, most, at = (max(value, 0.01) for value in (usual.p10, usual.p50, usual.p90, usual.max, here))
    x = alt.X(
        "at:Q",
        title=f"amount, {currency}",
        scale=alt.Scale(type="log", domain=[min(low, at) / 1.5, max(most, at) * 1.5], nice=False),
        axis=alt.Axis(format="~s", tickCount=4, grid=False),
    )
    band = alt.Chart(pd.DataFrame({"at": [low], "to": [high], "what": ["usual (10 % to 90 %)"]}))
    ticks = pd.DataFrame(
        {"at": [middle, most, at], "what": ["middle", "largest", "this one"], "color": [QUIET, QUIET, ACCENT]}
    )
    marks = alt.Chart(ticks)
    # This one has a row of its own; the other two share one, where they do not write over each other.
    others = ticks[(ticks["what"] == "largest") | ((ticks["what"] == "middle") & (most > middle * 1.6))]
    told = [alt.Tooltip("what:N", title="which"), alt.Tooltip("at:Q", title="amount", format=",.2f")]
    return cast(
        alt.LayerChart,
        alt.layer(
            band.mark_bar(height=18, color=QUIET, opacity=0.35, cornerRadius=3, y=50).encode(
                x=x, x2="to:Q", tooltip=["what:N"]
            ),
            marks.mark_tick(thickness=3, size=26, y=50).encode(
                x=x, color=alt.Color("color:N", scale=None), tooltip=told
            ),
            alt.Chart(others).mark_text(fontSize=12, y=27, color=QUIET).encode(x=x, text="what:N"),
            alt.Chart(ticks[ticks["what"] == "this one"])
            .mark_text(fontSize=12, y=9, color=ACCENT)
            .encode(x=x, text="what:N"),
        ).properties(height=124),
    )


def hours(counts: Sequence[int], here: int | None) -> alt.Chart:
    """Earlier transactions by hour of the day; this one's hour stands out."""
    frame = pd.DataFrame(
        {
            "hour": range(24),
            "n": counts,
            "which": ["this one's hour" if hour == here else "earlier" for hour in range(24)],
        }
    )
    # An hour without a bar is told by its mark on the axis.
    bars = (
        alt.Chart(frame)
        .mark_bar(cornerRadius=1)
        .encode(
            x=alt.X("hour:O", title="hour of the day", axis=alt.Axis(values=[0, 6, 12, 18, 23], labelAngle=0)),
            y=alt.Y("n:Q", title=None, axis=alt.Axis(tickCount=2, format="d", grid=False)),
            color=alt.Color(
                "which:N",
                scale=alt.Scale(domain=["this one's hour", "earlier"], range=[ACCENT, QUIET]),
                legend=None,
            ),
            tooltip=["hour:O", alt.Tooltip("n:Q", title="transactions")],
        )
    )
    place = (
        alt.Chart(frame[frame["which"] == "this one's hour"])
        .mark_point(shape="triangle-up", filled=True, size=60, color=ACCENT, yOffset=6)
        .encode(x="hour:O", y=alt.datum(0))
    )
    return cast(alt.Chart, alt.layer(bars, place).properties(height=124))
