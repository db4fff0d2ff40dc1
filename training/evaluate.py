"""A frame scored through a sealed bundle, as the service opens it: the only way a figure of ours comes about."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from fraud_api_lambda import bundle as bundles
from fraud_api_lambda import features as rule
from fraud_api_lambda.errors import BundleMissing, SettingsError
from fraud_api_lambda.features import Floats, fill
from fraud_api_lambda.judge import rule_on
from fraud_api_lambda.model import Forest, FraudModel, Singles
from fraud_api_lambda.reload import Served, load
from fraud_api_lambda.rules import GRAVITY

from . import metrics, replay

#: From so many rows on, margins are XGBoost's own (equal to the forest's to the bit, checked on a sample each time).
LARGE = 20_000
_SPOT_CHECK = 1_000


def open_for_evaluation(path: str, keys_dir: Path) -> Served:
    """Open ``path`` as the service does: a bundle's folder, a folder with a ``current`` pointer, or a pointer's URL.

    Trusted are the public keys in ``keys_dir``. Raises a ``BundleError``.
    """
    public_keys = trusted_keys(keys_dir)
    if "://" in path:
        return load(bundles.open_bundle(path, public_keys))
    return load(bundles.open_folder(sealed_folder(Path(path), public_keys), public_keys))


def sealed_folder(path: Path, public_keys: Mapping[str, bytes]) -> Path:
    """The bundle's own folder: from that folder, from a folder with a ``current`` pointer or with one bundle and no
    pointer, or from the pointer.
    """
    pointer = path / "current" if path.is_dir() else path
    if pointer.is_file():
        return pointer.parent / bundles.read_pointer(f"file://{pointer.absolute()}", public_keys).version
    if (path / bundles.MANIFEST).is_file():
        return path
    sealed = [manifest.parent for manifest in path.glob(f"*/{bundles.MANIFEST}")] if path.is_dir() else []
    if len(sealed) == 1:
        return sealed[0]
    if sealed:
        raise BundleMissing(f"{path} holds {len(sealed)} bundles and no 'current' pointer; name one of them.")
    raise BundleMissing(f"{path} is neither a bundle (with {bundles.MANIFEST}) nor a folder with a 'current' pointer.")


def trusted_keys(keys_dir: Path) -> dict[str, bytes]:
    """The public halves (``*.pub``) in a folder of keys, by id."""
    keys: dict[str, bytes] = {}
    for path in sorted(keys_dir.glob("*.pub")):
        keys.update(bundles.parse_public_keys(path.read_text()))
    if not keys:
        raise SettingsError(f"No public key in {keys_dir}. Make a key pair with: python -m training keys")
    return keys


def probabilities(model: FraudModel, vectors: Singles, booster_file: bytes | None = None) -> Floats:
    """Calibrated probabilities of (n, picked) rows.

    Many rows go through XGBoost where the bundle's ``model.ubj`` is at hand: faster, and equal to the forest's to the
    bit, which is checked on a sample.
    """
    if booster_file is None or len(vectors) < LARGE:
        return model.probabilities(vectors)
    import xgboost as xgb

    from .forest import check_parity
    from .pipeline import margins

    booster = xgb.Booster({"nthread": 1})
    booster.load_model(bytearray(booster_file))
    sample = vectors[np.linspace(0, len(vectors) - 1, _SPOT_CHECK).astype(np.intp)]
    each: list[Floats] = []
    for _, part in model.members:
        if isinstance(part, Forest) and part.value.dtype == np.float32:  # XGBoost's, and there is but one of it
            check_parity(part, booster, sample)
            each.append(margins(booster, vectors))
        else:
            each.append(part.margins(vectors))
    return model.calibrated(each)


def replayed(served: Served, frame: pd.DataFrame) -> Floats:
    """The rows' raw columns as the bundle defines them, (n, len(columns)), their history replayed from the frame."""
    features = served.model.features
    history = any(rule.describe(name).source in {"history", "label"} for name in features.picked)
    return replay.columns(frame, features, served.model.rates, history=history)


def score(served: Served, frame: pd.DataFrame, columns: Floats | None = None) -> metrics.Scored:
    """Every row of a canonical frame through the bundle: probability, the model's outcome, the whole policy's.

    ``columns`` (n, len(columns)) are the rows' raw columns where their history lies outside the frame; without, it is
    replayed from the frame itself.
    """
    model = served.model
    filled = fill(replayed(served, frame) if columns is None else columns, model.population)
    booster = served.bundle.read("model.ubj") if len(frame) >= LARGE else None
    probability = probabilities(model, model.vector(filled), booster)
    by_model = outcomes(probability, model.thresholds.review, model.thresholds.decline)
    policy = _policy(served, frame, filled, probability, by_model)
    party = frame["customer_id"] if "customer_id" in frame else pd.Series([None] * len(frame))
    return metrics.Scored(
        is_fraud=frame["is_fraud"].to_numpy(np.int8),
        probability=probability,
        model_outcome=by_model,
        policy_outcome=policy,
        amount=replay.amounts_in_base(frame, model.rates),
        weight=frame["weight"].to_numpy(np.float64),
        time_ms=frame["time_ms"].to_numpy(np.int64),
        party=pd.factorize(party)[0].astype(np.int64),
    )


def outcomes(probability: Floats, review: float, decline: float) -> npt.NDArray[np.int8]:
    """0 approve, 1 review, 2 decline, (n,): the model alone."""
    return (probability >= review).astype(np.int8) + (probability >= decline).astype(np.int8)


def _policy(
    served: Served, frame: pd.DataFrame, filled: Floats, probability: Floats, by_model: npt.NDArray[np.int8]
) -> npt.NDArray[np.int8]:
    policy = by_model.copy()
    if served.rules.silent:
        return policy
    thresholds = served.model.thresholds
    for at, (event, row) in enumerate(zip(replay.events(frame, served.model.rates), filled, strict=True)):
        ruling = rule_on(served.rules, event, row, float(probability[at]), thresholds, "review")
        policy[at] = GRAVITY[ruling.verdict.outcome]
    return policy
