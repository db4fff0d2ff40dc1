"""The routes that try a change: what they compile, what they refuse and how, and what a back-test over HTTP says."""

import asyncio
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from fraud_api_lambda import routes_learning
from fraud_api_lambda.app import create_app
from fraud_api_lambda.decision_log import Search, open_decision_log
from fraud_api_lambda.errors import InvalidRequest, RulesError, StoreUnavailable
from fraud_api_lambda.features import NAMES
from fraud_api_lambda.routes_learning import check_rules, run_backtest, told
from fraud_api_lambda.rules import load_rules
from fraud_api_lambda.schemas import Pseudonyms, rfc3339
from fraud_api_lambda.scoring import FraudScorer
from tests.conftest import Trained
from tests.fraud_api_lambda.asgi import Client, source_of, source_without_bundle
from tests.fraud_api_lambda.payloads import CANARY

START = 1_770_000_000_000
HOUR, DAY = 3_600_000, 86_400_000
FILE = {"rules": [{"id": "large", "expression": "amount > 500", "outcome": "decline"}]}


class Service:
    """A scorer on an SQLite log, its clock in our hands, and a client of its API."""

    def __init__(self, folder: Path, source: Any, **options: Any):
        self.now = START
        self.log = open_decision_log(f"sqlite:///{folder}/decisions.db", budget_ms=20_000)
        self.scorer = FraudScorer(source, decisions=self.log, budget_ms=20_000, clock=lambda: self.now, **options)
        self.client = Client(create_app(self.scorer))

    def live(self, n: int = 30) -> None:
        """An hour apart, amounts of 0, 100 ... 900, 0, ...; every third labelled, every second of these a fraud."""
        for i in range(n):
            self.now = START + i * HOUR
            who = {"customer_id": f"C{i % 3}", "merchant_id": "M1"}
            answer = self.client.post("/predict", json={"transaction_id": f"t{i}", "amount": 100 * (i % 10), **who})
            assert answer.status_code == 200
            if i % 3 == 0:
                label = "fraud" if i % 2 else "legitimate"
                said = {"transaction_id": f"t{i}", "label": label, "source": "analyst"}
                assert self.client.post("/feedback", json=said).status_code == 200

    def backtest(self, **body: Any) -> dict[str, Any]:
        answer = self.client.post("/backtest", json=body)
        assert answer.status_code == 200, answer.text
        report: dict[str, Any] = answer.json()
        return report


@pytest.fixture
def service(tmp_path: Path, trained: Trained) -> Iterator[Service]:
    made = Service(tmp_path, source_of(trained))
    yield made
    made.log.close()


# --- the back-test ---------------------------------------------------------------------------------------------------


def test_a_rule_that_is_tried_declines_what_it_would_have_declined(service: Service) -> None:
    service.live()
    report = service.backtest(rules=FILE)
    assert (report["decisions"], report["complete"], report["left_out"]) == (30, True, {})
    [large] = [rule for rule in report["rules"] if rule["id"] == "large"]
    assert large["hits"]["decisions"] == 12  # 600 to 900, three times each
    assert large["precision"]["whole"] == large["hits"]["fraud"] + large["hits"]["legitimate"] == 4
    assert report["after"]["outcomes"]["decline"] == 12
    assert (report["first"], report["last"]) == (rfc3339(START), rfc3339(START + 29 * HOUR))
    assert report["labels"] == {"fraud": 5, "legitimate": 5, "none": 20, "young": 20}
    service.scorer.source.served = replace(
        service.scorer.source.served,  # type: ignore[type-var]
        rules=load_rules(json.dumps(FILE).encode(), service.scorer.source.rules.columns),
    )
    for i in range(30):
        stored = service.log.find([f"t{i}"])[f"t{i}"].record
        lived = service.scorer.answer({"amount": 100 * (i % 10), "transaction_id": f"again{i}", "customer_id": "C9"})
        assert (lived.decision.outcome == "decline") == (stored.event["amount_minor"] > 50_000)


def test_the_file_may_be_sent_as_its_text(service: Service) -> None:
    service.live(10)
    text = "# draft\nrules:\n  - {id: large, expression: amount > 500, outcome: decline}\n"
    as_text, as_object = service.backtest(rules=text), service.backtest(rules=FILE)
    assert as_text["moves"] == as_object["moves"]
    assert as_text["rules_version"] == load_rules(text.encode()).version != as_object["rules_version"]


def test_thresholds_that_are_tried_decide_with_the_rules_in_force(service: Service) -> None:
    service.live()
    report = service.backtest(thresholds={"review": 1e-9, "decline": 1 - 1e-9})
    assert report["after"]["outcomes"] == {"approve": 0, "review": 30, "decline": 0}
    assert report["thresholds"] == {"review": 1e-9, "decline": 1 - 1e-9}
    assert report["rules_version"] == service.scorer.source.rules.version
    assert report["flipped"] == 30 - report["before"]["outcomes"]["review"]


