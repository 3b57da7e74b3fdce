"""What the spool takes of requests, on the general path: instead of PostHog (`first`), or where PostHog did
not take them (`fallback`).

::

    first ─────────────────────────────────────────────────▶ kept ─▶ 200 {"status":"Ok"}
    fallback ─▶ asked; breaker open, no connection, late, 502 to 504 ─▶ kept, if all of it is in hand
                                   └▶ anything else is passed on     └▶ else the failure is answered (503)

In hand is what was held, and what the client has yet to send: of a body that was sent on in pieces nothing
is left here, and the SDK still has it. Full, or a disk that fails: 503, and the SDK still has it too.

Memory: what the exchange holds of the body anyway, and one read of the rest; the store bounds its own.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

from proxy.config.schema import LogLevel
from proxy.errors import Failure, Source
from proxy.message import SpoolMode, first_value
from proxy.rules.answers import answer_kept
from proxy.serve.record import shown
from proxy.spool.record import Receipt, SpoolFailed, SpoolFull, SpoolRecord, order_key, queue_name
from proxy.wire.heads import render_request

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.message import Forward
    from proxy.serve.body import RequestBody
    from proxy.serve.exchange import Exchange
    from proxy.serve.runtime import Runtime
    from proxy.spool.record import Keeper, Outcome

KEPT_METHODS = frozenset({b"POST", b"GET"})
"""Events come by either; a pre-flight is nothing to deliver."""

SAY_INTERVAL = 60.0
"""Seconds between two lines about the same trouble."""

_LOOKED_AT = 4096
"""Bytes of a body in which the person of an event is looked for."""

_PERSON = re.compile(rb'"(?:\$?distinct_id)"\s*:\s*"([^"\\]{1,200})"')

_CURES = {
    "bytes": "raise spool.max_bytes, or make room: posthog-proxy spool stat",
    "age": "this upstream has taken nothing for spool.max_age: look at it, or raise that",
    "disk": "free some of the disk (spool.keep_free)",
    "memory": "the disk is too slow for what comes; raise spool.memory, or move spool.directory",
}


class Spooling:
    """The spool as the serving paths know it. ``wake`` is told of every record that was kept, by its
    queue."""

    def __init__(self, runtime: Runtime, keeper: Keeper, wake: Callable[[str], None]) -> None:
        self.keeper = keeper
        self._runtime = runtime
        self._wake = wake
        self._said: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"<Spooling {self.keeper!r}>"

    async def take(self, exchange: Exchange, forward: Forward, body: RequestBody) -> bool:
        """Answer a request on a route with a spool; true: the connection may take another one."""
        if exchange.head.method not in KEPT_METHODS:
            return await exchange.forward(forward, body)
        if forward.route.spool is SpoolMode.FIRST:
            exchange.raise_begun()
            return await self._keep(exchange, forward, body, await exchange.hold(body), None)
        try:
            return await exchange.forward(forward, body, sick_fails=True)
        except Failure as failure:
            if failure.source is Source.DOWNSTREAM or not exchange.in_hand:
                raise
            return await self._keep(exchange, forward, body, exchange.held, failure)

    async def _keep(
        self, exchange: Exchange, forward: Forward, body: RequestBody, held: bytes, why: Failure | None
    ) -> bool:
        method = exchange.head.method
        record = spool_record(self._runtime, method, forward, held, whole=body.done)
        mode = "first" if why is None else "fallback"
        try:
            if body.done:
                await self._append(record, held, mode)
            else:
                await self._write(record, method, forward, held, body)
                self.kept(mode, record.upstream)
        except (SpoolFull, SpoolFailed) as error:
            raise self.refusal(error) from why
        connection = exchange.connection
        close = connection.must_close(exchange.head.close, self._runtime.clock.monotonic())
        answer = answer_kept(exchange.head, forward.route.cls, self._runtime.clock.wall(), close=close)
        exchange.answer_begins()
        connection.answer(answer, exchange.record)
        exchange.record.from_spool(answer.status, why)
        return not answer.close

    async def _append(self, record: SpoolRecord, body: bytes, mode: str) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def told(outcome: Outcome) -> None:
            if isinstance(outcome, Receipt):
                self.kept(mode, record.upstream)
            if done.done():  # the exchange was stopped meanwhile
                return
            if isinstance(outcome, Receipt):
                done.set_result(None)
            else:
                done.set_exception(outcome)

        self.keeper.append(record, body, told)
        await done

    async def _write(
        self, record: SpoolRecord, method: bytes, forward: Forward, held: bytes, body: RequestBody
    ) -> None:
        """Write a body that is still coming."""
        entry = self.keeper.begin(record)
        try:
            data = held
            while data:
                if not entry.write(data):
                    await entry.ready()
                data = await body.read()
            head = None if record.length is not None else kept_head(method, forward, body.size)
            await entry.commit(head)
        finally:
            entry.abandon()

    def kept(self, mode: str, queue: str) -> None:
        """A record is durable."""
        self._runtime.counters.spooled.add(mode)
        self._wake(queue)

    def refusal(self, error: SpoolFull | SpoolFailed) -> Failure:
        """Return what the client is told whose request could not be kept, and tell the operator."""
        full = isinstance(error, SpoolFull)
        reason = error.reason if isinstance(error, SpoolFull) else "failed"
        now = self._runtime.clock.monotonic()
        if now - self._said.get(reason, -SAY_INTERVAL) >= SAY_INTERVAL:
            self._said[reason] = now
            cure = _CURES.get(reason, "look at the disk of spool.directory")
            self._runtime.error(LogLevel.ERROR, "spool_refused", reason=str(error), cure=cure)
        detail = f"the request could not be kept for later ({reason})"
        return Failure(Source.PROXY, "spool_full" if full else "spool_failed", 503, detail)


def spool_record(
    runtime: Runtime, method: bytes, forward: Forward, body: bytes, *, whole: bool
) -> SpoolRecord:
    """Return the record of a request that arrived now. ``body``: what is here of it."""
    declared = first_value(forward.fields, b"content-length")
    length = len(body) if whole else None if declared is None else int(declared)
    return SpoolRecord(
        arrived=runtime.clock.wall(),
        upstream=queue_name(forward.route.upstream, forward.route.cls),
        route=forward.route.name,
        client=delivery_order(shown(runtime, forward.client.ip), body),
        head=kept_head(method, forward, length),
        length=length,
    )


def kept_head(method: bytes, forward: Forward, length: int | None) -> bytes:
    """Return the head as it goes upstream, with the body's length in place of other framing; ``None``: it is
    not known yet."""
    fields = tuple(field for field in forward.fields if field[0].lower() != b"transfer-encoding")
    if length is not None and len(fields) < len(forward.fields):
        fields += ((b"Content-Length", b"%d" % length),)
    return render_request(method, forward.target, fields)


def delivery_order(client: str, body: bytes) -> bytes:
    """Return the order key of a request: of one client (as the log shows it) about one person, as far as the
    person stands in plain text; else of the client."""
    person = _PERSON.search(body, 0, _LOOKED_AT)
    return order_key(client, None if person is None else person[1])
