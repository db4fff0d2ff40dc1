"""A service with a past: transactions of the generator, judged and labelled as if they had come in day by day.

The service's own scorer judges them, on a clock of its own, so that the decision log and the profiles are those of a
service that has been running for as long. For the pages that need a past to show, for screenshots, for measuring.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fraud_api_lambda.bootstrap import build
from fraud_api_lambda.decision_log import Label
from fraud_api_lambda.schemas import now_ms
from fraud_api_lambda.settings import read_settings
from training import synthetic

#: Judged in one go, as one batch request would be: the clock stands still meanwhile.
_AT_ONCE = 10
#: Columns of the generator that a request has none of.
_UNSENT = ("time_ms", "label_ms", "is_fraud", "fraud_scenario", "weight")
#: People have said what became of all alerts whose label is due, but for the last so many days' alerts, and of this
#: share of what was approved.
_OPEN_DAYS = 3
_LABELLED_APPROVED = 0.2
_DAYS = 90


def seed(folder: Path, environment: dict[str, str], *, rows: int, generated: int | None = None) -> int:
    """Let the service that ``serve(folder, **environment)`` will be have judged ``rows`` transactions until now.

    The latest ``rows`` until now of ``generated`` (default: as many) from the generator, whose 90 days end tonight, so
    that hours and days of the week are as a model of the generator knows them. Returns how many labels were given.
    """
    now = now_ms()
    start = datetime.fromtimestamp(now / 1000, UTC).replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
    frame = synthetic.generate(generated or rows, 11, start=start - timedelta(days=_DAYS - 1), days=_DAYS, steady=True)
    frame = frame[frame["time_ms"] < now - 60_000].tail(rows).reset_index(drop=True)
    times, due = frame["time_ms"].to_numpy(), frame["label_ms"].to_numpy()
    rows = len(frame)
    clock = [now]
    # Where the service has them by default, relative to its working directory.
    stores = {
        "FRAUD_FEATURE_STORE_URL": f"sqlite:///{folder}/data/profiles.db",
        "FRAUD_DECISION_LOG_URL": f"sqlite:///{folder}/data/decisions.db",
        "FRAUD_OUTBOX_URL": f"file://{folder}/data/outbox",
        "FRAUD_LOG_LEVEL": "ERROR",
        "FRAUD_DEADLINE_MS": "60000",  # nobody waits
    }
    scorer = build(read_settings({**environment, **stores}), clock=lambda: clock[0]).state.scorer
    for first in range(0, rows, _AT_ONCE):
        part = slice(first, first + _AT_ONCE)
        clock[0] = int(times[part][-1])
        scorer.answer_many(list(_requests(frame.iloc[part], times[part])))
    given = 0
    rng = np.random.default_rng(1)
    chosen = rng.random(rows)
    for start in range(0, rows, 500):
        ids = frame["transaction_id"].iloc[start : start + 500].tolist()
        found = scorer.decisions.find(ids)
        for offset, transaction_id in enumerate(ids):
            row = start + offset
            stored = found.get(transaction_id)
            flagged = stored is not None and stored.record.outcome != "approve"
            old = times[row] < now - _OPEN_DAYS * 86_400_000
            if stored is None or due[row] > now or not (old if flagged else chosen[row] < _LABELLED_APPROVED):
                continue
            is_fraud, when = bool(frame["is_fraud"].iloc[row]), int(due[row])
            scorer.feedback(Label(transaction_id, is_fraud, "analyst" if flagged else "chargeback", when, when, ""))
            given += 1
    return given


def _requests(part: pd.DataFrame, times: Any) -> Iterator[dict[str, Any]]:
    for row, time_ms in zip(part.drop(columns=list(_UNSENT)).to_dict("records"), times, strict=True):
        sent = {name: value for name, value in row.items() if not pd.isna(value)}
        yield {**sent, "timestamp": pd.Timestamp(int(time_ms), unit="ms", tz="UTC").isoformat()}
