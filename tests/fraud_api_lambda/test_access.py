"""Keys, roles, limits: every cell of the grid over HTTP, and what the documents say of it.

Run as a program, this file writes the table of docs/access.md anew:
``PYTHONPATH=. python tests/fraud_api_lambda/test_access.py``.
"""

import asyncio
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from hypothesis import given
from hypothesis import strategies as st

from fraud_api_lambda.access import (
    ROLES,
    Access,
    Guard,
    GuardedRoute,
    RateLimit,
    Role,
    from_this_machine,
    open_guard,
    parse_keys,
    parse_rate,
)
from fraud_api_lambda.app import create_app
from fraud_api_lambda.bootstrap import build
from fraud_api_lambda.errors import SettingsError
from fraud_api_lambda.scoring import FraudScorer
from fraud_api_lambda.settings import Settings
from tests.fraud_api_lambda.asgi import Client
from training.apikey import make_api_key

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "access.md"
CALLERS: tuple[Role, ...] = get_args(Role)
KEYS = {role: make_api_key(f"my-{role}", role) for role in CALLERS}
ITEMS = "\n".join(key.item for key in KEYS.values())

#: What is asked of each route, and what is answered to whom it opens: not there is an answer, too.
ASKED: dict[tuple[str, str], tuple[str, bytes, int]] = {
    ("GET", "/health"): ("/health", b"", 200),
    ("GET", "/ready"): ("/ready", b"", 503),
    ("GET", "/docs"): ("/docs", b"", 200),
    ("GET", "/openapi.json"): ("/openapi.json", b"", 200),
    ("POST", "/predict"): ("/predict", b'{"amount": 1}', 200),
    ("POST", "/predict/batch"): ("/predict/batch", b'{"transactions": [{"amount": 1}]}', 200),
    ("GET", "/me"): ("/me", b"", 200),
    ("GET", "/model"): ("/model", b"", 503),
    ("GET", "/model/report"): ("/model/report", b"", 503),
    ("GET", "/transactions"): ("/transactions", b"", 200),
    ("GET", "/transactions/{transaction_id}"): ("/transactions/t/1", b"", 404),
    ("POST", "/feedback"): (
        "/feedback",
        b'{"transaction_id": "t", "label": "fraud", "source": "analyst"}',
        404,
    ),
    ("GET", "/parties/{party_id}"): ("/parties/C1", b"", 404),
    ("GET", "/summary"): ("/summary", b"", 200),
    ("GET", "/drift"): ("/drift", b"", 503),
    ("POST", "/rules/check"): ("/rules/check", b'{"expression": "amount > 5"}', 200),
    ("POST", "/backtest"): ("/backtest", b'{"thresholds": {"review": 0.1, "decline": 0.9}}', 503),
    ("GET", "/metrics"): ("/metrics", b"", 200),
}


@pytest.fixture(scope="module")
def keyed(bare_scorer: FraudScorer) -> Client:
    return Client(create_app(bare_scorer, guard=Guard(parse_keys(ITEMS))))


def sending(key: str | None) -> dict[str, str]:
    return {} if key is None else {"X-API-Key": key}


# --- the grid --------------------------------------------------------------------------------------------------------


def test_the_table_holds_every_route_of_the_app_and_nothing_else(bare_scorer: FraudScorer) -> None:
    app = create_app(bare_scorer)
    routes = {
        (method, getattr(route, "path_format", ""))
        for route in app.routes
        for method in getattr(route, "methods", None) or ()
        if method != "HEAD"
    }
    assert routes - {("GET", "/docs/oauth2-redirect")} == set(ROLES) == set(ASKED)


