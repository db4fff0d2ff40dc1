"""Looks for what commonly goes wrong, on this machine and in a deployed stack, and says how to mend it.

Nothing is changed: a file that a first start would make is not made here. Each finding is ``ok``, a ``warning`` (it
works, and may not be meant) or a ``failure`` (it does not work); a failure says what to do. Nothing secret is told.
"""

import importlib.metadata
import os
import re
import socket
import stat
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from fraud_api_lambda import bundle as bundles
from fraud_api_lambda.errors import BundleError, BundleMissing, FraudError, SettingsError
from fraud_api_lambda.settings import Settings, read_settings

State = Literal["ok", "warning", "failure"]
#: Versions that are supported.
PYTHONS: Final = ((3, 12), (3, 13))
#: Those of `make run`.
PORTS: Final = {"API": 8000, "console": 8501}
_LOCK: Final = Path("training/requirements.txt")
_PIN: Final = re.compile(r"^([a-z0-9][a-z0-9._-]*)==([^ ;\\\n]+)(?: ; ([^\\\n]+))?", re.M)
_BUDGET_MS: Final = 5_000


@dataclass(frozen=True, slots=True)
class Finding:
    """``mend`` is empty where all is well."""

    name: str
    state: State
    detail: str
    mend: str = ""


def ok(name: str, detail: str) -> Finding:
    return Finding(name, "ok", detail)


def table(findings: Sequence[Finding]) -> str:
    """Aligned text, a line for each finding and one more for each mend."""
    width = max(len(found.name) for found in findings)
    lines = []
    for found in findings:
        lines.append(f"{found.state:<7}  {found.name:<{width}}  {found.detail}")
        if found.mend:
            lines.append(f"{'':<7}  {'':<{width}}  -> {found.mend}")
    return "\n".join(lines)


# --- this machine ----------------------------------------------------------------------------------------------------


def examine_machine(
    environ: Mapping[str, str],
    *,
    root: Path = Path(),
    ports: Mapping[str, int] = PORTS,
    python: tuple[int, int] = sys.version_info[:2],
) -> list[Finding]:
    """Python, environment, settings, keys, bundle, rules, stores, ports. ``root`` is the repository's folder."""
    findings = [_python(python), _environment(root / _LOCK)]
    try:
        settings = read_settings(environ)
        findings.append(ok("settings", "all known and well-formed"))
    except SettingsError as error:
        mend = "Correct or remove it; docs/settings.md lists all. The rest is looked at with the defaults."
        findings.append(Finding("settings", "failure", str(error), mend))
        settings = Settings()
    trusted, finding = _keys(settings)
    findings += [finding, _private_keys(root / "keys"), _bundle(settings, trusted), _rules(settings)]
    findings += _stores(settings)
    findings += [_port(what, port) for what, port in ports.items()]
    return findings


def _python(version: tuple[int, int]) -> Finding:
    shown = ".".join(map(str, version))
    if version in PYTHONS:
        return ok("Python", shown)
    return Finding("Python", "failure", f"{shown} is not supported", "make setup PYTHON=/path/to/python3.13")


def _environment(lock: Path) -> Finding:
    """Whether what is installed is what the lock says."""
    if not lock.is_file():
        return Finding(
            "environment", "warning", f"no {_LOCK} here to compare with", "Run it in the repository's folder."
        )
    from packaging.markers import Marker

    wrong = []
    for name, version, marker in _PIN.findall(lock.read_text()):
        if marker and not Marker(marker.strip()).evaluate():
            continue
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found = "not installed"
        if found != version:
            wrong.append(f"{name} {found}, locked {version}")
    if not wrong:
        return ok("environment", "as locked")
    more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
    return Finding("environment", "failure", "; ".join(wrong[:5]) + more, "rm -rf .venv && make setup")


def _keys(settings: Settings) -> tuple[dict[str, bytes], Finding]:
    from fraud_api_lambda.secret_setting import read_secret

    mend = "python -m training keys makes a pair; FRAUD_MODEL_PUBLIC_KEYS says where the public halves are."
    try:
        keys = bundles.parse_public_keys(read_secret(settings.model_public_keys, "FRAUD_MODEL_PUBLIC_KEYS"))
    except FraudError as error:
        return {}, Finding("public keys", "failure", str(error), mend)
    if not keys:
        return {}, Finding("public keys", "failure", "none is named", mend)
    return keys, ok("public keys", ", ".join(keys))


