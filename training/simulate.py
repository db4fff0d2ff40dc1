"""The whole life of a model in one go: a world that changes, the service that judges it, and the model renewed.

The generator's customers live for some weeks before there is a model and rules alone decide; then a first model is
trained from the decision log, and the weeks are counted. From ``new_week`` on the world is another one: instant
transfers come, and with them a kind of fraud that nobody has seen before. Everything goes the way it goes in service:
transactions through ``POST /predict/batch`` of the real application on SQLite, at the times at which they take place (a
simulated clock); labels through ``POST /feedback`` days later, and some never; a look at ``GET /drift`` every week;
``retrain`` by a written policy at a week's end while there is drift, or was lately, or when four weeks have passed, and
in the middle of a week where a challenger waits. The first model, frozen, scores the same transactions from the
features that were recorded.

This module alone, of training's, knows the composition root: it is a client that starts its own server (ADR 0019).
Seeded: the same plan leaves the same figures.
"""

import asyncio
import heapq
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import numpy as np
import numpy.typing as npt
import pandas as pd
from fastapi import FastAPI

from fraud_api_lambda import bootstrap
from fraud_api_lambda import bundle as bundles
from fraud_api_lambda.decision_log import open_decision_log
from fraud_api_lambda.errors import FraudError, SettingsError
from fraud_api_lambda.features import DAY_MS, fill
from fraud_api_lambda.judge import columns_of
from fraud_api_lambda.reload import ModelSource, Served, load
from fraud_api_lambda.schemas import HOUR_MS, rfc3339, unpack_event
from fraud_api_lambda.settings import Settings

from . import metrics, records, retrain, synthetic, train
from .metrics import Floats

Progress = Callable[[str], None]
Ints = npt.NDArray[np.int64]

#: The kind of fraud that is new, and its share of the frauds once it is there.
SCENARIO: Final = "mule_fan_in"
SCENARIO_SHARE: Final = 0.5
#: A Monday that has not come yet: stores let profiles go when they are old by the machine's own clock.
START: Final = datetime(2100, 1, 4, tzinfo=UTC)
START_MS: Final = int(START.timestamp() * 1000)
WEEK_MS: Final = 7 * DAY_MS
#: Nobody waits here: a slow machine must not change what is decided.
PATIENT_MS: Final = 60_000

#: How labels come: the share that never does, and days until it does, median and sigma of a lognormal. What was flagged
#: goes to an analyst, whatever it is; of the rest the customer complains where it is fraud.
ANALYST: Final = (0.05, 1.0, 0.5)
CUSTOMER: Final = (0.10, 3.0, 0.5)

POLICY: Final = """\
# The policy of this simulated life; training/retrain_policy.yaml says what each name means.
label_delay_days: 5
min_new_frauds: 60
judged_days: 7
min_judged_frauds: 40
min_gain: 0.01
min_gain_low: 0.0
max_flipped: 0.03
min_shadowed: 2000
"""


@dataclass(frozen=True)
class Plan:
    """What life is to be lived. ``before``: weeks without a model; ``schedule``: weeks after which a new model is
    looked for even where nothing drifts; ``after_drift``: weeks, counted from the last look that named drift, at whose
    ends one is looked for too, since labels of what is new come late; ``tune``: candidates of each search.
    """

    weeks: int = 13
    rows_a_week: int = 8_000
    before: int = 6
    new_week: int = 7
    fraud_share: float = 0.02
    schedule: int = 4
    after_drift: int = 4
    tune: int = 1
    seed: int = 7
    policy: str = POLICY

    @property
    def days(self) -> int:
        return 7 * (self.before + self.weeks)


