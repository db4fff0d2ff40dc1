"""A file as data: read, mapped, sent, and what leaves again; each as a spreadsheet or a data team would have it."""

import io
from typing import Any

import pandas as pd
import pytest

from streamlit_app import batch, tables
from streamlit_app.answers import BatchItem, read
from tests.streamlit_app.servers import decision


def rows_of(text: str, encoding: str = "utf-8") -> pd.DataFrame:
    return batch.read_file("file.csv", text.encode(encoding))


# --- reading ---------------------------------------------------------------------------------------------------------


def test_ids_keep_their_zeros_and_long_ones_their_digits() -> None:
    frame = rows_of("amount,customer_id\n1.50,0012\n2,12345678901234567890\n")
    assert frame["customer_id"].tolist() == ["0012", "12345678901234567890"]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_a_separator_is_found_out(separator: str) -> None:
    frame = rows_of(f"amount{separator}customer_id\n1.50{separator}C1\n2.25{separator}C2\n")
    assert list(frame.columns) == ["amount", "customer_id"]
    assert frame["amount"].tolist() == ["1.50", "2.25"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252"])
def test_letters_beyond_ascii_survive(encoding: str) -> None:
    assert rows_of("amount,customer_id\n1,Zoë\n", encoding)["customer_id"].tolist() == ["Zoë"]


def test_a_column_that_stands_twice_gets_a_number() -> None:
    frame = batch.read_file("f.parquet", _parquet(pd.DataFrame({"amount": [1.0], " amount": [2.0]})))
    assert list(frame.columns) == ["amount", "amount (2)"]


@pytest.mark.parametrize(
    "data",
    [b"", b"amount\n", b"\x00\x01\x02\x03binary", b"PAR1 but not parquet", b'a,b\n1,2\n"never closed,3\n4,5,6,7\n'],
)
def test_a_file_that_cannot_be_read_is_refused_in_one_line_that_repeats_nothing(data: bytes) -> None:
    with pytest.raises(batch.Unreadable) as caught:
        batch.read_file("file.csv", data)
    assert "\n" not in str(caught.value)
    assert "closed" not in str(caught.value)


def test_a_file_that_is_too_long_says_where_to_take_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "MAX_ROWS", 3)
    with pytest.raises(batch.Unreadable, match="python -m training score"):
        rows_of("amount\n" + "1\n" * 4)


# --- mapping ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (["amount", "customer_id"], {"amount": "amount", "customer_id": "customer_id"}),
        (
            ["step", "type", "amount", "nameOrig", "oldbalanceOrg", "nameDest", "oldbalanceDest"],
            {
                "amount": "amount", "type": "type", "step": "step", "customer_id": "nameOrig",
                "counterparty_id": "nameDest", "oldbalanceOrg": "oldbalanceOrg", "oldbalanceDest": "oldbalanceDest",
            },
        ),
        (
            ["TRANSACTION_ID", "TX_DATETIME", "CUSTOMER_ID", "TERMINAL_ID", "TX_AMOUNT"],
            {
                "transaction_id": "TRANSACTION_ID", "timestamp": "TX_DATETIME", "customer_id": "CUSTOMER_ID",
                "counterparty_id": "TERMINAL_ID", "amount": "TX_AMOUNT",
            },
        ),
        (["Time", "V1", "V2", "Amount", "Class"], {"amount": "Amount", "timestamp": "Time"}),
        (["Betrag", "Latitude", "Longitude"], {"amount": "Betrag", "lat": "Latitude", "long": "Longitude"}),
        (["colour"], {}),
    ],
)  # fmt: skip
def test_columns_are_recognised_by_the_names_of_well_known_tables(columns: list[str], expected: dict[str, str]) -> None:
    assert batch.guess(columns) == expected


def test_no_column_is_two_things() -> None:
    found = batch.guess(["amount", "value", "customer", "customer_id", "id", "time", "step"])
    assert len(set(found.values())) == len(found)
    assert "timestamp" not in found  # the contract takes a time or a step


def request(row: dict[str, Any], mapping: dict[str, str] | None = None, *, attributes: list[str] | None = None) -> Any:
    return batch.request_of(row, mapping or {name: name for name in row}, attributes or [], "own-1")


@pytest.mark.parametrize(
    ("cell", "sent"),
    [
        ("12.50", 12.5), (" 7 ", 7.0), (3, 3.0), (2.5, 2.5), ("1e3", 1000.0),
        # What is no number is sent as it stands: the API says what is wrong with it.
        ("12,50", "12,50"), ("not known", "not known"), ("nan", "nan"), ("inf", "inf"), ("1_000", "1_000"),
        (True, "True"), (float("inf"), "inf"),
    ],
)  # fmt: skip
def test_an_amount_is_a_number_or_left_to_the_api(cell: Any, sent: Any) -> None:
    assert request({"amount": cell})["amount"] == sent


@pytest.mark.parametrize("cell", ["", "  ", None, float("nan"), pd.NaT])
def test_what_is_empty_is_left_out(cell: Any) -> None:
    assert request({"amount": "1", "lat": cell}) == {"amount": 1.0, "transaction_id": "own-1"}


