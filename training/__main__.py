"""``python -m training``: one training run and what surrounds it, as commands.

Modules are imported inside the commands: ``--help`` answers at once, and ``smoke`` needs no scikit-learn. Exit codes:
0 done, 1 refused or failed (one line on stderr says why and what to do), 2 the command line itself is wrong; 3 and 4
say how far ``retrain`` came.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from . import commands_cost, commands_drift, commands_learning, commands_life, commands_records
from .cli import (
    Data,
    Engine,
    Format,
    Json,
    Keys,
    LegitWeight,
    Mapping_,
    MLflow,
    Region,
    Scheduler,
    Seed,
    Stack,
    Where,
    choice,
    on_cluster,
    one_line,
    print_result,
    steps,
)

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
Labels = Annotated[
    bool, typer.Option(help="Counterparties' known frauds; only where the service will learn which were frauds.")
]
KnownSince = Annotated[
    str | None,
    typer.Option(
        "--without-known-frauds",
        metavar="DAY",
        help="Leave out of each test day the customers with a fraud since DAY that is known by then (2018-07-25).",
    ),
]


@app.command()
def generate(
    rows: Annotated[int, typer.Option(min=1_000, max=20_000_000)] = 200_000,
    seed: Seed = 7,
    out: Annotated[Path, typer.Option(help=".csv or .parquet")] = Path("data/synthetic.parquet"),
    as_json: Json = False,
) -> None:
    """Make transactions of customers with habits, and frauds in documented scenarios."""
    with one_line():
        from .synthetic import generate as make
        from .synthetic import write

        frame = make(rows, seed)
        out.parent.mkdir(parents=True, exist_ok=True)
        write(frame, out)
    frauds = int(frame["is_fraud"].sum())
    print_result(
        as_json,
        {"out": str(out), "rows": len(frame), "frauds": frauds},
        f"{len(frame):,} rows, {frauds:,} frauds: {out}",
    )


@app.command()
def run(
    data: Data,
    format: Format = "csv",
    out: Annotated[Path, typer.Option(help="Folder the bundle is written into.")] = Path("out"),
    mapping: Mapping_ = None,
    where: Where = None,
    legit_weight: LegitWeight = 1.0,
    seed: Seed = 7,
    features: Annotated[str, typer.Option(help="pre: known before authorisation; posted: new balances too.")] = "pre",
    history: Annotated[
        bool, typer.Option(help="Features of the parties' past; not for samples, which have none.")
    ] = True,
    labels: Labels = False,
    champion: Annotated[
        str, typer.Option(help="xgboost (with SMOTE), blend (what earns its place beside it), or auto (the best).")
    ] = "xgboost",
    blend: Annotated[
        str, typer.Option(help="Weights of a blend: fitted on validation rows, equal (0.5/0.5), or none.")
    ] = "fitted",
    split: Annotated[str, typer.Option(help="time or random.")] = "time",
    train: Annotated[str | None, typer.Option(help="Days to learn from: 2018-07-25..2018-07-31.")] = None,
    validation: Annotated[
        str | None, typer.Option(help="Days to calibrate on; default: the last fifth of --train.")
    ] = None,
    test: Annotated[str | None, typer.Option(help="Days to judge on.")] = None,
    known_since: KnownSince = None,
    rehearse: Annotated[
        str | None,
        typer.Option(
            help="Choose trees and weights by the same split so much earlier, such as 14d; with --train, --test."
        ),
    ] = None,
    delay: Annotated[
        str | None, typer.Option(help="Label delay: 7d, 36h; default: 7 days or a tenth of the span.")
    ] = None,
    cv: Annotated[int, typer.Option(help="Also judge every row once in so many folds.", min=0, max=20)] = 0,
    tune: Annotated[int, typer.Option(help="Candidates the search tries; 0: none.", min=0, max=500)] = 4,
    tuner: Annotated[str, typer.Option(help="random (RandomizedSearchCV) or optuna (with pruning).")] = "random",
    rules: Annotated[str | None, typer.Option(help="Rules file to seal into the bundle.")] = None,
    keep_rules: Annotated[
        bool, typer.Option("--keep-rules", help="Seal a rule as it is even if it hits over 1 % of the legitimate rows.")
    ] = False,
    rates: Annotated[str | None, typer.Option(help="YAML file of dated exchange rates to the base currency.")] = None,
    base_currency: Annotated[str, typer.Option(help="ISO 4217.")] = "USD",
    time_zone: Annotated[str, typer.Option(help="IANA name; hours, days and night are local to it.")] = "UTC",
    capacity: Annotated[
        float, typer.Option(help="Most transactions that people can review, as a share.", min=0, max=1)
    ] = 0.01,
    review_cost: Annotated[float, typer.Option(help="Of one review, in the base currency.", min=0)] = 5.0,
    false_decline_cost: Annotated[float, typer.Option(help="Of declining a legitimate transaction.", min=0)] = 20.0,
    decline_precision: Annotated[
        float, typer.Option(help="Least share of frauds among what is declined.", min=0, max=1)
    ] = 0.9,
    flag_precision: Annotated[
        float, typer.Option(help="Least share of frauds among what is flagged at all.", min=0, max=1)
    ] = 0.0,
    flag_probability: Annotated[
        float, typer.Option(help="Least fraud probability that is flagged at all.", min=0, max=1)
    ] = 0.0,
    ablation: Annotated[bool, typer.Option(help="Also train without SMOTE, weighted, without balances.")] = True,
    engine: Engine = "here",
    scheduler: Scheduler = None,
    mlflow: MLflow = False,
    keys: Keys = Path("keys"),
    as_json: Json = False,
) -> None:
    """Train, evaluate and seal a bundle. The pointer is not touched: see publish."""
    choice("--features", features, ("pre", "posted"))
    choice("--champion", champion, ("xgboost", "auto", "blend"))
    choice("--blend", blend, ("fitted", "equal", "none"))
    if (champion, blend) == ("blend", "none"):
        typer.echo("error: --champion blend with --blend none is no blend; choose fitted or equal.", err=True)
        raise typer.Exit(2)
    choice("--split", split, ("time", "random"))
    choice("--tuner", tuner, ("random", "optuna"))
    cluster = on_cluster(engine, scheduler)
    with one_line(), steps() as progress:
        from . import train as training
        from .metrics import Costs
        from .split import parse_delay

        options = training.Options(
            data=data,
            format=format,
            mapping=mapping,
            where=tuple(where or ()),
            legit_weight=legit_weight,
            seed=seed,
            features=features,  # type: ignore[arg-type]  # checked above, as the next two
            history=history,
            labels=labels,
            champion=champion,  # type: ignore[arg-type]
            blend=blend,  # type: ignore[arg-type]
            split=split,  # type: ignore[arg-type]
            train_range=train,
            validation_range=validation,
            test_range=test,
            known_since=known_since,
            rehearse_ms=None if rehearse is None else parse_delay(rehearse),
            delay_ms=None if delay is None else parse_delay(delay),
            folds=cv,
            tune=tune,
            tuner=tuner,  # type: ignore[arg-type]
            rules=rules,
            keep_rules=keep_rules,
            time_zone=time_zone,
            base_currency=base_currency,
            rates=_yaml(rates),
            costs=Costs(
                capacity=capacity,
                review_cost=review_cost,
                false_decline_cost=false_decline_cost,
                decline_precision=decline_precision,
                flag_precision=flag_precision,
                flag_probability=flag_probability,
            ),
            ablation=ablation,
        )
        if cluster is None:
            result = training.run(options, out, training.development_key(keys), progress=progress)
        else:
            from .distributed import run as run_there

            result = run_there(options, out, training.development_key(keys), cluster, progress=progress)
        if mlflow:
            from .tracking import log_training

            progress(str(log_training(result.bundle)))
    figures = result.metrics["test"]
    summary = {
        "bundle": str(result.bundle),
        "version": result.version,
        "seconds": round(result.seconds, 1),
        "test": _headline(figures),
        "members": result.metrics["members"],
        "ablation": [{"name": row["name"], **_headline(row["metrics"])} for row in result.metrics["ablation"]],
    }
    if "cross_validation" in result.metrics:
        summary["cross_validation"] = result.metrics["cross_validation"]
    print_result(
        as_json, summary, _summary(result.bundle, figures, result.metrics.get("cross_validation"), result.seconds)
    )


@app.command()
def compare(
    data: Data,
    format: Format = "csv",
    out: Annotated[Path, typer.Option(help="Folder for leaderboard.json, .csv, .txt and .png.")] = Path("out/compare"),
    mapping: Mapping_ = None,
    where: Where = None,
    legit_weight: LegitWeight = 1.0,
    seed: Seed = 7,
    features: Annotated[str, typer.Option(help="pre: known before authorisation; posted: new balances too.")] = "pre",
    history: Annotated[bool, typer.Option(help="Features of the parties' past.")] = True,
    labels: Labels = False,
    split: Annotated[str, typer.Option(help="time or random.")] = "time",
    train: Annotated[str | None, typer.Option(help="Days to learn from: 2018-07-25..2018-07-31.")] = None,
    validation: Annotated[
        str | None, typer.Option(help="Days to calibrate on; default: the last fifth of --train.")
    ] = None,
    test: Annotated[str | None, typer.Option(help="Days to judge on.")] = None,
    known_since: KnownSince = None,
    delay: Annotated[str | None, typer.Option(help="Label delay: 7d, 36h; default as in run.")] = None,
    tune: Annotated[int, typer.Option(help="Candidates the search tries first; 0: none.", min=0, max=500)] = 0,
    tuner: Annotated[str, typer.Option(help="random (RandomizedSearchCV) or optuna (with pruning).")] = "random",
    rates: Annotated[str | None, typer.Option(help="YAML file of dated exchange rates to the base currency.")] = None,
    base_currency: Annotated[str, typer.Option(help="ISO 4217.")] = "USD",
    time_zone: Annotated[str, typer.Option(help="IANA name; hours, days and night are local to it.")] = "UTC",
    mlflow: MLflow = False,
    as_json: Json = False,
) -> None:
    """Every kind of model and every way to meet rarity on the same rows: a leaderboard with intervals."""
    choice("--features", features, ("pre", "posted"))
    choice("--split", split, ("time", "random"))
    choice("--tuner", tuner, ("random", "optuna"))
    with one_line(), steps() as progress:
        from . import compare as comparison
        from .split import parse_delay
        from .train import Options

        options = Options(
            data=data,
            format=format,
            mapping=mapping,
            where=tuple(where or ()),
            legit_weight=legit_weight,
            seed=seed,
            features=features,  # type: ignore[arg-type]  # checked above, as the next two
            history=history,
            labels=labels,
            split=split,  # type: ignore[arg-type]
            train_range=train,
            validation_range=validation,
            test_range=test,
            known_since=known_since,
            delay_ms=None if delay is None else parse_delay(delay),
            tune=tune,
            tuner=tuner,  # type: ignore[arg-type]
            time_zone=time_zone,
            base_currency=base_currency,
            rates=_yaml(rates),
        )
        board = comparison.compare(options, progress=progress)
        files = comparison.write(board, out)
        shown = comparison.text(board)
        if mlflow:
            from .tracking import log_comparison

            progress(str(log_comparison(board, files)))
    print_result(as_json, comparison.as_json(board), "\n".join((shown, *map(str, files))))


@app.command()
def evaluate(
    bundle: Annotated[str, typer.Option(help="A bundle, a folder with a 'current' pointer, or a pointer's URL.")],
    data: Data,
    format: Format = "csv",
    mapping: Mapping_ = None,
    where: Where = None,
    legit_weight: LegitWeight = 1.0,
    test: Annotated[str | None, typer.Option(help="Judge only these days; earlier rows are history.")] = None,
    known_since: KnownSince = None,
    seed: Seed = 0,
    keys: Keys = Path("keys"),
    as_json: Json = False,
) -> None:
    """Score a file through a sealed bundle, as the service opens it, and measure."""
    with one_line():
        import numpy as np

        from . import dataset, metrics
        from . import evaluate as judge
        from .metrics import Costs
        from .split import within
        from .train import unknown_customers

        served = judge.open_for_evaluation(bundle, keys)
        frame = dataset.load(data, format, mapping=mapping, where=tuple(where or ()), legit_weight=legit_weight)
        columns = judge.replayed(served, frame)
        rows = np.arange(len(frame)) if test is None else within(frame["time_ms"].to_numpy(), test)
        if known_since is not None:
            rows = unknown_customers(frame, rows, served.bundle.manifest.label_delay_ms, known_since)
        if not len(rows):
            raise dataset.DataError("No row is left to judge.")
        frame, columns = frame.iloc[rows], columns[rows]
        scored = judge.score(served, frame, columns)
        costs = Costs(**served.bundle.manifest.training.get("costs", {}))
        figures = {"version": served.version, **metrics.metrics(scored, costs=costs, seed=seed)}
        text = metrics.classification_text(scored)
    print_result(as_json, figures, f"{text}\n{_lines(figures)}")


@app.command()
def report(
    bundle: Annotated[str, typer.Option(help="A bundle, or a folder with a 'current' pointer.")] = "models",
    out: Annotated[Path, typer.Option(help="Folder for report.html, the pictures, metrics.json, model card.")] = Path(
        "out/report"
    ),
    keys: Keys = Path("keys"),
    as_json: Json = False,
) -> None:
    """Take the report out of a sealed bundle: one HTML page, PNGs, metrics.json, the model card."""
    with one_line():
        from .evaluate import open_for_evaluation

        served = open_for_evaluation(bundle, keys)
        names = [
            name
            for name in served.bundle.manifest.files
            if name.endswith(".png") or name in {"report.html", "metrics.json", "model_card.md"}
        ]
        out.mkdir(parents=True, exist_ok=True)
        for name in names:
            (out / name).write_bytes(served.bundle.read(name))
    print_result(
        as_json, {"version": served.version, "files": [str(out / name) for name in names]}, f"{out / 'report.html'}"
    )


@app.command()
def keys(
    name: Annotated[str, typer.Option(help="File name of the pair.")] = "development",
    key_id: Annotated[
        str | None, typer.Option(help="Id that signatures name; default: made from name and date.")
    ] = None,
    folder: Keys = Path("keys"),
    as_json: Json = False,
) -> None:
    """Make an Ed25519 key pair: the private half for signing, the public line for FRAUD_MODEL_PUBLIC_KEYS."""
    import secrets

    with one_line():
        from .train import make_key_pair

        prefix = "dev" if name == "development" else name
        made = make_key_pair(folder, name, key_id or f"{prefix}-{datetime.now(UTC):%Y%m%d}-{secrets.token_hex(2)}")
    facts = {"key_id": made.key_id, "private": str(folder / f"{name}.key"), "public": made.public_line()}
    print_result(as_json, facts, f"{facts['private']} (keep it)\n{facts['public']}")


@app.command()
def apikey(
    name: Annotated[str, typer.Option(help="Whose it is; it stands in the log beside each request.")],
    role: Annotated[str, typer.Option(help="score, review (and all of score) or admin (everything).")] = "score",
    as_json: Json = False,
) -> None:
    """Make an API key: shows it once, with the item for FRAUD_API_KEYS that lets it in."""
    choice("--role", role, ("score", "review", "admin"))
    with one_line():
        from .apikey import make_api_key

        made = make_api_key(name, role)  # type: ignore[arg-type]  # checked above
    facts = {"name": name, "role": role, "key": made.secret, "item": made.item}
    print_result(as_json, facts, f"X-API-Key: {made.secret}  (not shown again)\nFRAUD_API_KEYS item: {made.item}")


@app.command()
def publish(
    bundle: Annotated[Path, typer.Option(help="The sealed bundle, or a folder with 'current'.")] = Path("models"),
    source: Annotated[
        str | None, typer.Option("--from", help="In place of --bundle: mlflow:models:/fraud@champion.")
    ] = None,
    to: Annotated[
        str, typer.Option(help="Pointer to move: file://models/current or s3://bucket/models/current.")
    ] = "file://models/current",
    stack: Stack = None,
    region: Region = None,
    key: Annotated[Path | None, typer.Option(help="Private key that signs the pointer.")] = None,
    force: Annotated[bool, typer.Option(help="Publish past the gate.")] = False,
    rotate: Annotated[bool, typer.Option(help="With --stack: sign with a new release key.")] = False,
    keys: Keys = Path("keys"),
    as_json: Json = False,
) -> None:
    """Check the gate, copy the bundle, move the signed pointer. With --stack: to a deployed stack."""
    with one_line(), TemporaryDirectory() as scratch:
        if source:
            from .tracking import fetch

            bundle = fetch(source, Path(scratch))
        if stack:
            from .stack import publish_to_stack

            done = publish_to_stack(stack, bundle, region=region, keys_dir=keys, rotate=rotate, force=force)
            facts: dict[str, Any] = {
                "to": done.url,
                "version": done.version,
                "serial": done.serial,
                "key_id": done.key_id,
            }
        else:
            from fraud_api_lambda.bundle import SigningKey

            from .evaluate import sealed_folder, trusted_keys
            from .publish import publish as send

            signing = SigningKey.load(key or keys / "development.key")
            trusted = trusted_keys(keys)
            pointer = send(sealed_folder(bundle, trusted), to, signing, trusted, force=force)
            facts = {"to": to, "version": pointer.version, "serial": pointer.serial, "key_id": pointer.key_id}
    print_result(as_json, facts, f"{facts['to']} -> {facts['version']} (serial {facts['serial']})")


@app.command()
def rollback(
    at: Annotated[str, typer.Option(help="Pointer to move back.")] = "file://models/current",
    to: Annotated[str | None, typer.Option(help="Version; default: the one before the current.")] = None,
    stack: Stack = None,
    region: Region = None,
    key: Annotated[Path | None, typer.Option(help="Private key that signs the pointer.")] = None,
    keys: Keys = Path("keys"),
    as_json: Json = False,
) -> None:
    """Point back at a version that was published before. The serial grows all the same."""
    with one_line():
        if stack:
            from .stack import rollback_stack

            done = rollback_stack(stack, region=region, keys_dir=keys, to=to)
            facts = {"at": done.url, "version": done.version, "serial": done.serial}
        else:
            from fraud_api_lambda.bundle import SigningKey

            from .evaluate import trusted_keys
            from .publish import rollback as back

            pointer = back(at, SigningKey.load(key or keys / "development.key"), trusted_keys(keys), to)
            facts = {"at": at, "version": pointer.version, "serial": pointer.serial}
    print_result(as_json, facts, f"{facts['at']} -> {facts['version']} (serial {facts['serial']})")


@app.command("rollback-code")
def rollback_code(
    stack: Annotated[str, typer.Option(help="Name of a deployed stack.")],
    region: Region = None,
    to: Annotated[str | None, typer.Option(help="Version; default: the one before the current.")] = None,
    as_json: Json = False,
) -> None:
    """Point the alias live of a deployed stack back at a version of the code that ran before."""
    with one_line():
        from dataclasses import asdict

        from .rollback_code import ALIAS
        from .rollback_code import rollback_code as back

        moved = back(stack, region=region, to=to)
        text = f"{moved.function}:{ALIAS} {moved.before} -> {moved.after}"
        print_result(as_json, asdict(moved), f"{text}  {moved.image_after}".rstrip())


@app.command()
def promote(
    challenger: Annotated[str, typer.Option(help="The challenger's pointer.")] = "file://models/challenger",
    to: Annotated[str, typer.Option(help="The champion's pointer, in the same folder.")] = "file://models/current",
    share: Annotated[int, typer.Option(help="Of a hundred customers, how many; 100: all; 0: none.")] = 100,
    key: Annotated[Path | None, typer.Option(help="Private key that signs the pointer.")] = None,
    force: Annotated[bool, typer.Option(help="Promote past the gate.")] = False,
    keys: Keys = Path("keys"),
    as_json: Json = False,
) -> None:
    """Let the challenger answer a share of the customers; without --share make it the champion."""
    with one_line():
        from fraud_api_lambda.bundle import SigningKey

        from .evaluate import trusted_keys
        from .publish import promote as move

        signing = SigningKey.load(key or keys / "development.key")
        pointer = move(challenger, to, signing, trusted_keys(keys), share=share, force=force)
        facts: dict[str, Any] = {"at": to if share == 100 else challenger, "version": pointer.version}
        facts |= {"serial": pointer.serial, "share": share}
    print_result(as_json, facts, f"{facts['at']} -> {facts['version']} (serial {facts['serial']}, share {share} %)")


@app.command()
def demo(
    port: Annotated[int, typer.Option(help="Of the API.")] = 8000,
    console_port: Annotated[int, typer.Option(help="Of the console.")] = 8501,
    console: Annotated[bool, typer.Option(help="Serve the console too.")] = True,
) -> None:
    """Everything on this machine: trains the default bundle if there is none, serves API and console."""
    from .demo import demo as serve

    raise typer.Exit(serve(port=port, console_port=console_port, console=console))


@app.command()
def doctor(
    stack: Stack = None,
    region: Region = None,
    as_json: Json = False,
) -> None:
    """Look for what commonly goes wrong here, or with --stack in a deployed stack; exit code 1 where something does."""
    with one_line():
        import os
        from dataclasses import asdict

        from .doctor import examine_machine, examine_stack, table

        findings = examine_machine(os.environ) if stack is None else examine_stack(stack, region=region)
    failed = any(found.state == "failure" for found in findings)
    print_result(as_json, {"ok": not failed, "findings": [asdict(one) for one in findings]}, table(findings))
    raise typer.Exit(int(failed))


@app.command()
def smoke(stack: Annotated[str, typer.Option(help="Name of a deployed stack.")], region: Region = None) -> None:
    """Ask a deployed stack for decisions and check the answers."""
    with one_line():
        from .stack import smoke as check

        check(stack, region=region)


@app.command()
def destroy(
    stack: Annotated[str, typer.Option(help="Name of a deployed stack.")],
    region: Region = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without, only say what would go.")] = False,
) -> None:
    """Empty a stack's buckets and delete the stack and its images."""
    with one_line():
        from .stack import destroy as remove

        for line in remove(stack, region=region, yes=yes):
            typer.echo(line)


