"""The proxy as an object: start, drain, stop. The command line is a thin user of it.

Everything lives in the ``Proxy``: several can run in one event loop, and none touches signal handlers,
the logging module or any other global state. Works on uvloop and on plain asyncio.

Example::

    config = proxy.config.load.config_from({"listen": ["127.0.0.1:0"], "upstream": "http://127.0.0.1:8001"}).config
    async with Proxy(config) as p:
        print(p.addresses)
        await p.drain()
"""

from __future__ import annotations

import asyncio
import random
import resource
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING

from proxy.accepting import Acceptor
from proxy.clock import NEVER, SWEEP_INTERVAL, Clock, Deadlines
from proxy.config.schema import LogFormat, configured_listeners, uses_spool
from proxy.errors import Failure, Source
from proxy.net.gauges import upstream_gauges
from proxy.net.listen import Listener, bind
from proxy.net.pool import UpstreamPool
from proxy.net.splice import Splicer
from proxy.observe.log import BatchedLog, encode_json, encode_text
from proxy.observe.metrics import Counters
from proxy.rules.decide import Tables
from proxy.serve.admission import Admission
from proxy.serve.cached import AssetCache
from proxy.serve.fastpath import FastPath
from proxy.serve.runtime import Runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import TracebackType
    from typing import Self

    from proxy.config.schema import Config, ListenAddress, LogLevel
    from proxy.delivery import Delivery
    from proxy.observe.metrics import Snapshot
    from proxy.observe.report import Report, UpstreamWords
    from proxy.serve.connection import Connection
    from proxy.spool.record import Keeper

_DESCRIPTORS_KEPT = 256
"""Descriptors left for pools' idle sockets, logs and the event loop itself."""

_MOST_PIPES = 256
"""Large bodies that are spliced at a time; fewer where their descriptors, four for each, were more than an
eighth of all."""

_FRESH = 1.0
"""At a stop, seconds for the first request of a connection that was just made: it may be on its way. (nginx
gives it client_header_timeout; but one that is silent for longer was opened in advance, as browsers do.)"""

_TURNS_TO_CONNECT = 2
"""Turns of uvloop from accept(2) to `connection_made`. (asyncio drops what it has accepted when its server
closes.)"""


