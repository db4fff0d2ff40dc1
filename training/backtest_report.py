"""A back-test for people: text and a picture, beside the same as JSON."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure

from fraud_api_lambda.backtest import REPORT, Count, Figures, Report, RuleFigures, Share
from fraud_api_lambda.settings import Outcome

from .report import ACCENT, FRAUD, GREY, LEGIT, SECOND, drawn

_OUTCOMES: Final[tuple[Outcome, ...]] = ("approve", "review", "decline")
_LABELS: Final = (("fraud", FRAUD), ("legitimate", LEGIT), ("unlabelled", GREY))
#: Rules that the picture has room for: those with the most hits.
_RULES: Final = 12
_SHOWN: Final = 10


def write(report: Report, out: Path) -> list[Path]:
    """``backtest.txt``, ``.json`` and ``.png`` in the folder ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    files = {
        "backtest.txt": text(report).encode() + b"\n",
        "backtest.json": REPORT.dump_json(report, indent=1),
        "backtest.png": picture(report),
    }
    for name, data in files.items():
        (out / name).write_bytes(data)
    return [out / name for name in files]


# --- text ------------------------------------------------------------------------------------------------------------


def text(report: Report) -> str:
    """The figures in lines of at most 120 characters, ids aside."""
    return "\n".join(_lines(report))


def _lines(report: Report) -> Iterator[str]:
    span = f", {report.first[:10]} to {report.last[:10]}" if report.first and report.last else ""
    left = "".join(f", {n:,} left out ({why})" for why, n in report.left_out.items())
    yield f"{report.decisions:,} decisions{span}{left}: {report.flipped:,} would be another one."
    scores = "scored anew" if report.rescored else "probabilities as they were"
    pair = report.thresholds
    thresholds = f"thresholds {pair.review:.4f} and {pair.decline:.4f}" if pair else "thresholds as they were"
    yield f"model {report.model_version} ({scores}), rules {report.rules_version}, {thresholds}"
    yield ""
    before, after = report.before, report.after
    rows: list[tuple[str, str, str]] = [("", "before", "after")]
    rows += [(outcome, f"{before.outcomes[outcome]:,}", f"{after.outcomes[outcome]:,}") for outcome in _OUTCOMES]
    rows += [
        ("reviews a day", f"{before.reviews_per_day:,.1f}", f"{after.reviews_per_day:,.1f}"),
        (f"  of {report.capacity_per_day:,.1f} that people can do", _used(before), _used(after)),
        ("  days with more", f"{before.days_over_capacity:,}", f"{after.days_over_capacity:,}"),
        ("declines a day", f"{before.declines_per_day:,.1f}", f"{after.declines_per_day:,.1f}"),
        ("frauds among what is flagged", _share(before.precision), _share(after.precision)),
        ("frauds that are flagged", _share(before.recall), _share(after.recall)),
        (f"cost of reviews ({report.base_currency})", f"{before.cost.reviews:,.0f}", f"{after.cost.reviews:,.0f}"),
        ("cost of missed frauds", f"{before.cost.missed_frauds:,.0f}", f"{after.cost.missed_frauds:,.0f}"),
        ("cost of false declines", f"{before.cost.false_declines:,.0f}", f"{after.cost.false_declines:,.0f}"),
        ("cost", f"{before.cost.total:,.0f}", f"{after.cost.total:,.0f}"),
    ]
    yield from _table(rows)
    yield ""
    money = report.money
    for what, count in (
        ("fraud caught that was approved", money.fraud_caught),
        ("fraud lost that was flagged", money.fraud_lost),
        ("legitimate held that was approved", money.legitimate_held),
        ("legitimate released that was flagged", money.legitimate_released),
        ("without a label, held", money.unlabelled_held),
        ("without a label, released", money.unlabelled_released),
    ):
        yield f"{what:37} {_count(count, report.base_currency)}"
    if report.rules:
        yield ""
        head = ("rule", "says", "hits", "before", "fraud", "legit", "precision", "alone", "of it fraud")
        yield from _table([head, *(_rule(rule) for rule in report.rules)])
    if report.examples:
        yield ""
        yield f"most money of the {report.flipped:,} that would be another one:"
        for flip in report.examples[:_SHOWN]:
            why = f"  ({', '.join(flip.rules_after)})" if flip.rules_after else ""
            label = "no label" if flip.label == "none" else flip.label
            yield f"  {flip.transaction_id}  {flip.amount:,.2f}  {label}  {flip.before} -> {flip.after}{why}"
    for note in report.notes:
        yield ""
        yield note


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    for first, *others in rows:
        cells = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
        yield "  ".join((first.ljust(widths[0]), *cells)).rstrip()


def _rule(rule: RuleFigures) -> tuple[str, ...]:
    says = (rule.outcome or "not there now") + ("" if rule.enabled or rule.outcome is None else " (disabled)")
    return (
        rule.id + (f" (failed {rule.failed:,} times)" if rule.failed else ""),
        says,
        f"{rule.hits.decisions:,}",
        f"{rule.hits_before:,}",
        f"{rule.hits.fraud:,}",
        f"{rule.hits.legitimate:,}",
        _share(rule.precision),
        f"{rule.alone.decisions:,}",
        f"{rule.alone.fraud:,}",
    )


