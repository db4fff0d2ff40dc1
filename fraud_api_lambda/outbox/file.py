"""The outbox as a folder, one file an item: the default. It survives a crash; a machine's processes may share it.

::

    <folder>/tmp/                    being written; what a crash left here is swept
    <folder>/<kind>/<hash of key>    waits; the one name is what makes a key unique
    <folder>/<kind>.lock             who holds it (flock) drains the kind
    <folder>/dead/<kind>/<...>       laid aside, until ``requeue``

Durability: an item is written under ``tmp``, fsynced, linked to its name, which fails where the name is taken, and the
kind's folder is fsynced: ``put`` returns after that, so neither a killed process nor a power cut takes the item back. A
file is never changed in place. It begins with a SHA-256 of all that follows, then one line of JSON, then the item's
bytes: what a disk has damaged is laid aside, not delivered.

Order is that of the machine's clock at ``put``, written into the file, and within a process strict. Removal is not
fsynced: after a power cut an item may be delivered again, as after a kill between delivery and removal.
"""

import errno
import hashlib
import itertools
import json
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple, get_args

from ..errors import RetryLater, SettingsError, StoreUnavailable
from . import Kind, Outbox, Progress, Sink, retry_in

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

log = logging.getLogger("fraud.outbox")

#: A file under ``tmp`` that is older was left by a process that is no more: writing one takes milliseconds.
_LEFT_S: Final = 300
#: An item whose attempts are not counted is laid aside when this process has held it back for so long.
_HELD_S: Final = 48 * 3_600.0
#: What ``requeue`` waits for whoever drains.
_PATIENCE_S: Final = 15.0
#: Where listing takes longer than this, as with tens of thousands, it takes a fifth of the time at most.
_LONG_S: Final = 0.1
_REST: Final = 4
#: Longer than the ticks by which file systems tell time.
_TICK_NS: Final = 2_000_000_000
_BEGINNING: Final = re.compile(rb'[0-9a-f]{64} {"arrived_ns":(\d{1,20}),"attempts":\d{1,9},"due_ms":(\d{1,20}),')
_BINARY: Final[int] = getattr(os, "O_BINARY", 0)


def open_url(url: str, budget_s: float) -> Outbox:
    """``file://relative/folder`` or ``file:///absolute/folder``; the folder is made at the first ``put``."""
    name = url.removeprefix("file://")
    if not name.strip("/"):
        raise SettingsError("A file outbox is written file://relative/folder or file:///absolute/folder.")
    folder = Path(name).absolute()
    # What waits in a folder that vanishes with its copy of the function is lost.
    if "AWS_LAMBDA_FUNCTION_NAME" in os.environ and folder.resolve().is_relative_to("/tmp"):  # noqa: S108
        raise SettingsError(
            "A file outbox under /tmp of a Lambda function is refused: what waits there is lost with the copy of the "
            "function. Use sqs://queue."
        )
    return FileOutbox(folder)


class _Item(NamedTuple):
    #: What order goes by: ns of UTC, no two alike within a process.
    arrived_ns: int
    #: Attempts that ended in ``RetryLater``, and when the next one is due, ms of UTC.
    attempts: int
    due_ms: int
    key: str
    data: bytes


class _Seen:
    """What is remembered of a file between rounds."""

    __slots__ = ("arrived_ns", "due_ms", "held_since")

    def __init__(self, arrived_ns: int, due_ms: int) -> None:
        self.arrived_ns = arrived_ns
        self.due_ms = due_ms
        #: When it was first held back without an attempt, by the monotonic clock.
        self.held_since: float | None = None


