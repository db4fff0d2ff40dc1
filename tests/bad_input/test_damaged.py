"""Damaged and random bytes where an event, a rules file or a profile is read: refused by name, or understood."""

import contextlib
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraud_api_lambda import profiles
from fraud_api_lambda.app import create_app
from fraud_api_lambda.decision_log import unpack_record
from fraud_api_lambda.errors import BundleError, InvalidRequest, ProfileError, RequestError, RulesError
from fraud_api_lambda.features import NAMES
from fraud_api_lambda.model import unpack
from fraud_api_lambda.reload import ModelSource
from fraud_api_lambda.rules import load_rules
from fraud_api_lambda.schemas import RateTable, parse_json, parse_transaction, to_event
from fraud_api_lambda.scoring import FraudScorer
from tests.fraud_api_lambda.asgi import Client
from tests.fraud_api_lambda.making import RULES, TRUSTED, publish_small

pytestmark = pytest.mark.chaos
FEW, MANY = 300, 20_000
NOW_MS = 1_800_000_000_000


def read_event(data: bytes) -> None:
    with contextlib.suppress(RequestError):
        to_event(parse_transaction(parse_json(data)), RateTable("USD", 2), NOW_MS)


def read_rules(data: bytes) -> None:
    with contextlib.suppress(RulesError):
        load_rules(data, NAMES)


def read_profile(data: bytes) -> None:
    with contextlib.suppress(ProfileError):
        profiles.decode(data)


def read_forest(data: bytes) -> None:
    with contextlib.suppress(BundleError):
        unpack(data)


def read_record(data: bytes) -> None:
    with contextlib.suppress(ValueError, TypeError):
        unpack_record(data)


EVENT = b'{"amount": 12.5, "type": "TRANSFER", "customer_id": "C1", "timestamp": "2026-02-06T02:30:00Z", "V1": -1.5}'
PROFILE = profiles.encode(profiles.blank())


@pytest.mark.timeout(1_800)
@pytest.mark.parametrize(
    ("read", "whole"),
    [(read_event, EVENT), (read_rules, RULES), (read_profile, PROFILE), (read_forest, None), (read_record, b"{}")],
    ids=["event", "rules", "profile", "forest", "record"],
)
def test_no_bytes_raise_anything_but_a_refusal(
    tmp_path: Path, full: bool, read: Callable[[bytes], None], whole: bytes | None
) -> None:
    if whole is None:
        publish_small(tmp_path, "v1")
        whole = (tmp_path / "v1" / "forest.npz").read_bytes()
    good = whole

    def damaged(changes: list[tuple[int, int]], cut: int | None) -> bytes:
        found = bytearray(good)
        for at, value in changes:
            found[at % len(found)] ^= value
        return bytes(found if cut is None else found[: cut % len(found)])

    near = st.builds(
        damaged,
        st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), max_size=8),
        st.none() | st.integers(0, 10**6),
    )
    run = given(near | st.binary(max_size=300))(lambda data: read(data))
    settings(max_examples=MANY if full else FEW, deadline=None, database=None)(run)()


def test_a_damaged_release_leaves_the_last_good_one_serving_and_is_told(tmp_path: Path, full: bool) -> None:
    url = publish_small(tmp_path, "v1")
    source = ModelSource(url, lambda: TRUSTED)
    source.refresh()
    client = Client(create_app(FraudScorer(source)))
    publish_small(tmp_path, "v2")
    rng = random.Random(10)
    paths = [
        tmp_path / "current",
        *(tmp_path / "v2" / name for name in ("manifest.json", "manifest.sig", "forest.npz")),
    ]
    paths += [tmp_path / "v2" / "rules.yaml", tmp_path / "v2" / "golden.json"]
    for number in range(600 if full else 60):
        path = paths[number % len(paths)]
        good = path.read_bytes()
        bad = bytearray(good)
        if number % 6 == 5:
            bad = bad[: rng.randrange(len(good))]
        else:
            bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        path.write_bytes(bad)
        source.refresh()
        path.write_bytes(good)
        assert source.served is not None
        assert source.served.version == "v1"
        assert source.trouble is not None
    ready = client.get("/ready")
    assert (ready.status_code, ready.json()["model_version"]) == (200, "v1")
    assert ready.json()["last_refresh"]["model"] == "refused"
    assert "fraud_model_trouble 1.0" in client.get("/metrics").text
    assert client.post("/predict", json={"amount": 1}).json()["model_version"] == "v1"
    source.refresh()
    assert source.served is not None
    assert source.served.version == "v2"


def test_an_invalid_request_is_the_only_refusal_of_an_event() -> None:
    with pytest.raises(InvalidRequest):
        parse_transaction(parse_json(b"{}"))
