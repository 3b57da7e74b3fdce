from __future__ import annotations

from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import pytest

from proxy.config.schema import FrontConfig, TrustConfig
from proxy.message import AddressSource, ClientAddress, Hop, Peer, Preface
from proxy.rules import address
from proxy.rules.address import (
    TrustTable,
    anonymised,
    client_address,
    client_network,
    is_public,
    is_public_packed,
    packed_text,
    parse_address,
    peer_address,
    unmapped,
    walk_listed,
)


def table(*proxies: str, **rest: object) -> TrustTable:
    return TrustTable.of(TrustConfig(proxies=tuple(ip_network(p) for p in proxies), **rest))  # type: ignore[arg-type]


def peer(ip: str | None) -> Peer:
    return Peer(None if ip is None else ip_address(ip), 40000)


def found(
    trust: TrustTable, peer_ip: str | None, *lines: str, name: str = "X-Forwarded-For"
) -> ClientAddress:
    fields = tuple((name.encode(), line.encode("latin-1")) for line in lines)
    return client_address(peer(peer_ip), fields, trust)


TRUST = table("10.0.0.0/8", "2001:db8:aaaa::/48")


# --- one address ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        (b"203.0.113.7", "203.0.113.7"),
        (b" \t203.0.113.7\t ", "203.0.113.7"),
        (b"203.0.113.7:51234", "203.0.113.7"),
        (b"203.0.113.7:0", "203.0.113.7"),
        (b"203.0.113.7:65535", "203.0.113.7"),
        (b"0.0.0.0", "0.0.0.0"),
        (b"255.255.255.255:65535", "255.255.255.255"),
        (b"2001:db8::1", "2001:db8::1"),
        (b"2001:DB8:0:0::1", "2001:db8::1"),
        (b"2001:0db8:0000:0000:0000:0000:0000:0001", "2001:db8::1"),
        (b"[2001:db8::1]", "2001:db8::1"),
        (b"[2001:db8::1]:443", "2001:db8::1"),
        (b"::", "::"),
        (b"::1", "::1"),
        # A bare IPv6 whose end looks like a port is all address.
        (b"2001:db8::443", "2001:db8::443"),
        (b"::ffff:203.0.113.7", "203.0.113.7"),
        (b"::FFFF:cb00:7107", "203.0.113.7"),
        (b"[::ffff:203.0.113.7]:80", "203.0.113.7"),
        (b"[ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255]:65535", "ffff:" * 7 + "ffff"),
    ],
)
def test_an_address_is_read_in_every_form_that_proxies_write(token: bytes, expected: str) -> None:
    assert parse_address(token) == ip_address(expected)


@pytest.mark.parametrize(
    "token",
    [
        b"",
        b" ",
        b"unknown",
        b"unix:",
        b"_hidden",
        b"localhost",
        b"127.1",
        b"127.0.1",
        b"2130706433",
        b"0x7f000001",
        b"0x7f.0.0.1",
        b"127.0.0.01",
        b"010.0.0.1",
        b"256.0.0.1",
        b"1.2.3.4.5",
        b"1.2.3.4.",
        b".1.2.3.4",
        b"1..3.4",
        b"1.2.3.4/32",
        b"1.2.3.4:",
        b"1.2.3.4:65536",
        b"1.2.3.4:123456",
        b"1.2.3.4:80:80",
        b"1.2.3.4:+80",
        b"1.2.3.4:8 0",
        b"1.2.3.4 5.6.7.8",
        b"1.2.3.4, 5.6.7.8",
        b"1.2.3.4\n",
        b"1.2.3.4\x00",
        "١.2.3.4".encode(),
        b"\xff",
        b"[1.2.3.4]",
        b"[1.2.3.4]:80",
        b"[]",
        b"[]:80",
        b"[2001:db8::1",
        b"2001:db8::1]",
        b"[[2001:db8::1]]",
        b"[2001:db8::1]80",
        b"[2001:db8::1]:",
        b"[2001:db8::1]:65536",
        b"[2001:db8::1]:80:80",
        b"[ 2001:db8::1 ]",
        b"fe80::1%eth0",
        b"[fe80::1%eth0]:80",
        b"[fe80::1%25eth0]",
        b"2001:db8::1/64",
        b"2001:db8:::1",
        b"2001:db8::1::",
        b"12345::",
        b"1:2:3:4:5:6:7:8:9",
        b":",
        b"1:2",
        b'"1.2.3.4"',
        b"for=1.2.3.4",
        b"1" * 70_000,
        b"::" * 40_000,
    ],
)
def test_what_is_not_one_whole_address_is_none(token: bytes) -> None:
    assert parse_address(token) is None


