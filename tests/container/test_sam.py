"""The template through the SAM CLI: built, invoked event by event, and asked over HTTP by what others' clients send.

With WRITE_LOG=1 the requests and answers are written into docs/sam-local.md, as they were.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.container.conftest import ROOT, Answer, Cloud, ask, event
from tests.container.engine import Engine
from tests.fraud_api_lambda.feature_store.servers import free_port
from tests.fraud_api_lambda.payloads import FRAUDULENT, LEGITIMATE, OTHERS

pytestmark = pytest.mark.server

LOG = ROOT / "docs" / "sam-local.md"


@dataclass(frozen=True)
class Sam:
    """The SAM CLI beside the engine; ``built`` is the template that `sam build` has written."""

    program: str
    env: dict[str, str] = field(repr=False)
    built: Path
    variables: Path
    said: str = field(repr=False)

    def invoke(self, function: str, given: Path) -> tuple[Any, str]:
        """`sam local invoke`; the function's answer, and all else that was printed."""
        words = ["local", "invoke", function, "-t", self.built, "-e", given, "--env-vars", self.variables]
        done = run(self.program, *words, "--skip-pull-image", env=self.env, cwd=self.built.parent)
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        assert done.returncode == 0, done.stdout + done.stderr
        assert lines, done.stdout + done.stderr
        return json.loads(lines[-1]), done.stderr


def run(program: str, *words: str | Path, env: dict[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [program, *map(str, words)]
    return subprocess.run(
        command, env=env, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=500
    )


@pytest.fixture(scope="module")
def sam(running: Engine, base: str, project: Path, cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Sam:
    """`sam build`, done; skips where there is no SAM CLI."""
    here = ROOT / ".venv-sam" / "bin" / "sam"
    program = str(here) if here.exists() else shutil.which("sam")
    if program is None:
        pytest.skip("There is no SAM CLI: .ci/run makes it in .venv-sam.")
    folder = tmp_path_factory.mktemp("sam")
    env = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "FRAUD_"))}
    env |= {**running.env, **cloud.access, "SAM_CLI_TELEMETRY": "0", "__SAM_CLI_APP_DIR": str(folder / "own")}
    # The CLI itself asks AWS for nothing here; only the functions are to find the stand-in.
    del env["AWS_ENDPOINT_URL"]
    variables = folder / "variables.json"
    variables.write_text(
        json.dumps({"Parameters": {**cloud.settings, "AWS_ENDPOINT_URL": cloud.access["AWS_ENDPOINT_URL"]}})
    )
    done = run(program, "build", "--build-dir", folder / "build", env=env, cwd=project)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return Sam(program, env, folder / "build" / "template.yaml", variables, done.stdout + done.stderr)


def test_sam_build_makes_the_functions_images_with_the_classic_builder(sam: Sam, running: Engine) -> None:
    names = re.findall(r"ImageUri: (\S+)", sam.built.read_text())
    assert len(names) >= 2
    for name in names:
        assert running.inspect(name)["Architecture"] == "amd64"
    assert len({running.inspect(name)["Id"] for name in names}) == 1, "one image serves all functions"


@pytest.mark.parametrize(
    "name", ["predict-paysim.v1", "predict-grocery-by-day.v1", "predict-wrong-field.v1", "ready.v1"]
)
def test_sam_local_invoke_answers_events_of_the_gateway(sam: Sam, cloud: Cloud, name: str) -> None:
    answer, _ = sam.invoke("FraudFunction", ROOT / "events" / f"{name}.json")
    body = json.loads(answer["body"])
    if name.startswith("predict-wrong"):
        assert (answer["statusCode"], body["status"]) == (422, 422)
    else:
        assert answer["statusCode"] == 200
        assert body["model_version"] == cloud.version


def test_sam_local_invoke_runs_the_worker_on_queues_and_schedules(sam: Sam) -> None:
    failed = event("work/transactions")["Records"][2]["messageId"]
    answer, _ = sam.invoke("FraudWorker", ROOT / "events/work/transactions.json")
    assert answer == {"batchItemFailures": [{"itemIdentifier": failed}]}
    answer, _ = sam.invoke("FraudWorker", ROOT / "events/work/summary.json")
    assert answer == {"task": "summary"}


# --- start-api -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Local:
    """A running `sam local start-api`: its address, its log, and the scoring function's container."""

    url: str
    log: Path
    containers: list[str]


