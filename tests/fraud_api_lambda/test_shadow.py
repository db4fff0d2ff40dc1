"""A challenger beside the champion: what it says changes no answer, until its pointer gives it a share of customers."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fraud_api_lambda import bundle as bundles
from fraud_api_lambda.errors import BundleRefused
from fraud_api_lambda.reload import ModelSource
from fraud_api_lambda.scoring import FraudScorer
from tests.fraud_api_lambda.making import KEY, TRUSTED, publish_small, seal_small

NOW = 1_770_000_000_000


def look(url: str) -> ModelSource:
    source = ModelSource(url, lambda: TRUSTED)
    source.refresh()
    return source


@pytest.fixture
def pair(tmp_path: Path) -> tuple[ModelSource, ModelSource]:
    """A champion that declines drained accounts, and a challenger that approves them."""
    url = publish_small(tmp_path, "champion")
    seal_small(tmp_path, "next", drained=-4.0)
    bundles.publish(tmp_path / "next", url.replace("current", "challenger"), KEY, TRUSTED)
    return look(url), look(url.replace("current", "challenger"))


def drained(number: int) -> dict[str, Any]:
    return {
        "transaction_id": f"t{number}", "amount": 100, "type": "TRANSFER", "oldbalanceOrg": 100,
        "customer_id": f"C{number}", "timestamp": "2026-02-01T12:00:00Z",
    }  # fmt: skip


def until(found: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not found():
        assert time.monotonic() < deadline, "the shadow has not judged what it was offered"
        time.sleep(0.01)


def answers(scorer: FraudScorer, n: int = 40) -> list[bytes]:
    return [scorer.answer(drained(i)).body for i in range(n)]


def test_a_challenger_that_disagrees_changes_no_answer_and_the_disagreement_is_told(
    pair: tuple[ModelSource, ModelSource],
) -> None:
    champion, challenger = pair
    alone = answers(FraudScorer(champion, clock=lambda: NOW))
    scorer = FraudScorer(champion, challenger=challenger, clock=lambda: NOW)
    assert scorer.shadow is not None
    scorer.shadow.start()
    assert answers(scorer) == alone
    until(lambda: (scorer.shadow.found() or {}).get("judged") == 40)  # type: ignore[union-attr]
    found = scorer.shadow.found()
    scorer.shadow.stop()
    assert found is not None
    assert (found["champion"], found["challenger"], found["flipped"], found["failed"]) == (
        "champion",
        "next",
        40,
        0,
    )
    assert found["by_outcome"] == [{"champion": "decline", "challenger": "approve", "decisions": 40}]
    assert found["mean_probability_difference"] == pytest.approx(1 / (1 + 2.718281828**-4) - 1 / (1 + 2.718281828**4))


def test_a_challenger_that_crashes_changes_no_answer(pair: tuple[ModelSource, ModelSource]) -> None:
    champion, challenger = pair
    served = challenger.served
    assert served is not None
    alone = answers(FraudScorer(champion, clock=lambda: NOW))
    scorer = FraudScorer(champion, challenger=challenger, clock=lambda: NOW)
    assert scorer.shadow is not None
    scorer.shadow.start()
    scorer.answer(drained(0))
    until(lambda: (scorer.shadow.found() or {}).get("judged") == 1)  # type: ignore[union-attr]
    served.model.members = ((1.0, None),)  # type: ignore[assignment]  # spoilt by hand: loading refuses what could fail
    assert answers(scorer) == alone
    until(lambda: (scorer.shadow.found() or {}).get("failed") == 40)  # type: ignore[union-attr]
    scorer.shadow.stop()


def test_a_challenger_that_hangs_holds_nobody_up(pair: tuple[ModelSource, ModelSource]) -> None:
    """Its thread never comes back from the first one; what does not fit into the queue is passed over."""
    champion, challenger = pair
    scorer = FraudScorer(champion, challenger=challenger, clock=lambda: NOW)
    assert scorer.shadow is not None
    let_go = threading.Event()

    class Hanging:
        def margin(self, vector: Any) -> float:
            let_go.wait(60)
            return 0.0

    served = challenger.served
    assert served is not None
    served.model.members = ((1.0, Hanging()),)  # type: ignore[assignment]
    scorer.shadow._queue.maxsize = 5
    scorer.shadow.start()
    alone = answers(FraudScorer(champion, clock=lambda: NOW))
    scorer.answer(drained(0))
    until(lambda: scorer.shadow.found() is not None)  # type: ignore[union-attr]  # it hangs now
    assert answers(scorer) == alone
    assert scorer.shadow._queue.full()
    found = scorer.shadow.found()
    assert found is not None
    assert (found["judged"], found["passed_over"]) == (0, 35)
    scorer.shadow.stop()
    let_go.set()


def test_a_decision_that_no_model_made_does_not_begin_the_comparison_anew(
    pair: tuple[ModelSource, ModelSource], tmp_path: Path
) -> None:
    champion, challenger = pair
    scorer = FraudScorer(champion, challenger=challenger, clock=lambda: NOW)
    assert scorer.shadow is not None
    scorer.shadow.start()
    scorer.answer(drained(0))
    until(lambda: (scorer.shadow.found() or {}).get("judged") == 1)  # type: ignore[union-attr]
    served, champion.served = champion.served, None
    scorer.answer(drained(1))
    champion.served = served
    scorer.answer(drained(2))
    until(lambda: (scorer.shadow.found() or {}).get("judged", 0) != 1)  # type: ignore[union-attr]
    scorer.shadow.stop()
    found = scorer.shadow.found()
    assert found is not None
    assert (found["champion"], found["judged"]) == ("champion", 2)


def test_test_inputs_are_not_judged_again(pair: tuple[ModelSource, ModelSource]) -> None:
    champion, challenger = pair
    scorer = FraudScorer(champion, challenger=challenger)
    assert scorer.shadow is not None
    scorer.shadow.start()
    scorer.answer({"amount": 1, "transaction_id": "test-approve"})
    scorer.answer(drained(1))
    until(lambda: scorer.shadow.found() is not None)  # type: ignore[union-attr]
    scorer.shadow.stop()
    assert (scorer.shadow.found() or {})["judged"] == 1


def test_a_share_of_the_customers_is_answered_by_the_challenger_each_always_by_the_same(
    pair: tuple[ModelSource, ModelSource], tmp_path: Path
) -> None:
    champion, challenger = pair
    scorer = FraudScorer(champion, challenger=challenger)
    assert {scorer.answer(drained(i)).decision.model_version for i in range(50)} == {"champion"}
    bundles.point_at(f"file://{tmp_path}/challenger", KEY, TRUSTED, "next", share=20)
    challenger.refresh()
    assert challenger.served is not None
    assert challenger.served.bundle.share == 20
    made = {i: scorer.answer(drained(i)).decision for i in range(1_000)}
    by_challenger = {i for i, decision in made.items() if decision.model_version == "next"}
    assert 140 < len(by_challenger) < 260
    assert {made[i].outcome for i in by_challenger} == {"approve"}
    assert {decision.outcome for i, decision in made.items() if i not in by_challenger} == {"decline"}
    again = scorer.answer_many([{**drained(i), "transaction_id": f"again{i}"} for i in range(1_000)])
    assert {i for i, answer in enumerate(again) if answer.decision.model_version == "next"} == by_challenger  # type: ignore[union-attr]
    bundles.point_at(f"file://{tmp_path}/challenger", KEY, TRUSTED, "next", share=50)
    challenger.refresh()
    wider = {
        i
        for i in range(1_000)
        if scorer.answer({**drained(i), "transaction_id": f"w{i}"}).decision.outcome == "approve"
    }
    assert by_challenger < wider  # a wider share keeps those who had the challenger
    bundles.point_at(f"file://{tmp_path}/challenger", KEY, TRUSTED, "next", share=0)
    challenger.refresh()
    assert {scorer.answer({**drained(i), "transaction_id": f"n{i}"}).decision.outcome for i in range(50)} == {"decline"}


def test_of_transactions_that_name_nobody_the_challenger_has_its_share_too(
    pair: tuple[ModelSource, ModelSource], tmp_path: Path
) -> None:
    champion, challenger = pair
    bundles.point_at(f"file://{tmp_path}/challenger", KEY, TRUSTED, "next", share=20)
    challenger.refresh()
    scorer = FraudScorer(champion, challenger=challenger)
    made = [scorer.answer({"amount": i}).decision.model_version for i in range(1_000)]
    assert 140 < made.count("next") < 260


def test_a_challenger_that_counts_in_another_currency_answers_nobody_and_is_not_compared(
    pair: tuple[ModelSource, ModelSource], tmp_path: Path
) -> None:
    champion, challenger = pair
    seal_small(tmp_path, "yen", currency={"base": "JPY", "minor_units": 0})
    bundles.publish(tmp_path / "yen", f"file://{tmp_path}/challenger", KEY, TRUSTED)
    bundles.point_at(f"file://{tmp_path}/challenger", KEY, TRUSTED, "yen", share=100)
    challenger.refresh()
    assert challenger.served is not None
    assert challenger.served.bundle.share == 100
    scorer = FraudScorer(champion, challenger=challenger, clock=lambda: NOW)
    assert scorer.shadow is not None
    scorer.shadow.start()
    # Profiles and sums are in the champion's minor units: of two currencies they would be in neither.
    assert scorer.answer(drained(1)).decision.base_currency == "USD"
    until(lambda: (scorer.shadow.found() or {}).get("failed") == 1)  # type: ignore[union-attr]
    scorer.shadow.stop()
    assert (scorer.shadow.found() or {})["judged"] == 0


@pytest.mark.parametrize("share", [-1, 101, 1.5, "10", True, None])
def test_a_pointer_with_another_share_is_refused(tmp_path: Path, share: Any) -> None:
    url = publish_small(tmp_path, "v1")
    import json

    outer = json.loads((tmp_path / "current").read_text())
    inner = json.dumps({**json.loads(outer["pointer"]), "share": share})
    signed = bundles._signature(KEY, bundles._POINTER_CONTEXT, inner.encode())
    (tmp_path / "current").write_text(json.dumps({"pointer": inner, **signed}))
    with pytest.raises(BundleRefused, match="share"):
        bundles.read_pointer(url, TRUSTED)
