"""The environment, read once into one frozen object.

Every setting has the prefix ``FRAUD_``. A name that is not known fails at start with the nearest choice, so that a
typing error in a deployment never turns into a silent default.
"""

import difflib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Literal, get_args

from .errors import SettingsError

Outcome = Literal["approve", "review", "decline"]
LogFailure = Literal["review", "refuse"]
CloudWatchMetrics = Literal["few", "all"]
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]

#: Known because a neighbour of the service uses them (console, training, tests, a deployment's hook); the service
#: ignores them.
IGNORED = frozenset({"FRAUD_API_URL", "FRAUD_API_KEY", "FRAUD_MLFLOW_URI", "FRAUD_SMOKE_FUNCTION", "FRAUD_TEST_DATA"})


@dataclass(frozen=True, slots=True)
class Settings:
    """What the service was told. Attribute ``model_url`` is the setting ``FRAUD_MODEL_URL``, and so on."""

    #: The signed pointer of the bundle to serve: ``file://path`` (relative to the working directory unless it begins
    #: with ``/``) or ``s3://bucket/key``.
    model_url: str = "file://models/current"
    #: The bundle that the image carries, if it does: ``file://path`` of its pointer. Served, and flagged as a stand-in,
    #: while a process has not yet got one from ``model_url``. None: there is none.
    baked_model_url: str | None = None
    #: A second pointer, in the same folder: its model is scored beside the first without changing an answer, and
    #: answers the share of customers that the pointer says. None: no challenger.
    challenger_url: str | None = None
    #: Keys whose bundles are trusted: ``key_id:base64`` items separated by commas or white space, ``file://path`` of
    #: a file that holds such items, or ``ssm:name`` of a parameter that does.
    model_public_keys: str = "file://keys/development.pub"
    #: A rules file that is read again once a minute at most, in place of the bundle's: ``file://path`` or
    #: ``s3://bucket/key``. None: the rules that were sealed into the bundle.
    rules_url: str | None = None
    #: Where the parties' profiles lie: ``memory://``, ``sqlite:///path``, ``redis://``, ``rediss://``,
    #: ``dynamodb://table``.
    feature_store_url: str = "sqlite:///data/profiles.db"
    #: Where every decision is recorded: ``sqlite:///path``, ``postgresql://...``, ``dynamodb://table``, ``none://``.
    decision_log_url: str = "sqlite:///data/decisions.db"
    #: Where what could not be written, or is to be sent, waits: ``file://folder``, ``sqs://queue``.
    outbox_url: str = "file://data/outbox"
    #: Who may call: ``name:role:sha256`` items (roles: score, review, admin) separated by commas or white space,
    #: ``file://path`` of a file that holds such items, or ``ssm:name`` of a parameter that does. None: everybody on
    #: this machine and nobody else.
    api_keys: str | None = None
    #: Parties are known by a keyed hash of their ids where this is set: at least 32 characters, ``file://path`` or
    #: ``ssm:name``.
    pseudonym_key: str | None = None
    #: Whether what looks like a card number is refused (422), where it is otherwise known by another name.
    refuse_pan: bool = False
    #: What one request may take of everybody's patience, in milliseconds; every call's time limit comes from it.
    deadline_ms: int = 250
    #: What the first request after a start may take instead, where that is more: its connections may be new.
    first_deadline_ms: int = 2000
    #: After so many failures in a row a store is not asked for ``breaker_seconds``; 0: it always is.
    breaker_failures: int = 5
    breaker_seconds: int = 2
    #: What one call of log or profiles may take that only people or a schedule wait for, in milliseconds.
    read_deadline_ms: int = 2000
    #: The outcome when no bundle is loaded and no rule fires.
    without_model: Outcome = "review"
    #: What becomes of a decision that neither the log nor the outbox takes: sent to review at least, or refused (503).
    on_log_failure: LogFailure = "review"
    #: Days after which a record is deleted; None: never.
    retention_days: int | None = None
    #: 1: an id such as ``test-decline-7`` forces that outcome, for trying an integration; 0: such ids are refused.
    test_ids: bool = True
    #: Requests a key may send, ``number/second``, ``/minute`` or ``/hour``; None: no limit.
    rate_limit: str | None = None
    #: Where alerts go: ``https://host/path#whsec_base64`` items separated by white space, ``file://path`` or
    #: ``ssm:name``.
    webhooks: str | None = None
    #: Where decisions are sent on to: ``kafka://host:port[,host:port]/topic``.
    kafka_url: str | None = None
    #: Origins a browser may call from, separated by commas; empty: none.
    cors_origins: tuple[str, ...] = ()
    log_level: LogLevel = "INFO"
    #: What of its figures a Lambda function sends to CloudWatch: all, or the ten that are free.
    cloudwatch_metrics: CloudWatchMetrics = "all"


