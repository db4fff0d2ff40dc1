"""``GET /drift`` over HTTP and a real log."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator

from fraud_api_lambda import routes_drift
from fraud_api_lambda.app import create_app
from fraud_api_lambda.decision_log import DecisionLog, Page, Search, open_decision_log
from fraud_api_lambda.drift import WAITED_FOR, Bounds
from fraud_api_lambda.errors import InvalidRequest
from fraud_api_lambda.feature_store import open_feature_store
from fraud_api_lambda.routes_drift import parse_window
from fraud_api_lambda.scoring import FraudScorer
from tests.conftest import Trained
from tests.fraud_api_lambda.asgi import Client, source_of, source_without_bundle

DAY = 86_400_000
START = 1_767_225_600_000  # 2026-01-01T00:00:00Z
NOW = START + 10 * DAY


class Service:
    def __init__(self, folder: Path, source: Any, log: DecisionLog | None = None):
        self.now = START
        self.log = log or open_decision_log(f"sqlite:///{folder}/decisions.db", budget_ms=60_000)
        self.scorer = FraudScorer(
            source, open_feature_store("memory://"), self.log, budget_ms=60_000, clock=lambda: self.now
        )
        self.client = Client(create_app(self.scorer))


@pytest.fixture(scope="module")
def service(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Service:
    """Ten days of 60 payments a day, all alike, as no day of the reference was; and a test input."""
    made = Service(tmp_path_factory.mktemp("service"), source_of(trained))
    for number in range(600):
        made.now = START + number * DAY // 60
        made.scorer.answer({"amount": 1_000 + number % 7, "type": "PAYMENT", "customer_id": f"C{number}"})
    made.scorer.answer({"amount": 4321, "transaction_id": "test-review"})
    made.now = NOW
    return made


def test_drift_is_told_by_feature_with_what_is_needed_to_draw_it(service: Service) -> None:
    told = service.client.get("/drift").json()
    assert (told["state"], told["n"], told["left_out"], told["complete"]) == ("drift", 600, 0, True)
    assert told["model_version"] == service.scorer.source.served.version  # type: ignore[union-attr]
    assert told["until"] == "2026-01-11T00:00:00.000Z"
    assert {"amount", "type", "latitude"} <= set(told["alarms"])
    found = {own["name"]: own for own in told["features"]}
    assert found["latitude"]["missing"] == 1.0
    assert found["latitude"]["missing_reference"] < 0.3
    assert found["type"]["histogram"]["found"] == [1, 0, 0, 0, 0, 0, 0]
    assert found["type"]["histogram"]["levels"] == ["PAYMENT", "TRANSFER", "CASH_OUT", "CASH_IN", "DEBIT"]
    for own in told["features"]:
        bins = len(own["histogram"]["levels"]) + 2 if own["histogram"]["levels"] else len(own["histogram"]["edges"]) + 2
        assert len(own["histogram"]["reference"]) == len(own["histogram"]["found"]) == bins
        assert own["alarm"] == (own["name"] in told["alarms"])
    # The log is ten days old: nothing is said of the parties' past, and of the score that follows from it.
    assert {found["count_30d"]["state"], found["new_counterparty"]["state"], told["score"]["state"]} == {"young"}
    assert told["calibration"]["state"] == "not enough"


def test_the_answer_is_what_the_contract_says(service: Service) -> None:
    document = service.client.get("/openapi.json").json()
    schema = document["paths"]["/drift"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert document["paths"]["/drift"]["get"]["x-role"] == "review"
    whole = {**schema, "components": document["components"]}
    Draft202012Validator(whole).validate(service.client.get("/drift").json())


def test_a_window_can_be_asked_for_by_day_or_by_time(service: Service) -> None:
    told = service.client.get("/drift", params={"since": "2026-01-02", "until": "2026-01-04T12:00:00Z"}).json()
    assert (told["n"], told["since"], told["until"]) == (150, "2026-01-02T00:00:00.000Z", "2026-01-04T12:00:00.000Z")
    assert told["state"] == "not enough"
    assert told["history_days"] == 3.5


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"since": "hunter2"}, "since"), ({"until": "2026-13-01"}, "until"), ({"since": "2026-02-01"}, "since"),
        ({"since": "2026-01-03", "until": "2026-01-03"}, "since"), ({"since": "2020-01-01"}, "since"),
        ({"days": "3"}, "days"),
    ],
)  # fmt: skip
def test_a_window_that_is_none_is_told_by_name_and_not_repeated(
    query: dict[str, str], field: str, service: Service
) -> None:
    answer = service.client.get("/drift", params=query)
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == [field]
    assert "hunter2" not in answer.text


def test_the_latest_decisions_are_read_and_no_more_than_20000_and_it_says_so(
    service: Service,
) -> None:
    assert WAITED_FOR.rows == 20_000
    report = routes_drift.watch_of(service.scorer).look(START, NOW, Bounds(rows=510))
    assert (report.n, report.complete) == (510, False)
    assert report.since > "2026-01-02"


def test_without_a_bundle_or_a_log_it_is_503_and_says_which(service: Service, tmp_path: Path) -> None:
    answer = Service(tmp_path, source_without_bundle(tmp_path), service.log).client.get("/drift")
    assert answer.status_code == 503
    assert "nothing to compare with" in answer.json()["detail"]
    (tmp_path / "file").write_text("")
    broken = open_decision_log(f"sqlite:///{tmp_path}/file/decisions.db")
    answer = Service(tmp_path, service.scorer.source, broken).client.get("/drift")
    assert answer.status_code == 503
    assert str(tmp_path) not in answer.text


class Slow:
    """A log whose listings wait until they are told to go on."""

    def __init__(self, log: DecisionLog):
        self._log = log
        self.asked, self.go = threading.Event(), threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def search(self, search: Search) -> Page:
        self.asked.set()
        assert self.go.wait(30)
        return self._log.search(search)


def test_one_look_at_a_time_and_scoring_does_not_wait_for_it(trained: Trained, service: Service) -> None:
    log = Slow(service.log)
    other = Service(Path(), source_of(trained), log)  # type: ignore[arg-type]  # all of a log but one method is its own
    other.now = NOW

    async def both() -> tuple[int, int, Any]:
        transport = httpx.ASGITransport(app=other.client.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            first = asyncio.create_task(client.get("/drift"))
            await asyncio.to_thread(log.asked.wait, 30)
            second = await client.get("/drift")
            judged = await client.post("/predict", json={"amount": 5, "transaction_id": "meanwhile"})
            log.go.set()
            return second.status_code, judged.status_code, (await first).json()

    second, judged, told = asyncio.run(both())
    assert (second, judged) == (429, 200)
    assert told["n"] >= 600


def test_the_window_is_read_as_utc() -> None:
    assert parse_window({}, NOW) == (None, None)
    assert parse_window({"since": "2026-01-02"}, NOW) == (START + DAY, None)
    assert parse_window({"until": "2026-01-02T01:00:00+01:00"}, NOW) == (None, START + DAY)
    with pytest.raises(InvalidRequest):
        parse_window({"since": "2026-01-12"}, NOW)
