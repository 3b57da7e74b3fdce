"""The places that are found in a JSON text without reading it are those that Python's own reader finds."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.rules.jsontext import JsonText, MalformedError
from proxy.rules.steps import finish

texts = st.text() | st.text('"\\]}{[,: \n', max_size=2000)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=40) | st.dictionaries(st.text(max_size=80), inner, max_size=4),
    max_leaves=60,
)
dumps = st.sampled_from(
    [
        json.dumps,
        lambda value: json.dumps(value, ensure_ascii=False, separators=(", ", " : "), indent=1),
        lambda value: json.dumps(value, separators=(",", ":")),
    ]
)


@settings(max_examples=400, deadline=None)
@given(values, dumps, st.text(), st.text())
def test_a_value_ends_where_it_ends(value: Any, dump: Any, before: str, after: str) -> None:
    inner, start = dump(value).encode(), len(before.encode())
    text = before.encode() + inner + (b"" if not after else b"," + after.encode())
    assert finish(JsonText(text, 1).skip(start)) == start + len(inner)


@settings(max_examples=400, deadline=None)
@given(st.dictionaries(st.text(max_size=80), values, max_size=6), dumps)
def test_members_are_those_that_are_read(value: Any, dump: Any) -> None:
    text = dump(value).encode()
    found, end = finish(JsonText(text, 100).members(0))
    assert end == len(text)
    assert repr({key: json.loads(text[slice(*span)]) for key, span in found.items()}) == repr(value)


@settings(max_examples=400, deadline=None)
@given(st.binary() | st.text('"\\]}{[,: \n1').map(str.encode))
def test_anything_ends_or_is_malformed(text: bytes) -> None:
    try:
        end = finish(JsonText(text, 5).skip(0))
    except MalformedError:
        return
    assert 0 < end <= len(text)
