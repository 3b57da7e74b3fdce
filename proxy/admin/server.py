"""The sockets of the admin listener: accepts, reads one request a connection, answers, closes.

::

    READING ──request is whole──▶ WRITING ──all is written──▶ CLOSING ──the client closed, or late──▶ gone
       │                             └──a stream──▶ STREAMING ──the client left, or takes nothing──▶ gone
       └──late──▶ gone

Memory: ``CONNECTIONS`` of at most ``exchange.LIMITS`` received and one answer to be sent (some hundred KiB of
metrics at the worst); a stream that has not taken one event is not sent the next.
"""

from __future__ import annotations

import enum
from functools import partial
from socket import SHUT_WR
from typing import TYPE_CHECKING

from proxy.admin import exchange
from proxy.clock import NEVER
from proxy.errors import Violation
from proxy.net.listeners import Listeners

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Collection

    from proxy.admin.exchange import Answer, Request
    from proxy.admin.polling import Poller
    from proxy.clock import Clock
    from proxy.config.schema import ListenAddress

CONNECTIONS = 32
"""At a time; more wait in the kernel."""

STREAMS = 16
"""Of these, event streams: whoever leaves the page open everywhere does not keep Prometheus out."""

BACKLOG = 64

REQUEST_PATIENCE = 10.0
"""Seconds from the connection to the whole request."""

WRITE_PATIENCE = 30.0
"""Seconds in which a client must take an answer, or an event."""

CLOSE_PATIENCE = 2.0
"""Seconds for the client to close, so that what it still sends does not reset what we have sent."""

TICK = 1.0
"""Seconds between two looks at what is late, and between two events."""

_READ = 16 * 1024


class Phase(enum.Enum):
    """Where a connection is; see the module."""

    READING = "reading"
    WRITING = "writing"
    STREAMING = "streaming"
    CLOSING = "closing"


class _Client:
    """One connection."""

    def __init__(self, sock: socket.socket, due: float) -> None:
        self.socket = sock
        self.phase = Phase.READING
        self.due = due
        self.received = bytearray()
        self.unsent = bytearray()

    def __repr__(self) -> str:
        return f"<_Client {self.phase.name} unsent={len(self.unsent)}>"


