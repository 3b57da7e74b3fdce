"""What the bodies of events are packed in, taken off and put on again around an edited text.

PostHog's ingestion takes JSON in gzip (told by its magic bytes, whatever the headers say), in base64, in the
``data`` field of a form, or in the ``data`` of the query of a GET, and these in each other. What is unpacked
here is packed in the same way again; all that is not edited stays byte for byte.

Both are steps (steps.py): what is long is compressed in a call that can run in a thread, and written in forms
piece by piece.

Memory: a body and its text, ``MOST_TEXT`` bytes at most.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import quote, unquote_to_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from proxy.rules.steps import Steps

    Layer: TypeAlias = Callable[[bytes], Steps[bytes]]

MOST_TEXT = 8 * 1024 * 1024
"""Bytes that a body may unfold to; what is larger is sent as it came."""

AT_ONCE = 16 * 1024
"""Bytes that are compressed, or written in a form, where one stands: half a millisecond."""

QUICK_AT_ONCE = 192 * 1024
"""The same of what is inflated, or written in base64 (of which three bytes are a unit)."""

LEVEL = 4
"""Of compression: 6, the usual one, takes half as long again and saves 1 %."""

_GZIP = b"\x1f\x8b"


class UnreadableError(ValueError):
    """Not what ingestion reads, or too large to look into."""


@dataclass(frozen=True, slots=True)
class Unpacked:
    """The text of a body, and what it was packed in, the outermost first."""

    text: bytes
    layers: Sequence[Layer]

    def pack(self, text: bytes) -> Steps[bytes]:
        """Return another text packed as this one was."""
        for layer in reversed(self.layers):
            text = yield from layer(text)
        return text


def unpack(body: bytes, content_encoding: bytes = b"") -> Steps[Unpacked]:
    """Take everything off. Raises ``UnreadableError``."""
    layers: list[Layer] = []
    coding = content_encoding.strip().lower()
    if coding in (b"gzip", b"deflate"):
        body = yield from _inflated(body, gzip=coding == b"gzip")
        layers.append(partial(_deflated, gzip=coding == b"gzip"))
    elif coding not in (b"", b"identity"):
        raise UnreadableError("a coding that ingestion does not know")
    body = yield from _unzipped(body, layers)
    if body.startswith(b"data=") or (not _is_json(body) and b"&data=" in body):
        start, end = field_span(body, b"data")
        layers.append(partial(_in_form, body, start, end))
        body = yield from _unquoted(body[start:end])
    if not _is_json(body):
        layers.append(_in_base64)
        body = yield from _unzipped(_from_base64(body), layers)
    return Unpacked(body, layers)


def field_span(form: bytes, name: bytes) -> tuple[int, int]:
    """Where the last value of a field of a form, or of a query, stands. Raises ``UnreadableError``."""
    at = max(form.rfind(b"&%b=" % name) + 1, 0)
    if not form.startswith(b"%b=" % name, at):
        raise UnreadableError("no such field")
    start = at + len(name) + 1
    end = form.find(b"&", start)
    return start, len(form) if end < 0 else end


def _unzipped(body: bytes, layers: list[Layer]) -> Steps[bytes]:
    if not body.startswith(_GZIP):
        return body
    layers.append(partial(_deflated, gzip=True))
    return (yield from _inflated(body, gzip=True))


def _inflated(data: bytes, *, gzip: bool) -> Steps[bytes]:
    engine = zlib.decompressobj(16 + zlib.MAX_WBITS if gzip else zlib.MAX_WBITS)
    parts = [_unpacked(engine, data, QUICK_AT_ONCE)]
    if engine.unconsumed_tail:
        parts.append((yield partial(_unpacked, engine, engine.unconsumed_tail, MOST_TEXT - len(parts[0]))))
    if not engine.eof:
        raise UnreadableError("broken, too large, or it ends early")
    return b"".join(parts)


def _unpacked(engine: zlib._Decompress, data: bytes, most: int) -> bytes:
    """Nothing where it is broken."""
    try:
        return engine.decompress(data, most)
    except zlib.error:
        return b""


def _deflated(data: bytes, *, gzip: bool) -> Steps[bytes]:
    if len(data) <= AT_ONCE:
        # A window of 8 KiB: half the time, as there is less memory to be made ready, and 1 % more to send.
        return _packed(zlib.compressobj(LEVEL, wbits=13 + 16 * gzip, memLevel=7), data)
    packed: bytes = yield partial(_packed, zlib.compressobj(LEVEL, wbits=15 + 16 * gzip), data)
    return packed


def _packed(engine: zlib._Compress, data: bytes) -> bytes:
    return engine.compress(data) + engine.flush()


def _in_form(form: bytes, start: int, end: int, value: bytes) -> Steps[bytes]:
    parts = [form[:start]]
    for at in range(0, len(value), AT_ONCE):
        if at:
            yield None
        parts.append(quote(value[at : at + AT_ONCE], safe="").encode())
    parts.append(form[end:])
    return b"".join(parts)


def _unquoted(value: bytes) -> Steps[bytes]:
    value = value.replace(b"+", b" ")
    parts, at = [], 0
    while at < len(value):
        if at:
            yield None
        cut = at + AT_ONCE
        escape = value.find(b"%", cut - 2, cut)
        cut = cut if escape < 0 else escape  # which is not to be torn
        parts.append(unquote_to_bytes(value[at:cut]))
        at = cut
    return b"".join(parts)


def _in_base64(data: bytes) -> Steps[bytes]:
    parts = []
    for at in range(0, len(data), QUICK_AT_ONCE):
        if at:
            yield None
        parts.append(base64.b64encode(data[at : at + QUICK_AT_ONCE]))
    return b"".join(parts)


def _from_base64(text: bytes) -> bytes:
    packed = text.strip().replace(b" ", b"+").replace(b"-", b"+").replace(b"_", b"/")
    try:
        return base64.b64decode(packed + b"=" * (-len(packed) % 4), validate=True)
    except binascii.Error:
        raise UnreadableError("not base64") from None


def _is_json(data: bytes) -> bool:
    return data.lstrip()[:1] in (b"{", b"[")
