"""One record after the other as a request to its upstream, with the times in it put right.

::

    ask ─▶ correct ─▶ small, and a connection is idle ─▶ one write ─▶ a plain answer, whole ─▶ told
                                │ no                                     │ anything else
                                ▼                                        ▼
                       lease, request head read, body in pieces ─▶ answer read by the exchange ─▶ told

The way above is that of nearly all: no lease, no reading of a head that was judged when it came, and an
answer head that was seen before is one look-up. It decides nothing else than the way below, which also finds
out what goes wrong.

Memory: the body of one record, up to ``CORRECTED_BYTES``; larger ones go in pieces.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from proxy.clock import NEVER
from proxy.errors import Failure, ProxyError, Resend, Violation, late_answer, stuck_upstream
from proxy.message import FramingKind, first_value
from proxy.net.lease import SICK
from proxy.rules.caching import is_html
from proxy.spool.record import ANY_HEAD
from proxy.wire.heads import read_request, read_response
from proxy.wire.strict import HeadLimits

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from proxy.clock import Deadlines
    from proxy.config.schema import TimeoutsConfig
    from proxy.message import RequestHead, ResponseHead
    from proxy.net.lease import Lease
    from proxy.net.pool import UpstreamPool
    from proxy.net.upstream import UpstreamConnection
    from proxy.spool.record import Keeper, Stored

CORRECTED_BYTES = 1024 * 1024
"""Bodies up to this are corrected (rules/lateness.py); of larger ones only the head is."""

Correct: TypeAlias = "Callable[[bytes, bytes | None, float], Awaitable[tuple[bytes, bytes | None]]]"
"""Head, body (``None``: it is too large) and seconds of delay to the head and body to send."""

_LENGTH = re.compile(rb"(?i)\r\ncontent-length:[ \t]*+([0-9]++)[ \t]*+\r\n")

_MOST_OF_AN_ANSWER = 64 * 1024

_SHORT_HEAD = HeadLimits(4096, 64)
_MOST_HEADS = 256


class Unsendable(ProxyError):
    """A record of which no request can be made."""


@dataclass(slots=True)
class Heard:
    """What an answer means for a record. ``page``: it is a web page, which no event endpoint has; ``wait``:
    the seconds of Retry-After (RFC 9110 section 10.2.3), where they are given as such."""

    status: int
    page: bool
    wait: float | None


def heard(head: ResponseHead) -> Heard:
    """Judge an answer by its head."""
    value = first_value(head.fields, b"retry-after") or b""
    wait = float(value) if value.isdigit() and len(value) < 7 else None
    return Heard(head.status, is_html(head.fields), wait)


class PlainAnswers:
    """Reads answers that are here whole. Memory: ``_MOST_HEADS`` heads of 4 KiB at most, each read only once
    (within a second most are equal, Date included)."""

    def __init__(self) -> None:
        self._seen: dict[bytes, tuple[ResponseHead, Heard]] = {}

    def read(self, data: bytes) -> tuple[ResponseHead, int, Heard] | None:
        """Return the head, the bytes of the whole answer and its meaning; ``None``: it is not whole, or not
        plain."""
        size = data.find(b"\r\n\r\n") + 4
        raw = data[:size]
        known = self._seen.get(raw)
        if known is None:
            if size < 4:
                return None
            try:
                head = read_response(raw, b"POST", _SHORT_HEAD)
            except Violation:
                return None
            if len(self._seen) >= _MOST_HEADS:
                self._seen.clear()
            known = self._seen[raw] = head, heard(head)
        head, meaning = known
        whole = size + head.framing.length
        bounded = head.framing.kind in (FramingKind.LENGTH, FramingKind.NONE)
        if not bounded or head.status < 200 or head.status in SICK or len(data) < whole:
            return None
        return head, whole, meaning


class Courier:
    """See the module. Carries one record at a time."""

    def __init__(
        self,
        keeper: Keeper,
        pool: UpstreamPool,
        deadlines: Deadlines,
        timeouts: TimeoutsConfig,
        correct: Correct,
        answers: PlainAnswers,
    ) -> None:
        self._keeper = keeper
        self._pool = pool
        self._deadlines = deadlines
        self._timeouts = timeouts
        self._correct = correct
        self._answers = answers
        self._connection: UpstreamConnection | None = None
        self._answer: asyncio.Future[Heard | None]

    def __repr__(self) -> str:
        return f"<Courier {'waits' if self._connection else 'free'}>"

    async def ask(self, stored: Stored) -> Heard:
        """Send a record and return what was answered. Raises ``Failure``, ``Unsendable`` or
        ``SpoolFailed``."""
        clock = self._deadlines.clock
        body = await self._whole(stored)
        delay = max(0.0, clock.wall() - stored.arrived)
        try:
            head, body = await self._correct(stored.head, body, delay)
        except Exception as error:  # anybody sends events: one that trips us must not keep the others here
            raise Unsendable(f"it cannot be made ready: {error!r}") from error
        fresh = False
        if body is not None and is_plain(head, len(body)):
            connection = self._pool.take_quickly(clock.monotonic())
            if connection is not None:
                answer = await self._quickly(connection, head + body)
                if answer is not None:
                    return answer
                fresh = True
        return heard(await self._thoroughly(stored, head, body, fresh=fresh))

    async def _whole(self, stored: Stored) -> bytes | None:
        if stored.inline is not None or stored.length == 0:
            return stored.inline or b""
        if stored.length > CORRECTED_BYTES:
            return None
        return b"".join([piece async for piece in self._keeper.body(stored)])

    def _due(self) -> float:
        return self._deadlines.clock.monotonic() + self._timeouts.first_byte_ingest

    # The quick way.

    async def _quickly(self, connection: UpstreamConnection, request: bytes) -> Heard | None:
        """Send a request and return what was answered; what is not plain the exchange reads. ``None``: the
        connection had been idle for too long, and ended unasked."""
        due = self._due()
        self._connection, connection.taker = connection, self
        self._answer = asyncio.get_running_loop().create_future()
        connection.write(request)
        try:
            answer = await self._deadlines.wait(self._answer, due, late_answer)
        except Failure:
            answer = None  # the exchange will say the same
        except BaseException:
            self._give_up()
            raise
        if answer is not None:
            return answer
        lease = self._lent()
        lease.exchange.was_sent(request[: request.index(b" ")], complete=True)
        try:
            return heard(await self._read(lease, due))
        except Failure as failure:
            if failure.resend is not Resend.REUSED:
                raise
            return None

    def take(self, data: bytes, received: bytearray) -> bool:
        """The answer has come (``upstream.Taker``)."""
        connection = self._connection
        found = self._answers.read(data) if not received and not self._answer.done() else None
        if found is None or connection is None:
            self.lost()
            return False
        head, whole, meaning = found
        self._connection = connection.taker = None
        reusable = not head.close and len(data) == whole
        self._pool.give_back_quickly(connection, reusable, self._deadlines.clock.monotonic())
        self._answer.set_result(meaning)
        return True

    def lost(self) -> None:
        """The connection has ended, or said what is not plain (``upstream.Taker``)."""
        if self._connection is not None:
            self._connection.taker = None
        if not self._answer.done():
            self._answer.set_result(None)

    def _lent(self) -> Lease:
        """The connection, as a lease."""
        connection, self._connection = self._connection, None
        assert connection is not None
        connection.taker = None
        return self._pool.lend(connection)

    def _give_up(self) -> None:
        if self._connection is not None:
            lease = self._lent()
            lease.exchange.abort()
            lease.release(False)

    # The thorough way.

    async def _thoroughly(
        self, stored: Stored, head: bytes, body: bytes | None, *, fresh: bool
    ) -> ResponseHead:
        try:
            request = read_request(head, ANY_HEAD)
        except Violation as violation:
            raise Unsendable(f"it cannot be made ready: {violation!r}") from violation
        connect_timeout = self._timeouts.connect
        lease = await self._pool.acquire(due=self._due(), connect_timeout=connect_timeout, fresh=fresh)
        try:
            return await self._leased(lease, stored, head, request, body)
        except Failure as failure:
            if failure.resend is not Resend.REUSED or not lease.reused:
                raise
        return await self._thoroughly(stored, head, body, fresh=True)

    async def _leased(
        self, lease: Lease, stored: Stored, head: bytes, request: RequestHead, body: bytes | None
    ) -> ResponseHead:
        try:
            lease.exchange.send_head(head, request, body or b"", body is not None)
            answer = None if body is not None else await self._send_pieces(lease, stored)
        except BaseException as error:
            self._ended(lease, error)
            raise
        return await self._read(lease, self._due(), answer)

    async def _read(self, lease: Lease, due: float, answer: ResponseHead | None = None) -> ResponseHead:
        """Read the answer, its head too unless that is here, and release the lease."""
        try:
            if answer is None:
                answer = await lease.exchange.read_head(due, late_answer)
            lease.report(answer.status, None)
            await self._read_away(lease)
        except BaseException as error:
            self._ended(lease, error)
            raise
        self._ended(lease, None)
        return answer

    @staticmethod
    def _ended(lease: Lease, error: BaseException | None) -> None:
        if isinstance(error, Failure):
            lease.report(None, error)
        if not lease.exchange.over:
            lease.exchange.abort()
        lease.release(lease.exchange.reusable)

    async def _send_pieces(self, lease: Lease, stored: Stored) -> ResponseHead | None:
        """Send a large body; an answer that comes before its end (a 413) is returned."""
        loop = asyncio.get_running_loop()
        reading = loop.create_task(lease.exchange.read_head(NEVER, late_answer))
        sending = loop.create_task(self._pieces(lease, stored))
        try:
            await asyncio.wait({reading, sending}, return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                return reading.result()
            sending.result()
        finally:
            for task in (reading, sending):
                task.cancel()
            await asyncio.gather(reading, sending, return_exceptions=True)
        return None if reading.cancelled() else reading.result()

    async def _pieces(self, lease: Lease, stored: Stored) -> None:
        async for piece in self._keeper.body(stored):
            lease.exchange.send_body(piece)
            await lease.exchange.drain(self._timeouts.write_stall, stuck_upstream)
        lease.exchange.end_body()

    async def _read_away(self, lease: Lease) -> None:
        """Read the answer to its end, if that is near: the connection can be used again then."""
        size = 0
        while not lease.exchange.over and size <= _MOST_OF_AN_ANSWER:
            due = self._deadlines.clock.monotonic() + self._timeouts.answer_stall
            size += len(await lease.exchange.read_body(due, late_answer))


def is_plain(head: bytes, length: int) -> bool:
    """Whether a head that was judged when it came can go out as it is, before ``length`` bytes. It could not
    if somebody had changed it."""
    if not head.startswith((b"POST /", b"GET /")) or head.find(b"\r\n\r\n") != len(head) - 4:
        return False
    if b"\r\nContent-Length: %d\r\n" % length in head:
        return True
    said = _LENGTH.search(head)
    return (0 if said is None else int(said[1])) == length