def _share(share: Share) -> str:
    if share.share is None:
        return "-"
    return f"{share.share:.1%} [{share.low:.1%}, {share.high:.1%}]"


def _used(figures: Figures) -> str:
    return "-" if figures.capacity_used is None else f"{figures.capacity_used:.0%}"


def _count(count: Count, currency: str) -> str:
    return f"{count.decisions:>8,}  {count.amount:>16,.2f} {currency}"


# --- the picture -----------------------------------------------------------------------------------------------------


def picture(report: Report) -> bytes:
    """A PNG: outcomes before and after, money that changes sides, reviews by day, rules with their intervals."""
    with drawn() as png:
        figure = Figure(figsize=(11.0, 7.6), layout="constrained")
        (moves, money), (days, rules) = figure.subplots(2, 2)
        _draw_moves(moves, report)
        _draw_money(money, report)
        _draw_days(days, report)
        _draw_rules(rules, report)
        return png(figure)


def _draw_moves(ax: Any, report: Report) -> None:
    n = np.zeros((3, 3))
    for move in report.moves:
        total = move.fraud.decisions + move.legitimate.decisions + move.unlabelled.decisions
        n[_OUTCOMES.index(move.before), _OUTCOMES.index(move.after)] = total
    ax.imshow(np.log1p(n), cmap="Blues", vmin=0, vmax=max(1.0, float(np.log1p(n).max())) * 1.6, aspect="auto")
    for row in range(3):
        for column in range(3):
            weight = "normal" if row == column else "bold"
            ax.text(column, row, f"{n[row, column]:,.0f}", ha="center", va="center", weight=weight)
    ax.set_xticks(range(3), _OUTCOMES)
    ax.set_yticks(range(3), _OUTCOMES)
    ax.set(xlabel="after", ylabel="before")
    ax.grid(False)
    ax.set_title(f"{report.decisions:,} decisions, {report.flipped:,} of them another one")


def _draw_money(ax: Any, report: Report) -> None:
    money = report.money
    sides = (
        ("approved,\nnow flagged", (money.fraud_caught, money.legitimate_held, money.unlabelled_held)),
        ("flagged,\nnow approved", (money.fraud_lost, money.legitimate_released, money.unlabelled_released)),
    )
    for place, (_, counts) in enumerate(sides):
        for shift, (count, (label, colour)) in enumerate(zip(counts, _LABELS, strict=True)):
            x = place + 0.27 * (shift - 1)
            ax.bar(x, count.amount, 0.25, color=colour, label=label if place == 0 else None)
            ax.annotate(f"{count.decisions:,}", (x, count.amount), (0, 2), textcoords="offset points", ha="center")
    ax.set_xticks(range(2), [name for name, _ in sides])
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    ax.set(ylabel=report.base_currency)
    ax.margins(y=0.12)
    ax.legend()
    ax.set_title("Money that changes sides")


def _draw_days(ax: Any, report: Report) -> None:
    days = np.array([day.day for day in report.by_day], "datetime64[D]")
    ax.plot(days, [day.reviews_before for day in report.by_day], color=GREY, lw=3.5, alpha=0.6, label="reviews before")
    ax.plot(days, [day.reviews_after for day in report.by_day], color=ACCENT, label="reviews after")
    ax.plot(days, [day.declines_after for day in report.by_day], color=FRAUD, lw=1, label="declines after")
    ax.axhline(report.capacity_per_day, color=SECOND, lw=1, ls="--", label="what people can review")
    if len(days):
        ax.set_xlim(days[0] - np.timedelta64(1, "D"), days[-1] + np.timedelta64(1, "D"))
    locator = AutoDateLocator(minticks=2, maxticks=8)  # type: ignore[no-untyped-call]  # as the next
    ax.xaxis.set_major_locator(locator)
    ax.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    ax.margins(y=0.3)
    ax.set_ylim(bottom=0)
    ax.legend(ncols=2, loc="upper left", fontsize=8)
    ax.set_title("By day")


def _draw_rules(ax: Any, report: Report) -> None:
    ranked = sorted((rule for rule in report.rules if rule.outcome is not None), key=lambda r: -r.hits.decisions)
    shown = [rule for rule in ranked if rule.precision.share is not None][:_RULES][::-1]
    for place, rule in enumerate(shown):
        share = rule.precision
        assert share.share is not None  # they were picked so
        ax.plot([share.low or 0.0, share.high or 0.0], [place, place], color=GREY, lw=2)
        ax.plot(share.share, place, "o", color=ACCENT)
        told = f"{rule.id[:32]}: {rule.hits.decisions:,} hits, {rule.alone.decisions:,} alone"
        ax.annotate(told, (0.0, place), (0, 7), textcoords="offset points", fontsize=9)
    ax.set_yticks([])
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.5, max(len(shown), 1)), xlabel="frauds among labelled hits, 95 %")
    ax.set_title("Rules: precision" if shown else "No rule met a labelled decision")
