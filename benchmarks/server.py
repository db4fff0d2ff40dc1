"""The full path under uvicorn (one worker, uvloop): profiles and decision log in SQLite, each answer on the disk first.

Requests a second of connections that each wait for their answer, ours against the null endpoint and the predecessors'
design, in turns of a second and a half on servers that all run; and the CPU time of the serving process for a request.
The client is a process's event loop with sockets of its own: it takes a fraction of what the null endpoint takes.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import ROOT, keep, ratios, show, spread
from .serving import MODULES, Prepared, bodies, prepared

ROUNDS = 10
SECONDS = 1.5
CONNECTIONS = (1, 16)


@dataclass(frozen=True)
class Server:
    port: int
    process: subprocess.Popen[bytes]

    def cpu_s(self) -> float:
        """CPU seconds that the process has used; NaN where the system does not tell."""
        if sys.platform != "linux":
            return float("nan")
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def serve(folder: Prepared, module: str, **settings: str) -> Iterator[Server]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    loop = ["--loop", "uvloop"] if sys.platform != "win32" else []
    command = [sys.executable, "-m", "uvicorn", f"{module}:app", *loop, "--port", str(port), "--log-level", "warning"]
    with (folder.folder / f"{module}.log").open("wb") as log:
        env = folder.env(**settings)
        process = subprocess.Popen([*command, "--no-access-log"], cwd=ROOT, env=env, stdout=log, stderr=log)
    try:
        until = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/openapi.json", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, f"{module} has stopped"
                assert time.monotonic() < until, f"{module} does not answer"
                time.sleep(0.1)
        yield Server(port, process)
    finally:
        process.terminate()
        process.wait(timeout=30)


class _Connection(asyncio.Protocol):
    """Sends a request, waits for the whole answer, sends the next."""

    def __init__(self, requests: Iterator[bytes]) -> None:
        self.requests = requests
        self.answered = 0
        self.failed = 0
        self._seen = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(next(self.requests))

    def data_received(self, data: bytes) -> None:
        self._seen += data
        head, found, body = self._seen.partition(b"\r\n\r\n")
        at = head.lower().find(b"content-length:")
        if not found or len(body) < int(head[at + 15 :].split(b"\r\n", 1)[0]):
            return
        self.answered += 1
        self.failed += not head.startswith(b"HTTP/1.1 200")
        self._seen = b""
        self._transport.write(next(self.requests))


_HEAD = b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"


def requests(sent: list[dict[str, object]]) -> Iterator[bytes]:
    """The bodies as HTTP requests, over and over."""
    made = []
    for body in sent:
        data = json.dumps(body).encode()
        head = (
            b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        )
        made.append(head % len(data) + data)
    while True:
        yield from made


async def load(port: int, stream: Iterator[bytes], connections: int, seconds: float) -> float:
    """Requests answered a second."""
    loop = asyncio.get_running_loop()
    opened = [await loop.create_connection(lambda: _Connection(stream), "127.0.0.1", port) for _ in range(connections)]
    protocols = [protocol for _, protocol in opened]
    started, before = time.perf_counter(), sum(protocol.answered for protocol in protocols)
    await asyncio.sleep(seconds)
    done, took = sum(protocol.answered for protocol in protocols) - before, time.perf_counter() - started
    for transport, _ in opened:
        transport.close()
    assert not any(protocol.failed for protocol in protocols), "a request was not answered with 200"
    return done / took


def measure(folder: Prepared) -> None:
    settings = {
        "FRAUD_FEATURE_STORE_URL": f"sqlite:///{folder.folder}/profiles.db",
        "FRAUD_DECISION_LOG_URL": f"sqlite:///{folder.folder}/decisions.db",
        "FRAUD_DEADLINE_MS": "10000",  # of a busy machine no request is to be broken off
    }
    stream = requests(bodies(4_000))
    found: dict[str, dict[str, dict[str, float]]] = {}
    with ExitStack() as running:
        servers = {name: running.enter_context(serve(folder, module, **settings)) for name, module in MODULES.items()}
        for connections in CONNECTIONS:
            rates: dict[str, list[float]] = {name: [] for name in servers}
            cpu: dict[str, list[float]] = {name: [] for name in servers}
            for turn in range(ROUNDS + 1):
                for name, server in servers.items():
                    before = server.cpu_s()
                    rate = asyncio.run(load(server.port, stream, connections, SECONDS))
                    if turn:  # the first warms up
                        rates[name].append(rate)
                        cpu[name].append((server.cpu_s() - before) / (rate * SECONDS))
            found[f"{connections} at once"] = {
                **{f"{name}, requests/s": spread(each) for name, each in rates.items()},
                **{f"{name}, CPU us a request": spread([1e6 * one for one in each]) for name, each in cpu.items()},
                "ours / null": ratios(rates["ours"], rates["null"]),
                "ours / predecessors": ratios(rates["ours"], rates["predecessors"]),
            }
    for title, rows in found.items():
        show(f"full path, {title}", rows, "")
    keep("server", found)


def main() -> None:
    with prepared() as folder:
        measure(folder)


if __name__ == "__main__":
    main()
