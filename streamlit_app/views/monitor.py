"""How the service is doing: figures by day, the latest decisions, drift. Asks again by itself."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pandas as pd
import streamlit as st

from streamlit_app import alerts, charts, charts_many, connection, tables
from streamlit_app.answers import Day, Drift, Finding, Summary
from streamlit_app.client import ApiError, NotServed, TooManyRequests

FIGURES, DRIFT = "Figures", "Drift"
WINDOWS = {"7 days": 7, "30 days": 30, "90 days": 90, "a year": 365}
#: Seconds between two looks while the page is open; decisions that the picture of the latest holds.
EVERY_SECONDS = 10
LATEST = 200
#: A probability above this is told at the top of the page, if it came in the last hour.
WARN_ABOVE = 0.8

STATES = {
    "quiet": ("Quiet", "What the model is asked looks as it did when it was judged."),
    "drift": ("Drift", "What the model is asked has changed: look at the features beyond their limit."),
    "young": ("Too young", "The log is younger than the past that the features look at, so nothing is said of those."),
    "not enough": ("Too little", "Fewer than 500 decisions of this model were recorded: nothing is said yet."),
}


# --- figures ---------------------------------------------------------------------------------------------------------


def figures(days: int, warn_above: float) -> None:
    now = datetime.now(UTC)
    try:
        summary = connection.summary((now - timedelta(days=days - 1)).date().isoformat())
        if not any(day.decisions for day in summary.days):
            empty(days)
            return
        warn(warn_above, now)
        headline(summary)
        latest(warn_above)
        by_day(summary)
    except ApiError as error:
        connection.check_again()
        connection.show_failure(error, what="The request")
        st.caption(f"Asked again every {EVERY_SECONDS} seconds while live.")
        return
    st.caption(f"As of {now:%Y-%m-%d %H:%M:%S} UTC. Days are UTC days of arrival; test inputs are left out.")


def empty(days: int) -> None:
    with st.container(border=True, key="empty"):
        st.markdown("#### :material/monitoring: Nothing was decided yet")
        st.markdown(
            f"Within {days} days no transaction has come in. As soon as one does, this page shows how many there are, "
            "what was sent to people or stopped, how fast it went, and, once labels come, how right it was. "
            "Score one, or upload a file."
        )
        st.page_link("views/score.py", label="To the score page", icon=":material/speed:")
        st.page_link("views/batch.py", label="To the batch page", icon=":material/table_rows:")


def warn(above: float, now: datetime) -> None:
    page = connection.api().transactions(
        min_probability=above, since=(now - timedelta(hours=1)).isoformat(timespec="seconds"), test=False, limit=20
    )
    found = page.transactions
    if not found:
        return
    many = f"{len(found)}{' or more' if page.next else ''}"
    st.warning(
        f"**{many} of the last hour {'lies' if many == '1' else 'lie'} above {above:.0%}.** The latest arrived at "
        f"{found[0].received_at[11:19]} UTC.",
        icon=":material/crisis_alert:",
    )
    with st.expander("Which ones", icon=":material/list:"):
        st.dataframe(
            alerts.table(found), hide_index=True, width="stretch", key="monitor.warned", placeholder="",
            column_config=tables.columns(found[0].decision.base_currency),
        )  # fmt: skip
        if connection.opens("POST", "/feedback"):
            st.page_link("views/alerts.py", label="To the alerts", icon=":material/notifications:")


def headline(summary: Summary) -> None:
    """The window's sums, each with its days."""
    days = summary.days
    decisions, flagged = sum(day.decisions for day in days), sum(day.alerts for day in days)
    settled = [day for day in days if day.mature and day.decisions]
    labelled_fraud = sum(day.fraud for day in settled)
    rate = labelled_fraud / sum(day.decisions for day in settled) if settled else None
    speeds = [day.latency_p50_ms for day in days if day.latency_p50_ms is not None]
    slow = [day.latency_p99_ms for day in days if day.latency_p99_ms is not None]
    places = st.columns(5)
    places[0].metric(
        "Decisions", f"{decisions:,}", border=True, chart_data=[day.decisions for day in days], chart_type="bar",
        delta=f"{sum(day.degraded for day in days):,} degraded", delta_color="off", delta_arrow="off",
    )  # fmt: skip
    places[1].metric(
        "Alerts", f"{flagged:,}", border=True, chart_data=[day.alerts for day in days], chart_type="bar",
        delta=f"{flagged / decisions:.2%} of all", delta_color="off", delta_arrow="off",
    )  # fmt: skip
    places[2].metric(
        f"Stopped ({summary.base_currency})", charts_many.short(sum(day.declined_amount for day in days)),
        border=True, chart_data=[day.declined_amount for day in days], chart_type="bar",
        help="Amounts of what was declined, fraud or not.",
        delta=f"{_share(sum(d.declined_amount for d in days), sum(d.amount for d in days))} of all money",
        delta_color="off", delta_arrow="off",
    )  # fmt: skip
    places[3].metric(
        "Fraud rate", "not yet" if rate is None else f"{rate:.3%}", border=True,
        chart_data=[day.fraud / day.decisions for day in settled] or [0.0], chart_type="bar",
        delta=f"{labelled_fraud:,} known frauds", delta_color="off", delta_arrow="off",
        help=f"Frauds that are known, of all decisions, on days whose labels have had {summary.label_delay_days:g} "
        "days to come.",
    )  # fmt: skip
    places[4].metric(
        "Latency, latest day", f"{speeds[-1]:g} ms" if speeds else "none", border=True, chart_data=slow or [0.0],
        chart_type="line", delta=f"99 %: {slow[-1]:g} ms" if slow else None, delta_color="off",
        delta_arrow="off", help="The median, and what 99 of 100 take at most, from a transaction's "
        "arrival in the scorer to its decision; upper edges of buckets.",
    )  # fmt: skip


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.2%}" if whole else "none"