def test_unmapping_also_drops_the_zone_of_a_link_local_peer() -> None:
    assert unmapped(IPv6Address("::ffff:1.2.3.4")) == ip_address("1.2.3.4")
    assert str(unmapped(IPv6Address("fe80::1%eth0"))) == "fe80::1"
    plain = IPv6Address("2001:db8::1")
    assert unmapped(plain) is plain


@pytest.mark.parametrize(
    ("ip", "network", "anonymous"),
    [
        ("203.0.113.77", "203.0.113.77", "203.0.113.0"),
        ("255.255.255.255", "255.255.255.255", "255.255.255.0"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::", "2001:db8:1::"),
        ("::1", "::", "::"),
    ],
)
def test_networks_of_a_client(ip: str, network: str, anonymous: str) -> None:
    assert client_network(ip_address(ip)) == ip_address(network)
    assert anonymised(ip_address(ip)) == ip_address(anonymous)


# --- trust ---------------------------------------------------------------------------------------


def test_nobody_is_trusted_by_default() -> None:
    trust = table()
    assert not trust.trusts(ip_address("127.0.0.1"))
    assert not trust.trusts(ip_address("::1"))
    assert not trust.trusts(None)


@pytest.mark.parametrize(
    ("ip", "trusted"),
    [
        ("10.0.0.0", True),
        ("10.255.255.255", True),
        ("11.0.0.0", False),
        ("9.255.255.255", False),
        ("::ffff:10.1.2.3", True),
        ("::10.1.2.3", False),
        ("2001:db8:aaaa::1", True),
        ("2001:db8:aaab::1", False),
        ("192.0.2.5", True),
        ("192.0.2.6", False),
        # 0a00:: has the same leading bits as 10.0.0.0/8 and is another family.
        ("a00::", False),
    ],
)
def test_membership(ip: str, trusted: bool) -> None:
    trust = table("10.0.0.0/8", "10.1.0.0/16", "192.0.2.5", "192.0.2.7", "2001:db8:aaaa::/48")
    assert trust.trusts(ip_address(ip)) is trusted


def test_networks_with_one_prefix_length_share_a_look_up() -> None:
    trust = table(*(f"192.0.2.{n}" for n in range(256)), "10.0.0.0/8")
    assert [bits for bits, _ in trust.v4] == [0, 24]


def test_a_mapped_network_is_read_as_ipv4_and_a_wider_one_is_not() -> None:
    assert table("::ffff:10.0.0.0/104").trusts(ip_address("10.9.9.9"))
    assert not table("::ffff:10.0.0.0/104").trusts(ip_address("11.9.9.9"))
    assert table("::ffff:0:0/96").trusts(ip_address("11.9.9.9"))
    assert not table("::/0").trusts(ip_address("11.9.9.9"))
    assert table("::/0").trusts(ip_address("2001:db8::1"))
    assert TrustTable.of(TrustConfig(proxies=(IPv4Network("0.0.0.0/0"), IPv6Network("::/0")))).trusts(
        ip_address("11.9.9.9")
    )


def test_a_unix_peer_is_trusted_only_by_an_explicit_word() -> None:
    assert not table("0.0.0.0/0", "::/0").trusts(None)
    assert not table(hops=2).trusts(None)
    assert table(unix=True).trusts(None)
    assert table(all=True).trusts(None)


def test_with_a_hop_count_every_peer_with_an_address_is_a_proxy() -> None:
    assert table(hops=1).trusts(ip_address("203.0.113.1"))
    assert table(all=True).trusts(ip_address("203.0.113.1"))


# --- the peer ------------------------------------------------------------------------------------


def test_an_untrusted_peer_is_the_client_whatever_it_says() -> None:
    answer = found(TRUST, "203.0.113.7", "6.6.6.6", "10.0.0.1")
    assert answer == ClientAddress(
        ip_address("203.0.113.7"),
        AddressSource.PEER,
        False,
        (),
        (Hop("203.0.113.7", address.UNTRUSTED_PEER),),
    )


def test_a_trusted_peer_that_names_nobody_is_the_client() -> None:
    answer = found(TRUST, "10.0.0.1")
    assert (answer.ip, answer.source, answer.peer_trusted) == (
        ip_address("10.0.0.1"),
        AddressSource.PEER,
        True,
    )
    assert [hop.verdict for hop in answer.trail] == [address.TRUSTED_PEER, address.NO_HOP]


def test_a_peer_on_a_dual_stack_socket_is_shown_and_matched_as_ipv4() -> None:
    assert found(TRUST, "::ffff:203.0.113.7").ip == ip_address("203.0.113.7")
    assert found(TRUST, "::ffff:10.0.0.1", "203.0.113.7").ip == ip_address("203.0.113.7")


def test_a_unix_peer_has_no_address() -> None:
    answer = found(TRUST, None, "6.6.6.6")
    assert (answer.ip, answer.source, answer.peer_trusted) == (None, AddressSource.UNIX, False)
    assert answer.trail == (Hop("unix", address.UNTRUSTED_PEER),)
    trusted = found(table("10.0.0.0/8", unix=True), None, "6.6.6.6, 203.0.113.7, 10.0.0.1")
    assert (trusted.ip, trusted.source) == (ip_address("203.0.113.7"), AddressSource.X_FORWARDED_FOR)
    assert trusted.trusted_chain == (ip_address("10.0.0.1"),)
    silent = found(table(unix=True), None)
    assert (silent.ip, silent.source, silent.peer_trusted) == (None, AddressSource.UNIX, True)


@pytest.mark.parametrize("socket_ip", ["10.0.0.1", "203.0.113.200", None])
def test_a_proxy_header_replaces_the_peer(socket_ip: str | None) -> None:
    fields = ((b"X-Forwarded-For", b"198.51.100.4"),)

    def prefaced(source: str) -> Peer:
        ip = None if socket_ip is None else ip_address(socket_ip)
        return Peer(ip, 1, preface=Preface(ip_address(source), 2))

    direct = client_address(prefaced("::ffff:203.0.113.7"), fields, TRUST)
    assert (direct.ip, direct.source) == (ip_address("203.0.113.7"), AddressSource.PROXY_PROTOCOL)
    assert not direct.peer_trusted
    through = client_address(prefaced("10.0.0.9"), fields, TRUST)
    assert (through.ip, through.source) == (ip_address("198.51.100.4"), AddressSource.X_FORWARDED_FOR)
    assert peer_address(prefaced("10.0.0.9")) == ip_address("10.0.0.9")


# --- the walk ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "client", "chain"),
    [
        (["203.0.113.7"], "203.0.113.7", []),
        (["6.6.6.6, 203.0.113.7"], "203.0.113.7", []),
        (["203.0.113.7, 10.0.0.9"], "203.0.113.7", ["10.0.0.9"]),
        (["6.6.6.6, 203.0.113.7, 10.0.0.8, 10.0.0.9"], "203.0.113.7", ["10.0.0.8", "10.0.0.9"]),
        # A second line continues the list (HAProxy adds lines, not elements).
        (["203.0.113.7", "10.0.0.9"], "203.0.113.7", ["10.0.0.9"]),
        (["6.6.6.6", "203.0.113.7,10.0.0.8", "10.0.0.9"], "203.0.113.7", ["10.0.0.8", "10.0.0.9"]),
        (["6.6.6.6", "203.0.113.7"], "203.0.113.7", []),
        # Ports, brackets, mapped addresses, both families.
        (["203.0.113.7:4711, 10.0.0.9:80"], "203.0.113.7", ["10.0.0.9"]),
        (["[2001:db8::7]:443, [2001:db8:aaaa::1]:80"], "2001:db8::7", ["2001:db8:aaaa::1"]),
        (["203.0.113.7, ::ffff:10.0.0.9"], "203.0.113.7", ["10.0.0.9"]),
        (["::ffff:203.0.113.7"], "203.0.113.7", []),
        # All trusted: the leftmost.
        (["10.0.0.7, 10.0.0.8, 10.0.0.9"], "10.0.0.7", ["10.0.0.8", "10.0.0.9"]),
        # Garbage ends the walk at the last good hop.
        (["203.0.113.7, unknown, 10.0.0.8, 10.0.0.9"], "10.0.0.8", ["10.0.0.9"]),
        (["203.0.113.7, fe80::1%eth0, 10.0.0.9"], "10.0.0.9", []),
        (["203.0.113.7, 10.0.0.010, 10.0.0.9"], "10.0.0.9", []),
        (["203.0.113.7\x0010.0.0.8, 10.0.0.9"], "10.0.0.9", []),
        (["unknown, 203.0.113.7"], "203.0.113.7", []),
        # Empty elements and lines are not counted.
        (["203.0.113.7,,10.0.0.9"], "203.0.113.7", ["10.0.0.9"]),
        (["203.0.113.7, \t , 10.0.0.9, ,"], "203.0.113.7", ["10.0.0.9"]),
        ([",203.0.113.7"], "203.0.113.7", []),
        ([",,10.0.0.9"], "10.0.0.9", []),
        (["203.0.113.7", "", " ", "10.0.0.9"], "203.0.113.7", ["10.0.0.9"]),
    ],
)
def test_the_walk_from_the_right(lines: list[str], client: str, chain: list[str]) -> None:
    answer = found(TRUST, "10.0.0.1", *lines)
    assert answer.ip == ip_address(client)
    assert answer.source is AddressSource.X_FORWARDED_FOR
    assert answer.peer_trusted
    assert answer.trusted_chain == tuple(map(ip_address, chain))


