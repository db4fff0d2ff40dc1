"""The composition root: settings -> keys, model source -> scorer -> app. Nowhere else are the parts put together."""

import json
import logging
import random
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from fastapi import FastAPI
from pydantic_core import to_json

from .access import open_guard
from .alerts import PATIENCE_S, WHOLE_S, Alerts, WebhookSink, parse_webhooks
from .app import create_app
from .breaker import Breaker, GuardedDecisionLog, GuardedFeatureStore
from .bundle import parse_public_keys
from .decision_log import DecisionLog, open_decision_log
from .errors import BundleMissing, BundleUnreachable, SettingsError, StoreUnavailable
from .feature_store import FeatureStore, open_feature_store
from .metrics import Metrics
from .outbox import Kind, Sink, open_outbox
from .reload import ModelSource
from .schemas import Decision, now_ms, pseudonyms_of
from .scoring import DECISION_LOG_SHARE, FEATURE_STORE_SHARE, FraudScorer, Stores
from .secret_setting import read_secret
from .settings import Settings
from .stream import KafkaSink

log = logging.getLogger("fraud.bootstrap")

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


def build(settings: Settings, *, clock: Callable[[], int] = now_ms, on_aws: bool = False) -> FastAPI:
    """Build the application and look for the bundle once. A bundle that cannot be served is no error: rules decide.

    ``on_aws`` refuses development keys: they exist on laptops, where anybody can read them.
    """
    configure_logging(settings.log_level)
    if on_aws and settings.decision_log_url.startswith("none:"):
        raise SettingsError("FRAUD_DECISION_LOG_URL is none://: decisions would be lost. Use dynamodb://table.")
    pseudonyms = pseudonyms_of(settings.pseudonym_key, refuse_cards=settings.refuse_pan)

    def look(url: str, *, champion: bool) -> ModelSource:
        def keys() -> Mapping[str, bytes]:
            return public_keys(settings.model_public_keys, on_aws=on_aws)

        source = ModelSource(
            url,
            keys,
            rules_url=settings.rules_url,
            baked_url=settings.baked_model_url if champion else None,
            pseudonym=pseudonyms,
            one_money=champion,
        )
        source.refresh()
        return source

    source = look(settings.model_url, champion=True)
    challenger = None if settings.challenger_url is None else look(settings.challenger_url, champion=False)
    receivers = parse_webhooks(_secret(settings.webhooks, "FRAUD_WEBHOOKS"))
    stream = None if settings.kafka_url is None else KafkaSink(_secret(settings.kafka_url, "FRAUD_KAFKA_URL"))
    alerts = Alerts(receivers, clock=clock)

    def notices(decision: Decision, answer: bytes) -> list[tuple[Kind, str, bytes]]:
        told: list[tuple[Kind, str, bytes]] = [("webhook", key, data) for key, data in alerts.notices(decision, answer)]
        if stream is not None and not decision.test:
            told.append(("stream", decision.transaction_id, answer))
        return told

    def profiles(budget_ms: int) -> FeatureStore:
        return open_feature_store(settings.feature_store_url, budget_ms=budget_ms)

    def decisions(budget_ms: int) -> DecisionLog:
        days = settings.retention_days
        return open_decision_log(settings.decision_log_url, budget_ms=budget_ms, retention_days=days)

    def patient() -> Stores:
        # A memory is its opener's alone, and answers at once.
        in_memory = settings.feature_store_url.startswith("memory:")
        patient_ms = max(settings.read_deadline_ms, settings.deadline_ms)
        return Stores(store if in_memory else profiles(patient_ms), decisions(patient_ms))

    breakers: dict[str, Breaker] = {}

    def breaker(name: str) -> Breaker:
        breakers[name] = Breaker(name, failures=settings.breaker_failures, seconds=settings.breaker_seconds)
        return breakers[name]

    first_ms = max(settings.first_deadline_ms, settings.deadline_ms)
    log_ms = int(first_ms * DECISION_LOG_SHARE)
    store, recorded = profiles(int(first_ms * FEATURE_STORE_SHARE)), decisions(log_ms)
    # What lives in memory cannot fail; a file can be locked, and that wait would hold up everybody else, too.
    scorer = FraudScorer(
        source,
        store if settings.feature_store_url == "memory://" else GuardedFeatureStore(store, breaker),
        recorded if settings.decision_log_url == "none://" else GuardedDecisionLog(recorded, breaker),
        open_outbox(settings.outbox_url, budget_ms=log_ms),
        pseudonyms=pseudonyms,
        notices=notices,
        challenger=challenger,
        metrics=Metrics(few=settings.cloudwatch_metrics == "few"),
        breakers=breakers,
        without_model=settings.without_model,
        on_log_failure=settings.on_log_failure,
        budget_ms=settings.deadline_ms,
        first_ms=first_ms,
        test_ids=settings.test_ids,
        open_patient=patient,
        clock=clock,
    )
    scorer.begin()
    sinks: dict[Kind, Sink] = {
        **scorer.sinks,
        "webhook": WebhookSink(receivers, patience_s=WHOLE_S if on_aws else PATIENCE_S),
    }
    if stream is not None:
        sinks["stream"] = stream
    guard = open_guard(
        # As it stands: "none" is no keys, but a file that holds nothing is refused and does not open the door.
        None if settings.api_keys is None else read_secret(settings.api_keys, "FRAUD_API_KEYS"),
        settings.rate_limit,
        behind_gateway=on_aws,
        origins=settings.cors_origins,
    )
    return create_app(
        scorer,
        cors_origins=settings.cors_origins,
        guard=guard,
        sinks=sinks,
        retention_days=settings.retention_days,
        scraped=not on_aws,
    )


