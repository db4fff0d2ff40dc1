"""Score one transaction: an example or one's own, as a form or as JSON; the decision and the reasons beside it."""

import secrets
from datetime import UTC, datetime
from typing import Any

import streamlit as st

from streamlit_app import charts, commands, connection, decisions, form, normal, presets
from streamlit_app.answers import Party
from streamlit_app.client import ApiError, NotFound, RequestRefused, Scored

FORM, JSON = "Form", "JSON"


def load(name: str) -> None:
    """Put an example into the form and the JSON, for a customer that nobody has seen before."""
    state = st.session_state
    preset = presets.ALL[name]
    suffix = secrets.token_hex(4)
    body = {"transaction_id": f"try-{suffix}", **preset.build(suffix, datetime.now(UTC))}
    for field, value in form.values_of(body).items():
        state[_key(field)] = value
    state["score.preset"], state["score.suffix"] = name, suffix
    # Another API's field names would be lost in the form: such an example is shown, and sent, as it stands.
    state["score.mode"] = JSON if preset.foreign else FORM
    state["score.json"] = form.pretty(body if preset.foreign else form.body_of(_values()))
    state["score.json_of_form"] = form.pretty(form.body_of(_values()))
    state["score.answer"] = state["score.sent"] = state["score.normal"] = None
    if name not in (other.name for other in (*presets.TEST_INPUTS, *presets.PAYLOADS)):
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
        "Test inputs, and requests written for other fraud APIs",
        [preset.name for preset in (*presets.TEST_INPUTS, *presets.PAYLOADS)],
        index=None,
        placeholder="... or a test input, or a request written for another fraud API",
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
    st.text_input(
        "Time",
        max_chars=40,
        placeholder="now",
        key=_key("timestamp"),
        persist_state="session",
        help="RFC 3339, such as 2026-02-06T02:30:00Z; without an offset it is UTC.",
    )
    # Two to a row: three leave no room for the digits beside the buttons.
    one, two = st.columns(2)
    for column, name, label, limit in ((one, "lat", "Latitude", 90.0), (two, "long", "Longitude", 180.0)):
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


def normal_before(text: str) -> Party | None:
    """What was normal for the customer until now, where the key may know; it explains, so it never fails."""
    try:
        customer = form.values_of(form.read_json(text))["customer_id"]
        if not isinstance(customer, str) or not customer or not connection.opens("GET", "/parties/{party_id}"):
            return None
        return connection.api().party(customer)
    except NotFound:
        return normal.nobody(customer)
    except (ApiError, ValueError, TypeError):
        return None


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


def show(scored: Scored, before: Party | None) -> None:
    """The decision, from the verdict down to the answer as it came. Sentences of the API are plain text.

    ``before`` is what was normal for the customer before this transaction, where the key may know.
    """
    decision, probability = scored.decision, scored.decision.fraud_probability
    banner = {"approve": st.success, "review": st.warning, "decline": st.error}[decision.outcome]
    chance = "" if probability is None else f" Fraud probability **{charts.percent(probability)}**."
    banner(f"{decisions.VERDICTS[decision.outcome]}{chance}")
    st.text(decision.explanation)
    with st.container(horizontal=True, gap="small"):
        decisions.badges(decision)
        st.badge(f"{scored.seconds * 1000:,.0f} ms", icon=":material/timer:", color="gray", help=_round_trip(scored))
        if scored.replayed:
            st.badge("asked before", icon=":material/replay:", color="gray", help=_round_trip(scored))
    decisions.show_gauge(decision)
    decisions.show_degraded(decision)
    decisions.show_rules(decision)
    decisions.show_reasons(decision)
    if before is not None:
        normal.show(before, lies_at(scored))
    with st.expander("The whole answer", icon=":material/data_object:"):
        st.json(scored.raw)


def lies_at(scored: Scored) -> normal.Here:
    """Where this transaction lies: what was sent of it, and the record's own features where they can be had."""
    body = form.read_json(st.session_state["score.sent"])
    values = form.values_of(body)
    try:
        whole = connection.api().transaction(scored.decision.transaction_id)
        features = whole.record.features
    except ApiError:
        features = {}
    return normal.Here.of(scored.decision, values, features)


def _round_trip(scored: Scored) -> str:
    if scored.replayed:
        return "From asking to the answer, which came from the log: this transaction was scored before."
    return "From asking to the answer, with the way there and back."


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
                state["score.normal"] = normal_before(state["score.sent"])
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
            show(answer, state["score.normal"])


page()
