import gzip
import hashlib
import json
import math
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from training import dataset
from training.dataset import DataError, count, describe, digest, fetch, identity, load, stream

START_MS = 1_672_531_200_000
HOUR_MS = 3_600_000

PAYSIM = pd.DataFrame(
    {
        "step": [2, 1, 1, 3],
        "type": ["TRANSFER", "PAYMENT", "CASH_OUT", "CASH_IN"],
        "amount": [181.0, 0.0, 25.5, 10.0],
        "nameOrig": ["C1", "C2", "C3", "C4"],
        "oldbalanceOrg": [181.0, 50.0, 25.5, 0.0],
        "newbalanceOrig": [0.0, 50.0, 0.0, 10.0],
        "nameDest": ["C9", "M1", "C9", "C8"],
        "oldbalanceDest": [0.0, 0.0, 181.0, 10.0],
        "newbalanceDest": [181.0, 0.0, 206.5, 0.0],
        "isFraud": [1, 0, 1, 0],
        "isFlaggedFraud": [0, 0, 0, 0],
        "sample": ["a", "b", "a", "c"],
    }
)
CSV = pd.DataFrame(
    {
        "when": ["2024-03-01T10:00:00Z", "2024-03-01 09:00:00", "2024-03-01T12:30:00+02:00"],
        "Amount": [12.5, 0.0, 99.99],
        "Class": [0, 1, 0],
        "card": ["007", "008", "007"],
        "V1": [-1.5, 2.25, 0.0],
        "V2": [0.5, None, 1.0],
        "shop kind": ["grocery", "crypto", None],
    }
)
MAPPING = "columns: {timestamp: when, amount: Amount, is_fraud: Class}\n"


def paysim(folder: Path, name: str = "pay.csv", **changes: object) -> str:
    """The small PaySim file with whole columns replaced."""
    frame = PAYSIM.assign(**changes)
    file = folder / name
    if name.endswith(".parquet"):
        frame.to_parquet(file)
    else:
        frame.to_csv(file, index=False)
    return str(file)


def own(folder: Path, mapping: str, frame: pd.DataFrame = CSV, sep: str = ",") -> pd.DataFrame:
    """``frame`` loaded through ``mapping``."""
    frame.to_csv(folder / "own.csv", index=False, sep=sep)
    (folder / "map.yaml").write_text(mapping)
    return load(str(folder / "own.csv"), "csv", mapping=str(folder / "map.yaml"))


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(DataError) as caught:
        act()
    message = str(caught.value)
    assert "\n" not in message
    return message


# ---- what comes out --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pay.csv", "pay.csv.gz", "pay.parquet"])
def test_paysim_becomes_the_canonical_frame_sorted_by_time(tmp_path: Path, name: str) -> None:
    frame = load(paysim(tmp_path, name), "paysim")
    assert list(frame.columns) == [
        *("time_ms", "type", "customer_id", "counterparty_id", "amount"),
        *("oldbalanceOrg", "newbalanceOrig", "oldbalanceDest", "newbalanceDest", "is_fraud", "weight"),
    ]
    assert frame["time_ms"].tolist() == [START_MS, START_MS, START_MS + HOUR_MS, START_MS + 2 * HOUR_MS]
    assert frame["customer_id"].tolist() == ["C2", "C3", "C1", "C4"]  # equal times keep the file's order
    assert frame["type"].tolist() == ["PAYMENT", "CASH_OUT", "TRANSFER", "CASH_IN"]
    assert list(frame["type"].cat.categories) == ["PAYMENT", "TRANSFER", "CASH_OUT", "CASH_IN", "DEBIT"]
    assert frame["amount"].tolist() == [0.0, 25.5, 181.0, 10.0]
    assert frame["is_fraud"].tolist() == [0, 1, 1, 0]
    kinds = frame.dtypes.astype(str).to_dict()
    assert (kinds["time_ms"], kinds["amount"], kinds["is_fraud"], kinds["weight"]) == (
        *("int64", "float64", "int8", "float64"),
    )
    assert isinstance(frame.index, pd.RangeIndex)


def test_the_flag_that_is_no_feature_may_be_absent(tmp_path: Path) -> None:
    PAYSIM.drop(columns=["isFlaggedFraud", "sample"]).to_csv(tmp_path / "pay.csv", index=False)
    assert len(load(str(tmp_path / "pay.csv"), "paysim")) == 4


