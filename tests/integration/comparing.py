"""Two proxies, one case: what differs in the bytes that they wrote, and whether a table explains it.

A table of ``Rule`` is exact in both directions: a difference that no rule covers is a failure, and so is a
rule that covers none in a case that it claims. So the table stays the true list of what differs.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from tests.support import servers
from tests.support.wire import Answer, Client, Message, RawUpstream, Received, WireError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from tests.integration.requests_corpus import Case
    from tests.support.wire import Address

Place: TypeAlias = Literal[
    "verdict",  # forwarded, or answered by the proxy itself
    "request line",
    "request field",
    "request order",
    "request framing",
    "request body",
    "answer line",
    "answer field",
    "answer order",
    "answer framing",
    "answer body",
]

FRAMING = frozenset({b"content-length", b"transfer-encoding"})
SET_BY_PROXIES = frozenset(
    {b"host", b"connection", b"x-forwarded-for", b"x-forwarded-proto", b"server", b"date"}
)
"""Fields that a proxy writes itself, wherever it likes: their place among the others means nothing."""

ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class Observed:
    """What one proxy made of a case: the requests that reached its upstream, the answer to the client."""

    forwarded: tuple[Received, ...]
    answer: Answer | None


Through: TypeAlias = "Callable[[Case], tuple[Observed, Observed]]"


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference: where, in what (a field's name in lower case, else empty), and both readings."""

    place: Place
    what: str
    theirs: str
    ours: str

    def __str__(self) -> str:
        return f"{self.place} {self.what}: they {self.theirs[:300]}, we {self.ours[:300]}"


@dataclass(frozen=True, slots=True)
class Rule:
    """An allowed difference and why it is right.

    ``theirs`` and ``ours`` are patterns of the whole reading. ``cases`` names the cases where it must
    occur; without it: every case that both forward, those in ``but`` excepted.
    """

    place: Place
    what: str
    why: str
    theirs: str = ".*"
    ours: str = ".*"
    cases: frozenset[str] | None = None
    but: frozenset[str] = frozenset()

    def applies(self, case: str, *, both_forwarded: bool) -> bool:
        if self.cases is not None:
            return case in self.cases
        return both_forwarded and case not in self.but

    def covers(self, difference: Difference) -> bool:
        return (
            (self.place, self.what) == (difference.place, difference.what)
            and re.fullmatch(self.theirs, difference.theirs, re.DOTALL) is not None
            and re.fullmatch(self.ours, difference.ours, re.DOTALL) is not None
        )


@contextmanager
def side_by_side(
    start: Callable[..., AbstractContextManager[servers.Server]], template: str, folder: Path
) -> Iterator[Through]:
    """Run another proxy and ours in `append` mode, each before an upstream of its own.

    Yields a function that sends a case through both: what they made of it, what we did.
    """
    with (
        RawUpstream() as behind_them,
        RawUpstream() as behind_us,
        start(template, folder, upstream=f"127.0.0.1:{behind_them.port}") as they,
        servers.posthog_proxy(
            behind_us.url, "--set", "forwarding.chain=append", "--set", "cache.enabled=false"
        ) as we,
    ):
        yield lambda case: (
            observe(case, they.address, behind_them),
            observe(case, we.address, behind_us),
        )


def observe(case: Case, proxy: Address, upstream: RawUpstream) -> Observed:
    """Send the case through ``proxy``, before ``upstream``, and keep what both ends saw."""
    upstream.answer = case.answer
    method = case.request.lstrip(b"\r\n").split(b" ", 1)[0]
    with Client(proxy, source=case.source) as client:
        client.send(case.request)
        try:
            answer = client.answer(method)
        except WireError:
            answer = None
    return Observed(tuple(upstream.take_all()), answer)


