"""Going back, rehearsed against a stand-in for AWS: the model by its pointer under a running service, the code by its
alias. ``pytest tests/aws/test_rollback.py -k rehearsal -s`` prints the log that docs/operations.md shows.
"""

import json
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import boto3
import pytest
import uvicorn
from typer.testing import CliRunner

from fraud_api_lambda.bootstrap import build
from fraud_api_lambda.settings import Settings
from tests.aws.releasing import REPOSITORY, image_of, release
from training.__main__ import app as commands
from training.rollback_code import Moved, rollback_code
from training.stack import StackError, publish_to_stack, rollback_stack

pytestmark = [
    pytest.mark.server,
    pytest.mark.filterwarnings("ignore:Tried to parse AWS..S3..BucketPolicy"),  # moto makes none
]
Deploy = Callable[..., dict[str, str]]


@pytest.fixture
def released(deploy: Deploy, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setenv("MOTO_LAMBDA_STUB_ECR", "false")  # a version's digest is then its image's
    outputs = deploy("demo")
    release(outputs["FunctionName"])
    return outputs


def live() -> str:
    return str(boto3.client("lambda").get_alias(FunctionName="fraud-function", Name="live")["FunctionVersion"])


# --- code ------------------------------------------------------------------------------------------------------------


def test_the_alias_goes_back_to_the_version_before_and_then_to_any(released: Mapping[str, str]) -> None:
    moved = rollback_code("demo")
    assert (moved.function, moved.before, moved.after, live()) == ("fraud-function", "3", "2", "2")
    assert (moved.image_before, moved.image_after) == (image_of("v3"), image_of("v2"))
    assert rollback_code("demo").after == live() == "1"
    assert rollback_code("demo", to="3").after == live() == "3"


def test_there_is_nothing_before_the_first_version(released: Mapping[str, str]) -> None:
    rollback_code("demo", to="1")
    with pytest.raises(StackError, match="no version before 1"):
        rollback_code("demo")
    assert live() == "1"


@pytest.mark.parametrize(
    ("to", "said"), [("7", "no version '7'. There are: 1, 2, 3"), ("$LATEST", "no version"), ("3", "at version 3")]
)
def test_a_version_that_is_none_to_go_to_is_refused(released: Mapping[str, str], to: str, said: str) -> None:
    with pytest.raises(StackError, match=said.replace("$", r"\$")):
        rollback_code("demo", to=to)
    assert live() == "3"


def test_nothing_is_moved_under_a_deployment_that_shifts_traffic(released: Mapping[str, str]) -> None:
    weights = {"AdditionalVersionWeights": {"2": 0.1}}
    boto3.client("lambda").update_alias(FunctionName="fraud-function", Name="live", RoutingConfig=weights)
    with pytest.raises(StackError, match="stop-deployment"):
        rollback_code("demo")
    assert live() == "3"


def test_a_version_whose_image_is_gone_is_refused(released: Mapping[str, str]) -> None:
    boto3.client("ecr").batch_delete_image(repositoryName=REPOSITORY, imageIds=[{"imageTag": "v2"}])
    with pytest.raises(StackError, match="image of version 2 is no longer"):
        rollback_code("demo")
    assert live() == "3"
    assert rollback_code("demo", to="1").after == "1"


def test_a_function_without_the_alias_is_refused_with_what_to_do(deploy: Deploy) -> None:
    deploy("demo")
    with pytest.raises(StackError, match="no alias 'live'"):
        rollback_code("demo")


def test_the_command_tells_what_it_moved(released: Mapping[str, str]) -> None:
    done = CliRunner().invoke(commands, ["rollback-code", "--stack", "demo", "--json"])
    assert done.exit_code == 0, done.output
    assert Moved(**json.loads(done.output)).after == "2"
    refused = CliRunner().invoke(commands, ["rollback-code", "--stack", "demo", "--to", "9"])
    assert refused.exit_code == 1
    assert "error: Function fraud-function has no version '9'" in refused.output


# --- the rehearsal ---------------------------------------------------------------------------------------------------

#: In place of a minute.
LOOKS_EVERY_S = 1.0


class Service:
    """The service under uvicorn in this process, as it serves a stack's bundle."""

    def __init__(self, outputs: Mapping[str, str], folder: Path) -> None:
        settings = Settings(
            model_url=f"s3://{outputs['BucketName']}/models/current",
            model_public_keys=f"ssm:{outputs['PublicKeyParameter']}",
            feature_store_url="memory://",
            decision_log_url=f"sqlite:///{folder}/decisions.db",
            outbox_url=f"file://{folder}/outbox",
        )
        app = build(settings)
        source = app.state.scorer.source
        source._interval, source._next = LOOKS_EVERY_S, float("-inf")
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]})

    def __enter__(self) -> "Service":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()

    def answers_by(self) -> str:
        body = json.dumps({"amount": 181.0, "type": "TRANSFER"}).encode()
        request = urllib.request.Request(f"{self.url}/predict", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            decision: dict[str, Any] = json.load(answer)
        assert decision["degraded"] == []
        return str(decision["model_version"])

    def until_it_answers_by(self, version: str) -> float:
        """Seconds until then."""
        began = time.monotonic()
        while self.answers_by() != version:
            assert time.monotonic() - began < 60
            time.sleep(0.05)
        return time.monotonic() - began


@pytest.fixture
def say() -> Callable[[str], None]:
    began = time.monotonic()
    return lambda text: print(f"{time.monotonic() - began:6.1f} s  {text}")


def test_rehearsal_of_going_back(
    released: Mapping[str, str],
    models: Path,
    keys: Path,
    seal: Callable[..., Path],
    tmp_path: Path,
    say: Callable[[str], None],
) -> None:
    first = publish_to_stack("demo", models, keys_dir=keys)
    say(f"published {first.version} (serial {first.serial})")
    with Service(released, tmp_path) as service:
        say(f"the service answers by {service.answers_by()}; it looks at the pointer every {LOOKS_EVERY_S:.0f} s")
        second = publish_to_stack("demo", seal("v2"), keys_dir=keys)
        say(f"published {second.version} (serial {second.serial})")
        took = service.until_it_answers_by("v2")
        say(f"the service answers by v2, {took:.1f} s later")
        back = rollback_stack("demo", keys_dir=keys)
        assert (back.version, back.serial) == ("v1", 3)
        say(f"python -m training rollback --stack demo: {back.version} (serial {back.serial})")
        took = service.until_it_answers_by("v1")
        say(f"the service answers by v1, {took:.1f} s later")
    moved = rollback_code("demo")
    say(f"python -m training rollback-code --stack demo: {moved.function}:live {moved.before} -> {moved.after}")
    say(f"  {moved.image_before.rpartition('/')[2][:26]}... -> {moved.image_after.rpartition('/')[2][:26]}...")
    again = rollback_code("demo", to=moved.before)
    say(f"python -m training rollback-code --stack demo --to {again.after}: live {again.before} -> {again.after}")
    assert live() == "3"
