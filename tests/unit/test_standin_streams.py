"""Server-Sent Events and the echoing WebSocket."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import aiohttp
import pytest_asyncio

from proxy.standin import streams as module
from proxy.standin.journal import Journal
from proxy.standin.server import Standin
from proxy.standin.streams import Streams, sse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest

BEARER = {"Authorization": "Bearer phx_1"}


@pytest_asyncio.fixture
async def standin() -> AsyncIterator[Standin]:
    async with Standin() as running:
        yield running


@pytest_asyncio.fixture
async def client(standin: Standin) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(standin.url) as session:
        yield session


async def test_flags_stream(standin: Standin, client: aiohttp.ClientSession) -> None:
    async with client.get("/flags/stream", headers=BEARER) as answer:
        assert answer.content_type == "text/event-stream"
        assert await answer.content.readuntil(b"\n\n") == sse({"team_id": 1}, "connected")
        assert standin.open_streams == 1
        standin.publish({"key": "demo-flag"})
        assert await answer.content.readuntil(b"\n\n") == b'event: message\ndata: {"key": "demo-flag"}\n\n'
    await standin.wait_for(lambda: standin.open_streams == 0)


async def test_flags_stream_wants_a_bearer(client: aiohttp.ClientSession) -> None:
    async with client.get("/flags/stream") as answer:
        assert answer.status == 401


async def test_livestream_tells_of_events(client: aiohttp.ClientSession) -> None:
    async with client.get("/livestream/events?token=t") as answer:
        await answer.content.readuntil(b"\n\n")
        event = {"event": "x", "token": "t", "distinct_id": "u", "uuid": "id-1"}
        async with client.post("/e/", json=event) as posted:
            assert posted.status == 200
        line = await answer.content.readuntil(b"\n\n")
        assert line == sse({"uuid": "id-1", "event": "x", "distinct_id": "u"})


async def test_websocket_echo(standin: Standin, client: aiohttp.ClientSession) -> None:
    async with client.ws_connect("/ws/echo") as socket:
        await socket.send_str("text")
        assert await socket.receive_str() == "text"
        await socket.send_bytes(b"\x00\xff")
        assert await socket.receive_bytes() == b"\x00\xff"
        assert standin.open_streams == 1
    await standin.wait_for(lambda: standin.open_streams == 0)


async def test_stopping_ends_what_is_open() -> None:
    standin = await Standin().__aenter__()
    async with aiohttp.ClientSession(standin.url) as client:
        socket = await client.ws_connect("/ws/echo")
        async with client.get("/flags/stream", headers=BEARER) as answer:
            await answer.content.readuntil(b"\n\n")
            stopping = asyncio.ensure_future(standin.__aexit__(None, None, None))
            assert await answer.read() == b""
            assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE
        await stopping


async def test_a_reader_that_falls_behind_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_QUEUED", 2)
    reader = module._Stream()
    for number in range(5):
        reader.send(b"%d" % number)
    assert [await reader.next() for _ in range(3)] == [b"0", b"1", None]


async def test_closing_with_nothing_open() -> None:
    streams = Streams(Journal())
    streams.publish({"a": 1})
    await streams.close()
    assert streams.open == 0
