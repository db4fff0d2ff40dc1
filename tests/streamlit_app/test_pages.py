"""Every page as a visitor meets it, driven without a browser, against the real service over HTTP."""

import json
import re
from collections.abc import Callable
from datetime import date
from typing import Any

import httpx
import pytest
from streamlit.testing.v1 import AppTest

from fraud_api_lambda.rules import load_rules
from streamlit_app import batch
from tests.streamlit_app.conftest import APP, KEYS, Past, environment_of, serve
from tests.streamlit_app.console import alerts, charts_of, go, metric, press, queue, run, shown, table, texts
from tests.streamlit_app.servers import READY, Answer, SmallServer, by_path, decision, reply

Open = Callable[..., AppTest]
StartServer = Callable[[Answer], SmallServer]

ALL = sorted(file.stem for file in (APP.parent / "views").glob("[a-z]*.py"))
REVIEWED = ["alerts", "monitor", "decide"]


def ask(past: Past, path: str, **body: Any) -> Any:
    """What the API itself says."""
    headers = {"X-API-Key": past.key}
    call = httpx.post if body else httpx.get
    answer = call(f"{past.url}{path}", headers=headers, trust_env=False, timeout=30, **({"json": body} if body else {}))
    assert answer.status_code == 200, answer.text
    return answer.json()


# --- all pages -------------------------------------------------------------------------------------------------------


@pytest.mark.server
@pytest.mark.parametrize("page", ALL)
@pytest.mark.parametrize("service", ["rules_only_url", "with_model_url"])
def test_every_page_says_something_useful_before_anything_was_decided(
    request: pytest.FixtureRequest, open_console: Open, page: str, service: str
) -> None:
    app = go(open_console(request.getfixturevalue(service)), page)
    assert app.title[0].value
    assert len(shown(app)) > 150
    assert not app.main.error


@pytest.mark.server
@pytest.mark.parametrize("page", ALL)
def test_every_page_opens_for_a_reviewer_with_weeks_of_decisions(
    with_past: Past, open_console: Open, page: str
) -> None:
    app = go(open_console(with_past.url, with_past.key), page)
    assert "needs a key" not in alerts(app.main)
    assert not app.main.error


@pytest.mark.server
@pytest.mark.parametrize("page", REVIEWED)
def test_a_score_key_that_comes_by_a_link_is_told_which_key_the_page_needs(
    with_past: Past, open_console: Open, page: str
) -> None:
    app = go(open_console(with_past.url, KEYS["score"]), page)
    assert "needs a key with another role" in alerts(app.main)
    assert "--role review" in texts(app.main)
    assert not app.main.dataframe


@pytest.mark.server
@pytest.mark.parametrize("page", ["score", "batch", "model"])
def test_a_score_key_scores_files_and_sees_the_model(with_past: Past, open_console: Open, page: str) -> None:
    app = go(open_console(with_past.url, KEYS["score"]), page)
    assert "needs a key" not in alerts(app.main)
    assert not app.main.error
    assert "score (score)" in [code.value for code in app.sidebar.code]


@pytest.mark.parametrize("page", ALL)
def test_every_page_tells_an_api_that_is_down_and_the_way_to_start_it(
    closed_url: str, open_console: Open, page: str
) -> None:
    app = go(open_console(closed_url), page)
    assert "Nobody answers" in texts(app.main)
    assert "make run" in texts(app.main)


@pytest.mark.server
@pytest.mark.parametrize("page", ["batch", *REVIEWED, "model"])
def test_every_page_tells_a_wrong_key_and_where_the_right_one_belongs(
    with_past: Past, open_console: Open, page: str
) -> None:
    app = go(open_console(with_past.url, "fraud_wrong-key-that-is-nobodys"), page)
    if page == "batch":
        app = upload(app, b"amount\n1\n")
        app = press(app, "batch.score")
    assert "refused the key" in texts(app.main)
    assert "FRAUD_API_KEY" in texts(app.main)
    assert "nobodys" not in shown(app) + texts(app.sidebar)


