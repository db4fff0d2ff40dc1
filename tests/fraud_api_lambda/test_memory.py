"""Every decision recorded once: the same id and body answer the same bytes and count once, whatever fails between."""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fraud_api_lambda import profiles
from fraud_api_lambda.app import create_app
from fraud_api_lambda.decision_log import DecisionLog, Label, Record, Search, open_decision_log, unpack_record
from fraud_api_lambda.errors import InvalidRequest, NotFound, NotRecorded, RequestConflict, StoreUnavailable
from fraud_api_lambda.feature_store import Change, FeatureStore, open_feature_store
from fraud_api_lambda.features import NAMES
from fraud_api_lambda.outbox import Outbox, open_outbox
from fraud_api_lambda.schemas import Pseudonyms, digest, unpack_event
from fraud_api_lambda.scoring import Answer, FraudScorer
from tests.conftest import Trained
from tests.fraud_api_lambda.asgi import Client, source_of, source_without_bundle
from tests.fraud_api_lambda.payloads import ALL

BODY = {"transaction_id": "order-1", "amount": 250, "customer_id": "C1", "merchant_id": "M1", "device_id": "D1"}
AMPLE_MS = 20_000


class Broken:
    """A real store behind a switch: while it is off, every call is answered as an unreachable store answers."""

    def __init__(self, real: Any):
        self.real, self.down = real, False

    def __getattr__(self, name: str) -> Any:
        if self.down and name in {"append", "find", "label", "read", "swap", "put"}:

            def refuse(*_: Any, **__: Any) -> Any:
                raise StoreUnavailable("switched off")

            return refuse
        return getattr(self.real, name)


class Rig:
    """A scorer on real stores, each behind its switch."""

    def __init__(self, folder: Path, source: Any, **options: Any):
        self.folder = folder
        self.store = Broken(open_feature_store(f"sqlite:///{folder}/profiles.db", budget_ms=AMPLE_MS))
        self.log = Broken(open_decision_log(f"sqlite:///{folder}/decisions.db", budget_ms=AMPLE_MS))
        self.outbox = Broken(open_outbox(f"file://{folder}/outbox"))
        self.scorer = FraudScorer(source, self.store, self.log, self.outbox, budget_ms=AMPLE_MS, **options)  # type: ignore[arg-type]

    def version(self, party: str) -> int:
        """How many updates the party's profile has seen."""
        found = self.store.real.read([party])
        return profiles.decode(found[party][1])[profiles.VERSION] if party in found else 0

    def records(self) -> list[Record]:
        return [stored.record for stored in self.log.real.search(Search(oldest_first=True, limit=200)).items]

    def drain(self) -> tuple[int, int, int]:
        return tuple(self.outbox.real.drain(self.scorer.sinks, seconds=10))  # type: ignore[return-value]

    def close(self) -> None:
        for each in (self.store, self.log, self.outbox):
            each.real.close()


@pytest.fixture
def rig(tmp_path: Path, trained: Trained) -> Iterator[Rig]:
    made = Rig(tmp_path, source_of(trained))
    yield made
    made.close()


# --- the record ------------------------------------------------------------------------------------------------------


def test_a_record_holds_the_answer_the_event_the_features_and_the_members_margins(rig: Rig) -> None:
    answer = rig.scorer.answer({**BODY, "lat": 1.5, "long": 2.5, "attributes": {"channel": "web"}}, explain=True)
    [record] = rig.records()
    assert record.answer == answer.body
    decision = answer.decision
    assert (record.transaction_id, record.outcome, record.decided_by) == (
        "order-1",
        decision.outcome,
        decision.decided_by,
    )
    assert (record.probability, record.rules) == (decision.fraud_probability, decision.rules)
    assert record.parties == ("C1", "M1", "D1")
    assert record.amount_minor == 25_000
    document = json.loads(record.document)
    event = unpack_event(document["event"])
    assert (event.lat, event.attributes, event.customer_id) == (1.5, {"channel": "web"}, "C1")
    assert event.oldbalance_orig != event.oldbalance_orig  # absent stays missing, never zero
    served = rig.scorer.source.served
    assert served is not None
    assert document["members"].keys() == {member.name for member in served.bundle.manifest.members}
    assert set(document["features"]) <= set(served.model.features.columns)
    assert "oldbalance_orig" not in document["features"]
    assert document["versions"] == {"C1": 0, "M1": 0, "D1": 0}


