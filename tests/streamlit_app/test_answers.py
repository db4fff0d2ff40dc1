"""Reading answers: whole, strictly, and without what is not known."""

from dataclasses import dataclass
from typing import Any, Literal

import pytest

from streamlit_app.answers import Decision, Me, Party, read
from tests.streamlit_app.servers import decision


@dataclass(frozen=True)
class Inner:
    n: int


@dataclass(frozen=True)
class Outer:
    name: str
    share: float | None
    kind: Literal["a", "b"]
    inner: Inner
    many: tuple[Inner, ...]
    by_name: dict[str, float]
    note: str = "none"


GOOD: dict[str, Any] = {
    "name": "x", "share": 1, "kind": "a", "inner": {"n": 1}, "many": [{"n": 2}, {"n": 3}], "by_name": {"a": 0.5},
}  # fmt: skip


def test_an_answer_is_read_whole_and_what_is_not_known_is_left_alone() -> None:
    found = read(Outer, {**GOOD, "new": {"in": "the next version"}})
    assert found == Outer("x", 1.0, "a", Inner(1), (Inner(2), Inner(3)), {"a": 0.5})
    assert isinstance(found.share, float)
    assert read(Outer, {**GOOD, "share": None, "note": "here"}).note == "here"


@pytest.mark.parametrize(
    "change",
    [
        {"name": 1}, {"name": None}, {"share": "1"}, {"share": True}, {"share": float("nan")}, {"share": float("inf")},
        {"kind": "c"}, {"kind": None}, {"kind": ["a"]}, {"inner": None}, {"inner": {"n": 1.5}}, {"inner": {"n": True}},
        {"inner": {}}, {"inner": []}, {"many": {"n": 1}}, {"many": [{"n": "1"}]}, {"many": None}, {"by_name": []},
        {"by_name": {"a": "1"}}, {"note": 7},
    ],
)  # fmt: skip
def test_anything_else_is_refused_and_not_repeated(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError) as caught:
        read(Outer, {**GOOD, **change})
    assert "1.5" not in str(caught.value)


@pytest.mark.parametrize("name", sorted(GOOD))
def test_a_member_that_is_missing_is_refused(name: str) -> None:
    with pytest.raises(ValueError):
        read(Outer, {key: value for key, value in GOOD.items() if key != name})


@pytest.mark.parametrize("value", [None, [], "text", 1])
def test_what_is_no_object_is_refused(value: Any) -> None:
    for shape in (Decision, Me, Party):
        with pytest.raises(ValueError):
            read(shape, value)


def test_a_reasons_value_may_be_a_number_a_text_or_nothing() -> None:
    def reason(value: Any) -> dict[str, Any]:
        return {"code": "A", "feature": "a", "value": value, "contribution": 1.0, "text": "A."}

    found = read(Decision, decision(reasons=[reason(1), reason("web"), reason(None)]))
    assert [each.value for each in found.reasons] == [1.0, "web", None]


def test_a_role_opens_what_the_api_says_and_nothing_beside_it() -> None:
    me = read(Me, {"name": "demo", "role": "score", "routes": [{"method": "GET", "path": "/model"}]})
    assert me.may("GET", "/model")
    assert not me.may("POST", "/model")
    assert not me.may("GET", "/transactions")
