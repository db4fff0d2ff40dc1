"""Faults under 50 requests a second: an answer every time, flagged while something is missing, and no record lost.

Each row of ``FAULTS`` is one fault with what is promised. The short form runs some of them; the full form
(``make chaos``) all of them, and writes the table in docs/reliability.md.
"""

import os
import secrets
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import psycopg
import pytest

from tests.chaos import harness, table
from tests.chaos.harness import Load, Proxy, Reply, Service, service, until
from tests.conftest import Trained
from tests.fraud_api_lambda.decision_log.servers import create_table as create_decisions
from tests.fraud_api_lambda.decision_log.servers import postgres
from tests.fraud_api_lambda.feature_store.servers import RedisServer, moto_server, name_aws
from tests.fraud_api_lambda.feature_store.servers import create_table as create_profiles

pytestmark = [pytest.mark.server, pytest.mark.chaos, pytest.mark.timeout(600)]


@dataclass
class World:
    """A service with the stores that it has, and what a fault holds on to until it ends."""

    running: Service
    redis: Any = None
    postgres: Any = None
    proxies: dict[str, Proxy] = field(default_factory=dict)
    disk: Path = Path()
    held: list[Any] = field(default_factory=list)

    def file(self, name: str) -> Path:
        return self.running.folder / "data" / name

    def release(self) -> None:
        while self.held:
            self.held.pop().close()


@dataclass(frozen=True)
class Fault:
    world: str
    name: str
    begin: Callable[[World], object]
    end: Callable[[World], object]
    #: Flags of which each is seen while the fault lasts.
    flags: tuple[str, ...] = ()
    promise: str = "answers, flagged; records wait in the outbox"
    #: Statuses beside 200 that are promised.
    others: tuple[int, ...] = ()
    short: bool = False
    #: False: what was acknowledged with the flag decision_log may be recorded nowhere, and none of it is approved.
    recorded: bool = True


#: How long a fault lasts.
SECONDS = 2.0

HISTORY, LOG = ("feature_store",), ("decision_log",)
NO_HISTORY = "answers without history, flagged; profiles catch up"


# --- SQLite ----------------------------------------------------------------------------------------------------------


def lock(*names: str) -> Callable[[World], None]:
    def begin(world: World) -> None:
        for name in names:
            connection = sqlite3.connect(world.file(name), isolation_level=None)
            connection.execute("BEGIN IMMEDIATE")
            world.held.append(connection)

    return begin


def damage_profiles(world: World) -> None:
    path = world.file("profiles.db")
    for name in (path, path.with_name("profiles.db-wal")):
        with name.open("r+b") as file:
            file.write(os.urandom(min(65_536, max(4_096, name.stat().st_size))))


def move_profiles_away(world: World) -> None:
    for path in world.running.folder.glob("data/profiles.db*"):
        path.unlink()


def fill(world: World) -> None:
    block = b"x" * 65_536
    with (world.disk / "filler").open("wb") as file:
        try:
            while True:
                file.write(block)
                file.flush()
        except OSError:
            block = b"x"
    with (world.disk / "filler2").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(block * 512)
        except OSError:
            pass


def empty(world: World) -> None:
    for name in ("filler", "filler2"):
        (world.disk / name).unlink(missing_ok=True)


def kill_and_start(world: World) -> None:
    world.running.kill()
    world.running.start()


def kill_a_worker(world: World) -> None:
    os.kill(world.running.workers_of()[0], signal.SIGKILL)


def nothing(world: World) -> None:
    pass


def block_outbox(world: World) -> None:
    folder = world.running.folder / "data" / "outbox" / "profile"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "0000-not-an-item").write_bytes(os.urandom(300))


# --- Redis, PostgreSQL -----------------------------------------------------------------------------------------------


def redis(*words: str) -> Callable[[World], object]:
    return lambda world: world.redis.command(*words)


def mode(name: str, value: harness.Mode) -> Callable[[World], None]:
    return lambda world: world.proxies[name].set(value)


def sql(*statements: str) -> Callable[[World], None]:
    def run(world: World) -> None:
        for statement in statements:
            world.postgres.execute(statement)

    return run


def take_all_connections(world: World) -> None:
    world.postgres.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    for _ in range(200):
        try:
            world.held.append(psycopg.connect(world.postgres.url()))
        except psycopg.OperationalError:
            return


