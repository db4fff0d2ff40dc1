"""A Docker engine of one's own, from Debian's packages: started here, ended by its process id, nothing left behind.

It shares nothing with an engine that may run on the machine: data, state, socket and client configuration lie in one
temporary folder, its containers are on a bridge of their own, and it writes no firewall rule. So its containers reach
this machine (at :attr:`Engine.address`) and one another, and nothing beyond. Needs root, `docker.io` and `iproute2`.

By hand: python -m tests.container.engine docker info      (any command; DOCKER_HOST is set for it)
"""

import ipaddress
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.demo import interruptible

#: Where bridges of this module may lie: one /24 of it for each engine, the first that no route of the machine touches.
_NETWORKS = ipaddress.ip_network("10.213.0.0/16")
_PROGRAMS = {"dockerd": "docker.io", "docker": "docker.io", "containerd": "docker.io", "ip": "iproute2"}


class EngineError(Exception):
    """No engine can be started here; one line that says what is missing."""


@dataclass(frozen=True)
class Engine:
    """A running engine. ``address`` is this machine, as containers see it: servers for them listen there."""

    folder: Path
    address: str

    @property
    def env(self) -> dict[str, str]:
        """What a client (docker, sam, compose) needs to find this engine and no other."""
        return {
            "DOCKER_HOST": f"unix://{self.folder}/docker.sock",
            "DOCKER_CONFIG": str(self.folder / "client"),
            # What `sam build` uses, and all that Debian's package has.
            "DOCKER_BUILDKIT": "0",
        }

    def docker(
        self, *words: str | Path, timeout: float = 120, check: bool = True, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run ``docker words...``. Raises ``EngineError`` with the end of what it printed where it fails."""
        done = subprocess.run(
            ["docker", *map(str, words)],
            env={**os.environ, **self.env},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if check and done.returncode != 0:
            raise EngineError(f"docker {words[0]} failed: {(done.stdout + done.stderr)[-4000:]}")
        return done

    def inspect(self, name: str) -> dict[str, Any]:
        """What the engine knows of a container or an image."""
        found: dict[str, Any] = json.loads(self.docker("inspect", name).stdout)[0]
        return found

    def containers(self) -> list[str]:
        """The ids of all containers, also of those that have ended."""
        return self.docker("ps", "-aq").stdout.split()


@contextmanager
def engine() -> Iterator[Engine]:
    """Start an engine and end it, with all its containers, images and files, when the block ends.

    Raises :class:`EngineError` where none can be started.
    """
    missing = sorted({package for program, package in _PROGRAMS.items() if shutil.which(program) is None})
    if sys.platform != "linux" or os.geteuid() != 0:
        raise EngineError("A Docker engine is started here on Linux and by root only.")
    if missing:
        raise EngineError(f"A Docker engine needs Debian's packages {', '.join(missing)}.")
    # Short: the engine makes sockets far below it, whose paths may have 108 letters.
    folder = Path(tempfile.mkdtemp(prefix="engine-", dir="/tmp"))
    try:
        with _bridge() as (name, address):
            command = [
                *("dockerd", "--data-root", folder / "data", "--exec-root", folder / "exec"),
                *("--pidfile", folder / "docker.pid", "--host", f"unix://{folder}/docker.sock"),
                *("--bridge", name, "--iptables=false", "--ip6tables=false", "--ip-forward=false"),
            ]
            log_file = folder / "log"
            with log_file.open("wb") as log:
                process = subprocess.Popen(
                    [str(word) for word in command],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # Ctrl-C is for whoever started us; we end the engine ourselves
                )
            running = Engine(folder, address)
            try:
                _wait(running, process, log_file)
                yield running
            finally:
                _end(running, process)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if folder.exists():  # an image's read-only mounts go a moment later than the engine
            time.sleep(2)
            shutil.rmtree(folder)


def _wait(running: Engine, process: subprocess.Popen[bytes], log_file: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        if process.poll() is not None or time.monotonic() > deadline:
            lines = log_file.read_text(errors="replace").strip().splitlines() or ["no message"]
            raise EngineError(f"No Docker engine can be started here: {lines[-1][-300:]}")
        with suppress(subprocess.TimeoutExpired):
            if running.docker("info", check=False, timeout=10).returncode == 0:
                return
        time.sleep(0.1)


def _end(running: Engine, process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        with suppress(EngineError, subprocess.TimeoutExpired):
            if left := running.containers():
                running.docker("rm", "-f", "-v", *left)
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    # Its containerd is a child that a killed engine leaves behind.
    with suppress(OSError, ValueError):
        pid = int((running.folder / "exec" / "containerd" / "containerd.pid").read_text())
        if b"containerd" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGTERM)


@contextmanager
def _bridge() -> Iterator[tuple[str, str]]:
    """A bridge of its own, and this machine's address on it."""
    taken = [
        ipaddress.ip_network(route["dst"], strict=False)
        for route in json.loads(_ip("-json", "-4", "route", "show"))
        if route["dst"] != "default"
    ]
    name = f"engine-{secrets.token_hex(4)}"  # 15 letters at most
    free = [net for net in _NETWORKS.subnets(new_prefix=24) if not any(net.overlaps(other) for other in taken)]
    if not free:
        raise EngineError(f"There is no free network in {_NETWORKS} for the engine's bridge.")
    # Any of them: two engines that start at once should not choose the same.
    address = next(iter(secrets.choice(free).hosts()))
    _ip("link", "add", name, "type", "bridge")
    try:
        _ip("address", "add", f"{address}/24", "dev", name)
        _ip("link", "set", name, "up")
        yield name, str(address)
    finally:
        _ip("link", "delete", name)


def _ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)
    if done.returncode != 0:
        raise EngineError(f"No bridge for a Docker engine can be made here: {done.stderr.strip()}")
    return done.stdout


def run(command: list[str], environ: Mapping[str, str]) -> int:
    """Run a command beside an engine of its own and answer its exit code."""
    try:
        with interruptible(), engine() as running:
            return subprocess.run(command, env={**environ, **running.env, "ENGINE_ADDRESS": running.address}).returncode
    except KeyboardInterrupt:
        return 130
    except EngineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:], os.environ))
