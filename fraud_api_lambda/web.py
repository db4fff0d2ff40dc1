"""What every route needs of HTTP: a body within bounds, a query, JSON as an answer, an error as problem+json."""

import difflib
import math
import re
from collections.abc import Mapping
from typing import Any, Final

from fastapi import Request, Response
from pydantic_core import to_json

from .errors import FieldError, InvalidRequest, RequestError, RequestTooLarge, TooManyRequests

#: Problems of a query that are told at most.
_TOLD: Final = 20


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body, never more than ``limit`` bytes of it. Raises ``RequestTooLarge``."""
    announced = request.headers.get("content-length", "0")
    if len(announced) > 12 or (announced.isdecimal() and int(announced) > limit):
        raise RequestTooLarge(f"The body is larger than {limit:,} bytes.")
    parts = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise RequestTooLarge(f"The body is larger than {limit:,} bytes.")
        parts.append(part)
    return b"".join(parts)


def json_response(data: bytes, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(data, status, headers, media_type="application/json")


def problem(error: RequestError, request_id: str | None) -> dict[str, Any]:
    """RFC 9457: what is wrong and with which field, never a value that was sent."""
    problem: dict[str, Any] = {
        "type": "about:blank",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
    }
    if error.errors:
        problem["errors"] = [{"field": item.field, "message": item.message} for item in error.errors]
    if request_id:
        problem["request_id"] = request_id
    return problem


def problem_response(problem: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    return Response(to_json(problem), problem["status"], headers, media_type="application/problem+json")


def refusal(error: RequestError, request_id: str | None) -> Response:
    """The error as an answer, with the headers that its status asks for."""
    headers = {}
    if error.status == 401:
        headers["WWW-Authenticate"] = 'ApiKey header="X-API-Key"'
    if isinstance(error, TooManyRequests):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    return problem_response(problem(error, request_id), headers or None)


def request_json(schema: str, examples: dict[str, Any]) -> dict[str, Any]:
    """A required JSON body as OpenAPI says it, for endpoints that read it themselves."""
    content = {"schema": {"$ref": f"#/components/schemas/{schema}"}, "examples": examples}
    return {"required": True, "content": {"application/json": content}}


def read_query(request: Request, known: Mapping[str, Any]) -> dict[str, str]:
    """The query's parameters, each once. Raises ``InvalidRequest`` for those that are not ``known``."""
    sent = request.query_params.multi_items()
    values = dict(sent)
    problems: list[FieldError] = []
    for name in values:
        if name not in known and len(problems) < _TOLD:  # a hint takes its time, and thousands may be sent
            shown = name if re.fullmatch(r"[a-z_]{1,40}", name) else "(a parameter)"
            near = difflib.get_close_matches(name, known, n=1) if len(name) <= 40 else []
            hint = f"Did you mean {near[0]}? " if near else ""
            problems.append(FieldError(shown, f"is not a parameter of this. {hint}Choices are: {', '.join(known)}"))
    if len(sent) > len(values):
        problems.append(FieldError("query", "must hold each parameter once"))
    if problems:
        raise InvalidRequest("The query is not valid.", tuple(problems[:_TOLD]))
    return values


def query_parameters(known: Mapping[str, tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Optional parameters, name -> (description, schema), as OpenAPI says them."""
    return [
        {"name": name, "in": "query", "required": False, "schema": schema, **({"description": text} if text else {})}
        for name, (text, schema) in known.items()
    ]
