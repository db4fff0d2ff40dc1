"""Drift: figures against other people's formulas, the promise about false alarms, every kind of change named."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fraud_api_lambda import drift
from fraud_api_lambda.bundle import open_folder, seal
from fraud_api_lambda.decision_log import DecisionLog, Label, Record, Stored, open_decision_log
from fraud_api_lambda.drift import (
    Bounds,
    DriftReport,
    DriftWatch,
    Reference,
    chi_square_above,
    compare,
    ks,
    make_reference,
    measure,
    psi,
    read_reference,
    student_beyond,
    variables,
)
from fraud_api_lambda.errors import BundleRefused, NotServed, StoreUnavailable
from fraud_api_lambda.features import Attribute, FeatureSet
from fraud_api_lambda.metrics import Metrics
from fraud_api_lambda.model import feature_set
from tests.fraud_api_lambda.lines import Lines
from tests.fraud_api_lambda.making import KEY, TRUSTED, small_files, small_forest, small_manifest

HOUR, DAY = 3_600_000, 86_400_000
START = 1_767_225_600_000  # 2026-01-01T00:00:00Z, a Thursday
FEATURES = FeatureSet(
    attributes=(Attribute("channel", "text", ("app", "web")), Attribute("age", "number")),
    picked=(
        *("amount", "is_payment", "is_transfer", "hour_of_day", "day_of_week", "is_night", "latitude", "count_24h"),
        *("counterparty_age_days", "attributes.channel=app", "attributes.age"),
    ),
)
Change = Callable[[dict[str, Any], np.random.Generator], None]


def world(n: int, days: float, seed: int, *, start: int = START, change: Change | None = None) -> dict[str, Any]:
    """``n`` transactions of ``days`` from ``start`` by column, a score, and whether each was a fraud."""
    rng = np.random.default_rng(seed)
    time_ms = np.sort(start + (rng.random(n) * days * DAY).astype(np.int64))
    hour = rng.normal(14, 4, n) % 24
    time_ms = np.sort(time_ms // DAY * DAY + (hour * HOUR).astype(np.int64))
    kind = rng.choice(3, n, p=[0.7, 0.2, 0.1])
    channel = rng.choice(2, n, p=[0.6, 0.4])
    made: dict[str, Any] = {
        "time_ms": time_ms,
        "received_ms": time_ms.copy(),
        "amount": rng.lognormal(4, 1, n),
        "hour_of_day": (time_ms // HOUR % 24).astype(float),
        "day_of_week": ((time_ms // DAY + 3) % 7).astype(float),
        "latitude": np.where(rng.random(n) < 0.1, np.nan, rng.normal(40, 10, n)),
        "count_24h": rng.poisson(0.8, n).astype(float),
        "counterparty_age_days": (time_ms - START) / DAY + 30 + rng.random(n),
        "attributes.age": rng.integers(18, 90, n).astype(float),
        "score": rng.beta(0.3, 20, n),
    }
    made["is_night"] = (made["hour_of_day"] < 6).astype(float)
    for at, name in enumerate(("is_payment", "is_transfer", "is_debit")):
        made[name] = (kind == at).astype(float)
    made["is_cash_in"] = made["is_cash_out"] = np.zeros(n)
    for at, name in enumerate(("app", "web")):
        made[f"attributes.channel={name}"] = (channel == at).astype(float)
    if change is not None:
        change(made, rng)
    made["fraud"] = rng.random(n) < made.pop("truth", made["score"])
    return made


def columns_of(made: Mapping[str, Any]) -> Any:
    nothing = np.full(len(made["time_ms"]), np.nan)
    return np.column_stack([made.get(name, nothing) for name in FEATURES.columns])


def reference_file(made: Mapping[str, Any], weight: Any = None) -> bytes:
    weight = np.ones(len(made["time_ms"])) if weight is None else weight
    told = make_reference(columns_of(made), made["score"], made["time_ms"], weight, FEATURES)
    return json.dumps(told, allow_nan=False).encode()


def manifest_with_features(version: str = "v1") -> Any:
    return small_manifest(
        version,
        features=[{"name": name, "version": 1} for name in FEATURES.picked],
        attributes=[{"name": a.name, "kind": a.kind, "levels": a.levels} for a in FEATURES.attributes],
        label_delay_ms=7 * DAY,
    )


def bundle_with(folder: Path, reference: bytes) -> Any:
    """A sealed bundle with this reference. (Its forest is of another width: nobody scores with it here.)"""
    manifest = manifest_with_features()
    files = {**small_files(small_manifest("v1"), small_forest()), "reference.json": reference}
    return open_folder(seal(folder, manifest, files, KEY), TRUSTED)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """Of 28 days and 40,000 transactions."""
    bundle = bundle_with(tmp_path_factory.mktemp("reference"), reference_file(world(40_000, 28, 1)))
    return read_reference(bundle, feature_set(bundle.manifest))


def decided(made: Mapping[str, Any], labelled_by_ms: int | None = None, **changes: Any) -> Iterator[Stored]:
    """The transactions as the log holds them: missing features left out. Frauds are labelled three days later."""
    columns = columns_of(made)
    for at, row in enumerate(columns.tolist()):
        features = {name: value for name, value in zip(FEATURES.columns, row, strict=True) if value == value}
        time_ms, fraud = int(made["time_ms"][at]), bool(made["fraud"][at])
        plain = Record(
            transaction_id=f"t{at}", digest=bytes(32), answer=b"{}", received_ms=int(made["received_ms"][at]),
            time_ms=time_ms, customer_id="C", counterparty_id=None, device_id=None, amount_minor=1, outcome="approve",
            decided_by="model", probability=float(made["score"][at]), rules=(), model_version="v1", rules_version="r",
            latency_us=1, test=False, degraded=(), document=json.dumps({"features": features}),
        )  # fmt: skip
        record = replace(plain, **changes)
        told = time_ms + 3 * DAY
        known = labelled_by_ms is not None and fraud and told <= labelled_by_ms
        yield Stored(record, Label(record.transaction_id, True, "chargeback", told, told) if known else None)


def look(
    reference: Reference, made: Mapping[str, Any], due: Any = (), history: int = 90 * DAY, **changes: Any
) -> DriftReport:
    return compare(reference, decided(made, **changes), due, since_ms=START, until_ms=START + DAY, history_ms=history)


# --- the formulas ----------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(50, 5_000), st.integers(50, 5_000)), min_size=2, max_size=12))
def test_psi_is_the_formula_of_the_books(pairs: list[tuple[int, int]]) -> None:
    theirs, ours = np.array(pairs, float).T
    p, q = ours / ours.sum(), theirs / theirs.sum()
    # Jeffreys' divergence: entropy of one against the other, both ways.
    assert psi(theirs, ours) == pytest.approx(stats.entropy(p, q) + stats.entropy(q, p), rel=0.05, abs=2e-3)


def test_psi_is_finite_where_bins_are_empty_and_says_nothing_of_what_nobody_has() -> None:
    assert psi(np.array([100.0, 0, 900]), np.array([50.0, 0, 450])) == pytest.approx(0, abs=1e-4)
    assert 0.1 < psi(np.array([1e4, 0.0]), np.array([950.0, 50])) < 1


@given(st.integers(0, 2**32 - 1), st.floats(-1, 1), st.floats(0.5, 2))
@settings(max_examples=30)
def test_ks_is_scipys_within_what_the_reference_has_between_two_edges(seed: int, shift: float, scale: float) -> None:
    rng = np.random.default_rng(seed)
    theirs, ours = rng.normal(0, 1, 4_000), rng.normal(shift, scale, 900)
    edges, upper = drift._edges(theirs, np.ones(len(theirs)))
    bins = drift._number_bins(edges, upper)
    counted = [np.bincount(bins.of(x[:, None]), minlength=bins.count).astype(float) for x in (theirs, ours)]
    exact = stats.ks_2samp(theirs, ours).statistic
    found = ks(*counted)
    assert found is not None
    assert exact - 1 / 40 - 1e-9 <= found <= exact + 1e-9


def test_ks_of_few_values_is_exact_and_leaves_what_is_missing_out() -> None:
    rng = np.random.default_rng(3)
    theirs, ours = rng.poisson(1, 3_000).astype(float), rng.poisson(1.6, 800).astype(float)
    edges, upper = drift._edges(theirs, np.ones(len(theirs)))
    bins = drift._number_bins(edges, upper)
    with_gaps = np.concatenate((ours, np.full(500, np.nan)))
    counted = [np.bincount(bins.of(x[:, None]), minlength=bins.count).astype(float) for x in (theirs, with_gaps)]
    assert ks(*counted) == pytest.approx(stats.ks_2samp(theirs, ours).statistic, abs=1e-12)
    assert ks(counted[0], np.array([0.0] * (bins.count - 1) + [9.0])) is None


@pytest.mark.parametrize("freedom", [1, 2, 5, 10, 30])
@pytest.mark.parametrize("alpha", [0.05, 1e-3, 4e-6])
def test_the_bound_of_chi_square_is_scipys_or_a_little_more(freedom: int, alpha: float) -> None:
    exact = stats.chi2.isf(alpha, freedom)
    assert 0.97 * exact < chi_square_above(freedom, alpha) < 1.25 * exact


@pytest.mark.parametrize("freedom", [13, 20, 27, 60])
@pytest.mark.parametrize("alpha", [0.05, 1e-3, 4e-6])
def test_the_bound_of_students_t_is_scipys(freedom: int, alpha: float) -> None:
    assert student_beyond(freedom, alpha) == pytest.approx(stats.t.isf(alpha / 2, freedom), rel=0.03)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_every_value_has_a_bin_and_a_bin_begins_where_the_last_one_ends(data: st.DataObject) -> None:
    values = np.array(
        data.draw(
            st.lists(st.sampled_from([0.0, -0.0, 1.0, 1.5, 2.0, 7.0, 1e9]) | st.floats(-5, 5), min_size=1, max_size=80)
        )
    )
    edges, upper = drift._edges(values, np.ones(len(values)))
    assert edges == sorted(set(edges))
    assert set(upper) <= set(edges)
    bins = drift._number_bins(edges, upper)
    counts = np.bincount(bins.of(values[:, None]), minlength=bins.count)
    assert counts.sum() == len(values)
    assert counts[-1] == 0
    assert (counts[:-1] > 0).all()  # nothing that was there is without a bin, and no bin without something
    assert bins.of(np.array([[np.nan], [-1e18], [1e18]])).tolist() == [bins.count - 1, 0, bins.count - 2]
    for edge in edges:  # an upper edge belongs to the bin below
        below, above = bins.of(np.array([[edge], [np.nextafter(edge, np.inf)]])).tolist()
        assert above == below + 1


# --- the reference ---------------------------------------------------------------------------------------------------


def test_flags_that_are_one_thing_are_compared_as_one(reference: Reference) -> None:
    watched = {baseline.variable.name: baseline.variable for baseline in reference.features}
    assert list(watched) == [
        *("amount", "type", "hour_of_day", "day_of_week", "is_night", "latitude", "count_24h", "counterparty_age_days"),
        *("attributes.channel", "attributes.age"),
    ]
    assert watched["type"].levels == ("PAYMENT", "TRANSFER", "CASH_OUT", "CASH_IN", "DEBIT")
    assert watched["attributes.channel"].levels == ("app", "web")
    assert watched["is_night"].levels == ()
    assert [watched[name].source for name in ("amount", "count_24h", "attributes.age")] == [
        "transaction", "history", "attribute",
    ]  # fmt: skip


def test_a_reference_is_read_as_it_was_written_and_stays_small(reference: Reference) -> None:
    made = world(40_000, 28, 1)
    assert len(reference_file(made)) < 25_000
    shares = {baseline.variable.name: baseline for baseline in reference.features}
    assert shares["latitude"].counts[-1] / 40_000 == pytest.approx(np.isnan(made["latitude"]).mean())
    assert shares["type"].counts.tolist() == [
        *(made[name].sum() for name in ("is_payment", "is_transfer", "is_cash_out", "is_cash_in", "is_debit")), 0, 0,
    ]  # fmt: skip
    for name in ("amount", "latitude", "attributes.age"):
        grouped = shares[name].bins.grouped(shares[name].counts)[:-1]
        assert len(grouped) == 10
        np.testing.assert_allclose(grouped / grouped.sum(), 0.1, atol=0.02)
    assert reference.score.rows == 40_000
    assert reference.label_delay_ms == 7 * DAY


def test_weights_count_as_so_many_rows_and_no_more_is_known_than_there_were_rows() -> None:
    made = world(4_000, 28, 1)
    rng = np.random.default_rng(0)
    kept = rng.random(4_000) < np.where(made["amount"] > 100, 1.0, 0.2)
    thinned = {name: column[kept] for name, column in made.items()}
    weight = np.where(thinned["amount"] > 100, 1.0, 5.0)
    whole, sample = json.loads(reference_file(made)), json.loads(reference_file(thinned, weight))
    assert sample["rows"] < kept.sum()
    ours, theirs = (np.array(told["columns"]["type"]["counts"]) for told in (whole, sample))
    np.testing.assert_allclose(theirs / theirs.sum(), ours / ours.sum(), atol=0.03)
    assert sample["columns"]["amount"]["upper"][4] == pytest.approx(whole["columns"]["amount"]["upper"][4], rel=0.1)


def test_a_reference_of_an_earlier_version_is_told_what_to_do(tmp_path: Path) -> None:
    deciles = {"deciles": [0.0] * 11, "missing": 0.0}
    old = {"columns": dict.fromkeys(FEATURES.picked, deciles), "score": {"deciles": [0.0] * 11}}
    bundle = bundle_with(tmp_path, json.dumps(old).encode())
    with pytest.raises(BundleRefused, match="sealed by an earlier version"):
        read_reference(bundle, feature_set(bundle.manifest))


@pytest.mark.parametrize("part", ["rows", "score", "columns"])
def test_a_reference_that_is_none_is_refused_in_one_line(part: str, tmp_path: Path) -> None:
    told = json.loads(reference_file(world(2_000, 14, 1)))
    told[part] = None
    bundle = bundle_with(tmp_path, json.dumps(told).encode())
    with pytest.raises(BundleRefused, match="not of its format"):
        read_reference(bundle, feature_set(bundle.manifest))


# --- the promise about false alarms ----------------------------------------------------------------------------------


def test_chance_passes_its_bound_as_rarely_as_it_says_and_not_much_more_rarely(reference: Reference) -> None:
    """The bound without ``LEVELS``, at one in twenty, over many samples of the reference's own shares."""
    rng = np.random.default_rng(5)
    for name in ("amount", "type", "count_24h"):
        baseline = next(own for own in reference.features if own.variable.name == name)
        shares = baseline.counts / baseline.counts.sum()
        groups = int(np.count_nonzero(baseline.bins.grouped(baseline.counts)))
        bound = (1 / 600 + 1 / baseline.rows) * chi_square_above(groups - 1, 0.05)
        beyond = np.mean([baseline.psi(rng.multinomial(600, shares).astype(float)) > bound for _ in range(2_000)])
        assert 0.02 < beyond < 0.07, name


