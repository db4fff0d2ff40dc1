"""A world of customers with habits, and seven ways to rob them: labelled transactions from a seed.

:func:`generate` makes the frame, :func:`write` the file (``--format synthetic`` reads it back, equal to the last bit).
Everything is drawn from ``seed`` by numpy, vectorised; the same arguments give the same bytes.

**The world.** Customers have an amount scale (95 % private, around USD 115; 5 % businesses, around USD 2,100, more
active), a home in one of 24 cities, an hour of the day (UTC, the default bundle's zone; few are awake 00:00-05:59),
two devices, eight favourite merchants and three favourite payees; some travel for days. A fringe of people outside pays
and is paid now and then. Payments go to merchants, debits to billers (no balance on that side), transfers to people,
cash moves at agents. Every account's balances are one chain in integer cents: before, plus or minus the amount, is
after, and after is before the next. Rare large purchases, small and zero amounts, night owls, travellers, new devices
and people who empty an account honestly keep fraud from being plain to see. Whether a field is absent depends on the
kind of transaction only, never on its label.

**The scenarios** (``fraud_scenario``; shares of the fraudulent rows in :data:`SCENARIOS`):

- ``card_testing``: 5 to 12 payments of a few cents to a few dollars, some zero, within minutes at one or two merchants
  from a device never seen with that customer; the last is often the large one the tests were for.
- ``drain_cash_out``: an account is emptied to 85-100 % in one or two transfers to a mule, who draws the money at an
  agent in one to three pieces within hours.
- ``stolen_card_abroad``: two to five card payments in a city over 2,000 km from home within hours, while the owner goes
  on paying at home.
- ``night_spree``: four to ten purchases several times the usual size within two hours of a night (00:00-05:59).
- ``mule_fan_in``: six to fifteen different people are talked into ordinary looking transfers to the same mule within
  two days, who then cashes out.
- ``slow_takeover``: over two to three weeks, eight to fifteen amounts below the customer's usual ones, in waking hours,
  from a foreign device to one or two new payees.
- ``compromised_merchant``: for about a week many cards used at one merchant are charged there again by someone else.

One at a time most of these rows look ordinary: a model of the transaction alone reaches an average precision of .5 to
.6; who paid whom, how often and from where before tells much of the rest (about .8).
"""

import os
import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from fraud_api_lambda.schemas import TYPES

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

#: Scenario -> share of the fraudulent rows, when all are on.
SCENARIOS: dict[str, float] = {
    "card_testing": 0.07,
    "drain_cash_out": 0.40,
    "stolen_card_abroad": 0.08,
    "night_spree": 0.31,
    "mule_fan_in": 0.06,
    "slow_takeover": 0.04,
    "compromised_merchant": 0.04,
}
MIN_ROWS = 100

_PAYMENT, _TRANSFER, _CASH_OUT, _CASH_IN, _DEBIT = range(len(TYPES))
_SECOND, _MINUTE, _HOUR, _DAY = 1_000, 60_000, 3_600_000, 86_400_000
_START = datetime(2025, 1, 1, tzinfo=UTC)
#: Probability of each type, and how its amounts compare with the customer's scale.
_TYPES_PRIVATE, _TYPES_BUSINESS = (0.62, 0.11, 0.11, 0.06, 0.10), (0.30, 0.48, 0.04, 0.14, 0.04)
#: The same of private customers once they have instant transfers: people are paid where shops and cash were.
_TYPES_INSTANT = (0.40, 0.34, 0.10, 0.06, 0.10)
_TYPE_FACTOR = np.array([1.0, 1.5, 1.3, 1.5, 0.9])
_FAVOURITE_MERCHANTS, _FAVOURITE_PAYEES = 8, 3
# Latitude, longitude and weight of the homes.
# fmt: off
_CITIES = np.array(
    [
        (40.71, -74.00, 9), (34.05, -118.24, 6), (41.88, -87.63, 5), (29.76, -95.37, 4),
        (25.76, -80.19, 4), (47.61, -122.33, 3), (39.74, -104.99, 3), (33.75, -84.39, 3),
        (43.65, -79.38, 3), (19.43, -99.13, 3), (-23.55, -46.63, 2), (51.51, -0.13, 4),
        (48.86, 2.35, 3), (52.52, 13.40, 3), (40.42, -3.70, 2), (41.90, 12.50, 2),
        (6.52, 3.38, 2), (-26.20, 28.05, 1), (25.20, 55.27, 2), (12.97, 77.59, 5),
        (19.08, 72.88, 3), (1.35, 103.82, 2), (35.68, 139.69, 2), (-33.87, 151.21, 2),
    ]
)
# fmt: on


@dataclass(frozen=True)
class _World:
    """Who there is. People are numbered first (customers, then the fringe), then agents, merchants, billers."""

    days: int
    customers: int
    people: int
    agents: int
    merchants: int
    billers: int
    scale: Floats  #: of each person's amounts, USD
    business: Bools
    activity: Floats  #: cumulative, for drawing senders
    hour: Floats
    hour_spread: Floats
    city: Ints
    home: Floats  #: (people, 2) degrees
    trip: Floats  #: (people, 3) first and last day away, city
    favourites: Ints  #: (people, 8) merchants
    payees: Ints  #: (people, 3) people
    popularity: Floats  #: cumulative, of merchants
    opening: Floats  #: cents
    cushion: Floats  #: cents an account never falls below

    @property
    def first_merchant(self) -> int:
        return self.people + self.agents

    @property
    def first_biller(self) -> int:
        return self.first_merchant + self.merchants


