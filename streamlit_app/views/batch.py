"""Score a file: upload, say what its columns are, watch it go, look at what came back, take it away."""

import secrets
import time
from typing import Any

import pandas as pd
import streamlit as st

from streamlit_app import batch, charts_many, connection, tables
from streamlit_app.answers import OUTCOMES
from streamlit_app.client import ApiError, TooManyRequests

#: How long the page waits by itself when the API asks to wait (s), before it leaves that to the visitor.
PATIENCE = 60.0

EXAMPLE = """\
transaction_id,timestamp,type,amount,currency,customer_id,counterparty_id,device_id,oldbalanceOrg,lat,long
,2026-02-06T08:40:00Z,PAYMENT,4.20,USD,C-1001,M-corner-coffee,D-1,1250.00,40.7128,-74.0060
,2026-02-06T12:15:00Z,PAYMENT,38.90,USD,C-1001,M-grocer,D-1,1245.80,40.7130,-74.0058
,2026-02-06T14:05:00Z,TRANSFER,181000.00,USD,C-1002,C-mule-7,,181000.00,,
,2026-02-06T02:30:00Z,PAYMENT,4500.00,USD,C-1003,M-crypto-kiosk,D-9,5120.00,40.7306,-73.9866
,2026-02-06T09:00:00Z,PAYMENT,not known,USD,C-1004,M-grocer,D-2,310.00,40.7300,-74.0000
"""
LABELS = {
    "amount": "Amount (required)", "currency": "Currency", "type": "Type", "transaction_id": "Transaction id",
    "timestamp": "Time", "step": "Step (PaySim's hour)", "customer_id": "Customer", "counterparty_id": "Counterparty",
    "device_id": "Device", "oldbalanceOrg": "Customer's balance before", "newbalanceOrig": "... and after",
    "oldbalanceDest": "Counterparty's balance before", "newbalanceDest": "... and after", "lat": "Latitude",
    "long": "Longitude",
}  # fmt: skip


def upload() -> tuple[str, bytes, pd.DataFrame] | None:
    """The file's name, bytes and rows; None while there is none that can be read."""
    file = st.file_uploader(
        "CSV or Parquet, up to 100,000 rows", type=["csv", "tsv", "txt", "parquet", "pq"], key="batch.file"
    )
    if file is None:
        return None
    state, data = st.session_state, file.getvalue()
    if state.get("batch.read_of") != file.file_id:
        try:
            state["batch.frame"] = batch.read_file(file.name, data)
        except batch.Unreadable as error:
            st.error("**This file cannot be read**", icon=":material/error:")
            st.text(str(error))
            return None
        state["batch.read_of"] = file.file_id
        for target, column in {**dict.fromkeys(batch.TARGETS), **batch.guess(list(state["batch.frame"]))}.items():
            state[f"batch.map.{target}"] = column
        state["batch.attributes"] = declared(list(state["batch.frame"]))
    return file.name, data, state["batch.frame"]


def declared(columns: list[str]) -> list[str]:
    """Columns that the served model declares as attributes of yours."""
    try:
        known = {attribute.get("name") for attribute in connection.model().attributes}
    except ApiError:
        return []
    return [column for column in columns if column in known]


def empty() -> None:
    with st.container(border=True, key="empty"):
        st.markdown("#### :material/table_rows: A file of transactions, a decision for each row")
        st.markdown(
            "- one row is one transaction; only the **amount** is required, and what is empty is missing, never zero\n"
            "- you say which column is what: names are guessed, ids keep their zeros\n"
            "- rows that are wrong are listed with the reason, and all others are scored\n"
            "- rows are scored in the file's order, each with those before it in its customer's past"
        )
        st.download_button(
            "An example file", EXAMPLE, "transactions.csv", "text/csv", icon=":material/download:", key="batch.example"
        )


def mapped(frame: pd.DataFrame) -> tuple[dict[str, str], list[str]]:
    """Which column is what, and which go along as attributes."""
    state, columns = st.session_state, list(frame)
    found = sum(state.get(f"batch.map.{target}") is not None for target in batch.TARGETS)
    with st.expander(
        f"What the columns are: {found} of {len(columns)} are used", icon=":material/view_column:",
        expanded=state.get("batch.map.amount") is None,
    ):  # fmt: skip
        places = st.columns(4)
        for number, target in enumerate(batch.TARGETS):
            places[number % 4].selectbox(
                LABELS[target], columns, index=None, placeholder="not in the file", key=f"batch.map.{target}"
            )
        st.multiselect(
            "Further columns to send along as attributes", columns, key="batch.attributes",
            help="Your own columns: scored where the model declares them, recorded and seen by rules in any case.",
        )  # fmt: skip
    mapping = {t: state[f"batch.map.{t}"] for t in batch.TARGETS if state.get(f"batch.map.{t}") is not None}
    return mapping, list(state["batch.attributes"])


def begin(name: str, data: bytes, frame: pd.DataFrame) -> None:
    """What is above the results: mapping, what will be sent, the button."""
    state = st.session_state
    mapping, attributes = mapped(frame)
    rows: list[dict[str, Any]] = frame.head(1).to_dict("records")  # type: ignore[assignment]
    mark = batch.fingerprint(data, mapping, attributes)
    first = batch.request_of(rows[0], mapping, attributes, f"batch-{mark}-1")
    look, go = st.columns([3, 2], gap="large")
    with look.expander(f"The first of {len(frame):,} rows, as it is sent", icon=":material/data_object:"):
        st.json(first)
    with go:
        anew = st.toggle(
            "As new transactions",
            key="batch.anew",
            help="Rows without an id of their own get one that names the file: the same file again gets the same "
            "answers and counts once in its customers' past. Switched on, it is scored anew and counts again.",
        )
        wanted = st.button(
            f"Score {len(frame):,} rows", type="primary", icon=":material/speed:", width="stretch", key="batch.score",
            disabled="amount" not in mapping,
        )  # fmt: skip
        if "amount" not in mapping:
            st.caption("Say above which column is the amount.")
    if wanted:
        own = f"batch-{mark}-{secrets.token_hex(3)}" if anew else f"batch-{mark}"
        requests = [
            batch.request_of(row, mapping, attributes, f"{own}-{number}")  # type: ignore[arg-type]
            for number, row in enumerate(frame.to_dict("records"), 1)
        ]
        state["batch.run"] = batch.Run(name, mark, requests)
        send(state["batch.run"])


