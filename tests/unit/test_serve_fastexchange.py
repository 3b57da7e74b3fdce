"""A fast exchange, played: what is taken, what is waited for, how it is answered.

What goes wrong with it is in test_serve_fastexchange_ends.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Any

import pytest

from proxy.config.schema import TcpAddress
from proxy.serve.connection import State
from proxy.serve.fastexchange import PATIENCE
from proxy.serve.fastrecord import Stage
from tests.support.fastplay import CLOSING, EVENT, FLAGS, OK, READ, SICK, FastPlay, again, answered
from tests.unit.test_serve_exchange import heard_request

if TYPE_CHECKING:
    from collections.abc import Coroutine

HELD = 64 * 1024
"""`limits.held_body`, and `limits.read_buffer`."""


@contextlib.contextmanager
def counted_tasks() -> Any:
    """The names of the coroutines that become tasks meanwhile."""
    loop = asyncio.get_running_loop()
    made: list[str] = []

    def factory(
        loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], **how: Any
    ) -> asyncio.Task[Any]:
        made.append(getattr(work, "__qualname__", ""))
        return asyncio.Task(work, loop=loop, **how)

    loop.set_task_factory(factory)  # type: ignore[arg-type]
    try:
        yield made
    finally:
        loop.set_task_factory(None)


# --- the straight way -----------------------------------------------------------------------------


async def test_a_request_goes_out_in_canonical_form_with_what_we_say_of_the_client() -> None:
    async with FastPlay() as play:
        address = play.proxy.addresses[0]
        assert isinstance(address, TcpAddress)
        play.proxy._runtime.request_id = lambda: "an-id"
        client = await play.client()
        client.say(
            b"POST /e/?_=1 HTTP/1.1\r\naccept:*/*\r\nHOST: Ph.example \r\nContent-Length: 5\r\n"
            b"Connection: keep-alive\r\nX-Forwarded-For: 6.6.6.6\r\nOrigin:\thttps://shop.example\r\n\r\nhello"
        )
        upstream = await play.upstream()
        await upstream.hear(
            b"POST /e/?_=1 HTTP/1.1\r\nHost: Ph.example\r\naccept: */*\r\nContent-Length: 5\r\n"
            b"Origin: https://shop.example\r\nX-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\n"
            b"X-Forwarded-Host: ph.example\r\nX-Forwarded-Port: %d\r\nX-Request-Id: an-id\r\n\r\nhello"
            % address.port
        )
        await answered(client, upstream)
        assert (play.fast, play.missed) == (1, set())
        counters = play.proxy.counters.snapshot()
        assert counters["posthog_proxy_dropped_headers_total"] == {'word="managed"': 1}
        assert counters["posthog_proxy_response_size_bytes"] == len(OK)
        assert counters["posthog_proxy_client_ip_suspect_total"] == 1


async def test_an_alias_goes_up_as_the_path_that_it_stands_for_and_is_logged_as_it_came() -> None:
    aliases = {"prefix": "/k7", "paths": ["/x1=/e/"]}
    async with FastPlay(aliases=aliases) as play:
        client, upstream = await play.warm()
        for asked, heard in ((b"/k7/e/?_=1", b"/e/?_=1"), (b"/x1?ver=2", b"/e/?ver=2"), (b"/k7/s", b"/s")):
            client.say(EVENT.replace(b"/e/", asked))
            assert (await heard_request(upstream, b"hello")).startswith(b"POST %b HTTP/1.1\r\n" % heard)
            await answered(client, upstream)
        assert (play.fast, play.missed) == (4, set())
        assert [(line["path"], line["route"]) for line in play.lines()] == [
            ("/e/", "/e"),
            ("/k7/e/", "/e"),
            ("/x1", "/e"),
            ("/k7/s", "/s"),
        ]


async def test_cookies_are_left_out_on_event_endpoints_alone_if_so_configured() -> None:
    async with FastPlay(forwarding={"drop_ingest_cookies": True}) as play:
        client, upstream = await play.warm()
        for path, dropped in ((b"/e/", True), (b"/flags/", False), (b"/s/", True), (b"/e/", True)):
            client.say(EVENT.replace(b"/e/", path).replace(b"Origin", b"cookie: a=b\r\nOrigin"))
            head = await heard_request(upstream, b"hello")
            assert (b"\r\ncookie: a=b\r\n" not in head) is dropped
            await answered(client, upstream)
        assert (play.fast, play.missed) == (5, set())


async def test_a_client_that_sends_too_much_hears_429_and_keeps_its_connection() -> None:
    async with FastPlay(limits={"rate_per_client": 0.5, "rate_burst": 2}) as play:
        client, upstream = await play.warm()
        await again(client, upstream)
        await answered(client, upstream)
        for cut in (len(EVENT), len(EVENT) - 1):  # whole, and with its body's end to come
            client.say(EVENT[:cut])
            if cut < len(EVENT):
                await play.at(Stage.HELD)
                client.say(EVENT[cut:])
            status, head, body = await client.hear_answer()
            assert status == 429
            assert b"\r\nRetry-After: 2\r\n" in head
            assert b"\r\nAccess-Control-Allow-Origin: https://shop.example\r\n" in head
            assert b"Connection: close" not in head
            assert b'"rate_limited"' in body
        play.clock.now += 2
        await again(client, upstream)
        await answered(client, upstream)
        assert (play.fast, play.missed) == (3, {"rate_limited"})
        assert play.proxy.counters.snapshot()["posthog_proxy_rejected_total"] == {'reason="rate_limited"': 2}
        assert [line["status"] for line in play.lines()] == [200, 200, 429, 429, 200]


async def test_a_request_that_is_handed_over_has_its_token_already() -> None:
    async with FastPlay(limits={"rate_per_client": 0.01, "rate_burst": 2}) as play:
        client, upstream = await play.sent()
        upstream.say(b"HTTP/1.1 200 OK\r\nDate: D\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
        assert (await client.hear_head()).startswith(b"HTTP/1.1 200 ")  # by the general path
        await client.hear(b"2\r\nok\r\n0\r\n\r\n")
        await again(client, upstream)
        await answered(client, upstream)
        client.say(EVENT)
        assert (await client.hear_answer())[0] == 429
        assert play.missed == {"handed_over", "rate_limited"}


async def test_what_the_log_says_of_it() -> None:
    async with FastPlay() as play:
        client = await play.client()
        client.say(EVENT[:20])
        await play.until(lambda: any(connection.bytes_in for connection in play.proxy.connections))
        play.clock.now += 0.25
        client.say(EVENT[20:-1])
        await play.at(Stage.HELD)
        play.clock.now += 0.5
        client.say(EVENT[-1:])
        upstream = await play.upstream()
        await heard_request(upstream, b"hello")
        await play.at(Stage.SENT)
        play.clock.now += 1.0
        await answered(client, upstream)
        line = await play.line()
        times = [
            line[name] for name in ("t_head", "t_body", "t_queue", "t_connect", "t_first_byte", "t_total")
        ]
        assert times == [0.25, 0.5, 0, 0, 1.0, 1.75]
        assert line["ts"] == pytest.approx(play.clock.wall() - 1.75)
        assert (line["status"], line["upstream_status"], line["origin"]) == (200, 200, "upstream")
        assert (line["bytes_in"], line["bytes_out"]) == (len(EVENT), len(OK))
        assert (line["reused"], line["retries"], line["upstream_addr"]) == (
            False,
            0,
            f"127.0.0.1:{play.port}",
        )
        assert (line["termination"], line["error"]) == ("--", "")
        await again(client, upstream)
        play.clock.now += 1.0
        await answered(client, upstream)
        line = await play.line(2)
        times = [
            line[name] for name in ("t_head", "t_body", "t_queue", "t_connect", "t_first_byte", "t_total")
        ]
        assert times == [0, 0, 0, 0, 1.0, 1.0]
        assert line["reused"] is True
        assert b"-0.0" not in play.access


async def test_the_text_log() -> None:
    async with FastPlay(log={"format": "text"}) as play:
        client, upstream = await play.sent()
        play.clock.now += 1.5
        await answered(client, upstream)
        play.turn(0)
        words = bytes(play.access).split()
        assert words[1:4] == [b"127.0.0.1", b"POST", b"ph.example/e/"]
        assert words[4:7] == [b"200", b"upstream", b"1.500s"]
        assert words[7] == b"%d>%d" % (len(EVENT), len(OK))
        assert words[8:11] == [b"/e", b"default", b"--"]


async def test_a_request_on_an_idle_connection_makes_no_task() -> None:
    async with FastPlay() as play:
        client, upstream = await play.warm()
        with counted_tasks() as made:
            for _ in range(3):
                await again(client, upstream)
                await answered(client, upstream)
        assert (made, play.fast) == ([], 4)


async def test_a_request_for_which_a_connection_is_opened_makes_one() -> None:
    async with FastPlay() as play:
        client = await play.client()
        await play.until(lambda: bool(play.proxy.connections))
        with counted_tasks() as made:
            client.say(EVENT)
            upstream = await play.upstream()
            await heard_request(upstream, b"hello")
            await answered(client, upstream)
        assert made.count("UpstreamPool.acquire") == 1
        assert not [name for name in made if name.startswith("Exchange")]
        assert play.fast == 1


async def test_it_tells_its_stage() -> None:
    async with FastPlay(pool={"connections": 1}) as play:
        client, upstream = await play.sent()
        (connection,) = play.proxy.connections
        assert repr(connection._fast) == "<FastExchange SENT>"
        assert (connection.state, connection.served) == (State.FAST, 1)
        await answered(client, upstream)
        assert repr(connection._fast) == "<FastExchange FREE>"
        assert play.states == {State.IDLE}
        assert connection._fast is not None
        assert not connection._fast.take(OK, bytearray())


# --- requests in pieces ---------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [1, 30, EVENT.index(b"\r\n\r\n") + 2, EVENT.index(b"hello"), len(EVENT) - 1])
async def test_a_request_in_two_pieces(cut: int) -> None:
    async with FastPlay() as play:
        client = await play.client()
        client.say(EVENT[:cut])
        await play.until(lambda: sum(c.bytes_in for c in play.proxy.connections) == cut)
        assert play.unasked
        client.say(EVENT[cut:])
        upstream = await play.upstream()
        await heard_request(upstream, b"hello")
        await answered(client, upstream)
        assert (play.fast, play.missed) == (1, set())


async def test_a_body_that_does_not_end_is_for_the_general_path_after_a_while() -> None:
    async with FastPlay() as play:
        client = await play.client()
        client.say(EVENT[:-1])
        await play.at(Stage.HELD)
        play.turn(PATIENCE - 0.1)
        assert play.states == {State.FAST}
        play.turn(0.2)
        assert play.states == {State.EXCHANGE}
        assert [connection.served for connection in play.proxy.connections] == [1]
        client.say(EVENT[-1:])
        upstream = await play.upstream()
        await heard_request(upstream, b"hello")
        await answered(client, upstream)
        assert play.fast == 0
        assert (await play.line())["bytes_in"] == len(EVENT)


async def test_a_body_that_drips_is_waited_for_no_longer() -> None:
    async with FastPlay() as play:
        client = await play.client()
        client.say(EVENT[:-5])
        await play.at(Stage.HELD)
        (connection,) = play.proxy.connections
        play.turn(PATIENCE / 2)
        client.say(EVENT[-5:-3])
        await play.until(lambda: connection.bytes_in == len(EVENT) - 3)
        play.turn(PATIENCE / 2 + 0.1)
        assert connection.state is State.EXCHANGE
        client.say(EVENT[-3:])
        upstream = await play.upstream()
        await heard_request(upstream, b"hello")
        await answered(client, upstream)


async def test_a_body_that_stalls_is_408_when_the_general_path_says_so() -> None:
    async with FastPlay() as play:
        client = await play.client()
        client.say(EVENT[:-1])
        await play.at(Stage.HELD)
        play.turn(PATIENCE + 0.1)
        await play.until(lambda: any(c.exchange and c.awaited for c in play.proxy.connections))
        play.turn(29)
        assert play.lines() == []
        play.turn(2)
        assert (await client.hear_answer())[0] == 408
        assert (await play.line())["termination"] == "cB"
        assert play.unasked


async def test_a_body_that_ends_with_the_connection_is_400() -> None:
    async with FastPlay() as play:
        client = await play.client()
        client.say(EVENT[:-1])
        await play.at(Stage.HELD)
        client.writer.write_eof()
        status, _, body = await client.hear_answer()
        assert (status, b"body_incomplete" in body) == (400, True)
        assert play.unasked


@pytest.mark.parametrize("first", [0, HELD - 1])
async def test_a_body_near_the_bound_of_reading_leaves_the_connection_reading(first: int) -> None:
    """1. A body of 64 KiB comes in pieces. 2. With its head it is more than is read before a pause, so
    reading stops. 3. The request is sent and answered. 4. The next one must still be read."""
    async with FastPlay() as play:
        client = await play.client()
        request = b"POST /e/ HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % HELD + b"x" * HELD
        cut = len(request) - HELD + first
        client.say(request[:cut])
        await play.until(lambda: sum(connection.bytes_in for connection in play.proxy.connections) == cut)
        client.say(request[cut:])
        upstream = await play.upstream()
        await heard_request(upstream, b"x" * HELD)
        await answered(client, upstream)
        assert play.missed == {"large_body"}
        await again(client, upstream)
        await answered(client, upstream)
        assert play.fast == 1


async def test_a_body_of_the_held_size_that_comes_at_once_is_fast() -> None:
    async with FastPlay(limits={"held_body": 20_000}) as play:
        client, upstream = await play.sent(
            b"POST /e/ HTTP/1.1\r\nHost: a\r\nContent-Length: 20000\r\n\r\n" + b"x" * 20_000,
            b"x" * 20_000,
        )
        await answered(client, upstream)
        assert play.fast == 1


# --- what is not taken ----------------------------------------------------------------------------


def line(*lines: bytes, first: bytes = b"GET /array/x/config HTTP/1.1") -> bytes:
    return b"\r\n".join((first, *lines, b"", b""))


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (line(b"Host: a", first=b"HEAD /array/x/config HTTP/1.1"), "request_line"),
        (line(b"Host: a", first=b"GET /array/x/config?a HTTP/1.2"), "request_line"),
        (line(b"Host: a", first=b"OPTIONS http://a/e/ HTTP/1.1"), None),
        (line(b"Host: a", b"Content-Length: 00"), "length"),
        (line(b"Host: a", b"Content-Length: 0 "), "length"),
        (line(b"Host: a", b"content-length: 00"), "length"),
        (line(b"Host: a", b"Content-length: 0"), "line"),
        (line(b"Host: a", b"Content-Length:0"), "line"),
        (line(b"Host: a", b"X_A: 1"), "line"),
        (line(b"Host: a", b"Connection: close", b"Connection: close"), "twice"),
        (line(first=b"GET /array/x/config HTTP/1.0"), "no_host"),
        (line(b"Host: a", *[b"X: y"] * 15), "size"),
        (line(b"Host: a", first=b"GET /livestream/x HTTP/1.1"), None),
    ],
)
async def test_a_head_that_is_not_taken_is_counted_by_its_reason(request_: bytes, reason: str | None) -> None:
    async with FastPlay(limits={"head_lines": 16}) as play:
        client = await play.client()
        client.say(request_)
        upstream = await play.upstream()
        await upstream.hear_head()
        upstream.say(b"HTTP/1.1 204 No Content\r\nDate: D\r\n\r\n")
        await client.hear_head()
        assert play.fast == 0
        assert play.proxy.counters.fast_path_missed == ({(reason,): 1} if reason else {})


@pytest.mark.parametrize(
    ("request_", "status", "reason"),
    [
        (line(b"Host: a", b"Host: a"), 400, "twice"),
        (line(b"Host: other"), 421, "host"),
        (line(b"Host: a", b"Content-Length: -1"), 400, "length"),
        (line(b"Host: a", b"Content-Length: 1234567890"), 413, "length"),
        (line(b"Host: a", b"Content-Length: 999999999"), 413, "large_body"),
        (line(b"Host: a", b"Content-Length: 2000", first=b"POST /e/ HTTP/1.1"), 413, "large_body"),
        (line(b"Host: a", b"Content-Length: 200", first=b"POST /batch/ HTTP/1.1"), 413, "large_body"),
        (line(b"Host: a", b"Content-Length: 1", b"content-length: 1"), 400, "line"),
        (line(b"Host: a", b"Expect: 200-ok"), 417, "line"),
    ],
)
async def test_what_the_general_path_refuses_the_fast_path_has_not_taken(
    request_: bytes, status: int, reason: str
) -> None:
    config = {
        "access": {"allowed_hosts": ["a"]},
        "limits": {"body_ingest": 1024},
        "routes": [{"path": "/batch/", "body_limit": 100}],
    }
    async with FastPlay(**config) as play:
        client = await play.client()
        client.say(request_)
        assert (await client.hear_answer())[0] == status
        assert play.missed == {reason}
        assert play.unasked


async def test_a_head_over_the_limit_is_not_looked_at() -> None:
    async with FastPlay(limits={"head_bytes": 1024}) as play:
        client = await play.client()
        client.say(line(b"Host: a", b"X: " + b"y" * 1024))
        assert (await client.hear_answer())[0] == 431
        assert play.missed == set()


async def test_two_at_once_the_first_takes_the_general_path_the_second_the_fast() -> None:
    async with FastPlay() as play:
        client = await play.client()
        client.say(EVENT + READ)
        upstream = await play.upstream()
        await heard_request(upstream, b"hello")
        await answered(client, upstream)
        await upstream.hear_head()
        await answered(client, upstream)
        assert (play.fast, play.missed) == (1, {"pipelined"})


async def test_the_next_request_behind_a_body_that_was_waited_for() -> None:
    async with FastPlay() as play:
        client = await play.client()
        client.say(EVENT[:-1])
        await play.at(Stage.HELD)
        client.say(EVENT[-1:] + READ)
        upstream = await play.upstream()
        await heard_request(upstream, b"hello")
        await answered(client, upstream)
        await upstream.hear_head()
        await answered(client, upstream)
        assert (play.fast, play.missed) == (1, {"pipelined"})


async def test_a_request_that_comes_before_the_answer_waits_for_it() -> None:
    async with FastPlay() as play:
        client, upstream = await play.sent()
        client.say(READ + EVENT)
        (connection,) = play.proxy.connections
        await play.until(lambda: len(connection.received) == len(READ + EVENT))
        await answered(client, upstream)
        for body in (b"", b"hello"):
            await heard_request(upstream, body)
            await answered(client, upstream)
        assert play.fast == 2


async def test_a_client_that_reads_nothing_is_not_served_on_the_fast_path() -> None:
    async with FastPlay(limits={"write_buffer": 4096}) as play:
        client, upstream = await play.warm()
        (connection,) = play.proxy.connections
        client.reader._transport.pause_reading()  # type: ignore[attr-defined]
        connection.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        large = OK.replace(b"15", b"60000", 1).partition(b"\r\n\r\n")[0] + b"\r\n\r\n" + b"x" * 60_000
        asked = 0
        while connection.writable:
            await again(client, upstream)
            upstream.say(large)
            asked += 1
            await play.until(lambda: connection.state is State.IDLE and not connection.holding)
        before = play.fast
        client.say(EVENT)
        await play.until(lambda: connection.state is State.EXCHANGE)
        client.reader._transport.resume_reading()  # type: ignore[attr-defined]
        await client.hear(large * asked)
        await heard_request(upstream, b"hello")
        await answered(client, upstream)
        assert play.fast == before


# --- versions and endings -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "option", "kept"),
    [
        (b"POST /e/ HTTP/1.1", b"", True),
        (b"POST /e/ HTTP/1.1", b"Connection: close\r\n", False),
        (b"POST /e/ HTTP/1.0", b"", False),
        (b"POST /e/ HTTP/1.0", b"Connection: keep-alive\r\n", True),
    ],
)
async def test_whether_the_connection_goes_on(first: bytes, option: bytes, kept: bool) -> None:
    async with FastPlay() as play:
        request = EVENT.replace(b"POST /e/ HTTP/1.1", first).replace(b"Origin", option + b"Origin")
        client, upstream = await play.sent(request)
        said = (
            b""
            if first.endswith(b"1.1") and kept
            else b"Connection: " + (b"keep-alive" if kept else b"close")
        )
        heard = OK.replace(b"\r\n\r\n", b"\r\n" + said + b"\r\n\r\n") if said else OK
        await answered(client, upstream, heard=heard)
        if kept:
            client.say(request)
            await heard_request(upstream, b"hello")
            await answered(client, upstream, heard=heard)
        else:
            assert await client.hear_end() == b""
        assert play.fast == 1 + kept
        assert play.pool.state.idle == 1


async def test_the_last_request_of_a_connection_is_told_so() -> None:
    async with FastPlay(limits={"requests_per_connection": 2}) as play:
        client, upstream = await play.warm()
        await again(client, upstream)
        await answered(client, upstream, heard=CLOSING)
        assert await client.hear_end() == b""


async def test_a_connection_that_is_too_old_is_told_so() -> None:
    async with FastPlay() as play:
        client, upstream = await play.sent()
        play.clock.now += 2 * 3600
        await answered(client, upstream, heard=CLOSING)
        assert await client.hear_end() == b""


async def test_a_client_that_is_answered_and_has_more_to_say_but_may_not() -> None:
    async with FastPlay() as play:
        client, upstream = await play.sent(EVENT.replace(b"Origin", b"Connection: close\r\nOrigin"))
        client.say(READ)
        (connection,) = play.proxy.connections
        await play.until(lambda: bytes(connection.received) == READ)
        await answered(client, upstream, heard=CLOSING)
        await play.until(lambda: connection.state is State.LINGER)
        client.hang_up()


async def test_between_requests_it_idles_out() -> None:
    async with FastPlay() as play:
        client, _ = await play.warm()
        play.turn(74)
        assert play.proxy.connections
        play.turn(2)
        assert await client.hear_end() == b""


# --- answers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        OK,
        b"HTTP/1.1 204 No Content\r\nDate: D\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\nDate: D\r\nETag: x\r\nContent-Length: 9\r\n\r\n",
        b"HTTP/1.1 400 Bad Request\r\nDate: D\r\nContent-Length: 2\r\n\r\nno",
        b"HTTP/1.1 403 Forbidden\r\nDate: D\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 500 Oops\r\nDate: D\r\nContent-Length: 0\r\n\r\n",
    ],
)
async def test_answers_that_are_fast(answer: bytes) -> None:
    async with FastPlay() as play:
        client, upstream = await play.sent()
        await answered(client, upstream, answer)
        await again(client, upstream)
        await answered(client, upstream, answer)
        assert (play.fast, play.missed) == (2, set())
        status = int(answer[9:12])
        counted = play.proxy.counters.snapshot()["posthog_proxy_requests_total"]
        assert counted == {f'route="/e",class="ingest_v0",method="POST",code="{status // 100}xx"': 2}


@pytest.mark.parametrize("cut", [OK.index(b"\r\n\r\n") + 4, len(OK) - 1])
async def test_an_answer_in_pieces_is_waited_for(cut: int) -> None:
    async with FastPlay() as play:
        client, upstream = await play.sent()
        upstream.say(OK[:cut])
        await play.until(lambda: play.to_upstream.bytes_in == cut)
        await answered(client, upstream, OK[cut:], heard=OK)
        assert (play.fast, play.missed) == (1, set())
        await again(client, upstream, READ, b"")
        await answered(client, upstream)


@pytest.mark.parametrize("cut", [1, 20, OK.index(b"\r\n\r\n") + 3])
async def test_a_head_in_pieces_is_handed_over(cut: int) -> None:
    async with FastPlay() as play:
        client, upstream = await play.sent()
        upstream.say(OK[:cut])
        await play.until(lambda: play.to_upstream.bytes_in == cut)
        await answered(client, upstream, OK[cut:], heard=OK)
        assert (play.fast, play.missed) == (0, {"handed_over"})
        await again(client, upstream, READ, b"")
        await answered(client, upstream)
        assert (await play.line(2))["reused"] is True


def long_answer(size: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\nDate: D\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size


@pytest.mark.parametrize("size", [HELD - 50, HELD, HELD + 1, 500_000])
@pytest.mark.parametrize("first", [100, HELD + 10])
async def test_a_long_answer_in_pieces_arrives(size: int, first: int) -> None:
    """Even where the first piece is as long as what is read before a pause."""
    async with FastPlay() as play:
        client, upstream = await play.sent()
        answer = long_answer(size)
        upstream.say(answer[:first])
        await play.until(lambda: play.to_upstream.bytes_in == min(first, len(answer)))
        upstream.say(answer[first:])
        await client.hear(answer)
        assert play.missed <= {"handed_over"}
        await again(client, upstream, READ, b"")
        await answered(client, upstream)
        assert play.unasked


async def test_a_long_answer_that_comes_at_once_is_fast() -> None:
    async with FastPlay(limits={"held_body": 1000}) as play:
        client, upstream = await play.sent()
        await answered(client, upstream, long_answer(5000))
        assert play.fast == 1


@pytest.mark.parametrize(
    ("answer", "heard"),
    [
        (
            b"HTTP/1.1 200 OK\r\nDate: D\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nDate: D\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        ),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, OK),
        (b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" + OK, OK),
        (b"HTTP/1.1 503 U\r\nDate: D\r\nContent-Length: 0\r\n\r\n",) * 2,
    ],
)
async def test_answers_that_are_handed_over(answer: bytes, heard: bytes) -> None:
    async with FastPlay() as play:
        client, upstream = await play.sent()
        await answered(client, upstream, answer, heard=heard)
        assert (play.fast, play.missed) == (0, {"handed_over"})
        await again(client, upstream)
        await answered(client, upstream)
        assert play.fast == 1


async def test_a_connection_that_was_handed_over_and_is_idle_again_is_watched() -> None:
    async with FastPlay() as play:
        client, upstream = await play.sent()
        await answered(client, upstream, b"HTTP/1.1 100 Continue\r\n\r\n" + OK, heard=OK)
        await play.until(lambda: play.pool.state.idle == 1)
        upstream.hang_up()
        await play.until(lambda: play.pool.state.idle == 0)


async def test_an_answer_without_a_date_gets_one() -> None:
    async with FastPlay() as play:
        client, upstream = await play.sent()
        upstream.say(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        assert b"\r\nDate: Thu, 28 May 2026 " in (await client.hear_answer())[1]
        assert (play.fast, play.missed) == (1, set())


async def test_an_ambiguous_answer_is_502() -> None:
    async with FastPlay() as play:
        client, upstream = await play.sent(READ, b"")
        upstream.say(b"HTTP/1.1 200 OK\r\nDate: D\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na")
        assert (await client.hear_answer())[0] == 502
        assert await upstream.hear_end() == b""


@pytest.mark.parametrize("surplus", [b"x", OK])
@pytest.mark.parametrize("reused", [False, True])
async def test_bytes_behind_an_answer_end_its_connection(surplus: bytes, reused: bool) -> None:
    async with FastPlay() as play:
        client, upstream = await (play.warm() if reused else play.sent())
        if reused:
            await again(client, upstream)
        upstream.say(OK + surplus)
        await client.hear(OK)
        assert play.pool.state.idle == 0
        client.say(EVENT)
        second = await play.upstream()
        await heard_request(second, b"hello")
        await answered(client, second)
        assert await upstream.hear_end() == b""
        assert play.fast == 2 + reused


@pytest.mark.parametrize("reused", [False, True])
async def test_an_upstream_that_says_close_is_not_used_again(reused: bool) -> None:
    async with FastPlay() as play:
        client, upstream = await (play.warm() if reused else play.sent())
        if reused:
            await again(client, upstream)
        await answered(client, upstream, CLOSING, heard=OK)
        assert (play.fast, play.pool.state.idle) == (1 + reused, 0)
        assert await upstream.hear_end() == b""


async def test_an_sdk_read_that_a_sick_upstream_refused_is_asked_once_more() -> None:
    async with FastPlay() as play:
        client, upstream = await play.sent(READ, b"")
        upstream.say(SICK)
        second = await play.upstream()
        await second.hear_head()
        await answered(client, second)
        line = await play.line()
        assert (line["status"], line["retries"]) == (200, 1)
        assert play.missed == {"handed_over"}


@pytest.mark.parametrize("request_", [EVENT, FLAGS])
async def test_what_a_sick_upstream_says_to_others_is_passed_on_and_remembered(request_: bytes) -> None:
    async with FastPlay() as play:
        client, upstream = await play.sent(request_)
        await answered(client, upstream, SICK)
        assert play.unasked
        for _ in range(4):
            await again(client, upstream, request_)
            await answered(client, upstream, SICK)
        assert play.pool.breaker.state.value == "open"
