"""The fraud API over HTTP, and every way in which that can fail as one typed error.

::

    ApiError                 ``message``: what happened, one line · ``mend``: what to do about it, one line
    |-- AddressWrong         the configured address is not an http(s) address
    |-- ApiDown              nobody answers there: refused, no such host, TLS, connection dropped
    |-- ApiSlow              it did not answer in time
    |-- KeyRefused           401 or 403
    |-- TooManyRequests      429
    |-- RequestRefused       the request is wrong (400, 409, 413, 415, 422); ``fields`` names what
    |-- NotServed            503: what was asked for needs a model, or the service is not ready
    |-- ApiFailed            any other answer from 500 up
    `-- NotTheApi            something answers that is not this API: not JSON, a redirect, 404, an unknown shape

Nothing here imports the service or Streamlit. Texts that come from the API (``RequestRefused.fields``,
``Decision.explanation`` ...) may hold parts of a transaction: show them as plain text only.
"""

import ipaddress
import json
import math
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self
from urllib.parse import urlsplit

import httpx

DEFAULT_URL = "http://127.0.0.1:8000"
#: Seconds to open a connection; seconds of silence; seconds for a whole answer. The service's own budget is 250 ms,
#: the rest is for a Lambda that has to start first.
CONNECT_SECONDS = 3.0
SILENCE_SECONDS = 8.0
TOTAL_SECONDS = 12.0
#: No answer that the console reads is near this size.
MAX_ANSWER_BYTES = 4_000_000

Outcome = Literal["approve", "review", "decline"]
_OUTCOMES: tuple[Outcome, ...] = ("approve", "review", "decline")


class ApiError(Exception):
    """Root of the tree. ``str(error)`` is the message; neither line holds a key, a password or a sent value."""

    def __init__(self, message: str, mend: str):
        super().__init__(message)
        self.message = message
        self.mend = mend


class AddressWrong(ApiError):
    pass


class ApiDown(ApiError):
    pass


class ApiSlow(ApiError):
    pass


class KeyRefused(ApiError):
    pass


class TooManyRequests(ApiError):
    pass


class RequestRefused(ApiError):
    """``fields`` is [(field, message), ...] as the API names them; empty when it named none."""

    def __init__(self, message: str, mend: str, fields: tuple[tuple[str, str], ...] = ()):
        super().__init__(message, mend)
        self.fields = fields


class NotServed(ApiError):
    pass


class ApiFailed(ApiError):
    pass


class NotTheApi(ApiError):
    pass


@dataclass(frozen=True, slots=True)
class Address:
    """Where the API is and with which key. ``url`` has no trailing slash and no user name or password."""

    url: str
    key: str | None = None

    def __repr__(self) -> str:
        return f"Address(host={self.host!r}, key={'set' if self.key else None})"

    @property
    def host(self) -> str:
        """Host and port: the only part of the address that is shown."""
        return urlsplit(self.url).netloc

    @property
    def is_local(self) -> bool:
        """True when the host is this machine."""
        name = urlsplit(self.url).hostname or ""
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return name == "localhost" or name.endswith(".localhost")

    @classmethod
    def find(cls, environ: Mapping[str, str], secrets: Mapping[str, object]) -> Self:
        """The first that is set: FRAUD_API_URL, BACKEND_URL (environment, then secrets), else the laptop's address.

        The key is FRAUD_API_KEY from the environment, else from the secrets. Raises :class:`AddressWrong`.
        """
        found = [
            (f"{name}{place}", str(source[name]).strip())
            for source, place in ((environ, ""), (secrets, " in the Streamlit secrets"))
            for name in ("FRAUD_API_URL", "BACKEND_URL")
            if str(source.get(name, "")).strip()
        ]
        name, url = found[0] if found else ("", DEFAULT_URL)
        key = str(environ.get("FRAUD_API_KEY") or secrets.get("FRAUD_API_KEY") or "").strip()
        try:
            parts = urlsplit(url)
            wrong = parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0
        except ValueError:
            wrong = True
        if wrong:
            raise AddressWrong(
                f"{name} is not an address of an API.",
                f"Write it like {DEFAULT_URL} or https://abc.execute-api.eu-west-1.amazonaws.com/Prod.",
            )
        if parts.username is not None or parts.password is not None:
            raise AddressWrong(
                f"{name} holds a user name or a password.",
                "Write the address without it; the key goes in FRAUD_API_KEY.",
            )
        if key and (not key.isascii() or not key.isprintable()):
            raise AddressWrong("FRAUD_API_KEY is not a key.", "Keys are printable ASCII; copy it again.")
        return cls(f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}", key or None)


