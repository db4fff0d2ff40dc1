"""A party's profile: what is remembered of its past, the one rule that changes it, the one way it is read.

A party is a customer, a counterparty or a device; all share one namespace, so an account has both directions: ``SENT``,
where it is the customer (or the device a customer uses), and ``RECEIVED``, where it is the counterparty.

The profile is one flat sequence of whole numbers, addressed by the constants below: the service holds it in a list,
training's replay in an int64 array, and the very same functions run on both (there under ``numba.njit``). Times are
ms of UTC, money is minor units of the base currency, ids are 64-bit numbers, degrees are millionths.

By definition, alike here and in replay: the last ``RING`` arrivals of a side are remembered one by one, and what they
push out goes into tiles of a minute and of an hour, so that a party of at most ``RING`` arrivals is exact to the
millisecond and a busier one has a left edge of one tile; distinct counts end at ``PARTNERS``, known frauds at
``FRAUDS``; rates are by UTC day; a profile expires ``EXPIRES_MS`` after its last arrival; an event that arrives late
counts from its arrival on.
"""

import hashlib
import struct
from array import array
from collections.abc import Sequence
from itertools import compress
from typing import Any, Final

import numpy as np

from .errors import ProfileError

FORMAT: Final = 1

RING: Final = 64  #: arrivals remembered one by one, on each side
PARTNERS: Final = 128  #: partners remembered, on each side
MINUTES: Final = 64
HOURS: Final = 192
DAYS: Final = 40
FRAUDS: Final = 64

MINUTE_MS: Final = 60_000
HOUR_MS: Final = 3_600_000
DAY_MS: Final = 86_400_000
EXPIRES_MS: Final = 400 * DAY_MS

# --- addresses -------------------------------------------------------------------------------------------------------
VERSION: Final = 0  #: how many updates made it
FIRST_SEEN: Final = 1  #: event time of the first arrival, -1: none yet
LAST_RECEIVED: Final = 2  #: when the last arrival came in
FRAUD_COUNT: Final = 3
PLACE_TIME: Final = 4  #: of the latest event with a place, -1: none yet; then its key, latitude, longitude
PLACE_KEY: Final = 5
PLACE_LAT: Final = 6
PLACE_LONG: Final = 7
FRAUD_AT: Final = 8  #: FRAUDS times (event day, key, known at)
SENT: Final = FRAUD_AT + 3 * FRAUDS

# Within a side:
COUNT: Final = 0  #: arrivals in the ring
NEXT: Final = 1  #: where the next arrival goes
FOLDED: Final = 2  #: arrivals that left the ring
KNOWN: Final = 3  #: partners
RING_AT: Final = 4  #: RING times (event time, key, amount, other party, received at)
PARTNER_AT: Final = RING_AT + 5 * RING  #: PARTNERS times (id, last seen)
DAY_AT: Final = PARTNER_AT + 2 * PARTNERS  #: DAYS times (slot, count, sum): every event
MINUTE_AT: Final = DAY_AT + 3 * DAYS  #: MINUTES times (slot, count, sum): what left the ring
HOUR_AT: Final = MINUTE_AT + 3 * MINUTES  #: HOURS times (slot, count, sum): the same once more
SIDE: Final = HOUR_AT + 3 * HOURS

RECEIVED: Final = SENT + SIDE
SIZE: Final = RECEIVED + SIDE

#: Nobody: what stands where a partner is absent.
NOBODY: Final = 0


def reset(s: Any) -> None:
    """Make ``s`` (SIZE,) the profile of a party never seen; touches only what an earlier one can have left."""
    for i in range(SENT):
        s[i] = 0
    s[FIRST_SEEN] = -1
    s[PLACE_TIME] = -1
    for side in (SENT, RECEIVED):
        if s[side + FOLDED] > 0:
            for i in range(MINUTES + HOURS):
                s[side + MINUTE_AT + 3 * i] = -1
        for i in range(DAYS):
            s[side + DAY_AT + 3 * i] = -1
        for i in range(4):
            s[side + i] = 0


def blank() -> list[int]:
    """A new profile of a party never seen."""
    return _BLANK.copy()


def _make_blank() -> list[int]:
    s = [0] * SIZE
    s[SENT + FOLDED] = s[RECEIVED + FOLDED] = 1  # so that every tile is cleared
    reset(s)
    return s


