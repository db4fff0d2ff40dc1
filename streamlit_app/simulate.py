"""What thresholds cost: the curves of a model's own rows, under costs of one's own choosing.

The API tells, for each threshold, what it would cost to review, or to decline, everything from there up, under the
costs that the model was trained with; and which share that is, and how many of the frauds. From these two curves those
costs themselves can be read back, and with them what the frauds below a threshold lose: :func:`read_back`. With other
costs the same rows then give other curves, another best pair of thresholds, and what a day of it looks like.

Money is in the base currency; shares are of all transactions.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from streamlit_app.answers import CostCurve, Curves, Thresholds

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Costs:
    """``fraud`` is what a missed fraud loses on the average, ``catch`` the share of the frauds reviewed that is caught.

    ``per_day`` transactions come a day, and people can review ``capacity`` of them a day. Of what is declined at least
    the share ``precision`` is to be fraud.
    """

    fraud: float
    review: float
    catch: float
    false_decline: float
    per_day: float
    capacity: float
    precision: float = 0.0


@dataclass(frozen=True, slots=True)
class Policy:
    """One pair of thresholds under costs. ``cost`` is for 1,000 transactions, the rest for a day or as shares."""

    thresholds: Thresholds
    cost: float
    reviews_per_day: float
    declines_per_day: float
    recall: float
    precision: float | None
    decline_precision: float | None
    within: bool  #: capacity and precision hold


@dataclass(frozen=True, slots=True)
class Grid:
    """The curves as numbers (n,), from nothing flagged (threshold above 1) to everything. Of 1,000 transactions:

    ``flagged``, ``frauds`` and ``legitimate`` from the threshold up, ``lost``: money lost to the frauds below it, at
    the costs of training, so that ``lost[0]`` is what approving everything costs.
    """

    threshold: Floats
    flagged: Floats
    frauds: Floats
    legitimate: Floats
    lost: Floats

    def at(self, threshold: float) -> int:
        """The last point that flags nothing below ``threshold``."""
        return int(np.searchsorted(-self.threshold, -threshold, side="right")) - 1


def read_back(curves: Curves, thresholds: Thresholds) -> tuple[Grid, Costs] | None:
    """The grid, and the costs that the curves were drawn with; None where they hold no fraud.

    ``per_day`` is 1,000 and capacity what the model's own thresholds send to review: neither is in the curves.
    Everything flagged and declined costs the legitimate ones alone, which gives ``false_decline``; then declining gives
    what is lost; then reviewing gives ``review`` and ``catch``, by least squares, since figures come rounded.
    """
    curve: CostCurve = curves.cost
    if curve.recall is None or not curves.fraud_rate or len(curve.threshold) < 3:
        return None
    flagged = 1000 * np.array([0.0, *curve.flagged[::-1]])
    frauds = 1000 * curves.fraud_rate * np.array([0.0, *curve.recall[::-1]])
    legitimate = np.maximum(flagged - frauds, 0.0)
    decline = np.array([curve.approve_all, *curve.decline[::-1]])
    review = np.array([curve.approve_all, *curve.review[::-1]])
    false_decline = float(decline[-1] / legitimate[-1]) if legitimate[-1] else 0.0
    lost = np.clip(decline - false_decline * legitimate, 0.0, curve.approve_all)
    lost = np.minimum.accumulate(lost)
    # review - lost = per_review * flagged + (1 - catch) * (approve_all - lost)
    terms = np.stack([flagged, curve.approve_all - lost], axis=1)
    (per_review, slips), *_ = np.linalg.lstsq(terms, review - lost, rcond=None)
    grid = Grid(np.array([1.0 + 1e-9, *curve.threshold[::-1]]), flagged, frauds, legitimate, lost)
    costs = Costs(
        fraud=_round(curve.approve_all / (1000 * curves.fraud_rate)),
        review=max(_round(float(per_review)), 0.0),
        catch=min(max(round(1 - float(slips), 3), 0.0), 1.0),
        false_decline=_round(false_decline),
        per_day=1000.0,
        capacity=0.0,
    )
    own = judge(grid, costs, thresholds)
    return grid, replace(costs, capacity=float(np.ceil(max(own.reviews_per_day, 1.0))))


def judge(grid: Grid, costs: Costs, thresholds: Thresholds) -> Policy:
    """What a pair of thresholds does."""
    return _policy(grid, costs, grid.at(thresholds.decline), grid.at(thresholds.review), thresholds)


def best(grid: Grid, costs: Costs) -> Policy:
    """The cheapest pair of the grid's thresholds that people can keep up with; if there is none, nobody is flagged."""
    total = _declining(grid, costs)[:, None] + _reviewing(grid, costs)
    # A review threshold never lies above the decline threshold.
    allowed = np.arange(len(grid.threshold))[:, None] <= np.arange(len(grid.threshold))[None, :]
    reviews = grid.flagged[None, :] - grid.flagged[:, None]
    allowed &= reviews * costs.per_day <= costs.capacity * 1000 + 1e-6
    declined = np.maximum(grid.flagged, 1e-300)
    allowed &= ((grid.frauds / declined >= costs.precision - 1e-9) | (grid.flagged == 0))[:, None]
    i, j = np.unravel_index(int(np.where(allowed, total, np.inf).argmin()), total.shape)
    pair = Thresholds(_between(grid, int(j)), _between(grid, int(i)))
    return _policy(grid, costs, int(i), int(j), pair)


