"""Active health probes: ask `health_path` now and then, and believe several answers before acting.

A probe is a GET on a connection of its own, with the upstream's own Host and ``X-Forwarded-Proto: https``
(PostHog redirects plain http anywhere but on ``/_health``). Good is a 2xx that is not HTML. A redirect or
a page of HTML comes from something that does not serve this path: the upstream is *misrouted*, and
counts as down, because what is sent there would be lost without an error.

Precedents: HAProxy every 2 s, rise 2, fall 3; Caddy and Traefik every 30 s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.errors import Failure, Source
from proxy.message import NO_BODY, RequestHead, first_value

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable

    from proxy.clock import Deadlines
    from proxy.config.schema import HealthConfig, UpstreamConfig
    from proxy.message import ResponseHead
    from proxy.net.upstream import UpstreamConnection

SPREAD = 0.2
"""Part by which the interval is spread, so that workers and proxies do not probe in step."""

BODY_LIMIT = 64 * 1024
"""Bytes of a probe's answer that are read before it is cut."""


class HealthState:
    """Whether an upstream is up: ``fall`` bad probes in a row take it out, ``rise`` good ones bring it
    back. ``reason`` says what the last bad probe met, ``next_probe`` when the next one is due."""

    def __init__(self, config: HealthConfig) -> None:
        self._config = config
        self._in_a_row = 0
        self.up = True
        self.reason = ""
        self.next_probe = 0.0

    def __repr__(self) -> str:
        return f"<HealthState {'UP' if self.up else 'DOWN'} {self.reason}>"

    def record(self, reason: str) -> None:
        """Take in one probe; ``reason`` is why it was bad, empty if it was good."""
        good = not reason
        if good is self.up:
            self._in_a_row = 0
        else:
            self._in_a_row += 1
            if self._in_a_row >= (self._config.rise if good else self._config.fall):
                self.up = good
                self._in_a_row = 0
        if not good or self.up:
            self.reason = reason


class HealthChecker:
    """Probes one upstream until it is cancelled.

    :param connect: opens a connection that nobody else uses, by the moment given; raises ``Failure``.
    """

    def __init__(
        self,
        upstream: UpstreamConfig,
        config: HealthConfig,
        state: HealthState,
        deadlines: Deadlines,
        rng: random.Random,
        connect: Callable[[float], Awaitable[UpstreamConnection]],
    ) -> None:
        self._config = config
        self._state = state
        self._deadlines = deadlines
        self._rng = rng
        self._connect = connect
        self._request, self._head = _request(upstream)

    async def run(self) -> None:
        """Probe for ever."""
        clock = self._deadlines.clock
        while True:
            pause = self._config.interval * self._rng.uniform(1 - SPREAD, 1 + SPREAD)
            self._state.next_probe = clock.monotonic() + pause
            await self.probe()
            await self._deadlines.sleep(self._state.next_probe)

    async def probe(self) -> None:
        """Probe once and record it, unless it failed for want of resources of our own."""
        due = self._deadlines.clock.monotonic() + self._config.timeout
        try:
            reason = await self._ask(due)
        except Failure as failure:
            if failure.source is Source.PROXY:
                return
            reason = failure.detail
        self._state.record(reason)

    async def _ask(self, due: float) -> str:
        connection = await self._connect(due)
        try:
            exchange = connection.open_exchange()
            exchange.send_head(self._request, self._head, b"", True)
            answer = await exchange.read_head(due, _late)
            size = 0
            while size < BODY_LIMIT and (data := await exchange.read_body(due, _late)):
                size += len(data)
        finally:
            connection.abort()
        return judge(answer)


def judge(answer: ResponseHead) -> str:
    """Return what is wrong with a probe's answer, or an empty string."""
    if 300 <= answer.status < 400:
        target = (first_value(answer.fields, b"location") or b"").decode("ascii", "backslashreplace")
        return f"misrouted: the health path redirects (status {answer.status}) to {target[:200]}"
    if not 200 <= answer.status < 300:
        return f"the health path answers {answer.status}"
    if (first_value(answer.fields, b"content-type") or b"").lower().startswith(b"text/html"):
        return "misrouted: the health path answers HTML, so another application serves it"
    return ""


def _request(upstream: UpstreamConfig) -> tuple[bytes, RequestHead]:
    host = upstream.url.authority.encode()
    fields = (
        (b"Host", host),
        (b"User-Agent", b"posthog-proxy-health"),
        (b"Accept", b"*/*"),
        (b"X-Forwarded-Proto", b"https"),
        (b"Connection", b"close"),
    )
    target = upstream.health_path.encode()
    lines = [b"GET %s HTTP/1.1" % target, *(b"%s: %s" % field for field in fields)]
    head = RequestHead(b"GET", target, 1, fields, host, NO_BODY, close=True)
    return b"\r\n".join(lines) + b"\r\n\r\n", head


def _late() -> Failure:
    return Failure(Source.UPSTREAM, "health_timeout", 504, "the health path does not answer in time")
