"""Every configuration key: its default, unit, allowed values, meaning, and why the default is that.

The dataclasses are the schema: `load.py` reads a mapping into them, and the documentation page is
generated from the metadata that ``key`` attaches. Sections are TOML tables of the same name. A running
proxy never changes its ``Config``; a reload builds a new one.
"""

# ruff: noqa: RUF009, TC001, TC003 -- `key` is dataclasses.field with metadata, and the annotations are
# evaluated: keys.py reads each key's type from them.
from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Any, TypeAlias

from proxy.message import EndpointClass

IPNetwork: TypeAlias = IPv4Network | IPv6Network

KIB = 1024
MIB = 1024 * 1024

CEILINGS: Mapping[str, float] = {"s": 7 * 86_400, "bytes": 1024 * 1024 * MIB}
"""The largest value of a number that names no ``maximum``, by unit: a week, 1 TiB."""

COUNT_CEILING = 1_000_000
"""The same for everything that is counted."""


def key(
    default: Any = dataclasses.MISSING,
    *,
    doc: str,
    unit: str = "",
    why: str = "",
    minimum: float | None = None,
    maximum: float | None = None,
    form: str = "",
) -> Any:
    """Declare a key. ``doc`` is one sentence; ``why`` names the precedent or the PostHog fact behind
    the default; ``minimum`` and ``maximum`` bound numbers (both allowed values themselves) and the length
    of lists; ``form`` names what a text must look like (notation.FORMS)."""
    if maximum is None and minimum is not None:
        maximum = CEILINGS.get(unit, COUNT_CEILING)
    metadata = {"doc": doc, "unit": unit, "why": why, "minimum": minimum, "maximum": maximum, "form": form}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """``HOST:PORT``; an IPv6 host is written in brackets. Port 0: the system chooses."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """``unix:/absolute/path``."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


ListenAddress: TypeAlias = TcpAddress | UnixAddress


@dataclass(frozen=True, slots=True)
class UpstreamUrl:
    """``http://host[:port]``, ``https://host[:port]`` or ``unix:/path``; never with a path or query.

    ``address`` is where to connect; ``tls`` whether to speak TLS there.
    """

    address: TcpAddress | UnixAddress
    tls: bool = False

    @property
    def authority(self) -> str:
        """The Host value that names this upstream: without the port where it is the scheme's own."""
        if isinstance(self.address, UnixAddress):
            return "localhost"
        default = 443 if self.tls else 80
        if self.address.port == default:
            return f"[{self.address.host}]" if ":" in self.address.host else self.address.host
        return str(self.address)

    def __str__(self) -> str:
        if isinstance(self.address, UnixAddress):
            return str(self.address)
        return f"{'https' if self.tls else 'http'}://{self.authority}"


class HostPolicy(enum.Enum):
    """Which Host an upstream is sent: the client's, exactly as received, or the upstream's own name
    (PostHog Cloud answers 401 or 502 to any other)."""

    KEEP = "keep"
    UPSTREAM = "upstream"


class ChainMode(enum.Enum):
    """What X-Forwarded-For says upstream: one computed address, or nginx's appended chain."""

    COLLAPSE = "collapse"
    APPEND = "append"


class LogFormat(enum.Enum):
    """One JSON object a line, or one line for human eyes."""

    JSON = "json"
    TEXT = "text"


