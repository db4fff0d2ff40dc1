"""The error tree is the one that the docstring draws, and what callers may get is documented."""

import re
from pathlib import Path
from typing import Any

import pytest

from fraud_api_lambda import errors
from fraud_api_lambda.errors import FieldError, FraudError, RequestError
from tests.fraud_api_lambda.asgi import Client


def drawn() -> dict[str, str]:
    """The docstring's tree: class -> parent."""
    parents: dict[str, str] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"    ((?:[|` ] {3}|[|`]-- )*)([A-Z]\w+)", line)
        if match:
            depth = len(match.group(1)) // 4
            path[depth:] = [match.group(2)]
            if depth:
                parents[path[depth]] = path[depth - 1]
    return parents


def family(root: type[FraudError]) -> list[type[FraudError]]:
    """``root`` and the classes of this package below it."""
    children = [child for child in root.__subclasses__() if child.__module__ == errors.__name__]
    return [root, *(one for child in children for one in family(child))]


def test_the_docstring_draws_exactly_the_tree_of_classes() -> None:
    real = {error.__name__: error.__base__.__name__ for error in family(FraudError)[1:] if error.__base__}
    assert drawn() == real


def test_no_module_of_the_service_has_an_error_of_its_own() -> None:
    package = Path(errors.__file__).parent
    for path in package.rglob("*.py"):
        if path.name != "errors.py":
            assert not re.search(r"^class \w+\(.*(Error|Exception)\b", path.read_text(), re.MULTILINE), path.name


@pytest.mark.parametrize("error", family(RequestError)[1:], ids=lambda error: error.__name__)
def test_a_request_error_has_its_own_status_and_title_and_is_documented(
    error: type[RequestError], bare_client: Client
) -> None:
    assert 400 <= error.status < 600
    assert error.title != RequestError.title
    document: dict[str, Any] = bare_client.get("/openapi.json").json()
    documented = {
        status
        for path in document["paths"].values()
        for operation in path.values()
        for status in operation["responses"]
    }
    assert str(error.status) in documented


def test_every_documented_problem_says_problem_json_and_its_schema(bare_client: Client) -> None:
    document: dict[str, Any] = bare_client.get("/openapi.json").json()
    checked = 0
    for name, path in document["paths"].items():
        for operation in path.values():
            for status, answer in operation["responses"].items():
                if int(status) >= 400 and name != "/ready":  # /ready says the same words, whether 200 or 503
                    schema = {"schema": {"$ref": "#/components/schemas/Problem"}}
                    assert answer["content"] == {"application/problem+json": schema}, (name, status)
                    assert answer["description"]
                    checked += 1
    assert checked >= 6


@pytest.mark.parametrize("state", ["missing", "unreachable", "refused"])
def test_each_state_that_ready_tells_has_its_error(state: str) -> None:
    assert state in {error.state for error in family(errors.BundleError) if issubclass(error, errors.BundleError)}


def test_a_request_error_carries_its_fields() -> None:
    error = errors.InvalidRequest("Not valid.", (FieldError("amount", "is required"),))
    assert (error.detail, error.errors[0].field, str(error)) == ("Not valid.", "amount", "Not valid.")
