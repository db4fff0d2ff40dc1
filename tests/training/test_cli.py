"""The command line from end to end: exit codes, one line for an error, JSON and nothing else under --json."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from fraud_api_lambda.access import open_guard
from training.__main__ import app

ROOT = Path(__file__).resolve().parents[2]
Cli = Callable[..., Result]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working directory of its own, as somebody's project folder."""
    folder = tmp_path_factory.mktemp("home")
    before = Path.cwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


@pytest.fixture(scope="module")
def cli(home: Path) -> Cli:
    def call(*words: object) -> Result:
        return CliRunner().invoke(app, [str(word) for word in words])

    return call


def asked(result: Result) -> dict[str, Any]:
    """What a command printed under --json: JSON, the whole of standard output, exit code 0."""
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def refused(result: Result, code: int = 1) -> str:
    """The one line on standard error of a command that failed."""
    assert result.exit_code == code, (result.output, result.exception)
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert "Traceback" not in result.stderr
    steps = [line for line in lines if not line.startswith("error: ")]
    assert all(len(step) < 80 for step in steps)  # progress at most
    (line,) = [line for line in lines if line.startswith("error: ")]
    return line


@pytest.fixture(scope="module")
def made(cli: Cli, home: Path) -> dict[str, Any]:
    """8,000 generated rows and a bundle trained on them."""
    generated = asked(cli("generate", "--rows", 8_000, "--seed", 7, "--out", "data/synthetic.parquet", "--json"))
    assert (generated["rows"], generated["frauds"]) == (8_000, 80)
    return asked(
        cli("run", "--data", "data/synthetic.parquet", "--format", "synthetic", "--out", "out", "--tune", 0,
            "--no-ablation", "--json")
    )  # fmt: skip


# --- the whole way ---------------------------------------------------------------------------------------------------


def test_a_run_prints_its_bundle_and_headline_figures(made: dict[str, Any], home: Path) -> None:
    assert (home / made["bundle"] / "manifest.json").is_file()
    assert 0 < made["test"]["average_precision"] <= 1
    assert made["test"]["fraud_rate"]["weighted"] > 0
    assert made["ablation"] == []
    assert (home / "keys" / "development.key").stat().st_mode & 0o777 == 0o600


def test_evaluate_prints_every_figure_as_json(cli: Cli, made: dict[str, Any]) -> None:
    figures = asked(
        cli(
            "evaluate",
            "--bundle",
            made["bundle"],
            "--data",
            "data/synthetic.parquet",
            "--format",
            "synthetic",
            "--json",
        )
    )
    assert figures["version"] == made["version"]
    for name in (
        *(
            "average_precision",
            "roc_auc",
            "recall",
            "precision",
            "f1",
            "accuracy",
            "specificity",
            "kappa",
            "fpr",
            "fdr",
        ),
        *("recall_at_precision_0.9", "recall_at_precision_0.99", "cp_at_100", "ece", "brier"),
        *("frauds_per_investigation", "cost_saved", "savings_per_year", "intervals", "counts", "model", "policy"),
    ):
        assert name in figures, name
    assert figures["counts"]["rows"] == 8_000
    assert figures["intervals"]["recall"]["method"] == "Clopper-Pearson"


def test_evaluate_prints_the_classic_text_report(cli: Cli, made: dict[str, Any]) -> None:
    result = cli("evaluate", "--bundle", made["bundle"], "--data", "data/synthetic.parquet", "--format", "synthetic")
    assert result.exit_code == 0
    for words in ("precision", "recall", "LEGIT", "FRAUD", "average_precision", "at a fraud rate of 1.0000%"):
        assert words in result.stdout


def test_evaluate_leaves_out_customers_known_as_compromised(cli: Cli, made: dict[str, Any]) -> None:
    words = ("evaluate", "--bundle", made["bundle"], "--data", "data/synthetic.parquet", "--format", "synthetic",
             "--test", "2025-03-01..2025-03-31", "--json")  # fmt: skip
    every = asked(cli(*words))["counts"]
    unknown = asked(cli(*words, "--without-known-frauds", "2025-01-01"))["counts"]
    assert unknown["rows"] < every["rows"]
    assert unknown["frauds"] <= every["frauds"]
    later = asked(cli(*words, "--without-known-frauds", "2025-03-31"))["counts"]  # known in April: nobody leaves
    assert later == every
    assert "of the form 2018-07-25" in refused(cli(*words, "--without-known-frauds", "yesterday"))