class LogLevel(enum.Enum):
    """What the error log keeps."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class UpstreamConfig:
    """`[upstreams.NAME]`: one server that requests can be sent to."""

    url: UpstreamUrl = key(doc="Where it listens: http://host[:port], https://host[:port] or unix:/path.")
    host: HostPolicy = key(
        HostPolicy.KEEP,
        doc="Which Host header it is sent: the client's (keep) or its own name (upstream).",
        why="Django checks Host for CSRF and builds links from it; PostHog Cloud wants its own name.",
    )
    ca_file: str = key(
        "",
        form="file",
        doc="PEM file of the authorities that its certificate is checked against, instead of the system's.",
        why="A private PostHog has a private authority; the system's list is right for PostHog Cloud.",
    )
    server_name: str = key(
        "",
        form="host",
        doc="Name for SNI and certificate check, where it is not the URL's host.",
        why="PostHog Cloud and most balancers choose the certificate by this name.",
    )
    insecure: bool = key(
        False,
        doc="Do not verify its certificate. Warned about at every start.",
        why="Unverified TLS hides nothing from whoever stands in between.",
    )
    idle_timeout: float = key(
        4.0,
        unit="s",
        minimum=0,
        doc="Close a pooled connection that has been idle this long.",
        why="gunicorn closes idle connections after 2 s, uvicorn after 5; 60 suits PostHog's Rust services.",
    )
    health_path: str = key(
        "",
        form="path",
        doc="Path for active health probes, for example /_health; empty: no active probes.",
        why="Requests show whether it works; a probe finds out before the first client does.",
    )


@dataclass(frozen=True, slots=True)
class RouteConfig:
    """`[[routes]]`: send paths elsewhere, or change what holds there. Unset keys keep the class's value."""

    path: str = key(
        form="route",
        doc="Exact path, or a prefix ending in `*`; matched before the built-in table, longest first.",
    )
    upstream: str = key("", form="upstream", doc="Name of an upstream; empty: the default one.")
    cls: EndpointClass | None = key(
        None, doc="Treat the path as this endpoint class; unset: what the built-in table says."
    )
    body_limit: int | None = key(None, unit="bytes", minimum=0, doc="Largest request body.")
    first_byte_timeout: float | None = key(
        None, unit="s", minimum=0.1, doc="Longest wait for the answer to begin."
    )
    answer_stall_timeout: float | None = key(
        None, unit="s", minimum=0.1, doc="Longest pause inside the answer."
    )
    websocket: bool | None = key(None, doc="Allow WebSocket upgrades.")


@dataclass(frozen=True, slots=True)
class TrustConfig:
    """`[trust]`: whose word about the client is believed."""

    proxies: tuple[IPNetwork, ...] = key(
        (),
        doc="Addresses and CIDR blocks of the proxies in front of this one.",
        why="The client is the rightmost address of the chain not listed here (nginx real_ip_recursive on).",
    )
    all: bool = key(
        False,
        doc="Believe every peer (PostHog's TRUST_ALL_PROXIES). Any client can then choose its address.",
        why="Right only where nobody but proxies can connect.",
    )
    unix: bool = key(
        False,
        doc="Believe peers on Unix sockets.",
        why="A Unix socket has no address to look up in the list.",
    )
    hops: int = key(
        0,
        unit="hops",
        minimum=0,
        maximum=64,
        doc="Instead of the list: this many proxies stand in front; a shorter chain gives the peer.",
        why="For balancers whose addresses change (Envoy xff_num_trusted_hops).",
    )
    forwarded: bool = key(
        False,
        doc="Read RFC 7239 Forwarded where a trusted peer sent no X-Forwarded-For.",
        why="No balancer of PostHog's documentation sends it; a header that is not read cannot lie.",
    )
    client_header: str = key(
        "",
        form="header",
        doc="A header in which a trusted peer names the client, such as CF-Connecting-IP.",
        why="Any client can send it; only a CDN that overwrites it makes it true.",
    )


@dataclass(frozen=True, slots=True)
class ForwardingConfig:
    """`[forwarding]`: what is said upstream about the client."""

    chain: ChainMode = key(
        ChainMode.COLLAPSE,
        doc="X-Forwarded-For as one address (collapse), or as nginx's $proxy_add_x_forwarded_for "
        "with trusted hops only (append).",
        why="One bare address is the only form on which all PostHog services agree.",
    )
    anonymise: bool = key(
        False,
        doc="Send and log the client's network only: /24 for IPv4, /48 for IPv6.",
        why="PostHog places visitors on its map by address; anonymised ones are placed roughly.",
    )
    via: bool = key(
        False,
        doc="Add a Via line to requests and answers.",
        why="Nothing at PostHog reads it, and nginx does not compress for a request that has it.",
    )
    allow_names: tuple[str, ...] = key(
        (),
        form="odd_header",
        doc="Header names with `_` or `.` that may pass; all others of that kind are dropped and counted.",
        why="Django maps `_` and `-` to one name, so X_Forwarded_For could impersonate ours.",
    )


