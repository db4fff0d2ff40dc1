"""Score one transaction: an example or one's own, as a form or as JSON; the decision and the reasons beside it."""

import secrets
from datetime import UTC, datetime
from typing import Any

import streamlit as st

from streamlit_app import charts, commands, connection, form, presets
from streamlit_app.client import ApiError, Decision, Outcome, RequestRefused, Scored

FORM, JSON = "Form", "JSON"

VERDICTS: dict[Outcome, str] = {
    "approve": "### :material/check_circle: Approve\nLet it through.",
    "review": "### :material/pause_circle: Review\nHold it for a person to look at.",
    "decline": "### :material/block: Decline\nStop it.",
}
DECIDED_BY = {
    "list": ("a list", "A deny or allow list names a party of this transaction; lists come before rules and model."),
    "rule": ("a rule", "A rule fired, and the gravest rule that fires comes before the model."),
    "model": ("the model", "No list and no rule settled it: the probability was held against the thresholds."),
    "fallback": ("the fallback", "No model is loaded and no rule fired: the service's setting for this case decided."),
}
DEGRADED = {
    "model": "No model was at hand: rules alone decided, and there is no probability.",
    "feature_store": "The profiles could not be read: the score knows nothing of this customer's history.",
    "decision_log": "The decision could not be logged: it stands, but it will not be found later.",
    "rules": "The rules could not be checked: lists and model alone decided.",
    "explanation": "The reasons could not be worked out in time: the decision is whole, its explanation is not.",
}


def load(name: str) -> None:
    """Put an example into the form and the JSON, for a customer that nobody has seen before."""
    state = st.session_state
    preset = presets.ALL[name]
    suffix = secrets.token_hex(4)
    body = {**preset.build(suffix, datetime.now(UTC)), "transaction_id": f"try-{suffix}"}
    for field, value in form.values_of(body).items():
        state[_key(field)] = value
    state["score.preset"], state["score.suffix"] = name, suffix
    # Another API's field names would be lost in the form: such an example is shown, and sent, as it stands.
    state["score.mode"] = JSON if preset.foreign else FORM
    state["score.json"] = form.pretty(body if preset.foreign else form.body_of(_values()))
    state["score.json_of_form"] = form.pretty(form.body_of(_values()))
    state["score.answer"] = state["score.sent"] = None


def load_chosen() -> None:
    if st.session_state["score.payload"]:
        load(st.session_state["score.payload"])


def switch() -> None:
    """On the way to JSON: it follows the form, unless somebody has written in it."""
    if (
        st.session_state["score.mode"] == JSON
        and st.session_state["score.json"] == st.session_state["score.json_of_form"]
    ):
        refill()


def refill() -> None:
    """Write the form into the JSON. The only direction there is: JSON never writes into the form."""
    text = form.pretty(form.body_of(_values()))
    st.session_state["score.json"] = st.session_state["score.json_of_form"] = text


def freshen() -> None:
    """Before another transaction is sent: new ids, where they are the example's own.

    The same request twice is the same transaction, and gets the same answer. A changed one needs another
    transaction_id, and another customer, so that the first attempt is not this one's history.
    """
    state = st.session_state
    if state["score.sent"] is None or _text_to_send() == state["score.sent"]:
        return
    old, new = state["score.suffix"], secrets.token_hex(4)
    for key in (*map(_key, form.TEXTS), "score.json", "score.json_of_form"):
        state[key] = (state[key] or "").replace(old, new)
    state["score.suffix"] = new


def _key(field: str) -> str:
    return f"score.form.{field}"


def _values() -> dict[str, Any]:
    return {field: st.session_state.get(_key(field)) for field in form.FIELDS}


def _text_to_send() -> str:
    """The request's text: the JSON as it is typed, or the form's."""
    if st.session_state["score.mode"] == JSON:
        return st.session_state["score.json"] or ""
    return form.pretty(form.body_of(_values()))


def examples() -> None:
    st.markdown("**Start from an example**")
    with st.container(horizontal=True, gap="small"):
        for preset in presets.SCENARIOS:
            st.button(
                preset.name,
                icon=f":material/{preset.icon}:",
                key=f"preset.{preset.name}",
                type="primary" if False else "secondary",
                help=preset.story,
                on_click=load,
                args=(preset.name,),
            )
    st.selectbox(
        "Payloads of other fraud APIs",
        [preset.name for preset in presets.PAYLOADS],
        index=None,
        placeholder="... or a request written for another fraud API",
        key="score.payload",
        on_change=load_chosen,
        label_visibility="collapsed",
    )


