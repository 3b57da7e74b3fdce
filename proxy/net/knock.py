"""Knocking at an upstream that could not be connected to, so that it is asked again as soon as it is back.

The breaker (breaker.py) stays open for up to `health.open_max`, because each of its probes costs a client's
request. Whether somebody listens again costs nothing but a connection: that is tried every second, and when
it works, the next request is the probe. If that fails in another way, the upstream listens but is not well,
and the breaker's own times hold.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from proxy.errors import Failure
from proxy.net.breaker import BreakerState

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable

    from proxy.clock import Deadlines
    from proxy.net.breaker import Breaker
    from proxy.net.upstream import UpstreamConnection

INTERVAL = 1.0
"""Seconds between two tries."""

SPREAD = 0.2
"""Part by which they are spread, so that workers do not knock in step."""


class Knocker:
    """One upstream's. A task runs from ``begin`` until the upstream is back.

    :param connect: opens a connection that nobody else uses, by the moment given; raises ``Failure``.
    :param timeout: seconds for one try.
    """

    def __init__(
        self,
        breaker: Breaker,
        deadlines: Deadlines,
        rng: random.Random,
        connect: Callable[[float], Awaitable[UpstreamConnection]],
        timeout: float,
    ) -> None:
        self._breaker = breaker
        self._deadlines = deadlines
        self._rng = rng
        self._connect = connect
        self._timeout = timeout
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Knocker {'knocking' if self._task is not None and not self._task.done() else 'resting'}>"

    def begin(self) -> None:
        """Connecting has failed: knock as long as the breaker is open."""
        if self._breaker.state is BreakerState.OPEN and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._run())

    def stop(self) -> None:
        """Knock no more."""
        if self._task is not None:
            self._task.cancel()

    async def wait_stopped(self) -> None:
        """Return once nothing runs any more. Raises what went wrong in it."""
        if self._task is not None:
            await asyncio.wait({self._task})
            if not self._task.cancelled():
                self._task.result()

    async def _run(self) -> None:
        over = False
        while not over:
            pause = INTERVAL * self._rng.uniform(1 - SPREAD, 1 + SPREAD)
            await self._deadlines.sleep(self._deadlines.clock.monotonic() + pause)
            over = await self._try()

    async def _try(self) -> bool:
        """Knock once; true: no further try is wanted."""
        if self._breaker.state is not BreakerState.OPEN:
            return True
        clock = self._deadlines.clock
        try:
            connection = await self._connect(clock.monotonic() + self._timeout)
        except Failure:
            return False
        connection.abort()
        self._breaker.is_back(clock.monotonic())
        return True