EVIL = "<img src=x onerror=alert(1)> **bold** ![x](http://evil.test/x.png) $x$ :red[x]"


@pytest.mark.parametrize("page", ["alerts", "monitor"])
def test_nothing_from_a_transaction_is_rendered(small_server: StartServer, open_console: Open, page: str) -> None:
    reasons = [{"code": "X", "feature": EVIL, "value": EVIL, "contribution": 1.0, "text": EVIL}]
    label = {"label": "fraud", "source": EVIL, "time": EVIL, "received_at": EVIL, "note": EVIL}
    item = {
        "transaction_id": EVIL, "received_at": "2026-02-06T02:30:00.000Z", "timestamp": EVIL, "type": EVIL,
        "customer_id": EVIL, "counterparty_id": EVIL, "device_id": EVIL, "latency_ms": 1.0, "label": label,
        "decision": decision(transaction_id=EVIL, explanation=EVIL, reasons=reasons, rules=[EVIL], currency=EVIL,
                             base_currency=EVIL, model_version=EVIL, rules_version=EVIL),
    }  # fmt: skip
    day = {
        "day": "2026-02-06", "decisions": 1, "outcomes": {"decline": 1}, "alerts": 1, "degraded": 0, "amount": 1.0,
        "declined_amount": 1.0, "labelled": 0, "fraud": 0, "fraud_amount_flagged": 0.0, "fraud_amount_missed": 0.0,
        "precision": None, "recall": None, "false_positive_rate": None, "mature": False, "latency_p50_ms": 1.0,
        "latency_p99_ms": 1.0, "complete": True,
    }  # fmt: skip
    summary = {"base_currency": "USD", "label_delay_days": 7.0, "days": [day]}
    server = small_server(
        by_path(ready=READY, transactions=reply(200, {"transactions": [item], "next": None}),
                summary=reply(200, summary))
    )  # fmt: skip
    app = go(open_console(server.url), page)
    for part in ("Why", "Customer", "Record") if page == "alerts" else (None,):
        if part:
            app.segmented_control(key="alerts.part").set_value(part)
            run(app)
        rendered = [
            box.value for kind in ("markdown", "caption", "error", "warning", "info", "success", "title", "subheader")
            for box in getattr(app.main, kind)
        ]  # fmt: skip
        rendered += [f"{m.label} {m.value} {m.delta}" for m in app.main.metric if EVIL not in str(m.value)]
        assert not [value for value in rendered if "onerror" in value or "evil.test" in value]


# --- score -----------------------------------------------------------------------------------------------------------


def score(app: AppTest, body: dict[str, Any]) -> AppTest:
    app.segmented_control(key="score.mode").set_value("JSON")
    run(app)
    app.text_area(key="score.json").set_value(json.dumps(body))
    return press(run(app), "score")


@pytest.mark.server
def test_a_reviewer_sees_where_a_transaction_lies_against_the_customers_normal(
    with_past: Past, open_console: Open
) -> None:
    app = open_console(with_past.url, with_past.key)
    usual = {"customer_id": "C-normal-1", "counterparty_id": "M-1", "currency": "USD"}
    for number, amount in enumerate((20, 25, 30, 35, 40)):
        app = score(app, {**usual, "amount": amount, "timestamp": f"2026-02-0{number + 1}T10:00:00Z"})
    app = score(app, {**usual, "amount": 900, "counterparty_id": "M-new", "timestamp": "2026-02-06T03:00:00Z"})
    told = texts(app.main)
    assert "900.00 USD is more than ever before (20.00 to 40.00 USD, of the last 5), 30.0 times the middle one." in told
    assert "0 of 5 earlier ones were within an hour of 03 o'clock" in told
    assert "This counterparty is a new one." in told
    assert "1 counterparties are known" in told


@pytest.mark.server
def test_a_customer_without_a_past_is_told_to_have_none(with_past: Past, open_console: Open) -> None:
    app = score(open_console(with_past.url, with_past.key), {"amount": 5, "customer_id": "C-nobody-yet"})
    assert "Nothing is known of this customer yet" in texts(app.main)


