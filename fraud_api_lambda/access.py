"""Who may call what, and how often: keys with roles, checked before anything else.

First it is found out whose a request is (:class:`Access`, around all routes: whoever has no key learns nothing, not
even which addresses there are), then whether that key's role opens the route it leads to (:class:`GuardedRoute`, around
each route: which one that is, the router says and nothing beside it). ``ROLES`` is the one place that says which role
opens what; a route that does not stand there cannot be made.
"""

import hashlib
import hmac
import inspect
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from typing import Any, Final, Literal, get_args
from urllib.parse import urlsplit

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.types import ASGIApp, Receive, Scope, Send

from .errors import NotAllowed, NotAuthenticated, RequestError, SettingsError, TooManyRequests
from .web import refusal

#: Each opens all that the ones before it open.
Role = Literal["score", "review", "admin"]
_RANKS: Final[dict[Role, int]] = {role: rank for rank, role in enumerate(get_args(Role))}

#: (method, route) -> the least role that opens it; None: open to all, with no key.
ROLES: Final[dict[tuple[str, str], Role | None]] = {
    ("GET", "/health"): None,
    ("GET", "/ready"): None,  # whoever has no key learns the status alone
    ("GET", "/docs"): None,
    ("GET", "/openapi.json"): None,
    ("POST", "/predict"): "score",
    ("POST", "/predict/batch"): "score",
    ("GET", "/me"): "score",
    ("GET", "/model"): "score",
    ("GET", "/model/report"): "review",
    ("GET", "/transactions"): "review",
    ("GET", "/transactions/{transaction_id}"): "review",
    ("POST", "/feedback"): "review",
    ("GET", "/parties/{party_id}"): "review",
    ("GET", "/summary"): "review",
    ("POST", "/rules/check"): "review",
    ("POST", "/backtest"): "review",
    ("GET", "/drift"): "review",
    ("GET", "/metrics"): "admin",
}
_OPEN = frozenset(path for (_, path), role in ROLES.items() if role is None)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SHA256 = re.compile(r"[0-9A-Fa-f]{64}")
_RATE = re.compile(r"([1-9]\d{0,8})/(second|minute|hour)", re.ASCII)
_SECONDS: Final = {"second": 1, "minute": 60, "hour": 3600}
#: Headers by which a proxy says that the caller is somebody else than who connects.
_FORWARDED = frozenset({b"forwarded", b"x-forwarded-for", b"x-real-ip", b"via"})
#: Callers whose requests are counted at once; beyond, the one longest unheard of is forgotten.
MAX_CALLERS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose a request is. ``name`` is the key's and no secret."""

    name: str
    role: Role

    def opens(self, role: Role) -> bool:
        return _RANKS[self.role] >= _RANKS[role]


@dataclass(frozen=True, slots=True)
class Key:
    """A key as the setting has it: the SHA-256 of the secret, never the secret."""

    caller: Caller
    digest: bytes


def parse_keys(text: str) -> tuple[Key, ...]:
    """Keys from ``name:role:sha256`` items separated by commas or white space; ``none`` alone is no key.

    Raises :class:`SettingsError` that counts items and shows nothing of them: a key may stand where its hash should.
    """
    items = re.split(r"[,\s]+", text.strip(" \t\r\n,"))
    if items == ["none"]:
        return ()
    keys: dict[str, Key] = {}
    digests: set[bytes] = set()
    for number, item in enumerate(items, 1):
        parts = item.split(":")
        where = f"FRAUD_API_KEYS, item {number}"
        if len(parts) != 3 or not _NAME.fullmatch(parts[0]) or not _SHA256.fullmatch(parts[2]):
            raise SettingsError(
                f"{where}: must be name:role:sha256, the name of 1 to 64 letters, digits, '.', '_' and '-', the key's "
                "SHA-256 of 64 hex digits. Make one with: python -m training apikey"
            )
        name, role, digest = parts[0], parts[1], bytes.fromhex(parts[2])
        if role not in _RANKS:
            raise SettingsError(f"{where}: the role must be one of: {', '.join(_RANKS)}.")
        if name in keys:
            raise SettingsError(f"{where}: its name stands there already; each key has its own.")
        if digest in digests:
            raise SettingsError(f"{where}: its key stands there already under another name.")
        keys[name] = Key(Caller(name, role), digest)
        digests.add(digest)
    return tuple(keys.values())