class _Queue:
    """What is remembered of a kind between rounds: the files by name, and their names in order."""

    def __init__(self) -> None:
        self.seen: dict[str, _Seen] = {}
        self.order: list[str] = []
        #: The folder's own time when it was last listed.
        self.listed_ns = -1
        #: Until then, by the monotonic clock, it is not listed again: what is known comes before what is new.
        self.rest_until = 0.0

    def look(self, folder: Path, until: float) -> int:
        """Learn what came and went; of a file that is new only the beginning is read.

        How many are still to be looked at: what comes first is known when there are none. Later looks go on from there.
        """
        begun = time.monotonic()
        if begun < self.rest_until:
            return 0
        changed_ns = folder.stat().st_mtime_ns
        if changed_ns == self.listed_ns:
            return 0
        names = set(_names(folder))
        self.seen = {name: seen for name, seen in self.seen.items() if name in names}
        new = names - self.seen.keys()
        while new:
            name = new.pop()
            with suppress(FileNotFoundError):
                self.seen[name] = _glance(f"{folder}/{name}")
            if time.monotonic() > until:
                break
        if new:
            return len(new)
        self.order = sorted(self.seen, key=lambda name: (self.seen[name].arrived_ns, name))
        # A folder's time goes by ticks: one that changed within the last may change again and bear the same.
        self.listed_ns = changed_ns if time.time_ns() - changed_ns > _TICK_NS else -1
        ended = time.monotonic()
        self.rest_until = ended + _REST * (ended - begun) if ended - begun > _LONG_S else 0.0
        return 0


