"""One connection in tcp mode: its bytes go to an upstream and back as they are.

Where both sides are plain sockets a ``Bridge`` moves them, without transports; where one speaks TLS, a
``Tunnel`` between two streams. There is one line in the access log for each connection.

Memory: that of a ``Bridge``, or of two ``Stream``.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from proxy.clock import NEVER
from proxy.errors import Failure, Source
from proxy.message import Peer
from proxy.net.bridge import Bridge
from proxy.net.doorway import peer_of
from proxy.net.relay import Tunnel
from proxy.net.stream import Stream
from proxy.observe.log import Cause, Phase, cause_of, termination
from proxy.rules.address import client_address, peer_address
from proxy.rules.announcing import announcement
from proxy.serve.record import client_seen, log_bug, new_line

if TYPE_CHECKING:
    from proxy.net.doorway import Guest
    from proxy.net.pool import Dial, UpstreamPool
    from proxy.net.resolve import SocketAddress
    from proxy.rules.announcing import Announcement
    from proxy.serve.runtime import Runtime

T = TypeVar("T")

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)

_ENDS = {
    "closed": Cause.NORMAL,
    "downstream": Cause.CLIENT_LEFT,
    "upstream": Cause.UPSTREAM_FAILED,
    "idle": Cause.CLIENT_LATE,
}
"""How a relay ended (``Bridge.ended_by``) to who is named as the cause."""


class Side(Stream):
    """One side of a passage where one of the two speaks TLS. ``address``: the upstream's."""

    def __init__(self, runtime: Runtime, address: SocketAddress | None = None) -> None:
        limits = runtime.config.limits
        super().__init__(runtime.deadlines, read_limit=limits.read_buffer, write_limit=limits.write_buffer)
        self.address = address
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def on_lost(self) -> None:
        if not self.gone.done():  # nobody waited too long for it
            self.gone.set_result(None)


