"""What every decision log promises, over all its backends: the same tests, with real servers."""

import itertools
import random
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from fraud_api_lambda.decision_log import MAX_PAGE, DecisionLog, Record, Search, Stored, write_cursor
from fraud_api_lambda.errors import InvalidRequest, StoreUnavailable
from tests.fraud_api_lambda.decision_log.records import (
    DAY_MS,
    NOON_MS,
    Model,
    generate,
    generate_labels,
    label,
    record,
)


def append_all(log: DecisionLog, records: list[Record]) -> None:
    for some in itertools.batched(records, 50):
        assert log.append(some) == [None] * len(some)


def pages(log: DecisionLog, search: Search) -> list[list[Stored]]:
    """Every page of a search, each with at most as many items as were asked for."""
    found = []
    while True:
        page = log.search(search)
        assert len(page.items) <= search.limit
        found.append(list(page.items))
        if page.cursor is None:
            return found
        assert len(found) < 2_000
        search = replace(search, cursor=page.cursor)


def every(log: DecisionLog, search: Search) -> list[Stored]:
    return list(itertools.chain.from_iterable(pages(log, search)))


def together(calls: list[Callable[[], object]]) -> list[Any]:
    """What the calls give, each in a thread of its own, all let go at once."""
    results: list[Any] = [None] * len(calls)
    barrier = threading.Barrier(len(calls))

    def run(number: int) -> None:
        barrier.wait()
        try:
            results[number] = calls[number]()
        except BaseException as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


# --- records ---------------------------------------------------------------------------------------------------------

ODD_TEXTS = [
    *(
        " C1",
        "C1 ",
        "c1",
        "C1\0",
        "\0",
        "\1",
        "\1\1",
        "\1\2",
        "\\0",
        "%",
        "_",
        "*",
        "'; DROP TABLE decisions; --",
        "\r\n",
    ),
    *("{tag}", '"', "é", "e\u0301", "李", "🂡" * 64, "\u202eabc", "null", "None", "NaN", "1.0", "[]", "a,b", "a/b#c|d"),
]


def test_a_record_comes_back_as_it_went_in(log: DecisionLog) -> None:
    whole = record(
        "order-1 ~!\"#$%&'()*+,-./:;<=>?@[]^_`{|}",
        digest=bytes(range(224, 256)),
        answer=b'{"text":"\xc3\xa9 \xf0\x9f\x82\xa1 \\u0000", "n": 1.50}\n',
        received_ms=1_999_999_999_999,
        time_ms=1,
        device_id="D1",
        amount_minor=100_000_000_000,
        outcome="decline",
        decided_by="rule",
        probability=0.1 + 0.2,
        rules=("night", "very large", "é"),
        latency_us=250_001,
        test=True,
        degraded=("model", "explanation"),
        document='{"event":{"note":"\\u0000 é 🂡"},"features":{"gap":null,"third":0.3333333333333333}}',
    )
    bare = record(
        "0",
        answer=b"{}",
        customer_id=None,
        counterparty_id=None,
        amount_minor=0,
        decided_by="fallback",
        probability=None,
        model_version=None,
        latency_us=0,
        document='{"event":{},"features":{"a":NaN,"b":-0.0,"c":1e-320}}',
    )
    assert log.append([whole, bare]) == [None, None]
    found = log.find([bare.transaction_id, "nobody", whole.transaction_id])
    assert found == {whole.transaction_id: Stored(whole), bare.transaction_id: Stored(bare)}
    assert type(found["0"].record.answer) is bytes
    assert type(found["0"].record.digest) is bytes
    assert type(found["0"].record.test) is bool
    assert [one.record for one in every(log, Search())] == [whole, bare]


def test_a_probability_comes_back_to_the_bit(log: DecisionLog) -> None:
    values = [0.0, 1.0, 5e-324, 0.1, 1 / 3, 0.30000000000000004, 0.9999999999999999, 1e-17]
    append_all(log, [record(f"t-{number}", probability=value) for number, value in enumerate(values)])
    found = log.find([f"t-{number}" for number in range(len(values))])
    assert [found[f"t-{number}"].record.probability for number in range(len(values))] == values


