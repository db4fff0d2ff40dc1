"""Small faults that were found in use, each with the test that showed it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fraud_api_lambda.app import create_app
from fraud_api_lambda.bootstrap import build
from fraud_api_lambda.decision_log import open_decision_log
from fraud_api_lambda.outbox import open_outbox
from fraud_api_lambda.reload import ModelSource
from fraud_api_lambda.scoring import FraudScorer
from fraud_api_lambda.settings import read_settings
from tests.fraud_api_lambda.asgi import Client, source_without_bundle
from tests.fraud_api_lambda.lines import Lines
from tests.fraud_api_lambda.making import TRUSTED, publish_small
from training.__main__ import app as commands

BODY = {"transaction_id": "order-1", "amount": 250, "customer_id": "C1", "merchant_id": "M1"}


def rig(folder: Path, **options: Any) -> FraudScorer:
    log = open_decision_log(f"sqlite:///{folder}/decisions.db", budget_ms=20_000)
    return FraudScorer(source_without_bundle(folder), decisions=log, **options)


# --- test inputs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["test-approve", "test-decline-17", "test-degraded-x", "test-review"])
def test_where_test_ids_are_off_such_an_id_is_refused_by_its_field_and_decides_nothing(
    tmp_path: Path, name: str
) -> None:
    scorer = rig(tmp_path, test_ids=False)
    answer = Client(create_app(scorer)).post("/predict", json={**BODY, "transaction_id": name})
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == ["transaction_id"]
    assert "switched off" in answer.json()["errors"][0]["message"]
    assert scorer.decisions.find([name]) == {}
    assert scorer.answer({**BODY, "transaction_id": "testing-1"}).decision.test is False


def test_the_setting_turns_them_off(tmp_path: Path) -> None:
    assert read_settings({}).test_ids is True
    settings = read_settings({"FRAUD_TEST_IDS": "0", "FRAUD_MODEL_URL": f"file://{tmp_path}/current"})
    scorer: FraudScorer = build(settings).state.scorer
    with pytest.raises(Exception, match="not valid"):
        scorer.answer({**BODY, "transaction_id": "test-approve"})
    with pytest.raises(Exception, match="FRAUD_TEST_IDS is not one of its choices: 0, 1"):
        read_settings({"FRAUD_TEST_IDS": "no"})


# --- labels ----------------------------------------------------------------------------------------------------------


def test_the_same_feedback_without_a_time_is_one_label_and_another_word_is_another(tmp_path: Path) -> None:
    now = [1_800_000_000_000]
    scorer = rig(tmp_path, clock=lambda: now[0])
    client = Client(create_app(scorer))
    scorer.answer(BODY)

    def say(label: str, **more: str) -> dict[str, Any]:
        now[0] += 60_000
        answer = client.post(
            "/feedback", json={"transaction_id": "order-1", "label": label, "source": "analyst", **more}
        )
        assert answer.status_code == 200
        recorded: dict[str, Any] = answer.json()["recorded"]
        return recorded

    first = say("fraud")
    assert say("fraud") == first
    assert len(scorer.decisions.labels("order-1")) == 1
    say("legitimate")
    say("fraud")  # a change of mind, and back
    say("fraud", source="chargeback")
    assert [(one.source, one.is_fraud) for one in scorer.decisions.labels("order-1")] == [
        ("analyst", True), ("analyst", False), ("analyst", True), ("chargeback", True)
    ]  # fmt: skip
    say("fraud", time="2026-02-01T00:00:00Z")
    assert len(scorer.decisions.labels("order-1")) == 5


# --- alerts ----------------------------------------------------------------------------------------------------------

_DIES = """
import os, sys
from pathlib import Path
from fraud_api_lambda.bootstrap import build
from fraud_api_lambda.settings import read_settings
scorer = build(read_settings(os.environ)).state.scorer
class Dies:
    def __getattr__(self, name): return getattr(real, name)
    def put(self, *_): os._exit(9)
