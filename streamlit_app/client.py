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
    |-- NotTheApi            something answers that is not this API: not JSON, a redirect, 404, an unknown shape
    `-- NotFound             404 in the API's own words: there is no such transaction or party

Nothing here imports the service or Streamlit. Texts that come from the API (``RequestRefused.fields``,
``Decision.explanation`` ...) may hold parts of a transaction: show them as plain text only.
"""

import ipaddress
import json
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import quote, urlencode, urlsplit

import httpx

from streamlit_app.answers import (
    Backtest,
    BatchItem,
    BatchResult,
    Checked,
    Decision,
    Drift,
    FeedbackAnswer,
    LabelName,
    Me,
    Model,
    Party,
    Rule,
    Rules,
    Summary,
    TransactionList,
    WholeTransaction,
    number,
    read,
)

DEFAULT_URL = "http://127.0.0.1:8000"
#: Seconds to open a connection; seconds of silence; seconds for a whole answer. The service's own budget is 250 ms,
#: the rest is for a Lambda that has to start first.
CONNECT_SECONDS = 3.0
SILENCE_SECONDS = 8.0
TOTAL_SECONDS = 12.0
#: No answer that the console reads is near this size.
MAX_ANSWER_BYTES = 8_000_000
#: A batch, a back-test or a look for drift may take so long (s): what API Gateway waits at most.
LONG_SECONDS = 29.0


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
    """``retry_after`` is how many seconds the API asks to wait."""

    def __init__(self, message: str, mend: str, retry_after: float = 1.0):
        super().__init__(message, mend)
        self.retry_after = retry_after


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


class NotFound(ApiError):
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

    ``detail`` says in the API's words why there is no model, or why the last look for a newer one failed. ``silent``
    names the stores that do not answer; ``waiting`` is the number of items in the outbox; ``rules_detail`` says why the
    rules file was refused.
    """

    ready: bool
    model: str
    model_version: str | None
    detail: str | None
    silent: tuple[str, ...] = ()
    waiting: int = 0
    rules_detail: str | None = None


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
        self._connect_seconds, self._silence_seconds, self._total_seconds = (
            connect_seconds,
            silence_seconds,
            total_seconds,
        )
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
        status, answer, headers = self._call("GET", "/ready")
        if isinstance(answer, dict) and isinstance(answer.get("model"), str) and status in (200, 503):
            return _readiness(status, answer)
        raise self._error(status, answer, headers)

    def me(self) -> Me:
        """Whose key this is, and what it opens."""
        return self._ask(Me, "GET", "/me")

    def rules(self) -> dict[str, Rule]:
        """The rules beside the model, by id (``GET /model``). Raises :class:`NotServed` when no model is loaded."""
        return {rule.id: rule for rule in self._ask(Rules, "GET", "/model").rules}

    def model(self) -> Model:
        """What is served. Raises :class:`NotServed` when no model is loaded."""
        return self._ask(Model, "GET", "/model")

    def report(self) -> bytes:
        """The served bundle's report, one HTML page: to be saved, never to be shown in the console."""
        status, received, headers = self._send("GET", "/model/report")
        if status != 200:
            raise self._error(status, _parsed(received), headers)
        if not headers.get("Content-Type", "").startswith("text/html"):
            raise self._not_the_api("sent no report")
        return received

    def batch(self, transactions: list[dict[str, Any]]) -> tuple[BatchItem, ...]:
        """``POST /predict/batch``: a decision or a problem for each of at most 1,000, in their order."""
        body = json.dumps({"transactions": transactions}, ensure_ascii=False)
        results = self._ask(BatchResult, "POST", "/predict/batch", body, seconds=LONG_SECONDS).results
        if [item.index for item in results] != list(range(len(transactions))):
            raise _unknown_form(self.address)
        return results

    def transactions(self, **filters: str | float | bool | None) -> TransactionList:
        """A page of recorded decisions, by arrival; ``filters`` are the route's parameters, None is not sent."""
        return self._ask(TransactionList, "GET", f"/transactions{_query(filters)}")

    def transaction(self, transaction_id: str) -> WholeTransaction:
        """Raises :class:`NotFound`."""
        return self._ask(WholeTransaction, "GET", f"/transactions/{quote(transaction_id, safe='')}")

    def party(self, party_id: str) -> Party:
        """What is normal for a party. Raises :class:`NotFound` for one of whom nothing is known."""
        return self._ask(Party, "GET", f"/parties/{quote(party_id, safe='')}")

    def feedback(self, transaction_id: str, label: LabelName, note: str = "") -> FeedbackAnswer:
        """Say what a transaction turned out to be; the source is the analyst."""
        body = {"transaction_id": transaction_id, "label": label, "source": "analyst", "note": note}
        return self._ask(FeedbackAnswer, "POST", "/feedback", json.dumps(body))

    def summary(self, since: str) -> Summary:
        """Figures by UTC day, from the day ``since`` (``2026-02-06``) until today."""
        return self._ask(Summary, "GET", f"/summary{_query({'since': since})}")

    def drift(self) -> Drift:
        """What has changed since the model was trained. Raises :class:`NotServed` without a model to compare with."""
        return self._ask(Drift, "GET", "/drift", seconds=LONG_SECONDS)

    def check(self, **what: str) -> Checked:
        """Compile one ``expression``, or a whole file of ``rules``. Raises :class:`RequestRefused` with the place."""
        return self._ask(Checked, "POST", "/rules/check", json.dumps(what))

    def backtest(self, change: Mapping[str, Any]) -> Backtest:
        """What another policy would have decided; ``change`` as the route takes it."""
        return self._ask(Backtest, "POST", "/backtest", json.dumps(change), seconds=LONG_SECONDS)

    def score(self, body: str) -> Scored:
        """``POST /predict?explain=true`` with the JSON text ``body`` exactly as it stands. Raises ApiError."""
        started = time.perf_counter()
        status, answer, headers = self._call("POST", "/predict?explain=true", body)
        if status != 200:
            raise self._error(status, answer, headers)
        return Scored(
            decision=self._read(Decision, answer),
            raw=answer if isinstance(answer, dict) else {},
            seconds=time.perf_counter() - started,
            replayed=headers.get("Idempotent-Replayed", "").lower() == "true",
        )

    def _ask[T](self, shape: type[T], method: str, path: str, body: str | None = None, *, seconds: float = 0.0) -> T:
        """The answer as ``shape``. A read whose store did not answer in its short time is asked once more."""
        for patient in (method == "GET", False):
            status, answer, headers = self._call(method, path, body, seconds=seconds)
            silent = status == 503 and isinstance(answer, dict) and answer.get("title") == "Store not reached"
            if not (patient and silent):
                break
        if status != 200:
            raise self._error(status, answer, headers)
        return self._read(shape, answer)

    def _read[T](self, shape: type[T], answer: object) -> T:
        try:
            return read(shape, answer)
        except ValueError:
            raise _unknown_form(self.address) from None

    def _call(
        self, method: str, path: str, body: str | None = None, *, seconds: float = 0.0
    ) -> tuple[int, object, httpx.Headers]:
        status, received, headers = self._send(method, path, body, seconds=seconds)
        return status, _parsed(received), headers

    def _send(
        self, method: str, path: str, body: str | None = None, *, seconds: float = 0.0
    ) -> tuple[int, bytes, httpx.Headers]:
        """Status, body and headers; never more than MAX_ANSWER_BYTES nor longer than the whole budget.

        ``seconds`` is for what may rightly take longer than the usual budget, silence included.
        """
        host, total = self.address.host, max(seconds, self._total_seconds)
        slow = ApiSlow(
            f"The API at {host} did not answer within {total:g} s.",
            "It may be starting: try again in a moment. If it stays slow, look at the service's log.",
        )
        deadline = time.monotonic() + total
        content = None if body is None else body.encode("utf-8", "replace")
        headers = {} if body is None else {"Content-Type": "application/json"}
        received = bytearray()
        try:
            timeout = self._timeout(seconds)
            with self._http.stream(method, path, content=content, headers=headers, timeout=timeout) as response:
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
        return response.status_code, bytes(received), response.headers

    def _timeout(self, seconds: float) -> httpx.Timeout:
        return httpx.Timeout(max(seconds, self._silence_seconds), connect=self._connect_seconds)

    def _error(self, status: int, answer: object, headers: Mapping[str, str]) -> ApiError:
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
                _seconds(headers.get("Retry-After", "")),
            )
        if 300 <= status < 400:
            return self._not_the_api("redirects elsewhere")
        is_problem = isinstance(problem.get("title"), str)
        if status == 404 and is_problem and str(problem.get("detail", "")).startswith(("No transaction", "Nothing is")):
            return NotFound(problem["detail"], "It may lie further back than the log goes, or be written otherwise.")
        if status in (404, 405):
            return self._not_the_api(f"does not know this route ({status})")
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


def _readiness(status: int, answer: dict[str, Any]) -> Readiness:
    last_look, rules, outbox = answer.get("last_refresh"), answer.get("rules"), answer.get("outbox")
    source = last_look if status == 200 and isinstance(last_look, dict) else answer
    version, detail = answer.get("model_version"), source.get("detail")
    refused = rules.get("detail") if isinstance(rules, dict) and rules.get("state") != "ok" else None
    waiting = outbox.values() if isinstance(outbox, dict) else ()
    stores = ("feature_store", "decision_log", "outbox")
    return Readiness(
        ready=status == 200,
        model=answer["model"],
        model_version=version if isinstance(version, str) else None,
        detail=detail if isinstance(detail, str) else None,
        silent=tuple(name for name in stores if answer.get(name) == "unavailable"),
        waiting=sum(n for n in waiting if isinstance(n, int)),
        rules_detail=refused if isinstance(refused, str) else None,
    )


def _parsed(received: bytes) -> object:
    """JSON as it is, None for anything else."""
    try:
        answer: object = json.loads(received, parse_constant=number)
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError too
        return None
    return answer


def _query(filters: Mapping[str, str | float | bool | None]) -> str:
    sent = {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in filters.items()
        if value is not None
    }
    return f"?{urlencode(sent)}" if sent else ""


def _seconds(text: str) -> float:
    """Of a Retry-After header; one second where there is none that says so."""
    return float(min(int(text), 3600)) if text.isdecimal() and len(text) < 6 else 1.0
