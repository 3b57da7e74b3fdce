"""What a trusted peer says of the client's request beside its address: scheme, host, port, request id.

Nothing of it is believed from anybody else. What it comes to upstream is for rules/forwarding.py, what it
allows for rules/transport.py and rules/access.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxy.message import AddressSource
from proxy.rules.forwarded import OWS, nearest_forwarded

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from proxy.message import ClientAddress, Fields, Peer, RequestHead


@dataclass(frozen=True, slots=True)
class Claims:
    """What a trusted peer says of the client's request; ``None`` where it says nothing usable."""

    proto: bytes | None = None
    host: bytes | None = None
    port: int | None = None
    request_id: str | None = None


NO_CLAIMS = Claims()

_CLAIM_NAMES = frozenset({b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-port", b"x-request-id"})

_PROTOS = {b"http": b"http", b"https": b"https", b"ws": b"http", b"wss": b"https"}

_HOST = re.compile(rb"(?:[a-z0-9._-]{1,255}+|\[[0-9a-f:.]{2,45}+\])(?::([0-9]{1,5}+))?+")
"""Django's own pattern (django.http.request), with `_` for Compose's host names."""

_PORT = re.compile(rb"[1-9][0-9]{0,4}+")
_UUID = re.compile(rb"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def any_host(host: bytes) -> bool:
    """Allow every host: what `allowed_hosts = ["*"]` means."""
    return True


def claims(fields: Fields, client: ClientAddress, allowed_host: Callable[[bytes], bool] = any_host) -> Claims:
    """Read what the peer says beside the address; nothing of it from a peer that is not trusted.

    ``proto`` is the last value (the peer's own) if it is http or https, ws and wss counting as those.
    ``host`` is one valid `name[:port]`, in lower case and allowed by ``allowed_host`` (which is given
    it with the port). ``port`` is one number from 1 to 65535, ``request_id`` a UUID in lower case. Where
    the address came from Forwarded (RFC 7239), its `proto` and `host` stand in for absent lines.
    """
    if not client.peer_trusted:
        return NO_CLAIMS
    said: dict[bytes, list[bytes]] = {}
    for name, value in fields:
        lower = name.lower()
        if lower in _CLAIM_NAMES:
            said.setdefault(lower, []).append(value)
    if client.source is AddressSource.FORWARDED:
        nearest = nearest_forwarded(fields)
        for parameter in (b"proto", b"host"):
            if parameter in nearest:
                said.setdefault(b"x-forwarded-" + parameter, [nearest[parameter]])
    proto = said.get(b"x-forwarded-proto", [b""])[-1].rpartition(b",")[2]
    host = _single(said.get(b"x-forwarded-host")).lower()
    return Claims(
        proto=_PROTOS.get(proto.strip(OWS).lower()),
        host=host if _valid_host(host) and allowed_host(host) else None,
        port=_valid_port(_single(said.get(b"x-forwarded-port"))),
        request_id=named_request_id(said.get(b"x-request-id")),
    )


def named_request_id(values: Sequence[bytes] | None) -> str | None:
    """Return the id that a trusted peer's X-Request-Id lines name, if they do."""
    value = _single(values).lower()
    return value.decode("ascii") if _UUID.fullmatch(value) else None


def _single(values: Sequence[bytes] | None) -> bytes:
    return values[0] if values is not None and len(values) == 1 else b""


def _valid_host(host: bytes) -> bool:
    match = _HOST.fullmatch(host)
    return match is not None and (match[1] is None or 1 <= int(match[1]) <= 65535)


def _valid_port(value: bytes) -> int | None:
    return int(value) if _PORT.fullmatch(value) and int(value) <= 65535 else None


def effective_request_id(head: RequestHead, client: ClientAddress, candidate: str) -> str:
    """Return the id that this request goes by: a trusted peer's if it is a UUID (PostHog's flags service
    takes no other), else ``candidate``."""
    return claims(head.fields, client).request_id or candidate


def effective_proto(peer: Peer, said: Claims) -> bytes:
    """Return the scheme that the client used: a trusted peer's word, else whether we ended its TLS."""
    return said.proto or (b"https" if peer.tls else b"http")
