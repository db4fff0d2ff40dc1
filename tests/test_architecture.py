"""Who may import whom, what the serving environment holds, and what importing the handler costs.

The contracts stand in pyproject.toml. Each guard is also shown to fail: a guard that cannot is no guard.
"""

import ast
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("fraud_api_lambda", "training", "streamlit_app")
SERVING_LOCK = ROOT / "fraud_api_lambda" / "requirements.txt"
LOCKS = {
    "serving": SERVING_LOCK,
    "training": ROOT / "training" / "requirements.txt",
    "console": ROOT / "streamlit_app" / "requirements.txt",
    "development": ROOT / "tests" / "requirements.txt",
    "sam": ROOT / ".ci" / "sam.txt",
}
#: What must neither be installed for serving nor be imported by it (import names).
FORBIDDEN = (
    *("imblearn", "joblib", "lightgbm", "matplotlib", "numba", "pandas", "polars", "pyarrow", "scipy", "shap"),
    *("sklearn", "streamlit", "xgboost", "training", "streamlit_app"),
)
#: CPU seconds that `import fraud_api_lambda.handler` may take: about three times what it takes on a quiet machine, so
#: that only a new heavy import, not a busy neighbour, breaks it (pandas alone would add half a second).
IMPORT_BUDGET = 1.5


# --- import contracts ------------------------------------------------------------------------------------------------


def lint_imports(tree: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "importlinter.cli", "lint-imports"]
    program = Path(sys.executable).with_name("lint-imports")
    if program.exists():
        command = [str(program)]
    command += ["--config", str(tree / "pyproject.toml"), "--no-cache"]
    environment = {**os.environ, "PYTHONPATH": str(tree), "COLUMNS": "200"}
    return subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the packages and of the contracts, to plant things in."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_the_import_contracts_hold() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("file", "line", "broken"),
    [
        ("fraud_api_lambda/model.py", "import pandas", "fraud_api_lambda.model -> pandas"),
        ("fraud_api_lambda/scoring.py", "def f():\n    import sklearn.metrics", "fraud_api_lambda.scoring -> sklearn"),
        ("fraud_api_lambda/rules.py", "from . import model", "fraud_api_lambda.rules -> fraud_api_lambda.model"),
        (
            "fraud_api_lambda/schemas.py",
            "from . import scoring",
            "fraud_api_lambda.schemas -> fraud_api_lambda.scoring",
        ),
        ("fraud_api_lambda/bundle.py", "import training", "fraud_api_lambda.bundle -> training"),
        ("streamlit_app/client.py", "import fraud_api_lambda", "streamlit_app.client -> fraud_api_lambda"),
        ("training/dataset.py", "import fraud_api_lambda.app", "training.dataset -> fraud_api_lambda.app"),
        # one module of training's may start the service, and no other
        (
            "training/retrain.py",
            "from fraud_api_lambda import bootstrap",
            "training.retrain -> fraud_api_lambda.bootstrap",
        ),
        ("fraud_api_lambda/helpers.py", "", "helpers"),  # a module that has no place in the layers
    ],
)
def test_a_planted_import_breaks_a_contract(tree: Path, file: str, line: str, broken: str) -> None:
    with (tree / file).open("a") as planted:
        planted.write(f"\n{line}\n")
    done = lint_imports(tree)
    assert done.returncode != 0
    assert broken in done.stdout


# --- locks -----------------------------------------------------------------------------------------------------------


def pins(lock: Path) -> dict[str, str]:
    """Distribution -> exact version, from a lock."""
    return dict(re.findall(r"^([a-z0-9][a-z0-9._-]*)==([^ ;\\\n]+)", lock.read_text(), flags=re.M))


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_pins_and_hashes_everything_and_names_no_index(name: str) -> None:
    text = LOCKS[name].read_text()
    entries = re.split(r"^(?=[a-z0-9])", text, flags=re.M)[1:]
    assert entries
    for entry in entries:
        assert re.match(r"[a-z0-9._-]+==\S+", entry), entry.splitlines()[0]
        assert "--hash=sha256:" in entry, entry.splitlines()[0]
    assert not re.search(r"--(extra-)?index-url|--find-links|--trusted-host|://| @ ", text)


