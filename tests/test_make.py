"""The Makefile: how it finds a Python, and when it installs. Each test runs the real one in a folder of its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no make here; README says how to do without")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with the Makefile, locks that ask for nothing, and a `training` that says it was called."""
    return make_project(tmp_path)


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same after `make setup`, for tests that only call it."""
    project = make_project(tmp_path_factory.mktemp("ready"))
    add_python(project, "python3.13")
    assert make(project, "setup").returncode == 0
    return project


def make_project(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "Makefile", tmp_path)
    for folder in ("training", "streamlit_app", "tests", "bin"):
        (tmp_path / folder).mkdir()
    for lock in ("training/requirements.txt", "streamlit_app/requirements.txt", "tests/requirements.txt"):
        (tmp_path / lock).write_text("# nothing\n")
    (tmp_path / "training" / "__main__.py").write_text("import sys; print('called with', *sys.argv[1:])\n")
    return tmp_path


def make(project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run make with a PATH that holds only the system's tools and ``project/bin``, and no pyenv."""
    tools = project / "tools"
    if not tools.exists():
        tools.mkdir()
        for tool in ("sh", "awk", "cat", "cmp", "rm", "grep", "find", "env", "bash"):
            found = shutil.which(tool)
            assert found, f"this machine has no {tool}"
            (tools / tool).symlink_to(found)
    program = shutil.which("make")
    assert program, "this machine has no make"
    environment = {"PATH": f"{project / 'bin'}:{tools}", "HOME": str(project / "home")}
    return subprocess.run(
        [program, *words], cwd=project, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )


def add_python(project: Path, name: str, script: str | None = None) -> None:
    """Put ``name`` on the PATH: the Python of this test run, or a script that only looks like one."""
    path = project / "bin" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(script or f'#!/bin/sh\nexec "{Path(sys.executable).resolve()}" "$@"\n')
    path.chmod(0o755)


def test_make_alone_lists_the_targets(project: Path) -> None:
    listed = make(project).stdout
    for target in ("setup", "run", "test", "lint", "bench", "train", "lambda", "publish", "smoke", "destroy", "clean"):
        assert f"make {target} " in listed


def test_without_a_fitting_python_one_line_says_so_and_how_to_mend_it(project: Path) -> None:
    add_python(project, "python3", "#!/bin/sh\nexit 1\n")
    done = make(project, "run")
    assert done.returncode != 0
    message = [line for line in done.stderr.splitlines() if not line.startswith("make: ***")]
    assert len(message) == 1, done.stderr
    assert message[0].startswith("No Python 3.12 or 3.13 found")
    assert "make run PYTHON=/path/to/python3.13" in message[0]
    assert not (project / ".venv").exists()


def test_a_shim_that_does_not_run_is_passed_over_and_the_next_python_is_taken(project: Path) -> None:
    add_python(project, "python3.13", "#!/bin/sh\necho 'command not found' >&2; exit 127\n")
    add_python(project, "python3.12", "#!/bin/sh\nexit 1\n")
    add_python(project, "python3")
    done = make(project, "run", "PORT=8010")
    assert done.returncode == 0, done.stderr
    assert "called with demo --port 8010 --console-port 8501" in done.stdout


def test_pyenvs_versions_are_tried_where_no_name_on_the_path_fits(project: Path) -> None:
    add_python(project, "python3", "#!/bin/sh\nexit 1\n")
    add_python(project, "../home/.pyenv/versions/3.13.9/bin/python")
    assert make(project, "setup").returncode == 0


def test_a_second_run_installs_nothing_and_a_changed_lock_installs_again(project: Path) -> None:
    add_python(project, "python3.13")
    assert "Installing" in make(project, "run").stdout
    second = make(project, "run")
    assert "Installing" not in second.stdout
    assert "called with demo" in second.stdout
    (project / "training" / "requirements.txt").write_text("# still nothing\n")
    assert "Installing" in make(project, "run").stdout


def test_an_environment_for_development_serves_the_demo_too(ready: Path) -> None:
    assert "Installing" not in make(ready, "run").stdout


def test_an_environment_whose_python_has_gone_is_made_anew(project: Path) -> None:
    add_python(project, "python3.13")
    make(project, "setup")
    gone = project / ".venv" / "bin" / "python"
    gone.unlink()
    gone.symlink_to(project / "no" / "longer" / "there")
    done = make(project, "setup")
    assert done.returncode == 0, done.stderr
    assert "Installing" in done.stdout


def test_a_lock_that_cannot_be_installed_is_tried_again_the_next_time(project: Path) -> None:
    add_python(project, "python3.13")
    (project / "tests" / "requirements.txt").write_text("nothing-of-that-name==1.0\n")  # no hash: refused unasked
    assert make(project, "setup").returncode != 0
    (project / "tests" / "requirements.txt").write_text("# nothing\n")
    assert make(project, "setup").returncode == 0


@pytest.mark.parametrize("target", ["publish", "smoke", "destroy"])
def test_a_target_for_a_stack_asks_for_its_name(ready: Path, target: str) -> None:
    done = make(ready, target)
    assert f"Name the deployed stack: make {target} STACK=fraud-api" in done.stderr
    assert "called with" not in done.stdout
    assert f"called with {target} --stack mine" in make(ready, target, "STACK=mine").stdout


def test_training_asks_for_the_data(ready: Path) -> None:
    assert "Name the data: make train DATA=" in make(ready, "train").stderr
    called = make(ready, "train", "DATA=a.csv", "FORMAT=paysim", "ARGS=--seed 7").stdout
    assert "called with run --data a.csv --format paysim --out out --seed 7" in called


def test_a_variable_of_the_environment_changes_no_target(ready: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "PORT": "1", "DATA": "b.csv"}
    done = subprocess.run(["make", "-n", "run"], cwd=ready, env=environment, capture_output=True, text=True)
    assert '--port "8000"' in done.stdout
