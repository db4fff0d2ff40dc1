"""What every store promises, over all four: the same tests, with real servers."""

import random
import threading
import time
from collections.abc import Callable

import pytest

from fraud_api_lambda.errors import StoreUnavailable
from fraud_api_lambda.feature_store import Change, FeatureStore

DAY_MS = 86_400_000


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def change(party: str, seen_version: int, data: bytes, *, lives_ms: int = DAY_MS) -> Change:
    return Change(party, seen_version, data, now_ms() + lives_ms)


def until(happens: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_missing_party_is_left_out(store: FeatureStore) -> None:
    assert store.read(["C1", "D1"]) == {}
    assert store.swap([change("C1", 0, b"one")]) == []
    assert store.read(["C1", "D1"]) == {"C1": (1, b"one")}


def test_nothing_asked_is_nothing_answered(store: FeatureStore) -> None:
    assert store.read([]) == {}
    assert store.swap([]) == []


def test_a_store_that_answers_passes_its_check(store: FeatureStore) -> None:
    store.check()
    assert store.read(["-"]) == {}


def test_each_swap_raises_the_version_by_one(store: FeatureStore) -> None:
    for version in range(5):
        assert store.swap([change("C1", version, b"%d" % version)]) == []
        assert store.read(["C1"]) == {"C1": (version + 1, b"%d" % version)}


@pytest.mark.parametrize("seen", [0, 1, 3, 1_000_000])
def test_a_conflict_is_returned_and_nothing_is_overwritten(store: FeatureStore, seen: int) -> None:
    store.swap([change("C1", 0, b"one")])
    store.swap([change("C1", 1, b"two")])
    assert store.swap([change("C1", seen, b"other")]) == ["C1"]
    assert store.read(["C1"]) == {"C1": (2, b"two")}


def test_a_version_of_a_party_that_is_not_there_is_a_conflict(store: FeatureStore) -> None:
    assert store.swap([change("C1", 1, b"one")]) == ["C1"]
    assert store.read(["C1"]) == {}


def test_of_many_changes_each_stands_or_falls_on_its_own(store: FeatureStore) -> None:
    parties = [f"C{number}" for number in range(120)]
    assert store.swap([change(party, 0, party.encode()) for party in parties]) == []
    assert store.read(parties) == {party: (1, party.encode()) for party in parties}

    stale = set(parties[::3])
    conflicts = store.swap([change(party, 0 if party in stale else 1, b"new") for party in parties])
    assert sorted(conflicts) == sorted(stale)
    expected = {party: (1, party.encode()) if party in stale else (2, b"new") for party in parties}
    assert store.read([*parties, "nobody"]) == expected


def test_a_party_named_twice_is_read_once_and_written_once(store: FeatureStore) -> None:
    assert store.swap([change("C1", 0, b"first"), change("C1", 0, b"second")]) == ["C1"]
    version, data = store.read(["C1", "C1"])["C1"]
    assert version == 1
    assert data in {b"first", b"second"}


@pytest.mark.parametrize(
    "data", [b"", b"\0", bytes(range(256)), random.Random(1).randbytes(5_000), b"\r\n$-1\r\n", b"x" * 100_000]
)
def test_bytes_come_back_as_they_went_in(store: FeatureStore, data: bytes) -> None:
    assert store.swap([change("C1", 0, data)]) == []
    assert store.read(["C1"]) == {"C1": (1, data)}
    assert type(store.read(["C1"])["C1"][1]) is bytes


def test_any_text_is_a_party_and_no_two_are_taken_for_one(store: FeatureStore) -> None:
    parties = [
        *(
            "C1",
            "c1",
            " C1",
            "C1 ",
            "C1\0",
            "C",
            "1",
            "01",
            "1.0",
            "-",
            ":",
            "*",
            "%",
            "_",
            "'; DROP TABLE parties; --",
        ),
        *(
            "a/b\\c",
            "{tag}",
            "\r\n",
            "\t",
            "\x7f",
            "é",
            "e\u0301",
            "ÿ",
            "李",
            "🂡",
            "\u202eabc",
            "null",
            "x" * 64,
            "🂡" * 64,
        ),
    ]
    assert store.swap([change(party, 0, party.encode()) for party in parties]) == []
    assert store.read(parties) == {party: (1, party.encode()) for party in parties}


def test_an_expired_party_is_absent_and_starts_anew(store: FeatureStore) -> None:
    store.swap([change("C1", 0, b"one"), change("C2", 0, b"stays")])
    assert store.swap([change("C1", 1, b"two", lives_ms=1_500)]) == []
    assert store.read(["C1"]) == {"C1": (2, b"two")}
    until(lambda: "C1" not in store.read(["C1", "C2"]))
    assert store.read(["C1", "C2"]) == {"C2": (1, b"stays")}
    assert store.swap([change("C1", 2, b"late")]) == ["C1"]
    assert store.read(["C1"]) == {}
    assert store.swap([change("C1", 0, b"new")]) == []
    assert store.read(["C1"]) == {"C1": (1, b"new")}


def test_a_party_that_is_written_again_lives_on(store: FeatureStore) -> None:
    store.swap([change("C1", 0, b"one", lives_ms=1_500), change("C2", 0, b"goes", lives_ms=1_500)])
    assert store.swap([change("C1", 1, b"two")]) == []
    until(lambda: "C2" not in store.read(["C2"]))
    assert store.read(["C1"]) == {"C1": (2, b"two")}


def test_a_change_that_has_expired_already_leaves_nothing(store: FeatureStore) -> None:
    assert store.swap([change("C1", 0, b"one", lives_ms=-1_000)]) == []
    assert store.read(["C1"]) == {}
    assert store.swap([Change("C1", 0, b"two", 0)]) == []
    assert store.read(["C1"]) == {}


def test_an_erased_party_is_gone_and_starts_anew(store: FeatureStore) -> None:
    store.swap([change("C1", 0, b"one"), change("C2", 0, b"stays")])
    store.swap([change("C1", 1, b"two")])
    store.erase("C1")
    store.erase("nobody")
    assert store.read(["C1", "C2"]) == {"C2": (1, b"stays")}
    assert store.swap([change("C1", 2, b"late")]) == ["C1"]
    assert store.swap([change("C1", 0, b"new")]) == []
    assert store.read(["C1"]) == {"C1": (1, b"new")}


def count_up(store: FeatureStore, times: int) -> None:
    """Add one to the number that party ``hot`` holds, ``times`` times, whoever else does the same."""
    for _ in range(times):
        attempt = 0
        while True:
            version, data = store.read(["hot"]).get("hot", (0, b"0"))
            if not store.swap([change("hot", version, b"%d" % (int(data) + 1))]):
                break
            attempt += 1
            time.sleep(random.random() * 0.002 * min(attempt, 10))


def test_no_update_of_many_clients_is_lost(store: FeatureStore, kind: str) -> None:
    # The stand-in for DynamoDB takes 5 ms of its own for every request: there fewer clients make fewer updates.
    clients, times = (4, 50) if kind == "dynamodb" else (16, 250)
    failures: list[BaseException] = []

    def client() -> None:
        try:
            count_up(store, times)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    total = clients * times
    assert store.read(["hot"]) == {"hot": (total, b"%d" % total)}


def test_a_closed_store_says_so_and_may_be_closed_again(store: FeatureStore) -> None:
    store.swap([change("C1", 0, b"one")])
    store.close()
    store.close()
    calls: list[Callable[[], object]] = [
        lambda: store.read(["C1"]),
        lambda: store.swap([change("C1", 1, b"two")]),
        lambda: store.erase("C1"),
        store.check,
    ]
    for call in calls:
        with pytest.raises(StoreUnavailable):
            call()


def test_only_stores_inside_the_process_are_inline(store: FeatureStore, kind: str) -> None:
    assert store.inline is (kind in {"memory", "sqlite"})


def test_after_disconnecting_it_connects_again_and_has_lost_nothing_durable(store: FeatureStore) -> None:
    store.swap([change("C1", 0, b"one")])
    store.disconnect()
    assert store.read(["C1"]) == {"C1": (1, b"one")}
    store.disconnect()
    store.disconnect()
    store.check()
