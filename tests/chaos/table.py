"""The table of a full run, as docs/reliability.md holds it: written by the run, never by hand."""

import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime

from tests.lambda_runtime.conftest import ROOT

PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- faults: written by make chaos -->", "<!-- faults: end -->"


@dataclass(frozen=True)
class Row:
    fault: str
    promise: str
    sent: int
    answered: int
    flagged: int
    before_ms: float
    p99_ms: float
    worst_ms: float
    recovered_s: float


def text(rows: list[Row], of: int, seconds: float) -> str:
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M")
    load = os.getloadavg()[0]
    head = (
        f"Run of {when} UTC: {len(rows)} of {of} faults of {seconds:.0f} s kept their promise (the others are not listed), "
        f"{os.cpu_count()} cores, load average {load:.1f} at its end. Latencies are those while the fault lasted, counted "
        "from when a request was due; lost and doubled records: none, or the row is missing."
    )
    lines = [
        head,
        "",
        "| fault | promise | sent | answered | flagged | p99 ms before | p99 ms | worst ms | well again after s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r.fault} | {r.promise} | {r.sent} | {r.answered} | {r.flagged} | {r.before_ms:.0f} | {r.p99_ms:.0f} "
        f"| {r.worst_ms:.0f} | "
        f"{r.recovered_s:.1f} |"
        for r in rows
    ]
    return "\n".join(lines)


def write(rows: list[Row], of: int, seconds: float) -> None:
    page = PAGE.read_text()
    block = f"{BEGIN}\n{text(rows, of, seconds)}\n{END}"
    PAGE.write_text(re.sub(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: block, page, flags=re.S))