def editor() -> bool:
    """The transaction as form or JSON; True when it is to be scored now."""
    st.segmented_control(
        "Write it as", [FORM, JSON], key="score.mode", required=True, on_change=switch, label_visibility="collapsed"
    )
    if st.session_state["score.mode"] == JSON:
        st.text_area("Transaction as JSON", key="score.json", height=330)
        st.caption("Sent as it stands. The form fills this text, never the other way round.")
        st.button(
            "Start again from the form", icon=":material/restart_alt:", type="tertiary", on_click=refill, key="refill"
        )
    else:
        fields()
    return st.button(
        "Score",
        type="primary",
        icon=":material/speed:",
        width="stretch",
        on_click=freshen,
        key="score",
        shortcut="Ctrl+Enter",
    )


def fields() -> None:
    one, two, three = st.columns([3, 2, 3])
    one.number_input("Amount", min_value=0.0, max_value=1e9, step=1.0, format="%.2f", key=_key("amount"))
    two.text_input("Currency", max_chars=3, placeholder="base", key=_key("currency"), help="ISO 4217, such as USD.")
    three.selectbox("Type", form.TYPES, index=None, placeholder="not known", key=_key("type"))
    one, two, three = st.columns(3)
    one.text_input("Customer", max_chars=64, key=_key("customer_id"), help="Sent as customer_id.")
    two.text_input(
        "Counterparty", max_chars=64, key=_key("counterparty_id"), help="Merchant or receiver: counterparty_id."
    )
    three.text_input("Device", max_chars=64, key=_key("device_id"), help="Sent as device_id.")
    labels = ("Customer's balance before", "... after", "Counterparty's before", "... after")
    for column, name, label in zip(st.columns(4), form.BALANCES, labels, strict=True):
        column.number_input(
            label,
            min_value=0.0,
            max_value=1e12,
            step=1.0,
            format="%.2f",
            placeholder="not known",
            key=_key(name),
            help=f"Sent as {name}; empty is missing, never 0.",
        )
    one, two, three = st.columns([2, 1, 1])
    one.text_input(
        "Time (UTC)",
        max_chars=40,
        placeholder="now",
        key=_key("timestamp"),
        help="RFC 3339, such as 2026-02-06T02:30:00Z; empty: now.",
    )
    two.number_input(
        "Latitude", min_value=-90.0, max_value=90.0, step=0.1, format="%.4f", placeholder="not known", key=_key("lat")
    )
    three.number_input(
        "Longitude",
        min_value=-180.0,
        max_value=180.0,
        step=0.1,
        format="%.4f",
        placeholder="not known",
        key=_key("long"),
    )
    with st.expander("More fields"):
        one, two = st.columns([2, 1])
        one.text_input("Transaction id", max_chars=64, placeholder="made by the service", key=_key("transaction_id"))
        two.number_input(
            "Step",
            min_value=1,
            step=1,
            value=None,
            placeholder="none",
            key=_key("step"),
            help="PaySim's hour, in place of the time.",
        )
        st.text_area(
            "Attributes",
            key=_key("attributes"),
            height=100,
            placeholder="V1 = -1.36\nchannel = web",
            help="Your own columns, one `name = value` a line.",
        )


def score(text: str) -> Scored | ApiError:
    try:
        form.read_json(text)
    except ValueError as error:
        return RequestRefused(str(error), "Correct the text, or start again from the form.")
    try:
        answer = connection.api().score(text)
    except ApiError as error:
        connection.check_again()
        return error
    return answer


def empty() -> None:
    """What stands where the decision will be."""
    with st.container(border=True, key="empty"):
        now = connection.status()
        if isinstance(now, ApiError):
            st.error("**The API does not answer**", icon=":material/cloud_off:")
            st.text(now.message)
            st.text(now.mend)
            return
        preset = presets.ALL[st.session_state["score.preset"]]
        st.markdown(f"#### :material/{preset.icon}: {preset.name}")
        st.markdown(preset.story)
        st.markdown(
            "Press **Score** and you will see here\n"
            "- the verdict: approve, review or decline, and who decided\n"
            "- the probability of fraud against both thresholds\n"
            "- the reasons, each with its exact share, and the rules that fired"
        )
        if not now.ready:
            st.info("No model is loaded: rules alone decide, without a probability.", icon=":material/rule:")


