"""Answers without an end: Server-Sent Events and a WebSocket that echoes.

Memory: each open stream queues at most ``MAX_QUEUED`` messages; one that falls further behind is ended.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from aiohttp import WSMsgType, web

from proxy.standin.arrival import bearer, both_forms, refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from proxy.standin.journal import Event, Journal

MAX_QUEUED = 1_000


class _Stream:
    """The messages of one reader."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue()

    def send(self, message: bytes) -> None:
        self._queue.put_nowait(message if self._queue.qsize() < MAX_QUEUED else None)

    def end(self) -> None:
        self._queue.put_nowait(None)

    async def next(self) -> bytes | None:
        return await self._queue.get()


def sse(data: Any, event: str = "") -> bytes:
    """One Server-Sent Event with ``data`` as JSON."""
    name = f"event: {event}\n" if event else ""
    return f"{name}data: {json.dumps(data)}\n\n".encode()


class Streams:
    """`/flags/stream`, `/livestream/*` and `/ws/echo`."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._readers: set[_Stream] = set()
        self._sockets: set[web.WebSocketResponse] = set()

    @property
    def open(self) -> int:
        """Readers and WebSockets that are connected now."""
        return len(self._readers) + len(self._sockets)

    def routes(self) -> Iterator[web.RouteDef]:
        for path in both_forms("/flags/stream"):
            yield web.get(path, self._flags)
        yield web.get("/livestream/{tail:.*}", self._livestream)
        yield web.get("/ws/echo", self._echo)

    def publish(self, data: Any, event: str = "message") -> None:
        """Send one event to every open `/flags/stream` and `/livestream`."""
        for reader in self._readers:
            reader.send(sse(data, event))

    async def close(self) -> None:
        """End everything that is open."""
        for reader in self._readers:
            reader.end()
        for socket in tuple(self._sockets):
            await socket.close(code=1001, message=b"the stand-in stops")

    async def _flags(self, request: web.Request) -> web.StreamResponse:
        if bearer(request) is None:
            return refusal(401, "authentication credentials were not provided")
        return await self._stream(request, lambda _: lambda: None)

    async def _livestream(self, request: web.Request) -> web.StreamResponse:
        def subscribe(reader: _Stream) -> Callable[[], None]:
            def arrived(event: Event) -> None:
                reader.send(sse({"uuid": event.uuid, "event": event.name, "distinct_id": event.distinct_id}))

            return self._journal.subscribe(arrived)

        return await self._stream(request, subscribe)

    async def _stream(
        self, request: web.Request, subscribe: Callable[[_Stream], Callable[[], None]]
    ) -> web.StreamResponse:
        reader = _Stream()
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
        )
        self._readers.add(reader)
        unsubscribe = subscribe(reader)
        try:
            await response.prepare(request)
            await response.write(sse({"team_id": 1}, "connected"))
            while (message := await reader.next()) is not None:
                await response.write(message)
        finally:
            unsubscribe()
            self._readers.discard(reader)
        return response

    async def _echo(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(max_msg_size=1024 * 1024)
        await socket.prepare(request)
        self._sockets.add(socket)
        try:
            async for message in socket:
                if message.type is WSMsgType.TEXT:
                    await socket.send_str(message.data)
                elif message.type is WSMsgType.BINARY:
                    await socket.send_bytes(message.data)
        finally:
            self._sockets.discard(socket)
        return socket