def test_rows_that_come_in_runs_widen_the_bound() -> None:
    made = world(28_000, 28, 2)
    day = (made["time_ms"] - START) // DAY
    runs = {**made, "amount": np.random.default_rng(1).lognormal(4, 1, 28 * 25)[day * 25 + np.arange(28_000) % 25]}
    plain, widened = (json.loads(reference_file(own))["columns"]["amount"]["spread"] for own in (made, runs))
    assert plain < 1.3
    assert widened > 2


@pytest.mark.parametrize("days", [1, 7])
def test_a_world_that_stays_gives_no_alarm_in_a_year_of_looks(reference: Reference, days: int) -> None:
    """The looks' counts without the detour over records, which others of these tests take."""
    n = 365 if days == 1 else 52
    alarms = []
    for this in range(n):
        made = world(600 * days, days, 1_000 + this, start=START + 28 * DAY + this * days * DAY)
        made["counterparty_age_days"] = (made["time_ms"] - START) / DAY + 30
        columns = columns_of(made)
        for baseline in (*reference.features, reference.score):
            at = [FEATURES.columns.index(name) for name in baseline.variable.columns]
            values = columns[:, at] if at else made["score"][:, None]
            counts = np.bincount(baseline.bins.of(values), minlength=baseline.bins.count).astype(float)
            if baseline.psi(counts) > baseline.limit(len(columns), days * DAY - HOUR, reference.alpha):
                alarms.append(baseline.variable.name)
    assert alarms == []


