"""Real servers for the console's tests: the service itself under uvicorn, and small ones that misbehave on purpose."""

import hashlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from tests.streamlit_app.servers import Answer, Recorded, SmallServer

ROOT = Path(__file__).resolve().parents[2]
APP = ROOT / "streamlit_app" / "app.py"

#: A browser is heavy, and has a target of its own: make test-browser
collect_ignore = [] if os.environ.get("BROWSER_TESTS") else ["test_browser.py"]


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the settings of whoever runs the tests nor what an earlier test left in Streamlit's caches."""
    for name in ("FRAUD_API_URL", "BACKEND_URL", "FRAUD_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    st.cache_resource.clear()


@pytest.fixture
def open_console(monkeypatch: pytest.MonkeyPatch) -> Callable[..., AppTest]:
    """Opens the console for the API at ``url``, as a first-time visitor: ``open_console(url, key=None)``."""

    def open_it(url: str, key: str | None = None) -> AppTest:
        monkeypatch.setenv("FRAUD_API_URL", url)
        if key:
            monkeypatch.setenv("FRAUD_API_KEY", key)
        app = AppTest.from_file(str(APP), default_timeout=60).run()
        assert not app.exception
        return app

    return open_it


@contextmanager
def serve(folder: Path, *, port: int = 0, **environment: str) -> Iterator[str]:
    """The real service under uvicorn on a loopback port (0: a free one); its address. ``folder`` is where it works."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(128)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        log = folder / "uvicorn.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "uvicorn", "fraud_api_lambda.handler:app"),
                    *("--fd", str(listener.fileno()), "--log-level", "warning"),
                ],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
                pass_fds=[listener.fileno()],
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            until = time.monotonic() + 120
            while True:
                if process.poll() is not None:
                    raise AssertionError(f"The service did not start:\n{log.read_text()}")
                try:
                    if httpx.get(f"{url}/health", timeout=5, trust_env=False).status_code == 200:
                        break
                except httpx.TransportError:
                    time.sleep(0.1)
                assert time.monotonic() < until, "the service does not answer"
            yield url
        finally:
            process.terminate()
            process.wait(timeout=20)


@pytest.fixture(scope="session")
def rules_only_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The real service without a bundle: rules alone decide."""
    folder = tmp_path_factory.mktemp("rules-only")
    with serve(folder, FRAUD_MODEL_URL="file://models/current") as url:
        yield url


@pytest.fixture(scope="session")
def with_model_url(trained: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The real service with a really trained bundle."""
    with serve(tmp_path_factory.mktemp("with-model"), **environment_of(trained)) as url:
        yield url


def environment_of(trained: Any) -> dict[str, str]:
    """Settings of a service that serves the small bundle."""
    return {
        "FRAUD_MODEL_URL": f"file://{trained.root}/models/current",
        "FRAUD_MODEL_PUBLIC_KEYS": f"file://{trained.root}/keys/development.pub",
    }


#: Keys of the service with a past, by role.
KEYS = {role: f"fraud_{role}_0123456789abcdefghijklmnopqrstuvwxyz" for role in ("score", "review", "admin")}


def keys_setting() -> str:
    return " ".join(f"{role}:{role}:{hashlib.sha256(key.encode()).hexdigest()}" for role, key in KEYS.items())


@dataclass(frozen=True)
class Past:
    """The real service with keys, and weeks of judged and labelled transactions behind it."""

    url: str
    key: str = KEYS["review"]


@pytest.fixture(scope="session")
def with_past(trained: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Past]:
    """Every page has something to show. Tests may add transactions and labels, and rely on no exact number."""
    from tests.streamlit_app.seeding import seed

    folder = tmp_path_factory.mktemp("with-past")
    environment = environment_of(trained)
    seed(folder, environment, rows=3_000, generated=12_000)
    with serve(folder, **environment, FRAUD_API_KEYS=keys_setting()) as url:
        yield Past(url)


@pytest.fixture(params=["rules_only_url", "with_model_url"])
def real_url(request: pytest.FixtureRequest) -> str:
    """The real service, once without and once with a model."""
    return str(request.getfixturevalue(request.param))


@pytest.fixture
def small_server() -> Iterator[Callable[[Answer], SmallServer]]:
    """Starts HTTP servers that answer every request with the given function and keep what was asked."""
    with ExitStack() as running:

        def start(answer: Answer) -> SmallServer:
            class Handler(BaseHTTPRequestHandler):
                def do_GET(self) -> None:
                    size = int(self.headers.get("content-length", "0"))
                    headers = {name.lower(): value for name, value in self.headers.items()}
                    server.requests.append(Recorded(self.command, self.path, headers, self.rfile.read(size)))
                    answer(self)

                do_POST = do_GET

                def log_message(self, *_: object) -> None:
                    pass

            listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
            listener.daemon_threads = True
            server = SmallServer(f"http://127.0.0.1:{listener.server_address[1]}")
            thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
            thread.start()
            running.callback(listener.server_close)
            running.callback(listener.shutdown)
            return server

        yield start


@pytest.fixture
def raw_server() -> Iterator[Callable[[Callable[[socket.socket], None]], str]]:
    """Starts TCP servers that treat every connection with the given function; their address as http://."""
    with ExitStack() as running:

        def start(treat: Callable[[socket.socket], None]) -> str:
            listener = running.enter_context(socket.create_server(("127.0.0.1", 0)))

            def accept() -> None:
                while True:
                    try:
                        connection, _ = listener.accept()
                    except OSError:
                        return

                    def run(connection: socket.socket = connection) -> None:
                        with connection, suppress(OSError):  # the console hangs up, as it should
                            treat(connection)

                    threading.Thread(target=run, daemon=True).start()

            threading.Thread(target=accept, daemon=True).start()
            running.callback(listener.shutdown, socket.SHUT_RDWR)
            return f"http://127.0.0.1:{listener.getsockname()[1]}"

        yield start


@pytest.fixture
def closed_url() -> str:
    """An address at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"
