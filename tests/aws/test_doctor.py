"""The doctor and a deployed stack, against a stand-in for AWS: each thing that goes wrong is named, with its mend."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.core.common_models import CloudFormationModel
from typer.testing import CliRunner

from fraud_api_lambda.bundle import SigningKey
from tests.aws.releasing import REPOSITORY, release
from training.__main__ import app as commands
from training.doctor import Finding, examine_stack, table
from training.stack import StackError, publish_to_stack

pytestmark = [
    pytest.mark.server,
    pytest.mark.filterwarnings("ignore:Tried to parse AWS..S3..BucketPolicy"),  # moto makes none
]
Deploy = Callable[..., dict[str, str]]
ACCOUNT = "123456789012"


def add(**resources: Any) -> None:
    """Put resources, and outputs about dead letters, beside what the stack has."""
    client = boto3.client("cloudformation")
    template = client.get_template(StackName="demo")["TemplateBody"]
    template = json.loads(template) if isinstance(template, str) else json.loads(json.dumps(template))
    template["Resources"].update(resources)
    template["Outputs"]["DeadLetterQueueUrls"] = {"Value": f"{dead('t-dead')} {dead('o-dead.fifo')}"}
    client.update_stack(StackName="demo", TemplateBody=json.dumps(template))


def dead(name: str) -> str:
    attributes = {"FifoQueue": "true"} if name.endswith(".fifo") else {}
    return str(boto3.client("sqs").create_queue(QueueName=name, Attributes=attributes)["QueueUrl"])


ALARM = {
    "Type": "AWS::CloudWatch::Alarm",
    "Properties": {
        "AlarmName": "demo-5xx", "MetricName": "5XXError", "Namespace": "AWS/ApiGateway", "Statistic": "Sum",
        "Period": 60, "EvaluationPeriods": 1, "Threshold": 1, "ComparisonOperator": "GreaterThanThreshold",
    },
}  # fmt: skip


class AlarmOfAStack(CloudFormationModel):
    """What the stand-in lacks: a stack's own alarm."""

    def __init__(self, name: str) -> None:
        self.physical_resource_id = name

    @staticmethod
    def cloudformation_name_type() -> str:
        return "AlarmName"

    @staticmethod
    def cloudformation_type() -> str:
        return "AWS::CloudWatch::Alarm"

    @classmethod
    def create_from_cloudformation_json(
        cls, resource_name: str, cloudformation_json: Any, account_id: str, region_name: str, **_: Any
    ) -> "AlarmOfAStack":
        boto3.client("cloudwatch").put_metric_alarm(**cloudformation_json["Properties"])
        return cls(cloudformation_json["Properties"]["AlarmName"])

    @classmethod
    def has_cfn_attr(cls, attr: str) -> bool:
        return False


def set_budget(limit: str) -> None:
    budget = {"BudgetName": "demo", "BudgetLimit": {"Amount": limit, "Unit": "USD"}, "TimeUnit": "MONTHLY",
              "BudgetType": "COST"}  # fmt: skip
    boto3.client("budgets").create_budget(AccountId=ACCOUNT, Budget=budget)


@pytest.fixture
def healthy(deploy: Deploy, models: Path, keys: Path, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, str]:
    """A stack in which all is well."""
    monkeypatch.setenv("MOTO_LAMBDA_STUB_ECR", "false")
    outputs = deploy("demo")
    release(outputs["FunctionName"])
    add(Alarm=ALARM)
    publish_to_stack("demo", models, keys_dir=keys)
    set_budget("0.01")
    return outputs


def found() -> dict[str, Finding]:
    return {one.name: one for one in examine_stack("demo")}


def test_where_all_is_well_every_line_says_ok(healthy: Mapping[str, str]) -> None:
    findings = found()
    assert {one.state for one in findings.values()} == {"ok"}, table(list(findings.values()))
    assert list(findings) == [
        "stack", "alias", "image", "trusted keys", "pointer", "alarms", "API key", "budget", "dead letters"
    ]  # fmt: skip
    assert findings["alias"].detail == "live -> version 3"
    assert "v1 (serial 1)" in findings["pointer"].detail


def no_alias(outputs: Mapping[str, str]) -> None:
    boto3.client("lambda").delete_alias(FunctionName=outputs["FunctionName"], Name="live")


def image_deleted(outputs: Mapping[str, str]) -> None:
    boto3.client("ecr").batch_delete_image(repositoryName=REPOSITORY, imageIds=[{"imageTag": "v3"}])


def parameter_reset(outputs: Mapping[str, str]) -> None:
    boto3.client("ssm").put_parameter(Name=outputs["PublicKeyParameter"], Value="none", Overwrite=True)


def parameter_garbled(outputs: Mapping[str, str]) -> None:
    boto3.client("ssm").put_parameter(Name=outputs["PublicKeyParameter"], Value="release:x", Overwrite=True)


def another_key(outputs: Mapping[str, str]) -> None:
    line = SigningKey.generate("release-other").public_line()
    boto3.client("ssm").put_parameter(Name=outputs["PublicKeyParameter"], Value=line, Overwrite=True)


def pointer_deleted(outputs: Mapping[str, str]) -> None:
    boto3.client("s3").delete_object(Bucket=outputs["BucketName"], Key="models/current")


