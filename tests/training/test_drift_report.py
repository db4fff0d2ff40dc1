"""Drift over a world of the generator, as the benchmark has it, and as the command shows it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks.drift import INJECTED, STREAM_DAYS, TRAINED_DAYS, Stream, injected, make_stream, quiet_looks
from fraud_api_lambda import drift
from fraud_api_lambda.bundle import seal
from fraud_api_lambda.decision_log import open_decision_log
from tests.conftest import Trained
from tests.fraud_api_lambda.making import KEY, small_files, small_forest, small_manifest
from training import drift_report
from training.__main__ import app

#: A smaller world than the benchmark's: so many transactions a day.
PER_DAY = 600
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Stream:
    return make_stream(tmp_path_factory.mktemp("stream"), per_day=PER_DAY)


# --- the promise, on the generator's transactions --------------------------------------------------------------------


def test_nothing_is_reported_over_ten_quiet_weeks(stream: Stream) -> None:
    days, weeks = quiet_looks(stream, 1), quiet_looks(stream, 7, calibration=True)
    assert (len(days), len(weeks)) == (STREAM_DAYS, STREAM_DAYS // 7)
    for report in (*days, *weeks):
        assert report.alarms == (), report.until
    assert {report.state for report in weeks} == {"quiet"}
    assert sum(report.state == "quiet" for report in days) >= 50  # a Sunday may have too few to say anything
    assert all(own.psi is not None for report in weeks for own in (*report.features, report.score))
    assert sum(report.calibration.state == "quiet" for report in weeks) >= 5


@pytest.mark.parametrize("name", INJECTED)
def test_what_is_injected_is_named_within_2000_transactions(name: str, stream: Stream) -> None:
    _, wanted = INJECTED[name]
    report = injected(stream, name, TRAINED_DAYS + 20)
    assert report.n <= 2_000
    assert set(wanted) & set(report.alarms), report.alarms


def test_the_first_2000_transactions_without_injection_name_nothing(stream: Stream) -> None:
    from benchmarks import drift as figures

    figures.INJECTED["nothing"] = (lambda frame, rng: None, ())
    try:
        assert injected(stream, "nothing", TRAINED_DAYS + 20).alarms == ()
    finally:
        del figures.INJECTED["nothing"]


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def logged(stream: Stream, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A log of five quiet weeks and of three days on which balances are in cents, with labels; its URL."""
    folder = tmp_path_factory.mktemp("log")
    url = f"sqlite:///{folder}/decisions.db"
    log = open_decision_log(url, budget_ms=60_000)
    until = stream.day(TRAINED_DAYS + 36)
    frame = stream.frame[stream.frame["received_ms"] < until].copy()
    late = frame["received_ms"] >= stream.day(TRAINED_DAYS + 33)
    frame.loc[late, "oldbalanceOrg"] *= 100
    decided = stream.decided(frame)
    plain = decided.between(stream.day(TRAINED_DAYS), until)
    labelled = decided.between(stream.day(TRAINED_DAYS), until, until)
    stored = [own._replace(label=other.label) for own, other in zip(plain, labelled, strict=True)]
    for at in range(0, len(stored), 500):
        log.append([own.record for own in stored[at : at + 500]])
    for own in stored:
        if own.label is not None:
            log.label(own.label)
    log.close()
    return url


def command(url: str, stream: Stream, out: Path, *more: str) -> Any:
    keys = out.parent / "keys"
    keys.mkdir(exist_ok=True)
    (keys / "own.pub").write_text(stream.public_key)
    options = ["--log", url, "--bundle", str(stream.bundle), "--keys", str(keys), "--out", str(out)]
    return CliRunner().invoke(app, ["drift", *options, *more], catch_exceptions=False)


def day(stream: Stream, number: float) -> str:
    return drift.rfc3339(stream.day(TRAINED_DAYS + number))


def test_the_command_names_what_drifts_and_leaves_files_and_exit_code_3(
    logged: str, stream: Stream, tmp_path: Path
) -> None:
    result = command(logged, stream, tmp_path / "out", "--until", day(stream, 36))
    assert result.exit_code == 3
    assert result.stdout.startswith("DRIFT: ")
    assert "* oldbalance_orig" in result.stdout
    told = json.loads((tmp_path / "out" / "drift.json").read_text())
    assert set(told["alarms"]) >= {"oldbalance_orig", "amount_to_balance"}
    assert told["model_version"] == stream.served.version
    assert told["calibration"]["state"] == "quiet"
    assert (tmp_path / "out" / "drift.txt").read_text() in result.stdout + "\n"
    page = (tmp_path / "out" / "drift.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    for name in ("drift.png", "histograms.png", "calibration.png"):
        assert (tmp_path / "out" / name).read_bytes().startswith(PNG)
    assert "<script" not in page


def test_a_quiet_log_ends_with_exit_code_0_and_json_alone_where_that_is_asked_for(
    logged: str, stream: Stream, tmp_path: Path
) -> None:
    window = ("--since", day(stream, 26), "--until", day(stream, 33))
    result = command(logged, stream, tmp_path / "out", *window, "--json")
    assert result.exit_code == 0
    told = json.loads(result.stdout)
    assert (told["state"], told["alarms"], told["complete"]) == ("quiet", [], True)
    assert told["n"] > 3_000


def test_an_empty_window_is_told_as_such_and_drawn_all_the_same(logged: str, stream: Stream, tmp_path: Path) -> None:
    result = command(logged, stream, tmp_path / "out", "--since", "2020-01-01", "--until", "2020-01-02")
    assert result.exit_code == 0
    assert result.stdout.startswith("not enough to say anything")
    assert (tmp_path / "out" / "drift.png").read_bytes().startswith(PNG)


def test_a_bundle_of_before_is_one_line_on_stderr(logged: str, trained: Trained, tmp_path: Path) -> None:
    manifest = small_manifest("old")
    old = seal(tmp_path, manifest, small_files(manifest, small_forest()), KEY)
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "own.pub").write_text(KEY.public_line())
    options = ["--log", logged, "--bundle", str(old), "--keys", str(tmp_path / "keys"), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, ["drift", *options])
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "no 'reference.json'" in result.stderr or "earlier version" in result.stderr


def test_what_a_bundle_calls_its_columns_is_escaped(logged: str, stream: Stream) -> None:
    reference = stream.reference
    report = drift.compare(reference, (), since_ms=0, until_ms=1, history_ms=0)
    named = replace(report.features[0], name="<b>&")
    page = drift_report.page(replace(report, features=(named, *report.features[1:])), {})
    assert "<b>&" not in page
    assert "&lt;b&gt;&amp;" in page