@pytest.mark.parametrize("route", ROLES, ids=" ".join)
@pytest.mark.parametrize("caller", [None, *CALLERS])
def test_a_cell_of_the_grid(keyed: Client, route: tuple[str, str], caller: Role | None) -> None:
    needed = ROLES[route]
    path, body, status = ASKED[route]
    answer = keyed.request(route[0], path, content=body, headers=sending(KEYS[caller].secret if caller else None))
    if needed is None or (caller and CALLERS.index(caller) >= CALLERS.index(needed)):
        assert answer.status_code == status
        return
    assert answer.status_code == (403 if caller else 401)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    if caller:
        assert f"the role {needed}" in answer.json()["detail"]
    else:
        assert answer.headers["www-authenticate"]


def test_the_documented_table_is_the_one_that_is_enforced() -> None:
    mend = "docs/access.md is out of date: PYTHONPATH=. python tests/fraud_api_lambda/test_access.py"
    assert table() in DOCUMENT.read_text(), mend


def table() -> str:
    lines = ["| route | no key | " + " | ".join(CALLERS) + " |", "|---|---|" + "---|" * len(CALLERS)]
    for (method, path), needed in ROLES.items():
        opens = [needed is None, *(needed is None or CALLERS.index(c) >= CALLERS.index(needed) for c in CALLERS)]
        lines.append(f"| `{method} {path}` | " + " | ".join("yes" if cell else "-" for cell in opens) + " |")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("caller", CALLERS)
def test_a_key_learns_its_role_and_what_it_opens(keyed: Client, caller: Role) -> None:
    told = keyed.get("/me", headers=sending(KEYS[caller].secret)).json()
    assert (told["name"], told["role"]) == (f"my-{caller}", caller)
    for method, path in ((route["method"], route["path"]) for route in told["routes"]):
        where, body, _ = ASKED[method, path]
        answer = keyed.request(method, where, content=body, headers=sending(KEYS[caller].secret))
        assert answer.status_code not in (401, 403)
    assert len(told["routes"]) == {"score": 8, "review": 17, "admin": 18}[caller]


