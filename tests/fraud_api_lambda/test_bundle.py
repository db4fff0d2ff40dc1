"""Bundles: sealing, opening from the outside in, publishing; on disk and in an S3 stand-in."""

import base64
import hashlib
import io
import json
import pickle
import random
import re
import socket
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fraud_api_lambda import bundle as bundles
from fraud_api_lambda.bundle import MANIFEST, SIGNATURE, SigningKey
from fraud_api_lambda.errors import (
    BundleError,
    BundleMissing,
    BundleRefused,
    BundleUnreachable,
    PublishConflict,
    SettingsError,
)
from fraud_api_lambda.features import NAMES
from fraud_api_lambda.reload import load
from tests.conftest import Trained
from tests.fraud_api_lambda.making import (
    KEY,
    OTHER_KEY,
    TRUSTED,
    copied,
    publish_small,
    seal_small,
    small_files,
    small_forest,
    small_manifest,
)


def open_all(url: str, keys: Mapping[str, bytes] = TRUSTED) -> None:
    """As the service opens it, and then every file."""
    bundle = bundles.open_bundle(url, keys)
    load(bundle)
    bundle.forget()
    bundle.verify()


def sign_manifest(folder: Path, text: bytes, key: SigningKey = KEY) -> None:
    """Write ``text`` as the manifest with a good signature: what a publisher with the key could do by mistake."""
    (folder / MANIFEST).write_bytes(text)
    (folder / SIGNATURE).write_text(json.dumps(bundles._signature(key, bundles._MANIFEST_CONTEXT, text)))


def change_manifest(folder: Path, **changes: object) -> None:
    data = json.loads((folder / MANIFEST).read_bytes())
    sign_manifest(folder, json.dumps({**data, **changes}).encode())


# --- keys ------------------------------------------------------------------------------------------------------------


def test_a_saved_key_is_its_owners_only_and_loads_as_the_same_key(tmp_path: Path) -> None:
    path = tmp_path / "new" / "release.key"
    KEY.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again = SigningKey.load(path)
    assert again.key_id == KEY.key_id
    assert again.public_line() == KEY.public_line()
    assert again.sign(b"x") == KEY.sign(b"x")


def test_a_key_file_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "release.key"
    KEY.save(path)
    before = path.read_bytes()
    with pytest.raises(SettingsError, match="exists already"):
        OTHER_KEY.save(path)
    assert path.read_bytes() == before


def test_a_private_key_is_not_shown_when_a_key_is_printed() -> None:
    raw = base64.b64encode(KEY.private.private_bytes_raw()).decode()
    assert raw not in repr(KEY)
    assert "private" not in repr(KEY)


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", b"null", b"\xff\xfe", b'{"key_id": "a", "private_key": "AAAA"}', b'{"key_id": 1}', b"[" * 50],
)
def test_a_file_that_is_no_key_is_refused_with_the_command_that_makes_one(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "some.key"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match="python -m training keys"):
        SigningKey.load(path)


def test_a_missing_key_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"No signing key at .*none.key"):
        SigningKey.load(tmp_path / "none.key")


@pytest.mark.parametrize("key_id", ["", "a" * 65, "a b", "a:b", "-a", "a\n"])
def test_a_key_id_that_would_break_the_setting_is_refused(key_id: str) -> None:
    with pytest.raises(SettingsError, match="key id"):
        SigningKey.generate(key_id)


def test_public_keys_are_separated_by_commas_or_white_space() -> None:
    text = f" {KEY.public_line()},\n{OTHER_KEY.public_line()}\n"
    assert set(bundles.parse_public_keys(text)) == {"test-key", "other-key"}
    assert bundles.parse_public_keys("") == {}


@pytest.mark.parametrize("text", ["a", "a:", "a:AAAA", ":" + "A" * 43 + "=", "a:" + "é" * 44, "a:b:c"])
def test_a_malformed_public_key_is_refused_without_being_shown(text: str) -> None:
    with pytest.raises(SettingsError, match="key_id:base64") as refused:
        bundles.parse_public_keys(text)
    assert "AAAA" not in str(refused.value)


