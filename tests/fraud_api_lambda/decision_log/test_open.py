"""Which URL opens which log, and what a wrong one is told."""

import subprocess
import sys
import traceback
from pathlib import Path

import pytest

from fraud_api_lambda.decision_log import Search, open_decision_log
from fraud_api_lambda.errors import SettingsError
from tests.fraud_api_lambda.decision_log.records import record
from tests.servers import ROOT


def test_an_unknown_scheme_is_told_the_choices() -> None:
    with pytest.raises(SettingsError) as caught:
        open_decision_log("mysql://user:hunter2@host/db")
    assert str(caught.value) == (
        "Unknown decision log scheme 'mysql'. Choices are: sqlite, postgresql, dynamodb, none."
    )


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("hunter2", "Choices are: sqlite, postgresql, dynamodb, none."),
        ("none://hunter2", "none://"),
        ("sqlite://hunter2.db", "sqlite:///relative/path"),
        ("sqlite:///", "sqlite:///relative/path"),
        ("postgresql://", "postgresql://[user[:password]@]host"),
        ("postgresql://host", "postgresql://[user[:password]@]host"),
        ("postgresql://host/", "postgresql://[user[:password]@]host"),
        ("postgresql:///hunter2", "postgresql://[user[:password]@]host"),
        ("postgresql://u:hunter2@/db", "postgresql://[user[:password]@]host"),
        ("postgresql://u:hunter2@host:port/db", "postgresql://[user[:password]@]host"),
        ("postgresql://u:hunter2@host:0/db", "postgresql://[user[:password]@]host"),
        ("postgresql://u:hunter2#x@host/db", "percent-encode"),
        ("postgresql://u:hunter2%zz@host/db", "postgresql://[user[:password]@]host"),
        ("postgresql://[hunter2/db", "postgresql://[user[:password]@]host"),
        ("postgresql://host/db?hunter2", "postgresql://[user[:password]@]host"),
        ("postgresql://host/db?password=hunter2", "these options only"),
        ("postgresql://host/db?options=-chunter2", "these options only"),
        ("postgresql://host/db?hunter2=1", "[user[:password]@]host"),
    ],
)
def test_a_malformed_url_is_told_the_form_and_never_repeated(url: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        open_decision_log(url)
    assert said in str(caught.value)
    assert "hunter2" not in "".join(traceback.format_exception_only(caught.value))
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def test_a_relative_sqlite_path_is_relative_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    log = open_decision_log("sqlite:///data/decisions.db")
    monkeypatch.chdir("/")
    log.check()
    log.close()
    assert (tmp_path / "data/decisions.db").is_file()


@pytest.mark.parametrize("url", ["sqlite:////tmp/a.db", "sqlite:////tmp/../tmp/a/b.db", "sqlite:///a.db"])
def test_sqlite_under_tmp_of_a_lambda_function_is_refused_with_the_reason(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "fraud")
    monkeypatch.chdir("/tmp")
    with pytest.raises(SettingsError, match="every copy of the function would have its own, and lose it"):
        open_decision_log(url)
    monkeypatch.delenv("AWS_LAMBDA_FUNCTION_NAME")
    open_decision_log(url).close()


def test_a_log_that_keeps_nothing_keeps_nothing() -> None:
    log = open_decision_log("none://")
    assert log.append([record(), record()]) == [None, None]
    assert log.find(["t-1"]) == {}
    assert log.search(Search()) == ((), None)
    log.check()
    log.close()


def test_a_driver_is_imported_only_when_a_url_chooses_it() -> None:
    program = """
import sys
from fraud_api_lambda.decision_log import open_decision_log
drivers = {"sqlite3", "psycopg", "psycopg_pool", "boto3", "botocore", "alembic", "sqlalchemy"}
assert not drivers & sys.modules.keys(), drivers & sys.modules.keys()
open_decision_log("none://").close()
assert not drivers & sys.modules.keys()
open_decision_log("sqlite:///unused.db").close()
assert drivers & sys.modules.keys() == {"sqlite3"}
open_decision_log("postgresql://127.0.0.1:9/unused").close()
assert drivers & sys.modules.keys() == {"sqlite3", "psycopg", "psycopg_pool"}
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_a_missing_driver_is_named() -> None:
    program = """
import sys
sys.modules["psycopg"] = None
from fraud_api_lambda.decision_log import open_decision_log
from fraud_api_lambda.errors import SettingsError
try:
    open_decision_log("postgresql://u:hunter2@host/db")
except SettingsError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout == "A postgresql:// decision log needs the package psycopg: install it.\n"
