"""tcp mode: what goes through, what is logged and counted, and how it ends."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest

from proxy.accepting import Keeper
from proxy.rules.announcing import Announcement
from proxy.wire.proxyproto import encode_header
from tests.support.play import PATIENCE, Actor, Play
from tests.support.tls import self_signed

if TYPE_CHECKING:
    from pathlib import Path

    from proxy.message import IPAddress
    from proxy.net.doorway import Guest

pytestmark = pytest.mark.both_loops

HEADER = b"PROXY TCP4 203.0.113.7 10.0.0.1 56324 443\r\n"


def passing(*, senders: tuple[str, ...] = (), **config: Any) -> Play:
    listener = {"address": "127.0.0.1:0", "mode": "tcp", "proxy_protocol": list(senders)}
    return Play(**{"listen": [], "listeners": [listener], **config})


async def through(play: Play) -> tuple[Actor, Actor]:
    """A client and the upstream's end of its passage."""
    client = await play.client()
    return client, await play.upstream()


async def test_bytes_go_through_and_one_line_tells_of_it() -> None:
    async with passing() as play:
        client, upstream = await through(play)
        client.say(b"\x00\x01 anything")
        await upstream.hear(b"\x00\x01 anything")
        upstream.say(b"\xff" * 20)
        await client.hear(b"\xff" * 20)
        play.turn(2)
        client.writer.write_eof()
        assert await upstream.hear_end() == b""
        upstream.hang_up()
        assert await client.hear_end() == b""
        line = await play.line()
        assert (line["bytes_in"], line["bytes_out"]) == (11, 20)
        assert (line["method"], line["class"], line["upstream"]) == ("-", "tcp", "default")
        assert line["client_ip"] == line["peer"] == "127.0.0.1"
        assert line["upstream_addr"] == f"127.0.0.1:{play.port}"
        assert line["t_connect"] is not None
        assert line["t_total"] == 2
        assert (line["termination"], line["error"]) == ("--", "")
        counters = play.proxy.counters
        assert counters.tcp_connections == {("default", "--"): 1}
        assert (counters.tcp_bytes_in, counters.tcp_bytes_out) == (11, 20)
        assert counters.open_connections == 0
        assert counters.requests == {}


async def test_much_goes_through_the_kernel() -> None:
    data = os.urandom(3_000_000)
    async with passing() as play:
        client, upstream = await through(play)
        client.say(data)
        assert await upstream.hear_some(len(data)) == data
        client.hang_up()
        upstream.hang_up()
        await play.line()
        assert play.proxy.counters.tcp_bytes_spliced > 0
        assert play.proxy.counters.tcp_bytes_in == len(data)


async def test_it_goes_to_the_upstream_that_is_named() -> None:
    async with passing() as other:
        listener = {"address": "127.0.0.1:0", "mode": "tcp", "upstream": "redis"}
        upstreams = {"redis": {"url": f"http://127.0.0.1:{other.port}"}}
        async with passing(listeners=[listener], upstreams=upstreams) as play:
            client = await play.client()
            client.say(b"PING\r\n")
            upstream = await other.upstream()
            await upstream.hear(b"PING\r\n")
            client.hang_up()
            upstream.hang_up()
            assert (await play.line())["upstream"] == "redis"


async def test_the_header_comes_in_and_goes_out() -> None:
    async with passing() as other:
        upstreams = {"told": {"url": f"http://127.0.0.1:{other.port}", "proxy_protocol": True}}
        listener = {
            "address": "127.0.0.1:0",
            "mode": "tcp",
            "proxy_protocol": ["127.0.0.1"],
            "upstream": "told",
        }
        async with passing(listeners=[listener], upstreams=upstreams) as play:
            client = await play.client()
            client.say(HEADER + b"hello")
            upstream = await other.upstream()
            port = play.proxy.addresses[0].port  # type: ignore[union-attr]
            announced = Announcement(ip_address("203.0.113.7"), 56324, ip_address("127.0.0.1"), port)
            await upstream.hear(encode_header(announced) + b"hello")
            client.hang_up()
            upstream.hang_up()
            line = await play.line()
            assert line["client_ip"] == "203.0.113.7"
            assert line["client_ip_source"] == "proxy_protocol"
            assert (line["bytes_in"], line["bytes_out"]) == (5, 0)


