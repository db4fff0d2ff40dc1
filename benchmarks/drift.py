"""``python -m benchmarks.drift``: what drift reports of a world in which nothing changes, and of one in which one thing
does.

A world of the generator whose balances stay (``steady``), 2,222 transactions a day. A bundle is trained on its first 90
days; the ten weeks after are the stream, every row's past replayed from the first day on, as decisions in the log.
What is injected changes rows of the frame from one day on, before the replay, so that the parties' past follows.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt
import pandas as pd

from fraud_api_lambda import drift
from fraud_api_lambda.bundle import SigningKey, open_folder, parse_public_keys
from fraud_api_lambda.decision_log import Label, Record, Stored
from fraud_api_lambda.drift import DriftReport, Finding, Reference
from fraud_api_lambda.features import Floats, fill
from fraud_api_lambda.reload import Served, load
from training import evaluate, synthetic
from training.train import Options, run

DAY = 86_400_000
TRAINED_DAYS, STREAM_DAYS = 90, 70
#: The generator's last days are an edge (accounts end where they began): they are not looked at.
WORLD_DAYS = 200
#: Transactions within which what was injected must be named.
WITHIN = 2_000


@dataclass(frozen=True)
class Stream:
    """The world from its first day, and the bundle of its first 90, with its folder and public key; times in ms."""

    served: Served
    bundle: Path
    public_key: str
    frame: pd.DataFrame
    start_ms: int

    @property
    def reference(self) -> Reference:
        return drift.read_reference(self.served.bundle, self.served.model.features)

    def day(self, day: float) -> int:
        return self.start_ms + int(day * DAY)

    def decided(self, frame: pd.DataFrame | None = None) -> "Decided":
        """The rows as the service would have decided them, one after the other."""
        frame = self.frame if frame is None else frame
        model = self.served.model
        columns = evaluate.replayed(self.served, frame)
        vectors = model.vector(fill(columns, model.population))
        probability = evaluate.probabilities(model, vectors, self.served.bundle.read("model.ubj"))
        return Decided(self.served, frame, columns, probability)


@dataclass(frozen=True)
class Decided:
    """Decisions, made into records when they are asked for."""

    served: Served
    frame: pd.DataFrame
    columns: Floats
    probability: Floats

    def between(self, since_ms: int, until_ms: int, known_ms: int | None = None) -> Iterator[Stored]:
        """What arrived in ``[since_ms, until_ms)``. Of frauds, and of what was flagged, there are labels: as many as
        were known by ``known_ms``; the features of what is asked for with its labels are left out.
        """
        time_ms, arrived = (self.frame[name].to_numpy(np.int64) for name in ("time_ms", "received_ms"))
        told_ms = self.frame["label_ms"].to_numpy(np.int64)
        fraud = self.frame["is_fraud"].to_numpy(bool)
        names = self.served.model.features.columns
        threshold = self.served.model.thresholds.review
        for at in range(*np.searchsorted(arrived, (since_ms, until_ms)).tolist()):
            row = [] if known_ms is not None else zip(names, self.columns[at].tolist(), strict=True)
            features = {name: value for name, value in row if value == value}
            chance = float(self.probability[at])
            flagged = chance >= threshold
            known = known_ms is not None and told_ms[at] <= known_ms and (fraud[at] or flagged)
            told = int(told_ms[at])
            label = Label(str(at), bool(fraud[at]), "chargeback", told, told) if known else None
            record = Record(
                transaction_id=str(at), digest=bytes(32), answer=b"{}",
                received_ms=int(arrived[at]), time_ms=int(time_ms[at]),
                customer_id=None, counterparty_id=None, device_id=None, amount_minor=0,
                outcome="review" if flagged else "approve", decided_by="model", probability=chance, rules=(),
                model_version=self.served.version, rules_version="", latency_us=0, test=False, degraded=(),
                document=json.dumps({"features": features}),
            )  # fmt: skip
            yield Stored(record, label)


def make_stream(folder: Path, *, seed: int = 7, per_day: int = 2_222) -> Stream:
    frame = synthetic.generate(per_day * WORLD_DAYS, seed, days=WORLD_DAYS, steady=True)
    start = int(frame["time_ms"].iloc[0]) // DAY * DAY
    frame = frame[frame["time_ms"] < start + (TRAINED_DAYS + STREAM_DAYS) * DAY].reset_index(drop=True)
    frame["received_ms"] = frame["time_ms"]
    past = folder / "past.parquet"
    synthetic.write(frame[frame["time_ms"] < start + TRAINED_DAYS * DAY].drop(columns="received_ms"), past)
    key = SigningKey.generate("throw-away")
    result = run(Options(str(past), tune=0, ablation=False), folder / "models", key)
    served = load(open_folder(result.bundle, parse_public_keys(key.public_line())))
    return Stream(served, result.bundle, key.public_line(), frame, start)


# --- nothing changes -------------------------------------------------------------------------------------------------


def quiet_looks(stream: Stream, span: int, calibration: bool = False) -> list[DriftReport]:
    """A look a day (or for longer spans, one a span) over the ten weeks, each at the ``span`` days before it."""
    decided = stream.decided()
    reference = stream.reference
    delay = reference.label_delay_ms
    reports = []
    for end in range(TRAINED_DAYS + span, TRAINED_DAYS + STREAM_DAYS + 1, span):
        since, until = stream.day(end - span), stream.day(end)
        due: Iterator[Stored] = iter(())
        # Decisions of before the bundle was made are not its own.
        if calibration and until - delay > stream.day(TRAINED_DAYS):
            begin = max(until - delay - drift.CALIBRATION_MS, stream.day(TRAINED_DAYS))
            due = decided.between(begin, until - delay, until)
        taken = decided.between(since, until)
        reports.append(
            drift.compare(reference, taken, due, since_ms=since, until_ms=until, history_ms=until - stream.start_ms)
        )
    return reports


# --- one thing changes -----------------------------------------------------------------------------------------------

Change = Callable[[pd.DataFrame, np.random.Generator], None]
Rows = npt.NDArray[np.bool_]


def _some(frame: pd.DataFrame, rng: np.random.Generator, share: float) -> Rows:
    return rng.random(len(frame)) < share


def _scaled(column: str, factor: float) -> Change:
    def change(frame: pd.DataFrame, rng: np.random.Generator) -> None:
        frame[column] = (frame[column] * factor).round(2)

    return change


def _lost(share: float, *columns: str) -> Change:
    def change(frame: pd.DataFrame, rng: np.random.Generator) -> None:
        frame.loc[_some(frame, rng, share), list(columns)] = np.nan

    return change


def _earlier(frame: pd.DataFrame, rng: np.random.Generator) -> None:
    """Clocks that are six hours slow, as after a time zone went missing; they arrive when they did."""
    frame["time_ms"] -= 6 * 3_600_000


def _elsewhere(frame: pd.DataFrame, rng: np.random.Generator) -> None:
    rows = _some(frame, rng, 0.2) & frame["lat"].notna().to_numpy()
    frame.loc[rows, "lat"] = 59.33 + rng.normal(0, 0.05, int(rows.sum()))
    frame.loc[rows, "long"] = 18.07 + rng.normal(0, 0.05, int(rows.sum()))


def _transfers(frame: pd.DataFrame, rng: np.random.Generator) -> None:
    rows = _some(frame, rng, 0.4) & (frame["type"] == "PAYMENT").to_numpy()
    frame.loc[rows, "type"] = "TRANSFER"


def _new_devices(frame: pd.DataFrame, rng: np.random.Generator) -> None:
    """An update of the app that gives every installation another id."""
    frame["device_id"] = "new-" + frame["device_id"]


def _new_merchants(frame: pd.DataFrame, rng: np.random.Generator) -> None:
    rows = _some(frame, rng, 0.5)
    frame.loc[rows, "counterparty_id"] = [f"new-{n}" for n in rng.integers(0, 500, int(rows.sum()))]


def _bursts(frame: pd.DataFrame, rng: np.random.Generator) -> None:
    """A client that sends everything under few customers' ids."""
    rows = _some(frame, rng, 0.4)
    frame.loc[rows, "customer_id"] = [f"shared-{n}" for n in rng.integers(0, 5, int(rows.sum()))]


