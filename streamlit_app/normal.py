"""A party's normal, and where one transaction lies against it: amounts, hours, places, counterparties."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import streamlit as st

from streamlit_app import charts
from streamlit_app.answers import Decision, Direction, Party, UsualAmounts, Window

Side = Literal["sent", "received"]


@dataclass(frozen=True, slots=True)
class Here:
    """One transaction, to be held against a normal.

    ``time`` is RFC 3339 or empty; ``features`` are those of its record, by name, empty where there is no record: what
    is told of places and counterparties is what the model saw, and not worked out a second time.
    """

    amount: float
    currency: str
    time: str
    features: Mapping[str, float | None]

    @classmethod
    def of(cls, decision: Decision, values: Mapping[str, Any], features: Mapping[str, float | None]) -> Self:
        time = values.get("timestamp") if values.get("timestamp") or values.get("step") else decision.scored_at
        return cls(decision.amount_base, decision.base_currency, str(time or ""), features)

    def hour(self, zone: str) -> int | None:
        """The hour of the day in a time zone; None where the time or the zone cannot be read."""
        try:
            moment = datetime.fromisoformat(self.time)
            moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
            return moment.astimezone(ZoneInfo(zone)).hour
        except (ValueError, ZoneInfoNotFoundError, OverflowError):
            return None


def nobody(party_id: str) -> Party:
    """The normal of a party of whom nothing is known."""
    none = Window(0, 0.0)
    empty = Direction(none, none, none, none, None, None, (0,) * 24, 0, 0)
    return Party(party_id, None, 0, empty, empty, None, 0, "", "UTC")


def show(party: Party, here: Here, *, side: Side = "sent", name: str = "customer", key: str = "normal") -> None:
    """The party's normal with this transaction in it. ``side``: what the party sent, or what it received."""
    st.markdown(f"**Against this {name}'s normal**")
    past = party.sent if side == "sent" else party.received
    if past.usual_amounts is None:
        st.caption(
            f"Nothing is known of this {name} yet: amount, hour and place are all new. Each transaction that is "
            "scored becomes part of its history; score another one of the same party and it lies against this one."
        )
        return
    amounts, hours = st.columns(2, gap="medium")
    with amounts:
        st.altair_chart(
            charts.amounts(past.usual_amounts, here.amount, here.currency),
            width="stretch",
            key=f"{key}.amounts",
            alt="The usual amounts and this one; the sentence below says the same",
        )
        st.text(amount_words(past.usual_amounts, here))
    with hours:
        hour = here.hour(party.time_zone)
        st.altair_chart(
            charts.hours(past.hours, hour),
            width="stretch",
            key=f"{key}.hours",
            alt="Earlier transactions by hour of the day; the sentence below says the same",
        )
        st.text(hour_words(past.hours, hour, party.time_zone))
    for sentence in (*partner_words(past, here, side), *place_words(party, here), *count_words(party, past)):
        st.text(sentence)


def amount_words(usual: UsualAmounts, here: Here) -> str:
    band = f"{usual.p10:,.2f} to {usual.p90:,.2f} {here.currency}"
    lies = (
        "more than ever before"
        if here.amount > usual.max
        else "above the usual band"
        if here.amount > usual.p90
        else "below the usual band"
        if here.amount < usual.p10
        else "within the usual band"
    )
    times = f", {here.amount / usual.p50:,.1f} times the middle one" if usual.p50 > 0 else ""
    of = f"the last {usual.of}" if usual.of > 1 else "the only one so far"
    return f"{here.amount:,.2f} {here.currency} is {lies} ({band}, of {of}){times}."


def hour_words(hours: tuple[int, ...], hour: int | None, zone: str) -> str:
    total = sum(hours)
    if hour is None or not total:
        return f"Hours are those of {zone}."
    near = sum(hours[(hour + step) % 24] for step in (-1, 0, 1))
    return f"{near} of {total} earlier ones were within an hour of {hour:02d} o'clock ({zone})."


def partner_words(past: Direction, here: Here, side: Side) -> list[str]:
    others = "counterparties" if side == "sent" else "senders"
    told = [f"{past.partners} {others} are known, {past.partners_7_days} of them of the last seven days."]
    new = here.features.get("new_counterparty")
    if side == "sent" and new is not None:
        told.append("This counterparty is a new one." if new else "This counterparty is one of them.")
    return told


def place_words(party: Party, here: Here) -> list[str]:
    if party.last_place is None:
        return []
    last = party.last_place
    told = f"The last place was {last.lat:.2f}, {last.long:.2f}, at {last.time[:16].replace('T', ' ')} UTC."
    distance, speed = here.features.get("distance_km"), here.features.get("speed_kmh")
    if distance is None:
        return [told]
    fast = f", a journey at {speed:,.0f} km/h" if speed else ""
    return [told, f"This one is {distance:,.1f} km from there{fast}."]


def count_words(party: Party, past: Direction) -> list[str]:
    month, day = past.last_30_days, past.last_day
    told = [f"{month.count:,} in 30 days ({month.amount:,.2f} {party.base_currency}), {day.count:,} in 24 hours."]
    if party.first_seen:
        told.append(f"First seen on {party.first_seen[:10]}.")
    if party.frauds_known:
        told.append(f"Known frauds received: {party.frauds_known}.")
    return told
