"""Starting, draining and stopping a Proxy; the bound on its connections."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import uvloop

import proxy
from proxy.config.load import config_from
from proxy.config.schema import LogLevel, TcpAddress
from proxy.net.listen import bind
from proxy.observe.metrics import Counters
from tests.support.play import PATIENCE, Actor, Play
from tests.support.turning import turns, until
from tests.unit.test_serve_exchange import EVENT, GET, OK, handshake

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from proxy.net.listen import Listener


async def test_addresses_are_the_real_ones_and_several_proxies_live_in_one_loop() -> None:
    config = config_from({"listen": ["127.0.0.1:0", "127.0.0.1:0"], "upstream": "http://127.0.0.1:1"}).config
    async with proxy.Proxy(config) as one, proxy.Proxy(config) as two:
        ports = [address.port for p in (one, two) for address in p.addresses]  # type: ignore[union-attr]
        assert len(set(ports)) == 4
        assert 0 not in ports
        assert repr(one) == "<Proxy SERVING connections=0>"
    assert repr(one) == "<Proxy DRAINING connections=0>"


async def test_an_address_in_use_is_an_error_that_names_it_and_leaves_nothing_bound() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with socket.create_server(("127.0.0.1", 0)) as spare:
            free = spare.getsockname()[1]
        listen = [f"127.0.0.1:{free}", f"127.0.0.1:{port}"]
        config = config_from({"listen": listen, "upstream": "http://127.0.0.1:1"}).config
        with pytest.raises(OSError, match=f"127.0.0.1:{port}"):
            await proxy.Proxy(config).start()
        with socket.create_server(("127.0.0.1", free)):
            pass


async def test_a_drain_lets_exchanges_end_and_closes_idle_connections_at_once() -> None:
    async with Play() as play:
        idle, busy = await play.client(), await play.client()
        busy.say(EVENT)
        upstream = await play.upstream()
        await upstream.hear_head()
        await play.until(lambda: len(play.proxy.connections) == 2)
        play.clock.now += 1
        draining = asyncio.create_task(play.proxy.drain())
        assert await idle.hear_end() == b""
        with pytest.raises(OSError):
            await play.client()
        assert not draining.done()
        upstream.say(OK)
        head = await busy.hear_head()
        assert b"Connection: close\r\n" in head
        await draining
        assert not play.proxy.connections


async def test_a_drain_waits_a_second_for_the_first_request_of_a_new_connection() -> None:
    async with Play() as play:
        asking, silent = await play.client(), await play.client()
        await play.until(lambda: len(play.proxy.connections) == 2)
        draining = asyncio.create_task(play.proxy.drain())
        await turns()
        asking.say(GET)
        upstream = await play.upstream()
        await upstream.hear_head()
        upstream.say(OK)
        assert b"Connection: close\r\n" in (await asking.hear_answer())[1]
        assert await asking.hear_end() == b""
        assert not draining.done()
        play.turn(1)
        assert await silent.hear_end() == b""
        await draining


@pytest.mark.both_loops
def test_what_was_accepted_as_the_drain_began_is_served() -> None:
    """asyncio's own loop cannot do it: it drops what it has accepted when its server closes."""

    async def scene() -> bytes:
        async with Play() as play:
            address = play.proxy.addresses[0]
            assert isinstance(address, TcpAddress)
            with socket.create_connection((address.host, address.port), timeout=PATIENCE) as client:
                client.sendall(GET)
                # It is accepted before the drain's first turn, but a connection only after it.
                draining = asyncio.create_task(play.proxy.drain())
                upstream = await play.upstream()
                await upstream.hear_head()
                upstream.say(OK)
                await draining
                return client.recv(4096)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(scene()).startswith(b"HTTP/1.1 200 OK")


