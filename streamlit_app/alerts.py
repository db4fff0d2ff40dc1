"""The queue of alerts as data: reviews and declines by arrival, merged from one list of the API for each outcome."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pandas as pd

from streamlit_app import tables
from streamlit_app.answers import Label, Outcome, Transaction
from streamlit_app.client import FraudApi

#: Alerts of each outcome that are asked for at once.
PAGE = 50

Filters = Mapping[str, str | float | bool | None]


@dataclass
class Queue:
    """What was loaded so far, newest first. ``filters`` are those of ``GET /transactions`` but the outcome."""

    outcomes: Sequence[Outcome]
    filters: Filters
    _loaded: list[Transaction] = field(default_factory=list)
    _cursors: dict[Outcome, str | None] = field(default_factory=dict)

    @property
    def more(self) -> bool:
        """Whether there are older ones."""
        return any(self._cursors.get(outcome, "") is not None for outcome in self.outcomes)

    @property
    def items(self) -> list[Transaction]:
        """In order of arrival: of an outcome that has older ones only as far back as all are loaded."""
        reached = ""
        for outcome, cursor in self._cursors.items():
            own = [item.received_at for item in self._loaded if item.decision.outcome == outcome]
            if cursor is not None and own:
                reached = max(reached, min(own))
        return [item for item in self._loaded if item.received_at >= reached]

    def load(self, api: FraudApi) -> None:
        """The next page of each outcome; pages may be short and still have a next one. Raises ApiError."""
        known = len(self.items)
        while self.more and len(self.items) < known + PAGE:
            for outcome in self.outcomes:
                cursor = self._cursors.get(outcome, "")
                if cursor is None:
                    continue
                page = api.transactions(**self.filters, outcome=outcome, limit=PAGE, cursor=cursor or None)
                self._cursors[outcome] = page.next
                self._loaded.extend(page.transactions)
            self._loaded.sort(key=lambda item: item.received_at, reverse=True)

    def newer(self, api: FraudApi) -> bool:
        """Whether alerts have come since that are not loaded. Raises ApiError."""
        latest = self._loaded[0].received_at if self._loaded else None
        since = self.filters.get("since") if latest is None else _after(latest)
        return any(
            api.transactions(**{**self.filters, "since": since}, outcome=outcome, limit=1).transactions
            for outcome in self.outcomes
        )

    def relabel(self, transaction_id: str, label: Label) -> None:
        """What was just said of one of them: it stays in the queue until that is loaded anew."""
        self._loaded = [
            replace(item, label=label) if item.transaction_id == transaction_id else item for item in self._loaded
        ]


def since(hours: int | None, now: datetime) -> str | None:
    """RFC 3339 of so many hours ago; None for ever."""
    return None if hours is None else (now.astimezone(UTC) - timedelta(hours=hours)).isoformat(timespec="seconds")


def _after(moment: str) -> str:
    return (datetime.fromisoformat(moment) + timedelta(milliseconds=1)).isoformat(timespec="milliseconds")


def table(items: Sequence[Transaction]) -> pd.DataFrame:
    """The queue, or a party's history, as a table; texts are cells."""
    return pd.DataFrame(
        [
            {
                "arrived": tables.moment(item.received_at),
                "outcome": item.decision.outcome,
                "probability": item.decision.fraud_probability,
                "amount": item.decision.amount_base,
                "label": "" if item.label is None else item.label.label,
                "customer": item.customer_id or "",
                "counterparty": item.counterparty_id or "",
                "type": item.type or "",
                "rules": ", ".join(item.decision.rules),
                "transaction_id": item.transaction_id,
            }
            for item in items
        ],
        columns=[
            "arrived", "outcome", "probability", "amount", "label", "customer", "counterparty", "type", "rules",
            "transaction_id",
        ],
    )  # fmt: skip
