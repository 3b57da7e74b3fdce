"""Bodies that are larger than what is held: the same plays, copied and spliced, begun by the fast path and by
a general exchange."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from typing import TYPE_CHECKING, Any

import pytest

from proxy.errors import Failure, Source
from proxy.serve.streaming import stuck_client
from tests.support.play import Actor, Play

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [
    pytest.mark.both_loops,
    pytest.mark.parametrize("splice_bytes", [0, 1], ids=["copying", "splicing"]),
]

HELD = 65_536
"""`limits.held_body`: a body up to this size is complete before the upstream hears of it."""

BODY = os.urandom(HELD + 200_000)
REST = BODY[HELD:]
POST = b"POST /s/ HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(BODY)
GET = b"GET /static/array.js HTTP/1.1\r\nHost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nDate: D\r\nContent-Length: 2\r\n\r\nOk"

ANSWER = os.urandom(300_000)
ANSWER_HEAD = b"HTTP/1.1 200 OK\r\nDate: D\r\nContent-Length: %d\r\n\r\n" % len(ANSWER)

ENDLESS = 64 * 1024 * 1024
"""More than all buffers on the way hold."""


DEFAULTS: dict[str, Any] = {}


@pytest.fixture(autouse=True, params=[True, False], ids=["fast", "general"])
def fast(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Which path begins."""
    monkeypatch.setitem(DEFAULTS, "fast_path", request.param)
    return bool(request.param)


def play_with(splice_bytes: int, **config: Any) -> Play:
    limits = {"splice_bytes": splice_bytes} | config.pop("limits", {})
    return Play(limits=limits, **DEFAULTS, **config)


async def begin_upload(play: Play, post: bytes = POST) -> tuple[Actor, Actor]:
    """The upstream has the head and what was held; the rest is to come."""
    client = await play.client()
    client.say(post + BODY[:HELD])
    upstream = await play.upstream()
    await upstream.hear_head()
    await upstream.hear(BODY[:HELD])
    return client, upstream


async def begin_download(play: Play, get: bytes = GET) -> tuple[Actor, Actor]:
    """The client has the head and the first bytes; the rest is to come."""
    client = await play.client()
    client.say(get)
    upstream = await play.upstream()
    await upstream.hear_head()
    upstream.say(ANSWER_HEAD + ANSWER[:10])
    await client.hear(ANSWER_HEAD + ANSWER[:10])
    return client, upstream


async def hear_chunks(actor: Actor) -> bytes:
    """A chunked body."""
    body = b""
    while size := int(await actor.reader.readuntil(b"\r\n"), 16):
        body += await actor.hear_some(size)
        await actor.hear(b"\r\n")
    await actor.hear(b"\r\n")
    return body


async def stand_still(count: Callable[[], int]) -> None:
    """Until nothing moves any more."""
    before = -1
    while before < count():
        before = count()
        for _ in range(100):
            await asyncio.sleep(0)


def reset(actor: Actor) -> None:
    """Close with a reset."""
    sock = actor.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    actor.writer.transport.abort()


# --- the straight way -----------------------------------------------------------------------------


async def test_both_directions_on_kept_connections(splice_bytes: int, fast: bool) -> None:
    async with play_with(splice_bytes) as play:
        client, upstream = await begin_upload(play)
        for _ in range(2):
            client.say(REST)
            await upstream.hear(REST)
            upstream.say(ANSWER_HEAD + ANSWER[:10])
            await client.hear(ANSWER_HEAD + ANSWER[:10])
            upstream.say(ANSWER[10:])
            await client.hear(ANSWER[10:])
            client.say(POST + BODY[:HELD])
            await upstream.hear_head()
            await upstream.hear(BODY[:HELD])
        assert play.unasked
        line = await play.line(2)
        assert (line["status"], line["reused"], line["termination"]) == (200, True, "--")
        assert line["bytes_in"] == len(POST) + len(BODY)
        assert line["bytes_out"] == len(ANSWER_HEAD) + len(ANSWER)
        counters = play.proxy.counters
        assert counters.request_bytes == 2 * (len(POST) + len(BODY))
        assert counters.response_bytes == 2 * (len(ANSWER_HEAD) + len(ANSWER))
        # And it really is what the test is called after.
        spliced = 2 * splice_bytes
        # The fast path holds what one read gives: the second time it is one in pieces.
        more = len(POST) * fast * splice_bytes
        assert counters.request_bytes_spliced == spliced * len(REST) + more
        assert counters.fast_path == 2 * fast
        assert counters.response_bytes_spliced == spliced * (len(ANSWER) - 10)


