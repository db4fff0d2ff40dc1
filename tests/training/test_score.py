"""A file through a bundle says what the batch route says, to the bit; killed at any moment, it goes on to the same."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from fraud_api_lambda.app import create_app
from fraud_api_lambda.reload import ModelSource, Served
from fraud_api_lambda.rules import load_rules
from fraud_api_lambda.schemas import Pseudonyms, rfc3339
from fraud_api_lambda.scoring import FraudScorer
from tests.conftest import Trained
from tests.fraud_api_lambda.asgi import Client, source_of
from training import score as scoring
from training import spill, synthetic
from training.dataset import DataError
from training.score import Options, open_served, score

ROOT = Path(__file__).resolve().parents[2]
SENT = (
    "transaction_id", "type", "customer_id", "counterparty_id", "device_id", "amount", "currency", "oldbalanceOrg",
    "newbalanceOrig", "oldbalanceDest", "newbalanceDest", "lat", "long",
)  # fmt: skip

RULES = """
version: of-the-test
rules:
  - {id: much, expression: "amount > 500 && count_24h >= 1", outcome: review, reason: Much.}
  - {id: harmless, expression: "amount < 60 && customer_id.endsWith('1')", outcome: approve, reason: Little.}
  - {id: broken, expression: "1 / (transaction_type == 'DEBIT' ? 0 : 1) > 5", outcome: decline, reason: Broken.}
lists:
  deny:
    - {entity: counterparty, ids: [M10009, M10019], reason: Known.}
  allow:
    - {entity: customer, id: C100054}
"""


@pytest.fixture(scope="module")
def served(trained: Trained) -> Served:
    return open_served(str(trained.root / "models"), trained.root / "keys")


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    """Rows out of their order in time, integrators' test inputs among them."""
    made = synthetic.generate(2_500, 3).drop(columns=["is_fraud", "fraud_scenario", "label_ms", "weight"])
    rng = np.random.default_rng(1)
    made = made.iloc[np.argsort(np.arange(len(made)) + rng.integers(0, 40, len(made)), kind="stable")]
    made = made.reset_index(drop=True)
    ids = made["transaction_id"].to_numpy(object)
    ids[[10, 300, 301, 900, 1_700]] = [
        "test-approve", "test-decline-2", "test-review", "test-degraded-x", "test-else"
    ]  # fmt: skip
    # Everybody's shop, far past what a profile remembers one by one.
    made.loc[made.index % 3 == 0, "counterparty_id"] = "SHOP"
    made.loc[made.index % 50 == 7, "counterparty_id"] = made["customer_id"]
    return made.assign(transaction_id=ids)


def asked(source: ModelSource, frame: pd.DataFrame, **how: Any) -> list[dict[str, Any]]:
    """The decisions of the batch route, a thousand rows a request."""
    client = Client(create_app(FraudScorer(source, **how)))
    answers: list[dict[str, Any]] = []
    for start in range(0, len(frame), 1_000):
        bodies = []
        for row in frame.iloc[start : start + 1_000].astype(object).to_dict("records"):
            sent = {name: row[name] for name in SENT if name in row and not pd.isna(row[name])}
            own = {name[11:]: row[name] for name in row if name.startswith("attributes.") and not pd.isna(row[name])}
            bodies.append({**sent, "timestamp": rfc3339(int(row["time_ms"])), **({"attributes": own} if own else {})})
        answer = client.post("/predict/batch", json={"transactions": bodies})
        assert answer.status_code == 200
        answers += [item["decision"] for item in answer.json()["results"]]
    return answers


def told(decision: dict[str, Any]) -> tuple[Any, ...]:
    return (
        decision["transaction_id"], decision["fraud_probability"], decision["outcome"], decision["decided_by"],
        decision["rules"], decision["degraded"], decision["reasons"],
    )  # fmt: skip


def written(path: Path) -> list[tuple[Any, ...]]:
    rows = pq.read_table(path).to_pylist()
    assert [row["row"] for row in rows] == list(range(1, len(rows) + 1))
    return [
        (*(row[name] for name in ("transaction_id", "fraud_probability", "outcome", "decided_by", "rules", "degraded")),
         json.loads(row["reasons"] or "[]"))
        for row in rows
    ]  # fmt: skip


