"""The fast reading of heads: bytes that were judged before need not be judged again.

Two caches. Most clients send the same header lines with every request, but for Content-Length: the block of
all other lines is one look-up (``serve/fastpath``). Where a block is new, its lines are looked up one by
one: User-Agent, Accept or Origin repeat across clients even where no two heads are equal.

It is an optimisation, never a second set of rules: a line gets into the cache only through
``strict.judge_field_line`` and the checks across lines, and what the fast reading does not take (``Unfit``)
goes to the general path with its bytes untouched. A property test proves: what is taken here, the gate
passes, and h11 reads the same.

Taken are GET, POST and OPTIONS in origin-form, HTTP/1.0 or 1.1, with one Host, at most one Content-Length, no
transfer coding, no expectation, no upgrade, and `Connection` absent or exactly `keep-alive` or `close`.

A line that is new but whose name is not (a cookie, an address) is judged by its value alone: that is all that
the gate would look at again.

Memory: two generations of ``GENERATION`` lines of at most ``LONGEST`` bytes, ``NAMES`` names of at most
``LONGEST_NAME``, four times ``ANSWERS`` answer heads of at most ``LONGEST_BLOCK``: below 8 MiB in the worst
case.
"""

from __future__ import annotations

import enum
import re
from typing import TYPE_CHECKING

