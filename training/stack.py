"""A deployed stack from outside: publish a bundle to it or go back, look whether it answers, take it down.

``make publish STACK=...``, ``make smoke STACK=...`` and ``make destroy STACK=...`` end here. What belongs to a stack is
read from CloudFormation each time (template.yaml gives nothing a physical name), and credentials, region and endpoint
are the ones that the AWS CLI would use. Every call to AWS has a deadline.
"""

import json
import os
import re
import secrets
import shutil
import statistics
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, NoRegionError, WaiterError

from fraud_api_lambda import bundle as bundles
from fraud_api_lambda.errors import BundleError, BundleMissing, BundleRefused

if TYPE_CHECKING:
    from mypy_boto3_cloudformation import CloudFormationClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import ObjectIdentifierTypeDef
    from mypy_boto3_ssm import SSMClient

#: The public half of a key lies in a parameter that holds this until the first publish (see template.yaml).
PLACEHOLDER: Final = "none"
#: What a standard SSM parameter holds at most, in characters.
_PARAMETER_LIMIT: Final = 4096
_DEADLINES: Final = Config(connect_timeout=3, read_timeout=15, retries={"max_attempts": 3, "mode": "standard"})
#: API Gateway gives up after 29 s, so waiting longer for an answer is waiting for nothing.
_COLD_S: Final = 30.0
_WARM_S: Final = 5.0

#: A row of the public PaySim file that is a fraud: the smoke test's question.
SMOKE_TRANSACTION: Final[Mapping[str, object]] = {
    "step": 1,
    "type": "TRANSFER",
    "amount": 181.0,
    "nameOrig": "C1305486145",
    "oldbalanceOrg": 181.0,
    "newbalanceOrig": 0.0,
    "nameDest": "C553264065",
    "oldbalanceDest": 0.0,
    "newbalanceDest": 0.0,
}


class StackError(Exception):
    """Something about the stack is not as it must be. The message is one line: what, and how to mend it."""


@dataclass(frozen=True, slots=True)
class Stack:
    """The outputs of a deployed stack."""

    name: str
    region: str
    api_url: str
    api_key_id: str
    bucket: str
    parameter: str
    function: str

    @property
    def model_url(self) -> str:
        """The address that the function's FRAUD_MODEL_URL has."""
        return f"s3://{self.bucket}/models/current"


@dataclass(frozen=True, slots=True)
class Published:
    """What :func:`publish_to_stack` or :func:`rollback_stack` did.

    ``new_key`` is the file of a key that was made just now, else None.
    """

    stack: str
    url: str
    version: str
    serial: int
    key_id: str
    new_key: Path | None


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the smoke test. ``mend`` is empty where ``ok``; ``millis`` is the wall time of the call."""

    name: str
    ok: bool
    millis: float
    detail: str
    mend: str = ""


# --- AWS -------------------------------------------------------------------------------------------------------------


@contextmanager
def aws_errors_in_one_line() -> Iterator[None]:
    try:
        yield
    except NoCredentialsError:
        raise StackError(
            "No AWS credentials were found. Run 'aws configure' (or 'aws sso login'), or set AWS_PROFILE."
        ) from None
    except NoRegionError:
        raise StackError("No AWS region is set. Give --region, or set AWS_REGION.") from None
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "?")
        text = error.response.get("Error", {}).get("Message", "")
        if code in {"ExpiredToken", "ExpiredTokenException", "RequestExpired"}:
            raise StackError("The AWS credentials have expired. Log in again (e.g. 'aws sso login').") from None
        raise StackError(f"AWS refused {error.operation_name}: {code}: {text}") from None
    except BotoCoreError as error:
        raise StackError(f"AWS did not answer: {' '.join(str(error).split())}") from None


def open_session(region: str | None) -> boto3.Session:
    session = boto3.Session(region_name=region)
    if session.region_name is None:
        raise NoRegionError
    return session


def _cloudformation(session: boto3.Session) -> "CloudFormationClient":
    return session.client("cloudformation", config=_DEADLINES)


def _s3(session: boto3.Session) -> "S3Client":
    return session.client("s3", config=_DEADLINES)


def _ssm(session: boto3.Session) -> "SSMClient":
    return session.client("ssm", config=_DEADLINES)


def client_of(session: boto3.Session, service: str) -> Any:
    return session.client(service, config=_DEADLINES)  # type: ignore[call-overload]  # its types are not installed


@contextmanager
def session_in_environment(session: boto3.Session) -> Iterator[None]:
    """The bundle's own S3 client knows the environment only: no profile, no SSO. Lend it what boto3 found."""
    credentials = session.get_credentials()
    if credentials is None:
        raise NoCredentialsError
    frozen = credentials.get_frozen_credentials()
    lent = {
        "AWS_ACCESS_KEY_ID": frozen.access_key,
        "AWS_SECRET_ACCESS_KEY": frozen.secret_key,
        "AWS_SESSION_TOKEN": frozen.token,
        "AWS_REGION": session.region_name,
        "AWS_DEFAULT_REGION": session.region_name,
    }
    before = {name: os.environ.get(name) for name in lent}

    def put(values: Mapping[str, str | None]) -> None:
        for name, value in values.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    put(lent)
    try:
        yield
    finally:
        put(before)


