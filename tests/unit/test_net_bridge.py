"""A bridge between two sockets whose other ends the test holds."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
from typing import TYPE_CHECKING, Self

import pytest

from proxy.net.bridge import Bridge
from proxy.net.splice import PipePool
from tests.support.play import PATIENCE
from tests.support.turning import Time, turns, until

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.both_loops

KIB = 1024
BUFFER = 64 * KIB


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.create_connection(server.getsockname())
        other, _ = server.accept()
    return one, other


class Stage:
    """``client`` and ``server`` are the outer ends."""

    def __init__(
        self,
        *,
        splice: bool = True,
        pair: Callable[[], tuple[socket.socket, socket.socket]] = tcp_pair,
    ) -> None:
        self.time = Time()
        self.pipes = PipePool(4)
        self.client, self.down = pair()
        self.up, self.server = pair()
        self.sockets = (self.client, self.down, self.up, self.server)
        for sock in self.sockets:
            sock.setblocking(False)
        self._splice = splice

    async def __aenter__(self) -> Self:
        self.bridge = Bridge(
            self.down,
            self.up,
            deadlines=self.time,
            idle=10,
            pipes=self.pipes if self._splice else None,
            buffer=bytearray(BUFFER),
        )
        self.running = asyncio.create_task(self.bridge.run())
        await turns(2)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.bridge.end("test")
        await self.running
        assert "used=0" in repr(self.pipes)
        assert len(self.time) == 0
        self.pipes.close()
        for sock in self.sockets:
            sock.close()

    async def ended(self) -> str:
        async with asyncio.timeout(PATIENCE):
            await self.running
        return self.bridge.ended_by


async def hear(sock: socket.socket, count: int) -> bytes:
    """Read exactly so many bytes."""
    heard = bytearray()
    async with asyncio.timeout(PATIENCE):
        while len(heard) < count:
            data = await asyncio.get_running_loop().sock_recv(sock, count - len(heard))
            assert data, f"ended after {len(heard)} of {count}"
            heard += data
    return bytes(heard)


async def say(sock: socket.socket, data: bytes) -> None:
    async with asyncio.timeout(PATIENCE):
        await asyncio.get_running_loop().sock_sendall(sock, data)


async def test_bytes_go_both_ways_and_are_counted() -> None:
    async with Stage() as it:
        await say(it.client, b"hello")
        assert await hear(it.server, 5) == b"hello"
        await say(it.server, b"hello yourself")
        assert await hear(it.client, 14) == b"hello yourself"
        assert (it.bridge.inward.bytes, it.bridge.outward.bytes) == (5, 14)
        assert it.bridge.inward.spliced == 0
        assert "OPEN in=5 out=14" in repr(it.bridge)


@pytest.mark.parametrize("splice", [True, False])
@pytest.mark.parametrize("pair", [tcp_pair, socket.socketpair])
async def test_large_amounts_arrive_whole_both_ways_at_once(
    splice: bool, pair: Callable[[], tuple[socket.socket, socket.socket]]
) -> None:
    there, back = os.urandom(5_000_000), os.urandom(3_000_001)
    async with Stage(splice=splice, pair=pair) as it:
        _, _, heard, answered = await asyncio.gather(
            say(it.client, there),
            say(it.server, back),
            hear(it.server, len(there)),
            hear(it.client, len(back)),
        )
        assert hashlib.sha256(heard).digest() == hashlib.sha256(there).digest()
        assert hashlib.sha256(answered).digest() == hashlib.sha256(back).digest()
        assert (it.bridge.inward.bytes, it.bridge.outward.bytes) == (len(there), len(back))
        if pair is tcp_pair:
            assert (it.bridge.inward.spliced > 0) is splice


async def test_a_side_that_takes_nothing_stops_the_other_one_and_only_that_way() -> None:
    async with Stage() as it:
        flood = asyncio.create_task(say(it.client, bytes(50_000_000)))
        await until(lambda: it.bridge.inward._waits_for is it.up)
        await say(it.server, b"still here")
        assert await hear(it.client, 10) == b"still here"
        assert len(await hear(it.server, 50_000_000)) == 50_000_000
        await flood


async def test_without_a_pipe_to_be_had_everything_is_copied() -> None:
    async with Stage() as it:
        taken = [it.pipes.take() for _ in range(4)]
        data = os.urandom(2_000_000)
        heard, _ = await asyncio.gather(hear(it.server, len(data)), say(it.client, data))
        assert heard == data
        assert it.bridge.inward.spliced == 0
        for pipe in taken:
            assert pipe is not None
            it.pipes.give_back(pipe)


async def test_an_idle_bridge_holds_no_pipe() -> None:
    async with Stage() as it:
        data = bytes(3_000_000)
        await asyncio.gather(hear(it.server, len(data)), say(it.client, data))
        assert it.bridge.inward.spliced
        await until(lambda: "used=0" in repr(it.pipes))


async def test_a_half_close_leaves_the_other_way_open() -> None:
    async with Stage() as it:
        await say(it.client, b"a question")
        it.client.shutdown(socket.SHUT_WR)
        assert await hear(it.server, 10) == b"a question"
        assert await asyncio.get_running_loop().sock_recv(it.server, 1) == b""
        await say(it.server, b"an answer")
        assert await hear(it.client, 9) == b"an answer"
        it.server.shutdown(socket.SHUT_WR)
        assert await it.ended() == "closed"
        assert await asyncio.get_running_loop().sock_recv(it.client, 1) == b""


async def test_what_came_before_the_end_arrives_before_it() -> None:
    data = os.urandom(4_000_000)
    async with Stage() as it:
        saying = asyncio.create_task(say(it.client, data))
        saying.add_done_callback(lambda _: it.client.shutdown(socket.SHUT_WR))
        assert await hear(it.server, len(data)) == data
        assert await asyncio.get_running_loop().sock_recv(it.server, 1) == b""


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()


@pytest.mark.parametrize("side", ["downstream", "upstream"])
async def test_a_reset_ends_it_and_is_named(side: str) -> None:
    async with Stage() as it:
        reset(it.client if side == "downstream" else it.server)
        assert await it.ended() == side


async def test_a_reset_is_noticed_where_a_target_is_waited_for() -> None:
    async with Stage() as it:
        flood = asyncio.create_task(say(it.client, bytes(50_000_000)))
        await until(lambda: it.bridge.inward._waits_for is it.up)
        reset(it.server)
        assert await it.ended() == "upstream"
        reset(it.down)
        with pytest.raises(OSError):
            await flood


async def test_writing_to_a_side_that_is_gone_ends_it() -> None:
    async with Stage() as it:
        it.server.shutdown(socket.SHUT_WR)
        await until(lambda: it.bridge.outward.ended)
        reset(it.server)
        await say(it.client, b"nobody there")
        assert await it.ended() == "upstream"


async def test_silence_ends_it_and_every_byte_begins_it_anew() -> None:
    async with Stage() as it:
        it.time.turn(9)
        await say(it.client, b"x")
        await hear(it.server, 1)
        it.time.turn(9)
        await say(it.server, b"x")
        await hear(it.client, 1)
        it.time.turn(9.9)
        assert not it.running.done()
        it.time.turn(0.2)
        assert await it.ended() == "idle"
        assert "idle" in repr(it.bridge)


async def test_the_first_reason_counts() -> None:
    async with Stage() as it:
        it.bridge.end("draining")
        it.bridge.end("idle")
        assert await it.ended() == "draining"


async def test_urgent_data_of_tcp_does_not_make_it_spin() -> None:
    async with Stage() as it:
        big = bytes(1_000_000)
        await asyncio.gather(hear(it.server, len(big)), say(it.client, big))
        it.client.send(b"!", socket.MSG_OOB)
        await say(it.client, b"after")
        assert await hear(it.server, 5) == b"after"  # as recv(2) gives it: without the urgent byte
        await turns()
        before = it.bridge.inward.bytes
        await turns(50)
        assert it.bridge.inward.bytes == before
