import hashlib
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraud_api_lambda.schemas import parse_transaction
from training.dataset import describe, load
from training.synthetic import SCENARIOS, generate, write

DAY_MS = 86_400_000
START_MS = int(datetime(2025, 1, 1, tzinfo=UTC).timestamp() * 1000)


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return generate(60_000, 7)


def of(frame: pd.DataFrame, scenario: str) -> pd.DataFrame:
    """The scenario's rows that name both parties."""
    return frame[frame["fraud_scenario"] == scenario].dropna(subset=["customer_id", "counterparty_id"])


def hour(frame: pd.DataFrame) -> "pd.Series[int]":
    return frame["time_ms"] // 3_600_000 % 24


def average_7d(frame: pd.DataFrame) -> "pd.Series[float]":
    """Each row's mean of the same customer's amounts of the seven days before; NaN without any."""
    known = frame.dropna(subset=["customer_id"]).sort_values(["customer_id", "time_ms"], kind="stable")
    dated = known.set_index(pd.to_datetime(known["time_ms"], unit="ms"))
    means = dated.groupby("customer_id")["amount"].rolling("7D", closed="left").mean()
    return pd.Series(means.to_numpy(), index=known.index).reindex(frame.index)


# ---- the same seed, the same bytes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
def test_the_same_seed_gives_the_same_bytes_in_another_process(tmp_path: Path, name: str) -> None:
    here, there = tmp_path / "here" / name, tmp_path / "there" / name
    write(generate(3_000, 11), here)
    code = (
        "import pathlib, sys; from training.synthetic import generate, write; "
        "write(generate(3_000, 11), pathlib.Path(sys.argv[1]))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "5"}
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code, str(there)], check=True, cwd=root, env=environment)
    assert hashlib.sha256(here.read_bytes()).digest() == hashlib.sha256(there.read_bytes()).digest()
    assert not generate(3_000, 12).equals(generate(3_000, 11))


@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
def test_what_is_written_is_read_back_to_the_last_bit(tmp_path: Path, name: str) -> None:
    made = generate(4_000, 3)
    write(made, tmp_path / name)
    read = load(str(tmp_path / name), "synthetic")
    pd.testing.assert_frame_equal(read[sorted(read)], made[sorted(made)], check_exact=True)


def test_two_hundred_thousand_rows_take_less_than_ten_seconds(tmp_path: Path) -> None:
    begun = time.process_time()
    write(generate(200_000, 1), tmp_path / "big.parquet")
    assert time.process_time() - begun < 10


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    out.write_text("old")
    made = generate(500, 1)
    made.loc[400, "customer_id"] = 'C"1'
    with pytest.raises(pa.ArrowException):
        write(made, out)
    assert [file.name for file in tmp_path.iterdir()] == ["out.csv"]
    assert out.read_text() == "old"
    with pytest.raises(ValueError, match=r"Choices are: .csv, .parquet"):
        write(made, tmp_path / "out.xlsx")


# ---- the frame -------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(100, 1_500),
    seed=st.integers(0, 2**40),
    days=st.integers(1, 60),
    scenarios=st.one_of(st.none(), st.sets(st.sampled_from(sorted(SCENARIOS)))),
    share=st.sampled_from([0.0, 0.01, 0.2]),
)
def test_any_world_is_whole(rows: int, seed: int, days: int, scenarios: set[str] | None, share: float) -> None:
    made = generate(rows, seed, days=days, scenarios=scenarios, fraud_share=share)
    assert len(made) == rows
    assert made["is_fraud"].sum() == (0 if scenarios == set() else np.rint(rows * share))
    assert made["time_ms"].is_monotonic_increasing
    assert made["time_ms"].between(START_MS, START_MS + days * DAY_MS - 1).all()
    assert made["transaction_id"].is_unique
    assert (made["label_ms"] > made["time_ms"]).all()
    assert set(made["fraud_scenario"].dropna()) <= set(SCENARIOS if scenarios is None else scenarios)
    assert ((made["is_fraud"] == 1) == made["fraud_scenario"].notna()).all()
    money = made[["amount", "oldbalanceOrg", "newbalanceOrig", "oldbalanceDest", "newbalanceDest"]]
    assert not (money < 0).any().any()


