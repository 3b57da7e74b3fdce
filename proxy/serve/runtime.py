"""What all connections of one proxy share. Built by ``server.Proxy``; no globals anywhere."""

from __future__ import annotations

import itertools
import secrets
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from proxy.config.schema import LogLevel
from proxy.net.doorway import peer_of
from proxy.net.outbox import Outbox
from proxy.observe.log import error_line, is_kept
from proxy.observe.sampling import Sampling
from proxy.rules.address import client_network
from proxy.rules.limits import ClientRates, limited_network
from proxy.serve.symptoms import Symptoms
from proxy.wire.strict import HeadLimits

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from proxy.clock import Clock, Deadlines
    from proxy.config.schema import Config
    from proxy.message import ClientAddress, IPAddress
    from proxy.net.certificates import ServerTls
    from proxy.net.doorway import Guest
    from proxy.net.pool import UpstreamPool
    from proxy.net.splice import Splicer
    from proxy.observe.log import BatchedLog
    from proxy.observe.metrics import Counters
    from proxy.rules.address import Packed
    from proxy.rules.decide import Tables
    from proxy.serve.admission import Admission
    from proxy.serve.cached import AssetCache
    from proxy.serve.connection import Connection
    from proxy.serve.fastpath import FastPath
    from proxy.serve.passage import Passage
    from proxy.serve.spooling import Spooling


TELL_INTERVAL = 1.0
"""Seconds between two warnings of a kind about single requests."""


def request_ids() -> Callable[[], str]:
    """Return a source of request ids: UUIDs, because PostHog's flags service takes no other X-Request-Id.

    Version 8 (RFC 9562 section 5.8): 74 random bits that belong to this source, then a counter that
    begins anywhere. They are unique, not secret, and cost a tenth of random ones.
    """
    random = str(uuid.uuid4())
    prefix = f"{random[:14]}8{random[15:24]}"
    counter = itertools.count(secrets.randbits(47))
    return lambda: f"{prefix}{next(counter):012x}"


