from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any

import pytest

from proxy.config.schema import ChainMode, ForwardingConfig, TrustConfig
from proxy.message import (
    CHUNKED,
    NO_BODY,
    UNTIL_CLOSE,
    AddressSource,
    ClientAddress,
    Framing,
    FramingKind,
    Peer,
    Preface,
    RequestHead,
    ResponseHead,
    field_values,
    first_value,
)
from proxy.rules import forwarding
from proxy.rules.address import TrustTable, client_address
from proxy.rules.claims import NO_CLAIMS, Claims, claims, effective_request_id
from proxy.rules.forwarding import (
    ForwardingTable,
    Kind,
    Outgoing,
    classify_request_name,
    classify_response_name,
    connection_options,
    forwarded_for,
    forwarded_for_walked,
    request_fields,
    response_fields,
    with_request_id,
)
from proxy.standin.client_ip import Gate, by_service

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.message import Field, Fields

CANDIDATE = "5d2c6e0a-0000-4000-8000-00000000000a"
THEIRS = "0193f2a1-7b3c-7def-8a90-1234567890ab"
PLAIN = ForwardingTable.of(ForwardingConfig())
APPEND = ForwardingTable.of(ForwardingConfig(chain=ChainMode.APPEND))
TRUST = TrustTable.of(TrustConfig(proxies=(ip_network("10.0.0.0/8"),), unix=True, forwarded=True))
CLIENT = Peer(ip_address("203.0.113.7"), 51234, local_port=8000)
PROXY = Peer(ip_address("10.0.0.1"), 40000, local_port=8000)


def length(number: int) -> Framing:
    return Framing(FramingKind.LENGTH, number)


def fields(*lines: str) -> Fields:
    pairs = (line.partition(":") for line in lines)
    return tuple((name.encode("latin-1"), value.strip(" ").encode("latin-1")) for name, _, value in pairs)


def head(
    *lines: str, host: str | None = "App.Example.COM", framing: Framing = NO_BODY, minor: int = 1
) -> RequestHead:
    host_line = () if host is None else (f"Host: {host}",)
    return RequestHead(
        b"POST", b"/e/", minor, fields(*host_line, *lines), None if host is None else host.encode(), framing
    )


def sent(
    *lines: str,
    peer: Peer = CLIENT,
    table: ForwardingTable = PLAIN,
    websocket: bool = False,
    allowed: Callable[[bytes], bool] = forwarding.any_host,
    **rest: Any,
) -> Outgoing:
    request = head(*lines, **rest)
    client = client_address(peer, request.fields, TRUST)
    upstream_host = request.host or b"upstream:8001"
    return request_fields(
        request, peer, client, upstream_host, CANDIDATE, table, websocket=websocket, allowed_host=allowed
    )


def values(outgoing: Outgoing, name: str) -> list[str]:
    return [value.decode("latin-1") for value in field_values(outgoing.fields, name.lower().encode())]


def value(outgoing: Outgoing, name: str) -> str:
    (only,) = values(outgoing, name)
    return only


# --- the whole head ------------------------------------------------------------------------------


def test_a_request_from_the_client_itself() -> None:
    outgoing = sent(
        "User-Agent: posthog-js/1.449",
        "accept: */*",
        "Connection: keep-alive, X-Hop",
        "content-length: 017",
        "X-Hop: for us only",
        "X-Forwarded-For: 6.6.6.6",
        "Accept: text/html",
        "x_forwarded_proto: https",
        "Expect: 100-continue",
        "my_name: 1",
        "Cookie: a=1",
        "Cookie: b=2",
        framing=length(17),
    )
    assert outgoing == Outgoing(
        fields(
            "Host: App.Example.COM",
            "User-Agent: posthog-js/1.449",
            "accept: */*",
            "content-length: 17",
            "Accept: text/html",
            "Cookie: a=1",
            "Cookie: b=2",
            "X-Forwarded-For: 203.0.113.7",
            "X-Forwarded-Proto: http",
            "X-Forwarded-Host: app.example.com",
            "X-Forwarded-Port: 8000",
            f"X-Request-Id: {CANDIDATE}",
        ),
        ("managed", "underscore_name"),
    )


def test_a_request_through_a_trusted_proxy() -> None:
    outgoing = sent(
        "X-Request-Id: " + THEIRS.upper(),
        "X-Forwarded-Proto: HTTPS",
        "X-Forwarded-For: 6.6.6.6, 203.0.113.7",
        "X-Forwarded-Port: 8443",
        "X-Forwarded-Host: PostHog.Example.com",
        "Accept: */*",
        peer=PROXY,
        framing=CHUNKED,
        table=ForwardingTable.of(ForwardingConfig(via=True)),
    )
    assert outgoing.fields == fields(
        "Host: App.Example.COM",
        "Accept: */*",
        "X-Forwarded-For: 203.0.113.7",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: posthog.example.com",
        "X-Forwarded-Port: 8443",
        f"X-Request-Id: {THEIRS}",
        "Via: 1.1 posthog-proxy",
        "Transfer-Encoding: chunked",
    )


