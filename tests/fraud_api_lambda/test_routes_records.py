"""The routes over the decision log, over HTTP and on real stores."""

import asyncio
import contextlib
import json
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from fraud_api_lambda.app import create_app
from fraud_api_lambda.daily import Daily
from fraud_api_lambda.decision_log import Day, DecisionLog, open_decision_log, write_cursor
from fraud_api_lambda.errors import InvalidRequest, StoreUnavailable
from fraud_api_lambda.feature_store import open_feature_store
from fraud_api_lambda.routes_records import (
    describe_day,
    parse_days,
    parse_feedback,
    parse_search,
    summarize,
)
from fraud_api_lambda.schemas import Pseudonyms, now_ms, rfc3339
from fraud_api_lambda.scoring import FraudScorer
from tests.conftest import Trained
from tests.fraud_api_lambda.asgi import Client, source_of, source_without_bundle
from tests.fraud_api_lambda.lines import Lines
from tests.fraud_api_lambda.payloads import CANARY

AMPLE_MS = 20_000
DAY = 86_400_000
#: A midnight lately: the profile store forgets by the clock of the machine.
START = (now_ms() // DAY - 40) * DAY
KEY = "0123456789abcdef0123456789abcdef"


class Service:
    """A scorer on SQLite, its clock in our hands, and a client of its API."""

    def __init__(self, folder: Path, source: Any, **options: Any):
        self.now = START
        self.log = open_decision_log(f"sqlite:///{folder}/decisions.db", budget_ms=AMPLE_MS)
        self.store = open_feature_store(f"sqlite:///{folder}/profiles.db", budget_ms=AMPLE_MS)
        self.scorer = FraudScorer(source, self.store, self.log, budget_ms=AMPLE_MS, clock=lambda: self.now, **options)
        self.client = Client(create_app(self.scorer))

    def send(self, transaction_id: str, amount: float = 10, after_ms: int = 1_000, **fields: Any) -> dict[str, Any]:
        self.now += after_ms
        answer = self.client.post("/predict", json={"transaction_id": transaction_id, "amount": amount, **fields})
        assert answer.status_code == 200
        decision: dict[str, Any] = answer.json()
        return decision

    def say(self, transaction_id: str, label: str = "fraud", source: str = "analyst", **fields: Any) -> httpx.Response:
        body = {"transaction_id": transaction_id, "label": label, "source": source, **fields}
        return self.client.post("/feedback", json=body)

    def get(self, path: str, **query: Any) -> dict[str, Any]:
        answer = self.client.get(path, params=query)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def ids(self, **query: Any) -> list[str]:
        return [item["transaction_id"] for item in self.get("/transactions", **query)["transactions"]]

    def close(self) -> None:
        self.log.close()
        self.store.close()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """Without a bundle: the image's rules decide, and what none of them catches is approved."""
    made = Service(tmp_path, source_without_bundle(tmp_path), without_model="approve")
    yield made
    made.close()


@pytest.fixture
def served(tmp_path: Path, trained: Trained) -> Iterator[Service]:
    made = Service(tmp_path, source_of(trained))
    yield made
    made.close()


LARGE = {"amount": 90_000.0, "after_ms": 1_000}  # very_large_amount


def date(day: int) -> str:
    """The day after START by so many."""
    return rfc3339(START + day * DAY)[:10]


def valid(service: Service, schema: str, data: Any) -> None:
    document = service.client.get("/openapi.json").json()
    wanted = {"$ref": f"#/components/schemas/{schema}", "components": document["components"]}
    Draft202012Validator(wanted).validate(data)


def refused(answer: httpx.Response, *fields: str) -> dict[str, Any]:
    assert answer.status_code == 422
    problem: dict[str, Any] = answer.json()
    assert [error["field"] for error in problem["errors"]] == list(fields)
    return problem


# --- listing ---------------------------------------------------------------------------------------------------------


def test_a_recorded_decision_is_found_with_the_answer_that_was_given(served: Service) -> None:
    decision = served.send("order-1", 250, customer_id="C1", merchant_id="M1", device_id="D1", type="TRANSFER")
    found = served.get("/transactions")
    valid(served, "TransactionList", found)
    (item,) = found["transactions"]
    assert found["next"] is None
    assert item["decision"] == decision
    assert {name: item[name] for name in ("transaction_id", "customer_id", "counterparty_id", "device_id", "type")} == {
        "transaction_id": "order-1",
        "customer_id": "C1",
        "counterparty_id": "M1",
        "device_id": "D1",
        "type": "TRANSFER",
    }
    assert item["received_at"] == item["timestamp"] == rfc3339(START + 1_000)
    assert item["label"] is None
    assert item["latency_ms"] > 0


def test_the_newest_come_first_unless_asked_otherwise_and_pages_follow_one_another(service: Service) -> None:
    sent = [f"t{number:03}" for number in range(23)]
    for transaction_id in sent:
        service.send(transaction_id)
    assert service.ids() == sent[::-1]
    assert service.ids(order="oldest") == sent
    for order, expected in (("newest", sent[::-1]), ("oldest", sent)):
        seen: list[str] = []
        cursor: dict[str, str] = {}
        for _ in range(20):
            page = service.get("/transactions", order=order, limit=5, **cursor)
            assert len(page["transactions"]) <= 5
            seen += [item["transaction_id"] for item in page["transactions"]]
            if page["next"] is None:
                break
            cursor = {"cursor": page["next"]}
        assert seen == expected


def test_each_filter_leaves_what_it_says(service: Service) -> None:
    service.send("small", customer_id="C1", counterparty_id="M1")
    service.send("large", **LARGE, customer_id="C2", counterparty_id="M1")
    service.send("test-decline-1", customer_id="C1")
    service.send("late", after_ms=DAY, customer_id="C1", counterparty_id="M2")
    service.say("large", "fraud")
    service.say("small", "legitimate")
    assert service.ids(customer_id="C1") == ["late", "test-decline-1", "small"]
    assert service.ids(counterparty_id="M1") == ["large", "small"]
    assert service.ids(customer_id="C1", counterparty_id="M1") == ["small"]
    assert service.ids(outcome="approve") == ["late", "small"]
    flagged = service.get("/transactions", rule="very_large_amount")["transactions"]
    assert [item["transaction_id"] for item in flagged] == ["large"]
    assert "very_large_amount" in flagged[0]["decision"]["rules"]
    assert service.ids(label="fraud") == ["large"]
    assert service.ids(label="legitimate") == ["small"]
    assert service.ids(label="none") == ["late", "test-decline-1"]
    assert service.ids(test="true") == ["test-decline-1"]
    assert service.ids(test="false") == ["late", "large", "small"]
    assert service.ids(since=rfc3339(START + DAY)) == ["late"]
    assert service.ids(since=date(1)) == ["late"]
    assert service.ids(since=date(0), until=date(1)) == service.ids(until=rfc3339(START + DAY)) != []
    assert service.ids(until=rfc3339(START + 2_000)) == ["small"]
    assert service.ids(since=rfc3339(START + 2_000), until=rfc3339(START + 3_000)) == ["large"]
    assert service.ids(min_probability="0.5") == []  # without a model there is no probability
    assert service.ids(customer_id="nobody") == []


def test_a_least_probability_is_a_filter_too(served: Service) -> None:
    probabilities = {
        transaction_id: served.send(transaction_id, amount, oldbalanceOrg=balance, type="TRANSFER")["fraud_probability"]
        for transaction_id, amount, balance in (("a", 10, 500), ("b", 9_000, 9_000), ("c", 300, 301))
    }
    for least in (0.0, *probabilities.values()):
        expected = [name for name, value in reversed(probabilities.items()) if value >= least]
        assert served.ids(min_probability=repr(least)) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("since", "yesterday"),
        ("since", "2026-02-30T00:00:00Z"),
        ("since", "2026-02-30"),
        ("until", "2026-2-3"),
        ("until", "1969-01-01T00:00:00Z"),
        ("outcome", "APPROVE"),
        ("label", "maybe"),
        ("min_probability", "1.1"),
        ("min_probability", "nan"),
        ("min_probability", "-0"),
        ("min_probability", "0x1"),
        ("customer_id", ""),
        ("counterparty_id", "x" * 65),
        ("rule", "x" * 129),
        ("test", "1"),
        ("order", "up"),
        ("limit", "0"),
        ("limit", "201"),
        ("limit", "1e2"),
        ("limit", "٣"),
        ("cursor", "!"),
        ("cursor", ""),
        ("cursor", write_cursor("x")),
        ("cursor", write_cursor(1, 2, 3, 4)),
        ("cursor", write_cursor(*range(999))),
        ("cursor", b64encode(b"[" * 20_000).decode().rstrip("=")),
        ("cursor", b64encode(rb'[1,"\ud800"]').decode().rstrip("=")),
        *((name, CANARY * 30) for name in ("since", "outcome", "label", "min_probability", "customer_id", "limit")),
    ],
)
def test_a_wrong_parameter_is_named_with_its_choices_and_not_repeated(service: Service, name: str, value: str) -> None:
    answer = service.client.get("/transactions", params={name: value})
    problem = refused(answer, name)
    assert len(value) < 3 or value not in answer.text
    if name in {"outcome", "label", "order"}:
        assert " or " in problem["errors"][0]["message"]


