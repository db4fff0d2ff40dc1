"""Try a change before it goes live: thresholds by what they cost, rules by what they would have decided."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import streamlit as st

from streamlit_app import charts, charts_model, connection, rules_file, simulate, tried
from streamlit_app.answers import Backtest, Checked, Model, Thresholds
from streamlit_app.client import ApiError, NotServed, RequestRefused

THRESHOLDS, RULES = "Thresholds and costs", "Rules"
SPANS: dict[str, int | None] = {"7 days": 7, "30 days": 30, "90 days": 90, "all there is": None}
#: Probabilities that a threshold can be set to, besides the model's own.
STEPS = (
    *(n / 10_000 for n in (1, 2, 5, 10, 20, 30, 50, 75)),
    *(n / 100 for n in range(1, 21)),
    *(n / 100 for n in range(22, 50, 2)),
    *(n / 100 for n in range(50, 100, 5)),
    0.99,
)
#: Training's own floor under the precision of declines; a model whose declines are less right begins with theirs.
DECLINE_PRECISION = 0.9

PLACES = {"deny list": "deny", "allow list": "allow", "snooze of a rule": "snooze"}
ENTITIES = ("customer", "counterparty", "device")

state = st.session_state


# --- thresholds ------------------------------------------------------------------------------------------------------


def thresholds(model: Model) -> None:
    # Thresholds are chosen on validation rows, or the test rows would no longer be a test.
    curves = model.validation_curves or model.curves
    found = simulate.read_back(curves, model.thresholds) if curves else None
    if found is None:
        st.info(
            "**This model brings no curves with frauds in them**, so there is nothing to compute costs from. A model "
            "that was trained with this version's `python -m training run` does.",
            icon=":material/show_chart:",
        )
        return
    grid, own = found
    left, right = st.columns([3, 8], gap="large")
    with left:
        as_is = simulate.judge(grid, own, model.thresholds).decline_precision
        floor = DECLINE_PRECISION if as_is is None else min(DECLINE_PRECISION, int(as_is * 100) / 100)
        costs = ask_costs(own, floor, model.base_currency)
    with right:
        yours = ask_thresholds(model.thresholds)
        best = simulate.best(grid, costs)
        marks = {
            "the model's": simulate.judge(grid, costs, model.thresholds),
            "yours": simulate.judge(grid, costs, yours),
            "the best": best,
        }
        by_cost, by_work = st.columns(2, gap="medium")
        by_cost.altair_chart(
            charts_model.costs(
                grid,
                *simulate.review_curve(grid, costs, best.thresholds.decline),
                marks,
                model.base_currency,
            ),
            width="stretch",
            key="decide.costs",
            alt="Cost by review threshold; the table below holds the figures of the marked points",
        )
        by_work.altair_chart(
            charts_model.workload(grid, costs.per_day, costs.capacity, marks), width="stretch", key="decide.workload"
        )
        compare(marks, costs, model.base_currency)
        verdict(marks, costs, model.base_currency)
    st.caption(
        f"Computed on the model's {'validation' if model.validation_curves else 'test'} rows, at their rate of fraud. "
        "The line moves the review threshold and keeps the best decline threshold; it is faint where people could not "
        "keep up. "
        "Rules and lists are not in it."
    )
    with st.expander("Make it so", icon=":material/terminal:"):
        st.markdown(
            "Thresholds are sealed with the model. Train with these costs, and publish; `make publish` asks for proof "
            "that the new one is no worse."
        )
        st.code(training_command(costs), language="bash", wrap_lines=True)
    hold_against_the_log(yours)


def ask_costs(own: simulate.Costs, least: float, currency: str) -> simulate.Costs:
    """What being wrong costs; to begin with, what the model was trained with. ``least``: so right declines are."""
    st.markdown("**What it costs**")
    usual = per_day()
    shown = replace(own, per_day=usual, capacity=max(round(own.capacity * usual / own.per_day), 1))

    def money(label: str, name: str, value: float, help_: str) -> float:
        return st.number_input(
            f"{label} ({currency})", 0.0, 1e9, float(value), step=max(round(value / 20, 2), 0.5), format="%.2f",
            key=f"decide.{name}", persist_state="session", help=help_,
        )  # fmt: skip

    fraud = money("A fraud that is missed", "fraud", shown.fraud, "On the average; large ones cost more in proportion.")
    review = money("A review", "review", shown.review, "Somebody's time.")
    false = money("A customer declined", "false", shown.false_decline, "Lost margin, and goodwill.")
    catch = st.slider(
        "Frauds that a review catches", 0.0, 1.0, float(shown.catch), 0.01, format="percent", key="decide.catch",
        persist_state="session",
    )  # fmt: skip
    st.markdown("**What people can do**")
    daily = st.number_input(
        "Transactions a day", 1.0, 1e9, float(shown.per_day), step=100.0, format="%.0f", key="decide.per_day",
        persist_state="session", help="To begin with, the last week's average.",
    )  # fmt: skip
    capacity = st.number_input(
        "Reviews a day, at most", 0.0, 1e9, float(shown.capacity), step=1.0, format="%.0f", key="decide.capacity",
        persist_state="session", help="To begin with, what the model's own thresholds send to people.",
    )  # fmt: skip
    floor = st.slider(
        "Of what is declined, at least so much is fraud", 0.0, 1.0, least, 0.01, format="percent",
        key="decide.floor", persist_state="session",
        help="Pure arithmetic turns customers away by the thousand where frauds are large and declines cheap.",
    )  # fmt: skip
    return simulate.Costs(fraud, review, catch, false, daily, capacity, floor)


def per_day() -> float:
    """The last week's average, or a thousand where there was none."""
    since = (datetime.now(UTC) - timedelta(days=7)).date().isoformat()
    try:
        days = [day.decisions for day in connection.summary(since).days if day.decisions]
    except ApiError:
        return 1000.0
    return float(round(sum(days) / len(days))) if days else 1000.0


