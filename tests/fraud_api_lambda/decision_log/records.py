"""Decisions to record, and the log as a few lines of Python that every backend is compared with."""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from fraud_api_lambda.decision_log import Day, Label, Record, Search, Stored, latency_edge

DAY_MS = 86_400_000
#: Noon of a day, UTC.
NOON_MS = 20_000 * DAY_MS + DAY_MS // 2
OUTCOMES = ("approve", "review", "decline")


def record(transaction_id: str = "t-1", **changes: Any) -> Record:
    """A decision like any other; ``changes`` are members of ``Record``."""
    made = Record(
        transaction_id=transaction_id,
        digest=hashlib.sha256(transaction_id.encode()).digest(),
        answer=json.dumps({"transaction_id": transaction_id, "outcome": "approve"}).encode(),
        received_ms=NOON_MS,
        time_ms=NOON_MS - 1_000,
        customer_id="C1",
        counterparty_id="M1",
        device_id=None,
        amount_minor=12_345,
        outcome="approve",
        decided_by="model",
        probability=0.25,
        rules=(),
        model_version="v1",
        rules_version="r1",
        latency_us=1_234,
        test=False,
        degraded=(),
        document='{"event":{"amount":123.45},"features":{"a":null}}',
    )
    return replace(made, **changes)


def label(transaction_id: str = "t-1", **changes: Any) -> Label:
    return replace(Label(transaction_id, True, "analyst", NOON_MS + 1_000, NOON_MS + 2_000, "seen"), **changes)


def generate(count: int, seed: int = 1, *, days: int = 4, customers: int = 12, counterparties: int = 7) -> list[Record]:
    """Records with few distinct values, so that any filter finds some, and with many that arrived together."""
    chance = random.Random(seed)
    made = []
    for number in range(count):
        probability = None if chance.random() < 0.05 else round(chance.random() ** 4, 4)
        made.append(
            record(
                f"t-{chance.randrange(16**6):06x}-{number}",
                received_ms=NOON_MS + chance.randrange(days * 24 * 60) * 60_000,
                time_ms=NOON_MS + chance.randrange(days * DAY_MS),
                customer_id=None if chance.random() < 0.1 else f"C{chance.randrange(customers)}",
                counterparty_id=None if chance.random() < 0.1 else f"M{chance.randrange(counterparties)}",
                device_id=None if chance.random() < 0.5 else f"D{chance.randrange(customers)}",
                amount_minor=chance.randrange(1_000_000),
                outcome=chance.choices(OUTCOMES, (90, 7, 3))[0],
                decided_by=chance.choice(("model", "rule", "list", "fallback")),
                probability=probability,
                rules=tuple(
                    sorted(chance.sample(("night", "velocity", "large", "new-device"), chance.choice((0, 0, 1, 2))))
                ),
                model_version=None if probability is None else "v1",
                latency_us=int(10 ** chance.uniform(2, 6)),
                test=chance.random() < 0.05,
                degraded=chance.choice(((), (), (), ("feature_store",), ("model", "rules"))),
                document=json.dumps({"event": {"number": number}, "features": {"a": chance.random()}}),
            )
        )
    return made


def generate_labels(records: Iterable[Record], seed: int = 1) -> list[Label]:
    """Up to three labels for a third of the records, from any source."""
    chance = random.Random(seed)
    made = []
    for one in records:
        for _ in range(chance.choice((0, 0, 0, 0, 1, 2, 3))):
            made.append(
                Label(
                    one.transaction_id,
                    chance.random() < 0.4,
                    chance.choice(("customer", "analyst", "chargeback")),
                    one.time_ms + chance.randrange(5) * DAY_MS,
                    one.received_ms + chance.randrange(5) * DAY_MS,
                    chance.choice(("", "called back", "ärgerlich 🂡")),
                )
            )
    return made


class Model:
    """What a log must answer, by going through all it holds."""

    def __init__(self, records: Iterable[Record], labels: Iterable[Label] = ()) -> None:
        self.records: dict[str, Record] = {}
        self.labels: dict[str, dict[str, Label]] = {}
        for one in records:
            self.records.setdefault(one.transaction_id, one)
        for one_label in labels:
            self.labels.setdefault(one_label.transaction_id, {}).setdefault(one_label.key, one_label)

    def stored(self, transaction_id: str) -> Stored:
        labels = self.labels.get(transaction_id, {}).values()
        return Stored(self.records[transaction_id], max(labels, key=lambda one: one.order, default=None))

    def search(self, search: Search) -> list[Stored]:
        """All that is to be found, page after page."""
        found = [one for one in map(self.stored, self.records) if _passes(search, one)]
        found.sort(key=lambda one: (one.record.received_ms, one.record.transaction_id), reverse=not search.oldest_first)
        return found

    def summary(self, since_day: int, until_day: int) -> list[Day]:
        days: dict[int, list[Stored]] = {}
        for one in map(self.stored, self.records):
            day = one.record.received_ms // DAY_MS
            if since_day <= day < until_day and not one.record.test:
                days.setdefault(day, []).append(one)
        return [_day(day, days[day]) for day in sorted(days)]


def _passes(search: Search, one: Stored) -> bool:
    record, label = one
    said = "none" if label is None else "fraud" if label.is_fraud else "legitimate"
    return (
        (search.since_ms is None or record.received_ms >= search.since_ms)
        and (search.until_ms is None or record.received_ms < search.until_ms)
        and search.outcome in (None, record.outcome)
        and search.label in (None, said)
        and (
            search.min_probability is None
            or (record.probability is not None and record.probability >= search.min_probability)
        )
        and search.customer_id in (None, record.customer_id)
        and search.counterparty_id in (None, record.counterparty_id)
        and (search.rule is None or search.rule in record.rules)
        and search.test in (None, record.test)
    )


def _day(day: int, stored: list[Stored]) -> Day:
    frauds: Counter[bool] = Counter()
    for record, label in stored:
        if label is not None and label.is_fraud:
            frauds[record.outcome != "approve"] += record.amount_minor
    return Day(
        day=day,
        decisions=len(stored),
        by_outcome=dict(Counter(one.record.outcome for one in stored)),
        degraded=sum(bool(one.record.degraded) for one in stored),
        amount_minor=sum(one.record.amount_minor for one in stored),
        declined_minor=sum(one.record.amount_minor for one in stored if one.record.outcome == "decline"),
        labels=dict(
            Counter((one.record.outcome != "approve", one.label.is_fraud) for one in stored if one.label is not None)
        ),
        fraud_minor=dict(frauds),
        latency_us=tuple(sorted(Counter(latency_edge(one.record.latency_us) for one in stored).items())),
    )
