"""The model renewed by a written policy: labels -> train -> gate -> challenger -> champion, one step a run.

A run looks at what there is and does the next step: it trains a challenger and publishes it beside the champion, or
lets the one that stands there answer some customers, or all. Both are opened as the service opens them and judged on
the same transactions, with the features that were recorded when these were decided; what the policy asks is written in
a file (``retrain_policy.yaml``), and everything that was measured against it stands in the report.

**What is known of a transaction.** Its label, once there is one. Without a label, what was approved is legitimate when
the label delay has passed, since the customer would have complained, and unknown before; what was flagged is unknown
for ever: where the money was held, nobody complains.

**Which rows teach.** In the order of arrival: those that teach, a label delay of silence, then ``judged_days`` that
judge, then a label delay whose rows are not known yet. On the first judged day the model is thus as old as it will be
on its first day of service. Every fifth day of those that teach calibrates instead: a kind of fraud that is new is in
the newest days, and must be among what the trees see.
"""

import hashlib
import itertools
import json
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fraud_api_lambda import backtest as service
from fraud_api_lambda import bundle as bundles
from fraud_api_lambda.bundle import Manifest, SigningKey
from fraud_api_lambda.decision_log import MAX_PAGE, DecisionLog, Search, Stored, walk
from fraud_api_lambda.errors import BundleMissing, FraudError, SettingsError
from fraud_api_lambda.features import DAY_MS
from fraud_api_lambda.reload import Served, load
from fraud_api_lambda.schemas import TYPES, Pseudonyms, parse_rfc3339, rfc3339

from . import dataset, metrics, publish, records, split, train
from .backtest import with_rules
from .dataset import DataError
from .metrics import Costs

Progress = Callable[[str], None]
Outcome = Literal["promoted", "published", "nothing"]

DEFAULT_POLICY: Final = Path(__file__).parent / "retrain_policy.yaml"
#: For cron: the champion is another one; a challenger stands beside it; all is as it was.
EXIT_CODES: Final[dict[Outcome, int]] = {"promoted": 0, "published": 3, "nothing": 4}
#: Every so many days of those that teach calibrate.
CALIBRATES: Final = 5
#: Replicates of the bootstrap.
REPLICATES: Final = 500
#: Decisions beside the champion that are judged again, at most: the newest.
MOST_SHADOWED: Final = 20_000

_PARTIES: Final = ("customer_id", "counterparty_id", "device_id")


class Busy(FraudError):
    """Another retraining is at work in the same folder: this one does nothing."""


class Policy(BaseModel):
    """When a model is trained, published and promoted; ``retrain_policy.yaml`` says what each means."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    label_delay_days: float | None = Field(None, ge=0, le=365)
    min_new_frauds: int = Field(ge=1)
    judged_days: float = Field(gt=0, le=365)
    min_judged_frauds: int = Field(ge=2)
    learn_days: float | None = Field(None, gt=0)
    min_gain: float = Field(ge=0, le=1)
    min_gain_low: float = Field(ge=-1, le=1)
    max_flipped: float = Field(ge=0, le=1)
    min_shadowed: int = Field(ge=0)
    canary_share: int = Field(0, ge=0, le=99)
    min_canary: int = Field(0, ge=0)


def read_policy(path: Path) -> Policy:
    """Raises ``SettingsError`` naming what is wrong, so that no limit is ever one that nobody wrote."""
    import yaml

    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        raise SettingsError(f"The policy file {path} cannot be read as YAML.") from None
    if not isinstance(data, dict):
        raise SettingsError(f"The policy file {path} must hold names and values, such as  min_new_frauds: 50")
    try:
        return Policy.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            raise SettingsError(
                f"{path}: '{name}' is not known. Choices are: {', '.join(Policy.model_fields)}."
            ) from None
        raise SettingsError(f"{path}: {name}: {first['msg']}.") from None


# --- what a run is asked, and what it says ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Base:
    """Labelled data from before the log, as ``dataset.load`` takes them."""

    data: str
    format: str = "csv"
    mapping: str | None = None
    where: tuple[str, ...] = ()
    legit_weight: float = 1.0


@dataclass(frozen=True)
class Setting:
    """Where a run takes place. Pointers are URLs in one folder.

    ``rules`` are the bytes of the rules file in force, None: each bundle's own. ``pseudonyms``: what the log knows
    parties by. ``tune``: candidates of the search. ``now_ms`` is the moment it takes place.
    """

    champion_url: str
    challenger_url: str
    key: SigningKey
    keys: Mapping[str, bytes]
    work: Path
    now_ms: int
    base: Base | None = None
    rules: bytes | None = None
    pseudonyms: Pseudonyms | None = None
    tune: int = 4
    dry_run: bool = False

    @property
    def trusted(self) -> dict[str, bytes]:
        return {**self.keys, **bundles.parse_public_keys(self.key.public_line())}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that the policy asks. ``kind``: what is not done where it fails."""

    name: str
    kind: Literal["train", "publish", "promote"]
    passed: bool
    measured: float | int | None
    asked: str


