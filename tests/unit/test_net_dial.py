"""Connecting: several addresses, their order and pace, TLS, and the words for what went wrong."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import resource
import socket
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from proxy.config.schema import TcpAddress, UpstreamConfig, UpstreamUrl
from proxy.errors import Failure, Resend, Source
from proxy.net.dial import STAGGER, dial
from proxy.net.resolve import SocketAddress
from proxy.net.stream import Stream
from proxy.net.tls import client_context, server_name
from tests.support.play import PATIENCE
from tests.support.tls import self_signed
from tests.support.turning import Time, turns, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.support.tls import Certificate

pytestmark = pytest.mark.both_loops

NAME = "posthog.test"


class Named(Stream):
    """A stream that remembers the address it was made for."""

    def __init__(self, time: Time, address: SocketAddress) -> None:
        super().__init__(time, read_limit=1000, write_limit=1000)
        self.address = address
        self.made = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.made = True


class Dialler:
    """Calls ``dial`` and closes what it returned."""

    def __init__(self) -> None:
        self.time = Time()
        self.streams: list[Named] = []

    def make(self, address: SocketAddress) -> Named:
        self.streams.append(Named(self.time, address))
        return self.streams[-1]

    async def dial(
        self,
        *addresses: SocketAddress,
        seconds: float = 3.0,
        tls: ssl.SSLContext | None = None,
        name: str = "",
    ) -> Named:
        async with asyncio.timeout(PATIENCE):
            return await dial(
                addresses,
                factory=self.make,
                tls=tls,
                server_name=name,
                due=self.time.now + seconds,
                deadlines=self.time,
            )


@pytest.fixture
async def dialler(tidy_loop: None) -> AsyncIterator[Dialler]:
    made = Dialler()
    yield made
    for stream in made.streams:
        if stream.made:
            stream.abort()
            await until(lambda stream=stream: stream.lost)


@pytest.fixture
def refusing() -> Iterator[SocketAddress]:
    """An address whose port is taken, but where nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield SocketAddress(socket.AF_INET, sock.getsockname())


@pytest.fixture
def silent() -> Iterator[SocketAddress]:
    """An address that answers no connection attempt: its queue is full, so the kernel drops them."""
    with socket.socket() as server, socket.socket() as client:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        client.connect(server.getsockname())
        yield SocketAddress(socket.AF_INET, server.getsockname())


@pytest.fixture
def listening() -> Iterator[SocketAddress]:
    """An address that accepts."""
    with socket.create_server(("127.0.0.2", 0)) as server:
        yield SocketAddress(socket.AF_INET, server.getsockname())


class TestOneAddress:
    async def test_connects(self, dialler: Dialler, listening: SocketAddress) -> None:
        stream = await dialler.dial(listening)
        assert stream.address == listening
        assert stream.transport.get_extra_info("peername") == listening.sockaddr
        assert len(dialler.time) == 0

    async def test_its_socket_options(self, dialler: Dialler, listening: SocketAddress) -> None:
        sock = (await dialler.dial(listening)).transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1

    async def test_ipv6(self, dialler: Dialler) -> None:
        with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
            address = SocketAddress(socket.AF_INET6, server.getsockname())
            assert (await dialler.dial(address)).address == address

    async def test_a_unix_socket(self, dialler: Dialler, tmp_path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(tmp_path / "s"))
            server.listen()
            stream = await dialler.dial(SocketAddress(socket.AF_UNIX, str(tmp_path / "s")))
            stream.write(b"hello")
            accepted, _ = server.accept()
            with accepted:
                assert accepted.recv(10) == b"hello"

    async def test_refused(self, dialler: Dialler, refusing: SocketAddress) -> None:
        with pytest.raises(Failure, match=f"{refusing}: connection refused") as caught:
            await dialler.dial(refusing)
        failure = caught.value
        assert (failure.source, failure.kind, failure.status) == (Source.UPSTREAM, "connect_refused", 502)
        assert failure.resend is Resend.ANY
        assert len(dialler.time) == 0

    async def test_no_answer_in_time(self, dialler: Dialler, silent: SocketAddress) -> None:
        dialling = asyncio.ensure_future(dialler.dial(silent))
        await turns()
        dialler.time.turn(2.9)
        await turns()
        assert not dialling.done()
        dialler.time.turn(0.1)
        with pytest.raises(Failure, match=f"{silent}: not connected in time") as caught:
            await dialling
        assert (caught.value.kind, caught.value.status) == ("connect_timeout", 504)

    async def test_no_time_left_at_all(self, dialler: Dialler, listening: SocketAddress) -> None:
        with pytest.raises(Failure, match=f"{listening}: not tried") as caught:
            await dialler.dial(listening, seconds=0.0)
        assert caught.value.kind == "connect_timeout"

    async def test_unreachable(self, dialler: Dialler) -> None:
        broadcast = SocketAddress(socket.AF_INET, ("255.255.255.255", 80))
        with pytest.raises(Failure, match=r"255\.255\.255\.255:80: ") as caught:
            await dialler.dial(broadcast)
        assert (caught.value.kind, caught.value.status) == ("connect_failed", 502)

    async def test_no_such_unix_socket(self, dialler: Dialler, tmp_path: Path) -> None:
        with pytest.raises(Failure, match=f"unix:{tmp_path}/s: no such file") as caught:
            await dialler.dial(SocketAddress(socket.AF_UNIX, str(tmp_path / "s")))
        assert caught.value.kind == "connect_refused"

    async def test_a_unix_socket_whose_queue_is_full(self, dialler: Dialler, tmp_path: Path) -> None:
        path = str(tmp_path / "s")
        with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as first:
            server.bind(path)
            server.listen(0)
            first.connect(path)
            with pytest.raises(Failure, match="its queue is full") as caught:
                await dialler.dial(SocketAddress(socket.AF_UNIX, path))
        assert (caught.value.kind, caught.value.status) == ("connect_refused", 502)

    async def test_out_of_descriptors_is_nobodys_fault_but_ours(
        self, dialler: Dialler, listening: SocketAddress
    ) -> None:
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        highest = max(map(int, os.listdir("/proc/self/fd")))
        fillers = [os.open("/dev/null", os.O_RDONLY) for _ in range(highest)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(fillers) + 1, limits[1]))
        try:
            with pytest.raises(Failure, match="too many open files") as caught:
                await dialler.dial(listening)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            for filler in fillers:
                os.close(filler)
        assert (caught.value.source, caught.value.status) == (Source.PROXY, 503)

    async def test_cancelled(self, dialler: Dialler, silent: SocketAddress) -> None:
        dialling = asyncio.ensure_future(dialler.dial(silent))
        await turns()
        dialling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dialling
        assert len(dialler.time) == 0

    async def test_a_fault_of_ours_is_not_dressed_up(
        self, dialler: Dialler, listening: SocketAddress
    ) -> None:
        def broken(address: SocketAddress) -> Named:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await dial([listening], factory=broken, tls=None, server_name="", due=1e9, deadlines=dialler.time)


