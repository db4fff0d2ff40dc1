"""A decision made once more from its record and its bundle, to the bit, and held against what was answered.

Of the record only what could not be known otherwise is believed: the transaction, the parties' past as features, what
was not at hand, whether reasons were asked for, what the setting for no model said. All else is made anew by the very
functions that the service calls: the transaction's own features, margins, probability, rules, outcome, reasons, words.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fraud_api_lambda import bundle as bundles
from fraud_api_lambda.decision_log import DecisionLog, Record
from fraud_api_lambda.errors import BundleMissing, FraudError, NotFound, RulesError
from fraud_api_lambda.features import Floats
from fraud_api_lambda.judge import Terms, columns_of, judge, score_row
from fraud_api_lambda.model import FraudModel
from fraud_api_lambda.reload import Served, load
from fraud_api_lambda.rules import RuleSet, default_rules, load_rules
from fraud_api_lambda.schemas import DECISION, Degraded, Pseudonyms, parse_rfc3339, unpack_event

from . import evaluate


@dataclass(frozen=True)
class Difference:
    """A place where the decision, made again, is another: ``recorded`` and ``again`` as JSON values."""

    field: str
    recorded: Any
    again: Any


def find(log: DecisionLog, transaction_id: str) -> Record:
    """The record of a transaction. Raises ``NotFound``."""
    found = log.find([transaction_id])
    if transaction_id not in found:
        raise NotFound("There is no record of this transaction.")
    return found[transaction_id].record


def bundle_of(record: Record, where: str, keys_dir: Path) -> Served | None:
    """The bundle that judged: the version of the record, beside the pointer at the URL ``where``, or in that folder.

    Where no model judged, the bundle that is current, whose rules may have; None: there is none. Raises a
    ``BundleError`` where it cannot be had.
    """
    version = record.model_version
    if version is None:
        try:
            return evaluate.open_for_evaluation(where, keys_dir)
        except FraudError:
            return None
    keys = evaluate.trusted_keys(keys_dir)
    if "://" in where:
        return load(bundles.open_version(where, version, keys))
    folder = Path(where)
    named = folder / version
    found = bundles.open_folder(named if named.is_dir() else evaluate.sealed_folder(folder, keys), keys)
    if found.manifest.version != version:
        raise BundleMissing(f"The decision was made by {version}, which is not in {where}.")
    return load(found)


def rules_of(
    record: Record, served: Served | None, file: Path | None = None, pseudonyms: Pseudonyms | None = None
) -> RuleSet:
    """The rules that judged: of ``file``, of the bundle, of the image, by their version. Raises ``RulesError``."""
    columns = served.model.features.columns if served else default_rules().columns
    known = [default_rules().for_columns(columns)]
    if served is not None:
        known.insert(0, served.rules)
    if file is not None:
        known.insert(0, load_rules(file.read_bytes(), columns))
    for rules in known:
        if rules.version == record.rules_version:
            return rules if pseudonyms is None else rules.under(pseudonyms)
    raise RulesError(
        f"The decision was made under the rules {record.rules_version}, which neither the bundle nor the image holds. "
        "Name their file with --rules."
    )


def reproduce(record: Record, served: Served | None, rules: RuleSet) -> list[Difference]:
    """Judge the recorded transaction again; where it comes out otherwise. Nothing: equal to the bit."""
    document = json.loads(record.document)
    answer = json.loads(record.answer)
    event = unpack_event(document["event"])
    model = served.model if served is not None and record.model_version is not None else None
    columns = _columns(document["features"], rules.columns)
    scored = None if model is None else score_row(model, columns)
    stored: list[str] = answer["degraded"]
    # With a model, "model" says that it was the image's own (docs/adr/0023); without one, judge says it.
    missing: tuple[Degraded, ...] = ("model",) if model is not None and "model" in stored else ()
    if "feature_store" in stored:
        missing += ("feature_store",)
    terms = Terms(
        without_model=answer["outcome"] if answer["decided_by"] == "fallback" else "review",
        explain=bool(answer["reasons"]),
        missing=missing,
        scored_ms=parse_rfc3339(answer["scored_at"]) or 0,
    )
    decision = judge(model, rules.standing_in() if "rules" in stored else rules, event, columns, scored, terms)
    # What befell the answer after it was judged.
    later = tuple(word for word in ("explanation", "decision_log") if word in stored)
    decision = replace(decision, degraded=(*decision.degraded, *later))
    if model is not None:
        again = _again(model, document, columns)
        members = [member.name for member in served.bundle.manifest.members] if served else []
        margins = dict(zip(members, scored.margins if scored else [], strict=True))
        differences = [*again, *_differences("members", document["members"], margins)]
    else:
        differences = []
    body = DECISION.dump_json(decision)
    if body != record.answer:
        found = _differences("", answer, json.loads(body))
        differences += found or [Difference("answer", record.answer.decode(), body.decode())]
    for name in ("outcome", "decided_by", "rules", "model_version", "rules_version", "test", "degraded"):
        own = getattr(record, name)
        differences += _differences(f"record.{name}", list(own) if isinstance(own, tuple) else own, answer[name])
    differences += _differences("record.probability", record.probability, answer["fraud_probability"])
    return differences


def _columns(recorded: Mapping[str, float], names: tuple[str, ...]) -> Floats:
    return np.array([recorded.get(name, math.nan) for name in names])


def _again(model: FraudModel, document: Mapping[str, Any], columns: Floats) -> list[Difference]:
    """The transaction's own features, computed anew from it, against the recorded ones.

    What the record does not hold and the model does not read is a feature that the code has learnt since.
    """
    recorded = document["features"]
    anew = columns_of(model.features, unpack_event(document["event"]), recorded)
    return [
        Difference(f"features.{name}", _told(then), _told(now))
        for name, then, now in zip(model.features.columns, columns.tolist(), anew.tolist(), strict=True)
        if _told(then) != _told(now) and (name in recorded or name in model.features.picked)
    ]


def _told(value: float) -> float | None:
    return None if math.isnan(value) else value


def _differences(path: str, recorded: Any, again: Any) -> list[Difference]:
    if isinstance(recorded, dict) and isinstance(again, dict):
        names = dict.fromkeys([*recorded, *again])
        inner = [(f"{path}.{name}" if path else name, recorded.get(name), again.get(name)) for name in names]
    elif isinstance(recorded, list) and isinstance(again, list) and len(recorded) == len(again):
        pairs = enumerate(zip(recorded, again, strict=True))
        inner = [(f"{path}[{place}]", then, now) for place, (then, now) in pairs]
    else:
        same = type(recorded) is type(again) and recorded == again
        return [] if same else [Difference(path, recorded, again)]
    return [found for each in inner for found in _differences(*each)]