def test_what_follows_the_calendar_is_judged_on_whole_weeks_and_what_only_grows_never(reference: Reference) -> None:
    today = look(reference, world(2_000, 1, 7, start=START + 40 * DAY))
    found = {own.name: own for own in today.features}
    assert found["day_of_week"].psi is not None
    assert found["day_of_week"].psi > 1
    assert found["counterparty_age_days"].psi is not None
    assert found["counterparty_age_days"].psi > 1
    assert today.alarms == ()
    assert today.state == "quiet"

    def no_weekends(made: dict[str, Any], rng: np.random.Generator) -> None:
        made["day_of_week"] = np.where(made["day_of_week"] > 4, 0.0, made["day_of_week"])

    assert look(reference, world(4_000, 7, 7, start=START + 42 * DAY, change=no_weekends)).alarms == ("day_of_week",)


def test_an_hour_of_a_busy_day_is_not_compared_with_whole_days(reference: Reference) -> None:
    made = world(40_000, 1, 9, start=START + 30 * DAY)
    hour = made["hour_of_day"] == 14
    report = look(reference, {name: column[hour] for name, column in made.items()})
    assert report.n > 2_000
    assert report.alarms == ()


# --- every kind of change is named -----------------------------------------------------------------------------------


def larger(made: dict[str, Any], rng: np.random.Generator) -> None:
    made["amount"] *= 2


