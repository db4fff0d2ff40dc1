"""Keeps nothing: for measuring what all else costs."""

from collections.abc import Sequence

from ..errors import SettingsError
from . import Day, DecisionLog, Label, Page, Record, Search, Stored


def open_url(url: str, budget_s: float, retention_days: int | None) -> DecisionLog:
    """``none://``"""
    if url != "none://":
        raise SettingsError("The decision log that keeps nothing is written none://.")
    return NoDecisionLog()


class NoDecisionLog:
    """Every append is new, every search empty."""

    inline = True
    durable = False

    def append(self, records: Sequence[Record]) -> list[Record | None]:
        return [None] * len(records)

    def find(self, transaction_ids: Sequence[str]) -> dict[str, Stored]:
        return {}

    def label(self, label: Label) -> tuple[Stored, Label] | None:
        return None

    def labels(self, transaction_id: str) -> list[Label]:
        return []

    def search(self, search: Search) -> Page:
        return Page((), None)

    def summary(self, since_day: int, until_day: int) -> list[Day]:
        return []

    def erase(self, party: str) -> int:
        return 0

    def forget(self, before_ms: int) -> int:
        return 0

    def check(self) -> None:
        pass

    def allow(self, budget_s: float) -> None:
        pass

    def disconnect(self) -> None:
        pass

    def close(self) -> None:
        pass
