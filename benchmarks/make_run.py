"""``make run`` in a prepared clone until ``/predict`` answers: the environment is installed, a bundle is there."""

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

from . import ROOT, keep, show, spread
from .serving import HOT, Prepared, prepared

ROUNDS = 5


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def seconds(clone: Path) -> float:
    port, console = free_port(), free_port()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/predict", json.dumps(HOT).encode(), {"content-type": "application/json"}
    )
    started = time.perf_counter()
    process = subprocess.Popen(
        ["make", "run", f"PORT={port}", f"CONSOLE_PORT={console}"],
        cwd=clone, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        while True:
            try:
                urllib.request.urlopen(request, timeout=30).close()
                return time.perf_counter() - started
            except OSError:
                assert process.poll() is None, "make run has ended"
                assert time.perf_counter() - started < 120, "make run does not answer"
                time.sleep(0.01)
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(timeout=60)


def measure(folder: Prepared) -> None:
    with tempfile.TemporaryDirectory() as name:
        clone = Path(name) / "clone"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        (clone / ".venv").symlink_to((ROOT / ".venv").resolve())
        for kept in ("models", "keys"):
            shutil.copytree(folder.folder / kept, clone / kept)
        seconds(clone)  # bytecode
        found = {"until /predict answers": spread([seconds(clone) for _ in range(ROUNDS)])}
    show("make run", found, "s")
    keep("make_run", found)


def main() -> None:
    with prepared() as folder:
        measure(folder)


if __name__ == "__main__":
    main()
