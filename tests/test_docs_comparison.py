"""docs/comparison.md: each thing that users of other systems look for has a row, and what a row names exists."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "comparison.md").read_text()

#: What users of each system look for, in the order of the page. A row may say "Not here"; none may be missing.
SEATS = {
    "P0": (
        "`POST /predict`: probability and class",
        "`/docs`",
        "validation of what is sent",
        "features computed from raw fields, at the request",
        "the same features in training and in serving",
        "logistic regression",
        "accuracy, AUC, precision, recall, F1",
        "detection rate, false positive rate, frauds an investigation, savings a year",
        "a form that shows probability and risk",
        "`BACKEND_URL`",
        "model artefacts from S3, by a role's rights",
        "settings in a `.env` file",
        "all of it by one command of Docker Compose",
        "all of it by one command without Docker",
        "a `curl` to copy",
        "deployable on EC2, ECS, App Runner, Azure, Cloud Run, Kubernetes",
        "TLS in front, by a proxy or a load balancer",
        "a systemd unit",
        "secrets from a manager",
        "logs as JSON",
        "Prometheus",
        "Grafana",
        "health and readiness",
        "a rate limit",
        "API keys",
        "JWT",
        "drift",
        "canary releases",
        "drift detected by itself (planned)",
        "retraining on a schedule (planned)",
        "an ensemble (planned)",
        "stacking (planned)",
        "graph features (planned)",
        "several currencies (planned)",
        "roles (planned)",
    ),
    "P1": (
        "`POST /predict` and `GET /health`",
        "a row of Time, V1 to V28 and Amount as it stands",
        "decisions recorded in PostgreSQL",
        "decisions recorded in SQLite",
        "`GET /transactions` in pages",
        "a dashboard of anomalies and alerts",
        "a filter by least probability",
        "fraud over time",
        "a warning above 0.8",
        "scripts that explore, prepare, train, evaluate",
        "a trained model in the repository",
        "many transactions at once",
        "unit and API tests",
        "a Docker image",
        "log lines of requests, of frauds, of the day, of the system",
        "streams, Kafka (planned)",
        "pages for alerts, with filters (planned)",
        "GitHub Actions (planned)",
        "Prometheus and Grafana (planned)",
    ),
    "P2": (
        "`POST /predict`: `is_fraud` and `confidence`",
        "its example of an amount above the balance is a fraud",
        "XGBoost held against LightGBM",
        "precision, recall, AUC, specificity, true positive rate, F1, kappa, false discovery and false positive rate",
        "weights for the classes",
        "outliers left out",
        "data in S3",
        "no credential in the repository",
    ),
    "P3": (
        "synthetic transactions with habits, places and frauds",
        "count and amount of the last hour",
        "the average of seven days and the amount against it",
        "hour, weekday, night",
        "`scale_pos_weight`",
        "both models trained together and logged to MLflow in one run",
        "features offline and profiles in Redis by the same logic",
        "models from the registry",
        "one half of each model",
        "rules that overrule the model: an amount far above the usual, a large one by night",
        "FRAUD or LEGIT, probability, explanation, version of the model",
        "its three legitimate examples are approved",
        "its four fraudulent examples are flagged",
        "API, MLflow, Redis and a trainer by Docker Compose",
        "data tracked with DVC",
        "an answer in less than 100 ms",
        "what to do when something is wrong",
        "an example for PowerShell",
        "a script that looks for drift by KS",
    ),
    "P4": (
        "FastAPI and Mangum on Lambda behind API Gateway",
        "a row of PaySim as it stands",
        "its PaySim row, an account emptied to the cent, is a fraud",
        "the image in a private repository of ECR",
        "the model from S3 at the start",
        "a SAM template with the right to read the bucket",
        "XGBoost, SMOTE, a randomised search",
        "recall first",
        "classification report and confusion matrix of imbalanced rows",
        "its published recall, precision and F1",
        "a profile of the data",
        "a light console for Streamlit Cloud that only calls the API",
        "SHAP for each transaction",
        "no costs on the free tier, and an alarm on the budget",
        "pinned versions",
        "past the limit of 250 MB",
        '"No images found to deploy"',
        "a repository of ECR that was deleted, a 500 without a log",
        "ECR Public cannot be used",
        "retrain, push and deploy by CI (planned)",
        "CloudWatch: dashboards and alarms (planned)",
        "least privilege (planned)",
        "an API key (planned)",
        "a database of predictions and outcomes (planned)",
        "features of place, device and history (planned)",
        "memory tuned (planned)",
        "one endpoint for prediction and explanation (planned)",
    ),
    "The market": (
        "outcomes from bands of the score",
        "all rules that match, or only the first",
        "versions of a model: draft, active, gone",
        "each variable's share of the score, with its direction",
        "stored events, labels that come later, files of predictions",
        "a rule tried on the past before it is saved",
        "allow and block, with a fixed precedence",
        "lists of values",
        "a queue of reviews",
        "inputs that force a result, for tests",
        "why a payment is risky",
        "versioned scenarios",
        "a draft judged in the shadow",
        "a rule snoozed for one party",
        "cases",
        "webhooks",
        "counters of velocity, that forget",
        "replay, and tags as labels",
        "the strongest factors against normal behaviour",
        "validation in the order of time, with a label delay; CP@k",
        "features as of a point in time, the same in batch and in streams",
    ),
}

DEFECTS = {
    "P0": (
        "a transaction type is another number in training than in serving",
        "bins are cut in two ways",
        "the scaler learns from the test rows",
        "precision is measured at a fraud rate that no bank has",
        "what is not sent counts as zero",
    ),
    "P1": (
        "scaled in training and not in serving",
        "it runs a pickle that a URL gives it",
        "a password in its source",
        "an Isolation Forest, tests and logs that are claimed and absent",
    ),
    "P2": (
        "a feature that tells which data set a row is from",
        "the threshold is chosen on the rows it is reported on",
    ),
    "P3": (
        '"the last hour" is the last five rows',
        "live profiles are never updated",
        "figures of the rows that taught",
        "two of its own fraudulent examples come out legitimate for a customer without a past",
    ),
    "P4": (
        "SMOTE before cross-validation",
        "the caller has to send encoded columns and a ratio",
        "it unpickles what lies in S3, unverified",
        "no authentication, no throttle",
        "callers are told the details of errors",
    ),
}


@pytest.mark.parametrize("system", SEATS)
def test_each_thing_that_is_looked_for_has_its_row(system: str) -> None:
    assert tuple(row[0] for row in rows(system, "looked for")) == SEATS[system]


@pytest.mark.parametrize("system", DEFECTS)
def test_each_known_defect_has_its_row(system: str) -> None:
    assert tuple(row[0] for row in rows(system, "its defect")) == DEFECTS[system]


def test_every_system_of_the_page_is_known() -> None:
    assert tuple(re.findall(r"^## ([\w ]+):", PAGE, flags=re.M)) == tuple(SEATS)


@pytest.mark.parametrize("system", SEATS)
def test_what_is_here_names_a_file_and_a_test_and_what_is_not_says_so(system: str) -> None:
    for seat, here, shown in [*rows(system, "looked for"), *rows(system, "its defect")]:
        assert "**Not here**" in here or (files(here) and "::" in shown), seat
        assert not ("**Not here**" in here and "**Partly**" in here), seat


def test_every_file_and_every_test_that_is_named_exists() -> None:
    for system in SEATS:
        for _, here, shown in [*rows(system, "looked for"), *rows(system, "its defect")]:
            for file in files(here):
                assert (ROOT / file).exists(), file
            for file, test in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", shown):
                assert test in names_in(file), f"{file}::{test}"
            assert shown.count("::") == len(re.findall(r"`tests/[\w/]+\.py::\w+`", shown)), shown


@pytest.mark.parametrize("state", ["Not here", "Partly"])
def test_what_is_missing_is_listed_at_the_top(state: str) -> None:
    missing = [row[0] for system in SEATS for row in rows(system, "looked for") if f"**{state}**" in row[1]]
    assert f"- **{state}**: {'; '.join(missing)}." in " ".join(PAGE.split())


# --- reading the page ------------------------------------------------------------------------------------------------


def rows(system: str, first: str) -> list[tuple[str, str, str]]:
    """The rows of the table under ``## system: ...`` whose first heading is ``first``."""
    found = re.search(rf"^## {system}:.*?(?=^## |\Z)", PAGE, flags=re.M | re.S)
    assert found is not None, system
    table = re.search(rf"^\| {first} \|.*\n\|---\|---\|---\|\n((?:\|.*\n)+)", found[0], flags=re.M)
    lines = table[1].splitlines() if table else []
    cells = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines]
    assert all(len(row) == 3 for row in cells), system
    return [(row[0], row[1], row[2]) for row in cells]


def files(text: str) -> list[str]:
    """The files and folders of this repository that a cell names; every name with a slash or a known ending is one."""
    named = re.findall(r"`([\w.][\w./-]*)`", text)
    return [name for name in named if "/" in name or name.endswith((".md", ".yaml", ".toml", ".py")) or name[0] == "."]


@cache
def names_in(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text())
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, functions) and node.name.startswith("test_")}
