"""What an upstream is told about a client's connection."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from proxy.message import Peer, Preface
from proxy.rules.announcing import Announcement, announcement

if TYPE_CHECKING:
    from proxy.message import IPAddress

CLIENT = ip_address("203.0.113.7")
OTHER = ip_address("198.51.100.1")
CLIENT6 = ip_address("2001:db8::7")
HERE = ip_address("10.0.0.1")
ANY = ip_address("0.0.0.0")
ANY6 = ip_address("::")

DIRECT = Peer(CLIENT, 5000, local_port=443, local_ip=HERE)
BALANCED = Peer(ip_address("10.0.0.9"), 6000, local_port=443, local_ip=HERE, preface=Preface(CLIENT, 5000))
MAPPED = Peer(ip_address("::ffff:203.0.113.7"), 5000, local_port=443, local_ip=ip_address("::ffff:10.0.0.1"))
UNIX = Peer(None)


@pytest.mark.parametrize(
    ("client", "peer", "expected"),
    [
        pytest.param(CLIENT, DIRECT, Announcement(CLIENT, 5000, HERE, 443), id="its own connection"),
        pytest.param(CLIENT, BALANCED, Announcement(CLIENT, 5000, HERE, 443), id="named by a header"),
        pytest.param(CLIENT, MAPPED, Announcement(CLIENT, 5000, HERE, 443), id="mapped addresses"),
        pytest.param(OTHER, DIRECT, Announcement(OTHER, 0, HERE, 443), id="named by the peer: no port"),
        pytest.param(CLIENT6, DIRECT, Announcement(CLIENT6, 0, ANY6, 443), id="of the other family"),
        pytest.param(CLIENT, UNIX, Announcement(CLIENT, 0, ANY, 0), id="by a Unix socket"),
        pytest.param(None, UNIX, None, id="nobody"),
    ],
)
def test_the_client_is_announced(client: IPAddress | None, peer: Peer, expected: Announcement | None) -> None:
    assert announcement(client, peer, anonymise=False) == expected


def test_an_anonymised_client_is_its_network_and_has_no_port() -> None:
    network = ip_address("203.0.113.0")
    assert announcement(CLIENT, DIRECT, anonymise=True) == Announcement(network, 0, HERE, 443)