async def test_a_rest_below_the_threshold_is_copied(splice_bytes: int) -> None:
    async with play_with(splice_bytes * len(BODY)) as play:
        client, upstream = await begin_upload(play)
        client.say(REST)
        await upstream.hear(REST)
        upstream.say(OK)
        await client.hear(OK)
        assert play.proxy.counters.request_bytes_spliced == 0


async def test_a_request_that_is_pipelined_behind_a_large_body(splice_bytes: int) -> None:
    async with play_with(splice_bytes) as play:
        client, upstream = await begin_upload(play)
        client.say(REST + GET)
        await upstream.hear(REST)
        upstream.say(OK)
        await client.hear(OK)
        assert (await upstream.hear_head()).startswith(b"GET /static/array.js ")
        upstream.say(OK)
        await client.hear(OK)


async def test_bytes_behind_a_large_answer_end_the_upstream_connection(splice_bytes: int) -> None:
    async with play_with(splice_bytes) as play:
        client, upstream = await begin_download(play)
        upstream.say(ANSWER[10:] + b"HTTP/1.1 200 OK\r\nDate: D\r\nContent-Length: 6\r\n\r\npoison")
        await client.hear(ANSWER[10:])
        client.say(GET)
        second = await play.upstream()
        await second.hear_head()
        second.say(OK)
        await client.hear(OK)


async def test_http_1_0_is_kept_where_it_asks_for_it(splice_bytes: int) -> None:
    async with play_with(splice_bytes) as play:
        client = await play.client()
        client.say(b"GET /static/array.js HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n" * 2)
        upstream = await play.upstream()
        for _ in range(2):
            await upstream.hear_head()
            upstream.say(ANSWER_HEAD + ANSWER)
            assert b"Connection: keep-alive" in await client.hear_head()
            await client.hear(ANSWER)


async def test_what_is_framed_is_always_copied(splice_bytes: int) -> None:
    async with play_with(splice_bytes) as play:
        client = await play.client()
        chunk = b"%x\r\n%s\r\n" % (len(BODY), BODY)
        client.say(b"POST /s/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk)
        upstream = await play.upstream()
        await upstream.hear_head()
        client.say(b"0\r\n\r\n")
        assert await hear_chunks(upstream) == BODY
        upstream.say(
            b"HTTP/1.1 200 OK\r\nDate: D\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk + b"0\r\n\r\n"
        )
        await client.hear_head()
        assert await hear_chunks(client) == BODY
        counters = play.proxy.counters
        assert counters.request_bytes_spliced == counters.response_bytes_spliced == 0


# --- a client that is slow, or leaves -------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "wait"),
    [
        ({"timeouts": {"body_stall": 30.0, "body_min_rate": 0}}, 30.0),
        ({"timeouts": {"body_ingest": 20.0}}, 20.0),
        ({"timeouts": {"body_min_rate": 10_000, "body_rate_grace": 5.0}}, 16.5),
    ],
)
async def test_a_body_that_stops_is_408(splice_bytes: int, config: dict[str, Any], wait: float) -> None:
    async with play_with(splice_bytes, **config) as play:
        client, upstream = await begin_upload(play)
        client.say(REST[:100_000])
        await upstream.hear(REST[:100_000])
        play.turn(wait - 1)
        assert play.lines() == []
        play.turn(1.1)
        status, head, body = await client.hear_answer()
        assert status == 408
        assert b"Connection: close" in head
        assert b"body_timeout" in body
        assert await upstream.hear_end() == b""
        line = await play.line()
        assert line["termination"] == "cH"
        assert line["bytes_in"] == len(POST) + HELD + 100_000


