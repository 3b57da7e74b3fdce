"""Several writers on one place: one at a time, so that every line stays whole.

Threads and processes write to the same pipe, socket or file. A write to a pipe is only atomic up to 4 KiB
(PIPE_BUF, pipe(7)), a write to journald's socket not at all, and a batch of lines is longer: without turns,
lines of one worker land in the middle of those of another.

Threads of a process wait for one another at a mutex, processes at a record lock (fcntl(2)) on a file that
they all have open; the byte that is locked is numbered like the inode of the place. The kernel frees
the lock of a process that dies.
"""

from __future__ import annotations

import fcntl
import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxy.observe.sinks import FileSink


def lock_file() -> int:
    """Return the descriptor of a new file in memory, for the processes that take turns."""
    return os.memfd_create("posthog-proxy-log-turns")


class Turns:
    """Whose turn it is, for all writers of one process.

    ``descriptor``: the lock file that other processes have open too; ``None``: there are none. Memory: one
    mutex for each place that was ever written to.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        self._descriptor = descriptor
        self._guard = threading.Lock()
        self._mutexes: dict[int, threading.Lock] = {}

    @contextmanager
    def at(self, place: int) -> Iterator[None]:
        """Wait for one's turn at ``place`` (an inode's number), and have it inside the context."""
        with self._guard:
            mutex = self._mutexes.setdefault(place, threading.Lock())
        with mutex:
            if self._descriptor is None:
                yield
                return
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX, 1, place)
            try:
                yield
            finally:
                fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, place)


class SharedSink:
    """A file's sink that waits for its turn."""

    def __init__(self, sink: FileSink, turns: Turns) -> None:
        self._sink = sink
        self._turns = turns

    def reopen(self) -> None:
        """Open the file anew, at another place perhaps. Raises ``OSError`` as the sink does."""
        self._sink.reopen()

    def __call__(self, data: bytes) -> None:
        """Write all of ``data`` while nobody else writes. Raises ``OSError`` as the sink does."""
        with self._turns.at(self._sink.take_up()):
            self._sink.write(data)

    def close(self) -> None:
        """Close the sink."""
        self._sink.close()
