"""PROXY protocol headers: read strictly (versions 1 and 2), written (version 2).

Source: "The PROXY protocol, versions 1 & 2" by Willy Tarreau (doc/proxy-protocol.txt of HAProxy); the numbers
of its sections stand at the rules. The header is the first thing on a connection, before TLS.

Reading is incremental, and made for a socket that is looked at with MSG_PEEK: while ``read_header`` says
that it needs more, every byte that it was given belongs to the header.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

from proxy.errors import Violation
from proxy.message import Preface

if TYPE_CHECKING:
    from proxy.message import IPAddress
    from proxy.rules.announcing import Announcement

SIGNATURE_V1 = b"PROXY "
SIGNATURE_V2 = b"\r\n\r\n\x00\r\nQUIT\n"

LONGEST_V1 = 107
"""Bytes of a version 1 line with its CRLF (section 2.1)."""

LONGEST_V2 = 4096
"""Bytes of a whole version 2 header that are taken; nginx's bound too. The protocol could say 64 KiB."""

_V1 = re.compile(
    rb"PROXY (TCP4|TCP6) ([0-9.]{7,15}|[0-9A-Fa-f:.]{2,45}) (\S{7,15}|\S{2,45}) (\d{1,5}) (\d{1,5})\r\n"
)
_V1_UNKNOWN = re.compile(rb"PROXY UNKNOWN(?: [^\r\n]*)?\r\n")

_FIXED_V2 = 16
_LOCAL, _PROXY = 0, 1
_STREAM = 1
_ADDRESSES = {0: 0, 1: 12, 2: 36, 3: 216}
"""Family to the length of its addresses (section 2.2): unspecified, IPv4, IPv6, Unix."""

_CRC32C = 0x03
_TLV = struct.Struct("!BH")


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """A complete header of ``length`` bytes. ``preface`` is ``None`` where it names nobody (LOCAL, UNKNOWN, a
    family or transport that is not TCP): the socket's own peer counts."""

    length: int
    preface: Preface | None


def begins_header(data: bytes | bytearray) -> bool:
    """Whether bytes that were taken for a request begin like a PROXY header."""
    return data.startswith((SIGNATURE_V1, SIGNATURE_V2))


def read_header(data: bytes) -> ProxyHeader | None:
    """Read the header that ``data`` begins with; ``None``: it is not complete, and all of ``data`` is of it.

    :raises Violation: reason ``proxy_protocol``: no header, or a wrong one. The connection is to be closed
        without an answer (section 2: "the receiver must abort the connection").
    """
    if SIGNATURE_V2.startswith(data[: len(SIGNATURE_V2)]):
        return _read_v2(data)
    if SIGNATURE_V1.startswith(data[: len(SIGNATURE_V1)]):
        return _read_v1(data)
    raise refused("a PROXY protocol header was expected")


def refused(detail: str) -> Violation:
    """Return the error for a header that is not taken."""
    return Violation(400, "proxy_protocol", detail)


# Version 1 (section 2.1): one line of text.


def _read_v1(data: bytes) -> ProxyHeader | None:
    end = data.find(b"\n", 0, LONGEST_V1) + 1
    if not end:
        if len(data) >= LONGEST_V1:
            raise refused("version 1: the line is longer than 107 bytes")
        return None
    line = data[:end]
    if _V1_UNKNOWN.fullmatch(line):
        return ProxyHeader(end, None)
    match = _V1.fullmatch(line)
    if match is None:
        raise refused("version 1: the line is malformed")
    family, source, destination, *ports = match.groups()
    kind = IPv4Address if family == b"TCP4" else IPv6Address
    ip = _address(kind, source)
    _address(kind, destination)
    source_port, _ = map(_port, ports)
    return ProxyHeader(end, Preface(ip, source_port))


def _address(kind: type[IPv4Address | IPv6Address], text: bytes) -> IPAddress:
    try:
        return kind(text.decode("ascii"))
    except ValueError:
        raise refused("version 1: an address is not one of its family") from None


def _port(text: bytes) -> int:
    number = int(text)
    if number > 65535 or (len(text) > 1 and text.startswith(b"0")):
        raise refused("version 1: a port is not a number from 0 to 65535")
    return number


# Version 2 (section 2.2): binary.


def _read_v2(data: bytes) -> ProxyHeader | None:
    if len(data) < _FIXED_V2:
        return None
    version, command = data[12] >> 4, data[12] & 0xF
    family, transport = data[13] >> 4, data[13] & 0xF
    end = _FIXED_V2 + int.from_bytes(data[14:16], "big")
    if version != 2 or command > _PROXY:
        raise refused(f"version 2: version and command are 0x{data[12]:02x}")
    if family not in _ADDRESSES or transport > 2:
        raise refused(f"version 2: family and transport are 0x{data[13]:02x}")
    if end > LONGEST_V2:
        raise refused(f"version 2: the header is longer than {LONGEST_V2} bytes")
    addresses_end = _FIXED_V2 + _ADDRESSES[family]
    if command == _PROXY and end < addresses_end:
        raise refused("version 2: the header is shorter than its addresses")
    if len(data) < end:
        return None
    if command == _LOCAL:
        # "the receiver must ... discard the protocol block including the family which is ignored"
        return ProxyHeader(end, None)
    header = data[:end]
    if family:
        _check_tlvs(header, addresses_end)
    return ProxyHeader(end, _preface(header, family) if transport == _STREAM else None)


def _preface(header: bytes, family: int) -> Preface | None:
    if family == 1:
        return Preface(IPv4Address(header[16:20]), int.from_bytes(header[24:26], "big"))
    if family == 2:
        return Preface(IPv6Address(header[16:32]), int.from_bytes(header[48:50], "big"))
    return None


def _check_tlvs(header: bytes, at: int) -> None:
    """Walk the type-length-value triples; a checksum among them must be right (section 2.2.3)."""
    while at < len(header):
        value = at + _TLV.size
        if value > len(header):
            raise refused("version 2: an extension is cut short")
        kind, length = _TLV.unpack_from(header, at)
        at = value + length
        if at > len(header):
            raise refused("version 2: an extension is longer than the header")
        if kind == _CRC32C:
            _check_sum(header, value, length)


def _check_sum(header: bytes, value: int, length: int) -> None:
    blank = header[:value] + bytes(length) + header[value + length :]
    if length != 4 or int.from_bytes(header[value : value + 4], "big") != crc32c(blank):
        raise refused("version 2: the checksum is wrong")


def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return tuple(table)


_CRC_TABLE = _crc_table()


def crc32c(data: bytes) -> int:
    """Return the CRC-32C (Castagnoli) checksum of ``data`` (RFC 4960 appendix B)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC_TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


# Writing.

LOCAL = SIGNATURE_V2 + bytes((0x20, 0, 0, 0))
"""The header of a connection that the proxy makes on its own behalf, such as a health probe."""


def encode_header(announced: Announcement | None) -> bytes:
    """Return the version 2 header that says so; ``LOCAL`` where there is nothing to say."""
    if announced is None:
        return LOCAL
    family = 0x11 if announced.source_ip.version == 4 else 0x21
    ports = struct.pack("!HH", announced.source_port, announced.destination_port)
    body = announced.source_ip.packed + announced.destination_ip.packed + ports
    return SIGNATURE_V2 + struct.pack("!BBH", 0x21, family, len(body)) + body
