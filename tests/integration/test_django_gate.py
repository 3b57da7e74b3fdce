"""PostHog's address gate (ALLOWED_IP_BLOCKS) behind the proxy, with each way of trusting proxies.

The gate believes the first token of X-Forwarded-For and compares the others with TRUSTED_PROXIES as text.
With one computed address in the header, both ways of trust let in whom the operator meant, and nobody else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.integration.conftest import SITE
from tests.integration.django_behind import django
from tests.support import servers
from tests.support.wire import exchange

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.wire import Address

OFFICE = "203.0.113.0/24,127.20.0.0/16,2001:db8::/32"
"""Who may use the app. 127.20.0.0/16 stands for clients that come to the proxy directly."""

GATES = {
    "TRUSTED_PROXIES": {"TRUSTED_PROXIES": "127.0.0.1"},
    "TRUST_ALL_PROXIES": {"TRUST_ALL_PROXIES": "true"},
    "TRUST_ALL_PROXIES=false, which PostHog reads as true": {"TRUST_ALL_PROXIES": "false"},
}


@pytest.fixture(scope="module", params=GATES)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with django(
        tmp_path_factory.mktemp("gate"),
        IS_BEHIND_PROXY="true",
        DISABLE_SECURE_SSL_REDIRECT="true",
        ALLOWED_IP_BLOCKS=OFFICE,
        **GATES[request.param],
    ) as url:
        yield url


@pytest.fixture(scope="module")
def proxy(site: str) -> Iterator[servers.RunningProxy]:
    """Balancers at 127.0.0.1 and in 10/8 are trusted."""
    with servers.posthog_proxy(site, trusted="127.0.0.1,10.0.0.0/8") as running:
        yield running


def status(address: Address, *fields: str, source: str = "127.0.0.1", path: str = "/meta") -> int:
    head = "".join(f"{field}\r\n" for field in fields)
    request = f"GET {path} HTTP/1.1\r\nHost: {SITE}\r\n{head}Connection: close\r\n\r\n"
    return exchange(address, request.encode(), source=source).status


@pytest.mark.parametrize(
    "chain",
    [
        "203.0.113.7",
        "203.0.113.7:51234",
        "::ffff:203.0.113.7",
        "2001:db8::7",
        "[2001:db8::7]:443",
        "203.0.113.7, 10.1.2.3",
        "6.6.6.6, 203.0.113.7",
        "unknown, 203.0.113.7, 10.1.2.3",
    ],
)
def test_client_from_the_office_is_let_in(proxy: servers.RunningProxy, chain: str) -> None:
    """Also where PostHog alone would answer 403 (a second proxy), 500 (a port) or believe a lie."""
    assert status(proxy.address, f"X-Forwarded-For: {chain}") == 200


@pytest.mark.parametrize(
    "chain", ["198.51.100.4", "203.0.113.7, 198.51.100.4", "203.0.113.7, 198.51.100.4, 10.1.2.3"]
)
def test_client_from_elsewhere_is_refused(proxy: servers.RunningProxy, chain: str) -> None:
    assert status(proxy.address, f"X-Forwarded-For: {chain}") == 403


def test_client_that_comes_directly(proxy: servers.RunningProxy) -> None:
    assert status(proxy.address, source="127.20.0.5") == 200
    assert status(proxy.address, source="127.66.0.5") == 403


@pytest.mark.parametrize(
    "lie",
    [
        "X-Forwarded-For: 203.0.113.7",
        "X_Forwarded_For: 203.0.113.7",
        "x-forwarded_for: 203.0.113.7",
        "X-Forwarded-For : 203.0.113.7",
        "X-Forwarded-For: 203.0.113.7, 127.0.0.1",
        "Forwarded: for=203.0.113.7",
        "Connection: X-Forwarded-For",
    ],
)
def test_lying_client_does_not_get_in(proxy: servers.RunningProxy, lie: str) -> None:
    assert status(proxy.address, lie, source="127.66.0.5") in (400, 403)


def test_client_that_hides_behind_its_lie_is_still_refused(proxy: servers.RunningProxy) -> None:
    """A client of the office cannot be kept out by naming another either."""
    assert status(proxy.address, "X-Forwarded-For: 198.51.100.4", source="127.20.0.5") == 200


def test_probe_passes_the_gate(proxy: servers.RunningProxy) -> None:
    assert status(proxy.address, source="127.66.0.5", path="/_health") == 200


def test_gate_alone_breaks_on_a_port(site: str) -> None:
    """What the chain with a port above does when it reaches PostHog as it is."""
    host, _, port = site.removeprefix("http://").rpartition(":")
    assert status((host, int(port)), "X-Forwarded-For: 203.0.113.7:51234") == 500