@pytest.mark.server
def test_a_score_key_is_shown_no_normal(with_past: Past, open_console: Open) -> None:
    app = score(open_console(with_past.url, KEYS["score"]), {"amount": 5, "customer_id": "C-nobody-yet"})
    assert "normal" not in texts(app.main)


@pytest.mark.server
@pytest.mark.parametrize("outcome", ["approve", "review", "decline"])
def test_a_test_input_is_told_as_one(with_past: Past, open_console: Open, outcome: str) -> None:
    app = open_console(with_past.url, with_past.key)
    app.selectbox(key="score.payload").set_value(f"Test input · {outcome}")
    app = press(run(app), "score")
    told = texts(app.main)
    assert "decided by the test input's id" in told
    assert f"test:{outcome}" in [code.value for code in app.main.code]
    assert f"its id asks for {outcome}" in told


@pytest.mark.server
def test_a_decision_by_a_list_is_told_as_one(
    trained: Any, tmp_path_factory: pytest.TempPathFactory, open_console: Open
) -> None:
    folder = tmp_path_factory.mktemp("lists")
    rules = {"version": "1", "rules": [], "lists": {"deny": [{"entity": "customer", "id": "C-bad", "reason": "Mule."}]}}
    (folder / "rules.json").write_text(json.dumps(rules))
    with serve(folder, **environment_of(trained), FRAUD_RULES_URL=f"file://{folder}/rules.json") as url:
        app = score(open_console(url), {"amount": 5, "customer_id": "C-bad"})
    told = texts(app.main)
    assert "decided by a list" in told
    assert "One of the parties is on the deny list" in told
    assert "list:deny" in [code.value for code in app.main.code]


# --- batch -----------------------------------------------------------------------------------------------------------


def upload(app: AppTest, data: bytes, name: str = "file.csv") -> AppTest:
    app.file_uploader(key="batch.file").set_value((name, data, "text/csv"))
    return run(app)


MIXED = b"""\
TX_AMOUNT;CUSTOMER_ID;TX_DATETIME;type
4.20;0012;2026-02-06T08:40:00Z;PAYMENT
not known;0013;2026-02-06T08:41:00Z;PAYMENT
181000;0014;2026-02-06T14:05:00Z;TRANSFER
-3;0015;2026-02-06T14:05:00Z;BARTER
"""


@pytest.mark.server
def test_good_rows_of_a_file_are_scored_and_bad_ones_listed_with_their_reasons(
    with_past: Past, open_console: Open
) -> None:
    app = upload(go(open_console(with_past.url, KEYS["score"]), "batch"), MIXED)
    assert app.selectbox(key="batch.map.amount").value == "TX_AMOUNT"
    app = press(app, "batch.score")
    assert (metric(app, "Scored"), metric(app, "Refused rows")) == ("2", "2")
    assert table(app, "row", "outcome")["row"].tolist() == [1, 3]
    refused = table(app, "row", "what is wrong")
    assert refused["row"].tolist().count(2) == 1
    assert set(refused[refused["row"] == 4]["field"]) == {"amount", "type"}
    recorded = ask(with_past, "/transactions?customer_id=0012")["transactions"]
    assert [item["decision"]["amount"] for item in recorded] == [4.2]


@pytest.mark.server
def test_the_same_file_again_is_the_same_transactions_and_anew_it_is_others(
    with_past: Past, open_console: Open
) -> None:
    data = b"amount,customer_id\n7.77,C-twice\n"
    app = press(upload(go(open_console(with_past.url, with_past.key), "batch"), data), "batch.score")
    app = press(app, "batch.score")
    assert len(ask(with_past, "/transactions?customer_id=C-twice")["transactions"]) == 1
    app.toggle(key="batch.anew").set_value(True)
    press(run(app), "batch.score")
    assert len(ask(with_past, "/transactions?customer_id=C-twice")["transactions"]) == 2


