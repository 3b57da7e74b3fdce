"""One client connection: a state machine driven by the transport's callbacks.

::

    IDLE ──bytes──▶ HEAD ──complete head──▶ EXCHANGE or FAST ──answered, kept──▶ IDLE
     │ idle           │ late: 408             │ answered, not kept
     ▼                ▼ refused               ▼
    CLOSED ◀────── CLOSING (queued bytes go out) ◀── LINGER (half-closed; the rest is read and dropped)

Only this file changes ``state``. No task, timer or future exists while a connection is idle: what is
late is found by the sweep (clock.py) through ``due``. A general exchange is one task.

Lingering: after an answer that leaves request bytes unread, closing at once would make the kernel
send a reset that can overtake the answer; so our half is shut and the rest is read and thrown away for
a while (`limits.linger_bytes`, `timeouts.linger`), as nginx does.

Memory: that of ``Stream``, plus one request head (`limits.head_bytes`).
"""

from __future__ import annotations

import asyncio
import enum
import socket
import struct
from dataclasses import replace
from typing import TYPE_CHECKING

from proxy.clock import NEVER
from proxy.errors import Violation, late_answer
from proxy.message import Peer
from proxy.net.doorway import peer_of
from proxy.net.stream import Stream
from proxy.rules.address import peer_address
from proxy.rules.announcing import announcement
from proxy.rules.answers import answer_violation
from proxy.rules.certnames import subject_text
from proxy.serve.exchange import Begun, Exchange
from proxy.serve.fastexchange import PATIENCE, FastExchange
from proxy.serve.fastrecord import Stage
from proxy.serve.record import log_violation
from proxy.serve.streaming import client_gone
from proxy.wire.heads import read_request, render_response
from proxy.wire.proxyproto import begins_header
from proxy.wire.strict import find_head_end, leading_blank, over_limit

if TYPE_CHECKING:
    from proxy.errors import Failure
    from proxy.message import IPAddress, Preface, RequestHead
    from proxy.net.doorway import Guest
    from proxy.rules.announcing import Announcement
    from proxy.rules.answers import OwnAnswer
    from proxy.serve.record import Record
    from proxy.serve.runtime import Runtime

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_NOBODY = Peer(None)
"""The peer of a connection that is not made yet."""


class State(enum.Enum):
    """Where a connection is; see the module's picture."""

    IDLE = "idle"
    HEAD = "head"
    EXCHANGE = "exchange"
    FAST = "fast"
    LINGER = "linger"
    CLOSING = "closing"
    CLOSED = "closed"


