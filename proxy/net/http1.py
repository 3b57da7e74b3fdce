"""One request and its answer over an HTTP/1.1 upstream connection (RFC 9112).

The exchange owns the connection's stream until it is over: it writes the head and the framed body,
reads heads through the gate (wire/heads.py) and bodies through the strict readers. Anything that two
parsers could read differently in an answer is a 502 and the connection is not used again.

Memory: what the stream holds (see ``Stream``); an answer head is bounded by ``AnswerLimits``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxy.errors import Failure, Resend, Source, Violation
from proxy.message import Framing, FramingKind
from proxy.wire.bodies import LAST_CHUNK, BodyReader, LengthBody, chunk, open_body
from proxy.wire.heads import read_response
from proxy.wire.strict import HeadLimits, find_head_end, response_over_limit

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.message import RequestHead, ResponseHead
    from proxy.net.splice import Remainder
    from proxy.net.stream import Stream


@dataclass(frozen=True, slots=True)
class AnswerLimits:
    """Bounds on what an upstream may say: the head (bytes, lines), interim 1xx heads, trailer bytes."""

    head: HeadLimits
    interim: int = 8
    trailer_bytes: int = 8192


class Http1Exchange:
    """See ``UpstreamExchange`` for the contract; the connection carries nothing else meanwhile."""

    def __init__(self, stream: Stream, limits: AnswerLimits) -> None:
        self._stream = stream
        self._limits = limits
        self._bytes_before = stream.bytes_in
        self._method = b""
        self._websocket = False
        self._chunked = False
        self._sent = False
        self._scanned = 0
        self._interim = 0
        self._head: ResponseHead | None = None
        self._body: BodyReader = open_body(Framing(FramingKind.NONE), trailer_limit=0)
        self._over = False
        self._sink: Callable[[bytes], None] | None = None

    def __repr__(self) -> str:
        state = "OVER" if self._over else "ANSWERING" if self._head else "SENT" if self._sent else "SENDING"
        return f"<Http1Exchange {state} {self._stream!r}>"

    @property
    def answered(self) -> bool:
        return self._stream.bytes_in > self._bytes_before

    @property
    def over(self) -> bool:
        return self._over

    @property
    def reusable(self) -> bool:
        head = self._head
        return (
            self._over
            and self._sent
            and head is not None
            and not head.close
            and head.framing.kind is not FramingKind.UNTIL_CLOSE
            and not self._stream.received
            and not self._stream.at_eof
        )

    # Sending.

    def send_head(self, head: bytes, request: RequestHead, first_body: bytes, complete: bool) -> None:
        self._method = request.method
        self._websocket = request.websocket
        self._chunked = request.framing.kind is FramingKind.CHUNKED
        self._sent = complete
        self._stream.write(head + self._framed(first_body) + (self._end() if complete else b""))

    def was_sent(self, method: bytes, *, complete: bool) -> None:
        self._method = method
        self._sent = complete
        # What has come by now is the beginning of the answer.
        self._bytes_before = self._stream.bytes_in - len(self._stream.received)

    def send_body(self, data: bytes) -> None:
        self._stream.write(self._framed(data))

    def end_body(self) -> None:
        self._sent = True
        end = self._end()
        if end:
            self._stream.write(end)

    async def drain(self, stall: float, late: Callable[[], Failure]) -> None:
        await self._stream.drain(stall, late)

    @property
    def bare_sink(self) -> Stream | None:
        return None if self._chunked else self._stream

    def _framed(self, data: bytes) -> bytes:
        return chunk(data) if self._chunked and data else data

    def _end(self) -> bytes:
        return LAST_CHUNK if self._chunked else b""

    # Reading.

    def was_answered(self, head: ResponseHead, count: int) -> None:
        self._begin(head)
        assert isinstance(self._body, LengthBody)
        self._body.skip(count)

    def passed(self, count: int) -> bool:
        if not isinstance(self._body, LengthBody) or count > self._body.remaining:
            return False
        self._body.skip(count)
        self._over = self._body.done
        return True

    async def read_head(self, due: float, late: Callable[[], Failure]) -> ResponseHead:
        while True:
            head = await self._next_head(due, late)
            if head.status == 101:
                if not self._websocket:
                    raise self._bad("unasked_upgrade", "the upstream switched protocols unasked")
                return self._begin(head)
            if head.status >= 200:
                return self._begin(head)
            # Interim answers end here: 100 we have said ourselves, and common clients (Python's
            # http.client among them) take a 103 for the final answer.
            self._interim += 1
            if self._interim > self._limits.interim:
                raise self._bad("too_many_interim", f"more than {self._limits.interim} interim answers")

    def _begin(self, head: ResponseHead) -> ResponseHead:
        self._head = head
        self._body = open_body(head.framing, trailer_limit=self._limits.trailer_bytes)
        if self._body.done and head.status != 101:
            self._over = True
        return head

    async def _next_head(self, due: float, late: Callable[[], Failure]) -> ResponseHead:
        received = self._stream.received
        while (end := find_head_end(received, self._scanned)) < 0:
            violation = response_over_limit(received, self._limits.head)
            if violation is not None:
                raise self._bad(violation.reason, violation.detail)
            self._scanned = len(received)
            if not await self._stream.fill(due, late):
                raise self._closed_early()
        raw = bytes(received[:end])
        del received[:end]
        self._scanned = 0
        try:
            return read_response(raw, self._method, self._limits.head)
        except Violation as violation:
            raise self._bad(violation.reason, violation.detail) from violation

    def take_body(self) -> bytes:
        """Return the body bytes that are here already, without waiting; ``b""``: none."""
        try:
            data = self._body.take(self._stream.received)
        except Violation as violation:
            raise self._bad(violation.reason, violation.detail) from violation
        if self._body.done:
            self._over = True
        if data and self._sink is not None:
            self._sink(data)
        return data

    def tell_body(self, sink: Callable[[bytes], None]) -> None:
        self._sink = sink

    async def read_body(self, due: float, late: Callable[[], Failure]) -> bytes:
        while not self._over:
            data = self.take_body()
            if data:
                return data
            if not self._body.done and not await self._stream.fill(due, late):
                self._end_by_close()
        return b""

    def remainder(self, stall: float, late: Callable[[], Failure]) -> Remainder:
        body = self._body if self._sink is None else LengthBody(0)
        return AnswerRemainder(self._stream, body, stall, late)

    def _end_by_close(self) -> None:
        try:
            self._body.at_eof()
        except Violation as violation:
            raise self._bad("answer_truncated", "the upstream closed inside its answer") from violation
        if self._stream.error is not None:
            # A reset is no end: only a clean FIN may end a body that has no length.
            raise self._bad("answer_truncated", "the upstream's connection broke inside its answer")
        self._over = True

    def _closed_early(self) -> Failure:
        if self.answered:
            return self._bad("answer_truncated", "the upstream closed inside the head of its answer")
        detail = "the upstream closed the connection without an answer"
        return Failure(Source.UPSTREAM, "upstream_closed", 502, detail, Resend.REUSED)

    @staticmethod
    def _bad(kind: str, detail: str) -> Failure:
        return Failure(Source.UPSTREAM, kind, 502, detail)

    # Ending.

    def detach(self) -> Stream:
        self._over = True
        self._sent = False  # never reusable: what follows is no HTTP
        return self._stream

    def abort(self) -> None:
        self._stream.abort()


class AnswerRemainder:
    """What is left of an answer's body; see ``splice.Remainder`` for the contract."""

    def __init__(self, stream: Stream, body: BodyReader, stall: float, late: Callable[[], Failure]) -> None:
        self.stream = stream
        self.late = late
        self.spliced = 0
        self._body = body if isinstance(body, LengthBody) else LengthBody(0)
        self._stall = stall

    @property
    def remaining(self) -> int:
        return self._body.remaining

    def take(self) -> bytes:
        return self._body.take(self.stream.received)

    def passed(self, count: int) -> None:
        self._body.skip(count)
        self.spliced += count

    def waited(self, seconds: float) -> None:
        """Only a pause in the answer counts, not their sum."""

    def due(self, now: float) -> float:
        return now + self._stall