async def test_a_body_that_trickles_is_408(splice_bytes: int) -> None:
    config = {"timeouts": {"body_min_rate": 10_000, "body_rate_grace": 5.0}}
    async with play_with(splice_bytes, **config) as play:
        client, upstream = await begin_upload(play)
        for second in range(6):
            play.turn(1)
            client.say(REST[second : second + 1])
            await upstream.hear(REST[second : second + 1])
        play.turn(1)
        assert (await client.hear_answer())[0] == 408


async def test_a_body_that_ends_with_the_connection_is_400_and_not_whole_upstream(splice_bytes: int) -> None:
    async with play_with(splice_bytes) as play:
        client, upstream = await begin_upload(play)
        client.say(REST[:100_000])
        client.writer.write_eof()
        status, _, body = await client.hear_answer()
        assert status == 400
        assert b"body_incomplete" in body
        assert await upstream.hear_end() == REST[:100_000]
        assert (await play.line())["bytes_in"] == len(POST) + HELD + 100_000


async def test_a_client_that_breaks_off_its_body_cuts_the_upstream(splice_bytes: int) -> None:
    async with play_with(splice_bytes) as play:
        client, upstream = await begin_upload(play)
        client.say(REST[:1000])
        await upstream.hear(REST[:1000])
        reset(client)
        assert await upstream.hear_end() == b""
        line = await play.line()
        assert (line["status"], line["error"].split(":")[0]) == (499, "client_gone")


@pytest.mark.parametrize("leave", [Actor.hang_up, reset, lambda client: client.writer.write_eof()])
async def test_a_client_that_leaves_while_the_upstream_stalls_is_noticed(
    splice_bytes: int, leave: Callable[[Actor], None]
) -> None:
    async with play_with(splice_bytes) as play:
        client, upstream = await begin_download(play)
        leave(client)
        assert await upstream.hear_end() == b""
        line = await play.line()
        assert (line["termination"], line["error"].split(":")[:2]) == ("CD", ["truncated", " client_gone"])


@pytest.mark.parametrize("together", [True, False])
async def test_a_client_that_leaves_before_its_answer_is_noticed(splice_bytes: int, together: bool) -> None:
    async with play_with(splice_bytes) as play:
        client = await play.client()
        client.say(POST + (BODY if together else BODY[:HELD]))
        upstream = await play.upstream()
        await upstream.hear_head()
        await upstream.hear(BODY[:HELD])
        if not together:
            client.say(REST)
        await upstream.hear(REST)
        client.hang_up()
        assert await upstream.hear_end() == b""
        assert (await play.line())["termination"] == "CH"


async def test_a_client_that_leaves_while_it_is_written_to_is_noticed(splice_bytes: int) -> None:
    async with play_with(splice_bytes) as play:
        client, upstream = await begin_endless_download(play)
        reset(client)
        await upstream.hear_end()
        line = await play.line()
        assert (line["termination"], line["error"].split(":")[:2]) == ("CD", ["truncated", " client_gone"])


async def begin_endless_download(play: Play) -> tuple[Actor, Actor]:
    """A download that stands still, as its client reads nothing."""
    client = await play.client()
    client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.reader._transport.pause_reading()  # type: ignore[attr-defined]
    client.say(GET)
    upstream = await play.upstream()
    await upstream.hear_head()
    upstream.say(b"HTTP/1.1 200 OK\r\nDate: D\r\nContent-Length: %d\r\n\r\n" % ENDLESS + bytes(ENDLESS))
    (connection,) = play.proxy.connections
    await stand_still(lambda: connection.bytes_out)
    assert 0 < connection.bytes_out < ENDLESS
    return client, upstream