class Connection(Stream):
    """The downstream protocol object; the event loop makes one per accepted socket.

    :param guest: what the socket was before, where its first bytes had to be looked at.
    :param refusal: what every request on it is answered with.
    """

    def __init__(
        self,
        runtime: Runtime,
        listener: str,
        guest: Guest | None = None,
        refusal: Violation | None = None,
    ) -> None:
        limits = runtime.config.limits
        super().__init__(
            runtime.deadlines,
            # Reading must not pause before a head is complete, or longer than is allowed.
            read_limit=max(limits.read_buffer, limits.head_bytes + 1),
            write_limit=limits.write_buffer,
        )
        self.runtime = runtime
        self.listener = listener
        self._guest = guest
        self._refusal = refusal
        self.state = State.IDLE
        self.due = NEVER
        self.peer = _NOBODY
        self.served = 0
        self.idle_since = 0.0
        self._scanned = 0
        self._looked_at = 0  # bytes that are just coming and were not for the fast path
        self._head_started = 0.0
        self.head_complete = 0.0
        """The moment at which the running exchange's head was complete."""
        self._lingered = 0
        self._queued = 0
        self._admitted = False
        self._expires = NEVER
        self._keep_alive = runtime.config.timeouts.keep_alive
        self._most_served = limits.requests_per_connection
        self._exchange: Exchange | None = None
        fast = runtime.fast if refusal is None else None
        self._fast = FastExchange(fast, self) if fast is not None else None
        self.peer_key = ""
        """All that is said of the peer in a decision, for the keys of caches."""

    def __repr__(self) -> str:
        return f"<Connection {self.state.name} served={self.served} peer={self.peer.ip}>"

    # The transport's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        runtime = self.runtime
        guest, self._guest = self._guest, None
        self._know_peer(guest.preface if guest is not None else None)
        runtime.connections.add(self)
        if guest is not None:
            guest.gone()  # it counts as a connection from here on
        runtime.counters.connections_total += 1
        runtime.counters.open_connections += 1
        now = runtime.clock.monotonic()
        self._expires = now + runtime.config.timeouts.keep_alive_age * runtime.jitter()
        self.idle_since = now
        self.due = runtime.idle_until(now)
        runtime.deadlines.watch(self)
        if runtime.present > runtime.connection_limit:
            # Accepted in one burst with the last one that there was a place for.
            runtime.counters.reject("connections")
            self._abort()
            return
        self._admitted = runtime.admit_client(peer_address(self.peer))
        if not self._admitted:
            runtime.counters.reject("connections_per_client")
            self._abort()

    def _know_peer(self, preface: Preface | None) -> None:
        """Ask the socket, and the handshake if there was one, who is at its other end."""
        ask, runtime = self.transport.get_extra_info, self.runtime
        peername, handshake = ask("peername"), ask("ssl_object")
        ip, port = peer_of(peername)
        local_ip, local_port = runtime.local_end(self.listener, ask) if ip is not None else (None, 0)
        tls = handshake is not None
        self.peer = Peer(ip, port, tls, self.listener, local_port, preface, local_ip)
        self.peer_key = f"{peername[0] if ip is not None else 'unix'} {tls} {local_port}"
        if preface is not None:
            self.peer_key += f" {preface.source_ip}"
        if tls:
            certificate, strict = handshake.getpeercert(), runtime.config.tls.strict_sni
            self.peer = replace(
                self.peer,
                client_certificate=subject_text(certificate["subject"]) if certificate else None,
                certificate_names=handshake.context.names if strict else None,
            )
            self.peer_key += f" {self.peer.client_certificate!r} {self.peer.certificate_names}"

    def data_received(self, data: bytes) -> None:
        if self.state is State.IDLE and self._fast is not None and not self.received and self._writable:
            now = self.runtime.clock.monotonic()
            if self._fast.try_begin(data, now, now):
                self.bytes_in += len(data)
                self._head_started = self.head_complete = now
                self.served += 1
                self.state = State.FAST
                if self._fast.stage is Stage.HELD:
                    self.received += data
                    self.due = now + PATIENCE
                else:
                    self._fast.go(data, now)
                return
            self._looked_at = len(data)
        super().data_received(data)
        self._looked_at = 0

    def on_data(self) -> None:
        if self.state is State.IDLE or self.state is State.HEAD:
            self._advance()
        elif self.state is State.FAST:
            self._body_came()
        elif self.state is State.LINGER:
            self._lingered += len(self.received)
            self.received.clear()
            self.resume()
            if self._lingered > self.runtime.config.limits.linger_bytes:
                self._abort()

    def on_eof(self) -> None:
        if self.state is State.EXCHANGE and self._exchange is not None:
            self._exchange.client_gone()
        elif self.state is State.FAST:
            assert self._fast is not None
            if not self._fast.reads_body:
                self._leave_fast(client_gone())
        elif self.state is not State.CLOSING:
            self._close()

    def on_lost(self) -> None:
        if self._exchange is not None:
            self._exchange.client_gone()
        elif self.state is State.FAST:
            self._leave_fast(client_gone())
        self.state = State.CLOSED
        self.due = NEVER
        runtime = self.runtime
        runtime.deadlines.forget(self)
        runtime.connections.discard(self)
        runtime.counters.open_connections -= 1
        if self._admitted:
            runtime.forget_client(peer_address(self.peer))
        runtime.on_closed()

    def expire(self) -> None:
        """The sweep found ``due`` in the past."""
        self.due = NEVER
        if self.state is State.IDLE:
            self._close()
        elif self.state is State.FAST:
            self._leave_fast(late_answer())
        elif self.state is State.HEAD:
            self._refuse(Violation(408, "head_timeout", "the request head came too slowly"))
        elif self.state is State.CLOSING and self.transport.get_write_buffer_size() < self._queued:
            self._await_flush()
        else:
            self._abort()

    # Reading heads.

    def _advance(self, *, general: bool = False) -> None:
        """Look for a complete request head in ``received`` and start its exchange; ``general``: the fast path
        has had its look."""
        raw: bytes | bytearray
        raw = received = self.received
        try:
            if self.state is State.IDLE:
                if not received:
                    return
                self.state = State.HEAD
                self._scanned = 0
                self._head_started = self.runtime.clock.monotonic()
                self.due = self._head_started + self.runtime.config.timeouts.head
            end = find_head_end(received, self._scanned)
            if end < 0:
                violation = over_limit(received, self.runtime.head_limits)
                if violation is not None:
                    raise violation
                self._scanned = len(received)
                self.resume()
                return
            looked_at = general or self._looked_at == len(received)
            if not looked_at and self._writable and self._begin_fast():
                return
            if self._refusal is not None:
                raise self._refusal
            raw = bytes(received[:end])
            del received[:end]
            head = read_request(raw[leading_blank(raw) :], self.runtime.head_limits)
        except Violation as violation:
            self._refuse(hinted(violation, raw))
            return
        self.head_complete = self.runtime.clock.monotonic()
        self._start(head, end)

    def _start(self, head: RequestHead, size: int, begun: Begun | None = None) -> None:
        self.state = State.EXCHANGE
        self.due = NEVER
        self.served += 1
        self._exchange = Exchange(self, head, size, self._head_started, begun)
        if begun is None or not begun.moving:
            # Reading goes on during the exchange, up to the bound: a client that leaves is noticed.
            self.resume()
        self._exchange.task = asyncio.get_running_loop().create_task(self._exchange.run())

    # The fast path.

    def _begin_fast(self) -> bool:
        """Try it on what has come in pieces."""
        now, data = self.runtime.clock.monotonic(), bytes(self.received)
        if self._fast is None or not self._fast.try_begin(data, self._head_started, now):
            return False
        self.served += 1
        self.head_complete = now
        self.state = State.FAST
        if self._fast.stage is Stage.HELD:
            self.due = now + PATIENCE
        else:
            self.received.clear()
            self._fast.go(data, now)
        self.resume()
        return True

    def _body_came(self) -> None:
        assert self._fast is not None
        if self._fast.stage is Stage.HELD and not self._fast.more(self.received):
            self._to_general()

    def _leave_fast(self, failure: Failure) -> None:
        """Something unusual: the general path goes on, from the beginning if nothing was sent."""
        fast = self._fast
        assert fast is not None
        if fast.stage is Stage.HELD:
            fast.stage = Stage.FREE
            self._to_general()
        elif fast.stage is not Stage.FREE:
            fast.hand_over(failure)

    def _to_general(self) -> None:
        """The request in ``received`` was only looked at: begin it again."""
        self.served -= 1
        self.state = State.HEAD
        self._scanned = 0
        self._advance(general=True)

    def go_on(self, head: RequestHead, size: int, started: float, begun: Begun) -> None:
        """The fast path hands its exchange over."""
        self.served -= 1
        self._head_started = started
        self._start(head, size, begun)

    def fast_done(self, *, keep: bool, now: float) -> None:
        """A fast exchange is over; its answer is written."""
        if not keep or self.received or self.at_eof:
            self.finish(keep=keep, unread=False)
            return
        self.state = State.IDLE
        self.idle_since = now
        # `idle_until` without the call.
        self.due = now if self.runtime.retiring else now + self._keep_alive

    def _refuse(self, violation: Violation) -> None:
        """Answer a head that the gate did not take, and end the connection."""
        runtime = self.runtime
        runtime.counters.reject(violation.reason)
        self.served += 1
        before = self.bytes_out
        if is_answered(violation):
            self.answer(answer_violation(violation, runtime.clock.wall()))
        log_violation(self, violation, self._head_started, len(self.received), self.bytes_out - before)
        self.finish(keep=False, unread=True)

    # What the exchange calls.

    def must_close(self, asked: bool, now: float) -> bool:
        """True when this connection ends after the current exchange; ``asked``: the client wants it so."""
        return asked or self.runtime.draining or self.served >= self._most_served or now >= self._expires

    def announcement(self, client: IPAddress | None) -> Announcement | None:
        """What an upstream is told of this connection, if it is told at its begin."""
        return announcement(client, self.peer, anonymise=self.runtime.config.forwarding.anonymise)

    def answer(self, answer: OwnAnswer, record: Record | None = None) -> None:
        """Write an answer of our own in one piece; ``record``: of the request, if it was one."""
        head = render_response(answer.status, answer.reason, answer.fields)
        self.write((head if record is None else record.identified(head)) + answer.body)

    def finish(self, *, keep: bool, unread: bool) -> None:
        """The exchange is over. ``unread``: request bytes may still come that nobody will read."""
        self.send_held()
        self._exchange = None
        if self.lost:
            return
        if keep and not self.at_eof:
            self._await_request()
        elif unread or self.received:
            self._linger()
        else:
            self._close()

    def cut(self) -> None:
        """The answer cannot be completed: reset, so that the client cannot take it for whole."""
        self._exchange = None
        sock = self.transport.get_extra_info("socket")
        if sock is not None and not self.lost:
            # Without a reset, a client whose answer ends with the connection would see a clean end.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._abort()

    # What the server calls.

    @property
    def idle(self) -> bool:
        """True between requests."""
        return self.state is State.IDLE

    @property
    def exchange(self) -> Exchange | None:
        """The running exchange, if any."""
        return self._exchange

    @property
    def fast_stage(self) -> Stage:
        """How far the fast exchange is; FREE when there is none."""
        return Stage.FREE if self._fast is None else self._fast.stage

    def retire(self) -> None:
        """Close a connection that is between requests; harmless otherwise."""
        if self.state is State.IDLE and not self.received:
            self._close()

    def stop(self, failure: Failure) -> None:
        """End it now: a running exchange is cut with this reason, anything else is closed."""
        if self.state is State.FAST:
            self._leave_fast(failure)  # which leaves an exchange behind, or nothing
        if self._exchange is not None:
            self._exchange.stop(failure)
        else:
            self._abort()

    # Ways to end.

    def _await_request(self) -> None:
        now = self.runtime.clock.monotonic()
        self.state = State.IDLE
        self.idle_since = now
        self.due = self.runtime.idle_until(now)
        self.resume()
        if self.received:
            # A pipelined request is here already; not from within the finished exchange's stack.
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        if self.state is State.IDLE:
            self._advance()

    def _linger(self) -> None:
        self.state = State.LINGER
        self.due = self.runtime.clock.monotonic() + self.runtime.config.timeouts.linger
        self._lingered = len(self.received)
        self.received.clear()
        self.end()
        self.resume()
        if self.at_eof:
            self._close()

    def _close(self) -> None:
        if self.state in (State.CLOSING, State.CLOSED):
            return
        self.state = State.CLOSING
        self._await_flush()
        self.close()

    def _await_flush(self) -> None:
        """A client that takes nothing of what is queued must not hold the connection for ever."""
        self._queued = self.transport.get_write_buffer_size()
        self.due = self.runtime.clock.monotonic() + self.runtime.config.timeouts.write_stall

    def _abort(self) -> None:
        self.state = State.CLOSING
        self.due = NEVER
        self.abort()


def is_answered(violation: Violation) -> bool:
    """Whoever speaks TLS cannot read what is said in plain HTTP."""
    return violation.reason != "tls_on_plain_port"


def hinted(violation: Violation, raw: bytes | bytearray) -> Violation:
    """Return the refusal of a head, with a hint where ``raw`` is a PROXY header that none was expected of."""
    if not begins_header(raw):
        return violation
    hint = "this is a PROXY protocol header, and listeners[].proxy_protocol does not list its sender"
    return Violation(violation.status, violation.reason, f"{violation.detail}; {hint}")
