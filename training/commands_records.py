"""The commands over large files and over the decision log. ``__main__`` takes them in."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from .cli import Data, Engine, Format, Json, Keys, Mapping_, Scheduler, Where, on_cluster, one_line, print_result, steps

Log = Annotated[str | None, typer.Option("--log", help="Decision log's URL; default: FRAUD_DECISION_LOG_URL.")]
Store = Annotated[str | None, typer.Option("--store", help="Feature store's URL; default: FRAUD_FEATURE_STORE_URL.")]
#: Nobody waits with money in his hand: what a call of a store may take, in ms.
_PATIENT_MS = 30_000


def register(app: typer.Typer) -> None:
    """Make these commands of ``app``."""
    for command in (score, reproduce, rebuild_profiles, export, erase, forget):
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
    engine: Engine = "here",
    scheduler: Scheduler = None,
    keys: Keys = Path("keys"),
    as_json: Json = False,
) -> None:
    """Judge every row of a file of any size; a run that was killed is gone on with."""
    cluster = on_cluster(engine, scheduler)
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
        if cluster is None:
            result = scoring.score(served, options, progress=progress)
        else:
            from .distributed import score_file

            told_rules = None if rules is None else rules.read_bytes()
            result = score_file(served, options, cluster, rules=told_rules, progress=progress)
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


@contextmanager
def _opened(opened: Any) -> Iterator[Any]:
    try:
        yield opened
    finally:
        opened.close()


def open_log(url: str | None) -> Any:
    """The log as it is: a file that is not there would be made empty, and is refused."""
    from fraud_api_lambda.decision_log import open_decision_log
    from fraud_api_lambda.errors import SettingsError
    from fraud_api_lambda.sqlite_file import path_of

    url = url or read_environment().decision_log_url
    if url.startswith("sqlite:") and not (path := path_of(url, "decision log", "dynamodb://table")).is_file():
        raise SettingsError(f"There is no decision log at {path}.")
    return _opened(open_decision_log(url, budget_ms=_PATIENT_MS))


def _store(url: str | None) -> Any:
    from fraud_api_lambda.feature_store import open_feature_store

    return _opened(open_feature_store(url or read_environment().feature_store_url, budget_ms=_PATIENT_MS))


def reproduce(
    transaction_id: Annotated[str, typer.Argument(help="The transaction's id.")],
    log: Log = None,
    bundle: Annotated[str | None, typer.Option(help="A bundle, or the folder that holds its version.")] = None,
    model_url: Annotated[
        str | None, typer.Option(help="In place of --bundle: a pointer beside which it lies; default: FRAUD_MODEL_URL.")
    ] = None,
    rules: Annotated[Path | None, typer.Option(help="Rules file that decided in place of the bundle's.")] = None,
    keys: Keys = Path("keys"),
    as_json: Json = False,
) -> None:
    """Make a recorded decision once more and compare: exit code 0 where it is equal to the bit, else 1."""
    with one_line(), open_log(log) as opened:
        from dataclasses import asdict

        from fraud_api_lambda.schemas import pseudonyms_of

        from . import reproduce as again

        settings = read_environment()
        record = again.find(opened, transaction_id)
        served = again.bundle_of(record, bundle or model_url or settings.model_url, keys)
        judged_by = again.rules_of(record, served, rules, pseudonyms_of(settings.pseudonym_key))
        found = again.reproduce(record, served, judged_by)
    facts = {
        "transaction_id": transaction_id,
        "equal": not found,
        "differences": [asdict(difference) for difference in found],
        "model_version": record.model_version,
        "rules_version": record.rules_version,
    }
    lines = [f"{one.field}: recorded {one.recorded!r}, now {one.again!r}" for one in found]
    by = (
        f"{record.outcome} by {record.decided_by}, model {record.model_version or 'none'}, rules {record.rules_version}"
    )
    print_result(as_json, facts, "\n".join(lines) or f"equal to the bit: {by}")
    if found:
        raise typer.Exit(1)


def rebuild_profiles(
    log: Log = None,
    store: Store = None,
    work: Annotated[Path, typer.Option(help="Where it works; a run that was killed is gone on with there.")] = Path(
        "data/rebuild.work"
    ),
    as_json: Json = False,
) -> None:
    """Make all profiles anew from the log, in place of the store's. Into a fresh store, or while nobody writes."""
    with one_line(), open_log(log) as opened, _store(store) as target, steps() as progress:
        from dataclasses import asdict

        from .rebuild import rebuild

        done = rebuild(opened, target, work, progress=progress)
    print_result(
        as_json, asdict(done), f"{done.parties:,} profiles from {done.records:,} records and {done.labels:,} labels"
    )


