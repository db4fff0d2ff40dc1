"""A simulated life for people: a table, and the picture of what renewing the model was worth."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from matplotlib.figure import Figure

from .report import ACCENT, FRAUD, GREY, SECOND, drawn

if TYPE_CHECKING:
    from .simulate import Life, Step, Week

#: Drifting things that a line names.
_NAMED: Final = 3


def write(life: "Life", out: Path) -> list[Path]:
    """``life.json``, ``life.txt`` and ``life.png`` in the folder ``out``."""
    files = {
        "life.json": json.dumps(life.as_json(), indent=1, allow_nan=False).encode() + b"\n",
        "life.txt": text(life).encode() + b"\n",
        "life.png": picture(life),
    }
    for name, data in files.items():
        (out / name).write_bytes(data)
    return [out / name for name in files]


# --- text ------------------------------------------------------------------------------------------------------------


def text(life: "Life") -> str:
    """A line for each week, and below it one for each retraining."""
    return "\n".join(_lines(life))


def _lines(life: "Life") -> Iterator[str]:
    plan = life.plan
    yield (
        f"A new kind of fraud from week {plan.new_week} on; {plan.rows_a_week:,} transactions a week, seed "
        f"{plan.seed}. Average precision by week:"
    )
    yield ""
    yield "week  frauds (new)  with retraining        without: frozen        drift"
    for week in life.weeks:
        frauds = f"{week.frauds:>6} {f'({week.new_frauds})':>5}"
        own, frozen = _figure(week.average_precision, week.interval), _figure(week.frozen, week.frozen_interval)
        yield f"{week.week:>4}  {frauds}  {own}  {frozen}  {_drift(week)}"
        for step in life.steps:
            if step.week == week.week:
                yield f"      day {step.day:g}, {step.reason}: {step.report['why']}"
    after = [week for week in life.weeks if week.week >= plan.new_week]
    yield ""
    mean = f"{_mean(after, 'average_precision')} with, {_mean(after, 'frozen')} without"
    yield f"mean from week {plan.new_week} on: {mean} retraining"


def _figure(value: float, interval: tuple[float, float] | None) -> str:
    return f"{value:.3f} " + (f"[{interval[0]:.3f}, {interval[1]:.3f}]" if interval else " " * 14)


def _drift(week: "Week") -> str:
    told = []
    for name in week.drift[:_NAMED]:
        found = week.psi.get(name)
        told.append(name if found is None else f"{name} (PSI {found[0]:.2f}, limit {found[1]:.2f})")
    more = f" and {len(week.drift) - _NAMED} more" if len(week.drift) > _NAMED else ""
    return ", ".join(told) + more or "quiet"


def _mean(weeks: "list[Week]", name: str) -> str:
    return f"{sum(getattr(week, name) for week in weeks) / len(weeks):.3f}" if weeks else "-"


# --- the picture -----------------------------------------------------------------------------------------------------


def picture(life: "Life") -> bytes:
    """A PNG: average precision by week with and without retraining, and what happened when."""
    with drawn() as png:
        figure = Figure(figsize=(9.6, 4.6), layout="constrained")
        _draw(figure.subplots(), life)
        return png(figure)


def _draw(ax: Any, life: "Life") -> None:
    numbers = [week.week for week in life.weeks]
    for name, interval, colour, label in (
        ("frozen", "frozen_interval", GREY, "first model, never retrained"),
        ("average_precision", "interval", ACCENT, "retrained by policy"),
    ):
        ax.plot(numbers, [getattr(week, name) for week in life.weeks], "o-", color=colour, label=label)
        known = [(week.week, *bounds) for week in life.weeks if (bounds := getattr(week, interval)) is not None]
        if known:
            ax.fill_between(*zip(*known, strict=True), color=colour, alpha=0.15, lw=0)
    new = life.plan.new_week - 0.5
    ax.axvspan(new, numbers[-1] + 0.5, color=FRAUD, alpha=0.05, lw=0)
    ax.text(new + 0.08, 0.02, "a new kind of fraud, instant transfers", color=FRAUD, va="bottom")
    drifting = [week.week for week in life.weeks if week.drift]
    ax.plot(drifting, [0.09] * len(drifting), "v", color=SECOND, label="drift named in the week's look", ls="none")
    for step in life.steps:
        if step.report["outcome"] == "promoted":
            ax.axvline(_at(step), color=ACCENT, lw=1, ls="--", label=_once(ax, "challenger promoted"))
        elif any(verdict["trained"] for verdict in step.report["verdicts"]):
            published = step.report["outcome"] == "published"
            label = "challenger published" if published else "retrained, not published"
            ax.plot(_at(step), 0.15, "^" if published else "x", color=ACCENT, ls="none", label=_once(ax, label))
    ax.set(xlim=(numbers[0] - 0.5, numbers[-1] + 0.5), ylim=(0, 1.02), xlabel="week", ylabel="average precision")
    ax.set_xticks(numbers)
    ax.legend(loc="lower left", bbox_to_anchor=(0.0, 0.17), fontsize=8)
    ax.set_title("One model's life, with and without retraining")


def _at(step: "Step") -> float:
    """Where a moment lies between weeks that are drawn at their middle."""
    return step.week - 0.5 + step.day / 7


def _once(ax: Any, label: str) -> str | None:
    return None if label in ax.get_legend_handles_labels()[1] else label
