"""Publishing to a stack, asking it and taking it down, against a stand-in for AWS (moto) on a loopback port."""

import asyncio
import json
import re
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest

from fraud_api_lambda import bundle as bundles
from fraud_api_lambda.errors import BundleError
from training import stack as stacks
from training.stack import StackError, destroy, publish_to_stack, read_stack, rollback_stack, smoke

pytestmark = [
    pytest.mark.server,
    pytest.mark.filterwarnings("ignore:Tried to parse AWS..S3..BucketPolicy"),  # moto makes none
]
Deploy = Callable[..., dict[str, str]]
EVENTS = Path(__file__).resolve().parents[2] / "events"


def trusted(outputs: Mapping[str, str]) -> str:
    return str(boto3.client("ssm").get_parameter(Name=outputs["PublicKeyParameter"])["Parameter"]["Value"])


def objects(bucket: str) -> set[str]:
    found = boto3.client("s3").list_objects_v2(Bucket=bucket).get("Contents", [])
    return {item["Key"] for item in found}


def buckets() -> set[str]:
    """By name. (When a deleted stack is looked at, moto makes its resources anew under new names: not ours.)"""
    return {item["Name"] for item in boto3.client("s3").list_buckets()["Buckets"]}


def served(outputs: Mapping[str, str]) -> bundles.Bundle:
    """Opened as the service does: by the keys of the parameter, through the light S3 client."""
    keys = bundles.parse_public_keys(trusted(outputs))
    return bundles.open_bundle(f"s3://{outputs['BucketName']}/models/current", keys)


# --- publish ---------------------------------------------------------------------------------------------------------


def test_the_first_publish_makes_a_release_key_and_the_stack_serves_the_bundle(
    deploy: Deploy, models: Path, keys: Path
) -> None:
    outputs = deploy("demo")
    assert trusted(outputs) == "none"

    done = publish_to_stack("demo", models, keys_dir=keys)

    assert re.fullmatch(r"release-\d{8}-[0-9a-f]{4}", done.key_id)
    assert done.new_key == keys / f"{done.key_id}.key"
    assert stat.S_IMODE(done.new_key.stat().st_mode) == 0o600
    assert trusted(outputs) == bundles.SigningKey.load(done.new_key).public_line()
    assert (done.serial, done.version) == (1, "v1")
    opened = served(outputs)
    opened.verify()
    assert opened.key_id == done.key_id


def test_the_bundle_on_this_machine_keeps_its_own_signature(deploy: Deploy, models: Path, keys: Path) -> None:
    deploy("demo")
    before = (models / "v1" / "manifest.sig").read_bytes()
    publish_to_stack("demo", models, keys_dir=keys)
    assert (models / "v1" / "manifest.sig").read_bytes() == before


def test_a_bundles_own_folder_can_be_published_as_well_as_a_models_folder(
    deploy: Deploy, models: Path, keys: Path
) -> None:
    deploy("demo")
    assert publish_to_stack("demo", models / "v1", keys_dir=keys).version == "v1"


def test_the_second_publish_uses_the_same_key_and_moves_the_serial_on(
    deploy: Deploy, models: Path, keys: Path, seal: Callable[..., Path]
) -> None:
    outputs = deploy("demo")
    first = publish_to_stack("demo", models, keys_dir=keys)
    second = publish_to_stack("demo", seal("v2"), keys_dir=keys)
    assert (second.key_id, second.new_key, second.serial) == (first.key_id, None, 2)
    assert trusted(outputs).count(":") == 1
    assert served(outputs).manifest.version == "v2"


def test_a_rotation_adds_a_key_and_drops_none(deploy: Deploy, models: Path, keys: Path) -> None:
    outputs = deploy("demo")
    first = publish_to_stack("demo", models, keys_dir=keys)
    second = publish_to_stack("demo", models, keys_dir=keys, rotate=True)
    assert second.key_id != first.key_id
    assert list(bundles.parse_public_keys(trusted(outputs))) == [first.key_id, second.key_id]
    assert served(outputs).key_id == second.key_id
    third = publish_to_stack("demo", models, keys_dir=keys)
    assert third.key_id == second.key_id, "the newest of the trusted keys signs from now on"


