"""Ports from the operating system, for servers that cannot say which port they were given."""

from __future__ import annotations

import socket


def free_port(host: str = "127.0.0.1") -> int:
    """Return a TCP port of ``host`` that nobody uses at the moment.

    Another process may take it before the server does: whoever starts the server tries again.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port
