"""History replayed through the service's own rules: a frame of transactions -> the columns a model sees.

The arithmetic is ``fraud_api_lambda.features``, compiled: the very functions that run on one transaction in the service
run here on a million rows. Nothing about a feature is stated twice.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numba
import numpy as np
import numpy.typing as npt
import pandas as pd

from fraud_api_lambda import features as rule
from fraud_api_lambda.bundle import MAX_RATE
from fraud_api_lambda.errors import SettingsError
from fraud_api_lambda.features import Attribute, FeatureSet, Floats, TimeZone
from fraud_api_lambda.schemas import TYPES, Event, RateTable

from .dataset import DataError

#: A text attribute becomes one flag for each of its most frequent levels, at most so many.
MAX_LEVELS = 30
_CURRENCY = re.compile(r"[A-Z]{3}")

_transaction_features = numba.njit(rule.transaction_features, cache=True)
_zone_offset = numba.njit(rule.zone_offset, cache=True)


@numba.njit(cache=True)
def _all_rows(
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
        _transaction_features(
            time_ms[i],
            _zone_offset(time_ms[i], starts, offsets),  # type: ignore[call-arg]  # numba stubs know no arguments
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


def columns(frame: pd.DataFrame, features: FeatureSet, rates: RateTable) -> Floats:
    """Raw columns of every row, (n, len(features.columns)) float64 in frame order, NaN where missing.

    Raises :class:`DataError` for a currency without a rate or an attribute of the wrong kind.
    """
    n = len(frame)
    factor = _factors(frame, rates)
    out = np.full((n, len(features.columns)), np.nan)
    zone = features.time_zone
    _all_rows(
        frame["time_ms"].to_numpy(np.int64),
        np.rint(frame["amount"].to_numpy(np.float64) * factor),
        type_codes(frame),
        tuple(
            np.rint(_numbers(frame, name) * factor)
            for name in ("oldbalanceOrg", "newbalanceOrig", "oldbalanceDest", "newbalanceDest")
        ),
        (_numbers(frame, "lat"), _numbers(frame, "long")),
        np.array(zone.starts_ms, np.int64),
        np.array(zone.offsets_s, np.int64),
        features.minor_factor,
        out,
    )
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


def amounts_in_base(frame: pd.DataFrame, rates: RateTable) -> Floats:
    """Amounts in units of the base currency, (n,) float64, rounded to its minor unit."""
    return np.rint(frame["amount"].to_numpy(np.float64) * _factors(frame, rates)) / rates.minor_factor


def type_codes(frame: pd.DataFrame) -> npt.NDArray[np.int64]:
    """Positions in ``schemas.TYPES``, -1 where absent, (n,)."""
    if "type" not in frame:
        return np.full(len(frame), -1, np.int64)
    codes: npt.NDArray[np.int64] = frame["type"].cat.set_categories(TYPES).cat.codes.to_numpy().astype(np.int64)
    return codes


def events(frame: pd.DataFrame, rates: RateTable) -> Any:
    """Yield an :class:`Event` for each row, as far as rules read it: ids, type, currency, attributes."""
    names = ("customer_id", "counterparty_id", "device_id")
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
    for time_ms, amount, code, money, customer, counterparty, device, row in zip(
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
            "", time_ms, amount, money, 0, code, customer, counterparty, device, nan, nan, nan, nan, nan, nan, sent
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
    except (ZoneInfoNotFoundError, ValueError):
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


def _numbers(frame: pd.DataFrame, name: str) -> Floats:
    if name not in frame:
        return np.full(len(frame), np.nan)
    values: Floats = frame[name].to_numpy(np.float64)
    return values


def _factors(frame: pd.DataFrame, rates: RateTable) -> Floats:
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
