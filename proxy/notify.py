"""Talks to systemd: what it is told about this service (sd_notify(3)) and what it hands over
(sd_listen_fds(3)).

Without systemd nothing happens: every call is harmless. The protocol is one datagram a message, so it needs
no library: of those on PyPI one is a C extension that wants systemd's headers, the others have had no release
for years, and each is longer than what stands here.
"""

from __future__ import annotations

import os
import socket
import stat
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from proxy.clock import Clock

FIRST_DESCRIPTOR = 3
"""SD_LISTEN_FDS_START."""


class Notifier:
    """Tells the service manager how the service is.

    :param address: its datagram socket (``NOTIFY_SOCKET``; a leading ``@`` means the abstract namespace);
        empty: there is nobody to tell.
    :param watchdog: seconds within which it wants to hear from us, else it kills the service; 0: it does not.
    """

    def __init__(self, address: str = "", watchdog: float = 0.0) -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._watchdog = watchdog

    def __repr__(self) -> str:
        return f"<Notifier {self._address!r} watchdog={self._watchdog:g}s>"

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str]) -> Self:
        """Take its address out of the environment, so that no process that is started later believes that it
        is meant. A watchdog that is meant for another process (``WATCHDOG_PID``) is none."""
        address = environ.pop("NOTIFY_SOCKET", "")
        microseconds = environ.pop("WATCHDOG_USEC", "")
        ours = environ.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        watchdog = int(microseconds) / 1e6 if address and ours and microseconds.isdecimal() else 0.0
        return cls(address, watchdog)

    @property
    def interval(self) -> float:
        """Seconds between two calls of ``alive``, a third of what is allowed; 0: nobody waits for them."""
        return self._watchdog / 3

    def ready(self, status: str) -> None:
        """It serves, or serves again after ``reloading``."""
        self._tell("READY=1", f"STATUS={status}")

    def reloading(self, clock: Clock) -> None:
        """A new configuration is being loaded; ``ready`` must follow."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={int(clock.monotonic() * 1e6)}", "STATUS=reloading")

    def stopping(self, status: str) -> None:
        """It drains."""
        self._tell("STOPPING=1", f"STATUS={status}")

    def alive(self) -> None:
        """Feed the watchdog."""
        self._tell("WATCHDOG=1")

    def _tell(self, *lines: str) -> None:
        """Never blocks and never fails: a service manager that is gone or busy is no reason to stop."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
                sock.sendto("\n".join(lines).encode(), self._address)
        except OSError:
            return


def inherited_sockets(environ: MutableMapping[str, str]) -> list[socket.socket]:
    """Return the listening stream sockets that the service manager has opened for this process, and take
    their announcement out of the environment. What else it handed over is closed.

    They stay open in the service manager, so that connections wait there while the service restarts.
    """
    count, pid = environ.pop("LISTEN_FDS", ""), environ.pop("LISTEN_PID", "")
    environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    sockets = [_listening(FIRST_DESCRIPTOR + number) for number in range(int(count))]
    return [sock for sock in sockets if sock is not None]


def _listening(descriptor: int) -> socket.socket | None:
    if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return None
    sock = socket.socket(fileno=descriptor)
    if sock.type != socket.SOCK_STREAM or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.close()
        return None
    sock.set_inheritable(False)
    sock.setblocking(False)
    return sock
