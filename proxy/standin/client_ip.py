"""Which address each PostHog service takes for the client's, given the header lines and the peer.

Four readers, four rules (PostHog fact: "Client IP: what each PostHog service makes of the headers").
None of them checks who sent the header, which is why a proxy in front has to. ``fields`` are the
header lines in order as (name, value) text; ``peer`` is the socket's address as text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import TypeAlias

TextFields: TypeAlias = Sequence[tuple[str, str]]

_FORWARDED_FOR = re.compile(r'(?:^|[;,])\s*for=(?:"([^"]*)"|([^;,\s]*))', re.IGNORECASE)


def _values(fields: TextFields, name: str) -> list[str]:
    return [value for key, value in fields if key.lower() == name]


def _bare(token: str) -> str | None:
    """The canonical text of a bare address, ``None`` for anything else: with a port, brackets or zone."""
    if "%" in token:
        return None
    try:
        return str(ip_address(token))
    except ValueError:
        return None


def _without_port(token: str) -> str:
    """``[v6]:port`` and ``v4:port`` without their port; a bare IPv6 address stays whole."""
    if token.startswith("["):
        return token[1:].partition("]")[0]
    host, colon, _ = token.rpartition(":")
    return host if colon and "." in host and ":" not in host else token


def _forwarded_for(value: str) -> str | None:
    """The first ``for=`` address of an RFC 7239 line."""
    for quoted, plain in _FORWARDED_FOR.findall(value):
        if (address := _bare(_without_port(quoted or plain))) is not None:
            return address
    return None


_SINGLE_HEADERS: tuple[tuple[str, Callable[[str], str | None]], ...] = (
    ("forwarded", _forwarded_for),
    ("x-real-ip", _bare),
    ("fly-client-ip", _bare),
    ("true-client-ip", _bare),
    ("cf-connecting-ip", _bare),
    ("cloudfront-viewer-address", lambda value: _bare(value.rpartition(":")[0].strip("[]"))),
)
"""What capture looks at when X-Forwarded-For gives nothing, in its order."""


def capture(fields: TextFields, peer: str) -> str:
    """The ingestion services: the leftmost token of all X-Forwarded-For lines that is a bare
    address, then six further headers, then the peer."""
    for line in _values(fields, "x-forwarded-for"):
        for token in line.split(","):
            if (address := _bare(token.strip())) is not None:
                return address
    for name, read in _SINGLE_HEADERS:
        for value in _values(fields, name):
            if (address := read(value.strip())) is not None:
                return address
    return peer


def flags(fields: TextFields, peer: str) -> str:
    """Feature flags: the first token of the first X-Forwarded-For line without its port, else what
    capture would take."""
    lines = _values(fields, "x-forwarded-for")
    if lines:
        address = _bare(_without_port(lines[0].split(",")[0].strip()))
        if address is not None:
            return address
    return capture(fields, peer)


def _meta_forwarded_for(fields: TextFields) -> str | None:
    """``HTTP_X_FORWARDED_FOR`` as a WSGI server fills it: ``_`` and ``-`` are one, lines are joined."""
    lines = [value for key, value in fields if key.lower().replace("_", "-") == "x-forwarded-for"]
    return ",".join(lines) if lines else None


def django(fields: TextFields, peer: str) -> str:
    """Django's ``get_ip_address``: the first token, not trimmed, a port behind one colon cut off."""
    chain = _meta_forwarded_for(fields)
    address = chain.split(",")[0] if chain else peer
    host, colon, rest = address.partition(":")
    return host if colon and ":" not in rest else address


@dataclass(frozen=True, slots=True)
class Gate:
    """Django's ``ALLOWED_IP_BLOCKS`` middleware behind a proxy (IS_BEHIND_PROXY).

    ``trusted`` is compared as text, so a CIDR block in it never matches anything.
    """

    trusted: frozenset[str] = frozenset()
    trust_all: bool = False
    allowed: tuple[IPv4Network | IPv6Network, ...] = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))

    def __call__(self, fields: TextFields, peer: str) -> str:
        """The address let in, or the status that the request dies with: ``"403"`` or ``"500"``."""
        chain = _meta_forwarded_for(fields)
        client, *proxies = [token.strip() for token in chain.split(",")] if chain is not None else [peer]
        if chain is not None and not self.trust_all and not self.trusted.issuperset([peer, *proxies]):
            return "403"
        try:
            address = ip_address(client)
        except ValueError:
            return "500"
        return client if any(address in block for block in self.allowed) else "403"


def by_service(fields: TextFields, peer: str, gate: Gate) -> dict[str, str]:
    """What every service makes of one request: capture, flags, django, gate."""
    return {
        "capture": capture(fields, peer),
        "flags": flags(fields, peer),
        "django": django(fields, peer),
        "gate": gate(fields, peer),
    }


def agree(addresses: Iterable[str]) -> bool:
    """Whether all services see one and the same client."""
    return len(set(addresses)) == 1
