"""Heads in and out: the gate reads, h11 reads again what is not plain, we write.

Reading: wire/strict.py vetoes first. A head of plain shape (``_is_plain``, ``_is_plain_answer``: ASCII
without tabs, framed by nothing or a length, no switch of protocol, nothing left out of it) has one reading,
which is the gate's. Whatever else passes is parsed by a fresh h11 connection too, and h11's result is what
goes on. That the two readings are the same, for plain heads and all others, and that nothing passes which
h11 refuses, is what tests/property/test_wire_gate.py proves; to have h11 read plain heads as well would
cost 100 µs of every exchange.

Writing: h11's SERVER side rewrites framing headers, so the writers are our own. What they write is
byte for byte what h11's writer makes of the same fields (tests/property proves it): Host first, names
as given, one blank behind the colon. These bytes are the canonical form of a head.
"""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING

import h11

from proxy.errors import Violation
from proxy.message import Fields, Framing, FramingKind, RequestHead, ResponseHead, field_values
from proxy.wire import grammar, strict

if TYPE_CHECKING:
    from proxy.wire.strict import HeadLimits

_WEBSOCKET_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3


def read_request(raw: bytes, limits: HeadLimits) -> RequestHead:
    """Read one request head: ``raw`` is all up to and with its blank line, and not a byte more.

    Raises:
        Violation: the gate's, or 400 ``h11_refused``.
    """
    checked = strict.check_request(raw, limits)
    (method, target, minor), fields, traits = checked.line, checked.fields, checked.traits
    if not (checked.raw == raw and _is_plain(checked)):
        event = h11_request(checked.raw)
        method, target, fields = event.method, event.target, tuple(event.headers.raw_items())
    return RequestHead(
        method=method,
        target=strict.origin_form(method, target),
        minor=minor,
        fields=_with_decimal_length(fields, traits.framing),
        host=traits.host,
        framing=traits.framing,
        expect_continue=traits.expect_continue,
        close=traits.close,
        websocket=traits.upgrade and _is_websocket(method, minor, fields, traits.framing),
    )


def _is_plain(checked: strict.CheckedRequest) -> bool:
    traits = checked.traits
    return (
        checked.line.target[:1] == b"/"
        and traits.framing.kind is not FramingKind.CHUNKED
        and not traits.upgrade
        and not traits.expect_continue
        and _is_plain_text(checked.raw)
    )


def _is_plain_answer(checked: strict.CheckedResponse) -> bool:
    return (
        checked.line.status >= 200
        and checked.framing.kind in (FramingKind.LENGTH, FramingKind.NONE)
        and _is_plain_text(checked.raw)
    )


def _is_plain_text(raw: bytes) -> bool:
    """Of what the gate has passed: no obs-text (RFC 9110 section 5.5), and only one kind of blank."""
    return raw.isascii() and b"\t" not in raw


def read_response(raw: bytes, method: bytes, limits: HeadLimits) -> ResponseHead:
    """Read one response head, interim ones and 101 too, that answers a ``method`` request.

    Raises:
        Violation: always 502; the gate's, or ``h11_refused``.
    """
    checked = strict.check_response(raw, method, limits)
    (minor, status, reason), fields = checked.line, checked.fields
    if not (checked.raw == raw and _is_plain_answer(checked)):
        event = h11_response(checked.raw, method)
        status, reason, fields = event.status_code, event.reason, tuple(event.headers.raw_items())
    return ResponseHead(
        status=status,
        reason=reason,
        minor=minor,
        fields=_with_decimal_length(fields, checked.framing),
        framing=checked.framing,
        close=checked.close,
    )


def h11_request(raw: bytes) -> h11.Request:
    """Let a fresh h11 read a request head.

    Raises:
        Violation: 400 ``h11_refused``; h11's own words are its cause, as they quote header values.
    """
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=len(raw))
    event = _h11_event(connection, raw, 400)
    if not isinstance(event, h11.Request):
        raise Violation(400, "h11_refused", "the second parser saw no whole request head")
    return event


