"""What waits for a person: the queue of reviews and declines, and one case with all that is known of it."""

import contextlib
import time
from datetime import UTC, datetime
from typing import Any

import streamlit as st

from streamlit_app import alerts, charts, connection, decisions, normal, tables
from streamlit_app.answers import LabelName, Outcome, Party, Transaction
from streamlit_app.client import ApiError, NotFound

WINDOWS: dict[str, int | None] = {"24 hours": 24, "7 days": 7 * 24, "30 days": 30 * 24, "ever": None}
LABELS = {"not marked yet": "none", "marked fraud": "fraud", "marked legitimate": "legitimate", "all": None}
FLAGGED: tuple[Outcome, ...] = ("decline", "review")
SOURCES = ("analyst", "chargeback", "customer")
WHY, CUSTOMER, COUNTERPARTY, RECORD = "Why", "Customer", "Counterparty", "Record"
#: How often the page looks for newer alerts (s), and how much of a party's past it shows.
LOOK_SECONDS = 30
PAST = 25

state = st.session_state


# --- the queue -------------------------------------------------------------------------------------------------------


def filters() -> tuple[list[Outcome], dict[str, Any], float]:
    """Outcomes, what the API filters by, and the least amount, by which the page filters."""
    window, outcome, label, more, fresh = st.columns([3, 3, 4, 3, 2], vertical_alignment="bottom")
    hours = WINDOWS[window.selectbox("Arrived within", list(WINDOWS), index=1, key="alerts.window")]
    chosen = outcome.pills("Outcome", FLAGGED, selection_mode="multi", default=FLAGGED, key="alerts.outcome")
    said = LABELS[label.selectbox("Show", list(LABELS), key="alerts.label")]
    with more.popover("More filters", icon=":material/filter_list:", width="stretch"):
        least = st.slider("Probability at least", 0.0, 1.0, 0.0, 0.01, format="percent", key="alerts.least")
        amount = st.number_input("Amount at least (base currency)", 0.0, step=100.0, key="alerts.amount")
        rule = st.selectbox(
            "Rule that fired", known_rules(), index=None, accept_new_options=True, placeholder="any", key="alerts.rule"
        )
        customer = st.text_input("Customer", max_chars=64, placeholder="any", key="alerts.customer")
        counterparty = st.text_input("Counterparty", max_chars=64, placeholder="any", key="alerts.counterparty")
    fresh.button("Refresh", icon=":material/refresh:", width="stretch", on_click=refresh, key="alerts.refresh")
    asked = {
        "label": said,
        "min_probability": least or None,
        "rule": rule or None,
        "customer_id": customer.strip() or None,
        "counterparty_id": counterparty.strip() or None,
        "test": False,
        "hours": hours,
    }
    return [name for name in FLAGGED if name in chosen] or list(FLAGGED), asked, amount


def known_rules() -> list[str]:
    try:
        return [*(rule["id"] for rule in connection.model().rules), "list:deny"]
    except (ApiError, KeyError):
        return ["list:deny"]


def refresh() -> None:
    state["alerts.queue"] = None


def queue(outcomes: list[Outcome], asked: dict[str, Any]) -> alerts.Queue:
    """The queue for these filters: the one that is loaded, or a new one. Raises ApiError."""
    wanted = (tuple(outcomes), tuple(asked.items()))
    if state.get("alerts.queue") is None or state.get("alerts.asked") != wanted:
        sent = {name: value for name, value in asked.items() if name != "hours"}
        since = alerts.since(asked["hours"], datetime.now(UTC))
        fresh = alerts.Queue(outcomes, {**sent, "since": since})
        fresh.load(connection.api())
        state["alerts.queue"], state["alerts.asked"] = fresh, wanted
        state["alerts.looked"], state["alerts.news"] = time.monotonic(), False
        point_at(0)
    loaded: alerts.Queue = state["alerts.queue"]
    return loaded


def load_more() -> None:
    try:
        state["alerts.queue"].load(connection.api())
    except ApiError as error:
        state["alerts.failure"] = error


def point_at(row: int) -> None:
    state["alerts.table"] = {"selection": {"rows": [row], "columns": [], "cells": []}}


def pointed_at() -> int:
    rows = state.get("alerts.table", {}).get("selection", {}).get("rows", [])
    return int(rows[0]) if rows else 0


def listing(items: list[Transaction], more: bool) -> None:
    config = st.column_config
    st.dataframe(
        alerts.table(items),
        hide_index=True,
        width="stretch",
        height=560,
        key="alerts.table",
        on_select="rerun",
        selection_mode="single-row-required",
        placeholder="",
        column_order=["arrived", "outcome", "probability", "amount", "label", "customer", "rules"],
        column_config=tables.columns(
            items[0].decision.base_currency,
            arrived=config.DatetimeColumn("arrived", format="MM-DD HH:mm", width=95, help="UTC"),
            outcome=config.TextColumn(width=70),
            probability=config.ProgressColumn("probability", format="percent", min_value=0.0, max_value=1.0, width=100),
            amount=config.NumberColumn(items[0].decision.base_currency, format="%,.2f", width=85),
            label=config.TextColumn("marked", width=70),
        ),
    )
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        st.caption(f"{len(items):,} alerts{', and there are older ones' if more else ''}.")
        if more:
            st.button("Load older ones", icon=":material/expand_more:", on_click=load_more, key="alerts.more")