class RateLimit:
    """At most ``number`` requests in ``seconds`` for each caller, all at once or spread (GCRA).

    For each caller one number is kept: the time at which all that it has asked for is paid for at the steady rate.
    ``monotonic`` gives seconds. Called from one thread only, the event loop's.
    """

    def __init__(self, number: int, seconds: float, *, monotonic: Callable[[], float] = time.monotonic):
        self._cost = seconds / number
        self._seconds = seconds
        self._monotonic = monotonic
        self._paid: OrderedDict[str, float] = OrderedDict()

    def admit(self, who: str) -> float:
        """0.0, and the request is counted; or the seconds after which to come back, and it is not."""
        now = self._monotonic()
        paid = max(self._paid.get(who, now), now) + self._cost
        if paid - now > self._seconds + 1e-9:  # sums of shares of a second miss it by their rounding
            return paid - now - self._seconds
        self._set(who, paid)
        return 0.0

    def charge(self, who: str, n: int) -> None:
        """Count ``n`` more of a caller already let in; what goes beyond the limit is paid for by those to come."""
        now = self._monotonic()
        self._set(who, max(self._paid.get(who, now), now) + n * self._cost)

    def _set(self, who: str, paid: float) -> None:
        self._paid[who] = paid
        self._paid.move_to_end(who)
        if len(self._paid) > MAX_CALLERS:
            self._paid.popitem(last=False)


def parse_rate(text: str, *, monotonic: Callable[[], float] = time.monotonic) -> RateLimit:
    """``10/second``, ``600/minute``, ``10000/hour``. Raises :class:`SettingsError`."""
    found = _RATE.fullmatch(text)
    if found is None:
        raise SettingsError("FRAUD_RATE_LIMIT must be number/second, number/minute or number/hour, such as 600/minute.")
    return RateLimit(int(found[1]), _SECONDS[found[2]], monotonic=monotonic)


class Guard:
    """Tells whose a request is.

    With ``keys``: the one whose key it carries. Without: everybody on this machine may do everything and nobody else
    anything, or, ``behind_gateway``, everybody whom the gateway lets through. ``origins`` are pages that may call an
    open service on this machine from a browser, besides its own.
    """

    def __init__(
        self,
        keys: Sequence[Key] = (),
        *,
        behind_gateway: bool = False,
        rate: RateLimit | None = None,
        origins: Sequence[str] = (),
    ):
        self._keys = tuple(keys)
        self._behind_gateway = behind_gateway
        self._rate = rate
        self._origins = frozenset(origins)

    def caller(self, scope: Scope) -> Caller | None:
        """Whose the request is; None: nobody's whom we know."""
        if self._keys:
            sent = [value for name, value in scope["headers"] if name == b"x-api-key"]
            return self._known(sent[0]) if len(sent) == 1 else None
        if self._behind_gateway:
            return Caller("gateway", "admin")
        return Caller("local", "admin") if from_this_machine(scope, self._origins) else None

    def _known(self, secret: bytes) -> Caller | None:
        """The key with this secret. Every key is compared, whole: the time says nothing of which one was near."""
        digest = hashlib.sha256(secret).digest()
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = key.caller
        return found

    def admit(self, scope: Scope, caller: Caller) -> None:
        """Count the request. Raises ``TooManyRequests``."""
        if self._rate is not None:
            wait = self._rate.admit(self._payer(scope, caller))
            if wait > 0:
                raise TooManyRequests("The limit of requests is reached; Retry-After says in how many seconds.", wait)

    def charge(self, scope: Scope, n: int) -> None:
        """Count ``n`` more for the request's caller: for a batch, which counts as its transactions do."""
        caller = scope.get("caller")
        if self._rate is not None and caller is not None and n > 0:
            self._rate.charge(self._payer(scope, caller), n)

    def _payer(self, scope: Scope, caller: Caller) -> str:
        """A key pays for itself; where there are none, an address does."""
        if self._keys:
            return caller.name
        client = scope.get("client")
        return client[0] if client else ""

    def refused(self) -> NotAuthenticated:
        if self._keys:
            return NotAuthenticated("Send a key that is known here in the header X-API-Key.")
        return NotAuthenticated(
            "No keys are set, so only programs on the same machine are served, directly and not through a proxy. "
            "Make a key with: python -m training apikey; its item goes into FRAUD_API_KEYS."
        )