class Proxy:
    """A running reverse proxy in the current event loop.

    :param config: what to do; never changes while running.
    :param listeners: sockets that are bound already, instead of the configuration's addresses; the proxy
        closes them when it stops.
    :param clock: time; replaced in tests.
    :param access_sink: gets finished access-log lines in batches (``None``: no access log).
    :param error_sink: the same for the error log.
    :param counters: what to count in, to go on where another proxy of this process ended.
    :param error_fields: what every line of the error log says besides.
    :param worker: which of several processes this is: each has its own files in the spool, and one of
        ``share`` equal parts of its room.
    :param keeper: where requests are kept for later, instead of in files; `spool.directory` names it all the
        same. The proxy closes it.
    :raises ConfigError: a certificate cannot be used (any more: it was good when the configuration was read);
        from ``start``, the spool's directory.
    :raises OSError: from ``start`` when an address cannot be bound; its text names the address.
    """

    def __init__(
        self,
        config: Config,
        *,
        listeners: Iterable[Listener] | None = None,
        clock: Clock | None = None,
        access_sink: Callable[[bytes], None] | None = None,
        error_sink: Callable[[bytes], None] | None = None,
        counters: Counters | None = None,
        error_fields: Mapping[str, object] | None = None,
        worker: int = 1,
        share: int = 1,
        keeper: Keeper | None = None,
    ) -> None:
        self.config = config
        self._worker, self._share, self._keeper = worker, share, keeper
        self._delivery: Delivery | None = None
        self.counters = counters or Counters()
        clock = clock or Clock()
        self._deadlines = Deadlines(clock)
        form = config.log.format
        self._access_log = BatchedLog(access_sink or _discard, form=form)
        self._error_log = BatchedLog(error_sink or _discard, form=form)
        self._random = random.Random()
        self._pools = {
            name: UpstreamPool.of(name, config, self._deadlines, rng=self._random)
            for name in config.upstreams
        }
        self._splicer = Splicer(self._deadlines, threshold=config.limits.splice_bytes, pipes=_pipe_limit())
        self._runtime = Runtime(
            config=config,
            clock=clock,
            deadlines=self._deadlines,
            tables=Tables.of(config),
            pools=self._pools,
            splicer=self._splicer,
            counters=self.counters,
            access_log=self._access_log,
            error_log=self._error_log,
            encode_access=encode_text if form is LogFormat.TEXT else encode_json,
            on_closed=self._client_left,
            connection_limit=min(config.limits.connections, _descriptor_limit()),
            jitter=lambda: self._random.uniform(0.9, 1.1),
            error_fields=error_fields or {},
        )
        self._runtime.admission = self._admission = Admission(self._runtime)
        if any(listener.tls for listener in configured_listeners(config)):
            from proxy.net.certificates import ServerTls  # not in the memory of those without TLS

            self._runtime.tls = ServerTls(config, clock, self.counters, self._runtime.error)
        if config.cache.enabled:
            self._runtime.cache = AssetCache(config.cache, self._deadlines)
        if config.fast_path:
            self._runtime.fast = FastPath(self._runtime)
        self._given = listeners is not None
        self._listeners: list[Listener] = list(listeners or ())
        self._addresses: tuple[ListenAddress, ...] = ()
        self._emptied: set[asyncio.Future[None]] = set()
        self._ticker: asyncio.TimerHandle | None = None
        self._acceptor = Acceptor(self._runtime)

    def __repr__(self) -> str:
        state = "DRAINING" if self._runtime.draining else "SERVING" if self._listeners else "STOPPED"
        return f"<Proxy {state} connections={len(self._runtime.connections)}>"

    @property
    def runtime(self) -> Runtime:
        """What its connections share; for whoever explains a request with the code that serves it."""
        return self._runtime

    # Life.

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def start(self) -> None:
        """Bind every address, unless listeners were given, and accept."""
        if not self._given:
            try:
                for entry, listener in enumerate(configured_listeners(self.config)):
                    self._listeners += bind(listener.address, backlog=self.config.limits.backlog, entry=entry)
            except OSError:
                self._close_listeners()
                self._error_log.flush()
                raise
        self._addresses = tuple(listener.address for listener in self._listeners)
        self._tick()
        for pool in self._pools.values():
            pool.start()
        if uses_spool(self.config):
            from proxy.delivery import Delivery  # SQLite and threads: not for those without a spool

            self._delivery = await Delivery.begin(
                self._runtime, f"w{self._worker}", self._share, self._keeper
            )
        await self._acceptor.listen_on(self._listeners)
        await self._acceptor.start()

    @property
    def addresses(self) -> tuple[ListenAddress, ...]:
        """Where it listens, or did before the drain, in the order of the configuration (port 0 resolved)."""
        return self._addresses

    @property
    def connections(self) -> frozenset[Connection]:
        """The client connections that are open now."""
        return frozenset(self._runtime.connections)

    async def drain(self, seconds: float | None = None, *, handover: bool = False) -> None:
        """Stop gently: no new connections, idle ones closed (after a second if they are so new that the first
        request may be on its way), running exchanges may end.

        Streams (SSE, WebSocket) are ended after `timeouts.drain_streams`, the rest after ``seconds``
        (default: `timeouts.drain`). Returns when no connection is left; call ``close`` afterwards.

        :param handover: others accept on the same sockets already. The listeners stay open, for whoever
            gave them, and idle connections may wait `timeouts.drain_idle` for one more request.

        Called again while it runs (after a handover, to stop now), both calls do their part.
        """
        timeouts = self.config.timeouts
        self._runtime.draining = True
        if timeouts.drain_delay and self._listeners and not handover:
            # Answers say `Connection: close` meanwhile, so that a balancer in front notices.
            await self._deadlines.sleep(self._now() + timeouts.drain_delay)
        self._acceptor.stop()
        if handover:
            self._listeners.clear()
        self._close_listeners()
        now = self._now()
        for _ in range(_TURNS_TO_CONNECT):
            await asyncio.sleep(0)  # what was accepted in this turn becomes a connection
        end = now + (timeouts.drain if seconds is None else seconds)
        retiring = now + timeouts.drain_idle if handover else now
        steps: list[tuple[float, Callable[[], None]]] = [
            (retiring, partial(self._retire, retiring - _FRESH)),
            (retiring + _FRESH, self._retire_all),
            (now + timeouts.drain_streams, partial(self._cut, streams_only=True)),
            (end, partial(self._cut, streams_only=False)),
        ]
        for moment, step in sorted(steps, key=itemgetter(0)):
            if await self._wait_empty(min(moment, end)):
                break
            step()

    async def close(self) -> None:
        """Stop at once: what still runs is cut. Everything is released when it returns."""
        self._runtime.draining = True
        await self._acceptor.settled()
        self._acceptor.stop()
        self._cut(streams_only=False)
        self._turn_guests_away()
        running = [c.exchange.task for c in self._runtime.connections if c.exchange is not None]
        await asyncio.gather(*running, return_exceptions=True)
        for connection in list(self._runtime.connections):
            connection.abort()  # no lingering, no waiting for a client that takes nothing
        await self._wait_empty(NEVER)
        if self._delivery is not None:
            await self._delivery.end()
        for pool in self._pools.values():
            pool.close()
        for pool in self._pools.values():
            await pool.wait_closed()
        await self._admission.close()
        self._splicer.close()
        if self._ticker is not None:
            self._ticker.cancel()
        self._close_listeners()
        self._access_log.flush()
        self._error_log.flush()

    async def listen_on(self, listeners: Iterable[Listener]) -> None:
        """Accept on exactly these sockets from now on. The others are no longer this proxy's; they stay
        open, and what waits on them waits."""
        self._listeners = list(listeners)
        self._addresses = tuple(listener.address for listener in self._listeners)
        await self._acceptor.listen_on(self._listeners)

    def _client_left(self) -> None:
        if not self._runtime.present:
            for waiter in self._emptied:
                if not waiter.done():
                    waiter.set_result(None)
        self._acceptor.client_left()

    # Ending.

    async def _wait_empty(self, due: float) -> bool:
        """Wait until no connection is left; false when ``due`` came first."""
        if not self._runtime.present:
            return True
        if due <= self._now():
            return False
        waiter = asyncio.get_running_loop().create_future()
        self._emptied.add(waiter)
        try:
            await self._deadlines.wait(waiter, due, TimeoutError)
        except TimeoutError:
            return False
        finally:
            self._emptied.discard(waiter)
        return True

    def _retire(self, made_by: float) -> None:
        """Close idle connections that have served, or were made by a moment."""
        for connection in list(self._runtime.connections):
            if connection.served or connection.idle_since <= made_by:
                connection.retire()

    def _retire_all(self) -> None:
        self._runtime.retiring = True
        self._turn_guests_away()
        self._retire(NEVER)

    def _cut(self, *, streams_only: bool) -> None:
        failure = Failure(Source.PROXY, "draining", 503, "the proxy is shutting down")
        for connection in list(self._runtime.connections):
            exchange = connection.exchange
            if not streams_only or (exchange is not None and exchange.streaming):
                connection.stop(failure)
        if not streams_only:
            for passage in list(self._runtime.passages):
                passage.stop(failure)

    def _turn_guests_away(self) -> None:
        for guest in list(self._runtime.guests):
            guest.abort()

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    # The sweep.

    def _tick(self) -> None:
        self._ticker = asyncio.get_running_loop().call_later(SWEEP_INTERVAL, self._tick)
        self.sweep()

    def sweep(self) -> None:
        """Find what is late and hand the log lines on; called by a timer, and by tests."""
        self._deadlines.sweep()
        now = self._now()
        for pool in self._pools.values():
            pool.count(now)
        if self._runtime.tls is not None:
            self._runtime.tls.watch()
        self._runtime.symptoms.sweep(now)
        if self._runtime.cache is not None:
            self._runtime.cache.count(self.counters)
        self._access_log.flush()
        self._error_log.flush()

    # What is told of it.

    def snapshot(self) -> Snapshot:
        """Return everything that is counted, and how its upstreams are."""
        gauges = upstream_gauges(pool.state for pool in self._pools.values())
        spool = {} if self._delivery is None else self._delivery.gauges()
        return self.counters.snapshot() | gauges | spool

    def report(self) -> Report:
        """Return what its upstreams and detectors say in words."""
        upstreams: dict[str, UpstreamWords] = {
            name: {"url": str(pool.upstream.url), "reason": pool.health.reason}
            for name, pool in self._pools.items()
        }
        return {"upstreams": upstreams, "warnings": dict(self._runtime.symptoms.found)}

    @property
    def log_level(self) -> LogLevel:
        """What the error log keeps; may be set."""
        return self._runtime.log_level

    @log_level.setter
    def log_level(self, level: LogLevel) -> None:
        self._runtime.log_level = level

    def error(self, level: LogLevel, event: str, **fields: object) -> None:
        """Write one line to the error log."""
        self._runtime.error(level, event, **fields)

    def _now(self) -> float:
        return self._deadlines.clock.monotonic()


def _discard(lines: bytes) -> None:
    """The sink of a log that nobody asked for."""


def _descriptor_limit() -> int:
    return max(1, (_descriptors() - _DESCRIPTORS_KEPT) // 2)


def _pipe_limit() -> int:
    return min(_MOST_PIPES, _descriptors() // (8 * 4))


def _descriptors() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 30 if soft == resource.RLIM_INFINITY else soft
