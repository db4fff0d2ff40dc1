"""docs/from-amazon-fraud-detector.md: its mapping reads its CSV, and its rules judge as the page says."""

import re
from pathlib import Path
from typing import Any

import pytest

from fraud_api_lambda.errors import RulesError
from fraud_api_lambda.features import FeatureSet
from fraud_api_lambda.rules import RuleSet, decide, load_rules
from fraud_api_lambda.schemas import RateTable, Thresholds, parse_transaction, to_event
from training.dataset import DataError, load

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "from-amazon-fraud-detector.md").read_text()
LABELLED = ("EVENT_LABEL=fraud", "EVENT_LABEL=legit")
FAR = 2**52


def block(language: str, beginning: str) -> str:
    """The page's code block of a language that begins so."""
    found = re.findall(rf"^```{language}\n({re.escape(beginning)}.*?)^```", PAGE, flags=re.M | re.S)
    assert len(found) == 1, beginning
    return str(found[0])


# --- the mapping file ------------------------------------------------------------------------------------------------


def files(folder: Path, csv: str | None = None, mapping: str | None = None) -> tuple[str, str]:
    events, lines = folder / "events.csv", folder / "map.yaml"
    events.write_text(csv or block("csv", "EVENT_ID"))
    lines.write_text(mapping or block("yaml", "columns:"))
    return str(events), str(lines)


def test_the_mapping_reads_labels_parties_money_and_codes_as_they_were(tmp_path: Path) -> None:
    events, mapping = files(tmp_path)
    frame = load(events, "csv", mapping=mapping, where=LABELLED)
    assert frame["transaction_id"].tolist() == ["e-1", "e-2"]
    assert frame["is_fraud"].tolist() == [0, 1]
    assert frame["customer_id"].tolist() == ["C100", "C101"]
    assert frame["counterparty_id"].tolist() == ["M7", "M9"]
    assert frame["amount"].tolist() == [25.5, 940.0]
    assert frame["currency"].tolist() == ["USD", "USD"]
    assert frame["attributes.card_bin"].tolist() == ["007123", "431940"]
    assert frame["time_ms"].tolist() == [1_756_720_800_000, 1_756_721_100_000]
    assert frame["label_ms"].tolist() == [1_759_276_800_000, 1_757_419_200_000]
    assert "attributes.ip" not in frame


def test_the_pages_command_leaves_out_what_has_no_label() -> None:
    command = block("bash", "python -m training run")
    assert tuple(re.findall(r"--where (\S+)", command)) == LABELLED


def test_without_where_an_event_without_a_label_is_refused(tmp_path: Path) -> None:
    events, mapping = files(tmp_path)
    with pytest.raises(DataError, match="EVENT_LABEL"):
        load(events, "csv", mapping=mapping)


def test_a_label_that_is_in_no_line_is_refused(tmp_path: Path) -> None:
    events, mapping = files(tmp_path, block("csv", "EVENT_ID").replace(",legit,", ",suspicious,"))
    with pytest.raises(DataError, match="EVENT_LABEL"):
        load(events, "csv", mapping=mapping, where=("EVENT_LABEL=fraud", "EVENT_LABEL=suspicious"))


def test_the_other_form_of_time_is_read_by_the_line_that_the_page_gives(tmp_path: Path) -> None:
    written = re.search(r"Times such as `([^`]+)`: `(timestamp: [^`]+)`", PAGE)
    assert written is not None
    csv = (
        block("csv", "EVENT_ID").replace("2025-09-01T10:00:00Z", written[1]).replace("2025-09-01T10:05:00Z", written[1])
    )
    mapping = block("yaml", "columns:").replace("timestamp: EVENT_TIMESTAMP", written[2], 1)
    frame = load(*files(tmp_path, csv, mapping)[:1], "csv", mapping=str(tmp_path / "map.yaml"), where=LABELLED)
    assert frame["time_ms"].tolist() == [1_554_894_300_000] * 2  # 2019-04-10T11:05Z


# --- the rules -------------------------------------------------------------------------------------------------------


def rules() -> RuleSet:
    return load_rules(block("yaml", "version: from-afd").encode())


def judged(customer_id: str = "C1", amount: float = 10.0, score: float = 0.01, **attributes: Any) -> tuple[str, ...]:
    """The outcome, who decided it and the rules that fired, beside a model that gives this score."""
    sent = {"amount": amount, "customer_id": customer_id, "timestamp": "2025-09-01T10:00:00Z", "attributes": attributes}
    event = to_event(parse_transaction(sent), RateTable("USD", 2), FAR)
    loaded = rules()
    fired = loaded.fired(event, FeatureSet().compute(event))
    verdict = decide(score, fired, Thresholds(review=0.3, decline=0.9), "review", loaded.listed(event))
    return verdict.outcome, verdict.decided_by, *(rule.id for rule in fired)


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ({"ip": "198.51.100.7"}, ("review", "rule", "block_ip")),
        ({"ip": "198.51.100.9"}, ("approve", "model")),
        ({}, ("approve", "model")),
        ({"amount": 900.01, "email": "Bob@GMAIL.com"}, ("review", "rule", "large_free_mail")),
        ({"amount": 900.0, "email": "Bob@GMAIL.com"}, ("approve", "model")),
        ({"amount": 901.0, "email": "bob@gmail.com.example.org"}, ("approve", "model")),
        ({"amount": 901.0, "email": "bob@gmailxcom"}, ("approve", "model")),
        ({"amount": 500.0, "card_bin": "555555"}, ("decline", "rule", "foreign_bin")),
        ({"amount": 499.99, "card_bin": "555555"}, ("approve", "model")),
        ({"amount": 500.0, "card_bin": "007123"}, ("approve", "model")),
        ({"amount": 500.0}, ("approve", "model")),
        ({"amount": 950.0, "card_bin": "5", "ip": "198.51.100.8"}, ("decline", "rule", "block_ip", "foreign_bin")),
        ({"score": 0.5, "ip": "198.51.100.7"}, ("review", "rule", "block_ip")),
        ({"score": 0.95, "ip": "198.51.100.7"}, ("decline", "model", "block_ip")),
        ({"customer_id": "C900"}, ("decline", "list")),
        ({"customer_id": "C902"}, ("approve", "model")),
    ],
)
def test_the_rules_judge_as_those_they_came_from(sent: dict[str, Any], expected: tuple[str, ...]) -> None:
    assert judged(**sent) == expected


@pytest.mark.parametrize("expression", re.findall(r"^\| `\$.*?\| `([a-z][^`]*)`", PAGE, flags=re.M))
def test_every_expression_of_the_table_compiles(expression: str) -> None:
    shown = expression.replace("[...]", '["x"]')
    assert load_rules(b"rules: [{id: a, outcome: review, expression: '%s'}]" % shown.encode()).rules


def test_a_rule_does_not_see_the_score() -> None:
    with pytest.raises(RulesError, match="undeclared reference to 'score'"):
        load_rules(b"rules: [{id: a, outcome: review, expression: score > 900}]")
    assert "Rules here do not see the model's score" in PAGE


def test_a_pattern_matches_a_part_unless_it_is_anchored() -> None:
    whole, part = (
        load_rules(b"rules: [{id: a, outcome: review, expression: 'attributes.x.matches(\"%s\")'}]" % pattern)
        for pattern in (b"^bc$", b"bc")
    )
    event = to_event(parse_transaction({"amount": 1.0, "attributes": {"x": "abcd"}}), RateTable("USD", 2), FAR)
    filled = FeatureSet().compute(event)
    assert not whole.fired(event, filled)
    assert part.fired(event, filled)