# --- URLs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "folder", "name"),
    [
        ("file://models/current", "file://models", "current"),
        ("file:///srv/models/current", "file:///srv/models", "current"),
        ("s3://bucket/current", "s3://bucket", "current"),
        ("s3://bucket/a/b/current", "s3://bucket/a/b", "current"),
    ],
)
def test_a_model_url_is_a_folder_and_a_pointer(url: str, folder: str, name: str) -> None:
    assert bundles.split_url(url) == (folder, name)


@pytest.mark.parametrize(
    "url",
    [
        "file://current",
        "file:///current",
        "s3://bucket",
        "s3:///current",
        "file://models/",
        "file://models/..",
        "s3://",
    ],
)
def test_a_model_url_without_folder_or_name_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="names a pointer in a folder"):
        bundles.split_url(url)


@pytest.mark.parametrize("url", ["models/current", "http://bucket/current", "mysql://user:secret@host/current", ""])
def test_an_unknown_scheme_is_refused_with_the_choices_and_without_the_url(url: str) -> None:
    with pytest.raises(SettingsError, match="file, s3") as refused:
        bundles.read_pointer(url, TRUSTED)
    assert "secret" not in str(refused.value)


# --- sealing ---------------------------------------------------------------------------------------------------------


def test_what_was_sealed_opens_with_the_manifest_that_was_given(tmp_path: Path) -> None:
    folder = seal_small(tmp_path, "v1")
    bundle = bundles.open_folder(folder, TRUSTED)
    bundle.verify()
    assert bundle.manifest.model_copy(update={"files": {}}) == small_manifest("v1")
    assert bundle.key_id == "test-key"
    assert bundle.serial is None
    for name, entry in bundle.manifest.files.items():
        data = (folder / name).read_bytes()
        assert (entry.sha256, entry.size) == (hashlib.sha256(data).hexdigest(), len(data))


def test_a_version_is_never_sealed_over_another_bundle(tmp_path: Path) -> None:
    folder = seal_small(tmp_path, "v1")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(BundleRefused, match="exists already"):
        seal_small(tmp_path, "v1", drained=5.0)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_sealing_the_very_same_bundle_again_changes_nothing(tmp_path: Path) -> None:
    folder = seal_small(tmp_path, "v1")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert seal_small(tmp_path, "v1") == folder
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("name", ["../x", "a/b", "/etc/x", "..", "", "a" * 129, MANIFEST, SIGNATURE, ".hidden", "x\0"])
def test_a_file_or_version_name_that_climbs_or_collides_is_not_sealed(tmp_path: Path, name: str) -> None:
    manifest = small_manifest("v1")
    with pytest.raises(BundleRefused, match="name"):
        bundles.seal(tmp_path / "models", manifest, {name: b""}, KEY)
    with pytest.raises(BundleRefused, match="name"):
        seal_small(tmp_path / "models", name)
    assert not list(tmp_path.iterdir())


def test_a_resigned_bundle_opens_with_the_new_key_only_and_is_the_same_bundle(tmp_path: Path) -> None:
    folder = seal_small(tmp_path, "v1")
    before = (folder / MANIFEST).read_bytes()
    bundles.resign(folder, OTHER_KEY, TRUSTED)
    assert (folder / MANIFEST).read_bytes() == before
    bundles.open_folder(folder, bundles.parse_public_keys(OTHER_KEY.public_line())).verify()
    with pytest.raises(BundleRefused, match="not trusted"):
        bundles.open_folder(folder, TRUSTED)


def test_a_bundle_that_was_changed_is_not_resigned(tmp_path: Path) -> None:
    folder = seal_small(tmp_path, "v1")
    (folder / "rules.yaml").write_bytes(b"rules: []")
    before = (folder / SIGNATURE).read_bytes()
    with pytest.raises(BundleRefused, match=r"rules.yaml"):
        bundles.resign(folder, OTHER_KEY, TRUSTED)
    assert (folder / SIGNATURE).read_bytes() == before


# --- opening what is not right ---------------------------------------------------------------------------------------


