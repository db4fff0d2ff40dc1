"""Alerts out: signed webhooks by the Standard Webhooks specification, kept in the outbox until they are delivered.

``Alerts.notices`` says what is to be told of a decision, an item of the outbox for each receiver, so that one that is
down holds back no other. ``WebhookSink`` sends such an item: when a receiver takes it, the item is done; when it does
not now, the item comes again (``RetryLater``); when it never will, it is a dead letter.

A receiver is an address. The secrets that sign for it come from the setting at the time of sending; an address that is
listed with two secrets gets two signatures, which is how a secret is changed without a gap.
"""

import base64
import binascii
import email.utils
import hashlib
import hmac
import ipaddress
import json
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from typing import Final, Protocol
from urllib.parse import urlsplit

import urllib3

from .errors import RetryLater, SettingsError
from .schemas import Degraded, now_ms, rfc3339
from .settings import Outcome

_NAME: Final = "FRAUD_WEBHOOKS"
_PREFIX: Final = "whsec_"
#: Bytes of a secret, as the specification has it.
_KEY_BYTES: Final = range(24, 65)
_MINUTE_MS: Final = 60_000
_TIMEOUT: Final = urllib3.Timeout(connect=2.0, read=5.0)
#: A receiver's answer may trickle in, each piece within the read timeout; after this it counts as none.
WHOLE_S: Final = 10.0
#: What one item may keep the others waiting; a receiver that takes longer answers while others are sent to.
PATIENCE_S: Final = 1.0
#: How long an answer that came later is kept for the item to ask for it.
_KEPT_S: Final = 60.0
#: Requests to one receiver that may trickle on after they were given up.
_MOST_GIVEN_UP: Final = 3
#: A receiver that failed is left alone for so long at first, doubled at each further failure.
_PAUSE_S: Final = 5.0
_LONGEST_PAUSE_S: Final = 60.0
#: What ``Retry-After`` may ask for at most.
_LONGEST_ASKED_S: Final = 3_600.0
#: Answers that may be otherwise next time, besides 5xx.
_PASSING: Final = frozenset({408, 425, 429})


# --- receivers -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Receiver:
    """An address with the secrets that sign for it, none of them shown."""

    url: str = field(repr=False)
    secrets: tuple[bytes, ...] = field(repr=False)

    @property
    def id(self) -> str:
        """What names the address in the outbox: 16 hex digits that do not tell it."""
        return hashlib.sha256(self.url.encode()).hexdigest()[:16]


def parse_webhooks(text: str) -> tuple[Receiver, ...]:
    """``https://host/path#whsec_base64`` items separated by white space; ``http://`` for this machine only.

    Raises ``SettingsError``, which counts the items from one and shows none.
    """
    secrets: dict[str, list[bytes]] = {}
    for number, item in enumerate(text.split(), 1):
        url, _, secret = item.partition("#")
        _check_url(url, f"Item {number} of {_NAME}")
        try:
            key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if not secret.startswith(_PREFIX) or len(key) not in _KEY_BYTES:
            raise SettingsError(
                f"Item {number} of {_NAME} must end in # and a secret: {_PREFIX} and the base64 of 24 to 64 bytes."
            )
        secrets.setdefault(url, []).append(key)
    return tuple(Receiver(url, tuple(keys)) for url, keys in secrets.items())


def _check_url(url: str, what: str) -> None:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or not url.isascii() or not url.isprintable() or parts.scheme not in {"https", "http"}:
        raise SettingsError(f"{what} must begin with https://host/path.")
    if parts.username is not None or parts.password is not None:
        raise SettingsError(f"{what} must not hold a user name or password: the signature says who sends.")
    if parts.scheme == "http" and not _is_this_machine(host):
        raise SettingsError(f"{what} must begin with https://; http:// is for this machine only (127.0.0.1).")


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


# --- what is told ----------------------------------------------------------------------------------------------------


class Judged(Protocol):
    """What a notice is made from: a ``Decision`` and a record of the decision log both have it."""

    @property
    def transaction_id(self) -> str: ...
    @property
    def outcome(self) -> Outcome: ...
    @property
    def test(self) -> bool: ...
    @property
    def degraded(self) -> tuple[Degraded, ...]: ...


