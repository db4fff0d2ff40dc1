"""The report as its readers get it: the page, the pictures, the card, and the data profile behind them."""

from __future__ import annotations

import base64
import json
import re
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest

from training.metrics import DAY_MS, Costs, Scored, curves, metrics
from training.report import data_profile, smote_verdict, write_report

FEATURES = ("amount", "hour_of_day", "oldbalance_orig", "is_transfer")
PICTURES = {
    *("precision_recall.png", "roc.png", "threshold_cost.png", "calibration.png", "confusion_matrix.png"),
    *("shap_summary.png", "data_profile.png"),
}
START = 1_672_531_200_000
HOSTILE = "<script>alert(1)</script>&\"'|`$x$"


def frame(n: int = 3_000, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    fraud = (rng.random(n) < 0.03).astype(np.int8)
    fraud[:2] = (0, 1)
    kind = pd.Categorical(np.where(rng.random(n) < 0.7, "PAYMENT", "TRANSFER"))
    balance = rng.lognormal(6, 1, n)
    balance[::5] = np.nan
    return pd.DataFrame(
        {
            "time_ms": np.sort(rng.integers(0, 30 * DAY_MS, n)) + START,
            "amount": np.where(rng.random(n) < 0.01, 0.0, rng.lognormal(4, 1, n)),
            "type": kind,
            "customer_id": [f"C{i}" for i in rng.integers(0, 400, n)],
            "oldbalanceOrg": balance,
            "is_fraud": fraud,
            "weight": np.where(fraud == 1, 1.0, 4.0),
        }
    )


def inputs(n: int = 3_000, *, features: tuple[str, ...] = FEATURES) -> dict[str, Any]:
    rows = frame(n)
    rng = np.random.default_rng(1)
    fraud = rows["is_fraud"].to_numpy()
    probability = 1 / (1 + np.exp(-(rng.normal(-4, 1.2, n) + fraud * rng.normal(5, 2, n))))
    model = ((probability >= 0.2).astype(np.int8) + (probability >= 0.6)).astype(np.int8)
    test = Scored(
        is_fraud=fraud,
        probability=probability,
        model_outcome=model,
        policy_outcome=np.maximum(model, (rng.random(n) < 0.01).astype(np.int8)),
        amount=rows["amount"].to_numpy(),
        weight=rows["weight"].to_numpy(),
        time_ms=rows["time_ms"].to_numpy(),
        party=pd.factorize(rows["customer_id"])[0].astype(np.int64),
    )
    costs = Costs()
    figures = metrics(test, costs=costs, bootstrap=50)
    contributions = rng.normal(0, 1, (400, len(features))) * np.arange(len(features), 0, -1)
    raw = contributions + rng.normal(0, 1, contributions.shape)
    raw[::7, 2] = np.nan
    cut = n // 2
    return {
        "manifest": {
            "version": "2026-11-20-abcdef",
            "created_at": "2026-11-20T00:00:00Z",
            "champion": "xgboost",
            "features": [{"name": name, "version": 1} for name in features],
            "currency": {"base": "EUR", "minor_units": 2},
            "time_zone": {"name": "UTC"},
            "label_delay_ms": 7 * DAY_MS,
            "calibration": {"slope": 0.9, "intercept": -0.4},
            "members": [
                {"name": "xgboost", "kind": "forest", "weight": 0.6543},
                {"name": "linear", "kind": "linear", "weight": 0.4},
            ],
            "training": {"format": "paysim", "search": {"smote_ratio": 0.1}},
            "libraries": {"numpy": "2.5"},
        },
        "test": test,
        "metrics": figures,
        "curves": curves(test, costs=costs),
        "ablation": [
            {"name": "SMOTE 0.1", "metrics": figures, "chosen": True},
            {"name": "none", "metrics": {**figures, "average_precision": figures["average_precision"] + 0.001}},
            {"name": "scale_pos_weight", "metrics": figures, "note": "weights instead of new rows"},
            {"name": "SMOTE 0.1, without balances", "metrics": {"average_precision": 0.275}},
        ],
        "importance": [
            {"feature": name, "mean_abs": float(np.abs(contributions[:, i]).mean())} for i, name in enumerate(features)
        ],
        "shap_sample": (contributions, raw),
        "data_profile": data_profile(rows, {"train": slice(0, cut), "test": slice(cut, n)}),
        "thresholds": (0.2, 0.6),
        "costs": costs,
        "trials": [
            {"name": "linear", "share": 0.4, "weight": 0.4, "before": 0.7312, "after": 0.7468, "low": 0.0021,
             "high": 0.0305, "shipped": True},
            {"name": "isolation", "share": 0.01, "weight": 0.02, "before": 0.7468, "after": 0.7467, "low": -0.0009,
             "high": 0.0007, "shipped": False},
        ],
    }  # fmt: skip


class Page(HTMLParser):
    """Tags that were opened and never closed, attributes seen, visible text."""

    VOID = frozenset({"meta", "img", "br", "input", "link"})

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join("".join(self.text).replace("\u00a0", " ").split())


@pytest.fixture(scope="module")
def given() -> dict[str, Any]:
    return inputs()


@pytest.fixture(scope="module")
def files(given: dict[str, Any]) -> dict[str, bytes]:
    return write_report(None, **given)


def test_the_page_is_one_file_that_asks_for_nothing_from_outside(files: dict[str, bytes]) -> None:
    text = files["report.html"].decode()
    page = Page(text)
    assert page.open == []
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "iframe", "object", "embed", "form", "base"}
    for tag, attributes in page.tags:
        if tag == "img":
            assert (attributes["src"] or "").startswith("data:image/png;base64,")
        if "href" in attributes:
            assert (attributes["href"] or "").startswith("#")
        assert not [name for name in attributes if name.startswith("on")]
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert "default-src 'none'" in text
    assert len(files["report.html"]) < 1_500_000


