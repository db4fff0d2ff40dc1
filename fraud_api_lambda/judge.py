"""From features to a decision: probability, rules, policy, reasons. Pure, so that a record is judged again alike.

The service calls this live; ``python -m training reproduce`` and the batch scorer call the very same functions.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .errors import RuleFailed
from .features import WIDTH, FeatureSet, Floats, describe, fill, type_name
from .model import FraudModel, Singles
from .rules import Listed, Rule, RuleSet, Verdict, decide
from .schemas import Decision, Degraded, Event, RateTable, Reason, Thresholds, rfc3339
from .settings import Outcome

log = logging.getLogger("fraud.judge")

#: How many reasons an answer tells; the rest of the log-odds is in the many that matter less.
MAX_REASONS = 8
#: What amounts are in as long as there is no bundle.
WITHOUT_BUNDLE_RATES = RateTable("USD", 2)

#: Sources of features that profiles are needed for.
_PAST = frozenset({"history", "label"})
_OUTCOME_WORDS: dict[Outcome, str] = {"approve": "Approved", "review": "Sent to review", "decline": "Declined"}


class Scored(NamedTuple):
    """One row as the model saw it: ``filled`` columns, ``vector`` of those picked, each member's margin."""

    filled: Floats
    vector: Singles
    margins: list[float]
    probability: float


@dataclass(frozen=True, slots=True)
class Terms:
    """What a decision is made under, beside bundle and rules. ``missing``: what was not at hand before judging; with a
    model, ``model`` among it says that it was a stand-in.
    """

    without_model: Outcome = "review"
    explain: bool | None = None
    missing: tuple[Degraded, ...] = ()
    scored_ms: int = 0


def columns_of(features: FeatureSet, event: Event, recorded: Mapping[str, float]) -> Floats:
    """The raw features (columns,) that ``features`` names, of an event that was ``recorded`` with others.

    History is taken from the record, since the profiles have moved on; all else is computed from the event, since
    another bundle may have another time zone or other attributes. Gaps are left out of ``recorded``. Raises
    ``InvalidRequest`` where the event's attributes do not fit.
    """
    columns = features.compute(event)
    for position, name in enumerate(features.columns[:WIDTH]):
        if describe(name).source in _PAST:
            columns[position] = recorded.get(name, math.nan)
    return columns


def score_row(model: FraudModel, columns: Floats) -> Scored:
    """Score the raw features (columns,) of one event."""
    filled = fill(columns, model.population)
    vector = model.vector(filled)
    return Scored(filled, vector, *model.score(vector))


def score_rows(model: FraudModel, columns: Floats) -> list[Scored]:
    """The same of (n, columns) at once; each equals :func:`score_row` to the bit."""
    filled = fill(columns, model.population)
    vectors = model.vector(filled)
    margins = [part.margins(vectors) for _, part in model.members]
    probabilities = model.calibrated(margins).tolist()
    own = zip(*(column.tolist() for column in margins), strict=True)
    rows = zip(filled, vectors, own, probabilities, strict=True)
    return [Scored(row, vector, list(each), probability) for row, vector, each, probability in rows]


class Ruling(NamedTuple):
    """What lists, rules and policy say. ``failed`` is a rule that could not be evaluated; the others were."""

    verdict: Verdict
    fired: tuple[Rule, ...]
    listed: Listed | None
    failed: str | None


def rule_on(
    rules: RuleSet,
    event: Event,
    filled: Floats,
    probability: float | None,
    thresholds: Thresholds | None,
    without_model: Outcome,
) -> Ruling:
    """Lists, rules and policy on one event and its filled columns: the one place where they are put together."""
    failed = None
    try:
        fired = rules.fired(event, filled)
    except RuleFailed as error:  # one rule's fault does not silence the others
        fired, failed = error.fired, error.rule
    listed = rules.listed(event)
    return Ruling(decide(probability, fired, thresholds, without_model, listed), fired, listed, failed)


