"""Rules and lists as data, and the decision policy.

A rule is a CEL expression (https://cel.dev) over the transaction and its features. Every number is a double, every flag
a boolean, every word a string; what is missing has been filled by ``features.fill``, and where even that knows nothing
it is NaN, with which every comparison is false. A rules file is compiled as a whole when it is loaded: an unknown name,
a type error or an expression that is not boolean refuses the file, with the rule's id and the position.

The deny list declines and the allow list approves whatever rules and model say; a snooze keeps one rule from firing for
one party. Everything that has a date is judged at the *event's* time, never at the clock's: a decision can then be
reproduced from its transaction and its ``rules_version``, today or in a back-test. A list holds ids as the service sees
them.
"""

import difflib
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast, get_args

from . import rules_file
from .errors import RuleFailed, RulesError
from .features import FEATURES, Floats, describe, type_name
from .schemas import DecidedBy, Event, Thresholds, parse_rfc3339
from .settings import Outcome

#: From the mildest to the gravest.
GRAVITY: dict[Outcome, int] = {"approve": 0, "review": 1, "decline": 2}

_RULE_ID = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
_KEYS = {"id", "expression", "outcome", "reason", "enabled", "from", "until"}
MAX_RULES = 200
MAX_EXPRESSION = 2_000
#: Ids on both lists and in the snoozes, together.
MAX_ENTRIES = 200_000
MAX_REASON = 300

Entity = Literal["customer", "counterparty", "device"]
ListName = Literal["deny", "allow"]
_ENTITIES = get_args(Entity)
_LIST_OUTCOMES: dict[ListName, Outcome] = {"deny": "decline", "allow": "approve"}
#: The end of what has none.
_FOREVER = 2**63

#: Variables that are text; ``type`` is a word CEL keeps for itself.
TEXT_VARIABLES = ("transaction_type", "customer_id", "counterparty_id", "device_id", "currency")


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule as it was written, compiled. It is in force at event times from ``from_ms`` to before ``until_ms``."""

    id: str
    expression: str
    outcome: Outcome
    reason: str
    enabled: bool
    program: Any = field(repr=False, compare=False)
    from_ms: int | None = None
    until_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Listed:
    """A party of the transaction is on a list."""

    list: ListName
    entity: Entity
    reason: str

    @property
    def outcome(self) -> Outcome:
        return _LIST_OUTCOMES[self.list]

    @property
    def code(self) -> str:
        """How it stands among the ids of rules, none of which can hold a colon."""
        return f"list:{self.list}"


#: Who an entry is about, and until when it holds (ms; exclusive) with its reason.
type _Key = tuple[str, str | None]
type _Entry = tuple[int, str]


@dataclass(frozen=True, slots=True)
class Lists:
    """The lists and snoozes of a rules file: look-ups take the same time however long they are."""

    deny: Mapping[_Key, _Entry] = field(default_factory=dict, repr=False)
    allow: Mapping[_Key, _Entry] = field(default_factory=dict, repr=False)
    #: Rule id -> who it is snoozed for.
    snoozed: Mapping[str, Mapping[_Key, _Entry]] = field(default_factory=dict, repr=False)

    @property
    def sizes(self) -> dict[str, int]:
        """Entries by list, those that are past their date too."""
        snoozes = sum(len(entries) for entries in self.snoozed.values())
        return {"deny": len(self.deny), "allow": len(self.allow), "snooze": snoozes}

    def match(self, event: Event) -> Listed | None:
        """The deny list's word on the event's parties, or else the allow list's."""
        names: tuple[tuple[ListName, Mapping[_Key, _Entry]], ...] = (("deny", self.deny), ("allow", self.allow))
        for name, entries in names:
            if entries:
                found = _find(entries, event)
                if found is not None:
                    return Listed(name, cast(Entity, found[0]), entries[found][1])
        return None

    def under(self, pseudonym: Callable[[str], str]) -> "Lists":
        """The same lists about parties as the service knows them."""

        def renamed(entries: Mapping[_Key, _Entry]) -> dict[_Key, _Entry]:
            return {(entity, party and pseudonym(party)): entry for (entity, party), entry in entries.items()}

        snoozed = {rule_id: renamed(entries) for rule_id, entries in self.snoozed.items()}
        return Lists(renamed(self.deny), renamed(self.allow), snoozed)

    def snoozes(self, rule_id: str, event: Event) -> bool:
        """Whether the rule sleeps for one of the event's parties."""
        entries = self.snoozed.get(rule_id)
        return entries is not None and _find(entries, event) is not None