def bundle_damaged(outputs: Mapping[str, str]) -> None:
    boto3.client("s3").put_object(Bucket=outputs["BucketName"], Key="models/v1/rules.yaml", Body=b"x")


def alarm_raised(outputs: Mapping[str, str]) -> None:
    boto3.client("cloudwatch").set_alarm_state(AlarmName="demo-5xx", StateValue="ALARM", StateReason="test")


def alarm_deleted(outputs: Mapping[str, str]) -> None:
    boto3.client("cloudwatch").delete_alarms(AlarmNames=["demo-5xx"])


def key_deleted(outputs: Mapping[str, str]) -> None:
    boto3.client("apigateway").delete_api_key(apiKey=outputs["ApiKeyId"])


def key_off(outputs: Mapping[str, str]) -> None:
    switch: Any = [{"op": "replace", "path": "/enabled", "value": "false"}]
    boto3.client("apigateway").update_api_key(apiKey=outputs["ApiKeyId"], patchOperations=switch)


def dead_letter(outputs: Mapping[str, str]) -> None:
    boto3.client("sqs").send_message(QueueUrl=dead("t-dead"), MessageBody="{}")


@pytest.mark.parametrize(
    ("harm", "name", "said", "mend"),
    [
        (no_alias, "alias", "has no alias live", "sam deploy"),
        (image_deleted, "image", "is not in ECR", "sam build && sam deploy"),
        (parameter_reset, "trusted keys", "holds none", "make publish STACK=demo"),
        (parameter_garbled, "trusted keys", "not of the form key_id:base64", "Put the lines right"),
        (another_key, "pointer", "not trusted here", "make publish STACK=demo"),
        (pointer_deleted, "pointer", "nothing is published", "make publish STACK=demo"),
        (bundle_damaged, "pointer", "'rules.yaml' is not the file that was sealed", "make publish STACK=demo"),
        (alarm_raised, "alarms", "raised: demo-5xx", "docs/operations.md"),
        (alarm_deleted, "alarms", "deleted by hand: demo-5xx", "sam deploy"),
        (key_deleted, "API key", "was deleted", "sam deploy"),
        (dead_letter, "dead letters", "1 in t-dead", "start-message-move-task --source-arn arn:aws:sqs:"),
    ],
)
def test_what_goes_wrong_is_named_with_its_mend(
    healthy: Mapping[str, str], harm: Callable[[Mapping[str, str]], None], name: str, said: str, mend: str
) -> None:
    harm(healthy)
    one = found()[name]
    assert one.state == "failure", one
    assert said in one.detail
    assert mend in one.mend


def test_a_key_that_is_switched_off(healthy: Mapping[str, str]) -> None:
    key_off(healthy)
    if boto3.client("apigateway").get_api_key(apiKey=healthy["ApiKeyId"])["enabled"] not in {False, "false"}:
        pytest.fail("the stand-in does not switch keys off")
    one = found()["API key"]
    assert (one.state, one.detail) == ("failure", "it is switched off")
    assert "update-api-key" in one.mend


def test_a_deployment_under_way_and_a_missing_budget_and_a_development_key_are_warnings(
    healthy: Mapping[str, str],
) -> None:
    weights = {"AdditionalVersionWeights": {"2": 0.1}}
    boto3.client("lambda").update_alias(FunctionName=healthy["FunctionName"], Name="live", RoutingConfig=weights)
    boto3.client("budgets").delete_budget(AccountId=ACCOUNT, BudgetName="demo")
    ssm = boto3.client("ssm")
    text = ssm.get_parameter(Name=healthy["PublicKeyParameter"])["Parameter"]["Value"]
    text += "\n" + SigningKey.generate("dev-0001").public_line()
    ssm.put_parameter(Name=healthy["PublicKeyParameter"], Value=text, Overwrite=True)
    findings = found()
    for name, said in {"alias": "10% to version 2", "budget": "nobody is told", "trusted keys": "dev-0001"}.items():
        assert findings[name].state == "warning"
        assert said in findings[name].detail
        assert findings[name].mend


def test_a_stack_without_alarms_is_a_warning(deploy: Deploy) -> None:
    deploy("demo")
    one = found()["alarms"]
    assert (one.state, one.detail) == ("warning", "the stack has none")


def test_a_stack_that_is_not_there_is_one_finding_with_what_to_do(aws: str) -> None:
    [one] = examine_stack("demo")
    assert (one.state, one.mend) == ("failure", "Deploy it: sam build && sam deploy --guided")


def test_without_credentials_it_says_so_in_one_line(aws: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(StackError, match="No AWS credentials"):
        examine_stack("demo")


def test_the_command_tells_a_stack_as_json_and_fails_where_something_does(healthy: Mapping[str, str]) -> None:
    good = CliRunner().invoke(commands, ["doctor", "--stack", "demo", "--json"])
    assert (good.exit_code, json.loads(good.output)["ok"]) == (0, True), good.output
    pointer_deleted(healthy)
    bad = CliRunner().invoke(commands, ["doctor", "--stack", "demo"])
    assert bad.exit_code == 1
    assert "make publish STACK=demo" in bad.output
