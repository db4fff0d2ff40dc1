"""A changed policy held against the past: decisions in the log, or the rows of a labelled file.

What decides is the service's ``judge.rule_on``, what counts its ``backtest.report``; here the decisions are brought:
from the log as they are recorded, from a file as the bundle in force would have made them. Before a bundle is sealed
:func:`hits` says of each of its rules what it would have hit, by its expression alone, enabled or not, whatever its
dates, snoozes and the lists say: its dates are those of the future it is written for, and the rows are of the past.
"""

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from fraud_api_lambda import backtest as service
from fraud_api_lambda.backtest import Case, Costs, Made, Policy, Report
from fraud_api_lambda.bundle import open_store, split_url
from fraud_api_lambda.decision_log import DecisionLog
from fraud_api_lambda.errors import RulesError
from fraud_api_lambda.features import Floats, fill
from fraud_api_lambda.judge import rule_on
from fraud_api_lambda.reload import Served
from fraud_api_lambda.rules import RuleSet, load_rules
from fraud_api_lambda.schemas import Event, RateTable, Thresholds
from fraud_api_lambda.settings import Outcome

from . import evaluate, replay
from .dataset import DataError
from .records import records

#: The largest share of legitimate rows that a rule may hit and still be sealed as it is.
MOST_LEGITIMATE = 0.01
#: Legitimate rows looked at; of more every n-th is taken, which leaves the share as it is.
MOST_ROWS = 200_000
#: Rows of a file that are filled together.
_PIECE: Final = 50_000

type Progress = Callable[[str], None]


@dataclass(frozen=True)
class Change:
    """What is tried: the rules and the thresholds of ``served``, or others, and with ``rescore`` its model too.

    ``served.rules`` are those that are to decide. ``thresholds`` None: on a log those each decision was made under,
    with ``rescore`` or on a file the model's own.
    """

    served: Served
    thresholds: Thresholds | None = None
    rescore: bool = False
    without_model: Outcome = "review"

    @property
    def policy(self) -> Policy:
        return Policy(self.served.rules, self.served.model, self.thresholds, self.rescore, self.without_model)


def rules_at(url: str) -> bytes:
    """The rules file that ``FRAUD_RULES_URL`` names. Raises ``BundleError`` or ``SettingsError``."""
    folder, name = split_url(url, "rules")
    return open_store(folder, "rules").read(name)[0]


def with_rules(served: Served, text: bytes | None) -> Served:
    """The bundle with this rules file in place of its own, None: with its own. Raises ``RulesError``."""
    if text is None:
        return served
    return replace(served, rules=load_rules(text, served.model.features.columns))


def on_log(
    log: DecisionLog,
    change: Change,
    costs: Costs,
    *,
    now_ms: int,
    since_ms: int | None = None,
    until_ms: int | None = None,
    progress: Progress = lambda _: None,
) -> Report:
    """The recorded decisions that arrived in ``[since, until)`` under the change. Raises ``StoreUnavailable``."""
    decisions = _told(records(log, since_ms, until_ms, test=False), progress)
    return service.backtest(decisions, change.policy, costs=costs, now_ms=now_ms)


def on_file(
    frame: pd.DataFrame,
    served: Served,
    change: Change,
    costs: Costs,
    *,
    since_ms: int | None = None,
    until_ms: int | None = None,
    progress: Progress = lambda _: None,
) -> Report:
    """The rows of a canonical frame in ``[since, until)`` as ``served`` would have decided them, under the change.

    All of the frame is history, which is replayed as each bundle defines it. Raises ``DataError`` where no row is left.
    """
    time_ms = frame["time_ms"].to_numpy(np.int64)
    begin = -1 if since_ms is None else since_ms
    end = np.iinfo(np.int64).max if until_ms is None else until_ms
    rows = np.flatnonzero((time_ms >= begin) & (time_ms < end))
    if not len(rows):
        raise DataError("No row lies between --since and --until.")
    cases = _told(_cases(frame, rows, served, change), progress)
    # On a file the model that decides has scored every row.
    policy = replace(change.policy, thresholds=change.thresholds or change.served.model.thresholds)
    return service.report(cases, policy, costs=costs)


