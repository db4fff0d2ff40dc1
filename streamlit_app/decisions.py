"""A decision in words and marks: what the score page and a case of the alerts page share.

Sentences of the API are plain text: they may hold parts of a transaction.
"""

import streamlit as st

from streamlit_app import charts, connection
from streamlit_app.answers import Decision, Outcome

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
#: What stands among the rules that fired and is none.
NOT_RULES = {
    "list:deny": "One of the parties is on the deny list: declined, whatever rules and model say.",
    "list:allow": "One of the parties is on the allow list: approved, whatever rules and model say.",
    "test:approve": "A test input: its id asks for approve. The score is as ever; nothing is remembered of it.",
    "test:review": "A test input: its id asks for review. The score is as ever; nothing is remembered of it.",
    "test:decline": "A test input: its id asks for decline. The score is as ever; nothing is remembered of it.",
    "test:degraded": "A test input: judged as if there were neither model nor history. Nothing is remembered of it.",
}
TEST_INPUT = (
    "An id that begins with test-approve, test-review, test-decline or test-degraded forces that answer, so that an "
    "integration can be tried against any model. It is recorded apart: no profile, alert or figure knows of it."
)


def badges(decision: Decision) -> None:
    """Who decided, and that it is a test input. To be called within a horizontal container."""
    if decision.test:
        st.badge("decided by the test input's id", icon=":material/science:", color="violet", help=TEST_INPUT)
        return
    by, why = DECIDED_BY.get(decision.decided_by, ("something this console does not know", None))
    st.badge(f"decided by {by}", icon=":material/gavel:", color="blue", help=why)


def show_degraded(decision: Decision) -> None:
    for flag in decision.degraded:
        if flag == "model" and decision.fraud_probability is None:
            continue  # told where the probability would stand
        st.warning(DEGRADED.get(flag, "A part of the service was not at hand."), icon=":material/warning:")


def show_gauge(decision: Decision, key: str = "gauge") -> None:
    """The probability between the thresholds, or why there is none."""
    probability = decision.fraud_probability
    if probability is None or decision.thresholds is None:
        st.info(
            "Rules only: no model is loaded, so there is no probability and there are no thresholds. "
            "`make run` trains one on a laptop, `make publish` brings one to a deployed API.",
            icon=":material/rule:",
        )
        return
    review, decline = decision.thresholds.review, decision.thresholds.decline
    st.altair_chart(
        charts.gauge(probability, review, decline),
        width="stretch",
        key=key,
        alt=f"Fraud probability {charts.percent(probability)}; review from {charts.percent(review)}, "
        f"decline from {charts.percent(decline)}",
    )


def show_rules(decision: Decision) -> None:
    """The rules that fired, with what they say; what a list or a test input's id said stands among them."""
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
        elif name in NOT_RULES:
            st.text(NOT_RULES[name])


def show_reasons(decision: Decision, key: str = "waterfall") -> None:
    """The waterfall, and each reason as a sentence."""
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
        key=key,
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
