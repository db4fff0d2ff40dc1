"""Which rows teach, which calibrate, which judge. Time-ordered by default, with the label delay kept free between."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

import numpy as np
import numpy.typing as npt

from .dataset import DataError

Rows = npt.NDArray[np.intp]
DAY_MS = 86_400_000


@dataclass(frozen=True)
class Split:
    """Row numbers of the three parts, and how they came about, for the manifest."""

    train: Rows
    validation: Rows
    test: Rows
    kind: str


def by_time(time_ms: npt.NDArray[np.int64], delay_ms: int, shares: tuple[float, float] = (0.6, 0.15)) -> Split:
    """The first 60 % of the rows teach, then ``delay_ms`` of silence, then validation, then the rest judges.

    The silence is what label delay means: on the day a model is trained, the newest labels are not known yet. It is
    taken from the validation and test side.
    """
    n = len(time_ms)
    order = np.argsort(time_ms, kind="stable")
    cut = order[: int(n * shares[0])]
    if not len(cut):
        raise DataError("There are too few rows to split.")
    later = order[time_ms[order] > time_ms[cut[-1]] + delay_ms]
    if len(later) < 10:
        raise DataError(
            f"The label delay of {delay_ms / DAY_MS:g} days leaves no rows to judge on; choose a shorter --delay."
        )
    middle = int(len(later) * shares[1] / (1 - shares[0]))
    return Split(cut, later[:middle], later[middle:], f"time, delay {delay_ms / DAY_MS:g} d")


def at_random(labels: npt.NDArray[np.int8], seed: int, shares: tuple[float, float] = (0.64, 0.16)) -> Split:
    """A stratified random split: 80 % to learn from (a fifth of that for calibration), 20 % to judge on."""
    rng = np.random.default_rng(seed)
    parts: list[list[Rows]] = [[], [], []]
    for label in (0, 1):
        rows = rng.permutation(np.flatnonzero(labels == label))
        first, second = int(len(rows) * shares[0]), int(len(rows) * (shares[0] + shares[1]))
        for part, chosen in zip(parts, (rows[:first], rows[first:second], rows[second:]), strict=True):
            part.append(chosen)
    train, validation, test = (np.sort(np.concatenate(part)) for part in parts)
    return Split(train, validation, test, "random, stratified")


def by_ranges(
    time_ms: npt.NDArray[np.int64], train: str, test: str, delay_ms: int, validation: str | None = None
) -> Split:
    """Explicit ranges ``2018-07-25..2018-07-31`` (whole days, UTC, both ends included).

    Without a ``validation`` range the last fifth of the training range's rows calibrates. The test range must begin at
    least ``delay_ms`` after the training range ends, and after a ``validation`` range.
    """
    begin, end = parse_range(train)
    test_begin, test_end = parse_range(test)
    if test_begin < end + delay_ms:
        raise DataError(
            f"The test range begins before the training range's end plus the label delay of {delay_ms / DAY_MS:g} days."
        )
    rows = np.flatnonzero((time_ms >= begin) & (time_ms < end))
    judged = np.flatnonzero((time_ms >= test_begin) & (time_ms < test_end))
    if validation is not None:
        validation_begin, validation_end = parse_range(validation)
        if validation_end > test_begin:
            raise DataError("The validation range must end before the test range begins: what judges chooses nothing.")
        middle = np.flatnonzero((time_ms >= validation_begin) & (time_ms < validation_end))
        rows = np.setdiff1d(rows, middle)
    else:
        ordered = rows[np.argsort(time_ms[rows], kind="stable")]
        at = int(len(ordered) * 0.8)
        rows, middle = ordered[:at], ordered[at:]
    for name, part in (("training", rows), ("validation", middle), ("test", judged)):
        if not len(part):
            raise DataError(f"The {name} range holds no rows.")
    return Split(rows, middle, judged, f"train {train}, delay {delay_ms / DAY_MS:g} d, test {test}")


def unknown_customers(
    rows: Rows,
    time_ms: npt.NDArray[np.int64],
    customer: npt.NDArray[np.int64],
    known_ms: npt.NDArray[np.int64],
    fraud: npt.NDArray[np.bool_],
    since: str,
) -> Rows:
    """Those of ``rows`` whose customer was not known to be compromised when their UTC day began.

    Known is a customer with a fraud from the day ``since`` on, once ``known_ms`` has passed: with the training range's
    first day and ``known_ms`` a label delay of whole days after the event, this is the protocol of the Fraud Detection
    Handbook (``get_train_test_set``: frauds of the training days, and day by day those that became known meanwhile).
    ``customer`` are codes, -1 where absent: such a row always stays. ``time_ms``, ``customer``, ``known_ms`` and
    ``fraud`` (n,) are of all rows.
    """
    told = np.flatnonzero(fraud & (time_ms >= parse_day(since)) & (customer >= 0))
    first = np.full(int(customer.max(initial=-1)) + 2, np.iinfo(np.int64).max)  # the last place is that of -1
    np.minimum.at(first, customer[told], known_ms[told])
    return rows[first[customer[rows]] >= time_ms[rows] // DAY_MS * DAY_MS]


def earlier(text: str, by_ms: int) -> str:
    """A range of days moved back by whole days: ``2018-07-25..2018-07-31`` by 14 days is ``2018-07-11..2018-07-17``."""
    begin, end = (datetime.fromtimestamp((ms - by_ms) / 1000, UTC) for ms in parse_range(text))
    return f"{begin:%Y-%m-%d}..{end - timedelta(days=1):%Y-%m-%d}"


def folds(labels: npt.NDArray[np.int8], count: int, seed: int) -> list[Rows]:
    """Stratified folds: each row is judged in exactly one."""
    rng = np.random.default_rng(seed)
    number = np.empty(len(labels), np.int64)
    for label in (0, 1):
        rows = rng.permutation(np.flatnonzero(labels == label))
        number[rows] = np.arange(len(rows)) % count
    return [np.flatnonzero(number == fold) for fold in range(count)]


def within(time_ms: npt.NDArray[np.int64], days: str) -> Rows:
    """Numbers of the rows in a range of days. Raises ``DataError`` where there are none."""
    begin, end = parse_range(days)
    rows = np.flatnonzero((time_ms >= begin) & (time_ms < end))
    if not len(rows):
        raise DataError(f"No row lies in {days}.")
    return rows


def parse_range(text: str) -> tuple[int, int]:
    """``2018-07-25..2018-07-31`` -> first ms, and first ms after. Raises ``DataError``."""
    first, separator, last = text.partition("..")
    try:
        if not separator:
            raise ValueError
        begin = datetime.fromisoformat(first).replace(tzinfo=UTC)
        end = datetime.fromisoformat(last).replace(tzinfo=UTC) + timedelta(days=1)
    except ValueError:
        raise DataError("A range is two days, such as 2018-07-25..2018-07-31.") from None
    if end <= begin:
        raise DataError("A range's last day must not be before its first.")
    return int(begin.timestamp() * 1000), int(end.timestamp() * 1000)


def parse_day(text: str) -> int:
    """``2018-07-25`` -> its first ms, UTC. Raises ``DataError``."""
    try:
        return int(datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp() * 1000)
    except ValueError:
        raise DataError("A day is of the form 2018-07-25.") from None


def parse_delay(text: str) -> int:
    """``7d``, ``36h`` or ``0`` in ms. Raises ``DataError``."""
    units = {"d": DAY_MS, "h": 3_600_000, "m": 60_000}
    number, unit = (text[:-1], text[-1:]) if text[-1:] in units else (text, "d")
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 3_650:
        raise DataError("A delay is a number of days, hours or minutes, such as 7d or 36h.")
    return int(value * units[unit])


Kind = Literal["time", "random"]
KINDS: Sequence[Kind] = ("time", "random")
