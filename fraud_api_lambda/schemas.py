"""The boundary: what comes in, what goes out, and the one conversion between them.

``Transaction`` is what a sender writes (JSON, strict). ``Event`` is the same transaction in the service's own terms:
milliseconds of UTC, minor units of the base currency, codes in place of words, NaN in place of "absent". Training's
replay makes the same conversion with :func:`to_minor`, so a cent is a cent on both sides. ``Decision`` is the answer.
"""

import bisect
import difflib
import hashlib
import hmac
import json
import math
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, from_json

from . import card_numbers
from .errors import FieldError, InvalidRequest, RequestTooLarge, SettingsError
from .secret_setting import read_secret
from .settings import Outcome

TestInput = Literal["approve", "review", "decline", "degraded"]
TransactionType = Literal["PAYMENT", "TRANSFER", "CASH_OUT", "CASH_IN", "DEBIT"]
#: ``Event.type_code`` is the position here; -1 is "absent".
TYPES: tuple[TransactionType, ...] = ("PAYMENT", "TRANSFER", "CASH_OUT", "CASH_IN", "DEBIT")
#: Top-level names of anonymised card data sets: accepted as they stand and kept as attributes.
CARD_COLUMNS = frozenset(["Time", *(f"V{i}" for i in range(1, 29))])
#: PaySim's step 1 begins here; a step is one hour.
PAYSIM_START_MS = 1_672_531_200_000
HOUR_MS = 3_600_000
#: How far a sender's clock may run ahead of ours.
CLOCK_SKEW_MS = 5 * 60_000
#: The widest batch a request may carry.
MAX_BATCH = 1_000
#: Members and objects of a batch's body; a thousand transactions with all fields and attributes have 280,000.
MAX_VALUES = 600_000

#: Ids of integrators' test inputs begin so: the outcome is forced, whatever the score, and nothing is remembered.
TEST_INPUTS: tuple["TestInput", ...] = ("approve", "review", "decline", "degraded")
_TEST_ID = re.compile(rf"test-({'|'.join(TEST_INPUTS)})(-[\x20-\x7e]*)?")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_RFC3339 = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(\.\d{1,9})?([Zz]|[+-]\d{2}:\d{2})?", re.ASCII)

Party = Annotated[str, Field(min_length=1, max_length=64)]
Money = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
AttributeName = Annotated[str, Field(min_length=1, max_length=64)]
AttributeValue = Annotated[float, Field(allow_inf_nan=False)] | Annotated[str, Field(max_length=256)]


def _tell_other_names(schema: dict[str, Any]) -> None:
    """Complete the published schema: a document that is accepted under another name validates under it too."""
    properties = schema["properties"]
    for other, name in _ALIASES.items():
        properties[other] = {**properties[name], "title": other, "description": f"Another name of `{name}`."}
    value = properties["attributes"]["anyOf"][0]["additionalProperties"]
    schema["patternProperties"] = {"^(Time|V([1-9]|1[0-9]|2[0-8]))$": value}
    del schema["required"]
    schema["anyOf"] = [{"required": ["amount"]}, {"required": ["Amount"]}]