def open_guard(
    keys: str | None, rate: str | None, *, behind_gateway: bool = False, origins: Sequence[str] = ()
) -> Guard:
    """The guard that the settings ask for; ``keys`` are the items, not where they lie. Raises ``SettingsError``."""
    return Guard(
        () if keys is None else parse_keys(keys),
        behind_gateway=behind_gateway,
        rate=None if rate is None else parse_rate(rate),
        origins=origins,
    )


def from_this_machine(scope: Scope, origins: frozenset[str] = frozenset()) -> bool:
    """Whether the request comes from a program here: over loopback or inside the process, through no proxy.

    A page in a browser here is somebody else's program: its ``Origin`` must be of this machine or in ``origins``; and a
    ``Host`` that is not of this machine is a foreign name that was made to point here (DNS rebinding).
    """
    client = scope.get("client")
    if client and not _loopback(client[0]):
        return False
    for name, value in scope["headers"]:
        if name in _FORWARDED:
            return False
        text = value.decode("latin-1")
        if name == b"host" and not _here(f"//{text}"):
            return False
        if name == b"origin" and text not in origins and "*" not in origins and not _here(text):
            return False
    return True


@lru_cache(maxsize=256)
def _here(url: str) -> bool:
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return False
    return host == "localhost" or host.endswith(".localhost") or _loopback(host)


@lru_cache(maxsize=256)
def _loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False


class Access:
    """Lets in whom the guard knows, and the others to what is open to all; ``scope["caller"]`` says who it is."""

    def __init__(self, app: ASGIApp, guard: Guard):
        self.app = app
        self.guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        caller = scope["caller"] = self.guard.caller(scope)
        try:
            # Without the stage in front of it.
            if scope["path"].removeprefix(scope.get("root_path", "")) not in _OPEN:
                if caller is None:
                    raise self.guard.refused()
                self.guard.admit(scope, caller)
        except RequestError as error:
            await refusal(error, scope.get("request_id"))(scope, receive, send)
            return
        await self.app(scope, receive, send)


class GuardedRoute(APIRoute):
    """A route that lets in those whose role opens it."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        signature = inspect.signature(self.endpoint)
        if list(signature.parameters) == ["request"] and signature.return_annotation is Response:
            handle = self.endpoint  # as it would be called in the end, without a search for parameters that it has not
        try:
            (role,) = {ROLES[method, self.path_format] for method in self.methods or ()}
        except KeyError:
            raise TypeError(f"{self.path_format} has no role: add it to ROLES in access.py.") from None
        if role is None:
            return handle
        refused = f"This needs a key with the role {role}{'' if role == 'admin' else ' or a higher one'}."

        async def guarded(request: Request) -> Response:
            caller = request.scope.get("caller")
            if caller is None or not caller.opens(role):
                raise NotAllowed(refused)
            return await handle(request)

        return guarded


# --- told to others --------------------------------------------------------------------------------------------------


class OpenRoute(BaseModel):
    method: str
    path: str


class Me(BaseModel):
    """Whose key this is. ``local``: no keys are set, a program on the same machine; ``gateway``: the gateway guards."""

    name: str
    role: Role
    routes: list[OpenRoute]


def describe_caller(caller: Caller) -> dict[str, Any]:
    """:class:`Me` for the caller; its routes in the order of ``ROLES``."""
    routes = [
        {"method": method, "path": path} for (method, path), role in ROLES.items() if role is None or caller.opens(role)
    ]
    return {"name": caller.name, "role": caller.role, "routes": routes}


def document_access(document: dict[str, Any]) -> None:
    """Complete an OpenAPI document: which routes need a key, of which role, and how they refuse."""
    document["components"]["securitySchemes"] = {
        "Key": {
            "type": "apiKey",
            "in": "header",
            "name": "X-API-Key",
            "description": "Not needed by programs on the machine of a service that has no keys.",
        }
    }
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    later = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            role = ROLES[method.upper(), path]
            if role is None:
                operation["security"] = []
                continue
            operation["security"] = [{"Key": []}]
            operation["x-role"] = role
            operation["responses"] |= {
                "401": {"description": "No key, or one that is not known.", "content": content},
                "403": {"description": f"The key's role does not open this: it takes {role}.", "content": content},
                "429": {"description": "Too many requests.", "content": content, "headers": later},
            }
