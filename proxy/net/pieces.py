"""Reading in pieces of 64 KiB into one buffer: for sockets through which large bodies come.

The event loop reads as much as is there, up to 256 KiB, into an object of its own. That is the cheapest way
for what is small. Of a large body the first read is copied and the rest is spliced (net/splice.py), and an
object of that size costs more in fresh pages than in copying. A buffer that is always the same stays in the
processor's cache; but each read takes a call more, so only those sockets are read like this that had
something large.

Memory: one buffer a thread.
"""

from __future__ import annotations

import asyncio
import threading

PIECE_BYTES = 64 * 1024


class _Buffer(threading.local):
    """Where everybody in an event loop reads to, one after the other: what was read is taken before the next
    read. (Not for Windows, where a read is begun before anything has come.)"""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(PIECE_BYTES))


_BUFFER = _Buffer()


class Pieces(asyncio.BufferedProtocol):
    """Stands between a transport and its protocol, which hears of everything as before."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        self._view = _BUFFER.view
        self._received = protocol.data_received
        # A transport looks these up on its protocol: no call more.
        self.eof_received = protocol.eof_received  # type: ignore[method-assign]
        self.connection_lost = protocol.connection_lost  # type: ignore[method-assign]
        self.pause_writing = protocol.pause_writing  # type: ignore[method-assign]
        self.resume_writing = protocol.resume_writing  # type: ignore[method-assign]

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        self._received(bytes(self._view[:nbytes]))
