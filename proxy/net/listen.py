"""Listening sockets: TCP and Unix, bound before anything else happens, with their real addresses.

An IPv6 address is bound for IPv6 alone (nginx's ``ipv6only=on``, its default since 1.3.4): to serve
both families, ``0.0.0.0:8000`` and ``[::]:8000`` are both listed. So an IPv4 client never appears as a
mapped IPv6 address, and binding does not depend on the system's ``bindv6only``.

A Unix socket's file is replaced if nobody listens behind it any more, and removed at ``close``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from proxy.config.schema import ListenAddress, TcpAddress, UnixAddress
from proxy.net.options import tune

if TYPE_CHECKING:
    from collections.abc import Iterator

UNIX_MODE = 0o660
"""Permissions of a Unix socket's file: owner and group connect (nginx's would be open to all)."""

_ABSENT = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
"""The machine has no such address, or no such family (``localhost`` without IPv6)."""


@dataclass(frozen=True, slots=True)
class Listener:
    """A bound and listening socket, and where it can be reached (the real port, if 0 was asked for).

    ``entry`` is the number of the configured listener that it was bound for: what is spoken there.
    """

    socket: socket.socket
    address: ListenAddress
    entry: int = field(default=0, compare=False)
    _file: tuple[int, int] | None = field(default=None, repr=False)

    def close(self) -> None:
        """Stop listening. The file of a Unix socket goes too, unless another server has replaced it."""
        self.socket.close()
        if isinstance(self.address, UnixAddress) and self._file is not None:
            with contextlib.suppress(FileNotFoundError):
                if _identity(self.address.path) == self._file:
                    os.unlink(self.address.path)


def bind(
    address: ListenAddress, *, backlog: int, entry: int = 0, reuse_port: bool = False, listen: bool = True
) -> list[Listener]:
    """Bind ``address`` and listen there.

    A host name (``localhost``) is bound at every address of the machine that it stands for, all with one
    port; hence a list.

    :param backlog: connections that the kernel queues for accept.
    :param entry: the number of the configured listener.
    :param reuse_port: let several sockets share the port (SO_REUSEPORT), one for each worker.
    :param listen: false: only bind a TCP address. The kernel gives the socket no connection until
        somebody listens on it.
    :raises OSError: with the address in its message; nothing stays bound.
    """
    with _naming(address):
        if isinstance(address, UnixAddress):
            return [_listen_unix(address, backlog, entry)]
        return _bind_tcp(address, backlog if listen else None, reuse_port, entry)


def refuse_taken(address: TcpAddress) -> None:
    """Raise ``OSError`` if somebody listens at ``address``: a bind that shares the port would not tell, and
    the kernel would give each of the two servers a part of the connections."""
    with _naming(address):
        for listener in _bind_tcp(address, None, reuse_port=False):
            listener.close()


@contextmanager
def _naming(address: ListenAddress) -> Iterator[None]:
    """Give errors the address in their text."""
    try:
        yield
    except OSError as error:
        # Negative numbers are getaddrinfo's own.
        number = error.errno if error.errno is not None and error.errno > 0 else errno.EADDRNOTAVAIL
        raise OSError(number, f"cannot listen on {address}: {error.strerror or error}") from error


def _bind_tcp(address: TcpAddress, backlog: int | None, reuse_port: bool, entry: int = 0) -> list[Listener]:
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listeners: list[Listener] = []
    absent: OSError | None = None
    port = address.port
    try:
        for family, _, _, _, sockaddr in dict.fromkeys(found):  # /etc/hosts may say it twice
            try:
                sock = _bound(
                    socket.AddressFamily(family), (sockaddr[0], port, *sockaddr[2:]), backlog, reuse_port
                )
            except OSError as error:
                if error.errno not in _ABSENT:
                    raise
                absent = error
                continue
            port = sock.getsockname()[1]
            listeners.append(Listener(sock, TcpAddress(str(sockaddr[0]), port), entry))
        if absent is not None and not listeners:
            raise absent
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def _bound(
    family: socket.AddressFamily, sockaddr: tuple[object, ...], backlog: int | None, reuse_port: bool
) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        # Bind although connections of the server before us are still in TIME_WAIT.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        tune(sock)
        sock.bind(sockaddr)
        if backlog is not None:
            sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock


def _listen_unix(address: UnixAddress, backlog: int, entry: int) -> Listener:
    _clear(address.path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        # The file takes its first mode from the socket, less the umask: it is never open to more
        # users than in the end, not even between bind and chmod.
        os.fchmod(sock.fileno(), UNIX_MODE)
        sock.bind(address.path)
        os.chmod(address.path, UNIX_MODE)
        sock.listen(backlog)
        return Listener(sock, address, entry, _identity(address.path))
    except BaseException:
        sock.close()
        raise


def _clear(path: str) -> None:
    """Remove the socket file of a server that is gone; raise ``OSError`` if anything else is there."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, "the file exists and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a server with a full queue would let us wait
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:
            pass
    raise OSError(errno.EADDRINUSE, "another server is listening there")


def _identity(path: str) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_dev, status.st_ino
