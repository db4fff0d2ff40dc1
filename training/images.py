"""Which images of a deployed stack stay in ECR: the one that each function runs, always, and a few before it.

SAM gives each function a repository (``resolve_image_repos``) and never empties it. :func:`keep_images` gives the
images that run the tag ``live``, and each repository a lifecycle policy of two rules. A rule never deletes what a rule
with a lower number is about, so what is tagged ``live`` stays however many come after it; a deleted one would be found
by the heartbeat's alarm, too late.
"""

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoRegionError

#: The tag of what runs. One stack has its repositories to itself, so no other stack moves it.
LIVE: Final = "live"
_DEADLINES: Final = Config(connect_timeout=3, read_timeout=15, retries={"max_attempts": 3, "mode": "standard"})


class ImagesError(Exception):
    """Something about the stack's images is not as it must be. The message is one line."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What a function runs, by the repository and the digest of its image."""

    function: str
    repository: str
    digest: str


def keep_images(
    stack: str, *, region: str | None = None, keep: int = 3, echo: Callable[[str], None] = print
) -> list[Kept]:
    """Tag what the stack's functions run, and have ECR keep ``keep`` more images of each repository.

    To be run after each deploy; it may be run at any time. Raises :class:`ImagesError`.
    """
    try:
        session = boto3.Session(region_name=region)
        if session.region_name is None:
            raise NoRegionError
        found = [_running(session, name) for name in _functions(session, stack)]
        if not found:
            raise ImagesError(f"Stack '{stack}' has no functions in {session.region_name}. Was it deployed?")
        for each in found:
            _tag(session, each)
            _limit(session, each.repository, keep)
            echo(f"{each.function}: {each.repository}@{each.digest[:19]} is kept, and {keep} besides")
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "?")
        if code == "ValidationError" and "does not exist" in str(error):
            raise ImagesError(f"There is no stack '{stack}' in {session.region_name}.") from None
        raise ImagesError(f"AWS refused {error.operation_name}: {code}.") from None
    except BotoCoreError as error:
        raise ImagesError(f"AWS did not answer: {' '.join(str(error).split())}") from None
    return found


def _client(session: boto3.Session, service: str) -> Any:
    return session.client(service, config=_DEADLINES)  # type: ignore[call-overload]  # its types are not installed


def _functions(session: boto3.Session, stack: str) -> list[str]:
    pages = _client(session, "cloudformation").get_paginator("list_stack_resources").paginate(StackName=stack)
    return [
        item["PhysicalResourceId"]
        for page in pages
        for item in page["StackResourceSummaries"]
        if item["ResourceType"] == "AWS::Lambda::Function" and item.get("PhysicalResourceId")
    ]


def _running(session: boto3.Session, function: str) -> Kept:
    """The image behind the alias ``live`` where there is one, else the newest. Raises :class:`ImagesError`."""
    client = _client(session, "lambda")
    try:
        code = client.get_function(FunctionName=function, Qualifier="live")["Code"]
    except client.exceptions.ResourceNotFoundException:
        code = client.get_function(FunctionName=function)["Code"]
    given = code.get("ImageUri", "")  # by a tag, as SAM deploys it; then Lambda says which digest that was
    address = given if "@" in given else code.get("ResolvedImageUri", "")
    registry, _, rest = address.partition("/")
    repository, _, digest = rest.partition("@")
    if ".dkr.ecr." not in registry or not digest.startswith("sha256:"):
        raise ImagesError(f"{function} runs no image by its digest: was it deployed from this template.yaml?")
    return Kept(function, repository, digest)


def _tag(session: boto3.Session, kept: Kept) -> None:
    ecr = _client(session, "ecr")
    images = ecr.batch_get_image(repositoryName=kept.repository, imageIds=[{"imageDigest": kept.digest}])["images"]
    if not images:
        raise ImagesError(
            f"{kept.function} runs an image that is not in {kept.repository} any more: sam build && sam deploy"
        )
    # An image may be put again under a further tag; a tag that another image has moves.
    with contextlib.suppress(ecr.exceptions.ImageAlreadyExistsException):  # it has the tag
        ecr.put_image(
            repositoryName=kept.repository,
            imageManifest=images[0]["imageManifest"],
            imageDigest=kept.digest,
            imageTag=LIVE,
        )


def _limit(session: boto3.Session, repository: str, keep: int) -> None:
    def rule(number: int, what: str, most: int, **selection: Any) -> dict[str, Any]:
        selected = {**selection, "countType": "imageCountMoreThan", "countNumber": most}
        return {"rulePriority": number, "description": what, "selection": selected, "action": {"type": "expire"}}

    rules = [
        rule(
            1,
            "what runs: one image has the tag, which is never more than one",
            1,
            tagStatus="tagged",
            tagPrefixList=[LIVE],
        ),
        rule(2, "the newest besides", keep, tagStatus="any"),
    ]
    text = json.dumps({"rules": rules})
    _client(session, "ecr").put_lifecycle_policy(repositoryName=repository, lifecyclePolicyText=text)
