"""Every configuration key: its default, unit, allowed values, meaning, and why the default is that.

The dataclasses are the schema: `load.py` reads a mapping into them, and the documentation page is
generated from the metadata that ``key`` attaches. Sections are TOML tables of the same name. A running
proxy never changes its ``Config``; a reload builds a new one. The larger sections stand in access.py,
limits.py and upstreams.py; whoever uses the configuration imports everything from here.
"""

# ruff: noqa: RUF009, TC003 -- `key` is dataclasses.field with metadata, and the annotations are
# evaluated: keys.py reads each key's type from them.
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from proxy.config.access import AccessConfig
from proxy.config.admin import AdminConfig
from proxy.config.aliases import AliasesConfig
from proxy.config.cache import CacheConfig
from proxy.config.declaration import KIB, MIB, key
from proxy.config.fronts import FrontConfig
from proxy.config.limits import LimitsConfig, TimeoutsConfig
from proxy.config.listeners import ListenerConfig, configured_listeners
from proxy.config.spool import SpoolConfig
from proxy.config.tls import CertificateConfig, TlsConfig, configured_certificates
from proxy.config.upstreams import HealthConfig, PoolConfig, UpstreamConfig
from proxy.config.values import (
    Alias,
    Auto,
    ChainMode,
    ClientAuth,
    Deployment,
    HostPolicy,
    IPNetwork,
    ListenAddress,
    ListenerMode,
    LogFormat,
    LogLevel,
    Satisfy,
    TcpAddress,
    TlsVersion,
    UnixAddress,
    UpstreamUrl,
)
from proxy.message import Access, EndpointClass, SpoolMode

