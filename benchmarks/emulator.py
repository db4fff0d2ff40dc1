"""A warm request through AWS's runtime interface emulator: the three handlers, each in a Lambda runtime of its own.

One event at a time, as Lambda does; the time is the caller's, from the POST of the event to the end of the answer, over
one connection that stays open. Profiles are in memory and the log is ``none://``: no store is measured here. Needs
Linux; the emulator is fetched once (see ``training.runtime``).
"""

import http.client
import json
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

from training import runtime

from . import ROOT, keep, ratios, show, spread, take_turns
from .serving import MODULES, Prepared, bodies, events, prepared

ROUNDS = 20
CALLS = 20


class Function:
    """One function behind its emulator."""

    def __init__(self, url: str, sent: list[dict[str, Any]]) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
        self._path = parts.path
        self._bodies = [json.dumps(one).encode() for one in sent]

    def __call__(self, number: int) -> Any:
        self._connection.request("POST", self._path, self._bodies[number % len(self._bodies)])
        answer = json.loads(self._connection.getresponse().read())
        assert answer["statusCode"] == 200, answer
        return answer


def measure(folder: Prepared) -> None:
    sent = events(bodies(ROUNDS * CALLS))
    with ExitStack() as running:
        functions = {}
        for name, module in MODULES.items():
            env = {k: v for k, v in folder.env().items() if k.startswith(("FRAUD_", "BENCH_", "OMP_", "OPENBLAS_"))}
            module = "benchmarks.not_on_aws" if name == "ours" else module
            started = running.enter_context(runtime.start(handler=f"{module}.handler", env=env, root=ROOT))
            functions[name] = Function(started.url, sent)
        for function in functions.values():
            for number in range(50):
                function(number)
        taken = take_turns(functions, rounds=ROUNDS, each=CALLS)
    found = {
        "predecessors / ours": ratios(taken["predecessors"], taken["ours"]),
        "ours / null": ratios(taken["ours"], taken["null"]),
    }
    times = {name: spread(each) for name, each in taken.items()}
    show("a warm request through the emulator", times, "us", 1e6)
    show("", found, "x")
    keep("emulator", {"seconds": times, "ratios": found})


def main() -> None:
    with prepared() as folder:
        measure(folder)


if __name__ == "__main__":
    main()
