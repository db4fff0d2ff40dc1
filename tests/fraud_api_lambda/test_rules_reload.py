"""The rules file of FRAUD_RULES_URL: found, changed, refused, lost, and what decides meanwhile."""

import json
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fraud_api_lambda import bundle as bundles
from fraud_api_lambda import reload, rules
from fraud_api_lambda.app import create_app
from fraud_api_lambda.bootstrap import build
from fraud_api_lambda.bundle import FileStore, ObjectStore
from fraud_api_lambda.errors import BundleMissing, BundleUnreachable, SettingsError
from fraud_api_lambda.features import NAMES
from fraud_api_lambda.reload import REFRESH_SECONDS, ModelSource, RulesSource
from fraud_api_lambda.rules import default_rules
from fraud_api_lambda.schemas import Decision, parse_transaction
from fraud_api_lambda.scoring import Answer, FraudScorer
from fraud_api_lambda.settings import Settings, read_settings
from tests.fraud_api_lambda.asgi import Client
from tests.fraud_api_lambda.making import KEY, TRUSTED, publish_small, seal_small

BROKEN = "is_night && amuont > 5"


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def text(expression: str = "amount > 5", **more: Any) -> bytes:
    rule = {"id": "mine", "expression": expression, "outcome": "decline"}
    return json.dumps({"version": "file", "rules": [rule], **more}).encode()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return publish_small(tmp_path, "v1")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "rules" / "current.yaml"
    found.parent.mkdir()
    found.write_bytes(text())
    return found


def started(url: str, path: Path, clock: Clock | None = None) -> ModelSource:
    source = ModelSource(url, lambda: TRUSTED, rules_url=f"file://{path}", monotonic=clock or Clock())
    source.refresh()
    return source


def judged(source: ModelSource, **data: Any) -> Decision:
    return FraudScorer(source).score(parse_transaction({"amount": 10, "timestamp": "2026-02-06T12:00:00Z", **data}))


def ids(source: ModelSource) -> list[str]:
    return [rule.id for rule in source.rules.rules]


# --- found and changed -----------------------------------------------------------------------------------------------


def test_the_rules_file_decides_in_place_of_the_bundles_rules(url: str, path: Path) -> None:
    source = started(url, path)
    assert ids(source) == ["mine"]
    assert source.rules_state == {"state": "ok"}
    decision = judged(source, amount=2_000_000)
    assert (decision.rules, decision.degraded) == (("mine",), ())
    assert decision.rules_version.startswith("file+")
    assert decision.fraud_probability is not None


def test_without_the_setting_there_is_nothing_to_say_of_a_file(url: str) -> None:
    source = ModelSource(url, lambda: TRUSTED)
    source.refresh()
    assert source.rules_state is None
    assert ids(source) == ["very-large"]


def test_without_a_bundle_the_rules_file_decides_too(tmp_path: Path, path: Path) -> None:
    source = started(f"file://{tmp_path}/nothing/current", path)
    decision = judged(source)
    assert (decision.rules, decision.degraded, decision.decided_by) == (("mine",), ("model",), "rule")


