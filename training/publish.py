"""What leaves the workshop: the gate a bundle must pass, and the pointer's moves."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fraud_api_lambda import bundle as bundles
from fraud_api_lambda.bundle import Pointer, SigningKey
from fraud_api_lambda.errors import BundleError, BundleMissing, FraudError
from fraud_api_lambda.reload import load


class GateError(FraudError):
    """The bundle does not pass the gate; the message says which check and what was measured."""


def publish(
    bundle_dir: Path, target_url: str, key: SigningKey, public_keys: Mapping[str, bytes], *, force: bool = False
) -> Pointer:
    """Check the gate, copy the bundle beside the pointer ``target_url``, read it back, move the pointer.

    ``force`` skips the comparison with what is served there now, and replaces what cannot be opened; never does it
    skip the checks of signature, digests and golden rows. Raises ``GateError``, ``BundleError`` or ``PublishConflict``.
    """
    trusted = {**public_keys, **bundles.parse_public_keys(key.public_line())}
    served = load(bundles.open_folder(bundle_dir, trusted))
    served.bundle.verify()
    if not force:
        current = _served_metrics(target_url, trusted)
        gate(_test_metrics(served.bundle.read("metrics.json")), current)
    return bundles.publish(bundle_dir, target_url, key, trusted, replace=force)


def gate(candidate: Mapping[str, Any], current: Mapping[str, Any] | None) -> None:
    """Raise ``GateError`` unless the candidate ranks better than chance and not clearly worse than what is served.

    The comparison with the served bundle is made only where both were measured on rows of the same fraud rate (within
    a tenth), since average precision depends on it: worse means below the served one's lower confidence bound.
    """
    precision, rate = candidate.get("average_precision"), (candidate.get("fraud_rate") or {}).get("weighted")
    if precision is None or rate is None:
        raise GateError("The bundle carries no average precision of its test rows; evaluate it before publishing.")
    if precision < 2 * rate:
        raise GateError(
            f"Average precision {precision:.3f} is below twice the fraud rate {rate:.4f} of its test rows: "
            "this model hardly ranks better than chance. Publish with --force if that is meant."
        )
    if current is None:
        return
    served, served_rate = current.get("average_precision"), (current.get("fraud_rate") or {}).get("weighted")
    if served is None or not served_rate or not 0.9 < rate / served_rate < 1.1:
        return
    low = ((current.get("intervals") or {}).get("average_precision") or {}).get("low", served)
    if precision < low:
        raise GateError(
            f"Average precision {precision:.3f} is below {low:.3f}, the lower bound of what is served now "
            f"({served:.3f}). Publish with --force if that is meant."
        )


def rollback(target_url: str, key: SigningKey, public_keys: Mapping[str, bytes], to: str | None = None) -> Pointer:
    """Point back at version ``to``, or at the version before the current one. The serial grows all the same."""
    trusted = {**public_keys, **bundles.parse_public_keys(key.public_line())}
    version = to or bundles.read_pointer(target_url, trusted).previous
    if version is None:
        raise BundleMissing("There is no version before the current one; name one with --to.")
    return bundles.point_at(target_url, key, trusted, version)


def promote(
    challenger_url: str,
    champion_url: str,
    key: SigningKey,
    public_keys: Mapping[str, bytes],
    *,
    share: int = 100,
    force: bool = False,
) -> Pointer:
    """Let the challenger answer ``share`` of a hundred customers, or, at 100, make it the champion.

    Both pointers lie in one folder. 0 ends a canary and asks for no gate; any other share does, as :func:`publish`.
    Gives the pointer that moved. Raises ``GateError``, ``BundleError`` or ``PublishConflict``.
    """
    trusted = {**public_keys, **bundles.parse_public_keys(key.public_line())}
    if not 0 <= share <= 100:
        raise GateError("A share is a whole number from 0 to 100: of a hundred customers, how many.")
    if bundles.split_url(challenger_url)[0] != bundles.split_url(champion_url)[0]:
        raise GateError("The pointers of champion and challenger must lie in one folder, such as models/.")
    challenger = load(bundles.open_bundle(challenger_url, trusted))
    if share and not force:
        gate(_test_metrics(challenger.bundle.read("metrics.json")), _served_metrics(champion_url, trusted))
    if share < 100:
        return bundles.point_at(challenger_url, key, trusted, challenger.version, share=share)
    return bundles.point_at(champion_url, key, trusted, challenger.version)


def _test_metrics(data: bytes) -> Mapping[str, Any]:
    """The figures of the test rows; empty where the file holds none."""
    try:
        test = json.loads(data)["test"]
    except (ValueError, KeyError, TypeError):
        return {}
    return test if isinstance(test, dict) else {}


def _served_metrics(url: str, keys: Mapping[str, bytes]) -> Mapping[str, Any] | None:
    """The test figures of what the pointer names; None where nothing is there yet or it cannot be opened."""
    try:
        return _test_metrics(bundles.open_bundle(url, keys).read("metrics.json"))
    except BundleMissing:
        return None
    except BundleError as error:
        raise GateError(f"What is served now cannot be opened ({error}). Publish with --force to replace it.") from None
