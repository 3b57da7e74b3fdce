"""The request body as it comes from the client: strictly read, counted, and judged for slowness.

Memory: what the stream holds, plus what ``hold`` was asked to keep and one read of the stream.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.errors import Failure, Source, Violation
from proxy.wire.bodies import LengthBody, open_body

if TYPE_CHECKING:
    from proxy.config.schema import LimitsConfig, TimeoutsConfig
    from proxy.message import Framing, Route
    from proxy.net.stream import Stream
    from proxy.serve.connection import Connection


class RequestBody:
    """Decoded body bytes of one request.

    ``since`` is the moment at which the head was complete. Every way in which the client can fail it is
    a ``Failure`` with source DOWNSTREAM: 400 (bad chunk, or closed inside the body), 408 (stalled, too
    slow, too long), 413 (over the route's cap).
    """

    def __init__(
        self,
        stream: Stream,
        framing: Framing,
        route: Route,
        limits: LimitsConfig,
        timeouts: TimeoutsConfig,
        since: float,
    ) -> None:
        self.stream = stream
        self._reader = open_body(framing, trailer_limit=limits.trailer_bytes)
        self._cap = route.body_limit
        self._timeouts = timeouts
        self._clock = stream.deadlines.clock
        self._end = since + route.body_timeout
        self._waited = self._clock.monotonic() - since
        self.size = 0
        """Decoded bytes so far."""
        self.spliced = 0
        """Those of them that went by (net/splice.py)."""

    @property
    def done(self) -> bool:
        """True once the last byte was read."""
        return self._reader.done

    def begun(self, count: int) -> None:
        """So many were read already, by the fast path: of a body whose length is known."""
        assert isinstance(self._reader, LengthBody)
        self._reader.skip(count)
        self.size += count

    def take(self) -> bytes:
        """Return what is here already, without waiting; ``b""``: nothing."""
        try:
            data = self._reader.take(self.stream.received)
        except Violation as violation:
            raise Failure(
                Source.DOWNSTREAM, violation.reason, violation.status, violation.detail
            ) from violation
        if self.done:
            # Nobody fills the stream any more; yet a client that leaves before its answer must be noticed.
            self.stream.resume()
        self.size += len(data)
        if self.size > self._cap:
            raise Failure(
                Source.DOWNSTREAM, "body_too_large", 413, f"the body is larger than {self._cap} bytes"
            )
        return data

    async def read(self) -> bytes:
        """Return some body bytes; ``b""`` once the body is complete."""
        while not (data := self.take()) and not self.done:
            await self._more()
        return data

    async def hold(self, size: int) -> bytes:
        """Return the whole body if it ends within ``size`` bytes, else at least its first ``size`` bytes."""
        pieces = [self.take()]
        held = len(pieces[0])
        while not self.done and held < size:
            await self._more()
            pieces.append(self.take())
            held += len(pieces[-1])
        return b"".join(pieces)

    # Past this reader: see ``splice.Remainder``.

    @property
    def remaining(self) -> int:
        """Bytes that are still to come, 0 if they do not stand bare on the stream."""
        return self._reader.remaining if isinstance(self._reader, LengthBody) else 0

    def passed(self, count: int) -> None:
        """So many went to the upstream without being read here."""
        assert isinstance(self._reader, LengthBody)
        self._reader.skip(count)
        self.size += count
        self.spliced += count

    # Waiting.

    async def _more(self) -> None:
        started = self._clock.monotonic()
        if not await self.stream.fill(self.due(started), self.late):
            raise Failure(
                Source.DOWNSTREAM, "body_incomplete", 400, "the connection ended inside the request body"
            )
        self.waited(self._clock.monotonic() - started)

    def waited(self, seconds: float) -> None:
        """So long the client sent nothing although we read. Time in which we did not read, because the
        upstream is slow, is not its fault."""
        self._waited += seconds

    def due(self, now: float) -> float:
        """The moment by which a byte must come when the wait for it begins ``now``."""
        due = min(now + self._timeouts.body_stall, self._end)
        if self._timeouts.body_min_rate:
            allowed = max(self._timeouts.body_rate_grace, self.size / self._timeouts.body_min_rate)
            due = min(due, now + allowed - self._waited)
        return due

    def late(self) -> Failure:
        """What to raise then."""
        return Failure(
            Source.DOWNSTREAM,
            "body_timeout",
            408,
            f"the request body came too slowly ({self.size} bytes so far)",
        )


def request_body(connection: Connection, framing: Framing, route: Route, since: float) -> RequestBody:
    """Begin the body of a request of ``connection`` whose head was complete at ``since``."""
    config = connection.runtime.config
    return RequestBody(connection, framing, route, config.limits, config.timeouts, since)
