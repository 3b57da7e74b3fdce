"""Places in a JSON text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from proxy.rules.jsontext import MOST_SCALAR, STRIDE, JsonText, MalformedError, edited
from proxy.rules.steps import finish

if TYPE_CHECKING:
    from proxy.rules.steps import Steps

TEXT = b' {"a" : [1, {"b":"}"} ,2.50], "\xc3\xa9\\"" :null,\n"a":-1e3}'
LONG = b'"' + b'x\\"]' * 5000 + b'"'
LONGER = b'"' + b'x\\"]' * 100_000 + b'"'
DEEP = b"[" * 1000 + b"1" + b"]" * 1000
WIDE = b"[" + b'{"a":[1]},' * 100 + b"2]"
MUCH = b"[" + b"1," * 5000 + b"2]"


def skipped(text: bytes, at: int = 0) -> int:
    return finish(JsonText(text, 0).skip(at))


def parts_of(text: bytes, at: int, most: int = 100) -> list[bytes]:
    """The items of an array."""
    walk = JsonText(text, most)
    found: list[bytes] = []

    def visit(start: int) -> Steps[int]:
        end = yield from walk.skip(start)
        found.append(text[start:end])
        return end

    end = finish(walk.items(at, visit))
    assert text[end - 1 : end] == b"]"
    return found


def test_members() -> None:
    walk = JsonText(TEXT, 100)
    start = walk.begin()
    assert walk.opens(start, b"{")
    assert not walk.opens(start, b"[")
    found, end = finish(walk.members(start))
    assert end == len(TEXT)
    assert {key: TEXT[slice(*span)] for key, span in found.items()} == {"a": b"-1e3", 'é"': b"null"}
    assert finish(JsonText(b"{ } ", 0).members(0)) == ({}, 3)


def test_members_are_visited() -> None:
    walk = JsonText(b'{"a":1,"b":[2],"a":{"c":[3]}}', 100)
    seen: list[int] = []

    def visit(at: int) -> Steps[int]:
        seen.append(at)
        return (yield from walk.skip(at))

    found, _ = finish(walk.members(0, {"a": visit}))
    assert seen == [5, 19]
    assert found == {"a": (19, 28), "b": (11, 14)}


def test_items() -> None:
    assert parts_of(TEXT, TEXT.index(b"[")) == [b"1", b'{"b":"}"}', b"2.50"]
    assert parts_of(b"[ ]", 0) == []
    assert parts_of(b"[" + LONG + b" , " + DEEP + b"]", 0) == [LONG, DEEP]


@pytest.mark.parametrize(
    "value", [LONG, DEEP, WIDE, MUCH, b"[" + LONG + b"]", b'{"a":' + WIDE + b"}", b"{}", b'"\\\\"']
)
def test_any_value_is_stepped_over(value: bytes) -> None:
    assert skipped(value) == len(value)
    assert skipped(b"x" + value + b', "\\"}]', 1) == len(value) + 1


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b'"',
        b'"\\',
        b"[[]",
        b'["]',
        b'"' + b"x" * 100_000,
        b'["' + b"x" * 100_000,
        b"}",
        b",",
        b":",
        b"[" * 9000,
    ],
)
def test_what_ends_early_is_malformed(text: bytes) -> None:
    with pytest.raises(MalformedError):
        skipped(text)


@pytest.mark.parametrize(
    "text",
    [
        b"{",
        b'{"a"}',
        b'{"a":}',
        b'{"a":1',
        b'{"a":1 "b":2}',
        b"{a:1}",
        b'{"\\x":1}',
        b'{"' + b"k" * 600 + b'":1}',
    ],
)
def test_broken_objects(text: bytes) -> None:
    with pytest.raises(MalformedError):
        finish(JsonText(text, 100).members(0))


@pytest.mark.parametrize("text", [b"[", b"[1", b"[1 2]", b"[,]"])
def test_broken_arrays(text: bytes) -> None:
    with pytest.raises(MalformedError):
        parts_of(text, 0)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b'"\\u00e9"', "é"),
        (b"-1.5", -1.5),
        (b"null", None),
        (b"[1]", ...),
        (b'{"a":1}', ...),
        (b'"' + b"x" * MOST_SCALAR + b'"', ...),
    ],
)
def test_values(text: bytes, value: Any) -> None:
    assert JsonText(text, 0).value((0, len(text))) == value


@pytest.mark.parametrize("text", [b"nul", b'"\xff"', b"1" * 5000])
def test_no_values(text: bytes) -> None:
    with pytest.raises(MalformedError):
        JsonText(text, 0).value((0, len(text)))


def test_no_more_places_than_are_allowed() -> None:
    assert len(parts_of(b"[1,2]", 0, 2)) == 2
    with pytest.raises(MalformedError, match="too many"):
        parts_of(b"[1,2]", 0, 1)
    assert len(finish(JsonText(b'{"a":1,"a":2}', 2).members(0))[0]) == 1
    with pytest.raises(MalformedError, match="too many"):
        finish(JsonText(b'{"a":1,"a":2}', 1).members(0))


@pytest.mark.parametrize(
    "value", [b"[" + b"[]," * 100_000 + b"1]", LONGER, b"[" + LONGER + b"]", b"[" + MUCH * 20 + b"]"]
)
def test_a_long_walk_has_pauses(value: bytes) -> None:
    steps = JsonText(value, 0).skip(0)
    pauses = sum(1 for pause in steps if pause is None)
    assert pauses >= len(value) // (2 * STRIDE)
    assert skipped(value) == len(value)


def test_edits_leave_the_rest_alone() -> None:
    assert edited(b"abcdef", [(4, 5, b"EE"), (0, 1, b""), (2, 2, b"-")]) == b"b-cdEEf"
    assert edited(b"abc", []) == b"abc"
