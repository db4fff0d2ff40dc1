"""What is counted and what is logged: exact, in both forms, documented, and without a word of what was sent."""

import json
import logging
import re
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fraud_api_lambda import metrics as counting
from fraud_api_lambda.access import Guard, parse_keys, parse_rate
from fraud_api_lambda.app import create_app
from fraud_api_lambda.bootstrap import restore
from fraud_api_lambda.metrics import (
    COUNTERS,
    EDGES,
    EMF_FEW,
    EMF_UNITS,
    GAUGES,
    HISTOGRAMS,
    NAMESPACE,
    SERVICE,
    Metrics,
    emit_emf,
    exposition,
    known_as,
    log_summary,
)
from fraud_api_lambda.reload import ModelSource
from fraud_api_lambda.routes_records import gauges
from fraud_api_lambda.schemas import Decision
from fraud_api_lambda.scoring import FraudScorer
from tests.conftest import Trained
from tests.fraud_api_lambda.asgi import Client, source_of
from tests.fraud_api_lambda.lines import Lines
from tests.fraud_api_lambda.payloads import CANARY
from training.apikey import make_api_key

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "operations.md"

REVIEWED = Decision(
    transaction_id="order-1",
    fraud_probability=0.7,
    is_fraud=True,
    prediction="FRAUD",
    confidence=None,
    outcome="review",
    decided_by="rule",
    threshold=0.5,
    thresholds=None,
    rules=("night",),
    reasons=(),
    explanation="",
    amount=1.0,
    currency="USD",
    amount_base=1.0,
    base_currency="USD",
    model_version="v1",
    rules_version="r1",
    scored_at="2026-01-01T00:00:00.000Z",
    test=False,
    degraded=("feature_store", "rules"),
)
APPROVED = replace(REVIEWED, outcome="approve", decided_by="model", rules=(), degraded=())


class Read:
    """The text as Prometheus reads it: ``read(name, label=value ...)``."""

    def __init__(self, text: str):
        self._values = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float:
        return self._values[name, frozenset(labels.items())]

    def total(self, name: str) -> float:
        return sum(value for (sample, _), value in self._values.items() if sample == name)


# --- counting --------------------------------------------------------------------------------------------------------


def test_counts_of_many_threads_are_all_there() -> None:
    metrics = Metrics()

    def count() -> None:
        for _ in range(5_000):
            metrics.add("replays")
            metrics.observe("decision", seconds=0.002)

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert metrics.counts()["replays",] == 40_000
    ((_, buckets, total),) = metrics.histograms()
    assert sum(buckets) == 40_000
    assert total == pytest.approx(80.0)


def test_a_measurement_falls_below_the_first_edge_that_is_not_less() -> None:
    metrics = Metrics()
    for seconds in (0.0, EDGES[0], EDGES[0] * 1.01, EDGES[-1], EDGES[-1] + 1):
        metrics.observe("decision", seconds=seconds)
    ((_, buckets, _),) = metrics.histograms()
    assert (buckets[0], buckets[1], buckets[-2], buckets[-1]) == (2, 1, 1, 1)


def test_a_decision_is_counted_by_outcome_and_decider_and_each_gap_once() -> None:
    metrics = Metrics()
    metrics.decided(REVIEWED, 1500)
    metrics.decided(APPROVED, 1500)
    metrics.decided(APPROVED, 1500)
    counts = metrics.counts()
    assert counts["decisions", "review", "rule"] == 1
    assert counts["decisions", "approve", "model"] == 2
    assert counts["degraded", "feature_store"] == counts["degraded", "rules"] == 1


def test_a_test_input_is_outside_all_figures_and_alarms(lines: Lines) -> None:
    metrics = Metrics()
    metrics.decided(replace(REVIEWED, test=True), 1500)
    assert {series: n for series, n in metrics.counts().items() if n} == {("test_decisions",): 1}
    assert list(metrics.histograms()) == []
    assert lines.of("fraud alert") == []
    assert lines.of("decision")[0]["test"] is True


def test_a_request_of_no_route_or_of_an_invented_method_makes_no_new_series() -> None:
    metrics = Metrics()
    for method in ("GET", "BREW", CANARY):
        metrics.request(route=None, method=method, status=404, seconds=0.1, request_id="r", key=None)
    assert metrics.counts()["requests", "none", "GET", "404"] == 1
    assert metrics.counts()["requests", "none", "other", "404"] == 2


