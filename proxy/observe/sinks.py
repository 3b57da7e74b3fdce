"""Where finished log lines go: files, standard streams, journald, syslog.

All of them may be slow, so a thread calls them (writer.py); each takes whole lines, and raises ``OSError`` if
it could not write all of them.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

SYSLOG_SOCKET = "/dev/log"

MAX_DATAGRAM = 65_507
"""Bytes of the largest datagram over UDP and IPv4; a longer line is cut."""

_SEVERITIES = {b"debug": 7, b"info": 6, b"warning": 4, b"error": 3}
"""RFC 5424 section 6.2.1, and sd-daemon(3)."""

_DAEMON = 3 * 8
"""The facility of system daemons."""

_LEVEL = re.compile(rb'"level":"([a-z]+)"|\A\S+ (DEBUG|INFO|WARNING|ERROR) ')


class ClosableSink(Protocol):
    """Takes whole lines; raises ``OSError`` if it could not write all of them."""

    def __call__(self, data: bytes, /) -> None: ...

    def reopen(self) -> None:
        """Open the place anew, for what is written next: it may have been moved away (logrotate). Any thread
        may call it. Raises ``OSError``; then it goes on with the old one."""

    def close(self) -> None:
        """Give back what was opened."""


class FileSink:
    """A sink on a descriptor. ``owned``: close it in ``close``; ``path``: the file that it is, if any."""

    def __init__(self, descriptor: int, *, owned: bool, path: str = "") -> None:
        self._descriptor = descriptor
        self._path = path
        self._owned = owned
        self._guard = threading.Lock()
        self._newer: int | None = None
        """The descriptor that ``reopen`` has brought, until it is taken up; one at most."""

    def __call__(self, data: bytes) -> None:
        """Write all of ``data``, however many calls that takes."""
        self.take_up()
        self.write(data)

    def write(self, data: bytes) -> None:
        """The same, to what was taken up last."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]

    def take_up(self) -> int:
        """Go over to what was opened last. Return the number of the inode that is written to: the same for
        everyone who writes there."""
        newer = self._exchanged(None)
        if newer is not None:
            os.close(self._descriptor)
            self._descriptor = newer
        return os.fstat(self._descriptor).st_ino

    def reopen(self) -> None:
        """Open the file of that name; a standard stream stays what it is."""
        if self._owned and self._path:
            unused = self._exchanged(_opened(self._path))
            if unused is not None:  # nothing was logged since it was opened
                os.close(unused)

    def _exchanged(self, descriptor: int | None) -> int | None:
        with self._guard:
            before, self._newer = self._newer, descriptor
        return before

    def close(self) -> None:
        """Close the file; idempotent. Standard streams stay open."""
        if self._owned:
            self.take_up()
            self._owned = False
            os.close(self._descriptor)


class JournalSink(FileSink):
    """Standard error for journald: each line begins with its priority (sd-daemon(3)), which journald takes
    off and files the line under."""

    def __init__(self, descriptor: int = 2) -> None:
        super().__init__(descriptor, owned=False)

    def write(self, data: bytes) -> None:
        """Write all lines, each with its priority."""
        super().write(b"".join(b"<%d>%b\n" % (severity, line) for severity, line in _lines(data)))


class SyslogSink:
    """Datagrams to a syslog daemon, one a line (RFC 5424): to its socket on this machine, or by UDP to
    ``address``. A daemon that is not there, or takes nothing, costs the lines."""

    def __init__(self, address: tuple[str, int] | None = None, path: str = SYSLOG_SOCKET) -> None:
        self._address = address
        self._path = path
        self._socket: socket.socket | None = None
        host = socket.gethostname().encode()[:255] or b"-"
        self._header = b"%b posthog-proxy %d - - " % (host, os.getpid())

    def __call__(self, data: bytes) -> None:
        """Send all lines; the first that cannot be sent ends it."""
        sock = self._socket = self._socket or self._connected()
        try:
            for severity, line in _lines(data):
                now = datetime.now(UTC).isoformat(timespec="microseconds").encode()
                datagram = b"<%d>1 %b %b%b" % (_DAEMON + severity, now, self._header, line)
                sock.send(datagram[:MAX_DATAGRAM])
        except OSError:
            self.close()  # syslogd was restarted, perhaps: the next batch looks for it anew
            raise

    def _connected(self) -> socket.socket:
        if self._address is None:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            where: Any = self._path
        else:
            found = socket.getaddrinfo(*self._address, type=socket.SOCK_DGRAM)[0]
            sock, where = socket.socket(*found[:3]), found[4]
        try:
            sock.connect(where)
        except BaseException:
            sock.close()
            raise
        return sock

    def reopen(self) -> None:
        """Nothing to open: when the daemon is another one, the next line finds out."""

    def close(self) -> None:
        """Close the socket; idempotent."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.close()
            self._socket = None


class NoSink:
    """The sink of a log that is off."""

    def __call__(self, data: bytes) -> None:
        """Forget ``data``."""

    def reopen(self) -> None:
        """Nothing to open."""

    def close(self) -> None:
        """Nothing to close."""


def open_sink(where: str) -> FileSink | SyslogSink | NoSink:
    """Open what `log.access` or `log.errors` names: ``stdout``, ``stderr``, ``journald``, ``syslog``,
    ``syslog:HOST:PORT``, ``off``, or a file that is appended to (created with mode 0640: it names clients).
    Raises ``OSError`` if it cannot be opened."""
    if where == "off":
        return NoSink()
    if where in ("stdout", "stderr"):
        return FileSink(1 if where == "stdout" else 2, owned=False)
    if where == "journald":
        return JournalSink()
    if where == "syslog":
        return SyslogSink()
    if where.startswith("syslog:"):
        host, _, port = where.removeprefix("syslog:").rpartition(":")
        return SyslogSink((host.strip("[]"), int(port)))
    return FileSink(_opened(where), owned=True, path=where)


def _opened(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)


def _lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Lines without their ends, each with its severity; a line of the access log has no level."""
    for line in data.splitlines():
        match = _LEVEL.search(line, 0, 200)
        level = b"info" if match is None else (match[1] or match[2]).lower()
        yield _SEVERITIES.get(level, 6), line
