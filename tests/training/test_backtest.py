"""Rules judged on labelled rows, the file with some switched off, and what the default bundle promises."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from fraud_api_lambda.bundle import parse_public_keys
from fraud_api_lambda.errors import RulesError
from fraud_api_lambda.features import NAMES
from fraud_api_lambda.reload import ModelSource
from fraud_api_lambda.rules import GRAVITY, load_rules
from fraud_api_lambda.schemas import RateTable, parse_transaction
from fraud_api_lambda.scoring import FraudScorer
from tests.fraud_api_lambda.payloads import FRAUDULENT, LEGITIMATE
from training import backtest, synthetic
from training.backtest import Hits, seal_rules, switched_off
from training.publish import publish
from training.train import Options, Result, development_key, run

RATES = RateTable("USD", 2)


def rules(*items: dict[str, Any], **more: Any) -> bytes:
    made = [{"id": f"r{i}", "expression": "true", "outcome": "review", **item} for i, item in enumerate(items)]
    return json.dumps({"rules": made, **more}).encode()


def rows(amounts: list[float]) -> tuple[pd.DataFrame, Any]:
    """A frame of payments of these amounts, and its columns: all zero but the amount."""
    frame = pd.DataFrame({"time_ms": 1_700_000_000_000 + np.arange(len(amounts)), "amount": amounts})
    columns = np.zeros((len(amounts), len(NAMES)))
    columns[:, NAMES.index("amount")] = amounts
    return frame, columns


def hits(text: bytes, amounts: list[float], labels: list[int]) -> list[Hits]:
    frame, columns = rows(amounts)
    return backtest.hits(load_rules(text), frame, columns, np.array(labels, np.int8), RATES)


# --- what a rule would have hit --------------------------------------------------------------------------------------


def test_legitimate_rows_and_frauds_are_counted_apart() -> None:
    found = hits(
        rules({"expression": "amount > 25"}, {"expression": "amount > 5"}), [10, 20, 30, 40, 50], [0, 0, 0, 1, 1]
    )
    assert [(hit.legitimate_hits, hit.legitimate_rows, hit.fraud_hits, hit.fraud_rows) for hit in found] == [
        (1, 3, 2, 2),
        (3, 3, 2, 2),
    ]
    assert found[0].legitimate_share == pytest.approx(1 / 3)
    assert found[0].line == "rule r0: 33.33% of legitimate rows (1), 2 of 2 frauds"


def test_a_rule_is_judged_by_its_expression_whatever_switches_it_off() -> None:
    text = rules(
        {"enabled": False},
        {"from": "2100-01-01T00:00:00Z"},
        {"until": "1971-01-01T00:00:00Z"},
        {"expression": "customer_id == ''"},
        snooze=[{"rule": "r3", "entity": "customer", "id": "C1", "until": "2100-01-01T00:00:00Z"}],
        lists={"allow": [{"entity": "customer", "id": "C1"}]},
    )
    found = hits(text, [1, 2], [0, 1])
    assert [(hit.legitimate_hits, hit.fraud_hits) for hit in found] == [(1, 1)] * 4
    assert [hit.enabled for hit in found] == [False, True, True, True]
    assert found[0].line.endswith("; disabled")


def test_rows_that_a_rule_cannot_be_evaluated_for_are_told() -> None:
    (hit,) = hits(rules({"expression": "10 / int(amount) > 3"}), [0, 2, 0], [0, 0, 1])
    assert (hit.failed, hit.legitimate_hits) == (2, 1)
    assert "cannot be evaluated for 2 rows" in hit.line


def test_without_rules_or_rows_nothing_breaks() -> None:
    assert hits(rules(), [1], [0]) == []
    (hit,) = hits(rules({}), [1, 2], [1, 1])
    assert (hit.legitimate_share, hit.fraud_hits) == (0.0, 2)


def test_of_very_many_legitimate_rows_every_nth_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backtest, "MOST_ROWS", 100)
    amounts = [float(i % 10) for i in range(1_005)]
    labels = [0] * 1_000 + [1] * 5
    (hit,) = hits(rules({"expression": "amount > 4"}), amounts, labels)
    assert (hit.legitimate_rows, hit.fraud_rows) == (100, 5)
    assert hit.fraud_hits == 0


# --- what is sealed --------------------------------------------------------------------------------------------------


def found_with(**shares: float) -> list[Hits]:
    return [Hits(name, "review", True, 10_000, int(share * 10_000), 10, 1) for name, share in shares.items()]


def test_a_rule_above_one_percent_is_switched_off_and_one_at_it_is_not() -> None:
    text = rules({}, {}, {})
    sealed, told = seal_rules(text, NAMES, found_with(r0=0.01, r1=0.0101, r2=0.0), keep=False)
    assert [rule.enabled for rule in load_rules(sealed).rules] == [True, False, True]
    assert [hit.enabled for hit in told] == [True, False, True]
    assert told[1].line.endswith("above 1%, sealed disabled (--keep-rules seals it as it is)")
    assert told[1].as_json()["switched_off"] is True


def test_keep_rules_seals_the_very_bytes() -> None:
    text = rules({}, {})
    sealed, told = seal_rules(text, NAMES, found_with(r0=0.9, r1=0.9), keep=True)
    assert sealed == text
    assert [hit.enabled for hit in told] == [True, True]


def test_where_nothing_hits_too_much_the_bytes_stay() -> None:
    text = b"# mine\n" + rules({})
    assert seal_rules(text, NAMES, found_with(r0=0.001), keep=False)[0] == text


WRITTEN = """\
# Night rules, agreed on 2026-02-01.
version: 7
rules:
  # the first
  - id: one   # keep an eye on it
    expression: >-
      amount > 5 &&
      !is_night
    outcome: review
  - expression: "true"
    id: two
    enabled: true  # really
    outcome: decline
  - {id: three, expression: 'true', outcome: approve, until: 2030-01-01T00:00:00Z}
  - {"id": "four", "expression": "true", "outcome": "review", "enabled": true}
  -
    id: five
    expression: 'true'
    outcome: review
    enabled: false