def test_lists_are_of_parties_as_the_service_knows_them(tmp_path: Path, trained: Trained) -> None:
    service = Service(tmp_path, source_of(trained), pseudonyms=Pseudonyms("k" * 32))
    service.live(9)
    file = {"rules": [], "lists": {"deny": [{"entity": "customer", "id": "C1"}]}}
    assert service.backtest(rules=file)["after"]["outcomes"]["decline"] >= 3
    service.log.close()


def test_the_newest_rows_are_read_and_a_cut_is_told(service: Service) -> None:
    service.live(12)
    cut = service.backtest(rules=FILE, max_rows=5)
    assert (cut["decisions"], cut["complete"]) == (5, False)
    assert cut["first"] == rfc3339(START + 7 * HOUR)
    whole = service.backtest(rules=FILE, max_rows=12)
    assert (whole["decisions"], whole["complete"]) == (12, True)


def test_reading_ends_when_the_time_is_up_and_that_is_told(service: Service) -> None:
    service.live(12)
    report = run_backtest(service.scorer, json.dumps({"rules": FILE}).encode(), seconds=-1)
    assert (report.decisions, report.complete) == (0, False)


def test_since_is_included_and_until_is_not(service: Service) -> None:
    service.live(12)
    report = service.backtest(rules=FILE, since=rfc3339(START + 2 * HOUR), until=rfc3339(START + 5 * HOUR))
    assert (report["decisions"], report["first"]) == (3, rfc3339(START + 2 * HOUR))


def test_costs_that_are_not_given_are_those_the_bundle_was_made_with(service: Service, trained: Trained) -> None:
    service.live(10)
    sealed = json.loads((trained.folder / "manifest.json").read_bytes())["training"]["costs"]
    file = {"rules": [{"id": "all", "expression": "true", "outcome": "review"}]}
    assert service.backtest(rules=file)["after"]["cost"]["reviews"] == pytest.approx(
        sealed["review_cost"] * service.backtest(rules=file)["after"]["outcomes"]["review"]
    )
    dear = service.backtest(rules=file, costs={"review_cost": 100, "reviews_per_day": 2})
    assert dear["after"]["cost"]["reviews"] == 100 * dear["after"]["outcomes"]["review"]
    assert dear["capacity_per_day"] == 2
    assert dear["after"]["days_over_capacity"] == 1


def test_test_inputs_are_outside(service: Service) -> None:
    service.live(4)
    service.client.post("/predict", json={"transaction_id": "test-decline-1", "amount": 900})
    assert service.backtest(rules=FILE)["decisions"] == 4


def test_nothing_is_changed_by_a_backtest(service: Service) -> None:
    service.live(6)
    before = service.log.search(Search()).items, service.scorer.source.current()
    service.backtest(rules=FILE)
    assert (service.log.search(Search()).items, service.scorer.source.current()) == before


def test_the_report_is_what_the_contract_says(service: Service) -> None:
    service.live(12)
    document = service.client.get("/openapi.json").json()
    for schema, answer in (
        ("Report", service.backtest(rules=FILE)),
        ("RulesChecked", service.client.post("/rules/check", json={"rules": FILE}).json()),
    ):
        whole = {"$ref": f"#/components/schemas/{schema}", "components": document["components"]}
        Draft202012Validator(whole).validate(answer)


def test_without_a_bundle_there_is_none(tmp_path: Path) -> None:
    service = Service(tmp_path, source_without_bundle(tmp_path))
    answer = service.client.post("/backtest", json={"rules": FILE})
    assert (answer.status_code, answer.json()["title"]) == (503, "No model loaded")
    service.log.close()


