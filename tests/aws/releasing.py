"""A function with versions of images, in the stand-in for AWS."""

import json

import boto3

from tests.servers import REGION

REPOSITORY = "fraud"
_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


def push(tag: str) -> str:
    """An image in the stand-in's ECR; its address."""
    ecr = boto3.client("ecr")
    known = [item["repositoryName"] for item in ecr.describe_repositories()["repositories"]]
    if REPOSITORY not in known:
        ecr.create_repository(repositoryName=REPOSITORY)
    layers = [{"digest": f"sha256:{tag}", "size": 1}]  # what moto makes an image's digest of
    parts = {"schemaVersion": 2, "mediaType": _MANIFEST, "config": layers[0], "layers": layers}
    manifest = json.dumps(parts)
    ecr.put_image(repositoryName=REPOSITORY, imageManifest=manifest, imageTag=tag)
    return f"123456789012.dkr.ecr.{REGION}.amazonaws.com/{REPOSITORY}:{tag}"


def image_of(tag: str) -> str:
    [image] = boto3.client("ecr").describe_images(repositoryName=REPOSITORY, imageIds=[{"imageTag": tag}])[
        "imageDetails"
    ]
    return f"123456789012.dkr.ecr.{REGION}.amazonaws.com/{REPOSITORY}@{image['imageDigest']}"


def release(name: str) -> None:
    """The function ``name`` with the versions 1, 2 and 3, each of an image of its own; ``live`` is 3."""
    iam, client = boto3.client("iam"), boto3.client("lambda")
    trust = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole",
             "Principal": {"Service": "lambda.amazonaws.com"}}]}  # fmt: skip
    role = iam.create_role(RoleName="r", AssumeRolePolicyDocument=json.dumps(trust))["Role"]["Arn"]
    images = [push(tag) for tag in ("v1", "v2", "v3")]
    client.create_function(FunctionName=name, Role=role, PackageType="Image", Code={"ImageUri": images[0]})
    for image in images:
        client.update_function_code(FunctionName=name, ImageUri=image)
        client.publish_version(FunctionName=name)
    client.create_alias(FunctionName=name, Name="live", FunctionVersion="3")
