"""Altair charts that read well on light and on dark: own colours for marks, the theme's for axes and labels."""

import math
from collections.abc import Sequence

import altair as alt
import pandas as pd

from streamlit_app.client import Reason

APPROVE, REVIEW, DECLINE = "#2a9d6f", "#e0a021", "#d8474f"
#: Readable on white and on near-black alike (contrast above 4 to 1 on both): text marks know no theme.
QUIET = "#7b8494"
_START = "where the model starts"
_SCORE = "the score"


def gauge(probability: float, review_from: float, decline_from: float) -> alt.LayerChart:
    """The calibrated probability among the three outcomes. The scale is stretched at its low end (square root)."""
    bands = pd.DataFrame(
        {
            "from": [0.0, review_from, decline_from],
            "to": [review_from, decline_from, 1.0],
            "outcome": ["approve", "review", "decline"],
        }
    )
    marks = pd.DataFrame(
        {
            "at": [review_from, decline_from],
            "label": [f"review from {percent(review_from)}", f"decline from {percent(decline_from)}"],
        }
    )
    here = pd.DataFrame({"at": [probability], "label": [percent(probability)]})
    scale = alt.Scale(type="sqrt", domain=[0, 1], nice=False)
    axis = alt.Axis(
        title=None,
        values=[0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1],
        format="~%",
        grid=False,
        domain=False,
        labelOverlap=True,
    )
    base = alt.Chart(bands).encode(
        x=alt.X("from:Q", scale=scale, axis=axis),
        x2="to:Q",
        color=alt.Color(
            "outcome:N",
            scale=alt.Scale(domain=["approve", "review", "decline"], range=[APPROVE, REVIEW, DECLINE]),
            legend=alt.Legend(orient="bottom", title=None, direction="horizontal", offset=4),
        ),
        tooltip=[
            alt.Tooltip("outcome:N"),
            alt.Tooltip("from:Q", format=".2%"),
            alt.Tooltip("to:Q", format=".2%"),
        ],
    )
    band = base.mark_bar(height=26, y=58, cornerRadius=3)
    line = alt.Chart(marks).mark_rule(color=QUIET, strokeWidth=1.5, strokeDash=[3, 2], y=34, y2=74).encode(x="at:Q")
    # The two labels hang on the outer sides of their lines, so that close thresholds do not write over each other.
    labels = [
        alt.Chart(marks.iloc[[row]])
        .mark_text(color=QUIET, align=align, dx=dx, y=38, fontSize=12)
        .encode(x="at:Q", text="label:N")
        for row, align, dx in (
            (0, "right" if review_from > 0.06 else "left", -5 if review_from > 0.06 else 5),
            (1, "left" if decline_from < 0.6 else "right", 5 if decline_from < 0.6 else -5),
        )
    ]
    if review_from <= 0.06 and decline_from >= 0.6:
        pass  # far apart: one label right of the first line, the other left of the second
    halo = alt.Chart(here).mark_rule(color="#ffffff", strokeWidth=8, y=40, y2=76).encode(x="at:Q")
    needle = alt.Chart(here).mark_rule(color="#11151d", strokeWidth=4, y=41, y2=75).encode(x="at:Q")
    return alt.layer(band, line, *labels, halo, needle).properties(height=84)


def waterfall(
    reasons: Sequence[Reason], probability: float, review_from: float | None, decline_from: float | None
) -> alt.LayerChart:
    """From where the model starts to the score, in log-odds: the given reasons and, first, all the rest together.

    The rest is what is left of the score's log-odds, so the bars always add up. ``probability`` is kept within
    1e-9 of 0 and 1, where log-odds are finite.
    """
    score = log_odds(probability)
    at = score - math.fsum(reason.contribution for reason in reasons)
    rows = [{"what": _START, "from": 0.0, "to": at, "push": "score", "label": f"{at:+.2f}", "text": "and all else"}]
    for reason in reasons:
        to = at + reason.contribution
        rows.append(
            {
                "what": _unique(reason.feature, rows),
                "from": at,
                "to": to,
                "push": "towards fraud" if reason.contribution > 0 else "towards legitimate",
                "label": f"{reason.contribution:+.2f}",
                "text": reason.text,
            }
        )
        at = to
    rows.append(
        {
            "what": _SCORE,
            "from": 0.0,
            "to": score,
            "push": "score",
            "label": f"{score:+.2f}",
            "text": percent(probability),
        }
    )
    frame = pd.DataFrame(rows)
    frame["right"] = frame[["from", "to"]].max(axis=1)
    y = alt.Y("what:N", sort=None, title=None, axis=alt.Axis(labelLimit=190, ticks=False, domain=False, labelPadding=8))
    # Room on the right for the numbers.
    low, high = float(min(frame["from"].min(), frame["to"].min())), float(frame["right"].max())
    margin = max(high - low, 1.0) * 0.12
    x = alt.X(
        "from:Q",
        title="log-odds of fraud (to the right: more likely)",
        scale=alt.Scale(domain=[low - margin / 3, high + margin], nice=False),
        axis=alt.Axis(grid=True, tickCount=6),
    )
    bars = (
        alt.Chart(frame)
        .mark_bar(height=16, cornerRadius=2)
        .encode(
            y=y,
            x=x,
            x2="to:Q",
            color=alt.Color(
                "push:N",
                scale=alt.Scale(
                    domain=["towards fraud", "towards legitimate", "score"], range=[DECLINE, APPROVE, QUIET]
                ),
                legend=alt.Legend(
                    orient="bottom", title=None, direction="horizontal", values=["towards fraud", "towards legitimate"]
                ),
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
        alt.Chart(pd.DataFrame({"at": [log_odds(threshold)], "name": [f"{name} from {percent(threshold)}"]}))
        .mark_rule(color=color, strokeWidth=1.5, strokeDash=[4, 3])
        .encode(x="at:Q", tooltip=[alt.Tooltip("name:N", title="threshold")])
        for name, threshold, color in (("review", review_from, REVIEW), ("decline", decline_from, DECLINE))
        if threshold is not None and low - margin / 3 <= log_odds(threshold) <= high + margin
    ]
    return alt.layer(*lines, bars, numbers).properties(height=30 * len(rows) + 60)


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
    """What a contribution does to the odds of fraud: ``x 10`` or ``÷ 3.2``."""
    factor = math.exp(min(abs(contribution), 50.0))
    return (
        f"{'×' if contribution >= 0 else '÷'} {factor:.1f}"
        if factor < 9.95
        else (
            f"{'×' if contribution >= 0 else '÷'} {factor:,.0f}"
            if factor < 1e6
            else f"{'×' if contribution >= 0 else '÷'} 10^{math.floor(math.log10(factor))}"
        )
    )


def _unique(name: str, rows: Sequence[dict[str, object]]) -> str:
    """A row's name that no row above has: two rows of one name would be drawn as one."""
    taken = {row["what"] for row in rows} | {_SCORE}
    return name if name not in taken else f"{name} ({sum(str(row['what']).startswith(name) for row in rows) + 1})"
