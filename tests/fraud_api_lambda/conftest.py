"""A stand-in for S3 and SSM on a loopback port, and the service with and without a bundle, all in this process."""

import logging
import os
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from fraud_api_lambda.app import create_app
from fraud_api_lambda.scoring import FraudScorer
from tests.conftest import Trained
from tests.fraud_api_lambda.asgi import Client, source_of, source_without_bundle
from tests.fraud_api_lambda.lines import Lines

# How long an example takes says something about the machine's other work, not about ours.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a setting leaves to its default (data/decisions.db) lies in the test's own folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def _moto() -> Iterator[str]:
    from moto.moto_server.threaded_moto_server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def _post(url: str, body: bytes = b"") -> None:
    request = urllib.request.Request(url, body, {"Content-Type": "text/plain"}, method="POST")
    urllib.request.urlopen(request, timeout=10).close()


@pytest.fixture
def aws(_moto: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty AWS that the environment names, and an empty bucket ``models`` in it. Gives its address."""
    import boto3

    _post(f"{_moto}/moto-api/reset")
    for name in list(os.environ):
        if name.startswith("AWS_") and name != "AWS_CA_BUNDLE":
            monkeypatch.delenv(name)
    for name, value in {
        "AWS_ENDPOINT_URL": _moto,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/nonexistent/config",
        "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent/credentials",
    }.items():
        monkeypatch.setenv(name, value)
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