def test_all_that_is_wrong_is_named_at_once(service: Service) -> None:
    refused(service.client.get("/transactions?since=x&limit=0&outcome=x"), "since", "outcome", "limit")


@pytest.mark.parametrize("path", ["/transactions", "/summary"])
def test_an_unknown_parameter_is_refused_with_the_choices(service: Service, path: str) -> None:
    problem = refused(service.client.get(path, params={"sinse": "x"}), "sinse")
    assert "Did you mean since?" in problem["errors"][0]["message"]
    assert "until" in problem["errors"][0]["message"]
    answer = service.client.get(path, params={CANARY: CANARY})
    refused(answer, "(a parameter)")
    assert CANARY not in answer.text
    refused(service.client.get(f"{path}?since=2026-01-01T00:00:00Z&since=2026-01-01T00:00:00Z"), "query")


@given(st.dictionaries(st.sampled_from(["since", "min_probability", "limit", "cursor", "rule"]), st.text(max_size=40)))
def test_any_query_is_a_search_or_a_problem(values: dict[str, str]) -> None:
    try:
        found = parse_search(values, str)
    except InvalidRequest as problem:
        wrong = {error.field for error in problem.errors}
        assert wrong and wrong <= set(values)  # noqa: PT018
    else:
        assert 1 <= found.limit <= 200


