"""One training run: frame -> split -> replay -> search -> fit -> calibrate -> seal -> evaluate -> seal.

The bundle is sealed twice. First with a throw-away key and nothing to show, so that evaluation opens it exactly as the
service will; then with its figures, report and card inside, and the real key.
"""

import contextlib
import io
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any, Literal

import joblib
import numpy as np
import numpy.typing as npt
import pandas as pd
import xgboost as xgb

from fraud_api_lambda import bundle as bundles
from fraud_api_lambda import drift
from fraud_api_lambda import features as rule
from fraud_api_lambda.bundle import Manifest, SigningKey
from fraud_api_lambda.errors import BundleRefused, SettingsError
from fraud_api_lambda.features import FeatureSet, Floats
from fraud_api_lambda.model import FraudModel, calibrate, pack
from fraud_api_lambda.reload import Served, load
from fraud_api_lambda.rules import load_rules
from fraud_api_lambda.schemas import RateTable, rfc3339

from . import backtest, dataset, ensemble, evaluate, forest, metrics, pipeline, replay, report, split, synthetic
from . import tune as tuning
from .ensemble import Blending, Member, Trial
from .metrics import Costs, Scored
from .publish import publish
from .tune import Tuner

Progress = Callable[[str], None]
Labels = npt.NDArray[np.int8]

GOLDEN_ROWS = 64
EXPLAINED_ROWS = 1_000

_KEYS = "keys"
_NO_RULES = b"version: none\nrules: []\n"


@dataclass(frozen=True)
class Options:
    """What one run was asked for. Times in ms; ``where`` and ``legit_weight`` as in ``dataset.load``."""

    data: str
    format: str = "synthetic"
    mapping: str | None = None
    where: tuple[str, ...] = ()
    legit_weight: float = 1.0
    seed: int = 7
    features: Literal["pre", "posted"] = "pre"
    labels: bool = False  #: True where the service will learn of frauds; else rates it can never know would mislead
    history: bool = True  #: False where the rows are a sample: a sample has no history
    #: xgboost with SMOTE; the best of the ablation on validation rows; or XGBoost and what earns its place beside it
    champion: Literal["xgboost", "auto", "blend"] = "xgboost"
    blend: Blending = "fitted"  #: how weights come about where there is a blend; ``none`` leaves it out of ``auto``
    split: Literal["time", "random"] = "time"
    train_range: str | None = None
    validation_range: str | None = None
    test_range: str | None = None
    known_since: str | None = None  #: customers with a fraud since this day, known by then, are left out of test days
    rehearse_ms: int | None = None  #: how much earlier a rehearsal chooses trees and weights; None: no rehearsal
    delay_ms: int | None = None  #: None: seven days, or a tenth of the data's span where that is shorter
    folds: int = 0
    tune: int = 4
    tuner: Tuner = "random"
    rules: str | None = None
    keep_rules: bool = False  #: seal the rules as they are, whatever they would hit
    time_zone: str = "UTC"
    base_currency: str = "USD"
    minor_units: int = 2
    rates: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    costs: Costs = field(default_factory=Costs)
    ablation: bool = True
    parent: str | None = None  #: version of the model that this one is to follow
    now_ms: int | None = None  #: when this takes place; None: now


@dataclass(frozen=True)
class Fit:
    """A fitted, calibrated model that is not sealed yet."""

    estimator: Any  #: a ``CalibratedClassifierCV``; None before calibration
    features: FeatureSet
    population: Floats
    members: tuple[Member, ...]
    slope: float
    intercept: float
    thresholds: tuple[float, float]
    balance: pipeline.Balance
    params: Mapping[str, Any]
    synthetic_rows: int
    trials: tuple[Trial, ...] = ()  #: what members beside XGBoost were worth, shipped or not

    @property
    def booster(self) -> xgb.Booster:
        booster: xgb.Booster = self.members[0].pipeline["xgb"].get_booster()
        return booster


@dataclass(frozen=True)
class Result:
    """What a run leaves: the bundle's folder, its version, and its figures as in ``metrics.json``."""

    bundle: Path
    version: str
    metrics: Mapping[str, Any]
    seconds: float


@dataclass(frozen=True)
class Data:
    """The frame with its raw columns (n, len(features.columns)), labels, and what they are made with."""

    frame: pd.DataFrame
    columns: Floats
    labels: Labels
    features: FeatureSet  #: nothing picked yet
    rates: RateTable
    sha256: str  #: hex, of what the frame was read from

    def take(self, rows: split.Rows) -> tuple[Floats, Labels]:
        return self.columns[rows], self.labels[rows]


@dataclass(frozen=True)
class Elsewhere:
    """Where the rows lie on other machines, and the trees grow there: what of it a run has here.

    ``data`` and ``parts`` are the rows that were fetched, ``picked`` the columns that go to the model.
    """

    data: Data
    parts: split.Split
    picked: FeatureSet
    fraud_rate: float  #: of all rows that teach
    grow: Callable[[Mapping[str, Any]], Fit]  #: hyperparameters -> trees fitted on all of them, not calibrated
    facts: Mapping[str, Any]  #: what the manifest says of the training, in place of what the fetched rows would