@dataclass(frozen=True, slots=True)
class AccessConfig:
    """`[access]`: who may ask for what."""

    allowed_hosts: tuple[str, ...] = key(
        ("*",),
        minimum=1,
        form="host_pattern",
        doc="Hosts that are served, as Django reads them: a name, `.example.com` with all below it, or `*`. "
        "Others get 421.",
        why="PostHog's own default.",
    )


@dataclass(frozen=True, slots=True)
class PosthogConfig:
    """`[posthog]`: what PostHog behind this proxy was told, where it matters here."""

    secure_ssl_redirect: bool = key(
        True,
        doc="PostHog redirects plain http to https (false where its DISABLE_SECURE_SSL_REDIRECT is set).",
        why="PostHog's own default; used to warn at start of an endless redirect.",
    )


@dataclass(frozen=True, slots=True)
class LimitsConfig:
    """`[limits]`: sizes and counts. Each has its own reason in log and counter when it is hit."""

    head_bytes: int = key(
        64 * KIB,
        unit="bytes",
        minimum=1024,
        maximum=MIB,
        doc="Request head; above: 431.",
        why="App cookies grow large; nginx 4 x 8 KiB, Envoy 60.",
    )
    head_lines: int = key(
        128,
        unit="lines",
        minimum=16,
        maximum=1024,
        doc="Header lines of a request; above: 431.",
        why="HAProxy 101; Envoy, hyper, gunicorn 100.",
    )
    target_bytes: int = key(
        32 * KIB,
        unit="bytes",
        minimum=256,
        maximum=MIB,
        doc="Request target; above: 414.",
        why="Legacy `?data=` events and long app URLs; nginx 8 KiB.",
    )
    body_ingest: int = key(
        20 * MIB,
        unit="bytes",
        minimum=1024,
        doc="Body on event endpoints; above: 413.",
        why="PostHog takes 20 MiB on /batch.",
    )
    body_replay: int = key(
        64 * MIB,
        unit="bytes",
        minimum=1024,
        doc="Body on /s; above: 413.",
        why="PostHog's docs tell proxies to allow 64 MB; nginx's 1 MiB is the classic lost replay.",
    )
    body_flags: int = key(
        4 * MIB,
        unit="bytes",
        minimum=1024,
        doc="Body on flags and SDK reads; above: 413.",
        why="Person properties of one user; far above what SDKs send.",
    )
    body_app: int = key(
        64 * MIB,
        unit="bytes",
        minimum=1024,
        doc="Body on everything else; above: 413.",
        why="Uploads of source maps and imports go through the app.",
    )
    held_body: int = key(
        64 * KIB,
        unit="bytes",
        minimum=0,
        maximum=MIB,
        doc="A body up to this size is complete before an upstream is asked for; a larger one streams.",
        why="Slow bodies must not pin upstream connections, and what is held can be sent again.",
    )
    read_buffer: int = key(
        64 * KIB,
        unit="bytes",
        minimum=4096,
        maximum=MIB,
        doc="Unread bytes of a connection at which reading pauses.",
        why="Pingora 64 KiB.",
    )
    write_buffer: int = key(
        256 * KIB,
        unit="bytes",
        minimum=4096,
        maximum=16 * MIB,
        doc="Queued bytes to a connection at which the other side pauses.",
        why="Enough for one round trip on fast links; bounds the memory of a slow client.",
    )
    answer_head_bytes: int = key(
        64 * KIB,
        unit="bytes",
        minimum=1024,
        maximum=MIB,
        doc="Answer head; above: 502 naming the largest header.",
        why="nginx's one page gives `upstream sent too big header`.",
    )
    answer_head_lines: int = key(
        128,
        unit="lines",
        minimum=16,
        maximum=1024,
        doc="Header lines of an answer; above: 502.",
        why="As for requests.",
    )
    interim_answers: int = key(
        8,
        unit="answers",
        minimum=0,
        maximum=64,
        doc="1xx answers before the final one; above: 502.",
        why="Early hints come once or twice; more is an upstream gone wrong.",
    )
    trailer_bytes: int = key(
        8 * KIB,
        unit="bytes",
        minimum=0,
        maximum=MIB,
        doc="Trailers of a chunked body; read, then dropped.",
        why="Nothing at PostHog sends or reads trailers.",
    )
    connections: int = key(
        10_000,
        unit="connections",
        minimum=1,
        doc="Client connections of the process; also bounded by (descriptors - 256) / 2. At the limit idle "
        "ones are closed first, then accepting stops.",
        why="Envoy's edge advice.",
    )
    connections_per_client: int = key(
        256,
        unit="connections",
        minimum=0,
        doc="Connections of one untrusted client address (IPv6 by /64); 0: no limit. Above: closed at once.",
        why="Browsers open 6 to a host; whole offices share one address.",
    )
    requests_per_connection: int = key(
        10_000,
        unit="requests",
        minimum=1,
        doc="Requests on one client connection before it is closed.",
        why="nginx 1000; browsers send few, balancers many.",
    )
    linger_bytes: int = key(
        4 * MIB,
        unit="bytes",
        minimum=0,
        doc="Unread body that is still read and thrown away before a refused connection closes.",
        why="Without it the reset eats the 413 that was just sent.",
    )
    backlog: int = key(
        2048,
        unit="connections",
        minimum=1,
        maximum=65_535,
        doc="Connections that the kernel queues for accept.",
        why="The kernel lowers it to net.core.somaxconn.",
    )


