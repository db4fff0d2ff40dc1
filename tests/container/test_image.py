"""The service's image as it was built: what is in it, and that it runs as Lambda runs it and as anybody else does."""

import hashlib
import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fraud_api_lambda.bundle import parse_public_keys, publish
from tests.container.base_image import LABEL
from tests.container.conftest import (
    BUCKET,
    INVOCATIONS,
    Cloud,
    Image,
    address_of,
    ask,
    container,
    event,
    make_bucket,
    make_image,
)  # fmt: skip
from tests.container.engine import Engine
from tests.fraud_api_lambda.feature_store.servers import moto_server, name_aws
from tests.fraud_api_lambda.test_sbom import locked
from training.image import PLATFORMS

pytestmark = pytest.mark.server

#: Lambda's own user, as good as none; its file system is read-only except /tmp; the template's memory.
AS_LAMBDA = ("--read-only", "--tmpfs", "/tmp", "--user", "993:990", "--memory", "512m", "--memory-swap", "512m")
SECRET = "a-key-of-the-tests"
KEYS = {"FRAUD_API_KEYS": f"tests:admin:{hashlib.sha256(SECRET.encode()).hexdigest()}"}


def python(running: Engine, tag: str, program: str) -> Any:
    """What ``program`` prints as JSON, run by the image's Python."""
    words = ("run", "--rm", "--network", "none", *AS_LAMBDA, "--entrypoint", "python3", tag, "-c", program)
    return json.loads(running.docker(*words).stdout)


# --- what is in it ---------------------------------------------------------------------------------------------------


def test_it_stands_on_what_calls_itself_a_stand_in(running: Engine, image: Image) -> None:
    labels = running.inspect(image.tag)["Config"]["Labels"]
    assert "not AWS" in labels[LABEL]


def test_the_layers_are_printed_and_add_up_to_the_image(running: Engine, image: Image) -> None:
    *layers, whole = re.findall(r"^ +([\d.]+) MB  (.+)$", image.printed, flags=re.M)
    print(image.printed[image.printed.rindex("Successfully tagged") :])
    assert whole[1] == image.tag
    assert len(layers) >= 3
    size = running.inspect(image.tag)["Size"] / 1e6
    assert float(whole[0]) == pytest.approx(size, abs=1)
    assert sum(float(layer) for layer, _ in layers) == pytest.approx(size, abs=1)


def test_it_is_of_the_one_processor_that_was_asked_for_and_names_itself(running: Engine, image: Image) -> None:
    found = running.inspect(image.tag)
    assert f"{found['Os']}/{found['Architecture']}" == PLATFORMS["x86_64"]
    labels = found["Config"]["Labels"]
    assert labels["org.opencontainers.image.title"] == "fraud-detection-api"
    assert labels["org.opencontainers.image.licenses"] == "MIT"
    assert found["Config"]["Cmd"] == ["fraud_api_lambda.handler.handler"]


def test_what_is_installed_is_what_the_bill_of_materials_in_it_says(running: Engine, image: Image) -> None:
    found = python(
        running,
        image.tag,
        "import json, importlib.metadata as m, re\n"
        "here = {re.sub('[-_.]+', '-', d.name).lower(): d.version for d in m.distributions(path=['/var/task'])}\n"
        "bill = json.load(open('/var/task/fraud_api_lambda/sbom.cdx.json'))\n"
        "told = {re.sub('[-_.]+', '-', c['name']).lower(): c['version'] for c in bill['components']}\n"
        "print(json.dumps([here, told]))",
    )
    assert found[0] == found[1] == locked()


def test_every_module_has_bytecode_that_is_never_checked_against_its_source(running: Engine, image: Image) -> None:
    count, lacking = python(
        running,
        image.tag,
        "import importlib.util as u, json, pathlib\n"
        "files = [p for p in pathlib.Path('/var/task').rglob('*.py')]\n"
        "def fit(p):\n"
        "    c = pathlib.Path(u.cache_from_source(str(p)))\n"
        "    return c.exists() and c.read_bytes()[4] == 1\n"
        "print(json.dumps([len(files), [str(p) for p in files if not fit(p)]]))",
    )
    assert count > 1000
    assert lacking == []


