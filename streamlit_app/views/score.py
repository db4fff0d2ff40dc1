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
    "rules": "Some rules could not be checked: the others, or those of the bundle, decided with the model.",
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
    if not preset.foreign:
        state["score.payload"] = None


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
                help=preset.story,
                on_click=load,
                args=(preset.name,),
            )
    st.selectbox(
        "Requests written for other fraud APIs",
        [preset.name for preset in presets.PAYLOADS],
        index=None,
        placeholder="... or a request written for another fraud API",
        key="score.payload",
        on_change=load_chosen,
        label_visibility="collapsed",
    )


def editor() -> bool:
    """The transaction as form or JSON; True when it is to be scored now."""
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        st.segmented_control(
            "Write it as",
            [FORM, JSON],
            key="score.mode",
            persist_state="session",
            required=True,
            on_change=switch,
            label_visibility="collapsed",
        )
        wanted = st.button(
            "Score",
            type="primary",
            icon=":material/speed:",
            width=220,
            on_click=freshen,
            key="score",
            shortcut="Ctrl+Enter",
        )
    if st.session_state["score.mode"] == JSON:
        st.text_area(
            "Transaction as JSON", key="score.json", persist_state="session", height=330, label_visibility="collapsed"
        )
        st.caption("Sent as it stands. The form fills this text, never the other way round.")
        st.button(
            "Start again from the form", icon=":material/restart_alt:", type="tertiary", on_click=refill, key="refill"
        )
    else:
        fields()
    return wanted


def fields() -> None:
    """The form. What is empty is not sent, because absent is missing and never zero."""
    one, two, three = st.columns([6, 3, 5])
    one.number_input(
        "Amount",
        value=None,
        min_value=0.0,
        max_value=1e9,
        step=1.0,
        format="%.2f",
        key=_key("amount"),
        persist_state="session",
    )
    two.text_input("Currency", max_chars=3, placeholder="base", key=_key("currency"), persist_state="session")
    three.selectbox("Type", form.TYPES, index=None, placeholder="not known", key=_key("type"), persist_state="session")
    for column, name, label in zip(
        st.columns(3),
        ("customer_id", "counterparty_id", "device_id"),
        ("Customer", "Counterparty", "Device"),
        strict=True,
    ):
        column.text_input(label, max_chars=64, placeholder="not known", key=_key(name), persist_state="session")
    labels = ("Customer's balance before", "... and after", "Counterparty's balance before", "... and after")
    for names in (form.BALANCES[:2], form.BALANCES[2:]):
        for column, name in zip(st.columns(2), names, strict=True):
            column.number_input(
                labels[form.BALANCES.index(name)],
                value=None,
                min_value=0.0,
                max_value=1e12,
                step=1.0,
                format="%.2f",
                placeholder="not known",
                key=_key(name),
                persist_state="session",
                help=f"Sent as {name}. Empty is not the same as 0.",
            )
    one, two, three = st.columns([4, 3, 3])
    one.text_input(
        "Time",
        max_chars=40,
        placeholder="now",
        key=_key("timestamp"),
        persist_state="session",
        help="RFC 3339, such as 2026-02-06T02:30:00Z; without an offset it is UTC.",
    )
    for column, name, label, limit in ((two, "lat", "Latitude", 90.0), (three, "long", "Longitude", 180.0)):
        column.number_input(
            label,
            value=None,
            min_value=-limit,
            max_value=limit,
            step=0.1,
            format="%.4f",
            placeholder="not known",
            key=_key(name),
            persist_state="session",
        )
    with st.expander("More fields"):
        one, two = st.columns([2, 1])
        one.text_input(
            "Transaction id",
            max_chars=64,
            placeholder="made by the service",
            key=_key("transaction_id"),
            persist_state="session",
        )
        two.number_input(
            "Step",
            value=None,
            min_value=1,
            step=1,
            placeholder="none",
            key=_key("step"),
            persist_state="session",
            help="PaySim's hour, in place of the time.",
        )
        st.text_area(
            "Attributes",
            key=_key("attributes"),
            persist_state="session",
            height=100,
            placeholder="V1 = -1.36\nchannel = web",
            help="Your own columns, one `name = value` a line.",
        )


def ask(text: str) -> Scored | ApiError:
    """The answer to the request in ``text``, or why there is none."""
    try:
        form.read_json(text)
    except ValueError as error:
        return RequestRefused(str(error), "Correct the text, or start again from the form.")
    try:
        return connection.api().score(text)
    except ApiError as error:
        connection.check_again()
        return error


def announce(answer: Scored | ApiError) -> None:
    """The verdict at the window's edge: on a narrow screen the decision stands far below the button."""
    if isinstance(answer, ApiError):
        st.toast("No decision.", icon=":material/error:")
    else:
        icons = {"approve": "check_circle", "review": "pause_circle", "decline": "block"}
        outcome = answer.decision.outcome
        st.toast(f"**{outcome.capitalize()}**", icon=f":material/{icons[outcome]}:")


