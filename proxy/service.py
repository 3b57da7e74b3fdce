"""The process around a ``Proxy``: log files, signals, reload, exit codes. What `posthog-proxy run` calls
where one process serves (workers/ is the same for several).

Theory of operation. A *stage* is one configuration being served: a proxy with its logs. SIGHUP opens
another stage on the same sockets and drains the one of before; nothing is ever taken over from proxy to
proxy but sockets and counters. A new process would need another one that keeps the sockets open
meanwhile, which is what workers/ does; what it would gain is new code after an upgrade.

::

    serve ─▶ stage ──SIGHUP, configuration is good──▶ stage + old one, handing over ──▶ stage …
               │                                                                 (at most MAX_DRAINING)
               └──SIGTERM, SIGINT──▶ all drain ──▶ 0        (again: all are cut ──▶ 128 + signal)
"""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from proxy.admin.listener import AdminListener
from proxy.admin.polling import LoopPoller
from proxy.clock import Clock
from proxy.config.load import Loaded
from proxy.config.schema import LogLevel, configured_listeners
from proxy.errors import ConfigError, described
from proxy.net.listeners import Listeners
from proxy.notify import Notifier
from proxy.observe.lifetime import Lifetime, installed_version
from proxy.observe.metrics import Counters, flattened
from proxy.observe.turns import Turns
from proxy.observe.writer import Logs, reopen_logs
from proxy.server import Proxy
from proxy.workers import MAX_DRAINING, worker_count

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Collection

    from proxy.config.schema import Config, ListenAddress
    from proxy.observe.metrics import Snapshot
    from proxy.observe.report import Report

TICK = 1.0
"""Seconds between two calls of ``AdminListener.tick``."""


async def serve(
    config: Config,
    warnings: tuple[str, ...] = (),
    *,
    reload: Callable[[], Loaded] | None = None,
    notifier: Notifier | None = None,
    given: Collection[socket.socket] = (),
) -> int:
    """Serve until SIGTERM or SIGINT, drain, and return the exit code.

    0 after a drain; 128 + the signal's number when a second signal came meanwhile and everything was
    cut. Each listener's address is one `listening` line of the error log, so that a supervisor (and
    whoever asked for port 0) can read it.

    :param reload: reads the configuration again, for SIGHUP; raises ``ConfigError``.
    :param notifier: hears when it serves, reloads and stops, and that its event loop turns.
    :param given: listening sockets that exist already.
    :raises OSError: an address cannot be bound, or a log file not opened.
    """
    turns, counters = Turns(), Counters()
    first = await _Stage.open(Loaded(config, warnings), turns, counters, given=given)
    service = _Service(first, reload, turns, counters, notifier or Notifier())
    try:
        return await service.run(given)
    finally:
        await service.close()


@dataclass(frozen=True, slots=True, eq=False)
class _Stage:
    """One configuration being served."""

    proxy: Proxy
    logs: Logs
    listeners: Listeners

    @classmethod
    async def open(
        cls,
        loaded: Loaded,
        turns: Turns,
        counters: Counters,
        before: Listeners | None = None,
        given: Collection[socket.socket] = (),
    ) -> Self:
        """Start serving, on the sockets of ``before`` where they are asked for again.

        Raises ``OSError`` or ``ConfigError``; then everything is as it was.
        """
        config = loaded.config
        listeners = Listeners.bind(
            (listener.address for listener in configured_listeners(config)),
            backlog=config.limits.backlog,
            kept=before,
            given=given,
        )
        async with AsyncExitStack() as undo:
            undo.callback(listeners.close, but=before)
            logs = Logs(config.log, turns)
            undo.callback(logs.close)
            proxy = Proxy(
                config, listeners=(), access_sink=logs.access, error_sink=logs.errors, counters=counters
            )
            for warning in loaded.warnings:
                proxy.error(LogLevel.WARNING, "configuration", detail=warning)
            undo.push_async_callback(proxy.close)
            await proxy.start()
            undo.push_async_callback(proxy.listen_on, ())
            await proxy.listen_on(listeners.for_worker(0, {0}))
            undo.pop_all()
        return cls(proxy, logs, listeners)

    def say_listening(self, known: tuple[ListenAddress, ...] = ()) -> None:
        """Log every address that is not known yet."""
        for address in self.listeners.addresses:
            if address not in known:
                self.proxy.error(LogLevel.INFO, "listening", address=str(address))

    async def close(self) -> None:
        """Cut what still runs, and write the logs to their end (in a thread: their places may be slow)."""
        await self.proxy.close()
        await asyncio.to_thread(self.logs.close)


