"""Which header lines go on, which stop here, and what we say about the client; both directions.

The order is the safety (Traefik CVE-2021-32813, Apache CVE-2022-31813): the client address has been
decided, then everything hop-by-hop and everything managed goes out, and only then ours goes in. So
neither a `Connection: X-Forwarded-Proto` nor a second spelling can touch what we say.

A request goes on as: Host, the end-to-end lines in the order and spelling received (Content-Length in
its place with our own decimal), X-Forwarded-For, -Proto, -Host, -Port, X-Request-Id, Via if asked for,
then Transfer-Encoding or the two lines of a WebSocket handshake. Each of ours is one line with one
value: Django reads `https, http` as insecure and answers 400 to two hosts. Whatever is kept goes on byte
for byte; Location and Set-Cookie are never touched. Everything here is linear in the head's bytes.
"""

from __future__ import annotations

import enum
import functools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxy.config.schema import ChainMode
from proxy.message import AddressSource, FramingKind, field_values, first_value
from proxy.rules.address import anonymised, packed_text, peer_address, unpacked
from proxy.rules.claims import any_host, claims, effective_proto
from proxy.rules.forwarded import OWS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from proxy.config.schema import ForwardingConfig
    from proxy.message import ClientAddress, Field, Fields, Framing, Peer, RequestHead, ResponseHead
    from proxy.rules.address import Packed
    from proxy.rules.claims import Claims

# --- the tables ----------------------------------------------------------------------------------

HOP_BY_HOP = frozenset(
    b"keep-alive proxy-connection te trailer transfer-encoding upgrade "
    b"proxy-authenticate proxy-authorization http2-settings".split()
)
"""Lines about one connection, beside Connection itself (RFC 9110 section 7.6.1, RFC 7540 section 3.2.1)."""

MANAGED_GROUPS: Mapping[str, tuple[bytes, ...]] = {
    "X-Forwarded-*: the client as a proxy describes it; ours are set in their place": (
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-proto",
        b"x-forwarded-port",
        b"x-forwarded-prefix",
        b"x-forwarded-server",
        b"x-forwarded-scheme",
        b"x-forwarded-uri",
        b"x-forwarded-method",
        b"x-forwarded-ssl",
        b"x-original-forwarded-for",
        b"forwarded",
    ),
    "other names for the scheme; gunicorn takes X-Forwarded-Protocol and -Ssl for it": (
        b"x-forwarded-protocol",
        b"x-scheme",
        b"x-url-scheme",
        b"front-end-https",
    ),
    "the client address as CDNs and balancers write it; PostHog's capture believes most of them": (
        b"x-real-ip",
        b"x-client-ip",
        b"x-cluster-client-ip",
        b"true-client-ip",
        b"cf-connecting-ip",
        b"cf-connecting-ipv6",
        b"cf-pseudo-ipv4",
        b"fly-client-ip",
        b"fastly-client-ip",
        b"cloudfront-viewer-address",
        b"x-envoy-external-address",
        b"x-appengine-user-ip",
    ),
    "PostHog's flags service trusts these for time, path and identity of a request": (
        b"x-request-start",
        b"x-original-endpoint",
        b"x-request-id",
    ),
    "frameworks take these for another path or method than the one that was judged": (
        b"x-original-url",
        b"x-rewrite-url",
        b"x-http-method-override",
    ),
}
"""Removed from every peer's request, trusted or not, by the reason of each group."""

MANAGED_NAMES = frozenset(name for names in MANAGED_GROUPS.values() for name in names)

MANAGED_PREFIXES = (
    # A client certificate as Traefik passes it on (-Info, and the certificate itself).
    b"x-forwarded-tls-client-cert",
    # The client address that PostHog's Django believes when it is signed (-Timestamp, -Signature).
    b"x-posthog-client-ip",
)
"""Removed like the managed names: whatever begins so."""

UNDELETABLE = frozenset({b"host", b"content-length", b"content-type", b"authorization", b"cookie"})
"""`Connection` cannot name these away, nor any managed name: the message would change its meaning."""

UNDERSCORE_NAME = "underscore_name"
CONNECTION_TOKEN = "connection_token"
MANAGED_NAME = "managed"
DROPPED_WORDS = (UNDERSCORE_NAME, CONNECTION_TOKEN, MANAGED_NAME)
"""All words that ``Outgoing.dropped`` can hold, for the counter's labels."""

VIA_NAME = b"posthog-proxy"
"""Our pseudonym in Via (RFC 9110 section 7.6.3); the host's name is nobody's business."""


