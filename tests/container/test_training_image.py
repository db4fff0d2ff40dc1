"""The training image makes a bundle."""

from pathlib import Path

import pytest

from fraud_api_lambda.bundle import open_folder, parse_public_keys
from tests.container.engine import Engine

pytestmark = pytest.mark.server


def test_it_trains_and_seals_a_bundle_as_nobody_in_particular(
    running: Engine, base: str, project: Path, tmp_path: Path
) -> None:
    running.docker("build", "-q", "-f", "training/Dockerfile", "-t", "fraud-training", ".", cwd=project, timeout=800)
    print(f"training image: {running.inspect('fraud-training')['Size'] / 1e6:.0f} MB with the stand-in base")
    tmp_path.chmod(0o777)
    here = ("--rm", "--network", "none", "--read-only", "--tmpfs", "/tmp", "-v", f"{tmp_path}:/work", "fraud-training")
    running.docker("run", *here, "generate", "--rows", "8000", "--out", "data.parquet")
    made = ("run", "--data", "data.parquet", "--format", "synthetic", "--out", "out", "--tune", "1", "--no-ablation")
    running.docker("run", *here, *made, timeout=400)
    (manifest,) = tmp_path.glob("out/*/manifest.json")
    keys = parse_public_keys(next(tmp_path.glob("keys/*.pub")).read_text())
    open_folder(manifest.parent, keys).verify()
