"""A stream's buffers, waits and ends, over a real socket whose other end the test holds."""

from __future__ import annotations

import asyncio
import socket
import struct

import pytest

from proxy.clock import NEVER
from proxy.errors import Failure, Source
from proxy.net.stream import Stream
from tests.support.turning import Time, connected, turns, until

pytestmark = pytest.mark.both_loops

BIG = 4 * 1024 * 1024
"""More than a socket pair's kernel buffers and the stream's bound hold together."""


class Noting(Stream):
    """Notes what it is told."""

    def __init__(self, time: Time, *, read_limit: int = 1000, write_limit: int = 1000) -> None:
        super().__init__(time, read_limit=read_limit, write_limit=write_limit)
        self.told: list[str] = []

    def on_data(self) -> None:
        self.told.append("data")

    def on_eof(self) -> None:
        self.told.append("eof")

    def on_lost(self) -> None:
        self.told.append("lost")


def late() -> Failure:
    return Failure(Source.UPSTREAM, "too_late", 504, "nothing came")


async def hear(peer: socket.socket, count: int) -> int:
    """Read about ``count`` bytes at the other end and return how many there were."""
    loop, heard = asyncio.get_running_loop(), 0
    while heard < count:
        heard += len(await loop.sock_recv(peer, 65536))
    return heard


class TestReading:
    async def test_bytes_are_kept_until_they_are_taken(self) -> None:
        stream = Noting(Time())
        async with connected(stream) as peer:
            peer.send(b"some")
            assert await stream.fill(NEVER, late)
            peer.send(b" more")
            assert await stream.fill(NEVER, late)
            assert stream.received == b"some more"
            assert (stream.bytes_in, stream.told) == (9, ["data", "data"])
            assert repr(stream) == "<Noting OPEN in=9 out=0>"

    async def test_reading_pauses_at_the_bound_and_goes_on_when_bytes_were_taken(self) -> None:
        stream = Noting(Time())
        async with connected(stream) as peer:
            peer.send(b"x" * 1000)
            await stream.fill(NEVER, late)
            peer.send(b"y")
            await turns()
            assert len(stream.received) == 1000
            stream.resume()
            await turns()
            assert len(stream.received) == 1000
            stream.received.clear()
            assert await stream.fill(NEVER, late)
            assert stream.received == b"y"

    async def test_paused_by_hand(self) -> None:
        stream = Noting(Time())
        async with connected(stream) as peer:
            stream.pause()
            stream.pause()
            peer.send(b"x")
            await turns()
            assert stream.told == []
            stream.resume()
            stream.resume()
            await until(lambda: stream.told)

    async def test_a_wait_ends_at_its_moment(self) -> None:
        time = Time()
        stream = Noting(time)
        async with connected(stream):
            waiting = asyncio.ensure_future(stream.fill(time.now + 5, late))
            await turns()
            time.turn(4.9)
            await turns()
            assert not waiting.done()
            time.turn(0.1)
            with pytest.raises(Failure, match="too_late"):
                await waiting
            assert len(time) == 0

    async def test_the_end_of_the_stream(self) -> None:
        stream = Noting(Time())
        async with connected(stream) as peer:
            waiting = asyncio.ensure_future(stream.fill(NEVER, late))
            await turns()
            peer.shutdown(socket.SHUT_WR)
            assert not await waiting
            assert not await stream.fill(NEVER, late)
            assert (stream.at_eof, stream.lost, stream.told) == (True, False, ["eof"])
            assert repr(stream) == "<Noting EOF in=0 out=0>"

    async def test_after_the_end_the_other_half_still_sends(self) -> None:
        stream = Noting(Time())
        async with connected(stream) as peer:
            peer.shutdown(socket.SHUT_WR)
            await until(lambda: stream.at_eof)
            stream.write(b"answer")
            await until(lambda: stream.transport.get_write_buffer_size() == 0)
            assert peer.recv(100) == b"answer"

    async def test_bytes_before_the_end_are_told(self) -> None:
        stream = Noting(Time())
        async with connected(stream) as peer:
            peer.send(b"last words")
            peer.shutdown(socket.SHUT_WR)
            assert await stream.fill(NEVER, late)
            await until(lambda: stream.at_eof)
            assert not await stream.fill(NEVER, late)
            assert stream.received == b"last words"