@pytest.mark.parametrize("path", ["/nowhere", "/predict/", "//predict", "/health/", "/docs/oauth2-redirect", "/%2e/me"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS", "HEAD"])
def test_without_a_key_an_address_that_is_not_there_is_refused_like_one_that_is(
    keyed: Client, method: str, path: str
) -> None:
    refused, known = keyed.request(method, path), keyed.get("/model")
    assert refused.status_code == known.status_code == 401
    if method != "HEAD":
        assert {**refused.json(), "request_id": ""} == {**known.json(), "request_id": ""}


def test_with_a_key_an_address_that_is_not_there_is_not_found(keyed: Client) -> None:
    headers = sending(KEYS["score"].secret)
    assert keyed.get("/nowhere", headers=headers).status_code == 404
    assert keyed.get("/predict", headers=headers).status_code == 405


def test_a_stage_in_front_of_the_path_opens_nothing_else(bare_scorer: FraudScorer) -> None:
    app = create_app(bare_scorer, guard=Guard(parse_keys(ITEMS)))

    def ask(path: str, root_path: str) -> int:
        async def send() -> int:
            transport = httpx.ASGITransport(app=app, root_path=root_path)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                return (await client.get(path)).status_code

        return asyncio.run(send())

    assert ask("/prod/health", "/prod") == 200
    assert ask("/prod/me", "/prod") == 401
    assert ask("/health/me", "/health") == 401
    assert ask("/me/health", "/me") == 200
    assert ask("/healthy", "/health") == 401


def test_a_route_without_a_role_cannot_be_made() -> None:
    app = FastAPI()
    app.router.route_class = GuardedRoute
    with pytest.raises(TypeError, match="/secret has no role"):
        app.get("/secret")(lambda: None)


def test_a_route_refuses_even_where_nobody_asked_for_the_key(bare_scorer: FraudScorer) -> None:
    router = APIRouter(route_class=GuardedRoute)

    @router.get("/metrics")
    async def metrics() -> str:
        return "everything"

    whole = create_app(bare_scorer)
    app = FastAPI(exception_handlers=whole.exception_handlers)
    app.include_router(router)
    assert Client(app).get("/metrics").status_code == 403


def test_without_a_key_ready_tells_the_status_alone(keyed: Client) -> None:
    alone, whole = keyed.get("/ready"), keyed.get("/ready", headers=sending(KEYS["score"].secret))
    assert alone.json() == {"status": "degraded"}
    assert "detail" in whole.json()
    assert alone.status_code == whole.status_code


def test_who_has_no_key_costs_no_look_into_the_stores(
    bare_scorer: FraudScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []
    monkeypatch.setattr(bare_scorer.store, "check", lambda: looks.append("feature_store"))
    monkeypatch.setattr(bare_scorer.decisions, "check", lambda: looks.append("decision_log"))
    guarded = Client(create_app(bare_scorer, guard=Guard(parse_keys(ITEMS))))
    assert guarded.get("/ready").json() == {"status": "degraded"}
    assert looks == []
    assert guarded.get("/ready", headers=sending(KEYS["score"].secret)).json()["feature_store"] == "ok"
    assert looks == ["feature_store", "decision_log"]


def test_the_contract_says_which_key_a_route_takes(keyed: Client) -> None:
    document = keyed.get("/openapi.json").json()
    assert document["components"]["securitySchemes"]["Key"]["name"] == "X-API-Key"
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            role = ROLES[method.upper(), path]
            assert operation.get("x-role") == role
            assert operation["security"] == ([{"Key": []}] if role else [])
            assert ({"401", "403", "429"} <= set(operation["responses"])) == (role is not None)


# --- keys ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    ["", "x", KEYS["admin"].item, KEYS["admin"].secret[:-1], KEYS["admin"].secret + " x"],
    ids=["none", "short", "the setting's item", "cut off", "one too many"],
)
def test_a_key_that_is_not_known_is_refused_and_not_repeated(keyed: Client, sent: str) -> None:
    answer = keyed.get("/me", headers={"X-API-Key": sent})
    assert answer.status_code == 401
    assert not sent or sent not in answer.text


def test_two_keys_in_one_request_are_none(keyed: Client) -> None:
    headers = [("X-API-Key", KEYS["admin"].secret), ("X-API-Key", KEYS["score"].secret)]
    assert keyed.get("/me", headers=headers).status_code == 401


def test_a_hash_of_a_key_is_no_key(keyed: Client) -> None:
    digest = KEYS["admin"].item.rpartition(":")[2]
    assert keyed.get("/me", headers={"X-API-Key": digest}).status_code == 401


def test_every_key_is_compared_whichever_it_is(monkeypatch: pytest.MonkeyPatch, bare_scorer: FraudScorer) -> None:
    from fraud_api_lambda import access

    compared: list[bytes] = []
    real = access.hmac.compare_digest

    def counting(one: bytes, other: bytes) -> bool:
        compared.append(one)
        return bool(real(one, other))

    guard = Guard(parse_keys(ITEMS))
    monkeypatch.setattr(access.hmac, "compare_digest", counting)
    for secret in (KEYS["score"].secret, KEYS["admin"].secret, "another"):
        compared.clear()
        guard.caller({"type": "http", "headers": [(b"x-api-key", secret.encode())]})
        assert len(compared) == 3
        assert all(len(one) == 32 for one in compared)


def test_items_may_be_separated_by_commas_lines_and_spaces() -> None:
    one, two, three = (key.item for key in KEYS.values())
    keys = parse_keys(f"\n{one}, {two}\r\n\t{three}\n,")
    assert [(key.caller.name, key.caller.role) for key in keys] == [(f"my-{role}", role) for role in CALLERS]
    assert keys[0].digest == hashlib.sha256(KEYS["score"].secret.encode()).digest()


def test_none_is_no_key() -> None:
    assert parse_keys("none") == ()


HASH = "ab" * 32


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "item 1: must be name:role:sha256"),
        (" , ", "item 1: must be name:role:sha256"),
        ("hunter2secret", "item 1: must be name:role:sha256"),
        ("a:score:hunter2secret", "item 1: must be name:role:sha256"),
        (f"a:score:{HASH}:hunter2secret", "item 1: must be name:role:sha256"),
        (f"hunter2secret!:score:{HASH}", "item 1: must be name:role:sha256"),
        (f"a:score:{HASH} b:hunter2secret:{HASH[:-1]}c", "item 2: the role must be one of: score, review, admin"),
        (f"hunter2secret:score:{HASH},hunter2secret:review:{HASH[:-1]}c", "item 2: its name stands there already"),
        (f"hunter2secret:score:{HASH} b:admin:{HASH.upper()}", "item 2: its key stands there already"),
        (f"a:score:{HASH} none", "item 2: must be name:role:sha256"),
    ],
)
def test_a_malformed_item_is_counted_and_never_shown(text: str, says: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(f"FRAUD_API_KEYS, {says}")) as refused:
        parse_keys(text)
    assert "hunter2secret" not in str(refused.value)
    assert HASH[:8] not in str(refused.value)