def test_the_page_reads_in_light_and_dark_and_has_a_table_of_contents(files: dict[str, bytes]) -> None:
    page = Page(files["report.html"].decode())
    assert "prefers-color-scheme:dark" in files["report.html"].decode()
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    links = {(attributes["href"] or "")[1:] for tag, attributes in page.tags if tag == "a"}
    assert links == ids
    assert {"figures", "ranking", "costs", "calibration", "features", "ablation", "data"} <= links
    assert [tag for tag, _ in page.tags].count("h1") == 1


def test_every_picture_is_in_the_page_with_words_for_those_who_cannot_see_it(files: dict[str, bytes]) -> None:
    page = Page(files["report.html"].decode())
    shown = [attributes for tag, attributes in page.tags if tag == "img"]
    assert all(len(attributes["alt"] or "") > 40 for attributes in shown)
    embedded = {base64.b64decode((attributes["src"] or "").split(",")[1]) for attributes in shown}
    assert embedded == {files[name] for name in PICTURES}
    for name in PICTURES:
        assert files[name].startswith(b"\x89PNG\r\n\x1a\n")
        assert len(files[name]) > 5_000


def test_precision_always_stands_beside_its_fraud_rate(given: dict[str, Any], files: dict[str, bytes]) -> None:
    rate = f"{given['metrics']['fraud_rate']['weighted'] * 100:.3f} %"
    for text in (Page(files["report.html"].decode()).words, files["model_card.md"].decode()):
        assert f"at a fraud rate of {rate}" in text
    captions = re.findall(r"<caption>(.*?)</caption>", files["report.html"].decode())
    assert any("All figures at a fraud rate of" in caption for caption in captions)


def test_the_summary_says_what_is_caught_and_what_it_is_worth(given: dict[str, Any], files: dict[str, bytes]) -> None:
    words = Page(files["report.html"].decode()).words
    policy = given["metrics"]["policy"]
    assert f"catches {policy['recall'] * 100:.1f} % of the frauds" in words
    assert "Against approving everything that saves EUR" in words
    assert "SMOTE lowered average precision by 0.0010" in words


