"""Time, injected: the only module that reads a clock, and the sweep that finds what is late.

Nothing in the proxy arms a timer per request. Whoever waits puts a number (``due``, in seconds of
``Clock.monotonic``) on itself or registers a wait; one sweep every ``SWEEP_INTERVAL`` seconds calls
``expire`` on everything whose number has passed. Tests call ``sweep`` themselves with a clock that
they turn by hand, so no test waits.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

SWEEP_INTERVAL = 0.25
"""Seconds between two sweeps: fine enough for the 2.5 s budget of `/flags`, and ten thousand idle
connections cost about a millisecond a sweep."""

NEVER = float("inf")

T = TypeVar("T")


class Clock:
    """Seconds as floats. Replaced in tests by one that is turned by hand."""

    # The functions themselves, not methods around them: every request asks several times.
    monotonic: Callable[[], float] = staticmethod(time.monotonic)
    """Seconds since an arbitrary point; never goes back."""

    wall: Callable[[], float] = staticmethod(time.time)
    """Seconds since the Unix epoch."""


class Timed(Protocol):
    """Something that can be late: ``due`` is a moment of ``Clock.monotonic`` or ``NEVER``."""

    @property
    def due(self) -> float:
        """Read at every sweep."""

    def expire(self) -> None:
        """Called by the sweep once ``due`` has passed; must move ``due`` or unregister."""


class _Wait:
    """One coroutine waiting for one future until one moment."""

    __slots__ = ("due", "failure", "future")

    def __init__(self, future: asyncio.Future[T], due: float, failure: Callable[[], Exception]) -> None:
        self.future: asyncio.Future[T] = future
        self.due = due
        self.failure = failure

    def expire(self) -> None:
        self.due = NEVER
        if not self.future.done():
            self.future.set_exception(self.failure())


class _Elapsed(Exception):
    """Internal to ``sleep``: the moment came."""


class Deadlines:
    """Everything in one event loop that can be late. Memory: one entry per watched object, each
    removed by its owner; the owners (connections, waits) are bounded themselves."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._items: set[Timed] = set()

    def __len__(self) -> int:
        return len(self._items)

    def watch(self, item: Timed) -> None:
        """Look at ``item.due`` on every sweep from now on."""
        self._items.add(item)

    def forget(self, item: Timed) -> None:
        """Stop looking at ``item``; harmless if it is not watched."""
        self._items.discard(item)

    def sweep(self) -> None:
        """Expire everything that is late. An item may watch, forget or expire others meanwhile."""
        now = self.clock.monotonic()
        for item in [item for item in self._items if item.due <= now]:
            if item in self._items and item.due <= now:
                item.expire()

    async def wait(self, future: asyncio.Future[T], due: float, failure: Callable[[], Exception]) -> T:
        """Await ``future``; raise ``failure()`` when it is not done by ``due``."""
        if due == NEVER:
            return await future
        wait = _Wait(future, due, failure)
        self._items.add(wait)
        try:
            return await future
        finally:
            self._items.discard(wait)

    async def sleep(self, until: float) -> None:
        """Return at the first sweep after the moment ``until``."""
        import asyncio  # not above: the parent of the workers has a clock, but no event loop

        never_done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with contextlib.suppress(_Elapsed):
            await self.wait(never_done, until, _Elapsed)