@dataclass(frozen=True)
class _Rows:
    """Transactions, column by column. ``share`` above zero replaces ``cents``: of the sender's balance for a transfer,
    of all the incident's transfers for a cash-out."""

    time: Ints  #: ms since the start
    type: Ints
    sender: Ints
    receiver: Ints
    cents: Ints
    device: Ints  #: -1: none
    place: Floats  #: (n, 2)
    scenario: Ints  #: -1: legitimate
    incident: Ints  #: -1: none
    share: Floats

    def __len__(self) -> int:
        return len(self.time)

    def take(self, which: Ints | Bools) -> "_Rows":
        return _Rows(*(getattr(self, column.name)[which] for column in fields(self)))

    @staticmethod
    def join(parts: "list[_Rows]") -> "_Rows":
        return _Rows(*(np.concatenate([getattr(part, column.name) for part in parts]) for column in fields(_Rows)))


_NONE, _NOTHING = np.zeros(0, dtype=np.int64), np.zeros((0, 2))
_NO_ROWS = _Rows(_NONE, _NONE, _NONE, _NONE, _NONE, _NONE, _NOTHING, _NONE, _NONE, np.zeros(0))


def generate(
    rows: int,
    seed: int,
    *,
    start: datetime = _START,
    days: int = 90,
    scenarios: Collection[str] | None = None,
    scenario_start: Mapping[str, int] | None = None,
    scenario_share: Mapping[str, float] | None = None,
    fraud_share: float = 0.01,
    instant_start: int | None = None,
    steady: bool = False,
) -> pd.DataFrame:
    """``rows`` transactions over ``days`` from ``start`` (naive: UTC), sorted by time.

    ``scenarios`` chooses among :data:`SCENARIOS` (None: all; empty: no fraud), keeping the fraud share. A scenario in
    ``scenario_start`` first occurs on that day (0 is the first) and is then as frequent as it would have been all
    along; the rest of its share becomes legitimate rows. ``scenario_share`` gives chosen scenarios another share of the
    frauds than :data:`SCENARIOS` does; the others keep theirs among themselves.

    From the day ``instant_start`` on private customers have instant transfers, and pay people with them where they paid
    in shops and in cash before: everybody's habits change, honestly.

    Accounts have no income beyond their rows, so that balances run down towards the last day. ``steady`` pays each,
    evenly over the days and unseen, what it loses on the whole (or takes what it gains): a quiet world whose
    distributions stay, to look for drift in. Everything but the balances, and what is drained of them, is the same.

    The canonical frame: ``transaction_id time_ms type customer_id counterparty_id device_id amount currency``, four
    balances, ``lat long is_fraud fraud_scenario label_ms weight``. Labels become known days later (lognormal, median 4
    days, at most 45), whatever they say.

    Raises ValueError for arguments outside their range, naming the choices.
    """
    chosen = tuple(name for name in SCENARIOS if scenarios is None or name in scenarios)
    starts, shares = dict(scenario_start or {}), dict(scenario_share or {})
    for name in [*(scenarios or ()), *starts, *shares]:
        if name not in SCENARIOS:
            raise ValueError(f"Unknown fraud scenario '{name}'. Choices are: {', '.join(SCENARIOS)}.")
    if rows < MIN_ROWS or days < 1 or not 0 <= fraud_share <= 0.5:
        raise ValueError(f"Needs at least {MIN_ROWS} rows, 1 day and a fraud share from 0 to 0.5.")
    if any(not 0 <= day < days for day in starts.values()):
        raise ValueError(f"A scenario starts on a day from 0 to {days - 1}.")
    if instant_start is not None and not 0 <= instant_start < days:
        raise ValueError(f"Instant transfers start on a day from 0 to {days - 1}.")
    named = sum(shares.values())
    if any(name not in chosen or share < 0 for name, share in shares.items()) or named > 1 + 1e-9:
        raise ValueError("Shares are of chosen scenarios, not below 0, and together at most 1.")
    rest = sum(SCENARIOS[name] for name in chosen if name not in shares)
    shares = {name: shares.get(name, (1 - named) * SCENARIOS[name] / (rest or 1)) for name in chosen}

    world_rng, fraud_rng, legit_rng, rest_rng = (
        np.random.Generator(np.random.PCG64(child)) for child in np.random.SeedSequence(seed).spawn(4)
    )
    world = _make_world(world_rng, rows, days)
    fraud = _make_fraud(fraud_rng, world, rows, fraud_share, shares, starts)
    legit = _make_legitimate(legit_rng, world, rows - len(fraud), fraud, instant_start)
    every = _Rows.join([legit, fraud])
    every = every.take(np.lexsort((every.scenario, every.time)))
    cents, balances = _settle(world, every, steady)
    return _frame(rest_rng, world, every, cents, balances, start, seed)