def empty() -> None:
    """What stands where the decision will be."""
    now = connection.status()
    if isinstance(now, ApiError):
        connection.show_failure(now)
        return
    preset = presets.ALL[st.session_state["score.preset"]]
    with st.container(border=True, key="empty"):
        st.markdown(f"#### :material/{preset.icon}: {preset.name}")
        st.markdown(preset.story)
        st.markdown(
            "Press **Score** and you will see here\n"
            "- the verdict, and who decided: a list, a rule or the model\n"
            "- the probability of fraud, against the two thresholds\n"
            "- the reasons, each with its exact share\n"
            "- the rules that fired"
        )
        if not now.ready:
            st.info("No model is loaded: rules alone decide, without a probability.", icon=":material/rule:")


def show(scored: Scored) -> None:
    """The decision, from the verdict down to the answer as it came. Sentences of the API are plain text."""
    decision, probability = scored.decision, scored.decision.fraud_probability
    banner = {"approve": st.success, "review": st.warning, "decline": st.error}[decision.outcome]
    chance = "" if probability is None else f" Fraud probability **{charts.percent(probability)}**."
    banner(f"{VERDICTS[decision.outcome]}{chance}")
    st.text(decision.explanation)
    by, why = DECIDED_BY.get(decision.decided_by, ("something this console does not know", None))
    with st.container(horizontal=True, gap="small"):
        st.badge(f"decided by {by}", icon=":material/gavel:", color="blue", help=why)
        st.badge(f"{scored.seconds * 1000:,.0f} ms", icon=":material/timer:", color="gray", help=_round_trip(scored))
        if decision.test:
            st.badge("test input", color="violet", help="A test input of the integrators: not a real transaction.")
    if probability is None or decision.review_from is None or decision.decline_from is None:
        st.info(
            "Rules only: no model is loaded, so there is no probability and there are no thresholds. "
            "`make run` trains one on a laptop, `make publish` brings one to a deployed API.",
            icon=":material/rule:",
        )
    else:
        st.altair_chart(
            charts.gauge(probability, decision.review_from, decision.decline_from),
            width="stretch",
            key="gauge",
            alt=f"Fraud probability {charts.percent(probability)}; review from "
            f"{charts.percent(decision.review_from)}, decline from {charts.percent(decision.decline_from)}",
        )
    for flag in decision.degraded:
        if flag == "model" and probability is None:
            continue  # told above
        st.warning(DEGRADED.get(flag, "A part of the service was not at hand."), icon=":material/warning:")
    show_rules(decision)
    show_reasons(decision)
    with st.expander("The whole answer", icon=":material/data_object:"):
        st.json(scored.raw)


def _round_trip(scored: Scored) -> str:
    if scored.replayed:
        return "From asking to the answer, which came from the log: this transaction was scored before."
    return "From asking to the answer, with the way there and back."


def show_rules(decision: Decision) -> None:
    st.markdown("**Rules that fired**")
    if not decision.rules:
        st.caption("None.")
        return
    known = connection.rules(decision.rules_version) if decision.model_version else {}
    for name in decision.rules:
        rule = known.get(name)
        st.code(f"{name}: {rule.expression}" if rule else name, language=None, wrap_lines=True)
        if rule:
            st.text(f"{rule.reason} It asks for: {rule.outcome}.")


def show_reasons(decision: Decision) -> None:
    st.markdown("**Why this probability**")
    if decision.fraud_probability is None:
        st.caption("Without a model there is no score to explain.")
        return
    if not decision.reasons:
        st.caption("No reasons came with this answer.")
        return
    st.altair_chart(
        charts.waterfall(decision.reasons, decision.fraud_probability, decision.review_from, decision.decline_from),
        width="stretch",
        key="waterfall",
        alt="Each reason's share of the score, in log-odds; the sentences below say the same",
    )
    st.caption(
        ":red[Red] pushes towards fraud, :green[green] towards legitimate; the bars add up to the score. "
        "The dashed lines are the thresholds. +0.69 doubles the odds of fraud."
    )
    for reason in decision.reasons:
        size, sentence = st.columns([1, 3], gap="small", wrap=False)
        size.badge(f"odds {charts.odds(reason.contribution)}", color="red" if reason.contribution > 0 else "green")
        sentence.text(reason.text, width="stretch")


def terminal() -> None:
    """The request as it will be sent, and the commands that send the same."""
    st.markdown("**What is sent**")
    try:
        body, address = form.read_json(_text_to_send()), connection.api().address
    except ValueError as error:
        st.text(str(error))
        return
    except ApiError as error:
        st.text(error.message)
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
    left, right = st.columns(2, gap="large")
    with left:
        examples()
        wanted = editor()
        terminal()
    with right:
        if wanted:
            state["score.sent"] = _text_to_send()
            with st.spinner("Scoring ..."):
                state["score.answer"] = ask(state["score.sent"])
            announce(state["score.answer"])
        answer = state["score.answer"]
        if answer is None:
            empty()
            return
        if state["score.sent"] != _text_to_send():
            st.info("The transaction has changed since: press Score again.", icon=":material/edit:")
        if isinstance(answer, ApiError):
            connection.show_failure(answer)
        else:
            show(answer)


page()