@pytest.mark.parametrize(
    "lines", [["unknown"], ["203.0.113.7, garbage"], [""], [",, ,"], ["203.0.113.7", "?"]]
)
def test_a_chain_without_a_good_hop_gives_the_peer(lines: list[str]) -> None:
    answer = found(TRUST, "10.0.0.1", *lines)
    assert (answer.ip, answer.source) == (ip_address("10.0.0.1"), AddressSource.PEER)
    assert answer.trusted_chain == ()


def test_the_name_is_found_in_any_case_and_not_in_other_spellings() -> None:
    assert found(TRUST, "10.0.0.1", "203.0.113.7", name="x-FORWARDED-for").ip == ip_address("203.0.113.7")
    for name in ("X_Forwarded_For", "X.Forwarded.For", "X-Forwarded-For-", "X-Real-IP"):
        assert found(TRUST, "10.0.0.1", "203.0.113.7", name=name).ip == ip_address("10.0.0.1")


def test_trusting_everyone_takes_the_leftmost_that_parses_from_the_right() -> None:
    trust = table(all=True)
    assert found(trust, "198.51.100.1", "6.6.6.6, 203.0.113.7").ip == ip_address("6.6.6.6")
    assert found(trust, "198.51.100.1", "6.6.6.6, unknown, 203.0.113.7, 8.8.8.8").ip == ip_address(
        "203.0.113.7"
    )


