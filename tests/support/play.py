"""A proxy between a client and an upstream that are both played by the test, byte by byte.

A test reads like a play: a line sent here, a line expected there. Time stands still until the test turns
the clock. Everything runs in the test's own event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any, Self

from proxy.config.load import config_from
from proxy.config.schema import TcpAddress
from proxy.server import Proxy
from tests.support.clock import HandClock

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.support.keeping import Kept

PATIENCE = 10.0
"""Seconds of real time after which a test that waits in vain fails."""


class Actor:
    """One end of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def say(self, data: bytes) -> None:
        """Send bytes."""
        self.writer.write(data)

    async def hear(self, expected: bytes) -> None:
        """Read exactly these bytes."""
        async with asyncio.timeout(PATIENCE):
            heard = await self.reader.readexactly(len(expected))
        assert heard == expected

    async def hear_head(self) -> bytes:
        """Read through the blank line."""
        async with asyncio.timeout(PATIENCE):
            return await self.reader.readuntil(b"\r\n\r\n")

    async def hear_some(self, count: int) -> bytes:
        """Read exactly ``count`` bytes."""
        async with asyncio.timeout(PATIENCE):
            return await self.reader.readexactly(count)

    async def hear_answer(self) -> tuple[int, bytes, bytes]:
        """Read an answer with a Content-Length: status, head, body."""
        head = await self.hear_head()
        length = next(
            (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
        )
        return int(head[9:12]), head, await self.hear_some(length)

    async def hear_end(self) -> bytes:
        """Read to the end of the stream and return what came; a reset counts as an end."""
        async with asyncio.timeout(PATIENCE):
            try:
                return await self.reader.read()
            except ConnectionResetError:
                return b""

    async def is_reset(self) -> bool:
        """Read to the end; whether it was a reset."""
        async with asyncio.timeout(PATIENCE):
            try:
                await self.reader.read()
            except ConnectionResetError:
                return True
        return False

    def hang_up(self) -> None:
        """Close without waiting."""
        self.writer.close()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


class Callers:
    """The connections made to a server of the test (``accept`` is its callback), each an actor."""

    def __init__(self) -> None:
        self._waiting: asyncio.Queue[Actor] = asyncio.Queue()
        self._taken: list[Actor] = []

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._waiting.put(Actor(reader, writer))

    async def next(self) -> Actor:
        """Wait for the next connection."""
        async with asyncio.timeout(PATIENCE):
            actor = await self._waiting.get()
        self._taken.append(actor)
        return actor

    @property
    def none_waits(self) -> bool:
        """True when no connection was made that nobody took."""
        return self._waiting.empty()

    async def close(self) -> None:
        """Close them all, those that nobody took included."""
        while not self._waiting.empty():
            self._taken.append(self._waiting.get_nowait())
        for actor in self._taken:
            await actor.close()


class Play:
    """The stage: ``client()`` connects to the proxy, ``upstream()`` is the next connection it makes."""

    def __init__(self, *, keeper: Kept | None = None, **config: Any) -> None:
        self.clock = HandClock()
        self.keeper = keeper
        self.access = bytearray()
        self.errors = bytearray()
        self._config: Mapping[str, Any] = config
        self._callers = Callers()
        self._clients: list[Actor] = []
        self.proxy: Proxy
        self._server: asyncio.Server

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        config = {"listen": ["127.0.0.1:0"], "upstream": f"http://127.0.0.1:{self.port}", **self._config}
        self.proxy = Proxy(
            config_from(config).config,
            clock=self.clock,
            access_sink=self.access.extend,
            error_sink=self.errors.extend,
            keeper=self.keeper,
        )
        await self.proxy.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.proxy.close()
        for client in self._clients:
            await client.close()
        await self._callers.close()
        self._server.close()
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._callers.accept(reader, writer)

    async def client(self) -> Actor:
        """Connect to the proxy."""
        address = self.proxy.addresses[0]
        assert isinstance(address, TcpAddress)
        actor = Actor(*await asyncio.open_connection(address.host, address.port))
        self._clients.append(actor)
        return actor

    async def upstream(self) -> Actor:
        """Wait for the next connection that the proxy makes to its upstream."""
        return await self._callers.next()

    async def answered(self, request: bytes, answer: bytes) -> tuple[Actor, Actor]:
        """A new client that has asked, and the next connection to the upstream, which has answered."""
        client = await self.client()
        client.say(request)
        upstream = await self.upstream()
        await upstream.hear_head()
        upstream.say(answer)
        await client.hear_answer()
        await self.until(lambda: self.proxy.counters.requests_in_flight == 0)
        return client, upstream

    @property
    def unasked(self) -> bool:
        """True when the proxy has made no connection that nobody took."""
        return self._callers.none_waits

    async def stop_upstream(self) -> None:
        """Nobody listens at the upstream's address any more."""
        self._server.close()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Let the event loop run until ``condition`` holds."""
        async with asyncio.timeout(PATIENCE):
            while not condition():  # noqa: ASYNC110 - what is watched has no event
                await asyncio.sleep(0)

    async def waiting_for_body(self) -> None:
        """Let the proxy read until it waits for more of a request body; takes 1.5 s of its time."""
        await self.until(lambda: any(connection.bytes_in for connection in self.proxy.connections))
        self.turn(1.5)  # the fast path hands over
        await self.until(lambda: any(connection.exchange for connection in self.proxy.connections))
        await asyncio.sleep(0)

    def turn(self, seconds: float) -> None:
        """Let time pass, and let the proxy notice."""
        self.clock.now += seconds
        self.proxy.sweep()

    def lines(self) -> list[dict[str, Any]]:
        """The access log so far."""
        self.proxy.sweep()
        return [json.loads(line) for line in self.access.splitlines()]

    async def line(self, count: int = 1) -> dict[str, Any]:
        """Wait until the access log has ``count`` lines and return the last of them."""
        await self.until(lambda: len(self.lines()) >= count)
        lines = self.lines()
        assert len(lines) == count
        return lines[-1]