def unplaced(made: dict[str, Any], rng: np.random.Generator) -> None:
    made["latitude"] = np.where(rng.random(len(made["latitude"])) < 0.3, np.nan, made["latitude"])


def other_types(made: dict[str, Any], rng: np.random.Generator) -> None:
    moved = (rng.random(len(made["is_payment"])) < 0.4) & (made["is_payment"] == 1)
    made["is_payment"] = np.where(moved, 0.0, made["is_payment"])
    made["is_transfer"] = np.where(moved, 1.0, made["is_transfer"])


def a_level_nobody_declared(made: dict[str, Any], rng: np.random.Generator) -> None:
    new = rng.random(len(made["amount"])) < 0.08
    for name in ("app", "web"):
        made[f"attributes.channel={name}"] = np.where(new, 0.0, made[f"attributes.channel={name}"])


def busier(made: dict[str, Any], rng: np.random.Generator) -> None:
    made["count_24h"] += rng.poisson(1.5, len(made["count_24h"]))


def moved_clock(made: dict[str, Any], rng: np.random.Generator) -> None:
    made["hour_of_day"] = (made["hour_of_day"] + 6) % 24


def older(made: dict[str, Any], rng: np.random.Generator) -> None:
    made["attributes.age"] = np.minimum(made["attributes.age"] + 15, 90)


