"""What goes on and what stops, for arbitrary header lines from trusted and untrusted peers."""

from __future__ import annotations

import sys
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.config.schema import ChainMode, ForwardingConfig, TrustConfig
from proxy.message import CHUNKED, NO_BODY, UNTIL_CLOSE, Framing, FramingKind, Peer, RequestHead, ResponseHead
from proxy.rules.address import TrustTable, client_address
from proxy.rules.forwarding import DROPPED_WORDS, ForwardingTable, Outgoing, request_fields, response_fields

if TYPE_CHECKING:
    from proxy.message import Field, Fields

examples = settings(deadline=None, max_examples=300)

REQUEST_ID = "5d2c6e0a-0000-4000-8000-00000000000a"
TRUST = TrustTable.of(TrustConfig(proxies=(ip_network("10.0.0.0/8"), ip_network("fd00::/8")), forwarded=True))
OURS = [b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-port", b"x-request-id"]

# The lists as RFC 9110 section 7.6.1 and the table of managed headers state them, written down again.
HOP_BY_HOP = {
    b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade",
    b"proxy-authenticate", b"proxy-authorization", b"http2-settings",
}  # fmt: skip
MANAGED = [
    b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-forwarded-port", b"x-forwarded-prefix",
    b"x-forwarded-server", b"x-forwarded-scheme", b"x-forwarded-uri", b"x-forwarded-method",
    b"x-forwarded-ssl", b"x-forwarded-tls-client-cert", b"x-forwarded-tls-client-cert-info",
    b"x-forwarded-protocol", b"x-scheme", b"x-url-scheme",
    b"front-end-https", b"forwarded", b"x-real-ip", b"x-client-ip", b"x-cluster-client-ip", b"true-client-ip",
    b"cf-connecting-ip", b"cf-connecting-ipv6", b"cf-pseudo-ipv4", b"fly-client-ip", b"fastly-client-ip",
    b"cloudfront-viewer-address", b"x-envoy-external-address", b"x-original-forwarded-for",
    b"x-appengine-user-ip", b"x-posthog-client-ip", b"x-posthog-client-ip-signature", b"x-request-start",
    b"x-original-endpoint", b"x-original-url", b"x-rewrite-url", b"x-http-method-override", b"x-request-id",
]  # fmt: skip
KEPT = [b"accept", b"cookie", b"content-type", b"authorization", b"posthog-attempt", b"x-a", b"x-b", b"via"]

# --- material ------------------------------------------------------------------------------------


def recased(name: bytes, mask: int) -> bytes:
    return bytes(
        byte ^ 0x20 if mask >> n & 1 and chr(byte).isalpha() else byte for n, byte in enumerate(name)
    )


def respelled(name: bytes, mark: str) -> bytes:
    return name.replace(b"-", mark.encode(), 1)


known = st.sampled_from([*HOP_BY_HOP, *MANAGED, *KEPT, b"expect"])
spelled = st.builds(respelled, known, st.sampled_from(["-", "-", "-", "_", "."]))
strange = st.text(alphabet="abxyz-_.0!~", min_size=1, max_size=8).map(str.encode)
names = st.builds(recased, spelled | strange, st.integers(0, 2**16))
addresses = st.ip_addresses().map(lambda ip: str(ip).encode())
values = st.one_of(
    addresses,
    st.lists(addresses | st.sampled_from([b"unknown", b"10.0.0.9", b""]), max_size=4).map(b", ".join),
    st.sampled_from(
        [b"https", b"HTTP", b"http, https", b"a.example:81", b"8443", REQUEST_ID.encode(), b"close"]
    ),
    st.lists(known.filter(lambda name: name != b"connection"), max_size=3).map(b", ".join),
    st.binary(max_size=12),
)
connections = st.lists(spelled | strange, max_size=3).map(lambda tokens: (b"Connection", b", ".join(tokens)))
lines = st.lists(st.tuples(names, values) | connections, max_size=12).map(tuple)
framings = st.sampled_from(
    [NO_BODY, Framing(FramingKind.LENGTH, 0), Framing(FramingKind.LENGTH, 17), CHUNKED]
)
peers = st.builds(
    Peer,
    st.sampled_from([None, *map(ip_address, ("10.0.0.1", "203.0.113.7", "::ffff:10.0.0.1", "2001:db8::7"))]),
    tls=st.booleans(),
    local_port=st.sampled_from([0, 8000]),
)
tables = st.builds(
    lambda chain, anonymise: ForwardingTable.of(ForwardingConfig(chain=chain, anonymise=anonymise)),
    st.sampled_from(ChainMode),
    st.booleans(),
)
COLLAPSED = ForwardingTable.of(ForwardingConfig())


def framed(came: Fields, framing: Framing) -> RequestHead:
    own: Fields = ((b"Host", b"A.example"),)
    if framing.kind is FramingKind.LENGTH:
        own = (*own, (b"Content-Length", b"%04d" % framing.length))
    return RequestHead(b"POST", b"/e/", 1, (*own, *came), b"A.example", framing)


def sent(
    head: RequestHead, peer: Peer, table: ForwardingTable = COLLAPSED, websocket: bool = False
) -> Outgoing:
    client = client_address(peer, head.fields, TRUST)
    return request_fields(head, peer, client, b"A.example", REQUEST_ID, table, websocket=websocket)


def dashed(name: bytes) -> bytes:
    return name.lower().replace(b"_", b"-").replace(b".", b"-")


def named_by_connection(came: Fields) -> set[bytes]:
    return {
        token.strip(b" \t").lower()
        for name, value in came
        if name.lower() == b"connection"
        for token in value.split(b",")
    }


def end_to_end(came: Fields) -> list[Field]:
    """What a request must deliver, by the words of the rules."""
    undeletable = {b"host", b"content-length", b"content-type", b"authorization", b"cookie", *MANAGED}
    gone = named_by_connection(came) - undeletable | HOP_BY_HOP | {b"expect", b"host", b"content-length"}
    return [
        (name, value)
        for name, value in came
        if name.lower() not in gone
        and dashed(name) not in MANAGED
        and not {b"_", b"."} & {name[n : n + 1] for n in range(len(name))}
    ]


# --- requests ------------------------------------------------------------------------------------


@examples
@given(lines, framings, peers, tables, st.booleans())
def test_end_to_end_lines_keep_order_name_and_value_and_all_else_is_ours(
    came: Fields, framing: Framing, peer: Peer, table: ForwardingTable, websocket: bool
) -> None:
    head = framed(came, framing)
    outgoing = sent(head, peer, table, websocket)
    own = [b"Content-Length"] if framing.kind is FramingKind.LENGTH else []
    kept = end_to_end(came)
    assert outgoing.fields[0] == (b"Host", b"A.example")
    assert [name for name, _ in outgoing.fields[1 : 1 + len(own)]] == own
    assert list(outgoing.fields[1 + len(own) : 1 + len(own) + len(kept)]) == kept
    rest = outgoing.fields[1 + len(own) + len(kept) :]
    expected = [name for name in OURS if name != b"x-forwarded-for" or peer.ip is not None]
    expected += [b"transfer-encoding"] if framing is CHUNKED else []
    expected += [b"connection", b"upgrade"] if websocket else []
    assert [name.lower() for name, _ in rest] == expected
    assert set(outgoing.dropped) <= set(DROPPED_WORDS)
    assert len(outgoing.dropped) == len(set(outgoing.dropped))


@examples
@given(lines, framings, peers, tables)
def test_what_we_say_appears_once_however_it_is_spelled(
    came: Fields, framing: Framing, peer: Peer, table: ForwardingTable
) -> None:
    names = [dashed(name) for name, _ in sent(framed(came, framing), peer, table).fields]
    assert all(names.count(name) == (name in OURS) for name in MANAGED if name != OURS[0])
    assert names.count(OURS[0]) == (peer.ip is not None)
    assert not (HOP_BY_HOP - {b"transfer-encoding"}) & set(names)
    assert names.count(b"transfer-encoding") == (framing is CHUNKED)
    assert names.count(b"content-length") == (framing.kind is FramingKind.LENGTH)
    assert names.count(b"host") == 1
    assert b"expect" not in names


@examples
@given(lines, framings, st.booleans())
def test_nothing_that_an_untrusted_peer_sends_changes_what_we_say(
    came: Fields, framing: Framing, tls: bool
) -> None:
    for peer in (Peer(ip_address("203.0.113.7"), tls=tls, local_port=8000), Peer(None, tls=tls)):
        told = [line for line in sent(framed(came, framing), peer).fields if line[0].lower() in OURS]
        assert told == [line for line in sent(framed((), framing), peer).fields if line[0].lower() in OURS]


@examples
@given(lines, peers, st.lists(st.sampled_from([*OURS, b"host", b"cookie"]), max_size=3))
def test_connection_deletes_nothing_of_ours(came: Fields, peer: Peer, tokens: list[bytes]) -> None:
    connection = ((b"connection", b" ,\t".join(tokens)),)
    assert sent(framed(came + connection, NO_BODY), peer).fields == sent(framed(came, NO_BODY), peer).fields


@examples
@given(lines, framings, peers.filter(lambda peer: peer.ip is not None))
def test_a_second_pass_through_a_trusting_proxy_changes_nothing(
    came: Fields, framing: Framing, peer: Peer
) -> None:
    once = sent(framed(came, framing), peer).fields
    second = RequestHead(b"POST", b"/e/", 1, once, b"A.example", framing)
    again = sent(second, Peer(ip_address("10.0.0.2"), tls=not peer.tls, local_port=9000))
    assert again.fields == once


@examples
@given(lines, peers.filter(lambda peer: peer.ip is not None))
def test_collapsed_is_the_first_of_appended(came: Fields, peer: Peer) -> None:
    def told(chain: ChainMode) -> bytes:
        table = ForwardingTable.of(ForwardingConfig(chain=chain))
        return dict(sent(framed(came, NO_BODY), peer, table).fields)[b"X-Forwarded-For"]

    client, *proxies = told(ChainMode.APPEND).split(b", ")
    assert client == told(ChainMode.COLLAPSE)
    assert all(TRUST.trusts(ip_address(proxy.decode())) for proxy in proxies)


# --- answers -------------------------------------------------------------------------------------

statuses = st.sampled_from([100, 101, 103, 200, 204, 206, 301, 304, 404, 503])
methods = st.sampled_from([b"GET", b"HEAD", b"POST"])
bodies = framings | st.just(UNTIL_CLOSE)


@examples
@given(lines, statuses, methods, bodies, st.integers(0, 1), st.booleans())
def test_an_answers_lines_keep_order_name_and_value_and_framing_is_ours(
    came: Fields, status: int, method: bytes, body: Framing, minor: int, close: bool
) -> None:
    bodiless = method == b"HEAD" or status < 200 or status in (204, 304)
    head = ResponseHead(status, b"", 1, (*came, (b"Content-Length", b"17")), NO_BODY if bodiless else body)
    dated = (b"Date", b"the time of arrival")
    out = response_fields(head, method=method, minor=minor, close=close, date=dated[1], table=COLLAPSED)
    assert sum(name.lower() == b"date" for name, _ in out) >= (status >= 200)
    out = tuple(line for line in out if line != dated)
    gone = named_by_connection(came) - {b"content-type", b"authorization", b"cookie", b"content-length"}
    gone = {name for name in gone if dashed(name) not in MANAGED} | HOP_BY_HOP | {b"content-length"}
    assert [line for line in out if line[0].lower() not in HOP_BY_HOP | {b"content-length"}] == [
        line for line in came if line[0].lower() not in gone
    ]
    names = [name.lower() for name, _ in out]
    by_coding = names.count(b"transfer-encoding")
    by_length = names.count(b"content-length")
    until_close = (b"Connection", b"close") in out
    if status == 101:
        assert out[-2:] == ((b"Connection", b"Upgrade"), (b"Upgrade", b"websocket"))
    if bodiless:
        assert by_coding == 0
        assert by_length == (status not in (100, 101, 103, 204))
    elif body.kind in (NO_BODY.kind, FramingKind.LENGTH):
        assert (by_coding, by_length) == (0, 1)
    else:
        assert (by_coding, by_length) == (minor, 0)
        assert minor == 1 or until_close
    assert names.count(b"connection") <= 1
    assert until_close or not close or status < 200


# --- work ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [(b"Connection", b"x-a, host, " * 10), (b"X-Forwarded-Proto", b"https"), (b"x_a", b"1"), (b"A", b"b")],
)
def test_work_grows_with_the_lines_and_not_with_their_square(line: Field) -> None:
    def work(count: int) -> int:
        head, peer = framed((line,) * count, NO_BODY), Peer(ip_address("10.0.0.1"))
        client = client_address(peer, head.fields, TRUST)
        calls = 0

        def count_call(frame: Any, event: str, argument: object) -> None:
            nonlocal calls
            calls += event in ("call", "c_call")

        sys.setprofile(count_call)
        try:
            request_fields(head, peer, client, b"h", REQUEST_ID, COLLAPSED)
        finally:
            sys.setprofile(None)
        return calls

    assert work(4000) <= 4 * work(1000)
