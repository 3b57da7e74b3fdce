"""What a listener's connections become, and the bound on clients where a doorway accepts."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest

from proxy.accepting import Keeper
from proxy.config.load import config_from
from proxy.config.schema import TcpAddress
from proxy.net.listen import bind
from proxy.rules.announcing import Announcement
from proxy.serve.connection import Connection
from proxy.server import Proxy
from proxy.wire.proxyproto import LOCAL, encode_header
from tests.support.play import Actor, Play
from tests.support.turning import turns
from tests.unit.test_serve_exchange import EVENT, GET, OK

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.both_loops

HEADER = b"PROXY TCP4 203.0.113.7 10.0.0.1 56324 443\r\n"


def before(**config: Any) -> Play:
    """A play on a listener on which this machine must begin with a PROXY header."""
    listener = {"address": "127.0.0.1:0", "proxy_protocol": ["127.0.0.0/8"]}
    return Play(**{"listen": [], "listeners": [listener], **config})


async def served(play: Play, header: bytes, request: bytes = GET) -> bytes:
    """Send a request behind a header; return what the upstream got."""
    client = await play.client()
    client.say(header + request)
    upstream = await play.upstream()
    head = await upstream.hear_head()
    upstream.say(OK)
    await client.hear(OK)
    return head


async def test_the_header_names_the_client() -> None:
    async with before() as play:
        head = await served(play, HEADER)
        assert b"X-Forwarded-For: 203.0.113.7\r\n" in head
        line = await play.line()
        assert line["client_ip"] == "203.0.113.7"
        assert line["client_ip_source"] == "proxy_protocol"
        assert line["peer"] == "127.0.0.1"
        (connection,) = play.proxy.connections
        assert connection.peer.preface is not None
        assert connection.peer.preface.source_port == 56324


async def test_the_walk_along_the_chain_begins_at_it() -> None:
    request = GET.replace(b"\r\n\r\n", b"\r\nX-Forwarded-For: 198.51.100.1\r\n\r\n")
    async with before(trust={"proxies": ["203.0.113.0/24"]}) as play:
        assert b"X-Forwarded-For: 198.51.100.1\r\n" in await served(play, HEADER, request)
    async with before(trust={"proxies": ["127.0.0.1"]}) as play:
        assert b"X-Forwarded-For: 203.0.113.7\r\n" in await served(play, HEADER, request)


async def test_a_header_that_names_nobody_leaves_the_peer() -> None:
    async with before() as play:
        assert b"X-Forwarded-For: 127.0.0.1\r\n" in await served(play, b"PROXY UNKNOWN\r\n")


async def test_a_listed_peer_without_a_header_is_closed_counted_and_logged() -> None:
    async with before() as play:
        client = await play.client()
        client.say(GET)
        assert await client.hear_end() == b""
        line = await play.line()
        assert line["error"] == "proxy_protocol: a PROXY protocol header was expected"
        assert line["method"] == "-"
        assert line["status"] == 0
        assert play.proxy.counters.rejected[("proxy_protocol",)] == 1


async def test_an_unlisted_peer_is_a_client_like_any_other() -> None:
    listener = {"address": "127.0.0.1:0", "proxy_protocol": ["192.0.2.0/24"]}
    async with before(listeners=[listener]) as play:
        assert b"X-Forwarded-For: 127.0.0.1\r\n" in await served(play, b"")


@pytest.mark.parametrize("header", [HEADER, LOCAL])
async def test_a_header_from_an_unlisted_peer_is_no_request(header: bytes) -> None:
    async with Play() as play:
        client = await play.client()
        client.say(header + GET)
        assert (await client.hear_answer())[0] == 400
        line = await play.line()
        assert "listeners[].proxy_protocol does not list its sender" in line["error"]
        assert line["client_ip"] == "127.0.0.1"


async def test_a_unix_socket_with_a_list_expects_it_of_everybody(tmp_path: Path) -> None:
    listener = {"address": f"unix:{tmp_path}/proxy", "proxy_protocol": ["192.0.2.0/24"]}
    async with before(listeners=[listener]) as play:
        reader, writer = await asyncio.open_unix_connection(f"{tmp_path}/proxy")
        writer.write(HEADER + GET)
        upstream = await play.upstream()
        assert b"X-Forwarded-For: 203.0.113.7\r\n" in await upstream.hear_head()
        upstream.say(OK)
        assert await reader.readexactly(len(OK)) == OK
        writer.close()
        await writer.wait_closed()


async def test_connections_are_counted_against_the_client_that_is_named() -> None:
    async with before(limits={"connections_per_client": 1}) as play:
        first, second, other = [await play.client() for _ in range(3)]
        first.say(HEADER)
        await play.until(lambda: len(play.proxy.connections) == 1)
        second.say(HEADER)
        assert await second.hear_end() == b""
        assert play.lines() == []
        other.say(HEADER.replace(b"113.7", b"113.8"))
        await play.until(lambda: len(play.proxy.connections) == 2)
        runtime = play.proxy._runtime
        assert set(runtime.clients) == {bytes([203, 0, 113, 7]), bytes([203, 0, 113, 8])}
        assert play.proxy.counters.rejected[("connections_per_client",)] == 1
        first.hang_up()
        other.hang_up()
        await play.until(lambda: not play.proxy.connections)
        assert runtime.clients == {}


async def test_guests_count_as_connections_and_accepting_begins_again_when_one_leaves() -> None:
    async with before(limits={"connections": 2}) as play:
        guests = [await play.client() for _ in range(2)]
        await play.until(lambda: len(play.proxy._runtime.guests) == 2)
        waiting = await play.client()
        waiting.say(HEADER + GET)
        await play.until(lambda: play.proxy.counters.rejected[("accept_paused",)] == 1)
        guests[0].hang_up()
        upstream = await play.upstream()
        await upstream.hear_head()
        upstream.say(OK)
        await waiting.hear(OK)


async def test_at_the_limit_an_idle_connection_gives_way_to_a_guest() -> None:
    async with before(limits={"connections": 2}) as play:
        idle = await play.client()
        idle.say(HEADER)
        await play.until(lambda: len(play.proxy.connections) == 1)
        await play.client()
        assert await idle.hear_end() == b""
        assert play.proxy.counters.rejected[("idle_closed_at_limit",)] == 1


async def test_a_late_header_is_found_by_the_sweep() -> None:
    async with before(timeouts={"proxy_protocol": 3}) as play:
        client = await play.client()
        await play.until(lambda: len(play.proxy._runtime.guests) == 1)
        play.turn(2.9)
        assert play.proxy._runtime.guests
        play.turn(0.2)
        assert await client.hear_end() == b""
        assert (await play.line())["error"].endswith("did not come in time")


async def test_a_drain_closes_the_door_and_turns_guests_away() -> None:
    async with before() as play:
        client = await play.client()
        await play.until(lambda: len(play.proxy._runtime.guests) == 1)
        draining = asyncio.create_task(play.proxy.drain())
        await turns()
        play.turn(0.9)
        assert play.proxy._runtime.guests
        play.turn(0.1)
        assert await client.hear_end() == b""
        await draining
        with pytest.raises(OSError):
            await play.client()


async def test_a_guest_that_is_turned_away_in_the_moment_when_it_becomes_a_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = Connection.connection_made

    def turned_away(connection: Connection, transport: asyncio.BaseTransport) -> None:
        guest = connection._guest
        assert guest is not None
        guest.abort()
        made(connection, transport)

    monkeypatch.setattr(Connection, "connection_made", turned_away)
    async with before() as play:
        client = await play.client()
        client.say(HEADER + GET)
        assert await client.hear_end() == b""
        await play.until(lambda: not play.proxy.connections)


async def test_a_handover_lets_a_guest_become_a_connection() -> None:
    async with before() as play:
        client = await play.client()
        await play.until(lambda: len(play.proxy._runtime.guests) == 1)
        (listener,) = play.proxy._listeners
        draining = asyncio.create_task(play.proxy.drain(handover=True))
        await asyncio.sleep(0)
        client.say(HEADER + GET)
        upstream = await play.upstream()
        await upstream.hear_head()
        upstream.say(OK)
        assert b"Connection: close" in await client.hear_head()
        await draining
        listener.close()


async def test_listening_moves_from_socket_to_socket() -> None:
    async with before() as play:
        listeners = list(play.proxy._listeners)
        waiting = await play.client()
        await play.until(lambda: bool(play.proxy._runtime.guests))
        await play.proxy.listen_on(())
        await play.proxy.listen_on(listeners)
        later = await play.client()
        waiting.say(HEADER + GET)
        upstream = await play.upstream()
        await upstream.hear_head()
        upstream.say(OK)
        await waiting.hear(OK)
        later.say(b"GET / HTTP/1.1\r\n\r\n")
        assert await later.hear_end() == b""


async def test_without_descriptors_it_says_so() -> None:
    async with before() as play:
        acceptor = play.proxy._acceptor
        (listener,) = play.proxy._listeners
        keeper = Keeper.of(acceptor, listener, play.proxy.config.listeners[0])
        keeper.accept_failed(OSError(24, "Too many open files"))
        play.turn(0)
        assert b"Too many open files" in play.errors
        assert play.proxy.counters.rejected[("accept_failed",)] == 1
        assert repr(acceptor) == "<Acceptor ACCEPTING listeners=1>"


async def test_sockets_without_a_configured_listener_speak_http() -> None:
    config = config_from({"listen": ["127.0.0.1:0"], "upstream": "http://127.0.0.1:1"}).config
    listeners = [
        listener for _ in range(2) for listener in bind(TcpAddress("127.0.0.1", 0), backlog=1, entry=7)
    ]
    async with Proxy(config, listeners=listeners) as proxy:
        for address in proxy.addresses:
            assert isinstance(address, TcpAddress)
            reader, writer = await asyncio.open_connection(address.host, address.port)
            writer.write(b"nonsense\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 400")
            writer.close()
            await writer.wait_closed()


@pytest.mark.parametrize("fast", [True, False])
async def test_what_came_in_goes_out_to_an_upstream_that_wants_it(fast: bool) -> None:
    async with before(fast_path=fast) as play:
        upstreams = {"default": {"url": f"http://127.0.0.1:{play.port}", "proxy_protocol": True}}
        config = {
            "upstreams": upstreams,
            "listeners": [{"address": "127.0.0.1:0", "proxy_protocol": ["127.0.0.1"]}],
        }
        async with Proxy(config_from({"listen": [], "fast_path": fast, **config}).config) as proxy:
            address = proxy.addresses[0]
            assert isinstance(address, TcpAddress)
            client = Actor(*await asyncio.open_connection(address.host, address.port))
            client.say(HEADER)
            announced = Announcement(ip_address("203.0.113.7"), 56324, ip_address("127.0.0.1"), address.port)
            for _ in range(2):
                client.say(EVENT)
                upstream = await play.upstream()
                await upstream.hear(encode_header(announced))
                head = await upstream.hear_head()
                assert b"X-Forwarded-For: 203.0.113.7\r\n" in head
                upstream.say(OK)
                await client.hear(OK)
            await client.close()