class ClientSide(Side):
    """A client's side whose TLS ends here: the protocol object of its socket. It begins the passage as soon
    as the handshake is done."""

    def __init__(self, runtime: Runtime, listener: str, upstream: str, guest: Guest) -> None:
        super().__init__(runtime)
        self._begin = partial(Passage, runtime, listener, upstream, guest, self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._begin()


class Passage:
    """See the module. Made of a guest, whose place it takes; it ends by itself.

    :param upstream: the upstream's name.
    :param side: the client's side where TLS ends here; otherwise the guest's socket is.
    """

    def __init__(
        self, runtime: Runtime, listener: str, upstream: str, guest: Guest, side: Side | None = None
    ) -> None:
        self._runtime = runtime
        self._pool: UpstreamPool = runtime.pools[upstream]
        self._socket = guest.socket
        self._side = side
        self._stopped: Failure | None = None
        self._bridge: Bridge | None = None
        self._peer = _peer_of(guest, listener, tls=side is not None)
        self._line = new_line(runtime, listener, guest.ip, guest.came)
        self._line.method, self._line.cls, self._line.upstream = b"-", "tcp", upstream
        self._client = client_address(self._peer, (), runtime.tables.trust)
        client_seen(runtime, self._line, self._client)
        self._started = guest.came
        runtime.passages.add(self)
        guest.gone()
        self._admitted = runtime.admit_client(peer_address(self._peer))
        runtime.counters.connections_total += 1
        runtime.counters.open_connections += 1
        self._task = asyncio.get_running_loop().create_task(self._run())
        self._task.add_done_callback(self._done)

    def __repr__(self) -> str:
        return f"<Passage {self._line.upstream} peer={self._peer.ip} {self._bridge or ''}>"

    def stop(self, failure: Failure) -> None:
        """End it now, for this reason."""
        self._stopped = failure
        self._task.cancel()

    async def _run(self) -> None:
        try:
            if self._side is None and self._pool.dialler.plain:
                await self._over_bridge()
            else:
                await self._over_tunnel()
        except Failure as failure:
            line = self._line
            refused = failure.kind in ("breaker_open", "draining")
            line.termination = termination(cause_of(failure), Phase.QUEUE if refused else Phase.CONNECT)
            line.error = f"{failure.kind}: {failure.detail}"
            if failure.source is Source.UPSTREAM:
                self._runtime.counters.failures.add(line.upstream, failure.kind)

    # The two ways to relay.

    async def _over_bridge(self) -> None:
        runtime = self._runtime
        sock, address = await self._connect(partial(self._pool.dialler.bare, self._announced))
        with sock:
            self._line.upstream_addr = str(address)
            self._bridge = bridge = Bridge(
                self._socket,
                sock,
                deadlines=runtime.deadlines,
                idle=runtime.config.timeouts.tcp_idle,
                pipes=runtime.splicer.relay_pipes,
                buffer=runtime.copy_buffer,
            )
            try:
                await bridge.run()
            finally:
                self._line.bytes_in, self._line.bytes_out = bridge.inward.bytes, bridge.outward.bytes
                runtime.counters.tcp_bytes_spliced += bridge.inward.spliced + bridge.outward.spliced
                self._ended(bridge.ended_by)
                if bridge.ended_by != "closed":
                    for cut in (self._socket, sock):
                        # So that what was cut short cannot be taken for whole.
                        cut.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)

    async def _over_tunnel(self) -> None:
        runtime = self._runtime
        down = self._side or Side(runtime)
        if self._side is None:
            loop = asyncio.get_running_loop()
            await down.have_made(loop.connect_accepted_socket(lambda: down, self._socket))
        try:
            up = await self._connect(
                partial(self._pool.dialler.stream, partial(Side, runtime), self._announced)
            )
            self._line.upstream_addr = str(up.address)
            tunnel = Tunnel(down, up, runtime.deadlines, runtime.config.timeouts.tcp_idle)
            try:
                await tunnel.run()
                await self._flushed(up)
            finally:
                self._line.bytes_in, self._line.bytes_out = down.bytes_in, up.bytes_in
                self._ended(tunnel.ended_by)
                up.abort()
            await self._flushed(down)
        finally:
            down.abort()

    async def _connect(self, dial: Dial[T]) -> T:
        began = self._now()
        outcome, self._line.retries = await self._pool.connect(
            dial, due=NEVER, connect_timeout=self._runtime.config.timeouts.connect
        )
        self._line.t_connect = self._now() - began
        return outcome

    async def _flushed(self, side: Side) -> None:
        """Wait until what is queued has gone out, within bounds."""
        due = self._now() + self._runtime.config.timeouts.write_stall
        with contextlib.suppress(TimeoutError):
            await self._runtime.deadlines.wait(side.gone, due, TimeoutError)

    @property
    def _announced(self) -> Announcement | None:
        anonymise = self._runtime.config.forwarding.anonymise
        return announcement(self._client.ip, self._peer, anonymise=anonymise)

    # The end.

    def _ended(self, how: str) -> None:
        self._line.termination = termination(cause := _ENDS.get(how, Cause.RESOURCES), Phase.TUNNEL)
        if cause is Cause.NORMAL:
            self._line.termination = termination(cause, Phase.DONE)

    def _done(self, task: asyncio.Task[None]) -> None:
        runtime, line = self._runtime, self._line
        runtime.passages.discard(self)
        self._socket.close()
        if self._stopped is not None:
            line.error = f"{self._stopped.kind}: {self._stopped.detail}"
            line.termination = termination(cause_of(self._stopped), Phase.TUNNEL)
        if not task.cancelled() and (error := task.exception()) is not None:
            log_bug(runtime, "", error)
            line.termination = termination(Cause.INTERNAL, Phase.TUNNEL)
        line.t_total = self._now() - self._started
        counters = runtime.counters
        counters.tcp_connections.add(line.upstream, line.termination)
        counters.tcp_bytes_in += line.bytes_in
        counters.tcp_bytes_out += line.bytes_out
        counters.open_connections -= 1
        runtime.access_log.write(runtime.encode_access(line))
        if self._admitted:
            runtime.forget_client(peer_address(self._peer))
        runtime.on_closed()

    def _now(self) -> float:
        return self._runtime.clock.monotonic()


def _peer_of(guest: Guest, listener: str, *, tls: bool) -> Peer:
    local_ip, local_port = peer_of(guest.socket.getsockname())
    return Peer(guest.ip, guest.port, tls, listener, local_port, guest.preface, local_ip)
