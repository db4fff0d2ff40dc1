"""The replay of a file that is larger than memory: entries spread over files by party, each file replayed on its own.

A feature reads a transaction and *one* party's profile, so that parties can be replayed apart. :meth:`Spill.add` takes
rows as they come and appends, for each party of each row, one entry to the file its hash chooses; :meth:`Spill.play`
turns one file after the other into the history columns of its entries, in the order of the rows; :meth:`Spill.fill`
brings together what belongs to some rows. The rules are those of ``replay``, the very same compiled function.

Memory is bounded by the entries of one file, about ``TARGET``. A party with more entries than that (everybody's shop)
is replayed a part at a time, its one profile carried from part to part.

Rows are arrivals in their order and all of one moment, as in one request of the service: no profile expires between.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from fraud_api_lambda import features as rule
from fraud_api_lambda import profiles
from fraud_api_lambda.features import FeatureSet, Floats
from fraud_api_lambda.schemas import RateTable, forced_by

from . import replay
from .dataset import DataError

Ints = npt.NDArray[np.int64]

#: Entries of one file, about; a row has one for each of its parties.
TARGET: Final = 200_000
_MAX_FILES: Final = 4_096

ENTRY: Final = np.dtype(
    [
        ("party", "<i8"),
        ("row", "<i8"),
        ("time_ms", "<i8"),
        ("key", "<i8"),
        ("amount", "<i8"),
        ("customer", "<i8"),
        ("counterparty", "<i8"),
        ("lat", "<i4"),
        ("long", "<i4"),
        ("placed", "?"),
        ("passing", "?"),
        ("role", "i1"),
    ]
)
#: The same where rows came in over time and frauds became known: when, and the entry's place among all others.
TIMED: Final = np.dtype([*ENTRY.descr, ("received", "<i8"), ("known_ms", "<i8"), ("place", "<i8")])
_ID: Final = np.dtype([("key", "<i8"), ("row", "<i8")])
#: Role -> the columns that it fills.
COLUMNS: Final = {
    replay.CUSTOMER: slice(rule.CUSTOMER_AT, rule.DEVICE_AT),
    replay.DEVICE: slice(rule.DEVICE_AT, rule.COUNTERPARTY_AT),
    replay.COUNTERPARTY: slice(rule.COUNTERPARTY_AT, rule.WIDTH),
}


def _played(columns: slice) -> np.dtype[Any]:
    return np.dtype([("row", "<i8"), ("values", "<f8", (columns.stop - columns.start,))])


class Spill:
    """The files of one replay in ``folder``, which is made. ``rows`` is how many are to be expected, about."""

    def __init__(self, folder: Path, features: FeatureSet, rates: RateTable, rows: int):
        self._folder = folder
        self._features = features
        self._rates = rates
        self.files = min(max(-(-2 * rows // TARGET), 1), _MAX_FILES)
        self._results: dict[int, list[Path]] = {}
        folder.mkdir(parents=True, exist_ok=True)

    # --- taking rows -------------------------------------------------------------------------------------------------

    def add(self, frame: pd.DataFrame, first: int) -> None:
        """Take the next rows of the file, of which the ``first``-th (from 0) comes first."""
        rows = np.arange(first, first + len(frame))
        together, named = entries_of(frame, rows, self._rates)
        self._append("entries", together, "party")
        ids = np.zeros(len(frame), _ID)
        ids["key"], ids["row"] = named, rows
        self._append("ids", ids[named != profiles.NOBODY], "key")

    def _append(self, kind: str, records: Any, by: str) -> None:
        place = (records[by].view(np.uint64) % np.uint64(self.files)).astype(np.int64)
        order = np.argsort(place, kind="stable")
        ends = np.cumsum(np.bincount(place, minlength=self.files))
        for number, some in enumerate(np.split(records[order], ends[:-1])):
            if len(some):
                with self._path(kind, number).open("ab") as file:
                    file.write(some.tobytes())

    def sizes(self) -> list[int]:
        """How long each file is, for :meth:`cut`."""
        return [path.stat().st_size if path.exists() else 0 for path in self._all()]

    def cut(self, sizes: list[int]) -> None:
        """Take back what was added since :meth:`sizes` said this."""
        for path, size in zip(self._all(), sizes, strict=True):
            if path.exists():
                with path.open("r+b") as file:
                    file.truncate(size)

    def _all(self) -> list[Path]:
        return [self._path(kind, number) for kind in ("entries", "ids") for number in range(self.files)]

    def _path(self, kind: str, number: int) -> Path:
        return self._folder / f"{kind}-{number:04d}"

    def check_ids(self) -> None:
        """Raise :class:`DataError` where an id stands twice."""
        for number in range(self.files):
            if not (path := self._path("ids", number)).exists():
                continue
            ids = np.fromfile(path, _ID)
            order = np.argsort(ids["key"], kind="stable")
            key, row = ids["key"][order], ids["row"][order]
            twice = np.flatnonzero(key[1:] == key[:-1])
            if len(twice):
                at = twice[row[twice + 1].argmin()]
                raise DataError(
                    f"Row {row[at + 1] + 1} has the transaction id of row {row[at] + 1}; an id names one transaction."
                )
            path.unlink()

    # --- playing -----------------------------------------------------------------------------------------------------

    def play(self, number: int) -> None:
        """Replay the ``number``-th file; what was replayed before is left as it is."""
        path = self._path("entries", number)
        if not path.exists():
            return
        heavy = self._heavy(path)
        light = np.concatenate([block[~np.isin(block["party"], heavy)] for block in _blocks(path)])
        light = light[np.argsort(light["party"], kind="stable")]
        self._write(f"{number:04d}", [self._play(light, replay.blank(), carried=False)])
        for place, party in enumerate(heavy):
            self._write(f"{number:04d}-{place}", self._play_one(path, party))
        path.unlink()  # last: as long as it is there, it is done again

    def _heavy(self, path: Path) -> list[int]:
        """The parties that are to be replayed a part at a time: those with more entries than a file should have."""
        if path.stat().st_size <= 2 * TARGET * ENTRY.itemsize:
            return []
        counts: dict[int, int] = {}
        for block in _blocks(path):
            for party, many in zip(*map(np.ndarray.tolist, np.unique(block["party"], return_counts=True)), strict=True):
                counts[party] = counts.get(party, 0) + many
        return sorted(party for party, many in counts.items() if many > TARGET)

    def _play_one(self, path: Path, party: int) -> Iterator[tuple[Any, Floats]]:
        s, carried = replay.blank(), False
        held = np.zeros(0, ENTRY)
        for block in _blocks(path):
            held = np.concatenate((held, block[block["party"] == party]))
            if not len(held):
                continue
            cut = int(np.searchsorted(held["row"], held["row"][-1]))  # a row's entries are played together
            if cut:
                yield self._play(held[:cut], s, carried=carried)
                held, carried = held[cut:], True
        yield self._play(held, s, carried=carried)

    def _play(self, entries: Any, s: Ints, *, carried: bool) -> tuple[Any, Floats]:
        """The entries, by party and then by row, and their rows of columns, (n, WIDTH)."""
        return entries, play(entries, s, self._features, carried=carried)

    def _write(self, name: str, played: Any) -> None:
        """Write each role's columns in the order of the rows, whole or not at all."""
        paths = {role: self._folder / f"played-{role}-{name}" for role in COLUMNS}
        files = {role: path.with_suffix(".half").open("wb") for role, path in paths.items()}
        try:
            for entries, values in played:
                for role, columns in COLUMNS.items():
                    own = np.flatnonzero(entries["role"] == role)
                    own = own[np.argsort(entries["row"][own], kind="stable")]
                    records = np.zeros(len(own), _played(columns))
                    records["row"], records["values"] = entries["row"][own], values[own, columns]
                    files[role].write(records.tobytes())
        finally:
            for file in files.values():
                file.close()
        for path in paths.values():
            path.with_suffix(".half").replace(path)

    # --- giving back -------------------------------------------------------------------------------------------------

    def fill(self, out: Floats, first: int) -> None:
        """Write the history columns of the rows from ``first`` on into ``out`` (n, at least WIDTH); all are played."""
        for role, columns in COLUMNS.items():
            kind = _played(columns)
            for path in self._played(role):
                found = _between(path, kind, first, first + len(out))
                out[found["row"] - first, columns] = found["values"]

    def _played(self, role: int) -> list[Path]:
        if role not in self._results:
            self._results[role] = [
                path for path in sorted(self._folder.glob(f"played-{role}-*")) if path.stat().st_size
            ]
        return self._results[role]