@pytest.mark.server
def test_the_scored_table_is_filtered_by_outcome_probability_and_words(with_past: Past, open_console: Open) -> None:
    rows = b"".join(b"%d,C-f%d,2026-02-06T1%d:00:00Z\n" % (n * 3000 + 5, n, n) for n in range(8))
    app = upload(go(open_console(with_past.url, with_past.key), "batch"), b"amount,customer_id,timestamp\n" + rows)
    app = press(app, "batch.score")
    everything = table(app, "row", "outcome")
    assert len(everything) == 8
    app.slider(key="batch.least").set_value(0.05)
    likely = table(run(app), "row", "outcome")
    assert len(likely) == (everything["probability"] >= 0.05).sum() < 8
    app.slider(key="batch.least").set_value(0.0)
    app.text_input(key="batch.words").set_value(everything["transaction_id"][3])
    assert table(run(app), "row", "outcome")["row"].tolist() == [4]


@pytest.mark.server
def test_a_file_without_an_amount_asks_which_column_it_is(with_past: Past, open_console: Open) -> None:
    app = upload(go(open_console(with_past.url, KEYS["score"]), "batch"), b"how_much,who\n12,C1\n")
    assert app.button(key="batch.score").disabled
    app.selectbox(key="batch.map.amount").set_value("how_much")
    app = press(run(app), "batch.score")
    assert metric(app, "Scored") == "1"


def test_a_file_that_is_none_is_told_and_nothing_is_sent(small_server: StartServer, open_console: Open) -> None:
    server = small_server(by_path(ready=READY))
    app = upload(go(open_console(server.url), "batch"), b"\x00\x01\x02", "photo.csv")
    assert "cannot be read" in alerts(app.main)
    assert not [request for request in server.requests if request.method == "POST"]


def test_an_api_that_fails_half_way_keeps_what_was_scored_and_goes_on_later(
    small_server: StartServer, open_console: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "PART", 2)
    healthy = {"now": True}

    def judge(handler: Any) -> None:
        sent = json.loads(server.requests[-1].body)["transactions"]
        if not healthy["now"] and sent[0]["amount"] >= 3:
            reply(502, b"oops", "text/plain")(handler)
            return
        reply(200, {"results": [{"index": n, "decision": decision()} for n in range(len(sent))]})(handler)

    def answer(handler: Any) -> None:
        (judge if "batch" in handler.path else by_path(ready=READY))(handler)

    server = small_server(answer)
    app = upload(go(open_console(server.url), "batch"), b"amount\n1\n2\n3\n4\n5\n")
    healthy["now"] = False
    app = press(app, "batch.score")
    assert "failed (502)" in texts(app.main)
    assert "2 of 5 rows are scored" in alerts(app.main)
    healthy["now"] = True
    app = press(app, "batch.go_on")
    assert metric(app, "Scored") == "5"
    amounts = [
        [item["amount"] for item in json.loads(request.body)["transactions"]]
        for request in server.requests
        if "batch" in request.path
    ]
    assert amounts == [[1, 2], [3, 4], [3, 4], [5]]


def test_an_api_that_asks_to_wait_is_waited_for(small_server: StartServer, open_console: Open) -> None:
    refusals = iter([429, 429])

    def answer(handler: Any) -> None:
        if "batch" not in handler.path:
            by_path(ready=READY)(handler)
        elif next(refusals, None):
            reply(429, {"title": "Too many requests", "status": 429}, Retry_After="1")(handler)
        else:
            reply(200, {"results": [{"index": 0, "decision": decision()}]})(handler)

    app = upload(go(open_console(small_server(answer).url), "batch"), b"amount\n1\n")
    assert metric(press(app, "batch.score"), "Scored") == "1"


# --- alerts ----------------------------------------------------------------------------------------------------------