def run(
    options: Options,
    out: Path,
    key: SigningKey,
    *,
    given: tuple[Data, split.Split] | None = None,
    elsewhere: Elsewhere | None = None,
    progress: Progress = lambda _: None,
) -> Result:
    """Train, evaluate and seal; the bundle lies in ``out/<version>`` and the pointer is not touched.

    ``given`` are rows that were read and split already, in place of those that ``options`` name; ``elsewhere`` is where
    they were, and trees are grown, where one machine is not enough. Beside the bundle lie
    ``<version>.pipeline.joblib`` (a training artefact: the service never reads it) and the report's pictures. Raises
    ``DataError``, ``BundleError`` or ``RulesError``; nothing half-written stays.
    """
    began = time.monotonic()
    if elsewhere is not None:
        data, parts = elsewhere.data, elsewhere.parts
    elif given is None:
        progress("loading data")
        data = load_data(options)
        parts = split_data(options, data)
    else:
        data, parts = given
        _check_frauds(parts, data.labels)
    stage = rehearsal(options, data)
    rules = _rules(options, data.features.columns)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise dataset.DataError(f"{out} cannot be written ({error.strerror}).") from None
    progress(
        f"{len(data.frame):,} rows, {int(data.labels.sum()):,} frauds; searching {max(options.tune, 1)} candidates"
    )
    picked = pick_columns(data, parts.train, options) if elsewhere is None else elsewhere.picked
    rate = None if elsewhere is None else elsewhere.fraud_rate
    chosen, search = search_candidates(data, picked, parts.train, options, stage, rate)
    progress("training and calibrating")
    if elsewhere is None:
        fit = _fit(data, picked, parts.train, parts.validation, options, "smote", chosen)
    else:
        fit = _calibrated(data, parts.validation, options, elsewhere.grow(chosen))
    rules, judged = _judge_rules(rules, fit, data, parts, options)
    for hit in judged:
        progress(hit.line)
    cross = None
    if options.folds:
        progress(f"{options.folds}-fold cross-validation")
        cross = _cross_validate(data, picked, options, chosen, rules)
    ablation: list[dict[str, Any]] = []
    if options.ablation or options.champion == "auto":
        progress("ablation: SMOTE, none, scale_pos_weight, without balances")
        fit, ablation = _ablate(data, picked, parts, options, chosen, fit)
    if options.champion == "blend" or (options.champion == "auto" and options.blend != "none"):
        progress("offering a logistic regression and an Isolation Forest beside XGBoost")
        fit = _blended(data, parts.train, parts.validation, options, fit, stage)
        for trial in fit.trials:
            progress(str(trial))
        beside = ", ".join(trial.name for trial in fit.trials if trial.shipped)
        for row in ablation:
            if beside and row["chosen"]:
                row["note"] = f"served as a sum with {beside}; its figures here are those without"
    progress("evaluating through the sealed bundle")
    manifest = _manifest(fit, data, options, parts, search, stage)
    facts = {**manifest.training, "rules": {hit.id: hit.told for hit in judged}}  # for the model card, too
    facts |= {} if elsewhere is None else elsewhere.facts
    manifest = manifest.model_copy(update={"training": facts})
    files = _files(fit, data, parts, rules)
    with _sealed_for_now(manifest, files) as served:
        test = evaluate.score(served, data.frame.iloc[parts.test], data.columns[parts.test])
        measured = _measure(fit, served, data, parts, test, options, ablation, cross)
        measured["rules"] = [hit.as_json() for hit in judged]
        importance, sample = _explain(served.model, data.columns[parts.test], data.labels[parts.test])
    progress("writing the report")
    profile = report.data_profile(
        data.frame,
        {"train": parts.train, "validation": parts.validation, "test": parts.test},
        time_zone=options.time_zone,
    )
    pages = report.write_report(
        None,
        manifest=manifest.model_dump(mode="json"),
        test=test,
        metrics=measured["test"],
        curves=measured["curves"],
        ablation=ablation,
        importance=importance,
        shap_sample=sample,
        data_profile=profile,
        thresholds=fit.thresholds,
        costs=options.costs,
        trials=measured["members"],
    )
    measured["importance"] = importance
    files["metrics.json"] = _json(measured)
    folder = bundles.seal(out, manifest, {**files, **pages}, key)
    load(bundles.open_folder(folder, bundles.parse_public_keys(key.public_line())))
    artefact = io.BytesIO()
    joblib.dump(fit.estimator, artefact)
    bundles.FileStore(out).write(f"{manifest.version}.pipeline.joblib", artefact.getvalue())
    return Result(folder, manifest.version, measured, time.monotonic() - began)


