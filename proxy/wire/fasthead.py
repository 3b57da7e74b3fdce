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

Memory: two generations of ``GENERATION`` lines of at most ``LONGEST`` bytes, ``ANSWERS`` answer heads of at
most ``LONGEST_BLOCK``: below 8 MiB in the worst case.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from proxy.errors import Violation
from proxy.message import FramingKind, ResponseHead, first_value
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
    from proxy.message import Field
    from proxy.rules.forwarding import ForwardingTable

GENERATION = 4096
LONGEST = 256
ANSWERS = 512
LONGEST_BLOCK = 2048

METHODS = frozenset({b"GET", b"POST", b"OPTIONS"})
"""HEAD is left out: its answers have lengths without bodies."""

_ANY_LINE = RequestLine(b"GET", b"/", 1)
_ANY_HOST: Field = (b"Host", b"a")
_PLAIN_HOPS = frozenset(
    {b"keep-alive", b"proxy-connection", b"te", b"trailer", b"proxy-authenticate", b"proxy-authorization"}
)
"""Hop-by-hop lines that go out without meaning anything to us."""


class Mark(enum.Enum):
    """What a line is, if it is not simply passed on."""

    HOST = "host"
    LENGTH = "length"
    AGENT = "agent"
    MANAGED = "managed"
    CLOSE = "close"
    KEEP = "keep"
    GONE = "gone"
    UNFIT = "unfit"


class Marked(NamedTuple):
    """A line with a meaning: ``out`` as it goes upstream, ``value`` as received."""

    mark: Mark
    out: bytes = b""
    value: bytes = b""


Entry: TypeAlias = bytes | Marked
"""A line's verdict; plain bytes are the canonical line (with CRLF) of one that is passed on."""

_UNFIT = Marked(Mark.UNFIT)
_GONE = Marked(Mark.GONE)
_CONNECTIONS = {b"close": Marked(Mark.CLOSE), b"keep-alive": Marked(Mark.KEEP)}


class Unfit(enum.Enum):
    """Why a head was not taken; the labels of the counter ``fast_path_missed_total``."""

    SIZE = "size"
    REQUEST_LINE = "request_line"
    LENGTH = "length"
    LINE = "line"
    TWICE = "twice"
    HOST = "no_host"


class Lines:
    """What the header lines of a request say, Content-Length left out.

    ``before`` and ``after`` are the canonical lines that stand before and after Content-Length, Host left
    out. ``managed`` are the lines about the client, in order, X-Request-Id included; ``connection``
    is ``None``, CLOSE or KEEP.
    """

    __slots__ = ("after", "agent", "before", "connection", "host", "managed")

    def __init__(self) -> None:
        self.host = b""
        self.agent: bytes | None = None
        self.connection: Mark | None = None
        self.managed: tuple[Field, ...] = ()
        self.before = b""
        self.after = b""


class RequestReader:
    """Reads header lines. One for each process: the more clients, the better."""

    def __init__(self, limits: HeadLimits, table: ForwardingTable) -> None:
        self.limits = limits
        self._table = table
        self._young: dict[bytes, Entry] = {}
        self._old: dict[bytes, Entry] = {}

    def __repr__(self) -> str:
        return f"<RequestReader young={len(self._young)} old={len(self._old)}>"

    def read(self, before: bytes, after: bytes) -> Lines | Unfit:
        """Read the lines before and after Content-Length, each without its outer CRLFs; either may be
        empty."""
        lines = Lines()
        out: list[bytes] = []
        if before and (unfit := self._read(before, lines, out)) is not None:
            return unfit
        lines.before = b"".join(out)
        out.clear()
        if after and (unfit := self._read(after, lines, out)) is not None:
            return unfit
        lines.after = b"".join(out)
        return lines if lines.host else Unfit.HOST

    def _read(self, block: bytes, lines: Lines, out: list[bytes]) -> Unfit | None:
        """Look up the lines of one block: those that are passed on go to ``out``, the rest to ``lines``."""
        young = self._young
        for line in block.split(b"\r\n"):
            entry = young.get(line)
            if entry is None:
                entry = self._recall(line)
                young = self._young
            if isinstance(entry, bytes):
                out.append(entry)
            elif (unfit := _note(lines, entry, out)) is not None:
                return unfit
        return None

    def _recall(self, line: bytes) -> Entry:
        """Find a line among those not seen lately, or judge it; remember it where that is worth it."""
        entry = self._old.get(line)
        if entry is None:
            entry = self._judge(line)
            if len(line) > LONGEST or entry is _UNFIT or _names_a_client(entry):
                return entry
        if len(self._young) >= GENERATION:
            self._old, self._young = self._young, {}
        self._young[line] = entry
        return entry

    def _judge(self, line: bytes) -> Entry:
        """Judge a line by the gate and by what its name means; ``_UNFIT`` is for the general path."""
        try:
            field = judge_field_line(line)
            return _UNFIT if field is None else self._classified(line, field)
        except Violation:
            return _UNFIT

    def _classified(self, line: bytes, field: Field) -> Entry:
        name, value = field
        lower = name.lower()
        kind = classify_request_name(lower, self._table)
        if kind is Kind.PASS:
            out = b"%s: %s\r\n" % field
            return Marked(Mark.AGENT, out, value) if lower == b"user-agent" else out
        if kind is Kind.MANAGED:
            return Marked(Mark.MANAGED, name, value)
        if kind is Kind.HOST:
            check_request_fields(_ANY_LINE, (field,))
            return Marked(Mark.HOST, value=value)
        if kind is Kind.CONNECTION:
            options = list_members([value])
            return _CONNECTIONS.get(options[0], _UNFIT) if len(options) == 1 else _UNFIT
        return _GONE if lower in _PLAIN_HOPS else _UNFIT