@dataclass(frozen=True, slots=True)
class Judged:
    """Champion and candidate on the same decisions, which arrived in ``[since, until)``.

    ``rows`` are those whose truth is known, ``unknown`` the others; ``left_out`` could not be judged. ``flipped`` are
    decisions, known or not, that the candidate would decide otherwise. Without two frauds there is no gain.
    """

    since: str
    until: str
    rows: int
    frauds: int
    unknown: int
    left_out: int
    champion: float | None
    candidate: float | None
    gain: float | None
    low: float | None
    high: float | None
    flipped: int

    @property
    def decisions(self) -> int:
        return self.rows + self.unknown

    @property
    def flipped_share(self) -> float:
        return self.flipped / self.decisions if self.decisions else 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """One candidate, what was measured of it, and what came of it."""

    version: str
    trained: bool  #: in this run; else it stood beside the champion already
    judged: Judged
    shadow: Judged | None
    canary: int  #: decisions that it has made
    checks: tuple[Check, ...]

    def failed(self, *kinds: str) -> list[Check]:
        return [check for check in self.checks if not check.passed and check.kind in kinds]


@dataclass(frozen=True, slots=True)
class Report:
    """What a run did and why. ``version`` is that of the model which was promoted or published."""

    at: str
    outcome: Outcome
    why: str
    champion: str
    version: str | None
    checks: tuple[Check, ...]  #: before any training
    verdicts: tuple[Verdict, ...]
    dry_run: bool
    policy: Mapping[str, Any] = field(repr=False)

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.outcome]

    def as_json(self) -> dict[str, Any]:
        told = asdict(self)
        for verdict, made in zip(told["verdicts"], self.verdicts, strict=True):
            verdict["judged"]["flipped_share"] = made.judged.flipped_share
        return {**told, "exit_code": self.exit_code}

    def text(self) -> str:
        """For people: what was done, then every check with what was measured and what is asked."""
        word = {"promoted": "PROMOTED", "published": "CHALLENGER", "nothing": "NOTHING PUBLISHED"}[self.outcome]
        lines = [f"{word}{' (dry run: nothing was moved)' if self.dry_run else ''}: {self.why}", ""]
        lines += [f"champion {self.champion}, {self.at}", *map(_line, self.checks)]
        for verdict in self.verdicts:
            judged = verdict.judged
            lines += [
                "",
                (
                    f"{'trained' if verdict.trained else 'challenger'} {verdict.version}: judged on {judged.rows:,} "
                    f"transactions with {judged.frauds:,} frauds, {judged.since[:16]} to {judged.until[:16]}"
                ),
            ]
            if judged.gain is not None:
                gain = f"gain {judged.gain:+.4f} [{judged.low:+.4f}, {judged.high:+.4f}]"
                flips = f"{judged.flipped:,} of {judged.decisions:,} decisions flip"
                lines.append(f"  average precision {judged.champion:.4f} -> {judged.candidate:.4f}, {gain}; {flips}")
            lines += map(_line, verdict.checks)
        return "\n".join(lines)

    def write(self, out: Path) -> tuple[Path, Path]:
        """``retrain.json`` and ``retrain.txt`` in ``out``."""
        out.mkdir(parents=True, exist_ok=True)
        paths = out / "retrain.json", out / "retrain.txt"
        paths[0].write_text(json.dumps(self.as_json(), indent=1, allow_nan=False) + "\n", encoding="utf-8")
        paths[1].write_text(self.text() + "\n", encoding="utf-8")
        return paths