def riskier(made: dict[str, Any], rng: np.random.Generator) -> None:
    made["score"] = np.minimum(made["score"] * 3, 1.0)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (larger, "amount"), (unplaced, "latitude"), (other_types, "type"), (busier, "count_24h"),
        (a_level_nobody_declared, "attributes.channel"), (moved_clock, "hour_of_day"), (older, "attributes.age"),
        (riskier, "score"),
    ],
)  # fmt: skip
def test_what_changed_is_named_within_2000_transactions_and_nothing_else(
    change: Change, name: str, reference: Reference
) -> None:
    for seed in range(5):
        report = look(reference, world(2_000, 1, seed, start=START + (30 + seed) * DAY, change=change))
        assert report.alarms == (name,)
        assert report.state == "drift"
        found = next(own for own in (*report.features, report.score) if own.name == name)
        assert found.alarm
        assert found.psi is not None
        assert found.limit is not None
        assert found.psi > found.limit


def test_what_a_finding_shows_is_what_was_counted(reference: Reference) -> None:
    made = world(2_000, 1, 1, start=START + 30 * DAY, change=a_level_nobody_declared)
    found = {own.name: own for own in look(reference, made).features}
    channel, place = found["attributes.channel"], found["latitude"]
    assert channel.histogram.levels == ("app", "web")
    none = 1 - made["attributes.channel=app"].mean() - made["attributes.channel=web"].mean()
    assert channel.histogram.found[2:] == pytest.approx((none, 0.0))
    assert channel.ks is None
    assert place.missing == pytest.approx(np.isnan(made["latitude"]).mean())
    assert place.missing_reference == pytest.approx(0.1, abs=0.01)
    edges = (-np.inf, *place.histogram.edges, np.inf)
    here = made["latitude"][~np.isnan(made["latitude"])]
    counted = np.histogram(here, edges)[0] / 2_000
    assert place.histogram.found[:-1] == pytest.approx(counted, abs=1e-9)
    assert sum(place.histogram.reference) == pytest.approx(1)


