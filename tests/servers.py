"""What tests of several folders start and talk to: processes, ports, a stand-in for AWS, servers that misbehave.

Everything listens on a free loopback port, has a folder of its own, and is ended by whoever started it.
"""

import datetime
import ipaddress
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
REGION = "eu-west-1"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def child(
    command: list[str],
    port: int,
    log_file: Path,
    env: Mapping[str, str],
    cwd: Path = ROOT,
    host: str = "127.0.0.1",
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the block ends; it listens on ``port`` of ``host`` when the block begins."""
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            command, cwd=cwd, env={**os.environ, **env}, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + 60
        while True:
            assert process.poll() is None, log_file.read_text()
            assert time.monotonic() < deadline, f"{command} does not listen on port {port}"
            with suppress(OSError), socket.create_connection((host, port), timeout=1):
                break
            time.sleep(0.05)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def program(text: str, *words: object) -> subprocess.Popen[str]:
    """A Python process that runs ``text``, with ``words`` in ``sys.argv``; what it prints is for :func:`result`."""
    command = [sys.executable, "-c", text, *map(str, words)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def result(process: subprocess.Popen[str]) -> str:
    """What it printed, once it has ended well."""
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return output


# --- a stand-in for AWS ----------------------------------------------------------------------------------------------

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
    with child([sys.executable, "-c", _MOTO, host, str(port)], port, folder / "log", {}, host=host):
        yield f"http://{host}:{port}"


@contextmanager
def moto_in_this_process() -> Iterator[str]:
    """The same in a thread; gives its address. Cheaper, where nobody is measured while it works."""
    from moto.moto_server.threaded_moto_server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def name_aws(monkeypatch: pytest.MonkeyPatch, endpoint: str, **more: str) -> None:
    """Make the environment name ``endpoint`` as the whole of AWS, and nobody's real account; ``more`` variables."""
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
        **more,
    }.items():
        monkeypatch.setenv(name, value)


# --- servers that answer as a test wants them to ---------------------------------------------------------------------


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


def certificate(folder: Path, address: str) -> tuple[Path, Path]:
    """A certificate for an IP address that signs itself, and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.KeyUsage(True, False, False, False, False, True, True, False, False),
            critical=True,
        )
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = folder / f"{address}.crt", folder / f"{address}.key"
    certificate_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate_file, key_file