@dataclass(frozen=True, slots=True)
class TimeoutsConfig:
    """`[timeouts]`: all in seconds."""

    head: float = key(
        10.0,
        unit="s",
        minimum=0.1,
        doc="Whole request head, from its first byte.",
        why="A per-read timer lets one byte per interval live for ever.",
    )
    body_stall: float = key(
        30.0,
        unit="s",
        minimum=0.1,
        doc="Longest pause inside a request body; then 408.",
        why="nginx and Caddy 60; SDKs send from memory.",
    )
    body_ingest: float = key(
        90.0,
        unit="s",
        minimum=0.1,
        doc="Whole request body on SDK endpoints; then 408.",
        why="posthog-js gives up at 60.",
    )
    body_app: float = key(
        600.0,
        unit="s",
        minimum=0.1,
        doc="Whole request body elsewhere; then 408.",
        why="Large uploads over slow lines.",
    )
    body_min_rate: int = key(
        500,
        unit="bytes/s",
        minimum=0,
        maximum=MIB,
        doc="Slowest mean rate of a request body after body_rate_grace; then 408. 0: off.",
        why="Below it a body is an attack or hopeless (posthog-js has given up by then).",
    )
    body_rate_grace: float = key(
        10.0,
        unit="s",
        minimum=0,
        doc="Time before body_min_rate is judged.",
        why="A slow start is no slow body.",
    )
    write_stall: float = key(
        60.0,
        unit="s",
        minimum=0.1,
        doc="Longest time that a client takes nothing of a waiting answer.",
        why="nginx send_timeout 60, Caddy 60.",
    )
    keep_alive: float = key(
        75.0,
        unit="s",
        minimum=0,
        doc="Idle client connection.",
        why="Must exceed the idle time of a balancer in front (ALB 60), else its pool races our close.",
    )
    keep_alive_age: float = key(
        3600.0,
        unit="s",
        minimum=1,
        doc="Age of a client connection (spread by 10 %) after which it is closed between requests.",
        why="nginx 1 h; lets balancers spread connections anew.",
    )
    connect: float = key(
        3.0,
        unit="s",
        minimum=0.1,
        doc="Connecting to an upstream, TLS included.",
        why="Caddy 3, Envoy 5; one lost packet costs 1.",
    )
    connect_flags: float = key(
        1.0, unit="s", minimum=0.1, doc="The same for flags.", why="SDKs give up on flags at 3 s in all."
    )
    first_byte_ingest: float = key(
        30.0,
        unit="s",
        minimum=0.1,
        doc="Answer of an event endpoint to begin; then 503.",
        why="Capture answers once its queue has the events; posthog-js waits 60, python 15, node 10.",
    )
    first_byte_flags: float = key(
        2.5,
        unit="s",
        minimum=0.1,
        doc="Answer of /flags to begin; then 504.",
        why="SDKs give up at 3 s and retry only 502 and 504 there.",
    )
    first_byte_sdk: float = key(
        10.0,
        unit="s",
        minimum=0.1,
        doc="Answer of other SDK reads to begin; then 504.",
        why="Files and cached answers: nothing is computed for them.",
    )
    first_byte_app: float = key(
        300.0,
        unit="s",
        minimum=0.1,
        doc="Answer of everything else to begin; then 504.",
        why="Queries of the app run for minutes.",
    )
    answer_stall: float = key(
        60.0, unit="s", minimum=0.1, doc="Longest pause inside an answer.", why="nginx proxy_read_timeout 60."
    )
    stream_stall: float = key(
        2100.0,
        unit="s",
        minimum=0.1,
        doc="The same on streams (/livestream, /flags/stream).",
        why="Livestream has no heartbeat and ends at 1800.",
    )
    upgraded_idle: float = key(
        3600.0, unit="s", minimum=0.1, doc="Idle WebSocket.", why="HAProxy's advice for timeout tunnel."
    )
    linger: float = key(
        5.0,
        unit="s",
        minimum=0,
        doc="Lingering close: how long the rest of a refused body is read.",
        why="nginx lingering_timeout 5.",
    )
    drain: float = key(
        25.0,
        unit="s",
        minimum=0,
        doc="At stop: running exchanges may end; the rest is cut.",
        why="Kubernetes kills at 30, the shipped systemd unit at 35.",
    )
    drain_delay: float = key(
        0.0,
        unit="s",
        minimum=0,
        doc="At stop: go on accepting this long (Connection: close at once) so that a balancer notices.",
        why="Only a balancer that polls readiness needs it.",
    )
    drain_streams: float = key(
        5.0,
        unit="s",
        minimum=0,
        doc="At stop: streams (SSE, WebSocket) may go on this long.",
        why="A stream outlasts any drain; its client connects again at once.",
    )
    dns_refresh: float = key(
        15.0,
        unit="s",
        minimum=1,
        maximum=300,
        doc="Names of upstreams are resolved again after this; the last good answer is kept on failure.",
        why="nginx resolves once at start: users lost days of events.",
    )


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """`[pool]`: upstream connections, per process and upstream."""

    idle: int = key(
        128, unit="connections", minimum=0, doc="Idle connections kept.", why="Pingora 128, nginx 32."
    )
    connections: int = key(
        512,
        unit="connections",
        minimum=1,
        doc="Connections in use at once; further requests wait in line.",
        why="More than one capture or Django process serves well at once.",
    )
    waiting: int = key(
        1024,
        unit="requests",
        minimum=0,
        doc="Requests waiting in line; above: 503.",
        why="Two rounds of the connections; a longer line only ends in time-outs.",
    )
    max_age: float = key(
        600.0,
        unit="s",
        minimum=1,
        doc="Age of a connection (spread by 10 %) after which it is not used again.",
        why="Lets a balancer behind spread connections anew, and changed names be followed.",
    )
    retries: int = key(
        2,
        unit="tries",
        minimum=0,
        maximum=10,
        doc="Further tries when connecting failed and nothing was sent.",
        why="HAProxy 3; each goes to another address of the name first.",
    )
    retry_share: float = key(
        0.1,
        minimum=0,
        maximum=1,
        doc="Retries as a share of the requests of the last 10 s; at least 3 are always allowed.",
        why="Envoy 20 % of active requests; more would double the load of an outage.",
    )