class Transaction(BaseModel):
    """One transaction to judge. Only ``amount`` is required; what is absent is missing, never zero."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, json_schema_extra=_tell_other_names)

    amount: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)] = Field(
        description="In `currency`; zero is legal. Also accepted as `Amount`.", examples=[4500.0]
    )
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] | None = Field(
        None, description="ISO 4217; default: the bundle's base currency. An unknown one is 422.", examples=["USD"]
    )
    type: TransactionType | None = Field(None, examples=["TRANSFER"])
    transaction_id: Annotated[str, Field(pattern=r"^[\x20-\x7e]{1,64}$")] | None = Field(
        None, description="Up to 64 printable ASCII characters; generated when absent.", examples=["order-1001"]
    )
    timestamp: Annotated[str, Field(max_length=40)] | None = Field(
        None,
        description="RFC 3339; without an offset it is UTC; default: now. More than five minutes ahead is 422.",
        examples=["2026-02-06T02:30:00Z"],
    )
    step: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        None, description="PaySim's hour in place of `timestamp`: step n is 2023-01-01T00:00Z + (n - 1) h."
    )
    customer_id: Party | None = Field(None, description="Also accepted as `nameOrig`.")
    counterparty_id: Party | None = Field(None, description="Also accepted as `nameDest` or `merchant_id`.")
    device_id: Party | None = None
    oldbalanceOrg: Money | None = Field(None, description="The customer's balance before.")
    newbalanceOrig: Money | None = Field(
        None, description="The customer's balance after: recorded, and no feature unless the bundle says `posted`."
    )
    oldbalanceDest: Money | None = Field(None, description="The counterparty's balance before.")
    newbalanceDest: Money | None = Field(None, description="The counterparty's balance after; as `newbalanceOrig`.")
    lat: Annotated[float, Field(ge=-90, le=90, allow_inf_nan=False)] | None = Field(None, description="Degrees.")
    long: Annotated[float, Field(ge=-180, le=180, allow_inf_nan=False)] | None = Field(None, description="Degrees.")
    attributes: Annotated[dict[AttributeName, AttributeValue], Field(max_length=256)] | None = Field(
        None,
        description="Your own columns. Those the bundle declares are scored, all are recorded. "
        "`V1`..`V28` and `Time` may also stand at the top level.",
    )


_ALIASES: dict[str, str] = {
    "Amount": "amount",
    "nameOrig": "customer_id",
    "nameDest": "counterparty_id",
    "merchant_id": "counterparty_id",
}
#: What data sets know of a transaction afterwards.
_LABELS = ("isFraud", "isFlaggedFraud", "is_fraud", "Class")
_KNOWN = sorted([*Transaction.model_fields, *_ALIASES])
_FOREIGN = frozenset(_ALIASES) | CARD_COLUMNS


@dataclass(frozen=True, slots=True)
class Event:
    """A transaction inside the service. Money is in minor units of the base currency, time in ms of UTC.

    Balances and places are float64 so that NaN can say "absent"; every present balance is a whole number.
    """

    transaction_id: str
    time_ms: int
    amount: float  #: as sent
    currency: str
    amount_minor: int
    type_code: int
    customer_id: str | None
    counterparty_id: str | None
    device_id: str | None
    oldbalance_orig: float
    newbalance_orig: float
    oldbalance_dest: float
    newbalance_dest: float
    lat: float
    long: float
    attributes: Mapping[str, float | str]

    @property
    def test_input(self) -> TestInput | None:
        """What the id forces: ``test-approve``, ``test-decline-17`` and so on; None for every other transaction."""
        return forced_by(self.transaction_id)


def forced_by(transaction_id: str) -> TestInput | None:
    """See :attr:`Event.test_input`."""
    found = _TEST_ID.fullmatch(transaction_id)
    return cast(TestInput, found[1]) if found else None


@dataclass(frozen=True, slots=True)
class Reason:
    """Why the score is what it is: one feature's exact share of it."""

    code: str
    feature: str
    value: float | str | None
    contribution: Annotated[float, Field(description="In log-odds of the fraud probability; above zero raises it.")]
    text: str


@dataclass(frozen=True, slots=True)
class Thresholds:
    review: float
    decline: float


