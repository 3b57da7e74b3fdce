"""Who may ask for what: the hosts that are served, the paths that never are, and what the others demand.

Each check gives ``None`` (let it pass), a ``Denial``, or for credentials that only the outside can check an
``Ask``; ``decide`` answers with the first denial. The demands of `[access]` are asked in the order address,
certificate, password, service, so that whoever fails one that costs nothing never gets to one that does.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import TYPE_CHECKING

from proxy.config.schema import Satisfy, TrustConfig
from proxy.message import Access, Ask, Credential, EndpointClass, field_values
from proxy.rules.address import TrustTable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from proxy.config.schema import AccessConfig
    from proxy.message import ClientAddress, Fields, Forward, Peer, RequestHead

# Django 5.2, django/http/request.py: host_validation_re, matched against the lower-cased Host.
_HOST = re.compile(rb"([a-z0-9.-]++|\[[a-f0-9]*+:[a-f0-9.:]++\])(?::[0-9]++)?")

# RFC 6750 section 2.1; the scheme's case does not count (RFC 9110 section 11.1).
_BEARER = re.compile(rb"(?i:bearer) +[A-Za-z0-9._~+/-]++=*+")
_BASIC = re.compile(rb"(?i:basic) +([A-Za-z0-9+/]++=*+)")
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")

ACCESS: Mapping[EndpointClass, Access] = {
    **dict.fromkeys(EndpointClass, Access.PUBLIC),
    EndpointClass.BEARER_READ: Access.BEARER,
    EndpointClass.PROTECTED: Access.PROTECTED,
    EndpointClass.NEVER: Access.NEVER,
}
"""Who may ask for a path, by its class (PostHog's public endpoints)."""

_STRICTNESS = {Access.PUBLIC: 0, Access.BEARER: 1, Access.PROTECTED: 2, Access.NEVER: 3}


@dataclass(frozen=True, slots=True)
class Denial:
    """Why a request may not pass: status to answer, machine word, sentence for the client; lines that the
    answer has besides, and a body in place of ours (``Refuse``). ``retry_after`` in seconds."""

    status: int
    reason: str
    detail: str
    fields: Fields = ()
    body: bytes | None = None
    retry_after: int | None = None


HOST_NOT_ALLOWED = Denial(421, "host_not_allowed", "this host name is not served here")
NEVER_PUBLIC = Denial(404, "never_public", "there is nothing here")
ADDRESS_NOT_ALLOWED = Denial(403, "address_not_allowed", "your address is not allowed here")
NO_CERTIFICATE = Denial(403, "no_client_certificate", "a client certificate is needed here")
NOT_ALLOWED = Denial(403, "not_allowed", "you are not allowed here")
"""Any one demand would do, and none that can be checked at once is met."""


_DEMANDS = ("allowed_ip_blocks", "client_certificate", "basic_auth_file", "forward_auth")


def passes_unasked(access: Access, config: AccessConfig) -> bool:
    """Is a path with this ``access`` open to whoever comes?"""
    demanding = any(getattr(config, word) for word in _DEMANDS)
    return access is Access.PUBLIC or (access is not Access.NEVER and not demanding)


def is_stricter(access: Access, other: Access) -> bool:
    """Whether ``access`` is for fewer than ``other``."""
    return _STRICTNESS[access] > _STRICTNESS[other]


def opener(access: Access, usual: Access) -> Access:
    """Return ``access``, unless it closes what is usually open."""
    closes = is_stricter(access, usual) and is_stricter(Access.PROTECTED, usual)
    return usual if closes else access


# --- hosts ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HostTable:
    """`access.allowed_hosts`, read as Django reads ``ALLOWED_HOSTS`` (``HttpRequest.get_host``).

    ``everything`` is the pattern `*`. ``names`` match as they are, ``suffixes`` (each begins with a
    dot) whatever ends in them; a pattern `.example.com` puts `example.com` into the names as well.
    ``probes`` are the paths of `access.probe_paths`.
    """

    everything: bool
    names: frozenset[bytes]
    suffixes: tuple[bytes, ...]
    probes: frozenset[bytes] = frozenset()

    @classmethod
    def of(cls, config: AccessConfig) -> HostTable:
        """Build from the configured patterns; case does not matter."""
        patterns = [pattern.lower().encode() for pattern in config.allowed_hosts]
        return cls(
            b"*" in patterns,
            frozenset(pattern.removeprefix(b".") for pattern in patterns if pattern),
            tuple(pattern for pattern in patterns if pattern.startswith(b".")),
            frozenset(path.encode() for path in config.probe_paths),
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

    def probes_at(self, host: bytes | None, target: bytes) -> bool:
        """Is this a balancer's probe: for a probe path exactly as configured, by address or without Host?"""
        return target.partition(b"?")[0] in self.probes and (host is None or _is_address(host))


def _is_address(host: bytes) -> bool:
    match = _HOST.fullmatch(host.lower())
    try:
        ip_address("" if match is None else match[1].strip(b"[]").decode("ascii"))
    except ValueError:
        return False
    return True


def host_denial(host: bytes | None, hosts: HostTable, target: bytes = b"") -> Denial | None:
    """Refuse a host that is not served: 421 (RFC 9110 section 15.5.20)."""
    return None if hosts.allows(host) or hosts.probes_at(host, target) else HOST_NOT_ALLOWED


# --- demands -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AccessTable:
    """The demands of `[access]`. ``blocks`` is ``None`` where the address does not matter; ``challenge``
    is what a 401 of ours says."""

    blocks: TrustTable | None
    certificate: bool
    basic: bool
    forward: bool
    any_suffices: bool
    challenge: Fields
    demands: tuple[str, ...]
    """What a protected path demands, in the words of the configuration; empty: nothing."""

    @classmethod
    def of(cls, config: AccessConfig) -> AccessTable:
        """Build the table of a configuration."""
        blocks = config.allowed_ip_blocks
        challenge = f'Basic realm="{config.basic_realm}", charset="UTF-8"'.encode()
        return cls(
            # The list of networks of a trust table, with nothing else of it.
            blocks=TrustTable.of(TrustConfig(proxies=blocks)) if blocks else None,
            certificate=config.client_certificate,
            basic=config.basic_auth_file != "",
            forward=config.forward_auth != "",
            any_suffices=config.satisfy is Satisfy.ANY,
            challenge=((b"WWW-Authenticate", challenge),),
            demands=tuple(word for word in _DEMANDS if getattr(config, word)),
        )

    def wrong_password(self) -> Denial:
        """What is said to whoever gave no password, or a wrong one."""
        return Denial(401, "unauthorized", "a valid user name and password are needed here", self.challenge)


def access_verdict(
    access: Access, head: RequestHead, client: ClientAddress, peer: Peer, table: AccessTable
) -> Denial | Ask | None:
    """Judge a request for a path with this ``access``; ``None``: let it pass.

    What must never be public is refused as if it did not exist: 404. Whether a bearer's token is any good
    is PostHog's to say.
    """
    if access is Access.NEVER:
        return NEVER_PUBLIC
    if access is Access.PUBLIC or (access is Access.BEARER and has_bearer(head.fields)):
        return None
    denials = list(_at_once(client, peer, table))
    asked = tuple(_credentials(head.fields, table))
    if not table.any_suffices:
        failed = [denial for denial in denials if denial is not None]
        if failed:
            return failed[0]
        if table.basic and Credential.BASIC not in asked:
            return table.wrong_password()
        return Ask(asked) if asked else None
    if None in denials or not table.demands:
        return None
    if asked:
        return Ask(asked, one_suffices=True)
    if table.basic:
        return table.wrong_password()
    return denials[0] if len(denials) == 1 else NOT_ALLOWED


def _at_once(client: ClientAddress, peer: Peer, table: AccessTable) -> Iterable[Denial | None]:
    """What can be said without asking anybody, one entry for each demand: ``None``, it is met."""
    if table.blocks is not None:
        met = client.ip is not None and table.blocks.lists(client.ip)
        yield None if met else ADDRESS_NOT_ALLOWED
    if table.certificate:
        yield NO_CERTIFICATE if peer.client_certificate is None else None


def _credentials(fields: Fields, table: AccessTable) -> Iterable[Credential]:
    """What has to be asked outside; a password only where one is given."""
    if table.basic and basic_credentials(fields) is not None:
        yield Credential.BASIC
    if table.forward:
        yield Credential.FORWARD


def has_bearer(fields: Fields) -> bool:
    """Is there one Authorization line, and is it a bearer's (RFC 6750)? Of two, who knows which counts."""
    values = field_values(fields, b"authorization")
    return len(values) == 1 and _BEARER.fullmatch(values[0]) is not None


def basic_credentials(fields: Fields) -> tuple[bytes, bytes] | None:
    """Return user and password of the one Authorization line (RFC 7617), ``None`` where there is none
    that can be read. Neither holds control characters."""
    values = field_values(fields, b"authorization")
    match = _BASIC.fullmatch(values[0]) if len(values) == 1 else None
    if match is None:
        return None
    try:
        decoded = base64.b64decode(match[1], validate=True)
    except binascii.Error:
        return None
    user, colon, password = decoded.partition(b":")
    return (user, password) if colon and not _CONTROL.search(decoded) else None


def without_password(forward: Forward) -> Forward:
    """Take out the Authorization line that was meant for us: whoever is behind knows another password."""
    kept = tuple(field for field in forward.fields if field[0].lower() != b"authorization")
    return replace(forward, fields=kept)
