"""The printed commands do what the page does: run in a real shell, against a server that keeps what it was sent."""

import json
import shutil
import subprocess
from collections.abc import Callable

import pytest

from streamlit_app.client import Address
from streamlit_app.commands import curl, powershell
from tests.streamlit_app.servers import Answer, SmallServer, reply

HOSTILE = {
    "amount": 1.5,
    "customer_id": 'O\'Brien "$(touch pwned)" `id` $HOME \\ !x ‘curly’ é\u2028',
    "attributes": {"note": "100 % ; rm -rf"},
}


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on this machine")
def test_curl_sends_exactly_the_body_and_the_key_of_the_environment(
    small_server: Callable[[Answer], SmallServer], tmp_path: object
) -> None:
    server = small_server(reply(200, {"fine": True}))
    line = curl(Address(server.url + "/Prod", "never-shown"), HOSTILE)
    assert "never-shown" not in line
    done = subprocess.run(
        ["sh", "-c", line],
        env={"PATH": "/usr/bin:/bin", "FRAUD_API_KEY": "from-the-shell", "NO_PROXY": "*"},
        cwd=str(tmp_path),
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.stdout == '{"fine": true}', done.stderr
    [request] = server.requests
    assert (request.method, request.path) == ("POST", "/Prod/predict?explain=true")
    assert json.loads(request.body) == HOSTILE
    assert request.headers["x-api-key"] == "from-the-shell"
    assert request.headers["content-type"] == "application/json"


def test_powershell_quotes_by_its_own_rules() -> None:
    command = powershell(Address("https://host/Prod", "never-shown"), HOSTILE)
    assert "never-shown" not in command
    assert "$env:FRAUD_API_KEY" in command
    assert command.isascii()  # PowerShell takes typographic quotes for quotes, and 5.1 sends Latin-1
    _, _, body = command.partition("-Body ")
    assert (body[0], body[-1]) == ("'", "'")
    inside = body[1:-1]
    assert "'" not in inside.replace("''", "")
    assert json.loads(inside.replace("''", "'")) == HOSTILE


def test_a_console_without_a_key_prints_commands_without_one() -> None:
    address = Address("http://127.0.0.1:8000")
    assert "KEY" not in curl(address, {"amount": 1}).upper()
    assert "KEY" not in powershell(address, {"amount": 1}).upper()