_FIELDS = {f"FRAUD_{name.upper()}": name for name in Settings.__dataclass_fields__}


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Build :class:`Settings` from ``environ``. Raises :class:`SettingsError`, never showing a value."""
    known = [*_FIELDS, *sorted(IGNORED)]
    values: dict[str, object] = {}
    for name in environ:
        if not name.startswith("FRAUD_") or name in IGNORED:
            continue
        if name not in _FIELDS:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
            raise SettingsError(f"Unknown setting {name}. Did you mean {near[0]}? Known are: {', '.join(known)}.")
        field = _FIELDS[name]
        text = environ[name].strip()
        if not text:
            continue  # compose files and templates pass on what was not set as an empty text
        if field == "cors_origins":
            values[field] = tuple(item.strip() for item in text.split(",") if item.strip())
        elif field in {"deadline_ms", "first_deadline_ms", "read_deadline_ms"}:
            if not text.isascii() or not text.isdecimal() or not 10 <= int(text[:9]) <= 60_000:
                raise SettingsError(f"{name} must be a whole number of milliseconds, 10 to 60000.")
            values[field] = int(text)
        elif field == "test_ids":
            values[field] = _choice(name, text, ("0", "1")) == "1"
        elif field in ("breaker_failures", "breaker_seconds"):
            least, most = (0, 1_000) if field == "breaker_failures" else (1, 300)
            if not text.isascii() or not text.isdecimal() or not least <= int(text[:9]) <= most:
                raise SettingsError(f"{name} must be a whole number, {least} to {most}.")
            values[field] = int(text)
        elif field == "retention_days":
            if not text.isascii() or not text.isdecimal() or not 1 <= int(text[:9]) <= 36_500:
                raise SettingsError(f"{name} must be a whole number of days, 1 to 36500.")
            values[field] = int(text)
        elif field == "refuse_pan":
            values[field] = _choice(name, text, ("0", "1")) == "1"
        elif field == "on_log_failure":
            values[field] = _choice(name, text.lower(), get_args(LogFailure))
        elif field == "without_model":
            values[field] = _choice(name, text.lower(), get_args(Outcome))
        elif field == "cloudwatch_metrics":
            values[field] = _choice(name, text.lower(), get_args(CloudWatchMetrics))
        elif field == "log_level":
            values[field] = _choice(name, text.upper(), get_args(LogLevel))
        else:
            values[field] = text
    settings = Settings(**values)  # type: ignore[arg-type]  # each value was converted for its field above
    scheme_of(settings.model_url, "model", ("file", "s3"))
    if settings.baked_model_url is not None:
        scheme_of(settings.baked_model_url, "baked model", ("file",))
    if settings.challenger_url is not None:
        scheme_of(settings.challenger_url, "challenger", ("file", "s3"))
    if settings.rules_url is not None:
        scheme_of(settings.rules_url, "rules", ("file", "s3"))
    return settings


def scheme_of(url: str, what: str, choices: tuple[str, ...]) -> str:
    """The URL's scheme if it is one of ``choices``; the error names the choices and not the URL (it may be secret)."""
    scheme, separator, _ = url.partition("://")
    if not separator or scheme not in choices:
        shown = scheme if separator and scheme.isalnum() else "without a scheme"
        kind = f"scheme '{shown}'" if separator and scheme.isalnum() else f"URL {shown}"
        raise SettingsError(f"Unknown {what} {kind}. Choices are: {', '.join(choices)}.")
    return scheme


def backend_of(url: str, what: str, package: str, modules: Mapping[str, str]) -> ModuleType:
    """The module of ``package`` that serves the URL's scheme, imported only now. Raises :class:`SettingsError`."""
    scheme = scheme_of(url, what, tuple(modules))
    try:
        return importlib.import_module(f"{package}.{modules[scheme]}")
    except ModuleNotFoundError as error:
        missing = str(error.name).partition(".")[0]
        raise SettingsError(f"A {scheme}:// {what} needs the package {missing}: install it.") from None


def _choice(name: str, value: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise SettingsError(f"{name} is not one of its choices: {', '.join(choices)}.")
    return value