def test_no_training_library_and_no_key_is_in_it(running: Engine, image: Image) -> None:
    found = python(
        running,
        image.tag,
        "import importlib.util as u, json, pathlib\n"
        "names = ['pandas', 'scipy', 'sklearn', 'imblearn', 'xgboost', 'streamlit', 'training', 'pytest']\n"
        "keys = [str(p) for s in ('*.key', '*.pub', '.env') for p in pathlib.Path('/var/task').rglob(s)]\n"
        "print(json.dumps([[n for n in names if u.find_spec(n)], keys]))",
    )
    assert found == [[], []]


# --- as Lambda runs it -----------------------------------------------------------------------------------------------


@contextmanager
def function(running: Engine, tag: str, entry: str, env: dict[str, str]) -> Iterator[str]:
    """The image as Lambda starts it, behind the base image's own entry point and emulator; gives the events' address.

    Read-only except /tmp, an unprivileged user, the template's memory.
    """
    with container(running, *AS_LAMBDA, tag, f"fraud_api_lambda.handler.{entry}", env=env) as name:
        yield f"http://{address_of(running, name)}:8080{INVOCATIONS}"


def test_one_image_answers_http_queues_and_schedules_by_its_command(
    running: Engine, image: Image, cloud: Cloud
) -> None:
    env = {**cloud.access, **cloud.settings}
    with function(running, image.tag, "handler", env) as url:
        answer = ask(url, event("predict-paysim.v1")).body
        assert answer["statusCode"] == 200, answer
        decision = json.loads(answer["body"])
        assert (decision["model_version"], decision["degraded"]) == (cloud.version, [])
        assert ask(url, event("work/summary")).body["errorType"] == "ValueError"
    worker = {**env, "FRAUD_ON_LOG_FAILURE": "refuse"}
    messages = event("work/transactions")["Records"]
    failed = {"batchItemFailures": [{"itemIdentifier": messages[2]["messageId"]}]}
    with function(running, image.tag, "queue", worker) as url:
        assert ask(url, event("work/transactions")).body == failed
        assert ask(url, event("work/outbox")).body == {"batchItemFailures": []}
    with function(running, image.tag, "schedule", worker) as url:
        for task in ("summary", "retention", "drift", "shadow"):
            assert ask(url, event(f"work/{task}")).body["task"] == task
    with function(running, image.tag, "work", worker) as url:
        assert ask(url, event("work/transactions")).body == failed
        assert ask(url, event("work/summary")).body == {"task": "summary"}


# --- elsewhere -------------------------------------------------------------------------------------------------------