# --- Prometheus ------------------------------------------------------------------------------------------------------


def test_prometheus_reads_every_counter_histogram_and_gauge() -> None:
    metrics = Metrics()
    metrics.add("labels", "analyst", "fraud", n=3)
    metrics.request(route="/predict", method="POST", status=200, seconds=0.003, request_id="r", key=None)
    metrics.decided(REVIEWED, 700)
    text, content_type = exposition(metrics, {("bundle_serial",): 7.0, ("outbox_waiting", "decision"): 2.0})
    assert content_type.startswith("text/plain; version=")
    read = Read(text.decode())
    assert read("fraud_labels_total", source="analyst", label="fraud") == 3
    assert read("fraud_requests_total", route="/predict", method="POST", status="200") == 1
    assert read("fraud_decisions_total", outcome="review", decided_by="rule") == 1
    assert read("fraud_replays_total") == read("fraud_log_failures_total") == 0
    assert read("fraud_bundle_serial") == 7
    assert read("fraud_outbox_waiting", kind="decision") == 2
    assert read("fraud_request_seconds_bucket", route="/predict", le="0.0025") == 0
    assert read("fraud_request_seconds_bucket", route="/predict", le="0.005") == 1
    assert read("fraud_request_seconds_bucket", route="/predict", le="+Inf") == 1
    assert read("fraud_request_seconds_sum", route="/predict") == pytest.approx(0.003)
    assert read("fraud_decision_seconds_count") == 1


def test_the_route_tells_what_has_happened(trained: Trained) -> None:
    client = Client(create_app(FraudScorer(source_of(trained))))
    for amount in (1, 2, "x"):
        client.post("/predict", json={"amount": amount})
    client.get(f"/{CANARY}")
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    read = Read(answer.text)
    assert read("fraud_requests_total", route="/predict", method="POST", status="200") == 2
    assert read("fraud_requests_total", route="/predict", method="POST", status="422") == 1
    assert read("fraud_requests_total", route="none", method="GET", status="404") == 1
    assert read.total("fraud_decisions_total") == 2
    assert read("fraud_model_trouble") == 0
    assert read("fraud_bundle_serial") >= 1
    assert 0 <= read("fraud_bundle_age_seconds") < 3600
    assert CANARY not in answer.text


def test_where_metrics_go_elsewhere_the_route_says_so(bare_scorer: FraudScorer) -> None:
    answer = Client(create_app(bare_scorer, scraped=False)).get("/metrics")
    assert answer.status_code == 404
    assert "docs/operations.md" in answer.json()["detail"]


# --- CloudWatch ------------------------------------------------------------------------------------------------------


