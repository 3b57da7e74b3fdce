"""HTTP/1.1 byte for byte: a client that sends what it is told, an upstream that keeps what it got.

Neither uses an HTTP library: what is compared are the bytes that a proxy wrote. Both are plain blocking
sockets (the upstream with a thread a connection), so they serve synchronous and asynchronous tests alike.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

Address: TypeAlias = tuple[str, int] | str
"""Host and port, or the path of a Unix socket."""

TIMEOUT = 15.0
"""Seconds that any read or write may take."""

OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"


@dataclass(frozen=True, slots=True)
class Message:
    """A request or an answer as it came over the wire.

    ``head`` goes through the blank line, ``body`` is the content without its framing, ``raw_body`` with it.
    """

    head: bytes
    body: bytes = b""
    raw_body: bytes = b""

    @property
    def start_line(self) -> bytes:
        return self.head.split(b"\r\n", 1)[0]

    @property
    def status(self) -> int:
        """The status code of an answer."""
        return int(self.start_line.split(b" ")[1])

    @property
    def fields(self) -> list[tuple[bytes, bytes]]:
        """Names as received and values without outer blanks, in order."""
        lines = self.head.split(b"\r\n")[1:-2]
        pairs = (line.partition(b":") for line in lines)
        return [(name, value.strip(b" \t")) for name, _, value in pairs]

    def values(self, name: str) -> list[bytes]:
        """Return the values of every line called ``name``, in order."""
        wanted = name.lower().encode()
        return [value for key, value in self.fields if key.lower() == wanted]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client got: the final answer, the interim heads (1xx) before it, and whether it ended by EOF."""

    message: Message
    interim: tuple[bytes, ...] = ()
    closed: bool = False

    @property
    def status(self) -> int:
        return self.message.status

    @property
    def body(self) -> bytes:
        return self.message.body

    def values(self, name: str) -> list[bytes]:
        return self.message.values(name)


class WireError(Exception):
    """The other side closed, or wrote what is not HTTP. ``so_far`` are the bytes that had come."""

    def __init__(self, text: str, so_far: bytes = b"") -> None:
        super().__init__(f"{text}; got {so_far[:500]!r}")
        self.so_far = so_far


