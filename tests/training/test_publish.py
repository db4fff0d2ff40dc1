"""The gate a bundle must pass, and the ways past it and back."""

import json
from pathlib import Path
from typing import Any

import pytest

from fraud_api_lambda import bundle as bundles
from fraud_api_lambda.bundle import MANIFEST, read_pointer
from fraud_api_lambda.errors import BundleError, BundleMissing, BundleRefused
from tests.fraud_api_lambda.making import KEY, OTHER_KEY, TRUSTED, publish_small, seal_small
from training.publish import GateError, gate, promote, publish, rollback


def figures(precision: float | None = 0.9, rate: float | None = 0.01, low: float | None = None) -> dict[str, Any]:
    interval = None if low is None else {"low": low, "high": 1.0}
    return {
        "average_precision": precision,
        "fraud_rate": {"sample": rate, "weighted": rate},
        "intervals": {"average_precision": interval},
    }


def sealed(root: Path, version: str, test: dict[str, Any], **rest: Any) -> Path:
    return seal_small(root, version, files={"metrics.json": json.dumps({"test": test}).encode()}, **rest)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"file://{tmp_path}/served/current"


# --- the gate --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("candidate", "current"),
    [
        (figures(0.9), None),
        (figures(0.9), figures(0.95, low=0.85)),  # a little worse, within the interval
        (figures(0.95), figures(0.9)),
        (figures(0.5), figures(0.9, rate=0.1, low=0.8)),  # measured at another fraud rate: not comparable
        (figures(0.5), {}),  # what is served carries no figures
        (figures(0.021), None),
    ],
)
def test_a_model_not_clearly_worse_passes(candidate: dict[str, Any], current: dict[str, Any] | None) -> None:
    gate(candidate, current)


@pytest.mark.parametrize(
    ("candidate", "current", "words"),
    [
        ({}, None, "carries no average precision"),
        (figures(None), None, "carries no average precision"),
        (figures(0.9, None), None, "carries no average precision"),
        (figures(0.019), None, "hardly ranks better than chance"),
        (figures(0.84), figures(0.95, low=0.85), "0.840 is below 0.850, the lower bound"),
        (figures(0.89), figures(0.9), "0.890 is below 0.900"),
    ],
)
def test_a_model_that_fails_is_refused_with_what_was_measured(
    candidate: dict[str, Any], current: dict[str, Any] | None, words: str
) -> None:
    with pytest.raises(GateError, match=words):
        gate(candidate, current)


# --- publishing ------------------------------------------------------------------------------------------------------


def test_the_first_bundle_is_published_where_nothing_was(tmp_path: Path, url: str) -> None:
    pointer = publish(sealed(tmp_path, "v1", figures()), url, KEY, TRUSTED)
    assert (pointer.serial, pointer.version, pointer.previous) == (1, "v1", None)
    assert bundles.open_bundle(url, TRUSTED).manifest.version == "v1"


def test_a_worse_model_is_refused_and_the_pointer_stays_unless_forced(tmp_path: Path, url: str) -> None:
    publish(sealed(tmp_path, "v1", figures(0.9, low=0.85)), url, KEY, TRUSTED)
    worse = sealed(tmp_path, "v2", figures(0.5))
    with pytest.raises(GateError, match=r"0.500 is below 0.850.*--force"):
        publish(worse, url, KEY, TRUSTED)
    assert read_pointer(url, TRUSTED).version == "v1"
    assert not (tmp_path / "served" / "v2").exists()
    assert publish(worse, url, KEY, TRUSTED, force=True).serial == 2


def test_force_never_skips_signature_digests_or_golden_rows(tmp_path: Path, url: str) -> None:
    changed = sealed(tmp_path, "v1", figures())
    (changed / "report.html").write_bytes(b"other")
    with pytest.raises(BundleRefused, match=r"report\.html"):
        publish(changed, url, KEY, TRUSTED, force=True)
    strange = sealed(tmp_path, "v2", figures(), key=OTHER_KEY)
    with pytest.raises(BundleRefused, match="not trusted"):
        publish(strange, url, KEY, TRUSTED, force=True)
    golden = (seal_small(tmp_path, "v3") / "golden.json").read_bytes()
    wrong = seal_small(tmp_path, "v4", drained=9.0, files={"golden.json": golden})
    with pytest.raises(BundleRefused, match="score differently"):
        publish(wrong, url, KEY, TRUSTED, force=True)
    with pytest.raises(BundleMissing):
        read_pointer(url, TRUSTED)


@pytest.mark.parametrize("content", [b"[]", b"{}", b"not json", b'{"test": 5}'])
def test_a_bundle_whose_metrics_cannot_be_read_fails_the_gate(tmp_path: Path, url: str, content: bytes) -> None:
    with pytest.raises(GateError, match="carries no average precision"):
        publish(seal_small(tmp_path, "v1", files={"metrics.json": content}), url, KEY, TRUSTED)