lists:
  deny:
    - {entity: customer, id: 0123}
"""


@pytest.mark.parametrize("off", [["one"], ["two"], ["three"], ["four"], ["five"], ["one", "two", "three", "four"], []])
def test_a_file_keeps_its_comments_order_and_everything_else(off: list[str]) -> None:
    before = load_rules(WRITTEN.encode())
    changed = switched_off(WRITTEN.encode(), NAMES, off)
    after = load_rules(changed)
    for old, new in zip(before.rules, after.rules, strict=True):
        assert new.enabled == (old.enabled and old.id not in off)
        assert (new.id, new.expression, new.outcome, new.until_ms) == (
            old.id,
            old.expression,
            old.outcome,
            old.until_ms,
        )
    assert after.lists == before.lists
    comments = [line.partition("#")[2] for line in WRITTEN.splitlines() if "#" in line]
    assert all(comment in changed.decode() for comment in comments)


REASONS = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=9)


@settings(max_examples=60)
@given(
    st.lists(
        st.fixed_dictionaries(
            {"expression": st.sampled_from(["true", "amount > 5", "customer_id == 'Ä: {#'"])},
            optional={"enabled": st.booleans(), "reason": REASONS},
        ),
        max_size=5,
    ),
    st.sampled_from([None, True, False]),
    st.sets(st.integers(0, 4)),
)
def test_any_file_is_changed_in_enabled_alone(items: list[dict[str, Any]], flow: bool | None, off: set[int]) -> None:
    data = json.loads(rules(*items))
    for text in (
        yaml.safe_dump(data, default_flow_style=flow, allow_unicode=True, sort_keys=False).encode(),
        json.dumps(data, indent=1).encode(),
        b"\xef\xbb\xbf" + json.dumps(data, ensure_ascii=False).encode(),
    ):
        before = load_rules(text)
        names = {f"r{i}" for i in off}
        after = load_rules(switched_off(text, NAMES, names))
        assert [rule.enabled for rule in after.rules] == [
            rule.enabled and rule.id not in names for rule in before.rules
        ]
        assert [(r.id, r.expression, r.reason) for r in after.rules] == [
            (r.id, r.expression, r.reason) for r in before.rules
        ]


def test_a_file_that_is_refused_is_refused_here_too() -> None:
    with pytest.raises(RulesError):
        switched_off(b"rules: 5", NAMES, ["one"])


# --- a run, and what the default bundle promises ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def medium(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, FraudScorer, list[str]]:
    """A bundle trained on 40,000 rows of the generator with the rules that ship, served; and what the run said."""
    root = tmp_path_factory.mktemp("medium")
    synthetic.write(synthetic.generate(40_000, 7), root / "data.parquet")
    key = development_key(root / "keys")
    said: list[str] = []
    result = run(
        Options(str(root / "data.parquet"), tune=1, ablation=False), root / "models", key, progress=said.append
    )
    keys = parse_public_keys(key.public_line())
    publish(result.bundle, f"file://{root}/models/current", key, keys, force=True)
    source = ModelSource(f"file://{root}/models/current", lambda: keys)
    source.refresh()
    assert source.trouble is None
    return result, FraudScorer(source), said


def test_the_synthetic_default_ships_three_rules_all_to_review() -> None:
    shipped = load_rules((Path(backtest.__file__).parent / "rules_synthetic.yaml").read_bytes())
    assert {rule.expression for rule in shipped.rules} == {
        "amount_ratio > 3",
        "is_night && amount > 2000",
        'drains_account && transaction_type in ["TRANSFER", "CASH_OUT"]',
    }
    assert {rule.outcome for rule in shipped.rules} == {"review"}
    assert all(rule.enabled for rule in shipped.rules)


def test_each_rule_hits_under_one_percent_of_the_legitimate_rows_and_the_run_says_so(
    medium: tuple[Result, FraudScorer, list[str]],
) -> None:
    result, scorer, said = medium
    judged = result.metrics["rules"]
    assert [hit["id"] for hit in judged] == [rule.id for rule in scorer.source.rules.rules]
    for hit in judged:
        assert hit["legitimate_rows"] > 4_000
        assert hit["legitimate_share"] < 0.01
        assert hit["enabled"]
        assert any(line.startswith(f"rule {hit['id']}: {hit['legitimate_share']:.2%} of legitimate") for line in said)
    sealed = json.loads((result.bundle / "metrics.json").read_bytes())
    assert sealed["rules"] == judged
    card = (result.bundle / "model_card.md").read_text()
    assert "rules amount above usual" in card
    assert f"{judged[0]['legitimate_share']:.2%} of legitimate rows" in card


@pytest.mark.parametrize("payload", LEGITIMATE, ids=lambda payload: payload["customer_id"])
def test_a_documented_legitimate_payload_is_so_on_a_first_call(
    medium: tuple[Result, FraudScorer, list[str]], payload: dict[str, Any]
) -> None:
    decision = medium[1].score(parse_transaction(payload))
    assert (decision.prediction, decision.outcome, decision.degraded) == ("LEGIT", "approve", ())


@pytest.mark.parametrize("payload", FRAUDULENT, ids=lambda payload: payload["customer_id"])
def test_a_documented_fraudulent_payload_is_so_on_a_first_call(
    medium: tuple[Result, FraudScorer, list[str]], payload: dict[str, Any]
) -> None:
    decision = medium[1].score(parse_transaction(payload))
    assert (decision.prediction, decision.is_fraud, decision.degraded) == ("FRAUD", True, ())
    assert "amount_above_usual" in decision.rules  # whatever a next model thinks, the rule will see to it


def test_the_public_paysim_fraud_is_seen_by_a_rule_whatever_the_model_thinks(
    medium: tuple[Result, FraudScorer, list[str]],
) -> None:
    emptied = {
        "step": 1, "type": "TRANSFER", "amount": 181.0, "nameOrig": "C1305486145", "oldbalanceOrg": 181.0,
        "nameDest": "C553264065", "oldbalanceDest": 0.0,
    }  # fmt: skip
    decision = medium[1].score(parse_transaction(emptied))
    assert (decision.prediction, decision.degraded) == ("FRAUD", ())
    assert "drains_account" in decision.rules


def test_a_rule_that_hits_too_much_is_sealed_disabled_unless_kept(tmp_path: Path) -> None:
    synthetic.write(synthetic.generate(8_000, 7), tmp_path / "data.parquet")
    (tmp_path / "rules.yaml").write_bytes(
        b"rules:\n  - {id: broad, expression: amount > 20, outcome: decline}  # all\n"
        b"  - {id: narrow, expression: amount > 900000, outcome: decline}\n"
    )
    key = development_key(tmp_path / "keys")
    for keep in (False, True):
        said: list[str] = []
        options = Options(
            str(tmp_path / "data.parquet"),
            tune=0,
            ablation=False,
            rules=str(tmp_path / "rules.yaml"),
            keep_rules=keep,
        )
        result = run(options, tmp_path / f"out-{keep}", key, progress=said.append)
        sealed = load_rules((result.bundle / "rules.yaml").read_bytes())
        assert [rule.enabled for rule in sealed.rules] == [keep, True]
        assert [hit["enabled"] for hit in result.metrics["rules"]] == [keep, True]
        assert any("rule broad: " in line and ("--keep-rules" in line) != keep for line in said)
        policy = result.metrics["test"]["policy"]
        assert (policy != result.metrics["test"]["model"]) or not keep
    assert max(GRAVITY.values()) == GRAVITY["decline"]
