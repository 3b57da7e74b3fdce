"""Accepting: which sockets a proxy listens on, the bound on its clients, and what is made of each.

A listener for plain HTTP is a server of the event loop, the fastest there is. Where something comes before
the request (a PROXY header, TLS), or no request at all (tcp mode), a ``Doorway`` accepts.

At the connection limit idle connections give way; where none is idle, accepting stops until a client leaves,
while the kernel keeps those that come.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from proxy.config.schema import (
    ListenerConfig,
    ListenerMode,
    LogLevel,
    TrustConfig,
    UnixAddress,
    configured_listeners,
)
from proxy.errors import Violation
from proxy.net.doorway import Doorway
from proxy.net.handshake import RECORD
from proxy.rules.address import TrustTable
from proxy.serve.connection import Connection
from proxy.serve.passage import ClientSide, Passage
from proxy.serve.record import log_turned_away

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

    from proxy.message import IPAddress
    from proxy.net.certificates import ServerTls
    from proxy.net.doorway import Guest
    from proxy.net.listen import Listener
    from proxy.net.stream import Stream
    from proxy.serve.runtime import Runtime

_LIMIT_CURE = "raise limits.connections, and LimitNOFILE if it is lower"

_HTTPS_HINT = Violation(400, "http_on_tls_port", "this port speaks https: the request came without TLS")

_Entrance: TypeAlias = "asyncio.Server | Doorway"


class Acceptor:
    """See the module. Listening sockets belong to whoever gave them: it works on duplicates, so that
    accepting can stop and begin again."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self._configured = configured_listeners(runtime.config)
        self._listeners: list[Listener] = []
        self._entrances: dict[Listener, _Entrance] = {}
        self._accepting = False
        self._resuming: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        state = "ACCEPTING" if self._accepting else "STOPPED"
        return f"<Acceptor {state} listeners={len(self._listeners)}>"

    async def listen_on(self, listeners: Iterable[Listener]) -> None:
        """Accept on exactly these sockets, at once if it accepts at all."""
        await self.settled()
        self._listeners = list(listeners)
        for gone in self._entrances.keys() - set(self._listeners):
            self._entrances.pop(gone).close()
        if self._accepting:
            await self._accept()

    async def start(self) -> None:
        """Accept."""
        self._accepting = True
        await self._accept()

    def stop(self) -> None:
        """Accept no more."""
        self._accepting = False
        for entrance in self._entrances.values():
            entrance.close()
        self._entrances.clear()

    async def settled(self) -> None:
        """Wait until a resumption that is under way is done."""
        if self._resuming is not None:
            await self._resuming

    def client_left(self) -> None:
        """There is room again."""
        runtime = self.runtime
        if self._accepting or runtime.draining or runtime.present >= runtime.connection_limit:
            return
        if self._resuming is None:
            self._resuming = asyncio.get_running_loop().create_task(self.start())
            self._resuming.add_done_callback(self._resumed)

    def _resumed(self, task: asyncio.Task[None]) -> None:
        self._resuming = None
        if self.runtime.draining:
            self.stop()

    async def _accept(self) -> None:
        for listener in self._listeners:
            if listener in self._entrances:
                continue
            self._entrances[listener] = await self._open(listener)
            if not self._accepting:  # stopped meanwhile
                self.stop()
                return

    async def _open(self, listener: Listener) -> _Entrance:
        config = self._configuration(listener)
        duplicate = listener.socket.dup()
        if config.tls or config.proxy_protocol or config.mode is ListenerMode.TCP:
            return Doorway(
                duplicate,
                Keeper.of(self, listener, config),
                deadlines=self.runtime.deadlines,
                timeout=self.runtime.config.timeouts.proxy_protocol,
                first_byte=config.tls,
            )
        loop = asyncio.get_running_loop()
        factory, backlog = self._factory(str(listener.address)), self.runtime.config.limits.backlog
        if isinstance(listener.address, UnixAddress):
            return await loop.create_unix_server(
                factory, sock=duplicate, backlog=backlog, **_keeping_file(loop)
            )
        return await loop.create_server(factory, sock=duplicate, backlog=backlog)

    def _configuration(self, listener: Listener) -> ListenerConfig:
        if listener.entry < len(self._configured):
            return self._configured[listener.entry]
        return ListenerConfig(listener.address)  # bound by whoever embeds the proxy, without a configured one

    def _factory(self, listener: str) -> Callable[[], Connection]:
        runtime = self.runtime

        def connection() -> Connection:
            if runtime.present + 1 >= runtime.connection_limit:
                self.at_limit()
            return Connection(runtime, listener)

        return connection

    def at_limit(self) -> bool:
        """The last place goes to the client that is being accepted: free another, or stop accepting. True:
        accept on."""
        runtime = self.runtime
        idle = [connection for connection in runtime.connections if connection.idle]
        if idle:
            min(idle, key=lambda connection: connection.idle_since).retire()
            runtime.counters.reject("idle_closed_at_limit")
        elif self._accepting:
            self._accepting = False
            runtime.counters.reject("accept_paused")
            runtime.error(LogLevel.WARNING, "accept_paused", limit=runtime.connection_limit, cure=_LIMIT_CURE)
            # Not at once: the server is still busy with the connection that is being made.
            asyncio.get_running_loop().call_soon(self.stop)
        return self._accepting


