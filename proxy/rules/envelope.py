"""What the bodies of events are packed in, taken off and put on again around an edited text.

PostHog's ingestion takes JSON in gzip (told by its magic bytes, whatever the headers say), in base64, in the
``data`` field of a form, or in the ``data`` of the query of a GET, and these in each other. What is unpacked
here is packed in the same way again; all that is not edited stays byte for byte.

``members`` and ``items`` say where in a JSON text the values stand, so that a text can be edited without
being written anew: numbers, escapes, blanks and the order of keys stay as they came.

Memory: a body and its text, ``MOST_TEXT`` bytes at most, and what the text says, ``MOST_CONTAINERS`` objects
and arrays at most: a few kilobytes of gzip can hold millions of them, each a hundred times its text.
"""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from json.decoder import JSONDecoder
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, unquote_plus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

MOST_TEXT = 8 * 1024 * 1024
"""Bytes that a body may unfold to; what is larger is sent as it came."""

MOST_CONTAINERS = 250_000
"""Brackets that open in a text. A made-up recording of 3.7 MiB has 60,000."""

_GZIP = b"\x1f\x8b"
_BLANK = re.compile(r"[ \t\n\r]*")
_decode = JSONDecoder().raw_decode
_ENDLESS = repeat(True)
_NONE_LEFT = object()


class UnreadableError(ValueError):
    """Not what ingestion reads, or too large to look into."""


@dataclass(frozen=True, slots=True)
class Unpacked:
    """The JSON text of a body, and how to pack another one as it was packed."""

    text: str
    pack: Callable[[bytes], bytes]


class Span(NamedTuple):
    """A value in a text: what it is, and where it stands."""

    value: Any
    start: int
    end: int


# --- wrappings -----------------------------------------------------------------------------------


def unpack(body: bytes, content_encoding: bytes = b"") -> Unpacked:
    """Take everything off. Raises ``UnreadableError``."""
    layers: list[Callable[[bytes], bytes]] = []
    coding = content_encoding.strip().lower()
    if coding in (b"gzip", b"deflate"):
        body = _inflated(body, gzip=coding == b"gzip")
        layers.append(partial(_deflated, gzip=coding == b"gzip"))
    elif coding not in (b"", b"identity"):
        raise UnreadableError("a coding that ingestion does not know")
    body = _unzipped(body, layers)
    if body.startswith(b"data=") or (not _is_json(body) and b"&data=" in body):
        start, end = field_span(body, b"data")
        layers.append(partial(_in_form, body, start, end))
        body = unquote_plus(body[start:end].decode("latin-1"), "latin-1").encode("latin-1")
    if not _is_json(body):
        layers.append(base64.b64encode)
        body = _unzipped(_from_base64(body), layers)
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise UnreadableError("not UTF-8") from None
    if text.count("{") + text.count("[") > MOST_CONTAINERS:
        raise UnreadableError("too many objects")
    return Unpacked(text, partial(_packed, layers))


def field_span(form: bytes, name: bytes) -> tuple[int, int]:
    """Where the last value of a field of a form, or of a query, stands. Raises ``UnreadableError``."""
    at = max(form.rfind(b"&%b=" % name) + 1, 0)
    if not form.startswith(b"%b=" % name, at):
        raise UnreadableError("no such field")
    start = at + len(name) + 1
    end = form.find(b"&", start)
    return start, len(form) if end < 0 else end


def _packed(layers: Sequence[Callable[[bytes], bytes]], text: bytes) -> bytes:
    for pack in reversed(layers):
        text = pack(text)
    return text


def _in_form(form: bytes, start: int, end: int, value: bytes) -> bytes:
    return form[:start] + quote(value, safe="").encode() + form[end:]


def _unzipped(body: bytes, layers: list[Callable[[bytes], bytes]]) -> bytes:
    if not body.startswith(_GZIP):
        return body
    layers.append(partial(_deflated, gzip=True))
    return _inflated(body, gzip=True)


def _inflated(data: bytes, *, gzip: bool) -> bytes:
    engine = zlib.decompressobj(16 + zlib.MAX_WBITS if gzip else zlib.MAX_WBITS)
    try:
        plain = engine.decompress(data, MOST_TEXT)
    except zlib.error:
        raise UnreadableError("broken compression") from None
    if not engine.eof:
        raise UnreadableError("too large, or it ends early")
    return plain


def _deflated(data: bytes, *, gzip: bool) -> bytes:
    engine = zlib.compressobj(6, wbits=16 + zlib.MAX_WBITS if gzip else zlib.MAX_WBITS)
    return engine.compress(data) + engine.flush()


def _from_base64(text: bytes) -> bytes:
    packed = text.strip().replace(b" ", b"+").replace(b"-", b"+").replace(b"_", b"/")
    try:
        return base64.b64decode(packed + b"=" * (-len(packed) % 4), validate=True)
    except binascii.Error:
        raise UnreadableError("not base64") from None


def _is_json(data: bytes) -> bool:
    return data.lstrip()[:1] in (b"{", b"[")


# --- places in a JSON text -----------------------------------------------------------------------


def value_at(text: str, start: int = 0) -> Span:
    """Return the value that begins at ``start``, after blanks. Raises ``UnreadableError``."""
    start = _skip(text, start)
    try:
        value, end = _decode(text, start)
    except (ValueError, RecursionError):
        raise UnreadableError("not JSON") from None
    return Span(value, start, end)


def members(text: str, start: int, steps: Iterator[object] = _ENDLESS) -> dict[str, Span]:
    """Return the values of the object at ``start``, by key; of several with one key the last, as parsers do.
    The object is sound: ``value_at`` has read it. Each value takes one of ``steps``; raises
    ``UnreadableError`` where there are none left."""
    found: dict[str, Span] = {}
    at = _skip(text, start + 1)
    while text[at] != "}":
        _step(steps)
        key, at = _decode(text, at)
        found[key] = span = value_at(text, _skip(text, at) + 1)
        at = _skip(text, span.end)
        if text[at] == ",":
            at = _skip(text, at + 1)
    return found


def items(text: str, start: int, steps: Iterator[object] = _ENDLESS) -> Iterator[Span]:
    """Yield the values of the array at ``start``, which is sound. ``steps`` as for ``members``."""
    at = _skip(text, start + 1)
    while text[at] != "]":
        _step(steps)
        span = value_at(text, at)
        yield span
        at = _skip(text, span.end)
        if text[at] == ",":
            at = _skip(text, at + 1)


def edited(text: str, edits: Sequence[tuple[int, int, str]]) -> str:
    """Return the text with each ``(start, end, new)`` in place; they do not overlap."""
    parts, at = [], 0
    for start, end, new in sorted(edits):
        parts += [text[at:start], new]
        at = end
    return "".join([*parts, text[at:]])


def _step(steps: Iterator[object]) -> None:
    if next(steps, _NONE_LEFT) is _NONE_LEFT:
        raise UnreadableError("too many events or keys")


def _skip(text: str, at: int) -> int:
    match = _BLANK.match(text, at)
    return at if match is None else match.end()