def _line(check: Check) -> str:
    return f"  {'ok    ' if check.passed else 'FAILED'}  {check.name:34} {_number(check.measured):>9}   {check.asked}"


def _number(value: float | int | None) -> str:
    return "none" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


# --- the run ---------------------------------------------------------------------------------------------------------


def retrain(log: DecisionLog, policy: Policy, setting: Setting, *, progress: Progress = lambda _: None) -> Report:
    """Do the next step and say what it was. A model that is not better, by the policy, is never promoted.

    Whenever it is killed both pointers are whole: each is moved once, at the end of its step, after everything that it
    names was written and read back. Raises ``Busy``, ``BundleError``, ``StoreUnavailable``, ``PublishConflict``.
    """
    if bundles.split_url(setting.challenger_url)[0] != bundles.split_url(setting.champion_url)[0]:
        raise SettingsError("The pointers of champion and challenger must lie in one folder, such as models/.")
    with _alone(setting.work) as scratch:
        return _Run(log, policy, setting, progress).step(scratch)


@contextmanager
def _alone(work: Path) -> Iterator[Path]:
    """A fresh folder in ``work``, which nobody else works in meanwhile. The lock ends with the process."""
    work.mkdir(parents=True, exist_ok=True)
    lock = sqlite3.connect(work / "lock.db", timeout=0, isolation_level=None)
    try:
        try:
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError:
            raise Busy(f"Another retraining is at work in {work}.") from None
        for left in work.glob("run-*"):  # of one that was killed
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix="run-", dir=work) as scratch:
            yield Path(scratch)
    finally:
        lock.close()