#: What is injected -> (how, the features of which at least one must be named).
INJECTED: dict[str, tuple[Change, tuple[str, ...]]] = {
    "amounts twice as large": (_scaled("amount", 2.0), ("amount",)),
    "amounts in cents": (_scaled("amount", 100.0), ("amount",)),
    "balances in cents": (_scaled("oldbalanceOrg", 100.0), ("oldbalance_orig",)),
    "30 % of balances lost": (_lost(0.3, "oldbalanceOrg", "newbalanceOrig"), ("oldbalance_orig",)),
    "30 % of places lost": (_lost(0.3, "lat", "long"), ("latitude", "longitude")),
    "20 % of places lost": (_lost(0.2, "lat", "long"), ("latitude", "longitude")),
    "20 % of places in a new city": (_elsewhere, ("latitude", "longitude")),
    "clocks six hours slow": (_earlier, ("hour_of_day",)),
    "40 % of payments become transfers": (_transfers, ("type",)),
    "every device id new": (_new_devices, ("new_device",)),
    "half of the counterparties new": (_new_merchants, ("new_counterparty", "counterparty_count_30d")),
    "40 % of rows under five customers": (_bursts, ("count_last_1h", "count_24h")),
}


def injected(stream: Stream, name: str, day: int, within: int = WITHIN, seed: int = 1) -> DriftReport:
    """The look at the moment of the ``within``-th transaction after ``name`` was injected on ``day``: at the last day,
    or the last 2,000 decisions where those are more.
    """
    change, _ = INJECTED[name]
    begin = int(np.searchsorted(stream.frame["time_ms"].to_numpy(np.int64), stream.day(day)))
    frame = stream.frame.iloc[: begin + within].copy()
    changed = frame.iloc[begin:].copy()
    change(changed, np.random.default_rng(seed))
    frame = pd.concat([frame.iloc[:begin], changed], ignore_index=True)
    frame["type"] = pd.Categorical(frame["type"], categories=stream.frame["type"].cat.categories)
    decided = stream.decided(frame)
    arrived = frame["received_ms"].to_numpy(np.int64)
    until = int(arrived[-1]) + 1
    since = min(until - DAY, int(arrived[-drift.ENOUGH_ROWS]))
    history = until - stream.start_ms
    return drift.compare(
        stream.reference, decided.between(since, until), since_ms=since, until_ms=until, history_ms=history
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[7])
    parser.add_argument("--per-day", type=int, default=2_222)
    parser.add_argument("--days", type=int, nargs="+", default=[95, 123, 151], help="When something is injected.")
    options = parser.parse_args()
    for seed in options.seeds:
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            stream = make_stream(Path(folder), seed=seed, per_day=options.per_day)
            print(f"\nseed {seed}, {options.per_day:,} transactions a day, bundle of the first {TRAINED_DAYS} days\n")
            _print_quiet(stream)
            _print_injected(stream, options.days)
        print(f"\n{time.monotonic() - began:.0f} s")