__all__ = [
    "KIB",
    "MIB",
    "AccessConfig",
    "AdminConfig",
    "Alias",
    "AliasesConfig",
    "Auto",
    "CacheConfig",
    "CertificateConfig",
    "ChainMode",
    "ClientAuth",
    "Config",
    "Deployment",
    "ForwardingConfig",
    "FrontConfig",
    "HealthConfig",
    "HostPolicy",
    "IPNetwork",
    "LimitsConfig",
    "ListenAddress",
    "ListenerConfig",
    "ListenerMode",
    "LogConfig",
    "LogFormat",
    "LogLevel",
    "PoolConfig",
    "PosthogConfig",
    "RouteConfig",
    "Satisfy",
    "SpoolConfig",
    "TcpAddress",
    "TimeoutsConfig",
    "TlsConfig",
    "TlsVersion",
    "TrustConfig",
    "UnixAddress",
    "UpstreamConfig",
    "UpstreamUrl",
    "configured_certificates",
    "configured_listeners",
    "uses_spool",
]


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
    spool: SpoolMode | None = key(
        None,
        doc="Instead of `spool.mode`, for v0 ingest and replay below this path; needs `spool.directory`.",
    )
    strip: str = key(
        "",
        form="path",
        doc="Beginning of `path` that is left out of what the upstream is sent; before a `/`.",
        why="PostHog's livestream service serves /livestream/* without that prefix.",
    )
    access: Access | None = key(
        None,
        doc="Who may ask for the path, whatever its class. `public`: everybody. `bearer`: whoever has an "
        "`Authorization: Bearer`, which PostHog checks; others as `protected`. `protected`: whoever "
        "`[access]` lets in. `never`: nobody. A prefix closes nothing that the built-in table opens, unless "
        "it lies within that line of the table, and opens nothing that must never be public.",
    )


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
    ranges_file: str = key(
        "",
        form="file",
        doc="TOML file that replaces or adds to what `behind` knows, in the form of "
        "proxy/config/data/fronts.toml.",
        why="Networks of CDNs change more often than a release comes.",
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
    answer_request_id: bool = key(
        False,
        doc="Tell the client the id of its request in X-Request-Id, in place of what the upstream says.",
        why="Bytes in every answer, for those who look for a request in the logs by it.",
    )
    drop_ingest_cookies: bool = key(
        False,
        doc="Leave Cookie lines out of what goes to event endpoints.",
        why="Ingestion reads none; a proxy on the site's own host gets all of the site's.",
    )
    allow_names: tuple[str, ...] = key(
        (),
        form="odd_header",
        doc="Header names with `_` or `.` that may pass; all others of that kind are dropped and counted.",
        why="Django maps `_` and `-` to one name, so X_Forwarded_For could impersonate ours.",
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
        doc="Access log: stdout, stderr, off, a file's path, journald (stderr with priorities), syslog (of "
        "this machine) or syslog:HOST:PORT (UDP).",
        why="Containers and systemd collect it.",
    )
    errors: str = key(
        "stderr",
        form="sink",
        doc="Error log: the same places.",
        why="Apart from the access log.",
    )
    level: LogLevel = key(
        LogLevel.INFO, doc="What the error log keeps.", why="Debug lines come with every request."
    )
    sample: float = key(
        100.0,
        unit="percent",
        minimum=0.0,
        maximum=100.0,
        doc="Share of the plain successes that get a line in the access log, by request id. Errors, "
        "refusals, cut answers and slow requests always do.",
        why="Everything, until somebody has to pay for it.",
    )
    quiet: tuple[EndpointClass, ...] = key(
        (),
        doc="Classes whose plain successes get no line: `sdk_read` or `flags`, say.",
        why="Whoever looks for one event wants to find it.",
    )
    slow: float = key(
        10.0,
        unit="s",
        minimum=0.0,
        maximum=3600.0,
        doc="A request that takes longer is always logged, and told in the error log with where the time "
        "went (one a second at most); 0: off. Streams and upgraded connections are not meant.",
        why="An SDK gives up after 10 s.",
    )


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration."""

    listen: tuple[ListenAddress, ...] = key(
        (TcpAddress("127.0.0.1", 8000),),
        minimum=0,
        doc="Where to listen for plain HTTP: HOST:PORT (port 0: any free one) or unix:/path; several "
        "allowed. The default holds only where there are neither `listen_tls` nor `[[listeners]]`.",
    )
    listen_tls: tuple[ListenAddress, ...] = key(
        (), doc="Where to listen for https, with `tls.certificate` or `[[certificates]]`; several allowed."
    )
    preset: Deployment | None = key(
        None,
        doc="Where PostHog runs: gives upstreams and routes, which single keys can still change.",
        why="The tables of PostHog's own recipes, without their flaws.",
    )
    behind: tuple[str, ...] = key(
        (),
        form="front",
        doc="What stands in front of this proxy; several allowed. Gives `trust.proxies` and `[[fronts]]`.",
        why="Whose word is believed depends on who is there; nobody, unless said.",
    )
    upstream: UpstreamUrl | None = key(None, doc="Short for the url of the upstream called `default`.")
    fast_path: bool = key(
        True,
        doc="Take the short way for ordinary requests to what is open to whoever comes; off only to compare.",
        why="It sends the same bytes for a tenth of the work.",
    )
    workers: int | Auto = key(
        1,
        unit="processes",
        minimum=1,
        maximum=256,
        doc="Worker processes; `auto`: as many as there are CPUs that this process may use (its affinity; a "
        "container's CPU quota is not seen). Limits, pools and breakers are each worker's own.",
        why="One process saturates a core; more than the machine's cores gain nothing.",
    )
    upstreams: Mapping[str, UpstreamConfig] = key(
        {}, doc="Upstreams by name; `default` takes what no route sends elsewhere."
    )
    routes: tuple[RouteConfig, ...] = key((), doc="Paths that go elsewhere.")
    fronts: tuple[FrontConfig, ...] = key((), doc="Proxies in front, and how each names the client.")
    listeners: tuple[ListenerConfig, ...] = key((), doc="Addresses that speak more than plain HTTP.")
    certificates: tuple[CertificateConfig, ...] = key((), doc="What TLS listeners show.")
    trust: TrustConfig = key(TrustConfig(), doc="Whose word about the client is believed.")
    forwarding: ForwardingConfig = key(ForwardingConfig(), doc="What is said upstream about the client.")
    aliases: AliasesConfig = key(AliasesConfig(), doc="Other names for PostHog's paths.")
    access: AccessConfig = key(AccessConfig(), doc="Who may ask for what.")
    tls: TlsConfig = key(TlsConfig(), doc="TLS towards clients.")
    posthog: PosthogConfig = key(PosthogConfig(), doc="What PostHog was told.")
    limits: LimitsConfig = key(LimitsConfig(), doc="Sizes and counts.")
    timeouts: TimeoutsConfig = key(TimeoutsConfig(), doc="Time-outs.")
    pool: PoolConfig = key(PoolConfig(), doc="Upstream connections.")
    health: HealthConfig = key(HealthConfig(), doc="When an upstream counts as down.")
    cache: CacheConfig = key(CacheConfig(), doc="What is kept of PostHog's scripts.")
    spool: SpoolConfig = key(SpoolConfig(), doc="What is kept on disk while PostHog is away.")
    log: LogConfig = key(LogConfig(), doc="Logs.")
    admin: AdminConfig = key(AdminConfig(), doc="Where operators ask how it is.")


def uses_spool(config: Config) -> bool:
    """Is there a spool, and a route that may use it?"""
    modes = [config.spool.mode, *(route.spool for route in config.routes)]
    return bool(config.spool.directory) and any(mode not in (None, SpoolMode.OFF) for mode in modes)