def ask_thresholds(own: Thresholds) -> Thresholds:
    options = sorted({*STEPS, own.review, own.decline})
    review, decline = st.select_slider(
        "Your thresholds: review from, decline from", options, (own.review, own.decline), format_func=charts.percent,
        key="decide.thresholds", persist_state="session",
    )  # fmt: skip
    return Thresholds(review, decline)


def compare(marks: Mapping[str, simulate.Policy], costs: simulate.Costs, currency: str) -> None:
    told = {name: figures(policy, costs, currency) for name, policy in marks.items()}
    names = list(next(iter(told.values())))
    st.dataframe(
        {"": names, **{who: [found[name] for name in names] for who, found in told.items()}},
        hide_index=True, width="stretch", height="content", key="decide.compared",
    )  # fmt: skip


def figures(policy: simulate.Policy, costs: simulate.Costs, currency: str) -> dict[str, str]:
    def share(value: float | None) -> str:
        return "none" if value is None else f"{value:.1%}"

    return {
        "review from": charts.percent(policy.thresholds.review),
        "decline from": charts.percent(policy.thresholds.decline),
        f"cost a day ({currency})": f"{policy.cost * costs.per_day / 1000:,.2f}",
        "reviews a day": f"{policy.reviews_per_day:,.1f}",
        "declines a day": f"{policy.declines_per_day:,.1f}",
        "frauds that are flagged": share(policy.recall),
        "alerts that are fraud": share(policy.precision),
        "declines that are fraud": share(policy.decline_precision),
        "people keep up": "yes" if policy.reviews_per_day <= costs.capacity + 1e-6 else "no",
    }


