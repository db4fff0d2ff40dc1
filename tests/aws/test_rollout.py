"""How a change reaches production, and what takes it back: alias, canary, hook, alarms, heartbeats, gateway answers."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.aws.settling import IMAGE, RuleBroken, Template, made
from tests.aws.test_template import as_list, function, of_type, only, walk


def version(template: Template, image: str = IMAGE, **parameters: object) -> str:
    """The logical id of the version that is published; another id is another version."""
    (name,) = of_type(made(template, image, **parameters), "AWS::Lambda::Version")
    return name


# --- versions and the alias ------------------------------------------------------------------------------------------


def test_the_gateway_and_the_heartbeat_call_the_alias_and_never_the_newest_code(free: Template) -> None:
    alias = only(free, "AWS::Lambda::Alias")["Properties"]
    assert (alias["Name"], alias["FunctionName"]) == ("live", {"Ref": "FraudFunction"})
    body = only(free, "AWS::ApiGateway::RestApi")["Properties"]["Body"]
    called = [
        node["uri"]["Fn::Sub"]
        for _, node in walk(body["paths"])
        if isinstance(node, dict) and node.get("type") == "aws_proxy"
    ]
    assert len(called) == 2
    assert all("${FraudFunctionAliaslive}" in uri for uri in called)
    (target,) = free["Resources"]["FraudFunctionHeartbeat"]["Properties"]["Targets"]
    assert target["Arn"] == {"Ref": "FraudFunctionAliaslive"}


@pytest.mark.parametrize(
    "changed",
    [
        {"MemorySize": 1024},
        {"DeadlineMs": 300},
        {"RetentionDays": 30},
        {"SnapStart": "enabled"},
        {"CostMode": "production"},
    ],
    ids=str,
)
def test_a_changed_parameter_publishes_a_new_version(template: Template, changed: dict[str, object]) -> None:
    """By AWS::LanguageExtensions, which puts the value in place before SAM compares."""
    assert template["Transform"] == ["AWS::LanguageExtensions", "AWS::Serverless-2016-10-31"]
    assert version(template, **changed) != version(template)


def test_a_new_image_publishes_a_new_version(template: Template) -> None:
    assert version(template, f"{IMAGE}-next") != version(template)


@pytest.mark.parametrize(
    "changed", [{"ReservedConcurrency": 5}, {"ProvisionedConcurrency": 1}, {"ThrottleRate": 50}], ids=str
)
def test_what_is_no_part_of_a_version_publishes_none_which_lambda_would_refuse(
    template: Template, changed: dict[str, object]
) -> None:
    assert version(template, **changed) == version(template)


# --- the canary ------------------------------------------------------------------------------------------------------


def test_a_tenth_of_the_traffic_tries_a_version_for_five_minutes(free: Template) -> None:
    group = only(free, "AWS::CodeDeploy::DeploymentGroup")["Properties"]
    assert group["DeploymentConfigName"] == "CodeDeployDefault.LambdaCanary10Percent5Minutes"
    assert group["AutoRollbackConfiguration"]["Enabled"] is True
    assert "DEPLOYMENT_STOP_ON_ALARM" in group["AutoRollbackConfiguration"]["Events"]
    update = only(free, "AWS::Lambda::Alias")["UpdatePolicy"]["CodeDeployLambdaAliasUpdate"]
    assert update["DeploymentGroupName"] == {"Ref": "FraudFunctionDeploymentGroup"}
    assert update["BeforeAllowTrafficHook"] == {"Ref": "FraudSmoke"}


def test_every_way_of_moving_traffic_is_one_that_codedeploy_has(template: Template) -> None:
    for way in template["Parameters"]["DeploymentType"]["AllowedValues"]:
        group = only(made(template, DeploymentType=way), "AWS::CodeDeploy::DeploymentGroup")["Properties"]
        assert group["DeploymentConfigName"] == f"CodeDeployDefault.Lambda{way}"


#: What takes a deploy back.
JUDGES = ("ServerErrors", "SlowDecisions", "DegradedDecisions")


def test_three_alarms_take_a_deploy_back(free: Template) -> None:
    watched = only(free, "AWS::CodeDeploy::DeploymentGroup")["Properties"]["AlarmConfiguration"]
    assert watched == {"Enabled": True, "Alarms": [{"Name": {"Ref": name}} for name in JUDGES]}


def test_the_deploy_that_mends_an_alarm_is_let_through_it(template: Template) -> None:
    group = only(made(template, DeployDespiteAlarms="yes"), "AWS::CodeDeploy::DeploymentGroup")["Properties"]
    assert not group.get("AlarmConfiguration")


def test_codedeploy_may_move_this_alias_ask_this_hook_and_see_these_alarms(free: Template) -> None:
    role = free["Resources"]["DeployRole"]["Properties"]
    may = {item["Sid"]: item for item in role["Policies"][0]["PolicyDocument"]["Statement"]}
    arn = {"Fn::GetAtt": ["FraudFunction", "Arn"]}
    assert may["MoveAlias"]["Resource"] == [arn, {"Fn::Sub": "${FraudFunction.Arn}:live"}]
    assert may["AskHook"]["Resource"] == {"Fn::GetAtt": ["FraudSmoke", "Arn"]}
    assert may["LookAtAlarms"]["Resource"] == [{"Fn::GetAtt": [name, "Arn"]} for name in JUDGES]
    assert may.keys() == {"MoveAlias", "AskHook", "LookAtAlarms"}
    group = only(free, "AWS::CodeDeploy::DeploymentGroup")["Properties"]
    assert group["ServiceRoleArn"] == {"Fn::GetAtt": ["DeployRole", "Arn"]}
    assert "CodeDeployServiceRole" not in free["Resources"], "which may do this to every function of the account"


def test_the_hook_is_the_same_image_and_is_told_the_version_to_try(template: Template, free: Template) -> None:
    assert template["Resources"]["FraudSmoke"]["Metadata"] == template["Resources"]["FraudFunction"]["Metadata"]
    hook = function(free, "FraudSmoke")
    assert hook["ImageConfig"] == {"Command": ["fraud_api_lambda.handler.pretraffic"]}
    assert hook["Environment"]["Variables"]["FRAUD_SMOKE_FUNCTION"] == {"Ref": version(template)}


def test_where_keys_are_asked_for_the_hook_has_one_of_its_own(template: Template, free: Template) -> None:
    assert "FRAUD_API_KEY" not in function(free, "FraudSmoke")["Environment"]["Variables"]
    found = made(template, SmokeKeyParameter="/fraud/smoke-key")
    assert function(found, "FraudSmoke")["Environment"]["Variables"]["FRAUD_API_KEY"] == "ssm:/fraud/smoke-key"
    assert "FRAUD_API_KEY" not in function(found)["Environment"]["Variables"]
    rights = found["Resources"]["SmokeRights"]["Properties"]["PolicyDocument"]["Statement"]
    (key,) = [item for item in rights if item["Sid"] == "ReadOwnKey"]
    assert key["Resource"]["Fn::Sub"].endswith(":parameter/fraud/smoke-key")


def test_the_hooks_figures_are_not_those_of_customers(free: Template) -> None:
    name = function(free, "FraudSmoke")["Environment"]["Variables"]["POWERTOOLS_SERVICE_NAME"]
    assert name == {"Fn::Sub": "${AWS::StackName}-smoke"}


# --- SnapStart and concurrency ---------------------------------------------------------------------------------------


def test_snapstart_is_off_by_default_and_for_published_versions_where_it_is_on(
    template: Template, free: Template
) -> None:
    assert "SnapStart" not in function(free)
    found = made(template, SnapStart="enabled")
    assert function(found)["SnapStart"] == {"ApplyOn": "PublishedVersions"}
    assert "SnapStart" not in function(found, "FraudWorker")


def test_provisioned_concurrency_is_of_the_alias(template: Template) -> None:
    alias = only(made(template, ProvisionedConcurrency=2), "AWS::Lambda::Alias")["Properties"]
    assert alias["ProvisionedConcurrencyConfig"] == {"ProvisionedConcurrentExecutions": 2}


def test_snapstart_and_provisioned_concurrency_exclude_each_other(template: Template) -> None:
    with pytest.raises(RuleBroken, match="exclude each other"):
        made(template, SnapStart="enabled", ProvisionedConcurrency=1)


# --- alarms ----------------------------------------------------------------------------------------------------------


def alarms(template: Template) -> dict[str, Any]:
    return {name: item["Properties"] for name, item in of_type(template, "AWS::CloudWatch::Alarm").items()}


def watched(alarm: Any) -> Iterator[tuple[str, str, Any]]:
    """Namespace, metric and dimensions of all that an alarm looks at."""
    for metric in (
        [alarm] if "MetricName" in alarm else [m["MetricStat"]["Metric"] for m in alarm["Metrics"] if "MetricStat" in m]
    ):
        yield metric["Namespace"], metric["MetricName"], {d["Name"]: d["Value"] for d in metric["Dimensions"]}


def test_the_alarms_of_the_free_mode_are_the_ten_that_are_free(free: Template) -> None:
    """Billed is each metric of an alarm, and ten of them are not."""
    assert sum(len(list(watched(alarm))) for alarm in alarms(free).values()) == 10


def test_production_watches_more(free: Template, production: Template, template: Template) -> None:
    more = alarms(production).keys() - alarms(free).keys()
    assert alarms(free).keys() < alarms(production).keys()
    assert more >= {"ModelTrouble", "RulesTrouble", "LogFailures", "FunctionThrottled", "WorkerErrors"}
    retraining = {"CostMode": "production", "RetrainSchedule": "rate(7 days)", "RetrainKeyParameter": "/k"}
    assert "RetrainingFailed" in alarms(made(template, **retraining))


def test_every_figure_of_the_service_that_an_alarm_looks_at_is_sent_in_its_mode(
    free: Template, production: Template
) -> None:
    from fraud_api_lambda.metrics import EMF_FEW, EMF_UNITS, NAMESPACE

    for template, sent in ((free, EMF_FEW), (production, EMF_UNITS.keys())):
        mode = function(template)["Environment"]["Variables"]["FRAUD_CLOUDWATCH_METRICS"]
        assert mode == ("few" if sent is EMF_FEW else "all")
        for name, alarm in alarms(template).items():
            for namespace, metric, dimensions in watched(alarm):
                if not namespace.startswith("AWS/"):
                    assert namespace == NAMESPACE
                    assert metric in sent, name
                    assert dimensions == {"service": {"Ref": "AWS::StackName"}}
    assert function(free)["Environment"]["Variables"]["POWERTOOLS_SERVICE_NAME"] == {"Ref": "AWS::StackName"}


def test_the_api_that_is_watched_bears_the_name_that_the_alarm_looks_for(free: Template) -> None:
    title = only(free, "AWS::ApiGateway::RestApi")["Properties"]["Body"]["info"]["title"]
    ((_, _, dimensions), _) = watched(alarms(free)["ServerErrors"])
    assert dimensions == {"ApiName": title, "Stage": only(free, "AWS::ApiGateway::Stage")["Properties"]["StageName"]}


def test_ready_saying_no_is_subtracted_from_the_gateways_errors(free: Template) -> None:
    alarm = alarms(free)["ServerErrors"]
    (expression,) = [item["Expression"] for item in alarm["Metrics"] if "Expression" in item]
    assert expression == "FILL(gateway, 0) - FILL(ready, 0)"
    seen = {item["Id"]: item["MetricStat"] for item in alarm["Metrics"] if "MetricStat" in item}
    assert {key: (item["Metric"]["MetricName"], item["Stat"]) for key, item in seen.items()} == {
        "gateway": ("5XXError", "Sum"),
        "ready": ("NotReady", "Sum"),
    }


@pytest.mark.parametrize("name", JUDGES)
def test_what_takes_a_deploy_back_must_be_bad_for_three_minutes_of_five_and_silence_is_not(
    free: Template, name: str
) -> None:
    alarm = alarms(free)[name]
    assert (alarm["EvaluationPeriods"], alarm["DatapointsToAlarm"]) == (5, 3)
    assert alarm["TreatMissingData"] == "notBreaching"
    periods = (
        {alarm["Period"]}
        if "Period" in alarm
        else {m["MetricStat"]["Period"] for m in alarm["Metrics"] if "MetricStat" in m}
    )
    assert periods == {60}


def test_slow_is_what_the_service_was_told_to_keep_within(template: Template) -> None:
    alarm = alarms(made(template, DeadlineMs=400))["SlowDecisions"]
    assert (alarm["ExtendedStatistic"], alarm["Threshold"]) == ("p99", 400)
    from fraud_api_lambda.metrics import EMF_UNITS

    assert EMF_UNITS[alarm["MetricName"]] == "Milliseconds"


def test_a_heartbeat_that_stays_away_is_an_alarm_because_silence_is_what_a_deleted_image_makes(free: Template) -> None:
    rates = {"ApiHeartbeat": ("Requests", 5 * 60), "WorkerHeartbeat": ("Heartbeats", 3600)}
    for name, (metric, every) in rates.items():
        alarm = alarms(free)[name]
        assert alarm["MetricName"] == metric
        assert alarm["TreatMissingData"] == "breaching"
        assert alarm["Period"] >= every, "each period has a beat"
        assert alarm["Period"] * alarm["EvaluationPeriods"] <= 86_400, "CloudWatch looks back a day at most"
        assert alarm["EvaluationPeriods"] == alarm["DatapointsToAlarm"] == 3


def test_no_heartbeat_alarm_stops_the_deploy_that_would_bring_the_image_back(free: Template) -> None:
    named = only(free, "AWS::CodeDeploy::DeploymentGroup")["Properties"]["AlarmConfiguration"]["Alarms"]
    assert {"Name": {"Ref": "ApiHeartbeat"}} not in named


def test_the_heartbeat_is_a_request_that_the_entry_answers_without_a_key(
    free: Template, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from fraud_api_lambda.app import create_app
    from fraud_api_lambda.reload import ModelSource
    from fraud_api_lambda.scoring import FraudScorer

    monkeypatch.chdir(tmp_path)
    from fraud_api_lambda.handler import lambda_handler

    source = ModelSource(f"file://{tmp_path}/models/current", dict)
    entry = lambda_handler(create_app(FraudScorer(source)))
    (target,) = free["Resources"]["FraudFunctionHeartbeat"]["Properties"]["Targets"]
    answer = entry(json.loads(target["Input"]), object())
    assert answer["statusCode"] == 200
    counted = [json.loads(line) for line in capsys.readouterr().out.splitlines() if '"_aws"' in line]
    assert [line["Requests"] for line in counted] == [[1.0]], "what the alarm misses when it stays away"


def test_whoever_is_named_is_told_of_every_alarm_and_of_the_end_of_it(template: Template, production: Template) -> None:
    for alarm in alarms(production).values():
        assert alarm["AlarmActions"] == alarm["OKActions"] == [{"Ref": "AlarmTopic"}]
        assert len(alarm["AlarmDescription"]) > 20
    assert not of_type(production, "AWS::SNS::Subscription")
    told = only(made(template, AlarmEmail="ops@example.com"), "AWS::SNS::Subscription")["Properties"]
    assert (told["Protocol"], told["Endpoint"]) == ("email", "ops@example.com")


def test_only_cloudwatch_and_budgets_of_the_own_account_may_tell(free: Template) -> None:
    (allowed,) = only(free, "AWS::SNS::TopicPolicy")["Properties"]["PolicyDocument"]["Statement"]
    assert allowed["Principal"] == {"Service": ["cloudwatch.amazonaws.com", "budgets.amazonaws.com"]}
    assert allowed["Condition"] == {"StringEquals": {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}}


def test_queues_that_fill_and_drift_are_alarms(free: Template) -> None:
    found = {name: next(watched(alarm)) for name, alarm in alarms(free).items()}
    assert found["TransactionsLaidAside"][2] == {"QueueName": {"Fn::GetAtt": ["TransactionsDead", "QueueName"]}}
    assert found["OutboxLaidAside"][2] == {"QueueName": {"Fn::GetAtt": ["OutboxDead", "QueueName"]}}
    assert found["OutboxOld"][1] == "ApproximateAgeOfOldestMessage"
    assert found["Drift"][1] == "DriftAlarms"


def test_the_dashboard_is_json_and_shows_every_alarm_of_the_free_mode(template: Template, free: Template) -> None:
    text = only(free, "AWS::CloudWatch::Dashboard")["Properties"]["DashboardBody"]["Fn::Sub"]
    body = json.loads(re.sub(r"\$\{([^}]+)\}", r"\1", text))
    shown = next(item for item in body["widgets"] if item["type"] == "alarm")["properties"]["alarms"]
    assert {name.removesuffix(".Arn") for name in shown} == alarms(free).keys()
    metrics = [metric for item in body["widgets"] for metric in item["properties"].get("metrics", [])]
    assert 0 < len(metrics) <= 50, "three dashboards of fifty metrics are free"
    boxes = [(item["x"], item["y"], item["width"], item["height"]) for item in body["widgets"]]
    assert len(set(boxes)) == len(boxes)
    assert all(x + width <= 24 for x, _, width, _ in boxes)
    # The same metric names as the service's, told once and inherited by "." and "...".
    from fraud_api_lambda.metrics import EMF_FEW

    own = [metric for metric in metrics if metric[0] == "FraudDetection"]
    assert own
    assert {metric[1] for metric in own} <= EMF_FEW


# --- the gateway's own answers ---------------------------------------------------------------------------------------


def answers(template: Template) -> dict[str, Any]:
    body = only(template, "AWS::ApiGateway::RestApi")["Properties"]["Body"]
    found: dict[str, Any] = body["x-amazon-apigateway-gateway-responses"]
    return found


def test_every_answer_of_the_gateway_is_a_problem_document_with_the_request_id(free: Template) -> None:
    assert answers(free).keys() >= {"DEFAULT_4XX", "DEFAULT_5XX", "INVALID_API_KEY", "THROTTLED", "QUOTA_EXCEEDED"}
    for name, answer in answers(free).items():
        headers = answer["responseParameters"]
        assert headers["gatewayresponse.header.Content-Type"] == "'application/problem+json'", name
        document = json.loads(answer["responseTemplates"]["application/json"])
        assert document["type"] == "about:blank"
        assert document["request_id"] == "$context.requestId"
        assert document["title"]
        assert document["detail"].endswith((".", "?"))
        assert document.get("status") == (int(answer["statusCode"]) if "statusCode" in answer else None), name


def test_no_answer_of_the_gateway_repeats_what_was_sent(free: Template) -> None:
    text = json.dumps(answers(free))
    assert set(re.findall(r"\$[\w.]+", text)) == {"$context.requestId"}
    assert "method.request" not in text


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("INVALID_API_KEY", 403),
        ("MISSING_AUTHENTICATION_TOKEN", 403),
        ("WAF_FILTERED", 403),
        ("REQUEST_TOO_LARGE", 413),
        ("THROTTLED", 429),
        ("QUOTA_EXCEEDED", 429),
        ("INTEGRATION_TIMEOUT", 504),
    ],
)
def test_an_answer_of_one_meaning_has_the_gateways_own_status(free: Template, name: str, status: int) -> None:
    assert str(answers(free)[name]["statusCode"]) == str(status)


def test_a_page_may_read_why_the_gateway_refused_it(template: Template) -> None:
    found = answers(made(template, CorsOrigin="https://console.example.com"))
    for answer in found.values():
        origin = answer["responseParameters"]["gatewayresponse.header.Access-Control-Allow-Origin"]
        assert origin == "'https://console.example.com'"
    for answer in answers(made(template)).values():
        origin = answer["responseParameters"]["gatewayresponse.header.Access-Control-Allow-Origin"]
        assert origin == "'https://none.invalid'"


# --- the gateway's log -----------------------------------------------------------------------------------------------


def test_there_is_no_access_log_by_default_because_it_needs_a_role_of_the_whole_account(free: Template) -> None:
    assert "AccessLogSetting" not in only(free, "AWS::ApiGateway::Stage")["Properties"]
    assert not {"GatewayLogs", "GatewayAccount", "GatewayLogRole"} & set(free["Resources"])


def test_the_access_log_is_one_json_line_without_address_body_or_key(template: Template) -> None:
    setting = only(made(template, AccessLog="stage"), "AWS::ApiGateway::Stage")["Properties"]["AccessLogSetting"]
    line = json.loads(setting["Format"])
    assert {"request_id", "status", "ms", "key"} <= line.keys()
    assert not re.search(r"sourceIp|apiKey\b|userAgent|caller|authorizer", setting["Format"])
    assert setting["DestinationArn"] == {"Fn::GetAtt": ["GatewayLogs", "Arn"]}


def test_the_accounts_role_is_set_where_asked_outlives_the_stack_and_comes_before_the_stage(template: Template) -> None:
    assert "GatewayAccount" not in made(template, AccessLog="stage")["Resources"]
    found = made(template, AccessLog="account")["Resources"]
    assert {found[name]["DeletionPolicy"] for name in ("GatewayAccount", "GatewayLogRole")} == {"Retain"}
    assert {"Ref": "GatewayAccount"} in [tag["Value"] for tag in found["GatewayLogs"]["Properties"]["Tags"]]
    (managed,) = found["GatewayLogRole"]["Properties"]["ManagedPolicyArns"]
    assert managed["Fn::Sub"].endswith(":aws:policy/service-role/AmazonAPIGatewayPushToCloudWatchLogs")


# --- retraining ------------------------------------------------------------------------------------------------------

RETRAINING = {"RetrainSchedule": "cron(0 4 ? * MON *)", "RetrainKeyParameter": "/fraud/release-key"}


def test_nothing_of_retraining_is_made_by_default(free: Template, production: Template) -> None:
    for found in (free, production):
        assert not of_type(found, "AWS::CodeBuild::Project")
        assert not of_type(found, "AWS::ECR::Repository")


def test_retraining_runs_the_training_image_when_the_schedule_says(template: Template) -> None:
    found = made(template, **RETRAINING)
    project = only(found, "AWS::CodeBuild::Project")["Properties"]
    assert project["Environment"]["Image"] == {"Fn::Sub": "${TrainingImages.RepositoryUri}:current"}
    assert project["ConcurrentBuildLimit"] == 1
    rule = found["Resources"]["RetrainingRule"]["Properties"]
    assert rule["ScheduleExpression"] == "cron(0 4 ? * MON *)"
    assert [target["Arn"] for target in rule["Targets"]] == [{"Fn::GetAtt": ["Retraining", "Arn"]}]


def test_retraining_without_a_key_to_sign_with_is_refused(template: Template) -> None:
    with pytest.raises(RuleBroken, match="nobody signed"):
        made(template, RetrainSchedule="rate(7 days)")


def test_the_image_in_use_is_never_deleted_from_the_repository(template: Template) -> None:
    """A rule with a higher number never deletes what one with a lower is about."""
    repository = only(made(template, **RETRAINING), "AWS::ECR::Repository")["Properties"]
    rules = json.loads(repository["LifecyclePolicy"]["LifecyclePolicyText"])["rules"]
    first, *others = sorted(rules, key=lambda rule: int(rule["rulePriority"]))
    tag = only(made(template, **RETRAINING), "AWS::CodeBuild::Project")["Properties"]["Environment"]["Image"]["Fn::Sub"]
    assert first["selection"]["tagPrefixList"] == [tag.rpartition(":")[2]]
    assert first["selection"]["countNumber"] == 1, "one image bears the tag, so none of it is ever too many"
    assert [rule["selection"]["tagStatus"] for rule in others] == ["any"]


def test_the_build_knows_every_setting_and_every_option_that_it_gives(template: Template) -> None:
    import typer

    from fraud_api_lambda.settings import read_settings
    from training.__main__ import app

    project = only(made(template, **RETRAINING), "AWS::CodeBuild::Project")["Properties"]
    variables = {item["Name"]: "x" for item in project["Environment"]["EnvironmentVariables"]}
    read_settings({name: "s3://b/k" for name in variables if name.startswith("FRAUD_")})
    steps = yaml.safe_load(project["Source"]["BuildSpec"])["phases"]["build"]["commands"]
    line = " ".join(steps)
    command = typer.main.get_command(app).commands["retrain"]  # type: ignore[attr-defined]
    known = {option for parameter in command.params for option in parameter.opts}
    asked = set(re.findall(r"(?<= )--[a-z-]+", line[line.index("training retrain") : line.index("; code=")]))
    assert asked
    assert asked <= known
    assert "$RELEASE_KEY" in steps[0]
    assert "RELEASE_KEY" in variables


def test_the_build_says_what_the_exit_codes_of_retrain_mean(template: Template, tmp_path: Path) -> None:
    import subprocess

    from training.retrain import EXIT_CODES

    project = only(made(template, **RETRAINING), "AWS::CodeBuild::Project")["Properties"]
    command = yaml.safe_load(project["Source"]["BuildSpec"])["phases"]["build"]["commands"][1]
    fake = tmp_path / "python3"
    for code in (*EXIT_CODES.values(), 1, 2, 137):
        fake.write_text(f"#!/bin/sh\nexit {code}\n")
        fake.chmod(0o755)
        done = subprocess.run(["sh", "-c", command], env={"PATH": f"{tmp_path}:/bin:/usr/bin"}, timeout=20, check=False)
        assert (done.returncode == 0) == (code in EXIT_CODES.values()), code


def test_retraining_may_read_decisions_and_publish_and_no_more(template: Template) -> None:
    role = made(template, **RETRAINING)["Resources"]["RetrainingRole"]["Properties"]
    may = {item["Sid"]: item for item in role["Policies"][0]["PolicyDocument"]["Statement"]}
    actions = {action for item in may.values() for action in as_list(item["Action"])}
    assert not {action for action in actions if "Delete" in action or "Update" in action}
    assert may["PublishBundles"]["Resource"] == {"Fn::Sub": "${ModelBucket.Arn}/models/*"}, "no rule is its to change"
    assert not any(action.startswith("ecr:") for action in actions), "CodeBuild pulls by the repository's own policy"
