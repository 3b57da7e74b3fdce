"""The client connection's state machine: heads, limits, idling, lingering, ending."""

from __future__ import annotations

import asyncio

import pytest

from proxy.serve.connection import State
from tests.support.play import Play
from tests.unit.test_serve_exchange import EVENT, GET, OK


async def served_once(play: Play) -> None:
    upstream = await play.upstream()
    await upstream.hear_head()
    upstream.say(OK)


async def test_a_connection_shows_its_state() -> None:
    async with Play(fast_path=False) as play:
        client = await play.client()
        await play.until(lambda: bool(play.proxy.connections))
        (connection,) = play.proxy.connections
        assert connection.state is State.IDLE
        assert repr(connection) == "<Connection IDLE served=0 peer=127.0.0.1>"
        client.say(GET[:10])
        await play.until(lambda: connection.state is State.HEAD)
        client.say(GET[10:])
        await play.until(lambda: connection.state is State.EXCHANGE)
        assert repr(connection.exchange).startswith("<Exchange ")
        await served_once(play)
        await client.hear(OK)
        await play.until(lambda: connection.state is State.IDLE)
        client.hang_up()
        await play.until(lambda: connection.state is State.CLOSED)
        assert not play.proxy.connections


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"GARBAGE\r\n\r\n", 400, b"bad_request_line"),
        (b"GET / HTTP/1.1\nHost: a\n\n", 400, b"bare_lf"),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505, b"unsupported_version"),
        (b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", 405, b"method"),
        (b"GET /" + b"x" * 40_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414, b"target_too_long"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX-Big: " + b"x" * 70_000 + b"\r\n\r\n", 431, b"X-Big"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X-Many: 1\r\n" * 200 + b"\r\n", 431, b"lines"),
        (
            b"POST /e HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
            b"",
        ),
    ],
)
async def test_a_head_that_the_gate_refuses_is_answered_logged_and_the_connection_closed(
    sent: bytes, status: int, code: bytes
) -> None:
    async with Play() as play:
        client = await play.client()
        client.say(sent)
        got, head, body = await client.hear_answer()
        assert got == status
        assert code in body
        assert b"Connection: close\r\n" in head
        assert await client.hear_end() == b""
        line = await play.line()
        assert (line["status"], line["origin"], line["termination"]) == (status, "proxy", "PR")
        assert play.unasked


async def test_tls_on_a_plain_port_is_closed_without_an_answer_and_logged() -> None:
    async with Play() as play:
        client = await play.client()
        client.say(b"\x16\x03\x01\x02\x00\x01")
        assert await client.hear_end() == b""
        assert (await play.line())["error"].startswith("tls_on_plain_port")


async def test_empty_lines_before_a_request_are_skipped_two_at_most() -> None:
    async with Play() as play:
        client = await play.client()
        client.say(b"\r\n\r\n" + GET)
        await served_once(play)
        await client.hear(OK)
        client.say(b"\r\n\r\n\r\n" + GET)
        assert (await client.hear_answer())[0] == 400


async def test_a_slow_head_is_408_however_steadily_it_drips() -> None:
    async with Play() as play:
        client = await play.client()
        await play.until(lambda: bool(play.proxy.connections))
        (connection,) = play.proxy.connections
        for at in range(9):
            client.say(GET[at : at + 1])
            await play.until(lambda: bytes(connection.received) == GET[: at + 1])  # noqa: B023
            play.turn(1.2)
        assert (await client.hear_answer())[0] == 408
        assert (await play.line())["termination"] == "cR"


async def test_a_silent_connection_is_closed_without_a_word() -> None:
    async with Play() as play:
        client = await play.client()
        await play.until(lambda: bool(play.proxy.connections))
        play.turn(74)
        assert play.proxy.connections
        play.turn(2)
        assert await client.hear_end() == b""
        assert play.lines() == []


async def test_a_kept_connection_is_closed_after_its_requests_and_after_its_age() -> None:
    async with Play(limits={"requests_per_connection": 1}) as play:
        client = await play.client()
        client.say(GET)
        await served_once(play)
        assert b"Connection: close\r\n" in await client.hear_head()
        assert (await client.hear_end()).endswith(b"}")
    async with Play(timeouts={"keep_alive_age": 100, "keep_alive": 500}) as play:
        client = await play.client()
        await play.until(lambda: bool(play.proxy.connections))
        play.turn(111)
        client.say(GET)
        await served_once(play)
        assert b"Connection: close\r\n" in await client.hear_head()