# --- one transaction -------------------------------------------------------------------------------------------------


def test_one_transaction_is_told_whole(served: Service) -> None:
    decision = served.send("order/1 ?#", 250, customer_id="C1", lat=1.5, long=2.5, attributes={"channel": "web"})
    for source, label in (("customer", "fraud"), ("analyst", "legitimate")):
        served.now += 1_000
        served.say("order/1 ?#", label, source, note=f"said {source}")
    found = served.get("/transactions/order%2F1%20%3F%23")
    valid(served, "TransactionWhole", found)
    assert found["decision"] == decision
    assert [(label["source"], label["note"]) for label in found["labels"]] == [
        ("customer", "said customer"),
        ("analyst", "said analyst"),
    ]
    assert found["label"] == found["labels"][1]
    record = found["record"]
    assert record["event"]["attributes"] == {"channel": "web"}
    assert (record["event"]["amount_minor"], record["event"]["lat"]) == (25_000, 1.5)
    assert record["features"]["amount"] == 250.0
    assert record["members"]
    assert record["versions"] == {"C1": 0}


@pytest.mark.parametrize("transaction_id", ["nothing", "", "x" * 65, "%00", "%ff", "ä"])
def test_a_transaction_that_is_not_there_is_not_found(service: Service, transaction_id: str) -> None:
    answer = service.client.get(f"/transactions/{transaction_id}")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


# --- feedback --------------------------------------------------------------------------------------------------------


def test_feedback_is_recorded_once_and_answers_the_label_that_counts(service: Service) -> None:
    service.send("t")
    first = service.say("t", "fraud", "analyst", time=rfc3339(START), note="called")
    assert first.status_code == 200
    valid(service, "FeedbackAnswer", first.json())
    assert first.json()["label"] == first.json()["recorded"]
    assert first.json()["label"] == {
        "label": "fraud",
        "source": "analyst",
        "time": rfc3339(START),
        "received_at": rfc3339(START + 1_000),
        "note": "called",
    }
    service.now += 60_000
    again = service.say("t", "fraud", "analyst", time=rfc3339(START), note="called again")
    assert again.json() == first.json()
    assert len(service.get("/transactions/t")["labels"]) == 1


