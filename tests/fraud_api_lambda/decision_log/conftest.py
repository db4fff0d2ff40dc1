"""The decision log over its backends: real servers, started once; a log of its own for each test.

A further kind is one line in ``KINDS`` and one branch in ``url``.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from fraud_api_lambda.decision_log import DecisionLog, open_decision_log
from tests.fraud_api_lambda.decision_log.servers import PostgresServer, create_table, postgres
from tests.servers import moto_server, name_aws

#: How the suite opens its logs: so wide that a busy machine does not decide what it finds.
AMPLE_MS = 20_000
SQL_KINDS = ["sqlite", pytest.param("postgresql", marks=pytest.mark.server)]
KINDS = [*SQL_KINDS, pytest.param("dynamodb", marks=pytest.mark.server)]
_tables = itertools.count()


@pytest.fixture(scope="session")
def shared_postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL that has the tables already."""
    with postgres() as server:
        log = open_decision_log(server.url(), budget_ms=AMPLE_MS)
        log.check()
        log.close()
        yield server


@pytest.fixture
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL for one test, to be stopped, frozen and started again."""
    with postgres() as server:
        yield server


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with moto_server(tmp_path_factory.mktemp("moto")) as address:
        yield address


@pytest.fixture
def table(moto: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a new table in the stand-in for AWS, which the environment names."""
    name_aws(monkeypatch, moto)
    name = f"decisions-{next(_tables)}"
    create_table(name)
    return name


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.fixture
def url(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty log of this kind."""
    if kind == "postgresql":
        server: PostgresServer = request.getfixturevalue("shared_postgres")
        server.execute("TRUNCATE decisions, decision_rules, labels")
        return server.url()
    if kind == "dynamodb":
        return f"dynamodb://{request.getfixturevalue('table')}"
    return f"sqlite:///{tmp_path}/new/folder/decisions.db"


@pytest.fixture
def log(url: str) -> Iterator[DecisionLog]:
    """An empty log of this kind."""
    opened = open_decision_log(url, budget_ms=AMPLE_MS)
    yield opened
    opened.close()
