"""The servers behind the proxy and how they are used: `[upstreams.NAME]`, `[pool]` and `[health]`."""

# ruff: noqa: RUF009 -- `key` is dataclasses.field with metadata.
from __future__ import annotations

from dataclasses import dataclass

from proxy.config.declaration import key
from proxy.config.values import HostPolicy, UpstreamUrl


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
    proxy_protocol: bool = key(
        False,
        doc="Begin each connection with a PROXY protocol header (v2) that names the client, before TLS. A "
        "connection then carries one request only, because the next one would be another client's.",
        why="Only a server that expects the header understands it; PostHog itself reads X-Forwarded-For.",
    )
    client_cert: str = key(
        "",
        form="file",
        doc="PEM file of the certificate that this proxy shows it, then its intermediates.",
        why="Most upstreams ask for none.",
    )
    client_key: str = key(
        "", form="file", doc="PEM file of its private key, not encrypted; empty: in the same file."
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
        doc="Longest time that it stays open. (While connecting fails, that alone is tried every second, and "
        "the upstream is asked again once it works.)",
        why="An upstream that was sick is found to be well within a minute.",
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
