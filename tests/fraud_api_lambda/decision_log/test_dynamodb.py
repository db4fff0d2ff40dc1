"""The decision log in DynamoDB: which requests it makes, what an item costs, and what becomes of a table in trouble."""

import base64
import hashlib
import itertools
import json
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import boto3
import pytest

from fraud_api_lambda.aws import Service
from fraud_api_lambda.decision_log import MAX_PAGE, DecisionLog, Search, Stored, dynamodb, open_decision_log
from fraud_api_lambda.decision_log.dynamodb import INDEXES, PROJECTED, DynamoDBDecisionLog
from fraud_api_lambda.errors import SettingsError, StoreUnavailable
from tests.fraud_api_lambda.decision_log.records import DAY_MS, NOON_MS, generate, label, record
from tests.fraud_api_lambda.decision_log.servers import table_in_template
from tests.servers import REGION, http_server, name_aws

pytestmark = pytest.mark.server

Requests = list[tuple[str, dict[str, Any]]]


@contextmanager
def opened(table: str, *, budget_ms: int = 20_000, retention_days: int | None = None) -> Iterator[DecisionLog]:
    log = open_decision_log(f"dynamodb://{table}", budget_ms=budget_ms, retention_days=retention_days)
    yield log
    log.close()


@contextmanager
def recorded(log: DecisionLog) -> Iterator[Requests]:
    """Every request that the log makes: the operation and what it was given."""
    assert isinstance(log, DynamoDBDecisionLog)
    requests: Requests = []

    def note(params: dict[str, Any], model: Any, **_: Any) -> None:
        requests.append((model.name, params))

    events = log._client.meta.events
    events.register("provide-client-params.dynamodb", note)
    yield requests
    events.unregister("provide-client-params.dynamodb", note)


def operations(requests: Requests) -> list[str]:
    return [name for name, _ in requests]


# --- requests --------------------------------------------------------------------------------------------------------

#: A listing's filter -> the index that answers it.
ASKED: list[tuple[dict[str, Any], str]] = [
    ({}, "by_time"),
    ({"since_ms": NOON_MS}, "by_time"),
    ({"until_ms": NOON_MS}, "by_time"),
    ({"min_probability": 0.5}, "by_time"),
    ({"rule": "night"}, "by_time"),
    ({"test": True}, "by_time"),
    ({"test": False}, "by_time"),
    ({"outcome": "approve"}, "by_time"),
    ({"outcome": "review"}, "by_outcome"),
    ({"outcome": "decline"}, "by_outcome"),
    ({"label": "none"}, "by_time"),
    ({"label": "fraud"}, "by_label"),
    ({"label": "legitimate"}, "by_label"),
    ({"customer_id": "C1"}, "by_customer"),
    ({"counterparty_id": "M1"}, "by_counterparty"),
    ({"outcome": "review", "label": "none"}, "by_outcome"),
    ({"outcome": "review", "label": "fraud"}, "by_label"),
    ({"outcome": "review", "customer_id": "C1", "rule": "night"}, "by_customer"),
    ({"counterparty_id": "M1", "label": "fraud"}, "by_counterparty"),
]


def test_every_filter_of_a_listing_is_a_query_on_a_named_index_and_never_a_scan(table: str) -> None:
    filters = set(Search.__dataclass_fields__) - {"oldest_first", "limit", "cursor"}
    assert {name for asked, _ in ASKED for name in asked} == filters, "a filter that this test does not know"
    with opened(table) as log:
        log.append(generate(60))
        for (asked, index), oldest_first in itertools.product(ASKED, (False, True)):
            with recorded(log) as requests:
                log.search(Search(**asked, oldest_first=oldest_first))
            assert set(operations(requests)) <= {"Query", "BatchGetItem"}, asked
            assert {given["IndexName"] for name, given in requests if name == "Query"} == {index}, asked


