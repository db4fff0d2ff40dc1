"""The contract as it is published: the committed document is the generated one, and it tells the truth.

Run as a program, this file writes the document anew: ``PYTHONPATH=. python tests/fraud_api_lambda/test_openapi.py``.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from fraud_api_lambda.access import ROLES
from fraud_api_lambda.app import EXAMPLES, create_app
from fraud_api_lambda.errors import InvalidRequest
from fraud_api_lambda.reload import ModelSource
from fraud_api_lambda.schemas import CARD_COLUMNS, Decision, Transaction, parse_transaction
from fraud_api_lambda.scoring import FraudScorer
from tests.fraud_api_lambda.asgi import Client
from tests.fraud_api_lambda.payloads import ALL, HOSTILE

COMMITTED = Path(__file__).resolve().parents[2] / "docs" / "openapi.json"


def generated() -> dict[str, Any]:
    """The document of an app that serves nothing: it does not depend on a bundle."""
    return create_app(FraudScorer(ModelSource("file://models/current", dict))).openapi()


def text_of(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return generated()


def checker(document: dict[str, Any], schema: str) -> Draft202012Validator:
    return Draft202012Validator({"$ref": f"#/components/schemas/{schema}", "components": document["components"]})


def test_the_committed_document_is_the_generated_one(document: dict[str, Any]) -> None:
    mend = "docs/openapi.json is out of date: PYTHONPATH=. python tests/fraud_api_lambda/test_openapi.py"
    assert COMMITTED.read_text() == text_of(document), mend


def test_the_document_is_valid_openapi(document: dict[str, Any]) -> None:
    validate(document)


def test_the_document_is_what_the_service_answers_with_or_without_a_bundle(
    document: dict[str, Any], either: Client
) -> None:
    assert either.get("/openapi.json").json() == document


def test_every_route_is_in_it_and_says_what_it_is_for(document: dict[str, Any]) -> None:
    routes = {(method, path) for path, item in document["paths"].items() for method in item}
    undescribed = {("get", "/docs"), ("get", "/openapi.json")}
    assert routes == {(method.lower(), path) for method, path in ROLES} - undescribed
    assert all(operation["summary"] for item in document["paths"].values() for operation in item.values())


def test_the_examples_under_docs_are_the_ones_that_are_tested(document: dict[str, Any]) -> None:
    content = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]
    assert {name: item["value"] for name, item in content["examples"].items()} == EXAMPLES


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_validates_is_answered_and_so_is_its_answer(
    document: dict[str, Any], either: Client, name: str
) -> None:
    checker(document, "Transaction").validate(EXAMPLES[name])
    answer = either.post("/predict?explain=true", json=EXAMPLES[name])
    assert answer.status_code == 200
    checker(document, "Decision").validate(answer.json())


def test_the_batchs_example_validates_is_answered_and_so_is_its_answer(
    document: dict[str, Any], either: Client
) -> None:
    body = document["paths"]["/predict/batch"]["post"]["requestBody"]["content"]["application/json"]
    for example in body["examples"].values():
        checker(document, "Batch").validate(example["value"])
        answer = either.post("/predict/batch", json={"transactions": [*example["value"]["transactions"], {}]})
        assert answer.status_code == 200
        checker(document, "BatchResult").validate(answer.json())


@pytest.mark.parametrize("payload", ALL, ids=lambda payload: ",".join(payload)[:40])
def test_payloads_of_other_fraud_apis_validate(document: dict[str, Any], payload: dict[str, Any]) -> None:
    checker(document, "Transaction").validate(payload)


@pytest.mark.parametrize("name", ["no amount", "negative amount", "unknown name", "amount as text", "V29", "V01"])
def test_what_is_refused_does_not_validate(document: dict[str, Any], name: str) -> None:
    assert not checker(document, "Transaction").is_valid(json.loads(HOSTILE[name]))


def test_a_problem_validates(document: dict[str, Any], either: Client) -> None:
    for body in (b"", b"{}", b'{"amount": 1, "currency": "ZZZ"}'):
        checker(document, "Problem").validate(either.post("/predict", content=body).json())
    checker(document, "Problem").validate(either.get("/nowhere").json())


SCHEMAS = generated()
FIELDS = [*Transaction.model_fields, "Amount", "nameOrig", "merchant_id", "V1", "V28", "Time", "other"]
VALUES = st.sampled_from([None, 0, 1, -1, 2.5, 1e9, 2e9, "", "TRANSFER", "USD", "x" * 65, True, [], {}, {"a": 1}])


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=4), st.booleans())
def test_the_schema_and_the_service_agree_on_what_is_a_transaction(data: dict[str, Any], amount: bool) -> None:
    if amount:
        data = {"amount": 5.0, **data}
    if {"amount", "Amount"} <= set(data) or {"counterparty_id", "merchant_id"} <= set(data):
        return  # sent twice: beyond what the schema says
    if {"customer_id", "nameOrig"} <= set(data):
        return
    try:
        parse_transaction(data)
        accepted = True
    except InvalidRequest:
        accepted = False
    assert checker(SCHEMAS, "Transaction").is_valid(data) == accepted


def test_every_name_that_is_accepted_is_in_the_schema(document: dict[str, Any]) -> None:
    schema = document["components"]["schemas"]["Transaction"]
    (pattern,) = schema["patternProperties"]
    named = set(schema["properties"])
    assert named == {*Transaction.model_fields, "Amount", "nameOrig", "nameDest", "merchant_id"}
    assert all(re.search(pattern, name) for name in CARD_COLUMNS)
    assert not any(re.search(pattern, name) for name in ("V0", "V29", "V01", "Times", "aTime"))


def test_every_field_of_a_decision_is_promised(document: dict[str, Any]) -> None:
    schema = document["components"]["schemas"]["Decision"]
    assert list(schema["properties"]) == list(Decision.__dataclass_fields__)
    assert set(schema["required"]) == set(Decision.__dataclass_fields__)


if __name__ == "__main__":
    COMMITTED.write_text(text_of(generated()))
