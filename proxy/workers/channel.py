"""What parent and worker tell each other, over a socket pair.

A message is a length and JSON. A listening socket travels as a descriptor beside its message (SCM_RIGHTS,
unix(7)). Nobody ever waits: what the socket does not take at once is kept and goes first next time, and
whoever sends asks ``behind`` before it sends more.

Memory: what was sent and not taken yet (one message, if the sender asks), and received messages of at most
``MAX_BYTES`` each.
"""

from __future__ import annotations

import array
import contextlib
import dataclasses
import json
import socket
import struct
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from proxy.observe.metrics import Snapshot
    from proxy.observe.report import Report

MAX_BYTES = 16 * 1024 * 1024
"""Bytes of one message; the largest is a snapshot of counters, a few hundred KiB at most."""

_LENGTH = struct.Struct("!I")
_READ = 256 * 1024
_RIGHTS = socket.CMSG_SPACE(array.array("i").itemsize)
"""Bytes of a read, and of the one descriptor that can come with it (unix(7))."""


@dataclass(frozen=True, slots=True)
class Handed:
    """To a worker: a listening socket, by a number that ``Accept`` names; ``entry`` is the number of the
    configured listener, ``descriptor`` as received."""

    number: int
    address: str
    entry: int
    descriptor: int = -1


@dataclass(frozen=True, slots=True)
class Accept:
    """To a worker: accept on exactly these of the sockets that it was handed, and forget the others."""

    numbers: Sequence[int]


@dataclass(frozen=True, slots=True)
class Drain:
    """To a worker: stop gently (``Proxy.drain``), then end."""

    handover: bool


@dataclass(frozen=True, slots=True)
class Close:
    """To a worker: cut everything and end."""


@dataclass(frozen=True, slots=True)
class Ready:
    """To the parent: the worker could accept now."""


@dataclass(frozen=True, slots=True)
class Alive:
    """To the parent: the worker's event loop turns."""


@dataclass(frozen=True, slots=True)
class Retired:
    """To the parent: the worker accepts no more, as it was told to drain."""


@dataclass(frozen=True, slots=True)
class Failed:
    """To the parent: why the worker cannot start."""

    detail: str


@dataclass(frozen=True, slots=True)
class Counted:
    """To the parent: everything that the worker has counted since it started."""

    snapshot: Snapshot


@dataclass(frozen=True, slots=True)
class Reported:
    """To the parent: what the worker has to say in words."""

    report: Report


@dataclass(frozen=True, slots=True)
class Keep:
    """To a worker: the error log keeps this ``level`` from now on."""

    level: str


@dataclass(frozen=True, slots=True)
class Reopen:
    """To a worker: open the log files anew, which somebody has moved away."""


Message: TypeAlias = (
    Handed | Accept | Drain | Close | Keep | Reopen | Ready | Alive | Retired | Failed | Counted | Reported
)

_KINDS: dict[str, type[Message]] = {
    kind.__name__: kind
    for kind in (
        *(Handed, Accept, Drain, Close, Keep, Reopen),
        *(Ready, Alive, Retired, Failed, Counted, Reported),
    )
}


class Channel:
    """One end of the socket pair; it belongs to the channel."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._unsent = b""
        self._received = bytearray()
        self._descriptors: deque[int] = deque()
        self.ended = False
        """The other side is gone; nothing more will come."""

    def fileno(self) -> int:
        """The descriptor, for whoever waits until there is something to receive."""
        return self._socket.fileno()

    @property
    def behind(self) -> bool:
        """True while the other side has not taken all that was sent."""
        self._flush()
        return bool(self._unsent)

    def send(self, message: Message, descriptor: int | None = None) -> None:
        """Send a message, and a descriptor with it. To a side that is gone, it sends nothing.

        With a descriptor it must not be ``behind``.
        """
        fields = {field.name: getattr(message, field.name) for field in dataclasses.fields(message)}
        text = json.dumps({"kind": type(message).__name__, **fields}).encode()
        frame = _LENGTH.pack(len(text)) + text
        if descriptor is not None:
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))
            with self._gone():
                frame = frame[self._socket.sendmsg([frame], [rights]) :]
        self._unsent += frame
        self._flush()

    def finish(self, message: Message, timeout: float) -> None:
        """Send a last message; wait for the other side up to ``timeout`` seconds."""
        self._socket.settimeout(timeout)
        with contextlib.suppress(TimeoutError):
            self.send(message)
        self._socket.setblocking(False)

    def receive(self) -> Iterator[Message]:
        """Return what has arrived. Raises ``ValueError`` for what is no message."""
        while self._read():
            pass
        while len(self._received) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._received)
            if length > MAX_BYTES:
                raise ValueError(f"a message of {length} bytes")
            end = _LENGTH.size + length
            if len(self._received) < end:
                return
            text = self._received[_LENGTH.size : end]
            del self._received[:end]
            yield self._message(json.loads(text))

    def _message(self, fields: dict[str, Any]) -> Message:
        try:
            kind = _KINDS[fields.pop("kind")]
            if kind is Handed:
                fields["descriptor"] = self._descriptors.popleft()
            return kind(**fields)
        except (LookupError, TypeError) as error:
            raise ValueError(f"a message that is not known: {error!r}") from None

    def close(self) -> None:
        """Close this end: the other side learns it."""
        self._socket.close()

    def _read(self) -> bool:
        # Not socket.recv_fds: it leaves its flags out (Python 3.11).
        try:
            data, rights, _, _ = self._socket.recvmsg(_READ, _RIGHTS, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            data, rights = b"", []
        self._received += data
        for _, _, packed in rights:
            self._descriptors += array.array("i", packed)
        self.ended = not data
        return not self.ended

    def _flush(self) -> None:
        with contextlib.suppress(BlockingIOError), self._gone():
            while self._unsent:
                self._unsent = self._unsent[self._socket.send(self._unsent) :]

    @contextlib.contextmanager
    def _gone(self) -> Iterator[None]:
        """A side that is gone takes everything: that it is gone is heard elsewhere."""
        try:
            yield
        except (BrokenPipeError, ConnectionResetError):
            self._unsent = b""
