"""Members beside XGBoost: sealed equal to scikit-learn's, weighted by what they earn, served without scikit-learn."""

import json
import math
import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np
import numpy.typing as npt
import pytest

from fraud_api_lambda.bundle import open_folder, parse_public_keys
from fraud_api_lambda.errors import BundleRefused
from fraud_api_lambda.features import NAMES, FeatureSet, fill
from fraud_api_lambda.model import MAX_DEPTH, Forest, FraudModel, Linear, pack, unpack
from fraud_api_lambda.reload import load
from tests.conftest import Trained
from training import dataset, ensemble, evaluate, forest, metrics, replay
from training.train import Options, Result, development_key, run

PICKED = ("amount", "hour_of_day", "is_transfer", "is_night")
FEATURES = FeatureSet(picked=PICKED)
Rows = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def rows() -> tuple[Rows, npt.NDArray[np.int8]]:
    """3,000 raw rows whose frauds are large transfers by night, among amounts of a long tail and some gaps."""
    rng = np.random.default_rng(5)
    raw = np.full((3_000, len(NAMES)), np.nan)
    for name, values in {
        "amount": rng.lognormal(4, 1.5, len(raw)),
        "hour_of_day": rng.integers(0, 24, len(raw)),
        "is_transfer": rng.random(len(raw)) < 0.3,
        "is_night": rng.random(len(raw)) < 0.2,
    }.items():
        raw[:, NAMES.index(name)] = values
    strength = np.log(raw[:, NAMES.index("amount")]) + 2 * raw[:, NAMES.index("is_transfer")]
    labels = (strength + rng.normal(0, 1, len(raw)) > 7.5).astype(np.int8)
    raw[rng.random(raw.shape) < 0.1] = np.nan
    return raw, labels


@pytest.fixture(scope="module")
def linear(rows: tuple[Rows, npt.NDArray[np.int8]]) -> ensemble.Member:
    raw, labels = rows
    return ensemble.seal_linear(ensemble.linear_pipeline(FEATURES).fit(raw, labels), raw)


@pytest.fixture(scope="module")
def isolation(rows: tuple[Rows, npt.NDArray[np.int8]]) -> ensemble.Member:
    raw, labels = rows
    return ensemble.seal_isolation(ensemble.isolation_pipeline(FEATURES, 3).fit(raw, labels), raw)


# --- equal to scikit-learn's -----------------------------------------------------------------------------------------


def test_a_linear_member_gives_scikit_learns_log_odds(
    linear: ensemble.Member, rows: tuple[Rows, npt.NDArray[np.int8]]
) -> None:
    vectors = linear.pipeline["fill"].transform(rows[0])
    assert np.abs(linear.part.margins(vectors) - linear.pipeline.decision_function(rows[0])).max() < 1e-12


def test_an_isolation_member_gives_scikit_learns_score(
    isolation: ensemble.Member, rows: tuple[Rows, npt.NDArray[np.int8]]
) -> None:
    vectors = isolation.pipeline["fill"].transform(rows[0])
    theirs = np.log2(-isolation.pipeline["isolation"].forest_.score_samples(vectors))
    margins = isolation.part.margins(vectors)
    assert np.abs(margins - theirs).max() < 1e-9
    assert margins.dtype == np.float64
    assert isinstance(isolation.part, Forest)
    assert isolation.part.depth <= MAX_DEPTH


def test_a_value_on_an_isolation_trees_threshold_goes_left_as_scikit_learn_sends_it(
    isolation: ensemble.Member,
) -> None:
    trees = isolation.pipeline["isolation"].forest_.estimators_
    thresholds = np.concatenate([tree.tree_.threshold[tree.tree_.feature == 0] for tree in trees])
    edge = thresholds.astype(np.float32)
    for amounts in (edge, np.nextafter(edge, np.float32(np.inf)), np.nextafter(edge, np.float32(-np.inf))):
        vectors = np.zeros((len(amounts), len(PICKED)), np.float32)
        vectors[:, 0] = amounts
        theirs = np.log2(-isolation.pipeline["isolation"].forest_.score_samples(vectors))
        assert np.abs(isolation.part.margins(vectors) - theirs).max() < 1e-9