def _cases(frame: pd.DataFrame, rows: npt.NDArray[np.intp], served: Served, change: Change) -> Iterator[Case]:
    other = change.served
    # With their history whatever the models pick: rules may read it.
    columns = replay.columns(frame, served.model.features, served.model.rates)[rows]
    anew = replay.columns(frame, other.model.features, other.model.rates)[rows] if change.rescore else columns
    frame = frame.iloc[rows]
    factor = other.model.rates.minor_factor
    minor = np.rint(replay.amounts_in_base(frame, other.model.rates) * factor).astype(np.int64)
    ids = frame["transaction_id"].tolist() if "transaction_id" in frame else [None] * len(rows)
    came = (frame["received_ms"] if "received_ms" in frame else frame["time_ms"]).to_numpy(np.int64)
    fraud = frame["is_fraud"].to_numpy() == 1
    events: Iterator[Event] = replay.events(frame, served.model.rates)
    thresholds = change.thresholds or other.model.thresholds
    for start in range(0, len(rows), _PIECE):
        piece = slice(start, start + _PIECE)
        filled, was = _scored(served, columns[piece])
        filled_anew, probability = _scored(other, anew[piece]) if change.rescore else (filled, was)
        for at in range(len(filled)):
            row, event, before = start + at, next(events), float(was[at])
            ruling = rule_on(served.rules, event, filled[at], before, served.model.thresholds, "review")
            listed = (ruling.listed.code,) if ruling.listed else ()
            told = (*listed, *(rule.id for rule in ruling.fired))
            made = Made(ruling.verdict.outcome, ruling.verdict.decided_by, told, before, served.version)
            yield Case(
                str(ids[row]) if isinstance(ids[row], str) else f"row {rows[row] + 1}",
                int(came[row]),
                int(minor[row]),
                "fraud" if fraud[row] else "legitimate",
                made,
                event,
                filled_anew[at],
                float(probability[at]),
                thresholds,
            )


def _scored(served: Served, columns: Floats) -> tuple[Floats, Floats]:
    filled = fill(columns, served.model.population)
    booster = served.bundle.read("model.ubj") if len(columns) >= evaluate.LARGE else None
    return filled, evaluate.probabilities(served.model, served.model.vector(filled), booster)


def _told[T](decisions: Iterator[T], progress: Progress) -> Iterator[T]:
    for number, decision in enumerate(decisions, 1):
        yield decision
        if number % 100_000 == 0:
            progress(f"{number:,} decisions")


@dataclass(frozen=True)
class Hits:
    """What one rule would have hit. ``failed``: rows for which it could not be evaluated."""

    id: str
    outcome: str
    enabled: bool  #: as it is sealed
    legitimate_rows: int
    legitimate_hits: int
    fraud_rows: int
    fraud_hits: int
    failed: int = 0
    switched_off: bool = False  #: here, for hitting too many legitimate rows

    @property
    def legitimate_share(self) -> float:
        return self.legitimate_hits / self.legitimate_rows if self.legitimate_rows else 0.0

    @property
    def line(self) -> str:
        """One line for people, with the rule's id."""
        return f"rule {self.id}: {self.told}"

    @property
    def told(self) -> str:
        """What the rule hit, and what became of it."""
        frauds = f"{self.fraud_hits:,} of {self.fraud_rows:,} frauds"
        text = f"{self.legitimate_share:.2%} of legitimate rows ({self.legitimate_hits:,}), {frauds}"
        if self.failed:
            text += f"; cannot be evaluated for {self.failed:,} rows"
        if self.switched_off:
            return f"{text}; above {MOST_LEGITIMATE:.0%}, sealed disabled (--keep-rules seals it as it is)"
        return text if self.enabled else f"{text}; disabled"

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "legitimate_share": self.legitimate_share}


