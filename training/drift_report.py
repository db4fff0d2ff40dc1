"""A look for drift as people read it: text, JSON, a page with pictures.

The look itself is ``fraud_api_lambda.drift``, the very same that the service takes; here it is only shown.
"""

import base64
import html
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fraud_api_lambda import drift
from fraud_api_lambda.decision_log import DecisionLog
from fraud_api_lambda.drift import DriftReport, Finding
from fraud_api_lambda.reload import Served

from .report import ACCENT, CSS, FRAUD, GREY, LEGIT, POLICY

#: Histograms that are drawn: what drifts, and what comes nearest to it.
DRAWN = 12
_WORDS = {
    "drift": "drift",
    "quiet": "quiet",
    "young": "not judged: the log is younger than the parties' past",
    "not enough": "not judged: too little",
}


def look(log: DecisionLog, served: Served, now_ms: int, since_ms: int | None, until_ms: int | None) -> DriftReport:
    """The whole window against the bundle's reference, however many decisions. Raises a ``BundleError`` or
    ``StoreUnavailable``.
    """
    reference = drift.read_reference(served.bundle, served.model.features)
    return drift.measure(log, reference, now_ms, since_ms=since_ms, until_ms=until_ms)


def as_json(report: DriftReport) -> dict[str, Any]:
    """As ``GET /drift`` answers."""
    return asdict(report)


def ranked(report: DriftReport) -> list[Finding]:
    """Features and score, the furthest beyond its limit first, what is not judged last."""
    return sorted((*report.features, report.score), key=lambda found: (found.state not in _JUDGED, -_share(found)))


_JUDGED = frozenset({"drift", "quiet"})


def _share(found: Finding) -> float:
    return 0.0 if found.psi is None or not found.limit else found.psi / found.limit


def verdict(report: DriftReport) -> str:
    if report.alarms:
        return f"DRIFT: {', '.join(report.alarms)}"
    return "quiet: nothing drifts" if report.state == "quiet" else "not enough to say anything"


def text(report: DriftReport) -> str:
    """A table for a terminal."""
    lines = [
        verdict(report),
        f"model {report.model_version}; {report.n:,} decisions from {report.since} to {report.until}"
        + (f", {report.left_out:,} left out" if report.left_out else "")
        + ("" if report.complete else "; not all that there are"),
        "",
        f"{'':34} {'PSI':>7} {'limit':>7} {'KS':>6} {'missing':>8} {'before':>8}",
    ]
    for found in ranked(report):
        mark = "*" if found.alarm else " "
        cells = f"{_number(found.psi):>7} {_number(found.limit):>7} {_number(found.ks, 2):>6}"
        missing = f"{_percent(found.missing):>8} {_percent(found.missing_reference):>8}"
        note = "" if found.state in _JUDGED else f"  {found.state}"
        lines.append(f"{mark} {found.name:32} {cells} {missing}{note}")
    return "\n".join([*lines, "", calibration_line(report)])


def calibration_line(report: DriftReport) -> str:
    own = report.calibration
    if own.ratio is None or own.low is None or own.high is None:
        return f"calibration: too few decisions, days or labels are due ({own.n:,} decisions, {own.labelled:,} labels)"
    told = f"{own.observed:,} frauds where {own.expected:,.1f} were expected, {own.ratio:.2f} times as many"
    return (
        f"calibration: {told} [{own.low:.2f}, {own.high:.2f}], ECE {own.ece:.4f}, of {own.n:,} decisions of "
        f"{own.days} days{' *' if own.alarm else ''}"
    )


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


# --- pictures --------------------------------------------------------------------------------------------------------


def pictures(report: DriftReport) -> dict[str, bytes]:
    """File name -> PNG: all findings against their limits, the histograms of those furthest, calibration."""
    drawn = {"drift.png": _overview(report)}
    nearest = [found for found in ranked(report) if found.histogram.found][:DRAWN]
    if nearest:
        drawn["histograms.png"] = _histograms(nearest)
    if report.calibration.bins:
        drawn["calibration.png"] = _calibration(report)
    return drawn


def _overview(report: DriftReport) -> bytes:
    """One bar each: PSI as a share of the limit, on a scale that shows both a tenth of it and ten times it."""
    found = list(reversed(ranked(report)))
    figure, axis = _figure(8.5, 0.24 * len(found) + 1.3)
    shares = [max(_share(own), 1e-3) for own in found]
    colors = [FRAUD if own.alarm else LEGIT if own.state == "quiet" else "#c9ced6" for own in found]
    axis.barh(range(len(found)), shares, left=0, color=colors, height=0.7)
    axis.axvline(1.0, color=GREY, linewidth=1.2)
    axis.set_xscale("log")
    axis.set_xlim(1e-3, max(10.0, 1.5 * max(shares)))
    axis.set_yticks(range(len(found)), [own.name for own in found], fontsize=8)
    axis.set_xlabel("PSI / its limit (1: alarm); grey: not judged")
    axis.set_title(verdict(report), loc="left", fontsize=10)
    return _png(figure)


