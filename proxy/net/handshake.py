"""TLS handshakes of clients: made on accepted sockets, and what went wrong in few words.

Whoever scans the internet fails here all day. So every failure is counted, by a bounded set of reasons, and
of each reason one line a minute goes to the error log, with the number of those that did not.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

from proxy.config.schema import LogLevel

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from proxy.clock import Clock
    from proxy.message import IPAddress
    from proxy.observe.metrics import Counters

RECORD = b"\x16"
"""The first byte of a TLS connection: a handshake record (RFC 8446 section 5.1)."""

LINE_EVERY = 60.0
"""Seconds between two log lines about the same reason."""

_WORDS = {
    "UNSUPPORTED_PROTOCOL": "version",
    "VERSION_TOO_LOW": "version",
    "WRONG_VERSION_NUMBER": "version",
    "NO_SHARED_CIPHER": "no_shared_cipher",
    "NO_SUITABLE_SIGNATURE_ALGORITHM": "no_shared_cipher",
    "NO_SUITABLE_KEY_SHARE": "no_shared_cipher",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "no_client_certificate",
    "CERTIFICATE_VERIFY_FAILED": "client_certificate",
    "CALLBACK_FAILED": "unknown_name",
    "CLIENTHELLO_TLSEXT": "unknown_name",
    "UNEXPECTED_EOF_WHILE_READING": "client_left",
    "HTTP_REQUEST": "not_tls",
    "TLSV1_ALERT_UNKNOWN_CA": "rejected_by_client",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "rejected_by_client",
    "SSLV3_ALERT_BAD_CERTIFICATE": "rejected_by_client",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "rejected_by_client",
}
"""OpenSSL's reasons to ours."""


class Handshakes:
    """Makes handshakes and counts them. Memory: a log state for each reason."""

    def __init__(self, clock: Clock, counters: Counters, error: Callable[..., None]) -> None:
        self._clock = clock
        self._counters = counters
        self._error = error
        self._quiet: dict[str, tuple[float, int]] = {}
        """Until when nothing is logged about a reason, and how often it came since."""

    def __repr__(self) -> str:
        return f"<Handshakes made={self._counters.tls_handshakes}>"

    async def shake(
        self,
        factory: Callable[[], asyncio.Protocol],
        sock: socket.socket,
        context: ssl.SSLContext,
        *,
        client: IPAddress | None,
        timeout: float,
        shutdown: float,
    ) -> None:
        """Speak TLS on an accepted socket, which is the transport's from here on; ``factory`` makes the
        protocol object once the handshake is done. A failed one is only counted: nobody waits for it.

        :param client: who it is, for the log.
        :param timeout: seconds for the handshake.
        :param shutdown: seconds that a client has, at the end, to say that it has heard of it.
        """
        loop = asyncio.get_running_loop()
        try:
            transport, _ = await loop.connect_accepted_socket(
                factory,
                sock,
                ssl=context,
                ssl_handshake_timeout=timeout,
                ssl_shutdown_timeout=shutdown,
            )
        except OSError as error:  # ssl.SSLError too
            self.failed(failure_reason(error), client)
            return
        self._counters.tls_handshakes += 1
        handshake = transport.get_extra_info("ssl_object")
        if handshake is not None and handshake.session_reused:
            self._counters.tls_resumed += 1

    def failed(self, reason: str, client: IPAddress | None) -> None:
        """Count a failed handshake, and log it if nothing was logged about this reason lately."""
        self._counters.tls_failures.add(reason)
        now = self._clock.monotonic()
        until, unsaid = self._quiet.get(reason, (now, 0))
        if now < until:
            self._quiet[reason] = (until, unsaid + 1)
            return
        self._quiet[reason] = (now + LINE_EVERY, 0)
        peer = "" if client is None else str(client)
        self._error(LogLevel.INFO, "handshake_failed", reason=reason, peer=peer, unsaid=unsaid)


def failure_reason(error: OSError) -> str:
    """Return the word for a failed handshake: one of ``_WORDS``, or `late`, `client_left`, `other`."""
    if isinstance(error, ssl.SSLError):
        return _WORDS.get(getattr(error, "reason", None) or "", "other")
    if "longer than" in str(error):  # asyncio and uvloop have no class of their own for it
        return "late"
    return "client_left" if isinstance(error, ConnectionError) else "other"
