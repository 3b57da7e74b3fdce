"""What is asked of the way a request came: https for pages, a certificate that covers its Host.

A request *came by https* if this proxy ended its TLS, or if a trusted proxy says so (X-Forwarded-Proto); a
trusted proxy's word beats our own TLS (rules/forwarding.py). So behind a balancer that ends TLS nothing is
redirected that came by https, and no loop can come up.

An SDK path is never redirected: the SDKs lose the event (posthog-js does not follow a redirect of a
cross-origin POST with its body, others turn it into a GET). It is served, or refused with 426 by option.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxy.message import SDK_CLASSES
from proxy.rules.access import Denial
from proxy.rules.certnames import NameTable, host_name
from proxy.rules.claims import claims, effective_proto

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.config.schema import TlsConfig
    from proxy.message import ClientAddress, EndpointClass, Peer, RequestHead

MISDIRECTED = Denial(421, "host_not_in_certificate", "the certificate of this connection is for other names")
UPGRADE_REQUIRED = Denial(426, "https_required", "this is served by https only")
_PROBED = frozenset({b"/_health", b"/_health/"})
"""Balancers probe PostHog here by plain http, and Django does not redirect it either."""


@dataclass(frozen=True, slots=True)
class TransportTable:
    """What `[tls]` says of requests. ``hsts`` is the value of Strict-Transport-Security (empty: none is
    sent), ``port`` where redirects lead."""

    redirect: bool
    refuse: bool
    port: int
    hsts: bytes

    @classmethod
    def of(cls, config: TlsConfig) -> TransportTable:
        """Build the table of a configuration."""
        subdomains = b"; includeSubDomains" if config.hsts_subdomains else b""
        hsts = b"max-age=%d%b" % (int(config.hsts), subdomains) if config.hsts else b""
        return cls(config.redirect_https, config.refuse_http, config.redirect_port, hsts)


def transport_denial(
    head: RequestHead,
    peer: Peer,
    client: ClientAddress,
    cls: EndpointClass,
    table: TransportTable,
    allowed_host: Callable[[bytes], bool],
) -> Denial | None:
    """Judge the way that a request for a path of class ``cls`` came.

    421 where the certificate that the client was shown does not cover its Host (only where the peer says
    which it was: strict_sni). For what came by plain http: pages are redirected for GET and HEAD, and
    refused with 426 for other methods, which a redirect would rob of their body; SDK paths are let
    through or refused, as configured.
    """
    if peer.certificate_names is not None and not _covers(peer.certificate_names, head.host):
        return MISDIRECTED
    sdk = cls in SDK_CLASSES
    if not (table.refuse if sdk else table.redirect):
        return None
    said = claims(head.fields, client, allowed_host)
    if effective_proto(peer, said) == b"https" or head.target.partition(b"?")[0] in _PROBED:
        return None
    host = _bare((said.host or head.host or b"").lower())
    if sdk or head.method not in (b"GET", b"HEAD") or not host:
        return UPGRADE_REQUIRED
    port = b"" if table.port == 443 else b":%d" % table.port
    location = b"https://%b%b%b" % (host, port, head.target)
    return Denial(308, "https_redirect", "this page is served by https", ((b"Location", location),))


def hsts_value(
    head: RequestHead,
    peer: Peer,
    client: ClientAddress,
    table: TransportTable,
    allowed_host: Callable[[bytes], bool],
) -> bytes:
    """Return the Strict-Transport-Security for the answer, empty where there is to be none: over plain http
    it must not be sent (RFC 6797 section 7.2)."""
    if not table.hsts:
        return b""
    proto = effective_proto(peer, claims(head.fields, client, allowed_host))
    return table.hsts if proto == b"https" else b""


def _covers(names: tuple[str, ...], host: bytes | None) -> bool:
    """A request without Host (HTTP/1.0) asks for no name."""
    return host is None or NameTable.of([names]).find(host_name(host)) is not None


def _bare(host: bytes) -> bytes:
    """A host without its port."""
    name, colon, port = host.rpartition(b":")
    return name if colon and port.isdigit() else host
