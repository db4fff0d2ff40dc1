"""docs/architecture.md keeps its word: the ways that it describes are gone here, and watched.

Each of its tables of files names functions in the order in which a transaction, a training run and a label enter them.
Python tells when a function is first entered (``sys.monitoring``); the page has to say the same.
"""

import base64
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from fraud_api_lambda.bootstrap import build
from fraud_api_lambda.bundle import SigningKey, parse_public_keys
from fraud_api_lambda.decision_log import Label
from fraud_api_lambda.schemas import rfc3339
from fraud_api_lambda.settings import Settings
from training import retrain, synthetic, train
from training.publish import publish
from training.retrain import Base, Policy, Setting

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
DAY_MS = 86_400_000
#: A Monday's midnight to come: stores let profiles go when they are old by the machine's own clock.
END_MS = 4_107_542_400_000
#: Days that the first model learns from, days that are decided, days until a label is known.
BEFORE, LIVE, DELAY = 15, 30, 2
#: A fraud that the first model has never seen, so that the second one is better.
NEW = "mule_fan_in"
WAYS = ("One transaction", "One training run", "One alert, from decision to label to a new model")
CONTEXT = SimpleNamespace(aws_request_id="r", function_name="f")

Entered = list[tuple[str, str]]


@contextmanager
def watched() -> Iterator[Entered]:
    """The functions of service and training, as (file, qualified name), in the order in which each is first entered."""
    monitoring = sys.monitoring
    tool = next(number for number in range(6) if monitoring.get_tool(number) is None)
    entered: Entered = []

    def enter(code: CodeType, _: int) -> Any:
        path = Path(code.co_filename)
        if path.is_relative_to(ROOT / "fraud_api_lambda") or path.is_relative_to(ROOT / "training"):
            entered.append((path.relative_to(ROOT).as_posix(), code.co_qualname.replace(".<locals>", "")))
        return monitoring.DISABLE  # once is enough

    monitoring.use_tool_id(tool, "tests of the architecture's page")
    monitoring.register_callback(tool, monitoring.events.PY_START, enter)
    monitoring.restart_events()
    monitoring.set_events(tool, monitoring.events.PY_START)
    try:
        yield entered
    finally:
        monitoring.set_events(tool, monitoring.events.NO_EVENTS)
        monitoring.register_callback(tool, monitoring.events.PY_START, None)
        monitoring.free_tool_id(tool)


def steps(way: str) -> Entered:
    """What the page's table under this heading names: (file, function), row by row."""
    found = re.search(rf"^## {way}\n.*?(?=^## |\Z)", PAGE, flags=re.M | re.S)
    assert found is not None, way
    rows = re.findall(r"^\| `([\w/]+\.py)` \| (`.*?`) \|", found[0], flags=re.M)
    return [(file, name) for file, names in rows for name in re.findall(r"`([\w.]+)`", names)]


def event(method: str, path: str, body: object = None, **query: str) -> dict[str, Any]:
    """A REST proxy event, made from the sample event."""
    made: dict[str, Any] = json.loads((ROOT / "events" / "predict-over-balance.v1.json").read_text())
    context = made["requestContext"]
    made.update(path=path, resource=path, httpMethod=method, body=None if body is None else json.dumps(body))
    made.update(queryStringParameters=query, multiValueQueryStringParameters={k: [v] for k, v in query.items()})
    context.update(path=f"/{context['stage']}{path}", resourcePath=path, httpMethod=method)
    return made


def bodies(rows: pd.DataFrame) -> list[dict[str, Any]]:
    unsent = {"is_fraud", "fraud_scenario", "label_ms", "time_ms", "weight"}
    return [
        {str(name): value for name, value in row.items() if name not in unsent and not pd.isna(value)}
        | {"timestamp": rfc3339(row["time_ms"])}
        for row in rows.to_dict("records")
    ]


