"""One training run end to end: what it seals, what it refuses, and that it does the same thing twice."""

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest

from fraud_api_lambda import drift
from fraud_api_lambda.app import create_app
from fraud_api_lambda.bundle import SigningKey, open_folder, parse_public_keys
from fraud_api_lambda.errors import RulesError, SettingsError
from fraud_api_lambda.reload import ModelSource, Served, load
from fraud_api_lambda.schemas import Event, RateTable, parse_transaction, to_event
from fraud_api_lambda.scoring import FraudScorer
from tests.conftest import Trained
from tests.fraud_api_lambda.asgi import Client
from training import dataset, evaluate, replay, synthetic, train
from training.dataset import DataError
from training.metrics import Costs
from training.train import Options, Result, run

KEY = SigningKey.generate("dev-test")
TRUSTED = parse_public_keys(KEY.public_line())


@pytest.fixture(scope="module")
def data_file(trained: Trained) -> str:
    """8,000 generated rows: those of the small bundle."""
    return str(trained.root / "data" / "synthetic.parquet")


def opened(result: Result) -> Served:
    return load(open_folder(result.bundle, TRUSTED))


def client_of(result: Result) -> Client:
    """The service around a run's bundle."""
    from fraud_api_lambda import bundle as bundles

    url = f"file://{result.bundle.parent}/current"
    bundles.publish(result.bundle, url, KEY, TRUSTED)
    source = ModelSource(url, lambda: TRUSTED)
    source.refresh()
    assert source.trouble is None
    return Client(create_app(FraudScorer(source)))


# --- what a run leaves -----------------------------------------------------------------------------------------------


def test_a_run_leaves_a_bundle_with_everything_in_it_and_an_artefact_beside_it(trained: Trained) -> None:
    names = {path.name for path in trained.folder.iterdir()}
    assert {
        *("forest.npz", "model.ubj", "golden.json", "reference.json", "rules.yaml", "metrics.json", "manifest.json"),
        *("manifest.sig", "model_card.md", "report.html", "precision_recall.png", "roc.png", "calibration.png"),
    } <= names
    beside = {path.name for path in trained.folder.parent.iterdir()}
    assert beside == {trained.version, "current", f"{trained.version}.pipeline.joblib"}
    assert not [name for name in names if name.endswith((".joblib", ".pkl"))]


def test_a_manifest_tells_how_the_bundle_came_about(trained: Trained) -> None:
    manifest = json.loads((trained.folder / "manifest.json").read_text())
    told = manifest["training"]
    assert told["data_sha256"] == dataset.digest(str(trained.root / "data" / "synthetic.parquet"))
    assert told["balance"] == "smote"
    assert told["params"]["ratio"] > 0
    assert told["smote_rows"] > 0
    assert told["seed"] == 7
    assert sum(told["rows"].values()) <= 8_000
    assert all(count >= 2 for count in told["frauds"].values())
    assert len(told["search"]) == 1
    assert set(manifest["libraries"]) == {"python", "numpy", "xgboost", "scikit-learn", "imbalanced-learn", "pandas"}
    assert "unknown" not in manifest["libraries"].values()
    assert manifest["champion"] == "xgboost"


def test_no_feature_of_the_default_bundle_is_known_only_afterwards(trained: Trained) -> None:
    manifest = json.loads((trained.folder / "manifest.json").read_text())
    names = [feature["name"] for feature in manifest["features"]]
    assert not [name for name in names if name.startswith(("newbalance", "balance_error"))]
    assert {"amount", "hour_of_day", "amount_to_balance", "latitude"} <= set(names)


def test_the_parts_lie_in_time_with_the_label_delay_between(trained: Trained) -> None:
    manifest = json.loads((trained.folder / "manifest.json").read_text())
    frame = dataset.load(str(trained.root / "data" / "synthetic.parquet"), "synthetic")
    rows = manifest["training"]["rows"]
    last_taught = frame["time_ms"].iloc[rows["train"] - 1]
    first_held = frame["time_ms"].iloc[len(frame) - rows["validation"] - rows["test"]]
    assert manifest["label_delay_ms"] == 7 * 86_400_000
    assert first_held - last_taught > manifest["label_delay_ms"]


