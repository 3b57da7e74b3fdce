"""One question to a server and its answer, on a connection of its own, with a time-out over all of it.

Memory: ``MOST`` bytes of an answer; the rest is not read.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import io
import re
import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proxy.message import Fields

MOST = 512 * 1024
_PIECE = 64 * 1024
_CONTINUE = b"HTTP/1.1 100"
_NO_ANSWER = "the connection was closed without an answer"
_LENGTH = re.compile(
    rb"(?:HTTP/1\.1 100[^\r\n]*\r\n(?:[^\r\n]+\r\n)*\r\n)?"
    rb"HTTP/1\.[01] [2-5](?:[^\r\n]*\r\n(?!\r\n))*?[^\r\n]*\r\n(?i:content-length): *([0-9]{1,9})\r\n"
    rb"(?:[^\r\n]+\r\n)*\r\n"
)
"""A final head with a length, up to its end."""


class ProbeError(Exception):
    """There was no answer; the message says why."""


@dataclass(frozen=True, slots=True)
class Where:
    """Where to connect: ``address`` is (IP or name, port) or a Unix socket's path. ``opening`` goes before
    all else, TLS too (a PROXY protocol header)."""

    address: tuple[str, int] | str
    tls: ssl.SSLContext | None = None
    server_name: str = ""
    opening: bytes = b""

    def __str__(self) -> str:
        return self.address if isinstance(self.address, str) else f"{self.address[0]}:{self.address[1]}"


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer; ``body`` is its beginning."""

    status: int
    fields: Fields
    body: bytes = field(repr=False)

    def get(self, name: str) -> str:
        """The value of a header line (in lower case), its lines joined by commas; empty: there is none."""
        values = [value for key, value in self.fields if key.lower() == name.encode()]
        return b", ".join(values).decode("latin-1")


async def connect(where: Where) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect, TLS included. Raises ``OSError`` and its kin (``ssl.SSLError``)."""
    if isinstance(where.address, str):
        reader, writer = await asyncio.open_unix_connection(where.address)
    else:
        reader, writer = await asyncio.open_connection(*where.address)
    if where.opening:
        writer.write(where.opening)
    if where.tls is not None:
        try:
            await writer.start_tls(where.tls, server_hostname=where.server_name)
        except BaseException:
            writer.transport.abort()
            raise
    return reader, writer


async def ask(
    where: Where, head: bytes, body: bytes = b"", *, timeout: float, patience: float = 0.0
) -> Reply:
    """Send a request (which should say `Connection: close`) and read its answer; an answer that comes before
    all of the body is sent counts. ``patience``: seconds that the body waits for one, where ``head`` expects
    100: who refuses it then is heard, which after a reset in mid-body is luck.

    Raises:
        ProbeError: no connection, no answer in time, or none that can be read.
    """
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await connect(where)
            try:
                return parsed(await _converse(reader, writer, head, body, patience), head.partition(b" ")[0])
            finally:
                writer.transport.abort()
    except TimeoutError:
        raise ProbeError(f"{where} has not answered within {timeout:g} s") from None
    except (OSError, http.client.HTTPException) as error:
        raise ProbeError(f"{where}: {described(error)}") from None


async def _converse(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes, body: bytes, patience: float
) -> bytes:
    writer.write(head)
    heard = bytearray()
    if patience:
        with contextlib.suppress(TimeoutError):
            heard += await asyncio.wait_for(_read(reader), patience)
        if heard and not heard.startswith(_CONTINUE):
            body = b""  # it is refused
    sending = asyncio.ensure_future(_send(writer, body))
    try:
        while len(heard) < MOST and not _is_whole(heard) and (piece := await _read(reader)):
            heard += piece
    finally:
        sending.cancel()
        with contextlib.suppress(asyncio.CancelledError, OSError):
            await sending
    return bytes(heard)


def _is_whole(heard: bytearray) -> bool:
    """Is all of the body here, as Content-Length has it? Who refuses a body may linger before it closes."""
    found = _LENGTH.match(heard)
    return found is not None and len(heard) - found.end() >= int(found[1])


async def _read(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(_PIECE)
    except (ConnectionError, ssl.SSLError):  # what came before it counts
        return b""


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    for at in range(0, len(data), _PIECE):
        writer.write(data[at : at + _PIECE])
        await writer.drain()
        await asyncio.sleep(0)  # an answer is read before the next piece can meet a reset


class _Heard(io.BytesIO):
    """Looks like a socket to http.client."""

    def makefile(self, *_: object) -> _Heard:
        return self


def parsed(heard: bytes, method: bytes = b"GET") -> Reply:
    """Read the bytes of an answer; a body that is cut is taken as it is.

    Raises:
        http.client.HTTPException: they are none.
    """
    if not heard:
        raise http.client.RemoteDisconnected(_NO_ANSWER)
    response = http.client.HTTPResponse(_Heard(heard), method=method.decode("ascii"))  # type: ignore[arg-type]
    response.begin()
    try:
        body = response.read()
    except http.client.IncompleteRead as error:
        body = error.partial
    lines = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in response.getheaders()]
    return Reply(response.status, tuple(lines), body)


def described(error: Exception) -> str:
    """Return what an exception says, in one line."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError):
        return getattr(error, "reason", None) or str(error)
    if isinstance(error, http.client.RemoteDisconnected):  # after a 100, or at once
        return _NO_ANSWER
    if isinstance(error, http.client.BadStatusLine):
        return f"no HTTP: {error.args[0]}"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
