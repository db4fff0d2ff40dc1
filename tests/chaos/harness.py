"""The service under a constant arrival rate, a fault in the middle, and what must hold of all that was acknowledged."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import httpx

from fraud_api_lambda.decision_log import open_decision_log
from tests.lambda_runtime.conftest import ROOT, free_port

#: Requests a second, sent when they are due whether or not those before have been answered.
RATE = 50


@dataclass
class Service:
    """uvicorn around the handler in a folder of its own, on one port however often it is started."""

    folder: Path
    env: Mapping[str, str]
    workers: int = 1
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log_url(self) -> str:
        chosen = self.env.get("FRAUD_DECISION_LOG_URL", "")
        return chosen or f"sqlite:///{self.folder}/data/decisions.db"

    def start(self) -> None:
        command = [sys.executable, "-m", "uvicorn", "fraud_api_lambda.handler:app", "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--workers", str(self.workers), "--log-level", "warning"]
        env = {**os.environ, **self.env, "PYTHONPATH": str(ROOT), "FRAUD_LOG_LEVEL": "WARNING"}
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=env, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + 60
        while True:
            assert self.process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline, "the service does not answer"
            with suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}/health", trust_env=False, timeout=2).status_code == 200:
                    return
            time.sleep(0.05)

    def kill(self) -> None:
        """Every process of it, at once."""
        assert self.process is not None
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def workers_of(self) -> list[int]:
        """Its worker processes; the resource tracker beside them is none."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.kill()


@contextmanager
def service(folder: Path, env: Mapping[str, str], *, workers: int = 1) -> Iterator[Service]:
    running = Service(folder, env, workers)
    folder.mkdir(parents=True, exist_ok=True)
    running.start()
    try:
        yield running
    finally:
        running.stop()


@dataclass(frozen=True)
class Reply:
    """What came back of one request. ``ms`` counts from when it was due. ``status`` 0: the connection broke."""

    transaction_id: str
    due_s: float
    ms: float
    status: int
    body: bytes

    @property
    def degraded(self) -> set[str]:
        return set(json.loads(self.body)["degraded"]) if self.status == 200 else set()


class Load:
    """``RATE`` requests a second from ``start`` to ``stop``, by a thread of its own."""

    def __init__(self, url: str, name: str) -> None:
        self._url, self._name = url, name
        self.replies: list[Reply] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive()

    async def _run(self) -> None:
        limits = httpx.Limits(max_connections=500, max_keepalive_connections=100)
        async with httpx.AsyncClient(base_url=self._url, trust_env=False, timeout=20, limits=limits) as client:
            began, n, tasks = time.monotonic(), 0, []
            while not self._stop.is_set():
                due = began + n / RATE
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                tasks.append(asyncio.create_task(self._ask(client, n, due)))
                n += 1
            await asyncio.gather(*tasks)

    async def _ask(self, client: httpx.AsyncClient, n: int, due: float) -> None:
        transaction_id = f"{self._name}-{n}"
        sent = {"amount": 10 + n % 7, "transaction_id": transaction_id, "type": "PAYMENT"}
        sent |= {"customer_id": f"C{n % 20}", "counterparty_id": f"M{n % 5}"}
        try:
            answer = await client.post("/predict", json=sent)
            status, body = answer.status_code, answer.content
        except httpx.HTTPError:
            status, body = 0, b""
        self.replies.append(Reply(transaction_id, due, (time.monotonic() - due) * 1000, status, body))


def quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def until(what: Any, seconds: float, why: str) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, why
        time.sleep(0.1)


def recovered(running: Service) -> bool:
    """Whether an answer has no flag, and nothing of decisions or profiles waits any more."""
    with suppress(httpx.HTTPError, ValueError):
        answer = httpx.post(
            f"{running.url}/predict", json={"amount": 1, "customer_id": "C1"}, trust_env=False, timeout=5
        )
        ready = httpx.get(f"{running.url}/ready", trust_env=False, timeout=5).json()
        waiting = ready["outbox"]
        if not isinstance(waiting, dict) or any(waiting.values()):
            return False
        return answer.status_code == 200 and answer.json()["degraded"] == []
    return False


def missing_records(running: Service, replies: list[Reply]) -> tuple[list[str], list[str]]:
    """Of what was acknowledged: ids that the log lacks, and ids whose record is not the answer, byte for byte."""
    log = open_decision_log(running.log_url, budget_ms=20_000)
    try:
        told = {reply.transaction_id: reply.body for reply in replies if reply.status == 200}
        ids = list(told)
        found: dict[str, bytes] = {}
        for start in range(0, len(ids), 50):
            stored = log.find(ids[start : start + 50])
            found |= {name: each.record.answer for name, each in stored.items()}
    finally:
        log.close()
    lost = [name for name in ids if name not in found]
    return lost, [name for name, answer in found.items() if judged(answer) != judged(told[name])]


def judged(answer: bytes) -> dict[str, Any]:
    """The answer without its flags: a write that was not confirmed in time may have been made, before the flag was."""
    found: dict[str, Any] = json.loads(answer)
    return {**found, "degraded": None}


Mode = Literal["pass", "slow", "hang", "cut", "403", "404", "503", "throttled"]
_CANNED = {
    "403": (403, b"<Error><Code>AccessDenied</Code></Error>"),
    "404": (404, b"<Error><Code>NoSuchKey</Code></Error>"),
    "503": (503, b"<Error><Code>ServiceUnavailable</Code></Error>"),
    "throttled": (
        400,
        b'{"__type":"com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException","message":"slow"}',
    ),
}


class Proxy:
    """A TCP proxy before a server: it passes bytes on, late, never, breaks off, or answers HTTP errors itself."""

    def __init__(self, port: int) -> None:
        self._target = port
        self.mode: Mode = "pass"
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def set(self, mode: Mode) -> None:
        self.mode = mode
        if mode == "cut":
            opened, self._open = self._open, []
            for each in opened:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
                each.close()

    def close(self) -> None:
        self.set("cut")
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._server.accept()
                if self.mode == "cut":
                    connection.close()
                    continue
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError):
            self._open.append(connection)
            server = socket.create_connection(("127.0.0.1", self._target), timeout=10)
            server.settimeout(None)
            self._open.append(server)
            threading.Thread(target=self._pass, args=(server, connection, False), daemon=True).start()
            self._pass(connection, server, True)

    def _pass(self, source: socket.socket, target: socket.socket, asking: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                while self.mode == "hang":
                    time.sleep(0.02)
                if self.mode == "slow" and asking:
                    time.sleep(0.2)
                if asking and self.mode in _CANNED:
                    status, body = _CANNED[self.mode]
                    head = f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
                    source.sendall(head.encode() + body)
                    break
                target.sendall(data)
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
