"""A second server of a play, beside the upstream: each connection to it is an actor of the test."""

from __future__ import annotations

import asyncio
from typing import Self

from tests.support.play import Actor, Callers


class Service:
    """Listens on a port of 127.0.0.1; ``connection()`` is the next one that is made to it."""

    def __init__(self) -> None:
        self._callers = Callers()
        self._server: asyncio.Server

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._callers.accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._callers.close()
        self._server.close()
        await self._server.wait_closed()

    async def connection(self) -> Actor:
        """Wait for the next connection."""
        return await self._callers.next()

    async def connection_after(self, client: Actor, request: bytes) -> Actor:
        """Let ``client`` send a request and return the next connection, its question read."""
        client.say(request)
        actor = await self.connection()
        await actor.hear_head()
        return actor

    async def stop(self) -> None:
        """Nobody listens any more."""
        self._server.close()
        await self._server.wait_closed()

    @property
    def unasked(self) -> bool:
        """True when no connection was made that nobody took."""
        return self._callers.none_waits
