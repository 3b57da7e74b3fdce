"""Wrappings off and on again."""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from proxy.rules.envelope import AT_ONCE, MOST_TEXT, QUICK_AT_ONCE, UnreadableError, field_span, unpack
from proxy.rules.steps import finish

if TYPE_CHECKING:
    from collections.abc import Callable

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
    unpacked = finish(unpack(body, coding))
    json.loads(unpacked.text)
    again = finish(unpack(finish(unpacked.pack(b'{"event":"y"}')), coding))
    assert again.text == b'{"event":"y"}'
    if not body.startswith((b"\x1f", b"\x78")) and b"H4s" not in body:  # compressors differ
        assert finish(unpacked.pack(unpacked.text)) == body


@pytest.mark.parametrize("size", [AT_ONCE - 20, AT_ONCE, 3 * AT_ONCE + 1, QUICK_AT_ONCE + 1])
@pytest.mark.parametrize(
    "wrap", [gzip.compress, form, lambda text: form(base64.b64encode(gzip.compress(text)))]
)
def test_what_is_long_is_done_in_pieces(size: int, wrap: Callable[[bytes], bytes]) -> None:
    text = json.dumps({"%": "é%2B+" * (size // 9), "n": list(range(size // 10))}).encode()
    body = wrap(text)
    unpacked = finish(unpack(body))
    assert unpacked.text == text
    assert finish(unpack(finish(unpacked.pack(b"[" + text + b"]")))).text == b"[" + text + b"]"


@pytest.mark.parametrize(
    ("body", "coding", "why"),
    [
        (TEXT, b"br", "a coding"),
        (b"\x1f\x8bnothing", b"", "broken"),
        (gzip.compress(bytes(MOST_TEXT // 2), 0)[:-9] + b"x" * 9, b"", "broken"),
        (ZIPPED[:-4], b"", "ends early"),
        (gzip.compress(b"[" + b" " * MOST_TEXT), b"", "too large"),
        (b"***", b"", "base64"),
        (b"", b"", ""),
    ],
)
def test_what_ingestion_does_not_read_either(body: bytes, coding: bytes, why: str) -> None:
    if not body:
        assert finish(unpack(body)).text == b""  # no JSON, which whoever looks into it finds out
        return
    with pytest.raises(UnreadableError, match=why):
        finish(unpack(body, coding))


def test_fields_of_a_form() -> None:
    assert field_span(b"a=1&b=22", b"b") == (6, 8)
    assert field_span(b"a=1&b=22&a=3", b"a") == (11, 12)
    assert field_span(b"a=1", b"a") == (2, 3)
    for absent in (b"", b"ba=1", b"a"):
        with pytest.raises(UnreadableError):
            field_span(absent, b"a")
