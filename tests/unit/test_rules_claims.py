"""What is believed of a trusted peer's word, one header at a time; whole requests: test_rules_forwarding."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from proxy.message import NO_BODY, AddressSource, ClientAddress, Fields, Peer, RequestHead
from proxy.rules.claims import (
    NO_CLAIMS,
    Claims,
    any_host,
    claims,
    effective_proto,
    effective_request_id,
    named_request_id,
)

CLIENT = ip_address("203.0.113.7")
TRUSTED = ClientAddress(CLIENT, AddressSource.X_FORWARDED_FOR, peer_trusted=True)
STRANGER = ClientAddress(CLIENT, AddressSource.PEER, peer_trusted=False)
UUID = "0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b"


def said(*lines: str, client: ClientAddress = TRUSTED) -> Claims:
    fields: Fields = tuple(
        (name.encode(), value.strip().encode()) for name, _, value in (line.partition(":") for line in lines)
    )
    return claims(fields, client)


def test_a_stranger_says_nothing() -> None:
    assert said("X-Forwarded-Proto: https", f"X-Request-Id: {UUID}", client=STRANGER) is NO_CLAIMS


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["X-Forwarded-Proto: https"], Claims(proto=b"https")),
        (["X-Forwarded-Proto: http, WSS"], Claims(proto=b"https")),
        (["X-Forwarded-Proto: https", "X-Forwarded-Proto: ws"], Claims(proto=b"http")),
        (["X-Forwarded-Proto: gopher"], NO_CLAIMS),
        (["X-Forwarded-Host: Site.Example:8443"], Claims(host=b"site.example:8443")),
        (["X-Forwarded-Host: [2001:db8::1]"], Claims(host=b"[2001:db8::1]")),
        (["X-Forwarded-Host: a.example:0"], NO_CLAIMS),
        (["X-Forwarded-Host: a.example:65536"], NO_CLAIMS),
        (["X-Forwarded-Host: a.example, b.example"], NO_CLAIMS),
        (["X-Forwarded-Host: a.example", "X-Forwarded-Host: b.example"], NO_CLAIMS),
        (["X-Forwarded-Port: 8443"], Claims(port=8443)),
        (["X-Forwarded-Port: 0443"], NO_CLAIMS),
        (["X-Forwarded-Port: 70000"], NO_CLAIMS),
        ([f"X-Request-Id: {UUID.upper()}"], Claims(request_id=UUID)),
        (["X-Request-Id: 42"], NO_CLAIMS),
    ],
)
def test_what_is_usable(lines: list[str], expected: Claims) -> None:
    assert said(*lines) == expected


def test_forwarded_stands_in_only_where_the_address_came_from_it() -> None:
    line = "Forwarded: for=203.0.113.7;proto=https;host=a.example"
    assert said(line) == NO_CLAIMS
    forwarded = ClientAddress(CLIENT, AddressSource.FORWARDED, peer_trusted=True)
    assert said(line, client=forwarded) == Claims(proto=b"https", host=b"a.example")
    assert said(line, "X-Forwarded-Proto: http", client=forwarded).proto == b"http"


def test_a_host_that_is_not_served_is_not_believed() -> None:
    fields: Fields = ((b"X-Forwarded-Host", b"evil.example"),)
    assert claims(fields, TRUSTED, lambda host: host == b"good.example") == NO_CLAIMS
    assert any_host(b"evil.example")


def test_the_request_id_is_the_trusted_peers_or_ours() -> None:
    fields: Fields = ((b"X-Request-Id", UUID.encode()),)
    head = RequestHead(b"GET", b"/", 1, fields, b"a.example", NO_BODY)
    assert effective_request_id(head, TRUSTED, "ours") == UUID
    assert effective_request_id(head, STRANGER, "ours") == "ours"
    assert named_request_id([UUID.encode(), UUID.encode()]) is None
    assert named_request_id(None) is None


@pytest.mark.parametrize(
    ("tls", "proto", "expected"),
    [
        (False, None, b"http"),
        (True, None, b"https"),
        (True, b"http", b"http"),
        (False, b"https", b"https"),
    ],
)
def test_the_scheme_is_the_trusted_peers_word_or_our_own_tls(
    tls: bool, proto: bytes | None, expected: bytes
) -> None:
    assert effective_proto(Peer(CLIENT, tls=tls), Claims(proto=proto)) == expected
