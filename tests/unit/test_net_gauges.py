"""Pools as gauges."""

from __future__ import annotations

import pytest

from proxy.net.breaker import BreakerState
from proxy.net.gauges import UpstreamState, upstream_gauges


def state(
    name: str = "web", *, up: bool = True, breaker: BreakerState = BreakerState.CLOSED
) -> UpstreamState:
    return UpstreamState(name, "http://a", up, "", breaker, idle=3, in_use=2, dialling=1, waiting=4)


def test_each_pool_has_its_label() -> None:
    gauges = upstream_gauges([state(), state("replay")])
    assert gauges["posthog_proxy_upstream_pool_idle"] == {'upstream="web"': 3, 'upstream="replay"': 3}
    assert gauges["posthog_proxy_upstream_pool_in_use"] == {'upstream="web"': 3, 'upstream="replay"': 3}
    assert gauges["posthog_proxy_upstream_pool_waiting"] == {'upstream="web"': 4, 'upstream="replay"': 4}
    assert gauges["posthog_proxy_breaker_state"] == {
        f'upstream="{name}",state="{word}"': int(word == "closed")
        for name in ("web", "replay")
        for word in ("closed", "open", "half_open")
    }


@pytest.mark.parametrize(
    ("up", "breaker", "expected"),
    [
        (True, BreakerState.CLOSED, 1),
        (True, BreakerState.HALF_OPEN, 1),
        (True, BreakerState.OPEN, 0),
        (False, BreakerState.CLOSED, 0),
    ],
)
def test_up_is_who_can_be_asked(up: bool, breaker: BreakerState, expected: int) -> None:
    gauges = upstream_gauges([state(up=up, breaker=breaker)])
    assert gauges["posthog_proxy_upstream_up"] == {'upstream="web"': expected}
