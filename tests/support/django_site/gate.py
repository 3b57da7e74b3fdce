"""PostHog's address gate (ALLOWED_IP_BLOCKS), from its documented behaviour.

The client is the first token of X-Forwarded-For, but only with IS_BEHIND_PROXY. Unless TRUST_ALL_PROXIES
is a non-empty string, the socket's peer and every further token must equal an entry of TRUSTED_PROXIES as
text (a CIDR block never matches), else 403. A token that is no bare address is an unhandled error: 500.
"""

# Django ships no types.
# mypy: disable-error-code="import-untyped"

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

from django.conf import settings
from django.core.exceptions import MiddlewareNotUsed
from django.http import HttpRequest, HttpResponse

if TYPE_CHECKING:
    from collections.abc import Callable


class AddressGate:
    """Middleware that refuses clients outside of ALLOWED_IP_BLOCKS, health probes excepted."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        if not settings.ALLOWED_IP_BLOCKS:
            raise MiddlewareNotUsed
        self._get_response = get_response
        self._blocks = [ip_network(block, strict=False) for block in settings.ALLOWED_IP_BLOCKS]
        self._trusted = [item.strip() for item in settings.TRUSTED_PROXIES.split(",")]

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if request.path.startswith("/_health"):
            return self._get_response(request)
        client = self._client(request)
        if client is not None and any(ip_address(client) in block for block in self._blocks):
            return self._get_response(request)
        return HttpResponse("Your address is not allowed.", status=403, content_type="text/plain")

    def _client(self, request: HttpRequest) -> str | None:
        peer: str = request.META["REMOTE_ADDR"]
        header: str = request.META.get("HTTP_X_FORWARDED_FOR", "")
        chain = [token.strip() for token in header.split(",") if token.strip()]
        if not settings.IS_BEHIND_PROXY or not chain:
            return peer
        client, *proxies = chain
        if settings.TRUST_ALL_PROXIES or all(proxy in self._trusted for proxy in (peer, *proxies)):
            return client
        return None
