"""The forest and the model: what is refused at loading, and that one row, a batch and training say the same."""

import io
import json
import math
import zipfile
from collections.abc import Callable
from typing import Any

import joblib
import numpy as np
import numpy.typing as npt
import pytest
import xgboost as xgb

from fraud_api_lambda.bundle import open_bundle, open_folder, parse_public_keys
from fraud_api_lambda.errors import BundleRefused
from fraud_api_lambda.features import fill
from fraud_api_lambda.model import MAX_DEPTH, MAX_TREES, Forest, FraudModel, calibrate, pack, unpack
from fraud_api_lambda.reload import load
from fraud_api_lambda.schemas import Thresholds
from tests.conftest import Trained
from tests.fraud_api_lambda.making import TRUSTED, seal_small, small_forest, small_manifest
from training import dataset, replay
from training.forest import flatten

Arrays = dict[str, npt.NDArray[Any]]


@pytest.fixture(scope="module")
def forest() -> Forest:
    """Thirty trees over six features with missing values."""
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(4_000, 6)).astype(np.float32)
    labels = (rows[:, 0] * rows[:, 1] + rows[:, 2] > 1).astype(int)
    rows[rng.random(rows.shape) < 0.1] = np.nan
    model = xgb.XGBClassifier(n_estimators=30, max_depth=5, n_jobs=1, random_state=1).fit(rows, labels)
    return flatten(model.get_booster(), 6)


@pytest.fixture(scope="module")
def rows() -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(2)
    made = rng.normal(size=(1_100, 6)).astype(np.float32)  # more than four chunks, the last one not full
    made[rng.random(made.shape) < 0.2] = np.nan
    made[0] = np.nan
    return made


@pytest.fixture(scope="module")
def model(trained: Trained) -> FraudModel:
    keys = parse_public_keys((trained.root / "keys" / "development.pub").read_text())
    return load(open_bundle(f"file://{trained.root}/models/current", keys)).model


@pytest.fixture(scope="module")
def columns(trained: Trained, model: FraudModel) -> npt.NDArray[np.float64]:
    frame = dataset.load(str(trained.root / "data" / "synthetic.parquet"), "synthetic")
    return replay.columns(frame, model.features, model.rates)


# --- the same number everywhere --------------------------------------------------------------------------------------


def test_a_batch_gives_each_row_the_margin_it_has_alone_to_the_bit(
    forest: Forest, rows: npt.NDArray[np.float32]
) -> None:
    alone = np.array([forest.margin(row) for row in rows])
    np.testing.assert_array_equal(forest.margins(rows), alone)


def test_a_rows_margin_does_not_depend_on_its_neighbours(forest: Forest, rows: npt.NDArray[np.float32]) -> None:
    whole = forest.margins(rows)
    np.testing.assert_array_equal(forest.margins(rows[::-1])[::-1], whole)
    np.testing.assert_array_equal(forest.margins(rows[700:703]), whole[700:703])
    assert forest.margins(rows[:0]).shape == (0,)


def test_rows_of_another_memory_layout_have_the_same_margins(forest: Forest, rows: npt.NDArray[np.float32]) -> None:
    wide = np.zeros((len(rows), 12), np.float32)
    wide[:, ::2] = rows
    np.testing.assert_array_equal(forest.margins(np.asfortranarray(rows)), forest.margins(rows))
    np.testing.assert_array_equal(forest.margins(wide[:, ::2]), forest.margins(rows))


def test_a_packed_forest_unpacks_to_the_same_bytes_and_margins(forest: Forest, rows: npt.NDArray[np.float32]) -> None:
    (again,) = unpack(pack(forest))
    assert pack(again) == pack(forest)
    np.testing.assert_array_equal(again.margins(rows), forest.margins(rows))
    np.testing.assert_array_equal(again.contributions(rows[0]), forest.contributions(rows[0]))