real, scorer.outbox = scorer.outbox, Dies()
scorer.answer({"transaction_id": "order-1", "amount": 250, "customer_id": "C1", "merchant_id": "M1"})
"""


def test_an_alert_that_died_with_its_process_is_told_when_the_transaction_is_sent_again(tmp_path: Path) -> None:
    secret = "whsec_" + "QUJD" * 8
    environment = {
        "FRAUD_MODEL_URL": f"file://{tmp_path}/current",
        "FRAUD_FEATURE_STORE_URL": "memory://",
        "FRAUD_DECISION_LOG_URL": f"sqlite:///{tmp_path}/decisions.db",
        "FRAUD_OUTBOX_URL": f"file://{tmp_path}/outbox",
        "FRAUD_WEBHOOKS": f"http://127.0.0.1:9/hook#{secret}",
        "FRAUD_FIRST_DEADLINE_MS": "20000",
    }
    root = str(Path(__file__).resolve().parents[2])
    died = subprocess.run(
        [sys.executable, "-c", _DIES], env={**environment, "PYTHONPATH": root}, cwd=tmp_path, timeout=120, check=False
    )
    assert died.returncode == 9
    waiting = open_outbox(f"file://{tmp_path}/outbox")
    assert waiting.waiting().get("webhook", 0) == 0
    # It was recorded all the same: the alert is what was lost.
    scorer: FraudScorer = build(read_settings(environment)).state.scorer
    answer = scorer.answer(BODY)
    assert (answer.replayed, answer.decision.outcome) == (True, "review")
    told = []

    def deliver(data: bytes) -> None:
        told.append(json.loads(data.partition(b"\n")[2])["type"])

    waiting.drain({"webhook": deliver})
    assert told.count("decision.review") == 1


def test_an_old_replay_and_an_approval_tell_nobody_again(tmp_path: Path) -> None:
    now, told = [1_800_000_000_000], []

    def notices(decision: Any, answer: bytes) -> list[Any]:
        told.append(decision.transaction_id)
        return []

    scorer = rig(tmp_path, clock=lambda: now[0], notices=notices)
    body = {**BODY, "timestamp": "2026-02-06T10:00:00Z"}
    scorer.answer(body)
    scorer.answer(body)
    assert told == ["order-1"] * 2
    now[0] += 2 * 86_400_000
    assert scorer.answer(body).replayed
    assert told == ["order-1"] * 2
    approving = rig(tmp_path, clock=lambda: now[0], notices=notices, without_model="approve")
    for _ in range(2):
        approving.answer({"transaction_id": "order-2", "amount": 1})
    assert told.count("order-2") == 1


# --- HTTP ------------------------------------------------------------------------------------------------------------


def test_a_client_that_goes_away_in_the_middle_of_its_body_is_no_fault_of_ours(tmp_path: Path, lines: Lines) -> None:
    import asyncio

    scorer = rig(tmp_path)
    app = create_app(scorer)
    parts = iter([{"type": "http.request", "body": b'{"amo', "more_body": True}, {"type": "http.disconnect"}])
    sent: list[Any] = []

    async def receive() -> Any:
        return next(parts)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "path": "/predict",
        "raw_path": b"/predict", "query_string": b"", "headers": [(b"host", b"localhost")], "root_path": "",
        "scheme": "http", "client": ("127.0.0.1", 1), "server": ("localhost", 80),
    }  # fmt: skip
    asyncio.run(app(scope, receive, send))
    assert sent == []
    assert lines.of("unexpected error") == []
    [line] = lines.of("request")
    assert line["status"] == 499


# --- bundles ---------------------------------------------------------------------------------------------------------


def test_a_bundle_that_counts_in_another_currency_is_not_swapped_in(tmp_path: Path) -> None:
    source = ModelSource(publish_small(tmp_path, "v1"), lambda: TRUSTED, one_money=True)
    source.refresh()
    publish_small(tmp_path, "v2", currency={"base": "EUR", "minor_units": 2})
    source.refresh()
    assert source.served is not None
    assert source.served.version == "v1"
    assert source.trouble is not None
    assert source.trouble.state == "refused"
    assert "counts in EUR" in source.trouble.detail
    fresh = ModelSource(f"file://{tmp_path}/current", lambda: TRUSTED, one_money=True)
    fresh.refresh()
    assert fresh.served is not None
    assert fresh.served.version == "v2"


# --- commands --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["reproduce", "t-1", "--log", "{url}"],
        ["export", "--log", "{url}", "--out", "out.csv"],
        ["erase", "--party", "C1", "--log", "{url}"],
        ["drift", "--log", "{url}"],
    ],
    ids=lambda words: words[0],
)
def test_a_command_makes_no_log_where_there_is_none_and_names_the_path(tmp_path: Path, words: list[str]) -> None:
    url = f"sqlite:///{tmp_path}/mistyped.db"
    done = CliRunner().invoke(commands, [word.replace("{url}", url) for word in words])
    assert done.exit_code == 1, done.output
    assert f"There is no decision log at {tmp_path}/mistyped.db" in done.output
    assert not (tmp_path / "mistyped.db").exists()