def test_the_features_of_a_record_read_back_to_the_bit(rig: Rig) -> None:
    rig.scorer.answer_many(
        [
            {**payload, "customer_id": "C", "transaction_id": f"p{i}"}
            for i, payload in enumerate(
                {key: value for key, value in payload.items() if key not in {"nameOrig", "customer_id"}}
                for payload in ALL
            )
        ]
    )
    served = rig.scorer.source.served
    assert served is not None
    import numpy as np

    from fraud_api_lambda.judge import score_row

    for record in rig.records():
        document = json.loads(record.document)
        columns = np.array([document["features"].get(name, np.nan) for name in served.model.features.columns])
        scored = score_row(served.model, columns)
        assert scored.probability == record.probability
        assert scored.margins == list(document["members"].values())


# --- idempotency -----------------------------------------------------------------------------------------------------


def test_the_same_id_and_body_answer_the_same_bytes_and_count_once(rig: Rig) -> None:
    first = rig.scorer.answer(BODY)
    again = rig.scorer.answer(dict(reversed(BODY.items())), explain=True)
    assert (first.replayed, again.replayed) == (False, True)
    assert again.body == first.body
    assert [rig.version(party) for party in ("C1", "M1", "D1")] == [1, 1, 1]
    assert len(rig.records()) == 1


def test_the_same_id_with_another_body_is_a_conflict_and_touches_nothing(rig: Rig) -> None:
    rig.scorer.answer(BODY)
    with pytest.raises(RequestConflict):
        rig.scorer.answer({**BODY, "amount": 251, "customer_id": "C2"})
    assert [rig.version(party) for party in ("C1", "C2", "M1")] == [1, 0, 1]
    assert len(rig.records()) == 1


def test_a_crash_between_record_and_profiles_is_mended_by_the_repeated_request(rig: Rig) -> None:
    rig.store.down = True  # as if the process had died here: nothing of the profiles was written, nor spooled
    rig.outbox.down = True
    first = rig.scorer.answer(BODY)
    rig.store.down = rig.outbox.down = False
    assert rig.version("C1") == 0
    again = rig.scorer.answer(BODY)
    assert (again.body, again.replayed) == (first.body, True)
    assert [rig.version(party) for party in ("C1", "M1", "D1")] == [1, 1, 1]
    rig.scorer.answer(BODY)
    assert rig.version("C1") == 1


def test_the_repeated_request_keeps_the_time_that_the_first_was_given(tmp_path: Path, trained: Trained) -> None:
    now = [1_770_000_000_000]
    rig = Rig(tmp_path, source_of(trained), clock=lambda: now[0])
    rig.store.down = rig.outbox.down = True
    rig.scorer.answer(BODY)
    rig.store.down = rig.outbox.down = False
    now[0] += 5_000
    rig.scorer.answer(BODY)
    state = profiles.decode(rig.store.real.read(["C1"])["C1"][1])
    assert state[profiles.FIRST_SEEN] == state[profiles.LAST_RECEIVED] == 1_770_000_000_000
    rig.close()


def test_fifty_parallel_copies_make_one_record_and_one_answer(rig: Rig) -> None:
    start = threading.Barrier(50)

    def send(_: int) -> Answer:
        start.wait()
        return rig.scorer.answer(BODY)

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(send, range(50)))
    assert len({answer.body for answer in answers}) == 1
    assert sum(not answer.replayed for answer in answers) == 1
    assert len(rig.records()) == 1
    assert [rig.version(party) for party in ("C1", "M1", "D1")] == [1, 1, 1]


def test_in_a_batch_a_repeated_transaction_is_answered_once_and_a_conflict_stands_in_its_place(rig: Rig) -> None:
    before = rig.scorer.answer(BODY)
    other = {**BODY, "transaction_id": "order-2"}
    answers = rig.scorer.answer_many([BODY, other, other, {**other, "amount": 1}, {**BODY, "amount": 1}])
    kinds = [(answer.replayed if isinstance(answer, Answer) else type(answer)) for answer in answers]
    assert kinds == [True, False, True, RequestConflict, RequestConflict]
    assert isinstance(answers[0], Answer)
    assert answers[0].body == before.body
    assert answers[1].body == answers[2].body  # type: ignore[union-attr]
    assert rig.version("C1") == 2
    assert len(rig.records()) == 2