def test_the_host_that_is_sent_is_the_one_given_and_the_clients_is_told_beside_it() -> None:
    request = head()
    client = client_address(CLIENT, request.fields, TRUST)
    outgoing = request_fields(request, CLIENT, client, b"us.i.posthog.com", CANDIDATE, PLAIN)
    assert outgoing.fields[0] == (b"Host", b"us.i.posthog.com")
    assert value(outgoing, "Host") == "us.i.posthog.com"
    assert value(outgoing, "X-Forwarded-Host") == "app.example.com"


def test_without_a_host_there_is_no_forwarded_host() -> None:
    outgoing = sent(host=None, minor=0)
    assert value(outgoing, "Host") == "upstream:8001"
    assert values(outgoing, "X-Forwarded-Host") == []
    assert value(outgoing, "X-Forwarded-Port") == "8000"


def test_via_is_added_to_the_ones_that_came_and_only_on_request() -> None:
    with_via = ForwardingTable.of(ForwardingConfig(via=True))
    assert values(sent("Via: 1.0 old", table=with_via, minor=0), "Via") == ["1.0 old", "1.0 posthog-proxy"]
    assert values(sent("Via: 1.0 old"), "Via") == ["1.0 old"]


# --- framing -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("framing", "lines", "lengths", "codings"),
    [
        (NO_BODY, [], [], []),
        (NO_BODY, ["Content-Length: 0"], ["0"], []),
        (length(5), ["Content-Length: 5"], ["5"], []),
        (length(5), ["Content-Length: 005"], ["5"], []),
        (length(5), [], ["5"], []),
        (CHUNKED, ["Transfer-Encoding: Chunked"], [], ["chunked"]),
        # The gate lets no such heads through; still the framing that was decided is the one that goes.
        (length(5), ["Content-Length: 5", "Content-Length: 5"], ["5"], []),
        (length(5), ["Content-Length: 5", "Transfer-Encoding: chunked"], ["5"], []),
        (CHUNKED, ["Content-Length: 5", "Transfer-Encoding: chunked"], [], ["chunked"]),
    ],
)
def test_framing_of_a_request_is_ours(
    framing: Framing, lines: list[str], lengths: list[str], codings: list[str]
) -> None:
    outgoing = sent(*lines, framing=framing)
    assert values(outgoing, "Content-Length") == lengths
    assert values(outgoing, "Transfer-Encoding") == codings


HANDSHAKE = (
    "Connection: keep-alive, Upgrade",
    "Upgrade: WebSocket",
    "Sec-WebSocket-Key: x",
    "Sec-WebSocket-Version: 13",
)


def test_an_upgrade_is_kept_only_where_it_was_allowed() -> None:
    kept = sent(*HANDSHAKE, websocket=True)
    assert kept.fields[-2:] == fields("Connection: Upgrade", "Upgrade: websocket")
    assert values(kept, "Connection") == ["Upgrade"]
    left_out = sent(*HANDSHAKE)
    assert values(left_out, "Connection") == values(left_out, "Upgrade") == []
    assert value(left_out, "Sec-WebSocket-Key") == "x"


def test_an_upgrade_to_http2_never_goes_on() -> None:
    outgoing = sent("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk")
    assert not {b"connection", b"upgrade", b"http2-settings"} & {name.lower() for name, _ in outgoing.fields}


# --- Connection ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "named", "ignored"),
    [
        ([b"close"], {b"close"}, False),
        ([b"Keep-Alive, X-A ,, x-b\t"], {b"keep-alive", b"x-a", b"x-b", b""}, False),
        ([b"x-a", b"x-b"], {b"x-a", b"x-b"}, False),
        ([b"Host"], set(), True),
        ([b"Content-Length, content-type, AUTHORIZATION, cookie, x-a"], {b"x-a"}, True),
        ([b"X-Forwarded-For"], set(), True),
        ([b"x_forwarded_proto"], set(), True),
        ([b"X-PostHog-Client-IP-Signature"], set(), True),
        ([], set(), False),
    ],
)
def test_what_connection_may_name(lines: list[bytes], named: set[bytes], ignored: bool) -> None:
    assert connection_options(lines) == (frozenset(named), ignored)


@pytest.mark.parametrize(
    "name",
    [
        "X-Forwarded-For",
        "X-Forwarded-Proto",
        "X-Forwarded-Host",
        "X-Forwarded-Port",
        "X-Request-Id",
        "Host",
        "Via",
    ],
)
@pytest.mark.parametrize("peer", [CLIENT, PROXY])
def test_connection_cannot_delete_what_we_say(name: str, peer: Peer) -> None:
    """Traefik CVE-2021-32813 and CVE-2024-45410, Apache CVE-2022-31813."""
    table = ForwardingTable.of(ForwardingConfig(via=True))
    lines = ("X-Forwarded-For: 203.0.113.7", "X-Forwarded-Proto: https")
    told = sent(*lines, f"Connection: {name}", peer=peer, table=table)
    assert told.fields == sent(*lines, peer=peer, table=table).fields
    assert ("connection_token" in told.dropped) is (name != "Via")


