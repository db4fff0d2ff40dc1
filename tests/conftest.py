"""What every test shares: a clean environment, the measuring data, one small trained bundle, what a skip means.

On a laptop a test may skip what the machine does not have, saying so. In CI (``CI=true``) such a skip is a failure,
or a missing install step would look like success; only measuring data may be absent there.
"""

import os
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

IN_CI = os.environ.get("CI", "").lower() in {"1", "true"}
_DATA = "FRAUD_TEST_DATA"

# A setting of whoever runs the tests must not decide what they find; children inherit the same.
for _name in [name for name in os.environ if name.startswith("FRAUD_") and name != _DATA]:
    del os.environ[_name]

# How long an example takes says something about the machine's other work, not about ours.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """tests/container takes minutes and an engine: only where it is named, as `make test-container` does."""
    if collection_path.name != "container" or collection_path.parent != Path(__file__).parent:
        return None
    return True if not any("container" in argument for argument in config.args) else None


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="the long forms of the tests marked chaos (make chaos)")


@pytest.fixture(scope="session")
def full(request: pytest.FixtureRequest) -> bool:
    """Whether the long form is asked for; without it, a test marked ``chaos`` takes seconds."""
    return bool(request.config.getoption("--full"))


@pytest.fixture(scope="session")
def measuring_data() -> Path:
    """The folder of the measuring data, named by FRAUD_TEST_DATA; skips, saying so, where it is not there."""
    named = os.environ.get(_DATA)
    if not named:
        pytest.skip(f"{_DATA} names no folder with the measuring data")
    folder = Path(named)
    if not folder.is_dir():
        pytest.skip(f"{_DATA} names a folder that is not there")
    return folder


@dataclass(frozen=True)
class Trained:
    """A folder as `make run` leaves one: ``models/current``, ``keys/development.pub``; trained on few rows."""

    root: Path
    version: str

    @property
    def folder(self) -> Path:
        return self.root / "models" / self.version


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A small bundle, really trained and sealed, once for all test processes. Not to be written to: copy it."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    root, version = shared / "trained", shared / "trained-version"
    try:
        root.mkdir()
    except FileExistsError:  # another test process is at it
        deadline = time.monotonic() + 240
        while not version.exists():
            assert time.monotonic() < deadline, "the test process that trains the small bundle has not finished"
            time.sleep(0.2)
    else:
        from fraud_api_lambda.bundle import parse_public_keys
        from training import synthetic
        from training.publish import publish
        from training.train import Options, development_key, run

        data = root / "data" / "synthetic.parquet"
        data.parent.mkdir()
        synthetic.write(synthetic.generate(8_000, 7), data)
        key = development_key(root / "keys")
        result = run(Options(str(data), tune=1, ablation=False), root / "models", key)
        keys = parse_public_keys(key.public_line())
        publish(result.bundle, f"file://{root}/models/current", key, keys, force=True)
        scratch = version.with_suffix(".part")
        scratch.write_text(result.version)
        scratch.rename(version)
    return Trained(root, version.read_text())


def allowed_to_skip(marked_data: bool, reason: str) -> bool:
    """Whether a skipped test is one about absent measuring data: by its marker, or by naming the setting."""
    return marked_data or _DATA in reason


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    # pytest gives a skip as (file, line, "Skipped: reason").
    return report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)


def _fail(report: pytest.TestReport | pytest.CollectReport) -> None:
    report.outcome = "failed"
    report.longrepr = f"A skip is a failure in CI: {_reason(report)}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    expected_failure = hasattr(report, "wasxfail")
    marked = item.get_closest_marker("data") is not None
    if IN_CI and report.skipped and not expected_failure and not allowed_to_skip(marked, _reason(report)):
        _fail(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if IN_CI and report.skipped and not allowed_to_skip(False, _reason(report)):
        _fail(report)
    return report
