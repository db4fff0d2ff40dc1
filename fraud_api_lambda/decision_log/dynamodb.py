"""Decisions in one DynamoDB table: for the service on AWS. ``docs/adr/0015`` has the reasons and what a write costs.

The table has the keys ``pk`` (S, the transaction's id) and ``sk`` (S): the record is the item ``decision``, its labels
lie beside it as ``label#key``. The label that counts stands in the record's item too, written with the label in one
transaction, so that reading a record is one request and every order of arrival ends in the same place. Whatever a
listing asks for is a ``Query`` on one of six indexes, all in the order of arrival (``at``); four of them hold only the
records that have what they are about. An index entry carries what filters and sums need; the records of a page are then
read from the table itself.

Records go in side by side, each a ``PutItem`` that is refused where the id is taken and then gives what stands there:
one round trip. A call that only a person or a schedule waits for (``erase``, ``forget``) is many requests, and patient
where the table is throttled. An index is some milliseconds behind the table: a record may be listed a moment after it
was written. Expired items (time-to-live ``expires_at``, seconds) are gone on time here, and from the disks within days.

Needs ``dynamodb:`` ``BatchGetItem``, ``GetItem``, ``PutItem``, ``UpdateItem``, ``ConditionCheckItem`` and ``Query`` on
the table, ``Query`` on its indexes; ``DeleteItem`` for ``erase`` and ``forget``.
"""

import json
import re
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final

from botocore.exceptions import ClientError

from ..aws import THREADS, Service, code_of, open_service, throttled
from ..errors import FieldError, InvalidRequest, StoreUnavailable
from . import MAX_PAGE, Day, DecisionLog, Label, Page, Record, Search, Stored, latency_edge, read_cursor, write_cursor

#: index -> its hash key; each has the range key ``at``. The template makes them (a test compares).
INDEXES: Final = {
    "by_time": "kind",
    "by_customer": "customer_id",
    "by_counterparty": "counterparty_id",
    "by_device": "device_id",
    "by_outcome": "alert",
    "by_label": "labelled",
}
#: What the indexes that listings use carry besides keys.
PROJECTED: Final = (
    *("customer_id", "counterparty_id", "alert", "labelled", "probability", "rules", "test", "expires_at"),
    *("amount", "degraded", "latency"),
)

Item = dict[str, Any]
_DECISION: Final = "decision"
_ABSENT: Final = "attribute_not_exists(pk) OR expires_at <= :now"
_PRESENT: Final = "attribute_exists(pk) AND (attribute_not_exists(expires_at) OR expires_at > :now)"
_LESSER: Final = "(attribute_not_exists(label_order) OR label_order < :order)"
_AT: Final = re.compile(r"\d{15}#.+", re.DOTALL)
_DAY_MS: Final = 86_400_000
_END_MS: Final = 999_999_999_999_999

#: Requests that one page of a listing may take, and index entries that one of them may look at: some 300 bytes each.
_QUERIES: Final = 5
_ENTRIES: Final = 1000
#: Requests (of up to a megabyte, some 3,000 decisions) that one day of a summary may take.
_DAY_QUERIES: Final = 16
#: Records for which an append has the budget once.
_PER_BUDGET: Final = 50
#: Records that are deleted in one go, and how many budgets that may take.
_DELETED_AT_ONCE: Final = 200
_PATIENCE: Final = 60


def open_url(url: str, budget_s: float, retention_days: int | None) -> DecisionLog:
    """``dynamodb://table[?region=...]``, as :func:`~fraud_api_lambda.aws.open_service` reads it."""
    service, table = open_service("dynamodb", url, budget_s, what="DynamoDB decision log", example="dynamodb://table")
    return DynamoDBDecisionLog(service, table, retention_days)