@pytest.mark.parametrize("name", ["Content-Length", "Content-Type", "Authorization", "Cookie"])
def test_connection_cannot_delete_what_the_request_means(name: str) -> None:
    outgoing = sent(f"{name}: 7", f"Connection: close, {name}", framing=length(7))
    assert value(outgoing, name) == "7"
    assert outgoing.dropped == ("connection_token",)


def test_each_word_is_told_once() -> None:
    outgoing = sent("a_b: 1", "c_d: 2", "Forwarded: for=1", "X-Real-IP: 1", "Connection: host, cookie")
    assert outgoing.dropped == ("connection_token", "underscore_name", "managed")
    assert set(outgoing.dropped) == set(forwarding.DROPPED_WORDS)


# --- names ---------------------------------------------------------------------------------------

ALL_HOP_BY_HOP = [
    "Keep-Alive",
    "Proxy-Connection",
    "TE",
    "Trailer",
    "Transfer-Encoding",
    "Upgrade",
    "Proxy-Authenticate",
    "Proxy-Authorization",
    "HTTP2-Settings",
]

ALL_MANAGED = [
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "X-Forwarded-Port",
    "X-Forwarded-Prefix",
    "X-Forwarded-Server",
    "X-Forwarded-Scheme",
    "X-Forwarded-Uri",
    "X-Forwarded-Method",
    "X-Forwarded-Tls-Client-Cert",
    "X-Forwarded-Tls-Client-Cert-Info",
    "X-Forwarded-Ssl",
    "X-Scheme",
    "X-Url-Scheme",
    "Front-End-Https",
    "Forwarded",
    "X-Real-IP",
    "X-Client-IP",
    "X-Cluster-Client-IP",
    "True-Client-IP",
    "CF-Connecting-IP",
    "CF-Connecting-IPv6",
    "CF-Pseudo-IPv4",
    "Fly-Client-IP",
    "Fastly-Client-IP",
    "CloudFront-Viewer-Address",
    "X-Envoy-External-Address",
    "X-Original-Forwarded-For",
    "X-Appengine-User-IP",
    "X-PostHog-Client-IP",
    "X-PostHog-Client-IP-Timestamp",
    "X-PostHog-Client-IP-Signature",
    "X-Request-Start",
    "X-Original-Endpoint",
    "X-Original-URL",
    "X-Rewrite-URL",
    "X-HTTP-Method-Override",
    "X-Request-Id",
    "X-Forwarded-Protocol",
]


@pytest.mark.parametrize("name", ALL_MANAGED)
@pytest.mark.parametrize("peer", [CLIENT, PROXY])
def test_a_managed_header_goes_out_in_every_spelling_and_from_every_peer(name: str, peer: Peer) -> None:
    generous = ForwardingTable.of(
        ForwardingConfig(allow_names=(name.replace("-", "_"), name.replace("-", ".")))
    )
    for spelling in {
        name,
        name.upper(),
        name.replace("-", "_"),
        name.replace("-", "."),
        name.replace("-", "_", 1),
    }:
        assert classify_request_name(spelling.lower().encode(), generous) is Kind.MANAGED
        outgoing = sent(f"{spelling}: not, so", peer=peer, table=generous)
        assert b"not, so" not in dict(outgoing.fields).values()
        assert outgoing.dropped == ("managed",)


@pytest.mark.parametrize("name", ["Connection", *ALL_HOP_BY_HOP])
def test_a_hop_by_hop_header_goes_out_in_both_directions(name: str) -> None:
    outgoing = sent(f"{name}: x", f"{name.lower()}: y")
    assert values(outgoing, name) == []
    assert values(Outgoing(answer(f"{name}: x", f"{name.upper()}: y"), ()), name) == []


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (b"accept", Kind.PASS),
        (b"posthog-sdk-info", Kind.PASS),
        (b"x-forwarded-user", Kind.PASS),
        (b"via", Kind.PASS),
        (b"sec-websocket-key", Kind.PASS),
        (b"host", Kind.HOST),
        (b"content-length", Kind.LENGTH),
        (b"connection", Kind.CONNECTION),
        (b"expect", Kind.EXPECT),
        (b"te", Kind.HOP_BY_HOP),
        (b"x-real-ip", Kind.MANAGED),
        (b"my_header", Kind.UNDERSCORE),
        (b"my.header", Kind.UNDERSCORE),
        (b"content_length", Kind.UNDERSCORE),
        (b"transfer_encoding", Kind.UNDERSCORE),
        (b"keep.alive", Kind.UNDERSCORE),
        (b"", Kind.PASS),
    ],
)
def test_kinds_of_request_names(name: bytes, kind: Kind) -> None:
    assert classify_request_name(name, PLAIN) is kind


