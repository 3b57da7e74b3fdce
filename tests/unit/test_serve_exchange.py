"""A general exchange, played: a line from the client, a line from the upstream, and what comes of it."""

from __future__ import annotations

import base64
import hashlib
import os

import pytest

from tests.support.play import Actor, Play

GET = b"GET /app HTTP/1.1\r\nHost: ph.example\r\n\r\n"
EVENT = (
    b"POST /e/ HTTP/1.1\r\nHost: ph.example\r\nOrigin: https://shop.example\r\nContent-Length: 5\r\n\r\nhello"
)
OK = b'HTTP/1.1 200 OK\r\nDate: D\r\nContent-Type: text/json\r\nContent-Length: 15\r\n\r\n{"status":"Ok"}'
CHUNKED_POST = b"POST /e/ HTTP/1.1\r\nHost: ph.example\r\nTransfer-Encoding: chunked\r\n\r\n"


async def heard_request(upstream: Actor, body: bytes = b"") -> bytes:
    head = await upstream.hear_head()
    await upstream.hear(body)
    return head


# --- the straight way -----------------------------------------------------------------------------


async def test_a_request_and_its_answer_pass_and_both_connections_are_kept() -> None:
    async with Play() as play:
        client = await play.client()
        client.say(EVENT)
        upstream = await play.upstream()
        head = await heard_request(upstream, b"hello")
        assert head.startswith(b"POST /e/ HTTP/1.1\r\nHost: ph.example\r\nOrigin: https://shop.example\r\n")
        upstream.say(OK)
        await client.hear(OK)
        client.say(EVENT)
        await heard_request(upstream, b"hello")
        upstream.say(OK)
        await client.hear(OK)
        line = await play.line(2)
        assert (line["status"], line["reused"], line["origin"], line["termination"]) == (
            200,
            True,
            "upstream",
            "--",
        )
        assert line["bytes_in"] == len(EVENT)
        assert line["bytes_out"] == len(OK)


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with Play() as play:
        client = await play.client()
        client.say(EVENT + EVENT + GET)
        upstream = await play.upstream()
        for body in (b"hello", b"hello", b""):
            await heard_request(upstream, body)
            upstream.say(OK)
            await client.hear(OK)


async def test_a_request_that_comes_byte_by_byte_is_the_same_request() -> None:
    async with Play() as play:
        client = await play.client()
        for at in range(len(EVENT)):
            client.say(EVENT[at : at + 1])
            await client.writer.drain()
        upstream = await play.upstream()
        await heard_request(upstream, b"hello")
        upstream.say(OK)
        await client.hear(OK)


@pytest.mark.parametrize("body", [b"", b"a", b"x" * 70_000])
async def test_chunked_bodies_are_read_and_framed_again(body: bytes) -> None:
    async with Play() as play:
        client = await play.client()
        pieces = [body[at : at + 9000] for at in range(0, len(body), 9000)]
        client.say(CHUNKED_POST + b"".join(b"%X;x=y\r\n%s\r\n" % (len(p), p) for p in pieces))
        client.say(b"0\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n")
        upstream = await play.upstream()
        head = await upstream.hear_head()
        assert head.endswith(b"Transfer-Encoding: chunked\r\n\r\n")
        got = b""
        while size := int(await upstream.reader.readuntil(b"\r\n"), 16):
            got += await upstream.hear_some(size)
            await upstream.hear(b"\r\n")
        await upstream.hear(b"\r\n")  # no trailer is ever passed on
        assert got == body
        upstream.say(OK)
        await client.hear(OK)