def write(frame: pd.DataFrame, out: Path) -> None:
    """``frame`` as CSV or Parquet, by the suffix of ``out``; the file appears whole or not at all.

    Times are RFC 3339 text in UTC (``timestamp``, ``label_timestamp``); a CSV row without its last three columns is a
    body of ``POST /predict`` field by field. Raises ValueError for another suffix, OSError as it comes.
    """
    if out.suffix not in (".csv", ".parquet"):
        raise ValueError(f"Cannot write '{out.name}'. Choices are: .csv, .parquet.")
    columns: dict[str, object] = {}
    for name in frame.columns:
        if name in ("time_ms", "label_ms"):
            text = np.datetime_as_string(frame[name].to_numpy().astype("datetime64[ms]"), timezone="UTC")
            columns["timestamp" if name == "time_ms" else "label_timestamp"] = pa.array(text, pa.string())
        elif name == "type":
            columns[name] = pa.array(frame[name].astype("str"), pa.string(), from_pandas=True)
        elif name != "weight":
            columns[name] = pa.Array.from_pandas(frame[name])
    labels = [name for name in ("is_fraud", "fraud_scenario", "label_timestamp") if name in columns]
    table = pa.table({name: columns[name] for name in [*(n for n in columns if n not in labels), *labels]})
    out.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=out.parent, prefix=f".{out.stem}-", suffix=out.suffix)
    os.close(handle)
    half = Path(name)
    try:
        if out.suffix == ".csv":
            pacsv.write_csv(table, half, pacsv.WriteOptions(quoting_style="none", quoting_header="none"))
        else:
            pq.write_table(table, half, compression="zstd")
        half.chmod(0o644)
        half.replace(out)
    finally:
        half.unlink(missing_ok=True)


# ---- the world -------------------------------------------------------------------------------------------------------


def _lognormal(rng: np.random.Generator, median: float | Floats, sigma: float, size: int) -> Floats:
    return median * np.exp(sigma * rng.standard_normal(size))


