"""Where a secret may lie, and that no error shows it or its place."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fraud_api_lambda.errors import SettingsError, StoreUnavailable
from fraud_api_lambda.secret_setting import read_secret


def test_a_setting_is_itself_or_what_its_file_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_text(" swordfish\n")
    monkeypatch.chdir(tmp_path)
    assert read_secret(" swordfish ") == "swordfish"
    assert read_secret(f"file://{tmp_path}/secret") == "swordfish"
    assert read_secret("file://secret") == "swordfish"


def test_a_file_that_is_not_there_is_told_by_the_settings_name_alone(tmp_path: Path) -> None:
    for path in (tmp_path / "swordfish", tmp_path):
        with pytest.raises(SettingsError, match="The file that FRAUD_WEBHOOKS names cannot be read") as refused:
            read_secret(f"file://{path}", "FRAUD_WEBHOOKS")
        assert path.name not in str(refused.value)


@pytest.mark.server
def test_a_parameter_of_ssm_is_read_and_one_that_cannot_be_is_unavailable(
    aws: str, refuse_all: Callable[[], None]
) -> None:
    import boto3

    boto3.client("ssm").put_parameter(Name="/fraud/hooks", Value="swordfish\n", Type="SecureString")
    assert read_secret("ssm:/fraud/hooks") == "swordfish"
    with pytest.raises(
        StoreUnavailable, match=r"FRAUD_WEBHOOKS names cannot be read \(ParameterNotFound\)"
    ) as unavailable:
        read_secret("ssm:/fraud/none", "FRAUD_WEBHOOKS")
    assert "/fraud/none" not in str(unavailable.value)
    refuse_all()
    with pytest.raises(StoreUnavailable, match="ClientError"):
        read_secret("ssm:/fraud/hooks", "FRAUD_WEBHOOKS")
