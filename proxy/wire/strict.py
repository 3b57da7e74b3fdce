"""The gate: the veto on every head that two parsers could read differently (RFC 9110, RFC 9112).

Nothing is repaired here. A head is either of the one form that all parsers agree on, or a
``Violation``; whatever passes is read again by h11 (wire/heads.py). The judgement has three layers,
so that a reader which has seen a line before can skip the first:

1. ``judge_request_line``, ``judge_status_line`` and ``judge_field_line`` look at one line each;
2. ``check_request_fields`` and ``check_response_fields`` hold the rules across lines: framing, Host,
   Expect, Connection;
3. ``check_request`` and ``check_response`` apply both to the bytes of one head.

The statuses: 400 syntax, 405 CONNECT and TRACE, 414 and 431 sizes, 417 an unknown expectation, 501 an
unknown method or transfer coding, 505 a version. On a response every violation is a 502.

While a head is still arriving, ``over_limit`` says early what ``check_request`` would say in the end:
a violation of a beginning is the violation of the whole, however the bytes were cut.

Time is linear in the head: all repetitions are possessive. Memory: copies of the head, so a small
multiple of ``HeadLimits.head_bytes``; and the process's last 4096 good lines of up to 256 bytes.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import NamedTuple, TypeAlias

from proxy.errors import Violation
from proxy.message import CHUNKED, NO_BODY, UNTIL_CLOSE, Field, Fields, Framing, FramingKind
from proxy.wire import grammar

Buffer: TypeAlias = bytes | bytearray

METHODS = frozenset({b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"})
"""The methods that are forwarded. A method is case-sensitive (RFC 9110 section 9.1)."""

_NEVER_FORWARDED = frozenset({b"CONNECT", b"TRACE"})
_TLS_HANDSHAKE = b"\x16"  # RFC 8446 section 5.1: content type of a ClientHello's record
_HTTP_1 = b"HTTP/1."
# nginx takes a tab for part of the value, all others strip it (RFC 9110 section 5.5).
_NO_TABS = frozenset({b"host", b"content-length", b"transfer-encoding"})
_LINE_REST = 64  # of a request line beside its target: a method, two blanks, the version


@dataclass(frozen=True, slots=True)
class HeadLimits:
    """Sizes of one head: all of it in bytes, its header lines, its request target in bytes."""

    head_bytes: int = 65536
    lines: int = 128
    target_bytes: int = 32768


class RequestLine(NamedTuple):
    """A request line that passed. ``target`` is as received, absolute-form included; ``minor`` is 0
    or 1, HTTP/1.2 being read as 1.1 (RFC 9110 section 2.5)."""

    method: bytes
    target: bytes
    minor: int


class StatusLine(NamedTuple):
    """A status line that passed."""

    minor: int
    status: int
    reason: bytes


@dataclass(frozen=True, slots=True)
class RequestTraits:
    """What the lines of a request say together. ``upgrade``: Connection has the option ``upgrade``."""

    host: bytes | None
    framing: Framing
    expect_continue: bool
    close: bool
    upgrade: bool


class CheckedRequest(NamedTuple):
    """A whole request head that passed. ``raw`` is what h11 is to read: the head without the Cookie
    lines that were dropped, and with a version that h11 knows."""

    line: RequestLine
    fields: Fields
    traits: RequestTraits
    raw: bytes


class CheckedResponse(NamedTuple):
    """A whole response head that passed. ``raw`` is as in ``CheckedRequest``."""

    line: StatusLine
    fields: Fields
    framing: Framing
    close: bool
    raw: bytes


# --- while a head arrives ----------------------------------------------------------------------


def find_head_end(buffer: bytearray, start: int) -> int:
    """Return the offset just behind the blank line that ends the head, or -1.

    The head begins at offset 0, with up to two CRLF before it (``leading_blank``). It ends where LF
    is followed by LF or by CRLF: a bare LF counts as a line end here, so that a head without CR is
    refused at once instead of waited for. ``start`` is how many bytes an earlier call has seen.
    """
    blanks = len(buffer[:4]) - len(buffer[:4].lstrip(b"\r\n"))
    start = max(start - 2, blanks)
    crlf = buffer.find(b"\n\r\n", start)
    lf = buffer.find(b"\n\n", start) if crlf < 0 else buffer.find(b"\n\n", start, crlf + 1)
    if lf >= 0:
        return lf + 2
    return crlf + 3 if crlf >= 0 else -1


def leading_blank(buffer: Buffer) -> int:
    """Return how many bytes stand before the request line: up to two CRLF (RFC 9112 section 2.2).

    Leave them in the buffer until the head is complete, so that a third one is seen. A CR that may
    become the first half of one is not counted yet.

    Raises:
        Violation: 400, a third CRLF or any other blank.
    """
    skip = 0
    while skip < 4 and buffer.startswith(b"\r\n", skip):
        skip += 2
    rest = buffer[skip : skip + 2]
    if rest[:1].isspace() and (rest != b"\r" or skip == 4):
        raise Violation(400, "blank_before_request", "more than two empty lines before the request line")
    return skip


def over_limit(buffer: Buffer, limits: HeadLimits) -> Violation | None:
    """Judge the beginning of a request head: too large already, or clearly no HTTP.

    ``buffer`` holds the head from its first byte (blank lines included), whole or in part. Until a
    limit is hit the cost does not grow with the buffer, so it may be called at every read.
    """
    try:
        begin = leading_blank(buffer)
    except Violation as violation:
        return violation
    first = bytes(buffer[begin : begin + 1])
    if first in (b"", b"\r"):
        return None
    if first == _TLS_HANDSHAKE:
        return Violation(400, "tls_on_plain_port", "a TLS handshake arrived where plain HTTP is spoken")
    if not grammar.TOKEN.match(first):
        return Violation(400, "not_http", "the first byte cannot begin a request")
    longest = min(limits.target_bytes + _LINE_REST, limits.head_bytes - 2)
    if len(buffer) - begin > longest + 1 and buffer.find(b"\n", begin, begin + longest + 2) < 0:
        return _target_too_long(limits)
    return _too_large(buffer, begin, limits, 431)


def response_over_limit(buffer: Buffer, limits: HeadLimits) -> Violation | None:
    """Judge the beginning of a response head, whole or in part, as ``over_limit`` does: 502."""
    if not _HTTP_1.startswith(bytes(buffer[: len(_HTTP_1)])):
        return Violation(502, "bad_status_line", "the answer does not begin with HTTP/1.")
    return _too_large(buffer, 0, limits, 502)


def _too_large(buffer: Buffer, begin: int, limits: HeadLimits, status: int) -> Violation | None:
    if len(buffer) - begin <= limits.head_bytes:
        return None
    # Lines behind the limit do not count: however the bytes were cut, the reason stays the same.
    if too_many := _too_many(buffer, begin, begin + limits.head_bytes, limits, status):
        return too_many
    lines = bytes(buffer[begin:]).splitlines()
    largest = max(lines[1:] or lines, key=len)
    name = largest.partition(b":")[0]
    shown = name[:64].decode("ascii") if grammar.TOKEN.fullmatch(name) else "a line without a name"
    detail = f"head above {limits.head_bytes} bytes; the largest header is {shown} with {len(largest)} bytes"
    return Violation(status, "head_too_large", detail)


def _too_many(buffer: Buffer, begin: int, end: int, limits: HeadLimits, status: int) -> Violation | None:
    # Two lines beside the headers: the first and the blank one.
    if buffer.count(b"\n", begin, end) <= limits.lines + 2:
        return None
    return Violation(status, "too_many_headers", f"more than {limits.lines} header lines")


def _target_too_long(limits: HeadLimits) -> Violation:
    return Violation(414, "target_too_long", f"request target above {limits.target_bytes} bytes")


# --- one line ----------------------------------------------------------------------------------


def judge_request_line(line: bytes, limits: HeadLimits) -> RequestLine:
    """Judge a request line, given without its CRLF.

    Raises:
        Violation: 400, 405, 414, 501 or 505.
    """
    match = grammar.REQUEST_LINE.fullmatch(line)
    if match is None:
        raise _request_line_fault(line)
    method, target, major, minor = match.groups()
    if major != b"1" or minor not in b"012":
        raise Violation(505, "unsupported_version", "only HTTP/1.0 and HTTP/1.1 are spoken here")
    if method not in METHODS:
        if method in _NEVER_FORWARDED:
            raise Violation(405, "method_not_allowed", "CONNECT and TRACE are not forwarded")
        raise Violation(501, "unknown_method", "the method is not known here")
    if len(target) > limits.target_bytes:
        raise _target_too_long(limits)
    if target[:1] != b"/":
        _judge_target_form(method, target)
    return RequestLine(method, target, 0 if minor == b"0" else 1)


def _judge_target_form(method: bytes, target: bytes) -> None:
    """RFC 9112 section 3.2: what is not origin-form is ``*`` for OPTIONS, or an absolute URI."""
    if target == b"*":
        if method != b"OPTIONS":
            raise Violation(400, "asterisk_target", "* is a target for OPTIONS only")
    elif grammar.ABSOLUTE_FORM.fullmatch(target) is None:
        raise Violation(400, "bad_target_form", "the target is neither a path nor an http(s) URL")


def origin_form(method: bytes, target: bytes) -> bytes:
    """Reduce an absolute-form target that passed to its origin-form (RFC 9112 section 3.2.4: OPTIONS
    without a path becomes ``*``); return any other target as it is."""
    match = grammar.ABSOLUTE_FORM.fullmatch(target) if target[:1] != b"/" else None
    if match is None:
        return target
    path: bytes = match[2]
    return path or (b"*" if method == b"OPTIONS" else b"/")


def judge_status_line(line: bytes) -> StatusLine:
    """Judge a status line, given without its CRLF: HTTP/1.0 or 1.1, three digits from 100 to 599.

    Raises:
        Violation: 502.
    """
    match = grammar.STATUS_LINE.fullmatch(line)
    if match is None:
        raise _line_end_fault(line) or Violation(502, "bad_status_line", "the status line is malformed")
    minor, status, reason = match.groups(b"")
    return StatusLine(int(minor), int(status), reason)


def judge_field_line(line: bytes) -> Field | None:
    """Judge one header or trailer line, given without its CRLF: the name as received and the value
    without outer white space. ``None``: leave the line out (a Cookie with control characters).

    Raises:
        Violation: 400.
    """
    match = grammar.FIELD_LINE.fullmatch(line)
    if match is None:
        if grammar.DROPPABLE_COOKIE.fullmatch(line):
            return None
        raise _field_line_fault(line)
    name, value = match.groups()
    if b"\t" in value and name.lower() in _NO_TABS:
        raise Violation(
            400, "tab_beside_value", "a tab in a header line that frames or addresses the message"
        )
    return name, value.strip(b" \t")


_judged = functools.lru_cache(4096)(judge_field_line)  # senders repeat their lines


def _line_end_fault(line: bytes) -> Violation | None:
    """RFC 9112 section 2.2: what breaks lines for one parser and not for the next."""
    for octet, reason, name in ((b"\n", "bare_lf", "LF"), (b"\r", "bare_cr", "CR"), (b"\0", "nul", "NUL")):
        if octet in line:
            return Violation(400, reason, f"{name} inside a line")
    return None


def _request_line_fault(line: bytes) -> Violation:
    if fault := _line_end_fault(line):
        return fault
    if grammar.ANY_TARGET.fullmatch(line):
        return Violation(400, "bad_target", "a character in the request target that is not allowed there")
    return Violation(400, "bad_request_line", "the request line is not: method, target, version")


def _field_line_fault(line: bytes) -> Violation:
    if fault := _line_end_fault(line):
        return fault
    if line[:1] in (b" ", b"\t"):
        return Violation(400, "obs_fold", "a folded header line")
    name, colon, _ = line.partition(b":")
    if not colon:
        return Violation(400, "missing_colon", "a header line without a colon")
    if not name:
        return Violation(400, "empty_name", "a header line without a name")
    if name[-1:] in (b" ", b"\t"):
        return Violation(400, "space_before_colon", "white space between a header name and its colon")
    if grammar.TOKEN.fullmatch(name) is None:
        return Violation(400, "bad_name", "a character in a header name that is not allowed there")
    return Violation(400, "control_character", "a control character in a header value")


# --- rules across lines ------------------------------------------------------------------------

_CROSS_LINE = frozenset({b"host", b"content-length", b"transfer-encoding", b"expect", b"connection"})


def _gather(fields: Fields) -> dict[bytes, list[bytes]]:
    found: dict[bytes, list[bytes]] = {}
    for name, value in fields:
        lower = name.lower()
        if lower in _CROSS_LINE:
            found.setdefault(lower, []).append(value)
    return found


def list_members(values: list[bytes]) -> list[bytes]:
    """Return the members of a comma-separated list over all its lines (RFC 9110 section 5.6.1), in
    lower case, empty ones included."""
    return [member.strip(b" \t").lower() for value in values for member in value.split(b",")]


def check_request_fields(line: RequestLine, fields: Fields) -> RequestTraits:
    """Apply the rules across lines to a request whose lines have all passed.

    Raises:
        Violation: 400, 417 or 501.
    """
    found = _gather(fields)
    host = _check_host(line, found.get(b"host", []))
    framing = _framing(found, line.minor)
    expected = _check_expect(found.get(b"expect"))
    options = list_members(found.get(b"connection", []))
    has_body = framing.kind is FramingKind.CHUNKED or framing.length > 0
    return RequestTraits(
        host=host,
        framing=framing,
        # RFC 9110 section 10.1.1: ignored in HTTP/1.0; without a body there is nothing to wait for.
        expect_continue=expected and has_body and line.minor == 1,
        close=_closes(options, line.minor),
        upgrade=b"upgrade" in options,
    )


def check_response_fields(method: bytes, status: int, minor: int, fields: Fields) -> tuple[Framing, bool]:
    """Apply RFC 9112 section 6.3 to the answer to a ``method`` request: its framing, and whether the
    connection ends after it.

    Raises:
        Violation: 400 or 501, for ``check_response`` to turn into 502.
    """
    found = _gather(fields)
    framing = _framing(found, minor)
    close = _closes(list_members(found.get(b"connection", [])), minor)
    if status < 200:
        return NO_BODY, False
    if status == 204:
        # It must not have a body; if it announces one, what follows cannot be told from an answer.
        return NO_BODY, close or framing.kind is FramingKind.CHUNKED or framing.length > 0
    if status == 304 or method == b"HEAD":
        return NO_BODY, close
    if framing is NO_BODY:
        return UNTIL_CLOSE, True
    return framing, close


def _check_host(line: RequestLine, values: list[bytes]) -> bytes | None:
    """RFC 9112 section 3.2: one Host, of valid form, equal to the authority of an absolute target."""
    if len(values) > 1:
        raise Violation(400, "several_hosts", "more than one Host line")
    if not values and line.minor == 1:
        raise Violation(400, "missing_host", "no Host line")
    for value in values:
        _judge_host(value)
    absolute = grammar.ABSOLUTE_FORM.fullmatch(line.target) if line.target[:1] != b"/" else None
    if absolute is not None and [absolute[1].lower()] != [value.lower() for value in values]:
        raise Violation(400, "host_mismatch", "the authority of the target is not the Host")
    return values[0] if values else None


def _judge_host(value: bytes) -> None:
    match = grammar.HOST.fullmatch(value)
    if match is None:
        raise Violation(400, "bad_host", "Host is not a name or address with an optional port")
    literal, port = match.groups()
    if port is not None and not 0 < int(port) < 65536:
        raise Violation(400, "bad_host", "the port in Host is out of range")
    if literal is not None:
        try:
            IPv6Address(literal.decode("ascii"))
        except ValueError:
            raise Violation(400, "bad_host", "the address in Host is not IPv6") from None


def _framing(found: dict[bytes, list[bytes]], minor: int) -> Framing:
    """RFC 9112 sections 6.1 to 6.3: what the framing headers say, without regard to the method."""
    codings = found.get(b"transfer-encoding")
    lengths = found.get(b"content-length")
    if codings is not None:
        if lengths is not None:
            raise Violation(400, "length_and_coding", "Content-Length beside Transfer-Encoding")
        if minor == 0:
            raise Violation(400, "coding_in_http_1_0", "Transfer-Encoding in HTTP/1.0")
        _check_codings(codings)
        return CHUNKED
    if lengths is None:
        return NO_BODY
    if len(lengths) > 1:
        raise Violation(400, "several_lengths", "more than one Content-Length line")
    if grammar.CONTENT_LENGTH.fullmatch(lengths[0]) is None:
        raise Violation(400, "bad_length", "Content-Length is not a number of at most 18 digits")
    return Framing(FramingKind.LENGTH, int(lengths[0]))


def _check_codings(values: list[bytes]) -> None:
    """RFC 9112 section 6.1: ``chunked`` and nothing else; a coding that is not known is a 501."""
    codings = list_members(values)
    if codings == [b"chunked"]:
        return
    names = [coding.partition(b";")[0].rstrip(b" \t") for coding in codings]
    if all(map(grammar.TOKEN.fullmatch, names)) and set(names) != {b"chunked"}:
        raise Violation(501, "unknown_coding", "a transfer coding other than chunked")
    raise Violation(400, "bad_coding", "Transfer-Encoding is not: chunked")


def _check_expect(values: list[bytes] | None) -> bool:
    """RFC 9110 section 10.1.1: whether the client waits for 100 (Continue)."""
    if values is None:
        return False
    if list_members(values) != [b"100-continue"]:
        raise Violation(417, "unknown_expectation", "an expectation other than one 100-continue")
    return True


def _closes(options: list[bytes], minor: int) -> bool:
    """RFC 9112 section 9.3: whether the connection ends after this message."""
    return b"close" in options or (minor == 0 and b"keep-alive" not in options)


# --- a whole head ------------------------------------------------------------------------------


def check_request(raw: bytes, limits: HeadLimits) -> CheckedRequest:
    """Judge one request head: ``raw`` is all up to and with its blank line, and not a byte more.

    Raises:
        Violation: with the status to answer.
    """
    raw = raw[leading_blank(raw) :]
    if too_large := over_limit(raw, limits) or _too_many(raw, 0, len(raw), limits, 431):
        raise too_large
    first, *rest = _split(raw)
    line = judge_request_line(first, limits)
    fields, kept = _judge_fields(rest)
    traits = check_request_fields(line, fields)
    known_version = first if first[-1:] != b"2" else first[:-1] + b"1"
    if known_version is not first or len(kept) < len(rest):
        raw = _joined(known_version, kept)
    return CheckedRequest(line, fields, traits, raw)


def check_response(raw: bytes, method: bytes, limits: HeadLimits) -> CheckedResponse:
    """Judge one response head, interim ones too, that answers a ``method`` request; raises only 502s."""
    try:
        if too_large := response_over_limit(raw, limits) or _too_many(raw, 0, len(raw), limits, 502):
            raise too_large
        first, *rest = _split(raw)
        line = judge_status_line(first)
        fields, kept = _judge_fields(rest)
        framing, close = check_response_fields(method, line.status, line.minor, fields)
    except Violation as violation:
        raise Violation(502, violation.reason, violation.detail) from None
    raw = raw if len(kept) == len(rest) else _joined(first, kept)
    return CheckedResponse(line, fields, framing, close, raw)


def _split(raw: bytes) -> list[bytes]:
    if not raw.endswith(b"\r\n\r\n"):
        raise Violation(400, "bare_lf", "the head does not end with an empty line after CRLF")
    return raw[:-4].split(b"\r\n")


def _judge_fields(lines: list[bytes]) -> tuple[Fields, list[bytes]]:
    """Return the judged fields, and the raw lines that they stand in."""
    judged = [_judged(line) if len(line) <= 256 else judge_field_line(line) for line in lines]
    fields = tuple(field for field in judged if field is not None)
    if len(fields) == len(lines):
        return fields, lines
    return fields, [line for line, field in zip(lines, judged, strict=True) if field is not None]


def _joined(first: bytes, lines: list[bytes]) -> bytes:
    return b"\r\n".join((first, *lines, b"", b""))
