"""Many rows at once, in rows per CPU second: the service's scoring of a batch, and training's of a test set.

Training's is compared, in turns, with XGBoost's own ``inplace_predict`` of the same rows, which it uses, checks on a
sample and calibrates. The parity gate comes first: margins of 100,000 rows equal to XGBoost's to the bit.
"""

import time

import numpy as np

from . import keep, ratios, show, spread, take_turns
from .serving import Prepared, prepared

ROWS = 100_000
TRAINING_ROWS = 200_000
BATCH = 1_000


def measure(folder: Prepared) -> None:
    import xgboost as xgb

    from fraud_api_lambda.bundle import open_folder, parse_public_keys, read_pointer
    from fraud_api_lambda.features import fill
    from fraud_api_lambda.judge import score_rows
    from fraud_api_lambda.model import Forest
    from fraud_api_lambda.reload import load
    from training.evaluate import probabilities, replayed
    from training.synthetic import generate

    keys = parse_public_keys((folder.folder / "keys" / "development.pub").read_text())
    pointer = read_pointer(f"file://{folder.folder}/models/current", keys)
    served = load(open_folder(folder.folder / "models" / pointer.version, keys))
    model = served.model
    columns = replayed(served, generate(TRAINING_ROWS, 11))
    vectors = model.vector(fill(columns, model.population))
    raw = served.bundle.read("model.ubj")
    booster = xgb.Booster({"nthread": 1})
    booster.load_model(bytearray(raw))

    [(_, forest)] = model.members
    assert isinstance(forest, Forest)
    theirs = booster.inplace_predict(vectors[:ROWS], predict_type="margin", base_margin=None)
    ours = forest.margins(vectors[:ROWS])
    equal = int((ours == theirs.astype(np.float64)).sum())
    assert equal == ROWS, f"{ROWS - equal} of {ROWS} margins differ"
    some = vectors[:1_000]
    told = booster.predict(xgb.DMatrix(some), pred_contribs=True)[:, :-1]
    furthest = max(float(np.abs(forest.contributions(row) - want).max()) for row, want in zip(some, told, strict=True))
    assert furthest < 1e-4

    serving = take_turns(
        {"score_rows": lambda number: score_rows(model, columns[number * BATCH : (number + 1) * BATCH])},
        rounds=15, each=5, clock=time.process_time,
    )  # fmt: skip
    training = take_turns(
        {
            "inplace_predict": lambda _: booster.inplace_predict(vectors),
            "probabilities": lambda _: probabilities(model, vectors, raw),
        },
        rounds=7, each=1, clock=time.process_time,
    )  # fmt: skip
    found = {
        "service, rows per CPU s": spread([BATCH / one for one in serving["score_rows"]]),
        "training, rows per CPU s": spread([TRAINING_ROWS / one for one in training["probabilities"]]),
        "inplace_predict, rows per CPU s": spread([TRAINING_ROWS / one for one in training["inplace_predict"]]),
        "training / inplace_predict": ratios(training["inplace_predict"], training["probabilities"]),
    }
    show(f"batches, {len(forest.root)} trees of depth {forest.depth}", found, "")
    parity = {"rows": ROWS, "margins_equal": equal, "contributions_furthest": furthest}
    keep("batch", {**found, "trees": len(forest.root), "depth": forest.depth, "parity": parity})


def main() -> None:
    with prepared() as folder:
        measure(folder)


if __name__ == "__main__":
    main()