class _Service:
    """Stages and signals. ``None`` among the events: an old stage has ended."""

    def __init__(
        self,
        first: _Stage,
        reload: Callable[[], Loaded] | None,
        turns: Turns,
        counters: Counters,
        notifier: Notifier,
    ) -> None:
        self._current = first
        self._reload = reload
        self._turns = turns
        self._counters = counters
        self._notifier = notifier
        self._clock = Clock()
        self._feeding: asyncio.TimerHandle | None = None
        self._old: dict[asyncio.Task[None], _Stage] = {}
        self._events: asyncio.Queue[signal.Signals | None] = asyncio.Queue()
        self._wanted = False
        """A reload was asked for and not begun yet."""
        self.state = "starting"
        self.lifetime = Lifetime(self._clock, installed_version())
        self._admin = AdminListener(
            self, lambda: LoopPoller(asyncio.get_running_loop()), self._clock, self._say
        )
        self._ticking: asyncio.TimerHandle | None = None

    async def run(self, given: Collection[socket.socket] = ()) -> int:
        """Serve until told to stop; the exit code."""
        loop = asyncio.get_running_loop()
        handled = [signal.SIGTERM, signal.SIGINT, *([signal.SIGHUP] if self._reload is not None else [])]
        for number in handled:
            loop.add_signal_handler(number, self._events.put_nowait, number)
        loop.add_signal_handler(signal.SIGUSR1, self._reopen_logs)
        try:
            self._admin.use(self.config, given)
            self._tick()
            self._current.say_listening()
            self.state = "ready"
            self._notifier.ready(self._status())
            if self._notifier.interval:
                self._feed()
            return await self._stop(await self._serve())
        finally:
            for number in (*handled, signal.SIGUSR1):
                loop.remove_signal_handler(number)
            for timer in (self._feeding, self._ticking):
                if timer is not None:
                    timer.cancel()

    def _reopen_logs(self) -> None:
        """Somebody has moved the files away (logrotate)."""
        for stage in (self._current, *self._old.values()):
            reopen_logs(stage.logs.reopen, stage.proxy.error)

    def _tick(self) -> None:
        """Do what the admin listener has to do now and then."""
        self._admin.tick()
        self._ticking = asyncio.get_running_loop().call_later(TICK, self._tick)

    def _feed(self) -> None:
        """Tell the watchdog that the event loop turns."""
        self._notifier.alive()
        self._feeding = asyncio.get_running_loop().call_later(self._notifier.interval, self._feed)

    def _status(self) -> str:
        return f"serving on {', '.join(map(str, self._current.listeners.addresses))}"

    async def _serve(self) -> signal.Signals:
        """Reload as often as asked to; return the signal that ends it."""
        while True:
            event = await self._events.get()
            if event is signal.SIGHUP:
                self._wanted = True
                self._check_waiting()
            elif event is not None:
                return event
            if self._wanted and len(self._old) < MAX_DRAINING:
                self._wanted = False
                await self._renew()

    async def close(self) -> None:
        """Cut whatever still runs and release everything."""
        self._admin.close()
        await self._current.close()
        for stage in list(self._old.values()):
            await stage.proxy.close()
        await asyncio.gather(*self._old)

    # Reloading.

    def _read(self) -> Loaded | None:
        """Read the configuration anew; log all that is wrong with it."""
        assert self._reload is not None
        try:
            return self._reload()
        except ConfigError as error:
            for problem in error.problems:
                self._say(LogLevel.ERROR, "reload_failed", detail=str(problem))
            return None

    def _check_waiting(self) -> None:
        """Where a reload has to wait, what is wrong is said at once all the same."""
        if len(self._old) >= MAX_DRAINING and self._read() is not None:
            self._say(LogLevel.INFO, "reload_waits", draining=len(self._old))

    async def _renew(self) -> None:
        self._notifier.reloading(self._clock)
        self.lifetime.reloaded(good=await self._try_to_renew())
        self._notifier.ready(self._status())

    async def _try_to_renew(self) -> bool:
        loaded = self._read()
        if loaded is None:
            return False
        before = self._current
        try:
            stage = await _Stage.open(loaded, self._turns, self._counters, before.listeners)
        except (OSError, ConfigError) as error:
            self._say(LogLevel.ERROR, "reload_failed", detail=described(error))
            return False
        await before.proxy.listen_on(())  # from here on, nothing is served by what was before
        self._current = stage
        self._say(LogLevel.INFO, "reloaded")
        if worker_count(loaded.config) > 1:
            self._say(LogLevel.WARNING, "workers_unchanged", workers=1, cure="restart to have more")
        self._admin.reuse(loaded.config)
        stage.say_listening(before.listeners.addresses)
        before.listeners.close(but=stage.listeners)
        leaving = asyncio.get_running_loop().create_task(self._leave(before))
        self._old[leaving] = before
        leaving.add_done_callback(self._left)
        return True

    async def _leave(self, stage: _Stage) -> None:
        await stage.proxy.drain(handover=True)
        await stage.close()

    def _left(self, task: asyncio.Task[None]) -> None:
        del self._old[task]
        self._events.put_nowait(None)

    # What the admin listener asks (admin.endpoints.Facts).

    @property
    def config(self) -> Config:
        """What is served."""
        return self._current.proxy.config

    @property
    def log_level(self) -> LogLevel:
        """What the error log keeps."""
        return self._current.proxy.log_level

    def set_log_level(self, level: LogLevel) -> None:
        """Let it keep this until the next reload."""
        self._current.proxy.log_level = level

    def snapshot(self) -> Snapshot:
        """All counters, and how the upstreams are."""
        return self._current.proxy.snapshot()

    def report(self) -> Report:
        """What there is to say in words."""
        return self._current.proxy.report()

    def begin_drain(self) -> None:
        """As SIGTERM does."""
        self._events.put_nowait(signal.SIGTERM)

    # Stopping.

    async def _stop(self, first: signal.Signals) -> int:
        self.state = "draining"
        self._say(LogLevel.INFO, "draining", signal=first.name)
        self._notifier.stopping("draining")
        loop = asyncio.get_running_loop()
        again = loop.create_task(self._next_stop())
        draining = loop.create_task(self._drain())
        await asyncio.wait({draining, again}, return_when=asyncio.FIRST_COMPLETED)
        if draining.done():
            again.cancel()
            draining.result()
            self._say(LogLevel.INFO, "counters", **flattened(self._counters.snapshot()))
            self._say(LogLevel.INFO, "stopped")
            return 0
        draining.cancel()
        second = again.result()
        self._say(LogLevel.WARNING, "stopped_at_once", signal=second.name)
        return 128 + second

    async def _drain(self) -> None:
        stages = [self._current, *self._old.values()]
        await asyncio.gather(*(stage.proxy.drain() for stage in stages))
        if self._old:
            await asyncio.wait(set(self._old))

    async def _next_stop(self) -> signal.Signals:
        while True:
            event = await self._events.get()
            if event is not None and event is not signal.SIGHUP:
                return event

    def _say(self, level: LogLevel, event: str, **fields: object) -> None:
        self._current.proxy.error(level, event, **fields)
