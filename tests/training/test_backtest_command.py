"""``python -m training backtest``: a log and a file, held against the service that scores the same rows."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import Result
from typer.testing import CliRunner

from fraud_api_lambda.backtest import REPORT, Case, Costs, Report, decide_again
from fraud_api_lambda.decision_log import Label, open_decision_log
from fraud_api_lambda.reload import ModelSource, Served
from fraud_api_lambda.rules import GRAVITY, load_rules
from fraud_api_lambda.schemas import Pseudonyms, Thresholds, now_ms, rfc3339
from fraud_api_lambda.scoring import FraudScorer
from tests.conftest import Trained
from tests.fraud_api_lambda.asgi import source_of
from tests.fraud_api_lambda.making import KEY, seal_small
from training import backtest, dataset, evaluate
from training.__main__ import app
from training.backtest import Change, on_file, with_rules

Cli = Callable[..., Result]
TRIED = b"""
version: tried
rules:
  - {id: large, expression: amount > 900, outcome: review}
  - {id: often, expression: count_24h > 3 && is_night, outcome: decline}
  - {id: trusted, expression: counterparty_count_24h > 20, outcome: approve}
lists:
  deny: [{entity: customer, id: C1}]
"""
DAY = 86_400_000
#: Rows of the file that are scored by the service too.
ROWS = 1_500


@pytest.fixture(scope="module")
def frame(trained: Trained) -> pd.DataFrame:
    rows = dataset.load(str(trained.root / "data" / "synthetic.parquet"), "synthetic").iloc[:ROWS].copy()
    # The profile store forgets by the clock of the machine: as if it all had happened lately.
    later = ((now_ms() - int(rows["time_ms"].iloc[-1])) // DAY - 40) * DAY
    rows["time_ms"] += later
    rows["label_ms"] += later
    return rows


@pytest.fixture(scope="module")
def keys(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The public keys of the trained bundle and of the small one."""
    folder = tmp_path_factory.mktemp("keys")
    shutil.copy(trained.root / "keys" / "development.pub", folder)
    (folder / "small.pub").write_text(KEY.public_line())
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another bundle: another model of other features, another time zone, rules of its own."""
    zone = {"name": "elsewhere", "starts_ms": [0], "offsets_s": [7 * 3600]}
    return seal_small(tmp_path_factory.mktemp("small"), "small", time_zone=zone)


@pytest.fixture
def cli(trained: Trained, keys: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Cli]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FRAUD_MODEL_URL", f"file://{trained.root}/models/current")

    def call(*words: object) -> Result:
        return CliRunner().invoke(app, ["backtest", *map(str, words), "--keys", str(keys)])

    yield call
    assert not os.environ.get("FRAUD_RULES_URL")


def reported(result: Result) -> Report:
    assert result.exit_code == 0, (result.output, result.exception)
    report: Report = REPORT.validate_json(result.stdout)
    return report


def body(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the canonical frame as a sender would send it."""
    fields = ("transaction_id", "type", "customer_id", "counterparty_id", "device_id", "amount", "currency")
    sent = {name: row[name] for name in (*fields, *dataset.BALANCES, "lat", "long") if name in row}
    sent = {name: value for name, value in sent.items() if not pd.isna(value)}
    return {**sent, "timestamp": rfc3339(int(row["time_ms"]))}


def live(source: ModelSource, served: Served, frame: pd.DataFrame, log: Any = None, **options: Any) -> list[str]:
    """What the service says to the rows, one after the other, each at its own time."""
    source.served = served
    now = 0
    scorer = FraudScorer(source, decisions=log, clock=lambda: now, budget_ms=20_000, **options)
    outcomes = []
    for row in frame.to_dict("records"):
        now = int(row["time_ms"])
        outcomes.append(scorer.answer(body(row), explain=False).decision.outcome)
    return outcomes


# --- a file ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["rules", "thresholds", "bundle"])
def test_before_and_after_of_every_row_of_a_file_are_what_the_service_says(
    trained: Trained, small: Path, keys: Path, frame: pd.DataFrame, which: str
) -> None:
    source = source_of(trained)
    served = source.served
    assert served is not None
    if which == "rules":
        other = with_rules(served, TRIED)
        change = Change(other)
    elif which == "thresholds":
        other = served
        change = Change(other, Thresholds(0.001, 0.01))
    else:
        other = evaluate.open_for_evaluation(str(small), keys)
        change = Change(other, rescore=True)
    before = live(source, served, frame)
    acting = other
    if change.thresholds is not None:
        names = ("version", "features", "population", "members", "slope", "intercept", "rates")
        parts = {name: getattr(other.model, name) for name in names}
        acting = replace(other, model=type(other.model)(**parts, thresholds=change.thresholds))
    after = live(source, acting, frame)
    cases = list(backtest._cases(frame, np.arange(len(frame)), served, change))
    assert [case.made.outcome for case in cases] == before
    assert [decide_again(case, change.policy).verdict.outcome for case in cases] == after
    assert before != after
    report = on_file(frame, served, change, Costs())
    assert report.flipped == sum(b != a for b, a in zip(before, after, strict=True))
    assert report.labels.fraud == int(frame["is_fraud"].sum())
    assert report.labels.none == 0


