"""``dvc.yaml`` reproduces the default run: its stages fit together, and its commands are the command line's own."""

import ast
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from training.train import Options

ROOT = Path(__file__).resolve().parents[2]
PIPELINE: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text())
STAGES: dict[str, Any] = PIPELINE["stages"]
VARS = {name: value for group in PIPELINE["vars"] for name, value in group.items()}


def outs(stage: dict[str, Any]) -> set[str]:
    return {out if isinstance(out, str) else next(iter(out)) for out in stage["outs"]}


def filled(command: str, **values: int) -> str:
    return re.sub(r"\$\{(\w+)\}", lambda match: str({**VARS, **values}[match[1]]), command)


def test_what_a_stage_needs_is_in_the_repository_or_made_by_an_earlier_one() -> None:
    made: set[str] = set()
    for name, stage in STAGES.items():
        for needed in stage["deps"]:
            assert needed in made or (ROOT / needed).exists(), f"{name} needs {needed}"
        made |= outs(stage)
    assert list(STAGES) == ["generate", "run", "report"]


def test_nothing_that_is_made_would_be_committed() -> None:
    ignored = (ROOT / ".gitignore").read_text().split()
    for stage in STAGES.values():
        for out in outs(stage):
            assert f"/{out.partition('/')[0]}/" in ignored


def test_the_run_depends_on_every_module_that_training_imports() -> None:
    tree = ast.parse((ROOT / "training" / "train.py").read_text())
    own = {
        alias.name if node.module is None else node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level == 1
        for alias in node.names
    }
    # Neither decides what is in the bundle: publish comes after, the generator's work is the data itself.
    wanted = {f"training/{name}.py" for name in own - {"publish", "synthetic"}}
    assert wanted <= set(STAGES["run"]["deps"])


def test_the_values_are_those_of_the_default_run() -> None:
    default = Options("x")
    assert (VARS["seed"], VARS["tune"], VARS["rows"]) == (default.seed, default.tune, 200_000)


def test_the_stages_run_one_after_another(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for stage in STAGES.values():
        words = shlex.split(filled(stage["cmd"], rows=8_000, tune=0))
        assert words[:3] == ["python", "-m", "training"]
        small = ["--no-ablation"] if words[3] == "run" else []
        done = subprocess.run(
            [sys.executable, *words[1:], *small], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        for out in outs(stage):
            assert (tmp_path / out).exists()
    assert (tmp_path / "out/dvc/report/report.html").exists()


@pytest.mark.parametrize("name", STAGES)
def test_a_command_takes_only_values_that_are_declared(name: str) -> None:
    assert set(re.findall(r"\$\{(\w+)\}", STAGES[name]["cmd"])) <= set(VARS)


def test_a_folder_of_one_bundle_stands_for_it_and_of_two_does_not(tmp_path: Path) -> None:
    from fraud_api_lambda.errors import BundleMissing
    from tests.fraud_api_lambda.making import TRUSTED, seal_small
    from training.evaluate import sealed_folder

    first = seal_small(tmp_path, "v1")
    assert sealed_folder(tmp_path, TRUSTED) == first
    seal_small(tmp_path, "v2")
    with pytest.raises(BundleMissing, match="2 bundles"):
        sealed_folder(tmp_path, TRUSTED)
