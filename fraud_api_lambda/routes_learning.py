"""The routes that try a change before it goes live: a rule compiled, a policy held against what was decided.

They are for people and may take seconds: each runs in a thread that lets scoring go first, one back-test at a time.
"""

import asyncio
import difflib
import json
import re
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Annotated, Any, Final, Literal

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import to_json

from .backtest import REPORT, Costs, Policy, Report, backtest, sealed_costs
from .decision_log import MAX_PAGE, DecisionLog, Search, Stored, walk
from .errors import FieldError, InvalidRequest, NotReached, NotServed, RulesError, StoreUnavailable, TooManyRequests
from .rules import MAX_EXPRESSION, TEXT_VARIABLES, RuleSet, compile_expression, load_rules, variables
from .schemas import Thresholds, parse_json, parse_rfc3339
from .scoring import FraudScorer
from .web import json_response, read_body, request_json

#: Decisions that one back-test reads at most: the newest.
MAX_ROWS: Final = 20_000
#: Seconds it reads for at most; Lambda ends what takes ten.
SECONDS: Final = 7.0
#: Of a rules file, in a body: what Lambda takes at most.
MAX_BODY: Final = 6 * 2**20
#: Between so many decisions it sleeps so long (s): a thread that never waits keeps others from the interpreter for
#: 5 ms at a time.
_STRIDE, _PAUSE = 4, 0.0005


# --- what is asked and answered --------------------------------------------------------------------------------------

Probability = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
Money = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
RulesFile = Annotated[
    str | dict[str, Any] | None,
    Field(description="A whole rules file: its text (YAML or JSON), or what a JSON file holds, as an object."),
]


class RulesCheck(BaseModel):
    """One of the two."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    expression: Annotated[str, Field(min_length=1, max_length=MAX_EXPRESSION)] | None = None
    rules: RulesFile = None


class RulesChecked(BaseModel):
    ok: Literal[True]
    variables: Annotated[list[str], Field(description="What is read, of what docs/rules.md lists.")]
    rules: Annotated[list[str] | None, Field(description="The rules' ids; null for an expression alone.")]
    rules_version: Annotated[str | None, Field(description="What decisions would say; null for an expression alone.")]


class ThresholdPair(BaseModel):
    """``review`` is at most ``decline``."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    review: Probability
    decline: Probability


class BacktestCosts(BaseModel):
    """What being wrong costs, in the base currency; what is not given is as the served bundle's thresholds were chosen
    by.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    fraud_loss_share: Annotated[Fraction | None, Field(description="Of an approved fraud's amount.")] = None
    fraud_fee: Annotated[Money | None, Field(description="Of an approved fraud, beside its amount.")] = None
    review_cost: Annotated[Money | None, Field(description="Of one review.")] = None
    review_catch: Annotated[Fraction | None, Field(description="Share of the frauds reviewed that is caught.")] = None
    false_decline_cost: Annotated[Money | None, Field(description="Of declining a legitimate transaction.")] = None
    capacity: Annotated[Fraction | None, Field(description="Share of all transactions that people can review.")] = None
    reviews_per_day: Annotated[Money | None, Field(description="In place of `capacity`.")] = None


class BacktestRequest(BaseModel):
    """A changed policy: ``rules`` or ``thresholds`` or both; what is not given stays: the rules in force, the
    thresholds that each decision was made under.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    rules: RulesFile = None
    thresholds: ThresholdPair | None = None
    since: Annotated[str, Field(max_length=40)] | None = Field(
        None, description="RFC 3339; decisions that arrived at this time or later."
    )
    until: Annotated[str, Field(max_length=40)] | None = Field(None, description="RFC 3339; before this time.")
    costs: BacktestCosts | None = None
    max_rows: Annotated[int, Field(ge=1, le=MAX_ROWS)] = Field(MAX_ROWS, description="Read the newest so many.")


#: Bodies that the endpoints read themselves: to be told in the contract.
BODIES: tuple[type[BaseModel], ...] = (RulesCheck, BacktestRequest)

_EXAMPLES: dict[str, dict[str, Any]] = {
    "another rule": {
        "value": {
            "rules": {
                "version": "draft",
                "rules": [{"id": "night_large", "expression": "is_night && amount > 2000", "outcome": "review"}],
            }
        }
    },
    "other thresholds": {"value": {"thresholds": {"review": 0.2, "decline": 0.9}, "since": "2026-02-01T00:00:00Z"}},
}


