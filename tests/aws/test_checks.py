"""Strangers' eyes: checkov on the template; zizmor and GitHub's own schemas on the workflows; what those must hold."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.aws.settling import ROOT
from tests.aws.test_template import as_list

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
TOOLS = ROOT / ".venv-checks/bin"


def tool(name: str, *words: str) -> subprocess.CompletedProcess[str]:
    if not (TOOLS / name).exists():
        pytest.skip(f"no .venv-checks/bin/{name}: .ci/run makes it from .ci/checks.txt")
    # No look for newer versions, rules or vulnerabilities: the lock says what is used.
    environ = {**os.environ, "CKV_IGNORE_HIDDEN_DIRECTORIES": "false", "LOG_LEVEL": "ERROR"}
    command = [str(TOOLS / name), *words]
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=240, check=False)


# --- the template ----------------------------------------------------------------------------------------------------


def waived() -> dict[str, str]:
    found: dict[str, str] = yaml.safe_load((ROOT / ".ci/checkov.yaml").read_text())["waived"]
    return found


def test_checkov_finds_what_is_waived_and_nothing_else() -> None:
    words = ("--file", "template.yaml", "--framework", "cloudformation", "--skip-download", "--compact", "--quiet")
    done = tool("checkov", *words, "--output", "json")
    report = json.loads(done.stdout)
    assert report["summary"]["passed"] > 50
    assert report["summary"]["parsing_errors"] == 0
    failed: dict[str, list[str]] = {}
    for check in report["results"]["failed_checks"]:
        failed.setdefault(check["check_id"], []).append(check["resource"])
    assert failed.keys() - waived().keys() == set(), failed
    assert waived().keys() - failed.keys() == set(), "a waiver whose cause has gone"


def test_every_waiver_gives_its_reason() -> None:
    for check, reason in waived().items():
        assert re.fullmatch(r"CKV_AWS_\d+", check)
        assert len(reason) > 40, check


def test_cfn_lint_accepts_the_roles_that_github_is_lent() -> None:
    import sys

    command = [str(Path(sys.executable).with_name("cfn-lint")), "-t", ".ci/github-roles.yaml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# --- the workflows ---------------------------------------------------------------------------------------------------


def test_zizmor_finds_nothing_in_the_workflows() -> None:
    done = tool("zizmor", "--offline", "--no-progress", ".github")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_is_one_by_githubs_schema(path: Path) -> None:
    done = tool("check-jsonschema", "--builtin-schema", "vendor.github-workflows", str(path))
    assert done.returncode == 0, done.stdout


def test_dependabots_file_is_one_by_its_schema() -> None:
    done = tool("check-jsonschema", "--builtin-schema", "vendor.dependabot", ".github/dependabot.yml")
    assert done.returncode == 0, done.stdout


def load(name: str) -> Any:
    """A workflow. YAML reads the key ``on`` as true."""
    return yaml.safe_load((ROOT / ".github/workflows" / f"{name}.yml").read_text())


def steps(workflow: Any) -> Iterator[Any]:
    for job in workflow["jobs"].values():
        yield from job.get("steps", [])


def pins() -> dict[str, set[tuple[str, str]]]:
    found: dict[str, set[tuple[str, str]]] = {}
    for path in WORKFLOWS:
        for action, digest, version in re.findall(r"uses: ([\w./-]+)@(\S+)(?: # (\S+))?", path.read_text()):
            found.setdefault(action, set()).add((digest, version))
    return found


def test_every_action_is_pinned_to_a_commit_and_says_its_version() -> None:
    assert pins()
    for action, uses in pins().items():
        assert len(uses) == 1, f"{action} in more than one version"
        ((digest, version),) = uses
        assert re.fullmatch(r"[0-9a-f]{40}", digest), action
        assert re.fullmatch(r"v\d+\.\d+\.\d+", version), action
    for path in WORKFLOWS:
        for step in steps(yaml.safe_load(path.read_text())):
            assert "uses" not in step or "@" in step["uses"]


def test_the_documents_tell_which_version_each_pin_is() -> None:
    page = (ROOT / "docs/deploy.md").read_text()
    for action, uses in pins().items():
        ((digest, version),) = uses
        assert f"| `{action}` | {version} | `{digest}` |" in page


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_has_no_right_that_a_job_does_not_name(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {}
    for name, job in workflow["jobs"].items():
        allowed = job["permissions"]
        assert {right for right, level in allowed.items() if level == "write"} <= {
            "deploy": {"id-token"},
            "retrain": {"id-token"},
            "lock": {"contents", "pull-requests"},
        }.get(name, set())
        assert "uses" in job or job["timeout-minutes"] <= 180


def test_no_workflow_knows_a_secret() -> None:
    for path in WORKFLOWS:
        text = path.read_text()
        assert "secrets." not in text
        assert "secrets: inherit" not in text
        assert not re.search(r"aws-(access-key-id|secret-access-key)|AKIA", text)


def test_every_change_is_tested_on_each_supported_python_as_anybody_tests_it() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.12,<3.14"
    job = load("test")["jobs"]["test"]
    assert job["strategy"]["matrix"]["python"] == ["3.12", "3.13"]
    assert [step["run"] for step in steps(load("test")) if "run" in step] == ["bash .ci/run"]
    assert load("test")[True].keys() == {"pull_request", "workflow_call"}


def test_dev_is_deployed_from_main_and_prod_from_a_tag_only_after_the_tests() -> None:
    workflow = load("deploy")
    assert workflow[True] == {"push": {"branches": ["main"], "tags": ["v*"]}}
    job = workflow["jobs"]["deploy"]
    assert job["needs"] == "test"
    for text in (job["environment"], job["env"]["TARGET"]):
        assert text == "${{ github.ref_type == 'tag' && 'prod' || 'dev' }}", "the environment asks for an approval"
    assert job["concurrency"]["cancel-in-progress"] is False


def test_what_is_deployed_is_named_in_samconfig() -> None:
    import tomllib

    config = tomllib.loads((ROOT / "samconfig.toml").read_text())
    stacks = {name: config[name]["global"]["parameters"]["stack_name"] for name in ("dev", "staging", "prod")}
    assert stacks == {"dev": "fraud-dev", "staging": "fraud-staging", "prod": "fraud-prod"}
    assert load("deploy")["jobs"]["deploy"]["env"]["STACK"] == (
        "${{ github.ref_type == 'tag' && 'fraud-prod' || 'fraud-dev' }}"
    )


def test_what_a_workflow_runs_of_ours_exists() -> None:
    import typer

    from training.__main__ import app

    known = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    targets = set(re.findall(r"^([a-z-]+)[a-z -]*:", (ROOT / "Makefile").read_text(), flags=re.M))
    targets |= {"publish", "smoke", "destroy"}
    lines = "\n".join(
        step["run"] for path in WORKFLOWS for step in steps(yaml.safe_load(path.read_text())) if "run" in step
    )
    assert set(re.findall(r"-m training ([a-z-]+)", lines)) == {"retrain", "images"} <= known
    assert set(re.findall(r"\bmake ([a-z-]+)", lines)) <= targets
    for lock in re.findall(r"-r (\S+)", lines):
        assert (ROOT / lock).is_file()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_what_a_workflow_gives_the_shell_is_shell(path: Path) -> None:
    for step in steps(yaml.safe_load(path.read_text())):
        if "run" in step:
            assert "${{" not in step["run"], "a value of an event must never become a part of a command"
            done = subprocess.run(
                ["bash", "-n", "-c", step["run"]], capture_output=True, text=True, timeout=10, check=False
            )
            assert done.returncode == 0, done.stderr


# --- the roles -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def roles() -> Any:
    from samtranslator.yaml_helper import yaml_parse

    return yaml_parse((ROOT / ".ci/github-roles.yaml").read_text())


def test_a_role_is_lent_to_one_environment_of_one_repository(roles: Any) -> None:
    lent = {"DeployRole": "environment:${Environment}", "RetrainRole": "environment:retrain"}
    for name, environment in lent.items():
        (trust,) = roles["Resources"][name]["Properties"]["AssumeRolePolicyDocument"]["Statement"]
        assert trust["Action"] == "sts:AssumeRoleWithWebIdentity"
        assert trust["Condition"] == {
            "StringEquals": {
                "token.actions.githubusercontent.com:aud": "sts.amazonaws.com",
                "token.actions.githubusercontent.com:sub": {"Fn::Sub": f"repo:${{Repository}}:{environment}"},
            }
        }, "StringLike would let another branch or repository in"


def test_only_cloudformation_takes_on_what_makes_the_stack(roles: Any) -> None:
    execution = roles["Resources"]["ExecutionRole"]["Properties"]
    (trust,) = execution["AssumeRolePolicyDocument"]["Statement"]
    assert trust["Principal"] == {"Service": "cloudformation.amazonaws.com"}
    deploy = roles["Resources"]["DeployRole"]["Properties"]["Policies"][0]["PolicyDocument"]["Statement"]
    (passing,) = [item for item in deploy if "iam:PassRole" in as_list(item["Action"])]
    assert passing["Resource"] == {"Fn::GetAtt": ["ExecutionRole", "Arn"]}


def test_a_run_itself_may_do_nothing_to_everything_but_log_in_to_images(roles: Any) -> None:
    for name in ("DeployRole", "RetrainRole"):
        for item in roles["Resources"][name]["Properties"]["Policies"][0]["PolicyDocument"]["Statement"]:
            assert not any(action.endswith(":*") or action == "*" for action in as_list(item["Action"]))
            assert item["Resource"] != "*" or item["Action"] == "ecr:GetAuthorizationToken"


def test_nothing_here_makes_a_user_or_a_key(roles: Any) -> None:
    kinds = {item["Type"] for item in roles["Resources"].values()}
    assert kinds == {"AWS::IAM::Role", "AWS::IAM::OIDCProvider"}
    assert "AccessKey" not in json.dumps(roles)