def test_a_key_that_somebody_else_added_stays_trusted(deploy: Deploy, models: Path, keys: Path) -> None:
    outputs = deploy("demo")
    publish_to_stack("demo", models, keys_dir=keys)
    theirs = bundles.SigningKey.generate("release-20260101-beef").public_line()
    both = f"{trusted(outputs)},{theirs}"
    boto3.client("ssm").put_parameter(Name=outputs["PublicKeyParameter"], Value=both, Overwrite=True)
    publish_to_stack("demo", models, keys_dir=keys, rotate=True)
    assert "release-20260101-beef" in bundles.parse_public_keys(trusted(outputs))
    assert len(bundles.parse_public_keys(trusted(outputs))) == 3


def test_an_update_of_the_stack_with_the_same_template_leaves_the_trusted_keys_alone(
    deploy: Deploy, models: Path, keys: Path
) -> None:
    outputs = deploy("demo")
    publish_to_stack("demo", models, keys_dir=keys)
    before = trusted(outputs)
    assert deploy("demo") == outputs
    assert trusted(outputs) == before


def test_a_reset_parameter_gets_the_same_key_back(deploy: Deploy, models: Path, keys: Path) -> None:
    outputs = deploy("demo")
    first = publish_to_stack("demo", models, keys_dir=keys)
    boto3.client("ssm").put_parameter(Name=outputs["PublicKeyParameter"], Value="none", Overwrite=True)
    again = publish_to_stack("demo", models, keys_dir=keys)
    assert (again.key_id, again.new_key) == (first.key_id, None)
    assert served(outputs).key_id == first.key_id


def test_a_key_of_another_stack_is_not_trusted_here(deploy: Deploy, models: Path, keys: Path) -> None:
    deploy("dev")
    outputs = deploy("prod")
    dev = publish_to_stack("dev", models, keys_dir=keys)
    prod = publish_to_stack("prod", models, keys_dir=keys)
    assert prod.key_id != dev.key_id
    assert list(bundles.parse_public_keys(trusted(outputs))) == [prod.key_id]


def test_without_the_private_half_nothing_is_published_and_the_mend_is_named(
    deploy: Deploy, models: Path, keys: Path
) -> None:
    outputs = deploy("demo")
    done = publish_to_stack("demo", models, keys_dir=keys)
    assert done.new_key is not None
    done.new_key.unlink()
    with pytest.raises(StackError, match=rf"trusts {done.key_id}.*Copy the \.key file.*--rotate"):
        publish_to_stack("demo", models, keys_dir=keys)
    assert served(outputs).serial == 1


def test_a_lost_key_and_a_reset_parameter_say_how_to_start_anew(deploy: Deploy, models: Path, keys: Path) -> None:
    outputs = deploy("demo")
    done = publish_to_stack("demo", models, keys_dir=keys)
    assert done.new_key is not None
    done.new_key.unlink()
    boto3.client("ssm").put_parameter(Name=outputs["PublicKeyParameter"], Value="none", Overwrite=True)
    with pytest.raises(StackError, match=r"not in .*aws s3 rm s3://"):
        publish_to_stack("demo", models, keys_dir=keys)


def test_a_damaged_bundle_leaves_no_trace_in_the_stack(deploy: Deploy, models: Path, keys: Path) -> None:
    outputs = deploy("demo")
    (models / "v1" / "metrics.json").write_text("{}")
    with pytest.raises(BundleError):
        publish_to_stack("demo", models, keys_dir=keys)
    assert trusted(outputs) == "none"
    assert objects(outputs["BucketName"]) == set()
    assert not list(keys.glob("release-*"))


def test_the_development_key_never_reaches_the_stack(deploy: Deploy, models: Path, keys: Path) -> None:
    outputs = deploy("demo")
    publish_to_stack("demo", models, keys_dir=keys)
    assert "dev-" not in trusted(outputs)