class Reader:
    """Reads messages from a blocking socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.buffer = b""

    def _fill(self) -> bool:
        data = self._sock.recv(256 * 1024)
        self.buffer += data
        return bool(data)

    def until(self, mark: bytes) -> bytes:
        """Read through ``mark``. Raises ``WireError`` when the stream ends before."""
        searched = 0
        while (at := self.buffer.find(mark, searched)) < 0:
            searched = max(0, len(self.buffer) - len(mark))
            if not self._fill():
                raise WireError(f"end before {mark!r}", self.buffer)
        taken, self.buffer = self.buffer[: at + len(mark)], self.buffer[at + len(mark) :]
        return taken

    def exactly(self, count: int) -> bytes:
        """Read ``count`` bytes. Raises ``WireError`` when the stream ends before."""
        parts = [self.buffer[:count]]
        missing = count - len(parts[0])
        self.buffer = self.buffer[count:]
        while missing:
            data = self._sock.recv(min(missing, 1024 * 1024))
            if not data:
                raise WireError(f"end with {missing} bytes missing", b"".join(parts))
            parts.append(data)
            missing -= len(data)
        return b"".join(parts)

    def rest(self) -> bytes:
        """Read to the end of the stream."""
        while self._fill():
            pass
        taken, self.buffer = self.buffer, b""
        return taken

    def body(self, head: Message, *, until_close: bool) -> Message:
        """Read the body that ``head`` announces; ``until_close``: one without framing runs to the end."""
        if any(b"chunked" in value.lower() for value in head.values("Transfer-Encoding")):
            return self._chunked(head.head)
        if lengths := head.values("Content-Length"):
            body = self.exactly(int(lengths[0]))
            return Message(head.head, body, body)
        if until_close:
            body = self.rest()
            return Message(head.head, body, body)
        return head

    def _chunked(self, head: bytes) -> Message:
        raw: list[bytes] = []
        content: list[bytes] = []
        while True:
            line = self.until(b"\r\n")
            raw.append(line)
            size = int(line.split(b";")[0], 16)
            if size == 0:
                break
            data = self.exactly(size + 2)
            raw.append(data)
            content.append(data[:-2])
        while (line := self.until(b"\r\n")) != b"\r\n":
            raw.append(line)
        return Message(head, b"".join(content), b"".join([*raw, line]))


def connect(address: Address, *, source: str | None = None, timeout: float = TIMEOUT) -> socket.socket:
    """Connect to a server, from the local address ``source`` when given (127.0.0.x: another client)."""
    if isinstance(address, str):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(timeout)
        sock.connect(address)
        return sock
    return socket.create_connection(
        address, timeout=timeout, source_address=(source, 0) if source is not None else None
    )


class Client:
    """One client connection. ``send`` writes bytes as they are, ``answer`` reads one answer."""

    def __init__(self, address: Address, *, source: str | None = None, timeout: float = TIMEOUT) -> None:
        self.sock = connect(address, source=source, timeout=timeout)
        self._reader = Reader(self.sock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def interim(self) -> Message:
        """Read one head and no body: the 100 that a client waits for."""
        return Message(self._reader.until(b"\r\n\r\n"))

    def until(self, mark: bytes) -> bytes:
        """Read through ``mark``."""
        return self._reader.until(mark)

    def answer(self, method: bytes = b"GET") -> Answer:
        """Read the next final answer. Raises ``WireError`` when the server closes without one."""
        interim: list[bytes] = []
        while True:
            head = Message(self._reader.until(b"\r\n\r\n"))
            if head.status >= 200 or head.status == 101:
                break
            interim.append(head.head)
        bodiless = method == b"HEAD" or head.status in (101, 204, 304)
        framed = bool(head.values("Content-Length") or head.values("Transfer-Encoding"))
        message = head if bodiless else self._reader.body(head, until_close=True)
        return Answer(message, tuple(interim), closed=not bodiless and not framed)

    def ended(self) -> bool:
        """Wait for the server to close; whether it did so without sending anything more."""
        try:
            return self._reader.rest() == b""
        except ConnectionResetError:
            return True


def exchange(
    address: Address, request: bytes, *, source: str | None = None, timeout: float = TIMEOUT
) -> Answer:
    """Send one request on a connection of its own and return the answer."""
    with Client(address, source=source, timeout=timeout) as client:
        client.send(request)
        return client.answer(request.split(b" ", 1)[0])


@dataclass(frozen=True, slots=True)
class Received:
    """A request as the upstream got it, with the address that it came from."""

    message: Message
    peer: str

    @property
    def start_line(self) -> bytes:
        return self.message.start_line

    @property
    def body(self) -> bytes:
        return self.message.body

    def values(self, name: str) -> list[bytes]:
        return self.message.values(name)


class RawUpstream:
    """An upstream that keeps each request byte for byte and answers what the test scripted.

    ``answer`` is either the bytes of every answer or a function of the request that returns them. The
    connection is kept unless the bytes say `Connection: close` or announce no length.
    """

    def __init__(self, answer: bytes | Callable[[Received], bytes] = OK) -> None:
        self.answer = answer
        self._received: queue.Queue[Received] = queue.Queue()
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.connection_count = 0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept, name="raw-upstream", daemon=True)
        self._acceptor.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def next_request(self, timeout: float = TIMEOUT) -> Received:
        """Return the oldest request that was not yet asked for, waiting for it."""
        return self._received.get(timeout=timeout)

    def take_all(self) -> list[Received]:
        """Return every request that was not yet asked for, without waiting."""
        taken: list[Received] = []
        with contextlib.suppress(queue.Empty):
            while True:
                taken.append(self._received.get_nowait())
        return taken

    def close(self) -> None:
        """Stop listening and cut every connection."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._acceptor.join(TIMEOUT)
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, peer = self._listener.accept()
                with self._lock:
                    self._connections.add(connection)
                    self.connection_count += 1
                threading.Thread(target=self._serve, args=(connection, peer[0]), daemon=True).start()

    def _serve(self, connection: socket.socket, peer: str) -> None:
        reader = Reader(connection)
        with connection, contextlib.suppress(OSError, WireError):
            kept = True
            while kept:
                head = Message(reader.until(b"\r\n\r\n"))
                if head.values("Expect"):
                    connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                received = Received(reader.body(head, until_close=False), peer)
                self._received.put(received)
                answer = self.answer(received) if callable(self.answer) else self.answer
                connection.sendall(answer)
                kept = _keeps_open(answer, received)
        with self._lock:
            self._connections.discard(connection)


def _keeps_open(answer: bytes, request: Received) -> bool:
    final = answer
    while final.startswith(b"HTTP/1.1 1"):
        final = final.partition(b"\r\n\r\n")[2]
    head = Message(final.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
    if b"close" in b",".join([*head.values("Connection"), *request.values("Connection")]).lower():
        return False
    bodiless = request.start_line.startswith(b"HEAD ") or head.status in (204, 304)
    framed = head.values("Content-Length") or head.values("Transfer-Encoding")
    return head.start_line.startswith(b"HTTP/1.1") and bool(bodiless or framed)