@pytest.mark.parametrize(
    ("answer", "heard"),
    [
        (
            b"HTTP/1.1 200 OK\r\nDate: D\r\nTransfer-Encoding: chunked\r\n\r\n5;q\r\nhello\r\n00\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nDate: D\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        ),
        (
            b"HTTP/1.1 304 Not Modified\r\nDate: D\r\nETag: a\r\nContent-Length: 9\r\n\r\n",
            b"HTTP/1.1 304 Not Modified\r\nDate: D\r\nETag: a\r\nContent-Length: 9\r\n\r\n",
        ),
        (b"HTTP/1.1 204 No Content\r\nDate: D\r\n\r\n", b"HTTP/1.1 204 No Content\r\nDate: D\r\n\r\n"),
        (
            b"HTTP/1.1 301 Moved\r\nDate: D\r\nLocation: http://ph.example/x\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 301 Moved\r\nDate: D\r\nLocation: http://ph.example/x\r\nContent-Length: 0\r\n\r\n",
        ),
        (
            b"HTTP/1.1 103 Early\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nDate: D\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nDate: D\r\nContent-Length: 0\r\n\r\n",
        ),
    ],
)
async def test_answers_get_our_framing_and_nothing_else_changes(answer: bytes, heard: bytes) -> None:
    async with Play() as play:
        client = await play.client()
        client.say(GET)
        upstream = await play.upstream()
        await upstream.hear_head()
        upstream.say(answer)
        await client.hear(heard)
        client.say(GET)  # and the connection is in step
        await upstream.hear_head()
        upstream.say(OK)
        await client.hear(OK)


async def test_an_answer_until_close_is_chunked_for_1_1_and_ends_the_connection_for_1_0() -> None:
    async with Play() as play:
        for request, heard in (
            (GET, b"HTTP/1.1 200 OK\r\nDate: D\r\nTransfer-Encoding: chunked\r\n\r\n"),
            (
                b"GET /app HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
                b"HTTP/1.1 200 OK\r\nDate: D\r\nConnection: close\r\n\r\n",
            ),
        ):
            client = await play.client()
            client.say(request)
            upstream = await play.upstream()
            await upstream.hear_head()
            upstream.say(b"HTTP/1.1 200 OK\r\nDate: D\r\n\r\n")
            await client.hear(heard)
            upstream.say(b"abc")
            await client.hear(b"3\r\nabc\r\n" if b"chunked" in heard else b"abc")
            upstream.hang_up()
            if b"chunked" in heard:
                await client.hear(b"0\r\n\r\n")
            else:
                assert await client.hear_end() == b""


async def test_http_1_0_keep_alive_is_kept_where_the_length_is_known() -> None:
    async with Play() as play:
        client = await play.client()
        for _ in range(2):
            client.say(b"GET /app HTTP/1.0\r\nHost: ph.example\r\nConnection: keep-alive\r\n\r\n")
        upstream = await play.upstream()
        for _ in range(2):
            await upstream.hear_head()
            upstream.say(b"HTTP/1.1 200 OK\r\nDate: D\r\nContent-Length: 1\r\n\r\na")
            await client.hear(
                b"HTTP/1.1 200 OK\r\nDate: D\r\nContent-Length: 1\r\nConnection: keep-alive\r\n\r\na"
            )


async def test_head_has_the_length_and_no_body() -> None:
    async with Play() as play:
        client = await play.client()
        client.say(b"HEAD /app HTTP/1.1\r\nHost: a\r\n\r\n")
        upstream = await play.upstream()
        await upstream.hear_head()
        upstream.say(b"HTTP/1.1 200 OK\r\nDate: D\r\nContent-Length: 500\r\n\r\n")
        await client.hear(b"HTTP/1.1 200 OK\r\nDate: D\r\nContent-Length: 500\r\n\r\n")


async def test_events_of_a_stream_come_one_by_one_as_they_are_sent() -> None:
    async with Play() as play:
        client = await play.client()
        client.say(b"GET /flags/stream HTTP/1.1\r\nHost: a\r\n\r\n")
        upstream = await play.upstream()
        await upstream.hear_head()
        upstream.say(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        await client.hear_head()  # the head does not wait for the first event
        for number in range(3):
            event = b"data: %d\n\n" % number
            upstream.say(b"%x\r\n%s\r\n" % (len(event), event))
            await client.hear(b"%x\r\n%s\r\n" % (len(event), event))


async def test_a_large_body_streams_before_its_end_and_a_small_one_is_complete_first() -> None:
    async with Play() as play:
        client = await play.client()
        client.say(b"POST /s/ HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n" + b"x" * 65_536)
        upstream = await play.upstream()
        await heard_request(upstream, b"x" * 65_536)
        client.say(b"y" * (200_000 - 65_536))
        await upstream.hear(b"y" * (200_000 - 65_536))
        upstream.say(OK)
        await client.hear(OK)
        small = await play.client()
        small.say(EVENT[:-1])
        await small.writer.drain()
        play.turn(1)
        assert play.unasked
        small.say(EVENT[-1:])
        await heard_request(upstream, b"hello")
        upstream.say(OK)
        await small.hear(OK)


async def test_100_continue_is_ours_and_comes_before_an_upstream_is_asked() -> None:
    async with Play() as play:
        client = await play.client()
        client.say(b"POST /e/ HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        await client.hear(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert play.unasked
        client.say(b"hello")
        upstream = await play.upstream()
        head = await heard_request(upstream, b"hello")
        assert b"Expect" not in head
        upstream.say(OK)
        await client.hear(OK)


async def test_a_refused_request_that_waits_for_continue_hears_the_refusal_instead() -> None:
    async with Play(limits={"body_ingest": 2048}) as play:
        client = await play.client()
        client.say(b"POST /e/ HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5000\r\n\r\n")
        status, head, _ = await client.hear_answer()
        assert status == 413
        assert b"Connection: close" in head


# --- caps, slowness, bad bodies -------------------------------------------------------------------


async def test_a_declared_body_over_the_cap_is_413_with_cors_and_lingers() -> None:
    async with Play(limits={"body_ingest": 1024}) as play:
        client = await play.client()
        client.say(
            b"POST /e/ HTTP/1.1\r\nHost: a\r\nOrigin: https://shop.example\r\nContent-Length: 5000\r\n\r\n"
        )
        client.say(b"x" * 5000)
        status, head, body = await client.hear_answer()
        assert status == 413
        assert b"Access-Control-Allow-Origin: https://shop.example\r\n" in head
        assert b'"code": "body_too_large"' in body
        assert await client.hear_end() == b""
        assert play.unasked
        assert (await play.line())["error"].startswith("body_too_large")


async def test_a_chunked_body_is_counted_and_cut_at_the_cap() -> None:
    async with Play(limits={"body_ingest": 100_000}) as play:
        client = await play.client()
        client.say(CHUNKED_POST + b"11170\r\n" + b"x" * 70_000 + b"\r\n")
        upstream = await play.upstream()
        await upstream.hear_head()
        client.say(b"11170\r\n" + b"x" * 70_000 + b"\r\n")
        status, _, _ = await client.hear_answer()
        assert status == 413
        assert b"0\r\n\r\n" not in await upstream.hear_end()


@pytest.mark.parametrize("held", [True, False])
async def test_a_bad_chunk_is_400_and_never_a_whole_request_upstream(held: bool) -> None:
    async with Play() as play:
        client = await play.client()
        client.say(CHUNKED_POST)
        if not held:
            client.say(b"11170\r\n" + b"x" * 70_000 + b"\r\n")
            upstream = await play.upstream()
            await upstream.hear_head()
        client.say(b"0x5\r\nhello\r\n0\r\n\r\n")
        status, _, _ = await client.hear_answer()
        assert status == 400
        if held:
            assert play.unasked
        else:
            assert not (await upstream.hear_end()).endswith(b"0\r\n\r\n")


@pytest.mark.parametrize(
    ("config", "wait"),
    [
        ({"timeouts": {"body_stall": 30.0}}, 31.0),
        ({"timeouts": {"body_ingest": 20.0}}, 21.0),
        ({"timeouts": {"body_min_rate": 500, "body_rate_grace": 5.0}}, 6.0),
    ],
)
async def test_a_slow_body_is_408(config: dict[str, object], wait: float) -> None:
    async with Play(**config) as play:
        client = await play.client()
        client.say(EVENT[:-1])
        await play.waiting_for_body()
        play.turn(wait - 3)
        play.turn(2)
        status, _, body = await client.hear_answer()
        assert status == 408
        assert b"body_timeout" in body
        line = await play.line()
        assert line["termination"] == "cB"


async def test_a_body_that_ends_with_the_connection_is_400_or_nothing() -> None:
    async with Play() as play:
        client = await play.client()
        client.say(EVENT[:-1])
        client.writer.write_eof()
        status, _, body = await client.hear_answer()
        assert status == 400
        assert b"body_incomplete" in body
        assert play.unasked


# --- the upstream fails ---------------------------------------------------------------------------


async def test_nobody_listens_events_hear_503_flags_502_pages_502() -> None:
    async with Play(pool={"retries": 0}) as play:
        await play.stop_upstream()
        for request, status in ((EVENT, 503), (EVENT.replace(b"/e/", b"/flags/"), 502), (GET, 502)):
            client = await play.client()
            client.say(request)
            got, head, body = await client.hear_answer()
            assert got == status
            assert (b"Retry-After: " in head) == (status == 503)
            assert (b"Access-Control-Allow-Origin: https://shop.example" in head) == (request is not GET)
            assert b'"type": "proxy_error"' in body


async def test_a_preflight_is_answered_while_the_upstream_is_down() -> None:
    async with Play(pool={"retries": 0}) as play:
        await play.stop_upstream()
        client = await play.client()
        client.say(
            b"OPTIONS /e/ HTTP/1.1\r\nHost: a\r\nOrigin: https://shop.example\r\n"
            b"Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: content-type\r\n\r\n"
        )
        status, head, _ = await client.hear_answer()
        assert status == 200
        assert b"Access-Control-Allow-Headers: content-type" in head


@pytest.mark.parametrize(
    ("path", "wait", "status"), [(b"/e/", 31.0, 503), (b"/flags/", 3.0, 504), (b"/app", 301.0, 504)]
)
async def test_a_late_answer(path: bytes, wait: float, status: int) -> None:
    async with Play() as play:
        client = await play.client()
        client.say(EVENT.replace(b"/e/", path))
        upstream = await play.upstream()
        await heard_request(upstream, b"hello")
        play.turn(wait)
        assert (await client.hear_answer())[0] == status
        assert await upstream.hear_end() == b""
        assert (await play.line())["termination"] == "sH"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nDate: D\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nDate: D\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 9,
        b"SMTP ready\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nDate: D\r\nX: " + b"y" * 70_000,
        b"HTTP/1.1 200 OK\r\nDate: D\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\n",
    ],
)
async def test_an_ambiguous_answer_is_502_and_its_connection_is_not_used_again(answer: bytes) -> None:
    async with Play() as play:
        client = await play.client()
        client.say(GET)
        upstream = await play.upstream()
        await upstream.hear_head()
        upstream.say(answer)
        assert (await client.hear_answer())[0] == 502
        client.say(GET)
        second = await play.upstream()
        await second.hear_head()
        second.say(OK)
        await client.hear(OK)


async def test_bytes_after_the_answer_end_the_upstream_connection() -> None:
    async with Play() as play:
        client = await play.client()
        client.say(GET)
        upstream = await play.upstream()
        await upstream.hear_head()
        upstream.say(OK + b"HTTP/1.1 200 OK\r\nDate: D\r\nContent-Length: 6\r\n\r\npoison")
        await client.hear(OK)
        client.say(GET)
        second = await play.upstream()
        await second.hear_head()
        second.say(OK)
        await client.hear(OK)


@pytest.mark.parametrize(
    ("begun", "heard"),
    [
        (
            b"HTTP/1.1 200 OK\r\nDate: D\r\nContent-Length: 50\r\n\r\nabc",
            b"HTTP/1.1 200 OK\r\nDate: D\r\nContent-Length: 50\r\n\r\nabc",
        ),
        (
            b"HTTP/1.1 200 OK\r\nDate: D\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
            b"HTTP/1.1 200 OK\r\nDate: D\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        ),
    ],
)
async def test_an_answer_that_breaks_off_is_reset_never_ended(begun: bytes, heard: bytes) -> None:
    async with Play(fast_path=False) as play:
        client = await play.client()
        client.say(GET)
        upstream = await play.upstream()
        await upstream.hear_head()
        upstream.say(begun)
        await client.hear(heard)
        upstream.hang_up()
        assert await client.is_reset()
        line = await play.line()
        assert line["error"].startswith("truncated: answer_truncated")
        assert line["termination"] == "SD"


async def test_an_answer_that_stalls_is_cut() -> None:
    async with Play(fast_path=False) as play:
        client = await play.client()
        client.say(GET)
        upstream = await play.upstream()
        await upstream.hear_head()
        upstream.say(b"HTTP/1.1 200 OK\r\nDate: D\r\nContent-Length: 50\r\n\r\nabc")
        await client.hear(b"HTTP/1.1 200 OK\r\nDate: D\r\nContent-Length: 50\r\n\r\nabc")
        play.turn(61)
        assert await client.is_reset()
        assert (await play.line())["termination"] == "sD"


# --- sending again --------------------------------------------------------------------------------


async def reused_connection_dies(play: Play, request: bytes, body: bytes) -> Actor:
    """1. a request makes a pooled connection; 2. the next one goes out on it; 3. it dies unanswered."""
    client = await play.client()
    client.say(GET)
    upstream = await play.upstream()
    await upstream.hear_head()
    upstream.say(OK)
    await client.hear(OK)
    client.say(request)
    await heard_request(upstream, body)
    upstream.hang_up()
    return client


@pytest.mark.parametrize(("request_", "body"), [(GET, b""), (EVENT, b"hello")])
async def test_a_safe_or_held_request_goes_again_on_a_fresh_connection(request_: bytes, body: bytes) -> None:
    async with Play() as play:
        client = await reused_connection_dies(play, request_, body)
        second = await play.upstream()
        await heard_request(second, body)
        second.say(OK)
        await client.hear(OK)
        assert (await play.line(2))["retries"] == 1


async def test_a_post_of_the_app_is_never_sent_twice() -> None:
    async with Play() as play:
        client = await reused_connection_dies(play, EVENT.replace(b"/e/", b"/api/x"), b"hello")
        assert (await client.hear_answer())[0] == 502
        assert play.unasked


async def test_a_fresh_connection_that_dies_is_not_tried_again() -> None:
    async with Play() as play:
        client = await play.client()
        client.say(GET)
        upstream = await play.upstream()
        await upstream.hear_head()
        upstream.hang_up()
        assert (await client.hear_answer())[0] == 502
        assert play.unasked


async def test_an_sdk_read_that_a_sick_upstream_refused_is_asked_once_more() -> None:
    async with Play() as play:
        client = await play.client()
        client.say(b"GET /array/phc_x/config.js HTTP/1.1\r\nHost: a\r\n\r\n")
        upstream = await play.upstream()
        await upstream.hear_head()
        upstream.say(b"HTTP/1.1 503 Service Unavailable\r\nDate: D\r\nContent-Length: 0\r\n\r\n")
        second = await play.upstream()
        await second.hear_head()
        second.say(b"HTTP/1.1 503 Service Unavailable\r\nDate: D\r\nContent-Length: 0\r\n\r\n")
        assert (await client.hear_answer())[0] == 503
        assert play.unasked


# --- early answers, clients that leave ------------------------------------------------------------


async def test_an_answer_before_the_body_ends_is_passed_on_and_the_connection_closed() -> None:
    async with Play() as play:
        client = await play.client()
        client.say(b"POST /s/ HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n" + b"x" * 70_000)
        upstream = await play.upstream()
        await upstream.hear_head()
        upstream.say(b"HTTP/1.1 413 Too Large\r\nDate: D\r\nContent-Length: 2\r\n\r\nno")
        status, head, body = await client.hear_answer()
        assert (status, body) == (413, b"no")
        assert b"Connection: close" in head
        assert await client.hear_end() == b""


async def test_a_body_that_breaks_while_the_answer_flows_cuts_both() -> None:
    async with Play() as play:
        client = await play.client()
        client.say(CHUNKED_POST + b"11170\r\n" + b"x" * 70_000 + b"\r\n")
        upstream = await play.upstream()
        await upstream.hear_head()
        upstream.say(b"HTTP/1.1 200 OK\r\nDate: D\r\nContent-Length: 10\r\n\r\nabc")
        await client.hear_head()
        client.say(b"nonsense\r\n")
        assert await client.is_reset()
        assert (await play.line())["error"].startswith("truncated: bad_chunk")


@pytest.mark.parametrize("answered", [False, True])
async def test_a_client_that_leaves_cancels_the_upstream_at_once(answered: bool) -> None:
    async with Play(fast_path=False) as play:
        client = await play.client()
        client.say(GET)
        upstream = await play.upstream()
        await upstream.hear_head()
        if answered:
            upstream.say(b"HTTP/1.1 200 OK\r\nDate: D\r\nContent-Length: 50\r\n\r\nabc")
            await client.hear_head()
        client.hang_up()
        assert await upstream.hear_end() == b""
        line = await play.line()
        assert line["termination"] == ("CD" if answered else "CH")
        assert line["status"] == (200 if answered else 499)


# --- WebSocket ------------------------------------------------------------------------------------


def handshake(path: bytes = b"/ws/x") -> tuple[bytes, bytes]:
    key = base64.b64encode(os.urandom(16))
    accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    request = (
        b"GET %s HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n\r\n" % (path, key)
    )
    answer = (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: %s\r\n\r\n" % accept
    )
    return request, answer


async def test_after_a_valid_101_bytes_are_relayed_both_ways_until_one_side_ends() -> None:
    async with Play() as play:
        request, answer = handshake()
        client = await play.client()
        client.say(request)
        upstream = await play.upstream()
        head = await upstream.hear_head()
        assert b"Connection: Upgrade\r\nUpgrade: websocket\r\n" in head
        upstream.say(answer + b"welcome")
        assert (await client.hear_head()).startswith(b"HTTP/1.1 101 ")
        await client.hear(b"welcome")
        client.say(b"ping")
        await upstream.hear(b"ping")
        upstream.say(b"pong" * 100_000)
        await client.hear(b"pong" * 100_000)
        client.hang_up()
        assert await upstream.hear_end() == b""
        upstream.hang_up()
        line = await play.line()
        assert (line["status"], line["termination"]) == (101, "--")


async def test_an_idle_tunnel_ends() -> None:
    async with Play() as play:
        request, answer = handshake()
        client = await play.client()
        client.say(request)
        upstream = await play.upstream()
        await upstream.hear_head()
        upstream.say(answer)
        await client.hear_head()
        client.say(b"ping")
        await upstream.hear(b"ping")
        play.turn(3601)
        assert await client.hear_end() == b""
        assert (await play.line())["termination"] == "cT"


async def test_a_wrong_accept_is_502_and_no_tunnel() -> None:
    async with Play() as play:
        request, _ = handshake()
        _, other = handshake()
        client = await play.client()
        client.say(request)
        upstream = await play.upstream()
        await upstream.hear_head()
        upstream.say(other)
        assert (await client.hear_answer())[0] == 502
        assert await upstream.hear_end() == b""


async def test_an_upgrade_on_a_route_without_websocket_is_an_ordinary_get() -> None:
    async with Play() as play:
        request, _ = handshake(b"/e/")
        client = await play.client()
        client.say(request)
        upstream = await play.upstream()
        head = await upstream.hear_head()
        assert b"Upgrade" not in head
        upstream.say(OK)
        await client.hear(OK)


# --- our own faults -------------------------------------------------------------------------------


async def test_a_bug_of_ours_costs_one_request_and_is_told_in_the_error_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("a bug")

    async with Play(fast_path=False) as play:
        client = await play.client()
        monkeypatch.setattr("proxy.serve.exchange.decide", broken)
        client.say(GET)
        status, _, body = await client.hear_answer()
        assert status == 500
        assert b"a bug" not in body
        monkeypatch.undo()
        client = await play.client()
        client.say(GET)
        upstream = await play.upstream()
        await upstream.hear_head()
        upstream.say(OK)
        await client.hear(OK)
        play.turn(0)
        assert b"KeyError" in play.errors


# --- too many requests ----------------------------------------------------------------------------

FEW = {"fast_path": False, "limits": {"rate_per_client": 0.1, "rate_burst": 1}}


async def answered_once(play: Play) -> Actor:
    """A client that has used its only token."""
    client = await play.client()
    client.say(GET)
    upstream = await play.upstream()
    await upstream.hear_head()
    upstream.say(OK)
    await client.hear(OK)
    return client


async def test_a_client_that_asks_too_often_hears_429_once_its_small_body_is_read() -> None:
    async with Play(**FEW) as play:
        client = await answered_once(play)
        for _ in range(2):
            client.say(EVENT[:-1])
            await play.until(lambda: any(connection.exchange for connection in play.proxy.connections))
            client.say(EVENT[-1:])
            status, head, _ = await client.hear_answer()
            assert (status, b"\r\nRetry-After: 10\r\n" in head, b"Connection: close" in head) == (
                429,
                True,
                False,
            )
        line = await play.line(3)
        assert (line["status"], line["origin"], line["route"]) == (429, "proxy", "/e")
        assert line["error"] == "rate_limited: too many requests from this address"
        assert line["bytes_in"] == len(EVENT)


async def test_a_large_body_of_such_a_client_is_not_read() -> None:
    async with Play(**FEW) as play:
        client = await answered_once(play)
        client.say(
            b"POST /e/ HTTP/1.1\r\nHost: ph.example\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 70_000
        )
        status, head, _ = await client.hear_answer()
        assert (status, b"Connection: close" in head) == (429, True)


async def test_such_a_client_is_not_told_to_go_on() -> None:
    async with Play(**FEW) as play:
        client = await answered_once(play)
        client.say(
            b"POST /e/ HTTP/1.1\r\nHost: ph.example\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
        )
        status, head, _ = await client.hear_answer()
        assert (status, b"Connection: close" in head) == (429, True)


async def test_clients_of_a_trusted_balancer_are_counted_apart() -> None:
    async with Play(**FEW, trust={"proxies": ["127.0.0.1"]}) as play:
        client = await play.client()
        upstream = None
        for number in range(3):
            client.say(GET.replace(b"\r\n\r\n", b"\r\nX-Forwarded-For: 203.0.113.%d\r\n\r\n" % number))
            upstream = upstream or await play.upstream()
            await upstream.hear_head()
            upstream.say(OK)
            await client.hear(OK)
        client.say(GET.replace(b"\r\n\r\n", b"\r\nX-Forwarded-For: 203.0.113.1\r\n\r\n"))
        assert (await client.hear_answer())[0] == 429
