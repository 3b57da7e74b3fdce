"""Which names a certificate stands for, and who a client's certificate names (RFC 9525, RFC 4514)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_HOST = re.compile(rb"([a-z0-9._-]++|\[[a-f0-9:.]++\])(?::[0-9]++)?")


@dataclass(frozen=True, slots=True)
class NameTable:
    """Names to the number of the certificate that stands for them; of two equal names the first one's.

    ``exact`` are names and addresses in canonical form, ``below`` the parents of wildcards:
    ``example.com`` for ``*.example.com``.
    """

    exact: dict[str, int]
    below: dict[str, int]

    @classmethod
    def of(cls, certificates: Iterable[Sequence[str]]) -> NameTable:
        """Build from the names (lower case) of each certificate."""
        exact: dict[str, int] = {}
        below: dict[str, int] = {}
        for number, names in enumerate(certificates):
            for name in names:
                if name.startswith("*."):
                    below.setdefault(name[2:], number)
                else:
                    exact.setdefault(name, number)
        return cls(exact, below)

    def find(self, name: str) -> int | None:
        """Return the certificate for a name in lower case: exactly this name, else by a wildcard for its
        first label (RFC 9525 section 6.3: the whole label, and only that). A trailing dot does not count."""
        name = name.removesuffix(".")
        found = self.exact.get(name)
        if found is not None:
            return found
        label, dot, parent = name.partition(".")
        return self.below.get(parent) if label and dot else None


def host_name(host: bytes) -> str:
    """Return the name in a Host value as a certificate would have it: lower case, without port, brackets and
    trailing dot, an address in canonical form. Empty where it is none."""
    match = _HOST.fullmatch(host.lower())
    if match is None:
        return ""
    name = match[1].decode("ascii").strip("[]").removesuffix(".")
    if ":" not in name and not name[-1:].isdigit():
        return name
    try:
        return str(ip_address(name))
    except ValueError:
        return name


_SHORT_NAMES = {
    "commonName": "CN",
    "countryName": "C",
    "domainComponent": "DC",
    "localityName": "L",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "stateOrProvinceName": "ST",
    "streetAddress": "street",
    "userId": "UID",
}
"""OpenSSL's long names to the short ones of RFC 4514 section 3; others stay, as OpenSSL writes them too."""

_SPECIAL = re.compile(r'[",+;<>\\]|^[ #]| $')


def subject_text(subject: Iterable[Iterable[Any]]) -> str:
    """Write a subject, as ``ssl.SSLSocket.getpeercert`` gives it, as RFC 4514 has it: ``CN=ann,O=Example``.

    The most specific part comes first. It is what nginx calls ``$ssl_client_s_dn``.
    """
    return ",".join("+".join(map(_attribute, part)) for part in reversed(tuple(subject)))


def _attribute(pair: tuple[str, str]) -> str:
    kind, value = pair
    escaped = _SPECIAL.sub(lambda match: "\\" + match[0], value)
    return f"{_SHORT_NAMES.get(kind, kind)}={''.join(map(_printable, escaped))}"


def _printable(character: str) -> str:
    if character.isprintable():
        return character
    return "".join(f"\\{byte:02X}" for byte in character.encode())
