"""docs/elsewhere.md: its systemd unit starts a service that answers, its manifest's settings are known."""

import base64
import hashlib
import re
import shutil
import socket
import subprocess
import sys
import threading
from dataclasses import fields
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from fraud_api_lambda.access import ROLES
from fraud_api_lambda.app import MAX_BATCH_BODY
from fraud_api_lambda.bundle import open_bundle
from fraud_api_lambda.errors import BundleUnreachable, SettingsError
from fraud_api_lambda.settings import IGNORED, Settings, read_settings
from tests.servers import child, free_port

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "elsewhere.md").read_text()


def block(language: str) -> str:
    """The page's only code block of a language."""
    found = re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.M | re.S)
    assert len(found) == 1, language
    return str(found[0])


# --- the systemd unit ------------------------------------------------------------------------------------------------


def unit(folder: Path, port: int) -> str:
    """The page's unit with this machine's interpreter, a folder of the test's and a free port."""
    text = block("ini").replace("/opt/fraud/.venv/bin/python", sys.executable).replace("/var/lib/fraud", str(folder))
    return text.replace("--port 8000", f"--port {port}")


def environment(text: str) -> dict[str, str]:
    lines = re.findall(r"^Environment=(.*)$", text, flags=re.M)
    return dict(item.split("=", 1) for line in lines for item in line.split())


@pytest.mark.server
def test_the_units_command_with_its_settings_is_a_service_that_answers_who_has_a_key(tmp_path: Path) -> None:
    port, key = free_port(), "fraud_of-this-test"
    text = unit(tmp_path, port)
    command = re.findall(r"^ExecStart=(.*)$", text, flags=re.M)[0].split()
    settings = environment(text) | {
        "FRAUD_API_KEYS": f"shop:score:{hashlib.sha256(key.encode()).hexdigest()}",
        "FRAUD_MODEL_PUBLIC_KEYS": f"release:{base64.b64encode(bytes(32)).decode()}",
    }
    url = f"http://127.0.0.1:{port}"
    with child(command, port, tmp_path / "log", settings), httpx.Client(base_url=url, timeout=30) as client:
        assert client.get("/health").status_code == 200
        body = {"transaction_id": "order-1", "amount": 12.5, "customer_id": "C1"}
        assert client.post("/predict", json=body, headers={"X-Forwarded-For": "203.0.113.9"}).status_code == 401
        answer = client.post("/predict", json=body, headers={"X-API-Key": key})
        assert answer.status_code == 200
        assert answer.json()["degraded"] == ["model"]  # no bundle lies there, and everything else is well
    assert (tmp_path / "decisions.db").exists()
    assert (tmp_path / "profiles.db").exists()


def test_the_unit_writes_only_where_its_state_lies_and_keeps_secrets_in_a_file() -> None:
    text = block("ini")
    assert "StateDirectory=fraud\n" in text
    assert "ProtectSystem=strict\n" in text
    places = [value for name, value in environment(text).items() if name.endswith("_URL")]
    assert len(places) == 4
    assert all("///var/lib/fraud/" in place for place in places)
    assert not {"FRAUD_API_KEYS", "FRAUD_MODEL_PUBLIC_KEYS"} & set(environment(text))
    assert "EnvironmentFile=/etc/fraud.env\n" in text


def test_the_unit_is_one_that_systemd_understands(tmp_path: Path) -> None:
    text = unit(tmp_path, 8000)
    assert re.findall(r"^\[(\w+)\]$", text, flags=re.M) == ["Unit", "Service", "Install"]
    verify = shutil.which("systemd-analyze")
    if verify:  # on a machine without systemd the sections are all that is looked at
        file = tmp_path / "fraud.service"
        file.write_text(text)
        done = subprocess.run([verify, "verify", str(file)], capture_output=True, text=True, timeout=60)
        assert "fraud.service" not in done.stderr, done.stderr


# --- proxy, platforms ------------------------------------------------------------------------------------------------


def test_the_proxy_says_whom_it_speaks_for_and_lets_the_largest_batch_through() -> None:
    text = block("nginx")
    assert "proxy_set_header X-Forwarded-For $remote_addr;" in text
    assert "proxy_set_header Host $host;" in text
    limit = re.search(r"client_max_body_size (\d+)m;", text)
    assert limit is not None
    assert int(limit[1]) * 2**20 >= MAX_BATCH_BODY


def pod() -> dict[str, Any]:
    manifest = yaml.safe_load(block("yaml"))
    template = manifest["spec"]["template"]
    assert manifest["spec"]["selector"]["matchLabels"] == template["metadata"]["labels"]
    spec: dict[str, Any] = template["spec"]
    return spec


def test_the_manifests_settings_are_known_and_its_mounts_and_probes_are_there() -> None:
    spec = pod()
    container = spec["containers"][0]
    settings = read_settings({item["name"]: item["value"] for item in container["env"]})
    assert settings.outbox_url == "file:///data/outbox"
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in spec["volumes"]}
    for probe in ("livenessProbe", "readinessProbe"):
        asked = container[probe]["httpGet"]
        assert ("GET", asked["path"]) in ROLES
        assert str(asked["port"]) == container["command"][-1]
    assert f'"{container["command"][-1]}"' in block("dockerfile")


def test_what_kubernetes_sets_for_a_service_of_that_name_would_stop_the_start() -> None:
    with pytest.raises(SettingsError, match="Unknown setting FRAUD_SERVICE_HOST"):
        read_settings({"FRAUD_SERVICE_HOST": "10.0.0.1"})
    assert pod()["enableServiceLinks"] is False


def test_the_bundles_client_calls_where_the_s3_endpoint_points(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20)

        def listen() -> None:
            connection, _ = server.accept()
            with connection:
                heard.append(connection.recv(1))

        listener = threading.Thread(target=listen)
        listener.start()
        told = {
            "AWS_ENDPOINT_URL_S3": f"https://127.0.0.1:{server.getsockname()[1]}",
            "AWS_REGION": "auto",
            "AWS_ACCESS_KEY_ID": "hmac",
            "AWS_SECRET_ACCESS_KEY": "hmac",
        }
        for name, value in told.items():
            assert name in PAGE
            monkeypatch.setenv(name, value)
        with pytest.raises(BundleUnreachable):
            open_bundle("s3://bucket/models/current", {})
        listener.join(timeout=30)
    assert heard == [b"\x16"]  # the first byte of a TLS handshake


def test_every_setting_that_is_named_is_known() -> None:
    known = {f"FRAUD_{field.name.upper()}" for field in fields(Settings)} | IGNORED
    named = set(re.findall(r"FRAUD_[A-Z_]+[A-Z]", PAGE))
    assert named - known == {"FRAUD_SERVICE_HOST"}  # what Kubernetes would set
