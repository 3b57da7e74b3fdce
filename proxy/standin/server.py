"""`Standin`: the stand-in behind one listener, usable in a test's own event loop.

::

    async with Standin() as standin:
        ...                                   # talk to standin.url
        [event] = await standin.wait_for_events(1)
        assert event.request.ip["capture"] == "203.0.113.7"
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from aiohttp import web

from proxy.clock import Clock
from proxy.config.notation import listen_address
from proxy.config.schema import TcpAddress, UnixAddress
from proxy.standin.arrival import RECORD, refusal
from proxy.standin.client_ip import Gate, by_service
from proxy.standin.faults import Faults, Kind
from proxy.standin.ingest import Ingest
from proxy.standin.journal import Event, Journal, Request
from proxy.standin.probes import Probes
from proxy.standin.reads import Reads
from proxy.standin.streams import Streams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from types import TracebackType

    from aiohttp.typedefs import Handler

MAX_LINE = 128 * 1024
"""Bytes of one header line: more than any proxy in front lets through."""

LOCAL_GATE = Gate(trusted=frozenset({"127.0.0.1", "::1", ""}))
"""The IP gate of an installation whose TRUSTED_PROXIES names the machine itself (and Unix sockets)."""


class Standin:
    """``listen`` is ``HOST:PORT`` (port 0: any free one) or ``unix:/path``; ``static`` a folder of
    posthog-js's built files; ``gate`` how Django's IP gate is set up; ``journal`` a file that gets a line for
    each event.

    Everything kept is bounded (journal.py); bodies are read up to PostHog's own caps.
    """

    def __init__(
        self,
        listen: str = "127.0.0.1:0",
        *,
        static: Path | None = None,
        gate: Gate = LOCAL_GATE,
        clock: Clock | None = None,
        journal: Path | None = None,
    ) -> None:
        self._listen = listen_address(listen)
        self._gate = gate
        self._clock = clock or Clock()
        self._faults = Faults()
        self.journal = Journal(journal)
        self._streams = Streams(self.journal)
        self._runner = self._build(static)
        self.url = ""

    def _build(self, static: Path | None) -> web.AppRunner:
        app = web.Application(middlewares=[self._middleware])
        sdk = [
            *Ingest(self.journal).routes(),
            *Reads(static).routes(),
            *self._streams.routes(),
        ]
        wrong_method = [web.route("*", path, _not_allowed) for path in {route.path for route in sdk}]
        self._sdk_resources = {route.resource for route in app.add_routes([*sdk, *wrong_method])}
        app.add_routes(Probes(self.journal).routes())
        app.on_response_prepare.append(self._add_cors)
        return web.AppRunner(
            app,
            access_log=None,
            handler_cancellation=True,
            auto_decompress=False,
            max_line_size=MAX_LINE,
            max_field_size=MAX_LINE,
            max_headers=512,
            shutdown_timeout=1.0,
        )

    async def __aenter__(self) -> Self:
        """Raises ``OSError`` where the address cannot be had."""
        await self._runner.setup()
        try:
            await self._start()
        except OSError:
            await self._runner.cleanup()
            raise
        return self

    async def _start(self) -> None:
        address = self._listen
        if isinstance(address, UnixAddress):
            await web.UnixSite(self._runner, address.path).start()
            self.url = str(address)
        else:
            await web.TCPSite(self._runner, address.host, address.port, backlog=1024).start()
            host, port, *_ = self._runner.addresses[0]
            self.url = f"http://{TcpAddress(host, port)}"

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._streams.close()
        await self._runner.cleanup()
        self.journal.close()
        self._unlink()

    def _unlink(self) -> None:
        if isinstance(self._listen, UnixAddress):
            Path(self._listen.path).unlink(missing_ok=True)

    # what arrived

    @property
    def events(self) -> Sequence[Event]:
        """The last 1,000 events, oldest first."""
        return self.journal.events

    @property
    def requests(self) -> Sequence[Request]:
        """The last 1,000 requests, oldest first, those to the stand-in's own pages left out."""
        return self.journal.requests

    @property
    def open_streams(self) -> int:
        """SSE readers and WebSockets that are connected now."""
        return self._streams.open

    async def wait_for_events(
        self, count: int, *, name: str | None = None, timeout: float = 10.0
    ) -> Sequence[Event]:
        """The events kept, or those called ``name``, once there are ``count`` of them."""

        def wanted() -> Sequence[Event]:
            return [event for event in self.events if name in (None, event.name)]

        await self.journal.wait(lambda: len(wanted()) >= count, timeout)
        return wanted()

    async def wait_for(self, met: Callable[[], bool], timeout: float = 10.0) -> None:
        """Until ``met()``, asked again at each arrival and at each answer. Raises ``TimeoutError``."""
        await self.journal.wait(met, timeout)

    # how it behaves

    def fail_with(
        self,
        status: int,
        *,
        paths: Iterable[str] = (),
        times: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Answer ``status`` on ``paths`` (all, if empty), to the next ``times`` requests or until
        ``behave``. The body is left unread, as by a server that refuses early."""
        self._faults.add(Kind.STATUS, paths=paths, status=status, times=times, headers=headers)

    def delay(self, seconds: float, *, paths: Iterable[str] = (), times: int | None = None) -> None:
        """Wait before answering."""
        self._faults.add(Kind.DELAY, paths=paths, seconds=seconds, times=times)

    def drop(self, *, paths: Iterable[str] = (), times: int | None = None) -> None:
        """Close the connection without an answer."""
        self._faults.add(Kind.DROP, paths=paths, times=times)

    def behave(self) -> None:
        """Answer as PostHog does again."""
        self._faults.clear()

    def publish(self, data: Any, event: str = "message") -> None:
        """Send one Server-Sent Event to every open stream."""
        self._streams.publish(data, event)

    # every request

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        record = self._record(request)
        status = 0
        try:
            response = await self._answer(request, handler)
            status = response.status
            return response
        finally:
            self.journal.answered(record, status)

    def _record(self, request: web.Request) -> Request:
        fields = tuple(
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in request.raw_headers
        )
        peername = request.transport.get_extra_info("peername") if request.transport else None
        peer = peername[0] if isinstance(peername, tuple) else ""
        record = Request(
            number=self.journal.request_count + 1,
            arrived=self._clock.wall(),
            method=request.method,
            target=request.raw_path,
            version=f"{request.version.major}.{request.version.minor}",
            peer=peer,
            fields=fields,
            ip=by_service(fields, peer, self._gate),
        )
        request[RECORD] = record
        if not request.path.startswith("/__standin__/"):
            self.journal.add_request(record)
        return record

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        for fault in self._faults.take(request.path):
            if fault.kind is Kind.DELAY:
                await asyncio.sleep(fault.seconds)
            elif fault.kind is Kind.DROP:
                if request.transport is not None:
                    request.transport.abort()
                raise asyncio.CancelledError
            else:
                answer = refusal(fault.status, "made to fail")
                answer.headers.update(fault.headers)
                return answer
        if request.method == "OPTIONS" and self._is_sdk(request):
            return web.Response()
        return await handler(request)

    def _is_sdk(self, request: web.Request) -> bool:
        return request.match_info.route.resource in self._sdk_resources

    async def _add_cors(self, request: web.Request, response: web.StreamResponse) -> None:
        """As PostHog does on SDK paths, also on errors: the Origin and the requested headers mirrored,
        credentials allowed."""
        origin = request.headers.get("Origin")
        if origin is None or not self._is_sdk(request):
            return
        headers = response.headers
        headers["Access-Control-Allow-Origin"] = origin
        headers["Access-Control-Allow-Credentials"] = "true"
        headers.setdefault("Vary", "Origin")
        if request.method == "OPTIONS":
            headers["Access-Control-Allow-Methods"] = "GET, POST, OPTIONS"
            if (wanted := request.headers.get("Access-Control-Request-Headers")) is not None:
                headers["Access-Control-Allow-Headers"] = wanted


async def _not_allowed(request: web.Request) -> web.Response:
    return refusal(405, f"{request.method} is not allowed here")
