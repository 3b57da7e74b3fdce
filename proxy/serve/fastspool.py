"""Keeping a request before PostHog hears of it (`spool.mode = "first"`) on the fast path: one call hands it
to the store, one callback answers.

What is kept and what is answered is what serve/spooling.py would; it also does all that is unusual (a large
body, a full spool, a disk that fails).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from proxy.clock import NEVER
from proxy.message import NO_BODY, RequestHead
from proxy.rules.answers import KEPT, answer_kept, http_date
from proxy.rules.routing import outgoing_target
from proxy.serve.fastcache import head_fields
from proxy.serve.fastrecord import FastRecord, Stage
from proxy.serve.spooling import KEPT_METHODS, delivery_order
from proxy.spool.record import Receipt, SpoolRecord, queue_name
from proxy.wire.heads import render_response

if TYPE_CHECKING:
    from proxy.errors import Failure
    from proxy.serve.connection import Connection
    from proxy.serve.fastpath import FastPath
    from proxy.serve.spooling import Spooling
    from proxy.spool.record import Outcome

_EPOCH = http_date(0)


class FastSpool(FastRecord):
    """The part of a fast exchange that keeps instead of asking. ``stage`` is the exchange's."""

    __slots__ = ("_data", "_kept_before", "_length_line", "_minor", "_size", "stage")

    def __init__(self, path: FastPath, connection: Connection) -> None:
        super().__init__(path, connection)
        self.stage = Stage.FREE
        self._data = b""
        self._length_line: bytes
        self._minor: int
        self._size: int
        """Bytes of the head."""
        self._kept_before = 0
        """Requests of this connection that were handed to the store: the number of the one that runs."""

    def hand_over(self, failure: Failure | None = None) -> None:
        """Let the general exchange go on from here."""
        raise NotImplementedError

    def _head_parts(self) -> tuple[bytes, ...]:
        """The head that goes upstream, or is kept."""
        shape = self._shape
        way = shape.way
        return (
            self._method,
            b" ",
            self._target if not self._route.cut else outgoing_target(self._route, self._target),
            way.opening,
            shape.before,
            self._length_line,
            shape.after,
            shape.client.line,
            way.before_id,
            self._request_id.encode(),
            way.after_id,
        )

    def _keep(self, data: bytes) -> bool:
        """Hand it to the store; false: it is not for the spool."""
        spooling = self._runtime.spooling
        if spooling is None or self._method not in KEPT_METHODS:
            return False
        if len(data) < self._whole:
            self.hand_over()  # which keeps it in pieces
            return True
        self.stage = Stage.KEEPING
        self._connection.due = NEVER  # the store heeds spool.commit_timeout itself
        self._kept_before += 1
        body = data[self._size :]
        record = SpoolRecord(
            arrived=self._runtime.clock.wall(),
            upstream=queue_name(self._route.upstream, self._route.cls),
            route=self._route.name,
            client=delivery_order(self._shape.client.ip, body),
            head=b"".join(self._head_parts()),
            length=len(body),
        )
        told = partial(self._kept, spooling, record.upstream, self._kept_before)
        spooling.keeper.append(record, body, told)
        return True

    def _kept(self, spooling: Spooling, queue: str, number: int, outcome: Outcome) -> None:
        """The store has told what has become of it."""
        if isinstance(outcome, Receipt):
            spooling.kept("first", queue)
        if self.stage is not Stage.KEEPING or number != self._kept_before:
            return  # the client has left, or the proxy stops
        if isinstance(outcome, Receipt):
            self._tell_kept()
        else:
            self.hand_over(spooling.refusal(outcome))

    def _tell_kept(self) -> None:
        connection, shape = self._connection, self._shape
        now = self._runtime.clock.monotonic()
        close = connection.must_close(shape.close, now)
        before, after = shape.kept.get(close) or self._kept_answer(close=close)
        out = self._identified(before + http_date(self._runtime.clock.wall()) + after) + KEPT
        self.stage, self._data = Stage.FREE, b""
        if close:
            connection.write(out)
        else:
            self._runtime.outbox.put(connection, out)
        self._write(self._unasked_key(200, "spool"), len(out), now, self._unasked_times(now))
        connection.fast_done(keep=not close, now=now)

    def _kept_answer(self, *, close: bool) -> tuple[bytes, bytes]:
        """Return what stands before and behind the date of the answer, and note it for this header block."""
        fields = head_fields(self._data[: self._size])
        head = RequestHead(self._method, self._target, self._minor, fields, self._shape.host, NO_BODY)
        answer = answer_kept(head, self._route.cls, 0.0, close=close)
        rendered = render_response(answer.status, answer.reason, answer.fields)
        before, _, after = rendered.partition(_EPOCH)
        self._shape.kept[close] = before, after
        return before, after