def h11_response(raw: bytes, method: bytes) -> h11.Response | h11.InformationalResponse:
    """Let a fresh h11 read a response head that answers a ``method`` request.

    Raises:
        Violation: 502 ``h11_refused``; h11's own words are its cause.
    """
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=len(raw))
    # h11 wants to have sent the request; Upgrade in it lets a 101 be read. Whether the client really
    # asked for one is the exchange's question.
    connection.send(h11.Request(method=method, target=b"/", headers=_ASKED))
    event = _h11_event(connection, raw, 502)
    if not isinstance(event, h11.Response | h11.InformationalResponse):
        raise Violation(502, "h11_refused", "the second parser saw no whole response head")
    return event


_ASKED = h11.Request(
    method=b"GET", target=b"/", headers=[(b"Host", b"a"), (b"Upgrade", b"websocket")]
).headers


def _h11_event(connection: h11.Connection, raw: bytes, status: int) -> object:
    connection.receive_data(raw)
    try:
        return connection.next_event()
    except h11.RemoteProtocolError as error:
        raise Violation(status, "h11_refused", "the second parser refused the head") from error


def _with_decimal_length(fields: Fields, framing: Framing) -> Fields:
    """Content-Length may have leading zeros (RFC 9110 section 8.6); nobody behind us has to read them."""
    if framing.kind is not FramingKind.LENGTH:
        return fields
    length = b"%d" % framing.length
    return tuple((name, length if name.lower() == b"content-length" else value) for name, value in fields)


# --- writing -----------------------------------------------------------------------------------


def render_request(method: bytes, target: bytes, fields: Fields) -> bytes:
    """Write a request head: Host first (RFC 9110 section 7.2), the other fields in their order."""
    return b"%b %b HTTP/1.1\r\n%b\r\n" % (method, target, render_fields(fields))


def render_response(status: int, reason: bytes, fields: Fields) -> bytes:
    """Write a response head, the fields in their order."""
    return b"HTTP/1.1 %d %b\r\n%b\r\n" % (status, reason, render_fields(fields))


def render_fields(fields: Fields) -> bytes:
    """Write header lines, each with its CRLF: Host first, the others in their order."""
    block = b"".join([b"%b: %b\r\n" % field for field in fields])
    if b"\r\nhost:" in block.lower():  # one that is not the first line
        lines = block.splitlines(keepends=True)
        lines.sort(key=_is_not_host)
        return b"".join(lines)
    return block


def _is_not_host(line: bytes) -> bool:
    return line[:5].lower() != b"host:"


# --- WebSocket (RFC 6455) ----------------------------------------------------------------------


def _is_websocket(method: bytes, minor: int, fields: Fields, framing: Framing) -> bool:
    """RFC 6455 section 4.1, where Connection already has ``upgrade``: a complete opening handshake."""
    keys = field_values(fields, b"sec-websocket-key")
    return (
        method == b"GET"
        and minor == 1
        and framing.kind is not FramingKind.CHUNKED
        and framing.length == 0
        and _upgrades_to_websocket(fields)
        and field_values(fields, b"sec-websocket-version") == [b"13"]
        and len(keys) == 1
        and grammar.WEBSOCKET_KEY.fullmatch(keys[0]) is not None
    )


def websocket_accepts(request_key: bytes, response: ResponseHead) -> bool:
    """Tell whether ``response`` completes the handshake that sent ``request_key`` as its
    Sec-WebSocket-Key (RFC 6455 section 4.2.2). Only then may bytes be relayed unread: anything less
    is a tunnel for smuggled requests."""
    digest = hashlib.sha1(request_key + _WEBSOCKET_GUID, usedforsecurity=False).digest()
    options = strict.list_members(field_values(response.fields, b"connection"))
    return (
        response.status == 101
        and response.minor == 1
        and b"upgrade" in options
        and _upgrades_to_websocket(response.fields)
        and field_values(response.fields, b"sec-websocket-accept") == [base64.b64encode(digest)]
    )


def _upgrades_to_websocket(fields: Fields) -> bool:
    return [value.lower() for value in field_values(fields, b"upgrade")] == [b"websocket"]