def test_the_estimator_beside_the_bundle_gives_the_bundles_figures(trained: Trained, data_file: str) -> None:
    keys = parse_public_keys((trained.root / "keys" / "development.pub").read_text())
    served = load(open_folder(trained.folder, keys))
    frame = dataset.load(data_file, "synthetic")
    scored = evaluate.score(served, frame)
    estimator = joblib.load(trained.folder.parent / f"{trained.version}.pipeline.joblib")
    raw = replay.columns(frame, served.model.features, served.model.rates)
    np.testing.assert_allclose(scored.probability, estimator.predict_proba(raw)[:, 1], atol=1e-9)


def test_the_reference_for_drift_is_of_the_rows_that_taught_nothing(trained: Trained, data_file: str) -> None:
    keys = parse_public_keys((trained.root / "keys" / "development.pub").read_text())
    served = load(open_folder(trained.folder, keys))
    reference = drift.read_reference(served.bundle, served.model.features)
    rows = served.bundle.manifest.training["rows"]
    frame = dataset.load(data_file, "synthetic")
    held = slice(len(frame) - rows["validation"] - rows["test"], None)
    raw = replay.columns(frame, served.model.features, served.model.rates)[held]
    picked = set(served.model.features.picked)
    assert {n for own in reference.features for n in own.variable.columns} >= picked
    for own in (*reference.features, reference.score):
        assert own.rows == len(raw)
        values = raw[:, [served.model.features.columns.index(name) for name in own.variable.columns]]
        if own is reference.score:
            values = evaluate.score(served, frame).probability[held][:, None]
        counted = np.bincount(own.bins.of(values), minlength=own.bins.count)
        assert counted.tolist() == own.counts.tolist(), own.variable.name
    assert len((trained.folder / "reference.json").read_bytes()) < 40_000


# --- the same twice --------------------------------------------------------------------------------------------------


def test_the_same_seed_and_data_give_the_same_forest(trained: Trained, data_file: str, tmp_path: Path) -> None:
    again = run(Options(data_file, tune=1, ablation=False), tmp_path / "again", KEY)
    for name in ("forest.npz", "model.ubj", "golden.json", "reference.json"):
        assert (again.bundle / name).read_bytes() == (trained.folder / name).read_bytes(), name
    ours, theirs = (json.loads((folder / "manifest.json").read_text()) for folder in (again.bundle, trained.folder))
    for part in ("features", "population", "calibration", "thresholds"):
        assert ours[part] == theirs[part]
    assert ours["training"]["search"] == theirs["training"]["search"]


# --- choices ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def auto(data_file: str, tmp_path_factory: pytest.TempPathFactory) -> Result:
    options = Options(data_file, tune=0, champion="auto", blend="none")
    return run(options, tmp_path_factory.mktemp("auto"), KEY)


def test_champion_auto_serves_the_best_of_the_ablation_and_says_which(auto: Result) -> None:
    names = [row["name"] for row in auto.metrics["ablation"]]
    assert [name.split(" ")[0] for name in names] == ["SMOTE", "none", "scale_pos_weight", "SMOTE"]
    assert names[-1].endswith("without balances")
    (chosen,) = [row for row in auto.metrics["ablation"] if row["chosen"]]
    manifest = opened(auto).bundle.manifest
    expected = {"SMOTE": "smote"}.get(chosen["name"].split(" ")[0], chosen["name"])
    assert manifest.training["balance"] == expected
    assert (manifest.training["smote_rows"] > 0) == (expected == "smote")
    assert ("oldbalance_orig" in {f.name for f in manifest.features}) == ("without" not in chosen["name"])


def test_the_chosen_variants_figures_are_those_of_the_sealed_bundle(auto: Result) -> None:
    (chosen,) = [row for row in auto.metrics["ablation"] if row["chosen"]]
    for name in ("average_precision", "roc_auc", "recall", "precision", "f1", "ece", "brier"):
        assert chosen["metrics"][name] == pytest.approx(auto.metrics["test"][name], abs=1e-9), name


