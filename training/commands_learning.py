"""The commands that try a change before it goes live. ``__main__`` takes them in."""

from pathlib import Path
from typing import Annotated, Any

import typer

from .cli import Format, Json, Keys, Mapping_, Where, one_line, print_result, steps
from .commands_records import moment, open_log, read_environment


def register(app: typer.Typer) -> None:
    """Make these commands of ``app``."""
    app.command()(backtest)


def backtest(
    out: Annotated[Path, typer.Option(help="Folder for backtest.txt, backtest.json, backtest.png.")] = Path(
        "out/backtest"
    ),
    log: Annotated[
        str | None, typer.Option("--log", help="Decision log's URL; default without --data: FRAUD_DECISION_LOG_URL.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="In place of the log: a labelled file, as for run.")] = None,
    format: Format = "csv",
    mapping: Mapping_ = None,
    where: Where = None,
    rules: Annotated[Path | None, typer.Option(help="Rules file to try; default: the rules in force.")] = None,
    review: Annotated[float | None, typer.Option(help="Review threshold to try, with --decline.")] = None,
    decline: Annotated[float | None, typer.Option(help="Decline threshold to try, with --review.")] = None,
    bundle: Annotated[
        str | None, typer.Option(help="Bundle to try: scores anew, with its own rules unless --rules is given.")
    ] = None,
    model_url: Annotated[
        str | None, typer.Option(help="The bundle in force: a bundle, a folder or a URL; default: FRAUD_MODEL_URL.")
    ] = None,
    since: Annotated[str | None, typer.Option(help="Arrived from then on: 2026-02-06, or with a time (UTC).")] = None,
    until: Annotated[str | None, typer.Option(help="Arrived before.")] = None,
    review_cost: Annotated[float | None, typer.Option(help="Of one review; default: the bundle's.", min=0)] = None,
    false_decline_cost: Annotated[
        float | None, typer.Option(help="Of declining a legitimate transaction; default: the bundle's.", min=0)
    ] = None,
    reviews_per_day: Annotated[
        float | None, typer.Option(help="What people can review; default: the bundle's share.", min=0)
    ] = None,
    keys: Keys = Path("keys"),
    as_json: Json = False,
) -> None:
    """What other rules, thresholds or another bundle would have decided: flips, money, reviews, rules, costs."""
    _options(log, data, (rules, review, bundle), review, decline)
    with one_line(), steps() as progress:
        from dataclasses import asdict, replace

        from fraud_api_lambda.backtest import REPORT, Costs, sealed_costs
        from fraud_api_lambda.schemas import Thresholds, now_ms, pseudonyms_of

        from . import backtest as trying
        from . import backtest_report, dataset, evaluate

        settings = read_environment()
        served = evaluate.open_for_evaluation(model_url or settings.model_url, keys)
        file = trying.rules_at(settings.rules_url) if settings.rules_url else None
        served = trying.with_rules(served, file)
        other = evaluate.open_for_evaluation(bundle, keys) if bundle else served
        other = trying.with_rules(other, file if rules is None else rules.read_bytes())
        pseudonyms = None if data else pseudonyms_of(settings.pseudonym_key)
        if pseudonyms is not None:
            other = replace(other, rules=other.rules.under(pseudonyms))
        pair = None if review is None or decline is None else Thresholds(review, decline)
        change = trying.Change(other, pair, rescore=bundle is not None, without_model=settings.without_model)
        given = {
            name: value
            for name, value in (
                ("review_cost", review_cost),
                ("false_decline_cost", false_decline_cost),
                ("reviews_per_day", reviews_per_day),
            )
            if value is not None
        }
        costs = Costs(**{**asdict(sealed_costs(served.bundle.manifest.training)), **given})
        begin, end = moment("--since", since), moment("--until", until)
        if data is not None:
            progress("reading")
            frame = dataset.load(data, format, mapping=mapping, where=tuple(where or ()))
            progress("deciding")
            report = trying.on_file(frame, served, change, costs, since_ms=begin, until_ms=end, progress=progress)
        else:
            with open_log(log) as opened:
                progress("deciding")
                report = trying.on_log(
                    opened, change, costs, now_ms=now_ms(), since_ms=begin, until_ms=end, progress=progress
                )
        files = backtest_report.write(report, out)
        facts: dict[str, Any] = REPORT.dump_python(report, mode="json")
        shown = backtest_report.text(report)
    print_result(as_json, facts, "\n".join((shown, *map(str, files))))


def _options(
    log: str | None, data: str | None, tried: tuple[Any, ...], review: float | None, decline: float | None
) -> None:
    """End with exit code 2 where the options do not go together."""
    wrong = None
    if log is not None and data is not None:
        wrong = "give either --log or --data."
    elif all(each is None for each in tried) and decline is None:
        wrong = "nothing is changed: give --rules, --review and --decline, or --bundle."
    elif (review is None) != (decline is None):
        wrong = "--review and --decline are given together."
    elif review is not None and decline is not None and not 0 < review <= decline < 1:
        wrong = "thresholds must be 0 < --review <= --decline < 1."
    if wrong:
        typer.echo(f"error: {wrong}", err=True)
        raise typer.Exit(2)