@st.fragment(run_every=LOOK_SECONDS)
def watch() -> None:
    """Tell, without moving anything under the reader's hand, that newer alerts have come.

    Asked when the time has come, and not with each click.
    """
    loaded: alerts.Queue | None = state.get("alerts.queue")
    now = time.monotonic()
    if loaded is not None and now - state.get("alerts.looked", 0.0) >= LOOK_SECONDS - 1:
        state["alerts.looked"], state["alerts.news"] = now, False
        with contextlib.suppress(ApiError):
            state["alerts.news"] = loaded.newer(connection.api())
    if state.get("alerts.news"):
        st.info("Newer alerts have come: press **Refresh**.", icon=":material/notifications_active:")


def empty(asked: dict[str, Any]) -> None:
    with st.container(border=True, key="empty"):
        st.markdown("#### :material/task_alt: Nothing waits here")
        if asked["label"] == "none":
            st.markdown(
                "No transaction within these filters was sent to review or declined and still waits for a word. "
                "Choose a longer time or **all**, or make an alert: score *Account drain* or *Night spree*."
            )
        else:
            st.markdown("No alert lies within these filters. Choose a longer time, or take a filter away.")
        st.page_link("views/score.py", label="To the score page", icon=":material/speed:")


# --- one case --------------------------------------------------------------------------------------------------------


def mark(transaction_id: str, label: LabelName, row: int, last: int) -> None:
    """Say what it turned out to be, and go on to the next one."""
    state["alerts.failure"] = None
    try:
        answer = connection.api().feedback(transaction_id, label, (state.get("alerts.note") or "").strip())
    except ApiError as error:
        state["alerts.failure"] = error
        return
    state["alerts.queue"].relabel(transaction_id, answer.label)
    state["alerts.note"] = ""
    state["alerts.said"] = (label, answer.label.label)
    point_at(min(row + 1, last))


def step(by: int, last: int) -> None:
    point_at(max(0, min(pointed_at() + by, last)))


def keys(item: Transaction, row: int, last: int) -> None:
    """What to do with the case: one key each."""
    with st.container(horizontal=True, gap="small", vertical_alignment="center"):
        st.button("Fraud", type="primary", icon=":material/gpp_bad:", shortcut="F", key="alerts.fraud",
                  on_click=mark, args=(item.transaction_id, "fraud", row, last))  # fmt: skip
        st.button("Legitimate", icon=":material/verified_user:", shortcut="L", key="alerts.legitimate",
                  on_click=mark, args=(item.transaction_id, "legitimate", row, last))  # fmt: skip
        st.button("Previous", icon=":material/arrow_upward:", shortcut="K", key="alerts.previous", disabled=row == 0,
                  on_click=step, args=(-1, last))  # fmt: skip
        st.button("Next", icon=":material/arrow_downward:", shortcut="J", key="alerts.next", disabled=row >= last,
                  on_click=step, args=(1, last))  # fmt: skip
    st.text_input(
        "Note", max_chars=500, key="alerts.note", label_visibility="collapsed",
        placeholder="A note that goes with the mark (optional; no personal data, please)",
    )  # fmt: skip


def case(item: Transaction, row: int, last: int) -> None:
    decision = item.decision
    failure = state.get("alerts.failure")
    if isinstance(failure, ApiError):
        connection.show_failure(failure, what="The mark")
    said = state.pop("alerts.said", None)
    if said:
        counts = "" if said[0] == said[1] else f" What counts stays {said[1]}: somebody who outranks you said so."
        st.toast(f"Marked **{said[0]}**.{counts}", icon=":material/check:")
    keys(item, row, last)
    with st.container(horizontal=True, gap="small"):
        st.badge(decision.outcome, color="red" if decision.outcome == "decline" else "orange", icon=":material/flag:")
        decisions.badges(decision)
        if item.label is not None:
            source = item.label.source if item.label.source in SOURCES else "somebody"  # Markdown stands in a badge
            st.badge(
                f"marked {item.label.label} by {source}", icon=":material/person:",
                color="red" if item.label.label == "fraud" else "green",
            )  # fmt: skip
    st.text(decision.explanation)
    probability = decision.fraud_probability
    facts = {
        "Amount": f"{decision.amount:,.2f} {decision.currency}",
        "Probability": "none" if probability is None else charts.percent(probability),
        "Time (UTC)": item.timestamp[:19].replace("T", " "),
        "Type": item.type or "not sent",
    }
    for place, (name, value) in zip(st.columns([3, 2, 4, 2]), facts.items(), strict=True):
        place.caption(name)
        place.text(value)
    part = st.segmented_control(
        "What to look at", [WHY, CUSTOMER, COUNTERPARTY, RECORD], key="alerts.part", default=WHY, required=True,
        label_visibility="collapsed", persist_state="session",
    )  # fmt: skip
    try:
        {WHY: why, CUSTOMER: customer, COUNTERPARTY: counterparty, RECORD: record}[part](item)
    except ApiError as error:
        connection.failed(error)


