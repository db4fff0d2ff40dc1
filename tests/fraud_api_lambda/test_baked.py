"""The bundle in the image: what is served when S3 gives none at a cold start, how it is told, and how it goes again."""

import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from fraud_api_lambda import bundle as bundles
from fraud_api_lambda.app import create_app
from fraud_api_lambda.bootstrap import build
from fraud_api_lambda.errors import BundleUnreachable, SettingsError
from fraud_api_lambda.reload import ModelSource
from fraud_api_lambda.schemas import Decision, parse_transaction
from fraud_api_lambda.scoring import FraudScorer
from fraud_api_lambda.settings import Settings, read_settings
from tests.fraud_api_lambda.asgi import Client
from tests.fraud_api_lambda.lines import Lines
from tests.fraud_api_lambda.making import KEY, OTHER_KEY, TRUSTED, publish_small, seal_small

S3_URL = "s3://models/models/current"


@pytest.fixture
def baked(tmp_path: Path) -> str:
    """The pointer of the image's bundle, as the setting names it."""
    return publish_small(tmp_path / "image", "baked-1")


def source_of(url: str, baked: str | None, **how: object) -> ModelSource:
    source = ModelSource(url, lambda: TRUSTED, baked_url=baked, **how)  # type: ignore[arg-type]
    source.refresh()
    return source


def decision_of(source: ModelSource) -> Decision:
    return FraudScorer(source).score(parse_transaction({"amount": 10, "timestamp": "2026-02-06T12:00:00Z"}))


def publish_to_s3(folder: Path, version: str) -> None:
    bundles.publish(seal_small(folder, version), S3_URL, KEY, TRUSTED)


def stands_in(source: ModelSource) -> bool:
    return source.served is not None and source.served.baked and source.served.version == "baked-1"


# --- a cold start without S3 -----------------------------------------------------------------------------------------


def closed_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def silent_server() -> Iterator[str]:
    """Takes connections and never says a word."""
    listener = socket.create_server(("127.0.0.1", 0))
    held: list[socket.socket] = []

    def take() -> None:
        with suppress(OSError):
            while True:
                held.append(listener.accept()[0])

    thread = threading.Thread(target=take)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    listener.shutdown(socket.SHUT_RDWR)
    thread.join()
    for each in (listener, *held):
        each.close()