class TestSeveralAddresses:
    async def test_a_refused_one_costs_no_time(
        self, dialler: Dialler, refusing: SocketAddress, listening: SocketAddress
    ) -> None:
        assert (await dialler.dial(refusing, listening)).address == listening

    async def test_a_silent_one_costs_a_quarter_of_a_second(
        self, dialler: Dialler, silent: SocketAddress, listening: SocketAddress
    ) -> None:
        dialling = asyncio.ensure_future(dialler.dial(silent, listening))
        await turns()
        dialler.time.turn(STAGGER - 0.01)
        await turns()
        assert not dialling.done()
        dialler.time.turn(0.01)
        assert (await dialling).address == listening

    async def test_the_first_that_answers_is_enough(
        self, dialler: Dialler, listening: SocketAddress, refusing: SocketAddress
    ) -> None:
        assert (await dialler.dial(listening, refusing)).address == listening
        assert len(dialler.streams) == 1

    async def test_all_are_tried_and_named(
        self, dialler: Dialler, refusing: SocketAddress, silent: SocketAddress, tmp_path: Path
    ) -> None:
        absent = SocketAddress(socket.AF_UNIX, str(tmp_path / "s"))
        dialling = asyncio.ensure_future(dialler.dial(refusing, absent, silent))
        await until(lambda: dialler.time.next_due == dialler.time.now + 3.0)  # nothing left to start
        dialler.time.turn(3.0)
        with pytest.raises(Failure, match=r"refused; .*no such file.*; .*not connected in time") as caught:
            await dialling
        assert caught.value.kind == "connect_timeout"

    async def test_the_first_to_fail_gives_the_kind(
        self, dialler: Dialler, refusing: SocketAddress, tmp_path: Path
    ) -> None:
        unreachable = SocketAddress(socket.AF_INET, ("255.255.255.255", 80))
        with pytest.raises(Failure, match="; ") as caught:
            await dialler.dial(unreachable, refusing)
        assert caught.value.kind == "connect_failed"

    async def test_a_second_one_that_connects_in_the_same_turn_is_closed(
        self, dialler: Dialler, silent: SocketAddress
    ) -> None:
        with socket.create_server(("127.0.0.2", 0)) as one, socket.create_server(("127.0.0.3", 0)) as two:
            addresses = [SocketAddress(socket.AF_INET, server.getsockname()) for server in (one, two)]
            dialling = asyncio.ensure_future(dialler.dial(silent, *addresses))
            await turns()
            # Both start in one turn of the loop, and so they end.
            dialler.time.turn(STAGGER)
            await asyncio.sleep(0)
            dialler.time.turn(STAGGER)
            stream = await dialling
            assert stream.address in addresses
            others = [other for other in dialler.streams if other is not stream]
            await until(lambda: all(other.lost for other in others if other.made))


