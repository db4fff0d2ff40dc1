"""What a changed policy would have decided: decisions as they were made x other rules, thresholds or model -> a report.

Pure: whoever calls brings the decisions, from the log or from a labelled file, one by one; nothing is kept of them but
counts and a few examples. What decides is the service's own ``judge.rule_on``, so that the outcome here is the outcome
that the service would give, and a test holds the two together.

**What is changed, and what stays as it was.** Without ``rescore`` a decision keeps the probability that was recorded,
of whichever model it is, and the thresholds it was made under unless others are given: the difference is then that of
the policy alone. A decision that was made without a model stays without one. With ``rescore`` the model scores anew:
what a transaction says of itself is computed from it as that model defines it (time zone, attributes), the parties'
past is as it was recorded, since nobody can know it better than it was known then.
"""

import heapq
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, NamedTuple, get_args

import numpy as np
from pydantic import Field, TypeAdapter

from .decision_log import LabelFilter, Stored
from .errors import InvalidRequest
from .features import DAY_MS, Floats, fill
from .judge import Ruling, columns_of, rule_on, score_row
from .model import FraudModel
from .rules import Rule, RuleSet, decide
from .schemas import DecidedBy, Event, Thresholds, rfc3339, unpack_event
from .settings import Outcome

#: Flipped decisions that a report shows: those with the most money.
EXAMPLES: Final = 20
#: Quantile of the normal distribution for two-sided 95 %.
_Z: Final = 1.959963984540054

#: Why a decision is not judged again: a test input; amounts in another base currency than the model's; an attribute
#: that the model cannot take.
LeftOut = Literal["test", "currency", "attributes"]
_OUTCOMES: Final[tuple[Outcome, ...]] = get_args(Outcome)


@dataclass(frozen=True, slots=True)
class Policy:
    """What is to decide instead.

    ``rules`` are compiled for the columns of ``model`` and know parties as the decisions do. ``model`` fills what is
    missing, and with ``rescore`` it scores. ``thresholds`` None: those that each decision was made under, with
    ``rescore`` the model's own. ``without_model`` is for decisions without a probability that no rule catches.
    """

    rules: RuleSet
    model: FraudModel
    thresholds: Thresholds | None = None
    rescore: bool = False
    without_model: Outcome = "review"


@dataclass(frozen=True, slots=True)
class Costs:
    """What an outcome costs, per transaction, in the base currency; the sum is that of ``training.metrics.Costs``.

    An approved fraud loses ``fraud_loss_share`` of its amount and ``fraud_fee``. A review costs ``review_cost``; of the
    frauds reviewed the share ``review_catch`` is caught. A declined legitimate transaction costs
    ``false_decline_cost``. People can review ``reviews_per_day``; None: the share ``capacity`` of all transactions.
    """

    fraud_loss_share: float = 1.0
    fraud_fee: float = 0.0
    review_cost: float = 5.0
    review_catch: float = 1.0
    false_decline_cost: float = 20.0
    capacity: float = 0.01
    reviews_per_day: float | None = None


def sealed_costs(facts: Mapping[str, Any]) -> Costs:
    """The costs by which a bundle's thresholds were chosen, from its manifest's training facts."""
    sealed = facts.get("costs") or {}
    return Costs(**{name: float(sealed[name]) for name in Costs.__dataclass_fields__ if name in sealed})


class Made(NamedTuple):
    """The decision as it was made."""

    outcome: Outcome
    decided_by: DecidedBy
    rules: tuple[str, ...]
    probability: float | None
    model_version: str | None


class Case(NamedTuple):
    """One decision, and all that is needed to decide again. ``probability`` and ``thresholds`` are those to decide by.

    ``filled`` are the columns that the policy's rules see.
    """

    transaction_id: str
    received_ms: int
    amount_minor: int
    label: LabelFilter
    made: Made
    event: Event
    filled: Floats
    probability: float | None
    thresholds: Thresholds | None