def test_allowed_names_pass_unless_they_spell_something_that_has_a_meaning() -> None:
    table = ForwardingTable.of(
        ForwardingConfig(allow_names=("My_Header", "a.b", "Content_Length", "Transfer_Encoding", "X_Real_IP"))
    )
    assert classify_request_name(b"my_header", table) is Kind.PASS
    assert classify_request_name(b"a.b", table) is Kind.PASS
    assert classify_request_name(b"a_b", table) is Kind.UNDERSCORE
    assert classify_request_name(b"content_length", table) is Kind.UNDERSCORE
    assert classify_request_name(b"transfer_encoding", table) is Kind.UNDERSCORE
    assert classify_request_name(b"x_real_ip", table) is Kind.MANAGED
    assert value(sent("my_HEADER: 1", table=table), "my_header") == "1"


def test_kinds_of_response_names() -> None:
    assert classify_response_name(b"content-length") is Kind.LENGTH
    assert classify_response_name(b"connection") is Kind.CONNECTION
    assert classify_response_name(b"upgrade") is Kind.HOP_BY_HOP
    for name in (
        b"location",
        b"set-cookie",
        b"x_under_score",
        b"x.dot",
        b"x-request-id",
        b"host",
        b"forwarded",
    ):
        assert classify_response_name(name) is Kind.PASS


def test_every_managed_group_gives_its_reason() -> None:
    assert all(reason and names for reason, names in forwarding.MANAGED_GROUPS.items())
    names = [name for group in forwarding.MANAGED_GROUPS.values() for name in group]
    assert len(names) == len(set(names))
    assert all(name == name.lower() for name in names)


# --- X-Forwarded-For -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("peer", "lines", "collapsed", "appended"),
    [
        (CLIENT, [], "203.0.113.7", "203.0.113.7"),
        (CLIENT, ["6.6.6.6"], "203.0.113.7", "203.0.113.7"),
        (PROXY, [], "10.0.0.1", "10.0.0.1"),
        (PROXY, ["unknown"], "10.0.0.1", "10.0.0.1"),
        (PROXY, ["198.51.100.4:80"], "198.51.100.4", "198.51.100.4, 10.0.0.1"),
        (
            PROXY,
            ["6.6.6.6, 198.51.100.4", "10.0.0.8, 10.0.0.9"],
            "198.51.100.4",
            "198.51.100.4, 10.0.0.8, 10.0.0.9, 10.0.0.1",
        ),
        (PROXY, ["[::ffff:198.51.100.4]:1"], "198.51.100.4", "198.51.100.4, 10.0.0.1"),
        (PROXY, ["2001:DB8::0:1"], "2001:db8::1", "2001:db8::1, 10.0.0.1"),
        (Peer(ip_address("::ffff:10.0.0.1")), ["198.51.100.4"], "198.51.100.4", "198.51.100.4, 10.0.0.1"),
        (Peer(None), ["198.51.100.4, 10.0.0.9"], "198.51.100.4", "198.51.100.4, 10.0.0.9"),
        (
            Peer(None, preface=Preface(ip_address("10.0.0.3"), 1)),
            ["198.51.100.4"],
            "198.51.100.4",
            "198.51.100.4, 10.0.0.3",
        ),
        (
            Peer(ip_address("10.0.0.1"), preface=Preface(ip_address("203.0.113.9"), 1)),
            ["6.6.6.6"],
            "203.0.113.9",
            "203.0.113.9",
        ),
    ],
)
def test_forwarded_for(peer: Peer, lines: list[str], collapsed: str, appended: str) -> None:
    came = [f"X-Forwarded-For: {line}" for line in lines]
    assert value(sent(*came, peer=peer), "X-Forwarded-For") == collapsed
    assert value(sent(*came, peer=peer, table=APPEND), "X-Forwarded-For") == appended


@pytest.mark.parametrize("table", [PLAIN, APPEND])
def test_a_walked_chain_is_passed_on_like_the_address_that_it_led_to(table: ForwardingTable) -> None:
    chain = [ip_address(text) for text in ("198.51.100.4", "10.0.0.8", "10.0.0.9")]
    client = ClientAddress(chain[0], AddressSource.X_FORWARDED_FOR, True, tuple(chain[1:]))
    walked = [ip.packed for ip in reversed(chain)]
    assert forwarded_for_walked(PROXY, walked, table) == forwarded_for(PROXY, client, table)


def test_the_peer_follows_a_client_that_a_header_named() -> None:
    client = ClientAddress(ip_address("198.51.100.4"), AddressSource.HEADER, True)
    assert forwarded_for(PROXY, client, APPEND) == b"198.51.100.4, 10.0.0.1"


@pytest.mark.parametrize("table", [PLAIN, APPEND])
def test_a_unix_peer_that_is_not_trusted_leaves_no_address(table: ForwardingTable) -> None:
    client = ClientAddress(None, AddressSource.UNIX, False)
    request = head("X-Forwarded-For: 6.6.6.6", "X-Forwarded-Proto: https")
    outgoing = request_fields(request, Peer(None), client, b"h", CANDIDATE, table)
    assert values(outgoing, "X-Forwarded-For") == []
    assert value(outgoing, "X-Forwarded-Proto") == "http"
    assert value(outgoing, "X-Forwarded-Port") == "80"
    assert forwarded_for(Peer(None), client, table) == b""