def test_the_same_image_serves_under_uvicorn_read_only_and_as_nobody(
    running: Engine, image: Image, cloud: Cloud, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    data.chmod(0o777)
    env = {
        **KEYS,
        "FRAUD_DECISION_LOG_URL": "sqlite:////data/decisions.db",
        "FRAUD_FEATURE_STORE_URL": "sqlite:////data/profiles.db",
        "FRAUD_OUTBOX_URL": "file:///data/outbox",
        "FRAUD_MODEL_PUBLIC_KEYS": cloud.key.public_line(),
    }
    words = ("--read-only", "--tmpfs", "/tmp", "--user", "65534", "-v", f"{data}:/data")
    words += ("-v", f"{cloud.folder}/models:/var/task/models:ro", "--entrypoint", "python3", image.tag)
    serve = ("-m", "uvicorn", "fraud_api_lambda.handler:app", "--host", "0.0.0.0", "--port", "8000")
    with container(running, *words, *serve, env=env) as name:
        url = f"http://{address_of(running, name)}:8000"
        assert ask(f"{url}/health").status == 200
        assert ask(f"{url}/predict", {"amount": 1}).status == 401
        answer = ask(f"{url}/predict", {"amount": 1}, headers={"X-API-Key": SECRET})
        assert (answer.status, answer.body["model_version"], answer.body["degraded"]) == (200, cloud.version, [])
        found = ask(f"{url}/transactions/{answer.body['transaction_id']}", headers={"X-API-Key": SECRET})
        assert found.status == 200


# --- the bundle in it ------------------------------------------------------------------------------------------------


def http(method: str, path: str, body: Any = None) -> dict[str, Any]:
    """The event of API Gateway for a request of the tests' key."""
    made = event("predict-paysim.v1")
    made |= {"httpMethod": method, "path": path, "body": None if body is None else json.dumps(body)}
    made["requestContext"] |= {"httpMethod": method, "path": f"/v1{path}"}
    made["headers"]["X-API-Key"] = SECRET
    made["multiValueHeaders"] = {name: [value] for name, value in made["headers"].items()}
    return made


def test_without_s3_the_images_bundle_serves_flagged_until_the_pointers_can_be_had(
    running: Engine, image: Image, project: Path, cloud: Cloud, tmp_path: Path
) -> None:
    tag = "fraud-test:baked"
    words = ("--bundle", f"{cloud.folder}/models/current", "--keys", f"{cloud.folder}/keys")
    printed = make_image(running, project, "--tag", tag, *words)
    assert f"The image carries the bundle {cloud.version}." in printed
    make_image(running, project, "--tag", "fraud-test:plain")  # the next one carries nothing
    assert not (project / "build/image").exists()

    with socket.socket() as probe:
        probe.bind((running.address, 0))
        port = probe.getsockname()[1]
    env = {
        **cloud.access,
        **KEYS,
        "AWS_ENDPOINT_URL": f"http://{running.address}:{port}",
        "FRAUD_MODEL_URL": f"s3://{BUCKET}/models/current",
        "FRAUD_MODEL_PUBLIC_KEYS": cloud.key.public_line(),
        "FRAUD_FEATURE_STORE_URL": "memory://",
        "FRAUD_DECISION_LOG_URL": "dynamodb://decisions",
        "FRAUD_OUTBOX_URL": f"sqs://{cloud.settings['FRAUD_OUTBOX_URL'].partition('://')[2]}",
        "FRAUD_DEADLINE_MS": "5000",
    }
    with function(running, tag, "handler", env) as url:
        started = time.monotonic()
        ready = ask(url, http("GET", "/ready")).body
        print(f"cold start without S3: {time.monotonic() - started:.1f} s")
        assert ready["statusCode"] == 200, ready
        told = json.loads(ready["body"])
        assert (told["status"], told["model"], told["model_version"]) == ("degraded", "baked", cloud.version)
        assert told["last_refresh"]["model"] == "unreachable"
        decision = json.loads(ask(url, http("POST", "/predict", {"amount": 5})).body["body"])
        assert decision["model_version"] == cloud.version
        assert decision["fraud_probability"] is not None
        assert "model" in decision["degraded"]

        with moto_server(tmp_path, running.address, port), pytest.MonkeyPatch.context() as patch:
            publish_again(patch, f"http://{running.address}:{port}", cloud)
            # A minute after the first look, whenever that was.
            while True:
                told = json.loads(ask(url, http("GET", "/ready")).body["body"])
                if told["model"] != "baked" or time.monotonic() - started > 150:
                    break
                time.sleep(2)
            assert (told["status"], told["model"], told["model_version"]) == ("ready", "ok", cloud.version)
            assert "last_refresh" not in told
            decision = json.loads(ask(url, http("POST", "/predict", {"amount": 5})).body["body"])
            assert "model" not in decision["degraded"]


def publish_again(patch: pytest.MonkeyPatch, url: str, cloud: Cloud) -> None:
    """What ``cloud`` has in its bucket, at ``url``."""
    name_aws(patch, url)
    make_bucket()
    trusted = parse_public_keys(cloud.key.public_line())
    publish(cloud.folder / "models" / cloud.version, f"s3://{BUCKET}/models/current", cloud.key, trusted)


def test_an_image_without_a_bundle_and_without_s3_decides_by_rules(running: Engine, image: Image, cloud: Cloud) -> None:
    env = {
        **cloud.access,
        **KEYS,
        # No route leads from the engine's bridge to anywhere: what is sent there is never answered.
        "AWS_ENDPOINT_URL": "http://192.0.2.1:9",
        "FRAUD_MODEL_URL": f"s3://{BUCKET}/models/current",
        "FRAUD_MODEL_PUBLIC_KEYS": cloud.key.public_line(),
        "FRAUD_FEATURE_STORE_URL": "memory://",
        "FRAUD_DECISION_LOG_URL": "dynamodb://decisions",
        "FRAUD_OUTBOX_URL": cloud.settings["FRAUD_OUTBOX_URL"],
    }
    with function(running, image.tag, "handler", env) as url:
        started = time.monotonic()
        ready = ask(url, http("GET", "/ready")).body
        print(f"cold start without a network: {time.monotonic() - started:.1f} s")
        assert ready["statusCode"] == 503
        decision = json.loads(ask(url, http("POST", "/predict", {"amount": 5})).body["body"])
        assert (decision["model_version"], decision["outcome"]) == (None, "review")