@dataclass(frozen=True, slots=True)
class Readiness:
    """``GET /ready``. ``ready`` is False when rules alone decide.

    ``detail`` says in the API's words why there is no model, or why the last look for a newer one failed.
    """

    ready: bool
    model: str
    model_version: str | None
    detail: str | None


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule as the service has it: ``expression`` is CEL, ``reason`` a sentence for people."""

    id: str
    expression: str
    outcome: str
    reason: str


@dataclass(frozen=True, slots=True)
class Reason:
    """``contribution`` is in log-odds of the calibrated probability: above zero pushes towards fraud."""

    code: str
    feature: str
    value: float | str | None
    contribution: float
    text: str


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer to one transaction. Probability, thresholds and model version are None when no model is loaded."""

    transaction_id: str
    outcome: Outcome
    fraud_probability: float | None
    decided_by: str
    review_from: float | None
    decline_from: float | None
    rules: tuple[str, ...]
    reasons: tuple[Reason, ...]
    explanation: str
    amount: float
    currency: str
    amount_base: float
    base_currency: str
    model_version: str | None
    rules_version: str
    scored_at: str
    test: bool
    degraded: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Scored:
    """A decision, the answer as it came (``raw``), the seconds the round trip took, and whether it was a replay."""

    decision: Decision
    raw: dict[str, Any]
    seconds: float
    replayed: bool