async def test_a_drain_ends_streams_first_and_cuts_the_rest_at_its_end() -> None:
    async with Play() as play:
        request, answer = handshake()
        tunnel, slow = await play.client(), await play.client()
        tunnel.say(request)
        upstream = await play.upstream()
        await upstream.hear_head()
        upstream.say(answer)
        await tunnel.hear_head()
        slow.say(GET)
        other = await play.upstream()
        await other.hear_head()
        draining = asyncio.create_task(play.proxy.drain())
        await turns()
        play.turn(4)
        assert len(play.proxy.connections) == 2
        play.turn(2)
        await play.until(lambda: len(play.proxy.connections) == 1)
        play.turn(20)
        status, _, body = await slow.hear_answer()
        assert status == 503
        assert b"draining" in body
        await play.until(lambda: not play.proxy.connections)
        await draining


async def test_drain_delay_goes_on_accepting_and_says_close() -> None:
    async with Play(timeouts={"drain_delay": 10}) as play:
        draining = asyncio.create_task(play.proxy.drain())
        await asyncio.sleep(0)
        client = await play.client()
        client.say(GET)
        upstream = await play.upstream()
        await upstream.hear_head()
        upstream.say(OK)
        assert b"Connection: close\r\n" in await client.hear_head()
        play.turn(11)
        await draining
        with pytest.raises(OSError):
            await play.client()


async def test_close_cuts_what_runs() -> None:
    async with Play() as play:
        client = await play.client()
        client.say(GET)
        upstream = await play.upstream()
        await upstream.hear_head()
        await play.proxy.close()
        assert (await client.hear_answer())[0] == 503
        assert await upstream.hear_end() == b""


async def test_at_the_limit_idle_connections_give_way() -> None:
    async with Play(limits={"connections": 3}) as play:
        clients = []
        for count in (1, 2):
            clients.append(await play.client())
            await play.until(lambda: len(play.proxy.connections) == count)  # noqa: B023
            play.turn(1)
        third = await play.client()
        assert await clients[0].hear_end() == b""  # idle for the longest time
        third.say(GET)
        upstream = await play.upstream()
        await upstream.hear_head()
        upstream.say(OK)
        await third.hear(OK)
        assert play.proxy.counters.rejected[("idle_closed_at_limit",)] == 1


async def test_at_the_limit_with_none_idle_accepting_stops_and_begins_again() -> None:
    async with Play(limits={"connections": 2}) as play:
        busy, upstreams = [], []
        for _ in range(2):
            client = await play.client()
            busy.append(client)
            client.say(GET)
            upstreams.append(await play.upstream())
            await upstreams[-1].hear_head()
        waiting = await play.client()  # the kernel takes it, we do not
        waiting.say(GET)
        play.turn(1)
        assert len(play.proxy.connections) == 2
        assert b"accept_paused" in play.errors
        for client, upstream in zip(busy, upstreams, strict=True):
            upstream.say(OK)
            await client.hear(OK)
        busy[0].hang_up()
        upstream = upstreams[1]
        await upstream.hear_head()
        upstream.say(OK)
        await waiting.hear(OK)


# On sockets of others.


@asynccontextmanager
async def taking_over(play: Play) -> AsyncIterator[tuple[proxy.Proxy, proxy.Proxy, Listener]]:
    """Two proxies for one listener; the first one serves."""
    (listener,) = bind(TcpAddress("127.0.0.1", 0), backlog=16)
    config, counters = play.proxy.config, Counters()
    one = proxy.Proxy(config, listeners=[listener], clock=play.clock, counters=counters)
    two = proxy.Proxy(config, listeners=(), clock=play.clock, counters=counters)
    async with one, two:
        assert one.addresses == (listener.address,)
        assert two.addresses == ()
        yield one, two, listener


async def connected(listener: Listener, served_by: proxy.Proxy) -> Actor:
    """Connect, and wait until the proxy has the connection."""
    before = len(served_by.connections)
    assert isinstance(listener.address, TcpAddress)
    client = Actor(*await asyncio.open_connection(listener.address.host, listener.address.port))
    await until(lambda: len(served_by.connections) > before)
    return client


async def answered(play: Play, client: Actor) -> bytes:
    """One request and its answer's head."""
    client.say(GET)
    upstream = await play.upstream()
    await upstream.hear_head()
    upstream.say(OK)
    return (await client.hear_answer())[1]


