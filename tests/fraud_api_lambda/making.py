"""A bundle of one small tree, sealed in a moment: for tests of opening, publishing and swapping."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fraud_api_lambda import bundle as bundles
from fraud_api_lambda.bundle import Manifest, SigningKey
from fraud_api_lambda.features import NAMES, fill
from fraud_api_lambda.model import Forest, FraudModel, LeafTable, pack

KEY = SigningKey.generate("test-key")
TRUSTED = bundles.parse_public_keys(KEY.public_line())
OTHER_KEY = SigningKey.generate("other-key")

RULES = b"""
version: small
rules:
  - id: very-large
    expression: "amount > 1000000.0"
    outcome: decline
    reason: The amount is above a million.
"""


def small_forest(drained: float = 4.0) -> Forest:
    """One question, to ``drains_account`` (the second of two features): margin -3, or ``drained`` where it is 1."""

    def column(*values: float) -> Any:
        return np.array([[value] for value in values], np.float32)

    below, above = 0.9, 0.1  # shares of the rows on each side
    mean = below * -3.0 + above * drained
    table = LeafTable(
        feature=np.array([[1], [1]], np.int32),
        low=column(-np.inf, 0.5),
        high=column(0.5, np.inf),
        missing=np.array([[True], [False]]),
        table=np.array([[[3.0 * below], [-3.0 * above]], [[-drained * above], [drained * below]]], np.float32),
    )
    return Forest(
        width=2,
        bias=0.0,
        expected=mean,
        root=np.array([0], np.int32),
        feature=np.array([1, 0, 0], np.int32),
        value=np.array([0.5, -3.0, drained], np.float32),
        child=np.array([2, 1, 1, 1, 2, 2], np.int32),
        missing_left=np.array([True, False, False]),
        tables=[table],
    )


def small_manifest(version: str, **changes: Any) -> Manifest:
    facts: dict[str, Any] = {
        "version": version,
        "created_at": "2026-01-01T00:00:00+00:00",
        "champion": "xgboost",
        "features": [{"name": "amount", "version": 1}, {"name": "drains_account", "version": 1}],
        "population": dict.fromkeys(NAMES, 0.0),
        "members": [{"name": "xgboost", "kind": "forest", "weight": 1.0}],
        "calibration": {"slope": 1.0, "intercept": 0.0},
        "thresholds": {"review": 0.5, "decline": 0.9},
        "time_zone": {"name": "UTC", "starts_ms": [0], "offsets_s": [0]},
        "currency": {"base": "USD", "minor_units": 2},
        "label_delay_ms": 0,
        "training": {},
        "libraries": {},
        "files": {},
    }
    return Manifest.model_validate({**facts, **changes})


def small_files(manifest: Manifest, forest: Forest, **changes: bytes) -> dict[str, bytes]:
    """All files of a bundle; golden rows as the model scores them. ``changes`` by name, ``__`` for the dot."""
    rows: list[Mapping[str, Any]] = []
    try:
        model = FraudModel.from_manifest(manifest, forest)
        for drains in (0.0, 1.0):
            columns = np.zeros(len(model.features.columns))
            columns[model.features.columns.index("drains_account")] = drains
            vector = model.vector(fill(columns, model.population))
            rows.append(
                {"columns": columns.tolist(), "margin": model.margin(vector), "probability": model.probability(vector)}
            )
    except bundles.BundleRefused:
        pass  # a manifest that is wrong on purpose scores nothing
    files = {
        "forest.npz": pack(forest),
        "golden.json": json.dumps({"rows": rows}).encode(),
        "rules.yaml": RULES,
        "metrics.json": b'{"test": {"average_precision": 0.9, "fraud_rate": {"weighted": 0.1}}}',
        "report.html": b"<!doctype html><title>report</title>" + b"." * 400,
    }
    return {**files, **{name.replace("__", "."): data for name, data in changes.items()}}


def seal_small(
    root: Path, version: str, *, key: SigningKey = KEY, drained: float = 4.0, files: dict[str, bytes] | None = None,
    **changes: Any,
) -> Path:  # fmt: skip
    """The bundle ``root/version``; ``changes`` are of the manifest, ``files`` replace what is made here."""
    manifest = small_manifest(version, **changes)
    return bundles.seal(root, manifest, {**small_files(manifest, small_forest(drained)), **(files or {})}, key)


def publish_small(root: Path, version: str, **changes: Any) -> str:
    """Seal and publish within ``root``; the pointer's URL."""
    url = f"file://{root}/current"
    folder = seal_small(root, version, **changes)
    bundles.publish(folder, url, changes.get("key", KEY), {**TRUSTED, **_public(changes.get("key", KEY))})
    return url


def _public(key: SigningKey) -> dict[str, bytes]:
    return bundles.parse_public_keys(key.public_line())


def copied(source: Path, target: Path) -> Path:
    return Path(shutil.copytree(source, target))