def lock_decisions(world: World) -> None:
    connection = psycopg.connect(world.postgres.url())
    connection.execute("LOCK TABLE decisions IN ACCESS EXCLUSIVE MODE")
    world.held.append(connection)


def crash(world: World) -> None:
    world.postgres.kill()


def start_postgres(world: World) -> None:
    world.postgres.start()


def both(*calls: Callable[[World], object]) -> Callable[[World], None]:
    def run(world: World) -> None:
        for call in calls:
            call(world)

    return run


def stop_redis(world: World) -> None:
    world.redis.stop()


def start_redis(world: World) -> None:
    world.redis.start()


def freeze(name: str) -> Callable[[World], None]:
    return lambda world: getattr(world, name).freeze()


def thaw(name: str) -> Callable[[World], None]:
    return lambda world: getattr(world, name).thaw()


TERMINATE = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND usename IS NOT NULL"
)
READ_ONLY = ("ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()", TERMINATE)


def make_writable(world: World) -> None:
    with psycopg.connect(world.postgres.url(), autocommit=True, options="-c default_transaction_read_only=off") as c:
        c.execute("ALTER SYSTEM RESET default_transaction_read_only")
        c.execute("SELECT pg_reload_conf()")
        c.execute(TERMINATE)


FAULTS = [
    Fault(
        "sqlite",
        "profiles locked by another process",
        lock("profiles.db"),
        World.release,
        (),
        "answers as ever; profiles catch up",
        short=True,
    ),
    Fault("sqlite", "log locked by another process", lock("decisions.db"), World.release, LOG),
    Fault("sqlite", "both files locked", lock("profiles.db", "decisions.db"), World.release, LOG, short=True),
    Fault(
        "sqlite",
        "profiles overwritten with noise, then moved away",
        damage_profiles,
        move_profiles_away,
        (),
        "answers; rebuild-profiles brings back what the file held",
    ),
    Fault(
        "sqlite", "an item of noise in the outbox", block_outbox, nothing, (), "answers as ever; the item is laid aside"
    ),
    Fault(
        "sqlite",
        "service killed and started again",
        kill_and_start,
        nothing,
        (),
        "nothing acknowledged is lost",
        (0,),
        True,
    ),
    Fault(
        "workers",
        "a worker of two killed",
        kill_a_worker,
        nothing,
        (),
        "the other answers; nothing acknowledged is lost",
        (0,),
    ),
    Fault("disk", "disk of both files full", fill, empty, LOG, short=True),
    Fault(
        "full",
        "disk of files and outbox full",
        fill,
        empty,
        LOG,
        "flagged, and nothing is approved unrecorded",
        recorded=False,
    ),
    Fault(
        "refuse",
        "the same with FRAUD_ON_LOG_FAILURE=refuse",
        fill,
        empty,
        (),
        "503 while nothing can be recorded",
        (503,),
    ),
    Fault("servers", "Redis stopped", stop_redis, start_redis, HISTORY, NO_HISTORY, short=True),
    Fault("servers", "Redis frozen (SIGSTOP)", freeze("redis"), thaw("redis"), HISTORY, NO_HISTORY),
    Fault("servers", "Redis 200 ms away", mode("redis", "slow"), mode("redis", "pass"), HISTORY, NO_HISTORY),
    Fault(
        "servers", "Redis breaks off every connection", mode("redis", "cut"), mode("redis", "pass"), HISTORY, NO_HISTORY
    ),
    Fault("servers", "Redis swallows every byte", mode("redis", "hang"), mode("redis", "pass"), HISTORY, NO_HISTORY),
    Fault(
        "servers",
        "Redis full (maxmemory, noeviction)",
        both(redis("CONFIG", "SET", "maxmemory-policy", "noeviction"), redis("CONFIG", "SET", "maxmemory", "1")),
        redis("CONFIG", "SET", "maxmemory", "0"),
        (),
        "answers; profiles catch up",
    ),
    Fault(
        "servers",
        "Redis takes no writes (too few replicas)",
        redis("CONFIG", "SET", "min-replicas-to-write", "3"),
        redis("CONFIG", "SET", "min-replicas-to-write", "0"),
        (),
        "answers; profiles catch up",
    ),
    Fault(
        "servers",
        "Redis paused by a client",
        redis("CLIENT", "PAUSE", "1500"),
        redis("CLIENT", "UNPAUSE"),
        HISTORY,
        NO_HISTORY,
    ),
    Fault(
        "servers",
        "Redis restarted empty while written to",
        both(stop_redis, start_redis),
        nothing,
        (),
        "answers; history begins anew",
    ),
    Fault("servers", "Redis emptied (FLUSHALL)", redis("FLUSHALL"), nothing, (), "answers; history begins anew"),
    Fault("servers", "PostgreSQL stopped", lambda w: w.postgres.stop(), start_postgres, LOG, short=True),
    Fault("servers", "PostgreSQL frozen (SIGSTOP)", freeze("postgres"), thaw("postgres"), LOG, short=True),
    Fault("servers", "PostgreSQL crashed, restarted mid-write", crash, start_postgres, LOG),
    Fault("servers", "PostgreSQL 200 ms away", mode("postgres", "slow"), mode("postgres", "pass"), LOG),
    Fault("servers", "PostgreSQL breaks off every connection", mode("postgres", "cut"), mode("postgres", "pass"), LOG),
    Fault("servers", "PostgreSQL swallows every byte", mode("postgres", "hang"), mode("postgres", "pass"), LOG),
    Fault("servers", "PostgreSQL at max_connections", take_all_connections, World.release, LOG),
    Fault("servers", "PostgreSQL read-only", sql(*READ_ONLY), make_writable, LOG),
    Fault("servers", "decisions locked in PostgreSQL", lock_decisions, World.release, LOG),
    Fault("servers", "every session ended once", sql(TERMINATE), nothing, (), "answers; nothing is lost"),
    Fault(
        "servers",
        "both servers frozen",
        both(freeze("redis"), freeze("postgres")),
        both(thaw("redis"), thaw("postgres")),
        LOG,
        short=True,
    ),
    Fault(
        "servers",
        "both servers stopped",
        both(stop_redis, lambda w: w.postgres.stop()),
        both(start_redis, start_postgres),
        LOG,
    ),
    Fault("dynamodb", "DynamoDB throttled", mode("aws", "throttled"), mode("aws", "pass"), LOG),
    Fault("dynamodb", "DynamoDB answers 503", mode("aws", "503"), mode("aws", "pass"), LOG, short=True),
    Fault("dynamodb", "DynamoDB answers 403", mode("aws", "403"), mode("aws", "pass"), LOG),
    Fault("dynamodb", "DynamoDB swallows every byte", mode("aws", "hang"), mode("aws", "pass"), LOG),
    Fault("dynamodb", "DynamoDB breaks off every connection", mode("aws", "cut"), mode("aws", "pass"), LOG),
]


