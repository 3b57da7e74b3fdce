"""Wrappings off and on again, and places in a JSON text."""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from urllib.parse import quote

import pytest

from proxy.rules.envelope import (
    MOST_TEXT,
    UnreadableError,
    edited,
    field_span,
    items,
    members,
    unpack,
    value_at,
)

TEXT = b'{"event":"x"}'
ZIPPED = gzip.compress(TEXT, mtime=0)
PACKED = base64.b64encode(ZIPPED)


def form(value: bytes) -> bytes:
    return b"data=" + quote(value, safe="").encode()


@pytest.mark.parametrize(
    ("body", "coding"),
    [
        (TEXT, b""),
        (b"  [1]", b"identity"),
        (ZIPPED, b""),
        (ZIPPED, b" GZIP"),
        (zlib.compress(TEXT), b"deflate"),
        (PACKED, b""),
        (form(PACKED) + b"&compression=base64", b""),
        (form(base64.b64encode(TEXT)), b""),
        (b"ip=1&" + form(TEXT) + b"&ver=1.2", b""),
        (gzip.compress(form(PACKED)), b"gzip"),
    ],
)
def test_what_is_taken_off_can_be_put_on_again(body: bytes, coding: bytes) -> None:
    unpacked = unpack(body, coding)
    json.loads(unpacked.text)
    again = unpack(unpacked.pack(b'{"event":"y"}'), coding)
    assert again.text == '{"event":"y"}'
    if not body.startswith((b"\x1f", b"\x78")) and b"H4s" not in body:  # compressors differ
        assert unpacked.pack(unpacked.text.encode()) == body


@pytest.mark.parametrize(
    ("body", "coding", "why"),
    [
        (TEXT, b"br", "a coding"),
        (b"\x1f\x8bnothing", b"", "broken"),
        (ZIPPED[:-4], b"", "ends early"),
        (gzip.compress(b"[" + b" " * MOST_TEXT), b"", "too large"),
        (b"***", b"", "base64"),
        (b'{"a":"\xff"}', b"", "UTF-8"),
        (b"", b"", ""),
    ],
)
def test_what_ingestion_does_not_read_either(body: bytes, coding: bytes, why: str) -> None:
    if not body:
        assert unpack(body).text == ""  # no JSON, which whoever looks into it finds out
        return
    with pytest.raises(UnreadableError, match=why):
        unpack(body, coding)


def test_fields_of_a_form() -> None:
    assert field_span(b"a=1&b=22", b"b") == (6, 8)
    assert field_span(b"a=1&b=22&a=3", b"a") == (11, 12)
    assert field_span(b"a=1", b"a") == (2, 3)
    for absent in (b"", b"ba=1", b"a"):
        with pytest.raises(UnreadableError):
            field_span(absent, b"a")


class TestPlaces:
    TEXT = ' {"a" : [1, {"b":"}"} ,2.50], "é\\"" :null,\n"a":-1e3}'

    def test_of_members(self) -> None:
        found = members(self.TEXT, 1)
        assert {key: self.TEXT[span.start : span.end] for key, span in found.items()} == {
            "a": "-1e3",
            'é"': "null",
        }
        assert members("{ }", 0) == {}

    def test_no_more_steps_than_there_are(self) -> None:
        assert members('{"a":1,"a":2}', 0, iter(range(2)))["a"].value == 2
        assert [span.value for span in items("[1,2]", 0, iter(range(2)))] == [1, 2]
        with pytest.raises(UnreadableError, match="too many"):
            members('{"a":1,"a":2}', 0, iter(range(1)))
        with pytest.raises(UnreadableError, match="too many"):
            list(items("[1,2]", 0, iter(range(1))))

    def test_of_items(self) -> None:
        start = self.TEXT.index("[")
        assert [self.TEXT[span.start : span.end] for span in items(self.TEXT, start)] == [
            "1",
            '{"b":"}"}',
            "2.50",
        ]
        assert list(items("[ ]", 0)) == []

    @pytest.mark.parametrize("text", ["", "{", "nul", '{"a":}', "[" * 100_000])
    def test_of_nothing(self, text: str) -> None:
        with pytest.raises(UnreadableError):
            value_at(text)

    def test_edits_leave_the_rest_alone(self) -> None:
        assert edited("abcdef", [(4, 5, "EE"), (0, 1, ""), (2, 2, "-")]) == "b-cdEEf"
        assert edited("abc", []) == "abc"
