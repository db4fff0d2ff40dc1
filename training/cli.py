"""What the commands have in common: options that several take, and how they report."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output, and nothing else.")]
Data = Annotated[str, typer.Option(help="CSV or Parquet file, a folder of them, or either on s3://.")]
Format = Annotated[str, typer.Option(help="paysim, handbook, csv (with --mapping) or synthetic.")]
Mapping_ = Annotated[str | None, typer.Option("--mapping", help="YAML file that names your columns (format csv).")]
Where = Annotated[list[str] | None, typer.Option(help="Keep rows with COLUMN=VALUE; may be repeated.")]
LegitWeight = Annotated[float, typer.Option(help="Weight of each legitimate row, for samples of frauds and controls.")]
Keys = Annotated[Path, typer.Option("--keys", help="Folder of signing keys.")]
Stack = Annotated[str | None, typer.Option(help="Name of a deployed stack.")]
Region = Annotated[str | None, typer.Option(help="AWS region; default: the environment's.")]
MLflow = Annotated[bool, typer.Option("--mlflow", help="Log into MLflow as well: FRAUD_MLFLOW_URI.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same result.")]

Engine = Annotated[str, typer.Option(help="here, or dask: over the machines of a Dask cluster.")]
Scheduler = Annotated[
    str | None, typer.Option(metavar="URL", help="With --engine dask: tcp://host:8786, or tls:// with certificates.")
]


@contextmanager
def one_line() -> Iterator[None]:
    """An error made for people becomes one line on stderr and exit code 1; a fault of ours keeps its traceback."""
    from fraud_api_lambda.errors import FraudError

    try:
        yield
    except KeyboardInterrupt:
        typer.echo("Stopped.", err=True)
        raise typer.Exit(130) from None
    except FraudError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        typer.echo(f"error: {where}{error.strerror or error}", err=True)
        raise typer.Exit(1) from None
    except Exception as error:
        # Errors of training's own modules (DataError, StackError) say it in one line too; they need heavy imports.
        if type(error).__module__.split(".")[0] == "training":
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(1) from None
        raise


@contextmanager
def steps() -> Iterator[Callable[[str], None]]:
    """Steps on stderr: a spinner with the time on a terminal, plain lines elsewhere."""
    if not sys.stderr.isatty():
        yield lambda step: typer.echo(step, err=True)
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        tasks: list[Any] = []

        def step(text: str) -> None:
            if tasks:
                bar.update(tasks[-1], total=1, completed=1)
            tasks.append(bar.add_task(text, total=None))

        yield step


def on_cluster(engine: str, scheduler: str | None) -> str | None:
    """The scheduler's address where the work is to be done on a cluster."""
    choice("--engine", engine, ("here", "dask"))
    if (engine == "dask") != (scheduler is not None):
        typer.echo("error: --engine dask and --scheduler URL go together.", err=True)
        raise typer.Exit(2)
    return scheduler


def print_result(as_json: bool, data: Mapping[str, Any], text: str) -> None:
    typer.echo(json.dumps(data, indent=1) if as_json else text)


def choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        typer.echo(f"error: {option} is not one of its choices: {', '.join(choices)}.", err=True)
        raise typer.Exit(2)
