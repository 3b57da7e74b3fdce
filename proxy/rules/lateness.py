"""Putting right the times in a request that is delivered late (PostHog fact: "Time, duplicates, late
delivery").

PostHog computes when an event happened from when it hears of it::

    offset (ms) given       arrival - offset
    timestamp and sent_at   arrival - (sent_at - timestamp), so that a wrong clock of the client's cancels out
    timestamp alone         timestamp
    nothing                 arrival

so what comes D later happens D later. It does not where D is added to ``sent_at`` (of the body, which counts
first, else of the query, there also called ``_``), to each ``offset``, and as an ``offset`` to events that
say nothing of their time. Nothing else in the request is touched; what cannot be read is sent as it came.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from proxy.rules.envelope import UnreadableError, field_span, unpack
from proxy.rules.jsontext import JsonText, MalformedError, edited

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxy.rules.jsontext import Span
    from proxy.rules.steps import Steps

FRESH = 0.5
"""Seconds of delay that are not worth a correction: PostHog rounds more than that away."""

MOST_PLACES = 20_000
"""Events and keys of one request that are looked at one by one, as each takes memory. SDKs send hundreds."""

_MOST_OFFSET = 2**53
"""Milliseconds; what is beyond is no time, nor a number that all parsers read alike."""

_TIME = re.compile(
    r"\d{4}-\d\d-\d\d(?P<gap>[Tt ])\d\d:\d\d:\d\d(?P<fraction>[.,]\d+)?(?P<zone>.*)", re.DOTALL
)
_SNAPSHOTS = frozenset({"$snapshot", "$snapshot_items", "$performance_event"})
"""Recordings have the times of what they show inside; only sent_at moves them."""


class Outcome(enum.Enum):
    """What was done; the counter's labels. FRESH: it is not late; NOTHING: nothing in it moves; TOO_LARGE:
    only the query was looked at."""

    FRESH = "fresh"
    NOTHING = "nothing"
    CORRECTED = "corrected"
    TOO_LARGE = "too_large"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class Corrected:
    """The request to send: head to CRLFCRLF, and the body, ``None`` where it was not given."""

    head: bytes
    body: bytes | None
    outcome: Outcome


def correct(head: bytes, body: bytes | None, delay: float) -> Steps[Corrected]:
    """Correct a request that is ``delay`` seconds late. ``body``: ``None`` where it is too large to be looked
    at; then ``sent_at`` of the query is corrected all the same."""
    if delay < FRESH:
        return Corrected(head, body, Outcome.FRESH)
    first, end, lines = head.partition(b"\r\n")
    method, target, version = first.split(b" ", 2)
    path, mark, query = target.partition(b"?")
    if body is None:
        head = _line(method, path, mark, _later_query(query, delay), version) + end + lines
        return Corrected(head, None, Outcome.TOO_LARGE)
    try:
        if body:
            unpacked = yield from unpack(body, lines[slice(*_line_span(lines, b"content-encoding"))])
        else:
            start, stop = field_span(query, b"data")
            unpacked = yield from unpack(b"data=" + query[start:stop])
        edit = _Edit(unpacked.text, delay)
        yield from edit.find()
    except (UnreadableError, MalformedError):
        head = _line(method, path, mark, _later_query(query, delay), version) + end + lines
        return Corrected(head, body, Outcome.UNREADABLE)
    new_query = query if edit.said_in_body else _later_query(query, delay)
    new_body = body
    if edit.edits:
        packed = yield from unpacked.pack(edited(unpacked.text, edit.edits))
        if body:
            new_body = packed
            start, stop = _line_span(lines, b"content-length")
            lines = b"%b %d%b" % (lines[:start], len(new_body), lines[stop:])
        else:
            start, stop = field_span(new_query, b"data")
            new_query = new_query[:start] + packed[5:] + new_query[stop:]
    if new_body is body and new_query == query:
        return Corrected(head, body, Outcome.NOTHING)
    head = _line(method, path, mark, new_query, version) + end + lines
    return Corrected(head, new_body, Outcome.CORRECTED)


class _Edit:
    """What is to be changed in a text: ``edits``. ``said_in_body``: its sent_at counts, not the query's."""

    def __init__(self, text: bytes, delay: float) -> None:
        self.edits: list[tuple[int, int, bytes]] = []
        self.said_in_body = False
        self._text = JsonText(text, MOST_PLACES)
        self._delay = delay

    def find(self) -> Steps[None]:
        """Look through the text. Raises ``MalformedError``."""
        start = self._text.begin()
        if not self._text.opens(start, b"{"):
            yield from self._events(start)
            return
        whole, _ = yield from self._text.members(start, {"batch": self._batch})
        if "batch" not in whole:
            self._event(start, whole)
        if "sent_at" in whole:
            self._sent_at(whole["sent_at"])

    def _batch(self, at: int) -> Steps[int]:
        self.edits.clear()  # of one before: the last one counts
        return (yield from self._events(at))

    def _events(self, at: int) -> Steps[int]:
        """A list of them, or one."""
        if self._text.opens(at, b"["):
            return (yield from self._text.items(at, self._item))
        return (yield from self._item(at))

    def _item(self, at: int) -> Steps[int]:
        if not self._text.opens(at, b"{"):
            return (yield from self._text.skip(at))
        members, end = yield from self._text.members(at)
        self._event(at, members)
        return end

    def _sent_at(self, span: Span) -> None:
        later = _later_time(self._text.value(span), self._delay)
        if later is not None:
            self.said_in_body = True
            self.edits.append((*span, b'"%b"' % later.encode()))

    def _event(self, start: int, members: Mapping[str, Span]) -> None:
        span = members.get("offset")
        offset = 0 if span is None else self._text.value(span)
        if span is None or isinstance(offset, bool) or not isinstance(offset, int | float):  # it says none
            if self._is_timed(members) or self._is_snapshot(members):
                return
            offset = 0
        elif not -_MOST_OFFSET < offset < _MOST_OFFSET:  # an int may be too large for a float
            return
        later = repr(offset + round(self._delay * 1000)).encode()
        if span is not None:
            self.edits.append((*span, later))
        else:
            later = b'"offset":%b%b' % (later, b"," if members else b"")
            self.edits.append((start + 1, start + 1, later))

    def _is_timed(self, members: Mapping[str, Span]) -> bool:
        said = members.get("timestamp")
        return said is not None and self._text.opens(said[0], b'"')

    def _is_snapshot(self, members: Mapping[str, Span]) -> bool:
        said = members.get("event")
        return said is not None and self._text.value(said) in _SNAPSHOTS