commands_records.register(app)
commands_learning.register(app)
commands_drift.register(app)
commands_life.register(app)
commands_cost.register(app)


# --- printing --------------------------------------------------------------------------------------------------------


def _yaml(path: str | None) -> dict[str, Any]:
    """A rates file: ``2026-01-01: {EUR: 1.1}``, units of the base currency for one of the other."""
    if path is None:
        return {}
    import yaml

    from fraud_api_lambda.errors import SettingsError

    try:
        data = yaml.safe_load(Path(path).read_text())
        return {str(day): {str(code): float(rate) for code, rate in rates.items()} for day, rates in data.items()}
    except (OSError, yaml.YAMLError, AttributeError, TypeError, ValueError):
        raise SettingsError(f"{path} is not a rates file such as  2026-01-01: {{EUR: 1.1}}") from None


_HEADLINE = ("average_precision", "roc_auc", "recall", "precision", "f1", "ece", "recall_at_precision_0.9", "cp_at_100")


def _headline(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {name: figures[name] for name in (*_HEADLINE, "fraud_rate") if name in figures}


def _lines(figures: Mapping[str, Any]) -> str:
    rate = figures["fraud_rate"]["weighted"]
    shown = [f"at a fraud rate of {rate:.4%}:"]
    for name, value in figures.items():
        if isinstance(value, float):
            interval = (figures.get("intervals") or {}).get(name)
            around = f"  [{interval['low']:.4f}, {interval['high']:.4f}]" if interval else ""
            shown.append(f"  {name:26} {value:12.4f}{around}")
    return "\n".join(shown)


def _summary(bundle: Path, figures: Mapping[str, Any], cross: Mapping[str, Any] | None, seconds: float) -> str:
    parts = [_lines(figures)]
    if cross:
        parts.append(f"{cross['folds']}-fold cross-validation, {_lines(cross)}")
    parts.append(f"{bundle}  ({seconds:.0f} s)")
    parts.append(f"serve it: python -m training publish --bundle {bundle}")
    return "\n".join(parts)


if __name__ == "__main__":
    app()
