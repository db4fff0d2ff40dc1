"""A training run on one file, CPU seconds and peak memory: ours and the predecessors' design, one after the other.

Both load, make features, balance by SMOTE, fit 300 trees of depth 5 on one thread and evaluate on a random fifth. Ours
is ``training.train.run`` without search and ablation: all features, calibration, thresholds, intervals, report and seal
included. Theirs: pandas frames, windows by ``groupby().rolling()``, SMOTE one to one, a classification report.

``python -m benchmarks.training --data FILE`` (PaySim's columns; FRAUD_TEST_DATA names the folder of the default one);
``--tiled 6300000`` repeats the rows to so many and measures ours alone.
"""

import argparse
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from . import ROOT, keep

TREES, DEPTH = 300, 5


def ours(data: str, folder: str) -> None:
    from fraud_api_lambda.bundle import SigningKey
    from training.train import Options, run

    options = Options(data, "paysim", split="random", tune=0, ablation=False)
    key = SigningKey.generate("throw-away")
    result = run(options, Path(folder), key, progress=lambda step: print(step, flush=True))
    print(f"average precision {result.metrics['test']['average_precision']:.4f}")


def predecessors(data: str, folder: str) -> None:
    import joblib
    import pandas as pd
    from imblearn.over_sampling import SMOTE
    from imblearn.pipeline import Pipeline
    from sklearn.metrics import average_precision_score, classification_report
    from sklearn.model_selection import train_test_split
    from sklearn.preprocessing import StandardScaler
    from xgboost import XGBClassifier

    frame = pd.read_parquet(data)
    frame["hour"] = frame["step"] % 24
    frame["balance_error_orig"] = frame["newbalanceOrig"] + frame["amount"] - frame["oldbalanceOrg"]
    frame["balance_error_dest"] = frame["oldbalanceDest"] + frame["amount"] - frame["newbalanceDest"]
    moments = frame.set_index(pd.to_datetime(frame["step"], unit="h"))
    for party in ("nameOrig", "nameDest"):
        windows = moments.groupby(party, sort=False)["amount"].rolling("24h").agg(["count", "sum"])
        windows = windows.reset_index(drop=True)
        frame[f"{party}_count_24h"], frame[f"{party}_amount_24h"] = windows["count"], windows["sum"]
    frame = pd.get_dummies(frame, columns=["type"])
    left_out = ["isFraud", "isFlaggedFraud", "nameOrig", "nameDest", "step", "newbalanceOrig", "newbalanceDest"]
    data_x = frame.drop(columns=[name for name in left_out if name in frame])
    data_x = data_x.select_dtypes(["number", "bool"]).fillna(0.0)
    train_x, test_x, train_y, test_y = train_test_split(data_x, frame["isFraud"], test_size=0.2, random_state=7)
    trees = XGBClassifier(n_estimators=TREES, max_depth=DEPTH, learning_rate=0.1, n_jobs=1)
    pipeline = Pipeline([("scale", StandardScaler()), ("smote", SMOTE(random_state=7)), ("xgb", trees)])
    pipeline.fit(train_x, train_y)
    probability = pipeline.predict_proba(test_x)[:, 1]
    print(classification_report(test_y, probability >= 0.5))
    print(f"average precision {average_precision_score(test_y, probability):.4f}")
    joblib.dump(pipeline, Path(folder) / "pipeline.joblib")


def tiled(data: str, rows: int, path: Path) -> None:
    """The file's rows over and over, every copy's accounts its own, so that histories stay as long as they are."""
    import pandas as pd

    frame = pd.read_parquet(data)
    copies = []
    for number in range(-(-rows // len(frame))):
        copy = frame.copy()
        for name in ("nameOrig", "nameDest"):
            copy[name] = copy[name].astype(str) + f"-{number}"
        copies.append(copy)
    pd.concat(copies).head(rows).sort_values("step", kind="stable").to_parquet(path)


def run_apart(which: str, data: str) -> dict[str, float]:
    """CPU seconds, wall seconds and peak MB of a process that trains."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory() as folder:
        code = (
            f"import sys; from benchmarks.training import {which}; {which}({data!r}, {folder!r}); "
            "sys.stderr.write(open('/proc/self/status').read())"
        )
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], env=env, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    peak = re.search(r"VmHWM:\s+(\d+) kB", done.stderr)
    return {
        "cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "wall_s": time.perf_counter() - started,
        "peak_mb": int(peak[1]) / 1024 if peak else float("nan"),
    }


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("--data")
    parser.add_argument("--tiled", type=int)
    given = parser.parse_args(words)
    data = given.data or f"{os.environ.get('FRAUD_TEST_DATA', '')}/paysim_v1_dev.parquet"
    if not Path(data).is_file():
        print("training: no data (--data FILE, or FRAUD_TEST_DATA); left out")
        return
    if given.tiled:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "tiled.parquet"
            make = f"tiled({data!r}, {given.tiled}, Path({str(path)!r}))"
            code = f"from pathlib import Path; from benchmarks.training import tiled; {make}"
            subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)  # apart: its memory is not ours
            large = run_apart("ours", str(path))
        print(f"{given.tiled:,} rows: {large}")
        keep("training_large", {"rows": given.tiled, "ours": large})
        return
    mine, theirs = run_apart("ours", data), run_apart("predecessors", data)
    found = {"ours": mine, "predecessors": theirs, "predecessors / ours, CPU": theirs["cpu_s"] / mine["cpu_s"]}
    print(found)
    keep("training", found)


if __name__ == "__main__":
    main()
