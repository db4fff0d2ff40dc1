"""The HTTP contract from outside: answers, problems, limits, headers; with a bundle and without one."""

import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraud_api_lambda.app import MAX_BATCH_BODY, MAX_BODY, create_app
from fraud_api_lambda.bundle import SigningKey, parse_public_keys
from fraud_api_lambda.reload import ModelSource
from fraud_api_lambda.schemas import MAX_BATCH, Decision
from fraud_api_lambda.scoring import FraudScorer
from tests.conftest import Trained
from tests.fraud_api_lambda.asgi import Client, source_of, source_without_bundle, stream
from tests.fraud_api_lambda.payloads import ALL, CANARY, HOSTILE

FIXED = 1_780_000_000_000
ID = re.compile(r"[0-9a-f]{32}")


def problem(answer: Any, status: int) -> dict[str, Any]:
    """The problem document of an answer, which must be one in form, of this status, small, and of this request."""
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert len(answer.content) <= 4096
    body: dict[str, Any] = answer.json()
    assert body["type"] == "about:blank"
    assert body["status"] == status
    assert body["title"]
    assert body["detail"]
    assert set(body) <= {"type", "title", "status", "detail", "errors", "request_id"}
    assert all(set(error) == {"field", "message"} for error in body.get("errors", []))
    assert body["request_id"] == answer.headers["x-request-id"]
    return body


# --- decisions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("payload", ALL, ids=lambda payload: ",".join(payload)[:40])
def test_payloads_of_other_fraud_apis_get_a_decision(either: Client, payload: dict[str, Any]) -> None:
    answer = either.post("/predict", json=payload)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert list(body) == list(Decision.__dataclass_fields__)
    assert body["amount"] == payload.get("amount", payload.get("Amount"))
    assert body["is_fraud"] == (body["outcome"] != "approve")


def test_a_decision_with_a_bundle_has_a_probability_and_one_without_is_flagged(
    client: Client, bare_client: Client, trained: Trained
) -> None:
    sent = {"amount": 9000, "timestamp": "2026-02-06T02:30:00Z", "transaction_id": "order-1"}
    full, bare = client.post("/predict", json=sent).json(), bare_client.post("/predict", json=sent).json()
    assert full["transaction_id"] == bare["transaction_id"] == "order-1"
    assert 0 < full["fraud_probability"] < 1
    assert full["model_version"] == trained.version
    assert full["degraded"] == []
    assert set(full["thresholds"]) == {"review", "decline"}
    assert bare["fraud_probability"] is bare["threshold"] is bare["thresholds"] is bare["model_version"] is None
    assert bare["degraded"] == ["model"]
    assert bare["rules"] == ["night_large_amount", "very_large_amount"]
    assert bare["decided_by"] == "rule"


def test_the_same_transaction_at_the_same_moment_gets_the_same_bytes(trained: Trained) -> None:
    def app() -> Client:
        """The service with nobody's past in it yet."""
        return Client(create_app(FraudScorer(source_of(trained), clock=lambda: FIXED)))

    sent = json.dumps({**ALL[4], "transaction_id": "t"}).encode()
    one, two = app().post("/predict?explain=true", content=sent), app().post("/predict?explain=true", content=sent)
    assert one.content == two.content
    batch = app().post("/predict/batch?explain=true", content=b'{"transactions": [%s]}' % sent)
    assert batch.content == b'{"results":[{"index":0,"decision":%s}]}' % one.content


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "application/x-www-form-urlencoded", None])
def test_the_content_type_does_not_matter(bare_client: Client, content_type: str | None) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    assert bare_client.post("/predict", content=b'{"amount": 1}', headers=headers).status_code == 200


def test_explain_forces_and_suppresses_reasons(client: Client) -> None:
    for payload in ALL:
        answer = client.post("/predict", json=payload).json()
        assert bool(answer["reasons"]) == answer["is_fraud"]
        assert client.post("/predict?explain=false", json=payload).json()["reasons"] == []
        reasons = client.post("/predict?explain=true", json=payload).json()["reasons"]
        assert list(reasons[0]) == ["code", "feature", "value", "contribution", "text"]


