"""Socket options of every TCP connection, on both sides.

A peer that vanished without a FIN is noticed after 60 s of silence: keepalive asks after 30 s, then every
10 s, three times (Caddy 15/15/9; HAProxy none).
"""

from __future__ import annotations

import socket

KEEPALIVE_IDLE = 30
"""Seconds of silence before the first probe."""

KEEPALIVE_INTERVAL = 10
"""Seconds between probes."""

KEEPALIVE_PROBES = 3
"""Unanswered probes that end the connection."""

USER_TIMEOUT = 30
"""Seconds that bytes sent to an upstream may stay unacknowledged (TCP_USER_TIMEOUT, RFC 5482)."""


def tune(sock: socket.socket, *, user_timeout: bool = False) -> None:
    """Send small writes at once and notice a vanished peer. Does nothing to a Unix socket.

    On Linux the sockets that a listener accepts inherit all of this from it.
    """
    if sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)
    if user_timeout:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT * 1000)