def latest(warn_above: float) -> None:
    page = connection.api().transactions(limit=LATEST, test=False)
    table = alerts.table(page.transactions)
    known = table[table["probability"].notna()]
    if known.empty:
        st.caption("The latest decisions were made without a model: there are no probabilities to draw.")
        return
    shown = known[["arrived", "probability", "outcome", "amount", "transaction_id"]]
    st.altair_chart(charts_many.latest(shown, warn_above), width="stretch", key="monitor.latest")


def by_day(summary: Summary) -> None:
    days = summary.days
    left, right = st.columns(2, gap="large")
    with left:
        st.altair_chart(charts_many.volume(days), width="stretch", key="monitor.volume")
        st.altair_chart(
            charts_many.lines(
                days,
                {
                    "precision of alerts": (charts.REVIEW, [day.precision for day in days]),
                    "recall": (charts.APPROVE, [day.recall for day in days]),
                },
                "How right it was, of what is labelled",
                "~%",
            ),
            width="stretch",
            key="monitor.labels",
        )
    with right:
        st.altair_chart(
            charts_many.lines(
                days,
                {
                    "declined": (charts.DECLINE, [day.declined_amount for day in days]),
                    "fraud flagged": (charts.APPROVE, [day.fraud_amount_flagged for day in days]),
                    "fraud missed": (charts.QUIET, [day.fraud_amount_missed for day in days]),
                },
                f"Money a day ({summary.base_currency})",
                "~s",
            ),
            width="stretch",
            key="monitor.money",
        )
        st.altair_chart(
            charts_many.lines(
                days,
                {
                    "median": (charts.ACCENT, [day.latency_p50_ms for day in days]),
                    "99 of 100": (charts.QUIET, [day.latency_p99_ms for day in days]),
                },
                "Latency (ms, at most)",
                ",.0f",
            ),
            width="stretch",
            key="monitor.latency",
        )
    st.caption(
        f"Hollow points will still move: labels take {summary.label_delay_days:g} days and more to come. Mostly alerts "
        "get a label, so recall looks better than it is."
    )
    with st.expander("The days as a table", icon=":material/table_rows:"):
        day_table(days, summary.base_currency)


def day_table(days: Sequence[Day], currency: str) -> None:
    frame = pd.DataFrame(
        [
            {
                "day": pd.Timestamp(day.day), "decisions": day.decisions, "review": day.outcomes.get("review", 0),
                "decline": day.outcomes.get("decline", 0), "amount": day.amount, "declined": day.declined_amount,
                "labelled": day.labelled, "fraud": day.fraud, "precision": day.precision, "recall": day.recall,
                "false positive rate": day.false_positive_rate, "settled": day.mature, "degraded": day.degraded,
                "p50 ms": day.latency_p50_ms, "p99 ms": day.latency_p99_ms, "complete": day.complete,
            }
            for day in reversed(days)
        ]
    )  # fmt: skip
    config = st.column_config
    shares = {name: config.NumberColumn(format="percent") for name in ("precision", "recall", "false positive rate")}
    st.dataframe(
        frame, hide_index=True, width="stretch", key="monitor.days", placeholder="",
        column_config=tables.columns(
            currency, day=config.DateColumn("day", format="YYYY-MM-DD"),
            declined=config.NumberColumn(f"declined ({currency})", format="%,.2f"), **shares,
        ),
    )  # fmt: skip
    st.download_button(
        "These days as CSV", lambda: tables.csv(frame), "days.csv", "text/csv", icon=":material/download:",
        key="monitor.days.csv", on_click="ignore",
    )  # fmt: skip