@pytest.fixture(scope="module")
def local(sam: Sam, running: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    port, log = free_port(), tmp_path_factory.mktemp("start-api") / "log"
    before = set(running.containers())
    with start_api(sam, port, log):
        url = f"http://127.0.0.1:{port}"
        ask(f"{url}/health", wait_s=180)
        yield Local(url, log, [name for name in running.containers() if name not in before])


@contextmanager
def start_api(sam: Sam, port: int, log: Path) -> Iterator[None]:
    words = ["local", "start-api", "-t", sam.built, "--env-vars", sam.variables, "--port", port, "--host", "127.0.0.1"]
    words += ["--warm-containers", "EAGER", "--skip-pull-image"]
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sam.program, *map(str, words)],
            env=sam.env,
            cwd=sam.built.parent,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )
    try:
        yield
    finally:
        process.terminate()  # SAM ends its containers first
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def test_start_api_answers_the_predecessors_payloads_over_http(local: Local, cloud: Cloud) -> None:
    said: list[tuple[str, Any, Answer]] = []
    for number, body in enumerate(OTHERS):
        said.append((("P0", "P1", "P1", "P2", "P4")[number], body, ask(f"{local.url}/predict", body)))
    for body in (*LEGITIMATE, *FRAUDULENT):
        said.append(("P3", body, ask(f"{local.url}/predict", body)))
    for _, body, answer in said:
        assert answer.status == 200, (body, answer)
        assert answer.body["model_version"] == cloud.version
        assert answer.body["degraded"] == []
        assert answer.body["prediction"] in {"FRAUD", "LEGIT"}
    by_body = [(body, answer.body["prediction"]) for _, body, answer in said]
    assert all(prediction == "FRAUD" for body, prediction in by_body if body in FRAUDULENT)
    stored = ask(f"{local.url}/transactions/{said[0][2].body['transaction_id']}")
    assert stored.status == 200
    assert ask(f"{local.url}/nowhere").status == 404
    assert ask(f"{local.url}/predict", {"amount": "a lot"}).status == 422
    text = log_of(said, local.log.read_text(errors="replace"))
    print(text)
    if os.environ.get("WRITE_LOG"):
        LOG.write_text(text)


def test_the_templates_memory_limit_holds_the_container(local: Local, running: Engine) -> None:
    found = [running.inspect(name) for name in local.containers]
    limits = {each["HostConfig"]["Memory"] for each in found}
    assert limits == {512 * 2**20}
    for each in found:
        name = each["Id"]
        if "fraud_api_lambda.handler.work" in each["Config"]["Cmd"]:
            continue
        program = (
            "import pathlib; c = [pathlib.Path(p) for p in ('/sys/fs/cgroup/memory/memory.max_usage_in_bytes', "
            "'/sys/fs/cgroup/memory.peak')]; print(next(p.read_text() for p in c if p.exists()))"
        )
        peak = int(running.docker("exec", name, "python3", "-c", program).stdout)
        print(f"peak memory with the emulator: {peak / 2**20:.0f} MB of 512")
        assert 0 < peak < 512 * 2**20


def log_of(said: list[tuple[str, Any, Answer]], printed: str) -> str:
    """A page of what was sent and answered, and of what SAM printed meanwhile."""
    lines = [
        "# `sam local start-api`, asked by the predecessors' clients",
        "",
        "Written by `WRITE_LOG=1 make test-container ARGS='-k start_api'`, as it was; do not edit.",
        "",
        "Real: template, image, SAM CLI, Lambda's runtime client and emulator, HTTP; the bundle is a small one.",
        "Stand-ins: the base image (Debian), S3, DynamoDB, SQS, SSM (moto). Times are of a shared machine and of moto.",
        "",
    ]
    keep = ("outcome", "prediction", "fraud_probability", "decided_by", "rules", "degraded", "model_version")
    for who, body, answer in said:
        lines += [
            "```http",
            f"POST /predict    # as sent to {who}",
            json.dumps(body),
            "",
            f"{answer.status}    {answer.millis:.0f} ms",
            json.dumps({name: answer.body[name] for name in keep}),
            "```",
            "",
        ]
    reports = [line for line in printed.splitlines() if "REPORT RequestId" in line or '"POST /predict' in line]
    lines += ["What SAM printed of it:", "", "```text", *(plain(line) for line in reports), "```", ""]
    return "\n".join(lines)


def plain(line: str) -> str:
    """Without terminal colours and ids."""
    line = re.sub(r"\x1b\[[0-9;]*m", "", line)
    return re.sub(r"RequestId: \S+", "RequestId: ...", line).replace("\t", "  ").rstrip()