# --- the report ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Share:
    """``part`` of ``whole`` with its Wilson interval at 95 %; null where there is nothing to divide by."""

    part: int
    whole: int
    share: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Count:
    decisions: int
    amount: Annotated[float, Field(description="Money, in the base currency.")]


@dataclass(frozen=True, slots=True)
class Move:
    """Decisions that were ``before`` and would be ``after``, by label."""

    before: Outcome
    after: Outcome
    fraud: Count
    legitimate: Count
    unlabelled: Count


@dataclass(frozen=True, slots=True)
class Cost:
    reviews: Annotated[float, Field(description="Of all reviews, labelled or not.")]
    missed_frauds: Annotated[float, Field(description="Of labelled frauds alone: what is not labelled costs nothing.")]
    false_declines: Annotated[float, Field(description="Of transactions labelled legitimate alone.")]
    total: float


@dataclass(frozen=True, slots=True)
class Figures:
    """One side of the comparison. Flagged is sent to review or declined."""

    outcomes: dict[Outcome, int]
    reviews_per_day: float
    declines_per_day: float
    precision: Annotated[Share, Field(description="Frauds among what is flagged and labelled.")]
    recall: Annotated[Share, Field(description="Flagged among what is labelled fraud.")]
    cost: Cost
    capacity_used: Annotated[float | None, Field(description="Reviews over what people can review; null: they cannot.")]
    days_over_capacity: int


@dataclass(frozen=True, slots=True)
class Money:
    """What changes hands: fraud by label fraud, and so on; held is flagged where it was approved."""

    fraud_caught: Annotated[Count, Field(description="Labelled fraud, approved then, flagged now.")]
    fraud_lost: Annotated[Count, Field(description="Labelled fraud, flagged then, approved now.")]
    legitimate_held: Annotated[Count, Field(description="Labelled legitimate, approved then, flagged now.")]
    legitimate_released: Annotated[Count, Field(description="Labelled legitimate, flagged then, approved now.")]
    unlabelled_held: Count
    unlabelled_released: Count


@dataclass(frozen=True, slots=True)
class Hits:
    """Decisions by label, and the money of the frauds among them."""

    decisions: int
    fraud: int
    legitimate: int
    unlabelled: int
    fraud_amount: float


@dataclass(frozen=True, slots=True)
class RuleFigures:
    """One rule of the changed policy, or a list (``list:deny``, ``list:allow``); or a rule that is not in it any more,
    which has ``hits_before`` alone.
    """

    id: str
    outcome: Outcome | None
    enabled: bool
    hits_before: Annotated[int, Field(description="Decisions in whose record it stands.")]
    hits: Hits
    precision: Annotated[Share, Field(description="Frauds among its hits that are labelled.")]
    alone: Annotated[Hits, Field(description="Decisions whose outcome would be another one without it.")]
    failed: Annotated[int, Field(description="Decisions for which it could not be evaluated.")]


@dataclass(frozen=True, slots=True)
class Labels:
    fraud: int
    legitimate: int
    none: int
    young: Annotated[int, Field(description="Of `none`: decisions whose label delay has not passed yet.")]


@dataclass(frozen=True, slots=True)
class Flip:
    """One decision that would be another one."""

    transaction_id: str
    received_at: str
    amount: float
    label: LabelFilter
    before: Outcome
    after: Outcome
    decided_by_before: DecidedBy
    decided_by_after: DecidedBy
    rules_before: tuple[str, ...]
    rules_after: tuple[str, ...]
    probability_before: float | None
    probability_after: float | None


@dataclass(frozen=True, slots=True)
class DayFigures:
    day: Annotated[str, Field(description="UTC day of arrival.")]
    decisions: int
    reviews_before: int
    reviews_after: int
    declines_before: int
    declines_after: int


