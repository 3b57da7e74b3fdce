"""How many requests one client may send: a token bucket for each client network.

A bucket holds `limits.rate_burst` tokens and gets `limits.rate_per_client` a second. It is kept as one
number, the moment at which it is full again (ITU-T I.371, generic cell rate algorithm, virtual scheduling),
so a bucket that is full needs no entry at all.

Counted is the client, never a proxy: a trusted peer that named nobody is not limited.

Memory: ``CLIENTS`` networks of about 200 bytes, 13 MiB a process; when there are more, the one that was not
seen for the longest time is forgotten, which gives it a full bucket.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from proxy.message import AddressSource, Refuse
from proxy.rules.address import client_network, unpacked

if TYPE_CHECKING:
    from proxy.config.schema import LimitsConfig
    from proxy.message import ClientAddress, Forward
    from proxy.rules.address import TrustTable

CLIENTS = 65_536

LONGEST_RETRY = 3600
"""Seconds; the largest Retry-After."""


class ClientRates:
    """The buckets of all clients. State that is asked with the time of the moment; nothing in here reads a
    clock."""

    __slots__ = ("_clients", "_depth", "_full", "_interval")

    def __init__(self, rate: float, burst: int, *, clients: int = CLIENTS) -> None:
        self._interval = 1.0 / rate
        self._depth = burst * self._interval
        self._clients = clients
        self._full: dict[bytes, float] = {}

    def __repr__(self) -> str:
        return f"<ClientRates clients={len(self._full)}>"

    @classmethod
    def of(cls, config: LimitsConfig) -> ClientRates | None:
        """Build from the configuration; ``None``: there is no limit."""
        return cls(config.rate_per_client, config.rate_burst) if config.rate_per_client else None

    def wait(self, network: bytes, now: float) -> float:
        """Take a token: 0, or the seconds until there is one (nothing was taken then).

        ``network`` as of ``limited_network``; ``now`` in seconds of any clock that does not go back.
        """
        full = self._full
        at = max(full.pop(network, now), now)
        late = at - now + self._interval - self._depth
        if late > 0:
            full[network] = at
            return late
        full[network] = at + self._interval
        if len(full) > self._clients:
            del full[next(iter(full))]
        return 0.0


def limited_network(client: ClientAddress, trust: TrustTable) -> bytes | None:
    """Return what a client is counted by, its IPv4 address or the /64 of its IPv6 one; ``None``: it is not
    limited, because it is a proxy of the list, or a trusted peer that named nobody."""
    if client.ip is None:
        return None
    if client.peer_trusted and client.source in (AddressSource.PEER, AddressSource.PROXY_PROTOCOL):
        return None
    return limited_walked(client.ip.packed, trust)


def limited_walked(packed: bytes, trust: TrustTable) -> bytes | None:
    """Return the same for a client that a chain leads to, whose address is given as its bytes."""
    ip = unpacked(packed)
    return None if trust.lists(ip) else client_network(ip).packed


def retry_after(wait: float) -> int:
    """Return whole seconds for Retry-After."""
    return min(LONGEST_RETRY, math.ceil(wait))


def rate_refusal(forward: Forward, wait: float) -> Refuse:
    """Return the decision for a client that sends too much, seconds before it may again."""
    return Refuse(
        429,
        "rate_limited",
        "too many requests from this address",
        close=False,
        cls=forward.route.cls,
        client=forward.client,
        retry_after=retry_after(wait),
        route=forward.route,
    )
