"""Message bodies: strict readers that know where a body ends, and the chunks that we write.

A reader takes from the front of a buffer that its caller owns, and keeps no bytes itself: what it has
not taken (part of a chunk-size line, at most 274 bytes, or part of a trailer line, at most
``trailer_limit``) stays in that buffer. What lies behind the end of the body is never touched.

Chunk extensions and trailers are read, bounded and dropped: nothing behind us needs them, and both
have smuggled requests (CVE-2025-55315; CVE-2025-58068).

Time is linear in the bytes, however they were cut: what was scanned for a line end is not scanned again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

from proxy.errors import Violation
from proxy.message import Framing, FramingKind
from proxy.wire import grammar
from proxy.wire.strict import judge_field_line

_SIZE_DIGITS = 16
_EXTENSION_BYTES = 256
_CHUNK_LINE_BYTES = _SIZE_DIGITS + _EXTENSION_BYTES + 2
_LARGEST_CHUNK = 2**63 - 1

LAST_CHUNK = b"0\r\n\r\n"
"""The end of a chunked body without trailers (RFC 9112 section 7.1)."""


def chunk(data: bytes) -> bytes:
    """Frame ``data`` as one chunk; nothing for nothing, as an empty chunk would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


class BodyReader(Protocol):
    """Reads one body, in pieces."""

    done: bool
    """The body has ended: ``take`` returns nothing more and leaves the buffer alone."""

    def take(self, buffer: bytearray) -> bytes:
        """Consume from the front of ``buffer`` all that belongs to the body; return its content.

        Raises:
            Violation: 400, the bytes are not a body (of a response: the caller makes it a 502).
        """
        ...

    def at_eof(self) -> None:
        """The peer has closed, and what it sent was taken.

        Raises:
            Violation: 400 ``body_incomplete``, the body has not ended.
        """
        ...


def open_body(framing: Framing, *, trailer_limit: int) -> BodyReader:
    """Return the reader for ``framing``; ``trailer_limit`` in bytes, line ends included."""
    if framing.kind is FramingKind.CHUNKED:
        return ChunkedBody(trailer_limit)
    if framing.kind is FramingKind.UNTIL_CLOSE:
        return UntilCloseBody()
    return LengthBody(framing.length)


class LengthBody:
    """A body of known length (RFC 9112 section 6.2); of length 0: none at all. ``remaining`` counts
    the bytes that are still to be taken."""

    def __init__(self, length: int) -> None:
        self.remaining = length
        self.done = length == 0

    def take(self, buffer: bytearray) -> bytes:
        data = _cut(buffer, 0, self.remaining)
        del buffer[: len(data)]
        self.skip(len(data))
        return data

    def skip(self, count: int) -> None:
        """``count`` bytes of the body went another way than through the buffer."""
        self.remaining -= count
        self.done = self.remaining == 0

    def at_eof(self) -> None:
        if not self.done:
            raise _incomplete()


class UntilCloseBody:
    """A response body that ends with its connection (RFC 9112 section 6.3, rule 8)."""

    def __init__(self) -> None:
        self.done = False

    def take(self, buffer: bytearray) -> bytes:
        if self.done:
            return b""
        data = bytes(buffer)
        buffer.clear()
        return data

    def at_eof(self) -> None:
        self.done = True


class ChunkedBody:
    """A chunked body (RFC 9112 section 7.1).

    In turn it expects a size line, the chunk's data, the CRLF behind the data; and after the chunk of
    size 0 trailer lines up to an empty one. Each ``_take_*`` method does one of these: it moves
    ``_at`` over what it has read and returns whether there was enough of it.
    """

    __slots__ = ("_at", "_remaining", "_scanned", "_step", "_trailer_room", "done")

    def __init__(self, trailer_limit: int) -> None:
        self.done = False
        self._at = 0  # in the buffer: all before it has been read
        self._scanned = 0  # bytes behind _at that hold no line end
        self._remaining = 0  # of the chunk's data
        self._trailer_room = trailer_limit
        self._step: _Step = ChunkedBody._take_size

    def take(self, buffer: bytearray) -> bytes:
        self._at = 0
        pieces: list[bytes] = []
        while not self.done and self._step(self, buffer, pieces):
            pass
        del buffer[: self._at]
        return b"".join(pieces)

    def at_eof(self) -> None:
        if not self.done:
            raise _incomplete()

    def _take_size(self, buffer: bytearray, pieces: list[bytes]) -> bool:
        line = self._line(buffer, _CHUNK_LINE_BYTES, "chunk_line_too_long")
        if line is None:
            return False
        match = grammar.CHUNK_LINE.fullmatch(line)
        if match is None:
            raise Violation(400, "bad_chunk_line", "a chunk does not begin with its size")
        if len(match[2]) > _EXTENSION_BYTES:
            raise Violation(400, "chunk_line_too_long", f"a chunk extension above {_EXTENSION_BYTES} bytes")
        self._remaining = int(match[1], 16)
        if self._remaining > _LARGEST_CHUNK:
            raise Violation(400, "bad_chunk_line", "a chunk size above 63 bits")
        self._step = ChunkedBody._take_data if self._remaining else ChunkedBody._take_trailer
        return True

    def _take_data(self, buffer: bytearray, pieces: list[bytes]) -> bool:
        data = _cut(buffer, self._at, self._at + self._remaining)
        pieces.append(data)
        self._at += len(data)
        self._remaining -= len(data)
        if self._remaining:
            return False
        self._step = ChunkedBody._take_data_end
        return True

    def _take_data_end(self, buffer: bytearray, pieces: list[bytes]) -> bool:
        end = buffer[self._at : self._at + 2]
        if not b"\r\n".startswith(end):
            # What h11 let through until 0.16 (CVE-2025-43859).
            raise Violation(400, "bad_chunk_end", "a chunk's data is not followed by CRLF")
        if len(end) < 2:
            return False
        self._at += 2
        self._step = ChunkedBody._take_size
        return True

    def _take_trailer(self, buffer: bytearray, pieces: list[bytes]) -> bool:
        line = self._line(buffer, self._trailer_room, "trailers_too_large")
        if line is None:
            return False
        if line:
            judge_field_line(line)
            self._trailer_room -= len(line) + 2
        else:
            self.done = True
        return True

    def _line(self, buffer: bytearray, room: int, too_long: str) -> bytes | None:
        """Read the next line; return it without its CRLF, or ``None`` if it is not whole yet. With its
        CRLF it may have ``room`` bytes; an empty one always has room."""
        newline = buffer.find(b"\n", self._at + self._scanned)
        end = len(buffer) if newline < 0 else newline
        if end - self._at > max(room - 1, 1):
            raise Violation(400, too_long, "a line of the chunked body is too long")
        if newline < 0:
            self._scanned = end - self._at
            return None
        line = bytes(buffer[self._at : newline])
        if line[-1:] != b"\r":
            raise Violation(400, "bare_lf", "LF without CR ends a line of the chunked body")
        self._at = newline + 1
        self._scanned = 0
        return line[:-1]


_Step: TypeAlias = Callable[[ChunkedBody, bytearray, list[bytes]], bool]
"""Unbound methods: a bound one would tie each reader into a reference cycle."""


def _cut(buffer: bytearray, start: int, end: int) -> bytes:
    """Copy a part of ``buffer``, once."""
    with memoryview(buffer) as view, view[start:end] as part:
        return bytes(part)


def _incomplete() -> Violation:
    return Violation(400, "body_incomplete", "the connection ended inside the body")