def test_every_row_is_a_body_the_service_takes(tmp_path: Path) -> None:
    write(generate(1_000, 5), tmp_path / "out.csv")
    table = pd.read_csv(tmp_path / "out.csv")
    assert list(table.columns[-3:]) == ["is_fraud", "fraud_scenario", "label_timestamp"]
    for row in table.iloc[:, :-3].to_dict("records"):
        body = {name: value for name, value in row.items() if not pd.isna(value)}
        assert parse_transaction(body).amount == body["amount"]


def test_the_default_world_has_one_percent_fraud_of_every_scenario(frame: pd.DataFrame) -> None:
    assert len(SCENARIOS) >= 6
    counts = frame["fraud_scenario"].value_counts()
    assert frame["is_fraud"].mean() == 0.01
    for name, share in SCENARIOS.items():
        assert counts[name] == pytest.approx(600 * share, abs=1)
    assert describe(frame)["fraud_scenarios"] == {name: int(counts[name]) for name in sorted(SCENARIOS)}


def test_balances_move_by_the_amount(frame: pd.DataFrame) -> None:
    cents = (frame[["amount", "oldbalanceOrg", "newbalanceOrig", "oldbalanceDest", "newbalanceDest"]] * 100).round()
    signed = cents["amount"].where(frame["type"] == "CASH_IN", -cents["amount"])
    known = cents["oldbalanceOrg"].notna() & frame["type"].notna()
    assert (cents["oldbalanceOrg"] + signed)[known].equals(cents["newbalanceOrig"][known])
    known = cents["oldbalanceDest"].notna() & frame["type"].notna()
    assert (cents["oldbalanceDest"] - signed)[known].equals(cents["newbalanceDest"][known])


def test_each_balance_goes_on_where_the_last_one_ended(frame: pd.DataFrame) -> None:
    sides = [
        frame[["time_ms", party, old, new]].set_axis(["time_ms", "party", "old", "new"], axis=1)
        for party, old, new in (
            ("customer_id", "oldbalanceOrg", "newbalanceOrig"),
            ("counterparty_id", "oldbalanceDest", "newbalanceDest"),
        )
    ]
    chain = pd.concat(sides).dropna(subset=["party"]).sort_values(["party", "time_ms"], kind="stable")
    before = chain.groupby("party")["new"].shift()
    known = before.notna() & chain["old"].notna()
    assert known.sum() > 30_000
    # Not all: a row whose id is absent moved the money of an account nobody can name.
    assert (before[known] == chain["old"][known]).mean() > 0.98


def test_payments_have_no_balance_on_the_merchants_side(frame: pd.DataFrame) -> None:
    assert frame["oldbalanceDest"][frame["type"].isin(["PAYMENT", "DEBIT"])].isna().all()
    assert frame["oldbalanceDest"][frame["type"] == "TRANSFER"].notna().mean() > 0.8


def test_optional_fields_are_absent_alike_for_fraud_and_others() -> None:
    made = generate(150_000, 2)
    paid = made[made["type"] == "PAYMENT"]
    fraud = paid["is_fraud"] == 1
    for name in ("oldbalanceOrg", "lat", "customer_id", "counterparty_id"):
        absent = paid[name].isna()
        assert absent.any()
        assert absent[fraud].mean() == pytest.approx(absent[~fraud].mean(), abs=0.04)
    assert made["type"].isna()[made["is_fraud"] == 1].mean() == pytest.approx(0.04, abs=0.02)


def test_customers_keep_to_their_habits(frame: pd.DataFrame) -> None:
    honest = frame[(frame["is_fraud"] == 0) & (frame["type"] == "PAYMENT")].dropna(subset=["customer_id"])
    busy = honest[honest.groupby("customer_id")["amount"].transform("size") >= 20]
    by_customer = busy.groupby("customer_id")
    # The customer says more about an amount than chance does, and the same for hour, place and merchant.
    logs = np.log(busy["amount"].clip(lower=1))
    assert logs.groupby(busy["customer_id"]).std().median() < 0.8 * logs.std()
    assert by_customer["lat"].std().median() < 0.2 * busy["lat"].std()
    repeats = by_customer["counterparty_id"].agg(lambda ids: ids.duplicated().mean())
    assert repeats.median() > 0.4
    assert by_customer["device_id"].nunique().median() <= 3


