"""A stand-in for S3 and SSM on a loopback port, and the service with and without a bundle, all in this process."""

import logging
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fraud_api_lambda.app import create_app
from fraud_api_lambda.scoring import FraudScorer
from tests.conftest import Trained
from tests.fraud_api_lambda.asgi import Client, source_of, source_without_bundle
from tests.fraud_api_lambda.lines import Lines
from tests.servers import moto_in_this_process, name_aws


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a setting leaves to its default (data/decisions.db) lies in the test's own folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def _moto() -> Iterator[str]:
    with moto_in_this_process() as address:
        yield address


def _post(url: str, body: bytes = b"") -> None:
    request = urllib.request.Request(url, body, {"Content-Type": "text/plain"}, method="POST")
    urllib.request.urlopen(request, timeout=10).close()


@pytest.fixture
def aws(_moto: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty AWS that the environment names, and an empty bucket ``models`` in it. Gives its address."""
    import boto3

    _post(f"{_moto}/moto-api/reset")
    name_aws(monkeypatch, _moto, AWS_REGION="us-east-1", AWS_DEFAULT_REGION="us-east-1")
    boto3.client("s3").create_bucket(Bucket="models")
    return _moto


@pytest.fixture
def refuse_all(aws: str) -> Iterator[Callable[[], None]]:
    """Call it, and from then on the stand-in answers 403 to these credentials, as AWS does to unknown ones."""
    yield lambda: _post(f"{aws}/moto-api/reset-auth", b"0")
    _post(f"{aws}/moto-api/reset-auth", b"Infinity")


@pytest.fixture
def lines() -> Iterator[Lines]:
    """What the service logs from here on, DEBUG included."""
    logger, lines = logging.getLogger("fraud"), Lines()
    level = logger.level
    logger.addHandler(lines.handler)
    logger.setLevel("DEBUG")
    yield lines
    logger.setLevel(level)
    logger.removeHandler(lines.handler)


@pytest.fixture(scope="session")
def scorer(trained: Trained) -> FraudScorer:
    return FraudScorer(source_of(trained))


@pytest.fixture(scope="session")
def bare_scorer(tmp_path_factory: pytest.TempPathFactory) -> FraudScorer:
    """A scorer without any bundle."""
    return FraudScorer(source_without_bundle(tmp_path_factory.mktemp("nothing")))


@pytest.fixture(scope="session")
def client(scorer: FraudScorer) -> Client:
    return Client(create_app(scorer))


@pytest.fixture(scope="session")
def bare_client(bare_scorer: FraudScorer) -> Client:
    """The API without any bundle."""
    return Client(create_app(bare_scorer))


@pytest.fixture(scope="session", params=["with a bundle", "without a bundle"])
def either(request: pytest.FixtureRequest) -> Client:
    """The API with and then without a bundle: what must hold in both."""
    found: Client = request.getfixturevalue("client" if request.param == "with a bundle" else "bare_client")
    return found