def fresh_alerts(past: Past, customer: str, n: int = 3) -> list[str]:
    """Alerts of one customer that nobody has looked at, the newest first."""
    ids = []
    for number in range(n):
        ids.append(f"{customer}-{number}")
        answer = ask(
            past, "/predict", transaction_id=ids[-1], amount=9_000 + number, type="TRANSFER", customer_id=customer,
            counterparty_id=f"{customer}-mule", oldbalanceOrg=9_000 + number, oldbalanceDest=0,
        )  # fmt: skip
        assert answer["outcome"] != "approve"
    return ids[::-1]


def alerts_of(app: AppTest, customer: str) -> AppTest:
    app = go(app, "alerts")
    app.text_input(key="alerts.customer").set_value(customer)
    return run(app)


@pytest.mark.server
def test_an_alert_is_marked_with_a_note_and_the_next_one_is_there(with_past: Past, open_console: Open) -> None:
    first, second, _ = fresh_alerts(with_past, "C-mark")
    app = alerts_of(open_console(with_past.url, with_past.key), "C-mark")
    assert queue(app)["transaction_id"].tolist()[:2] == [first, second]
    app.text_input(key="alerts.note").set_value("Called: it was not her.")
    app = press(run(app), "alerts.fraud")
    [label] = ask(with_past, f"/transactions/{first}")["labels"]
    assert (label["label"], label["source"], label["note"]) == ("fraud", "analyst", "Called: it was not her.")
    assert app.text_input(key="alerts.note").value == ""
    assert app.session_state["alerts.table"]["selection"]["rows"] == [1]
    app = press(app, "alerts.legitimate")
    assert ask(with_past, f"/transactions/{second}")["label"]["label"] == "legitimate"
    app = press(app, "alerts.refresh")
    assert len(queue(app)) == 1


@pytest.mark.server
def test_next_and_previous_walk_the_queue_and_stop_at_its_ends(with_past: Past, open_console: Open) -> None:
    ids = fresh_alerts(with_past, "C-walk")
    app = alerts_of(open_console(with_past.url, with_past.key), "C-walk")
    app.segmented_control(key="alerts.part").set_value("Record")
    app = run(app)
    seen = []
    for _ in ids:
        seen.append(next(code.value for code in app.main.code if code.value.startswith("C-walk")))
        if not app.button(key="alerts.next").disabled:
            app = press(app, "alerts.next")
    assert seen == ids
    assert app.button(key="alerts.next").disabled
    app = press(app, "alerts.previous")
    assert ids[1] in [code.value for code in app.main.code]


@pytest.mark.server
def test_a_case_shows_reasons_the_customers_past_and_the_counterpartys(with_past: Past, open_console: Open) -> None:
    ids = fresh_alerts(with_past, "C-case")
    app = alerts_of(open_console(with_past.url, with_past.key), "C-case")
    assert any("log-odds of fraud" in spec for spec in charts_of(app))
    for part in ("Customer", "Counterparty"):
        app.segmented_control(key="alerts.part").set_value(part)
        app = run(app)
        assert set(table(app, "arrived", "transaction_id")["transaction_id"]) == set(ids[1:])
        assert "normal" in texts(app.main)


@pytest.mark.server
def test_the_queue_is_filtered_by_rule_probability_amount_and_outcome(with_past: Past, open_console: Open) -> None:
    app = go(open_console(with_past.url, with_past.key), "alerts")
    app.selectbox(key="alerts.window").set_value("ever")
    app.selectbox(key="alerts.label").set_value("all")
    app = run(app)
    everything = queue(app)
    assert set(everything["outcome"]) == {"review", "decline"}
    assert everything["arrived"].is_monotonic_decreasing
    app.slider(key="alerts.least").set_value(0.5)
    likely = queue(run(app))
    assert len(likely)
    assert (likely["probability"] >= 0.5).all()
    app.slider(key="alerts.least").set_value(0.0)
    app.button_group(key="alerts.outcome").set_value(["review"])
    assert set(queue(run(app))["outcome"]) == {"review"}
    app.number_input(key="alerts.amount").set_value(1000.0)
    assert (queue(run(app))["amount"] >= 1000).all()