def test_a_stronger_source_counts_and_a_weaker_one_is_recorded_beside_it(service: Service) -> None:
    service.send("t")
    service.say("t", "fraud", "chargeback")
    service.now += 1_000
    told = service.say("t", "legitimate", "customer").json()
    assert (told["label"]["label"], told["label"]["source"]) == ("fraud", "chargeback")
    assert (told["recorded"]["label"], told["recorded"]["source"]) == ("legitimate", "customer")
    assert service.ids(label="fraud") == ["t"]
    counts = service.scorer.metrics.counts()
    assert counts["labels", "chargeback", "fraud"] == counts["labels", "customer", "legitimate"] == 1


def test_a_label_on_a_test_input_is_kept_and_not_counted(service: Service) -> None:
    service.send("test-decline-1")
    assert service.say("test-decline-1", "fraud", "analyst").status_code == 200
    assert ("labels", "analyst", "fraud") not in service.scorer.metrics.counts()


def test_feedback_on_what_was_never_judged_is_not_found(service: Service) -> None:
    answer = service.say("nothing")
    assert answer.status_code == 404
    assert "nothing" not in answer.json()["detail"]


def test_a_label_reaches_the_counterpartys_profile(service: Service) -> None:
    service.send("t", counterparty_id="M1", customer_id="C1")
    service.say("t")
    assert service.get("/parties/M1")["frauds_known"] == 1
    service.now += 1_000
    service.say("t", "legitimate")
    assert service.get("/parties/M1")["frauds_known"] == 0


GOOD = {"transaction_id": "t", "label": "fraud", "source": "analyst"}


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, ("transaction_id", "label", "source")),
        ({**GOOD, "label": True}, ("label",)),
        ({**GOOD, "label": "FRAUD"}, ("label",)),
        ({**GOOD, "source": "police"}, ("source",)),
        ({**GOOD, "transaction_id": 5}, ("transaction_id",)),
        ({**GOOD, "transaction_id": ""}, ("transaction_id",)),
        ({**GOOD, "transaction_id": "ä"}, ("transaction_id",)),
        ({**GOOD, "time": 5}, ("time",)),
        ({**GOOD, "time": "soon"}, ("time",)),
        ({**GOOD, "time": rfc3339(START + 301_000)}, ("time",)),
        ({**GOOD, "note": "x" * 501}, ("note",)),
        ({**GOOD, "note": None}, ("note",)),
        ({**GOOD, CANARY: 1}, ("(a field)",)),
        ({**GOOD, "label": CANARY, "note": [CANARY]}, ("label", "note")),
        ([], ("body",)),
        (None, ("body",)),
        (CANARY, ("body",)),
    ],
)
def test_feedback_of_another_form_is_refused_by_name_and_not_repeated(
    service: Service, body: Any, fields: tuple[str, ...]
) -> None:
    answer = service.client.post("/feedback", json=body)
    refused(answer, *fields)
    assert CANARY not in answer.text


def test_feedback_beyond_the_limit_is_refused(service: Service) -> None:
    assert service.client.post("/feedback", content=b" " * 9_000).status_code == 413


@given(
    st.recursive(st.none() | st.booleans() | st.text(max_size=5) | st.integers(), lambda x: st.lists(x), max_leaves=3)
)
def test_any_json_is_feedback_or_a_problem(value: Any) -> None:
    for body in (value, *({**GOOD, name: value} for name in (*GOOD, "time", "note", "other"))):
        with contextlib.suppress(InvalidRequest):
            assert parse_feedback(body).transaction_id


# --- parties ---------------------------------------------------------------------------------------------------------


def test_a_partys_normal_is_told(served: Service) -> None:
    for number, amount in enumerate((10, 20, 30, 40)):
        served.send(f"t{number}", amount, after_ms=3_600_000, customer_id="C/1 ü", merchant_id=f"M{number % 2}")
    view = served.get("/parties/C%2F1%20%C3%BC")
    valid(served, "PartyView", view)
    assert view["party_id"] == "C/1 ü"
    assert view["sent"]["usual_amounts"] == {"of": 4, "p10": 10.0, "p50": 20.0, "p90": 40.0, "max": 40.0}
    assert view["sent"]["partners"] == 2
    assert sum(view["sent"]["hours"]) == 4
    assert view["base_currency"] == "USD"
    assert view["received"]["last_30_days"]["count"] == 0
    assert served.get("/parties/M0")["received"]["last_30_days"]["amount"] == 40.0


