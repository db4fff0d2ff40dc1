"""The command that looks for drift in a decision log. ``__main__`` takes it in."""

from pathlib import Path
from typing import Annotated

import typer

from .cli import Json, Keys, one_line, print_result
from .commands_records import Log, moment, open_log, read_environment

#: Neither done (0) nor failed (1): something drifts.
DRIFTS = 3


def register(app: typer.Typer) -> None:
    app.command()(drift)


def drift(
    log: Log = None,
    bundle: Annotated[str | None, typer.Option(help="A bundle, or a folder with a 'current' pointer.")] = None,
    model_url: Annotated[
        str | None, typer.Option(help="In place of --bundle: a pointer's URL; default: FRAUD_MODEL_URL.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(help="Arrived from then on: 2026-02-06, or with a time (UTC); default: the last day, or 2,000."),
    ] = None,
    until: Annotated[str | None, typer.Option(help="Arrived before; default: now.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for text, JSON, page and pictures.")] = Path("out/drift"),
    keys: Keys = Path("keys"),
    as_json: Json = False,
) -> None:
    """Compare decisions with what their bundle was made of: exit code 3 where something drifts, else 0."""
    with one_line(), open_log(log) as opened:
        from fraud_api_lambda.schemas import now_ms

        from . import drift_report
        from .evaluate import open_for_evaluation

        served = open_for_evaluation(bundle or model_url or read_environment().model_url, keys)
        begin, end = moment("--since", since), moment("--until", until)
        report = drift_report.look(opened, served, now_ms(), begin, end)
        files = drift_report.write(report, out)
    print_result(as_json, drift_report.as_json(report), "\n".join((drift_report.text(report), *map(str, files))))
    if report.alarms:
        raise typer.Exit(DRIFTS)