def save(frame: pd.DataFrame, path: Path) -> str:
    """As a file of format synthetic, in the frame's own order and without labels."""
    stamps = pd.to_datetime(frame["time_ms"], unit="ms", utc=True)
    out = frame.drop(columns=["time_ms"]).assign(timestamp=stamps)
    if path.suffix == ".csv":
        out.assign(timestamp=[rfc3339(int(t)) for t in frame["time_ms"]]).to_csv(path, index=False)
    else:
        out.to_parquet(path)
    return str(path)


def with_rules(source: ModelSource, served: Served) -> Served:
    ruled = replace(served, rules=load_rules(RULES.encode(), served.model.features.columns))
    source.served = replace(source.served, rules=ruled.rules)  # type: ignore[type-var]
    return ruled


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_every_row_is_decided_as_the_batch_route_decides_it(
    trained: Trained, served: Served, frame: pd.DataFrame, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "PIECE", 700)
    monkeypatch.setattr(spill, "TARGET", 300)  # several files, and a shop that fills more than one
    source = source_of(trained)
    ruled = with_rules(source, served)
    data = save(frame, tmp_path / f"rows{suffix}")
    result = score(ruled, Options(data, "synthetic", tmp_path / "out.parquet", explain=True))
    expected = asked(source, frame)
    assert written(tmp_path / "out.parquet") == [told(decision) for decision in expected]
    assert result.rows == len(frame)
    assert result.outcomes == dict(pd.Series([decision["outcome"] for decision in expected]).value_counts())
    assert {decision["decided_by"] for decision in expected} == {"list", "rule", "model", "fallback"}
    assert {rule for decision in expected for rule in decision["rules"]} >= {"much", "harmless", "list:deny"}
    assert any(decision["degraded"] == ["rules"] for decision in expected)
    assert list(tmp_path.glob("*.work")) == []


def test_parties_are_known_by_their_pseudonyms_where_the_service_knows_them_so(
    trained: Trained, served: Served, frame: pd.DataFrame, tmp_path: Path
) -> None:
    pseudonyms = Pseudonyms("k" * 32)
    source = source_of(trained)
    ruled = with_rules(source, served)
    source.served = replace(ruled, rules=ruled.rules.under(pseudonyms))
    data = save(frame, tmp_path / "rows.parquet")
    score(ruled, Options(data, "synthetic", tmp_path / "out.parquet", explain=True, pseudonyms=pseudonyms))
    found = written(tmp_path / "out.parquet")
    assert found == [told(decision) for decision in asked(source, frame, pseudonyms=pseudonyms)]
    assert any("list:deny" in rules for *_, rules, _, _ in found)


def test_without_ids_and_without_a_past_a_row_is_a_transaction_all_the_same(
    trained: Trained, served: Served, frame: pd.DataFrame, tmp_path: Path
) -> None:
    bare = frame[["time_ms", "amount", "type"]].head(300)
    data = save(bare, tmp_path / "rows.parquet")
    score(served, Options(data, "synthetic", tmp_path / "out.parquet"))
    found = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["fraud_probability"] for row in found] == [
        decision["fraud_probability"] for decision in asked(source_of(trained), bare)
    ]
    assert {row["transaction_id"] for row in found} == {None}
    assert "reasons" not in found[0]


def test_a_mapping_file_serves_rows_that_have_no_labels_yet(
    trained: Trained, served: Served, frame: pd.DataFrame, tmp_path: Path
) -> None:
    some = frame.head(200)
    theirs = pd.DataFrame(
        {"when": [rfc3339(int(t)) for t in some["time_ms"]], "value": some["amount"], "who": some["customer_id"]}
    )
    theirs.to_csv(tmp_path / "theirs.csv", index=False)
    mapping = tmp_path / "map.yaml"
    mapping.write_text("columns: {timestamp: when, amount: value, customer_id: who, is_fraud: fraud}\n")
    score(served, Options(str(tmp_path / "theirs.csv"), "csv", tmp_path / "out.parquet", mapping=str(mapping)))
    found = pq.read_table(tmp_path / "out.parquet").column("fraud_probability").to_pylist()
    expected = asked(source_of(trained), some[["time_ms", "amount", "customer_id"]])
    assert found == [decision["fraud_probability"] for decision in expected]


# --- what is refused -------------------------------------------------------------------------------------------------