def test_no_method_scans(table: str) -> None:
    with opened(table, retention_days=10_000) as log, recorded(log) as requests:
        log.check()
        log.append([record(), record("t-2", device_id="D1")])
        log.find(["t-1"])
        log.label(label())
        log.labels("t-1")
        log.search(Search())
        log.summary(0, 30_000)
        log.erase("D1")
        log.forget(NOON_MS + 1)
    asked = {(name, given.get("IndexName")) for name, given in requests if name == "Query"}
    assert asked == {("Query", index) for index in (None, "by_time", "by_customer", "by_counterparty", "by_device")}
    assert set(operations(requests)) == {
        *("BatchGetItem", "DeleteItem", "GetItem", "PutItem", "Query", "TransactWriteItems"),
    }


def test_a_request_on_the_way_to_the_reply_is_one_round_trip(table: str) -> None:
    with opened(table) as log:
        with recorded(log) as requests:
            log.append([record(f"t-{number}") for number in range(3)])
        assert operations(requests) == ["PutItem"] * 3  # side by side
        with recorded(log) as requests:
            assert log.append([record()]) == [record()]
        assert operations(requests) == ["PutItem"]  # which gives what stands there
        with recorded(log) as requests:
            log.find([f"t-{number}" for number in range(3)])
        assert operations(requests) == ["BatchGetItem"]


def test_a_page_looks_at_a_bounded_number_of_entries_and_goes_on_where_it_stopped(
    table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dynamodb, "_ENTRIES", 10)
    records = [record(f"t-{number:03}", received_ms=NOON_MS + number, probability=0.1) for number in range(150)]
    wanted = replace(records[3], transaction_id="wanted", probability=0.9)
    with opened(table) as log:
        log.append([*records, wanted])
        search, found, pages = Search(min_probability=0.5, limit=5), [], 0
        while True:
            with recorded(log) as requests:
                page = log.search(search)
            queries = [given for name, given in requests if name == "Query"]
            assert len(queries) <= dynamodb._QUERIES
            assert sum(given["Limit"] for given in queries) <= 50
            found += page.items
            pages += 1
            if page.cursor is None:
                break
            search = replace(search, cursor=page.cursor)
    assert found == [Stored(wanted)]
    assert pages > 3


def test_a_page_of_200_is_two_requests_of_a_hundred_and_a_query(table: str) -> None:
    with opened(table) as log:
        log.append([record(f"t-{number:03}", received_ms=NOON_MS + number) for number in range(250)])
        with recorded(log) as requests:
            assert len(log.search(Search(limit=MAX_PAGE)).items) == MAX_PAGE
    assert sorted(operations(requests)) == ["BatchGetItem", "BatchGetItem", "Query"]


# --- items -----------------------------------------------------------------------------------------------------------


def test_the_templates_indexes_are_those_that_are_asked() -> None:
    indexes = {index["IndexName"]: index for index in table_in_template()["GlobalSecondaryIndexes"]}
    assert indexes.keys() == INDEXES.keys()
    for name, hash_key in INDEXES.items():
        keys = [(key["AttributeName"], key["KeyType"]) for key in indexes[name]["KeySchema"]]
        assert keys == [(hash_key, "HASH"), ("at", "RANGE")]
        if name == "by_device":  # nothing but erasing a party asks it
            assert indexes[name]["Projection"] == {"ProjectionType": "KEYS_ONLY"}
        else:
            assert set(indexes[name]["Projection"]["NonKeyAttributes"]) | {hash_key} == {*PROJECTED, hash_key}


def size(item: dict[str, Any]) -> int:
    """What DynamoDB counts of an item, in bytes: names and values, a number at a byte for two digits and one more."""

    def value(typed: dict[str, Any]) -> int:
        ((kind, given),) = typed.items()
        if kind == "S":
            return len(given.encode())
        if kind == "N":
            return len(given.strip("-0.")) // 2 + 2
        if kind == "L":
            return 3 + sum(1 + value(each) for each in given)
        return 1 if kind == "BOOL" else len(given)

    return sum(len(name) + value(typed) for name, typed in item.items())