def _print_quiet(stream: Stream) -> None:
    kinds = {"a day": quiet_looks(stream, 1), "a week": quiet_looks(stream, 7, calibration=True)}
    looks = " and ".join(f"{len(reports)} looks at {name}" for name, reports in kinds.items())
    alarms = [name for reports in kinds.values() for report in reports for name in report.alarms]
    print(f"ten quiet weeks: {looks}, {len(alarms)} alarms{': ' + ', '.join(alarms) if alarms else ''}\n")
    print("| compared | a day: median PSI | largest | least limit | a week: largest | least limit |")
    print("|---|---|---|---|---|---|")
    for at, found in enumerate((*kinds["a day"][0].features, kinds["a day"][0].score)):
        cells = []
        for reports in kinds.values():
            each = [(*report.features, report.score)[at] for report in reports]
            psi, limit = [own.psi or 0.0 for own in each], min(own.limit or 0.0 for own in each)
            cells += [f"{median(psi):.3f}"] if reports is kinds["a day"] else []
            cells += [f"{max(psi):.3f}", f"{limit:.2f}"]
        print(f"| `{found.name}` | {' | '.join(cells)} |")
    ratios = [report.calibration for report in kinds["a week"] if report.calibration.ratio is not None]
    told = ", ".join(f"{own.ratio:.2f} [{own.low:.2f}, {own.high:.2f}]" for own in ratios)
    print(f"\nfrauds observed / expected, week by week as far as labels are due: {told}\n")


def _share(found: Finding) -> float:
    return (found.psi or 0.0) / (found.limit or 1.0)


def _print_injected(stream: Stream, days: list[int]) -> None:
    print(f"| injected | looks that name it after {WITHIN:,} transactions | least PSI, limit | named beside it |")
    print("|---|---|---|---|")
    for name, (_, wanted) in INJECTED.items():
        reports = [injected(stream, name, day) for day in days]
        hits = [bool(set(wanted) & set(report.alarms)) for report in reports]
        own = [max((f for f in report.features if f.name in wanted), key=_share) for report in reports]
        least = min(own, key=_share)
        beside = sorted({also for report in reports for also in report.alarms} - set(wanted))
        shown = ", ".join(f"`{also}`" for also in beside) or "nothing"
        named = " or ".join(f"`{feature}`" for feature in wanted)
        figures = f"{least.psi:.2f}, {least.limit:.2f}"
        print(f"| {name} | {named}: {sum(hits)} of {len(hits)} | {figures} | {shown} |")


if __name__ == "__main__":
    main()
