"""What drains an outbox while the service runs: one thread a kind, so that kinds never wait for one another."""

import logging
import threading
import time
from collections.abc import Mapping
from typing import Final

from . import Kind, Outbox, Progress, Sink

log = logging.getLogger("fraud.outbox")

#: Seconds between rounds, doubled up to the longest while there is nothing that goes.
_SHORTEST_S: Final = 1.0
_LONGEST_S: Final = 4.0
#: That nothing goes is said once in so many seconds.
_SAY_S: Final = 60.0


class Drain:
    """Delivers what waits in ``outbox`` to ``sinks`` from ``start`` to ``stop``; both are for one thread to call.

    An item that is put is tried within about four seconds, in one where items come steadily.
    """

    def __init__(self, outbox: Outbox, sinks: Mapping[Kind, Sink]) -> None:
        self._outbox = outbox
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(kind, sink), name=f"outbox-{kind}", daemon=True)
            for kind, sink in sinks.items()
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self, timeout_s: float = 10.0) -> bool:
        """The rounds under way, of about a second, are the last. False: one is under way still, and goes on."""
        self._stopped.set()
        until = time.monotonic() + timeout_s
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _run(self, kind: Kind, sink: Sink) -> None:
        pause_s = _SHORTEST_S
        said = -_SAY_S
        while not self._stopped.is_set():
            try:
                # Short rounds, so that stop need not wait for a long one.
                done = self._outbox.drain({kind: sink}, seconds=_SHORTEST_S)
            except Exception:  # a thread that ended would deliver nothing until the next start
                log.exception("draining failed", extra={"kind": kind})
                done = Progress(0, 0, 0)
            if done.delivered or done.dead:
                pause_s = _SHORTEST_S
                if done.waiting:
                    continue  # without a pause: there is more than one round takes
            else:
                pause_s = min(pause_s * 2, _LONGEST_S)
                if done.waiting and time.monotonic() - said >= _SAY_S:
                    said = time.monotonic()
                    log.warning("items of the outbox wait", extra={"kind": kind, "waiting": done.waiting})
            self._stopped.wait(pause_s)
