"""A certificate and its key, read from their files and tried before anybody depends on them.

Python's ``ssl`` can use a certificate, but has no public way to read one from a file. It does say what the
other side of a handshake has shown, once that was verified. So the pair is tried: a handshake with ourselves,
in memory, in which the client trusts exactly this certificate and does not look at its dates. That proves
the pair works (chain, key, strength, purpose) and tells names and dates, without another library.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from itertools import cycle, islice

SOON = 14 * 86_400.0
"""Seconds before its end from which a certificate is warned about: whoever renews at 30 days before the end
(certbot) has failed for two weeks by then, and a third of six-day certificates are not in question."""

_NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME (X509_VERIFY_PARAM_set_flags(3)), which ``ssl`` has no name for."""

_FLIGHTS = 8
"""Steps of a handshake, of both sides together; TLS 1.3 needs four."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """What a certificate says: the names that it stands for (lower case, `*.` possibly first; addresses in
    canonical form), and from when to when, in seconds since the epoch."""

    names: tuple[str, ...]
    not_before: float
    not_after: float

    def untimely(self, wall: float) -> str | None:
        """Return why it is not valid at ``wall``, or ``None``."""
        if wall > self.not_after:
            return f"has expired at {_date(self.not_after)}"
        if wall < self.not_before:
            return f"is not valid before {_date(self.not_before)}"
        return None

    def ends_soon(self, wall: float) -> str | None:
        """Return when it ends, if that is within ``SOON`` and within the last third of its life."""
        left = self.not_after - wall
        if left > min(SOON, (self.not_after - self.not_before) / 3):
            return None
        return f"expires at {_date(self.not_after)}"


class UnusablePairError(ValueError):
    """A pair cannot be used: ``of_key`` says which of the two files is to blame, the text what is allowed."""

    def __init__(self, of_key: bool, allowed: str) -> None:
        super().__init__(allowed)
        self.of_key = of_key


class _EncryptedError(Exception):
    """OpenSSL has asked for a password."""


def load_pair(context: ssl.SSLContext, certificate: str, key: str) -> None:
    """Let ``context`` show a certificate; ``key``: file of its private key, empty for the same file.

    Raises ``UnusablePairError``.
    """
    _readable(certificate, of_key=False)
    _readable(key or certificate, of_key=bool(key))
    try:
        context.load_cert_chain(certificate, key or None, password=_no_password)
    except _EncryptedError:
        allowed = "must be a private key without a password (openssl pkey -in KEY -out PLAIN removes it)"
        raise UnusablePairError(True, allowed) from None
    except (ssl.SSLError, ValueError) as error:
        raise _blamed(certificate, error) from None


def read_pair(certificate: str, key: str) -> KeyPair:
    """Read a certificate and try it with its key. Raises ``UnusablePairError``; the dates are not judged."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_pair(server, certificate, key)
    try:
        shown = _shown_by(server, certificate)
    except ssl.SSLError as error:
        raise UnusablePairError(False, f"must be a certificate for servers ({_reason(error)})") from None
    names = tuple(dict.fromkeys(_names(shown)))
    if not names:
        allowed = "must have a subjectAltName with a DNS name or an address: clients ignore the common name"
        raise UnusablePairError(False, allowed)
    return KeyPair(
        names,
        ssl.cert_time_to_seconds(str(shown["notBefore"])),
        ssl.cert_time_to_seconds(str(shown["notAfter"])),
    )


def authorities_failure(path: str) -> str | None:
    """Return what is wrong with a file of authorities, or ``None``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cafile=path)
    except ssl.SSLError:
        return "must be a PEM file with certificates; it holds none that can be read"
    except OSError as error:
        return f"must be readable: {error.strerror}"
    if context.cert_store_stats()["x509"] == 0:
        return "must be a PEM file with certificates; it holds none"
    return None


def _shown_by(server: ssl.SSLContext, certificate: str) -> dict[str, object]:
    """Return what a client sees of the certificate, as ``SSLObject.getpeercert`` has it."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.load_verify_locations(certificate)
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | _NO_CHECK_TIME
    upwards, downwards = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(downwards, upwards)
    showing = server.wrap_bio(upwards, downwards, server_side=True)
    for side in islice(cycle((asking, showing)), _FLIGHTS):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return dict(asking.getpeercert() or {})


def _names(shown: dict[str, object]) -> list[str]:
    pairs = shown.get("subjectAltName", ())
    assert isinstance(pairs, tuple)
    return [value.lower() for kind, value in pairs if kind == "DNS" and value] + [
        _address(value) for kind, value in pairs if kind == "IP Address"
    ]


def _address(text: str) -> str:
    """OpenSSL writes IPv6 in full and in capitals."""
    from ipaddress import ip_address

    return str(ip_address(text.strip()))


def _readable(path: str, *, of_key: bool) -> None:
    try:
        with open(path, "rb"):
            pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UnusablePairError(of_key, f"must be a readable PEM file: {reason}") from None


def _blamed(certificate: str, error: ssl.SSLError | ValueError) -> UnusablePairError:
    """Find out which of two readable files OpenSSL could not use; it does not say."""
    reason = _reason(error)
    if reason == "key values mismatch":
        return UnusablePairError(True, f"must be the key of {certificate}; it is another one's")
    wrong = authorities_failure(certificate)
    if wrong is not None:
        return UnusablePairError(False, wrong)
    if "too small" in reason or "too weak" in reason:
        return UnusablePairError(False, f"must be of a strength that OpenSSL allows ({reason})")
    return UnusablePairError(True, "must be a PEM file with the private key; it holds none that can be read")


def _reason(error: Exception) -> str:
    return (getattr(error, "reason", None) or "unreadable").replace("_", " ").lower()


def _no_password() -> str:
    raise _EncryptedError


def _date(seconds: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