def test_ids_of_a_parquet_column_with_gaps_are_no_numbers_with_a_point() -> None:
    frame = batch.read_file("f.parquet", _parquet(pd.DataFrame({"amount": [1.0, 2.0], "customer_id": [12.0, None]})))
    sent = [request(row) for row in frame.to_dict("records")]
    assert sent[0]["customer_id"] == "12"
    assert "customer_id" not in sent[1]


def test_times_of_a_parquet_column_are_written_as_the_api_reads_them() -> None:
    frame = pd.DataFrame({"amount": [1.0], "timestamp": pd.to_datetime(["2026-02-06T02:30:00Z"])})
    read_again = batch.read_file("f.parquet", _parquet(frame))
    assert request(read_again.to_dict("records")[0])["timestamp"] == "2026-02-06T02:30:00+00:00"


def test_attributes_go_along_as_numbers_or_texts() -> None:
    row = {"amount": "1", "V1": "-1.36", "channel": "web", "empty": ""}
    sent = request(row, {"amount": "amount"}, attributes=["V1", "channel", "empty"])
    assert sent["attributes"] == {"V1": -1.36, "channel": "web"}


def test_a_rows_own_id_is_kept_and_others_get_one() -> None:
    assert request({"amount": "1", "transaction_id": "t-7"})["transaction_id"] == "t-7"
    assert request({"amount": "1", "transaction_id": ""})["transaction_id"] == "own-1"


def test_the_same_file_read_in_another_way_is_another_file() -> None:
    data, plain = b"a,b\n1,2\n", {"amount": "a"}
    assert batch.fingerprint(data, plain, []) == batch.fingerprint(data, dict(plain), [])
    others = {
        batch.fingerprint(data, {"amount": "b"}, []),
        batch.fingerprint(data, plain, ["b"]),
        batch.fingerprint(data + b"\n", plain, []),
    }
    assert batch.fingerprint(data, plain, []) not in others
    assert len(others) == 3


# --- what came back --------------------------------------------------------------------------------------------------


def test_rows_are_counted_as_in_the_file_and_each_problem_is_a_line() -> None:
    problem = {
        "title": "Invalid request", "status": 422, "detail": "The transaction is not valid.",
        "errors": [{"field": "amount", "message": "must be a number"}, {"field": "lat", "message": "must be a number"}],
    }  # fmt: skip
    conflict = {"title": "Conflict", "status": 409, "detail": "Sent before with another body."}
    run = batch.Run("f.csv", "m", [{"amount": 1}] * 3)
    run.take(
        [
            read(BatchItem, {"index": 0, "decision": decision()}),
            read(BatchItem, {"index": 1, "problem": problem}),
            read(BatchItem, {"index": 2, "problem": conflict}),
        ]
    )
    assert run.finished
    assert run.scored()["row"].tolist() == [1]
    assert run.refused().to_dict("list") == {
        "row": [2, 2, 3],
        "field": ["amount", "lat", ""],
        "what is wrong": ["must be a number", "must be a number", "Sent before with another body."],
    }


def test_a_run_goes_on_where_it_stopped() -> None:
    run = batch.Run("f.csv", "m", [{"amount": n} for n in range(batch.PART + 5)])
    sizes = []
    for part in run.parts():
        sizes.append(len(part))
        run.take([read(BatchItem, {"index": 0, "decision": decision()})] * len(part))
    assert sizes == [batch.PART, 5]
    assert list(run.parts()) == []


# --- leaving ---------------------------------------------------------------------------------------------------------

HOSTILE = [
    "=cmd|' /C calc'!A0", "+1+1", "-2+3+cmd|' /C calc'!A0", "@SUM(A1:A9)", "\t=1+1", "\r=1+1", "\n=1+1", "  =1+1",
    "＝1+1", "a;=1+1", "a\t=1+1", "a\n=1+1", "\0=1+1", "-", "=", '"=1+1', "|=1",
]  # fmt: skip


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_no_cell_of_a_download_begins_as_a_formula_whatever_a_spreadsheet_takes_for_a_cell(separator: str) -> None:
    text = tables.csv(pd.DataFrame({"=header": HOSTILE, "n": range(len(HOSTILE))})).decode("utf-8-sig")
    if separator == ",":
        cells = [str(c) for row in pd.read_csv(io.StringIO(text), header=None, dtype=str).to_numpy() for c in row]
    else:  # a spreadsheet that splits at another character does not care for our quotes
        cells = [c for line in text.splitlines() for c in line.split(separator)]
    for cell in cells:
        bare = cell.strip().strip('"').strip()
        assert not bare.startswith(("=", "+", "@", "＝")), cell
        assert not (bare.startswith("-") and not bare[1:].replace(".", "").isdigit()), cell


def test_numbers_and_harmless_texts_leave_as_they_came() -> None:
    frame = pd.DataFrame({"n": [-1.5, 2.0], "text": ["-12.5", "C-1001"], "note": ['say "hi", twice', "Zoë"]})
    again = pd.read_csv(io.BytesIO(tables.csv(frame)), dtype=str)
    assert again["n"].tolist() == ["-1.5", "2.0"]
    assert again["text"].tolist() == ["-12.5", "C-1001"]
    assert again["note"].tolist() == ['say "hi", twice', "Zoë"]


def _parquet(frame: pd.DataFrame) -> bytes:
    out = io.BytesIO()
    frame.to_parquet(out)
    return out.getvalue()
