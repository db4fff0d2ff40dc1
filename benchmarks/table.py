"""``python -m benchmarks.table``: what was promised, and what the last measurements say; from ``results.json`` alone.

Prints the table, writes it into docs/performance.md between its two marks, and draws docs/images/bench.svg.
"""

import json
from dataclasses import dataclass
from typing import Any, Literal

from . import RESULTS, ROOT

PAGE = ROOT / "docs" / "performance.md"
PICTURE = ROOT / "docs" / "images" / "bench.svg"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


@dataclass(frozen=True)
class Claim:
    """One row: what must be reached ``at_least`` and what is aimed at, and where in the results it stands."""

    what: str
    at_least: float
    aim: float
    path: tuple[str, ...]
    better: Literal["more", "less"] = "more"

    @property
    def command(self) -> str:
        return f"python -m benchmarks.{self.path[0].removesuffix('_large')}"

    def found(self, results: dict[str, Any]) -> tuple[float, str] | None:
        """The median, and the middle half where there is one; None: not measured yet."""
        value: Any = results
        for part in self.path:
            if part not in value:
                return None
            value = value[part]
        if isinstance(value, dict):
            return value["median"], f"{shown(value['low'])}-{shown(value['high'])}"
        return float(value), ""

    def verdict(self, value: float) -> str:
        def reached(limit: float) -> bool:
            return value >= limit if self.better == "more" else value <= limit

        return "aim reached" if reached(self.aim) else "reached" if reached(self.at_least) else "**missed**"


_COLD, _REQUEST = ("cold", "ratios"), ("request", "ratios")
CLAIMS = (
    Claim(
        "import + first answer, whole process, CPU: predecessors / ours", 5, 7, (*_COLD, "predecessors / ours, CPU")
    ),
    Claim("the same: ours / null", 1.5, 1.2, (*_COLD, "ours / null, CPU"), "less"),
    Claim("warm `/predict` p50 in process: predecessors / ours", 30, 45, (*_REQUEST, "predecessors / ours")),
    Claim("the same: ours / null", 3, 2, (*_REQUEST, "ours / null"), "less"),
    Claim("with exact reasons: ours / null", 6, 4, (*_REQUEST, "with exact reasons / null"), "less"),
    Claim(
        "through the Lambda emulator, warm p50: predecessors / ours", 8, 12,
        ("emulator", "ratios", "predecessors / ours"),
    ),
    Claim("full path, requests/s, 16 at once: ours / null", 0.15, 0.30, ("server", "16 at once", "ours / null")),
    Claim("store round trips a request, network stores", 3, 2, ("trips", "most"), "less"),
    Claim(
        "peak memory of the serving process: predecessors / ours", 4, 6, (*_COLD, "predecessors / ours, peak memory")
    ),
    Claim("serving dependencies on disk: predecessors / ours", 8, 20, ("disk", "predecessors / ours")),
    Claim("batch scoring in training: ours / `inplace_predict`", 0.95, 1.0, ("batch", "training / inplace_predict")),
    Claim(
        "`/predict/batch`, scoring alone, rows per CPU second", 40_000, 100_000, ("batch", "service, rows per CPU s")
    ),
    Claim(
        "offline features, one core, full set, rows/s", 300_000, 1_000_000,
        ("replay", "generator", "replay", "rows_per_s"),
    ),
    Claim("training on 1.17 million rows, CPU: predecessors / ours", 2, 4, ("training", "predecessors / ours, CPU")),
    Claim("training on 6.3 million rows, peak MB", 8_000, 8_000, ("training_large", "ours", "peak_mb"), "less"),
    Claim(
        "`make run` on a prepared clone until the first answer, s", 3, 1.5,
        ("make_run", "until /predict answers"), "less",
    ),
)  # fmt: skip


def shown(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def read() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(RESULTS.read_text())
    return found


def rows(results: dict[str, Any]) -> list[str]:
    """The table in Markdown."""
    lines = ["| figure | at least | aim | measured | middle half | | command |", "|---|---|---|---|---|---|---|"]
    for claim in CLAIMS:
        found = claim.found(results)
        sign = ">=" if claim.better == "more" else "<="
        limits = f"{sign} {claim.at_least:,g} | {claim.aim:,g}"
        told = "- | | not measured" if found is None else f"{shown(found[0])} | {found[1]} | {claim.verdict(found[0])}"
        lines.append(f"| {claim.what} | {limits} | {told} | `{claim.command}` |")
    return lines


def page(text: str, results: dict[str, Any]) -> str:
    """``text`` with the table between its marks."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return "\n".join([before + BEGIN, *rows(results), END + after])


def draw(results: dict[str, Any]) -> None:
    """How far each figure is beyond what was promised, on a scale on which 1 is the promise."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "bench"
    import matplotlib.pyplot as plt

    told = [(claim, found[0]) for claim in CLAIMS if (found := claim.found(results)) is not None]
    figure, place = plt.subplots(figsize=(8, 0.3 * len(told) + 0.8), constrained_layout=True)
    for at, (claim, value) in enumerate(reversed(told)):
        reach, aim = (
            (value / claim.at_least, claim.aim / claim.at_least)
            if claim.better == "more"
            else (claim.at_least / value, claim.at_least / claim.aim)
        )
        place.barh(at, reach, height=0.6, color="#3f6fb5" if reach >= 1 else "#c0504d")
        place.plot([aim, aim], [at - 0.4, at + 0.4], color="black", lw=1)
    place.axvline(1, color="grey", lw=1)
    place.set_xscale("log")
    place.set_yticks(range(len(told)), [claim.what.replace("`", "") for claim, _ in reversed(told)], fontsize=7)
    place.tick_params(axis="x", labelsize=7)
    place.set_xlabel("measured / promised (black: the aim)", fontsize=8)
    figure.savefig(PICTURE, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    results = read()
    print("\n".join(rows(results)))
    PAGE.write_text(page(PAGE.read_text(), results))
    draw(results)


if __name__ == "__main__":
    main()
