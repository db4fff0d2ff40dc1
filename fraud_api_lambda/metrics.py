"""What is counted, and the log lines that go with it: one line a request, one a decision, one more where it alarms.

Counting is an addition to a table under a lock, about a microsecond; turning the table into Prometheus' text or into
CloudWatch's embedded metric format (EMF) happens when it is asked for. No line and no label ever holds a party, a
transaction's id or anything else that was sent, the request id excepted, which is the sender's own to choose; a
transaction is known in the log by :func:`known_as`.
"""

import bisect
import hashlib
import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, Final, Protocol

requests_log = logging.getLogger("fraud.requests")
decisions_log = logging.getLogger("fraud.decisions")

#: Counter -> (what it counts, its labels). In Prometheus ``fraud_<name>_total``.
COUNTERS: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "requests": ("Requests answered.", ("route", "method", "status")),
    "decisions": ("Transactions judged, test inputs left out.", ("outcome", "decided_by")),
    "test_decisions": ("Test inputs judged.", ()),
    "degraded": ("Decisions made without something, by what was not at hand.", ("what",)),
    "replays": ("Transactions sent again and answered with the first answer.", ()),
    "log_failures": ("Decisions that the decision log did not take.", ()),
    "labels": ("Labels taken.", ("source", "label")),
    "drift_looks": ("Looks for drift on schedule, by what they found.", ("state",)),
    "drift_alarms": ("Features, score and calibration found to drift by them; each look counts anew.", ()),
    "heartbeats": ("Events that only ask whether this process runs.", ()),
}
#: Histogram of seconds -> (what it measures, its labels). In Prometheus ``fraud_<name>_seconds``.
HISTOGRAMS: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "request": ("From a request's arrival to the end of its answer.", ("route",)),
    "decision": ("From a transaction's arrival in the scorer to its decision.", ()),
}
#: What is looked up when it is asked for -> (what it is, its labels). In Prometheus ``fraud_<name>``.
GAUGES: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "outbox_waiting": ("Items in the outbox.", ("kind",)),
    "bundle_serial": ("Serial of the served bundle's pointer; absent without a bundle.", ()),
    "bundle_age_seconds": ("Since the served bundle was trained; absent without a bundle.", ()),
    "model_trouble": ("1: the last look for a bundle did not lead to one that is served.", ()),
    "unpublished": ("1: no bundle is served because none lies where one is published to.", ()),
    "breaker_open": ("1: such a call of a store is not made, because it has not answered.", ("call",)),
    "rules_trouble": ("1: the rules in force are not those of the rules file.", ()),
}
#: Upper edges of a histogram's buckets in seconds; above the last there is one more.
EDGES: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

#: Namespace and names in CloudWatch; a name without a value is not sent (and not billed).
NAMESPACE: Final = "FraudDetection"
#: The dimension ``service`` of each of them, unless the environment names another (POWERTOOLS_SERVICE_NAME).
SERVICE: Final = "fraud-detection"
EMF_UNITS: Final[dict[str, str]] = {
    "Requests": "Count", "ClientErrors": "Count", "ServerErrors": "Count", "NotReady": "Count",
    "Approved": "Count", "Reviewed": "Count", "Declined": "Count", "TestInputs": "Count",
    "Degraded": "Count",
    "DegradedModel": "Count", "DegradedFeatureStore": "Count", "DegradedDecisionLog": "Count",
    "DegradedRules": "Count", "DegradedExplanation": "Count",
    "Replays": "Count", "LogFailures": "Count", "Labels": "Count",
    "DriftLooks": "Count", "DriftLooksFailed": "Count", "DriftAlarms": "Count", "Heartbeats": "Count",
    "DecisionLatency": "Milliseconds",
    "BundleAge": "Seconds", "ModelTrouble": "Count", "RulesTrouble": "Count",
}  # fmt: skip
#: What ``FRAUD_CLOUDWATCH_METRICS=few`` sends: what alarms and dashboard need, and no more than the ten that are free.
EMF_FEW: Final = frozenset({
    "Requests", "NotReady", "Approved", "Reviewed", "Declined", "Degraded", "DecisionLatency", "DriftAlarms",
    "Heartbeats", "ModelTrouble",
})  # fmt: skip
_EMF_OUTCOMES = {"approve": "Approved", "review": "Reviewed", "decline": "Declined"}
_EMF_NAMES = {
    "test_decisions": "TestInputs", "replays": "Replays", "log_failures": "LogFailures", "heartbeats": "Heartbeats",
}  # fmt: skip
_EMF_GAUGES = {"bundle_age_seconds": "BundleAge", "model_trouble": "ModelTrouble", "rules_trouble": "RulesTrouble"}
#: Decisions kept one by one until they are sent to CloudWatch, which takes at most 100 values of a metric in a line.
_ONE_BY_ONE = 99