@dataclass(frozen=True, slots=True)
class Report:
    """What a changed policy would have done with decisions that were made."""

    decisions: Annotated[int, Field(description="Judged again.")]
    flipped: Annotated[int, Field(description="Of these, those with another outcome.")]
    left_out: Annotated[dict[LeftOut, int], Field(description="Not judged again, by reason.")]
    complete: Annotated[bool, Field(description="false: there are more decisions than were read, older ones.")]
    first: Annotated[str | None, Field(description="Arrival of the first decision judged; RFC 3339.")]
    last: str | None
    days: Annotated[float, Field(description="From the first to the last, at least 1: what the daily figures share.")]
    base_currency: str
    rules_version: str
    model_version: str
    rescored: Annotated[bool, Field(description="The model scored anew; else probabilities are those recorded.")]
    thresholds: Annotated[Thresholds | None, Field(description="null: those that each decision was made under.")]
    models: Annotated[dict[str, int], Field(description="Decisions by the model that made them; `none`: without one.")]
    labels: Labels
    moves: Annotated[list[Move], Field(description="Every pair of outcomes that occurs.")]
    money: Money
    before: Figures
    after: Figures
    capacity_per_day: Annotated[float, Field(description="What people can review.")]
    rules: list[RuleFigures]
    examples: Annotated[list[Flip], Field(description=f"Up to {EXAMPLES} flipped decisions, the most money first.")]
    by_day: list[DayFigures]
    notes: Annotated[list[str], Field(description="What must be known to read these figures.")]


REPORT = TypeAdapter(Report)


def wilson(part: int, whole: int) -> Share:
    """Wilson's score interval of a share at 95 %."""
    if not whole:
        return Share(part, whole, None, None, None)
    share, square = part / whole, _Z * _Z
    middle = (share + square / (2 * whole)) / (1 + square / whole)
    half = _Z / (1 + square / whole) * (share * (1 - share) / whole + square / (4 * whole * whole)) ** 0.5
    low, high = max(middle - half, 0.0), min(middle + half, 1.0)
    # At the ends the bound is the share itself, which the sum misses by its rounding.
    return Share(part, whole, share, 0.0 if part == 0 else low, 1.0 if part == whole else high)


# --- deciding again --------------------------------------------------------------------------------------------------


def backtest(decisions: Iterable[Stored], policy: Policy, *, costs: Costs, now_ms: int | None = None) -> Report:
    """Judge recorded decisions again. ``now_ms`` tells which labels may still come; None: no more will."""
    return report((case_of(stored, policy) for stored in decisions), policy, costs=costs, now_ms=now_ms)


def case_of(stored: Stored, policy: Policy) -> Case | LeftOut:
    """The decision as ``policy`` is to see it, or why it cannot."""
    record, label = stored
    if record.test:
        return "test"
    answer, document = json.loads(record.answer), json.loads(record.document)
    model = policy.model
    if answer["base_currency"] != model.rates.base:
        return "currency"
    event = unpack_event(document["event"])
    named: Mapping[str, float] = document["features"]
    probability = record.probability
    thresholds = None if answer["thresholds"] is None else Thresholds(**answer["thresholds"])
    if policy.rescore:
        try:
            scored = score_row(model, columns_of(model.features, event, named))
        except InvalidRequest:
            return "attributes"
        filled, probability, thresholds = scored.filled, scored.probability, model.thresholds
    else:
        filled = np.array([named.get(name, np.nan) for name in model.features.columns])
        if probability is not None:  # else there was no model, and rules saw what was there
            filled = fill(filled, model.population)
    return Case(
        record.transaction_id,
        record.received_ms,
        record.amount_minor,
        "none" if label is None else "fraud" if label.is_fraud else "legitimate",
        Made(record.outcome, record.decided_by, record.rules, record.probability, record.model_version),
        event,
        filled,
        probability,
        policy.thresholds or thresholds,
    )


def decide_again(case: Case, policy: Policy) -> Ruling:
    """What the service would say under the policy."""
    return rule_on(policy.rules, case.event, case.filled, case.probability, case.thresholds, policy.without_model)