@pytest.mark.server
def test_older_alerts_are_loaded_page_by_page_without_a_gap(with_past: Past, open_console: Open) -> None:
    app = go(open_console(with_past.url, with_past.key), "alerts")
    app.selectbox(key="alerts.window").set_value("ever")
    app.selectbox(key="alerts.label").set_value("all")
    app = run(app)
    expected: list[str] = []
    for outcome in ("review", "decline"):
        cursor = ""
        while cursor is not None:
            more = f"&cursor={cursor}" if cursor else ""
            page = ask(with_past, f"/transactions?outcome={outcome}&test=false&limit=200{more}")
            expected += [(item["received_at"], item["transaction_id"]) for item in page["transactions"]]
            cursor = page["next"]
    for _ in range(40):
        if not [button for button in app.main.button if button.key == "alerts.more"]:
            break
        app = press(app, "alerts.more")
    found = queue(app)["transaction_id"].tolist()
    assert sorted(found) == sorted(transaction_id for _, transaction_id in expected)


def test_a_mark_that_does_not_arrive_is_told_and_the_case_stays(small_server: StartServer, open_console: Open) -> None:
    item = {
        "transaction_id": "t-1", "received_at": "2026-02-06T02:30:00.000Z", "timestamp": "2026-02-06T02:30:00.000Z",
        "type": None, "customer_id": None, "counterparty_id": None, "device_id": None, "latency_ms": 1.0,
        "label": None, "decision": decision(),
    }  # fmt: skip
    problem = {"title": "Not recorded", "status": 503, "detail": "The label could not be recorded."}
    server = small_server(
        by_path(ready=READY, transactions=reply(200, {"transactions": [item], "next": None}),
                feedback=reply(503, problem))
    )  # fmt: skip
    app = press(go(open_console(server.url), "alerts"), "alerts.fraud")
    assert "could not be recorded" in texts(app.main)
    assert set(queue(app)["label"]) == {""}


# --- monitor ---------------------------------------------------------------------------------------------------------


@pytest.mark.server
def test_the_monitors_sums_are_the_apis(with_past: Past, open_console: Open) -> None:
    app = go(open_console(with_past.url, with_past.key), "monitor")
    app.selectbox(key="monitor.window").set_value("a year")
    app = run(app)
    days = table(app, "day", "decisions")
    told = ask(with_past, f"/summary?since={days['day'].min():%Y-%m-%d}")["days"]
    assert metric(app, "Decisions") == f"{sum(day['decisions'] for day in told):,}"
    assert metric(app, "Alerts") == f"{sum(day['alerts'] for day in told):,}"
    assert days["decisions"].sum() == sum(day["decisions"] for day in told)
    assert any("How right it was" in spec for spec in charts_of(app))


@pytest.mark.server
def test_a_probability_above_the_limit_in_the_last_hour_is_a_warning(with_past: Past, open_console: Open) -> None:
    fresh_alerts(with_past, "C-warn", 1)
    probability = ask(with_past, "/transactions/C-warn-0")["decision"]["fraud_probability"]
    app = go(open_console(with_past.url, with_past.key), "monitor")
    app.slider(key="monitor.warn").set_value(int(probability * 20) / 20)
    app = run(app)
    assert "of the last hour" in alerts(app.main)
    assert "C-warn-0" in table(app, "arrived", "transaction_id")["transaction_id"].tolist()


@pytest.mark.server
def test_drift_names_what_moved_and_shows_one_of_them_closer(with_past: Past, open_console: Open) -> None:
    app = go(open_console(with_past.url, with_past.key), "monitor")
    app.segmented_control(key="monitor.part").set_value("Drift")
    app = run(app)
    found = ask(with_past, "/drift")
    listed = table(app, "feature", "PSI")
    assert listed["feature"].tolist() == ["score", *(feature["name"] for feature in found["features"])]
    chosen = app.selectbox(key="monitor.feature").value
    assert any(f'"{chosen}"' in spec or "share of decisions" in spec for spec in charts_of(app))
    assert "PSI" in texts(app.main)