class FraudApi:
    """One API at one address. Safe to share between threads; holds connections open between calls."""

    def __init__(
        self,
        address: Address,
        *,
        connect_seconds: float = CONNECT_SECONDS,
        silence_seconds: float = SILENCE_SECONDS,
        total_seconds: float = TOTAL_SECONDS,
    ):
        self.address = address
        self._total_seconds = total_seconds
        self._http = httpx.Client(
            base_url=address.url,
            headers={"Accept": "application/json", **({"X-API-Key": address.key} if address.key else {})},
            timeout=httpx.Timeout(silence_seconds, connect=connect_seconds),
            follow_redirects=False,  # a redirect would carry the key elsewhere, and means a wrong address anyway
            trust_env=not address.is_local,  # a company's proxy knows nothing of this machine
        )

    def close(self) -> None:
        self._http.close()

    def ready(self) -> Readiness:
        """How the service is doing. A service without a model is a :class:`Readiness`, not an error."""
        status, answer, _ = self._call("GET", "/ready")
        if isinstance(answer, dict) and isinstance(answer.get("model"), str) and status in (200, 503):
            last_look = answer.get("last_refresh")
            source = last_look if status == 200 and isinstance(last_look, dict) else answer
            version, detail = answer.get("model_version"), source.get("detail")
            return Readiness(
                ready=status == 200,
                model=answer["model"],
                model_version=version if isinstance(version, str) else None,
                detail=detail if isinstance(detail, str) else None,
            )
        raise self._error(status, answer)

    def rules(self) -> dict[str, Rule]:
        """The rules beside the model, by id (``GET /model``). Raises :class:`NotServed` when no model is loaded."""
        status, answer, _ = self._call("GET", "/model")
        if status != 200:
            raise self._error(status, answer)
        try:
            if not isinstance(answer, dict):
                raise TypeError
            rules = [
                Rule(*(_text(item[name]) for name in ("id", "expression", "outcome", "reason")))
                for item in answer["rules"]
            ]
        except (KeyError, TypeError):
            raise _unknown_form(self.address) from None
        return {rule.id: rule for rule in rules}

    def score(self, body: str) -> Scored:
        """``POST /predict?explain=true`` with the JSON text ``body`` exactly as it stands. Raises ApiError."""
        started = time.perf_counter()
        status, answer, headers = self._call("POST", "/predict?explain=true", body)
        if status != 200:
            raise self._error(status, answer)
        return Scored(
            decision=_decision(answer, self.address),
            raw=answer if isinstance(answer, dict) else {},
            seconds=time.perf_counter() - started,
            replayed=headers.get("Idempotent-Replayed", "").lower() == "true",
        )

    def _call(self, method: str, path: str, body: str | None = None) -> tuple[int, object, httpx.Headers]:
        """Status, parsed JSON and headers; never more than MAX_ANSWER_BYTES nor longer than the whole budget."""
        host, total = self.address.host, self._total_seconds
        slow = ApiSlow(
            f"The API at {host} did not answer within {total:g} s.",
            "It may be starting: try again in a moment. If it stays slow, look at the service's log.",
        )
        deadline = time.monotonic() + total
        content = None if body is None else body.encode("utf-8", "replace")
        headers = {} if body is None else {"Content-Type": "application/json"}
        received = bytearray()
        try:
            with self._http.stream(method, path, content=content, headers=headers) as response:
                for chunk in response.iter_bytes():
                    received += chunk
                    if time.monotonic() > deadline:
                        raise slow
                    if len(received) > MAX_ANSWER_BYTES:
                        raise self._not_the_api("sent far more than an answer")
        except (httpx.ReadTimeout, httpx.WriteTimeout, httpx.PoolTimeout):
            raise slow from None
        except httpx.ConnectTimeout:
            raise self._down("No connection could be made in time") from None
        except httpx.ConnectError as error:
            # Told by its kind, never by its text: that may hold an address or a path.
            if _caused_by(error, ssl.SSLError):
                raise ApiDown(
                    f"The API at {host} could not be reached safely (TLS).",
                    "Check http:// against https:// in FRAUD_API_URL, and the certificate's name and date.",
                ) from None
            if _caused_by(error, socket.gaierror):
                raise ApiDown(
                    f"No machine is known by the name in {host}.", "Check the spelling of the host in FRAUD_API_URL."
                ) from None
            raise self._down("Nobody answers") from None
        except httpx.RemoteProtocolError:
            raise self._not_the_api("does not speak HTTP as this API does, or hung up early") from None
        except httpx.TransportError:
            raise self._down("The connection was dropped") from None
        except (httpx.DecodingError, httpx.InvalidURL):
            raise self._not_the_api("sent something unreadable") from None
        try:
            answer: object = json.loads(received, parse_constant=_number)
        except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError too
            answer = None
        return response.status_code, answer, response.headers

    def _error(self, status: int, answer: object) -> ApiError:
        """The typed error for an answer that is not the one hoped for."""
        problem = answer if isinstance(answer, dict) else {}
        host = self.address.host
        if status in (401, 403):
            given = "refused the key" if self.address.key else "wants a key"
            return KeyRefused(
                f"The API at {host} {given} ({status}).",
                "Put the key in FRAUD_API_KEY (environment or Streamlit secrets) and start the console again.",
            )
        if status == 429:
            return TooManyRequests(
                f"The API at {host} is asked too often (429).",
                "Wait a moment, then try again; the usage plan sets how often.",
            )
        if 300 <= status < 400:
            return self._not_the_api("redirects elsewhere")
        if status in (404, 405):
            return self._not_the_api(f"does not know this route ({status})")
        is_problem = isinstance(problem.get("title"), str)
        if status == 503 and is_problem:
            detail = problem.get("detail")
            return NotServed(
                detail if isinstance(detail, str) and detail else "The API is not ready (503).",
                "Its /ready says what is missing.",
            )
        if status >= 500:
            return ApiFailed(
                f"The API at {host} failed ({status}).", "Try again; if it stays so, look at the service's log."
            )
        if 400 <= status < 500 and (is_problem or status in (400, 413, 415, 422)):
            detail = problem.get("detail")
            mends = {
                409: "This transaction_id was used for another transaction: take a fresh one.",
                413: "Make the request smaller.",
            }
            return RequestRefused(
                detail if isinstance(detail, str) and detail else f"The API refused the request ({status}).",
                mends.get(status, "Correct what is named and score again."),
                _fields(problem.get("errors")),
            )
        return self._not_the_api(f"gave an answer of another kind ({status})")

    def _down(self, what: str) -> ApiDown:
        start = "Start it with make run" if self.address.is_local else "Check that it is deployed and up"
        return ApiDown(f"{what} at {self.address.host}.", f"{start}, or set FRAUD_API_URL to where it is.")

    def _not_the_api(self, what: str) -> NotTheApi:
        return _not_the_api(self.address, what)