def test_contributions_and_the_mean_add_up_to_the_margin(forest: Forest, rows: npt.NDArray[np.float32]) -> None:
    for row in rows[:200]:
        assert forest.expected + forest.contributions(row).sum() == pytest.approx(forest.margin(row), abs=2e-5)


def test_the_service_scores_as_the_training_pipeline_does(
    trained: Trained, model: FraudModel, columns: npt.NDArray[np.float64]
) -> None:
    estimator = joblib.load(trained.root / "models" / f"{trained.version}.pipeline.joblib")
    rng = np.random.default_rng(3)
    holed = columns.copy()
    holed[rng.random(holed.shape) < 0.2] = np.nan
    for raw in (columns, holed):
        theirs = estimator.predict_proba(raw)[:, 1]
        vectors = model.vector(fill(raw, model.population))
        ours = model.probabilities(vectors)
        assert np.abs(ours - theirs).max() <= 1e-9
        alone = [model.probability(model.vector(fill(row, model.population))) for row in raw[:500]]
        assert ours[:500].tolist() == alone


def test_reasons_add_up_to_the_log_odds_of_the_probability(model: FraudModel, columns: npt.NDArray[np.float64]) -> None:
    for row in columns[:: len(columns) // 60]:
        vector = model.vector(fill(row, model.population))
        shares = model.contributions(vector)
        probability = model.probability(vector)
        log_odds = model.expected_log_odds + sum(share for _, share in shares)
        assert log_odds == pytest.approx(math.log(probability / (1 - probability)), abs=1e-4)
        strengths = [abs(share) for _, share in shares]
        assert strengths == sorted(strengths, reverse=True)
        assert len({group for group, _ in shares}) == len(shares)


def test_the_columns_of_a_type_are_told_as_one_reason(model: FraudModel, columns: npt.NDArray[np.float64]) -> None:
    groups = [group for group, _ in model.contributions(model.vector(fill(columns[0], model.population)))]
    assert groups.count("type") == 1
    assert not any(group.startswith("is_transfer") for group in groups)


@pytest.mark.parametrize(
    ("margin", "probability"),
    [(0.0, 0.5), (1e9, 1.0), (-1e9, 0.0), (math.inf, 1.0), (-math.inf, 0.0), (math.log(3), 0.75), (-math.log(3), 0.25)],
)
def test_calibration_is_the_logistic_function_without_overflow(margin: float, probability: float) -> None:
    assert calibrate(margin, 1.0, 0.0) == pytest.approx(probability, abs=1e-15)


def test_calibration_rises_with_the_margin() -> None:
    margins = np.linspace(-30, 30, 4_001).tolist()
    values = [calibrate(margin, 0.7, -1.3) for margin in margins]
    assert values == sorted(values)
    assert all(0 < value < 1 for value in values)


# --- a forest that is not one ----------------------------------------------------------------------------------------


def node(name: str, at: int, value: float) -> Callable[[Arrays], None]:
    def change(arrays: Arrays) -> None:
        arrays[name][at] = value

    return change


def replaced(name: str, make: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> Callable[[Arrays], None]:
    def change(arrays: Arrays) -> None:
        arrays[name] = make(arrays[name])

    return change


def chain(depth: int) -> Arrays:
    """One tree that is a single path of ``depth`` questions."""
    nodes = 2 * depth + 1
    child = np.zeros(2 * nodes, np.int32)
    for at in range(nodes):
        inner = at % 2 == 0 and at < nodes - 1
        child[2 * at], child[2 * at + 1] = (at + 2, at + 1) if inner else (at, at)
    return {
        "scalars": np.array([6.0, 0.0, 0.0]),
        "root": np.array([0], np.int32),
        "feature": np.zeros(nodes, np.int32),
        "value": np.zeros(nodes, np.float32),
        "child": child,
        "missing_left": np.zeros(nodes, np.bool_),
    }


CORRUPTIONS: dict[str, Callable[[Arrays], None]] = {
    "a cycle": node("child", 0, 0),
    "a cycle over two nodes": node("child", 2, 0),
    "a child before its parent": node("child", 5, 0),
    "a child beyond the last node": node("child", 0, 10**6),
    "a negative child": node("child", 0, -1),
    "a root beyond the last node": node("root", 0, 10**6),
    "a negative root": node("root", 0, -1),
    "a feature beyond the last": node("feature", 0, 6),
    "a negative feature": node("feature", 0, -1),
    "a threshold that is NaN": node("value", 0, math.nan),
    "an infinite leaf": node("value", -1, math.inf),
    "a bias that is NaN": node("scalars", 1, math.nan),
    "a bias beyond float32": node("scalars", 1, 1e300),
    "a mean that is infinite": node("scalars", 2, math.inf),
    "a width below its features": node("scalars", 0, 2),
    "a negative width": node("scalars", 0, -6),
    "a width that is no whole number": node("scalars", 0, 6.5),
    "no roots": replaced("root", lambda a: a[:0]),
    "more roots than nodes": replaced("root", lambda a: np.zeros(10**5, np.int32)),
    "too many trees": replaced("root", lambda a: np.zeros(MAX_TREES + 1, np.int32)),
    "one value too few": replaced("value", lambda a: a[:-1]),
    "one flag too few": replaced("missing_left", lambda a: a[:-1]),
    "one child too few": replaced("child", lambda a: a[:-1]),
    "no nodes": replaced("feature", lambda a: a[:0]),
    "features as int64": replaced("feature", lambda a: a.astype(np.int64)),
    "features as floats": replaced("feature", lambda a: a.astype(np.float32)),
    "features of the other byte order": replaced("feature", lambda a: a.astype(">i4")),
    "thresholds as float64": replaced("value", lambda a: a.astype(np.float64)),
    "children as unsigned numbers": replaced("child", lambda a: a.astype(np.uint32)),
    "flags as bytes": replaced("missing_left", lambda a: a.astype(np.int8)),
    "flags as text": replaced("missing_left", lambda a: a.astype(str)),
    "nodes in two dimensions": replaced("feature", lambda a: a[None]),
    "a number in place of an array": replaced("root", lambda a: np.array(0, np.int32)),
    "two scalars": replaced("scalars", lambda a: a[:2]),
    "a leaf table of another length": replaced("leaf1.low", lambda a: a[:-1]),
    "a leaf table with NaN": replaced("leaf1.table", lambda a: np.full_like(a, np.nan)),
    "a leaf table of too few rows": replaced("leaf1.table", lambda a: a[:, :1]),
    "a leaf table naming no feature": replaced("leaf1.feature", lambda a: a + 100),
    "a leaf table naming a negative feature": replaced("leaf1.feature", lambda a: a - 100),
    "a leaf table as float64": replaced("leaf1.table", lambda a: a.astype(np.float64)),
    "a leaf table whose bounds are NaN": replaced("leaf1.low", lambda a: np.full_like(a, np.nan)),
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("what", CORRUPTIONS)
def test_a_corrupt_array_is_refused(what: str) -> None:
    rng = np.random.default_rng(4)
    stumps = xgb.XGBClassifier(n_estimators=4, max_depth=2, n_jobs=1)
    data = rng.normal(size=(500, 6)).astype(np.float32)
    stumps.fit(data, (data[:, 0] > 0) & (data[:, 3] > 0))
    arrays = {name: array.copy() for name, array in flatten(stumps.get_booster(), 6).arrays().items()}
    Forest.from_arrays(arrays)
    CORRUPTIONS[what](arrays)
    with pytest.raises(BundleRefused):
        Forest.from_arrays(arrays)
    with pytest.raises(BundleRefused):
        unpack(zipped(arrays))


@pytest.mark.parametrize("name", ["scalars", "root", "feature", "value", "child", "missing_left"])
def test_a_missing_array_is_named(name: str) -> None:
    arrays = small_forest().arrays()
    del arrays[name]
    with pytest.raises(BundleRefused, match=f"'{name}'"):
        Forest.from_arrays(arrays)


@pytest.mark.parametrize("name", ["feature", "low", "high", "missing"])
def test_a_missing_part_of_a_leaf_table_is_named(name: str) -> None:
    arrays = small_forest().arrays()
    del arrays[f"leaf1.{name}"]
    with pytest.raises(BundleRefused, match=f"'leaf1.{name}'"):
        Forest.from_arrays(arrays)


@pytest.mark.timeout(20)
def test_a_tree_too_deep_is_refused_and_one_of_the_greatest_depth_is_not() -> None:
    assert Forest.from_arrays(chain(MAX_DEPTH)).depth == MAX_DEPTH
    for depth in (MAX_DEPTH + 1, 50_000):
        with pytest.raises(BundleRefused, match="deeper than"):
            Forest.from_arrays(chain(depth))


@pytest.mark.timeout(20)
def test_random_changes_of_indices_are_refused_or_harmless_and_never_hang(forest: Forest) -> None:
    good = forest.arrays()
    rng = np.random.default_rng(6)
    data = rng.normal(size=(3, 6)).astype(np.float32)
    refused = 0
    for _ in range(300):
        arrays = {name: array.copy() for name, array in good.items()}
        name = str(rng.choice(["child", "root", "feature"]))
        arrays[name][rng.integers(len(arrays[name]))] = rng.integers(-3, len(arrays["feature"]) + 3)
        try:
            changed = Forest.from_arrays(arrays)
        except BundleRefused:
            refused += 1
            continue
        assert np.isfinite(changed.margins(data)).all()
        assert np.isfinite(changed.contributions(data[0])).all()
    assert 0 < refused <= 300


# --- bytes that are no forest ----------------------------------------------------------------------------------------


def zipped(arrays: Arrays, compression: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, array in arrays.items():
            part = io.BytesIO()
            np.lib.format.write_array(part, array, allow_pickle=True)
            archive.writestr(f"{name}.npy", part.getvalue())
    return out.getvalue()


def header_only(shape: str) -> bytes:
    """An ``.npz`` whose one array claims a shape and holds next to nothing."""
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"1234"
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("value.npy", data)
    return out.getvalue()


GARBAGE: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "text": lambda: b"not a forest",
    "an empty zip": lambda: zipped({}),
    "a zip cut in half": lambda: pack(small_forest())[: len(pack(small_forest())) // 2],
    "a plain npy": lambda: _npy(np.zeros(3)),
    "a pickle": lambda: b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00]\x94.",
    "objects in an array": lambda: zipped({"scalars": np.array([{"a": 1}, None], dtype=object)}),
    "a shape of a million million": lambda: header_only("(1000000000000,)"),
    "a shape beyond all numbers": lambda: header_only("(10**99999,)"),
    "a shape that is code": lambda: header_only("(__import__('os').getpid(),)"),
    "a negative shape": lambda: header_only("(-5,)"),
    "a shape nested without end": lambda: header_only("(" * 60 + ")" * 40),
    "a member that is no array": lambda: _with_member(b"hello"),
}


def _npy(array: npt.NDArray[Any]) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def _with_member(data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("scalars", data)
    return out.getvalue()


@pytest.mark.timeout(20)
@pytest.mark.parametrize("what", GARBAGE)
def test_bytes_that_are_no_forest_are_refused(what: str) -> None:
    with pytest.raises(BundleRefused):
        unpack(GARBAGE[what]())


def test_a_forest_that_would_unfold_to_far_more_than_it_weighs_is_refused_before_it_does() -> None:
    arrays = small_forest().arrays()
    arrays["value"] = np.zeros(40_000_000, np.float32)
    bomb = zipped(arrays, zipfile.ZIP_DEFLATED)
    assert len(bomb) < 400_000  # of 160 MB
    with pytest.raises(BundleRefused, match="compressed"):
        unpack(bomb)


def test_random_damage_to_the_bytes_is_refused_or_still_a_sound_forest() -> None:
    good = pack(small_forest())
    rng = np.random.default_rng(8)
    row = np.array([1.0, 1.0], np.float32)
    for _ in range(300):
        bad = bytearray(good)
        for _ in range(rng.integers(1, 4)):
            bad[rng.integers(len(bad))] = rng.integers(256)
        try:
            (forest,) = unpack(bytes(bad))
        except BundleRefused:
            continue
        assert forest.width >= 1
        if forest.width == 2:
            assert np.isfinite(forest.margin(row))


# --- a model that does not hold together -----------------------------------------------------------------------------


def test_a_width_that_does_not_fit_the_features_is_refused() -> None:
    manifest = small_manifest("v1", features=[{"name": "amount", "version": 1}])
    with pytest.raises(BundleRefused, match="same width"):
        FraudModel.from_manifest(manifest, small_forest())


@pytest.mark.parametrize(("slope", "intercept"), [(0.0, 0.0), (-1.0, 0.0), (math.nan, 0.0), (1.0, math.inf)])
def test_a_calibration_that_does_not_rise_is_refused(slope: float, intercept: float) -> None:
    with pytest.raises(BundleRefused, match="calibration"):
        changed(slope=slope, intercept=intercept)


@pytest.mark.parametrize(
    ("review", "decline"), [(0.0, 0.5), (0.6, 0.5), (0.5, 1.0), (math.nan, 0.5), (0.5, math.nan), (-0.1, 0.5)]
)
def test_thresholds_out_of_order_are_refused(review: float, decline: float) -> None:
    with pytest.raises(BundleRefused, match="thresholds"):
        changed(thresholds=Thresholds(review, decline))


def changed(**parts: Any) -> FraudModel:
    good = FraudModel.from_manifest(small_manifest("v1"), small_forest())
    kept = {name: getattr(good, name) for name in ("version", "features", "population", "members", "rates")}
    return FraudModel(**{**kept, "slope": 1.0, "intercept": 0.0, "thresholds": Thresholds(0.5, 0.9), **parts})


def test_a_models_features_are_found_by_name_whatever_their_order(tmp_path: Any) -> None:
    forward = FraudModel.from_manifest(small_manifest("v1"), small_forest())
    raw = np.zeros(len(forward.features.columns))
    raw[forward.features.columns.index("drains_account")] = 1.0
    backward = FraudModel.from_manifest(
        small_manifest("v1", features=[{"name": "drains_account", "version": 1}, {"name": "amount", "version": 1}]),
        small_forest(),
    )
    assert forward.margin(forward.vector(raw)) == 4.0
    assert backward.vector(raw).tolist() == forward.vector(raw).tolist()[::-1]


def test_golden_rows_hold_on_the_trained_bundle_and_a_changed_population_breaks_them(trained: Trained) -> None:
    keys = parse_public_keys((trained.root / "keys" / "development.pub").read_text())
    bundle = open_folder(trained.folder, keys)
    golden = bundle.read("golden.json")
    rows = json.loads(golden)["rows"]
    assert len(rows) == 64
    assert any(None in row["columns"] for row in rows)
    model = FraudModel.load(bundle)
    model.check_golden(golden)
    model.population = model.population + 1e6
    with pytest.raises(BundleRefused, match="score differently"):
        model.check_golden(golden)


def test_a_small_bundle_scores_as_its_one_tree_says(tmp_path: Any) -> None:
    model = load(open_folder(seal_small(tmp_path, "v1"), TRUSTED)).model
    vector = np.array([10.0, 1.0], np.float32)
    assert model.probability(vector) == 1 / (1 + math.exp(-4))
    assert model.probability(np.array([10.0, math.nan], np.float32)) == pytest.approx(1 / (1 + math.exp(3)))
    assert model.contributions(vector) == [("drains_account", pytest.approx(6.3)), ("amount", 0.0)]