def test_over_http_the_repeated_request_says_so_in_a_header_and_a_conflict_is_409(rig: Rig) -> None:
    client = Client(create_app(rig.scorer))
    first, again = client.post("/predict", json=BODY), client.post("/predict", json=BODY)
    assert first.content == again.content
    assert ("idempotent-replayed" in first.headers, again.headers["idempotent-replayed"]) == (False, "true")
    conflict = client.post("/predict", json={**BODY, "amount": 9_731.25})
    assert conflict.status_code == 409
    assert conflict.headers["content-type"] == "application/problem+json"
    assert "9731" not in conflict.text


def test_a_digest_is_that_of_what_was_sent_in_any_order_of_names() -> None:
    assert digest({"a": 1, "b": "é"}) == digest({"b": "é", "a": 1})
    assert digest({"a": 1}) != digest({"a": 1.0})
    assert Pseudonyms("k" * 32).digest({"a": 1}) != digest({"a": 1})


# --- when stores fail ------------------------------------------------------------------------------------------------


def test_with_the_log_down_a_decision_is_spooled_flagged_and_recorded_once_afterwards(rig: Rig) -> None:
    rig.log.down = True
    first = rig.scorer.answer(BODY)
    assert first.decision.degraded == ("decision_log",)
    again = rig.scorer.answer(BODY)
    assert (again.body, again.replayed) == (first.body, True)
    with pytest.raises(RequestConflict):
        rig.scorer.answer({**BODY, "amount": 1})
    rig.log.down = False
    assert rig.records() == []
    assert rig.drain()[0] == 1
    [record] = rig.records()
    assert (record.answer, record.degraded) == (first.body, ("decision_log",))
    assert rig.scorer.answer(BODY).body == first.body
    assert rig.drain() == (0, 0, 0)
    assert rig.version("C1") == 1


def test_spooled_decisions_reach_the_log_in_their_order(rig: Rig) -> None:
    rig.log.down = True
    for i in range(20):
        rig.scorer.answer({**BODY, "transaction_id": f"t{i}"})
    rig.log.down = False
    assert rig.drain()[0] == 20
    page = rig.log.real.search(Search(oldest_first=True))
    by_arrival = sorted(page.items, key=lambda stored: stored.record.received_ms)
    assert len(by_arrival) == 20
    assert rig.version("C1") == 20


@pytest.mark.parametrize("amount", [1, 100_000_000])
def test_recorded_nowhere_a_decision_goes_to_review_at_least(rig: Rig, amount: int) -> None:
    usual = rig.scorer.answer({**BODY, "transaction_id": "before", "amount": amount, "customer_id": "C7"}).decision
    rig.log.down = rig.outbox.down = True
    decision = rig.scorer.answer({**BODY, "amount": amount, "customer_id": "C8"}).decision
    assert "decision_log" in decision.degraded
    if usual.outcome == "approve":
        assert (decision.outcome, decision.decided_by, decision.is_fraud) == ("review", "fallback", True)
        assert decision.confidence is None
        assert decision.explanation == "Sent to review: the decision could not be recorded."
    else:
        assert decision.outcome == usual.outcome


def test_where_it_is_asked_for_a_decision_that_cannot_be_recorded_is_refused(tmp_path: Path, trained: Trained) -> None:
    rig = Rig(tmp_path, source_of(trained), on_log_failure="refuse")
    rig.log.down = rig.outbox.down = True
    with pytest.raises(NotRecorded):
        rig.scorer.answer(BODY)
    answer = Client(create_app(rig.scorer)).post("/predict", json=BODY)
    assert (answer.status_code, answer.json()["title"]) == (503, "Not recorded")
    rig.log.down = rig.outbox.down = False
    assert rig.version("C1") == 0
    assert not rig.scorer.answer(BODY).replayed
    rig.close()


def test_profiles_that_could_not_be_written_are_brought_up_by_the_outbox(rig: Rig) -> None:
    rig.scorer.answer({**BODY, "transaction_id": "before"})
    rig.store.down = True
    answer = rig.scorer.answer(BODY)
    assert answer.decision.degraded == ("feature_store",)
    rig.store.down = False
    assert rig.version("C1") == 1
    assert rig.drain() == (1, 0, 0)
    assert [rig.version(party) for party in ("C1", "M1", "D1")] == [2, 2, 2]
    rig.scorer.answer(BODY)
    assert rig.version("C1") == 2


