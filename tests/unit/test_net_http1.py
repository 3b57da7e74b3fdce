"""One exchange on one upstream connection, byte by byte, without a socket."""

from __future__ import annotations

import asyncio
import re

import pytest

from proxy.clock import NEVER, Deadlines
from proxy.errors import Failure, Resend, Source
from proxy.message import CHUNKED, NO_BODY, Framing, FramingKind, RequestHead, ResponseHead
from proxy.net.http1 import AnswerLimits, Http1Exchange
from proxy.net.stream import Stream
from proxy.wire.strict import HeadLimits
from tests.support.clock import HandClock

LIMITS = AnswerLimits(HeadLimits(head_bytes=2000, lines=20), interim=2, trailer_bytes=100)


class Recorder(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        self.closed = True

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


def started(
    method: bytes = b"GET", framing: Framing = NO_BODY, body: bytes = b"", *, complete: bool = True
) -> tuple[Http1Exchange, Stream, Recorder]:
    stream = Stream(Deadlines(HandClock()), read_limit=65536, write_limit=65536)
    recorder = Recorder()
    stream.transport = recorder
    exchange = Http1Exchange(stream, LIMITS)
    head = RequestHead(method, b"/", 1, (), b"a", framing)
    exchange.send_head(b"HEAD\r\n\r\n", head, body, complete)
    return exchange, stream, recorder


def late() -> Failure:
    return Failure(Source.UPSTREAM, "late", 504, "late")


async def answer_of(exchange: Http1Exchange, stream: Stream, data: bytes) -> tuple[int, bytes]:
    """Feed an answer one byte at a time and read all of it."""

    async def read() -> tuple[int, bytes]:
        head = await exchange.read_head(NEVER, late)
        pieces = []
        while piece := await exchange.read_body(NEVER, late):
            pieces.append(piece)
        return head.status, b"".join(pieces)

    reading = asyncio.create_task(read())
    for at in range(len(data)):
        await asyncio.sleep(0)
        stream.data_received(data[at : at + 1])
    await asyncio.sleep(0)
    return await reading


def test_head_and_held_body_go_out_in_one_write() -> None:
    exchange, _, recorder = started(b"POST", Framing(FramingKind.LENGTH, 5), b"hello")
    assert recorder.written == [b"HEAD\r\n\r\nhello"]
    exchange.end_body()
    assert len(recorder.written) == 1  # nothing to add
    _, _, recorder = started(b"POST", CHUNKED, b"hello")
    assert recorder.written == [b"HEAD\r\n\r\n5\r\nhello\r\n0\r\n\r\n"]


def test_more_body_is_framed_piece_by_piece() -> None:
    exchange, _, recorder = started(b"POST", CHUNKED, complete=False)
    exchange.send_body(b"abc")
    exchange.end_body()
    assert recorder.written == [b"HEAD\r\n\r\n", b"3\r\nabc\r\n", b"0\r\n\r\n"]
    assert repr(exchange).startswith("<Http1Exchange SENT")


def test_a_body_stands_bare_where_it_is_not_framed() -> None:
    exchange, stream, _ = started(b"POST", Framing(FramingKind.LENGTH, 5), complete=False)
    assert exchange.bare_sink is stream
    exchange, *_ = started(b"POST", CHUNKED, complete=False)
    assert exchange.bare_sink is None


async def test_the_rest_of_an_answer_may_go_by() -> None:
    exchange, stream, _ = started()
    stream.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
    await exchange.read_head(NEVER, late)
    rest = exchange.remainder(7.0, late)
    assert (rest.stream, rest.remaining) == (stream, 10)
    assert rest.take() == b"abc"
    rest.passed(4)
    rest.waited(1.0)
    assert (rest.remaining, rest.spliced, rest.due(50.0)) == (3, 4, 57.0)
    assert rest.late().kind == "late"
    assert not exchange.over
    rest.passed(3)
    assert await exchange.read_body(NEVER, late) == b""
    assert exchange.over
    assert exchange.reusable


@pytest.mark.parametrize(
    "head",
    [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"],
)
async def test_nothing_may_go_by_that_is_framed_or_has_no_length(head: bytes) -> None:
    exchange, stream, _ = started()
    stream.data_received(head)
    await exchange.read_head(NEVER, late)
    assert exchange.remainder(7.0, late).remaining == 0


@pytest.mark.parametrize(
    ("data", "status", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", 200, b"abc"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nT: x\r\n\r\n", 200, b"abc"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", 204, b""),
    ],
)
async def test_an_answer_in_single_bytes(data: bytes, status: int, body: bytes) -> None:
    exchange, stream, _ = started()
    assert not exchange.answered
    assert not exchange.reusable
    assert await answer_of(exchange, stream, data) == (status, body)
    assert exchange.answered
    assert exchange.over
    assert exchange.reusable
    assert repr(exchange).startswith("<Http1Exchange OVER")


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    ],
)
async def test_an_upstream_that_says_close_is_not_used_again(data: bytes) -> None:
    exchange, stream, _ = started()
    await answer_of(exchange, stream, data)
    assert exchange.over
    assert not exchange.reusable