def test_a_thousand_hops() -> None:
    hops = [f"10.1.{n // 256}.{n % 256}" for n in range(1000)]
    answer = found(TRUST, "10.0.0.1", ", ".join(["6.6.6.6", "203.0.113.7", *hops]))
    assert answer.ip == ip_address("203.0.113.7")
    assert answer.trusted_chain == tuple(map(ip_address, hops))
    assert len(answer.trail) == address.TRAIL_HOPS
    assert answer.trail[0].text == "10.0.0.1"
    assert answer.trail[30].text == hops[-30]
    assert answer.trail[-1] == Hop("203.0.113.7", address.CLIENT)


# --- the trail -----------------------------------------------------------------------------------


def test_the_trail_names_each_hop_nearest_first_with_the_reason() -> None:
    assert found(TRUST, "10.0.0.1", "6.6.6.6, 203.0.113.7:99, 10.0.0.9").trail == (
        Hop("10.0.0.1", address.TRUSTED_PEER),
        Hop("10.0.0.9", address.TRUSTED),
        Hop("203.0.113.7:99", address.CLIENT),
    )
    assert found(TRUST, "10.0.0.1", "6.6.6.6, unknown, 10.0.0.9").trail[1:] == (
        Hop("10.0.0.9", address.TRUSTED),
        Hop("unknown", address.NOT_AN_ADDRESS),
        Hop("10.0.0.9", address.LAST_GOOD),
    )
    assert found(TRUST, "10.0.0.1", "10.0.0.8, 10.0.0.9").trail[-1] == Hop("10.0.0.8", address.LEFTMOST)