def test_a_long_answer_and_a_long_document_come_back(log: DecisionLog) -> None:
    long = record(answer=random.Random(1).randbytes(2_000).hex().encode(), document='{"event":"' + "é" * 60_000 + '"}')
    log.append([long])
    assert log.find(["t-1"])["t-1"].record == long


def test_any_text_is_a_party_and_no_two_are_taken_for_one(log: DecisionLog) -> None:
    records = [
        record(f"t-{number}", customer_id=text, counterparty_id=f"M{text}"[:64], device_id=f"D{text}"[:64])
        for number, text in enumerate(ODD_TEXTS)
    ]
    append_all(log, records)
    assert {id: one.record for id, one in log.find([r.transaction_id for r in records]).items()} == {
        r.transaction_id: r for r in records
    }
    for one in records:
        assert [stored.record for stored in log.search(Search(customer_id=one.customer_id)).items] == [one]
        assert [stored.record for stored in log.search(Search(counterparty_id=one.counterparty_id)).items] == [one]
    assert log.search(Search(customer_id="C1\0\0")).items == ()


def test_nothing_asked_is_nothing_answered(log: DecisionLog) -> None:
    assert log.append([]) == []
    assert log.find([]) == {}
    assert log.find(["nobody"]) == {}
    assert log.labels("nobody") == []
    assert log.search(Search()) == ((), None)
    assert log.summary(0, 100_000) == []
    assert log.erase("nobody") == 0
    assert log.forget(NOON_MS) == 0


def test_a_log_that_answers_passes_its_check_and_keeps_nothing_of_it(log: DecisionLog) -> None:
    log.check()
    log.check()
    assert log.search(Search()) == ((), None)


def test_a_second_record_under_an_id_gives_the_first_and_changes_nothing(log: DecisionLog) -> None:
    first = record(rules=("night",))
    other = record(digest=b"x" * 32, answer=b"{}", received_ms=NOON_MS + 5, customer_id="C2", rules=("large",))
    assert log.append([first]) == [None]
    assert log.append([other]) == [first]
    assert log.append([first]) == [first]
    assert log.find(["t-1"]) == {"t-1": Stored(first)}
    assert log.search(Search(rule="large")).items == ()
    assert log.search(Search(customer_id="C2")).items == ()
    assert log.search(Search(rule="night")).items == (Stored(first),)


