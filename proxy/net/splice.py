"""The rest of a large body, moved by the kernel alone: splice(2) from socket to pipe to socket.

Copying a body into the process and out again is most of what it costs. Where both sides are plain
sockets (TCP or Unix, no TLS) and the number of bytes is known, a ``Splicer`` lets them pass by. At any
obstacle it steps back before it has moved a byte, and its caller copies as ever.

Who owns what meanwhile:

* The source's transport is paused and its unread bytes have gone out before: nobody else reads.
* The target's queue is empty and its owner writes nothing: nobody else writes. Its *reading* goes on as
  always, so that an answer that comes early and a peer that leaves are noticed where they always are.
* Both sockets are used through duplicated descriptors. The event loop waits for these (uvloop refuses to
  for a transport's own), and a transport that is closed cannot hand the number to another socket meanwhile.

The pipe is filled, then emptied. While it is empty only the source is waited for, while it is not only the
target: that is all the back-pressure there is. A move is one object in the event loop's callbacks and in
the sweep, without a task, timer or future for each piece.

Memory: none in the process. The kernel holds up to ``PIPE_BYTES`` a move, beside what the sockets hold.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
from typing import TYPE_CHECKING, Protocol

from proxy.clock import NEVER

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.clock import Deadlines
    from proxy.errors import Failure
    from proxy.net.stream import Stream

PIPE_BYTES = 1024 * 1024
"""Size of a pipe. Measured with uploads of 2 MB: with a quarter of it they cost a tenth more, because who is
at the other end is woken more often."""

PIPES_OF_THIS_SIZE = 8
"""Moves at a time that have one. Linux grants an unprivileged user 64 MiB of pipes in all
(fs.pipe-user-pages-soft), to be shared with other workers: what comes on top are slow peers, and gets
``CROWDED_PIPE_BYTES``."""

CROWDED_PIPE_BYTES = 256 * 1024

RELAY_PIPE_BYTES = 512 * 1024
"""The same for a relay without end (net/bridge.py), which spends most of its time in the system calls.
Measured: with half of it a relay costs a quarter more, and twice of it gains nothing."""

SMALLEST_PIPE = 64 * 1024
"""Beyond its grant a user's pipes are smaller than this, and would move too little at a time."""

PIPES_KEPT = 16
"""Pipes that are kept for the next move."""

_MOST = 1024 * 1024
"""Bytes asked for in one call: more than a pipe takes."""

_CALLS = 32
"""System calls of one move in one turn of the event loop: a fast body must not starve the others."""

_EMPTY_TURNS = 8
"""Turns in a row in which a source is said to be readable, and splice(2) finds nothing. It cannot pass over
TCP's urgent data, which an ordinary read leaves out, and would spin before it."""

_UNSUPPORTED = frozenset(
    {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EACCES, errno.ENOMEM}
)
"""What splice(2) says where it cannot work: a socket that it does not know, a sandbox that forbids it."""


class Remainder(Protocol):
    """What is left of a body that stands on a stream bare: its length is known, no framing is inside."""

    @property
    def stream(self) -> Stream:
        """Where the bytes come from."""
        ...

    @property
    def remaining(self) -> int:
        """How many are not taken yet; 0 as well if they are not bare."""
        ...

    @property
    def spliced(self) -> int:
        """How many have gone by."""
        ...

    def take(self) -> bytes:
        """Take those that the stream has read already."""
        ...

    def passed(self, count: int) -> None:
        """So many more went by: from the socket, but not through the stream."""
        ...

    def waited(self, seconds: float) -> None:
        """So long the source gave nothing although something was wanted."""
        ...

    def due(self, now: float) -> float:
        """The moment by which the source must give something, if the wait begins ``now``."""
        ...

    def late(self) -> Failure:
        """What to raise when it did not."""
        ...


class Pipe:
    """A pipe and the number of bytes in it. Raises ``OSError``: there is none, or only a tiny one."""

    __slots__ = ("inside", "read_end", "write_end")

    def __init__(self, size: int = PIPE_BYTES) -> None:
        self.read_end, self.write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.inside = 0
        with contextlib.suppress(OSError):  # refused beyond the user's grant
            fcntl.fcntl(self.write_end, fcntl.F_SETPIPE_SZ, size)
        if fcntl.fcntl(self.write_end, fcntl.F_GETPIPE_SZ) < SMALLEST_PIPE:
            self.close()
            raise OSError(errno.EPERM, "the user's pipes are used up (fs.pipe-user-pages-soft)")

    def close(self) -> None:
        """Give the descriptors back; what is inside is lost."""
        os.close(self.read_end)
        os.close(self.write_end)


