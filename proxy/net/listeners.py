"""All listening sockets of a configuration, kept over reloads.

A TCP address has one socket for each worker (a *share*): the kernel spreads new connections over the
sockets that share a port (SO_REUSEPORT, socket(7)). A Unix socket has one, on which all workers accept, and
so has an address whose socket was opened by whoever started the process (systemd's socket activation).

What must not happen is that a connection waits where nobody accepts, or is reset because its socket is
closed while it waits. So:

- A socket outlives the worker that accepts on it. While a worker is down, another one accepts on its share
  too (``for_worker``).
- A reload keeps the sockets of every address that is still listed; those of the others are closed
  (``close``) when the workers of before accept no more.
- Where a reload asks for more workers, their sockets are bound at once, but get no connection before
  ``listen``; the reload may still fail.
- Where it asks for fewer, no socket is closed: the kernel has given it connections already, some of them
  half open (it only moves those where net.ipv4.tcp_migrate_req is set). The shares that are left over are
  divided among the workers, so a worker may have more than its part until the next start.
"""

from __future__ import annotations

import socket
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from proxy.config.schema import TcpAddress, UnixAddress
from proxy.net.listen import Listener, bind, refuse_taken

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from proxy.config.schema import ListenAddress


@dataclass(frozen=True, slots=True)
class Place:
    """The address of one configured listener: as it was asked for, and its sockets by share (a
    host name has several in each). ``common``: there is one share, on which all workers accept."""

    asked: ListenAddress
    shares: tuple[tuple[Listener, ...], ...]
    common: bool = False

    def renumbered(self, entry: int) -> Place:
        """The same sockets under the number that the address has in another configuration."""
        shares = [tuple(replace(listener, entry=entry) for listener in share) for share in self.shares]
        return Place(self.asked, tuple(shares), self.common)


def owner_of(share: int, workers: Collection[int]) -> int:
    """Return which of the live ``workers`` accepts on a share: its own worker, else one of the others."""
    return share if share in workers else sorted(workers)[share % len(workers)]


class Listeners:
    """The sockets of one configuration. Descriptors: one for each share of each address."""

    def __init__(self, places: Iterable[Place]) -> None:
        self.places = tuple(places)

    def __repr__(self) -> str:
        return f"<Listeners {', '.join(f'{place.asked} x{len(place.shares)}' for place in self.places)}>"

    @classmethod
    def bind(
        cls,
        addresses: Iterable[ListenAddress],
        *,
        backlog: int,
        shares: int = 1,
        reuse_port: bool = False,
        kept: Listeners | None = None,
        given: Collection[socket.socket] = (),
    ) -> Self:
        """Bind every address; ``kept`` are the sockets of the configuration before, which are used again.

        :param reuse_port: needed for more than one share.
        :param given: listening sockets that exist already; those of a configured address are used for it.
        :raises OSError: an address cannot be bound; what was bound here is closed, ``kept`` is untouched.
        """
        unclaimed = list(kept.places) if kept is not None else []
        ours = {listener.address for listener in _listeners(unclaimed)}
        ports = {address.port for address in ours if isinstance(address, TcpAddress)}
        places = []
        with ExitStack() as undo:
            binder = _Binder(backlog, shares, reuse_port, undo)
            for entry, asked in enumerate(addresses):
                place = next((place for place in unclaimed if place.asked == asked), None)
                found = [sock for sock in given if _is_at(sock, asked)]
                if place is None and found:
                    places.append(_opened(asked, entry, found))
                elif place is None:
                    places.append(binder.new(asked, entry, ports))
                else:
                    unclaimed.remove(place)
                    places.append(binder.widened(place.renumbered(entry), listen=False))
            undo.pop_all()
        return cls(places)

    @property
    def addresses(self) -> tuple[ListenAddress, ...]:
        """Where they can be reached, in the order of the configuration, port 0 resolved."""
        return tuple(listener.address for place in self.places for listener in place.shares[0])

    def for_worker(self, number: int, workers: Collection[int]) -> list[Listener]:
        """Return what worker ``number`` accepts on while ``workers`` are the live ones (itself included)."""
        return [
            listener
            for place in self.places
            for share, listeners in enumerate(place.shares)
            if place.common or owner_of(share, workers) == number
            for listener in listeners
        ]

    def listen(self, backlog: int) -> None:
        """Let every socket have connections; harmless for one that has."""
        for listener in _listeners(self.places):
            listener.socket.listen(backlog)

    def close(self, *, but: Listeners | None = None) -> None:
        """Close all sockets, or all that are not among those of ``but`` too."""
        staying = set(_listeners(but.places)) if but is not None else set()
        for listener in _listeners(self.places):
            if listener not in staying:
                listener.close()


def _opened(asked: ListenAddress, entry: int, sockets: Iterable[socket.socket]) -> Place:
    """The place of an address whose sockets exist. The files of Unix sockets are their opener's."""
    share = tuple(Listener(sock, _address_of(sock), entry) for sock in sockets)
    return Place(asked, (share,), common=True)


def _address_of(sock: socket.socket) -> ListenAddress:
    name = sock.getsockname()
    return UnixAddress(name) if sock.family == socket.AF_UNIX else TcpAddress(name[0], name[1])


def _is_at(sock: socket.socket, asked: ListenAddress) -> bool:
    """Whether a socket listens at an address of the configuration. One for both families (systemd's default
    for a bare port) is at the IPv4 addresses too."""
    if isinstance(asked, UnixAddress) or sock.family == socket.AF_UNIX:
        return _address_of(sock) == asked
    host, port = sock.getsockname()[:2]
    both = sock.family == socket.AF_INET6 and not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    hosts = {host, "0.0.0.0"} if host == "::" and both else {host}
    if host in ("127.0.0.1", "::1"):
        hosts.add("localhost")
    return asked.port == port and asked.host in hosts


def _listeners(places: Iterable[Place]) -> list[Listener]:
    return [listener for place in places for share in place.shares for listener in share]


@dataclass(frozen=True, slots=True)
class _Binder:
    """Binds sockets; ``undo`` gets their closing."""

    backlog: int
    shares: int
    reuse_port: bool
    undo: ExitStack

    def new(self, asked: ListenAddress, entry: int, ports: Collection[int]) -> Place:
        """Bind an address. ``ports``: those of our own sockets, which are not in the way (an address that
        overlaps one of before)."""
        if self.reuse_port and isinstance(asked, TcpAddress) and asked.port not in ports:
            refuse_taken(asked)
        common = isinstance(asked, UnixAddress)
        return self.widened(Place(asked, (self._bind(asked, entry, listen=True),), common), listen=True)

    def widened(self, place: Place, *, listen: bool) -> Place:
        """Add the shares that are missing."""
        if place.common:
            return place
        added = [
            tuple(
                like
                for first in place.shares[0]
                for like in self._bind(first.address, first.entry, listen=listen)
            )
            for _ in range(len(place.shares), self.shares)
        ]
        return Place(place.asked, (*place.shares, *added))

    def _bind(self, address: ListenAddress, entry: int, *, listen: bool) -> tuple[Listener, ...]:
        listeners = bind(
            address, backlog=self.backlog, entry=entry, reuse_port=self.reuse_port, listen=listen
        )
        for listener in listeners:
            self.undo.callback(listener.close)
        return tuple(listeners)
