"""History replayed offline, full feature set, one core: rows a second, against two other ways to such columns.

``live``: the service's own functions one transaction at a time on Python lists, which replay must equal to the bit (it
is checked here too). ``pandas``: the customers' three windows alone (count and sum of 1 h, 24 h, 7 d) by
``groupby().rolling()``, as such systems are mostly written: six of the columns, no labels, no partners.

All are timed by the processor time of this process, in interleaved rounds; on a shared machine the ratios count.
Two streams: ``generator`` (short histories) and ``full rings`` (the size and shape of the Fraud Detection Handbook's:
every customer far beyond the 64 arrivals that are remembered one by one).
"""

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

from . import keep

ROUNDS = 5
LIVE_ROWS = 2_000
PANDAS_ROWS = 50_000


def full_rings(rows: int = 400_000, days: int = 136, seed: int = 7) -> Any:
    """A canonical frame: every customer some 260 transactions at 50 counterparties near by, every counterparty 130."""
    import numpy as np
    import pandas as pd

    rng = np.random.default_rng(seed)
    customers = rows // 260
    customer = rng.integers(0, customers, rows)
    counterparty = (2 * customer + rng.integers(0, 50, rows)) % (2 * customers)
    return pd.DataFrame(
        {
            "transaction_id": np.arange(rows).astype(str),
            "time_ms": np.sort(rng.integers(0, days * 86_400_000, rows)) + 1_522_540_800_000,
            "customer_id": np.char.add("C", customer.astype(str)),
            "counterparty_id": np.char.add("T", counterparty.astype(str)),
            "amount": rng.lognormal(3.5, 1.0, rows).round(2),
            "is_fraud": (rng.random(rows) < 0.008).astype(np.int8),
        }
    )


def candidates(frame: Any) -> dict[str, tuple[int, Callable[[], Any]]]:
    """Name -> rows it works on, and the work."""
    import pandas as pd

    from fraud_api_lambda.features import FeatureSet, Past
    from fraud_api_lambda.schemas import RateTable
    from training import replay

    features, rates = FeatureSet(), RateTable("USD", 2)
    first = frame.iloc[:LIVE_ROWS].assign(is_fraud=0)  # labels come later than these rows
    events = list(_events(first, rates))
    some = frame.iloc[:PANDAS_ROWS]

    def live() -> list[Any]:
        states: dict[str, list[int]] = {}
        rows = []
        for event in events:
            past = Past(event, states, event.time_ms)
            rows.append(features.compute(event, past))
            past.after(event)
        return rows

    def rolling() -> Any:
        moments = some.set_index(pd.to_datetime(some["time_ms"], unit="ms"))
        amounts = moments.groupby("customer_id", observed=True)["amount"]
        return [amounts.rolling(window).agg(["count", "sum"]) for window in ("1h", "24h", "7D")]

    _check(replay.columns(first, features, rates), live())
    return {
        "replay": (len(frame), lambda: replay.columns(frame, features, rates)),
        "live": (len(first), live),
        "pandas": (len(some), rolling),
    }


def _events(frame: Any, rates: Any) -> Any:
    """The rows as the service sees them."""
    from fraud_api_lambda.schemas import parse_transaction, rfc3339, to_event

    for row in frame.astype({"type": object}).to_dict("records") if "type" in frame else frame.to_dict("records"):
        sent = {
            name: value
            for name, value in row.items()
            if value == value
            and value is not None
            and name not in {"time_ms", "is_fraud", "weight", "label_ms", "fraud_scenario"}
        }
        yield to_event(parse_transaction({**sent, "timestamp": rfc3339(row["time_ms"])}), rates, 2**43)


def _check(together: Any, live: list[Any]) -> None:
    import numpy as np

    np.testing.assert_array_equal(together, np.array(live))


def main() -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from training.synthetic import generate

    results: dict[str, Any] = {}
    for stream, frame in (("generator", generate(200_000, 7)), ("full rings", full_rings())):
        calls = candidates(frame)
        for _, call in calls.values():
            call()
        taken: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(ROUNDS):
            for name, (rows, call) in calls.items():
                start = time.process_time()
                call()
                taken[name].append((time.process_time() - start) / rows)
        medians = {name: statistics.median(times) for name, times in taken.items()}
        print(f"{stream + ', ' + format(len(frame), ',') + ' rows':32}{'rows/s':>12}{'best':>12}{'replay is':>12}")
        for name, median in medians.items():
            ratio = median / medians["replay"]
            print(f"{name:32}{1 / median:12,.0f}{1 / min(taken[name]):12,.0f}{ratio:11.1f}x")
        results[stream] = {
            name: {"rows_per_s": 1 / median, "best": 1 / min(taken[name]), "ratio": median / medians["replay"]}
            for name, median in medians.items()
        }
    keep("replay", results)


if __name__ == "__main__":
    main()