def test_too_few_decisions_are_told_apart_from_quiet_ones(reference: Reference) -> None:
    report = look(reference, world(499, 1, 1, start=START + 30 * DAY, change=larger))
    assert report.state == "not enough"
    assert {own.state for own in (*report.features, report.score)} == {"not enough"}
    assert report.alarms == ()
    empty = look(reference, world(0, 1, 1))
    assert empty.state == "not enough"
    assert empty.features[0].missing is None


def test_the_parties_past_is_not_judged_while_the_log_is_young(reference: Reference) -> None:
    def both(made: dict[str, Any], rng: np.random.Generator) -> None:
        busier(made, rng)
        riskier(made, rng)
        larger(made, rng)

    made = world(2_000, 1, 1, start=START + 30 * DAY, change=both)
    young = look(reference, made, history=29 * DAY)
    assert young.alarms == ("amount",)
    states = {own.name: own.state for own in (*young.features, young.score)}
    assert [states[name] for name in ("count_24h", "counterparty_age_days", "score", "latitude")] == [
        "young", "young", "young", "quiet",
    ]  # fmt: skip
    assert set(look(reference, made, history=30 * DAY).alarms) == {"amount", "count_24h", "score"}
    without = replace(reference, features=tuple(own for own in reference.features if own.variable.source != "history"))
    assert set(look(without, made, history=DAY).alarms) == {"amount", "score"}


@pytest.mark.parametrize(
    "changes",
    [
        {"test": True}, {"model_version": "v0"}, {"model_version": None, "probability": None},
        {"degraded": ("feature_store",)},
    ],
)  # fmt: skip
def test_what_is_not_the_bundles_own_judgement_of_a_real_transaction_is_left_out(
    changes: dict[str, Any], reference: Reference
) -> None:
    made = world(800, 1, 1, start=START + 30 * DAY, change=larger)
    report = look(reference, made, **changes)
    assert report.n == 0
    assert report.left_out == 800
    due = drift.compare(reference, (), decided(made, **changes), since_ms=0, until_ms=1, history_ms=0).calibration
    assert due.n == (800 if "degraded" in changes else 0)


# --- calibration -----------------------------------------------------------------------------------------------------


def owed(reference: Reference, made: Mapping[str, Any], **changes: Any) -> drift.Calibration:
    due = decided(made, labelled_by_ms=START + 400 * DAY, **changes)
    return compare(reference, (), due, since_ms=START, until_ms=START + DAY, history_ms=90 * DAY).calibration


def test_frauds_that_come_as_promised_are_quiet_and_the_interval_holds_one(reference: Reference) -> None:
    held = 0
    for seed in range(40):
        made = world(4_000, 28, seed)
        found = owed(reference, made)
        assert found.state == "quiet"
        assert found.ratio == pytest.approx(made["fraud"].sum() / made["score"].sum())
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 1 <= found.high
    assert held >= 34


