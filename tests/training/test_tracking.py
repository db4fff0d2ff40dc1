"""MLflow, for real, on SQLite: what is logged, and that a bundle comes back from it verified."""

import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fraud_api_lambda import bundle as bundles
from tests.conftest import Trained
from training import tracking
from training.__main__ import app
from training.tracking import TrackingError

mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed")


@pytest.fixture
def uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    where = f"sqlite:///{tmp_path}/mlflow/runs.db"
    monkeypatch.setenv("FRAUD_MLFLOW_URI", where)
    return where


@pytest.fixture(scope="module")
def kept(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, tracking.Logged]:
    """The small bundle, logged once, for the tests that only read."""
    where = f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/runs.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FRAUD_MLFLOW_URI", where)
        return where, tracking.log_training(trained.folder)


def client(uri: str) -> Any:
    return mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)


def test_a_training_run_holds_figures_plots_candidates_and_the_bundle(
    trained: Trained, kept: tuple[str, tracking.Logged]
) -> None:
    uri, logged = kept
    run = client(uri).get_run(logged.run_id)
    assert run.info.run_name == trained.version
    assert 0 < run.data.metrics["average_precision"] <= 1
    assert run.data.metrics["average_precision.low"] <= run.data.metrics["average_precision"]
    assert "validation.average_precision" in run.data.metrics
    assert run.data.params["balance"] == "smote"
    assert run.info.status == "FINISHED"
    plots = [item.path for item in client(uri).list_artifacts(logged.run_id, "plots")]
    assert plots
    sealed = {Path(item.path).name for item in client(uri).list_artifacts(logged.run_id, "bundle")}
    assert {"manifest.json", "manifest.sig", "forest.npz"} <= sealed
    assert not any(name.endswith((".joblib", ".pkl", ".pickle")) for name in sealed)
    children = client(uri).search_runs([run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{logged.run_id}'")
    assert "xgb_model" in {child.info.run_name for child in children}


def test_the_champion_has_an_alias_that_moves_with_the_next_one(trained: Trained, uri: str) -> None:
    first = tracking.log_training(trained.folder)
    assert first.model_version == "1"
    second = tracking.log_training(trained.folder)
    version = client(uri).get_model_version_by_alias("fraud", "champion")
    assert (str(version.version), version.run_id) == (second.model_version, second.run_id)
    assert version.tags["bundle"] == trained.version


def publish(*words: str) -> Any:
    return CliRunner().invoke(app, ["publish", *words])


def test_a_bundle_is_published_from_the_registry_by_alias_or_version(
    trained: Trained, kept: tuple[str, tracking.Logged], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRAUD_MLFLOW_URI", kept[0])
    keys = str(trained.root / "keys")
    for number, name in enumerate(("fraud@champion", f"fraud/{kept[1].model_version}")):
        target = f"file://{tmp_path}/models{number}/current"
        done = publish("--from", f"mlflow:models:/{name}", "--to", target, "--keys", keys, "--force")
        assert done.exit_code == 0, done.output
        trusted = bundles.parse_public_keys((trained.root / "keys" / "development.pub").read_text())
        opened = bundles.open_bundle(target, trusted)
        opened.verify()
        assert opened.manifest.version == trained.version


def test_a_bundle_changed_in_the_registry_is_not_published(trained: Trained, uri: str, tmp_path: Path) -> None:
    tracking.log_training(trained.folder)
    version = client(uri).get_model_version_by_alias("fraud", "champion")
    stored = Path(version.source.removeprefix("file://")) / "forest.npz"
    stored.write_bytes(stored.read_bytes()[:-1] + b"x")
    target = f"file://{tmp_path}/models/current"
    done = publish("--from", "mlflow:models:/fraud@champion", "--to", target, "--keys", str(trained.root / "keys"))
    assert done.exit_code == 1
    assert "'forest.npz' is not the file that was sealed" in done.output
    assert not (tmp_path / "models" / "current").exists()


@pytest.mark.parametrize("reference", ["fraud@champion", "mlflow:fraud", "mlflow:models:/fraud", "mlflow:models:/a/b"])
def test_a_reference_of_another_form_is_refused_with_the_right_one(reference: str, uri: str, tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="mlflow:models:/fraud@champion"):
        tracking.fetch(reference, tmp_path)


def test_a_name_that_is_not_registered_is_one_line(uri: str, tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="not found") as refused:
        tracking.fetch("mlflow:models:/nobody@champion", tmp_path / "into")
    assert "\n" not in str(refused.value)


def test_a_folder_as_address_is_refused_with_the_choices(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for where in ("file:///tmp/mlruns", "mlruns"):
        monkeypatch.setenv("FRAUD_MLFLOW_URI", where)
        with pytest.raises(TrackingError, match=r"sqlite:///data/mlflow\.db"):
            tracking.fetch("mlflow:models:/fraud@champion", tmp_path)


def test_mlflow_that_is_absent_is_told_in_one_line(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(TrackingError, match="MLflow is not installed"):
        tracking.fetch("mlflow:models:/fraud@champion", tmp_path)


def test_a_leaderboard_is_one_run_with_a_child_for_each_candidate(uri: str, tmp_path: Path) -> None:
    from training.compare import Leaderboard, Row

    figures = {"average_precision": 0.8, "roc_auc": 0.9, "cp_at_100": None, "fraud_rate": {"weighted": 0.01}}
    rows = tuple(
        Row(name, kind, {"max_depth": 5}, 0.7, figures, 1.0)
        for name, kind in (("XGBoost", "xgb"), ("XGBoost, SMOTE 0.1", "xgb"), ("logistic regression", "lr"))
    )
    picture = tmp_path / "leaderboard.png"
    picture.write_bytes(b"\x89PNG")
    logged = tracking.log_comparison(Leaderboard(rows, {}, {"data": "d.parquet"}), [picture])
    run = client(uri).get_run(logged.run_id)
    children = client(uri).search_runs([run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{logged.run_id}'")
    assert {(child.info.run_name, child.data.tags["candidate"]) for child in children} == {
        ("xgb_model", "XGBoost"),
        ("xgb_model_2", "XGBoost, SMOTE 0.1"),
        ("lr_model", "logistic regression"),
    }
    assert run.data.params["best"] == "XGBoost"
    assert logged.model_version is None