@pytest.mark.chaos
def test_a_flipped_bit_anywhere_is_refused_and_raises_nothing_else(
    trained: Trained, tmp_path: Path, full: bool
) -> None:
    flips, truncations = (500, 100) if full else (200, 50)
    root = tmp_path / "models"
    copied(trained.folder, root / trained.version)
    development = (trained.root / "keys" / "development.pub").read_text()
    keys = bundles.parse_public_keys(development)
    (root / "current").write_bytes((trained.root / "models" / "current").read_bytes())
    rng = random.Random(5)
    paths = [root / "current", *sorted((root / trained.version).iterdir())]
    assert {"forest.npz", "model.ubj", "report.html", MANIFEST, SIGNATURE} <= {path.name for path in paths}
    for number in range(flips + truncations):
        path = paths[number % len(paths)]
        good = path.read_bytes()
        if number < flips:
            bad = bytearray(good)
            bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        else:
            bad = bytearray(good[: rng.randrange(len(good))])
        path.write_bytes(bad)
        with pytest.raises(BundleError):
            open_all(f"file://{root}/current", keys)
        path.write_bytes(good)
    open_all(f"file://{root}/current", keys)


@pytest.mark.parametrize("name", [SIGNATURE, "current"])
def test_every_bit_at_the_end_of_a_signature_matters(tmp_path: Path, name: str) -> None:
    # In base64 the last letter of 64 bytes has four bits that decode to nothing.
    url = publish_small(tmp_path, "v1")
    path = tmp_path / name if name == "current" else tmp_path / "v1" / name
    good = path.read_bytes()
    for bit in range(8 * (len(good) - 8), 8 * len(good)):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        with pytest.raises(BundleRefused):
            bundles.open_bundle(url, TRUSTED)


@pytest.mark.parametrize("name", [MANIFEST, SIGNATURE, "forest.npz", "golden.json", "rules.yaml", "report.html"])
def test_a_missing_file_is_named_as_missing(tmp_path: Path, name: str) -> None:
    url = publish_small(tmp_path, "v1")
    (tmp_path / "v1" / name).unlink()
    with pytest.raises(BundleMissing, match=name) as missing:
        open_all(url)
    assert missing.value.state == "missing"


def test_nothing_at_the_address_is_the_state_missing(tmp_path: Path) -> None:
    with pytest.raises(BundleMissing, match="'current'") as missing:
        bundles.open_bundle(f"file://{tmp_path}/models/current", TRUSTED)
    assert missing.value.state == "missing"


def test_an_address_that_cannot_be_read_is_the_state_unreachable(tmp_path: Path) -> None:
    (tmp_path / "models" / "current").mkdir(parents=True)  # a folder where the pointer should be
    with pytest.raises(BundleUnreachable, match="'current'") as unreachable:
        bundles.open_bundle(f"file://{tmp_path}/models/current", TRUSTED)
    assert unreachable.value.state == "unreachable"


def test_a_bundle_signed_with_an_unknown_key_is_refused_naming_the_trusted_ones(tmp_path: Path) -> None:
    url = publish_small(tmp_path, "v1", key=OTHER_KEY)
    with pytest.raises(BundleRefused, match=r"not trusted here. Trusted are: test-key.") as refused:
        bundles.open_bundle(url, TRUSTED)
    assert refused.value.state == "refused"


def test_a_key_of_the_trusted_id_but_another_pair_is_refused(tmp_path: Path) -> None:
    url = publish_small(tmp_path, "v1", key=SigningKey.generate("test-key"))
    with pytest.raises(BundleRefused, match="signature of The pointer does not match"):
        bundles.open_bundle(url, TRUSTED)


def test_a_pointer_of_ours_to_a_bundle_of_a_stranger_is_refused(tmp_path: Path) -> None:
    url = publish_small(tmp_path, "v1")
    folder = tmp_path / "v1"
    sign_manifest(folder, (folder / MANIFEST).read_bytes(), OTHER_KEY)
    with pytest.raises(BundleRefused, match="The manifest is signed with a key that is not trusted"):
        bundles.open_bundle(url, TRUSTED)


@pytest.mark.parametrize("signed", ["{}", "[]", "null", '{"key_id": "test-key"}', '{"key_id": 1, "signature": 2}', ""])
def test_an_unsigned_bundle_is_refused(tmp_path: Path, signed: str) -> None:
    url = publish_small(tmp_path, "v1")
    (tmp_path / "v1" / SIGNATURE).write_text(signed)
    with pytest.raises(BundleRefused, match=r"is not signed|is not JSON"):
        bundles.open_bundle(url, TRUSTED)