def test_trees_too_deep_for_the_leaf_tables_are_not_sealed(rows: tuple[Rows, npt.NDArray[np.int8]]) -> None:
    raw, labels = rows
    pipeline = ensemble.isolation_pipeline(FEATURES, 3).set_params(isolation__samples=256).fit(raw, labels)
    with pytest.raises(BundleRefused, match="max_samples of 64"):
        ensemble.seal_isolation(pipeline, raw)


def test_a_member_that_differs_from_its_estimator_is_not_sealed(
    linear: ensemble.Member, rows: tuple[Rows, npt.NDArray[np.int8]]
) -> None:
    assert isinstance(linear.part, Linear)
    vectors = linear.pipeline["fill"].transform(rows[0])
    theirs = linear.pipeline.decision_function(rows[0])
    coef = linear.part.coef.copy()
    coef[0] *= 1.001
    part = Linear(
        intercept=linear.part.intercept, coef=coef, low=linear.part.low, high=linear.part.high, mean=linear.part.mean
    )
    with pytest.raises(BundleRefused, match="differ from scikit-learn"):
        forest.check_near(part, theirs, vectors, 1e-12)


# --- one row and many, reasons, packing ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["linear", "isolation"])
def test_one_row_and_a_batch_say_the_same_to_the_bit_and_reasons_add_up(
    name: str, rows: tuple[Rows, npt.NDArray[np.int8]], request: pytest.FixtureRequest
) -> None:
    member: ensemble.Member = request.getfixturevalue(name)
    vectors = member.pipeline["fill"].transform(rows[0])[:700]
    batch = member.part.margins(vectors)
    assert batch.tolist() == [member.part.margin(vector) for vector in vectors]
    assert member.part.margins(vectors[::-1])[::-1].tolist() == batch.tolist()
    assert member.part.margins(np.asfortranarray(vectors)).tolist() == batch.tolist()
    for vector, margin in zip(vectors[:100], batch, strict=False):
        total = member.part.expected + member.part.contributions(vector).sum()
        assert total == pytest.approx(margin, abs=1e-6)


def test_beyond_what_training_saw_a_linear_member_does_not_go_on(linear: ensemble.Member) -> None:
    assert isinstance(linear.part, Linear)
    vector = np.zeros(len(PICKED), np.float32)
    vector[0] = linear.part.high[0]
    at_the_edge = linear.part.margin(vector)
    vector[0] = 1e9
    assert linear.part.margin(vector) == pytest.approx(at_the_edge, abs=1e-6)


def test_what_is_missing_says_nothing_to_a_linear_member(linear: ensemble.Member) -> None:
    vector = np.full(len(PICKED), np.nan, np.float32)
    assert linear.part.margin(vector) == linear.part.expected
    assert not linear.part.contributions(vector).any()


def test_members_of_every_kind_unpack_to_what_was_packed(linear: ensemble.Member, isolation: ensemble.Member) -> None:
    packed = pack(isolation.part, linear.part)
    again = unpack(packed, ["isolation", "linear"])
    assert pack(*again) == packed
    for kinds in (["linear", "isolation"], ["forest", "linear"], ["isolation", "linear", "linear"]):
        with pytest.raises(BundleRefused, match="missing or has the wrong type"):
            unpack(packed, kinds)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"coef": np.array([1.0, math.nan, 0, 0])}, "not finite"),
        ({"coef": np.array([1.0, math.inf, 0, 0])}, "not finite"),
        ({"coef": np.ones(3)}, "same length"),
        ({"coef": np.ones(4, np.float32)}, "'coef'"),
        ({"mean": np.ones((4, 1))}, "'mean'"),
        ({"low": np.full(4, 2e9)}, "bound"),
        ({"intercept": np.ones(2)}, "'intercept'"),
        ({"intercept": np.array([math.nan])}, "not finite"),
    ],
)
def test_a_corrupt_linear_member_is_refused(
    linear: ensemble.Member, change: dict[str, npt.NDArray[np.float64]], match: str
) -> None:
    with pytest.raises(BundleRefused, match=match):
        Linear.from_arrays({**linear.part.arrays(), **change})


# --- weights that are earned -----------------------------------------------------------------------------------------