class AdminServer:
    """See the module.

    :param answer: answers a request; an answer that ``streams`` becomes an event stream.
    :param event: what every open stream is sent now; asked once a tick, if there is any.
    """

    def __init__(
        self,
        poller: Poller,
        clock: Clock,
        answer: Callable[[Request], Answer],
        event: Callable[[], bytes],
    ) -> None:
        self._poller = poller
        self._clock = clock
        self._answer = answer
        self._event = event
        self._listeners: Listeners | None = None
        self._clients: set[_Client] = set()
        self._accepting = False
        self.due = NEVER

    def __repr__(self) -> str:
        return f"<AdminServer {self._listeners!r} clients={len(self._clients)}>"

    @property
    def addresses(self) -> tuple[ListenAddress, ...]:
        """Where it listens, port 0 resolved."""
        return self._listeners.addresses if self._listeners is not None else ()

    def listen(self, address: ListenAddress | None, given: Collection[socket.socket] = ()) -> None:
        """Listen there, and no more where it did before; connections go on. Raises ``OSError``; then all is
        as it was."""
        before = self._listeners
        wanted = () if address is None else (address,)
        listeners = Listeners.bind(wanted, backlog=BACKLOG, kept=before, given=given)
        self._pause()
        if before is not None:
            before.close(but=listeners)
        self._listeners = listeners
        self._accept_again()
        self.due = self._clock.monotonic() + TICK

    def close(self) -> None:
        """Stop at once."""
        self._pause()
        listeners, self._listeners = self._listeners, None
        if listeners is not None:
            listeners.close()
        for client in list(self._clients):
            self._drop(client)
        self.due = NEVER

    def tick(self) -> None:
        """Drop who is late, and send an event to every stream that has taken the one before."""
        now = self._clock.monotonic()
        self.due = now + TICK
        for client in [client for client in self._clients if client.due <= now]:
            self._drop(client)
        self._accept_again()
        waiting = [
            client for client in self._clients if client.phase is Phase.STREAMING and not client.unsent
        ]
        if waiting:
            event = self._event()
            for client in waiting:
                self._send(client, event)

    # Accepting.

    def _sockets(self) -> list[socket.socket]:
        listeners = self._listeners.for_worker(0, {0}) if self._listeners is not None else []
        return [listener.socket for listener in listeners]

    def _accept_again(self) -> None:
        if not self._accepting and len(self._clients) < CONNECTIONS:
            self._accepting = True
            for sock in self._sockets():
                sock.setblocking(False)
                self._poller.watch(sock, partial(self._accept, sock), reading=True, writing=False)

    def _pause(self) -> None:
        self._accepting = False
        for sock in self._sockets():
            self._poller.forget(sock)

    def _accept(self, listening: socket.socket) -> None:
        try:
            sock, _ = listening.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError:  # no descriptors left: the next tick, or a connection that ends, tries again
            self._pause()
            return
        sock.setblocking(False)
        client = _Client(sock, self._clock.monotonic() + REQUEST_PATIENCE)
        self._clients.add(client)
        self._watch(client)
        if len(self._clients) >= CONNECTIONS:
            self._pause()

    # One connection.

    def _watch(self, client: _Client) -> None:
        turn = partial(self._turn, client)
        reading = client.phase is not Phase.WRITING
        self._poller.watch(client.socket, turn, reading=reading, writing=bool(client.unsent))

    def _turn(self, client: _Client) -> None:
        try:
            if client.phase is not Phase.WRITING and not self._receive(client):
                self._drop(client)
                return
            self._flush(client)
        except OSError:  # it has gone
            self._drop(client)

    def _receive(self, client: _Client) -> bool:
        """Take what has come; false: nothing more will. What comes after the request is let go."""
        try:
            data = client.socket.recv(_READ)
        except BlockingIOError:
            return True
        if client.phase is Phase.READING and data:
            client.received += data
            self._read(client)
        return bool(data)

    def _read(self, client: _Client) -> None:
        bodiless = False
        try:
            request = exchange.read(client.received)
            if request is None:
                return
            bodiless = request.head.method == b"HEAD"
            answer = self._answer(request)
        except Violation as violation:
            answer = exchange.refused(violation)
        client.received.clear()
        if answer.streams and not bodiless:
            if sum(other.phase is Phase.STREAMING for other in self._clients) >= STREAMS:
                answer = exchange.said(503, f"there are {STREAMS} streams already", Retry_After="30")
            else:
                client.phase = Phase.STREAMING
        if client.phase is Phase.READING:
            client.phase = Phase.WRITING
        client.unsent += exchange.rendered(answer, self._clock.wall(), bodiless=bodiless)
        client.due = self._clock.monotonic() + WRITE_PATIENCE

    def _send(self, client: _Client, data: bytes) -> None:
        client.unsent += data
        client.due = self._clock.monotonic() + WRITE_PATIENCE
        try:
            self._flush(client)
        except OSError:
            self._drop(client)

    def _flush(self, client: _Client) -> None:
        try:
            while client.unsent:
                del client.unsent[: client.socket.send(client.unsent)]
        except BlockingIOError:
            pass
        else:
            self._written(client)
        self._watch(client)

    def _written(self, client: _Client) -> None:
        if client.phase is Phase.STREAMING:
            client.due = NEVER
        elif client.phase is Phase.WRITING:
            client.socket.shutdown(SHUT_WR)
            client.phase = Phase.CLOSING
            client.due = self._clock.monotonic() + CLOSE_PATIENCE

    def _drop(self, client: _Client) -> None:
        self._clients.discard(client)
        self._poller.forget(client.socket)
        client.socket.close()
        self._accept_again()
