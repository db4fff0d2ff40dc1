"""Figures come about through the sealed bundle, by whichever path, and a bundle is found from what one has of it."""

import json
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest

from fraud_api_lambda.bundle import open_bundle, parse_public_keys
from fraud_api_lambda.errors import BundleMissing, BundleRefused, SettingsError
from fraud_api_lambda.features import fill
from fraud_api_lambda.reload import Served
from fraud_api_lambda.schemas import parse_transaction
from fraud_api_lambda.scoring import FraudScorer
from tests.conftest import Trained
from tests.fraud_api_lambda.asgi import source_of
from training import dataset, evaluate, metrics, replay
from training.metrics import Costs


@pytest.fixture(scope="module")
def served(trained: Trained) -> Served:
    return evaluate.open_for_evaluation(str(trained.root / "models"), trained.root / "keys")


@pytest.fixture(scope="module")
def frame(trained: Trained) -> pd.DataFrame:
    return dataset.load(str(trained.root / "data" / "synthetic.parquet"), "synthetic")


@pytest.fixture(scope="module")
def scored(served: Served, frame: pd.DataFrame) -> metrics.Scored:
    return evaluate.score(served, frame)


# --- finding the bundle ----------------------------------------------------------------------------------------------


def test_a_bundle_is_found_by_folder_pointer_or_url(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    models = trained.root / "models"
    keys = trained.root / "keys"
    for path in (models, models / "current", trained.folder, f"file://{models}/current"):
        assert evaluate.open_for_evaluation(str(path), keys).version == trained.version
    monkeypatch.chdir(models)
    for path in (".", "current", trained.version):
        assert evaluate.open_for_evaluation(path, keys).version == trained.version


def test_a_folder_that_is_neither_is_refused_saying_what_it_should_be(trained: Trained, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(BundleMissing, match=r"neither a bundle .* nor a folder with a 'current' pointer"):
            evaluate.open_for_evaluation(str(path), trained.root / "keys")


def test_without_a_public_key_nothing_is_opened(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"No public key in .*python -m training keys"):
        evaluate.open_for_evaluation(str(trained.folder), tmp_path)


def test_a_stranger_s_bundle_is_not_evaluated(trained: Trained, tmp_path: Path) -> None:
    from fraud_api_lambda.bundle import SigningKey

    (tmp_path / "other.pub").write_text(SigningKey.generate("other").public_line())
    with pytest.raises(BundleRefused, match="not trusted here"):
        evaluate.open_for_evaluation(str(trained.folder), tmp_path)


# --- the figures -----------------------------------------------------------------------------------------------------


def test_figures_through_the_bundle_are_those_of_the_estimator(
    trained: Trained, served: Served, frame: pd.DataFrame, scored: metrics.Scored
) -> None:
    estimator = joblib.load(trained.folder.parent / f"{trained.version}.pipeline.joblib")
    raw = replay.columns(frame, served.model.features, served.model.rates)
    probability = estimator.predict_proba(raw)[:, 1]
    thresholds = served.model.thresholds
    decided = evaluate.outcomes(probability, thresholds.review, thresholds.decline)
    from sklearn.metrics import average_precision_score, roc_auc_score

    figures = metrics.metrics(scored, costs=Costs(), bootstrap=0)
    labels = frame["is_fraud"].to_numpy()
    assert figures["average_precision"] == pytest.approx(average_precision_score(labels, probability), abs=1e-9)
    assert figures["roc_auc"] == pytest.approx(roc_auc_score(labels, probability), abs=1e-9)
    assert figures["recall"] == pytest.approx((decided[labels == 1] > 0).mean())
    assert figures["precision"] == pytest.approx(labels[decided > 0].mean())
    np.testing.assert_array_equal(scored.model_outcome, decided)


def test_the_path_for_many_rows_gives_the_very_same_probabilities(
    served: Served, frame: pd.DataFrame, scored: metrics.Scored
) -> None:
    rng = np.random.default_rng(1)
    many = frame.iloc[rng.integers(0, len(frame), evaluate.LARGE)].reset_index(drop=True)
    many.loc[rng.random(len(many)) < 0.3, "oldbalanceOrg"] = np.nan
    vectors = served.model.vector(
        fill(replay.columns(many, served.model.features, served.model.rates), served.model.population)
    )
    by_forest = evaluate.probabilities(served.model, vectors)
    by_xgboost = evaluate.probabilities(served.model, vectors, served.bundle.read("model.ubj"))
    np.testing.assert_array_equal(by_xgboost, by_forest)
    np.testing.assert_array_equal(evaluate.score(served, many).probability, by_forest)


def test_a_booster_that_is_not_the_forests_is_refused_on_the_large_path(served: Served) -> None:
    import xgboost as xgb

    rng = np.random.default_rng(2)
    rows = rng.normal(size=(evaluate.LARGE, len(served.model.features.picked))).astype(np.float32)
    other = xgb.XGBClassifier(n_estimators=2, n_jobs=1).fit(rows[:500], rng.integers(0, 2, 500))
    with pytest.raises(BundleRefused, match="differ from XGBoost's"):
        evaluate.probabilities(served.model, rows, bytes(other.get_booster().save_raw("ubj")))


def test_every_row_is_judged_as_the_service_judges_it(trained: Trained, served: Served, frame: pd.DataFrame) -> None:
    """The whole file in its order, each row with those before it in its past."""
    # Moved to these days, since the store lets profiles of 2025 expire by its own clock.
    frame = frame.assign(time_ms=frame["time_ms"] + 600 * 86_400_000)
    # No fraud becomes known meanwhile: the service would learn of it by feedback.
    unlabelled = frame.assign(label_ms=frame["time_ms"].max() + 1)
    scored = evaluate.score(served, unlabelled)
    now = [0]
    scorer = FraudScorer(source_of(trained), clock=lambda: now[0])
    order = {name: number for number, name in enumerate(metrics.OUTCOMES)}
    names = [
        *("transaction_id", "type", "customer_id", "counterparty_id", "device_id", "amount", "lat", "long"),
        *("oldbalanceOrg", "newbalanceOrig", "oldbalanceDest", "newbalanceDest"),
    ]
    rules = set()
    for at, row in enumerate(frame.to_dict("records")):
        now[0] = row["time_ms"]
        sent = {name: row[name] for name in names if name in frame and not pd.isna(row[name])}
        stamp = pd.Timestamp(row["time_ms"], unit="ms", tz="UTC").isoformat(timespec="milliseconds")
        decision = scorer.score(parse_transaction({**sent, "timestamp": stamp}))
        assert decision.fraud_probability == scored.probability[at]
        assert order[decision.outcome] == scored.policy_outcome[at]
        assert decision.amount_base == scored.amount[at]
        rules |= set(decision.rules)
    assert rules  # or the policy was not tried at all


def test_rules_only_ever_raise_what_they_say_and_are_counted_apart_from_the_model(
    scored: metrics.Scored, served: Served
) -> None:
    assert (scored.policy_outcome != scored.model_outcome).any()
    figures = metrics.metrics(scored, costs=Costs(), bootstrap=0)
    assert figures["policy"]["recall"] != figures["model"]["recall"] or (
        figures["policy"]["precision"] != figures["model"]["precision"]
    )


def test_outcomes_begin_at_their_thresholds() -> None:
    probability = np.array([0.0, 0.0999, 0.1, 0.4999, 0.5, 1.0])
    assert evaluate.outcomes(probability, 0.1, 0.5).tolist() == [0, 0, 1, 1, 2, 2]
    assert evaluate.outcomes(probability, 0.1, 0.1).tolist() == [0, 0, 2, 2, 2, 2]


def test_rows_without_customers_are_scored_too(served: Served, frame: pd.DataFrame) -> None:
    bare = frame[["time_ms", "amount", "is_fraud", "weight"]].head(50)
    found = evaluate.score(served, bare)
    assert np.isfinite(found.probability).all()
    assert (found.party == -1).all()


def test_the_metrics_inside_the_bundle_are_those_of_its_test_rows(served: Served, frame: pd.DataFrame) -> None:
    inside = json.loads(served.bundle.read("metrics.json"))["test"]
    rows = served.bundle.manifest.training["rows"]["test"]
    costs = Costs(**served.bundle.manifest.training["costs"])
    columns = evaluate.replayed(served, frame)[-rows:]  # the rows before them are their history
    again = metrics.metrics(evaluate.score(served, frame.tail(rows), columns), costs=costs, seed=7)
    assert json.loads(json.dumps(again)) == inside


def test_a_bundle_opened_by_the_service_is_the_one_evaluated(trained: Trained, served: Served) -> None:
    keys = parse_public_keys((trained.root / "keys" / "development.pub").read_text())
    assert open_bundle(f"file://{trained.root}/models/current", keys).manifest == served.bundle.manifest
