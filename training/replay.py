"""History replayed through the service's own rules: a frame of transactions -> the columns a model sees.

The arithmetic is ``fraud_api_lambda.features``, compiled: the very functions that run on one transaction in the service
run here on a million rows. Nothing about a feature is stated twice.
"""

import hashlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numba
import numpy as np
import numpy.typing as npt
import pandas as pd
from numba.extending import register_jitable

from fraud_api_lambda import features as rule
from fraud_api_lambda import profiles
from fraud_api_lambda.bundle import MAX_RATE
from fraud_api_lambda.errors import SettingsError
from fraud_api_lambda.features import Attribute, FeatureSet, Floats, TimeZone
from fraud_api_lambda.schemas import TYPES, Event, RateTable

from .dataset import DataError

Ints = npt.NDArray[np.int64]

#: A text attribute becomes one flag for each of its most frequent levels, at most so many.
MAX_LEVELS = 30
_CURRENCY = re.compile(r"[A-Z]{3}")

# --- the service's functions, compiled ---

# numba notices a change of the file a compiled function stands in, not of those it calls: so one cache for each state
# of the sources, or a changed rule would go on being replayed as it was.
_SOURCES = (Path(str(rule.__file__)), Path(str(profiles.__file__)), Path(__file__))
_DIGEST = hashlib.sha256(b"".join(path.read_bytes() for path in _SOURCES)).hexdigest()[:16]
numba.config.CACHE_DIR = str(  # type: ignore[attr-defined]
    Path.home() / ".cache" / "fraud-detection" / _DIGEST
)

for _function in (
    profiles.windows, profiles._left, profiles.distinct, profiles.knows, profiles.days, profiles.frauds,
    profiles.fraud_days, profiles.good_day, profiles._fold, profiles.holds, profiles._meet, profiles.arrive,
    profiles.be_at, profiles.label, profiles.reset,
    rule.transaction_features, rule.zone_offset, rule.distance_km, rule.customer_features, rule.device_features,
    rule.counterparty_features,
):  # fmt: skip
    register_jitable(_function)


@numba.njit(cache=True)
def _transactions(
    time_ms: Any,
    amount: Any,
    type_code: Any,
    balances: Any,
    place: Any,
    starts: Any,
    offsets: Any,
    factor: Any,
    out: Any,
) -> None:
    for i in range(len(time_ms)):
        rule.transaction_features(
            time_ms[i],
            rule.zone_offset(time_ms[i], starts, offsets),
            amount[i],
            factor,
            type_code[i],
            balances[0][i],
            balances[1][i],
            balances[2][i],
            balances[3][i],
            place[0][i],
            place[1][i],
            out[i],
        )


#: What a party is in an entry of the history.
CUSTOMER, COUNTERPARTY, DEVICE, LABEL = 0, 1, 2, 3