@pytest.mark.parametrize("party", ["nobody", "", "x" * 65, "%00"])
def test_a_party_that_was_never_seen_is_not_found(service: Service, party: str) -> None:
    assert service.client.get(f"/parties/{party}").status_code == 404


def test_with_pseudonyms_an_id_and_its_pseudonym_find_the_same(tmp_path: Path) -> None:
    pseudonyms = Pseudonyms(KEY)
    service = Service(tmp_path, source_without_bundle(tmp_path), pseudonyms=pseudonyms)
    service.send("t", customer_id="C1", merchant_id="M1")
    (item,) = service.get("/transactions", customer_id="C1")["transactions"]
    assert item["customer_id"] == pseudonyms("C1")
    for asked in ("C1", pseudonyms("C1")):
        assert service.ids(customer_id=asked) == ["t"]
        assert service.get(f"/parties/{asked}")["party_id"] == pseudonyms("C1")
    assert service.ids(counterparty_id="M1") == ["t"]
    assert service.ids(customer_id="M1") == []
    assert "C1" not in json.dumps(service.get("/transactions/t"))
    service.close()


# --- the summary -----------------------------------------------------------------------------------------------------


def test_a_summary_counts_by_day(service: Service) -> None:
    service.send("a", 10)
    service.send("b", **LARGE)
    service.send("test-decline-1", 10)
    service.send("c", 30, after_ms=DAY)
    service.say("b", "fraud")
    service.say("a", "legitimate")
    found = service.get("/summary", since=date(0), until=date(2))
    valid(service, "Summary", found)
    assert found["base_currency"] == "USD"
    first, second = found["days"]
    assert (first["day"], second["day"]) == (date(0), date(1))
    assert (first["decisions"], first["alerts"], first["amount"]) == (2, 1, 90_010.0)
    assert first["outcomes"]["approve"] == 1
    assert (first["labelled"], first["fraud"], first["precision"], first["recall"]) == (2, 1, 1.0, 1.0)
    assert first["false_positive_rate"] == 0.0
    assert (first["fraud_amount_flagged"], first["fraud_amount_missed"]) == (90_000.0, 0.0)
    assert first["latency_p50_ms"] > 0
    assert (second["decisions"], second["precision"], second["recall"]) == (1, None, None)
    assert not first["mature"]
    service.now += 8 * DAY
    assert [day["mature"] for day in service.get("/summary")["days"]] == [True, True]
    assert [day["day"] for day in service.get("/summary", since=f"{date(1)}T23:00:00Z")["days"]] == [date(1)]
    assert service.get("/summary", until=f"{date(0)}T00:00:00Z")["days"] == []


def test_a_day_by_hand() -> None:
    day = Day(
        day=20_000,
        decisions=100,
        by_outcome={"approve": 90, "review": 7, "decline": 3},
        degraded=2,
        amount_minor=1_000_050,
        declined_minor=60_000,
        labels={(True, True): 6, (True, False): 2, (False, True): 1, (False, False): 18},
        fraud_minor={True: 50_000, False: 1_234},
        latency_us=((1_000, 50), (2_000, 0), (5_000, 49), (100_000, 1)),
        complete=False,
    )
    view = describe_day(day, (20_001 + 7) * DAY, minor_factor=100.0, label_delay_ms=7 * DAY)
    assert (view.alerts, view.labelled, view.fraud) == (10, 27, 7)
    assert (view.precision, view.recall, view.false_positive_rate) == (6 / 8, 6 / 7, 2 / 20)
    assert (view.amount, view.declined_amount) == (10_000.5, 600.0)
    assert (view.fraud_amount_flagged, view.fraud_amount_missed) == (500.0, 12.34)
    assert (view.latency_p50_ms, view.latency_p99_ms) == (1.0, 5.0)
    assert not view.mature
    assert not view.complete
    assert describe_day(day, (20_001 + 7) * DAY + 1, minor_factor=100.0, label_delay_ms=7 * DAY).mature


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, (19_971, 20_001)),
        ({"since": "2024-10-04"}, (20_000, 20_001)),
        ({"since": "2024-10-03", "until": "2024-10-04"}, (19_999, 20_000)),
        ({"since": "2024-10-03T23:59:59Z", "until": "2024-10-04T00:00:01Z"}, (19_999, 20_001)),
        ({"until": "1970-01-02"}, (0, 1)),
    ],
)
def test_days_are_asked_for_by_day_or_by_a_time_in_them(values: dict[str, str], expected: tuple[int, int]) -> None:
    assert parse_days(values, 20_000 * DAY + 5) == expected


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"since": "2024-10-05", "until": "2024-10-05"}, "since"),
        ({"since": date(2)}, "since"),
        ({"since": "2020-01-01"}, "since"),
        ({"until": "today"}, "until"),
        ({"since": "2024-02-30"}, "since"),
        ({"since": "٢٠٢٤-10-05"}, "since"),
    ],
)
def test_days_that_are_none_are_refused(service: Service, values: dict[str, str], field: str) -> None:
    refused(service.client.get("/summary", params=values), field)