class DynamoDBDecisionLog:
    """One table."""

    inline = False
    durable = True

    def __init__(self, service: Service, table: str, retention_days: int | None = None) -> None:
        self._service = service
        self._client = service.client
        self._table = table
        self._retention_s = None if retention_days is None else retention_days * 86_400

    # --- records -----------------------------------------------------------------------------------------------------

    def append(self, records: Sequence[Record]) -> list[Record | None]:
        """A batch has the budget once for every 50 records."""
        first: dict[str, int] = {}
        for number, record in enumerate(records):
            first.setdefault(record.transaction_id, number)
        until = time.monotonic() + self._service.budget_s * -(-len(first) // _PER_BUDGET)
        written = self._service.within(until, [partial(self._put, records[number]) for number in first.values()])
        standing = dict(zip(first, written, strict=True))
        return [
            standing[record.transaction_id]
            or (None if first[record.transaction_id] == number else records[first[record.transaction_id]])
            for number, record in enumerate(records)
        ]

    def find(self, transaction_ids: Sequence[str]) -> dict[str, Stored]:
        return self._find(transaction_ids, self._service.until())

    def _find(self, transaction_ids: Sequence[str], until: float) -> dict[str, Stored]:
        now_s = time.time()
        keys = [_key(transaction_id) for transaction_id in dict.fromkeys(transaction_ids)]
        items = self._service.items(self._table, keys, until)
        return {item["pk"]["S"]: _stored(item) for item in items if _is_current(item, now_s)}

    def _put(self, record: Record) -> Record | None:
        """None where it was written, else what stands there."""
        item = _item(record)
        if self._retention_s is not None:
            item["expires_at"] = {"N": str(-(-record.received_ms // 1000) + self._retention_s)}
        try:
            self._client.put_item(
                TableName=self._table,
                Item=item,
                ConditionExpression=_ABSENT,
                ExpressionAttributeValues=_now(),
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        except ClientError as error:
            if code_of(error) != "ConditionalCheckFailedException":
                raise
            return _record(error.response["Item"])  # type: ignore[typeddict-item]  # there because we asked for it
        return None

    # --- labels ------------------------------------------------------------------------------------------------------

    def label(self, label: Label) -> tuple[Stored, Label] | None:
        until = self._service.until()
        return self._service.within(until, [partial(self._label, label, until)])[0]

    def _label(self, label: Label, until: float) -> tuple[Stored, Label] | None:
        """The label and what it does to the record: both or neither. Begun anew when somebody else was faster."""
        pause_s = 0.005
        while True:
            item = self._get(_key(label.transaction_id))
            if item is None:
                return None
            stored = _stored(item)
            counts = stored.label is None or stored.label.order < label.order
            reasons = self._write_label(label, item, counts=counts)
            if not reasons:
                return (stored._replace(label=label) if counts else stored), label
            if reasons[0]["Code"] == "ConditionalCheckFailed":  # the same label is there, and with it what it does
                standing = _label(label.transaction_id, reasons[0]["Item"])
                again = self._get(_key(label.transaction_id))
                return (_stored(again), standing) if again else None
            if any("Throttling" in reason["Code"] or "Throughput" in reason["Code"] for reason in reasons):
                raise StoreUnavailable("The decision log (dynamodb) is throttled.")
            if time.monotonic() + pause_s > until:
                raise TimeoutError
            time.sleep(pause_s)
            pause_s *= 2

    def _write_label(self, label: Label, record_item: Item, *, counts: bool) -> list[Item]:
        """Empty where written, else why not: of the label's item, then of the record's."""
        text = {"S": json.dumps([label.is_fraud, label.source, label.time_ms, label.received_ms, label.note])}
        item = {**_key(label.transaction_id, f"label#{label.key}"), "label": text}
        if "expires_at" in record_item:
            item["expires_at"] = record_item["expires_at"]
        record: Item = {"TableName": self._table, "Key": _key(label.transaction_id)}
        if counts:
            changed = {
                ":label": text,
                ":order": {"S": label.order},
                ":labelled": {"S": "fraud" if label.is_fraud else "legitimate"},
            }
            effect: Item = {
                "Update": {
                    **record,
                    "UpdateExpression": "SET #label = :label, label_order = :order, labelled = :labelled",
                    "ConditionExpression": f"{_PRESENT} AND {_LESSER}",
                    "ExpressionAttributeNames": {"#label": "label"},
                    "ExpressionAttributeValues": {**_now(), **changed},
                }
            }
        else:
            effect = {
                "ConditionCheck": {
                    **record,
                    "ConditionExpression": _PRESENT,
                    "ExpressionAttributeValues": _now(),
                }
            }
        put = {
            "TableName": self._table,
            "Item": item,
            "ConditionExpression": _ABSENT,
            "ExpressionAttributeValues": _now(),
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        }
        try:
            self._client.transact_write_items(TransactItems=[{"Put": put}, effect])
        except ClientError as error:
            if code_of(error) != "TransactionCanceledException":
                raise
            return [dict(reason) for reason in error.response["CancellationReasons"]]
        return []

    def labels(self, transaction_id: str) -> list[Label]:
        now_s = time.time()
        items = self._service.call(lambda: list(self._beside(transaction_id)))
        labels = [_label(transaction_id, item) for item in items if "label" in item and _is_current(item, now_s)]
        return sorted(labels, key=lambda label: (label.received_ms, label.order))

    def _beside(self, transaction_id: str, **more: Any) -> Iterator[Item]:
        """The labels' items of a transaction."""
        return self._pages(
            KeyConditionExpression="pk = :pk AND begins_with(sk, :label)",
            ExpressionAttributeValues={":pk": {"S": transaction_id}, ":label": {"S": "label#"}},
            ConsistentRead=True,
            **more,
        )

    # --- listings ----------------------------------------------------------------------------------------------------

    def search(self, search: Search) -> Page:
        """Looks at no more than some thousand index entries for one page."""
        until = self._service.until()
        enough = time.monotonic() + self._service.budget_s / 2
        limit = max(1, min(search.limit, MAX_PAGE))
        after = _position(search.cursor) if search.cursor is not None else None
        low = f"{_bounded(search.since_ms, 0):015d}"
        high = f"{_bounded(search.until_ms, _END_MS):015d}"  # less than every entry of that very millisecond
        if after is not None:
            low, high = (max(low, after), high) if search.oldest_first else (low, min(high, after))
        if low > high or "" in (search.customer_id, search.counterparty_id):  # DynamoDB refuses to ask for that
            return Page((), None)
        query = _query(search, low, high)
        found: list[str] = []
        size = limit + 2
        for number in range(_QUERIES):
            answer = self._service.within(until, [partial(self._query, query, size)])[0]
            found += [item["at"]["S"] for item in answer["Items"] if item["at"]["S"] != after]
            last = answer.get("LastEvaluatedKey")
            if last is None or len(found) > limit or (number and time.monotonic() > enough):
                break
            query["ExclusiveStartKey"] = last
            size = min(8 * size, _ENTRIES)
        end = found[limit - 1] if len(found) > limit else last["at"]["S"] if last else None
        found = found[:limit]
        ids = [at.partition("#")[2] for at in found]
        stored = self._find(ids, until) if ids else {}
        # An index is a moment behind: what has been labelled or erased since then is judged by what it is now.
        items = [stored[transaction_id] for transaction_id in ids if transaction_id in stored]
        return Page(tuple(item for item in items if _matches(search, item)), None if end is None else write_cursor(end))

    def summary(self, since_day: int, until_day: int) -> list[Day]:
        """Reads every entry of up to 50,000 decisions a day; once half the budget is gone, of the first 3,000."""
        since_day, until_day = max(0, since_day), min(until_day, _END_MS // _DAY_MS)
        if since_day >= until_day:
            return []
        until = self._service.until()
        width = -(-(until_day - since_day) // THREADS)
        starts = range(since_day, until_day, width)
        parts = [partial(self._days, start, min(start + width, until_day), until) for start in starts]
        return [day for days in self._service.within(until, parts) for day in days]

    def _days(self, since_day: int, until_day: int, until: float) -> list[Day]:
        """Consecutive days, one request after the other; days without an entry take none."""
        half = until - self._service.budget_s / 2
        high = f"{until_day * _DAY_MS:015d}"
        query = _query(Search(test=False), f"{since_day * _DAY_MS:015d}", high)
        query["ScanIndexForward"] = True
        days: dict[int, _DayCount] = {}
        asked: Counter[int] = Counter()
        while True:
            if time.monotonic() > until:
                raise TimeoutError
            answer = self._query(query)
            for item in answer["Items"]:
                day = int(item["at"]["S"][:15]) // _DAY_MS
                days.setdefault(day, _DayCount(day)).add(item)
            last = answer.get("LastEvaluatedKey")
            if last is None:
                return [days[day].done() for day in sorted(days)]
            query["ExclusiveStartKey"] = last
            day = int(last["at"]["S"][:15]) // _DAY_MS
            asked[day] += 1
            if asked[day] >= _DAY_QUERIES or time.monotonic() > half:
                days.setdefault(day, _DayCount(day)).complete = False
                if day + 1 == until_day:
                    return [days[day].done() for day in sorted(days)]
                del query["ExclusiveStartKey"]
                query["ExpressionAttributeValues"][":low"] = {"S": f"{(day + 1) * _DAY_MS:015d}"}

    def _query(self, query: Item, size: int | None = None) -> Item:
        answer: Item = self._client.query(TableName=self._table, **query, **({"Limit": size} if size else {}))
        return answer

    def _pages(self, **query: Any) -> Iterator[Item]:
        """All items of a query, however many requests it takes."""
        while True:
            answer = self._query(query)
            yield from answer["Items"]
            if "LastEvaluatedKey" not in answer:
                return
            query["ExclusiveStartKey"] = answer["LastEvaluatedKey"]

    # --- deletion ----------------------------------------------------------------------------------------------------

    def erase(self, party: str) -> int:
        deleted = 0
        for index in ("by_customer", "by_counterparty", "by_device"):
            deleted += self._delete_all(
                IndexName=index,
                KeyConditionExpression=f"{INDEXES[index]} = :party",
                ExpressionAttributeValues={":party": {"S": party}},
            )
        return deleted

    def forget(self, before_ms: int) -> int:
        return self._delete_all(
            IndexName="by_time",
            KeyConditionExpression="kind = :kind AND #at < :before",
            ExpressionAttributeNames={"#at": "at"},
            ExpressionAttributeValues={
                ":kind": {"S": _DECISION},
                ":before": {"S": f"{_bounded(before_ms, _END_MS):015d}"},
            },
        )

    def _delete_all(self, **query: Any) -> int:
        """Delete what the query finds, page by page; how many there were."""
        deleted = 0
        while True:
            until = time.monotonic() + _PATIENCE * self._service.budget_s
            ask = partial(self._query, query, _DELETED_AT_ONCE)
            answer = self._service.within(until, [partial(self._patiently, ask, until)])[0]
            ids = [item["pk"]["S"] for item in answer["Items"]]
            deleted += sum(self._service.within(until, [partial(self._delete, one, until) for one in ids]))
            if "LastEvaluatedKey" not in answer:
                return deleted
            query["ExclusiveStartKey"] = answer["LastEvaluatedKey"]

    def _delete(self, transaction_id: str, until: float) -> bool:
        """Whether the record was there. Its labels go first, so that a crash leaves nothing that is never found; and
        once more afterwards, for one that came in meanwhile: none can be added to a record that is gone."""

        def delete(key: Item, **more: Any) -> Item:
            call = partial(self._client.delete_item, TableName=self._table, Key=key, **more)
            answer: Item = self._patiently(call, until)
            return answer

        def delete_labels() -> None:
            ask = partial(self._beside, transaction_id, ProjectionExpression="pk, sk")
            for item in self._patiently(lambda: list(ask()), until):
                delete({"pk": item["pk"], "sk": item["sk"]})

        delete_labels()
        there = "Attributes" in delete(_key(transaction_id), ReturnValues="ALL_OLD")
        delete_labels()
        return there

    def _patiently[T](self, call: Callable[[], T], until: float) -> T:
        """The call's result; called again after a pause, ever longer, while the table is throttled."""
        pause_s = 0.05
        while True:
            try:
                return call()
            except ClientError as error:
                if not throttled(error) or time.monotonic() + pause_s > until:
                    raise
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 2.0)

    # --- the rest ----------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """The table can be read. That it refuses writes shows when something is written."""
        self.find(["-"])

    def allow(self, budget_s: float) -> None:
        self._service.allow(budget_s)

    def disconnect(self) -> None:
        self._service.disconnect()

    def close(self) -> None:
        self._service.close()

    def _get(self, key: Item) -> Item | None:
        item: Item | None = self._client.get_item(TableName=self._table, Key=key, ConsistentRead=True).get("Item")
        return item if item and _is_current(item, time.time()) else None


# --- items -----------------------------------------------------------------------------------------------------------


def _item(record: Record) -> Item:
    """Attributes for what indexes and filters look at, each only where it says something; all the rest packed."""
    item: Item = {
        **_key(record.transaction_id),
        "kind": {"S": _DECISION},
        "at": {"S": f"{record.received_ms:015d}#{record.transaction_id}"},
        "amount": {"N": str(record.amount_minor)},
        "latency": {"N": str(record.latency_us)},
        "digest": {"B": record.digest},
        "data": {"B": _pack(record)},
    }
    for name in ("customer_id", "counterparty_id", "device_id"):
        if party := getattr(record, name):
            item[name] = {"S": party}
    for name in ("rules", "degraded"):
        if texts := getattr(record, name):
            item[name] = {"L": [{"S": text} for text in texts]}
    if record.outcome != "approve":
        item["alert"] = {"S": record.outcome}
    if record.probability is not None:
        # For filters only, and a number of DynamoDB has no exponent below -130: to the bit it is in `data`.
        item["probability"] = {"N": repr(record.probability) if abs(record.probability) >= 1e-120 else "0"}
    if record.test:
        item["test"] = {"BOOL": True}
    return item


def _record(item: Item) -> Record:
    def texts(name: str) -> Any:
        return tuple(part["S"] for part in item.get(name, {"L": ()})["L"])

    head, answer, document = _unpack(bytes(item["data"]["B"]))
    time_ms, decided_by, probability, model_version, rules_version = head
    return Record(
        transaction_id=item["pk"]["S"],
        digest=bytes(item["digest"]["B"]),
        answer=answer,
        received_ms=int(item["at"]["S"][:15]),
        time_ms=time_ms,
        customer_id=item.get("customer_id", {}).get("S"),
        counterparty_id=item.get("counterparty_id", {}).get("S"),
        device_id=item.get("device_id", {}).get("S"),
        amount_minor=int(item["amount"]["N"]),
        outcome=item.get("alert", {"S": "approve"})["S"],
        decided_by=decided_by,
        probability=probability,
        rules=texts("rules"),
        model_version=model_version,
        rules_version=rules_version,
        latency_us=int(item["latency"]["N"]),
        test="test" in item,
        degraded=texts("degraded"),
        document=document,
    )


def _pack(record: Record) -> bytes:
    """A format number, then compressed: a line of JSON with lengths and small things, answer, document."""
    document = record.document.encode()
    head = [record.time_ms, record.decided_by, record.probability, record.model_version, record.rules_version]
    packer = zlib.compressobj(level=9, zdict=_WORDS)
    line = json.dumps([len(record.answer), head]).encode()
    return b"\x01" + packer.compress(line + b"\n" + record.answer + document) + packer.flush()


def _unpack(data: bytes) -> tuple[list[Any], bytes, str]:
    if data[:1] != b"\x01":
        raise StoreUnavailable("The decision log (dynamodb) holds a record of a format that is not known here.")
    line, _, rest = zlib.decompressobj(zdict=_WORDS).decompress(data[1:]).partition(b"\n")
    length, head = json.loads(line)
    return head, rest[:length], rest[length:].decode()


def _label(transaction_id: str, item: Item) -> Label:
    is_fraud, source, time_ms, received_ms, note = json.loads(item["label"]["S"])
    return Label(transaction_id, is_fraud, source, time_ms, received_ms, note)


def _stored(item: Item) -> Stored:
    return Stored(_record(item), _label(item["pk"]["S"], item) if "label" in item else None)


def _key(transaction_id: str, sort: str = _DECISION) -> Item:
    return {"pk": {"S": transaction_id}, "sk": {"S": sort}}


def _now() -> Item:
    return {":now": {"N": str(int(time.time()))}}


def _is_current(item: Item, now_s: float) -> bool:
    return "expires_at" not in item or int(item["expires_at"]["N"]) > now_s


# --- queries ---------------------------------------------------------------------------------------------------------


def _query(search: Search, low: str, high: str) -> Item:
    """The query on the index that leaves the fewest entries to look at; the search's other wishes are its filter."""
    wishes: Item = {
        "customer_id": search.customer_id,
        "counterparty_id": search.counterparty_id,
        "labelled": search.label if search.label != "none" else None,
        "alert": search.outcome if search.outcome != "approve" else None,
        "kind": _DECISION,
    }
    equal = {name: value for name, value in wishes.items() if value is not None}
    order = ("by_customer", "by_counterparty", "by_label", "by_outcome", "by_time")
    index = next(index for index in order if INDEXES[index] in equal)
    hash_key = INDEXES[index]
    values: Item = {f":{hash_key}": {"S": equal.pop(hash_key)}, ":low": {"S": low}, ":high": {"S": high}, **_now()}
    equal.pop("kind", None)
    conditions = ["(attribute_not_exists(#expires_at) OR #expires_at > :now)"]
    for name, value in equal.items():
        values[f":{name}"] = {"S": value}
        conditions.append(f"#{name} = :{name}")
    if search.label == "none":
        conditions.append("attribute_not_exists(#labelled)")
    if search.outcome == "approve":
        conditions.append("attribute_not_exists(#alert)")
    if search.min_probability is not None:
        values[":probability"] = {"N": repr(float(search.min_probability))}
        conditions.append("#probability >= :probability")
    if search.rule is not None:
        values[":rule"] = {"S": search.rule}
        conditions.append("contains(#rules, :rule)")
    if search.test is not None:
        conditions.append(f"attribute_{'exists' if search.test else 'not_exists'}(#test)")
    key = f"#{hash_key} = :{hash_key} AND #at BETWEEN :low AND :high"
    filters = " AND ".join(conditions)
    return {
        "IndexName": index,
        "KeyConditionExpression": key,
        "FilterExpression": filters,
        "ExpressionAttributeNames": {name: name[1:] for name in set(re.findall(r"#\w+", f"{key} {filters}"))},
        "ExpressionAttributeValues": values,
        "ScanIndexForward": search.oldest_first,
    }


def _matches(search: Search, stored: Stored) -> bool:
    record, label = stored
    labelled = "none" if label is None else "fraud" if label.is_fraud else "legitimate"
    return (
        search.label in (None, labelled)
        and search.outcome in (None, record.outcome)
        and search.customer_id in (None, record.customer_id)
        and search.counterparty_id in (None, record.counterparty_id)
        and (search.rule is None or search.rule in record.rules)
        and search.test in (None, record.test)
        and (
            search.min_probability is None
            or (record.probability is not None and record.probability >= search.min_probability)
        )
    )


def _position(cursor: str) -> str:
    try:
        (position,) = read_cursor(cursor)
        if _AT.fullmatch(position):
            return str(position)
    except (ValueError, TypeError, RecursionError):
        pass
    message = "must be the cursor of the page before, as it was given"
    raise InvalidRequest("The cursor is none of this log.", (FieldError("cursor", message),)) from None


def _bounded(time_ms: int | None, otherwise: int) -> int:
    return otherwise if time_ms is None else max(0, min(time_ms, _END_MS))


# --- a day -----------------------------------------------------------------------------------------------------------


class _DayCount:
    """The sums of one day, entry by entry."""

    def __init__(self, day: int) -> None:
        self.day = day
        self.complete = True
        self.by_outcome: Counter[str] = Counter()
        self.labels: Counter[tuple[bool, bool]] = Counter()
        self.fraud_minor: Counter[bool] = Counter()
        self.latency: Counter[int] = Counter()
        self.degraded = self.amount = self.declined = 0

    def add(self, item: Item) -> None:
        amount = int(item["amount"]["N"])
        outcome = item.get("alert", {"S": "approve"})["S"]
        flagged = outcome != "approve"
        self.by_outcome[outcome] += 1
        self.degraded += "degraded" in item
        self.amount += amount
        self.declined += amount if outcome == "decline" else 0
        self.latency[latency_edge(int(item["latency"]["N"]))] += 1
        if "labelled" in item:
            is_fraud = item["labelled"]["S"] == "fraud"
            self.labels[flagged, is_fraud] += 1
            if is_fraud:
                self.fraud_minor[flagged] += amount

    def done(self) -> Day:
        return Day(
            day=self.day,
            decisions=self.by_outcome.total(),
            by_outcome=dict(self.by_outcome),
            degraded=self.degraded,
            amount_minor=self.amount,
            declined_minor=self.declined,
            labels=dict(self.labels),
            fraud_minor=dict(self.fraud_minor),
            latency_us=tuple(sorted(self.latency.items())),
            complete=self.complete,
        )


#: What answers and documents are made of, for the compressor: format 1 is read with these very words, so they never
#: change. (New words would be format 2.) The likeliest come last.
_WORDS: Final = (
    b'"code":"AMOUNT_RATIO","feature":"counterparty_distinct_senders_7d""code":"NEW_COUNTERPARTY","code":"TYPE",'
    b" is not known yet; the usual value raises the risk. was not sent; the usual value lowers the risk."
    b'"text":"The amount against the customer\'s average of 7 days "text":"What the customer sent in 24 hours '
    b'"text":"The counterparty\'s receipts in 24 hours The time since the customer\'s last transaction '
    b'"text":"That it did not happen at night That it empties the account to the cent raises the risk."},{"code":"'
    b"Approved: no model is loaded and no rule fired.Sent to review by rule Declined by rule "
    b"Sent to review: Declined: Approved: the fraud probability of % is below the review threshold of %."
    b"at or above the decline threshold of at or above the review threshold of "
    b'"explanation":"list","fallback","rule","FRAUD","decline","review","feature_store","decision_log"'
    b'[0, ["model", 0.000, "fallback", null, "rules+"]]\n'
    b'{"transaction_id":"","fraud_probability":0.00,"is_fraud":true,"is_fraud":false,"prediction":"LEGIT",'
    b'"confidence":0.99,"outcome":"approve","decided_by":"model","threshold":0.,"thresholds":{"review":0.,"decline":0.9},'
    b'"rules":[],"reasons":[],"reasons":[{"code":"","feature":"","value":1.0,"contribution":0.,"text":"The "}],'
    b'"explanation":"","amount":100.0,"currency":"USD","amount_base":,"base_currency":"EUR",'
    b'"model_version":"","rules_version":"","scored_at":"2026-01-01T00:00:00.000Z","test":false,"degraded":[]}'
    b'{"event":{"transaction_id":"","time_ms":17,"amount":0,"currency":"USD","amount_minor":00,"type_code":1,'
    b'"customer_id":"C","counterparty_id":"M","device_id":null,"oldbalance_orig":null,"newbalance_orig":null,'
    b'"oldbalance_dest":null,"newbalance_dest":null,"lat":null,"long":null,"attributes":{}},"features":{"amount":10.0,'
    b'"is_payment":0.0,"is_transfer":1.0,"is_cash_out":0.0,"is_cash_in":0.0,"is_debit":0.0,"hour_of_day":1,'
    b'"day_of_week":1.0,"is_night":0.0,"oldbalance_orig":0.0,"oldbalance_dest":0.0,"amount_to_balance":0.0,'
    b'"drains_account":0.0,"balance_shortfall":0.0,"dest_was_empty":0.0,"newbalance_orig":0.0,'
    b'"newbalance_dest":0.0,"balance_error_orig":0.0,"balance_error_dest":0.0,"latitude":0.0,"longitude":0.0,'
    b'"count_last_1h":0.0,"amount_last_1h":0.0,"count_24h":0.0,"amount_24h":0.0,"avg_amount_7d":0.0,'
    b'"amount_ratio":0.0,"avg_amount_30d":0.0,"count_30d":0.0,"seconds_since_last":0.0,"new_counterparty":1.0,'
    b'"distance_km":0.0,"speed_kmh":0.0,"in_last_1h":0.0,"out_last_1h":0.0,"in_out_ratio":0.0,"new_device":0.0,'
    b'"counterparty_count_24h":0.0,"counterparty_amount_24h":0.0,"counterparty_distinct_senders_7d":0.0,'
    b'"counterparty_age_days":0.0,"counterparty_count_30d":0.0,"counterparty_fraud_rate_1d":0.0,'
    b'"counterparty_fraud_rate_7d":0.0,"counterparty_fraud_rate_30d":0.0},'
    b'"members":{"logistic":-1.0,"isolation_forest":0.,"xgboost":-2.},"versions":{"":0,"":1}}'
)
