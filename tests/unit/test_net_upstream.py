"""A connection tells its owner when it stands, cannot be used any more, and is gone."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from proxy.net.http1 import Http1Exchange
from proxy.net.upstream import UpstreamConnection
from tests.support.pooling import ANSWERS
from tests.support.turning import Time, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.both_loops


class Owner:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def opened(self, connection: UpstreamConnection) -> None:
        self.told.append("opened")

    def spoiled(self, connection: UpstreamConnection) -> None:
        self.told.append("spoiled")

    def gone(self, connection: UpstreamConnection) -> None:
        self.told.append("gone")


@asynccontextmanager
async def connected(owner: Owner) -> AsyncIterator[tuple[UpstreamConnection, socket.socket]]:
    ours, theirs = socket.socketpair()
    connection = UpstreamConnection(
        Time(),
        owner,
        lambda stream: Http1Exchange(stream, ANSWERS),
        address="127.0.0.1:80",
        read_limit=1000,
        write_limit=1000,
    )
    await asyncio.get_running_loop().create_unix_connection(lambda: connection, sock=ours)
    with theirs:
        yield connection, theirs
        connection.abort()
        await until(lambda: connection.lost)


async def test_a_new_one_is_idle_and_usable() -> None:
    owner = Owner()
    async with connected(owner) as (connection, _):
        assert owner.told == ["opened"]
        assert connection.usable
        assert connection.capacity == 1
        assert connection.created == connection.idle_since == 1000.0
        assert repr(connection) == "<UpstreamConnection IDLE 127.0.0.1:80 served=0>"


async def test_it_opens_exchanges_and_shows_its_state() -> None:
    async with connected(Owner()) as (connection, _):
        connection.in_flight = 1
        assert isinstance(connection.open_exchange(), Http1Exchange)
        connection.served = 2  # whoever lends it counts
        assert repr(connection) == "<UpstreamConnection ACTIVE 127.0.0.1:80 served=2>"


async def test_a_byte_while_idle_spoils_it() -> None:
    owner = Owner()
    async with connected(owner) as (connection, peer):
        peer.send(b"H")
        await until(lambda: len(owner.told) > 1)
        assert owner.told == ["opened", "spoiled"]
        assert not connection.usable
        assert "SPOILED" in repr(connection)


async def test_an_end_while_idle_spoils_it() -> None:
    owner = Owner()
    async with connected(owner) as (connection, peer):
        peer.shutdown(socket.SHUT_WR)
        await until(lambda: len(owner.told) > 1)
        assert owner.told == ["opened", "spoiled"]
        assert not connection.usable


async def test_during_an_exchange_both_belong_to_the_exchange() -> None:
    owner = Owner()
    async with connected(owner) as (connection, peer):
        connection.in_flight = 1
        peer.send(b"HTTP/1.1 200 OK\r\n")
        await until(lambda: connection.received)
        peer.shutdown(socket.SHUT_WR)
        await until(lambda: connection.at_eof)
        assert owner.told == ["opened"]
        connection.abort()
        await until(lambda: connection.lost)
        assert owner.told == ["opened", "gone"]
        assert "LOST" in repr(connection)


async def test_a_reset_while_idle() -> None:
    owner = Owner()
    async with connected(owner) as (connection, _):
        connection.abort()
        assert not connection.usable
        await until(lambda: connection.lost)
        assert owner.told == ["opened", "spoiled", "gone"]


async def test_unsent_bytes_make_it_unusable() -> None:
    async with connected(Owner()) as (connection, _):
        connection.write(b"x" * 4_000_000)
        assert not connection.usable
