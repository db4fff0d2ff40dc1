"""The numbers a fraud model is judged by: pure functions from scored rows to plain JSON values.

`Scored` holds what the sealed bundle said about every row, `Costs` what being wrong costs. `metrics` gives the figures
with their intervals, `curves` the lines to draw, `choose_thresholds` the review and decline thresholds,
`classification_text` the classic text report. Every figure is weighted by `Scored.weight` and stands beside the fraud
rate it belongs to: a precision without its fraud rate says nothing.

Definitions (also in `DEFINITIONS`, which the report prints):

- Flagged means outcome `review` or `decline`. `model` is the model alone at its thresholds, `policy` the whole policy
  with lists and rules.
- Average precision is the step sum over distinct scores (as scikit-learn's), ROC AUC counts ties as one half.
- Card precision at k is that of the Fraud Detection Handbook: per UTC day the k customers with the highest maximum
  score, the share of them with a fraud that day, divided by k also where a day has fewer customers; customers found on
  one day are left out on all later days (the Handbook's removal); the mean over days. Ties go to the earlier
  transaction. A row without a customer counts as a customer of its own. With weights, a customer takes up as many of
  the k places as its weight.
- Exact intervals are Clopper-Pearson at 95 % on counts of rows, one-sided where there is no error (or no success).
  Where the weights differ between the classes only, the precision's interval is carried over to the weighted fraud
  rate, which is exact too (a monotone map).
- Bootstrap intervals resample rows within each class (Poisson weights, class totals kept); rows are taken as
  independent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Json = dict[str, Any]

APPROVE, REVIEW, DECLINE = 0, 1, 2
OUTCOMES = ("approve", "review", "decline")
CLASSES = ("LEGIT", "FRAUD")
DAY_MS = 86_400_000
YEAR_DAYS = 365.25
LEVEL = 0.95
ECE_BINS = 10
CALIBRATION_EDGES = (
    0.0, 1e-4, 1e-3, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0,
)  # fmt: skip

DEFINITIONS: dict[str, str] = {
    "average_precision": "Area under the precision-recall steps, over all distinct scores.",
    "roc_auc": "Chance that a fraud scores above a legitimate transaction; ties count one half.",
    "recall": "Share of frauds flagged (detection rate, sensitivity, true positive rate).",
    "precision": "Share of flagged transactions that are frauds, at the fraud rate given.",
    "f1": "Harmonic mean of precision and recall.",
    "accuracy": "Share of transactions decided rightly; approving everything already scores 1 - fraud rate.",
    "specificity": "Share of legitimate transactions left alone (true negative rate).",
    "kappa": "Cohen's kappa: agreement with the labels beyond chance.",
    "fpr": "False positive rate: share of legitimate transactions flagged.",
    "fdr": "False discovery rate: share of flagged transactions that are legitimate, 1 - precision.",
    "recall_at_precision_0.9": "Highest recall any threshold reaches with precision of at least .9.",
    "recall_at_precision_0.99": "Highest recall any threshold reaches with precision of at least .99.",
    "cp_at_100": "Card precision at 100 (Fraud Detection Handbook): per day, the share of compromised customers among "
    "the 100 with the highest scores, customers already found left out; the mean over days.",
    "ece": "Expected calibration error over ten equal bins of the probability.",
    "brier": "Mean squared difference between probability and label.",
    "frauds_per_investigation": "Frauds found per flagged transaction, review and decline alike.",
    "frauds_per_review": "Frauds found per transaction sent to review.",
    "value_recall": "Share of the fraudulent amount that is flagged.",
    "cost_saved": "Cost of approving everything less the cost of these decisions, on these rows, base currency.",
    "savings_per_year": "cost_saved stretched from the time these rows cover to a year of the same volume.",
}


@dataclass(frozen=True, slots=True)
class Scored:
    """n labelled rows as the sealed bundle judged them. ValueError names the field that does not fit.

    is_fraud (n,) int8 0/1 · probability (n,) float64 calibrated, in [0, 1] · model_outcome and policy_outcome (n,) int8
    (0 approve, 1 review, 2 decline; the model alone, and the whole policy with lists and rules) · amount (n,) float64
    >= 0 in the base currency · weight (n,) float64 >= 0, how many real transactions a row stands for · time_ms (n,)
    int64 UTC · party (n,) int64 code of the customer, -1 where absent.
    """

    is_fraud: NDArray[np.int8]
    probability: Floats
    model_outcome: NDArray[np.int8]
    policy_outcome: NDArray[np.int8]
    amount: Floats
    weight: Floats
    time_ms: Ints
    party: Ints

    def __post_init__(self) -> None:
        n = len(self.is_fraud)
        if n == 0:
            raise ValueError("Scored: no rows.")
        for name in self.__dataclass_fields__:
            shape = getattr(self, name).shape
            if shape != (n,):
                raise ValueError(f"Scored.{name} has shape {shape}, expected ({n},).")
        checks: tuple[tuple[str, str, Callable[[NDArray[Any]], Any]], ...] = (
            ("is_fraud", "0 or 1", lambda v: (v == 0) | (v == 1)),
            ("probability", "numbers in [0, 1]", lambda v: (v >= 0) & (v <= 1)),
            ("model_outcome", "0 (approve), 1 (review) or 2 (decline)", lambda v: (v >= 0) & (v <= 2)),
            ("policy_outcome", "0 (approve), 1 (review) or 2 (decline)", lambda v: (v >= 0) & (v <= 2)),
            ("amount", "finite numbers >= 0", lambda v: np.isfinite(v) & (v >= 0)),
            ("weight", "finite numbers >= 0", lambda v: np.isfinite(v) & (v >= 0)),
        )
        for name, wanted, fits in checks:
            good = fits(getattr(self, name))
            if not good.all():
                raise ValueError(f"Scored.{name}: row {int(np.argmin(good))} is not among {wanted}.")
        if not float(self.weight.sum()) > 0:
            raise ValueError("Scored.weight: the weights sum to 0.")


@dataclass(frozen=True, slots=True)
class Costs:
    """What an outcome costs, per transaction, in the base currency. ValueError names the field out of range.

    An approved fraud loses `fraud_loss_share` of its amount plus `fraud_fee` (the chargeback fee). A reviewed
    transaction costs `review_cost`; of the frauds reviewed the share `review_catch` is caught, the others lose what an
    approved one loses. A declined legitimate transaction costs `false_decline_cost` (lost margin, goodwill); a declined
    fraud costs nothing. `capacity` is the largest share of all transactions that may be sent to review.

    Two floors keep pure arithmetic from turning customers away by the thousand where frauds are large and declines
    cheap: `decline_precision` is the least (weighted) share of frauds among the transactions declined,
    `flag_precision` the same among all flagged; 0 switches a floor off. Both are measured on few rows; nothing is
    flagged below the probability `flag_probability` whatever they say.
    """

    fraud_loss_share: float = 1.0
    fraud_fee: float = 25.0
    review_cost: float = 5.0
    review_catch: float = 0.95
    false_decline_cost: float = 20.0
    capacity: float = 0.01
    decline_precision: float = 0.9
    flag_precision: float = 0.0
    flag_probability: float = 0.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            share = name in ("review_catch", "capacity", "decline_precision", "flag_precision", "flag_probability")
            if not (np.isfinite(value) and value >= 0 and (not share or value <= 1)):
                raise ValueError(f"Costs.{name} is {value}, expected {'a share in [0, 1]' if share else '>= 0'}.")

    def of(self, outcome: NDArray[np.int8], is_fraud: NDArray[np.int8], amount: Floats) -> Floats:
        """Cost (n,) of each row under its outcome, unweighted."""
        approve, review, decline = self.by_outcome(is_fraud, amount)
        return np.where(outcome == APPROVE, approve, np.where(outcome == REVIEW, review, decline))

    def by_outcome(self, is_fraud: NDArray[np.int8], amount: Floats) -> tuple[Floats, Floats, Floats]:
        """Costs (n,) of each row if approved, if reviewed, if declined, unweighted."""
        fraud = is_fraud.astype(np.float64)
        approve = fraud * (amount * self.fraud_loss_share + self.fraud_fee)
        review = self.review_cost + (1.0 - self.review_catch) * approve
        decline = (1.0 - fraud) * self.false_decline_cost
        return approve, review, decline


# ---------------------------------------------------------------------------------------------------- ranking


@dataclass(frozen=True, slots=True)
class _Ranking:
    """Rows in descending order of score, and the last row of each of the g distinct scores."""

    order: Ints  # (n,) row numbers, highest score first
    ends: Ints  # (g,) position in `order` of the last row of each distinct score
    score: Floats  # (g,) distinct scores, descending

    @classmethod
    def of(cls, probability: Floats) -> _Ranking:
        order = np.argsort(-probability, kind="stable")
        ordered = probability[order]
        ends = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), len(order) - 1)
        return cls(order, ends, ordered[ends])

    def total(self, values: Floats) -> Floats:
        """(g + 1,): sum of `values` over the rows of the first i distinct scores, i = 0..g."""
        return np.concatenate(([0.0], np.cumsum(values[self.order])[self.ends]))

    def threshold(self, flagged: int) -> float:
        """The threshold t in (0, 1) at which exactly the first `flagged` distinct scores satisfy score >= t: half way
        to the next score."""
        above = float(self.score[flagged - 1]) if flagged > 0 else 1.0
        below = float(self.score[flagged]) if flagged < len(self.score) else 0.0
        middle = below + (above - below) / 2.0
        # Neighbouring floats have no middle: the upper one still separates, since the comparison is >=.
        return middle if below < middle < above else above


def _ratio(part: float, whole: float) -> float | None:
    return float(part / whole) if whole > 0 else None


def _average_precision(tp: Floats, fp: Floats) -> float | None:
    if tp[-1] <= 0:
        return None
    flagged = tp[1:] + fp[1:]
    precision = np.divide(tp[1:], flagged, out=np.zeros_like(flagged), where=flagged > 0)
    return float(np.clip(np.sum(np.diff(tp) * precision) / tp[-1], 0.0, 1.0))


def _roc_auc(tp: Floats, fp: Floats) -> float | None:
    if tp[-1] <= 0 or fp[-1] <= 0:
        return None
    return float(np.clip(np.sum(np.diff(fp) * (tp[1:] + tp[:-1])) / (2.0 * tp[-1] * fp[-1]), 0.0, 1.0))


def _recall_at_precision(tp: Floats, fp: Floats, floor: float) -> float | None:
    """Highest recall among thresholds whose precision is at least `floor`; 0.0 where none reaches it."""
    if tp[-1] <= 0:
        return None
    flagged = tp[1:] + fp[1:]
    # A relative allowance of a few ulp: 9 of 10 is a precision of .9 whatever the order of summation.
    good = (tp[1:] >= floor * flagged * (1.0 - 1e-12)) & (flagged > 0)
    return float(tp[1:][good].max() / tp[-1]) if good.any() else 0.0


# -------------------------------------------------------------------------------------------------- intervals


def exact_interval(successes: int, trials: int, level: float = LEVEL) -> tuple[float, float] | None:
    """Clopper-Pearson interval of a share; one-sided at the same level where successes are 0 or all trials.

    None without trials. 16,582 trials without a success give (0, 1.81e-4): "none seen" is not "none".
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"exact_interval: {successes} successes in {trials} trials.")
    if trials == 0:
        return None
    tail = 1.0 - level
    if successes == 0:
        return 0.0, float(-np.expm1(np.log(tail) / trials))
    if successes == trials:
        return float(np.exp(np.log(tail) / trials)), 1.0
    low = betaincinv(successes, trials - successes + 1, tail / 2)
    high = betaincinv(successes + 1, trials - successes, 1 - tail / 2)
    return float(low), float(high)