class FileOutbox:
    """Putting and finding touch one name and list no folder, however many items wait."""

    inline = True

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._last_ns = 0
        self._numbers = itertools.count()
        self._queues: dict[Kind, _Queue] = {}
        self._closed = False

    def put(self, kind: Kind, key: str, data: bytes) -> None:
        item = _Item(self._now_ns(), 0, 0, key, data)
        with self._told():
            target = self._folder / kind / _name(key)
            try:
                self._place(item, target)
            except FileNotFoundError:  # the first one, or somebody tidied up
                self._make(self._folder / "tmp")
                self._make(target.parent)
                self._place(item, target)

    def find(self, kind: Kind, key: str) -> bytes | None:
        try:
            return _read(self._folder / kind / _name(key)).data
        except (OSError, ValueError):
            return None

    def drain(self, sinks: Mapping[Kind, Sink], *, seconds: float = 1.0) -> Progress:
        """Each kind has its share of ``seconds``, and one item at least; kinds that others drain now are left alone."""
        share_s = seconds / max(len(sinks), 1)
        delivered = dead = waiting = 0
        with suppress(OSError):
            self._sweep()
        for kind, sink in sinks.items():
            try:
                done = self._drain(kind, sink, share_s)
            except OSError as error:
                log.error("the outbox cannot be drained", extra={"kind": kind, "error": _told_as(error)})
                continue
            delivered, dead, waiting = delivered + done.delivered, dead + done.dead, waiting + done.waiting
        return Progress(delivered, dead, waiting)

    def waiting(self) -> dict[Kind, int]:
        with self._told():
            return {kind: len(_names(self._folder / kind)) for kind in get_args(Kind)}

    def dead(self) -> dict[Kind, int]:
        """How many items were laid aside, by kind. Raises ``StoreUnavailable``."""
        with self._told():
            return {kind: len(_names(self._folder / "dead" / kind)) for kind in get_args(Kind)}

    def requeue(self, kind: Kind) -> int:
        """Let the dead letters of this kind wait again, as if never tried, in their old order; how many.

        One whose key waits again already is dropped; a damaged one stays where it is. Raises ``StoreUnavailable``.
        """
        moved = 0
        with self._patiently(kind):
            for name in _names(self._folder / "dead" / kind):
                path = self._folder / "dead" / kind / name
                with suppress(ValueError):
                    item = _read(path)._replace(attempts=0, due_ms=0)
                    self._make(self._folder / "tmp")
                    self._make(self._folder / kind)
                    self._place(item, self._folder / kind / _name(item.key))
                    path.unlink()
                    moved += 1
        return moved

    def remove(self, unwanted: Callable[[Kind, bytes], bool]) -> int | None:
        """A damaged item is about nobody, and stays."""
        removed = 0
        kinds = [kind for kind in get_args(Kind) if self._folder.is_dir()]
        for kind in kinds:
            with self._patiently(kind):
                for folder in (self._folder / kind, self._folder / "dead" / kind):
                    for name in _names(folder):
                        with suppress(ValueError, FileNotFoundError):
                            if unwanted(kind, _read(folder / name).data):
                                (folder / name).unlink()
                                removed += 1
        return removed

    def allow(self, budget_s: float) -> None:
        pass

    def disconnect(self) -> None:
        pass

    def close(self) -> None:
        self._closed = True

    # --- putting

    def _now_ns(self) -> int:
        with self._lock:
            self._last_ns = max(time.time_ns(), self._last_ns + 1)
            return self._last_ns

    def _place(self, item: _Item, target: Path) -> None:
        """Let ``item`` wait under ``target``, durably, unless another does."""
        temporary = None
        try:
            taken = target.exists()
            if not taken:
                temporary = self._write(item)
                try:
                    os.link(temporary, target)
                except FileExistsError:
                    taken = True
            if taken:
                with suppress(FileNotFoundError):  # delivered just now
                    try:
                        _read(target)
                    except ValueError:
                        raise StoreUnavailable("The outbox (file) holds a damaged item under this key.") from None
            # Also where the name was taken: whoever took it may not have come as far as this.
            _sync(target.parent)
        finally:
            if temporary is not None:
                with suppress(OSError):
                    temporary.unlink()

    def _write(self, item: _Item) -> Path:
        """The item in a file of its own under ``tmp``, with the disk."""
        temporary = self._folder / "tmp" / f"{os.getpid()}-{next(self._numbers)}-{time.time_ns()}"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(_pack(item))
                file.flush()
                os.fsync(descriptor)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        return temporary

    def _make(self, folder: Path) -> None:
        """The folder, its name durable in the one above; for its owner only, unless it is above the outbox."""
        if not folder.is_dir():
            self._make(folder.parent)
            with suppress(FileExistsError):
                folder.mkdir(mode=0o700 if folder.is_relative_to(self._folder) else 0o777)
            _sync(folder.parent)

    @contextmanager
    def _patiently(self, kind: Kind) -> Iterator[None]:
        """Alone with the kind, after whoever drains it now."""
        until = time.monotonic() + _PATIENCE_S
        while True:
            with self._told(), _alone(self._folder / f"{kind}.lock") as mine:
                if mine:
                    yield
                    return
            if time.monotonic() > until:
                raise StoreUnavailable("The outbox (file) is being drained: try again.")
            time.sleep(0.05)

    @contextmanager
    def _told(self) -> Iterator[None]:
        if self._closed:
            raise StoreUnavailable("The outbox (file) is closed.")
        try:
            yield
        except OSError as error:
            raise StoreUnavailable(f"The outbox (file) failed: {_told_as(error)}.") from None

    # --- draining

    def _drain(self, kind: Kind, sink: Sink, seconds: float) -> Progress:
        if self._closed or not (self._folder / kind).is_dir():
            return Progress(0, 0, 0)
        with _alone(self._folder / f"{kind}.lock") as mine:
            if not mine:
                return Progress(0, 0, len(_names(self._folder / kind)))
            queue = self._queues.setdefault(kind, _Queue())
            if unknown := queue.look(self._folder / kind, time.monotonic() + seconds):
                return Progress(0, 0, len(queue.seen) + unknown)
            until = time.monotonic() + seconds
            delivered = dead = 0
            for name in queue.order:
                seen = queue.seen.get(name)
                if seen is None or seen.due_ms > time.time_ns() // 1_000_000:
                    continue
                try:
                    result = self._deliver(kind, sink, name, seen)
                except StoreUnavailable:
                    break
                delivered, dead = delivered + (result == "delivered"), dead + (result == "dead")
                if result != "waits":  # what has gone by itself is neither delivered nor dead
                    del queue.seen[name]
                if time.monotonic() > until:
                    break
            return Progress(delivered, dead, len(queue.seen))

    def _deliver(self, kind: Kind, sink: Sink, name: str, seen: _Seen) -> str:
        """``delivered``, ``dead``, ``waits`` or ``gone``. Raises ``StoreUnavailable`` where the sink did."""
        path = self._folder / kind / name
        try:
            item = _read(path)
        except FileNotFoundError:
            return "gone"
        except (ValueError, OSError) as error:
            if isinstance(error, OSError) and error.errno != errno.EIO:
                raise
            return self._lay_aside(kind, path, "damaged")
        now_ms = time.time_ns() // 1_000_000
        if item.due_ms > now_ms:  # another process has tried it meanwhile
            seen.due_ms = item.due_ms
            return "waits"
        try:
            sink(item.data)
        except RetryLater as later:
            return self._postpone(kind, path, item, seen, later)
        except StoreUnavailable:
            raise
        except Exception as error:
            return self._lay_aside(kind, path, type(error).__name__)
        path.unlink()
        return "delivered"

    def _postpone(self, kind: Kind, path: Path, item: _Item, seen: _Seen, later: RetryLater) -> str:
        now_ms = time.time_ns() // 1_000_000
        if later.tried:
            attempts = item.attempts + 1
            wait_s = retry_in(attempts, later.seconds)
            if wait_s is None:
                return self._lay_aside(kind, path, type(later).__name__)
            seen.due_ms = now_ms + int(wait_s * 1000)
            with suppress(OSError):  # on a full disk it is remembered here only
                self._write(item._replace(attempts=attempts, due_ms=seen.due_ms)).replace(path)
            return "waits"
        seen.held_since = seen.held_since or time.monotonic()
        if time.monotonic() - seen.held_since > _HELD_S:
            return self._lay_aside(kind, path, type(later).__name__)
        seen.due_ms = now_ms + int(later.seconds * 1000)
        return "waits"

    def _lay_aside(self, kind: Kind, path: Path, error: str) -> str:
        """Renamed, which needs no room on the disk. Neither key nor text of the error is told: they may be personal."""
        folder = self._folder / "dead" / kind
        self._make(folder)
        path.replace(folder / path.name)
        _sync(folder)
        log.error("an item of the outbox was laid aside", extra={"kind": kind, "error": error})
        return "dead"

    def _sweep(self) -> None:
        for name in _names(self._folder / "tmp"):
            path = self._folder / "tmp" / name
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _LEFT_S:
                    path.unlink()


