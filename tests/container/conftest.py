"""The engine, the stand-ins and the images, once for all tests here. `make test-container` runs them, `make test` not.

In containers this machine is `Engine.address`: the stand-in for AWS (moto: S3, DynamoDB, SQS, SSM) listens there.
"""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest

from fraud_api_lambda import bundle as bundles
from fraud_api_lambda.bundle import SigningKey
from tests.conftest import Trained
from tests.container.base_image import base_image
from tests.container.engine import Engine, EngineError, engine
from tests.fraud_api_lambda.decision_log.servers import create_table as create_decisions
from tests.fraud_api_lambda.feature_store.servers import REGION, moto_server, name_aws
from tests.fraud_api_lambda.feature_store.servers import create_table as create_profiles
from training.demo import interruptible

ROOT = Path(__file__).resolve().parents[2]
BUCKET = "fraud-models"
INVOCATIONS = "/2015-03-31/functions/function/invocations"
#: Of the sample event; the worker tells its outbox from the other queue by the name.
OUTBOX = json.loads((ROOT / "events/work/outbox.json").read_text())["Records"][0]["eventSourceARN"].rpartition(":")[2]


@pytest.fixture(scope="session")
def running() -> Iterator[Engine]:
    """The engine; skips, with the reason, where none can be started."""
    with ExitStack() as stack:
        stack.enter_context(interruptible())
        try:
            found = stack.enter_context(engine())
        except EngineError as error:
            pytest.skip(str(error))
        yield found


@pytest.fixture(scope="session")
def base(running: Engine) -> Iterator[str]:
    """The stand-in under the real base image's name, able to install both locks."""
    with ExitStack() as stack:
        locks = (ROOT / "fraud_api_lambda/requirements.txt", ROOT / "training/requirements.txt")
        try:
            name = stack.enter_context(base_image(running, *locks))
        except EngineError as error:
            pytest.skip(str(error))
        yield name


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the images are built from, apart from the repository: a build leaves nothing there, and finds nothing.

    The template has one variable more, AWS_ENDPOINT_URL, by which the functions find the stand-in for AWS.
    """
    folder = tmp_path_factory.mktemp("project")
    for name in ("fraud_api_lambda", "training", "events"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("samconfig.toml", ".dockerignore", "LICENSE"):
        shutil.copy2(ROOT / name, folder / name)
    text = (ROOT / "template.yaml").read_text()
    before = "      Variables:\n"
    assert text.index(before) > text.index("\nGlobals:")
    (folder / "template.yaml").write_text(text.replace(before, f"{before}        AWS_ENDPOINT_URL: none\n", 1))
    return folder


@dataclass(frozen=True)
class Cloud:
    """The stand-in for AWS: a published release in a bucket, its key in a parameter, tables, a queue."""

    url: str
    key: SigningKey = field(repr=False)
    version: str
    folder: Path  # the release on this machine, with its pointer

    @property
    def access(self) -> dict[str, str]:
        """What a client needs to reach it."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "a-secret-key",
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    @property
    def settings(self) -> dict[str, str]:
        """The template's variables, with what is there in place of what the stack would make."""
        return {
            "FRAUD_MODEL_URL": f"s3://{BUCKET}/models/current",
            "FRAUD_MODEL_PUBLIC_KEYS": "ssm:model-keys",
            "FRAUD_FEATURE_STORE_URL": "dynamodb://profiles",
            "FRAUD_DECISION_LOG_URL": "dynamodb://decisions",
            "FRAUD_OUTBOX_URL": f"sqs://{OUTBOX}",
            # moto on a shared machine is slower than DynamoDB: what is slow here says nothing.
            "FRAUD_DEADLINE_MS": "20000",
            "FRAUD_RETENTION_DAYS": "36500",
        }


def make_bucket() -> None:
    """The bucket, in the region that the environment names."""
    boto3.client("s3", region_name=REGION).create_bucket(
        Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION}
    )


@pytest.fixture(scope="session")
def cloud(running: Engine, trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    folder = tmp_path_factory.mktemp("cloud")
    key = SigningKey.generate("release-test")
    trusted = bundles.parse_public_keys(key.public_line())
    copy = folder / "models" / trained.version
    shutil.copytree(trained.folder, copy)
    bundles.resign(copy, key, bundles.parse_public_keys((trained.root / "keys/development.pub").read_text()))
    bundles.publish(copy, f"file://{folder}/models/current", key, trusted)
    (folder / "keys").mkdir()
    (folder / "keys/release-test.pub").write_text(key.public_line() + "\n")
    with moto_server(folder, running.address) as url, pytest.MonkeyPatch.context() as patch:
        name_aws(patch, url)
        patch.setenv("AWS_DEFAULT_REGION", REGION)
        make_bucket()
        bundles.publish(copy, f"s3://{BUCKET}/models/current", key, trusted)
        boto3.client("ssm").put_parameter(Name="model-keys", Value=key.public_line(), Type="String")
        create_decisions("decisions")
        create_profiles("profiles")
        queues = boto3.client("sqs")
        dead = queues.create_queue(QueueName="dead.fifo", Attributes={"FifoQueue": "true"})["QueueUrl"]
        arn = queues.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        redrive = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 240})
        queues.create_queue(QueueName=OUTBOX, Attributes={"FifoQueue": "true", "RedrivePolicy": redrive})
        yield Cloud(url, key, trained.version, folder)


def make_image(running: Engine, project: Path, *words: str) -> str:
    """`make image` in the project; what it printed."""
    command = [sys.executable, "-m", "training.image", *words]
    env = {**os.environ, **running.env, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=project, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@dataclass(frozen=True)
class Image:
    tag: str
    printed: str


@pytest.fixture(scope="session")
def image(running: Engine, base: str, project: Path) -> Image:
    """The service's image without a bundle."""
    return Image("fraud-test:plain", make_image(running, project, "--tag", "fraud-test:plain"))


# --- containers ------------------------------------------------------------------------------------------------------


@contextmanager
def container(running: Engine, *words: str | Path, env: Mapping[str, str] | None = None) -> Iterator[str]:
    """`docker run -d words...` until the block ends; gives the container's id."""
    given = [word for name, value in (env or {}).items() for word in ("--env", f"{name}={value}")]
    name = running.docker("run", "-d", *given, *words).stdout.split()[-1]
    try:
        yield name
    except BaseException:
        print(running.docker("logs", name, check=False).stdout[-6000:])
        raise
    finally:
        running.docker("rm", "-f", "-v", name, check=False)


def address_of(running: Engine, name: str) -> str:
    """Where the container is on the engine's bridge, which this machine reaches."""
    found: str = running.inspect(name)["NetworkSettings"]["IPAddress"]
    assert found, running.docker("logs", name).stdout
    return found


@dataclass(frozen=True)
class Answer:
    status: int
    body: Any
    millis: float


def ask(url: str, body: Any = None, *, headers: Mapping[str, str] | None = None, wait_s: float = 60) -> Answer:
    """GET, or POST of ``body`` as JSON; tried again for ``wait_s`` while nothing listens."""
    data = None if body is None else json.dumps(body).encode()
    deadline = time.monotonic() + wait_s
    while True:
        request = urllib.request.Request(url, data, {"Content-Type": "application/json", **(headers or {})})
        started = time.perf_counter()
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                status, text = response.status, response.read()
        except urllib.error.HTTPError as error:
            with error:
                status, text = error.code, error.read()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
            continue
        return Answer(status, json.loads(text), (time.perf_counter() - started) * 1000)


def event(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "events" / f"{name}.json").read_text())
    return found