def test_a_signature_of_a_manifest_does_not_pass_for_one_of_a_pointer(tmp_path: Path) -> None:
    url = publish_small(tmp_path, "v1")
    path = tmp_path / "current"
    text = json.loads(path.read_text())["pointer"]
    forged = bundles._signature(KEY, bundles._MANIFEST_CONTEXT, text.encode())
    path.write_text(json.dumps({"pointer": text, **forged}))
    with pytest.raises(BundleRefused, match="does not match"):
        bundles.read_pointer(url, TRUSTED)


def test_files_of_two_bundles_cannot_be_swapped(tmp_path: Path) -> None:
    url = publish_small(tmp_path, "v1")
    seal_small(tmp_path, "v2", drained=9.0)
    good = (tmp_path / "v1" / "forest.npz").read_bytes()
    (tmp_path / "v1" / "forest.npz").write_bytes((tmp_path / "v2" / "forest.npz").read_bytes())
    with pytest.raises(BundleRefused, match=r"forest\.npz"):
        bundles.open_bundle(url, TRUSTED)
    (tmp_path / "v1" / "forest.npz").write_bytes(good)
    (tmp_path / "v1" / "golden.json").write_bytes(RULES_LIKE)
    with pytest.raises(BundleRefused, match=r"golden\.json"):
        bundles.open_bundle(url, TRUSTED)


RULES_LIKE = b"rules: []"


def test_a_whole_other_bundle_under_the_pointers_name_is_refused(tmp_path: Path) -> None:
    url = publish_small(tmp_path, "v1")
    seal_small(tmp_path, "v2")
    for path in (tmp_path / "v2").iterdir():
        (tmp_path / "v1" / path.name).write_bytes(path.read_bytes())
    with pytest.raises(BundleRefused, match="not the one that the pointer names"):
        bundles.open_bundle(url, TRUSTED)


def test_a_manifest_of_another_version_than_the_pointers_is_refused(tmp_path: Path) -> None:
    folder = seal_small(tmp_path, "v2")
    copied(folder, tmp_path / "v1")
    digest = hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
    url = write_pointer(tmp_path, version="v1", manifest_sha256=digest)
    with pytest.raises(BundleRefused, match="another version"):
        bundles.open_bundle(url, TRUSTED)


def write_pointer(root: Path, **changes: object) -> str:
    """A well-signed pointer that says what it is told."""
    inner = {"protocol": 1, "serial": 1, "version": "v1", "manifest_sha256": "0" * 64, "previous": None, **changes}
    text = json.dumps(inner)
    outer = {"pointer": text, **bundles._signature(KEY, bundles._POINTER_CONTEXT, text.encode())}
    (root / "current").write_text(json.dumps(outer))
    return f"file://{root}/current"


@pytest.mark.parametrize("version", ["../v1", "/etc", "v1/..", "..", "", "a/b", MANIFEST])
def test_a_pointer_that_climbs_out_of_its_folder_is_refused(tmp_path: Path, version: str) -> None:
    with pytest.raises(BundleRefused, match="not allowed"):
        bundles.open_bundle(write_pointer(tmp_path, version=version), TRUSTED)


@pytest.mark.parametrize(
    "changes", [{"serial": "1"}, {"serial": None}, {"version": 1}, {"manifest_sha256": None}, {"serial": 1.5}]
)
def test_a_pointer_that_is_signed_but_not_understood_is_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(BundleRefused, match="not understood"):
        bundles.read_pointer(write_pointer(tmp_path, **changes), TRUSTED)


def test_a_pointer_of_another_protocol_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleRefused, match="another protocol"):
        bundles.read_pointer(write_pointer(tmp_path, protocol=2), TRUSTED)


