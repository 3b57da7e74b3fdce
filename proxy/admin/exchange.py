"""One request and its answer as bytes: read with the strictness of the public side, one a connection."""

from __future__ import annotations

from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING

from proxy.errors import Violation
from proxy.message import FramingKind
from proxy.wire.heads import read_request, render_response
from proxy.wire.strict import HeadLimits, find_head_end, leading_blank, over_limit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxy.message import Fields, RequestHead

LIMITS = HeadLimits(head_bytes=16 * 1024, lines=100, target_bytes=1024)

BODY_BYTES = 1024
"""The longest body: a command's word."""

TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked. ``path`` without its query."""

    head: RequestHead
    path: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """What is answered; ``streams``: the head of a stream of events, which has no length."""

    status: int
    body: bytes
    content_type: str = TEXT
    fields: Fields = ()
    streams: bool = False


def said(status: int, text: str, **fields: str) -> Answer:
    """Return an answer of one line; ``_`` in the names of fields stands for ``-``."""
    return Answer(status, f"{text}\n".encode(), fields=_fields(fields))


def _fields(fields: Mapping[str, str]) -> Fields:
    return tuple((name.replace("_", "-").encode(), value.encode()) for name, value in fields.items())


def read(buffer: bytearray) -> Request | None:
    """Read the request at the beginning of what has come; ``None``: more must come.

    Raises ``Violation``: the gate's, 411 for a chunked body, 413 for a long one.
    """
    end = find_head_end(buffer, 0)
    if end < 0 or end > LIMITS.head_bytes + 4:
        violation = over_limit(buffer, LIMITS)
        if violation is not None:
            raise violation
        return None
    head = read_request(bytes(buffer[leading_blank(buffer) : end]), LIMITS)
    if head.framing.kind is FramingKind.CHUNKED:
        raise Violation(411, "length_required", "a body must say its length here")
    length = head.framing.length or 0
    if length > BODY_BYTES:
        raise Violation(413, "body_too_large", f"a body may have {BODY_BYTES} bytes here")
    if len(buffer) < end + length:
        return None
    path = head.target.partition(b"?")[0].decode("ascii", "backslashreplace")
    return Request(head, path, bytes(buffer[end : end + length]))


def refused(violation: Violation) -> Answer:
    """Return the answer to bytes that are no request."""
    return said(violation.status, violation.detail)


def rendered(answer: Answer, now: float, *, bodiless: bool = False) -> bytes:
    """Return an answer's bytes; ``now`` is the wall clock's. ``bodiless``: to HEAD."""
    length = () if answer.streams else ((b"Content-Length", b"%d" % len(answer.body)),)
    fields = (
        (b"Date", formatdate(now, usegmt=True).encode()),
        (b"Content-Type", answer.content_type.encode()),
        *length,
        (b"Cache-Control", b"no-store"),
        (b"X-Content-Type-Options", b"nosniff"),
        (b"X-Frame-Options", b"DENY"),
        (b"Connection", b"close"),
        *answer.fields,
    )
    head = render_response(answer.status, HTTPStatus(answer.status).phrase.encode(), fields)
    return head if bodiless else head + answer.body