def test_the_model_card_tells_use_limits_thresholds_costs_and_smote(files: dict[str, bytes]) -> None:
    card = files["model_card.md"].decode()
    assert card.startswith("# Model card: 2026-11-20-abcdef\n")
    for title in ("Intended use", "Data", "Features", "Figures", "Thresholds", "SMOTE", "Limits", "Facts"):
        assert f"\n## {title}\n" in card
    assert "Review from 0.2, decline from 0.6" in card
    assert "inside the training fold only" in card
    assert "| scale\\_pos\\_weight |" in card
    assert "label delay | 7 days" in card
    for block in re.findall(r"(?:^\|.*\n)+", card, re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1, block


@pytest.mark.parametrize("name", ["report.html", "model_card.md"])
def test_members_stand_with_their_weights_and_what_each_was_worth(given: dict[str, Any], name: str) -> None:
    text = re.sub(r"<[^>]+>", " ", write_report(None, **given)[name].decode())
    for words in ("0.6543", "logistic regression: log-odds", "0.7312", "0.7468", "+0.0156", "+0.0021 to +0.0305"):
        assert words in text, words
    assert text.count("not shipped") == 1
    assert "on the validation rows" in text
    manifest = {**given["manifest"], "training": {"rehearsal": "rehearsal: train a..b, test c..d"}}
    staged = re.sub(r"<[^>]+>", " ", write_report(None, **{**given, "manifest": manifest})[name].decode())
    assert "on the test rows of the rehearsal: train a..b, test c..d" in staged.replace("\\", "")


def test_the_same_input_gives_the_same_bytes_whatever_the_machines_matplotlib_settings(
    given: dict[str, Any], files: dict[str, bytes]
) -> None:
    with matplotlib.rc_context({"font.size": 22, "axes.grid": False, "figure.facecolor": "black"}):
        again = write_report(None, **given)
        assert matplotlib.rcParams["font.size"] == 22
    assert again == files


def test_the_files_are_written_whole_into_a_new_folder(tmp_path: Path, given: dict[str, Any]) -> None:
    folder = tmp_path / "new" / "report"
    written = write_report(folder, **given)
    assert {path.name for path in folder.iterdir()} == {"report.html", "model_card.md", *PICTURES} == set(written)
    assert all((folder / name).read_bytes() == data for name, data in written.items())


def test_names_from_data_are_shown_as_text_never_as_markup() -> None:
    hostile = inputs(400, features=(HOSTILE, "b", "c", "d"))
    hostile["manifest"] |= {
        "version": HOSTILE,
        "champion": HOSTILE,
        "training": {HOSTILE: {"inner": HOSTILE}},
        "libraries": {HOSTILE: HOSTILE},
    }
    hostile["ablation"] = [{"name": HOSTILE, "metrics": {"average_precision": 0.5}, "note": HOSTILE}]
    rows = frame(400).rename(columns={"customer_id": f"attributes.{HOSTILE}"})
    rows["type"] = pd.Categorical(np.full(400, HOSTILE))
    hostile["data_profile"] = data_profile(rows, {HOSTILE: slice(None)})
    made = write_report(None, **hostile)
    page = Page(made["report.html"].decode())
    assert page.open == []
    assert "script" not in {tag for tag, _ in page.tags}
    assert page.words.count("<script>alert(1)</script>") >= 8
    assert "<script" not in made["model_card.md"].decode()


def test_a_run_without_comparison_contributions_or_profile_still_gets_a_report(given: dict[str, Any]) -> None:
    bare = {
        **given,
        "ablation": [],
        "importance": [],
        "shap_sample": None,
        "data_profile": {},
        "manifest": {"version": "v"},
    }
    made = write_report(None, **bare)
    assert set(made) == {"report.html", "model_card.md", *PICTURES} - {"shap_summary.png", "data_profile.png"}
    words = Page(made["report.html"].decode()).words
    assert "made without the comparison" in words
    assert "No data profile was made" in words


@pytest.mark.parametrize("label", [0, 1])
def test_test_rows_of_one_class_still_give_a_report(given: dict[str, Any], label: int) -> None:
    test = replace(given["test"], is_fraud=np.full_like(given["test"].is_fraud, label))
    made = write_report(
        None, **{**given, "test": test, "metrics": metrics(test, costs=given["costs"]), "curves": curves(test)}
    )
    assert "roc.png" not in made
    words = Page(made["report.html"].decode()).words
    assert "Not drawn" in words
    assert "nan" not in words.casefold()


def test_curves_read_back_from_json_draw_the_same_page(given: dict[str, Any], files: dict[str, bytes]) -> None:
    stored = json.loads(json.dumps({key: given[key] for key in ("metrics", "curves", "data_profile", "manifest")}))
    assert write_report(None, **{**given, **stored}) == files


def test_contributions_that_do_not_fit_the_features_are_refused(given: dict[str, Any]) -> None:
    values = np.zeros((5, 3))
    with pytest.raises(ValueError, match=r"expected \(n, 4\) for the manifest's features"):
        write_report(None, **{**given, "shap_sample": (values, values)})


def test_an_extreme_bundle_is_drawn_too(given: dict[str, Any]) -> None:
    test = given["test"]
    perfect = replace(test, probability=np.where(test.is_fraud == 1, 1.0, 0.0))
    constant = replace(test, probability=np.full(len(test.probability), 0.03))
    for rows in (perfect, constant):
        made = write_report(
            None, **{**given, "test": rows, "metrics": metrics(rows, costs=Costs()), "curves": curves(rows)}
        )
        assert set(made) >= PICTURES


def test_the_report_takes_seconds(given: dict[str, Any]) -> None:
    start = time.process_time()
    write_report(None, **given)
    assert time.process_time() - start < 8


# ---------------------------------------------------------------------------------------------- SMOTE, data profile


@pytest.mark.parametrize(
    ("smote", "plain", "sentence"),
    [
        (0.90, 0.95, "SMOTE lowered average precision by 0.0500 (0.9000 with, 0.9500 without)"),
        (0.95, 0.90, "SMOTE raised average precision by 0.0500"),
        (0.95, 0.95, "SMOTE left average precision unchanged at 0.9500"),
    ],
)
def test_what_smote_did_is_said_whichever_way_it_went(smote: float, plain: float, sentence: str) -> None:
    rows = [
        {"name": "without SMOTE", "metrics": {"average_precision": plain, "ece": 0.01}},
        {"name": "SMOTE 0.1", "metrics": {"average_precision": smote, "ece": 0.02}},
        {"name": "SMOTE 0.1, without balances", "metrics": {"average_precision": 0.1}},
    ]
    text = smote_verdict(rows)
    assert sentence in text
    assert "calibration error is 0.0200 with and 0.0100 without" in text
    assert smote_verdict(rows[:1]) == ""


def test_the_profile_counts_what_the_frame_holds() -> None:
    rows = frame()
    got = data_profile(rows, {"train": np.arange(2_000), "test": np.arange(3_000) >= 2_000, "none": slice(0, 0)})
    json.dumps(got, allow_nan=False)
    fraud = rows["is_fraud"]
    assert got["rows"] == 3_000
    assert got["frauds"] == fraud.sum()
    assert got["fraud_rate"]["weighted"] == pytest.approx(np.average(fraud, weights=rows["weight"]))
    assert [p["rows"] for p in got["parts"]] == [2_000, 1_000, 0]
    assert sum(p["frauds"] for p in got["parts"]) == fraud.sum()
    columns = {c["name"]: c for c in got["columns"]}
    assert columns["oldbalanceOrg"]["missing"] == 0.2
    assert columns["customer_id"]["distinct"] == rows["customer_id"].nunique()
    assert got["amount_zero"] == (rows["amount"] == 0).mean()
    transfer = rows[rows["type"] == "TRANSFER"]
    kinds = {t["type"]: t for t in got["types"]}
    assert kinds["TRANSFER"]["rows"] == len(transfer)
    assert kinds["TRANSFER"]["fraud_rate"] == pytest.approx(
        np.average(transfer["is_fraud"], weights=transfer["weight"])
    )
    assert sum(h["rows"] for h in got["hours"]) == sum(d["rows"] for d in got["days"]) == 3_000
    assert sum(d["frauds"] for d in got["days"]) == fraud.sum()


def test_the_profile_names_no_person() -> None:
    rows = frame()
    text = json.dumps(data_profile(rows))
    assert not [own for own in rows["customer_id"].unique() if f'"{own}"' in text]


def test_hours_follow_the_time_zone_and_long_periods_are_shown_by_week() -> None:
    rows = frame(200)
    rows["time_ms"] = START + np.arange(200) * DAY_MS
    got = data_profile(rows, time_zone="Asia/Tokyo")
    assert [h["hour"] for h in got["hours"] if h["rows"]] == [9]
    assert got["days_per_bucket"] == 7
    assert len(got["days"]) == 29


def test_a_frame_of_amount_and_label_only_has_a_profile() -> None:
    rows = frame(50)[["time_ms", "amount", "is_fraud"]]
    got = data_profile(rows)
    assert "types" not in got
    assert got["fraud_rate"]["sample"] == got["fraud_rate"]["weighted"]
    with pytest.raises(ValueError, match="no rows"):
        data_profile(rows.iloc[:0])
