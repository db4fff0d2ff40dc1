"""The doctor on this machine: each thing that goes wrong is named, with what to do; nothing is made or changed."""

import json
import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fraud_api_lambda.bundle import SigningKey
from tests.fraud_api_lambda.making import KEY, publish_small
from training.__main__ import app as commands
from training.doctor import Finding, examine_machine, table

Healthy = dict[str, str]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def healthy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Healthy:
    """A folder and an environment in which all is well."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "training").mkdir()
    lock = (Path(__file__).resolve().parents[2] / "training/requirements.txt").read_text()
    (tmp_path / "training/requirements.txt").write_text(lock)
    KEY.save(tmp_path / "keys/development.key")
    (tmp_path / "keys/development.pub").write_text(KEY.public_line() + "\n")
    publish_small(tmp_path / "models", "v1")
    return {}


def found(environ: dict[str, str], **changes: object) -> dict[str, Finding]:
    options: dict[str, object] = {"ports": {"API": free_port()}, **changes}
    return {one.name: one for one in examine_machine(environ, **options)}  # type: ignore[arg-type]


def states(findings: dict[str, Finding]) -> set[str]:
    return {one.state for one in findings.values()}


def test_where_all_is_well_every_line_says_ok_and_nothing_is_made(healthy: Healthy, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    findings = found(healthy)
    assert states(findings) == {"ok"}, table(list(findings.values()))
    assert not any(one.mend for one in findings.values())
    assert "v1" in findings["bundle"].detail
    assert sorted(tmp_path.rglob("*")) == before


def test_a_python_that_is_not_supported(healthy: Healthy) -> None:
    one = found(healthy, python=(3, 11))["Python"]
    assert (one.state, one.detail) == ("failure", "3.11 is not supported")
    assert "make setup" in one.mend


def test_a_package_that_is_not_as_locked_and_one_that_is_not_installed(healthy: Healthy, tmp_path: Path) -> None:
    lock = tmp_path / "training/requirements.txt"
    text = re.sub(r"^numpy==\S+", "numpy==1.0.0", lock.read_text(), flags=re.M)
    lock.write_text(
        text + "\nnot-a-package-of-ours==1.2.3 \\\n    --hash=sha256:00\nelsewhere==1 ; sys_platform == 'x'\n"
    )
    one = found(healthy)["environment"]
    assert one.state == "failure"
    assert "numpy" in one.detail
    assert "not-a-package-of-ours not installed, locked 1.2.3" in one.detail
    assert "elsewhere" not in one.detail
    assert "make setup" in one.mend


def test_outside_the_repository_the_environment_is_not_judged(healthy: Healthy, tmp_path: Path) -> None:
    (tmp_path / "training/requirements.txt").unlink()
    assert found(healthy)["environment"].state == "warning"


def bundle_gone(folder: Path) -> None:
    (folder / "models/current").unlink()


def bundle_damaged(folder: Path) -> None:
    (folder / "models/v1/report.html").write_bytes(b"another")


def bundle_of_a_stranger(folder: Path) -> None:
    (folder / "keys/development.pub").write_text(SigningKey.generate("test-key").public_line())


def no_public_key(folder: Path) -> None:
    (folder / "keys/development.pub").unlink()


def open_private_key(folder: Path) -> None:
    (folder / "keys/development.key").chmod(0o644)


def damaged_log(folder: Path) -> None:
    (folder / "data").mkdir()
    (folder / "data/decisions.db").write_bytes(b"this is no database at all" * 100)


@pytest.mark.parametrize(
    ("harm", "name", "said", "mend"),
    [
        (bundle_gone, "bundle", "There is no 'current' here", "make run"),
        (bundle_damaged, "bundle", "'report.html' is not the file that was sealed", "Publish it again"),
        (bundle_of_a_stranger, "bundle", "pointer does not match", "Publish it again"),
        (no_public_key, "public keys", "cannot be read", "python -m training keys"),
        (open_private_key, "private keys", "others may read development.key", "chmod 600"),
        (damaged_log, "decision log", "is damaged", "FRAUD_DECISION_LOG_URL"),
    ],
)
def test_what_goes_wrong_is_named_with_its_mend(
    healthy: Healthy, tmp_path: Path, harm: Callable[[Path], None], name: str, said: str, mend: str
) -> None:
    harm(tmp_path)
    one = found(healthy)[name]
    assert one.state == "failure"
    assert said in one.detail
    assert mend in one.mend


@pytest.mark.parametrize(
    ("setting", "value", "name", "said"),
    [
        ("FRAUD_DEADLINE", "250", "settings", "Did you mean FRAUD_DEADLINE_MS?"),
        ("FRAUD_FEATURE_STORE_URL", "mysql://u:secret@h/d", "feature store", "Unknown feature store scheme"),
        ("FRAUD_FEATURE_STORE_URL", "redis://:secret@127.0.0.1:1", "feature store", "failed"),
        ("FRAUD_DECISION_LOG_URL", "postgresql://u:secret@127.0.0.1:1/d", "decision log", "refused the connection"),
        ("FRAUD_OUTBOX_URL", "kafka://secret", "outbox", "Unknown outbox scheme"),
        ("FRAUD_RULES_URL", "file://secret/rules.yaml", "rules file", "There is no 'rules.yaml'"),
        ("FRAUD_MODEL_PUBLIC_KEYS", "secret", "public keys", "not of the form key_id:base64"),
    ],
)
def test_a_setting_that_does_not_work_is_named_and_its_value_is_not_told(
    healthy: Healthy, setting: str, value: str, name: str, said: str
) -> None:
    findings = found({**healthy, setting: value})
    assert findings[name].state == "failure"
    assert said in findings[name].detail
    assert findings[name].mend
    assert "secret" not in table(list(findings.values()))


def test_rules_that_do_not_compile_are_told_with_their_place(healthy: Healthy, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(
        "version: x\nrules:\n  - {id: bad, expression: 'amuont > 1.0', outcome: review, reason: r}\n"
    )
    one = found({**healthy, "FRAUD_RULES_URL": f"file://{tmp_path}/rules.yaml"})["rules file"]
    assert one.state == "failure"
    assert "bad" in one.detail


def test_a_port_in_use_is_a_warning(healthy: Healthy) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        one = found(healthy, ports={"API": port})[f"port {port}"]
    assert one.state == "warning"
    assert "make run PORT=" in one.mend


def test_the_command_prints_the_table_or_json_and_its_status_says_whether_something_fails(
    healthy: Healthy, tmp_path: Path
) -> None:
    good = CliRunner().invoke(commands, ["doctor", "--json"])
    told = json.loads(good.output)
    assert (good.exit_code, told["ok"]) == (0, True), good.output
    assert {"name", "state", "detail", "mend"} == set(told["findings"][0])
    bundle_gone(tmp_path)
    bad = CliRunner().invoke(commands, ["doctor"])
    assert bad.exit_code == 1
    assert re.search(r"^failure  bundle .*There is no 'current'", bad.output, flags=re.M)
    assert re.search(r"^ +-> make run", bad.output, flags=re.M)