def test_texts_in_the_trail_are_printable_and_short() -> None:
    trail = found(TRUST, "10.0.0.1", "\x1b[31m\xff\\\r").trail
    assert trail[1].text == r"\x1b[31m\xff\\\r"
    long = found(TRUST, "10.0.0.1", "x" * 60_000).trail
    assert long[1].text == "x" * address.TRAIL_TEXT + "..."


# --- a hop count ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hops", "lines", "client", "chain"),
    [
        (1, ["203.0.113.7"], "203.0.113.7", []),
        (1, ["6.6.6.6, 203.0.113.7"], "203.0.113.7", []),
        (2, ["203.0.113.7, 192.0.2.9"], "203.0.113.7", ["192.0.2.9"]),
        (2, ["6.6.6.6, 203.0.113.7", "192.0.2.9"], "203.0.113.7", ["192.0.2.9"]),
        (2, ["203.0.113.7,,192.0.2.9,"], "203.0.113.7", ["192.0.2.9"]),
        (3, ["6.6.6.6, 203.0.113.7, 192.0.2.8, 192.0.2.9"], "203.0.113.7", ["192.0.2.8", "192.0.2.9"]),
        # What stands left of the client may be anything.
        (1, ["unknown, 203.0.113.7"], "203.0.113.7", []),
    ],
)
def test_a_hop_count_takes_the_nth_element(
    hops: int, lines: list[str], client: str, chain: list[str]
) -> None:
    answer = found(table(hops=hops), "198.51.100.1", *lines)
    assert (answer.ip, answer.source) == (ip_address(client), AddressSource.X_FORWARDED_FOR)
    assert answer.trusted_chain == tuple(map(ip_address, chain))
    assert answer.trail[-1].verdict == address.COUNTED


@pytest.mark.parametrize("lines", [[], ["203.0.113.7"], ["203.0.113.7, unknown"], ["unknown, 203.0.113.7"]])
def test_a_chain_shorter_than_the_hop_count_gives_the_peer(lines: list[str]) -> None:
    answer = found(table(hops=2), "198.51.100.1", *lines)
    assert (answer.ip, answer.source) == (ip_address("198.51.100.1"), AddressSource.PEER)
    assert answer.trusted_chain == ()
    assert answer.trail[-1].verdict == address.TOO_SHORT


def test_the_hop_count_replaces_list_and_everyone() -> None:
    trust = table("0.0.0.0/0", all=True, hops=1)
    assert found(trust, "198.51.100.1", "6.6.6.6, 203.0.113.7").ip == ip_address("203.0.113.7")


# --- a named header ------------------------------------------------------------------------------

CLOUDFLARE = table("10.0.0.0/8", client_header="CF-Connecting-IP")


def named(peer_ip: str, *fields: tuple[bytes, bytes]) -> ClientAddress:
    return client_address(peer(peer_ip), fields, CLOUDFLARE)


def test_a_trusted_peers_client_header_wins_over_the_chain() -> None:
    answer = named("10.0.0.1", (b"X-Forwarded-For", b"198.51.100.4"), (b"cf-connecting-ip", b"2001:DB8::7"))
    assert (answer.ip, answer.source) == (ip_address("2001:db8::7"), AddressSource.HEADER)
    assert answer.trusted_chain == ()
    assert answer.trail == (Hop("10.0.0.1", address.TRUSTED_PEER), Hop("2001:DB8::7", address.NAMED))


