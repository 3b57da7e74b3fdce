"""A stream whose peer was large is read in pieces, and hears of everything as before."""

from __future__ import annotations

import asyncio
import socket

import pytest

from proxy.net.pieces import PIECE_BYTES
from proxy.net.stream import Stream
from tests.support.turning import Time, connected, until

pytestmark = pytest.mark.both_loops

LARGE = bytes(range(256)) * 1200


class Reading(Stream):
    """Takes what comes and notes how much of it came at once; ``at_once``: asks for pieces when it does."""

    def __init__(self, *, at_once: bool = False, read_limit: int = 10 * len(LARGE)) -> None:
        super().__init__(Time(), read_limit=read_limit, write_limit=1000)
        self.sizes: list[int] = []
        self.ended = False
        self.at_once = at_once

    def data_received(self, data: bytes) -> None:
        self.sizes.append(len(data))
        if self.at_once:
            self.read_in_pieces()
        super().data_received(data)

    def on_eof(self) -> None:
        self.ended = True


async def say(peer: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(peer, data)


@pytest.mark.parametrize("at_once", [False, True])
async def test_no_piece_is_larger_and_nothing_is_lost(at_once: bool) -> None:
    stream = Reading(at_once=at_once)
    async with connected(stream) as peer:
        await say(peer, b"small")
        await until(lambda: stream.bytes_in == 5)
        stream.read_in_pieces()
        stream.read_in_pieces()
        saying = asyncio.ensure_future(say(peer, LARGE))
        await until(lambda: stream.bytes_in == 5 + len(LARGE))
        await saying
        assert stream.received == b"small" + LARGE
        assert max(stream.sizes) <= PIECE_BYTES
        peer.shutdown(socket.SHUT_WR)
        await until(lambda: stream.ended)
        stream.write(b"answer")
        assert await asyncio.get_running_loop().sock_recv(peer, 99) == b"answer"


async def test_who_has_paused_stays_paused() -> None:
    stream = Reading(read_limit=10)
    async with connected(stream) as peer:
        await say(peer, b"0123456789")
        await until(lambda: stream.bytes_in == 10)
        stream.read_in_pieces()
        await say(peer, b"more")
        for _ in range(20):
            await asyncio.sleep(0)
        assert stream.bytes_in == 10
        stream.received.clear()
        stream.resume()
        await until(lambda: stream.received == b"more")


async def test_writing_is_paused_and_resumed_as_before() -> None:
    stream = Reading()
    async with connected(stream) as peer:
        stream.read_in_pieces()
        stream.write(LARGE * 10)
        await until(lambda: not stream.writable)
        heard = 0
        while heard < 10 * len(LARGE):
            heard += len(await asyncio.get_running_loop().sock_recv(peer, 1 << 20))
        await until(lambda: stream.writable)


async def test_a_connection_that_ends_is_left_alone() -> None:
    stream = Reading()
    async with connected(stream):
        stream.abort()
        stream.read_in_pieces()
        assert stream.sizes == []