@pytest.mark.parametrize(
    "query", ["explain=1", "explain=True", "explain=", "explain=true&explain=false", f"explain={CANARY}"]
)
@pytest.mark.parametrize("path", ["/predict", "/predict/batch"])
def test_another_value_of_explain_is_refused(bare_client: Client, path: str, query: str) -> None:
    body = problem(bare_client.post(f"{path}?{query}", json={"amount": 1}), 422)
    assert body["errors"] == [{"field": "explain", "message": "must be true or false"}]


def test_other_queries_are_ignored(bare_client: Client) -> None:
    assert bare_client.post("/predict?utm=%ff&x", json={"amount": 1}).status_code == 200


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_body_is_a_small_problem_that_repeats_nothing(
    bare_client: Client, name: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("fraud"), "propagate", True)
    with caplog.at_level(logging.DEBUG):
        answer = bare_client.post("/predict", content=HOSTILE[name])
    body = problem(answer, 422)
    assert body["errors"]
    seen = f"{answer.text} {answer.headers}".replace(body["request_id"], "")  # hex digits, and now and then 7731
    for canary in (CANARY, "canary", "4111111111111111", "7731", "ZZZ"):
        assert canary not in seen
        assert canary not in caplog.text


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_body_is_refused_with_a_bundle_too_and_inside_a_batch(client: Client, name: str) -> None:
    problem(client.post("/predict", content=HOSTILE[name]), 422)
    answer = client.post("/predict/batch", content=b'{"transactions": [' + HOSTILE[name] + b"]}")
    if answer.status_code == 200:  # JSON, so the item has the problem
        for item in answer.json()["results"]:
            assert item["problem"]["status"] == 422
    else:
        problem(answer, 422)
    assert CANARY not in answer.text


def test_a_message_names_the_field_and_the_mend(bare_client: Client) -> None:
    body = problem(bare_client.post("/predict", json={"ammount": 1, "type": "REFUND"}), 422)
    told = {error["field"]: error["message"] for error in body["errors"]}
    assert told["amount"] == "is required"
    assert told["ammount"].startswith("is not a known field. Did you mean amount?")
    assert "CASH_OUT" in told["type"]


@settings(max_examples=150)
@given(
    st.binary(max_size=200)
    | st.dictionaries(st.text(max_size=9), st.text(max_size=9)).map(lambda d: json.dumps(d).encode())
)
def test_no_body_makes_a_server_error(bare_client: Client, body: bytes) -> None:
    for path in ("/predict", "/predict/batch"):
        assert bare_client.post(path, content=body).status_code in {200, 422}


def test_a_body_beyond_the_limit_is_refused_whether_announced_or_not(either: Client) -> None:
    padding = b'{"amount": 1, "attributes": {"a": "%s"}}'
    for path, limit in (("/predict", MAX_BODY), ("/predict/batch", MAX_BATCH_BODY)):
        body = padding % (b"x" * limit)
        detail = f"The body is larger than {limit:,} bytes."
        assert problem(either.post(path, content=body), 413)["detail"] == detail
        chunks = (body[at : at + 10_000] for at in range(0, len(body), 10_000))
        assert problem(either.post(path, content=stream(*chunks)), 413)["detail"] == detail


def test_nesting_of_a_hundred_thousand_levels_is_refused(either: Client) -> None:
    for body in (b"[" * 100_000, b"[" * 100_000 + b"]" * 100_000, b'{"transactions":' * 100_000):
        problem(either.post("/predict/batch", content=body), 422)
        problem(either.post("/predict", content=body), 413)


def test_a_body_of_exactly_the_limit_is_read(bare_client: Client) -> None:
    body = b'{"amount": 1}'.ljust(MAX_BODY)
    assert bare_client.post("/predict", content=body).status_code == 200
    assert bare_client.post("/predict", content=stream(body[:7], b"", body[7:])).status_code == 200
    problem(bare_client.post("/predict", content=body + b" "), 413)


@pytest.mark.parametrize("length", ["999999999999", "9" * 30])
def test_an_announced_length_beyond_the_limit_is_refused_before_reading(bare_client: Client, length: str) -> None:
    problem(bare_client.post("/predict", content=b"{}", headers={"Content-Length": length}), 413)


def test_an_announced_length_that_is_none_does_not_matter(bare_client: Client) -> None:
    for length in ("-5", "abc", "", "²"):
        headers = [(b"Content-Length", length.encode("latin-1"))]
        assert bare_client.post("/predict", content=stream(b'{"amount": 1}'), headers=headers).status_code == 200