def test_when_nothing_listens_the_images_bundle_is_served_and_flagged(
    aws: str, baked: str, monkeypatch: pytest.MonkeyPatch, lines: Lines
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", closed_port())
    source = source_of(S3_URL, baked)
    assert stands_in(source)
    assert source.trouble is not None
    assert source.trouble.state == BundleUnreachable.state
    decision = decision_of(source)
    assert decision.model_version == "baked-1"
    assert decision.fraud_probability is not None
    assert decision.degraded == ("model",)


def test_when_s3_hangs_the_images_bundle_is_served_within_what_a_cold_start_may_take(
    aws: str, baked: str, monkeypatch: pytest.MonkeyPatch, silent_server: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", silent_server)
    source = source_of(S3_URL, baked)
    assert stands_in(source)
    assert decision_of(source).degraded == ("model",)


def test_when_the_bucket_refuses_us_the_images_bundle_is_served(
    aws: str, baked: str, tmp_path: Path, refuse_all: Callable[[], None]
) -> None:
    publish_to_s3(tmp_path / "s3", "v2")
    refuse_all()
    source = source_of(S3_URL, baked)
    assert stands_in(source)
    assert source.trouble is not None
    assert "permission" in source.trouble.detail


def test_before_anything_was_published_the_images_bundle_is_served_too(aws: str, baked: str) -> None:
    source = source_of(S3_URL, baked)
    assert stands_in(source)
    assert source.trouble is not None
    assert source.trouble.state == "missing"


def test_a_pointer_that_is_refused_leads_to_the_images_bundle(aws: str, baked: str, tmp_path: Path) -> None:
    bundles.publish(
        seal_small(tmp_path / "s3", "v2", key=OTHER_KEY),
        S3_URL,
        OTHER_KEY,
        bundles.parse_public_keys(OTHER_KEY.public_line()),
    )
    source = source_of(S3_URL, baked)
    assert stands_in(source)
    assert source.trouble is not None
    assert source.trouble.state == "refused"


def test_with_s3_at_hand_the_images_bundle_is_never_touched(aws: str, tmp_path: Path) -> None:
    publish_to_s3(tmp_path / "s3", "v2")
    source = source_of(S3_URL, f"file://{tmp_path}/not/there/current")
    assert source.served is not None
    assert (source.served.version, source.served.baked, source.trouble) == ("v2", False, None)
    assert decision_of(source).degraded == ()


# --- it is verified like any other -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["current", "baked-1/manifest.json", "baked-1/manifest.sig", "baked-1/forest.npz"])
def test_an_image_whose_bundle_was_changed_decides_by_rules(aws: str, baked: str, tmp_path: Path, name: str) -> None:
    path = tmp_path / "image" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    source = source_of(S3_URL, baked)
    assert source.served is None
    assert decision_of(source).model_version is None


def test_an_image_whose_bundle_lacks_a_file_says_so_in_the_log(
    aws: str, baked: str, tmp_path: Path, lines: Lines
) -> None:
    (tmp_path / "image" / "baked-1" / "golden.json").unlink()
    assert source_of(S3_URL, baked).served is None
    assert [line["detail"] for line in lines.of("baked bundle not served")] == [
        "There is no 'baked-1/golden.json' here."
    ]


def test_a_bundle_in_the_image_that_another_key_signed_is_not_served(aws: str, tmp_path: Path) -> None:
    url = publish_small(tmp_path / "image", "baked-1", key=OTHER_KEY)
    source = source_of(S3_URL, url)
    assert source.served is None
    assert source.trouble is not None
    assert source.trouble.state == "missing", "what is told is why the pointer's is not served"


def test_an_image_without_a_bundle_says_nothing_of_it(aws: str, tmp_path: Path, lines: Lines) -> None:
    source = source_of(S3_URL, f"file://{tmp_path}/baked/current")
    assert source.served is None
    assert lines.of("baked bundle not served") == []


def test_on_aws_a_development_keys_bundle_in_the_image_is_refused(aws: str, tmp_path: Path) -> None:
    key = bundles.SigningKey.generate("dev-laptop")
    url = publish_small(tmp_path / "image", "baked-1", key=key)
    settings = Settings(
        model_url=S3_URL,
        baked_model_url=url,
        model_public_keys=key.public_line(),
        feature_store_url="memory://",
        log_level="ERROR",
    )
    assert build(settings).state.scorer.source.served.baked
    assert build(settings, on_aws=True).state.scorer.source.served is None


# --- and it goes again -----------------------------------------------------------------------------------------------


def test_when_s3_comes_back_the_pointers_bundle_takes_over_whatever_its_serial(
    aws: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in ("baked-0", "baked-1"):  # a serial above that of the bucket's pointer
        url = publish_small(tmp_path / "image", version)
    publish_to_s3(tmp_path / "s3", "v2")
    monkeypatch.setenv("AWS_ENDPOINT_URL", closed_port())
    source = source_of(S3_URL, url)
    assert stands_in(source)
    monkeypatch.setenv("AWS_ENDPOINT_URL", aws)
    source.refresh()
    assert source.served is not None
    assert (source.served.version, source.served.baked, source.trouble) == ("v2", False, None)
    assert decision_of(source).degraded == ()


def test_when_the_pointer_names_the_very_same_bundle_the_flag_goes(
    aws: str, baked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundles.publish(tmp_path / "image" / "baked-1", S3_URL, KEY, TRUSTED)
    monkeypatch.setenv("AWS_ENDPOINT_URL", closed_port())
    source = source_of(S3_URL, baked)
    assert stands_in(source)
    monkeypatch.setenv("AWS_ENDPOINT_URL", aws)
    source.refresh()
    assert decision_of(source).model_version == "baked-1"
    assert decision_of(source).degraded == ()


def test_a_bundle_that_was_served_from_s3_is_kept_and_never_replaced_by_the_images(
    aws: str, baked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_to_s3(tmp_path / "s3", "v2")
    source = source_of(S3_URL, baked)
    monkeypatch.setenv("AWS_ENDPOINT_URL", closed_port())
    source.refresh()
    assert source.served is not None
    assert (source.served.version, source.served.baked) == ("v2", False)
    assert decision_of(source).degraded == (), "it is the last that the pointer named"


def test_the_rules_file_decides_beside_the_images_bundle_too(aws: str, baked: str, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text('{"version": "file", "rules": []}')
    source = source_of(S3_URL, baked, rules_url=f"file://{tmp_path}/rules.yaml")
    assert stands_in(source)
    assert source.rules.version.startswith("file+")
    assert decision_of(source).degraded == ("model",)


# --- how it is told --------------------------------------------------------------------------------------------------


def test_ready_stays_200_and_says_that_the_model_is_the_images(aws: str, baked: str) -> None:
    client = Client(create_app(FraudScorer(source_of(S3_URL, baked))))
    answer = client.get("/ready")
    assert answer.status_code == 200
    body = answer.json()
    assert (body["status"], body["model"], body["model_version"]) == ("degraded", "baked", "baked-1")
    assert body["last_refresh"]["model"] == "missing"
    assert client.get("/model").json()["degraded"] == ["model"]


def test_a_batch_is_flagged_too(aws: str, baked: str) -> None:
    client = Client(create_app(FraudScorer(source_of(S3_URL, baked))))
    items = client.post("/predict/batch", json={"transactions": [{"amount": 1}, {"amount": 2}]}).json()["results"]
    assert [item["decision"]["degraded"] for item in items] == [["model"], ["model"]]


def test_the_setting_takes_a_file_and_nothing_else() -> None:
    assert read_settings({}).baked_model_url is None
    assert read_settings({"FRAUD_BAKED_MODEL_URL": "file://baked/current"}).baked_model_url == "file://baked/current"
    with pytest.raises(SettingsError, match=r"Unknown baked model scheme 's3'\. Choices are: file\."):
        read_settings({"FRAUD_BAKED_MODEL_URL": "s3://bucket/models/current"})


def test_the_image_may_be_moved_about_because_the_bundle_is_copied_as_it_is(baked: str, tmp_path: Path) -> None:
    shutil.copytree(tmp_path / "image", tmp_path / "elsewhere")
    source = source_of(f"file://{tmp_path}/nothing/current", f"file://{tmp_path}/elsewhere/current")
    assert stands_in(source)