@pytest.mark.parametrize(
    ("chain", "came", "expected"),
    [
        (ChainMode.COLLAPSE, "203.0.113.77", "203.0.113.0"),
        (ChainMode.COLLAPSE, "2001:db8:1:2::3", "2001:db8:1::"),
        (ChainMode.APPEND, "203.0.113.77, 10.0.0.9", "203.0.113.0, 10.0.0.9, 10.0.0.1"),
    ],
)
def test_anonymised(chain: ChainMode, came: str, expected: str) -> None:
    table = ForwardingTable.of(ForwardingConfig(chain=chain, anonymise=True))
    assert value(sent(f"X-Forwarded-For: {came}", peer=PROXY, table=table), "X-Forwarded-For") == expected


# --- proto, host, port, id -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "tls", "trusted", "expected"),
    [
        ([], False, False, "http"),
        ([], True, False, "https"),
        (["https"], False, False, "http"),
        (["http"], True, False, "https"),
        ([], False, True, "http"),
        ([], True, True, "https"),
        (["https"], False, True, "https"),
        (["HTTPS"], False, True, "https"),
        (["wss"], False, True, "https"),
        (["Ws"], False, True, "http"),
        # The trusted peer speaks of the client, our TLS only of the last hop.
        (["http"], True, True, "http"),
        (["http, https"], False, True, "https"),
        (["https", "http"], False, True, "http"),
        (["ftp"], True, True, "https"),
        (["ftp"], False, True, "http"),
        (["https,"], False, True, "http"),
        (["https http"], False, True, "http"),
    ],
)
def test_proto(lines: list[str], tls: bool, trusted: bool, expected: str) -> None:
    peer = Peer((PROXY if trusted else CLIENT).ip, tls=tls)
    assert (
        value(sent(*(f"X-Forwarded-Proto: {line}" for line in lines), peer=peer), "X-Forwarded-Proto")
        == expected
    )


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["Other.Example.com"], "other.example.com"),
        (["other.example.com:8443"], "other.example.com:8443"),
        (["[2001:DB8::1]:80"], "[2001:db8::1]:80"),
        (["app_1"], "app_1"),
        ([""], "app.example.com"),
        (["a.example, b.example"], "app.example.com"),
        (["a.example", "b.example"], "app.example.com"),
        (["user@a.example"], "app.example.com"),
        (["a.example/path"], "app.example.com"),
        (["a.example:0"], "app.example.com"),
        (["a.example:65536"], "app.example.com"),
        (["a.example:"], "app.example.com"),
        (["a example"], "app.example.com"),
        (["\xe9.example"], "app.example.com"),
        (["a" * 300], "app.example.com"),
    ],
)
def test_a_trusted_peers_host(lines: list[str], expected: str) -> None:
    came = [f"X-Forwarded-Host: {line}" for line in lines]
    assert value(sent(*came, peer=PROXY), "X-Forwarded-Host") == expected
    assert value(sent(*came, peer=CLIENT), "X-Forwarded-Host") == "app.example.com"


def test_a_trusted_peers_host_must_be_allowed_and_is_judged_in_lower_case_with_its_port() -> None:
    asked: list[bytes] = []

    def nothing(host: bytes) -> bool:
        asked.append(host)
        return False

    outgoing = sent("X-Forwarded-Host: Evil.Example:81", peer=PROXY, allowed=nothing)
    assert value(outgoing, "X-Forwarded-Host") == "app.example.com"
    assert asked == [b"evil.example:81"]


@pytest.mark.parametrize(
    ("lines", "peer", "host", "expected"),
    [
        (["X-Forwarded-Port: 8443"], PROXY, "a", "8443"),
        (["X-Forwarded-Port: 8443"], CLIENT, "a", "8000"),
        (["X-Forwarded-Port: 65536"], PROXY, "a:81", "81"),
        (["X-Forwarded-Port: 0"], PROXY, "a", "8000"),
        (["X-Forwarded-Port: 0443"], PROXY, "a", "8000"),
        (["X-Forwarded-Port: 1, 2"], PROXY, "a", "8000"),
        (["X-Forwarded-Port: 1", "X-Forwarded-Port: 2"], PROXY, "a", "8000"),
        (["X-Forwarded-Port: " + "1" * 5000], PROXY, "a", "8000"),
        ([], CLIENT, "a.example:8443", "8443"),
        ([], CLIENT, "[::1]:8443", "8443"),
        ([], CLIENT, "[::1]", "8000"),
        ([], CLIENT, "a:0", "8000"),
        ([], CLIENT, "a:99999", "8000"),
        (["X-Forwarded-Host: b:82"], PROXY, "a:81", "82"),
        (["X-Forwarded-Proto: https"], PROXY, "a", "443"),
        (["X-Forwarded-Proto: http"], PROXY, "a", "80"),
        (["X-Forwarded-Proto: https"], CLIENT, "a", "8000"),
        ([], Peer(CLIENT.ip, tls=True, local_port=8443), "a", "443"),
        ([], PROXY, "a", "8000"),
        ([], Peer(CLIENT.ip), "a", "80"),
        (["X-Forwarded-Proto: http"], Peer(PROXY.ip, tls=True, local_port=8443), "a", "80"),
    ],
)
def test_port(lines: list[str], peer: Peer, host: str, expected: str) -> None:
    assert value(sent(*lines, peer=peer, host=host), "X-Forwarded-Port") == expected


