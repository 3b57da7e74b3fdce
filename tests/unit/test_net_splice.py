"""Bytes that the kernel moves from one real socket to another, whose far ends the test holds."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import resource
import socket
import ssl
import struct
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from proxy.clock import NEVER
from proxy.errors import Failure, Source
from proxy.net import splice
from proxy.net.splice import PIPE_BYTES, Pipe, PipePool, Splicer
from proxy.net.stream import Stream
from tests.support.play import PATIENCE
from tests.support.tls import self_signed
from tests.support.turning import Time, turns, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

pytestmark = pytest.mark.both_loops

CONTENT = os.urandom(1 << 20) * 4
"""More than two sockets and a pipe hold where their buffers are small."""

SMALL = 16 * 1024
"""Socket buffers, so that a side soon stands still."""

STALL = 10.0


class Rest:
    """What is left of a body, and what it was told."""

    def __init__(self, stream: Stream, remaining: int, pause: float = 30.0) -> None:
        self.stream = stream
        self.remaining = remaining
        self.spliced = 0
        self.pause = pause
        self.time_waited = 0.0

    def take(self) -> bytes:
        data = bytes(self.stream.received[: self.remaining])
        del self.stream.received[: len(data)]
        self.remaining -= len(data)
        return data

    def passed(self, count: int) -> None:
        self.remaining -= count
        self.spliced += count

    def waited(self, seconds: float) -> None:
        self.time_waited += seconds

    def due(self, now: float) -> float:
        return now + self.pause

    def late(self) -> Failure:
        return Failure(Source.DOWNSTREAM, "late", 408, "nothing came")


def stuck() -> Failure:
    return Failure(Source.UPSTREAM, "stuck", 504, "nothing was taken")


@dataclass
class Stage:
    """Two streams with the test at their far ends, and a splicer between."""

    time: Time
    splicer: Splicer
    source: Stream
    target: Stream
    writer: socket.socket
    reader: socket.socket

    def rest(self, remaining: int = len(CONTENT), pause: float = 30.0) -> Rest:
        return Rest(self.source, remaining, pause)

    def begin(self, rest: Rest) -> asyncio.Task[bool]:
        return asyncio.get_running_loop().create_task(self.splicer.move(rest, self.target, STALL, stuck))

    async def say(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.writer, data)

    async def hear(self, count: int) -> bytes:
        """Exactly so many bytes, or all up to the end."""
        heard = bytearray()
        while len(heard) < count:
            data = await asyncio.get_running_loop().sock_recv(self.reader, min(count - len(heard), 1 << 16))
            if not data:
                break
            heard += data
        return bytes(heard)

    async def blocked(self) -> None:
        """Until the target takes nothing more."""
        told = -1
        while told < self.target.bytes_out:
            told = self.target.bytes_out
            await turns(50)


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    return ours, theirs


PAIRS = {"tcp": tcp_pair, "unix": socket.socketpair}


async def connect(time: Time, kind: str, write_limit: int = 65536) -> tuple[Stream, socket.socket]:
    loop = asyncio.get_running_loop()
    stream = Stream(time, read_limit=65536, write_limit=write_limit)
    ours, theirs = PAIRS[kind]()
    for sock in (ours, theirs):
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
    if kind == "tcp":
        await loop.create_connection(lambda: stream, sock=ours)
    else:
        await loop.create_unix_connection(lambda: stream, sock=ours)
    return stream, theirs


@asynccontextmanager
async def stage(
    source: str = "tcp", target: str = "tcp", *, threshold: int = 1, pipes: int = 4
) -> AsyncIterator[Stage]:
    """At the end no descriptor is left or watched, no pipe is in use and nobody waits."""
    before = open_descriptors(), watched_descriptors()
    time = Time()
    splicer = Splicer(time, threshold=threshold, pipes=pipes)
    source_stream, writer = await connect(time, source)
    target_stream, reader = await connect(time, target)
    try:
        async with asyncio.timeout(PATIENCE):
            yield Stage(time, splicer, source_stream, target_stream, writer, reader)
        assert "used=0" in repr(splicer)
        assert len(time) == 0
    finally:
        for stream, far in ((source_stream, writer), (target_stream, reader)):
            far.close()
            stream.abort()
            await until(lambda stream=stream: stream.lost)
        splicer.close()
    await turns()
    assert (open_descriptors(), watched_descriptors()) == before


def open_descriptors() -> int:
    """Those of sockets and pipes; uvloop opens others when it likes."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the listing's own
            found += os.readlink(f"/proc/self/fd/{name}").startswith(("socket:", "pipe:"))
    return found