@pytest.mark.parametrize("name", ["serving", "training", "console"])
def test_the_locks_agree_with_the_one_for_development(name: str) -> None:
    everything = pins(LOCKS["development"])
    assert pins(LOCKS[name]).items() <= everything.items()


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_holds_what_pyproject_declares(name: str) -> None:
    groups: dict[str, list[Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]

    def declared(group: str) -> set[str]:
        names: set[str] = set()
        for item in groups[group]:
            if isinstance(item, dict):
                names |= declared(item["include-group"])
            else:
                names.add(re.split(r"[\[<>=;! ]", item)[0])
        return names

    assert declared(name) <= set(pins(LOCKS[name]))


def test_the_emulator_comes_from_the_wheel_that_the_sam_lock_names() -> None:
    from training import runtime

    text = LOCKS["sam"].read_text()
    entry = text[text.index(f"\n{runtime.WHEEL} ") :].split("\n\n")[0]
    assert f"--hash=sha256:{runtime.WHEEL_SHA256}" in re.split(r"\n(?=[a-z])", entry.lstrip())[0]


#: What comes along with a declared package and is its other half.
COMPANIONS = {"starlette": "fastapi", "pydantic-core": "pydantic", "botocore": "boto3", "numpy": "pandas"}
#: Declared and not imported: what serves the app, what Python itself reads, what mlflow keeps its runs with.
NOT_IMPORTED = {"fraud_api_lambda": {"uvicorn", "uvloop", "tzdata"}, "training": {"alembic", "sqlalchemy"}}


@pytest.mark.parametrize(
    ("package", "groups"),
    [
        ("fraud_api_lambda", ("serving", "kafka")),
        ("training", ("serving", "training", "comparison", "tracking", "scale")),
        ("streamlit_app", ("console",)),
    ],
)
def test_what_is_imported_is_declared_and_what_is_declared_is_imported(package: str, groups: tuple[str, ...]) -> None:
    distributions = importlib.metadata.packages_distributions()
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]

    def own(group: str) -> set[str]:
        return {re.split(r"[\[<>=;! ]", item)[0] for item in listed[group] if isinstance(item, str)}

    imported: set[str] = set()
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            imported |= {name.partition(".")[0] for name in names}
    # Type stubs are imported for the type checker alone.
    foreign = {name for name in imported - sys.stdlib_module_names - set(PACKAGES) if "mypy_boto3" not in name}
    used = {re.sub(r"[_.]", "-", each.lower()) for name in foreign for each in distributions.get(name, [name])}
    declared = set[str]().union(*map(own, groups))
    assert {name for name in used - declared if COMPANIONS.get(name) not in declared} == set()
    # Of two distributions of one package (xgboost) one is installed.
    here = set[str]().union(*map(own, groups[1:] if "training" in groups else groups)) - NOT_IMPORTED.get(
        package, set()
    )
    assert {name for name in here - used if f"{name}-cpu" not in used} == set()


# --- the serving environment -----------------------------------------------------------------------------------------

#: Run inside the environment under test: imports the handler, then says what there is.
PROBE = """
import importlib.metadata, importlib.util, json, sys, time
forbidden = json.loads(sys.argv[1])
before = time.process_time()
import fraud_api_lambda.handler
took = time.process_time() - before
print(json.dumps({
    "seconds": took,
    "imported": sorted({name.partition(".")[0] for name in sys.modules} & set(forbidden)),
    "present": sorted(name for name in forbidden if importlib.util.find_spec(name)),
    "distributions": sorted(d.metadata["Name"].lower().replace("_", "-") for d in importlib.metadata.distributions()),
}))
"""


@pytest.fixture(scope="module")
def serving_python() -> Path:
    """The Python of an environment that holds the serving lock and nothing else; kept until the lock changes."""
    digest = hashlib.sha256(SERVING_LOCK.read_bytes()).hexdigest()[:16]
    folder = Path(sys.prefix) / "serving-environments" / digest
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    whole = folder / "whole"
    if not whole.exists():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--no-input"]
        subprocess.run([*pip, "--require-hashes", "--only-binary", ":all:", "-r", str(SERVING_LOCK)], check=True)
        whole.touch()
    return python


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A folder with the service's package alone, as in the image."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "fraud_api_lambda", tmp_path / "fraud_api_lambda", ignore=ignored)
    return tmp_path


def probe(python: Path, image: Path) -> dict[str, Any]:
    """Import the handler in ``image`` with ``python``; there is no bundle, which must not hinder it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("FRAUD_", "PYTHON"))}
    done = subprocess.run(
        [str(python), "-c", PROBE, json.dumps(FORBIDDEN)],
        cwd=image,
        env={**environment, "PYTHONPATH": str(image)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def test_the_serving_environment_is_lean_and_the_handler_imports_in_it(serving_python: Path, image: Path) -> None:
    seen = probe(serving_python, image)
    assert seen["imported"] == []
    assert seen["present"] == []
    assert set(seen["distributions"]) <= {*pins(SERVING_LOCK), "pip"}


def test_a_training_library_in_the_serving_environment_would_be_found(serving_python: Path, image: Path) -> None:
    (image / "pandas").mkdir()
    (image / "pandas" / "__init__.py").write_text("")
    assert probe(serving_python, image)["present"] == ["pandas"]
    with (image / "fraud_api_lambda" / "scoring.py").open("a") as planted:
        planted.write("\nimport pandas\n")
    assert probe(serving_python, image)["imported"] == ["pandas"]


def test_importing_the_handler_stays_within_its_budget(serving_python: Path, image: Path) -> None:
    probe(serving_python, image)  # writes the bytecode, which the image ships with
    took = min(probe(serving_python, image)["seconds"] for _ in range(3))
    assert took < IMPORT_BUDGET, f"{took:.2f} s of CPU; python -X importtime -c 'import fraud_api_lambda.handler'"
