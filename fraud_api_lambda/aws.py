"""Calls to AWS that end in time: what the stores and queues there have in common. boto3 is imported here only.

A caller waits no longer than its budget, whatever a call is held up by (credentials, name lookup, TLS, a trickle of
bytes): calls run in threads of this module. Nothing is tried twice, a thread is free again after the client's own
timeouts, and what has not been sent by the deadline never is.
"""

import os
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Any, Final, Literal
from urllib.parse import parse_qsl, urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ConnectTimeoutError, NoRegionError, ReadTimeoutError

from .errors import SettingsError, StoreUnavailable

#: Requests under way at once, and connections kept.
THREADS: Final = 16
#: What one BatchGetItem may ask for.
_KEYS_AT_ONCE: Final = 100
_THROTTLED: Final = frozenset(
    {"ThrottlingException", "ProvisionedThroughputExceededException", "RequestLimitExceeded", "RequestThrottled"}
)
#: What an error's code looks like; anything else is not repeated.
_CODE: Final = re.compile(r"[A-Za-z0-9.]{1,64}")


def open_service(
    service: Literal["dynamodb", "sqs"], url: str, budget_s: float, *, what: str, example: str
) -> tuple["Service", str]:
    """The client for ``scheme://name[?region=...]``, and the name. ``what`` it is, and an ``example`` of such a URL.

    The region is otherwise ``AWS_REGION``, ``AWS_DEFAULT_REGION`` or the AWS configuration's; ``AWS_ENDPOINT_URL``
    names another endpoint; credentials come from where boto3 finds them. Raises ``SettingsError``.
    """
    form = f"A {what} is written {example} or {example}?region=eu-west-1."
    try:
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
    except ValueError:
        raise SettingsError(form) from None
    region = options.pop("region", None) or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if not parts.netloc or "@" in parts.netloc or parts.path.strip("/") or parts.fragment or options:
        raise SettingsError(form)
    # One attempt, and the budget for each wait: the defaults are four attempts of 60 seconds and more. A caller that is
    # allowed less later on waits less (`within`); the thread that it left is free again after this.
    config = Config(
        connect_timeout=budget_s,
        read_timeout=budget_s,
        retries={"mode": "standard", "total_max_attempts": 1},
        tcp_keepalive=True,
        max_pool_connections=THREADS,
    )
    try:
        client: Any = boto3.session.Session().client(service, region_name=region, config=config)
    except NoRegionError:
        raise SettingsError(f"A {what} needs a region: add ?region=... or set AWS_REGION.") from None
    except (BotoCoreError, ValueError) as error:
        raise SettingsError(f"The AWS configuration is not usable for a {what}: {type(error).__name__}.") from None
    return Service(client, f"{what.partition(' ')[2]} ({service})", budget_s), parts.netloc


class Service:
    """One client, which threads may share. ``what`` is how errors call it, such as ``feature store (dynamodb)``."""

    def __init__(self, client: Any, what: str, budget_s: float = 0.25) -> None:
        self.client = client
        self.budget_s = budget_s
        self._what = what
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix=what.partition(" (")[0].replace(" ", "-"))

    def allow(self, budget_s: float) -> None:
        """Every call from now on ends within about ``budget_s``."""
        self.budget_s = budget_s

    def disconnect(self) -> None:
        """Close the connections; the next call makes others."""
        self.client.close()  # of the connections it has: botocore's client makes others when it is used again

    def until(self) -> float:
        """When a call that begins now has to be back, on the monotonic clock."""
        return time.monotonic() + self.budget_s

    def within[T](self, until: float, calls: Sequence[Callable[[], T]]) -> list[T]:
        """Run the calls side by side and return their results in order. Raises ``StoreUnavailable``."""
        under_way: list[Future[T]] = []
        try:
            under_way.extend(map(self._threads.submit, calls))
            _, late = wait(under_way, timeout=max(0.0, until - time.monotonic()))
            if late:
                raise TimeoutError
            return [future.result() for future in under_way]
        except (BotoCoreError, ClientError, OSError, RuntimeError) as error:
            raise self._unavailable(error) from None
        finally:
            for future in under_way:
                future.cancel()

    def call[T](self, call: Callable[[], T]) -> T:
        """One call within the budget."""
        return self.within(self.until(), [call])[0]

    def items(self, table: str, keys: Sequence[dict[str, Any]], until: float) -> list[dict[str, Any]]:
        """The items that exist under the keys, each key once, read consistently: one round trip for all."""
        parts = [keys[start : start + _KEYS_AT_ONCE] for start in range(0, len(keys), _KEYS_AT_ONCE)]
        read = self.within(until, [partial(self._items, table, part, until) for part in parts])
        return [item for items in read for item in items]

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        self.client.close()

    def _items(self, table: str, keys: Sequence[dict[str, Any]], until: float) -> list[dict[str, Any]]:
        """At most 100 items. DynamoDB may leave some of them for a further request."""
        items: list[dict[str, Any]] = []
        request: Any = {table: {"Keys": keys, "ConsistentRead": True}}
        pause_s = 0.01
        while True:
            answer = self.client.batch_get_item(RequestItems=request)
            items += answer["Responses"].get(table, [])
            request = answer.get("UnprocessedKeys")
            if not request:
                return items
            if time.monotonic() + pause_s > until:
                raise StoreUnavailable(f"The {self._what} is throttled.")
            time.sleep(pause_s)
            pause_s *= 2

    def _unavailable(self, error: Exception) -> StoreUnavailable:
        if isinstance(error, TimeoutError | ConnectTimeoutError | ReadTimeoutError):
            said = f"did not answer within {self.budget_s * 1000:.0f} ms"
        elif not isinstance(error, ClientError):
            said = f"failed: {type(error).__name__}"
        elif throttled(error):
            said = "is throttled"
        else:
            code = code_of(error)
            said = f"refused: {code if _CODE.fullmatch(code) else 'no code'}"
        return StoreUnavailable(f"The {self._what} {said}.")


def code_of(error: ClientError) -> str:
    """What AWS calls the error."""
    return str(error.response["Error"]["Code"])


def throttled(error: ClientError) -> bool:
    """Whether the same call may succeed a little later."""
    return code_of(error) in _THROTTLED