class Says:
    """A pipeline whose margin is the raw row's first column, or another."""

    def __init__(self, column: int):
        self.column = column

    def decision_function(self, X: Rows) -> Rows:
        return X[:, self.column]


def members(*columns: int) -> list[ensemble.Member]:
    part = Linear(intercept=0.0, coef=np.ones(1), low=np.zeros(1), high=np.ones(1), mean=np.zeros(1))
    return [ensemble.Member(f"m{column}", "linear", 1.0, Says(column), part) for column in columns]


@pytest.fixture(scope="module")
def two_views() -> tuple[Rows, npt.NDArray[np.int8], Rows]:
    """Two noisy views of the same truth, then noise alone, then the second view on a scale of thousandths."""
    rng = np.random.default_rng(9)
    labels = (rng.random(20_000) < 0.02).astype(np.int8)
    views = [labels * 2.0 + rng.normal(0, 1, len(labels)) for _ in range(2)]
    return np.stack([*views, rng.normal(0, 1, len(labels)), views[1] / 1000], axis=1), labels, np.ones(len(labels))


def test_a_member_that_adds_knowledge_is_shipped_with_its_gain(
    two_views: tuple[Rows, npt.NDArray[np.int8], Rows],
) -> None:
    X, y, weight = two_views
    first, second = members(0, 1)
    kept, (trial,) = ensemble.fitted_beside(first, [second], X, y, weight, seed=1)
    assert trial.shipped
    assert 0.4 < trial.share < 0.6  # both know as much
    assert trial.low > 0.05
    assert [member.name for member in kept] == ["m0", "m1"]
    blended = sum(member.weight * member.pipeline.decision_function(X) for member in kept)
    assert metrics.average_precision(np.asarray(blended), y, weight) == pytest.approx(trial.after, abs=1e-12)


def test_a_members_scale_does_not_matter(two_views: tuple[Rows, npt.NDArray[np.int8], Rows]) -> None:
    X, y, weight = two_views
    first, same, tiny = members(0, 1, 3)
    _, (plain,) = ensemble.fitted_beside(first, [same], X, y, weight, seed=1)
    kept, (scaled,) = ensemble.fitted_beside(first, [tiny], X, y, weight, seed=1)
    assert scaled.share == plain.share
    assert scaled.after == pytest.approx(plain.after)
    assert kept[1].weight == pytest.approx(1000 * plain.weight)


def test_noise_does_not_earn_a_place_and_is_reported(two_views: tuple[Rows, npt.NDArray[np.int8], Rows]) -> None:
    X, y, weight = two_views
    first, second, noise = members(0, 1, 2)
    kept, trials = ensemble.fitted_beside(first, [noise, second], X, y, weight, seed=1)
    assert [trial.shipped for trial in trials] == [False, True]
    assert [member.name for member in kept] == ["m0", "m1"]
    assert "not shipped" in str(trials[0])


def test_equal_weights_are_halves_of_the_first_two_whatever_they_earn(
    two_views: tuple[Rows, npt.NDArray[np.int8], Rows],
) -> None:
    X, y, weight = two_views
    first, noise, second = members(0, 2, 1)
    kept, trials = ensemble.fitted_beside(first, [noise, second], X, y, weight, seed=1, blending="equal")
    assert [(member.name, member.weight) for member in kept] == [("m0", 0.5), ("m2", 0.5)]
    assert len(trials) == 1
    assert trials[0].high < 0  # and the loss is told


def test_a_constant_member_is_not_shipped(two_views: tuple[Rows, npt.NDArray[np.int8], Rows]) -> None:
    X, y, weight = two_views
    flat = np.concatenate((X, np.ones((len(X), 1))), axis=1)
    first, constant = members(0, 4)
    kept, (trial,) = ensemble.fitted_beside(first, [constant], flat, y, weight, seed=1)
    assert len(kept) == 1
    assert not trial.shipped


# --- a blend, trained, sealed and served -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def blended(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    root = tmp_path_factory.mktemp("blended")
    data = trained.root / "data" / "synthetic.parquet"
    options = Options(str(data), tune=0, ablation=False, champion="blend", blend="equal")
    return root, run(options, root / "models", development_key(root / "keys"))


