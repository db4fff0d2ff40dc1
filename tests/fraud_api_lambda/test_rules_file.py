"""The strict reader of rules files: what it refuses, and that YAML and JSON say the same."""

import json
import time
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from fraud_api_lambda import rules_file
from fraud_api_lambda.errors import RulesError
from fraud_api_lambda.rules_file import MAX_BYTES, MAX_DEPTH, read

LAUGHS = b"a: &a [x, x, x, x, x, x, x, x, x]\n" + b"".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n".encode()
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (LAUGHS, "Line 1, column 4: anchors and tags are not allowed"),
        (b"a: *b", "Line 1, column 4: aliases are not allowed"),
        (b"- &x 1", "anchors and tags"),
        (b"a: &x {b: 1}", "anchors and tags"),
        (b"a: !!str 5", "anchors and tags"),
        (b"a: !!python/object/apply:os.getpid []", "anchors and tags"),
        (b"a: 1\nb: 2\na: 3\n", "a name stands twice"),
        (b"x:\n  - {a: 1, a: 1}\n", "Line 2, column 16: a name stands twice"),
        (b'{"a": 1, "a": 2}', "A name stands twice"),
        (b'{"a": [{"b": 1, "\\u0062": 2}]}', "A name stands twice"),
        (b"1: a", "is not text"),
        (b"true: a", "is not text"),
        (b"[a]: 1", "is not text"),
        (b"a: 1\n---\nb: 2\n", "one document"),
        (b"[" * 5_000, "nested too deep"),
        (b'{"a":' * 5_000, "nested too deep"),
        (b"a: " + b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "nested too deep"),
        (b"a: [", "is not YAML"),
        (b'{"a": ', "is not YAML"),
        (b"a: \x07", "is not YAML"),
        (b'a: "\\ud800"', "is not YAML"),
        (b"\xff\xfea\x00", "not UTF-8"),
        (b" " * (MAX_BYTES + 1), "larger than 16 MB"),
    ],
)
def test_what_could_hide_or_grow_is_refused(text: bytes, told: str) -> None:
    with pytest.raises(RulesError) as caught:
        read(text)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_bomb_is_refused_before_it_grows() -> None:
    began = time.process_time()
    with pytest.raises(RulesError):
        read(LAUGHS * 100)
    with pytest.raises(RulesError, match="too many members"):
        read(b"[" + b"[]," * (rules_file.MAX_NODES + 10) + b"]")
    assert time.process_time() - began < 20


def test_the_place_of_a_mistake_is_told() -> None:
    with pytest.raises(RulesError) as caught:
        read(b"version: 1\nrules:\n  - id: [\n")
    assert (caught.value.rule, caught.value.line) == (None, 4)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("true", True), ("false", False), ("null", None), ("~", None), ("", None),
        ("yes", "yes"), ("no", "no"), ("on", "on"), ("True", "True"), ("0123", "0123"), ("0x1F", "0x1F"),
        ("1_000", "1_000"), ("NaN", "NaN"),
        ("12", 12), ("-3", -3), ("0", 0), ("-0", "-0"), ("1.5", "1.5"), ("1e3", "1e3"), (".inf", ".inf"),
        ("9" * 18, 10**18 - 1), ("9" * 19, "9" * 19), ("9" * 5_000, "9" * 5_000), ("٣", "٣"), ("12:30", "12:30"),
        ("2026-03-01T00:00:00Z", "2026-03-01T00:00:00Z"), ("2026-03-01", "2026-03-01"), ("'12'", "12"),
        ('"true"', "true"),
        ("''", ""), ("<<", "<<"), ("C1", "C1"),
    ],
)  # fmt: skip
def test_an_unquoted_word_means_what_it_seems_to(written: str, value: object) -> None:
    found = read(f"a: {written}\n".encode())
    assert found == {"a": value}
    assert type(found["a"]) is type(value)


def test_a_merge_key_is_a_name_like_any_other() -> None:
    assert read(b"<<: {a: 1}\nb: 2\n") == {"<<": {"a": 1}, "b": 2}


def test_an_empty_file_and_a_comment_hold_nothing() -> None:
    assert read(b"") is None
    assert read(b"# nothing here\n") is None
    assert read(b"\xef\xbb\xbfa: 1\n") == {"a": 1}


WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=8).filter(
    lambda text: "\ufeff" not in text and text.isprintable()
)
DATA = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**18) + 1, 10**18 - 1) | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=15,
)


@settings(max_examples=200)
@given(st.dictionaries(WORDS, DATA, max_size=4))
def test_json_and_yaml_of_the_same_data_are_read_alike(data: dict[str, Any]) -> None:
    assert read(json.dumps(data).encode()) == data
    assert read(json.dumps(data, ensure_ascii=False, indent=1).encode()) == data
    assert read(yaml.safe_dump(data, allow_unicode=True).encode()) == data


@settings(max_examples=300)
@given(st.binary(max_size=60) | st.text(st.sampled_from("ab{}[]:,-&*!'\"#|>?% \n1"), max_size=40).map(str.encode))
def test_any_bytes_are_read_or_refused_in_one_line(text: bytes) -> None:
    told = "fine"
    try:
        read(text)
    except RulesError as error:
        told = str(error)
    assert told
    assert "\n" not in told
