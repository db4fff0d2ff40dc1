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

from .rollback_code import ALIAS, image_of
from .stack import StackError, aws_errors_in_one_line, client_of, open_session, resources_of

#: The tag of what runs. One stack has its repositories to itself, so no other stack moves it.
LIVE: Final = "live"


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

    To be run after each deploy; it may be run at any time. Raises :class:`~training.stack.StackError`.
    """
    with aws_errors_in_one_line():
        session = open_session(region)
        found = [_running(session, name) for name in resources_of(session, stack, "AWS::Lambda::Function")]
        if not found:
            raise StackError(f"Stack '{stack}' has no functions in {session.region_name}. Was it deployed?")
        for each in found:
            _tag(session, each)
            _limit(session, each.repository, keep)
            echo(f"{each.function}: {each.repository}@{each.digest[:19]} is kept, and {keep} besides")
    return found


def _running(session: boto3.Session, function: str) -> Kept:
    """The image behind the alias where there is one, else the newest. Raises :class:`~training.stack.StackError`."""
    client = client_of(session, "lambda")
    try:
        address = image_of(client, function, ALIAS)
    except client.exceptions.ResourceNotFoundException:
        address = image_of(client, function, "$LATEST")
    host, _, rest = address.partition("/")
    repository, _, digest = rest.partition("@")
    if ".dkr.ecr." not in host or not digest.startswith("sha256:"):
        raise StackError(f"{function} runs no image by its digest: was it deployed from this template.yaml?")
    return Kept(function, repository, digest)


def _tag(session: boto3.Session, kept: Kept) -> None:
    ecr = client_of(session, "ecr")
    images = ecr.batch_get_image(repositoryName=kept.repository, imageIds=[{"imageDigest": kept.digest}])["images"]
    if not images:
        raise StackError(
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
    client_of(session, "ecr").put_lifecycle_policy(repositoryName=repository, lifecyclePolicyText=text)
