"""What a deployed stack costs a month: the template's resources, AWS's list prices, and so many requests.

Nothing here asks AWS. Prices and what a request takes are data (``prices.yaml``), with their date and source; the
amounts follow from them by multiplication, so that every figure can be done again on paper. What a month's free amounts
leave over is billed; ``first_year`` counts those of an account's first twelve months, too.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

import yaml

Mode = Literal["free", "production"]
MODES: Final = get_args(Mode)
PRICES: Final = Path(__file__).parent / "prices.yaml"
#: Hours in a month, as AWS counts.
HOURS: Final = 730
#: Units that CostMode=free provisions: the template's defaults, tables and indexes together.
PROVISIONED: Final = 25
#: Decisions a second that this takes around the clock: IndexWriteUnits, of which each takes one (docs/adr/0015).
SUSTAINED: Final = 3
#: Custom metrics (metrics.EMF_FEW and EMF_UNITS), metrics in alarms, and WAF rules, as the template has them.
COUNTS: Final[Mapping[Mode, Mapping[str, int]]] = {
    "free": {"metrics": 10, "alarms": 10, "waf_acl": 0, "waf_rules": 0},
    "production": {"metrics": 25, "alarms": 16, "waf_acl": 1, "waf_rules": 3},
}


class CostError(Exception):
    """The price file cannot be used. The message is one line."""


@dataclass(frozen=True, slots=True)
class Price:
    """``each`` USD for ``per`` of a unit; ``free`` a month are free, in the first year ``first_year`` more."""

    each: float
    per: float
    unit: str
    free: float = 0.0
    first_year: float = 0.0

    def of(self, amount: float, *, first_year: bool = False) -> float:
        """USD for an amount of a month."""
        billed = max(0.0, amount - self.free - (self.first_year if first_year else 0.0))
        return billed * self.each / self.per


@dataclass(frozen=True, slots=True)
class Line:
    """One resource's part of the bill."""

    resource: str
    price: str
    amount: float
    usd: float


@dataclass(frozen=True, slots=True)
class Bill:
    """A month's bill in USD; ``lines`` in the order a request meets them."""

    mode: Mode
    requests: int
    lines: tuple[Line, ...]

    @property
    def usd(self) -> float:
        return math.fsum(line.usd for line in self.lines)


@dataclass(frozen=True, slots=True)
class Book:
    """Prices and what a request takes, as the file has them."""

    date: str
    region: str
    source: str
    prices: Mapping[str, Price]
    usage: Mapping[str, float]


def read_prices(path: Path = PRICES) -> Book:
    """Read a price file. Raises :class:`CostError`."""
    try:
        data: dict[str, Any] = yaml.safe_load(path.read_text())
        prices = {name: Price(**given) for name, given in data["prices"].items()}
        usage = {name: float(value) for name, value in data["usage"].items()}
        if any(price.per <= 0 or min(price.each, price.free, price.first_year) < 0 for price in prices.values()):
            raise ValueError("a price or a free amount is negative, or for nothing")
        book = Book(str(data["date"]), str(data["region"]), str(data["source"]), prices, usage)
        for mode in MODES:
            bill(book, 1, mode)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as error:
        raise CostError(f"{path.name} is no price file ({type(error).__name__}). See training/prices.yaml.") from None
    return book


def bill(
    book: Book,
    requests: int,
    mode: Mode,
    *,
    first_year: bool = False,
    memory_mb: float | None = None,
    billed_ms: float | None = None,
) -> Bill:
    """The bill of a month with so many requests, one decision each. ``None``: as the price file says."""
    use = book.usage
    memory = use["memory_mb"] if memory_mb is None else memory_mb
    millis = use["billed_ms"] if billed_ms is None else billed_ms
    counts = COUNTS[mode]
    invocations = requests + use["heartbeats"]
    kept_gb = requests * use["stored_kb"] * use["months_kept"] / 1e6
    amounts: list[tuple[str, str, float]] = [
        ("FraudApi", "gateway_requests", requests),
        ("FraudFunction, FraudWorker", "lambda_requests", invocations),
        ("FraudFunction, FraudWorker", "lambda_gb_seconds", invocations * millis / 1000 * memory / 1024),
    ]
    if mode == "production":
        amounts += [
            ("Profiles, Decisions", "dynamodb_write_requests", requests * use["write_units"]),
            ("Profiles, Decisions", "dynamodb_read_requests", requests * use["read_units"]),
        ]
    else:
        amounts += [
            ("Profiles, Decisions", "dynamodb_write_capacity", PROVISIONED * HOURS),
            ("Profiles, Decisions", "dynamodb_read_capacity", PROVISIONED * HOURS),
        ]
    amounts += [("Profiles, Decisions, a year on", "dynamodb_storage", kept_gb)]
    if mode == "production":
        amounts += [("Decisions, point in time", "dynamodb_backup", kept_gb)]
    amounts += [
        ("Outbox, Transactions", "sqs", use["queue_looks"]),
        ("ModelBucket", "s3_storage", use["bundle_gb"] * use["bundles_kept"]),
        ("ModelBucket", "s3_reads", min(invocations, use["pointer_reads"])),
        ("images of three functions", "ecr_storage", 3 * use["image_gb"] * use["images_kept"]),
        ("FraudFunctionLogs, FraudWorkerLogs", "logs", invocations * use["log_kb"] / 1e6),
        ("metrics of the service", "metrics", counts["metrics"]),
        ("alarms", "alarms", counts["alarms"]),
        ("Dashboard", "dashboards", 1),
        ("answers to the Internet", "transfer", requests * use["answer_kb"] / 1e6),
    ]
    if mode == "production":
        amounts += [
            ("Firewall", "waf_acl", counts["waf_acl"]),
            ("Firewall", "waf_rules", counts["waf_rules"]),
            ("Firewall", "waf_requests", requests),
        ]
    lines = tuple(
        Line(resource, name, amount, book.prices[name].of(amount, first_year=first_year))
        for resource, name, amount in amounts
    )
    return Bill(mode, requests, lines)


def table(bills: list[Bill], book: Book) -> str:
    """The bills beside each other, a row a line; a price that none has anything of is left out."""
    wide: dict[tuple[str, str], list[str]] = {}
    for number, each in enumerate(bills):
        for line in each.lines:
            wide.setdefault((line.resource, line.price), ["-"] * len(bills))[number] = f"{line.usd:,.2f}"
    heads = [f"{each.mode} {each.requests:,}" for each in bills]
    first = max(len(f"{resource}: {book.prices[price].unit}") for resource, price in wide)
    width = max(12, *(len(head) for head in heads)) + 2
    rows = [f"{f'USD a month, {book.region}, {book.date}':<{first}}" + "".join(f"{head:>{width}}" for head in heads)]
    for (resource, price), cells in wide.items():
        rows.append(f"{f'{resource}: {book.prices[price].unit}':<{first}}" + "".join(f"{c:>{width}}" for c in cells))
    rows.append(f"{'all':<{first}}" + "".join(f"{each.usd:>{width},.2f}" for each in bills))
    most = SUSTAINED * HOURS * 3600
    if any(each.mode == "free" and each.requests > most for each in bills):
        rows.append(
            f"free: its tables take {SUSTAINED} decisions a second, {most:,} a month; what is more waits and is late."
        )
    return "\n".join(rows)
