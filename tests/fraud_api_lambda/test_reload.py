"""The served bundle is looked for at most once a minute, swapped only when verified, and never lost."""

import logging
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fraud_api_lambda import bundle as bundles
from fraud_api_lambda.bundle import MANIFEST, SIGNATURE
from fraud_api_lambda.errors import BundleMissing, SettingsError
from fraud_api_lambda.reload import REFRESH_SECONDS, ModelSource
from tests.fraud_api_lambda.making import KEY, OTHER_KEY, TRUSTED, publish_small, seal_small


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Keys:
    """The trusted keys, and how often they were asked for."""

    def __init__(self, keys: Mapping[str, bytes] = TRUSTED):
        self.keys = keys
        self.asked = 0

    def __call__(self) -> Mapping[str, bytes]:
        self.asked += 1
        return self.keys


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return publish_small(tmp_path, "v1")


def started(url: str, clock: Clock, keys: Keys | None = None) -> ModelSource:
    source = ModelSource(url, keys or Keys(), monotonic=clock)
    source.refresh()
    return source


def version_of(source: ModelSource) -> str | None:
    return source.served.version if source.served else None


def test_before_the_first_look_nothing_is_served_and_the_images_rules_decide(url: str) -> None:
    source = ModelSource(url, Keys())
    assert source.served is None
    assert source.trouble is not None
    assert source.trouble.state == "missing"
    assert source.due()
    assert source.rules.rules


def test_a_look_serves_what_the_pointer_names_with_its_rules(url: str, clock: Clock) -> None:
    source = started(url, clock)
    assert version_of(source) == "v1"
    assert source.trouble is None
    assert [rule.id for rule in source.rules.rules] == ["very-large"]


def test_the_pointer_is_looked_at_once_a_minute_at_most(url: str, clock: Clock, tmp_path: Path) -> None:
    keys = Keys()
    source = started(url, clock, keys)
    publish_small(tmp_path, "v2")
    for _ in range(5):
        clock.now += REFRESH_SECONDS / 6
        source.refresh_if_due()
    assert (keys.asked, version_of(source)) == (1, "v1")
    clock.now += REFRESH_SECONDS / 6
    source.refresh_if_due()
    source.refresh_if_due()
    assert (keys.asked, version_of(source)) == (2, "v2")


def test_a_failed_look_waits_a_minute_too(clock: Clock, tmp_path: Path) -> None:
    keys = Keys()
    source = started(f"file://{tmp_path}/models/current", clock, keys)
    for _ in range(3):
        source.refresh_if_due()
    assert keys.asked == 1
    assert not source.due()


def test_the_same_pointer_leaves_the_very_same_object_in_place(url: str, clock: Clock) -> None:
    source = started(url, clock)
    before = source.served
    source.refresh()
    assert source.served is before


def test_a_first_bundle_is_found_once_it_is_published(clock: Clock, tmp_path: Path) -> None:
    source = started(f"file://{tmp_path}/current", clock)
    assert source.trouble is not None
    assert source.trouble.state == "missing"
    publish_small(tmp_path, "v1")
    source.refresh()
    assert version_of(source) == "v1"
    assert source.trouble is None


def test_a_key_put_in_place_later_is_found(url: str, clock: Clock) -> None:
    keys = Keys(bundles.parse_public_keys(OTHER_KEY.public_line()))
    source = started(url, clock, keys)
    assert source.trouble is not None
    assert source.trouble.state == "refused"
    keys.keys = TRUSTED
    source.refresh()
    assert version_of(source) == "v1"


