"""Forward authentication: what an outside service is asked before a request goes on, and what it means.

The question is what Traefik and Caddy ask: a GET without the body, with the client's cookies and
Authorization, and the request described in X-Forwarded-*. A 2xx is consent, and the headers that it is
trusted with go on with the request; any other answer is the client's. An SDK is never redirected, since it
would follow with a GET and lose its event.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import quote_from_bytes

from proxy.config.schema import ForwardingConfig
from proxy.errors import ConfigError, Problem
from proxy.message import SDK_CLASSES, field_values, first_value
from proxy.rules.access import Denial
from proxy.rules.forwarding import UNDELETABLE, ForwardingTable, Kind, classify_request_name

if TYPE_CHECKING:
    from proxy.config.schema import AccessConfig
    from proxy.message import Fields, Forward, RequestHead, ResponseHead

DENIED = "forward_auth_denied"
SIGN_IN = "forward_auth_sign_in"

NOT_ASKED = Denial(
    503,
    "forward_auth_unreachable",
    "the service that checks who you are cannot be reached at the moment",
    retry_after=5,
)
"""The service did not answer, or not in HTTP: nobody passes unchecked."""

BODY_LIMIT = 64 * 1024
"""Bytes of an answer's body that are passed on; a longer one is replaced by ours."""

_DESCRIBING = frozenset(
    {
        b"authorization",
        b"cookie",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-port",
        b"x-forwarded-proto",
        b"x-request-id",
    }
)
"""What of the outgoing request goes into the question, beside `access.forward_auth_send`."""

_PASSED_ON = frozenset({b"location", b"set-cookie", b"www-authenticate", b"retry-after"})
_ABOUT_BODY = frozenset({b"content-type", b"content-encoding", b"content-language"})

_PLAIN = ForwardingTable.of(ForwardingConfig())


@dataclass(frozen=True, slots=True)
class ForwardAuthTable:
    """`access.forward_auth_*`, ready for look-ups; names in lower case. ``copy`` are names that only the
    service may set: they are taken from no client (rules/forwarding.py)."""

    path: bytes
    send: frozenset[bytes]
    copy: frozenset[bytes]
    sign_in: bytes

    @classmethod
    def of(cls, config: AccessConfig) -> ForwardAuthTable:
        """Build the table of a configuration. Raises ``ConfigError`` for a header that cannot be sent or
        taken: of those that say something in every request (Authorization, Cookie), a consent has none."""
        problems = _problems("forward_auth_send", config.forward_auth_send)
        problems += _problems("forward_auth_copy", config.forward_auth_copy, UNDELETABLE)
        if problems:
            raise ConfigError(*problems)
        return cls(
            config.forward_auth_path.encode(),
            _DESCRIBING | _lower(config.forward_auth_send),
            _lower(config.forward_auth_copy),
            config.forward_auth_sign_in.encode(),
        )


def _problems(key: str, names: tuple[str, ...], taken: frozenset[bytes] = frozenset()) -> list[Problem]:
    allowed = "is set by the proxy, by the protocol or by every client, or has `_` or `.` in it"
    return [
        Problem(f"access.{key}", f'"{name}"', allowed)
        for name in names
        for lower in [name.lower().encode()]
        if lower in taken or classify_request_name(lower, _PLAIN) is not Kind.PASS
    ]


def _lower(names: tuple[str, ...]) -> frozenset[bytes]:
    return frozenset(name.lower().encode() for name in names)


def question(head: RequestHead, forward: Forward, host: bytes, table: ForwardAuthTable) -> Fields:
    """Return the lines of the GET that asks about a request; ``host`` is the Host to send.

    They are taken from what goes upstream, so that nothing a client claims about itself is among them.
    """
    return (
        (b"Host", host),
        *(field for field in forward.fields if field[0].lower() in table.send),
        (b"X-Forwarded-Method", head.method),
        (b"X-Forwarded-Uri", head.target),
    )


def verdict(
    answer: ResponseHead, body: bytes | None, head: RequestHead, forward: Forward, table: ForwardAuthTable
) -> Forward | Denial:
    """Judge the service's answer; ``body`` is ``None`` where it was too long."""
    if 200 <= answer.status < 300:
        vouched = tuple(field for field in answer.fields if field[0].lower() in table.copy)
        return replace(forward, fields=forward.fields + vouched)
    sdk = forward.route.cls in SDK_CLASSES
    if answer.status == 401 and table.sign_in and not sdk and _is_page(head):
        location = _sign_in(table.sign_in, head, forward)
        fields = _named(answer.fields, frozenset({b"set-cookie"}))
        return Denial(302, SIGN_IN, "sign in first", ((b"Location", location), *fields), b"")
    if answer.status < 400:
        location_given = first_value(answer.fields, b"location") is not None
        if sdk:
            return Denial(401, DENIED, "credentials are needed here")
        if not location_given:
            return NOT_ASKED
    names = _PASSED_ON if body is None else _PASSED_ON | _ABOUT_BODY
    detail = f"the authentication service answered {answer.status}"
    return Denial(answer.status, DENIED, detail, _named(answer.fields, names), body)


def _named(fields: Fields, names: frozenset[bytes]) -> Fields:
    return tuple(field for field in fields if field[0].lower() in names)


def _is_page(head: RequestHead) -> bool:
    """A browser that loads a page says that it takes HTML; a script's call hardly ever does."""
    return head.method in (b"GET", b"HEAD") and any(
        b"text/html" in value.lower() for value in field_values(head.fields, b"accept")
    )


def _sign_in(page: bytes, head: RequestHead, forward: Forward) -> bytes:
    proto = first_value(forward.fields, b"x-forwarded-proto") or b"http"
    host = first_value(forward.fields, b"x-forwarded-host") or b""
    wanted = quote_from_bytes(proto + b"://" + host + head.target, safe="").encode()
    return page + (b"&" if b"?" in page else b"?") + b"rd=" + wanted