def test_a_monitor_whose_api_comes_back_shows_its_figures_again(small_server: StartServer, open_console: Open) -> None:
    healthy = {"now": False}
    summary = {"base_currency": "USD", "label_delay_days": 7.0, "days": []}

    def answer(handler: Any) -> None:
        if healthy["now"]:
            by_path(ready=READY, summary=reply(200, summary))(handler)
        else:
            reply(502, b"oops", "text/plain")(handler)

    app = go(open_console(small_server(answer).url), "monitor")
    assert "failed (502)" in texts(app.main)
    healthy["now"] = True
    assert "Nothing was decided yet" in texts(run(app).main)


# --- decide ----------------------------------------------------------------------------------------------------------


@pytest.mark.server
def test_the_simulator_begins_with_the_costs_of_training_and_follows_other_ones(
    with_past: Past, open_console: Open
) -> None:
    app = go(open_console(with_past.url, with_past.key), "decide")
    assert app.number_input(key="decide.review").value == pytest.approx(5.0, rel=0.02)
    assert app.number_input(key="decide.false").value == pytest.approx(20.0, rel=0.02)
    before = table(app, "the best").set_index("")
    app.number_input(key="decide.review").set_value(500.0)
    app.number_input(key="decide.capacity").set_value(0.0)
    after = table(run(app), "the best").set_index("")
    assert before.loc["review from", "the model's"] == after.loc["review from", "the model's"]
    assert after.loc["reviews a day", "the best"] == "0.0"
    assert "--review-cost 500" in "".join(code.value for code in app.main.code)


@pytest.mark.server
def test_other_thresholds_are_held_against_what_was_decided(with_past: Past, open_console: Open) -> None:
    app = go(open_console(with_past.url, with_past.key), "decide")
    app.select_slider(key="decide.thresholds").set_range(0.3, 0.99)
    app = press(run(app), "decide.test_thresholds")
    assert "decisions would be others" in alerts(app.main)
    figures = table(app, "figure", "before").set_index("figure")
    assert figures.loc["reviews a day", "before"] != figures.loc["reviews a day", "after"]


def rules_page(past: Past, open_console: Open) -> AppTest:
    app = go(open_console(past.url, past.key), "decide")
    app.segmented_control(key="decide.part").set_value("Rules")
    return run(app)


@pytest.mark.server
def test_an_expression_is_checked_and_a_mistake_is_marked_at_its_place(with_past: Past, open_console: Open) -> None:
    app = rules_page(with_past, open_console)
    app.text_area(key="decide.expression").set_value("is_night && amuont > 2000")
    app = press(run(app), "decide.check")
    assert "does not compile" in alerts(app.main)
    assert "Did you mean amount?" in texts(app.main)
    assert "is_night && amuont > 2000\n            ^" in [code.value for code in app.main.code]
    app.text_area(key="decide.expression").set_value("is_night && amount > 2000")
    app = press(run(app), "decide.check")
    assert "It compiles" in alerts(app.main)
    assert re.search(r"Read are: .*amount.*is_night|Read are: .*is_night.*amount", texts(app.main))


@pytest.mark.server
def test_a_rule_is_put_into_the_file_back_tested_and_taken_away(with_past: Past, open_console: Open) -> None:
    app = rules_page(with_past, open_console)
    in_force = [rule["id"] for rule in ask(with_past, "/model")["rules"]]
    assert all(f'id: "{name}"' in (app.text_area(key="decide.file").value or "") for name in in_force)
    app.text_input(key="decide.id").set_value("everything_small")
    app.text_area(key="decide.expression").set_value("amount < 60")
    app.text_input(key="decide.reason").set_value("Small ones.")
    app = press(run(app), "decide.put")
    assert app.download_button(key="decide.download").disabled
    app = press(app, "decide.check_file")
    assert "It compiles" in alerts(app.main)
    assert not app.download_button(key="decide.download").disabled
    app = press(app, "decide.test_rules")
    rules = table(app, "rule", "hits").set_index("rule")
    assert rules.loc["everything_small", "hits"] > 100
    assert rules.loc["everything_small", "hits before"] == 0
    report = ask(with_past, "/backtest", rules=app.text_area(key="decide.file").value)
    assert report["decisions"] > 0


