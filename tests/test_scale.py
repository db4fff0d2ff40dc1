"""docs/scale.md: every figure of its tables follows from prices.yaml, results.json and template.yaml.

After a new measurement or price: ``PYTHONPATH=. .venv/bin/python tests/test_scale.py`` writes the tables anew.
"""

import json
import math
import re
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from training import cost

ROOT: Final = Path(__file__).resolve().parents[1]
PAGE: Final = ROOT / "docs" / "scale.md"
BOOK: Final[dict[str, Any]] = yaml.safe_load((ROOT / "training" / "prices.yaml").read_text())
RESULTS: Final[dict[str, Any]] = json.loads((ROOT / "benchmarks" / "results.json").read_text())
USE: Final[dict[str, float]] = BOOK["usage"]

RATES: Final = (10, 1_000, 100_000)
SECONDS: Final = 730 * 3600
#: AWS's own limits: a partition's units a second, and the requests a second of one unit of concurrency.
WRITES_A_KEY: Final = 1_000
READS_A_KEY: Final = 3_000
REQUESTS_A_CONCURRENCY: Final = 10
GATEWAY: Final = 10_000
#: Milliseconds of one round trip to a table: prices.yaml has fifteen for three.
TRIP_MS: Final = 5


def usd(name: str, amount: float) -> float:
    price = BOOK["prices"][name]
    return float(max(0.0, amount - price.get("free", 0)) * price["each"] / price["per"])


STORED: Final = "storage and its backup, after 13 months"


def spent(rate: int, months: float = USE["months_kept"]) -> dict[str, float]:
    """USD a month by part, at so many requests a second all month, decisions kept for so many months."""
    n = rate * SECONDS
    calls = n + USE["heartbeats"]
    kept_gb = n * USE["stored_kb"] * months / 1e6
    return {
        "gateway": usd("gateway_requests", n),
        "firewall's requests": usd("waf_requests", n),
        "Lambda": usd("lambda_requests", calls)
        + usd("lambda_gb_seconds", calls * USE["billed_ms"] / 1000 * USE["memory_mb"] / 1024),
        "write and read units": usd("dynamodb_write_requests", n * USE["write_units"])
        + usd("dynamodb_read_requests", n * USE["read_units"]),
        STORED: usd("dynamodb_storage", kept_gb) + usd("dynamodb_backup", kept_gb),
        "log lines": usd("logs", calls * USE["log_kb"] / 1e6),
        "answers out": usd("transfer", n * USE["answer_kb"] / 1e6),
    }


def row(name: str, cells: list[str]) -> str:
    return f"| {name} | " + " | ".join(cells) + " |"


def head(first: str) -> list[str]:
    return [row(first, [f"{rate:,}/s" for rate in RATES]), "|---" * (len(RATES) + 1) + "|"]


def needs() -> str:
    """What each rate takes."""
    busy = USE["billed_ms"] / 1000
    logs = RESULTS["memory"]["log_bytes"]
    appends = RESULTS["decision_log"]["appends per second"]
    cpu_s = RESULTS["server"]["16 at once"]["ours, CPU us a request"]["median"] / 1e6
    lines: list[tuple[str, Any]] = [
        ("requests a month, millions", lambda r: f"{r * SECONDS / 1e6:,.2f}"),
        (f"Lambda: instances busy at once, rate x {busy:g} s", lambda r: f"{math.ceil(r * busy):,}"),
        ("Lambda: concurrency quota that lets the rate in, rate / 10", lambda r: f"{r // REQUESTS_A_CONCURRENCY:,}"),
        ("gateway: share of the account's 10,000/s", lambda r: f"{r / GATEWAY:.1%}"),
        (f"tables: write units a second, {USE['write_units']:g} each", lambda r: f"{r * USE['write_units']:,.0f}"),
        (f"tables: read units a second, {USE['read_units']:g} each", lambda r: f"{r * USE['read_units']:,.0f}"),
        ("`by_time`: share of its one key's 1,000 writes/s", lambda r: f"{r / WRITES_A_KEY:.0%}"),
        (
            f"hot party: the share of all requests at which its updates queue, {1000 // (2 * TRIP_MS)}/s",
            lambda r: "-" if r <= 1000 // (2 * TRIP_MS) else f"{1000 / (2 * TRIP_MS) / r:.1%}",
        ),
        (
            "hot party: the share at which its key's 3,000 reads/s are used up",
            lambda r: "-" if r <= READS_A_KEY else f"{READS_A_KEY / r:.1%}",
        ),
        (f"log of the service, {logs:,.0f} bytes each: GB a day", lambda r: f"{r * logs * 86400 / 1e9:,.2f}"),
        (f"uvicorn: cores, {cpu_s * 1000:.2f} ms of processor time each", lambda r: f"{r * cpu_s:,.2f}"),
    ]
    for store, rate in appends.items():
        lines.append((f"{store}: times the measured {rate:,.0f} appends/s", lambda r, rate=rate: f"{r / rate:,.2f}"))
    return "\n".join(head("needed") + [row(name, [cell(r) for r in RATES]) for name, cell in lines])


