"""The fast path: one ordinary request on an SDK endpoint, in callbacks alone.

::

    try_begin ─▶ HELD (body arriving) ─▶ LEASING (no idle connection) ─▶ SENT ─▶ answered
         │ not taken        │ anything unusual, in any state
         ▼                  ▼
      general path     handed over: an Exchange goes on from here (``Begun``), with the bytes untouched

An optimisation, never a second set of rules. Heads are read by ``wire/fasthead`` from lines that the gate
has judged; who the client is and what is said about it comes from ``rules`` and is cached by all raw bytes
that the rules read; whatever is unusual (an answer that is long or comes in pieces, a failure, a time-out, a
client that leaves) is handed to the general exchange, which decides as always. A decision is cached, an
admission never is: breaker, pool and caps are asked each time. A property test holds both paths against
each other, byte for byte.

No task, timer or future exists for a request, except while the pool has no idle connection for it. One write
goes up and one goes down.

Memory: one ``FastExchange`` a connection, which holds one request of at most a head and `limits.held_body`.
"""

from __future__ import annotations

import asyncio
import enum
from dataclasses import replace
from typing import TYPE_CHECKING

from proxy.errors import Failure, Source
from proxy.net.lease import SICK
from proxy.observe.fastline import fast_line
from proxy.observe.log import AccessRecord
from proxy.serve.exchange import Begun
from proxy.serve.record import client_seen, shown
from proxy.wire.fasthead import Unfit, read_request_line
from proxy.wire.heads import read_request

if TYPE_CHECKING:
    from proxy.message import Route
    from proxy.net.lease import Lease
    from proxy.net.upstream import UpstreamConnection
    from proxy.serve.connection import Connection
    from proxy.serve.fastcache import FastCache
    from proxy.serve.fastpath import FastPath, Shape

PATIENCE = 1.0
"""Seconds that an incomplete body is waited for; then the general path takes over, which judges slowness."""


class Stage(enum.Enum):
    """How far a fast exchange is."""

    FREE = "free"
    HELD = "held"
    WHOLE = "whole"
    LEASING = "leasing"
    SENT = "sent"
    HANDING = "handing"