def _private_keys(folder: Path) -> Finding:
    found = sorted(folder.glob("*.key"))
    if not found:
        return Finding(
            "private keys", "warning", f"none in {folder}/", "Needed only to publish: python -m training keys"
        )
    open_ = [path for path in found if stat.S_IMODE(path.stat().st_mode) & 0o077] if os.name == "posix" else []
    if open_:
        names = ", ".join(path.name for path in open_)
        return Finding("private keys", "failure", f"others may read {names}", f"chmod 600 {open_[0]}")
    return ok("private keys", f"{len(found)}, for their owner alone")


def _bundle(settings: Settings, trusted: Mapping[str, bytes]) -> Finding:
    from fraud_api_lambda.reload import load

    try:
        served = load(bundles.open_bundle(settings.model_url, trusted))
        served.bundle.verify()
    except BundleMissing as error:
        return Finding("bundle", "failure", str(error), "make run trains one; or python -m training run, then publish")
    except FraudError as error:
        mend = "Publish it again (python -m training publish), with a key that is trusted here."
        return Finding("bundle", "failure", str(error), mend)
    return ok("bundle", f"{served.version}, signed by {served.bundle.key_id}, every file as sealed")


def _rules(settings: Settings) -> Finding:
    if settings.rules_url is None:
        return ok("rules file", "none set: the bundle's own rules decide")
    from fraud_api_lambda.features import FeatureSet
    from fraud_api_lambda.rules import load_rules

    try:
        folder, name = bundles.split_url(settings.rules_url, "rules")
        rules = load_rules(bundles.open_store(folder, "rules").read(name)[0], FeatureSet().columns)
    except FraudError as error:
        mend = "Correct the file that FRAUD_RULES_URL names, or unset it: the bundle's own rules decide then."
        return Finding("rules file", "failure", str(error), mend)
    return ok("rules file", f"{rules.version}, {len(rules.rules)} rules")


def _stores(settings: Settings) -> Iterator[Finding]:
    from fraud_api_lambda.decision_log import open_decision_log
    from fraud_api_lambda.feature_store import open_feature_store
    from fraud_api_lambda.outbox import open_outbox

    for name, setting, url, open_ in (
        ("feature store", "FRAUD_FEATURE_STORE_URL", settings.feature_store_url, open_feature_store),
        ("decision log", "FRAUD_DECISION_LOG_URL", settings.decision_log_url, open_decision_log),
        ("outbox", "FRAUD_OUTBOX_URL", settings.outbox_url, open_outbox),
    ):
        yield _store(name, setting, url, open_)


def _store(name: str, setting: str, url: str, open_: Callable[..., Any]) -> Finding:
    scheme = url.partition("://")[0]
    path = Path(url.removeprefix("sqlite:///").removeprefix("file://"))
    if scheme in {"sqlite", "file"} and not path.exists():
        folder = next((parent for parent in path.absolute().parents if parent.exists()), Path("/"))
        if not os.access(folder, os.W_OK):
            return Finding(name, "failure", f"{path} cannot be made in {folder}", f"Make the folder, or set {setting}.")
        return ok(name, f"{path}: the first start makes it")
    try:
        opened = open_(url, budget_ms=_BUDGET_MS)
    except SettingsError as error:
        return Finding(name, "failure", str(error), f"Set {setting} (docs/settings.md).")
    try:
        waiting = opened.waiting() if name == "outbox" else opened.check()
    except FraudError as error:
        return Finding(name, "failure", str(error), f"Start it, or set {setting} (docs/settings.md).")
    finally:
        opened.close()
    number = sum(waiting.values()) if waiting else 0
    return ok(name, f"{scheme}, answers" + (f"; {number} items wait" if name == "outbox" else ""))


def _port(what: str, port: int) -> Finding:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            mend = f"make run {'PORT' if what == 'API' else 'CONSOLE_PORT'}=..., or end what listens there"
            return Finding(f"port {port}", "warning", f"of the {what}, is in use", mend)
    return ok(f"port {port}", f"of the {what}, is free")