def refused(served: Served, frame: pd.DataFrame, tmp_path: Path) -> str:
    data = save(frame, tmp_path / "rows.parquet")
    with pytest.raises(DataError) as refusal:
        score(served, Options(data, "synthetic", tmp_path / "out.parquet"))
    assert not (tmp_path / "out.parquet").exists()
    return str(refusal.value)


def test_an_id_that_stands_twice_is_refused_with_both_rows(
    served: Served, frame: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "PIECE", 100)
    ids = frame["transaction_id"].to_numpy(object).copy()
    ids[431] = ids[77]
    message = refused(served, frame.assign(transaction_id=ids), tmp_path)
    assert message == "Row 432 has the transaction id of row 78; an id names one transaction."


def test_a_row_from_the_future_is_refused(served: Served, frame: pd.DataFrame, tmp_path: Path) -> None:
    late = frame.head(9).copy()
    late.loc[4, "time_ms"] = int(time.time() * 1000) + 3_600_000
    assert refused(served, late, tmp_path) == "Row 5 lies in the future; the service would refuse it."


def test_a_value_that_the_service_would_refuse_is_named_by_its_row(
    served: Served, frame: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "PIECE", 100)
    wrong = frame.head(400).copy()
    wrong.loc[333, "amount"] = -1.0
    assert "column 'amount', row 334: '-1.0' is negative" in refused(served, wrong, tmp_path)


def test_a_result_that_is_there_is_not_overwritten(served: Served, frame: pd.DataFrame, tmp_path: Path) -> None:
    options = Options(save(frame.head(50), tmp_path / "rows.parquet"), "synthetic", tmp_path / "out.parquet")
    score(served, options)
    before = options.out.read_bytes()
    with pytest.raises(DataError, match="exists already"):
        score(served, options)
    assert options.out.read_bytes() == before


# --- what a spreadsheet sees -----------------------------------------------------------------------------------------


def test_a_csv_result_runs_no_formula_and_says_the_same(served: Served, frame: pd.DataFrame, tmp_path: Path) -> None:
    some = frame.head(60).copy()
    ids = some["transaction_id"].to_numpy(object)
    ids[:6] = ["=1+1", "+1", "-1", "@x", "=cmd|' /C calc'!A0", "a=1"]
    data = save(some.assign(transaction_id=ids), tmp_path / "rows.parquet")
    for out in ("out.csv", "out.parquet"):
        score(served, Options(data, "synthetic", tmp_path / out))
    as_csv = pd.read_csv(tmp_path / "out.csv")
    as_parquet = pd.read_parquet(tmp_path / "out.parquet")
    assert as_csv["transaction_id"].head(6).tolist() == ["'=1+1", "'+1", "'-1", "'@x", "'=cmd|' /C calc'!A0", "a=1"]
    assert as_csv["fraud_probability"].tolist() == as_parquet["fraud_probability"].tolist()
    assert as_csv["outcome"].tolist() == as_parquet["outcome"].tolist()


# --- killed, and gone on with ----------------------------------------------------------------------------------------

_SMALL_PIECES = (
    "import training.score, training.spill; training.score.PIECE = 150; training.spill.TARGET = 200; "
    "from training.__main__ import app; app()"
)


def command(trained: Trained, data: str, out: Path) -> list[str]:
    told = [*("score", "--bundle", str(trained.root / "models"), "--keys", str(trained.root / "keys"))]
    return [sys.executable, "-c", _SMALL_PIECES, *told, "--data", data, "--format", "synthetic", "--out", str(out)]


