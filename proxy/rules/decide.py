"""One request head to one decision: where the rules meet.

The order is fixed: client address, route, then the reasons to refuse (host not served, ambiguous path,
plain http, access, declared size), then the outgoing head. The route is looked up before the host is
judged because its class says how even that refusal is answered (CORS on SDK paths). Nobody is asked for a
password over plain http that a page is redirected from; what is never public is not redirected either.

``because`` tells the steps that were taken, as sentences for `explain` and for error logs.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxy.config.presets import DEFAULT_UPSTREAM
from proxy.config.schema import HostPolicy, UpstreamConfig
from proxy.errors import ConfigError, Problem
from proxy.message import Access, Ask, EndpointClass, Forward, FramingKind, Refuse
from proxy.rules.access import AccessTable, Denial, HostTable, access_verdict, host_denial
from proxy.rules.address import TrustTable, client_address
from proxy.rules.claims import effective_request_id
from proxy.rules.forward_auth import ForwardAuthTable
from proxy.rules.forwarding import ForwardingTable, request_fields
from proxy.rules.routing import Mismatch, RoutingTable, outgoing_target
from proxy.rules.transport import TransportTable, hsts_value, transport_denial

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxy.config.schema import Config
    from proxy.message import ClientAddress, Decision, Peer, RequestHead, Route


@dataclass(frozen=True, slots=True)
class UpstreamName:
    """Which Host an upstream is sent: ``authority`` is its own; ``keep`` prefers the client's."""

    authority: bytes
    keep: bool

    def host(self, asked: bytes | None) -> bytes:
        """Return the Host to send for a request that came with ``asked``."""
        return asked if self.keep and asked is not None else self.authority


@dataclass(frozen=True, slots=True)
class Tables:
    """A configuration, made ready for look-ups. Built once per configuration, read by every request."""

    trust: TrustTable
    hosts: HostTable
    access: AccessTable
    forward_auth: ForwardAuthTable
    routing: RoutingTable
    forwarding: ForwardingTable
    upstreams: Mapping[str, UpstreamName]
    transport: TransportTable

    @classmethod
    def of(cls, config: Config) -> Tables:
        """Build all tables. Raises ``ConfigError`` for a route that cannot be taken or followed, or a header
        that forward authentication cannot send or take."""
        routing = RoutingTable.of(config)
        upstreams = {name: _named(upstream) for name, upstream in configured_upstreams(config).items()}
        known = ", ".join(sorted(upstreams)) or "none is configured"
        missing = sorted(routing.upstreams - upstreams.keys())
        if missing:
            raise ConfigError(
                *(Problem("upstreams", name, f"no such upstream; known: {known}") for name in missing)
            )
        forward_auth = ForwardAuthTable.of(config.access)
        return cls(
            TrustTable.of(config.trust, config.fronts),
            HostTable.of(config.access),
            AccessTable.of(config.access),
            forward_auth,
            routing,
            ForwardingTable.of(config.forwarding, forward_auth.copy),
            upstreams,
            TransportTable.of(config.tls),
        )


def configured_upstreams(config: Config) -> Mapping[str, UpstreamConfig]:
    """Return the upstreams by name; the short form ``upstream`` gives the default one its URL."""
    if config.upstream is None or DEFAULT_UPSTREAM in config.upstreams:
        return config.upstreams
    return {**config.upstreams, DEFAULT_UPSTREAM: UpstreamConfig(url=config.upstream)}


def _named(upstream: UpstreamConfig) -> UpstreamName:
    return UpstreamName(upstream.url.authority.encode(), upstream.host is HostPolicy.KEEP)


def decide(head: RequestHead, peer: Peer, tables: Tables, request_id: str) -> Decision:
    """Decide what becomes of a request; never raises. ``request_id`` is the one it goes by unless a
    trusted peer named another. Equal arguments give equal decisions, so a decision can be cached."""
    client = client_address(peer, head.fields, tables.trust)
    routed = tables.routing.route(head.target)
    denial = host_denial(head.host, tables.hosts, head.target)
    if isinstance(routed, Mismatch):
        ambiguous = Denial(routed.status, routed.reason, routed.detail)
        return refuse(denial or ambiguous, head, client, None)
    if denial is None and routed.access is not Access.NEVER:
        denial = transport_denial(head, peer, client, routed.cls, tables.transport, tables.hosts.allows)
    verdict = denial or access_verdict(routed.access, head, client, peer, tables.access)
    ask = verdict if isinstance(verdict, Ask) else None
    denial = verdict if isinstance(verdict, Denial) else _size_denial(head, routed)
    if denial is not None:
        return refuse(denial, head, client, routed)
    return _forward(head, peer, tables, request_id, client, routed, ask)