def read_stack(name: str, *, region: str | None = None) -> Stack:
    """Read the outputs of stack ``name``. Raises :class:`StackError` when it is not there, not ready, or not ours."""
    with aws_errors_in_one_line():
        session = open_session(region)
        return stack_of(session, name)


def stack_of(session: boto3.Session, name: str) -> Stack:
    region = session.region_name
    found = _describe(session, name)
    if found is None:
        raise StackError(f"There is no stack '{name}' in {region}. Deploy it: sam build && sam deploy --guided")
    status = found["StackStatus"]
    if status not in {"CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE", "IMPORT_COMPLETE"}:
        if status.endswith("_IN_PROGRESS"):
            raise StackError(f"Stack '{name}' is busy ({status}). Wait until CloudFormation is done, then try again.")
        raise StackError(
            f"Stack '{name}' is in state {status} and cannot be used. Take it down with "
            f"'make destroy STACK={name} ARGS=--yes', then deploy again."
        )
    outputs = {item["OutputKey"]: item["OutputValue"] for item in found.get("Outputs", [])}
    wanted = ("ApiUrl", "ApiKeyId", "BucketName", "PublicKeyParameter", "FunctionName")
    missing = [key for key in wanted if not outputs.get(key)]
    if missing:
        raise StackError(
            f"Stack '{name}' has no output {', '.join(missing)}: it was not deployed from this template.yaml. "
            "Deploy again, or name another stack."
        )
    return Stack(name, str(region), outputs["ApiUrl"].rstrip("/"), *(outputs[key] for key in wanted[1:]))


def _describe(session: boto3.Session, name: str) -> Any:
    try:
        return _cloudformation(session).describe_stacks(StackName=name)["Stacks"][0]
    except ClientError as error:
        if "does not exist" in str(error):
            return None
        raise


# --- publish ---------------------------------------------------------------------------------------------------------


def publish_to_stack(
    stack: str,
    bundle: Path,
    *,
    region: str | None = None,
    keys_dir: Path = Path("keys"),
    rotate: bool = False,
    force: bool = False,
) -> Published:
    """Sign a bundle with the stack's release key and point the stack at it.

    ``bundle`` is a bundle's folder, or a models folder with a ``current`` pointer; it is left as it is (a copy is
    signed). The release key is the newest that the stack trusts and whose private half lies in ``keys_dir``. The first
    time there is none: one is made, ``keys_dir/release-<yyyymmdd>-xxxx.key`` (0600), and its public half is added to
    the stack's parameter. ``rotate`` makes and adds a further one; nothing trusted is ever dropped here. ``force``
    publishes past the gate of :func:`training.publish.publish`.

    Raises :class:`StackError`, and what ``training.publish.publish`` raises.
    """
    from training.publish import publish  # its gate needs the training extras; smoke and destroy do not

    source, public_keys = _find_bundle(bundle, keys_dir)
    with aws_errors_in_one_line():
        session = open_session(region)
        target = stack_of(session, stack)
        with session_in_environment(session), tempfile.TemporaryDirectory() as scratch:
            trusted = trusted_keys(session, target)
            key, made = _release_key(target, trusted, keys_dir, rotate=rotate)
            copy = Path(scratch) / source.name
            shutil.copytree(source, copy)
            # First the copy is verified and signed: a bundle that is refused must leave no trace in the stack.
            bundles.resign(copy, key, public_keys)
            if made is not None:
                _save(key, made)
            _trust(session, target, key)
            public_keys = {**trusted, **bundles.parse_public_keys(key.public_line())}
            pointer = publish(copy, target.model_url, key, public_keys, force=force)
    return Published(stack, target.model_url, pointer.version, pointer.serial, key.key_id, made)


