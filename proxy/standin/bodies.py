"""Request bodies to events, as PostHog's capture reads them (PostHog fact: "Bodies are opaque").

A body is whatever an SDK of the last years sends: plain JSON, gzip told by its magic bytes (whatever
the headers or ``compression=`` say), base64, or a form with a ``data`` field that holds one of these;
a GET carries the same in its ``data`` parameter. Inside is one event, a list, or ``{"batch": [...]}``.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import parse_qs

GZIP_MAGIC = b"\x1f\x8b"

MAX_INFLATED = 64 * 1024 * 1024
"""Bytes that a compressed body may unfold to: PostHog's own cap on the wire is 25 MiB, on replay."""

Event: TypeAlias = Mapping[str, Any]


class BodyError(ValueError):
    """A body that PostHog would refuse; ``status`` is what it answers."""

    def __init__(self, detail: str, status: int = 400) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Payload:
    """What one request carried: its events, the project token, and the time that the body says it
    was sent at (as given, ``None`` where it says nothing)."""

    events: tuple[Event, ...]
    token: str
    sent_at: Any = None


def query_of(raw: str) -> dict[str, str]:
    """Query parameters or a form, the last of each name."""
    return {name: values[-1] for name, values in parse_qs(raw, keep_blank_values=True).items()}


def inflate(data: bytes, coding: str) -> bytes:
    """Undo ``gzip`` or ``deflate`` (zlib). Raises ``BodyError`` where it is broken, cut off or a bomb."""
    engine = zlib.decompressobj(16 + zlib.MAX_WBITS if coding == "gzip" else zlib.MAX_WBITS)
    try:
        plain = engine.decompress(data, MAX_INFLATED)
    except zlib.error as error:
        raise BodyError(f"invalid {coding} data: {error}") from None
    if engine.unconsumed_tail:
        raise BodyError("the body unfolds to too many bytes", 413)
    if not engine.eof:
        raise BodyError(f"{coding} data ends early")
    return plain


def _from_base64(text: bytes) -> bytes:
    """Forgiving as PostHog is: blanks were ``+`` before a form was decoded, padding may be missing."""
    packed = text.strip().replace(b" ", b"+").replace(b"-", b"+").replace(b"_", b"/")
    try:
        return base64.b64decode(packed + b"=" * (-len(packed) % 4), validate=True)
    except binascii.Error as error:
        raise BodyError(f"invalid base64 data: {error}") from None


def _is_json(data: bytes) -> bool:
    return data.lstrip()[:1] in (b"{", b"[")


def _is_form(data: bytes, content_type: str) -> bool:
    """curl's `-d` calls everything a form, JSON too."""
    declared = content_type.lower().startswith("application/x-www-form-urlencoded")
    return data.startswith(b"data=") or (declared and not _is_json(data) and b"data=" in data)


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BodyError(f"failed to parse request: {error}") from None


def unwrap(body: bytes, query: str, content_type: str = "", content_encoding: str = "") -> Any:
    """The JSON value that a body holds, or the ``data`` of the query when there is no body.

    Raises ``BodyError``.
    """
    params = query_of(query)
    compression = params.get("compression", "")
    data = body or params.get("data", "").encode()
    coding = content_encoding.strip().lower()
    if coding in {"gzip", "deflate"}:
        data = inflate(data, coding)
    elif coding not in {"", "identity"}:
        raise BodyError(f"unsupported Content-Encoding: {coding}", 415)
    if data.startswith(GZIP_MAGIC):
        data = inflate(data, "gzip")
    if _is_form(data, content_type):
        form = query_of(data.decode("utf-8", "replace"))
        compression = form.get("compression", compression)
        data = form.get("data", "").encode()
    if not data.strip():
        raise BodyError("no event data in the request")
    if compression == "lz64":
        raise BodyError("unsupported compression: lz64")
    if not _is_json(data):
        data = _from_base64(data)
        if data.startswith(GZIP_MAGIC):
            data = inflate(data, "gzip")
    return _json(data)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def token_of(event: Event) -> str:
    """The project token of one event, wherever its SDK puts it; empty where there is none."""
    properties = event.get("properties")
    inner = properties.get("token") if isinstance(properties, Mapping) else None
    for candidate in (event.get("token"), event.get("$token"), event.get("api_key"), inner):
        if isinstance(candidate, str) and candidate:
            return candidate
    return ""


def _named(event: Any) -> Event:
    """The event with its name; `/engage` sends person updates without one."""
    if not isinstance(event, Mapping):
        raise BodyError("an event is not an object")
    if _text(event.get("event")):
        return event
    if "$set" in event:
        return {**event, "event": "$identify"}
    raise BodyError("event submitted without an event name")


def decode(body: bytes, query: str, content_type: str = "", content_encoding: str = "") -> Payload:
    """The events of a v0 request (`/e`, `/batch`, `/s`, ...).

    Raises ``BodyError``: 400 for what cannot be read, 401 without a project token, 413 for a bomb.
    """
    value = unwrap(body, query, content_type, content_encoding)
    sent_at = None
    token = query_of(query).get("token", "")
    if isinstance(value, Mapping):
        sent_at = value.get("sent_at")
        token = token_of(value) or token
        found = value.get("batch", [value])
    else:
        found = value
    if not isinstance(found, list) or not found:
        raise BodyError("the request holds no events")
    events = tuple(_named(event) for event in found)
    token = token or next(filter(None, map(token_of, events)), "")
    if not token:
        raise BodyError("the request holds no project token", 401)
    return Payload(events, token, sent_at)


def decode_v1(body: bytes, content_encoding: str, token: str) -> Payload:
    """The events of `/i/v1/analytics/events`: ``{"batch": [{"uuid": ..., "event": ...}, ...]}``, the token
    from the Authorization header. Raises ``BodyError``."""
    value = unwrap(body, "", "", content_encoding)
    batch = value.get("batch") if isinstance(value, Mapping) else None
    if not isinstance(batch, list) or not batch:
        raise BodyError("the batch holds no events")
    events = tuple(_named(event) for event in batch)
    if not all(_text(event.get("uuid")) for event in events):
        raise BodyError("an event has no uuid")
    return Payload(events, token)
