"""What is normal for a party: its profile, told to people. Pure functions over ``profiles``' flat numbers.

Only what the profile holds can be told: amounts and hours of the day of the arrivals it remembers one by one (at most
``RING`` a side), counts and sums of all, partners as numbers that name nobody.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from . import profiles
from .features import TimeZone
from .schemas import rfc3339


@dataclass(frozen=True, slots=True)
class Window:
    """Events and money, in the base currency, of a time until now."""

    count: int
    amount: float


@dataclass(frozen=True, slots=True)
class UsualAmounts:
    """Quantiles by nearest rank, in the base currency, of the ``of`` latest amounts that are remembered."""

    of: int
    p10: float
    p50: float
    p90: float
    max: float


@dataclass(frozen=True, slots=True)
class Direction:
    """What the party sent (as customer or device) or received (as counterparty)."""

    last_hour: Window
    last_day: Window
    last_7_days: Window
    last_30_days: Window  #: by UTC day, today included
    last_seen: str | None  #: when the latest remembered event took place
    usual_amounts: UsualAmounts | None
    hours: tuple[int, ...]  #: remembered events by hour of the day, in the bundle's time zone
    partners: int  #: other parties that are remembered, 128 at most
    partners_7_days: int  #: of them, seen within seven days


@dataclass(frozen=True, slots=True)
class Place:
    time: str
    lat: float
    long: float


@dataclass(frozen=True, slots=True)
class PartyView:
    """This party's normal."""

    party_id: str
    first_seen: str | None
    updates: int
    sent: Direction
    received: Direction
    last_place: Place | None
    frauds_known: int
    base_currency: str
    time_zone: str


def describe(
    party_id: str, s: Sequence[int], now_ms: int, *, currency: str, minor_factor: float, zone: TimeZone
) -> PartyView:
    """The view of the profile ``s`` (profiles.SIZE,) at ``now_ms``; ``minor_factor`` minor units are one of money."""
    placed = s[profiles.PLACE_TIME] >= 0
    return PartyView(
        party_id=party_id,
        first_seen=rfc3339(s[profiles.FIRST_SEEN]) if s[profiles.FIRST_SEEN] >= 0 else None,
        updates=s[profiles.VERSION],
        sent=_direction(s, profiles.SENT, now_ms, minor_factor, zone),
        received=_direction(s, profiles.RECEIVED, now_ms, minor_factor, zone),
        last_place=Place(rfc3339(s[profiles.PLACE_TIME]), s[profiles.PLACE_LAT] / 1e6, s[profiles.PLACE_LONG] / 1e6)
        if placed
        else None,
        frauds_known=s[profiles.FRAUD_COUNT],
        base_currency=currency,
        time_zone=zone.name,
    )


def _direction(s: Sequence[int], side: int, now_ms: int, minor_factor: float, zone: TimeZone) -> Direction:
    seen = [0] * 7
    profiles.windows(s, side, now_ms, profiles.NOBODY, seen)  # no event has the key NOBODY
    month = [0, 0]
    today = now_ms // profiles.DAY_MS
    profiles.days(s, side, today - 29, today + 1, month)
    at = side + profiles.RING_AT
    end = at + 5 * s[side + profiles.COUNT]
    times = s[at:end:5]
    hours = [0] * 24
    for time_ms in times:
        hours[(time_ms + 1000 * zone.offset_at(time_ms)) // profiles.HOUR_MS % 24] += 1
    return Direction(
        last_hour=Window(seen[0], seen[1] / minor_factor),
        last_day=Window(seen[2], seen[3] / minor_factor),
        last_7_days=Window(seen[4], seen[5] / minor_factor),
        last_30_days=Window(month[0], month[1] / minor_factor),
        last_seen=rfc3339(max(times)) if times else None,
        usual_amounts=usual_amounts(s[at + 2 : end : 5], minor_factor),
        hours=tuple(hours),
        partners=s[side + profiles.KNOWN],
        partners_7_days=profiles.distinct(s, side, now_ms),
    )


def usual_amounts(amounts: Sequence[int], minor_factor: float) -> UsualAmounts | None:
    """None where there are none."""
    if not amounts:
        return None
    ordered = sorted(amounts)

    def quantile(share: float) -> float:
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)] / minor_factor

    return UsualAmounts(len(ordered), quantile(0.1), quantile(0.5), quantile(0.9), ordered[-1] / minor_factor)