def _caused_by(error: BaseException | None, kind: type[Exception]) -> bool:
    """Whether ``kind`` is among the exceptions that led to ``error``."""
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error is not None


def _not_the_api(address: Address, what: str) -> NotTheApi:
    return NotTheApi(
        f"What answers at {address.host} is not the fraud API: it {what}.",
        "Check FRAUD_API_URL: host, port and, behind a gateway, the stage (such as /Prod).",
    )


def _unknown_form(address: Address) -> NotTheApi:
    return _not_the_api(address, "answers in a form this console does not know")


def _fields(errors: object) -> tuple[tuple[str, str], ...]:
    """The (field, message) pairs of a problem document, whatever shape it really has."""
    if not isinstance(errors, list):
        return ()
    return tuple(
        (item["field"], item["message"])
        for item in errors
        if isinstance(item, dict) and isinstance(item.get("field"), str) and isinstance(item.get("message"), str)
    )


def _decision(answer: object, address: Address) -> Decision:
    """Read a Decision; members this console does not know are left alone. Raises :class:`NotTheApi`."""
    try:
        if not isinstance(answer, dict):
            raise TypeError
        thresholds = answer["thresholds"]
        outcome = answer["outcome"]
        if outcome not in _OUTCOMES:
            raise ValueError
        return Decision(
            transaction_id=_text(answer["transaction_id"]),
            outcome=outcome,
            fraud_probability=(None if answer["fraud_probability"] is None else _number(answer["fraud_probability"])),
            decided_by=_text(answer["decided_by"]),
            review_from=None if thresholds is None else _number(thresholds["review"]),
            decline_from=None if thresholds is None else _number(thresholds["decline"]),
            rules=tuple(_text(rule) for rule in answer["rules"]),
            reasons=tuple(
                Reason(
                    code=_text(reason["code"]),
                    feature=_text(reason["feature"]),
                    value=reason["value"],
                    contribution=_number(reason["contribution"]),
                    text=_text(reason["text"]),
                )
                for reason in answer["reasons"]
            ),
            explanation=_text(answer["explanation"]),
            amount=_number(answer["amount"]),
            currency=_text(answer["currency"]),
            amount_base=_number(answer["amount_base"]),
            base_currency=_text(answer["base_currency"]),
            model_version=None if answer["model_version"] is None else _text(answer["model_version"]),
            rules_version=_text(answer["rules_version"]),
            scored_at=_text(answer["scored_at"]),
            test=answer["test"] is True,
            degraded=tuple(_text(flag) for flag in answer["degraded"]),
        )
    except (KeyError, TypeError, ValueError):
        raise _unknown_form(address) from None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _number(value: object) -> float:
    """A finite JSON number as float; anything else (a text, a boolean, NaN) is a ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError
    return float(value)
