"""A process from nothing to its first answer, in turns: CPU time of the whole process, and its peak memory.

What a cold start of Lambda costs beyond the machine's own: Python, the imports, the model, one request. Bytecode is
there, as in the image. ``peak`` is the process's greatest resident memory over 200 requests (Linux tells it; elsewhere
it is left out).
"""

import json
import re
import resource
import subprocess
import sys
import time
from typing import Any

from . import ROOT, keep, ratios, show, spread
from .serving import HOT, MODULES, Prepared, event, prepared

ROUNDS = 7
_CODE = """
import json, sys
from {module} import handler
event = json.loads(sys.argv[1])
for _ in range({calls}):
    answer = handler(event, None)
assert answer["statusCode"] == 200, answer
if sys.platform == "linux":
    sys.stderr.write(open("/proc/self/status").read())
"""


def run(folder: Prepared, module: str, calls: int) -> tuple[float, float, float]:
    """CPU seconds, wall seconds and peak MB of one process."""
    command = [sys.executable, "-c", _CODE.format(module=module, calls=calls), json.dumps(event(HOT))]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        command, cwd=ROOT, env=folder.env(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False
    )
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, f"{module}: {done.stderr[-500:]}"
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    # Not getrusage: its greatest memory is inherited from the process that forks.
    peak = re.search(r"VmHWM:\s+(\d+) kB", done.stderr)
    return cpu, wall, int(peak[1]) / 1024 if peak else float("nan")


def measure(folder: Prepared) -> None:
    cpu: dict[str, list[float]] = {name: [] for name in MODULES}
    wall: dict[str, list[float]] = {name: [] for name in MODULES}
    peak: dict[str, list[float]] = {name: [] for name in MODULES}
    for module in MODULES.values():  # bytecode, file cache
        run(folder, module, 1)
    for _ in range(ROUNDS):
        for name, module in MODULES.items():
            for figures, figure in zip((cpu, wall), run(folder, module, 1)[:2], strict=True):
                figures[name].append(figure)
    for _ in range(3):
        for name, module in MODULES.items():
            peak[name].append(run(folder, module, 200)[2])
    found: dict[str, dict[str, Any]] = {
        "predecessors / ours, CPU": ratios(cpu["predecessors"], cpu["ours"]),
        "ours / null, CPU": ratios(cpu["ours"], cpu["null"]),
        "predecessors / ours, peak memory": ratios(peak["predecessors"], peak["ours"]),
    }
    tables = {"cpu_s": cpu, "wall_s": wall, "peak_mb": peak}
    told = {unit: {name: spread(each) for name, each in table.items()} for unit, table in tables.items()}
    show("import and first answer, CPU", told["cpu_s"], "ms", 1e3)
    show("the same, wall", told["wall_s"], "ms", 1e3)
    show("peak memory", told["peak_mb"], "MB")
    show("", found, "x")
    keep("cold", {**told, "ratios": found})


def main() -> None:
    with prepared() as folder:
        measure(folder)


if __name__ == "__main__":
    main()
