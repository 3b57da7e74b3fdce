"""A general exchange: one request and its answer, as one coroutine that reads in the order of events.

decide → (refuse | hold the body's beginning → lease → send → read the answer's head → relay → release)

Whatever happens, three things are done exactly once: the lease is released, the access record is
written, and the connection is told how to go on. Every failure is a ``Failure`` with its source, and
``rules/answers`` says what the client hears; once the answer has begun, it can only be cut.

Memory per exchange: the held body (`limits.held_body` plus one read) and what the two streams hold,
whatever the sizes of the bodies (about 1 MiB with the default limits when both sides stall).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from proxy.clock import NEVER
from proxy.errors import Failure, Resend, Source, late_answer
from proxy.message import EndpointClass, Forward, FramingKind, Refuse, SpoolMode, first_value
from proxy.net.lease import SICK
from proxy.net.relay import Tunnel
from proxy.observe.log import Phase
from proxy.rules.answers import answer_failure, answer_refusal, http_date
from proxy.rules.decide import decide
from proxy.rules.forwarding import response_fields
from proxy.rules.limits import rate_refusal
from proxy.serve.body import request_body
from proxy.serve.cached import answer_cached, tell
from proxy.serve.record import Record
from proxy.serve.streaming import (
    chunked_piece,
    client_gone,
    relay_rest,
    send_rest,
    sick_answer,
    stuck_client,
)
from proxy.wire.heads import render_request, render_response, websocket_accepts

if TYPE_CHECKING:
    from proxy.message import RequestHead, ResponseHead, Route
    from proxy.net.pool import Lease
    from proxy.serve.body import RequestBody
    from proxy.serve.cached import Keeper
    from proxy.serve.connection import Connection

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_SAFE_METHODS = frozenset({b"GET", b"HEAD", b"OPTIONS"})
_RETRIED_READS = frozenset({EndpointClass.SDK_READ, EndpointClass.BEARER_READ})


@dataclass(frozen=True, slots=True)
class Begun:
    """What the fast path has done of an exchange when it hands it over.

    The request was decided on under ``request_id``, and ``body`` was read of it. With a ``lease`` it was
    sent and its answer is due at ``due``; ``failure`` is what has gone wrong since.

    A large body is ``streamed``: only a part was read before the rest was sent. While it is moved, or that of
    the answer, ``pump`` is the task that does it. ``answered``: the head that the client has been given
    already, when the connection had sent ``bytes_out``.
    """

    request_id: str
    body: bytes
    due: float
    lease: Lease | None = None
    failure: Failure | None = None
    streamed: RequestBody | None = None
    pump: asyncio.Task[None] | None = None
    answered: ResponseHead | None = None
    bytes_out: int = 0

    @property
    def moving(self) -> bool:
        """The pump has not come to a good end (yet)."""
        pump = self.pump
        return pump is not None and (not pump.done() or pump.cancelled() or pump.exception() is not None)


class Exchange:
    """Runs as ``task``; ``stop`` ends it from outside with a reason."""

    task: asyncio.Task[None]

    def __init__(
        self,
        connection: Connection,
        head: RequestHead,
        head_size: int,
        started: float,
        begun: Begun | None = None,
    ) -> None:
        self._begun = begun
        self.connection = connection
        self.runtime = self._runtime = connection.runtime
        self.head = head
        self._timeouts = connection.runtime.config.timeouts
        self._phase = Phase.BODY
        self._body: RequestBody | None = None
        self._pump = None if begun is None else begun.pump
        self._stopped: Failure | None = None
        self._running = False
        self.held = b""  # what was read of the body before it was sent on
        self.record = Record(connection, head, head_size, started)
        if begun is not None and begun.answered is not None:
            self._phase = Phase.ANSWER
            self.record.sent_since(begun.bytes_out)
        self.cls = EndpointClass.PROTECTED

    def __repr__(self) -> str:
        return f"<Exchange {self._phase.name} {self.head.method!r} {self.head.target!r}>"

    @property
    def _unread(self) -> bool:
        """Request bytes may still come that nobody will read."""
        if self._body is None:
            return self.head.framing.kind is not FramingKind.NONE
        return not self._body.done

    @property
    def streaming(self) -> bool:
        """True for what may last for ever: tunnels and streams; a drain ends them first."""
        return self._phase is Phase.TUNNEL or self.cls is EndpointClass.STREAM

    def client_gone(self) -> None:
        """The client closed its side. Inside its body the reader finds out by itself."""
        if self._phase is Phase.TUNNEL:
            return
        if self.connection.lost or (self._body is not None and self._body.done):
            self.stop(client_gone())

    def stop(self, failure: Failure) -> None:
        """End the exchange with this reason; the first one counts."""
        if self._begun is not None and self._begun.answered is not None:
            return  # it was handed over to be cut, for a reason of its own
        if self._stopped is None and self._phase is not Phase.DONE:
            self._stopped = failure
            if self._running:  # a task that is cancelled before its first step never runs at all
                self.task.cancel()

    async def run(self) -> None:
        """The exchange from the accepted head to the finished connection state. Never raises."""
        self._running = True
        counters = self._runtime.counters
        counters.requests_in_flight += 1
        keep = False
        try:
            if self._stopped is not None:
                raise self._stopped
            keep = await self._respond()
        except Failure as failure:
            keep = self._fail(failure)
        except asyncio.CancelledError:
            if self._stopped is None:
                self.connection.cut()
                raise
            keep = self._fail(self._stopped)
        except Exception as error:  # noqa: BLE001 - a bug of ours must cost one request, not the loop
            self.record.bug(error)
            keep = self._fail(
                Failure(Source.PROXY, "internal_error", 500, "the proxy failed on this request")
            )
        finally:
            # First of all: from here on nobody stops it, or the connection would never hear the end.
            self._phase = Phase.DONE
            if self._pump is not None:
                await self._end_pump(self._pump)
            if self._begun is not None and self._begun.lease is not None and not self._begun.lease.released:
                self._drop(self._begun.lease)  # stopped before it was taken over
            counters.requests_in_flight -= 1
            self.record.write(self._body)
            self.connection.finish(keep=keep, unread=self._unread)

    # Deciding.

    async def _respond(self) -> bool:
        """Answer the request; true: the connection may take another one."""
        record = self.record
        begun = self._begun
        if begun is None or begun.answered is None:
            # A client that pipelines requests and reads no answers must not fill the queue.
            await self.connection.drain(self._timeouts.write_stall, stuck_client)
        request_id = self._runtime.request_id() if begun is None else begun.request_id
        decision = decide(self.head, self.connection.peer, self._runtime.tables, request_id)
        record.decided(decision)
        if isinstance(decision, Refuse):
            self.cls = decision.cls
            return self._refuse(decision)
        self.cls = decision.route.cls
        self._body = self._body_of(decision.route)
        if begun is not None and begun.answered is not None:
            return await self._break_off(begun, begun.answered)
        if begun is None and (wait := self._runtime.throttle(decision.client)):
            return await self._turn_away(decision, self._body, wait)
        if decision.ask is not None:  # what is for some only is not kept for all
            asked_for = await self._runtime.admission.admit(decision, decision.ask, self.head)
            if isinstance(asked_for, Refuse):
                return self._refuse(asked_for)
            return await self._onward(asked_for, self._body)
        cache = None if self._sent_already else self._runtime.cache
        if cache is not None and (asked := cache.asking(self.head, decision)) is not None:
            return await answer_cached(self, cache, asked, decision, self._body)
        return await self._onward(decision, self._body)

    @property
    def _sent_already(self) -> bool:
        """The fast path has asked the upstream."""
        return self._begun is not None and (self._begun.lease is not None or self._begun.failure is not None)

    def _body_of(self, route: Route) -> RequestBody:
        begun = self._begun
        if begun is not None and begun.streamed is not None:
            return begun.streamed
        body = request_body(self.connection, self.head.framing, route, self.connection.head_complete)
        if begun is not None:
            body.begun(len(begun.body))
        return body

    async def _turn_away(self, forward: Forward, body: RequestBody, wait: float) -> bool:
        """Its client sends too much. A small body is read first, so that the connection can go on: behind a
        balancer it carries other clients too."""
        if not self.head.expect_continue:
            await self.hold(body)
        return self._refuse(rate_refusal(forward, wait))

    def _refuse(self, refuse: Refuse) -> bool:
        self._runtime.counters.reject(refuse.reason)
        self._runtime.symptoms.cut_off(refuse.cls, refuse.status)
        close = self._unread or self.connection.must_close(self.head.close, self._now())
        answer = answer_refusal(refuse, self.head, self._runtime.clock.wall(), close=close)
        self.connection.answer(answer, self.record)
        self.record.own_answer(answer.status, refuse.reason, refuse.detail)
        return not answer.close

    async def _break_off(self, begun: Begun, answered: ResponseHead) -> bool:
        """Something has gone wrong while the fast path passed the answer on."""
        if begun.lease is not None:
            self.record.leased(begun.lease)
        self.record.answered(answered)
        if begun.failure is not None:
            raise begun.failure
        if begun.pump is not None:
            await begun.pump  # a bug of ours
        return False

    # Forwarding.

    async def _onward(self, forward: Forward, body: RequestBody) -> bool:
        spooling = self._runtime.spooling
        if spooling is not None and forward.route.spool is not SpoolMode.OFF:
            return await spooling.take(self, forward, body)
        return await self.forward(forward, body)

    async def forward(
        self, forward: Forward, body: RequestBody, keeper: Keeper | None = None, *, sick_fails: bool = False
    ) -> bool:
        """Ask the upstream and pass its answer on; ``keeper`` looks at it before. ``sick_fails``: one that
        says that the upstream is ill is a failure."""
        held = await self.hold(body)
        rendered = render_request(self.head.method, forward.target, forward.fields)
        lease, answer = await self._ask(forward, body, rendered, held)
        # Now, not at the end: an answer may last for hours, and as the breaker's probe hold it open.
        lease.report(answer.status, None)
        try:
            if sick_fails and answer.status in SICK:
                raise sick_answer(answer.status)
            self.record.answered(answer)
            self._runtime.symptoms.answered(self.head, forward, answer)
            if answer.status == 101:
                return await self._tunnel(forward, lease, answer)
            if keeper is None:
                return await self._relay(forward, lease, answer, body)
            told = keeper.heard(answer, lease.exchange)
            if told is None:
                keep = await self._relay(forward, lease, answer, body)
                keeper.complete()
                return keep
        finally:
            if not lease.exchange.over:
                lease.exchange.abort()
            lease.release(lease.exchange.reusable)
        return await tell(self, told, keeper.asked, forward)

    async def hold(self, body: RequestBody) -> bytes:
        """Read the body's first bytes before an upstream connection is taken: a slow client must not
        pin one, and what is wholly held can be sent again."""
        if self._begun is not None:
            self.record.body_held()
            self.held = self._begun.body
            return self.held
        if self.head.expect_continue and not self.connection.received and not body.done:
            self.connection.write(_CONTINUE)
        self.held = await body.hold(self._runtime.config.limits.held_body)
        self.record.body_held()
        return self.held

    @property
    def in_hand(self) -> bool:
        """All of the request is here in ``held``, or still to come from the client; nobody was answered."""
        begun = self._begun
        sent_on = begun is not None and begun.streamed is not None and begun.lease is not None
        return self._pump is None and not sent_on and not self.answering

    def raise_begun(self) -> None:
        """Raise what has gone wrong on the fast path."""
        if self._begun is not None and self._begun.failure is not None:
            raise self._begun.failure

    async def _ask(
        self, forward: Forward, body: RequestBody, rendered: bytes, held: bytes
    ) -> tuple[Lease, ResponseHead]:
        """Lease, send and read the final head; again where that is safe (errors.Resend)."""
        route = forward.route
        pool = self._runtime.pools[route.upstream]
        begun = self._begun
        due = self._now() + route.first_byte_timeout if begun is None else begun.due
        whole = body.done and (begun is None or begun.streamed is None)
        again = False
        while True:
            self._phase = Phase.QUEUE
            lease = None if begun is None else begun.lease
            if lease is None and begun is not None and begun.failure is not None:
                raise begun.failure
            if lease is None or again:
                lease = await pool.acquire(
                    due=due,
                    connect_timeout=route.connect_timeout,
                    fresh=again,
                    announced=self.connection.announcement(forward.client.ip),
                )
            self._phase = Phase.ANSWER_HEAD
            self.record.leased(lease)
            try:
                answer = await self._converse(forward, lease, body, rendered, held, due)
            except Failure as failure:
                lease.report(None, failure)
                self._drop(lease)
                if again or not self._may_resend(forward, lease, failure, whole) or not pool.may_retry():
                    raise
            except BaseException:
                self._drop(lease)
                raise
            else:
                if again or not self._may_ask_again(forward, answer, whole) or not pool.may_retry():
                    return lease, answer
                lease.report(answer.status, None)
                self._drop(lease)
            again = True
            self.record.retries += 1
            self._runtime.counters.retries.add(route.upstream)

    @staticmethod
    def _drop(lease: Lease) -> None:
        lease.exchange.abort()
        lease.release(False)

    def _may_resend(self, forward: Forward, lease: Lease, failure: Failure, whole: bool) -> bool:
        """A reused connection died unanswered: the upstream closed it before it read our request."""
        if failure.resend is not Resend.REUSED or not lease.reused or not whole:
            return False
        return self.head.method in _SAFE_METHODS or forward.route.resend_held

    def _may_ask_again(self, forward: Forward, answer: ResponseHead, whole: bool) -> bool:
        """An SDK's read that a sick upstream refused is worth a second try."""
        return (
            answer.status in SICK
            and forward.route.cls in _RETRIED_READS
            and self.head.method in (b"GET", b"HEAD")
            and whole
        )

    async def _converse(
        self, forward: Forward, lease: Lease, body: RequestBody, rendered: bytes, held: bytes, due: float
    ) -> ResponseHead:
        exchange = lease.exchange
        begun, late = self._begun, late_answer
        if begun is not None and lease is begun.lease:
            if begun.streamed is None:
                exchange.was_sent(self.head.method, complete=True)
            if begun.failure is not None:
                raise begun.failure
            if not begun.moving:
                return await exchange.read_head(due, late)
        else:
            # Where the route allows no WebSocket the upgrade was left out, so a 101 would be unasked.
            request = self.head
            if request.websocket and not forward.route.websocket:
                request = replace(request, websocket=False)
            exchange.send_head(rendered, request, held, body.done)
            if body.done:
                return await exchange.read_head(due, late)
            self._pump = asyncio.get_running_loop().create_task(send_rest(self._runtime, exchange, body))
        assert self._pump is not None
        reading = asyncio.get_running_loop().create_task(exchange.read_head(NEVER, late))
        try:
            await asyncio.wait({self._pump, reading}, return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                return await reading  # the answer came before the body's end
            await self._pump  # raises what the client did wrong
        finally:
            if not reading.done():
                reading.cancel()
                await asyncio.wait({reading})
        if not reading.cancelled():
            return await reading
        return await exchange.read_head(self._now() + forward.route.first_byte_timeout, late)

    # Answering.

    async def _relay(self, forward: Forward, lease: Lease, answer: ResponseHead, body: RequestBody) -> bool:
        connection, head, exchange = self.connection, self.head, lease.exchange
        if self._pump is not None:
            self._pump.add_done_callback(self._pump_failed)
        unbounded = answer.framing.kind in (FramingKind.CHUNKED, FramingKind.UNTIL_CLOSE)
        chunked = unbounded and head.minor > 0
        close = connection.must_close(head.close, self._now()) or not body.done or (unbounded and not chunked)
        rendered = self._rendered(forward, answer, close=close)
        first = exchange.take_body()
        self._phase = Phase.ANSWER
        connection.write(rendered + (chunked_piece(first, exchange) if chunked else first))
        stall = forward.route.answer_stall_timeout
        await relay_rest(self._runtime, connection, exchange, stall, chunked=chunked)
        return not close

    @property
    def answering(self) -> bool:
        """The answer's head was written."""
        return self._phase in (Phase.ANSWER, Phase.TUNNEL)

    def answer_begins(self) -> None:
        """From here on the client is being answered."""
        self._phase = Phase.ANSWER

    def _rendered(self, forward: Forward, answer: ResponseHead, *, close: bool) -> bytes:
        fields = response_fields(
            answer,
            method=self.head.method,
            minor=self.head.minor,
            close=close,
            date=http_date(self._runtime.clock.wall()),
            table=self._runtime.tables.forwarding,
            hsts=forward.hsts,
        )
        return self.record.identified(render_response(answer.status, answer.reason, fields))

    def _pump_failed(self, pump: asyncio.Task[None]) -> None:
        """The request body broke while the answer was on its way already."""
        if not pump.cancelled() and (error := pump.exception()) is not None:
            if not isinstance(error, Failure):
                self.record.bug(error)
                error = Failure(Source.PROXY, "internal_error", 500, "the proxy failed on this request")
            self.stop(error)

    async def _tunnel(self, forward: Forward, lease: Lease, answer: ResponseHead) -> bool:
        key = first_value(self.head.fields, b"sec-websocket-key") or b""
        if not websocket_accepts(key, answer):
            raise Failure(
                Source.UPSTREAM, "bad_upgrade", 502, "the upstream's 101 is not a valid WebSocket answer"
            )
        self._phase = Phase.TUNNEL
        self.connection.write(self._rendered(forward, answer, close=False))
        tunnel = Tunnel(
            self.connection, lease.exchange.detach(), self._runtime.deadlines, self._timeouts.upgraded_idle
        )
        await tunnel.run()
        self.record.tunnel_ended(tunnel.ended_by)
        return False

    # Failing.

    def _fail(self, failure: Failure) -> bool:
        """Say it to the client if nothing was said yet; else cut."""
        self.record.failed(failure, self._phase)
        self._runtime.counters.reject(failure.kind)
        self._runtime.symptoms.cut_off(self.cls, failure.status)
        if self._phase in (Phase.ANSWER, Phase.TUNNEL):
            self.connection.cut()
            return False
        if failure.kind == "client_gone" or self.connection.lost:
            self.connection.cut()
            return False
        close = self._unread or self.connection.must_close(self.head.close, self._now())
        answer = answer_failure(
            failure, self.record.route, self.head, self._runtime.clock.wall(), close=close
        )
        self.connection.answer(answer, self.record)
        self.record.own_answer(answer.status, failure.kind, failure.detail)
        return not answer.close

    @staticmethod
    async def _end_pump(pump: asyncio.Task[None]) -> None:
        pump.cancel()
        await asyncio.gather(pump, return_exceptions=True)

    def _now(self) -> float:
        return self._runtime.clock.monotonic()
