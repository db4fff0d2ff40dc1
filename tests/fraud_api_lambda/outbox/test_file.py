"""The outbox on disk: what survives, in which order it goes, what happens when a disk or a sink fails."""

import json
import logging
import os
import random
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fraud_api_lambda.errors import RetryLater, SettingsError, StoreUnavailable
from fraud_api_lambda.outbox import RETRIES_S, Outbox, Progress, open_outbox, retry_in
from fraud_api_lambda.outbox import file as file_module
from fraud_api_lambda.outbox.file import FileOutbox
from fraud_api_lambda.outbox.loop import Drain
from tests.servers import program, result

ROOT = Path(__file__).resolve().parents[3]

START = """
import itertools, os, resource, sys, time
from pathlib import Path
from fraud_api_lambda.errors import RetryLater, StoreUnavailable
from fraud_api_lambda.outbox import open_outbox
box = open_outbox(f"file://{sys.argv[1]}")
"""

#: Puts numbered items for ever; a number is told when it is promised.
PUTTER = """
for number in itertools.count(int(sys.argv[2])):
    box.put("decision", f"key-{number}", b"%d" % number)
    print(number, flush=True)
"""

#: An effect is a file made once; every delivery is a line.
DRAINER = """
def sink(data):
    with open(f"{sys.argv[2]}/deliveries", "ab") as file:
        file.write(data + b"\\n")
    try:
        os.close(os.open(f"{sys.argv[2]}/{data.decode()}", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        pass
print("ready", flush=True)
while True:
    box.drain({"decision": sink}, seconds=0.1)
"""


#: For root nothing is read-only.
NOBODY = 65534
BE_NOBODY = f"""
if os.geteuid() == 0:
    os.setgid({NOBODY})
    os.setuid({NOBODY})
"""


def child(text: str, *words: object) -> subprocess.Popen[str]:
    return program(START + text, *words)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data" / "outbox"


@pytest.fixture
def box(folder: Path) -> Iterator[FileOutbox]:
    opened = open_outbox(f"file://{folder}")
    assert isinstance(opened, FileOutbox)
    yield opened
    opened.close()


class Failing:
    """A sink that raises ``error`` for the items named, and keeps what it was given otherwise."""

    def __init__(self, errors: dict[bytes, Exception]) -> None:
        self.errors = errors
        self.asked: list[bytes] = []
        self.taken: list[bytes] = []

    def __call__(self, data: bytes) -> None:
        self.asked.append(data)
        if data in self.errors:
            raise self.errors[data]
        self.taken.append(data)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")


def make_due(box: FileOutbox, folder: Path) -> None:
    """Let the waits pass: the files say that they are due now, and the process has seen none of them."""
    for path in files(folder):
        if "dead" not in path.parts:
            item = file_module._read(path)
            path.write_bytes(file_module._pack(item._replace(due_ms=0)))
    box._queues.clear()


# --- putting, finding, order -----------------------------------------------------------------------------------------


def test_what_was_put_is_found_waits_and_goes_out_once(box: FileOutbox, folder: Path) -> None:
    assert box.drain({"decision": Failing({})}) == Progress(0, 0, 0)
    box.put("decision", "a/../b\n", b"one")
    again = open_outbox(f"file://{folder}")
    assert again.find("decision", "a/../b\n") == b"one"
    assert again.find("label", "a/../b\n") is None
    assert again.waiting() == {"decision": 1, "profile": 0, "label": 0, "webhook": 0, "stream": 0}
    sink = Failing({})
    assert again.drain({"decision": sink}) == Progress(1, 0, 0)
    assert box.drain({"decision": sink}) == Progress(0, 0, 0)
    assert sink.taken == [b"one"]
    assert box.find("decision", "a/../b\n") is None
    assert files(folder) == []


