"""What a training run shows people: one self-contained HTML page, its pictures as PNG files, and a model card.

`data_profile` describes the rows, `write_report` turns the numbers of `training.metrics` into files. Every figure
stands beside the fraud rate it belongs to. The page needs no network and no script, follows the reader's light or dark
setting, and is the same to the byte for the same input. Whatever comes from data or settings is escaped.

The file is long because a report is: `_Pictures` draws, the `_..._section` functions write one section each, the model
card follows at the end. Figures are explicit matplotlib objects; pyplot and its global state are not used.
"""

from __future__ import annotations

import base64
import html
import io
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, StrMethodFormatter
from numpy.typing import NDArray

from training.metrics import DEFINITIONS, OUTCOMES, Costs, Json, Scored, classification_text

Floats = NDArray[np.float64]
Part = NDArray[Any] | slice

LEGIT, FRAUD, ACCENT, SECOND, GREY = "#2f6fb0", "#d1495b", "#00798c", "#b7791f", "#6b7280"
BEESWARM_POINTS = 1_000
BEESWARM_FEATURES = 14
DASH = "–"

FIGURE_NAMES: dict[str, str] = {
    "model": "Model alone",
    "policy": "Whole policy",
}
LABELS: dict[str, str] = {
    "average_precision": "Average precision",
    "roc_auc": "ROC AUC",
    "recall": "Recall",
    "precision": "Precision",
    "f1": "F1",
    "accuracy": "Accuracy",
    "specificity": "Specificity",
    "kappa": "Cohen's kappa",
    "fpr": "False positive rate",
    "fdr": "False discovery rate",
    "recall_at_precision_0.9": "Recall at precision .9",
    "recall_at_precision_0.99": "Recall at precision .99",
    "cp_at_100": "Card precision at 100",
    "ece": "Calibration error (ECE)",
    "brier": "Brier score",
    "value_recall": "Recall by amount",
    "frauds_per_investigation": "Frauds per investigation",
    "frauds_per_review": "Frauds per review",
    "flagged_share": "Share flagged",
    "review_share": "Share sent to review",
    "decline_share": "Share declined",
    "cost_saved": "Cost saved on these rows",
    "savings_per_year": "Savings per year",
}
SHARES = frozenset(
    (
        *("recall", "precision", "specificity", "accuracy", "fpr", "fdr", "value_recall"),
        *("flagged_share", "review_share", "decline_share", "recall_at_precision_0.9", "recall_at_precision_0.99"),
    )
)
MONEY = frozenset(("cost_saved", "savings_per_year"))


# -------------------------------------------------------------------------------------------------------- numbers


def _digits(value: float, least: int, most: int) -> int:
    """Decimals that keep three digits of a small value, two of what is missing from 1 where that is the smaller part:
    .00181, .9994."""
    part, significant = (abs(value), 3) if abs(value) <= 0.5 else (abs(1.0 - value), 2)
    return least if part <= 0 else min(most, max(least, significant - 1 - math.floor(math.log10(part))))


def _share(value: float | None) -> str:
    if value is None:
        return DASH
    if value in (0.0, 1.0):
        return f"{value:.0%}".replace("%", " %")
    return f"{value * 100:.{_digits(value, 3, 9) - 2}f} %"


def _score(value: float | None) -> str:
    return DASH if value is None else f"{value:.{_digits(value, 4, 7)}f}"