# --- addresses and methods -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/nowhere", f"/{CANARY}", "/predict/other", "/model/..%2f", "/%00"])
def test_an_unknown_address_is_a_problem(either: Client, path: str) -> None:
    assert CANARY not in json.dumps(problem(either.get(path), 404))


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/predict", "POST"),
        ("PUT", "/predict", "POST"),
        ("GET", "/predict/batch", "POST"),
        ("POST", "/model", "GET"),
        ("DELETE", "/ready", "GET"),
        ("POST", "/health", "GET"),
    ],
)
def test_another_method_is_a_problem_that_names_the_allowed_ones(
    either: Client, method: str, path: str, allowed: str
) -> None:
    answer = either.request(method, path)
    problem(answer, 405)
    assert answer.headers["allow"] == allowed


def test_an_unexpected_error_says_nothing_about_itself(trained: Trained, caplog: pytest.LogCaptureFixture) -> None:
    def broken_clock() -> int:
        raise RuntimeError(CANARY)

    app = Client(create_app(FraudScorer(source_of(trained), clock=broken_clock)))
    answer = app.post("/predict", json={"amount": 1, "customer_id": CANARY})
    body = problem(answer, 500)
    assert CANARY not in answer.text
    assert body["detail"] == "An unexpected error (RuntimeError)."


# --- batches ---------------------------------------------------------------------------------------------------------


def test_a_batch_answers_each_item_with_a_decision_or_a_problem(either: Client) -> None:
    items = [{"amount": 5, "transaction_id": "a"}, {"amount": -5}, 7, {"amount": 1, "currency": "ZZZ"}, {"Amount": 0}]
    answer = either.post("/predict/batch", json={"transactions": items})
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert [result["index"] for result in results] == [0, 1, 2, 3, 4]
    assert [sorted(set(result) - {"index"}) for result in results] == [
        *(["decision"], ["problem"], ["problem"], ["problem"], ["decision"])
    ]
    assert results[0]["decision"]["transaction_id"] == "a"
    assert results[1]["problem"]["errors"] == [{"field": "amount", "message": "must be at least 0.0"}]
    assert results[2]["problem"]["errors"] == [{"field": "body", "message": "must be a JSON object"}]
    assert results[3]["problem"]["errors"][0]["field"] == "currency"
    assert {result["problem"]["status"] for result in results if "problem" in result} == {422}


def test_a_batch_of_the_widest_size_is_answered_and_one_more_refused(client: Client) -> None:
    item = {"amount": 12.5, "timestamp": "2026-02-06T12:00:00Z"}
    answer = client.post("/predict/batch?explain=false", json={"transactions": [item] * MAX_BATCH})
    probabilities = {result["decision"]["fraud_probability"] for result in answer.json()["results"]}
    assert len(answer.json()["results"]) == MAX_BATCH
    assert probabilities == {client.post("/predict", json=item).json()["fraud_probability"]}
    body = problem(client.post("/predict/batch", json={"transactions": [item] * (MAX_BATCH + 1)}), 422)
    assert body["errors"] == [{"field": "transactions", "message": "must hold 1 to 1000 transactions"}]


@pytest.mark.parametrize(
    "body", [[], {}, {"transactions": []}, {"transactions": {}}, {"transactions": [{}], "x": 1}, None]
)
def test_a_batch_of_another_form_is_refused(bare_client: Client, body: object) -> None:
    problem(bare_client.post("/predict/batch", json=body), 422)


# --- what is served --------------------------------------------------------------------------------------------------


def test_model_tells_what_is_served(client: Client, trained: Trained) -> None:
    answer = client.get("/model")
    assert answer.status_code == 200
    body = answer.json()
    assert body["model_version"] == trained.version
    assert body["serial"] == 1
    assert body["champion"] == "xgboost"
    assert {"name": "amount", "version": 1} in body["features"]
    assert body["base_currency"] == "USD"
    assert body["currencies"][0] == "USD"
    assert body["time_zone"] == "UTC"
    assert 0 < body["thresholds"]["review"] <= body["thresholds"]["decline"] < 1
    assert body["rules_version"] == client.post("/predict", json={"amount": 1}).json()["rules_version"]
    for rule in body["rules"]:
        assert list(rule) == ["id", "expression", "outcome", "reason", "enabled", "from", "until"]
    assert body["lists"] == {"deny": 0, "allow": 0, "snooze": 0}
    assert body["metrics"]
    measured = json.loads((trained.folder / "metrics.json").read_text())
    for name in ("curves", "validation_curves", "importance"):
        assert body[name] == measured[name] != []
    assert body["curves"] != body["validation_curves"]
    assert body["model_card"] == (trained.folder / "model_card.md").read_text()
    assert body["degraded"] == []