# --- reading ---------------------------------------------------------------------------------------------------------


def windows(s: Any, side: int, t: int, key: int, out: Any) -> None:
    """One side before ``t``: ``out[0:7]`` = count and sum of 1 h, of 24 h, of 7 d, and the last time or -1.

    A window of w holds arrivals with ``0 <= t - time < w`` other than ``key``, and tiles that begin in it.
    """
    n1 = 0
    a1 = 0
    n24 = 0
    a24 = 0
    n7 = 0
    a7 = 0
    last = -1
    first_day = (t - 604_800_000) // 86_400_000
    end_day = t // 86_400_000 + 1
    begin = first_day * 86_400_000
    end = end_day * 86_400_000
    near = 0  # arrivals of the days that the longest window touches
    ring = side + RING_AT
    for at in range(ring, ring + 5 * s[side + COUNT], 5):
        time = s[at]
        if begin <= time < end:
            near += 1
        if time <= t and s[at + 1] != key:
            age = t - time
            if age < 604_800_000:
                amount = s[at + 2]
                n7 += 1
                a7 += amount
                if age < 86_400_000:
                    n24 += 1
                    a24 += amount
                    if age < 3_600_000:
                        n1 += 1
                        a1 += amount
            if time > last:
                last = time
    if s[side + FOLDED] > 0 and _left(s, side, first_day, end_day, near):
        # A tile begins in the window where its number is above that of the window's own left edge.
        edge = (t - 3_600_000) // 60_000
        now = t // 60_000
        for at in range(side + MINUTE_AT, side + HOUR_AT, 3):
            if edge < s[at] <= now:
                n1 += s[at + 1]
                a1 += s[at + 2]
        edge = (t - 604_800_000) // 3_600_000
        day = (t - 86_400_000) // 3_600_000
        now = t // 3_600_000
        for at in range(side + HOUR_AT, side + SIDE, 3):
            if edge < s[at] <= now:
                n7 += s[at + 1]
                a7 += s[at + 2]
                if day < s[at]:
                    n24 += s[at + 1]
                    a24 += s[at + 2]
    out[0] = n1
    out[1] = a1
    out[2] = n24
    out[3] = a24
    out[4] = n7
    out[5] = a7
    out[6] = last


def _left(s: Any, side: int, first: int, end: int, near: int) -> bool:
    """Whether any event of the UTC days ``[first, end)`` has left the ring, which still holds ``near`` of them.

    A day's tile counts every event of the day, in the ring or not. One that a newer day has taken tells nothing.
    """
    for day in range(first, end):
        at = side + DAY_AT + 3 * (day % DAYS)
        if s[at] > day:
            return True
        if s[at] == day:
            near -= s[at + 1]
    return near != 0


def distinct(s: Any, side: int, t: int) -> int:
    """Partners seen after ``t - 7 d``, at most PARTNERS; a partner's last time may lie after ``t``."""
    count = 0
    at = side + PARTNER_AT + 1
    for _ in range(s[side + KNOWN]):
        if s[at] > t - 604_800_000:
            count += 1
        at += 2
    return count


def knows(s: Any, side: int, other: int) -> bool:
    """Whether ``other`` is among the side's partners."""
    at = side + PARTNER_AT
    for _ in range(s[side + KNOWN]):
        if s[at] == other:
            return True
        at += 2
    return False


def days(s: Any, side: int, first: int, end: int, out: Any) -> None:
    """Events of the UTC days ``[first, end)``, at most DAYS of them: ``out[0:2]`` = count and sum."""
    n = 0
    a = 0
    at = side + DAY_AT
    i = first % DAYS
    for day in range(first, end):
        if s[at + 3 * i] == day:
            n += s[at + 3 * i + 1]
            a += s[at + 3 * i + 2]
        i += 1
        if i == DAYS:
            i = 0
    out[0] = n
    out[1] = a


def frauds(s: Any, first: int, end: int, t: int) -> int:
    """Frauds of the UTC days ``[first, end)`` that were known at ``t``."""
    count = 0
    at = FRAUD_AT
    for _ in range(s[FRAUD_COUNT]):
        if first <= s[at] and s[at] < end and s[at + 2] <= t:
            count += 1
        at += 3
    return count


