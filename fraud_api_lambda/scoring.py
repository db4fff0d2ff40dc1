"""The hub: a validated transaction in, a decision out, one step a line."""

import logging
import math
import time
from collections.abc import Callable, Sequence

import numpy as np

from .decision_log import DecisionLog, Label, Stored, open_decision_log
from .errors import InvalidRequest, NotFound, RuleFailed
from .feature_store import FeatureStore, open_feature_store
from .features import FeatureSet, Floats, describe, fill, type_name
from .history import History
from .metrics import Metrics
from .model import FraudModel, Singles
from .outbox import Outbox
from .reload import ModelSource, Served
from .rules import Listed, Rule, RuleSet, Verdict, decide
from .schemas import Decision, Degraded, Event, Pseudonyms, RateTable, Reason, Transaction, now_ms, rfc3339, to_event
from .settings import Outcome

log = logging.getLogger("fraud.scoring")

#: How many reasons an answer tells; the rest of the log-odds is in the many that matter less.
MAX_REASONS = 8

_WITHOUT_BUNDLE = FeatureSet()
_WITHOUT_BUNDLE_RATES = RateTable("USD", 2)
_OUTCOME_WORDS: dict[Outcome, str] = {"approve": "Approved", "review": "Sent to review", "decline": "Declined"}