def test_ece_is_that_of_the_metrics_in_the_bundle(reference: Reference) -> None:
    from training import metrics

    made = world(4_000, 28, 3)
    found = owed(reference, made)
    nothing = np.zeros(4_000, np.int64)
    scored = metrics.Scored(
        is_fraud=made["fraud"].astype(np.int8), probability=made["score"], model_outcome=nothing.astype(np.int8),
        policy_outcome=nothing.astype(np.int8), amount=np.ones(4_000), weight=np.ones(4_000), time_ms=made["time_ms"],
        party=nothing,
    )  # fmt: skip
    assert found.ece == pytest.approx(metrics._ece(scored))
    assert sum(n for n, _, _ in found.bins) == 4_000


@pytest.mark.parametrize("factor", [2.5, 0.3])
def test_frauds_that_come_far_more_or_less_often_are_an_alarm_of_calibration_alone(
    factor: float, reference: Reference
) -> None:
    def truth(made: dict[str, Any], rng: np.random.Generator) -> None:
        made["truth"] = np.minimum(made["score"] * factor, 1.0)

    made = world(12_000, 28, 4, change=truth)
    due = decided(made, labelled_by_ms=START + 400 * DAY)
    report = look(reference, world(2_000, 1, 5, start=START + 40 * DAY), due)
    assert report.alarms == ("calibration",)
    assert report.calibration.ratio == pytest.approx(factor, rel=0.25)


def test_one_bad_day_is_no_proof_however_many_frauds_it_brings(reference: Reference) -> None:
    made = world(4_000, 28, 6)
    day = (made["time_ms"] - START) // DAY
    made["fraud"] = made["fraud"] | ((day == 13) & (np.arange(4_000) % 2 == 0))
    found = owed(reference, made)
    assert found.ratio is not None
    assert found.ratio > 1.5
    assert found.state == "quiet"


def test_what_was_flagged_and_nobody_looked_at_is_not_taken_for_legitimate(reference: Reference) -> None:
    made = world(4_000, 28, 7)
    found = owed(reference, made, outcome="review")
    assert found.n == found.labelled == made["fraud"].sum()


@pytest.mark.parametrize(
    ("n", "days", "told"), [(400, 28, True), (4_000, 13, True), (4_000, 28, False)], ids=["rows", "days", "labels"]
)
def test_calibration_says_so_where_there_is_not_enough(n: int, days: int, told: bool, reference: Reference) -> None:
    due = decided(world(n, days, 8), labelled_by_ms=START + 400 * DAY if told else None)
    found = compare(reference, (), due, since_ms=0, until_ms=1, history_ms=0).calibration
    assert found.state == "not enough"
    assert (found.ratio, found.low, found.high, found.ece, found.alarm) == (None, None, None, None, False)


# --- the log ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> DecisionLog:
    """SQLite: forty quiet days of 150 a day, then one day of 2,100 with larger amounts; frauds labelled."""
    log = open_decision_log(f"sqlite:///{tmp_path_factory.mktemp('log')}/decisions.db", budget_ms=60_000)
    quiet, last = world(6_000, 40, 11), world(2_100, 1, 12, start=START + 40 * DAY, change=larger)
    for name, made in (("q", quiet), ("d", last)):
        stored = list(decided(made, labelled_by_ms=START + 41 * DAY))
        records = [replace(own.record, transaction_id=f"{name}{own.record.transaction_id}") for own in stored]
        for at in range(0, len(records), 500):
            assert not any(log.append(records[at : at + 500]))
        for own, record in zip(stored, records, strict=True):
            if own.label is not None:
                log.label(replace(own.label, transaction_id=record.transaction_id))
    log.append([replace(records[0], transaction_id=f"x{n}", test=True) for n in range(20)])
    return log


NOW = START + 41 * DAY


def test_a_look_at_the_log_takes_the_last_day_and_the_labels_that_are_due(
    filled: DecisionLog, reference: Reference
) -> None:
    report = measure(filled, reference, NOW)
    assert report.n == 2_100
    assert report.left_out == 0
    assert report.complete
    assert report.alarms == ("amount",)
    assert report.history_days == pytest.approx(41, abs=1)
    assert report.until == "2026-02-11T00:00:00.000Z"
    assert report.calibration.state == "quiet"
    assert report.calibration.days == 28
    assert report.calibration.until is not None
    assert report.calibration.until <= "2026-02-04T00:00:00.000Z"