def judge(
    model: FraudModel | None, rules: RuleSet, event: Event, columns: Floats, scored: Scored | None, terms: Terms
) -> Decision:
    """Lists, rules, policy, reasons, answer. ``columns`` are the raw features; without a model ``scored`` is None.

    Reasons are given as ``terms.explain`` says; None: unless the outcome is approve.
    """
    degraded: list[Degraded] = [] if model else ["model"]
    degraded += terms.missing
    thresholds = model.thresholds if model else None
    rates = model.rates if model else WITHOUT_BUNDLE_RATES
    probability = scored.probability if scored else None
    verdict, fired, listed, failed = rule_on(
        rules, event, scored.filled if scored else columns, probability, thresholds, terms.without_model
    )
    if failed is not None:
        log.error("a rule cannot be evaluated", extra={"rule": failed})
    if failed is not None or rules.stand_in:
        degraded.append("rules")
    forced = event.test_input
    if forced is not None and forced != "degraded":
        verdict = Verdict(forced, "rule")
    reasons: tuple[Reason, ...] = ()
    wanted = verdict.outcome != "approve" if terms.explain is None else terms.explain
    if wanted and model is not None and scored is not None:
        try:
            reasons = explain_score(model, event, columns, scored.vector)
        except Exception:  # an answer without reasons is worth more than no answer
            log.exception("reasons failed")
            degraded.append("explanation")
    is_fraud = verdict.outcome != "approve"
    confidence = None
    if verdict.decided_by == "model" and probability is not None:
        confidence = probability if is_fraud else 1.0 - probability
    told = (*((f"test:{forced}",) if forced else ()), *((listed.code,) if listed else ()), *(rule.id for rule in fired))
    return Decision(
        transaction_id=event.transaction_id,
        fraud_probability=probability,
        is_fraud=is_fraud,
        prediction="FRAUD" if is_fraud else "LEGIT",
        confidence=confidence,
        outcome=verdict.outcome,
        decided_by=verdict.decided_by,
        threshold=thresholds.review if thresholds else None,
        thresholds=thresholds,
        rules=told,
        reasons=reasons,
        explanation=_explanation(verdict, listed, fired, probability, model, forced=forced not in {None, "degraded"}),
        amount=event.amount,
        currency=event.currency,
        amount_base=event.amount_minor / rates.minor_factor,
        base_currency=rates.base,
        model_version=model.version if model else None,
        rules_version=rules.version,
        scored_at=rfc3339(terms.scored_ms),
        test=forced is not None,
        degraded=tuple(degraded),
    )


def explain_score(model: FraudModel, event: Event, columns: Floats, vector: Singles) -> tuple[Reason, ...]:
    """The strongest reasons, exact: contributions in log-odds of the calibrated probability.

    ``columns`` are the raw features, so that a value that was not sent is told as missing, not as its substitute.
    """
    reasons = []
    for group, contribution in model.contributions(vector)[:MAX_REASONS]:
        if contribution == 0.0:
            break
        reasons.append(_reason(group, contribution, event, columns, model))
    return tuple(reasons)


def _reason(group: str, contribution: float, event: Event, columns: Floats, model: FraudModel) -> Reason:
    direction = "raises" if contribution > 0 else "lowers"
    value: float | str | None
    if group == "type":
        value, subject = type_name(event.type_code), "The type"
        shown = value
    elif group.startswith("attributes."):
        name = group.removeprefix("attributes.")
        value, subject = event.attributes.get(name), f"The attribute {name}"
        shown = None if value is None else str(value)
    else:
        feature = describe(group)
        number = float(columns[model.features.columns.index(group)])
        value = None if math.isnan(number) else number
        subject = feature.otherwise if feature.kind == "flag" and number == 0.0 else feature.subject
        money = feature.unit == "base currency"
        shown = None if value is None else f"{number:,.2f} {model.rates.base}" if money else f"{number:,.4g}"
        if feature.kind == "flag" and value is not None:
            return Reason(group.upper(), group, value, contribution, f"{subject} {direction} the risk.")
    if shown is not None:
        stated = f" ({shown})"
    else:
        gap = "is not known yet" if describe(group).source in {"history", "label"} else "was not sent"
        stated = f" {gap}; the usual value"
    return Reason(group.upper(), group, value, contribution, f"{subject}{stated} {direction} the risk.")


def _explanation(
    verdict: Verdict,
    listed: Listed | None,
    fired: Sequence[Rule],
    probability: float | None,
    model: FraudModel | None,
    *,
    forced: bool,
) -> str:
    done = _OUTCOME_WORDS[verdict.outcome]
    if forced and verdict.decided_by == "rule":
        return f"{done}: a test input whose id says so."
    if listed is not None:
        because = f": {listed.reason}" if listed.reason else "."
        return f"{done}: the {listed.entity} is on the {listed.list} list{because}"
    if verdict.decided_by == "rule":
        speaking = next(rule for rule in fired if rule.outcome == verdict.outcome)
        return f"{done} by rule {speaking.id}: {speaking.reason}"
    if probability is None or model is None:
        return f"{done}: no model is loaded and no rule fired."
    thresholds = model.thresholds
    if verdict.outcome == "approve":
        place = f"below the review threshold of {thresholds.review:.2%}"
    elif verdict.outcome == "decline":
        place = f"at or above the decline threshold of {thresholds.decline:.2%}"
    else:
        place = f"at or above the review threshold of {thresholds.review:.2%}"
    return f"{done}: the fraud probability of {probability:.2%} is {place}."