@pytest.mark.parametrize(
    ("peer", "lines", "expected"),
    [
        (PROXY, [THEIRS], THEIRS),
        (PROXY, [THEIRS.upper()], THEIRS),
        (PROXY, [], CANDIDATE),
        (PROXY, [THEIRS, THEIRS], CANDIDATE),
        (PROXY, [THEIRS.replace("-", "")], CANDIDATE),
        (PROXY, [f"{{{THEIRS}}}"], CANDIDATE),
        (PROXY, [THEIRS + "a"], CANDIDATE),
        (PROXY, ["g" + THEIRS[1:]], CANDIDATE),
        (CLIENT, [THEIRS], CANDIDATE),
    ],
)
def test_request_id(peer: Peer, lines: list[str], expected: str) -> None:
    came = [f"X-Request-Id: {line}" for line in lines]
    assert value(sent(*came, peer=peer), "X-Request-Id") == expected
    request = head(*came)
    assert effective_request_id(request, client_address(peer, request.fields, TRUST), CANDIDATE) == expected


def test_forwarded_stands_in_for_absent_lines_where_the_address_came_from_it() -> None:
    line = 'Forwarded: for=6.6.6.6;proto=http, for=203.0.113.7;proto=https;host="A.example:8443"'
    outgoing = sent(line, peer=PROXY)
    assert value(outgoing, "X-Forwarded-For") == "203.0.113.7"
    assert value(outgoing, "X-Forwarded-Proto") == "https"
    assert value(outgoing, "X-Forwarded-Host") == "a.example:8443"
    assert value(outgoing, "X-Forwarded-Port") == "8443"
    both = sent(line, "X-Forwarded-Proto: http", peer=PROXY)
    assert value(both, "X-Forwarded-Proto") == "http"
    chain = sent(line, "X-Forwarded-For: 203.0.113.7", peer=PROXY)
    assert value(chain, "X-Forwarded-Proto") == "http"
    assert value(sent(line, peer=CLIENT), "X-Forwarded-Proto") == "http"
    assert value(sent("Forwarded: for=203.0.113.7", peer=PROXY), "X-Forwarded-Proto") == "http"


def test_an_untrusted_peer_claims_nothing() -> None:
    lines = fields(
        "X-Forwarded-Proto: https", "X-Forwarded-Host: a", "X-Forwarded-Port: 1", f"X-Request-Id: {THEIRS}"
    )
    trusted = ClientAddress(PROXY.ip, AddressSource.PEER, True)
    untrusted = ClientAddress(PROXY.ip, AddressSource.PEER, False)
    assert claims(lines, untrusted) == NO_CLAIMS
    assert claims((), trusted) == NO_CLAIMS
    assert claims(lines, trusted) == Claims(b"https", b"a", 1, THEIRS)


# --- what PostHog's services make of it ----------------------------------------------------------

US_AS_SEEN = "172.16.0.9"
GATES = (Gate(trusted=frozenset({US_AS_SEEN})), Gate(trust_all=True))


def readings(came: Fields) -> set[str]:
    """The client address by each of PostHog's services, its IP gate with both ways of trusting us."""
    text = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in came]
    return {address for gate in GATES for address in by_service(text, US_AS_SEEN, gate).values()}


ARRIVING = (
    "203.0.113.7:51234",
    "[2001:db8::1]:443",
    "6.6.6.6, 203.0.113.7",
    "unknown, 203.0.113.7",
)


@pytest.mark.parametrize("line", ARRIVING)
def test_posthogs_services_disagree_on_what_others_send(line: str) -> None:
    assert len(readings(fields(f"X-Forwarded-For: {line}"))) > 1


@pytest.mark.parametrize("line", ["203.0.113.7", *ARRIVING])
@pytest.mark.parametrize("peer", [CLIENT, PROXY, Peer(ip_address("::ffff:203.0.113.7"))])
def test_posthogs_services_agree_on_what_we_send(line: str, peer: Peer) -> None:
    outgoing = sent(f"X-Forwarded-For: {line}", peer=peer)
    through_proxy = "2001:db8::1" if "2001" in line else "203.0.113.7"
    assert readings(outgoing.fields) == {through_proxy if peer is PROXY else "203.0.113.7"}