def test_absent_values_stay_missing_and_are_never_zero(tmp_path: Path) -> None:
    path = paysim(tmp_path, oldbalanceOrg=[None, 1.0, 2.0, 3.0], type=["TRANSFER", None, "DEBIT", "DEBIT"])
    frame = load(path, "paysim")
    assert math.isnan(frame.loc[2, "oldbalanceOrg"])
    assert frame["type"].isna().tolist() == [True, False, False, False]


def test_handbook_ids_are_prefixed_because_customers_and_terminals_count_alike(tmp_path: Path) -> None:
    pd.DataFrame(
        {
            "TRANSACTION_ID": [1, 2],
            "TX_DATETIME": pd.to_datetime(["2018-04-01 00:00:31", "2018-04-01 00:02:10"]),
            "CUSTOMER_ID": [12, 12],
            "TERMINAL_ID": [12, 7],
            "TX_AMOUNT": [57.16, 0.0],
            "TX_FRAUD": [0, 1],
            "TX_FRAUD_SCENARIO": [0, 2],
        }
    ).to_parquet(tmp_path / "h.parquet")
    frame = load(str(tmp_path / "h.parquet"), "handbook")
    assert frame["customer_id"].tolist() == ["C12", "C12"]
    assert frame["counterparty_id"].tolist() == ["T12", "T7"]
    assert frame["time_ms"].iloc[0] == datetime(2018, 4, 1, 0, 0, 31, tzinfo=UTC).timestamp() * 1000
    assert frame["fraud_scenario"].isna().tolist() == [True, False]
    assert frame["fraud_scenario"].iloc[1] == "2"
    assert "type" not in frame


def test_a_folder_is_read_as_one_file(tmp_path: Path) -> None:
    paysim(tmp_path, "2.csv", step=[9, 9, 9, 9])
    paysim(tmp_path, "1.parquet")
    (tmp_path / "notes.txt").write_text("not data")
    frame = load(str(tmp_path), "paysim")
    assert len(frame) == 8
    assert frame["time_ms"].is_monotonic_increasing


def test_only_legitimate_rows_are_weighted(tmp_path: Path) -> None:
    frame = load(paysim(tmp_path), "paysim", legit_weight=256.36)
    assert frame["weight"].tolist() == [256.36, 1.0, 1.0, 256.36]
    assert "above zero" in refusal(lambda: load(paysim(tmp_path), "paysim", legit_weight=0.0))


# ---- --where ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "customers"),
    [
        (["sample=a"], ["C3", "C1"]),
        (["sample=a", "sample=c"], ["C3", "C1", "C4"]),
        (["sample=a", "step=1"], ["C3"]),
        (["step=1.0"], ["C2", "C3"]),
        (["type=TRANSFER", "sample=a"], ["C1"]),
    ],
)
@pytest.mark.parametrize("name", ["pay.csv", "pay.parquet"])
def test_where_keeps_alternatives_of_one_column_and_the_agreement_of_several(
    tmp_path: Path, name: str, where: list[str], customers: list[str]
) -> None:
    frame = load(paysim(tmp_path, name), "paysim", where=where, require_fraud=False)
    assert frame["customer_id"].tolist() == customers


def test_where_that_cannot_be_met_is_told_the_choices(tmp_path: Path) -> None:
    path = paysim(tmp_path)
    unknown = refusal(lambda: load(path, "paysim", where=["smaple=a"]))
    assert "did you mean 'sample'?" in unknown
    assert "Values of column 'sample' are: a, b, c" in refusal(lambda: load(path, "paysim", where=["sample=x"]))
    assert "COLUMN=VALUE" in refusal(lambda: load(path, "paysim", where=["sample"]))


def test_rows_are_counted_in_the_file_not_among_the_chosen(tmp_path: Path) -> None:
    path = paysim(tmp_path, amount=[1.0, 1.0, 1.0, -1.0])
    assert ", row 4:" in refusal(lambda: load(path, "paysim", where=["sample=c"], require_fraud=False))