class Alerts:
    """What is told to ``receivers``. Safe to call from many threads.

    ``clock`` gives ms of UTC. That the service is degraded is told once a minute and kind of degradation by a process;
    the notices of several processes for one minute are the same and bear the same id.
    """

    def __init__(self, receivers: Sequence[Receiver], *, clock: Callable[[], int] = now_ms) -> None:
        self._receivers = tuple(receivers)
        self._clock = clock
        self._lock = threading.Lock()
        self._told: dict[Degraded, int] = {}

    def notices(self, decision: Judged, answer: bytes) -> list[tuple[str, bytes]]:
        """Items (key, data) of kind ``webhook`` for the outbox; ``answer`` is the decision as replied, JSON.

        ``decision.review`` or ``decision.decline`` for what was not approved, test inputs too, so that a receiver can
        be tried; ``service.degraded`` for a decision that lacked something, test inputs left out.
        """
        if not self._receivers:
            return []
        now = self._clock()
        bodies: list[tuple[str, bytes]] = []
        if decision.outcome != "approve":
            kind = f"decision.{decision.outcome}"
            bodies.append((_id(kind, decision.transaction_id), _body(kind, now, answer)))
        for lacking in () if decision.test else decision.degraded:
            minute = now // _MINUTE_MS
            with self._lock:
                told, self._told[lacking] = self._told.get(lacking), minute
            if told != minute:
                data = json.dumps({"degraded": lacking}, separators=(",", ":")).encode()
                body = _body("service.degraded", minute * _MINUTE_MS, data)
                bodies.append((_id("service.degraded", f"{lacking} {minute}"), body))
        return [
            (f"{message}.{receiver.id}", _pack(message, receiver.id, body))
            for message, body in bodies
            for receiver in self._receivers
        ]


def _id(kind: str, what: str) -> str:
    """The same for the same event, whoever tells it and however often."""
    return f"msg_{hashlib.sha256(f'{kind}\n{what}'.encode()).hexdigest()[:32]}"


def _body(kind: str, time_ms: int, data: bytes) -> bytes:
    # The answer's own bytes: what was replied and what is told differ in nothing.
    return b'{"type":"%s","timestamp":"%s","data":%s}' % (kind.encode(), rfc3339(time_ms).encode(), data)


def _pack(message: str, receiver: str, body: bytes) -> bytes:
    return f"{message} {receiver}\n".encode() + body


# --- sending ---------------------------------------------------------------------------------------------------------


class WebhookSink:
    """Sends what :meth:`Alerts.notices` made; a ``Sink`` of the outbox. Safe to call from many threads.

    A receiver that takes longer than ``patience_s`` is not waited for: its item asks for the answer when it comes
    again, and is sent a second time where another process asks. On Lambda, where nothing goes on between two calls,
    that is to be the whole time.

    2xx: done. 408, 425, 429, 5xx, no answer: ``RetryLater``, after ``Retry-After`` at least where that is given. All
    else, redirects too: ``ValueError``, so a dead letter, as is what is for an address that is no longer configured.
    The certificate is verified; no redirect is followed and no proxy of the environment used.
    """

    def __init__(self, receivers: Sequence[Receiver], *, patience_s: float = PATIENCE_S) -> None:
        # One connection at most to each: they are sent to one by one.
        pool = urllib3.PoolManager(num_pools=max(1, len(receivers)), maxsize=1, timeout=_TIMEOUT, retries=False)
        self._lines = {receiver.id: _Line(receiver, pool, patience_s) for receiver in receivers}

    def __call__(self, data: bytes) -> None:
        head, separator, body = data.partition(b"\n")
        message, _, receiver = head.decode().partition(" ")
        if not separator or receiver not in self._lines:
            raise ValueError("The notice is for an address that is not configured.")
        self._lines[receiver].send(message, body)