def _histograms(found: Sequence[Finding]) -> bytes:
    columns = min(3, len(found))
    rows = -(-len(found) // columns)
    figure = Figure(figsize=(3.6 * columns, 2.3 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, own in zip(axes, found, strict=False):
        labels = bin_labels(own)
        at = np.arange(len(labels))
        shown = own.histogram
        axis.bar(at - 0.2, shown.reference, 0.4, color="#c9ced6", label="reference")
        axis.bar(at + 0.2, shown.found, 0.4, color=FRAUD if own.alarm else LEGIT, label="now")
        axis.set_xticks(at, labels, fontsize=6, rotation=60, ha="right")
        axis.tick_params(axis="y", labelsize=7)
        axis.set_title(f"{own.name}: PSI {_number(own.psi)}, limit {_number(own.limit)}", loc="left", fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(fontsize=7, frameon=False)
    for axis in axes[len(found) :]:
        axis.set_visible(False)
    return _png(figure)


def bin_labels(found: Finding) -> list[str]:
    """What each bin of the histogram is called."""
    if found.histogram.levels:
        return [*found.histogram.levels, "other", "missing"]
    edges = [f"{edge:.4g}" for edge in found.histogram.edges]
    if not edges:
        return ["any", "missing"]
    between = [f"{low} to {high}" for low, high in pairwise(edges)]
    return [f"up to {edges[0]}", *between, f"above {edges[-1]}", "missing"]


def _calibration(report: DriftReport) -> bytes:
    figure, axis = _figure(4.6, 4.2)
    axis.plot([0, 1], [0, 1], color=GREY, linewidth=1)
    n, promised, came = zip(*report.calibration.bins, strict=True)
    axis.scatter(promised, came, s=[12 + 90 * (own / max(n)) ** 0.5 for own in n], color=ACCENT, zorder=3)
    axis.set_xlabel("mean probability")
    axis.set_ylabel("share of frauds")
    axis.set_title("Decisions whose labels are due", loc="left", fontsize=10)
    return _png(figure)


def _figure(width: float, height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    axis.grid(axis="x", alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    return figure, axis


def _png(figure: Figure) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110, metadata={"Software": None})
    return out.getvalue()


# --- files -----------------------------------------------------------------------------------------------------------


def page(report: DriftReport, drawn: dict[str, bytes]) -> str:
    """One page with the pictures inside; it needs no network."""
    rows = "".join(
        f'<tr class="{"chosen" if found.alarm else ""}"><th scope="row">{html.escape(found.name)}</th>'
        + "".join(
            f"<td>{cell}</td>"
            for cell in (
                _number(found.psi), _number(found.limit), _number(found.ks, 2), _percent(found.missing),
                _percent(found.missing_reference), html.escape(_WORDS[found.state]),
            )
        )
        + "</tr>"
        for found in ranked(report)
    )  # fmt: skip
    heads = "".join(
        f'<th scope="col">{name}</th>' for name in ("", "PSI", "limit", "KS", "missing", "missing before", "")
    )
    captions = {
        "drift.png": "Each PSI against its own limit.",
        "histograms.png": "Shares of decisions in each bin, before and now: what drifts first, then what is nearest.",
        "calibration.png": "Frauds against what the probabilities promised.",
    }
    figures = "".join(
        f'<figure><img alt="{captions[name]}" src="data:image/png;base64,{base64.b64encode(data).decode()}">'
        f"<figcaption>{captions[name]}</figcaption></figure>"
        for name, data in drawn.items()
    )
    window = f"{report.n:,} decisions from {report.since} to {report.until}"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><meta name="referrer" content="no-referrer">'
        f"<title>Drift · {html.escape(report.model_version)}</title><style>{CSS}</style></head>\n<body><main>"
        f'<header><h1>{html.escape(verdict(report))}</h1><p class="meta">Model {html.escape(report.model_version)} · '
        f"{html.escape(window)}</p><p>{html.escape(calibration_line(report))}</p></header>\n"
        f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>\n'
        f"{figures}</main></body></html>\n"
    )


def write(report: DriftReport, folder: Path) -> list[Path]:
    """``drift.json``, ``drift.txt``, ``drift.html`` and the pictures in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = pictures(report)
    files = {
        "drift.json": json.dumps(as_json(report), indent=1).encode(),
        "drift.txt": (text(report) + "\n").encode(),
        "drift.html": page(report, drawn).encode(),
        **drawn,
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return [folder / name for name in files]