def test_where_little_happens_a_look_goes_back_to_2000_decisions_and_28_days_at_most(
    filled: DecisionLog, reference: Reference
) -> None:
    before = measure(filled, reference, START + 40 * DAY)
    assert before.n == 2_000
    assert before.complete
    assert before.alarms == ()
    assert measure(filled, reference, START + 3 * DAY).state == "not enough"
    later = measure(filled, reference, START + 68 * DAY)
    assert later.n == 2_000
    assert later.since > "2026-02-10T00:00:00.000Z"
    assert measure(filled, reference, START + 75 * DAY).n == 0


def test_a_window_that_is_asked_for_is_taken_whole_unless_bounds_cut_it_short(
    filled: DecisionLog, reference: Reference
) -> None:
    whole = measure(filled, reference, NOW, since_ms=START, until_ms=START + 10 * DAY)
    assert whole.n == sum(1 for own in decided(world(6_000, 40, 11)) if own.record.received_ms < START + 10 * DAY)
    assert whole.since == "2026-01-01T00:00:00.000Z"
    assert whole.complete
    cut = measure(filled, reference, NOW, since_ms=START, bounds=Bounds(rows=700))
    assert (cut.n, cut.complete) == (700, False)
    assert cut.since > "2026-02-10T00:00:00.000Z"
    late = measure(filled, reference, NOW, since_ms=START, bounds=Bounds(seconds=0.0))
    assert (late.n, late.complete) == (200, False)


def watch(log: DecisionLog, folder: Path, metrics: Metrics, told: bytes | None = None) -> DriftWatch:
    bundle = bundle_with(folder, reference_file(world(40_000, 28, 1)) if told is None else told)
    return DriftWatch(lambda: log, lambda: (bundle, feature_set(bundle.manifest)), metrics, lambda: NOW)


def test_the_scheduled_look_counts_its_alarms_and_names_them_in_one_line(
    filled: DecisionLog, tmp_path: Path, lines: Lines
) -> None:
    metrics = Metrics()
    assert watch(filled, tmp_path, metrics).run() is not None
    assert metrics.counts()["drift_looks", "drift"] == 1
    assert metrics.counts()["drift_alarms",] == 1
    (line,) = lines.of("drift")
    assert line["level"] == "WARNING"
    assert line["alarms"] == ["amount"]
    assert line["decisions"] == 2_100


def test_a_scheduled_look_that_fails_is_counted_and_says_why(filled: DecisionLog, tmp_path: Path, lines: Lines) -> None:
    metrics = Metrics()
    assert watch(filled, tmp_path, metrics, told=b"{}").run() is None
    assert DriftWatch(lambda: filled, lambda: None, metrics, lambda: NOW).run() is None
    (tmp_path / "file").write_text("")
    broken = open_decision_log(f"sqlite:///{tmp_path}/file/decisions.db")
    with pytest.raises(StoreUnavailable):  # whoever keeps the schedule tries again
        watch(broken, tmp_path / "again", metrics).run()
    assert metrics.counts()["drift_looks", "failed"] == 3
    assert metrics.counts()["drift_alarms",] == 0
    reasons = [line["reason"] for line in lines.of("no look for drift")]
    assert "earlier version" in reasons[0]
    assert "No bundle is loaded" in reasons[1]


def test_without_a_bundle_a_look_that_somebody_waits_for_is_refused(filled: DecisionLog) -> None:
    with pytest.raises(NotServed, match="nothing to compare with"):
        DriftWatch(lambda: filled, lambda: None, Metrics(), lambda: NOW).look()


def test_variables_are_what_the_picked_columns_are_part_of() -> None:
    assert [own.name for own in variables(replace(FEATURES, picked=("is_debit", "attributes.channel=web")))] == [
        "type", "attributes.channel",
    ]  # fmt: skip
    assert _names(("amount",)) == ["amount"]


def _names(picked: Sequence[str]) -> list[str]:
    return [own.name for own in variables(replace(FEATURES, picked=tuple(picked)))]
