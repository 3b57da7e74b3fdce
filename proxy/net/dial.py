"""Connecting to an upstream: all its addresses, staggered (RFC 8305, "Happy Eyeballs"), TLS included.

The first address is tried; the next one 250 ms later, or as soon as one fails. The first connection that
stands (with TLS: whose certificate was accepted) wins, the others are closed. A dead address so costs a
quarter of a second, and a refused one nothing.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

from proxy.clock import NEVER
from proxy.errors import Failure, Resend, Source
from proxy.net.options import tune

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Sequence

    from proxy.clock import Deadlines
    from proxy.net.resolve import SocketAddress
    from proxy.net.stream import Stream

STAGGER = 0.25
"""Seconds between the starts of two attempts (RFC 8305 section 5; found by the next sweep)."""

_KINDS = {
    errno.ECONNREFUSED: ("connect_refused", 502),
    errno.ECONNRESET: ("connect_refused", 502),
    errno.ENOENT: ("connect_refused", 502),
    errno.ETIMEDOUT: ("connect_timeout", 504),
}
"""Kind and status of an errno; any other is ``connect_failed``, 502."""

_OURS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""This machine has nothing left to connect with; no upstream is to blame."""

S = TypeVar("S", bound="Stream")
T = TypeVar("T")


async def dial(
    addresses: Sequence[SocketAddress],
    *,
    factory: Callable[[SocketAddress], S],
    tls: ssl.SSLContext | None,
    server_name: str,
    due: float,
    deadlines: Deadlines,
    preamble: bytes = b"",
) -> S:
    """Connect and return the stream that ``factory`` made for the address that answered first.

    :param addresses: where to try, in this order; not empty.
    :param server_name: name for SNI and for the certificate check.
    :param due: moment by which everything, TLS included, is done.
    :param preamble: sent first, before TLS (a PROXY protocol header): a few hundred bytes at most.
    :raises Failure: may be sent again (nothing was sent). ``connect_refused``, ``connect_failed``,
        ``tls_failed``: 502; ``connect_timeout``: 504; the kind is that of the first address to fail,
        the detail names every address. Source PROXY, 503: out of descriptors or memory.
    """

    async def attempt(address: SocketAddress) -> S:
        sock = await _connected(address, preamble)
        try:
            return await _transport(sock, lambda: factory(address), tls, server_name)
        except OSError as error:
            sock.close()
            raise _tls_failed(address, error) from error
        except BaseException:
            sock.close()
            raise

    return await _race(addresses, attempt, _abort, due, deadlines)


async def dial_bare(
    addresses: Sequence[SocketAddress], *, due: float, deadlines: Deadlines, preamble: bytes = b""
) -> tuple[socket.socket, SocketAddress]:
    """Connect without TLS and return the socket itself, and where it leads to; else as ``dial``."""

    async def attempt(address: SocketAddress) -> tuple[socket.socket, SocketAddress]:
        return await _connected(address, preamble), address

    return await _race(addresses, attempt, _close, due, deadlines)


def _abort(stream: Stream) -> None:
    stream.abort()


def _close(connected: tuple[socket.socket, SocketAddress]) -> None:
    connected[0].close()


async def _race(
    addresses: Sequence[SocketAddress],
    attempt: Callable[[SocketAddress], Coroutine[Any, Any, T]],
    discard: Callable[[T], None],
    due: float,
    deadlines: Deadlines,
) -> T:
    """Return the outcome of the first attempt that succeeds; ``discard`` those that come too late."""
    waiting = deque(addresses)
    running: dict[asyncio.Task[T], SocketAddress] = {}
    failures: list[Failure] = []
    next_start = -NEVER
    try:
        while waiting or running:
            now = deadlines.clock.monotonic()
            if now >= due:
                raise _too_late(failures, running.values(), waiting)
            if waiting and now >= next_start:
                address = waiting.popleft()
                running[asyncio.get_running_loop().create_task(attempt(address))] = address
                next_start = now + STAGGER
            await _first_done(running, min(due, next_start if waiting else NEVER), deadlines)
            for task in [task for task in running if task.done()]:
                del running[task]
                try:
                    return task.result()
                except Failure as failure:
                    failures.append(failure)
                    next_start = -NEVER
        raise _all_failed(failures)
    finally:
        await _abandon(running, discard)


