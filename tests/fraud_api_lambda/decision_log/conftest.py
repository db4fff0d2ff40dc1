"""The decision log over its backends: real servers, started once; a log of its own for each test.

A further kind is one line in ``KINDS`` and one branch in ``url``.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from fraud_api_lambda.decision_log import DecisionLog, open_decision_log
from tests.fraud_api_lambda.decision_log.servers import PostgresServer, create_table, postgres
from tests.fraud_api_lambda.feature_store.servers import moto_server, name_aws

#: How the suite opens its logs: so wide that a busy machine does not decide what it finds.
AMPLE_MS = 20_000
KINDS = [
    "sqlite",
    pytest.param("postgresql", marks=pytest.mark.server),
    pytest.param("dynamodb", marks=pytest.mark.server),
]
_databases = itertools.count()
_filled: dict[str, str] = {}


@pytest.fixture(scope="session")
def shared_postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL whose database ``template`` is an empty log."""
    with postgres() as server:
        server.execute("CREATE DATABASE template")
        log = open_decision_log(server.url("template"), budget_ms=AMPLE_MS)
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
    name = f"decisions-{next(_databases)}"
    create_table(name)
    return name


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.fixture
def url(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty log of this kind; tests that only read a filled one share it."""
    if "filled" not in request.fixturenames:
        return _new(kind, request, tmp_path)
    if kind == "dynamodb":
        name_aws(request.getfixturevalue("monkeypatch"), request.getfixturevalue("moto"))
    folder = tmp_path.parent / f"filled-{kind}"
    return _filled.get(kind) or _filled.setdefault(kind, _new(kind, request, folder))


def _new(kind: str, request: pytest.FixtureRequest, folder: Path) -> str:
    if kind == "postgresql":
        server: PostgresServer = request.getfixturevalue("shared_postgres")
        name = f"log{next(_databases)}"
        server.execute(f"CREATE DATABASE {name} TEMPLATE template")
        return server.url(name)
    if kind == "dynamodb":
        return f"dynamodb://{request.getfixturevalue('table')}"
    return f"sqlite:///{folder}/new/folder/decisions.db"


@pytest.fixture
def log(url: str) -> Iterator[DecisionLog]:
    """An empty log of this kind."""
    opened = open_decision_log(url, budget_ms=AMPLE_MS)
    yield opened
    opened.close()