def _exact(successes: int, trials: int, change: Callable[[float], float] = lambda share: share) -> Json | None:
    interval = exact_interval(successes, trials)
    if interval is None:
        return None
    low, high = (change(end) for end in interval)
    one_sided = successes in (0, trials)
    return {
        "low": low,
        "high": high,
        "level": LEVEL,
        "method": "Clopper-Pearson, one-sided" if one_sided else "Clopper-Pearson",
        "successes": successes,
        "trials": trials,
    }


def _class_weight(weight: Floats, members: NDArray[np.bool_]) -> float | None:
    """The one weight all members share, None where weights differ (or there is no member)."""
    own = weight[members]
    return float(own[0]) if len(own) and own[0] > 0 and (own == own[0]).all() else None


def _bootstrap(ranking: _Ranking, is_fraud: NDArray[np.int8], weight: Floats, seed: int, replicates: int) -> Json:
    """Percentile intervals of average precision and ROC AUC, stratified by class.

    Both figures depend on the legitimate rows only through their weight between (and on) the distinct scores that carry
    a fraud. A sum of n Poisson(1) weights is Poisson(n), so each such stratum is one draw, not n: a million rows cost
    no more than their few thousand frauds. Unequal weights within a stratum are matched in mean and variance.
    """
    fraud = is_fraud.astype(np.float64)
    sums = {}
    for name, member in (("fraud", fraud), ("legit", 1.0 - fraud)):
        sums[name] = (ranking.total(member * weight), ranking.total(member * weight**2))
    steps = np.diff(sums["fraud"][0])
    at = np.flatnonzero(steps > 0)  # distinct scores with frauds, descending
    if len(at) == 0 or sums["legit"][0][-1] <= 0 or replicates <= 0:
        return {"average_precision": None, "roc_auc": None}

    def strata(total: Floats) -> Floats:
        # Alternating: strictly above this fraud score (below the one before), tied with it; last: below them all.
        edges = np.empty(2 * len(at) + 2)
        edges[0], edges[-1] = 0.0, total[-1]
        edges[1:-1:2], edges[2:-1:2] = total[at], total[at + 1]
        return np.diff(edges)

    fraud_sum, fraud_square = steps[at], np.diff(sums["fraud"][1])[at]
    legit_sum, legit_square = strata(sums["legit"][0]), strata(sums["legit"][1])
    legit_sum, legit_square = np.maximum(legit_sum, 0.0), np.maximum(legit_square, 0.0)

    def draws(rng: np.random.Generator, total: Floats, square: Floats, rows: int) -> Floats:
        some = (total > 0) & (square > 0)
        rate = np.divide(total**2, square, out=np.zeros_like(total), where=some)
        scale = np.divide(square, total, out=np.zeros_like(total), where=some)
        drawn = rng.poisson(rate, size=(rows, len(total))) * scale
        sizes = drawn.sum(axis=1, keepdims=True)
        kept: Floats = drawn[sizes[:, 0] > 0] * (total.sum() / sizes[sizes[:, 0] > 0])
        return kept

    rng = np.random.default_rng(seed)
    block = max(1, 2_000_000 // len(legit_sum))
    ap, auc = [], []
    for start in range(0, replicates, block):
        rows = min(block, replicates - start)
        frauds = draws(rng, fraud_sum, fraud_square, rows)
        legits = draws(rng, legit_sum, legit_square, rows)
        rows = min(len(frauds), len(legits))
        frauds, legits = frauds[:rows], legits[:rows]
        tp = np.cumsum(frauds, axis=1)
        fp = np.cumsum(legits, axis=1)
        flagged = tp + fp[:, 1:-1:2]  # a legitimate row tied with a fraud is flagged with it
        precision = np.divide(tp, flagged, out=np.zeros_like(tp), where=flagged > 0)
        ap.append(np.sum(frauds * precision, axis=1) / tp[:, -1])
        below = fp[:, -1:] - (fp[:, 0:-1:2] + fp[:, 1:-1:2]) / 2
        auc.append(np.sum(frauds * below, axis=1) / (tp[:, -1] * fp[:, -1]))
    count = int(is_fraud.sum())
    return {
        name: _percentiles(np.concatenate(values), count)
        for name, values in (("average_precision", ap), ("roc_auc", auc))
    }


def _percentiles(values: Floats, frauds: int) -> Json | None:
    if len(values) == 0:
        return None
    values = np.clip(values, 0.0, 1.0)
    low, high = (float(v) for v in np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
    method, replicates = "bootstrap, stratified", len(values)
    if low > 1.0 - 1e-12:
        # Resampling a ranking without error knows of none; what the sample does bound is the share of frauds that
        # rank below a legitimate row.
        low, high = float(np.exp(np.log(1 - LEVEL) / frauds)), 1.0
        method = "Clopper-Pearson, one-sided: no ranking error in the sample"
    return {"low": low, "high": high, "level": LEVEL, "method": method, "replicates": replicates}


def average_precision(score: Floats, is_fraud: NDArray[np.int8], weight: Floats) -> float:
    """Average precision of any score (n,) that rises with the chance of fraud; 0 where there is no fraud."""
    ranking = _Ranking.of(score)
    fraud = is_fraud.astype(np.float64)
    return _average_precision(ranking.total(fraud * weight), ranking.total((1.0 - fraud) * weight)) or 0.0


def precision_interval(
    score: Floats, is_fraud: NDArray[np.int8], weight: Floats, *, seed: int = 0, replicates: int = 200
) -> tuple[float, float] | None:
    """95 % interval of :func:`average_precision`, as :func:`metrics` gives it; None where there is no fraud."""
    found = _bootstrap(_Ranking.of(score), is_fraud, weight, seed, replicates)["average_precision"]
    return None if found is None else (found["low"], found["high"])


def gain_interval(
    before: Floats, after: Floats, is_fraud: NDArray[np.int8], weight: Floats, *, seed: int = 0, replicates: int = 200
) -> tuple[float, float]:
    """95 % interval of the gain in average precision from score ``before`` to score ``after``, both (n,).

    Paired: each replicate weighs the rows anew (Poisson) and judges both scores on them, so that what both find hard
    cancels. No frauds drawn: no gain.
    """
    rng = np.random.default_rng(seed)
    fraud = is_fraud.astype(np.float64)
    rankings = [_Ranking.of(before), _Ranking.of(after)]
    gains = np.zeros(replicates)
    for i in range(replicates):
        drawn = weight * rng.poisson(1.0, len(weight))
        found, other = fraud * drawn, (1.0 - fraud) * drawn
        was, now = (_average_precision(ranking.total(found), ranking.total(other)) or 0.0 for ranking in rankings)
        gains[i] = now - was
    low, high = np.quantile(gains, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


# ------------------------------------------------------------------------------------------ precision at k, ECE


def card_precision(scored: Scored, k: int = 100) -> float:
    """The Handbook's card precision top-k, with the removal of customers already found (see the module's docstring)."""
    if k < 1:
        raise ValueError(f"card_precision: k is {k}, expected at least 1.")
    known, card = np.unique(scored.party, return_inverse=True)
    absent = scored.party < 0
    card = card.astype(np.int64)
    card[absent] = len(known) + np.arange(int(absent.sum()))
    day = scored.time_ms // DAY_MS
    order = np.lexsort((scored.time_ms, -scored.probability, day))
    bounds = np.flatnonzero(np.diff(day[order], prepend=day[order[0]] - 1, append=day[order[-1]] + 1))
    found = np.zeros(len(known) + int(absent.sum()), dtype=bool)
    precisions = []
    for start, stop in pairwise(bounds.tolist()):
        rows = order[start:stop]
        rows = rows[~found[card[rows]]]
        first = np.sort(np.unique(card[rows], return_index=True)[1])  # each customer at its highest score
        cards, places = card[rows[first]], scored.weight[rows[first]]
        frauds = rows[scored.is_fraud[rows] == 1]
        compromised = np.isin(cards, card[frauds])
        if compromised.any():
            heaviest: dict[int, float] = {}
            for code, own in zip(card[frauds].tolist(), scored.weight[frauds].tolist(), strict=True):
                heaviest[code] = max(own, heaviest.get(code, 0.0))
            places = places.copy()
            places[compromised] = [heaviest[code] for code in cards[compromised].tolist()]
        taken = np.clip(k - (np.cumsum(places) - places), 0.0, places)
        precisions.append(float(taken[compromised].sum()) / k)
        found[cards[compromised & (taken > 0)]] = True
    return float(np.mean(precisions))


def _best_card_precision(scored: Scored, k: int) -> float | None:
    """What a perfect ranking would reach: few days have k compromised customers. None without a fraud."""
    rows = np.flatnonzero((scored.is_fraud == 1) & (scored.weight > 0))
    if len(rows) == 0:
        return None
    frauds = Scored(**{name: getattr(scored, name)[rows] for name in Scored.__dataclass_fields__})
    days, fraud_days = (len(np.unique(own.time_ms // DAY_MS)) for own in (scored, frauds))
    return card_precision(frauds, k) * fraud_days / days


def _ece(scored: Scored) -> float:
    bin_of = np.minimum((scored.probability * ECE_BINS).astype(np.int64), ECE_BINS - 1)
    surplus = scored.weight * (scored.is_fraud - scored.probability)
    return float(np.abs(np.bincount(bin_of, surplus, minlength=ECE_BINS)).sum() / scored.weight.sum())


# ------------------------------------------------------------------------------------------------ the figures


def confusion(outcome: NDArray[np.int8], is_fraud: NDArray[np.int8], weight: Floats) -> Json:
    """tp, fp, fn, tn (flagged = outcome is not approve), as row counts under `sample` and summed weights under
    `weighted`, and `outcomes`: outcome -> {"legit", "fraud"} weighted and in rows."""
    cell = outcome.astype(np.int64) * 2 + is_fraud
    rows = np.bincount(cell, minlength=6).reshape(3, 2)
    mass = np.bincount(cell, weight, minlength=6).reshape(3, 2)

    def four(table: NDArray[Any], kind: type[int] | type[float]) -> Json:
        return {
            "tp": kind(table[1:, 1].sum()),
            "fp": kind(table[1:, 0].sum()),
            "fn": kind(table[0, 1]),
            "tn": kind(table[0, 0]),
        }

    return {
        "sample": four(rows, int),
        "weighted": four(mass, float),
        "outcomes": {
            name: {
                "legit": int(rows[i, 0]),
                "fraud": int(rows[i, 1]),
                "weighted_legit": float(mass[i, 0]),
                "weighted_fraud": float(mass[i, 1]),
            }
            for i, name in enumerate(OUTCOMES)
        },
    }


def _decisions(scored: Scored, outcome: NDArray[np.int8], costs: Costs) -> Json:
    """Figures of the decisions `outcome` (n,): those that need no score."""
    table = confusion(outcome, scored.is_fraud, scored.weight)
    tp, fp, fn, tn = (table["weighted"][name] for name in ("tp", "fp", "fn", "tn"))
    rows = table["sample"]
    everything = tp + fp + fn + tn
    agreed = (tp + tn) / everything
    chance = ((tp + fp) * (tp + fn) + (fn + tn) * (fp + tn)) / everything**2
    reviewed, declined = table["outcomes"]["review"], table["outcomes"]["decline"]
    reviewed_mass = reviewed["weighted_fraud"] + reviewed["weighted_legit"]
    declined_mass = declined["weighted_fraud"] + declined["weighted_legit"]
    value = scored.weight * scored.amount * scored.is_fraud
    approve_all = float(scored.weight @ costs.by_outcome(scored.is_fraud, scored.amount)[0])
    cost = float(scored.weight @ costs.of(outcome, scored.is_fraud, scored.amount))
    saved = approve_all - cost

    fraud_weight = _class_weight(scored.weight, scored.is_fraud == 1)
    legit_weight = _class_weight(scored.weight, scored.is_fraud == 0)

    def at_weighted_rate(share: float) -> float:
        assert fraud_weight is not None
        assert legit_weight is not None
        return fraud_weight * share / (fraud_weight * share + legit_weight * (1.0 - share))

    by_class = fraud_weight is not None and legit_weight is not None
    return {
        "recall": _ratio(tp, tp + fn),
        "precision": _ratio(tp, tp + fp),
        "f1": _ratio(2 * tp, 2 * tp + fp + fn),
        "accuracy": agreed,
        "specificity": _ratio(tn, tn + fp),
        "kappa": (agreed - chance) / (1.0 - chance) if chance < 1.0 else None,
        "fpr": _ratio(fp, tn + fp),
        "fdr": _ratio(fp, tp + fp),
        "value_recall": _ratio(float(value[outcome != APPROVE].sum()), float(value.sum())),
        "frauds_per_investigation": _ratio(tp, tp + fp),
        "frauds_per_review": _ratio(reviewed["weighted_fraud"], reviewed_mass),
        "flagged_share": (tp + fp) / everything,
        "review_share": reviewed_mass / everything,
        "decline_share": declined_mass / everything,
        "cost": cost,
        "cost_if_all_approved": approve_all,
        "cost_saved": saved,
        "savings_per_year": saved * YEAR_DAYS / _days(scored.time_ms),
        "confusion": table,
        "intervals": {
            "recall": _exact(rows["tp"], rows["tp"] + rows["fn"]),
            "precision": _exact(rows["tp"], rows["tp"] + rows["fp"], at_weighted_rate) if by_class else None,
            "precision_sample": _exact(rows["tp"], rows["tp"] + rows["fp"]),
            "fpr": _exact(rows["fp"], rows["fp"] + rows["tn"]),
        },
    }


def _days(time_ms: Ints) -> float:
    """Days the rows cover, at least one: a yearly figure from an hour's rows would be fiction."""
    return max(1.0, float(time_ms.max() - time_ms.min()) / DAY_MS)


def _instant(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def metrics(scored: Scored, *, costs: Costs, seed: int = 0, bootstrap: int = 200, k: int = 100) -> Json:
    """Every figure of `DEFINITIONS` for the rows scored, as strict JSON values (None where a figure is undefined).

    Keys: `counts` (rows, frauds, legitimate, and weighted_*; first, last, days), `fraud_rate` {"sample", "weighted"}
    (the figures belong to `weighted`), `costs`, `model` (the model alone: score figures, decision figures at its
    thresholds, `confusion`, `intervals`), `policy` (the whole policy: decision figures only, it has no score of its
    own), and at the top level the figures of `model` again by their plain names, and `intervals`.

    Intervals: see the module; each is {"low", "high", "level", "method", ...} or None. `seed` and `bootstrap` (number
    of replicates, 0 switches it off) make the result repeatable; `k` names `cp_at_k`.
    """
    fraud = scored.is_fraud.astype(np.float64)
    weight = scored.weight
    ranking = _Ranking.of(scored.probability)
    tp = ranking.total(weight * fraud)
    fp = ranking.total(weight * (1.0 - fraud))
    mass = float(weight.sum())
    frauds, rows = int(scored.is_fraud.sum()), len(fraud)
    scores: Json = {
        "average_precision": _average_precision(tp, fp),
        "roc_auc": _roc_auc(tp, fp),
        "recall_at_precision_0.9": _recall_at_precision(tp, fp, 0.9),
        "recall_at_precision_0.99": _recall_at_precision(tp, fp, 0.99),
        f"cp_at_{k}": card_precision(scored, k),
        f"cp_at_{k}_best_possible": _best_card_precision(scored, k),
        "ece": _ece(scored),
        "brier": float(weight @ (scored.probability - fraud) ** 2 / mass),
        "mean_probability": float(weight @ scored.probability / mass),
    }
    model = {**scores, **_decisions(scored, scored.model_outcome, costs)}
    model["intervals"] = {
        **_bootstrap(ranking, scored.is_fraud, weight, seed, bootstrap),
        **model["intervals"],
    }
    return {
        "counts": {
            "rows": rows,
            "frauds": frauds,
            "legitimate": rows - frauds,
            "weighted_rows": mass,
            "weighted_frauds": float(tp[-1]),
            "weighted_legitimate": float(fp[-1]),
            "first": _instant(int(scored.time_ms.min())),
            "last": _instant(int(scored.time_ms.max())),
            "days": _days(scored.time_ms),
        },
        "fraud_rate": {"sample": frauds / rows, "weighted": float(tp[-1]) / mass},
        **{name: value for name, value in model.items() if name != "confusion"},
        "model": model,
        "policy": _decisions(scored, scored.policy_outcome, costs),
        "costs": asdict(costs),
    }


# ------------------------------------------------------------------------------------------------------ curves


def _short(values: NDArray[Any]) -> list[float]:
    """Six significant digits: curves travel over HTTP with every model description."""
    return [float(f"{value:.6g}") for value in values.tolist()]


def curves(scored: Scored, points: int = 200, *, costs: Costs | None = None) -> Json:
    """Lines to draw, each at most about `points` long, JSON-ready, weighted.

    `pr` {recall, precision, threshold} · `roc` {fpr, tpr, threshold} · `calibration`: bins {low, high, rows, frauds,
    weight, mean_probability, fraud_rate, interval} · `cost` {threshold, review, decline, flagged, recall, precision}:
    cost per 1,000 transactions if everything from the threshold up were reviewed, or declined (`approve_all` beside it)
    · `histogram` {edges, legit, fraud}: weighted shares of each class in bins of equal log-odds. A curve without the
    class it needs is None. Rows at or above a threshold are flagged.
    """
    if points < 10:
        raise ValueError(f"curves: points is {points}, expected at least 10.")
    costs = costs or Costs()
    fraud = scored.is_fraud.astype(np.float64)
    weight = scored.weight
    ranking = _Ranking.of(scored.probability)
    tp, fp = ranking.total(weight * fraud), ranking.total(weight * (1.0 - fraud))
    mass = float(weight.sum())
    groups = len(ranking.score)
    flagged = tp + fp
    some_fraud, some_legit = tp[-1] > 0, fp[-1] > 0

    pr = roc = None
    if some_fraud:
        recall = tp[1:] / tp[-1]
        precision = np.divide(tp[1:], flagged[1:], out=np.zeros(groups), where=flagged[1:] > 0)
        at = np.searchsorted(recall, np.linspace(0.0, 1.0, points - 2), side="left")
        at = np.unique(np.clip(np.concatenate((at, [0, groups - 1])), 0, groups - 1))
        pr = {"recall": _short(recall[at]), "precision": _short(precision[at]), "threshold": _short(ranking.score[at])}
    if some_fraud and some_legit:
        tpr, fpr = tp / tp[-1], fp / fp[-1]
        half = points // 2 - 1
        low = max(float(fpr[fpr > 0].min()), 1e-7)
        at = np.concatenate(
            (
                np.searchsorted(tpr, np.linspace(0.0, 1.0, half), side="left"),
                np.searchsorted(fpr, np.geomspace(low, 1.0, half), side="right") - 1,
                [0, groups],
            )
        )
        at = np.unique(np.clip(at, 0, groups))
        score = np.concatenate(([1.0], ranking.score))
        roc = {"fpr": _short(fpr[at]), "tpr": _short(tpr[at]), "threshold": _short(score[at])}
    return {
        "pr": pr,
        "roc": roc,
        "calibration": _calibration(scored),
        "cost": _cost_curve(scored, ranking, tp, flagged, costs, points),
        "histogram": _histogram(scored),
        "fraud_rate": float(tp[-1]) / mass,
    }


def _cost_curve(scored: Scored, ranking: _Ranking, tp: Floats, flagged: Floats, costs: Costs, points: int) -> Json:
    approve, review, decline = (
        ranking.total(scored.weight * cost) for cost in costs.by_outcome(scored.is_fraud, scored.amount)
    )
    mass = float(flagged[-1])
    groups = len(ranking.score)
    # Thresholds worth seeing lie where few rows are flagged: spread half of them evenly over the logarithm of the share
    # flagged, half over the log-odds of the score.
    odds = np.clip(ranking.score, 1e-9, 1 - 1e-9)
    odds = np.log(odds / (1 - odds))
    share = np.maximum(flagged[1:], 1e-300) / mass
    at = np.concatenate(
        (
            np.searchsorted(share, np.geomspace(share[0], 1.0, points // 2), side="left"),
            groups - np.searchsorted(odds[::-1], np.linspace(odds[-1], odds[0], points - points // 2), side="right"),
            [0, groups - 1],
        )
    )
    at = np.unique(np.clip(at, 0, groups - 1))[::-1] + 1
    kilo = 1000.0 / mass
    rest = approve[-1] - approve[at]
    precision = np.divide(tp[at], flagged[at], out=np.zeros(len(at)), where=flagged[at] > 0)
    return {
        "threshold": [float(f"{ranking.threshold(int(i)):.9g}") for i in at],
        "review": _short((review[at] + rest) * kilo),
        "decline": _short((decline[at] + rest) * kilo),
        "flagged": _short(flagged[at] / mass),
        "recall": _short(tp[at] / tp[-1]) if tp[-1] > 0 else None,
        "precision": _short(precision),
        "approve_all": float(approve[-1] * kilo),
    }


def _calibration(scored: Scored) -> list[Json]:
    edges = np.array(CALIBRATION_EDGES)
    bin_of = np.clip(np.searchsorted(edges, scored.probability, side="right") - 1, 0, len(edges) - 2)
    size = len(edges) - 1
    rows = np.bincount(bin_of, minlength=size)
    frauds = np.bincount(bin_of, scored.is_fraud, minlength=size).astype(np.int64)
    mass = np.bincount(bin_of, scored.weight, minlength=size)
    expected = np.bincount(bin_of, scored.weight * scored.probability, minlength=size)
    observed = np.bincount(bin_of, scored.weight * scored.is_fraud, minlength=size)
    fraud_weight = _class_weight(scored.weight, scored.is_fraud == 1)
    legit_weight = _class_weight(scored.weight, scored.is_fraud == 0)
    bins = []
    for i in np.flatnonzero(mass > 0).tolist():
        interval = None
        bounds = exact_interval(int(frauds[i]), int(rows[i]))
        if bounds and fraud_weight is not None and legit_weight is not None:
            interval = [float(f"{fraud_weight * b / (fraud_weight * b + legit_weight * (1 - b)):.6g}") for b in bounds]
        bins.append(
            {
                "low": float(edges[i]),
                "high": float(edges[i + 1]),
                "rows": int(rows[i]),
                "frauds": int(frauds[i]),
                "weight": float(mass[i]),
                "mean_probability": float(f"{expected[i] / mass[i]:.6g}"),
                "fraud_rate": float(f"{observed[i] / mass[i]:.6g}"),
                "interval": interval,
            }
        )
    return bins


def _histogram(scored: Scored, bins: int = 40) -> Json:
    odds = np.clip(scored.probability, 1e-6, 1 - 1e-6)
    odds = np.log(odds / (1 - odds))
    low, high = float(odds.min()), float(odds.max())
    edges = np.linspace(low, high, bins + 1) if high > low else np.linspace(low - 1, high + 1, bins + 1)
    shares = []
    for label in (0, 1):
        member = scored.is_fraud == label
        total = float(scored.weight[member].sum())
        count = np.histogram(odds[member], edges, weights=scored.weight[member])[0]
        shares.append(_short(count / total) if total > 0 else None)
    return {"edges": _short(1 / (1 + np.exp(-edges))), "legit": shares[0], "fraud": shares[1]}


# -------------------------------------------------------------------------------------------------- thresholds


def choose_thresholds(
    probability: Floats, is_fraud: NDArray[np.int8], amount: Floats, weight: Floats, costs: Costs
) -> tuple[float, float]:
    """Review and decline thresholds, 0 < review <= decline < 1, of least cost on the (validation) rows given.

    A row is declined from `decline` up (probability >= decline), else reviewed from `review` up, else approved, and
    costs what `Costs` says, times its weight. Among all pairs of thresholds that

    - send at most the share `costs.capacity` of the weight to review,
    - decline frauds at a precision of at least `costs.decline_precision`, and
    - flag at a precision of at least `costs.flag_precision`,

    the cheapest is found exactly, not on a grid: declining the first a and flagging the first b distinct scores costs
    f(a) + g(b) + constant, so for each b the best a is a sliding minimum over the window capacity allows. Of equally
    cheap pairs the one that flags less wins, then the one that reviews less. Thresholds lie half way between
    neighbouring scores; equal thresholds mean an empty review band. Rows scored exactly 1 are declined, rows scored
    exactly 0 approved, whatever it costs: no threshold inside (0, 1) can do otherwise.

    Takes n rows of any order; ValueError for no fraud, different lengths, or values out of range.
    """
    n = len(probability)
    for name, values in (("is_fraud", is_fraud), ("amount", amount), ("weight", weight)):
        if len(values) != n:
            raise ValueError(f"choose_thresholds: {name} has {len(values)} rows, probability has {n}.")
    if n == 0 or not bool(((probability >= 0) & (probability <= 1)).all()):
        raise ValueError("choose_thresholds: probability needs numbers in [0, 1], at least one.")
    if not bool((np.isfinite(weight) & (weight >= 0) & np.isfinite(amount)).all()):
        raise ValueError("choose_thresholds: weight and amount must be finite, weight not negative.")
    if not float(weight[is_fraud == 1].sum()) > 0:
        raise ValueError("choose_thresholds: the validation rows hold no fraud, so no threshold can be chosen.")

    ranking = _Ranking.of(np.asarray(probability, dtype=np.float64))
    groups = len(ranking.score)
    approve, review, decline = (ranking.total(weight * cost) for cost in costs.by_outcome(is_fraud, amount))
    mass = ranking.total(np.asarray(weight, dtype=np.float64))
    caught = ranking.total(weight * is_fraud.astype(np.float64))

    slack = 1e-9 * mass[-1]  # floors and capacity hold up to rounding of the sums
    if_declined = np.where(caught >= costs.decline_precision * mass - slack, decline - review, np.inf)
    if_flagged = np.where(caught >= costs.flag_precision * mass - slack, review - approve, np.inf)
    first, last = 0, groups
    # No threshold below 1 tells 1 from its neighbour.
    for forced in range(int((ranking.score[:2] >= np.nextafter(1.0, 0.0)).sum())):
        first = forced + 1
        if_declined[forced] = if_flagged[forced] = np.inf
    if first:
        if_declined[first], if_flagged[first] = decline[first] - review[first], review[first] - approve[first]
    if ranking.score[-1] <= 0.0:
        last = max(first, groups - 1)
    earliest = np.searchsorted(mass, mass - costs.capacity * mass[-1] - slack, side="left")

    best, choice = np.inf, (first, first)
    window: deque[int] = deque()
    f, g, left = if_declined.tolist(), if_flagged.tolist(), earliest.tolist()
    for b in range(first, last + 1):
        while window and f[window[-1]] >= f[b]:
            window.pop()
        window.append(b)
        while window[0] < left[b]:
            window.popleft()
        cost = f[window[0]] + g[b]
        if cost < best:
            best, choice = cost, (window[0], b)
    floor = min(costs.flag_probability, float(np.nextafter(1.0, 0.0)))
    return max(ranking.threshold(choice[1]), floor), max(ranking.threshold(choice[0]), floor)


# --------------------------------------------------------------------------------------------------- text report


def classification_text(scored: Scored) -> str:
    """The classic classification report and confusion matrix of the rows as they are, for the model alone and for the
    whole policy; once more by weight where weights are not all 1. Each names the fraud rate it belongs to."""
    kinds = ["sample"] if bool((scored.weight == 1.0).all()) else ["sample", "weighted"]
    parts = []
    for title, outcome in (("Model alone", scored.model_outcome), ("Whole policy", scored.policy_outcome)):
        table = confusion(outcome, scored.is_fraud, scored.weight)
        for kind in kinds:
            cells = table[kind]
            total = sum(cells.values())
            rate = (cells["tp"] + cells["fn"]) / total
            by = "rows" if kind == "sample" else "rows by weight"
            parts.append(
                f"{title}: {total:,.0f} {by}, fraud rate {rate:.4%}\n\n{_report_text(cells)}\n{_confusion_text(cells)}"
            )
    return "\n".join(parts)


def _report_text(cells: Json) -> str:
    tp, fp, fn, tn = (float(cells[name]) for name in ("tp", "fp", "fn", "tn"))

    def line(hit: float, claimed: float, actual: float) -> tuple[float, float, float, float]:
        precision, recall = hit / claimed if claimed else 0.0, hit / actual if actual else 0.0
        return precision, recall, 2 * hit / (claimed + actual) if claimed + actual else 0.0, actual

    lines = [line(tn, tn + fn, tn + fp), line(tp, tp + fp, tp + fn)]
    total = tn + fn + tp + fp
    rows = dict(zip(CLASSES, lines, strict=True))
    macro = [sum(own[i] for own in lines) / 2 for i in range(3)]
    by_support = [sum(own[i] * own[3] for own in lines) / total for i in range(3)]
    width = len("weighted avg")
    text = (
        " " * width + " " + "".join(f" {head:>9}" for head in ("precision", "recall", "f1-score", "support")) + "\n\n"
    )
    for name, own in rows.items():
        text += f"{name:>{width}} " + "".join(f" {value:>9.4f}" for value in own[:3]) + f" {own[3]:>9.0f}\n"
    text += f"\n{'accuracy':>{width}} {'':>10}{'':>10} {(tp + tn) / total:>9.4f} {total:>9.0f}\n"
    for name, values in (("macro avg", macro), ("weighted avg", by_support)):
        text += f"{name:>{width}} " + "".join(f" {value:>9.4f}" for value in values) + f" {total:>9.0f}\n"
    return text


def _confusion_text(cells: Json) -> str:
    width = max(16, *(len(f"{value:,.0f}") for value in cells.values()))
    head = f"{'':>14}{'approved':>{width}}{'flagged':>{width}}\n"
    legit = f"{'actual LEGIT':>14}{cells['tn']:>{width},.0f}{cells['fp']:>{width},.0f}\n"
    return head + legit + f"{'actual FRAUD':>14}{cells['fn']:>{width},.0f}{cells['tp']:>{width},.0f}\n"
