"""A play that looks at the fast path: how far exchanges are, why they left it, and what is left of them."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from proxy.serve.fastrecord import Stage
from tests.support.play import Actor, Play

if TYPE_CHECKING:
    import socket

    from proxy.net.pool import UpstreamPool
    from proxy.net.upstream import UpstreamConnection
    from proxy.serve.connection import State

EVENT = (
    b"POST /e/ HTTP/1.1\r\nHost: ph.example\r\nOrigin: https://shop.example\r\nContent-Length: 5\r\n\r\nhello"
)
FLAGS = EVENT.replace(b"/e/", b"/flags/")
READ = b"GET /array/phc_x/config.js HTTP/1.1\r\nHost: ph.example\r\n\r\n"
OK = b'HTTP/1.1 200 OK\r\nDate: D\r\nContent-Type: text/json\r\nContent-Length: 15\r\n\r\n{"status":"Ok"}'
CLOSING = OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
SICK = b"HTTP/1.1 503 Service Unavailable\r\nDate: D\r\nContent-Length: 4\r\n\r\nsick"


class FastPlay(Play):
    """It fails at its end when something is still in flight, or leased, or waited for. Without the asset
    cache: a read is asked for like an event."""

    def __init__(self, **config: Any) -> None:
        super().__init__(**{"cache": {"enabled": False}, **config})

    async def __aexit__(self, *error: object) -> None:
        try:
            if error == (None, None, None):
                await self._nothing_in_flight()
        finally:
            await super().__aexit__(*error)

    async def _nothing_in_flight(self) -> None:
        await self.until(lambda: self.proxy.counters.requests_in_flight == 0)
        await self.until(lambda: self.pool.state.dialling == 0)
        assert (self.pool.state.in_use, self.pool.state.waiting) == (0, 0)
        assert {connection.fast_stage for connection in self.proxy.connections} <= {Stage.FREE}

    @property
    def pool(self) -> UpstreamPool:
        """The pool of the one upstream."""
        return self.proxy._pools["default"]

    @property
    def to_upstream(self) -> UpstreamConnection:
        """The one connection to the upstream."""
        (connection,) = self.pool._sockets
        return connection

    @property
    def states(self) -> set[State]:
        """The states that client connections are in."""
        return {connection.state for connection in self.proxy.connections}

    @property
    def fast(self) -> int:
        """Requests that have taken the fast path from end to end."""
        return self.proxy.counters.fast_path

    @property
    def missed(self) -> set[str]:
        """Why others have not, or not to the end."""
        return {reason for (reason,) in self.proxy.counters.fast_path_missed}

    async def at(self, stage: Stage) -> None:
        """Wait until one exchange is at this stage."""
        await self.until(
            lambda: [connection.fast_stage for connection in self.proxy.connections].count(stage) == 1
        )

    async def sent(self, request: bytes = EVENT, body: bytes = b"hello") -> tuple[Actor, Actor]:
        """A client whose request has gone out on a new connection, and that connection."""
        client = await self.client()
        client.say(request)
        upstream = await self.upstream()
        await upstream.hear_head()
        await upstream.hear(body)
        await self.at(Stage.SENT)
        return client, upstream

    async def warm(self) -> tuple[Actor, Actor]:
        """A client that was served once, and the upstream connection that is idle since."""
        client, upstream = await self.sent()
        await answered(client, upstream)
        return client, upstream

    async def taken_from(self, listener: socket.socket) -> socket.socket:
        """Take the next connection as soon as the kernel has it: before the proxy has noticed."""
        listener.setblocking(False)
        found: list[socket.socket] = []

        def accepted() -> bool:
            with contextlib.suppress(BlockingIOError):
                found.append(listener.accept()[0])
            return bool(found)

        await self.until(accepted)
        return found[0]


async def answered(client: Actor, upstream: Actor, answer: bytes = OK, heard: bytes | None = None) -> None:
    """The upstream answers, and the client hears just that (or ``heard``)."""
    upstream.say(answer)
    await client.hear(answer if heard is None else heard)


async def again(client: Actor, upstream: Actor, request: bytes = EVENT, body: bytes = b"hello") -> None:
    """The client asks once more, and the upstream hears it on the connection that it has."""
    client.say(request)
    await upstream.hear_head()
    await upstream.hear(body)
