"""`python -m training demo`: both servers for real, what they print, and that nothing is left behind."""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from tests.conftest import Trained

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.server, pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")]


@pytest.fixture
def checkout(trained: Trained, tmp_path: Path) -> Path:
    """A folder like a clone in which the default bundle has been made."""
    for package in ("fraud_api_lambda", "training", "streamlit_app"):
        (tmp_path / package).symlink_to(ROOT / package)
    for folder in ("models", "keys"):
        shutil.copytree(trained.root / folder, tmp_path / folder)
    return tmp_path


@pytest.fixture
def ports() -> tuple[int, int]:
    with ExitStack() as open_ones:
        sockets = [open_ones.enter_context(socket.socket()) for _ in range(2)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return sockets[0].getsockname()[1], sockets[1].getsockname()[1]


def command(ports: tuple[int, int]) -> list[str]:
    return [sys.executable, "-m", "training", "demo", "--port", str(ports[0]), "--console-port", str(ports[1])]


@contextmanager
def started(checkout: Path, ports: tuple[int, int]) -> Iterator[subprocess.Popen[str]]:
    """The demo, once it has printed its greeting; what it printed is in ``checkout/said``."""
    said = checkout / "said"
    with said.open("w") as out:
        process = subprocess.Popen(
            command(ports), cwd=checkout, stdin=subprocess.DEVNULL, stdout=out, stderr=out, text=True
        )
    try:
        deadline = time.monotonic() + 120
        while "Ctrl-C" not in said.read_text():
            assert process.poll() is None, said.read_text()
            assert time.monotonic() < deadline, said.read_text()
            time.sleep(0.1)
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        process.wait(timeout=30)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_it_prints_both_addresses_and_commands_that_work(checkout: Path, ports: tuple[int, int]) -> None:
    with started(checkout, ports):
        said = (checkout / "said").read_text()
        assert f"http://127.0.0.1:{ports[0]}/docs" in said
        assert f"http://127.0.0.1:{ports[1]}" in said
        line = next(line for line in said.splitlines() if "curl " in line)
        words = shlex.split(line)
        body = words[words.index("-d") + 1]
        with httpx.Client(trust_env=False) as client:
            name, _, value = words[words.index("-H") + 1].partition(": ")
            answer = client.post(words[2], content=body, headers={name: value})
            assert answer.status_code == 200
            assert answer.json()["degraded"] == []
            assert client.get(f"http://127.0.0.1:{ports[0]}/docs").status_code == 200
            assert client.get(f"http://127.0.0.1:{ports[1]}/").status_code == 200
        twin = next(line for line in said.splitlines() if "Invoke-RestMethod" in line)
        quoted = re.search(r"-Body '(.*)'$", twin)
        assert quoted
        assert json.loads(quoted[1]) == json.loads(body)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_stopping_it_stops_both_servers(checkout: Path, ports: tuple[int, int], how: signal.Signals) -> None:
    with started(checkout, ports) as process:
        assert all(map(listens, ports))
        process.send_signal(how)
        assert process.wait(timeout=30) == 0
    assert not any(map(listens, ports))
    assert (checkout / "said").read_text().rstrip().endswith("Stopped.")


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks for the child in /proc")
@pytest.mark.parametrize("victim", [0, 1])
def test_when_one_server_dies_the_other_is_stopped_and_one_line_says_so(
    checkout: Path, ports: tuple[int, int], victim: int
) -> None:
    with started(checkout, ports) as process:
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                words = (folder / "cmdline").read_bytes().split(b"\0")
                if str(ports[victim]).encode() in words and b"demo" not in words:
                    os.kill(int(folder.name), signal.SIGKILL)
        assert process.wait(timeout=30) == 1
    assert not any(map(listens, ports))
    name = ("API", "console")[victim]
    last = (checkout / "said").read_text().rstrip().splitlines()[-1]
    assert last.startswith(f"error: The {name} has stopped by itself")


@pytest.mark.parametrize(("busy", "option"), [(0, "--port"), (1, "--console-port")])
def test_a_busy_port_is_one_line_that_names_the_option(
    checkout: Path, ports: tuple[int, int], busy: int, option: str
) -> None:
    with socket.create_server(("127.0.0.1", ports[busy])):
        done = subprocess.run(command(ports), cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"Port {ports[busy]} on 127.0.0.1" in one_line(done)
    assert f"{option} " in one_line(done)


def test_one_port_for_both_is_refused(checkout: Path, ports: tuple[int, int]) -> None:
    done = subprocess.run(command((ports[0], ports[0])), cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 1
    assert "cannot both have port" in one_line(done)


def test_a_broken_bundle_is_one_line_with_the_mend(checkout: Path, ports: tuple[int, int]) -> None:
    (forest,) = (checkout / "models").glob("*/forest.npz")
    forest.write_bytes(forest.read_bytes()[:-1])
    done = subprocess.run(command(ports), cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 1
    assert "The bundle is refused" in one_line(done)
    assert "Move the folder models away and run again." in one_line(done)
    assert not any(map(listens, ports))
