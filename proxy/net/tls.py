"""TLS contexts towards upstreams: verified against the system's authorities or a file of our own. What
clients are shown is in certificates.py."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from proxy.config.keypair import UnusablePairError, load_pair
from proxy.config.schema import TcpAddress
from proxy.errors import ConfigError, Problem

if TYPE_CHECKING:
    from proxy.config.schema import UpstreamConfig


def client_context(upstream: UpstreamConfig, name: str = "default") -> ssl.SSLContext:
    """Return the context for connections to ``upstream``.

    TLS 1.2 and 1.3 only, certificate and name verified unless `insecure` says otherwise, ALPN
    ``http/1.1``; our own certificate where there is one. ``name`` is the upstream's, for the error.

    :raises ConfigError: when `ca_file` cannot be read or holds no certificate, or `client_cert` is unusable.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if upstream.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif upstream.ca_file:
        try:
            context.load_verify_locations(cafile=upstream.ca_file)
        except (OSError, ValueError) as error:
            raise ConfigError(_unreadable(name, upstream.ca_file, error)) from error
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if upstream.client_cert:
        try:
            load_pair(context, upstream.client_cert, upstream.client_key)
        except UnusablePairError as error:
            of_key = error.of_key and bool(upstream.client_key)
            said, file = (
                ("client_key", upstream.client_key) if of_key else ("client_cert", upstream.client_cert)
            )
            raise ConfigError(Problem(f"upstreams.{name}.{said}", file, str(error))) from None
    return context


def server_name(upstream: UpstreamConfig) -> str:
    """Return the name for SNI and for the certificate check: `server_name`, or the URL's host.

    A trailing dot is part of neither (RFC 6066 section 3).
    """
    address = upstream.url.address
    host = address.host if isinstance(address, TcpAddress) else ""
    return (upstream.server_name or host).rstrip(".")


def _unreadable(name: str, path: str, error: Exception) -> Problem:
    reason = error.strerror if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) else None
    allowed = f"must be a readable PEM file with certificates ({reason or 'no certificate in it'})"
    return Problem(f"upstreams.{name}.ca_file", path, allowed)
