"""A pool before an upstream that the test plays, in time that the test turns."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from typing import TYPE_CHECKING, Any, Self, TypeVar

from proxy.config.schema import Config, TcpAddress, UnixAddress, UpstreamConfig, UpstreamUrl
from proxy.net.http1 import AnswerLimits, Http1Exchange
from proxy.net.pool import UpstreamPool
from proxy.wire.strict import HeadLimits
from tests.support.play import PATIENCE, Actor, Callers
from tests.support.turning import Time, turns, until

if TYPE_CHECKING:
    import ssl
    from collections.abc import Coroutine

    from proxy.net.lease import Lease
    from proxy.rules.announcing import Announcement

T = TypeVar("T")

ANSWERS = AnswerLimits(HeadLimits())


def upstream_at(port: int, host: str = "127.0.0.1", *, tls: bool = False, **keys: Any) -> UpstreamConfig:
    """The configuration of an upstream."""
    return dataclasses.replace(UpstreamConfig(UpstreamUrl(TcpAddress(host, port), tls)), **keys)


class Pooling:
    """A server at ``port`` whose connections the test takes from ``peer()``, and a pool before it.

    ``bounds`` are keys of the pool's configuration, ``health`` those of the breaker and the probes,
    ``keys`` those of the upstream, ``options`` arguments of the pool.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        tls: ssl.SSLContext | None = None,
        unix: str = "",
        bounds: dict[str, Any] | None = None,
        health: dict[str, Any] | None = None,
        keys: dict[str, Any] | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        self.time = Time()
        self.port = 0
        self._host, self._tls, self._unix = host, tls, unix
        self._bounds, self._health = bounds or {}, health or {}
        self._keys, self._options = keys or {}, options or {}
        self._callers = Callers()
        self._leases: list[Lease] = []
        self._server: asyncio.Server
        self.pool: UpstreamPool

    async def __aenter__(self) -> Self:
        if self._unix:
            self._server = await asyncio.start_unix_server(self._callers.accept, self._unix)
            upstream = UpstreamConfig(UpstreamUrl(UnixAddress(self._unix)))
        else:
            self._server = await asyncio.start_server(self._callers.accept, "127.0.0.1", 0, ssl=self._tls)
            self.port = self._server.sockets[0].getsockname()[1]
            upstream = upstream_at(self.port, self._host, tls=self._tls is not None, **self._keys)
        config = Config()
        config = dataclasses.replace(
            config,
            pool=dataclasses.replace(config.pool, **self._bounds),
            health=dataclasses.replace(config.health, **self._health),
        )
        self.pool = UpstreamPool(
            "default",
            upstream,
            config,
            self.time,
            lambda stream: Http1Exchange(stream, ANSWERS),
            rng=random.Random(11),
            **self._options,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        for lease in self._leases:
            if not lease.released:
                lease.release(False)
        self.pool.close()
        await until(lambda: self.pool.state.dialling == 0)
        async with asyncio.timeout(PATIENCE):
            await self.pool.wait_closed()
        await self._callers.close()
        self._server.close()
        await self._server.wait_closed()
        assert len(self.time) == 0

    async def peer(self) -> Actor:
        """Return the upstream's end of the next connection."""
        return await self._callers.next()

    def stop_listening(self) -> None:
        """From now on the upstream refuses."""
        self._server.close()

    async def listen_again(self) -> None:
        """From now on it takes connections again, at the same address."""
        self._server = await asyncio.start_server(self._callers.accept, "127.0.0.1", self.port)

    @property
    def unasked(self) -> bool:
        """True when no connection was made that nobody took."""
        return self._callers.none_waits

    async def acquire(
        self, *, seconds: float = 30.0, fresh: bool = False, announced: Announcement | None = None
    ) -> Lease:
        """Acquire a lease with this much time, within which nothing needs to pass."""
        due = self.time.now + seconds
        async with asyncio.timeout(PATIENCE):
            lease = await self.pool.acquire(due=due, connect_timeout=3.0, fresh=fresh, announced=announced)
        self._leases.append(lease)
        return lease

    async def acquiring(self, *, seconds: float = 30.0, fresh: bool = False) -> asyncio.Task[Lease]:
        """Begin to acquire a lease; it waits for something that the test will do."""
        task = asyncio.ensure_future(self.acquire(seconds=seconds, fresh=fresh))
        await turns()
        return task

    async def passing(self, work: Coroutine[Any, Any, T]) -> T:
        """Let time pass until ``work`` is done: only while somebody waits for a moment that is near, so
        that no time-out strikes because the machine is slow."""
        task = asyncio.ensure_future(work)
        async with asyncio.timeout(PATIENCE):
            while not task.done():
                await turns(1)
                if self.time.next_due - self.time.now <= 0.5:
                    self.time.turn(0.05)
        return await task