def test_a_change_is_in_force_within_a_minute_and_not_looked_for_more_often(
    url: str, path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []
    read = FileStore.read_changed

    def look(store: FileStore, name: str, token: str) -> tuple[bytes, str] | None:
        looks.append(name)
        return read(store, name, token)

    monkeypatch.setattr(FileStore, "read_changed", look)
    source = started(url, path, clock)
    path.write_bytes(text("amount > 50"))
    for _ in range(5):
        clock.now += REFRESH_SECONDS / 6
        source.refresh_if_due()
    assert (len(looks), judged(source).rules) == (1, ("mine",))
    clock.now += REFRESH_SECONDS / 6
    source.refresh_if_due()
    source.refresh_if_due()
    assert (len(looks), judged(source).rules) == (2, ())


def test_an_unchanged_file_is_not_compiled_again(url: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = started(url, path)
    before = source.rules
    monkeypatch.setattr(reload, "load_rules", lambda *_: pytest.fail("compiled again"))
    for _ in range(3):
        source.refresh()
    assert source.rules is before


def test_a_list_entry_that_is_added_stops_the_next_transaction(url: str, path: Path) -> None:
    source = started(url, path)
    assert judged(source, customer_id="C1", amount=1).outcome == "approve"
    path.write_bytes(text(lists={"deny": [{"entity": "customer", "id": "C1"}]}))
    source.refresh()
    decision = judged(source, customer_id="C1", amount=1)
    assert (decision.outcome, decision.decided_by, decision.rules) == ("decline", "list", ("list:deny",))
    assert decision.fraud_probability is not None


# --- refused and lost ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (text(BROKEN), "Rule 'mine', line 1, column 13: undeclared reference to 'amuont'"),
        (text("amount"), "Rule 'mine' must be true or false, and it is DOUBLE."),
        (b"rules: [", "The rules file is not YAML."),
        (b"", "A rules file has the members"),
        (b"a: &a [*a]", "aliases|anchors"),
        (b"\xff\xff", "The rules file is not UTF-8."),
        (text(lists={"deny": [{"entity": "customer"}]}), "Entry 1 of the deny list needs either 'id' or 'ids'"),
    ],
)
def test_a_file_that_is_refused_leaves_the_rules_before_it_and_says_why(
    url: str, path: Path, bad: bytes, told: str
) -> None:
    source = started(url, path)
    before, good = source.rules, path.read_bytes()
    path.write_bytes(bad)
    for _ in range(3):  # the state does not get lost while the file stays as it is
        source.refresh()
        state = source.rules_state
        assert state is not None
        assert state["state"] == "refused"
        assert any(part in state["detail"] for part in told.split("|")), state
        assert "\n" not in state["detail"]
        assert source.rules is before
        assert (judged(source).rules, judged(source).degraded) == (("mine",), ())
    path.write_bytes(good)
    source.refresh()
    assert source.rules_state == {"state": "ok"}


def test_a_file_that_disappears_leaves_its_rules(url: str, path: Path) -> None:
    source = started(url, path)
    path.unlink()
    source.refresh()
    assert source.rules_state == {"state": "missing", "detail": "There is no 'current.yaml' here."}
    assert (judged(source).rules, judged(source).degraded) == (("mine",), ())
    path.write_bytes(text())
    source.refresh()
    assert source.rules_state == {"state": "ok"}


def test_a_refused_file_that_disappears_and_comes_back_is_refused_again(url: str, path: Path) -> None:
    source = started(url, path)
    path.write_bytes(text(BROKEN))
    source.refresh()
    path.rename(path.with_suffix(".away"))
    source.refresh()
    assert (source.rules_state or {})["state"] == "missing"
    path.with_suffix(".away").rename(path)
    source.refresh()
    assert (source.rules_state or {})["state"] == "refused"


@pytest.mark.parametrize("how", ["missing", "refused", "a folder", "no such scheme"])
def test_where_no_file_was_ever_fit_the_bundles_rules_stand_in_and_every_answer_says_so(
    url: str, path: Path, how: str
) -> None:
    if how == "missing":
        path.unlink()
    elif how == "refused":
        path.write_bytes(text(BROKEN))
    elif how == "a folder":
        path.unlink()
        path.mkdir()
    address = "mysql://nowhere/rules" if how == "no such scheme" else f"file://{path}"
    source = ModelSource(url, lambda: TRUSTED, rules_url=address)
    for _ in range(2):
        source.refresh()
        assert source.trouble is None
        assert (source.rules_state or {})["state"] in {"missing", "refused", "unreachable"}
        decision = judged(source, amount=2_000_000)
        assert (decision.rules, decision.degraded) == (("very-large",), ("rules",))
        assert decision.fraud_probability is not None
    batch = FraudScorer(source).answer_many([{"amount": 1}] * 2)
    assert [item.decision.degraded for item in batch if isinstance(item, Answer)] == [("rules",)] * 2


def test_without_bundle_and_file_the_images_rules_stand_in(tmp_path: Path) -> None:
    source = started(f"file://{tmp_path}/nothing/current", tmp_path / "nothing.yaml")
    decision = judged(source, amount=9_000)
    assert (decision.rules, decision.degraded) == (("very_large_amount",), ("model", "rules"))
    assert not default_rules().stand_in  # which is shared by all
    assert not ModelSource(f"file://{tmp_path}/nothing/current", dict).rules.stand_in


