"""Real servers on loopback ports, each with a folder of its own and ended by its own process."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
REGION = "eu-west-1"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class RedisServer:
    """A Redis that keeps nothing; ``options`` are those of redis-server's command line."""

    folder: Path
    options: tuple[str, ...] = ()
    tls: bool = False
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"{'rediss' if self.tls else 'redis'}://127.0.0.1:{self.port}"

    def start(self) -> None:
        program = shutil.which("redis-server")
        if program is None:
            pytest.skip("redis-server is not installed (Debian: apt-get install redis-server)")
        ports = ("--port", "0", "--tls-port", str(self.port)) if self.tls else ("--port", str(self.port))
        common = ("--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(self.folder))
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([program, *ports, *common, *self.options], stdout=log, stderr=log)
        self._until_it_listens()

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()
            self.process = None

    def freeze(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def command(self, *words: str) -> Any:
        """What the server answers to a command, asked over a connection of its own."""
        import redis

        with redis.Redis(port=self.port) as client:
            return client.execute_command(*words)

    def _until_it_listens(self) -> None:
        assert self.process is not None
        deadline = time.monotonic() + 30
        while True:
            assert self.process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            time.sleep(0.02)


#: moto compares and writes without a lock between its threads, which DynamoDB does as one for an item: here one request
#: is answered at a time, over as many connections as clients like. To take a transaction back if need be, moto copies
#: whole tables, to the last number, and for an index entry it makes the item's JSON anew for each attribute; what is
#: done in their place does for tables with plain projections, many times faster.
_MOTO = """
import copy, sys, threading
from werkzeug.serving import run_simple
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from moto.dynamodb.models.dynamo_type import Item
from moto.dynamodb.models.table import Table
def copied(item):
    new, attributes = copy.copy(item), type(item.attrs).__new__(type(item.attrs))
    dict.update(attributes, item.attrs)  # which sizes up nothing
    new.attrs = attributes
    return new
def copied_table(table, memo):
    new = copy.copy(table)
    new.items = copy.copy(table.items)
    for key, items in table.items.items():
        new.items[key] = {sort: copied(item) for sort, item in items.items()}
    return new
Table.__deepcopy__ = copied_table
def project(item, paths):
    names, new = {name for name, in paths}, copied(item)
    for name in new.attrs.keys() - names:
        dict.pop(new.attrs, name)
    return new
Item.project = project
moto, lock = DomainDispatcherApplication(create_backend_app), threading.Lock()
def one_at_a_time(environ, start_response):
    with lock:
        return list(moto(environ, start_response))
run_simple(sys.argv[1], int(sys.argv[2]), one_at_a_time, threaded=True, request_handler=MotoRequestHandler)
"""


@contextmanager
def moto_server(folder: Path, host: str = "127.0.0.1", port: int | None = None) -> Iterator[str]:
    """The stand-in for AWS, in a process of its own, on an address of this machine; gives its URL."""
    port = port or free_port()
    log_file = folder / "log"
    command = [sys.executable, "-c", _MOTO, host, str(port)]
    with log_file.open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while True:
            assert process.poll() is None, log_file.read_text()
            assert time.monotonic() < deadline, "moto does not listen"
            with suppress(OSError), socket.create_connection((host, port), timeout=1):
                break
            time.sleep(0.05)
        yield f"http://{host}:{port}"
    finally:
        process.kill()
        process.wait()


def name_aws(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """Make the environment name ``endpoint`` as the whole of AWS, and nobody's real account."""
    for name in list(os.environ):
        if name.startswith("AWS_") and name != "AWS_CA_BUNDLE":
            monkeypatch.delenv(name)
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "a-secret-key",
        "AWS_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/nonexistent/config",
        "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent/credentials",
    }.items():
        monkeypatch.setenv(name, value)


def create_table(name: str) -> None:
    """The table as the template makes it."""
    import boto3

    client = boto3.client("dynamodb", region_name=REGION)
    client.create_table(
        TableName=name,
        KeySchema=[{"AttributeName": "party", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "party", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    client.update_time_to_live(TableName=name, TimeToLiveSpecification={"Enabled": True, "AttributeName": "expires_at"})
    client.close()


@contextmanager
def listener(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A TCP server that runs ``answer`` for every connection, in a thread; gives its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        opened: list[socket.socket] = []

        def serve(connection: socket.socket) -> None:
            with suppress(OSError):
                answer(connection)

        def accept() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    opened.append(connection)
                    threading.Thread(target=serve, args=(connection,), daemon=True).start()

        acceptor = threading.Thread(target=accept, daemon=True)
        acceptor.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        acceptor.join(10)
        for connection in opened:
            connection.close()


@contextmanager
def http_server(answer: Callable[[str, bytes], tuple[int, bytes]]) -> Iterator[str]:
    """An HTTP server that replies ``answer(operation, body) -> (status, JSON)`` as DynamoDB; gives its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            operation = self.headers["X-Amz-Target"].partition(".")[2]
            status, reply = answer(operation, self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(status)
            self.send_header("Content-Type", "application/x-amz-json-1.0")
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join(10)
    server.server_close()