def test_of_many_records_each_is_written_or_not_on_its_own(log: DecisionLog) -> None:
    there = [record(f"t-{number}") for number in range(0, 100, 3)]
    append_all(log, there)
    new = [record(f"t-{number}", answer=b'"new"') for number in range(100)]
    expected = [there[number // 3] if number % 3 == 0 else None for number in range(100)]
    assert log.append(new) == expected
    found = log.find([f"t-{number}" for number in range(100)])
    for number in range(100):
        assert found[f"t-{number}"].record == (expected[number] or new[number])


def test_of_several_with_one_id_in_one_call_the_first_is_written(log: DecisionLog) -> None:
    first, second = record(answer=b'"first"'), record(answer=b'"second"')
    other = record("t-2")
    assert log.append([first, second, other, first]) == [None, first, None, first]
    assert log.append([second, second]) == [first, first]
    assert log.find(["t-1", "t-1", "t-2"]) == {"t-1": Stored(first), "t-2": Stored(other)}


def test_fifty_copies_at_once_make_one_record(log: DecisionLog) -> None:
    copies = [record(answer=b"%d" % number) for number in range(50)]
    results = together([lambda copy=copy: log.append([copy]) for copy in copies])  # type: ignore[misc]
    winners = [number for number, result in enumerate(results) if result == [None]]
    assert len(winners) == 1
    winner = copies[winners[0]]
    assert [result for number, result in enumerate(results) if number != winners[0]] == [[winner]] * 49
    assert [one.record for one in every(log, Search())] == [winner]


def test_batches_that_overlap_at_once_write_each_record_once(log: DecisionLog) -> None:
    ids = [f"t-{number}" for number in range(25)]
    batches = [
        [record(id, answer=b"%d" % number) for id in random.Random(number).sample(ids, len(ids))] for number in range(8)
    ]
    results = together([lambda batch=batch: log.append(batch) for batch in batches])  # type: ignore[misc]
    assert [result for result in results if isinstance(result, BaseException)] == []
    written = [
        one
        for batch, result in zip(batches, results, strict=True)
        for one, stands in zip(batch, result, strict=True)
        if stands is None
    ]
    assert sorted(one.transaction_id for one in written) == sorted(ids)
    assert {id: one.record for id, one in log.find(ids).items()} == {one.transaction_id: one for one in written}


# --- labels ----------------------------------------------------------------------------------------------------------


def test_a_label_of_an_unknown_transaction_is_none_and_leaves_nothing(log: DecisionLog) -> None:
    assert log.label(label()) is None
    log.append([record()])
    assert log.labels("t-1") == []
    assert log.find(["t-1"])["t-1"].label is None


def test_a_label_gives_the_record_the_label_that_counts_and_the_one_that_stands(log: DecisionLog) -> None:
    one = record()
    log.append([one])
    said = label(note="é 🂡 \0 '")
    assert log.label(said) == (Stored(one, said), said)
    assert log.find(["t-1"]) == {"t-1": Stored(one, said)}
    assert log.search(Search()).items == (Stored(one, said),)
    weaker = label(source="customer", is_fraud=False, time_ms=NOON_MS + 9_000)
    assert log.label(weaker) == (Stored(one, said), weaker)
    stronger = label(source="chargeback", is_fraud=False, time_ms=NOON_MS)
    assert log.label(stronger) == (Stored(one, stronger), stronger)
    assert log.find(["t-1"])["t-1"].label == stronger


def test_the_same_label_sent_again_is_kept_as_it_first_came(log: DecisionLog) -> None:
    log.append([record()])
    first = label()
    again = label(received_ms=first.received_ms + 5_000, note="another note")
    assert first.key == again.key
    log.label(first)
    assert log.label(again) == (Stored(record(), first), first)
    assert log.labels("t-1") == [first]


def test_all_that_was_said_is_listed_by_arrival(log: DecisionLog) -> None:
    log.append([record(), record("t-2")])
    said = [label(time_ms=NOON_MS + number, received_ms=NOON_MS + 10 - number) for number in range(8)]
    for one in said:
        log.label(one)
    log.label(label("t-2"))
    assert log.labels("t-1") == said[::-1]


def test_whatever_the_order_of_arrival_the_same_label_counts(log: DecisionLog) -> None:
    said = [
        label(source="customer", time_ms=NOON_MS + 9),
        label(source="analyst", time_ms=NOON_MS + 5, is_fraud=False),
        label(source="analyst", time_ms=NOON_MS + 6),
        label(source="analyst", time_ms=NOON_MS + 6, is_fraud=False),
    ]
    best = max(said, key=lambda one: one.order)
    for number, order in enumerate(itertools.permutations(said)):
        id = f"t-{number}"
        log.append([record(id)])
        for one in order:
            log.label(replace(one, transaction_id=id))
        stored = log.find([id])[id].label
        assert stored is not None
        # Between labels of one source and one time the key decides, which holds the id.
        expected = max((replace(one, transaction_id=id) for one in said), key=lambda one: one.order)
        assert stored == expected
        assert (stored.source, stored.time_ms) == (best.source, best.time_ms)


def test_labels_at_once_end_in_the_one_that_counts(log: DecisionLog) -> None:
    log.append([record()])
    said = [
        label(time_ms=NOON_MS + number % 7, is_fraud=number % 2 == 0, received_ms=NOON_MS + number)
        for number in range(24)
    ]
    results = together([lambda one=one: log.label(one) for one in said])  # type: ignore[misc]
    assert [result for result in results if not isinstance(result, tuple)] == []
    kept = log.labels("t-1")
    assert {one.key for one in kept} == {one.key for one in said}
    assert log.find(["t-1"])["t-1"].label == max(kept, key=lambda one: one.order)


def test_the_same_label_at_once_is_there_once(log: DecisionLog) -> None:
    log.append([record()])
    said = [label(received_ms=NOON_MS + number) for number in range(12)]
    results = together([lambda one=one: log.label(one) for one in said])  # type: ignore[misc]
    (kept,) = log.labels("t-1")
    assert kept in said
    assert results == [(Stored(record(), kept), kept)] * 12


# --- search ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def filled(log: DecisionLog, kind: str) -> Model:
    records = generate(SIZES.get(kind, 500))
    labels = generate_labels(records)
    append_all(log, records)
    for one in labels:
        log.label(one)
    return Model(records, labels)


#: The stand-in for DynamoDB takes twenty milliseconds for every record that it sends.
SIZES = {"dynamodb": 120}

#: Every filter, each with values that find many, few and none.
FILTERS: dict[str, list[Any]] = {
    "since_ms": [NOON_MS, NOON_MS + DAY_MS, NOON_MS + 3 * DAY_MS + DAY_MS // 2 + 60_000, NOON_MS + 9 * DAY_MS],
    "until_ms": [NOON_MS, NOON_MS + 3 * 60 * 60_000, NOON_MS + 2 * DAY_MS, NOON_MS + 9 * DAY_MS],
    "outcome": ["approve", "review", "decline"],
    "label": ["fraud", "legitimate", "none"],
    "min_probability": [0.0, 0.0001, 0.05, 0.3, 0.5, 0.75, 0.9, 0.97, 0.995, 1.0],
    "customer_id": ["C0", "C3", "nobody", ""],
    "counterparty_id": ["M0", "M5", "nobody", "C0"],
    "rule": ["night", "large", "nothing", "night,large"],
    "test": [True, False],
}
SINGLE = [{name: value} for name, values in FILTERS.items() for value in values]


def combined(count: int) -> list[dict[str, Any]]:
    chance = random.Random(5)
    return [
        {name: chance.choice(FILTERS[name]) for name in chance.sample(list(FILTERS), chance.choice((2, 2, 3, 4)))}
        for _ in range(count)
    ]


def test_every_filter_alone_and_combined_finds_what_it_should(log: DecisionLog, filled: Model, kind: str) -> None:
    for filters in [{}, *SINGLE, *combined(SIZES.get(kind, 480) // 6)]:
        for oldest_first in (False, True):
            search = Search(**filters, oldest_first=oldest_first, limit=MAX_PAGE)
            assert every(log, search) == filled.search(search), filters


PAGED: list[dict[str, Any]] = [
    *({}, {"outcome": "approve"}, {"label": "none"}, {"label": "fraud"}, {"min_probability": 0.1}, {"test": False}),
    *({"customer_id": "C3"}, {"counterparty_id": "M5"}, {"rule": "night"}),
    *({"outcome": "review", "label": "none"}, {"min_probability": 0.2, "outcome": "review", "test": False}),
    {"since_ms": NOON_MS + DAY_MS, "until_ms": NOON_MS + 3 * DAY_MS},
]


def test_pages_follow_one_another_without_gap_or_repetition(log: DecisionLog, filled: Model) -> None:
    for filters, oldest_first, limit in itertools.product(PAGED, (False, True), (1, 7, 50)):
        search = Search(**filters, oldest_first=oldest_first, limit=limit)
        expected = filled.search(search)
        if limit > 1 or len(expected) <= 50:  # hundreds of requests would prove no more
            assert every(log, search) == expected, search


def test_records_that_arrived_together_are_paged_by_id(log: DecisionLog) -> None:
    ids = [f"t{character}{number}" for character in "aAzZ-~ _0.é" for number in range(4)]
    append_all(log, [record(id) for id in ids])
    for filters in ({}, {"outcome": "approve"}, {"min_probability": 0.25}, {"customer_id": "C1"}):
        for limit in (1, 3, 50):
            oldest = every(log, Search(**filters, oldest_first=True, limit=limit))
            assert [one.record.transaction_id for one in oldest] == sorted(ids)
            newest = every(log, Search(**filters, limit=limit))
            assert [one.record.transaction_id for one in newest] == sorted(ids, reverse=True)


def test_what_arrives_between_two_pages_moves_nothing(log: DecisionLog) -> None:
    there = [record(f"t-{number:03}", received_ms=NOON_MS + number // 3) for number in range(60)]
    append_all(log, there)
    seen: list[Record] = []
    search = Search(limit=7)
    for round_number in itertools.count():
        page = log.search(search)
        seen += [one.record for one in page.items]
        if page.cursor is None:
            break
        search = replace(search, cursor=page.cursor)
        log.append([record(f"new-{round_number}", received_ms=NOON_MS + 1_000 + round_number)])
    assert seen == there[::-1]

    seen = []
    search = Search(limit=7, oldest_first=True, until_ms=NOON_MS + 1_000)
    while True:
        page = log.search(search)
        seen += [one.record for one in page.items]
        if page.cursor is None:
            break
        search = replace(search, cursor=page.cursor)
        log.append([record(f"old-{len(seen)}", received_ms=NOON_MS - 1_000)])
    assert seen == there


def test_a_page_that_holds_all_has_no_cursor(log: DecisionLog) -> None:
    append_all(log, [record(f"t-{number}") for number in range(5)])
    assert len(pages(log, Search(limit=200))) == 1
    assert log.search(Search(limit=5)).cursor is None or pages(log, Search(limit=5))[1:] == [[]]


@pytest.mark.parametrize(
    "cursor",
    [
        *("", "hunter2", "!", "é", "\0", "A" * 10_000, write_cursor(), write_cursor("hunter2"), write_cursor(1)),
        *(
            write_cursor("a", "b"),
            write_cursor(1, 2, 3),
            write_cursor(1, 2, 3, 4, 5, 6),
            write_cursor(2**70, "hunter2"),
        ),
        *(write_cursor(-(2**70), "t-1"), write_cursor("1", 2, "t")),
    ],
)
@pytest.mark.parametrize("filters", [{}, {"outcome": "review"}, {"min_probability": 0.9}, {"rule": "night"}])
def test_a_cursor_that_no_page_gave_is_an_invalid_request(
    log: DecisionLog, cursor: str, filters: dict[str, Any]
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        log.search(Search(**filters, cursor=cursor))
    assert [error.field for error in caught.value.errors] == ["cursor"]
    assert "hunter2" not in str(caught.value) + str(caught.value.errors)


def test_a_label_moves_a_record_from_one_listing_to_another(log: DecisionLog) -> None:
    one = record(outcome="review")
    log.append([one])
    queue = Search(outcome="review", label="none")
    assert log.search(queue).items == (Stored(one),)
    fraud, not_fraud = label(), label(is_fraud=False, source="chargeback")
    log.label(fraud)
    assert every(log, queue) == []
    assert every(log, Search(label="fraud")) == [Stored(one, fraud)]
    log.label(not_fraud)
    assert every(log, Search(label="fraud")) == []
    assert every(log, Search(label="legitimate", outcome="review")) == [Stored(one, not_fraud)]


# --- summary ---------------------------------------------------------------------------------------------------------


def test_a_summary_counts_every_day(log: DecisionLog, filled: Model) -> None:
    first = NOON_MS // DAY_MS
    assert len(filled.summary(0, 100_000)) == 5
    for since, until in ((0, 100_000), (first, first + 1), (first + 1, first + 3), (first + 50, first + 60), (5, 5)):
        assert log.summary(since, until) == filled.summary(since, until)


def test_a_day_ends_at_midnight_utc(log: DecisionLog) -> None:
    midnight = NOON_MS + DAY_MS // 2
    log.append([record("t-1", received_ms=midnight - 1), record("t-2", received_ms=midnight)])
    assert [(day.day, day.decisions) for day in log.summary(0, 100_000)] == [(20_000, 1), (20_001, 1)]


def test_test_inputs_are_listed_and_not_counted(log: DecisionLog) -> None:
    log.append([record("t-1", test=True)])
    assert log.summary(0, 100_000) == []
    assert len(log.search(Search(test=True)).items) == 1


# --- erase, forget ---------------------------------------------------------------------------------------------------


def test_erasing_a_party_deletes_all_that_names_it_in_any_role(log: DecisionLog) -> None:
    gone = [
        record("t-1", customer_id="X", rules=("night",)),
        record("t-2", counterparty_id="X"),
        record("t-3", device_id="X"),
        record("t-4", customer_id="X", counterparty_id="X", device_id="X"),
    ]
    stays = [record("t-5", rules=("night",)), record("t-6", customer_id="XX", device_id="x")]
    log.append([*gone, *stays])
    for id in ("t-1", "t-5"):
        log.label(label(id))
    assert log.erase("X") == 4
    assert log.erase("X") == 0
    assert log.find([one.transaction_id for one in gone]) == {}
    assert log.labels("t-1") == []
    assert log.label(label("t-1")) is None
    assert [one.record.transaction_id for one in every(log, Search(oldest_first=True))] == ["t-5", "t-6"]
    assert [one.record.transaction_id for one in every(log, Search(rule="night"))] == ["t-5"]
    assert log.labels("t-5") == [label("t-5")]
    # The id is free again, and nothing of what was said of it comes back.
    assert log.append([gone[0]]) == [None]
    assert log.find(["t-1"]) == {"t-1": Stored(gone[0])}


def test_a_party_with_many_records_is_erased_whole(log: DecisionLog, kind: str) -> None:
    n = 420 if kind == "dynamodb" else 1_300  # half of them: more than are deleted at once, 200 there and 500 elsewhere
    records = [record(f"t-{number:04}", customer_id="X" if number % 2 else "C1") for number in range(n)]
    append_all(log, records)
    assert log.erase("X") == n // 2
    assert len(every(log, Search(limit=MAX_PAGE))) == n // 2


def test_forgetting_deletes_what_arrived_before(log: DecisionLog) -> None:
    records = [record(f"t-{number}", received_ms=NOON_MS + number, rules=("night",)) for number in range(10)]
    append_all(log, records)
    for one in records:
        log.label(label(one.transaction_id))
    assert log.forget(NOON_MS + 4) == 4
    assert log.forget(NOON_MS + 4) == 0
    left = [one.record for one in every(log, Search(oldest_first=True))]
    assert left == records[4:]
    assert [one.record for one in every(log, Search(rule="night", oldest_first=True))] == records[4:]
    assert log.labels("t-3") == []
    assert log.labels("t-4") == [label("t-4")]
    assert log.append([records[0]]) == [None]
    assert log.find(["t-0"]) == {"t-0": Stored(records[0])}


def test_a_label_and_an_erasure_at_once_leave_no_label_behind(log: DecisionLog) -> None:
    for round_number in range(10):
        id = f"t-{round_number}"
        log.append([record(id, customer_id="X")])
        together([lambda: log.erase("X"), lambda id=id: log.label(label(id))])  # type: ignore[misc]
        assert log.find([id]) == {}
        assert log.labels(id) == []


# --- being closed ----------------------------------------------------------------------------------------------------


def test_what_was_recorded_is_there_when_the_log_is_opened_again(log: DecisionLog, url: str) -> None:
    from fraud_api_lambda.decision_log import open_decision_log

    one = record(rules=("night",))
    log.append([one])
    log.label(label())
    log.close()
    again = open_decision_log(url, budget_ms=20_000)
    assert again.find(["t-1"]) == {"t-1": Stored(one, label())}
    assert again.append([one]) == [one]
    again.close()


def test_a_closed_log_says_so_and_may_be_closed_again(log: DecisionLog) -> None:
    log.append([record()])
    log.close()
    log.close()
    calls: list[Callable[[], object]] = [
        lambda: log.append([record("t-2")]),
        lambda: log.find(["t-1"]),
        lambda: log.label(label()),
        lambda: log.labels("t-1"),
        lambda: log.search(Search()),
        lambda: log.summary(0, 1),
        lambda: log.erase("C1"),
        lambda: log.forget(0),
        log.check,
    ]
    for call in calls:
        started = time.monotonic()
        with pytest.raises(StoreUnavailable):
            call()
        assert time.monotonic() - started < 10  # told at once, not after the budget


def test_only_a_log_inside_the_process_is_inline(log: DecisionLog, kind: str) -> None:
    assert log.inline is (kind == "sqlite")


def test_after_disconnecting_it_connects_again_and_has_lost_nothing(log: DecisionLog) -> None:
    assert log.append([record()]) == [None]
    log.disconnect()
    assert log.find(["t-1"]) == {"t-1": Stored(record())}
    log.disconnect()
    log.disconnect()
    log.check()
    assert log.append([record()]) == [record()]
