"""A rules file as plain data: YAML read strictly, or JSON, which is the faster way to hand over long lists.

Stricter than YAML's usual readers, because a file that approves and declines must mean what it seems to say: a name
that stands twice in one mapping is refused (readers take the last), so are aliases, anchors and tags (a short file can
unfold into an endless one), a second document, and more nodes or depth than any rules file has. ``true``, ``false``
and ``null`` alone are not text (``no`` is), a whole number is one only as it would be written again (``0123`` is text,
an account's number keeps its zeros), and a time stays the text that it is.
"""

import json
import re
from typing import Any

from .errors import RulesError

MAX_BYTES = 16 * 2**20
#: Scalars, sequences and mappings: about what a hundred thousand list entries with all their members come to.
MAX_NODES = 1_500_000
MAX_DEPTH = 12

_WORDS: dict[str, bool | None] = {"true": True, "false": False, "null": None, "~": None, "": None}
_WHOLE = re.compile(r"(?:-?[1-9]\d{0,17}|0)\Z", re.ASCII)


def read(text: bytes) -> Any:
    """``text`` as mappings, lists, text, whole numbers, booleans and None. Raises :class:`RulesError`.

    Line and column, where they are told, are positions in the file.
    """
    if len(text) > MAX_BYTES:
        raise RulesError(f"The rules file is larger than {MAX_BYTES // 2**20} MB.")
    try:
        words = text.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise RulesError("The rules file is not UTF-8.") from None
    if words.lstrip()[:1] == "{":
        try:
            return json.loads(words, object_pairs_hook=_object, parse_int=_scalar, parse_float=str, parse_constant=str)
        except ValueError:
            pass  # YAML's own short form begins so too
        except RecursionError:
            raise RulesError("The rules file is nested too deep.") from None
    return _yaml(words)


def _yaml(words: str) -> Any:
    import yaml

    result: list[Any] = []
    top = result  # what a finished node goes into: a list, or a mapping's flat list of names and values
    outer: list[tuple[list[Any], bool]] = []
    nodes = documents = 0
    event: Any = None
    try:
        # Events and not nodes: six times as fast, and nothing is built that was not checked.
        for event in yaml.parse(words, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            kind = type(event)
            if kind is yaml.ScalarEvent:
                nodes += 1
                if event.anchor is not None or event.tag is not None:
                    raise _refused("anchors and tags are not allowed in a rules file", event)
                top.append(_scalar(event.value) if event.style in _PLAIN else event.value)
            elif kind is yaml.MappingStartEvent or kind is yaml.SequenceStartEvent:
                nodes += 1
                if event.anchor is not None or event.tag is not None:
                    raise _refused("anchors and tags are not allowed in a rules file", event)
                outer.append((top, kind is yaml.MappingStartEvent))
                top = []
                if len(outer) > MAX_DEPTH or nodes > MAX_NODES:
                    raise _refused("the rules file is nested too deep or has too many members", event)
            elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
                inner = top
                top, is_mapping = outer.pop()
                top.append(_mapping(inner[::2], inner[1::2]) if is_mapping else inner)
            elif kind is yaml.AliasEvent:
                raise _refused("aliases are not allowed in a rules file", event)
            elif kind is yaml.DocumentStartEvent:
                documents += 1
                if documents > 1:
                    raise _refused("a rules file is one document", event)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise RulesError(
            "The rules file is not YAML.", line=mark and mark.line + 1, column=mark and mark.column + 1
        ) from None
    except RulesError as error:
        if error.line is None and event is not None:
            raise _refused("a name stands twice, or is not text, in the mapping that ends here", event) from None
        raise
    except (RecursionError, ValueError):
        raise RulesError("The rules file is not YAML.") from None
    return result[0] if result else None


#: How a scalar looks that is not quoted and no block of text.
_PLAIN = ("", None)


def _scalar(text: str) -> Any:
    """What an unquoted word means."""
    if text in _WORDS:
        return _WORDS[text]
    return int(text) if _WHOLE.match(text) else text


def _mapping(names: list[Any], values: list[Any]) -> dict[str, Any]:
    """A mapping whose names are text and stand once."""
    if set(map(type, names)) - {str} or len(set(names)) < len(names):
        raise RulesError("A name stands twice in one mapping of the rules file, or is not text.")
    return dict(zip(names, values, strict=True))


def _object(members: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(members)
    if len(made) < len(members):
        raise RulesError("A name stands twice in one mapping of the rules file, or is not text.")
    return made


def _refused(what: str, event: Any) -> RulesError:
    line, column = event.start_mark.line + 1, event.start_mark.column + 1
    return RulesError(f"Line {line}, column {column}: {what}.", line=line, column=column)
