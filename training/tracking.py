"""What a run leaves in MLflow, and how a bundle comes back. Optional: only ``--mlflow`` and ``--from`` need it.

One training or comparison is one run; its candidates are that run's children, named ``xgb_model``, ``lr_model`` and so
on. What is registered is the sealed bundle itself, a folder of plain files: MLflow stores it, the signature vouches for
it. No pickle is logged, and whoever fetches a bundle verifies it as any other.

Where: ``FRAUD_MLFLOW_URI``, else ``sqlite:///data/mlflow.db`` with the artefacts in ``data/mlflow-artifacts``.
"""

import json
import logging
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fraud_api_lambda.errors import FraudError

if TYPE_CHECKING:
    from .compare import Leaderboard

DEFAULT_URI = "sqlite:///data/mlflow.db"
EXPERIMENT = "fraud"
MODEL = "fraud"
ALIAS = "champion"
#: The folder of the sealed bundle among a run's artefacts.
BUNDLE = "bundle"
_REFERENCE = re.compile(r"mlflow:models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")
_LONGEST = 500


class TrackingError(FraudError):
    """MLflow is absent, cannot be reached, or does not hold what was asked for."""


@dataclass(frozen=True)
class Logged:
    """Where it went: the run's id, and the version of the registered model where there is a bundle."""

    uri: str
    run_id: str
    model_version: str | None = None

    def __str__(self) -> str:
        registered = f", models:/{MODEL}@{ALIAS} is version {self.model_version}" if self.model_version else ""
        return f"MLflow run {self.run_id}{registered}"


def log_training(bundle: Path) -> Logged:
    """Log a sealed bundle as one run, its candidates as children, and register it as ``models:/fraud@champion``.

    Everything comes from the bundle's own files. Raises ``TrackingError``.
    """
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    measured = json.loads((bundle / "metrics.json").read_bytes())
    facts = manifest["training"]
    with _one_error():
        client, uri = _client()
        run = _start(client, manifest["version"], {"champion": manifest["champion"], "data": facts["data_sha256"]})
        _log(client, run, params={**facts, "search": len(facts["search"])}, metrics=measured["test"])
        _log(client, run, metrics=measured.get("validation") or {}, prefix="validation.")
        names = _Names()
        for member in manifest["members"]:
            params = {**(facts["params"] if member["kind"] == "forest" else {}), "weight": member["weight"]}
            _child(client, run, names.of(_KINDS[member["kind"]]), member["name"], params, measured["test"])
        for trial in measured.get("members") or ():
            gain = {name: trial[name] for name in ("before", "after", "low", "high", "share", "weight")}
            _child(client, run, names.of(_KINDS[trial["name"]]), trial["name"], {"shipped": trial["shipped"]}, gain)
        for row in measured.get("ablation") or ():
            _child(client, run, names.of("xgb"), row["name"], {"chosen": row["chosen"]}, row["metrics"])
        for tried in facts["search"]:
            score = {"average_precision": tried["average_precision"]}
            _child(client, run, names.of("xgb"), "search", tried["params"], score)
        for path in sorted(bundle.iterdir()):
            if path.suffix == ".png":
                client.log_artifact(run, str(path), "plots")
        client.log_artifacts(run, str(bundle), BUNDLE)
        version = _register(client, run, manifest["version"])
        client.set_terminated(run)
    return Logged(uri, run, version)


def log_comparison(board: "Leaderboard", files: Iterable[Path]) -> Logged:
    """Log a leaderboard as one run, each of its rows as a child, with its files. Raises ``TrackingError``."""
    with _one_error():
        client, uri = _client()
        run = _start(client, f"compare {board.facts['data']}", {"kind": "comparison"})
        best = board.rows[0]
        _log(client, run, params={**board.facts, "best": best.name}, metrics=best.test)
        names = _Names()
        for row in board.rows:
            figures = {**row.test, "validation.average_precision": row.validation, "seconds": row.seconds}
            _child(client, run, names.of(row.kind), row.name, row.params, figures)
        for path in files:
            client.log_artifact(run, str(path), "plots" if path.suffix == ".png" else "leaderboard")
        client.set_terminated(run)
    return Logged(uri, run)


def fetch(reference: str, into: Path) -> Path:
    """The bundle that ``mlflow:models:/fraud@champion`` or ``mlflow:models:/fraud/3`` names, copied below ``into``.

    It is not verified here: whoever opens it does that. Raises ``TrackingError``.
    """
    named = _REFERENCE.fullmatch(reference)
    if named is None:
        raise TrackingError("--from names a registered model: mlflow:models:/fraud@champion or mlflow:models:/fraud/3")
    with _one_error():
        client, uri = _client()
        if named["alias"]:
            version = client.get_model_version_by_alias(named["name"], named["alias"])
        else:
            version = client.get_model_version(named["name"], named["version"])
        from mlflow.artifacts import download_artifacts

        into.mkdir(parents=True, exist_ok=True)
        folder = Path(download_artifacts(artifact_uri=version.source, dst_path=str(into), tracking_uri=uri))
    if not (folder / "manifest.json").is_file():
        raise TrackingError(f"{reference.removeprefix('mlflow:')} holds no sealed bundle.")
    return folder


