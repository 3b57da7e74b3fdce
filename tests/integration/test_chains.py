"""A CDN before a balancer before the proxy: HAProxy as the Cloudflare-like edge, HAProxy (a second
X-Forwarded-For line) or nginx (one longer line) as the balancer. Each hop has an address of its own.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.support import servers
from tests.support.wire import RawUpstream, exchange

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.wire import Address, Received

pytestmark = pytest.mark.needs("haproxy", "nginx")

EDGE, BALANCER = "127.0.1.1", "127.0.2.1"
"""The addresses that the next hop sees them at."""

CLIENT = "127.9.9.9"
STRANGER = "127.8.8.8"

BALANCERS = {
    "haproxy": (servers.haproxy, "haproxy_balancer.cfg"),
    "nginx": (servers.nginx, "nginx_balancer.conf"),
}

FORGED = ("X-Forwarded-For: 6.6.6.6", "CF-Connecting-IP: 6.6.6.6", "True-Client-IP: 6.6.6.6")


@dataclass(frozen=True, slots=True)
class Chain:
    """Where each hop listens, and the upstream behind them all."""

    edge: Address
    balancer: Address
    proxy: servers.RunningProxy
    upstream: RawUpstream

    def send(self, entrance: Address, *fields: str, source: str) -> Received:
        """Ask at one of the hops and return what arrives upstream."""
        head = "".join(f"{field}\r\n" for field in ("Host: posthog.example.test", *fields))
        got = exchange(entrance, f"GET /e/?a=1 HTTP/1.1\r\n{head}\r\n".encode(), source=source)
        assert got.status == 200
        return self.upstream.next_request()


@contextmanager
def running_chain(
    balancer: str, folder: Path, *settings: str, trusted: str = f"{EDGE},{BALANCER}"
) -> Iterator[Chain]:
    """All four hops; ``settings`` are further keys of the proxy's configuration."""
    start, template = BALANCERS[balancer]
    words = [word for setting in settings for word in ("--set", setting)]
    with (
        RawUpstream() as upstream,
        servers.posthog_proxy(upstream.url, *words, trusted=trusted) as proxy,
        start(template, folder / "balancer", upstream=proxy.authority, source=BALANCER) as second,
        servers.haproxy("haproxy_edge.cfg", folder / "edge", upstream=second.authority, source=EDGE) as first,
    ):
        yield Chain(first.address, second.address, proxy, upstream)


@pytest.fixture(scope="module", params=BALANCERS)
def chain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    with running_chain(request.param, tmp_path_factory.mktemp("chain")) as running:
        yield running


def test_client_is_found_behind_both(chain: Chain) -> None:
    arrived = chain.send(chain.edge, source=CLIENT)
    assert arrived.values("X-Forwarded-For") == [CLIENT.encode()]
    assert arrived.values("X-Forwarded-Proto") == [b"https"]
    assert arrived.values("Host") == [b"posthog.example.test"]
    assert arrived.start_line == b"GET /e/?a=1 HTTP/1.1"


def test_headers_of_the_edge_go_no_further(chain: Chain) -> None:
    """capture falls back on CF-Connecting-IP where X-Forwarded-For is unreadable, so it must not arrive."""
    arrived = chain.send(chain.edge, source=CLIENT)
    assert arrived.values("CF-Connecting-IP") == []
    assert arrived.values("CF-Ray") == [b"8f1e2d3c4b5a6978-FRA"]


def test_lie_told_to_the_edge(chain: Chain) -> None:
    arrived = chain.send(chain.edge, *FORGED, source=CLIENT)
    assert arrived.values("X-Forwarded-For") == [CLIENT.encode()]
    assert b"6.6.6.6" not in arrived.message.head


def test_client_that_claims_to_be_the_edge(chain: Chain) -> None:
    """It writes trusted addresses into the chain: they stand left of its own, where nobody looks."""
    arrived = chain.send(chain.edge, f"X-Forwarded-For: 6.6.6.6, {EDGE}, {BALANCER}", source=CLIENT)
    assert arrived.values("X-Forwarded-For") == [CLIENT.encode()]


def test_edge_bypassed(chain: Chain) -> None:
    """Who finds the balancer's address and forges the edge's headers is seen at the balancer's peer."""
    arrived = chain.send(chain.balancer, *FORGED, source=STRANGER)
    assert arrived.values("X-Forwarded-For") == [STRANGER.encode()]
    assert b"6.6.6.6" not in arrived.message.head


def test_both_bypassed(chain: Chain) -> None:
    arrived = chain.send(chain.proxy.address, *FORGED, "X-Forwarded-Proto: https", source=STRANGER)
    assert arrived.values("X-Forwarded-For") == [STRANGER.encode()]
    assert arrived.values("X-Forwarded-Proto") == [b"http"]
    assert b"6.6.6.6" not in arrived.message.head


def test_appended_chain_names_the_trusted_hops(tmp_path: Path) -> None:
    with running_chain("haproxy", tmp_path, "forwarding.chain=append") as chain:
        arrived = chain.send(chain.edge, *FORGED, source=CLIENT)
        assert arrived.values("X-Forwarded-For") == [f"{CLIENT}, {EDGE}, {BALANCER}".encode()]


def test_anonymised_client(tmp_path: Path) -> None:
    with running_chain("haproxy", tmp_path, "forwarding.anonymise=true") as chain:
        arrived = chain.send(chain.edge, source=CLIENT)
        assert arrived.values("X-Forwarded-For") == [b"127.9.9.0"]
        [record] = chain.proxy.access_log(1)
        assert record["client_ip"] == "127.9.9.0"


def test_hops_are_counted_where_their_addresses_change(tmp_path: Path) -> None:
    with running_chain("haproxy", tmp_path, "trust.hops=2", trusted="") as chain:
        arrived = chain.send(chain.edge, *FORGED, source=CLIENT)
        assert arrived.values("X-Forwarded-For") == [CLIENT.encode()]


def test_edge_names_the_client_in_its_own_header(tmp_path: Path) -> None:
    """Only the CDN's addresses are trusted, so nobody else's word in that header counts."""
    with (
        RawUpstream() as upstream,
        servers.posthog_proxy(
            upstream.url, "--set", "trust.client_header=CF-Connecting-IP", trusted=EDGE
        ) as proxy,
        servers.haproxy("haproxy_edge.cfg", tmp_path, upstream=proxy.authority, source=EDGE) as edge,
    ):
        chain = Chain(edge.address, edge.address, proxy, upstream)
        behind = chain.send(chain.edge, *FORGED, source=CLIENT)
        assert behind.values("X-Forwarded-For") == [CLIENT.encode()]
        past = chain.send(proxy.address, *FORGED, source=STRANGER)
        assert past.values("X-Forwarded-For") == [STRANGER.encode()]
        assert b"6.6.6.6" not in behind.message.head + past.message.head
        assert [record["client_ip_source"] for record in proxy.access_log(2)] == ["header", "peer"]
