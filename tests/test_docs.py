"""The documents keep their word: what exists is documented, what is documented exists, links lead somewhere."""

import json
import math
import re
from dataclasses import fields
from pathlib import Path

import pytest
import typer

from fraud_api_lambda import profiles
from fraud_api_lambda.features import FEATURES, NAMES, FeatureSet, Past
from fraud_api_lambda.schemas import Decision, RateTable, Transaction, parse_json, parse_transaction, to_event
from fraud_api_lambda.settings import IGNORED, Settings
from training.__main__ import app as commands

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
GUIDES = sorted(ROOT.glob("docs/*.md"))
RECORDS = sorted(ROOT.glob("docs/adr/*.md"))
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *GUIDES, *RECORDS]
TOLD = README + "".join(path.read_text() for path in GUIDES)

NOW = 1_770_000_000_000
DAY = profiles.DAY_MS


def mentions(name: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", TOLD) is not None


# --- what exists is documented ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*(f"FRAUD_{field.name.upper()}" for field in fields(Settings)), *sorted(IGNORED)])
def test_every_setting_is_documented(name: str) -> None:
    assert mentions(name), f"{name} stands neither in README.md nor in docs/"


def test_the_settings_page_tells_every_default() -> None:
    page = (ROOT / "docs" / "settings.md").read_text()
    told = dict(re.findall(r"^\| `FRAUD_(\w+)` \| `?([^`|]+?)`? \|", page, flags=re.M))
    assert {name.lower() for name in told} == {field.name for field in fields(Settings)}
    for name, default in told.items():
        actual = getattr(Settings(), name.lower())
        assert default == (str(actual) if actual else "none"), f"FRAUD_{name}"


@pytest.mark.parametrize("target", re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), flags=re.M))
def test_every_make_target_is_documented(target: str) -> None:
    assert mentions(f"make {target}"), f"make {target} stands neither in README.md nor in docs/"


@pytest.mark.parametrize("command", sorted(typer.main.get_command(commands).commands))  # type: ignore[attr-defined]
def test_every_command_is_documented(command: str) -> None:
    rows = re.findall(r"^\| (`python -m training [^|]+) \|", README, flags=re.M)
    in_table = any(f"`{command}`" in row or f"`python -m training {command}`" in row for row in rows)
    assert in_table, f"README.md has no row for python -m training {command}"


def test_every_guide_and_every_record_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    for path in [*GUIDES, *RECORDS]:
        name = path.relative_to(ROOT / "docs").as_posix()
        assert name == "README.md" or f"]({name})" in index, f"docs/README.md has no link to {name}"


# --- what is documented exists ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_between_documents_resolve(path: Path) -> None:
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:", target):
            file, _, anchor = target.partition("#")
            linked = (path.parent / file).resolve() if file else path
            assert linked.exists(), f"{target} leads nowhere"
            assert not anchor or anchor in anchors(linked), f"{target}: no such heading"


def anchors(path: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_no_named_setting_is_unknown() -> None:
    known = {f"FRAUD_{field.name.upper()}" for field in fields(Settings)} | IGNORED
    assert {name for name in re.findall(r"\bFRAUD_[A-Z]\w*", README) if not name.endswith("_")} <= known


def test_no_named_target_and_no_named_command_is_unknown() -> None:
    targets = set(re.findall(r"^([a-z-]+)[a-z -]*:", (ROOT / "Makefile").read_text(), flags=re.M))
    targets |= {"publish", "smoke", "destroy"}
    named = set(re.findall(r"(?:`|^)make ([a-z-]+)", TOLD, flags=re.M))
    assert named <= targets
    known = set(typer.main.get_command(commands).commands)  # type: ignore[attr-defined]
    assert set(re.findall(r"python -m training ([a-z-]+)", TOLD)) <= known


def test_the_readmes_curl_sends_a_transaction() -> None:
    found = re.search(r"curl .*?/predict .*?-d '(.*?)'", README, flags=re.S)
    assert found is not None
    transaction = parse_transaction(parse_json(found[1].encode()))
    assert to_event(transaction, RateTable("USD", 2), NOW + 400 * DAY).amount_minor == 450_000


def test_the_readmes_answer_has_the_fields_of_a_decision_in_their_order() -> None:
    found = re.search(r"^```jsonc\n(.*?)^```", README, flags=re.M | re.S)
    assert found is not None
    answer = json.loads(re.sub(r"^\s*//.*$", "", found[1], flags=re.M))
    assert list(answer) == [field.name for field in fields(Decision)]


def test_the_readme_stays_short() -> None:
    assert len(README.splitlines()) <= 250


# --- docs/features.md ------------------------------------------------------------------------------------------------


def rows() -> dict[str, list[str]]:
    """Feature -> the cells after its name."""
    lines = re.findall(r"^\| `(\w+)` \|(.*)\|$", (ROOT / "docs" / "features.md").read_text(), flags=re.M)
    return {name: [cell.strip() for cell in cells.split("|")] for name, cells in lines}


def test_every_feature_is_documented_in_the_order_of_the_columns() -> None:
    assert tuple(rows()) == NAMES


def test_units_ratios_and_versions_are_those_of_the_code() -> None:
    told = rows()
    for feature in FEATURES:
        cells = told[feature.name]
        assert cells[1] == feature.unit, feature.name
        assert ("recomputed" in cells[-1]) == (feature.kind == "ratio"), feature.name
        assert feature.version == 1 or f"version {feature.version}" in cells[0], feature.name


WHOLE = {
    "transaction_id": "now", "amount": 20.0, "type": "PAYMENT", "customer_id": "C", "counterparty_id": "M",
    "device_id": "D", "oldbalanceOrg": 50.0, "newbalanceOrig": 30.0, "oldbalanceDest": 5.0, "newbalanceDest": 25.0,
    "lat": 1.0, "long": 2.0,
}  # fmt: skip


def missing(sent: dict[str, object], *, before: tuple[int, ...] = ()) -> set[str]:
    """The features that are missing of a transaction, after some of the same parties so many ms earlier."""
    states: dict[str, list[int]] = {}
    for number, ago in enumerate(before):
        event = to_event(parse_transaction({**WHOLE, "transaction_id": f"t{number}"}), RateTable("USD", 2), NOW - ago)
        Past(event, states, NOW - ago).after(event)
    event = to_event(parse_transaction(sent), RateTable("USD", 2), NOW)
    values = FeatureSet().compute(event, Past(event, states, NOW))
    return {name for name, value in zip(NAMES, values.tolist(), strict=True) if math.isnan(value)}


def test_what_is_said_never_to_be_missing_never_is() -> None:
    never = {name for name, cells in rows().items() if cells[-1] == "never"}
    assert set(NAMES) - missing({"amount": 1.0}) == never


def test_what_is_said_to_need_a_past_is_missing_without_one_and_nothing_else_is() -> None:
    assert missing(WHOLE) == {name for name, cells in rows().items() if "nothing before" in cells[-1]}


PAST = (8 * DAY, 3_600_000)


def test_with_everything_sent_and_a_past_nothing_is_missing() -> None:
    assert missing(WHOLE, before=PAST) == set()


@pytest.mark.parametrize("field", [name for name in WHOLE if name not in {"transaction_id", "amount"}])
def test_a_field_that_is_not_sent_takes_away_the_features_that_say_so(field: str) -> None:
    assert field in Transaction.model_fields
    sent = {name: value for name, value in WHOLE.items() if name != field}
    said = {name for name, cells in rows().items() if f"no `{field}`" in cells[-1]}
    assert missing(sent, before=PAST) == said
