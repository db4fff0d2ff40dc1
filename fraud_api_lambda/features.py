"""What the model sees. One statement of every feature, run live by the service and in replay by training.

:func:`transaction_features` is plain arithmetic over numbers (``+ - * /`` and comparisons only: nothing that libraries
round differently), so that the service calls it on Python floats and training runs the very same function under
``numba.njit`` on columns. :func:`fill` is the only place where a missing value gets a substitute, for training, the
model and the rules alike.

A feature's meaning never changes: a change is a new name or a new version, and a bundle names both. The code computes
all it knows, a bundle picks by name, and a bundle that names something unknown is refused.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from .errors import BundleRefused, FieldError, InvalidRequest
from .schemas import HOUR_MS, TYPES, Event

Floats = npt.NDArray[np.float64]

DAY_MS = 24 * HOUR_MS
#: Night is from midnight to before this hour, in the bundle's time zone.
NIGHT_ENDS_HOUR = 6

#: number: as it is. flag: 0 or 1, a boolean in rules. ratio: :func:`fill` recomputes it from its filled parts.
Kind = Literal["number", "flag", "ratio"]
#: What a feature is made of; a training run picks by it (``posted`` is known only after authorisation).
Source = Literal["transaction", "balance", "posted", "place", "attribute"]


class Feature(NamedTuple):
    """One feature's contract. ``group`` joins columns that are one thing to a reader (the types): their reasons add up.

    ``subject`` begins the sentence of a reason; a flag has two, for 1 and for 0. ``unit`` is for the docs and reports.
    """

    name: str
    kind: Kind
    source: Source
    unit: str
    subject: str
    otherwise: str = ""
    group: str = ""
    version: int = 1


#: Order is the order of the columns that :func:`transaction_features` writes.
FEATURES: tuple[Feature, ...] = (
    Feature("amount", "number", "transaction", "base currency", "The amount"),
    Feature("is_payment", "flag", "transaction", "0/1", "The type", "The type", group="type"),
    Feature("is_transfer", "flag", "transaction", "0/1", "The type", "The type", group="type"),
    Feature("is_cash_out", "flag", "transaction", "0/1", "The type", "The type", group="type"),
    Feature("is_cash_in", "flag", "transaction", "0/1", "The type", "The type", group="type"),
    Feature("is_debit", "flag", "transaction", "0/1", "The type", "The type", group="type"),
    Feature("hour_of_day", "number", "transaction", "0-23, local", "The hour of day"),
    Feature("day_of_week", "number", "transaction", "0-6, Monday is 0, local", "The day of the week"),
    Feature("is_night", "flag", "transaction", "0/1", "That it happened at night", "That it did not happen at night"),
    Feature("oldbalance_orig", "number", "balance", "base currency", "The customer's balance before"),
    Feature("oldbalance_dest", "number", "balance", "base currency", "The counterparty's balance before"),
    Feature("amount_to_balance", "ratio", "balance", "ratio", "The amount's share of the balance"),
    Feature(
        "drains_account", "flag", "balance", "0/1",
        "That it empties the account to the cent", "That it does not empty the account to the cent",
    ),
    Feature("balance_shortfall", "ratio", "balance", "base currency", "The part of the amount beyond the balance"),
    Feature(
        "dest_was_empty", "flag", "balance", "0/1",
        "That the counterparty's account was empty", "That the counterparty's account was not empty",
    ),
    Feature("newbalance_orig", "number", "posted", "base currency", "The customer's balance after"),
    Feature("newbalance_dest", "number", "posted", "base currency", "The counterparty's balance after"),
    Feature("balance_error_orig", "number", "posted", "base currency", "The gap in the customer's balance"),
    Feature("balance_error_dest", "number", "posted", "base currency", "The gap in the counterparty's balance"),
    Feature("latitude", "number", "place", "degrees", "The latitude"),
    Feature("longitude", "number", "place", "degrees", "The longitude"),
)  # fmt: skip
NAMES: tuple[str, ...] = tuple(feature.name for feature in FEATURES)
WIDTH = len(FEATURES)

_AMOUNT = NAMES.index("amount")
_OLDBALANCE_ORIG = NAMES.index("oldbalance_orig")
_AMOUNT_TO_BALANCE = NAMES.index("amount_to_balance")
_BALANCE_SHORTFALL = NAMES.index("balance_shortfall")


def transaction_features(
    time_ms: int,
    offset_s: int,
    amount_minor: float,
    minor_factor: float,
    type_code: int,
    oldbalance_orig: float,
    newbalance_orig: float,
    oldbalance_dest: float,
    newbalance_dest: float,
    lat: float,
    long: float,
    out: Any,
) -> None:
    """Write one transaction's own features into ``out``, a mutable sequence of at least ``WIDTH`` floats.

    Times in ms of UTC, ``offset_s`` the zone's seconds east of UTC at that time; amounts and balances in minor units
    (whole numbers, NaN: absent), ``minor_factor`` of them make one unit of the base currency; ``type_code`` is a
    position in ``schemas.TYPES`` or -1; degrees, NaN: absent. Never raises.
    """
    amount = amount_minor / minor_factor
    local = time_ms + offset_s * 1000
    hour = (local // 3_600_000) % 24
    out[0] = amount
    for code in range(5):
        out[1 + code] = math.nan if type_code < 0 else (1.0 if type_code == code else 0.0)
    out[6] = float(hour)
    out[7] = float((local // 86_400_000 + 3) % 7)  # 1970-01-01 was a Thursday
    out[8] = 1.0 if hour < 6 else 0.0
    balance = oldbalance_orig / minor_factor
    out[9] = balance
    out[10] = oldbalance_dest / minor_factor
    out[11] = amount / (balance + 1.0)  # one unit keeps an empty account finite; NaN stays NaN
    if oldbalance_orig != oldbalance_orig:
        out[12] = math.nan
        out[13] = math.nan
    else:
        out[12] = 1.0 if amount_minor == oldbalance_orig and amount_minor > 0 else 0.0
        out[13] = amount - balance if amount > balance else 0.0
    if oldbalance_dest != oldbalance_dest:
        out[14] = math.nan
    else:
        out[14] = 1.0 if oldbalance_dest == 0 else 0.0
    out[15] = newbalance_orig / minor_factor
    out[16] = newbalance_dest / minor_factor
    out[17] = (newbalance_orig - (oldbalance_orig - amount_minor)) / minor_factor
    out[18] = (newbalance_dest - (oldbalance_dest + amount_minor)) / minor_factor
    out[19] = lat
    out[20] = long


def fill(values: Floats, population: Floats) -> Floats:
    """Substitute what is missing: ``values`` (..., columns) with NaN -> without, wherever a substitute is known.

    ``population`` (columns,) holds the means of the training rows, NaN where even those are unknown. A ratio whose
    parts were missing is computed anew from the filled parts, so that it never contradicts them.
    """
    missing = np.isnan(values)
    if not missing.any():
        return values
    filled = np.where(missing, population, values)
    amount = filled[..., _AMOUNT]
    balance = filled[..., _OLDBALANCE_ORIG]
    for column, ratio in (
        (_AMOUNT_TO_BALANCE, amount / (balance + 1.0)),
        (_BALANCE_SHORTFALL, np.maximum(amount - balance, 0.0)),
    ):
        filled[..., column] = np.where(missing[..., column], ratio, filled[..., column])
    return filled


@dataclass(frozen=True, slots=True)
class TimeZone:
    """A zone as a table of instants, so that serving needs no zone database and cannot disagree with training.

    ``starts_ms`` (n,) ascending; ``offsets_s`` (n,) the seconds east of UTC from that instant on. Before the first
    instant the first offset holds.
    """

    name: str = "UTC"
    starts_ms: tuple[int, ...] = (0,)
    offsets_s: tuple[int, ...] = (0,)

    def offset_at(self, time_ms: int) -> int:
        return zone_offset(time_ms, self.starts_ms, self.offsets_s)


def zone_offset(time_ms: int, starts_ms: Sequence[int], offsets_s: Sequence[int]) -> int:
    """Seconds east of UTC at ``time_ms``. Plain, so that replay compiles the very same search."""
    low = 0
    high = len(starts_ms)
    while high - low > 1:
        middle = (low + high) // 2
        if starts_ms[middle] <= time_ms:
            low = middle
        else:
            high = middle
    return offsets_s[low]


class Attribute(NamedTuple):
    """One of the user's own columns as a bundle declares it: a number, or text with the levels seen in training."""

    name: str
    kind: Literal["number", "text"]
    levels: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """A number is one column; text is one flag for each level."""
        if self.kind == "number":
            return (f"attributes.{self.name}",)
        return tuple(f"attributes.{self.name}={level}" for level in self.levels)