@pytest.mark.parametrize("number", ["protocol", "profile_format", "decision_schema"])
@pytest.mark.parametrize("value", [2, 0, "1", None])
def test_another_protocol_number_is_refused_by_name(tmp_path: Path, number: str, value: object) -> None:
    folder = seal_small(tmp_path, "v1")
    change_manifest(folder, **{number: value})
    with pytest.raises(BundleRefused, match=f"another {number} than this service"):
        bundles.open_folder(folder, TRUSTED)


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"surprise": 1}, "surprise"),
        ({"features": []}, "features"),
        ({"members": []}, "members"),
        ({"thresholds": {"review": "high", "decline": 1}}, "thresholds"),
        ({"currency": {"base": "dollars", "minor_units": 2}}, "currency"),
        ({"time_zone": {"name": "UTC", "starts_ms": [], "offsets_s": []}}, "time_zone"),
        ({"files": {"forest.npz": {"sha256": "x", "size": 1}}}, "files"),
    ],
)
def test_a_manifest_that_is_not_understood_says_where(tmp_path: Path, changes: dict[str, object], where: str) -> None:
    folder = seal_small(tmp_path, "v1")
    change_manifest(folder, **changes)
    with pytest.raises(BundleRefused, match=f"not understood at '{where}"):
        bundles.open_folder(folder, TRUSTED)


@pytest.mark.parametrize(
    "zone",
    [
        {"name": "X", "starts_ms": [0, 1], "offsets_s": [0]},
        {"name": "X", "starts_ms": [0], "offsets_s": [0, 3600]},
        {"name": "X", "starts_ms": [5, 1], "offsets_s": [0, 3600]},
        {"name": "X", "starts_ms": [0], "offsets_s": [10**9]},
    ],
)
def test_a_time_zone_whose_table_cannot_be_searched_is_refused(tmp_path: Path, zone: dict[str, object]) -> None:
    folder = seal_small(tmp_path, "v1")
    change_manifest(folder, time_zone=zone)
    with pytest.raises(BundleRefused, match="time_zone"):
        bundles.open_folder(folder, TRUSTED)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/b", SIGNATURE])
def test_a_manifest_whose_files_climb_is_refused(tmp_path: Path, name: str) -> None:
    folder = seal_small(tmp_path, "v1")
    change_manifest(folder, files={name: {"sha256": "0" * 64, "size": 0}})
    with pytest.raises(BundleRefused, match="not allowed"):
        bundles.open_folder(folder, TRUSTED)


def test_a_file_that_the_manifest_does_not_name_is_not_read(tmp_path: Path) -> None:
    folder = seal_small(tmp_path, "v1")
    (folder / "extra.bin").write_bytes(b"x")
    bundle = bundles.open_folder(folder, TRUSTED)
    with pytest.raises(BundleRefused, match=r"no 'extra\.bin'"):
        bundle.read("extra.bin")
    with pytest.raises(BundleRefused, match="not allowed"):
        bundle.read("../current")


@pytest.mark.parametrize(
    ("feature", "words"),
    [
        ({"name": "amount_squared", "version": 1}, "does not know: amount_squared"),
        ({"name": "drains_account", "version": 2}, "version 2 of feature 'drains_account'"),
    ],
)
def test_an_unknown_feature_or_version_of_one_is_refused_by_name(
    tmp_path: Path, feature: dict[str, object], words: str
) -> None:
    folder = seal_small(tmp_path, "v1", features=[{"name": "amount", "version": 1}, feature])
    with pytest.raises(BundleRefused, match=words):
        load(bundles.open_folder(folder, TRUSTED))


class Planted:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return (Path.write_text, (Path("/tmp/planted-by-a-pickle"), "x"))  # type: ignore[return-value]


def test_a_pickle_in_place_of_the_forest_is_refused_and_not_run(tmp_path: Path) -> None:
    import numpy as np

    out = io.BytesIO()
    np.savez(out, allow_pickle=True, scalars=np.array([Planted()], dtype=object))
    for number, data in enumerate((pickle.dumps(Planted()), out.getvalue())):
        folder = seal_small(tmp_path, f"v{number}", files={"forest.npz": data})
        with pytest.raises(BundleRefused, match=r"forest\.npz"):
            load(bundles.open_folder(folder, TRUSTED))
    assert not Path("/tmp/planted-by-a-pickle").exists()


def test_rules_that_do_not_compile_refuse_the_bundle_naming_the_rule(tmp_path: Path) -> None:
    rules = b'rules: [{id: broken, expression: "amounts > 1.0", outcome: review, reason: x}]'
    folder = seal_small(tmp_path, "v1", files={"rules.yaml": rules})
    with pytest.raises(BundleRefused, match=r"rules are refused.*broken"):
        load(bundles.open_folder(folder, TRUSTED))


