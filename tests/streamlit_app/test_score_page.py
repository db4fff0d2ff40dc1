"""The console as a visitor meets it: the whole app, driven without a browser, against the real service over HTTP."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from streamlit_app import charts, presets
from tests.streamlit_app.console import alerts, charts_of, run, texts
from tests.streamlit_app.servers import READY, Answer, SmallServer, by_path, decision, reply

ROOT = Path(__file__).resolve().parents[2]
APP = ROOT / "streamlit_app" / "app.py"
VERDICTS = ("Approve", "Review", "Decline")

StartServer = Callable[[Answer], SmallServer]
Open = Callable[..., AppTest]


def press_score(app: AppTest) -> AppTest:
    app.button(key="score").click()
    return run(app)


def choose(app: AppTest, name: str) -> AppTest:
    """Choose an example by name, whichever of the two ways it has."""
    if name in [preset.name for preset in presets.SCENARIOS]:
        app.button(key=f"preset.{name}").click()
    else:
        app.selectbox(key="score.payload").set_value(name)
    return run(app)


def verdict(app: AppTest) -> str | None:
    """The outcome on the banner; None when there is no banner."""
    boxes = [box.value for box in (*app.main.success, *app.main.warning, *app.main.error)]
    found = [name for box in boxes for name in VERDICTS if box.startswith("###") and name in box]
    assert len(found) <= 1
    return found[0] if found else None


def sent(app: AppTest) -> dict[str, Any]:
    """The request as the page shows it under "What is sent"."""
    shown = next(code.value for code in app.main.code if code.language == "json")
    return json.loads(shown)  # type: ignore[no-any-return]


# --- the first visit -------------------------------------------------------------------------------------------------


@pytest.mark.server
def test_a_first_visit_shows_an_example_and_what_will_be_seen_and_no_verdict(real_url: str, open_console: Open) -> None:
    app = open_console(real_url)
    assert app.title[0].value == "Score a transaction"
    assert verdict(app) is None
    assert "Morning coffee" in texts(app.main)
    assert "Press **Score**" in texts(app.main)
    assert sent(app)["amount"] == 4.2


@pytest.mark.server
def test_the_sidebar_tells_the_host_and_the_state_but_neither_path_nor_key(real_url: str, open_console: Open) -> None:
    app = open_console(real_url, key="s3cret-key")
    side = texts(app.sidebar)
    assert real_url.removeprefix("http://") in side
    assert ("ready" in side) != ("rules only" in side)
    assert "s3cret-key" not in str(app)
    assert "s3cret-key" not in texts(app.main) + texts(app.sidebar)


@pytest.mark.server
def test_the_sidebar_names_the_model_that_is_served(with_model_url: str, trained: Any, open_console: Open) -> None:
    assert trained.version in [code.value for code in open_console(with_model_url).sidebar.code]


# --- scoring ---------------------------------------------------------------------------------------------------------


@pytest.mark.server
@pytest.mark.parametrize("name", presets.ALL)
def test_every_example_is_accepted_and_a_second_click_shows_the_same_verdict(
    real_url: str, open_console: Open, name: str
) -> None:
    app = open_console(real_url)
    first = press_score(choose(app, name))
    told, request = verdict(first), sent(first)
    assert told is not None, texts(app.main)
    assert verdict(press_score(app)) == told
    assert sent(app) == request
    if name in [preset.name for preset in presets.SCENARIOS]:
        choose(app, name)
        assert verdict(app) is None
        assert sent(app)["transaction_id"] != request["transaction_id"]
        assert sent(app)["customer_id"] != request["customer_id"]
        assert verdict(press_score(app)) == told


@pytest.mark.server
def test_rules_alone_give_an_outcome_and_no_probability(rules_only_url: str, open_console: Open) -> None:
    app = press_score(choose(open_console(rules_only_url), "Night spree"))
    assert verdict(app) == "Review"
    assert "night_large_amount" in [code.value for code in app.main.code]
    assert "Rules only" in alerts(app.main)
    assert charts_of(app) == []
    assert app.main.json[0].value is not None


@pytest.mark.server
def test_a_model_gives_a_gauge_with_both_thresholds_and_reasons_that_add_up(
    with_model_url: str, open_console: Open
) -> None:
    app = press_score(choose(open_console(with_model_url), "Account drain"))
    answer = json.loads(app.main.json[0].value)
    assert charts.percent(answer["fraud_probability"]) in alerts(app.main)
    gauge, waterfall = charts_of(app)
    for chart in (gauge, waterfall):
        assert json.loads(chart)["layer"]
    for reason in answer["reasons"]:
        assert reason["text"] in [text.value for text in app.main.text]
    assert answer["explanation"] in [text.value for text in app.main.text]


@pytest.mark.server
def test_a_drained_account_is_more_suspicious_than_a_coffee(with_model_url: str, open_console: Open) -> None:
    app = open_console(with_model_url)
    coffee = json.loads(press_score(app).main.json[0].value)["fraud_probability"]
    drain = json.loads(press_score(choose(app, "Account drain")).main.json[0].value)["fraud_probability"]
    assert coffee < drain


@pytest.mark.server
def test_a_changed_transaction_is_another_one_of_another_customer(rules_only_url: str, open_console: Open) -> None:
    app = press_score(open_console(rules_only_url))
    before = sent(app)
    app.number_input(key="score.form.amount").set_value(9000.0)
    run(app)
    assert "has changed since" in alerts(app.main)
    press_score(app)
    after = sent(app)
    assert after["amount"] == 9000.0
    assert {before["transaction_id"], before["customer_id"]}.isdisjoint({after["transaction_id"], after["customer_id"]})
    assert "has changed since" not in alerts(app.main)
    assert "very_large_amount" in json.loads(app.main.json[0].value)["rules"]


@pytest.mark.server
def test_ids_that_the_visitor_wrote_are_left_alone(rules_only_url: str, open_console: Open) -> None:
    app = open_console(rules_only_url)
    app.text_input(key="score.form.customer_id").set_value("C-mine")
    press_score(run(app))
    app.number_input(key="score.form.amount").set_value(77.0)
    press_score(run(app))
    assert sent(app)["customer_id"] == "C-mine"


@pytest.mark.server
def test_an_empty_field_is_not_sent(rules_only_url: str, open_console: Open) -> None:
    app = open_console(rules_only_url)
    for field in ("oldbalanceOrg", "lat", "long"):
        app.number_input(key=f"score.form.{field}").set_value(None)
    app.text_input(key="score.form.currency").set_value("")
    app.selectbox(key="score.form.type").set_value(None)
    run(app)
    assert {"oldbalanceOrg", "lat", "long", "currency", "type"}.isdisjoint(sent(app))
    assert verdict(press_score(app)) is not None
    app.number_input(key="score.form.amount").set_value(None)
    press_score(run(app))
    assert dict(app.main.dataframe[0].value.values.tolist()) == {"amount": "is required"}


# --- form and JSON ---------------------------------------------------------------------------------------------------


@pytest.mark.server
def test_json_follows_the_form_until_somebody_writes_in_it(rules_only_url: str, open_console: Open) -> None:
    app = open_console(rules_only_url)
    app.number_input(key="score.form.amount").set_value(11.0)
    run(app)
    app.segmented_control(key="score.mode").set_value("JSON")
    run(app)
    assert json.loads(app.text_area(key="score.json").value or "")["amount"] == 11.0

    app.text_area(key="score.json").set_value('{"amount": 6000, "timestamp": "2026-02-06T12:00:00Z"}')
    press_score(run(app))
    assert json.loads(app.main.json[0].value)["rules"] == ["very_large_amount"]

    app.segmented_control(key="score.mode").set_value("Form")
    run(app)
    assert app.number_input(key="score.form.amount").value == 11.0  # JSON never writes into the form
    app.segmented_control(key="score.mode").set_value("JSON")
    run(app)
    assert (
        json.loads(app.text_area(key="score.json").value or "")["amount"] == 6000
    )  # nor the form over what was written

    app.button(key="refill").click()
    run(app)
    assert json.loads(app.text_area(key="score.json").value or "")["amount"] == 11.0


@pytest.mark.server
def test_another_apis_payload_is_sent_under_its_own_names(rules_only_url: str, open_console: Open) -> None:
    app = press_score(choose(open_console(rules_only_url), "PaySim row · TRANSFER of the whole balance"))
    assert sent(app)["nameDest"] == "C553264065"
    assert verdict(app) == "Review"
    assert "drains_account" in [code.value for code in app.main.code]


@pytest.mark.server
def test_text_that_is_not_json_is_told_and_not_sent(rules_only_url: str, open_console: Open) -> None:
    app = open_console(rules_only_url)
    app.segmented_control(key="score.mode").set_value("JSON")
    run(app)
    app.text_area(key="score.json").set_value('{"amount" 12}')
    press_score(run(app))
    assert verdict(app) is None
    assert "line 1, column 11" in texts(app.main)


@pytest.mark.server
def test_a_refused_transaction_names_its_fields_and_the_next_one_is_scored(
    rules_only_url: str, open_console: Open
) -> None:
    app = open_console(rules_only_url)
    app.text_input(key="score.form.timestamp").set_value("yesterday")
    app.text_input(key="score.form.currency").set_value("usd")
    press_score(run(app))
    assert verdict(app) is None
    [table] = app.main.dataframe
    assert "currency" in list(table.value["field"])
    app.text_input(key="score.form.timestamp").set_value("")
    app.text_input(key="score.form.currency").set_value("")
    assert verdict(press_score(run(app))) is not None


# --- bad days --------------------------------------------------------------------------------------------------------


def test_an_api_that_is_down_is_told_at_once_with_the_mend(closed_url: str, open_console: Open) -> None:
    app = open_console(closed_url)
    for block in (app.main, app.sidebar):
        assert "Nobody answers" in texts(block)
        assert "make run" in texts(block)
    press_score(app)
    assert "Nobody answers" in texts(app.main)


def test_an_api_that_goes_down_and_comes_back_needs_no_reload(small_server: StartServer, open_console: Open) -> None:
    healthy = {"now": True}
    server = small_server(
        lambda handler: (
            by_path(ready=READY, predict=reply(200, decision()))(handler)
            if healthy["now"]
            else reply(502, b"<html>Bad Gateway</html>", "text/html")(handler)
        )
    )
    app = press_score(open_console(server.url))
    assert verdict(app) == "Decline"
    healthy["now"] = False
    press_score(app)
    assert verdict(app) is None
    assert "failed (502)" in texts(app.main)
    assert "no answer" in texts(app.sidebar)
    healthy["now"] = True
    app.button(key="check_again").click()
    run(app)
    assert "no answer" not in texts(app.sidebar)
    assert verdict(press_score(app)) == "Decline"


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_told_with_the_place_where_the_key_belongs(
    small_server: StartServer, open_console: Open, status: int
) -> None:
    app = open_console(small_server(reply(status, {"message": "Forbidden"})).url, key="s3cret-key")
    press_score(app)
    assert "refused the key" in texts(app.main)
    assert "FRAUD_API_KEY" in texts(app.main)
    assert "s3cret-key" not in texts(app.main) + texts(app.sidebar)


def test_a_slow_api_is_told_and_the_page_stays_usable(
    small_server: StartServer, open_console: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sleep(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(1.5)

    # The waiting time is the client's default; a test need not sit through the real one.
    import streamlit_app.client as client

    monkeypatch.setattr(
        client.FraudApi.__init__,
        "__kwdefaults__",
        {
            "connect_seconds": 1.0,
            "silence_seconds": 0.3,
            "total_seconds": 1.0,
        },
    )
    app = open_console(small_server(by_path(ready=READY, predict=sleep)).url)
    press_score(app)
    assert "did not answer within" in texts(app.main)
    assert app.number_input(key="score.form.amount").value == 4.2


def test_a_wrong_address_is_told_and_not_repeated(open_console: Open) -> None:
    app = open_console("https://user:hunter2@host")
    press_score(app)
    shown = texts(app.main) + texts(app.sidebar) + alerts(app.main)
    assert "user name or a password" in shown
    assert "hunter2" not in shown


def test_what_was_not_at_hand_is_told_in_sentences(small_server: StartServer, open_console: Open) -> None:
    flags = ["feature_store", "decision_log", "rules", "explanation", "something_new"]
    app = press_score(
        open_console(small_server(by_path(ready=READY, predict=reply(200, decision(degraded=flags)))).url)
    )
    assert verdict(app) == "Decline"
    told = [box.value for box in app.main.warning]
    assert len(told) == len(flags)
    assert any("profiles could not be read" in sentence for sentence in told)
    assert not any("something_new" in sentence for sentence in told)


def test_the_rules_that_fired_are_told_with_their_reason(small_server: StartServer, open_console: Open) -> None:
    rule = {"id": "night", "expression": "is_night", "outcome": "review", "reason": "At night.", "enabled": True}
    server = small_server(
        by_path(ready=READY, predict=reply(200, decision(rules=["night"])), model=reply(200, {"rules": [rule]}))
    )
    app = press_score(open_console(server.url))
    assert "night: is_night" in [code.value for code in app.main.code]
    assert "At night. It asks for: review." in texts(app.main)


def test_nothing_from_a_transaction_is_rendered(small_server: StartServer, open_console: Open) -> None:
    evil = "<img src=x onerror=alert(1)> ![x](http://evil.test/x.png) **bold** $x$ :red[x]"
    reasons = [{"code": "X", "feature": evil, "value": evil, "contribution": 1.0, "text": f"reason {evil}"}]
    answer = decision(
        transaction_id=evil, explanation=f"because {evil}", reasons=reasons, rules=[f"rule {evil}"], decided_by=evil,
        currency=evil, base_currency=evil, model_version=evil, scored_at=evil, degraded=[evil],
    )  # fmt: skip
    ready = reply(200, {"status": "ready", "model": "ok", "model_version": evil, "last_refresh": {"detail": evil}})
    app = open_console(small_server(by_path(ready=ready, predict=reply(200, answer))).url)
    app.text_input(key="score.form.customer_id").set_value(evil[:64])
    app.text_area(key="score.form.attributes").set_value(f"note = {evil}")
    press_score(run(app))
    assert verdict(app) == "Decline"
    plain = [text.value for text in app.main.text]
    assert f"because {evil}" in plain
    assert f"reason {evil}" in plain
    for block in (app.main, app.sidebar):
        rendered = [box.value for kind in ("markdown", "caption", "error", "warning", "info", "success", "title")
                    for box in getattr(block, kind)]  # fmt: skip
        assert not [value for value in rendered if "onerror" in value or "evil.test" in value]


def test_no_page_switches_html_on() -> None:
    for file in (ROOT / "streamlit_app").rglob("*.py"):
        source = file.read_text()
        assert "unsafe_allow" not in source, file
        assert "st.html(" not in source, file


# --- how it is started -----------------------------------------------------------------------------------------------


def test_the_entry_file_runs_from_any_folder_and_brings_in_nothing_of_the_service(tmp_path: Path) -> None:
    program = """
