"""Asks the admin listener: over TCP or a Unix socket, with or without a token."""

from __future__ import annotations

import http.client
import json
import socket
from typing import TYPE_CHECKING

from proxy.admin.exchange import Request, read

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.support.process import Process


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("admin", timeout=10)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def admin_address(process: Process) -> str:
    """Wait until a proxy has logged its admin listener; where it is."""
    (line, *_) = process.wait_for_lines(r'"event": ?"admin_listening"')
    address: str = json.loads(line.string)["address"]
    return address


def ask(
    address: str,
    path: str,
    *,
    method: str = "GET",
    body: str | None = None,
    fields: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    """Ask at ``HOST:PORT`` or ``unix:/path``; the status and the body."""
    if address.startswith("unix:"):
        connection: http.client.HTTPConnection = UnixConnection(address.removeprefix("unix:"))
    else:
        connection = http.client.HTTPConnection(address, timeout=10)
    try:
        connection.request(method, path, body, dict(fields or {}))
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def request(
    path: str,
    *,
    method: str = "GET",
    host: str = "localhost:9",
    body: str = "",
    fields: Mapping[str, str] | None = None,
) -> Request:
    """What the endpoints are asked, without a socket."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (fields or {}).items()]
    found = read(bytearray("\r\n".join([*lines, "", body]).encode()))
    assert found is not None
    return found
