"""What the model sees. One statement of every feature, run live by the service and in replay by training.

:func:`transaction_features` reads the transaction alone; :func:`customer_features`, :func:`device_features` and
:func:`counterparty_features` read it and *one* party's profile each, so that history can be replayed party by party.
All are plain arithmetic over numbers (``+ - * /``, square root and comparisons only: nothing that libraries round
differently), so that the service calls them on Python numbers and training runs the very same functions under
``numba.njit`` on columns. :func:`fill` is the only place where a missing value gets a substitute, for training, the
model and the rules alike.

A feature's meaning never changes: a change is a new name or a new version, and a bundle names both. The code computes
all it knows, a bundle picks by name, and a bundle that names something unknown is refused.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from . import profiles
from .errors import BundleRefused, FieldError, InvalidRequest
from .schemas import HOUR_MS, TYPES, Event

Floats = npt.NDArray[np.float64]

DAY_MS = 24 * HOUR_MS
#: Night is from midnight to before this hour, in the bundle's time zone.
NIGHT_ENDS_HOUR = 6

#: number: as it is. flag: 0 or 1, a boolean in rules. ratio: :func:`fill` recomputes it from its filled parts.
Kind = Literal["number", "flag", "ratio"]
#: What a feature is made of; a training run picks by it: ``posted`` is known only after authorisation, ``label`` only
#: where the service learns which transactions were frauds.
Source = Literal["transaction", "balance", "posted", "place", "history", "label", "attribute"]


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
    # the customer's past
    Feature("count_last_1h", "number", "history", "events", "The customer's transactions in the last hour"),
    Feature("amount_last_1h", "number", "history", "base currency", "What the customer sent in the last hour"),
    Feature("count_24h", "number", "history", "events", "The customer's transactions in 24 hours"),
    Feature("amount_24h", "number", "history", "base currency", "What the customer sent in 24 hours"),
    Feature("avg_amount_7d", "number", "history", "base currency", "The customer's average amount of 7 days"),
    Feature("amount_ratio", "ratio", "history", "ratio", "The amount against the customer's average of 7 days"),
    Feature("avg_amount_30d", "number", "history", "base currency", "The customer's average amount of 30 days"),
    Feature("count_30d", "number", "history", "events", "The customer's transactions in 30 days"),
    Feature("seconds_since_last", "number", "history", "seconds", "The time since the customer's last transaction"),
    Feature(
        "new_counterparty", "flag", "history", "0/1",
        "That the customer never dealt with this counterparty", "That the customer knows this counterparty",
    ),
    Feature("distance_km", "number", "history", "km", "The distance from the customer's last place"),
    Feature("speed_kmh", "number", "history", "km/h", "The speed of travel from the customer's last place"),
    Feature("in_last_1h", "number", "history", "base currency", "What the customer received in the last hour"),
    Feature("out_last_1h", "number", "history", "base currency", "What the customer passed on in the last hour"),
    Feature("in_out_ratio", "ratio", "history", "ratio", "The share of what goes out that has just come in"),
    Feature("amount_ratio_30d", "ratio", "history", "ratio", "The amount against the customer's average of 30 days"),
    Feature("avg_amount_trend", "ratio", "history", "ratio", "The trend of the customer's amounts"),
    # the device's past
    Feature(
        "new_device", "flag", "history", "0/1",
        "That the customer never used this device", "That the customer has used this device",
    ),
    # the counterparty's past
    Feature("counterparty_count_24h", "number", "history", "events", "The counterparty's receipts in 24 hours"),
    Feature("counterparty_amount_24h", "number", "history", "base currency", "What the counterparty got in 24 hours"),
    Feature(
        "counterparty_distinct_senders_7d", "number", "history", "parties", "The counterparty's senders of 7 days",
    ),
    Feature("counterparty_age_days", "number", "history", "days", "The time since the counterparty was first seen"),
    Feature("counterparty_count_30d", "number", "history", "events", "The counterparty's receipts in 30 days"),
    Feature("counterparty_fraud_rate_1d", "number", "label", "share", "The counterparty's known frauds of a day"),
    Feature("counterparty_fraud_rate_7d", "number", "label", "share", "The counterparty's known frauds of 7 days"),
    Feature("counterparty_fraud_rate_30d", "number", "label", "share", "The counterparty's known frauds of 30 days"),
    Feature("counterparty_days_since_fraud", "number", "label", "days", "The time since the counterparty's last fraud"),
    Feature(
        "counterparty_days_since_first_fraud", "number", "label", "days",
        "The time since the counterparty's first fraud",
    ),
    Feature(
        "counterparty_days_since_legitimate", "number", "label", "days",
        "The time since the counterparty was free of fraud",
    ),
)  # fmt: skip
NAMES: tuple[str, ...] = tuple(feature.name for feature in FEATURES)
WIDTH = len(FEATURES)

_AMOUNT = NAMES.index("amount")
_OLDBALANCE_ORIG = NAMES.index("oldbalance_orig")
_AMOUNT_TO_BALANCE = NAMES.index("amount_to_balance")
_BALANCE_SHORTFALL = NAMES.index("balance_shortfall")
_AVG_AMOUNT_7D = NAMES.index("avg_amount_7d")
_AMOUNT_RATIO = NAMES.index("amount_ratio")
_AVG_AMOUNT_30D = NAMES.index("avg_amount_30d")
_AMOUNT_RATIO_30D = NAMES.index("amount_ratio_30d")
_AVG_AMOUNT_TREND = NAMES.index("avg_amount_trend")
_IN_LAST_1H = NAMES.index("in_last_1h")
_OUT_LAST_1H = NAMES.index("out_last_1h")
_IN_OUT_RATIO = NAMES.index("in_out_ratio")

#: How each ratio follows from filled columns.
_RATIOS: tuple[tuple[int, Callable[[Floats], Floats]], ...] = (
    (_AMOUNT_TO_BALANCE, lambda x: x[..., _AMOUNT] / (x[..., _OLDBALANCE_ORIG] + 1.0)),
    (_BALANCE_SHORTFALL, lambda x: np.maximum(x[..., _AMOUNT] - x[..., _OLDBALANCE_ORIG], 0.0)),
    (_AMOUNT_RATIO, lambda x: x[..., _AMOUNT] / np.maximum(x[..., _AVG_AMOUNT_7D], 0.01)),
    (_AMOUNT_RATIO_30D, lambda x: x[..., _AMOUNT] / np.maximum(x[..., _AVG_AMOUNT_30D], 0.01)),
    (_AVG_AMOUNT_TREND, lambda x: x[..., _AVG_AMOUNT_7D] / np.maximum(x[..., _AVG_AMOUNT_30D], 0.01)),
    (_IN_OUT_RATIO, lambda x: x[..., _IN_LAST_1H] / (x[..., _OUT_LAST_1H] + x[..., _AMOUNT] + 1.0)),
)

#: Where each party's columns begin; a column of a party that the transaction does not name stays missing.
CUSTOMER_AT = NAMES.index("count_last_1h")
DEVICE_AT = NAMES.index("new_device")
COUNTERPARTY_AT = NAMES.index("counterparty_count_24h")

KM_PER_DEGREE = 111.19492664455873  #: of a great circle on a sphere of 6,371 km radius


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


def distance_km(lat_a: int, long_a: int, lat_b: int, long_b: int) -> float:
    """Kilometres between two places in millionths of degrees, on the plane that touches the sphere half way.

    Within 1 % of the great circle up to about 1,000 km and rougher beyond, where it only has to say "far". The cosine
    is a polynomial: the C library's differs from machine to machine.
    """
    north = (lat_b - lat_a) * 1e-6
    east = long_b - long_a
    if east < 0:
        east = -east
    if east > 180_000_000:
        east = 360_000_000 - east
    x = (lat_a + lat_b) * (0.5e-6 * 0.017453292519943295)
    x2 = x * x
    cosine = 1.0 - x2 * (0.5 - x2 * (1 / 24 - x2 * (1 / 720 - x2 * (1 / 40_320 - x2 / 3_628_800))))
    east_degrees = east * 1e-6 * cosine
    return KM_PER_DEGREE * math.sqrt(north * north + east_degrees * east_degrees)


def customer_features(
    s: Any,
    time_ms: int,
    key: int,
    amount_minor: float,
    minor_factor: float,
    counterparty: int,
    placed: bool,
    lat: int,
    long: int,
    work: Any,
    out: Any,
) -> None:
    """Write the customer's columns: ``s`` is its profile, ``counterparty`` an id or ``NOBODY``, ``placed`` whether
    the transaction has a place (millionths of degrees), ``work`` at least 7 whole numbers of scratch.
    """
    amount = amount_minor / minor_factor
    profiles.windows(s, profiles.SENT, time_ms, key, work)
    out[21] = float(work[0])
    out[22] = work[1] / minor_factor
    out[23] = float(work[2])
    out[24] = work[3] / minor_factor
    if work[4] > 0:
        average = work[5] / minor_factor / work[4]
        out[25] = average
        out[26] = amount / average if average > 0.0 else math.nan
    else:
        out[25] = math.nan
        out[26] = math.nan
    out[29] = (time_ms - work[6]) / 1000.0 if work[6] >= 0 else math.nan
    sent_last_1h = work[1] / minor_factor
    today = time_ms // 86_400_000
    profiles.days(s, profiles.SENT, today - 30, today, work)  # whole days before today, so without this transaction
    usual = work[1] / minor_factor / work[0] if work[0] > 0 else math.nan
    out[27] = usual
    out[28] = float(work[0])
    out[36] = amount / usual if usual > 0.0 else math.nan
    out[37] = out[25] / usual if usual > 0.0 else math.nan
    if counterparty == profiles.NOBODY:
        out[30] = math.nan
    else:
        out[30] = 0.0 if profiles.knows(s, profiles.SENT, counterparty) else 1.0
    since = time_ms - s[profiles.PLACE_TIME]
    if placed and s[profiles.PLACE_TIME] >= 0 and since >= 0 and s[profiles.PLACE_KEY] != key:
        distance = distance_km(s[profiles.PLACE_LAT], s[profiles.PLACE_LONG], lat, long)
        out[31] = distance
        out[32] = distance / ((since if since > 1000 else 1000) / 3_600_000)
    else:
        out[31] = math.nan
        out[32] = math.nan
    profiles.windows(s, profiles.RECEIVED, time_ms, key, work)
    received_last_1h = work[1] / minor_factor
    out[33] = received_last_1h
    out[34] = sent_last_1h
    out[35] = received_last_1h / (sent_last_1h + amount + 1.0)


def device_features(s: Any, customer: int, out: Any) -> None:
    """Write the device's column: ``s`` is its profile, ``customer`` an id or ``NOBODY``."""
    if customer == profiles.NOBODY:
        out[38] = math.nan
    else:
        out[38] = 0.0 if profiles.knows(s, profiles.SENT, customer) else 1.0


