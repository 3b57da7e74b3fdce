"""A bridge between two plain sockets: bytes both ways, half-close, back-pressure, without a transport.

Each way works by itself. While it has nothing in hand it waits for its source to be readable, else for its
target to be writable, and for nothing else: that is all the back-pressure there is.

::

    source ──recv───▶ buffer ──send───▶ target     small pieces; what the target does not take is held
    source ──splice─▶ pipe ────splice─▶ target     after a read that filled the buffer: in the kernel alone

Copying is cheaper for small pieces (no pipe), splice(2) for large ones (no copy into the process); HAProxy
decides the same way. A pipe is taken from the pool when a way begins to splice and given back when it waits
for its source, so an idle bridge costs nothing but its two sockets.

Memory: each way holds at most one buffer of unsent bytes in the process, or one pipe (512 KiB) in the kernel.
The buffer for reading is shared by all bridges of an event loop: it is empty between two turns.
"""

from __future__ import annotations

import asyncio
import os
from socket import SHUT_WR
from typing import TYPE_CHECKING

from proxy.clock import NEVER

if TYPE_CHECKING:
    import socket

    from proxy.clock import Deadlines
    from proxy.net.splice import Pipe, PipePool

_MOST = 1024 * 1024
"""Bytes asked for in one splice(2): more than a pipe takes."""

_CALLS = 32
"""System calls of one way in one turn of the event loop: a fast one must not starve the others."""

_WORTH = 16 * 1024
"""A splice that finds less goes back to copying."""

_PLENTY = 64 * 1024
"""After a splice that found less the source is waited for: asking at once would mostly find nothing."""


class Bridge:
    """Relays between ``down`` and ``up``, both non-blocking and not used by anybody else meanwhile.

    :param idle: seconds without a byte in either way after which it ends.
    :param pipes: for splice(2); ``None``: everything is copied.
    :param buffer: shared between bridges; see the module.
    """

    def __init__(
        self,
        down: socket.socket,
        up: socket.socket,
        *,
        deadlines: Deadlines,
        idle: float,
        pipes: PipePool | None,
        buffer: bytearray,
    ) -> None:
        self.deadlines = deadlines
        self.pipes = pipes
        self.due = NEVER
        self.ended_by = ""
        """Why it ended: ``closed`` (both sides ended), ``downstream`` or ``upstream`` (reset), ``idle``, or
        the word that ``end`` was given."""
        self._idle = idle
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.inward = Way(self, down, up, "downstream", "upstream", memoryview(buffer))
        self.outward = Way(self, up, down, "upstream", "downstream", memoryview(buffer))

    def __repr__(self) -> str:
        return f"<Bridge {self.ended_by or 'OPEN'} in={self.inward.bytes} out={self.outward.bytes}>"

    async def run(self) -> None:
        """Relay until it ends. The sockets are the caller's to close."""
        self.touch()
        self.deadlines.watch(self)
        try:
            self.inward.begin()
            self.outward.begin()
            await self._over
        finally:
            self.deadlines.forget(self)
            self.inward.release()
            self.outward.release()

    def expire(self) -> None:
        """Nothing moved for too long."""
        self.end("idle")

    def end(self, reason: str) -> None:
        """End it now, whatever is under way."""
        self.due = NEVER
        if not self._over.done():
            self.ended_by = reason
            self._over.set_result(None)

    def touch(self) -> None:
        """Something moved."""
        self.due = self.deadlines.clock.monotonic() + self._idle

    def finished(self) -> None:
        """One way has passed on its source's end."""
        if self.inward.ended and self.outward.ended:
            self.end("closed")


