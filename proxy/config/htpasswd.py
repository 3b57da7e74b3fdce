"""Files of `htpasswd -B`: a user and a bcrypt hash a line.

Other hashes that htpasswd and crypt(3) know (apr1, SHA-1, crypt, plain text) are refused, because they can
be guessed at millions a second.
"""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING

from proxy.config.notation import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAX_FILE_BYTES = 1024 * 1024
"""A larger file is refused: some 12,000 users."""

COSTS = range(4, 17)
"""bcrypt's own least cost, and the one at which a check takes four seconds."""

# 128 bits of salt leave four choices for their last character (OpenBSD bcrypt.c).
_BCRYPT = re.compile(rb"\$2[aby]\$([0-9]{2})\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{31}")
_KINDS = (
    (b"$apr1$", "an apr1 (MD5) hash"),
    (b"{SHA}", "a SHA-1 hash"),
    (b"$1$", "an MD5 hash"),
    (b"$5$", "a SHA-256 hash"),
    (b"$6$", "a SHA-512 hash"),
    (b"$2", "a bcrypt hash that is cut short or of an unknown kind"),
)
_CURE = "use htpasswd -B"


class HtpasswdError(ValueError):
    """The file cannot be used; the text names each bad line."""


def read_htpasswd(path: str) -> Mapping[bytes, bytes]:
    """Read the file at ``path``: bcrypt hashes by user.

    :raises HtpasswdError: it cannot be read, is too large, or holds a line that is not usable.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        raise HtpasswdError(f"must be readable: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > MAX_FILE_BYTES:
        raise HtpasswdError(f"must not be larger than {MAX_FILE_BYTES} bytes")
    return parse_htpasswd(data)


def parse_htpasswd(data: bytes) -> Mapping[bytes, bytes]:
    """Read the lines: bcrypt hashes by user. Blank lines and those that begin with `#` do not count.

    :raises HtpasswdError: naming every bad line by number and user, never a hash; or there is no user.
    """
    found: dict[bytes, bytes] = {}
    wrong: list[str] = []
    for number, line in _lines(data):
        user, colon, digest = line.partition(b":")
        problem = _problem(user, digest) if colon else "is not USER:HASH"
        if problem is None and user in found:
            problem = "is a second line of this user"
        if problem is not None:
            name = f" (user {shown(user.decode('utf-8', 'backslashreplace'))})" if colon else ""
            wrong.append(f"line {number}{name} {problem}")
        found.setdefault(user, digest)
    if wrong:
        raise HtpasswdError("; ".join(wrong[:20]))
    if not found:
        raise HtpasswdError("must hold at least one user; add one with htpasswd -B")
    return MappingProxyType(found)


def cost_of(digest: bytes) -> int:
    """Return the cost of a bcrypt hash: each one more doubles the time of a check."""
    return int(digest[4:6])


def _lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    for number, line in enumerate(data.split(b"\n"), 1):
        line = line.removesuffix(b"\r")
        if line.strip() and not line.startswith(b"#"):
            yield number, line


def _problem(user: bytes, digest: bytes) -> str | None:
    if not user:
        return "has no user"
    match = _BCRYPT.fullmatch(digest)
    if match is None:
        kind = next((kind for start, kind in _KINDS if digest.startswith(start)), "no bcrypt hash")
        return f"holds {kind}; {_CURE}"
    if int(match[1]) not in COSTS:
        return f"has a cost of {int(match[1])}; it must be {COSTS[0]} to {COSTS[-1]}"
    return None