@pytest.mark.server
def test_parties_are_put_on_lists_and_the_file_is_one_that_the_service_loads(
    with_past: Past, open_console: Open
) -> None:
    app = press(rules_page(with_past, open_console), "decide.put_party")
    assert "It needs an id." in texts(app.main)
    snoozed = ask(with_past, "/model")["rules"][0]["id"]
    for where, party in (("deny list", "=C1"), ("allow list", "C: 2"), ("snooze of a rule", "**C3**")):
        app.selectbox(key="decide.where").set_value(where)
        app.text_input(key="decide.party").set_value(party)
        app = run(app)
        if where.startswith("snooze"):
            app.text_input(key="decide.snoozed").set_value(snoozed)
            app = press(run(app), "decide.put_party")
            assert "a day on which it ends" in texts(app.main)
            app.date_input(key="decide.until").set_value(date(2027, 1, 1))
        app = press(run(app), "decide.put_party")
    text = app.text_area(key="decide.file").value or ""
    loaded = load_rules(text.encode())
    assert loaded.lists.sizes == {"deny": 1, "allow": 1, "snooze": 1}
    app = press(app, "decide.check_file")
    assert "It compiles" in alerts(app.main)
    assert not app.download_button(key="decide.download").disabled


@pytest.mark.server
def test_a_rule_without_an_id_is_not_put_anywhere(with_past: Past, open_console: Open) -> None:
    app = press(rules_page(with_past, open_console), "decide.put")
    assert "needs an id and an expression" in texts(app.main)


# --- model -----------------------------------------------------------------------------------------------------------


@pytest.mark.server
def test_the_model_page_tells_what_the_api_serves(with_past: Past, trained: Any, open_console: Open) -> None:
    app = go(open_console(with_past.url, with_past.key), "model")
    assert trained.version in [code.value for code in app.main.code]
    measured = ask(with_past, "/model")["metrics"]
    assert metric(app, "Average precision") == f"{measured['average_precision']:.3f}"
    sides = table(app, "figure", "champion").set_index("figure")
    assert sides.loc["version", "champion"] == trained.version
    specs = charts_of(app)
    for axis in ("recall: frauds that are flagged", "false positive rate", "share that was fraud"):
        assert any(axis in spec for spec in specs), axis


@pytest.mark.server
def test_the_report_is_fetched_and_can_be_saved(with_past: Past, open_console: Open) -> None:
    app = press(go(open_console(with_past.url, with_past.key), "model"), "model.fetch")
    assert (
        app.session_state["model.report"].startswith(b"<!doctype html>")
        or b"<html" in app.session_state["model.report"][:300].lower()
    )
    assert app.download_button(key="model.save").label == "Save the report"


@pytest.mark.server
@pytest.mark.parametrize("role", ["score", "review"])
def test_what_weighs_and_the_card_are_told_to_every_key(with_past: Past, open_console: Open, role: str) -> None:
    app = go(open_console(with_past.url, KEYS[role]), "model")
    served = ask(with_past, "/model")
    assert served["importance"]
    assert "Over test rows" in texts(app.main)
    assert served["model_card"].strip() in [code.value.strip() for code in app.main.code]


@pytest.mark.server
def test_a_challenger_stands_beside_the_champion(
    trained: Any, tmp_path_factory: pytest.TempPathFactory, open_console: Open
) -> None:
    folder = tmp_path_factory.mktemp("challenger")
    environment = {**environment_of(trained), "FRAUD_CHALLENGER_URL": f"file://{trained.root}/models/current"}
    with serve(folder, **environment) as url:
        app = go(open_console(url), "model")
        sides = table(app, "figure", "champion")
    assert list(sides.columns) == ["figure", "champion", "challenger"]