def add_backtest(app: FastAPI, scorer: FraudScorer) -> None:
    """Add the routes to ``app``."""
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    invalid: dict[int | str, dict[str, Any]] = {
        413: {"description": "The body is too large.", "content": content},
        422: {"description": "The request is not valid, or the rules are refused.", "content": content},
    }
    silent: dict[int | str, dict[str, Any]] = {
        503: {"description": "No bundle is loaded, or the log did not answer.", "content": content}
    }
    running = threading.Lock()

    @app.post(
        "/rules/check",
        summary="Compile a rule or a rules file, and nothing else",
        response_model=None,
        responses={200: {"model": RulesChecked}, **invalid},
        openapi_extra={
            "requestBody": request_json("RulesCheck", {"one": {"value": {"expression": "is_night && amount > 2000"}}})
        },
    )
    async def check(request: Request) -> Response:
        body = await read_body(request, MAX_BODY)
        return json_response(to_json(await asyncio.to_thread(check_rules, body, scorer.source.rules.columns)))

    @app.post(
        "/backtest",
        summary="What another policy would have decided",
        response_model=None,
        responses={200: {"model": Report}, **invalid, **silent},
        openapi_extra={"requestBody": request_json("BacktestRequest", _EXAMPLES)},
    )
    async def run(request: Request) -> Response:
        body = await read_body(request, MAX_BODY)

        def judged() -> bytes:
            if not running.acquire(blocking=False):
                raise TooManyRequests("A back-test is running here, and one is enough at a time.", SECONDS)
            try:
                return REPORT.dump_json(run_backtest(scorer, body))
            except StoreUnavailable as error:
                raise NotReached(f"{error} Try again.") from None
            finally:
                running.release()

        return json_response(await asyncio.to_thread(judged))


def check_rules(body: bytes, columns: tuple[str, ...]) -> dict[str, Any]:
    """:class:`RulesChecked` for a body. Raises ``InvalidRequest`` with rule, line and column."""
    asked = _validated(RulesCheck, parse_json(body))
    if (asked.expression is None) == (asked.rules is None):
        raise _invalid(FieldError("body", "must hold either expression or rules"))
    if asked.expression is not None:
        try:
            compile_expression(asked.expression, columns)
        except RulesError as error:
            raise _refused("expression", error, columns) from None
        return {"ok": True, "variables": variables(asked.expression, columns), "rules": None, "rules_version": None}
    rules = _load(asked.rules, columns)
    read = dict.fromkeys(name for rule in rules.rules for name in variables(rule.expression, columns))
    ids = [rule.id for rule in rules.rules]
    return {"ok": True, "variables": list(read), "rules": ids, "rules_version": rules.version}


def run_backtest(scorer: FraudScorer, body: bytes, *, seconds: float = SECONDS) -> Report:
    """Raises ``InvalidRequest``, ``NotServed``, ``StoreUnavailable``."""
    asked = _validated(BacktestRequest, parse_json(body))
    if asked.rules is None and asked.thresholds is None:
        raise _invalid(FieldError("body", "must hold rules or thresholds, or both"))
    if asked.thresholds is not None and asked.thresholds.review > asked.thresholds.decline:
        raise _invalid(FieldError("thresholds.review", "must be at most decline"))
    since_ms, until_ms = (_moment(name, getattr(asked, name)) for name in ("since", "until"))
    if since_ms is not None and until_ms is not None and since_ms >= until_ms:
        raise _invalid(FieldError("since", "must be before until"))
    served, rules = scorer.source.current()
    if served is None:
        raise NotServed("No bundle is loaded: what rules see cannot be told without one.")
    if asked.rules is not None:
        rules = _load(asked.rules, served.model.features.columns).under(scorer.pseudonyms)
    pair = asked.thresholds
    policy = Policy(
        rules,
        served.model,
        None if pair is None else Thresholds(pair.review, pair.decline),
        without_model=scorer.without_model,
    )
    costs = sealed_costs(served.bundle.manifest.training)
    if asked.costs is not None:
        given = asked.costs.model_dump(exclude_none=True)
        costs = Costs(**{**asdict(costs), **given})
    newest = Newest(scorer.patient.decisions, since_ms, until_ms, asked.max_rows, seconds)
    report = backtest(newest, policy, costs=costs, now_ms=scorer.clock())
    return replace(report, complete=newest.complete)


class Newest:
    """The newest decisions that arrived in ``[since_ms, until_ms)``, newest first, test inputs left out.

    At most ``most``, and none that would be read later than ``seconds`` from the first. Afterwards ``complete`` tells
    whether they are all there are.
    """

    def __init__(self, log: DecisionLog, since_ms: int | None, until_ms: int | None, most: int, seconds: float):
        self._log = log
        self._search = Search(since_ms=since_ms, until_ms=until_ms, test=False, limit=min(MAX_PAGE, most + 1))
        self._most = most
        self._seconds = seconds
        self.complete = True

    def __iter__(self) -> Iterator[Stored]:
        end = time.monotonic() + self._seconds
        for number, stored in enumerate(walk(self._log, self._search)):
            if number == self._most or time.monotonic() > end:
                self.complete = False
                return
            if number % _STRIDE == 0:
                time.sleep(_PAUSE)
            yield stored


# --- reading the question --------------------------------------------------------------------------------------------