#: An answer and a document as the service makes them, of an approval with two parties.
ANSWER = (
    b'{"transaction_id":"5f0c3f1e-8a55-4d39-b2a4-6d3f1f6f0a11","fraud_probability":0.013290237612341,"is_fraud":false,'
    b'"prediction":"LEGIT","confidence":0.98670976238765,"outcome":"approve","decided_by":"model","threshold":0.31,'
    b'"thresholds":{"review":0.31,"decline":0.9},"rules":[],"reasons":[],"explanation":"Approved: the fraud '
    b'probability of 1.33% is below the review threshold of 31.00%.","amount":181.25,"currency":"USD",'
    b'"amount_base":181.25,'
    b'"base_currency":"USD","model_version":"20261121-1c2d3e4f","rules_version":"demo+c8114779","scored_at":'
    b'"2026-11-25T11:10:50.707Z","test":false,"degraded":[]}'
)
DOCUMENT = (
    '{"event":{"transaction_id":"5f0c3f1e-8a55-4d39-b2a4-6d3f1f6f0a11","time_ms":1795605050707,"amount":181.25,'
    '"currency":"USD","amount_minor":18125,"type_code":1,"customer_id":"C1305486145","counterparty_id":"C553264065",'
    '"device_id":null,"oldbalance_orig":918100.0,"newbalance_orig":null,"oldbalance_dest":0.0,"newbalance_dest":null,'
    '"lat":null,"long":null,"attributes":{}},"features":{"amount":181.25,"is_payment":0.0,"is_transfer":1.0,'
    '"is_cash_out":0.0,"is_cash_in":0.0,"is_debit":0.0,"hour_of_day":11.0,"day_of_week":2.0,"is_night":0.0,'
    '"oldbalance_orig":9181.0,"oldbalance_dest":0.0,"amount_to_balance":0.01974185818538285,"drains_account":0.0,'
    '"balance_shortfall":0.0,"dest_was_empty":1.0,"count_last_1h":1.0,"amount_last_1h":55.1,"count_24h":3.0,'
    '"amount_24h":233.85,"avg_amount_7d":66.66428571428571,"amount_ratio":2.7188470266238078,"avg_amount_30d":70.1175,'
    '"count_30d":12.0,"seconds_since_last":3333.21,"new_counterparty":1.0,"in_last_1h":0.0,"out_last_1h":55.1,'
    '"in_out_ratio":0.0,"counterparty_count_24h":4.0,"counterparty_amount_24h":812.77,'
    '"counterparty_distinct_senders_7d":9.0,"counterparty_age_days":77.25,"counterparty_count_30d":31.0,'
    '"counterparty_fraud_rate_1d":0.0,"counterparty_fraud_rate_7d":0.0,"counterparty_fraud_rate_30d":0.0},'
    '"members":{"xgboost":-4.319281578063965,"logistic":-3.9182},"versions":{"C1305486145":12,"C553264065":31}}'
)


def approval(**changes: Any) -> Any:
    return record(
        "5f0c3f1e-8a55-4d39-b2a4-6d3f1f6f0a11",
        answer=ANSWER,
        document=DOCUMENT,
        customer_id="C1305486145",
        counterparty_id="C553264065",
        model_version="20261121-1c2d3e4f",
        rules_version="demo+c8114779",
        **changes,
    )


def test_an_approval_is_one_write_unit_in_the_table_and_one_in_each_index(table: str) -> None:
    with opened(table, retention_days=400) as log:
        log.append([approval()])
    client = boto3.client("dynamodb", region_name=REGION)
    (item,) = client.scan(TableName=table)["Items"]
    client.close()
    assert 500 < size(item) <= 1024
    entry = {name: value for name, value in item.items() if name in (*PROJECTED, "pk", "sk", "kind", "at")}
    assert size(entry) <= 400
    # Without the words that answers and documents are made of it would be two.
    assert len(item["data"]["B"]) < 0.7 * len(zlib.compress(ANSWER + DOCUMENT.encode(), 9))


def test_what_says_nothing_takes_no_room_and_no_entry_in_an_index(table: str) -> None:
    with opened(table) as log:
        log.append([record()])
        log.append([record("t-2", outcome="review", device_id="D1", rules=("night",), test=True, degraded=("model",))])
    client = boto3.client("dynamodb", region_name=REGION)
    items = {item["pk"]["S"]: item for item in client.scan(TableName=table)["Items"]}
    client.close()
    plain = {"pk", "sk", "kind", "at", "amount", "latency", "digest", "data", "customer_id", "counterparty_id"}
    assert items["t-1"].keys() == {*plain, "probability"}
    more = {"probability", "alert", "device_id", "rules", "test", "degraded"}
    assert items["t-2"].keys() == plain | more


