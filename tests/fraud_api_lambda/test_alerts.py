"""Webhooks against real HTTP servers: what is told, how it is signed, and what becomes of it when nobody listens."""

import base64
import datetime
import email.utils
import json
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook

from fraud_api_lambda import alerts as alerts_module
from fraud_api_lambda.alerts import Alerts, Receiver, WebhookSink, parse_webhooks, sign
from fraud_api_lambda.errors import RetryLater, SettingsError
from fraud_api_lambda.outbox import Progress, open_outbox
from fraud_api_lambda.schemas import Degraded
from fraud_api_lambda.settings import Outcome
from tests.servers import certificate, free_port

SECRET = "whsec_" + base64.b64encode(b"a secret of 32 bytes, no more xx").decode()
OTHER_SECRET = "whsec_" + base64.b64encode(b"another secret of twenty-four").decode()
NOW = 1_770_000_000_000
ANSWER = b'{"transaction_id":"order-1001","fraud_probability":0.9312345678901234,"outcome":"decline"}'


@dataclass
class Decided:
    transaction_id: str = "order-1001"
    outcome: Outcome = "decline"
    test: bool = False
    degraded: tuple[Degraded, ...] = ()


@dataclass
class Inbox:
    """A receiver: what came in, and the answer that the next requests get."""

    port: int = 0
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    #: What is done before the answer.
    before: Callable[["Handler"], None] = lambda _: None
    paths: list[str] = field(default_factory=list)
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    def url(self, scheme: str = "http") -> str:
        return f"{scheme}://127.0.0.1:{self.port}/hook?tenant=7"

    @property
    def ids(self) -> list[str]:
        return [headers["webhook-id"] for headers, _ in self.got]


class Handler(BaseHTTPRequestHandler):
    inbox: Inbox

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.inbox.paths.append(self.path)
        self.inbox.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
        self.inbox.before(self)
        self.send_response(self.inbox.status)
        for name, value in self.inbox.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def do_GET(self) -> None:
        self.inbox.paths.append(f"GET {self.path}")
        self.send_error(404)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # those who hang up in the middle are part of the tests


@pytest.fixture
def serve() -> Iterator[Callable[..., Inbox]]:
    servers = []

    def start(context: ssl.SSLContext | None = None) -> Inbox:
        inbox = Inbox()
        server = Server(("127.0.0.1", 0), type("ItsHandler", (Handler,), {"inbox": inbox}))
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        inbox.port = server.server_port
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        servers.append(server)
        return inbox

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def inbox(serve: Callable[..., Inbox]) -> Inbox:
    return serve()


def receivers(*inboxes: Inbox, secret: str = SECRET) -> tuple[Receiver, ...]:
    return parse_webhooks(" ".join(f"{inbox.url()}#{secret}" for inbox in inboxes))


def items(to: tuple[Receiver, ...], *decisions: Decided) -> list[bytes]:
    alerts = Alerts(to, clock=lambda: NOW)
    return [data for decision in decisions for _, data in alerts.notices(decision, ANSWER)]


def body_of(data: bytes) -> Any:
    return json.loads(data.partition(b"\n")[2])