def test_a_store_that_fails_only_at_the_swap_costs_the_answer_nothing(rig: Rig) -> None:
    class Unwritable:
        inline = True

        def __init__(self, real: FeatureStore):
            self.read, self.swap_count = real.read, 0

        def swap(self, changes: list[Change]) -> list[str]:
            raise StoreUnavailable("full")

    rig.scorer.store = Unwritable(rig.store.real)  # type: ignore[assignment]
    assert rig.scorer.answer(BODY).decision.degraded == ()
    rig.scorer.store = rig.store  # type: ignore[assignment]
    assert rig.drain() == (1, 0, 0)
    assert rig.version("C1") == 1


def test_another_transaction_under_a_spooled_id_is_laid_aside_not_lost(rig: Rig) -> None:
    rig.log.down = True
    rig.scorer.answer(BODY)
    rig.log.down = False
    [(_, spooled)] = [(key, rig.outbox.real.find("decision", key)) for key in ("order-1",)]
    assert spooled is not None
    record = unpack_record(spooled)
    other = FraudScorer(rig.scorer.source, decisions=rig.log.real)
    other.answer({**BODY, "amount": 3})
    assert rig.drain() == (0, 1, 0)
    [stands] = rig.records()
    assert stands.digest != record.digest


def test_what_is_still_spooled_when_the_log_is_back_is_answered_as_it_was_before(rig: Rig) -> None:
    rig.log.down = True
    first = rig.scorer.answer(BODY)
    rig.log.down = False
    again = rig.scorer.answer(BODY)
    assert (again.body, again.replayed) == (first.body, True)
    with pytest.raises(RequestConflict):
        rig.scorer.answer({**BODY, "amount": 1})
    many = rig.scorer.answer_many([{**BODY, "amount": 1}, BODY])
    assert isinstance(many[0], RequestConflict)
    assert isinstance(many[1], Answer)
    assert many[1].body == first.body
    assert rig.drain()[:2] == (1, 0)
    assert [record.answer for record in rig.records()] == [first.body]
    assert rig.version("C1") == 1


def test_a_crash_between_record_and_profiles_is_mended_by_the_repeated_batch(rig: Rig) -> None:
    batch = [{**BODY, "transaction_id": f"t{i}"} for i in range(3)]
    rig.store.down = rig.outbox.down = True  # as if the process had died here
    first = rig.scorer.answer_many(batch)
    rig.store.down = rig.outbox.down = False
    assert rig.version("C1") == 0
    again = rig.scorer.answer_many([*batch, {**BODY, "transaction_id": "new"}])
    assert [answer.body for answer in again[:3]] == [answer.body for answer in first]  # type: ignore[union-attr]
    assert [rig.version(party) for party in ("C1", "M1", "D1")] == [4, 4, 4]
    rig.scorer.answer_many(batch)
    assert rig.version("C1") == 4


def test_in_a_batch_an_id_whose_first_transaction_is_refused_is_free_for_the_next(rig: Rig) -> None:
    refused = {**BODY, "currency": "ZZZ"}
    answers = rig.scorer.answer_many([refused, refused, BODY, BODY, {**BODY, "amount": 1}])
    kinds = [(answer.replayed if isinstance(answer, Answer) else type(answer)) for answer in answers]
    assert kinds == [InvalidRequest, InvalidRequest, False, True, RequestConflict]


def test_in_a_batch_the_recorded_body_is_answered_even_after_one_that_conflicts(rig: Rig) -> None:
    first = rig.scorer.answer(BODY)
    conflict, again = rig.scorer.answer_many([{**BODY, "amount": 1}, BODY])
    assert isinstance(conflict, RequestConflict)
    assert isinstance(again, Answer)
    assert (again.body, again.replayed) == (first.body, True)


def test_what_was_judged_is_answered_again_though_the_bundle_of_today_would_refuse_it(rig: Rig) -> None:
    now = [1_770_000_000_000]
    rig.scorer.clock = lambda: now[0]
    body = {**BODY, "timestamp": "2026-02-02T02:40:00Z"}
    first = rig.scorer.answer(body)
    now[0] -= 3_600_000  # the clock was set back; a currency that the next bundle has no rate for is the same
    again = rig.scorer.answer(body)
    assert (again.body, again.replayed) == (first.body, True)
    with pytest.raises(RequestConflict):
        rig.scorer.answer({**body, "amount": 1})
    with pytest.raises(InvalidRequest):
        rig.scorer.answer({**body, "transaction_id": "another"})


