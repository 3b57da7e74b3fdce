"""The nouns that every layer passes around: heads, framing, peers, client addresses, decisions.

All are frozen. Bytes stay bytes until a rule needs text. Nothing in here opens a socket, reads a
clock or knows a configuration: a value is built by the layer that learned it and read by the rest.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import TypeAlias

IPAddress: TypeAlias = IPv4Address | IPv6Address

Field: TypeAlias = tuple[bytes, bytes]
"""One header line: the name as it was received, the value without its outer white space."""

Fields: TypeAlias = tuple[Field, ...]
"""Header lines in the order received, duplicates kept."""


def field_values(fields: Fields, name: bytes) -> list[bytes]:
    """Return the value of every line called ``name`` (given in lower case), in order."""
    return [value for key, value in fields if key.lower() == name]


def first_value(fields: Fields, name: bytes) -> bytes | None:
    """Return the value of the first line called ``name`` (given in lower case), or ``None``."""
    for key, value in fields:
        if key.lower() == name:
            return value
    return None


class FramingKind(enum.Enum):
    """How the end of a message body is known (RFC 9112 section 6)."""

    NONE = "none"
    LENGTH = "length"
    CHUNKED = "chunked"
    UNTIL_CLOSE = "until-close"


@dataclass(frozen=True, slots=True)
class Framing:
    """The body framing of one message. ``length`` is in bytes and only meaningful for LENGTH."""

    kind: FramingKind
    length: int = 0


NO_BODY = Framing(FramingKind.NONE)
CHUNKED = Framing(FramingKind.CHUNKED)
UNTIL_CLOSE = Framing(FramingKind.UNTIL_CLOSE)


@dataclass(frozen=True, slots=True)
class RequestHead:
    """A request head that the gate has accepted (wire/strict.py) and h11 has parsed.

    ``target`` is always origin-form (or ``*`` for OPTIONS): an absolute-form target has been
    reduced after its authority was found equal to Host. ``host`` is the Host value exactly as
    received, ``None`` only for HTTP/1.0 without one. ``fields`` holds every line, Host included,
    but for Cookie lines with control characters, which the gate drops. ``close`` says that this
    client connection ends after the exchange (HTTP/1.0, or ``Connection: close``).
    ``websocket`` is true only for a complete and valid handshake (RFC 6455 section 4.1).
    """

    method: bytes
    target: bytes
    minor: int
    fields: Fields
    host: bytes | None
    framing: Framing
    expect_continue: bool = False
    close: bool = False
    websocket: bool = False


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """A response head that the gate has accepted. ``framing`` already heeds the request's method
    (HEAD) and the status (1xx, 204, 304). ``close`` says that the upstream connection ends."""

    status: int
    reason: bytes
    minor: int
    fields: Fields
    framing: Framing
    close: bool = False


@dataclass(frozen=True, slots=True)
class Preface:
    """What a PROXY protocol header said about the connection: it replaces the socket's peer."""

    source_ip: IPAddress
    source_port: int


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of the downstream socket, and how it reached us.

    ``ip`` is ``None`` for a Unix socket. ``listener`` is the listener's name for the log,
    ``local_ip`` and ``local_port`` where it reached us (``None`` and 0 for a Unix socket).

    ``client_certificate`` is the subject of the certificate that it has shown, as RFC 4514 writes it, and
    only if one of the configured authorities vouches for it. ``certificate_names`` are the names in the
    certificate that it was shown, where Host has to be one of them (`tls.strict_sni`).
    """

    ip: IPAddress | None
    port: int = 0
    tls: bool = False
    listener: str = ""
    local_port: int = 0
    preface: Preface | None = None
    local_ip: IPAddress | None = None
    client_certificate: str | None = None
    certificate_names: tuple[str, ...] | None = None


class AddressSource(enum.Enum):
    """Where the client address came from; the log and the metrics use the values."""

    PEER = "peer"
    PROXY_PROTOCOL = "proxy_protocol"
    X_FORWARDED_FOR = "x_forwarded_for"
    FORWARDED = "forwarded"
    HEADER = "header"
    UNIX = "unix"


@dataclass(frozen=True, slots=True)
class Hop:
    """One step of the walk along the chain: what stood there and what was made of it."""

    text: str
    verdict: str


@dataclass(frozen=True, slots=True)
class ClientAddress:
    """The decision who the client is (rules/address.py).

    ``ip`` is ``None`` only when a Unix-socket peer named nobody. ``trusted_chain`` holds the
    addresses that were walked over because they are trusted, in the order of the header (leftmost
    first), the peer not included: `append` mode writes them behind the client. ``peer_trusted``
    says whether the peer's other forwarding headers (proto, host, port) may be believed.
    ``trail`` names every hop looked at, nearest first, with the reason.
    """

    ip: IPAddress | None
    source: AddressSource
    peer_trusted: bool
    trusted_chain: tuple[IPAddress, ...] = ()
    trail: tuple[Hop, ...] = ()


class EndpointClass(enum.Enum):
    """What a path is for (PostHog fact: the endpoint classes); the log and metrics use the values."""

    INGEST_V0 = "ingest_v0"
    INGEST_V1 = "ingest_v1"
    REPLAY = "replay"
    FLAGS = "flags"
    SDK_READ = "sdk_read"
    BEARER_READ = "bearer_read"
    STREAM = "stream"
    PUBLIC = "public"
    PROTECTED = "protected"
    NEVER = "never"


SDK_CLASSES = frozenset(
    {
        EndpointClass.INGEST_V0,
        EndpointClass.INGEST_V1,
        EndpointClass.REPLAY,
        EndpointClass.FLAGS,
        EndpointClass.SDK_READ,
        EndpointClass.BEARER_READ,
        EndpointClass.STREAM,
    }
)
"""The classes that SDKs talk to from other origins: our own answers mirror CORS there, and such a
path is never redirected."""


class SpoolMode(enum.Enum):
    """What becomes of a request that the spool may keep: nothing (it is as if there were no spool), it is
    kept when PostHog does not take it, or always, before PostHog hears of it."""

    OFF = "off"
    FALLBACK = "fallback"
    FIRST = "first"


SPOOLED_CLASSES = frozenset({EndpointClass.INGEST_V0, EndpointClass.REPLAY})
"""The classes that may be kept and delivered later (PostHog fact: their answer is always the same, while
v1 ingest answers for each event)."""


class Access(enum.Enum):
    """Who may ask for a path (rules/access.py): everybody; whoever has an ``Authorization: Bearer``, which
    PostHog checks; whoever meets what `[access]` demands; nobody from outside."""

    PUBLIC = "public"
    BEARER = "bearer"
    PROTECTED = "protected"
    NEVER = "never"


class Credential(enum.Enum):
    """What only the outside can check: a password against its hash, a session with a service."""

    BASIC = "basic"
    FORWARD = "forward_auth"


@dataclass(frozen=True, slots=True)
class Ask:
    """The request may go on once its credentials are checked, in this order: all of them, or with
    ``one_suffices`` any of them."""

    credentials: tuple[Credential, ...]
    one_suffices: bool = False


@dataclass(frozen=True, slots=True)
class Route:
    """Where a path goes and what holds there. Sizes in bytes, times in seconds.

    ``resend_held`` allows one more try of a non-idempotent request that is wholly in memory when a
    reused upstream connection died before an answer byte (uuids make a second delivery harmless).
    ``first_byte_timeout`` runs from the end of the held body to the first byte of the answer;
    ``answer_stall_timeout`` is the longest pause inside the answer; ``body_timeout`` the longest
    whole request body. Upstream the target's first ``cut`` bytes are replaced by ``lead``
    (rules/routing.outgoing_target). ``drop_cookies`` leaves Cookie lines out.
    """

    name: str
    cls: EndpointClass
    upstream: str
    body_limit: int
    body_timeout: float
    connect_timeout: float
    first_byte_timeout: float
    answer_stall_timeout: float
    resend_held: bool = False
    websocket: bool = False
    spool: SpoolMode = SpoolMode.OFF
    fast: bool = False
    sdk: bool = False
    access: Access = Access.PROTECTED
    cut: int = 0
    lead: bytes = b""
    drop_cookies: bool = False


Trail: TypeAlias = Callable[[], tuple[str, ...]]
"""Makes the sentences of a decision's ``because``."""


