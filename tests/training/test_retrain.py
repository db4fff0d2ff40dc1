"""Retraining by a written policy: a worse model is never promoted, whatever stops a run leaves the pointers whole."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from fraud_api_lambda import bundle as bundles
from fraud_api_lambda.bundle import SigningKey, parse_public_keys, read_pointer
from fraud_api_lambda.decision_log import DecisionLog, Label, open_decision_log
from fraud_api_lambda.errors import BundleMissing, SettingsError
from fraud_api_lambda.feature_store import open_feature_store
from fraud_api_lambda.reload import ModelSource, load
from fraud_api_lambda.schemas import rfc3339
from fraud_api_lambda.scoring import Answer, FraudScorer
from training import publish, records, replay, retrain, synthetic, train
from training.__main__ import app
from training.retrain import Base, Busy, Policy, Report, Setting

DAY_MS = 86_400_000
AMPLE_MS = 20_000
ROOT = Path(__file__).resolve().parents[2]
#: Days before the log begins, of the log, and the label delay.
BEFORE, DAYS, DELAY = 20, 40, 3
NEW = "mule_fan_in"
#: A Monday's midnight to come: stores let profiles go when they are old by the machine's own clock.
END_MS = 4_107_542_400_000

POLICY = Policy(
    label_delay_days=DELAY, min_new_frauds=20, judged_days=9, min_judged_frauds=10, min_gain=0.01, min_gain_low=0.0,
    max_flipped=0.2, min_shadowed=0,
)  # fmt: skip


@dataclass(frozen=True)
class World:
    """``home`` has keys, models with a champion that knows nothing of a new kind of fraud, and ``base.parquet``; its
    ``decisions.db`` ends at ``end_ms``, with every fraud labelled a day later. ``rows`` are the log's.
    """

    home: Path
    end_ms: int
    rows: pd.DataFrame

    def log(self) -> DecisionLog:
        return open_decision_log(f"sqlite:///{self.home}/decisions.db", budget_ms=AMPLE_MS)

    @property
    def key(self) -> SigningKey:
        return SigningKey.load(self.home / "keys" / "development.key")

    @property
    def trusted(self) -> dict[str, bytes]:
        return parse_public_keys(self.key.public_line())

    def url(self, name: str) -> str:
        return f"file://{self.home}/models/{name}"

    def setting(self, **changes: Any) -> Setting:
        made = Setting(
            champion_url=self.url("current"),
            challenger_url=self.url("challenger"),
            key=self.key,
            keys=self.trusted,
            work=self.home / "work",
            now_ms=self.end_ms,
            base=Base(str(self.home / "base.parquet"), "synthetic"),
            tune=0,
        )
        return replace(made, **changes)

    def pointers(self) -> dict[str, bytes]:
        """What both pointers hold; every one that is there names a bundle that opens."""
        found = {}
        for name in ("current", "challenger"):
            path = self.home / "models" / name
            if path.exists():
                load(bundles.open_bundle(self.url(name), self.trusted)).bundle.verify()
                found[name] = path.read_bytes()
        return found

    def version(self, name: str) -> str:
        return read_pointer(self.url(name), self.trusted).version

    def retrain(self, policy: Policy = POLICY, **changes: Any) -> Report:
        log = self.log()
        try:
            return retrain.retrain(log, policy, self.setting(**changes))
        finally:
            log.close()

    def answer(self, rows: pd.DataFrame, labels: Sequence[Label] = ()) -> None:
        """Have the service as it stands decide the rows, a hundred at a time, and learn of labels at their times."""
        sources = [ModelSource(self.url(name), lambda: self.trusted) for name in ("current", "challenger")]
        for source in sources:
            source.refresh()
        clock = [0]
        log = self.log()
        store = open_feature_store(f"sqlite:///{self.home}/profiles.db", budget_ms=AMPLE_MS)
        scorer = FraudScorer(sources[0], store, log, challenger=sources[1], budget_ms=AMPLE_MS, clock=lambda: clock[0])
        waiting = sorted(labels, key=lambda label: -label.received_ms)
        for start in range(0, len(rows), 100):
            piece = rows.iloc[start : start + 100]
            end_ms = int(piece["time_ms"].iat[-1])
            while waiting and waiting[-1].received_ms <= end_ms:
                clock[0] = waiting[-1].received_ms
                scorer.feedback(waiting.pop())
            clock[0] = end_ms
            assert all(isinstance(answer, Answer) for answer in scorer.answer_many(list(map(body, rows_of(piece)))))
        for label in reversed(waiting):
            clock[0] = label.received_ms
            scorer.feedback(label)
        store.close()
        log.close()


def rows_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def body(row: dict[str, Any]) -> dict[str, Any]:
    left_out = {"is_fraud", "fraud_scenario", "label_ms", "time_ms", "weight"}
    sent = {name: value for name, value in row.items() if name not in left_out and not pd.isna(value)}
    return {**sent, "timestamp": rfc3339(row["time_ms"])}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> World:
    home = tmp_path_factory.mktemp("retrain")
    end_ms = END_MS
    start_ms = end_ms - (BEFORE + DAYS) * DAY_MS
    frame = synthetic.generate(
        9_000, 3, start=pd.Timestamp(start_ms, unit="ms", tz="UTC").to_pydatetime(), days=BEFORE + DAYS,
        scenario_start={NEW: BEFORE}, scenario_share={NEW: 0.6}, fraud_share=0.04, steady=True,
    )  # fmt: skip
    begin_ms = start_ms + BEFORE * DAY_MS
    before, rows = frame[frame["time_ms"] < begin_ms], frame[frame["time_ms"] >= begin_ms].reset_index(drop=True)
    synthetic.write(before, home / "base.parquet")
    key = train.development_key(home / "keys")
    options = train.Options(
        str(home / "base.parquet"), split="random", tune=0, ablation=False, delay_ms=DELAY * DAY_MS, now_ms=begin_ms
    )
    result = train.run(options, home / "models", key)
    world = World(home, end_ms, rows)
    bundles.publish(result.bundle, world.url("current"), key, world.trusted)
    told = rows[(rows["is_fraud"] == 1) | (rows.index % 40 == 0)]
    world.answer(
        rows, [label(*each) for each in told[["transaction_id", "time_ms", "is_fraud"]].itertuples(index=False)]
    )
    return world


def label(name: str, time_ms: int, is_fraud: int, source: Any = "analyst") -> Label:
    """As it comes in a day after its transaction."""
    return Label(name, bool(is_fraud), source, time_ms + DAY_MS, time_ms + DAY_MS)


@pytest.fixture
def world(made: World, tmp_path: Path) -> World:
    """A copy to do with as one likes."""
    shutil.copytree(made.home, tmp_path / "home")
    return replace(made, home=tmp_path / "home")


@pytest.fixture(scope="module")
def published(made: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[World, Report]:
    """The world after a run that found a better model and lets it stand beside the champion first. Not to be changed:
    copy it.
    """
    home = tmp_path_factory.mktemp("published") / "home"
    shutil.copytree(made.home, home)
    copy = replace(made, home=home)
    return copy, copy.retrain(POLICY.model_copy(update={"min_shadowed": 300}))


@pytest.fixture
def standing(published: tuple[World, Report], tmp_path: Path) -> tuple[World, Report]:
    shutil.copytree(published[0].home, tmp_path / "home")
    return replace(published[0], home=tmp_path / "home"), published[1]


def failed(report: Report) -> set[str]:
    return {check.name for verdict in report.verdicts for check in verdict.checks if not check.passed}


def later(world: World, days: int = 2, n: int = 400) -> World:
    """The world some days on: as many more transactions, of which nothing is known yet."""
    rows = world.rows.iloc[:n].copy()
    rows["transaction_id"] = "later-" + rows["transaction_id"]
    rows["time_ms"] = world.end_ms + np.linspace(0, days * DAY_MS - 1, n).astype(np.int64)
    world.answer(rows)
    return replace(world, end_ms=world.end_ms + days * DAY_MS)


# --- what is learned from --------------------------------------------------------------------------------------------


def test_replay_of_the_logs_rows_gives_the_features_that_were_recorded_to_the_bit(made: World) -> None:
    log = made.log()
    frame = records.frame(log, made.end_ms + 1)
    served = load(bundles.open_bundle(made.url("current"), made.trusted))
    columns = replay.columns(frame, served.model.features, served.model.rates)
    place = {name: at for at, name in enumerate(frame["transaction_id"])}
    names = served.model.features.columns
    for record, _ in records.records(log, None, None):
        recorded = json.loads(record.document)["features"]
        row = columns[place[record.transaction_id]].tolist()
        assert {name: value for name, value in zip(names, row, strict=True) if value == value} == recorded
    log.close()


def test_rows_teach_calibrate_and_judge_with_a_label_delay_of_silence_and_nothing_that_is_unknown(made: World) -> None:
    log = made.log()
    frame = records.frame(log, made.end_ms + 1)
    log.close()
    parts = retrain.split_rows(frame, made.end_ms, DELAY * DAY_MS, 9, learn_days=30)
    came = frame["received_ms"].to_numpy()
    day = came // DAY_MS
    known = frame["labelled"].to_numpy() | ~frame["flagged"].to_numpy()
    assert (~known).any()
    for part in (parts.train, parts.validation, parts.test):
        assert len(part)
        assert known[part].all()
    assert not (day[parts.train] % 5 == 0).any()
    assert (day[parts.validation] % 5 == 0).all()
    learned = np.concatenate((parts.train, parts.validation))
    assert came[learned].min() >= made.end_ms - 30 * DAY_MS
    assert came[learned].max() < made.end_ms - (DELAY + 9 + DELAY) * DAY_MS
    assert came[parts.test].min() >= made.end_ms - (DELAY + 9) * DAY_MS
    assert came[parts.test].max() < made.end_ms - DELAY * DAY_MS


def test_what_was_flagged_and_never_labelled_is_unknown_and_what_is_young_too(made: World) -> None:
    log = made.log()
    champion = load(bundles.open_bundle(made.url("current"), made.trusted))
    every = list(records.records(log, None, None))
    log.close()
    times = {"since_ms": 0, "until_ms": made.end_ms, "known_until_ms": made.end_ms - DELAY * DAY_MS}
    judged = retrain.compare(iter(every), champion, champion, **times)
    unknown = [
        record
        for record, label in every
        if label is None and (record.outcome != "approve" or record.received_ms >= times["known_until_ms"])
    ]
    assert judged.unknown == len(unknown) > 0
    assert judged.rows + judged.unknown == len(every)
    assert judged.frauds == int((made.rows["is_fraud"] == 1).sum())
    assert (judged.gain, judged.low, judged.high, judged.flipped) == (0.0, 0.0, 0.0, 0)


# --- the steps -------------------------------------------------------------------------------------------------------


def test_a_better_model_is_promoted_and_says_what_it_came_from(world: World) -> None:
    before = world.version("current")
    report = world.retrain()
    assert (report.outcome, report.exit_code) == ("promoted", 0), report.text()
    assert world.version("current") == world.version("challenger") == report.version != before
    manifest = bundles.open_bundle(world.url("current"), world.trusted).manifest
    assert manifest.parent == before
    judged = report.verdicts[0].judged
    assert judged.gain is not None
    assert judged.gain > 0.05
    # What the bundle says of itself, by replay, is what was measured by the recorded features.
    sealed = json.loads(bundles.open_bundle(world.url("current"), world.trusted).read("metrics.json"))["test"]
    assert manifest.training["rows"]["test"] == judged.rows
    assert sealed["average_precision"] == pytest.approx(judged.candidate, abs=0.05)
    assert manifest.training["learned_until"] < judged.since


def test_a_challenger_stands_beside_the_champion_until_so_many_decisions_were_made(
    standing: tuple[World, Report],
) -> None:
    world, report = standing
    policy = POLICY.model_copy(update={"min_shadowed": 300})
    assert (report.outcome, report.exit_code) == ("published", 3)
    assert failed(report) == {"decisions beside the champion"}
    pointers = world.pointers()
    assert world.version("challenger") == report.version != world.version("current")
    again = world.retrain(policy)
    assert (again.outcome, again.version, again.verdicts[0].trained) == ("published", report.version, False)
    assert world.pointers() == pointers
    promoted = later(world).retrain(policy)
    assert (promoted.outcome, promoted.version) == ("promoted", report.version), promoted.text()
    assert world.version("current") == report.version
    assert [verdict.trained for verdict in promoted.verdicts] == [False]
    shadow = promoted.verdicts[0].shadow
    assert shadow is not None
    assert shadow.decisions + shadow.left_out == 400


def test_a_canary_answers_some_customers_first(standing: tuple[World, Report]) -> None:
    world, report = standing
    policy = POLICY.model_copy(update={"canary_share": 20, "min_canary": 30})
    begun = world.retrain(policy)
    assert (begun.outcome, world.version("current")) == ("published", report.champion)
    assert read_pointer(world.url("challenger"), world.trusted).share == 20
    assert "answers 20 of a hundred customers: 0 decisions so far" in begun.why
    world = later(world)
    promoted = world.retrain(policy)
    assert promoted.outcome == "promoted", promoted.text()
    assert 30 <= promoted.verdicts[0].canary < 200
    assert world.version("current") == report.version


def test_a_canary_against_which_something_is_found_answers_nobody_any_more(standing: tuple[World, Report]) -> None:
    world, _ = standing
    world.retrain(POLICY.model_copy(update={"canary_share": 20, "min_canary": 30}))
    assert read_pointer(world.url("challenger"), world.trusted).share == 20
    report = world.retrain(POLICY.model_copy(update={"min_gain": 0.99, "min_new_frauds": 10_000}))
    assert (report.outcome, failed(report)) == ("nothing", {"gain"})
    assert read_pointer(world.url("challenger"), world.trusted).share == 0


def test_whoever_goes_back_from_a_model_does_not_get_it_again(standing: tuple[World, Report]) -> None:
    world, report = standing
    assert world.retrain().outcome == "promoted"
    publish.rollback(world.url("current"), world.key, world.trusted)
    again = world.retrain(POLICY.model_copy(update={"min_new_frauds": 10_000}))
    assert (again.outcome, again.verdicts) == ("nothing", ())
    assert world.version("current") == report.champion


def test_a_dry_run_measures_everything_and_moves_nothing(world: World) -> None:
    pointers = world.pointers()
    report = world.retrain(dry_run=True)
    assert (report.outcome, report.dry_run) == ("promoted", True)
    assert "nothing was moved" in report.text()
    assert world.pointers() == pointers
    assert list((world.home / "work").glob("run-*")) == []


# --- what is not done, and why ---------------------------------------------------------------------------------------


def test_a_worse_model_is_never_promoted_nor_published_and_the_report_says_why(world: World) -> None:
    """Labels of what teaches are planted: most frauds are called legitimate, and many others fraud. Those of the judged
    days are true.
    """
    since = world.end_ms - (DELAY + 9 + DELAY) * DAY_MS
    log = world.log()
    rng = np.random.default_rng(0)
    rows = world.rows[world.rows["time_ms"] < since]
    for name, time_ms, fraud in zip(rows["transaction_id"], rows["time_ms"], rows["is_fraud"], strict=True):
        log.label(label(name, int(time_ms), rng.random() < (0.3 if fraud else 0.02), "chargeback"))
    log.close()
    pointers = world.pointers()
    report = world.retrain(base=None)
    assert (report.outcome, report.exit_code) == ("nothing", 4), report.text()
    assert "gain, upper end" in failed(report)
    assert "not fit to stand beside the champion" in report.why
    judged = report.verdicts[0].judged
    assert judged.champion is not None
    assert judged.candidate is not None
    assert judged.candidate < judged.champion
    assert f"{judged.champion:.4f} -> {judged.candidate:.4f}" in report.text()
    assert world.pointers() == pointers


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ({"max_flipped": 0.0}, "flipped decisions"),
        ({"min_gain": 0.9}, "gain"),
        ({"min_gain_low": 0.9}, "gain, lower end"),
    ],
)
def test_what_the_policy_forbids_stays_a_challenger(world: World, asked: dict[str, float], name: str) -> None:
    champion = world.pointers()["current"]
    report = world.retrain(POLICY.model_copy(update=asked))
    assert (report.outcome, report.exit_code, failed(report)) == ("published", 3, {name})
    assert name in report.why
    assert world.pointers()["current"] == champion
    assert world.version("challenger") == report.version


@pytest.mark.parametrize("asked", [{"min_new_frauds": 10_000}, {"min_judged_frauds": 10_000}])
def test_with_too_few_labels_nothing_is_trained(world: World, asked: dict[str, int]) -> None:
    pointers = world.pointers()
    steps: list[str] = []
    log = world.log()
    report = retrain.retrain(log, POLICY.model_copy(update=asked), world.setting(), progress=steps.append)
    log.close()
    assert (report.outcome, report.exit_code, report.verdicts) == ("nothing", 4, ())
    assert "10,000" in report.why or "10000" in report.why
    assert (steps, world.pointers()) == ([], pointers)


def test_labels_from_before_the_champion_was_trained_do_not_count(world: World) -> None:
    log = world.log()
    counts = {}
    for name, trained_ms in (("all", world.rows["time_ms"].min()), ("half", world.end_ms - DAYS // 2 * DAY_MS)):
        run = retrain._Run(log, POLICY, world.setting(), print)
        run.trained_ms = int(trained_ms)
        counts[name] = run._enough()[0].measured
    log.close()
    fraud = world.rows[world.rows["is_fraud"] == 1]
    known = fraud["time_ms"] + DAY_MS
    assert counts["all"] == int((known <= world.end_ms).sum())
    assert counts["half"] == int(((known > world.end_ms - DAYS // 2 * DAY_MS) & (known <= world.end_ms)).sum())
    assert 0 < counts["half"] < counts["all"]


def test_without_a_champion_there_is_nothing_to_renew(world: World) -> None:
    (world.home / "models" / "current").unlink()
    with pytest.raises(BundleMissing):
        world.retrain()


def test_two_at_once_are_kept_apart_and_a_lock_ends_with_its_owner(tmp_path: Path) -> None:
    with retrain._alone(tmp_path) as first, pytest.raises(Busy, match="at work"), retrain._alone(tmp_path):
        pass
    assert not first.exists()
    with retrain._alone(tmp_path) as second:
        assert second != first


# --- the policy file -------------------------------------------------------------------------------------------------


def test_the_policy_that_comes_along_is_one(tmp_path: Path) -> None:
    policy = retrain.read_policy(retrain.DEFAULT_POLICY)
    assert policy.min_gain > 0
    assert policy.min_gain_low >= 0
    named = {line.strip("# ").partition(":")[0] for line in retrain.DEFAULT_POLICY.read_text().splitlines()}
    assert set(Policy.model_fields) <= named


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("min_gain: 0.1", "min_new_frauds: Field required"),
        ("[1]", "must hold names and values"),
        ("a: [", "cannot be read as YAML"),
        ("DEFAULT\nmin_gian: 1", "'min_gian' is not known. Choices are: label_delay_days, min_new_frauds"),
        ("DEFAULT\nmax_flipped: 3", "max_flipped: Input should be less than or equal to 1"),
        ("DEFAULT\nmin_gain: -0.1", "min_gain: Input should be greater than or equal to 0"),
    ],
)
def test_a_policy_that_is_not_understood_is_refused_with_what_is_wrong(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(text.replace("DEFAULT", retrain.DEFAULT_POLICY.read_text()))
    with pytest.raises(SettingsError, match=words):
        retrain.read_policy(path)


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def command(world: World, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.chdir(world.home)
    monkeypatch.setattr("fraud_api_lambda.schemas.now_ms", lambda: world.end_ms)

    def call(*words: object, **policy: Any) -> Result:
        asked = {**POLICY.model_dump(exclude_none=True), **policy}
        Path("policy.yaml").write_text(json.dumps(asked))
        every = ["retrain", "--policy", "policy.yaml", "--log", "sqlite:///decisions.db", "--tune", "0", *words]
        return CliRunner().invoke(app, list(map(str, every)))

    return call


def test_the_commands_exit_codes_tell_cron_what_was_done(command: Callable[..., Result], world: World) -> None:
    few = command(min_new_frauds=10_000)
    assert few.exit_code == 4, few.output
    assert "NOTHING PUBLISHED: nothing was trained: new labelled frauds" in few.stdout
    kept = command("--base", "base.parquet", "--format", "synthetic", "--json", min_shadowed=10_000)
    assert kept.exit_code == 3, kept.output
    told = json.loads(kept.stdout)
    assert (told["outcome"], told["exit_code"]) == ("published", 3)
    assert told == json.loads(Path("out/retrain/retrain.json").read_text())
    assert {check["name"] for check in told["verdicts"][0]["checks"] if not check["passed"]} == {
        "decisions beside the champion"
    }
    promoted = command()
    assert promoted.exit_code == 0, promoted.output
    assert f"PROMOTED: {told['version']} is the champion" in promoted.stdout
    assert world.version("current") == told["version"]
    with retrain._alone(Path("data/retrain")):
        busy = command()
    assert (busy.exit_code, busy.stdout) == (4, "")
    assert "at work in data/retrain" in busy.stderr
    Path("models/current").write_bytes(b"{}")
    broken = command()
    assert (broken.exit_code, broken.stdout) == (1, "")
    assert "error: " in broken.stderr
    assert "Traceback" not in broken.stderr


@pytest.mark.parametrize("after", ["reading the log", "judging "])
def test_a_run_killed_in_the_middle_leaves_the_pointers_whole_and_the_next_one_goes_through(
    world: World, after: str
) -> None:
    pointers = world.pointers()
    words = ["retrain", "--log", "sqlite:///decisions.db", "--tune", "0", "--policy", "policy.yaml"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    (world.home / "policy.yaml").write_text(json.dumps(POLICY.model_dump(exclude_none=True)))
    run = subprocess.Popen(
        [sys.executable, "-c", _AT_ITS_TIME, str(world.end_ms), *words],
        cwd=world.home, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert run.stderr is not None
    told = ""
    for line in run.stderr:
        told += line
        if line.startswith(after):
            run.send_signal(signal.SIGKILL)
            break
    assert run.wait(60) == -signal.SIGKILL, told
    run.stderr.close()
    assert world.pointers() == pointers
    report = world.retrain(work=world.home / "data" / "retrain")
    assert report.outcome == "promoted", report.text()
    assert list((world.home / "data" / "retrain").glob("run-*")) == []


#: ``python -m training`` at a moment of our own.
_AT_ITS_TIME = """
import sys
from fraud_api_lambda import schemas
now = int(sys.argv.pop(1))
schemas.now_ms = lambda: now
from training.__main__ import app
app()
"""


def test_readers_meanwhile_see_one_model_or_the_other(world: World) -> None:
    """Whoever opens the pointer while a model is promoted gets a whole bundle every time."""
    reader = subprocess.Popen(
        [sys.executable, "-c", _READER, world.url("current"), str(world.home / "keys" / "development.pub")],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert reader.stdout is not None
    assert reader.stdin is not None
    assert reader.stdout.readline() == "reading\n"
    report = world.retrain()
    time.sleep(0.2)
    reader.stdin.close()
    seen = json.loads(reader.stdout.readline())
    assert reader.wait(60) == 0
    reader.stdout.close()
    assert report.outcome == "promoted"
    assert seen == [report.champion, report.version]


_READER = """
import json, pathlib, select, sys
from fraud_api_lambda.bundle import open_bundle, parse_public_keys
from fraud_api_lambda.reload import load
url, keys = sys.argv[1], parse_public_keys(pathlib.Path(sys.argv[2]).read_text())
seen = []
print("reading", flush=True)
while not select.select([sys.stdin], [], [], 0.01)[0]:
    version = load(open_bundle(url, keys)).version
    if version not in seen:
        seen.append(version)
print(json.dumps(seen))
"""