@pytest.mark.parametrize(
    "name",
    [
        "X_Forwarded_For",
        "Forwarded",
        "X-Real-Ip",
        "Fly-Client-IP",
        "True-Client-IP",
        "CF-Connecting-IP",
        "CloudFront-Viewer-Address",
    ],
)
def test_no_other_header_that_names_a_client_is_left_to_captures_fallbacks(name: str) -> None:
    lie = "for=6.6.6.6" if name == "Forwarded" else "6.6.6.6:1" if name.startswith("Cloud") else "6.6.6.6"
    assert "6.6.6.6" in readings(fields(f"{name}: {lie}"))
    assert readings(sent(f"{name}: {lie}").fields) == {"203.0.113.7"}


@pytest.mark.parametrize("line", ["https", "HTTPS", "http, https"])
def test_django_sees_https_as_secure(line: str) -> None:
    """SECURE_PROXY_SSL_HEADER: Django takes the value before the first comma and compares it exactly."""
    outgoing = sent(f"X-Forwarded-Proto: {line}", peer=PROXY)
    assert value(outgoing, "X-Forwarded-Proto") == "https"


def test_django_sees_one_host() -> None:
    outgoing = sent("X-Forwarded-Host: A.example, b.example", "X_Forwarded_Host: evil", peer=PROXY)
    assert value(outgoing, "X-Forwarded-Host") == "app.example.com"
    assert values(outgoing, "X_Forwarded_Host") == []


def test_what_the_flags_service_trusts_is_not_a_clients_to_say() -> None:
    outgoing = sent("X-Request-Start: t=1", "X-Original-Endpoint: /admin", f"X-Request-Id: {THEIRS}")
    assert values(outgoing, "X-Request-Start") == values(outgoing, "X-Original-Endpoint") == []
    assert value(outgoing, "X-Request-Id") == CANDIDATE


def test_capture_v1_gets_all_it_needs() -> None:
    lines = (
        "Authorization: Bearer phc_x",
        "User-Agent: posthog-js/1.449",
        "Content-Encoding: gzip",
        "PostHog-Request-Timestamp: 2026-11-25T10:00:00Z",
        "PostHog-Sdk-Info: posthog-js/1.449",
        "PostHog-Attempt: 1",
        "Content-Type: text/plain",
    )
    outgoing = sent(*lines)
    assert outgoing.fields[1 : 1 + len(lines)] == fields(*lines)
    assert outgoing.dropped == ()


# --- answers -------------------------------------------------------------------------------------


def answer(
    *lines: str,
    status: int = 200,
    framing: Framing | None = None,
    method: bytes = b"GET",
    minor: int = 1,
    close: bool = False,
    table: ForwardingTable = PLAIN,
) -> Fields:
    bodiless = method == b"HEAD" or status < 200 or status in (204, 304)
    framing = framing or (NO_BODY if bodiless else length(2))
    response = ResponseHead(status, b"OK", 1, fields(*lines), framing)
    out = response_fields(response, method=method, minor=minor, close=close, date=NOW, table=table)
    return tuple(line for line in out if line != (b"Date", NOW))


NOW = b"Wed, 25 Nov 2026 12:00:00 GMT"


@pytest.mark.parametrize(
    ("lines", "status", "dates"),
    [
        ((), 200, [NOW]),
        (("Date: Tue, 24 Nov 2026 12:00:00 GMT",), 200, [b"Tue, 24 Nov 2026 12:00:00 GMT"]),
        (("Date: x", "Connection: date"), 200, [NOW]),
        ((), 304, [NOW]),
        ((), 101, []),
    ],
)
def test_an_answer_without_a_date_gets_the_time_of_its_arrival(
    lines: tuple[str, ...], status: int, dates: list[bytes]
) -> None:
    head = ResponseHead(status, b"OK", 1, fields(*lines), NO_BODY)
    out = response_fields(head, method=b"GET", minor=1, close=False, date=NOW, table=PLAIN)
    assert [value for name, value in out if name == b"Date"] == dates


def test_an_answer_goes_back_as_it_came_but_for_the_connection() -> None:
    lines = (
        "Location: http://app.example.com/login?next=/",
        "Set-Cookie: a=1; Path=/",
        "Content-Length: 02",
        "set-cookie: b=2; Path=/",
        "Server: gunicorn",
        "x_under_score: 1",
        "X-Request-Id: theirs",
        "X-Forwarded-For: echoed",
        "Vary: Origin",
        "Vary: Referer",
    )
    came = answer(*lines, "Connection: close, X-Hop", "X-Hop: 1", "Keep-Alive: timeout=5", "Trailer: x")
    assert came == fields(*(line.replace("02", "2") for line in lines))


CLOSE: Field = (b"Connection", b"close")
KEEP_ALIVE: Field = (b"Connection", b"keep-alive")
CODING: Field = (b"Transfer-Encoding", b"chunked")


