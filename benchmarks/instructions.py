"""The processor's instructions of one request by callgrind, the same on any machine: ours, and the null endpoint's.

Two runs that differ in nothing but the number of requests; their difference, divided. Minutes: valgrind runs Python
some fifty times slower. Needs valgrind.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from . import ROOT, keep
from .serving import HOT, MODULES, Prepared, event, prepared

FEW, MANY = 5, 55
_CODE = """
import json, sys
from {module} import handler
event = json.loads(sys.argv[1])
for _ in range({calls}):
    handler(event, None)
"""


def instructions(folder: Prepared, module: str, calls: int) -> int:
    with tempfile.TemporaryDirectory() as name:
        out = f"--callgrind-out-file={Path(name) / 'out'}"
        command = ["valgrind", "--tool=callgrind", out, sys.executable, "-c", _CODE.format(module=module, calls=calls)]
        env = {**folder.env(), "PYTHONHASHSEED": "0"}
        done = subprocess.run(
            [*command, json.dumps(event(HOT))],
            cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
    found = re.search(r"Collected\s*:\s*(\d+)", done.stderr)
    assert found is not None, done.stderr[-500:]
    return int(found[1])


def measure(folder: Prepared) -> None:
    if shutil.which("valgrind") is None:
        print("instructions: valgrind is not installed; left out")
        return
    found: dict[str, float] = {}
    for name in ("null", "ours"):
        module = MODULES[name]
        found[name] = (instructions(folder, module, MANY) - instructions(folder, module, FEW)) / (MANY - FEW)
        print(f"{name}: {found[name]:,.0f} instructions a request", flush=True)
    found["ours / null"] = found["ours"] / found["null"]
    keep("instructions", found)


def main() -> None:
    with prepared() as folder:
        measure(folder)


if __name__ == "__main__":
    main()
