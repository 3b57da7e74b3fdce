"""Where values stand in a JSON text, found without reading more of it than is asked for: so that a text can
be edited without being written anew, and numbers, escapes, blanks and the order of keys stay as they came.

Objects and arrays that nobody asks about are stepped over by their brackets; nothing is built of what they
hold. So a text may hold millions of values and cost no more memory than itself, and the walk can pause
anywhere (steps.py): every ``STRIDE`` or so. What is between brackets that balance is not judged.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from proxy.rules.steps import Steps

STRIDE = 100_000
"""How far a walk goes without a pause: bytes, and ``A_MATCH`` for each match. Half a millisecond."""

A_MATCH = 60

_BLANKS = rb"[ \t\n\r]*+"
_SHORT = rb'"[^"\\]{0,1024}+(?:\\.[^"\\]{0,64}+){0,16}+"'
"""A string that is stepped over with others; of a longer one the quote is found, and it is walked through."""

_PLAIN = rb"[^][\"{}]{1,512}+"
_FLAT = rb"[{[](?:%b|%b){0,64}+[]}]" % (_PLAIN, _SHORT)
"""An object or an array without another one in it, and without much."""

_blank = re.compile(_BLANKS).match
_KEY = rb'"[^"\\]{0,512}+(?:\\.[^"\\]{0,64}+){0,256}+"'
_WHOLE = rb'(?:%b|[^][{}",:\s]{1,8192}+|%b)' % (_SHORT, _FLAT)
_member = re.compile(
    rb"(%b)%b:%b(?:(%b)%b([,}])%b)?+" % (_KEY, _BLANKS, _BLANKS, _WHOLE, _BLANKS, _BLANKS), re.DOTALL
).match
"""A key, and where its value is not long, that and what comes behind it."""

_value = re.compile(rb'%b|([{["])' % _WHOLE, re.DOTALL).match
"""A whole value, or only what a longer one begins with."""

_comma = re.compile(rb"%b([],}])%b" % (_BLANKS, _BLANKS)).match
_over = re.compile(rb'(?:(?:%b|%b){1,64}+|%b){0,4}+([]["{}])?+' % (_PLAIN, _SHORT, _FLAT), re.DOTALL).match
"""Up to a bracket, or the quote of a long string; or up to anything, where there is much before it."""

_within = re.compile(rb'[^"\\]{0,65536}+(?:\\.[^"\\]{0,64}+){0,1024}+("?+)', re.DOTALL).match
"""A piece of a string, up to its end if that is near."""


MOST_SCALAR = 8192
"""Bytes of a string or a number that is of interest."""

_DEPTH = {b"{": 1, b"[": 1, b"}": -1, b"]": -1}


Visit: TypeAlias = "Callable[[int], Steps[int]]"
"""Steps over a value: from where it begins to where it ends."""

NO_VISITS: Mapping[str, Visit] = {}


class MalformedError(ValueError):
    """No JSON, or more of it than is looked at."""


Span: TypeAlias = tuple[int, int]
"""Where a value in a text stands: its start, and what is behind its end."""


class JsonText:
    """A text and a walk through it. ``most``: values of objects and arrays that are looked at, all in all.

    Every method raises ``MalformedError`` where the text is not JSON as far as it was looked at.
    """

    def __init__(self, text: bytes, most: int) -> None:
        self.text = text
        self._left = most
        self._stride = STRIDE

    def begin(self) -> int:
        """Where the text's one value begins, after blanks."""
        return self._skip_blanks(0)

    def opens(self, at: int, bracket: bytes) -> bool:
        """Whether an object (``{``) or an array (``[``) begins there."""
        return self.text.startswith(bracket, at)

    def members(
        self, start: int, visits: Mapping[str, Visit] = NO_VISITS
    ) -> Steps[tuple[dict[str, Span], int]]:
        """Return the values of the object at ``start`` by key, of several with one key the last, as parsers
        do; and where the object ends. ``visits``: by key, what steps over a value, told where it begins."""
        found: dict[str, Span] = {}
        text, at = self.text, self._skip_blanks(start + 1)
        if text.startswith(b"}", at):
            return found, at + 1
        while True:
            self._count()
            match = _member(text, at)
            if match is None:
                raise MalformedError("not JSON, or a long key")
            key, closing = match[1], match[3]
            name = _name(key) if b"\\" in key else key[1:-1].decode("utf-8", "surrogateescape")
            if closing is None or name in visits:
                begin = match.end() if closing is None else match.start(2)
                end = yield from visits.get(name, self._walk if closing is None else self.skip)(begin)
                found[name] = (begin, end)
                at, closing = self._after(end)
            else:
                found[name] = match.span(2)
                if self._is_far(match.end() - at):
                    yield None
                at = match.end() if closing == b"," else match.end(3)
            if closing != b",":
                return found, at

    def items(self, start: int, visit: Visit) -> Steps[int]:
        """Visit the values of the array at ``start``; return where it ends."""
        text, at = self.text, self._skip_blanks(start + 1)
        if text.startswith(b"]", at):
            return at + 1
        while True:
            self._count()
            end = yield from visit(at)
            at, closing = self._after(end)
            if closing != b",":
                return at

    def value(self, span: Span) -> Any:
        """Return a string, a number or a literal; of what is long, of objects and arrays only that they are
        none of those (``...``)."""
        start, end = span
        if end - start > MOST_SCALAR or self.text.startswith((b"{", b"["), start):
            return ...
        try:
            return json.loads(self.text[start:end].decode())
        except ValueError:  # not UTF-8, too
            raise MalformedError("not JSON") from None

    def skip(self, start: int) -> Steps[int]:
        """Step over the value at ``start``; return its end."""
        text = self.text
        match = _value(text, start)
        if match is None:
            raise MalformedError("not JSON")
        at = match.end()
        if match[1] is None:
            if self._is_far(at - start):
                yield None
            return at
        return (yield from self._walk(start))

    def _walk(self, start: int) -> Steps[int]:
        """Step over a value that is long, or has others in it."""
        text, at = self.text, start + 1
        if text.startswith(b'"', start):
            return (yield from self._rest_of_string(at))
        if not text.startswith((b"{", b"["), start):
            raise MalformedError("not JSON")
        depth = 1
        while depth:
            match = _over(text, at)
            assert match is not None  # it takes nothing, if need be
            end = match.end()
            if end == at:
                raise MalformedError("it ends early")
            if match[1] == b'"':
                end = yield from self._rest_of_string(end)
            elif match[1] is not None:
                depth += _DEPTH[match[1]]
            if self._is_far(end - at):
                yield None
            at = end
        return at

    def _rest_of_string(self, at: int) -> Steps[int]:
        """Return the end of a long string, from behind its quote."""
        while True:
            match = _within(self.text, at)
            assert match is not None
            if match[1]:
                return match.end()
            if match.end() == at:
                raise MalformedError("it ends early")
            if self._is_far(match.end() - at):
                yield None
            at = match.end()

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise MalformedError("too many events or keys")

    def _is_far(self, distance: int) -> bool:
        self._stride -= distance + A_MATCH
        if self._stride > 0:
            return False
        self._stride = STRIDE
        return True

    def _after(self, end: int) -> tuple[int, bytes]:
        """What stands behind a value, and where the next one begins, or the object or array has ended."""
        match = _comma(self.text, end)
        if match is None:
            raise MalformedError("not JSON")
        return (match.end() if match[1] == b"," else match.end(1)), match[1]

    def _skip_blanks(self, at: int) -> int:
        match = _blank(self.text, at)
        return at if match is None else match.end()


def edited(text: bytes, edits: Sequence[tuple[int, int, bytes]]) -> bytes:
    """Return the text with each ``(start, end, new)`` in place; they do not overlap."""
    parts, at = [], 0
    for start, end, new in sorted(edits):
        parts += [text[at:start], new]
        at = end
    return b"".join([*parts, text[at:]])


def _name(key: bytes) -> str:
    """A key with escapes."""
    try:
        name: str = json.loads(key)
    except ValueError:
        raise MalformedError("not JSON") from None
    return name