def _make_world(rng: np.random.Generator, rows: int, days: int) -> _World:
    customers, fringe = max(40, rows // 70), max(30, rows // 100)
    people, agents, merchants, billers = customers + fringe, max(4, rows // 2500), max(30, rows // 150), 12
    business = np.zeros(people, dtype=bool)
    business[rng.choice(customers, size=max(2, customers // 20), replace=False)] = True
    scale = _lognormal(rng, 115.0, 0.65, people)
    # Spread evenly over their distribution: businesses are few, and make half of what the average amount is.
    few = int(business.sum())
    normal = NormalDist()
    scale[business] = 2100.0 * np.exp([0.6 * normal.inv_cdf((at + 0.5) / few) for at in rng.permutation(few)])
    activity = rng.gamma(2.5, 1.0, people) + 0.3
    activity[business] = 2.3 * (rng.gamma(12.0, 0.2, few) + 0.3)
    activity[customers:] *= 0.02 * activity[:customers].sum() / activity[customers:].sum()
    hour = np.clip(rng.normal(14.5, 2.5, people), 10.0, 19.0)
    owls = (rng.random(people) < 0.03) & ~business
    hour[owls] = rng.uniform(22.0, 26.0, int(owls.sum()))
    city = rng.choice(len(_CITIES), size=people, p=_CITIES[:, 2] / _CITIES[:, 2].sum())
    trip_first = np.where(rng.random(people) < 0.3, rng.uniform(0, days, people), np.inf)
    trip = np.column_stack([trip_first, trip_first + rng.uniform(3, 12, people), rng.integers(0, len(_CITIES), people)])
    fringed = np.arange(people) >= customers
    popularity = 1.0 / (np.arange(merchants) + 5.0) ** 0.9
    return _World(
        days=days,
        customers=customers,
        people=people,
        agents=agents,
        merchants=merchants,
        billers=billers,
        scale=scale,
        business=business,
        activity=np.cumsum(activity) / activity.sum(),
        hour=hour,
        hour_spread=np.where(business, 2.0, 2.8),
        city=city,
        home=_CITIES[city, :2] + rng.normal(0, 0.08, (people, 2)),
        trip=trip,
        favourites=rng.choice(merchants, size=(people, _FAVOURITE_MERCHANTS), p=popularity / popularity.sum()),
        payees=rng.integers(0, customers, (people, _FAVOURITE_PAYEES)),
        popularity=np.cumsum(popularity) / popularity.sum(),
        opening=100 * scale * _lognormal(rng, np.where(fringed, 2.0, 14.0), 0.9, people),
        cushion=100 * scale * _lognormal(rng, np.where(fringed, 0.7, 5.0), 0.8, people),
    )


def _pick(rng: np.random.Generator, cumulative: Floats, n: int) -> Ints:
    return _at(cumulative, rng.random(n))


def _at(cumulative: Floats, chance: Floats) -> Ints:
    return np.minimum(np.searchsorted(cumulative, chance), len(cumulative) - 1)


def _places(rng: np.random.Generator, world: _World, person: Ints, time: Ints) -> Floats:
    """Where each person is: near home, or in the city of the trip."""
    day = time / _DAY
    trip = world.trip[person]
    away = (day >= trip[:, 0]) & (day < trip[:, 1])
    there = np.where(away[:, None], _CITIES[trip[:, 2].astype(np.int64), :2], world.home[person])
    return there + rng.normal(0, 0.02, there.shape)


def _device(rng: np.random.Generator, person: Ints, type_: Ints, fresh: Ints | None = None) -> Ints:
    """The device used, -1 for none (card terminals, direct debits, most cash). ``fresh`` >= 0 replaces the person's
    own where the kind of transaction has a device at all."""
    has = rng.random(len(person)) < np.array([0.55, 0.96, 0.3, 0.3, 0.0])[type_]
    own = 2 * person + (rng.random(len(person)) < 0.15)
    return np.where(has, own if fresh is None else np.where(fresh >= 0, fresh, own), -1)


def _far_city(rng: np.random.Generator, city: Ints) -> Ints:
    """A city more than 2,000 km from each of ``city``, measured through the earth: shorter than along it."""
    rad = np.radians(_CITIES[:, :2])
    xyz = np.column_stack(
        [np.cos(rad[:, 0]) * np.cos(rad[:, 1]), np.cos(rad[:, 0]) * np.sin(rad[:, 1]), np.sin(rad[:, 0])]
    )
    chord_km = 6371 * np.linalg.norm(xyz[:, None] - xyz[None], axis=2)
    far = (chord_km > 2000) * _CITIES[None, :, 2]
    cumulative = np.cumsum(far, axis=1) / far.sum(axis=1, keepdims=True)
    return np.asarray((rng.random(len(city))[:, None] > cumulative[city]).sum(axis=1), dtype=np.int64)


# ---- legitimate rows -------------------------------------------------------------------------------------------------


def _make_legitimate(rng: np.random.Generator, world: _World, n: int, fraud: _Rows, instant: int | None) -> _Rows:
    """``n`` rows; whoever was drained, or closed the account, sends nothing afterwards."""
    closed = np.full(world.people, np.iinfo(np.int64).max)
    drained = (fraud.share > 0) & (fraud.type == _TRANSFER)
    np.minimum.at(closed, fraud.sender[drained], fraud.time[drained])
    closers = _closers(rng, world, min(round(n * 0.0006), world.customers // 20), closed)
    np.minimum.at(closed, closers.sender, closers.time)
    parts, missing = [closers], n - len(closers)
    while missing > 0:
        more = _habits(rng, world, missing + missing // 8 + 20, instant)
        more = more.take(np.flatnonzero(more.time < closed[more.sender])[:missing])
        parts.append(more)
        missing -= len(more)
    return _Rows.join(parts)


def _habits(rng: np.random.Generator, world: _World, n: int, instant: int | None) -> _Rows:
    sender = _pick(rng, world.activity, n)
    business = world.business[sender]
    theirs, chosen = _pick(rng, np.cumsum(_TYPES_BUSINESS), n), rng.random(n)
    day_weight = np.where((np.arange(world.days) % 7) >= 5, 0.8, 1.0)
    day = _pick(rng, np.cumsum(day_weight) / day_weight.sum(), n)
    own = _at(np.cumsum(_TYPES_PRIVATE), chosen)
    if instant is not None:
        own = np.where(day >= instant, _at(np.cumsum(_TYPES_INSTANT), chosen), own)
    kind = np.where(business, theirs, own)
    time = day * _DAY + _usual_hour(rng, world, sender)

    amount = world.scale[sender] * _TYPE_FACTOR[kind] * _lognormal(rng, 1.0, 0.27, n)
    chance = rng.random(n)
    payment = (kind == _PAYMENT) & ~business
    small, zero = payment & (chance < 0.04), payment & (chance < 0.002)
    amount = np.where(small, _lognormal(rng, 3.5, 0.8, n), amount)
    amount = np.where(zero, 0.0, amount)
    large = chance > 0.999
    amount = np.where(large, amount * _lognormal(rng, 5.0, 0.4, n), amount)

    receiver = _receivers(rng, world, sender, kind)
    fresh = np.where(rng.random(n) < 0.012, 2 * world.people + rng.integers(0, 4 * world.people, n), -1)
    return _Rows(
        time=time,
        type=kind,
        sender=sender,
        receiver=receiver,
        cents=np.rint(amount * 100).astype(np.int64),
        device=_device(rng, sender, kind, fresh),
        place=_places(rng, world, sender, time),
        scenario=np.full(n, -1),
        incident=np.full(n, -1),
        share=np.zeros(n),
    )


def _receivers(rng: np.random.Generator, world: _World, sender: Ints, kind: Ints) -> Ints:
    n = len(sender)
    habit = rng.random(n)
    merchant = np.where(
        habit < 0.75,
        world.favourites[sender, rng.integers(0, _FAVOURITE_MERCHANTS, n)],
        _pick(rng, world.popularity, n),
    )
    payee = world.payees[sender, rng.integers(0, _FAVOURITE_PAYEES, n)]
    payee = np.where(habit > 0.65, rng.integers(0, world.customers, n), payee)
    fringe = (habit > 0.85) & ~world.business[sender]
    payee = np.where(fringe, rng.integers(world.customers, world.people, n), payee)
    payee = np.where(payee == sender, (payee + 1) % world.people, payee)
    cash = world.people + (sender + (habit > 0.8) * rng.integers(0, world.agents, n)) % world.agents
    biller = world.first_biller + (sender + rng.integers(0, 3, n)) % world.billers
    return np.select(
        [kind == _PAYMENT, kind == _TRANSFER, kind == _DEBIT], [world.first_merchant + merchant, payee, biller], cash
    )


def _closers(rng: np.random.Generator, world: _World, n: int, closed: Ints) -> _Rows:
    """People who empty their account honestly: to another bank or in cash. One row each."""
    free = np.flatnonzero(closed[: world.customers] == np.iinfo(np.int64).max)
    sender = rng.choice(free, size=min(n, len(free)), replace=False)
    n = len(sender)
    kind = np.full(n, _TRANSFER)
    time = rng.integers(world.days // 5, world.days, n) * _DAY + _usual_hour(rng, world, sender)
    return _Rows(
        time=time,
        type=kind,
        sender=sender,
        receiver=_receivers(rng, world, sender, kind),
        cents=np.zeros(n, dtype=np.int64),
        device=_device(rng, sender, kind),
        place=_places(rng, world, sender, time),
        scenario=np.full(n, -1),
        incident=np.full(n, -1),
        share=rng.uniform(0.7, 1.0, n),
    )


# ---- fraud -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Incidents:
    """``n`` rows grouped into incidents: ``of`` is each row's incident, ``at`` its position there."""

    of: Ints
    at: Ints
    size: Ints  #: per row, the incident's size
    count: int
    begin: int  #: ms the scenario begins
    end: int

    def __len__(self) -> int:
        return len(self.of)

    def start(self, rng: np.random.Generator, span: int, hours: tuple[float, float]) -> Ints:
        """A moment per row, shared within the incident: a day that leaves room for ``span`` ms, at an hour between."""
        last = max(self.begin // _DAY + 1, (self.end - span) // _DAY)
        day = rng.integers(self.begin // _DAY, last, self.count)
        return (day * _DAY + (rng.uniform(*hours, self.count) * _HOUR).astype(np.int64))[self.of]


def _incidents(rng: np.random.Generator, n: int, least: int, most: int, begin: int, end: int) -> _Incidents:
    sizes = rng.integers(least, most + 1, n // least + 1)
    of = np.repeat(np.arange(len(sizes)), sizes)[:n]
    first = np.cumsum(sizes) - sizes
    count = int(of[-1]) + 1 if n else 0
    size = np.bincount(of, minlength=count)[of] if n else of
    return _Incidents(of=of, at=np.arange(n) - first[of], size=size, count=count, begin=begin, end=end)


@dataclass(frozen=True)
class _Drawn:
    """What a scenario says of its rows; ``_make_fraud`` adds the rest."""

    time: Ints
    type: Ints
    sender: Ints
    receiver: Ints
    amount: Floats  #: USD; ignored where share is above zero
    share: Floats | None = None
    foreign_device: bool = False  #: the thief's own, where the kind of transaction has one
    place: Floats | None = None  #: None: where the sender is, or for half of the incidents with a foreign device not


def _customers(rng: np.random.Generator, world: _World, n: int) -> Ints:
    return rng.integers(0, world.customers, n)


def _mules(rng: np.random.Generator, world: _World, n: int) -> Ints:
    return rng.integers(world.customers, world.people, n)


def _shops(rng: np.random.Generator, world: _World, n: int) -> Ints:
    return world.first_merchant + rng.integers(0, world.merchants, n)


def _usual_hour(rng: np.random.Generator, world: _World, person: Ints) -> Ints:
    """Milliseconds into the day, as this person has them."""
    hour = (world.hour[person] + world.hour_spread[person] * rng.standard_normal(len(person))) % 24
    return np.minimum((hour * _HOUR).astype(np.int64), _DAY - 1)


def _card_testing(rng: np.random.Generator, world: _World, group: _Incidents) -> _Drawn:
    n = len(group)
    sender = _customers(rng, world, group.count)[group.of]
    start = group.start(rng, _HOUR, (7, 23))
    amount = np.where(rng.random(n) < 0.06, 0.0, _lognormal(rng, 2.0, 0.8, n))
    last = (group.at == group.size - 1) & (rng.random(n) < 0.6)
    amount = np.where(last, world.scale[sender] * _lognormal(rng, 3.0, 0.5, n), amount)
    return _Drawn(
        time=start + group.at * 45 * _SECOND + rng.integers(0, 40 * _SECOND, n),
        type=np.full(n, _PAYMENT),
        sender=sender,
        receiver=_shops(rng, world, 2 * group.count).reshape(-1, 2)[group.of, rng.integers(0, 2, n)],
        amount=amount,
        foreign_device=True,
    )


def _drain_cash_out(rng: np.random.Generator, world: _World, group: _Incidents) -> _Drawn:
    n = len(group)
    victim, mule = _customers(rng, world, group.count)[group.of], _mules(rng, world, group.count)[group.of]
    transfers = np.where(group.size > 2, 1 + (rng.random(group.count) < 0.2)[group.of], 1)
    moving = group.at < transfers
    start = group.start(rng, 12 * _HOUR, (6, 24)) + rng.integers(0, 19 * _MINUTE, n)
    whole, first = rng.uniform(0.85, 1.0, group.count)[group.of], rng.uniform(0.35, 0.6, group.count)[group.of]
    piece = np.where(transfers == 1, 1.0, np.where(group.at == 0, first, 1 - first))
    # The mule draws most of it at once, then most of the rest, and keeps a little back.
    drawn = np.where(group.at < group.size - 1, 0.75, 1.0) * 0.25 ** np.maximum(group.at - transfers, 0)
    return _Drawn(
        time=start + group.at * 20 * _MINUTE + np.where(moving, 0, _HOUR),
        type=np.where(moving, _TRANSFER, _CASH_OUT),
        sender=np.where(moving, victim, mule),
        receiver=np.where(moving, mule, world.people + rng.integers(0, world.agents, n)),
        amount=np.zeros(n),
        share=np.where(moving, whole * piece, drawn * rng.uniform(0.9, 1.0, n)),
        foreign_device=True,
    )


def _stolen_card_abroad(rng: np.random.Generator, world: _World, group: _Incidents) -> _Drawn:
    n = len(group)
    victim = _customers(rng, world, group.count)
    sender = victim[group.of]
    place = _CITIES[_far_city(rng, world.city[victim]), :2][group.of]
    start = group.start(rng, 12 * _HOUR, (6, 22))
    return _Drawn(
        time=start + group.at * 75 * _MINUTE + rng.integers(0, 70 * _MINUTE, n),
        type=np.full(n, _PAYMENT),
        sender=sender,
        receiver=_shops(rng, world, n),
        amount=world.scale[sender] * _lognormal(rng, 2.5, 0.5, n),
        place=place + rng.normal(0, 0.05, place.shape),
    )


def _night_spree(rng: np.random.Generator, world: _World, group: _Incidents) -> _Drawn:
    n = len(group)
    sender = _customers(rng, world, group.count)[group.of]
    start = group.start(rng, _DAY, (0, 3.9))
    return _Drawn(
        time=start + group.at * 12 * _MINUTE + rng.integers(0, 11 * _MINUTE, n),
        type=np.full(n, _PAYMENT),
        sender=sender,
        receiver=_shops(rng, world, n),
        amount=world.scale[sender] * _lognormal(rng, 7.0, 0.5, n),
        foreign_device=True,
    )


def _mule_fan_in(rng: np.random.Generator, world: _World, group: _Incidents) -> _Drawn:
    n = len(group)
    mule, sender = _mules(rng, world, group.count)[group.of], _customers(rng, world, n)
    leaving = (group.at >= group.size - 2) & (group.size > 2)
    hours = np.where(leaving, rng.integers(41, 48, n), rng.integers(0, 40, n))
    return _Drawn(
        time=group.start(rng, 3 * _DAY, (7, 12)) + hours * _HOUR + rng.integers(0, _HOUR, n),
        type=np.where(leaving, _CASH_OUT, _TRANSFER),
        sender=np.where(leaving, mule, sender),
        receiver=np.where(leaving, world.people + rng.integers(0, world.agents, n), mule),
        amount=world.scale[sender] * _lognormal(rng, 1.8, 0.45, n),
        share=np.where(leaving, rng.uniform(0.42, 0.5, n), 0.0),
    )


def _slow_takeover(rng: np.random.Generator, world: _World, group: _Incidents) -> _Drawn:
    n = len(group)
    sender = _customers(rng, world, group.count)[group.of]
    span = min(20 * _DAY, (group.end - group.begin) // 2)
    start = group.start(rng, span + _DAY, (0, 0))
    shop, mule = _shops(rng, world, group.count)[group.of], _mules(rng, world, group.count)[group.of]
    transfer = rng.random(n) < 0.25
    return _Drawn(
        time=start + rng.integers(0, max(span // _DAY, 1), n) * _DAY + _usual_hour(rng, world, sender),
        type=np.where(transfer, _TRANSFER, _PAYMENT),
        sender=sender,
        receiver=np.where(transfer, mule, shop),
        amount=world.scale[sender] * rng.uniform(0.2, 0.9, n),
        foreign_device=True,
    )


def _compromised_merchant(rng: np.random.Generator, world: _World, group: _Incidents) -> _Drawn:
    n = len(group)
    span = min(8 * _DAY, (group.end - group.begin) // 2)
    start = group.start(rng, span + _DAY, (8, 9))
    shop = _pick(rng, world.popularity, group.count)[group.of]
    # Half are its regulars (whoever counts it among the favourites), half came by.
    favourites = world.favourites[: world.customers].ravel()
    order = np.argsort(favourites, kind="stable")
    first, last = (np.searchsorted(favourites[order], shop, side=side) for side in ("left", "right"))
    chosen = np.minimum(first + (rng.random(n) * (last - first)).astype(np.int64), len(order) - 1)
    regular = (last > first) & (rng.random(n) < 0.5)
    sender = np.where(regular, order[chosen] // _FAVOURITE_MERCHANTS, _customers(rng, world, n))
    return _Drawn(
        time=start + rng.integers(0, max(span // _DAY, 1), n) * _DAY + rng.integers(0, 13 * _HOUR, n),
        type=np.full(n, _PAYMENT),
        sender=sender,
        receiver=world.first_merchant + shop,
        amount=world.scale[sender] * _lognormal(rng, 1.3, 0.35, n),
    )


_Scenario = Callable[[np.random.Generator, _World, _Incidents], _Drawn]
#: How each scenario is drawn, and the least and most rows of one incident.
_DRAW: dict[str, tuple[_Scenario, int, int]] = {
    "card_testing": (_card_testing, 5, 12),
    "drain_cash_out": (_drain_cash_out, 2, 4),
    "stolen_card_abroad": (_stolen_card_abroad, 2, 5),
    "night_spree": (_night_spree, 4, 10),
    "mule_fan_in": (_mule_fan_in, 8, 17),
    "slow_takeover": (_slow_takeover, 8, 15),
    "compromised_merchant": (_compromised_merchant, 12, 30),
}


def _make_fraud(
    rng: np.random.Generator,
    world: _World,
    rows: int,
    fraud_share: float,
    shares: Mapping[str, float],
    starts: Mapping[str, int],
) -> _Rows:
    # Each scenario draws from a stream of its own, so that starting one later leaves the others as they were.
    streams = dict(zip(SCENARIOS, rng.spawn(len(SCENARIOS)), strict=True))
    thieves = max(4, round(rows * fraud_share / 12))
    # Cumulative rounding: the counts add up, and every scenario is within one row of its share.
    edges = np.rint(np.cumsum([0.0, *shares.values()]) * rows * fraud_share)
    edges[-1] = np.rint(rows * fraud_share)  # whatever the sum of the shares rounds to
    parts, incidents = [_NO_ROWS], 0
    for name, whole in zip(shares, np.diff(edges), strict=True):
        draw, least, most = _DRAW[name]
        begin = starts.get(name, 0)
        n = round(whole * (world.days - begin) / world.days)
        if not n:
            continue
        stream = streams[name]
        group = _incidents(stream, n, least, most, begin * _DAY, world.days * _DAY)
        drawn = draw(stream, world, group)
        time = np.minimum(drawn.time, world.days * _DAY - 1)
        place = _places(stream, world, drawn.sender, time) if drawn.place is None else drawn.place
        thief = (6 * world.people + stream.integers(0, thieves, group.count))[group.of]
        own = (drawn.type == _CASH_OUT) | (not drawn.foreign_device)
        if drawn.foreign_device:
            den = _CITIES[stream.integers(0, len(_CITIES), group.count), :2][group.of]
            elsewhere = (stream.random(group.count) < 0.5)[group.of] & ~own
            place = np.where(elsewhere[:, None], den + stream.normal(0, 0.02, den.shape), place)
        device = _device(stream, drawn.sender, drawn.type, np.where(own, -1, thief))
        parts.append(
            _Rows(
                time=time,
                type=drawn.type,
                sender=drawn.sender,
                receiver=drawn.receiver,
                cents=np.rint(drawn.amount * 100).astype(np.int64),
                device=np.full(n, -1) if drawn.place is not None else device,
                place=place,
                scenario=np.full(n, list(SCENARIOS).index(name)),
                incident=incidents + group.of,
                share=np.zeros(n) if drawn.share is None else drawn.share,
            )
        )
        incidents += group.count
    return _Rows.join(parts)


# ---- balances and the frame ------------------------------------------------------------------------------------------


def _settle(world: _World, rows: _Rows, steady: bool) -> tuple[Ints, Floats]:
    """The amounts in cents, and (n, 4) balances in cents: sender before, after, receiver before, after (NaN: no
    account). Rows are in time order."""
    open_share = rows.share > 0
    cents = np.where(open_share, 0, rows.cents)
    opening = np.concatenate([world.opening, np.full(world.agents, 5e6)])
    cushion = np.concatenate([world.cushion, np.full(world.agents, 1e6)])
    income = _income(world, rows, cents) if steady else np.zeros(len(opening))
    opening, balances = _chain(world, rows, cents, np.rint(opening), np.rint(cushion), income)
    if open_share.any():
        # What is there without the drain decides what the drain takes; what it took decides what the mule draws.
        moved = open_share & (rows.type == _TRANSFER)
        cents[moved] = np.maximum(np.rint(balances[moved, 0] * rows.share[moved]), 1).astype(np.int64)
        groups = (rows.incident >= 0) & (rows.type == _TRANSFER)
        received = np.bincount(rows.incident[groups], weights=cents[groups], minlength=int(rows.incident.max()) + 1)
        drawn = open_share & (rows.type == _CASH_OUT)
        cents[drawn] = np.rint(received[rows.incident[drawn]] * rows.share[drawn]).astype(np.int64)
        if steady:  # nobody is paid back what a thief took, and whoever the thief paid is like the others
            drained = np.unique(rows.sender[moved])
            income = np.where(np.isin(np.arange(len(income)), drained), income, _income(world, rows, cents))
        _, balances = _chain(world, rows, cents, opening, np.zeros(len(opening)), income)
    return cents, balances


def _moves(world: _World, rows: _Rows, cents: Ints) -> tuple[Ints, Ints, Floats]:
    """Rows whose receiver has an account; the account of each sender, then of each of those; what it gains, cents."""
    with_account = np.flatnonzero(rows.receiver < world.people + world.agents)
    sender_side = np.where(rows.type == _CASH_IN, cents, -cents)
    account = np.concatenate([rows.sender, rows.receiver[with_account]])
    return with_account, account, np.concatenate([sender_side, -sender_side[with_account]]).astype(np.float64)


def _income(world: _World, rows: _Rows, cents: Ints) -> Floats:
    """What each account would have to be paid a day for its rows to leave it as they found it, cents."""
    _, account, delta = _moves(world, rows, cents)
    return -np.bincount(account, weights=delta, minlength=world.people + world.agents) / world.days


def _chain(
    world: _World, rows: _Rows, cents: Ints, opening: Floats, cushion: Floats, income: Floats
) -> tuple[Floats, Floats]:
    """Every account's balances, one event after the other; an opening balance too low for what follows is raised."""
    n, accounts = len(rows), world.people + world.agents
    with_account, account, delta = _moves(world, rows, cents)
    # Sums of cents stay far below 2^53: exact. Within an account the rows' own order is time.
    order = np.lexsort((np.concatenate([np.arange(n), with_account]), account))
    sums = np.cumsum(delta[order])
    counts = np.bincount(account, minlength=accounts)
    first = np.cumsum(counts) - counts
    base = np.concatenate([[0.0], sums])[first]
    after = sums - np.repeat(base, counts)
    day = np.concatenate([rows.time, rows.time[with_account]])[order] / _DAY
    after += np.rint(income[account[order]] * day)
    low = np.zeros(accounts)
    np.minimum.at(low, account[order], np.minimum(after, after - delta[order]))
    opening = np.where(low + opening < cushion, cushion - low, opening)
    after = after + np.repeat(opening, counts)
    both = np.empty((2, len(order)))
    both[1, order] = after
    both[0] = both[1] - delta
    balances = np.full((n, 4), np.nan)
    balances[:, :2] = both[:, :n].T
    balances[with_account, 2:] = both[:, n:].T
    return opening, balances


def _frame(
    rng: np.random.Generator, world: _World, rows: _Rows, cents: Ints, balances: Floats, start: datetime, seed: int
) -> pd.DataFrame:
    """The canonical frame. What is left out depends on chance and on the kind of transaction, never on the label."""
    n = len(rows)
    moment = start if start.tzinfo else start.replace(tzinfo=UTC)
    time_ms = rows.time + round(moment.timestamp() * 1000)
    sparse = rng.random(n) < 0.04  # a plain feed: who, where, when, how much
    no_sender, no_receiver = sparse | (rng.random(n) < 0.05), sparse | (rng.random(n) < 0.10)
    money = balances / 100
    money[no_sender, :2] = np.nan
    money[no_receiver, 2:] = np.nan
    place = np.round(rows.place, 5)
    place[(rows.type == _DEBIT) | (rng.random(n) < 0.08)] = np.nan

    # Numbers are dealt at random: an id tells nothing of whose it is.
    people = [f"C{100_000 + at}" for at in rng.permutation(world.people)]
    others = [f"A{100 + at}" for at in range(world.agents)]
    others += [f"M{10_000 + at}" for at in rng.permutation(world.merchants)]
    others += [f"B{100 + at}" for at in range(world.billers)]
    device_names = [f"D{1_000_000 + at}" for at in rng.permutation(int(rows.device.max()) + 1)]
    delay = np.clip(_lognormal(rng, 4.0, 0.6, n), 0.1, 45.0)
    return pd.DataFrame(
        {
            "transaction_id": pd.Series([f"S{seed}-{at:08d}" for at in range(n)], dtype="str"),
            "time_ms": time_ms,
            "type": pd.Categorical.from_codes(
                np.where(sparse, -1, rows.type).astype(np.int64), categories=pd.Index(TYPES)
            ),
            "customer_id": _named(people, np.where(rng.random(n) < 0.003, -1, rows.sender)),
            "counterparty_id": _named(people + others, np.where(rng.random(n) < 0.005, -1, rows.receiver)),
            "device_id": _named(device_names, np.where(sparse, -1, rows.device)),
            "amount": cents / 100,
            "currency": pd.Series(np.full(n, "USD"), dtype="str"),
            "oldbalanceOrg": money[:, 0],
            "newbalanceOrig": money[:, 1],
            "oldbalanceDest": money[:, 2],
            "newbalanceDest": money[:, 3],
            "lat": place[:, 0],
            "long": place[:, 1],
            "is_fraud": (rows.scenario >= 0).astype(np.int8),
            "fraud_scenario": _named(list(SCENARIOS), rows.scenario),
            "label_ms": time_ms + (delay * _DAY).astype(np.int64),
            "weight": np.ones(n),
        }
    )


def _named(names: list[str], which: Ints) -> "pd.Series[str]":
    """Text by number; -1 is absent."""
    return pd.Series(pd.array(names, dtype="str").take(which, allow_fill=True))