async def test_leftover_bytes_an_unsent_body_and_an_end_forbid_reuse() -> None:
    ok = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    exchange, stream, _ = started()
    stream.data_received(ok + b"more")
    await exchange.read_head(NEVER, late)
    assert not exchange.reusable
    exchange, stream, _ = started(b"POST", Framing(FramingKind.LENGTH, 9), b"part", complete=False)
    await answer_of(exchange, stream, ok)
    assert not exchange.reusable
    exchange, stream, _ = started()
    stream.data_received(ok)
    stream.eof_received()
    await exchange.read_head(NEVER, late)
    assert not exchange.reusable


async def test_a_body_without_length_ends_with_a_clean_close_only() -> None:
    begun = b"HTTP/1.1 200 OK\r\n\r\nabc"
    exchange, stream, _ = started()
    stream.data_received(begun)
    await exchange.read_head(NEVER, late)
    assert exchange.take_body() == b"abc"
    stream.eof_received()
    assert await exchange.read_body(NEVER, late) == b""
    assert exchange.over
    assert not exchange.reusable
    exchange, stream, _ = started()
    stream.data_received(begun)
    await exchange.read_head(NEVER, late)
    exchange.take_body()
    stream.connection_lost(ConnectionResetError())
    with pytest.raises(Failure, match="broke inside"):
        await exchange.read_body(NEVER, late)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"HTTP/1.1 101 Switching\r\n\r\n", "unasked_upgrade"),
        (b"HTTP/1.1 100 C\r\n\r\n" * 3, "too_many_interim"),
        (b"nonsense\r\n\r\n", "bad_status_line"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 3000, "X"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "length"),
    ],
)
async def test_a_bad_head_is_502_and_never_sent_again(data: bytes, kind: str) -> None:
    exchange, stream, _ = started()
    stream.data_received(data)
    with pytest.raises(Failure, match=re.escape(kind)) as caught:
        await exchange.read_head(NEVER, late)
    assert (caught.value.status, caught.value.source, caught.value.resend) == (
        502,
        Source.UPSTREAM,
        Resend.NEVER,
    )


@pytest.mark.parametrize("body", [b"0x3\r\nabc\r\n", b"3\r\nabcd\r\n"])
async def test_a_bad_chunk_is_502(body: bytes) -> None:
    exchange, stream, _ = started()
    stream.data_received(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
    await exchange.read_head(NEVER, late)
    with pytest.raises(Failure) as caught:  # noqa: PT012 - the pieces before it are good
        while await exchange.read_body(NEVER, late):
            pass
    assert caught.value.status == 502


@pytest.mark.parametrize(("said", "resend"), [(b"", Resend.REUSED), (b"HTTP/1.1 2", Resend.NEVER)])
async def test_a_close_without_an_answer_may_be_sent_again_one_inside_it_not(
    said: bytes, resend: Resend
) -> None:
    exchange, stream, _ = started()
    if said:
        stream.data_received(said)
    stream.eof_received()
    with pytest.raises(Failure) as caught:
        await exchange.read_head(NEVER, late)
    assert caught.value.resend is resend


async def test_a_body_cut_short_is_truncated() -> None:
    exchange, stream, _ = started()
    stream.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
    await exchange.read_head(NEVER, late)
    assert await exchange.read_body(NEVER, late) == b"abc"
    stream.eof_received()
    with pytest.raises(Failure, match="answer_truncated"):
        await exchange.read_body(NEVER, late)


async def test_abort_and_detach_end_it() -> None:
    exchange, stream, recorder = started()
    exchange.abort()
    assert recorder.closed
    assert exchange.detach() is stream
    assert not exchange.reusable
    await exchange.drain(1.0, late)


async def test_what_the_fast_path_has_sent_and_read_counts() -> None:
    exchange, stream, _ = started()
    exchange.was_sent(b"GET", complete=True)
    framing = Framing(FramingKind.LENGTH, 10)
    exchange.was_answered(ResponseHead(200, b"OK", 1, (), framing), 3)
    assert exchange.passed(4)
    assert not exchange.passed(4)
    assert not exchange.over
    stream.data_received(b"abc")
    assert exchange.take_body() == b"abc"
    assert exchange.reusable


async def test_an_answer_that_has_passed_by_is_over() -> None:
    exchange, _, _ = started()
    exchange.was_sent(b"POST", complete=False)
    exchange.was_answered(ResponseHead(200, b"OK", 1, (), Framing(FramingKind.LENGTH, 3)), 1)
    assert exchange.passed(2)
    assert exchange.over
    assert not exchange.reusable  # the request is still on its way
    exchange.end_body()
    assert exchange.reusable
