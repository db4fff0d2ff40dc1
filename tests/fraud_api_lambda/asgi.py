"""The service's own model sources, and a client that speaks ASGI to an app."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from fraud_api_lambda.bundle import parse_public_keys
from fraud_api_lambda.reload import ModelSource
from tests.conftest import Trained


class Client:
    """Requests to an app without a socket. (Starlette's own TestClient warns about the installed httpx.)"""

    def __init__(self, app: FastAPI):
        self.app = app

    def request(self, method: str, path: str, **details: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                return await client.request(method, path, **details)

        return asyncio.run(send())

    def get(self, path: str, **details: Any) -> httpx.Response:
        return self.request("GET", path, **details)

    def post(self, path: str, **details: Any) -> httpx.Response:
        return self.request("POST", path, **details)


async def stream(*parts: bytes) -> AsyncIterator[bytes]:
    """A body that does not announce its length."""
    for part in parts:
        yield part


def source_without_bundle(folder: Path) -> ModelSource:
    """A source that has looked for a bundle where there is none."""
    source = ModelSource(f"file://{folder}/models/current", dict)
    source.refresh()
    assert source.served is None
    return source


def source_of(trained: Trained) -> ModelSource:
    """A source that serves the small trained bundle."""
    public = (trained.root / "keys" / "development.pub").read_text()
    source = ModelSource(f"file://{trained.root}/models/current", lambda: parse_public_keys(public))
    source.refresh()
    assert source.trouble is None
    return source
