"""Rules on rows whose labels are known: what each would have hit, and the file without those that hit too much.

A rule is judged by its expression alone, enabled or not, whatever its dates, snoozes and the lists say: its dates are
those of the future it is written for, and the rows are of the past.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from fraud_api_lambda.errors import RuleFailed, RulesError
from fraud_api_lambda.features import Floats
from fraud_api_lambda.rules import RuleSet, load_rules
from fraud_api_lambda.schemas import RateTable

from . import replay

#: The largest share of legitimate rows that a rule may hit and still be sealed as it is.
MOST_LEGITIMATE = 0.01
#: Legitimate rows looked at; of more every n-th is taken, which leaves the share as it is.
MOST_ROWS = 200_000


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
        """One line for people."""
        frauds = f"{self.fraud_hits:,} of {self.fraud_rows:,} frauds"
        text = f"rule {self.id}: {self.legitimate_share:.2%} of legitimate rows ({self.legitimate_hits:,}), {frauds}"
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
        try:
            fired = every.fired(event, row)
        except RuleFailed as error:
            fired = error.fired
            failed[str(error.rule)] += 1
        for rule in fired:
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