def _moment(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    time_ms = parse_rfc3339(text)
    if time_ms is None:
        raise _invalid(FieldError(name, _FIELDS[name]))
    return time_ms


_FIELDS: Final = {
    "expression": f"must be text of 1 to {MAX_EXPRESSION:,} characters",
    "rules": "must be a rules file: its text, or an object",
    "thresholds": "must be an object with review and decline",
    **dict.fromkeys(("thresholds.review", "thresholds.decline"), "must be a number above 0 and below 1"),
    **dict.fromkeys(("since", "until"), "must be RFC 3339, from 1970 on, such as 2026-02-06T10:00:00Z"),
    "costs": f"must be an object with some of {', '.join(BacktestCosts.model_fields)}",
    **dict.fromkeys(
        ("costs.fraud_fee", "costs.review_cost", "costs.false_decline_cost", "costs.reviews_per_day"),
        "must be a number of at least 0",
    ),
    **dict.fromkeys(("costs.fraud_loss_share", "costs.review_catch", "costs.capacity"), "must be a number from 0 to 1"),
    "max_rows": f"must be a whole number from 1 to {MAX_ROWS:,}",
}


def _validated[T: BaseModel](model: type[T], data: Any) -> T:
    """Raises ``InvalidRequest`` naming every field that is wrong, and nothing that was sent."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False, include_context=False)
        found = dict.fromkeys(_field_error(model, each["type"], each["loc"]) for each in details[:20])
        raise _invalid(*found) from None


def _field_error(model: type[BaseModel], kind: str, loc: tuple[int | str, ...]) -> FieldError:
    if not loc:
        return FieldError("body", f"must be a JSON object with some of {', '.join(model.model_fields)}")
    names = [str(part) for part in loc]  # with the branches of a union, which are no fields
    unknown = kind == "extra_forbidden"
    for name in (".".join(names[:2]), names[0]):
        if name in _FIELDS and not (unknown and len(names) == 1):
            return FieldError(name, "is required" if kind == "missing" else _FIELDS[name])
    return FieldError("(a field)", f"is not known; choices are: {', '.join(model.model_fields)}")


def _invalid(*problems: FieldError) -> InvalidRequest:
    return InvalidRequest("The request is not valid.", problems)


def _load(sent: str | dict[str, Any] | None, columns: tuple[str, ...]) -> RuleSet:
    """The rules file that was sent, compiled. Raises ``InvalidRequest`` with rule, line and column."""
    try:
        text = sent if isinstance(sent, str) else json.dumps(sent)
        return load_rules(text.encode(errors="surrogatepass"), columns)
    except RulesError as error:
        raise _refused("rules", error, columns) from None


# --- what a refusal says ---------------------------------------------------------------------------------------------

_UNDECLARED = re.compile(r"undeclared reference to '([^']*)'")
_OVERLOAD = re.compile(
    r"found no matching overload for '[^\w']?[\w@!?:.+*/%<>=&|\[\]-]{1,24}' applied to '[\w(), .<>]{1,200}'"
    r"(; write the number as a double, such as 2000\.0)?"
)
#: How else CEL's own messages begin. What follows may be a piece of the expression, in which ids may stand.
_BEGINNINGS: Final = (
    "Syntax error: token recognition error",
    "Syntax error: extraneous input",
    "Syntax error: mismatched input",
    "Syntax error: missing",
    "Syntax error: no viable alternative",
    "has() argument must be a field selection",
)


def _refused(field: str, error: RulesError, columns: tuple[str, ...]) -> InvalidRequest:
    return InvalidRequest("The rules are refused.", (FieldError(field, told(error, columns)),))


def told(error: RulesError, columns: Sequence[str]) -> str:
    """The refusal with rule, line and column, and with no word of what was sent but the ids of rules."""
    text = str(error)
    if error.line is None or error.column is None:
        return re.sub(r"unknown member '.*'\. Choices", "unknown member. Choices", text, flags=re.DOTALL)
    place = f"line {error.line}, column {error.column}"
    head, found, message = text.partition(f"{place}: ")
    if not found:
        return text if place in text.lower() else f"{text.removesuffix('.')}: {place}."
    return f"{head}{place}: {_cel(message, columns)}"


def _cel(message: str, columns: Sequence[str]) -> str:
    undeclared = _UNDECLARED.fullmatch(message)
    if undeclared:
        known = [*TEXT_VARIABLES, "attributes", *(name for name in columns if "." not in name)]
        near = difflib.get_close_matches(undeclared[1][:64], known, n=1)
        return f"this name is not declared.{f' Did you mean {near[0]}?' if near else ''}"
    if _OVERLOAD.fullmatch(message):
        return message
    if "'<EOF>' expecting" in message[:60]:
        return "the expression ends too early"
    return next((words for words in _BEGINNINGS if message.startswith(words)), "not valid here")