def ensure_default_bundle(root: Path = Path(), progress: Progress = print, *, rows: int = 200_000) -> Path:
    """Make development key, data and default bundle where they are not there yet; returns ``models/current``.

    What is there already is left alone: a bundle that cannot be opened is for its owner to look at.
    """
    current = root / "models" / "current"
    if current.exists():
        return current
    key = development_key(root / _KEYS)
    data = root / "data" / "synthetic.parquet"
    if not data.exists():
        progress(f"generating {rows:,} transactions -> {data}")
        data.parent.mkdir(parents=True, exist_ok=True)
        synthetic.write(synthetic.generate(rows, 7), data)
    result = run(Options(str(data)), root / "models", key, progress=progress)
    keys = evaluate.trusted_keys(root / _KEYS)
    publish(result.bundle, f"file://{current}", key, keys, force=False)
    test = result.metrics["test"]
    progress(f"bundle {result.version} in {result.seconds:.0f} s: average precision {test['average_precision']:.3f}")
    return current


def development_key(keys_dir: Path) -> SigningKey:
    """The key that signs what this machine trains; made once, private to its owner, never trusted on AWS."""
    private = keys_dir / "development.key"
    if private.exists():
        key = SigningKey.load(private)
        public = private.with_suffix(".pub")
        if not public.exists():
            public.write_text(key.public_line() + "\n")
        return key
    return make_key_pair(keys_dir, "development", f"dev-{os.urandom(4).hex()}")


def make_key_pair(keys_dir: Path, name: str, key_id: str) -> SigningKey:
    """Write ``<name>.key`` (0600) and ``<name>.pub`` into ``keys_dir``; never over an existing pair."""
    key = SigningKey.generate(key_id)
    if (keys_dir / f"{name}.pub").exists():
        raise SettingsError(f"{keys_dir / f'{name}.pub'} exists already; it is not overwritten. Choose another name.")
    key.save(keys_dir / f"{name}.key")
    (keys_dir / f"{name}.pub").write_text(key.public_line() + "\n")
    return key


# --- the steps -------------------------------------------------------------------------------------------------------


def load_data(options: Options) -> Data:
    frame = dataset.load(
        options.data,
        options.format,
        mapping=options.mapping,
        where=options.where,
        legit_weight=options.legit_weight,
    )
    return replayed(frame, options, dataset.digest(options.data))


def replayed(frame: pd.DataFrame, options: Options, sha256: str) -> Data:
    """The frame with the columns that a model sees, its history replayed in its own order."""
    attributes = replay.declare_attributes(frame)
    features, rates = contract(options, attributes, frame["time_ms"].to_numpy(np.int64))
    columns = replay.columns(frame, features, rates, history=options.history)
    return Data(frame, columns, frame["is_fraud"].to_numpy(np.int8), features, rates, sha256)


def contract(
    options: Options, attributes: tuple[rule.Attribute, ...], time_ms: npt.NDArray[np.int64]
) -> tuple[FeatureSet, RateTable]:
    """What the columns of rows of these times are made by; nothing is picked yet."""
    rates = replay.rate_table(options.base_currency, options.minor_units, options.rates)
    features = FeatureSet(
        attributes=attributes,
        time_zone=replay.time_zone(options.time_zone),
        minor_factor=rates.minor_factor,
        label_delay_ms=_delay(options, time_ms),
    )
    return features, rates


def arrived(frame: pd.DataFrame) -> npt.NDArray[np.int64]:
    """When each row came in, (n,) ms: ``received_ms`` where the frame has it."""
    return frame["received_ms" if "received_ms" in frame else "time_ms"].to_numpy(np.int64)


