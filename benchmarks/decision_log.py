"""The decision log with 100,000 decisions: every filter of the listing, in SQLite and, if installed, PostgreSQL.

Printed are medians in ms of a page of 50: of values that many, few and no decisions have, of the first page and of one
in the middle. Then the appends a second of one caller, with SQLite's ``synchronous`` as the log sets it (FULL) and as
the profiles have it (NORMAL), in turns, so that a noisy neighbour hits both alike.
"""

import itertools
import json
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from fraud_api_lambda.decision_log import DecisionLog, Record, Search, open_decision_log, write_cursor
from fraud_api_lambda.decision_log.sqlite import SqliteDecisionLog
from tests.fraud_api_lambda.decision_log.records import DAY_MS, NOON_MS, generate, generate_labels, record
from tests.fraud_api_lambda.decision_log.servers import postgres

from . import keep

DECISIONS = 100_000
DAYS = 30
LABELS = 1_000
ROUNDS = 15
#: So wide that a busy machine breaks nothing off.
BUDGET_MS = 60_000

SEARCHES: dict[str, Search] = {
    "nothing": Search(),
    "time, a day": Search(since_ms=NOON_MS + 9 * DAY_MS, until_ms=NOON_MS + 10 * DAY_MS),
    "time, before all": Search(until_ms=NOON_MS),
    "outcome approve": Search(outcome="approve"),
    "outcome decline": Search(outcome="decline"),
    "label none": Search(label="none"),
    "label fraud": Search(label="fraud"),
    "label legitimate": Search(label="legitimate"),
    "probability >= 0": Search(min_probability=0.0),
    "probability >= 0.5": Search(min_probability=0.5),
    "probability >= 0.97": Search(min_probability=0.97),
    "probability >= 0.9999": Search(min_probability=0.9999),
    "probability = 1": Search(min_probability=1.0),
    "customer": Search(customer_id="C17"),
    "customer, nobody": Search(customer_id="nobody"),
    "counterparty": Search(counterparty_id="M17"),
    "counterparty + decline": Search(counterparty_id="M17", outcome="decline"),
    "rule": Search(rule="velocity"),
    "rule + decline + fraud": Search(rule="velocity", outcome="decline", label="fraud"),
    "rule, none fired": Search(rule="nothing"),
    "test": Search(test=True),
    "not test": Search(test=False),
    "queue: review, no label": Search(outcome="review", label="none", test=False),
    "queue, oldest first": Search(outcome="review", label="none", test=False, oldest_first=True),
    "queue, probability >= 0.5": Search(outcome="review", label="none", min_probability=0.5),
    "customer + time + label": Search(customer_id="C17", label="none", since_ms=NOON_MS + 9 * DAY_MS),
}


def decisions() -> Iterator[Record]:
    """With an answer and a document as long as real ones."""
    chance = random.Random(3)
    answer = json.dumps({f"member_{number}": chance.random() for number in range(40)}).encode()
    for one in generate(DECISIONS, 3, days=DAYS, customers=20_000, counterparties=2_000):
        features = {f"feature_{number}": chance.random() for number in range(60)}
        yield replace(one, answer=answer, document=json.dumps({"event": {"amount": 1.5}, "features": features}))


def fill(log: DecisionLog) -> None:
    records: list[Record] = []
    for some in itertools.batched(decisions(), 1_000):
        log.append(some)
        records += some[:100]
    for label in generate_labels(records)[:LABELS]:
        log.label(label)


def listings(log: DecisionLog) -> dict[str, tuple[float, float]]:
    """Search -> ms of its first page, ms of a page about its middle."""
    middle = NOON_MS + DAYS * DAY_MS // 2
    # From the middle of the time on, by a cursor as the page before would have given it.
    middles = {name: replace(search, cursor=write_cursor(middle, "")) for name, search in SEARCHES.items()}
    taken: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in SEARCHES}
    for _ in range(ROUNDS):
        for name, search in SEARCHES.items():
            for times, one in zip(taken[name], (search, middles[name]), strict=True):
                start = time.perf_counter()
                log.search(one)
                times.append((time.perf_counter() - start) * 1000)
    return {name: (statistics.median(first), statistics.median(later)) for name, (first, later) in taken.items()}


def summary_ms(log: DecisionLog) -> float:
    times = []
    for _ in range(5):
        start = time.perf_counter()
        log.summary(0, 100_000)
        times.append((time.perf_counter() - start) * 1000)
    return statistics.median(times)


def appends_per_second(log: DecisionLog, seconds: float, name: str) -> float:
    start = time.perf_counter()
    count = 0
    while (took := time.perf_counter() - start) < seconds:
        log.append([record(f"{name}-{count}", rules=("night",))])
        count += 1
    return count / took


def main() -> None:
    results: dict[str, dict[str, float]] = {}
    rates: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        sqlite = SqliteDecisionLog(Path(folder) / "decisions.db", BUDGET_MS / 1000)
        fill(sqlite)
        columns = {"SQLite": listings(sqlite)}
        summaries = {"SQLite": summary_ms(sqlite)}
        for turn, level in enumerate(("FULL", "NORMAL") * 5):
            with sqlite._writer.use() as connection:
                connection.execute(f"PRAGMA synchronous = {level}")
            rate = appends_per_second(sqlite, 1.0, f"{level}-{turn}")
            rates.setdefault(f"SQLite, synchronous={level}", []).append(rate)
        sqlite.close()
    with suppress(pytest.skip.Exception), postgres("fsync=on", "shared_buffers=128MB") as server:
        log = open_decision_log(server.url(), budget_ms=BUDGET_MS)
        fill(log)
        server.execute("VACUUM ANALYZE")
        columns["PostgreSQL"] = listings(log)
        summaries["PostgreSQL"] = summary_ms(log)
        rates["PostgreSQL"] = [appends_per_second(log, 1.0, f"p-{turn}") for turn in range(5)]
        log.close()
    print(f"{DECISIONS:,} decisions, ms a page".ljust(30), *(f"{name:>11} first  middle" for name in columns))
    for name in SEARCHES:
        row = [f"{first:17.1f} {later:7.1f}" for first, later in (times[name] for times in columns.values())]
        print(f"{name:30}", *row)
        results[name] = {backend: times[name][0] for backend, times in columns.items()}
    print(f"{'summary of all days':30}", *(f"{took:17.1f}        " for took in summaries.values()))
    results["summary of all days"] = summaries
    for name, each in rates.items():
        print(f"{name:30}{statistics.median(each):18.0f} appends/s")
    results["appends per second"] = {name: statistics.median(each) for name, each in rates.items()}
    keep("decision_log", results)


if __name__ == "__main__":
    main()
