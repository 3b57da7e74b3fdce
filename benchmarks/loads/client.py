"""One request and its answer: for checks, not for load."""

from __future__ import annotations

import re
import socket
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.process import Address

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)

TIMEOUT = 10.0
"""Seconds that a step of an exchange may take."""


@dataclass(frozen=True, slots=True)
class Reply:
    """``head`` ends with the empty line."""

    head: bytes
    body: bytes

    @property
    def status(self) -> int:
        return int(self.head[9:12])


def connect(address: Address, *, tls: bool = False) -> socket.socket:
    """Connect; ``tls``: with TLS, whatever the certificate."""
    plain = socket.create_connection(address, timeout=TIMEOUT)
    if not tls:
        return plain
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(plain)


def ask(connection: socket.socket, request: bytes) -> Reply:
    """Send ``request`` and return the answer. Raises ``ConnectionError`` when it is not whole or has no
    length."""
    connection.sendall(request)
    received = bytearray()
    while (end := received.find(b"\r\n\r\n")) < 0:
        received += _some(connection)
    found = _LENGTH.search(received, 0, end + 2)
    if found is None:
        raise ConnectionError(f"an answer without a length: {bytes(received[:end])!r}")
    whole = end + 4 + int(found[1])
    while len(received) < whole:
        received += _some(connection)
    return Reply(bytes(received[: end + 4]), bytes(received[end + 4 :]))


def _some(connection: socket.socket) -> bytes:
    data = connection.recv(256 * 1024)
    if not data:
        raise ConnectionError("closed before the answer's end")
    return data