def entries_of(frame: pd.DataFrame, rows: Ints, rates: RateTable) -> tuple[Any, Ints]:
    """One entry for each party of each row, in the order of ``rows`` (n,), which number the rows; and the numbers of
    their transaction ids, (n,), NOBODY where a row has none.
    """
    customer, counterparty, device = (_ids(frame, name) for name in ("customer_id", "counterparty_id", "device_id"))
    # A row that has no id of its own is a transaction all the same; its number is as good a key.
    key = np.where((named := _ids(frame, "transaction_id")) == profiles.NOBODY, rows, named)
    lat, long = replay.numbers(frame, "lat"), replay.numbers(frame, "long")
    whole = np.zeros(len(frame), ENTRY)
    whole["row"], whole["key"], whole["customer"], whole["counterparty"] = rows, key, customer, counterparty
    whole["time_ms"] = frame["time_ms"].to_numpy(np.int64)
    whole["amount"] = replay.minor(frame, replay.factors(frame, rates)).astype(np.int64)
    whole["lat"], whole["long"] = replay.micro(lat), replay.micro(long)
    whole["passing"] = _passing(frame)
    whole["placed"] = ~(np.isnan(lat) | np.isnan(long))
    found = []
    for role, party in ((replay.CUSTOMER, customer), (replay.COUNTERPARTY, counterparty), (replay.DEVICE, device)):
        own = whole[party != profiles.NOBODY]
        own["party"], own["role"] = party[party != profiles.NOBODY], role
        found.append(own)
    together = np.concatenate(found)
    # Stable: the roles of one row stay beside one another, in the order above.
    return together[np.argsort(together["row"], kind="stable")], named