@asynccontextmanager
async def tls_server(certificate: Certificate) -> AsyncIterator[SocketAddress]:
    """A server that shakes hands and waits for the client to leave."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.transport.abort()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.certificate, certificate.key)
    context.set_alpn_protocols(["h2", "http/1.1"])
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    yield SocketAddress(socket.AF_INET, server.sockets[0].getsockname())
    server.close()
    await server.wait_closed()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return self_signed(tmp_path_factory.mktemp("tls"), NAME)


def context_of(certificate: Certificate | None = None, **keys: Any) -> ssl.SSLContext:
    config = UpstreamConfig(UpstreamUrl(TcpAddress(NAME, 443), tls=True))
    ca_file = str(certificate.certificate) if certificate is not None else ""
    return client_context(dataclasses.replace(config, ca_file=ca_file, **keys))


@pytest.mark.needs("openssl")
class TestTls:
    async def test_a_known_authority_and_the_right_name(
        self, dialler: Dialler, certificate: Certificate
    ) -> None:
        async with tls_server(certificate) as address:
            stream = await dialler.dial(address, tls=context_of(certificate), name=NAME)
            assert stream.transport.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
            stream.abort()

    async def test_an_ip_address_as_the_name(self, dialler: Dialler, certificate: Certificate) -> None:
        async with tls_server(certificate) as address:
            url = UpstreamUrl(TcpAddress("127.0.0.1", 443), tls=True)
            name = server_name(UpstreamConfig(url))
            (await dialler.dial(address, tls=context_of(certificate), name=name)).abort()

    async def test_an_unknown_authority(self, dialler: Dialler, certificate: Certificate) -> None:
        async with tls_server(certificate) as address:
            with pytest.raises(Failure, match="certificate was not accepted: self-signed") as caught:
                await dialler.dial(address, tls=context_of(), name=NAME)
        failure = caught.value
        assert (failure.source, failure.kind, failure.status) == (Source.UPSTREAM, "tls_failed", 502)
        assert str(address) in failure.detail

    async def test_the_wrong_name(self, dialler: Dialler, certificate: Certificate) -> None:
        async with tls_server(certificate) as address:
            with pytest.raises(Failure, match=r"not accepted: .*not valid for 'other\.test'"):
                await dialler.dial(address, tls=context_of(certificate), name="other.test")

    async def test_insecure_takes_anything(self, dialler: Dialler, certificate: Certificate) -> None:
        async with tls_server(certificate) as address:
            (await dialler.dial(address, tls=context_of(insecure=True), name="other.test")).abort()

    @pytest.mark.parametrize(
        ("reply", "reason"),
        [
            (b"HTTP/1.1 400 Bad Request\r\n\r\n", "wrong version number"),
            (b"\x15\x03\x01\x00\x02\x02\x46", "tlsv1 alert protocol version"),
        ],
    )
    async def test_a_server_that_speaks_no_tls_or_too_old_one(
        self, dialler: Dialler, certificate: Certificate, reply: bytes, reason: str
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            address = SocketAddress(socket.AF_INET, server.getsockname())
            dialling = asyncio.ensure_future(dialler.dial(address, tls=context_of(certificate), name=NAME))
            server.setblocking(False)
            accepted, _ = await asyncio.get_running_loop().sock_accept(server)
            with accepted:
                accepted.send(reply)
                with pytest.raises(Failure, match=f"no TLS: {reason}") as caught:
                    await dialling
        assert caught.value.kind == "tls_failed"

    async def test_a_server_that_hangs_up(self, dialler: Dialler, certificate: Certificate) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            address = SocketAddress(socket.AF_INET, server.getsockname())
            dialling = asyncio.ensure_future(dialler.dial(address, tls=context_of(certificate), name=NAME))
            server.setblocking(False)
            accepted, _ = await asyncio.get_running_loop().sock_accept(server)
            await asyncio.get_running_loop().sock_recv(accepted, 10_000)
            accepted.close()
            with pytest.raises(Failure, match="closed the connection during the TLS handshake") as caught:
                await dialling
        assert caught.value.kind == "tls_failed"

    async def test_a_handshake_that_takes_too_long(
        self, dialler: Dialler, certificate: Certificate, listening: SocketAddress
    ) -> None:
        dialling = asyncio.ensure_future(dialler.dial(listening, tls=context_of(certificate), name=NAME))
        await turns(50)
        dialler.time.turn(3.0)
        with pytest.raises(Failure, match="not connected in time"):
            await dialling

    async def test_the_next_address_after_a_bad_certificate(
        self, dialler: Dialler, certificate: Certificate, tmp_path: Path
    ) -> None:
        other = self_signed(tmp_path, NAME)
        async with tls_server(other) as bad, tls_server(certificate) as good:
            stream = await dialler.dial(bad, good, tls=context_of(certificate), name=NAME)
            assert stream.address == good
            stream.abort()