def test_the_daily_line_has_the_figures_of_the_summary(service: Service, lines: Lines) -> None:
    service.send("a", 10)
    summarize(service.scorer, START // DAY)
    summarize(service.scorer, START // DAY + 1)
    (line,) = lines.of("daily summary")
    (day,) = service.get("/summary", since=date(0))["days"]
    assert {name: line[name] for name in day} == day


def test_a_day_that_is_over_is_summed_up_once_even_if_the_log_is_away_at_midnight(
    service: Service, lines: Lines
) -> None:
    service.send("a", 10)
    away = Silent(service.log, "summary")
    service.scorer.decisions = away  # type: ignore[assignment]
    daily = Daily(service.scorer, pause_s=0.002)
    daily.start()
    time.sleep(0.02)
    assert not away.asked.is_set()  # the day is not over
    service.now += 2 * DAY
    assert away.asked.wait(10)
    assert lines.of("daily summary") == []
    service.scorer.decisions = service.log
    deadline = time.monotonic() + 10
    while not lines.of("daily summary"):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    time.sleep(0.02)
    daily.stop()
    assert [line["day"] for line in lines.of("daily summary")] == [date(0)]


# --- stores that fail, or are slow -----------------------------------------------------------------------------------


class Silent:
    """A real log of which some calls are answered as an unreachable one answers, or after a wait."""

    def __init__(self, real: DecisionLog, *names: str, gate: threading.Event | None = None):
        self.real, self.names, self.gate = real, names, gate
        self.asked = threading.Event()

    def __getattr__(self, name: str) -> Any:
        real = getattr(self.real, name)
        if name not in self.names:
            return real

        def call(*args: Any, **kwargs: Any) -> Any:
            self.asked.set()
            if self.gate is None:
                raise StoreUnavailable("The decision log did not answer.")
            assert self.gate.wait(5)
            return real(*args, **kwargs)

        return call


def test_a_log_that_does_not_answer_is_503_and_says_so(service: Service) -> None:
    service.scorer.decisions = Silent(service.log, "search", "find", "labels", "label", "summary")  # type: ignore[assignment]
    for path in ("/transactions", "/transactions/t", "/summary"):
        answer = service.client.get(path)
        assert answer.status_code == 503
        assert answer.json()["title"] == "Store not reached"
    assert service.say("t").status_code == 503


def test_slow_reads_of_analysts_hold_up_no_decision(service: Service) -> None:
    gate = threading.Event()
    slow = Silent(service.log, "search", "summary", gate=gate)
    service.scorer.decisions = slow  # type: ignore[assignment]
    app = create_app(service.scorer)

    async def both() -> tuple[list[httpx.Response], httpx.Response]:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            reads = [asyncio.create_task(client.get(path)) for path in ("/transactions", "/summary") * 10]
            assert await asyncio.to_thread(slow.asked.wait, 5)
            decision = await client.post("/predict", json={"amount": 1, "transaction_id": "meanwhile"})
            assert not any(read.done() for read in reads)
            gate.set()
            return await asyncio.gather(*reads), decision

    reads, decision = asyncio.run(both())
    assert decision.status_code == 200
    assert {read.status_code for read in reads} == {200}


def test_the_threads_end_with_the_app(service: Service) -> None:
    app = create_app(service.scorer)

    async def live() -> None:
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                assert (await client.get("/transactions")).status_code == 200
            assert any(thread.name.startswith("records") for thread in threading.enumerate())

    before = {thread for thread in threading.enumerate() if thread.name.startswith("records")}
    asyncio.run(live())
    deadline = time.monotonic() + 10
    while {t for t in threading.enumerate() if t.name.startswith("records")} - before:
        assert time.monotonic() < deadline
        time.sleep(0.01)
