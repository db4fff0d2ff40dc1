"""Listings in SQL: what a page may cost, and that its end loses nothing."""

import itertools
import random
from typing import Any

import pytest

from fraud_api_lambda.decision_log import DecisionLog, Search, sql
from tests.fraud_api_lambda.decision_log.conftest import SQL_KINDS
from tests.fraud_api_lambda.decision_log.records import Model, generate, record
from tests.fraud_api_lambda.decision_log.test_contract import FILTERS, append_all, every, pages


@pytest.fixture(params=SQL_KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


def test_a_page_that_ends_where_no_more_may_be_asked_loses_nothing(
    log: DecisionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = generate(400)
    append_all(log, records)
    model = Model(records)
    monkeypatch.setattr(sql, "ASKED", 7)
    chance = random.Random(2)
    short = 0
    for _ in range(150):
        filters: dict[str, Any] = {
            name: chance.choice(FILTERS[name])
            for name in chance.sample(["outcome", "label", "test", "min_probability", "rule", "customer_id"], 2)
        }
        search = Search(**filters, oldest_first=chance.random() < 0.5, limit=chance.choice((1, 5, 50)))
        found = pages(log, search)
        assert list(itertools.chain.from_iterable(found)) == model.search(search), search
        short += sum(len(page) < search.limit for page in found[:-1])
    assert short > 100  # or the bound was never met


def test_among_many_that_do_not_pass_a_page_ends_all_the_same(log: DecisionLog) -> None:
    records = [record(f"t-{number:05}", received_ms=number, rules=("night",)) for number in range(4_500)]
    records[0] = record("t-00000", received_ms=0, rules=("night",), outcome="decline")
    append_all(log, records)
    for filters in ({"rule": "night"}, {"customer_id": "C1"}):
        found = pages(log, Search(**filters, outcome="decline"))  # type: ignore[arg-type]
        assert [len(page) for page in found] == [0, 0, 1]
    assert len(every(log, Search(outcome="decline"))) == 1


def test_the_levels_of_probability_cover_everything_once(log: DecisionLog) -> None:
    edges = [0.0, *sql.LEVELS, 1.0]
    values = sorted({value for edge in edges for value in (edge, min(1.0, edge + 1e-12), max(0.0, edge - 1e-12))})
    records = [record(f"t-{number}", probability=value) for number, value in enumerate(values)]
    append_all(log, records)
    model = Model(records)
    for value in values:
        search = Search(min_probability=value, limit=200)
        assert every(log, search) == model.search(search)