from proxy.errors import Violation
from proxy.message import FramingKind, ResponseHead
from proxy.rules.forwarded import OWS
from proxy.rules.forwarding import Kind, classify_request_name, response_fields
from proxy.rules.symptoms import betrays
from proxy.wire import grammar
from proxy.wire.heads import render_response
from proxy.wire.strict import (
    HeadLimits,
    RequestLine,
    check_request_fields,
    check_response,
    judge_field_line,
    list_members,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.message import Field
    from proxy.rules.forwarding import ForwardingTable

GENERATION = 4096
LONGEST = 256
NAMES = 1024
LONGEST_NAME = 64
ANSWERS = 256
LONGEST_BLOCK = 2048

_REQUEST_LINE = re.compile(
    rf"(GET|POST|OPTIONS) ((/{grammar.path_char}*+)(?:\?{grammar.query_char}*+)?+) HTTP/1\.([01])".encode()
)
"""A part of what ``grammar.REQUEST_LINE`` takes. Without HEAD: its answers have lengths and no bodies."""

_ANY_DATE = b"\0date"
"""In place of a date that is put in later; no line of an answer can hold it."""
_ANY_LINE = RequestLine(b"GET", b"/", 1)
_PLAIN_HOPS = frozenset(
    {b"keep-alive", b"proxy-connection", b"te", b"trailer", b"proxy-authenticate", b"proxy-authorization"}
)
"""Hop-by-hop lines that go out without meaning anything to us."""


class Mark(enum.Enum):
    """What a line is to us."""

    PASS = "pass"
    HOST = "host"
    AGENT = "agent"
    COOKIE = "cookie"
    CHAIN = "chain"
    NAMED_ID = "named_id"
    TOLD = "told"
    CLOSE = "close"
    KEEP = "keep"
    GONE = "gone"


class Marked:
    """A line that has a meaning or goes upstream in another form: ``out`` (perhaps nothing), ``None`` if it
    goes on as it is; ``name`` and ``value`` are as received."""

    __slots__ = ("mark", "name", "out", "value")

    def __init__(self, mark: Mark, out: bytes | None = b"", name: bytes = b"", value: bytes = b"") -> None:
        self.mark = mark
        self.out = out
        self.name = name
        self.value = value


_GONE = Marked(Mark.GONE)
_CONNECTIONS = {b"close": Marked(Mark.CLOSE), b"keep-alive": Marked(Mark.KEEP)}
_MARKS = {
    b"user-agent": Mark.AGENT,
    b"x-forwarded-for": Mark.CHAIN,
    b"x-request-id": Mark.NAMED_ID,
}
"""Names with a mark of their own; X-Request-Id and the chain differ from request to request, behind a proxy
that sets them, and nothing but themselves depends on them."""
_SINGLE_MINDED = frozenset({b"user-agent", b"x-request-id", b"cookie"})
_SAID_OF_MANY = frozenset(
    {b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-port", b"x-forwarded-scheme", b"x-scheme"}
)
"""Lines about the client that say the same of many."""


class Unfit(enum.Enum):
    """Why a head was not taken; the labels of the counter ``fast_path_missed_total``."""

    SIZE = "size"
    REQUEST_LINE = "request_line"
    LENGTH = "length"
    LINE = "line"
    TWICE = "twice"
    HOST = "no_host"


class _UnfitLine(Exception):
    """A line that is for the general path."""


class _TwiceError(Exception):
    """A line that must not be there twice."""


class Lines:
    """What the header lines of a request say, Content-Length left out.

    ``before`` and ``after`` are the canonical lines that stand before and after Content-Length as they go
    upstream, Host left out. ``chain`` and ``ids`` are the values of X-Forwarded-For and X-Request-Id,
    ``told`` the other lines that are read for what they say about the client, each in order; ``connection``
    is ``None``, CLOSE or KEEP, ``agent`` the first User-Agent. ``drop_cookies``, set before
    reading, leaves Cookie lines out.
    """

    __slots__ = ("after", "agent", "before", "chain", "connection", "drop_cookies", "host", "ids", "told")

    def __init__(self) -> None:
        self.drop_cookies = False
        self.host = b""
        self.agent: bytes | None = None
        self.connection: Mark | None = None
        self.chain: tuple[bytes, ...] = ()
        self.ids: tuple[bytes, ...] = ()
        self.told: tuple[Field, ...] = ()
        self.before = b""
        self.after = b""


class _LineCache(dict[bytes, "Marked | None"]):
    """Lines, ``None`` where they are simply passed on as they are. What is not there is judged
    (``judge``, which raises ``_UnfitLine``) and kept where that is worth it; two generations, what is used
    stays."""

    __slots__ = ("_judge", "old")

    def __init__(self, judge: Callable[[bytes], Marked | None]) -> None:
        self._judge = judge
        self.old: dict[bytes, Marked | None] = {}

    def __missing__(self, line: bytes) -> Marked | None:
        if line in self.old:
            entry = self.old[line]
        else:
            entry = self._judge(line)
            if len(line) > LONGEST or _is_unique(entry):
                return entry
        if len(self) >= GENERATION:
            self.old = self.copy()
            self.clear()
        self[line] = entry
        return entry


class RequestReader:
    """Reads header lines. One for each process: the more clients, the better.

    :param told: further names, in lower case, whose lines the rules read (``TrustTable.client_headers``).
    :param cookies: whether some route leaves Cookie lines out, so that they must be told apart.
    """

    def __init__(
        self,
        limits: HeadLimits,
        table: ForwardingTable,
        told: frozenset[bytes] = frozenset(),
        *,
        cookies: bool = False,
    ) -> None:
        self.limits = limits
        self._table = table
        self._told = told
        self._marks = {**_MARKS, b"cookie": Mark.COOKIE} if cookies else _MARKS
        self._lines = _LineCache(self._judge)
        self._names: dict[bytes, Mark] = {}

    def __repr__(self) -> str:
        return f"<RequestReader young={len(self._lines)} old={len(self._lines.old)}>"

    def read(self, before: bytes, after: bytes, lines: Lines) -> Unfit | None:
        """Read the lines before and after Content-Length into ``lines``, each without its outer CRLFs; either
        may be empty. Of the lines, Content-Length is taken to be one, whether it is there or not."""
        try:
            count = 1
            if before:
                split = before.split(b"\r\n")
                count += len(split)
                lines.before = self._read(before, split, lines)
            if after:
                split = after.split(b"\r\n")
                count += len(split)
                lines.after = self._read(after, split, lines)
        except _UnfitLine:
            return Unfit.LINE
        except _TwiceError:
            return Unfit.TWICE
        if count > self.limits.lines:
            return Unfit.SIZE
        return None if lines.host else Unfit.HOST

    def _read(self, block: bytes, split: list[bytes], lines: Lines) -> bytes:
        """Return what goes upstream of the lines of a block, and note the rest in ``lines``."""
        entries = list(map(self._lines.__getitem__, split))
        changed = False
        if any(entries):
            for place, entry in enumerate(entries):
                if entry is not None:
                    _note(lines, entry)
                    if entry.mark is Mark.COOKIE and lines.drop_cookies:
                        split[place] = b""
                        changed = True
                    elif entry.out is not None:
                        split[place] = entry.out
                        changed = True
        if not changed:
            return block + b"\r\n"
        passed = b"\r\n".join(filter(None, split))
        return passed + b"\r\n" if passed else b""

    def _judge(self, line: bytes) -> Marked | None:
        """Judge a line by the gate and by what its name means."""
        name, colon, value = line.partition(b":")
        mark = self._names.get(name)
        if mark is None or not colon:
            return self._judge_named(line)
        # The gate knows this name already, and asks no more of the value of such a line.
        if grammar.FIELD_CONTENT.fullmatch(value) is None:
            raise _UnfitLine
        return self._entry(mark, name, value)

    def _judge_named(self, line: bytes) -> Marked | None:
        """Judge a line whose name was not seen yet."""
        try:
            field = judge_field_line(line)
            if field is None:
                raise _UnfitLine
            name, value = field
            lower = name.lower()
            kind = classify_request_name(lower, self._table)
            if kind is Kind.HOST:
                check_request_fields(_ANY_LINE, (field,))
                return Marked(Mark.HOST, name=name, value=value)
        except Violation:
            raise _UnfitLine from None
        if kind is Kind.PASS or kind is Kind.MANAGED:
            mark = self._mark(lower, kind)
            self._keep_name(name, mark)
            return self._entry(mark, name, line[len(name) + 1 :])
        if kind is Kind.CONNECTION:
            options = list_members([value])
            if len(options) == 1 and options[0] in _CONNECTIONS:
                return _CONNECTIONS[options[0]]
        elif lower in _PLAIN_HOPS and lower not in self._told:
            return _GONE
        raise _UnfitLine

    def _mark(self, lower: bytes, kind: Kind) -> Mark:
        """What an end-to-end line of this name is, or one that we set ourselves."""
        if lower in self._told:
            if lower in _SINGLE_MINDED:
                raise _UnfitLine  # it would have two meanings
            return Mark.TOLD
        return self._marks.get(lower, Mark.PASS if kind is Kind.PASS else Mark.TOLD)

    def _entry(self, mark: Mark, name: bytes, raw: bytes) -> Marked | None:
        """``raw``: all that stands behind the colon."""
        value = raw.strip(OWS)
        canonical = len(raw) == len(value) + 1 and raw[0] == 0x20
        if mark is Mark.PASS:
            return None if canonical else Marked(mark, b"%b: %b" % (name, value))
        told = mark is Mark.TOLD and classify_request_name(name.lower(), self._table) is Kind.PASS
        if told or mark is Mark.AGENT or mark is Mark.COOKIE:
            return Marked(mark, None if canonical else b"%b: %b" % (name, value), name, value)
        return Marked(mark, b"", name, value)

    def _keep_name(self, name: bytes, mark: Mark) -> None:
        if len(name) <= LONGEST_NAME:
            if len(self._names) >= NAMES:
                self._names.clear()
            self._names[name] = mark


def _is_unique(entry: Marked | None) -> bool:
    """Is it a line about one client or one request? There are as many as requests."""
    if entry is None:
        return False
    if entry.mark is Mark.TOLD:
        return entry.name.lower() not in _SAID_OF_MANY
    return entry.mark is Mark.CHAIN or entry.mark is Mark.NAMED_ID


def _note(lines: Lines, entry: Marked) -> None:
    """Take in a line that has a meaning. Raises ``_TwiceError``."""
    mark = entry.mark
    if mark is Mark.HOST:
        if lines.host:
            raise _TwiceError
        lines.host = entry.value
    elif mark is Mark.AGENT:
        if lines.agent is None:
            lines.agent = entry.value
    elif mark is Mark.CHAIN:
        lines.chain += (entry.value,)
    elif mark is Mark.TOLD:
        lines.told += ((entry.name, entry.value),)
    elif mark is Mark.NAMED_ID:
        lines.ids += (entry.value,)
    elif mark is Mark.CLOSE or mark is Mark.KEEP:
        if lines.connection is not None:
            raise _TwiceError
        lines.connection = mark


def read_request_line(line: bytes, limits: HeadLimits) -> tuple[bytes, bytes, bytes, int] | None:
    """Read a request line without CRLF: method, target, the target's path, minor version; ``None``: not for
    the fast path."""
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        return None
    method, target, path, minor = match.groups()
    if len(target) > limits.target_bytes:
        return None
    return method, target, path, 1 if minor == b"1" else 0


class FastAnswer:
    """An answer head that was taken, ready to be sent to a client of one version on a connection that
    goes on or ends: ``out``, and where the upstream said no date, that and ``rest`` behind it.
    ``head``: what the upstream said; ``length``: bytes of the body; ``reusable``: the upstream connection
    goes on."""

    __slots__ = ("head", "length", "out", "rest", "reusable", "size", "status", "whole")

    def __init__(self, head: ResponseHead, size: int, out: bytes, rest: bytes | None) -> None:
        self.head = head
        self.status = head.status
        length = self.length = head.framing.length
        self.size = size
        self.whole = size + length
        self.out = out
        self.rest = rest
        self.reusable = not head.close


class AnswerReader:
    """Reads answer heads: a head that was seen before (within a second most are equal, Date included) is one
    look-up. Taken are final answers whose body has a known length, and which betray nothing
    (rules/symptoms.py). ``hsts`` is the Strict-Transport-Security that they get; another one is another
    reader."""

    def __init__(
        self, limits: HeadLimits, table: ForwardingTable, hsts: bytes = b"", *, sdk: bool = True
    ) -> None:
        self._limits = limits
        self._table = table
        self.hsts = hsts
        self._sdk = sdk
        self._seen: tuple[dict[bytes, FastAnswer | None], ...] = ({}, {}, {}, {})

    def __repr__(self) -> str:
        return f"<AnswerReader seen={sum(map(len, self._seen))}>"

    def read(self, data: bytes, minor: int, close: bool) -> FastAnswer | None:
        """Read the head at the beginning of ``data``; ``None``: not whole, or not for the fast path.

        ``minor`` is the client's version, ``close`` whether its connection ends after this answer.
        """
        end = data.find(b"\r\n\r\n") + 4
        if end < 4:
            return None
        raw = data[:end]
        seen = self._seen[2 * minor + close]
        try:
            return seen[raw]
        except KeyError:
            pass
        answer = self._judged(raw, minor, close)
        if end <= LONGEST_BLOCK:
            if len(seen) >= ANSWERS:
                seen.clear()
            seen[raw] = answer
        return answer

    def _judged(self, raw: bytes, minor: int, close: bool) -> FastAnswer | None:
        try:
            checked = check_response(raw, b"GET", self._limits)
        except Violation:
            return None
        line, fields, framing = checked.line, checked.fields, checked.framing
        bounded = framing.kind in (FramingKind.LENGTH, FramingKind.NONE)
        if line.status < 200 or not bounded or betrays(line.status, fields, sdk=self._sdk):
            return None
        head = ResponseHead(line.status, line.reason, line.minor, fields, framing, checked.close)
        fields = response_fields(
            head,
            method=b"GET",
            minor=minor,
            close=close,
            date=_ANY_DATE,
            table=self._table,
            hsts=self.hsts,
        )
        out, dateless, rest = render_response(line.status, line.reason, fields).partition(_ANY_DATE)
        return FastAnswer(head, len(raw), out, rest if dateless else None)