class PipePool:
    """Pipes for at most ``most`` moves at a time, of ``size`` bytes; 0: as large as the user's grant allows.
    Some are kept in between."""

    def __init__(self, most: int, kept: int = PIPES_KEPT, size: int = 0) -> None:
        self._most = most
        self._size = size
        self._kept = kept
        self._idle: list[Pipe] = []
        self.used = 0
        """Moves that have one."""

    def __repr__(self) -> str:
        return f"<PipePool used={self.used} idle={len(self._idle)}>"

    def take(self) -> Pipe | None:
        """Return an empty pipe; ``None`` when none is to be had."""
        if self.used >= self._most:
            return None
        try:
            pipe = self._idle.pop() if self._idle else Pipe(self._size or self._granted())
        except OSError:
            return None
        self.used += 1
        return pipe

    def _granted(self) -> int:
        return PIPE_BYTES if self.used < PIPES_OF_THIS_SIZE else CROWDED_PIPE_BYTES

    def give_back(self, pipe: Pipe) -> None:
        """Keep it for the next move, unless something is left in it that would run into another body."""
        self.used -= 1
        if pipe.inside or len(self._idle) >= self._kept:
            pipe.close()
        else:
            self._idle.append(pipe)

    def close(self) -> None:
        """Close what is kept, and keep no more."""
        self._kept = 0
        while self._idle:
            self._idle.pop().close()


class Conduit:
    """A pipe between two sockets, for each of which it has a descriptor of its own.

    :raises OSError: there is no descriptor left.
    """

    __slots__ = ("pipe", "source", "target")

    def __init__(self, pipe: Pipe, source: Stream, target: Stream) -> None:
        self.pipe = pipe
        self.source = _duplicate(source)
        try:
            self.target = _duplicate(target)
        except OSError:
            os.close(self.source)
            raise

    def fill(self, most: int) -> int:
        """Take from the source; 0: it has ended. Raises ``BlockingIOError``, ``OSError``."""
        count = os.splice(self.source, self.pipe.write_end, most, flags=os.SPLICE_F_NONBLOCK)
        self.pipe.inside += count
        return count

    def empty(self) -> int:
        """Give to the target. Raises ``BlockingIOError``, ``OSError``."""
        count = os.splice(self.pipe.read_end, self.target, self.pipe.inside, flags=os.SPLICE_F_NONBLOCK)
        self.pipe.inside -= count
        return count

    def close(self) -> None:
        """Close the two descriptors; the pipe is its pool's."""
        os.close(self.source)
        os.close(self.target)


def _duplicate(stream: Stream) -> int:
    return os.dup(stream.transport.get_extra_info("socket").fileno())


class Splicer:
    """Moves the rest of large bodies, for one event loop.

    :param threshold: bytes below which it is not worth it; 0: nothing is ever moved.
    :param pipes: moves at a time, each of which takes four descriptors; what comes on top is copied.
    """

    def __init__(self, deadlines: Deadlines, *, threshold: int, pipes: int) -> None:
        self._deadlines = deadlines
        self._threshold = threshold if hasattr(os, "splice") else 0  # only Linux has it
        self._pipes = PipePool(pipes)
        self._relay_pipes = PipePool(pipes, size=RELAY_PIPE_BYTES)

    def __repr__(self) -> str:
        return f"<Splicer threshold={self._threshold} {self._pipes!r}>"

    @property
    def relay_pipes(self) -> PipePool | None:
        """Pipes for relays without end; ``None``: splice(2) is not to be used."""
        return self._relay_pipes if self._threshold else None

    @property
    def busy(self) -> bool:
        """True while something is moved."""
        return self._pipes.used > 0

    def close(self) -> None:
        """Close the pipes that wait for a move."""
        self._pipes.close()
        self._relay_pipes.close()

    def is_worth(self, count: int) -> bool:
        """True when so many bytes are enough, of a body that stands bare."""
        return 0 < self._threshold <= count

    async def move(
        self, remainder: Remainder, target: Stream, stall: float, stuck: Callable[[], Failure]
    ) -> bool:
        """Move the rest of a body, if that is possible and worth it; false: the target is broken.

        Otherwise the caller copies what ``remainder`` still has afterwards: all of it, if nothing was
        moved; something, if the source ended or broke before. It then finds out by its own means why.

        :param stall: seconds in which the target must take at least one byte, else ``stuck()`` is raised.
        :raises Failure: ``remainder.late()`` or ``stuck()``.
        """
        source = remainder.stream
        unread = remainder.remaining - len(source.received)
        if not self.is_worth(unread) or not _are_plain(source, target):
            return True
        source.read_in_pieces()
        source.pause()
        try:
            target.write(remainder.take())
            await target.flush(stall, stuck)
            if not _are_plain(source, target):
                return True
            return await self._move(remainder, target, stall, stuck)
        finally:
            source.resume()

    async def _move(
        self, remainder: Remainder, target: Stream, stall: float, stuck: Callable[[], Failure]
    ) -> bool:
        pipe = self._pipes.take()
        if pipe is None:
            return True
        try:
            conduit = Conduit(pipe, remainder.stream, target)
        except OSError:
            self._pipes.give_back(pipe)
            return True
        try:
            return await _Move(remainder, target, conduit, self._deadlines, stall, stuck).run()
        finally:
            conduit.close()
            self._pipes.give_back(pipe)


