"""An origin that reads each body to its end: `python -m benchmarks.origins.reader [DELAY]`.

Prints `port N` and answers from the table until it is ended. nginx cannot do this job: it answers `return
200` before a large body has arrived, so that the proxies before it would be measured with a connection that
ends early.

One epoll set and plain sockets: about 10 µs a small request, less than any proxy needs; bodies are not
copied. ``DELAY`` seconds after a request is whole its answer is sent; all delays are equal, so a queue is
enough.
"""

from __future__ import annotations

import select
import socket
import sys
from collections import deque
from time import perf_counter

from benchmarks.incoming import Incoming
from benchmarks.machine import raise_descriptor_limit
from benchmarks.origins.answers import ANSWERS, Answer

BACKLOG = 4096


def rendered(answer: Answer) -> bytes:
    """The whole answer on the wire."""
    fields = (
        ("Server", "reader"),
        ("Date", "Wed, 25 Nov 2026 10:00:00 GMT"),
        ("Content-Type", answer.content_type),
        ("Content-Length", str(len(answer.body))),
        *answer.fields,
    )
    head = "".join(f"{name}: {value}\r\n" for name, value in fields)
    return f"HTTP/1.1 200 OK\r\n{head}\r\n".encode() + answer.body


TABLE = tuple((answer.prefix.encode(), rendered(answer)) for answer in ANSWERS)


def answer_to(head: bytes) -> bytes:
    """Return the answer to a request that begins with ``head``."""
    at = head.index(b" ") + 1
    return next(answer for prefix, answer in TABLE if head.startswith(prefix, at))


class Conversation:
    """A connection; ``unsent`` bytes of an answer are still to go."""

    __slots__ = ("incoming", "socket", "unsent")

    def __init__(self, accepted: socket.socket) -> None:
        self.socket = accepted
        self.incoming = Incoming()
        self.unsent = memoryview(b"")

    def send(self, data: bytes | memoryview) -> bool:
        """Send as much as is taken; true when everything was."""
        sent = self.socket.send(data)
        self.unsent = memoryview(data)[sent:]
        return not self.unsent


class Reader:
    """The server. ``delay`` is in seconds."""

    def __init__(self, delay: float = 0.0) -> None:
        self.delay = delay
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
        self.listener.setblocking(False)
        self.port: int = self.listener.getsockname()[1]
        self._open: dict[int, Conversation] = {}
        self._later: deque[tuple[float, Conversation]] = deque()
        self._epoll = select.epoll()
        self._epoll.register(self.listener, select.EPOLLIN)

    def turn(self) -> None:
        """Wait for something to happen and handle it."""
        wait = max(0.0, self._later[0][0] - perf_counter()) if self._later else None
        # An epoll descriptor is itself one to wait for, and select() counts in microseconds.
        if select.select([self._epoll], [], [], wait)[0]:
            for descriptor, event in self._epoll.poll(0):
                conversation = self._open.get(descriptor)
                if conversation is None:
                    self._accept()
                else:
                    self._handle(conversation, event)
        now = perf_counter() if self._later else 0.0
        while self._later and self._later[0][0] <= now:
            self._answer(self._later.popleft()[1])

    def _accept(self) -> None:
        try:
            accepted, _ = self.listener.accept()
        except BlockingIOError:
            return
        accepted.setblocking(False)
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._open[accepted.fileno()] = Conversation(accepted)
        self._epoll.register(accepted, select.EPOLLIN)

    def _handle(self, conversation: Conversation, event: int) -> None:
        try:
            if event & select.EPOLLOUT and conversation.send(conversation.unsent):
                self._epoll.modify(conversation.socket, select.EPOLLIN)
            if event & ~select.EPOLLOUT and conversation.incoming.receive(conversation.socket):
                if self.delay:
                    self._later.append((perf_counter() + self.delay, conversation))
                else:
                    self._answer(conversation)
        except OSError:
            self._close(conversation)

    def _answer(self, conversation: Conversation) -> None:
        try:
            if not conversation.send(answer_to(conversation.incoming.head)):
                self._epoll.modify(conversation.socket, select.EPOLLIN | select.EPOLLOUT)
        except OSError:
            self._close(conversation)

    def _close(self, conversation: Conversation) -> None:
        if self._open.pop(conversation.socket.fileno(), None) is not None:
            conversation.socket.close()


def main() -> None:
    raise_descriptor_limit()
    reader = Reader(float(sys.argv[1]) if len(sys.argv) > 1 else 0.0)
    print("port", reader.port, flush=True)
    while True:
        reader.turn()


if __name__ == "__main__":
    main()