DecidedBy = Literal["list", "rule", "model", "fallback"]
Degraded = Literal["model", "feature_store", "decision_log", "rules", "explanation"]


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer to one transaction."""

    transaction_id: str
    fraud_probability: Annotated[float | None, Field(description="Calibrated; null when no model is loaded.")]
    is_fraud: Annotated[bool, Field(description="True exactly when the outcome is not `approve`.")]
    prediction: Literal["FRAUD", "LEGIT"]
    confidence: Annotated[float | None, Field(description="Of the predicted class, where the model decided.")]
    outcome: Outcome
    decided_by: DecidedBy
    threshold: Annotated[float | None, Field(description="The review threshold.")]
    thresholds: Thresholds | None
    rules: Annotated[
        tuple[str, ...],
        Field(description="Ids of the rules that fired; `list:deny` or `list:allow` first, where a list decided."),
    ]
    reasons: Annotated[tuple[Reason, ...], Field(description="Strongest first.")]
    explanation: str
    amount: float
    currency: str
    amount_base: float
    base_currency: str
    model_version: str | None
    rules_version: str
    scored_at: Annotated[str, Field(description="RFC 3339, UTC.")]
    test: bool
    degraded: Annotated[tuple[Degraded, ...], Field(description="What was not at hand; empty when all is well.")]


class Problem(BaseModel):
    """RFC 9457 problem details. Nothing that was sent is repeated in it."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    errors: list[dict[Literal["field", "message"], str]] | None = None
    request_id: str | None = None


class Batch(BaseModel):
    """What ``POST /predict/batch`` takes."""

    model_config = ConfigDict(extra="forbid")

    transactions: Annotated[list[Transaction], Field(min_length=1, max_length=MAX_BATCH)]


class BatchItem(BaseModel):
    """An answer or a problem, for the transaction at ``index``."""

    index: int
    decision: Decision | None = None
    problem: Problem | None = None


class BatchResult(BaseModel):
    results: list[BatchItem]


DECISION = TypeAdapter(Decision)


@dataclass(frozen=True, slots=True)
class RateTable:
    """Dated exchange rates to one base currency.

    ``tables`` is sorted by its first member, the first instant (ms, UTC) a table is valid from; a rate is units of
    the base currency for one unit of the other. Before the first table its rates hold.
    """

    base: str
    minor_units: int
    tables: tuple[tuple[int, Mapping[str, float]], ...] = ()

    @property
    def minor_factor(self) -> float:
        """Minor units in one unit of the base currency."""
        return float(10**self.minor_units)

    @property
    def currencies(self) -> tuple[str, ...]:
        return (self.base, *sorted({code for _, rates in self.tables for code in rates} - {self.base}))

    def factor(self, currency: str, time_ms: int) -> float | None:
        """What an amount in ``currency`` is multiplied by to be minor units of the base; None: no such rate."""
        if currency == self.base:
            return self.minor_factor
        at = max(bisect.bisect_right(self.tables, time_ms, key=lambda table: table[0]) - 1, 0)
        rate = self.tables[at][1].get(currency) if self.tables else None
        return None if rate is None else rate * self.minor_factor


def same_money(one: RateTable, other: RateTable) -> bool:
    """Whether an amount in minor units means the same to both."""
    return (one.base, one.minor_units) == (other.base, other.minor_units)


def to_minor(value: float, factor: float) -> int:
    """Minor units of ``value``: the product rounded half to even. ``numpy.rint(value * factor)`` is the same rule."""
    return round(value * factor)


def now_ms() -> int:
    """Milliseconds of UTC since 1970: the clock everything is given unless a test gives another."""
    return (datetime.now(UTC) - _EPOCH) // timedelta(milliseconds=1)


def rfc3339(time_ms: int) -> str:
    """``time_ms`` as text with milliseconds and ``Z``."""
    moment = _EPOCH + timedelta(milliseconds=time_ms)
    return moment.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def parse_json(body: bytes) -> Any:
    """``body`` as JSON in UTF-8; NaN and Infinity are not JSON. Raises ``InvalidRequest``.

    A name that stands twice in one object is refused: readers differ in which of the two they take, and what a gateway
    or a log has seen must be what was judged.
    """
    try:
        data = from_json(body, allow_inf_nan=False)
    except ValueError:
        raise InvalidRequest("The body is not JSON.", (FieldError("body", "must be a JSON object"),)) from None
    try:
        _ONCE.decode(body.decode())  # what passed above is valid UTF-8 and not deep
    except ValueError:
        raise InvalidRequest("A name is sent twice.", (FieldError("body", "must hold each name once"),)) from None
    return data


