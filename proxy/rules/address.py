"""Who the client is: from the peer, a PROXY header, and the chain that trusted proxies wrote.

The chain is read from the right, because only its right end is written by proxies that we know::

    X-Forwarded-For: 6.6.6.6, 203.0.113.7, 10.0.0.9        peer 10.0.0.2
                     └ claimed └ the client └ trusted       └ trusted

Every hop that is trusted vouches for the one on its left; the first that is not trusted is the
client, and nothing left of it is read (nginx realip with `recursive on`). So no address that an
untrusted party wrote can win, whatever it wrote. Lines of the same name are one list in the order
received (RFC 9110 section 5.3; HAProxy adds a second line instead of an element). Empty elements are
skipped and not counted (RFC 9110 section 5.6.1.2; nginx skips them between elements): `a,,b` is `a,b`,
and a line of commas is an empty list. A token that is not an address ends the walk at the last good hop.

Time is linear in the bytes that were read. Memory: ``trusted_chain`` holds at most one address per
two bytes of the request head, ``trail`` at most ``TRAIL_HOPS`` hops.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address

# These four are no sockets: two pure functions on text, a tenth of the cost of ipaddress's classes.
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import TYPE_CHECKING, TypeAlias

from proxy.message import AddressSource, ClientAddress, Hop, field_values
from proxy.rules.forwarded import OWS, forwarded_elements, parameters

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from proxy.config.schema import FrontConfig, IPNetwork, TrustConfig
    from proxy.message import Fields, IPAddress, Peer

TRAIL_HOPS = 32
"""Longest trail. The last place always goes to the latest hop, so the one that decided is in it."""

TRAIL_TEXT = 64
"""Bytes of a hop that its text in the trail shows; a longer one ends in `...`."""

UNTRUSTED_PEER = "peer, not trusted: it is the client"
TRUSTED_PEER = "peer, trusted"
TRUSTED = "trusted"
CLIENT = "not trusted: it is the client"
COUNTED = "as many hops as proxies in front: it is the client"
NOT_AN_ADDRESS = "not an address: the walk ends"
LAST_GOOD = "last good hop: it is the client"
LEFTMOST = "all are trusted: the leftmost is the client"
NO_HOP = "no hop was named: the peer is the client"
TOO_SHORT = "fewer hops than proxies in front: the peer is the client"
NAMED = "named by the client header: it is the client"
OWN_ADDRESS = "the peer's own address: not looked at"
NOT_NAMED = "client header is not one address: ignored"

_Bucket: TypeAlias = tuple[int, frozenset[int]]
"""A number of host bits, and the network numbers with that many."""

Packed: TypeAlias = bytes
"""An address as its 4 or 16 bytes, canonical: IPv4-mapped IPv6 is 4."""

_Step: TypeAlias = "tuple[bytes, Packed | None]"
"""One element of a chain as it stands there, and the address it names."""


# --- addresses -----------------------------------------------------------------------------------

_ADDRESS = re.compile(
    rb"(?:\[(?P<bracketed>[0-9A-Fa-f:.]{2,45}+)\]|(?P<v4>[0-9.]{7,15}+))(?::(?P<port>[0-9]{1,5}+))?+"
    rb"|(?P<bare>[0-9A-Fa-f:.]{2,45}+)"
)
"""At most one port, and only where it cannot be part of the address: behind brackets or IPv4. The
alphabet leaves no room for zones (`%eth0`), names and prefixes. ipaddress judges the rest."""


def is_public(ip: IPAddress | None) -> bool:
    """Tell whether a client can have ``ip`` on the internet (``ipaddress.is_global``)."""
    return ip is not None and is_public_packed(ip.packed)


def is_public_packed(packed: Packed) -> bool:
    """``is_public`` of an address that is packed."""
    # The module's own check reads a list of networks, which takes as long as all else about a request.
    if len(packed) == 4:
        if packed[0] not in _PARTLY_SPECIAL:
            return True
        if packed[:3] != _SPLIT_24:
            return _is_public_network(packed[:3] + b"\0")
    elif 0x20 <= packed[0] <= 0x3F and not packed.startswith(_SPLIT_23):
        return _is_public_network(packed[:4] + bytes(12))
    return unpacked(packed).is_global


@functools.lru_cache(1024)
def _is_public_network(packed: Packed) -> bool:
    """The same of a /24 of IPv4, or of a /32 of IPv6, that is public or special as a whole."""
    return unpacked(packed).is_global


_SPLIT_24 = b"\xc0\0\0"
"""192.0.0.0/24, of which some addresses are public."""

_SPLIT_23 = (b"\x20\x01\0", b"\x20\x01\x01")
"""2001::/23, IANA's own; of the other global unicast addresses no smaller network than a /32 is special."""

