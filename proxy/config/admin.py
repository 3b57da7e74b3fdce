"""Where the proxy answers its operators: `[admin]`."""

# ruff: noqa: RUF009 -- `key` is dataclasses.field with metadata.
from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address

from proxy.config.declaration import key
from proxy.config.values import ListenAddress, UnixAddress

SHORTEST_TOKEN = 16
"""Characters: whoever guesses one in a second needs longer than the machine lives."""

LONGEST_TOKEN = 512


@dataclass(frozen=True, slots=True)
class AdminConfig:
    """`[admin]`: metrics, health, the status page and the commands drain and log-level."""

    listen: ListenAddress | None = key(
        None,
        doc="Where operators ask: unix:/path or HOST:PORT; unset: nowhere. Any other address than a loopback "
        "one needs `token_file`.",
        why="On the public ports it would be one route away from everybody (PostHog's own /metrics is).",
    )
    token_file: str = key(
        "",
        form="file",
        doc="File with the token (16 to 512 characters) that is asked for, as `Authorization: Bearer` or as "
        "the password of any user; empty: who can connect may ask. /healthz and /readyz need none.",
        why="A file stays out of process lists and of /config; systemd hands it over with LoadCredential.",
    )


def is_private(address: ListenAddress) -> bool:
    """Whether only this machine can connect: a Unix socket, whose permissions hold, or a loopback address."""
    if isinstance(address, UnixAddress) or address.host == "localhost":
        return True
    try:
        return ip_address(address.host).is_loopback
    except ValueError:  # a name: only the resolver knows
        return False


def read_token(path: str) -> bytes:
    """Read a token file; an empty path means that none is asked for. Raises ``OSError`` or ``ValueError``."""
    if not path:
        return b""
    with open(path, "rb") as file:
        token = file.read(2 * LONGEST_TOKEN).strip()
    if not SHORTEST_TOKEN <= len(token) <= LONGEST_TOKEN:
        raise ValueError(f"must hold a token of {SHORTEST_TOKEN} to {LONGEST_TOKEN} characters")
    if not all(0x21 <= byte <= 0x7E for byte in token):
        raise ValueError("must hold one word of visible ASCII characters")
    return token