def connect_at_start(app: FastAPI) -> None:
    """Connect before the first request comes, and again in each process that SnapStart makes of this one."""
    from snapshot_restore_py import register_after_restore, register_before_snapshot

    scorer: FraudScorer = app.state.scorer
    scorer.connect()
    # Called by the runtime where SnapStart is on, by nobody elsewhere.
    register_before_snapshot(suspend, app)
    register_after_restore(restore, app)


def suspend(app: FastAPI) -> None:
    """Before SnapStart takes its picture of the process: no connection is to be in it."""
    app.state.scorer.disconnect()


def restore(app: FastAPI) -> None:
    """After SnapStart has made a process of the picture, one of many: what they must not have in common is made anew.

    Random numbers (those of ``secrets`` and TLS are the kernel's and OpenSSL's, and are no part of this), connections,
    and what has been published since. The next request is a first one again. Never raises.
    """
    scorer: FraudScorer = app.state.scorer
    random.seed()
    scorer.metrics.cold = True
    scorer.begin()
    # Both wait for the network: side by side, since a restore has ten seconds.
    with ThreadPoolExecutor(1) as beside:
        connecting = beside.submit(scorer.connect)
        scorer.refresh()
        connecting.result()


def _secret(setting: str | None, name: str) -> str:
    """What the setting says; empty where it is not set, or where a parameter says ``none`` for the time being."""
    text = "" if setting is None else read_secret(setting, name)
    return "" if text == "none" else text


def public_keys(setting: str, *, on_aws: bool) -> Mapping[str, bytes]:
    """The trusted keys by id. Raises ``SettingsError`` where they are malformed, ``BundleError`` where not there."""
    try:
        text = read_secret(setting, "FRAUD_MODEL_PUBLIC_KEYS")
    except SettingsError as error:
        raise BundleMissing(f"{error} Make a key pair with: python -m training keys") from None
    except StoreUnavailable as error:
        raise BundleUnreachable(str(error)) from None
    if text in {"", "none"}:
        raise BundleMissing("No public key is set yet: publish a bundle first (make publish STACK=...).")
    keys = parse_public_keys(text)
    if on_aws:
        refused = [key_id for key_id in keys if key_id.startswith("dev-")]
        if refused:
            log.error("development keys are refused here", extra={"key_ids": refused})
        keys = {key_id: key for key_id, key in keys.items() if not key_id.startswith("dev-")}
    return keys


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and what was given as ``extra``."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {key: value for key, value in record.__dict__.items() if key not in _STANDARD}
        if record.exc_info and record.exc_info[0]:
            # Where it happened, not what it said: an exception's text may repeat what was sent.
            traceback = record.exc_info[2]
            while traceback and traceback.tb_next:
                traceback = traceback.tb_next
            line["error"] = record.exc_info[0].__name__
            if traceback:
                line["at"] = f"{Path(traceback.tb_frame.f_code.co_filename).name}:{traceback.tb_lineno}"
        try:
            return to_json(line, fallback=str).decode()
        except ValueError:  # half of a character, which UTF-8 cannot say
            return json.dumps(line, default=str)


def configure_logging(level: str) -> None:
    """JSON lines on standard output for the ``fraud`` loggers, once."""
    # No line tells them, and to look them up for each takes as long as to write it.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logger = logging.getLogger("fraud")
    logger.setLevel(level)
    # Uvicorn's line for each request repeats its path and query, which name parties. Ours (fraud.requests) does not.
    logging.getLogger("uvicorn.access").disabled = True
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(JsonLines())
        logger.addHandler(handler)
        logger.propagate = False
