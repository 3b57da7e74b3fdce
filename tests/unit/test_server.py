"""Starting, draining and stopping a Proxy; the bound on its connections."""

from __future__ import annotations

import asyncio
import socket

import pytest

import proxy
from proxy.config.load import config_from
from tests.support.play import Play
from tests.unit.test_serve_exchange import EVENT, GET, OK, handshake


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
        await asyncio.sleep(0)
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