@pytest.mark.parametrize("name", [MANIFEST, SIGNATURE, "forest.npz", "golden.json", "rules.yaml", "metrics.json"])
@pytest.mark.parametrize("how", ["cut", "gone"])
def test_a_bad_new_bundle_keeps_the_last_good_one_and_says_so(
    url: str, clock: Clock, tmp_path: Path, name: str, how: str
) -> None:
    source = started(url, clock)
    before = source.served
    publish_small(tmp_path, "v2")
    path = tmp_path / "v2" / name
    good = path.read_bytes()
    if how == "cut":
        path.write_bytes(good[: len(good) // 2])
    else:
        path.unlink()
    source.refresh()
    assert source.served is before
    assert source.trouble is not None
    assert source.trouble.state == ("refused" if how == "cut" else "missing")
    assert "\n" not in source.trouble.detail
    path.write_bytes(good)
    source.refresh()
    assert version_of(source) == "v2"
    assert source.trouble is None


def test_a_well_signed_bundle_whose_golden_rows_fail_is_not_swapped_in(url: str, clock: Clock, tmp_path: Path) -> None:
    source = started(url, clock)
    golden = (tmp_path / "v1" / "golden.json").read_bytes()
    publish_small(tmp_path, "v2", drained=6.0, files={"golden.json": golden})
    source.refresh()
    assert version_of(source) == "v1"
    assert source.trouble is not None
    assert "score differently" in source.trouble.detail


def test_a_well_signed_bundle_whose_rules_fail_is_not_swapped_in(url: str, clock: Clock, tmp_path: Path) -> None:
    source = started(url, clock)
    publish_small(tmp_path, "v2", files={"rules.yaml": b"rules: 5"})
    source.refresh()
    assert version_of(source) == "v1"
    assert source.trouble is not None
    assert "rules are refused" in source.trouble.detail


def test_a_pointer_that_disappears_keeps_the_last_good_bundle(url: str, clock: Clock, tmp_path: Path) -> None:
    source = started(url, clock)
    (tmp_path / "current").unlink()
    source.refresh()
    assert version_of(source) == "v1"
    assert source.trouble is not None
    assert source.trouble.state == "missing"


def test_an_older_pointer_put_back_by_hand_is_refused(url: str, clock: Clock, tmp_path: Path) -> None:
    old = (tmp_path / "current").read_bytes()
    publish_small(tmp_path, "v2")
    source = started(url, clock)
    (tmp_path / "current").write_bytes(old)
    source.refresh()
    assert version_of(source) == "v2"
    assert source.trouble is not None
    assert "explicit rollback" in source.trouble.detail


def test_a_rollback_is_followed(url: str, clock: Clock, tmp_path: Path) -> None:
    publish_small(tmp_path, "v2")
    source = started(url, clock)
    bundles.point_at(url, KEY, TRUSTED, "v1")
    source.refresh()
    assert version_of(source) == "v1"
    assert source.trouble is None


def test_publishing_the_served_version_again_brings_the_new_serial(url: str, clock: Clock, tmp_path: Path) -> None:
    source = started(url, clock)
    bundles.publish(tmp_path / "v1", url, KEY, TRUSTED)
    source.refresh()
    assert source.served is not None
    assert source.served.bundle.serial == 2


@pytest.mark.parametrize(
    "error",
    [BundleMissing("no key yet"), SettingsError("bad keys"), OSError("disk"), ValueError("SECRET"), KeyError(1)],
)
def test_a_look_never_raises(url: str, clock: Clock, error: Exception) -> None:
    def keys() -> Mapping[str, bytes]:
        raise error

    source = ModelSource(url, keys, monotonic=clock)
    source.refresh()
    assert source.served is None
    assert source.trouble is not None
    assert "SECRET" not in source.trouble.detail
    assert not source.due()


def test_a_malformed_url_never_raises_from_a_look(clock: Clock) -> None:
    source = started("mysql://nobody@nowhere/current", clock)
    assert source.trouble is not None
    assert source.trouble.state == "refused"


def test_what_a_request_took_stays_whole_while_bundles_change(url: str, clock: Clock, tmp_path: Path) -> None:
    source = started(url, clock)
    taken = source.served
    assert taken is not None
    publish_small(tmp_path, "v2")
    source.refresh()
    assert taken.version == "v1"
    assert taken.bundle.read("report.html").startswith(b"<!doctype")  # read anew, from its own folder


def test_of_looks_at_the_same_time_one_looks_and_the_others_go_on(url: str, clock: Clock) -> None:
    entered, leave = threading.Event(), threading.Event()
    asked = []

    def keys() -> Mapping[str, bytes]:
        asked.append(1)
        entered.set()
        leave.wait(30)
        return TRUSTED

    source = ModelSource(url, keys, monotonic=clock)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(source.refresh)
        assert entered.wait(30)
        for _ in range(5):
            source.refresh()  # returns at once, having looked at nothing
        assert (len(asked), source.served) == (1, None)
        leave.set()
        slow.result(30)
    assert version_of(source) == "v1"


def test_requests_see_a_whole_bundle_while_sixteen_looks_and_publishes_run(
    url: str, clock: Clock, tmp_path: Path
) -> None:
    source = started(url, clock)
    drained = {"v1": 4.0}
    for number in range(2, 6):
        drained[f"v{number}"] = float(number * 10)
        seal_small(tmp_path, f"v{number}", drained=drained[f"v{number}"])
    stop = threading.Event()
    wrong: list[object] = []

    def read() -> None:
        while not stop.is_set():
            served = source.served
            assert served is not None
            time.sleep(0.001)
            if served.model.members[0][1].value[2] != drained[served.version]:
                wrong.append(served.version)

    with ThreadPoolExecutor(8) as pool:
        readers = [pool.submit(read) for _ in range(4)]
        for number in range(2, 6):
            bundles.publish(tmp_path / f"v{number}", url, KEY, TRUSTED)
            for look in [pool.submit(source.refresh) for _ in range(4)]:
                look.result(30)
        stop.set()
        for reader in readers:
            reader.result(30)
    source.refresh()
    assert version_of(source) == "v5"
    assert not wrong


def test_every_look_that_fails_is_logged_with_its_state(
    clock: Clock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", logger="fraud")
    logging.getLogger("fraud").addHandler(caplog.handler)
    try:
        started(f"file://{tmp_path}/models/current", clock)
    finally:
        logging.getLogger("fraud").removeHandler(caplog.handler)
    record = next(record for record in caplog.records if record.name == "fraud.reload")
    assert (record.levelname, record.__dict__["state"], record.__dict__["serving"]) == ("WARNING", "missing", False)
