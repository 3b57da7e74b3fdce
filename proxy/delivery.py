"""The spool's life in one proxy: the store is opened and looked after, what it holds is delivered, all ends.

::

    begin: store ─▶ replay ─▶ serving paths
    every few seconds: files of workers that are gone are adopted, wishes of operators heard
    end: replay stops ─▶ what waits becomes durable ─▶ the files are let go of
"""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from proxy.config.notation import shown
from proxy.config.presets import DEFAULT_UPSTREAM
from proxy.config.schema import LogLevel
from proxy.errors import ConfigError, Problem
from proxy.observe.metrics import PREFIX
from proxy.rules.lateness import FRESH, Outcome, correct
from proxy.serve.record import log_bug
from proxy.serve.spooling import Spooling
from proxy.spool.record import SpoolFailed
from proxy.spool.replay import Replay
from proxy.spool.store import Store

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from proxy.observe.metrics import Snapshot
    from proxy.rules.steps import Steps
    from proxy.serve.runtime import Runtime
    from proxy.spool.record import Keeper
    from proxy.spool.replay import Told

T = TypeVar("T")

TEND_INTERVAL = 5.0
"""Seconds between two looks at the files."""


class Delivery:
    """Everything that the spool does in one process beside serving."""

    def __init__(self, runtime: Runtime, keeper: Keeper) -> None:
        self.keeper = keeper
        self._runtime = runtime
        self.replay = Replay(
            keeper,
            runtime.pools,
            DEFAULT_UPSTREAM,
            runtime.deadlines,
            runtime.config.timeouts,
            correct=self._corrected,
            tell=self._told,
        )
        self._tending: asyncio.Task[None] | None = None
        self._correcting = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, "spool-packer")

    @classmethod
    async def begin(cls, runtime: Runtime, worker: str, share: int, keeper: Keeper | None = None) -> Delivery:
        """Open the store of the worker that is called ``worker``, one of ``share``, and begin to deliver.
        ``keeper``: take this one. Raises ``ConfigError`` where the directory cannot be used."""
        delivery = cls(runtime, keeper or await cls._store(runtime, worker, share))
        delivery.start()
        return delivery

    @staticmethod
    async def _store(runtime: Runtime, worker: str, share: int) -> Store:
        config = runtime.config.spool
        try:
            store = await Store.open(config.directory, config, runtime.clock, worker, share=share)
        except SpoolFailed as error:
            problem = Problem("spool.directory", shown(config.directory), f"cannot be used: {error.detail}")
            raise ConfigError(problem) from error
        for notice in store.notices:
            runtime.error(LogLevel.WARNING, "spool", detail=notice)
        runtime.deadlines.watch(store)
        return store

    def start(self) -> None:
        """Serve and deliver."""
        self._runtime.spooling = Spooling(self._runtime, self.keeper, self.replay.wake)
        self.replay.start()
        self._tending = asyncio.get_running_loop().create_task(self._tend())

    def gauges(self) -> Snapshot:
        """Return how much is kept, under the exported names."""
        figures = self.keeper.figures()
        arrivals = [each.oldest for each in figures.upstreams.values() if each.oldest is not None]
        age = self._runtime.clock.wall() - min(arrivals) if arrivals else 0.0
        return {
            f"{PREFIX}spool_bytes": figures.bytes,
            f"{PREFIX}spool_requests": figures.depth,
            f"{PREFIX}spool_oldest_seconds": max(0, int(age)),
            f"{PREFIX}spool_dead_letters": figures.dead_letters,
        }

    async def end(self) -> None:
        """Deliver no more, and let go of the store."""
        self._runtime.spooling = None
        if self._tending is not None:
            self._tending.cancel()
            await asyncio.gather(self._tending, return_exceptions=True)
        await self.replay.stop()
        self._thread.shutdown(wait=False, cancel_futures=True)
        if isinstance(self.keeper, Store):
            self._runtime.deadlines.forget(self.keeper)
        await self.keeper.close()

    async def _tend(self) -> None:
        while True:
            await self._runtime.deadlines.sleep(self._runtime.clock.monotonic() + TEND_INTERVAL)
            with contextlib.suppress(SpoolFailed):  # the store says so itself, where something was lost by it
                tended = await self.keeper.tend()
                for notice in tended.notices:
                    self._runtime.error(LogLevel.WARNING, "spool", detail=notice)
                if tended.adopted:
                    self._runtime.error(LogLevel.INFO, "spool_adopted", files=tended.adopted)
                if tended.replay_now:
                    self.replay.now()
            self.replay.look()

    def _told(self, told: Told) -> None:
        self._runtime.counters.spool_replayed.add(told.upstream, told.outcome)
        if told.error is not None:
            log_bug(self._runtime, "", told.error)

    async def _corrected(self, head: bytes, body: bytes | None, delay: float) -> tuple[bytes, bytes | None]:
        """One at a time, so that there is one text in memory."""
        if delay < FRESH:
            self._runtime.counters.spool_corrected.add(Outcome.FRESH.value)
            return head, body
        async with self._correcting:
            corrected = await beside_others(correct(head, body, delay), self._thread)
        self._runtime.counters.spool_corrected.add(corrected.outcome.value)
        return corrected.head, corrected.body


async def beside_others(steps: Steps[T], thread: Executor) -> T:
    """Do long work (rules/steps.py) while the loop does other things in each pause."""
    result = None
    try:
        while True:
            work = steps.send(result)
            if work is None:
                result = None
                await asyncio.sleep(0)
            else:
                result = await asyncio.get_running_loop().run_in_executor(thread, work)
    except StopIteration as end:
        done: T = end.value
        return done