def opened(blended: tuple[Path, Result]) -> FraudModel:
    keys = parse_public_keys((blended[0] / "keys" / "development.pub").read_text())
    return load(open_folder(blended[1].bundle, keys)).model


def test_a_sealed_blend_scores_as_its_training_estimator(trained: Trained, blended: tuple[Path, Result]) -> None:
    model = opened(blended)
    estimator = joblib.load(blended[0] / "models" / f"{blended[1].version}.pipeline.joblib")
    frame = dataset.load(str(trained.root / "data" / "synthetic.parquet"), "synthetic")
    raw = replay.columns(frame, model.features, model.rates)
    rng = np.random.default_rng(3)
    raw[rng.random(raw.shape) < 0.1] = np.nan
    vectors = model.vector(fill(raw, model.population))
    ours = model.probabilities(vectors)
    assert np.abs(ours - estimator.predict_proba(raw)[:, 1]).max() <= 1e-9
    assert ours[:500].tolist() == [model.probability(vector) for vector in vectors[:500]]
    for vector, probability in zip(vectors[:50], ours, strict=False):
        log_odds = model.expected_log_odds + sum(share for _, share in model.contributions(vector))
        assert log_odds == pytest.approx(math.log(probability / (1 - probability)), abs=1e-4)
    booster = (blended[1].bundle / "model.ubj").read_bytes()
    many = np.concatenate((vectors, vectors, vectors))
    assert len(many) >= evaluate.LARGE
    assert evaluate.probabilities(model, many, booster)[: len(ours)].tolist() == ours.tolist()


def test_a_blends_manifest_and_figures_name_its_members(blended: tuple[Path, Result]) -> None:
    manifest = json.loads((blended[1].bundle / "manifest.json").read_text())
    assert manifest["champion"] == "blend"
    assert [(m["name"], m["kind"], m["weight"]) for m in manifest["members"]] == [
        ("xgboost", "forest", 0.5),
        ("linear", "linear", 0.5),
    ]
    (trial,) = blended[1].metrics["members"]
    assert trial["name"] == "linear"
    assert trial["shipped"]


def test_a_weight_that_is_not_above_nothing_is_refused(blended: tuple[Path, Result]) -> None:
    model = opened(blended)
    for weight in (0.0, -0.5, math.nan, math.inf):
        parts = {name: getattr(model, name) for name in ("version", "features", "population", "slope", "intercept")}
        members = [(weight, part) for _, part in model.members]
        with pytest.raises(BundleRefused, match="weight"):
            FraudModel(**parts, members=members, thresholds=model.thresholds, rates=model.rates)


def test_a_blend_is_opened_and_scored_without_scikit_learn(blended: tuple[Path, Result]) -> None:
    code = (
        "import sys, numpy as np; sys.modules.update({n: None for n in ('sklearn', 'scipy', 'pandas', 'xgboost')})\n"
        "from pathlib import Path\n"
        "from fraud_api_lambda.bundle import open_folder, parse_public_keys\n"
        "from fraud_api_lambda.reload import load\n"
        "model = load(open_folder(Path(sys.argv[1]), parse_public_keys(Path(sys.argv[2]).read_text()))).model\n"
        "print(model.probability(np.zeros(len(model.features.picked), np.float32)))"
    )
    public = blended[0] / "keys" / "development.pub"
    done = subprocess.run(
        [sys.executable, "-c", code, str(blended[1].bundle), str(public)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    vector = np.zeros(len(opened(blended).features.picked), np.float32)
    assert float(done.stdout) == opened(blended).probability(vector)


def test_members_that_earn_nothing_leave_xgboost_alone(trained: Trained, tmp_path: Path) -> None:
    data = trained.root / "data" / "synthetic.parquet"
    options = Options(str(data), tune=0, ablation=False, champion="blend")
    result = run(options, tmp_path, development_key(tmp_path / "keys"))
    manifest = json.loads((result.bundle / "manifest.json").read_text())
    trials = result.metrics["members"]
    assert [trial["name"] for trial in trials] == ["linear", "isolation"]
    shipped = [trial["name"] for trial in trials if trial["shipped"]]
    assert [member["name"] for member in manifest["members"]] == ["xgboost", *shipped]
    assert all(trial["shipped"] == (trial["low"] > 0) for trial in trials)