def _size_denial(head: RequestHead, route: Route) -> Denial | None:
    """Refuse a declared length before a byte of the body is read; a chunked one is counted later."""
    if head.framing.kind is not FramingKind.LENGTH or head.framing.length <= route.body_limit:
        return None
    return Denial(413, "body_too_large", f"the body is larger than {route.body_limit} bytes")


def refuse(denial: Denial, head: RequestHead, client: ClientAddress, route: Route | None) -> Refuse:
    """Return the decision not to forward, for this reason."""
    return Refuse(
        status=denial.status,
        reason=denial.reason,
        detail=denial.detail,
        # A body that nobody will read must not be taken for the next request.
        close=denial.status in (400, 413) or head.framing.kind is not FramingKind.NONE,
        cls=EndpointClass.PROTECTED if route is None else route.cls,
        client=client,
        route=route,
        trail=functools.partial(_refusal_trail, denial, client, route),
        retry_after=denial.retry_after,
        fields=denial.fields,
        body=denial.body,
    )


def _refusal_trail(denial: Denial, client: ClientAddress, route: Route | None) -> tuple[str, ...]:
    return (
        *_client_trail(client),
        *(() if route is None else (_route_sentence(route),)),
        f"refused with {denial.status} {denial.reason}: {denial.detail}",
    )


def _forward(
    head: RequestHead,
    peer: Peer,
    tables: Tables,
    request_id: str,
    client: ClientAddress,
    route: Route,
    ask: Ask | None,
) -> Forward:
    host = upstream_host(tables, route, head.host)
    request_id = effective_request_id(head, client, request_id)
    websocket = head.websocket and route.websocket
    outgoing = request_fields(
        head,
        peer,
        client,
        host,
        request_id,
        tables.forwarding,
        websocket=websocket,
        allowed_host=tables.hosts.allows,
        drop_cookies=route.drop_cookies,
    )
    target = outgoing_target(route, head.target)
    return Forward(
        route=route,
        client=client,
        target=target,
        fields=outgoing.fields,
        request_id=request_id,
        dropped=outgoing.dropped,
        ask=ask,
        hsts=hsts_value(head, peer, client, tables.transport, tables.hosts.allows),
        trail=functools.partial(_forward_trail, head, client, route, host, outgoing.dropped, ask),
    )


def _forward_trail(
    head: RequestHead,
    client: ClientAddress,
    route: Route,
    host: bytes,
    dropped: tuple[str, ...],
    ask: Ask | None,
) -> tuple[str, ...]:
    because = [*_client_trail(client), _route_sentence(route)]
    if ask is not None:
        checks = f" {'or' if ask.one_suffices else 'and'} ".join(each.value for each in ask.credentials)
        because.append(f"passes only after a check: {checks}")
    because.append(f"goes to upstream {route.upstream} with Host {host.decode('ascii', 'backslashreplace')}")
    target = outgoing_target(route, head.target)
    if target != head.target:
        path = target.partition(b"?")[0].decode("ascii", "backslashreplace")
        because.append(f"is asked for as {path} there")
    if head.websocket:
        kept = "kept" if route.websocket else "left out: not on this route"
        because.append(f"the WebSocket upgrade is {kept}")
    if dropped:
        because.append(f"header lines left out: {', '.join(dropped)}")
    return tuple(because)


def upstream_host(tables: Tables, route: Route, host: bytes | None) -> bytes:
    """Return the Host to send upstream for a request that came with ``host``."""
    return tables.upstreams[route.upstream].host(host)


def _client_trail(client: ClientAddress) -> list[str]:
    return [
        *(f"{hop.text}: {hop.verdict}" for hop in client.trail),
        f"the client is {'unnamed' if client.ip is None else client.ip} (from {client.source.value})",
    ]


def _route_sentence(route: Route) -> str:
    return f"the path takes route {route.name} ({route.cls.value})"