def _delay(options: Options, time_ms: npt.NDArray[np.int64]) -> int:
    if options.delay_ms is not None:
        return options.delay_ms
    return int(min(7 * split.DAY_MS, (int(time_ms.max()) - int(time_ms.min())) // 10))


def split_rows(options: Options, time_ms: npt.NDArray[np.int64], labels: Labels) -> split.Split:
    """The parts of rows of these times, in their order, as ``options`` want them; ``known_since`` is left aside."""
    delay = _delay(options, time_ms)
    if options.train_range or options.test_range:
        if not options.train_range or not options.test_range:
            raise dataset.DataError("--train and --test go together.")
        parts = split.by_ranges(time_ms, options.train_range, options.test_range, delay, options.validation_range)
    elif options.split == "random":
        parts = split.at_random(labels, options.seed)
    else:
        parts = split.by_time(time_ms, delay)
    _check_frauds(parts, labels)
    return parts


def split_data(options: Options, data: Data) -> split.Split:
    time_ms = data.frame["time_ms"].to_numpy(np.int64)
    parts = split_rows(options, time_ms, data.labels)
    if options.known_since is not None:
        test = unknown_customers(data.frame, parts.test, _delay(options, time_ms), options.known_since)
        parts = replace(
            parts, test=test, kind=f"{parts.kind}, without customers known as compromised since {options.known_since}"
        )
        _check_frauds(parts, data.labels)
    if options.folds:
        frauds = int(data.labels.sum())
        if options.folds < 2 or frauds < options.folds or frauds - -(-frauds // options.folds) < 6:
            raise dataset.DataError(
                f"--cv {options.folds} is not possible with {frauds} frauds: two folds or more, a fraud in each, and "
                "six in the others together."
            )
    return parts


def unknown_customers(frame: pd.DataFrame, rows: split.Rows, delay_ms: int, since: str) -> split.Rows:
    """Those of ``rows`` whose customer is not known to be compromised by then: ``split.unknown_customers``."""
    if "customer_id" not in frame:
        raise dataset.DataError("--without-known-frauds needs customers: the data have no customer_id.")
    return split.unknown_customers(
        rows,
        frame["time_ms"].to_numpy(np.int64),
        pd.factorize(frame["customer_id"])[0].astype(np.int64),
        replay.labels_known(frame, delay_ms),
        frame["is_fraud"].to_numpy() == 1,
        since,
    )


def rehearsal(options: Options, data: Data) -> split.Split | None:
    """The same split ``rehearse_ms`` earlier, to choose by; its validation rows are its test rows. None: not asked for.

    Its test days must end before the training range does, so that on the day of the real training every label of
    the rehearsal is known. Raises ``DataError``.
    """
    if options.rehearse_ms is None:
        return None
    if not options.train_range or not options.test_range:
        raise dataset.DataError("--rehearse goes with --train and --test: they are what is moved back.")
    by = options.rehearse_ms
    if by <= 0 or by % split.DAY_MS:
        raise dataset.DataError("--rehearse is a number of whole days, such as 14d.")
    train_range, test_range = (split.earlier(days, by) for days in (options.train_range, options.test_range))
    if split.parse_range(test_range)[1] > split.parse_range(options.train_range)[1]:
        raise dataset.DataError(
            f"A rehearsal's test days would be {test_range}, past the training range: their labels are not known yet. "
            "Choose a longer --rehearse."
        )
    since = options.known_since
    if since is not None:
        since = split.earlier(f"{since}..{since}", by).partition("..")[0]
    time_ms = data.frame["time_ms"].to_numpy(np.int64)
    judged = split.within(time_ms, test_range)
    if since is not None:
        judged = unknown_customers(data.frame, judged, _delay(options, time_ms), since)
    parts = split.Split(
        split.within(time_ms, train_range), judged, judged, f"rehearsal: train {train_range}, test {test_range}"
    )
    _check_frauds(parts, data.labels)
    return parts


def _check_frauds(parts: split.Split, labels: Labels) -> None:
    for name, rows in (("training", parts.train), ("validation", parts.validation), ("test", parts.test)):
        frauds = int(labels[rows].sum())
        if frauds < 2 or frauds == len(rows):
            raise dataset.DataError(
                f"The {name} part holds {frauds} frauds among {len(rows):,} rows; it needs some of both. "
                "Choose other ranges, another --delay, or --split random."
            )


def _rules(options: Options, columns: Sequence[str]) -> bytes:
    """The rules file to seal, compiled once to see that it can be. Raises ``DataError`` or ``RulesError``."""
    text = _NO_RULES
    if options.rules is not None:
        try:
            text = Path(options.rules).read_bytes()
        except OSError:
            raise dataset.DataError(f"The rules file {options.rules} cannot be read.") from None
    elif options.format == "synthetic":
        text = (Path(__file__).parent / "rules_synthetic.yaml").read_bytes()
    load_rules(text, columns)
    return text


def _judge_rules(
    rules: bytes, fit: Fit, data: Data, parts: split.Split, options: Options
) -> tuple[bytes, list[backtest.Hits]]:
    """The rules as they are sealed, with what each would have hit among the validation rows."""
    columns = fit.features.columns
    raw, labels = data.take(parts.validation)
    filled = rule.fill(raw, fit.population)
    found = backtest.hits(load_rules(rules, columns), data.frame.iloc[parts.validation], filled, labels, data.rates)
    return backtest.seal_rules(rules, columns, found, keep=options.keep_rules)


def pick_columns(data: Data, train: split.Rows, options: Options) -> FeatureSet:
    """The columns that go to the model: those allowed that say something no earlier one says in the training rows."""
    return pick(data.features, [told(data.columns[train, at]) for at in range(data.columns.shape[1])], options)


def told(values: Floats) -> tuple[float, float, bytes]:
    """What a column (n,) says: its least and greatest value, NaN where all are missing, and a digest of all of it."""
    present = values[~np.isnan(values)]
    low, high = (float(present.min()), float(present.max())) if len(present) else (np.nan, np.nan)
    return low, high, sha256(np.ascontiguousarray(values).tobytes()).digest()


def pick(features: FeatureSet, columns: Sequence[tuple[float, float, bytes]], options: Options) -> FeatureSet:
    """``features`` with what goes to the model, from what its columns have :func:`told`."""
    allowed = {"transaction", "balance", "place", "attribute"}
    allowed |= {"posted"} if options.features == "posted" else set()
    allowed |= {"history"} if options.history else set()
    allowed |= {"label"} if options.history and options.labels else set()
    picked: list[str] = []
    seen: set[bytes] = set()
    for name, (low, high, digest) in zip(features.columns, columns, strict=True):
        if rule.describe(name).source in allowed and low < high and digest not in seen:
            picked.append(name)
            seen.add(digest)
    return replace(features, picked=tuple(picked))


def search_candidates(
    data: Data,
    features: FeatureSet,
    train: split.Rows,
    options: Options,
    stage: split.Split | None = None,
    fraud_rate: float | None = None,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Hyperparameters and SMOTE ratio, and the candidates with their average precision.

    Judged on the rehearsal's test rows; without a rehearsal (``stage``) on the training rows' own last fifth (in a
    random split: on a random fifth), with the first four to learn from. SMOTE only ever sees what teaches.
    ``fraud_rate`` is theirs where ``train`` is a sample.
    """
    rng = np.random.default_rng(options.seed)
    if stage is not None:
        rows, cut = np.concatenate((stage.train, stage.test)), len(stage.train)
    else:
        rows, cut = train if options.split == "time" else rng.permutation(train), int(0.8 * len(train))
    if len(rows) > tuning.ROWS:  # every fraud stays; legitimate rows are thinned evenly
        keep = (rng.random(len(rows)) < tuning.ROWS / len(rows)) | (data.labels[rows] == 1)
        if stage is not None:
            keep[cut:] = True  # what a rehearsal judges, it judges whole
        cut = int(keep[:cut].sum()) if stage is not None else int(0.8 * keep.sum())
        rows = rows[keep]
    X, y = data.take(rows)
    return tuning.search(
        features, X, y, cut, candidates=options.tune, tuner=options.tuner, seed=options.seed,
        fraud_rate=float(data.labels[train].mean()) if fraud_rate is None else fraud_rate,
    )  # fmt: skip


def _fit(
    data: Data,
    features: FeatureSet,
    train: split.Rows,
    calibration: split.Rows,
    options: Options,
    balance: pipeline.Balance,
    params: Mapping[str, Any],
) -> Fit:
    """Fit on ``train``, calibrate and choose thresholds on ``calibration``, flatten, and prove the forest equal."""
    return _calibrated(data, calibration, options, _trees(data, features, train, calibration, options, balance, params))


def _trees(
    data: Data,
    features: FeatureSet,
    train: split.Rows,
    held: split.Rows,
    options: Options,
    balance: pipeline.Balance,
    params: Mapping[str, Any],
) -> Fit:
    """XGBoost alone, fitted on ``train`` and not calibrated yet, its forest proved equal on ``held`` rows."""
    X, y = data.take(train)
    tree = {name: value for name, value in params.items() if name != "ratio"}
    weight = float((1 - y.mean()) / y.mean())
    model = pipeline.build(
        features, balance=balance, seed=options.seed, ratio=float(params.get("ratio", 0.1)), weight=weight, **tree
    )
    model.fit(X, y)
    return grown(
        model, features, data.columns[held[:20_000]], balance, dict(params) if balance == "smote" else tree,
        model["smote"].synthetic_ if balance == "smote" else 0,
    )  # fmt: skip


def grown(
    model: Any,
    features: FeatureSet,
    checked: Floats,
    balance: pipeline.Balance,
    params: Mapping[str, Any],
    synthetic_rows: int = 0,
) -> Fit:
    """The fit of a pipeline whose trees are grown, not calibrated yet, its forest proved equal on ``checked`` rows."""
    booster = model["xgb"].get_booster()
    flat = forest.flatten(booster, len(features.picked))
    forest.check_parity(flat, booster, model["fill"].transform(checked))
    return Fit(
        estimator=None,
        features=features,
        population=model["fill"].population_,
        members=(Member("xgboost", "forest", 1.0, model, flat),),
        slope=1.0,
        intercept=0.0,
        thresholds=(0.5, 0.5),
        balance=balance,
        params=params,
        synthetic_rows=synthetic_rows,
    )


def _calibrated(data: Data, calibration: split.Rows, options: Options, fit: Fit) -> Fit:
    """The fit with estimator, Platt scaling and thresholds of its members' sum, on rows none of them has seen.

    Proves on those rows that what will be served gives the estimator's probabilities within 1e-9.
    """
    X, y = data.take(calibration)
    weight = data.frame["weight"].to_numpy(np.float64)[calibration]
    summed = (
        fit.members[0].pipeline
        if len(fit.members) == 1
        else ensemble.Blend([(member.name, member.weight, member.pipeline) for member in fit.members])
    )
    estimator = pipeline.calibrated(summed, X, y, weight)
    slope, intercept = pipeline.platt(estimator)
    probability = estimator.predict_proba(X)[:, 1]
    fit = replace(fit, estimator=estimator, slope=slope, intercept=intercept)
    some = slice(0, 20_000)
    apart = float(np.abs(_served(fit, X[some])[1] - probability[some]).max())
    if not apart <= 1e-9:
        raise BundleRefused(f"The members' probabilities differ from the estimator's by {apart:.1e}; not sealed.")
    amount = replay.amounts_in_base(data.frame.iloc[calibration], data.rates)
    thresholds = metrics.choose_thresholds(probability, y, amount, weight, options.costs)
    return replace(fit, thresholds=thresholds)


def _served(fit: Fit, columns: Floats) -> tuple[Floats, Floats]:
    """Margins and probabilities, (n,) each, of raw columns as the service will compute them."""
    vectors = fit.members[0].pipeline["fill"].transform(columns)
    total = np.zeros(len(vectors))
    for member in fit.members:
        total += member.weight * member.part.margins(vectors)
    return total, np.array([calibrate(margin, fit.slope, fit.intercept) for margin in total.tolist()])


def _blended(
    data: Data,
    train: split.Rows,
    validation: split.Rows,
    options: Options,
    fit: Fit,
    stage: split.Split | None = None,
) -> Fit:
    """The fit with what earns its place beside XGBoost, calibrated anew; as it was where nothing does.

    Weights are fitted on the validation rows; with a rehearsal on its test rows, by members that learned from its
    training rows, and carried over to the members that learn from ``train``.
    """
    others = _others(data, fit.features, train, validation, options)
    if stage is None:
        first, offered, judged = fit.members[0], others, validation
    else:
        first = _trees(data, fit.features, stage.train, stage.test, options, fit.balance, fit.params).members[0]
        offered, judged = _others(data, fit.features, stage.train, stage.test, options), stage.test
    held, labels = data.take(judged)
    weight = data.frame["weight"].to_numpy(np.float64)[judged]
    kept, trials = ensemble.fitted_beside(
        first, offered, held, labels, weight, seed=options.seed, blending=options.blend
    )
    weights = {member.name: member.weight for member in kept}
    members = tuple(replace(own, weight=weights[own.name]) for own in (fit.members[0], *others) if own.name in weights)
    fit = replace(fit, members=members, trials=tuple(trials))
    return fit if len(members) == 1 else _calibrated(data, validation, options, fit)


def _others(data: Data, features: FeatureSet, train: split.Rows, held: split.Rows, options: Options) -> list[Member]:
    """What may stand beside XGBoost, fitted on ``train`` and proved on ``held`` rows."""
    X, y = data.take(train)
    checked = data.columns[held[:20_000]]
    return [
        ensemble.seal_linear(ensemble.linear_pipeline(features).fit(X, y), checked),
        ensemble.seal_isolation(ensemble.isolation_pipeline(features, options.seed).fit(X, y), checked),
    ]


def _cross_validate(
    data: Data, features: FeatureSet, options: Options, params: Mapping[str, Any], rules: bytes
) -> dict[str, Any]:
    """Each row judged once, by a bundle that has not seen it: fit on four fifths of the others, calibrate on one."""
    scored: list[Scored] = []
    held = split.folds(data.labels, options.folds, options.seed)
    for judged in held:
        rest = np.setdiff1d(np.arange(len(data.labels)), judged)
        inner = split.folds(data.labels[rest], 5, options.seed)[0]
        fit = _fit(data, features, np.delete(rest, inner), rest[inner], options, "smote", params)
        if options.champion == "blend":
            fit = _blended(data, np.delete(rest, inner), rest[inner], options, fit)
        parts = split.Split(np.delete(rest, inner), rest[inner], judged, "fold")
        manifest = _manifest(fit, data, options, parts, [])
        with _sealed_for_now(manifest, _files(fit, data, parts, rules)) as served:
            scored.append(evaluate.score(served, data.frame.iloc[judged], data.columns[judged]))
    pooled = Scored(
        **{name: np.concatenate([getattr(s, name) for s in scored]) for name in Scored.__dataclass_fields__}
    )
    return {"folds": options.folds, **metrics.metrics(pooled, costs=options.costs, seed=options.seed)}


def _ablate(
    data: Data,
    features: FeatureSet,
    parts: split.Split,
    options: Options,
    params: Mapping[str, Any],
    champion: Fit,
) -> tuple[Fit, list[dict[str, Any]]]:
    """The same trees without SMOTE, with a class weight, and without balances; what each did on the test rows.

    With ``--champion auto`` the best on the *validation* rows is served; the test rows choose nothing.
    """
    without = tuple(name for name in features.picked if rule.describe(name).source not in {"balance", "posted"})
    variants: list[tuple[str, Fit]] = [(f"SMOTE {params.get('ratio', 0.1):g}", champion)]
    for name, balance in (("none", "none"), ("scale_pos_weight", "scale_pos_weight")):
        variants.append((name, _fit(data, features, parts.train, parts.validation, options, balance, params)))  # type: ignore[arg-type]
    if 0 < len(without) < len(features.picked):
        bare = replace(features, picked=without)
        variants.append(
            (
                f"SMOTE {params.get('ratio', 0.1):g}, without balances",
                _fit(data, bare, parts.train, parts.validation, options, "smote", params),
            )
        )
    best = champion
    if options.champion == "auto":
        best = max((fit for _, fit in variants), key=lambda fit: _ranking(data, parts.validation, fit, options))
    rows = []
    for name, fit in variants:
        figures = metrics.metrics(
            unsealed(data, parts.test, fit.estimator, fit.thresholds),
            costs=options.costs,
            seed=options.seed,
            bootstrap=100,
        )
        rows.append({"name": name, "metrics": _short(figures), "chosen": fit is best})
    return best, rows


def _ranking(data: Data, rows: split.Rows, fit: Fit, options: Options) -> float:
    value = metrics.metrics(unsealed(data, rows, fit.estimator, fit.thresholds), costs=options.costs, bootstrap=0)[
        "average_precision"
    ]
    return float(value or 0.0)


def _short(figures: Mapping[str, Any]) -> dict[str, Any]:
    names = ("average_precision", "roc_auc", "recall", "precision", "f1", "ece", "brier", "cost_saved")
    return {name: figures.get(name) for name in (*names, "intervals", "fraud_rate")}


def unsealed(data: Data, rows: split.Rows, estimator: Any, thresholds: tuple[float, float]) -> Scored:
    """A candidate judged by its estimator: for comparisons among candidates only, never for what a bundle claims."""
    probability = estimator.predict_proba(data.columns[rows])[:, 1]
    decided = evaluate.outcomes(probability, *thresholds)
    frame = data.frame.iloc[rows]
    customer = frame["customer_id"] if "customer_id" in frame else pd.Series([None] * len(rows))
    return Scored(
        is_fraud=data.labels[rows],
        probability=probability,
        model_outcome=decided,
        policy_outcome=decided,
        amount=replay.amounts_in_base(frame, data.rates),
        weight=frame["weight"].to_numpy(np.float64),
        time_ms=frame["time_ms"].to_numpy(np.int64),
        party=pd.factorize(customer)[0].astype(np.int64),
    )


def _measure(
    fit: Fit,
    served: Served,
    data: Data,
    parts: split.Split,
    test: Scored,
    options: Options,
    ablation: list[dict[str, Any]],
    cross: Mapping[str, Any] | None,
) -> dict[str, Any]:
    validation = evaluate.score(served, data.frame.iloc[parts.validation], data.columns[parts.validation])
    measured: dict[str, Any] = {
        "test": metrics.metrics(test, costs=options.costs, seed=options.seed),
        "validation": metrics.metrics(validation, costs=options.costs, bootstrap=0),
        "curves": metrics.curves(test, costs=options.costs),
        "validation_curves": metrics.curves(validation, costs=options.costs),
        "ablation": ablation,
        "members": [asdict(trial) for trial in fit.trials],
    }
    if cross is not None:
        measured["cross_validation"] = dict(cross)
    return measured


def _explain(model: FraudModel, columns: Floats, labels: Labels) -> tuple[list[dict[str, Any]], tuple[Floats, Floats]]:
    """Mean absolute contributions over a sample, and the sample itself (half of it frauds where there are as many)."""
    rng = np.random.default_rng(0)
    frauds, others = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    half = min(len(frauds), EXPLAINED_ROWS // 2)
    rows = np.concatenate(
        (
            rng.choice(frauds, half, replace=False),
            rng.choice(others, min(len(others), EXPLAINED_ROWS - half), replace=False),
        )
    )
    raw = columns[rows]
    vectors = model.vector(rule.fill(raw, model.population))
    shares = np.zeros((len(rows), len(model.features.picked)))
    for weight, part in model.members:
        shares += model.slope * weight * np.array([part.contributions(vector) for vector in vectors])
    mean = np.abs(shares).mean(axis=0)
    ranked = sorted(zip(model.features.picked, mean.tolist(), strict=True), key=lambda item: -item[1])
    return [{"feature": name, "mean_abs": value} for name, value in ranked], (shares, raw[:, model.features.index])


# --- sealing ---------------------------------------------------------------------------------------------------------


def _manifest(
    fit: Fit,
    data: Data,
    options: Options,
    parts: split.Split,
    search: list[dict[str, Any]],
    stage: split.Split | None = None,
) -> Manifest:
    if not fit.slope > 0:
        raise dataset.DataError(
            f"On the {len(parts.validation):,} rows kept for calibration the model ranks the "
            f"{int(data.labels[parts.validation].sum())} frauds no better than chance: it cannot be calibrated. "
            "It needs more frauds, or columns that tell them apart."
        )
    now = datetime.now(UTC) if options.now_ms is None else datetime.fromtimestamp(options.now_ms / 1000, UTC)
    packed = pack(*(member.part for member in fit.members))
    name = f"{now:%Y%m%dT%H%M%SZ}-{sha256(packed).hexdigest()[:8]}"
    zone = fit.features.time_zone
    time_ms = data.frame["time_ms"].to_numpy(np.int64)
    learned = np.concatenate((parts.train, parts.validation))
    return Manifest(
        version=name,
        created_at=now.isoformat(timespec="seconds"),
        champion="xgboost" if len(fit.members) == 1 else "blend",
        parent=options.parent,
        features=tuple(
            bundles.NamedFeature(name=name, version=rule.describe(name).version) for name in fit.features.picked
        ),
        attributes=tuple(
            bundles.DeclaredAttribute(name=a.name, kind=a.kind, levels=a.levels) for a in fit.features.attributes
        ),
        population={
            name: None if np.isnan(value) else float(value)
            for name, value in zip(fit.features.columns, fit.population, strict=True)
        },
        members=tuple(bundles.Member(name=own.name, kind=own.kind, weight=own.weight) for own in fit.members),
        calibration=bundles.Calibration(slope=fit.slope, intercept=fit.intercept),
        thresholds=bundles.ThresholdPair(review=fit.thresholds[0], decline=fit.thresholds[1]),
        time_zone=bundles.Zone(name=zone.name, starts_ms=zone.starts_ms, offsets_s=zone.offsets_s),
        currency=bundles.Currency(
            base=data.rates.base,
            minor_units=data.rates.minor_units,
            tables=tuple(bundles.Rates(from_ms=start, rates=rates) for start, rates in data.rates.tables),
        ),
        label_delay_ms=_delay(options, time_ms),
        training={
            "data_sha256": data.sha256,
            "format": options.format,
            "where": list(options.where),
            "legit_weight": options.legit_weight,
            "rows": {part: len(getattr(parts, part)) for part in ("train", "validation", "test")},
            "frauds": {part: int(data.labels[getattr(parts, part)].sum()) for part in ("train", "validation", "test")},
            "learned_until": rfc3339(int(arrived(data.frame)[learned].max())),
            "split": parts.kind,
            "rehearsal": None if stage is None else stage.kind,
            "seed": options.seed,
            "features": options.features,
            "history": options.history,
            "labels": options.labels,
            "balance": fit.balance,
            "params": dict(fit.params),
            "smote_rows": fit.synthetic_rows,
            "search": search,
            "blend": [str(trial) for trial in fit.trials],
            "costs": asdict(options.costs),
        },
        libraries={
            "python": platform.python_version(),
            **{name: _installed(name) for name in ("numpy", "xgboost", "scikit-learn", "imbalanced-learn", "pandas")},
            **({"optuna": _installed("optuna")} if options.tuner == "optuna" else {}),
        },
        files={},
    )


def _installed(name: str) -> str:
    for candidate in (f"{name}-cpu", name):
        with contextlib.suppress(Exception):
            return installed(candidate)
    return "unknown"


def _files(fit: Fit, data: Data, parts: split.Split, rules: bytes) -> dict[str, bytes]:
    """All the service needs, and ``model.ubj`` for audit. ``metrics.json`` is replaced once there are figures."""
    return {
        "forest.npz": pack(*(member.part for member in fit.members)),
        "model.ubj": bytes(fit.booster.save_raw("ubj")),
        "golden.json": _golden(fit, data.columns[parts.validation]),
        "reference.json": _reference(fit, data, parts),
        "rules.yaml": rules,
        "metrics.json": b"{}",
    }


def _golden(fit: Fit, columns: Floats) -> bytes:
    """Rows with what they scored here; half of them with some columns taken away. Refused where the training libraries
    say something else: XGBoost's margin to the bit, a probability within 1e-9.
    """
    rng = np.random.default_rng(11)
    rows = columns[np.linspace(0, len(columns) - 1, GOLDEN_ROWS).astype(np.intp)].copy()
    holes = rng.random(rows.shape) < 0.3
    holes[: len(rows) // 2] = False
    rows[holes] = np.nan
    margins, probability = _served(fit, rows)
    theirs = fit.members[0].pipeline.decision_function(rows)
    if (fit.members[0].part.margins(fit.members[0].pipeline["fill"].transform(rows)) != theirs).any():
        raise BundleRefused("The forest's margins differ from XGBoost's on the golden rows; not sealed.")
    if not np.abs(probability - fit.estimator.predict_proba(rows)[:, 1]).max() <= 1e-9:
        raise BundleRefused("The members' probabilities differ from the estimator's on the golden rows; not sealed.")
    return _json(
        {
            "names": list(fit.features.columns),
            "rows": [
                {
                    "columns": [None if np.isnan(value) else value for value in row],
                    "margin": margin,
                    "probability": chance,
                }
                for row, margin, chance in zip(rows.tolist(), margins.tolist(), probability.tolist(), strict=True)
            ],
        }
    )


def _reference(fit: Fit, data: Data, parts: split.Split) -> bytes:
    """What drift is measured against: the columns, and the score, of the rows that taught nothing. They are the latest,
    so that the parties' past in them is as long as it will be; in the first weeks of any log it is not.
    """
    rows = np.concatenate((parts.validation, parts.test))
    _, score = _served(fit, data.columns[rows])
    frame = data.frame.iloc[rows]
    time_ms, weight = frame["time_ms"].to_numpy(np.int64), frame["weight"].to_numpy(np.float64)
    return _json(drift.make_reference(data.columns[rows], score, time_ms, weight, fit.features))


@contextlib.contextmanager
def _sealed_for_now(manifest: Manifest, files: Mapping[str, bytes]) -> Iterator[Served]:
    """The bundle sealed with a throw-away key in a throw-away folder, opened as the service opens it."""
    key = SigningKey.generate("throw-away")
    with tempfile.TemporaryDirectory() as folder:
        sealed = bundles.seal(Path(folder), manifest, files, key)
        yield load(bundles.open_folder(sealed, bundles.parse_public_keys(key.public_line())))


def _json(data: Mapping[str, Any]) -> bytes:
    return json.dumps(data, allow_nan=False).encode()