@dataclass(slots=True)
class Runtime:
    """The shared state of one ``Proxy``.

    ``connections``, ``guests`` and ``passages`` together are bounded by ``connection_limit``; ``clients``
    counts those of each untrusted client network and is bounded by the former.
    """

    config: Config
    clock: Clock
    deadlines: Deadlines
    tables: Tables
    pools: Mapping[str, UpstreamPool]
    splicer: Splicer
    counters: Counters
    access_log: BatchedLog
    error_log: BatchedLog
    encode_access: Callable[..., bytes]
    on_closed: Callable[[], None]
    """Told after a client has left."""
    connection_limit: int
    request_id: Callable[[], str] = field(default_factory=request_ids)
    jitter: Callable[[], float] = field(default=lambda: 1.0)
    error_fields: Mapping[str, object] = field(default_factory=dict)
    """What every line of the error log says besides, such as the worker's number."""
    draining: bool = False
    """Answers end their connections."""
    retiring: bool = False
    """Connections that become idle, or are accepted in the last moment, are closed at the next sweep."""
    fast: FastPath | None = None
    admission: Admission = field(init=False)
    tls: ServerTls | None = None
    """Where a listener speaks TLS."""
    cache: AssetCache | None = None
    spooling: Spooling | None = None
    """Where requests that PostHog did not take are kept."""
    symptoms: Symptoms = field(init=False)
    log_level: LogLevel = field(init=False)
    """What the error log keeps; changed while running."""
    connections: set[Connection] = field(default_factory=set)
    guests: set[Guest] = field(default_factory=set)
    """Sockets that are no connection yet (net/doorway.py)."""
    passages: set[Passage] = field(default_factory=set)
    """Connections in tcp mode."""
    copy_buffer: bytearray = field(init=False)
    """What all of them read into (net/bridge.py)."""
    clients: dict[Packed, int] = field(default_factory=dict)
    _announces: bool = field(init=False)
    _told: dict[str, tuple[float, int]] = field(default_factory=dict)
    """When a warning was written last, and how many were passed over since, by event (there are few)."""
    ports: dict[str, int] = field(default_factory=dict)
    """The port of each listener that has had a connection: it is asked for once."""
    outbox: Outbox = field(default_factory=Outbox)
    head_limits: HeadLimits = field(init=False)
    sampling: Sampling = field(init=False)
    rates: ClientRates | None = field(init=False)
    """Who has sent how much lately; ``None``: rates are not limited."""

    def __post_init__(self) -> None:
        limits = self.config.limits
        self.copy_buffer = bytearray(limits.read_buffer)
        self._announces = any(upstream.proxy_protocol for upstream in self.config.upstreams.values())
        self.head_limits = HeadLimits(limits.head_bytes, limits.head_lines, limits.target_bytes)
        self.symptoms = Symptoms(self)
        self.log_level = self.config.log.level
        self.rates = ClientRates.of(limits)
        self.sampling = Sampling(self.config.log)

    def error(self, level: LogLevel, event: str, **fields: object) -> None:
        """Write one line to the error log, if its level is kept."""
        if is_kept(level, self.log_level):
            fields = {**self.error_fields, **fields}
            self.error_log.write(
                error_line(level, event, self.clock.wall(), self.config.log.format, **fields)
            )

    def told_apart(self, event: str, **fields: object) -> None:
        """Write a warning about one request to the error log, one of a kind in a second at most: they come
        in crowds. ``others`` says how many were passed over since the last one."""
        now = self.clock.monotonic()
        last, passed = self._told.get(event, (now - TELL_INTERVAL, 0))
        if now - last < TELL_INTERVAL:
            self._told[event] = last, passed + 1
            return
        self._told[event] = now, 0
        self.error(LogLevel.WARNING, event, **fields, **({"others": passed} if passed else {}))

    @property
    def present(self) -> int:
        """How many clients there are, whatever they do."""
        return len(self.connections) + len(self.guests) + len(self.passages)

    def local_end(self, listener: str, ask: Callable[[str], Any]) -> tuple[IPAddress | None, int]:
        """Return where a connection over IP reached us. Its address is asked for only where an upstream is
        told (``announcement``), its port once a listener."""
        if self._announces:
            return peer_of(ask("sockname"))
        port = self.ports.get(listener)
        if port is None:
            port = self.ports[listener] = int(ask("sockname")[1])
        return None, port

    def idle_until(self, now: float) -> float:
        """Return the moment at which a connection that is idle from now on is closed."""
        return now if self.retiring else now + self.config.timeouts.keep_alive

    def throttle(self, client: ClientAddress) -> float:
        """Take a token for one request of ``client``: 0, or the seconds until there is one."""
        if self.rates is None:
            return 0.0
        network = limited_network(client, self.tables.trust)
        return 0.0 if network is None else self.rates.wait(network, self.clock.monotonic())

    def admit_client(self, ip: IPAddress | None) -> bool:
        """Count one more connection of an untrusted client's network; false: it has too many."""
        network = self._counted(ip)
        if network is None:
            return True
        count = self.clients.get(network, 0)
        if count >= self.config.limits.connections_per_client:
            return False
        self.clients[network] = count + 1
        return True

    def forget_client(self, ip: IPAddress | None) -> None:
        """Undo a successful ``admit_client``."""
        network = self._counted(ip)
        if network is None:
            return
        count = self.clients.get(network, 0) - 1
        if count > 0:
            self.clients[network] = count
        else:
            self.clients.pop(network, None)

    def _counted(self, ip: IPAddress | None) -> Packed | None:
        """The network by whose number of connections a client is limited, if it is."""
        if ip is None or not self.config.limits.connections_per_client or self.tables.trust.trusts(ip):
            return None
        return client_network(ip).packed