def judge(case: Case, theirs: Observed, ours: Observed, rules: Sequence[Rule]) -> list[str]:
    """Return what is wrong with the case: unexplained differences, and rules that explain nothing."""
    found = differences(theirs, ours)
    both = bool(theirs.forwarded) and bool(ours.forwarded)
    applicable = [rule for rule in rules if rule.applies(case.name, both_forwarded=both)]
    wrong = [
        f"unexplained: {difference}"
        for difference in found
        if not any(rule.covers(difference) for rule in applicable)
    ]
    wrong += [
        f"explains nothing here: {rule.place} {rule.what} ({rule.why})"
        for rule in applicable
        if not any(rule.covers(difference) for difference in found)
    ]
    return wrong


def differences(theirs: Observed, ours: Observed) -> list[Difference]:
    """List every difference between two observations of one case."""
    if len(theirs.forwarded) != len(ours.forwarded) or not ours.forwarded:
        readings = (_verdict(theirs), _verdict(ours))
        return [] if readings[0] == readings[1] else [Difference("verdict", "", *readings)]
    found: list[Difference] = []
    for their_request, our_request in zip(theirs.forwarded, ours.forwarded, strict=True):
        found += _requests(their_request.message, our_request.message)
    if theirs.answer is None or ours.answer is None:
        readings = (_verdict(theirs), _verdict(ours))
        return found if readings[0] == readings[1] else [*found, Difference("verdict", "", *readings)]
    return found + _answers(theirs.answer, ours.answer)


def _verdict(seen: Observed) -> str:
    status = "no answer" if seen.answer is None else str(seen.answer.status)
    return f"{'forwarded' if seen.forwarded else 'refused'} {status}"


def _requests(theirs: Message, ours: Message) -> list[Difference]:
    found = _unequal("request line", theirs.start_line, ours.start_line)
    found += _fields("request field", theirs, ours)
    found += _order("request order", theirs, ours)
    found += _unequal("request framing", _framing(theirs), _framing(ours))
    return found + _unequal("request body", theirs.body, ours.body)


def _answers(theirs: Answer, ours: Answer) -> list[Difference]:
    found = _unequal("answer line", theirs.message.start_line, ours.message.start_line)
    if theirs.status != ours.status:
        return found  # two answers of different makers: nothing further to compare
    found += _fields("answer field", theirs.message, ours.message)
    found += _order("answer order", theirs.message, ours.message)
    readings = [f"{_framing(seen.message)}{', closed' * seen.closed}" for seen in (theirs, ours)]
    found += _unequal("answer framing", readings[0].encode(), readings[1].encode())
    return found + _unequal("answer body", theirs.body, ours.body)


def _unequal(place: Place, theirs: bytes | str, ours: bytes | str, what: str = "") -> list[Difference]:
    if theirs == ours:
        return []
    return [Difference(place, what, _text(theirs), _text(ours))]


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")


def _framing(message: Message) -> str:
    coding = b", ".join(message.values("Transfer-Encoding"))
    lengths = b", ".join(message.values("Content-Length"))
    return " ".join(filter(None, [_text(coding), f"length {_text(lengths)}" if lengths else ""])) or "none"


def _fields(place: Place, theirs: Message, ours: Message) -> list[Difference]:
    """Compare the lines of each name: their spelling, their number, their values, their order."""
    found: list[Difference] = []
    for name in sorted(_names(theirs.fields) | _names(ours.fields)):
        if name not in FRAMING:
            readings = (_lines(theirs, name), _lines(ours, name))
            found += _unequal(place, *readings, what=_text(name))
    return found


def _names(fields: Iterable[tuple[bytes, bytes]]) -> set[bytes]:
    return {name.lower() for name, _ in fields}


def _lines(message: Message, name: bytes) -> str:
    lines = [f"{_text(key)}: {_text(value)}" for key, value in message.fields if key.lower() == name]
    return " | ".join(lines) or ABSENT


def _order(place: Place, theirs: Message, ours: Message) -> list[Difference]:
    """Compare the order of the lines that both have and that no proxy writes itself."""
    common = _names(theirs.fields) & _names(ours.fields) - FRAMING - SET_BY_PROXIES
    readings = [
        ", ".join(_text(name.lower()) for name, _ in message.fields if name.lower() in common)
        for message in (theirs, ours)
    ]
    return _unequal(place, readings[0], readings[1])