def export(
    out: Annotated[Path, typer.Option(help="Result: .parquet (to train on) or .jsonl (whole records).")],
    log: Log = None,
    since: Annotated[str | None, typer.Option(help="Arrived from then on: 2026-02-06, or with a time (UTC).")] = None,
    until: Annotated[str | None, typer.Option(help="Arrived before.")] = None,
    labelled_only: Annotated[bool, typer.Option("--labelled-only", help="Leave out what nobody has labelled.")] = False,
    as_json: Json = False,
) -> None:
    """Take records with their labels out of the log, oldest first."""
    with one_line(), open_log(log) as opened, steps() as progress:
        from . import records

        count = records.export(
            opened,
            out,
            since_ms=moment("--since", since),
            until_ms=moment("--until", until),
            labelled_only=labelled_only,
            progress=progress,
        )
    print_result(as_json, {"out": str(out), "records": count}, f"{out}: {count:,} records")


def erase(
    party: Annotated[str, typer.Option(help="Id of a customer, counterparty or device, as it was sent.")],
    log: Log = None,
    store: Store = None,
    outbox: Annotated[str | None, typer.Option(help="Outbox's URL; default: FRAUD_OUTBOX_URL.")] = None,
    as_json: Json = False,
) -> None:
    """Erase one party: every record that names it, its profile, what waits. Exit code 1: nothing is known of it."""
    with one_line(), open_log(log) as opened, _store(store) as profiles:
        from fraud_api_lambda.outbox import open_outbox
        from fraud_api_lambda.schemas import pseudonyms_of

        from . import records

        settings = read_environment()
        known_as = pseudonyms_of(settings.pseudonym_key).of(party)
        with _opened(open_outbox(outbox or settings.outbox_url, budget_ms=_PATIENT_MS)) as waiting:
            done = records.erase(known_as, opened, profiles, waiting)
    told = "the outbox cannot be looked through" if done.waiting is None else f"{done.waiting:,} waiting items"
    profile = "the profile" if done.profile else "no profile"
    nothing = f"nothing is known of this party; {told}. Is the id as sent, FRAUD_PSEUDONYM_KEY as in the service?"
    print_result(
        as_json,
        {"records": done.records, "profile": done.profile, "waiting": done.waiting},
        f"erased: {done.records:,} records, {profile}, {told}" if done.anything else nothing,
    )
    if not done.anything:
        raise typer.Exit(1)


def forget(
    older_than: Annotated[
        int | None, typer.Option(help="Days since arrival; default: FRAUD_RETENTION_DAYS.", min=1, max=36_500)
    ] = None,
    log: Log = None,
    as_json: Json = False,
) -> None:
    """Delete the records, with their labels, that are older than so many days."""
    with one_line(), open_log(log) as opened:
        from fraud_api_lambda.errors import SettingsError
        from fraud_api_lambda.schemas import now_ms

        from . import records

        days = older_than or read_environment().retention_days
        if days is None:
            raise SettingsError("Say how old: --older-than DAYS, or FRAUD_RETENTION_DAYS.")
        count = records.forget(opened, days, now_ms())
    print_result(as_json, {"records": count, "days": days}, f"{count:,} records older than {days} days are deleted")


def moment(option: str, text: str | None) -> int | None:
    """A day or a time as ms of UTC."""
    if text is None:
        return None
    from datetime import UTC, datetime

    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        typer.echo(f"error: {option} is a day or a time such as 2026-02-06 or 2026-02-06T10:00:00Z.", err=True)
        raise typer.Exit(2) from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
