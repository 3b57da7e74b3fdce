"""The pool before a real nginx: connections kept, closed under us, bounded; TLS; health probes."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import socket
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from proxy.clock import NEVER
from proxy.config.schema import Config, PoolConfig
from proxy.errors import Failure
from proxy.message import NO_BODY, RequestHead
from proxy.net.http1 import Http1Exchange
from proxy.net.pool import UpstreamPool
from proxy.net.resolve import Lookup, SocketAddress, system_lookup
from tests.integration.conftest import SITE
from tests.support import servers
from tests.support.play import HandClock
from tests.support.pooling import ANSWERS, upstream_at
from tests.support.turning import Time, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from proxy.net.lease import Lease
    from tests.support.servers import Server
    from tests.support.tls import Certificate

ONCE = HandClock().now + 0.1
"""A moment that leaves no time for another try."""

pytestmark = [pytest.mark.needs("nginx", "openssl"), pytest.mark.both_loops]


@contextmanager
def nginx(
    folder: Path, certificate: Certificate, *, idle: int = 60, requests: int = 1000
) -> Iterator[Server]:
    values = {"certificate": certificate.certificate, "key": certificate.key}
    with servers.nginx("nginx_pool.conf", folder, idle=idle, requests=requests, **values) as server:
        yield server


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, certificate: Certificate) -> Iterator[Server]:
    """An nginx that keeps connections."""
    with nginx(tmp_path_factory.mktemp("nginx"), certificate) as server:
        yield server


@asynccontextmanager
async def pooling(
    port: int,
    host: str = "127.0.0.1",
    *,
    tls: bool = False,
    connections: int = 512,
    time: Time | None = None,
    lookup: Lookup = system_lookup,
    **keys: Any,
) -> AsyncIterator[UpstreamPool]:
    config = dataclasses.replace(Config(), pool=PoolConfig(connections=connections))
    pool = UpstreamPool(
        "app",
        upstream_at(port, host, tls=tls, idle_timeout=60.0, **keys),
        config,
        time if time is not None else Time(),
        lambda stream: Http1Exchange(stream, ANSWERS),
        rng=random.Random(5),
        lookup=lookup,
    )
    try:
        yield pool
    finally:
        pool.close()
        await pool.wait_closed()


async def ask(pool: UpstreamPool, path: bytes = b"/", host: bytes = SITE.encode()) -> tuple[Lease, str]:
    """Send one GET through the pool; return its released lease and the answer's body."""
    lease = await pool.acquire(due=NEVER, connect_timeout=3.0)
    exchange = lease.exchange
    head = RequestHead(b"GET", path, 1, ((b"Host", host),), host, NO_BODY)
    exchange.send_head(b"GET %s HTTP/1.1\r\nHost: %s\r\n\r\n" % (path, host), head, b"", True)
    answer = await exchange.read_head(NEVER, _never_late)
    body = b""
    while data := await exchange.read_body(NEVER, _never_late):
        body += data
    lease.report(answer.status, None)
    lease.release(exchange.reusable)
    return lease, body.decode()


def _never_late() -> Failure:
    raise AssertionError