async def test_a_client_that_reads_nothing_is_cut_and_holds_only_bounded_memory(splice_bytes: int) -> None:
    async with play_with(splice_bytes) as play:
        await begin_endless_download(play)
        (connection,) = play.proxy.connections
        assert connection.transport.get_write_buffer_size() <= (256 + 64 + 256) * 1024
        play.turn(61)  # the kernel took some at first
        await stand_still(lambda: connection.bytes_out)
        play.turn(61)
        line = await play.line()
        assert line["error"].startswith("truncated: client_write_timeout")
        assert line["termination"] == "cD"


# --- an upstream that fails, or answers early -----------------------------------------------------


@pytest.mark.parametrize("leave", [Actor.hang_up, reset])
async def test_an_upstream_that_leaves_inside_the_body(
    splice_bytes: int, leave: Callable[[Actor], None]
) -> None:
    async with play_with(splice_bytes) as play:
        client, upstream = await begin_upload(play)
        leave(upstream)
        status, _, body = await client.hear_answer()
        assert status == 503  # so that the SDK keeps the recording
        assert b"upstream_closed" in body
        client.say(REST)
        assert await client.hear_end() == b""
        assert play.unasked


async def test_an_upstream_that_stops_reading(splice_bytes: int) -> None:
    async with play_with(splice_bytes, timeouts={"write_stall": 20.0}) as play:
        client = await play.client()
        client.say(
            b"POST /api/x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % ENDLESS + bytes(ENDLESS)
        )
        upstream = await play.upstream()
        upstream.reader._transport.pause_reading()  # type: ignore[attr-defined]
        (connection,) = play.proxy.connections
        await stand_still(lambda: connection.bytes_in)
        play.turn(21)
        await stand_still(lambda: connection.bytes_in)
        play.turn(21)
        line = await play.line()
        assert (line["status"], line["error"].split(":")[0]) == (504, "upstream_write_timeout")


@pytest.mark.parametrize("closes", [False, True])
async def test_an_answer_before_the_body_ends_is_passed_on(splice_bytes: int, closes: bool) -> None:
    async with play_with(splice_bytes) as play:
        client, upstream = await begin_upload(play)
        client.say(REST[:1000])
        await upstream.hear(REST[:1000])
        upstream.say(b"HTTP/1.1 413 Too Large\r\nDate: D\r\nContent-Length: 2\r\n\r\nno")
        if closes:
            upstream.hang_up()
        status, head, body = await client.hear_answer()
        assert (status, body) == (413, b"no")
        assert b"Connection: close" in head
        client.say(REST[1000:])
        assert await client.hear_end() == b""
        assert (await play.line())["termination"] == "--"


async def test_an_answer_and_the_body_flow_at_once(splice_bytes: int) -> None:
    async with play_with(splice_bytes) as play:
        client, upstream = await begin_upload(play)
        upstream.say(ANSWER_HEAD.replace(b"200 OK", b"201 Created") + ANSWER[:10])
        await client.hear_head()
        await client.hear(ANSWER[:10])
        client.say(REST[:1000])
        await upstream.hear(REST[:1000])
        upstream.say(ANSWER[10:1000])
        await client.hear(ANSWER[10:1000])
        client.say(REST[1000:])
        await upstream.hear(REST[1000:])
        upstream.say(ANSWER[1000:])
        await client.hear(ANSWER[1000:])
        line = await play.line()
        assert (line["status"], line["termination"]) == (201, "--")
        assert line["bytes_in"] == len(POST) + len(BODY)


@pytest.mark.parametrize(
    ("leave", "wait"), [(Actor.hang_up, 0.0), (reset, 0.0), (lambda upstream: None, 61.0)]
)
async def test_an_answer_that_breaks_off_or_stalls_is_reset_never_ended(
    splice_bytes: int, leave: Callable[[Actor], None], wait: float
) -> None:
    async with play_with(splice_bytes) as play:
        client, upstream = await begin_download(play)
        upstream.say(ANSWER[10:1000])
        await client.hear(ANSWER[10:1000])
        leave(upstream)
        play.turn(wait)
        assert await client.is_reset()
        line = await play.line()
        assert line["termination"] == ("sD" if wait else "SD")
        assert line["error"].startswith("truncated: ")
        assert line["bytes_out"] == len(ANSWER_HEAD) + 1000