class _Run:
    def __init__(self, log: DecisionLog, policy: Policy, setting: Setting, progress: Progress):
        self.log = log
        self.policy = policy
        self.setting = setting
        self.progress = progress
        self.pointer = bundles.read_pointer(setting.champion_url, setting.trusted)
        self.champion = self._opened(bundles.open_bundle(setting.champion_url, setting.trusted, self.pointer))
        manifest = self.champion.bundle.manifest
        days = policy.label_delay_days
        self.delay_ms = manifest.label_delay_ms if days is None else int(days * DAY_MS)
        #: The newest matured days.
        self.until_ms = setting.now_ms - self.delay_ms
        self.since_ms = self.until_ms - int(policy.judged_days * DAY_MS)
        self.trained_ms = _trained_ms(manifest)

    def step(self, scratch: Path) -> Report:
        verdicts: list[Verdict] = []
        waiting = self._waiting()
        if waiting is not None:
            self.progress(f"judging the challenger {waiting.version}")
            verdict = self._judge(waiting, trained=False)
            verdicts.append(verdict)
            if not verdict.failed("publish", "promote"):
                return self._let(waiting, verdict, ())
            if not _quality(verdict):
                why = f"{waiting.version} goes on beside the champion: {_because(verdict.failed('promote'))}."
                return self._report("published", why, waiting.version, (), verdicts)
            if waiting.bundle.share and not self.setting.dry_run:  # it answers nobody any more
                publish.promote(*self._urls, self.setting.key, self.setting.keys, share=0)
        checks = self._enough()
        failed = [check for check in checks if not check.passed]
        if failed:
            return self._report("nothing", f"nothing was trained: {_because(failed)}.", None, checks, verdicts)
        try:
            folder = self._train(scratch)
        except DataError as error:
            return self._report("nothing", f"no model could be trained: {error}", None, checks, verdicts)
        trusted = self.setting.trusted
        candidate = self._opened(bundles.open_folder(folder, trusted))
        self.progress(f"judging {candidate.version} against {self.champion.version}")
        verdict = self._judge(candidate, trained=True)
        verdicts.append(verdict)
        refused = verdict.failed("publish")
        if refused:
            why = f"{candidate.version} is not fit to stand beside the champion: {_because(refused)}."
            return self._report("nothing", why, None, checks, verdicts)
        if not self.setting.dry_run:
            bundles.publish(folder, self.setting.challenger_url, self.setting.key, trusted)
        if verdict.failed("promote"):
            why = f"{candidate.version} stands beside the champion: {_because(verdict.failed('promote'))}."
            return self._report("published", why, candidate.version, checks, verdicts)
        return self._let(candidate, verdict, checks, verdicts[:-1])

    def _let(
        self, served: Served, verdict: Verdict, checks: tuple[Check, ...], before: Sequence[Verdict] = ()
    ) -> Report:
        """Let a model that the policy has nothing against answer some customers, or all."""
        share = self.policy.canary_share
        verdicts = [*before, verdict]
        if share and (served.bundle.share < share or verdict.canary < self.policy.min_canary):
            if served.bundle.share < share and not self.setting.dry_run:
                publish.promote(*self._urls, self.setting.key, self.setting.keys, share=share, force=True)
            why = (
                f"{served.version} answers {share} of a hundred customers: {verdict.canary:,} decisions so far, "
                f"{self.policy.min_canary:,} are asked for."
            )
            return self._report("published", why, served.version, checks, verdicts)
        if not self.setting.dry_run:
            # The bundles' own figures are of different rows; both were judged on the same ones here.
            publish.promote(*self._urls, self.setting.key, self.setting.keys, force=True)
        judged = verdict.judged
        why = (
            f"{served.version} is the champion: average precision {judged.champion:.4f} -> {judged.candidate:.4f} "
            f"on the newest {self.policy.judged_days:g} matured days."
        )
        return self._report("promoted", why, served.version, checks, verdicts)

    @property
    def _urls(self) -> tuple[str, str]:
        return self.setting.challenger_url, self.setting.champion_url

    def _opened(self, bundle: bundles.Bundle) -> Served:
        """As the service opens it, with the rules that are in force."""
        served = with_rules(load(bundle), self.setting.rules)
        if self.setting.pseudonyms is not None:
            served = replace(served, rules=served.rules.under(self.setting.pseudonyms))
        return served

    def _waiting(self) -> Served | None:
        """The challenger that follows this champion; None where there is none, or none that was not champion yet."""
        try:
            bundle = bundles.open_bundle(self.setting.challenger_url, self.setting.trusted)
        except BundleMissing:
            return None
        version = bundle.manifest.version
        # Whoever went back from a model does not want it again.
        if version in {self.champion.version, self.pointer.previous} or _trained_ms(bundle.manifest) < self.trained_ms:
            return None
        return self._opened(bundle)

    def _enough(self) -> tuple[Check, ...]:
        """Whether there is enough to learn from, and to judge by."""
        new = judged = 0
        for _, label in walk(self.log, Search(label="fraud", test=False, limit=MAX_PAGE)):
            assert label is not None
            new += self.trained_ms < label.received_ms <= self.setting.now_ms
        for record, label in walk(
            self.log, Search(self.since_ms, self.until_ms, label="fraud", test=False, limit=MAX_PAGE)
        ):
            judged += label is not None and _can_be_judged(record)
        policy = self.policy
        return (
            Check(
                "new labelled frauds", "train", new >= policy.min_new_frauds, new, f"at least {policy.min_new_frauds}"
            ),
            Check(
                "frauds in the judged days",
                "train",
                judged >= policy.min_judged_frauds,
                judged,
                f"at least {policy.min_judged_frauds}",
            ),
        )

    # --- training ----------------------------------------------------------------------------------------------------

    def _train(self, scratch: Path) -> Path:
        setting, policy = self.setting, self.policy
        rules = scratch / "rules.yaml"
        rules.write_bytes(self.champion.bundle.read("rules.yaml"))
        options = _options_of(self.champion.bundle.manifest, setting, str(rules), self.delay_ms)
        self.progress("reading the log")
        frame = self._frame()
        parts = split_rows(frame, setting.now_ms, self.delay_ms, policy.judged_days, policy.learn_days)
        self.progress(f"replaying {len(frame):,} rows")
        data = train.replayed(frame, options, digest(frame))
        result = train.run(options, scratch / "bundles", setting.key, given=(data, parts), progress=self.progress)
        self.progress(f"trained {result.version} in {result.seconds:.0f} s, {policy.judged_days:g} days kept to judge")
        return result.bundle

    def _frame(self) -> pd.DataFrame:
        """The log's rows, and those of the base data that it does not hold, in the order of arrival."""
        frame = records.frame(self.log, self.setting.now_ms, self.progress)
        if self.setting.base is not None:
            frame = pd.concat([self._base(self.setting.base, set(frame["transaction_id"])), frame], ignore_index=True)
            for name in ("labelled", "flagged"):
                frame[name] = frame[name].astype(bool)
            frame["type"] = frame["type"].astype(pd.CategoricalDtype(list(TYPES)))
        order = np.argsort(frame["received_ms"].to_numpy(np.int64), kind="stable")
        return frame.iloc[order].reset_index(drop=True)

    def _base(self, base: Base, known: set[str]) -> pd.DataFrame:
        self.progress(f"reading {base.data}")
        frame = dataset.load(
            base.data, base.format, mapping=base.mapping, where=base.where, legit_weight=base.legit_weight
        )
        if "transaction_id" in frame:
            frame = frame[~frame["transaction_id"].isin(known)].reset_index(drop=True)
        time_ms = frame["time_ms"].to_numpy(np.int64)
        frame["received_ms"] = np.maximum.accumulate(time_ms) if len(frame) else time_ms
        told = frame.get("label_ms", pd.Series(np.nan, frame.index))
        frame["label_ms"] = told.fillna(frame["time_ms"] + self.delay_ms).astype(np.int64)
        frame["labelled"] = frame["label_ms"] < self.setting.now_ms
        frame["flagged"] = True  # without a label nothing is known of it
        # What is not known yet must not be seen by the label features either.
        frame["is_fraud"] = frame["is_fraud"].where(frame["labelled"], 0).astype(np.int8)
        if self.setting.pseudonyms is not None:
            for name in _PARTIES:
                if name in frame:
                    frame[name] = frame[name].map(self.setting.pseudonyms.of, na_action="ignore")
        return frame

    # --- judging -----------------------------------------------------------------------------------------------------

    def _judge(self, candidate: Served, *, trained: bool) -> Verdict:
        judged = compare(
            records.records(self.log, self.since_ms, self.until_ms, test=False),
            self.champion,
            candidate,
            since_ms=self.since_ms,
            until_ms=self.until_ms,
            known_until_ms=self.until_ms,
        )
        shadow, canary = None, 0
        if not trained:
            shadow, canary = self._beside(candidate)
        checks = [*_gate(judged), *_promotion(judged, self.policy), *_shadowed(shadow, self.policy)]
        return Verdict(candidate.version, trained, judged, shadow, canary, tuple(checks))

    def _beside(self, candidate: Served) -> tuple[Judged, int]:
        """What came in since the challenger was trained, judged by both; and how much of it the challenger answered."""
        since, until = _trained_ms(candidate.bundle.manifest), self.setting.now_ms
        newest = itertools.islice(walk(self.log, Search(since, until, test=False, limit=MAX_PAGE)), MOST_SHADOWED)
        answered = 0

        def counted() -> Iterator[Stored]:
            nonlocal answered
            for stored in newest:
                answered += stored.record.model_version == candidate.version
                yield stored

        judged = compare(
            counted(), self.champion, candidate, since_ms=since, until_ms=until, known_until_ms=self.until_ms
        )
        return judged, answered

    def _report(
        self,
        outcome: Outcome,
        why: str,
        version: str | None,
        checks: tuple[Check, ...],
        verdicts: Sequence[Verdict],
    ) -> Report:
        return Report(
            at=rfc3339(self.setting.now_ms),
            outcome=outcome,
            why=why,
            champion=self.champion.version,
            version=version,
            checks=checks,
            verdicts=tuple(verdicts),
            dry_run=self.setting.dry_run,
            policy=self.policy.model_dump(),
        )