@dataclass(frozen=True, slots=True)
class HealthConfig:
    """`[health]`: when an upstream counts as down."""

    breaker: bool = key(
        True,
        doc="Stop asking an upstream that keeps failing; one probe request tries it again.",
        why="Asking a dead upstream costs every client the whole time-out.",
    )
    consecutive_failures: int = key(
        5,
        unit="failures",
        minimum=1,
        doc="Connect errors, time-outs, 502, 503 or 504 in a row that open the breaker.",
        why="Envoy 5; nginx 1 takes one hiccup for an outage.",
    )
    failure_share: float = key(
        0.5,
        minimum=0.01,
        maximum=1,
        doc="Or this share of at least 20 requests in 10 s.",
        why="Half failing is worse than a clean 503 that SDKs retry.",
    )
    open_min: float = key(
        5.0,
        unit="s",
        minimum=0.1,
        doc="First time that the breaker stays open; doubles at each failed probe.",
        why="As long as a container takes to restart.",
    )
    open_max: float = key(
        60.0,
        unit="s",
        minimum=0.1,
        doc="Longest time that it stays open.",
        why="An upstream that is back is found within a minute.",
    )
    interval: float = key(
        5.0,
        unit="s",
        minimum=0.1,
        doc="Active probe of health_path (spread by 20 %).",
        why="HAProxy 2, Caddy and Traefik 30.",
    )
    timeout: float = key(
        2.0,
        unit="s",
        minimum=0.1,
        doc="Active probe: time-out.",
        why="A health page that takes longer is not healthy; Caddy and Traefik 5.",
    )
    rise: int = key(
        2, unit="probes", minimum=1, doc="Good probes that bring an upstream back.", why="HAProxy 2."
    )
    fall: int = key(3, unit="probes", minimum=1, doc="Bad probes that take it out.", why="HAProxy 3.")


