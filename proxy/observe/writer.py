"""Log bytes to a slow place: a thread that writes, so that a full pipe or a slow disk never stops the
event loop.

Memory: at most ``QUEUED`` batches wait (each at most what ``BatchedLog`` holds); more are dropped.
"""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING

from proxy.config.schema import LogLevel
from proxy.errors import described
from proxy.observe.sinks import FileSink, open_sink
from proxy.observe.turns import SharedSink

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.config.schema import LogConfig
    from proxy.observe.sinks import ClosableSink
    from proxy.observe.turns import Turns

QUEUED = 16


class LogWriter:
    """A sink for ``BatchedLog`` that hands each batch to a thread, which writes it to a file's sink.

    ``dropped`` counts batches that found the queue full, ``lost`` those that could not be written (a
    full disk, a reader that is gone): logging goes on with the next one.
    """

    def __init__(self, sink: ClosableSink) -> None:
        self._sink = sink
        self._batches: queue.Queue[bytes | None] = queue.Queue(QUEUED)
        self.dropped = 0
        self.lost = 0
        self._thread = threading.Thread(target=self._run, name="posthog-proxy-log", daemon=True)
        self._thread.start()

    def __call__(self, batch: bytes) -> None:
        """Queue a batch; never blocks."""
        try:
            self._batches.put_nowait(batch)
        except queue.Full:
            self.dropped += 1

    def reopen(self) -> None:
        """Open the place anew, for the next batch. Raises ``OSError``; then it goes on with the old one."""
        self._sink.reopen()

    def close(self, timeout: float = 5.0) -> None:
        """Write what is queued, end the thread, close the sink; give up after ``timeout`` seconds of
        waiting for a place that takes nothing."""
        try:
            self._batches.put(None, timeout=timeout)
        except queue.Full:
            return
        self._thread.join(timeout)

    def _run(self) -> None:
        while (batch := self._batches.get()) is not None:
            try:
                self._sink(batch)
            except OSError:
                self.lost += 1
        self._sink.close()


def log_writer(where: str, turns: Turns) -> LogWriter:
    """Return the writer of what `log.access` or `log.errors` names; others may write there too.

    Raises ``OSError`` if it cannot be opened.
    """
    sink = open_sink(where)
    return LogWriter(SharedSink(sink, turns) if isinstance(sink, FileSink) else sink)


class Logs:
    """The access log and the error log of one configuration. Raises ``OSError`` if one cannot be opened."""

    def __init__(self, config: LogConfig, turns: Turns) -> None:
        self.access = log_writer(config.access, turns)
        try:
            self.errors = log_writer(config.errors, turns)
        except BaseException:
            self.access.close()
            raise

    def reopen(self) -> None:
        """Open the files anew, which somebody has moved away. Raises ``OSError``."""
        self.access.reopen()
        self.errors.reopen()

    def close(self) -> None:
        """Write what is queued and close both; see ``LogWriter.close``."""
        self.access.close()
        self.errors.close()


def reopen_logs(reopen: Callable[[], None], say: Callable[..., None]) -> None:
    """Do what SIGUSR1 asks for, and tell the error log (``say``: its level, event and fields)."""
    try:
        reopen()
    except OSError as error:
        say(LogLevel.ERROR, "logs_not_reopened", detail=described(error))
    else:
        say(LogLevel.INFO, "logs_reopened")