def _names_a_client(entry: Entry) -> bool:
    """Lines about one client or one request: there are as many as requests."""
    return isinstance(entry, Marked) and entry.mark is Mark.MANAGED


def _note(lines: Lines, entry: Marked, out: list[bytes]) -> Unfit | None:
    """Take in a line that has a meaning; return why the head is unfit, if it is."""
    mark = entry.mark
    if mark is Mark.AGENT:
        if lines.agent is None:
            lines.agent = entry.value
        out.append(entry.out)
    elif mark is Mark.HOST:
        if lines.host:
            return Unfit.TWICE
        lines.host = entry.value
    elif mark is Mark.MANAGED:
        lines.managed += ((entry.out, entry.value),)
    elif mark is Mark.CLOSE or mark is Mark.KEEP:
        if lines.connection is not None:
            return Unfit.TWICE
        lines.connection = mark
    elif mark is Mark.UNFIT:
        return Unfit.LINE
    return None


def read_request_line(line: bytes, limits: HeadLimits) -> tuple[bytes, bytes, int] | None:
    """Read a request line without CRLF: method, target, minor version; ``None``: not for the fast path."""
    match = grammar.REQUEST_LINE.fullmatch(line)
    if match is None:
        return None
    method, target, major, minor = match.groups()
    if (
        method in METHODS
        and major == b"1"
        and minor in b"01"
        and target.startswith(b"/")
        and len(target) <= limits.target_bytes
    ):
        return method, target, 0 if minor == b"0" else 1
    return None


class FastAnswer:
    """An answer head that was taken, ready to be sent to a client of one version on a connection that
    goes on or ends. ``length``: bytes of the body; ``reusable``: the upstream connection goes on."""

    __slots__ = ("length", "out", "reusable", "size", "status", "whole")

    def __init__(self, status: int, length: int, size: int, out: bytes, reusable: bool) -> None:
        self.status = status
        self.length = length
        self.size = size
        self.whole = size + length
        self.out = out
        self.reusable = reusable


class AnswerReader:
    """Reads answer heads: a head that was seen before (within a second most are equal, Date included) is one
    look-up. Taken are final answers whose body has a known length and which say their Date, and which
    betray nothing (rules/symptoms.py)."""

    def __init__(self, limits: HeadLimits, table: ForwardingTable) -> None:
        self._limits = limits
        self._table = table
        self._seen: dict[bytes, FastAnswer | None] = {}

    def __repr__(self) -> str:
        return f"<AnswerReader seen={len(self._seen)}>"

    def read(self, data: bytes, minor: int, close: bool) -> FastAnswer | None:
        """Read the head at the beginning of ``data``; ``None``: not whole, or not for the fast path.

        ``minor`` is the client's version, ``close`` whether its connection ends after this answer.
        """
        end = data.find(b"\r\n\r\n") + 4
        if end < 4:
            return None
        key = data[:end] + (b"c" if close else b"k") if minor else data[:end] + (b"C" if close else b"K")
        try:
            return self._seen[key]
        except KeyError:
            pass
        answer = self._judged(data[:end], minor, close)
        if end <= LONGEST_BLOCK:
            if len(self._seen) >= ANSWERS:
                self._seen.clear()
            self._seen[key] = answer
        return answer

    def _judged(self, raw: bytes, minor: int, close: bool) -> FastAnswer | None:
        try:
            checked = check_response(raw, b"GET", self._limits)
        except Violation:
            return None
        line, fields, framing = checked.line, checked.fields, checked.framing
        bounded = framing.kind in (FramingKind.LENGTH, FramingKind.NONE)
        if line.status < 200 or not bounded or betrays(line.status, fields):
            return None
        head = ResponseHead(line.status, line.reason, line.minor, fields, framing, checked.close)
        out = response_fields(head, method=b"GET", minor=minor, close=close, date=b"", table=self._table)
        if first_value(out, b"date") == b"":  # the general path knows the time
            return None
        rendered = render_response(line.status, line.reason, out)
        return FastAnswer(line.status, framing.length, len(raw), rendered, not checked.close)