def rollback_stack(
    stack: str, *, region: str | None = None, keys_dir: Path = Path("keys"), to: str | None = None
) -> Published:
    """Point the stack back at version ``to``, or at the version before the current one; the serial grows all the same.

    Raises :class:`StackError`, and what :func:`training.publish.rollback` raises.
    """
    from training.publish import rollback

    with aws_errors_in_one_line():
        session = open_session(region)
        target = stack_of(session, stack)
        with session_in_environment(session):
            trusted = trusted_keys(session, target)
            key, made = _release_key(target, trusted, keys_dir, rotate=False)
            if made is not None:
                raise StackError(f"Nothing was published to '{stack}' yet, so there is nothing to go back to.")
            _trust(session, target, key)
            public_keys = {**trusted, **bundles.parse_public_keys(key.public_line())}
            pointer = rollback(target.model_url, key, public_keys, to)
    return Published(stack, target.model_url, pointer.version, pointer.serial, key.key_id, None)


def _find_bundle(path: Path, keys_dir: Path) -> tuple[Path, dict[str, bytes]]:
    """The bundle's own folder, and the public keys of this machine, by which it is verified."""
    public_keys: dict[str, bytes] = {}
    for file in sorted(keys_dir.glob("*.pub")):
        public_keys |= bundles.parse_public_keys(file.read_text())
    if not public_keys:
        raise StackError(f"There is no public key (*.pub) in {keys_dir}/. Make a pair: python -m training keys")
    if (path / bundles.MANIFEST).is_file():
        return path, public_keys
    if (path / "current").is_file():
        pointer = bundles.read_pointer(f"file://{path.as_posix()}/current", public_keys)
        return path / pointer.version, public_keys
    raise StackError(
        f"{path} is neither a bundle ({bundles.MANIFEST}) nor a folder of bundles (current). "
        "Make one: python -m training run"
    )


def trusted_keys(session: boto3.Session, stack: Stack) -> dict[str, bytes]:
    """The public keys that the stack trusts, oldest first."""
    text = _parameter(session, stack)
    return {} if text.strip() in {"", PLACEHOLDER} else bundles.parse_public_keys(text)


def _parameter(session: boto3.Session, stack: Stack) -> str:
    return _ssm(session).get_parameter(Name=stack.parameter)["Parameter"].get("Value", "")


def _release_key(
    stack: Stack, trusted: Mapping[str, bytes], keys_dir: Path, *, rotate: bool
) -> tuple[bundles.SigningKey, Path | None]:
    """The key to sign with, and the file that a new one is to be saved to (None: it is not new)."""
    own = {key.key_id: key for key in map(bundles.SigningKey.load, sorted(keys_dir.glob("release-*.key")))}
    halves = {key_id: _public_half(key) for key_id, key in own.items()}
    if not rotate:
        usable = [key_id for key_id, public in trusted.items() if halves.get(key_id) == public]
        if usable:
            return own[usable[-1]], None
        if trusted:
            raise StackError(
                f"Stack '{stack.name}' trusts {', '.join(trusted)}, and the private half of none of them is in "
                f"{keys_dir}/. Copy the .key file from where it was made, or add a key of your own with --rotate."
            )
        # The parameter is empty. If bundles lie there already, it was reset, and the key that signed them comes back.
        try:
            return own[bundles.read_pointer(stack.model_url, halves).key_id], None
        except BundleMissing:
            pass
        except BundleRefused:
            raise StackError(
                f"The bundle served by '{stack.name}' was signed with a key that is not in {keys_dir}/. Copy the .key "
                f"file from where it was made, or start anew after: aws s3 rm {stack.model_url}"
            ) from None
    key = bundles.SigningKey.generate(f"release-{datetime.now(UTC):%Y%m%d}-{secrets.token_hex(2)}")
    return key, keys_dir / f"{key.key_id}.key"


