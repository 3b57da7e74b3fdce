"""Time that a test turns by hand, and waiting for what the event loop will do meanwhile."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from proxy.clock import NEVER, Deadlines
from tests.support.clock import HandClock
from tests.support.play import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable


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