_PARTLY_SPECIAL = frozenset({0, 10, 100, 127, 169, 172, 192, 198, 203, *range(224, 256)})
"""First octets of IPv4 that hold a special-purpose network (IANA's registry, RFC 6890)."""


_LONGEST = 64
"""Longer than any address with brackets and a port."""

_MAPPED = bytes(10) + b"\xff\xff"
"""What IPv4-mapped IPv6 begins with (RFC 4291 section 2.5.5.2)."""

_EMBEDDED = bytes(12)
"""What IPv6 begins with that inet_ntop writes with an IPv4 address in it, and RFC 5952 does not."""


def parse_address(token: bytes) -> IPAddress | None:
    """Return the canonical address that ``token`` names, or ``None``; never raises.

    Accepts IPv4 and IPv6, each with one port (1 to 5 digits, at most 65535; RFC 7239 section 6),
    IPv6 with or without brackets, and white space around. Refuses zones, octets with leading zeros,
    short forms (`127.1`) and integers. IPv4-mapped IPv6 comes back as IPv4.
    """
    packed = packed_address(token.strip(OWS))
    return None if packed is None else unpacked(packed)


def packed_address(token: bytes) -> Packed | None:
    """``parse_address`` of a token without white space around it, packed."""
    if len(token) > _LONGEST:
        return None
    try:
        if b":" not in token:  # nothing but bare IPv4 is left; inet_pton reads it as strictly as ipaddress
            return inet_pton(AF_INET, token.decode("ascii"))
        match = _ADDRESS.fullmatch(token)
        if match is None or int(match["port"] or b"0") > 65535:
            return None
        if match["v4"] is not None:
            return inet_pton(AF_INET, match["v4"].decode("ascii"))
        packed = inet_pton(AF_INET6, (match["bracketed"] or match["bare"]).decode("ascii"))
    except (OSError, ValueError):
        return None
    return packed[12:] if packed.startswith(_MAPPED) else packed


def unpacked(packed: Packed) -> IPAddress:
    """Return the address of its bytes."""
    return IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)


def packed_text(packed: Packed) -> str:
    """Return the text of an address, as ``str`` of an ``IPAddress`` is (RFC 5952)."""
    if len(packed) == 4:
        return inet_ntop(AF_INET, packed)
    return str(unpacked(packed)) if packed.startswith(_EMBEDDED) else inet_ntop(AF_INET6, packed)


def unmapped(ip: IPAddress) -> IPAddress:
    """Return ``ip`` as IPv4 where it is IPv4-mapped IPv6, and without a zone."""
    if isinstance(ip, IPv4Address):
        return ip
    if ip.ipv4_mapped is not None:
        return ip.ipv4_mapped
    return ip if ip.scope_id is None else IPv6Address(int(ip))


def anonymised(ip: IPAddress) -> IPAddress:
    """Return the first address of the client's network: /24 for IPv4, /48 for IPv6."""
    return _without_host_bits(ip, 8 if isinstance(ip, IPv4Address) else 80)


def client_network(ip: IPAddress) -> IPAddress:
    """Return what one client can be told apart by: its IPv4 address, or the /64 of its IPv6 one."""
    return ip if isinstance(ip, IPv4Address) else _without_host_bits(ip, 64)


def _without_host_bits(ip: IPAddress, bits: int) -> IPAddress:
    return type(ip)(int(ip) >> bits << bits)


def peer_address(peer: Peer) -> IPAddress | None:
    """Return the address that the connection came from, canonical: the one that a PROXY header gave,
    else the socket's; ``None`` for a Unix socket without such a header."""
    ip = peer.ip if peer.preface is None else peer.preface.source_ip
    return None if ip is None else unmapped(ip)


# --- trust ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Habit:
    """What the trusted peers of some networks do: the lower-case name of the ``header`` in which they name
    the client (empty: none), and whether the last element of their chain is their ``own_address``."""

    header: bytes
    own_address: bool
    v4: tuple[_Bucket, ...]
    v6: tuple[_Bucket, ...]

    @classmethod
    def of(cls, front: FrontConfig) -> Habit:
        """Build from an entry of `[[fronts]]`."""
        return cls(front.client_header.lower().encode(), front.own_address, *_by_version(front.networks))