class TestKeptConnections:
    async def test_one_connection_carries_many_requests(self, plain: Server) -> None:
        async with pooling(plain.ports["port"]) as pool:
            answers = [await ask(pool) for _ in range(5)]
            connections, counts = zip(*(body.split() for _, body in answers), strict=True)
            assert len(set(connections)) == 1
            assert counts == ("1", "2", "3", "4", "5")
            assert [lease.reused for lease, _ in answers] == [False, True, True, True, True]

    async def test_one_that_nginx_closes_when_idle_is_not_used_again(
        self, tmp_path: Path, certificate: Certificate
    ) -> None:
        with nginx(tmp_path, certificate, idle=1) as server:
            async with pooling(server.ports["port"]) as pool:
                _, first = await ask(pool)
                assert pool.state.idle == 1
                await until(lambda: pool.state.idle == 0)
                lease, second = await ask(pool)
                assert not lease.reused
                assert first.split()[0] != second.split()[0]

    async def test_one_whose_end_nginx_announces_is_not_used_again(
        self, tmp_path: Path, certificate: Certificate
    ) -> None:
        with nginx(tmp_path, certificate, requests=2) as server:
            async with pooling(server.ports["port"]) as pool:
                counts = [(await ask(pool))[1].split()[1] for _ in range(5)]
                assert counts == ["1", "2", "1", "2", "1"]

    async def test_a_burst_shares_few_connections(self, plain: Server) -> None:
        async with pooling(plain.ports["port"], connections=4) as pool:
            answers = await asyncio.gather(*(ask(pool) for _ in range(200)))
            assert len({body.split()[0] for _, body in answers}) <= 4
            assert len(answers) == 200
            assert pool.state.idle <= 4

    async def test_a_restart_is_survived(self, tmp_path: Path, certificate: Certificate) -> None:
        with nginx(tmp_path, certificate) as server:
            async with pooling(server.ports["port"]) as pool:
                await ask(pool)
                server.process.stop()
                await until(lambda: pool.state.idle == 0)
                with pytest.raises(Failure, match="connection refused"):
                    await pool.acquire(due=ONCE, connect_timeout=3.0)


class TestAddresses:
    async def test_the_second_address_where_the_first_one_refuses(self, plain: Server) -> None:
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.2", 0))
            addresses = [nobody.getsockname(), ("127.0.0.1", plain.ports["port"])]

            async def lookup(host: str, port: int) -> list[SocketAddress]:
                assert host == "posthog.internal"
                return [SocketAddress(socket.AF_INET, address) for address in addresses]

            async with pooling(plain.ports["port"], "posthog.internal", lookup=lookup) as pool:
                lease, _ = await ask(pool)
                assert lease.address == plain.authority
                assert lease.retries == 0


class TestTls:
    async def test_verified_against_our_own_file(self, plain: Server, certificate: Certificate) -> None:
        keys = {"ca_file": str(certificate.certificate), "server_name": SITE}
        async with pooling(plain.ports["tls_port"], tls=True, **keys) as pool:
            answers = [await ask(pool) for _ in range(3)]
            assert {body for _, body in answers} == {f"{SITE} TLSv1.3"}
            assert [lease.reused for lease, _ in answers] == [False, True, True]

    async def test_not_against_the_systems(self, plain: Server) -> None:
        async with pooling(plain.ports["tls_port"], tls=True, server_name=SITE) as pool:
            with pytest.raises(Failure, match="certificate was not accepted: self-signed") as caught:
                await pool.acquire(due=ONCE, connect_timeout=3.0)
            assert (caught.value.kind, caught.value.status) == ("tls_failed", 502)

    async def test_an_idle_connection_that_nginx_closes(
        self, tmp_path: Path, certificate: Certificate, caplog: pytest.LogCaptureFixture
    ) -> None:
        keys = {"ca_file": str(certificate.certificate), "server_name": SITE}
        with nginx(tmp_path, certificate, idle=1) as server:
            async with pooling(server.ports["tls_port"], tls=True, **keys) as pool:
                await ask(pool)
                await until(lambda: pool.state.idle == 0)
                lease, _ = await ask(pool)
                assert not lease.reused
        assert not caplog.records  # asyncio warns of a half-open TLS connection, which it cannot have


class TestHealth:
    @pytest.mark.parametrize(
        ("path", "reason"),
        [
            ("/_health", ""),
            ("/moved", "misrouted: the health path redirects (status 301) to https://127.0.0.1/login"),
        ],
    )
    async def test_probes(self, plain: Server, path: str, reason: str) -> None:
        time = Time()
        async with pooling(plain.ports["port"], health_path=path, time=time) as pool:
            pool.start()
            for _ in range(3):
                await until(lambda: 3.0 < time.next_due - time.now < 7.0)  # it sleeps
                time.turn(6.0)
            await until(lambda: 3.0 < time.next_due - time.now < 7.0)
            assert (pool.state.up, pool.state.reason) == (not reason, reason)
