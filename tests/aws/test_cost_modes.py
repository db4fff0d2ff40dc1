"""CostMode: what is made for nothing, and what production turns on."""

import json
from typing import Any

import pytest

from tests.aws.settling import Template, made
from tests.aws.test_template import of_type, only, walk


def tables(template: Template) -> dict[str, Any]:
    return {name: item["Properties"] for name, item in of_type(template, "AWS::DynamoDB::Table").items()}


def test_free_is_the_default_and_the_environment_dev(template: Template) -> None:
    assert template["Parameters"]["CostMode"]["Default"] == "free"
    assert template["Parameters"]["Environment"]["Default"] == "dev"


def test_tables_are_provisioned_in_the_free_mode_and_on_demand_in_production(
    free: Template, production: Template
) -> None:
    for table in tables(free).values():
        assert table["BillingMode"] == "PROVISIONED"
        assert table["ProvisionedThroughput"].keys() == {"ReadCapacityUnits", "WriteCapacityUnits"}
    for _, node in walk(tables(production)):
        assert not isinstance(node, dict) or "ProvisionedThroughput" not in node, "refused beside PAY_PER_REQUEST"
    assert {table["BillingMode"] for table in tables(production).values()} == {"PAY_PER_REQUEST"}


def test_tables_are_otherwise_the_same_in_both_modes(free: Template, production: Template) -> None:
    def rest(template: Template) -> Any:
        left_out = {
            "BillingMode",
            "ProvisionedThroughput",
            "PointInTimeRecoverySpecification",
            "DeletionProtectionEnabled",
        }
        return json.loads(
            json.dumps(tables(template), sort_keys=True),
            object_hook=lambda node: {key: item for key, item in node.items() if key not in left_out},
        )

    assert rest(free) == rest(production)


def test_decisions_have_a_backup_to_the_second_in_production_and_profiles_are_made_anew_from_them(
    free: Template, production: Template
) -> None:
    for template, expected in ((free, False), (production, True)):
        backup = tables(template)["Decisions"]["PointInTimeRecoverySpecification"]
        assert backup == {"PointInTimeRecoveryEnabled": expected}
        assert "PointInTimeRecoverySpecification" not in tables(template)["Profiles"]


def test_there_is_no_firewall_in_the_free_mode(free: Template) -> None:
    assert not [name for name, item in free["Resources"].items() if item["Type"].startswith("AWS::WAFv2")]


def test_the_firewall_stands_before_the_stage_in_production(production: Template) -> None:
    stage = next(iter(of_type(production, "AWS::ApiGateway::Stage")))
    placed = only(production, "AWS::WAFv2::WebACLAssociation")["Properties"]["ResourceArn"]["Fn::Sub"]
    assert placed.endswith(f"::/restapis/${{FraudApi}}/stages/${{{stage}}}")
    firewall = only(production, "AWS::WAFv2::WebACL")["Properties"]
    assert firewall["Scope"] == "REGIONAL"
    assert len({rule["Priority"] for rule in firewall["Rules"]}) == len(firewall["Rules"]) == 3
    samples = [
        node["SampledRequestsEnabled"]
        for _, node in walk(firewall)
        if isinstance(node, dict) and "SampledRequestsEnabled" in node
    ]
    assert len(samples) == 4
    assert not any(samples), "a sample holds headers, and so keys"


def test_the_firewall_lets_a_whole_batch_through(production: Template) -> None:
    rules = only(production, "AWS::WAFv2::WebACL")["Properties"]["Rules"]
    (common,) = [rule for rule in rules if rule["Name"] == "common"]
    overrides = common["Statement"]["ManagedRuleGroupStatement"]["RuleActionOverrides"]
    assert overrides == [{"Name": "SizeRestrictions_BODY", "ActionToUse": {"Count": {}}}]


def test_a_budget_of_a_cent_tells_when_anything_costs_something(free: Template) -> None:
    budget = only(free, "AWS::Budgets::Budget")["Properties"]
    assert budget["Budget"]["BudgetLimit"] == {"Amount": 0.01, "Unit": "USD"}
    assert budget["Budget"]["CostTypes"]["IncludeCredit"] is False, "a credit hides what is spent"
    (told,) = budget["NotificationsWithSubscribers"]
    assert told["Notification"]["NotificationType"] == "ACTUAL"
    assert told["Subscribers"] == [{"SubscriptionType": "SNS", "Address": {"Ref": "AlarmTopic"}}]


#: What costs something for as long as it is there, whatever the traffic.
BILLED_BY_THE_HOUR = (
    *("AWS::EC2::", "AWS::RDS::", "AWS::ElastiCache::", "AWS::ECS::", "AWS::ElasticLoadBalancing", "AWS::WAFv2::"),
    *("AWS::KMS::", "AWS::SecretsManager::", "AWS::CodeBuild::", "AWS::ECR::", "AWS::Synthetics::"),
)


def test_nothing_of_the_free_mode_is_billed_by_the_hour(free: Template) -> None:
    assert not [name for name, item in free["Resources"].items() if item["Type"].startswith(BILLED_BY_THE_HOUR)]
    text = json.dumps(free["Resources"])
    assert "ProvisionedConcurrencyConfig" not in only(free, "AWS::Lambda::Alias")["Properties"]
    assert '"TracingEnabled": true' not in text
    assert "CacheClusterEnabled" not in text
    assert "KmsMasterKeyId" not in text


@pytest.mark.parametrize("mode", ["free", "production"])
@pytest.mark.parametrize("environment", ["dev", "staging", "prod"])
def test_every_environment_can_be_had_in_every_mode(template: Template, mode: str, environment: str) -> None:
    found = made(template, CostMode=mode, Environment=environment)
    for _, node in walk(found["Resources"]):
        assert not isinstance(node, dict) or "Fn::If" not in node