def _line(method: bytes, path: bytes, mark: bytes, query: bytes, version: bytes) -> bytes:
    return b"%b %b%b%b %b" % (method, path, mark, query, version)


def _line_span(lines: bytes, name: bytes) -> tuple[int, int]:
    """Where the value of the first line with this name stands, blanks included; nowhere if there is none."""
    at = (b"\r\n" + lines).lower().find(b"\r\n%b:" % name)
    if at < 0:
        return 0, 0
    start = at + len(name) + 1
    return start, lines.index(b"\r\n", start)


def _later_query(query: bytes, delay: float) -> bytes:
    """Add the delay to the query's sent_at, else to its `_`: milliseconds."""
    for name in (b"sent_at", b"_"):
        try:
            start, end = field_span(query, name)
        except UnreadableError:
            continue
        digits = query[start:end]
        if not digits.isdigit() or len(digits) > 18:
            return query
        return b"%b%d%b" % (query[:start], int(digits) + round(delay * 1000), query[end:])
    return query


def _later_time(said: Any, delay: float) -> str | None:
    """Return a time as text with the delay added, written as it was; ``None``: it is no time."""
    if not isinstance(said, str):
        return None
    try:
        late = datetime.fromisoformat(said) + timedelta(seconds=delay)
    except (ValueError, OverflowError):
        return None
    match = _TIME.fullmatch(said)
    if match is None:
        return late.isoformat()
    fraction = match["fraction"]
    text = late.strftime(f"%Y-%m-%d{match['gap']}%H:%M:%S").zfill(19)
    micros = f"{late.microsecond:06d}"
    if fraction is None:
        return f"{text}.{micros[:3]}{match['zone']}"
    digits = (micros + "0" * len(fraction))[: len(fraction) - 1]
    return f"{text}{fraction[0]}{digits}{match['zone']}"