# --- the client ------------------------------------------------------------------------------------------------------

#: Kinds of member and names of trials -> the word before ``_model``.
_KINDS = {"forest": "xgb", "linear": "lr", "isolation": "isolation"}


def _client() -> tuple[Any, str]:
    uri = os.environ.get("FRAUD_MLFLOW_URI") or DEFAULT_URI
    scheme = uri.partition(":")[0].partition("+")[0] if ":" in uri else "file"
    if scheme not in {"sqlite", "postgresql", "mysql", "mssql", "http", "https"}:
        raise TrackingError(
            f"MLflow keeps no runs at a '{scheme}' URI any more. Set FRAUD_MLFLOW_URI to sqlite:///data/mlflow.db or "
            "the http(s) address of a tracking server."
        )
    # Nothing leaves this machine but what was asked for, and progress bars are no part of our output.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    try:
        from mlflow import MlflowClient
    except ImportError:
        raise TrackingError(
            "MLflow is not installed. Install it (pip install mlflow-skinny sqlalchemy alembic), or leave out --mlflow."
        ) from None
    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    if scheme == "sqlite":
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    return MlflowClient(tracking_uri=uri, registry_uri=uri), uri


def _start(client: Any, name: str, tags: Mapping[str, str]) -> str:
    found = client.get_experiment_by_name(EXPERIMENT)
    experiment = found.experiment_id if found else client.create_experiment(EXPERIMENT, artifact_location=_artefacts())
    return str(client.create_run(experiment, run_name=name, tags=dict(tags)).info.run_id)


def _artefacts() -> str | None:
    """Beside the database, where there is one on this disk; a tracking server knows its own place."""
    uri = os.environ.get("FRAUD_MLFLOW_URI") or DEFAULT_URI
    if not uri.startswith("sqlite:///"):
        return None
    return (Path(uri.removeprefix("sqlite:///")).parent / "mlflow-artifacts").resolve().as_uri()


def _child(
    client: Any, parent: str, run_name: str, candidate: str, params: Mapping[str, Any], figures: Mapping[str, Any]
) -> None:
    tags = {"mlflow.parentRunId": parent, "candidate": candidate}
    run = client.create_run(client.get_run(parent).info.experiment_id, run_name=run_name, tags=tags).info.run_id
    _log(client, run, params=params, metrics=figures)
    client.set_terminated(run)


class _Names:
    """``xgb_model``, then ``xgb_model_2`` and so on."""

    def __init__(self) -> None:
        self.seen: dict[str, int] = {}

    def of(self, kind: str) -> str:
        self.seen[kind] = self.seen.get(kind, 0) + 1
        return f"{kind}_model" if self.seen[kind] == 1 else f"{kind}_model_{self.seen[kind]}"


def _log(
    client: Any,
    run: str,
    *,
    params: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    prefix: str = "",
) -> None:
    """Parameters as text, every finite number among the metrics; intervals as ``name.low`` and ``name.high``."""
    from mlflow.entities import Metric, Param

    numbers = {name: value for name, value in (metrics or {}).items() if isinstance(value, int | float)}
    for name, interval in ((metrics or {}).get("intervals") or {}).items():
        for end in ("low", "high"):
            if isinstance(interval, Mapping) and isinstance(interval.get(end), float):
                numbers[f"{name}.{end}"] = interval[end]
    client.log_batch(
        run,
        metrics=[Metric(prefix + name, float(v), 0, 0) for name, v in numbers.items() if math.isfinite(v)],
        params=[Param(prefix + name, _text(value)) for name, value in (params or {}).items()],
    )


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _register(client: Any, run: str, version: str) -> str:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(MODEL)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    source = f"{client.get_run(run).info.artifact_uri}/{BUNDLE}"
    made = client.create_model_version(MODEL, source=source, run_id=run, tags={"bundle": version})
    client.set_registered_model_alias(MODEL, ALIAS, made.version)
    return str(made.version)


@contextmanager
def _one_error() -> Iterator[None]:
    """MLflow's and its database's errors as one line."""
    try:
        yield
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in {"mlflow", "sqlalchemy", "alembic", "requests"}:
            raise
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise TrackingError(f"MLflow failed: {lines[0][:200]}") from None
