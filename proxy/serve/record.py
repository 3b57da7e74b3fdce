"""The access record of one exchange: filled in as it goes, written once, counted at the same place."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING

from proxy.config.schema import LogLevel
from proxy.errors import Source
from proxy.message import EndpointClass, Forward
from proxy.observe.log import AccessRecord, Cause, Phase, cause_of, termination
from proxy.rules.address import anonymised, is_public
from proxy.rules.forwarding import with_request_id

if TYPE_CHECKING:
    from proxy.errors import Failure, Violation
    from proxy.message import ClientAddress, Decision, IPAddress, RequestHead, ResponseHead, Route
    from proxy.net.doorway import Guest
    from proxy.net.pool import Lease
    from proxy.serve.body import RequestBody
    from proxy.serve.connection import Connection
    from proxy.serve.runtime import Runtime


class Record:
    """Collects what the log wants to know of one exchange. Times are seconds of the injected clock."""

    def __init__(self, connection: Connection, head: RequestHead, head_size: int, started: float) -> None:
        self._runtime = connection.runtime
        self._connection = connection
        self._bytes_out = connection.bytes_out
        self._started = started
        self._mark = self._now()
        self.route: Route | None = None
        self.retries = 0
        self._line = new_line(self._runtime, connection.listener, connection.peer.ip, started)
        line = self._line
        line.method, line.target, line.host = head.method, head.target, head.host or b""
        line.bytes_in = head_size
        line.t_head = self._mark - started
        for name, value in head.fields:
            if name.lower() == b"user-agent":
                line.user_agent = value
                break

    def identified(self, head: bytes) -> bytes:
        """Return a rendered answer head, with the request's id if clients are told it."""
        told = self._runtime.tables.forwarding.answer_id and self._line.request_id
        return with_request_id(head, self._line.request_id) if told else head

    def sent_since(self, bytes_out: int) -> None:
        """The answer began when the connection had sent so many bytes."""
        self._bytes_out = bytes_out

    def decided(self, decision: Decision) -> None:
        """What the rules made of the request."""
        line = self._line
        self.route = decision.route
        if decision.route is not None:
            line.route, line.cls, line.upstream = (
                decision.route.name,
                decision.route.cls.value,
                decision.route.upstream,
            )
        if isinstance(decision, Forward):
            line.request_id = decision.request_id
            self._runtime.counters.drop(decision.dropped)
        client = decision.client
        if client is not None:
            client_seen(self._runtime, line, client)
            self._runtime.counters.client_sources.add(client.source.value)
            self._runtime.symptoms.last_client = line.client_ip
            if not is_public(client.ip):
                self._runtime.counters.client_ip_suspect += 1

    def body_held(self) -> None:
        """The body, or the part of it that is held, is here."""
        self._mark = self._now()
        self._line.t_body = self._mark - self._started - (self._line.t_head or 0.0)

    def leased(self, lease: Lease) -> None:
        """An upstream connection was found."""
        line = self._line
        line.t_queue, line.t_connect = lease.t_queue, lease.t_connect
        line.upstream_addr, line.reused = lease.address, lease.reused
        self.retries += lease.retries
        self._mark = self._now()

    def answered(self, answer: ResponseHead) -> None:
        """The upstream's final head is here and will be passed on."""
        line = self._line
        line.status = line.upstream_status = answer.status
        line.origin = "upstream"
        line.t_first_byte = self._now() - self._mark
        self._runtime.counters.upstream_durations.of(line.upstream).add(line.t_first_byte)

    def from_cache(self, status: int, failure: str) -> None:
        """The cache answered; ``failure``: why with something stale."""
        line = self._line
        line.status, line.origin = status, "cache"
        if failure:
            line.error = f"stale: {failure}"

    def from_spool(self, status: int, failure: Failure | None) -> None:
        """The request was kept for later; ``failure``: why PostHog did not take it."""
        line = self._line
        line.status, line.origin = status, "spool"
        if failure is not None:
            line.error = f"kept: {failure.kind}: {failure.detail}"
            self._runtime.counters.failures.add(line.upstream, failure.kind)

    def own_answer(self, status: int, reason: str, detail: str) -> None:
        """The proxy answered by itself."""
        line = self._line
        line.status, line.origin = status, "proxy"
        line.error = f"{reason}: {detail}"
        if line.termination == "--":
            line.termination = termination(Cause.REFUSED, Phase.HEAD)

    def failed(self, failure: Failure, phase: Phase) -> None:
        """The exchange could not go on; ``phase`` is how far it had come."""
        line = self._line
        if phase is Phase.QUEUE and failure.source is Source.UPSTREAM and failure.kind != "breaker_open":
            phase = Phase.CONNECT
        line.termination = termination(cause_of(failure), phase)
        line.error = f"{failure.kind}: {failure.detail}"
        if phase in (Phase.ANSWER, Phase.TUNNEL):
            if failure.source in _TRUNCATED_CURES:
                self._runtime.told_apart(
                    "truncated_answer",
                    request_id=line.request_id,
                    route=line.route,
                    upstream=line.upstream,
                    error=line.error,
                    cure=_TRUNCATED_CURES[failure.source],
                )
            line.error = f"truncated: {line.error}"
        elif failure.source is Source.DOWNSTREAM:
            line.status = failure.status
        if failure.source is Source.UPSTREAM:
            self._runtime.counters.failures.add(line.upstream, failure.kind)

    def tunnel_ended(self, reason: str) -> None:
        """A tunnel is over; ``reason`` as in ``relay.Tunnel.ended_by``."""
        if reason == "idle":
            self._line.termination = termination(Cause.CLIENT_LATE, Phase.TUNNEL)

    def bug(self, error: BaseException) -> None:
        """Something of ours broke: the error log gets the traceback."""
        log_bug(self._runtime, self._line.request_id, error)

    def write(self, body: RequestBody | None) -> None:
        """The exchange is over: count it and write its line."""
        line = self._line
        line.retries = self.retries
        line.bytes_in += 0 if body is None else body.size
        line.bytes_out = self._connection.bytes_out - self._bytes_out
        line.t_total = self._now() - self._started
        _count_and_write(self._runtime, line)

    def _now(self) -> float:
        return self._runtime.clock.monotonic()