def _once(members: list[tuple[str, Any]]) -> None:
    if len({name for name, _ in members}) < len(members):
        raise ValueError


_ONCE = json.JSONDecoder(object_pairs_hook=_once)


def parse_transaction(data: Any) -> Transaction:
    """Validate one transaction from an object that :func:`parse_json` gave.

    Raises :class:`~fraud_api_lambda.errors.InvalidRequest` naming every field that is wrong.
    """
    sent_as: dict[str, str] = {}
    if isinstance(data, dict) and not data.keys().isdisjoint(_FOREIGN):
        data, sent_as = _rename(data)
    try:
        return Transaction.model_validate(data)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False, include_context=True)
        found = dict.fromkeys(_field_error(detail, sent_as) for detail in details[:20])
        raise InvalidRequest("The transaction is not valid.", tuple(found)) from None


def parse_batch(body: bytes) -> list[Any]:
    """The list under ``transactions``, its items still unchecked. Raises ``InvalidRequest``, ``RequestTooLarge``."""
    # Megabytes of empty objects would take the parser seconds, in which nobody else is answered.
    if sum(map(body.count, (b"{", b"[", b","))) > MAX_VALUES:
        raise RequestTooLarge(f"The body holds more than {MAX_VALUES:,} values.")
    data = parse_json(body)
    items = data.get("transactions") if isinstance(data, dict) else None
    if not isinstance(items, list) or set(data) != {"transactions"}:
        message = 'must be an object with the one member "transactions", a list of transactions'
        raise InvalidRequest("The batch is not valid.", (FieldError("body", message),))
    if not 1 <= len(items) <= MAX_BATCH:
        message = f"must hold 1 to {MAX_BATCH} transactions"
        raise InvalidRequest("The batch is not valid.", (FieldError("transactions", message),))
    return items


class Pseudonyms:
    """What parties and transactions are known by in log, profiles and answers.

    With a ``key`` every party's id becomes a keyed hash: without the key nobody can tell, or test, whose a profile or a
    record is. Card numbers (:mod:`card_numbers`) are known by another name in any case, in parties, transaction ids and
    attributes, and are refused with ``refuse_cards``. One id gives one name whatever its role, so that an account keeps
    both its directions.
    """

    def __init__(self, key: str | None = None, *, refuse_cards: bool = False):
        self._key = b"" if key is None else hashlib.blake2b(key.encode()).digest()
        self._refuse_cards = refuse_cards

    def __call__(self, party: str) -> str:
        if self._key:
            return "p_" + hashlib.blake2b(party.encode(), key=self._key, digest_size=16).hexdigest()
        return card_numbers.name_for(party, b"") if card_numbers.is_in(party) else party

    def of(self, asked: str) -> str:
        """The pseudonym meant by who asks for a party: an id, or a pseudonym taken from an earlier answer."""
        return asked if self._key and _PSEUDONYM.fullmatch(asked) else self(asked)

    def digest(self, data: Any) -> bytes:
        """As :func:`digest`; under the key, if any: a body can be guessed where only an id in it is not known."""
        return hmac.digest(self._key, _canonical(data), "sha256") if self._key else digest(data)

    def transaction(self, transaction_id: str) -> str:
        """What the transaction is known by: its id, unless a card number is in it. A test input stays one."""
        if not card_numbers.is_in(transaction_id):
            return transaction_id
        test = _TEST_ID.fullmatch(transaction_id)
        return (f"test-{test[1]}-" if test else "") + card_numbers.name_for(transaction_id, self._key)

    def shield(self, transaction: Transaction) -> Transaction:
        """The transaction with no card number in its id and attributes; a numeric attribute that is one is absent.

        Its parties are left to :func:`to_event`. Raises ``InvalidRequest`` where card numbers are refused.
        """
        sent, attributes = transaction.transaction_id, transaction.attributes
        if self._refuse_cards:
            self._refuse(transaction)
        changes: dict[str, Any] = {}
        if sent is not None and card_numbers.is_in(sent):
            changes["transaction_id"] = self.transaction(sent)
        if attributes and any(_holds_card(name, value) for name, value in attributes.items()):
            changes["attributes"] = {
                self._text(name): self._text(value) if isinstance(value, str) else value
                for name, value in attributes.items()
                if isinstance(value, str) or not card_numbers.is_number(value)
            }
        return transaction.model_copy(update=changes) if changes else transaction

    def note(self, field: str, text: str) -> str:
        """Words for people, with a mask where a card number stands. Raises ``InvalidRequest`` naming ``field``."""
        if self._refuse_cards and card_numbers.is_in(text):
            raise _refused_cards(field)
        return card_numbers.masked(text)

    def _text(self, text: str) -> str:
        return card_numbers.name_for(text, self._key) if card_numbers.is_in(text) else text

    def _refuse(self, transaction: Transaction) -> None:
        found = [
            name
            for name in ("transaction_id", "customer_id", "counterparty_id", "device_id")
            if (value := getattr(transaction, name)) is not None and card_numbers.is_in(value)
        ]
        found += [
            f"attributes.{_shown(name)}"
            for name, value in (transaction.attributes or {}).items()
            if _holds_card(name, value)
        ]
        if found:
            raise _refused_cards(*dict.fromkeys(found[:20]))


