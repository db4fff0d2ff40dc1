"""The same request from a terminal: one line of curl, one of PowerShell. The key is named, never written out."""

import json
import shlex
from typing import Any

from streamlit_app.client import Address


def curl(address: Address, body: dict[str, Any]) -> str:
    """For bash, zsh and sh; ``$FRAUD_API_KEY`` is read from the shell's environment."""
    lines = [f"curl -sS {shlex.quote(_url(address))}", "-H 'Content-Type: application/json'"]
    if address.key:
        lines.append('-H "X-API-Key: $FRAUD_API_KEY"')
    lines.append(f"-d {shlex.quote(_one_line(body))}")
    return " \\\n  ".join(lines)


def powershell(address: Address, body: dict[str, Any]) -> str:
    """For Windows PowerShell 5.1 and PowerShell 7; ``$env:FRAUD_API_KEY`` is read from the environment."""
    lines = [f"Invoke-RestMethod -Method Post -Uri {_single_quoted(_url(address))}", "-ContentType 'application/json'"]
    if address.key:
        lines.append("-Headers @{ 'X-API-Key' = $env:FRAUD_API_KEY }")
    lines.append(f"-Body {_single_quoted(_one_line(body))}")
    return " `\n  ".join(lines)


def _url(address: Address) -> str:
    return f"{address.url}/predict?explain=true"


def _one_line(body: dict[str, Any]) -> str:
    """ASCII only: PowerShell 5.1 sends other characters as Latin-1 and takes typographic quotes for quotes."""
    return json.dumps(body)


def _single_quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