@dataclass(frozen=True, slots=True)
class Forward:
    """Send it on: the derived head, ready to be rendered (rules/forwarding.py made ``fields``).
    ``dropped``: what was taken away for safety, in the words of rules/forwarding.py, for the counter.
    ``ask``: only after these credentials have been checked (serve/admission.py)."""

    route: Route
    client: ClientAddress
    target: bytes
    fields: Fields
    request_id: str
    dropped: tuple[str, ...] = ()
    ask: Ask | None = None
    hsts: bytes = b""
    """The Strict-Transport-Security of the answer; empty: what the upstream says."""
    trail: Trail = field(default=tuple, compare=False, repr=False)

    @property
    def because(self) -> tuple[str, ...]:
        """The steps that led here, as sentences; made when asked for, as hardly anybody asks."""
        return self.trail()


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answer it ourselves. ``reason`` is the machine word for log and counter, ``detail`` the
    sentence for the client; ``close`` ends the connection afterwards (lingering). ``fields`` are lines that
    the answer has besides (a challenge, where to go instead); with a ``body``, that stands in place of ours
    and ``fields`` describe it."""

    status: int
    reason: str
    detail: str
    close: bool
    cls: EndpointClass
    client: ClientAddress | None = None
    retry_after: int | None = None
    route: Route | None = None
    fields: Fields = ()
    body: bytes | None = None
    trail: Trail = field(default=tuple, compare=False, repr=False)

    @property
    def because(self) -> tuple[str, ...]:
        """The steps that led here, as sentences; made when asked for, as hardly anybody asks."""
        return self.trail()


Decision: TypeAlias = Forward | Refuse
