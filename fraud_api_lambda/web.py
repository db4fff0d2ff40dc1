"""What every route needs of HTTP: a body within bounds, JSON as an answer, an error as problem+json."""

import math
from typing import Any

from fastapi import Request, Response
from pydantic_core import to_json

from .errors import RequestError, RequestTooLarge, TooManyRequests


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