@given(st.text(max_size=60), st.text(max_size=60))
def test_text_that_is_no_items_is_refused_and_not_repeated(before: str, after: str) -> None:
    with pytest.raises(SettingsError) as refused:
        parse_keys(f"{before}hunter2secret{after}")
    assert "hunter2secret" not in str(refused.value)


def test_a_new_key_is_let_in_by_its_item_and_no_two_are_alike() -> None:
    made = [make_api_key("n", "review") for _ in range(50)]
    assert len({key.secret for key in made}) == len({key.item for key in made}) == 50
    (key,) = parse_keys(made[0].item)
    assert (key.caller.name, key.caller.role) == ("n", "review")
    assert made[0].secret not in made[0].item
    assert len(made[0].secret) >= 43  # 256 bits


# --- without keys ----------------------------------------------------------------------------------------------------


def scope(client: str | None = "127.0.0.1", **headers: str) -> dict[str, Any]:
    sent = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "client": client and (client, 5000), "headers": sent}


@pytest.mark.parametrize("client", [None, "127.0.0.1", "127.8.9.1", "::1"])
@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:8000", "[::1]:8000", "api.localhost"])
def test_without_keys_a_program_on_this_machine_may_do_everything(client: str | None, host: str) -> None:
    assert from_this_machine(scope(client, host=host))
    caller = Guard().caller(scope(client, host=host))
    assert caller is not None
    assert caller.role == "admin"


@pytest.mark.parametrize(
    "client", ["192.168.1.7", "10.0.0.1", "2001:db8::1", "0.0.0.0", "", "localhost", "fe80::1%eth0"]
)
def test_without_keys_another_machine_is_refused(client: str) -> None:
    assert not from_this_machine(scope(client or "x", host="localhost"))


@pytest.mark.parametrize("header", ["forwarded", "x_forwarded_for", "x_real_ip", "via"])
def test_without_keys_what_comes_through_a_proxy_is_refused(header: str) -> None:
    assert not from_this_machine(scope(host="localhost", **{header: "127.0.0.1"}))


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "localhost.evil.example", "[", "", "169.254.1.1"]
)
def test_without_keys_a_foreign_name_that_points_here_is_refused(host: str) -> None:
    assert not from_this_machine(scope(host=host))


def test_without_keys_a_foreign_page_is_refused_and_one_of_the_setting_is_not() -> None:
    assert from_this_machine(scope(host="localhost:8000", origin="http://localhost:8000"))
    assert from_this_machine(scope(host="localhost:8000", origin="http://127.0.0.1:8501"))
    for origin in ("https://evil.example", "null", "http://localhost.evil.example", "http://[", ""):
        assert not from_this_machine(scope(host="localhost:8000", origin=origin))
    ours = scope(host="localhost:8000", origin="https://shop.example")
    assert not from_this_machine(ours)
    assert from_this_machine(ours, frozenset({"https://shop.example"}))