class Way:
    """One direction. ``bytes`` is how many went by, ``spliced`` how many of them past the process."""

    __slots__ = (
        "_bridge",
        "_buffer",
        "_bulk",
        "_held",
        "_loop",
        "_moved",
        "_pipe",
        "_plenty",
        "_source",
        "_source_name",
        "_target",
        "_target_name",
        "_waits_for",
        "bytes",
        "ended",
        "spliced",
    )

    def __init__(
        self,
        bridge: Bridge,
        source: socket.socket,
        target: socket.socket,
        source_name: str,
        target_name: str,
        buffer: memoryview,
    ) -> None:
        self.bytes = 0
        self.spliced = 0
        self.ended = False
        self._bridge = bridge
        self._source, self._target = source, target
        self._source_name, self._target_name = source_name, target_name
        self._buffer = buffer
        self._loop = asyncio.get_running_loop()
        self._held: bytes = b""
        self._pipe: Pipe | None = None
        self._bulk = self._plenty = False
        self._moved = False
        """Something was taken in this turn."""
        self._waits_for: socket.socket | None = None

    def begin(self) -> None:
        """Wait for the first byte."""
        self._wait(self._source)

    def release(self) -> None:
        """Wait for nothing any more, and give the pipe back."""
        self._wait(None)
        self._give_pipe_back()

    def _turn(self) -> None:
        """Move what can be moved now. Both sockets are told of by level: what is left here comes again."""
        self._moved = False
        for _ in range(_CALLS):
            if not (self._give() if self._in_hand else self._take()):
                return
        self._wait(self._target if self._in_hand else self._source)

    @property
    def _in_hand(self) -> int:
        return self._pipe.inside if self._pipe is not None and self._pipe.inside else len(self._held)

    # From the source.

    def _take(self) -> bool:
        """Take something; false: there is no more for now, or at all."""
        if self._bulk:
            return self._fill()
        try:
            count = self._source.recv_into(self._buffer)
        except (BlockingIOError, InterruptedError):
            return self._wait(self._source)
        except OSError:
            return self._broken(self._source_name)
        if not count:
            return self._pass_end_on()
        return self._send(self._buffer[:count])

    def _send(self, data: memoryview) -> bool:
        """Pass on what was read just now."""
        count = len(data)
        self.bytes += count
        self._bridge.touch()
        self._bulk = self._plenty = count == len(self._buffer) and self._bridge.pipes is not None
        try:
            sent = self._target.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            return self._broken(self._target_name)
        if sent < count:
            self._held = bytes(data[sent:])
            return self._wait(self._target)
        # A read that did not fill the buffer has emptied the socket: no need to ask again now.
        return count == len(self._buffer) or self._wait(self._source)

    def _fill(self) -> bool:
        """From the source into the pipe, which is empty."""
        pipe = self._pipe or self._new_pipe()
        if pipe is None:
            return self._no_bulk()
        try:
            count = os.splice(self._source.fileno(), pipe.write_end, _MOST, flags=os.SPLICE_F_NONBLOCK)
        except BlockingIOError:
            if self._moved:
                return self._wait(self._source)
            # It is said to be readable: by urgent data of TCP, over which recv(2) can pass and splice(2) not.
            return self._no_bulk()
        except OSError:
            return self._no_bulk()  # it cannot work here, or recv(2) will say what is wrong
        if not count:
            return self._no_bulk()
        self._moved = True
        pipe.inside += count
        self.bytes += count
        self.spliced += count
        self._bridge.touch()
        self._bulk, self._plenty = count >= _WORTH, count >= _PLENTY
        return True

    def _no_bulk(self) -> bool:
        self._bulk = False
        return True

    def _pass_end_on(self) -> bool:
        self.ended = True
        self._wait(None)
        self._give_pipe_back()
        try:
            self._target.shutdown(SHUT_WR)
        except OSError:
            return self._broken(self._target_name)
        self._bridge.finished()
        return False

    # To the target.

    def _give(self) -> bool:
        """Give what is in hand; false: the target takes no more for now."""
        pipe = self._pipe
        try:
            if pipe is not None and pipe.inside:
                pipe.inside -= os.splice(
                    pipe.read_end, self._target.fileno(), pipe.inside, flags=os.SPLICE_F_NONBLOCK
                )
            else:
                self._held = self._held[self._target.send(self._held) :]
        except (BlockingIOError, InterruptedError):
            return self._wait(self._target)
        except OSError:
            return self._broken(self._target_name)
        self._bridge.touch()
        if self._in_hand or (self._bulk and self._plenty):
            return True
        return self._wait(self._source)

    def _broken(self, side: str) -> bool:
        self._bridge.end(side)
        return False

    # The pipe.

    def _new_pipe(self) -> Pipe | None:
        self._pipe = self._bridge.pipes.take() if self._bridge.pipes is not None else None
        return self._pipe

    def _give_pipe_back(self) -> None:
        if self._pipe is not None and self._bridge.pipes is not None:
            self._bridge.pipes.give_back(self._pipe)
            self._pipe = None

    def _wait(self, sock: socket.socket | None) -> bool:
        """Have the event loop call ``_turn`` when this side is ready, and not when the other is."""
        if sock is self._source:
            self._give_pipe_back()
        before = self._waits_for
        if sock is before:
            return False
        if before is self._source:
            self._loop.remove_reader(before)
        elif before is self._target:
            self._loop.remove_writer(before)
        self._waits_for = sock
        if sock is self._source:
            self._loop.add_reader(sock, self._turn)
        elif sock is self._target:
            self._loop.add_writer(sock, self._turn)
        return False