@dataclass(frozen=True, slots=True)
class TrustTable:
    """Whose word is believed, ready for look-ups: `[trust]` with its networks as sets.

    A look-up costs one set membership per distinct prefix length. ``hops`` replaces the list when it
    is not 0: every peer with an address then counts as the nearest of that many proxies. ``client_header``
    and "no own address" are what peers do to whom none of ``habits`` applies.
    """

    everyone: bool
    unix: bool
    hops: int
    forwarded: bool
    client_header: bytes
    v4: tuple[_Bucket, ...]
    v6: tuple[_Bucket, ...]
    habits: tuple[Habit, ...] = ()

    @classmethod
    def of(cls, trust: TrustConfig, fronts: Iterable[FrontConfig] = ()) -> TrustTable:
        """Build the table of a configuration. Networks inside ::ffff:0:0/96 are read as IPv4, since
        addresses are unmapped before they are looked up."""
        v4, v6 = _by_version(trust.proxies)
        return cls(
            everyone=trust.all,
            unix=trust.unix,
            hops=trust.hops,
            forwarded=trust.forwarded,
            client_header=trust.client_header.lower().encode(),
            v4=v4,
            v6=v6,
            habits=tuple(Habit.of(front) for front in fronts if front.client_header or front.own_address),
        )

    def trusts(self, ip: IPAddress | None) -> bool:
        """Is a peer at ``ip`` believed? ``None`` is a Unix-socket peer: only by an explicit word."""
        if ip is None:
            return self.unix or self.everyone
        return self.everyone or self.hops > 0 or self.lists(unmapped(ip))

    def lists(self, ip: IPAddress) -> bool:
        """Is the canonical address ``ip`` in one of the networks?"""
        return _holds(self.v4, self.v6, ip.packed)

    @property
    def client_headers(self) -> frozenset[bytes]:
        """The lower-case names of all headers in which some peer may name the client."""
        return frozenset(filter(None, (self.client_header, *(habit.header for habit in self.habits))))

    def habit(self, ip: IPAddress | None) -> tuple[bytes, bool]:
        """Return how a trusted peer at the canonical address ``ip`` names the client: its client header
        (empty: none), and whether the last element of its chain is its own address. The first habit whose
        networks hold ``ip`` counts; a header is never believed from elsewhere."""
        if ip is not None:
            for habit in self.habits:
                if _holds(habit.v4, habit.v6, ip.packed):
                    return habit.header or self.client_header, habit.own_address
        return self.client_header, False

    def ends_at(self, packed: Packed, hops: int) -> bool:
        """Is this address, the one after ``hops - 1`` others of the chain, the client?"""
        if self.hops:
            return hops == self.hops
        return not self.everyone and not _holds(self.v4, self.v6, packed)


def _holds(v4: tuple[_Bucket, ...], v6: tuple[_Bucket, ...], packed: Packed) -> bool:
    number = int.from_bytes(packed, "big")
    for bits, networks in v4 if len(packed) == 4 else v6:  # noqa: SIM110 - a generator costs as much again
        if number >> bits in networks:
            return True
    return False


def _by_version(networks: Iterable[IPNetwork]) -> tuple[tuple[_Bucket, ...], tuple[_Bucket, ...]]:
    unmapped_networks = [_unmapped_network(network) for network in networks]
    return (
        _buckets(network for network in unmapped_networks if network.version == 4),
        _buckets(network for network in unmapped_networks if network.version == 6),
    )


def _unmapped_network(network: IPNetwork) -> IPNetwork:
    if isinstance(network, IPv4Network):
        return network
    # A mapped network address has all 96 leading bits fixed, so the prefix is at least that long.
    mapped = network.network_address.ipv4_mapped
    return network if mapped is None else IPv4Network((mapped, network.prefixlen - 96))


def _buckets(networks: Iterable[IPNetwork]) -> tuple[_Bucket, ...]:
    numbers: dict[int, set[int]] = {}
    for network in networks:
        bits = network.max_prefixlen - network.prefixlen
        numbers.setdefault(bits, set()).add(int(network.network_address) >> bits)
    return tuple((bits, frozenset(numbers[bits])) for bits in sorted(numbers))


# --- the decision --------------------------------------------------------------------------------


def client_address(peer: Peer, fields: Fields, trust: TrustTable) -> ClientAddress:
    """Decide who the client is; never raises, whatever bytes ``fields`` hold.

    An untrusted peer is the client itself: not one of its lines is read. A trusted peer's named
    client header wins where it came once and holds one address; then X-Forwarded-For is walked, or
    with ``trust.forwarded`` and not a single X-Forwarded-For line, Forwarded (RFC 7239). If every hop
    is trusted the leftmost is the client. With ``trust.hops`` = N the N-th element from the right is
    (the peer is the first of the N proxies, so N - 1 elements name the others); if the walk finds
    fewer than N addresses, the peer is. Whether the peer has a client header, and whether the last element of
    its X-Forwarded-For is its own address and is passed over, is for ``TrustTable.habit`` to say.
    """
    nearest = peer_address(peer)
    trusted = trust.trusts(nearest)
    trail = _Trail()
    trail.note(_text(nearest), TRUSTED_PEER if trusted else UNTRUSTED_PEER)
    if trusted:
        header, own_address = trust.habit(nearest)
        named = _named_client(fields, header, trail)
        if named is not None:
            return ClientAddress(named, AddressSource.HEADER, True, (), trail.hops())
        source, steps = _chain(fields, trust)
        if own_address and source is AddressSource.X_FORWARDED_FOR:
            _pass_over(steps, trail)
        walked = _walk(steps, trust, trail)
        if walked:
            ips = tuple(unpacked(packed) for packed in walked)
            return ClientAddress(ips[-1], source, True, ips[-2::-1], trail.hops())
        trail.note(_text(nearest), TOO_SHORT if trust.hops else NO_HOP)
    return ClientAddress(nearest, _peer_source(peer), trusted, (), trail.hops())