class Kind(enum.Enum):
    """What a header name means to us."""

    PASS = "pass"
    HOST = "host"
    LENGTH = "length"
    CONNECTION = "connection"
    EXPECT = "expect"
    HOP_BY_HOP = "hop-by-hop"
    MANAGED = "managed"
    UNDERSCORE = "underscore"


_RESPONSE_KINDS: Mapping[bytes, Kind] = {
    b"connection": Kind.CONNECTION,
    b"content-length": Kind.LENGTH,
    **dict.fromkeys(HOP_BY_HOP, Kind.HOP_BY_HOP),
}

_REQUEST_KINDS: Mapping[bytes, Kind] = {
    **_RESPONSE_KINDS,
    b"host": Kind.HOST,
    b"expect": Kind.EXPECT,
    **dict.fromkeys(MANAGED_NAMES, Kind.MANAGED),
}

_DASHES = bytes.maketrans(b"_.", b"--")


@dataclass(frozen=True, slots=True)
class ForwardingTable:
    """`[forwarding]`, ready for look-ups; names in lower case. ``identity``: what only a service that we
    ask may set (rules/forward_auth.py); never taken from a client, however it is spelled. ``answer_id``:
    answers have our X-Request-Id, as their last line (``with_request_id``), and no other."""

    chain: ChainMode
    anonymise: bool
    via: bool
    allow_names: frozenset[bytes]
    identity: frozenset[bytes] = frozenset()
    answer_id: bool = False

    @classmethod
    def of(cls, config: ForwardingConfig, identity: frozenset[bytes] = frozenset()) -> ForwardingTable:
        """Build the table of a configuration."""
        names = frozenset(name.lower().encode() for name in config.allow_names)
        answer_id = config.answer_request_id
        return cls(config.chain, config.anonymise, config.via, names, identity, answer_id)


def classify_request_name(name: bytes, table: ForwardingTable) -> Kind:
    """Return what the lower-case request header ``name`` means; the one rule of both reading paths.

    A name with `_` or `.` is UNDERSCORE, since Django and its like map it to one with `-`; MANAGED where
    it spells a managed name. ``allow_names`` lets it pass unless the spelling with `-` has a meaning here.
    """
    kind = _REQUEST_KINDS.get(name)
    if kind is not None:
        return kind
    other = _remembered_kind if len(name) <= _REMEMBERED_NAME else _other_kind
    return other(name, table.allow_names, table.identity)


def _other_kind(name: bytes, allow_names: frozenset[bytes], identity: frozenset[bytes]) -> Kind:
    if is_managed(name):
        return Kind.MANAGED
    dashed = name.translate(_DASHES)
    if dashed in identity:
        return Kind.MANAGED
    if dashed == name or (name in allow_names and dashed not in _REQUEST_KINDS):
        return Kind.PASS
    return Kind.UNDERSCORE


_REMEMBERED_NAME = 64
_remembered_kind = functools.lru_cache(1024)(_other_kind)  # senders repeat their names


def is_managed(name: bytes) -> bool:
    """Is the lower-case request header ``name`` ours to set or to remove, however it is spelled?"""
    dashed = name.translate(_DASHES)
    return dashed in MANAGED_NAMES or dashed.startswith(MANAGED_PREFIXES)


def classify_response_name(name: bytes) -> Kind:
    """Return what the lower-case response header ``name`` means: PASS, LENGTH, CONNECTION, HOP_BY_HOP."""
    return _RESPONSE_KINDS.get(name, Kind.PASS)


def connection_options(values: list[bytes]) -> tuple[frozenset[bytes], bool]:
    """Read the Connection lines: the lower-case names that go out because a line names them, and
    whether one was ignored because it may not be named (``UNDELETABLE``, managed names)."""
    tokens = {token.strip(OWS).lower() for value in values for token in value.split(b",")}
    ignored = {token for token in tokens if token in UNDELETABLE or is_managed(token)}
    return frozenset(tokens - ignored), bool(ignored)


# --- what we say ---------------------------------------------------------------------------------


_PORT_OF_HOST = re.compile(rb":([0-9]{1,5}+)\Z")
_DECIMAL = re.compile(rb"[0-9]{1,19}+")


