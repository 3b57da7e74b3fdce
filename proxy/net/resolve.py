"""Names of upstreams to addresses, again and again: an upstream that moves is followed.

The system's resolver is asked (``getaddrinfo``: /etc/hosts and nsswitch.conf count), which tells no TTL;
so an answer is good for `timeouts.dns_refresh` seconds. Nothing runs while nobody asks:

======================  ========================================================================
the last lookup was     what ``addresses`` does
======================  ========================================================================
under 1 x refresh ago   returns its answer
under 4 x refresh ago   returns its answer, and looks again for whoever asks next
longer ago, or its      looks again and waits for that, half of the time left at most, then returns what
answer is distrusted    there is
never, or in vain       looks again and waits as long as there is time; not twice within a second
======================  ========================================================================

A failed lookup keeps the last good answer, and a dead resolver is not asked more often than a living one.
There is one lookup at a time.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any, TypeAlias

from proxy.clock import NEVER
from proxy.config.schema import TcpAddress, UnixAddress
from proxy.errors import Failure, Resend, Source

if TYPE_CHECKING:
    from proxy.clock import Deadlines

MAX_ADDRESSES = 16
"""Addresses kept of one answer: all are tried, so they share the connect time-out."""

PATIENCE = 4
"""Multiple of the refresh time after which an answer is too old to be used before it is looked up again."""

LOOKUP_PAUSE = 1.0
"""Seconds between two lookups that failures ask for."""


@dataclass(frozen=True, slots=True)
class SocketAddress:
    """Where a socket connects to: what ``socket.connect`` takes for ``family``."""

    family: socket.AddressFamily
    sockaddr: tuple[Any, ...] | str

    def __str__(self) -> str:
        if isinstance(self.sockaddr, str):
            return f"unix:{self.sockaddr}"
        host, port = self.sockaddr[:2]
        return f"[{host}]:{port}" if self.family == socket.AF_INET6 else f"{host}:{port}"


Lookup: TypeAlias = Callable[[str, int], Awaitable[Sequence[SocketAddress]]]
"""Host and port to addresses, best first; raises ``OSError`` (``socket.gaierror``) when there are none."""


async def system_lookup(host: str, port: int) -> list[SocketAddress]:
    """Ask the system, in the loop's thread pool."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [SocketAddress(socket.AddressFamily(family), sockaddr) for family, _, _, _, sockaddr in found]


class Resolver:
    """The addresses of one upstream. Memory: ``MAX_ADDRESSES`` addresses and one future for each caller
    that waits (the pool bounds those).

    :param refresh: seconds that an answer is good for.
    :param lookup: replaced in tests.
    """

    def __init__(
        self,
        address: TcpAddress | UnixAddress,
        refresh: float,
        deadlines: Deadlines,
        lookup: Lookup = system_lookup,
    ) -> None:
        self._refresh = refresh
        self._deadlines = deadlines
        self._lookup = lookup
        self._host, self._port = ("", 0) if isinstance(address, UnixAddress) else (address.host, address.port)
        self._fixed = _literal(address)
        self._answer: tuple[SocketAddress, ...] = self._fixed
        self._looked_at = -NEVER
        self._distrusted = False
        self._error = ""
        self._task: asyncio.Task[None] | None = None
        self._waiting: set[asyncio.Future[None]] = set()

    def __repr__(self) -> str:
        state = "LITERAL" if self._fixed else "LOOKING" if self._task else "RESTING"
        return f"<Resolver {state} {self._host} {', '.join(map(str, self._answer))}>"

    async def addresses(self, due: float) -> tuple[SocketAddress, ...]:
        """Return the addresses, IPv6 and IPv4 in turn (RFC 8305 section 4), never none.

        :param due: moment by which the answer is needed.
        :raises Failure: ``dns_failed``: 502 when the name has no address, 504 when that took too long.
        """
        if self._fixed:
            return self._fixed
        now = self._deadlines.clock.monotonic()
        age = now - self._looked_at
        if not self._answer:
            if age >= LOOKUP_PAUSE:
                self._start()
                if not await self._looked(due):
                    raise self._failed(504, "the lookup took too long")
            if not self._answer:
                raise self._failed(502, self._error)
        elif self._distrusted or age >= self._refresh:
            self._start()
            if self._distrusted or age >= PATIENCE * self._refresh:
                await self._looked(now + (due - now) / 2)
        return self._answer

    def distrust(self) -> None:
        """No address answers: look again at the next use, unless that was done a moment ago."""
        if self._deadlines.clock.monotonic() - self._looked_at >= LOOKUP_PAUSE:
            self._distrusted = True

    async def close(self) -> None:
        """Give up a running lookup."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _start(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._look())

    async def _look(self) -> None:
        try:
            found = await self._lookup(self._host, self._port)
        except (OSError, UnicodeError) as error:  # UnicodeError: not a name at all (the idna codec)
            self._error = str(getattr(error, "strerror", None) or error)
        else:
            if found:
                self._answer = interleave(found)[:MAX_ADDRESSES]
            else:
                self._error = "the name has no address"
        finally:
            self._looked_at = self._deadlines.clock.monotonic()
            self._distrusted = False
            self._task = None
            for future in self._waiting:
                if not future.done():
                    future.set_result(None)

    async def _looked(self, until: float) -> bool:
        """Wait for the running lookup; false when it is not over at the moment ``until``."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            await self._deadlines.wait(future, until, TimeoutError)
        except TimeoutError:
            return False
        finally:
            self._waiting.discard(future)
        return True

    def _failed(self, status: int, reason: str) -> Failure:
        detail = f"no address for {self._host}: {reason}"
        return Failure(Source.UPSTREAM, "dns_failed", status, detail, Resend.ANY)


def interleave(addresses: Sequence[SocketAddress]) -> tuple[SocketAddress, ...]:
    """Alternate the families, each in its order, beginning with that of the first address."""
    first = addresses[0].family
    same = [address for address in addresses if address.family == first]
    other = [address for address in addresses if address.family != first]
    mixed = chain.from_iterable(zip_longest(same, other))
    return tuple(dict.fromkeys(address for address in mixed if address is not None))


def _literal(address: TcpAddress | UnixAddress) -> tuple[SocketAddress, ...]:
    """Return the one address that needs no lookup, or nothing."""
    if isinstance(address, UnixAddress):
        return (SocketAddress(socket.AF_UNIX, address.path),)
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
        )
    except (OSError, UnicodeError):
        return ()
    family, _, _, _, sockaddr = found[0]
    return (SocketAddress(socket.AddressFamily(family), sockaddr),)