def counterparty_features(
    s: Any, time_ms: int, key: int, minor_factor: float, delay_days: int, work: Any, out: Any
) -> None:
    """Write the counterparty's columns: ``s`` is its profile, ``delay_days`` the label delay that its fraud rates
    leave out, since frauds of those days are not all known yet.
    """
    profiles.windows(s, profiles.RECEIVED, time_ms, key, work)
    out[39] = float(work[2])
    out[40] = work[3] / minor_factor
    out[41] = float(profiles.distinct(s, profiles.RECEIVED, time_ms))
    age = time_ms - s[profiles.FIRST_SEEN] if s[profiles.FIRST_SEEN] >= 0 else 0
    out[42] = age / 86_400_000 if age > 0 else 0.0
    today = time_ms // 86_400_000
    profiles.days(s, profiles.RECEIVED, today - 30, today, work)
    out[43] = float(work[0])
    end = today - delay_days
    for i in range(3):
        first = end - (1 if i == 0 else (7 if i == 1 else 30))
        profiles.days(s, profiles.RECEIVED, first, end, work)
        known = profiles.frauds(s, first, end, time_ms)
        out[44 + i] = known / work[0] if work[0] > 0 else math.nan
    begin = today - (profiles.DAYS - 1)  # the days that are remembered, today among them
    first, last = profiles.fraud_days(s, begin, today + 1, time_ms)
    out[47] = float(today - last if last >= begin else profiles.DAYS)
    out[48] = float(today - first if last >= begin else profiles.DAYS)
    good = profiles.good_day(s, profiles.RECEIVED, begin, end, time_ms)
    out[49] = float(today - good if good >= begin else profiles.DAYS)