# --- drift -----------------------------------------------------------------------------------------------------------


def drift() -> None:
    head, again = st.columns([6, 2], vertical_alignment="bottom")
    head.caption(
        "What the model is asked today, against the rows it was judged on before it was sealed. Each feature has a "
        "limit of its own: what chance and the calendar do by themselves is no alarm."
    )
    again.button(
        "Look again", icon=":material/refresh:", on_click=connection.look_again, width="stretch", key="monitor.again"
    )
    try:
        with st.spinner("Comparing the latest decisions with the model's reference: a few seconds ..."):
            look = connection.drift()
    except TooManyRequests:
        st.info("Somebody else is looking just now, and one look at a time is enough. Try again in a moment.")
        return
    except NotServed as error:
        connection.show_failure(error)
        return
    except ApiError as error:
        connection.failed(error)
        return
    show_look(look)


def show_look(look: Drift) -> None:
    name, why = STATES.get(look.state, (look.state, ""))
    box = st.error if look.state == "drift" else st.success if look.state == "quiet" else st.info
    box(f"**{name}.** {why}")
    more = "" if look.complete else " More decisions came than are read at once: these are the newest."
    st.caption(
        f"{look.n:,} decisions from {look.since[:16].replace('T', ' ')} to {look.until[:16].replace('T', ' ')} UTC; "
        f"{look.left_out:,} left out (test inputs, other models, degraded ones). The log goes back "
        f"{look.history_days:.0f} days.{more}"
    )
    findings = [look.score, *look.features]
    judged = [finding for finding in findings if finding.psi is not None and finding.limit is not None]
    if not judged:
        st.caption("No feature could be judged yet.")
        return
    left, right = st.columns(2, gap="large")
    with left:
        st.markdown("**What moved furthest, against its limit**")
        st.altair_chart(charts_many.drift_bars(judged), width="stretch", key="monitor.psi")
    with right:
        ranked = sorted(judged, key=lambda finding: -(finding.psi or 0.0) / (finding.limit or 1.0))
        chosen = st.selectbox("One of them, closer", [finding.name for finding in ranked], key="monitor.feature")
        one = next(finding for finding in ranked if finding.name == chosen)
        st.altair_chart(charts_many.histogram(one), width="stretch", key="monitor.histogram")
        st.text(words(one))
    st.markdown("**What became of the probabilities**")
    calibration = look.calibration
    if calibration.alarm:
        st.error("Frauds no longer come as the probabilities promise.", icon=":material/warning:")
    st.text(charts_many.promised(calibration))
    with st.expander("All of them as a table", icon=":material/table_rows:"):
        st.dataframe(
            [
                {
                    "feature": finding.name, "state": finding.state, "PSI": finding.psi, "limit": finding.limit,
                    "KS": finding.ks, "missing now": finding.missing, "missing then": finding.missing_reference,
                }
                for finding in findings
            ],
            hide_index=True, width="stretch", key="monitor.findings", placeholder="",
            column_config={
                **{name: st.column_config.NumberColumn(format="%.3f") for name in ("PSI", "limit", "KS")},
                **{name: st.column_config.NumberColumn(format="percent") for name in ("missing now", "missing then")},
            },
        )  # fmt: skip


def words(finding: Finding) -> str:
    missing = (
        "" if finding.missing is None else f" Missing: {finding.missing:.1%}, then {finding.missing_reference:.1%}."
    )
    beyond = "beyond" if finding.alarm else "within"
    ks = "" if finding.ks is None else f", KS {finding.ks:.3f}"
    return f"PSI {finding.psi:.3f}, {beyond} its limit of {finding.limit:.3f}{ks}.{missing}"


def page() -> None:
    st.title("Monitor")
    st.caption(
        "What comes in, what is stopped, how fast, how right, and whether the world still is as the model knows it."
    )
    if connection.closed("GET", "/summary"):
        return
    part = st.segmented_control(
        "What to look at", [FIGURES, DRIFT], key="monitor.part", default=FIGURES, required=True,
        label_visibility="collapsed", persist_state="session",
    )  # fmt: skip
    if part == DRIFT:
        drift()
        return
    window, warn_at, live = st.columns([3, 3, 2], vertical_alignment="bottom", gap="large")
    days = WINDOWS[window.selectbox("The last", list(WINDOWS), index=1, key="monitor.window")]
    above = warn_at.slider("Warn above", 0.0, 1.0, WARN_ABOVE, 0.05, format="percent", key="monitor.warn")
    running = live.toggle("Live", value=True, key="monitor.live", help=f"Asks again every {EVERY_SECONDS} seconds.")
    st.fragment(figures, run_every=EVERY_SECONDS if running else None)(days, above)


page()
