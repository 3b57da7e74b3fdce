"""PROXY protocol headers: what is written is read, and any bytes at all are read in one way only."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import Violation
from proxy.message import Preface
from proxy.rules.announcing import Announcement
from proxy.wire.proxyproto import (
    LONGEST_V2,
    SIGNATURE_V2,
    ProxyHeader,
    begins_header,
    crc32c,
    encode_header,
    read_header,
)

quick = settings(deadline=None, max_examples=400)

ports = st.integers(0, 65535)
v4 = st.builds(Announcement, st.ip_addresses(v=4), ports, st.ip_addresses(v=4), ports)
v6 = st.builds(Announcement, st.ip_addresses(v=6), ports, st.ip_addresses(v=6), ports)
announcements = v4 | v6
tails = st.binary(max_size=40)
tlvs = st.lists(
    st.tuples(st.integers(0, 255).filter(lambda kind: kind != 3), st.binary(max_size=50)), max_size=4
)


def text_of(announced: Announcement) -> bytes:
    """The same as a line of version 1."""
    family = "TCP4" if announced.source_ip.version == 4 else "TCP6"
    return (
        f"PROXY {family} {announced.source_ip} {announced.destination_ip} "
        f"{announced.source_port} {announced.destination_port}\r\n"
    ).encode()


def extended(announced: Announcement, extensions: list[tuple[int, bytes]], summed: bool) -> bytes:
    """Version 2 with extensions, the checksum last."""
    plain = encode_header(announced)
    added = b"".join(struct.pack("!BH", kind, len(value)) + value for kind, value in extensions)
    if summed:
        added += b"\x03\x00\x04" + bytes(4)
    length = len(plain) - 16 + len(added)
    header = plain[:14] + struct.pack("!H", length) + plain[16:] + added
    return header[:-4] + struct.pack("!I", crc32c(header)) if summed else header


headers = (
    st.builds(text_of, announcements)
    | st.builds(encode_header, announcements | st.none())
    | st.builds(extended, announcements, tlvs, st.booleans())
)


def outcome(data: bytes) -> ProxyHeader | str | None:
    """What is made of it, or why it is refused; nothing but a ``Violation`` may be raised."""
    try:
        return read_header(data)
    except Violation as violation:
        return violation.detail


def arriving(data: bytes, cuts: list[int]) -> ProxyHeader | str | None:
    """What is made of it when it comes in pieces."""
    for end in sorted({cut % (len(data) + 1) for cut in cuts} | {len(data)}):
        found = outcome(data[:end])
        if found is not None:
            return found
    return None


@quick
@given(announcements, tails)
def test_what_is_written_is_read(announced: Announcement, tail: bytes) -> None:
    expected = Preface(announced.source_ip, announced.source_port)
    for header in (encode_header(announced), text_of(announced)):
        assert read_header(header + tail) == ProxyHeader(len(header), expected)


@quick
@given(announcements, tlvs, st.booleans(), tails)
def test_extensions_change_nothing(
    announced: Announcement, extensions: list[tuple[int, bytes]], summed: bool, tail: bytes
) -> None:
    header = extended(announced, extensions, summed)
    expected = Preface(announced.source_ip, announced.source_port)
    assert read_header(header + tail) == ProxyHeader(len(header), expected)


@quick
@given(announcements, tlvs, st.data())
def test_a_checksum_finds_any_bit_that_was_turned(
    announced: Announcement, extensions: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    header = bytearray(extended(announced, extensions, True))
    at = data.draw(st.integers(16, len(header) - 1))
    header[at] ^= 1 << data.draw(st.integers(0, 7))
    found = outcome(bytes(header))
    # A turned bit in the length or kind of an extension may hide the checksum itself.
    in_addresses = at < 16 + (12 if isinstance(announced.source_ip, IPv4Address) else 36)
    assert isinstance(found, str) or not in_addresses


@quick
@given(headers | st.binary(max_size=200), tails, st.lists(st.integers(0, 400), max_size=8))
def test_cutting_changes_nothing(raw: bytes, tail: bytes, cuts: list[int]) -> None:
    whole = outcome(raw + tail)
    pieces = arriving(raw + tail, cuts)
    # What is wrong may be found sooner in a part, in other words; what is right may not.
    assert type(pieces) is type(whole)
    if not isinstance(whole, str):
        assert pieces == whole


@quick
@given(headers, st.data())
def test_no_part_of_a_header_is_taken_for_a_header(raw: bytes, data: st.DataObject) -> None:
    end = data.draw(st.integers(0, len(raw) - 1))
    assert read_header(raw[:end]) is None


@quick
@given(headers, st.integers(0, 10_000), st.integers(0, 255))
def test_a_changed_byte_is_refused_or_stays_within_the_input(raw: bytes, at: int, byte: int) -> None:
    changed = bytearray(raw)
    changed[at % len(raw)] = byte
    found = outcome(bytes(changed) + b"GET / HTTP/1.1\r\n\r\n" * 20)
    if isinstance(found, ProxyHeader):
        assert 0 < found.length <= LONGEST_V2
        assert begins_header(bytes(changed))
        assert found.preface is None or isinstance(found.preface.source_ip, IPv4Address | IPv6Address)


@quick
@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_are_refused_or_wait(raw: bytes, signed: bool) -> None:
    data = SIGNATURE_V2 + raw if signed else raw
    found = outcome(data)
    if isinstance(found, ProxyHeader):
        assert found.length <= len(data)
    elif found is None:
        assert len(data) < LONGEST_V2