def test_the_report_is_a_page_that_may_load_and_run_nothing(client: Client, trained: Trained) -> None:
    answer = client.get("/model/report")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = {item.split()[0]: item.split()[1:] for item in answer.headers["content-security-policy"].split("; ")}
    assert policy == {"default-src": ["'none'"], "img-src": ["data:"], "style-src": ["'unsafe-inline'"]}
    assert answer.content == (trained.folder / "report.html").read_bytes()
    assert not re.search(r"<script|\son\w+=|src=[\"'](?!data:)|<link", answer.text)


@pytest.mark.parametrize("path", ["/model", "/model/report"])
def test_without_a_bundle_the_model_is_a_problem_that_says_why(bare_client: Client, path: str) -> None:
    body = problem(bare_client.get(path), 503)
    assert body["title"] == "No model loaded"
    assert body["detail"].endswith("Transactions are decided by rules alone.")


def test_a_report_that_has_been_tampered_with_is_not_shown(trained: Trained, tmp_path: Path) -> None:
    shutil.copytree(trained.root / "models", tmp_path / "models")
    shutil.copytree(trained.root / "keys", tmp_path / "keys")
    source = source_of(Trained(tmp_path, trained.version))
    (tmp_path / "models" / trained.version / "report.html").write_text(f"<script>{CANARY}</script>")
    app = Client(create_app(FraudScorer(source)))
    answer = app.get("/model/report")
    assert CANARY not in answer.text
    assert problem(answer, 503)["detail"] == "'report.html' is not the file that was sealed."
    assert app.post("/predict", json={"amount": 1}).json()["model_version"] == trained.version


