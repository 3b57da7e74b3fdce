"""What TLS listeners show: one context for each certificate, chosen by SNI, renewed while serving.

::

    accepted socket ─▶ front context ─ClientHello─▶ choose(SNI) ─▶ the context of one certificate
                       (stays the same)                                     (replaced when its files change)

The event loop gets the front context. It has no certificate: the callback for SNI, which OpenSSL calls for
every ClientHello, with or without a name, puts another context in its place. So certificates are replaced
without touching a socket, and since OpenSSL takes ticket keys from the context that a handshake began with,
tickets outlive the replacement. (With client certificates they do not: a resumed handshake is not checked
against the authorities again, so a new file of those makes a new front.)

Tickets are known only to the process that gave them, because Python cannot set their keys: where workers
share a port, a client that comes back is resumed if it meets the same worker, and shakes hands in full
otherwise.

A file is replaced if it can be: the new pair is loaded and tried first (config/keypair.py). Where it cannot
be used the old one is shown on; that is an error in the log, and a gauge until it is mended.

Memory: a context is about 30 KB, a certificate some KB beside it. OpenSSL keeps sessions of TLS 1.2 clients
that know no tickets, at most 20480 (SSL_CTX_sess_set_cache_size(3)).
"""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from proxy.config.keypair import KeyPair, UnusablePairError, authorities_failure, load_pair, read_pair
from proxy.config.notation import shown
from proxy.config.schema import ClientAuth, LogLevel, TlsVersion, configured_certificates
from proxy.errors import ConfigError, Problem
from proxy.net.handshake import Handshakes
from proxy.rules.certnames import NameTable

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.clock import Clock
    from proxy.config.schema import CertificateConfig, Config, TlsConfig
    from proxy.observe.metrics import Counters

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""The suites of TLS 1.2: forward secrecy and authenticated encryption (Mozilla's intermediate profile
without its DHE suites). TLS 1.3 has no others."""

_VERSIONS = {TlsVersion.TLS_1_2: ssl.TLSVersion.TLSv1_2, TlsVersion.TLS_1_3: ssl.TLSVersion.TLSv1_3}
_VERIFY = {
    ClientAuth.OFF: ssl.CERT_NONE,
    ClientAuth.OPTIONAL: ssl.CERT_OPTIONAL,
    ClientAuth.REQUIRED: ssl.CERT_REQUIRED,
}
_DAY = 86_400.0

_Files: TypeAlias = tuple[tuple[int, ...] | None, ...]
"""What tells whether files have changed."""


class ShownContext(ssl.SSLContext):
    """The context of one certificate; ``names`` are the names in it."""

    names: tuple[str, ...] = ()


@dataclass(slots=True)
class _Certificate:
    """One configured certificate, as it is shown now. ``files`` is how its files were when they were last
    looked at, ``failed`` whether they could not be used then."""

    config: CertificateConfig
    pair: KeyPair
    context: ShownContext
    files: _Files
    failed: bool = False
    warned: float = 0.0


class ServerTls:
    """The TLS side of all listeners of one proxy.

    :param error: writes a line of the error log.
    :raises ConfigError: a certificate, or the file of authorities, cannot be used.
    """

    def __init__(self, config: Config, clock: Clock, counters: Counters, error: Callable[..., None]) -> None:
        self._config = config.tls
        self._clock = clock
        self._counters = counters
        self._error = error
        self.handshakes = Handshakes(clock, counters, error)
        self._authorities = _fingerprint(config.tls.client_ca)
        self._authorities_failed = False
        self._certificates = [self._first(certificate) for certificate in configured_certificates(config)]
        self.context = self._front()
        """For the event loop; read anew for each connection."""
        self._due = clock.monotonic() + config.tls.reload_interval
        self._choose_among()

    def __repr__(self) -> str:
        return f"<ServerTls certificates={len(self._certificates)}>"

    # Choosing.

    def _front(self) -> ssl.SSLContext:
        front = _context(self._config)
        front.sni_callback = self._choose
        return front

    def _choose_among(self) -> None:
        """Begin to show what ``_certificates`` holds."""
        self._names = NameTable.of(certificate.pair.names for certificate in self._certificates)
        for certificate in self._certificates:
            labels = (certificate.pair.names[0],)
            self._counters.tls_certs_not_after[labels] = int(certificate.pair.not_after)
        self._count_failed()

    def _choose(
        self, handshake: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: ssl.SSLContext
    ) -> int | None:
        """OpenSSL asks which certificate to show for ``name``; the answer is an alert, or none."""
        number = None if name is None else self._names.find(name.lower())
        if number is None:
            if name is not None and self._config.strict_sni:
                return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
            number = 0
        handshake.context = self._certificates[number].context
        return None

    # Renewing.

    def watch(self) -> None:
        """Look at the files if it is time to. Called about once a second; when due it costs a stat(2) for
        each file, and some milliseconds for each certificate that has changed."""
        now = self._clock.monotonic()
        if not self._config.reload_interval or now < self._due:
            return
        self._due = now + self._config.reload_interval
        self.renew()
        wall = self._clock.wall()
        for certificate in self._certificates:
            when = certificate.pair.ends_soon(wall)
            if when is not None and wall - certificate.warned >= _DAY:
                certificate.warned = wall
                file = certificate.config.certificate
                self._error(LogLevel.WARNING, "certificate_ends", certificate=file, detail=f"it {when}")

    def renew(self) -> None:
        """Take in what has changed. What cannot be used leaves what was there before, and is an error in the
        log once."""
        anew = self._new_authorities()
        changed = [self._renewed(certificate, anew) for certificate in self._certificates]
        if anew or any(changed):
            self._choose_among()
            self._counters.tls_reloads += 1
        self._count_failed()

    def _new_authorities(self) -> bool:
        """Take in a new file of authorities; with them all that was resumed before is void."""
        authorities = _fingerprint(self._config.client_ca)
        if authorities == self._authorities:
            return False
        self._authorities = authorities
        try:
            self.context = self._front()
        except ConfigError as error:
            self._authorities_failed = True
            self._failed(self._config.client_ca, error.problems[0].allowed)
            return False
        self._authorities_failed = False
        return True

    def _renewed(self, certificate: _Certificate, anew: bool) -> bool:
        """Take in one certificate; ``anew``: even if its files are the same, for new authorities."""
        files = _files(certificate.config)
        changed = files != certificate.files
        if not changed and not anew:
            return False
        certificate.files = files
        try:
            pair, context = self._load(certificate.config)
        except UnusablePairError as error:
            certificate.failed = True
            self._failed(_blamed(certificate.config, error), str(error))
            return False
        except ConfigError as error:
            certificate.failed = True
            self._failed(self._config.client_ca, error.problems[0].allowed)
            return False
        certificate.failed = False
        if changed:
            self._counters.tls_certs_not_after.pop((certificate.pair.names[0],), None)
            names = ", ".join(pair.names[:8])
            file = certificate.config.certificate
            self._error(LogLevel.INFO, "certificate_renewed", certificate=file, names=names)
        certificate.pair, certificate.context, certificate.warned = pair, context, 0.0
        return True

    def _failed(self, file: str, allowed: str) -> None:
        self._counters.tls_reload_failures += 1
        detail = f"{file} {allowed}; what was there before stays in use"
        self._error(LogLevel.ERROR, "certificate_unusable", detail=detail)

    def _count_failed(self) -> None:
        failed = sum(certificate.failed for certificate in self._certificates)
        self._counters.tls_reload_failed = failed + self._authorities_failed

    # Loading.

    def _first(self, config: CertificateConfig) -> _Certificate:
        """Load a certificate at start."""
        files = _files(config)
        try:
            pair, context = self._load(config)
        except UnusablePairError as error:
            file = _blamed(config, error)
            raise ConfigError(Problem("certificates", shown(file), str(error))) from None
        return _Certificate(config, pair, context, files)

    def _load(self, config: CertificateConfig) -> tuple[KeyPair, ShownContext]:
        pair = read_pair(config.certificate, config.key)
        untimely = pair.untimely(self._clock.wall())
        if untimely is not None:
            raise UnusablePairError(False, untimely)
        context = _context(self._config)
        load_pair(context, config.certificate, config.key)
        context.names = pair.names
        return pair, context


def _context(config: TlsConfig) -> ShownContext:
    """Make a context without a certificate: versions, suites, ALPN, what is asked of clients.

    The client's order of suites counts: it knows whether AES is fast for it. ALPN: who offers `http/1.1`
    gets it; who offers only others gets none (Python cannot refuse), and ends the connection itself, or
    says something that is not HTTP/1 and is refused by the gate.
    """
    context = ShownContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[config.minimum]
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["http/1.1"])
    context.num_tickets = config.tickets
    context.verify_mode = _VERIFY[config.client_auth]
    if config.client_ca:
        try:
            context.load_verify_locations(cafile=config.client_ca)
        except (OSError, ValueError):
            allowed = authorities_failure(config.client_ca) or "must be a PEM file with certificates"
            raise ConfigError(Problem("tls.client_ca", shown(config.client_ca), allowed)) from None
    return context


def _blamed(config: CertificateConfig, error: UnusablePairError) -> str:
    return config.key if error.of_key and config.key else config.certificate


def _files(config: CertificateConfig) -> _Files:
    return (*_fingerprint(config.certificate), *_fingerprint(config.key))


def _fingerprint(path: str) -> _Files:
    """Identity, size and time of change of a file, links followed; ``None`` where there is none."""
    if not path:
        return ()
    try:
        status = os.stat(path)
    except OSError:
        return (None,)
    return ((status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns),)