class _Move:
    """One move, from its first byte to its end. ``due`` is ``NEVER`` unless a side is waited for."""

    def __init__(
        self,
        remainder: Remainder,
        target: Stream,
        conduit: Conduit,
        deadlines: Deadlines,
        stall: float,
        stuck: Callable[[], Failure],
    ) -> None:
        self._remainder = remainder
        self._target = target
        self._conduit = conduit
        self._deadlines = deadlines
        self._stall = stall
        self._stuck = stuck
        self._loop = asyncio.get_running_loop()
        self._over: asyncio.Future[bool] = self._loop.create_future()
        self._watched = _NOBODY
        self._empty_turns = 0
        self._since = 0.0
        self.due = NEVER

    async def run(self) -> bool:
        """Move until there is no more to move; false: the target is broken."""
        self._deadlines.watch(self)
        try:
            self._step()
            return await self._over
        finally:
            self._deadlines.forget(self)
            self._watch(_NOBODY)

    def expire(self) -> None:
        """Whoever is waited for is late."""
        self.due = NEVER
        if not self._over.done():
            self._over.set_exception(self._stuck() if self._conduit.pipe.inside else self._remainder.late())

    def _step(self) -> None:
        """Move what can be moved now: until a side says EAGAIN, as libuv tells only once of a broken one."""
        pipe = self._conduit.pipe
        for _ in range(_CALLS):
            if self._over.done() or not (self._empty() if pipe.inside else self._fill()):
                return
        self._loop.call_soon(self._step)

    def _fill(self) -> bool:
        """From the source into the empty pipe; false: no more for now, or at all."""
        remainder = self._remainder
        if not remainder.remaining:
            return self._end(True)
        try:
            count = self._conduit.fill(min(remainder.remaining, _MOST))
        except BlockingIOError:
            return self._wait(self._conduit.source)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                # The kernel does not tell it a second time, so its transport would not hear of it.
                remainder.stream.abort()
            return self._end(True)
        if not count:
            return self._end(True)  # which the transport will hear as well
        if self.due != NEVER:
            remainder.waited(self._deadlines.clock.monotonic() - self._since)
        self._progressed()
        remainder.stream.bytes_in += count
        remainder.passed(count)
        return True

    def _empty(self) -> bool:
        """From the pipe to the target; false: no more for now, or at all."""
        try:
            count = self._conduit.empty()
        except BlockingIOError:
            return self._wait(self._conduit.target)
        except OSError:
            return self._end(False)
        self._progressed()
        self._target.bytes_out += count
        return True

    def _progressed(self) -> None:
        self.due = NEVER
        self._empty_turns = 0

    def _wait(self, side: int) -> bool:
        self._empty_turns += 1
        if self._empty_turns > _EMPTY_TURNS and side == self._conduit.source:
            return self._end(True)
        self._watch(side)
        if self.due == NEVER:
            self._since = now = self._deadlines.clock.monotonic()
            self.due = now + self._stall if side == self._conduit.target else self._remainder.due(now)
        return False

    def _watch(self, side: int) -> None:
        """Have the event loop tell when this side is ready, and not when the other is."""
        if side == self._watched:
            return
        source, target = self._conduit.source, self._conduit.target
        if self._watched == source:
            self._loop.remove_reader(source)
        elif self._watched == target:
            self._loop.remove_writer(target)
        if side == source:
            self._loop.add_reader(source, self._step)
        elif side == target:
            self._loop.add_writer(target, self._step)
        self._watched = side

    def _end(self, target_stands: bool) -> bool:
        self._watch(_NOBODY)
        self._over.set_result(target_stands)
        return False


_NOBODY = -1


def _are_plain(*streams: Stream) -> bool:
    """True for open sockets on which lies what the streams read and write: no TLS between."""
    return not any(
        stream.at_eof or stream.transport.is_closing() or stream.transport.get_extra_info("sslcontext")
        for stream in streams
    )
