"""PROXY protocol headers: what is taken, what is refused, and how much of the input is theirs."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

import pytest

from proxy.errors import Violation
from proxy.message import Preface
from proxy.rules.announcing import Announcement
from proxy.wire.proxyproto import (
    LOCAL,
    LONGEST_V1,
    LONGEST_V2,
    SIGNATURE_V2,
    ProxyHeader,
    begins_header,
    crc32c,
    encode_header,
    read_header,
)

V4 = Preface(IPv4Address("203.0.113.7"), 56324)
V6 = Preface(IPv6Address("2001:db8::7"), 1)

INET = bytes([203, 0, 113, 7, 10, 0, 0, 1]) + struct.pack("!HH", 56324, 443)
INET6 = IPv6Address("2001:db8::7").packed + IPv6Address("::1").packed + struct.pack("!HH", 1, 65535)


def v2(command: int, family: int, body: bytes = b"", length: int | None = None) -> bytes:
    """A version 2 header: the bytes of version with command, and of family with transport, as given."""
    return SIGNATURE_V2 + struct.pack("!BBH", command, family, len(body) if length is None else length) + body


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


def summed(wrong: bool = False) -> bytes:
    """A header with a checksum, as section 2.2.3 makes it."""
    before = tlv(0x02, b"example.com")
    blank = v2(0x21, 0x11, INET + before + tlv(0x03, bytes(4)))
    return blank[:-4] + struct.pack("!I", crc32c(blank) ^ wrong)


GOOD = {
    b"PROXY TCP4 203.0.113.7 10.0.0.1 56324 443\r\n": V4,
    b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n": Preface(
        IPv4Address("255.255.255.255"), 65535
    ),
    b"PROXY TCP6 2001:db8::7 ::1 1 0\r\n": V6,
    b"PROXY TCP6 2001:DB8::7 ::ffff:10.0.0.1 1 65535\r\n": V6,
    b"PROXY UNKNOWN\r\n": None,
    b"PROXY UNKNOWN ffff::1 what ever 1 2\r\n": None,
    v2(0x21, 0x11, INET): V4,
    v2(0x21, 0x21, INET6): V6,
    v2(0x21, 0x11, INET + tlv(0x02, b"example.com") + tlv(0x04, b"")): V4,
    v2(0x21, 0x12, INET): None,
    v2(0x21, 0x10, INET): None,
    v2(0x21, 0x31, bytes(216)): None,
    v2(0x21, 0x00): None,
    v2(0x21, 0x00, b"ignored"): None,
    v2(0x20, 0x00): None,
    v2(0x20, 0x11, INET): None,
    v2(0x20, 0x31, b"shorter than its family's"): None,
    v2(0x21, 0x11, INET + tlv(0x04, bytes(LONGEST_V2 - 16 - 12 - 3))): V4,
    summed(): V4,
    LOCAL: None,
}


@pytest.mark.parametrize("raw", GOOD)
def test_a_good_header_is_read_whole_and_nothing_behind_it(raw: bytes) -> None:
    expected = ProxyHeader(len(raw), GOOD[raw])
    assert read_header(raw) == expected
    assert read_header(raw + b"GET / HTTP/1.1\r\n\r\n\n") == expected
    assert begins_header(raw)


@pytest.mark.parametrize("raw", [raw for raw in GOOD if len(raw) < 300])
def test_every_beginning_of_it_needs_more(raw: bytes) -> None:
    for end in range(len(raw)):
        assert read_header(raw[:end]) is None, raw[:end]


BAD = {
    b"GET / HTTP/1.1\r\n": "expected",
    b"\x16\x03\x01": "expected",
    b"PROXX": "expected",
    b"proxy TCP4": "expected",
    b"\r\n\r\nGET": "expected",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n": "malformed",
    b"PROXY  TCP4 1.2.3.4 5.6.7.8 1 2\r\n": "malformed",
    b"PROXY TCP4 1.2.3.4  5.6.7.8 1 2\r\n": "malformed",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2 \r\n": "malformed",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n": "malformed",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 -1 2\r\n": "malformed",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1_0 2\r\n": "malformed",
    b"PROXY tcp4 1.2.3.4 5.6.7.8 1 2\r\n": "malformed",
    b"PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n": "malformed",
    b"PROXY UNKNOWNX\r\n": "malformed",
    b"PROXY\r\n": "expected",
    b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n": "malformed",
    b"PROXY TCP4 1.2.3.04 5.6.7.8 1 2\r\n": "family",
    b"PROXY TCP4 1.2.3 5.6.7.8 1 2\r\n": "family",
    b"PROXY TCP4 1.2.3.4 5.6.7.888 1 2\r\n": "family",
    b"PROXY TCP4 ::1 ::1 1 2\r\n": "family",
    b"PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n": "family",
    b"PROXY TCP6 :: 1:2 1 2\r\n": "family",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 65536 2\r\n": "port",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1 99999\r\n": "port",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n": "port",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1 00\r\n": "port",
    b"PROXY UNKNOWN " + b"x" * 200: "107",
    v2(0x11, 0x11, INET): "command",
    v2(0x31, 0x11, INET): "command",
    v2(0x22, 0x11, INET): "command",
    v2(0x21, 0x41, INET): "family",
    v2(0x21, 0x13, INET): "family",
    v2(0x20, 0x41): "family",
    v2(0x21, 0x11, INET[:11]): "shorter",
    v2(0x21, 0x21, INET6[:35]): "shorter",
    v2(0x21, 0x31, bytes(215)): "shorter",
    v2(0x21, 0x11, b"", LONGEST_V2 - 15): "longer",
    v2(0x20, 0x00, b"", 65535): "longer",
    v2(0x21, 0x11, INET + b"\x04\x00"): "cut short",
    v2(0x21, 0x11, INET + b"\x04\x00\x02x"): "longer than the header",
    v2(0x21, 0x11, INET + tlv(0x03, bytes(3))): "checksum",
    summed(wrong=True): "checksum",
}


@pytest.mark.parametrize("raw", BAD)
def test_anything_else_is_refused_with_its_reason(raw: bytes) -> None:
    with pytest.raises(Violation) as caught:
        read_header(raw)
    assert caught.value.reason == "proxy_protocol"
    assert BAD[raw] in caught.value.detail


def test_a_line_is_refused_as_soon_as_it_is_too_long() -> None:
    line = b"PROXY UNKNOWN " + b"x" * LONGEST_V1
    assert read_header(line[: LONGEST_V1 - 1]) is None
    with pytest.raises(Violation):
        read_header(line[:LONGEST_V1])
    longest = line[: LONGEST_V1 - 2] + b"\r\n"
    assert read_header(longest) == ProxyHeader(LONGEST_V1, None)


def test_a_wrong_fixed_part_is_refused_before_the_rest_is_here() -> None:
    with pytest.raises(Violation):
        read_header(v2(0x21, 0x21, b"", 12))


def test_the_checksum_is_that_of_the_standard() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # the catalogue's check value of CRC-32C


def test_what_is_written_is_what_the_protocol_shows() -> None:
    v4 = Announcement(V4.source_ip, V4.source_port, IPv4Address("10.0.0.1"), 443)
    v6 = Announcement(V6.source_ip, 1, IPv6Address("::1"), 65535)
    assert encode_header(v4) == v2(0x21, 0x11, INET)
    assert encode_header(v6) == v2(0x21, 0x21, INET6)
    assert encode_header(None) == LOCAL


def test_requests_do_not_begin_like_a_header() -> None:
    assert not begins_header(b"GET / HTTP/1.1\r\n")
    assert not begins_header(b"PROX")
