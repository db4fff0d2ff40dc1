"""Which URL opens which store, and what a wrong one is told."""

import subprocess
import sys
import traceback
from pathlib import Path

import pytest

from fraud_api_lambda.errors import SettingsError
from fraud_api_lambda.feature_store import Change, open_feature_store
from fraud_api_lambda.feature_store.memory import MemoryFeatureStore
from tests.servers import ROOT, name_aws

FAR_MS = 4_000_000_000_000


def test_an_unknown_scheme_is_told_the_choices() -> None:
    with pytest.raises(SettingsError) as caught:
        open_feature_store("mysql://user:hunter2@host/db")
    assert str(caught.value) == (
        "Unknown feature store scheme 'mysql'. Choices are: memory, sqlite, redis, rediss, dynamodb."
    )


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("hunter2", "Choices are: memory, sqlite, redis, rediss, dynamodb."),
        ("memory://hunter2", "memory://"),
        ("sqlite://hunter2.db", "sqlite:///relative/path"),
        ("sqlite:///", "sqlite:///relative/path"),
        ("redis://", "redis://[user:password@]host"),
        ("redis://:hunter2@", "redis://[user:password@]host"),
        ("redis://:hunter2@host:port", "redis://[user:password@]host"),
        ("redis://:hunter2@host/name", "redis://[user:password@]host"),
        ("redis://:hunter2@host/-1", "redis://[user:password@]host"),
        ("redis://:hunter2#x@host", "percent-encode"),
        ("redis://[hunter2", "redis://[user:password@]host"),
        ("rediss://:hunter2@host?ssl_cert_reqs=none", "without options"),
        ("dynamodb://", "dynamodb://table"),
        ("dynamodb://table/hunter2", "dynamodb://table"),
        ("dynamodb://key:hunter2@table", "dynamodb://table"),
        ("dynamodb://table?regions=hunter2", "dynamodb://table"),
        ("dynamodb://table?hunter2", "dynamodb://table"),
    ],
)
def test_a_malformed_url_is_told_the_form_and_never_repeated(
    url: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name_aws(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(SettingsError) as caught:
        open_feature_store(url)
    assert said in str(caught.value)
    assert "hunter2" not in "".join(traceback.format_exception_only(caught.value))
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def test_dynamodb_without_a_region_is_told_where_to_write_one(monkeypatch: pytest.MonkeyPatch) -> None:
    name_aws(monkeypatch, "http://127.0.0.1:9")
    monkeypatch.delenv("AWS_REGION")
    with pytest.raises(SettingsError, match=r"\?region="):
        open_feature_store("dynamodb://table")
    open_feature_store("dynamodb://table?region=eu-west-1").close()


def test_a_relative_sqlite_path_is_relative_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_feature_store("sqlite:///data/parties.db")
    monkeypatch.chdir("/")
    store.check()
    store.close()
    assert (tmp_path / "data/parties.db").is_file()


@pytest.mark.parametrize("url", ["sqlite:////tmp/parties.db", "sqlite:////tmp/../tmp/a/b.db", "sqlite:///parties.db"])
def test_sqlite_under_tmp_of_a_lambda_function_is_refused_with_the_reason(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "fraud")
    monkeypatch.chdir("/tmp")
    with pytest.raises(SettingsError, match="every copy of the function would have its own, and lose it"):
        open_feature_store(url)
    monkeypatch.delenv("AWS_LAMBDA_FUNCTION_NAME")
    open_feature_store(url).close()


def test_a_driver_is_imported_only_when_a_url_chooses_it() -> None:
    program = """
import sys
from fraud_api_lambda.feature_store import open_feature_store
drivers = {"sqlite3", "redis", "boto3", "botocore"}
assert not drivers & sys.modules.keys(), drivers & sys.modules.keys()
open_feature_store("memory://").close()
assert not drivers & sys.modules.keys()
open_feature_store("sqlite:///never-used.db").close()
assert drivers & sys.modules.keys() == {"sqlite3"}
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=60)


def test_an_absent_driver_is_named() -> None:
    program = """
import sys
sys.modules["redis"] = None
from fraud_api_lambda.errors import SettingsError
from fraud_api_lambda.feature_store import open_feature_store
try:
    open_feature_store("rediss://:hunter2@host")
except SettingsError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=True, timeout=60, capture_output=True, text=True
    )
    assert done.stdout == "A rediss:// feature store needs the package redis: install it.\n"


def test_memory_forgets_the_party_used_longest_ago() -> None:
    store = MemoryFeatureStore(limit=3)
    for number in range(3):
        store.swap([Change(f"C{number}", 0, b"", FAR_MS)])
    store.read(["C0"])
    store.swap([Change("C3", 0, b"", FAR_MS)])
    assert store.read(["C0", "C1", "C2", "C3"]).keys() == {"C0", "C2", "C3"}
