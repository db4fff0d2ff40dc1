"""What training reaches on the measuring data: the figures the README quotes, at the fraud rates they belong to."""

from pathlib import Path

import pytest

from fraud_api_lambda.bundle import SigningKey, open_folder, parse_public_keys
from fraud_api_lambda.reload import load
from training import dataset, evaluate, metrics
from training.metrics import Costs
from training.train import Options, Result, run

pytestmark = pytest.mark.data

KEY = SigningKey.generate("dev-test")
#: All frauds of the public PaySim file and a random part of its legitimate rows, so thinned out that each counts for
WEIGHT = 256.36
CONTROLS = ("sample=case_control",)


@pytest.fixture(scope="module")
def simulated(measuring_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A bundle trained on four fifths of a run of PaySim's simulator, drawn at random."""
    options = Options(str(measuring_data / "paysim_v1_dev.parquet"), "paysim", split="random", tune=1, ablation=False)
    return run(options, tmp_path_factory.mktemp("simulated"), KEY)


def test_on_the_public_paysim_rows_five_folds_find_nearly_all_frauds_and_flag_nobody_else(
    measuring_data: Path, tmp_path: Path
) -> None:
    options = Options(
        str(measuring_data / "kaggle_paysim_dev.parquet"),
        "paysim",
        where=CONTROLS,
        legit_weight=WEIGHT,
        folds=5,
        tune=1,
        ablation=False,
        history=False,  # a sample has none
        # What is more likely fraud than not: the floor is given beforehand, not read off these rows.
        costs=Costs(flag_precision=0.99, flag_probability=0.5),
    )
    figures = run(options, tmp_path, KEY).metrics["cross_validation"]
    assert figures["counts"]["frauds"] == 5_490
    assert figures["counts"]["legitimate"] == 16_582
    assert figures["fraud_rate"]["weighted"] == pytest.approx(0.00129, rel=1e-3)
    assert figures["average_precision"] >= 0.99
    assert figures["intervals"]["average_precision"]["low"] >= 0.99
    assert figures["recall"] >= 0.99
    assert figures["intervals"]["recall"]["low"] >= 0.99
    assert figures["model"]["confusion"]["sample"]["fp"] == 0
    # Exactly: with 95 % confidence at most this share of legitimate transactions is flagged.
    assert figures["intervals"]["fpr"]["method"] == "Clopper-Pearson, one-sided"
    assert figures["intervals"]["fpr"]["high"] == pytest.approx(1 - 0.05 ** (1 / 16_582))


def test_a_model_of_simulated_rows_finds_the_public_files_frauds(measuring_data: Path, simulated: Result) -> None:
    served = load(open_folder(simulated.bundle, parse_public_keys(KEY.public_line())))
    frame = dataset.load(
        str(measuring_data / "kaggle_paysim_dev.parquet"), "paysim", where=CONTROLS, legit_weight=WEIGHT
    )
    figures = metrics.metrics(evaluate.score(served, frame), costs=Costs(), bootstrap=0)
    assert figures["counts"]["frauds"] == 5_490
    assert figures["average_precision"] >= 0.97


def test_a_random_fifth_of_the_simulated_rows_beats_the_published_line(simulated: Result) -> None:
    figures = simulated.metrics["test"]
    assert figures["counts"]["rows"] == pytest.approx(1_167_742 / 5, abs=2)
    assert figures["fraud_rate"]["sample"] == pytest.approx(0.00158, rel=1e-2)
    assert figures["recall"] >= 0.9812
    assert figures["precision"] > 0.7632
