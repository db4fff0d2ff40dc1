"""What is served: champion and challenger side by side, curves, what weighs, rules, the report to take away."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import streamlit as st

from streamlit_app import charts, charts_model, connection
from streamlit_app.answers import Challenger, Model
from streamlit_app.client import ApiError, FraudApi, NotServed

#: Figures of the test rows: name in the API, label, format, whether more is better (None: it depends).
FIGURES: tuple[tuple[str, str, str, bool | None], ...] = (
    ("average_precision", "Average precision", ".3f", True),
    ("roc_auc", "ROC AUC", ".3f", True),
    ("recall", "Recall", ".1%", True),
    ("precision", "Precision of alerts", ".1%", True),
    ("fpr", "False positive rate", ".3%", False),
    ("value_recall", "Money of frauds flagged", ".1%", True),
    ("cp_at_100", "Card precision at 100", ".3f", True),
    ("ece", "Calibration error (ECE)", ".4f", False),
    ("review_share", "Sent to review", ".2%", None),
    ("decline_share", "Declined", ".2%", None),
)
#: Decisions with reasons that are looked at for what weighs.
LOOKED_AT = 200


def headline(model: Model) -> None:
    metrics = model.metrics or {}
    counts = metrics.get("counts", {})
    places = st.columns(5)
    places[0].metric("Average precision", tell(metrics, "average_precision", ".3f"), border=True,
                     help=interval(metrics, "average_precision", ".3f"))  # fmt: skip
    places[1].metric("Recall", tell(metrics, "recall", ".1%"), border=True, help=interval(metrics, "recall", ".1%"))
    places[2].metric("Precision of alerts", tell(metrics, "precision", ".1%"), border=True,
                     help=interval(metrics, "precision", ".1%"))  # fmt: skip
    places[3].metric("Review from", charts.percent(model.thresholds.review), border=True)
    places[4].metric("Decline from", charts.percent(model.thresholds.decline), border=True)
    if counts:
        rate = metrics.get("fraud_rate", {}).get("weighted")
        st.caption(
            f"On {counts.get('rows', 0):,} transactions that it had not seen, {counts.get('frauds', 0):,} of them fraud"
            + (f" ({rate:.3%})" if isinstance(rate, float) else "")
            + f", {str(counts.get('first', ''))[:10]} to {str(counts.get('last', ''))[:10]}. "
            "A precision means nothing without the rate it belongs to."
        )


def tell(metrics: Mapping[str, Any], name: str, how: str) -> str:
    value = metrics.get(name)
    return format(value, how) if isinstance(value, int | float) else "none"


def interval(metrics: Mapping[str, Any], name: str, how: str) -> str | None:
    found = metrics.get("intervals", {}).get(name)
    if not isinstance(found, dict) or not isinstance(found.get("low"), float):
        return None
    return f"95 % interval: {format(found['low'], how)} to {format(found['high'], how)}"


def side_by_side(model: Model) -> None:
    st.subheader("Champion and challenger", anchor=False)
    other = model.challenger
    if other is None:
        st.caption(
            "No challenger stands beside it. Where `FRAUD_CHALLENGER_URL` of the service names a second pointer, that "
            "model judges the same transactions in the shadow, and what it would have said is shown here."
        )
    sides: list[tuple[str, Mapping[str, Any]]] = [("champion", facts(model, model.metrics))]
    if other is not None:
        sides.append(("challenger", facts(other, other.metrics)))
    names = list(sides[0][1])
    st.dataframe(
        {"figure": names, **{who: [str(found[name]) for name in names] for who, found in sides}},
        hide_index=True, width="stretch", height="content", key="model.sides",
    )  # fmt: skip
    if other is not None:
        shadow(other)


def facts(side: Model | Challenger, metrics: Mapping[str, Any] | None) -> dict[str, str]:
    return {
        "version": side.model_version,
        "trained": side.trained_at[:16].replace("T", " ") + " UTC",
        "review from": charts.percent(side.thresholds.review),
        "decline from": charts.percent(side.thresholds.decline),
        **{label: tell(metrics or {}, name, how) for name, label, how, _ in FIGURES},
    }


def shadow(other: Challenger) -> None:
    """How the challenger judged what came in."""
    found = other.shadow
    if other.share:
        st.caption(f"It answers {other.share:g} of 100 customers already.")
    if not found:
        st.caption("It has judged nothing yet.")
        return
    st.markdown("**In the shadow, since this process began**")
    by_outcome = found.get("by_outcome")
    rows = [
        {"figure": name.replace("_", " "), "value": f"{value:.4g}" if isinstance(value, float) else str(value)}
        for name, value in found.items()
        if value is not None and not isinstance(value, list | dict)
    ]
    st.dataframe(rows, hide_index=True, width="stretch", key="model.shadow")
    if isinstance(by_outcome, list) and by_outcome:
        st.dataframe(by_outcome, hide_index=True, width="stretch", key="model.shadow_outcomes")


def curves(model: Model) -> None:
    st.subheader("How it tells them apart", anchor=False)
    found = model.curves
    if found is None or found.pr is None or found.roc is None:
        st.caption("This model brings no curves.")
        return
    one, two, three = st.columns(3, gap="medium")
    with one:
        st.markdown("**Precision and recall**")
        st.altair_chart(charts_model.precision_recall(found, model.thresholds), width="stretch", key="model.pr")
    with two:
        st.markdown("**ROC**")
        st.altair_chart(charts_model.roc(found, model.thresholds), width="stretch", key="model.roc")
    with three:
        st.markdown("**Calibration**")
        st.altair_chart(charts_model.calibration(found), width="stretch", key="model.calibration")
    st.caption(
        f"On the rows it was judged on, at their true rate of fraud ({found.fraud_rate:.3%}). Bars are 95 % intervals; "
        "on the dashed line a probability can be taken at its word."
    )


def weighs(model: Model, api: FraudApi) -> None:
    """What moves scores: over rows of training, and over the latest alerts, whose reasons are exact shares."""
    st.subheader("What weighs", anchor=False)
    if model.importance:
        ranked = sorted(((each.feature, each.mean_abs) for each in model.importance), key=lambda pair: -pair[1])
        st.altair_chart(
            charts_model.weights(ranked[:15], "mean size of the share, log-odds"),
            width="stretch",
            key="model.importance",
        )
        st.caption("Over test rows, half of them fraud.")
        if connection.opens("GET", "/transactions"):
            st.markdown("**In the latest alerts**")
    if not connection.opens("GET", "/transactions"):
        if model.importance:
            return
        st.caption(
            "What moved the latest scores is shown with a key of the role review; the report tells it of training."
        )
        return
    sums: dict[str, float] = {}
    looked = 0
    for outcome in ("review", "decline"):
        page = api.transactions(outcome=outcome, test=False, limit=LOOKED_AT // 2)
        for item in page.transactions:
            looked += bool(item.decision.reasons)
            for reason in item.decision.reasons:
                sums[reason.feature] = sums.get(reason.feature, 0.0) + abs(reason.contribution)
    if not looked:
        st.caption("No alert with reasons is recorded yet: score one, and what moved its score is shown here.")
        return
    ranked = sorted(((name, total / looked) for name, total in sums.items()), key=lambda pair: -pair[1])
    st.altair_chart(
        charts_model.weights(ranked[:15], "mean size of the share, log-odds"), width="stretch", key="model.weights"
    )
    st.caption(
        f"Over the named reasons of the latest {looked:,} alerts. The report has the same over test rows, half of them "
        "fraud."
    )


def card(model: Model, api: FraudApi) -> None:
    st.subheader("Model card", anchor=False)
    st.code(
        f"version      {model.model_version}\n"
        f"pointer      {'none' if model.serial is None else f'serial {model.serial}'}\n"
        f"trained      {model.trained_at}\n"
        f"money        {model.base_currency}\n"
        f"time zone    {model.time_zone}\n"
        f"rules        {model.rules_version}\n"
        f"lists        {', '.join(f'{name} {n:,}' for name, n in model.lists.items())}",
        language=None,
    )
    names = [str(feature.get("name")) for feature in model.features]
    with st.expander(f"{len(names)} features", icon=":material/category:"):
        st.dataframe(
            [{"feature": f.get("name"), "version": f.get("version")} for f in model.features], hide_index=True,
            width="stretch", key="model.features",
        )  # fmt: skip
    if model.attributes:
        with st.expander(f"{len(model.attributes)} attributes of your own", icon=":material/label:"):
            st.dataframe(list(model.attributes), hide_index=True, width="stretch", key="model.attributes")
    with st.expander(f"{len(model.rules)} rules beside it", icon=":material/rule:"):
        table = pd.DataFrame(list(model.rules))
        st.dataframe(table, hide_index=True, width="stretch", key="model.rules", placeholder="")
    if model.model_card:
        with st.expander("The whole card", icon=":material/badge:"):
            st.code(model.model_card, language="markdown", wrap_lines=True)
    if connection.opens("GET", "/model/report"):
        report(api, model.model_version)
    else:
        st.caption("The whole report is for keys of the role review.")


def report(api: FraudApi, version: str) -> None:
    """The report is fetched when it is asked for, since it holds pictures; it opens in a tab of its own, offline."""
    if st.session_state.get("model.report_of") != version:
        if not st.button("Fetch the report", icon=":material/description:", key="model.fetch"):
            return
        try:
            st.session_state["model.report"], st.session_state["model.report_of"] = api.report(), version
        except ApiError as error:
            connection.failed(error, what="The report")
            return
    st.download_button(
        "Save the report", st.session_state["model.report"], f"report-{version}.html", "text/html",
        icon=":material/download:", key="model.save", on_click="ignore",
        help="One HTML page with every figure, plot and the model card; it needs nothing from the internet.",
    )  # fmt: skip


def page() -> None:
    st.title("Model")
    st.caption("Which model answers, how good it was on what it had not seen, and what it looks at.")
    if connection.closed("GET", "/model"):
        return
    try:
        model, api = connection.model(), connection.api()
    except NotServed as error:
        connection.show_failure(error)
        st.caption(
            "Until one is published, rules alone decide. On a laptop `make run` trains one in about a minute; "
            "`make publish STACK=...` brings one to a deployed API."
        )
        return
    except ApiError as error:
        connection.failed(error)
        return
    st.code(model.model_version, language=None)
    for what in model.degraded:
        st.warning({"model": "The last look for a newer model failed: this one stays.",
                    "rules": "The rules file could not be loaded: the model's own rules decide."}.get(what, what),
                   icon=":material/warning:")  # fmt: skip
    headline(model)
    curves(model)
    left, right = st.columns(2, gap="large")
    with left:
        side_by_side(model)
        card(model, api)
    with right:
        try:
            weighs(model, api)
        except ApiError as error:
            connection.failed(error)


page()
