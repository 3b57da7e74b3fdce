"""What every handler shares: the record of the request in hand, and its body with PostHog's caps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from proxy.standin.journal import Request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

RECORD = web.RequestKey("record", Request)

MIB = 1024 * 1024


def refusal(status: int, detail: str) -> web.Response:
    """A JSON error as PostHog's services word theirs."""
    return web.json_response({"type": "validation_error", "code": "invalid", "detail": detail}, status=status)


async def body_chunks(request: web.Request) -> AsyncIterator[bytes]:
    """The body piece by piece, counted in the record. Nothing is decoded."""
    record = request[RECORD]
    async for chunk in request.content.iter_any():
        record.body_bytes += len(chunk)
        yield chunk


async def read_body(request: web.Request, limit: int) -> bytes | None:
    """The whole body, or ``None`` where it has more than ``limit`` bytes (the answer is then a 413)."""
    if (request.content_length or 0) > limit:
        return None
    chunks, size = [], 0
    async for chunk in body_chunks(request):
        size += len(chunk)
        if size > limit:
            return None
        chunks.append(chunk)
    return b"".join(chunks)


def bearer(request: web.Request) -> str | None:
    """The token of `Authorization: Bearer`, ``None`` without one."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def both_forms(path: str) -> tuple[str, str]:
    """PostHog answers its SDK paths with and without a trailing slash, and redirects neither."""
    return path, f"{path}/"
