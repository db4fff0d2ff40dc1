"""What the API answers, as frozen values: each shape once, and :func:`read`, which fills any of them from JSON.

Members that a shape does not name are left alone, so an API that is newer than this console is understood. Times are
RFC 3339 as they came; money is in the base currency unless ``currency`` stands beside it. Texts may hold parts of a
transaction: they are for plain text, code and cells, never for Markdown.
"""

import math
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from typing import Any, Literal

Outcome = Literal["approve", "review", "decline"]
OUTCOMES: tuple[Outcome, ...] = ("approve", "review", "decline")
LabelName = Literal["fraud", "legitimate"]
#: A piece of JSON that is shown as it stands.
Json = dict[str, Any]


# --- deciding --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Thresholds:
    review: float
    decline: float


@dataclass(frozen=True, slots=True)
class Reason:
    """``contribution`` is in log-odds of the calibrated probability: above zero pushes towards fraud."""

    code: str
    feature: str
    value: float | str | None
    contribution: float
    text: str


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer to one transaction. Probability, thresholds and model version are None when no model is loaded."""

    transaction_id: str
    outcome: Outcome
    fraud_probability: float | None
    decided_by: str
    thresholds: Thresholds | None
    rules: tuple[str, ...]
    reasons: tuple[Reason, ...]
    explanation: str
    amount: float
    currency: str
    amount_base: float
    base_currency: str
    model_version: str | None
    rules_version: str
    scored_at: str
    test: bool
    degraded: tuple[str, ...]

    @property
    def review_from(self) -> float | None:
        return None if self.thresholds is None else self.thresholds.review

    @property
    def decline_from(self) -> float | None:
        return None if self.thresholds is None else self.thresholds.decline


@dataclass(frozen=True, slots=True)
class FieldProblem:
    field: str
    message: str


@dataclass(frozen=True, slots=True)
class Problem:
    title: str
    detail: str
    errors: tuple[FieldProblem, ...] | None = None


@dataclass(frozen=True, slots=True)
class BatchItem:
    """One of ``decision`` and ``problem`` is there."""

    index: int
    decision: Decision | None = None
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class BatchResult:
    results: tuple[BatchItem, ...]


# --- the records -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Label:
    label: LabelName
    source: str
    time: str
    received_at: str
    note: str


@dataclass(frozen=True, slots=True)
class Transaction:
    """A recorded decision. ``label`` is the one that counts; None: nobody has said anything."""

    transaction_id: str
    received_at: str
    timestamp: str
    type: str | None
    customer_id: str | None
    counterparty_id: str | None
    device_id: str | None
    latency_ms: float
    label: Label | None
    decision: Decision


@dataclass(frozen=True, slots=True)
class TransactionList:
    """``next`` is the cursor of the page after this one; None: there is none."""

    transactions: tuple[Transaction, ...]
    next: str | None


@dataclass(frozen=True, slots=True)
class Record:
    """What made a decision: features by name, missing ones left out."""

    features: dict[str, float | None]


@dataclass(frozen=True, slots=True)
class WholeTransaction:
    transaction_id: str
    label: Label | None
    labels: tuple[Label, ...]
    decision: Decision
    record: Record


@dataclass(frozen=True, slots=True)
class FeedbackAnswer:
    label: Label
    recorded: Label


@dataclass(frozen=True, slots=True)
class Window:
    count: int
    amount: float


@dataclass(frozen=True, slots=True)
class UsualAmounts:
    of: int
    p10: float
    p50: float
    p90: float
    max: float


@dataclass(frozen=True, slots=True)
class Direction:
    """``hours``: remembered events by hour of the day, 24 of them, in the party's ``time_zone``."""

    last_hour: Window
    last_day: Window
    last_7_days: Window
    last_30_days: Window
    last_seen: str | None
    usual_amounts: UsualAmounts | None
    hours: tuple[int, ...]
    partners: int
    partners_7_days: int


@dataclass(frozen=True, slots=True)
class Place:
    time: str
    lat: float
    long: float


@dataclass(frozen=True, slots=True)
class Party:
    party_id: str
    first_seen: str | None
    updates: int
    sent: Direction
    received: Direction
    last_place: Place | None
    frauds_known: int
    base_currency: str
    time_zone: str


@dataclass(frozen=True, slots=True)
class Day:
    """One UTC day of arrivals. Shares are of what is labelled; ``mature``: most labels are there."""

    day: str
    decisions: int
    outcomes: dict[str, int]
    alerts: int
    degraded: int
    amount: float
    declined_amount: float
    labelled: int
    fraud: int
    fraud_amount_flagged: float
    fraud_amount_missed: float
    precision: float | None
    recall: float | None
    false_positive_rate: float | None
    mature: bool
    latency_p50_ms: float | None
    latency_p99_ms: float | None
    complete: bool


