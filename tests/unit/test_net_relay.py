"""The tunnel by itself: how each way of ending shows."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from proxy.clock import Deadlines
from proxy.net.relay import Tunnel
from proxy.net.stream import Stream
from tests.support.clock import HandClock
from tests.support.play import PATIENCE


class Stage:
    """Two connected socket pairs with a tunnel between their inner ends."""

    async def start(self) -> Stage:
        self.clock = HandClock()
        self.deadlines = Deadlines(self.clock)
        loop = asyncio.get_running_loop()
        self.outer: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        inner = []
        for _ in range(2):
            a, b = socket.socketpair()
            self.outer.append(await asyncio.open_connection(sock=a))
            _, stream = await loop.create_connection(
                lambda: Stream(self.deadlines, read_limit=65536, write_limit=65536), sock=b
            )
            inner.append(stream)
        self.tunnel = Tunnel(inner[0], inner[1], self.deadlines, idle=10)
        self.running = asyncio.create_task(self.tunnel.run())
        return self

    async def ended(self) -> str:
        async with asyncio.timeout(PATIENCE):
            await self.running
        for _, writer in self.outer:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        assert len(self.deadlines) == 0
        return self.tunnel.ended_by


async def test_bytes_flow_and_a_half_close_leaves_the_other_way_open() -> None:
    stage = await Stage().start()
    (down_in, down_out), (up_in, up_out) = stage.outer
    down_out.write(b"hello")
    assert await up_in.readexactly(5) == b"hello"
    down_out.write_eof()
    assert await up_in.read() == b""
    up_out.write(b"still here")
    assert await down_in.readexactly(10) == b"still here"
    up_out.write_eof()
    assert await down_in.read() == b""
    assert await stage.ended() == "closed"


async def test_a_side_that_is_lost_ends_the_tunnel() -> None:
    stage = await Stage().start()
    stage.outer[0][1].write(b"x" * 100)
    await stage.outer[1][0].readexactly(100)
    stage.outer[1][1].write(b"unread")
    stage.outer[0][1].transport.abort()
    assert await stage.ended() in ("downstream", "closed")


async def test_idle_counts_both_ways_together() -> None:
    stage = await Stage().start()
    for _ in range(3):
        await asyncio.sleep(0)
        stage.clock.now += 9
        stage.deadlines.sweep()
        stage.outer[0][1].write(b"x")
        await stage.outer[1][0].readexactly(1)
    stage.clock.now += 11
    stage.deadlines.sweep()
    assert await stage.ended() == "idle"


async def test_a_side_that_takes_nothing_stops_the_other() -> None:
    stage = await Stage().start()
    _, writer = stage.outer[0]
    writer.transport.set_write_buffer_limits(high=1)
    writer.write(b"x" * 20_000_000)
    for _ in range(2000):
        await asyncio.sleep(0)
    assert writer.transport.get_write_buffer_size() > 10_000_000
    reader, _ = stage.outer[1]
    assert len(await reader.readexactly(20_000_000)) == 20_000_000
    for _, end in stage.outer:
        end.transport.abort()
    await stage.ended()