def verdict(marks: Mapping[str, simulate.Policy], costs: simulate.Costs, currency: str) -> None:
    best, own = marks["the best"], marks["the model's"]
    saved = (own.cost - best.cost) * costs.per_day / 1000
    review, decline = charts.percent(best.thresholds.review), charts.percent(best.thresholds.decline)
    if not own.within:
        st.warning(
            f"**The model's own thresholds do not hold your limits.** The best that do: review from {review}, decline "
            f"from {decline}.",
            icon=":material/groups:",
        )
    elif saved > 0.005 * max(own.cost * costs.per_day / 1000, 1e-9):
        st.success(
            f"**The best thresholds would cost {saved:,.2f} {currency} less a day**: review from {review}, "
            f"decline from {decline}.",
            icon=":material/savings:",
        )
    else:
        st.success("**The model's own thresholds are as good as any under these costs.**", icon=":material/check:")


def training_command(costs: simulate.Costs) -> str:
    share = min(costs.capacity / costs.per_day, 1.0)
    return (
        "python -m training run --data DATA --format FORMAT \\\n"
        f"  --review-cost {costs.review:g} --false-decline-cost {costs.false_decline:g} "
        f"--capacity {share:.4g} --decline-precision {costs.precision:g}"
    )


def hold_against_the_log(yours: Thresholds) -> None:
    st.markdown("**Hold your thresholds against what was decided**")
    span, go = st.columns([2, 3], vertical_alignment="bottom")
    chosen = span.selectbox("Decisions of the last", list(SPANS), index=1, key="decide.threshold_span")
    if go.button("Back-test these thresholds", icon=":material/history:", key="decide.test_thresholds"):
        pair = {"review": yours.review, "decline": yours.decline}
        state["decide.thresholds_tried"] = back_test({"thresholds": pair}, SPANS[chosen])
    show_tried(state.get("decide.thresholds_tried"), "decide.thresholds_report")


# --- rules -----------------------------------------------------------------------------------------------------------


def in_force(model: Model | None) -> str:
    return rules_file.text_of(model.rules if model else (), "draft")


def rules(model: Model | None) -> None:
    if "decide.file" not in state:
        state["decide.file"] = in_force(model)
    one, whole = st.columns(2, gap="large")
    with one:
        one_rule(model)
        one_party()
    with whole:
        whole_file(model)
    show_tried(state.get("decide.rules_tried"), "decide.rules_report")


def one_rule(model: Model | None) -> None:
    st.markdown("**One rule**")
    known = {rule["id"]: rule for rule in model.rules} if model else {}
    st.selectbox(
        "Begin with", list(known), index=None, placeholder="a new rule", key="decide.begin", on_change=begin_with,
        args=(known,),
    )  # fmt: skip
    name, outcome = st.columns(2)
    name.text_input("Id", key="decide.id", persist_state="session", max_chars=64, placeholder="night_large_amount")
    outcome.selectbox("It asks for", rules_file.OUTCOMES, key="decide.outcome", persist_state="session")
    st.text_area(
        "Expression", key="decide.expression", persist_state="session", height=100,
        placeholder="is_night && amount > 2000",
        help="CEL: && || ! comparisons + - * / in, and the variables that docs/rules.md lists.",
    )  # fmt: skip
    st.text_input(
        "Reason", key="decide.reason", persist_state="session", placeholder="A large amount at night.",
        help="Shown to people with each decision that it makes.",
    )  # fmt: skip
    st.toggle("In force", value=True, key="decide.enabled", persist_state="session")
    with st.container(horizontal=True, gap="small"):
        check = st.button("Check", icon=":material/spellcheck:", type="primary", key="decide.check")
        st.button("Put into the file", icon=":material/playlist_add:", on_click=put_rule, key="decide.put")
    expression = state["decide.expression"] or ""
    if check:
        state["decide.checked"] = (expression, checked(expression=expression))
    of, answer = state.get("decide.checked", (None, None))
    if of == expression and answer is not None:
        show_checked(answer, expression)
    problem = state.pop("decide.no_place", None)
    if problem:
        st.warning("**Not put into the file**", icon=":material/edit_off:")
        st.text(problem)
    if not known:
        st.caption("No model is loaded, so the rules in force are not told; checking works all the same.")


