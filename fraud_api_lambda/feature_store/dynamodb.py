"""Parties in a DynamoDB table, one item each: for the service on AWS.

The table has the hash key ``party`` (S) and, as its time-to-live attribute, ``expires_at`` (N, seconds). AWS deletes an
expired item some time within days, so ``expires_ms`` is compared here as well. An item is ``party``, ``version``,
``expires_ms``, ``expires_at`` and ``data``; a party with a few events stays below one kilobyte, one write unit.

Changes go out side by side, each a ``PutItem`` with a condition: one round trip in time, and each stands or falls on
its own. ``TransactWriteItems`` is one request, but all or nothing, and costs twice the write units. Reads are
consistent. Needs ``dynamodb:BatchGetItem``, ``dynamodb:PutItem`` and ``dynamodb:DeleteItem`` on the table.

Time: calls run in threads of this module and the caller waits no longer than the budget, whatever they are held up by
(credentials, name lookup, TLS, a trickle of bytes); nothing is tried twice, a thread is free again after the client's
own timeouts. What has not been sent by then never is.
"""

import os
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ConnectTimeoutError, NoRegionError, ReadTimeoutError

from ..errors import SettingsError, StoreUnavailable
from . import Change, FeatureStore

#: Requests under way at once, and connections kept.
THREADS: Final = 16
#: What one BatchGetItem may ask for.
_AT_ONCE: Final = 100
#: What is there and has not expired, as a condition of a write; and the opposite.
_SAME: Final = "version = :seen AND expires_ms > :now"
_ABSENT: Final = "attribute_not_exists(party) OR expires_ms <= :now"
_THROTTLED: Final = frozenset({"ThrottlingException", "ProvisionedThroughputExceededException", "RequestLimitExceeded"})

#: What an error's code looks like; anything else is not repeated.
_CODE: Final = re.compile(r"[A-Za-z0-9]{1,64}")


def open_url(url: str, budget_s: float) -> FeatureStore:
    """``dynamodb://table[?region=...]``.

    The region is otherwise ``AWS_REGION``, ``AWS_DEFAULT_REGION`` or the AWS configuration's; ``AWS_ENDPOINT_URL``
    names another endpoint; credentials come from where boto3 finds them.
    """
    form = "A DynamoDB feature store is written dynamodb://table or dynamodb://table?region=eu-west-1."
    try:
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
    except ValueError:
        raise SettingsError(form) from None
    region = options.pop("region", None) or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if not parts.netloc or "@" in parts.netloc or parts.path.strip("/") or parts.fragment or options:
        raise SettingsError(form)
    # One attempt, and the budget for each wait: the defaults are four attempts of 60 seconds and more.
    config = Config(
        connect_timeout=budget_s,
        read_timeout=budget_s,
        retries={"mode": "standard", "total_max_attempts": 1},
        tcp_keepalive=True,
        max_pool_connections=THREADS,
    )
    try:
        client: Any = boto3.session.Session().client("dynamodb", region_name=region, config=config)
    except NoRegionError:
        raise SettingsError("A DynamoDB feature store needs a region: add ?region=... or set AWS_REGION.") from None
    except (BotoCoreError, ValueError) as error:
        raise SettingsError(f"The AWS configuration is not usable for DynamoDB: {type(error).__name__}.") from None
    return DynamoDBFeatureStore(client, parts.netloc, budget_s)


class DynamoDBFeatureStore:
    """One table, seen through one client, which threads may share."""

    inline = False

    def __init__(self, client: Any, table: str, budget_s: float = 0.25) -> None:
        self._client = client
        self._table = table
        self._budget_s = budget_s
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="feature-store")

    def read(self, parties: Sequence[str]) -> dict[str, tuple[int, bytes]]:
        now_ms = time.time_ns() // 1_000_000
        names = list(dict.fromkeys(parties))
        until = time.monotonic() + self._budget_s
        calls = [partial(self._get, names[start : start + _AT_ONCE], until) for start in range(0, len(names), _AT_ONCE)]
        return {
            item["party"]["S"]: (int(item["version"]["N"]), bytes(item["data"]["B"]))
            for items in self._within(until, calls)
            for item in items
            if int(item["expires_ms"]["N"]) > now_ms
        }

    def swap(self, changes: Sequence[Change]) -> list[str]:
        now_ms = time.time_ns() // 1_000_000
        until = time.monotonic() + self._budget_s
        written = self._within(until, [partial(self._put, change, now_ms) for change in changes])
        return [change.party for change, done in zip(changes, written, strict=True) if not done]

    def erase(self, party: str) -> None:
        def delete() -> None:
            self._client.delete_item(TableName=self._table, Key={"party": {"S": party}})

        self._within(time.monotonic() + self._budget_s, [delete])

    def check(self) -> None:
        """The table can be read. That it refuses writes shows when something is written."""
        self.read(["-"])

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def _get(self, names: list[str], until: float) -> list[dict[str, Any]]:
        """The items of at most 100 parties. DynamoDB may leave some of them for a further request."""
        items: list[dict[str, Any]] = []
        request: Any = {self._table: {"Keys": [{"party": {"S": name}} for name in names], "ConsistentRead": True}}
        pause_s = 0.01
        while True:
            answer = self._client.batch_get_item(RequestItems=request)
            items += answer["Responses"].get(self._table, [])
            request = answer.get("UnprocessedKeys")
            if not request:
                return items
            if time.monotonic() + pause_s > until:
                raise StoreUnavailable("The feature store (dynamodb) is throttled.")
            time.sleep(pause_s)
            pause_s *= 2

    def _put(self, change: Change, now_ms: int) -> bool:
        """Whether it was written; False: in conflict."""
        values: Any = {":now": {"N": str(now_ms)}}
        if change.seen_version:
            values[":seen"] = {"N": str(change.seen_version)}
        try:
            self._client.put_item(
                TableName=self._table,
                Item={
                    "party": {"S": change.party},
                    "version": {"N": str(change.seen_version + 1)},
                    "expires_ms": {"N": str(change.expires_ms)},
                    "expires_at": {"N": str(-(-change.expires_ms // 1000))},  # rounded up: never deleted too early
                    "data": {"B": change.data},
                },
                ConditionExpression=_SAME if change.seen_version else _ABSENT,
                ExpressionAttributeValues=values,
            )
        except ClientError as error:
            if error.response["Error"]["Code"] != "ConditionalCheckFailedException":
                raise
            return False
        return True

    def _within[T](self, until: float, calls: Sequence[Callable[[], T]]) -> list[T]:
        """Run the calls side by side and return their results in order."""
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

    def _unavailable(self, error: Exception) -> StoreUnavailable:
        if isinstance(error, TimeoutError | ConnectTimeoutError | ReadTimeoutError):
            said = f"did not answer within {self._budget_s * 1000:.0f} ms"
        elif not isinstance(error, ClientError):
            said = f"failed: {type(error).__name__}"
        elif (code := error.response["Error"]["Code"]) in _THROTTLED:
            said = "is throttled"
        else:
            said = f"refused: {code if _CODE.fullmatch(code) else 'no code'}"
        return StoreUnavailable(f"The feature store (dynamodb) {said}.")
