"""Connections whose first bytes are looked at before a protocol object may start: PROXY header, TLS or not.

An event loop's server makes a protocol object as soon as it has accepted. That is too early where a PROXY
header comes first: with TLS the header stands before the handshake. So such sockets are accepted here, and
each of them is a *guest* until its first bytes are known::

    accept ─▶ PROXY header ──▶ first byte ──▶ admit: the doorkeeper makes a connection of it
                  │ wrong, late     │ late       │
                  ▼                 ▼            ▼ failed
                refused ◀───────────┴────────────┘

A guest's socket is read with MSG_PEEK, and nothing but the bytes of the header is taken from it: a part of
it as soon as it is here (else the socket would stay readable, and the loop would spin until the rest comes).

Memory: a guest holds its socket and at most one header (4 KiB). How many there are is bounded by the
doorkeeper, for whom they count as connections.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import TYPE_CHECKING, Any, Protocol

from proxy.clock import NEVER
from proxy.errors import Violation
from proxy.rules.address import parse_address
from proxy.wire.proxyproto import LONGEST_V2, read_header, refused

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from proxy.clock import Deadlines
    from proxy.message import IPAddress, Preface

MOST_AT_A_TIME = 64
"""Sockets accepted in one turn of the event loop: a flood of them must not starve those that are served."""

ACCEPT_PAUSE = 1.0
"""Seconds without accepting after the machine had no descriptor or memory left, as asyncio's servers do."""

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Doorkeeper(Protocol):
    """Who says what is to be done; one for each listener."""

    def came(self, guest: Guest) -> bool:
        """A guest was accepted, and counts from now on; false: accept no more until told to."""
        ...

    def expects_header(self, ip: IPAddress | None) -> bool:
        """Whether a peer must begin with a PROXY header. ``None``: it came by a Unix socket."""
        ...

    def enter(self, ip: IPAddress | None) -> bool:
        """Count one more connection of a client; false: it has too many. Undone with ``leave``."""
        ...

    def leave(self, ip: IPAddress | None) -> None:
        """Undo ``enter``."""
        ...

    def admit(self, guest: Guest) -> Coroutine[Any, Any, None] | None:
        """Make a connection of it, at once (``None``) or in a coroutine. The socket is the doorkeeper's from
        here on. The guest counts until that is done, or until ``Guest.gone`` is called before."""
        ...

    def refused(self, guest: Guest, violation: Violation) -> None:
        """Its first bytes were wrong or late, or its client has too many connections; it is closed."""
        ...

    def left(self, guest: Guest) -> None:
        """It counts no more: it has become a connection, or is closed. Told exactly once after ``came``."""
        ...

    def accept_failed(self, error: OSError) -> None:
        """The machine has nothing left to accept with; tried again after a pause."""
        ...


class Doorway:
    """Accepts on one listening socket, and looks at what comes.

    :param sock: a listening socket; closed by ``close``, so hand in a duplicate.
    :param timeout: seconds until header and first byte must be here.
    :param first_byte: wait for a byte behind the header, because it decides what is spoken (TLS or not).
    """

    def __init__(
        self,
        sock: socket.socket,
        doorkeeper: Doorkeeper,
        *,
        deadlines: Deadlines,
        timeout: float,
        first_byte: bool,
    ) -> None:
        sock.setblocking(False)
        self.doorkeeper = doorkeeper
        self.deadlines = deadlines
        self.timeout = timeout
        self.first_byte = first_byte
        self.due = NEVER
        self._socket = sock
        self._loop = asyncio.get_running_loop()
        self._open = True
        self._loop.add_reader(sock.fileno(), self._accept)
        deadlines.watch(self)

    def __repr__(self) -> str:
        return f"<Doorway {'OPEN' if self._open else 'CLOSED'} {self._socket!r}>"

    def close(self) -> None:
        """Accept no more; guests that are inside go on. Idempotent."""
        if self._open:
            self._open = False
            self.deadlines.forget(self)
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()

    def expire(self) -> None:
        """The pause is over."""
        self.due = NEVER
        self._loop.add_reader(self._socket.fileno(), self._accept)

    def _accept(self) -> None:
        for _ in range(MOST_AT_A_TIME):
            if not self._open:
                return
            try:
                sock, address = self._socket.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._pause(error)
                    return
                continue  # that client has left meanwhile (accept(2) lists a dozen errors that mean so)
            sock.setblocking(False)
            guest = Guest(self, sock, address)
            more = self.doorkeeper.came(guest)
            guest.begin()
            if not more:
                return

    def _pause(self, error: OSError) -> None:
        self._loop.remove_reader(self._socket.fileno())
        self.due = self.deadlines.clock.monotonic() + ACCEPT_PAUSE
        self.doorkeeper.accept_failed(error)