def send(run: batch.Run) -> None:
    """Send what is left of a run. Its results stay where it stops: by a failure, or because somebody clicks."""
    bar = st.progress(run.done / len(run.requests), "Scoring ...")
    waited = 0.0
    try:
        for part in run.parts():
            try:
                run.take(connection.api().batch(part))
                waited = 0.0
            except TooManyRequests as error:
                waited += error.retry_after
                if waited > PATIENCE:
                    raise
                bar.progress(
                    run.done / len(run.requests), f"The API asks to wait {error.retry_after:.0f} s; going on then ..."
                )
                time.sleep(error.retry_after)
                continue
            bar.progress(run.done / len(run.requests), f"Scored {run.done:,} of {len(run.requests):,} rows ...")
    except ApiError as error:
        connection.failed(error, what="The file")
    bar.empty()


def results(run: batch.Run) -> None:
    scored, refused = run.scored(), run.refused()
    st.subheader("What came back", anchor=False)
    st.text(run.name)
    if not run.finished:
        left, right = st.columns([3, 2], vertical_alignment="center")
        left.warning(
            f"**{run.done:,} of {len(run.requests):,} rows are scored.** The rest was not sent yet.",
            icon=":material/pause:",
        )
        if right.button("Go on", type="primary", icon=":material/play_arrow:", width="stretch", key="batch.go_on"):
            send(run)
            st.rerun()
    flagged = scored[scored["outcome"] != "approve"]
    for place, label, value in zip(
        st.columns(5),
        ("Scored", "Refused rows", "To review", "Declined", "Money flagged"),
        (
            f"{len(scored):,}",
            f"{refused['row'].nunique():,}",
            f"{(scored['outcome'] == 'review').sum():,}",
            f"{(scored['outcome'] == 'decline').sum():,}",
            f"{flagged['amount_base'].sum():,.2f}",
        ),
        strict=True,
    ):
        place.metric(label, value, border=True)
    good, bad = st.tabs([f"Scored ({len(scored):,})", f"Refused ({refused['row'].nunique():,})"])
    with good:
        table(scored, run.name)
    with bad:
        if refused.empty:
            st.caption("No row was refused.")
            return
        st.caption("Rows are counted from 1, without the line of names. Correct them and upload the file again.")
        st.dataframe(refused, hide_index=True, width="stretch", key="batch.refused")
        take_away("The refused rows", refused, f"refused-{stem(run.name)}.csv", "batch.refused.csv")


def table(scored: pd.DataFrame, name: str) -> None:
    if scored.empty:
        st.caption("No row was scored. The other tab says why.")
        return
    outcomes, at_least, text = st.columns([3, 3, 3], gap="medium")
    chosen = outcomes.pills("Outcome", OUTCOMES, selection_mode="multi", default=OUTCOMES, key="batch.outcomes")
    least = at_least.slider("Probability at least", 0.0, 1.0, 0.0, 0.01, format="percent", key="batch.least")
    words = text.text_input("Id, rule or reason holds", key="batch.words", placeholder="all")
    shown = scored[scored["outcome"].isin(chosen)]
    if least > 0:
        shown = shown[shown["probability"].fillna(-1.0) >= least]
    if words:
        held = shown["transaction_id"] + "\n" + shown["rules"] + "\n" + shown["why"]
        shown = shown[held.str.contains(words, case=False, regex=False)]
    st.dataframe(
        shown,
        hide_index=True,
        width="stretch",
        height=360,
        key="batch.table",
        placeholder="",
        column_config=tables.columns("", amount_base=None, model_version=None, test=None, degraded=None),
    )
    st.caption(f"{len(shown):,} of {len(scored):,} rows.")
    take_away("These rows as CSV", shown, f"scored-{stem(name)}.csv", "batch.scored.csv")
    left, right = st.columns(2, gap="large")
    with left:
        st.altair_chart(charts_many.outcome_bars(shown), width="stretch", key="batch.outcome_bars")
    with right:
        if shown["probability"].notna().any():
            st.altair_chart(charts_many.probability_bars(shown), width="stretch", key="batch.probability_bars")
        else:
            st.caption("No model is loaded: there are no probabilities to draw.")


def take_away(label: str, frame: pd.DataFrame, name: str, key: str) -> None:
    st.download_button(
        label, lambda: tables.csv(frame), name, "text/csv", icon=":material/download:", key=key, on_click="ignore",
        help="Safe to open in a spreadsheet: a text that would be taken for a formula gets an apostrophe.",
    )  # fmt: skip


def stem(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in name.rpartition(".")[0])[:60] or "file"


def page() -> None:
    st.title("Score a file")
    st.caption("Upload transactions, see a decision for each row, take the answers away.")
    if connection.closed("POST", "/predict/batch"):
        return
    now = connection.status()
    if isinstance(now, ApiError):
        connection.failed(now)
    file = upload()
    if file is not None:
        begin(*file)
    run: batch.Run | None = st.session_state.get("batch.run")
    if run is not None:
        results(run)
    elif file is None:
        empty()


page()
