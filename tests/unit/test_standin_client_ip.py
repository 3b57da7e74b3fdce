"""Each PostHog service's reading of the client address, against the published table."""

from __future__ import annotations

from ipaddress import IPv4Network

import pytest

from proxy.standin.client_ip import Gate, agree, by_service, capture, django, flags

PROXY = "10.0.0.9"


def chain(*lines: str) -> list[tuple[str, str]]:
    return [("X-Forwarded-For", line) for line in lines]


@pytest.mark.parametrize(
    ("sent", "seen_by_capture", "seen_by_flags", "seen_by_django", "at_the_gate"),
    [
        ("203.0.113.7", "203.0.113.7", "203.0.113.7", "203.0.113.7", "203.0.113.7"),
        ("2001:db8::1", "2001:db8::1", "2001:db8::1", "2001:db8::1", "2001:db8::1"),
        ("203.0.113.7:51234", PROXY, "203.0.113.7", "203.0.113.7", "500"),
        ("[2001:db8::1]:443", PROXY, "2001:db8::1", "[2001:db8::1]:443", "500"),
        ("6.6.6.6, 203.0.113.7", "6.6.6.6", "6.6.6.6", "6.6.6.6", "403"),
        ("unknown, 203.0.113.7", "203.0.113.7", "203.0.113.7", "unknown", "403"),
        ("fe80::1%eth0", PROXY, PROXY, "fe80::1%eth0", "fe80::1%eth0"),
        ("", PROXY, PROXY, PROXY, "500"),
    ],
)
def test_the_table(
    sent: str, seen_by_capture: str, seen_by_flags: str, seen_by_django: str, at_the_gate: str
) -> None:
    assert by_service(chain(sent), PROXY, Gate(trusted=frozenset({PROXY}))) == {
        "capture": seen_by_capture,
        "flags": seen_by_flags,
        "django": seen_by_django,
        "gate": at_the_gate,
    }


def test_capture_reads_all_lines_and_flags_the_first() -> None:
    fields = chain("garbage", "198.51.100.1, 198.51.100.2")
    assert capture(fields, PROXY) == "198.51.100.1"
    assert flags(fields, PROXY) == "198.51.100.1"
    assert django(fields, PROXY) == "garbage"


@pytest.mark.parametrize(
    ("name", "value", "address"),
    [
        ("Forwarded", 'proto=https;for="[2001:db8::5]:4711", for=192.0.2.9', "2001:db8::5"),
        ("Forwarded", "for=unknown, for=192.0.2.9:80", "192.0.2.9"),
        ("Forwarded", "by=192.0.2.9", PROXY),
        ("X-Real-Ip", "192.0.2.1", "192.0.2.1"),
        ("Fly-Client-IP", "192.0.2.2", "192.0.2.2"),
        ("True-Client-IP", "192.0.2.3", "192.0.2.3"),
        ("CF-Connecting-IP", "192.0.2.4", "192.0.2.4"),
        ("CloudFront-Viewer-Address", "192.0.2.5:4711", "192.0.2.5"),
        ("CloudFront-Viewer-Address", "2001:db8::6:4711", "2001:db8::6"),
        ("X-Client-IP", "192.0.2.6", PROXY),
    ],
)
def test_capture_believes_single_headers_too(name: str, value: str, address: str) -> None:
    fields = [(name, value)]
    assert capture(fields, PROXY) == flags(fields, PROXY) == address
    assert capture([*fields, *chain("203.0.113.7")], PROXY) == "203.0.113.7"


def test_django_takes_underscores_for_dashes_and_joins_lines() -> None:
    fields = [("X_Forwarded_For", "6.6.6.6"), ("X-Forwarded-For", "203.0.113.7")]
    assert django(fields, PROXY) == "6.6.6.6"
    assert capture(fields, PROXY) == "203.0.113.7"


def test_the_gate_compares_trusted_proxies_as_text() -> None:
    fields = chain("203.0.113.7, 10.0.0.1")
    assert Gate(trusted=frozenset({PROXY, "10.0.0.1"}))(fields, PROXY) == "203.0.113.7"
    assert Gate(trusted=frozenset({PROXY, "10.0.0.0/8"}))(fields, PROXY) == "403"
    assert Gate()(fields, PROXY) == "403"
    assert Gate(trust_all=True)(fields, PROXY) == "203.0.113.7"
    assert Gate(trust_all=True)(chain("unknown, 203.0.113.7"), PROXY) == "500"


def test_the_gate_lets_in_its_blocks_only() -> None:
    gate = Gate(trusted=frozenset({PROXY}), allowed=(IPv4Network("203.0.113.0/24"),))
    assert gate(chain("203.0.113.7"), PROXY) == "203.0.113.7"
    assert gate(chain("198.51.100.1"), PROXY) == "403"
    assert gate([], "203.0.113.8") == "203.0.113.8"


def test_agreement() -> None:
    assert agree(["203.0.113.7", "203.0.113.7"])
    assert not agree(["203.0.113.7", "6.6.6.6"])