def test_where_and_legit_weight_choose_and_weigh_the_rows(cli: Cli, made: dict[str, Any]) -> None:
    figures = asked(
        cli("evaluate", "--bundle", made["bundle"], "--data", "data/synthetic.parquet", "--format", "synthetic",
            "--where", "type=TRANSFER", "--legit-weight", 10, "--json")
    )  # fmt: skip
    counts = figures["counts"]
    assert counts["rows"] < 8_000
    assert counts["weighted_legitimate"] == 10 * counts["legitimate"]
    assert figures["fraud_rate"]["weighted"] < figures["fraud_rate"]["sample"]


def test_report_takes_the_page_the_pictures_and_the_card_out_of_the_bundle(
    cli: Cli, made: dict[str, Any], home: Path
) -> None:
    told = asked(cli("report", "--bundle", made["bundle"], "--out", "out/report", "--json"))
    names = {Path(name).name for name in told["files"]}
    assert {"report.html", "metrics.json", "model_card.md", "roc.png"} <= names
    assert all((home / name).stat().st_size > 0 for name in told["files"])


def test_publish_evaluate_by_pointer_and_roll_back(cli: Cli, made: dict[str, Any], home: Path) -> None:
    first = asked(cli("publish", "--bundle", made["bundle"], "--to", "file://models/current", "--force", "--json"))
    assert (first["version"], first["serial"]) == (made["version"], 1)
    again = asked(cli("publish", "--bundle", made["bundle"], "--force", "--json"))
    assert again["serial"] == 2
    assert refused(cli("rollback")).startswith("error: There is no version before the current one")
    back = asked(cli("rollback", "--to", made["version"], "--json"))
    assert back["serial"] == 3
    evaluated = cli(
        "evaluate", "--bundle", "models", "--data", "data/synthetic.parquet", "--format", "synthetic", "--json"
    )
    assert asked(evaluated)["version"] == made["version"]
    assert asked(cli("report", "--out", "out/served", "--json"))["version"] == made["version"]


def test_keys_makes_a_pair_and_never_another_of_the_name(cli: Cli, home: Path) -> None:
    made = asked(cli("keys", "--name", "release", "--keys", "other-keys", "--json"))
    assert made["key_id"].startswith("release-")
    assert (home / made["private"]).stat().st_mode & 0o777 == 0o600
    assert (home / "other-keys" / "release.pub").read_text().strip() == made["public"]
    assert "exists already" in refused(cli("keys", "--name", "release", "--keys", "other-keys"))
    private = json.loads((home / made["private"]).read_text())["private_key"]
    shown = cli("keys", "--name", "second", "--keys", "other-keys")
    assert shown.exit_code == 0
    assert private not in shown.output


# --- what is refused -------------------------------------------------------------------------------------------------


def test_an_error_is_one_line_that_names_file_and_mend(cli: Cli, home: Path, made: dict[str, Any]) -> None:
    assert "none.csv: no such file" in refused(cli("run", "--data", "none.csv"))
    (home / "own.csv").write_text("when,amt,bad\n2026-01-01,5,0\n")
    assert "--mapping" in refused(cli("run", "--data", "own.csv"))
    assert "Choices are: paysim, handbook, csv, synthetic" in refused(cli("run", "--data", "own.csv", "--format", "x"))
    assert "such as 7d" in refused(cli("run", "--data", "own.csv", "--delay", "soon"))
    data = ("--data", "data/synthetic.parquet", "--format", "synthetic")
    assert "Unknown time zone" in refused(cli("run", *data, "--time-zone", "Mars"))
    assert "2018-07-25..2018-07-31" in refused(cli("run", *data, "--train", "x", "--test", "y"))
    assert "neither a bundle" in refused(cli("evaluate", "--bundle", "nowhere", *data))
    assert "No signing key at" in refused(cli("publish", "--bundle", made["bundle"], "--key", "none.key"))
    assert "neither a bundle" in refused(cli("publish", "--bundle", "nowhere"))
    assert "Choices are: file, s3" in refused(cli("publish", "--bundle", made["bundle"], "--to", "ftp://x/current"))