def reset(actor: Actor) -> None:
    actor.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    actor.writer.transport.abort()


@pytest.mark.parametrize(("who", "end"), [("client", "CT"), ("upstream", "ST")])
async def test_a_reset_is_passed_on(who: str, end: str) -> None:
    async with passing() as play:
        client, upstream = await through(play)
        await play.until(lambda: all(p._bridge is not None for p in play.proxy._runtime.passages))
        reset(client if who == "client" else upstream)
        assert await (upstream if who == "client" else client).is_reset()
        assert (await play.line())["termination"] == end


async def test_an_upstream_that_refuses_ends_it_with_the_reason() -> None:
    async with passing(pool={"retries": 0}) as play:
        await play.stop_upstream()
        client = await play.client()
        client.say(b"hello")
        assert await client.hear_end() == b""
        line = await play.line()
        assert line["error"].startswith("connect_refused: ")
        assert line["termination"] == "SC"
        assert line["t_connect"] is None
        assert play.proxy.counters.failures == {("default", "connect_refused"): 1}


async def test_an_open_breaker_refuses_at_once() -> None:
    async with passing(pool={"retries": 0}, health={"consecutive_failures": 1}) as play:
        await play.stop_upstream()
        for count, reason in ((1, "connect_refused"), (2, "breaker_open")):
            client = await play.client()
            assert await client.hear_end() == b""
            line = await play.line(count)
            assert line["error"].startswith(reason)
        assert line["termination"] == "SQ"


async def test_silence_ends_it() -> None:
    async with passing(timeouts={"tcp_idle": 20}) as play:
        client, upstream = await through(play)
        await play.until(lambda: all(p._bridge is not None for p in play.proxy._runtime.passages))
        play.turn(19)
        client.say(b"x")
        await upstream.hear(b"x")
        play.turn(19)
        assert play.proxy._runtime.passages
        play.turn(2)
        assert await client.is_reset()
        assert await upstream.is_reset()
        assert (await play.line())["termination"] == "cT"


async def test_a_drain_lets_it_go_on_until_its_end() -> None:
    async with passing() as play:
        client, upstream = await through(play)
        (passage,) = play.proxy._runtime.passages
        assert "peer=127.0.0.1" in repr(passage)
        draining = asyncio.create_task(play.proxy.drain(25))
        await asyncio.sleep(0)
        play.turn(24)
        client.say(b"still here")
        await upstream.hear(b"still here")
        play.turn(2)
        assert await client.is_reset()
        await draining
        line = await play.line()
        assert line["error"].startswith("draining: ")
        assert line["bytes_in"] == 10


async def test_a_stop_before_it_has_begun_leaves_nothing() -> None:
    async with passing() as play:
        client = await play.client()
        await play.until(lambda: bool(play.proxy._runtime.passages))
        await play.proxy.close()
        assert await client.hear_end() == b""
        assert play.proxy.counters.open_connections == 0
        assert (await play.line())["error"].startswith("draining: ")


async def test_connections_are_counted_and_bounded_for_each_client() -> None:
    async with passing(limits={"connections_per_client": 1}) as play:
        client, upstream = await through(play)
        second = await play.client()
        assert await second.hear_end() == b""
        assert play.proxy.counters.rejected[("connections_per_client",)] == 1
        client.hang_up()
        upstream.hang_up()
        await play.until(lambda: not play.proxy._runtime.passages)
        assert play.proxy._runtime.clients == {}


