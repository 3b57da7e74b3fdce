"""The access record of a fast exchange, made of parts that are kept for requests that are alike."""

from __future__ import annotations

import enum
from dataclasses import replace
from typing import TYPE_CHECKING

from proxy.observe.fastline import fast_line
from proxy.rules.forwarding import with_request_id
from proxy.serve.record import shown, tell_slow

if TYPE_CHECKING:
    from proxy.message import Route
    from proxy.net.lease import Lease
    from proxy.net.upstream import UpstreamConnection
    from proxy.serve.connection import Connection
    from proxy.serve.fastcache import FastCache, Found
    from proxy.serve.fastpath import FastPath, OutcomeKey, Shape

_HIT = ("hit",)

_NOT_ASKED = '"t_body":0,"t_queue":null,"t_connect":null,"t_first_byte":null,"t_total":'
"""The times of a request that no upstream was asked about."""

_NO_TIME = '"t_head":0,"t_body":0,"t_queue":0,"t_connect":0,"t_first_byte":'
"""The times of a request that came in one piece and found an idle connection, up to the upstream's."""


class Stage(enum.Enum):
    """How far a fast exchange is."""

    FREE = "free"
    HELD = "held"
    WHOLE = "whole"
    LEASING = "leasing"
    SENDING = "sending"
    SENT = "sent"
    PASSING = "passing"
    HANDING = "handing"
    KEEPING = "keeping"


class FastRecord:
    """What is told of a request. Who runs the exchange fills it in, anew for each.

    Moments of the clock: ``_started`` (first byte), ``_complete`` (head), ``_asked`` (body, as far as it is
    held), ``_sent`` (to the upstream), ``_first_byte`` (of the answer). ``_whole``: bytes of head and body.
    """

    __slots__ = (
        "_asked",
        "_complete",
        "_connection",
        "_first_byte",
        "_method",
        "_path",
        "_request_id",
        "_route",
        "_runtime",
        "_sent",
        "_shape",
        "_started",
        "_target",
        "_target_path",
        "_whole",
    )

    def __init__(self, path: FastPath, connection: Connection) -> None:
        self._path = path
        self._runtime = path.runtime
        self._connection = connection
        self._route: Route
        self._shape: Shape
        self._method: bytes
        self._target: bytes
        self._target_path: bytes
        self._whole: int
        self._request_id: str
        self._started: float
        self._complete: float
        self._asked: float
        self._sent: float
        self._first_byte: float

    def _missed(self, first_line: bytes, reason: str) -> bool:
        """Count a request that was not taken though its path would be (by a rough look at it)."""
        target = first_line[:4096].split(b" ", 2)[1:2]
        if target and self._path.route(target[0].partition(b"?")[0]) is not None:
            self._runtime.counters.fast_path_missed.add(reason)
        return False

    def _log(
        self, upstream: UpstreamConnection, lease: Lease | None, status: int, sent: int, now: float
    ) -> None:
        """Count the exchange, and write its line. ``sent``: bytes that the client was sent."""
        shape = self._shape
        retries = 0 if lease is None else lease.retries
        key = (
            self._connection.listener,
            self._method,
            self._target_path,
            shape.host,
            status,
            upstream.address,
            retries,
            upstream.served > 1,
            "upstream",
        )
        total = now - self._started
        if lease is None and self._sent == self._started:
            waited = total
            taken = f"{total:.6f}"
            times = f'{_NO_TIME}{taken},"t_total":{taken}'
        else:
            waited = self._first_byte - self._sent
            times = self._times(lease, now)
        self._write(key, sent, now, times, waited)

    def _tell(self, cache: FastCache, found: Found, minor: int, now: float) -> None:
        """Answer from the cache, count it, and write its line."""
        connection, shape = self._connection, self._shape
        close = connection.must_close(shape.close, now)
        head = self._identified(cache.head(found, minor, now, close=close, hsts=shape.way.answers.hsts))
        connection.write_both(head, found.body)
        self._runtime.counters.cache.count(_HIT)
        key, times = self._unasked_key(found.status, "cache"), self._unasked_times(now)
        self._write(key, len(head) + len(found.body), now, times)
        connection.fast_done(keep=not close, now=now)

    def _identified(self, head: bytes) -> bytes:
        """The head of an answer, with the request's id if clients are told it."""
        return with_request_id(head, self._request_id) if self._path.answer_id else head

    def _unasked_key(self, status: int, origin: str) -> OutcomeKey:
        """``origin``: who answered, as no upstream was asked."""
        connection, path, host = self._connection, self._target_path, self._shape.host
        return (connection.listener, self._method, path, host, status, "", 0, False, origin)

    def _unasked_times(self, now: float) -> str:
        return f'"t_head":{self._complete - self._started:.6f},{_NOT_ASKED}{now - self._started:.6f}'

    def _write(self, key: OutcomeKey, sent: int, now: float, times: str, waited: float | None = None) -> None:
        runtime, shape = self._runtime, self._shape
        counters = runtime.counters
        outcome = self._path.outcomes.get(key) or self._path.outcome(key, self._route)
        size = self._whole
        agent, words = shape.agent or b"", _sdk_words(self._target)
        counters.requests_in_flight -= 1
        counters.fast_path += 1
        counters.requests.count(outcome.labels)
        counters.client_sources.count(shape.client.counted)
        counters.request_bytes += size
        counters.response_bytes += sent
        if shape.way.dropped:
            counters.drop(shape.way.dropped)
        client = shape.client
        runtime.symptoms.last_client = client.ip
        if client.suspect:
            counters.client_ip_suspect += 1
        total = now - self._started
        outcome.durations.add(total)
        if waited is not None:
            outcome.waits.add(waited)
        sampling = runtime.sampling
        if total >= sampling.slow:
            tell_slow(runtime, self._request_id, self._route.name, self._route.upstream, total, waited)
        if not sampling.everything and not sampling.wants(
            self._route.cls.value, key[4], self._request_id, total
        ):
            return
        wall = runtime.clock.wall() - total
        if outcome.parts is not None:
            sender = self._path.senders.get((agent, words)) or self._path.sender((agent, words))
            runtime.access_log.write(
                fast_line(outcome.parts, wall, self._request_id, client.log, size, sent, times, sender)
            )
            return
        assert outcome.record is not None
        record = replace(
            outcome.record,
            target=self._target,
            user_agent=agent,
            peer=shown(runtime, self._connection.peer.ip),
            client_ip=client.ip,
            client_ip_source=client.source.value,
            trusted_hops=client.hops,
            ts=wall,
            request_id=self._request_id,
            bytes_in=size,
            bytes_out=sent,
            t_total=total,
        )
        runtime.access_log.write(runtime.encode_access(record))

    def _times(self, lease: Lease | None, now: float) -> str:
        body = max(0.0, self._asked - self._complete)
        queue, connect = (0.0, 0.0) if lease is None else (lease.t_queue, lease.t_connect)
        return (
            f'"t_head":{self._complete - self._started:.6f},"t_body":{body:.6f},"t_queue":{queue:.6f},'
            f'"t_connect":{connect:.6f},"t_first_byte":{self._first_byte - self._sent:.6f},'
            f'"t_total":{now - self._started:.6f}'
        )


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