def test_credentials_of_the_session_are_lent_to_the_bundles_client_and_taken_back(
    deploy: Deploy, models: Path, keys: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A user with a profile and an AWS_PROFILE, as the AWS CLI has it, and no AWS_ACCESS_KEY_ID at all."""
    deploy("demo")
    file = tmp_path / "credentials"
    file.write_text("[work]\naws_access_key_id = testing\naws_secret_access_key = testing\nregion = eu-west-1\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_PROFILE", "work")
    import os

    assert publish_to_stack("demo", models, keys_dir=keys).serial == 1
    assert "AWS_ACCESS_KEY_ID" not in os.environ
    assert "AWS_REGION" not in os.environ


@pytest.mark.parametrize(
    ("arrange", "said"),
    [
        (lambda models, keys: (models / "current").unlink(), "neither a bundle"),
        (lambda models, keys: (keys / "development.pub").unlink(), "python -m training keys"),
    ],
)
def test_what_is_missing_on_this_machine_is_named(
    deploy: Deploy, models: Path, keys: Path, arrange: Callable[[Path, Path], None], said: str
) -> None:
    deploy("demo")
    arrange(models, keys)
    with pytest.raises(StackError, match=said):
        publish_to_stack("demo", models, keys_dir=keys)


def test_a_rollback_serves_the_version_before_under_a_higher_serial(
    deploy: Deploy, models: Path, keys: Path, seal: Callable[..., Path]
) -> None:
    outputs = deploy("demo")
    publish_to_stack("demo", models, keys_dir=keys)
    publish_to_stack("demo", seal("v2"), keys_dir=keys)
    back = rollback_stack("demo", keys_dir=keys)
    assert (back.version, back.serial) == ("v1", 3)
    assert served(outputs).manifest.version == "v1"
    assert rollback_stack("demo", keys_dir=keys, to="v2").serial == 4


def test_a_rollback_of_nothing_says_so_and_makes_no_key(deploy: Deploy, keys: Path) -> None:
    deploy("demo")
    with pytest.raises(StackError, match="Nothing was published to 'demo' yet"):
        rollback_stack("demo", keys_dir=keys)
    assert not list(keys.glob("release-*"))


# --- what can be wrong with a stack or with the account --------------------------------------------------------------


def test_a_stack_that_is_not_there_is_named_with_the_region_and_the_mend(aws: str) -> None:
    with pytest.raises(StackError, match=r"no stack 'demo' in eu-west-1\. Deploy it: sam build && sam deploy --guided"):
        read_stack("demo")


def test_a_stack_of_another_template_is_refused(aws: str) -> None:
    body = json.dumps({"Resources": {"Topic": {"Type": "AWS::SNS::Topic"}}})
    boto3.client("cloudformation").create_stack(StackName="other", TemplateBody=body)
    with pytest.raises(StackError, match=r"has no output ApiUrl, ApiKeyId.*not deployed from this template"):
        read_stack("other")


def test_missing_credentials_are_one_line(aws: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StackError, match="No AWS credentials were found") as caught:
        read_stack("demo")
    assert "\n" not in str(caught.value)


def test_a_missing_region_is_one_line(aws: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_REGION")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(StackError, match=r"No AWS region is set\. Give --region"):
        read_stack("demo")


def test_an_aws_that_does_not_answer_is_one_line(aws: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(StackError, match="AWS did not answer"):
        read_stack("demo")


# --- smoke -----------------------------------------------------------------------------------------------------------


class Gateway:
    """A stand-in for API Gateway: it asks for the key and calls the real Lambda entry with the event of a REST API.

    The function starts cold at the first call that gets through: it reads its parameter and its bundle then.
    """

    def __init__(self) -> None:
        self.outputs: dict[str, str] = {}
        self.open = False
        self.unknown_for = 0  # a new key is unknown to the gateway for so many calls
        self.function: Callable[[dict[str, Any], object], dict[str, Any]] | None = None

    def start(self) -> Callable[[dict[str, Any], object], dict[str, Any]]:
        from fraud_api_lambda.bootstrap import build
        from fraud_api_lambda.handler import lambda_handler
        from fraud_api_lambda.settings import read_settings

        environment = {
            "FRAUD_MODEL_URL": f"s3://{self.outputs['BucketName']}/models/current",
            "FRAUD_MODEL_PUBLIC_KEYS": f"ssm:{self.outputs['PublicKeyParameter']}",
            "FRAUD_WITHOUT_MODEL": "review",
            "FRAUD_LOG_LEVEL": "ERROR",
        }
        entry: Callable[[dict[str, Any], object], dict[str, Any]]
        entry = lambda_handler(build(read_settings(environment), on_aws=True))
        return entry

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
        given = headers.get("x-api-key")
        right = boto3.client("apigateway").get_api_key(apiKey=self.outputs["ApiKeyId"], includeValue=True)["value"]
        if given is not None and self.unknown_for:
            self.unknown_for -= 1
            given = None
        if given != right and not self.open:
            return {
                "statusCode": 403,
                "headers": {"Content-Type": "application/json"},
                "body": '{"message":"Forbidden"}',
            }
        if self.function is None:
            self.function = self.start()
        event = json.loads((EVENTS / "predict-paysim.v1.json").read_text())
        inner = path.removeprefix("/v1")
        event |= {"httpMethod": method, "path": inner, "pathParameters": {"proxy": inner[1:]}, "body": body.decode()}
        event["headers"] = dict(headers)
        event["multiValueHeaders"] = {name: [value] for name, value in headers.items()}
        event["requestContext"] |= {"httpMethod": method, "path": path}
        return self.function(event, object())


@pytest.fixture
def gateway(deploy: Deploy) -> Iterator[Gateway]:
    """Serves the stack 'demo', whose ApiUrl it is. One request at a time, like one Lambda environment."""
    stand_in = Gateway()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            answer = stand_in.answer(
                self.command, self.path, {name.lower(): value for name, value in self.headers.items()}, body
            )
            text = answer["body"].encode()
            headers = {name: values[0] for name, values in answer.get("multiValueHeaders", {}).items()}
            self.send_response(answer["statusCode"])
            for name, value in {**headers, **answer.get("headers", {})}.items():
                if name.lower() != "content-length":
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)

    def serve() -> None:
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        server.serve_forever(poll_interval=0.05)
        loop.close()

    thread = threading.Thread(target=serve)
    thread.start()
    stand_in.outputs = deploy("demo", api_url=f"http://127.0.0.1:{server.server_port}/v1")
    yield stand_in
    server.shutdown()
    thread.join()
    server.server_close()


def test_smoke_is_green_once_the_bundle_is_published_and_prints_a_table(
    gateway: Gateway, models: Path, keys: Path
) -> None:
    publish_to_stack("demo", models, keys_dir=keys)
    printed: list[str] = []
    checks = smoke("demo", wait_s=5, pause_s=0.1, echo=printed.append)
    assert [check.name for check in checks] == [
        "GET /health",
        "GET /health without a key",
        "GET /ready",
        "POST /predict",
        "the decision is the model's",
        "POST /predict, warm (median of 5)",
        "POST /predict with a wrong amount",
    ]
    assert all(check.ok and not check.mend for check in checks)
    assert len(printed) == 1
    assert printed[0].count("\nok") == 6
    assert "decline by model, probability 0.98" in printed[0]


def test_smoke_never_prints_the_key(gateway: Gateway, models: Path, keys: Path) -> None:
    publish_to_stack("demo", models, keys_dir=keys)
    printed: list[str] = []
    smoke("demo", wait_s=5, pause_s=0.1, echo=printed.append)
    value = boto3.client("apigateway").get_api_key(apiKey=gateway.outputs["ApiKeyId"], includeValue=True)["value"]
    assert value not in "".join(printed)


def test_before_the_first_publish_smoke_says_at_once_what_to_do(gateway: Gateway) -> None:
    printed: list[str] = []
    with pytest.raises(StackError, match=r"GET /ready.*No bundle was published yet: make publish STACK=demo"):
        smoke("demo", wait_s=600, pause_s=600, echo=printed.append)
    assert "ok    POST /predict  " in printed[0], "it answers by rules alone, and the table shows it"
    assert "FAIL  the decision is the model's" in printed[0]


def test_smoke_waits_for_a_key_that_the_gateway_does_not_know_yet(gateway: Gateway, models: Path, keys: Path) -> None:
    publish_to_stack("demo", models, keys_dir=keys)
    gateway.unknown_for = 2
    assert smoke("demo", wait_s=10, pause_s=0.05, echo=lambda _: None)[0].ok


def test_smoke_gives_up_on_a_key_that_stays_unknown(gateway: Gateway, models: Path, keys: Path) -> None:
    publish_to_stack("demo", models, keys_dir=keys)
    gateway.unknown_for = 1000
    with pytest.raises(StackError, match="The key is not known to the gateway: deploy again"):
        smoke("demo", wait_s=0.3, pause_s=0.05, echo=lambda _: None)


def test_smoke_finds_an_api_that_stands_open(gateway: Gateway, models: Path, keys: Path) -> None:
    publish_to_stack("demo", models, keys_dir=keys)
    gateway.open = True
    with pytest.raises(StackError, match=r"without a key: 200\. The API is open"):
        smoke("demo", wait_s=1, pause_s=0.1, echo=lambda _: None)


def test_smoke_finds_a_reset_parameter_and_names_publish_as_the_mend(
    gateway: Gateway, models: Path, keys: Path
) -> None:
    publish_to_stack("demo", models, keys_dir=keys)
    boto3.client("ssm").put_parameter(Name=gateway.outputs["PublicKeyParameter"], Value="none", Overwrite=True)
    with pytest.raises(StackError, match=r"does not trust what is published.*make publish STACK=demo"):
        smoke("demo", wait_s=600, pause_s=600, echo=lambda _: None)


def test_smoke_finds_a_function_that_still_serves_an_older_bundle(
    gateway: Gateway, models: Path, keys: Path, seal: Callable[..., Path]
) -> None:
    publish_to_stack("demo", models, keys_dir=keys)
    smoke("demo", wait_s=5, pause_s=0.1, echo=lambda _: None)
    publish_to_stack("demo", seal("v2"), keys_dir=keys)  # the function looks again a minute after its last look
    with pytest.raises(StackError, match="GET /ready: 200, serves v1, published is v2"):
        smoke("demo", wait_s=0.3, pause_s=0.1, echo=lambda _: None)


def test_smoke_says_so_when_nothing_answers(deploy: Deploy) -> None:
    deploy("demo", api_url="http://127.0.0.1:1/v1")
    with pytest.raises(StackError, match=r"GET /health: no answer .*sam logs --stack-name demo"):
        smoke("demo", wait_s=0, pause_s=0, echo=lambda _: None)


def test_the_key_is_not_sent_over_plain_http_to_another_machine(deploy: Deploy) -> None:
    deploy("demo", api_url="http://api.example.com/v1")
    with pytest.raises(StackError, match="not https"):
        smoke("demo", echo=lambda _: None)


# --- destroy ---------------------------------------------------------------------------------------------------------


def test_destroy_without_a_yes_deletes_nothing_and_lists_what_it_would(
    deploy: Deploy, models: Path, keys: Path
) -> None:
    outputs = deploy("demo")
    publish_to_stack("demo", models, keys_dir=keys)
    with pytest.raises(StackError, match=rf"Nothing was deleted.*{outputs['BucketName']}.*ARGS=--yes"):
        destroy("demo")
    assert served(outputs).serial == 1


def test_destroy_empties_the_bucket_of_every_version_and_removes_the_stack(
    deploy: Deploy, models: Path, keys: Path
) -> None:
    outputs = deploy("demo")
    for _ in range(3):
        publish_to_stack("demo", models, keys_dir=keys)
    boto3.client("s3").delete_object(Bucket=outputs["BucketName"], Key="models/current")  # leaves a delete marker
    printed: list[str] = []

    left = destroy("demo", yes=True, pause_s=1, echo=printed.append)

    assert outputs["BucketName"] not in buckets()
    assert [line.split(":")[1] for line in left] == [" keys/"]
    assert re.search(r"\d\d versions deleted", printed[0])
    with pytest.raises(StackError, match="no stack"):
        read_stack("demo")


def test_destroy_leaves_what_production_keeps_as_it_is(deploy: Deploy, models: Path, keys: Path) -> None:
    bucket = deploy("demo", prod=True)["BucketName"]
    publish_to_stack("demo", models, keys_dir=keys)
    s3 = boto3.client("s3")
    before = s3.list_object_versions(Bucket=bucket)["Versions"]
    with pytest.raises(StackError) as told:
        destroy("demo")
    assert bucket not in str(told.value)

    destroy("demo", yes=True, pause_s=1, echo=lambda _: None)

    assert s3.list_object_versions(Bucket=bucket)["Versions"] == before


def test_destroy_empties_a_bucket_with_more_versions_than_fit_one_page(deploy: Deploy) -> None:
    outputs = deploy("demo")
    client = boto3.client("s3")
    for number in range(1001):
        client.put_object(Bucket=outputs["BucketName"], Key=f"models/v1/{number}", Body=b"")
    printed: list[str] = []
    destroy("demo", yes=True, pause_s=1, echo=printed.append)
    assert "1001 versions deleted" in printed[0]
    assert outputs["BucketName"] not in buckets()


def companion(name: str, repository: str) -> None:
    body = {"Repo": {"Type": "AWS::ECR::Repository", "Properties": {"RepositoryName": repository}}}
    boto3.client("cloudformation").create_stack(StackName=name, TemplateBody=json.dumps({"Resources": body}))
    kind = "application/vnd.docker.distribution.manifest.v2+json"
    part = {"mediaType": "application/octet-stream", "size": 2, "digest": f"sha256:{'0' * 64}"}
    manifest = json.dumps({"schemaVersion": 2, "mediaType": kind, "config": part, "layers": [part]})
    boto3.client("ecr").put_image(repositoryName=repository, imageManifest=manifest, imageTag="latest")


def test_destroy_removes_the_image_repository_that_sam_made_beside_the_stack(deploy: Deploy) -> None:
    deploy("demo")
    companion("demo-2a97516c-CompanionStack", "demo2a97516c/fraudfunction0a1b2c3drepo")
    printed: list[str] = []
    destroy("demo", yes=True, pause_s=1, echo=printed.append)
    assert "demo2a97516c/fraudfunction0a1b2c3drepo: 1 images deleted" in printed
    assert boto3.client("cloudformation").describe_stacks()["Stacks"] == []


def test_destroy_leaves_the_neighbours_alone(deploy: Deploy) -> None:
    ours, other = deploy("demo"), deploy("demo-two")
    companion("demo-two-2a97516c-CompanionStack", "demotwo/repo")
    destroy("demo", yes=True, pause_s=1, echo=lambda _: None)
    names = {item["StackName"] for item in boto3.client("cloudformation").describe_stacks()["Stacks"]}
    assert names == {"demo-two", "demo-two-2a97516c-CompanionStack"}
    assert other["BucketName"] in buckets()
    assert ours["BucketName"] not in buckets()
    assert len(boto3.client("ecr").describe_repositories()["repositories"]) == 1


def test_destroy_goes_on_where_an_earlier_one_stopped(aws: str) -> None:
    companion("demo-2a97516c-CompanionStack", "demo/repo")
    destroy("demo", yes=True, pause_s=1, echo=lambda _: None)
    assert boto3.client("cloudformation").describe_stacks()["Stacks"] == []


def test_destroy_of_nothing_says_so(aws: str) -> None:
    with pytest.raises(StackError, match="no stack 'demo' in eu-west-1, so there is nothing to delete"):
        destroy("demo", yes=True)


def test_destroy_names_what_all_sam_applications_share(deploy: Deploy) -> None:
    deploy("demo")
    body = json.dumps({"Resources": {"Topic": {"Type": "AWS::SNS::Topic"}}})
    boto3.client("cloudformation").create_stack(StackName="aws-sam-cli-managed-default", TemplateBody=body)
    left = destroy("demo", yes=True, pause_s=1, echo=lambda _: None)
    assert any(line.startswith("left: aws-sam-cli-managed-default: ") and "demo/" in line for line in left)


def test_every_call_to_aws_has_a_deadline() -> None:
    config: Any = stacks._DEADLINES
    assert config.connect_timeout <= 5
    assert config.read_timeout <= 30
