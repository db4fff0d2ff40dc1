"""The whole life in a short form: it ends by itself, and the same plan leaves the same figures."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fraud_api_lambda.bundle import parse_public_keys, read_pointer
from fraud_api_lambda.decision_log import open_decision_log
from fraud_api_lambda.errors import SettingsError
from training import metrics, records, simulate, simulate_report, synthetic
from training.__main__ import app
from training.simulate import Life, Plan

#: A policy for few rows: what is asked for is little, so that all that can happen does.
POLICY = """
label_delay_days: 2
min_new_frauds: 10
judged_days: 5
min_judged_frauds: 5
min_gain: 0.0
min_gain_low: -1.0
max_flipped: 0.5
min_shadowed: 200
"""
PLAN = Plan(weeks=4, rows_a_week=900, before=4, new_week=2, fraud_share=0.06, schedule=2, tune=0, seed=5, policy=POLICY)


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Life, list[str]]:
    out = tmp_path_factory.mktemp("life") / "one"
    steps: list[str] = []
    return out, simulate.simulate(PLAN, out, progress=steps.append), steps


def test_the_life_goes_from_drift_over_a_challenger_to_a_new_champion(lived: tuple[Path, Life, list[str]]) -> None:
    out, life, steps = lived
    assert [week.week for week in life.weeks] == [1, 2, 3, 4]
    assert life.weeks[0].drift == ()
    assert "type" in life.weeks[1].drift
    psi, limit = life.weeks[1].psi["type"]
    assert psi > limit
    outcomes = [step.report["outcome"] for step in life.steps]
    assert "published" in outcomes
    promoted = [step for step in life.steps if step.report["outcome"] == "promoted"]
    assert promoted
    # The service's own shadow judged what the step counted, and passed nothing over.
    shadow, counted = promoted[0].shadow, promoted[0].report["verdicts"][0]["shadow"]
    assert shadow is not None
    assert shadow["judged"] == counted["rows"] + counted["unknown"] >= 200
    assert (shadow["failed"], shadow["passed_over"], shadow["flipped"]) == (0, 0, counted["flipped"])
    assert shadow["challenger"] == promoted[0].report["version"]
    keys = parse_public_keys((out / "keys" / "development.pub").read_text())
    assert read_pointer(f"file://{out.resolve()}/models/current", keys).version == promoted[-1].report["version"]
    assert any(line.startswith("week 4: ") for line in steps)


def test_before_the_first_promotion_both_are_the_same_model_and_afterwards_they_are_not(
    lived: tuple[Path, Life, list[str]],
) -> None:
    _, life, _ = lived
    for week in life.weeks:
        if set(week.models) == {life.first}:
            assert week.average_precision == week.frozen
        else:
            assert week.average_precision != week.frozen
    assert set(life.weeks[0].models) == {life.first}
    assert set(life.weeks[-1].models) != {life.first}


def test_the_figures_are_those_of_what_the_api_answered(lived: tuple[Path, Life, list[str]]) -> None:
    out, life, _ = lived
    week = life.weeks[-1]
    begin = simulate.START_MS + (PLAN.before + 3) * simulate.WEEK_MS
    log = open_decision_log(f"sqlite:///{out.resolve()}/decisions.db", budget_ms=20_000)
    decided = {record.transaction_id: record for record, _ in records.records(log, None, None)}
    labels = [label for _, label in records.records(log, None, None) if label is not None]
    log.close()
    frame = made_again()
    assert set(frame["transaction_id"]) == set(decided)
    rows = frame[(frame["time_ms"] >= begin) & (frame["time_ms"] < begin + simulate.WEEK_MS)]
    probability = rows["transaction_id"].map(lambda name: decided[name].probability).to_numpy(float)
    fraud = rows["is_fraud"].to_numpy()
    assert week.transactions == len(rows)
    assert week.average_precision == metrics.average_precision(probability, fraud, fraud * 0.0 + 1.0)
    # Labels come late, mostly, and some never; no one of them lies.
    true = dict(zip(frame["transaction_id"], frame["is_fraud"] == 1, strict=True))
    assert all(label.is_fraud == true[label.transaction_id] for label in labels)
    told = sum(label.is_fraud for label in labels)
    assert 0.6 * sum(true.values()) < told < 0.99 * sum(true.values())
    assert all(label.received_ms > decided[label.transaction_id].received_ms for label in labels)


def made_again() -> "synthetic.pd.DataFrame":
    changes = 7 * (PLAN.before + PLAN.new_week - 1)
    return synthetic.generate(
        PLAN.rows_a_week * (PLAN.before + PLAN.weeks), PLAN.seed, start=simulate.START, days=PLAN.days,
        scenario_start={simulate.SCENARIO: changes}, scenario_share={simulate.SCENARIO: simulate.SCENARIO_SHARE},
        fraud_share=PLAN.fraud_share, instant_start=changes, steady=True,
    )  # fmt: skip


def test_the_same_plan_leaves_the_same_files(lived: tuple[Path, Life, list[str]], tmp_path: Path) -> None:
    simulate.simulate(PLAN, tmp_path / "again")
    for name in ("life.json", "life.txt", "life.png"):
        assert (tmp_path / "again" / name).read_bytes() == (lived[0] / name).read_bytes(), name


def test_the_table_and_the_file_tell_every_week_and_every_step(lived: tuple[Path, Life, list[str]]) -> None:
    out, life, _ = lived
    told = (out / "life.txt").read_text()
    assert told == simulate_report.text(life) + "\n"
    for week in life.weeks:
        assert f"{week.average_precision:.3f}" in told
        assert f"{week.frozen:.3f}" in told
    for step in life.steps:
        assert step.report["why"] in told
    assert json.loads((out / "life.json").read_text()) == life.as_json()
    assert (out / "life.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_that_is_not_empty_and_a_life_that_cannot_be_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(SettingsError, match="not empty"):
        simulate.simulate(PLAN, tmp_path)
    with pytest.raises(SettingsError, match="one of its weeks"):
        simulate.simulate(Plan(weeks=3, new_week=4), tmp_path / "other")
    refused = CliRunner().invoke(app, ["simulate", "--out", str(tmp_path)])
    assert refused.exit_code == 1
    assert refused.stderr == f"error: {tmp_path} is not empty. Choose another folder, or remove it.\n"