def test_a_file_that_comes_later_ends_the_stand_in(url: str, path: Path) -> None:
    path.unlink()
    source = started(url, path)
    path.write_bytes(text())
    source.refresh()
    assert (judged(source).rules, judged(source).degraded) == (("mine",), ())


def test_a_fault_of_ours_in_loading_takes_neither_rules_nor_bundle_away(
    url: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("SECRET")

    with monkeypatch.context() as broken:
        broken.setattr(FileStore, "read_changed", fail)
        source = started(url, path)
        assert (source.rules_state or {})["detail"] == "The rules file cannot be read (ZeroDivisionError)."
        assert judged(source).degraded == ("rules",)
    source.refresh()
    path.write_bytes(text("amount > 7"))
    load = rules.load_rules
    with monkeypatch.context() as broken:
        broken.setattr(reload, "load_rules", lambda data, columns: fail() if b"> 7" in data else load(data, columns))
        source.refresh()
    assert (source.rules_state or {})["detail"] == "The rules file cannot be loaded (ZeroDivisionError)."
    assert (judged(source).rules, judged(source).degraded) == (("mine",), ())


# --- the bundle changes ----------------------------------------------------------------------------------------------

#: A bundle with a column of its own.
DECLARED: dict[str, Any] = {
    "attributes": [{"name": "channel", "kind": "text", "levels": ["web"]}],
    "population": dict.fromkeys([*NAMES, "attributes.channel=web"], 0.0),
}


def test_a_new_bundle_gets_the_files_rules_for_its_own_columns(url: str, path: Path, tmp_path: Path) -> None:
    path.write_bytes(text("amount > 5 && attributes.channel == 'web'"))
    source = started(url, path)
    assert source.rules.columns == NAMES
    publish_small(tmp_path, "v2", **DECLARED)
    source.refresh()
    assert source.served is not None
    assert source.served.version == "v2"
    assert source.rules.columns == source.served.model.features.columns != NAMES
    assert judged(source, attributes={"channel": "web"}).rules == ("mine",)
    assert source.rules_state == {"state": "ok"}


def test_a_first_bundle_gets_the_rules_that_decided_before_it(tmp_path: Path, path: Path) -> None:
    source = started(f"file://{tmp_path}/current", path)
    assert judged(source).degraded == ("model",)
    publish_small(tmp_path, "v1", **DECLARED)
    source.refresh()
    assert (judged(source).rules, judged(source).degraded) == (("mine",), ())


def test_a_rule_that_the_new_columns_do_not_have_puts_the_new_bundles_rules_in_charge() -> None:
    """No bundle can lose a column today (they hold all that the code computes); the check is for when one can."""
    file = RulesSource("file://rules/current.yaml")
    some = ("amount", "hour_of_day")
    first = file.take(text("amount > 5"), some)
    assert first is not None
    assert file.take(None, ("hour_of_day",)) is None
    assert file.trouble is not None
    assert file.trouble.detail.startswith("Rule 'mine', line 1, column 1: undeclared reference to 'amount'")
    again = file.take(None, some)
    assert again is not None
    assert again.version == first.version
    assert not file.trouble


def test_a_file_that_was_refused_is_tried_again_for_other_columns() -> None:
    file = RulesSource("file://rules/current.yaml")
    assert file.take(text("amount > 5"), ("hour_of_day",)) is None
    assert file.take(None, ("hour_of_day",)) is None
    assert file.trouble is not None
    found = file.take(None, ("amount",))
    assert found is not None
    assert file.trouble is None


def test_new_text_and_new_columns_at_once_are_both_taken() -> None:
    file = RulesSource("file://rules/current.yaml")
    file.take(text("amount > 5"), ("amount",))
    found = file.take(text("hour_of_day > 5"), ("hour_of_day",))
    assert found is not None
    assert found.columns == ("hour_of_day",)
    assert file.trouble is None


def test_a_bundle_that_is_refused_does_not_hold_up_new_rules(url: str, path: Path, tmp_path: Path) -> None:
    source = started(url, path)
    (tmp_path / "current").write_text("{}")
    path.write_bytes(text("amount > 50"))
    source.refresh()
    assert source.trouble is not None
    assert source.served is not None
    assert (source.served.version, judged(source).rules) == ("v1", ())


def test_rules_that_are_refused_do_not_hold_up_a_new_bundle(url: str, path: Path, tmp_path: Path) -> None:
    source = started(url, path)
    path.write_bytes(text(BROKEN))
    publish_small(tmp_path, "v2")
    source.refresh()
    assert source.served is not None
    assert (source.served.version, judged(source).rules) == ("v2", ("mine",))
    assert (source.rules_state or {})["state"] == "refused"


def test_requests_see_one_bundle_and_its_rules_while_both_change(url: str, path: Path, tmp_path: Path) -> None:
    source = started(url, path)
    for number in range(2, 6):
        more = DECLARED if number % 2 else {}
        seal_small(tmp_path, f"v{number}", **more)
    stop = threading.Event()
    wrong: list[object] = []

    def read() -> None:
        while not stop.is_set():
            served, rules = source.current()
            if served is None or rules.columns != served.model.features.columns or rules.stand_in:
                wrong.append(rules.version)

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        for number in range(2, 6):
            bundles.publish(tmp_path / f"v{number}", url, KEY, TRUSTED)
            path.write_bytes(text(f"amount > {number}"))
            source.refresh()
        stop.set()
        for reader in readers:
            reader.result(30)
    assert not wrong
    assert source.rules.rules[0].expression == "amount > 5"


def test_both_are_waited_for_at_the_same_time(url: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = threading.Barrier(2, timeout=30)
    read, look = RulesSource.read, ModelSource._look
    monkeypatch.setattr(RulesSource, "read", lambda self: (both.wait(), read(self))[1])
    monkeypatch.setattr(ModelSource, "_look", lambda self, keys: (both.wait(), look(self, keys))[1])
    source = started(url, path)
    assert ids(source) == ["mine"]


# --- S3 --------------------------------------------------------------------------------------------------------------


def put(name: str, data: bytes) -> None:
    ObjectStore("models", "").write(name, data)


def test_rules_in_s3_are_read_conditionally_changed_refused_and_lost(aws: str, url: str, clock: Clock) -> None:
    source = ModelSource(url, lambda: TRUSTED, rules_url="s3://models/rules/current.yaml", monotonic=clock)
    source.refresh()
    assert source.rules_state == {"state": "missing", "detail": "There is no 'current.yaml' in the bucket."}
    assert judged(source, amount=2_000_000).degraded == ("rules",)
    put("rules/current.yaml", text())
    source.refresh()
    assert (source.rules_state, judged(source).rules) == ({"state": "ok"}, ("mine",))
    before = source.rules
    source.refresh()
    assert source.rules is before
    put("rules/current.yaml", text(BROKEN))
    source.refresh()
    assert (source.rules_state or {})["detail"].startswith("Rule 'mine', line 1, column 13")
    assert source.rules is before
    put("rules/current.yaml", text("amount > 50"))
    source.refresh()
    assert (source.rules_state, judged(source).rules) == ({"state": "ok"}, ())


def test_an_object_that_has_not_changed_is_not_sent_again(aws: str) -> None:
    store = ObjectStore("models", "rules")
    store.write("a.yaml", b"one")
    first = store.read_changed("a.yaml", "")
    assert first is not None
    data, token = first
    assert (data, bool(token)) == (b"one", True)
    assert store.read_changed("a.yaml", token) is None
    store.write("a.yaml", b"two")
    again = store.read_changed("a.yaml", token)
    assert again is not None
    assert again[0] == b"two"
    with pytest.raises(BundleMissing):
        store.read_changed("b.yaml", token)


def test_a_file_that_has_not_changed_is_told_by_its_contents(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    store.write("a.yaml", b"one")
    first = store.read_changed("a.yaml", "")
    assert first is not None
    store.write("a.yaml", b"one")
    assert store.read_changed("a.yaml", first[1]) is None
    with pytest.raises(BundleMissing):
        store.read_changed("b.yaml", first[1])


def test_a_bucket_that_refuses_us_leaves_the_rules_and_says_permission(
    aws: str, url: str, refuse_all: Callable[[], None]
) -> None:
    put("rules/current.yaml", text())
    source = ModelSource(url, lambda: TRUSTED, rules_url="s3://models/rules/current.yaml")
    source.refresh()
    refuse_all()
    source.refresh()
    state = source.rules_state
    assert state is not None
    assert state["state"] == BundleUnreachable.state
    assert "permission" in state["detail"]
    assert judged(source).rules == ("mine",)


# --- settings, HTTP, Lambda ------------------------------------------------------------------------------------------


def test_the_setting_takes_file_and_s3_and_nothing_else() -> None:
    assert read_settings({}).rules_url is None
    assert read_settings({"FRAUD_RULES_URL": ""}).rules_url is None
    assert read_settings({"FRAUD_RULES_URL": "s3://b/rules/x.yaml"}).rules_url == "s3://b/rules/x.yaml"
    with pytest.raises(SettingsError, match=r"Unknown rules scheme 'https'\. Choices are: file, s3\."):
        read_settings({"FRAUD_RULES_URL": "https://example.org/rules.yaml"})


def test_ready_tells_of_the_rules_with_rule_and_position_and_stays_ready(url: str, path: Path) -> None:
    source = started(url, path)
    client = Client(create_app(FraudScorer(source)))
    assert client.get("/ready").json()["rules"] == {"state": "ok"}
    path.write_bytes(text(BROKEN))
    source.refresh()
    answer = client.get("/ready")
    assert answer.status_code == 200
    assert answer.json()["rules"]["state"] == "refused"
    assert answer.json()["rules"]["detail"].startswith("Rule 'mine', line 1, column 13: ")
    assert str(path.parent) not in answer.text


def test_ready_without_a_bundle_tells_of_the_rules_too(tmp_path: Path) -> None:
    client = Client(create_app(FraudScorer(started(f"file://{tmp_path}/no/current", tmp_path / "rules.yaml"))))
    answer = client.get("/ready")
    assert answer.status_code == 503
    assert answer.json()["rules"]["state"] == "missing"


def test_model_tells_the_rules_in_force_their_dates_and_how_long_the_lists_are(url: str, path: Path) -> None:
    rule = {"id": "mine", "expression": "true", "outcome": "review", "until": "2026-03-01T01:00:00+01:00"}
    lists = {"deny": [{"entity": "customer", "ids": ["SECRET1", "SECRET2"]}]}
    path.write_bytes(json.dumps({"rules": [rule], "lists": lists}).encode())
    source = started(url, path)
    answer = Client(create_app(FraudScorer(source))).get("/model")
    body = answer.json()
    assert body["rules"] == [
        {**rule, "reason": "Rule mine.", "enabled": True, "from": None, "until": "2026-03-01T00:00:00.000Z"}
    ]
    assert body["lists"] == {"deny": 2, "allow": 0, "snooze": 0}
    assert body["degraded"] == []
    assert "SECRET" not in answer.text


def test_model_says_when_its_rules_are_a_stand_in(url: str, tmp_path: Path) -> None:
    source = started(url, tmp_path / "none.yaml")
    assert Client(create_app(FraudScorer(source))).get("/model").json()["degraded"] == ["rules"]


def test_the_application_is_built_with_the_rules_of_the_setting(url: str, path: Path) -> None:
    settings = Settings(
        model_url=url,
        model_public_keys=KEY.public_line(),
        rules_url=f"file://{path}",
        feature_store_url="memory://",
    )
    answer = Client(build(settings)).post("/predict", json={"amount": 10})
    assert answer.json()["rules"] == ["mine"]


def test_a_refusal_is_logged_with_rule_and_position(url: str, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.write_bytes(text(BROKEN))
    logging.getLogger("fraud").addHandler(caplog.handler)
    try:
        started(url, path)
    finally:
        logging.getLogger("fraud").removeHandler(caplog.handler)
    record = next(record for record in caplog.records if record.message == "rules not refreshed")
    assert record.__dict__["state"] == "refused"
    assert "Rule 'mine', line 1, column 13" in record.__dict__["detail"]
