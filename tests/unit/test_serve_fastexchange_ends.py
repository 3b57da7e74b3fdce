"""A fast exchange in trouble, played: no connection, a failing upstream, a client that leaves, a stop."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from typing import TYPE_CHECKING

import pytest

from proxy.config.schema import TcpAddress
from proxy.serve.connection import State
from proxy.serve.fastrecord import Stage
from tests.support.fastplay import CLOSING, EVENT, FLAGS, OK, READ, SICK, FastPlay, again, answered
from tests.support.play import Actor
from tests.unit.test_serve_exchange import heard_request

if TYPE_CHECKING:
    from collections.abc import Callable

# --- finding a connection -------------------------------------------------------------------------


async def test_at_the_bound_of_the_pool_a_request_waits_for_its_turn() -> None:
    async with FastPlay(pool={"connections": 1}) as play:
        first, upstream = await play.sent()
        second = await play.client()
        second.say(READ)
        await play.until(lambda: play.pool.state.waiting == 1)
        play.clock.now += 0.5
        await answered(first, upstream)
        await upstream.hear_head()
        await answered(second, upstream)
        assert play.unasked
        assert (play.fast, play.missed) == (2, set())
        assert (await play.line(2))["t_queue"] == 0.5


@pytest.mark.parametrize(("request_", "wait", "status"), [(EVENT, 31.0, 503), (FLAGS, 3.0, 502)])
async def test_a_turn_that_never_comes(request_: bytes, wait: float, status: int) -> None:
    async with FastPlay(pool={"connections": 1}) as play:
        blocker = await play.client()
        blocker.say(b"GET /app HTTP/1.1\r\nHost: a\r\n\r\n")
        upstream = await play.upstream()
        await upstream.hear_head()
        client = await play.client()
        client.say(request_)
        await play.until(lambda: play.pool.state.waiting == 1)
        play.turn(wait)
        got, head, body = await client.hear_answer()
        assert (got, b"pool_wait_timeout" in body) == (status, True)
        assert b"Access-Control-Allow-Origin: https://shop.example" in head
        assert play.missed == {"handed_over"}
        upstream.say(OK)
        await blocker.hear(OK)


async def test_nobody_more_may_wait() -> None:
    async with FastPlay(pool={"connections": 1, "waiting": 1}) as play:
        first, upstream = await play.sent()
        second = await play.client()
        second.say(EVENT)
        await play.until(lambda: play.pool.state.waiting == 1)
        third = await play.client()
        third.say(EVENT)
        status, head, body = await third.hear_answer()
        assert (status, b"pool_line_full" in body, b"Retry-After: " in head) == (503, True, True)
        await answered(first, upstream)
        await heard_request(upstream, b"hello")
        await answered(second, upstream)


@pytest.mark.parametrize(("request_", "status"), [(EVENT, 503), (FLAGS, 502), (READ, 502)])
async def test_nobody_listens(request_: bytes, status: int) -> None:
    async with FastPlay(pool={"retries": 0}) as play:
        await play.stop_upstream()
        client = await play.client()
        client.say(request_)
        got, head, _ = await client.hear_answer()
        assert (got, b"Retry-After: " in head) == (status, status == 503)
        assert (await play.line())["termination"] == "SC"
        assert play.missed == {"handed_over"}


async def test_an_upstream_that_keeps_failing_is_not_asked() -> None:
    async with FastPlay(pool={"retries": 0}) as play:
        await play.stop_upstream()
        client = await play.client()
        for _ in range(5):
            client.say(EVENT)
            assert (await client.hear_answer())[0] == 503
        client.say(EVENT)
        status, head, body = await client.hear_answer()
        assert (status, b"breaker_open" in body, b"Retry-After: " in head) == (503, True, True)
        assert (await play.line(6))["upstream_addr"] == ""


async def test_idle_connections_are_no_use_while_the_breaker_is_open() -> None:
    async with FastPlay() as play:
        client, _ = await play.warm()
        for _ in range(5):
            play.pool.record(ok=False, probe=False)
        client.say(EVENT)
        assert b"breaker_open" in (await client.hear_answer())[2]
        assert play.pool.state.idle == 1


async def test_the_probe_of_a_breaker_may_be_fast() -> None:
    async with FastPlay() as play:
        client, _ = await play.warm()
        for _ in range(5):
            play.pool.record(ok=False, probe=False)
        play.turn(6)
        client.say(EVENT)
        upstream = await play.upstream()
        await heard_request(upstream, b"hello")
        await answered(client, upstream)
        assert play.pool.breaker.state.value == "closed"
        assert play.fast == 2


async def test_a_bug_in_the_pool_costs_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise KeyError("a bug")

    async with FastPlay() as play:
        client = await play.client()
        monkeypatch.setattr(play.pool, "acquire", broken)
        client.say(EVENT)
        assert (await client.hear_answer())[0] == 500
        monkeypatch.undo()
        assert b"the pool failed: KeyError" in play.access or "KeyError" in (await play.line())["error"]


# --- the upstream fails ---------------------------------------------------------------------------


@pytest.mark.parametrize(("request_", "body"), [(EVENT, b"hello"), (FLAGS, b"hello"), (READ, b"")])
async def test_a_reused_connection_that_dies_unanswered_the_request_goes_again(
    request_: bytes, body: bytes
) -> None:
    async with FastPlay() as play:
        client, upstream = await play.warm()
        client.say(request_)
        await heard_request(upstream, body)
        upstream.hang_up()
        second = await play.upstream()
        await heard_request(second, body)
        await answered(client, second)
        line = await play.line(2)
        assert (line["retries"], line["reused"], line["status"]) == (1, False, 200)
        assert (play.fast, play.missed) == (1, {"handed_over"})


async def test_a_fresh_connection_that_dies_is_not_tried_again() -> None:
    async with FastPlay() as play:
        client, upstream = await play.sent()
        upstream.hang_up()
        assert (await client.hear_answer())[0] == 503
        assert play.unasked
        assert (await play.line())["error"].startswith("upstream_closed")


@pytest.mark.parametrize(("request_", "wait", "status"), [(EVENT, 31.0, 503), (FLAGS, 3.0, 504)])
@pytest.mark.parametrize("reused", [False, True])
async def test_a_late_answer(request_: bytes, wait: float, status: int, reused: bool) -> None:
    async with FastPlay() as play:
        if reused:
            client, upstream = await play.warm()
            await again(client, upstream, request_)
        else:
            client, upstream = await play.sent(request_)
        play.turn(wait)
        assert (await client.hear_answer())[0] == status
        assert await upstream.hear_end() == b""
        assert (await play.line(1 + reused))["termination"] == "sH"
        assert play.missed == {"handed_over"}


async def test_an_answer_that_has_begun_may_take_its_time() -> None:
    """1. The head and a part of the body come at once. 2. The time for the first byte is over. 3. The rest
    comes."""
    async with FastPlay() as play:
        client, upstream = await play.sent(FLAGS)
        upstream.say(OK[:-5])
        await play.until(lambda: bool(play.to_upstream.received))
        play.turn(3)
        await client.hear(OK[:-5])
        play.turn(50)
        upstream.say(OK[-5:])
        await client.hear(OK[-5:])
        assert play.missed == {"handed_over"}


async def test_an_answer_that_has_begun_and_stalls_is_cut() -> None:
    async with FastPlay() as play:
        client, upstream = await play.sent()
        upstream.say(OK[:-5])
        await play.until(lambda: bool(play.to_upstream.received))
        play.turn(31)
        await client.hear(OK[:-5])
        play.turn(61)
        assert await client.is_reset()
        assert (await play.line())["termination"] == "sD"


async def test_an_answer_that_breaks_off_is_cut() -> None:
    async with FastPlay() as play:
        client, upstream = await play.sent()
        upstream.say(OK[:-5])
        await play.until(lambda: bool(play.to_upstream.received))
        upstream.hang_up()
        await client.hear(OK[:-5])
        assert await client.is_reset()
        assert (await play.line())["error"].startswith("truncated: answer_truncated")


async def test_an_upstream_that_speaks_before_it_is_asked() -> None:
    """1. A connection is opened. 2. Before the request is on it, the upstream says that it is overloaded.
    3. Those bytes are the answer; no more will come."""
    async with FastPlay() as play:
        await play.stop_upstream()
        with socket.create_server(("127.0.0.1", play.port)) as listener:
            client = await play.client()
            client.say(EVENT)
            upstream = await play.taken_from(listener)
            with upstream:
                upstream.send(SICK.replace(b"503", b"403"))
                assert (await client.hear_answer())[0] == 403


async def test_an_upstream_that_leaves_before_it_is_asked() -> None:
    async with FastPlay() as play:
        await play.stop_upstream()
        with socket.create_server(("127.0.0.1", play.port)) as listener:
            client = await play.client()
            client.say(EVENT)
            upstream = await play.taken_from(listener)
            upstream.close()
            assert (await client.hear_answer())[0] == 503
            assert (await play.line())["error"].startswith("upstream_closed")


# --- clients that leave ---------------------------------------------------------------------------


def reset(client: Actor) -> None:
    client.writer.get_extra_info("socket").setsockopt(
        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
    )
    client.writer.transport.abort()


def shut(client: Actor) -> None:
    client.writer.write_eof()


LEAVING = [Actor.hang_up, reset, shut]


@pytest.mark.parametrize("leave", LEAVING)
async def test_a_client_that_leaves_inside_its_body(leave: Callable[[Actor], None]) -> None:
    async with FastPlay() as play:
        client = await play.client()
        client.say(EVENT[:-1])
        await play.at(Stage.HELD)
        leave(client)
        line = await play.line()
        assert (line["status"], line["termination"]) == (400, "PB")
        assert play.unasked


@pytest.mark.parametrize("leave", LEAVING)
async def test_a_client_that_leaves_the_line(leave: Callable[[Actor], None]) -> None:
    async with FastPlay(pool={"connections": 1}) as play:
        first, upstream = await play.sent()
        client = await play.client()
        client.say(EVENT)
        await play.until(lambda: play.pool.state.waiting == 1)
        leave(client)
        line = await play.line()
        assert (line["status"], line["termination"]) == (499, "CQ")
        assert play.pool.state.waiting == 0
        await answered(first, upstream)
        assert play.fast == 1


@pytest.mark.parametrize("begun", [b"", OK[:-5]])
@pytest.mark.parametrize("leave", LEAVING)
async def test_a_client_that_leaves_before_its_answer_cancels_the_upstream(
    leave: Callable[[Actor], None], begun: bytes
) -> None:
    async with FastPlay() as play:
        client, upstream = await play.warm()
        await again(client, upstream)
        if begun:
            upstream.say(begun)
            await play.until(lambda: bool(play.to_upstream.received))
        leave(client)
        assert await upstream.hear_end() == b""
        line = await play.line(2)
        assert (line["status"], line["termination"], line["upstream_status"]) == (499, "CH", 0)
        assert play.missed == {"handed_over"}


@pytest.mark.parametrize("turns", range(12))
async def test_a_client_that_leaves_while_a_connection_is_opened(turns: int) -> None:
    """At every turn of the loop from the kernel's accepting to the request's being sent."""
    async with FastPlay() as play:
        address = play.proxy.addresses[0]
        assert isinstance(address, TcpAddress)
        await play.stop_upstream()
        with socket.create_server(("127.0.0.1", play.port)) as listener:
            client = socket.create_connection((address.host, address.port))
            client.sendall(EVENT)
            with await play.taken_from(listener):
                for _ in range(turns):
                    await asyncio.sleep(0)
                client.close()
                line = await play.line()
        assert (line["status"], line["termination"][0]) == (499, "C")
        await play.until(lambda: not play.proxy.connections)


@pytest.mark.parametrize("turns", range(6))
async def test_a_client_that_leaves_when_its_turn_comes(turns: int) -> None:
    """At every turn of the loop from the upstream's answer to another to the request's being sent."""
    async with FastPlay(pool={"connections": 1}) as play:
        address = play.proxy.addresses[0]
        assert isinstance(address, TcpAddress)
        first, upstream = await play.sent()
        client = socket.create_connection((address.host, address.port))
        client.sendall(EVENT)
        await play.at(Stage.LEASING)
        upstream.say(OK)
        for _ in range(turns):
            await asyncio.sleep(0)
        client.close()
        await first.hear(OK)
        assert (await play.line(2))["status"] == 499


# --- ending ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", [Stage.HELD, Stage.LEASING, Stage.SENT])
async def test_a_drain_lets_it_end_and_closes_the_connection(stage: Stage) -> None:
    async with FastPlay(pool={"connections": 1}) as play:
        first, upstream = await play.sent()
        client = await play.client()
        client.say(EVENT[:-1] if stage is Stage.HELD else EVENT)
        await play.at(Stage.LEASING if stage is Stage.SENT else stage)
        if stage is Stage.SENT:
            await answered(first, upstream)
            await heard_request(upstream, b"hello")
        draining = asyncio.ensure_future(play.proxy.drain())
        await asyncio.sleep(0)
        if stage is not Stage.SENT:
            await answered(first, upstream, heard=CLOSING)
        if stage is Stage.HELD:
            client.say(EVENT[-1:])
        if stage is not Stage.SENT:
            await heard_request(upstream, b"hello")
        await answered(client, upstream, heard=CLOSING)
        for each in (first, client):
            assert await each.hear_end() == b""
        async with asyncio.timeout(10):
            await draining
        assert play.fast == 2


@pytest.mark.parametrize(("stage", "status"), [(Stage.HELD, 503), (Stage.LEASING, 503), (Stage.SENT, 503)])
async def test_when_the_drain_is_over_it_is_cut(stage: Stage, status: int) -> None:
    async with FastPlay(pool={"connections": 1}) as play:
        if stage is Stage.SENT:
            client, upstream = await play.sent()
        else:
            _, upstream = await play.sent()
            client = await play.client()
            client.say(EVENT[:-1] if stage is Stage.HELD else EVENT)
            await play.at(stage)
        draining = asyncio.ensure_future(play.proxy.drain())
        await asyncio.sleep(0)
        play.turn(0.5)
        assert {connection.state for connection in play.proxy.connections} == {State.FAST}
        await play.until(lambda: len(play.proxy._emptied) == 1)
        play.turn(5)
        await play.until(lambda: len(play.proxy._emptied) == 1)
        play.turn(25)
        got, _, body = await client.hear_answer()
        assert (got, b"draining" in body) == (status, True)
        assert await upstream.hear_end() == b""
        client.hang_up()
        async with asyncio.timeout(10):
            await draining


@pytest.mark.parametrize("stage", [Stage.HELD, Stage.LEASING, Stage.SENT])
async def test_closing_the_proxy_ends_it_at_once(stage: Stage) -> None:
    async with FastPlay(pool={"connections": 1}) as play:
        await play.sent()
        if stage is not Stage.SENT:
            client = await play.client()
            client.say(EVENT[:-1] if stage is Stage.HELD else EVENT)
            await play.at(stage)
        await play.proxy.close()
        assert play.proxy.counters.requests_in_flight == 0
        statuses = [json.loads(each)["status"] for each in play.access.splitlines()]
        assert statuses == [503] * (1 if stage is Stage.SENT else 2)
