"""Rules as data, and the decision policy.

A rule is a CEL expression (https://cel.dev) over the transaction and its features. Every number is a double, every flag
a boolean, every word a string; what is missing has been filled by ``features.fill``, and where even that knows nothing
it is NaN, with which every comparison is false. A rules file is compiled as a whole when it is loaded: an unknown name,
a type error or an expression that is not boolean refuses the file, with the rule's id and the position.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from .errors import RuleFailed, RulesError
from .features import FEATURES, Floats, describe, type_name
from .schemas import DecidedBy, Event, Thresholds
from .settings import Outcome

#: From the mildest to the gravest.
GRAVITY: dict[Outcome, int] = {"approve": 0, "review": 1, "decline": 2}

_RULE_ID = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
_KEYS = {"id", "expression", "outcome", "reason", "enabled"}
MAX_RULES = 200
MAX_EXPRESSION = 2_000

#: Variables that are text; ``type`` is a word CEL keeps for itself.
TEXT_VARIABLES = ("transaction_type", "customer_id", "counterparty_id", "device_id", "currency")


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule as it was written, compiled."""

    id: str
    expression: str
    outcome: Outcome
    reason: str
    enabled: bool
    program: Any = field(repr=False, compare=False)


class RuleSet:
    """Rules that were checked together, and the columns whose values they see.

    ``version`` names the file in every answer: its own ``version`` if it has one, with a digest of its bytes.
    """

    def __init__(self, version: str, rules: Sequence[Rule], columns: tuple[str, ...]):
        self.version = version
        self.rules = tuple(rules)
        self.columns = columns
        self._active = tuple(rule for rule in self.rules if rule.enabled)
        # Only what some rule names is handed over: building the variables costs more than evaluating the rules.
        words = {word for rule in self._active for word in re.findall(r"[A-Za-z_]\w*", rule.expression)}
        self._reads = tuple(
            (name, position, describe(name).kind == "flag") for position, name in enumerate(columns) if name in words
        )
        self._texts = tuple(name for name in TEXT_VARIABLES if name in words)
        self._attributes = "attributes" in words

    def fired(self, event: Event, filled: Floats) -> tuple[Rule, ...]:
        """The enabled rules whose expression is true of this event and its filled columns, in file order.

        A rule about an attribute that was not sent does not fire: absent is missing, not an error. Raises
        :class:`RuleFailed`, with what fired beside it, when any other expression cannot be evaluated.
        """
        if not self._active:
            return ()
        activation = _environment(self.columns).Activation(self._variables(event, filled))
        found: list[Rule] = []
        failed = None
        for rule in self._active:
            value = rule.program.eval(activation).value()
            if value is True:
                found.append(rule)
            elif value is not False and "attributes" not in rule.expression:
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


def load_rules(text: bytes, columns: Sequence[str] = ()) -> RuleSet:
    """Parse and compile a rules file (YAML). ``columns`` are a bundle's; none: those of the transaction itself.

    Raises :class:`RulesError`; the caller keeps the rules it has.
    """
    import yaml

    try:
        data = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506  (both are safe)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise RulesError(
            "The rules file is not YAML.", line=mark and mark.line + 1, column=mark and mark.column + 1
        ) from None
    except (RecursionError, ValueError):
        raise RulesError("The rules file is not YAML.") from None
    items = data.get("rules") if isinstance(data, dict) else None
    if not isinstance(items, list) or set(data) - {"version", "rules"}:
        raise RulesError("A rules file has the members 'version' and 'rules', a list.")
    if len(items) > MAX_RULES:
        raise RulesError(f"A rules file holds at most {MAX_RULES} rules.")
    names = tuple(columns) or tuple(feature.name for feature in FEATURES)
    rules = tuple(_rule(item, number, names) for number, item in enumerate(items, 1))
    ids = [rule.id for rule in rules]
    twice = next((rule_id for rule_id in ids if ids.count(rule_id) > 1), None)
    if twice:
        raise RulesError(f"Rule '{twice}' is there twice.", rule=twice)
    digest = hashlib.sha256(text).hexdigest()[:8]
    label = data.get("version")
    return RuleSet(f"{label}+{digest}" if isinstance(label, str | int) else digest, rules, names)


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
    unknown = sorted(str(key) for key in item if key not in _KEYS)
    if unknown:
        choices = ", ".join(sorted(_KEYS))
        raise RulesError(
            f"Rule '{rule_id}' has the unknown member '{unknown[0][:40]}'. Choices are: {choices}.", rule=rule_id
        )
    outcome, reason, enabled = item.get("outcome"), item.get("reason", ""), item.get("enabled", True)
    if not isinstance(outcome, str) or outcome not in GRAVITY:
        raise RulesError(f"Rule '{rule_id}' needs an outcome: {', '.join(get_args(Outcome))}.", rule=rule_id)
    if not isinstance(reason, str) or len(reason) > 300 or not isinstance(enabled, bool):
        raise RulesError(f"Rule '{rule_id}': 'reason' is text, 'enabled' is true or false.", rule=rule_id)
    expression = item.get("expression")
    if not isinstance(expression, str) or not 0 < len(expression) <= MAX_EXPRESSION:
        raise RulesError(f"Rule '{rule_id}' needs an 'expression' of up to {MAX_EXPRESSION} characters.", rule=rule_id)
    program = compile_expression(expression, columns, rule_id)
    return Rule(rule_id, expression, outcome, reason or f"Rule {rule_id}.", enabled, program)


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
) -> Verdict:
    """The policy: rules, then the model; the gravest wins.

    Of the rules that fired the gravest speaks. A rule that says review or decline raises what the model says and never
    lowers it: a review rule does not rescue what the model declines. A rule that says approve, where no graver one
    fired, overrules the model. Without a model, and with no rule fired, the outcome is ``without_model``.
    """
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
