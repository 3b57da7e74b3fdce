"""Clients that send events without end, and count what a client must never meet.

Each client is a thread with one connection at a time, and behaves as an SDK's pool does: it looks whether
the connection was closed before it uses it again, and closes it where the answer says so.
"""

from __future__ import annotations

import itertools
import select
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from tests.support.wire import Client, WireError

if TYPE_CHECKING:
    import socket

    from tests.support.wire import Address

TIMEOUT = 15.0


@dataclass
class Tally:
    """What the clients met.

    ``failures``: requests that were refused, reset, left unanswered or answered with 5xx. ``abandoned``:
    connections that were closed between two requests without a word.
    """

    answered: int = 0
    announced: int = 0
    abandoned: int = 0
    failures: list[str] = field(default_factory=list)


class Load:
    """Clients at work as long as the context lasts.

    ``kept`` of them send one request after the other on a connection, ``pausing`` ones wait in between,
    ``fresh`` ones open a connection for each.
    """

    def __init__(
        self, address: Address, *, kept: int = 3, pausing: int = 3, fresh: int = 3, agent: str = "load"
    ) -> None:
        self._address = address
        self._agent = agent
        self._stopping = threading.Event()
        self._changed = threading.Condition()
        self._tally = Tally()
        self._threads = [
            threading.Thread(target=self._run, args=(pause, again))
            for pause, again in [(0.005, True)] * kept + [(0.3, True)] * pausing + [(0.005, False)] * fresh
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> Tally:
        """Let every client finish its request and return what they met."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(2 * TIMEOUT)
            assert not thread.is_alive()
        return self._tally

    @property
    def failures(self) -> list[str]:
        """The failures so far."""
        with self._changed:
            return list(self._tally.failures)

    @property
    def size(self) -> int:
        """The number of clients."""
        return len(self._threads)

    def wait_for_answers(self, count: int) -> None:
        """Wait until ``count`` more requests were answered."""
        with self._changed:
            wanted = self._tally.answered + count
            assert self._changed.wait_for(lambda: self._tally.answered >= wanted, 2 * TIMEOUT)

    def _run(self, pause: float, again: bool) -> None:
        client: Client | None = None
        for number in itertools.count():
            if self._stopping.wait(pause):
                break
            if client is not None and _closed(client.sock):
                self._note(abandoned=1)
                client.sock.close()
                client = None
            try:
                if client is None:
                    client = Client(self._address, timeout=TIMEOUT)
                client.send(self._request(number, again))
                answer = client.answer(b"POST")
            except (OSError, WireError) as error:
                self._note(failure=repr(error))
                kept = False
            else:
                kept = again and answer.values("Connection") != [b"close"]
                self._note(answered=1, announced=int(again and not kept))
                if answer.status >= 500:
                    self._note(failure=f"{answer.status} {answer.body!r}")
            if not kept and client is not None:
                client.sock.close()
                client = None
        if client is not None:
            client.sock.close()

    def _request(self, number: int, again: bool) -> bytes:
        body = b"x" * (number * 37 % 2000)
        close = "" if again else "Connection: close\r\n"
        head = f"POST /e/?ip=1&_={number} HTTP/1.1\r\nHost: posthog.example.test\r\n{close}"
        return f"{head}User-Agent: {self._agent}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body

    def _note(
        self, *, answered: int = 0, announced: int = 0, abandoned: int = 0, failure: str | None = None
    ) -> None:
        with self._changed:
            self._tally.answered += answered
            self._tally.announced += announced
            self._tally.abandoned += abandoned
            if failure is not None:
                self._tally.failures.append(failure)
            self._changed.notify_all()


def _closed(sock: socket.socket) -> bool:
    """Whether the other side has closed a connection on which nothing is expected."""
    return bool(select.select([sock], [], [], 0)[0])
