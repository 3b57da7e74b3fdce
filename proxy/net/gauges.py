"""How the upstreams are, as gauges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxy.net.breaker import BreakerState
from proxy.observe.metrics import PREFIX, Tally

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proxy.observe.metrics import Snapshot


@dataclass(frozen=True, slots=True)
class UpstreamState:
    """A picture of one pool, for status page and metrics. ``reason``: why it is down, or what the last
    bad health probe met; counts are connections, ``waiting`` requests."""

    name: str
    url: str
    up: bool
    reason: str
    breaker: BreakerState
    idle: int
    in_use: int
    dialling: int
    waiting: int


def upstream_gauges(states: Iterable[UpstreamState]) -> Snapshot:
    """Return the pictures of these pools under their exported names."""
    up, idle, in_use, waiting = (Tally("upstream") for _ in range(4))
    breakers = Tally("upstream", "state")
    for state in states:
        label = (state.name,)
        up[label] = int(state.up and state.breaker is not BreakerState.OPEN)
        idle[label] = state.idle
        in_use[label] = state.in_use + state.dialling
        waiting[label] = state.waiting
        for breaker in BreakerState:
            breakers[state.name, breaker.value] = int(state.breaker is breaker)
    gauges = {
        "upstream_up": up,
        "upstream_pool_idle": idle,
        "upstream_pool_in_use": in_use,
        "upstream_pool_waiting": waiting,
        "breaker_state": breakers,
    }
    return {f"{PREFIX}{name}": tally.snapshot() for name, tally in gauges.items()}
