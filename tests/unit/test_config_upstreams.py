from __future__ import annotations

import pytest

from proxy.config.upstreams import HealthConfig, PoolConfig, UpstreamConfig
from proxy.config.values import HostPolicy, TcpAddress, UpstreamUrl


def test_an_upstream_needs_only_its_url() -> None:
    url = UpstreamUrl(TcpAddress("web", 8000))
    assert UpstreamConfig(url).host is HostPolicy.KEEP
    with pytest.raises(TypeError):
        UpstreamConfig()


def test_pooled_connections_go_before_a_python_server_closes_them() -> None:
    assert UpstreamConfig(UpstreamUrl(TcpAddress("web", 8000))).idle_timeout < 5  # uvicorn


def test_the_breaker_stays_open_at_least_as_long_as_at_first() -> None:
    health = HealthConfig()
    assert health.open_min <= health.open_max


def test_idle_connections_are_fewer_than_all() -> None:
    pool = PoolConfig()
    assert pool.idle <= pool.connections
