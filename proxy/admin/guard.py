"""Who may ask. Pure: a request in, a refusal or nothing out.

Without a token whoever can connect may ask: the address is one of this machine, or a Unix socket with its
permissions. But a web page can make its reader's browser connect, too: by a name that its owner points at
127.0.0.1 (so Host must then be an address or ``localhost``), or by a form (so a page cannot give a command).
"""

from __future__ import annotations

import base64
import binascii
import hmac
from ipaddress import ip_address
from typing import TYPE_CHECKING

from proxy.admin.exchange import said
from proxy.message import field_values

if TYPE_CHECKING:
    from proxy.admin.exchange import Answer, Request
    from proxy.message import RequestHead

OPEN = frozenset({"/healthz", "/readyz"})
"""What balancers ask, which have no token."""


def denial(request: Request, token: bytes, *, unix: bool) -> Answer | None:
    """Return the refusal of a request, ``None`` where it may be answered. ``token``: empty where none is
    needed; ``unix``: it came over a Unix socket."""
    head = request.head
    if head.method == b"POST" and (field_values(head.fields, b"origin") or _crosses(head)):
        return said(403, "a command cannot be given from a web page")
    if request.path in OPEN:
        return None
    if not token:
        if unix or _names_this_machine(head.host or b""):
            return None
        return said(403, "without a token, ask by address or as localhost")
    if any(hmac.compare_digest(token, given) for given in _given(head)):
        return None
    return said(401, "a token is needed", WWW_Authenticate='Basic realm="posthog-proxy", charset="UTF-8"')


def _crosses(head: RequestHead) -> bool:
    sites = field_values(head.fields, b"sec-fetch-site")
    return any(site not in (b"none", b"same-origin") for site in sites)


def _names_this_machine(host: bytes) -> bool:
    name = host.decode("ascii", "replace").lower()
    name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
    if name == "localhost":
        return True
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _given(head: RequestHead) -> list[bytes]:
    """The token as a Bearer's, or as the password of any user: browsers ask for the latter."""
    found = []
    for value in field_values(head.fields, b"authorization"):
        scheme, _, rest = value.partition(b" ")
        if scheme.lower() == b"bearer":
            found.append(rest.strip())
        elif scheme.lower() == b"basic":
            try:
                found.append(base64.b64decode(rest.strip(), validate=True).partition(b":")[2])
            except binascii.Error:
                continue
    return found
