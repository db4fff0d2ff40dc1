"""The absence of skew with every store: what ``POST /predict`` computes is what replay computes, to the bit."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fraud_api_lambda import scoring
from fraud_api_lambda.app import create_app
from fraud_api_lambda.feature_store import FeatureStore
from fraud_api_lambda.features import FeatureSet, Past
from fraud_api_lambda.reload import ModelSource
from fraud_api_lambda.schemas import Event
from fraud_api_lambda.scoring import FraudScorer
from tests.test_skew import EXAMPLES, RATES, T, assert_equal, body_of, frame_of, row
from training import replay


class Watched(FeatureSet):
    """The very feature set of the service; what it computes is kept to be looked at."""

    seen: list[np.ndarray] = []  # noqa: RUF012

    def compute(self, event: Event, past: Past | None = None) -> np.ndarray:
        values = super().compute(event, past)
        self.seen.append(values)
        return values


Ask = Callable[[Sequence[dict[str, Any]]], np.ndarray]


@pytest.fixture
def ask(store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ask]:
    """Send rows to ``POST /predict`` one by one, with an empty store; the features that were computed for each."""
    watched = Watched()
    monkeypatch.setattr(scoring, "_WITHOUT_BUNDLE", watched)
    now = [T]
    source = ModelSource(f"file://{tmp_path}/none", dict)
    app = create_app(FraudScorer(source, store, budget_ms=20_000, clock=lambda: now[0]))
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")
    loop = asyncio.new_event_loop()

    def send(rows: Sequence[dict[str, Any]]) -> np.ndarray:
        watched.seen.clear()
        for name in ("A", "B", "C", "D"):
            store.erase(name)
        for r in rows:
            now[0] = int(r["received_ms"])
            answer = loop.run_until_complete(client.post("/predict", json=body_of(r)))
            assert answer.status_code == 200, answer.text
            assert answer.json()["degraded"] == ["model"]
        return np.array(watched.seen)

    yield send
    loop.run_until_complete(client.aclose())
    loop.close()


def test_http_and_replay_compute_the_same_features(ask: Ask, kind: str) -> None:
    share = {"memory": 20, "sqlite": 20, "redis": 20, "dynamodb": 200}[kind]  # the stand-in for DynamoDB is slow

    @given(st.lists(row, min_size=1, max_size=8))
    @settings(max_examples=max(10, EXAMPLES // share), deadline=None, suppress_health_check=list(HealthCheck))
    def holds(rows: list[dict[str, Any]]) -> None:
        # A fraud becomes known through feedback, which this test does not send.
        frame = frame_of([{**r, "fraud_known_after": None} for r in rows])
        assert_equal(replay.columns(frame, FeatureSet(), RATES), ask(frame.to_dict("records")))

    holds()
