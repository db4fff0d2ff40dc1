"""The four stores over their real servers; Redis and the stand-in for AWS are started once."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fraud_api_lambda.feature_store import FeatureStore, open_feature_store
from tests.fraud_api_lambda.feature_store.servers import RedisServer, create_table
from tests.servers import moto_server, name_aws

#: How the suite opens its stores: so wide that a busy machine does not decide what it finds.
AMPLE_MS = 20_000
_tables = itertools.count()

Open = Callable[[], FeatureStore]


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis for one test, to be stopped, frozen and started again."""
    folder = tmp_path / "redis"
    folder.mkdir()
    server = RedisServer(folder)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with moto_server(tmp_path_factory.mktemp("moto")) as address:
        yield address


@pytest.fixture
def table(moto: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a new table in the stand-in for AWS, which the environment names."""
    name_aws(monkeypatch, moto)
    name = f"parties-{next(_tables)}"
    create_table(name)
    return name


@pytest.fixture(
    params=[
        "memory",
        "sqlite",
        pytest.param("redis", marks=pytest.mark.server),
        pytest.param("dynamodb", marks=pytest.mark.server),
    ]
)
def kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.fixture
def url(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty store of this kind."""
    if kind == "sqlite":
        return f"sqlite:///{tmp_path}/new/folder/parties.db"
    if kind == "redis":
        server: RedisServer = request.getfixturevalue("shared_redis")
        server.command("FLUSHALL")
        return server.url
    if kind == "dynamodb":
        return f"dynamodb://{request.getfixturevalue('table')}"
    return "memory://"


@pytest.fixture
def store(url: str) -> Iterator[FeatureStore]:
    """An empty store of this kind."""
    opened = open_feature_store(url, budget_ms=AMPLE_MS)
    yield opened
    opened.close()