@dataclass(frozen=True, slots=True)
class LogConfig:
    """`[log]`: the access log, one line a request, and the error log."""

    format: LogFormat = key(
        LogFormat.JSON,
        doc="One JSON object a line, or text for humans.",
        why="Collectors read JSON; nothing has to be parsed back.",
    )
    access: str = key(
        "stdout",
        form="sink",
        doc="Access log: stdout, stderr, off, or a file's path.",
        why="Containers and systemd collect it.",
    )
    errors: str = key(
        "stderr",
        form="sink",
        doc="Error log: stdout, stderr, off, or a file's path.",
        why="Apart from the access log.",
    )
    level: LogLevel = key(
        LogLevel.INFO, doc="What the error log keeps.", why="Debug lines come with every request."
    )


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration."""

    listen: tuple[ListenAddress, ...] = key(
        (TcpAddress("127.0.0.1", 8000),),
        minimum=1,
        doc="Where to listen: HOST:PORT (port 0: any free one) or unix:/path; several allowed.",
    )
    upstream: UpstreamUrl | None = key(None, doc="Short for the url of the upstream called `default`.")
    workers: int = key(
        1,
        unit="processes",
        minimum=1,
        maximum=256,
        doc="Worker processes.",
        why="One process saturates a core; more than the machine's cores gain nothing.",
    )
    upstreams: Mapping[str, UpstreamConfig] = key(
        {}, doc="Upstreams by name; `default` takes what no route sends elsewhere."
    )
    routes: tuple[RouteConfig, ...] = key((), doc="Paths that go elsewhere.")
    trust: TrustConfig = key(TrustConfig(), doc="Whose word about the client is believed.")
    forwarding: ForwardingConfig = key(ForwardingConfig(), doc="What is said upstream about the client.")
    access: AccessConfig = key(AccessConfig(), doc="Who may ask for what.")
    posthog: PosthogConfig = key(PosthogConfig(), doc="What PostHog was told.")
    limits: LimitsConfig = key(LimitsConfig(), doc="Sizes and counts.")
    timeouts: TimeoutsConfig = key(TimeoutsConfig(), doc="Time-outs.")
    pool: PoolConfig = key(PoolConfig(), doc="Upstream connections.")
    health: HealthConfig = key(HealthConfig(), doc="When an upstream counts as down.")
    log: LogConfig = key(LogConfig(), doc="Logs.")