@dataclass(frozen=True, slots=True)
class Summary:
    base_currency: str
    label_delay_days: float
    days: tuple[Day, ...]


# --- drift -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Histogram:
    """Shares of each bin, the missing ones last; ``edges`` lie between the bins, ``levels`` name them."""

    edges: tuple[float, ...]
    levels: tuple[str, ...]
    reference: tuple[float, ...]
    found: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    name: str
    state: str
    alarm: bool
    n: int
    psi: float | None
    limit: float | None
    ks: float | None
    missing: float | None
    missing_reference: float
    histogram: Histogram


@dataclass(frozen=True, slots=True)
class Calibration:
    state: str
    alarm: bool
    n: int
    days: int
    labelled: int
    observed: int
    expected: float
    ratio: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Drift:
    state: str
    model_version: str
    since: str
    until: str
    n: int
    left_out: int
    complete: bool
    history_days: float
    alarms: tuple[str, ...]
    features: tuple[Finding, ...]
    score: Finding
    calibration: Calibration


# --- the model -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule as the service has it: ``expression`` is CEL, ``reason`` a sentence for people."""

    id: str
    expression: str
    outcome: str
    reason: str
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class PrecisionRecall:
    recall: tuple[float, ...]
    precision: tuple[float, ...]
    threshold: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Roc:
    fpr: tuple[float, ...]
    tpr: tuple[float, ...]
    threshold: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class CalibrationBin:
    rows: int
    frauds: int
    mean_probability: float
    fraud_rate: float
    interval: tuple[float, ...] | None


@dataclass(frozen=True, slots=True)
class CostCurve:
    """By threshold, low to high: cost per 1,000 transactions if all from there up were reviewed, or declined."""

    threshold: tuple[float, ...]
    review: tuple[float, ...]
    decline: tuple[float, ...]
    flagged: tuple[float, ...]
    recall: tuple[float, ...] | None
    precision: tuple[float, ...]
    approve_all: float


@dataclass(frozen=True, slots=True)
class Curves:
    pr: PrecisionRecall | None
    roc: Roc | None
    calibration: tuple[CalibrationBin, ...]
    cost: CostCurve
    fraud_rate: float


@dataclass(frozen=True, slots=True)
class Importance:
    """``mean_abs``: mean size of the feature's share of the score, in log-odds."""

    feature: str
    mean_abs: float


@dataclass(frozen=True, slots=True)
class Challenger:
    model_version: str
    trained_at: str
    share: float | None
    thresholds: Thresholds
    metrics: Json | None
    shadow: Json | None


@dataclass(frozen=True, slots=True)
class Model:
    """``rules`` as they came, for a draft of the rules file; ``lists`` are the numbers of entries by list."""

    model_version: str
    serial: int | None
    trained_at: str
    thresholds: Thresholds
    features: tuple[Json, ...]
    attributes: tuple[Json, ...]
    base_currency: str
    time_zone: str
    rules_version: str
    rules: tuple[Json, ...]
    lists: dict[str, int]
    metrics: Json | None
    curves: Curves | None
    challenger: Challenger | None
    degraded: tuple[str, ...]
    #: Of the rows that thresholds were chosen on; an API older than this console does not tell the last three.
    validation_curves: Curves | None = None
    importance: tuple[Importance, ...] | None = None
    model_card: str | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """The part of ``GET /model`` that explains the rules of a decision."""

    rules: tuple[Rule, ...]


# --- trying a change -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Checked:
    variables: tuple[str, ...]
    rules: tuple[str, ...] | None
    rules_version: str | None


@dataclass(frozen=True, slots=True)
class Share:
    """``part`` of ``whole`` with its interval at 95 %."""

    part: int
    whole: int
    share: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Count:
    decisions: int
    amount: float


@dataclass(frozen=True, slots=True)
class Move:
    before: str
    after: str
    fraud: Count
    legitimate: Count
    unlabelled: Count


@dataclass(frozen=True, slots=True)
class Cost:
    reviews: float
    missed_frauds: float
    false_declines: float
    total: float


@dataclass(frozen=True, slots=True)
class Figures:
    outcomes: dict[str, int]
    reviews_per_day: float
    declines_per_day: float
    precision: Share
    recall: Share
    cost: Cost
    capacity_used: float | None
    days_over_capacity: int


@dataclass(frozen=True, slots=True)
class Money:
    fraud_caught: Count
    fraud_lost: Count
    legitimate_held: Count
    legitimate_released: Count
    unlabelled_held: Count
    unlabelled_released: Count


@dataclass(frozen=True, slots=True)
class Hits:
    decisions: int
    fraud: int
    legitimate: int
    unlabelled: int
    fraud_amount: float