@numba.njit(cache=True)
def play(
    party: Any, row: Any, role: Any,  # entries, by party and then in the order in which things became known
    time_ms: Any, received: Any, key: Any, amount: Any, customer: Any, counterparty: Any,
    lat: Any, long: Any, placed: Any, known_ms: Any, factor: Any, delay_days: Any, out: Any,
    passing: Any, s: Any, carried: bool,
) -> None:  # fmt: skip
    """Every party's entries against its own profile: read all that one transaction reads, then update.

    ``passing`` rows read and leave no trace: test inputs. ``s`` (profiles.SIZE,) is where a profile is kept; afterwards
    it is the last party's. ``carried``: it is the first party's from before, which goes on.
    """
    work = np.zeros(8, np.int64)
    n = len(party)
    first = 0
    while first < n:
        if (first == 0 and not carried) or (first > 0 and party[first] != party[first - 1]):
            profiles.reset(s)
        r = row[first]
        if role[first] == LABEL:
            profiles.label(s, time_ms[r] // 86_400_000, key[r], known_ms[r], True)
            first += 1
            continue
        end = first
        while end < n and party[end] == party[first] and row[end] == r and role[end] != LABEL:
            end += 1
        t = time_ms[r]
        if received[r] - s[profiles.LAST_RECEIVED] > profiles.EXPIRES_MS and s[profiles.FIRST_SEEN] >= 0:
            profiles.reset(s)
        for e in range(first, end):
            if role[e] == CUSTOMER:
                rule.customer_features(
                    s, t, key[r], amount[r], factor, counterparty[r], placed[r], lat[r], long[r], work, out[r]
                )
            elif role[e] == DEVICE:
                rule.device_features(s, customer[r], out[r])
            else:
                rule.counterparty_features(s, t, key[r], factor, delay_days, work, out[r])
        for e in range(first, end):
            if passing[r]:
                continue
            if role[e] == COUNTERPARTY:
                profiles.arrive(s, profiles.RECEIVED, t, key[r], amount[r], customer[r], received[r])
            elif role[e] == DEVICE:
                profiles.arrive(s, profiles.SENT, t, key[r], amount[r], customer[r], received[r])
            elif profiles.arrive(s, profiles.SENT, t, key[r], amount[r], counterparty[r], received[r]) and placed[r]:
                profiles.be_at(s, t, key[r], lat[r], long[r])
        first = end


def columns(frame: pd.DataFrame, features: FeatureSet, rates: RateTable, *, history: bool = True) -> Floats:
    """Raw columns of every row, (n, len(features.columns)) float64 in frame order, NaN where missing.

    The frame's order is the order of arrival. ``received_ms`` says when a row came in (default: the latest time so
    far), ``label_ms`` when a fraud became known (default: ``features.label_delay_ms`` after it). Without ``history``
    the columns of the parties' past stay missing.

    Raises :class:`DataError` for a currency without a rate or an attribute of the wrong kind.
    """
    n = len(frame)
    factor = factors(frame, rates)
    out = np.full((n, len(features.columns)), np.nan)
    zone = features.time_zone
    time_ms = frame["time_ms"].to_numpy(np.int64)
    amount = minor(frame, factor)
    _transactions(
        time_ms,
        amount,
        type_codes(frame),
        tuple(
            np.rint(numbers(frame, name) * factor) + 0.0
            for name in ("oldbalanceOrg", "newbalanceOrig", "oldbalanceDest", "newbalanceDest")
        ),
        (numbers(frame, "lat"), numbers(frame, "long")),
        np.array(zone.starts_ms, np.int64),
        np.array(zone.offsets_s, np.int64),
        features.minor_factor,
        out,
    )
    if history:
        _replay(frame, time_ms, amount.astype(np.int64), features, out)
    at = rule.WIDTH
    for attribute in features.attributes:
        values = frame.get(f"attributes.{attribute.name}")
        if values is None:
            at += len(attribute.columns)
        elif attribute.kind == "number":
            if not pd.api.types.is_numeric_dtype(values):
                raise DataError(f"Attribute '{attribute.name}' must hold numbers: the bundle declares it so.")
            out[:, at] = values.to_numpy(np.float64)
            at += 1
        else:
            # A number is compared as the text the service makes of it.
            text = values if not pd.api.types.is_numeric_dtype(values) else values.map(lambda v: format(v, ".15g"))
            absent = values.isna().to_numpy()
            for level in attribute.levels:
                out[:, at] = np.where(absent, np.nan, (text == level).to_numpy(np.float64, na_value=0.0))
                at += 1
    return out


def _replay(frame: pd.DataFrame, time_ms: Ints, amount: Ints, features: FeatureSet, out: Floats) -> None:
    """Fill the history columns of ``out``. Ids become numbers of this frame: only their equality matters."""
    n = len(frame)
    named = [name for name in ("customer_id", "counterparty_id", "device_id") if name in frame]
    if not named:
        return
    codes, _ = pd.factorize(pd.concat([frame[name] for name in named], ignore_index=True))
    # NOBODY is 0, which is what an absent id's -1 becomes.
    ids = {name: codes[i * n : (i + 1) * n].astype(np.int64) + 1 for i, name in enumerate(named)}
    nobody = np.zeros(n, np.int64)
    customer, counterparty, device = (ids.get(name, nobody) for name in ("customer_id", "counterparty_id", "device_id"))
    if "transaction_id" in frame:
        key = pd.factorize(frame["transaction_id"])[0].astype(np.int64)
        key = np.where(key < 0, np.arange(n) + n, key) + 1
    else:
        key = np.arange(1, n + 1)
    received = frame["received_ms"].to_numpy(np.int64) if "received_ms" in frame else np.maximum.accumulate(time_ms)
    fraud = (
        np.flatnonzero((frame["is_fraud"].to_numpy() == 1) & (counterparty > 0)) if "is_fraud" in frame else nobody[:0]
    )
    known_ms = labels_known(frame, features.label_delay_ms)
    rows = np.arange(n)
    present = [np.flatnonzero(who > 0) for who in (customer, counterparty, device)]
    party = np.concatenate(
        [*(who[at] for who, at in zip((customer, counterparty, device), present, strict=True)), counterparty[fraud]]
    )
    row = np.concatenate([*present, fraud])
    role = np.repeat(
        np.array([CUSTOMER, COUNTERPARTY, DEVICE, LABEL], np.int8), [*(len(at) for at in present), len(fraud)]
    )
    # A label takes its place among the arrivals: after all that came in by the time it was known.
    place = np.concatenate(
        [*(2 * rows[at] for at in present), 2 * np.searchsorted(received, known_ms[fraud], side="right") - 1]
    )
    # Labels between the same two arrivals in the order in which they became known: of one id, the first one counts.
    told = np.concatenate([np.zeros(len(place) - len(fraud), np.int64), known_ms[fraud]])
    order = np.lexsort((told, place, party))
    lat, long = numbers(frame, "lat"), numbers(frame, "long")
    placed = ~(np.isnan(lat) | np.isnan(long))
    play(
        party[order], row[order], role[order], time_ms, received, key, amount, customer, counterparty,
        micro(lat), micro(long), placed, known_ms, features.minor_factor, features.delay_days, out,
        np.zeros(n, np.bool_), blank(), False,
    )  # fmt: skip


def minor(frame: pd.DataFrame, factor: Floats) -> Floats:
    """Amounts in minor units of the base currency, (n,), whole numbers."""
    # + 0.0 makes the whole number of -0.0 what the service makes of it
    found: Floats = np.rint(frame["amount"].to_numpy(np.float64) * factor) + 0.0
    return found


def blank() -> Ints:
    """A profile of nobody, as the compiled functions hold it."""
    return np.array(profiles.blank(), np.int64)


def labels_known(frame: pd.DataFrame, delay_ms: int) -> Ints:
    """When each row's label became known, (n,) ms: ``label_ms`` where the data say it, else ``delay_ms`` later."""
    known: Ints = frame["time_ms"].to_numpy(np.int64) + delay_ms
    if "label_ms" in frame:
        told = frame["label_ms"]
        known = np.where(told.notna(), told.fillna(0).to_numpy(np.int64), known)
    return known


def micro(degrees: Floats) -> Ints:
    """Millionths of degrees; 0 where absent. ``features.micro`` is the same rule for one number."""
    return np.rint(np.nan_to_num(degrees) * 1e6).astype(np.int64)


def amounts_in_base(frame: pd.DataFrame, rates: RateTable) -> Floats:
    """Amounts in units of the base currency, (n,) float64, rounded to its minor unit."""
    return np.rint(frame["amount"].to_numpy(np.float64) * factors(frame, rates)) / rates.minor_factor


def type_codes(frame: pd.DataFrame) -> npt.NDArray[np.int64]:
    """Positions in ``schemas.TYPES``, -1 where absent, (n,)."""
    if "type" not in frame:
        return np.full(len(frame), -1, np.int64)
    codes: npt.NDArray[np.int64] = frame["type"].cat.set_categories(TYPES).cat.codes.to_numpy().astype(np.int64)
    return codes


def events(frame: pd.DataFrame, rates: RateTable) -> Any:
    """Yield an :class:`Event` for each row, as far as it is judged by: ids, type, currency, attributes."""
    names = ("transaction_id", "customer_id", "counterparty_id", "device_id")
    texts = {name: frame[name].astype(object).where(frame[name].notna(), None) for name in names if name in frame}
    currency = frame["currency"].fillna(rates.base).tolist() if "currency" in frame else [rates.base] * len(frame)
    ids = [texts[name].tolist() if name in texts else [None] * len(frame) for name in names]
    attributes = [name for name in frame.columns if name.startswith("attributes.")]
    rows: list[Any] = (
        frame[attributes].rename(columns=lambda name: name.removeprefix("attributes.")).to_dict("records")
        if attributes
        else [{}] * len(frame)
    )
    nan = float("nan")
    for time_ms, amount, code, money, transaction, customer, counterparty, device, row in zip(
        frame["time_ms"].tolist(),
        frame["amount"].tolist(),
        type_codes(frame).tolist(),
        currency,
        *ids,
        rows,
        strict=True,
    ):
        sent = {name: value for name, value in row.items() if not pd.isna(value)}
        yield Event(
            transaction or "",
            time_ms,
            amount,
            money,
            0,
            code,
            customer,
            counterparty,
            device,
            nan,
            nan,
            nan,
            nan,
            nan,
            nan,
            sent,
        )


def declare_attributes(frame: pd.DataFrame) -> tuple[Attribute, ...]:
    """The attributes a training frame holds: a number column as a number, text with its most frequent levels."""
    declared = []
    for name in frame.columns:
        if not name.startswith("attributes."):
            continue
        values = frame[name].dropna()
        if not len(values):
            continue
        if pd.api.types.is_numeric_dtype(values):
            declared.append(Attribute(name.removeprefix("attributes."), "number"))
        else:
            levels = values.value_counts().sort_index(kind="stable").sort_values(ascending=False, kind="stable")
            kept = tuple(sorted(str(level) for level in levels.index[:MAX_LEVELS]))
            declared.append(Attribute(name.removeprefix("attributes."), "text", kept))
    return tuple(declared)


def time_zone(name: str, first_year: int = 2000, last_year: int = 2060) -> TimeZone:
    """The zone's offsets as a table of instants, for the manifest. Raises ``SettingsError`` for an unknown zone."""
    try:
        zone = ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # a folder of zones is an OSError on 3.12
        raise SettingsError(f"Unknown time zone '{name}'. Use an IANA name such as Europe/Berlin or UTC.") from None
    moment = datetime(first_year, 1, 1, tzinfo=UTC)
    end = datetime(last_year, 1, 1, tzinfo=UTC)
    day = timedelta(days=1)

    def offset(at: datetime) -> int:
        found = at.astimezone(zone).utcoffset()
        return int(found.total_seconds()) if found is not None else 0

    starts, offsets = [int(moment.timestamp() * 1000)], [offset(moment)]
    while moment < end:
        if offset(moment + day) != offsets[-1]:
            low, high = moment, moment + day  # the change lies in (low, high]; zones change at whole minutes
            while high - low > timedelta(minutes=1):
                middle = low + (high - low) // 2
                middle -= timedelta(seconds=middle.second, microseconds=middle.microsecond)
                low, high = (low, middle) if offset(middle) != offsets[-1] else (middle, high)
            starts.append(int(high.timestamp() * 1000))
            offsets.append(offset(high))
        moment += day
    return TimeZone(name, tuple(starts), tuple(offsets))


def rate_table(base: str, minor_units: int, tables: Mapping[str, Mapping[str, float]]) -> RateTable:
    """Dated tables, by ISO date (UTC midnight) -> units of ``base`` for one unit of each currency.

    Raises ``SettingsError`` for what no bundle can hold: a training run must not find out at its end.
    """
    if not _CURRENCY.fullmatch(base):
        raise SettingsError(f"The base currency '{base}' is no ISO 4217 code such as USD.")
    dated = []
    for day, rates in tables.items():
        try:
            start = datetime.fromisoformat(day).replace(tzinfo=UTC)
        except ValueError:
            raise SettingsError(f"'{day}' is not the day from which rates are valid, such as 2026-01-01.") from None
        for code, rate in rates.items():
            if not _CURRENCY.fullmatch(code) or not 0 < rate <= MAX_RATE:
                raise SettingsError(
                    f"The rate of {code} from {day} on is not of the form CODE: number above 0 and at most "
                    f"{MAX_RATE:g} (units of {base} for one {code})."
                )
        dated.append((int(start.timestamp() * 1000), dict(rates)))
    return RateTable(base, minor_units, tuple(sorted(dated, key=lambda table: table[0])))


def numbers(frame: pd.DataFrame, name: str) -> Floats:
    """A column, or nothing but gaps, (n,)."""
    if name not in frame:
        return np.full(len(frame), np.nan)
    values: Floats = frame[name].to_numpy(np.float64)
    return values


def factors(frame: pd.DataFrame, rates: RateTable) -> Floats:
    """What each row's money is multiplied by, (n,): the service's own look-up, once for each currency and table."""
    if "currency" not in frame:
        return np.full(len(frame), rates.minor_factor)
    codes, names = pd.factorize(frame["currency"].fillna(rates.base))
    starts = np.array([start for start, _ in rates.tables] or [0], np.int64)
    table = np.maximum(np.searchsorted(starts, frame["time_ms"].to_numpy(np.int64), side="right") - 1, 0)
    factor = np.empty(len(frame))
    for code, name in enumerate(names):
        for position in np.unique(table[codes == code]):
            found = rates.factor(str(name), int(starts[position]))
            if found is None:
                choices = ", ".join(rates.currencies)
                raise DataError(f"No rate is known for currency '{name}'. Choices are: {choices}; add it with --rates.")
            factor[(codes == code) & (table == position)] = found
    return factor