async def test_what_should_not_happen_is_logged_and_closes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with passing() as play:

        def broken(*_: object, **__: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr("proxy.serve.passage.Bridge", broken)
        client = await play.client()
        assert await client.hear_end() == b""
        line = await play.line()
        assert line["termination"] == "IT"
        assert b"ZeroDivisionError" in play.errors


# With TLS on a side, streams are relayed instead of sockets.


async def secured(folder: Path, clients: list[Actor]) -> tuple[asyncio.Server, dict[str, Any]]:
    """An upstream that speaks TLS, and its configuration."""
    certificate = self_signed(folder, "posthog.test")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.certificate, certificate.key)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        clients.append(Actor(reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    keys = {"url": url, "ca_file": str(certificate.certificate), "server_name": "posthog.test"}
    return server, keys


async def test_an_upstream_that_speaks_tls(tmp_path: Path) -> None:
    ends: list[Actor] = []
    server, keys = await secured(tmp_path, ends)
    listener = {"address": "127.0.0.1:0", "mode": "tcp", "upstream": "secure"}
    async with server, passing(listeners=[listener], upstreams={"secure": keys}) as play:
        client = await play.client()
        client.say(b"hello")
        await play.until(lambda: bool(ends))
        await ends[0].hear(b"hello")
        ends[0].say(bytes(1_000_000))
        assert await client.hear_some(1_000_000) == bytes(1_000_000)
        await ends[0].close()
        assert await client.hear_end() == b""
        client.hang_up()
        line = await play.line()
        assert (line["bytes_in"], line["bytes_out"]) == (5, 1_000_000)
        assert line["upstream_addr"] == keys["url"].removeprefix("https://")


async def test_an_upstream_that_should_speak_tls_and_does_not(tmp_path: Path) -> None:
    async with passing() as other:
        listener = {"address": "127.0.0.1:0", "mode": "tcp", "upstream": "secure"}
        upstreams = {"secure": {"url": f"https://127.0.0.1:{other.port}"}}
        async with passing(listeners=[listener], upstreams=upstreams, pool={"retries": 0}) as play:
            client = await play.client()
            (await other.upstream()).say(b"no TLS here, sorry")
            assert await client.hear_end() == b""
            assert (await play.line())["error"].startswith("tls_failed: ")


class Admitted:
    """A guest whose TLS has ended here, as the acceptor gives it to a passage."""

    def __init__(self, sock: socket.socket, clock: float) -> None:
        self.socket = sock
        self.ip: IPAddress | None = ip_address("127.0.0.1")
        self.port = 1
        self.preface = None
        self.came = clock
        self.left = False

    def gone(self) -> None:
        self.left = True


def keeper_of(play: Play) -> Keeper:
    (listener,) = play.proxy._listeners
    return Keeper.of(play.proxy._acceptor, listener, play.proxy.config.listeners[0])


async def test_a_client_side_whose_tls_ends_here(tmp_path: Path) -> None:
    certificate = self_signed(tmp_path, "posthog.test")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.certificate, certificate.key)
    trusting = ssl.create_default_context(cafile=str(certificate.certificate))
    async with passing() as play:
        runtime = play.proxy._runtime
        keeper = keeper_of(play)
        with socket.create_server(("127.0.0.1", 0)) as listening:
            address = listening.getsockname()
            connecting = asyncio.create_task(
                asyncio.open_connection(*address, ssl=trusting, server_hostname="posthog.test")
            )
            loop = asyncio.get_running_loop()
            listening.setblocking(False)
            sock, _ = await loop.sock_accept(listening)
            guest = Admitted(sock, play.clock.now)
            real: Guest = guest  # type: ignore[assignment]
            async with asyncio.timeout(PATIENCE):
                await loop.connect_accepted_socket(lambda: keeper.protocol(real), sock, ssl=context)
            client = Actor(*await connecting)
        assert guest.left
        assert len(runtime.passages) == 1
        client.say(b"secret")
        upstream = await play.upstream()
        await upstream.hear(b"secret")
        upstream.say(b"so it is")
        await client.hear(b"so it is")
        await client.close()
        assert await upstream.hear_end() == b""
        line = await play.line()
        assert (line["bytes_in"], line["bytes_out"]) == (6, 8)
        assert not runtime.passages