class _Sending:
    """One request under way in a thread of its own, which is what bounds it: a socket's timeout bounds each piece."""

    def __init__(self, message: str, request: Callable[[], tuple[int, float]]) -> None:
        self.message = message
        self.begun = time.monotonic()
        self.done = threading.Event()
        #: Status and the seconds asked for; None: no answer.
        self.answer: tuple[int, float] | None = None
        self._request = request
        threading.Thread(target=self._run, name="webhook", daemon=True).start()

    def _run(self) -> None:
        try:
            self.answer = self._request()
        except Exception:  # its text names the address
            self.answer = None
        finally:
            self.done.set()


class _Line:
    """To one receiver: one request at a time, none while it is down."""

    def __init__(self, receiver: Receiver, pool: urllib3.PoolManager, patience_s: float) -> None:
        self._patience_s = patience_s
        self._receiver = receiver
        self._pool = pool
        self._lock = threading.Lock()
        self._sending: _Sending | None = None
        self._given_up: list[_Sending] = []
        self._failures = 0
        self._closed_until = 0.0

    def send(self, message: str, body: bytes) -> None:
        with self._lock:
            sending = self._begin(message, body)
        sending.done.wait(self._patience_s)
        with self._lock:
            if not sending.done.is_set():
                if time.monotonic() - sending.begun < WHOLE_S:
                    raise RetryLater("The receiver has not answered yet.", PATIENCE_S, tried=False)
                self._given_up.append(sending)
            if self._sending is sending:
                self._sending = None
            self._judge(sending.answer)

    def _begin(self, message: str, body: bytes) -> _Sending:
        """The request for this message, begun now or before. Raises ``RetryLater`` while there can be none."""
        now = time.monotonic()
        sending = self._sending
        if sending is not None and sending.message == message:
            return sending
        if sending is not None and now - sending.begun < _KEPT_S:
            raise RetryLater("The receiver has another to answer.", PATIENCE_S, tried=False)
        if now < self._closed_until:
            raise RetryLater("The receiver is left alone for a while.", self._closed_until - now, tried=False)
        if sending is not None:  # its item is no more
            self._given_up.append(sending)
        self._given_up = [old for old in self._given_up if not old.done.is_set()]
        if len(self._given_up) >= _MOST_GIVEN_UP:
            raise RetryLater("The receiver still answers others.", _LONGEST_PAUSE_S, tried=False)
        self._sending = _Sending(message, lambda: self._request(message, body))
        return self._sending

    def _judge(self, answer: tuple[int, float] | None) -> None:
        status, asked_s = answer or (0, 0.0)
        if status == 0 or status in _PASSING or status >= 500:
            pause_s = max(asked_s, min(_PAUSE_S * 2**self._failures, _LONGEST_PAUSE_S))
            self._failures = min(self._failures + 1, 10)
            self._closed_until = time.monotonic() + pause_s
            raise RetryLater(f"The receiver did not take it: {status or 'no answer'}.", asked_s)
        self._failures = 0
        if not 200 <= status < 300:
            raise ValueError(f"The receiver refused it: {status}.")

    def _request(self, message: str, body: bytes) -> tuple[int, float]:
        """Status, and the seconds after which the receiver wants to be asked again."""
        timestamp = str(int(time.time()))
        signed = f"{message}.{timestamp}.".encode() + body
        response = self._pool.request(
            "POST",
            self._receiver.url,
            body=body,
            headers={
                "Content-Type": "application/json",
                "User-Agent": "fraud-detection-api",
                "webhook-id": message,
                "webhook-timestamp": timestamp,
                "webhook-signature": " ".join(sign(secret, signed) for secret in self._receiver.secrets),
            },
            redirect=False,
            retries=False,
            preload_content=False,  # the answer's body is nobody's concern, and may have no end
        )
        response.close()
        return response.status, _seconds(response.headers.get("Retry-After", ""))


def sign(secret: bytes, signed: bytes) -> str:
    return "v1," + base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()


def _seconds(retry_after: str) -> float:
    """``Retry-After``, a number of seconds or a date, within bounds; 0 for anything else."""
    if re.fullmatch(r"\d{1,9}", retry_after, re.ASCII):
        seconds = float(retry_after)
    else:
        try:
            date = email.utils.parsedate_to_datetime(retry_after)
        except ValueError:
            return 0.0
        seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - time.time()
    return min(max(seconds, 0.0), _LONGEST_ASKED_S)
