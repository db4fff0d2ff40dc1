"""Tables as they are shown and as they leave: formats of money, time and shares, and CSV that no spreadsheet runs."""

import re
from collections.abc import Mapping
from typing import Any

import pandas as pd
import streamlit as st

#: What a spreadsheet takes for a formula when a cell begins with it, full-width forms included.
_FORMULA = "=+\\-@＝＋－＠"
#: At the beginning, after white space and quotes, or behind what some spreadsheet takes for the next cell's beginning.
_BEGINS = re.compile(rf"(^|[\t\r\n;|])([\s\"]*)(?=[{_FORMULA}])")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def csv(frame: pd.DataFrame) -> bytes:
    """UTF-8 with a byte order mark (or Excel guesses another encoding), every text quoted, no cell a formula.

    Texts that would be taken for one get an apostrophe before it, as OWASP advises; numbers stay numbers.
    """
    safe = pd.DataFrame({index: frame.iloc[:, index].map(_safe) for index in range(frame.shape[1])}, index=frame.index)
    safe.columns = pd.Index([_safe(str(name)) for name in frame.columns])
    return safe.to_csv(index=False, quoting=2, lineterminator="\r\n").encode("utf-8-sig", "replace")


def _safe(value: Any) -> Any:
    if not isinstance(value, str) or _NUMBER.fullmatch(value):
        return value
    # A tab or a line's end at the beginning would be left out, and what follows it taken for the beginning.
    return _BEGINS.sub(r"\1\2'", value.replace("\0", ""))


def moment(text: str | None) -> pd.Timestamp | None:
    """A time of the API's for a table's column; None for none, or for what is no time."""
    try:
        return None if text is None else pd.Timestamp(text).tz_convert("UTC").tz_localize(None)
    except (ValueError, TypeError):
        return None


def columns(currency: str, **more: Any) -> Mapping[str, Any]:
    """Formats by column name, for the names that all tables here use; ``currency`` is that of ``amount``."""
    config = st.column_config
    return {
        "time": config.DatetimeColumn("time (UTC)", format="YYYY-MM-DD HH:mm:ss"),
        "arrived": config.DatetimeColumn("arrived (UTC)", format="YYYY-MM-DD HH:mm:ss"),
        "amount": config.NumberColumn(f"amount ({currency})" if currency else "amount", format="%,.2f"),
        "probability": config.ProgressColumn("probability", format="percent", min_value=0.0, max_value=1.0),
        **more,
    }