class TestWriting:
    async def test_bytes_arrive_and_are_counted(self) -> None:
        stream = Noting(Time())
        async with connected(stream) as peer:
            stream.write(b"hello")
            await stream.drain(1.0, late)
            assert await hear(peer, 5) == 5
            assert stream.bytes_out == 5
            assert stream.writable

    async def test_drain_waits_for_a_slow_reader(self) -> None:
        stream = Noting(Time())
        async with connected(stream) as peer:
            stream.write(b"x" * BIG)
            assert not stream.writable
            draining = asyncio.ensure_future(stream.drain(10.0, late))
            await turns()
            assert not draining.done()
            await hear(peer, BIG)
            await draining
            assert stream.writable

    async def test_a_reader_that_takes_nothing_is_too_late(self) -> None:
        time = Time()
        stream = Noting(time)
        async with connected(stream):
            stream.write(b"x" * BIG)
            draining = asyncio.ensure_future(stream.drain(10.0, late))
            await turns()
            time.turn(10.0)
            with pytest.raises(Failure, match="too_late"):
                await draining

    async def test_a_reader_that_takes_something_gets_more_time(self) -> None:
        time = Time()
        stream = Noting(time)
        async with connected(stream) as peer:
            stream.write(b"x" * BIG)
            draining = asyncio.ensure_future(stream.drain(10.0, late))
            for _ in range(3):
                queued = stream.transport.get_write_buffer_size()
                await hear(peer, 300_000)
                await until(lambda before=queued: stream.transport.get_write_buffer_size() < before)
                time.turn(10.0)
                await turns()
                assert not draining.done()
            time.turn(10.0)
            with pytest.raises(Failure, match="too_late"):
                await draining

    async def test_flush_waits_for_the_last_byte_where_drain_does_not_wait(self) -> None:
        stream = Noting(Time(), write_limit=2 * BIG)
        async with connected(stream) as peer:
            await stream.flush(10.0, late)
            stream.write(b"x" * BIG)
            await stream.drain(10.0, late)
            flushing = asyncio.ensure_future(stream.flush(10.0, late))
            await turns()
            assert not flushing.done()
            await hear(peer, BIG)
            await flushing
            assert stream.transport.get_write_buffer_size() == 0
            assert stream.writable

    async def test_flush_is_as_patient_as_drain_and_leaves_the_bound_as_it_was(self) -> None:
        time = Time()
        stream = Noting(time)
        async with connected(stream) as peer:
            stream.write(b"x" * BIG)
            await turns()
            flushing = asyncio.ensure_future(stream.flush(10.0, late))
            await turns()
            time.turn(10.0)
            with pytest.raises(Failure, match="too_late"):
                await flushing
            await hear(peer, BIG)
            await until(lambda: stream.writable)
            stream.write(b"y" * 100)
            assert stream.writable

    async def test_flush_ends_with_the_transport(self) -> None:
        stream = Noting(Time())
        async with connected(stream):
            stream.write(b"x" * BIG)
            flushing = asyncio.ensure_future(stream.flush(10.0, late))
            await turns()
            stream.abort()
            await flushing
            assert stream.lost

    async def test_a_lost_transport_ends_the_wait(self) -> None:
        stream = Noting(Time())
        async with connected(stream):
            stream.write(b"x" * BIG)
            draining = asyncio.ensure_future(stream.drain(10.0, late))
            await turns()
            stream.abort()
            await draining
            assert stream.lost


class TestEnding:
    async def test_close_sends_what_is_queued(self) -> None:
        stream = Noting(Time())
        async with connected(stream) as peer:
            stream.write(b"x" * BIG)
            stream.close()
            stream.write(b"too late")
            assert await hear(peer, BIG) == BIG
            await until(lambda: stream.lost)
            assert peer.recv(10) == b""
            assert stream.bytes_out == BIG

    async def test_abort_throws_it_away(self) -> None:
        stream = Noting(Time())
        async with connected(stream) as peer:
            stream.write(b"x" * BIG)
            stream.abort()
            await until(lambda: stream.lost)
            heard = 0
            while data := peer.recv(BIG):
                heard += len(data)
            assert heard < BIG

    async def test_what_is_done_after_the_end_does_nothing(self) -> None:
        stream = Noting(Time())
        async with connected(stream):
            stream.abort()
            await until(lambda: stream.lost)
            stream.write(b"x")
            stream.close()
            stream.abort()
            stream.pause()
            stream.resume()
            await stream.drain(1.0, late)
            assert not await stream.fill(NEVER, late)
            assert (stream.bytes_out, stream.told) == (0, ["lost"])
            assert repr(stream) == "<Noting LOST in=0 out=0>"

    async def test_a_reset_is_kept_as_the_error(self) -> None:
        stream = Noting(Time())
        server = socket.create_server(("127.0.0.1", 0))
        loop = asyncio.get_running_loop()
        with server:
            await loop.create_connection(lambda: stream, *server.getsockname())
            accepted, _ = server.accept()
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        waiting = asyncio.ensure_future(stream.fill(NEVER, late))
        await turns()
        accepted.close()
        assert not await waiting
        await until(lambda: stream.lost)
        assert isinstance(stream.error, ConnectionResetError)

    async def test_the_bare_stream_takes_no_notice(self) -> None:
        stream = Stream(Time(), read_limit=10, write_limit=10)
        async with connected(stream) as peer:
            peer.send(b"x")
            assert await stream.fill(NEVER, late)
            peer.close()
            await until(lambda: stream.at_eof)


async def test_the_end_can_be_said_to_a_peer_that_has_just_reset_the_connection() -> None:
    """1. a client sends and resets; 2. before the event loop hears of it, we say that we are done."""
    stream = Noting(Time())
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
        await asyncio.get_running_loop().connect_accepted_socket(lambda: stream, ours)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        theirs.close()
        stream.end()
        await until(lambda: stream.lost)


class TestHavingItMade:
    async def test_a_failure_before_there_was_a_transport_is_no_end(self) -> None:
        stream = Noting(Time())

        async def fail() -> None:
            raise ConnectionRefusedError

        with pytest.raises(ConnectionRefusedError):
            await stream.have_made(fail())
        assert (stream.told, stream.lost) == ([], False)

    async def test_it_hears_of_its_end_once_whatever_the_event_loop_says(self) -> None:
        loop, stream = asyncio.get_running_loop(), Noting(Time())
        ours, theirs = socket.socketpair()
        with theirs:
            making = loop.create_task(
                stream.have_made(loop.create_unix_connection(lambda: stream, sock=ours))
            )
            made = stream.connection_made

            def cancelled(transport: asyncio.BaseTransport) -> None:
                made(transport)
                making.cancel()

            stream.connection_made = cancelled  # type: ignore[method-assign]
            await asyncio.wait({making})
            assert making.cancelled()
            assert stream.lost
            await turns()
            assert stream.told == ["lost"]
