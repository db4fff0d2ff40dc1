"""The service's log lines, as they are written."""

import io
import json
import logging
from typing import Any

from fraud_api_lambda.bootstrap import JsonLines


class Lines:
    """What reaches ``handler``, line by line."""

    def __init__(self) -> None:
        self._text = io.StringIO()
        self.handler = logging.StreamHandler(self._text)
        self.handler.setFormatter(JsonLines())

    @property
    def text(self) -> str:
        return self._text.getvalue()

    def of(self, message: str) -> list[dict[str, Any]]:
        return [line for line in map(json.loads, self.text.splitlines()) if line["message"] == message]
