"""Parties in Redis or Valkey, one key each: eight bytes of version, then the data, and Redis' own expiry.

Compare-and-set is a few lines of Lua over all keys of a call, so one round trip; it compares the eight bytes as bytes.
One server (or a primary that answers under one name): Redis Cluster spreads keys over servers and is not promised.
What an acknowledged write survives is the server's own setting (``appendonly``, replicas), as is whether it forgets
parties when memory is full: set ``maxmemory-policy noeviction`` or ``volatile-ttl``.

Time: redis-py's timeouts are for each wait on the socket, and a slow answer is many waits, so the sockets here end
every wait at the call's own deadline; nothing is tried twice. Connecting (name lookup, TCP, TLS, password) has no such
bound anywhere, so a thread of its own does it: a caller waits until its deadline, and the connection, once made, serves
whoever comes next. Calls on an open connection run in the caller's thread.
"""

import hashlib
import queue
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import partial
from typing import Any, Final, Protocol
from urllib.parse import unquote, urlsplit

from redis.connection import Connection, SSLConnection
from redis.exceptions import AuthenticationError, NoScriptError
from redis.exceptions import TimeoutError as RedisTimeoutError

from ..errors import SettingsError, StoreUnavailable
from . import Change, FeatureStore

#: Connections, each made when first needed. A call takes one for a round trip.
PLACES: Final = 8
PREFIX: Final = b"fraud:party:"
_VERSION_BYTES: Final = 8

#: ARGV holds three items a key: the version bytes that were seen (empty: no such key), what to store, when it expires.
#: Returns the positions, from 1, of the keys in conflict.
_SWAP: Final = b"""local conflicts = {}
for i, key in ipairs(KEYS) do
  if redis.call('GETRANGE', key, 0, 7) == ARGV[3 * i - 2] then
    redis.call('SET', key, ARGV[3 * i - 1])
    redis.call('PEXPIREAT', key, ARGV[3 * i])
  else
    conflicts[#conflicts + 1] = i
  end
end
return conflicts"""
_SWAP_SHA: Final = hashlib.sha1(_SWAP, usedforsecurity=False).hexdigest()