def _find(entries: Mapping[_Key, _Entry], event: Event) -> _Key | None:
    """The first of the event's parties with an entry that still holds at the event's time."""
    for key in (("customer", event.customer_id), ("counterparty", event.counterparty_id), ("device", event.device_id)):
        entry = entries.get(key)
        if entry is not None and event.time_ms < entry[0]:
            return key
    return None


class RuleSet:
    """Rules that were checked together, their lists, and the columns whose values they see.

    ``version`` names the file in every answer: its own ``version`` if it has one, with a digest of its bytes.
    ``stand_in``: these decide only because the rules that were asked for cannot be loaded.
    """

    def __init__(
        self,
        version: str,
        rules: Sequence[Rule],
        columns: tuple[str, ...],
        lists: Lists | None = None,
        *,
        stand_in: bool = False,
    ):
        self.version = version
        self.rules = tuple(rules)
        self.columns = columns
        self.lists = lists or Lists()
        self.stand_in = stand_in
        self._active = tuple(rule for rule in self.rules if rule.enabled)
        self._dated = any(rule.from_ms is not None or rule.until_ms is not None for rule in self._active)
        # Only what some rule names is handed over: building the variables costs more than evaluating the rules.
        words = {word for rule in self._active for word in re.findall(r"[A-Za-z_]\w*", rule.expression)}
        self._reads = tuple(
            (name, position, describe(name).kind == "flag") for position, name in enumerate(columns) if name in words
        )
        self._texts = tuple(name for name in TEXT_VARIABLES if name in words)
        self._attributes = "attributes" in words

    @property
    def silent(self) -> bool:
        """Whether no transaction could ever meet a rule or a list here."""
        return not (self._active or self.lists.deny or self.lists.allow)

    def for_columns(self, columns: tuple[str, ...]) -> "RuleSet":
        """The same file for another bundle's columns: expressions compiled anew. Raises :class:`RulesError`."""
        rules = [replace(rule, program=compile_expression(rule.expression, columns, rule.id)) for rule in self.rules]
        return RuleSet(self.version, rules, columns, self.lists, stand_in=self.stand_in)

    def standing_in(self) -> "RuleSet":
        """These rules, marked as a stand-in."""
        return RuleSet(self.version, self.rules, self.columns, self.lists, stand_in=True)

    def under(self, pseudonym: Callable[[str], str]) -> "RuleSet":
        """These rules, their lists and snoozes about parties as the service knows them."""
        lists = self.lists.under(pseudonym)
        return RuleSet(self.version, self.rules, self.columns, lists, stand_in=self.stand_in)

    def listed(self, event: Event) -> Listed | None:
        """The party of the event that is on the deny list, else the one on the allow list, else None."""
        return self.lists.match(event)

    def fired(self, event: Event, filled: Floats) -> tuple[Rule, ...]:
        """The rules whose expression is true of this event and its filled columns, in file order: those enabled, in
        force at the event's time, and not snoozed for any of its parties.

        A rule about an attribute that was not sent does not fire: absent is missing, not an error. Raises
        :class:`RuleFailed`, with what fired beside it, when any other expression cannot be evaluated.
        """
        active: Sequence[Rule] = self._active
        if self._dated:
            active = [rule for rule in active if _in_force(rule, event.time_ms)]
        if not active:
            return ()
        activation = _environment(self.columns).Activation(self._variables(event, filled))
        found: list[Rule] = []
        failed = None
        snoozed = self.lists.snoozed
        for rule in active:
            value = rule.program.eval(activation).value()
            if value is False or (snoozed and self.lists.snoozes(rule.id, event)):
                continue
            if value is True:
                found.append(rule)
            elif "attributes" not in rule.expression:
                failed = failed or rule.id
        if failed:
            raise RuleFailed(failed, tuple(found))
        return tuple(found)

    def _variables(self, event: Event, filled: Floats) -> dict[str, object]:
        values: dict[str, object] = {}
        for name, position, flag in self._reads:
            value = filled.item(position)
            # A flag filled with the population's share counts as set where most have it; NaN is not set.
            values[name] = value >= 0.5 if flag else value
        for name in self._texts:
            text = type_name(event.type_code) if name == "transaction_type" else getattr(event, name)
            values[name] = text or ""
        if self._attributes:
            values["attributes"] = dict(event.attributes)
        return values


def _in_force(rule: Rule, time_ms: int) -> bool:
    return (rule.from_ms is None or rule.from_ms <= time_ms) and (rule.until_ms is None or time_ms < rule.until_ms)


