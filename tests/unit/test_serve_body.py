"""The request body's reader by itself: what it counts, when it is late."""

from __future__ import annotations

import asyncio

import pytest

from proxy.clock import Deadlines
from proxy.config.schema import LimitsConfig, TimeoutsConfig
from proxy.errors import Failure
from proxy.message import CHUNKED, EndpointClass, Framing, FramingKind, Route
from proxy.net.stream import Stream
from proxy.serve.body import RequestBody
from tests.support.clock import HandClock

ROUTE = Route("/e", EndpointClass.INGEST_V0, "default", 1000, 90.0, 3.0, 30.0, 60.0)


class Paused(asyncio.Transport):
    """A transport that is only there to be resumed."""

    resumed = False

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        self.resumed = True


def body_of(framing: Framing, **timeouts: float) -> tuple[RequestBody, Stream, HandClock, Deadlines]:
    clock = HandClock()
    deadlines = Deadlines(clock)
    stream = Stream(deadlines, read_limit=65536, write_limit=65536)
    stream.transport = Paused()
    limits = LimitsConfig()
    body = RequestBody(stream, framing, ROUTE, limits, TimeoutsConfig(**timeouts), clock.now)
    return body, stream, clock, deadlines


async def test_no_body_is_done_at_once() -> None:
    body, *_ = body_of(Framing(FramingKind.NONE))
    assert body.done
    assert await body.read() == b""
    assert await body.hold(10) == b""


async def test_hold_stops_at_the_size_or_at_the_end() -> None:
    body, stream, *_ = body_of(Framing(FramingKind.LENGTH, 10))
    stream.received += b"abcdef"
    assert await body.hold(4) == b"abcdef"
    holding = asyncio.create_task(body.hold(100))
    await asyncio.sleep(0)
    stream.data_received(b"ghijNEXT")
    assert await holding == b"ghij"
    assert body.done
    assert stream.received == b"NEXT"
    assert body.size == 10


async def test_read_gives_pieces_and_then_nothing() -> None:
    body, stream, *_ = body_of(CHUNKED)
    stream.received += b"3\r\nabc\r\n"
    assert await body.read() == b"abc"
    stream.received += b"0\r\n\r\n"
    assert await body.read() == b""
    assert await body.read() == b""


async def test_the_client_is_read_on_once_its_body_is_here() -> None:
    body, stream, *_ = body_of(Framing(FramingKind.LENGTH, 100))
    transport = Paused()
    stream.transport = transport
    stream.data_received(b"x" * 99)
    stream.pause()  # as it does by itself when one read brings more than its bound
    body.take()
    assert not transport.resumed
    stream.data_received(b"x")
    assert await body.read() == b"x"
    assert transport.resumed


async def test_the_cap_counts_decoded_bytes() -> None:
    body, stream, *_ = body_of(CHUNKED)
    stream.received += b"3e8\r\n" + b"x" * 1000 + b"\r\n"
    assert len(await body.read()) == 1000
    stream.received += b"1\r\nx\r\n"
    with pytest.raises(Failure) as caught:
        await body.read()
    assert (caught.value.status, caught.value.kind) == (413, "body_too_large")


async def test_bytes_that_went_by_are_counted() -> None:
    body, stream, *_ = body_of(Framing(FramingKind.LENGTH, 10))
    stream.received += b"abc"
    assert body.take() == b"abc"
    body.passed(4)
    assert (body.remaining, body.size, body.spliced, body.done) == (3, 7, 4, False)
    body.passed(3)
    assert (body.remaining, body.size, body.spliced, body.done) == (0, 10, 7, True)
    assert await body.read() == b""


@pytest.mark.parametrize("framing", [CHUNKED, Framing(FramingKind.NONE)])
async def test_nothing_can_go_by_that_is_not_bare(framing: Framing) -> None:
    body, *_ = body_of(framing)
    assert body.remaining == 0


async def test_an_end_inside_is_400() -> None:
    body, stream, *_ = body_of(Framing(FramingKind.LENGTH, 10))
    stream.at_eof = True
    with pytest.raises(Failure) as caught:
        await body.read()
    assert (caught.value.status, caught.value.kind) == (400, "body_incomplete")


async def test_time_in_which_we_did_not_read_does_not_count_against_the_rate() -> None:
    body, stream, clock, deadlines = body_of(
        Framing(FramingKind.LENGTH, 1000), body_min_rate=100, body_rate_grace=5.0
    )
    stream.received += b"x" * 100
    await body.read()
    clock.now += 50  # a slow upstream
    reading = asyncio.create_task(body.read())
    await asyncio.sleep(0)
    clock.now += 4
    deadlines.sweep()
    stream.data_received(b"y")
    assert await reading == b"y"
    reading = asyncio.create_task(body.read())
    await asyncio.sleep(0)
    clock.now += 1.5
    deadlines.sweep()
    with pytest.raises(Failure) as caught:
        await reading
    assert (caught.value.status, caught.value.kind) == (408, "body_timeout")
    assert len(deadlines) == 0