@pytest.mark.parametrize(
    "text", ["- a", "2026-01-01: 5", "2026-01-01: {EUR: a}", "soon: {EUR: 1.1}", "2026-01-01: {EUR: 0}", "{", ""]
)
def test_a_rates_file_that_is_none_is_refused_at_once(cli: Cli, home: Path, made: dict[str, Any], text: str) -> None:
    (home / "rates.yaml").write_text(text)
    data = ("--data", "data/synthetic.parquet", "--format", "synthetic")
    assert "rate" in refused(cli("run", *data, "--rates", "rates.yaml"))


def test_a_place_that_cannot_be_written_is_one_line(cli: Cli, home: Path, made: dict[str, Any]) -> None:
    (home / "blocked").write_text("a file")
    assert "blocked" in refused(cli("generate", "--rows", 1_000, "--out", "blocked/x.parquet"))
    assert "blocked" in refused(cli("report", "--bundle", made["bundle"], "--out", "blocked"))
    assert "blocked" in refused(cli("keys", "--name", "x", "--keys", "blocked"))


@pytest.mark.parametrize(
    "words",
    [
        ("run",),
        ("run", "--data", "x", "--features", "all"),
        ("run", "--data", "x", "--champion", "forest"),
        ("run", "--data", "x", "--split", "sideways"),
        ("run", "--data", "x", "--cv", "-1"),
        ("run", "--data", "x", "--capacity", "1.5"),
        ("run", "--data", "x", "--review-cost", "-1"),
        ("generate", "--rows", "5"),
        ("nonsense",),
        ("publish", "--no-such-option"),
    ],
)
def test_a_wrong_command_line_is_exit_code_2(cli: Cli, words: tuple[str, ...]) -> None:
    result = cli(*words)
    assert result.exit_code == 2
    assert result.stdout == ""


# --- as a process ----------------------------------------------------------------------------------------------------


def python_m(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "training", *words], cwd=cwd, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_the_process_ends_with_the_code_and_prints_json_alone_on_standard_output(tmp_path: Path) -> None:
    done = python_m("generate", "--out", "x.csv", "--rows", "1000", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"] == 1_000
    failed = python_m("generate", "--out", "x.csv/y.csv", "--rows", "1000", cwd=tmp_path)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.startswith("error: x.csv: ")
    assert failed.stderr.count("\n") == 1


def test_help_answers_without_loading_what_training_needs(tmp_path: Path) -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from training.__main__ import app; "
        "result = CliRunner().invoke(app, ['--help']); assert result.exit_code == 0, result.output; "
        "assert all(name in result.output for name in ('run', 'evaluate', 'publish', 'rollback', 'keys', 'report')); "
        "heavy = ('pandas', 'sklearn', 'xgboost', 'numba', 'matplotlib', 'boto3'); "
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True,
        text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


# --- API keys --------------------------------------------------------------------------------------------------------


def test_an_api_key_is_shown_once_with_the_item_that_lets_it_in(cli: Cli) -> None:
    key = asked(cli("apikey", "--name", "console", "--role", "review", "--json"))
    guard = open_guard(key["item"], None)
    caller = guard.caller({"type": "http", "headers": [(b"x-api-key", key["key"].encode())]})
    assert caller is not None
    assert (caller.name, caller.role) == ("console", "review")
    told = cli("apikey", "--name", "shop")
    assert "X-API-Key: fraud_" in told.stdout
    assert "shop:score:" in told.stdout


def test_an_api_key_of_a_wrong_name_or_role_is_refused(cli: Cli) -> None:
    assert "name:role:sha256" in refused(cli("apikey", "--name", "a b"))
    assert "score, review, admin" in refused(cli("apikey", "--name", "a", "--role", "boss"), 2)