def watched_descriptors() -> int:
    """Those that the event loop watches, where it tells."""
    selector = getattr(asyncio.get_running_loop(), "_selector", None)
    return 0 if selector is None else len(selector.get_map())


def reset(sock: socket.socket) -> None:
    """Close with a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class TestMoving:
    @pytest.mark.parametrize("source", PAIRS)
    @pytest.mark.parametrize("target", PAIRS)
    async def test_exactly_what_is_left_arrives_and_what_follows_is_read(
        self, source: str, target: str
    ) -> None:
        async with stage(source, target) as s:
            rest = s.rest()
            moving = s.begin(rest)
            saying = asyncio.ensure_future(s.say(CONTENT + b"next"))
            assert await s.hear(len(CONTENT)) == CONTENT
            assert await moving
            await saying
            await until(lambda: s.source.received == b"next")
            assert (rest.remaining, rest.spliced) == (0, len(CONTENT))
            assert (s.source.bytes_in, s.target.bytes_out) == (len(CONTENT) + 4, len(CONTENT))
            s.target.write(b"after")
            assert await s.hear(5) == b"after"

    async def test_what_was_read_before_goes_first(self) -> None:
        async with stage() as s:
            s.target.write(b"head ")
            await s.say(b"begun ")
            await until(lambda: s.source.received)
            rest = s.rest(11)
            moving = s.begin(rest)
            await turns()
            await s.say(b"ended and more")
            assert await moving
            assert await s.hear(16) == b"head begun ended"
            assert (rest.spliced, s.target.bytes_out) == (5, 16)

    async def test_what_is_queued_goes_first(self) -> None:
        async with stage() as s:
            s.target.write(CONTENT)
            assert s.target.transport.get_write_buffer_size()
            moving = s.begin(s.rest(5))
            await turns()
            await s.say(b"moved")
            await turns()
            assert not moving.done()
            assert await s.hear(len(CONTENT) + 5) == CONTENT + b"moved"
            assert await moving
            assert s.target.writable

    async def test_the_source_waits_for_the_target(self) -> None:
        async with stage() as s:
            moving = s.begin(s.rest())
            saying = asyncio.ensure_future(s.say(CONTENT))
            await s.blocked()
            assert not saying.done()
            assert s.source.bytes_in < len(CONTENT)
            assert s.source.bytes_in - s.target.bytes_out <= PIPE_BYTES
            assert await s.hear(len(CONTENT)) == CONTENT
            await saying
            assert await moving

    async def test_bytes_that_come_one_by_one(self) -> None:
        async with stage() as s:
            moving = s.begin(s.rest(5))
            for byte in (b"h", b"e", b"l", b"l", b"o"):
                await s.say(byte)
                assert await s.hear(1) == byte
            assert await moving

    async def test_a_fast_body_gives_way_to_others(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(splice, "_CALLS", 2)
        async with stage() as s:
            moving = s.begin(s.rest())
            saying = asyncio.ensure_future(s.say(CONTENT))
            assert await s.hear(len(CONTENT)) == CONTENT
            assert await moving
            await saying

    async def test_one_move_after_the_other_takes_the_same_pipe(self) -> None:
        async with stage(pipes=1) as s:
            for _ in range(3):
                moving = s.begin(s.rest(5))
                await turns()
                await s.say(b"hello")
                assert await moving
                assert await s.hear(5) == b"hello"
                assert repr(s.splicer) == "<Splicer threshold=1 <PipePool used=0 idle=1>>"

    async def test_urgent_data_is_left_to_an_ordinary_read(self) -> None:
        async with stage() as s:
            rest = s.rest(200)
            moving = s.begin(rest)
            await s.say(b"a" * 100)
            assert await s.hear(100) == b"a" * 100
            s.writer.send(b"!", socket.MSG_OOB)
            await s.say(b"b" * 100)
            assert await moving
            assert rest.remaining
            await until(lambda: len(s.source.received) == rest.remaining)


class TestEnds:
    @pytest.mark.parametrize("kind", PAIRS)
    async def test_a_source_that_ends_early(self, kind: str) -> None:
        async with stage(kind) as s:
            rest = s.rest(100)
            moving = s.begin(rest)
            await s.say(b"half")
            s.writer.shutdown(socket.SHUT_WR)
            assert await moving
            assert (rest.remaining, await s.hear(4)) == (96, b"half")
            assert not await s.source.fill(NEVER, stuck)
            assert not s.source.lost

    async def test_a_source_that_is_reset(self) -> None:
        async with stage() as s:
            moving = s.begin(s.rest())
            await turns()
            reset(s.writer)
            assert await moving
            await until(lambda: s.source.lost)

    async def test_a_target_that_is_reset_while_the_source_waits_for_it(self) -> None:
        async with stage() as s:
            moving = s.begin(s.rest())
            saying = asyncio.ensure_future(s.say(CONTENT))
            await s.blocked()
            reset(s.reader)
            assert not await moving
            saying.cancel()
            # Its pipe holds bytes of this body, so no other may have it.
            assert "idle=0" in repr(s.splicer)

    async def test_a_target_that_is_reset_while_nothing_comes_is_noticed_by_its_own_reading(self) -> None:
        async with stage() as s:
            moving = s.begin(s.rest())
            await turns()
            reset(s.reader)
            await until(lambda: s.target.lost)
            assert not moving.done()
            await s.say(b"x")
            assert not await moving

    async def test_a_target_that_ended_takes_the_rest_and_is_heard(self) -> None:
        async with stage() as s:
            moving = s.begin(s.rest(5))
            await turns()
            s.reader.send(b"an answer")
            await until(lambda: s.target.received == b"an answer")
            s.reader.shutdown(socket.SHUT_WR)
            await until(lambda: s.target.at_eof)
            await s.say(b"hello")
            assert await moving
            assert await s.hear(5) == b"hello"

    async def test_who_cancels_it_gets_the_transports_back(self) -> None:
        async with stage() as s:
            moving = s.begin(s.rest())
            saying = asyncio.ensure_future(s.say(CONTENT))
            await s.blocked()
            before = s.source.bytes_in
            moving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await moving
            saying.cancel()
            await until(lambda: s.source.bytes_in > before)
            assert "idle=0" in repr(s.splicer)


class TestLateness:
    async def test_a_source_that_gives_nothing(self) -> None:
        async with stage() as s:
            moving = s.begin(s.rest(pause=5.0))
            await turns()
            s.time.turn(4.0)
            await s.say(b"x")
            assert await s.hear(1) == b"x"
            assert s.time.next_due == s.time.now + 5.0
            s.time.turn(4.9)
            await turns()
            assert not moving.done()
            s.time.turn(0.1)
            with pytest.raises(Failure, match="late"):
                await moving

    async def test_time_spent_waiting_for_the_source_is_told_and_no_other(self) -> None:
        async with stage() as s:
            rest = s.rest()
            moving = s.begin(rest)
            await turns()
            s.time.turn(3.0)
            saying = asyncio.ensure_future(s.say(CONTENT))
            await s.blocked()
            s.time.turn(5.0)
            assert await s.hear(len(CONTENT)) == CONTENT
            assert await moving
            await saying
            assert rest.time_waited == 3.0

    async def test_a_target_that_takes_nothing(self) -> None:
        async with stage() as s:
            moving = s.begin(s.rest(pause=1.0))
            saying = asyncio.ensure_future(s.say(CONTENT))
            await s.blocked()
            s.time.turn(STALL - 1)
            taken = s.target.bytes_out
            await s.hear(100_000)
            await until(lambda: s.target.bytes_out > taken)
            await s.blocked()
            s.time.turn(STALL - 1)
            await turns()
            assert not moving.done()
            s.time.turn(1)
            with pytest.raises(Failure, match="stuck"):
                await moving
            saying.cancel()

    async def test_a_target_that_does_not_take_what_was_queued(self) -> None:
        async with stage() as s:
            s.target.write(CONTENT)
            moving = s.begin(s.rest())
            await turns()
            s.time.turn(STALL)  # the kernel took some at first
            await turns()
            s.time.turn(STALL)
            with pytest.raises(Failure, match="stuck"):
                await moving


@contextmanager
def no_more_descriptors() -> Iterator[None]:
    """As many as are open now, and not one more."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    fillers = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, limits[1]))
    try:
        while True:
            try:
                fillers.append(os.dup(0))
            except OSError:
                break
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for filler in fillers:
            os.close(filler)


