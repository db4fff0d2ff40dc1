"""Real servers on loopback ports, each with a folder of its own and ended by its own process."""

import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

# What stands here for all that is in use under this name, too.
from tests.servers import REGION, ROOT, free_port, http_server, listener, moto_server, name_aws  # noqa: F401


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