def load_rules(text: bytes, columns: Sequence[str] = ()) -> RuleSet:
    """Parse and compile a rules file (YAML or JSON). ``columns`` are a bundle's; none: those of the transaction itself.

    Raises :class:`RulesError`; the caller keeps the rules it has.
    """
    data = rules_file.read(text)
    items = data.get("rules") if isinstance(data, dict) else None
    if not isinstance(items, list):
        raise RulesError("A rules file has the members 'version', 'rules' (a list), 'lists' and 'snooze'.")
    _known("The rules file", data, {"version", "rules", "lists", "snooze"})
    if len(items) > MAX_RULES:
        raise RulesError(f"A rules file holds at most {MAX_RULES} rules.")
    names = tuple(columns) or tuple(feature.name for feature in FEATURES)
    rules = tuple(_rule(item, number, names) for number, item in enumerate(items, 1))
    ids = [rule.id for rule in rules]
    twice = next((rule_id for rule_id in ids if ids.count(rule_id) > 1), None)
    if twice:
        raise RulesError(f"Rule '{twice}' is there twice.", rule=twice)
    lists = _lists(data.get("lists"), data.get("snooze"), ids)
    digest = hashlib.sha256(text).hexdigest()[:8]
    label = data.get("version")
    if label is not None and (isinstance(label, bool | list | dict) or not _is_text(str(label), 64)):
        raise RulesError("The rules file's 'version' is text of up to 64 characters.")
    return RuleSet(digest if label is None else f"{label}+{digest}", rules, names, lists)


@cache
def default_rules() -> RuleSet:
    """What the image itself brings along: these decide without a bundle."""
    return load_rules((Path(__file__).parent / "default_rules.yaml").read_bytes())


def _rule(item: object, number: int, columns: tuple[str, ...]) -> Rule:
    if not isinstance(item, dict):
        raise RulesError(f"Rule number {number} is not a mapping with the members {', '.join(sorted(_KEYS))}.")
    rule_id = item.get("id")
    if not isinstance(rule_id, str) or not _RULE_ID.fullmatch(rule_id):
        raise RulesError(f"Rule number {number} needs an 'id' of letters, digits, dots, dashes or underscores.")
    _known(f"Rule '{rule_id}'", item, _KEYS, rule_id)
    outcome, reason, enabled = item.get("outcome"), item.get("reason", ""), item.get("enabled", True)
    if not isinstance(outcome, str) or outcome not in GRAVITY:
        raise RulesError(f"Rule '{rule_id}' needs an outcome: {', '.join(get_args(Outcome))}.", rule=rule_id)
    if not _is_text(reason, MAX_REASON) or not isinstance(enabled, bool):
        raise RulesError(f"Rule '{rule_id}': 'reason' is text, 'enabled' is true or false.", rule=rule_id)
    expression = item.get("expression")
    if not isinstance(expression, str) or not 0 < len(expression) <= MAX_EXPRESSION:
        raise RulesError(f"Rule '{rule_id}' needs an 'expression' of up to {MAX_EXPRESSION} characters.", rule=rule_id)
    if not _is_text(expression, MAX_EXPRESSION):
        raise RulesError(f"Rule '{rule_id}': the expression is not valid Unicode.", rule=rule_id)
    program = compile_expression(expression, columns, rule_id)
    from_ms, until_ms = (_time(f"Rule '{rule_id}'", member, item.get(member), rule_id) for member in ("from", "until"))
    if from_ms is not None and until_ms is not None and from_ms >= until_ms:
        raise RulesError(f"Rule '{rule_id}' is never in force: its 'until' is not after its 'from'.", rule=rule_id)
    return Rule(rule_id, expression, outcome, reason or f"Rule {rule_id}.", enabled, program, from_ms, until_ms)


def _known(what: str, item: Mapping[str, object], members: set[str], rule_id: str | None = None) -> None:
    """Raise for a member that ``item`` must not have."""
    unknown = sorted(key for key in item if key not in members)
    if unknown:
        shown = unknown[0][:40].encode(errors="replace").decode()
        raise RulesError(
            f"{what} has the unknown member '{shown}'. Choices are: {', '.join(sorted(members))}.", rule=rule_id
        )


def _is_text(value: object, longest: int) -> bool:
    """Whether ``value`` is text that an answer can carry (JSON can write half of a character)."""
    if not isinstance(value, str) or len(value) > longest:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _time(what: str, member: str, value: object, rule_id: str | None = None) -> int | None:
    """An RFC 3339 time in ms; without an offset it is UTC, as in a transaction. None where there is none."""
    if value is None:
        return None
    time_ms = parse_rfc3339(value) if isinstance(value, str) else None
    if time_ms is None:
        raise RulesError(
            f"{what}: '{member}' must be RFC 3339, from 1970 on, such as 2026-03-01T00:00:00Z.", rule=rule_id
        )
    return time_ms


