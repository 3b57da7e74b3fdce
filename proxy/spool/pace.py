"""Not too much in one turn of the event loop, so that others have theirs soon."""

from __future__ import annotations

import asyncio
from collections import deque


class Pace:
    """Lets ``most`` by in each turn of the loop, in the order in which they came. Memory: a future for each
    that waits."""

    def __init__(self, most: int) -> None:
        self._most = self._left = most
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._armed = False

    def __repr__(self) -> str:
        return f"<Pace left={self._left} waiting={len(self._waiting)}>"

    async def turn(self) -> None:
        """Return when one more may go on."""
        self._arm()
        if self._left and not self._waiting:
            self._left -= 1
            return
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future

    def _arm(self) -> None:
        if not self._armed:
            self._armed = True
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        """Another turn begins."""
        self._armed = False
        self._left = self._most
        while self._left and self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(None)
                self._left -= 1
        if self._left < self._most:
            self._arm()
