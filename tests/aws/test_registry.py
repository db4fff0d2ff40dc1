"""Images in ECR: what runs is never deleted, and little else is kept. Against moto's ECR, Lambda and CloudFormation."""

import hashlib
import json
from collections.abc import Callable
from typing import Any

import boto3
import pytest
from typer.testing import CliRunner

from tests.aws.settling import REGION
from training.__main__ import app
from training.registry import LIVE, keep_images
from training.stack import StackError

Push = Callable[[str, str], str]


@pytest.fixture
def push(aws: str) -> Push:
    """``push(repository, tag)`` makes an image and gives its digest."""
    ecr = boto3.client("ecr")

    def make(repository: str, tag: str) -> str:
        if repository not in {item["repositoryName"] for item in ecr.describe_repositories()["repositories"]}:
            ecr.create_repository(repositoryName=repository)
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": {"digest": f"sha256:{hashlib.sha256(tag.encode()).hexdigest()}", "size": 1},
            "layers": [],
        }
        text = json.dumps(manifest)
        digest = ecr.put_image(repositoryName=repository, imageManifest=text, imageTag=tag)["image"]["imageId"]
        return str(digest["imageDigest"])

    return make


@pytest.fixture
def deployed(push: Push) -> Callable[[str], str]:
    """``deployed(tag)`` deploys the stack "demo", one function that runs the image of that tag; gives its digest."""
    client = boto3.client("cloudformation")
    trust = {
        "Statement": [{"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}]
    }

    def deploy(tag: str) -> str:
        digest = push("fraudrepo", tag)
        address = f"123456789012.dkr.ecr.{REGION}.amazonaws.com/fraudrepo@{digest}"
        function = {"PackageType": "Image", "Code": {"ImageUri": address}, "Role": {"Fn::GetAtt": ["Role", "Arn"]}}
        body = json.dumps(
            {
                "Resources": {
                    "Role": {"Type": "AWS::IAM::Role", "Properties": {"AssumeRolePolicyDocument": trust}},
                    "FraudFunction": {"Type": "AWS::Lambda::Function", "Properties": function},
                }
            }
        )
        client.create_stack(StackName="demo", TemplateBody=body)
        return digest

    return deploy


def tagged(tag: str) -> str:
    found = boto3.client("ecr").describe_images(repositoryName="fraudrepo", imageIds=[{"imageTag": tag}])
    return str(found["imageDetails"][0]["imageDigest"])


def rules() -> list[Any]:
    text = boto3.client("ecr").get_lifecycle_policy(repositoryName="fraudrepo")["lifecyclePolicyText"]
    found: list[Any] = json.loads(text)["rules"]
    return found


def test_what_runs_bears_the_tag_that_no_rule_deletes(deployed: Callable[[str], str]) -> None:
    digest = deployed("one")
    (kept,) = keep_images("demo", echo=lambda _: None)
    assert (kept.repository, kept.digest) == ("fraudrepo", digest)
    assert tagged(LIVE) == tagged("one") == digest
    first, second = rules()
    assert first["rulePriority"] < second["rulePriority"], "what a lower number is about, a higher never deletes"
    assert first["selection"]["tagPrefixList"] == [LIVE]
    assert first["selection"]["countNumber"] == 1, "one image can bear a tag, so this rule deletes none"
    assert second["selection"] == {"tagStatus": "any", "countType": "imageCountMoreThan", "countNumber": 3}


def test_newer_images_that_do_not_run_do_not_get_the_tag(deployed: Callable[[str], str], push: Push) -> None:
    digest = deployed("one")
    push("fraudrepo", "two")
    keep_images("demo", keep=5, echo=lambda _: None)
    assert tagged(LIVE) == digest
    assert rules()[1]["selection"]["countNumber"] == 5


def test_it_may_be_run_again(deployed: Callable[[str], str]) -> None:
    deployed("one")
    assert keep_images("demo", echo=lambda _: None) == keep_images("demo", echo=lambda _: None)


def test_an_image_that_has_gone_is_told_with_its_mend(deployed: Callable[[str], str]) -> None:
    digest = deployed("one")
    boto3.client("ecr").batch_delete_image(repositoryName="fraudrepo", imageIds=[{"imageDigest": digest}])
    with pytest.raises(StackError, match="sam build && sam deploy"):
        keep_images("demo", echo=lambda _: None)


def test_a_stack_that_is_not_there_is_one_line(aws: str) -> None:
    done = CliRunner().invoke(app, ["images", "--stack", "nowhere"])
    assert done.exit_code == 1
    assert "nowhere" in done.stderr
    assert len(done.stderr.splitlines()) == 1