def test_health_says_only_that_the_process_is_alive(either: Client) -> None:
    answer = either.get("/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_ready_says_whether_a_model_is_served(client: Client, bare_client: Client, trained: Trained) -> None:
    answer = client.get("/ready")
    assert answer.status_code == 200
    assert answer.json() == {
        "status": "ready",
        "model": "ok",
        "model_version": trained.version,
        "feature_store": "ok",
        "decision_log": "ok",
    }
    degraded = bare_client.get("/ready")
    assert degraded.status_code == 503
    body = degraded.json()
    assert (body["status"], body["model"]) == ("degraded", "missing")
    assert body["detail"]
    assert "\n" not in body["detail"]
    assert body["rules_version"].startswith("default-1+")


def test_ready_stays_so_when_a_later_look_fails_and_tells_it(trained: Trained, tmp_path: Path) -> None:
    shutil.copytree(trained.root / "models", tmp_path / "models")
    shutil.copytree(trained.root / "keys", tmp_path / "keys")
    source = source_of(Trained(tmp_path, trained.version))
    app = Client(create_app(FraudScorer(source)))
    (tmp_path / "models" / "current").write_text("{}")
    source.refresh()
    answer = app.get("/ready")
    assert answer.status_code == 200
    assert answer.json()["model_version"] == trained.version
    assert answer.json()["last_refresh"]["model"] == "refused"
    assert app.get("/model").json()["degraded"] == ["model"]
    assert app.post("/predict", json={"amount": 1}).json()["degraded"] == []


@pytest.mark.parametrize("damage", ["pointer", "keys", "forest.npz", "manifest.json", "rules.yaml", "golden.json"])
def test_a_damaged_bundle_leaves_the_rules_and_a_line_that_says_why(
    trained: Trained, tmp_path: Path, damage: str
) -> None:
    shutil.copytree(trained.root / "models", tmp_path / "models")
    public = (trained.root / "keys" / "development.pub").read_text()
    if damage == "pointer":
        (tmp_path / "models" / "current").write_bytes(b"\x00" * 100)
    elif damage == "keys":
        public = SigningKey.generate("dev-other").public_line()
    else:
        path = tmp_path / "models" / trained.version / damage
        path.write_bytes(path.read_bytes()[:-1])
    source = ModelSource(f"file://{tmp_path}/models/current", lambda: parse_public_keys(public))
    source.refresh()
    app = Client(create_app(FraudScorer(source)))
    ready = app.get("/ready")
    assert ready.status_code == 503
    assert ready.json()["model"] == "refused"
    assert str(tmp_path) not in ready.text
    decision = app.post("/predict", json={"amount": 9000}).json()
    assert (decision["outcome"], decision["decided_by"], decision["degraded"]) == ("review", "rule", ["model"])


def test_the_docs_page_is_there(either: Client) -> None:
    answer = either.get("/docs")
    assert answer.status_code == 200
    assert "/openapi.json" in answer.text


# --- headers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/health", "/ready", "/nowhere", "/docs", "/model"])
def test_every_answer_has_a_request_id(either: Client, path: str) -> None:
    assert ID.fullmatch(either.get(path).headers["x-request-id"])
    assert either.get(path, headers={"X-Request-ID": "mine-1"}).headers["x-request-id"] == "mine-1"


@pytest.mark.parametrize("sent", ["1", "a" * 128, "Root=1-67891233-abcdef012345678912345678", "a.b:c/d+e=f@g-h_i"])
def test_a_request_id_that_was_sent_is_kept(bare_client: Client, sent: str) -> None:
    answer = bare_client.post("/predict", content=b"", headers={"X-Request-ID": sent})
    assert problem(answer, 422)["request_id"] == sent
    assert answer.headers.get_list("x-request-id") == [sent]


@pytest.mark.parametrize("sent", ["", "a" * 129, "with space", "<script>", 'a"b', "ä", "a,b", "a\tb"])
def test_a_request_id_of_another_form_is_replaced(bare_client: Client, sent: str) -> None:
    headers = [(b"X-Request-ID", sent.encode("latin-1"))]
    answer = bare_client.post("/predict", content=b"", headers=headers)
    assert ID.fullmatch(problem(answer, 422)["request_id"])


def test_two_requests_have_two_ids(bare_client: Client) -> None:
    assert len({bare_client.get("/health").headers["x-request-id"] for _ in range(20)}) == 20


def test_without_the_setting_no_origin_is_allowed(bare_client: Client) -> None:
    for method in ("POST", "OPTIONS"):
        answer = bare_client.request(method, "/predict", json={"amount": 1}, headers={"Origin": "https://shop.example"})
        problem(answer, 401)
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_an_origin_of_the_setting_is_allowed_and_no_other(bare_scorer: FraudScorer) -> None:
    app = Client(create_app(bare_scorer, cors_origins=("https://shop.example",)))
    ours, theirs = {"Origin": "https://shop.example"}, {"Origin": "https://evil.example"}
    for content, status in ((b'{"amount": 1}', 200), (b"", 422)):
        answer = app.post("/predict", content=content, headers=ours)
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == "https://shop.example"
        assert "x-request-id" in answer.headers["access-control-expose-headers"].lower()
        assert "access-control-allow-origin" not in app.post("/predict", content=content, headers=theirs).headers
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "Content-Type, X-API-Key"}
    preflight = app.request("OPTIONS", "/predict", headers={**ours, **asked})
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "https://shop.example"
    assert "POST" in preflight.headers["access-control-allow-methods"]
    assert app.request("OPTIONS", "/predict", headers={**theirs, **asked}).status_code == 400


# --- a house without a bundle that gets one ------------------------------------------------------------------------


def test_a_bundle_that_appears_is_served_after_the_next_look(trained: Trained, tmp_path: Path) -> None:
    public = (trained.root / "keys" / "development.pub").read_text()
    source = ModelSource(f"file://{tmp_path}/models/current", lambda: parse_public_keys(public))
    app = Client(create_app(FraudScorer(source)))
    assert app.get("/ready").status_code == 503
    shutil.copytree(trained.root / "models", tmp_path / "models")
    source.refresh()
    assert app.get("/ready").json()["model_version"] == trained.version
    assert app.post("/predict", json={"amount": 1}).json()["degraded"] == []


def test_an_app_is_made_without_any_input_or_output(tmp_path: Path) -> None:
    app = create_app(FraudScorer(source_without_bundle(tmp_path)))
    assert not list(tmp_path.iterdir())
    assert app.title == "Fraud detection"
