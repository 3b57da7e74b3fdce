"""Time that a test turns by hand, and waiting for what the event loop will do meanwhile."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from proxy.clock import NEVER, Deadlines
from tests.support.clock import HandClock
from tests.support.play import PATIENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from proxy.net.stream import Stream


class Time(Deadlines):
    """Deadlines with a clock that the test turns: ``turn`` lets seconds pass and sweeps."""

    def __init__(self) -> None:
        self.hand = HandClock()
        super().__init__(self.hand)

    @property
    def now(self) -> float:
        return self.hand.now

    @property
    def next_due(self) -> float:
        """The nearest moment that somebody waits for."""
        return min((item.due for item in self._items), default=NEVER)

    def turn(self, seconds: float) -> None:
        """Let time pass, and let everybody notice."""
        self.hand.now += seconds
        self.sweep()


async def until(condition: Callable[[], object]) -> None:
    """Let the event loop turn until ``condition`` holds."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - conditions have no event
            await asyncio.sleep(0)


async def turns(count: int = 20) -> None:
    """Let the event loop turn, for what must not happen meanwhile."""
    for _ in range(count):
        await asyncio.sleep(0)


@asynccontextmanager
async def connected(stream: Stream) -> AsyncIterator[socket.socket]:
    """Give the stream a real socket; what is yielded is the other end. It is gone when the block ends."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    await asyncio.get_running_loop().create_unix_connection(lambda: stream, sock=ours)
    with theirs:
        yield theirs
        stream.abort()
        await until(lambda: stream.lost)
