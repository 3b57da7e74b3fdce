"""The client address against a reference model, for arbitrary bytes and for structured chains.

The model reads the rules again from their sources (nginx realip, RFC 7239, RFC 9110 lists) with
`ipaddress` and `split` only; nothing of `proxy.rules.address` helps it.
"""

from __future__ import annotations

import ipaddress
import re
import sys
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.config.schema import FrontConfig, TrustConfig
from proxy.message import AddressSource, Peer
from proxy.rules.address import (
    TRAIL_HOPS,
    TRAIL_TEXT,
    TrustTable,
    client_address,
    is_public_packed,
    packed_address,
    packed_text,
    parse_address,
    unpacked,
    walk_listed,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.message import IPAddress

NETS = [ip_network(n) for n in ("10.0.0.0/8", "192.0.2.5", "2001:db8:aaaa::/48", "fd00::/8")]
NEAR = ip_address("10.0.0.1")

examples = settings(deadline=None, max_examples=300)


# --- the model -----------------------------------------------------------------------------------


def model_address(token: bytes) -> IPAddress | None:
    text = token.strip(b" \t").decode("latin-1")
    host, port = text, "0"
    if text.startswith("["):
        host, end, rest = text[1:].partition("]")
        well = end and ":" in host and rest[:1] in ("", ":")
        host, port = (host, rest[1:] if rest else "0") if well else ("", "")
    elif text.count(":") == 1:
        host, port = text.split(":")
    try:
        ip = ipaddress.ip_address(host) if "%" not in host else None
    except ValueError:
        ip = None
    if ip is None or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        return None
    return (isinstance(ip, IPv6Address) and ip.ipv4_mapped) or ip


def model_client(peer: IPAddress, lines: list[bytes], nets: list[Any] | None, hops: int = 0) -> IPAddress:
    """``nets`` None: everyone is trusted."""

    def trusted(ip: IPAddress) -> bool:
        return nets is None or any(ip in net for net in nets)

    tokens = [token for token in b",".join(lines).split(b",") if token.strip(b" \t")]
    chain = [peer]  # nearest first
    for token in reversed(tokens if hops or trusted(peer) else []):
        ip = model_address(token)
        if ip is None or len(chain) > (hops or len(tokens)):
            break
        chain.append(ip)
        if not hops and not trusted(ip):
            break
    return chain[-1] if not hops or len(chain) > hops else peer


# --- material ------------------------------------------------------------------------------------

octets = st.integers(0, 260).map(str) | st.sampled_from(["00", "01", "1_0", "+1", "", " 1", "1e1"])
groups = st.builds(
    lambda words, tail: ":".join(words) + tail,
    st.lists(
        st.integers(0, 0xFFFFF).map(lambda n: f"{n:x}") | st.sampled_from(["", "", "0", "0000", "g"]),
        min_size=1,
        max_size=9,
    ),
    st.sampled_from(["", "", "::", ":1.2.3.4", ":1.2.3.04", ":1.2.3", "::255.255.255.255", ":"]),
)
v4s = st.one_of(
    st.ip_addresses(v=4),
    st.integers(0, 2**24 - 1).map(lambda n: IPv4Address(0x0A000000 + n)),
    st.just(IPv4Address("192.0.2.5")),
)
v6s = st.one_of(
    st.ip_addresses(v=6),
    st.integers(0, 2**80 - 1).map(lambda n: IPv6Address((0x20010DB8AAAA << 80) + n)),
    v4s.map(lambda ip: IPv6Address((0xFFFF << 32) + int(ip))),
)
addresses = st.one_of(v4s, v6s)
ports = st.integers(0, 70_000).map(str) | st.sampled_from(["", "00080", "+1", "1 ", "x"])
forms: st.SearchStrategy[str] = st.one_of(
    v4s.map(str),
    v6s.map(str),
    v6s.map(lambda ip: ip.exploded.upper()),
    v6s.map(lambda ip: f"[{ip}]"),
    v4s.map(lambda ip: f"::ffff:{ip}"),
    v4s.map(lambda ip: f"[{ip}]"),
    v6s.map(lambda ip: f"{ip}%eth0"),
    st.tuples(v4s, ports).map(lambda t: f"{t[0]}:{t[1]}"),
    st.tuples(v6s, ports).map(lambda t: f"[{t[0]}]:{t[1]}"),
    st.sampled_from(
        ["unknown", "_hidden", "unix:", "", " ", "127.1", "010.0.0.1", "1", "::", "[", "]", ":80"]
    ),
)
padding = st.sampled_from(["", " ", "\t ", "  "])
tokens = st.tuples(padding, forms, padding).map(lambda t: "".join(t).encode("ascii"))
almost = st.text(alphabet="0123456789abcdef.:[]% ", max_size=24).map(str.encode)
noise = st.binary(max_size=40) | almost | st.text(alphabet='0129.:[],;="\\for ', max_size=40).map(str.encode)
lines = st.lists(st.lists(tokens, max_size=5).map(b",".join) | noise, max_size=4)
trusted_tokens = st.one_of(
    st.integers(0, 2**24 - 1).map(lambda n: str(IPv4Address(0x0A000000 + n)).encode()),
    st.integers(0, 2**80 - 1).map(
        lambda n: b"[%s]:1" % str(IPv6Address((0x20010DB8AAAA << 80) + n)).encode()
    ),
)
untrusted = addresses.filter(
    lambda ip: not any(((isinstance(ip, IPv6Address) and ip.ipv4_mapped) or ip) in net for net in NETS)
)


def fields_of(values: list[bytes], name: bytes = b"X-Forwarded-For") -> tuple[tuple[bytes, bytes], ...]:
    return tuple((name, value) for value in values)


def table(**trust: Any) -> TrustTable:
    return TrustTable.of(TrustConfig(**trust))


TRUST = table(proxies=tuple(NETS))
TABLES = [
    TRUST,
    table(),
    table(all=True),
    table(hops=2),
    table(unix=True, proxies=tuple(NETS), forwarded=True),
    table(all=True, forwarded=True, client_header="X-Client"),
]


# --- one address ---------------------------------------------------------------------------------


@examples
@given(tokens | almost | st.binary(max_size=60))
def test_an_address_is_read_as_the_model_reads_it(token: bytes) -> None:
    assert parse_address(token) == model_address(token)


@examples
@given(addresses)
def test_canonical_text_is_a_fixed_point(ip: IPAddress) -> None:
    once = parse_address(str(ip).encode())
    assert once is not None
    assert parse_address(str(once).encode()) == once
    assert str(parse_address(f"[{ip}]:1".encode()) or once) == str(once)


@examples
@given(groups | st.builds(".".join, st.lists(octets, min_size=3, max_size=5)))
def test_what_nearly_is_an_address_is_read_as_ipaddress_reads_it(text: str) -> None:
    for token in (text, f"[{text}]", f"[{text}]:80", f"{text}:80"):
        assert parse_address(token.encode()) == model_address(token.encode())


NEAR_SPECIAL = [
    ip_network(text, strict=False)
    for text in (
        "192.0.0.0/16", "192.168.0.0/12", "100.64.0.0/9", "172.0.0.0/8", "198.18.0.0/14", "198.51.100.0/22",
        "203.0.113.0/23", "169.254.0.0/15", "0.0.0.0/7", "127.0.0.0/8", "224.0.0.0/3", "255.255.255.0/24",
        "2001::/22", "2001:db8::/31", "2002::/16", "3fff::/16", "2620:4f:8000::/40", "::/64", "64:ff9b::/32",
        "100::/63", "fc00::/6", "fe80::/8", "ff00::/8",
    )
]  # fmt: skip
near_special = st.sampled_from(NEAR_SPECIAL).flatmap(
    lambda network: st.integers(0, network.num_addresses - 1).map(
        lambda n: network.network_address + n if n else network.broadcast_address
    )
)


@settings(deadline=None, max_examples=2000)
@given(addresses | near_special | st.integers(0, 2**32 - 1).map(IPv6Address))
def test_packed_is_another_form_of_the_same(ip: IPAddress) -> None:
    canonical = (isinstance(ip, IPv6Address) and ip.ipv4_mapped) or ip
    assert packed_address(str(ip).encode()) == canonical.packed
    assert unpacked(canonical.packed) == canonical
    assert packed_text(canonical.packed) == str(canonical)
    assert is_public_packed(canonical.packed) is canonical.is_global


# --- the walk ------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=800)
@given(addresses, lines)
def test_the_client_is_the_models(peer: IPAddress, values: list[bytes]) -> None:
    for start in (peer, NEAR):
        unmapped = (isinstance(start, IPv6Address) and start.ipv4_mapped) or start
        found = client_address(Peer(start), fields_of(values), TRUST)
        assert found.ip == model_client(unmapped, values, NETS)
        assert found.peer_trusted == any(unmapped in net for net in NETS)
        assert all(any(ip in net for net in NETS) for ip in found.trusted_chain)
    assert client_address(Peer(NEAR), fields_of(values), table(all=True)).ip == model_client(
        NEAR, values, None
    )


@examples
@given(lines, st.sampled_from(range(len(TABLES))))
def test_the_walk_without_its_reasons_is_the_same(values: list[bytes], number: int) -> None:
    found = client_address(Peer(NEAR), fields_of(values), TABLES[number])
    if not found.peer_trusted or not values:
        return
    walked = [unpacked(packed) for packed in walk_listed(values, TABLES[number])]
    if walked:
        assert found.source is AddressSource.X_FORWARDED_FOR
        assert (found.ip, found.trusted_chain) == (walked[-1], tuple(walked[-2::-1]))
    else:
        assert (found.ip, found.source) == (NEAR, AddressSource.PEER)


@examples
@given(lines, st.integers(1, 4))
def test_the_hop_count_is_the_models(values: list[bytes], hops: int) -> None:
    found = client_address(Peer(NEAR), fields_of(values), table(hops=hops))
    assert found.ip == model_client(NEAR, values, [], hops)
    assert len(found.trusted_chain) == (hops - 1 if found.source is AddressSource.X_FORWARDED_FOR else 0)


names = st.sampled_from(
    [b"X-Forwarded-For", b"x-forwarded-for", b"Forwarded", b"X-Client", b"X-Real-IP", b""]
)


@examples
@given(
    st.none() | addresses, st.lists(st.tuples(names | st.binary(max_size=8), noise | st.binary()), max_size=6)
)
def test_arbitrary_bytes_never_raise_and_the_result_is_bounded(
    ip: IPAddress | None, fields: list[tuple[bytes, bytes]]
) -> None:
    for trust in TABLES:
        found = client_address(Peer(ip), tuple(fields), trust)
        assert found == client_address(Peer(ip), tuple(fields), trust)
        assert 1 <= len(found.trail) <= TRAIL_HOPS
        for hop in found.trail:
            assert hop.text.isascii()
            assert hop.text.isprintable()
            assert len(hop.text) <= 4 * TRAIL_TEXT + len("...")
        for address in (found.ip, *found.trusted_chain):
            assert address is None or parse_address(str(address).encode()) == address


# --- what an untrusted party can do --------------------------------------------------------------

claimed = st.lists(noise | tokens, max_size=4)


@examples
@given(untrusted, st.lists(trusted_tokens, max_size=4), claimed, st.booleans())
def test_nothing_left_of_an_untrusted_hop_matters(
    client: IPAddress, hops: list[bytes], lies: list[bytes], own_line: bool
) -> None:
    """The client sends `lies`; a trusted proxy appends the client's address, as an element or a line."""
    honest = [b", ".join([str(client).encode(), *hops])]
    lied = [*lies, *honest] if own_line else [b", ".join([*lies, *honest])]
    wanted = client_address(Peer(NEAR), fields_of(honest), TRUST)
    assert wanted.ip == model_address(str(client).encode())
    assert client_address(Peer(NEAR), fields_of(lied), TRUST) == wanted


@examples
@given(untrusted, st.lists(trusted_tokens, max_size=3), claimed, st.booleans())
def test_nothing_left_of_an_untrusted_hop_matters_in_forwarded(
    client: IPAddress, hops: list[bytes], lies: list[bytes], own_line: bool
) -> None:
    elements = (
        [b'FOR="%s";proto="https";x="a,\\",b"' % token for token in (f"[{client}]:80".encode(), *hops)]
        if isinstance(client, IPv6Address)
        else [b'for=%s;x="y;z\\\\"' % str(client).encode(), *(b'for="%s"' % t for t in hops)]
    )
    honest = [b", ".join(elements)]
    lied = [*lies, *honest] if own_line else [b",".join([*lies, *honest])]
    trust = table(proxies=tuple(NETS), forwarded=True)
    wanted = client_address(Peer(NEAR), fields_of(honest, b"Forwarded"), trust)
    assert (wanted.ip, wanted.source) == (model_address(str(client).encode()), AddressSource.FORWARDED)
    assert client_address(Peer(NEAR), fields_of(lied, b"Forwarded"), trust) == wanted


@examples
@given(st.integers(1, 4), st.lists(forms.map(str.encode), min_size=4, max_size=4), claimed)
def test_nothing_left_of_the_counted_hop_matters(hops: int, written: list[bytes], lies: list[bytes]) -> None:
    """N proxies append one element each; only if all N are addresses is the chain long enough."""
    trust = table(hops=hops)
    honest = [token for token in written if model_address(token) is not None][:hops]
    if len(honest) < hops:
        honest = [b"198.51.100.7"] * hops
    wanted = client_address(Peer(NEAR), fields_of([b",".join(honest)]), trust)
    assert client_address(Peer(NEAR), fields_of([b",".join([*lies, *honest])]), trust) == wanted
    assert wanted.ip == model_address(honest[0])


@examples
@given(untrusted, st.lists(st.tuples(names, noise | tokens), max_size=6))
def test_an_untrusted_peer_is_never_listened_to(ip: IPAddress, fields: list[tuple[bytes, bytes]]) -> None:
    trust = table(proxies=tuple(NETS), forwarded=True, client_header="X-Client")
    assert client_address(Peer(ip), tuple(fields), trust) == client_address(Peer(ip), (), trust)
    unix = client_address(Peer(None), tuple(fields), trust)
    assert (unix.ip, unix.source) == (None, AddressSource.UNIX)


@examples
@given(addresses, lines)
def test_collapsing_again_behind_another_trusted_proxy_changes_nothing(
    peer: IPAddress, values: list[bytes]
) -> None:
    for trust in (TRUST, table(all=True)):
        once = client_address(Peer(peer), fields_of(values), trust).ip
        assert client_address(Peer(NEAR), fields_of([str(once).encode()]), trust).ip == once


# --- work ----------------------------------------------------------------------------------------


def calls(action: Callable[[], object]) -> tuple[int, int]:
    """Count calls of Python and C functions, and of packed_address among them."""
    counts = [0, 0]

    def count(frame: Any, event: str, argument: object) -> None:
        if event in ("call", "c_call"):
            counts[0] += 1
            counts[1] += event == "call" and frame.f_code is packed_address.__code__

    sys.setprofile(count)
    try:
        action()
    finally:
        sys.setprofile(None)
    return counts[0], counts[1]


@pytest.mark.parametrize(
    ("name", "element"),
    [
        (b"X-Forwarded-For", b"10.1.2.3"),
        (b"X-Forwarded-For", b""),
        (b"Forwarded", b'for="[fd00::1]:1";a="\\","'),
    ],
)
@pytest.mark.parametrize("as_lines", [True, False])
def test_work_grows_with_the_hops_and_not_with_their_square(
    name: bytes, element: bytes, as_lines: bool
) -> None:
    trust = table(proxies=tuple(NETS), forwarded=True)

    def work(hops: int) -> tuple[int, int]:
        values = [element] * hops if as_lines else [b",".join([element] * hops)]
        return calls(lambda: client_address(Peer(NEAR), fields_of(values, name), trust))

    small, parsed = work(1000)
    large, parsed_more = work(4000)
    assert large <= 4 * small
    assert (parsed, parsed_more) == ((1000, 4000) if element else (0, 0))


def test_no_more_is_parsed_than_is_walked() -> None:
    values = [b",".join([b"6.6.6.6"] * 4000 + [b"203.0.113.7", b"10.0.0.2"])]
    work, parsed = calls(lambda: client_address(Peer(NEAR), fields_of(values), TRUST))
    assert parsed == 2
    assert work < 200


def test_a_look_up_does_not_grow_with_the_number_of_networks() -> None:
    few = table(proxies=tuple(ip_network(f"10.0.{n}.0/24") for n in range(4)))
    many = table(proxies=tuple(ip_network((0x0A000000 + 256 * n, 24)) for n in range(4000)))
    assert calls(lambda: few.trusts(ip_address("203.0.113.7"))) == calls(
        lambda: many.trusts(ip_address("203.0.113.7"))
    )


CDN = FrontConfig((ip_network("10.1.0.0/16"),), client_header="X-Named")
GOOGLE = FrontConfig((ip_network("10.2.0.0/16"),), own_address=True)
FRONTED = TrustTable.of(TrustConfig(proxies=tuple(NETS)), (CDN, GOOGLE))


def outside_cdn(ip: IPAddress) -> bool:
    return ((isinstance(ip, IPv6Address) and ip.ipv4_mapped) or ip) not in CDN.networks[0]


@examples
@given(addresses.filter(outside_cdn), lines, st.lists(tokens, max_size=2))
def test_a_client_header_matters_from_its_own_networks_only(
    peer: IPAddress, values: list[bytes], named: list[bytes]
) -> None:
    chain = fields_of(values)
    found = client_address(Peer(peer), chain + fields_of(named, b"x-named"), FRONTED)
    assert found == client_address(Peer(peer), chain, FRONTED)
    inside = client_address(Peer(ip_address("10.1.0.9")), chain + fields_of(named, b"x-named"), FRONTED)
    said = model_address(named[0]) if len(named) == 1 else None
    assert inside.ip == (said or model_client(ip_address("10.1.0.9"), values, NETS))


@examples
@given(lines, tokens.filter(lambda token: token.strip(b" \t") != b""))
def test_the_last_element_of_who_appends_its_own_address_does_not_matter(
    values: list[bytes], own: bytes
) -> None:
    chain = fields_of([*values[:-1], b",".join([*values[-1:], own])])
    found = client_address(Peer(ip_address("10.2.0.9")), chain, FRONTED)
    assert found.ip == model_client(ip_address("10.2.0.9"), values, NETS)