@pytest.mark.parametrize(
    "golden",
    [
        b"", b"[]", b'{"rows": []}', b'{"rows": [{"columns": [1], "margin": 0, "probability": 0}]}', b"[" * 100_000,
        b'{"rows": [{"columns": [1' + b"0" * 400 + b'], "margin": 0, "probability": 0}]}', b'{"rows": 1}',
        b'{"rows": [1]}', b'{"rows": [{"columns": {"a": 1}, "margin": 0, "probability": 0}]}',
    ],
)  # fmt: skip
def test_golden_rows_that_cannot_be_read_refuse_the_bundle(tmp_path: Path, golden: bytes) -> None:
    folder = seal_small(tmp_path, "v1", files={"golden.json": golden})
    with pytest.raises(BundleRefused, match=r"golden\.json"):
        load(bundles.open_folder(folder, TRUSTED))


def test_golden_rows_of_a_service_that_knew_fewer_features_are_read_by_name(tmp_path: Path) -> None:
    manifest = small_manifest("v1")
    golden = json.loads(small_files(manifest, small_forest())["golden.json"])
    golden["names"] = [feature.name for feature in manifest.features]
    at = [NAMES.index(name) for name in golden["names"]]
    for row in golden["rows"]:
        row["columns"] = [row["columns"][i] for i in at]
    folder = seal_small(tmp_path, "v1", files={"golden.json": json.dumps(golden).encode()})
    load(bundles.open_folder(folder, TRUSTED))
    for names in (golden["names"][1:], [*golden["names"][1:], "amount_ratio_90d"], ["amount"] * len(at)):
        golden["names"] = names
        folder = seal_small(tmp_path, f"v{len(names)}{names[-1]}", files={"golden.json": json.dumps(golden).encode()})
        with pytest.raises(BundleRefused, match=r"golden\.json does not fit"):
            load(bundles.open_folder(folder, TRUSTED))


def test_a_model_that_scores_its_golden_rows_differently_is_refused(tmp_path: Path) -> None:
    manifest = small_manifest("v1")
    golden = json.loads(small_files(manifest, small_forest())["golden.json"])
    golden["rows"][0]["margin"] += 1e-6
    folder = seal_small(tmp_path, "v1", files={"golden.json": json.dumps(golden).encode()})
    with pytest.raises(BundleRefused, match="score differently"):
        load(bundles.open_folder(folder, TRUSTED))


@pytest.mark.parametrize(
    "changes",
    [
        {"calibration": {"slope": 0.0, "intercept": 0.0}},
        {"calibration": {"slope": -1.0, "intercept": 0.0}},
        {"thresholds": {"review": 0.9, "decline": 0.5}},
        {"thresholds": {"review": 0.0, "decline": 0.5}},
        {"thresholds": {"review": 0.5, "decline": 1.0}},
        {"features": [{"name": "amount", "version": 1}]},
        {"attributes": [{"name": "a", "kind": "number"}, {"name": "a", "kind": "number"}]},
    ],
)
def test_a_manifest_that_cannot_be_served_is_refused_at_loading(tmp_path: Path, changes: dict[str, object]) -> None:
    folder = seal_small(tmp_path, "v1", **changes)
    with pytest.raises(BundleRefused):
        load(bundles.open_folder(folder, TRUSTED))


def test_a_bundle_that_lacks_a_member_is_refused_and_never_scored_by_the_others(tmp_path: Path) -> None:
    member = {"name": "xgboost", "kind": "forest", "weight": 1.0}
    folder = seal_small(tmp_path, "v1", members=[member, {**member, "name": "second"}])
    with pytest.raises(BundleRefused, match="missing"):
        load(bundles.open_folder(folder, TRUSTED))


# --- publishing, on disk ---------------------------------------------------------------------------------------------


def test_publishing_counts_up_and_remembers_what_lay_before(tmp_path: Path) -> None:
    url = publish_small(tmp_path, "v1")
    first = bundles.read_pointer(url, TRUSTED)
    assert (first.serial, first.version, first.previous, first.key_id) == (1, "v1", None, "test-key")
    publish_small(tmp_path, "v2")
    second = bundles.read_pointer(url, TRUSTED)
    assert (second.serial, second.version, second.previous) == (2, "v2", "v1")
    assert bundles.open_bundle(url, TRUSTED).serial == 2