async def _connected(address: SocketAddress, preamble: bytes) -> socket.socket:
    """Connect to one address and send the preamble. Raises ``Failure``."""
    try:
        sock = socket.socket(address.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    except OSError as error:
        raise _refused(address, error) from error
    try:
        try:
            tune(sock, user_timeout=True)
            await asyncio.get_running_loop().sock_connect(sock, address.sockaddr)
            if _has_peer(sock) and preamble:
                # A new socket's empty buffer takes it whole.
                sock.send(preamble)
        except OSError as error:
            raise _refused(address, error) from error
        if not _has_peer(sock):
            raise Failure(
                Source.UPSTREAM, "connect_refused", 502, f"{address}: its queue is full", Resend.ANY
            )
    except BaseException:
        sock.close()
        raise
    return sock


def _has_peer(sock: socket.socket) -> bool:
    """Whether it is really connected. A Unix socket whose server has a full queue passes for that in both
    event loops: its connect(2) says EAGAIN, not EINPROGRESS, and it is writable at once."""
    if sock.family != socket.AF_UNIX:
        return True
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


async def _transport(
    sock: socket.socket, factory: Callable[[], S], tls: ssl.SSLContext | None, server_name: str
) -> S:
    loop = asyncio.get_running_loop()
    name = server_name if tls is not None else None
    stream = factory()
    making: Coroutine[Any, Any, Any]
    if sock.family == socket.AF_UNIX:
        making = loop.create_unix_connection(lambda: stream, sock=sock, ssl=tls, server_hostname=name)
    else:
        making = loop.create_connection(lambda: stream, sock=sock, ssl=tls, server_hostname=name)
    await (stream.have_made(making) if tls is None else making)  # what TLS tells of, it tells the end of, too
    return stream


async def _first_done(tasks: Iterable[asyncio.Task[T]], until: float, deadlines: Deadlines) -> None:
    """Return once a task is done, or at the moment ``until``."""
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def tell(_: asyncio.Task[T]) -> None:
        if not done.done():
            done.set_result(None)

    watched = list(tasks)
    for task in watched:
        task.add_done_callback(tell)
    try:
        await deadlines.wait(done, until, TimeoutError)
    except TimeoutError:
        pass
    finally:
        for task in watched:
            task.remove_done_callback(tell)


async def _abandon(tasks: Iterable[asyncio.Task[T]], discard: Callable[[T], None]) -> None:
    """Stop attempts that are no longer wanted, and close what they have connected meanwhile."""

    def close_outcome(task: asyncio.Task[T]) -> None:
        if not task.cancelled() and task.exception() is None:
            discard(task.result())

    for task in tasks:
        task.add_done_callback(close_outcome)
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


# What went wrong.


def _refused(address: SocketAddress, error: OSError) -> Failure:
    reason = os.strerror(error.errno).lower() if error.errno else str(error)
    detail = f"{address}: {reason}"
    if error.errno in _OURS:
        return Failure(Source.PROXY, "connect_failed", 503, detail, Resend.ANY)
    kind, status = _KINDS.get(error.errno or 0, ("connect_failed", 502))
    return Failure(Source.UPSTREAM, kind, status, detail, Resend.ANY)


def _tls_failed(address: SocketAddress, error: OSError) -> Failure:
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = f"its certificate was not accepted: {error.verify_message.rstrip('.')}"
    elif isinstance(error, ssl.SSLError) and error.reason:
        reason = f"no TLS: {error.reason.replace('_', ' ').lower()}"
    else:
        reason = "it closed the connection during the TLS handshake"
    return Failure(Source.UPSTREAM, "tls_failed", 502, f"{address}: {reason}", Resend.ANY)


def _all_failed(failures: Sequence[Failure]) -> Failure:
    first = failures[0]
    detail = "; ".join(failure.detail for failure in failures)
    return Failure(first.source, first.kind, first.status, detail, Resend.ANY)


def _too_late(
    failures: Sequence[Failure], running: Iterable[SocketAddress], waiting: Iterable[SocketAddress]
) -> Failure:
    details = [failure.detail for failure in failures]
    details += [f"{address}: not connected in time" for address in running]
    details += [f"{address}: not tried" for address in waiting]
    return Failure(Source.UPSTREAM, "connect_timeout", 504, "; ".join(details), Resend.ANY)