# --- files -----------------------------------------------------------------------------------------------------------


def _name(key: str) -> str:
    """A key may hold any character and be personal; 40 hex digits."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:40]


def _pack(item: _Item) -> bytes:
    header = item._asdict()
    del header["data"]
    rest = json.dumps(header, separators=(",", ":")).encode() + b"\n" + item.data
    return hashlib.sha256(rest).hexdigest().encode() + b" " + rest


def _read(path: Path) -> _Item:
    """Raises ``ValueError`` where the file is not what was written."""
    content = path.read_bytes()
    rest = content[65:]
    if hashlib.sha256(rest).hexdigest().encode() != content[:64]:
        raise ValueError("damaged")
    header, _, data = rest.partition(b"\n")
    return _Item(data=data, **json.loads(header))


def _glance(path: str) -> _Seen:
    descriptor = os.open(path, os.O_RDONLY | _BINARY)
    try:
        beginning = _BEGINNING.match(os.read(descriptor, 200))
    finally:
        os.close(descriptor)
    # What is damaged comes first, and is laid aside.
    return _Seen(int(beginning[1]), int(beginning[2])) if beginning else _Seen(0, 0)


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208  (a hundred thousand names, no paths)
    except FileNotFoundError:
        return []


def _sync(folder: Path) -> None:
    if sys.platform != "win32":  # there a folder cannot be opened, and NTFS keeps a journal of names
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """True while nobody else, in this process or another, is inside with the same path; False: somebody is."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        yield _take(descriptor)
    finally:
        os.close(descriptor)  # gives the lock back


def _take(descriptor: int) -> bool:
    try:
        if sys.platform == "win32":
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in {errno.EACCES, errno.EAGAIN, errno.EDEADLK}:
            raise
        return False
    return True


def _told_as(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, type(error).__name__)
