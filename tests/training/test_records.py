"""What the records are good for: decisions made again to the bit, profiles rebuilt to the byte, rows to learn from."""

import json
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from fraud_api_lambda import profiles
from fraud_api_lambda.decision_log import DecisionLog, Label, Record, open_decision_log, pack_record
from fraud_api_lambda.errors import BundleMissing, RetryLater, RulesError, StoreUnavailable
from fraud_api_lambda.feature_store import Change, FeatureStore, open_feature_store
from fraud_api_lambda.outbox import Outbox, open_outbox
from fraud_api_lambda.reload import ModelSource
from fraud_api_lambda.rules import load_rules
from fraud_api_lambda.schemas import Pseudonyms, RateTable, pack_event, parse_transaction, rfc3339, to_event
from fraud_api_lambda.scoring import FraudScorer
from tests.conftest import Trained
from tests.fraud_api_lambda.asgi import source_of, source_without_bundle
from tests.fraud_api_lambda.payloads import ALL
from training import dataset, records, replay
from training.__main__ import app
from training.rebuild import rebuild
from training.reproduce import bundle_of, reproduce, rules_of

AMPLE_MS = 20_000
DAY_MS = 86_400_000
#: Stores let profiles go by the machine's clock, 400 days after their last arrival.
NOW_MS = time.time_ns() // 1_000_000
START_MS = NOW_MS - 200 * DAY_MS
SECRET = "s" * 40

RULES = b"""
version: of-the-test
rules:
  - {id: much, expression: "amount > 500 && count_24h >= 1", outcome: review, reason: Much.}
  - {id: broken, expression: "1 / (transaction_type == 'DEBIT' ? 0 : 1) > 5", outcome: decline, reason: Broken.}
lists:
  deny: [{entity: counterparty, id: M3, reason: Known.}]
  allow: [{entity: customer, id: C2}]
"""


class Rig:
    """A service on real stores in ``folder``, and a clock that goes as it is told."""

    def __init__(self, folder: Path, source: ModelSource, **how: Any):
        self.folder = folder
        self.log: DecisionLog = open_decision_log(self.log_url, budget_ms=AMPLE_MS)
        self.store: FeatureStore = open_feature_store(f"sqlite:///{folder}/profiles.db", budget_ms=AMPLE_MS)
        self.outbox: Outbox = open_outbox(f"file://{folder}/outbox")
        self.now_ms = START_MS
        self.scorer = FraudScorer(
            source, self.store, self.log, self.outbox, budget_ms=AMPLE_MS, clock=lambda: self.now_ms, **how
        )

    @property
    def log_url(self) -> str:
        return f"sqlite:///{self.folder}/decisions.db"

    def label(self, transaction_id: str, is_fraud: bool, source: Any = "analyst") -> None:
        self.scorer.feedback(Label(transaction_id, is_fraud, source, self.now_ms, self.now_ms))

    def record(self, transaction_id: str) -> Record:
        return self.log.find([transaction_id])[transaction_id].record

    def records(self) -> list[Record]:
        return [stored.record for stored in records.records(self.log, None, None)]

    def close(self) -> None:
        for each in (self.log, self.store, self.outbox):
            each.close()


@pytest.fixture
def source(trained: Trained) -> ModelSource:
    made = source_of(trained)
    assert made.served is not None
    ruled = load_rules(RULES, made.served.model.features.columns)
    made.served = replace(made.served, rules=ruled)
    return made


@pytest.fixture
def rig(tmp_path: Path, source: ModelSource) -> Iterator[Rig]:
    made = Rig(tmp_path / "service", source)
    yield made
    made.close()


@pytest.fixture
def rules_file(tmp_path: Path) -> Path:
    path = tmp_path / "rules.yaml"
    path.write_bytes(RULES)
    return path


