"""Heads in and out: h11 reads behind the gate, we write.

Reading: wire/strict.py vetoes first, then a fresh h11 connection parses the same bytes, and its result
is what goes on. Two parsers have agreed by then, and a difference between them is a refusal.

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
from proxy.message import Field, Fields, Framing, FramingKind, RequestHead, ResponseHead, field_values
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
    event = h11_request(checked.raw)
    traits = checked.traits
    minor = checked.line.minor
    fields = _with_decimal_length(tuple(event.headers.raw_items()), traits.framing)
    return RequestHead(
        method=event.method,
        target=strict.origin_form(event.method, event.target),
        minor=minor,
        fields=fields,
        host=traits.host,
        framing=traits.framing,
        expect_continue=traits.expect_continue,
        close=traits.close,
        websocket=traits.upgrade and _is_websocket(event.method, minor, fields, traits.framing),
    )


def read_response(raw: bytes, method: bytes, limits: HeadLimits) -> ResponseHead:
    """Read one response head, interim ones and 101 too, that answers a ``method`` request.

    Raises:
        Violation: always 502; the gate's, or ``h11_refused``.
    """
    checked = strict.check_response(raw, method, limits)
    event = h11_response(checked.raw, method)
    return ResponseHead(
        status=event.status_code,
        reason=event.reason,
        minor=checked.line.minor,
        fields=_with_decimal_length(tuple(event.headers.raw_items()), checked.framing),
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
    return b"".join([b"%b: %b\r\n" % field for field in sorted(fields, key=_is_not_host)])


def _is_not_host(field: Field) -> bool:
    return field[0].lower() != b"host"


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
