"""One socket as a protocol: bytes in with a bound, bytes out with a bound, waits with a deadline.

Both sides of the proxy are a ``Stream``: the client connection (serve/connection.py) and the
upstream connection (net/upstream.py). A subclass reacts in ``on_data``, ``on_eof`` and ``on_lost``
without any task; a coroutine that works on the stream uses ``fill`` and ``drain``.

Memory: at most ``read_limit`` unread bytes plus one read of the event loop (256 KiB) are held, then
reading pauses; at most ``write_limit`` bytes plus one write are queued before ``drain`` waits.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, cast

from proxy.net.pieces import Pieces

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from proxy.clock import Deadlines
    from proxy.errors import Failure


class StallError(Exception):
    """Internal to ``drain``: the moment came; whether it is a failure depends on progress."""


class Stream(asyncio.Protocol):
    """A transport with bounded buffers.

    ``received`` holds the unread bytes; the reader consumes from its front. ``at_eof`` is true once
    the peer has said that it sends no more, ``lost`` once the transport is gone.
    """

    transport: asyncio.Transport

    def __init__(self, deadlines: Deadlines, *, read_limit: int, write_limit: int) -> None:
        self.deadlines = deadlines
        self.read_limit = read_limit
        self.write_limit = write_limit
        self.received = bytearray()
        self.at_eof = False
        self.lost = False
        self.error: Exception | None = None
        self.bytes_in = 0
        self.bytes_out = 0
        self._held = b""
        self._in_pieces = False
        self._reading = True
        self._writable = True
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        state = "LOST" if self.lost else "EOF" if self.at_eof else "OPEN"
        return f"<{type(self).__name__} {state} in={self.bytes_in} out={self.bytes_out}>"

    # What a subclass reacts to; the bytes are in `received` already.

    def on_data(self) -> None:
        """Bytes were added to ``received``."""

    def on_eof(self) -> None:
        """The peer sends no more; we may still write."""

    def on_lost(self) -> None:
        """The transport is gone; nothing more will be called."""

    # The transport's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=self.write_limit)

    def data_received(self, data: bytes) -> None:
        self.bytes_in += len(data)
        self.received += data
        if len(self.received) >= self.read_limit:
            self.pause()
        self._wake_reader()
        self.on_data()

    def eof_received(self) -> bool:
        self.at_eof = True
        self._wake_reader()
        self.on_eof()
        # Keep the writing half: the answer may still be on its way. TLS has no halves.
        return self.transport.get_extra_info("ssl_object") is None

    def connection_lost(self, exc: Exception | None) -> None:
        if self.lost:  # said by ``have_made``
            return
        self.lost = True
        self.at_eof = True
        self.error = exc
        self._wake_reader()
        self._wake_writer()
        self.on_lost()

    async def have_made(self, making: Awaitable[object]) -> None:
        """Have the event loop make the transport, without TLS. Whoever is cancelled meanwhile leaves a stream
        that is lost: uvloop closes the transport without a word, even if it has said ``connection_made``;
        asyncio says that it is lost, in another turn."""
        try:
            await making
        except BaseException:
            if hasattr(self, "transport"):
                self.connection_lost(None)
            raise

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        self._wake_writer()

    # Reading.

    @property
    def awaited(self) -> bool:
        """True while a coroutine waits for more bytes."""
        return self._reader is not None and not self._reader.done()

    @property
    def writable(self) -> bool:
        """False while more than ``write_limit`` bytes are queued."""
        return self._writable

    @property
    def holding(self) -> bool:
        """True while bytes are held back."""
        return bool(self._held)

    def pause(self) -> None:
        """Stop reading from the socket; idempotent."""
        if self._reading and not self.lost:
            self._reading = False
            self.transport.pause_reading()

    def resume(self) -> None:
        """Read on, unless the unread bytes are at their bound; idempotent."""
        if not self._reading and not self.at_eof and len(self.received) < self.read_limit:
            self._reading = True
            self.transport.resume_reading()

    def read_in_pieces(self) -> None:
        """Read smaller pieces from now on (net/pieces.py): a peer that was large once will be again."""
        if not (self._in_pieces or self.at_eof or self.transport.is_closing()):
            self._in_pieces = True
            reading = self._reading
            self.pause()
            self.transport.set_protocol(Pieces(self))
            if reading:
                self.resume()

    async def fill(self, due: float, late: Callable[[], Failure]) -> bool:
        """Wait until bytes arrive; true if any came, false at the end of the stream.

        :param due: moment of the clock at which ``late()`` is raised.
        """
        if self.at_eof:
            return False
        before = self.bytes_in
        self.resume()
        self._reader = asyncio.get_running_loop().create_future()
        try:
            await self.deadlines.wait(self._reader, due, late)
        finally:
            self._reader = None
        return self.bytes_in > before

    # Writing.

    def write(self, data: bytes) -> None:
        """Queue bytes; after the transport is lost they are thrown away, as the reader will find out."""
        if self._held:
            self.send_held()
        if not self.lost and not self.transport.is_closing():
            self.bytes_out += len(data)
            self.transport.write(data)

    def write_both(self, head: bytes, body: bytes) -> None:
        """Write both at once, without making one of them; whatever is queued of ``body`` is no copy (on
        uvloop)."""
        if self._held:
            self.send_held()
        if not self.lost and not self.transport.is_closing():
            self.bytes_out += len(head) + len(body)
            if body:
                self.transport.writelines((head, body))
            else:
                self.transport.write(head)

    def hold(self, data: bytes) -> None:
        """Hold bytes back until ``send_held``, or until something else is written (``Outbox`` does this)."""
        if self._held:
            self.send_held()
        self._held = data
        self.bytes_out += len(data)

    def send_held(self) -> None:
        """Queue what is held back, if there is anything."""
        held, self._held = self._held, b""
        if held and not self.lost and not self.transport.is_closing():
            self.transport.write(held)

    async def drain(self, stall: float, late: Callable[[], Failure]) -> None:
        """Wait until the queue is short again; return at once if it is, or if the transport is lost.

        :param stall: seconds in which the peer must take at least one byte, else ``late()`` is raised.
        """
        while not self._writable and not self.lost:
            queued = self.transport.get_write_buffer_size()
            due = self.deadlines.clock.monotonic() + stall
            self._writer = asyncio.get_running_loop().create_future()
            try:
                await self.deadlines.wait(self._writer, due, StallError)
            except StallError:
                if self.transport.get_write_buffer_size() >= queued:
                    raise late() from None
            finally:
                self._writer = None

    async def flush(self, stall: float, late: Callable[[], Failure]) -> None:
        """Wait until the queue is empty, as ``drain`` does until it is short."""
        self.send_held()
        if self.transport.get_write_buffer_size():
            self._limit_queue(0)
            try:
                await self.drain(stall, late)
            finally:
                self._limit_queue(self.write_limit)

    def _limit_queue(self, size: int) -> None:
        if not self.transport.is_closing():
            self.transport.set_write_buffer_limits(high=size)

    # Ending.

    def close(self) -> None:
        """Send what is queued, then close."""
        self.send_held()
        if not self.lost:
            self.transport.close()

    def end(self) -> bool:
        """Say that nothing more comes from here; false where the transport cannot (TLS)."""
        if not self.transport.can_write_eof():
            return False
        # ENOTCONN: the peer has reset the connection, which the event loop tells in a moment.
        with contextlib.suppress(OSError):
            self.transport.write_eof()
        return True

    def abort(self) -> None:
        """Close now; what is queued is thrown away."""
        self._held = b""
        if not self.lost:
            self.transport.abort()

    def _wake_reader(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _wake_writer(self) -> None:
        if self._writer is not None and not self._writer.done():
            self._writer.set_result(None)
