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

from proxy.rules.envelope import UnreadableError, edited, field_span, items, members, unpack, value_at

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxy.rules.envelope import Span, Unpacked

FRESH = 0.5
"""Seconds of delay that are not worth a correction: PostHog rounds more than that away."""

MOST_PLACES = 20_000
"""Events and keys of one request that are looked at one by one: more would hold up live requests. SDKs send
hundreds of events."""

_MOST_OFFSET = 2**53
"""Milliseconds; what is beyond is no time, nor a number that all parsers read alike."""

_TIME = re.compile(
    r"\d{4}-\d\d-\d\d(?P<gap>[Tt ])\d\d:\d\d:\d\d(?P<fraction>[.,]\d+)?(?P<zone>.*)", re.DOTALL
)
_LENGTH_LINE = re.compile(rb"(?i)(\r\ncontent-length:[ \t]*)[0-9]+")
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


def correct(head: bytes, body: bytes | None, delay: float) -> Corrected:
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
            edit = _Edit(unpack(body, _encoding(lines)), delay)
        else:
            start, stop = field_span(query, b"data")
            edit = _Edit(unpack(b"data=" + query[start:stop]), delay)
    except UnreadableError:
        head = _line(method, path, mark, _later_query(query, delay), version) + end + lines
        return Corrected(head, body, Outcome.UNREADABLE)
    new_query = query if edit.said_in_body else _later_query(query, delay)
    new_body = body
    if edit.edits and body:
        new_body = edit.packed()
        lines = _LENGTH_LINE.sub(rb"\g<1>%d" % len(new_body), b"\r\n" + lines, count=1)[2:]
    elif edit.edits:
        packed = edit.packed()
        start, stop = field_span(new_query, b"data")
        new_query = new_query[:start] + packed[5:] + new_query[stop:]
    if new_body is body and new_query == query:
        return Corrected(head, body, Outcome.NOTHING)
    head = _line(method, path, mark, new_query, version) + end + lines
    return Corrected(head, new_body, Outcome.CORRECTED)


class _Edit:
    """What is to be changed in a body. ``said_in_body``: its sent_at counts, and not the query's."""

    def __init__(self, unpacked: Unpacked, delay: float) -> None:
        self._unpacked = unpacked
        self._delay = delay
        text = self._text = unpacked.text
        top = value_at(text)
        self.edits: list[tuple[int, int, str]] = []
        self.said_in_body = False
        self._steps = iter(range(MOST_PLACES))
        whole = members(text, top.start, self._steps) if isinstance(top.value, dict) else {}
        sent_at = whole.get("sent_at")
        if sent_at is not None and (later := _later_time(sent_at.value, delay)) is not None:
            self.said_in_body = True
            self.edits.append((sent_at.start, sent_at.end, f'"{later}"'))
        for event in self._events(top, whole):
            if isinstance(event.value, dict):
                self._event(event)

    def packed(self) -> bytes:
        """The body as it was packed, with the edits."""
        return self._unpacked.pack(edited(self._text, self.edits).encode())

    def _events(self, top: Span, whole: dict[str, Span]) -> Iterator[Span]:
        batch = whole.get("batch")
        if batch is not None:
            top = batch
        if isinstance(top.value, list):
            yield from items(self._text, top.start, self._steps)
        else:
            yield top

    def _event(self, event: Span) -> None:
        said = event.value
        offset, timed = said.get("offset"), isinstance(said.get("timestamp"), str)
        is_number = isinstance(offset, int | float) and not isinstance(offset, bool)
        if is_number and not -_MOST_OFFSET < offset < _MOST_OFFSET:  # an int may be too large for a float
            return
        if not is_number and (timed or said.get("event") in _SNAPSHOTS):
            return
        later = repr((offset if is_number else 0) + round(self._delay * 1000))
        if "offset" in said:
            span = members(self._text, event.start, self._steps)["offset"]
            self.edits.append((span.start, span.end, later))
        else:
            at = event.start + 1
            self.edits.append((at, at, f'"offset":{later}{"," if said else ""}'))


def _line(method: bytes, path: bytes, mark: bytes, query: bytes, version: bytes) -> bytes:
    return b"%b %b%b%b %b" % (method, path, mark, query, version)


def _encoding(lines: bytes) -> bytes:
    match = re.search(rb"(?i)(?:\A|\r\n)content-encoding:([^\r]*)", lines)
    return b"" if match is None else match[1]


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
