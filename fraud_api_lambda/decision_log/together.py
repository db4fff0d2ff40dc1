"""Appends of requests that wait at the same time go to the log together and share its ``fsync``.

Each still waits until its own records are on the disk, and is told of them alone. While one group is being written in a
thread, the next gathers: a caller alone waits no longer than before, and many wait about as long as one.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from ..errors import StoreUnavailable
from . import DecisionLog, Record

#: What one request gets: for each record None or what stands there; or why the log did not take them.
Written = list[Record | None] | StoreUnavailable
#: Requests written together at most, so that no group takes long.
_MOST: Final = 64


class Together:
    """Appends to ``log`` from the tasks of one event loop."""

    def __init__(self, log: DecisionLog) -> None:
        self._log = log
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="decisions")
        self._waiting: list[tuple[Sequence[Record], asyncio.Future[Written]]] = []
        self._writing: asyncio.Task[None] | None = None

    async def append(self, records: Sequence[Record]) -> Written:
        """As ``DecisionLog.append``; what it would raise where the log is unavailable is given back."""
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((records, done))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())
        written: Written = await done
        return written

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _write(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting[:_MOST], self._waiting[_MOST:]
            found: Sequence[Written | Exception]
            try:
                many = [records for records, _ in group]
                found = await asyncio.get_running_loop().run_in_executor(self._thread, self._append, many)
            except BaseException as error:
                for _, done in group:
                    if not done.done():
                        done.set_exception(RuntimeError(f"The decision log was left ({type(error).__name__})."))
                raise
            for (_, done), one in zip(group, found, strict=True):
                if done.done():  # nobody waits for it any more
                    continue
                if isinstance(one, Exception) and not isinstance(one, StoreUnavailable):
                    done.set_exception(one)
                else:
                    done.set_result(one)

    def _append(self, many: Sequence[Sequence[Record]]) -> Sequence[Written | Exception]:
        try:
            answers = iter(self._log.append([record for records in many for record in records]))
            return [[next(answers) for _ in records] for records in many]
        except StoreUnavailable as error:
            return [error] * len(many)
        except Exception as error:
            # A value that the log cannot hold is its own request's fault and nobody else's.
            return [error] if len(many) == 1 else [self._append([records])[0] for records in many]