def hits(
    rules: RuleSet, frame: pd.DataFrame, filled: Floats, labels: npt.NDArray[np.int8], rates: RateTable
) -> list[Hits]:
    """Each rule's hits among the rows: ``filled`` (n, len(columns)) without gaps, ``labels`` (n,) 1 for fraud.

    Every fraud is looked at, and at most ``MOST_ROWS`` legitimate rows.
    """
    every = RuleSet(
        rules.version,
        [replace(rule, enabled=True, from_ms=None, until_ms=None) for rule in rules.rules],
        rules.columns,
    )
    if not rules.rules:
        return []
    legitimate = np.flatnonzero(labels == 0)
    step = -(-len(legitimate) // MOST_ROWS) or 1
    rows = np.sort(np.concatenate((legitimate[::step], np.flatnonzero(labels == 1))))
    count = {rule.id: [0, 0] for rule in every.rules}
    failed = dict.fromkeys(count, 0)
    for event, row, label in zip(
        replay.events(frame.iloc[rows], rates), filled[rows], labels[rows].tolist(), strict=True
    ):
        ruling = rule_on(every, event, row, None, None, "approve")
        if ruling.failed is not None:
            failed[ruling.failed] += 1
        for rule in ruling.fired:
            count[rule.id][label] += 1
    frauds = int((labels == 1).sum())
    return [
        Hits(
            rule.id, rule.outcome, rule.enabled, len(rows) - frauds, count[rule.id][0], frauds, count[rule.id][1],
            failed[rule.id],
        )
        for rule in rules.rules
    ]  # fmt: skip


def seal_rules(text: bytes, columns: tuple[str, ...], found: Sequence[Hits], *, keep: bool) -> tuple[bytes, list[Hits]]:
    """The file as it is to be sealed, and the hits as they are to be told: rules above ``MOST_LEGITIMATE`` are
    switched off unless ``keep``.
    """
    off = {hit.id for hit in found if hit.enabled and hit.legitimate_share > MOST_LEGITIMATE}
    if keep or not off:
        return text, list(found)
    told = [replace(hit, enabled=False, switched_off=True) if hit.id in off else hit for hit in found]
    return switched_off(text, columns, off), told


def switched_off(text: bytes, columns: tuple[str, ...], ids: Collection[str]) -> bytes:
    """The rules file with these rules' ``enabled: false``, all else as it was written, a YAML file's comments too.

    Raises ``RulesError`` where the file cannot be changed so.
    """
    before = load_rules(text, columns)
    words = text.decode("utf-8-sig")
    try:
        changed = _switched_off_in_json(words, ids)
    except ValueError:
        changed = _switched_off_in_yaml(words, before, ids)
    after = load_rules(changed.encode(), columns)
    wanted = [replace(rule, enabled=rule.enabled and rule.id not in ids) for rule in before.rules]
    if list(after.rules) != wanted or after.lists != before.lists:
        raise RulesError("The rules file cannot be changed; write 'enabled: false' yourself, or use --keep-rules.")
    return changed.encode()


def _switched_off_in_json(words: str, ids: Collection[str]) -> str:
    data = json.loads(words, parse_float=str)
    for item in data["rules"]:
        if item["id"] in ids:
            item["enabled"] = False
    return json.dumps(data, indent=1)


def _switched_off_in_yaml(words: str, before: RuleSet, ids: Collection[str]) -> str:
    import yaml

    root: Any = yaml.compose(words, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    items = next(value for name, value in root.value if name.value == "rules").value
    changes: list[tuple[int, int, str]] = []
    for rule, item in zip(before.rules, items, strict=True):
        if rule.id not in ids:
            continue
        written = next((value for name, value in item.value if name.value == "enabled"), None)
        if written is not None:
            changes.append((written.start_mark.index, written.end_mark.index, "false"))
        else:
            first = item.value[0][0].start_mark
            after = ", " if item.flow_style else "\n" + " " * first.column
            changes.append((first.index, first.index, f"enabled: false{after}"))
    for start, end, new in sorted(changes, reverse=True):
        words = words[:start] + new + words[end:]
    return words