# ---- refusals: file, column, row -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "bad", "words"),
    [
        ("amount", "lots", "'lots' is not a number"),
        ("amount", -0.01, "'-0.01' is negative"),
        ("amount", "inf", "is not a finite number"),
        ("amount", "", "is missing"),
        ("amount", 1.0e9 + 1, "is above 1e+09"),
        ("oldbalanceOrg", -3, "is negative"),
        ("step", 0, "is no step"),
        ("step", 1.5, "is no step"),
        ("step", "", "is missing"),
        ("type", "PAYMNT", "choices are PAYMENT, TRANSFER, CASH_OUT, CASH_IN, DEBIT"),
        ("isFraud", 2, "is not 0 or 1"),
        ("isFraud", "", "is missing"),
        ("nameDest", "x" * 65, "is over 64 characters"),
    ],
)
@pytest.mark.parametrize("row", [1, 4])
def test_a_bad_value_is_named_with_file_column_and_row(
    tmp_path: Path, column: str, bad: object, words: str, row: int
) -> None:
    values: list[object] = PAYSIM[column].astype(object).tolist()
    values[row - 1] = bad
    message = refusal(lambda: load(paysim(tmp_path, **{column: values}), "paysim"))
    assert f"pay.csv: column '{column}', row {row}:" in message
    assert words in message


def test_a_missing_column_is_named_with_the_choices(tmp_path: Path) -> None:
    PAYSIM.rename(columns={"isFraud": "is_fraud"}).to_csv(tmp_path / "pay.csv", index=False)
    message = refusal(lambda: load(str(tmp_path / "pay.csv"), "paysim"))
    assert "column 'isFraud' is missing; did you mean 'is_fraud'?" in message
    assert "Columns are: step, type, amount" in message


def test_a_column_of_the_wrong_kind_is_refused_whole(tmp_path: Path) -> None:
    path = paysim(tmp_path, "pay.parquet", amount=[[1.0], [2.0], [3.0], [4.0]])
    assert "column 'amount' is of type list" in refusal(lambda: load(path, "paysim"))


def test_parquet_values_are_checked_as_strictly(tmp_path: Path) -> None:
    path = paysim(tmp_path, "pay.parquet", amount=[1.0, math.nan, 2.0, 3.0])
    assert "column 'amount', row 2: is missing" in refusal(lambda: load(path, "paysim"))
    path = paysim(tmp_path, "pay.parquet", isFraud=[1.0, 0.0, 0.5, 0.0])
    assert "column 'isFraud', row 3: '0.5' is not 0 or 1" in refusal(lambda: load(path, "paysim"))


def test_a_file_without_fraud_is_refused_unless_asked_for(tmp_path: Path) -> None:
    path = paysim(tmp_path, isFraud=[0, 0, 0, 0])
    assert "'isFraud' marks none of the 4 rows as fraud" in refusal(lambda: load(path, "paysim"))
    assert len(load(path, "paysim", require_fraud=False)) == 4