class TestObstacles:
    """Whatever the obstacle, nothing is touched, and the source is read as always."""

    @staticmethod
    async def moves_nothing(s: Stage, remaining: int = 5) -> None:
        rest = s.rest(remaining)
        assert await s.splicer.move(rest, s.target, STALL, stuck)
        await s.say(b"hello")
        await until(lambda: s.source.received == b"hello")
        assert (rest.spliced, rest.remaining, s.target.bytes_out) == (0, remaining, 0)

    async def test_too_little_is_left(self) -> None:
        async with stage(threshold=6) as s:
            await self.moves_nothing(s)

    async def test_what_is_read_already_does_not_count(self) -> None:
        async with stage(threshold=6) as s:
            await s.say(b"read")
            await until(lambda: s.source.received)
            rest = s.rest(9)
            assert await s.splicer.move(rest, s.target, STALL, stuck)
            assert (rest.remaining, s.source.received) == (9, b"read")

    async def test_it_is_switched_off(self) -> None:
        async with stage(threshold=0) as s:
            await self.moves_nothing(s)

    async def test_this_system_has_no_splice(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(os, "splice")
        async with stage() as s:
            await self.moves_nothing(s)

    @pytest.mark.parametrize("number", [errno.ENOSYS, errno.EINVAL, errno.EPERM])
    async def test_this_kernel_does_not_let_it_work(
        self, number: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refused(*_: object, **__: object) -> int:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "splice", refused)
        async with stage() as s:
            await self.moves_nothing(s)

    async def test_all_pipes_are_in_use(self) -> None:
        async with stage(pipes=0) as s:
            await self.moves_nothing(s)

    async def test_there_is_no_descriptor_for_a_pipe(self) -> None:
        async with stage() as s:
            with no_more_descriptors():
                await self.moves_nothing(s)

    @pytest.mark.parametrize("free", [0, 1])
    async def test_there_is_no_descriptor_for_the_sockets(self, free: int) -> None:
        async with stage() as s:
            s.splicer._pipes.give_back(taken(s.splicer._pipes))
            spare = [os.dup(0) for _ in range(free)]
            with no_more_descriptors():
                for descriptor in spare:
                    os.close(descriptor)
                await self.moves_nothing(s)

    async def test_the_source_has_ended(self) -> None:
        async with stage() as s:
            s.writer.shutdown(socket.SHUT_WR)
            await until(lambda: s.source.at_eof)
            assert await s.splicer.move(s.rest(), s.target, STALL, stuck)

    @pytest.mark.parametrize("end", ["abort", "close"])
    async def test_the_target_is_closing(self, end: str) -> None:
        async with stage() as s:
            getattr(s.target, end)()
            assert await s.splicer.move(s.rest(), s.target, STALL, stuck)

    async def test_the_target_is_closed_while_its_queue_is_waited_for(self) -> None:
        async with stage() as s:
            s.target.write(CONTENT)
            moving = s.begin(s.rest())
            await turns()
            s.target.abort()
            assert await moving

    async def test_one_side_speaks_tls(self, tmp_path: Path) -> None:
        certificate = self_signed(tmp_path, "localhost")
        serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        serving.load_cert_chain(certificate.certificate, certificate.key)
        asking = ssl.create_default_context(cafile=str(certificate.certificate))
        loop = asyncio.get_running_loop()
        time = Time()
        ends = [Stream(time, read_limit=65536, write_limit=65536) for _ in range(2)]
        server = await loop.create_server(lambda: ends[0], "127.0.0.1", 0, ssl=serving)
        async with server, stage() as s:
            await loop.create_connection(
                lambda: ends[1], *server.sockets[0].getsockname(), ssl=asking, server_hostname="localhost"
            )
            await until(lambda: hasattr(ends[0], "transport"))
            for end in ends:
                rest = Rest(end, 100)
                assert await s.splicer.move(rest, s.target, STALL, stuck)
                assert await s.splicer.move(s.rest(), end, STALL, stuck)
                assert rest.spliced == 0
                end.abort()
            await until(lambda: all(end.lost for end in ends))


def taken(pool: PipePool) -> Pipe:
    pipe = pool.take()
    assert pipe is not None
    return pipe


class TestPipes:
    def test_at_most_so_many_are_in_use_and_some_are_kept(self) -> None:
        pool = PipePool(3, kept=2)
        pipes = [taken(pool) for _ in range(3)]
        assert pool.take() is None
        assert repr(pool) == "<PipePool used=3 idle=0>"
        for pipe in pipes:
            pool.give_back(pipe)
        assert repr(pool) == "<PipePool used=0 idle=2>"
        again = [taken(pool), taken(pool)]
        assert all(pipe in pipes for pipe in again)
        pool.close()
        for pipe in again:
            pool.give_back(pipe)
        assert repr(pool) == "<PipePool used=0 idle=0>"

    def test_where_there_are_many_they_are_smaller(self) -> None:
        pool = PipePool(splice.PIPES_OF_THIS_SIZE + 1)
        pipes = [taken(pool) for _ in range(splice.PIPES_OF_THIS_SIZE + 1)]
        sizes = [fcntl.fcntl(pipe.write_end, fcntl.F_GETPIPE_SZ) for pipe in pipes]
        assert sizes == [PIPE_BYTES] * splice.PIPES_OF_THIS_SIZE + [splice.CROWDED_PIPE_BYTES]
        for pipe in pipes:
            pool.give_back(pipe)
        pool.close()

    def test_one_with_something_inside_is_not_used_again(self) -> None:
        pool = PipePool(1)
        pipe = taken(pool)
        pipe.inside = os.write(pipe.write_end, b"left")
        pool.give_back(pipe)
        assert repr(pool) == "<PipePool used=0 idle=0>"

    def test_a_user_with_too_many_gets_none_that_is_worth_it(self) -> None:
        largest = int(Path("/proc/sys/fs/pipe-max-size").read_text())
        pool = PipePool(1)
        with ExitStack() as others, unprivileged():
            size = largest
            while size >= splice.SMALLEST_PIPE:
                for end in (pipe := os.pipe()):
                    others.callback(os.close, end)
                with suppress(PermissionError):
                    fcntl.fcntl(pipe[0], fcntl.F_SETPIPE_SZ, largest)
                size = fcntl.fcntl(pipe[0], fcntl.F_GETPIPE_SZ)
            assert pool.take() is None
        pool.give_back(taken(pool))
        pool.close()


@contextmanager
def unprivileged() -> Iterator[None]:
    """As an ordinary user, for whom the kernel counts pages; root has as many as it likes."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