@pytest.fixture(scope="module")
def worlds(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], World]]:
    """Each world once, made when it is first asked for."""
    made: dict[str, World] = {}
    model = {
        "FRAUD_MODEL_URL": f"file://{trained.root}/models/current",
        "FRAUD_MODEL_PUBLIC_KEYS": f"file://{trained.root}/keys/development.pub",
    }
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:

        def disk(folder: Path) -> Path:
            folder.mkdir()
            words = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
            if os.getuid() != 0 or subprocess.run(words, capture_output=True).returncode != 0:
                pytest.skip("a disk of 24 MB takes root: mount -t tmpfs")
            stack.callback(subprocess.run, ["umount", "-l", str(folder)], check=False)
            return folder

        def make(name: str) -> World:
            folder = tmp_path_factory.mktemp(name)
            where = folder / "served"
            if name == "sqlite":
                return World(stack.enter_context(service(where, model)))
            if name == "workers":
                return World(stack.enter_context(service(where, model, workers=2)))
            if name in {"disk", "full", "refuse"}:
                small = disk(folder / "disk")
                env = {
                    **model,
                    "FRAUD_FEATURE_STORE_URL": f"sqlite:///{small}/profiles.db",
                    "FRAUD_DECISION_LOG_URL": f"sqlite:///{small}/decisions.db",
                }
                if name != "disk":
                    env["FRAUD_OUTBOX_URL"] = f"file://{small}/outbox"
                if name == "refuse":
                    env["FRAUD_ON_LOG_FAILURE"] = "refuse"
                return World(stack.enter_context(service(where, env)), disk=small)
            if name == "dynamodb":
                address = stack.enter_context(moto_server(folder))
                name_aws(patch, address)
                create_decisions("decisions")
                create_profiles("profiles")
                boto3.DEFAULT_SESSION = None
                proxy = Proxy(int(address.rpartition(":")[2]))
                stack.callback(proxy.close)
                env = {
                    **model,
                    "AWS_ENDPOINT_URL": f"http://127.0.0.1:{proxy.port}",
                    "FRAUD_FEATURE_STORE_URL": "memory://",
                    "FRAUD_DECISION_LOG_URL": "dynamodb://decisions",
                }
                return World(stack.enter_context(service(where, env)), proxies={"aws": proxy})
            server = stack.enter_context(postgres("max_connections=40"))
            store = RedisServer(folder)
            store.start()
            stack.callback(store.stop)
            proxies = {"redis": Proxy(store.port), "postgres": Proxy(server.port)}
            for proxy in proxies.values():
                stack.callback(proxy.close)
            env = {
                **model,
                "FRAUD_FEATURE_STORE_URL": f"redis://127.0.0.1:{proxies['redis'].port}",
                "FRAUD_DECISION_LOG_URL": server.url().replace(f":{server.port}/", f":{proxies['postgres'].port}/"),
            }
            return World(stack.enter_context(service(where, env)), redis=store, postgres=server, proxies=proxies)

        def get(name: str) -> World:
            if name not in made:
                made[name] = make(name)
            return made[name]

        yield get