@dataclass(frozen=True, slots=True)
class Keeper:
    """The doorkeeper of one listener (net/doorway.py)."""

    acceptor: Acceptor
    listener: str
    config: ListenerConfig
    senders: TrustTable
    """Whoever must begin with a PROXY header."""

    @classmethod
    def of(cls, acceptor: Acceptor, listener: Listener, config: ListenerConfig) -> Keeper:
        """Return the doorkeeper of ``listener``, which is configured by ``config``."""
        # On a Unix socket peers have no address: any entry of the list stands for all of them.
        senders = TrustConfig(proxies=config.proxy_protocol, unix=bool(config.proxy_protocol))
        return cls(acceptor, str(listener.address), config, TrustTable.of(senders))

    def came(self, guest: Guest) -> bool:
        """Count it, within the limit."""
        runtime = self.acceptor.runtime
        runtime.guests.add(guest)
        if runtime.present > runtime.connection_limit:
            # Accepted in one burst with the last one that there was a place for.
            runtime.counters.reject("connections")
            guest.abort()
            return False
        return runtime.present < runtime.connection_limit or self.acceptor.at_limit()

    def expects_header(self, ip: IPAddress | None) -> bool:
        """Whether the peer is one of `proxy_protocol`."""
        return self.senders.trusts(ip)

    def enter(self, ip: IPAddress | None) -> bool:
        """Count a client's connection."""
        return self.acceptor.runtime.admit_client(ip)

    def leave(self, ip: IPAddress | None) -> None:
        """It is counted no more."""
        self.acceptor.runtime.forget_client(ip)

    def admit(self, guest: Guest) -> Coroutine[Any, Any, None] | None:
        """Serve it."""
        if self.config.mode is ListenerMode.TCP and not self.config.tls:
            Passage(self.acceptor.runtime, self.listener, self._upstream, guest)
            return None
        tls = self.acceptor.runtime.tls if self.config.tls else None
        if tls is None:
            return self._connect(guest)
        if guest.first.startswith(RECORD):
            return self._shake_hands(tls, guest)
        tls.handshakes.failed("not_tls", _client_of(guest))
        if self.config.mode is ListenerMode.TCP:
            guest.socket.close()  # who knows what it speaks
            return None
        return self._connect(guest)

    async def _shake_hands(self, tls: ServerTls, guest: Guest) -> None:
        timeouts = self.acceptor.runtime.config.timeouts
        await tls.handshakes.shake(
            lambda: self.protocol(guest),
            guest.socket,
            tls.context,
            client=_client_of(guest),
            timeout=timeouts.tls_handshake,
            shutdown=timeouts.linger,
        )

    async def _connect(self, guest: Guest) -> None:
        stream = self.protocol(guest)
        loop = asyncio.get_running_loop()
        await stream.have_made(loop.connect_accepted_socket(lambda: stream, guest.socket))

    def protocol(self, guest: Guest) -> Stream:
        """Return the protocol object for its socket, where there is a transport (for TLS in any case)."""
        runtime = self.acceptor.runtime
        if self.config.mode is ListenerMode.TCP:
            return ClientSide(runtime, self.listener, self._upstream, guest)
        plain = self.config.tls and bool(guest.first) and not guest.first.startswith(RECORD)
        return Connection(runtime, self.listener, guest, _HTTPS_HINT if plain else None)

    @property
    def _upstream(self) -> str:
        return self.config.upstream or "default"

    def refused(self, guest: Guest, violation: Violation) -> None:
        """Count it, and log what an operator can cure: one client's many connections are only counted, as
        everywhere."""
        self.acceptor.runtime.counters.reject(violation.reason)
        if violation.status != 429:
            log_turned_away(self.acceptor.runtime, self.listener, guest, violation)

    def left(self, guest: Guest) -> None:
        """It is a connection, or gone."""
        runtime = self.acceptor.runtime
        runtime.guests.discard(guest)
        runtime.on_closed()

    def accept_failed(self, error: OSError) -> None:
        """Say so."""
        runtime = self.acceptor.runtime
        runtime.counters.reject("accept_failed")
        runtime.error(LogLevel.ERROR, "accept_failed", detail=str(error), cure=_LIMIT_CURE)


def _client_of(guest: Guest) -> IPAddress | None:
    """Who came, as far as that is known before any request."""
    return guest.ip if guest.preface is None else guest.preface.source_ip


def _keeping_file(loop: asyncio.AbstractEventLoop) -> dict[str, Any]:
    """From Python 3.13 on, asyncio removes the file of a Unix socket when a server stops; ours may begin
    again. uvloop neither does so nor knows the argument."""
    if sys.version_info >= (3, 13) and isinstance(loop, asyncio.SelectorEventLoop):
        return {"cleanup_socket": False}
    return {}
