"""One worker's process, as its parent sees it: started, told things, watched."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

from proxy.workers.channel import Accept, Channel, Handed

if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Self

    from proxy.net.listen import Listener
    from proxy.observe.metrics import Snapshot
    from proxy.observe.report import Report
    from proxy.workers.channel import Message


class Child:
    """A process and the parent's end of its channel.

    ``counted`` is what it has counted, ``report`` what it has to say in words, as far as it did; ``failure``
    why it could not start.
    """

    def __init__(self, process: subprocess.Popen[bytes], channel: Channel) -> None:
        self.channel = channel
        self.counted: Snapshot = {}
        self.report: Report | None = None
        self.failure = ""
        self._process = process
        self._handed: dict[Listener, int] = {}
        self._last_number = 0

    def __repr__(self) -> str:
        return f"<Child pid={self.pid} sockets={len(self._handed)}>"

    @classmethod
    def start(cls, number: int, *, settings: int, turns: int) -> Self:
        """Start worker ``number`` in a fresh interpreter with this one's import path.

        It has a process group of its own: a signal that a terminal sends to its foreground group is
        the parent's business. Raises ``OSError`` if the system has no process to give.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            descriptors = (theirs.fileno(), settings, turns)
            try:
                process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "proxy.workers.worker", str(number), *map(str, descriptors)],
                    stdin=subprocess.DEVNULL,
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
                    pass_fds=descriptors,
                    process_group=0,
                )
            except BaseException:
                ours.close()
                raise
        return cls(process, Channel(ours))

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def tell(self, message: Message, descriptor: int | None = None) -> None:
        """Send a message. A worker that has not taken those of before is stuck: it is killed."""
        try:
            stuck = self.channel.behind
            if not stuck:
                self.channel.send(message, descriptor)
        except BlockingIOError:
            stuck = True
        if stuck:
            self.kill()

    def share(self, listeners: Collection[Listener]) -> None:
        """Let it accept on exactly these sockets."""
        if self._handed.keys() == set(listeners):
            return
        for listener in listeners:
            if listener not in self._handed:
                self._last_number += 1
                self._handed[listener] = self._last_number
                handed = Handed(self._last_number, str(listener.address), listener.entry)
                self.tell(handed, listener.socket.fileno())
        self._handed = {listener: self._handed[listener] for listener in listeners}
        self.tell(Accept(list(self._handed.values())))

    def kill(self) -> None:
        """End it by force."""
        self._process.kill()

    def wait(self) -> None:
        """Wait for its end."""
        self._process.wait()

    def ending(self) -> dict[str, object] | None:
        """Return how it has ended, for the log; ``None`` while it runs. ``exit_code`` 0 is a clean end."""
        code = self._process.poll()
        if code is None:
            return None
        if code < 0:
            return {"pid": self.pid, "signal": signal.Signals(-code).name}
        return {"pid": self.pid, "exit_code": code}