# ---- the scenarios ---------------------------------------------------------------------------------------------------


def test_card_testing_is_a_burst_of_small_payments(frame: pd.DataFrame) -> None:
    rows = of(frame, "card_testing")
    bursts = rows.groupby("customer_id").filter(lambda group: len(group) >= 4).groupby("customer_id")
    assert bursts.ngroups >= 2
    assert (rows["amount"] < 10).mean() > 0.75
    assert ((bursts["time_ms"].max() - bursts["time_ms"].min()) < 20 * 60_000).mean() > 0.7


def test_a_drain_empties_the_account_and_the_mule_takes_the_cash(frame: pd.DataFrame) -> None:
    rows = of(frame, "drain_cash_out")
    moved, drawn = rows[rows["type"] == "TRANSFER"], rows[rows["type"] == "CASH_OUT"]
    assert (moved["amount"] / moved["oldbalanceOrg"]).median() > 0.7
    assert drawn["customer_id"].isin(moved["counterparty_id"]).mean() > 0.9
    sent = moved.groupby("counterparty_id")["amount"].sum()
    drawn_by = drawn.groupby("customer_id")["amount"].sum()
    assert (drawn_by / sent).median() == pytest.approx(0.9, abs=0.15)


def test_a_drained_customer_sends_nothing_afterwards(frame: pd.DataFrame) -> None:
    moved = of(frame, "drain_cash_out").query("type == 'TRANSFER'").groupby("customer_id")["time_ms"].max()
    honest = frame[frame["is_fraud"] == 0]
    last = honest.groupby("customer_id")["time_ms"].max().reindex(moved.index)
    assert (last.fillna(0) <= moved).all()


def test_a_stolen_card_is_used_far_from_home(frame: pd.DataFrame) -> None:
    rows = of(frame, "stolen_card_abroad").dropna(subset=["lat"])
    home = frame[frame["is_fraud"] == 0].groupby("customer_id")[["lat", "long"]].median()
    home = home.reindex(rows["customer_id"])
    here, there = np.radians(rows[["lat", "long"]].to_numpy()), np.radians(home.to_numpy())
    cosine = np.sin(here[:, 0]) * np.sin(there[:, 0])
    cosine += np.cos(here[:, 0]) * np.cos(there[:, 0]) * np.cos(here[:, 1] - there[:, 1])
    far = 6371 * np.arccos(np.clip(cosine, -1, 1)) > 1_900
    assert far[~np.isnan(cosine)].mean() > 0.95
    assert rows["device_id"].isna().all()


def test_a_night_spree_is_large_and_at_night(frame: pd.DataFrame) -> None:
    rows = of(frame, "night_spree")
    assert (hour(rows) < 6).all()
    usual = frame[frame["is_fraud"] == 0].groupby("customer_id")["amount"].median().reindex(rows["customer_id"])
    assert (rows["amount"].to_numpy() / usual.to_numpy() > 3).mean() > 0.8


def test_a_mule_is_paid_by_many_who_never_paid_it_before() -> None:
    made = generate(100_000, 3)
    rows = of(made, "mule_fan_in")
    paid = rows[rows["type"] == "TRANSFER"]
    assert (paid.groupby("counterparty_id")["customer_id"].nunique() >= 5).mean() > 0.6
    honest = made[made["is_fraud"] == 0]
    before = set(zip(honest["customer_id"], honest["counterparty_id"], strict=True))
    assert (
        np.mean([pair not in before for pair in zip(paid["customer_id"], paid["counterparty_id"], strict=True)]) > 0.9
    )