def _public_half(key: bundles.SigningKey) -> bytes:
    return bundles.parse_public_keys(key.public_line())[key.key_id]


def _save(key: bundles.SigningKey, path: Path) -> None:
    key.save(path)
    path.with_suffix(".pub").write_text(key.public_line() + "\n")


def _trust(session: boto3.Session, stack: Stack, key: bundles.SigningKey) -> None:
    """Add the key's public half to the stack's parameter, behind what is there; do nothing where it is there."""
    text = _parameter(session, stack).strip()
    text = "" if text == PLACEHOLDER else text
    if bundles.parse_public_keys(text).get(key.key_id) == _public_half(key):
        return
    text = f"{text}\n{key.public_line()}".strip()
    if len(text) > _PARAMETER_LIMIT:
        raise StackError(
            f"The parameter {stack.parameter} would hold more than {_PARAMETER_LIMIT} characters. "
            "Take keys that are no longer used out of it (docs/deploy.md, 'Keys')."
        )
    _ssm(session).put_parameter(Name=stack.parameter, Value=text, Type="String", Overwrite=True)


# --- smoke -----------------------------------------------------------------------------------------------------------


def smoke(
    stack: str,
    *,
    region: str | None = None,
    wait_s: float = 90.0,
    pause_s: float = 3.0,
    echo: Callable[[str], None] = print,
) -> list[Check]:
    """Ask the deployed API the questions that matter and print a table of the answers.

    ``wait_s`` bounds the waiting for what takes time after a deploy or a publish: a new API key becomes known within
    about a minute, and the function looks for a new bundle at most once a minute. Raises :class:`StackError` with the
    first failure and its mend; the table has been printed by then.
    """
    with aws_errors_in_one_line():
        session = open_session(region)
        target = stack_of(session, stack)
        key = client_of(session, "apigateway").get_api_key(apiKey=target.api_key_id, includeValue=True)["value"]
        with session_in_environment(session):
            served = _served_version(session, target)
    checks = _ask(target, key, served, wait_s, pause_s)
    echo(table(checks))
    failed = next((check for check in checks if not check.ok), None)
    if failed:
        raise StackError(f"{failed.name}: {failed.detail}. {failed.mend}")
    return checks


def table(checks: list[Check]) -> str:
    """The checks as aligned text, one a line."""
    width = max(len(check.name) for check in checks)
    return "\n".join(
        f"{'ok  ' if check.ok else 'FAIL'}  {check.name:<{width}}  {check.millis:7.0f} ms  {check.detail}"
        for check in checks
    )


def _served_version(session: boto3.Session, stack: Stack) -> str | BundleError:
    """The version that the stack should serve, or why it can serve none."""
    try:
        return bundles.read_pointer(stack.model_url, trusted_keys(session, stack)).version
    except BundleError as error:
        return error


