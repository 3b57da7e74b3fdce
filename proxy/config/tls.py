"""What the proxy shows and asks of clients that come by TLS, and what it does with those that do not:
`[[certificates]]` and `[tls]`."""

# ruff: noqa: RUF009 -- `declared` is dataclasses.field with metadata; it goes by this
# name here because there are keys called `key`.
from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxy.config.declaration import key as declared
from proxy.config.values import ClientAuth, TlsVersion

if TYPE_CHECKING:
    from proxy.config.schema import Config

YEAR = 365 * 86_400


@dataclass(frozen=True, slots=True)
class CertificateConfig:
    """`[[certificates]]`: what TLS listeners show. The client's SNI chooses among the names in them; the
    first one stands for clients that name none, or another."""

    certificate: str = declared(
        form="file",
        doc="PEM file: the certificate, then its intermediates. Its names are its subjectAltName's.",
    )
    key: str = declared(
        "",
        form="file",
        doc="PEM file of its private key, not encrypted; empty: in the same file.",
        why="Nobody is there to type a password when a service starts.",
    )


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """`[tls]`: TLS towards clients, and what is asked of those that come without."""

    certificate: str = declared(
        "", form="file", doc="Short for the first `[[certificates]]`: PEM file of the certificate."
    )
    key: str = declared("", form="file", doc="PEM file of its private key; empty: in the same file.")
    minimum: TlsVersion = declared(
        TlsVersion.TLS_1_2,
        doc="Oldest version of TLS that is spoken; 1.2 only with ECDHE and authenticated encryption.",
        why="nginx, HAProxy, Caddy and Mozilla's intermediate profile; every browser since 2014.",
    )
    strict_sni: bool = declared(
        False,
        doc="Refuse handshakes for names that no certificate covers, and answer 421 where Host is not "
        "covered by the certificate that was shown.",
        why="Probes by address and old clients name nothing; the default certificate tells them enough.",
    )
    client_auth: ClientAuth = declared(
        ClientAuth.OFF,
        doc="Ask clients for a certificate: never, without refusing those that have none, or always.",
        why="SDKs have none. `optional` lets routes decide.",
    )
    client_ca: str = declared(
        "", form="file", doc="PEM file of the authorities that clients' certificates are checked against."
    )
    reload_interval: float = declared(
        10.0,
        unit="s",
        minimum=0,
        maximum=86_400,
        doc="Look this often whether certificate files have changed, and use the new ones; 0: only SIGHUP.",
        why="Certificates of 90 days and less are renewed by programs that know nothing of their readers.",
    )
    tickets: int = declared(
        1,
        unit="tickets",
        minimum=0,
        maximum=8,
        doc="Session tickets for each TLS 1.3 handshake, to come back with; a worker only knows its own.",
        why="OpenSSL 2; each costs some microseconds and 250 bytes, and SDKs keep their connection.",
    )
    redirect_https: bool = declared(
        False,
        doc="Send GET and HEAD of pages that came by plain http to https (308), answer other methods there "
        "with 426. SDK paths and /_health are never redirected. Plain http is what came to a listener "
        "without TLS, unless a trusted proxy's X-Forwarded-Proto says https.",
        why="PostHog's Django does it too, where it is told the scheme.",
    )
    redirect_port: int = declared(
        443,
        minimum=1,
        maximum=65_535,
        doc="The port that redirects lead to.",
        why="The scheme's own; another one where https is published elsewhere.",
    )
    refuse_http: bool = declared(
        False,
        doc="Answer SDK paths that came by plain http with 426 instead of serving them.",
        why="A redirect would lose events, and so does a refusal: old snippets may still say http.",
    )
    hsts: float = declared(
        0.0,
        unit="s",
        minimum=0,
        maximum=2 * YEAR,
        doc="max-age of Strict-Transport-Security on answers over https (in place of the upstream's own); "
        "0: none is added.",
        why="Browsers cannot be told otherwise until it has run out; begin with `5m`.",
    )
    hsts_subdomains: bool = declared(
        False,
        doc="Let it hold for all names below the host's too (includeSubDomains).",
        why="There may be some that speak plain http.",
    )


def configured_certificates(config: Config) -> tuple[CertificateConfig, ...]:
    """Return all certificates, the default first: that of the short form ``tls.certificate``."""
    short = (CertificateConfig(config.tls.certificate, config.tls.key),) if config.tls.certificate else ()
    return (*short, *config.certificates)
