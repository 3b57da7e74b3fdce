"""What is too big, too many or too slow: `[limits]` and `[timeouts]`."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.config.declaration import KIB, MIB, key


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
    splice_bytes: int = key(
        128 * KIB,
        unit="bytes",
        minimum=0,
        doc="The rest of a body of known length is moved by the kernel alone from this size on (splice(2): "
        "Linux, no TLS), and copied below it. 0: always copied.",
        why="Measured: a smaller rest is copied in the time that the pipe takes to set up.",
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
    rate_per_client: float = key(
        0.0,
        unit="requests/s",
        minimum=0,
        doc="Forwarded requests of one client address (IPv6 by /64) on all paths together; above: 429. "
        "0: no limit. A trusted proxy is not limited, the clients that it names are.",
        why="nginx, HAProxy and Envoy have none by default: SDKs drop what is answered 429.",
    )
    rate_burst: int = key(
        100,
        unit="requests",
        minimum=1,
        doc="Requests that a client may send at once before rate_per_client holds.",
        why="A page of PostHog's app asks for dozens of things at a time.",
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
    proxy_protocol: float = key(
        5.0,
        unit="s",
        minimum=0.1,
        doc="PROXY protocol header, and on a TLS listener the first byte, from the connection's begin.",
        why="The protocol's text asks for at least 3: one lost packet is sent again by then.",
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
    tls_handshake: float = key(
        10.0,
        unit="s",
        minimum=0.1,
        doc="TLS handshake of a client.",
        why="Two round trips; asyncio and hypercorn 60.",
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
        doc="Connecting to an upstream, TLS included; in tcp mode too.",
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
    tcp_idle: float = key(
        3600.0,
        unit="s",
        minimum=0.1,
        doc="tcp mode: longest time without a byte in either direction.",
        why="HAProxy's advice for timeout tunnel; whoever is silent for longer sends keepalives.",
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
        doc="At stop and after a reload: running exchanges may end; the rest is cut.",
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
        doc="At stop and after a reload: streams (SSE, WebSocket) may go on this long.",
        why="A stream outlasts any drain; its client connects again at once.",
    )
    drain_idle: float = key(
        10.0,
        unit="s",
        minimum=0,
        doc="After a reload: an idle connection of before may wait this long for its next request, which is "
        "answered with Connection: close. At stop idle connections are closed at once, or after a second if "
        "they are so new that their first request may be on its way.",
        why="A close races the request that is on its way; busy SDKs and balancers send one within seconds.",
    )
    dns_refresh: float = key(
        15.0,
        unit="s",
        minimum=1,
        maximum=300,
        doc="Names of upstreams are resolved again after this; the last good answer is kept on failure.",
        why="nginx resolves once at start: users lost days of events.",
    )
