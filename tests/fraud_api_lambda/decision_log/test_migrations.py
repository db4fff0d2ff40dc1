"""The tables: made once however many come, upgraded never without need, refused where a newer version made them."""

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fraud_api_lambda.decision_log import Stored, migrations, open_decision_log
from fraud_api_lambda.errors import StoreUnavailable
from tests.fraud_api_lambda.decision_log.conftest import AMPLE_MS, SQL_KINDS
from tests.fraud_api_lambda.decision_log.records import record
from tests.fraud_api_lambda.decision_log.servers import PostgresServer
from tests.servers import ROOT


@pytest.fixture(params=SQL_KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.fixture
def new_url(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without tables."""
    if kind == "sqlite":
        return f"sqlite:///{tmp_path}/decisions.db"
    server: PostgresServer = request.getfixturevalue("shared_postgres")
    server.execute("DROP DATABASE IF EXISTS new")
    server.execute("CREATE DATABASE new")
    return server.url("new")


@pytest.fixture
def execute(kind: str, new_url: str, request: pytest.FixtureRequest) -> Callable[[str], list[tuple[object, ...]]]:
    def run(statement: str) -> list[tuple[object, ...]]:
        if kind == "postgresql":
            server: PostgresServer = request.getfixturevalue("shared_postgres")
            return server.execute(statement, "new")
        connection = sqlite3.connect(new_url.removeprefix("sqlite:///"))
        rows = connection.execute(statement).fetchall()
        connection.commit()
        connection.close()
        return rows

    return run


def test_the_revisions_are_those_that_alembic_finds_in_this_order() -> None:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    scripts = ScriptDirectory.from_config(config)
    assert scripts.get_heads() == [migrations.HEAD]
    assert tuple(script.revision for script in scripts.walk_revisions())[::-1] == migrations.REVISIONS


def test_several_processes_that_meet_at_a_new_database_all_work(new_url: str) -> None:
    program = """
import sys
from fraud_api_lambda.decision_log import open_decision_log
from tests.fraud_api_lambda.decision_log.records import record
log = open_decision_log(sys.argv[1], budget_ms=20_000)
input()
assert log.append([record(f"t-{sys.argv[2]}")]) == [None]
log.close()
"""
    command = [sys.executable, "-c", program, new_url]
    processes = [
        subprocess.Popen([*command, str(number)], cwd=ROOT, stdin=subprocess.PIPE, text=True) for number in range(4)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=120)
        assert process.returncode == 0
    log = open_decision_log(new_url, budget_ms=AMPLE_MS)
    assert log.find([f"t-{number}" for number in range(4)]).keys() == {f"t-{number}" for number in range(4)}
    log.close()


def test_alembic_is_imported_only_where_there_is_something_to_do(new_url: str) -> None:
    program = """
import sys
from fraud_api_lambda.decision_log import open_decision_log
log = open_decision_log(sys.argv[1], budget_ms=20_000)
log.check()
log.close()
print("alembic" in sys.modules, "sqlalchemy" in sys.modules)
"""
    command = [sys.executable, "-c", program, new_url]
    said = [subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout for _ in range(2)]
    assert said == ["True True\n", "False False\n"]


def test_tables_of_a_newer_version_are_refused_in_clear_words(
    new_url: str, execute: Callable[[str], list[tuple[object, ...]]]
) -> None:
    log = open_decision_log(new_url, budget_ms=AMPLE_MS)
    log.append([record()])
    log.close()
    execute("UPDATE alembic_version SET version_num = '9999'")
    newer = open_decision_log(new_url, budget_ms=AMPLE_MS)
    for call in (newer.check, lambda: newer.append([record("t-2")]), lambda: newer.find(["t-1"])):
        with pytest.raises(StoreUnavailable, match="tables of a newer version of this service"):
            call()
    execute(f"UPDATE alembic_version SET version_num = '{migrations.HEAD}'")
    assert newer.find(["t-1"]) == {"t-1": Stored(record())}
    newer.close()


def test_a_migration_that_fails_leaves_nothing_half_made(
    new_url: str, execute: Callable[[str], list[tuple[object, ...]]]
) -> None:
    execute("CREATE TABLE labels (mine TEXT)")
    log = open_decision_log(new_url, budget_ms=AMPLE_MS)
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            log.append([record()])
    execute("DROP TABLE labels")
    assert log.append([record()]) == [None]
    log.close()