@dataclass(frozen=True, slots=True)
class Week:
    """One week of service. Average precision is of the probabilities that were answered, and of the frozen model's, by
    what is true, not by what was ever labelled. ``drift`` names what drifted, with PSI and limit where it has one.
    """

    week: int
    transactions: int
    frauds: int
    new_frauds: int  #: of the scenario that is new
    labelled_frauds: int  #: frauds that somebody had reported by the week's end
    average_precision: float
    interval: tuple[float, float] | None
    frozen: float
    frozen_interval: tuple[float, float] | None
    models: Mapping[str, int]  #: decisions by version
    drift: tuple[str, ...]
    psi: Mapping[str, tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Step:
    """A retraining, in the week and on the day of it (0 to 7)."""

    week: int
    day: float
    reason: str
    report: Mapping[str, Any]
    shadow: Mapping[str, Any] | None  #: what GET /model told of the challenger before


@dataclass(frozen=True, slots=True)
class Life:
    plan: Plan
    first: str  #: the first model's version
    weeks: tuple[Week, ...]
    steps: tuple[Step, ...]

    def as_json(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return told


def simulate(plan: Plan, out: Path, *, progress: Progress = lambda _: None) -> Life:
    """Live the life in the folder ``out``, which must be empty or absent: databases, models, keys, policy, all reports.

    Afterwards ``life.json``, ``life.txt`` and ``life.png`` are there. Raises ``SettingsError`` or what a part raises.
    """
    if out.exists() and any(out.iterdir()):
        raise SettingsError(f"{out} is not empty. Choose another folder, or remove it.")
    if not 1 <= plan.new_week <= plan.weeks or plan.before < 3 or plan.rows_a_week < 500:
        raise SettingsError(
            "A life has three weeks before it, 500 transactions a week, and the new in one of its weeks."
        )
    from . import simulate_report

    out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    life = asyncio.run(_Life(plan, out.resolve(), progress).live())
    simulate_report.write(life, out)
    progress(f"lived in {time.monotonic() - began:.0f} s")
    return life


class _Life:
    def __init__(self, plan: Plan, out: Path, progress: Progress):
        self.plan = plan
        self.out = out
        self.progress = progress
        self.now_ms = START_MS
        self.key = train.development_key(out / "keys")
        self.keys = bundles.parse_public_keys(self.key.public_line())
        (out / "policy.yaml").write_text(plan.policy, encoding="utf-8")
        self.policy = retrain.read_policy(out / "policy.yaml")
        if self.policy.label_delay_days is None:
            raise SettingsError("The policy of a simulated life says label_delay_days: there is no champion before.")
        self.delay_ms = int(self.policy.label_delay_days * DAY_MS)
        self.champion_url = f"file://{out}/models/current"
        self.challenger_url = f"file://{out}/models/challenger"
        self.log_url = f"sqlite:///{out}/decisions.db"
        changes = 7 * (plan.before + plan.new_week - 1)
        self.frame = synthetic.generate(
            plan.rows_a_week * (plan.before + plan.weeks),
            plan.seed,
            start=START,
            days=plan.days,
            scenario_start={SCENARIO: changes},
            scenario_share={SCENARIO: SCENARIO_SHARE},
            fraud_share=plan.fraud_share,
            instant_start=changes,
            steady=True,
        )
        self.time_ms = self.frame["time_ms"].to_numpy(np.int64)
        self.fraud = self.frame["is_fraud"].to_numpy() == 1
        self.sent = {name: _values(self.frame[name]) for name in _SENT}
        self.place = {name: at for at, name in enumerate(self.sent["transaction_id"])}
        self.probability = np.full(len(self.frame), np.nan)
        self.model = np.full(len(self.frame), None, object)
        self.chance = np.random.default_rng(plan.seed)
        self.labels: list[tuple[int, int, str]] = []  # due at, row, source
        self.told = np.zeros(len(self.frame), bool)
        #: Decisions that were offered to the challenger's shadow.
        self.offered = 0

    async def live(self) -> Life:
        app = bootstrap.build(
            Settings(
                model_url=self.champion_url,
                challenger_url=self.challenger_url,
                model_public_keys=f"file://{self.out}/keys/development.pub",
                feature_store_url=f"sqlite:///{self.out}/profiles.db",
                decision_log_url=self.log_url,
                outbox_url=f"file://{self.out}/outbox",
                deadline_ms=PATIENT_MS,
                # Before there is a model nobody could look through all that no rule catches.
                without_model="approve",
                log_level="ERROR",
            ),
            clock=lambda: self.now_ms,
        )
        self.api = _Api(app)
        self.scorer = app.state.scorer
        # Of all that lives beside an app that is served, this alone does not go by the machine's clock.
        self.scorer.shadow.start()
        try:
            return await self._weeks()
        finally:
            self.scorer.shadow.stop()

    async def _weeks(self) -> Life:
        plan = self.plan
        self.progress(
            f"{len(self.frame):,} transactions: {plan.before} weeks before the first model, then {plan.weeks} with one"
        )
        await self._pass(0, plan.before * WEEK_MS)
        self.frozen = self._first()
        weeks: list[Week] = []
        steps: list[Step] = []
        last = 0
        for week in range(1, plan.weeks + 1):
            begin = (plan.before + week - 1) * WEEK_MS
            for half in (0, 1):
                await self._pass(begin + half * WEEK_MS // 2, begin + (half + 1) * WEEK_MS // 2)
                if half == 1:
                    weeks.append(self._week(week, begin, await self._drift(begin)))
                    self.progress(_line(weeks[-1]))
                reason = self._reason(weeks, last, at_end=half == 1)
                if reason is None:
                    continue
                step = await self._retrain(week, 3.5 * (half + 1), reason)
                steps.append(step)
                self.progress(f"  day {step.day:g}, {reason}: {step.report['why']}")
                if any(verdict["trained"] for verdict in step.report["verdicts"]):
                    last = week
        return Life(plan, self.frozen.version, tuple(weeks), tuple(steps))

    # --- the stream --------------------------------------------------------------------------------------------------

    async def _pass(self, begin_ms: int, end_ms: int) -> None:
        """Let time pass, in ms since the start: an hour's transactions at a time, and labels when they are due."""
        begin_ms, end_ms = START_MS + begin_ms, START_MS + end_ms
        first, last = np.searchsorted(self.time_ms, [begin_ms, end_ms]).tolist()
        hour = self.time_ms[first:last] // HOUR_MS
        cuts = [first, *(first + 1 + np.flatnonzero(np.diff(hour))).tolist(), last] if last > first else []
        for low, high in pairwise(cuts):
            await self._say(int(self.time_ms[high - 1]))
            await self._judge(low, high)
        await self._say(end_ms)
        self.now_ms = end_ms

    async def _judge(self, low: int, high: int) -> None:
        self.now_ms = int(self.time_ms[high - 1])
        bodies = [self._body(row) for row in range(low, high)]
        answer = await self.api.call("POST", "/predict/batch", {"transactions": bodies})
        champion = self.scorer.source.served
        for row, result in enumerate(answer["results"], low):
            decision = result["decision"]  # a problem would be a fault of ours
            if decision["degraded"] and decision["degraded"] != ["model"]:
                raise SimulationError(f"A decision was degraded: {', '.join(decision['degraded'])}.")
            self.model[row] = decision["model_version"]
            if decision["fraud_probability"] is not None:
                self.probability[row] = decision["fraud_probability"]
            self.offered += champion is not None and decision["model_version"] == champion.version
            self._expect(row, flagged=decision["outcome"] != "approve")
        await self._shadowed()

    def _body(self, row: int) -> dict[str, Any]:
        """A transaction as a caller sends it: what is absent is left out, and nobody knows yet whether it is fraud."""
        sent = {name: values[row] for name, values in self.sent.items() if values[row] is not None}
        return {**sent, "timestamp": rfc3339(int(self.time_ms[row]))}

    def _expect(self, row: int, *, flagged: bool) -> None:
        """Draw when, and whether, somebody says what this transaction was. As many draws for each, whatever it is."""
        never, deviation = self.chance.random(), self.chance.standard_normal()
        if not flagged and not self.fraud[row]:
            return
        lost, median, sigma = ANALYST if flagged else CUSTOMER
        if never >= lost:
            days = min(median * math.exp(sigma * deviation), 45.0)
            due = int(self.time_ms[row]) + max(int(days * DAY_MS), HOUR_MS)
            heapq.heappush(self.labels, (due, row, "analyst" if flagged else "customer"))

    async def _say(self, until_ms: int) -> None:
        """Post the labels that are due by then, each at its time."""
        while self.labels and self.labels[0][0] <= until_ms:
            due, row, source = heapq.heappop(self.labels)
            self.now_ms = max(self.now_ms, due)
            said = {
                "transaction_id": self.sent["transaction_id"][row],
                "label": "fraud" if self.fraud[row] else "legitimate",
                "source": source,
                "time": rfc3339(self.now_ms),
            }
            await self.api.call("POST", "/feedback", said)
            self.told[row] = True

    # --- what is looked at -------------------------------------------------------------------------------------------

    async def _drift(self, begin_ms: int) -> Mapping[str, Any]:
        asked = {"since": rfc3339(START_MS + begin_ms), "until": rfc3339(START_MS + begin_ms + WEEK_MS)}
        found: Mapping[str, Any] = await self.api.call("GET", f"/drift?{urlencode(asked)}")
        return found

    def _week(self, week: int, begin_ms: int, drift: Mapping[str, Any]) -> Week:
        start = START_MS + begin_ms
        first, last = np.searchsorted(self.time_ms, [start, start + WEEK_MS]).tolist()
        rows = slice(first, last)
        frozen = self._by_frozen(start, first, last)
        fraud = self.fraud[rows].astype(np.int8)
        versions, counts = np.unique(self.model[rows].astype(str), return_counts=True)
        own, own_interval = _precision(self.probability[rows], fraud)
        theirs, their_interval = _precision(frozen, fraud)
        found = {each["name"]: each for each in (*drift["features"], drift["score"])}
        scenario = self.frame["fraud_scenario"].iloc[rows] == SCENARIO
        return Week(
            week=week,
            transactions=last - first,
            frauds=int(fraud.sum()),
            new_frauds=int(scenario.sum()),
            labelled_frauds=int(self.told[rows][fraud == 1].sum()),
            average_precision=own,
            interval=own_interval,
            frozen=theirs,
            frozen_interval=their_interval,
            models=dict(zip(versions.tolist(), counts.tolist(), strict=True)),
            drift=tuple(drift["alarms"]),
            psi={name: (found[name]["psi"], found[name]["limit"]) for name in drift["alarms"] if name in found},
        )

    def _by_frozen(self, since_ms: int, first: int, last: int) -> Floats:
        """The first model's probabilities of the rows, from the features that were recorded when they were decided."""
        model = self.frozen.model
        probability = np.full(last - first, np.nan)
        places, columns = [], []
        with self._log() as log:
            for record, _ in records.records(log, since_ms, self.now_ms + 1, test=False):
                at = self.place[record.transaction_id] - first
                if 0 <= at < last - first:
                    document = json.loads(record.document)
                    places.append(at)
                    columns.append(columns_of(model.features, unpack_event(document["event"]), document["features"]))
        probability[places] = model.probabilities(model.vector(fill(np.array(columns), model.population)))
        if np.isnan(probability).any():
            raise SimulationError("The log does not hold every transaction of the week.")
        return probability

    # --- the model ---------------------------------------------------------------------------------------------------

    def _first(self) -> Served:
        """Train the first model from what rules alone have decided, and let the service serve it."""
        with self._log() as log:
            frame = records.frame(log, self.now_ms)
        options = train.Options(
            "the decision log",
            seed=self.plan.seed,
            delay_ms=self.delay_ms,
            tune=self.plan.tune,
            ablation=False,
            now_ms=self.now_ms,
        )
        parts = retrain.split_rows(frame, self.now_ms, self.delay_ms, self.policy.judged_days)
        data = train.replayed(frame, options, retrain.digest(frame))
        made = train.run(options, self.out / "first", self.key, given=(data, parts))
        bundles.publish(made.bundle, self.champion_url, self.key, self.keys)
        self._follow(self.scorer.source, self.champion_url)
        test = made.metrics["test"]
        self.progress(
            f"first model {made.version}: {len(parts.train):,} rows, {int(data.labels[parts.train].sum())} frauds; "
            f"average precision {test['average_precision']:.3f} in the last matured week"
        )
        return load(bundles.open_folder(made.bundle, self.keys))

    def _reason(self, weeks: Sequence[Week], last: int, *, at_end: bool) -> str | None:
        """Why to retrain at this moment, the middle or the end of a week; None: there is no reason. ``last``: the week
        in which a model was trained.
        """
        champion, challenger = self.scorer.source.served, self.scorer.challenger.served
        if challenger is not None and challenger.version != champion.version:
            return "a challenger waits"
        if not at_end:
            return None
        drifted = [week for week in weeks[-self.plan.after_drift :] if week.drift]
        if drifted:
            return f"drift of {named(drifted[-1].drift)} in week {drifted[-1].week}"
        return "schedule" if weeks[-1].week - last >= self.plan.schedule else None

    async def _retrain(self, week: int, day: float, reason: str) -> Step:
        told = (await self.api.call("GET", "/model"))["challenger"]
        setting = retrain.Setting(
            champion_url=self.champion_url,
            challenger_url=self.challenger_url,
            key=self.key,
            keys=self.keys,
            work=self.out / "work",
            now_ms=self.now_ms,
            tune=self.plan.tune,
        )
        with self._log() as log:
            report = retrain.retrain(log, self.policy, setting)
        report.write(self.out / "retrain" / f"week-{week:02}-day-{day:g}")
        self._follow(self.scorer.source, self.champion_url)
        before = self.scorer.challenger.served
        if report.version is not None:
            self._follow(self.scorer.challenger, self.challenger_url)
        after = self.scorer.challenger.served
        if (before and before.version) != (after and after.version):
            self.offered = 0
        return Step(week, day, reason, report.as_json(), told["shadow"] if told else None)

    def _follow(self, source: ModelSource, url: str) -> None:
        """Have the service look now, as it does once a minute: a simulated minute is over too soon."""
        pointer = bundles.read_pointer(url, self.keys)
        deadline = time.monotonic() + 60
        while source.served is None or source.served.bundle.serial != pointer.serial:
            source.refresh()
            if time.monotonic() > deadline:
                raise SimulationError("The service does not take the bundle that was published.")

    async def _shadowed(self) -> None:
        """Wait until the challenger has judged what it was offered: in simulated time it would never keep up."""
        champion, challenger = self.scorer.source.served, self.scorer.challenger.served
        if challenger is None or champion is None or challenger.version == champion.version:
            return
        deadline = time.monotonic() + 60
        while True:
            found = self.scorer.shadow.found() or {}
            if (found.get("champion"), found.get("challenger")) != (champion.version, challenger.version):
                found = {}  # of the pair before
            if sum(found.get(name, 0) for name in ("judged", "failed", "passed_over")) >= self.offered:
                return
            if time.monotonic() > deadline:
                raise SimulationError("The challenger does not judge what it is offered.")
            await asyncio.sleep(0.001)

    @contextmanager
    def _log(self) -> Iterator[Any]:
        log = open_decision_log(self.log_url, budget_ms=PATIENT_MS)
        try:
            yield log
        finally:
            log.close()


class SimulationError(FraudError):
    """Something went otherwise than it can in a world of our own making."""


class _Api:
    """Requests to the application, from this machine and without a socket."""

    def __init__(self, app: FastAPI):
        self._app = app

    async def call(self, method: str, target: str, body: Mapping[str, Any] | None = None) -> Any:
        """The answer's JSON. Raises ``SimulationError`` for anything but 200."""
        path, _, query = target.partition("?")
        sent = b"" if body is None else json.dumps(body).encode()
        status, parts = 0, []
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": query.encode(),
            "headers": [
                (b"host", b"localhost"),
                (b"content-type", b"application/json"),
                (b"content-length", str(len(sent)).encode()),
            ],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": sent, "more_body": False}

        async def send(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                parts.append(message.get("body", b""))

        await self._app(scope, receive, send)
        if status != 200:
            raise SimulationError(f"{method} {path} answered {status}: {b''.join(parts)[:500].decode()}")
        return json.loads(b"".join(parts))


_SENT: Final = (
    *("transaction_id", "type", "customer_id", "counterparty_id", "device_id", "amount", "currency"),
    *("oldbalanceOrg", "newbalanceOrig", "oldbalanceDest", "newbalanceDest", "lat", "long"),
)


def _values(column: "pd.Series[Any]") -> list[Any]:
    """As Python's own values, None where absent."""
    return column.astype(object).where(column.notna(), None).tolist()


def _precision(probability: Floats, fraud: npt.NDArray[np.int8]) -> tuple[float, tuple[float, float] | None]:
    even = np.ones(len(fraud))
    found = metrics.average_precision(probability, fraud, even)
    return found, metrics.precision_interval(probability, fraud, even)


def _line(week: Week) -> str:
    drift = f", drift: {named(week.drift)}" if week.drift else ""
    return (
        f"week {week.week}: {week.transactions:,} transactions, {week.frauds} frauds ({week.new_frauds} new); average "
        f"precision {week.average_precision:.3f}, frozen {week.frozen:.3f}{drift}"
    )


def named(drift: Sequence[str], most: int = 3) -> str:
    """What drifts furthest, in a line."""
    more = f" and {len(drift) - most} more" if len(drift) > most else ""
    return ", ".join(drift[:most]) + more