def fill(values: Floats, population: Floats) -> Floats:
    """Substitute what is missing: ``values`` (..., columns) with NaN -> without, wherever a substitute is known.

    ``population`` (columns,) holds the means of the training rows, NaN where even those are unknown. A ratio whose
    parts were missing is computed anew from the filled parts, so that it never contradicts them.
    """
    missing = np.isnan(values)
    if not missing.any():
        return values
    filled = np.where(missing, population, values)
    if filled.ndim == 1:  # a request's: the same arithmetic without numpy's ado for many rows
        for column, ratio in _RATIOS:
            if missing.item(column):
                filled[column] = ratio(filled)
        return filled
    for column, ratio in _RATIOS:
        gaps = missing[..., column]
        if gaps.any():
            filled[..., column] = np.where(gaps, ratio(filled), filled[..., column])
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


def micro(degrees: float) -> int:
    """Millionths of degrees, rounded half to even."""
    return round(degrees * 1e6)


class Past:
    """The profiles of one event's parties, read before it and updated after it.

    ``states`` maps parties to profiles; a party that is not there, or had expired when the event was ``received`` (ms),
    gets a blank one. It is shared on purpose: the events of one request see one another's updates.
    """

    def __init__(self, event: Event, states: dict[str, list[int]], received: int):
        self.received = received
        self.key = profiles.id64(event.transaction_id)
        self.states = states
        self.known = self.parties(event)
        for party in self.known:
            s = states.get(party)
            if s is None or (
                s[profiles.FIRST_SEEN] >= 0 and received - s[profiles.LAST_RECEIVED] > profiles.EXPIRES_MS
            ):
                states[party] = profiles.blank()
        self._customer = profiles.id64(event.customer_id) if event.customer_id else profiles.NOBODY
        self._counterparty = profiles.id64(event.counterparty_id) if event.counterparty_id else profiles.NOBODY
        self._placed = event.lat == event.lat and event.long == event.long
        self._lat, self._long = (micro(event.lat), micro(event.long)) if self._placed else (0, 0)

    @staticmethod
    def parties(event: Event) -> tuple[str, ...]:
        """The event's parties, each once."""
        return tuple(dict.fromkeys(p for p in (event.customer_id, event.counterparty_id, event.device_id) if p))

    def read(self, event: Event, minor_factor: float, delay_days: int, row: list[float]) -> None:
        """Write the history columns of the event into ``row``."""
        work = [0] * 8
        if event.customer_id:
            customer_features(
                self.states[event.customer_id],
                event.time_ms,
                self.key,
                event.amount_minor,
                minor_factor,
                self._counterparty,
                self._placed,
                self._lat,
                self._long,
                work,
                row,
            )
        if event.device_id:
            device_features(self.states[event.device_id], self._customer, row)
        if event.counterparty_id:
            state = self.states[event.counterparty_id]
            counterparty_features(state, event.time_ms, self.key, minor_factor, delay_days, work, row)

    def after(self, event: Event, *, only: Sequence[str] | None = None, again: bool = False) -> list[str]:
        """Update the profiles by the event (``only`` some of its parties); the parties whose profile changed.

        ``again`` re-applies an event that may have been applied before: it is skipped where the ring cannot prove that
        it was not.
        """
        t, amount, key, received = event.time_ms, event.amount_minor, self.key, self.received
        changed = []
        sides = (
            (event.customer_id, profiles.SENT, self._counterparty),
            (event.counterparty_id, profiles.RECEIVED, self._customer),
            (event.device_id, profiles.SENT, self._customer),
        )
        for role, (party, side, other) in enumerate(sides):
            if not party or (only is not None and party not in only):
                continue
            s = self.states[party]
            if again and not profiles.provably_new(s, side, received):
                continue
            if profiles.arrive(s, side, t, key, amount, other, received):
                changed.append(party)
                if role == 0 and self._placed:
                    profiles.be_at(s, t, key, self._lat, self._long)
        return list(dict.fromkeys(changed))