def begin_with(known: Mapping[str, Mapping[str, Any]]) -> None:
    rule = known.get(state["decide.begin"] or "", {})
    for name, empty in (("id", ""), ("outcome", "review"), ("expression", ""), ("reason", ""), ("enabled", True)):
        state[f"decide.{name}"] = rule.get(name, empty)


def put_rule() -> None:
    rule = {name: (state.get(f"decide.{name}") or "") for name in ("id", "expression", "outcome", "reason")}
    rule = {name: value.strip() for name, value in rule.items()}
    if not rule["id"] or not rule["expression"]:
        state["decide.no_place"] = "A rule needs an id and an expression."
        return
    try:
        state["decide.file"] = rules_file.put(state["decide.file"], {**rule, "enabled": state["decide.enabled"]})
    except rules_file.NoPlace as error:
        state["decide.no_place"] = str(error)


def one_party() -> None:
    """A line for a list or a snooze, put into the file's text. Who is on the lists in force is told to nobody."""
    with st.expander("A party on a list, or a rule snoozed for it", icon=":material/person_add:"):
        place, entity = st.columns(2)
        where = place.selectbox("Where", list(PLACES), key="decide.where", persist_state="session")
        entity.selectbox("Who", ENTITIES, key="decide.entity", persist_state="session")
        st.text_input("Its id", key="decide.party", persist_state="session", max_chars=64, placeholder="C777777")
        if PLACES[where] == "snooze":
            st.text_input("The rule's id", key="decide.snoozed", persist_state="session", max_chars=64)
        day, why = st.columns([2, 3])
        day.date_input("Until (UTC)", value=None, key="decide.until", persist_state="session",
                       help="Empty: for ever. A snooze needs a day.")  # fmt: skip
        why.text_input("Why", key="decide.why", persist_state="session", placeholder="Chargebacks in January")
        st.button("Put it into the file", icon=":material/playlist_add:", on_click=put_party, key="decide.put_party")
        problem = state.pop("decide.no_party", None)
        if problem:
            st.warning("**Not put into the file**", icon=":material/edit_off:")
            st.text(problem)


def put_party() -> None:
    where = PLACES[state["decide.where"]]
    party, until = (state.get("decide.party") or "").strip(), state.get("decide.until")
    rule = (state.get("decide.snoozed") or "").strip() if where == "snooze" else ""
    if not party:
        state["decide.no_party"] = "It needs an id."
    elif where == "snooze" and not (rule and until):
        state["decide.no_party"] = "A snooze needs a rule of this file, and a day on which it ends."
    else:
        entry = {
            "rule": rule, "entity": state["decide.entity"], "id": party,
            "until": f"{until:%Y-%m-%d}T00:00:00Z" if until else "", "reason": (state.get("decide.why") or "").strip(),
        }  # fmt: skip
        try:
            state["decide.file"] = rules_file.put_entry(state["decide.file"], where, entry)
        except rules_file.NoPlace as error:
            state["decide.no_party"] = str(error)


