"""Settings that hold secrets may name where the secret lies: a file, or a parameter of AWS Systems Manager (SSM)."""

from pathlib import Path

from .errors import SettingsError, StoreUnavailable


def read_secret(setting: str, name: str = "A setting") -> str:
    """What ``setting`` says: ``file://path`` the file's text, ``ssm:name`` the parameter's value, else itself.

    White space around it is dropped. ``name`` is the setting's own, for the errors, which show nothing else. Raises
    ``SettingsError`` where the file cannot be read, ``StoreUnavailable`` where the parameter cannot, which may be
    otherwise in a minute.
    """
    if setting.startswith("file://"):
        try:
            return Path(setting.removeprefix("file://")).read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            raise SettingsError(f"The file that {name} names cannot be read.") from None
    if setting.startswith("ssm:"):
        return _parameter(setting.removeprefix("ssm:"), name).strip()
    return setting.strip()


def _parameter(parameter: str, name: str) -> str:
    """A parameter of SSM, within two seconds."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    config = Config(connect_timeout=1, read_timeout=2, retries={"total_max_attempts": 2})
    try:
        answer = boto3.client("ssm", config=config).get_parameter(Name=parameter, WithDecryption=True)
        return str(answer["Parameter"]["Value"])
    except (BotoCoreError, ClientError) as error:
        raise StoreUnavailable(f"The parameter that {name} names cannot be read ({type(error).__name__}).") from None
