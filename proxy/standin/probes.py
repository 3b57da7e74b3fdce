"""Endpoints that are not PostHog's public ones: what a test or a person looks through the proxy with."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from aiohttp import web

from proxy.standin import page, payloads
from proxy.standin.arrival import RECORD, body_chunks
from proxy.standin.bodies import query_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxy.standin.journal import Journal

BLOCK = bytes(range(256)) * 256
"""64 KiB; a download repeats it, so that every byte is known."""

NEVER_PUBLIC = ("/metrics", "/_liveness", "/_readiness", "/test/black_hole")
"""The ingestion services answer these on the same port; a proxy must not let them out."""


class Probes:
    """Echo, sinks and sources, health, the login page, and the pages about what arrived."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def routes(self) -> Iterator[web.RouteDef]:
        yield web.route("*", "/__standin__/echo", self._echo)
        yield web.get("/__standin__/", self._page)
        yield web.get("/__standin__/events", self._events)
        yield web.get("/__standin__/requests", self._requests)
        yield web.get("/__standin__/counts", self._counts)
        yield web.get(r"/download/{size:\d+}", self._download)
        yield web.route("*", "/upload", self._upload)
        yield web.get("/_health", self._health)
        for path in NEVER_PUBLIC:
            yield web.route("*", path, self._private)
        yield web.route("*", "/{tail:.*}", self.app)

    async def app(self, request: web.Request) -> web.Response:
        """The web app: its login page, whatever was asked for."""
        async for _ in body_chunks(request):
            pass
        return web.Response(text=payloads.LOGIN_PAGE, content_type="text/html")

    async def _echo(self, request: web.Request) -> web.Response:
        digest = hashlib.sha256()
        async for chunk in body_chunks(request):
            digest.update(chunk)
        record = request[RECORD]
        answer = record.as_dict() | {"body_sha256": digest.hexdigest()}
        return web.json_response(answer)

    async def _page(self, request: web.Request) -> web.Response:
        scheme = "https" if request.headers.get("X-Forwarded-Proto") == "https" else "http"
        text = page.events_page(
            self._journal.events, self._journal.event_count, f"{scheme}://{request.headers.get('Host', '')}"
        )
        return web.Response(
            text=text, content_type="text/html", headers={"Content-Security-Policy": page.POLICY}
        )

    async def _events(self, request: web.Request) -> web.Response:
        return web.json_response([event.as_dict() for event in self._journal.events])

    async def _requests(self, request: web.Request) -> web.Response:
        return web.json_response([record.as_dict() for record in self._journal.requests])

    async def _counts(self, request: web.Request) -> web.Response:
        journal = self._journal
        counts = {"events": journal.event_count, "requests": journal.request_count}
        return web.json_response(counts | {"duplicates": journal.duplicates})

    async def _download(self, request: web.Request) -> web.StreamResponse:
        """So many bytes; chunked with `?chunked=1`, else with a Content-Length."""
        size = int(request.match_info["size"])
        response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
        if query_of(request.query_string).get("chunked"):
            response.enable_chunked_encoding()
        else:
            response.content_length = size
        await response.prepare(request)
        while size > 0:
            await response.write(BLOCK[:size])
            size -= len(BLOCK)
        return response

    async def _upload(self, request: web.Request) -> web.Response:
        """Reads and forgets the body; says how many bytes it had."""
        async for _ in body_chunks(request):
            pass
        return web.json_response({"bytes": request[RECORD].body_bytes})

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def _private(self, request: web.Request) -> web.Response:
        return web.Response(text="# this must never be public\n")