def test_files_that_cannot_be_read_are_told_apart(tmp_path: Path) -> None:
    def told(name: str, content: bytes) -> str:
        (tmp_path / name).write_bytes(content)
        return refusal(lambda: load(str(tmp_path / name), "paysim"))

    assert "the file is empty" in told("a.csv", b"")
    assert "no row" in told("b.csv", PAYSIM.head(0).to_csv(index=False).encode())
    assert "no such file" in refusal(lambda: load(str(tmp_path / "absent.csv"), "paysim"))
    assert "cut off" in told("c.parquet", b"")
    (tmp_path / "folder").mkdir()
    assert "holds no .csv" in refusal(lambda: load(str(tmp_path / "folder"), "paysim"))
    whole = Path(paysim(tmp_path, "whole.parquet")).read_bytes()
    for end in (5, len(whole) // 2, len(whole) - 1):
        assert "cut off" in told("d.parquet", whole[:end])
    packed = gzip.compress(PAYSIM.to_csv(index=False).encode() * 50)
    assert "cannot be read" in told("e.csv.gz", packed[: len(packed) // 2])
    assert "stands twice" in told("f.csv", b"step,step\n1,1\n")
    latin = PAYSIM.assign(nameOrig=["Ca", "Cb", "C\xe9", "Cd"]).to_csv(index=False).encode("latin-1")
    assert "cannot be read" in told("g.csv", latin)


def test_a_csv_that_was_cut_off_names_the_row(tmp_path: Path) -> None:
    text = PAYSIM.drop(columns="sample").to_csv(index=False).rstrip("\n")
    (tmp_path / "pay.csv").write_text(text[: text.rindex(",", 0, text.rindex(","))])
    message = refusal(lambda: load(str(tmp_path / "pay.csv"), "paysim"))
    assert "row 4: has 9 fields, the header has 11" in message


def test_a_late_bad_value_in_a_large_csv_still_names_its_row(tmp_path: Path) -> None:
    many = pd.concat([PAYSIM] * 5_000, ignore_index=True).astype({"amount": object})
    many.loc[17_777, "amount"] = "1,5"
    many.to_csv(tmp_path / "pay.csv", index=False)
    message = refusal(lambda: load(str(tmp_path / "pay.csv"), "paysim"))
    assert "column 'amount', row 17778: '1,5' is not a number" in message


def test_an_unknown_format_is_told_the_choices() -> None:
    assert "Choices are: paysim, handbook, csv, synthetic." in refusal(lambda: load("x", "excel"))


# ---- the mapping file ------------------------------------------------------------------------------------------------


def test_any_csv_is_read_through_a_mapping(tmp_path: Path) -> None:
    frame = own(
        tmp_path,
        """
        columns:
          timestamp: when
          amount: Amount
          is_fraud: Class
          customer_id: card
        attributes: ["V*", shop kind]
        """,
    )
    # 09:00, 10:00 and 12:30+02:00 = 10:30
    assert ((frame["time_ms"] // 60_000) % 1440).tolist() == [540, 600, 630]
    assert frame["customer_id"].tolist() == ["008", "007", "007"]
    assert frame["attributes.V1"].tolist() == [2.25, -1.5, 0.0]
    assert frame["attributes.V2"].isna().tolist() == [True, False, False]
    assert frame["attributes.shop kind"].tolist()[:2] == ["crypto", "grocery"]
    assert frame["attributes.shop kind"].isna().tolist() == [False, False, True]
    assert not {"currency", "type", "device_id", "lat"} & set(frame.columns)


def test_values_units_and_other_delimiters_are_translated(tmp_path: Path) -> None:
    theirs = pd.DataFrame(
        {
            "Time": [0, 3600.5],
            "kind": ["purchase", "wire"],
            "eur": [1.0, 2.0],
            "bad": ["no", "yes"],
            "mcc": ["0742", "5411"],
        }
    )
    frame = own(
        tmp_path,
        """
        delimiter: ";"
        columns:
          timestamp: {column: Time, unit: s, origin: 2013-09-01T00:00:00Z}
          type: kind
          amount: eur
          is_fraud: bad
        values:
          type: {purchase: PAYMENT, wire: TRANSFER}
          is_fraud: {yes: 1, no: 0}
        attributes:
          Time: Time
          category: {column: mcc, as: text}
        """,
        theirs,
        sep=";",
    )
    origin = datetime(2013, 9, 1, tzinfo=UTC).timestamp() * 1000
    assert frame["time_ms"].tolist() == [origin, origin + 3_600_500]
    assert frame["type"].tolist() == ["PAYMENT", "TRANSFER"]
    assert frame["is_fraud"].tolist() == [0, 1]
    assert frame["attributes.Time"].tolist() == [0.0, 3600.5]
    assert frame["attributes.category"].tolist() == ["0742", "5411"]


def test_a_date_among_the_attributes_is_text(tmp_path: Path) -> None:
    dated = CSV.assign(born=["1990-01-01", "1991-02-03", "1992-03-04"])
    frame = own(tmp_path, MAPPING + "attributes: [born]\n", dated)
    assert frame["attributes.born"].tolist() == ["1991-02-03", "1990-01-01", "1992-03-04"]


def test_without_a_mapping_the_line_to_begin_with_is_given(tmp_path: Path) -> None:
    CSV.to_csv(tmp_path / "own.csv", index=False)
    message = refusal(lambda: load(str(tmp_path / "own.csv"), "csv"))
    assert "--mapping FILE" in message
    assert "amount: Amount, timestamp: YOUR_TIMESTAMP_COLUMN, is_fraud: Class" in message


@pytest.mark.parametrize(
    "bad", ["-1.5", "2024-13-01", "2024-02-30T00:00:00Z", "20240301", "noon", "1969-12-31", "2200-01-01"]
)
def test_a_broken_timestamp_is_named_with_its_row(tmp_path: Path, bad: str) -> None:
    message = refusal(lambda: own(tmp_path, MAPPING, CSV.assign(when=["2024-03-01", bad, "2024-03-01"])))
    assert f"column 'when', row 2: '{bad}' is no time" in message


def test_a_written_time_format_is_followed(tmp_path: Path) -> None:
    mapping = MAPPING.replace("when", '{column: when, format: "%d/%m/%Y %H:%M"}')
    frame = own(tmp_path, mapping, CSV.assign(when=["03/02/2024 10:30", "01/02/2024 00:00", "02/02/2024 00:00"]))
    assert frame["time_ms"].tolist()[2] == datetime(2024, 2, 3, 10, 30, tzinfo=UTC).timestamp() * 1000


@pytest.mark.parametrize(
    ("mapping", "words"),
    [
        ("columns: {timestamp: when, amount: Amount}", "write `is_fraud: Class`"),
        ("columns: {timestamp: when, is_fraud: Class}", "write `amount: Amount`"),
        ("columns: {amount: Amount, is_fraud: Class}", "write `timestamp: YOUR_TIMESTAMP_COLUMN`"),
        ("columns: {timestamp: when, amount: Amout, is_fraud: Class}", "Write `amount: Amount`"),
        ("columns: {timestamp: when, amuont: Amount, is_fraud: Class}", "Write `amount: Amount`"),
        ("columns: {timestamp: when, step: V1, amount: Amount, is_fraud: Class}", "either timestamp or step"),
        ("colums: {}", "write `columns:`"),
        (MAPPING + "attribute: [V1]", "unknown key 'attribute'"),
        (MAPPING + "attributes: [ShopKind]", "no column 'ShopKind'; did you mean 'shop kind'?"),
        (MAPPING + "attributes: {a: {column: V1, as: colour}}", "text or number"),
        (MAPPING + "values: {type: {a: PAYMENT}}", "a field named under columns"),
        (MAPPING + "delimiter: '||'", "one character"),
        ("columns: {timestamp: {column: when, unit: weeks}, amount: Amount, is_fraud: Class}", "Choices are: ns, us"),
        ("columns: {timestamp: V1, amount: Amount, is_fraud: Class}", "column 'V1', row 1: '-1.5' is no timestamp"),
        ("columns: {timestamp: when, amount: Amount, is_fraud: shop kind}", "`values: {is_fraud: {THEIRS: 1, ...}}`"),
        ("columns: [when", "is not YAML at line"),
    ],
)
def test_a_mapping_error_names_the_line_to_write(tmp_path: Path, mapping: str, words: str) -> None:
    message = refusal(lambda: own(tmp_path, mapping))
    assert words in message


def test_numbers_as_times_need_a_unit(tmp_path: Path) -> None:
    CSV.assign(when=[1, 2, 3]).to_parquet(tmp_path / "own.parquet")
    (tmp_path / "map.yaml").write_text(MAPPING)
    message = refusal(lambda: load(str(tmp_path / "own.parquet"), "csv", mapping=str(tmp_path / "map.yaml")))
    assert "write the mapping line `timestamp: {column: when, unit: s}`" in message


def test_a_transaction_id_names_one_transaction(tmp_path: Path) -> None:
    twice = CSV.assign(id=["a", "b", "a"])
    message = refusal(lambda: own(tmp_path, MAPPING.replace("{", "{transaction_id: id, "), twice))
    assert "column 'id', row 3: 'a' stands already in row 1" in message


def test_a_transaction_id_is_unique_across_the_files_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "map.yaml").write_text(MAPPING.replace("{", "{transaction_id: id, "))
    for name, ids in (("1.csv", ["a", "b", "c"]), ("2.csv", ["d", "b", "e"])):
        CSV.assign(id=ids).to_csv(tmp_path / name, index=False)
    message = refusal(lambda: load(str(tmp_path), "csv", mapping=str(tmp_path / "map.yaml")))
    assert "2.csv" in message
    assert "row 2: 'b' stands already in row 2 of" in message


def test_a_label_is_not_known_before_its_transaction(tmp_path: Path) -> None:
    early = CSV.assign(known=["2024-03-02", "2024-03-02", "2024-02-01"])
    message = refusal(lambda: own(tmp_path, MAPPING.replace("{", "{label_timestamp: known, "), early))
    assert "column 'known', row 3" in message


# ---- properties ------------------------------------------------------------------------------------------------------

amounts = st.integers(0, 10**11).map(lambda cents: cents / 100)
parties = st.one_of(st.none(), st.text("abcXYZ0189-_ é", min_size=1, max_size=12).filter(lambda t: t.strip() == t))
rows = st.fixed_dictionaries(
    {
        "t": st.integers(0, 4_000_000_000_000),
        "a": amounts,
        "c": parties.filter(lambda text: text not in {"nan", "None"}),
        "lat": st.one_of(st.none(), st.floats(-90, 90)),
        "kind": st.one_of(st.none(), st.sampled_from(["PAYMENT", "DEBIT"])),
        "y": st.integers(0, 1),
    }
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=st.lists(rows, min_size=1, max_size=20), parquet=st.booleans())
def test_every_legal_table_comes_back_value_for_value(
    tmp_path: Path, table: list[dict[str, object]], parquet: bool
) -> None:
    source = pd.DataFrame(table, columns=["t", "a", "c", "lat", "kind", "y"])
    source = source.astype({"lat": "float64", "c": "str", "kind": "str"})
    file = tmp_path / ("own.parquet" if parquet else "own.csv")
    source.to_parquet(file) if parquet else source.to_csv(file, index=False)
    (tmp_path / "map.yaml").write_text(
        "columns: {timestamp: {column: t, unit: ms}, amount: a, customer_id: c, lat: lat, type: kind, is_fraud: y}"
    )
    frame = load(str(file), "csv", mapping=str(tmp_path / "map.yaml"), require_fraud=False)
    expected = source.sort_values("t", kind="stable", ignore_index=True)
    assert frame["time_ms"].tolist() == expected["t"].tolist()
    assert frame["amount"].tolist() == expected["a"].tolist()
    np.testing.assert_array_equal(frame["lat"].to_numpy(), expected["lat"].to_numpy())
    for ours, theirs in (("customer_id", "c"), ("type", "kind")):
        pd.testing.assert_series_equal(
            frame[ours].astype("str"), expected[theirs], check_names=False, check_dtype=False
        )
    assert frame["is_fraud"].tolist() == expected["y"].tolist()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(count=st.integers(1, 60), data=st.data())
def test_the_first_bad_row_is_named_wherever_it_is(tmp_path: Path, count: int, data: st.DataObject) -> None:
    bad = data.draw(st.sets(st.integers(1, count), min_size=1))
    values = [-1.0 if row in bad else 1.0 for row in range(1, count + 1)]
    table = pd.DataFrame({"when": "2024-01-01", "Amount": values, "Class": 0})
    assert f"row {min(bad)}:" in refusal(lambda: own(tmp_path, MAPPING, table))


# ---- profile and digest ----------------------------------------------------------------------------------------------


def test_the_profile_is_ready_for_json_and_adds_up(tmp_path: Path) -> None:
    path = paysim(tmp_path, type=["TRANSFER", None, "CASH_OUT", "CASH_IN"])
    profile = describe(load(path, "paysim", legit_weight=3.0))
    json.dumps(profile, allow_nan=False)
    assert (profile["rows"], profile["frauds"], profile["fraud_rate"]) == (4, 2, 0.5)
    assert profile["weighted_fraud_rate"] == 0.25
    assert (profile["first"], profile["last"]) == ("2023-01-01T00:00:00.000Z", "2023-01-01T02:00:00.000Z")
    assert profile["types"]["absent"] == {"rows": 1, "frauds": 0}
    assert profile["types"]["TRANSFER"] == {"rows": 1, "frauds": 1}
    assert profile["missing"]["type"] == 0.25
    assert sum(hour["frauds"] for hour in profile["fraud_by_hour"]) == 2
    assert profile["amount"]["fraud"]["max"] == 181.0
    assert profile["amount"]["legitimate"]["zero_share"] == 0.5


def test_a_profile_without_fraud_says_none_instead_of_inventing(tmp_path: Path) -> None:
    frame = load(paysim(tmp_path, isFraud=[0, 0, 0, 0]), "paysim", require_fraud=False)
    profile = describe(frame)
    assert profile["amount"]["fraud"] is None
    json.dumps(describe(frame.head(0)), allow_nan=False)


def test_the_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    path = paysim(tmp_path)
    assert digest(path) == hashlib.sha256(Path(path).read_bytes()).hexdigest()
    folder = digest(str(tmp_path))
    paysim(tmp_path, amount=[1.0, 2.0, 3.0, 4.0])
    assert digest(str(tmp_path)) != folder


# ---- S3 --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, bytes], None]]:
    """A real S3 server on the loopback, and how to put an object into bucket ``data``."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="data")
        yield lambda key, body: client.put_object(Bucket="data", Key=key, Body=body) and None
    finally:
        server.stop()


@pytest.mark.server
def test_files_and_folders_are_read_from_s3(tmp_path: Path, bucket: Callable[[str, bytes], None]) -> None:
    for name in ("pay.csv", "pay.parquet", "pay.csv.gz"):
        bucket(f"in/{name}", Path(paysim(tmp_path, name)).read_bytes())
        pd.testing.assert_frame_equal(
            load(f"s3://data/in/{name}", "paysim"), load(str(tmp_path / name), "paysim"), check_exact=True
        )
        assert digest(f"s3://data/in/{name}") == digest(str(tmp_path / name))
    assert len(load("s3://data/in/", "paysim")) == 12
    assert "no such file" in refusal(lambda: load("s3://data/in/absent.csv", "paysim"))
    assert "s3://BUCKET/FILE" in refusal(lambda: load("s3://", "paysim"))


# ---- the real files --------------------------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "format", "count", "frauds"),
    [
        ("kaggle_paysim_dev.parquet", "paysim", 152_720, 5_490),
        ("paysim_v1_dev.parquet", "paysim", 1_167_742, 1_844),
        ("handbook_raw_dev_20180401_20180814.parquet", "handbook", 1_303_778, 10_659),
    ],
)
def test_the_measuring_files_load_whole(measuring_data: Path, name: str, format: str, count: int, frauds: int) -> None:
    frame = load(str(measuring_data / name), format)
    assert (len(frame), int(frame["is_fraud"].sum())) == (count, frauds)
    assert frame["time_ms"].is_monotonic_increasing
    json.dumps(describe(frame), allow_nan=False)


@pytest.mark.data
def test_the_case_control_rows_stand_for_the_true_prevalence(measuring_data: Path) -> None:
    path = str(measuring_data / "kaggle_paysim_dev.parquet")
    frame = load(path, "paysim", where=["sample=case_control"], legit_weight=256.36)
    assert len(frame) == 22_072
    assert describe(frame)["weighted_fraud_rate"] == pytest.approx(0.00129, abs=1e-5)


# ---- the guide -------------------------------------------------------------------------------------------------------


def test_the_guides_mapping_reads_the_public_card_data(tmp_path: Path) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    mapping = guide.split("```yaml\n")[1].split("```")[0]
    card = pd.DataFrame({"Time": [0, 1], **{f"V{i}": [0.5, -0.5] for i in range(1, 29)}, "Amount": [149.62, 1.0]})
    frame = own(tmp_path, mapping, card.assign(Class=[0, 1]))
    assert [name for name in frame if name.startswith("attributes.")] == [
        *(f"attributes.V{i}" for i in range(1, 29)),
        "attributes.Time",
    ]
    assert frame["time_ms"].diff().tolist()[1] == 1_000


@pytest.mark.server
def test_a_file_on_s3_is_copied_whole_and_once(tmp_path: Path, bucket: Callable[[str, bytes], None]) -> None:
    for name in ("a.csv", "b.parquet"):
        bucket(f"large/{name}", Path(paysim(tmp_path, name)).read_bytes())
    here = fetch("s3://data/large/", tmp_path / "copy")
    local = [piece for name in ("a.csv", "b.parquet") for piece in stream(str(tmp_path / name), "paysim")]
    assert digest(f"{here}/000001-b.parquet") == digest(str(tmp_path / "b.parquet"))
    pd.testing.assert_frame_equal(pd.concat(stream(here, "paysim")), pd.concat(local))
    before = (tmp_path / "copy" / "000000-a.csv").stat().st_mtime_ns
    assert fetch("s3://data/large/", tmp_path / "copy") == here
    assert (tmp_path / "copy" / "000000-a.csv").stat().st_mtime_ns == before
    assert fetch("s3://data/large/a.csv", tmp_path / "one") == str(tmp_path / "one" / "000000-a.csv")
    seen = identity("s3://data/large/a.csv")
    bucket("large/a.csv", Path(paysim(tmp_path, "c.csv", amount=[1.0, 2.0, 3.0, 4.0])).read_bytes())
    assert identity("s3://data/large/a.csv") != seen
    assert "no such file" in refusal(lambda: fetch("s3://data/large/absent.csv", tmp_path / "none"))


# ---- a piece at a time -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pay.csv", "pay.csv.gz", "pay.parquet"])
@pytest.mark.parametrize("rows", [1, 3, 4, 100])
def test_the_pieces_are_the_file_in_its_own_order_without_labels(tmp_path: Path, name: str, rows: int) -> None:
    file = paysim(tmp_path, name)
    pieces = list(stream(file, "paysim", rows=rows))
    assert [len(piece) for piece in pieces] == [rows] * (4 // rows) + [4 % rows] * (4 % rows > 0)
    whole = pd.concat(pieces, ignore_index=True)
    assert whole["customer_id"].tolist() == ["C1", "C2", "C3", "C4"]
    loaded = load(file, "paysim").drop(columns=["is_fraud", "weight"])
    pd.testing.assert_frame_equal(whole.sort_values("time_ms", kind="stable", ignore_index=True), loaded)
    rest = list(stream(file, "paysim", rows=rows, skip=1))
    assert len(rest) == len(pieces) - 1
    assert count(file) == 4


def test_labels_need_not_be_there_nor_right(tmp_path: Path) -> None:
    for changes in ({"isFraud": ["?", "", "no", "2"]}, {}):
        file = tmp_path / f"{len(changes)}.csv"
        frame = PAYSIM.assign(**changes) if changes else PAYSIM.drop(columns=["isFraud"])
        frame.to_csv(file, index=False)
        [piece] = stream(str(file), "paysim")
        assert len(piece) == 4
        assert "is_fraud" not in piece


def test_a_piece_may_hold_none_of_the_rows_that_are_kept(tmp_path: Path) -> None:
    pieces = list(stream(paysim(tmp_path), "paysim", where=["sample=c"], rows=2))
    assert [len(piece) for piece in pieces] == [0, 1]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("2,TRANSFER,oops,C1,1,0,C2,0,1,0,0,a", "row 5001: 'oops' is not a number"),
        ("2,TRANSFER,-1,C1,1,0,C2,0,1,0,0,a", "row 5001: '-1.0' is negative"),
        ("2,TRANSFER,1,C1", "row 5001: has 4 fields, the header has 12"),
    ],
)
def test_a_wrong_row_far_down_is_named(tmp_path: Path, row: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "_BLOCK", 4_096)
    file = tmp_path / "long.csv"
    pd.concat([PAYSIM] * 1_250).to_csv(file, index=False)
    with file.open("a") as end:
        end.write(f"{row}\n")
    assert words in refusal(lambda: list(stream(str(file), "paysim", rows=700)))


def test_a_line_end_within_a_value_is_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrow takes quoted line ends only where it reads slowly; no row may be lost or doubled where it changes over."""
    monkeypatch.setattr(dataset, "_BLOCK", 4_096)
    shops = [f"shop {i}" if i % 97 else f"two\nlines {i}" for i in range(3_000)]
    frame = pd.DataFrame({"when": "2024-03-01T10:00:00Z", "Amount": np.arange(3_000.0), "shop": shops})
    frame.to_csv(tmp_path / "own.csv", index=False)
    (tmp_path / "map.yaml").write_text("columns: {timestamp: when, amount: Amount}\nattributes: [shop]\n")
    pieces = stream(str(tmp_path / "own.csv"), "csv", mapping=str(tmp_path / "map.yaml"), rows=500)
    whole = pd.concat(pieces, ignore_index=True)
    assert whole["amount"].tolist() == list(np.arange(3_000.0))
    assert whole["attributes.shop"].tolist() == shops


def test_what_an_attribute_is_at_the_beginning_it_is_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "_BLOCK", 4_096)
    codes = [str(i) for i in range(2_000)] + ["x7"]
    frame = pd.DataFrame({"when": "2024-03-01T10:00:00Z", "Amount": 1.0, "code": codes})
    frame.to_csv(tmp_path / "own.csv", index=False)
    plain = tmp_path / "map.yaml"
    plain.write_text("columns: {timestamp: when, amount: Amount}\nattributes: [code]\n")

    def read(**how: object) -> list[object]:
        pieces = stream(str(tmp_path / "own.csv"), "csv", mapping=str(plain), **how)  # type: ignore[arg-type]
        return list(pd.concat(pieces)["attributes.code"])

    assert "row 2001: 'x7' is not a number" in refusal(read)
    assert read(kinds={"code": "text"}) == codes
    plain.write_text("columns: {timestamp: when, amount: Amount}\nattributes: {code: {column: code, as: text}}\n")
    assert read(kinds={"code": "number"}) == codes
