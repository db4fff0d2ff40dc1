"""A real PostgreSQL on a loopback port, with a folder of its own and ended by its own process."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.servers import REGION, ROOT, free_port

USER, PASSWORD = "fraud", "hunter2"


def _program(name: str) -> str:
    """Debian keeps the server's programs out of the PATH, by version."""
    found = shutil.which(name) or next(map(str, sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))[-1:]), None)
    if found is None:
        pytest.skip(f"{name} is not installed (Debian: apt-get install postgresql)")
    return found


def _owner() -> dict[str, Any]:
    """How to run what refuses to run as root: as the user that Debian's package makes."""
    if os.getuid() != 0:
        return {}
    try:
        account = pwd.getpwnam("postgres")
    except KeyError:
        pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


@dataclass
class PostgresServer:
    """A PostgreSQL with one superuser and a password; ``options`` are settings as in ``fsync=off``.

    Its folder is not pytest's: that one is closed to all users but the one who runs the tests.
    """

    options: tuple[str, ...] = ()
    port: int = field(default_factory=free_port)
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="postgres-")))
    process: subprocess.Popen[bytes] | None = None
    #: Which one is meant where none is named.
    database: str = "postgres"

    def url(self, database: str = "", *, password: str = PASSWORD) -> str:
        return f"postgresql://{USER}:{password}@127.0.0.1:{self.port}/{database or self.database}"

    def start(self) -> None:
        """Also after ``stop`` and ``kill``: what was committed is there again."""
        owner = _owner()
        data = self.folder / "data"
        if not data.exists():
            (self.folder / "password").write_text(PASSWORD)
            for path in (self.folder, self.folder / "password"):
                if owner:
                    os.chown(path, owner["user"], owner["group"])
            made = subprocess.run(
                [
                    *(_program("initdb"), "-D", str(data), "-U", USER, "--auth=scram-sha-256", "--encoding=UTF8"),
                    # Not C: what must sort by bytes has to say so itself.
                    *("--locale=C.UTF-8", "--no-sync", f"--pwfile={self.folder / 'password'}"),
                ],
                cwd=self.folder,
                capture_output=True,
                text=True,
                **owner,
            )
            assert made.returncode == 0, made.stderr
        settings = (
            *("listen_addresses=127.0.0.1", f"port={self.port}", "unix_socket_directories=", "shared_buffers=32MB"),
            # No test cuts the power: what the server has written is with the operating system, whatever is killed.
            *("fsync=off", "max_connections=60", *self.options),
        )
        command = [_program("postgres"), "-D", str(data), *(word for each in settings for word in ("-c", each))]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log, **owner)
        self._until_it_answers()

    def stop(self) -> None:
        """In an orderly manner, whoever is connected."""
        if self.process is not None:
            self.thaw()
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()
            self.process = None

    def kill(self) -> None:
        """As a machine that dies: the server and every process of it, at once."""
        assert self.process is not None
        processes = self._processes()
        for pid in processes:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self.process = None
        deadline = time.monotonic() + 30
        while any(Path(f"/proc/{pid}").exists() for pid in processes):  # they hold the shared memory
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def freeze(self) -> None:
        for pid in self._processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        for pid in self._processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def remove(self) -> None:
        if self.process is not None:
            self.kill()
        shutil.rmtree(self.folder)

    def execute(self, statement: str, database: str = "") -> list[tuple[Any, ...]]:
        """The rows that a statement gives, asked over a connection of its own."""
        import psycopg

        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def _processes(self) -> list[int]:
        """The server, then those it started: every session is a process, in a session (of Unix) of its own."""
        assert self.process is not None
        started = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [self.process.pid, *map(int, started)]

    def _until_it_answers(self) -> None:
        import psycopg

        assert self.process is not None
        deadline = time.monotonic() + 60
        while True:
            assert self.process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline, "PostgreSQL does not answer"
            with suppress(psycopg.OperationalError):
                psycopg.connect(self.url("postgres"), connect_timeout=5).close()
                return
            time.sleep(0.02)


@contextmanager
def postgres(*options: str) -> Iterator[PostgresServer]:
    server = PostgresServer(options)
    try:
        server.start()
        yield server
    finally:
        server.remove()


def table_in_template() -> dict[str, Any]:
    """The decisions table's properties in template.yaml."""
    from samtranslator.yaml_helper import yaml_parse

    properties: dict[str, Any] = yaml_parse((ROOT / "template.yaml").read_text())["Resources"]["Decisions"][
        "Properties"
    ]
    return properties


def create_table(name: str) -> None:
    """The table with the very keys and indexes of template.yaml."""
    import boto3

    template = table_in_template()
    indexes = [
        {key: index[key] for key in ("IndexName", "KeySchema", "Projection")}
        for index in template["GlobalSecondaryIndexes"]
    ]
    client = boto3.client("dynamodb", region_name=REGION)
    client.create_table(
        TableName=name,
        KeySchema=template["KeySchema"],
        AttributeDefinitions=template["AttributeDefinitions"],
        GlobalSecondaryIndexes=indexes,
        BillingMode="PAY_PER_REQUEST",
    )
    client.update_time_to_live(TableName=name, TimeToLiveSpecification=template["TimeToLiveSpecification"])
    client.close()