# --- lists -----------------------------------------------------------------------------------------------------------


def _lists(data: object, snoozes: object, rule_ids: Sequence[str]) -> Lists:
    """The members ``lists`` and ``snooze``. A message names an entry by its number, never the id that stands there."""
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise RulesError("'lists' has the members 'allow' and 'deny', lists of entries.")
    _known("'lists'", data, {"deny", "allow"})
    room = MAX_ENTRIES
    found: dict[str, dict[_Key, _Entry]] = {}
    for name in ("deny", "allow"):
        entries: dict[_Key, _Entry] = {}
        for what, item, end in _entries(f"the {name} list", data.get(name), {"entity", "id", "ids", "until", "reason"}):
            room = _enter(entries, what, item, end, room)
        found[name] = entries
    snoozed: dict[str, dict[_Key, _Entry]] = {}
    members = {"rule", "entity", "id", "ids", "until", "reason"}
    for what, item, end in _entries("'snooze'", snoozes, members):
        rule_id = item.get("rule")
        if not isinstance(rule_id, str) or rule_id not in rule_ids:
            near = difflib.get_close_matches(str(rule_id)[:64], rule_ids, n=1, cutoff=0.0)
            choices = ", ".join(rule_ids[:10]) + (", ..." if len(rule_ids) > 10 else "") if rule_ids else "none"
            hint = f" Did you mean {near[0]}?" if near else ""
            raise RulesError(f"{what} needs a 'rule' of this file.{hint} Choices are: {choices}.")
        if end == _FOREVER:
            raise RulesError(f"{what} needs an 'until': a snooze ends.", rule=rule_id)
        room = _enter(snoozed.setdefault(rule_id, {}), what, item, end, room)
    return Lists(found["deny"], found["allow"], snoozed)


def _entries(where: str, data: object, members: set[str]) -> Iterator[tuple[str, dict[str, Any], int]]:
    """Each entry with what it is called and when it ends."""
    if data is None:
        return
    if not isinstance(data, list):
        raise RulesError(f"In the rules file, {where} is a list of entries.")
    times: dict[str, int] = {}  # many entries, few dates
    for number, item in enumerate(data, 1):
        what = f"Entry {number} of {where}"
        if not isinstance(item, dict):
            raise RulesError(f"{what} is not a mapping with the members {', '.join(sorted(members))}.")
        if not members.issuperset(item):
            _known(what, item, members)
        until = item.get("until")
        end = times.get(until) if isinstance(until, str) else None
        if end is None:
            time_ms = _time(what, "until", until)
            end = _FOREVER if time_ms is None else time_ms
            if isinstance(until, str):
                times[until] = end
        yield what, item, end


def _enter(entries: dict[_Key, _Entry], what: str, item: Mapping[str, Any], end: int, room: int) -> int:
    """Put the ids of one entry in. Returns how many more there may be."""
    entity: Any = item.get("entity")
    reason = item.get("reason", "")
    if entity not in _ENTITIES:
        raise RulesError(f"{what} needs an 'entity': {', '.join(_ENTITIES)}.")
    if not isinstance(reason, str) or (reason and not _is_text(reason, MAX_REASON)):
        raise RulesError(f"{what}: 'reason' is text of up to {MAX_REASON} characters.")
    if ("id" in item) == ("ids" in item):
        raise RulesError(f"{what} needs either 'id' or 'ids', a list of them.")
    ids: object = item["ids"] if "ids" in item else [item["id"]]
    if not isinstance(ids, list):
        raise RulesError(f"{what}: 'ids' is a list.")
    entry = (end, reason)
    for written in ids:
        # A whole number is one that would be written so again: see rules_file.
        party = str(written) if type(written) is int else written
        if not isinstance(party, str) or not 0 < len(party) <= 64:
            raise RulesError(f"{what}: an id is text of 1 to 64 characters.")
        key = (entity, party)
        if key in entries:
            raise RulesError(f"{what} holds an id that stands there already; each stands once.")
        entries[key] = entry
    if len(ids) > room:
        raise RulesError(f"A rules file holds at most {MAX_ENTRIES:,} ids in lists and snoozes.")
    return room - len(ids)


