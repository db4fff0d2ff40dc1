"""One warm request through Mangum, in process: ours against the null endpoint and the predecessors' design.

The handler is the one that Lambda calls, with all that it does: a line for the request, one for the decision, the
metrics as a line. Profiles are in memory and the log is ``none://``. Median of each round's calls; see ``take_turns``.
"""

import importlib
import os
from collections.abc import Callable
from typing import Any

from . import keep, log_lines_aside, ratios, show, spread, take_turns
from .serving import HOT, MODULES, Prepared, bodies, events, prepared

ROUNDS = 40
CALLS = 25
#: Sent before anything is timed, so that the stream's customers have a past.
BEFORE = 2_000


def candidates(folder: Prepared) -> dict[str, Callable[[int], Any]]:
    os.environ.update(folder.env())
    handlers = {name: importlib.import_module(module).handler for name, module in MODULES.items()}
    stream = bodies(BEFORE + ROUNDS * CALLS)
    for one in events(stream[:BEFORE]):
        handlers["ours"](one, None)
    stream = stream[BEFORE:]

    def calls(name: str, sent: list[dict[str, Any]], path: str) -> Callable[[int], Any]:
        handler, made = handlers[name], events(sent, path)
        return lambda number: handler(made[number % len(made)], None)

    return {
        "null endpoint": calls("null", stream, "/predict"),
        "ours": calls("ours", stream, "/predict"),
        "ours, exact reasons": calls("ours", stream, "/predict?explain=true"),
        "ours, a hot account, no reasons": calls("ours", [HOT], "/predict?explain=false"),
        "predecessors' design": calls("predecessors", stream, "/predict"),
    }


def measure(folder: Prepared) -> None:
    with log_lines_aside():
        calls = candidates(folder)
        for name, call in calls.items():
            answer = call(0)
            assert answer["statusCode"] == 200, f"{name}: {answer}"
        take_turns(calls, rounds=2, each=20)
        taken = take_turns(calls, rounds=ROUNDS, each=CALLS)
    times = {name: spread(each) for name, each in taken.items()}
    null, ours = taken["null endpoint"], taken["ours"]
    found = {
        "predecessors / ours": ratios(taken["predecessors' design"], ours),
        "ours / null": ratios(ours, null),
        "with exact reasons / null": ratios(taken["ours, exact reasons"], null),
        "a hot account / null": ratios(taken["ours, a hot account, no reasons"], null),
    }
    show("a warm request", times, "us", 1e6)
    show("", found, "x")
    keep("request", {"seconds": times, "ratios": found})


def main() -> None:
    with prepared() as folder:
        measure(folder)


if __name__ == "__main__":
    main()