def play(entries: Any, s: Ints, features: FeatureSet, *, carried: bool) -> Floats:
    """The history columns of entries by party and then as things became known, (n, WIDTH): those of a row share one.

    ``entries`` are of :data:`ENTRY`, in which all is one moment, or of :data:`TIMED`. See ``replay.play`` for ``s`` and
    ``carried``.
    """
    n = len(entries)
    label = entries["role"] == replay.LABEL
    new = np.ones(n, bool)
    new[1:] = (
        (entries["party"][1:] != entries["party"][:-1])
        | (entries["row"][1:] != entries["row"][:-1])
        | (label[1:] != label[:-1])
    )
    at = np.cumsum(new) - 1
    of_row = entries[new]
    nothing = np.zeros(len(of_row), np.int64)
    out = np.full((len(of_row), rule.WIDTH), np.nan)
    numbers = (
        np.ascontiguousarray(of_row[name]).astype(np.int64)
        for name in ("key", "amount", "customer", "counterparty", "lat", "long")
    )
    key, amount, customer, counterparty, lat, long = numbers
    received, known = nothing, nothing
    if entries.dtype == TIMED:
        received, known = (np.ascontiguousarray(of_row[name]) for name in ("received", "known_ms"))
    replay.play(
        np.ascontiguousarray(entries["party"]), at, np.ascontiguousarray(entries["role"]),
        np.ascontiguousarray(of_row["time_ms"]), received, key, amount, customer, counterparty,
        lat, long, np.ascontiguousarray(of_row["placed"]), known,
        features.minor_factor, features.delay_days, out,
        np.ascontiguousarray(of_row["passing"]), s, carried,
    )  # fmt: skip
    filled: Floats = out[at]
    return filled


def _ids(frame: pd.DataFrame, name: str) -> Ints:
    """The numbers that ids are remembered by, (n,); NOBODY where there is none."""
    if name not in frame:
        return np.full(len(frame), profiles.NOBODY, np.int64)
    codes, names = pd.factorize(frame[name].astype(object))
    numbers = np.array([*map(profiles.id64, names.tolist()), profiles.NOBODY], np.int64)
    found: Ints = numbers[codes]  # an absent id's code is -1
    return found


def _passing(frame: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """Which rows are integrators' test inputs, of which nothing is remembered, (n,)."""
    if "transaction_id" not in frame:
        return np.zeros(len(frame), np.bool_)
    ids = frame["transaction_id"]
    found: npt.NDArray[np.bool_] = ids.str.startswith("test-").fillna(False).to_numpy(np.bool_).copy()
    for at in np.flatnonzero(found):
        found[at] = forced_by(ids.iloc[at]) is not None
    return found


def _blocks(path: Path) -> Iterator[Any]:
    with path.open("rb") as file:
        while len(block := np.fromfile(file, ENTRY, TARGET)):
            yield block


def _between(path: Path, kind: np.dtype[Any], first: int, end: int) -> Any:
    """The records of the rows ``[first, end)`` of a file that is in the order of its rows."""
    with path.open("rb") as file:

        def row(place: int) -> int:
            file.seek(place * kind.itemsize)
            return int(np.frombuffer(file.read(8), "<i8")[0])

        def search(wanted: int, low: int, high: int) -> int:
            while low < high:
                middle = (low + high) // 2
                if row(middle) < wanted:
                    low = middle + 1
                else:
                    high = middle
            return low

        total = path.stat().st_size // kind.itemsize
        begin = search(first, 0, total)
        stop = search(end, begin, min(begin + end - first, total))  # a row is there at most once
        file.seek(begin * kind.itemsize)
        return np.frombuffer(file.read((stop - begin) * kind.itemsize), kind)
