"""What must never lie in the repository: credentials and private keys."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

#: What a credential looks like: AWS access keys, private keys, tokens of forges, registries and chat services, our own
#: API keys and webhook secrets, and a password that is assigned outright.
CREDENTIAL = re.compile(
    rb"(?:AKIA|ASIA)[0-9A-Z]{16}"
    rb"|-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----\s+[A-Za-z0-9+/=\s]{40}"
    rb"|gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{40}|glpat-[\w-]{20}|xox[baprs]-[\w-]{20}|pypi-[\w-]{40}"
    rb"|\bfraud_[A-Za-z0-9_-]{43}\b"
    rb"|aws_secret_access_key\s*[=:]\s*[\"']?[A-Za-z0-9/+]{40}"
)


def committed() -> list[Path]:
    """The files git knows here; every file where there is no git (an unpacked archive)."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True)
    if done.returncode == 0 and done.stdout:
        return [ROOT / name for name in done.stdout.decode().split("\0") if name and (ROOT / name).is_file()]
    return [path for path in ROOT.rglob("*") if path.is_file() and ".venv" not in path.parts]


def test_no_file_holds_a_credential() -> None:
    for path in committed():
        found = CREDENTIAL.search(path.read_bytes())
        assert found is None, f"{path.relative_to(ROOT)} holds what looks like a credential, at byte {found.start()}"


@pytest.mark.parametrize(
    "text",
    [
        b"key = AKIA" + b"Q" * 16,
        b"-----BEGIN PRIVATE KEY-----\n" + b"MC4CAQAwBQYDK2VwBCIEI" * 3,
        b"token: ghp_" + b"a1" * 18,
        b"X-API-Key: fraud_" + b"x" * 43,
        b"aws_secret_access_key = " + b"A1b2" * 10,
    ],
)
def test_a_planted_credential_would_be_found(text: bytes) -> None:
    assert CREDENTIAL.search(text)