_METHODS = frozenset({"GET", "POST", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE"})
#: Asked for by machines every few seconds: their success is counted, and told at DEBUG only.
_QUIET = frozenset({"/health", "/ready", "/metrics"})

#: A counter or a histogram and the values of its labels.
Series = tuple[str, ...]
#: A gauge and the values of its labels -> its value.
Gauges = Mapping[Series, float]


class Decided(Protocol):
    """What of a decision is counted and logged. ``schemas.Decision`` is one."""

    @property
    def transaction_id(self) -> str: ...
    @property
    def outcome(self) -> str: ...
    @property
    def decided_by(self) -> str: ...
    @property
    def fraud_probability(self) -> float | None: ...
    @property
    def model_version(self) -> str | None: ...
    @property
    def rules_version(self) -> str: ...
    @property
    def rules(self) -> tuple[str, ...]: ...
    @property
    def test(self) -> bool: ...
    @property
    def degraded(self) -> tuple[str, ...]: ...


def known_as(transaction_id: str) -> str:
    """What a transaction is called in the log: 16 hex digits, BLAKE2b."""
    return hashlib.blake2b(transaction_id.encode(), digest_size=8).hexdigest()


class Metrics:
    """This process's counts. Safe to call from many threads.

    ``few``: of CloudWatch's names only ``EMF_FEW``. ``cold``: no decision has been sent to CloudWatch yet; whoever
    restores a frozen process sets it again.
    """

    def __init__(self, *, few: bool = False) -> None:
        self.few = few
        self.cold = True
        self._lock = threading.Lock()
        self._counts: dict[Series, int] = {}
        self._buckets: dict[Series, list[int]] = {}
        self._sums: dict[Series, float] = {}
        self._taken: dict[Series, int] = {}
        self._latest: deque[tuple[float, tuple[str, ...]]] = deque(maxlen=_ONE_BY_ONE)

    # --- counting ----------------------------------------------------------------------------------------------------

    def add(self, name: str, *labels: str, n: int = 1) -> None:
        """Count ``n`` more of a counter of ``COUNTERS``, its labels in the order they stand there."""
        series = (name, *labels)
        with self._lock:
            self._counts[series] = self._counts.get(series, 0) + n

    def observe(self, name: str, *labels: str, seconds: float) -> None:
        """One more measurement of a histogram of ``HISTOGRAMS``."""
        series = (name, *labels)
        with self._lock:
            buckets = self._buckets.get(series)
            if buckets is None:
                buckets = self._buckets[series] = [0] * (len(EDGES) + 1)
            buckets[bisect.bisect_left(EDGES, seconds)] += 1
            self._sums[series] = self._sums.get(series, 0.0) + seconds

    def request(
        self, *, route: str | None, method: str, status: int, seconds: float, request_id: str, key: str | None
    ) -> None:
        """Count one answered request, and write its line. ``route`` is the template, None where none matched."""
        route = route or "none"
        method = method if method in _METHODS else "other"
        self.add("requests", route, method, str(status))
        self.observe("request", route, seconds=seconds)
        level = logging.DEBUG if route in _QUIET and status < 400 else logging.INFO
        if requests_log.isEnabledFor(level):
            line: dict[str, Any] = {"request_id": request_id, "route": route, "method": method, "status": status}
            line["ms"] = round(seconds * 1000, 2)
            line["key"] = key
            requests_log.log(level, "request", extra=line)

    def decided(self, decision: Decided, latency_us: int) -> None:
        """Count one decision and write its line; a second one, a warning, where it is not approved.

        A replay is no decision: count it with ``add("replays")``. Test inputs are outside all statistics and alarms.
        """
        if decision.test:
            self.add("test_decisions")
        else:
            self.add("decisions", decision.outcome, decision.decided_by)
            for what in decision.degraded:
                self.add("degraded", what)
            self.observe("decision", seconds=latency_us / 1e6)
            self._latest.append((latency_us / 1000, decision.degraded))
        alarms = decision.outcome != "approve" and not decision.test
        if not decisions_log.isEnabledFor(logging.WARNING if alarms else logging.INFO):
            return
        line = {
            "transaction": known_as(decision.transaction_id),
            "outcome": decision.outcome,
            "decided_by": decision.decided_by,
            "probability": decision.fraud_probability,
            "model_version": decision.model_version,
            "rules_version": decision.rules_version,
            "rules": list(decision.rules),
            "degraded": list(decision.degraded),
            "latency_ms": latency_us / 1000,
            "test": decision.test,
        }
        decisions_log.info("decision", extra=line)
        if alarms:
            decisions_log.warning("fraud alert", extra=line)

    # --- reading -----------------------------------------------------------------------------------------------------

    def counts(self) -> dict[Series, int]:
        """(counter, labels) -> count since the process began. A counter without labels is there from the start."""
        with self._lock:
            seen = dict(self._counts)
        for name, (_, labels) in COUNTERS.items():
            if not labels:
                seen.setdefault((name,), 0)
        return seen

    def histograms(self) -> Iterator[tuple[Series, list[int], float]]:
        """(histogram, labels), measurements by bucket (one more than ``EDGES``), their sum in seconds."""
        with self._lock:
            seen = [(series, list(buckets), self._sums[series]) for series, buckets in self._buckets.items()]
        yield from seen

    def take(self) -> tuple[dict[Series, int], list[tuple[float, tuple[str, ...]]]]:
        """What was counted since the last ``take``; of the latest decisions latency in ms, and what they lacked."""
        with self._lock:
            new = {series: n - self._taken.get(series, 0) for series, n in self._counts.items()}
            self._taken = dict(self._counts)
            latest = list(self._latest)
            self._latest.clear()
        return {series: n for series, n in new.items() if n}, latest


def log_summary(day: Mapping[str, Any]) -> None:
    """The line of one day: the figures that ``GET /summary`` gives for it."""
    decisions_log.info("daily summary", extra=dict(day))


# --- Prometheus ------------------------------------------------------------------------------------------------------


class _Collector:
    """Our table as the metric families of prometheus_client."""

    def __init__(self, metrics: Metrics, gauges: Gauges):
        self._metrics = metrics
        self._gauges = gauges

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        counters = {
            name: CounterMetricFamily(f"fraud_{name}", text, labels=labels) for name, (text, labels) in COUNTERS.items()
        }
        for (name, *labels), n in sorted(self._metrics.counts().items()):
            counters[name].add_metric(labels, n)
        histograms = {
            name: HistogramMetricFamily(f"fraud_{name}_seconds", text, labels=labels)
            for name, (text, labels) in HISTOGRAMS.items()
        }
        for (name, *labels), buckets, total in self._metrics.histograms():
            below = 0
            edges = []
            for edge, n in zip((*map(str, EDGES), "+Inf"), buckets, strict=True):
                below += n
                edges.append((edge, below))
            histograms[name].add_metric(labels, buckets=edges, sum_value=total)
        gauges = {
            name: GaugeMetricFamily(f"fraud_{name}", text, labels=labels) for name, (text, labels) in GAUGES.items()
        }
        for (name, *labels), value in self._gauges.items():
            gauges[name].add_metric(labels, value)
        yield from (*counters.values(), *histograms.values(), *gauges.values())


def exposition(metrics: Metrics, gauges: Gauges) -> tuple[bytes, str]:
    """What Prometheus reads, and its content type."""
    from prometheus_client import CollectorRegistry
    from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(metrics, gauges))
    return generate_latest(registry), CONTENT_TYPE_LATEST


# --- CloudWatch ------------------------------------------------------------------------------------------------------


def emit_emf(metrics: Metrics, gauges: Gauges | None = None, *, waited_for: bool = True) -> None:
    """Write what was counted since the last time as one line of CloudWatch's embedded metric format; none, no line.

    For Lambda, after each answer. ``waited_for``: somebody waited for it, so its latency is one that an alarm may be
    about; so are neither a queue's nor those of a process's first answer, which opens connections. Never raises: a
    figure that is lost is no reason to lose an answer. Powertools' own metrics would take ten times as long for the
    same line, and a tenth of a second to import.
    """
    try:
        values = _emf_values(metrics, gauges or {}, waited_for)
        if not values:
            return
        service = os.environ.get("POWERTOOLS_SERVICE_NAME") or SERVICE
        told = [{"Name": name, "Unit": EMF_UNITS[name]} for name in values]
        directive = {"Namespace": NAMESPACE, "Dimensions": [["service"]], "Metrics": told}
        about = {"Timestamp": time.time_ns() // 1_000_000, "CloudWatchMetrics": [directive]}
        numbers = {name: [float(number) for number in each] for name, each in values.items()}
        print(json.dumps({"_aws": about, "service": service, **numbers}, separators=(",", ":")))
    except Exception:
        requests_log.exception("metrics not sent")


def _emf_values(metrics: Metrics, gauges: Gauges, waited_for: bool) -> dict[str, list[float]]:
    new, latest = metrics.take()
    if not new:
        return {}
    sums: dict[str, int] = {}
    for (name, *labels), n in new.items():
        for emf in _emf_names(name, labels):
            sums[emf] = sums.get(emf, 0) + n
    values: dict[str, list[float]] = {name: [float(n)] for name, n in sums.items()}
    if latest and not metrics.cold:
        if waited_for:
            values["DecisionLatency"] = [ms for ms, _ in latest]
        # Rules alone are right where nothing was ever published, and no reason for an alarm or to take a deploy back.
        expected = {"model"} if gauges.get(("unpublished",)) else set()
        values["Degraded"] = [float(bool(set(lacked) - expected)) for _, lacked in latest]
    if latest:
        metrics.cold = False
    values.update({_EMF_GAUGES[series[0]]: [value] for series, value in gauges.items() if series[0] in _EMF_GAUGES})
    if metrics.few:
        values = {name: numbers for name, numbers in values.items() if name in EMF_FEW}
    return values


def _emf_names(name: str, labels: list[str]) -> tuple[str, ...]:
    if name == "requests":
        route, _, status = labels
        if route == "/ready" and status == "503":  # an answer and no error, as long as nothing is published
            return ("Requests", "NotReady")
        return ("Requests", *(["ClientErrors"] if status[0] == "4" else ["ServerErrors"] if status[0] == "5" else []))
    if name == "decisions":
        return (_EMF_OUTCOMES[labels[0]],)
    if name == "degraded":
        return (f"Degraded{labels[0].title().replace('_', '')}",)
    if name == "drift_looks":
        return ("DriftLooks", *(["DriftLooksFailed"] if labels[0] == "failed" else []))
    if name == "drift_alarms":
        return ("DriftAlarms",)
    return (_EMF_NAMES.get(name, "Labels"),)