@pytest.mark.parametrize("broken", ["pointer cut off", "pointer of a stranger", "bundle changed", "bundle gone"])
def test_what_cannot_be_opened_is_replaced_by_force_only(tmp_path: Path, url: str, broken: str) -> None:
    publish(sealed(tmp_path, "v1", figures()), url, KEY, TRUSTED)
    publish(sealed(tmp_path, "v2", figures()), url, KEY, TRUSTED)
    served = tmp_path / "served"
    if broken == "pointer cut off":
        (served / "current").write_bytes((served / "current").read_bytes()[:50])
    elif broken == "pointer of a stranger":
        stranger = bundles.parse_public_keys(OTHER_KEY.public_line())
        bundles.publish(served / "v1", url, OTHER_KEY, {**TRUSTED, **stranger})
    elif broken == "bundle changed":
        (served / "v2" / "forest.npz").write_bytes(b"x")
    else:
        (served / "v2" / MANIFEST).unlink()
    good = sealed(tmp_path, "v3", figures())
    if broken != "bundle gone":
        with pytest.raises(GateError, match=r"cannot be opened .*--force"):
            publish(good, url, KEY, TRUSTED)
    pointer = publish(good, url, KEY, TRUSTED, force=True)
    assert pointer.version == "v3"
    assert pointer.serial > 3 or broken.startswith("bundle")  # higher than any that was served before
    assert bundles.open_bundle(url, TRUSTED).manifest.version == "v3"


# --- the way back ----------------------------------------------------------------------------------------------------


def test_a_rollback_goes_one_version_back_and_the_serial_on(tmp_path: Path, url: str) -> None:
    for number in (1, 2, 3):
        publish(sealed(tmp_path, f"v{number}", figures()), url, KEY, TRUSTED)
    back = rollback(url, KEY, TRUSTED)
    assert (back.serial, back.version, back.previous) == (4, "v2", "v3")
    named = rollback(url, KEY, TRUSTED, "v1")
    assert (named.serial, named.version) == (5, "v1")
    assert bundles.open_bundle(url, TRUSTED).serial == 5


def test_a_rollback_needs_a_version_before(tmp_path: Path, url: str) -> None:
    with pytest.raises(BundleMissing):
        rollback(url, KEY, TRUSTED)
    publish(sealed(tmp_path, "v1", figures()), url, KEY, TRUSTED)
    with pytest.raises(BundleMissing, match=r"no version before.*--to"):
        rollback(url, KEY, TRUSTED)
    with pytest.raises(BundleError):
        rollback(url, KEY, TRUSTED, "v9")


def test_a_broken_old_version_is_not_rolled_back_to(tmp_path: Path, url: str) -> None:
    for number in (1, 2):
        publish(sealed(tmp_path, f"v{number}", figures()), url, KEY, TRUSTED)
    (tmp_path / "served" / "v1" / "golden.json").write_bytes(b"{}")
    with pytest.raises(BundleRefused, match=r"golden\.json"):
        rollback(url, KEY, TRUSTED)
    assert read_pointer(url, TRUSTED).version == "v2"


# --- champion and challenger -----------------------------------------------------------------------------------------


def challenger_of(root: Path, version: str, average_precision: float) -> str:
    """Seal a bundle and point the challenger at it; its URL."""
    metrics = json.dumps({"test": {"average_precision": average_precision, "fraud_rate": {"weighted": 0.1}}}).encode()
    seal_small(root, version, files={"metrics.json": metrics})
    url = f"file://{root}/challenger"
    bundles.publish(root / version, url, KEY, TRUSTED)
    return url


def test_a_challenger_gets_a_share_then_the_champions_place_and_one_command_goes_back(tmp_path: Path) -> None:
    champion = publish_small(tmp_path, "v1")
    challenger = challenger_of(tmp_path, "v2", 0.95)
    pointer = promote(challenger, champion, KEY, TRUSTED, share=10)
    assert (pointer.version, pointer.share, bundles.read_pointer(challenger, TRUSTED).share) == ("v2", 10, 10)
    assert bundles.read_pointer(champion, TRUSTED).version == "v1"
    assert promote(challenger, champion, KEY, TRUSTED).version == "v2"
    assert bundles.read_pointer(champion, TRUSTED).version == "v2"
    assert rollback(champion, KEY, TRUSTED).version == "v1"


def test_a_worse_challenger_gets_no_share_but_a_canary_always_ends(tmp_path: Path) -> None:
    champion = publish_small(tmp_path, "v1")
    challenger = challenger_of(tmp_path, "v2", 0.5)
    for share in (10, 100):
        with pytest.raises(GateError, match="below"):
            promote(challenger, champion, KEY, TRUSTED, share=share)
    promote(challenger, champion, KEY, TRUSTED, share=10, force=True)
    assert promote(challenger, champion, KEY, TRUSTED, share=0).share == 0
    assert bundles.read_pointer(champion, TRUSTED).version == "v1"


@pytest.mark.parametrize("share", [-1, 101])
def test_a_share_is_from_0_to_100(tmp_path: Path, share: int) -> None:
    with pytest.raises(GateError, match="0 to 100"):
        promote(f"file://{tmp_path}/challenger", f"file://{tmp_path}/current", KEY, TRUSTED, share=share)


def test_champion_and_challenger_lie_in_one_folder(tmp_path: Path) -> None:
    with pytest.raises(GateError, match="one folder"):
        promote(f"file://{tmp_path}/a/challenger", f"file://{tmp_path}/b/current", KEY, TRUSTED)