def _count(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 1000 else f"{value:,.1f}"


def _money(value: float | None, currency: str) -> str:
    if value is None:
        return DASH
    sign, size = "−" if value < 0 else "", abs(value)
    for unit, name in ((1e9, "billion"), (1e6, "million")):
        if size >= 10 * unit or (unit == 1e9 and size >= unit):
            return f"{sign}{currency} {size / unit:,.{0 if size >= 1000 * unit else 1}f} {name}"
    return f"{sign}{currency} {size:,.{0 if size >= 1000 or size.is_integer() else 2}f}"


def _figure(name: str, value: float | None, currency: str) -> str:
    if name in MONEY:
        return _money(value, currency)
    return _share(value) if name in SHARES else _score(value)


def _range(name: str, interval: Mapping[str, Any] | None) -> str:
    """`0.71 to 0.75`; `at least ...` or `at most ...` where the bound is one-sided."""
    if not interval:
        return DASH
    show = _share if name in SHARES else _score
    low, high = interval["low"], interval["high"]
    if "one-sided" in str(interval.get("method", "")):
        return f"at most {show(high)}" if low <= 0 else f"at least {show(low)}"
    return f"{show(low)} to {show(high)}"


# --------------------------------------------------------------------------------------------------- data profile


def data_profile(frame: pd.DataFrame, parts: Mapping[str, Part] | None = None, *, time_zone: str = "UTC") -> Json:
    """Describe a canonical frame, JSON-ready, without one value that names a person.

    `parts` names row selections (positions, mask or slice), such as train, validation and test. Keys: rows, frauds,
    fraud_rate {sample, weighted}, first, last, time_zone, parts [{name, rows, frauds, fraud_rate,
    weighted_fraud_rate, first, last}], columns [{name, kind, missing, distinct | min, median, mean, max}], types
    [{type, rows, frauds, fraud_rate}], amount {legit, fraud: quantiles}, amount_zero, amount_histogram {edges, legit,
    fraud}, hours [{hour, rows, frauds, fraud_rate}], days [{day, rows, frauds}] (weeks where over 120 days). Rates by
    type and hour are weighted.
    """
    fraud = frame["is_fraud"].to_numpy(dtype=np.int64)
    weight = frame["weight"].to_numpy(dtype=np.float64) if "weight" in frame else np.ones(len(frame))
    time_ms = frame["time_ms"].to_numpy(dtype=np.int64)
    amount = frame["amount"].to_numpy(dtype=np.float64)
    if len(frame) == 0:
        raise ValueError("data_profile: the frame has no rows.")

    def day(moment: int) -> str:
        return pd.Timestamp(moment, unit="ms", tz="UTC").strftime("%Y-%m-%d %H:%M")

    def span(rows: Part) -> Json:
        own, mass = fraud[rows], weight[rows]
        if len(own) == 0:
            return {
                "rows": 0,
                "frauds": 0,
                "fraud_rate": None,
                "weighted_fraud_rate": None,
                "first": None,
                "last": None,
            }
        return {
            "rows": len(own),
            "frauds": int(own.sum()),
            "fraud_rate": float(own.mean()),
            "weighted_fraud_rate": float(mass @ own / mass.sum()) if mass.sum() > 0 else None,
            "first": day(int(time_ms[rows].min())),
            "last": day(int(time_ms[rows].max())),
        }

    def grouped(codes: NDArray[np.int64], size: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        rows = np.bincount(codes, minlength=size)
        frauds = np.bincount(codes, fraud, minlength=size)
        mass = np.bincount(codes, weight, minlength=size)
        rate = np.divide(np.bincount(codes, weight * fraud, minlength=size), mass, out=np.zeros(size), where=mass > 0)
        return rows, frauds.astype(np.int64), rate

    whole = span(slice(None))
    profile: Json = {
        "rows": whole["rows"],
        "frauds": whole["frauds"],
        "fraud_rate": {"sample": whole["fraud_rate"], "weighted": whole["weighted_fraud_rate"]},
        "first": whole["first"],
        "last": whole["last"],
        "time_zone": time_zone,
        "parts": [{"name": name, **span(rows)} for name, rows in (parts or {}).items()],
        "columns": [_column(name, frame[name]) for name in frame.columns],
        "amount": {
            name: _quantiles(amount[fraud == label])
            for label, name in enumerate(("legit", "fraud"))
            if (fraud == label).any()
        },
        "amount_zero": float((amount == 0).mean()),
        "amount_histogram": _amounts(amount, fraud, weight),
    }
    if "type" in frame:
        kinds = frame["type"].astype("category").cat
        codes = kinds.codes.to_numpy().astype(np.int64)
        names = [str(name) for name in kinds.categories]
        codes = np.where(codes < 0, len(names), codes)
        rows, frauds, rate = grouped(codes, len(names) + 1)
        profile["types"] = [
            {"type": name, "rows": int(rows[i]), "frauds": int(frauds[i]), "fraud_rate": float(rate[i])}
            for i, name in enumerate([*names, "(absent)"])
            if rows[i]
        ]
    local = pd.DatetimeIndex(time_ms.astype("datetime64[ms]"), tz="UTC").tz_convert(time_zone)
    rows, frauds, rate = grouped(local.hour.to_numpy().astype(np.int64), 24)
    profile["hours"] = [
        {"hour": i, "rows": int(rows[i]), "frauds": int(frauds[i]), "fraud_rate": float(rate[i])} for i in range(24)
    ]
    date = time_ms // 86_400_000
    step = 7 if date.max() - date.min() >= 120 else 1
    bucket = (date - date.min()) // step
    rows, frauds, _ = grouped(bucket, int(bucket.max()) + 1)
    profile["days"] = [
        {
            "day": pd.Timestamp(int((date.min() + i * step) * 86_400_000), unit="ms").strftime("%Y-%m-%d"),
            "rows": int(rows[i]),
            "frauds": int(frauds[i]),
        }
        for i in range(len(rows))
    ]
    profile["days_per_bucket"] = step
    return profile


def _column(name: Any, values: pd.Series[Any]) -> Json:
    entry: Json = {"name": str(name), "missing": float(values.isna().mean())}
    if isinstance(values.dtype, np.dtype) and values.dtype.kind in "iufb":
        known = values.to_numpy(dtype=np.float64, na_value=np.nan)
        known = known[np.isfinite(known)]
        entry["kind"] = "number"
        if len(known):
            entry |= {
                "min": float(known.min()),
                "median": float(np.median(known)),
                "mean": float(known.mean()),
                "max": float(known.max()),
            }
    else:
        entry |= {"kind": "text", "distinct": int(values.nunique())}
    return entry


def _quantiles(values: Floats) -> Json:
    names = ("p1", "p25", "p50", "p75", "p99")
    found = np.quantile(values, [0.01, 0.25, 0.5, 0.75, 0.99])
    return {
        **{name: float(value) for name, value in zip(names, found, strict=True)},
        "max": float(values.max()),
        "mean": float(values.mean()),
    }


def _amounts(amount: Floats, fraud: NDArray[np.int64], weight: Floats, bins: int = 36) -> Json | None:
    positive = amount[amount > 0]
    if len(positive) == 0 or positive.min() == positive.max():
        return None
    edges = np.geomspace(positive.min(), positive.max(), bins + 1)
    edges[0], edges[-1] = positive.min(), positive.max()
    found: Json = {"edges": [float(f"{edge:.6g}") for edge in edges]}
    for label, name in enumerate(("legit", "fraud")):
        member = fraud == label
        total = weight[member].sum()
        counts = np.histogram(amount[member], edges, weights=weight[member])[0]
        found[name] = [float(f"{c / total:.6g}") for c in counts] if total > 0 else None
    return found


# ------------------------------------------------------------------------------------------------------- pictures


@contextmanager
def _style() -> Iterator[None]:
    """matplotlib's own defaults plus ours, whatever a matplotlibrc on this machine says: the same bytes everywhere."""
    style: dict[Any, Any] = dict(matplotlib.rcParamsDefault)
    style = {name: value for name, value in style.items() if not name.startswith(("backend", "interactive"))}
    style |= {
        "font.size": 10,
        "font.family": "DejaVu Sans",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": "#9aa1ab",
        "axes.labelcolor": "#333a44",
        "axes.titlesize": 11,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.grid": True,
        "grid.color": "#e6e8ec",
        "grid.linewidth": 0.8,
        "axes.axisbelow": True,
        "xtick.color": "#4b5563",
        "ytick.color": "#4b5563",
        "legend.frameon": False,
        "legend.fontsize": 9,
        "lines.linewidth": 1.8,
        "text.parse_math": False,  # a column may be called "$x$"
    }
    with matplotlib.rc_context(style):
        yield


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png", dpi=130, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


@contextmanager
def drawn() -> Iterator[Callable[[Figure], bytes]]:
    """For other pictures than a report's: within, ours is the style, and what is given makes a figure a PNG."""
    with _style():
        yield _png


def _log_odds(values: Any) -> Floats:
    clipped = np.clip(np.asarray(values, dtype=np.float64), 1e-9, 1 - 1e-9)
    return np.asarray(np.log10(clipped / (1 - clipped)))


def _odds_axis(axis: Any, low: float, high: float) -> None:
    """Label a log-odds axis with the probabilities people know."""
    ticks = [1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999]
    spots = _log_odds(ticks)
    shown: list[tuple[float, str]] = []
    # From the middle outwards, .5 first, so that what is left out for want of room is the same on both sides.
    for spot, tick in sorted(zip(spots.tolist(), ticks, strict=True), key=lambda pair: abs(pair[0])):
        if low <= spot <= high and all(abs(spot - other) > 0.09 * (high - low) for other, _ in shown):
            shown.append((spot, f"{tick:g}" if tick >= 1e-3 else f"{tick:.0e}".replace("e-0", "e-")))
    axis.set_ticks([spot for spot, _ in shown], [text for _, text in shown])


def _log_axis(axis: Any) -> None:
    """Plain labels (10, 1,000, 1e-5) on the decades of a logarithmic axis, none between them."""

    def label(value: float, _: int) -> str:
        return f"{value:,.0f}" if 1 <= value < 1e7 else f"{value:.0e}".replace("e+0", "e").replace("e-0", "e-")

    axis.set_major_locator(LogLocator(numticks=7))
    axis.set_major_formatter(FuncFormatter(label))
    axis.set_minor_formatter(NullFormatter())


class _Pictures:
    """The PNG files of a report by name, drawn under one style."""

    def __init__(
        self,
        scores: Json,
        curves: Json,
        profile: Json,
        importance: Sequence[Mapping[str, Any]],
        shap_sample: tuple[Floats, Floats] | None,
        names: Sequence[str],
        thresholds: tuple[float, float],
        currency: str,
    ):
        self.scores, self.curves, self.profile = scores, curves, profile
        self.thresholds, self.currency = thresholds, currency
        self.rate = scores["fraud_rate"]["weighted"]
        with _style():
            drawn = {
                "precision_recall": self._precision_recall(),
                "roc": self._roc(),
                "threshold_cost": self._threshold_cost(),
                "calibration": self._calibration(),
                "confusion_matrix": self._confusion(),
                "shap_summary": self._contributions(importance, shap_sample, names),
                "data_profile": self._profile(),
            }
            self.files = {f"{name}.png": _png(figure) for name, figure in drawn.items() if figure is not None}

    def _points(self) -> Iterator[tuple[str, str, Json]]:
        for section, colour in (("model", LEGIT), ("policy", FRAUD)):
            yield FIGURE_NAMES[section], colour, self.scores[section]

    def _precision_recall(self) -> Figure | None:
        line = self.curves.get("pr")
        if line is None:
            return None
        figure = Figure(figsize=(5.6, 4.3), layout="constrained")
        ax = figure.subplots()
        recall, precision = np.array(line["recall"]), np.array(line["precision"])
        ax.step(np.append(0.0, recall), np.append(precision[:1], precision), where="pre", color=ACCENT, zorder=3)
        ax.fill_between(
            np.append(0.0, recall), np.append(precision[:1], precision), step="pre", color=ACCENT, alpha=0.1
        )
        ax.axhline(self.rate, color=GREY, lw=1, ls="--", label=f"flagging at random ({_share(self.rate)})")
        for (title, colour, own), marker in zip(self._points(), "os", strict=True):
            if own["recall"] is not None and own["precision"] is not None:
                ax.plot(
                    own["recall"], own["precision"], marker, color=colour, ms=8, mec="white", zorder=5, clip_on=False,
                    label=f"{title.lower()}: recall {_share(own['recall'])}, precision {_share(own['precision'])}",
                )  # fmt: skip
        ax.set(xlim=(0, 1.0), ylim=(0, 1.03), xlabel="recall (share of frauds flagged)", ylabel="precision")
        ax.set_title(
            f"Precision and recall: AP {_score(self.scores['average_precision'])}, at {_share(self.rate)} fraud"
        )
        ax.legend(loc="lower left")
        return figure

    def _roc(self) -> Figure | None:
        line = self.curves.get("roc")
        if line is None:
            return None
        figure = Figure(figsize=(5.6, 4.3), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        fpr, tpr = np.array(line["fpr"]), np.array(line["tpr"])
        positive = fpr[fpr > 0]
        low = min(0.1, 10.0 ** math.floor(math.log10(positive.min()))) if len(positive) else 1e-4
        for ax in (left, right):
            ax.plot(np.maximum(fpr, low) if ax is right else fpr, tpr, color=ACCENT, drawstyle="steps-post", zorder=3)
            for (title, colour, own), marker in zip(self._points(), "os", strict=True):
                if own["recall"] is not None and own["fpr"] is not None:
                    x = max(own["fpr"], low) if ax is right else own["fpr"]
                    ax.plot(x, own["recall"], marker, color=colour, ms=8, mec="white", zorder=5, clip_on=False,
                            label=title.lower())  # fmt: skip
        left.plot([0, 1], [0, 1], color=GREY, lw=1, ls="--")
        left.set(xlim=(0, 1), ylim=(0, 1.03), xlabel="false positive rate", ylabel="recall")
        right.set_xscale("log")
        _log_axis(right.xaxis)
        right.set(xlim=(low, 1), xlabel="the same, logarithmic")
        right.legend(loc="lower right")
        left.set_title(f"ROC: AUC {_score(self.scores['roc_auc'])}")
        return figure

    def _threshold_cost(self) -> Figure:
        line = self.curves["cost"]
        figure = Figure(figsize=(5.6, 5.4), layout="constrained")
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        x = _log_odds(line["threshold"])
        top.plot(x, line["review"], color=SECOND, label="review everything from the threshold up")
        top.plot(x, line["decline"], color=FRAUD, label="decline everything from the threshold up")
        top.axhline(line["approve_all"], color=GREY, lw=1, ls="--", label="approve everything")
        cost = 1000 * self.scores["model"]["cost"] / self.scores["counts"]["weighted_rows"]
        top.axhline(cost, color=ACCENT, lw=1.4, ls=":", label="the model at its thresholds")
        lines = [np.array(line["review"]), np.array(line["decline"]), np.array([line["approve_all"], cost])]
        least, most = (float(f(np.concatenate(lines))) for f in (np.min, np.max))
        if least > 0 and most > 20 * least:
            top.set_yscale("log")
            _log_axis(top.yaxis)
        top.set_ylabel(f"{self.currency} per 1,000 transactions")
        top.set_title("Cost by threshold")
        for name, colour in (("flagged", GREY), ("recall", ACCENT), ("precision", LEGIT)):
            if line[name] is not None:
                bottom.plot(x, line[name], color=colour, label={"flagged": "share flagged"}.get(name, name))
        for ax in (top, bottom):
            for value, colour in zip(self.thresholds, (SECOND, FRAUD), strict=True):
                ax.axvline(_log_odds(value), color=colour, lw=1.2, alpha=0.75)
        self._name_thresholds(bottom)
        low, high = float(x.min()), float(x.max())
        low, high = min(low, float(_log_odds(self.thresholds[0]))), max(high, float(_log_odds(self.thresholds[1])))
        edge = 0.03 * (high - low) or 0.5
        bottom.set(xlim=(low - edge, high + edge), ylim=(-0.02, 1.05), xlabel="threshold (calibrated probability)")
        _odds_axis(bottom.xaxis, low - edge, high + edge)
        top.legend(loc="best")
        bottom.legend(loc="center left", bbox_to_anchor=(0.0, 0.5))
        return figure

    def _name_thresholds(self, ax: Any) -> None:
        review, decline = self.thresholds
        named = [(f"review {review:.3g}", review, SECOND, "right"), (f"decline {decline:.3g}", decline, FRAUD, "left")]
        if review == decline:
            named = [(f"decline {decline:.3g} (no review band)", decline, FRAUD, "left")]
        for text, value, colour, side in named:
            ax.annotate(
                f" {text} ",
                (float(_log_odds(value)), 0.42),
                color=colour,
                ha=side,
                fontsize=8.5,
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5},
            )

    def _calibration(self) -> Figure:
        figure = Figure(figsize=(9.6, 4.2), layout="constrained")
        top, bottom = figure.subplots(1, 2)
        bins = self.curves["calibration"]
        expected = _log_odds([b["mean_probability"] for b in bins])
        floor = 1e-6
        reach = [b["fraud_rate"] for b in bins if 0 < b["fraud_rate"] < 1] + [b["mean_probability"] for b in bins]
        low = float(_log_odds(max(floor, min(reach)))) - 0.4
        high = float(_log_odds(min(1 - floor, max(reach)))) + 0.4
        top.plot([low, high], [low, high], color=GREY, lw=1, ls="--", label="perfectly calibrated")
        for x, b in zip(np.maximum(expected, low), bins, strict=True):
            if b["interval"]:
                ends = np.clip(_log_odds(b["interval"]), low, high)
                top.plot([x, x], ends, color=ACCENT, lw=1.4, alpha=0.6)
            if 0 < b["fraud_rate"] < 1:
                top.plot(x, float(_log_odds(b["fraud_rate"])), "o", color=ACCENT, ms=6, mec="white", zorder=4)
            elif b["interval"]:
                none = b["fraud_rate"] <= 0
                top.plot(x, ends[1] if none else ends[0], "v" if none else "^", color=ACCENT, ms=6, zorder=4)
        top.set(xlim=(low, high), ylim=(low, high), xlabel="mean probability in the bin", ylabel="observed fraud rate")
        for axis in (top.xaxis, top.yaxis):
            _odds_axis(axis, low, high)
        top.set_title(f"Calibration: ECE {_score(self.scores['ece'])}, at {_share(self.rate)} fraud")
        top.legend(loc="upper left")
        shape = self.curves["histogram"]
        edges = _log_odds(shape["edges"])
        for name, colour in (("legit", LEGIT), ("fraud", FRAUD)):
            if shape[name] is not None:
                bottom.stairs(shape[name], edges, fill=True, color=colour, alpha=0.5, label=name)
        for value, colour in zip(self.thresholds, (SECOND, FRAUD), strict=True):
            bottom.axvline(_log_odds(value), color=colour, lw=1.2, alpha=0.75)
        bottom.set(xlabel="probability (thresholds as lines)", ylabel="share of the class")
        _odds_axis(bottom.xaxis, *bottom.get_xlim())
        bottom.legend(loc="upper center")
        return figure

    def _confusion(self) -> Figure:
        figure = Figure(figsize=(9.6, 2.9), layout="constrained")
        for ax, (title, _, own) in zip(figure.subplots(1, 2), self._points(), strict=True):
            table = own["confusion"]["outcomes"]
            counts = np.array([[table[name][kind] for name in OUTCOMES] for kind in ("legit", "fraud")])
            shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
            ax.imshow(np.sqrt(shares), cmap="Blues", vmin=0, vmax=1.15, aspect="auto")
            for i in range(2):
                for j in range(3):
                    ax.text(
                        j, i, f"{_count(float(counts[i, j]))}\n{_share(float(shares[i, j]))}", ha="center", va="center",
                        color="white" if shares[i, j] > 0.4 else "#1f2937", fontsize=10,
                    )  # fmt: skip
            ax.set_xticks(
                range(3), [{"approve": "approved", "review": "to review", "decline": "declined"}[o] for o in OUTCOMES]
            )
            ax.set_yticks(range(2), ["legitimate", "fraud"])
            ax.grid(visible=False)
            ax.tick_params(length=0)
            ax.set_title(f"{title} (rows, share of the class)")
        return figure

    def _contributions(
        self, importance: Sequence[Mapping[str, Any]], sample: tuple[Floats, Floats] | None, names: Sequence[str]
    ) -> Figure | None:
        ranked = _ranked(importance)[:BEESWARM_FEATURES]
        if not ranked:
            return None
        figure = Figure(figsize=(9.6, max(2.6, 0.36 * len(ranked) + 1.3)), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(2, 3), sharey=True)
        spots = np.arange(len(ranked))[::-1]
        left.barh(spots, [value for _, value in ranked], color=ACCENT, height=0.62)
        left.set_yticks(spots, [name for name, _ in ranked])
        left.set(xlabel="mean |contribution| (log-odds)", ylim=(-0.7, len(ranked) - 0.3))
        left.set_title("Contribution by feature")
        left.grid(visible=False, axis="y")
        if sample is None:
            right.set_visible(False)
            return figure
        contributions, raw = sample
        pick = np.random.default_rng(0).permutation(len(contributions))[:BEESWARM_POINTS]
        colours = LinearSegmentedColormap.from_list("value", ["#2f6fb0", "#8b6bb1", "#d1495b"])
        place = {name: i for i, name in enumerate(names)}
        for spot, (name, _) in zip(spots.tolist(), ranked, strict=True):
            if name not in place:
                continue
            x, value = contributions[pick, place[name]], raw[pick, place[name]]
            known = np.isfinite(value)
            tint = np.full((len(x), 4), (0.6, 0.62, 0.66, 0.75))
            if known.any():
                order = pd.Series(value[known]).rank(method="average", pct=True).to_numpy()
                spread = (order - order.min()) / ((order.max() - order.min()) or 1.0)
                tint[known] = colours(spread)
                tint[known, 3] = 0.8
            right.scatter(x, spot + _swarm(x), c=tint, s=7, lw=0, zorder=3)
        right.axvline(0, color=GREY, lw=1, zorder=1)
        right.set_xlabel("contribution to the log-odds (right: towards fraud)")
        right.set_title("Each dot one transaction")
        right.grid(visible=False, axis="y")
        right.tick_params(axis="y", length=0)
        bar = figure.colorbar(matplotlib.cm.ScalarMappable(cmap=colours), ax=right, ticks=[0, 1], aspect=28, pad=0.01)
        bar.ax.set_yticklabels(["low", "high"])
        bar.set_label("feature value (grey: missing)", labelpad=-14, fontsize=8.5)
        bar.outline.set_visible(False)
        return figure

    def _profile(self) -> Figure | None:
        profile = self.profile
        panels: list[Callable[[Any], None]] = []
        if profile.get("amount_histogram"):
            panels.append(lambda ax: _draw_amounts(ax, profile["amount_histogram"], self.currency))
        if profile.get("types"):
            panels.append(lambda ax: _draw_types(ax, profile["types"]))
        if profile.get("hours"):
            panels.append(lambda ax: _draw_hours(ax, profile["hours"], str(profile.get("time_zone", "UTC"))))
        if profile.get("days"):
            panels.append(lambda ax: _draw_days(ax, profile["days"], int(profile.get("days_per_bucket", 1))))
        if not panels:
            return None
        deep = (len(panels) + 1) // 2
        figure = Figure(figsize=(9.6, 2.9 * deep), layout="constrained")
        axes = figure.subplots(deep, 2, squeeze=False).ravel()
        for ax, draw in zip(axes, panels, strict=False):
            draw(ax)
        for ax in axes[len(panels) :]:
            ax.set_visible(False)
        return figure


def _ranked(importance: Sequence[Mapping[str, Any]]) -> list[tuple[str, float]]:
    return sorted(((str(i["feature"]), float(i["mean_abs"])) for i in importance), key=lambda pair: (-pair[1], pair[0]))


def _swarm(x: Floats, width: float = 0.36) -> Floats:
    """Vertical offsets that spread points where they are dense: alternately up and down within narrow columns."""
    low, high = float(x.min()), float(x.max())
    column = np.round((x - low) / ((high - low) or 1.0) * 90).astype(np.int64)
    order = np.argsort(column, kind="stable")
    starts = np.flatnonzero(np.diff(column[order], prepend=-1))
    rank = np.empty(len(x), dtype=np.int64)
    rank[order] = np.arange(len(x)) - np.repeat(starts, np.diff(np.append(starts, len(x))))
    layer = (rank + 1) // 2 * np.where(rank % 2 == 1, 1, -1)
    return np.asarray(layer * min(0.05, width / max(1, int(np.abs(layer).max()))))


def _draw_amounts(ax: Any, shape: Json, currency: str) -> None:
    for name, colour in (("legit", LEGIT), ("fraud", FRAUD)):
        if shape[name] is not None:
            ax.stairs(shape[name], shape["edges"], fill=True, color=colour, alpha=0.5, label=name)
    ax.set_xscale("log")
    _log_axis(ax.xaxis)
    ax.set(xlabel=f"amount as sent (base {currency})", ylabel="share of the class")
    ax.set_title("Amount")
    ax.legend(loc="upper left")


def _draw_types(ax: Any, types: Sequence[Json]) -> None:
    spots = np.arange(len(types))[::-1]
    rates = [100 * t["fraud_rate"] for t in types]
    ax.barh(spots, rates, color=FRAUD, alpha=0.8, height=0.6)
    ax.set_yticks(spots, [t["type"] for t in types])
    for spot, rate, kind in zip(spots, rates, types, strict=True):
        ax.annotate(
            f" {_count(kind['frauds'])} of {_count(kind['rows'])}", (rate, spot), va="center", fontsize=8.5, color=GREY
        )
    ax.set(xlabel="fraud rate in %", xlim=(0, (max(rates) or 1) * 1.45))
    ax.grid(visible=False, axis="y")
    ax.set_title("Type")


def _draw_hours(ax: Any, hours: Sequence[Json], time_zone: str) -> None:
    x = [h["hour"] for h in hours]
    ax.bar(x, [h["rows"] for h in hours], color=LEGIT, alpha=0.35, width=0.85)
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    ax.set(xlabel=f"hour of day ({time_zone})", ylabel="transactions", xlim=(-0.7, 23.7))
    ax.yaxis.label.set_color(LEGIT)
    other = ax.twinx()
    other.plot(x, [100 * h["fraud_rate"] for h in hours], color=FRAUD, marker="o", ms=3)
    other.set_ylabel("fraud rate in %", color=FRAUD)
    other.set_ylim(bottom=0)
    other.grid(visible=False)
    ax.set_title("Hour")


def _draw_days(ax: Any, days: Sequence[Json], step: int) -> None:
    x = np.arange(len(days))
    ax.bar(x, [d["rows"] for d in days], color=LEGIT, alpha=0.35, width=1.0)
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    ax.set(ylabel="transactions", xlabel="week from" if step == 7 else "day (UTC)", xlim=(-0.7, len(days) - 0.3))
    ax.yaxis.label.set_color(LEGIT)
    other = ax.twinx()
    other.plot(x, [d["frauds"] for d in days], color=FRAUD, lw=1.2)
    other.set_ylabel("frauds", color=FRAUD)
    other.set_ylim(bottom=0)
    other.grid(visible=False)
    shown = np.unique(np.linspace(0, len(days) - 1, min(4, len(days))).round().astype(int))
    ax.set_xticks(shown, [days[i]["day"] for i in shown])
    ax.set_title("Volume")


# ------------------------------------------------------------------------------------------------------------ HTML

CSS = """
:root{color-scheme:light dark;--bg:#fff;--ink:#1c2430;--soft:#566072;--line:#dfe3e9;--panel:#f5f7fa;--accent:#00697a}
@media (prefers-color-scheme:dark){:root{--bg:#14181e;--ink:#e5e9ef;--soft:#9fabbb;--line:#323b47;--panel:#1c222a;
--accent:#58c3d3}figure img{filter:invert(.92) hue-rotate(180deg)}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1080px;margin:0 auto;padding:2rem 1.25rem 4rem}
h1{font-size:1.9rem;line-height:1.2;margin:0 0 .2rem}
h2{font-size:1.3rem;margin:2.8rem 0 .7rem;padding-top:.9rem;border-top:1px solid var(--line)}
h3{font-size:1.02rem;margin:1.6rem 0 .4rem}
p{margin:.5rem 0;max-width:76ch}
a{color:var(--accent)}
.meta,.note,caption,figcaption{color:var(--soft);font-size:.9rem}
.lead{font-size:1.08rem;margin:.9rem 0;max-width:84ch}
.lead span{display:block}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(200px,1fr));gap:.8rem;margin:1.3rem 0}
.card{background:var(--panel);border:1px solid var(--line);border-radius:8px;padding:.8rem 1rem}
.card b{display:block;font-size:1.4rem;line-height:1.25;font-variant-numeric:tabular-nums}
.card small{color:var(--soft);display:block;line-height:1.35}
nav ol{columns:2;margin:.4rem 0;padding-left:1.4rem}
.scroll{overflow-x:auto}
table{border-collapse:collapse;margin:.6rem 0 1.1rem;font-size:.92rem;width:100%}
caption{text-align:left;padding:.2rem 0 .5rem}
th,td{padding:.34rem .65rem;border-bottom:1px solid var(--line);text-align:right;font-variant-numeric:tabular-nums;
vertical-align:top}
th{font-weight:600}
thead th{border-bottom:2px solid var(--line);vertical-align:bottom}
td{white-space:nowrap}
tbody th,th:first-child,th.text,td.text{text-align:left}
td.text{overflow-wrap:anywhere;white-space:normal;width:72%}
tr.chosen{background:var(--panel)}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,470px),1fr));gap:1rem}
figure{margin:.8rem 0}
figure img{display:block;width:100%;height:auto;background:#fff;border:1px solid #e3e6ea;border-radius:8px}
figcaption{padding:.35rem .1rem}
pre{background:var(--panel);border:1px solid var(--line);border-radius:8px;padding:.9rem;overflow-x:auto;
font-size:.82rem;line-height:1.4}
details summary{cursor:pointer;color:var(--accent)}
@media (max-width:640px){nav ol{columns:1}h1{font-size:1.5rem}}
@media print{main{max-width:none}h2{break-after:avoid}figure,table{break-inside:avoid}}
""".strip()
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def _e(value: object) -> str:
    return html.escape(str(value).replace(" %", "\u00a0%"), quote=True)


def _table(
    caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], *, text: Sequence[int] = (), mark: int = -1
) -> str:
    """Escapes every cell; `text` names columns aligned left, `mark` the row to set off."""
    lines = []
    for number, row in enumerate(rows):
        cells = "".join(
            f'<th scope="row">{_e(cell)}</th>'
            if i == 0
            else f'<td class="text">{_e(cell)}</td>'
            if i in text
            else f"<td>{_e(cell)}</td>"
            for i, cell in enumerate(row)
        )
        lines.append(f'<tr class="chosen">{cells}</tr>' if number == mark else f"<tr>{cells}</tr>")
    heads = "".join(f'<th scope="col"{" class=text" if i in text else ""}>{_e(h)}</th>' for i, h in enumerate(head))
    return (
        f'<div class="scroll"><table><caption>{_e(caption)}</caption><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


@dataclass(frozen=True)
class _Page:
    """All a report is made from, and the few things its sections share."""

    manifest: Json
    test: Scored
    metrics: Json
    curves: Json
    ablation: Sequence[Mapping[str, Any]]
    importance: Sequence[Mapping[str, Any]]
    profile: Json
    thresholds: tuple[float, float]
    costs: Costs
    pictures: Mapping[str, bytes]
    trials: Sequence[Mapping[str, Any]] = ()

    @property
    def currency(self) -> str:
        return _currency(self.manifest)

    @property
    def version(self) -> str:
        return str(self.manifest.get("version") or "unnamed")

    @property
    def rate(self) -> float:
        return float(self.metrics["fraud_rate"]["weighted"])

    @property
    def weighted(self) -> bool:
        return not bool((self.test.weight == 1.0).all())

    @property
    def at(self) -> str:
        return f"at a fraud rate of {_share(self.rate)}"

    def image(self, name: str, alt: str, caption: str) -> str:
        data = self.pictures.get(name)
        if data is None:
            return f'<p class="note">{_e(caption)} (Not drawn: the rows do not hold what it shows.)</p>'
        source = base64.b64encode(data).decode("ascii")
        width, height = (int.from_bytes(data[i : i + 4], "big") for i in (16, 20))
        return (
            f'<figure><img src="data:image/png;base64,{source}" width="{width}" height="{height}" alt="{_e(alt)}">'
            f"<figcaption>{_e(caption)}</figcaption></figure>"
        )

    def summary(self) -> tuple[str, str]:
        """Two lines: what is caught at what price in flags; what that is worth."""
        policy, counts = self.metrics["policy"], self.metrics["counts"]
        first = (
            f"On {_count(counts['rows'])} test transactions {self.at}, the whole policy flags "
            f"{_share(policy['flagged_share'])} of all and thereby catches {_share(policy['recall'])} of the frauds "
            f"(95 %: {_range('recall', policy['intervals']['recall'])}); of what it flags, "
            f"{_share(policy['precision'])} is fraud."
        )
        saved = policy["cost_saved"]
        if saved >= 0:
            worth = f"Against approving everything that saves {_money(saved, self.currency)}"
        else:
            worth = f"Against approving everything that costs {_money(-saved, self.currency)} more"
        second = (
            f"{worth} over {_count(round(counts['days'], 1))} days, "
            f"{_money(policy['savings_per_year'], self.currency)} a year at this volume; "
            "the model ranks with an average precision of "
            f"{_score(self.metrics['average_precision'])}."
        )
        return first, second


def _currency(manifest: Mapping[str, Any]) -> str:
    stated = manifest.get("currency")
    base = stated.get("base") if isinstance(stated, Mapping) else stated
    return str(base or manifest.get("base_currency") or "USD")


def _html(page: _Page) -> str:
    sections: tuple[tuple[str, str, Callable[[_Page], str]], ...] = (
        ("figures", "Figures", _figures_section),
        ("decisions", "Decisions", _decisions_section),
        ("ranking", "Ranking", _ranking_section),
        ("costs", "Thresholds and costs", _costs_section),
        ("calibration", "Calibration", _calibration_section),
        ("members", "What the model is made of", _members_section),
        ("features", "What the model looks at", _features_section),
        ("ablation", "With and without SMOTE and balances", _ablation_section),
        ("data", "Data", _data_section),
        ("run", "The training run", _run_section),
        ("definitions", "Definitions", _definitions_section),
    )
    toc = "".join(f'<li><a href="#{name}">{_e(title)}</a></li>' for name, title, _ in sections)
    body = "".join(
        f'<section><h2 id="{name}">{_e(title)}</h2>{write(page)}</section>' for name, title, write in sections
    )
    first, second = page.summary()
    made = page.manifest.get("created_at")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><meta name="referrer" content="no-referrer">'
        f"<title>Fraud model report · {_e(page.version)}</title><style>{CSS}</style></head>\n<body><main>"
        f'<header><h1>Fraud model report</h1><p class="meta">Model {_e(page.version)}'
        f"{f' · made {_e(made)}' if made else ''} · {_e(page.manifest.get('champion', 'xgboost'))}</p>"
        f'<p class="lead"><span>{_e(first)}</span><span>{_e(second)}</span></p>{_cards(page)}</header>'
        f'<nav aria-label="Contents"><ol>{toc}</ol></nav>\n{body}</main></body></html>\n'
    )


def _cards(page: _Page) -> str:
    policy, model = page.metrics["policy"], page.metrics["model"]
    rate = _share(page.rate)
    shown = (
        (
            _score(model["average_precision"]),
            "average precision (model)",
            f"{_range('average_precision', model['intervals']['average_precision'])}, at {rate} fraud",
        ),
        (_share(policy["recall"]), "of frauds caught (policy)", _range("recall", policy["intervals"]["recall"])),
        (
            _share(policy["precision"]),
            "of flags are frauds (policy)",
            f"{_range('precision', policy['intervals']['precision'])}, at {rate} fraud",
        ),
        (_money(policy["savings_per_year"], page.currency), "saved a year (policy)", "at the volume of these rows"),
    )
    return (
        '<div class="cards">'
        + "".join(f'<div class="card"><b>{_e(a)}</b><small>{_e(b)}<br>{_e(c)}</small></div>' for a, b, c in shown)
        + "</div>"
    )


def _figures_section(page: _Page) -> str:
    counts, model, policy = page.metrics["counts"], page.metrics["model"], page.metrics["policy"]
    note = (
        f"{_count(counts['rows'])} test rows ({_count(counts['frauds'])} frauds) from {counts['first']} to "
        f"{counts['last']}, judged through the sealed bundle as the service opens it. Every figure belongs to a fraud "
        f"rate of {_share(page.rate)}"
    )
    if page.weighted:
        note += (
            f", reached by weighting the rows (they stand for {_count(counts['weighted_rows'])} transactions; among "
            f"the rows themselves {_share(page.metrics['fraud_rate']['sample'])} are frauds)"
        )
    rows = []
    for name, label in LABELS.items():
        cells = [label]
        for part in (model, policy):
            own = part.get(name)
            known = name in part
            cells += [
                _figure(name, own, page.currency) if known else DASH,
                _range(name, part["intervals"].get(name)) if known else DASH,
            ]
        rows.append(cells)
    table = _table(
        f"All figures {page.at}. Intervals at 95 %: exact (Clopper-Pearson) for shares of counts, bootstrap within the "
        "classes for average precision and ROC AUC. The policy decides but has no score of its own.",
        ("Figure", FIGURE_NAMES["model"], "95 % interval", FIGURE_NAMES["policy"], "95 % interval"),
        rows,
    )
    best = next((v for k, v in model.items() if k.endswith("_best_possible")), None)
    foot = ""
    if best is not None:
        foot = (
            f"Card precision at 100 could reach at most {_score(best)} on these days: few have 100 compromised "
            "customers to find."
        )
    return f"<p>{_e(note)}.</p>{table}" + (f'<p class="note">{_e(foot)}</p>' if foot else "")


def _decisions_section(page: _Page) -> str:
    model, policy = page.metrics["model"], page.metrics["policy"]

    def words(part: Json) -> str:
        cells = part["confusion"]["sample"]
        return (
            f"{cells['tp']} frauds flagged, {cells['fn']} missed, {cells['fp']} legitimate flagged, "
            f"{cells['tn']} approved"
        )

    picture = page.image(
        "confusion_matrix.png",
        f"Confusion matrices. Model alone: {words(model)}. Whole policy: {words(policy)}.",
        "What happened to legitimate and fraudulent rows, model alone and with lists and rules; rows unweighted.",
    )
    rows = [
        (
            f"{FIGURE_NAMES[part]}: {outcome}",
            _count(own["legit"]),
            _count(own["fraud"]),
            _count(own["weighted_legit"]),
            _count(own["weighted_fraud"]),
        )
        for part in ("model", "policy")
        for outcome, own in page.metrics[part]["confusion"]["outcomes"].items()
    ]
    table = _table(
        "Outcomes by class",
        ("Outcome", "Legitimate rows", "Fraud rows", "Legitimate, weighted", "Fraud, weighted"),
        rows,
    )
    text = _e(classification_text(page.test))
    return f"{picture}{table}<details><summary>Classification report as text</summary><pre>{text}</pre></details>"


def _ranking_section(page: _Page) -> str:
    scores = page.metrics["model"]
    ap, auc = scores["average_precision"], scores["roc_auc"]
    first = page.image(
        "precision_recall.png",
        f"Precision-recall curve {page.at}: average precision {_score(ap)}, recall {_share(scores['recall'])} at "
        f"precision {_share(scores['precision'])} at the review threshold.",
        f"Precision against recall, {page.at}. At another fraud rate the same model has another precision.",
    )
    second = page.image(
        "roc.png",
        f"ROC curve: area {_score(auc)}, on a linear and a logarithmic axis of the false positive rate.",
        "Recall against the false positive rate, which does not depend on the fraud rate. What matters for payments is "
        "the left edge, hence the logarithmic axis.",
    )
    return f'<div class="pair">{first}{second}</div>'


COST_WORDS: dict[str, str] = {
    "fraud_loss_share": "Share of the amount an approved fraud loses",
    "fraud_fee": "Fee for an approved fraud (chargeback)",
    "review_cost": "Cost of one review",
    "review_catch": "Share of reviewed frauds that are caught",
    "false_decline_cost": "Cost of declining a legitimate transaction",
    "capacity": "Largest share of transactions reviewed",
    "decline_precision": "Least precision among those declined",
    "flag_precision": "Least precision among all flagged",
    "flag_probability": "Least probability that is flagged",
}


def _cost_rows(page: _Page) -> list[tuple[str, str]]:
    amounts = ("fraud_fee", "review_cost", "false_decline_cost")
    return [
        (COST_WORDS.get(name, name), _money(value, page.currency) if name in amounts else _share(value))
        for name, value in asdict(page.costs).items()
    ]


def _costs_section(page: _Page) -> str:
    review, decline = page.thresholds
    model, policy = page.metrics["model"], page.metrics["policy"]
    text = (
        f"From a probability of {review:.6g} up a transaction goes to review, from {decline:.6g} up it is declined."
        if review < decline
        else f"From a probability of {decline:.6g} up a transaction is declined; the model sends none to review."
    )
    text += (
        " The thresholds were chosen on validation rows, before the test rows were looked at, as the pair of least "
        "cost within the review capacity and the floors on precision stated here."
    )
    picture = page.image(
        "threshold_cost.png",
        f"Cost per thousand transactions by threshold; review threshold {review:.3g}, decline threshold {decline:.3g}. "
        "Below: share flagged, recall and precision by threshold.",
        f"What reviewing or declining everything above a threshold would cost on the test rows, {page.at}.",
    )
    table = _table("What was assumed", ("Assumption", "Value"), _cost_rows(page))
    results = _table(
        f"Cost on the test rows, {page.at}",
        ("", FIGURE_NAMES["model"], FIGURE_NAMES["policy"]),
        [
            (label, _money(model[name], page.currency), _money(policy[name], page.currency))
            for name, label in (
                ("cost_if_all_approved", "Approving everything"),
                ("cost", "These decisions"),
                ("cost_saved", "Saved"),
                ("savings_per_year", "Saved, stretched to a year"),
            )
        ],
    )
    return f'<p>{_e(text)}</p><div class="pair">{picture}<div>{table}{results}</div></div>'


def _calibration_section(page: _Page) -> str:
    scores = page.metrics["model"]
    mean = scores.get("mean_probability")
    text = (
        "A calibrated probability means what it says: of transactions scored .2, one in five is a fraud, at the fraud "
        f"rate given. On the test rows the mean probability is {_share(mean)}, the fraud rate {_share(page.rate)}."
    )
    picture = page.image(
        "calibration.png",
        f"Reliability diagram: expected calibration error {_score(scores['ece'])}, Brier score "
        f"{_score(scores['brier'])}. Beside it: distribution of the probability in each class.",
        "Left: observed fraud rate by probability, exact 95 % intervals; triangles are bounds where a bin has no "
        "fraud or nothing else. Right: where each class scores. Axes in log-odds.",
    )
    rows = [
        (
            f"{b['low']:g} to {b['high']:g}",
            _count(b["rows"]),
            _count(b["frauds"]),
            _share(b["mean_probability"]),
            _share(b["fraud_rate"]),
            f"{_share(b['interval'][0])} to {_share(b['interval'][1])}" if b["interval"] else DASH,
        )
        for b in page.curves["calibration"]
    ]
    table = _table(
        "Reliability bins; rates weighted",
        ("Probability", "Rows", "Frauds", "Mean probability", "Fraud rate", "95 % interval"),
        rows,
    )
    return f"<p>{_e(text)}</p>{picture}<details><summary>Reliability bins as a table</summary>{table}</details>"


def _features_section(page: _Page) -> str:
    ranked = _ranked(page.importance)
    if not ranked:
        return "<p>No contributions were computed for this run.</p>"
    strongest = ", ".join(f"{name} ({value:.2f})" for name, value in ranked[:5])
    picture = page.image(
        "shap_summary.png",
        f"Mean absolute contribution by feature in log-odds, strongest first: {strongest}; and the contributions of "
        "sampled transactions coloured by the feature's value.",
        "Exact SHAP contributions to the calibrated log-odds, the same that the service returns as reasons. Left: how "
        "much a feature moves the score on average. Right: in which direction, by its value.",
    )
    extra = [key for key in page.importance[0] if key not in ("feature", "mean_abs")]
    order = {name: i for i, (name, _) in enumerate(ranked)}
    rows = [
        (str(i["feature"]), f"{float(i['mean_abs']):.4f}", *(_plain(i.get(key)) for key in extra))
        for i in sorted(page.importance, key=lambda i: order[str(i["feature"])])
    ]
    heads = ("Feature", "Mean |contribution|", *(key.replace("_", " ").capitalize() for key in extra))
    table = _table(f"All {len(rows)} features, strongest first", heads, rows)
    return f"{picture}<details><summary>All features as a table</summary>{table}</details>"


MEMBERS = {
    "forest": "boosted trees: log-odds",
    "linear": "logistic regression: log-odds",
    "isolation": "Isolation Forest: minus the mean path length, higher is stranger",
}
MEMBER_WORDS = (
    "The served log-odds are a weighted sum of the members' margins, calibrated once, so that reasons add up. Beside "
    "the first, a member ships only where it raises average precision on rows that it has not learned from, with the "
    "whole 95 % interval of the gain above 0 (or where one half each was asked for). Its share was searched on these "
    "rows."
)


def _member_table(page: _Page) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    return ("Member", "Margin", "Weight"), [
        (str(own["name"]), MEMBERS.get(str(own["kind"]), str(own["kind"])), f"{float(own['weight']):.4g}")
        for own in page.manifest.get("members") or ()
    ]


def _trial_table(page: _Page) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    return ("Offered", "Share", "AP without", "AP with", "Gain", "95 %", "Verdict"), [
        (
            str(trial["name"]),
            f"{float(trial['share']):.2f}",
            _score(trial["before"]),
            _score(trial["after"]),
            f"{trial['after'] - trial['before']:+.4f}",
            f"{trial['low']:+.4f} to {trial['high']:+.4f}",
            "shipped" if trial["shipped"] else "not shipped",
        )
        for trial in page.trials
    ]


def _judged_on(page: _Page) -> str:
    """Where shares were searched and gains judged."""
    staged = (page.manifest.get("training") or {}).get("rehearsal")
    return f"the test rows of the {staged}" if staged else "the validation rows"


def _members_section(page: _Page) -> str:
    heads, rows = _member_table(page)
    blocks = [f"<p>{_e(MEMBER_WORDS)}</p>"]
    if rows:
        blocks.append(_table("Members as served", heads, rows, text=(1,)))
    if page.trials:
        blocks.append(_table(f"What was offered beside the first, on {_judged_on(page)}", *_trial_table(page)))
    else:
        blocks.append("<p>Nothing was offered beside the first member in this run.</p>")
    return "".join(blocks)


ABLATION = (*("average_precision", "roc_auc", "recall", "precision", "recall_at_precision_0.9", "ece", "cost_saved"),)


def _ablation_figures(row: Mapping[str, Any]) -> Mapping[str, Any]:
    own = row.get("metrics", row)
    return own if isinstance(own, Mapping) else {}


def _ablation_table(page: _Page) -> tuple[list[str], list[list[str]]]:
    shown = [name for name in ABLATION if any(name in _ablation_figures(row) for row in page.ablation)]
    rows = []
    for row in page.ablation:
        figures = _ablation_figures(row)
        cells = [str(row["name"])]
        for name in shown:
            cells.append(_figure(name, figures.get(name), page.currency))
            if name == "average_precision":
                cells.append(_range(name, (figures.get("intervals") or {}).get(name)))
        rows.append(cells)
    heads = [
        head for name in shown for head in ([LABELS[name], "95 %"] if name == "average_precision" else [LABELS[name]])
    ]
    return ["Variant", *heads], rows


def smote_verdict(ablation: Sequence[Mapping[str, Any]]) -> str:
    """One honest sentence on what SMOTE did to average precision and calibration; looks for a variant whose name says
    SMOTE and one that says none (or no/without SMOTE). Empty where either is missing."""
    plain = smote = None
    for row in ablation:
        name = str(row["name"]).casefold()
        bare = (
            name.startswith(("none", "no ", "without smote", "plain")) or "no smote" in name or "without smote" in name
        )
        if bare and plain is None and "balance" not in name:
            plain = _ablation_figures(row)
        elif "smote" in name and not bare and smote is None and "balance" not in name:
            smote = _ablation_figures(row)
    if not plain or not smote or plain.get("average_precision") is None or smote.get("average_precision") is None:
        return ""
    gain = float(smote["average_precision"]) - float(plain["average_precision"])
    interval = (smote.get("intervals") or plain.get("intervals") or {}).get("average_precision")
    verdict = "SMOTE raised" if gain > 0 else "SMOTE lowered" if gain < 0 else "SMOTE left"
    text = (
        f"{verdict} average precision by {abs(gain):.4f} ({_score(smote['average_precision'])} with, "
        f"{_score(plain['average_precision'])} without)"
        if gain
        else f"SMOTE left average precision unchanged at {_score(smote['average_precision'])}"
    )
    if interval:
        inside = interval["low"] <= float(plain["average_precision"]) <= interval["high"]
        text += (
            ", which is within the sampling error of one test set" if inside else ", which is beyond the sampling error"
        )
    if smote.get("ece") is not None and plain.get("ece") is not None:
        text += f"; the calibration error is {_score(smote['ece'])} with and {_score(plain['ece'])} without"
    return text + "."


SMOTE_WORDS = (
    "SMOTE invents frauds between known ones. It runs inside the training fold only: validation, calibration and test "
    "rows are never touched by it, and the probability is calibrated afterwards on untouched later rows, because "
    "oversampling inflates it."
)


#: What stands there where a run was made over several machines.
WEIGHTED_WORDS = (
    "There is no SMOTE in this model: its rows lay on several machines, where nowhere a row's neighbours are together. "
    "In its place each fraud weighed {weight:.4g} times a legitimate row while the trees were grown, which gives "
    "frauds the same share that SMOTE would have. Validation, calibration and test rows are untouched, and the "
    "probability is calibrated afterwards on later rows, because a weight inflates it."
)


def _balance_words(page: _Page) -> str:
    training = page.manifest.get("training") or {}
    if training.get("balance") == "weighted":
        return WEIGHTED_WORDS.format(weight=float(training["fraud_weight"]))
    return SMOTE_WORDS


def _ablation_section(page: _Page) -> str:
    words = _balance_words(page)
    if not page.ablation:
        return f"<p>{_e(words)}</p><p>This run was made without the comparison.</p>"
    heads, rows = _ablation_table(page)
    chosen = next((i for i, row in enumerate(page.ablation) if row.get("chosen")), -1)
    table = _table(f"The same rows and search, one thing changed at a time, {page.at}", heads, rows, mark=chosen)
    notes = "".join(f"<li><b>{_e(row['name'])}</b>: {_e(row['note'])}</li>" for row in page.ablation if row.get("note"))
    verdict = smote_verdict(page.ablation)
    return f"<p>{_e(words)} {_e(verdict)}</p>{table}" + (f"<ul>{notes}</ul>" if notes else "")


def _data_section(page: _Page) -> str:
    profile = page.profile
    if not profile:
        return "<p>No data profile was made.</p>"
    rate = profile.get("fraud_rate") or {}
    blocks = []
    if "rows" in profile:
        text = (
            f"{_count(profile['rows'])} rows with {_count(profile.get('frauds', 0))} frauds from "
            f"{profile.get('first')} to {profile.get('last')} (UTC); fraud rate {_share(rate.get('sample'))} of "
            f"the rows, {_share(rate.get('weighted'))} by weight."
        )
        blocks.append(f"<p>{_e(text)}</p>")
    if profile.get("parts"):
        blocks.append(
            _table(
                "How the rows were split",
                ("Part", "Rows", "Frauds", "Fraud rate", "Weighted", "First (UTC)", "Last (UTC)"),
                [
                    (
                        str(p["name"]),
                        _count(p["rows"]),
                        _count(p["frauds"]),
                        _share(p["fraud_rate"]),
                        _share(p["weighted_fraud_rate"]),
                        p["first"] or DASH,
                        p["last"] or DASH,
                    )
                    for p in profile["parts"]
                ],
            )
        )
    blocks.append(
        page.image(
            "data_profile.png",
            "Data profile: amounts by class, fraud rate by type, volume and fraud rate by hour, frauds by day.",
            "The rows in pictures. Classes are scaled to the same area; rates are weighted.",
        )
    )
    if profile.get("amount"):
        names = ("p1", "p25", "p50", "p75", "p99", "max", "mean")
        blocks.append(
            _table(
                f"Amounts as sent; {_share(profile.get('amount_zero'))} are zero",
                ("Class", "1 %", "25 %", "Median", "75 %", "99 %", "Largest", "Mean"),
                [(kind, *(f"{own[n]:,.2f}" for n in names)) for kind, own in profile["amount"].items()],
            )
        )
    if profile.get("columns"):
        table = _table(
            "Columns",
            ("Column", "Kind", "Missing", "Distinct", "Least", "Median", "Mean", "Largest"),
            [
                (
                    c["name"],
                    c.get("kind", DASH),
                    _share(c["missing"]),
                    _count(c["distinct"]) if "distinct" in c else DASH,
                    *(_plain(c.get(key)) for key in ("min", "median", "mean", "max")),
                )
                for c in profile["columns"]
            ],
        )
        blocks.append(f"<details><summary>All columns</summary>{table}</details>")
    return "".join(blocks)


def _plain(value: object) -> str:
    if value is None:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.6g}"
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)