# --- labels ----------------------------------------------------------------------------------------------------------


def label(is_fraud: bool, source: Any = "analyst", time_ms: int = 1, received_ms: int = 2) -> Label:
    return Label("order-1", is_fraud, source, time_ms, received_ms)


def frauds(rig: Rig, party: str = "M1") -> int:
    found = rig.store.real.read([party])
    return profiles.decode(found[party][1])[profiles.FRAUD_COUNT] if found else 0


def test_a_label_reaches_the_counterpartys_profile_and_a_reversal_leaves_it(rig: Rig) -> None:
    rig.scorer.answer(BODY)
    stored, stands = rig.scorer.feedback(label(True))
    assert (stored.record.transaction_id, stored.label, stands) == ("order-1", label(True), label(True))
    assert frauds(rig) == 1
    rig.scorer.feedback(label(True, received_ms=99))
    assert frauds(rig) == 1
    rig.scorer.feedback(label(False, time_ms=5))
    assert frauds(rig) == 0
    rig.scorer.feedback(label(True, "chargeback", time_ms=3))
    assert frauds(rig) == 1
    rig.scorer.feedback(label(False, time_ms=9))  # an analyst does not outrank a chargeback
    assert frauds(rig) == 1


def test_of_two_labels_at_once_the_one_that_counts_is_what_the_profile_keeps(rig: Rig) -> None:
    rig.scorer.answer(BODY)

    class Overtaken:
        """A log whose first label is overtaken by a chargeback between its record and its profile."""

        def __getattr__(self, name: str) -> Any:
            return getattr(rig.log.real, name)

        def label(self, label: Label) -> Any:
            found = rig.log.real.label(label)
            rig.scorer.decisions = rig.log  # type: ignore[assignment]
            other = Label("order-1", not label.is_fraud, "chargeback", label.time_ms, label.received_ms)
            rig.scorer.feedback(other)
            return found

    rig.scorer.decisions = Overtaken()  # type: ignore[assignment]
    rig.scorer.feedback(label(True))
    assert rig.log.real.find(["order-1"])["order-1"].label.is_fraud is False
    assert frauds(rig) == 0


def test_a_label_for_an_unknown_transaction_is_not_found(rig: Rig) -> None:
    with pytest.raises(NotFound):
        rig.scorer.feedback(label(True))


def test_a_label_for_a_decision_that_is_still_spooled_is_asked_for_again(rig: Rig) -> None:
    rig.log.down = True
    rig.scorer.answer(BODY)
    with pytest.raises(NotRecorded):
        rig.scorer.feedback(label(True))
    rig.log.down = False
    with pytest.raises(NotRecorded):
        rig.scorer.feedback(label(True))
    rig.drain()
    assert rig.scorer.feedback(label(True))[0].label == label(True)


def test_a_label_that_the_profiles_did_not_take_comes_by_the_outbox(rig: Rig) -> None:
    rig.scorer.answer(BODY)
    rig.store.down = True
    rig.scorer.feedback(label(True))
    rig.store.down = False
    assert frauds(rig) == 0
    assert rig.drain() == (1, 0, 0)
    assert frauds(rig) == 1


def test_a_fraud_rate_is_read_from_labels_after_the_delay(tmp_path: Path, trained: Trained) -> None:
    day = profiles.DAY_MS
    now = [1_770_000_000_000]
    rig = Rig(tmp_path, source_of(trained), clock=lambda: now[0])
    for i in range(4):
        rig.scorer.answer({**BODY, "transaction_id": f"t{i}"})
    rig.scorer.feedback(Label("t1", True, "chargeback", now[0], now[0] + day))
    now[0] += 9 * day
    rig.scorer.answer({**BODY, "transaction_id": "later"})
    document = json.loads(rig.records()[-1].document)
    assert "counterparty_fraud_rate_7d" in NAMES
    assert document["features"]["counterparty_fraud_rate_7d"] == 0.25
    rig.close()


