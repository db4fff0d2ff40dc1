"""Going back to code that ran before: the alias ``live`` of a stack's function is pointed at an older version.

A version of a Lambda function is an image by its digest, with its settings, and never changes: going back builds
nothing and takes a second. It is a stopgap: the next deploy moves the alias on from wherever it is.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from .stack import StackError, aws_errors_in_one_line, client_of, open_session, stack_of

ALIAS: Final = "live"


@dataclass(frozen=True, slots=True)
class Moved:
    """What :func:`rollback_code` did: the alias and the versions, each with its image where that is told."""

    stack: str
    function: str
    before: str
    after: str
    image_before: str
    image_after: str


def rollback_code(stack: str, *, region: str | None = None, to: str | None = None) -> Moved:
    """Point ``live`` at version ``to``, or at the one before the version that it names now.

    Refused while a deployment shifts traffic, where there is no such version, and where its image is gone. The alias is
    moved only if nobody else has moved it meanwhile. Raises :class:`~training.stack.StackError`.
    """
    with aws_errors_in_one_line():
        session = open_session(region)
        function = stack_of(session, stack).function
        client = client_of(session, "lambda")
        try:
            alias = client.get_alias(FunctionName=function, Name=ALIAS)
        except client.exceptions.ResourceNotFoundException:
            raise StackError(
                f"Function {function} has no alias '{ALIAS}': deploy template.yaml first (sam build, sam deploy)."
            ) from None
        if (alias.get("RoutingConfig") or {}).get("AdditionalVersionWeights"):
            raise StackError(
                "A deployment is shifting traffic at this moment. Stop it, which goes back by itself: "
                "aws deploy stop-deployment --auto-rollback-enabled --deployment-id <id>"
            )
        before = alias["FunctionVersion"]
        versions = _versions(client, function)
        after = _chosen(before, to, versions, function)
        images = [image_of(client, function, version) for version in (before, after)]
        if image_is_there(session, images[1]) is False:
            raise StackError(
                f"The image of version {after} is no longer in its repository: that version would not start. "
                "Choose another with --to, or check out its commit and deploy it."
            )
        client.update_alias(FunctionName=function, Name=ALIAS, FunctionVersion=after, RevisionId=alias["RevisionId"])
    return Moved(stack, function, before, after, *images)


def _versions(client: Any, function: str) -> list[str]:
    """The published versions, oldest first."""
    pages = client.get_paginator("list_versions_by_function").paginate(FunctionName=function)
    numbers = [item["Version"] for page in pages for item in page["Versions"] if item["Version"] != "$LATEST"]
    return sorted(numbers, key=int)


def _chosen(before: str, to: str | None, versions: list[str], function: str) -> str:
    if to is not None:
        if to not in versions:
            raise StackError(f"Function {function} has no version '{to}'. There are: {', '.join(versions) or 'none'}.")
        if to == before:
            raise StackError(f"'{ALIAS}' is at version {to} already.")
        return to
    older = [version for version in versions if before.isdecimal() and int(version) < int(before)]
    if not older:
        raise StackError(f"There is no version before {before}. There are: {', '.join(versions) or 'none'}.")
    return older[-1]


def image_of(client: Any, function: str, version: str) -> str:
    """The version's image by its digest; empty where Lambda tells none."""
    code: Mapping[str, Any] = client.get_function(FunctionName=function, Qualifier=version).get("Code", {})
    given = str(code.get("ImageUri") or "")  # by a tag, as SAM deploys it, or by its digest already
    return given if "@" in given else str(code.get("ResolvedImageUri") or given)


def image_is_there(session: Any, image: str) -> bool | None:
    """Whether ECR has the image still, or its version starts no more; None for no address of ECR's by digest."""
    found = re.fullmatch(r"[^/]+\.dkr\.ecr\.[^/]+/([^@:]+)@(sha256:[0-9a-f]{64})", image)
    if found is None:
        return None
    ecr = client_of(session, "ecr")
    try:
        ecr.describe_images(repositoryName=found[1], imageIds=[{"imageDigest": found[2]}])
    except (ecr.exceptions.ImageNotFoundException, ecr.exceptions.RepositoryNotFoundException):
        return False
    return True