def fraud_days(s: Any, first: int, end: int, t: int) -> tuple[int, int]:
    """The earliest and the latest of the UTC days ``[first, end)`` with a fraud known at ``t``; -1, -1: none."""
    earliest = -1
    latest = -1
    at = FRAUD_AT
    for _ in range(s[FRAUD_COUNT]):
        day = s[at]
        if first <= day and day < end and s[at + 2] <= t:
            if earliest < 0 or day < earliest:
                earliest = day
            if day > latest:
                latest = day
        at += 3
    return earliest, latest


def good_day(s: Any, side: int, first: int, end: int, t: int) -> int:
    """The latest of the UTC days ``[first, end)`` with more events than frauds known at ``t``; -1: none."""
    for day in range(end - 1, first - 1, -1):
        at = side + DAY_AT + 3 * (day % DAYS)
        if s[at] == day and s[at + 1] > frauds(s, day, day + 1, t):
            return day
    return -1


# --- updating --------------------------------------------------------------------------------------------------------


def _fold(s: Any, at: int, slots: int, slot: int, amount: int) -> None:
    """Add one event to a ring of tiles: a newer slot takes the place of an older one, an older event is dropped."""
    i = at + 3 * (slot % slots)
    if s[i] < slot:
        s[i] = slot
        s[i + 1] = 0
        s[i + 2] = 0
    if s[i] == slot:
        s[i + 1] += 1
        s[i + 2] += amount


def holds(s: Any, side: int, key: int) -> bool:
    """Whether the side's ring still holds the event ``key``."""
    at = side + RING_AT + 1
    for _ in range(s[side + COUNT]):
        if s[at] == key:
            return True
        at += 5
    return False


def provably_new(s: Any, side: int, received: int) -> bool:
    """Whether an event received at ``received`` and not held by the ring was surely never applied.

    True while the ring is not full, or where its oldest arrival came in before: then the event would still be in it.
    A re-application that is not provably new is skipped.
    """
    if s[side + COUNT] < RING:
        return True
    oldest: bool = s[side + RING_AT + 5 * s[side + NEXT] + 4] < received
    return oldest