def own_fields(
    head: RequestHead,
    peer: Peer,
    client: ClientAddress,
    request_id: str,
    table: ForwardingTable,
    said: Claims,
) -> Fields:
    """Return our lines about the client, each once and in fixed order.

    ``request_id`` yields to the one in ``said``. There is no X-Forwarded-For when nobody named an
    address (a Unix-socket peer) and no X-Forwarded-Host when the client sent no Host (HTTP/1.0):
    an absent line is better than one that a client could choose.
    """
    proto = effective_proto(peer, said)
    host = said.host or (head.host or b"").lower()
    fields: list[Field] = []
    if client.ip is not None:
        fields.append((b"X-Forwarded-For", forwarded_for(peer, client, table)))
    fields.append((b"X-Forwarded-Proto", proto))
    if host:
        fields.append((b"X-Forwarded-Host", host))
    fields.append((b"X-Forwarded-Port", b"%d" % _port(said, host, proto, peer)))
    fields.append((b"X-Request-Id", (said.request_id or request_id).encode("ascii")))
    if table.via:
        fields.append(_via(head.minor))
    return tuple(fields)


def forwarded_for(peer: Peer, client: ClientAddress, table: ForwardingTable) -> bytes:
    """Return the value of X-Forwarded-For; empty when nobody named an address.

    Collapsed, it is the one bare address on which all PostHog services agree. Appended, it is nginx's
    `$proxy_add_x_forwarded_for` without what stands left of the client: the client, the trusted
    proxies that were walked over, and the peer where it is not the client itself.
    """
    if client.ip is None:
        return b""
    walked = [ip.packed for ip in reversed((client.ip, *client.trusted_chain))]
    relayed = client.source not in (AddressSource.PEER, AddressSource.PROXY_PROTOCOL)
    return _forwarded_for(peer if relayed else None, walked, table)


def forwarded_for_walked(peer: Peer, walked: Sequence[Packed], table: ForwardingTable) -> bytes:
    """``forwarded_for`` of a client to whom the trusted ``peer``'s chain leads (``address.walk_listed``)."""
    return _forwarded_for(peer, walked, table)


def _forwarded_for(peer: Peer | None, walked: Sequence[Packed], table: ForwardingTable) -> bytes:
    """``walked``: from the nearest to the client; ``peer``: who was walked over first, if anybody was."""
    client = shown_address(walked[-1], table)
    if table.chain is ChainMode.COLLAPSE:
        return client.encode("ascii")
    texts = [client, *map(packed_text, walked[-2::-1])]
    nearest = None if peer is None else peer_address(peer)
    if nearest is not None:
        texts.append(str(nearest))
    return ", ".join(texts).encode("ascii")


def shown_address(packed: Packed, table: ForwardingTable) -> str:
    """Return a client's address as others get to see it."""
    return str(anonymised(unpacked(packed))) if table.anonymise else packed_text(packed)


def _port(said: Claims, host: bytes, proto: bytes, peer: Peer) -> int:
    """The port that the client asked for: as said, as in the host, or the scheme's own where the scheme
    is known to be the client's; else the one that it reached."""
    if said.port is not None:
        return said.port
    in_host = _PORT_OF_HOST.search(host)
    if in_host is not None and 1 <= int(in_host[1]) <= 65535:
        return int(in_host[1])
    if said.proto is None and not peer.tls and peer.local_port:
        return peer.local_port
    return 443 if proto == b"https" else 80


def _via(minor: int) -> Field:
    return b"Via", b"1.%d %s" % (minor, VIA_NAME)


# --- the two directions --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Outgoing:
    """The lines of a request as they go upstream. ``dropped`` tells what was taken away for safety:
    words of ``DROPPED_WORDS``, each at most once, in the order met."""

    fields: Fields
    dropped: tuple[str, ...]


def request_fields(
    head: RequestHead,
    peer: Peer,
    client: ClientAddress,
    host: bytes,
    request_id: str,
    table: ForwardingTable,
    *,
    websocket: bool = False,
    allowed_host: Callable[[bytes], bool] = any_host,
    drop_cookies: bool = False,
) -> Outgoing:
    """Derive the lines that go upstream, in the order that the module's docstring shows.

    ``host`` is the Host to send, ``request_id`` the id to use where no trusted peer gave one.
    ``websocket`` keeps the upgrade (the caller has checked handshake and route). A scheme that a
    trusted peer names beats our own TLS: ours is a fact about the last hop, its word is about the client
    (a balancer that takes plain http and speaks TLS to us must still lead to a redirect). Expect goes
    out because we answer 100 ourselves, Cookie with ``drop_cookies``; ``allowed_host`` judges a peer's host.
    """
    named, ignored = connection_options(field_values(head.fields, b"connection"))
    dropped = dict.fromkeys([CONNECTION_TOKEN] if ignored else [])
    length = _length(head.framing)
    fields: list[Field] = [(b"Host", host)]
    for name, value in head.fields:
        lower = name.lower()
        kind = classify_request_name(lower, table)
        if kind is Kind.PASS:
            if lower not in named and not (drop_cookies and lower == b"cookie"):
                fields.append((name, value))
        elif kind is Kind.MANAGED:
            dropped[MANAGED_NAME] = None
        elif kind is Kind.UNDERSCORE:
            dropped[UNDERSCORE_NAME] = None
        elif kind is Kind.LENGTH and length is not None:
            fields.append((name, length))
            length = None
    fields += own_fields(head, peer, client, request_id, table, claims(head.fields, client, allowed_host))
    if head.framing.kind is FramingKind.CHUNKED:
        fields.append(_CHUNKED)
    elif head.framing.kind is FramingKind.LENGTH and length is not None:
        fields.append((b"Content-Length", length))
    if websocket:
        fields += _UPGRADE
    return Outgoing(tuple(fields), tuple(dropped))


