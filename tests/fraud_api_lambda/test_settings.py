"""The environment is read once; what is wrong with it is told by name and choices, never by value."""

import pytest

from fraud_api_lambda.errors import SettingsError
from fraud_api_lambda.settings import IGNORED, Settings, read_settings, scheme_of

SECRET = "hunter2-secret"


def test_an_empty_environment_gives_the_laptop_defaults() -> None:
    settings = read_settings({})
    assert settings == Settings()
    assert settings.model_url == "file://models/current"
    assert settings.model_public_keys == "file://keys/development.pub"
    assert settings.without_model == "review"
    assert settings.cors_origins == ()
    assert settings.log_level == "INFO"


def test_every_setting_is_read_under_its_name() -> None:
    settings = read_settings(
        {
            "FRAUD_MODEL_URL": " s3://bucket/models/current ",
            "FRAUD_MODEL_PUBLIC_KEYS": "release-1:AAAA",
            "FRAUD_WITHOUT_MODEL": "Decline",
            "FRAUD_CORS_ORIGINS": "https://a.example, https://b.example,",
            "FRAUD_LOG_LEVEL": "debug",
            "FRAUD_DEADLINE_MS": "100",
            "FRAUD_READ_DEADLINE_MS": "3000",
            "PATH": "/bin",
            "fraud_model_url": "not ours",
        }
    )
    assert settings == Settings(
        model_url="s3://bucket/models/current",
        model_public_keys="release-1:AAAA",
        without_model="decline",
        cors_origins=("https://a.example", "https://b.example"),
        log_level="DEBUG",
        deadline_ms=100,
        read_deadline_ms=3000,
    )


@pytest.mark.parametrize("name", sorted(IGNORED))
def test_what_a_neighbour_uses_is_known_and_ignored(name: str) -> None:
    assert read_settings({name: SECRET}) == Settings()


@pytest.mark.parametrize(
    "name", [f"FRAUD_{field.upper()}" for field in Settings.__dataclass_fields__], ids=lambda name: str(name)
)
@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_value_is_as_good_as_none(name: str, empty: str) -> None:
    assert read_settings({name: empty}) == Settings()


@pytest.mark.parametrize(
    ("written", "nearest"),
    [
        ("FRAUD_MODLE_URL", "FRAUD_MODEL_URL"),
        ("FRAUD_CORS_ORIGIN", "FRAUD_CORS_ORIGINS"),
        ("FRAUD_LOGLEVEL", "FRAUD_LOG_LEVEL"),
        ("FRAUD_MODEL_KEYS", "FRAUD_MODEL_PUBLIC_KEYS"),
    ],
)
def test_an_unknown_setting_is_refused_with_the_nearest_choice(written: str, nearest: str) -> None:
    with pytest.raises(SettingsError, match=rf"^Unknown setting {written}\. Did you mean {nearest}\?") as caught:
        read_settings({written: SECRET})
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("name", ["FRAUD_WITHOUT_MODEL", "FRAUD_LOG_LEVEL", "FRAUD_CLOUDWATCH_METRICS"])
def test_a_value_outside_its_choices_is_refused_by_name_and_choices(name: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read_settings({name: SECRET})
    assert name in str(caught.value)
    assert SECRET not in str(caught.value)
    assert any(choice in str(caught.value) for choice in ("review", "DEBUG", "few, all"))


@pytest.mark.parametrize("name", ["FRAUD_DEADLINE_MS", "FRAUD_READ_DEADLINE_MS"])
@pytest.mark.parametrize("text", ["9", "60001", "-100", "1e3", "100 ms", "9" * 400, SECRET])
def test_a_deadline_is_a_number_of_milliseconds_within_reason(name: str, text: str) -> None:
    with pytest.raises(SettingsError, match=rf"^{name} must be a whole number of milliseconds, 10 to 60000\.$"):
        read_settings({name: text})


@pytest.mark.parametrize(
    "url",
    [
        f"mysql://user:{SECRET}@host/models",
        f"user:{SECRET}@host/models",
        f"/srv/{SECRET}/current",
        f"no scheme, {SECRET}://x",
        f"FILE://{SECRET}",
    ],
)
def test_a_wrong_scheme_is_told_with_the_choices_and_never_the_url(url: str) -> None:
    with pytest.raises(SettingsError, match=r"Choices are: file, s3\.$") as caught:
        read_settings({"FRAUD_MODEL_URL": url})
    assert SECRET not in str(caught.value)


def test_a_wrong_scheme_is_named() -> None:
    with pytest.raises(SettingsError) as caught:
        scheme_of("mysql://h/x", "feature store", ("memory", "sqlite"))
    assert str(caught.value) == "Unknown feature store scheme 'mysql'. Choices are: memory, sqlite."


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(AttributeError):
        read_settings({}).model_url = "file://elsewhere"  # type: ignore[misc]