def test_a_slow_takeover_is_small_and_takes_weeks() -> None:
    made = generate(100_000, 3)
    rows = of(made, "slow_takeover")
    usual = made[made["is_fraud"] == 0].groupby("customer_id")["amount"].median().reindex(rows["customer_id"])
    assert (rows["amount"].to_numpy() < 1.2 * usual.to_numpy()).mean() > 0.9
    taken = rows.groupby("customer_id")["time_ms"].agg(["min", "max", "size"]).query("size >= 6")
    assert ((taken["max"] - taken["min"]) / DAY_MS).median() > 10


def test_a_compromised_merchant_robs_many_cards_in_about_a_week() -> None:
    rows = of(generate(100_000, 3), "compromised_merchant")
    robbed = rows.groupby("counterparty_id").agg(
        cards=("customer_id", "nunique"), first=("time_ms", "min"), last=("time_ms", "max")
    )
    assert (robbed["cards"] >= 8).mean() > 0.6
    assert ((robbed["last"] - robbed["first"]) / DAY_MS).median() < 10


def test_scenarios_can_be_chosen_and_keep_the_share() -> None:
    made = generate(5_000, 1, scenarios=["night_spree", "card_testing"])
    assert set(made["fraud_scenario"].dropna()) == {"night_spree", "card_testing"}
    assert made["is_fraud"].sum() == 50


def test_a_scenario_can_begin_later_and_leaves_the_others_as_they_were() -> None:
    always, later = generate(20_000, 4), generate(20_000, 4, scenario_start={"mule_fan_in": 60})
    fan_in = later[later["fraud_scenario"] == "mule_fan_in"]
    assert len(fan_in) == pytest.approx(200 * SCENARIOS["mule_fan_in"] / 3, abs=1)
    assert fan_in["time_ms"].min() >= START_MS + 60 * DAY_MS
    for name in set(SCENARIOS) - {"mule_fan_in"}:
        times = [made.loc[made["fraud_scenario"] == name, "time_ms"].tolist() for made in (always, later)]
        assert times[0] == times[1]


def test_a_scenario_can_have_another_share_and_the_others_keep_theirs_among_themselves() -> None:
    made = generate(40_000, 4, fraud_share=0.05, scenario_share={"mule_fan_in": 0.5})
    counts = made["fraud_scenario"].value_counts()
    assert counts.sum() == 2_000
    assert counts["mule_fan_in"] == 1_000
    rest = 1 - SCENARIOS["mule_fan_in"]
    for name in set(SCENARIOS) - {"mule_fan_in"}:
        assert counts[name] == pytest.approx(1_000 * SCENARIOS[name] / rest, abs=1)
    alone = generate(2_000, 4, scenarios=["night_spree", "card_testing"], scenario_share={"night_spree": 1.0})
    assert set(alone["fraud_scenario"].dropna()) == {"night_spree"}


