"""What is done once a day, by whichever clock: each task once for a day, and none in the way of the others."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from fraud_api_lambda import bundle as bundles
from fraud_api_lambda.daily import Daily
from fraud_api_lambda.decision_log import Search, open_decision_log
from fraud_api_lambda.errors import StoreUnavailable
from fraud_api_lambda.features import DAY_MS
from fraud_api_lambda.reload import ModelSource
from fraud_api_lambda.scoring import FraudScorer
from tests.fraud_api_lambda.lines import Lines
from tests.fraud_api_lambda.making import KEY, TRUSTED, publish_small, seal_small

START = 20_000 * DAY_MS + 1_000


class Service:
    def __init__(self, folder: Path):
        self.now = START
        url = publish_small(folder, "v1")
        seal_small(folder, "v2", drained=-4.0)
        bundles.publish(folder / "v2", url.replace("current", "challenger"), KEY, TRUSTED)
        look = [ModelSource(at, lambda: TRUSTED) for at in (url, url.replace("current", "challenger"))]
        for source in look:
            source.refresh()
        log = open_decision_log(f"sqlite:///{folder}/decisions.db", budget_ms=20_000)
        self.scorer = FraudScorer(look[0], decisions=log, challenger=look[1], clock=lambda: self.now)

    def send(self, transaction_id: str) -> None:
        self.scorer.answer(
            {"transaction_id": transaction_id, "amount": 5, "type": "TRANSFER", "oldbalanceOrg": 5, "customer_id": "C"}
        )


@pytest.fixture
def service(tmp_path: Path) -> Service:
    return Service(tmp_path)


def test_an_unknown_task_names_the_choices(service: Service) -> None:
    with pytest.raises(ValueError, match=r"Choices are: summary, retention, drift, shadow\.") as caught:
        Daily(service.scorer).run("hunter2")
    assert "hunter2" not in str(caught.value)


def test_the_challenger_judges_yesterdays_records_again_and_says_where_it_differs(
    service: Service, lines: Lines
) -> None:
    for i in range(7):
        service.send(f"t{i}")
    service.send("test-approve")
    service.now += DAY_MS
    service.send("today")
    assert Daily(service.scorer).run("shadow") == {"task": "shadow", "judged": 7}
    (line,) = lines.of("shadow")
    assert (line["champion"], line["challenger"], line["flipped"]) == ("v1", "v2", 7)
    assert line["by_outcome"] == [{"champion": "decline", "challenger": "approve", "decisions": 7}]


def test_without_a_challenger_nothing_is_judged_again(service: Service) -> None:
    service.scorer.challenger = None
    assert Daily(service.scorer).run("shadow") == {"task": "shadow", "judged": 0}


def test_records_are_deleted_after_their_days_by_the_thread_too(service: Service) -> None:
    service.send("old")
    daily = Daily(service.scorer, retention_days=2, pause_s=0.005)
    daily.start()
    service.now += 4 * DAY_MS
    service.send("new")
    deadline = time.monotonic() + 20
    while len(service.scorer.decisions.search(Search()).items) > 1:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    daily.stop()
    assert [item.record.transaction_id for item in service.scorer.decisions.search(Search()).items] == ["new"]


def test_a_task_that_fails_takes_none_from_the_others(service: Service) -> None:
    service.send("old")
    daily = Daily(service.scorer, retention_days=2, pause_s=0.005)
    asked: list[int] = []

    def broken(today: int) -> dict[str, Any]:
        asked.append(today)
        raise KeyError("spoilt by hand")

    def away(today: int) -> dict[str, Any]:
        raise StoreUnavailable("away")

    daily.tasks = {"summary": broken, "drift": away, "retention": daily.tasks["retention"]}
    daily.start()
    service.now += 4 * DAY_MS
    deadline = time.monotonic() + 20
    while service.scorer.decisions.search(Search()).items:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    daily.stop()
    first = START // DAY_MS + 1
    assert asked == [first, first + 1, first + 2, first + 3]  # each day once, whatever came of it


def test_every_task_has_a_sample_event_and_every_event_a_task() -> None:
    events = Path(__file__).resolve().parents[2] / "events"
    found = {
        json.loads(path.read_text())["task"]
        for path in events.rglob("*.json")
        if "task" in json.loads(path.read_text())
    }
    assert found == {"summary", "retention", "drift", "shadow", "heartbeat"}
