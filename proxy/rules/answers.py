"""What the proxy says itself: which status an outage gets, and how an answer of ours is rendered.

The statuses follow what PostHog's SDKs do with them (observed with posthog-js 1.449, posthog-python
7.91 and posthog-node 5.70): any 5xx makes an ingestion request come again, 408 and 429 make posthog-js
drop it, `/flags` is asked again only after 502 and 504, and a redirect loses the event. So ingestion
hears 503 with Retry-After, flags 502 or 504, and nobody a 3xx.

Browsers hide the status of a cross-origin answer without CORS headers and posthog-js then gives up
early. Answers on SDK paths therefore mirror what PostHog would have: the origin, with credentials; and
a pre-flight that no upstream can answer is answered well, so that the request after it gets a status
that the page can read.
"""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from email.utils import formatdate
from typing import TYPE_CHECKING

from proxy.errors import Resend, Source
from proxy.message import SDK_CLASSES, EndpointClass, field_values, first_value

if TYPE_CHECKING:
    from proxy.errors import Failure, Violation
    from proxy.message import Fields, Refuse, RequestHead, Route

RETRY_AFTER = 5
"""Seconds, where a failure does not say: the shortest time that an open breaker waits."""

MIRRORED_BYTES = 4096
"""Longest Origin or Access-Control-Request-Headers that is mirrored."""

UNREACHABLE = "the service behind this proxy cannot be reached at the moment"
"""The detail where nothing was sent upstream (``Resend.ANY``)."""

_REASONS = {
    200: b"OK",
    302: b"Found",
    303: b"See Other",
    307: b"Temporary Redirect",
    308: b"Permanent Redirect",
    400: b"Bad Request",
    401: b"Unauthorized",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    413: b"Content Too Large",
    414: b"URI Too Long",
    417: b"Expectation Failed",
    421: b"Misdirected Request",
    426: b"Upgrade Required",
    429: b"Too Many Requests",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
    505: b"HTTP Version Not Supported",
}
_METHODS = b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
_CORS_METHODS = b"GET, POST, OPTIONS"
_TLS_UPGRADE = ((b"Upgrade", b"TLS/1.2, HTTP/1.1"), (b"Connection", b"Upgrade"))
"""What a 426 must name (RFC 9110 section 15.5.22); the token is RFC 2817's."""
_OUTAGES = frozenset({502, 503, 504})
_PREFLIGHT_PASSES = _OUTAGES | {429}
"""Statuses that a page can only read if the pre-flight before them is answered well."""
_DELIVERIES = frozenset({EndpointClass.INGEST_V0, EndpointClass.INGEST_V1, EndpointClass.REPLAY})
_PRINTABLE = re.compile(rb"[\x20-\x7e]+")


@dataclass(frozen=True, slots=True)
class OwnAnswer:
    """An answer of our own, complete: ``fields`` holds its Content-Length and, if ``close``, its
    ``Connection: close``. For a HEAD request ``body`` is empty and Content-Length is what it would be."""

    status: int
    reason: bytes
    fields: Fields
    body: bytes
    close: bool


@dataclass(frozen=True, slots=True)
class Outage:
    """What a client is told about a failure. ``retry_after`` in seconds."""

    status: int
    retry_after: int | None = None


def on_outage(cls: EndpointClass, failure: Failure) -> Outage:
    """Return what a failure means to a client of this class.

    The client's own fault and our bug keep the failure's status. For the rest: deliveries get 503,
    whatever went wrong behind us; flags get 504 for a late upstream and else 502, never 503; all
    other classes get 503 for what will pass (breaker open, line full, draining), 504 for a late
    upstream and else 502. Every 503 says when to come again: as the failure has it, or ``RETRY_AFTER``.
    """
    status = failure.status
    later = failure.retry_after or RETRY_AFTER
    if failure.source is Source.DOWNSTREAM or status not in _OUTAGES:
        return Outage(status)
    if cls in _DELIVERIES:
        return Outage(503, later)
    if cls is EndpointClass.FLAGS:
        return Outage(504 if status == 504 else 502)
    return Outage(status, later if status == 503 else None)


def http_date(wall: float) -> bytes:
    """Return ``wall``, in seconds since the epoch, as an HTTP date (RFC 9110 section 5.6.7)."""
    return _date_of(int(wall))