def test_a_variant_served_as_a_sum_says_that_its_figures_are_those_without(data_file: str, tmp_path: Path) -> None:
    result = run(Options(data_file, tune=0, champion="auto", blend="equal"), tmp_path / "out", KEY)
    (chosen,) = [row for row in result.metrics["ablation"] if row["chosen"]]
    assert chosen["note"] == "served as a sum with linear; its figures here are those without"
    assert chosen["metrics"]["average_precision"] != result.metrics["test"]["average_precision"]
    page = (result.bundle / "report.html").read_text()
    assert chosen["note"] in page


def test_the_ablation_carries_intervals_and_the_fraud_rate_of_its_rows(auto: Result) -> None:
    for row in auto.metrics["ablation"]:
        interval = row["metrics"]["intervals"]["average_precision"]
        assert interval["low"] <= row["metrics"]["average_precision"] <= interval["high"]
        assert row["metrics"]["fraud_rate"] == auto.metrics["test"]["fraud_rate"]


@pytest.fixture(scope="module")
def wide(data_file: str, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A run with everything turned away from its default."""
    frame = pd.read_parquet(data_file)
    days = pd.to_datetime(frame["timestamp"], utc=True, format="ISO8601").dt.strftime("%Y-%m-%d")
    day = sorted(days.unique())
    frame["currency"] = np.where(np.arange(len(frame)) % 3 == 0, "EUR", "GBP")
    folder = tmp_path_factory.mktemp("wide")
    frame.to_parquet(folder / "data.parquet")
    (folder / "rules.yaml").write_text(
        "version: house\nrules:\n  - {id: euro, expression: \"currency == 'EUR' && amount > 400.0\", "
        "outcome: review, reason: Large amount in euro.}\n"
    )
    options = Options(
        str(folder / "data.parquet"),
        tune=0,
        ablation=False,
        keep_rules=True,
        features="posted",
        train_range=f"{day[0]}..{day[49]}",
        validation_range=f"{day[52]}..{day[64]}",
        test_range=f"{day[65]}..{day[-1]}",
        delay_ms=3 * 86_400_000,
        folds=2,
        rules=str(folder / "rules.yaml"),
        time_zone="America/New_York",
        base_currency="GBP",
        rates={"2020-01-01": {"EUR": 0.85}, "2030-01-01": {"EUR": 99.0}},
        costs=Costs(capacity=0.05, review_cost=2.0),
    )
    return run(options, folder / "out", KEY)


def test_posted_features_are_used_when_asked_for(wide: Result) -> None:
    manifest = opened(wide).bundle.manifest
    assert {"newbalance_orig", "balance_error_orig"} <= {feature.name for feature in manifest.features}
    assert manifest.training["features"] == "posted"


def test_ranges_zone_currency_and_costs_are_in_the_manifest(wide: Result) -> None:
    manifest = opened(wide).bundle.manifest
    assert manifest.training["split"].startswith("train ")
    assert manifest.time_zone.name == "America/New_York"
    assert -18_000 in manifest.time_zone.offsets_s
    assert (manifest.currency.base, dict(manifest.currency.tables[0].rates)) == ("GBP", {"EUR": 0.85})
    assert manifest.training["costs"]["capacity"] == 0.05
    assert manifest.label_delay_ms == 3 * 86_400_000


def test_cross_validation_judges_every_row_once(wide: Result) -> None:
    cross = wide.metrics["cross_validation"]
    assert cross["folds"] == 2
    assert (cross["counts"]["rows"], cross["counts"]["frauds"]) == (8_000, 80)
    assert 0 < cross["average_precision"] <= 1


def test_the_services_answer_is_in_the_bundles_currency_and_by_its_rules(wide: Result) -> None:
    answer = client_of(wide).post("/predict", json={"amount": 1000.0, "currency": "EUR"}).json()
    assert (answer["amount_base"], answer["base_currency"]) == (850.0, "GBP")
    assert answer["rules"] == ["euro"]
    assert answer["outcome"] != "approve"
    refused = client_of(wide).post("/predict", json={"amount": 1000.0, "currency": "USD"})
    assert refused.status_code == 422
    assert "GBP, EUR" in refused.text


# --- the user's own columns ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def card_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4,000 rows as the public card data has them, fraud told by V4 and V14; V28 begins in the last quarter."""
    rng = np.random.default_rng(4)
    n = 4_000
    fraud = (rng.random(n) < 0.03).astype(int)
    columns: dict[str, Any] = {"Time": np.sort(rng.integers(0, 172_800, n)).astype(float)}
    for number in range(1, 29):
        columns[f"V{number}"] = rng.normal(0, 1, n) + fraud * {4: 3.0, 14: -4.0}.get(number, 0.0)
    columns["V28"][: 3 * n // 4] = np.nan
    columns["Amount"] = np.exp(rng.normal(3, 1.5, n)).round(2)
    columns["shop"] = np.where(fraud & (rng.random(n) < 0.5), "kiosk", rng.choice(["web", "till"], n))
    folder = tmp_path_factory.mktemp("cards")
    pd.DataFrame({**columns, "Class": fraud}).to_csv(folder / "creditcard.csv", index=False)
    (folder / "map.yaml").write_text(
        "columns:\n  timestamp: {column: Time, unit: s, origin: 2013-09-01T00:00:00Z}\n"
        '  amount: Amount\n  is_fraud: Class\nattributes: ["V*", shop]\n'
    )
    return folder / "creditcard.csv"


@pytest.fixture(scope="module")
def cards(card_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    options = Options(
        str(card_file), "csv", mapping=str(card_file.parent / "map.yaml"), tune=1, ablation=False, delay_ms=0
    )
    return run(options, tmp_path_factory.mktemp("cards-out"), KEY)


def test_attributes_are_declared_and_those_that_vary_are_picked(cards: Result) -> None:
    manifest = opened(cards).bundle.manifest
    declared = {attribute.name: attribute for attribute in manifest.attributes}
    assert set(declared) == {"shop", *(f"V{number}" for number in range(1, 29))}
    assert declared["shop"].levels == ("kiosk", "till", "web")
    picked = {feature.name for feature in manifest.features}
    assert {"amount", "attributes.V4", "attributes.V14", "attributes.shop=kiosk"} <= picked
    # Nothing in the training rows tells anything about a column that begins after them, nor about absent balances.
    assert not picked & {"attributes.V28", "oldbalance_orig", "is_transfer", "latitude"}


def test_a_model_of_attributes_finds_what_tells_frauds_apart(cards: Result) -> None:
    assert cards.metrics["test"]["average_precision"] > 0.9
    strongest = [item["feature"] for item in cards.metrics["importance"][:2]]
    assert set(strongest) == {"attributes.V4", "attributes.V14"}


def test_a_card_row_is_scored_by_its_attributes_as_training_scores_it(cards: Result, card_file: Path) -> None:
    frame = dataset.load(str(card_file), "csv", mapping=str(card_file.parent / "map.yaml"))
    expected = evaluate.score(opened(cards), frame).probability
    sent = pd.read_csv(card_file)
    client = client_of(cards)
    rows = [*np.flatnonzero(sent["Class"] == 1)[:5].tolist(), 0, 1, 3_999]
    for at in rows:
        row = {name: value for name, value in sent.iloc[at].to_dict().items() if not pd.isna(value)}
        seconds = row.pop("Time")
        asked = {
            "timestamp": (pd.Timestamp("2013-09-01T00:00:00Z") + pd.Timedelta(seconds=seconds)).isoformat(),
            "Amount": row.pop("Amount"),
            "attributes": {"shop": row.pop("shop")},
            **{name: value for name, value in row.items() if name != "Class"},
        }
        answer = client.post("/predict?explain=true", json=asked).json()
        assert answer["fraud_probability"] == expected[at]
    fraud = client.post("/predict?explain=true", json={"Amount": 5.0, "V4": 3.0, "V14": -4.0}).json()
    assert fraud["is_fraud"]
    assert {fraud["reasons"][0]["feature"], fraud["reasons"][1]["feature"]} == {"attributes.V4", "attributes.V14"}
    model = client.get("/model").json()
    assert "V14" in json.dumps(model["attributes"])


def test_a_number_beyond_float32_is_its_largest_in_training_and_in_service_alike(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    n = 3_000
    fraud = (rng.random(n) < 0.05).astype(int)
    size = rng.normal(0, 1, n) + 2 * fraud
    size[[3, 2_000, 2_900]] = [1e300, -1e300, 1e300]
    table = pd.DataFrame({"when": np.arange(n) * 600, "amount": 5.0 + np.arange(n) % 7, "size": size, "fraud": fraud})
    table.to_csv(tmp_path / "big.csv", index=False)
    (tmp_path / "map.yaml").write_text(
        "columns: {timestamp: {column: when, unit: s}, amount: amount, is_fraud: fraud}\nattributes: [size]\n"
    )
    options = Options(str(tmp_path / "big.csv"), "csv", mapping=str(tmp_path / "map.yaml"), tune=0, ablation=False)
    served = opened(run(options, tmp_path / "out", KEY))
    frame = dataset.load(options.data, "csv", mapping=options.mapping)
    expected = evaluate.score(served, frame).probability
    model = served.model
    for at in (3, 2_000, 2_900):
        row = model.features.compute(next_event(frame.iloc[at]))
        vector = model.vector(row)
        assert model.probability(vector) == expected[at]
        told = model.expected_log_odds + sum(share for _, share in model.contributions(vector))
        assert told == pytest.approx(np.log(expected[at] / (1 - expected[at])), abs=1e-4)


def next_event(row: Any) -> Event:
    """What the service makes of a row with an amount and the attribute ``size``."""
    sent = {"amount": row["amount"], "attributes": {"size": row["attributes.size"]}}
    return to_event(parse_transaction(sent), RateTable("USD", 2), int(row["time_ms"]))


# --- what a run refuses ----------------------------------------------------------------------------------------------


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Path]:
    """A folder for a bundle; whatever is refused leaves nothing in it."""
    folder = tmp_path / "out"
    yield folder
    assert not folder.exists() or not list(folder.iterdir())


@pytest.fixture(scope="module")
def few(data_file: str, tmp_path_factory: pytest.TempPathFactory) -> Mapping[int, str]:
    """Files of 8,000 rows with so many frauds, evenly spread in time."""
    folder = tmp_path_factory.mktemp("few")
    frame = pd.read_parquet(data_file)
    files = {}
    for count in (0, 1, 3, 9, 13):
        frauds = np.flatnonzero(frame["is_fraud"])
        kept = frauds[np.linspace(0, len(frauds) - 1, count).astype(int)] if count else []
        changed = frame.copy()
        changed["is_fraud"] = 0
        changed.loc[kept, "is_fraud"] = 1
        changed = changed.drop(columns=[name for name in ("fraud_scenario", "label_timestamp") if name in changed])
        files[count] = str(folder / f"{count}.parquet")
        changed.to_parquet(files[count])
    return files


def test_a_file_without_fraud_is_refused(few: Mapping[int, str], out: Path) -> None:
    with pytest.raises(DataError, match="none of the 8,000 rows as fraud"):
        run(Options(few[0], tune=0, ablation=False), out, KEY)


@pytest.mark.parametrize("count", [1, 3, 9])
@pytest.mark.parametrize("how", ["time", "random"])
def test_too_few_frauds_are_refused_in_one_line_or_trained_on(
    few: Mapping[int, str], tmp_path: Path, count: int, how: Any
) -> None:
    out = tmp_path / "out"
    try:
        result = run(Options(few[count], tune=1, ablation=False, split=how), out, KEY)
    except DataError as error:
        refused = str(error)
    else:
        assert opened(result).version == result.version
        return
    assert "\n" not in refused
    assert "frauds" in refused
    assert not out.exists() or not list(out.iterdir())


def test_frauds_only_at_the_end_of_the_training_rows_are_no_reason_to_fail(data_file: str, tmp_path: Path) -> None:
    frame = pd.read_parquet(data_file).sort_values("timestamp", ignore_index=True)
    frame.loc[: int(0.55 * len(frame)), "is_fraud"] = 0
    frame = frame.drop(columns=[name for name in ("fraud_scenario", "label_timestamp") if name in frame])
    frame.to_parquet(tmp_path / "late.parquet")
    result = run(Options(str(tmp_path / "late.parquet"), tune=2, ablation=False), tmp_path / "out", KEY)
    assert opened(result).bundle.manifest.training["search"] == []


def test_too_many_folds_for_the_frauds_are_refused_before_training(few: Mapping[int, str], out: Path) -> None:
    for folds in (1, 14):
        with pytest.raises(DataError, match=f"--cv {folds} is not possible with 13 frauds"):
            run(Options(few[13], tune=0, ablation=False, split="random", folds=folds), out, KEY)


LATER = {"train_range": "2025-02-01..2025-03-07", "test_range": "2025-03-12..2025-03-31", "delay_ms": 3 * 86_400_000}


def test_a_rehearsal_is_the_same_split_earlier_and_chooses_for_the_whole_training_range(
    data_file: str, tmp_path: Path
) -> None:
    options = Options(
        data_file, **LATER, rehearse_ms=24 * 86_400_000, known_since="2025-02-01", champion="blend", tune=2,
        ablation=False,
    )  # fmt: skip
    data = train.load_data(options)
    stage, parts = train.rehearsal(options, data), train.split_data(options, data)
    assert stage is not None
    time_ms = data.frame["time_ms"].to_numpy()
    assert {f"{moment:%m-%d}" for moment in pd.to_datetime(time_ms[stage.test], unit="ms")} <= {
        f"{moment:%m-%d}" for moment in pd.date_range("2025-02-16", "2025-03-07")
    }
    assert pd.to_datetime(time_ms[stage.train].max(), unit="ms") < pd.Timestamp("2025-02-12")
    # Nobody known by then is judged, in the rehearsal as in earnest; whoever is not known yet is.
    for rows, since in ((parts.test, "2025-02-01"), (stage.test, "2025-01-08")):
        frauds = data.frame[(data.labels == 1) & (time_ms >= pd.Timestamp(since).value // 10**6)]
        first = frauds.groupby("customer_id")["label_ms"].min()
        begun = time_ms[rows] // 86_400_000 * 86_400_000
        assert not (data.frame["customer_id"].iloc[rows].map(first).to_numpy() < begun).any()
    unfiltered = train.split_data(replace(options, known_since=None), data)
    assert len(parts.test) < len(unfiltered.test)
    result = run(options, tmp_path / "out", KEY)
    told = opened(result).bundle.manifest.training
    assert told["rehearsal"] == "rehearsal: train 2025-01-08..2025-02-11, test 2025-02-16..2025-03-07"
    assert told["split"].endswith("without customers known as compromised since 2025-02-01")
    assert told["rows"]["test"] == len(parts.test)
    assert [trial["name"] for trial in result.metrics["members"]] == ["linear", "isolation"]
    weights = {member.name: member.weight for member in opened(result).bundle.manifest.members}
    assert set(weights) == {"xgboost", *(trial["name"] for trial in result.metrics["members"] if trial["shipped"])}


def test_weights_come_from_the_rehearsal_and_are_carried_over(data_file: str) -> None:
    options = Options(data_file, **LATER, rehearse_ms=24 * 86_400_000, blend="equal", tune=0)
    data = train.load_data(options)
    parts, stage = train.split_data(options, data), train.rehearsal(options, data)
    picked = train.pick_columns(data, parts.train, options)
    fit = train._fit(data, picked, parts.train, parts.validation, options, "none", {})
    rehearsed = train._blended(data, parts.train, parts.validation, options, fit, stage)
    assert [(member.name, member.weight) for member in rehearsed.members] == [("xgboost", 0.5), ("linear", 0.5)]
    assert rehearsed.members[0].pipeline is fit.members[0].pipeline  # learned from the whole range, not the rehearsal's
    here = train._blended(data, parts.train, parts.validation, options, fit)
    assert rehearsed.trials[0].before != here.trials[0].before
    raw = data.columns[parts.test[:50]]
    np.testing.assert_array_equal(
        rehearsed.members[1].pipeline.decision_function(raw), here.members[1].pipeline.decision_function(raw)
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rehearse_ms": 86_400_000}, "test days would be 2025-03-11..2025-03-30, past the training range"),
        ({"rehearse_ms": 36 * 3_600_000}, "whole days"),
        ({"rehearse_ms": 24 * 86_400_000, "train_range": None, "test_range": None}, "--rehearse goes with --train"),
        ({"rehearse_ms": 100 * 86_400_000}, "No row lies in"),
        ({"known_since": "March"}, "of the form"),
    ],
)
def test_a_rehearsal_that_cannot_be_is_refused(data_file: str, out: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        run(replace(Options(data_file, **LATER), **changes), out, KEY)


def test_one_half_of_a_range_is_refused(data_file: str, out: Path) -> None:
    for options in (Options(data_file, train_range="2026-01-01..2026-01-02"), Options(data_file, test_range="x")):
        with pytest.raises(DataError, match="--train and --test go together"):
            run(options, out, KEY)


def test_rules_are_checked_before_anything_is_trained(data_file: str, tmp_path: Path, out: Path) -> None:
    (tmp_path / "rules.yaml").write_text("rules: [{id: a, expression: amounts > 1.0, outcome: review, reason: b}]")
    said: list[str] = []
    with pytest.raises(RulesError, match="amounts"):
        run(Options(data_file, rules=str(tmp_path / "rules.yaml")), out, KEY, progress=said.append)
    assert said == ["loading data"]
    with pytest.raises(DataError, match=r"none\.yaml cannot be read"):
        run(Options(data_file, rules=str(tmp_path / "none.yaml")), out, KEY)


def test_an_unknown_zone_or_currency_is_refused_before_anything_is_trained(data_file: str, out: Path) -> None:
    with pytest.raises(SettingsError, match="Unknown time zone 'Berlin'"):
        run(Options(data_file, time_zone="Berlin"), out, KEY)
    with pytest.raises(SettingsError, match="ISO 4217"):
        run(Options(data_file, base_currency="euro"), out, KEY)


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_trained(data_file: str, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    said: list[str] = []
    with pytest.raises(DataError, match="out cannot be written"):
        run(Options(data_file), tmp_path / "out", KEY, progress=said.append)
    assert said == ["loading data"]


# --- keys and the default bundle -------------------------------------------------------------------------------------


def test_the_development_key_is_made_once_private_and_named_so_that_aws_refuses_it(tmp_path: Path) -> None:
    key = train.development_key(tmp_path / "keys")
    assert key.key_id.startswith("dev-")
    assert (tmp_path / "keys" / "development.key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "keys" / "development.pub").read_text() == key.public_line() + "\n"
    assert train.development_key(tmp_path / "keys").public_line() == key.public_line()


def test_a_lost_public_half_is_written_again_from_the_private_one(tmp_path: Path) -> None:
    key = train.development_key(tmp_path)
    (tmp_path / "development.pub").unlink()
    train.development_key(tmp_path)
    assert evaluate.trusted_keys(tmp_path) == parse_public_keys(key.public_line())


def test_a_key_pair_is_never_written_over_another_or_over_half_of_one(tmp_path: Path) -> None:
    train.make_key_pair(tmp_path, "release", "release-1")
    before = (tmp_path / "release.key").read_bytes()
    with pytest.raises(SettingsError, match="exists already"):
        train.make_key_pair(tmp_path, "release", "release-2")
    assert (tmp_path / "release.key").read_bytes() == before
    (tmp_path / "other.pub").write_text(KEY.public_line())
    with pytest.raises(SettingsError, match="exists already"):
        train.make_key_pair(tmp_path, "other", "release-3")
    assert (tmp_path / "other.pub").read_text() == KEY.public_line()
    assert not (tmp_path / "other.key").exists()


def test_the_default_bundle_is_left_alone_where_there_is_one(trained: Trained, tmp_path: Path) -> None:
    shutil.copytree(trained.root, tmp_path / "home")
    (tmp_path / "home" / "models" / "current").write_text("broken by somebody")
    assert train.ensure_default_bundle(tmp_path / "home") == tmp_path / "home" / "models" / "current"
    assert (tmp_path / "home" / "models" / "current").read_text() == "broken by somebody"


def test_options_can_be_varied_without_touching_the_others() -> None:
    assert replace(Options("x"), seed=3).delay_ms is None


def test_generated_data_is_what_the_loader_reads(tmp_path: Path) -> None:
    synthetic.write(synthetic.generate(2_000, 3), tmp_path / "a.parquet")
    assert len(dataset.load(str(tmp_path / "a.parquet"), "synthetic")) == 2_000