def test_publishing_a_version_again_keeps_what_lay_before_it(tmp_path: Path) -> None:
    publish_small(tmp_path, "v1")
    publish_small(tmp_path, "v2")
    again = bundles.publish(tmp_path / "v2", f"file://{tmp_path}/current", KEY, TRUSTED)
    assert (again.serial, again.version, again.previous) == (3, "v2", "v1")


def test_publishing_copies_the_bundle_beside_the_pointer(tmp_path: Path) -> None:
    folder = seal_small(tmp_path / "here", "v1")
    bundles.publish(folder, f"file://{tmp_path}/there/current", KEY, TRUSTED)
    assert {path.name: path.read_bytes() for path in (tmp_path / "there" / "v1").iterdir()} == {
        path.name: path.read_bytes() for path in folder.iterdir()
    }
    open_all(f"file://{tmp_path}/there/current")


def test_another_bundle_of_a_published_version_is_refused_and_what_is_served_stays_whole(tmp_path: Path) -> None:
    url = publish_small(tmp_path / "there", "v1")
    another = seal_small(tmp_path / "here", "v1", drained=5.0)
    with pytest.raises(BundleRefused, match="v1"):
        bundles.publish(another, url, KEY, TRUSTED)
    open_all(url)
    assert bundles.read_pointer(url, TRUSTED).serial == 1


def test_a_half_copied_bundle_is_completed_by_publishing_it_again(tmp_path: Path) -> None:
    url = publish_small(tmp_path / "there", "v1")
    folder = seal_small(tmp_path / "here", "v1")
    for name in ("forest.npz", SIGNATURE):
        (tmp_path / "there" / "v1" / name).write_bytes(b"half")
    bundles.publish(folder, url, KEY, TRUSTED)
    open_all(url)


def test_a_broken_bundle_is_not_published_and_the_pointer_stays(tmp_path: Path) -> None:
    url = publish_small(tmp_path / "there", "v1")
    folder = seal_small(tmp_path / "here", "v2")
    (folder / "report.html").write_bytes(b"changed")
    with pytest.raises(BundleRefused, match=r"report\.html"):
        bundles.publish(folder, url, KEY, TRUSTED)
    assert bundles.read_pointer(url, TRUSTED).version == "v1"
    assert not (tmp_path / "there" / "v2").exists()


def test_going_back_points_at_the_old_version_with_a_new_serial(tmp_path: Path) -> None:
    url = publish_small(tmp_path, "v1")
    publish_small(tmp_path, "v2")
    back = bundles.point_at(url, KEY, TRUSTED, "v1")
    assert (back.serial, back.version, back.previous) == (3, "v1", "v2")
    open_all(url)


