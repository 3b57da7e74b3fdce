"""What a PROXY protocol header tells an upstream about a connection: who the client is, where it came to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxy.rules.address import anonymised, peer_address, unmapped

if TYPE_CHECKING:
    from proxy.message import IPAddress, Peer


@dataclass(frozen=True, slots=True)
class Announcement:
    """The two ends of a client's connection, of one family. A port is 0 where it is not known."""

    source_ip: IPAddress
    source_port: int
    destination_ip: IPAddress
    destination_port: int


def announcement(client: IPAddress | None, peer: Peer, *, anonymise: bool) -> Announcement | None:
    """Return what is said of ``client``, whose connection comes from ``peer``; ``None``: there is nobody to
    name (a Unix socket).

    The client is the one that the rules have found (rules/address.py). Its port is known only where it made
    the connection itself. A destination of the other family (an IPv6 client behind an IPv4 balancer) cannot
    stand in the same header: it is left open.
    """
    if client is None:
        return None
    source, port = client, 0
    if anonymise:
        source = anonymised(client)
    elif client == peer_address(peer):
        port = peer.port if peer.preface is None else peer.preface.source_port
    destination = None if peer.local_ip is None else unmapped(peer.local_ip)
    if destination is None or destination.version != source.version:
        destination = type(source)(0)
    return Announcement(source, port, destination, peer.local_port)
