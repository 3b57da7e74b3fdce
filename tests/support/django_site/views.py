"""Pages that show what Django made of a request."""

# Django ships no types.
# mypy: disable-error-code="import-untyped, untyped-decorator"

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse, StreamingHttpResponse
from django.shortcuts import render
from django.views.decorators.csrf import csrf_exempt

if TYPE_CHECKING:
    from collections.abc import Iterator

DOWNLOAD_BLOCKS = 64
DOWNLOAD_BLOCK = b"posthog " * 4096


def health(request: HttpRequest) -> HttpResponse:
    """`/_health`: the probes' page, which SECURE_SSL_REDIRECT leaves alone."""
    return HttpResponse("ok", content_type="text/plain")


@login_required
def home(request: HttpRequest) -> HttpResponse:
    """`/`: behind the login."""
    return render(request, "home.html")


def meta(request: HttpRequest) -> JsonResponse:
    """`/meta`: the headers as WSGI names them, and what Django concludes from them."""
    shown = {
        name: value
        for name, value in request.META.items()
        if isinstance(value, str) and (name.startswith("HTTP_") or name in ("REMOTE_ADDR", "QUERY_STRING"))
    }
    return JsonResponse(
        {
            "meta": shown,
            "secure": request.is_secure(),
            "host": request.get_host(),
            "path": request.get_full_path(),
            "next": request.build_absolute_uri("/api/list?offset=100"),
        }
    )


@csrf_exempt
def digest(request: HttpRequest) -> JsonResponse:
    """`/digest`: the SHA-256 and length of the body."""
    return JsonResponse({"sha256": hashlib.sha256(request.body).hexdigest(), "length": len(request.body)})


def moved(request: HttpRequest) -> HttpResponseRedirect:
    """`/moved?to=...`: a redirect whose Location is exactly what was asked for."""
    return HttpResponseRedirect(request.GET["to"])


def download(request: HttpRequest) -> StreamingHttpResponse:
    """`/download`: two megabytes in chunks, without a length."""

    def blocks() -> Iterator[bytes]:
        for _ in range(DOWNLOAD_BLOCKS):
            yield DOWNLOAD_BLOCK

    return StreamingHttpResponse(blocks(), content_type="application/octet-stream")