def test_bytes_come_back_as_they_were(box: FileOutbox) -> None:
    sink = Failing({})
    contents = [b"", b"\n\n", bytes(range(256)), os.urandom(1_000_000)]
    for number, data in enumerate(contents):
        box.put("profile", str(number), data)
    box.drain({"profile": sink}, seconds=10)
    assert sink.taken == contents


def test_items_of_a_kind_go_out_in_the_order_in_which_they_were_put(box: FileOutbox) -> None:
    numbers = [b"%d" % number for number in range(300)]
    for data in numbers:
        box.put("decision", f"key {data!r}", data)
    sink = Failing({})
    while box.drain({"decision": sink}, seconds=0.01).waiting:
        pass
    assert sink.taken == numbers


def test_a_key_that_waits_is_kept_as_it_is_and_may_come_again_once_delivered(box: FileOutbox) -> None:
    box.put("label", "key", b"first")
    box.put("label", "key", b"second")
    box.put("profile", "key", b"another kind")
    sink = Failing({})
    box.drain({"label": sink})
    assert sink.taken == [b"first"]
    box.put("label", "key", b"third")
    box.drain({"label": sink})
    assert sink.taken == [b"first", b"third"]
    assert box.waiting()["profile"] == 1


def test_of_threads_that_put_one_key_one_wins_and_all_others_see_it(box: FileOutbox) -> None:
    def put(number: int) -> None:
        for key in range(20):
            box.put("webhook", f"key {key}", b"%d by %d" % (key, number))

    threads = [threading.Thread(target=put, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sink = Failing({})
    assert box.drain({"webhook": sink}, seconds=10).delivered == 20
    assert sorted(int(data.split()[0]) for data in sink.taken) == list(range(20))


def test_folders_and_files_are_their_owners_alone(box: FileOutbox, folder: Path) -> None:
    mask = os.umask(0)
    try:
        for kind in ("decision", "webhook"):
            box.put(kind, "key", b"data")
        box.drain({"webhook": Failing({b"data": ValueError()})})
    finally:
        os.umask(mask)
    assert len(files(folder)) == 2
    for path in [folder, *folder.rglob("*")]:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path
    assert folder.parent.stat().st_mode & 0o777 == 0o777  # what lies above is not the outbox's to close


def test_the_key_stands_in_no_name(box: FileOutbox, folder: Path) -> None:
    box.put("decision", "C-swordfish", b"data")
    assert not [path for path in folder.rglob("*") if "swordfish" in path.name]


def test_a_folder_that_was_removed_is_made_again(box: FileOutbox, folder: Path) -> None:
    box.put("decision", "key", b"data")
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()
    box.put("decision", "key", b"again")
    assert box.find("decision", "key") == b"again"


def test_a_closed_outbox_promises_nothing(box: FileOutbox) -> None:
    box.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        box.put("decision", "key", b"data")
    assert box.drain({"decision": Failing({})}) == Progress(0, 0, 0)


@pytest.mark.parametrize("url", ["file://", "file:///", "file:"])
def test_a_url_without_a_folder_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="outbox"):
        open_outbox(url)


def test_a_folder_under_tmp_of_a_function_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "api")
    with pytest.raises(SettingsError, match="sqs://"):
        open_outbox("file:///tmp/outbox")


# --- sinks that cannot, will not, or not yet -------------------------------------------------------------------------


def test_a_sink_that_is_down_holds_back_its_kind_and_no_other(box: FileOutbox) -> None:
    for name in (b"one", b"two", b"three"):
        box.put("decision", name.decode(), name)
        box.put("label", name.decode(), name)
    down, up = Failing({b"one": StoreUnavailable("down")}), Failing({})
    assert box.drain({"decision": down, "label": up}) == Progress(3, 0, 3)
    assert down.asked == [b"one"]
    assert up.taken == [b"one", b"two", b"three"]
    down.errors.clear()
    assert box.drain({"decision": down, "label": up}) == Progress(3, 0, 0)
    assert down.taken == [b"one", b"two", b"three"]