def test_without_keys_another_machine_is_told_what_to_do(bare_scorer: FraudScorer) -> None:
    app = create_app(bare_scorer)

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app=app, client=("192.0.2.9", 4000))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            assert (await client.get("/health")).status_code == 200
            return await client.get("/model")

    answer = asyncio.run(send())
    assert answer.status_code == 401
    assert "python -m training apikey" in answer.json()["detail"]
    assert "FRAUD_API_KEYS" in answer.json()["detail"]


def test_with_keys_this_machine_needs_one_too(keyed: Client) -> None:
    assert keyed.get("/model").status_code == 401


def test_behind_the_gateway_without_keys_the_gateway_alone_guards() -> None:
    caller = Guard(behind_gateway=True).caller(scope("203.0.113.5", host="api.example", x_forwarded_for="203.0.113.5"))
    assert caller is not None
    assert (caller.name, caller.role) == ("gateway", "admin")


def test_behind_the_gateway_with_keys_the_keys_guard() -> None:
    guard = Guard(parse_keys(ITEMS), behind_gateway=True)
    assert guard.caller(scope("203.0.113.5")) is None
    caller = guard.caller(scope("203.0.113.5", x_api_key=KEYS["review"].secret))
    assert caller is not None
    assert caller.role == "review"


def test_the_keys_of_the_setting_may_lie_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(ITEMS)
    settings = Settings(
        model_url=f"file://{tmp_path}/none",
        feature_store_url="memory://",
        decision_log_url=f"sqlite:///{tmp_path}/decisions.db",
        outbox_url=f"file://{tmp_path}/outbox",
    )
    app = Client(build(replace(settings, api_keys=f"file://{tmp_path}/keys")))
    assert app.get("/me").status_code == 401
    assert app.get("/me", headers=sending(KEYS["admin"].secret)).json()["role"] == "admin"
    (tmp_path / "empty").write_text("\n")
    for wrong in ("hunter2", f"file://{tmp_path}/empty", f"file://{tmp_path}/absent"):
        for on_aws in (False, True):
            with pytest.raises(SettingsError, match="FRAUD_API_KEYS"):
                build(replace(settings, api_keys=wrong), on_aws=on_aws)
    with pytest.raises(SettingsError, match="FRAUD_RATE_LIMIT"):
        build(replace(settings, rate_limit="lots"))


# --- limits ----------------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    "text", ["", "10", "10/minutes", "0/second", "-1/second", "1.5/second", "x/hour", "1 / second"]
)
def test_a_malformed_limit_is_refused_with_its_form(text: str) -> None:
    with pytest.raises(SettingsError, match="FRAUD_RATE_LIMIT must be number/second"):
        parse_rate(text)


@pytest.mark.parametrize(
    ("text", "number", "seconds"), [("5/second", 5, 1), ("30/minute", 30, 60), ("7/hour", 7, 3600)]
)
def test_so_many_may_come_at_once_and_then_one_in_each_share_of_the_time(text: str, number: int, seconds: int) -> None:
    clock = Clock()
    limit = parse_rate(text, monotonic=clock)
    assert [limit.admit("a") for _ in range(number)] == [0.0] * number
    wait = limit.admit("a")
    assert wait == pytest.approx(seconds / number)
    assert limit.admit("b") == 0.0
    clock.now += wait
    assert limit.admit("a") == 0.0
    assert limit.admit("a") > 0.0
    clock.now += 10 * seconds  # what is not used is not saved up
    assert sum(limit.admit("a") == 0.0 for _ in range(3 * number)) == number


@given(st.lists(st.floats(0, 3, allow_nan=False), min_size=1, max_size=200), st.integers(1, 20))
def test_no_stretch_of_time_sees_more_than_twice_its_share(pauses: list[float], number: int) -> None:
    clock = Clock()
    limit = RateLimit(number, 10.0, monotonic=clock)
    admitted = []
    for pause in pauses:
        clock.now += pause
        if limit.admit("a") == 0.0:
            admitted.append(clock.now)
    for start in admitted:
        assert sum(start <= moment < start + 10.0 for moment in admitted) <= 2 * number


