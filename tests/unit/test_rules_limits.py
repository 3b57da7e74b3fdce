"""Token buckets of clients, and who counts as one."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from proxy.config.schema import Config, LimitsConfig, TrustConfig
from proxy.message import AddressSource, ClientAddress, Forward
from proxy.rules.address import TrustTable
from proxy.rules.limits import LONGEST_RETRY, ClientRates, limited_network, rate_refusal, retry_after
from proxy.rules.routing import RoutingTable

A, B = b"\x01\x02\x03\x04", b"\x05\x06\x07\x08"
TRUST = TrustTable.of(TrustConfig(proxies=(ip_network("10.0.0.0/8"),)))


def test_there_is_no_limit_unless_said() -> None:
    assert ClientRates.of(LimitsConfig()) is None
    assert ClientRates.of(LimitsConfig(rate_per_client=1.0)) is not None


def test_a_burst_passes_and_then_one_a_turn() -> None:
    rates = ClientRates(2.0, 3)
    assert [rates.wait(A, 100.0) for _ in range(4)] == [0, 0, 0, 0.5]
    assert rates.wait(A, 100.25) == 0.25
    assert rates.wait(A, 100.5) == 0
    assert rates.wait(A, 100.5) == 0.5


def test_who_is_refused_has_lost_nothing() -> None:
    rates = ClientRates(1.0, 1)
    assert rates.wait(A, 0.0) == 0
    for moment in (0.25, 0.5, 0.75):
        assert rates.wait(A, moment) == 1 - moment
    assert rates.wait(A, 1.0) == 0


def test_a_bucket_is_never_fuller_than_full() -> None:
    rates = ClientRates(1.0, 2)
    rates.wait(A, 0.0)
    assert [rates.wait(A, 1e6) for _ in range(3)] == [0, 0, 1]


def test_a_first_request_passes_at_any_moment_and_rate() -> None:
    for rate in (0.01, 0.3, 7.0, 1e6):
        for moment in (0.1, 12345.678, 1e9 / 7):
            assert ClientRates(rate, 1).wait(A, moment) == 0


def test_clients_do_not_share() -> None:
    rates = ClientRates(1.0, 1)
    assert rates.wait(A, 0.0) == rates.wait(B, 0.0) == 0
    assert rates.wait(A, 0.0) == rates.wait(B, 0.0) == 1


def test_memory_is_bounded_and_who_was_longest_away_is_forgotten() -> None:
    rates = ClientRates(1.0, 1, clients=2)
    for client in (A, B):
        rates.wait(client, 0.0)
    assert rates.wait(A, 0.0) > 0  # A was seen last, though it was refused
    rates.wait(b"third", 0.0)
    assert repr(rates) == "<ClientRates clients=2>"
    assert rates.wait(A, 0.0) > 0
    assert rates.wait(B, 0.0) == 0


@pytest.mark.parametrize(
    ("ip", "source", "peer_trusted", "counted"),
    [
        ("203.0.113.7", AddressSource.PEER, False, "203.0.113.7"),
        ("203.0.113.7", AddressSource.X_FORWARDED_FOR, True, "203.0.113.7"),
        ("2001:db8:1:2:3::4", AddressSource.HEADER, True, "2001:db8:1:2::"),
        ("203.0.113.7", AddressSource.PROXY_PROTOCOL, False, "203.0.113.7"),
        # A proxy of the list, also where it is the leftmost of a chain.
        ("10.0.0.9", AddressSource.PEER, True, None),
        ("10.0.0.9", AddressSource.X_FORWARDED_FOR, True, None),
        # Trusted by another word, and it named nobody.
        ("203.0.113.7", AddressSource.PEER, True, None),
        (None, AddressSource.UNIX, True, None),
        (None, AddressSource.UNIX, False, None),
    ],
)
def test_counted_is_the_client_and_never_a_proxy(
    ip: str | None, source: AddressSource, peer_trusted: bool, counted: str | None
) -> None:
    client = ClientAddress(None if ip is None else ip_address(ip), source, peer_trusted)
    expected = None if counted is None else ip_address(counted).packed
    assert limited_network(client, TRUST) == expected


def test_retry_after_is_whole_seconds_that_are_enough() -> None:
    assert [retry_after(wait) for wait in (0.001, 0.999, 1.5, 10.2, 1e9)] == [1, 1, 2, 11, LONGEST_RETRY]


def test_who_sends_too_much_is_told_when_to_come_back() -> None:
    route = RoutingTable.of(Config()).at("/e")
    assert route is not None
    client = ClientAddress(ip_address("203.0.113.7"), AddressSource.PEER, peer_trusted=False)
    refusal = rate_refusal(Forward(route, client, b"/e", (), "id"), 1.5)
    assert (refusal.status, refusal.reason, refusal.retry_after) == (429, "rate_limited", 2)
    assert (refusal.client, refusal.route, refusal.close) == (client, route, False)