def test_instant_transfers_change_what_private_customers_do_from_their_day_on_and_nothing_before() -> None:
    plain, made = (generate(60_000, 4, instant_start=day) for day in (None, 45))
    begin = START_MS + 45 * DAY_MS
    shares = [
        frame.loc[late, "type"].value_counts(normalize=True)
        for frame in (plain, made)
        for late in (frame["time_ms"] < begin, frame["time_ms"] >= begin)
    ]
    for kind in ("PAYMENT", "TRANSFER", "DEBIT"):
        assert shares[2][kind] == pytest.approx(shares[0][kind], abs=0.003)
    assert shares[3]["TRANSFER"] > 2 * shares[1]["TRANSFER"]
    assert shares[3]["PAYMENT"] < 0.75 * shares[1]["PAYMENT"]
    assert shares[3]["DEBIT"] == pytest.approx(shares[1]["DEBIT"], abs=0.01)
    frauds = [frame.loc[frame["is_fraud"] == 1, ["time_ms", "fraud_scenario"]].to_numpy() for frame in (plain, made)]
    assert (frauds[0] == frauds[1]).all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"scenario_share": {"phishing": 0.3}}, "Unknown fraud scenario 'phishing'"),
        ({"scenario_share": {"night_spree": 1.1}}, "together at most 1"),
        ({"scenario_share": {"night_spree": -0.1}}, "not below 0"),
        ({"scenarios": ["card_testing"], "scenario_share": {"night_spree": 0.1}}, "Shares are of chosen scenarios"),
        ({"instant_start": 90}, "a day from 0 to 89"),
        ({"scenarios": ["phishing"]}, "Unknown fraud scenario 'phishing'. Choices are: card_testing"),
        ({"scenario_start": {"phishing": 3}}, "Unknown fraud scenario 'phishing'"),
        ({"scenario_start": {"night_spree": 90}}, "a day from 0 to 89"),
        ({"rows": 99}, "at least 100 rows"),
        ({"fraud_share": 0.7}, "fraud share from 0 to 0.5"),
    ],
)
def test_arguments_out_of_range_are_told_the_choices(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        generate(**({"rows": 500, "seed": 1} | arguments))  # type: ignore[arg-type]


# ---- what the default rules and models will meet ---------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "seed"), [(60_000, 7), (60_000, 1), (20_000, 42)])
def test_the_default_rules_hit_far_less_than_one_percent_of_honest_rows(rows: int, seed: int) -> None:
    made = generate(rows, seed)
    honest = made["is_fraud"] == 0
    average = average_7d(made)
    # With and without history: the service fills a missing average with the population's.
    for known in (average, average.fillna(average.mean())):
        assert (made["amount"] > 3 * known)[honest].mean() < 0.0075
    night = (hour(made) < 6) & (made["amount"] > 2_000)
    assert night[honest].mean() < 0.002
    assert night[~honest].mean() > 0.01


def test_a_first_payment_is_judged_by_a_population_that_makes_1200_usual_and_5500_not(frame: pd.DataFrame) -> None:
    population = average_7d(frame).mean()
    assert 1_200 <= 3 * population < 5_500
    assert frame["amount"][frame["is_fraud"] == 0].median() < 300


def test_one_transaction_alone_tells_much_of_the_fraud_but_not_all(frame: pd.DataFrame) -> None:
    import xgboost
    from sklearn.metrics import average_precision_score

    table = pd.DataFrame(
        {
            "amount": frame["amount"],
            "type": frame["type"].cat.codes,
            "before": frame["oldbalanceOrg"],
            "there": frame["oldbalanceDest"],
            "share": frame["amount"] / (frame["oldbalanceOrg"] + 1),
            "hour": hour(frame),
        }
    )
    cut = 40_000
    model = xgboost.XGBClassifier(n_estimators=120, max_depth=4, learning_rate=0.1, n_jobs=1)
    model.fit(table[:cut], frame["is_fraud"][:cut])
    scores = model.predict_proba(table[cut:])[:, 1]
    assert 0.4 < average_precision_score(frame["is_fraud"][cut:], scores) < 0.85


def test_a_steady_world_is_the_same_but_for_balances_that_neither_grow_nor_run_down() -> None:
    plain, steady = (generate(30_000, 5, steady=flag) for flag in (False, True))
    money = ["oldbalanceOrg", "newbalanceOrig", "oldbalanceDest", "newbalanceDest"]
    drained = plain["fraud_scenario"] == "drain_cash_out"
    emptied = plain["amount"] != steady["amount"]
    assert plain.drop(columns=[*money, "amount"]).equals(steady.drop(columns=[*money, "amount"]))
    # An account's owner may close it, too: those amounts are of the balance as well.
    assert emptied.mean() < 0.01
    assert drained[emptied].mean() > 0.8
    assert (steady[money].min() >= 0).all()
    cents = (steady[["amount", "oldbalanceOrg", "newbalanceOrig"]] * 100).round()
    signed = cents["amount"].where(steady["type"] == "CASH_IN", -cents["amount"])
    known = cents["oldbalanceOrg"].notna() & steady["type"].notna()
    assert (cents["oldbalanceOrg"] + signed)[known].equals(cents["newbalanceOrig"][known])
    third = len(steady) // 3
    for made, holds in ((plain, False), (steady, True)):
        early, late = (part["oldbalanceOrg"].quantile(0.95) for part in (made.iloc[:third], made.iloc[-third:]))
        assert bool(0.8 < late / early < 1.25) is holds
