"""How one upstream is reached: its addresses now, its TLS, and the PROXY protocol header that comes first.

One connection attempt at a time is asked for; trying again is the pool's business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from proxy.errors import Failure
from proxy.net.dial import dial, dial_bare
from proxy.net.resolve import Resolver, SocketAddress
from proxy.net.tls import client_context, server_name
from proxy.wire.proxyproto import encode_header

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from proxy.clock import Deadlines
    from proxy.config.schema import UpstreamConfig
    from proxy.net.resolve import Lookup
    from proxy.net.stream import Stream
    from proxy.rules.announcing import Announcement

S = TypeVar("S", bound="Stream")


class Dialler:
    """See the module.

    :param name: the upstream's name in the configuration.
    :param refresh: seconds after which its name is resolved again.
    :raises ConfigError: when the upstream's `ca_file` cannot be used.
    """

    def __init__(
        self, name: str, upstream: UpstreamConfig, refresh: float, deadlines: Deadlines, lookup: Lookup
    ) -> None:
        self.announces = upstream.proxy_protocol
        """Whether each connection begins with a PROXY protocol header, so that it is one client's alone."""
        self._tls = client_context(upstream, name) if upstream.url.tls else None
        self._server_name = server_name(upstream)
        self._resolver = Resolver(upstream.url.address, refresh, deadlines, lookup)
        self._deadlines = deadlines

    @property
    def plain(self) -> bool:
        """Whether there is no TLS, so that ``bare`` gives what the upstream understands."""
        return self._tls is None

    async def stream(
        self,
        factory: Callable[[SocketAddress], S],
        announced: Announcement | None,
        due: float,
        rotation: int = 0,
    ) -> S:
        """Connect once, TLS included.

        :param announced: whom the PROXY protocol header names, if one is sent; ``None``: the proxy itself.
        :param rotation: how many addresses to pass over at first.
        :raises Failure: those of ``dial`` and ``Resolver``.
        """
        addresses = await self._addresses(due, rotation)
        try:
            return await dial(
                addresses,
                factory=factory,
                tls=self._tls,
                server_name=self._server_name,
                due=due,
                deadlines=self._deadlines,
                preamble=self._preamble(announced),
            )
        except Failure:
            self._resolver.distrust()
            raise

    async def bare(
        self, announced: Announcement | None, due: float, rotation: int = 0
    ) -> tuple[socket.socket, SocketAddress]:
        """Connect once, without TLS whatever the upstream speaks: the socket itself, and where it leads."""
        addresses = await self._addresses(due, rotation)
        try:
            return await dial_bare(
                addresses, due=due, deadlines=self._deadlines, preamble=self._preamble(announced)
            )
        except Failure:
            self._resolver.distrust()
            raise

    async def close(self) -> None:
        """Stop looking names up."""
        await self._resolver.close()

    async def _addresses(self, due: float, rotation: int) -> Sequence[SocketAddress]:
        addresses = await self._resolver.addresses(due)
        turn = rotation % len(addresses)
        return addresses[turn:] + addresses[:turn]

    def _preamble(self, announced: Announcement | None) -> bytes:
        return encode_header(announced) if self.announces else b""
