"""A run over a real Dask cluster, scheduler and two workers as processes of their own: what one machine says, whoever
dies meanwhile.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

pytest.importorskip("distributed")

from distributed import Client

from fraud_api_lambda.reload import Served
from fraud_api_lambda.rules import load_rules
from fraud_api_lambda.schemas import Pseudonyms, rfc3339
from tests.conftest import Trained
from tests.training.test_score import RULES, save
from training import distributed, evaluate, score, synthetic, train
from training.dataset import DataError

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.server


@dataclass
class Cluster:
    """A scheduler and its workers, each a process that a test may kill."""

    folder: Path
    url: str = ""
    scheduler: subprocess.Popen[bytes] | None = None
    workers: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self) -> None:
        file = self.folder / "scheduler.json"
        self.scheduler = self._dask("dask_scheduler", "--port", "0", "--scheduler-file", str(file))
        deadline = time.monotonic() + 60
        while not self.url:
            assert time.monotonic() < deadline, "the scheduler has not come up"
            assert self.scheduler.poll() is None, "the scheduler has ended"
            time.sleep(0.1)
            if file.exists() and (text := file.read_text()):
                self.url = json.loads(text)["address"]

    def work(self, name: str, root: Path = ROOT) -> None:
        self.workers[name] = self._dask(
            "dask_worker", self.url, "--name", name, "--nthreads", "1", "--no-nanny",
            "--local-directory", str(self.folder), root=root,
        )  # fmt: skip

    def kill(self, name: str) -> None:
        self.workers[name].send_signal(signal.SIGKILL)
        self.workers[name].wait()

    def await_workers(self, count: int) -> None:
        deadline = time.monotonic() + 60
        while True:
            try:
                client = Client(self.url, set_as_default=False)
                break
            except AssertionError:  # the library gives its own thread ten seconds to come up; a machine may stall
                if time.monotonic() > deadline:
                    raise
        with client:
            client.wait_for_workers(count, timeout=60)

    def when_busy_with(self, task: str, worker: str, then: Callable[[], None]) -> threading.Thread:
        """Do ``then`` once ``worker`` executes a task of that name; the thread that waits for it, started."""

        def wait() -> None:
            deadline = time.monotonic() + 120
            with Client(self.url, set_as_default=False) as client:
                while time.monotonic() < deadline:
                    info = client.scheduler_info(n_workers=-1)["workers"]
                    mine = [address for address, own in info.items() if own["name"] == worker]
                    if mine and any(task in str(key) for key in client.processing().get(mine[0], ())):
                        time.sleep(0.1)  # it was sent; now it is at it
                        then()
                        return
                    time.sleep(0.02)

        thread = threading.Thread(target=wait)
        thread.start()
        return thread

    def end(self) -> None:
        for process in (*self.workers.values(), self.scheduler):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()

    def _dask(self, module: str, *told: str, root: Path = ROOT) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.{module}", *told, "--host", "127.0.0.1", "--no-dashboard"],
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root)},
            stdout=subprocess.DEVNULL,
            stderr=(self.folder / "log").open("ab"),
        )


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    try:
        made.start()
        for name in ("one", "two"):
            made.work(name)
        made.await_workers(2)
        yield made
    finally:
        made.end()


def awkward(rows: int) -> pd.DataFrame:
    """History with all that could fall apart between machines: everybody's shop, accounts that pay themselves, times
    that many share, labels that come on days of their own, gaps, and more frauds of one shop than are remembered.
    """
    frame = synthetic.generate(rows, 4)
    rng = np.random.default_rng(2)
    every = np.arange(len(frame))
    frame.loc[every % 3 == 0, "counterparty_id"] = "SHOP"
    frame.loc[every % 50 == 7, "counterparty_id"] = frame["customer_id"]
    frame.loc[every % 11 == 0, "device_id"] = None
    frame.loc[every % 13 == 0, "customer_id"] = None
    frame.loc[every % 7 == 0, "transaction_id"] = None
    frame["time_ms"] = frame["time_ms"] // 600_000 * 600_000  # so that files and pieces share times
    frame.loc[every % 20 == 0, "is_fraud"] = 1
    frame["label_ms"] = frame["time_ms"] + rng.integers(0, 30 * 86_400_000, len(frame))
    frame["attributes.channel"] = rng.choice(["app", "web", "till"], len(frame))
    frame["attributes.V1"] = rng.normal(size=len(frame))
    return frame.sort_values("time_ms", kind="stable", ignore_index=True)


def write_files(frame: pd.DataFrame, folder: Path) -> str:
    """As three files whose times overlap, one of them CSV, one without an attribute and without times of labels."""
    folder.mkdir()
    which = np.arange(len(frame)) * 3 // len(frame)
    which[::17] = (which[::17] + 1) % 3
    for number, name in enumerate(("a.parquet", "b.csv", "c.parquet")):
        own = frame[which == number].drop(columns="weight").reset_index(drop=True)
        told = [rfc3339(int(ms)) for ms in own.pop("label_ms")]
        own = own.assign(**{"attributes.channel": None}) if number == 2 else own.assign(label_timestamp=told)
        save(own, folder / name)
    return str(folder)


def columns_there(options: train.Options, url: str, progress: Callable[[str], None] = lambda _: None) -> np.ndarray:
    """All raw columns as the cluster makes them, in the order of the rows."""
    with distributed.connected(url) as client:
        there = distributed.OnCluster(client, options, progress)
        found = client.gather(there.columns)
        rows = np.concatenate([np.asarray(own) for own in there.rows])
    return np.concatenate(found)[np.argsort(rows)]


@pytest.mark.parametrize("kill", [False, True], ids=["both live", "one is killed in the replay"])
def test_the_replay_of_a_cluster_is_that_of_one_machine_to_the_bit(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kill: bool
) -> None:
    monkeypatch.setattr(distributed, "PIECE", 900)
    monkeypatch.setattr(distributed, "BUCKET", 1_500)
    options = train.Options(write_files(awkward(6_000), tmp_path / "data"), labels=True)
    waiting = [cluster.when_busy_with("_play", "one", lambda: cluster.kill("one"))] if kill else []
    found = columns_there(options, cluster.url)
    for thread in waiting:
        thread.join()
    assert (cluster.workers["one"].poll() is not None) == kill
    here = train.load_data(options)
    np.testing.assert_array_equal(found, here.columns)
    rates = [here.features.columns.index(name) for name in ("counterparty_fraud_rate_7d", "new_device", "count_24h")]
    assert all(len(np.unique(here.columns[:, at])) > 1 for at in rates)  # there was something to compare


def test_a_run_survives_the_death_of_a_worker_while_trees_grow_and_says_how_it_was_made(
    cluster: Cluster, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    frame = synthetic.generate(40_000, 5)
    for number, own in enumerate(np.array_split(np.arange(len(frame)), 6)):
        synthetic.write(frame.iloc[own], folder / f"{number}.parquet")
    options = train.Options(str(folder), labels=True, tune=0, ablation=False)
    key = train.development_key(tmp_path / "keys")
    steps: list[str] = []
    thread = cluster.when_busy_with("fn-", "two", lambda: cluster.kill("two"))
    result = distributed.run(options, tmp_path / "there", key, cluster.url, progress=steps.append)
    thread.join()
    assert cluster.workers["two"].poll() == -signal.SIGKILL
    grown = [step for step in steps if step.startswith("growing")]
    assert grown[0].endswith("on 2 workers")
    assert grown[-1].endswith("on 1 workers")

    one = train.run(options, tmp_path / "here", key)
    for name in ("average_precision", "roc_auc", "recall"):
        here, there = one.metrics["test"], result.metrics["test"]
        assert here["intervals"][name]["low"] <= there[name] <= here["intervals"][name]["high"], name
    assert one.metrics["test"]["counts"]["rows"] == result.metrics["test"]["counts"]["rows"]

    served = evaluate.open_for_evaluation(str(result.bundle), tmp_path / "keys")
    made, theirs = (
        served.bundle.manifest, evaluate.open_for_evaluation(str(one.bundle), tmp_path / "keys").bundle.manifest
    )  # fmt: skip
    assert set(made.files) == set(theirs.files)
    assert made.features == theirs.features
    assert made.training["balance"] == "weighted"
    assert made.training["smote_rows"] == 0
    assert made.training["engine"] == {"name": "dask", "pieces": 6, "workers": 1}
    for same in ("data_sha256", "rows", "frauds", "learned_until", "split"):
        assert made.training[same] == theirs.training[same], same
    for name in theirs.population:
        assert made.population[name] == pytest.approx(theirs.population[name], rel=1e-12, nan_ok=True), name
    card = served.bundle.read("model_card.md").decode()
    assert "no SMOTE in this model" in card
    assert f"weighed {made.training['fraud_weight']:.4g} times" in card
    assert "SMOTE invents" not in card


def test_thinned_rows_stand_for_the_others(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "JUDGED", 1_000)
    data = tmp_path / "rows.parquet"
    synthetic.write(synthetic.generate(20_000, 5), data)
    options = train.Options(str(data), tune=0, ablation=False)
    result = distributed.run(options, tmp_path / "there", train.development_key(tmp_path / "keys"), cluster.url)
    one = train.run(options, tmp_path / "here", train.development_key(tmp_path / "keys"))
    served = evaluate.open_for_evaluation(str(result.bundle), tmp_path / "keys")
    shares = served.bundle.manifest.training["share_of_legitimate_rows_judged"]
    assert 0.1 < shares["test"] < 0.5
    mine, theirs = result.metrics["test"], one.metrics["test"]
    assert mine["counts"]["frauds"] == theirs["counts"]["frauds"]
    assert mine["counts"]["rows"] < theirs["counts"]["rows"] / 2
    assert mine["fraud_rate"]["weighted"] == pytest.approx(theirs["fraud_rate"]["weighted"], rel=1e-9)


# --- scoring ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def served(trained: Trained) -> Served:
    return score.open_served(str(trained.root / "models"), trained.root / "keys")


def test_a_file_is_judged_on_a_cluster_as_here_to_the_bit_with_a_worker_killed(
    cluster: Cluster, served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "PIECE", 700)
    monkeypatch.setattr(distributed, "BUCKET", 2_000)
    frame = awkward(4_000).drop(columns=["is_fraud", "fraud_scenario", "label_ms", "weight"])
    frame.loc[5, "transaction_id"] = "test-decline-5"
    folder = tmp_path / "data"
    folder.mkdir()
    for number, own in enumerate(np.array_split(np.arange(len(frame)), 2)):
        save(frame.iloc[own[::-1]].reset_index(drop=True), folder / f"{number}.parquet")  # out of order in time
    rules = RULES.encode()
    ruled = replace(served, rules=load_rules(rules, served.model.features.columns))
    options = score.Options(
        str(folder), "synthetic", tmp_path / "here.parquet", explain=True, pseudonyms=Pseudonyms("of the test")
    )
    score.score(ruled, options)
    killed = cluster.when_busy_with("_decide", "two", lambda: cluster.kill("two"))
    result = distributed.score_file(ruled, replace(options, out=tmp_path / "there.parquet"), cluster.url, rules=rules)
    killed.join()
    here, there = (pq.read_table(tmp_path / name) for name in ("here.parquet", "there.parquet"))
    assert there.equals(here, check_metadata=True)
    assert result.rows == len(frame)
    assert {"deny", "rule", "model"} & set(here.column("decided_by").to_pylist())
    with pytest.raises(DataError, match="exists already"):
        distributed.score_file(ruled, replace(options, out=tmp_path / "there.parquet"), cluster.url)


# --- what is refused -------------------------------------------------------------------------------------------------


def test_a_worker_with_other_code_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other"
    for package in ("fraud_api_lambda", "training"):
        shutil.copytree(ROOT / package, other / package, ignore=shutil.ignore_patterns("__pycache__"))
    with (other / "fraud_api_lambda" / "profiles.py").open("a") as file:
        file.write("\n# another release\n")
    cluster = Cluster(tmp_path)
    try:
        cluster.start()
        cluster.work("stranger", other)
        with pytest.raises(DataError, match="has other code"), distributed.connected(cluster.url):
            pytest.fail("connected")
    finally:
        cluster.end()


def test_nobody_at_the_address_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "PATIENCE", 2)
    for url in ("tcp://127.0.0.1:9", "what://is.this"):
        with pytest.raises(DataError, match="No Dask scheduler answers"), distributed.connected(url):
            pytest.fail("connected")


@pytest.mark.parametrize(
    ("option", "changed"),
    [
        ("--cv", {"folds": 3}),
        ("--champion", {"champion": "blend"}),
        ("--rehearse", {"rehearse_ms": 1}),
        ("--without-known-frauds", {"known_since": "2024-01-01"}),
    ],
)
def test_what_a_cluster_cannot_do_is_refused_by_its_option(
    option: str, changed: dict[str, object], tmp_path: Path
) -> None:
    options = replace(train.Options("nowhere.parquet"), **changed)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=option):
        distributed.run(options, tmp_path, train.development_key(tmp_path / "keys"), "tcp://127.0.0.1:9")


def test_ids_that_stand_in_two_files_are_refused(cluster: Cluster, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    frame = synthetic.generate(2_000, 5)
    synthetic.write(frame.iloc[:1_200], folder / "a.parquet")
    synthetic.write(frame.iloc[1_000:], folder / "b.parquet")
    with pytest.raises(DataError, match="an id names one transaction"):
        columns_there(train.Options(str(folder)), cluster.url)
    with pytest.raises(DataError, match="an id names one transaction"):
        columns_there(train.Options(str(folder), history=False), cluster.url)


def test_pseudonyms_do_not_travel_in_the_clear(served: Served, tmp_path: Path) -> None:
    options = score.Options("rows.parquet", "synthetic", tmp_path / "out.parquet", pseudonyms=Pseudonyms("of the test"))
    with pytest.raises(DataError, match="in the clear"):
        distributed.score_file(served, options, "tcp://10.0.0.1:8786")


def test_both_commands_take_a_cluster(cluster: Cluster, tmp_path: Path) -> None:
    synthetic.write(synthetic.generate(8_000, 5), tmp_path / "rows.parquet")

    def command(*told: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "training", *told],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )

    there = ("--engine", "dask", "--scheduler", cluster.url, "--data", "rows.parquet", "--format", "synthetic")
    run = command("run", *there, "--tune", "0", "--json")
    assert run.returncode == 0, run.stderr
    bundle = json.loads(run.stdout)["bundle"]
    scored = command("score", *there, "--bundle", bundle, "--out", "out.csv", "--json")
    assert scored.returncode == 0, scored.stderr
    assert json.loads(scored.stdout)["rows"] == 8_000 == len(pd.read_csv(tmp_path / "out.csv"))
    alone = command("run", "--engine", "dask", "--data", "rows.parquet")
    assert alone.returncode == 2
    assert "go together" in alone.stderr
