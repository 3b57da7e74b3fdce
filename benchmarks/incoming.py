"""Messages read from a socket for their heads only: what the generators and the origin of our own have in
common."""

from __future__ import annotations

import re
import socket

RECEIVE = 64 * 1024
"""Bytes that are read at once where a head may be."""

DISCARD = 4 * 1024 * 1024
"""Bytes of a body that are thrown away at once."""

_NOWHERE = bytearray(DISCARD)
"""Never written to, but Python wants a buffer of the size that is asked for."""

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


class Incoming:
    """HTTP messages on a non-blocking socket, one after another, none before the last one was answered.

    A body has a Content-Length or there is none. It is not even copied out of the kernel: recv() with
    MSG_TRUNC throws it away (tcp(7)). ``head`` is that of the last whole message, with whatever of its body
    came along.
    """

    __slots__ = ("_begun", "_left", "head")

    def __init__(self) -> None:
        self.head = b""
        self._begun = b""
        self._left = 0

    def receive(self, source: socket.socket) -> bool:
        """Read what is there once; true when a message is whole. Raises ``ConnectionError`` at the end of the
        stream and for whatever else the socket raises."""
        if self._left:
            count = source.recv_into(_NOWHERE, min(self._left, DISCARD), socket.MSG_TRUNC)
            if not count:
                raise ConnectionResetError
            self._left -= count
            return not self._left
        data = source.recv(RECEIVE)
        if not data:
            raise ConnectionResetError
        head = self._begun + data if self._begun else data
        end = head.find(b"\r\n\r\n")
        if end < 0:
            self._begun = head
            return False
        self._begun = b""
        self.head = head
        found = _LENGTH.search(head, 0, end + 2)
        self._left = end + 4 + (int(found[1]) if found else 0) - len(head)
        return not self._left
