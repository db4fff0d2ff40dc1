"""template.yaml, expanded as CloudFormation sees it, and the files that build the image: what must hold."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.aws.settling import ROOT, Template, made


def of_type(template: Template, kind: str) -> dict[str, Any]:
    return {name: item for name, item in template["Resources"].items() if item["Type"] == kind}


def only(template: Template, kind: str) -> dict[str, Any]:
    found = of_type(template, kind)
    assert len(found) == 1, f"{kind}: {sorted(found)}"
    return next(iter(found.values()))


def walk(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, node
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from walk(value, (*path, str(key)))
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from walk(value, (*path, str(number)))


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def statements(template: Template, role: str = "FraudFunctionRole") -> dict[str, Any]:
    """What a role may do: its own policies, and the one that the roles of all functions have."""
    shared = template["Resources"]["ScoringRights"]["Properties"]
    assert {"Ref": role} in shared["Roles"]
    policies = [*template["Resources"][role]["Properties"]["Policies"], shared]
    found = [item for policy in policies for item in policy["PolicyDocument"]["Statement"]]
    assert len({item["Sid"] for item in found}) == len(found)
    return {item["Sid"]: item for item in found}


def methods(template: Template) -> Iterator[tuple[str, str, Any]]:
    paths = only(template, "AWS::ApiGateway::RestApi")["Properties"]["Body"]["paths"]
    for path, operations in paths.items():
        for method, operation in operations.items():
            yield path, method, operation


ROLES = {name: f"{name}Role" for name in ("FraudFunction", "FraudSmoke", "FraudWorker")}


def function(template: Template, name: str = "FraudFunction") -> Any:
    assert of_type(template, "AWS::Lambda::Function").keys() == ROLES.keys()
    return template["Resources"][name]["Properties"]


def environment(template: Template, name: str = "FraudFunction") -> Any:
    return function(template, name)["Environment"]["Variables"]


# --- the API ---------------------------------------------------------------------------------------------------------


def test_the_api_is_a_rest_api_because_http_apis_have_no_keys(expanded: Template) -> None:
    assert of_type(expanded, "AWS::ApiGateway::RestApi")
    assert not of_type(expanded, "AWS::ApiGatewayV2::Api")


def test_there_is_one_stage_and_no_forgotten_one_named_stage(expanded: Template) -> None:
    stage = only(expanded, "AWS::ApiGateway::Stage")["Properties"]
    assert stage["StageName"] == {"Ref": "StageName"}
    assert expanded["Parameters"]["StageName"]["Default"] == "v1"


def test_every_method_but_the_preflight_asks_for_the_key(expanded: Template) -> None:
    asked = {(path, method) for path, method, item in methods(expanded) if {"api_key": []} in item.get("security", [])}
    assert asked == {("/", "x-amazon-apigateway-any-method"), ("/{proxy+}", "x-amazon-apigateway-any-method")}


def test_the_preflight_asks_for_no_key_on_any_path(expanded: Template) -> None:
    preflights = [item for _, method, item in methods(expanded) if method == "options"]
    assert len(preflights) == 2
    assert all("security" not in item for item in preflights)


def test_the_preflight_is_answered_by_the_gateway_alone(expanded: Template) -> None:
    for _, method, item in methods(expanded):
        kind = item["x-amazon-apigateway-integration"]["type"]
        assert kind == ("mock" if method == "options" else "aws_proxy")


def test_the_key_is_read_from_the_header_x_api_key(expanded: Template) -> None:
    scheme = only(expanded, "AWS::ApiGateway::RestApi")["Properties"]["Body"]["components"]["securitySchemes"][
        "api_key"
    ]
    assert (scheme["in"], scheme["name"].lower()) == ("header", "x-api-key")


def test_a_browser_may_send_the_key_and_json(expanded: Template) -> None:
    for _, method, item in methods(expanded):
        if method == "options":
            answer = item["x-amazon-apigateway-integration"]["responses"]["default"]["responseParameters"]
            allowed = answer["method.response.header.Access-Control-Allow-Headers"]
            assert {"Content-Type", "X-API-Key"} <= set(allowed.strip("'").split(","))


def test_without_cors_no_page_can_match_the_allowed_origin(expanded: Template) -> None:
    assert expanded["Parameters"]["CorsOrigin"]["Default"] == "none"
    for _, method, item in methods(expanded):
        if method == "options":
            answer = item["x-amazon-apigateway-integration"]["responses"]["default"]["responseParameters"]
            condition, given, otherwise = answer["method.response.header.Access-Control-Allow-Origin"]["Fn::If"]
            assert condition == "HasCors"
            assert given == {"Fn::Sub": "'${CorsOrigin}'"}
            assert otherwise == "'https://none.invalid'"


@pytest.mark.parametrize("origin", ["none", "*", "https://console.example.com", "http://localhost:8501"])
def test_a_cors_origin_is_none_or_all_or_one_origin(template: Template, origin: str) -> None:
    assert re.fullmatch(template["Parameters"]["CorsOrigin"]["AllowedPattern"], origin)


@pytest.mark.parametrize("origin", ["", "https://a.example,https://b.example", "https://a.example/", "a'b", "null"])
def test_a_cors_origin_that_the_gateway_cannot_answer_with_is_refused(template: Template, origin: str) -> None:
    assert not re.fullmatch(template["Parameters"]["CorsOrigin"]["AllowedPattern"], origin)


def test_the_usage_plan_throttles_and_has_a_monthly_quota(expanded: Template) -> None:
    plan = only(expanded, "AWS::ApiGateway::UsagePlan")["Properties"]
    assert plan["Throttle"]["RateLimit"] > 0
    assert plan["Throttle"]["BurstLimit"] >= plan["Throttle"]["RateLimit"]
    assert plan["Quota"] == {"Limit": expanded["Parameters"]["QuotaPerMonth"]["Default"], "Period": "MONTH"}


def test_the_key_belongs_to_the_plan_and_the_plan_to_the_stage(expanded: Template) -> None:
    pair = only(expanded, "AWS::ApiGateway::UsagePlanKey")["Properties"]
    assert pair["KeyId"]["Ref"] in of_type(expanded, "AWS::ApiGateway::ApiKey")
    assert pair["UsagePlanId"]["Ref"] in of_type(expanded, "AWS::ApiGateway::UsagePlan")
    stages = only(expanded, "AWS::ApiGateway::UsagePlan")["Properties"]["ApiStages"]
    assert [item["Stage"]["Ref"] for item in stages] == list(of_type(expanded, "AWS::ApiGateway::Stage"))


def test_the_whole_stage_is_throttled_too_so_that_preflights_are(expanded: Template) -> None:
    settings = only(expanded, "AWS::ApiGateway::Stage")["Properties"]["MethodSettings"]
    assert settings[0]["ResourcePath"] == "/*"
    assert settings[0]["HttpMethod"] == "*"
    assert settings[0]["ThrottlingRateLimit"] == {"Ref": "ThrottleRate"}


def test_the_gateway_never_writes_whole_requests_to_a_log(expanded: Template) -> None:
    settings = only(expanded, "AWS::ApiGateway::Stage")["Properties"]["MethodSettings"]
    assert all(item["DataTraceEnabled"] is False for item in settings)


def test_a_changed_parameter_alone_publishes_the_api_again(template: Template) -> None:
    assert template["Resources"]["FraudApi"]["Properties"]["AlwaysDeploy"] is True


def test_unknown_paths_reach_the_service_and_get_its_own_404(expanded: Template) -> None:
    assert {path for path, _, _ in methods(expanded)} == {"/", "/{proxy+}"}


def test_only_this_api_may_call_the_function(expanded: Template) -> None:
    for permission in of_type(expanded, "AWS::Lambda::Permission").values():
        if permission["Properties"]["FunctionName"] != {"Ref": "FraudFunction"}:
            continue
        pattern, names = permission["Properties"]["SourceArn"]["Fn::Sub"]
        assert permission["Properties"]["Principal"] == "apigateway.amazonaws.com"
        assert "${__ApiId__}" in pattern
        assert names["__ApiId__"] == {"Ref": "FraudApi"}


# --- the function ----------------------------------------------------------------------------------------------------


def test_the_function_is_an_image_of_a_pinned_architecture(expanded: Template) -> None:
    assert function(expanded)["PackageType"] == "Image"
    assert function(expanded)["Architectures"] == [{"Ref": "Architecture"}]
    assert expanded["Parameters"]["Architecture"]["Default"] == "x86_64"


def test_an_image_function_names_neither_runtime_nor_handler(expanded: Template) -> None:
    assert not {"Runtime", "Handler", "Layers"} & set(function(expanded))


def test_sam_build_finds_dockerfile_context_and_tag(template: Template) -> None:
    metadata = template["Resources"]["FraudFunction"]["Metadata"]
    assert set(metadata) == {"Dockerfile", "DockerContext", "DockerTag"}
    context = (ROOT / metadata["DockerContext"]).resolve()
    assert (context / metadata["Dockerfile"]).is_file()


def test_memory_and_timeout_are_what_a_cold_start_needs(expanded: Template) -> None:
    assert expanded["Parameters"]["MemorySize"]["Default"] == 512
    assert function(expanded)["MemorySize"] == {"Ref": "MemorySize"}
    assert 5 <= function(expanded)["Timeout"] < 29, "API Gateway gives up after 29 s"


def test_new_accounts_can_deploy_because_no_concurrency_is_reserved(free: Template, template: Template) -> None:
    assert "ReservedConcurrentExecutions" not in function(free)
    assert "ProvisionedConcurrencyConfig" not in only(free, "AWS::Lambda::Alias")["Properties"]
    assert function(made(template, ReservedConcurrency=5))["ReservedConcurrentExecutions"] == 5


def test_the_model_is_a_pointer_in_the_bucket_so_a_new_one_needs_no_deploy(expanded: Template) -> None:
    assert environment(expanded)["FRAUD_MODEL_URL"] == {"Fn::Sub": "s3://${ModelBucket}/models/current"}


def test_the_function_gets_the_name_of_the_key_parameter_and_not_its_value(expanded: Template) -> None:
    assert environment(expanded)["FRAUD_MODEL_PUBLIC_KEYS"] == {"Fn::Sub": "ssm:${ModelPublicKeys}"}
    assert "resolve:ssm" not in json.dumps(expanded)


def test_one_row_is_scored_by_one_thread(expanded: Template) -> None:
    assert environment(expanded)["OMP_NUM_THREADS"] == "1"


def test_every_setting_of_the_function_is_one_that_the_service_knows(expanded: Template) -> None:
    from fraud_api_lambda.settings import read_settings

    names = {"ModelBucket": "bucket", "ModelPublicKeys": "CFN-keys", "RulesUrl": "rules/current.yaml"}
    names |= {"Profiles": "profiles", "Decisions": "decisions", "Outbox.QueueName": "outbox.fifo"}
    names |= {f"{name}Parameter": f"/fraud/{name}" for name in ("ApiKeys", "PseudonymKey", "Webhooks")}
    names |= {"AWS::StackName": "fraud-dev"}

    def value(node: Any) -> str:
        if isinstance(node, Mapping) and node.get("Ref") in names:
            return names[node["Ref"]]
        if isinstance(node, Mapping) and "Ref" in node:
            return str(expanded["Parameters"][node["Ref"]]["Default"])
        if isinstance(node, Mapping) and "Fn::If" in node:
            return value(node["Fn::If"][1])
        if isinstance(node, Mapping):
            return re.sub(r"\$\{([^}]+)\}", lambda found: names[found[1]], str(node["Fn::Sub"]))
        return str(node)

    for name in ROLES:
        variables = dict(environment(expanded, name))
        for own in ("FRAUD_SMOKE_FUNCTION", "FRAUD_API_KEY"):  # the hook's, which are no settings of the service
            variables.pop(own, None)
        settings = read_settings({name: value(node) for name, node in variables.items()})
        assert settings.model_url == "s3://bucket/models/current"
        assert settings.model_public_keys == "ssm:CFN-keys"
        assert settings.rules_url == "s3://bucket/rules/current.yaml"
        assert settings.challenger_url == "s3://bucket/models/challenger"
        assert settings.without_model == "review"
        assert settings.feature_store_url == "dynamodb://profiles"
        assert settings.decision_log_url == "dynamodb://decisions"
        assert settings.outbox_url == "sqs://outbox.fifo"
        assert settings.retention_days == expanded["Parameters"]["RetentionDays"]["Default"]
        assert settings.api_keys == "ssm:/fraud/ApiKeys"
        assert settings.pseudonym_key == "ssm:/fraud/PseudonymKey"
        assert settings.webhooks == "ssm:/fraud/Webhooks"
        assert settings.deadline_ms == {"FraudWorker": 2000}.get(name, 250)
        # Nobody hears the worker's answer: a decision that is recorded nowhere would be lost with it.
        assert settings.on_log_failure == {"FraudWorker": "refuse"}.get(name, "review")


@pytest.mark.parametrize(("parameter", "setting"), [("WithoutModel", "Outcome"), ("LogLevel", "LogLevel")])
def test_a_parameter_offers_exactly_the_choices_of_its_setting(
    template: Template, parameter: str, setting: str
) -> None:
    from typing import get_args

    from fraud_api_lambda import settings

    assert set(template["Parameters"][parameter]["AllowedValues"]) == set(get_args(getattr(settings, setting)))


def test_no_cors_setting_is_given_where_there_is_no_cors(expanded: Template) -> None:
    condition, given, otherwise = environment(expanded)["FRAUD_CORS_ORIGINS"]["Fn::If"]
    assert (condition, given, otherwise) == ("HasCors", {"Ref": "CorsOrigin"}, {"Ref": "AWS::NoValue"})


def test_no_secret_stands_in_the_template(expanded: Template) -> None:
    text = json.dumps(expanded).lower()
    assert not re.search(r"(password|secret_access_key|private_key|akia[0-9a-z]{16})", text)


# --- the log ---------------------------------------------------------------------------------------------------------


def test_the_log_group_is_the_functions_and_forgets_after_some_days(expanded: Template) -> None:
    groups = of_type(expanded, "AWS::Logs::LogGroup")
    own = {function(expanded, name)["LoggingConfig"]["LogGroup"]["Ref"] for name in ROLES}
    assert own | {"GatewayLogs", "RetrainingLogs"} == groups.keys()
    for group in groups.values():
        assert group["Properties"]["RetentionInDays"] == {"Ref": "LogRetentionDays"}
    assert expanded["Parameters"]["LogRetentionDays"]["Default"] == 30


# --- rights ----------------------------------------------------------------------------------------------------------


#: What judging a transaction takes.
SCORING = {
    "ReadBundles": ["s3:GetObject"],
    "ReadRules": ["s3:GetObject"],
    "TellMissingFromRefused": ["s3:ListBucket"],
    "ReadParameters": ["ssm:GetParameter"],
    "RememberParties": ["dynamodb:BatchGetItem", "dynamodb:DeleteItem", "dynamodb:PutItem"],
    "RecordDecisions": [
        *("dynamodb:BatchGetItem", "dynamodb:ConditionCheckItem", "dynamodb:GetItem", "dynamodb:PutItem"),
        *("dynamodb:Query", "dynamodb:UpdateItem"),
    ],
    "ListDecisions": ["dynamodb:Query"],
    "PutIntoOutbox": ["sqs:GetQueueAttributes", "sqs:GetQueueUrl", "sqs:SendMessage"],
    "WriteOwnLog": ["logs:CreateLogStream", "logs:PutLogEvents"],
}


def test_the_function_may_do_nine_things_and_nothing_else(expanded: Template) -> None:
    actions = {sid: sorted(as_list(item["Action"])) for sid, item in statements(expanded).items()}
    assert actions == SCORING


def test_the_worker_may_take_from_its_queues_and_forget_decisions_as_well(expanded: Template) -> None:
    may = statements(expanded, "FraudWorkerRole")
    actions = {sid: sorted(as_list(item["Action"])) for sid, item in may.items()}
    assert actions == {
        **SCORING,
        "TakeFromQueues": [
            *("sqs:ChangeMessageVisibility", "sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ReceiveMessage"),
        ],
        "LayAside": ["sqs:GetQueueUrl", "sqs:SendMessage"],
        "ForgetDecisions": ["dynamodb:DeleteItem"],
    }
    assert may["TakeFromQueues"]["Resource"] == [{"Fn::GetAtt": [name, "Arn"]} for name in ("Transactions", "Outbox")]
    assert may["LayAside"]["Resource"] == {"Fn::GetAtt": ["OutboxDead", "Arn"]}
    assert may["ForgetDecisions"]["Resource"] == {"Fn::GetAtt": ["Decisions", "Arn"]}


@pytest.mark.parametrize("role", ROLES.values())
def test_no_statement_of_a_role_has_a_star_for_an_action_or_a_resource(expanded: Template, role: str) -> None:
    for statement in statements(expanded, role).values():
        assert statement["Effect"] == "Allow"
        assert not any("*" in action for action in as_list(statement["Action"]))
        assert "*" not in as_list(statement["Resource"])


def test_the_hook_may_try_versions_and_tell_codedeploy_as_well(expanded: Template) -> None:
    own = expanded["Resources"]["SmokeRights"]["Properties"]
    assert own["Roles"] == [{"Ref": "FraudSmokeRole"}]
    may = {item["Sid"]: item for item in own["PolicyDocument"]["Statement"] if "Sid" in item}
    assert may["TryVersions"]["Action"] == "lambda:InvokeFunction"
    assert may["TryVersions"]["Resource"] == {"Fn::Sub": "${FraudFunction.Arn}:*"}
    verdict = may["TellCodeDeploy"]["Resource"]["Fn::Sub"]
    group = ":deploymentgroup:${ServerlessDeploymentApplication}/${FraudFunctionDeploymentGroup}"
    assert verdict.endswith(group)
    assert {
        sid: item["Action"] for sid, item in statements(expanded, "FraudSmokeRole").items()
    }.keys() == SCORING.keys()


def test_no_policy_at_all_allows_a_star(expanded: Template) -> None:
    found = 0
    for path, node in walk(expanded["Resources"]):
        if not isinstance(node, Mapping) or node.get("Effect") != "Allow":
            continue
        found += 1
        assert not any("*" in action for action in as_list(node["Action"])), path
        assert "*" not in as_list(node.get("Resource", "")), path
        assert "*" not in as_list(node.get("Principal", "")), path
    assert found > 30


def test_no_managed_policy_widens_a_role(free: Template, production: Template) -> None:
    roles = of_type(production, "AWS::IAM::Role")
    assert roles.keys() == of_type(free, "AWS::IAM::Role").keys() == {*ROLES.values(), "DeployRole"}
    expanded = production
    assert not any("ManagedPolicyArns" in role["Properties"] for role in roles.values())
    for name, role in ROLES.items():
        assert function(expanded, name)["Role"] == {"Fn::GetAtt": [role, "Arn"]}
        assert as_list(expanded["Resources"][name]["DependsOn"]) == ["ScoringRights"], "no call before its rights"


def test_profiles_lie_in_a_table_whose_rows_expire(free: Template) -> None:
    table = free["Resources"]["Profiles"]["Properties"]
    assert "TableName" not in table
    assert table["KeySchema"] == [{"AttributeName": "party", "KeyType": "HASH"}]
    assert table["TimeToLiveSpecification"] == {"AttributeName": "expires_at", "Enabled": True}
    assert table["BillingMode"] == "PROVISIONED"
    assert environment(free)["FRAUD_FEATURE_STORE_URL"] == {"Fn::Sub": "dynamodb://${Profiles}"}


def test_decisions_lie_in_a_table_whose_items_expire(expanded: Template) -> None:
    table = expanded["Resources"]["Decisions"]["Properties"]
    assert "TableName" not in table
    assert table["KeySchema"] == [
        {"AttributeName": "pk", "KeyType": "HASH"},
        {"AttributeName": "sk", "KeyType": "RANGE"},
    ]
    assert table["TimeToLiveSpecification"] == {"AttributeName": "expires_at", "Enabled": True}
    keys = {key["AttributeName"] for index in table["GlobalSecondaryIndexes"] for key in index["KeySchema"]}
    assert {item["AttributeName"] for item in table["AttributeDefinitions"]} == keys | {"pk", "sk"}


def test_the_function_may_query_each_index_by_its_name(expanded: Template) -> None:
    indexes = expanded["Resources"]["Decisions"]["Properties"]["GlobalSecondaryIndexes"]
    allowed = statements(expanded)["ListDecisions"]["Resource"]
    assert allowed == [{"Fn::Sub": f"${{Decisions.Arn}}/index/{index['IndexName']}"} for index in indexes]


@pytest.mark.parametrize("unit", ["ReadCapacityUnits", "WriteCapacityUnits"])
def test_all_tables_and_indexes_together_are_within_the_25_free_units(free: Template, unit: str) -> None:
    found = [
        int(node["ProvisionedThroughput"][unit])
        for _, node in walk(of_type(free, "AWS::DynamoDB::Table"))
        if isinstance(node, Mapping) and "ProvisionedThroughput" in node
    ]
    assert len(found) == 2 + 6
    assert sum(found) == 25


def test_an_index_that_holds_every_decision_is_no_slower_than_a_decision_a_write_unit_of_the_others(
    free: Template,
) -> None:
    """An index that is throttled throttles the table: the three that most decisions go into have one and the same."""
    indexes = free["Resources"]["Decisions"]["Properties"]["GlobalSecondaryIndexes"]
    units = {index["IndexName"]: index["ProvisionedThroughput"]["WriteCapacityUnits"] for index in indexes}
    for name in ("by_time", "by_customer", "by_counterparty"):
        assert units[name] == free["Parameters"]["IndexWriteUnits"]["Default"]
    default = free["Parameters"]
    assert default["DecisionWriteUnits"]["Default"] > default["IndexWriteUnits"]["Default"], "an alert takes two"


# --- the queues ------------------------------------------------------------------------------------------------------


def test_every_queue_is_encrypted_keeps_for_two_weeks_and_has_or_is_a_dead_letter_queue(expanded: Template) -> None:
    queues = of_type(expanded, "AWS::SQS::Queue")
    assert queues.keys() == {"Outbox", "OutboxDead", "Transactions", "TransactionsDead"}
    for name, queue in queues.items():
        properties = queue["Properties"]
        assert properties["SqsManagedSseEnabled"] is True
        assert properties["MessageRetentionPeriod"] == 14 * 86_400
        assert properties.get("FifoQueue", False) is name.startswith("Outbox")
        if not name.endswith("Dead"):
            assert properties["RedrivePolicy"]["deadLetterTargetArn"] == {"Fn::GetAtt": [f"{name}Dead", "Arn"]}
            assert properties["VisibilityTimeout"] == 6 * function(expanded, "FraudWorker")["Timeout"]


def test_the_outbox_rides_out_a_day_and_a_transaction_half_an_hour(expanded: Template) -> None:
    def hours(name: str) -> float:
        queue = expanded["Resources"][name]["Properties"]
        return queue["RedrivePolicy"]["maxReceiveCount"] * queue["VisibilityTimeout"] / 3600

    assert hours("Outbox") == 24
    assert hours("Transactions") == 0.5


def test_the_worker_takes_from_both_queues_and_tells_which_messages_failed(expanded: Template) -> None:
    sources = [item["Properties"] for item in of_type(expanded, "AWS::Lambda::EventSourceMapping").values()]
    assert {item["EventSourceArn"]["Fn::GetAtt"][0] for item in sources} == {"Transactions", "Outbox"}
    for item in sources:
        assert item["FunctionName"] == {"Ref": "FraudWorker"}
        assert item["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
        assert item["BatchSize"] <= 10, "all that a FIFO queue hands over"
        assert item["ScalingConfig"] == {"MaximumConcurrency": 2}


def test_the_worker_is_the_same_image_with_another_entry(expanded: Template, template: Template) -> None:
    from fraud_api_lambda import handler

    assert template["Resources"]["FraudWorker"]["Metadata"] == template["Resources"]["FraudFunction"]["Metadata"]
    worker = function(expanded, "FraudWorker")
    (command,) = worker["ImageConfig"]["Command"]
    module, _, entry = command.rpartition(".")
    assert module == handler.__name__
    assert callable(getattr(handler, entry))
    assert (worker["Architectures"], worker["MemorySize"]) == (
        function(expanded)["Architectures"],
        function(expanded)["MemorySize"],
    )
    assert "ImageConfig" not in function(expanded)


def test_the_schedule_sends_the_tasks_that_the_entry_knows(free: Template) -> None:
    rules = {name: item["Properties"] for name, item in of_type(free, "AWS::Events::Rule").items()}
    assert rules.pop("FraudFunctionHeartbeat")
    tasks = {json.loads(target["Input"])["task"] for rule in rules.values() for target in rule["Targets"]}
    samples = [json.loads(path.read_text()) for path in (ROOT / "events/work").glob("*.json")]
    assert tasks == {sample["task"] for sample in samples if "task" in sample}
    assert tasks >= {"summary", "retention"}
    assert rules.pop("FraudWorkerHeartbeat")["ScheduleExpression"] == "rate(1 hour)"
    for rule in rules.values():
        assert re.fullmatch(r"cron\(\d+ \d+ \* \* \? \*\)", rule["ScheduleExpression"]), "once a day"
        assert [target["Arn"] for target in rule["Targets"]] == [{"Fn::GetAtt": ["FraudWorker", "Arn"]}]


@pytest.mark.parametrize("name", ["none", "/fraud/api-keys", "/a", "/prod/fraud/eu/keys_1.2"])
def test_a_secrets_parameter_is_none_or_a_name_with_a_path(template: Template, name: str) -> None:
    for parameter in ("ApiKeysParameter", "PseudonymKeyParameter", "WebhooksParameter"):
        assert re.fullmatch(template["Parameters"][parameter]["AllowedPattern"], name)
        assert template["Parameters"][parameter]["Default"] == "none"


@pytest.mark.parametrize("name", ["", "/", "keys", "/fraud/*", "/fraud/", "//x", "/a b", "arn:aws:ssm:x", "/${x}"])
def test_a_secrets_parameter_names_one_parameter_only(template: Template, name: str) -> None:
    for parameter in ("ApiKeysParameter", "PseudonymKeyParameter", "WebhooksParameter"):
        assert not re.fullmatch(template["Parameters"][parameter]["AllowedPattern"], name)


def test_each_role_is_taken_on_by_one_service(expanded: Template) -> None:
    taken = {
        **dict.fromkeys(ROLES.values(), "lambda"),
        "DeployRole": "codedeploy",
        "GatewayLogRole": "apigateway",
        "RetrainingRole": "codebuild",
        "RetrainingRuleRole": "events",
    }
    roles = of_type(expanded, "AWS::IAM::Role")
    assert roles.keys() == taken.keys()
    for name, role in roles.items():
        trust = role["Properties"]["AssumeRolePolicyDocument"]["Statement"]
        assert [item["Principal"] for item in trust] == [{"Service": f"{taken[name]}.amazonaws.com"}]


def test_the_function_reads_under_models_and_rules_only(expanded: Template) -> None:
    assert statements(expanded)["ReadBundles"]["Resource"] == {"Fn::Sub": "${ModelBucket.Arn}/models/*"}
    assert statements(expanded)["ReadRules"]["Resource"] == {"Fn::Sub": "${ModelBucket.Arn}/rules/*"}


def test_the_function_can_write_neither_bundles_nor_the_rules_that_are_not_signed(expanded: Template) -> None:
    actions = [action for item in statements(expanded).values() for action in as_list(item["Action"])]
    assert not [
        action for action in actions if action.startswith("s3:") and not action.startswith(("s3:Get", "s3:List"))
    ]


def test_a_rules_file_lies_in_the_bucket_that_the_function_may_read(expanded: Template) -> None:
    condition, given, otherwise = environment(expanded)["FRAUD_RULES_URL"]["Fn::If"]
    assert expanded["Parameters"]["RulesUrl"]["Default"] == "none"
    assert condition == "HasRules"
    assert given == {"Fn::Sub": "s3://${ModelBucket}/${RulesUrl}"}
    assert otherwise == {"Ref": "AWS::NoValue"}


@pytest.mark.parametrize("name", ["none", "rules/current.yaml", "rules/2026-02.json"])
def test_a_rules_parameter_is_none_or_a_name_under_rules(template: Template, name: str) -> None:
    assert re.fullmatch(template["Parameters"]["RulesUrl"]["AllowedPattern"], name)


@pytest.mark.parametrize(
    "name",
    ["", "rules/", "models/current", "rules/a/b", "rules/../models/x", "rules/.x", "s3://other/rules/x", "rules/*"],
)
def test_a_rules_parameter_names_nothing_the_function_may_not_read(template: Template, name: str) -> None:
    assert not re.fullmatch(template["Parameters"]["RulesUrl"]["AllowedPattern"], name)


def test_a_missing_key_is_404_because_the_bucket_may_be_listed_without_a_prefix_in_the_request(
    expanded: Template,
) -> None:
    listing = statements(expanded)["TellMissingFromRefused"]
    assert listing["Resource"] == {"Fn::GetAtt": ["ModelBucket", "Arn"]}
    assert listing["Condition"] == {"StringLikeIfExists": {"s3:prefix": ["models/*", "rules/*"]}}


def test_the_function_reads_the_public_keys_and_those_parameters_that_the_stack_was_given(expanded: Template) -> None:
    keys, *given = statements(expanded)["ReadParameters"]["Resource"]
    assert keys["Fn::Sub"].endswith(":parameter/${ModelPublicKeys}")
    assert "*" not in json.dumps(given)
    for name, each in zip(("ApiKeys", "PseudonymKey", "Webhooks"), given, strict=True):
        condition, resource, otherwise = each["Fn::If"]
        assert condition == f"Has{name}"
        assert resource["Fn::Sub"].endswith(f":parameter${{{name}Parameter}}"), "its name begins with a slash"
        assert otherwise == {"Ref": "AWS::NoValue"}


def test_the_function_writes_to_its_own_log_and_cannot_make_one(expanded: Template) -> None:
    log = statements(expanded)["WriteOwnLog"]
    assert log["Resource"] == {"Fn::GetAtt": ["FraudFunctionLogs", "Arn"]}
    worker = statements(expanded, "FraudWorkerRole")["WriteOwnLog"]
    assert worker["Resource"] == {"Fn::GetAtt": ["FraudWorkerLogs", "Arn"]}
    assert "logs:CreateLogGroup" not in log["Action"]


# --- the bucket and the keys -----------------------------------------------------------------------------------------


def test_the_bucket_keeps_versions_and_is_encrypted(expanded: Template) -> None:
    bucket = only(expanded, "AWS::S3::Bucket")["Properties"]
    assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}
    rules = bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert rules[0]["ServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"


def test_the_bucket_is_private_in_all_four_ways_and_has_no_acls(expanded: Template) -> None:
    bucket = only(expanded, "AWS::S3::Bucket")["Properties"]
    assert len(bucket["PublicAccessBlockConfiguration"]) == 4
    assert all(bucket["PublicAccessBlockConfiguration"].values())
    assert bucket["OwnershipControls"] == {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}


def test_the_bucket_is_reached_by_tls_only(expanded: Template) -> None:
    policy = only(expanded, "AWS::S3::BucketPolicy")["Properties"]["PolicyDocument"]["Statement"]
    assert [item["Effect"] for item in policy] == ["Deny"], "a bucket policy that allows something widens the access"
    assert policy[0]["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    assert policy[0]["Principal"] == "*"
    assert len(policy[0]["Resource"]) == 2, "the bucket itself and what is in it"


def test_overwritten_objects_and_broken_uploads_do_not_pile_up(expanded: Template) -> None:
    rules = only(expanded, "AWS::S3::Bucket")["Properties"]["LifecycleConfiguration"]["Rules"]
    assert {key for rule in rules for key in rule} >= {"NoncurrentVersionExpiration", "AbortIncompleteMultipartUpload"}
    assert not any("ExpirationInDays" in rule or "Prefix" in rule for rule in rules), "a live bundle never expires"


def test_an_update_leaves_the_trusted_keys_alone_because_nothing_in_their_block_can_change(expanded: Template) -> None:
    parameter = only(expanded, "AWS::SSM::Parameter")
    assert parameter["Properties"] == {"Type": "String", "Value": "none"}


# --- the stack -------------------------------------------------------------------------------------------------------


def test_nothing_has_a_physical_name(expanded: Template) -> None:
    named = {
        "BucketName",
        "FunctionName",
        "RoleName",
        "LogGroupName",
        "UsagePlanName",
        "TableName",
        "QueueName",
        "TopicName",
        "AlarmName",
        "DashboardName",
        "ApplicationName",
        "BudgetName",
        "RepositoryName",
    }
    for name, resource in expanded["Resources"].items():
        properties = resource.get("Properties", {})
        refers = {"Permission", "EventSourceMapping", "Version", "Alias"}
        if resource["Type"] not in {f"AWS::Lambda::{kind}" for kind in refers}:
            found = named & set(properties)
            assert not found or resource["Type"] == "AWS::CodeDeploy::DeploymentGroup", name  # names its application
        if resource["Type"].rpartition("::")[2] in {"RestApi", "ApiKey", "Parameter", "WebACL", "Project", "Rule"}:
            assert "Name" not in properties, name
    assert "Export" not in json.dumps(expanded["Outputs"]), "the name of an export is one for the whole region"


def kept(template: Template) -> set[str]:
    return {name for name, item in template["Resources"].items() if item.get("DeletionPolicy", "Delete") != "Delete"}


def test_deleting_a_stack_for_development_keeps_nothing_back(free: Template, template: Template) -> None:
    """But versions of a function that has gone, which go with it."""
    for found in (free, made(template, Environment="staging", CostMode="production")):
        assert kept(found) == of_type(found, "AWS::Lambda::Version").keys()
        tables = of_type(found, "AWS::DynamoDB::Table").values()
        assert not any(table["Properties"]["DeletionProtectionEnabled"] for table in tables)


def test_deleting_production_keeps_what_cannot_be_made_again(production: Template) -> None:
    tables = of_type(production, "AWS::DynamoDB::Table")
    queues = of_type(production, "AWS::SQS::Queue")
    logs = {"FraudFunctionLogs", "FraudWorkerLogs"}
    versions = of_type(production, "AWS::Lambda::Version")
    assert kept(production) == {*tables, *queues, *logs, *versions, "ModelBucket"}
    assert all(table["Properties"]["DeletionProtectionEnabled"] is True for table in tables.values())
    for name in (*tables, *queues, "ModelBucket"):
        assert production["Resources"][name]["UpdateReplacePolicy"] == "Retain"


def test_no_resource_waits_for_itself(expanded: Template) -> None:
    resources = expanded["Resources"]

    def needs(name: str) -> set[str]:
        found: set[str] = set(as_list(resources[name].get("DependsOn", [])))
        for path, node in walk(resources[name]):
            if path and path[-1] == "Ref" and isinstance(node, str):
                found.add(node)
            elif path and path[-1] == "Fn::GetAtt":
                found.add(node[0] if isinstance(node, list) else node.split(".")[0])
            elif path and path[-1] == "Fn::Sub":
                text = node[0] if isinstance(node, list) else node
                found |= {part.split(".")[0] for part in re.findall(r"\$\{([A-Za-z0-9.]+)\}", text)}
        return found & set(resources)

    done: set[str] = set()
    while len(done) < len(resources):
        ready = {name for name in resources if name not in done and needs(name) <= done}
        assert ready, f"a cycle among {sorted(set(resources) - done)}"
        done |= ready


def test_everything_that_is_referred_to_exists(expanded: Template) -> None:
    known = {*expanded["Resources"], *expanded["Parameters"]}
    for path, node in walk({"Resources": expanded["Resources"], "Outputs": expanded["Outputs"]}):
        if path and path[-1] == "Ref" and isinstance(node, str) and not node.startswith("AWS::"):
            assert node in known, path


def test_every_parameter_has_a_default_and_says_what_it_is(template: Template) -> None:
    for name, parameter in template["Parameters"].items():
        assert "Default" in parameter, name
        assert parameter["Description"].endswith("."), name


def test_the_outputs_are_those_that_publish_and_smoke_read(expanded: Template) -> None:
    assert set(expanded["Outputs"]) == {
        "ApiUrl",
        "ApiKeyId",
        "ApiKeyCommand",
        "CurlLine",
        "BucketName",
        "PublicKeyParameter",
        "FunctionName",
        "WorkerName",
        "TransactionsQueueUrl",
        "DecisionsTable",
        "DeadLetterQueueUrls",
        "AlarmTopicArn",
        "DashboardUrl",
        "TrainingRepositoryUri",
    }
    assert all(item["Description"] for item in expanded["Outputs"].values())


def test_the_value_of_the_key_is_no_output(expanded: Template) -> None:
    command = expanded["Outputs"]["ApiKeyCommand"]["Value"]["Fn::Sub"]
    assert command[0].startswith("aws apigateway get-api-key --api-key ${Key} --include-value")
    assert command[1] == {"Key": {"Ref": next(iter(of_type(expanded, "AWS::ApiGateway::ApiKey")))}}


def test_the_curl_line_is_one_line_with_a_body_that_the_contract_accepts(expanded: Template) -> None:
    line = expanded["Outputs"]["CurlLine"]["Value"]["Fn::Sub"]
    assert "\n" not in line
    assert '"X-API-Key: $API_KEY"' in line
    assert line.endswith('/${StageName}/predict"')
    body = json.loads(re.findall(r"-d '(.*?)'", line)[0])
    assert body["amount"] == body["oldbalanceOrg"] == 181.0


# --- the linters -----------------------------------------------------------------------------------------------------


def test_cfn_lint_and_its_serverless_rules_find_nothing() -> None:
    command = [
        str(Path(sys.executable).with_name("cfn-lint")),
        "-a",
        "cfn_lint_serverless.rules",
        "-t",
        "template.yaml",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_check_that_is_switched_off_says_why() -> None:
    text = (ROOT / "template.yaml").read_text()
    off = re.findall(r"^ {8}- ([A-Z]{1,2}\d{4})(.*)$", text, re.MULTILINE)
    assert len(off) == 9
    assert all(reason.strip().startswith("#") and len(reason) > 20 for _, reason in off)


def test_sam_validates_the_template() -> None:
    sam = shutil.which("sam") or next((str(p) for p in [ROOT / ".venv-sam/bin/sam"] if p.exists()), None)
    if sam is None:
        pytest.skip("no SAM CLI: neither 'sam' on PATH nor .venv-sam/bin/sam")
    environ = {**os.environ, "AWS_DEFAULT_REGION": "eu-west-1", "SAM_CLI_TELEMETRY": "0"}
    command = [sam, "validate", "--lint", "--template-file", "template.yaml"]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# --- samconfig.toml --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def samconfig() -> dict[str, Any]:
    return tomllib.loads((ROOT / "samconfig.toml").read_text())


def test_deploy_reads_what_build_wrote_because_no_template_file_is_named(samconfig: dict[str, Any]) -> None:
    assert not any(path[-1:] == ("template_file",) or path[-1:] == ("template",) for path, _ in walk(samconfig))


def test_the_first_deploy_makes_its_own_image_repository_and_bucket(samconfig: dict[str, Any]) -> None:
    deploy = samconfig["default"]["deploy"]["parameters"]
    assert deploy["resolve_image_repos"] is True
    assert deploy["resolve_s3"] is True
    assert not {"image_repository", "image_repositories", "s3_bucket"} & set(deploy)


@pytest.mark.parametrize("name", ["default", "dev", "staging", "prod"])
def test_roles_without_names_and_two_transforms_need_no_more_than_these_capabilities(
    samconfig: dict[str, Any], name: str
) -> None:
    deploy = samconfig[name]["deploy"]["parameters"]
    assert deploy["capabilities"] == "CAPABILITY_IAM CAPABILITY_AUTO_EXPAND"
    assert deploy["resolve_image_repos"] is deploy["resolve_s3"] is True


@pytest.mark.parametrize("name", ["dev", "staging", "prod"])
def test_each_environment_can_be_made_and_is_of_its_own_kind(
    samconfig: dict[str, Any], template: Template, name: str
) -> None:
    given = dict(item.split("=", 1) for item in samconfig[name]["deploy"]["parameters"]["parameter_overrides"])
    assert given["Environment"] == name
    assert given["CostMode"] == ("production" if name == "prod" else "free")
    assert made(template, **given)["Resources"]


def test_no_tags_of_the_stack_are_set_because_changing_one_would_reset_the_keys(samconfig: dict[str, Any]) -> None:
    assert not any(path[-1:] == ("tags",) for path, _ in walk(samconfig))


# --- the image -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dockerfile() -> list[str]:
    """Its instructions, one a line: comments dropped, continued lines joined."""
    lines = [line for line in (ROOT / "fraud_api_lambda/Dockerfile").read_text().splitlines() if line.strip()]
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    return [re.sub(r"\s+", " ", line).strip() for line in text.replace("\\\n", " ").splitlines()]


def test_both_stages_are_of_the_same_lambda_python_base(dockerfile: list[str]) -> None:
    assert dockerfile[0] == "ARG BASE_IMAGE=public.ecr.aws/lambda/python:3.13"
    assert [line for line in dockerfile if line.startswith("FROM")] == [
        "FROM ${BASE_IMAGE} AS build",
        "FROM ${BASE_IMAGE}",
    ]


def test_the_image_runs_the_handler_of_the_package(dockerfile: list[str]) -> None:
    assert dockerfile[-1] == 'CMD ["fraud_api_lambda.handler.handler"]'


def test_every_package_comes_as_a_wheel_with_a_known_hash(dockerfile: list[str]) -> None:
    (install,) = [line for line in dockerfile if "pip install" in line]
    for flag in ("--require-hashes", "--no-deps", "--only-binary=:all:", "-r /build/requirements.txt"):
        assert flag in install
    assert not re.search(r"index-url|trusted-host|https?://", install)


def test_the_serving_stage_installs_nothing(dockerfile: list[str]) -> None:
    serving = dockerfile[dockerfile.index("FROM ${BASE_IMAGE}") :]
    assert not any(line.startswith("RUN") for line in serving)
    assert not any(re.search(r"\b(dnf|yum|apt-get)\b", line) for line in dockerfile)


def test_the_package_its_lock_the_licence_and_a_bundle_are_all_that_is_copied(dockerfile: list[str]) -> None:
    copies = [line for line in dockerfile if line.startswith("COPY") and "--from" not in line]
    assert copies == [
        "COPY fraud_api_lambda/requirements.txt /build/requirements.txt",
        "COPY fraud_api_lambda /build/service/fraud_api_lambda",
        "COPY LICENSE build/image* /build/service/",
    ]


def test_bytecode_is_compiled_for_where_it_will_lie_and_the_unused_extensions_are_gone(dockerfile: list[str]) -> None:
    compiled = [line for line in dockerfile if "compileall" in line]
    assert len(compiled) == 2
    assert all("unchecked-hash" in line and "-p /var/task" in line for line in compiled)
    for unused in ("cel_expr_python/ext", "bazel-project"):
        assert compiled[0].index(f"/build/packages/{unused}") < compiled[0].index("compileall")


def test_nothing_in_the_dockerfile_needs_buildkit_which_sam_does_not_use(dockerfile: list[str]) -> None:
    for line in dockerfile:
        assert not re.search(r"--mount|--chmod|--link|--parents|<<", line), line


def test_the_image_names_itself_with_oci_labels_and_the_packages_version(dockerfile: list[str]) -> None:
    from fraud_api_lambda import __version__

    (label,) = [line for line in dockerfile if line.startswith("LABEL")]
    for name in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{name}=" in label
    assert f"ARG VERSION={__version__}" in dockerfile


def test_only_what_the_images_are_made_of_enters_the_build_context(tmp_path: Path) -> None:
    """Judged by docker-py, with which `sam build` packs the context."""
    from docker.utils.build import exclude_paths

    wanted = [
        "fraud_api_lambda/handler.py",
        "fraud_api_lambda/feature_store/redis.py",
        "fraud_api_lambda/default_rules.yaml",
        "training/stack.py",
        "build/image/baked/current",
        "LICENSE",
    ]
    unwanted = [
        "keys/release-20260101-abcd.key",
        ".env",
        ".git/config",
        "models/current",
        "data/decisions.db",
        "build/other",
        "training/__pycache__/stack.cpython-313.pyc",
        ".venv/bin/python",
        "fraud_api_lambda/__pycache__/handler.cpython-313.pyc",
        "samconfig.toml",
        "tests/conftest.py",
    ]
    for name in [*wanted, *unwanted, "fraud_api_lambda/Dockerfile"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line.strip() and not line.startswith("#")]
    sent = exclude_paths(str(tmp_path), patterns, dockerfile="fraud_api_lambda/Dockerfile")
    assert set(wanted) <= sent
    assert not set(unwanted) & sent


def test_in_production_no_id_chooses_its_outcome(free: Template, production: Template) -> None:
    for name in ("FraudFunction", "FraudWorker"):
        assert function(production, name)["Environment"]["Variables"]["FRAUD_TEST_IDS"] == "0"
        assert "FRAUD_TEST_IDS" not in function(free, name)["Environment"]["Variables"]