def open_url(url: str, budget_s: float) -> FeatureStore:
    """``redis://[user:password@]host[:port][/database]``, or ``rediss://`` for TLS.

    TLS verifies certificate and name against the machine's trusted authorities (OpenSSL's ``SSL_CERT_FILE`` names
    others), and nothing in the URL can turn that off.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or 6379
        database = int(parts.path.strip("/") or 0)
        if not host or parts.query or parts.fragment or database < 0:
            raise ValueError
    except ValueError:
        raise SettingsError(
            "A Redis feature store is written redis://[user:password@]host[:port][/database number], or rediss:// for "
            "TLS, without options; percent-encode what is special in a password."
        ) from None
    connection_class = _TLSConnection if parts.scheme == "rediss" else _PlainConnection
    return RedisFeatureStore(
        partial(
            connection_class,
            host=host,
            port=port,
            db=database,
            username=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.password else None,
            socket_timeout=budget_s,
            socket_connect_timeout=budget_s,
            # Two round trips less on connecting, and as old a server as has Lua will do.
            protocol=2,
            driver_info=None,
        ),
        budget_s,
    )


class RedisFeatureStore:
    """A few connections, each used by one call at a time; a connection that failed is closed, never mended."""

    inline = False

    def __init__(self, connection: "Callable[[], _Connection]", budget_s: float = 0.25) -> None:
        self._new = connection
        self._budget_s = budget_s
        #: What a call takes and gives back: an open connection, or None where there is none yet. Last in, first out,
        #: so that few connections are kept busy.
        self._places: queue.LifoQueue[_Connection | None] = queue.LifoQueue()
        for _ in range(PLACES):
            self._places.put(None)
        # Holding a place is the condition for connecting, so nothing ever queues for a thread here.
        self._connecting = ThreadPoolExecutor(PLACES, thread_name_prefix="feature-store-connect")
        self._closed = False

    def read(self, parties: Sequence[str]) -> dict[str, tuple[int, bytes]]:
        if not parties:
            return {}
        values = self._call(list, b"MGET", *map(_key, parties))
        return {
            party: (int.from_bytes(value[:_VERSION_BYTES]), value[_VERSION_BYTES:])
            for party, value in zip(parties, values, strict=True)
            if value is not None
        }

    def swap(self, changes: Sequence[Change]) -> list[str]:
        if not changes:
            return []
        keys: list[bytes] = []
        arguments: list[bytes | int] = []
        for party, seen_version, data, expires_ms in changes:
            keys.append(_key(party))
            seen = _version(seen_version) if seen_version else b""
            arguments += (seen, _version(seen_version + 1) + data, expires_ms)
        conflicts = self._call(list, b"EVALSHA", _SWAP_SHA, len(keys), *keys, *arguments)
        return [changes[position - 1].party for position in conflicts]

    def erase(self, party: str) -> None:
        self._call(int, b"DEL", _key(party))

    def check(self) -> None:
        """The server takes writes: a key that no party can have is set for a second."""
        self._call(bytes, b"SET", PREFIX, b"", b"PX", 1000)

    def allow(self, budget_s: float) -> None:
        self._budget_s = budget_s

    def disconnect(self) -> None:
        idle: list[_Connection | None] = []
        with suppress(queue.Empty):
            while True:
                idle.append(self._places.get_nowait())
        for place in idle:
            if place is not None:
                place.disconnect()
            self._places.put(None)

    def close(self) -> None:
        self._closed = True
        self._connecting.shutdown(wait=False)
        for _ in range(PLACES):
            try:
                place = self._places.get_nowait()
            except queue.Empty:  # in use: whoever gives it back closes it
                break
            if place is not None:
                place.disconnect()
        self._places.put(None)  # and nobody waits for a place in vain

    def _call[T](self, expected: type[T], *command: bytes | str | int) -> T:
        """One command and its reply, within the budget."""
        until = time.monotonic() + self._budget_s
        connection = self._take(until)
        try:
            connection.timed.until = until
            reply = _run(connection, command)
            if not isinstance(reply, expected):
                raise TypeError
        except BaseException as error:
            connection.disconnect()
            self._places.put(None)
            if isinstance(error, Exception):  # the parser meets a foreign server with errors of any kind
                raise self._unavailable(error) from None
            raise
        self._give(connection)
        return reply

    def _take(self, until: float) -> "_Connection":
        """An open connection; the caller gives it, or None in its place, back."""
        try:
            place = self._places.get(timeout=self._budget_s)
        except queue.Empty:
            raise StoreUnavailable("The feature store (redis) is slow: all connections to it are in use.") from None
        if self._closed:
            self._give(place)
            raise StoreUnavailable("The feature store (redis) is closed.")
        if place is not None:
            if _is_quiet(place):
                return place
            place.disconnect()  # the server has closed it: it was restarted, or found it idle for too long
        try:
            connecting = self._connecting.submit(self._connect)
        except RuntimeError:  # closed just now
            self._places.put(None)
            raise StoreUnavailable("The feature store (redis) is closed.") from None
        connected: set[Future[_Connection]] = set()
        try:
            connected, _ = wait([connecting], timeout=max(0.0, until - time.monotonic()))
        finally:
            if not connected:
                connecting.add_done_callback(self._give_connected)
        if not connected:
            raise self._unavailable(TimeoutError())
        try:
            connection = connecting.result()
        except Exception as error:
            self._places.put(None)
            raise self._unavailable(error) from None
        # Far away, connecting takes most of the budget: a reply cut off by the deadline would cost the connection too,
        # and no call would ever find one. Leave it to the next.
        if until - time.monotonic() < self._budget_s / 4:
            self._give(connection)
            raise self._unavailable(TimeoutError())
        return connection

    def _connect(self) -> "_Connection":
        connection = self._new()
        connection.connect()
        return connection

    def _give_connected(self, connecting: "Future[_Connection]") -> None:
        self._give(None if connecting.exception() else connecting.result())

    def _give(self, place: "_Connection | None") -> None:
        if self._closed and place is not None:
            place.disconnect()
            place = None
        self._places.put(place)

    def _unavailable(self, error: Exception) -> StoreUnavailable:
        if isinstance(error, TimeoutError | RedisTimeoutError):
            said = f"did not answer within {self._budget_s * 1000:.0f} ms"
        elif isinstance(error, AuthenticationError):
            said = "refused the user name or the password"
        else:
            said = f"failed: {type(error).__name__}"
        return StoreUnavailable(f"The feature store (redis) {said}.")


class _TimedSocket:
    """A socket whose every wait ends at ``until`` (monotonic seconds), however many waits an answer takes."""

    def __init__(self, opened: socket.socket, until: float) -> None:
        self._opened = opened
        self._timeout = opened.gettimeout()
        self.until = until

    def settimeout(self, seconds: float | None) -> None:
        self._timeout = seconds

    def recv(self, size: int) -> bytes:
        self._arm()
        return self._opened.recv(size)

    def sendall(self, data: bytes) -> None:
        self._arm()
        self._opened.sendall(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._opened, name)

    def _arm(self) -> None:
        seconds = self._timeout
        if seconds != 0:  # 0 does not wait: it asks whether there is anything
            left = self.until - time.monotonic()
            seconds = left if seconds is None else min(seconds, left)
            if seconds <= 0:
                raise TimeoutError
        self._opened.settimeout(seconds)


class _Connection(Protocol):
    """What is used of redis-py's connections, which state no types for it."""

    timed: _TimedSocket

    def connect(self) -> None: ...
    def disconnect(self) -> None: ...
    def can_read(self) -> bool: ...
    def send_command(self, *command: bytes | str | int) -> None: ...
    def read_response(self) -> Any: ...


class _PlainConnection(Connection):
    timed: _TimedSocket

    def _connect(self) -> _TimedSocket:
        opened = super()._connect()  # type: ignore[no-untyped-call]
        self.timed = _TimedSocket(opened, time.monotonic() + opened.gettimeout())
        return self.timed


class _TLSConnection(SSLConnection):
    timed: _TimedSocket

    def _connect(self) -> _TimedSocket:
        opened = super()._connect()  # type: ignore[no-untyped-call]
        self.timed = _TimedSocket(opened, time.monotonic() + opened.gettimeout())
        return self.timed


def _run(connection: _Connection, command: tuple[bytes | str | int, ...]) -> Any:
    connection.send_command(*command)
    try:
        return connection.read_response()
    except NoScriptError:  # a server that was restarted knows no script: send it along, once
        connection.send_command(b"EVAL", _SWAP, *command[2:])
        return connection.read_response()


def _is_quiet(connection: _Connection) -> bool:
    """Whether an idle connection is good: nothing to read, and not closed by the other side."""
    try:
        return not connection.can_read()
    except Exception:
        return False


def _key(party: str) -> bytes:
    return PREFIX + party.encode()


def _version(number: int) -> bytes:
    return number.to_bytes(_VERSION_BYTES)
