"""Reaching one upstream: its addresses in turn, TLS, and the header that announces a client."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import ssl
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest

from proxy.config.schema import TcpAddress, UnixAddress, UpstreamConfig, UpstreamUrl
from proxy.errors import Failure
from proxy.net.dialler import Dialler
from proxy.net.resolve import SocketAddress, system_lookup
from proxy.net.stream import Stream
from proxy.rules.announcing import Announcement
from proxy.wire.proxyproto import LOCAL, encode_header
from tests.support.play import PATIENCE
from tests.support.tls import self_signed
from tests.support.turning import Time, turns, until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from proxy.config.schema import ListenAddress
    from proxy.net.resolve import Lookup

pytestmark = pytest.mark.both_loops

CLIENT = Announcement(ip_address("203.0.113.7"), 5000, ip_address("10.0.0.1"), 443)


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(PATIENCE)
        yield listening


def address_of(server: socket.socket) -> TcpAddress:
    return TcpAddress("127.0.0.1", server.getsockname()[1])


def dialler(
    time: Time,
    address: ListenAddress,
    *,
    tls: bool = False,
    lookup: Lookup = system_lookup,
    **keys: Any,
) -> Dialler:
    upstream = dataclasses.replace(UpstreamConfig(UpstreamUrl(address, tls)), **keys)
    return Dialler("default", upstream, 15.0, time, lookup)


def heard(server: socket.socket, count: int) -> bytes:
    connection, _ = server.accept()
    with connection:
        connection.settimeout(PATIENCE)
        return connection.recv(count, socket.MSG_WAITALL)


def stream_of(time: Time) -> Stream:
    return Stream(time, read_limit=65536, write_limit=65536)


@pytest.mark.parametrize("announced", [CLIENT, None])
async def test_the_header_comes_first(server: socket.socket, announced: Announcement | None) -> None:
    time = Time()
    it = dialler(time, address_of(server), proxy_protocol=True)
    expected = encode_header(announced) + b"hello"
    assert it.announces
    stream = await it.stream(lambda _: stream_of(time), announced, time.now + 3)
    stream.write(b"hello")
    assert await asyncio.to_thread(heard, server, len(expected)) == expected
    stream.abort()
    sock, address = await it.bare(announced, time.now + 3)
    assert str(address) == str(address_of(server))
    with sock:
        sock.send(b"hello")
        assert await asyncio.to_thread(heard, server, len(expected)) == expected
    await until(lambda: stream.lost)
    await it.close()


async def test_nothing_is_announced_unless_it_is_configured(server: socket.socket) -> None:
    time = Time()
    it = dialler(time, address_of(server))
    assert not it.announces
    sock, _ = await it.bare(CLIENT, time.now + 3)
    with sock:
        sock.send(b"hello")
        assert await asyncio.to_thread(heard, server, 5) == b"hello"
    await it.close()


def heard_behind_tls(server: socket.socket, context: ssl.SSLContext) -> tuple[bytes, bytes]:
    """What stands before the handshake, and behind it."""
    connection, _ = server.accept()
    with connection:
        connection.settimeout(PATIENCE)
        before = connection.recv(len(LOCAL), socket.MSG_WAITALL)
        with context.wrap_socket(connection, server_side=True) as secured:
            return before, secured.recv(5)


async def test_the_header_goes_before_the_handshake(server: socket.socket, tmp_path: Path) -> None:
    certificate = self_signed(tmp_path, "posthog.test")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.certificate, certificate.key)
    hearing = asyncio.ensure_future(asyncio.to_thread(heard_behind_tls, server, context))
    time = Time()
    keys = {"proxy_protocol": True, "ca_file": str(certificate.certificate), "server_name": "posthog.test"}
    it = dialler(time, address_of(server), tls=True, **keys)
    assert not it.plain
    stream = await it.stream(lambda _: stream_of(time), None, time.now + 3)
    stream.write(b"hello")
    assert await hearing == (LOCAL, b"hello")
    stream.abort()
    await until(lambda: stream.lost)
    await it.close()


async def test_another_try_passes_over_addresses(server: socket.socket) -> None:
    time = Time()
    good = SocketAddress(socket.AF_INET, server.getsockname())
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        bad = SocketAddress(socket.AF_INET, taken.getsockname())

        async def lookup(host: str, port: int) -> Sequence[SocketAddress]:
            return [bad, good]

        it = dialler(time, TcpAddress("posthog.internal", 80), lookup=lookup)
        sock, address = await it.bare(None, time.now + 3, 1)
        sock.close()
        assert address == good
        sock, address = await it.bare(None, time.now + 3, 2)
        sock.close()
        assert address == good  # the bad one was first, and refused
    await it.close()


async def test_a_failure_makes_the_answer_distrusted(tmp_path: Path) -> None:
    time = Time()
    asked = 0
    absent = SocketAddress(socket.AF_UNIX, str(tmp_path / "absent"))

    async def lookup(host: str, port: int) -> Sequence[SocketAddress]:
        nonlocal asked
        asked += 1
        return [absent]

    it = dialler(time, TcpAddress("posthog.internal", 80), lookup=lookup)
    for expected in (1, 2):
        with pytest.raises(Failure, match="no such file"):
            await it.bare(None, time.now + 3)
        with pytest.raises(Failure, match="no such file"):
            await it.stream(lambda _: stream_of(time), None, time.now + 3)
        assert asked == expected
        time.turn(2)
        await turns()
    await it.close()


async def test_a_unix_socket(tmp_path: Path) -> None:
    time = Time()
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        it = dialler(time, UnixAddress(path), proxy_protocol=True)
        assert it.plain
        sock, address = await it.bare(CLIENT, time.now + 3)
        with sock:
            expected = encode_header(CLIENT)
            assert await asyncio.to_thread(heard, listening, len(expected)) == expected
        assert str(address) == f"unix:{path}"
    await it.close()