# --- test inputs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", ["approve", "review", "decline"])
@pytest.mark.parametrize("with_bundle", [True, False])
def test_a_test_input_gets_the_outcome_that_its_id_says_and_leaves_no_trace(
    tmp_path: Path, trained: Trained, outcome: str, with_bundle: bool
) -> None:
    rig = Rig(tmp_path, source_of(trained) if with_bundle else source_without_bundle(tmp_path))
    decision = rig.scorer.answer({**BODY, "transaction_id": f"test-{outcome}-7"}).decision
    assert (decision.outcome, decision.test, decision.decided_by) == (outcome, True, "rule")
    assert decision.rules[0] == f"test:{outcome}"
    assert decision.explanation.endswith(": a test input whose id says so.")
    assert (decision.fraud_probability is None) == (not with_bundle)
    [record] = rig.records()
    assert record.test
    assert rig.version("C1") == rig.version("M1") == 0
    rig.close()


def test_a_degraded_test_input_is_judged_as_if_nothing_were_at_hand(rig: Rig) -> None:
    decision = rig.scorer.answer({**BODY, "transaction_id": "test-degraded"}).decision
    assert decision.test
    assert decision.degraded == ("model", "feature_store")
    assert decision.model_version is decision.fraud_probability is None


@pytest.mark.parametrize("name", ["test-approved", "test-approv", "Test-approve", "x-test-approve", "test-approve_1"])
def test_other_ids_are_no_test_inputs(rig: Rig, name: str) -> None:
    assert not rig.scorer.answer({**BODY, "transaction_id": name}).decision.test


# --- pseudonyms ------------------------------------------------------------------------------------------------------


def test_with_a_pseudonym_key_no_store_holds_an_id_and_lists_still_find_their_parties(
    tmp_path: Path, trained: Trained
) -> None:
    pseudonyms = Pseudonyms("a key of at least thirty-two characters")
    (tmp_path / "rules.yaml").write_text(
        '{"rules": [], "lists": {"deny": [{"entity": "customer", "id": "Canary-customer"}]}}'
    )
    from fraud_api_lambda.bundle import parse_public_keys
    from fraud_api_lambda.reload import ModelSource

    public = (trained.root / "keys" / "development.pub").read_text()
    source = ModelSource(
        f"file://{trained.root}/models/current",
        lambda: parse_public_keys(public),
        rules_url=f"file://{tmp_path}/rules.yaml",
        pseudonym=pseudonyms,
    )
    source.refresh()
    rig = Rig(tmp_path / "data", source, pseudonyms=pseudonyms)
    body = {"transaction_id": "t", "amount": 5, "customer_id": "Canary-customer", "merchant_id": "Canary-merchant"}
    decision = rig.scorer.answer(body).decision
    assert (decision.decided_by, decision.outcome) == ("list", "decline")
    assert rig.version(pseudonyms("Canary-customer")) == 1
    assert pseudonyms.of(pseudonyms("Canary-customer")) == pseudonyms("Canary-customer")
    rig.log.down = True
    rig.scorer.answer({**body, "transaction_id": "spooled"})
    rig.close()
    held = b"".join(path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file())
    assert held
    assert b"Canary" not in held


def each_switch(rig: Rig) -> list[Callable[[bool], None]]:
    return [lambda down, one=one: setattr(one, "down", down) for one in (rig.store, rig.log, rig.outbox)]  # type: ignore[misc]


def test_whatever_fails_nothing_is_lost_or_counted_twice(rig: Rig) -> None:
    """Forty requests while stores go and come, all copies of twenty: one record and one update each, in the end."""
    import random

    chance = random.Random(11)
    switches = each_switch(rig)[:2]  # the outbox stands, or it would be policy
    for i in range(40):
        for switch in switches:
            switch(chance.random() < 0.4)
        rig.scorer.answer({**BODY, "transaction_id": f"t{i // 2}"})
        if chance.random() < 0.3:
            rig.drain()
    for switch in switches:
        switch(False)
    for _ in range(3):
        rig.drain()
    for i in range(20):
        rig.scorer.answer({**BODY, "transaction_id": f"t{i}"})
    assert sorted(record.transaction_id for record in rig.records()) == sorted(f"t{i}" for i in range(20))
    assert [rig.version(party) for party in ("C1", "M1", "D1")] == [20, 20, 20]


def test_the_decision_log_protocol_is_met_by_the_one_that_keeps_nothing() -> None:
    log: DecisionLog = open_decision_log("none://")
    outbox: Outbox | None = None
    assert FraudScorer(source_without_bundle(Path("/nonexistent")), decisions=log, outbox=outbox).inline
