"""The engine of the container tests is its own, and nothing of it is left."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.container.conftest import ROOT
from tests.container.engine import Engine, EngineError, engine

pytestmark = pytest.mark.server


def bridges() -> set[str]:
    return {path.name for path in Path("/sys/class/net").glob("engine-*")}


def test_two_engines_run_side_by_side_and_leave_neither_files_nor_bridges(running: Engine) -> None:
    before = bridges()
    with engine() as other:
        assert other.address != running.address
        assert len(bridges() - before) == 1
        assert other.docker("images", "-q").stdout == ""
    assert bridges() == before
    assert not other.folder.exists()
    assert running.docker("version").returncode == 0


def test_who_is_asked_to_end_takes_the_engine_along(running: Engine) -> None:
    before = bridges()
    command = [sys.executable, "-m", "tests.container.engine", "sh", "-c", "echo $DOCKER_HOST; exec sleep 60"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        socket = Path(process.stdout.readline().strip().removeprefix("unix://"))
        assert socket.exists()
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(timeout=60) != 0
    assert not socket.parent.exists()
    assert bridges() == before


def test_without_its_programs_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with (
        pytest.raises(EngineError, match=r"^A Docker engine needs Debian's packages docker\.io, iproute2\.$"),
        engine(),
    ):
        pass