class FastExchange:
    """The fast exchanges of one connection, one after the other."""

    __slots__ = (
        "_complete",
        "_connection",
        "_data",
        "_due",
        "_lease",
        "_leasing",
        "_length_line",
        "_method",
        "_minor",
        "_path",
        "_request_id",
        "_route",
        "_runtime",
        "_sent",
        "_shape",
        "_size",
        "_started",
        "_target",
        "_target_path",
        "_upstream",
        "_whole",
        "stage",
    )

    def __init__(self, path: FastPath, connection: Connection) -> None:
        self._path = path
        self._runtime = path.runtime
        self._connection = connection
        self.stage = Stage.FREE
        self._route: Route
        self._shape: Shape
        self._method = self._target = self._target_path = self._length_line = b""
        self._minor = self._size = self._whole = 0
        self._upstream: UpstreamConnection | None = None
        self._lease: Lease | None = None
        self._leasing: asyncio.Task[Lease] | None = None
        self._data = b""
        self._request_id = ""
        self._started = self._complete = self._sent = self._due = 0.0

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
        method, target, minor = line
        target_path = target.partition(b"?")[0]
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
            if length > path.held_body or length > route.body_limit:
                return self._missed(data[:first], "large_body")
        connection = self._connection
        key = (connection.peer_key, route.upstream, minor, before, after)
        shape = path.young.get(key)
        if shape is None:
            found = path.shape(key, connection, route, minor, before, after)
            if isinstance(found, str):
                return self._missed(data[:first], found)
            shape = found
        whole = end + 4 + length
        if len(data) > whole:
            return self._missed(data[:first], "pipelined")
        if len(data) < whole and whole >= connection.read_limit:
            # Reading would pause before its end, and nobody here resumes it.
            return self._missed(data[:first], "large_body")
        self._method = method
        self._target = target
        self._target_path = target_path
        self._minor = minor
        self._length_line = length_line
        self._route = route
        self._shape = shape
        self._size = end + 4
        self._whole = whole
        self._started = started
        self._complete = now
        self.stage = Stage.HELD if len(data) < whole else Stage.WHOLE
        return True

    def _missed(self, first_line: bytes, reason: str) -> bool:
        """Count a request that was not taken though its path would be (by a rough look at it)."""
        target = first_line[:4096].split(b" ", 2)[1:2]
        if target and self._path.route(target[0].partition(b"?")[0]) is not None:
            self._runtime.counters.fast_path_missed.add(reason)
        return False

    def more(self, received: bytearray) -> bool:
        """More of the body has come; false: the exchange is for the general path after all."""
        if len(received) > self._whole:
            self.stage = Stage.FREE
            self._runtime.counters.fast_path_missed.add("pipelined")
            return False
        if len(received) == self._whole:
            data = bytes(received)
            received.clear()
            self.go(data, self._runtime.clock.monotonic())
        return True

    # Sending.

    def go(self, data: bytes, now: float) -> None:
        """The request is whole: answer it from the cache, or find a connection and send it."""
        runtime, shape = self._runtime, self._shape
        runtime.counters.requests_in_flight += 1
        self._data = data
        self._request_id = shape.named_id or runtime.request_id()
        self._due = now + self._route.first_byte_timeout
        self._sent = now
        if self._method == b"GET" and self._path.cache is not None and self._asks(self._path.cache, now):
            return
        upstream = shape.client.pool.take_quickly(now)
        if upstream is None:
            self._wait_for_lease()
        else:
            self._send(upstream)

    def _asks(self, cache: FastCache, now: float) -> bool:
        """Has the cache to do with this request? Then it is answered, or goes on on the general path."""
        if self._whole > self._size:
            return False
        found = cache.look(self._shape, self._route, self._target, self._data, now)
        if isinstance(found, bool):
            if found:
                self.hand_over()
            return found
        connection = self._connection
        close = connection.must_close(self._shape.close, now)
        head = cache.head(found, self._minor, now, close=close)
        connection.write_both(head, found.body)
        self._log_cached(found.status, len(head) + len(found.body), now)
        self.stage = Stage.FREE
        self._data = b""
        connection.fast_done(keep=not close, now=now)
        return True

    def _wait_for_lease(self) -> None:
        """No connection is idle: dial, or stand in line."""
        self.stage = Stage.LEASING
        self._connection.due = self._due + self._route.first_byte_timeout  # the pool heeds `_due` itself
        self._leasing = asyncio.get_running_loop().create_task(
            self._shape.client.pool.acquire(due=self._due, connect_timeout=self._route.connect_timeout)
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
        shape, data = self._shape, self._data
        self.stage = Stage.SENT
        self._upstream = upstream
        self._connection.due = self._due
        upstream.taker = self
        upstream.write(
            b"".join(
                (
                    self._method,
                    b" ",
                    self._target,
                    shape.opening,
                    self._length_line,
                    shape.closing,
                    self._request_id.encode(),
                    shape.client.after_id,
                    data[self._size :],
                )
            )
        )

    # Answering: what the upstream connection calls.

    def take(self, data: bytes, received: bytearray) -> bool:
        """Bytes of the answer, after what ``received`` holds already; true: all were taken."""
        if self.stage is not Stage.SENT:
            return False
        if received:
            data = bytes(received) + data
        connection = self._connection
        now = self._runtime.clock.monotonic()
        close = connection.must_close(self._shape.close, now)
        answer = self._path.answers.read(data, self._minor, close)
        if answer is None or answer.status in SICK:
            self._hand_over_soon()
            return False
        if len(data) < answer.whole:
            assert self._upstream is not None
            if answer.length > self._path.held_body or answer.whole >= self._upstream.read_limit:
                self._hand_over_soon()
            return False
        received.clear()
        whole = len(data) == answer.whole
        body = data[answer.size : answer.whole]
        connection.write(answer.out + body)
        upstream, lease = self._upstream, self._lease
        assert upstream is not None
        upstream.taker = None
        self._upstream = None
        if lease is None:
            self._shape.client.pool.give_back_quickly(upstream, answer.reusable and whole, now)
        else:
            self._lease = None
            lease.report(answer.status, None)
            lease.release(answer.reusable and whole)
        self._log(upstream, lease, answer.status, len(answer.out) + len(body), now)
        self.stage = Stage.FREE
        self._data = b""
        connection.fast_done(keep=not close, now=now)
        return True

    def lost(self) -> None:
        """The upstream connection ended: the general path says what that means."""
        if self.stage is Stage.SENT or self.stage is Stage.HANDING:
            self.hand_over()

    # Logging.

    def _log(
        self, upstream: UpstreamConnection, lease: Lease | None, status: int, sent: int, now: float
    ) -> None:
        runtime, shape = self._runtime, self._shape
        counters, started = runtime.counters, self._started
        key = (self._connection.listener, self._method, self._target_path, _sdk_words(self._target))
        line = shape.logs.get(key)
        if line is None:
            line = self._path.log_line(shape, self._route, key)
        labels = line.labels.get(status)
        if labels is None:
            labels = line.labels[status] = counters.request_labels(
                self._route.name, self._route.cls.value, self._method, status
            )
        size = len(self._data)
        counters.requests_in_flight -= 1
        counters.fast_path += 1
        counters.requests.count(labels)
        counters.request_bytes += size
        counters.response_bytes += sent
        if shape.client.dropped:
            counters.drop(shape.client.dropped)
        runtime.symptoms.last_client = shape.client.ip
        if shape.client.suspect:
            counters.client_ip_suspect += 1
        wall = runtime.clock.wall() - (now - started)
        if line.parts is not None:
            if lease is None and self._sent == started:
                times = (
                    f'"t_head":0,"t_body":0,"t_queue":0,"t_connect":0,'
                    f'"t_first_byte":{now - started:.6f},"t_total":{now - started:.6f}'
                )
            else:
                times = self._times(lease, now)
            runtime.access_log.write(
                fast_line(
                    line.parts,
                    ts=wall,
                    request_id=self._request_id,
                    client=shape.client.log,
                    upstream_addr=upstream.address,
                    status=status,
                    bytes_in=size,
                    bytes_out=sent,
                    times=times,
                    retries=0 if lease is None else lease.retries,
                    reused=upstream.served > 1,
                )
            )
        else:
            record = replace(
                line.record,
                peer=shown(runtime, self._connection.peer.ip),
                ts=wall,
                request_id=self._request_id,
                upstream_addr=upstream.address,
                status=status,
                upstream_status=status,
                bytes_in=size,
                bytes_out=sent,
                t_total=now - started,
            )
            client_seen(runtime, record, shape.client.address)
            runtime.access_log.write(runtime.encode_access(record))

    def _log_cached(self, status: int, sent: int, now: float) -> None:
        """As ``_log``, of an answer from the cache."""
        runtime, shape = self._runtime, self._shape
        counters = runtime.counters
        counters.requests_in_flight -= 1
        counters.fast_path += 1
        counters.cache.add("hit")
        counters.request(self._route.name, self._route.cls.value, self._method, status)
        counters.request_bytes += self._size
        counters.response_bytes += sent
        if shape.client.dropped:
            counters.drop(shape.client.dropped)
        runtime.symptoms.last_client = shape.client.ip
        if shape.client.suspect:
            counters.client_ip_suspect += 1
        record = AccessRecord(
            ts=runtime.clock.wall() - (now - self._started),
            request_id=self._request_id,
            listener=self._connection.listener,
            peer=shown(runtime, self._connection.peer.ip),
            method=self._method,
            host=shape.host,
            target=self._target,
            route=self._route.name,
            cls=self._route.cls.value,
            upstream=self._route.upstream,
            status=status,
            origin="cache",
            bytes_in=self._size,
            bytes_out=sent,
            t_head=self._complete - self._started,
            t_body=0.0,
            t_total=now - self._started,
            user_agent=shape.agent,
        )
        client_seen(runtime, record, shape.client.address)
        runtime.access_log.write(runtime.encode_access(record))

    def _times(self, lease: Lease | None, now: float) -> str:
        body = max(0.0, self._due - self._route.first_byte_timeout - self._complete)
        queue, connect = (0.0, 0.0) if lease is None else (lease.t_queue, lease.t_connect)
        return (
            f'"t_head":{self._complete - self._started:.6f},"t_body":{body:.6f},"t_queue":{queue:.6f},'
            f'"t_connect":{connect:.6f},"t_first_byte":{now - self._sent:.6f},'
            f'"t_total":{now - self._started:.6f}'
        )

    # Handing over.

    def _hand_over_soon(self) -> None:
        """Once the bytes that are just coming are in the connection's buffer."""
        self.stage = Stage.HANDING
        asyncio.get_running_loop().call_soon(self._hand_over_now)

    def _hand_over_now(self) -> None:
        if self.stage is Stage.HANDING:
            self.hand_over()

    def hand_over(self, failure: Failure | None = None) -> None:
        """Let the general exchange go on from here."""
        upstream, self._upstream = self._upstream, None
        lease, self._lease = self._lease, None
        if upstream is not None:
            upstream.taker = None
            if lease is None:
                lease = self._shape.client.pool.lend(upstream)
            if upstream.received and failure is not None and failure.source is Source.UPSTREAM:
                failure = None  # the answer has begun: its pauses are judged now, not its beginning
        leasing, self._leasing = self._leasing, None
        if leasing is not None:
            leasing.cancel()
        self.stage = Stage.FREE
        self._runtime.counters.requests_in_flight -= 1
        self._runtime.counters.fast_path_missed.add("handed_over")
        data, self._data = self._data, b""
        head = read_request(data[: self._size], self._path.requests.limits)
        begun = Begun(self._request_id, data[self._size :], self._due, lease, failure)
        self._connection.go_on(head, self._size, self._started, begun)


def _sdk_words(target: bytes) -> bytes:
    """What of a target can tell the SDK (observe/log.sdk_of), short where possible: one `ver` in the query
    beside all that differs from request to request."""
    if b"lib=" in target:
        return target
    at = target.find(b"ver=")
    if at < 0:
        return b""
    if target[at - 1] in b"?&" and target.find(b"ver=", at + 4) < 0:
        return target[at : at + 40]
    return target