@functools.lru_cache(2)
def _date_of(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode("ascii")


def answer_refusal(
    refuse: Refuse, head: RequestHead | None, wall: float, *, close: bool = False
) -> OwnAnswer:
    """Render a decision not to forward. ``wall``: seconds since the epoch; ``close``: end the
    connection even where neither the decision nor the client asks for it."""
    return _answer(
        Outage(refuse.status, refuse.retry_after),
        refuse.reason,
        refuse.detail,
        wall,
        cls=refuse.cls,
        head=head,
        close=close or refuse.close,
        said=refuse.fields,
        body=refuse.body,
    )


KEPT = b'{"status":"Ok"}'
"""What PostHog says to events (posthog.md: v0 ingest), and the proxy in its stead."""


def answer_kept(head: RequestHead, cls: EndpointClass, wall: float, *, close: bool) -> OwnAnswer:
    """Render what a client hears whose request was kept and will be delivered later."""
    said = ((b"Content-Type", b"application/json"),)
    return _answer(Outage(200), "kept", "", wall, cls=cls, head=head, close=close, said=said, body=KEPT)


def answer_violation(violation: Violation, wall: float) -> OwnAnswer:
    """Render what a client hears whose bytes were no request; always ends the connection."""
    return _answer(Outage(violation.status), violation.reason, violation.detail, wall, close=True)


def answer_failure(
    failure: Failure, route: Route | None, head: RequestHead, wall: float, *, close: bool = False
) -> OwnAnswer:
    """Render what a client hears about an exchange that could not go on; ``route`` is ``None`` when
    that happened before one was found.

    A downstream fault and a bug of ours (500) end the connection. Why an upstream could not be reached
    (addresses, certificate names) is for the log, not for the client.
    """
    faulty = failure.source is Source.DOWNSTREAM
    detail = failure.detail if faulty or failure.resend is not Resend.ANY else UNREACHABLE
    close = close or faulty or failure.status == 500
    cls = EndpointClass.PROTECTED if route is None else route.cls
    return _answer(on_outage(cls, failure), failure.kind, detail, wall, cls=cls, head=head, close=close)


def _answer(
    outage: Outage,
    code: str,
    detail: str,
    wall: float,
    *,
    cls: EndpointClass = EndpointClass.PROTECTED,
    head: RequestHead | None = None,
    close: bool,
    said: Fields = (),
    body: bytes | None = None,
) -> OwnAnswer:
    close = close or (head is not None and head.close)
    cors = _cors(head) if head is not None and cls in SDK_CLASSES else ()
    if cors and outage.status in _PREFLIGHT_PASSES and _is_preflight(head):
        outage, body, said = Outage(200), b"", ()
    fields = [(b"Date", http_date(wall))]
    if body is None:
        body = _error(code, detail)
        fields.append((b"Content-Type", b"application/json"))
    fields += [*said, (b"Content-Length", b"%d" % len(body)), (b"Cache-Control", b"no-store"), *cors]
    if outage.retry_after is not None:
        fields.append((b"Retry-After", b"%d" % outage.retry_after))
    if outage.status == 405:
        fields.append((b"Allow", _METHODS))
    if outage.status == 426:
        fields += _TLS_UPGRADE
    if close:
        fields.append((b"Connection", b"close"))
    if head is not None and head.method == b"HEAD":
        body = b""
    return OwnAnswer(outage.status, _REASONS.get(outage.status, b""), tuple(fields), body, close)


def _error(code: str, detail: str) -> bytes:
    """PostHog's own error shape, which its SDKs and its app know how to show."""
    return json.dumps({"type": "proxy_error", "code": code, "detail": detail, "attr": None}).encode() + b"\n"


def _is_preflight(head: RequestHead | None) -> bool:
    """A CORS pre-flight (Fetch standard, 3.2.2): OPTIONS that names the method to come."""
    return (
        head is not None
        and head.method == b"OPTIONS"
        and first_value(head.fields, b"access-control-request-method") is not None
    )


def _cors(head: RequestHead) -> Fields:
    """The CORS headers as PostHog sends them: origin and requested headers mirrored, credentials
    allowed. Empty without one Origin that can be mirrored."""
    origins = field_values(head.fields, b"origin")
    origin = _mirrored(origins)
    if origin is None or len(origins) > 1:
        return ()
    cors = [
        (b"Access-Control-Allow-Origin", origin),
        (b"Access-Control-Allow-Credentials", b"true"),
        (b"Vary", b"Origin"),
    ]
    if _is_preflight(head):
        cors.append((b"Access-Control-Allow-Methods", _CORS_METHODS))
        requested = _mirrored(field_values(head.fields, b"access-control-request-headers"))
        if requested is not None:
            cors.append((b"Access-Control-Allow-Headers", requested))
    return tuple(cors)


def _mirrored(values: list[bytes]) -> bytes | None:
    value = b", ".join(values)
    return value if len(value) <= MIRRORED_BYTES and _PRINTABLE.fullmatch(value) else None
