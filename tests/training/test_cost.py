"""What a stack costs: arithmetic that can be done again on paper, and amounts that are the template's."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from fraud_api_lambda.metrics import EMF_FEW, EMF_UNITS
from tests.aws.settling import ROOT, made, read_template
from training import cost
from training.__main__ import app
from training.cost import Book, CostError, Price, bill, read_prices

BOOK = read_prices()


def usd(found: cost.Bill, price: str) -> float:
    return sum(line.usd for line in found.lines if line.price == price)


# --- a price ---------------------------------------------------------------------------------------------------------


def test_a_price_is_for_what_the_free_amount_leaves_over() -> None:
    price = Price(each=0.20, per=1_000_000, unit="invocations", free=1_000_000)
    assert price.of(0) == price.of(999_999) == price.of(1_000_000) == 0
    assert price.of(3_000_000) == pytest.approx(0.40)


def test_the_first_year_has_more_that_is_free() -> None:
    price = Price(each=3.50, per=1_000_000, unit="requests", first_year=1_000_000)
    assert price.of(1_000_000) == pytest.approx(3.50)
    assert price.of(1_000_000, first_year=True) == 0
    assert price.of(3_000_000, first_year=True) == pytest.approx(7.00)


# --- a bill ----------------------------------------------------------------------------------------------------------


def test_ten_million_requests_in_production_by_hand() -> None:
    found = bill(BOOK, 10_000_000, "production", billed_ms=200, memory_mb=1024)
    assert usd(found, "gateway_requests") == pytest.approx(35.00)
    assert usd(found, "lambda_requests") == pytest.approx((10_009_500 - 1_000_000) * 0.2e-6)
    assert usd(found, "lambda_gb_seconds") == pytest.approx((10_009_500 * 0.2 - 400_000) * 0.0000166667)
    assert usd(found, "dynamodb_write_requests") == pytest.approx(65 * 0.625)
    assert usd(found, "dynamodb_read_requests") == pytest.approx(20 * 0.125)
    assert usd(found, "dynamodb_storage") == pytest.approx((325 - 25) * 0.25), "13 months of 25 GB"
    assert usd(found, "dynamodb_backup") == pytest.approx(325 * 0.20)
    assert usd(found, "waf_acl") + usd(found, "waf_rules") == pytest.approx(5 + 3)
    assert usd(found, "waf_requests") == pytest.approx(6.00)
    assert found.usd == pytest.approx(sum(line.usd for line in found.lines))


def test_without_traffic_the_free_mode_costs_images_a_looked_at_queue_and_the_pointer() -> None:
    found = bill(BOOK, 0, "free")
    paid = {line.price for line in found.lines if line.usd > 0}
    assert paid == {"ecr_storage", "sqs", "s3_storage", "s3_reads"}
    assert found.usd < 0.30


def test_the_provisioned_capacity_is_just_what_is_free() -> None:
    for unit in ("dynamodb_write_capacity", "dynamodb_read_capacity"):
        (line,) = [line for line in bill(BOOK, 0, "free").lines if line.price == unit]
        assert line.amount == BOOK.prices[unit].free == cost.PROVISIONED * cost.HOURS
        assert line.usd == 0


def test_a_bill_never_falls_as_requests_grow() -> None:
    for mode in cost.MODES:
        bills = [bill(BOOK, requests, mode).usd for requests in (0, 1, 1_000, 100_000, 10_000_000, 10**9)]
        assert bills == sorted(bills)
        assert bills[0] < bills[-1]


def test_more_memory_and_longer_answers_cost_more_and_the_first_year_less() -> None:
    base = bill(BOOK, 50_000_000, "production")
    assert bill(BOOK, 50_000_000, "production", memory_mb=1024).usd > base.usd
    assert bill(BOOK, 50_000_000, "production", billed_ms=50).usd > base.usd
    assert bill(BOOK, 50_000_000, "production", first_year=True).usd < base.usd


# --- the amounts are the template's ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", cost.MODES)
def test_metrics_alarms_and_firewall_are_counted_as_the_template_has_them(mode: cost.Mode) -> None:
    from tests.aws.test_rollout import alarms, watched

    found = made(read_template(), CostMode=mode)
    counts = cost.COUNTS[mode]
    assert counts["alarms"] == sum(len(list(watched(alarm))) for alarm in alarms(found).values())
    assert counts["metrics"] == len(EMF_FEW if mode == "free" else EMF_UNITS)
    firewalls = [item for item in found["Resources"].values() if item["Type"] == "AWS::WAFv2::WebACL"]
    assert counts["waf_acl"] == len(firewalls)
    assert counts["waf_rules"] == sum(len(item["Properties"]["Rules"]) for item in firewalls)


def test_size_and_capacity_are_the_templates_defaults() -> None:
    parameters = read_template()["Parameters"]
    assert BOOK.usage["memory_mb"] == parameters["MemorySize"]["Default"]
    assert parameters["IndexWriteUnits"]["Default"] == cost.SUSTAINED
    assert BOOK.usage["months_kept"] == round(parameters["RetentionDays"]["Default"] / 30.4)


#: Resources that AWS takes nothing for, or whose use another line counts.
FREE_OF_CHARGE = (
    *("AWS::IAM::", "AWS::Lambda::Permission", "AWS::Lambda::Version", "AWS::Lambda::Alias", "AWS::CodeDeploy::"),
    *("AWS::Lambda::EventSourceMapping", "AWS::ApiGateway::Deployment", "AWS::ApiGateway::Stage", "AWS::Events::Rule"),
    *("AWS::ApiGateway::UsagePlan", "AWS::ApiGateway::ApiKey", "AWS::SSM::Parameter", "AWS::S3::BucketPolicy"),
    *("AWS::SNS::", "AWS::Budgets::Budget", "AWS::WAFv2::WebACLAssociation"),
)
BILLED = {
    "AWS::ApiGateway::RestApi": "gateway_requests",
    "AWS::Lambda::Function": "lambda_gb_seconds",
    "AWS::DynamoDB::Table": "dynamodb_storage",
    "AWS::SQS::Queue": "sqs",
    "AWS::S3::Bucket": "s3_storage",
    "AWS::Logs::LogGroup": "logs",
    "AWS::CloudWatch::Alarm": "alarms",
    "AWS::CloudWatch::Dashboard": "dashboards",
    "AWS::WAFv2::WebACL": "waf_acl",
}


@pytest.mark.parametrize("mode", cost.MODES)
def test_every_kind_of_resource_is_free_of_charge_or_has_a_line(mode: cost.Mode) -> None:
    lines = {line.price for line in bill(BOOK, 1, mode).lines}
    for name, item in made(read_template(), CostMode=mode)["Resources"].items():
        if not item["Type"].startswith(FREE_OF_CHARGE):
            assert BILLED[item["Type"]] in lines, name


# --- the file and the command ----------------------------------------------------------------------------------------


def test_the_price_file_says_of_when_and_whence_it_is() -> None:
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", BOOK.date)
    assert BOOK.region == "us-east-1"
    assert "aws.amazon.com" in BOOK.source
    used = {line.price for mode in cost.MODES for line in bill(BOOK, 1, mode).lines}
    assert used == set(BOOK.prices), "a price that nothing costs, or a cost without a price"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data.pop("prices"),
        lambda data: data["prices"].pop("logs"),
        lambda data: data["usage"].pop("memory_mb"),
        lambda data: data["prices"]["logs"].update(each=-1),
        lambda data: data["prices"]["logs"].update(per=0),
        lambda data: data["prices"]["logs"].update(each="much"),
        lambda data: data["prices"]["logs"].update(currency="EUR"),
    ],
)
def test_a_price_file_that_cannot_be_right_is_refused_in_one_line(tmp_path: Path, spoil: Any) -> None:
    data = yaml.safe_load(cost.PRICES.read_text())
    spoil(data)
    file = tmp_path / "prices.yaml"
    file.write_text(yaml.safe_dump(data))
    with pytest.raises(CostError) as refused:
        read_prices(file)
    assert "\n" not in str(refused.value)


def run(*words: str) -> Any:
    return CliRunner().invoke(app, ["cost", *words])


def test_the_command_shows_both_modes_at_nothing_a_hundred_thousand_and_ten_million() -> None:
    done = run()
    assert done.exit_code == 0
    head = done.stdout.splitlines()[0]
    for mode in cost.MODES:
        for requests in ("0", "100,000", "10,000,000"):
            assert re.search(rf" {mode} {requests}(?: |$)", head)
    assert "3 decisions a second" in done.stdout, "more than the free tables take is said"
    assert "3 decisions a second" not in run("--requests", "1000").stdout


def test_the_command_gives_the_same_figures_as_json() -> None:
    done = run("--requests", "100000", "--mode", "production", "--json")
    (found,) = json.loads(done.stdout)["bills"]
    assert found["usd"] == pytest.approx(bill(BOOK, 100_000, "production").usd)
    assert found["usd"] == pytest.approx(sum(line["usd"] for line in found["lines"]))


def test_the_command_takes_other_prices_and_refuses_what_is_no_mode(tmp_path: Path) -> None:
    data = yaml.safe_load(cost.PRICES.read_text())
    data["prices"]["gateway_requests"]["each"] = 350.0
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(data))
    dear = run("--requests", "1000000", "--mode", "free", "--prices", str(tmp_path / "p.yaml"), "--json")
    assert json.loads(dear.stdout)["bills"][0]["usd"] > 350
    assert run("--mode", "cheap").exit_code == 2
    missing = run("--prices", str(tmp_path / "none.yaml"))
    assert missing.exit_code == 1
    assert len(missing.stderr.splitlines()) == 1


# --- docs/cost.md ----------------------------------------------------------------------------------------------------

DOCUMENT = ROOT / "docs" / "cost.md"


def test_the_documents_table_is_what_the_command_prints() -> None:
    block = re.search(r"<!-- python -m training cost -->\n```text\n(.*?)\n```", DOCUMENT.read_text(), flags=re.S)
    assert block is not None
    assert block[1].split() == run().stdout.split()


def test_the_documents_memory_table_is_what_the_benchmark_kept() -> None:
    kept = json.loads((ROOT / "benchmarks" / "results.json").read_text())["memory"]
    told = re.findall(r"^\| (\d+) \| ([\d.]+) \| ([\d.]+) \| ([\d,]+) \|$", DOCUMENT.read_text(), flags=re.M)
    assert [row[0] for row in told] == sorted(kept["sizes"], key=int)
    for size, start, request, billed in told:
        assert start == f"{kept['sizes'][size]['start_s']:.1f}"
        assert request == f"{kept['sizes'][size]['request_ms']:.1f}"
        assert billed == f"{kept['sizes'][size]['gb_s_a_million']:,.0f}"


def test_what_a_request_takes_by_the_price_file_is_what_was_measured_and_what_the_platform_adds() -> None:
    kept = json.loads((ROOT / "benchmarks" / "results.json").read_text())["memory"]
    use: Book = BOOK
    measured = kept["sizes"][str(int(use.usage["memory_mb"]))]["request_ms"]
    assert measured < use.usage["billed_ms"] < measured + 30, "processor time, and three round trips"
    assert kept["log_bytes"] / 1000 < use.usage["log_kb"] < kept["log_bytes"] / 1000 + 1