def report(cases: Iterable[Case | LeftOut], policy: Policy, *, costs: Costs, now_ms: int | None = None) -> Report:
    """Decide every case under the policy and count. Memory does not grow with the cases (but with their days)."""
    tally = _Tally(policy, now_ms)
    for case in cases:
        if isinstance(case, str):
            tally.left_out[case] = tally.left_out.get(case, 0) + 1
        else:
            tally.add(case, decide_again(case, policy))
    return tally.report(costs)


# --- counting --------------------------------------------------------------------------------------------------------


class _Sums:
    """Decisions and minor units of money, by label."""

    __slots__ = ("minor", "n")

    def __init__(self) -> None:
        self.n: dict[LabelFilter, int] = {"fraud": 0, "legitimate": 0, "none": 0}
        self.minor = dict(self.n)

    def add(self, case: Case) -> None:
        self.n[case.label] += 1
        self.minor[case.label] += case.amount_minor

    def hits(self, factor: float) -> Hits:
        n = self.n
        return Hits(sum(n.values()), n["fraud"], n["legitimate"], n["none"], self.minor["fraud"] / factor)

    @property
    def precision(self) -> Share:
        return wilson(self.n["fraud"], self.n["fraud"] + self.n["legitimate"])


class _Tally:
    def __init__(self, policy: Policy, now_ms: int | None):
        self.policy = policy
        self.factor = policy.model.rates.minor_factor
        self.mature_until = None if now_ms is None else now_ms - policy.model.features.label_delay_ms
        self.left_out: dict[LeftOut, int] = {}
        self.moves: dict[tuple[Outcome, Outcome], _Sums] = {}
        self.young = 0
        self.first: int | None = None
        self.last = 0
        self.models: dict[str, int] = {}
        self.hits: dict[str, _Sums] = {}
        self.alone: dict[str, _Sums] = {}
        self.failed: dict[str, int] = {}
        self.hits_before: dict[str, int] = {}
        self.by_day: dict[int, list[int]] = {}
        self.number = itertools.count()
        self.examples: list[tuple[int, int, Case, Ruling]] = []

    def add(self, case: Case, ruling: Ruling) -> None:
        before, after = case.made.outcome, ruling.verdict.outcome
        move = self.moves.get((before, after))
        if move is None:
            move = self.moves[before, after] = _Sums()
        move.add(case)
        if case.label == "none" and self.mature_until is not None and case.received_ms > self.mature_until:
            self.young += 1
        self.first = case.received_ms if self.first is None else min(self.first, case.received_ms)
        self.last = max(self.last, case.received_ms)
        model = case.made.model_version or "none"
        self.models[model] = self.models.get(model, 0) + 1
        for rule_id in case.made.rules:
            self.hits_before[rule_id] = self.hits_before.get(rule_id, 0) + 1
        if ruling.failed is not None:
            self.failed[ruling.failed] = self.failed.get(ruling.failed, 0) + 1
        for code, without in self._without_each(case, ruling):
            self.hits.setdefault(code, _Sums()).add(case)
            if without != after:
                self.alone.setdefault(code, _Sums()).add(case)
        day = self.by_day.setdefault(case.received_ms // DAY_MS, [0, 0, 0, 0, 0])
        day[0] += 1
        for at, outcome in ((1, before), (2, after)):
            day[at] += outcome == "review"
            day[at + 2] += outcome == "decline"
        if before != after:
            # The number keeps the first of those with equal money, and cases from being compared.
            example = (case.amount_minor, -next(self.number), case, ruling)
            if len(self.examples) < EXAMPLES:
                heapq.heappush(self.examples, example)
            else:
                heapq.heappushpop(self.examples, example)

    def _without_each(self, case: Case, ruling: Ruling) -> Iterator[tuple[str, Outcome]]:
        """Each list or rule that met the case, and the outcome had it not."""

        def decided(fired: Sequence[Rule], listed: Any) -> Outcome:
            return decide(case.probability, fired, case.thresholds, self.policy.without_model, listed).outcome

        if ruling.listed is not None:
            yield ruling.listed.code, decided(ruling.fired, None)
        for rule in ruling.fired:
            yield rule.id, decided([other for other in ruling.fired if other is not rule], ruling.listed)

    # --- the figures -------------------------------------------------------------------------------------------------

    def report(self, costs: Costs) -> Report:
        moves = [
            Move(before, after, *(self._count(sums, label) for label in ("fraud", "legitimate", "none")))
            for before in _OUTCOMES
            for after in _OUTCOMES
            if (sums := self.moves.get((before, after))) is not None
        ]
        decisions = sum(sums.n[label] for sums in self.moves.values() for label in sums.n)
        none = sum(sums.n["none"] for sums in self.moves.values())
        days = 1.0 if self.first is None else max((self.last - self.first) / DAY_MS, 1.0)
        capacity = costs.capacity * decisions / days if costs.reviews_per_day is None else costs.reviews_per_day
        model = self.policy.model
        labels = Labels(
            sum(move.fraud.decisions for move in moves),
            sum(move.legitimate.decisions for move in moves),
            none,
            self.young,
        )
        return Report(
            decisions=decisions,
            flipped=sum(sum(sums.n.values()) for (before, after), sums in self.moves.items() if before != after),
            left_out=dict(sorted(self.left_out.items())),
            complete=True,
            first=None if self.first is None else rfc3339(self.first),
            last=None if self.first is None else rfc3339(self.last),
            days=days,
            base_currency=model.rates.base,
            rules_version=self.policy.rules.version,
            model_version=model.version,
            rescored=self.policy.rescore,
            thresholds=self.policy.thresholds or (model.thresholds if self.policy.rescore else None),
            models=dict(sorted(self.models.items())),
            labels=labels,
            moves=moves,
            money=self._money(),
            before=self._figures(0, costs, days, capacity),
            after=self._figures(1, costs, days, capacity),
            capacity_per_day=capacity,
            rules=self._rules(),
            examples=[self._flip(case, ruling) for _, _, case, ruling in sorted(self.examples, reverse=True)],
            by_day=[
                DayFigures(rfc3339(day * DAY_MS)[:10], counts[0], counts[1], counts[2], counts[3], counts[4])
                for day, counts in sorted(self.by_day.items())
            ],
            notes=list(self._notes(labels, decisions)),
        )

    def _count(self, sums: _Sums, label: LabelFilter) -> Count:
        return Count(sums.n[label], sums.minor[label] / self.factor)

    def _sum(self, where: Iterable[tuple[Outcome, Outcome]]) -> _Sums:
        total = _Sums()
        for pair in where:
            sums = self.moves.get(pair)
            if sums is not None:
                for label in total.n:
                    total.n[label] += sums.n[label]
                    total.minor[label] += sums.minor[label]
        return total

    def _money(self) -> Money:
        held = self._sum(("approve", after) for after in ("review", "decline"))
        released = self._sum((before, "approve") for before in ("review", "decline"))
        return Money(
            fraud_caught=self._count(held, "fraud"),
            fraud_lost=self._count(released, "fraud"),
            legitimate_held=self._count(held, "legitimate"),
            legitimate_released=self._count(released, "legitimate"),
            unlabelled_held=self._count(held, "none"),
            unlabelled_released=self._count(released, "none"),
        )

    def _figures(self, side: Literal[0, 1], costs: Costs, days: float, capacity: float) -> Figures:
        """``side`` 0: as it was, 1: as it would be."""
        by = {
            outcome: self._sum((outcome, other) if side == 0 else (other, outcome) for other in _OUTCOMES)
            for outcome in _OUTCOMES
        }
        n = {outcome: sum(sums.n.values()) for outcome, sums in by.items()}
        flagged_fraud = by["review"].n["fraud"] + by["decline"].n["fraud"]
        flagged_legitimate = by["review"].n["legitimate"] + by["decline"].n["legitimate"]
        over = 0
        for counts in self.by_day.values():
            limit = costs.capacity * counts[0] if costs.reviews_per_day is None else costs.reviews_per_day
            over += counts[1 + side] > limit
        return Figures(
            outcomes=n,
            reviews_per_day=n["review"] / days,
            declines_per_day=n["decline"] / days,
            precision=wilson(flagged_fraud, flagged_fraud + flagged_legitimate),
            recall=wilson(flagged_fraud, flagged_fraud + by["approve"].n["fraud"]),
            cost=self._cost(by, n, costs),
            capacity_used=n["review"] / days / capacity if capacity else None,
            days_over_capacity=over,
        )

    def _cost(self, by: Mapping[Outcome, _Sums], n: Mapping[Outcome, int], costs: Costs) -> Cost:
        def lost(sums: _Sums) -> float:
            return sums.minor["fraud"] / self.factor * costs.fraud_loss_share + sums.n["fraud"] * costs.fraud_fee

        reviews = n["review"] * costs.review_cost
        missed = lost(by["approve"]) + (1.0 - costs.review_catch) * lost(by["review"])
        declines = by["decline"].n["legitimate"] * costs.false_decline_cost
        return Cost(reviews, missed, declines, reviews + missed + declines)

    def _rules(self) -> list[RuleFigures]:
        rules = self.policy.rules
        known: dict[str, tuple[Outcome | None, bool]] = {rule.id: (rule.outcome, rule.enabled) for rule in rules.rules}
        if rules.lists.deny:
            known["list:deny"] = ("decline", True)
        if rules.lists.allow:
            known["list:allow"] = ("approve", True)
        for rule_id in sorted(self.hits_before):
            known.setdefault(rule_id, (None, False))
        blank = _Sums()
        return [
            RuleFigures(
                id=rule_id,
                outcome=outcome,
                enabled=enabled,
                hits_before=self.hits_before.get(rule_id, 0),
                hits=self.hits.get(rule_id, blank).hits(self.factor),
                precision=self.hits.get(rule_id, blank).precision,
                alone=self.alone.get(rule_id, blank).hits(self.factor),
                failed=self.failed.get(rule_id, 0),
            )
            for rule_id, (outcome, enabled) in known.items()
        ]

    def _flip(self, case: Case, ruling: Ruling) -> Flip:
        listed = (ruling.listed.code,) if ruling.listed else ()
        return Flip(
            transaction_id=case.transaction_id,
            received_at=rfc3339(case.received_ms),
            amount=case.amount_minor / self.factor,
            label=case.label,
            before=case.made.outcome,
            after=ruling.verdict.outcome,
            decided_by_before=case.made.decided_by,
            decided_by_after=ruling.verdict.decided_by,
            rules_before=case.made.rules,
            rules_after=(*listed, *(rule.id for rule in ruling.fired)),
            probability_before=case.made.probability,
            probability_after=case.probability,
        )

    def _notes(self, labels: Labels, decisions: int) -> Iterator[str]:
        version = self.policy.model.version
        if labels.none:
            young = f"; for {labels.young:,} of these the label delay has not passed" if labels.young else ""
            yield (
                f"{labels.none:,} of {decisions:,} decisions have no label{young}. Money, precision and the cost of "
                "frauds and declines are of labelled decisions alone, and mostly what was flagged gets a label."
            )
        if self.policy.rescore:
            yield "Features of the parties' past are as they were recorded, whatever label delay the model assumes."
        else:
            others = sum(n for model, n in self.models.items() if model not in {version, "none"})
            if others:
                yield (
                    f"{others:,} decisions were made by another model than {version}: their probabilities are those "
                    f"recorded, what rules see of their gaps is filled as {version} does."
                )
            if self.models.get("none"):
                yield f"{self.models['none']:,} decisions were made without a model, and are decided without one again."
        if self.failed:
            yield "A rule that cannot be evaluated does not fire; the others do, as in the service."