def _holds_card(name: str, value: float | str) -> bool:
    found = card_numbers.is_in(value) if isinstance(value, str) else card_numbers.is_number(value)
    return found or card_numbers.is_in(name)


def _refused_cards(*fields: str) -> InvalidRequest:
    message = "looks like a card number, and none is taken here: send a token in its place"
    return InvalidRequest("A card number is not taken.", tuple(FieldError(field, message) for field in fields))


def pseudonyms_of(setting: str | None, *, refuse_cards: bool = False) -> Pseudonyms:
    """What is to be known by what. Raises ``SettingsError`` or ``StoreUnavailable``: without its key no start."""
    key = "" if setting is None else read_secret(setting, "FRAUD_PSEUDONYM_KEY")
    if key in {"", "none"}:
        return Pseudonyms(refuse_cards=refuse_cards)
    if len(key) < 32:
        raise SettingsError("FRAUD_PSEUDONYM_KEY must have at least 32 characters; openssl rand -hex 32 makes one.")
    return Pseudonyms(key, refuse_cards=refuse_cards)


_PSEUDONYM = re.compile(r"p_[0-9a-f]{32}")


def digest(data: Any) -> bytes:
    """SHA-256 of the canonical JSON of ``data`` as it was sent: names sorted, no white space. 32 bytes."""
    return hashlib.sha256(_canonical(data)).digest()


def _canonical(data: Any) -> bytes:
    return _CANONICAL.encode(data).encode()


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