def log_violation(
    connection: Connection, violation: Violation, started: float, head_size: int, bytes_out: int
) -> None:
    """Write the record of bytes that were no request: there is no method, path or client to name."""
    runtime = connection.runtime
    line = new_line(runtime, connection.listener, connection.peer.ip, started)
    line.method = b"-"
    line.client_ip = line.peer
    line.status = violation.status if bytes_out else 0
    line.bytes_in, line.bytes_out = head_size, bytes_out
    line.t_total = runtime.clock.monotonic() - started
    line.error = f"{violation.reason}: {violation.detail}"
    late = violation.status == 408
    line.termination = termination(Cause.CLIENT_LATE if late else Cause.REFUSED, Phase.HEAD)
    _count_and_write(runtime, line)


def log_turned_away(runtime: Runtime, listener: str, guest: Guest, violation: Violation) -> None:
    """Write the record of a connection that was closed before anything was served on it."""
    line = new_line(runtime, listener, guest.ip, guest.came)
    line.method = b"-"
    line.client_ip = line.peer
    line.t_total = runtime.clock.monotonic() - guest.came
    line.error = f"{violation.reason}: {violation.detail}"
    line.termination = termination(Cause.REFUSED, Phase.HEAD)
    _count_and_write(runtime, line)


def log_bug(runtime: Runtime, request_id: str, error: BaseException) -> None:
    """Write the traceback of something that should not have happened to the error log."""
    runtime.error(
        LogLevel.ERROR,
        "internal_error",
        request_id=request_id,
        error=repr(error),
        traceback="".join(traceback.format_exception(error)),
    )


def new_line(runtime: Runtime, listener: str, peer: IPAddress | None, started: float) -> AccessRecord:
    """Return the record of what began at the moment ``started`` of the clock."""
    now, wall = runtime.clock.monotonic(), runtime.clock.wall()
    return AccessRecord(ts=wall - (now - started), listener=listener, peer=shown(runtime, peer))


def client_seen(runtime: Runtime, line: AccessRecord, client: ClientAddress) -> None:
    """Note who the client is, and how that was found out."""
    line.client_ip = shown(runtime, client.ip)
    line.client_ip_source = client.source.value
    line.trusted_hops = len(client.trusted_chain) + client.peer_trusted


def shown(runtime: Runtime, ip: IPAddress | None) -> str:
    """Return an address as the log shows it."""
    if ip is None:
        return ""
    return str(anonymised(ip) if runtime.config.forwarding.anonymise else ip)


_TRUNCATED_CURES = {
    Source.UPSTREAM: "look at the upstream's log for this request id",
    Source.PROXY: "the proxy was stopped; give it longer with timeouts.drain",
}

_SLOW_CURE = "look at the upstream, or raise log.slow where so much time is usual"


def tell_slow(
    runtime: Runtime, request_id: str, route: str, upstream: str, total: float, waited: float | None
) -> None:
    """Write to the error log that a request took long; ``waited``: of it, for the upstream's first byte."""
    times = {"t_total": round(total, 3)}
    if waited is not None:
        times["t_first_byte"] = round(waited, 3)
    runtime.told_apart(
        "slow_request", request_id=request_id, route=route, upstream=upstream, **times, cure=_SLOW_CURE
    )


def _count_and_write(runtime: Runtime, line: AccessRecord) -> None:
    counters = runtime.counters
    counters.request(line.route, line.cls, line.method, line.status)
    counters.durations.of(line.cls).add(line.t_total or 0.0)
    counters.request_bytes += line.bytes_in
    counters.response_bytes += line.bytes_out
    total, sampling = line.t_total or 0.0, runtime.sampling
    if total >= sampling.slow and line.cls != EndpointClass.STREAM.value and line.status != 101:
        tell_slow(runtime, line.request_id, line.route, line.upstream, total, line.t_first_byte)
    if sampling.wants(line.cls, line.status, line.request_id, total, line.error):
        runtime.access_log.write(runtime.encode_access(line))