def response_fields(
    head: ResponseHead,
    *,
    method: bytes,
    minor: int,
    close: bool,
    date: bytes,
    table: ForwardingTable,
    hsts: bytes = b"",
) -> Fields:
    """Derive the lines that go back to the client: end-to-end lines in the order and spelling received,
    then Via if asked for, then framing.

    ``method`` is the request's, ``minor`` the client's HTTP/1 version, ``close`` whether we close after
    this answer. ``date`` is the time of arrival as an HTTP date, for an answer that has none (RFC 9110
    section 6.6.1). A body of unknown length is chunked for a 1.1 client and ends with the connection
    for a 1.0 client, which is told so whatever ``close`` says. HEAD and 304 keep a Content-Length that
    came (it describes the answer to a GET); 1xx and 204 never have one (RFC 9110 section 8.6). ``hsts``,
    if not empty, is our Strict-Transport-Security, in place of the upstream's: browsers heed only the first
    (RFC 6797 section 8.1).
    """
    named, _ = connection_options(field_values(head.fields, b"connection"))
    bodiless = method == b"HEAD" or head.status < 200 or head.status in (204, 304)
    length = _described_length(head) if bodiless else _length(head.framing)
    dated = False
    fields: list[Field] = []
    for name, value in head.fields:
        lower = name.lower()
        kind = classify_response_name(lower)
        if kind is Kind.PASS:
            replaced = (hsts and lower == _HSTS) or (table.answer_id and lower == b"x-request-id")
            if lower not in named and not replaced:
                fields.append((name, value))
                dated = dated or lower == b"date"
        elif kind is Kind.LENGTH and length is not None:
            fields.append((name, length))
            length = None
    if hsts and head.status >= 200:
        fields.append((b"Strict-Transport-Security", hsts))
    if head.status >= 200 and not dated:
        fields.append((b"Date", date))
    if table.via:
        fields.append(_via(head.minor))
    if length is not None:
        fields.append((b"Content-Length", length))
    if head.status == 101:
        fields += _UPGRADE
    elif head.status >= 200:
        fields += _answer_ending(not bodiless and head.framing.kind in _UNKNOWN_LENGTH, minor, close)
    return tuple(fields)


_HSTS = b"strict-transport-security"
_CHUNKED: Field = (b"Transfer-Encoding", b"chunked")
_UPGRADE: Fields = ((b"Connection", b"Upgrade"), (b"Upgrade", b"websocket"))
_UNKNOWN_LENGTH = frozenset({FramingKind.CHUNKED, FramingKind.UNTIL_CLOSE})


def with_request_id(head: bytes, request_id: str) -> bytes:
    """Return a rendered answer head with the id of its request as the last line (``answer_id``)."""
    return b"%bX-Request-Id: %b\r\n\r\n" % (head[:-2], request_id.encode())


def _length(framing: Framing) -> bytes | None:
    return None if framing.kind in _UNKNOWN_LENGTH else b"%d" % framing.length


def _described_length(head: ResponseHead) -> bytes | None:
    """The length of the body that a HEAD or a 304 does not carry, as the upstream gave it."""
    if head.status < 200 or head.status == 204:
        return None
    value = first_value(head.fields, b"content-length")
    return value if value is not None and _DECIMAL.fullmatch(value) else None


def _answer_ending(unknown_length: bool, minor: int, close: bool) -> list[Field]:
    chunked = unknown_length and minor >= 1
    lines = [_CHUNKED] if chunked else []
    if close or (unknown_length and not chunked):
        lines.append((b"Connection", b"close"))
    elif minor == 0:
        lines.append((b"Connection", b"keep-alive"))
    return lines
