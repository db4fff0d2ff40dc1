"""What grows with what: one cost against trees, features, rows of a batch, decisions in the log, profiles in the store.

Each must stay flat or grow no faster than what it is drawn against. Drawn into docs/images/bench-growth.svg.
``--log 10000000 --profiles 1000000`` are the largest asked for; the defaults are smaller, and quick.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from . import ROOT, keep

PICTURE = ROOT / "docs" / "images" / "bench-growth.svg"


def median_us(call: Callable[[int], Any], times: int, clock: Callable[[], float] = time.process_time) -> float:
    taken = []
    for number in range(times):
        start = clock()
        call(number)
        taken.append(clock() - start)
    return statistics.median(taken) * 1e6


def forest(trees: int, width: int, seed: int = 1) -> Any:
    """XGBoost's trees of depth 5 on random rows, flattened."""
    import xgboost as xgb

    from training.forest import flatten

    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(4_000, width)).astype(np.float32)
    labels = (rows[:, 0] + rows[:, 1] * rows[:, -1] + rng.normal(size=len(rows)) > 1).astype(np.int8)
    model = xgb.XGBClassifier(n_estimators=trees, max_depth=5, learning_rate=0.05, n_jobs=1).fit(rows, labels)
    return flatten(model.get_booster(), width), rows


def by_trees() -> dict[int, dict[str, float]]:
    found = {}
    for trees in (100, 200, 300, 500, 1_000):
        made, rows = forest(trees, 30)
        found[trees] = {
            "margin of a row, us": median_us(lambda n, made=made, rows=rows: made.margin(rows[n]), 400),
            "reasons of a row, us": median_us(lambda n, made=made, rows=rows: made.contributions(rows[n]), 200),
        }
    return found


def by_features() -> dict[int, dict[str, float]]:
    found = {}
    for width in (10, 30, 50, 100, 200):
        made, rows = forest(300, width)
        found[width] = {
            "margin of a row, us": median_us(lambda n, made=made, rows=rows: made.margin(rows[n]), 400),
            "reasons of a row, us": median_us(lambda n, made=made, rows=rows: made.contributions(rows[n]), 200),
        }
    return found


def by_batch() -> dict[int, dict[str, float]]:
    made, rows = forest(300, 30)
    many = np.tile(rows, (26, 1))[:100_000]
    found = {}
    for size in (1, 10, 100, 1_000, 10_000, 100_000):
        times = max(3, min(200, 20_000 // size))
        found[size] = {"a batch, ms": median_us(lambda _, size=size: made.margins(many[:size]), times) / 1e3}
    return found


def by_log(most: int) -> dict[int, dict[str, float]]:
    """In SQLite; the rows are put in two thousand at a time."""
    from fraud_api_lambda.decision_log import Search, open_decision_log
    from tests.fraud_api_lambda.decision_log.records import generate, record

    found: dict[int, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        log = open_decision_log(f"sqlite:///{folder}/decisions.db", budget_ms=60_000)
        kept = 0
        for size in sorted({0, most // 100, most // 10, most}):
            for start in range(kept, size, 2_000):
                some = generate(min(2_000, size - start), start, days=30, customers=20_000, counterparties=2_000)
                log.append([replace(one, transaction_id=f"{start}-{number}") for number, one in enumerate(some)])
            kept = size
            ids = [f"new-{size}-{number}" for number in range(60)]
            found[size] = {
                "append, CPU us": median_us(lambda n, ids=ids: log.append([record(ids[n])]), 50),
                "find, us": median_us(lambda n, ids=ids: log.find([ids[n]]), 50),
                "a page, us": median_us(lambda _: log.search(Search(limit=50)), 30),
            }
        log.close()
    return found


def by_profiles(most: int) -> dict[int, dict[str, float]]:
    from fraud_api_lambda import profiles
    from fraud_api_lambda.feature_store import Change, open_feature_store

    state = profiles.blank()
    for number in range(20):
        moment = 1_700_000_000_000 + number * 3_600_000
        profiles.arrive(state, profiles.SENT, moment, number + 1, 1_000, number % 7 + 1, moment)
    data = profiles.encode(state)
    forever = 2**42
    found: dict[int, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        store = open_feature_store(f"sqlite:///{folder}/profiles.db", budget_ms=60_000)
        kept = 0
        for size in sorted({0, most // 100, most // 10, most}):
            for start in range(kept, size, 2_000):
                names = range(start, min(start + 2_000, size))
                store.swap([Change(f"C{number}", 0, data, forever) for number in names])
            kept = size
            chance = np.random.default_rng(size)

            def read_and_swap(number: int, kept: int = kept, chance: np.random.Generator = chance) -> None:
                party = f"C{chance.integers(kept)}" if kept else f"first-{number}"
                version = store.read([party]).get(party, (0, b""))[0]
                assert not store.swap([Change(party, version, data, forever)])

            found[size] = {"read and swap, CPU us": median_us(read_and_swap, 200)}
        store.close()
    return found


def draw(found: dict[str, dict[int, dict[str, float]]]) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "bench"
    import matplotlib.pyplot as plt

    figure, places = plt.subplots(1, len(found), figsize=(3.1 * len(found), 2.8), constrained_layout=True)
    for place, (name, rows) in zip(places, found.items(), strict=True):
        for line in next(iter(rows.values())):
            sizes = [max(size, 1) for size in rows]
            place.plot(sizes, [row[line] for row in rows.values()], "o-", ms=3, label=line)
        place.set_xscale("log")
        place.set_yscale("log")
        low, high = place.get_ylim()
        if high / low < 100:  # what is flat is to look flat
            place.set_ylim(low / 5, high * 5)
        place.set_title(name, fontsize=9)
        place.tick_params(labelsize=7)
        place.legend(fontsize=7, frameon=False)
    figure.savefig(PICTURE, metadata={"Date": None})
    plt.close(figure)


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--log", type=int, default=100_000)
    parser.add_argument("--profiles", type=int, default=100_000)
    given = parser.parse_args(words)
    found = {
        "trees (depth 5, 30 features)": by_trees(),
        "features (300 trees)": by_features(),
        "rows of a batch": by_batch(),
        "decisions in the log": by_log(given.log),
        "profiles in the store": by_profiles(given.profiles),
    }
    for name, rows in found.items():
        print(name)
        for size, row in rows.items():
            print(f"{size:>12,}", *(f"  {line}: {value:,.1f}" for line, value in row.items()))
    keep("growth", {name: {str(size): row for size, row in rows.items()} for name, rows in found.items()})
    draw(found)


if __name__ == "__main__":
    main()