@dataclass(frozen=True, slots=True)
class RuleFigures:
    id: str
    outcome: str | None
    enabled: bool
    hits_before: int
    hits: Hits
    precision: Share
    alone: Hits
    failed: int


@dataclass(frozen=True, slots=True)
class Labels:
    fraud: int
    legitimate: int
    none: int
    young: int


@dataclass(frozen=True, slots=True)
class Flip:
    transaction_id: str
    received_at: str
    amount: float
    label: str
    before: str
    after: str
    rules_before: tuple[str, ...]
    rules_after: tuple[str, ...]
    probability_after: float | None


@dataclass(frozen=True, slots=True)
class DayFigures:
    day: str
    decisions: int
    reviews_before: int
    reviews_after: int
    declines_before: int
    declines_after: int


@dataclass(frozen=True, slots=True)
class Backtest:
    """What a changed policy would have done with decisions that were made."""

    decisions: int
    flipped: int
    left_out: dict[str, int]
    complete: bool
    first: str | None
    last: str | None
    days: float
    base_currency: str
    rules_version: str
    thresholds: Thresholds | None
    labels: Labels
    moves: tuple[Move, ...]
    money: Money
    before: Figures
    after: Figures
    capacity_per_day: float
    rules: tuple[RuleFigures, ...]
    examples: tuple[Flip, ...]
    by_day: tuple[DayFigures, ...]
    notes: tuple[str, ...]


# --- who asks --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Route:
    method: str
    path: str


@dataclass(frozen=True, slots=True)
class Me:
    """Whose key this is, and what it opens."""

    name: str
    role: str
    routes: tuple[Route, ...]

    def may(self, method: str, path: str) -> bool:
        """Whether the key opens a route, named by its template such as ``/parties/{party_id}``."""
        return Route(method, path) in self.routes


# --- reading ---------------------------------------------------------------------------------------------------------


def read[T](shape: type[T], value: object) -> T:
    """``value``, as ``json.loads`` gives it, as one of the shapes above. Raises ``ValueError``, naming no value."""
    reader = _reader(typing.cast(typing.Hashable, shape))
    return typing.cast(T, reader(value))


def number(value: object) -> float:
    """A finite JSON number as float; anything else (a text, a boolean, NaN) is a ``ValueError``."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError
    return float(value)


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError
    return value


def _exactly(kind: type) -> Callable[[object], object]:
    def reader(value: object) -> object:
        if not isinstance(value, kind):
            raise ValueError
        return value

    return reader


@cache
def _reader(shape: Any) -> Callable[[object], object]:
    """What reads one type. JSON has few: null, booleans, numbers, texts, lists, objects."""
    origin, parts = typing.get_origin(shape), typing.get_args(shape)
    if shape is float:
        return number
    if shape is int:
        return _whole
    if shape in (str, bool):
        return _exactly(shape)
    if shape is Any:
        return lambda value: value
    if origin is Literal:
        return lambda value: parts[parts.index(value)]
    if origin in (typing.Union, types.UnionType):
        return _first_of([_reader(part) for part in parts if part is not type(None)], type(None) in parts)
    if origin is tuple:
        return _many(_reader(parts[0]))
    if origin is dict:
        return _by_name(_reader(parts[1]))
    if is_dataclass(shape):
        return _object(shape)
    raise TypeError(shape)


def _first_of(readers: list[Callable[[object], object]], or_none: bool) -> Callable[[object], object]:
    def reader(value: object) -> object:
        if value is None and or_none:
            return None
        for each in readers[:-1]:
            try:
                return each(value)
            except ValueError:
                continue
        return readers[-1](value)

    return reader


def _many(each: Callable[[object], object]) -> Callable[[object], object]:
    def reader(value: object) -> object:
        if not isinstance(value, list):
            raise ValueError
        return tuple(each(item) for item in value)

    return reader


def _by_name(each: Callable[[object], object]) -> Callable[[object], object]:
    def reader(value: object) -> object:
        if not isinstance(value, dict):
            raise ValueError
        return {name: each(item) for name, item in value.items()}

    return reader


def _object(shape: Any) -> Callable[[object], object]:
    hints = typing.get_type_hints(shape)
    readers: Mapping[str, Callable[[object], object]] = {each.name: _reader(hints[each.name]) for each in fields(shape)}
    optional = {each.name for each in fields(shape) if each.default is not MISSING}

    def reader(value: object) -> object:
        if not isinstance(value, dict):
            raise ValueError
        try:
            found = {name: each(value[name]) for name, each in readers.items() if name in value or name not in optional}
        except KeyError:
            raise ValueError from None
        return shape(**found)

    return reader