import sys
from streamlit.testing.v1 import AppTest
app = AppTest.from_file(sys.argv[1], default_timeout=30).run()
assert not app.exception, app.exception[0].message
assert app.title[0].value == "Score a transaction"
print(sorted(name for name in sys.modules if name.split(".")[0] in ("fraud_api_lambda", "training")))
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", program, str(APP)],
        cwd=tmp_path,
        env={**os.environ, "FRAUD_API_URL": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_no_folder_is_called_pages() -> None:
    """Or Streamlit shows its files without the entry file to the first visitor of a deep link after a start."""
    assert not (APP.parent / "pages").exists()


def test_the_settings_beside_the_entry_file_are_read_from_any_folder(tmp_path: Path) -> None:
    program = """
import sys
from streamlit import config
config._main_script_path = sys.argv[1]  # what `streamlit run FILE` does before it reads its settings
print(config.get_option("browser.gatherUsageStats"), config.get_option("client.showErrorDetails"))
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", program, str(APP)], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == ["False", "type"], done.stderr


def test_the_secrets_are_used_where_the_environment_is_silent(small_server: StartServer) -> None:
    server = small_server(by_path(ready=READY, predict=reply(200, decision())))
    app = AppTest.from_file(str(APP), default_timeout=30)
    app.secrets["FRAUD_API_URL"] = server.url
    app.secrets["FRAUD_API_KEY"] = "from-the-secrets"
    press_score(run(app))
    assert verdict(app) == "Decline"
    assert {request.headers.get("x-api-key") for request in server.requests} == {"from-the-secrets"}