def test_what_a_refused_caller_is_told_to_wait_is_enough() -> None:
    clock = Clock()
    limit = RateLimit(3, 7.0, monotonic=clock)
    for _ in range(500):
        wait = limit.admit("a")
        if wait:
            clock.now += wait
            assert limit.admit("a") == 0.0


def test_the_memory_of_callers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fraud_api_lambda.access.MAX_CALLERS", 100)
    limit = RateLimit(1, 60.0, monotonic=Clock())
    limit.admit("steady")
    for number in range(1_000):
        limit.admit(str(number))
        if number % 50 == 0:
            limit.charge("steady", 1)
    assert len(limit._paid) == 100
    assert limit.admit("steady") == pytest.approx(21 * 60.0)  # heard of lately: nothing of it is forgotten


def limited(scorer: FraudScorer, rate: str, clock: Clock, keys: str | None = ITEMS) -> Client:
    guard = Guard(() if keys is None else parse_keys(keys), rate=parse_rate(rate, monotonic=clock))
    return Client(create_app(scorer, guard=guard))


def test_beyond_the_limit_a_key_gets_429_and_the_others_go_on(bare_scorer: FraudScorer) -> None:
    clock = Clock()
    app = limited(bare_scorer, "2/minute", clock)
    score, review = sending(KEYS["score"].secret), sending(KEYS["review"].secret)
    assert [app.get("/me", headers=score).status_code for _ in range(3)] == [200, 200, 429]
    refused = app.get("/nowhere", headers=score)
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "30"
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json()["title"] == "Too many requests"
    assert app.get("/me", headers=review).status_code == 200
    assert app.get("/health", headers=score).status_code == 200
    clock.now += int(refused.headers["retry-after"])
    assert app.get("/me", headers=score).status_code == 200


def test_without_a_key_nothing_is_counted(bare_scorer: FraudScorer) -> None:
    app = limited(bare_scorer, "1/hour", Clock())
    assert [app.get("/me").status_code for _ in range(3)] == [401] * 3
    assert app.get("/me", headers=sending(KEYS["score"].secret)).status_code == 200


def test_without_keys_an_address_is_limited(bare_scorer: FraudScorer) -> None:
    app = limited(bare_scorer, "2/minute", Clock(), keys=None)
    assert [app.get("/me").status_code for _ in range(3)] == [200, 200, 429]


def test_a_batch_is_let_in_as_one_and_counts_as_its_transactions(bare_scorer: FraudScorer) -> None:
    clock = Clock()
    app = limited(bare_scorer, "60/minute", clock)
    key = sending(KEYS["score"].secret)
    batch = {"transactions": [{"amount": 1}] * 90}
    assert app.post("/predict/batch", json=batch, headers=key).status_code == 200
    refused = app.post("/predict", json={"amount": 1}, headers=key)
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "31"
    clock.now += 31
    assert app.post("/predict", json={"amount": 1}, headers=key).status_code == 200


def test_the_guard_of_the_settings_is_the_one_of_its_parts() -> None:
    guard = open_guard(ITEMS, "1/hour")
    caller = guard.caller(scope(x_api_key=KEYS["score"].secret))
    assert caller is not None
    guard.admit(scope(), caller)
    with pytest.raises(Exception, match="limit of requests"):
        guard.admit(scope(), caller)
    assert open_guard(None, None).caller(scope("192.0.2.1")) is None


def test_what_is_no_http_passes() -> None:
    seen: list[str] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    asyncio.run(Access(inner, Guard())({"type": "lifespan"}, None, None))  # type: ignore[arg-type]
    assert seen == ["lifespan"]


if __name__ == "__main__":
    text = DOCUMENT.read_text()
    DOCUMENT.write_text(re.sub(r"\| route \| no key .*?\n\n", lambda _: table() + "\n", text, flags=re.S))
    print(json.dumps({"rows": len(ROLES)}))
