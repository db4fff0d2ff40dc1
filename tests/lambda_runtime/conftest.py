"""Two real servers on loopback: the Lambda runtime around the handler, and an S3 stand-in that holds the bundle."""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.servers import ROOT, child, free_port  # noqa: F401  (ROOT is in use under this name, too)
from training import runtime
from training.runtime import EmulatorError, Runtime

Start = Callable[..., AbstractContextManager[Runtime]]

#: Credentials that open nothing: the stand-in takes any.
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}


@dataclass(frozen=True)
class MotoServer:
    """A running S3 stand-in: its address and its access log."""

    url: str
    log_file: Path

    @property
    def env(self) -> dict[str, str]:
        """What a client needs to talk to it."""
        return {**CREDENTIALS, "AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": self.url}

    def requests(self, words: str) -> int:
        """How often a request line that begins with ``words``, as in ``GET /bucket/key``, was logged."""
        return self.log_file.read_text().count(f'"{words} ')


@pytest.fixture(scope="module")
def moto_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MotoServer]:
    """An S3 stand-in of its own, empty."""
    port = free_port()
    log_file = tmp_path_factory.mktemp("moto") / "log"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with child(command, port, log_file, CREDENTIALS):
        yield MotoServer(f"http://127.0.0.1:{port}", log_file)


@pytest.fixture(scope="session")
def rie() -> Start:
    """`training.runtime.start`; skips where the emulator does not run or cannot be fetched."""
    try:
        runtime.fetch_emulator()
    except EmulatorError as error:
        pytest.skip(str(error))
    return runtime.start