def test_killed_again_and_again_it_ends_in_the_same_bytes(
    trained: Trained, frame: pd.DataFrame, tmp_path: Path
) -> None:
    data = save(frame, tmp_path / "rows.parquet")
    whole, broken = tmp_path / "whole.parquet", tmp_path / "broken.parquet"
    subprocess.run(command(trained, data, whole), cwd=ROOT, check=True, capture_output=True, timeout=200)
    work = tmp_path / "broken.parquet.work"
    rng = random.Random(4)
    seen: list[int] = []
    for _ in range(8):
        process = subprocess.Popen(
            command(trained, data, broken), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        # Wait for something new on disk, and a little longer: the kill is to fall between any two writes.
        before = changes(work)
        while process.poll() is None and changes(work) == before:
            time.sleep(0.001)
        time.sleep(rng.random() * 0.3)
        process.send_signal(signal.SIGKILL)
        _, said = process.communicate(timeout=60)
        assert process.returncode in (0, -signal.SIGKILL), said.decode()
        if broken.exists() and not work.exists():
            break
        seen.append(len(list(work.iterdir())) if work.exists() else 0)
    else:
        subprocess.run(command(trained, data, broken), cwd=ROOT, check=True, capture_output=True, timeout=200)
    assert len(seen) >= 3, "it was never killed on its way"
    assert broken.read_bytes() == whole.read_bytes()
    assert not work.exists()


def changes(work: Path) -> list[tuple[str, int]]:
    """What lies in the work folder."""
    found = []
    for path in sorted(work.rglob("*")) if work.exists() else []:
        try:
            found.append((path.name, path.stat().st_size))
        except FileNotFoundError:
            continue
    return found


def test_a_run_is_not_gone_on_with_under_other_options(
    served: Served, frame: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = Options(save(frame, tmp_path / "rows.parquet"), "synthetic", tmp_path / "out.parquet")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as interrupted:
        interrupted.setattr(spill.Spill, "play", stop)
        with pytest.raises(KeyboardInterrupt):
            score(served, options)
    with pytest.raises(DataError, match="with another explain"):
        score(served, replace(options, explain=True))
    os.utime(tmp_path / "rows.parquet", ns=(1, 1))
    with pytest.raises(DataError, match="with another data"):
        score(served, options)


def test_two_runs_are_not_at_the_same_work(
    served: Served, frame: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = Options(save(frame.head(80), tmp_path / "rows.parquet"), "synthetic", tmp_path / "out.parquet")
    play = spill.Spill.play

    def meanwhile(self: spill.Spill, number: int) -> None:
        with pytest.raises(DataError, match="another run is at it"):
            score(served, options)
        play(self, number)

    monkeypatch.setattr(spill.Spill, "play", meanwhile)
    assert score(served, options).rows == 80


# --- large -----------------------------------------------------------------------------------------------------------


def test_memory_does_not_grow_with_the_file(trained: Trained, frame: pd.DataFrame, tmp_path: Path) -> None:
    """Ten times the rows take no more memory, though everybody is met again and one shop in every third row."""

    def peak(times: int) -> int:
        many = pd.concat([frame.assign(transaction_id=None)] * times, ignore_index=True)
        data = save(many, tmp_path / f"rows{times}.parquet")
        small = "import training.score, training.spill; training.score.PIECE = 5_000; training.spill.TARGET = 10_000; "
        told = command(trained, data, tmp_path / f"out{times}.parquet")
        measure = "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        told[2] = f"{small}from training.__main__ import app; app(standalone_mode=False); {measure}"
        done = subprocess.run(told, cwd=ROOT, check=True, capture_output=True, timeout=250, text=True)
        return int(done.stdout.splitlines()[-1])

    assert resource.RUSAGE_SELF is not None
    few, more = peak(8), peak(80)
    assert more < few * 1.15, f"{few} and {more} kB"


def test_stopped_before_any_write_of_all_it_ends_in_the_same_bytes(
    served: Served, frame: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "PIECE", 90)
    monkeypatch.setattr(spill, "TARGET", 100)
    data = save(frame.head(250), tmp_path / "rows.parquet")
    whole = Options(data, "synthetic", tmp_path / "whole.parquet", explain=True)
    score(served, whole)
    stopped = 0
    for last in range(1_000):
        left = last
        out = tmp_path / f"out{last}.parquet"

        def stop_at_last(self: Path, target: Path, left_: list[int] = [left], rename: Any = Path.replace) -> Path:  # noqa: B006
            left_[0] -= 1
            if left_[0] < 0:
                raise KeyboardInterrupt
            return rename(self, target)  # type: ignore[no-any-return]

        with monkeypatch.context() as interrupted:
            interrupted.setattr(Path, "replace", stop_at_last)
            try:
                score(served, replace(whole, out=out))
            except KeyboardInterrupt:
                stopped += 1
        if not out.exists():
            score(served, replace(whole, out=out))
        assert out.read_bytes() == whole.out.read_bytes()
        if stopped == last:
            break
    assert stopped > 10