def live(rig: Rig, seed: int, steps: int = 120) -> None:
    """Transactions alone and in batches, and people's words on them, all as they come."""
    chance = random.Random(seed)
    number = 0

    def body() -> dict[str, Any]:
        nonlocal number
        number += 1
        sent: dict[str, Any] = {
            "transaction_id": f"t{number}",
            "amount": chance.choice([0, 5, 40.25, 700, 1e6 / 7]),
            "type": chance.choice(["PAYMENT", "TRANSFER", "DEBIT"]),
            "customer_id": f"C{chance.randrange(4)}",
            "merchant_id": chance.choice(["M1", "M2", "M3", "C1"]),
            "timestamp": rfc3339(rig.now_ms - chance.choice([0, 0, 3_000, 5 * DAY_MS])),
            "attributes": chance.choice([{}, {"channel": "web"}, {"n": 0.1}]),
        }
        if chance.random() < 0.5:
            sent |= {"device_id": "D1", "lat": 10.5, "long": chance.uniform(-9, 9), "oldbalanceOrg": sent["amount"]}
        return sent

    for _ in range(steps):
        rig.now_ms += chance.choice([1, 900, 3_600_000, DAY_MS // 2])
        kind = chance.random()
        if kind < 0.6:
            rig.scorer.answer(body(), explain=chance.choice([None, True, False]))
        elif kind < 0.75:
            rig.scorer.answer_many([body() for _ in range(chance.randrange(2, 20))])
        elif number:
            rig.label(
                f"t{chance.randrange(1, number + 1)}",
                chance.random() < 0.7,
                chance.choice(["customer", "analyst", "chargeback"]),
            )


# --- reproduce -------------------------------------------------------------------------------------------------------


def again(record: Record, trained: Trained, rules: Path | None, pseudonyms: Pseudonyms | None = None) -> list[Any]:
    served = bundle_of(record, f"file://{trained.root}/models/current", trained.root / "keys")
    return reproduce(record, served, rules_of(record, served, rules, pseudonyms))


def test_every_kind_of_decision_is_reproduced_to_the_bit(rig: Rig, trained: Trained, rules_file: Path) -> None:
    live(rig, 1)
    rig.now_ms += 1
    rig.scorer.answer_many([{**body, "transaction_id": f"p{i}"} for i, body in enumerate(ALL)], explain=True)
    rig.scorer.answer_many(
        [{"amount": 9, "customer_id": "C1", "transaction_id": f"test-{o}"} for o in ("approve", "decline", "degraded")]
    )
    found = rig.records()
    assert len(found) > 150
    assert {record.decided_by for record in found} == {"list", "rule", "model", "fallback"}
    assert {word for record in found for word in record.degraded} >= {"rules", "feature_store", "model"}
    for record in found:
        assert again(record, trained, rules_file) == [], record.transaction_id


def test_a_decision_without_a_model_or_a_past_is_reproduced(
    tmp_path: Path, trained: Trained, source: ModelSource, rules_file: Path
) -> None:
    bare = Rig(tmp_path / "bare", source_without_bundle(tmp_path), without_model="decline")
    bare.scorer.answer({"transaction_id": "a", "amount": 12, "customer_id": "C1"})
    assert again(bare.record("a"), trained, None) == []
    bare.close()
    blind = Rig(tmp_path / "blind", source)
    blind.store.close()  # from now on it answers nothing
    blind.scorer.answer({"transaction_id": "b", "amount": 12, "customer_id": "C1"}, explain=True)
    record = blind.record("b")
    assert record.degraded == ("feature_store",)
    assert again(record, trained, rules_file) == []
    blind.close()


def test_a_decision_of_the_images_own_bundle_is_reproduced(
    tmp_path: Path, trained: Trained, source: ModelSource, rules_file: Path
) -> None:
    assert source.served is not None
    source.served = replace(source.served, baked=True)
    rig = Rig(tmp_path / "service", source)
    rig.scorer.answer({"transaction_id": "a", "amount": 12, "customer_id": "C1"}, explain=True)
    rig.scorer.answer({"transaction_id": "test-degraded", "amount": 12, "customer_id": "C1"})
    rig.store.close()
    rig.scorer.answer({"transaction_id": "b", "amount": 12, "customer_id": "C1"})
    assert rig.record("a").degraded == ("model",)
    assert rig.record("b").degraded == ("model", "feature_store")
    for record in rig.records():
        assert again(record, trained, rules_file) == [], record.transaction_id
    rig.close()


def test_pseudonyms_are_on_the_lists_that_judge_again(
    tmp_path: Path, trained: Trained, source: ModelSource, rules_file: Path
) -> None:
    pseudonyms = Pseudonyms(SECRET)
    served = source.served
    assert served is not None
    source.served = replace(served, rules=served.rules.under(pseudonyms))
    rig = Rig(tmp_path / "service", source, pseudonyms=pseudonyms)
    rig.scorer.answer({"transaction_id": "a", "amount": 12, "customer_id": "C1", "merchant_id": "M3"})
    record = rig.record("a")
    assert (record.decided_by, record.customer_id) == ("list", pseudonyms("C1"))
    assert again(record, trained, rules_file, pseudonyms) == []
    assert "decided_by" in {one.field for one in again(record, trained, rules_file)}
    rig.close()


def test_whatever_is_changed_in_a_record_is_found(rig: Rig, trained: Trained, rules_file: Path) -> None:
    rig.scorer.answer({"transaction_id": "a", "amount": 600, "customer_id": "C1", "merchant_id": "M1"}, explain=True)
    record = rig.record("a")
    document = json.loads(record.document)

    def fields(changed: Record) -> set[str]:
        return {one.field for one in again(changed, trained, rules_file)}

    assert fields(record) == set()
    members = document["members"]
    name = next(iter(members))
    off = float(np.nextafter(members[name], 9e9))
    assert fields(replace(record, document=json.dumps({**document, "members": {name: off}}))) == {f"members.{name}"}
    features = {**document["features"], "amount": 601.0}
    assert "features.amount" in fields(replace(record, document=json.dumps({**document, "features": features})))
    features = {**document["features"], "count_24h": 50.0}
    assert "fraud_probability" in fields(replace(record, document=json.dumps({**document, "features": features})))
    answer = json.loads(record.answer)
    answer["fraud_probability"] = float(np.nextafter(answer["fraud_probability"], 1))
    changed = fields(replace(record, answer=json.dumps(answer, separators=(",", ":")).encode()))
    assert changed == {"fraud_probability", "record.probability"}
    assert fields(replace(record, outcome="approve" if record.outcome != "approve" else "decline")) == {
        "record.outcome"
    }
    assert fields(replace(record, answer=record.answer + b" ")) == {"answer"}


def test_what_judged_and_is_not_there_is_named(rig: Rig, trained: Trained) -> None:
    rig.scorer.answer({"transaction_id": "a", "amount": 6})
    record = rig.record("a")
    with pytest.raises(RulesError, match="--rules"):
        again(record, trained, None)
    with pytest.raises(BundleMissing):
        again(replace(record, model_version="20200101T000000Z-00000000"), trained, None)


def run(*words: str, **env: str) -> Result:
    return CliRunner().invoke(app, [*words], env=env)


def test_the_command_says_whether_and_where_it_differs(rig: Rig, trained: Trained, rules_file: Path) -> None:
    rig.scorer.answer({"transaction_id": "order 1", "amount": 600, "customer_id": "C1"})
    words = [*("reproduce", "order 1", "--log", rig.log_url, "--keys", str(trained.root / "keys"))]
    words += ["--rules", str(rules_file), "--json"]
    for where in (("--bundle", str(trained.root / "models")), ("--bundle", str(trained.folder))):
        result = run(*words, *where)
        assert (result.exit_code, json.loads(result.stdout)["equal"]) == (0, True)
    url = f"file://{trained.root}/models/current"
    assert run(*words, "--model-url", url).exit_code == 0
    assert run(*words, FRAUD_MODEL_URL=url).exit_code == 0
    record = rig.record("order 1")
    other = open_decision_log(f"sqlite:///{rig.folder}/other.db", budget_ms=AMPLE_MS)
    document = json.loads(record.document)
    document["features"]["amount"] = 601.0
    other.append([replace(record, document=json.dumps(document))])
    other.close()
    words[3] = f"sqlite:///{rig.folder}/other.db"
    result = run(*words, "--model-url", url)
    assert result.exit_code == 1
    assert {"field": "features.amount", "recorded": 601.0, "again": 600.0} in json.loads(result.stdout)["differences"]
    missing = run("reproduce", "nobody", "--log", rig.log_url)
    assert (missing.exit_code, missing.stdout) == (1, "")
    assert "no record" in missing.stderr


# --- rebuild-profiles ------------------------------------------------------------------------------------------------

PARTIES = (*(f"C{i}" for i in range(4)), "M1", "M2", "M3", "D1")


def stored(store: FeatureStore) -> dict[str, bytes]:
    return {party: data for party, (_, data) in store.read(PARTIES).items()}


@pytest.mark.parametrize("seed", [2, 3, 4, 5])
def test_rebuilt_profiles_equal_the_lived_ones_to_the_byte(rig: Rig, tmp_path: Path, seed: int) -> None:
    live(rig, seed, steps=250)
    fresh = open_feature_store(f"sqlite:///{tmp_path}/fresh.db", budget_ms=AMPLE_MS)
    done = rebuild(rig.log, fresh, tmp_path / "work")
    lived = stored(rig.store)
    assert lived.keys() == set(PARTIES)
    assert any(profiles.decode(data)[profiles.FRAUD_COUNT] for data in lived.values())
    assert any(profiles.decode(data)[profiles.RECEIVED + profiles.FOLDED] for data in lived.values())
    assert stored(fresh) == lived
    assert (done.records, done.parties) == (len(rig.records()), len(PARTIES))
    assert not list(tmp_path.glob("work*"))
    fresh.close()


def test_a_rebuild_puts_right_a_store_that_says_otherwise(rig: Rig, tmp_path: Path) -> None:
    live(rig, 6)
    before = stored(rig.store)
    rig.store.erase("C1")
    found = rig.store.read(["M1"])
    rig.store.swap([Change("M1", found["M1"][0], profiles.encode(profiles.blank()), 2**60)])
    assert stored(rig.store) != before
    result = run(
        "rebuild-profiles", "--log", rig.log_url, "--store", f"sqlite:///{rig.folder}/profiles.db",
        "--work", str(tmp_path / "work"), "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["records"] == len(rig.records())
    assert stored(rig.store) == before


class Stopping:
    """The log, until it has been asked so often."""

    def __init__(self, log: DecisionLog, times: int):
        self.log, self.left = log, times

    def __getattr__(self, name: str) -> Any:
        self.left -= 1
        if self.left < 0:
            raise StoreUnavailable("stopped")
        return getattr(self.log, name)


def test_a_rebuild_that_was_stopped_goes_on(rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.rebuild.PAGE", 7)
    live(rig, 7)
    fresh = open_feature_store(f"sqlite:///{tmp_path}/fresh.db", budget_ms=AMPLE_MS)
    stops = 0
    for calls in range(9, 1_000, 2):
        try:
            rebuild(Stopping(rig.log, calls), fresh, tmp_path / "work")  # type: ignore[arg-type]
            break
        except StoreUnavailable:
            stops += 1
    assert stops > 3
    assert stored(fresh) == stored(rig.store)
    fresh.close()


def recorded(transaction_id: str, received_ms: int, model: Record) -> Record:
    body = {"transaction_id": transaction_id, "amount": 5, "customer_id": "C1", "timestamp": rfc3339(received_ms)}
    body |= {"merchant_id": model.counterparty_id} if model.counterparty_id else {}
    event = to_event(parse_transaction(body), RateTable("USD", 2), received_ms)
    document = json.dumps({**json.loads(model.document), "event": pack_event(event)})
    return replace(
        model, transaction_id=transaction_id, received_ms=received_ms, time_ms=received_ms, document=document
    )


@pytest.mark.parametrize(("days_ago", "kept"), [((600, 250, 1), 3), ((900, 250, 1), 2), ((900, 450), 0)])
def test_a_profile_expires_by_the_time_of_its_arrivals_not_by_todays(
    rig: Rig, tmp_path: Path, days_ago: tuple[int, ...], kept: int
) -> None:
    rig.scorer.answer({"transaction_id": "model", "amount": 5, "customer_id": "C9"})
    now = NOW_MS
    log = open_decision_log(f"sqlite:///{tmp_path}/old.db", budget_ms=AMPLE_MS)
    model = replace(rig.record("model"), customer_id="C1")
    log.append([recorded(f"t{days}", now - days * DAY_MS, model) for days in days_ago])
    store = open_feature_store(f"sqlite:///{tmp_path}/fresh.db", budget_ms=AMPLE_MS)
    rebuild(log, store, tmp_path / "work", clock=lambda: now)
    found = store.read(["C1"])
    assert (profiles.decode(found["C1"][1])[profiles.VERSION] if found else 0) == kept
    for each in (log, store):
        each.close()


@pytest.mark.parametrize(("labelled", "frauds", "version"), [(880, 0, 1), (450, 1, 2), (100, 1, 2)])
def test_a_label_meets_the_profile_as_it_was_when_the_label_came(
    rig: Rig, tmp_path: Path, labelled: int, frauds: int, version: int
) -> None:
    """Before the profile expired: gone with it. After: the beginning of a new one, or a part of it."""
    rig.scorer.answer({"transaction_id": "model", "amount": 5, "customer_id": "C9"})
    model = replace(rig.record("model"), customer_id="C1", counterparty_id="M1")
    log = open_decision_log(f"sqlite:///{tmp_path}/old.db", budget_ms=AMPLE_MS)
    log.append([recorded(f"t{days}", NOW_MS - days * DAY_MS, model) for days in (900, 250)])
    said = NOW_MS - labelled * DAY_MS
    log.label(Label("t900", True, "analyst", said, said))
    store = open_feature_store(f"sqlite:///{tmp_path}/fresh.db", budget_ms=AMPLE_MS)
    rebuild(log, store, tmp_path / "work", clock=lambda: NOW_MS)
    found = profiles.decode(store.read(["M1"])["M1"][1])
    assert (found[profiles.FRAUD_COUNT], found[profiles.VERSION]) == (frauds, version)
    for each in (log, store):
        each.close()


# --- export ----------------------------------------------------------------------------------------------------------


def test_the_frame_of_the_log_is_what_an_export_would_give_in_the_order_of_arrival(rig: Rig, tmp_path: Path) -> None:
    live(rig, 8)
    rig.scorer.answer({"transaction_id": "test-decline", "amount": 5, "customer_id": "C1"})
    frame = records.frame(rig.log, rig.now_ms + 1)
    assert (np.diff(frame["received_ms"]) >= 0).all()
    assert (np.diff(frame["time_ms"]) < 0).any()
    stored = {each.record.transaction_id: each for each in records.records(rig.log, None, None, test=False)}
    assert set(frame["transaction_id"]) == set(stored)
    for row in frame.to_dict("records"):
        record, label = stored[row["transaction_id"]]
        assert row["received_ms"] == record.received_ms
        assert (row["labelled"], row["flagged"]) == (label is not None, record.outcome != "approve")
    records.export(rig.log, tmp_path / "out.parquet")
    exported = dataset.load(str(tmp_path / "out.parquet"), "synthetic").set_index("transaction_id")
    same = frame.set_index("transaction_id").drop(columns=["received_ms", "labelled", "flagged"])
    pd.testing.assert_frame_equal(same.loc[exported.index, exported.columns], exported)


def test_the_frame_of_the_log_knows_no_label_that_came_later(rig: Rig) -> None:
    rig.scorer.answer({"transaction_id": "t", "amount": 5})
    arrived = rig.now_ms
    rig.now_ms += DAY_MS
    rig.label("t", True)
    before, after = records.frame(rig.log, rig.now_ms), records.frame(rig.log, rig.now_ms + 1)
    assert before[["is_fraud", "labelled", "label_ms"]].to_numpy().tolist() == [[0, False, arrived]]
    assert after[["is_fraud", "labelled", "label_ms"]].to_numpy().tolist() == [[1, True, rig.now_ms]]


def test_exported_transactions_teach_what_was_judged(rig: Rig, tmp_path: Path) -> None:
    live(rig, 8)
    rig.scorer.answer({"transaction_id": "test-decline", "amount": 5, "customer_id": "C1"})
    count = records.export(rig.log, tmp_path / "out.parquet")
    frame = dataset.load(str(tmp_path / "out.parquet"), "synthetic")
    kept = {record.transaction_id: record for record in rig.records() if not record.test}
    assert (count, set(frame["transaction_id"])) == (len(kept), set(kept))
    served = rig.scorer.source.served
    assert served is not None
    features = served.model.features
    columns = replay.columns(frame, features, served.model.rates, history=False)
    own = [
        i
        for i, name in enumerate(features.columns)
        if name in {"amount", "drains_account", "hour_of_day", "oldbalance_orig"}
    ]
    for transaction_id, row in zip(frame["transaction_id"], columns, strict=True):
        told = json.loads(kept[transaction_id].document)["features"]
        assert {features.columns[i]: row[i] for i in own if not np.isnan(row[i])} == {
            features.columns[i]: told[features.columns[i]] for i in own if features.columns[i] in told
        }
    labels = {stored.record.transaction_id: stored.label for stored in records.records(rig.log, None, None)}
    for row in frame.to_dict("records"):
        label = labels[row["transaction_id"]]
        assert row["is_fraud"] == int(label is not None and label.is_fraud)
        if label is not None:
            assert row["label_ms"] == max(label.received_ms, row["time_ms"])
    assert set(frame["attributes.channel"].dropna()) == {"web"}
    assert set(frame["attributes.n"].dropna()) == {0.1}


def test_a_time_and_labelled_records_only(rig: Rig, tmp_path: Path) -> None:
    for number in range(6):
        rig.now_ms = START_MS + number * DAY_MS
        rig.scorer.answer({"transaction_id": f"t{number}", "amount": 5})
    rig.label("t2", True)
    rig.label("t3", False)
    rig.label("t5", True)
    first, last = rfc3339(START_MS + DAY_MS), rfc3339(START_MS + 5 * DAY_MS)
    words = ["export", "--log", rig.log_url, "--since", first, "--until", last, "--json"]
    for more, expected in (((), ["t1", "t2", "t3", "t4"]), (("--labelled-only",), ["t2", "t3"])):
        out = tmp_path / f"out{len(more)}.parquet"
        result = run(*words, *more, "--out", str(out))
        assert json.loads(result.stdout)["records"] == len(expected), result.output
        table = pd.read_parquet(out)
        assert table["transaction_id"].tolist() == expected
    assert table["label"].tolist() == ["fraud", "legitimate"]
    assert run(*words, "--out", str(out)).exit_code == 1  # it is there
    assert run(*words, "--since", "soon", "--out", str(tmp_path / "x.parquet")).exit_code == 2
    assert (
        run("export", "--log", rig.log_url, "--since", "2100-01-01", "--out", str(tmp_path / "y.jsonl")).exit_code == 1
    )
    assert not (tmp_path / "y.jsonl").exists()


def test_lines_hold_the_whole_records_and_all_their_labels(rig: Rig, tmp_path: Path) -> None:
    live(rig, 9)
    rig.scorer.answer({"transaction_id": "test-decline", "amount": 5, "customer_id": "C1"})
    records.export(rig.log, tmp_path / "out.jsonl")
    found = list(records.read_lines(tmp_path / "out.jsonl"))
    assert [record for record, _ in found] == rig.records()
    assert sum(len(labels) for _, labels in found) > 5
    for record, labels in found:
        assert labels == rig.log.labels(record.transaction_id)


# --- erase and forget ------------------------------------------------------------------------------------------------


def test_an_erased_party_is_nowhere_and_the_others_are_everywhere(rig: Rig) -> None:
    for number, (who, whom) in enumerate([("C1", "M1"), ("C2", "M1"), ("C2", "C1"), ("C2", "M2")]):
        rig.now_ms += 1
        rig.scorer.answer({"transaction_id": f"t{number}", "amount": 5, "customer_id": who, "merchant_id": whom})
    rig.label("t0", True)
    mine, other = rig.record("t0"), rig.record("t3")
    update = {"event": mine.event, "received_ms": mine.received_ms, "parties": ["C1"]}
    rig.outbox.put("decision", "mine", pack_record(mine))
    rig.outbox.put("decision", "dead", pack_record(replace(mine, transaction_id="dead")))
    rig.outbox.put("decision", "other", pack_record(other))
    rig.outbox.put("profile", "mine", json.dumps(update).encode())
    rig.outbox.put("profile", "later", json.dumps(update).encode())

    def sink(data: bytes) -> None:
        if b'"dead"' in data:
            raise ValueError("never")
        raise RetryLater("later", 3_600)

    rig.outbox.drain({"decision": sink, "profile": sink})
    assert rig.outbox.waiting() == {"decision": 2, "profile": 2, "label": 0, "webhook": 0, "stream": 0}
    result = run(
        "erase", "--party", "C1", "--log", rig.log_url, "--store", f"sqlite:///{rig.folder}/profiles.db",
        "--outbox", f"file://{rig.folder}/outbox", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {"records": 2, "profile": True, "waiting": 4}
    assert [record.transaction_id for record in rig.records()] == ["t1", "t3"]
    assert set(rig.store.read(["C1", "C2", "M1", "M2"])) == {"C2", "M1", "M2"}
    assert rig.outbox.waiting() == {"decision": 1, "profile": 0, "label": 0, "webhook": 0, "stream": 0}
    assert not any(b'"C1"' in path.read_bytes() for path in (rig.folder / "outbox").rglob("*") if path.is_file())


def test_a_party_is_erased_by_the_pseudonym_of_its_id(tmp_path: Path, source: ModelSource) -> None:
    pseudonyms = Pseudonyms(SECRET)
    rig = Rig(tmp_path / "service", source, pseudonyms=pseudonyms)
    for number, who in enumerate(["C1", "C2", "C3"]):
        rig.scorer.answer({"transaction_id": f"t{number}", "amount": 5, "customer_id": who})
    settings = {
        "FRAUD_DECISION_LOG_URL": rig.log_url,
        "FRAUD_FEATURE_STORE_URL": f"sqlite:///{rig.folder}/profiles.db",
        "FRAUD_OUTBOX_URL": f"file://{rig.folder}/outbox",
        "FRAUD_PSEUDONYM_KEY": SECRET,
    }
    assert run("erase", "--party", "C1", **settings).exit_code == 0
    assert run("erase", "--party", pseudonyms("C2"), **settings).exit_code == 0
    assert [record.transaction_id for record in rig.records()] == ["t2"]
    assert set(rig.store.read([pseudonyms(f"C{i}") for i in (1, 2, 3)])) == {pseudonyms("C3")}
    rig.close()


def test_erasing_whom_nobody_knows_says_so_and_does_not_pass_for_an_erasure(
    tmp_path: Path, source: ModelSource
) -> None:
    rig = Rig(tmp_path / "service", source, pseudonyms=Pseudonyms(SECRET))
    rig.scorer.answer({"transaction_id": "t", "amount": 5, "customer_id": "C1"})
    settings = {
        "FRAUD_DECISION_LOG_URL": rig.log_url,
        "FRAUD_FEATURE_STORE_URL": f"sqlite:///{rig.folder}/profiles.db",
        "FRAUD_OUTBOX_URL": f"file://{rig.folder}/outbox",
    }
    without_the_key = run("erase", "--party", "C1", **settings)
    assert without_the_key.exit_code == 1
    assert "nothing is known" in without_the_key.output
    assert "FRAUD_PSEUDONYM_KEY" in without_the_key.output
    assert "C1" not in without_the_key.output
    assert [record.transaction_id for record in rig.records()] == ["t"]
    settings["FRAUD_PSEUDONYM_KEY"] = SECRET
    erased = run("erase", "--party", "C1", **settings)
    assert erased.exit_code == 0
    assert "1 records, the profile, 0 waiting items" in erased.output
    again = run("erase", "--party", "C1", "--json", **settings)
    assert (again.exit_code, json.loads(again.stdout)) == (1, {"records": 0, "profile": False, "waiting": 0})
    rig.close()


def test_records_past_their_days_are_forgotten(rig: Rig) -> None:
    for days in (40, 31, 29, 0):
        rig.now_ms = NOW_MS - days * DAY_MS
        rig.scorer.answer({"transaction_id": f"t{days}", "amount": 5})
    rig.label("t40", True)
    nothing = run("forget", "--log", rig.log_url)
    assert (nothing.exit_code, "--older-than" in nothing.stderr) == (1, True)
    result = run("forget", "--log", rig.log_url, "--json", FRAUD_RETENTION_DAYS="30")
    assert json.loads(result.stdout) == {"records": 2, "days": 30}
    assert [record.transaction_id for record in rig.records()] == ["t29", "t0"]
    assert run("forget", "--log", rig.log_url, "--older-than", "10").exit_code == 0
    assert [record.transaction_id for record in rig.records()] == ["t0"]
    assert rig.log.labels("t40") == []