def to_event(
    transaction: Transaction, rates: RateTable, clock_ms: int, pseudonym: Callable[[str], str] | None = None
) -> Event:
    """The transaction in the service's own terms, its parties by ``pseudonym`` where there is one.

    Raises ``InvalidRequest`` for time and currency.
    """

    def party(sent: str | None) -> str | None:
        return sent if sent is None or pseudonym is None else pseudonym(sent)

    time_ms = _time_of(transaction, clock_ms)
    currency = transaction.currency or rates.base
    factor = rates.factor(currency, time_ms)
    if factor is None:
        message = f"no rate is known; choices are: {', '.join(rates.currencies)}"
        raise InvalidRequest("The currency is not known.", (FieldError("currency", message),))
    return Event(
        transaction_id=transaction.transaction_id or _new_id(),
        time_ms=time_ms,
        amount=transaction.amount,
        currency=currency,
        amount_minor=to_minor(transaction.amount, factor),
        type_code=-1 if transaction.type is None else TYPES.index(transaction.type),
        customer_id=party(transaction.customer_id),
        counterparty_id=party(transaction.counterparty_id),
        device_id=party(transaction.device_id),
        oldbalance_orig=_minor_or_nan(transaction.oldbalanceOrg, factor),
        newbalance_orig=_minor_or_nan(transaction.newbalanceOrig, factor),
        oldbalance_dest=_minor_or_nan(transaction.oldbalanceDest, factor),
        newbalance_dest=_minor_or_nan(transaction.newbalanceDest, factor),
        lat=math.nan if transaction.lat is None else transaction.lat,
        long=math.nan if transaction.long is None else transaction.long,
        attributes=transaction.attributes or {},
    )


def _new_id() -> str:
    """An id that can be asked for: one in which digits happen to look like a card's would be known by another."""
    while card_numbers.is_in(made := secrets.token_hex(16)):
        pass
    return made


def pack_event(event: Event) -> dict[str, Any]:
    """The event as plain members for JSON; None where a number is missing."""
    members = {name: getattr(event, name) for name in Event.__slots__}
    return {name: None if value != value else value for name, value in members.items()}


def unpack_event(members: Mapping[str, Any]) -> Event:
    """The inverse of :func:`pack_event`. Raises ``TypeError``."""
    gaps = {name: math.nan for name in _NUMBERS if members.get(name) is None}
    return Event(**{**members, **gaps})


_NUMBERS = ("oldbalance_orig", "newbalance_orig", "oldbalance_dest", "newbalance_dest", "lat", "long")


def _minor_or_nan(value: float | None, factor: float) -> float:
    return math.nan if value is None else float(to_minor(value, factor))


def _time_of(transaction: Transaction, clock_ms: int) -> int:
    if transaction.timestamp is not None:
        field, time_ms = "timestamp", _parse_time(transaction.timestamp)
    elif transaction.step is not None:
        field, time_ms = "step", PAYSIM_START_MS + (transaction.step - 1) * HOUR_MS
    else:
        return clock_ms
    if transaction.timestamp is not None and transaction.step is not None:
        raise InvalidRequest("The time is sent twice.", (FieldError("step", "send either timestamp or step"),))
    if time_ms > clock_ms + CLOCK_SKEW_MS:
        message = "must not be more than five minutes in the future"
        raise InvalidRequest("The time is in the future.", (FieldError(field, message),))
    return time_ms


def _parse_time(text: str) -> int:
    time_ms = parse_rfc3339(text)
    if time_ms is None:
        problem = FieldError("timestamp", "must be RFC 3339, from 1970 on, such as 2026-02-06T10:00:00Z")
        raise InvalidRequest("The time is not valid.", (problem,))
    return time_ms


def parse_rfc3339(text: str) -> int | None:
    """Milliseconds of UTC since 1970; without an offset it is UTC. None for what is no such time or before 1970."""
    if not _RFC3339.fullmatch(text):
        return None
    try:
        moment = datetime.fromisoformat(text.upper())
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        time_ms = (moment.astimezone(UTC) - _EPOCH) // timedelta(milliseconds=1)  # which must be writable in UTC, too
    except (ValueError, OverflowError):
        return None
    return None if time_ms < 0 else time_ms


#: What :func:`day_or_time` wants.
WHEN = "must be a day such as 2026-02-06, or RFC 3339 such as 2026-02-06T10:00:00Z, from 1970 on"


def day_or_time(text: str) -> int | None:
    """:func:`parse_rfc3339`, or a day of UTC alone, which is its midnight."""
    return parse_rfc3339(f"{text}T00:00:00Z" if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text, re.ASCII) else text)