@dataclass(frozen=True)
class FeatureSet:
    """The columns of a bundle: all of ``FEATURES``, then the declared attributes, of which ``picked`` go to the model.

    ``picked`` are names; ``index`` (len(picked),) their positions among ``columns``.
    """

    attributes: tuple[Attribute, ...] = ()
    picked: tuple[str, ...] = ()
    time_zone: TimeZone = field(default_factory=TimeZone)
    minor_factor: float = 100.0

    columns: tuple[str, ...] = field(init=False)
    index: npt.NDArray[np.intp] = field(init=False)

    def __post_init__(self) -> None:
        columns = NAMES + tuple(name for attribute in self.attributes for name in attribute.columns)
        if len(set(columns)) != len(columns):
            raise BundleRefused("The bundle declares a column twice.")
        unknown = [name for name in self.picked if name not in columns]
        if unknown:
            raise BundleRefused(f"The bundle needs features this service does not know: {', '.join(unknown[:5])}.")
        object.__setattr__(self, "columns", columns)
        object.__setattr__(self, "index", np.array([columns.index(name) for name in self.picked], np.intp))

    def compute(self, event: Event) -> Floats:
        """Raw features of one event, (len(columns),) float64, NaN where missing. Raises ``InvalidRequest``."""
        row = [math.nan] * WIDTH
        transaction_features(
            event.time_ms,
            self.time_zone.offset_at(event.time_ms),
            event.amount_minor,
            self.minor_factor,
            event.type_code,
            event.oldbalance_orig,
            event.newbalance_orig,
            event.oldbalance_dest,
            event.newbalance_dest,
            event.lat,
            event.long,
            row,
        )
        if self.attributes:
            row.extend(self._attributes(event.attributes))
        return np.array(row)

    def _attributes(self, sent: Mapping[str, float | str]) -> Iterable[float]:
        for attribute in self.attributes:
            value = sent.get(attribute.name)
            if attribute.kind == "number":
                if isinstance(value, str):
                    problem = FieldError(f"attributes.{attribute.name}", "must be a number: the bundle declares it so")
                    raise InvalidRequest("The transaction is not valid.", (problem,))
                yield math.nan if value is None else value
            elif value is None:
                yield from (math.nan for _ in attribute.levels)
            else:
                # A number where text is declared is compared as text, as the loaders read it.
                text = value if isinstance(value, str) else format(value, ".15g")
                yield from (1.0 if text == level else 0.0 for level in attribute.levels)


def describe(name: str) -> Feature:
    """The contract of a column by name; an attribute's is made from its name."""
    if name in NAMES:
        return FEATURES[NAMES.index(name)]
    label, _, level = name.removeprefix("attributes.").partition("=")
    kind: Kind = "flag" if level else "number"
    subject = f"The attribute {label}"
    return Feature(name, kind, "attribute", "0/1" if level else "as sent", subject, subject, f"attributes.{label}")


def group_of(name: str) -> str:
    """What a column is called in reasons: its group, or its own name."""
    return describe(name).group or name


def type_name(type_code: int) -> str | None:
    return None if type_code < 0 else TYPES[type_code]