def why(item: Transaction) -> None:
    decisions.show_gauge(item.decision, key="alerts.gauge")
    decisions.show_degraded(item.decision)
    decisions.show_rules(item.decision)
    decisions.show_reasons(item.decision, key="alerts.waterfall")


def customer(item: Transaction) -> None:
    if item.customer_id is None:
        st.caption("No customer was sent with this transaction.")
        return
    st.code(item.customer_id, language=None, wrap_lines=True)
    here = here_of(item)
    party = party_of(item.customer_id)
    normal.show(party, here, key="alerts.customer_normal")
    st.caption("As it is now: this transaction, and what came after it, are part of it.")
    past("customer_id", item.customer_id, item)


def counterparty(item: Transaction) -> None:
    if item.counterparty_id is None:
        st.caption("No counterparty was sent with this transaction.")
        return
    st.code(item.counterparty_id, language=None, wrap_lines=True)
    party = party_of(item.counterparty_id)
    normal.show(party, here_of(item), side="received", name="counterparty", key="alerts.counterparty_normal")
    st.caption("As it is now: this transaction, and what came after it, are part of it.")
    past("counterparty_id", item.counterparty_id, item)


def here_of(item: Transaction) -> normal.Here:
    features = connection.api().transaction(item.transaction_id).record.features
    return normal.Here(item.decision.amount_base, item.decision.base_currency, item.timestamp, features)


def party_of(party_id: str) -> Party:
    try:
        return connection.api().party(party_id)
    except NotFound:
        return normal.nobody(party_id)


def past(role: str, party_id: str, item: Transaction) -> None:
    """What was decided of a party, the latest first."""
    asked: dict[str, str | float] = {role: party_id, "limit": PAST}
    page = connection.api().transactions(**asked)
    others = [other for other in page.transactions if other.transaction_id != item.transaction_id]
    st.markdown("**What else was decided**")
    if not others:
        st.caption("Nothing: this is the only one that is recorded.")
        return
    st.dataframe(
        alerts.table(others), hide_index=True, width="stretch", key=f"alerts.past.{role}", placeholder="",
        column_config=tables.columns(item.decision.base_currency, transaction_id=None),
    )  # fmt: skip
    if page.next is not None:
        st.caption(f"The latest {PAST}; there are older ones.")


def record(item: Transaction) -> None:
    whole = connection.api().transaction(item.transaction_id)
    st.code(item.transaction_id, language=None, wrap_lines=True)
    st.markdown("**What was said of it**")
    if whole.labels:
        rows = [
            {"said": label.label, "by": label.source, "time": tables.moment(label.time), "note": label.note}
            for label in whole.labels
        ]
        st.dataframe(rows, hide_index=True, width="stretch", key="alerts.labels", column_config=tables.columns(""))
    else:
        st.caption("Nobody has said anything yet.")
    st.markdown("**What the model and the rules saw**")
    features = whole.record.features
    st.dataframe(
        {"feature": list(features), "value": list(features.values())}, hide_index=True, width="stretch",
        height=360, key="alerts.features",
    )  # fmt: skip
    st.caption("What is not in the list was missing. Decided by:")
    st.code(f"model {item.decision.model_version or 'none'}\nrules {item.decision.rules_version}", language=None)


def page() -> None:
    st.title("Alerts")
    st.caption("What was sent to review or declined. Mark each: :blue-badge[F] fraud, :blue-badge[L] legitimate, "
               ":blue-badge[J] next, :blue-badge[K] previous.")  # fmt: skip
    if connection.closed("GET", "/transactions"):
        return
    outcomes, asked, least = filters()
    try:
        loaded = queue(outcomes, asked)
    except ApiError as error:
        connection.failed(error)
        return
    watch()
    items = [item for item in loaded.items if item.decision.amount_base >= least]
    if not items:
        empty(asked)
        if loaded.more:
            st.button("Look further back", on_click=load_more, key="alerts.more")
        return
    left, right = st.columns([9, 11], gap="medium")
    last = len(items) - 1
    row = min(pointed_at(), last)
    if row != pointed_at():
        point_at(row)
    with left:
        listing(items, loaded.more)
    with right:
        case(items[row], row, last)


page()
