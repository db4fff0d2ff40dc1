"""The leaderboard: everything is on it, in every form, and it names what is absent."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Trained
from training import compare
from training.compare import Leaderboard
from training.train import Options


@pytest.fixture(scope="module")
def board(trained: Trained) -> Leaderboard:
    return compare.compare(Options(str(trained.root / "data" / "synthetic.parquet"), tune=0))


def test_every_kind_of_model_and_every_way_to_meet_rarity_is_compared(board: Leaderboard) -> None:
    names = {row.name for row in board.rows}
    for wanted in (
        "logistic regression",
        "logistic regression, class weights",
        "Isolation Forest",
        "XGBoost",
        "XGBoost, scale_pos_weight",
        "XGBoost, SMOTE 0.2",
        "XGBoost, Borderline-SMOTE 0.2",
        "XGBoost, undersampling 0.2",
        "XGBoost, outliers left out",
        "blend, fitted weights",
        "blend, 0.5/0.5",
        "stacking",
    ):
        assert wanted in names
    assert ("LightGBM" in names) != ("LightGBM" in board.absent)


def test_rows_stand_in_the_order_of_the_validation_rows_with_intervals_of_the_test_rows(board: Leaderboard) -> None:
    ranked = [row.validation for row in board.rows]
    assert ranked == sorted(ranked, reverse=True)
    for row in board.rows:
        interval = row.test["intervals"]["average_precision"]
        assert interval["low"] <= row.test["average_precision"] <= interval["high"]


def test_smote_is_compared_at_several_ratios(board: Leaderboard) -> None:
    assert sum(row.name.startswith("XGBoost, SMOTE") for row in board.rows) >= 3


def test_the_blends_say_what_each_member_earned(board: Leaderboard) -> None:
    (fitted,) = [row for row in board.rows if row.name == "blend, fitted weights"]
    assert "shipped" in fitted.note
    (equal,) = [row for row in board.rows if row.name == "blend, 0.5/0.5"]
    assert equal.params == {"xgboost": 0.5, "linear": 0.5}


def test_the_leaderboard_is_written_as_text_json_csv_and_picture(board: Leaderboard, tmp_path: Path) -> None:
    files = {path.name: path for path in compare.write(board, tmp_path / "new")}
    assert set(files) == {"leaderboard.json", "leaderboard.csv", "leaderboard.txt", "leaderboard.png"}
    data = json.loads(files["leaderboard.json"].read_text())
    assert [row["name"] for row in data["rows"]] == [row.name for row in board.rows]
    assert data["facts"]["rows"]["test"] > 0
    table = list(csv.DictReader(io.StringIO(files["leaderboard.csv"].read_text())))
    for line, row in zip(table, board.rows, strict=True):
        assert line["name"] == row.name
        assert float(line["average_precision"]) == row.test["average_precision"]
    shown = files["leaderboard.txt"].read_text()
    assert all(row.name in shown for row in board.rows)
    assert "fraud rate of" in shown
    assert files["leaderboard.png"].read_bytes().startswith(b"\x89PNG")


def test_what_is_not_installed_is_named_with_its_mend(board: Leaderboard) -> None:
    without = Leaderboard(board.rows, {"LightGBM": "not installed; pip install lightgbm"}, board.facts)
    assert "LightGBM: not installed; pip install lightgbm" in compare.text(without)


def test_a_stack_weighs_its_members_by_what_they_know() -> None:
    class Says:
        def __init__(self, column: int):
            self.column = column

        def decision_function(self, X: np.ndarray) -> np.ndarray:
            return X[:, self.column]

    rng = np.random.default_rng(1)
    y = (rng.random(5_000) < 0.1).astype(np.int8)
    X = np.stack([y * 3 + rng.normal(size=5_000), rng.normal(size=5_000) * 100], axis=1)
    stack = compare.Stack((("knows", Says(0)), ("noise", Says(1)))).fit(X, y)
    knows, noise = np.abs(stack.meta_.coef_[0])
    assert knows > 10 * noise
    assert stack.predict(X)[y == 1].mean() > 0.7