def decision_of(scored: Scored) -> None:
    decision = scored.decision
    box = {"approve": st.success, "review": st.warning, "decline": st.error}[decision.outcome]
    box(VERDICTS[decision.outcome])
    st.text(decision.explanation)
    by, why = DECIDED_BY.get(decision.decided_by, (decision.decided_by, None))
    one, two, three = st.columns(3)
    probability = decision.fraud_probability
    one.metric(
        "Fraud probability",
        "none" if probability is None else charts.percent(probability),
        help="Calibrated: of 100 such transactions, so many are fraud.",
    )
    two.metric("Decided by", by, help=why)
    three.metric(
        "Amount",
        f"{decision.amount:,.2f} {decision.currency}",
        help=f"{decision.amount_base:,.2f} {decision.base_currency}",
    )
    if probability is not None and decision.review_from is not None and decision.decline_from is not None:
        st.altair_chart(
            charts.gauge(probability, decision.review_from, decision.decline_from),
            width="stretch",
            key="gauge",
            alt=f"Probability of fraud {charts.percent(probability)}",
        )
    else:
        st.info(
            "Rules only: no model is loaded, so there is no probability and there are no thresholds.",
            icon=":material/rule:",
        )
    for flag in decision.degraded:
        if flag != "model" or probability is not None:
            st.warning(DEGRADED.get(flag, "A part of the service was not at hand."), icon=":material/warning:")
    rules_of(decision)
    reasons_of(decision)
    with st.expander("The whole answer", icon=":material/data_object:"):
        st.caption(
            f"Answered in {scored.seconds * 1000:,.0f} ms"
            + (" from the log: this transaction was scored before." if scored.replayed else ".")
        )
        st.json(scored.raw)


def rules_of(decision: Decision) -> None:
    st.markdown("**Rules that fired**")
    if not decision.rules:
        st.caption("None.")
    for rule in decision.rules:
        st.code(rule, language=None)


def reasons_of(decision: Decision) -> None:
    st.markdown("**Why this probability**")
    if decision.fraud_probability is None or not decision.reasons:
        st.caption(
            "Without a model there is no score to explain."
            if decision.fraud_probability is None
            else "No reasons came with this answer."
        )
        return
    st.altair_chart(
        charts.waterfall(decision.reasons, decision.fraud_probability, decision.review_from, decision.decline_from),
        width="stretch",
        key="waterfall",
    )
    for reason in decision.reasons:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.badge(f"odds {charts.odds(reason.contribution)}", color="red" if reason.contribution > 0 else "green")
            st.text(reason.text)


def terminal() -> None:
    st.markdown("**The same from a terminal**")
    try:
        body, address = form.read_json(_text_to_send()), connection.api().address
    except ValueError as error:
        st.caption(str(error))
        return
    except ApiError as error:
        st.caption(error.message)
        return
    raw, curl, powershell = st.tabs(["JSON", "curl", "PowerShell"])
    raw.code(form.pretty(body), language="json")
    curl.code(commands.curl(address, body), language="bash", wrap_lines=True)
    powershell.code(commands.powershell(address, body), language="powershell", wrap_lines=True)


def page() -> None:
    state = st.session_state
    if "score.preset" not in state:
        load(presets.SCENARIOS[0].name)
    st.title("Score a transaction")
    st.caption("Is this payment fraud? Pick an example or write your own, and see the decision with its reasons.")
    left, right = st.columns([6, 5], gap="large")
    with left:
        examples()
        wanted = editor()
    with right:
        if wanted:
            with st.spinner("Scoring ..."):
                state["score.sent"] = _text_to_send()
                state["score.answer"] = score(state["score.sent"])
        answer = state["score.answer"]
        if answer is None:
            empty()
        elif isinstance(answer, ApiError):
            connection.show_failure(answer)
        else:
            if state["score.sent"] != _text_to_send():
                st.info("The transaction has changed since: press Score again.", icon=":material/edit:")
            decision_of(answer)
    with left:
        terminal()


page()