def arrive(s: Any, side: int, t: int, key: int, amount: int, other: int, received: int) -> bool:
    """Remember one event on one side; False, and nothing changes, where the ring holds ``key`` already."""
    if holds(s, side, key):
        return False
    place = s[side + NEXT]
    at = side + RING_AT + 5 * place
    if s[side + COUNT] == RING:
        _fold(s, side + MINUTE_AT, MINUTES, s[at] // 60_000, s[at + 2])
        _fold(s, side + HOUR_AT, HOURS, s[at] // 3_600_000, s[at + 2])
        s[side + FOLDED] += 1
    else:
        s[side + COUNT] += 1
    s[at] = t
    s[at + 1] = key
    s[at + 2] = amount
    s[at + 3] = other
    s[at + 4] = received
    s[side + NEXT] = (place + 1) % RING
    _fold(s, side + DAY_AT, DAYS, t // 86_400_000, amount)
    if other != NOBODY:
        _meet(s, side, other, t)
    if s[FIRST_SEEN] < 0:
        s[FIRST_SEEN] = t
    if received > s[LAST_RECEIVED]:
        s[LAST_RECEIVED] = received
    s[VERSION] += 1
    return True


def _meet(s: Any, side: int, other: int, t: int) -> None:
    """Remember a partner; where there is no room, in place of the one seen longest ago, if that is longer ago."""
    begin = side + PARTNER_AT
    known = s[side + KNOWN]
    at = begin
    for _ in range(known):
        if s[at] == other:
            if t > s[at + 1]:
                s[at + 1] = t
            return
        at += 2
    if known < PARTNERS:
        s[side + KNOWN] += 1
        s[at] = other
        s[at + 1] = t
        return
    oldest = begin
    at = begin
    for _ in range(known):
        if s[at + 1] < s[oldest + 1]:
            oldest = at
        at += 2
    if t > s[oldest + 1]:
        s[oldest] = other
        s[oldest + 1] = t


def be_at(s: Any, t: int, key: int, lat: int, long: int) -> None:
    """Remember where the party was, if nothing later is known. Part of the update that :func:`arrive` began."""
    if t >= s[PLACE_TIME]:
        s[PLACE_TIME] = t
        s[PLACE_KEY] = key
        s[PLACE_LAT] = lat
        s[PLACE_LONG] = long


def label(s: Any, event_day: int, key: int, known_at: int, is_fraud: bool) -> bool:
    """Remember that the event ``key`` of ``event_day`` was a fraud, or that it was none after all; False: no change.

    Where there is no room the fraud of the oldest day goes.
    """
    at = FRAUD_AT
    oldest = FRAUD_AT
    for _ in range(s[FRAUD_COUNT]):
        if s[at + 1] == key:
            if is_fraud:
                return False
            end = FRAUD_AT + 3 * (s[FRAUD_COUNT] - 1)
            for i in range(3):
                s[at + i] = s[end + i]
            s[FRAUD_COUNT] -= 1
            s[VERSION] += 1
            return True
        if s[at] < s[oldest]:
            oldest = at
        at += 3
    if not is_fraud:
        return False
    if s[FRAUD_COUNT] < FRAUDS:
        s[FRAUD_COUNT] += 1
    else:
        at = oldest
    s[at] = event_day
    s[at + 1] = key
    s[at + 2] = known_at
    s[VERSION] += 1
    return True


_BLANK = _make_blank()

# --- ids and bytes ---------------------------------------------------------------------------------------------------


def id64(text: str) -> int:
    """The number an id is remembered by: signed 64-bit BLAKE2b; never NOBODY."""
    number = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)
    return number or 1


# A profile's bytes: a header of counts, then five columns, each of like things from all over the profile, since a
# column costs the same whether it is long or short: ids as they are; times, sums, tile numbers and tile counts as
# differences to the smallest, in as few bytes each as the largest difference needs.
_HEADER = struct.Struct("<BIBB" + 2 * "BBIBBBB")  # format, version, frauds, place; a side's counts and its tiles'
_COLUMN = struct.Struct("<BHq")  # bytes of a value, values, the smallest
_TYPES = {1: "B", 2: "H", 4: "I", 8: "Q"}
_TILES = ((DAY_AT, DAYS), (MINUTE_AT, MINUTES), (HOUR_AT, HOURS))
#: So many values of a column pay for numpy's calls.
_MANY = 96
_HALF = 2**63


def encode(s: Sequence[int]) -> bytes:
    """The profile's bytes: sparse and compact, a party of five events under 400 bytes."""
    placed = s[PLACE_TIME] >= 0
    end = FRAUD_AT + 3 * s[FRAUD_COUNT]
    ids = list(s[FRAUD_AT + 1 : end : 3])
    times = [s[FIRST_SEEN], s[LAST_RECEIVED], *s[FRAUD_AT + 2 : end : 3]]
    sums: list[int] = []
    slots: list[int] = list(s[FRAUD_AT:end:3])
    counts: list[int] = []
    header: list[int] = [FORMAT, s[VERSION], s[FRAUD_COUNT], placed]
    if placed:
        ids.append(s[PLACE_KEY])
        times.append(s[PLACE_TIME])
        sums += (s[PLACE_LAT] + 90_000_000, s[PLACE_LONG] + 180_000_000)
    for side in (SENT, RECEIVED):
        at = side + RING_AT
        end = at + 5 * s[side + COUNT]
        times += s[at:end:5]
        ids += s[at + 1 : end : 5]
        sums += s[at + 2 : end : 5]
        ids += s[at + 3 : end : 5]
        times += s[at + 4 : end : 5]
        at = side + PARTNER_AT
        end = at + 2 * s[side + KNOWN]
        ids += s[at:end:2]
        times += s[at + 1 : end : 2]
        header += s[side : side + 4]
        for at, n in _TILES:
            if at != DAY_AT and not s[side + FOLDED]:
                header.append(0)
                continue
            at += side
            end = at + 3 * n
            taken = s[at:end:3]
            used = [slot >= 0 for slot in taken]
            slots += compress(taken, used)
            counts += compress(s[at + 1 : end : 3], used)
            sums += compress(s[at + 2 : end : 3], used)
            header.append(sum(used))
    return b"".join((_HEADER.pack(*header), array("q", ids).tobytes(), *map(_column, (times, sums, slots, counts))))


def _column(values: list[int]) -> bytes:
    if not values:
        return _COLUMN.pack(1, 0, 0)
    low = min(values)
    span = max(values) - low
    width = 1 if span < 256 else 2 if span < 65_536 else 4 if span < 4_294_967_296 else 8
    if len(values) >= _MANY and span < _HALF:
        return _COLUMN.pack(width, len(values), low) + (np.array(values, np.int64) - low).astype(f"u{width}").tobytes()
    return _COLUMN.pack(width, len(values), low) + array(_TYPES[width], [value - low for value in values]).tobytes()


def decode(data: bytes) -> list[int]:
    """The inverse of :func:`encode`. Raises :class:`ProfileError`."""
    if not data or data[0] != FORMAT:
        raise ProfileError(f"A stored profile is not of format {FORMAT}.")
    try:
        return _decode(data)
    except (IndexError, KeyError, OverflowError, ValueError, struct.error):
        raise ProfileError("A stored profile is damaged.") from None


def _decode(data: bytes) -> list[int]:
    header = _HEADER.unpack_from(data)
    version, known_frauds, placed = header[1:4]
    heads = (header[4:11], header[11:18])  # count, next, folded, known; days, minutes, hours
    if known_frauds > FRAUDS or any(h[0] > RING or h[1] >= RING or h[3] > PARTNERS for h in heads):
        raise ValueError
    at = _HEADER.size
    (sent, received) = heads
    total = known_frauds + bool(placed) + 2 * sent[0] + sent[3] + 2 * received[0] + received[3]
    ids = struct.unpack_from(f"{total}q", data, at)
    at += 8 * total
    columns = []
    for _ in range(4):
        width, n, low = _COLUMN.unpack_from(data, at)
        at += _COLUMN.size
        kind = _TYPES[width]
        if n >= _MANY and width < 8:
            columns.append((np.frombuffer(data, f"u{width}", n, at).astype(np.int64) + low).tolist())
        else:
            columns.append([value + low for value in struct.unpack_from(f"={n}{kind}", data, at)])
        at += n * width
    times, sums, slots, counts = columns
    if at != len(data):
        raise ValueError
    s = _BLANK.copy()
    s[VERSION], s[FRAUD_COUNT], s[FIRST_SEEN], s[LAST_RECEIVED] = version, known_frauds, times[0], times[1]
    end = FRAUD_AT + 3 * known_frauds
    s[FRAUD_AT:end:3] = slots[:known_frauds]
    s[FRAUD_AT + 1 : end : 3] = ids[:known_frauds]
    s[FRAUD_AT + 2 : end : 3] = times[2 : 2 + known_frauds]
    i, t, m, tile, c = (
        known_frauds,
        2 + known_frauds,
        0,
        known_frauds,
        0,
    )  # positions in ids, times, sums, slots, counts
    if placed:
        s[PLACE_TIME], s[PLACE_KEY] = times[t], ids[i]
        s[PLACE_LAT], s[PLACE_LONG] = sums[0] - 90_000_000, sums[1] - 180_000_000
        i, t, m = i + 1, t + 1, 2
    for side, (count, following, folded, known, *tiles) in zip((SENT, RECEIVED), heads, strict=True):
        s[side : side + 4] = (count, following, folded, known)
        at = side + RING_AT
        end = at + 5 * count
        s[at:end:5] = times[t : t + count]
        s[at + 1 : end : 5] = ids[i : i + count]
        s[at + 2 : end : 5] = sums[m : m + count]
        s[at + 3 : end : 5] = ids[i + count : i + 2 * count]
        s[at + 4 : end : 5] = times[t + count : t + 2 * count]
        i, t, m = i + 2 * count, t + 2 * count, m + count
        at = side + PARTNER_AT
        end = at + 2 * known
        s[at:end:2] = ids[i : i + known]
        s[at + 1 : end : 2] = times[t : t + known]
        i, t = i + known, t + known
        for (at, n), used in zip(_TILES, tiles, strict=True):
            begin = side + at
            if used:
                for slot, events, amount in zip(
                    slots[tile : tile + used], counts[c : c + used], sums[m : m + used], strict=True
                ):
                    place = begin + 3 * (slot % n)
                    s[place] = slot
                    s[place + 1] = events
                    s[place + 2] = amount
                tile, c, m = tile + used, c + used, m + used
    if (i, t, m, tile, c) != (total, len(times), len(sums), len(slots), len(counts)):
        raise ValueError
    return s