# --- a deployed stack ------------------------------------------------------------------------------------------------


def examine_stack(name: str, *, region: str | None = None) -> list[Finding]:
    """State, alias, image, keys, pointer, alarms, API key, budget, dead letters. Raises ``StackError`` without AWS."""
    from . import stack as stacks

    with stacks.aws_errors_in_one_line():
        session = stacks.open_session(region)
        try:
            stack = stacks.stack_of(session, name)
        except stacks.StackError as error:
            what, _, mend = str(error).partition(". ")
            return [Finding("stack", "failure", what, mend or "Deploy it: sam build && sam deploy --guided")]
    looks: list[tuple[str, Callable[[Any, Any], Finding]]] = [
        ("alias", _alias),
        ("image", _image),
        ("trusted keys", _trusted),
        ("pointer", _pointer),
        ("alarms", _alarms),
        ("API key", _api_key),
        ("budget", _budget),
        ("dead letters", _dead_letters),
    ]
    findings = [ok("stack", f"{name} in {stack.region}")]
    for what, look in looks:
        try:
            with stacks.aws_errors_in_one_line():
                findings.append(look(session, stack))
        except (stacks.StackError, FraudError) as error:
            findings.append(Finding(what, "failure", str(error), "Look whether these credentials may ask for that."))
    return findings


def _alias(session: Any, stack: Any) -> Finding:
    from .rollback_code import ALIAS
    from .stack import client_of

    client = client_of(session, "lambda")
    try:
        alias = client.get_alias(FunctionName=stack.function, Name=ALIAS)
    except client.exceptions.ResourceNotFoundException:
        mend = "Deploy template.yaml unchanged: sam build && sam deploy"
        return Finding("alias", "failure", f"{stack.function} has no alias {ALIAS}", mend)
    shifted = (alias.get("RoutingConfig") or {}).get("AdditionalVersionWeights") or {}
    if shifted:
        told = ", ".join(f"{share:.0%} to version {version}" for version, share in shifted.items())
        mend = "Wait for the deployment; it goes back by itself where an alarm rises."
        return Finding("alias", "warning", f"{ALIAS} is being moved: {told}", mend)
    return ok("alias", f"{ALIAS} -> version {alias['FunctionVersion']}")


def _image(session: Any, stack: Any) -> Finding:
    from .rollback_code import ALIAS, image_is_there, image_of
    from .stack import client_of

    client = client_of(session, "lambda")
    try:
        image = image_of(client, stack.function, ALIAS)
    except client.exceptions.ResourceNotFoundException:
        return Finding("image", "failure", "there is no live version", "sam build && sam deploy")
    there = image_is_there(session, image)
    if there is None:
        return Finding("image", "warning", "Lambda tells no digest of it", "Look into the function's console page.")
    if not there:
        mend = "sam build && sam deploy brings it back; Lambda deletes functions without an image after a while"
        return Finding("image", "failure", "the live version's image is not in ECR", mend)
    return ok("image", image.rpartition("/")[2][:40])


def _trusted(session: Any, stack: Any) -> Finding:
    from .stack import trusted_keys

    mend = f"make publish STACK={stack.name}"
    try:
        keys = trusted_keys(session, stack)
    except SettingsError as error:
        return Finding("trusted keys", "failure", f"{stack.parameter}: {error}", f"Put the lines right, or {mend}")
    if not keys:
        return Finding("trusted keys", "failure", f"{stack.parameter} holds none", mend)
    if refused := [key for key in keys if key.startswith("dev-")]:
        detail = f"{', '.join(refused)} is a development key and trusted by no function"
        return Finding("trusted keys", "warning", detail, f"Take it out of {stack.parameter} (docs/deploy.md, 'Keys').")
    return ok("trusted keys", ", ".join(keys))


def _pointer(session: Any, stack: Any) -> Finding:
    from .stack import session_in_environment, trusted_keys

    mend = f"make publish STACK={stack.name}"
    try:
        with session_in_environment(session):
            bundle = bundles.open_bundle(stack.model_url, trusted_keys(session, stack))
            bundle.verify()
    except BundleMissing as error:
        return Finding("pointer", "failure", f"nothing is published: {error}", mend)
    except BundleError as error:
        return Finding("pointer", "failure", str(error), mend)
    return ok("pointer", f"{bundle.manifest.version} (serial {bundle.serial}), signed by {bundle.key_id}")