def test_a_log_that_is_down_is_told(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    service.live(3)

    def down(search: Search) -> Any:
        raise StoreUnavailable("The decision log did not answer.")

    monkeypatch.setattr(service.log, "search", down)
    assert service.client.post("/backtest", json={"rules": FILE}).status_code == 503


def test_transactions_are_scored_while_a_backtest_runs_and_a_second_one_is_refused(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.live(6)
    begun, go_on = threading.Event(), threading.Event()
    search = service.log.search

    def slow(asked: Search) -> Any:
        begun.set()
        assert go_on.wait(30)
        return search(asked)

    monkeypatch.setattr(service.log, "search", slow)

    async def all_at_once() -> None:
        transport = httpx.ASGITransport(app=service.client.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            first = asyncio.create_task(client.post("/backtest", json={"rules": FILE}))
            while not begun.is_set() and not first.done():
                await asyncio.sleep(0.01)
            assert (await client.post("/predict", json={"amount": 1})).status_code == 200
            second = await client.post("/backtest", json={"rules": FILE})
            assert (second.status_code, second.headers["retry-after"]) == (429, "7")
            assert not first.done()
            go_on.set()
            assert (await first).status_code == 200
            assert (await client.post("/backtest", json={"rules": FILE})).status_code == 200

    asyncio.run(all_at_once())


def test_the_reading_pauses_so_that_others_get_the_interpreter(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.live(9)
    pauses: list[float] = []
    monkeypatch.setattr(routes_learning.time, "sleep", pauses.append)
    assert service.backtest(rules=FILE)["decisions"] == 9
    assert len(pauses) == 3


# --- a rule compiled -------------------------------------------------------------------------------------------------


def test_an_expression_that_compiles_tells_what_it_reads(client: Client) -> None:
    expression = "is_night && amount > 2000 && attributes.amount == 'customer_id' // device_id"
    answer = client.post("/rules/check", json={"expression": expression})
    assert answer.status_code == 200
    assert answer.json() == {
        "ok": True,
        "variables": ["is_night", "amount", "attributes"],
        "rules": None,
        "rules_version": None,
    }


def test_a_file_that_compiles_tells_its_rules_and_version(either: Client) -> None:
    night, rest = "{id: a, expression: is_night, outcome: review}", "{id: b, expression: 'true', outcome: approve}"
    text = f"version: 7\nrules:\n  - {night}\n  - {rest}\n"
    answer = either.post("/rules/check", json={"rules": text})
    assert (answer.status_code, answer.json()["rules"], answer.json()["variables"]) == (200, ["a", "b"], ["is_night"])
    assert answer.json()["rules_version"] == load_rules(text.encode()).version


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("is_night && amuont > 5", "line 1, column 13: this name is not declared. Did you mean amount?"),
        (f"{CANARY[:6]}7731 > 5", "line 1, column 1: this name is not declared."),
        (f"customer_id == '{CANARY}", "line 1, column 16: Syntax error: token recognition error"),
        (
            f"amount\n > '{CANARY}'",
            "line 2, column 2: found no matching overload for '_>_' applied to '(double, string)'",
        ),
        ("amount >", "line 1, column 9: the expression ends too early"),
    ],
)  # fmt: skip
def test_a_wrong_expression_is_refused_with_line_and_column(client: Client, expression: str, message: str) -> None:
    answer = client.post("/rules/check", json={"expression": expression})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["errors"] == [{"field": "expression", "message": f"The expression, {message}"}]


def test_an_expression_that_is_not_true_or_false_is_refused(client: Client) -> None:
    answer = client.post("/rules/check", json={"expression": "amount * 2"})
    [error] = answer.json()["errors"]
    assert (answer.status_code, error["message"]) == (422, "The expression must be true or false, and it is DOUBLE.")


@pytest.mark.parametrize("path", ["/rules/check", "/backtest"])
def test_a_wrong_rule_of_a_file_is_named_with_its_position(service: Service, path: str) -> None:
    file = {"rules": [*FILE["rules"], {"id": "night", "expression": "is_night &&\n amuont > 5", "outcome": "review"}]}
    answer = service.client.post(path, json={"rules": file})
    assert answer.status_code == 422
    assert answer.json()["errors"] == [
        {
            "field": "rules",
            "message": "Rule 'night', line 2, column 2: this name is not declared. Did you mean amount?",
        }
    ]


WORD = "Canary7731"
_RULE = {"id": "r", "expression": "true", "outcome": "review"}


@pytest.mark.parametrize(
    "rules",
    [
        WORD,
        f"rules: [{WORD}",
        f"rules:\n - {{id: r, expression: '\"{WORD}', outcome: review}}",
        f"rules: []\n{WORD}: 5",
        {"rules": [], WORD: 1},
        {"rules": [{**_RULE, WORD: 1}]},
        {"rules": [{**_RULE, f"'. Choices '{WORD}'. Choices": 1}]},
        {"rules": [{**_RULE, "id": f"a {WORD}"}]},
        {"rules": [{**_RULE, "outcome": WORD}]},
        {"rules": [{**_RULE, "from": WORD}]},
        {"rules": [{**_RULE, "reason": [WORD]}]},
        {"rules": [], "lists": {WORD: []}},
        {"rules": [], "lists": {"deny": [{"entity": WORD, "id": "a"}]}},
        {"rules": [], "lists": {"deny": [{"entity": "customer", "id": WORD}] * 2}},
        {"rules": [_RULE], "snooze": [{"rule": WORD, "entity": "customer", "id": "a"}]},
        {"rules": [], "version": [WORD]},
        {"rules": f"{WORD}"},
        {"rules": [_RULE] * 201, "version": WORD},
        {"version": WORD, "rules": [{**_RULE, "expression": f"{WORD}.x == amount"}]},
    ],
)
def test_a_refused_file_is_not_repeated(service: Service, rules: Any) -> None:
    for path in ("/rules/check", "/backtest"):
        answer = service.client.post(path, json={"rules": rules})
        assert answer.status_code == 422, answer.text
        assert WORD not in answer.text
        assert len(answer.content) < 4096


@given(
    st.lists(
        st.sampled_from(
            [
                *("amount", "is_night", "5", "'a'", "(", ")", "[", "]", "{", "}", ".", "&&", "||", ">", "==", "?", ":"),
                *(WORD, f"'{WORD}'", f'"{WORD}', f"'{WORD}", f"`{WORD}`", f"b'{WORD}'", f"#{WORD}", f"\\{WORD}", "in"),
                *(f"{WORD}(", "has(", "size(", ".all(", f".{WORD}", ",", "\n", " ", "!", "-", f"//{WORD}", f"0x{WORD}"),
            ]
        ),
        min_size=1,
        max_size=9,
    )
)
def test_whatever_is_wrong_with_an_expression_no_word_of_it_is_repeated(parts: list[str]) -> None:
    try:
        answer = check_rules(json.dumps({"expression": " ".join(parts)}).encode(), NAMES)
    except InvalidRequest as problem:
        [error] = problem.errors
        assert WORD not in error.message
        assert "line" in error.message or "must be true or false" in error.message
    else:
        assert set(answer["variables"]) <= {"amount", "is_night"}


def test_a_position_that_the_message_does_not_say_is_added() -> None:
    assert told(RulesError("The rules file is not YAML.", line=3, column=7), NAMES) == (
        "The rules file is not YAML: line 3, column 7."
    )


# --- requests that are refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/rules/check", {}, "body"),
        ("/rules/check", {"expression": "true", "rules": FILE}, "body"),
        ("/rules/check", {"expression": 5}, "expression"),
        ("/rules/check", {"expression": "a" * 2_001}, "expression"),
        ("/rules/check", {"rules": 5}, "rules"),
        ("/rules/check", [], "body"),
        ("/rules/check", {CANARY: 1}, "(a field)"),
        ("/backtest", {}, "body"),
        ("/backtest", {"rules": [CANARY]}, "rules"),
        ("/backtest", {"thresholds": {"review": 0.5}}, "thresholds.decline"),
        ("/backtest", {"thresholds": {"review": 0.5, "decline": 1}}, "thresholds.decline"),
        ("/backtest", {"thresholds": {"review": 0.9, "decline": 0.5}}, "thresholds.review"),
        ("/backtest", {"thresholds": {"review": CANARY, "decline": 0.5}}, "thresholds.review"),
        ("/backtest", {"thresholds": 5}, "thresholds"),
        ("/backtest", {"rules": FILE, "since": CANARY}, "since"),
        ("/backtest", {"rules": FILE, "since": "2026-01-02T00:00:00Z", "until": "2026-01-01T00:00:00Z"}, "since"),
        ("/backtest", {"rules": FILE, "max_rows": 20_001}, "max_rows"),
        ("/backtest", {"rules": FILE, "max_rows": 0}, "max_rows"),
        ("/backtest", {"rules": FILE, "max_rows": "5"}, "max_rows"),
        ("/backtest", {"rules": FILE, "costs": {"review_cost": -1}}, "costs.review_cost"),
        ("/backtest", {"rules": FILE, "costs": {"review_catch": 1.5}}, "costs.review_catch"),
        ("/backtest", {"rules": FILE, "costs": {CANARY: 1.5}}, "costs"),
        ("/backtest", {"rules": FILE, "more": 1}, "(a field)"),
    ],
)
def test_a_request_that_is_wrong_names_the_field_and_repeats_nothing(
    service: Service, path: str, body: Any, field: str
) -> None:
    answer = service.client.post(path, json=body)
    assert answer.status_code == 422, answer.text
    assert [error["field"] for error in answer.json()["errors"]] == [field]
    assert CANARY not in answer.text


def test_a_body_beyond_the_limit_is_refused(client: Client) -> None:
    answer = client.post("/backtest", content=b" " * (routes_learning.MAX_BODY + 1))
    assert answer.status_code == 413


def test_a_large_deny_list_is_taken(service: Service) -> None:
    service.live(3)
    file = {"rules": [], "lists": {"deny": [{"entity": "customer", "ids": [f"X{i}" for i in range(100_000)] + ["C1"]}]}}
    assert service.backtest(rules=file)["after"]["outcomes"]["decline"] >= 1