def emitted(
    metrics: Metrics,
    capsys: pytest.CaptureFixture[str],
    *,
    cold: bool = False,
    waited_for: bool = True,
    **gauges: float,
) -> list[dict[str, Any]]:
    metrics.cold = cold
    emit_emf(metrics, {(name,): value for name, value in gauges.items()}, waited_for=waited_for)
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_cloudwatch_gets_what_is_new_and_no_line_where_nothing_is(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = Metrics()
    assert emitted(metrics, capsys) == []
    metrics.decided(REVIEWED, 1500)
    metrics.request(route="/predict", method="POST", status=200, seconds=0.1, request_id="r", key=None)
    (first,) = emitted(metrics, capsys, model_trouble=0.0, bundle_age_seconds=60.0)
    assert first["Requests"] == first["Reviewed"] == first["DegradedFeatureStore"] == first["DegradedRules"] == [1.0]
    assert first["DecisionLatency"] == [1.5]
    assert first["BundleAge"] == [60.0]
    assert first["ModelTrouble"] == [0.0]
    assert "Approved" not in first
    metrics.request(route="/x", method="POST", status=503, seconds=0.1, request_id="r", key=None)
    metrics.add("log_failures", n=2)
    (second,) = emitted(metrics, capsys)
    assert (second["Requests"], second["ServerErrors"], second["LogFailures"]) == ([1.0], [1.0], [2.0])
    assert "Reviewed" not in second
    assert emitted(metrics, capsys) == []


def test_every_series_has_a_name_in_cloudwatch_with_its_unit(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = Metrics()
    for outcome in ("approve", "review", "decline"):
        metrics.add("decisions", outcome, "model")
    for what in ("model", "feature_store", "decision_log", "rules", "explanation"):
        metrics.add("degraded", what)
    for status in ("200", "404", "503"):
        metrics.add("requests", "/x", "GET", status)
    metrics.add("labels", "analyst", "fraud")
    metrics.add("drift_looks", "failed")
    for name, (_, labels) in COUNTERS.items():
        if not labels:
            metrics.add(name)
    metrics.add("requests", "/ready", "GET", "503")
    metrics.decided(APPROVED, 10)
    (line,) = emitted(metrics, capsys, model_trouble=1, rules_trouble=1, bundle_age_seconds=1, bundle_serial=1)
    (directive,) = line["_aws"]["CloudWatchMetrics"]
    assert directive["Namespace"] == NAMESPACE
    assert {metric["Name"]: metric["Unit"] for metric in directive["Metrics"]} == EMF_UNITS
    assert directive["Dimensions"] == [["service"]]


def test_a_burst_of_decisions_is_one_line_with_the_latest_latencies(
    capsys: pytest.CaptureFixture[str],
) -> None:
    metrics = Metrics()
    for latency_us in range(1_000):
        metrics.decided(APPROVED, latency_us)
    (line,) = emitted(metrics, capsys)
    assert line["Approved"] == [1000.0]
    assert line["DecisionLatency"] == [n / 1000 for n in range(901, 1000)]


def test_a_first_answer_opens_connections_and_is_no_measure_of_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = Metrics()
    metrics.request(route="/health", method="GET", status=200, seconds=0.1, request_id="r", key=None)
    emit_emf(metrics)  # a heartbeat opens none
    metrics.decided(REVIEWED, 900_000)
    emit_emf(metrics)
    metrics.decided(APPROVED, 1500)
    emit_emf(metrics)
    _, first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["Reviewed"] == first["DegradedRules"] == [1.0]
    assert not {"DecisionLatency", "Degraded"} & set(first)
    assert (second["DecisionLatency"], second["Degraded"]) == ([1.5], [0.0])


def test_a_restored_process_is_cold_again(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    scorer = FraudScorer(source_of(trained))
    app = create_app(scorer)
    scorer.metrics.cold = False
    restore(app)
    scorer.metrics.decided(APPROVED, 1500)
    capsys.readouterr()
    emit_emf(scorer.metrics)
    assert "DecisionLatency" not in capsys.readouterr().out
    assert scorer.metrics.cold is False


def test_what_a_decision_lacked_is_one_figure_a_decision(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = Metrics()
    for decided in (APPROVED, REVIEWED, APPROVED):
        metrics.decided(decided, 1500)
    assert emitted(metrics, capsys)[0]["Degraded"] == [0.0, 1.0, 0.0]


def test_rules_alone_are_degraded_only_where_something_was_published(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = Metrics()
    for lacked, unpublished, degraded in (
        (("model",), 0.0, 1.0),
        (("model",), 1.0, 0.0),
        (("model", "decision_log"), 1.0, 1.0),
    ):
        metrics.decided(replace(REVIEWED, degraded=lacked), 1500)
        (line,) = emitted(metrics, capsys, unpublished=unpublished)
        assert line["Degraded"] == [degraded]
        assert line["DegradedModel"] == [1.0]


def test_no_bundle_anywhere_is_told_from_one_that_is_refused_and_from_one_that_was_lost(
    tmp_path: Path, trained: Trained
) -> None:
    nothing = ModelSource(f"file://{tmp_path}/models/current", dict)
    nothing.refresh()
    assert gauges(FraudScorer(nothing))["unpublished",] == 1
    refused = ModelSource(f"file://{trained.root}/models/current", dict)
    refused.refresh()
    assert gauges(FraudScorer(refused))["unpublished",] == 0
    served = source_of(trained)
    served.trouble = nothing.trouble
    found = gauges(FraudScorer(served))
    assert (found["unpublished",], found["model_trouble",]) == (0, 1)


def test_a_service_that_waits_for_its_first_bundle_answers_and_has_no_server_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    metrics = Metrics()
    metrics.add("requests", "/ready", "GET", "503")
    (line,) = emitted(metrics, capsys)
    assert (line["Requests"], line["NotReady"], "ServerErrors" in line) == ([1.0], [1.0], False)


def test_a_queues_decisions_are_no_measure_of_how_long_somebody_waited(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = Metrics()
    metrics.decided(REVIEWED, 1500)
    (line,) = emitted(metrics, capsys, waited_for=False)
    assert (line["Degraded"], "DecisionLatency" in line) == ([1.0], False)


def test_few_are_those_that_are_free(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(EMF_FEW) == 10
    assert set(EMF_UNITS) > EMF_FEW
    metrics = Metrics(few=True)
    metrics.decided(REVIEWED, 1500)
    metrics.request(route="/predict", method="POST", status=422, seconds=0.1, request_id="r", key=None)
    (line,) = emitted(metrics, capsys, model_trouble=1, rules_trouble=1, bundle_age_seconds=1)
    (directive,) = line["_aws"]["CloudWatchMetrics"]
    sent = {metric["Name"] for metric in directive["Metrics"]}
    assert sent == {"Requests", "Reviewed", "Degraded", "DecisionLatency", "ModelTrouble"}


def test_each_deployed_service_has_figures_of_its_own(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = Metrics()
    metrics.add("replays")
    assert emitted(metrics, capsys)[0]["service"] == SERVICE
    monkeypatch.setenv("POWERTOOLS_SERVICE_NAME", "fraud-prod")
    metrics.add("replays")
    assert emitted(metrics, capsys)[0]["service"] == "fraud-prod"


def test_a_metric_that_cannot_be_sent_is_told_and_nothing_more(
    capsys: pytest.CaptureFixture[str], lines: Lines
) -> None:
    metrics = Metrics()
    metrics.add("decisions", "an outcome that is none", "model")
    assert emitted(metrics, capsys) == []
    assert lines.of("metrics not sent")[0]["error"] == "KeyError"


# --- log lines -------------------------------------------------------------------------------------------------------


def test_a_decision_has_a_line_and_a_flagged_one_an_alert(lines: Lines) -> None:
    metrics = Metrics()
    metrics.decided(APPROVED, 1500)
    metrics.decided(REVIEWED, 1500)
    approved, reviewed = lines.of("decision")
    (alert,) = lines.of("fraud alert")
    assert (approved["level"], reviewed["level"], alert["level"]) == ("INFO", "INFO", "WARNING")
    for line in (reviewed, alert):
        assert line["transaction"] == known_as("order-1")
        assert re.fullmatch(r"[0-9a-f]{16}", line["transaction"])
        assert line["outcome"] == "review"
        assert line["rules"] == ["night"]
        assert line["degraded"] == ["feature_store", "rules"]
        assert line["latency_ms"] == 1.5
        assert line["probability"] == 0.7
        assert line["model_version"] == "v1"


def test_alerts_are_written_where_decisions_are_not(lines: Lines) -> None:
    logging.getLogger("fraud").setLevel("WARNING")
    metrics = Metrics()
    metrics.decided(APPROVED, 1500)
    metrics.decided(REVIEWED, 1500)
    assert [json.loads(line)["message"] for line in lines.text.splitlines()] == ["fraud alert"]


def test_a_request_has_a_line_with_its_route_and_key(bare_scorer: FraudScorer, lines: Lines) -> None:
    key = make_api_key("shop", "score")
    client = Client(create_app(bare_scorer, guard=Guard(parse_keys(key.item))))
    answer = client.post("/predict", json={"amount": 1}, headers={"X-API-Key": key.secret})
    client.post("/predict", json={"amount": 1})
    known, unknown = lines.of("request")
    assert known["request_id"] == answer.headers["x-request-id"]
    assert (known["route"], known["method"], known["status"], known["key"]) == ("/predict", "POST", 200, "shop")
    assert known["ms"] > 0
    assert (unknown["route"], unknown["status"], unknown["key"]) == ("none", 401, None)
    assert key.secret not in lines.text


def test_what_machines_ask_for_all_the_time_is_told_at_debug_unless_it_fails(bare_client: Client, lines: Lines) -> None:
    for path in ("/health", "/metrics", "/ready"):
        bare_client.get(path)
    assert [(line["route"], line["level"]) for line in lines.of("request")] == [
        ("/health", "DEBUG"),
        ("/metrics", "DEBUG"),
        ("/ready", "INFO"),  # 503: no bundle
    ]


def test_an_unexpected_error_is_counted_and_logged_as_a_request_too(trained: Trained, lines: Lines) -> None:
    def broken() -> int:
        raise RuntimeError(CANARY)

    scorer = FraudScorer(source_of(trained), clock=broken)
    Client(create_app(scorer)).post("/predict", json={"amount": 1})
    assert lines.of("request")[0]["status"] == 500
    assert scorer.metrics.counts()["requests", "/predict", "POST", "500"] == 1


def test_nothing_that_was_sent_is_in_a_line(trained: Trained, lines: Lines) -> None:
    """A word in every field of body, query, path and headers; the request id alone is the sender's to choose."""
    scorer = FraudScorer(source_of(trained))
    client = Client(create_app(scorer))
    word = CANARY
    names = ("X-API-Key", "User-Agent", "Referer", "Cookie", "Authorization", "Accept", "X-Other", "traceparent")
    headers = dict.fromkeys(names, word)
    whole: dict[str, Any] = {
        "transaction_id": f"{word}-1", "customer_id": word, "counterparty_id": word, "device_id": word,
        "amount": 7731.77, "type": "TRANSFER", "oldbalanceOrg": 7731.77, "lat": 77.3177, "long": 77.3177,
        "timestamp": "2026-02-06T02:30:00Z", "attributes": {word: word, "other": word},
    }  # fmt: skip
    for query in ("", "?explain=true", f"?explain={word}", f"?{word}={word}"):
        client.post(f"/predict{query}", json=whole, headers=headers)
    client.post("/predict/batch", json={"transactions": [whole, {**whole, "currency": word}]}, headers=headers)
    for field in whole:
        client.post("/predict", json={"amount": 1, field: word}, headers=headers)
        client.post("/predict", json={**whole, "transaction_id": f"{word}-{field}", field: None}, headers=headers)
    client.post("/predict", json={word: word}, headers=headers)
    client.post("/predict", content=word.encode(), headers=headers)
    feedback = {"transaction_id": word, "label": "fraud", "source": "analyst", "note": word}
    for body in (feedback, *({**feedback, field: word} for field in feedback), {**feedback, word: word}):
        client.post("/feedback", json=body, headers=headers)
    for path in (f"/transactions/{word}", f"/parties/{word}", f"/{word}", f"/transactions?customer_id={word}"):
        client.get(path, headers=headers)
    for name in ("since", "outcome", "label", "rule", "cursor", "limit", "test", word):
        client.get(f"/transactions?{name}={word}", headers=headers)
        client.get(f"/summary?{name}={word}", headers=headers)
    client.request(word, "/predict", headers=headers)
    refused = Client(
        create_app(scorer, guard=Guard(parse_keys(make_api_key("n", "admin").item), rate=parse_rate("1/hour")))
    )
    refused.post("/predict", json=whole, headers=headers)
    assert len(lines.of("decision")) > 10
    assert len(lines.of("request")) > 40
    assert lines.of("fraud alert")
    for sent in (word, word.lower(), "7731-word", "7731.77", "77.3177"):
        assert sent not in lines.text


def test_a_daily_summary_is_one_line_of_figures(lines: Lines) -> None:
    log_summary({"day": "2026-11-24", "decisions": 3, "recall": None, "outcomes": {"approve": 3}})
    (line,) = lines.of("daily summary")
    assert (line["day"], line["decisions"], line["recall"], line["outcomes"]) == ("2026-11-24", 3, None, {"approve": 3})


# --- the document ----------------------------------------------------------------------------------------------------


def test_every_metric_and_every_line_is_documented() -> None:
    text = DOCUMENT.read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]*) \|", text, flags=re.M))
    told = {
        **{f"fraud_{name}_total": labels for name, (_, labels) in COUNTERS.items()},
        **{f"fraud_{name}_seconds": labels for name, (_, labels) in HISTOGRAMS.items()},
        **{f"fraud_{name}": labels for name, (_, labels) in GAUGES.items()},
    }
    for name, labels in told.items():
        assert rows[name] == (", ".join(f"`{label}`" for label in labels) or "-"), name
    assert {name for name in rows if name.startswith("fraud_")} == set(told)
    for name, unit in EMF_UNITS.items():
        assert rows[name] == unit, name
    for message in ("request", "decision", "fraud alert", "daily summary", "drift"):
        assert f"`{message}`" in text


def test_metrics_know_nothing_of_the_service() -> None:
    source = Path(counting.__file__).read_text()
    assert not re.search(r"^\s*(from \.|import fraud_api_lambda|from fraud_api_lambda)", source, re.M)
    Metrics().decided(SimpleNamespace(**{name: getattr(APPROVED, name) for name in Decision.__slots__}), 1)