def _alarms(session: Any, stack: Any) -> Finding:
    from .stack import client_of, resources_of

    names = resources_of(session, stack.name, "AWS::CloudWatch::Alarm")
    if not names:
        mend = "Deploy template.yaml unchanged; CostMode=production has all of them."
        return Finding("alarms", "warning", "the stack has none", mend)
    pages = client_of(session, "cloudwatch").get_paginator("describe_alarms").paginate(AlarmNames=names[:100])
    found = {alarm["AlarmName"]: alarm for page in pages for alarm in page["MetricAlarms"]}
    if missing := [name for name in names[:100] if name not in found]:
        return Finding("alarms", "failure", f"deleted by hand: {', '.join(missing)}", "sam deploy makes them anew")
    if raised := [name for name, alarm in found.items() if alarm["StateValue"] == "ALARM"]:
        mend = "docs/operations.md says what each watches; the dashboard shows since when."
        return Finding("alarms", "failure", f"raised: {', '.join(raised)}", mend)
    return ok("alarms", f"{len(found)}, none raised")


def _api_key(session: Any, stack: Any) -> Finding:
    from .stack import client_of

    client = client_of(session, "apigateway")
    try:
        enabled = client.get_api_key(apiKey=stack.api_key_id)["enabled"]
    except client.exceptions.NotFoundException:
        return Finding("API key", "failure", "it was deleted", "sam deploy makes another; tell its users")
    if not enabled:
        operation = "op=replace,path=/enabled,value=true"
        mend = f"aws apigateway update-api-key --api-key {stack.api_key_id} --patch-operations {operation}"
        return Finding("API key", "failure", "it is switched off", mend)
    return ok("API key", f"{stack.api_key_id}, enabled")


def _budget(session: Any, stack: Any) -> Finding:
    from .stack import client_of, resources_of

    account = client_of(session, "sts").get_caller_identity()["Account"]
    pages = client_of(session, "budgets").get_paginator("describe_budgets").paginate(AccountId=account)
    budgets = {item["BudgetName"]: item for page in pages for item in page.get("Budgets", [])}
    own = resources_of(session, stack.name, "AWS::Budgets::Budget")
    chosen = {name: item for name, item in budgets.items() if not own or name in own}
    if not chosen:
        mend = "Deploy with the parameter BudgetEmail, so that a bill does not come as a surprise."
        return Finding("budget", "warning", "nobody is told when this costs money", mend)
    over = [
        f"{name} ({item['CalculatedSpend']['ActualSpend']['Amount']} of {item['BudgetLimit']['Amount']})"
        for name, item in chosen.items()
        if "CalculatedSpend" in item
        and "BudgetLimit" in item
        and float(item["CalculatedSpend"]["ActualSpend"]["Amount"]) > float(item["BudgetLimit"]["Amount"])
    ]
    if over:
        mend = "Look into the cost explorer; ThrottleRate and QuotaPerMonth bound it, make destroy ends it."
        return Finding("budget", "failure", f"spent: {', '.join(over)}", mend)
    return ok("budget", ", ".join(chosen))


def _dead_letters(session: Any, stack: Any) -> Finding:
    from .stack import client_of, output_of

    client = client_of(session, "sqs")
    waiting = {}
    urls = [url for url in output_of(session, stack.name, "DeadLetterQueueUrls").split() if url.startswith("http")]
    for url in urls:
        answer = client.get_queue_attributes(QueueUrl=url, AttributeNames=["ApproximateNumberOfMessages", "QueueArn"])[
            "Attributes"
        ]
        if number := int(answer["ApproximateNumberOfMessages"]):
            waiting[answer["QueueArn"]] = number
    if waiting:
        arn = next(iter(waiting))
        told = ", ".join(f"{number} in {name.rpartition(':')[2]}" for name, number in waiting.items())
        mend = f"Mend the cause (the worker's log), then: aws sqs start-message-move-task --source-arn {arn}"
        return Finding("dead letters", "failure", told, mend)
    if not urls:
        return Finding("dead letters", "warning", "the stack names no queues", "Deploy template.yaml unchanged.")
    return ok("dead letters", "none")