def deliver(sink: WebhookSink, data: bytes, seconds: float = 30) -> None:
    """As the outbox does, only sooner."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return sink(data)
        except RetryLater as later:
            if later.tried or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


# --- the setting -----------------------------------------------------------------------------------------------------


def test_items_are_addresses_with_secrets() -> None:
    one, two = parse_webhooks(f" https://a.example/x?y=1#{SECRET}\nhttp://localhost:8080/#{OTHER_SECRET} ")
    assert (one.url, two.url) == ("https://a.example/x?y=1", "http://localhost:8080/")
    assert one.secrets == (b"a secret of 32 bytes, no more xx",)
    assert one.id != two.id
    assert parse_webhooks("") == ()
    for local in ("127.0.0.1", "127.9.9.9:99", "[::1]:80"):
        assert len(parse_webhooks(f"http://{local}/#{SECRET}")) == 1


@pytest.mark.parametrize(
    ("item", "said"),
    [
        (f"ftp://swordfish.example/#{SECRET}", "must begin with https://host/path"),
        (f"swordfish#{SECRET}", "must begin with https://host/path"),
        (f"https://#{SECRET}", "must begin with https://host/path"),
        (f"https://swordfish:99999999/#{SECRET}", "must begin with https://host/path"),
        (f"https://[swordfish/#{SECRET}", "must begin with https://host/path"),
        (f"https://swordfïsh.example/#{SECRET}", "must begin with https://host/path"),
        (f"http://swordfish.example/#{SECRET}", "http:// is for this machine only"),
        (f"http://127.0.0.1.swordfish.example/#{SECRET}", "http:// is for this machine only"),
        (f"http://10.0.0.1/swordfish#{SECRET}", "http:// is for this machine only"),
        (f"https://user:swordfish@a.example/#{SECRET}", "must not hold a user name"),
        (f"https://swordfish@a.example/#{SECRET}", "must not hold a user name"),
        ("https://swordfish.example/", "must end in # and a secret"),
        ("https://swordfish.example/#whsec_", "must end in # and a secret"),
        ("https://a.example/#whsec_swordfish", "must end in # and a secret"),
        ("https://a.example/#whsec_" + base64.b64encode(b"swordfish").decode(), "24 to 64 bytes"),
        ("https://a.example/#whsec_" + base64.b64encode(b"swordfish" * 8).decode(), "24 to 64 bytes"),
        ("https://a.example/#" + SECRET.removeprefix("whsec_"), "must end in # and a secret"),
    ],
)
def test_a_wrong_item_is_told_by_its_number_and_never_shown(item: str, said: str) -> None:
    with pytest.raises(SettingsError, match=f"Item 2 of FRAUD_WEBHOOKS .*{said}") as refused:
        parse_webhooks(f"https://good.example/#{SECRET} {item}")
    for secret in ("swordfish", "whsec_" + "A", "good.example", SECRET[6:]):
        assert secret not in str(refused.value)


def test_a_receiver_shows_neither_address_nor_secret() -> None:
    (receiver,) = parse_webhooks(f"https://a.example/swordfish#{SECRET}")
    for text in (repr(receiver), str(receiver), receiver.id):
        assert "example" not in text
        assert "secret of" not in text


# --- what is told ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", ["review", "decline"])
def test_what_is_not_approved_is_told_with_the_answer_as_it_was_replied(inbox: Inbox, outcome: Outcome) -> None:
    (data,) = items(receivers(inbox), Decided(outcome=outcome))
    assert ANSWER in data
    assert body_of(data) == {
        "type": f"decision.{outcome}",
        "timestamp": "2026-02-02T02:40:00.000Z",
        "data": json.loads(ANSWER),
    }


def test_what_is_approved_is_not_told_and_without_receivers_nothing_is(inbox: Inbox) -> None:
    assert items(receivers(inbox), Decided(outcome="approve")) == []
    assert items((), Decided(), Decided(degraded=("model",))) == []


def test_each_receiver_has_an_item_of_its_own_and_a_decision_one_id(serve: Callable[..., Inbox]) -> None:
    to = receivers(serve(), serve())
    first = Alerts(to, clock=lambda: NOW).notices(Decided(), ANSWER)
    again = Alerts(to, clock=lambda: NOW + 5_000).notices(Decided(), ANSWER)
    other = Alerts(to).notices(Decided("order-1002"), ANSWER)
    assert [key for key, _ in first] == [key for key, _ in again]
    assert len({key for key, _ in [*first, *other]}) == 4
    assert len({data.split()[0] for _, data in [*first, *again]}) == 1
    assert not [key for key, _ in first if "order-1001" in key or "127.0.0.1" in key]


def test_that_the_service_is_degraded_is_told_once_a_minute_and_kind() -> None:
    to = parse_webhooks(f"https://a.example/#{SECRET}")
    now = NOW
    alerts = Alerts(to, clock=lambda: now)

    def told(*degraded: Degraded, test: bool = False) -> list[str]:
        decided = Decided(outcome="approve", degraded=degraded, test=test)
        bodies = [body_of(data) for _, data in alerts.notices(decided, ANSWER)]
        assert all(body["type"] == "service.degraded" for body in bodies)
        return [body["data"]["degraded"] for body in bodies]

    assert told("model", test=True) == []
    assert told("model", "feature_store") == ["model", "feature_store"]
    now += 10_000
    assert told("model", "rules") == ["rules"]
    now += 60_000
    assert told("model") == ["model"]
    now += 10_000
    assert told("model") == []


def test_processes_that_tell_of_one_minute_tell_the_same(inbox: Inbox) -> None:
    to = receivers(inbox)
    degraded = Decided(outcome="approve", degraded=("decision_log",))
    minute = NOW - NOW % 60_000
    one = Alerts(to, clock=lambda: minute).notices(degraded, ANSWER)
    two = Alerts(to, clock=lambda: minute + 59_999).notices(degraded, b'{"another":1}')
    later = Alerts(to, clock=lambda: minute + 60_000).notices(degraded, ANSWER)
    assert one == two
    assert one[0][0] != later[0][0]


# --- signatures ------------------------------------------------------------------------------------------------------


def test_a_receiver_verifies_with_the_library_of_the_specification(inbox: Inbox) -> None:
    to = receivers(inbox)
    (data,) = items(to, Decided())
    WebhookSink(to)(data)
    ((headers, body),) = inbox.got
    assert Webhook(SECRET).verify(body, headers)["data"] == json.loads(ANSWER)
    assert inbox.paths == ["/hook?tenant=7"]
    assert headers["content-type"] == "application/json"
    assert SECRET[6:] not in str(headers)
    for changed in (body + b" ", body.replace(b"0.93", b"0.03")):
        with pytest.raises(Exception, match="signature"):
            Webhook(SECRET).verify(changed, headers)
    with pytest.raises(Exception, match="signature"):
        Webhook(OTHER_SECRET).verify(body, headers)
    with pytest.raises(Exception, match="signature"):
        Webhook(SECRET).verify(body, {**headers, "webhook-id": "msg_another"})


def test_the_documents_verification_takes_our_messages_and_no_others(inbox: Inbox) -> None:
    guide = (Path(__file__).resolve().parents[2] / "docs" / "alerts.md").read_text()
    (example,) = re.findall(r"^```python\n(import base64.*?)^```", guide, flags=re.M | re.S)
    told: dict[str, Any] = {}
    exec(example, told)
    verify = told["verify"]
    to = parse_webhooks(f"{inbox.url()}#{SECRET} {inbox.url()}#{OTHER_SECRET}")
    WebhookSink(to)(items(to, Decided())[0])
    ((headers, body),) = inbox.got
    assert verify(SECRET, headers, body)
    assert verify(OTHER_SECRET, headers, body)
    assert not verify("whsec_" + base64.b64encode(b"x" * 32).decode(), headers, body)
    assert not verify(SECRET, headers, body + b" ")
    assert not verify(SECRET, {**headers, "webhook-id": "msg_another"}, body)
    assert not verify(SECRET, {**headers, "webhook-timestamp": "1770000000"}, body)


def test_the_signature_is_the_one_of_the_specifications_example() -> None:
    # github.com/standard-webhooks/standard-webhooks, spec/standard-webhooks.md
    secret = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signed = b'msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.{"test": 2432232314}'
    assert sign(secret, signed) == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_secret_is_changed_without_a_gap_by_listing_the_address_twice(inbox: Inbox) -> None:
    to = parse_webhooks(f"{inbox.url()}#{SECRET} {inbox.url()}#{OTHER_SECRET}")
    assert len(to) == 1
    (data,) = items(receivers(inbox), Decided())  # put when there was one secret only
    WebhookSink(to)(data)
    ((headers, body),) = inbox.got
    for secret in (SECRET, OTHER_SECRET):
        assert Webhook(secret).verify(body, headers)


def test_a_message_is_signed_anew_when_it_is_sent_again(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts_module, "_PAUSE_S", 0.0)
    to = receivers(inbox)
    (data,) = items(to, Decided())
    sink = WebhookSink(to)
    inbox.status = 500
    with pytest.raises(RetryLater):
        sink(data)
    time.sleep(1.1)
    inbox.status = 204
    sink(data)
    (first, body), (second, again) = inbox.got
    assert (first["webhook-id"], body) == (second["webhook-id"], again)
    assert first["webhook-timestamp"] < second["webhook-timestamp"]
    assert Webhook(SECRET).verify(again, second)


# --- what becomes of it ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_what_may_be_otherwise_next_time_is_sent_again(inbox: Inbox, status: int) -> None:
    to = receivers(inbox)
    (data,) = items(to, Decided())
    inbox.status = status
    with pytest.raises(RetryLater) as later:
        WebhookSink(to)(data)
    assert later.value.tried
    assert str(inbox.port) not in str(later.value)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 422, 301, 304])
def test_what_will_not_be_otherwise_is_a_dead_letter(inbox: Inbox, status: int) -> None:
    to = receivers(inbox)
    (data,) = items(to, Decided())
    inbox.status = status
    with pytest.raises(ValueError, match=str(status)) as dead:
        WebhookSink(to)(data)
    assert str(inbox.port) not in str(dead.value)


def test_no_redirect_is_followed(inbox: Inbox, serve: Callable[..., Inbox]) -> None:
    elsewhere = serve()
    inbox.headers = {"Location": elsewhere.url()}
    to = receivers(inbox)
    for status in (301, 302, 303, 307, 308):
        inbox.status = status
        with pytest.raises(ValueError):
            WebhookSink(to)(items(to, Decided())[0])
    assert len(inbox.got) == 5
    assert elsewhere.paths == []


def test_no_proxy_of_the_environment_is_used(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        for spelled in (name, name.upper()):
            monkeypatch.setenv(spelled, f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    to = receivers(inbox)
    WebhookSink(to)(items(to, Decided())[0])
    assert len(inbox.got) == 1


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [
        ("120", 120, 120),
        ("999999", 3600, 3600),
        ("0", 0, 0),
        ("-5", 0, 0),
        ("soon", 0, 0),
        ("1" * 500, 0, 0),
        ("in ten minutes", 500, 600),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0, 0),
    ],
    ids=["seconds", "too many", "none", "negative", "a word", "too long", "a date", "a date long gone"],
)
def test_retry_after_is_heeded_within_bounds(inbox: Inbox, header: str, least: float, most: float) -> None:
    if header == "in ten minutes":
        header = email.utils.format_datetime(datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=600))
    to = receivers(inbox)
    inbox.status, inbox.headers = 503, {"Retry-After": header}
    with pytest.raises(RetryLater) as later:
        WebhookSink(to)(items(to, Decided())[0])
    assert least <= later.value.seconds <= most


def test_a_receiver_that_is_down_is_left_alone_and_the_other_is_not(serve: Callable[..., Inbox]) -> None:
    down, up = serve(), serve()
    down.status = 500
    to = receivers(down, up)
    sink = WebhookSink(to)
    for number in range(5):
        to_down, to_up = items(to, Decided(f"order-{number}"))
        with pytest.raises(RetryLater) as later:
            sink(to_down)
        assert later.value.tried == (number == 0)
        sink(to_up)
    assert (len(down.got), len(up.got)) == (1, 5)


def test_a_receiver_is_asked_less_and_less_often_until_it_takes_one(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alerts_module, "_PAUSE_S", 0.05)
    to = receivers(inbox)
    sink = WebhookSink(to)
    (data,) = items(to, Decided())
    inbox.status = 500
    begun = time.monotonic()
    for _ in range(4):
        with pytest.raises(RetryLater):
            deliver(sink, data)
    assert time.monotonic() - begun >= 0.05 + 0.1 + 0.2
    inbox.status = 200
    deliver(sink, data)
    sink(data)  # no pause after a success
    assert len(inbox.got) == 6


def test_nobody_there_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts_module, "_PAUSE_S", 0.0)
    to = parse_webhooks(f"http://127.0.0.1:{free_port()}/#{SECRET} http://localhost:{free_port()}/#{SECRET}")
    sink = WebhookSink(to)
    for data in items(to, Decided()):
        with pytest.raises(RetryLater, match="no answer") as later:
            deliver(sink, data)
        assert later.value.tried


def test_a_slow_receiver_holds_up_nobody_and_its_answer_counts(serve: Callable[..., Inbox]) -> None:
    slow, fast = serve(), serve()
    slow.before = lambda _: time.sleep(1.6)
    to = receivers(slow, fast)
    sink = WebhookSink(to)
    to_slow, to_fast = items(to, Decided())
    another, _ = items(to, Decided("order-1002"))
    for data in (to_slow, another):
        with pytest.raises(RetryLater) as later:
            sink(data)
        assert not later.value.tried
    sink(to_fast)
    time.sleep(1.5)
    # The answer has come. It is kept for its item, not spent on another.
    with pytest.raises(RetryLater):
        sink(another)
    sink(to_slow)
    deliver(sink, another)
    assert len(slow.got) == 2
    assert len(set(slow.ids)) == 2


def test_with_patience_a_slow_receiver_is_waited_for(inbox: Inbox) -> None:
    inbox.before = lambda _: time.sleep(1.6)
    to = receivers(inbox)
    WebhookSink(to, patience_s=alerts_module.WHOLE_S)(items(to, Decided())[0])
    assert len(inbox.got) == 1


def test_a_receiver_that_hangs_counts_as_no_answer_and_is_tried_again(inbox: Inbox) -> None:
    go = threading.Event()
    inbox.before = lambda _: assert_set(go)
    to = receivers(inbox)
    sink = WebhookSink(to)
    (data,) = items(to, Decided())
    begun = time.monotonic()
    with pytest.raises(RetryLater, match="no answer") as later:
        deliver(sink, data)
    assert later.value.tried
    assert time.monotonic() - begun >= 4.5
    go.set()
    inbox.before = lambda _: None
    deliver(sink, data)
    assert len(inbox.got) == 2


def test_an_answer_that_trickles_in_is_given_up_and_never_more_than_a_few(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alerts_module, "WHOLE_S", 1.2)
    monkeypatch.setattr(alerts_module, "_PAUSE_S", 0.0)
    over = threading.Event()

    def trickle(handler: Handler) -> None:
        while not over.is_set():
            handler.wfile.write(b"H" if not over.is_set() else b"")
            handler.wfile.flush()
            over.wait(0.3)

    inbox.before = trickle
    to = receivers(inbox)
    sink = WebhookSink(to)
    try:
        for number in range(3):
            with pytest.raises(RetryLater, match="no answer"):
                deliver(sink, items(to, Decided(f"order-{number}"))[0])
        with pytest.raises(RetryLater, match="still answers others") as later:
            sink(items(to, Decided())[0])
        assert not later.value.tried
        assert len(inbox.got) == 3
    finally:
        over.set()


def assert_set(event: threading.Event) -> None:
    assert event.wait(60)


def test_an_answer_without_end_is_not_read(inbox: Inbox) -> None:
    def forever(handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(b"x" * 100_000)
        time.sleep(3)

    inbox.before = forever
    to = receivers(inbox)
    WebhookSink(to)(items(to, Decided())[0])


@pytest.mark.parametrize("data", [b"", b"nothing", b"\xff\xfe\n{}", b"msg_1 0123456789abcdef\n{}"])
def test_what_is_for_nobody_that_is_configured_is_a_dead_letter(inbox: Inbox, data: bytes) -> None:
    with pytest.raises(ValueError):
        WebhookSink(receivers(inbox))(data)
    assert inbox.got == []


# --- TLS -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("issued_for", "trusted", "taken"),
    [
        ("127.0.0.1", True, True),
        ("127.0.0.1", False, False),
        ("127.0.0.2", True, False),
    ],
)
def test_a_certificate_must_be_trusted_and_be_the_receivers(
    serve: Callable[..., Inbox],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    issued_for: str,
    trusted: bool,
    taken: bool,
) -> None:
    pem, key = certificate(tmp_path, issued_for)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, key)
    inbox = serve(context)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    to = parse_webhooks(f"{inbox.url('https')}#{SECRET}")
    sink = WebhookSink(to)
    (data,) = items(to, Decided())
    if taken:
        deliver(sink, data)
    else:
        with pytest.raises(RetryLater, match="no answer"):
            deliver(sink, data)
    assert len(inbox.got) == taken


# --- with the outbox -------------------------------------------------------------------------------------------------


def test_from_the_outbox_each_receiver_gets_each_message_once_and_a_refused_one_is_laid_aside(
    serve: Callable[..., Inbox], tmp_path: Path
) -> None:
    good, gone = serve(), serve()
    gone.status = 410
    to = receivers(good, gone)
    outbox = open_outbox(f"file://{tmp_path}/outbox")
    alerts = Alerts(to)
    for _ in range(2):  # the same decision told twice, as after a crash
        for decision in (Decided("order-1"), Decided("order-2", "review"), Decided("order-3", "approve")):
            for key, data in alerts.notices(decision, ANSWER):
                outbox.put("webhook", key, data)
    assert outbox.drain({"webhook": WebhookSink(to)}, seconds=30) == Progress(2, 2, 0)
    assert len(good.ids) == len(set(good.ids)) == 2
    assert good.ids == gone.ids
    gone.status = 200
    assert outbox.requeue("webhook") == 2  # type: ignore[attr-defined]
    assert outbox.drain({"webhook": WebhookSink(to)}, seconds=30) == Progress(2, 0, 0)
    assert gone.ids == [*good.ids, *good.ids]
    for headers, body in (*good.got, *gone.got):
        assert Webhook(SECRET).verify(body, headers)


def test_one_receiver_down_for_long_keeps_its_own_messages_and_gets_them_all_later(
    serve: Callable[..., Inbox], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alerts_module, "_PAUSE_S", 0.02)
    monkeypatch.setattr(alerts_module, "_LONGEST_PAUSE_S", 0.1)
    good, bad = serve(), serve()
    bad.status = 503
    to = receivers(bad, good)
    sink = WebhookSink(to)
    outbox = open_outbox(f"file://{tmp_path}/outbox")
    for number in range(20):
        for key, data in Alerts(to).notices(Decided(f"order-{number}"), ANSWER):
            outbox.put("webhook", key, data)
    outbox.drain({"webhook": sink}, seconds=30)
    assert len(good.got) == 20
    assert outbox.waiting()["webhook"] == 20
    bad.status = 200
    # The ones that were tried are due in seconds; those that were held back at once.
    deadline = time.monotonic() + 60
    while outbox.waiting()["webhook"]:
        assert time.monotonic() < deadline
        outbox.drain({"webhook": sink}, seconds=1)
        time.sleep(0.05)
    assert set(bad.ids) == set(good.ids)
    assert len(good.got) == 20
