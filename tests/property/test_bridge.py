"""A bridge: whatever both sides send, in whatever pieces, with small or large socket buffers, copied or
spliced, arrives whole and in order, and the end of each way is passed on after it."""

from __future__ import annotations

import asyncio
import hashlib
import socket
from random import Random
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.net.bridge import Bridge
from proxy.net.splice import PipePool
from tests.support.turning import Time

if TYPE_CHECKING:
    from collections.abc import Sequence

PATIENCE = 20.0

sizes = st.lists(st.sampled_from([1, 100, 16_383, 16_384, 65_535, 65_536, 65_537, 300_000]), max_size=8)
buffers = st.sampled_from([4096, 65_536, 1 << 20])


def pair(size: int) -> tuple[socket.socket, socket.socket]:
    ends = socket.socketpair()
    for end in ends:
        end.setblocking(False)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
    return ends


async def speak(sock: socket.socket, pieces: Sequence[bytes], order: Random) -> None:
    for piece in pieces:
        await asyncio.get_running_loop().sock_sendall(sock, piece)
        if order.random() < 0.3:
            await asyncio.sleep(0)
    sock.shutdown(socket.SHUT_WR)


async def listen(sock: socket.socket, order: Random) -> bytes:
    heard = bytearray()
    while data := await asyncio.get_running_loop().sock_recv(sock, order.choice((1000, 70_000))):
        heard += data
        if order.random() < 0.1:
            await asyncio.sleep(0)
    return bytes(heard)


def made_of(sizes: Sequence[int], order: Random) -> list[bytes]:
    return [order.randbytes(size) for size in sizes]


async def play(there: Sequence[bytes], back: Sequence[bytes], size: int, splice: bool, order: Random) -> None:
    time, pipes = Time(), PipePool(2)
    client, down = pair(size)
    up, server = pair(size)
    bridge = Bridge(
        down, up, deadlines=time, idle=60, pipes=pipes if splice else None, buffer=bytearray(65_536)
    )
    with client, down, up, server:
        async with asyncio.timeout(PATIENCE):
            _, heard, answered, *_ = await asyncio.gather(
                bridge.run(),
                listen(server, order),
                listen(client, order),
                speak(client, there, order),
                speak(server, back, order),
            )
    assert hashlib.sha256(heard).digest() == hashlib.sha256(b"".join(there)).digest()
    assert hashlib.sha256(answered).digest() == hashlib.sha256(b"".join(back)).digest()
    assert bridge.ended_by == "closed"
    assert (bridge.inward.bytes, bridge.outward.bytes) == (len(heard), len(answered))
    assert "used=0" in repr(pipes)
    assert len(time) == 0
    pipes.close()


@settings(deadline=None, max_examples=200)
@given(sizes, sizes, buffers, st.booleans(), st.integers(0, 1000))
def test_everything_arrives(there: list[int], back: list[int], size: int, splice: bool, seed: int) -> None:
    order = Random(seed)
    asyncio.run(play(made_of(there, order), made_of(back, order), size, splice, order))
