"""The fast path: one ordinary request on an SDK endpoint, in callbacks alone.

::

    try_begin ─▶ HELD (body arriving) ─▶ LEASING (no idle connection) ─▶ SENT ──▶ answered
         │                                      SENDING (a large body) ─▶─┘ └─▶ PASSING (a large answer) ─▶┘
         │ not taken        │ anything unusual, in any state
         ▼                  ▼
      general path     handed over: an Exchange goes on from here (``Begun``), with the bytes untouched

An optimisation, never a second set of rules (a property test holds both paths against each other, byte for
byte). What the rules say is cached by all raw bytes that they read; an admission never is: breaker, pool,
caps and rates are asked each time. Anything unusual (no length, a failure, a client that leaves) is
handed to the general exchange, which decides as always.

No task, timer or future exists for a request, except while the pool has no idle connection for it, or for the
rest of a large body (serve/streaming.py). One write goes up and one goes down, each at the end of the event
loop's turn (net/outbox.py), with what is in hand of a large body.
Memory: one a connection, which holds one request's head and `limits.held_body`, or a read of a larger one.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from proxy.clock import NEVER
from proxy.errors import Failure, Source
from proxy.message import Framing, FramingKind, SpoolMode
from proxy.net.lease import SICK
from proxy.net.pieces import PIECE_BYTES
from proxy.rules.answers import http_date
from proxy.rules.routing import outgoing_target
from proxy.serve.body import request_body
from proxy.serve.exchange import Begun
from proxy.serve.fastrecord import Stage
from proxy.serve.fastspool import FastSpool
from proxy.serve.streaming import relay_rest, send_rest
from proxy.wire.fasthead import Unfit, read_request_line
from proxy.wire.heads import read_request

if TYPE_CHECKING:
    from proxy.net.lease import Lease
    from proxy.net.upstream import UpstreamConnection
    from proxy.serve.body import RequestBody
    from proxy.serve.connection import Connection
    from proxy.serve.fastcache import FastCache
    from proxy.serve.fastpath import FastPath
    from proxy.wire.fasthead import FastAnswer

PATIENCE = 1.0
"""Seconds that an incomplete body is waited for; then the general path takes over, which judges slowness."""

PUMP_TURNS = 3
"""Turns of the event loop from the last byte that is moved until the end of the task that moved it."""


class FastExchange(FastSpool):
    """The fast exchanges of one connection, one after the other."""

    __slots__ = (
        "_answer",
        "_bytes_out",
        "_close",
        "_due",
        "_lease",
        "_leasing",
        "_pump",
        "_streamed",
        "_upstream",
        "_wanted",
    )

    def __init__(self, path: FastPath, connection: Connection) -> None:
        super().__init__(path, connection)
        self._upstream: UpstreamConnection | None = None
        self._lease: Lease | None = None
        self._leasing: asyncio.Task[Lease] | None = None
        self._streamed: RequestBody | None = None
        """The body, if it is larger than what is held."""
        self._pump: asyncio.Task[None] | None = None
        """What moves the rest of a large body, in the one direction or the other."""
        self._answer: FastAnswer | None = None
        """What the client has been given the head and some of the body of."""
        self._close = False
        self._bytes_out = 0
        self._wanted: int
        self._due: float

    def __repr__(self) -> str:
        return f"<FastExchange {self.stage.name}>"

    def try_begin(self, data: bytes, started: float, now: float) -> bool:
        """Take a request that begins in ``data``, which is all that the client has sent; false: it is for
        the general path, nothing was done."""
        path = self._path
        end = data.find(b"\r\n\r\n")
        first = data.find(b"\r\n")
        if end < 0 or end + 4 > path.head_bytes:
            return False
        line = read_request_line(data[:first], path.requests.limits)
        if line is None:
            return self._missed(data[:first], Unfit.REQUEST_LINE.value)
        method, target, target_path, minor = line
        route = path.route(target_path)
        if route is None:
            return False
        at = data.find(b"\r\nContent-Length: ", first, end)
        if at < 0:
            at = data.find(b"\r\ncontent-length: ", first, end)
        if at < 0:
            before, after, length, length_line = data[first + 2 : end], b"", 0, b""
        else:
            stop = data.find(b"\r\n", at + 2, end)
            if stop < 0:
                stop = end
            digits = data[at + 18 : stop]
            if not digits.isdigit() or len(digits) > 9 or (digits[0] == 48 and len(digits) > 1):
                return self._missed(data[:first], Unfit.LENGTH.value)
            length = int(digits)
            before, after = data[first + 2 : at], data[stop + 2 : end]
            length_line = data[at + 2 : stop] + b"\r\n"
            if length > route.body_limit:
                return self._missed(data[:first], "large_body")
        connection = self._connection
        key = (connection.peer_key, route.upstream, route.sdk, route.drop_cookies, minor, before, after)
        shape = path.young.get(key)
        if shape is None:
            found = path.shape(key, connection, route, minor, before, after)
            if isinstance(found, str):
                return self._missed(data[:first], found)
            shape = found
        whole = end + 4 + length
        if len(data) > whole:
            return self._missed(data[:first], "pipelined")
        wanted = whole
        if length > path.held_body:
            # As much as one read gives: what comes after that can be spliced.
            wanted = min(end + 4 + path.held_body, connection.read_limit, PIECE_BYTES)
        elif len(data) < whole and whole >= connection.read_limit:
            # Reading would pause before its end, and nobody here resumes it.
            return self._missed(data[:first], "large_body")
        if len(data) >= wanted and path.throttled(shape.client, now):
            return self._missed(data[:first], "rate_limited")
        self._method = method
        self._target = target
        self._target_path = target_path
        self._minor = minor
        self._length_line = length_line
        self._route = route
        self._shape = shape
        self._size = end + 4
        self._whole = whole
        self._wanted = wanted
        self._started = started
        self._complete = now
        self.stage = Stage.HELD if len(data) < wanted else Stage.WHOLE
        return True

    def more(self, received: bytearray) -> bool:
        """More of the body has come; false: the exchange is for the general path after all."""
        now, complete = self._runtime.clock.monotonic(), len(received) >= self._wanted
        unfit = "pipelined" if len(received) > self._whole else ""
        if complete and not unfit and self._path.throttled(self._shape.client, now):
            unfit = "rate_limited"
        if unfit:
            self.stage = Stage.FREE
            self._runtime.counters.fast_path_missed.add(unfit)
        elif complete:
            data = bytes(received)
            received.clear()
            self._connection.resume()
            self.go(data, now)
        return not unfit

    # Sending.

    def go(self, data: bytes, now: float) -> None:
        """The request is whole: answer it from the cache, or find a connection and send it."""
        runtime, shape = self._runtime, self._shape
        runtime.counters.requests_in_flight += 1
        self._data = data
        self._request_id = shape.named_id or runtime.request_id()
        self._due = now + self._route.first_byte_timeout
        self._asked = self._sent = now
        if self._method == b"GET" and self._path.cache is not None and self._asks(self._path.cache, now):
            return
        if self._route.spool is SpoolMode.FIRST and self._keep(data):
            return
        if len(data) < self._whole:
            framing = Framing(FramingKind.LENGTH, self._whole - self._size)
            self._streamed = request_body(self._connection, framing, self._route, self._complete)
            self._streamed.begun(len(data) - self._size)
            # What is not read now can be spliced.
            self._connection.pause()
        upstream = shape.way.pool.take_quickly(now)
        if upstream is None:
            self._wait_for_lease()
        else:
            self._send(upstream)

    def _asks(self, cache: FastCache, now: float) -> bool:
        """Has the cache to do with this request? Then it is answered, or goes on on the general path."""
        if self._whole > self._size:
            return False
        target = outgoing_target(self._route, self._target)
        found = cache.look(self._shape, self._route, target, self._data, now)
        if found is True:
            self.hand_over()
        elif found is not False:
            self.stage, self._data = Stage.FREE, b""
            self._tell(cache, found, self._minor, now)
        return found is not False

    def _wait_for_lease(self) -> None:
        """No connection is idle: dial, or stand in line."""
        self.stage = Stage.LEASING
        self._connection.due = self._due + self._route.first_byte_timeout  # the pool heeds `_due` itself
        self._leasing = asyncio.get_running_loop().create_task(
            self._shape.way.pool.acquire(due=self._due, connect_timeout=self._route.connect_timeout)
        )
        self._leasing.add_done_callback(self._leased)

    def _leased(self, task: asyncio.Task[Lease]) -> None:
        if task.cancelled():
            return
        if self._leasing is not task:  # handed over meanwhile
            if task.exception() is None:
                task.result().release(True)
            return
        self._leasing = None
        error = task.exception()
        if error is None:
            self._lease = task.result()
            self._sent = self._runtime.clock.monotonic()
            upstream = self._lease.connection
            self._send(upstream)
            if upstream.received or upstream.at_eof:
                self.hand_over()  # it spoke or left before it was asked, and will not say so again
        elif isinstance(error, Failure):
            self.hand_over(error)
        else:
            self.hand_over(
                Failure(Source.PROXY, "internal_error", 500, f"the pool failed: {type(error).__name__}")
            )

    def _send(self, upstream: UpstreamConnection) -> None:
        data = self._data
        self.stage = Stage.SENT
        self._upstream = upstream
        self._connection.due = self._due
        upstream.taker = self
        body = data[self._size :] if self._streamed is None else memoryview(data)[self._size :]
        self._runtime.outbox.put(upstream, b"".join((*self._head_parts(), body)))
        if self._streamed is not None:
            self._send_rest(self._streamed, upstream)

    def _send_rest(self, body: RequestBody, upstream: UpstreamConnection) -> None:
        """Let a task send what has not come yet of a large body."""
        lease = self._lease
        if lease is None:
            lease = self._lease = self._shape.way.pool.lend(upstream)
        lease.exchange.was_sent(self._method, complete=False)
        self.stage = Stage.SENDING
        self._connection.due = NEVER
        self._pump = asyncio.get_running_loop().create_task(send_rest(self._runtime, lease.exchange, body))
        self._pump.add_done_callback(self._body_sent)

    def _body_sent(self, pump: asyncio.Task[None]) -> None:
        """The rest of the body is sent, or cannot be."""
        if self._pump is not pump or pump.cancelled():
            return
        self._connection.due = self._due = self._runtime.clock.monotonic() + self._route.first_byte_timeout
        if pump.exception() is not None:
            self.hand_over()
        elif self._streamed is not None and self._streamed.done:
            self._pump = None
            self.stage = Stage.SENT
            upstream = self._upstream
            if upstream is not None and upstream.received:
                self.take(b"", upstream.received)

    # Answering: what the upstream connection calls.

    def take(self, data: bytes, received: bytearray) -> bool:
        """Bytes of the answer, after what ``received`` holds already; true: all were taken."""
        if self.stage is not Stage.SENT:
            if self.stage is Stage.PASSING:
                return self._pass_more(data)
            if self.stage is Stage.SENDING and self._streamed is not None:
                # Early, unless the task that moved the last of the body has not told yet.
                self._hand_over_soon(PUMP_TURNS if self._streamed.done else 0)
            return False
        if received:
            data = bytes(received) + data
        connection = self._connection
        now = self._runtime.clock.monotonic()
        close = connection.must_close(self._shape.close, now)
        answer = self._shape.way.answers.read(data, self._minor, close)
        if answer is None or answer.status in SICK:
            self._hand_over_soon()
            return False
        if len(data) < answer.whole:
            assert self._upstream is not None
            short = answer.length <= self._path.held_body and answer.whole < self._upstream.read_limit
            if short and self._streamed is None:
                return False
            received.clear()
            self._pass_on(answer, data, close, now)
            return True
        received.clear()
        if len(data) > PIECE_BYTES and self._upstream is not None:
            self._upstream.read_in_pieces()
        whole = len(data) == answer.whole
        out = self._answer_head(answer) + data[answer.size : answer.whole]
        if close:
            connection.write(out)
        else:
            self._runtime.outbox.put(connection, out)
        upstream, lease = self._upstream, self._lease
        assert upstream is not None
        upstream.taker = None
        self._upstream = None
        if lease is None:
            self._shape.way.pool.give_back_quickly(upstream, answer.reusable and whole, now)
        else:
            self._lease = None
            lease.report(answer.status, None)
            lease.release(answer.reusable and whole)
        self._first_byte = now
        self._log(upstream, lease, answer.status, len(out), now)
        self._over(keep=not close, now=now)
        return True

    def _pass_on(self, answer: FastAnswer, data: bytes, close: bool, now: float) -> None:
        """Give the client what is here of a large answer, then piece by piece the rest. A task does it where
        the kernel can, or the client is slow."""
        connection, upstream, lease = self._connection, self._upstream, self._lease
        assert upstream is not None
        if lease is None:
            lease = self._lease = self._shape.way.pool.lend(upstream)
        if self._streamed is None:
            lease.exchange.was_sent(self._method, complete=True)
        lease.report(answer.status, None)
        lease.exchange.was_answered(answer.head, len(data) - answer.size)
        self._answer, self._close, self._first_byte = answer, close, now
        self._bytes_out = connection.bytes_out
        self.stage = Stage.PASSING
        connection.write(b"".join((self._answer_head(answer), memoryview(data)[answer.size :])))
        if connection.writable and not self._runtime.splicer.is_worth(answer.whole - len(data)):
            connection.due = now + self._route.answer_stall_timeout
        else:
            self._pass_rest(lease, upstream)

    def _pass_more(self, data: bytes) -> bool:
        """A piece of the answer; false: a task passes it on, and the rest."""
        connection, upstream, lease = self._connection, self._upstream, self._lease
        assert upstream is not None
        assert lease is not None
        if not connection.writable or not lease.exchange.passed(len(data)):
            self._pass_rest(lease, upstream)
            return False
        connection.write(data)
        now = self._runtime.clock.monotonic()
        if lease.exchange.over:
            self._passed(lease, now)
        else:
            connection.due = now + self._route.answer_stall_timeout
        return True

    def _pass_rest(self, lease: Lease, upstream: UpstreamConnection) -> None:
        upstream.taker = None  # its end is noticed by who reads it
        upstream.pause()  # what is not read now can be spliced
        self._upstream = None
        connection, stall = self._connection, self._route.answer_stall_timeout
        connection.due = NEVER
        self._pump = asyncio.get_running_loop().create_task(
            relay_rest(self._runtime, connection, lease.exchange, stall, chunked=False)
        )
        self._pump.add_done_callback(self._passed_on)

    def _answer_head(self, answer: FastAnswer) -> bytes:
        if answer.rest is None:
            return self._identified(answer.out)
        return self._identified(answer.out + http_date(self._runtime.clock.wall()) + answer.rest)

    def _passed_on(self, pump: asyncio.Task[None]) -> None:
        """The rest of the answer has gone, or cannot."""
        lease = self._lease
        if self._pump is not pump or pump.cancelled() or lease is None:
            return
        error = pump.exception()
        if error is not None:
            self.hand_over(error if isinstance(error, Failure) else None)
        else:
            self._passed(lease, self._runtime.clock.monotonic())

    def _passed(self, lease: Lease, now: float) -> None:
        """The client has been given all of a large answer."""
        connection, answer = self._connection, self._answer
        assert answer is not None
        if self._upstream is not None:
            self._upstream.taker = None
        self._pump = self._answer = self._lease = self._upstream = None
        lease.release(lease.exchange.reusable)
        self._log(lease.connection, lease, answer.status, connection.bytes_out - self._bytes_out, now)
        self._over(keep=not self._close, now=now)

    def _over(self, *, keep: bool, now: float) -> None:
        self.stage = Stage.FREE
        self._data = b""
        self._streamed = None
        self._connection.fast_done(keep=keep, now=now)

    def lost(self) -> None:
        """The upstream connection ended: the general path says what that means."""
        if self.stage is Stage.PASSING and self._lease is not None and self._upstream is not None:
            self._pass_rest(self._lease, self._upstream)  # and notices
        elif self.stage is not Stage.FREE:
            self.hand_over()

    @property
    def reads_body(self) -> bool:
        """True while more of the body is waited for: who reads it notices when the client ends."""
        return self._streamed is not None and not self._streamed.done

    # Handing over.

    def _hand_over_soon(self, turns: int = 0) -> None:
        """Once the bytes that are just coming are in the connection's buffer, or so many turns later."""
        self.stage = Stage.HANDING
        asyncio.get_running_loop().call_soon(self._hand_over_now, turns)

    def _hand_over_now(self, turns: int) -> None:
        if self.stage is not Stage.HANDING:
            return
        if turns:
            self._hand_over_soon(turns - 1)
        else:
            self.hand_over()

    def hand_over(self, failure: Failure | None = None) -> None:
        """Let the general exchange go on from here."""
        upstream, self._upstream = self._upstream, None
        lease, self._lease = self._lease, None
        if upstream is not None:
            upstream.taker = None
            upstream.send_held()
            if lease is None:
                lease = self._shape.way.pool.lend(upstream)
            if upstream.received and failure is not None and failure.source is Source.UPSTREAM:
                failure = None  # the answer has begun: its pauses are judged now, not its beginning
        leasing, self._leasing = self._leasing, None
        if leasing is not None:
            leasing.cancel()
        self.stage = Stage.FREE
        self._runtime.counters.requests_in_flight -= 1
        self._runtime.counters.fast_path_missed.add("handed_over")
        data, self._data = self._data, b""
        streamed, self._streamed = self._streamed, None
        pump, self._pump = self._pump, None
        answer, self._answer = self._answer, None
        head = read_request(data[: self._size], self._path.requests.limits)
        begun = Begun(
            self._request_id,
            data[self._size :],
            self._due,
            lease,
            failure,
            streamed,
            pump,
            None if answer is None else answer.head,
            self._bytes_out,
        )
        self._connection.go_on(head, self._size, self._started, begun)