def test_going_back_needs_something_published_and_a_version_that_is_there(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/current"
    with pytest.raises(BundleMissing, match=re.escape("There is no 'v1/manifest.json' here")):
        bundles.point_at(url, KEY, TRUSTED, "v1")
    publish_small(tmp_path, "v1")
    with pytest.raises(BundleMissing):
        bundles.point_at(url, KEY, TRUSTED, "v0")
    with pytest.raises(BundleRefused, match="not allowed"):
        bundles.point_at(url, KEY, TRUSTED, "../v1")
    assert bundles.read_pointer(url, TRUSTED).serial == 1


def race(store: bundles.Store, threads: int = 8, rounds: int = 12) -> None:
    """All threads read, then all swap at once; exactly one may win each round, and no count is lost."""
    store.swap("current", b"0", None)
    barrier = threading.Barrier(threads)

    def take_part(number: int) -> list[bool]:
        won = []
        for _ in range(rounds):
            data, token = store.read("current")
            barrier.wait(60)
            try:
                store.swap("current", b"%d" % (int(data) + 1), token)
                won.append(True)
            except PublishConflict:
                won.append(False)
            barrier.wait(60)
        return won

    with ThreadPoolExecutor(threads) as pool:
        results = list(pool.map(take_part, range(threads)))
    assert [sum(column) for column in zip(*results, strict=True)] == [1] * rounds
    assert store.read("current")[0] == b"%d" % rounds


def test_of_eight_racing_publishers_exactly_one_wins_each_round(tmp_path: Path) -> None:
    race(bundles.open_store(f"file://{tmp_path}/models"))


def test_a_pointer_is_created_only_where_there_is_none(tmp_path: Path) -> None:
    store = bundles.open_store(f"file://{tmp_path}/models")
    store.swap("current", b"1", None)
    with pytest.raises(PublishConflict, match="moved by somebody else"):
        store.swap("current", b"2", None)
    assert store.read("current")[0] == b"1"
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["current"]


def test_a_lock_left_behind_is_named_in_the_conflict(tmp_path: Path) -> None:
    store = bundles.open_store(f"file://{tmp_path}")
    (tmp_path / ".current.lock").touch()
    with pytest.raises(PublishConflict, match=r"remove \.current\.lock"):
        store.swap("current", b"1", None)


def test_a_folder_that_is_a_file_is_unreachable_for_writing(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file")
    store = bundles.open_store(f"file://{tmp_path}/models")
    with pytest.raises(BundleUnreachable, match="'current'"):
        store.swap("current", b"1", None)
    with pytest.raises(BundleUnreachable, match="'v1/x'"):
        store.write("v1/x", b"1")


# --- the same in S3 --------------------------------------------------------------------------------------------------


@pytest.mark.server
def test_a_bundle_goes_to_s3_and_opens_from_there(aws: str, tmp_path: Path) -> None:
    url = "s3://models/fraud/current"
    with pytest.raises(BundleMissing, match="'current'"):
        bundles.open_bundle(url, TRUSTED)
    bundles.publish(seal_small(tmp_path, "v1"), url, KEY, TRUSTED)
    bundles.publish(seal_small(tmp_path, "v2"), url, KEY, TRUSTED)
    open_all(url)
    back = bundles.point_at(url, KEY, TRUSTED, "v1")
    assert (back.serial, back.version, back.previous) == (3, "v1", "v2")
    open_all(url)


@pytest.mark.server
def test_of_eight_racing_publishers_to_s3_exactly_one_wins_each_round(aws: str) -> None:
    race(bundles.open_store("s3://models/fraud"), rounds=5)


@pytest.mark.server
def test_an_object_changed_in_s3_is_caught_by_the_digest(aws: str, tmp_path: Path) -> None:
    import boto3

    url = "s3://models/current"
    bundles.publish(seal_small(tmp_path, "v1"), url, KEY, TRUSTED)
    good = (tmp_path / "v1" / "forest.npz").read_bytes()
    bad = bytearray(good)
    bad[len(bad) // 2] ^= 1
    boto3.client("s3").put_object(Bucket="models", Key="v1/forest.npz", Body=bytes(bad))
    with pytest.raises(BundleRefused, match=r"forest\.npz"):
        bundles.open_bundle(url, TRUSTED)


@pytest.mark.server
def test_a_missing_bucket_is_missing(aws: str) -> None:
    with pytest.raises(BundleMissing):
        bundles.open_bundle("s3://no-such-bucket/current", TRUSTED)


@pytest.mark.server
def test_a_bucket_that_refuses_us_is_unreachable_and_says_permission(
    aws: str, refuse_all: Callable[[], None], tmp_path: Path
) -> None:
    bundles.publish(seal_small(tmp_path, "v1"), "s3://models/current", KEY, TRUSTED)
    refuse_all()
    with pytest.raises(BundleUnreachable, match=r"refused reading 'current' .permission."):
        bundles.open_bundle("s3://models/current", TRUSTED)
    with pytest.raises(BundleUnreachable, match="permission"):
        bundles.open_store("s3://models").write("x", b"1")


@pytest.fixture
def silent_endpoint() -> Iterator[str]:
    """A port that takes connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def bound_to_nothing() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


@pytest.mark.timeout(30)
@pytest.mark.parametrize("kind", ["closed", "silent"])
def test_an_endpoint_that_does_not_answer_is_unreachable_after_a_few_seconds(
    monkeypatch: pytest.MonkeyPatch, silent_endpoint: str, kind: str
) -> None:
    for name, value in {
        "AWS_ENDPOINT_URL": silent_endpoint if kind == "silent" else bound_to_nothing(),
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BundleUnreachable, match="did not answer reading 'current'") as unreachable:
        bundles.open_bundle("s3://models/current", TRUSTED)
    assert unreachable.value.state == "unreachable"
