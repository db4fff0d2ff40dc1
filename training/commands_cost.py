"""The commands about what a stack costs: what AWS would take, images that nobody needs. ``__main__`` takes them in."""

from pathlib import Path
from typing import Annotated

import typer

from .cli import Json, Region, choice, one_line, print_result


def register(app: typer.Typer) -> None:
    """Make these commands of ``app``."""
    for command in (cost, images):
        app.command()(command)


def cost(
    requests: Annotated[
        list[int] | None, typer.Option(min=0, max=10**12, help="A month's decisions; may be repeated.")
    ] = None,
    mode: Annotated[
        str | None, typer.Option(help="free or production, the template's CostMode; default: both.")
    ] = None,
    first_year: Annotated[
        bool, typer.Option("--first-year", help="With what is free in an account's first twelve months.")
    ] = False,
    memory: Annotated[int | None, typer.Option(min=128, max=10_240, help="The function's MB.")] = None,
    ms: Annotated[float | None, typer.Option(min=0.1, max=900_000, help="Billed milliseconds of a request.")] = None,
    prices: Annotated[Path | None, typer.Option(help="Price file; default: training/prices.yaml.")] = None,
    as_json: Json = False,
) -> None:
    """What a stack costs a month by AWS's list prices, resource by resource."""
    if mode is not None:
        choice("--mode", mode, ("free", "production"))
    with one_line():
        from . import cost as costing

        book = costing.read_prices(prices or costing.PRICES)
        bills = [
            costing.bill(book, count, each, first_year=first_year, memory_mb=memory, billed_ms=ms)
            for each in costing.MODES
            if mode in (None, each)
            for count in requests or [0, 100_000, 10_000_000]
        ]
    facts = {
        "date": book.date,
        "region": book.region,
        "bills": [
            {
                "mode": each.mode,
                "requests": each.requests,
                "usd": each.usd,
                "lines": [
                    {
                        "resource": line.resource,
                        "unit": book.prices[line.price].unit,
                        "amount": line.amount,
                        "usd": line.usd,
                    }
                    for line in each.lines
                ],
            }
            for each in bills
        ],
    }
    print_result(as_json, facts, costing.table(bills, book))


def images(
    stack: Annotated[str, typer.Option(help="Name of the deployed stack.")],
    region: Region = None,
    keep: Annotated[
        int, typer.Option(min=1, max=100, help="Images of each function that stay besides the one it runs.")
    ] = 3,
) -> None:
    """Have ECR keep the image that each function runs, and a few before it, and delete the rest."""
    with one_line():
        from .registry import keep_images

        keep_images(stack, region=region, keep=keep, echo=typer.echo)
