"""What ``make bench`` runs: ratios against references measured in the same run, never times against the clock alone.

Whatever is compared takes turns in short rounds, so that a noisy neighbour hits all alike; a ratio is the median of the
rounds' own ratios, with the middle half of them. Each part writes its figures, with when and where they were measured,
into ``results.json``; ``table`` holds them against what was promised.
"""

import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).with_name("results.json")
#: Whose versions say most about the figures.
_TOLD = ("fastapi", "mangum", "numpy", "pydantic", "scikit-learn", "uvicorn", "xgboost-cpu")


def keep(name: str, results: dict[str, Any]) -> None:
    """Write one benchmark's results down beside those of the others."""
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    kept[name] = {"measured": _measured(), **results}
    RESULTS.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")


def _measured() -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _TOLD}},
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and middle half."""
    low, median, high = statistics.quantiles(values, n=4) if len(values) > 1 else [values[0]] * 3
    return {"median": median, "low": low, "high": high}


def ratios(above: Sequence[float], below: Sequence[float]) -> dict[str, float]:
    """Round by round, then their median and middle half."""
    return spread([one / other for one, other in zip(above, below, strict=True)])


def take_turns(
    calls: Mapping[str, Callable[[int], Any]],
    *,
    rounds: int,
    each: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Each round's median seconds of one call. A call is given its number; all get the same numbers."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds):
        for name, call in calls.items():
            times = []
            for number in range(turn * each, (turn + 1) * each):
                start = clock()
                call(number)
                times.append(clock() - start)
            taken[name].append(statistics.median(times))
    return taken


@contextmanager
def log_lines_aside() -> Iterator[None]:
    """What the service prints goes into a file, as it does in production, and not onto the screen."""
    with tempfile.TemporaryFile() as file:
        screen = os.dup(1)
        os.dup2(file.fileno(), 1)
        try:
            yield
        finally:
            os.dup2(screen, 1)
            os.close(screen)


def show(title: str, rows: Mapping[str, Mapping[str, float]], unit: str, scale: float = 1.0) -> None:
    """Median and middle half of each, as a table."""
    print(f"{title:44}{'median':>12}{'middle half':>26}")
    for name, row in rows.items():
        low, median, high = (row[part] * scale for part in ("low", "median", "high"))
        print(f"{name:44}{median:12,.2f}{low:14,.2f} -{high:10,.2f} {unit}")