def _facts(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested facts as flat lines, `search best depth`; long values are cut."""
    for key, own in value.items():
        name = f"{prefix} {key}".strip().replace("_", " ")
        if isinstance(own, Mapping) and own:
            yield from _facts(own, name)
        else:
            text = _plain(own)
            yield name, text if len(text) <= 400 else text[:400] + " …"


def _run_facts(page: _Page) -> list[tuple[str, str]]:
    manifest = page.manifest
    features = [str(f["name"]) if isinstance(f, Mapping) else str(f) for f in manifest.get("features", ())]
    zone = manifest.get("time_zone")
    delay = manifest.get("label_delay_ms")
    facts = [
        ("version", page.version),
        ("champion", str(manifest.get("champion", "xgboost"))),
        ("parent", str(manifest.get("parent") or "none")),
        ("features", f"{len(features)}: {', '.join(features)}"),
        ("base currency", page.currency),
        ("time zone", str(zone.get("name") if isinstance(zone, Mapping) else zone or "UTC")),
    ]
    if delay is not None:
        facts.append(("label delay", f"{float(delay) / 86_400_000:g} days"))
    calibration = manifest.get("calibration")
    if isinstance(calibration, Mapping):
        facts.append(("calibration", ", ".join(f"{key} {_plain(own)}" for key, own in calibration.items())))
    return facts


def _run_section(page: _Page) -> str:
    table = _table("What was sealed", ("Fact", "Value"), _run_facts(page), text=(1,))
    training = dict(page.manifest.get("training") or {})
    if training:
        table += _table("How it was trained", ("Fact", "Value"), list(_facts(training)), text=(1,))
    libraries = page.manifest.get("libraries") or {}
    if libraries:
        table += _table(
            "Made with", ("Library", "Version"), sorted((str(k), str(v)) for k, v in libraries.items()), text=(1,)
        )
    return table


def _definitions_section(page: _Page) -> str:
    rows = [(LABELS.get(name, name), text) for name, text in DEFINITIONS.items()]
    more = (
        "Flagged means sent to review or declined. Weighted figures count a row as many times as its weight says. "
        "Resampling takes rows as independent, though customers recur: true uncertainty is somewhat larger."
    )
    return _table("What each figure means", ("Figure", "Meaning"), rows, text=(1,)) + f'<p class="note">{_e(more)}</p>'


# ------------------------------------------------------------------------------------------------------ model card


def _md(value: object) -> str:
    """Text as Markdown that stays text: no markup, no table breaks, no HTML."""
    text = html.escape(" ".join(str(value).split()), quote=False)
    return "".join(f"\\{c}" if c in "\\`*_[]|#!" else c for c in text)


def _md_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(map(_md, head))} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(map(_md, row))} |" for row in rows]
    return "\n".join(lines)


INTENDED = (
    "Scoring single payment transactions before they are authorised, together with lists and rules, to approve them, "
    "send them to human review, or decline them. The probability is calibrated; the reasons given with a decision are "
    "exact contributions to its log-odds."
)
NOT_INTENDED = (
    "Not intended: decisions about people beyond the transaction at hand (credit, employment, insurance), data whose "
    "columns or fraud patterns differ from the training data without a new training run, or use without a way for "
    "customers to have a declined payment looked at by a person."
)


def _card(page: _Page) -> str:
    metrics, counts = page.metrics, page.metrics["counts"]
    model, policy = metrics["model"], metrics["policy"]
    review, decline = page.thresholds
    first, second = page.summary()
    names = [str(f["name"]) if isinstance(f, Mapping) else str(f) for f in page.manifest.get("features", ())]
    rows = [
        (
            label,
            _figure(name, model.get(name), page.currency),
            _range(name, model["intervals"].get(name)),
            _figure(name, policy[name], page.currency) if name in policy else DASH,
            _range(name, policy["intervals"].get(name)) if name in policy else DASH,
        )
        for name, label in LABELS.items()
    ]
    strongest = ", ".join(f"{_md(name)} ({value:.3f})" for name, value in _ranked(page.importance)[:5])
    if strongest:
        strongest = f"Strongest, by mean absolute contribution in log-odds: {strongest}."
    basis = (
        f"On {_count(counts['rows'])} test rows ({_count(counts['frauds'])} frauds; weighted "
        f"{_count(counts['weighted_frauds'])} of {_count(counts['weighted_rows'])}), {page.at}. A precision at another "
        "fraud rate is another number."
    )
    chosen = (
        f"Review from {review:.6g}, decline from {decline:.6g} (calibrated probability), chosen on validation rows for "
        "least cost under these assumptions:"
    )
    parts = [
        f"# Model card: {_md(page.version)}",
        f"{_md(first)}\n{_md(second)}",
        "## Intended use",
        INTENDED,
        NOT_INTENDED,
        "## Data",
        _card_data(page),
        "## Features",
        f"{len(names)} features: {', '.join(_md(name) for name in names)}." if names else "See the manifest.",
        strongest,
        "## Members",
        MEMBER_WORDS,
        _md_table(*_member_table(page)) if page.manifest.get("members") else "",
        f"Offered beside the first, on {_md(_judged_on(page))}:" if page.trials else "",
        _md_table(*_trial_table(page)) if page.trials else "",
        "## Figures",
        basis,
        _md_table(("Figure", FIGURE_NAMES["model"], "95 %", FIGURE_NAMES["policy"], "95 %"), rows),
        "## Thresholds",
        chosen,
        _md_table(("Assumption", "Value"), _cost_rows(page)),
        "## SMOTE",
        _balance_words(page) + (f" {_md(smote_verdict(page.ablation))}" if page.ablation else ""),
        _md_table(*_ablation_table(page)) if page.ablation else "This run was made without the comparison.",
        "## Limits",
        "\n".join(
            f"- {line}"
            for line in (
                "Fraud changes: these figures describe the period tested, not the next one. Watch drift and retrain.",
                "Labels come late and are incomplete: an undetected fraud counts as legitimate here.",
                "A missing value is filled with the training population's; the more is missing, the less a score says.",
                "Intervals take rows as independent and say nothing of change over time or between institutions.",
                "Fairness between groups of customers was not measured: the data names no such groups.",
                "Savings rest on the assumed costs and on the volume of the test rows.",
            )
        ),
        "## Facts",
        _md_table(("Fact", "Value"), [*_run_facts(page), *_facts(dict(page.manifest.get("training") or {}))]),
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part) + "\n"


def _card_data(page: _Page) -> str:
    profile = page.profile
    if "rows" not in profile:
        return "See the report."
    rate = profile.get("fraud_rate") or {}
    text = (
        f"{_count(profile['rows'])} transactions with {_count(profile.get('frauds', 0))} frauds, "
        f"{_md(profile.get('first'))} to {_md(profile.get('last'))} (UTC), fraud rate {_share(rate.get('sample'))} of "
        f"the rows, {_share(rate.get('weighted'))} by weight."
    )
    if not profile.get("parts"):
        return text
    return f"{text}\n\n" + _md_table(
        ("Part", "Rows", "Frauds", "Fraud rate", "From (UTC)", "To (UTC)"),
        [
            (
                str(p["name"]),
                _count(p["rows"]),
                _count(p["frauds"]),
                _share(p["weighted_fraud_rate"]),
                p["first"] or DASH,
                p["last"] or DASH,
            )
            for p in profile["parts"]
        ],
    )


# ------------------------------------------------------------------------------------------------------- the files


def write_report(
    out: Path | None,
    *,
    manifest: Mapping[str, Any],
    test: Scored,
    metrics: Json,
    curves: Json,
    ablation: Sequence[Mapping[str, Any]],
    importance: Sequence[Mapping[str, Any]],
    shap_sample: tuple[Floats, Floats] | None,
    data_profile: Json,
    thresholds: tuple[float, float],
    costs: Costs,
    trials: Sequence[Mapping[str, Any]] = (),
) -> dict[str, bytes]:
    """The report's files by name, also written into the folder `out` (made if need be) unless that is None.

    Files: report.html, model_card.md, precision_recall.png, roc.png, threshold_cost.png, calibration.png,
    confusion_matrix.png, shap_summary.png, data_profile.png (a picture whose data is missing is left out).

    `manifest`: the bundle's manifest as a plain dict (version, created_at, champion, parent, features [{name}],
    members [{name, kind, weight}], currency {base}, time_zone {name}, label_delay_ms, calibration, training, libraries;
    all optional). `metrics` and
    `curves`: from `training.metrics`, of the rows `test`. `ablation`: [{"name", "metrics": {average_precision, ...,
    "intervals"?}, "note"?, "chosen"?}]. `importance`: [{"feature", "mean_abs", ...}], any order. `shap_sample`:
    contributions (n, f) in log-odds and raw feature values (n, f, NaN = missing), columns as in manifest["features"].
    `data_profile`: from `data_profile`. `thresholds`: review, decline. `trials`: [{"name", "share",
    "before", "after", "low", "high", "shipped"}], what members were worth. The same input gives the same bytes.
    ValueError where `shap_sample` does not fit the manifest's features.
    """
    names = [str(f["name"]) if isinstance(f, Mapping) else str(f) for f in manifest.get("features", ())]
    if shap_sample is not None:
        shapes = [part.shape for part in shap_sample]
        if shapes[0] != shapes[1] or len(shapes[0]) != 2 or shapes[0][1] != len(names):
            raise ValueError(
                f"write_report: shap_sample has shapes {shapes[0]} and {shapes[1]}, expected (n, {len(names)}) for the "
                "manifest's features."
            )
        if shapes[0][0] == 0:
            shap_sample = None
    pictures = _Pictures(
        metrics, curves, data_profile, importance, shap_sample, names, thresholds, _currency(manifest)
    ).files
    page = _Page(
        dict(manifest), test, metrics, curves, ablation, importance, data_profile, thresholds, costs, pictures, trials
    )
    files = {
        "report.html": _html(page).encode("utf-8"),
        "model_card.md": _card(page).encode("utf-8"),
        **pictures,
    }
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            _replace(out / name, data)
    return files


def _replace(path: Path, data: bytes) -> None:
    """Write whole or not at all."""
    descriptor, temporary = tempfile.mkstemp(prefix=".new-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
