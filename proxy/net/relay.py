"""A tunnel between two streams after a valid 101: bytes both ways, back-pressure, half-close.

Memory: what the two streams hold; a side that does not take its bytes stops the other from being read.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from proxy.clock import NEVER
from proxy.errors import Failure, Source

if TYPE_CHECKING:
    from proxy.clock import Deadlines
    from proxy.net.stream import Stream


class Tunnel:
    """Moves bytes until both sides have ended, one is lost, or nothing moved for ``idle`` seconds."""

    def __init__(self, down: Stream, up: Stream, deadlines: Deadlines, idle: float) -> None:
        self._down = down
        self._up = up
        self._deadlines = deadlines
        self._idle = idle
        self.due = NEVER
        self.ended_by = ""
        """Why it ended: ``closed`` (both sides ended), ``downstream``, ``upstream`` or ``idle``."""

    def expire(self) -> None:
        """Nothing moved for too long: cut both sides."""
        self._end("idle")

    async def run(self) -> None:
        """Relay; both streams are closed when it returns."""
        self._touch()
        self._deadlines.watch(self)
        pumps = [
            asyncio.ensure_future(self._pump(self._down, self._up, "downstream")),
            asyncio.ensure_future(self._pump(self._up, self._down, "upstream")),
        ]
        try:
            await asyncio.gather(*pumps)
            self.ended_by = self.ended_by or "closed"
        finally:
            self._deadlines.forget(self)
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            self._down.close()
            self._up.close()

    async def _pump(self, source: Stream, target: Stream, name: str) -> None:
        while True:
            if source.received:
                data = bytes(source.received)
                source.received.clear()
                self._touch()
                target.write(data)
                # The tunnel's own idle time judges a side that takes nothing.
                await target.drain(NEVER, _unreachable)
            elif not await source.fill(NEVER, _unreachable):
                break
        if source.lost or target.lost:
            self._end(name if source.lost else "closed")
        elif source.transport.get_extra_info("ssl_object") is not None:
            self._end("closed")  # TLS has no halves: its transport takes nothing after the end
        elif not target.end():
            self._end(name)

    def _touch(self) -> None:
        self.due = self._deadlines.clock.monotonic() + self._idle

    def _end(self, reason: str) -> None:
        self.due = NEVER
        self.ended_by = self.ended_by or reason
        self._down.abort() if reason == "idle" else self._down.close()
        self._up.abort() if reason == "idle" else self._up.close()


def _unreachable() -> Failure:
    return Failure(Source.PROXY, "tunnel", 500, "a tunnel's waits have no deadline of their own")
