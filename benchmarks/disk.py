"""What the serving dependencies take on disk: both installed by pip into folders of their own. Needs the package index.

Ours is the lock, less what the Dockerfile leaves out of the image; the predecessors' is what their services import.
Bytecode is not counted, on either side.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from . import ROOT, keep

PREDECESSORS = (
    *("fastapi", "mangum", "uvicorn", "pydantic", "boto3"),
    *("pandas", "scikit-learn", "imbalanced-learn", "xgboost", "joblib"),
)


def install(folder: Path, *what: str) -> None:
    pip = [sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--no-input", "--no-compile"]
    subprocess.run([*pip, "--only-binary=:all:", "--target", str(folder), *what], check=True)


def megabytes(folder: Path) -> float:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        ours, theirs = Path(name) / "ours", Path(name) / "theirs"
        install(ours, "--require-hashes", "--no-deps", "-r", str(ROOT / "fraud_api_lambda" / "requirements.txt"))
        image = (ROOT / "fraud_api_lambda" / "Dockerfile").read_text()
        for pattern in re.findall(r"/build/packages/(\S*(?:ext|bazel-project|bin|tests))\b", image):
            for path in ours.glob(pattern):
                shutil.rmtree(path)
        install(theirs, *PREDECESSORS)
        found = {"ours_mb": megabytes(ours), "predecessors_mb": megabytes(theirs)}
    found["predecessors / ours"] = found["predecessors_mb"] / found["ours_mb"]
    print({name: round(value, 1) for name, value in found.items()})
    keep("disk", found)


if __name__ == "__main__":
    main()