def compile_expression(expression: str, columns: tuple[str, ...], rule_id: str | None = None) -> Any:
    """A CEL program that answers a boolean. Raises :class:`RulesError` with line and column.

    Whole numbers may stand where a double is meant (``amount > 2000``): CEL's checker does not compare the two kinds,
    and every number here is a double, so an expression that fails as written is tried with ``2000.0``.
    """
    environment = _environment(columns)
    try:
        program = environment.compile(expression)
    except RuntimeError as error:
        try:
            program = environment.compile(_with_doubles(expression))
        except RuntimeError:
            raise _compile_error(str(error), rule_id) from None
    if program.return_type().name() != "BOOL":
        raise RulesError(
            f"{_named(rule_id)} must be true or false, and it is {program.return_type().name()}.", rule=rule_id
        )
    return program


#: What is left alone (comments; triple and plain strings), or else a whole number.
_LITERAL = re.compile(
    r"""(//[^\n]*"""
    r"""|"{3}(?:\\.|[^\\])*?"{3}|'{3}(?:\\.|[^\\])*?'{3}|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')"""
    r"""|(?<![\w.])(\d+)(?![\w.])""",
    re.DOTALL,
)
_MIXED = re.compile(r"applied to '\((double, int|int, double)\)'")


def variables(expression: str, columns: tuple[str, ...]) -> tuple[str, ...]:
    """The variables that an expression reads, in the order in which it names them."""
    known = {*TEXT_VARIABLES, "attributes", *columns}
    bare = _LITERAL.sub(" ", expression)
    return tuple(dict.fromkeys(word for word in re.findall(r"(?<![\w.])[A-Za-z_]\w*", bare) if word in known))


def _with_doubles(expression: str) -> str:
    return _LITERAL.sub(lambda match: match.group(1) or f"{match.group(2)}.0", expression)


def _named(rule_id: str | None) -> str:
    return f"Rule '{rule_id}'" if rule_id else "The expression"


def _compile_error(text: str, rule_id: str | None) -> RulesError:
    # The library's text is "INVALID_ARGUMENT: ERROR: <input>:1:20: message \n | source \n | ..^ [INVALID_ARGUMENT]".
    found = re.findall(r"<input>:(\d+):(\d+): ([^\n]*)", text)
    if not found:
        return RulesError(f"{_named(rule_id)} is not valid CEL.", rule=rule_id)
    # `amount > 2000` alone is no mistake here: where there is another one, that is the one to tell.
    where = next((item for item in found if not _MIXED.search(item[2])), found[0])
    line, column = int(where[0]), int(where[1])
    message = where[2].replace(" (in container '')", "").strip()
    if _MIXED.search(message):
        message += "; write the number as a double, such as 2000.0"
    return RulesError(
        f"{_named(rule_id)}, line {line}, column {column}: {message}", rule=rule_id, line=line, column=column
    )


@cache
def _environment(columns: tuple[str, ...]) -> Any:
    """The CEL environment that declares these columns. Attributes are the map ``attributes``."""
    from cel_expr_python import cel

    variables = dict.fromkeys(TEXT_VARIABLES, cel.Type.STRING)
    variables["attributes"] = cel.Type.Map(cel.Type.STRING, cel.Type.DYN)
    for name in columns:
        if not name.startswith("attributes."):
            variables[name] = cel.Type.BOOL if describe(name).kind == "flag" else cel.Type.DOUBLE
    return cel.NewEnv(variables=variables)


@dataclass(frozen=True, slots=True)
class Verdict:
    outcome: Outcome
    decided_by: DecidedBy


def decide(
    probability: float | None,
    fired: Sequence[Rule],
    thresholds: Thresholds | None,
    without_model: Outcome,
    listed: Listed | None = None,
) -> Verdict:
    """The policy: deny list, allow list, rules, model.

    Who is ``listed`` is declined or approved, whatever the rest says. Of the rules that fired the gravest speaks. A
    rule that says review or decline raises what the model says and never lowers it: a review rule does not rescue what
    the model declines. A rule that says approve, where no graver one fired, overrules the model. Without a model, and
    with no rule fired, the outcome is ``without_model``.
    """
    if listed is not None:
        return Verdict(listed.outcome, "list")
    by_rules = max((rule.outcome for rule in fired), key=lambda outcome: GRAVITY[outcome], default=None)
    if probability is None or thresholds is None:
        return Verdict(by_rules, "rule") if by_rules else Verdict(without_model, "fallback")
    by_model = model_outcome(probability, thresholds)
    if by_rules is None or (by_rules != "approve" and GRAVITY[by_model] > GRAVITY[by_rules]):
        return Verdict(by_model, "model")
    return Verdict(by_rules, "rule")


def model_outcome(probability: float, thresholds: Thresholds) -> Literal["approve", "review", "decline"]:
    """What the model alone says."""
    if probability >= thresholds.decline:
        return "decline"
    return "review" if probability >= thresholds.review else "approve"