def costs() -> str:
    """What it costs, USD a month; then what a change saves of it."""
    parts = [spent(rate) for rate in RATES]
    bills = [cost.bill(cost.read_prices(), rate * SECONDS, "production").usd for rate in RATES]
    fixed = [total - math.fsum(part.values()) for total, part in zip(bills, parts, strict=True)]
    lines = [row(name, [f"{part[name]:,.0f}" for part in parts]) for name in parts[0]]
    lines.append(row("what no rate changes", [f"{each:,.0f}" for each in fixed]))
    lines.append(row("**all**", [f"**{each:,.0f}**" for each in bills]))
    lines.append(
        row(
            "a million decisions",
            [f"{total / (r * SECONDS) * 1e6:,.2f}" for total, r in zip(bills, RATES, strict=True)],
        )
    )
    batch = [(part["gateway"] + part["firewall's requests"]) * 0.99 for part in parts]
    lines.append(row("saved by batches of 100: gateway, firewall", [f"{each:,.0f}" for each in batch]))
    kept = [part[STORED] - spent(rate, 3)[STORED] for part, rate in zip(parts, RATES, strict=True)]
    lines.append(row("saved by 3 months kept in place of 13", [f"{each:,.0f}" for each in kept]))
    return "\n".join(head("USD a month") + lines)


BLOCKS: Final = {"needed": needs, "cost": costs}


def block(name: str, text: str) -> str:
    found = re.search(rf"<!-- scale: {name} -->\n(.*?)\n<!-- /scale -->", text, flags=re.S)
    assert found is not None, f"docs/scale.md has no block {name}"
    return found[1]


@pytest.mark.parametrize("name", BLOCKS)
def test_every_figure_of_the_page_is_what_prices_and_results_make_of_it(name: str) -> None:
    assert block(name, PAGE.read_text()) == BLOCKS[name](), "PYTHONPATH=. .venv/bin/python tests/test_scale.py"


def test_the_parts_and_what_no_rate_changes_are_the_bill_of_the_cost_command() -> None:
    """So the page's own multiplication and the command's agree: what is left over is small and alike at all rates."""
    book = cost.read_prices()
    left = [cost.bill(book, r * SECONDS, "production").usd - math.fsum(spent(r).values()) for r in RATES]
    assert min(left) > 0
    assert max(left) - min(left) < 0.02


def test_the_page_names_the_templates_own_bounds() -> None:
    text = (ROOT / "template.yaml").read_text()
    page = PAGE.read_text()
    for name in ("ThrottleRate", "QuotaPerMonth", "ReservedConcurrency", "RetentionDays"):
        found = re.search(rf"^  {name}:\n    Type: Number\n    Default: (-?\d+)$", text, flags=re.M)
        assert found is not None, name
        assert f"`{name}` ({int(found[1]):,})" in page, name
    assert f"{cost.SUSTAINED} decisions a second" in page


if __name__ == "__main__":
    written = PAGE.read_text()
    for key, make in BLOCKS.items():
        start = f"<!-- scale: {key} -->\n"
        written = written.replace(start + block(key, written), start + make())
    PAGE.write_text(written)
