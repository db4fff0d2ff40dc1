"""A back-test's report on the page: what would have been decided otherwise, for better and for worse."""

import pandas as pd
import streamlit as st

from streamlit_app import charts_model, tables
from streamlit_app.answers import Backtest, Count, Figures, Share


def show(report: Backtest, key: str) -> None:
    if not report.decisions:
        st.info(
            "**There is nothing to judge again.** No decision of the chosen time is in the log, or all were left out "
            "(test inputs, another base currency).",
            icon=":material/inbox:",
        )
        return
    span = f"{(report.first or '')[:10]} to {(report.last or '')[:10]}"
    changed = f"**{report.flipped:,} of {report.decisions:,} decisions would be others.**"
    (st.success if not report.flipped else st.info)(changed, icon=":material/difference:")
    st.caption(
        f"Arrived from {span}{'' if report.complete else '; older ones were not read'}. Labels: "
        f"{report.labels.fraud:,} fraud, {report.labels.legitimate:,} legitimate, {report.labels.none:,} none."
    )
    for note in report.notes:
        st.text(f"Note: {note}")
    money(report)
    left, right = st.columns([3, 4], gap="large")
    with left:
        st.markdown("**From what to what**")
        st.altair_chart(charts_model.moves(report.moves), width="stretch", key=f"{key}.moves")
    with right:
        st.markdown("**Before and after**")
        st.dataframe(before_and_after(report), hide_index=True, width="stretch", key=f"{key}.figures")
        st.caption("Brackets are 95 % intervals. Only what is labelled can be right or wrong.")
    if report.rules:
        st.markdown("**What each rule does**")
        st.dataframe(
            rules(report), hide_index=True, width="stretch", key=f"{key}.rules", placeholder="",
            column_config=tables.columns(report.base_currency),
        )  # fmt: skip
        st.caption("Alone: decisions that would be others without this rule, which is what it adds to all the rest.")
    if report.by_day:
        st.altair_chart(
            charts_model.reviews_by_day(report.by_day, report.capacity_per_day), width="stretch", key=f"{key}.days"
        )
    if report.examples:
        with st.expander(f"The {len(report.examples)} with the most money", icon=":material/list:"):
            st.dataframe(
                examples(report), hide_index=True, width="stretch", key=f"{key}.examples", placeholder="",
                column_config=tables.columns(report.base_currency),
            )  # fmt: skip


def money(report: Backtest) -> None:
    """What changes hands."""
    change = report.money
    cells: tuple[tuple[str, Count, str], ...] = (
        ("Fraud caught", change.fraud_caught, "Labelled fraud: approved then, flagged now."),
        ("Fraud let go", change.fraud_lost, "Labelled fraud: flagged then, approved now."),
        ("Customers held", change.legitimate_held, "Labelled legitimate: approved then, flagged now."),
        ("Customers released", change.legitimate_released, "Labelled legitimate: flagged then, approved now."),
        ("Unlabelled held", change.unlabelled_held, "Nobody knows yet: approved then, flagged now."),
        ("Unlabelled released", change.unlabelled_released, "Nobody knows yet: flagged then, approved now."),
    )
    places = [*st.columns(3), *st.columns(3)]
    for place, (label, count, help_) in zip(places, cells, strict=True):
        place.metric(
            label, f"{count.decisions:,}", border=True, help=help_,
            delta=f"{count.amount:,.0f} {report.base_currency}", delta_color="off", delta_arrow="off",
        )  # fmt: skip


def share(value: Share) -> str:
    if value.share is None or value.low is None or value.high is None:
        return "nothing to tell"
    return f"{value.share:.1%} [{value.low:.1%}, {value.high:.1%}] of {value.whole:,}"


def before_and_after(report: Backtest) -> pd.DataFrame:
    money = report.base_currency
    before, after = told(report.before, money), told(report.after, money)
    return pd.DataFrame({"figure": list(before), "before": list(before.values()), "after": list(after.values())})


def told(side: Figures, currency: str) -> dict[str, str]:
    return {
        "reviews a day": f"{side.reviews_per_day:,.1f}",
        "declines a day": f"{side.declines_per_day:,.1f}",
        "days over capacity": f"{side.days_over_capacity:,}",
        "precision of alerts": share(side.precision),
        "recall": share(side.recall),
        f"cost, reviews ({currency})": f"{side.cost.reviews:,.2f}",
        f"cost, frauds missed ({currency})": f"{side.cost.missed_frauds:,.2f}",
        f"cost, false declines ({currency})": f"{side.cost.false_declines:,.2f}",
        f"cost in all ({currency})": f"{side.cost.total:,.2f}",
    }


def rules(report: Backtest) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "rule": rule.id + ("" if rule.enabled else " (off)"), "outcome": rule.outcome or "gone",
                "hits before": rule.hits_before, "hits": rule.hits.decisions, "fraud": rule.hits.fraud,
                "legitimate": rule.hits.legitimate, "unlabelled": rule.hits.unlabelled,
                "precision": share(rule.precision), "alone": rule.alone.decisions, "failed": rule.failed,
            }
            for rule in report.rules
        ]
    )  # fmt: skip


def examples(report: Backtest) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "arrived": tables.moment(flip.received_at), "amount": flip.amount, "label": flip.label,
                "before": flip.before, "after": flip.after, "probability": flip.probability_after,
                "rules before": ", ".join(flip.rules_before), "rules after": ", ".join(flip.rules_after),
                "transaction_id": flip.transaction_id,
            }
            for flip in report.examples
        ]
    )  # fmt: skip
