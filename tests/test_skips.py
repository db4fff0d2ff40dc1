"""A skip in CI is a failure, except for measuring data. Checked with real runs of pytest on small files."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent

SKIPS = """
import pytest
pytestmark = []

def test_that_passes():
    pass

@pytest.mark.data
def test_marked_as_needing_data():
    pytest.skip("no data here")

def test_that_names_the_data(measuring_data):
    pass
"""
NO_SERVER = (
    SKIPS
    + """
@pytest.mark.skipif(True, reason="no server here")
def test_that_needs_a_server():
    pass
"""
)
WHOLE_FILE = "import pytest\npytest.skip('no browser here', allow_module_level=True)\n"


def run(folder: Path, text: str, *, ci: bool) -> subprocess.CompletedProcess[str]:
    shutil.copy(HERE / "conftest.py", folder)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = data: needs data\n")
    (folder / "test_it.py").write_text(text)
    environment = {name: value for name, value in os.environ.items() if name not in {"CI", "FRAUD_TEST_DATA"}}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(folder)],
        cwd=folder,
        env={**environment, "PYTHONPATH": str(HERE.parent), **({"CI": "true"} if ci else {})},
        capture_output=True,
        text=True,
    )


def test_in_ci_only_absent_data_may_be_skipped(tmp_path: Path) -> None:
    done = run(tmp_path, SKIPS, ci=True)
    assert "1 passed, 2 skipped" in done.stdout
    assert done.returncode == 0


@pytest.mark.parametrize(("text", "reason"), [(NO_SERVER, "no server here"), (WHOLE_FILE, "no browser here")])
def test_in_ci_any_other_skip_is_a_failure_that_gives_its_reason(tmp_path: Path, text: str, reason: str) -> None:
    done = run(tmp_path, text, ci=True)
    assert done.returncode != 0
    assert "A skip is a failure in CI" in done.stdout
    assert reason in done.stdout


@pytest.mark.parametrize("text", [NO_SERVER, WHOLE_FILE])
def test_elsewhere_a_skip_stays_a_skip(tmp_path: Path, text: str) -> None:
    done = run(tmp_path, text, ci=False)
    assert "failed" not in done.stdout
    assert "skipped" in done.stdout
