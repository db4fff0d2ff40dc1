"""Parties in a DynamoDB table, one item each: for the service on AWS.

The table has the hash key ``party`` (S) and, as its time-to-live attribute, ``expires_at`` (N, seconds). AWS deletes an
expired item some time within days, so ``expires_ms`` is compared here as well. An item is ``party``, ``version``,
``expires_ms``, ``expires_at`` and ``data``; a party with a few events stays below one kilobyte, one write unit.

Changes go out side by side, each a ``PutItem`` with a condition: one round trip in time, and each stands or falls on
its own. ``TransactWriteItems`` is one request, but all or nothing, and costs twice the write units. Reads are
consistent. Needs ``dynamodb:BatchGetItem``, ``dynamodb:PutItem`` and ``dynamodb:DeleteItem`` on the table.
"""

import time
from collections.abc import Sequence
from functools import partial
from typing import Final

from botocore.exceptions import ClientError

from ..aws import Service, code_of, open_service
from . import Change, FeatureStore

#: What is there and has not expired, as a condition of a write; and the opposite.
_SAME: Final = "version = :seen AND expires_ms > :now"
_ABSENT: Final = "attribute_not_exists(party) OR expires_ms <= :now"


def open_url(url: str, budget_s: float) -> FeatureStore:
    """``dynamodb://table[?region=...]``, as :func:`~fraud_api_lambda.aws.open_service` reads it."""
    service, table = open_service("dynamodb", url, budget_s, what="DynamoDB feature store", example="dynamodb://table")
    return DynamoDBFeatureStore(service, table)


class DynamoDBFeatureStore:
    """One table."""

    inline = False

    def __init__(self, service: Service, table: str) -> None:
        self._service = service
        self._table = table

    def read(self, parties: Sequence[str]) -> dict[str, tuple[int, bytes]]:
        now_ms = time.time_ns() // 1_000_000
        keys = [{"party": {"S": party}} for party in dict.fromkeys(parties)]
        return {
            item["party"]["S"]: (int(item["version"]["N"]), bytes(item["data"]["B"]))
            for item in self._service.items(self._table, keys, self._service.until())
            if int(item["expires_ms"]["N"]) > now_ms
        }

    def swap(self, changes: Sequence[Change]) -> list[str]:
        now_ms = time.time_ns() // 1_000_000
        written = self._service.within(
            self._service.until(), [partial(self._put, change, now_ms) for change in changes]
        )
        return [change.party for change, done in zip(changes, written, strict=True) if not done]

    def erase(self, party: str) -> None:
        delete = self._service.client.delete_item
        self._service.call(lambda: delete(TableName=self._table, Key={"party": {"S": party}}))

    def check(self) -> None:
        """The table can be read. That it refuses writes shows when something is written."""
        self.read(["-"])

    def allow(self, budget_s: float) -> None:
        self._service.allow(budget_s)

    def disconnect(self) -> None:
        self._service.disconnect()

    def close(self) -> None:
        self._service.close()

    def _put(self, change: Change, now_ms: int) -> bool:
        """Whether it was written; False: in conflict."""
        values = {":now": {"N": str(now_ms)}}
        if change.seen_version:
            values[":seen"] = {"N": str(change.seen_version)}
        try:
            self._service.client.put_item(
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
            if code_of(error) != "ConditionalCheckFailedException":
                raise
            return False
        return True