def _peer_source(peer: Peer) -> AddressSource:
    if peer.preface is not None:
        return AddressSource.PROXY_PROTOCOL
    return AddressSource.UNIX if peer.ip is None else AddressSource.PEER


def _pass_over(steps: Iterator[_Step], trail: _Trail) -> None:
    for text, _ in steps:
        trail.note(text, OWN_ADDRESS)
        return


def _named_client(fields: Fields, header: bytes, trail: _Trail) -> IPAddress | None:
    if not header:
        return None
    values = field_values(fields, header)
    # Its writer replaces the line. Two lines mean that a hop passed on what its own client sent.
    ip = parse_address(values[0]) if len(values) == 1 else None
    if values:
        trail.note(values[-1], NOT_NAMED if ip is None else NAMED)
    return ip


def _chain(fields: Fields, trust: TrustTable) -> tuple[AddressSource, Iterator[_Step]]:
    lines = field_values(fields, b"x-forwarded-for")
    if trust.forwarded and not lines:
        return AddressSource.FORWARDED, _forwarded_steps(field_values(fields, b"forwarded"))
    return AddressSource.X_FORWARDED_FOR, _listed_steps(lines)


def walk_listed(lines: Iterable[bytes], trust: TrustTable, *, own_address: bool = False) -> list[Packed]:
    """Walk along the X-Forwarded-For ``lines`` of a trusted peer that no client header names another
    client to: the addresses from the nearest to the client, which is the last; empty: the peer is.

    What ``client_address`` does then, without telling why.
    """
    steps = _listed_steps(list(lines))
    if own_address:
        _pass_over(steps, _NO_TRAIL)
    return _walk(steps, trust, _NO_TRAIL)


def _walk(steps: Iterator[_Step], trust: TrustTable, trail: _Trail) -> list[Packed]:
    """Return the addresses from the nearest to the client, which is the last; empty: the peer is."""
    walked: list[Packed] = []
    for text, ip in steps:
        if ip is None:
            trail.note(text, NOT_AN_ADDRESS)
            verdict = LAST_GOOD
            break
        walked.append(ip)
        if trust.ends_at(ip, len(walked)):
            trail.note(text, COUNTED if trust.hops else CLIENT)
            return walked
        trail.note(text, TRUSTED)
    else:
        verdict = LEFTMOST
    if trust.hops:
        walked.clear()
    if walked:
        trail.note(packed_text(walked[-1]).encode(), verdict)
    return walked


def _listed_steps(lines: list[bytes]) -> Iterator[_Step]:
    """Yield the elements of an X-Forwarded-For list from the right, each line searched only as far
    as the walk goes."""
    for line in reversed(lines):
        end = len(line)
        while end >= 0:
            comma = line.rfind(b",", 0, end)
            element = line[comma + 1 : end].strip(OWS)
            end = comma
            if element:
                yield element, packed_address(element)


def _forwarded_steps(lines: list[bytes]) -> Iterator[_Step]:
    for element in forwarded_elements(lines):
        # `unknown`, `_hidden` and a missing `for` name nobody: not an address, and the walk ends.
        yield element, packed_address(parameters(element).get(b"for", b"").strip(OWS))


# --- the trail -----------------------------------------------------------------------------------


class _Trail:
    """The hops looked at, nearest first; texts are made printable only at the end."""

    __slots__ = ("_notes",)

    def __init__(self) -> None:
        self._notes: list[tuple[bytes, str]] = []

    def note(self, text: bytes, verdict: str) -> None:
        if len(self._notes) == TRAIL_HOPS:
            self._notes.pop()
        self._notes.append((text, verdict))

    def hops(self) -> tuple[Hop, ...]:
        return tuple(Hop(_printable(text), verdict) for text, verdict in self._notes)


class _NoTrail(_Trail):
    """For who does not ask why."""

    __slots__ = ()

    def note(self, text: bytes, verdict: str) -> None:
        """Forget it."""


_NO_TRAIL = _NoTrail()


def _text(ip: IPAddress | None) -> bytes:
    return b"unix" if ip is None else str(ip).encode("ascii")


def _printable(text: bytes) -> str:
    shown = text[:TRAIL_TEXT].decode("latin-1").encode("unicode_escape").decode("ascii")
    return f"{shown}..." if len(text) > TRAIL_TEXT else shown