async def test_a_pause_in_the_answer_may_come_again(splice_bytes: int) -> None:
    async with play_with(splice_bytes) as play:
        client, upstream = await begin_download(play)
        for at in range(10, 15):
            play.turn(59)
            upstream.say(ANSWER[at : at + 1])
            await client.hear(ANSWER[at : at + 1])
        upstream.say(ANSWER[15:])
        await client.hear(ANSWER[15:])
        assert (await play.line())["termination"] == "--"


# --- the proxy stops ------------------------------------------------------------------------------


@pytest.mark.parametrize("begin", [begin_upload, begin_download])
async def test_a_stop_cuts_what_is_under_way(splice_bytes: int, begin: Callable[..., Any]) -> None:
    async with play_with(splice_bytes) as play:
        client, upstream = await begin(play)
        await play.proxy.close()
        await client.hear_end()
        await upstream.hear_end()
        assert (await play.line())["error"].endswith("draining: the proxy is shutting down")


# --- a proxy that stops ---------------------------------------------------------------------------


async def test_an_answer_that_a_stop_cuts_is_reset_and_logged_as_such(splice_bytes: int) -> None:
    async with play_with(splice_bytes) as play:
        client, _ = await begin_download(play)
        (connection,) = play.proxy.connections
        connection.stop(stuck_client())
        assert await client.is_reset()
        line = await play.line()
        assert (line["status"], line["upstream_status"], line["reused"]) == (200, 200, False)
        assert line["error"].startswith("truncated: client_write_timeout")
        assert line["bytes_out"] == len(ANSWER_HEAD) + 10
        assert play.proxy.counters.requests_in_flight == 0


async def test_an_upload_that_a_stop_cuts_is_answered(splice_bytes: int) -> None:
    async with play_with(splice_bytes) as play:
        client, upstream = await begin_upload(play)
        client.say(REST[:1000])
        await upstream.hear(REST[:1000])
        (connection,) = play.proxy.connections
        connection.stop(Failure(Source.PROXY, "draining", 503, "the proxy is shutting down"))
        assert (await client.hear_answer())[0] == 503
        assert await upstream.hear_end() == b""
        assert (await play.line())["error"].startswith("draining")


async def test_an_answer_in_the_turn_in_which_the_body_ends(splice_bytes: int, fast: bool) -> None:
    """The task that has moved the last byte has not told yet."""
    async with play_with(splice_bytes) as play:
        client, upstream = await begin_upload(play)
        client.say(REST)
        await upstream.hear(REST)
        upstream.say(OK)
        await client.hear(OK)
        assert play.proxy.counters.fast_path == fast


async def test_a_large_body_on_a_connection_that_must_first_be_opened(splice_bytes: int, fast: bool) -> None:
    async with play_with(splice_bytes) as play:
        client = await play.client()
        client.say(POST + BODY)
        upstream = await play.upstream()
        await upstream.hear_head()
        await upstream.hear(BODY)
        upstream.say(ANSWER_HEAD + ANSWER)
        await client.hear(ANSWER_HEAD + ANSWER)
        assert play.proxy.counters.fast_path == fast
        assert (await play.line())["bytes_out"] == len(ANSWER_HEAD) + len(ANSWER)


async def test_a_large_body_without_an_upstream_is_refused(splice_bytes: int) -> None:
    async with play_with(splice_bytes, pool={"retries": 0}) as play:
        await play.stop_upstream()
        client = await play.client()
        client.say(POST + BODY[:HELD])
        assert (await client.hear_answer())[0] == 503
        line = await play.line()
        assert line["error"].startswith("connect_refused")