def test_kinds_without_a_sink_wait(box: FileOutbox) -> None:
    box.put("stream", "key", b"data")
    assert box.drain({"label": Failing({})}) == Progress(0, 0, 0)
    assert box.waiting()["stream"] == 1


def test_what_a_sink_cannot_take_is_laid_aside_told_without_its_text_and_can_come_again(
    box: FileOutbox, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in (b"one", b"two", b"three"):
        box.put("decision", f"swordfish {name!r}", name)
    sink = Failing({b"one": ValueError("swordfish"), b"two": KeyError("swordfish")})
    assert box.drain({"decision": sink}) == Progress(1, 2, 0)
    told = [(record.message, record.kind, record.error) for record in caplog.records]  # type: ignore[attr-defined]
    message = "an item of the outbox was laid aside"
    assert told == [(message, "decision", "ValueError"), (message, "decision", "KeyError")]
    assert "swordfish" not in caplog.text
    assert box.dead()["decision"] == 2
    assert box.drain({"decision": sink}) == Progress(0, 0, 0)

    sink.errors.clear()
    assert box.requeue("decision") == 2
    assert box.dead()["decision"] == 0
    assert box.drain({"decision": sink}) == Progress(2, 0, 0)
    assert sink.taken == [b"three", b"one", b"two"]
    assert files(folder) == []


def test_requeue_leaves_one_that_waits_again_and_one_that_is_damaged(box: FileOutbox, folder: Path) -> None:
    refusing = Failing({b"dead": ValueError(), b"damaged": ValueError()})
    box.put("label", "key", b"dead")
    box.put("label", "other", b"damaged")
    assert box.drain({"label": refusing}).dead == 2
    box.put("label", "key", b"waits")
    (path,) = [path for path in files(folder / "dead") if path.read_bytes().endswith(b"damaged")]
    path.write_bytes(path.read_bytes()[:-1])
    assert box.requeue("label") == 1
    assert box.find("label", "key") == b"waits"
    assert files(folder / "dead") == [path]


def test_one_that_is_to_come_later_lets_the_others_pass_and_comes_when_it_is_due(box: FileOutbox, folder: Path) -> None:
    sink = Failing({b"slow": RetryLater("later", 0.0)})
    box.put("webhook", "slow", b"slow")
    box.put("webhook", "fast", b"fast")
    assert box.drain({"webhook": sink}) == Progress(1, 0, 1)
    assert box.drain({"webhook": sink}) == Progress(0, 0, 1)
    assert sink.asked == [b"slow", b"fast"]  # not asked again before its time
    # Nor by a process that starts now: when it is due stands in the file.
    again = open_outbox(f"file://{folder}")
    again.drain({"webhook": sink})
    assert sink.asked == [b"slow", b"fast"]
    make_due(box, folder)
    sink.errors.clear()
    assert box.drain({"webhook": sink}) == Progress(1, 0, 0)


def test_a_process_that_saw_an_item_before_another_tried_it_waits_too(box: FileOutbox, folder: Path) -> None:
    box.put("webhook", "key", b"data")
    box.drain({"webhook": Failing({b"data": RetryLater("not yet", 0.0, tried=False)})})
    sink = Failing({b"data": RetryLater("later", 0.0)})
    open_outbox(f"file://{folder}").drain({"webhook": sink})
    assert box.drain({"webhook": sink}) == Progress(0, 0, 1)
    assert sink.asked == [b"data"]


def test_after_its_last_attempt_an_item_is_laid_aside(box: FileOutbox, folder: Path) -> None:
    sink = Failing({b"data": RetryLater("later", 0.0)})
    box.put("webhook", "key", b"data")
    for attempt in range(len(RETRIES_S)):
        before = time.time()
        assert box.drain({"webhook": sink}) == Progress(0, 0, 1)
        (path,) = files(folder)
        item = file_module._read(path)
        assert item.attempts == attempt + 1
        assert RETRIES_S[attempt] - 1 <= item.due_ms / 1000 - before <= RETRIES_S[attempt] * 1.1 + 60
        make_due(box, folder)
    assert box.drain({"webhook": sink}) == Progress(0, 1, 0)
    assert len(sink.asked) == len(RETRIES_S) + 1
    # Let in again it has all its attempts again.
    assert box.requeue("webhook") == 1
    assert box.drain({"webhook": sink}) == Progress(0, 0, 1)


def test_the_wait_is_at_least_what_was_asked_for_and_never_the_same() -> None:
    waits = {retry_in(2, 0.0) for _ in range(100)}
    assert len(waits) > 50
    assert all(wait is not None and 30 <= wait <= 33 for wait in waits)
    assert (retry_in(1, 3_000.0) or 0) >= 3_000
    assert retry_in(len(RETRIES_S), 0.0) is not None
    assert retry_in(len(RETRIES_S) + 1, 0.0) is None


def test_what_was_not_tried_is_not_counted_until_it_has_waited_too_long(
    box: FileOutbox, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = Failing({b"data": RetryLater("its receiver is down", 0.0, tried=False)})
    box.put("webhook", "key", b"data")
    for _ in range(2 * len(RETRIES_S)):
        assert box.drain({"webhook": sink}) == Progress(0, 0, 1)
    assert len(sink.asked) == 2 * len(RETRIES_S)
    assert file_module._read(files(folder)[0]).attempts == 0
    monkeypatch.setattr(file_module, "_HELD_S", 0.0)
    assert box.drain({"webhook": sink}) == Progress(0, 1, 0)


def test_many_files_that_are_new_to_a_process_are_looked_at_over_several_rounds(box: FileOutbox, folder: Path) -> None:
    numbers = [b"%d" % number for number in range(300)]
    for data in numbers:
        box.put("decision", f"key {data!r}", data)
    again, sink = open_outbox(f"file://{folder}"), Failing({})
    assert again.drain({"decision": sink}, seconds=0.0) == Progress(0, 0, 300)  # the first is not known yet
    rounds = 0
    while again.drain({"decision": sink}, seconds=0.001).waiting:
        rounds += 1
    assert rounds > 1
    assert sink.taken == numbers


def test_a_round_ends_when_its_time_is_over_and_every_kind_has_had_one_item(box: FileOutbox) -> None:
    for number in range(50):
        box.put("decision", str(number), b"slow")
        box.put("label", str(number), b"slow")
    done = {"decision": 0, "label": 0}

    def slow(kind: str) -> None:
        time.sleep(0.05)
        done[kind] += 1

    box.drain({"decision": lambda _: slow("decision"), "label": lambda _: slow("label")}, seconds=0.2)
    assert 1 <= done["decision"] < 25
    assert 1 <= done["label"] < 25


# --- damage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "something else"])
def test_a_damaged_file_is_laid_aside_and_holds_nobody_back(box: FileOutbox, folder: Path, damage: str) -> None:
    box.put("decision", "key", b"data that is damaged")
    (path,) = files(folder)
    content = path.read_bytes()
    flipped = content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]
    path.write_bytes({"cut": content[:-5], "empty": b"", "flipped": flipped, "something else": b"\xff" * 200}[damage])
    box.put("decision", "other", b"good")
    sink = Failing({})
    assert box.find("decision", "key") is None
    with pytest.raises(StoreUnavailable, match="damaged"):
        box.put("decision", "key", b"data")  # nothing is promised that would lie aside with it
    assert box.drain({"decision": sink}) == Progress(1, 1, 0)
    assert sink.taken == [b"good"]
    assert [path.name for path in files(folder / "dead")] == [path.name]
    box.put("decision", "key", b"data")
    assert box.drain({"decision": sink}) == Progress(1, 0, 0)


def test_what_others_put_and_took_away_is_noticed(box: FileOutbox, folder: Path) -> None:
    """Also once the folder has been still for so long that it is not listed at every round."""
    other = open_outbox(f"file://{folder}")
    down, up = Failing({b"data": StoreUnavailable("down")}), Failing({})
    box.put("decision", "first", b"data")
    long_ago = time.time() - 60
    os.utime(folder / "decision", (long_ago, long_ago))
    for _ in range(2):
        assert box.drain({"decision": down}).waiting == 1
    other.put("decision", "second", b"data")
    assert box.drain({"decision": down}).waiting == 2
    os.utime(folder / "decision", (long_ago, long_ago))
    assert box.drain({"decision": down}).waiting == 2
    assert other.drain({"decision": up}) == Progress(2, 0, 0)
    assert box.drain({"decision": up}) == Progress(0, 0, 0)
    files(folder)
    box.put("decision", "third", b"data")
    os.utime(folder / "decision", (long_ago, long_ago))
    assert box.drain({"decision": down}).waiting == 1
    (path,) = files(folder)
    path.unlink()
    os.utime(folder / "decision", (long_ago, long_ago))  # taken away, and the folder looks as before
    assert box.drain({"decision": up}) == Progress(0, 0, 0)
    assert up.taken == [b"data", b"data"]


def test_what_a_crash_left_half_written_is_swept_once_nobody_can_be_writing_it(box: FileOutbox, folder: Path) -> None:
    box.put("decision", "key", b"data")
    old, new = folder / "tmp" / "1-1-1", folder / "tmp" / "2-2-2"
    for path in (old, new):
        path.write_bytes(b"half a f")
    os.utime(old, (time.time() - 3600,) * 2)
    assert box.drain({"decision": Failing({})}) == Progress(1, 0, 0)
    assert files(folder) == [new]


# --- several processes, and kill -9 ----------------------------------------------------------------------------------


def test_no_promised_item_is_lost_and_each_has_its_effect_once_over_a_hundred_kills(
    folder: Path, tmp_path: Path
) -> None:
    effects = tmp_path / "effects"
    effects.mkdir()
    promised: list[int] = []
    first, kills = 0, 0
    for _ in range(50):
        putter, drainer = child(PUTTER, folder, first), child(DRAINER, folder, effects)
        assert putter.stdout is not None
        assert drainer.stdout is not None
        promised.append(int(putter.stdout.readline()))
        assert drainer.stdout.readline() == "ready\n"
        time.sleep(random.random() * 0.05)
        for process in random.sample([putter, drainer], 2):
            process.kill()
            kills += 1
        # A line is whole only with its end: the last one may have been cut.
        rest = putter.stdout.read()
        promised.extend(int(line) for line in rest[: rest.rfind("\n") + 1].split())
        for process in (putter, drainer):
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
        first = promised[-1] + 1000
    assert kills == 100

    left: list[bytes] = []
    box = open_outbox(f"file://{folder}")
    while box.drain({"decision": left.append}, seconds=10).waiting:
        pass
    delivered = [int(line) for line in (effects / "deliveries").read_text().split()]
    # Some were delivered by processes that were killed, some were left: or nothing was shown.
    assert len(delivered) > 50
    had_effect = {int(path.name) for path in effects.iterdir() if path.name != "deliveries"} | {
        int(data) for data in left
    }
    assert set(promised) <= had_effect
    # One delivery may be cut off by each kill, and so come again; never anything out of turn.
    everything = delivered + [int(data) for data in left]
    assert len(everything) - len(set(everything)) <= 50
    assert list(dict.fromkeys(everything)) == sorted(set(everything))
    assert set(box.waiting().values()) == {0}
    assert box.dead()["decision"] == 0  # type: ignore[attr-defined]


def test_processes_that_put_and_drain_at_once_lose_and_double_nothing(folder: Path, tmp_path: Path) -> None:
    effects = tmp_path / "effects"
    effects.mkdir()
    putting = """
for number in range(150):
    box.put("decision", f"key {number}", b"%d" % number)  # the same keys by all
    box.put("decision", f"key {sys.argv[2]} {number}", f"{sys.argv[2]}-{number}".encode())
"""
    drainers = [child(DRAINER, folder, effects) for _ in range(3)]
    putters = [child(putting, folder, name) for name in ("a", "b", "c")]
    for process in putters:
        result(process)
    outbox = open_outbox(f"file://{folder}")
    deadline = time.monotonic() + 60
    while outbox.waiting()["decision"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for process in drainers:
        process.kill()
        process.communicate()
    own = {f"{name}-{number}" for name in ("a", "b", "c") for number in range(150)}
    assert {path.name for path in effects.iterdir()} == own | {str(number) for number in range(150)} | {"deliveries"}
    deliveries = (effects / "deliveries").read_text().split()
    for name in own:
        assert deliveries.count(name) == 1
    for name in ("a", "b", "c"):
        mine = [text for text in deliveries if text.startswith(f"{name}-")]
        assert mine == [f"{name}-{number}" for number in range(150)]


def test_only_one_drains_a_kind_at_a_time_and_the_other_does_not_wait(box: FileOutbox, folder: Path) -> None:
    box.put("decision", "key", b"data")
    box.put("label", "key", b"data")
    inside, go = threading.Event(), threading.Event()

    def sink(data: bytes) -> None:
        inside.set()
        assert go.wait(30)

    thread = threading.Thread(target=box.drain, args=({"decision": sink},))
    thread.start()
    assert inside.wait(30)
    other = Failing({})
    assert box.drain({"decision": other, "label": other}) == Progress(1, 0, 1)
    assert other.taken == [b"data"]
    assert (
        result(child("print(box.drain({'decision': print}))", folder)) == "Progress(delivered=0, dead=0, waiting=1)\n"
    )
    go.set()
    thread.join()
    assert box.waiting()["decision"] == 0


# --- disks -----------------------------------------------------------------------------------------------------------


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A disk of 256 kB."""
    if os.geteuid() != 0:
        pytest.skip("a small disk can be mounted by root only")
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k,mode=0777", "none", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(outbox: Outbox) -> int:
    """Put until the disk is full; how many were promised."""
    for number in range(10_000):
        try:
            outbox.put("decision", str(number), b"%05d" % number + b"x" * 3000)
        except StoreUnavailable as error:
            if str(error) == "The outbox (file) failed: ENOSPC.":
                return number
            raise
    raise AssertionError("the disk is not full")


def test_a_full_disk_is_unavailable_keeps_what_was_promised_and_takes_more_when_there_is_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        outbox = open_outbox(f"file://{disk}/outbox")
        promised = fill(outbox)
        assert promised > 10
        assert list((disk / "outbox" / "tmp").iterdir()) == []
        sink = Failing({b"00000" + b"x" * 3000: ValueError(), b"00001" + b"x" * 3000: RetryLater("later", 60.0)})
        # What is laid aside or to come later finds its place on the full disk too.
        assert outbox.drain({"decision": sink}, seconds=10) == Progress(promised - 2, 1, 1)
        assert [int(data[:5]) for data in sink.taken] == list(range(2, promised))
        assert fill(outbox) > 10


def test_a_file_that_cannot_grow_is_unavailable_and_leaves_nothing_behind(folder: Path) -> None:
    program = """
box.put("decision", "small", b"small")
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
try:
    box.put("decision", "large", b"x" * 3000)
except StoreUnavailable as error:
    print(error)
print(box.find("decision", "small"), box.find("decision", "large"), os.listdir(f"{sys.argv[1]}/tmp"))
"""
    lines = result(child(program, folder)).splitlines()
    assert lines == ["The outbox (file) failed: EFBIG.", "b'small' None []"]


def test_a_read_only_folder_promises_nothing_and_draining_it_raises_nothing() -> None:
    with tempfile.TemporaryDirectory() as name:  # nobody may pass through tmp_path
        folder = Path(name) / "outbox"
        if os.geteuid() == 0:
            os.chown(name, NOBODY, NOBODY)
        result(child(f"{BE_NOBODY}\nbox.put('decision', 'key', b'data')", folder))
        program = f"""{BE_NOBODY}
try:
    box.put("decision", "other", b"data")
except StoreUnavailable as error:
    print(error)
print(box.find("decision", "key"), box.drain({{"decision": lambda data: print("got", data)}}))
"""
        nothing = "Progress(delivered=0, dead=0, waiting=0)"
        paths = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
        for path in paths:
            path.chmod(0o500)
        assert result(child(program, folder)).splitlines() == [
            "The outbox (file) failed: EACCES.",
            f"b'data' {nothing}",
        ]
        # Nor does one that can be locked and not emptied: the item is delivered, and stays.
        folder.chmod(0o700)
        assert result(child(program, folder)).splitlines() == [
            "The outbox (file) failed: EACCES.",
            "got b'data'",
            f"b'data' {nothing}",
        ]
        for path in paths:
            path.chmod(0o700)
        assert result(child(program, folder)).splitlines() == [
            "got b'data'",
            "got b'data'",
            "b'data' Progress(delivered=2, dead=0, waiting=0)",
        ]


# --- the loop --------------------------------------------------------------------------------------------------------


def until(condition: object, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_loop_delivers_what_comes_and_stops(box: FileOutbox) -> None:
    sink = Failing({})
    box.put("label", "before", b"before")
    loop = Drain(box, {"label": sink})
    loop.start()
    until(lambda: sink.taken == [b"before"])
    box.put("label", "after", b"after")
    until(lambda: sink.taken == [b"before", b"after"])
    assert loop.stop()
    box.put("label", "late", b"late")
    time.sleep(1.5)
    assert sink.taken == [b"before", b"after"]


def test_a_kind_whose_sink_hangs_holds_up_no_other_and_stop_says_so(box: FileOutbox) -> None:
    go = threading.Event()
    sink = Failing({})
    box.put("stream", "key", b"hangs")
    loop = Drain(box, {"stream": lambda _: assert_set(go), "label": sink})
    loop.start()
    for name in (b"one", b"two"):
        box.put("label", name.decode(), name)
        until(lambda name=name: name in sink.taken)
    assert not loop.stop(timeout_s=0.2)
    go.set()
    assert loop.stop()


def assert_set(event: threading.Event) -> None:
    assert event.wait(60)


def test_the_loop_outlives_an_outbox_that_breaks_and_says_once_that_items_wait(
    box: FileOutbox, caplog: pytest.LogCaptureFixture
) -> None:
    class Breaking(FileOutbox):
        broken = 1

        def drain(self, *words: object, **more: object) -> Progress:
            if self.broken:
                self.broken -= 1
                raise RuntimeError("swordfish")
            return box.drain(*words, **more)  # type: ignore[arg-type]

    caplog.set_level(logging.INFO, "fraud.outbox")  # whatever another test has set
    box.put("label", "key", b"data")
    sink = Failing({b"data": StoreUnavailable("down")})
    loop = Drain(Breaking(box._folder), {"label": sink})
    loop.start()
    until(lambda: len(sink.asked) >= 2 and len(caplog.records) >= 2)
    assert loop.stop()
    assert [record.message for record in caplog.records] == ["draining failed", "items of the outbox wait"]


def test_a_loop_that_never_started_stops(box: FileOutbox) -> None:
    assert Drain(box, {"label": Failing({})}).stop()


def test_the_file_begins_with_what_an_operator_can_read(box: FileOutbox, folder: Path) -> None:
    box.put("webhook", "key", b"data")
    header = files(folder)[0].read_bytes().split(b"\n")[0][65:]
    assert json.loads(header).keys() == {"arrived_ns", "attempts", "due_ms", "key"}