@pytest.fixture(scope="module")
def rows() -> list[table.Row]:
    """What was measured so far."""
    return []


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Some of the faults, or all with ``--full``."""
    if "fault" in metafunc.fixturenames:
        chosen = [fault for fault in FAULTS if metafunc.config.getoption("--full") or fault.short]
        metafunc.parametrize("fault", chosen, ids=[fault.name for fault in chosen])


def test_a_fault_is_flagged_costs_no_record_and_passes(
    worlds: Callable[[str], World], rows: list[table.Row], full: bool, fault: Fault
) -> None:
    world = worlds(fault.world)
    until(lambda: harness.recovered(world.running), 60, "not well before the fault")
    load = Load(world.running.url, f"{FAULTS.index(fault)}-{secrets.token_hex(4)}")  # no digits that look like a card
    load.start()
    time.sleep(1.0)
    began = time.monotonic()
    try:
        fault.begin(world)
        time.sleep(SECONDS)
    finally:
        fault.end(world)
    ended = time.monotonic()
    time.sleep(1.0)
    load.stop()
    until(lambda: harness.recovered(world.running), 60, "not well after the fault")
    recovered_s = time.monotonic() - ended

    during = [reply for reply in load.replies if began <= reply.due_s < ended]
    assert {reply.status for reply in load.replies} <= {200, *fault.others}
    for flag in fault.flags:
        assert any(flag in reply.degraded for reply in during), f"nothing was flagged {flag}"
    for status in fault.others:
        assert status == 0 or any(reply.status == status for reply in during), f"no answer of {status}"
    kept = load.replies if fault.recorded else [reply for reply in load.replies if "decision_log" not in reply.degraded]
    lost, changed = harness.missing_records(world.running, kept)
    assert not lost
    assert not changed
    if not fault.recorded:
        unrecorded = [reply for reply in load.replies if "decision_log" in reply.degraded]
        missing, _ = harness.missing_records(world.running, unrecorded)
        assert not [r for r in unrecorded if r.transaction_id in missing and b'"outcome":"approve"' in r.body]
    before = [reply.ms for reply in load.replies if reply.due_s < began - 0.2]
    rows.append(row(fault, load.replies, during, before, recovered_s))
    if full:
        table.write(rows, len(FAULTS), SECONDS)


def row(fault: Fault, replies: list[Reply], during: list[Reply], before: list[float], recovered_s: float) -> table.Row:
    answered = [reply for reply in replies if reply.status == 200]
    return table.Row(
        fault=fault.name,
        promise=fault.promise,
        sent=len(replies),
        answered=len(answered),
        flagged=sum(bool(reply.degraded) for reply in answered),
        before_ms=harness.quantile(before, 0.99),
        p99_ms=harness.quantile([reply.ms for reply in during if reply.status], 0.99),
        worst_ms=max((reply.ms for reply in during if reply.status), default=0.0),
        recovered_s=recovered_s,
    )


def test_there_are_at_least_thirty_faults_and_names_are_their_own() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 30
    assert sum(fault.short for fault in FAULTS) >= 8