@pytest.mark.parametrize(
    "values", [[b"unknown"], [b""], [b"6.6.6.6, 203.0.113.7"], [b"6.6.6.6", b"203.0.113.7"]]
)
def test_a_client_header_that_is_not_one_address_is_ignored(values: list[bytes]) -> None:
    lines = [(b"CF-Connecting-IP", value) for value in values]
    answer = named("10.0.0.1", *lines, (b"X-Forwarded-For", b"198.51.100.4"))
    assert (answer.ip, answer.source) == (ip_address("198.51.100.4"), AddressSource.X_FORWARDED_FOR)
    assert answer.trail[1].verdict == address.NOT_NAMED


def test_a_client_header_counts_neither_from_others_nor_when_it_is_absent() -> None:
    assert named("203.0.113.7", (b"CF-Connecting-IP", b"6.6.6.6")).ip == ip_address("203.0.113.7")
    assert named("10.0.0.1", (b"X-Forwarded-For", b"198.51.100.4")).ip == ip_address("198.51.100.4")


# --- Forwarded -----------------------------------------------------------------------------------

RFC7239 = table("10.0.0.0/8", "2001:db8:aaaa::/48", forwarded=True)


@pytest.mark.parametrize(
    ("lines", "client", "chain"),
    [
        (["for=203.0.113.7"], "203.0.113.7", []),
        (["For=203.0.113.7;proto=http;by=10.0.0.9"], "203.0.113.7", []),
        (["proto=https ; FOR=203.0.113.7 ;"], "203.0.113.7", []),
        (['for="203.0.113.7:4711"'], "203.0.113.7", []),
        (['for="[2001:db8::7]:443"'], "2001:db8::7", []),
        (['for="[2001:db8::7]", for="[2001:db8:aaaa::1]:80"'], "2001:db8::7", ["2001:db8:aaaa::1"]),
        (["for=6.6.6.6, for=203.0.113.7,, for=10.0.0.9"], "203.0.113.7", ["10.0.0.9"]),
        (["for=203.0.113.7", "for=10.0.0.9"], "203.0.113.7", ["10.0.0.9"]),
        (["for=unknown, for=10.0.0.9"], "10.0.0.9", []),
        (["for=_hidden, for=10.0.0.9"], "10.0.0.9", []),
        (["proto=https, for=10.0.0.9"], "10.0.0.9", []),
        (["203.0.113.7, for=10.0.0.9"], "10.0.0.9", []),
        (["for=203.0.113.7:80, for=10.0.0.9"], "10.0.0.9", []),
        (["for=6.6.6.6;for=203.0.113.7, for=10.0.0.9"], "10.0.0.9", []),
        # Separators and escapes inside quotes belong to the value.
        (['for=203.0.113.7;x="a,b;for=6.6.6.6,\\"", for=10.0.0.9;y="\\\\"'], "203.0.113.7", ["10.0.0.9"]),
        (['for="\\203.0.113\\.7"'], "203.0.113.7", []),
        # A quote that the client left open does not swallow what a proxy appended.
        (['for="6.6.6.6, for=203.0.113.7'], "203.0.113.7", []),
        (['for=6.6.6.6;x=", for=203.0.113.7;y="z"'], "203.0.113.7", []),
        (['for=6.6.6.6;x=", for=203.0.113.7;y=";\\\\"'], "203.0.113.7", []),
    ],
)
def test_forwarded(lines: list[str], client: str, chain: list[str]) -> None:
    answer = found(RFC7239, "10.0.0.1", *lines, name="Forwarded")
    assert (answer.ip, answer.source) == (ip_address(client), AddressSource.FORWARDED)
    assert answer.trusted_chain == tuple(map(ip_address, chain))


