"""Asking the service of `access.forward_auth` about a request (rules/forward_auth.py says what is asked)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.config.schema import LogLevel
from proxy.errors import Failure, Resend, Source
from proxy.message import NO_BODY, RequestHead
from proxy.rules.forward_auth import BODY_LIMIT, NOT_ASKED, question, verdict
from proxy.wire.heads import render_request

if TYPE_CHECKING:
    from proxy.message import Forward, ResponseHead
    from proxy.net.lease import Lease
    from proxy.rules.access import Denial
    from proxy.serve.runtime import Runtime

SAY_INTERVAL = 10.0
"""Seconds between two lines about a service that cannot be reached; the access log has every request."""


class ForwardAuth:
    """The service, asked through the pool of its own upstream."""

    def __init__(self, runtime: Runtime) -> None:
        access = runtime.config.access
        self._runtime = runtime
        self._table = runtime.tables.forward_auth
        self._upstream = access.forward_auth
        self._timeout = access.forward_auth_timeout
        self._said = -SAY_INTERVAL

    async def ask(self, forward: Forward, head: RequestHead) -> Forward | Denial:
        """Return the request with what the service vouches for, or its refusal. Never passes anybody
        because the service failed."""
        host = self._runtime.tables.upstreams[self._upstream].host(head.host)
        fields = question(head, forward, host, self._table)
        asked = RequestHead(b"GET", self._table.path, 1, fields, host, NO_BODY)
        try:
            answer, body = await self._converse(asked)
        except Failure as failure:
            self._say(failure)
            return NOT_ASKED
        return verdict(answer, body, head, forward, self._table)

    async def _converse(self, asked: RequestHead) -> tuple[ResponseHead, bytes | None]:
        """Ask; once more where a kept connection turned out to be closed."""
        due = self._now() + self._timeout
        pool = self._runtime.pools[self._upstream]
        lease = await pool.acquire(due=due, connect_timeout=self._timeout)
        try:
            return await self._exchange(lease, asked, due)
        except Failure as failure:
            if failure.resend is not Resend.REUSED or not lease.reused or not pool.may_retry():
                raise
        lease = await pool.acquire(due=due, connect_timeout=self._timeout, fresh=True)
        return await self._exchange(lease, asked, due)

    async def _exchange(
        self, lease: Lease, asked: RequestHead, due: float
    ) -> tuple[ResponseHead, bytes | None]:
        exchange = lease.exchange
        try:
            exchange.send_head(render_request(asked.method, asked.target, asked.fields), asked, b"", True)
            answer = await exchange.read_head(due, _late)
            lease.report(answer.status, None)
            body = b""
            while not exchange.over and len(body) <= BODY_LIMIT:
                body += exchange.take_body() or await exchange.read_body(due, _late)
            return answer, body if len(body) <= BODY_LIMIT else None
        except Failure as failure:
            lease.report(None, failure)
            raise
        finally:
            if not exchange.over:
                exchange.abort()
            lease.release(exchange.reusable)

    def _say(self, failure: Failure) -> None:
        now = self._now()
        if now - self._said >= SAY_INTERVAL:
            self._said = now
            self._runtime.error(
                LogLevel.WARNING,
                "forward_auth_unreachable",
                upstream=self._upstream,
                kind=failure.kind,
                detail=failure.detail,
            )

    def _now(self) -> float:
        return self._runtime.clock.monotonic()


def _late() -> Failure:
    return Failure(
        Source.UPSTREAM, "upstream_timeout", 504, "the authentication service did not answer in time"
    )