def _rename(data: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Other names become ours, V1..V28 and Time become attributes; a thing sent under two names is an error.

    Also returns the names that were sent, by the paths that they now have.
    """
    renamed = {key: value for key, value in data.items() if key not in _FOREIGN}
    attributes = renamed.get("attributes")
    placed: dict[str, Any] = dict(attributes) if isinstance(attributes, dict) else {}
    sent_as: dict[str, str] = {}
    for key in data:
        if key not in _FOREIGN:
            continue
        target, name = (placed, key) if key in CARD_COLUMNS else (renamed, _ALIASES[key])
        if name in target:
            message = f"is another name of {name}: send one of them" if name != key else "is sent twice"
            raise InvalidRequest("The transaction is not valid.", (FieldError(key, message),))
        target[name] = data[key]
        sent_as[f"attributes.{name}" if target is placed else name] = key
    if placed and (attributes is None or isinstance(attributes, dict)):
        renamed["attributes"] = placed
    return renamed, sent_as


def _unknown(key: str) -> str:
    if key in _LABELS:  # in attributes it would be recorded as if it had been known
        return "is a label, not part of a transaction: POST /feedback takes it"
    near = difflib.get_close_matches(key, _KNOWN, n=1) if len(key) <= 40 else []  # it takes its time on long ones
    hint = f" Did you mean {near[0]}?" if near else ""
    return f"is not a known field.{hint} Your own columns go in attributes"


def _shown(key: object) -> str:
    """A key as it may be repeated: a short name stands; anything that could be somebody's data does not."""
    text = str(key)
    return text if re.fullmatch(r"[A-Za-z_][A-Za-z_]{0,39}\d{0,3}", text, re.ASCII) else "(a field)"


#: Our own words for pydantic's error types; what is not here is described by its type alone.
_MESSAGES = {
    "missing": "is required",
    "float_type": "must be a number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "string_type": "must be text",
    "dict_type": "must be an object",
    "model_type": "must be a JSON object",
    "model_attributes_type": "must be a JSON object",
    "finite_number": "must be a finite number",
    "int_parsing_size": "is too large",
    "string_unicode": "must be valid Unicode",
}
_LIMITS = {
    "greater_than_equal": ("must be at least {}", "ge"),
    "less_than_equal": ("must be at most {}", "le"),
    "string_too_short": ("must have at least {} character", "min_length"),
    "string_too_long": ("must have at most {} characters", "max_length"),
    "too_long": ("must have at most {} members", "max_length"),
    "literal_error": ("must be one of {}", "expected"),
}


def _field_error(error: ErrorDetails, sent_as: Mapping[str, str]) -> FieldError:
    kind = error["type"]
    if error["loc"][:1] == ("attributes",) and kind in {"float_type", "string_type"}:
        message = "must be a number or text"
    elif kind == "extra_forbidden":
        message = _unknown(str(error["loc"][-1]))
    elif kind in _LIMITS:
        template, key = _LIMITS[kind]
        message = template.format(cast(Mapping[str, object], error.get("ctx", {})).get(key, "its limit"))
    elif kind == "string_pattern_mismatch":
        location = str(error["loc"][0]) if error["loc"] else ""
        message = {
            "currency": "must be three capital letters (ISO 4217)",
            "transaction_id": "must be 1 to 64 printable ASCII characters",
        }.get(location, "has a form that is not accepted")
    else:
        message = _MESSAGES.get(kind, "is not valid")
    path = _location(error["loc"])
    return FieldError(sent_as.get(path, path), message)


def _location(loc: Sequence[int | str]) -> str:
    """``attributes.V1`` from pydantic's path; its union branches (``float``, ``constrained-str``) are not shown."""
    if not loc:
        return "body"
    if loc[0] == "attributes" and len(loc) > 1:
        return f"attributes.{_shown(loc[1])}"
    return _shown(loc[0])