def whole_file(model: Model | None) -> None:
    st.markdown("**The rules file**")
    st.text_area("The file's text", key="decide.file", persist_state="session", height=340,
                 label_visibility="collapsed")  # fmt: skip
    text = state["decide.file"]
    if model and any(model.lists.values()) and text == in_force(model):
        counts = ", ".join(f"{n:,} {name}" for name, n in model.lists.items() if n)
        st.warning(
            f"**Lists and snoozes are not in this text** ({counts}): the API names nobody on them. To keep them, begin "
            "with your own file, which holds them.",
            icon=":material/playlist_remove:",
        )
    with st.container(horizontal=True, gap="small"):
        check = st.button("Check the file", icon=":material/spellcheck:", key="decide.check_file")
        st.button("Begin again with those in force", icon=":material/restart_alt:", key="decide.restart",
                  on_click=restart, args=(in_force(model),))  # fmt: skip
        with st.popover("Bring your own", icon=":material/upload_file:"):
            st.file_uploader("rules.yaml or rules.json", type=["yaml", "yml", "json"], key="decide.upload",
                             on_change=bring)  # fmt: skip
    if check:
        state["decide.file_checked"] = (text, checked(rules=text))
    of, answer = state.get("decide.file_checked", (None, None))
    good = of == text and isinstance(answer, Checked)
    if of == text and answer is not None:
        show_checked(answer, "")
    span, go = st.columns([2, 3], vertical_alignment="bottom")
    chosen = span.selectbox("Decisions of the last", list(SPANS), index=1, key="decide.rules_span")
    if go.button("Back-test the file", icon=":material/history:", type="primary", key="decide.test_rules"):
        state["decide.rules_tried"] = back_test({"rules": text}, SPANS[chosen])
    st.download_button(
        "Download rules.yaml", text, "rules.yaml", "application/yaml", icon=":material/download:", disabled=not good,
        key="decide.download", on_click="ignore", help="A file that was checked as it stands.",
    )  # fmt: skip
    if not good:
        st.caption("Check the file to download it. Put it where `FRAUD_RULES_URL` points, or train with `--rules`.")


def restart(text: str) -> None:
    state["decide.file"] = text


def bring() -> None:
    file = state.get("decide.upload")
    if file is not None:
        state["decide.file"] = file.getvalue().decode("utf-8-sig", "replace")


def checked(**what: str) -> Checked | ApiError:
    try:
        return connection.api().check(**what)
    except ApiError as error:
        return error


def show_checked(answer: Checked | ApiError, expression: str) -> None:
    if isinstance(answer, Checked):
        of = f" {len(answer.rules)} rules, version {answer.rules_version}." if answer.rules is not None else ""
        st.success("**It compiles.**", icon=":material/check_circle:")
        st.text(f"Read are: {', '.join(answer.variables) or 'no variables'}.{of}")
        return
    if not isinstance(answer, RequestRefused):
        connection.show_failure(answer)
        return
    st.error("**It does not compile.**", icon=":material/error:")
    for _, message in answer.fields:
        st.text(message)
        place = rules_file.caret(expression, message)
        if place:
            st.code(place, language=None)


# --- both ------------------------------------------------------------------------------------------------------------


def back_test(change: dict[str, Any], days: int | None) -> Backtest | ApiError:
    if days is not None:
        change["since"] = (datetime.now(UTC) - timedelta(days=days)).isoformat(timespec="seconds")
    try:
        with st.spinner("Judging again what was decided: a few seconds ..."):
            return connection.api().backtest(change)
    except ApiError as error:
        return error


def show_tried(report: Backtest | ApiError | None, key: str) -> None:
    if isinstance(report, ApiError):
        connection.show_failure(report, what="The change")
    elif report is not None:
        st.divider()
        tried.show(report, key)


def page() -> None:
    st.title("Decide")
    st.caption("Where thresholds should lie and what a rule would do, before either goes live.")
    if connection.closed("POST", "/backtest"):
        return
    part = st.segmented_control(
        "What to try", [THRESHOLDS, RULES], key="decide.part", default=THRESHOLDS, required=True,
        label_visibility="collapsed", persist_state="session",
    )  # fmt: skip
    model: Model | None = None
    try:
        model = connection.model()
    except NotServed as error:
        if part == THRESHOLDS:
            connection.show_failure(error)
            st.caption("Without a model there is no probability, and nothing that thresholds could be held against.")
            return
    except ApiError as error:
        connection.failed(error)
        return
    if part == RULES or model is None:
        rules(model)
    else:
        thresholds(model)


page()