class FraudScorer:
    """Scores transactions with whatever ``source`` serves at that moment.

    ``store`` remembers the parties' past; without one it is remembered until the process ends. ``without_model`` is the
    outcome where neither a model nor a rule has a say; ``budget_ms`` bounds the attempts to update profiles; ``clock``
    gives ms of UTC.
    """

    def __init__(
        self,
        source: ModelSource,
        store: FeatureStore | None = None,
        decisions: DecisionLog | None = None,
        outbox: Outbox | None = None,
        *,
        pseudonyms: Pseudonyms | None = None,
        metrics: Metrics | None = None,
        without_model: Outcome = "review",
        budget_ms: int = 250,
        clock: Callable[[], int] = now_ms,
    ):
        self.source = source
        self.store = open_feature_store("memory://") if store is None else store
        self.decisions = open_decision_log("none://") if decisions is None else decisions
        self.outbox = outbox
        self.pseudonyms = pseudonyms
        self.metrics = Metrics() if metrics is None else metrics
        self.without_model = without_model
        self.budget_s = budget_ms / 1000
        self.clock = clock

    def score(self, transaction: Transaction, explain: bool | None = None) -> Decision:
        """Judge one transaction. ``explain`` None gives reasons unless the outcome is approve.

        Raises ``InvalidRequest`` for a time, currency or attribute that the served bundle cannot take.
        """
        began = time.perf_counter()
        decision = self._score(transaction, explain)
        self.metrics.decided(decision, round(1e6 * (time.perf_counter() - began)))
        return decision

    def _score(self, transaction: Transaction, explain: bool | None) -> Decision:
        served, rules = self.source.current()
        event = self._event(transaction, served)
        history = self._history([event])
        past = history.before(event)
        columns = self._features(served).compute(event, past)
        history.apply(event, past)
        history.save()
        if served is None:
            return self._decide(None, rules, event, columns, None, None, explain, history)
        filled = fill(columns, served.model.population)
        vector = served.model.vector(filled)
        probability = served.model.probability(vector)
        return self._decide(served, rules, event, filled, vector, probability, explain, history, columns)

    def score_many(
        self, transactions: Sequence[Transaction | InvalidRequest], explain: bool | None = None
    ) -> list[Decision | InvalidRequest]:
        """Judge many in their order, each with those before it in its past; a problem stands in its place.

        Each answer equals, to the bit, what :meth:`score` would say one by one.
        """
        served, rules = self.source.current()
        features = self._features(served)
        answers: list[Decision | InvalidRequest | None] = [
            item if isinstance(item, InvalidRequest) else None for item in transactions
        ]
        events: list[tuple[int, Event]] = []
        for index, transaction in enumerate(transactions):
            if not isinstance(transaction, InvalidRequest):
                try:
                    event = self._event(transaction, served)
                    features.check(event)
                    events.append((index, event))
                except InvalidRequest as problem:
                    answers[index] = problem
        if events:
            history = self._history([event for _, event in events])
            rows = []
            for _, event in events:
                past = history.before(event)
                rows.append(features.compute(event, past))
                history.apply(event, past)
            history.save()
            columns = np.stack(rows)
            if served is None:
                for (index, event), row in zip(events, columns, strict=True):
                    answers[index] = self._decide(None, rules, event, row, None, None, explain, history)
            else:
                filled = fill(columns, served.model.population)
                vectors = served.model.vector(filled)
                scores = served.model.probabilities(vectors).tolist()
                for at, (index, event) in enumerate(events):
                    answers[index] = self._decide(
                        served, rules, event, filled[at], vectors[at], scores[at], explain, history, columns[at]
                    )
        return [answer for answer in answers if answer is not None]

    def feedback(self, label: Label) -> tuple[Stored, Label]:
        """Record somebody's word on a transaction. Raises ``NotFound``."""
        found = self.decisions.label(label)
        if found is None:
            raise NotFound("There is no such transaction.")
        return found

    def _event(self, transaction: Transaction, served: Served | None) -> Event:
        rates = served.model.rates if served else _WITHOUT_BUNDLE_RATES
        return to_event(transaction, rates, self.clock())

    def _features(self, served: Served | None) -> FeatureSet:
        return served.model.features if served else _WITHOUT_BUNDLE

    def _history(self, events: Sequence[Event]) -> History:
        return History(self.store, events, received=self.clock(), deadline=time.monotonic() + self.budget_s)

    def _decide(
        self,
        served: Served | None,
        rules: RuleSet,
        event: Event,
        filled: Floats,
        vector: Singles | None,
        probability: float | None,
        explain: bool | None,
        history: History,
        columns: Floats | None = None,
    ) -> Decision:
        """Lists, rules, policy, reasons, answer. ``columns`` are the raw features, ``filled`` the same without gaps."""
        degraded: list[Degraded] = [] if served else ["model"]
        if not history.available:
            degraded.append("feature_store")
        failed = rules.stand_in
        thresholds = served.model.thresholds if served else None
        try:
            fired = rules.fired(event, filled)
        except RuleFailed as error:  # one rule's fault does not silence the others
            log.error("a rule cannot be evaluated", extra={"rule": error.rule})
            fired, failed = error.fired, True
        if failed:
            degraded.append("rules")
        listed = rules.listed(event)
        verdict = decide(probability, fired, thresholds, self.without_model, listed)
        reasons: tuple[Reason, ...] = ()
        wanted = verdict.outcome != "approve" if explain is None else explain
        if wanted and served is not None and vector is not None and columns is not None:
            try:
                reasons = explain_score(served.model, event, columns, vector)
            except Exception:  # an answer without reasons is worth more than no answer
                log.exception("reasons failed")
                degraded.append("explanation")
        rates = served.model.rates if served else _WITHOUT_BUNDLE_RATES
        is_fraud = verdict.outcome != "approve"
        confidence = None
        if verdict.decided_by == "model" and probability is not None:
            confidence = probability if is_fraud else 1.0 - probability
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
            rules=(*((listed.code,) if listed else ()), *(rule.id for rule in fired)),
            reasons=reasons,
            explanation=_explanation(verdict, listed, fired, probability, served),
            amount=event.amount,
            currency=event.currency,
            amount_base=event.amount_minor / rates.minor_factor,
            base_currency=rates.base,
            model_version=served.version if served else None,
            rules_version=rules.version,
            scored_at=rfc3339(self.clock()),
            test=False,
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
    verdict: Verdict, listed: Listed | None, fired: Sequence[Rule], probability: float | None, served: Served | None
) -> str:
    done = _OUTCOME_WORDS[verdict.outcome]
    if listed is not None:
        because = f": {listed.reason}" if listed.reason else "."
        return f"{done}: the {listed.entity} is on the {listed.list} list{because}"
    if verdict.decided_by == "rule":
        speaking = next(rule for rule in fired if rule.outcome == verdict.outcome)
        return f"{done} by rule {speaking.id}: {speaking.reason}"
    if probability is None or served is None:
        return f"{done}: no model is loaded and no rule fired."
    thresholds = served.model.thresholds
    if verdict.outcome == "approve":
        place = f"below the review threshold of {thresholds.review:.2%}"
    elif verdict.outcome == "decline":
        place = f"at or above the decline threshold of {thresholds.decline:.2%}"
    else:
        place = f"at or above the review threshold of {thresholds.review:.2%}"
    return f"{done}: the fraud probability of {probability:.2%} is {place}."