async def test_listeners_that_were_given_are_served_and_closed() -> None:
    (listener,) = bind(TcpAddress("127.0.0.1", 0), backlog=16)
    async with Play() as play:
        given = proxy.Proxy(play.proxy.config, listeners=[listener])
        async with given, await connected(listener, given) as client:
            assert b"200 OK" in await answered(play, client)
        assert listener.socket.fileno() == -1


async def test_a_handover_keeps_the_sockets_and_lets_idle_connections_ask_once_more() -> None:
    async with Play() as play, taking_over(play) as (one, two, listener):
        asking, waiting = await connected(listener, one), await connected(listener, one)
        await two.listen_on([listener])
        draining = asyncio.create_task(one.drain(handover=True))
        await asyncio.sleep(0)
        async with await connected(listener, two) as client:
            assert b"Connection: close" not in await answered(play, client)
        assert b"Connection: close" in await answered(play, asking)
        assert await asking.hear_end() == b""
        play.clock.now += 9.5
        one.sweep()
        assert len(one.connections) == 1
        play.clock.now += 0.5
        one.sweep()
        assert await waiting.hear_end() == b""
        await draining
        await one.close()
        assert two.addresses == (listener.address,)
        async with await connected(listener, two) as client:
            assert b"200 OK" in await answered(play, client)
        assert one.counters is two.counters
        assert two.counters.connections_total == 4
        for actor in (asking, waiting):
            await actor.close()


async def test_a_stop_after_a_handover_waits_for_nobody_idle() -> None:
    async with Play() as play, taking_over(play) as (one, two, listener):
        idle = await connected(listener, one)
        play.clock.now += 1
        await two.listen_on([listener])
        handing_over = asyncio.create_task(one.drain(handover=True))
        await asyncio.sleep(0)
        await one.drain()
        assert await idle.hear_end() == b""
        await handing_over
        await idle.close()


async def test_sockets_are_given_and_taken_away_while_it_serves() -> None:
    async with Play() as play, taking_over(play) as (one, two, listener):
        await one.listen_on(())
        await one.listen_on(())
        waiting = asyncio.create_task(connected(listener, two))
        await turns()
        assert not one.connections
        await two.listen_on([listener])
        await two.listen_on([listener])
        async with await waiting as client:
            assert b"200 OK" in await answered(play, client)


async def test_whoever_comes_while_connections_are_closed_is_closed_unless_it_asks() -> None:
    async with (
        Play(fast_path=False, timeouts={"drain_idle": 1}) as play,
        taking_over(play) as (one, two, listener),
    ):
        busy = await connected(listener, one)
        busy.say(GET)
        upstream = await play.upstream()
        await upstream.hear_head()
        upstream.say(OK[:-1])  # it has heard a head without `Connection: close`
        await busy.hear_head()
        await two.listen_on([listener])
        draining = asyncio.create_task(one.drain(handover=True))
        await turns()
        play.clock.now += 1
        one.sweep()
        await asyncio.sleep(0)
        upstream.say(OK[-1:])
        assert await busy.hear_some(15) == b'{"status":"Ok"}'
        await until(lambda: all(connection.idle for connection in one.connections))
        play.clock.now += 1
        one.sweep()
        assert await busy.hear_end() == b""
        await draining
        await busy.close()


async def test_every_line_of_the_error_log_says_whose_it_is() -> None:
    errors = bytearray()
    config = config_from({"upstream": "http://127.0.0.1:1"}).config
    async with proxy.Proxy(config, listeners=(), error_sink=errors.extend, error_fields={"worker": 3}) as p:
        p.error(LogLevel.INFO, "hello", more=1)
    assert b'"event":"hello","worker":3,"more":1}' in errors


async def test_a_stop_while_it_begins_to_accept() -> None:
    (listener,) = bind(TcpAddress("127.0.0.1", 0), backlog=16)
    async with Play() as play:
        given = proxy.Proxy(play.proxy.config, listeners=[listener])
        starting = asyncio.create_task(given.start())
        await asyncio.sleep(0)
        await given.drain()
        await starting
        with pytest.raises(ConnectionRefusedError):
            await connected(listener, given)
        await given.close()