@pytest.mark.parametrize(
    ("framing", "minor", "close", "expected"),
    [
        (length(5), 1, False, [(b"Content-Length", b"5")]),
        (length(5), 1, True, [(b"Content-Length", b"5"), CLOSE]),
        (length(5), 0, False, [(b"Content-Length", b"5"), KEEP_ALIVE]),
        (length(5), 0, True, [(b"Content-Length", b"5"), CLOSE]),
        (NO_BODY, 1, False, [(b"Content-Length", b"0")]),
        (CHUNKED, 1, False, [CODING]),
        (CHUNKED, 1, True, [CODING, CLOSE]),
        (CHUNKED, 0, True, [CLOSE]),
        (UNTIL_CLOSE, 1, False, [CODING]),
        (UNTIL_CLOSE, 0, True, [CLOSE]),
        # The end of the connection is the end of the body: no offer to keep it.
        (UNTIL_CLOSE, 0, False, [CLOSE]),
        (CHUNKED, 0, False, [CLOSE]),
    ],
)
def test_framing_of_an_answer_is_ours(
    framing: Framing, minor: int, close: bool, expected: list[Field]
) -> None:
    came = ["Transfer-Encoding: chunked"] if framing.kind is FramingKind.CHUNKED else []
    assert answer(*came, framing=framing, minor=minor, close=close) == tuple(expected)


@pytest.mark.parametrize(
    ("method", "status", "lines", "expected"),
    [
        (b"HEAD", 200, ["Content-Length: 1234"], [(b"Content-Length", b"1234")]),
        (b"HEAD", 200, ["Transfer-Encoding: chunked"], []),
        (b"HEAD", 200, [], []),
        (b"HEAD", 200, ["Content-Length: x"], []),
        (b"HEAD", 200, ["Content-Length: " + "1" * 5000], []),
        (b"HEAD", 200, ["Content-Length: 1", "Content-Length: 1"], [(b"Content-Length", b"1")]),
        (b"GET", 304, ["Content-Length: 1234", "ETag: x"], [(b"Content-Length", b"1234"), (b"ETag", b"x")]),
        (b"GET", 204, ["Content-Length: 0"], []),
        (b"HEAD", 204, ["Content-Length: 0"], []),
        (b"GET", 204, ["Transfer-Encoding: chunked"], []),
        (b"GET", 103, ["Link: </a.css>", "Content-Length: 0"], [(b"Link", b"</a.css>")]),
    ],
)
def test_answers_without_a_body(method: bytes, status: int, lines: list[str], expected: list[Field]) -> None:
    assert answer(*lines, method=method, status=status) == tuple(expected)


def test_a_head_answer_is_never_chunked_whatever_its_framing() -> None:
    assert answer("A: b", method=b"HEAD", framing=CHUNKED, minor=0) == (*fields("A: b"), KEEP_ALIVE)


@pytest.mark.parametrize("close", [True, False])
def test_switching_protocols(close: bool) -> None:
    came = answer(
        "upgrade: WebSocket", "connection: upgrade", "Sec-WebSocket-Accept: x", status=101, close=close
    )  # fmt: skip
    assert came == fields("Sec-WebSocket-Accept: x", "Connection: Upgrade", "Upgrade: websocket")


def test_via_of_an_answer() -> None:
    table = ForwardingTable.of(ForwardingConfig(via=True))
    came = answer("Via: 1.1 other", "Content-Length: 2", table=table, close=True)
    assert came == fields(
        "Via: 1.1 other", "Content-Length: 2", "Via: 1.1 posthog-proxy", "Connection: close"
    )
    assert first_value(answer("Via: 1.1 other"), b"via") == b"1.1 other"


def test_an_upstream_cannot_name_the_length_away() -> None:
    assert answer("Content-Length: 2", "Connection: Content-Length") == fields("Content-Length: 2")


@pytest.mark.parametrize("name", ["Remote-User", "remote-user", "REMOTE_USER", "Remote.User"])
def test_what_a_service_vouches_for_is_taken_from_no_client(name: str) -> None:
    table = ForwardingTable.of(
        ForwardingConfig(allow_names=("remote_user",)), identity=frozenset({b"remote-user"})
    )
    assert classify_request_name(name.lower().encode(), table) is Kind.MANAGED
    out = sent(f"{name}: root", "Remote-User-Id: 7", table=table)
    assert b"root" not in [value for _, value in out.fields]
    assert (b"Remote-User-Id", b"7") in out.fields
    assert out.dropped == ("managed",)


def test_the_id_of_the_request_is_the_last_line_of_its_answer_and_the_only_one() -> None:
    assert with_request_id(b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n", "id") == (
        b"HTTP/1.1 200 OK\r\nA: b\r\nX-Request-Id: id\r\n\r\n"
    )
    table = ForwardingTable.of(ForwardingConfig(answer_request_id=True))
    head = ResponseHead(200, b"OK", 1, ((b"x-request-id", b"theirs"),), NO_BODY, False)
    for each, kept in ((table, False), (ForwardingTable.of(ForwardingConfig()), True)):
        fields = response_fields(head, method=b"GET", minor=1, close=False, date=b"D", table=each)
        assert (first_value(fields, b"x-request-id") is not None) is kept