def test_records_of_format_1_are_read_for_ever() -> None:
    assert hashlib.sha256(dynamodb._WORDS).hexdigest() == (
        "2b73255b447bc42f73948617d54a0ee9bf5c7412472c6e6798eb7cb7945b1f24"
    ), "the words of format 1 never change: what was written with them could not be read any more"
    assert dynamodb._record(dynamodb._item(approval())) == approval()


def test_a_record_of_a_later_format_is_not_guessed_at() -> None:
    item = dynamodb._item(record())
    item["data"] = {"B": b"\x02" + item["data"]["B"][1:]}
    with pytest.raises(StoreUnavailable, match="format"):
        dynamodb._record(item)


# --- expiry ----------------------------------------------------------------------------------------------------------


def test_a_record_and_its_labels_expire_after_the_days_of_retention(table: str) -> None:
    now_ms = time.time_ns() // 1_000_000
    old, young = (
        record("t-old", received_ms=now_ms - 31 * DAY_MS),
        record("t-young", received_ms=now_ms - 29 * DAY_MS - 1),
    )
    with opened(table) as log:  # as it was before anybody asked for retention
        log.append([record("t-kept", received_ms=now_ms - 90 * DAY_MS)])
    with opened(table, retention_days=30) as log:
        log.append([old, young])
        assert log.find(["t-old"]) == {}
        assert log.label(label("t-old")) is None
        log.label(label("t-young"))
        assert {stored.record.transaction_id for stored in log.search(Search()).items} == {"t-young", "t-kept"}
        assert sum(day.decisions for day in log.summary(0, 100_000)) == 2
        assert log.append([replace(old, received_ms=now_ms)]) == [None], "the id is free again"
        assert log.forget(now_ms - 30 * DAY_MS) == 1
        assert {stored.record.transaction_id for stored in log.search(Search()).items} == {"t-young", "t-old"}
    client = boto3.client("dynamodb", region_name=REGION)
    items = client.scan(TableName=table)["Items"]
    client.close()
    expiry = {int(item["expires_at"]["N"]) for item in items if item["pk"]["S"] == "t-young"}
    assert expiry == {-(-young.received_ms // 1000) + 30 * 86_400}
    assert sum(item["pk"]["S"] == "t-young" for item in items) == 2, "the record and its label"


# --- trouble ---------------------------------------------------------------------------------------------------------


def test_what_a_table_refuses_or_throttles_is_unavailable_and_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    codes = [("ProvisionedThroughputExceededException", "throttled"), ("AccessDenied", "refused: AccessDenied")]

    def answer(operation: str, body: bytes) -> tuple[int, bytes]:
        asked.append(operation)
        return 400, json.dumps({"__type": f"com.amazon#{codes[0][0]}", "message": "a-secret-key"}).encode()

    with http_server(answer) as endpoint:
        name_aws(monkeypatch, endpoint)
        with opened("decisions") as log:
            while codes:
                for call in (
                    lambda: log.append([record()]),
                    lambda: log.find(["t-1"]),
                    lambda: log.search(Search()),
                    lambda: log.summary(0, 1),
                    lambda: log.labels("t-1"),
                    lambda: log.label(label()),
                ):
                    asked.clear()
                    with pytest.raises(StoreUnavailable, match=codes[0][1]) as caught:
                        call()
                    assert len(asked) == 1
                    assert "a-secret-key" not in str(caught.value)
                codes.pop(0)


def test_a_batch_has_the_budget_once_for_every_50_records(table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []
    within = Service.within

    def noted(service: Service, until: float, calls: Any) -> Any:
        given.append(until - time.monotonic())
        return within(service, until, calls)

    monkeypatch.setattr(Service, "within", noted)
    with opened(table, budget_ms=20_000) as log:
        for count in (1, 50, 51, 160):
            log.append([record(f"t-{count}-{number}") for number in range(count)])
    assert [round(seconds / 20) for seconds in given] == [1, 1, 2, 4]


def cancelled(*codes: str) -> tuple[int, bytes]:
    reasons = [{"Code": code, "Message": "a-secret-key"} for code in codes]
    error = {
        "__type": "com.amazonaws.dynamodb.v20120810#TransactionCanceledException",
        "Message": "Transaction cancelled",
    }
    return 400, json.dumps({**error, "CancellationReasons": reasons}).encode()


def as_wire(item: dict[str, Any]) -> dict[str, Any]:
    """An item as DynamoDB answers it: bytes in base64."""
    return {
        name: {"B": base64.b64encode(value["B"]).decode()} if "B" in value else value for name, value in item.items()
    }


def test_a_label_that_meets_another_is_tried_again_and_a_throttled_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    answers: list[tuple[int, bytes]] = []

    def answer(operation: str, body: bytes) -> tuple[int, bytes]:
        asked.append(operation)
        if operation == "GetItem":
            return 200, json.dumps({"Item": as_wire(dynamodb._item(record()))}).encode()
        return answers.pop(0)

    with http_server(answer) as endpoint:
        name_aws(monkeypatch, endpoint)
        with opened("decisions") as log:
            answers[:] = [
                cancelled("None", "TransactionConflict"),
                cancelled("TransactionConflict", "None"),
                (200, b"{}"),
            ]
            assert log.label(label()) == (Stored(record(), label()), label())
            assert asked == ["GetItem", "TransactWriteItems"] * 3
            answers[:] = [cancelled("ThrottlingError", "None")]
            with pytest.raises(StoreUnavailable, match="throttled"):
                log.label(label())
        with opened("decisions", budget_ms=250) as log:
            answers[:] = [cancelled("None", "TransactionConflict")] * 1_000
            with pytest.raises(StoreUnavailable, match="did not answer within 250 ms"):
                log.label(label())


def test_erasing_waits_where_the_table_is_throttled(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def answer(operation: str, body: bytes) -> tuple[int, bytes]:
        request = json.loads(body)
        seen.append(operation)
        if seen.count(operation) == 1:
            return 400, b'{"__type": "com.amazon#ProvisionedThroughputExceededException"}'
        if operation == "DeleteItem":
            return 200, json.dumps({"Attributes": {"pk": {"S": "t-1"}}}).encode()
        there = request.get("IndexName") == "by_customer"
        return 200, json.dumps({"Items": [{"pk": {"S": "t-1"}, "sk": {"S": "decision"}}] if there else []}).encode()

    with http_server(answer) as endpoint:
        name_aws(monkeypatch, endpoint)
        with opened("decisions", budget_ms=1_000) as log:
            assert log.erase("C1") == 1
    assert seen.count("DeleteItem") == 2


def test_a_day_with_too_many_decisions_is_counted_in_part_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table answers one decision at a time and always has one more, on day 20,000; on the next there is one."""
    first = 20_000
    asked: list[int] = []

    def answer(operation: str, body: bytes) -> tuple[int, bytes]:
        low = json.loads(body)["ExpressionAttributeValues"][":low"]["S"]
        day = int(low[:15]) // DAY_MS
        asked.append(day)
        entry = {
            **{name: {"S": text} for name, text in (("pk", "t"), ("sk", "decision"), ("kind", "decision"))},
            "at": {"S": f"{day * DAY_MS + len(asked):015d}#t"},
            "amount": {"N": "5"},
            "latency": {"N": "100"},
        }
        last = {"LastEvaluatedKey": {name: entry[name] for name in ("pk", "sk", "kind", "at")}} if day == first else {}
        return 200, json.dumps({"Items": [entry], **last}).encode()

    with http_server(answer) as endpoint:
        name_aws(monkeypatch, endpoint)
        monkeypatch.setattr(dynamodb, "THREADS", 1)  # one part of two days
        with opened("decisions") as log:
            days = log.summary(first, first + 2)
    assert [(day.day, day.decisions, day.complete) for day in days] == [
        (first, dynamodb._DAY_QUERIES, False),
        (first + 1, 1, True),
    ]


@pytest.mark.parametrize("url", ["dynamodb://", "dynamodb://key:hunter2@table", "dynamodb://table?regions=hunter2"])
def test_a_malformed_url_is_told_the_form_and_never_repeated(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name_aws(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(SettingsError, match="dynamodb://table") as caught:
        open_decision_log(url)
    assert "hunter2" not in str(caught.value)