def _ask(stack: Stack, key: str, served: str | BundleError, wait_s: float, pause_s: float) -> list[Check]:
    url, name = stack.api_url, stack.name
    until = time.monotonic() + wait_s
    logs = f"Look into the log: sam logs --stack-name {name} --region {stack.region}"
    checks: list[Check] = []

    while True:  # a key is known to the gateway only some time after it was made
        health = _call("GET", f"{url}/health", key, None, _COLD_S)
        if health.status != 403 or time.monotonic() > until:
            break
        time.sleep(max(0.0, min(pause_s, until - time.monotonic())))
    mend = "The key is not known to the gateway: deploy again." if health.status == 403 else logs
    checks.append(_check("GET /health", health, health.status == 200 and health.json.get("status") == "ok", mend))
    if not checks[-1].ok:
        return checks

    shut = _call("GET", f"{url}/health", None, None, _COLD_S)
    checks.append(
        _check(
            "GET /health without a key", shut, shut.status == 403, "The API is open: deploy template.yaml unchanged."
        )
    )

    if isinstance(served, BundleError):
        until = 0.0  # waiting does not help: there is nothing that the function could find
    while True:
        ready = _call("GET", f"{url}/ready", key, None, _COLD_S)
        right = ready.status == 200 and ready.json.get("model_version") == served
        if right or time.monotonic() > until:
            break
        time.sleep(max(0.0, min(pause_s, until - time.monotonic())))
    checks.append(_check("GET /ready", ready, right, _mend_model(stack, served), _said(ready, served)))

    body = json.dumps({"transaction_id": f"smoke-{secrets.token_hex(8)}", **SMOKE_TRANSACTION})
    decision = _call("POST", f"{url}/predict", key, body, _COLD_S)
    good = decision.status == 200 and decision.json.get("outcome") in {"approve", "review", "decline"}
    checks.append(_check("POST /predict", decision, good, logs, _decided(decision)))
    if good:
        whole = decision.json.get("model_version") == served and decision.json.get("degraded") == []
        detail = f"model {decision.json.get('model_version')}, degraded {decision.json.get('degraded')}"
        checks.append(_check("the decision is the model's", decision, whole, _mend_model(stack, served), detail))
        again = [_call("POST", f"{url}/predict", key, json.dumps(dict(SMOKE_TRANSACTION)), _WARM_S) for _ in range(5)]
        slow = Answer(again[-1].status, {}, "", statistics.median(answer.millis for answer in again))
        fine = all(answer.status == 200 for answer in again)
        checks.append(_check("POST /predict, warm (median of 5)", slow, fine, logs))

    wrong = _call("POST", f"{url}/predict", key, '{"amount": "a lot"}', _WARM_S)
    # The body too: API Gateway hands a body that the function marked as binary on as base64 text.
    told = wrong.status == 422 and wrong.kind == "application/problem+json" and wrong.json.get("status") == 422
    checks.append(_check("POST /predict with a wrong amount", wrong, told, logs))
    return checks


def _mend_model(stack: Stack, served: str | BundleError) -> str:
    publish = f"make publish STACK={stack.name}"
    if isinstance(served, BundleMissing):
        return f"No bundle was published yet: {publish}"
    if isinstance(served, BundleRefused):
        return f"The parameter {stack.parameter} does not trust what is published. This puts the key back: {publish}"
    if isinstance(served, BundleError):
        return "Look whether these credentials may read the bucket."
    return f"{served} is published and not served. Wait a minute and try again, or publish again: {publish}"


def _said(answer: "Answer", served: str | BundleError) -> str:
    if answer.status == 200:
        return f"200, serves {answer.json.get('model_version')}, published is {served}"
    return f"{answer.status or 'no answer'}, {answer.json.get('detail') or answer.json.get('model') or answer.error}"


def _decided(answer: "Answer") -> str:
    if answer.status != 200:
        return ""
    facts = answer.json
    return f"200, {facts.get('outcome')} by {facts.get('decided_by')}, probability {facts.get('fraud_probability')}"


