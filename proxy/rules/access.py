"""Who may ask for what: the hosts that are served, and the paths that never are.

Each check gives ``None`` (let it pass) or a ``Denial``; ``decide`` answers with the first denial.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxy.message import EndpointClass

if TYPE_CHECKING:
    from proxy.config.schema import AccessConfig

# Django 5.2, django/http/request.py: host_validation_re, matched against the lower-cased Host.
_HOST = re.compile(rb"([a-z0-9.-]++|\[[a-f0-9]*+:[a-f0-9.:]++\])(?::[0-9]++)?")


@dataclass(frozen=True, slots=True)
class Denial:
    """Why a request may not pass: status to answer, machine word, sentence for the client."""

    status: int
    reason: str
    detail: str


HOST_NOT_ALLOWED = Denial(421, "host_not_allowed", "this host name is not served here")
NEVER_PUBLIC = Denial(404, "never_public", "there is nothing here")


@dataclass(frozen=True, slots=True)
class HostTable:
    """`access.allowed_hosts`, read as Django reads ``ALLOWED_HOSTS`` (``HttpRequest.get_host``).

    ``everything`` is the pattern `*`. ``names`` match as they are, ``suffixes`` (each begins with a
    dot) whatever ends in them; a pattern `.example.com` puts `example.com` into the names as well.
    """

    everything: bool
    names: frozenset[bytes]
    suffixes: tuple[bytes, ...]

    @classmethod
    def of(cls, config: AccessConfig) -> HostTable:
        """Build from the configured patterns; case does not matter."""
        patterns = [pattern.lower().encode() for pattern in config.allowed_hosts]
        return cls(
            b"*" in patterns,
            frozenset(pattern.removeprefix(b".") for pattern in patterns if pattern),
            tuple(pattern for pattern in patterns if pattern.startswith(b".")),
        )

    def allows(self, host: bytes | None) -> bool:
        """May a request with this Host value pass? ``None``: it has none (HTTP/1.0).

        Port and one trailing dot do not count. With `*` every value passes, and what Django makes of
        it is Django's; otherwise one that Django takes for no host name (``a_b``) matches nothing.
        """
        if self.everything:
            return True
        match = _HOST.fullmatch((host or b"").lower())
        if match is None:
            return False
        domain = match[1].removesuffix(b".")
        return domain != b"" and (domain in self.names or domain.endswith(self.suffixes))


def host_denial(host: bytes | None, hosts: HostTable) -> Denial | None:
    """Refuse a host that is not served: 421 (RFC 9110 section 15.5.20)."""
    return None if hosts.allows(host) else HOST_NOT_ALLOWED


def class_denial(cls: EndpointClass) -> Denial | None:
    """Refuse what must never be public as if it did not exist: 404."""
    return NEVER_PUBLIC if cls is EndpointClass.NEVER else None