class Guest:
    """An accepted socket that is not a connection yet.

    ``ip`` and ``port`` are the socket's peer (``None`` and 0: a Unix socket), ``preface`` what its PROXY
    header said, ``first`` the bytes seen behind that (still to be read), empty if none were waited for.
    """

    def __init__(self, door: Doorway, sock: socket.socket, address: object) -> None:
        self.socket = sock
        self.ip, self.port = peer_of(address)
        self.preface: Preface | None = None
        self.first = b""
        self.came = door.deadlines.clock.monotonic()
        self.due = self.came + door.timeout
        self._door = door
        self._loop = asyncio.get_running_loop()
        self._header: bytes | None = None
        """The part of the PROXY header that is here, ``None`` if none is expected."""
        self._client: IPAddress | None = None
        self._counted = False
        self._reading = False
        self._gone = False
        self._admitting: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        state = "GONE" if self._gone else "ADMITTING" if self._admitting else "WAITING"
        return f"<Guest {state} peer={self.ip} preface={self.preface}>"

    def begin(self) -> None:
        """Look at what is here, and wait for the rest."""
        if self._gone:
            return
        self._door.deadlines.watch(self)
        if self._door.doorkeeper.expects_header(self.ip):
            self._header = b""
        elif not self._count(self.ip):
            return
        if self._header is None and not self._door.first_byte:
            self._admit()
            return
        self._reading = True
        self._loop.add_reader(self.socket.fileno(), self._look)

    def gone(self) -> None:
        """It has become a connection, which counts itself. Idempotent."""
        if not self._gone:
            self._gone = True
            self.due = NEVER
            self._door.deadlines.forget(self)
            if self._counted:
                self._door.doorkeeper.leave(self._client)
            self._door.doorkeeper.left(self)

    def abort(self) -> None:
        """Close it, wherever it is. Idempotent."""
        if self._admitting is not None:
            self._admitting.cancel()
        else:
            self._close()

    def expire(self) -> None:
        """Header or first byte did not come in time."""
        if self._header is None:
            self._close()  # whoever sends nothing is told nothing
        else:
            self._refuse(refused("the PROXY protocol header did not come in time"))

    def _look(self) -> None:
        while self._reading and self._step():
            pass

    def _step(self) -> bool:
        """Look once at what is here; true: look again."""
        try:
            data = self.socket.recv(LONGEST_V2, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            self._close()
            return False
        if not data:
            self._ended()
            return False
        if self._header is None:
            self.first = data
            self._admit()
            return False
        try:
            return self._read_on(self._header, data)
        except Violation as violation:
            self._refuse(violation)
            return False

    def _read_on(self, before: bytes, data: bytes) -> bool:
        header = read_header(before + data)
        if header is None:
            self._header = before + self.socket.recv(len(data))
            return True
        self.socket.recv(header.length - len(before))
        self._header = None
        self.preface = header.preface
        client = self.ip if header.preface is None else header.preface.source_ip
        # The peer itself is a listed proxy, so its connections are not counted against it.
        if header.preface is not None and not self._count(client):
            return False
        if self._door.first_byte:
            return True
        self._admit()
        return False

    def _ended(self) -> None:
        """The peer has closed. Before the first byte that is how balancers look whether we are there."""
        if self._header:
            self._refuse(refused("the connection ended inside the PROXY protocol header"))
        else:
            self._close()

    def _count(self, ip: IPAddress | None) -> bool:
        self._client = ip
        self._counted = self._door.doorkeeper.enter(ip)
        if not self._counted:
            detail = "this client has too many connections (limits.connections_per_client)"
            self._refuse(Violation(429, "connections_per_client", detail))
        return self._counted

    def _admit(self) -> None:
        self._stop_reading()
        self.due = NEVER
        try:
            pending = self._door.doorkeeper.admit(self)
        except BaseException:
            self._close()
            raise
        if pending is None:
            self.gone()
        else:
            self._admitting = self._loop.create_task(self._admitted(pending))

    async def _admitted(self, pending: Coroutine[Any, Any, None]) -> None:
        try:
            await pending
        except BaseException:
            self.socket.close()
            raise
        finally:
            self.gone()

    def _refuse(self, violation: Violation) -> None:
        self._door.doorkeeper.refused(self, violation)
        self._close()

    def _close(self) -> None:
        self._stop_reading()
        self.socket.close()
        self.gone()

    def _stop_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self.socket.fileno())


def peer_of(address: object) -> tuple[IPAddress | None, int]:
    """Return IP and port of an address as accept(2) and getpeername(2) give it; ``None`` and 0: Unix."""
    if not isinstance(address, tuple):
        return None, 0
    # A zone on a link-local peer says which of our interfaces it came by, not who it is.
    return parse_address(str(address[0]).partition("%")[0].encode()), int(address[1])