def review_curve(grid: Grid, costs: Costs, decline_from: float) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """By review threshold, with the decline threshold held: cost per 1,000 (n,), NaN where it would lie above that,
    and whether people keep up (n,).
    """
    i = grid.at(decline_from)
    cost = _declining(grid, costs)[i] + _reviewing(grid, costs)[i]
    fits = (grid.flagged - grid.flagged[i]) * costs.per_day <= costs.capacity * 1000 + 1e-6
    return np.where(np.arange(len(cost)) >= i, cost, np.nan), fits


def _scale(grid: Grid, costs: Costs) -> float:
    """Of the money lost: a missed fraud costs ``costs.fraud`` on the average, and the dear ones more."""
    return costs.fraud * grid.frauds[-1] / grid.lost[0] if grid.lost[0] else 0.0


def _declining(grid: Grid, costs: Costs) -> Floats:
    """Of declining all from each threshold up (n,)."""
    return costs.false_decline * grid.legitimate


def _reviewing(grid: Grid, costs: Costs) -> Floats:
    """Of reviewing what lies between two thresholds, and approving the rest (n, n): [decline, review]."""
    lost = grid.lost * _scale(grid, costs)
    band = grid.flagged[None, :] - grid.flagged[:, None]
    slipping = (1 - costs.catch) * (lost[:, None] - lost[None, :])
    return np.asarray(costs.review * band + slipping + lost[None, :])


def _policy(grid: Grid, costs: Costs, i: int, j: int, thresholds: Thresholds) -> Policy:
    """Declined from point ``i`` up, reviewed from point ``j`` up."""
    j = max(i, j)
    lost = grid.lost * _scale(grid, costs)
    reviews = float(grid.flagged[j] - grid.flagged[i])
    cost = (
        costs.false_decline * grid.legitimate[i]
        + costs.review * reviews
        + (1 - costs.catch) * (lost[i] - lost[j])
        + lost[j]
    )
    declined, flagged = float(grid.flagged[i]), float(grid.flagged[j])
    decline_precision = float(grid.frauds[i]) / declined if declined else None
    days = costs.per_day / 1000
    return Policy(
        thresholds=thresholds,
        cost=float(cost),
        reviews_per_day=reviews * days,
        declines_per_day=declined * days,
        recall=float(grid.frauds[j] / grid.frauds[-1]),
        precision=float(grid.frauds[j]) / flagged if flagged else None,
        decline_precision=decline_precision,
        within=reviews * days <= costs.capacity + 1e-6
        and (decline_precision is None or decline_precision >= costs.precision - 1e-9),
    )


def _between(grid: Grid, index: int) -> float:
    """A threshold that flags the points up to ``index``; inside (0, 1)."""
    return float(np.clip(grid.threshold[index], 1e-6, 1 - 1e-6))


def _round(value: float) -> float:
    """To the cent, or to four digits where money is large: the curves do not say more."""
    return float(f"{value:.4g}") if abs(value) >= 100 else round(value, 2)