def _check(name: str, answer: "Answer", ok: bool, mend: str, detail: str = "") -> Check:
    said = detail or (str(answer.status) if answer.status else answer.error)
    return Check(name, ok, answer.millis, said, "" if ok else mend)


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer; ``status`` 0 is none at all, and ``error`` says why. ``json`` is {} where it was no object."""

    status: int
    json: Mapping[str, Any]
    kind: str
    millis: float
    error: str = ""


def _call(method: str, url: str, key: str | None, body: str | None, deadline_s: float) -> Answer:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "https" and parts.hostname not in {"127.0.0.1", "localhost"}:
        raise StackError("The stack's ApiUrl is not https, and the key is sent over nothing else. Deploy again.")
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    if key is not None:
        headers["X-API-Key"] = key
    data = None if body is None else body.encode()
    request = urllib.request.Request(url, data=data, headers=headers, method=method)  # noqa: S310  # checked above
    started = time.perf_counter()
    error = ""
    try:
        with urllib.request.urlopen(request, timeout=deadline_s) as reply:  # noqa: S310
            status, kind, raw = reply.status, reply.headers.get_content_type(), reply.read()
    except urllib.error.HTTPError as reply:
        status, kind, raw = reply.code, reply.headers.get_content_type(), reply.read()
    except (OSError, ValueError) as failure:
        reason = getattr(failure, "reason", failure)
        status, kind, raw, error = 0, "", b"", f"no answer ({reason or type(failure).__name__})"
    millis = (time.perf_counter() - started) * 1000
    try:
        parsed = json.loads(raw)
    except ValueError:
        parsed = None
    return Answer(status, parsed if isinstance(parsed, dict) else {}, kind, millis, error)


# --- destroy ---------------------------------------------------------------------------------------------------------


def destroy(
    stack: str,
    *,
    region: str | None = None,
    yes: bool = False,
    wait_s: float = 1800.0,
    pause_s: float = 5.0,
    echo: Callable[[str], None] = print,
) -> list[str]:
    """Delete the stack and all that is in it, and return what is left, one line each.

    Deleted are every version of every object in its buckets, the stack, and the stack that ``resolve_image_repos`` made
    beside it with the images. It may be called again after a failure, and for a stack whose deploy never finished.
    Without ``yes`` it raises :class:`StackError` with the list of what it would delete.
    """
    with aws_errors_in_one_line():
        session = open_session(region)
        found = _describe(session, stack)
        companion = _companion(session, stack)
        if found is None and companion is None:
            raise StackError(f"There is no stack '{stack}' in {session.region_name}, so there is nothing to delete.")
        buckets = resources_of(session, stack, "AWS::S3::Bucket") if found else []
        if buckets:  # in prod the bucket outlives the stack, and what is in it with it
            buckets = resources_of(session, stack, "AWS::S3::Bucket", but=_kept(session, stack))
        repositories = resources_of(session, companion, "AWS::ECR::Repository") if companion else []
        doomed = [f"stack {stack}"] if found else []
        doomed += [f"bucket {bucket} with every version in it" for bucket in buckets]
        doomed += [f"stack {companion}"] if companion else []
        doomed += [f"image repository {repository}" for repository in repositories]
        if not yes:
            raise StackError(
                f"Nothing was deleted. This would delete for good: {', '.join(doomed)}. "
                f"If that is meant: make destroy STACK={stack} ARGS=--yes"
            )
        left: list[str] = []
        for bucket in buckets:
            echo(f"{bucket}: {_empty(session, bucket)} versions deleted")
        if found:
            left += _delete(session, stack, wait_s, pause_s)
            echo(f"{stack}: deleted")
        for repository in repositories:
            echo(f"{repository}: {_empty_repository(session, repository)} images deleted")
        if companion:
            left += _delete(session, companion, wait_s, pause_s)
            echo(f"{companion}: deleted")
        if _describe(session, "aws-sam-cli-managed-default"):
            left.append(
                "aws-sam-cli-managed-default: the SAM CLI's own stack and bucket, shared by all SAM applications of "
                f"this region; the templates of this one lie in it under {stack}/"
            )
    left.append("keys/: the release keys on this machine; they sign nothing that is served any more")
    return [f"left: {line}" for line in left]


def _companion(session: boto3.Session, stack: str) -> str | None:
    """The stack with the image repositories: SAM names it after ours, with eight hexadecimal digits between."""
    name = re.compile(re.escape(stack[:104]) + r"-[0-9a-f]{8}-CompanionStack")
    for page in _cloudformation(session).get_paginator("list_stacks").paginate():
        for item in page["StackSummaries"]:
            if item["StackStatus"] != "DELETE_COMPLETE" and name.fullmatch(item["StackName"]):
                return item["StackName"]
    return None


def _kept(session: boto3.Session, stack: str) -> frozenset[str]:
    """Logical ids of what CloudFormation leaves behind when it deletes the stack, by the template that it deployed."""
    body = _cloudformation(session).get_template(StackName=stack, TemplateStage="Processed")["TemplateBody"]
    if not isinstance(body, Mapping):
        raise StackError(f"The template of stack '{stack}' cannot be read, so nothing was deleted.")
    found = dict(body).get("Resources", {})
    return frozenset(name for name, item in found.items() if str(item.get("DeletionPolicy", "")).startswith("Retain"))


def resources_of(session: boto3.Session, stack: str, kind: str, but: frozenset[str] = frozenset()) -> list[str]:
    pages = _cloudformation(session).get_paginator("list_stack_resources").paginate(StackName=stack)
    return [
        item["PhysicalResourceId"]
        for page in pages
        for item in page["StackResourceSummaries"]
        if item["ResourceType"] == kind
        and item["LogicalResourceId"] not in but
        and item.get("PhysicalResourceId")
        and item["ResourceStatus"] not in {"DELETE_COMPLETE", "CREATE_FAILED"}
    ]


def output_of(session: boto3.Session, stack: str, name: str) -> str:
    """An output of the stack; empty where it has none of that name."""
    outputs = (_describe(session, stack) or {}).get("Outputs", [])
    return next((str(item["OutputValue"]) for item in outputs if item["OutputKey"] == name), "")


def _empty(session: boto3.Session, bucket: str) -> int:
    """Delete every version and delete marker; returns how many."""
    s3 = _s3(session)
    count = 0
    try:
        # Always the first page: what it listed is gone by the next look. A page and a deletion hold 1,000 at most.
        while True:
            page = s3.list_object_versions(Bucket=bucket)
            doomed: list[ObjectIdentifierTypeDef] = [
                {"Key": item["Key"], "VersionId": item["VersionId"]}
                for item in (*page.get("Versions", []), *page.get("DeleteMarkers", []))
            ]
            if not doomed:
                return count
            errors = s3.delete_objects(Bucket=bucket, Delete={"Objects": doomed, "Quiet": True}).get("Errors", [])
            if errors:
                raise StackError(
                    f"{len(errors)} objects in {bucket} could not be deleted ({errors[0].get('Code')}). "
                    "Look at the bucket's policy and locks, then run this again."
                )
            count += len(doomed)
    except s3.exceptions.NoSuchBucket:
        return count


def _delete(session: boto3.Session, stack: str, wait_s: float, pause_s: float) -> list[str]:
    """Delete a stack and wait; returns what CloudFormation kept of it. Raises :class:`StackError` with its reasons."""
    client = _cloudformation(session)
    stack_id = _describe(session, stack)["StackId"]  # a deleted stack can be looked at by its id only
    client.delete_stack(StackName=stack)
    try:
        client.get_waiter("stack_delete_complete").wait(
            StackName=stack_id,
            WaiterConfig={"Delay": max(1, round(pause_s)), "MaxAttempts": max(1, round(wait_s / max(1.0, pause_s)))},
        )
    except WaiterError:
        reasons = [
            f"{event.get('LogicalResourceId')}: {event.get('ResourceStatusReason')}"
            for event in client.describe_stack_events(StackName=stack_id)["StackEvents"]
            if event.get("ResourceStatus") == "DELETE_FAILED"
        ]
        why = "; ".join(reasons) or f"it is still {_describe(session, stack_id)['StackStatus']}"
        raise StackError(f"Stack '{stack}' was not deleted: {why}. Mend that, then run this again.") from None
    pages = client.get_paginator("list_stack_resources").paginate(StackName=stack_id)
    return [
        f"{item.get('PhysicalResourceId') or item['LogicalResourceId']} ({item['ResourceType']}), kept by its policy"
        for page in pages
        for item in page["StackResourceSummaries"]
        # A version of a function is "kept", and has gone with the function all the same.
        if item["ResourceStatus"] == "DELETE_SKIPPED" and item["ResourceType"] != "AWS::Lambda::Version"
    ]


def _empty_repository(session: boto3.Session, repository: str) -> int:
    """Delete every image, so that CloudFormation can delete the repository; returns how many."""
    ecr = client_of(session, "ecr")
    count = 0
    try:
        # An image that a list of images refers to can be deleted only after the list, so it may take a second round.
        for _ in range(3):
            pages = ecr.get_paginator("list_images").paginate(repositoryName=repository)
            digests = sorted({item["imageDigest"] for page in pages for item in page["imageIds"]})
            if not digests:
                return count
            for start in range(0, len(digests), 100):
                doomed = [{"imageDigest": digest} for digest in digests[start : start + 100]]
                answer = ecr.batch_delete_image(repositoryName=repository, imageIds=doomed)
                count += len({item["imageDigest"] for item in answer.get("imageIds", [])})
    except ecr.exceptions.RepositoryNotFoundException:
        return count
    return count
