"""The commands over large files and over the decision log. ``__main__`` takes them in."""

from pathlib import Path
from typing import Annotated, Any

import typer

from .cli import Data, Format, Json, Keys, Mapping_, Where, one_line, print_result, steps


def register(app: typer.Typer) -> None:
    """Make these commands of ``app``."""
    for command in (score,):
        app.command()(command)


def score(
    data: Data,
    out: Annotated[Path, typer.Option(help="Result: .parquet or .csv.")],
    bundle: Annotated[str | None, typer.Option(help="A bundle, or a folder with a 'current' pointer.")] = None,
    model_url: Annotated[
        str | None, typer.Option(help="In place of --bundle: a pointer's URL; default: FRAUD_MODEL_URL.")
    ] = None,
    format: Format = "csv",
    mapping: Mapping_ = None,
    where: Where = None,
    rules: Annotated[Path | None, typer.Option(help="Rules file in place of the bundle's.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Reasons of what is not approved, too.")] = False,
    keys: Keys = Path("keys"),
    as_json: Json = False,
) -> None:
    """Judge every row of a file of any size; a run that was killed is gone on with."""
    with one_line(), steps() as progress:
        from fraud_api_lambda.schemas import pseudonyms_of

        from . import score as scoring

        settings = read_environment()
        served = scoring.open_served(bundle or model_url or settings.model_url, keys, rules)
        options = scoring.Options(
            data=data,
            format=format,
            out=out,
            mapping=mapping,
            where=tuple(where or ()),
            explain=explain,
            pseudonyms=pseudonyms_of(settings.pseudonym_key),
            without_model=settings.without_model,
        )
        result = scoring.score(served, options, progress=progress)
    facts: dict[str, Any] = {
        "out": str(out),
        "rows": result.rows,
        "outcomes": result.outcomes,
        "seconds": round(result.seconds, 1),
        "model_version": served.version,
        "rules_version": served.rules.version,
    }
    told = ", ".join(f"{number:,} {outcome}" for outcome, number in sorted(result.outcomes.items()))
    print_result(as_json, facts, f"{out}: {result.rows:,} rows in {result.seconds:.0f} s: {told}")


def read_environment() -> Any:
    """The service's settings, as it reads them."""
    import os

    from fraud_api_lambda.settings import read_settings

    return read_settings(os.environ)
