"""The commands by which a model is renewed: one step by a written policy, and the whole life in one go."""

from pathlib import Path
from typing import Annotated

import typer

from .cli import Json, Keys, LegitWeight, Mapping_, Seed, Where, one_line, print_result, steps
from .commands_records import Log, open_log, read_environment


def register(app: typer.Typer) -> None:
    """Make these commands of ``app``."""
    for command in (retrain, simulate):
        app.command()(command)


def retrain(
    policy: Annotated[
        Path | None, typer.Option(help="Policy file; default: the one beside the code, training/retrain_policy.yaml.")
    ] = None,
    log: Log = None,
    base: Annotated[str | None, typer.Option(help="Labelled data from before the log, as for run.")] = None,
    format: Annotated[
        str, typer.Option(help="Of --base: paysim, handbook, csv (with --mapping) or synthetic.")
    ] = "csv",
    mapping: Mapping_ = None,
    where: Where = None,
    legit_weight: LegitWeight = 1.0,
    champion: Annotated[str | None, typer.Option(help="The champion's pointer; default: FRAUD_MODEL_URL.")] = None,
    challenger: Annotated[
        str | None,
        typer.Option(
            help="The challenger's, in the same folder; default: FRAUD_CHALLENGER_URL, else 'challenger' there."
        ),
    ] = None,
    tune: Annotated[int, typer.Option(help="Candidates the search tries; 0: none.", min=0, max=500)] = 4,
    out: Annotated[Path, typer.Option(help="Folder for retrain.json and retrain.txt.")] = Path("out/retrain"),
    work: Annotated[Path, typer.Option(help="Where it works, and what keeps two runs apart.")] = Path("data/retrain"),
    key: Annotated[Path | None, typer.Option(help="Private key that signs bundle and pointers.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Train and judge, and move no pointer.")] = False,
    keys: Keys = Path("keys"),
    as_json: Json = False,
) -> None:
    """Train from the log, judge against the champion, publish and promote as the policy says; one step a run.

    Exit codes: 0 promoted, 3 a challenger stands beside the champion, 4 nothing published, 1 an error.
    """
    with one_line(), open_log(log) as opened, steps() as progress:
        from fraud_api_lambda.bundle import SigningKey, split_url
        from fraud_api_lambda.schemas import now_ms, pseudonyms_of

        from . import retrain as renewal
        from .backtest import rules_at
        from .evaluate import trusted_keys

        settings = read_environment()
        champion_url = champion or settings.model_url
        challenger_url = challenger or settings.challenger_url or f"{split_url(champion_url)[0]}/challenger"
        setting = renewal.Setting(
            champion_url=champion_url,
            challenger_url=challenger_url,
            key=SigningKey.load(key or keys / "development.key"),
            keys=trusted_keys(keys),
            work=work,
            now_ms=now_ms(),
            base=None if base is None else renewal.Base(base, format, mapping, tuple(where or ()), legit_weight),
            rules=rules_at(settings.rules_url) if settings.rules_url else None,
            pseudonyms=pseudonyms_of(settings.pseudonym_key),
            tune=tune,
            dry_run=dry_run,
        )
        asked = renewal.read_policy(policy or renewal.DEFAULT_POLICY)
        try:
            report = renewal.retrain(opened, asked, setting, progress=progress)
        except renewal.Busy as busy:
            typer.echo(f"error: {busy}", err=True)
            raise typer.Exit(renewal.EXIT_CODES["nothing"]) from None
        files = report.write(out)
    print_result(as_json, report.as_json(), "\n".join((report.text(), "", *map(str, files))))
    raise typer.Exit(report.exit_code)


def simulate(
    out: Annotated[Path, typer.Option(help="An empty folder: databases, models, reports, life.json, .txt, .png.")],
    weeks: Annotated[int, typer.Option(help="Weeks of service.", min=1, max=104)] = 13,
    rows: Annotated[int, typer.Option(help="Transactions a week.", min=500, max=1_000_000)] = 8_000,
    new_week: Annotated[
        int | None, typer.Option(help="Week in which a new kind of fraud comes; default: 7, or the middle.", min=1)
    ] = None,
    seed: Seed = 7,
    policy: Annotated[Path | None, typer.Option(help="Policy file of retrain; default: one for such a life.")] = None,
    as_json: Json = False,
) -> None:
    """The whole life in one go: new fraud, drift, a challenger, its promotion; with and without retraining."""
    with one_line(), steps() as progress:
        from . import simulate as living
        from . import simulate_report

        plan = living.Plan(
            weeks=weeks,
            rows_a_week=rows,
            new_week=new_week or min(7, weeks // 2 + 1),
            seed=seed,
            policy=living.POLICY if policy is None else policy.read_text(encoding="utf-8"),
        )
        life = living.simulate(plan, out, progress=progress)
        shown = simulate_report.text(life)
    print_result(as_json, life.as_json(), f"{shown}\n\n{out / 'life.png'}")