async def test_connection_close_is_heeded() -> None:
    async with Play() as play:
        client = await play.client()
        client.say(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        await served_once(play)
        assert b"Connection: close\r\n" in await client.hear_head()
        assert (await client.hear_end()).endswith(b"}")


async def test_lingering_reads_the_rest_for_a_while_and_only_so_much() -> None:
    refused = b"POST /s/ HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n"
    async with Play(limits={"linger_bytes": 100_000}) as play:
        client = await play.client()
        client.say(refused)
        assert (await client.hear_answer())[0] == 413
        assert await client.hear_end() == b""  # our half is shut
        (connection,) = play.proxy.connections
        assert connection.state is State.LINGER
        client.say(b"x" * 50_000)
        await client.writer.drain()
        play.turn(4)
        assert connection.state is State.LINGER
        client.say(b"x" * 60_000)
        await play.until(lambda: not play.proxy.connections)
    async with Play() as play:
        client = await play.client()
        client.say(refused)
        assert (await client.hear_answer())[0] == 413
        await play.until(lambda: [c.state for c in play.proxy.connections] == [State.LINGER])
        play.turn(6)
        await play.until(lambda: not play.proxy.connections)


async def test_a_client_that_never_takes_its_last_answer_does_not_hold_the_connection_for_ever() -> None:
    async with Play(fast_path=False, limits={"splice_bytes": 0}) as play:  # what is spliced is never queued
        client = await play.client()
        client.writer.get_extra_info("socket").setsockopt(1, 8, 4096)  # SO_RCVBUF
        client.reader._transport.pause_reading()  # type: ignore[attr-defined]
        client.say(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        upstream = await play.upstream()
        await upstream.hear_head()
        upstream.say(b"HTTP/1.1 200 OK\r\nDate: D\r\nContent-Length: 50000000\r\n\r\n" + b"x" * 50_000_000)
        await play.until(lambda: any(not c.writable for c in play.proxy.connections))
        (connection,) = play.proxy.connections
        assert connection.exchange is not None
        connection.finish(keep=False, unread=False)  # as if the rest fitted into the queue
        assert connection.state is State.CLOSING
        play.turn(61)  # the kernel may have taken some
        play.turn(61)
        await play.until(lambda: not play.proxy.connections)


async def test_one_untrusted_client_has_only_so_many_connections() -> None:
    async with Play(limits={"connections_per_client": 2}) as play:
        one, two = await play.client(), await play.client()
        await play.until(lambda: len(play.proxy.connections) == 2)
        three = await play.client()
        assert await three.hear_end() == b""
        one.hang_up()
        await play.until(lambda: len(play.proxy.connections) == 1)
        four = await play.client()
        two.say(GET)
        four.say(GET)
        for _ in range(2):
            await served_once(play)
        await two.hear(OK)
        await four.hear(OK)
        assert play.proxy.counters.rejected[("connections_per_client",)] == 1


async def test_trusted_peers_are_not_counted() -> None:
    async with Play(limits={"connections_per_client": 1}, trust={"proxies": ["127.0.0.1"]}) as play:
        clients = [await play.client() for _ in range(3)]
        await play.until(lambda: len(play.proxy.connections) == 3)
        for client in clients:
            client.hang_up()
        await play.until(lambda: not play.proxy.connections)


async def test_a_pipelining_client_that_reads_nothing_stops_being_read() -> None:
    async with Play() as play:
        client = await play.client()
        client.say(EVENT)
        upstream = await play.upstream()
        await upstream.hear_head()
        (connection,) = play.proxy.connections
        for _ in range(40):
            client.say(EVENT * 1000)
        await asyncio.sleep(0)
        await play.until(lambda: len(connection.received) >= 64 * 1024)
        assert len(connection.received) <= (64 + 256) * 1024


async def test_a_unix_peer_has_no_address(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("s") / "p"
    async with Play(listen=[f"unix:{path}"]) as play:
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(GET)
        upstream = await play.upstream()
        head = await upstream.hear_head()
        assert b"X-Forwarded-For" not in head
        upstream.say(OK)
        assert await reader.readexactly(len(OK)) == OK
        writer.close()
        await writer.wait_closed()