def split_rows(
    frame: pd.DataFrame, now_ms: int, delay_ms: int, judged_days: float, learn_days: float | None = None
) -> split.Split:
    """Which rows of :func:`records.frame` teach, calibrate and judge at this moment: see the module."""
    came = train.arrived(frame)
    until = now_ms - delay_ms
    since = until - int(judged_days * DAY_MS)
    known = (frame["labelled"].to_numpy() | ~frame["flagged"].to_numpy()) & (came < until)
    teaches = known & (came < since - delay_ms)
    if learn_days is not None:
        teaches &= came >= now_ms - int(learn_days * DAY_MS)
    calibrates = teaches & (came // DAY_MS % CALIBRATES == 0)
    parts = [np.flatnonzero(rows) for rows in (teaches & ~calibrates, calibrates, known & (came >= since))]
    kind = (
        f"retrained: learned until {rfc3339(since - delay_ms)[:16]}, every {CALIBRATES}th day calibrates, delay "
        f"{delay_ms / DAY_MS:g} d, judged on {judged_days:g} d"
    )
    return split.Split(parts[0], parts[1], parts[2], kind)


def compare(
    decisions: Iterator[Stored],
    champion: Served,
    candidate: Served,
    *,
    since_ms: int,
    until_ms: int,
    known_until_ms: int,
) -> Judged:
    """Both models on decisions as they were recorded: their features, and what is known of them by now.

    An approved transaction without a label counts as legitimate where it arrived before ``known_until_ms``.
    """
    policies = [service.Policy(served.rules, served.model, rescore=True) for served in (champion, candidate)]
    probabilities: list[tuple[float, float]] = []
    truth: list[bool] = []
    unknown = left_out = flipped = 0
    for stored in decisions:
        cases = [service.case_of(stored, policy) for policy in policies] if _can_be_judged(stored.record) else []
        before, after = (case for case in cases) if cases else ("test", "test")
        if isinstance(before, str) or isinstance(after, str):
            left_out += 1
            continue
        outcomes = [
            service.decide_again(case, policy).verdict.outcome
            for case, policy in zip((before, after), policies, strict=True)
        ]
        flipped += outcomes[0] != outcomes[1]
        record, label = stored
        if label is None and (record.outcome != "approve" or record.received_ms >= known_until_ms):
            unknown += 1
            continue
        assert before.probability is not None
        assert after.probability is not None
        probabilities.append((before.probability, after.probability))
        truth.append(label is not None and label.is_fraud)
    frauds = sum(truth)
    score, fraud, even = np.array(probabilities).reshape(-1, 2), np.array(truth, np.int8), np.ones(len(truth))
    precision: list[float | None] = [None, None]
    gain = low = high = None
    if frauds >= 2:
        was, now = (metrics.average_precision(score[:, at], fraud, even) for at in (0, 1))
        precision, gain = [was, now], now - was
        low, high = metrics.gain_interval(score[:, 0], score[:, 1], fraud, even, replicates=REPLICATES)
    return Judged(
        since=rfc3339(since_ms),
        until=rfc3339(until_ms),
        rows=len(truth),
        frauds=frauds,
        unknown=unknown,
        left_out=left_out,
        champion=precision[0],
        candidate=precision[1],
        gain=gain,
        low=low,
        high=high,
        flipped=flipped,
    )


def _can_be_judged(record: Any) -> bool:
    """Without the parties' past, a model would be judged on what it was never asked."""
    return not record.test and "feature_store" not in record.degraded


# --- what the policy asks --------------------------------------------------------------------------------------------


def _gate(judged: Judged) -> Iterator[Check]:
    rate = judged.frauds / judged.rows if judged.rows else 0.0
    found, high = judged.candidate, judged.high
    yield Check(
        "average precision",
        "publish",
        found is not None and found >= 2 * rate,
        found,
        f"at least {2 * rate:.4f}, twice the fraud rate: hardly better than chance below",
    )
    yield Check(
        "gain, upper end",
        "publish",
        high is not None and high >= 0,
        high,
        "at least 0: clearly worse than the champion below",
    )


def _promotion(judged: Judged, policy: Policy) -> Iterator[Check]:
    enough = judged.frauds >= policy.min_judged_frauds
    yield Check("frauds judged", "promote", enough, judged.frauds, f"at least {policy.min_judged_frauds}")
    gain, low = judged.gain, judged.low
    yield Check("gain", "promote", gain is not None and gain >= policy.min_gain, gain, f"at least {policy.min_gain:g}")
    yield Check(
        "gain, lower end",
        "promote",
        low is not None and low >= policy.min_gain_low,
        low,
        f"at least {policy.min_gain_low:g}",
    )
    share = judged.flipped_share
    yield Check("flipped decisions", "promote", share <= policy.max_flipped, share, f"at most {policy.max_flipped:g}")


_SHADOWED: Final = "decisions beside the champion"


def _shadowed(shadow: Judged | None, policy: Policy) -> Iterator[Check]:
    seen = 0 if shadow is None else shadow.decisions
    if policy.min_shadowed:
        yield Check(_SHADOWED, "promote", seen >= policy.min_shadowed, seen, f"at least {policy.min_shadowed:,}")
    if shadow is not None and seen:
        share = shadow.flipped_share
        yield Check(
            "flipped beside the champion",
            "promote",
            share <= policy.max_flipped,
            share,
            f"at most {policy.max_flipped:g}",
        )


def _quality(verdict: Verdict) -> list[Check]:
    """What has been found against a challenger; not that too little is known of it yet."""
    return [check for check in verdict.failed("publish", "promote") if check.name not in {_SHADOWED, "frauds judged"}]


def _because(failed: Sequence[Check]) -> str:
    return "; ".join(f"{check.name} {_number(check.measured)}, asked: {check.asked}" for check in failed)


# --- the champion's facts --------------------------------------------------------------------------------------------


def _trained_ms(manifest: Manifest) -> int:
    found = parse_rfc3339(manifest.created_at)
    return 0 if found is None else found


def _options_of(manifest: Manifest, setting: Setting, rules: str, delay_ms: int) -> train.Options:
    """To train as the champion was, with its rules, currency, time zone and costs."""
    facts = manifest.training
    return train.Options(
        data="the decision log",
        format="log",
        seed=int(facts.get("seed", 7)),
        features=facts.get("features", "pre"),
        labels=bool(facts.get("labels", False)),
        history=bool(facts.get("history", True)),
        champion="blend" if manifest.champion == "blend" else "xgboost",
        delay_ms=delay_ms,
        tune=setting.tune,
        rules=rules,
        keep_rules=True,  # they were judged when they were sealed; here the model alone is renewed
        time_zone=manifest.time_zone.name,
        base_currency=manifest.currency.base,
        minor_units=manifest.currency.minor_units,
        rates={
            datetime.fromtimestamp(table.from_ms / 1000, UTC).isoformat(): dict(table.rates)
            for table in manifest.currency.tables
        },
        costs=Costs(**facts.get("costs", {})),
        ablation=False,
        parent=manifest.version,
        now_ms=setting.now_ms,
    )


def digest(frame: pd.DataFrame) -> str:
    """SHA-256 of what the frame holds, row by row."""
    rows = pd.util.hash_pandas_object(frame, index=False).to_numpy()
    return hashlib.sha256(rows.tobytes()).hexdigest()