def test_a_file_decided_anew_is_counted_as_evaluate_counts_it(trained: Trained, frame: pd.DataFrame) -> None:
    served = source_of(trained).served
    assert served is not None
    other = with_rules(served, TRIED)
    report = on_file(frame, served, Change(other), Costs())
    for side, by in ((report.before, served), (report.after, other)):
        judged = evaluate.score(by, frame).policy_outcome
        assert side.outcomes == {outcome: int((judged == code).sum()) for outcome, code in GRAVITY.items()}


def test_rows_before_since_are_history_alone(trained: Trained, frame: pd.DataFrame) -> None:
    served = source_of(trained).served
    assert served is not None
    middle = int(frame["time_ms"].iloc[ROWS // 2])
    change = Change(with_rules(served, TRIED))
    late = on_file(frame, served, change, Costs(), since_ms=middle)
    early = on_file(frame, served, change, Costs(), until_ms=middle)
    whole = on_file(frame, served, change, Costs())
    assert 0 < late.decisions < whole.decisions == late.decisions + early.decisions
    assert late.flipped + early.flipped == whole.flipped
    with pytest.raises(dataset.DataError):
        on_file(frame, served, change, Costs(), since_ms=10**14)


def test_a_file_from_the_command_line_leaves_text_json_and_a_picture(
    cli: Cli, trained: Trained, tmp_path: Path
) -> None:
    (tmp_path / "rules.yaml").write_bytes(TRIED)
    data = trained.root / "data" / "synthetic.parquet"
    result = cli("--data", data, "--format", "synthetic", "--rules", "rules.yaml", "--out", "o", "--reviews-per-day", 7)
    assert result.exit_code == 0, result.output
    report = REPORT.validate_json((tmp_path / "o" / "backtest.json").read_bytes())
    assert (report.decisions, report.capacity_per_day, report.rescored) == (8_000, 7, False)
    assert report.models == {trained.version: 8_000}
    text = (tmp_path / "o" / "backtest.txt").read_text()
    assert text.strip() in result.stdout
    assert f"{report.flipped:,} would be another one" in text
    for rule in ("large", "often", "trusted", "list:deny"):
        assert any(line.startswith(f"{rule} ") for line in text.splitlines())
    picture = (tmp_path / "o" / "backtest.png").read_bytes()
    assert picture.startswith(b"\x89PNG\r\n")
    assert len(picture) > 20_000


def test_the_rules_in_force_are_those_that_the_service_is_told(
    cli: Cli, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "force.yaml").write_bytes(b"rules: [{id: all, expression: 'true', outcome: review}]")
    data = ("--data", trained.root / "data" / "synthetic.parquet", "--format", "synthetic", "--json")
    with monkeypatch.context() as context:
        context.setenv("FRAUD_RULES_URL", f"file://{tmp_path}/force.yaml")
        report = reported(cli(*data, "--review", 0.5, "--decline", 0.9))
    assert report.before.outcomes["approve"] == report.after.outcomes["approve"] == 0
    assert report.rules[0].hits.decisions == report.rules[0].hits_before == 8_000


# --- a log -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def log_url(trained: Trained, frame: pd.DataFrame, tmp_path: Path) -> str:
    """A log of 300 rows that the service decided; every second labelled, as the file says."""
    return fill_log(trained, frame.iloc[:300], tmp_path)


def fill_log(trained: Trained, frame: pd.DataFrame, folder: Path, **options: Any) -> str:
    url = f"sqlite:///{folder}/decisions.db"
    log = open_decision_log(url, budget_ms=20_000)
    source = source_of(trained)
    assert source.served is not None
    live(source, source.served, frame, log, **options)
    for row in frame.iloc[::2].to_dict("records"):
        assert log.label(Label(row["transaction_id"], bool(row["is_fraud"]), "chargeback", now_ms(), now_ms()))
    log.close()
    return url


def test_the_log_under_other_rules_is_what_the_service_says(
    cli: Cli, trained: Trained, frame: pd.DataFrame, log_url: str, tmp_path: Path
) -> None:
    (tmp_path / "rules.yaml").write_bytes(TRIED)
    report = reported(cli("--log", log_url, "--rules", "rules.yaml", "--json"))
    source = source_of(trained)
    assert source.served is not None
    before = live(source, source.served, frame.iloc[:300])
    after = live(source, with_rules(source.served, TRIED), frame.iloc[:300])
    assert report.flipped == sum(b != a for b, a in zip(before, after, strict=True)) > 0
    assert report.after.outcomes == {outcome: after.count(outcome) for outcome in GRAVITY}
    assert (report.decisions, report.labels.none, report.labels.young) == (300, 150, 0)
    assert not report.rescored


def test_the_log_under_another_bundle_is_what_the_service_says(
    cli: Cli, trained: Trained, frame: pd.DataFrame, log_url: str, small: Path, keys: Path
) -> None:
    report = reported(cli("--log", log_url, "--bundle", small, "--json"))
    source = source_of(trained)
    after = live(source, evaluate.open_for_evaluation(str(small), keys), frame.iloc[:300])
    assert report.rescored
    assert report.model_version == "small"
    assert report.models == {trained.version: 300}
    assert report.after.outcomes == {outcome: after.count(outcome) for outcome in GRAVITY}


def test_the_bundle_that_decided_flips_nothing(cli: Cli, trained: Trained, log_url: str) -> None:
    assert reported(cli("--log", log_url, "--bundle", trained.folder, "--json")).flipped == 0


def test_lists_meet_the_pseudonyms_of_the_log(
    cli: Cli, trained: Trained, frame: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "k" * 32
    url = fill_log(trained, frame.iloc[:60], tmp_path, pseudonyms=Pseudonyms(key))
    who = frame["customer_id"].iloc[0]
    (tmp_path / "rules.yaml").write_text(
        json.dumps({"rules": [], "lists": {"deny": [{"entity": "customer", "id": who}]}})
    )
    monkeypatch.setenv("FRAUD_PSEUDONYM_KEY", key)
    report = reported(cli("--log", url, "--rules", "rules.yaml", "--json"))
    [deny] = [rule for rule in report.rules if rule.id == "list:deny"]
    assert deny.hits.decisions == int((frame["customer_id"].iloc[:60] == who).sum()) > 0


def test_since_and_until_bound_the_arrivals(cli: Cli, frame: pd.DataFrame, log_url: str, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_bytes(TRIED)
    middle = int(frame["time_ms"].iloc[150])
    bounds = ("--log", log_url, "--rules", "rules.yaml", "--json")
    early, late = (reported(cli(*bounds, way, rfc3339(middle))) for way in ("--until", "--since"))
    assert early.decisions + late.decisions == 300
    assert late.first is not None
    assert late.first >= rfc3339(middle)


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "nothing is changed"),
        (("--log", "sqlite:///x.db", "--data", "y.csv", "--rules", "r"), "either --log or --data"),
        (("--review", 0.5), "given together"),
        (("--decline", 0.5), "given together"),
        (("--review", 0.9, "--decline", 0.5), "0 < --review <= --decline < 1"),
    ],
)
def test_options_that_do_not_go_together_end_with_two(cli: Cli, words: tuple[object, ...], said: str) -> None:
    result = cli(*words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr


def test_a_rules_file_that_is_refused_names_rule_and_position(cli: Cli, log_url: str, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text("rules: [{id: night, expression: is_night && amuont > 5, outcome: review}]")
    result = cli("--log", log_url, "--rules", "rules.yaml")
    assert result.exit_code == 1
    assert "Rule 'night', line 1, column 13" in result.stderr
    assert not (tmp_path / "out").exists()


def test_cases_of_a_file_are_brought_one_by_one(trained: Trained, frame: pd.DataFrame) -> None:
    served = source_of(trained).served
    assert served is not None
    found = backtest._cases(frame, np.arange(10), served, Change(served))
    first = next(found)
    assert isinstance(first, Case)
    assert first.transaction_id == frame["transaction_id"].iloc[0]
    assert first.filled.shape == (len(load_rules(b"rules: []", served.model.features.columns).columns),)


def test_an_empty_log_has_a_report_too(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_bytes(TRIED)
    log = open_decision_log(f"sqlite:///{tmp_path}/empty.db")
    log.find(["nobody"])
    log.close()
    result = cli("--log", f"sqlite:///{tmp_path}/empty.db", "--rules", "rules.yaml", "--out", "o")
    assert result.exit_code == 0, (result.output, result.exception)
    assert "0 decisions: 0 would be another one." in result.stdout
    assert (tmp_path / "o" / "backtest.png").read_bytes().startswith(b"\x89PNG\r\n")