@pytest.fixture(scope="module")
def gone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Entered]]:
    """A model is trained and published, transactions are decided, alerts told and labelled, a new model promoted."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("walk")
        patch.chdir(home)
        start_ms = END_MS - (BEFORE + LIVE) * DAY_MS
        begin_ms = start_ms + BEFORE * DAY_MS
        frame = synthetic.generate(
            2_700, 3, start=pd.Timestamp(start_ms, unit="ms", tz="UTC").to_pydatetime(), days=BEFORE + LIVE,
            scenario_start={NEW: BEFORE}, scenario_share={NEW: 0.6}, fraud_share=0.08, steady=True,
        )  # fmt: skip
        synthetic.write(frame[frame["time_ms"] < begin_ms], home / "base.parquet")
        rows = frame[frame["time_ms"] >= begin_ms]
        key = SigningKey.generate("release-walk")
        trusted = parse_public_keys(key.public_line())
        current, challenger = (f"file://{home}/models/{name}" for name in ("current", "challenger"))
        ways: dict[str, Entered] = {}

        with watched() as ways["One training run"]:
            options = train.Options("base.parquet", tune=1, ablation=False, delay_ms=DELAY * DAY_MS, now_ms=begin_ms)
            publish(train.run(options, home / "models", key).bundle, current, key, trusted, force=False)

        from fraud_api_lambda import handler

        clock = [begin_ms]
        secret = base64.b64encode(b"a secret of 32 bytes, no more xx").decode()
        settings = Settings(
            model_url=current,
            model_public_keys=key.public_line(),
            webhooks=f"https://127.0.0.1:9/#whsec_{secret}",  # nobody listens there
            deadline_ms=60_000,
            log_level="ERROR",
        )
        app = build(settings, clock=lambda: clock[0], on_aws=True)
        scorer = app.state.scorer
        for first in range(0, len(rows), 200):
            part = rows.iloc[first : first + 200]
            clock[0] = int(part["time_ms"].iat[-1])
            scorer.answer_many(bodies(part))
        for name, time_ms in rows.loc[rows["is_fraud"] == 1, ["transaction_id", "time_ms"]].itertuples(index=False):
            scorer.feedback(Label(name, True, "analyst", time_ms, min(time_ms + DAY_MS, END_MS)))
        clock[0] = END_MS
        serve = handler.lambda_handler(app)

        drained = {
            "transaction_id": "walked", "type": "TRANSFER", "amount": 45_000, "customer_id": "A",
            "counterparty_id": "B", "oldbalanceOrg": 45_000, "oldbalanceDest": 0,
        }  # fmt: skip
        with watched() as ways["One transaction"]:
            answer = serve(event("POST", "/predict", drained), CONTEXT)
        outcome = json.loads(answer["body"])["outcome"]
        assert outcome != "approve"

        with watched() as ways["One alert, from decision to label to a new model"]:
            assert scorer.outbox.drain(app.state.sinks).waiting  # told to nobody, and kept
            listed = serve(event("GET", "/transactions", outcome=outcome, label="none"), CONTEXT)
            assert "walked" in listed["body"]
            word = {"transaction_id": "walked", "label": "fraud", "source": "analyst"}
            assert serve(event("POST", "/feedback", word), CONTEXT)["statusCode"] == 200
            policy = Policy(
                label_delay_days=DELAY, min_new_frauds=1, judged_days=5, min_judged_frauds=2, min_gain=0,
                min_gain_low=-1, max_flipped=1, min_shadowed=0,
            )  # fmt: skip
            setting = Setting(
                current, challenger, key, trusted, home / "work", END_MS, base=Base("base.parquet", "synthetic"), tune=0
            )
            report = retrain.retrain(scorer.decisions, policy, setting)
            scorer.source.refresh()
        assert report.outcome == "promoted", report.text()
        assert scorer.source.current()[0].version == report.version
        yield ways


@pytest.mark.parametrize("way", WAYS)
def test_a_way_is_gone_through_the_files_in_the_order_that_the_page_says(gone: dict[str, Entered], way: str) -> None:
    told = steps(way)
    assert len(told) > 15
    for step in told:
        assert step in gone[way], f"{step} is not entered"
    assert [step for step in dict.fromkeys(gone[way]) if step in told] == told


@pytest.mark.parametrize("document", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_every_file_that_a_newcomer_is_sent_to_is_there(document: str) -> None:
    text = (ROOT / document).read_text()
    named = set(re.findall(r"`((?:fraud_api_lambda|training|streamlit_app|tests|events|benchmarks)/[\w/.*]*)`", text))
    assert len(named) > 20
    for name in named:
        assert list(ROOT.glob(name)), name


def test_the_layers_are_those_that_are_enforced() -> None:
    [block] = re.findall(r"^```text\n(handler .*?)^training ->", PAGE, flags=re.M | re.S)
    told = re.sub(r"\(.*?\)", "", block).replace("\n", " ").split("->")
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    [layers] = [contract["layers"] for contract in contracts if contract["id"] == "layers"]
    assert [" ".join(each.split()) for each in told] == [layer.strip("()") for layer in layers]


def test_what_training_may_not_import_is_what_is_enforced() -> None:
    found = re.search(r"^training -> fraud_api_lambda, except (.*)$", PAGE, flags=re.M)
    assert found is not None
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    [forbidden] = [c["forbidden_modules"] for c in contracts if c["id"] == "training-learns-from-the-service"]
    inside = {name.partition(".")[2] for name in forbidden if name.startswith("fraud_api_lambda.")}
    assert set(found[1].split(", ")) == inside