@dataclass(frozen=True)
class FeatureSet:
    """The columns of a bundle: all of ``FEATURES``, then the declared attributes, of which ``picked`` go to the model.

    ``picked`` are names; ``index`` (len(picked),) their positions among ``columns``.
    """

    attributes: tuple[Attribute, ...] = ()
    picked: tuple[str, ...] = ()
    time_zone: TimeZone = field(default_factory=TimeZone)
    minor_factor: float = 100.0
    label_delay_ms: int = 7 * DAY_MS

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

    @property
    def delay_days(self) -> int:
        """The label delay in whole days, rounded up: what the fraud rates leave out."""
        return -(-self.label_delay_ms // DAY_MS)

    def compute(self, event: Event, past: "Past | None" = None) -> Floats:
        """Raw features of one event, (len(columns),) float64, NaN where missing. Raises ``InvalidRequest``.

        ``past`` are the profiles of the event's parties; without it (no store answered) all of history is missing.
        """
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
        if past is not None:
            past.read(event, self.minor_factor, self.delay_days, row)
        if self.attributes:
            row.extend(self._attributes(event.attributes))
        return np.array(row)

    def check(self, event: Event) -> None:
        """Raise ``InvalidRequest`` for an event that :meth:`compute` would refuse."""
        for _ in self._attributes(event.attributes):
            pass

    def _attributes(self, sent: Mapping[str, float | str]) -> Iterable[float]:
        for attribute in self.attributes:
            value = sent.get(attribute.name)
            if attribute.kind == "number":
                if isinstance(value, str):
                    problem = FieldError(f"attributes.{attribute.name}", "must be a number: the bundle declares it so")
                    raise InvalidRequest("The transaction is not valid.", (problem,))
                yield math.nan if value is None else value
            elif value is None or value == "":  # an empty text is what a file has where nothing stands
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