@pytest.mark.parametrize(
    "line", ["for=unknown", 'for="203.0.113.7', "proto=http", "", ",;,", "for=", "=", "for"]
)
def test_forwarded_that_names_nobody_gives_the_peer(line: str) -> None:
    assert found(RFC7239, "10.0.0.1", line, name="Forwarded").ip == ip_address("10.0.0.1")


def test_forwarded_is_read_only_when_asked_for_and_without_any_x_forwarded_for() -> None:
    assert found(TRUST, "10.0.0.1", "for=203.0.113.7", name="Forwarded").ip == ip_address("10.0.0.1")
    for value in (b"198.51.100.4", b"", b"unknown"):
        fields = ((b"Forwarded", b"for=203.0.113.7"), (b"X-Forwarded-For", value))
        answer = client_address(peer("10.0.0.1"), fields, RFC7239)
        assert answer.ip == (parse_address(value) or ip_address("10.0.0.1"))


def test_a_hop_count_counts_elements_of_forwarded() -> None:
    trust = table(hops=2, forwarded=True)
    answer = found(trust, "198.51.100.1", "for=6.6.6.6, for=203.0.113.7, for=192.0.2.1", name="Forwarded")
    assert answer.ip == ip_address("203.0.113.7")


@pytest.mark.parametrize(
    "filler", [b",", b'"', b"\\", b'\\"', b";", b'",', b"a=b;", b'a="', b" ", b"for=1.1.1.1,"]
)
@pytest.mark.parametrize("name", [b"X-Forwarded-For", b"Forwarded", b"CF-Connecting-IP"])
def test_a_line_of_a_megabyte_ends_at_once(filler: bytes, name: bytes) -> None:
    trust = table("10.0.0.0/8", forwarded=True, client_header="CF-Connecting-IP")
    line = filler * (1_000_000 // len(filler))
    assert client_address(peer("10.0.0.1"), ((name, line),), trust).peer_trusted


# --- what single fronts do ------------------------------------------------------------------------

CDN = FrontConfig(
    (ip_network("192.0.2.0/24"), ip_network("2001:db8:cd::/48")), client_header="CF-Connecting-IP"
)
GOOGLE = FrontConfig((ip_network("35.191.0.0/16"),), own_address=True)


def fronted(*fronts: FrontConfig, **rest: object) -> TrustTable:
    proxies = tuple(network for front in fronts for network in front.networks)
    own = (ip_network("10.0.0.0/8"),)
    return TrustTable.of(TrustConfig(proxies=proxies + own, **rest), fronts)  # type: ignore[arg-type]


def client(trust: TrustTable, peer_ip: str, *fields: tuple[str, str]) -> ClientAddress:
    return client_address(peer(peer_ip), tuple((n.encode(), v.encode()) for n, v in fields), trust)


@pytest.mark.parametrize(
    ("peer_ip", "who", "source"),
    [
        ("192.0.2.9", "203.0.113.7", AddressSource.HEADER),
        ("2001:db8:cd::9", "203.0.113.7", AddressSource.HEADER),
        ("::ffff:192.0.2.9", "203.0.113.7", AddressSource.HEADER),
        # Trusted, but no CDN: whatever the header says came from further away.
        ("10.0.0.2", "198.51.100.1", AddressSource.X_FORWARDED_FOR),
        ("203.0.113.99", "203.0.113.99", AddressSource.PEER),
    ],
)
def test_a_client_header_is_believed_from_its_own_networks_only(
    peer_ip: str, who: str, source: AddressSource
) -> None:
    found = client(
        fronted(CDN),
        peer_ip,
        ("CF-Connecting-IP", "203.0.113.7"),
        ("X-Forwarded-For", "6.6.6.6, 198.51.100.1"),
    )
    assert (str(found.ip), found.source) == (who, source)


def test_a_front_behind_another_is_walked_over() -> None:
    chain = ("X-Forwarded-For", "6.6.6.6, 203.0.113.7, 192.0.2.9")
    found = client(fronted(CDN), "10.0.0.2", ("CF-Connecting-IP", "6.6.6.6"), chain)
    assert (str(found.ip), found.source) == ("203.0.113.7", AddressSource.X_FORWARDED_FOR)


def test_the_header_of_everybody_holds_where_a_front_has_none() -> None:
    trust = fronted(CDN, GOOGLE, client_header="X-Real-IP")
    fields = (("CF-Connecting-IP", "203.0.113.1"), ("X-Real-IP", "203.0.113.2"))
    assert str(client(trust, "192.0.2.1", *fields).ip) == "203.0.113.1"
    assert str(client(trust, "35.191.0.1", *fields).ip) == "203.0.113.2"
    assert str(client(trust, "10.0.0.1", *fields).ip) == "203.0.113.2"


@pytest.mark.parametrize(
    ("chain", "who", "source"),
    [
        (["203.0.113.7,34.1.2.3"], "203.0.113.7", AddressSource.X_FORWARDED_FOR),
        # What the client sent stands left of what Google appends, and is not read.
        (["6.6.6.6,203.0.113.7,34.1.2.3"], "203.0.113.7", AddressSource.X_FORWARDED_FOR),
        (["6.6.6.6", "203.0.113.7, 34.1.2.3"], "203.0.113.7", AddressSource.X_FORWARDED_FOR),
        (["2001:db8::7,2600:1901::1"], "2001:db8::7", AddressSource.X_FORWARDED_FOR),
        (["34.1.2.3"], "35.191.0.1", AddressSource.PEER),
        ([], "35.191.0.1", AddressSource.PEER),
    ],
)
def test_a_balancer_that_appends_its_own_address_too(
    chain: list[str], who: str, source: AddressSource
) -> None:
    found = client(fronted(GOOGLE), "35.191.0.1", *(("X-Forwarded-For", line) for line in chain))
    assert (str(found.ip), found.source) == (who, source)
    if chain:
        assert found.trail[1] == Hop(chain[-1].rpartition(",")[2].strip(), address.OWN_ADDRESS)


def test_only_that_balancer_is_passed_over() -> None:
    found = client(fronted(GOOGLE), "10.0.0.2", ("X-Forwarded-For", "203.0.113.7, 34.1.2.3"))
    assert str(found.ip) == "34.1.2.3"
    forwarded = client(fronted(GOOGLE, forwarded=True), "35.191.0.1", ("Forwarded", "for=203.0.113.7"))
    assert str(forwarded.ip) == "203.0.113.7"


# --- packed addresses ----------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["8.8.8.8", "203.0.112.255", "2a00::1", "2001:4860::8888"])
def test_a_client_can_have_a_public_address(text: str) -> None:
    assert is_public(ip_address(text))


@pytest.mark.parametrize(
    "text", ["203.0.113.1", "10.1.2.3", "255.255.255.255", "2001:db8::1", "fd00::1", "::1"]
)
def test_a_client_cannot_have_a_special_one(text: str) -> None:
    assert not is_public(ip_address(text))


@pytest.mark.parametrize(
    "text", ["192.0.0.8", "192.0.0.9", "192.0.1.1", "2001:20::1", "2001:1::1", "2001:2::1"]
)
def test_where_the_networks_are_small_ipaddress_decides(text: str) -> None:
    ip = ip_address(text)
    assert is_public(ip) is is_public_packed(ip.packed) is ip.is_global


def test_nobody_is_not_public() -> None:
    assert not is_public(None)


@pytest.mark.parametrize(
    "text", ["203.0.113.7", "2001:db8::1", "::", "::1", "::102:304", "1:0:0:2::3", "2001:0:1:1:1:1:1:1"]
)
def test_text_of_a_packed_address(text: str) -> None:
    assert packed_text(ip_address(text).packed) == text


def test_the_walk_without_its_reasons() -> None:
    walked = walk_listed([b"6.6.6.6", b"203.0.113.7, 10.0.0.2 ,, 10.0.0.1"], TRUST)
    assert [packed_text(packed) for packed in walked] == ["10.0.0.1", "10.0.0.2", "203.0.113.7"]
    assert walk_listed([b"unknown"], TRUST) == walk_listed([], TRUST) == []
    assert [packed_text(packed) for packed in walk_listed([b"x, 10.0.0.1"], TRUST)] == ["10.0.0.1"]
