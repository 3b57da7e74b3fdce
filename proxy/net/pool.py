"""The connections to one upstream in one process: reuse, waiting line, retries, health, breaker.

Theory of operation. ``acquire`` asks three in turn: may the upstream be asked at all (health.py,
breaker.py), which connection (chooser.py), and, if a new one, where (resolve.py, dial.py). What it returns
is a ``Lease``; whoever has one reports how the upstream did and releases it, once.

::

    acquire ─▶ admitted? ─no─▶ Failure breaker_open
                  │ yes
                  ▼
               chooser ──idle one──▶ Lease ◀──connected── dial, up to `pool.retries` more tries
                  │    ──room─────────────────────────────▲
                  └────full──▶ line ──granted a connection or a place to dial
                                 └────late, left, refused

Nothing runs while nothing happens: the pool is one object for the sweep (clock.py) and has no timers, nor a
task unless `health_path` is set or the upstream cannot be connected to (knock.py).

Memory: `pool.connections` connections (see ``Stream``), `pool.waiting` waiters.
"""

from __future__ import annotations

import asyncio
import math
import random
from functools import partial
from typing import TYPE_CHECKING, Self, TypeAlias, TypeVar

from proxy.clock import NEVER
from proxy.errors import Failure, Resend, Source
from proxy.net.breaker import Admission, Breaker, BreakerState
from proxy.net.chooser import NOTHING, Chooser
from proxy.net.dialler import Dialler
from proxy.net.gauges import UpstreamState
from proxy.net.health import HealthChecker, HealthState
from proxy.net.http1 import AnswerLimits, Http1Exchange
from proxy.net.knock import Knocker
from proxy.net.lease import Lease, Place
from proxy.net.resolve import Lookup, SocketAddress, system_lookup
from proxy.net.upstream import ExchangeFactory, UpstreamConnection
from proxy.net.window import RetryBudget
from proxy.wire.strict import HeadLimits

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from proxy.clock import Deadlines
    from proxy.config.schema import Config, UpstreamConfig
    from proxy.net.chooser import Outcome
    from proxy.rules.announcing import Announcement

__all__ = ["Lease", "UpstreamPool", "UpstreamState"]

RETRY_JITTER = (0.1, 0.3)
"""Seconds before another try to connect."""

FAILING = "it keeps failing"

AGE_JITTER = 0.1
"""Part by which the greatest age is spread, so that connections opened together do not close together."""

T = TypeVar("T")

Dial: TypeAlias = "Callable[[float, int], Awaitable[T]]"
"""Connects once: by this moment, passing over so many addresses (methods of ``Dialler``)."""


class UpstreamPool:
    """See the module.

    :param name: the upstream's name in the configuration.
    :param open_exchange: opens an exchange on a connection.
    :param lookup: resolves names; replaced in tests.
    :raises ConfigError: when the upstream's `ca_file` cannot be used.
    """

    def __init__(
        self,
        name: str,
        upstream: UpstreamConfig,
        config: Config,
        deadlines: Deadlines,
        open_exchange: ExchangeFactory,
        *,
        rng: random.Random | None = None,
        lookup: Lookup = system_lookup,
    ) -> None:
        self.name = name
        self.upstream = upstream
        self.due = NEVER
        self._config = config.pool
        self._limits = config.limits
        self._probe_timeout = config.health.timeout
        self._deadlines = deadlines
        self._clock = deadlines.clock
        self._open_exchange = open_exchange
        self._rng = rng or random.Random()
        self.dialler = Dialler(name, upstream, config.timeouts.dns_refresh, deadlines, lookup)
        self._budget = RetryBudget(config.pool.retry_share)
        self.breaker = Breaker(config.health, self._rng)
        self.health = HealthState(config.health)
        self._checker = HealthChecker(
            upstream, config.health, self.health, deadlines, self._rng, self._connect_for_probe
        )
        self._knocker = Knocker(
            self.breaker, deadlines, self._rng, self._connect_for_probe, config.health.timeout
        )
        self._chooser: Chooser[UpstreamConnection, Place] = Chooser(
            connections=config.pool.connections,
            idle=config.pool.idle,
            line=config.pool.waiting,
            idle_timeout=upstream.idle_timeout,
        )
        self._sockets: set[UpstreamConnection] = set()
        self._checking: asyncio.Task[None] | None = None
        self._closed = False
        self._came = 0
        self._well = 0
        self.last_well: float | None = None
        """The moment when it was last found that a request went well, as of the last sweep."""
        self.last_ill: float | None = None
        """The moment when one last failed at the upstream."""
        self._idle_timeout = upstream.idle_timeout
        self._quiet = asyncio.Event()
        deadlines.watch(self)

    @classmethod
    def of(cls, name: str, config: Config, deadlines: Deadlines, *, rng: random.Random | None = None) -> Self:
        """Return the pool of the upstream called ``name``, speaking HTTP/1.1."""
        limits = config.limits
        answers = AnswerLimits(
            HeadLimits(limits.answer_head_bytes, limits.answer_head_lines),
            limits.interim_answers,
            limits.trailer_bytes,
        )
        return cls(
            name,
            config.upstreams[name],
            config,
            deadlines,
            lambda stream: Http1Exchange(stream, answers),
            rng=rng,
        )

    def __repr__(self) -> str:
        return f"<UpstreamPool {self.name} {self._chooser!r} {self.breaker!r} {self.health!r}>"

    @property
    def state(self) -> UpstreamState:
        """What it looks like now."""
        chooser = self._chooser
        return UpstreamState(
            self.name,
            str(self.upstream.url),
            self.health.up,
            self.health.reason,
            self.breaker.state,
            chooser.idle,
            chooser.in_use,
            chooser.dialling,
            chooser.waiting,
        )

    def start(self) -> None:
        """Begin the active health probes, if there are any."""
        if self.upstream.health_path:
            self._checking = asyncio.get_running_loop().create_task(self._checker.run())

    # Leases.

    def take_idle(self) -> Lease | None:
        """Return a lease on an idle connection if there is one and the upstream may be asked, else
        ``None``: then ``acquire`` says why, or finds another way."""
        if self._closed or self.breaker.state is not BreakerState.CLOSED or not self.health.up:
            return None
        now = self._clock.monotonic()
        choice = self._chooser.take(now)
        self._discard(choice.close)
        if choice.connection is None:
            return None
        self._budget.request(now)
        return Lease(self, choice.connection, probe=False)

    def take_quickly(self, now: float) -> UpstreamConnection | None:
        """Take an idle connection without a lease; end with ``give_back_quickly`` or ``lend``."""
        if self._closed or self.breaker.state is not BreakerState.CLOSED or not self.health.up:
            return None
        connection = self._chooser.take_newest(now)
        if connection is not None:
            connection.served += 1
            self._came += 1
        return connection

    def give_back_quickly(self, connection: UpstreamConnection, reusable: bool, now: float) -> None:
        """The exchange has ended, and well."""
        self._well += 1
        if reusable and connection.usable and self._chooser.give_back(connection, now):
            if self.due > now + self._idle_timeout:
                self.due = now + self._idle_timeout
        else:
            self.take_back(connection, reusable)

    def lend(self, connection: UpstreamConnection) -> Lease:
        """Make a lease of what was taken quickly."""
        connection.served -= 1
        return Lease(self, connection, probe=False)

    def count(self, now: float) -> None:
        """Tell breaker and budget of what was taken quickly: at each sweep, and before either is asked."""
        if self._came:
            self._budget.request(now, self._came)
            self._came = 0
        if self._well:
            self.breaker.went_well(self._well, now)
            self.last_well = now
            self._well = 0

    async def acquire(
        self,
        *,
        due: float,
        connect_timeout: float,
        fresh: bool = False,
        announced: Announcement | None = None,
    ) -> Lease:
        """Return a lease.

        :param due: moment by which the request must be on its way: bounds the line and all tries.
        :param connect_timeout: seconds for one try to connect, name and TLS included.
        :param fresh: on a new connection (for a request that a reused one has failed).
        :param announced: the client, for an upstream that is told of it at the begin of each connection.
        :raises Failure: nothing was sent, so the request may go again. 503: ``breaker_open`` (with
            ``retry_after``; also when health probes found it down), ``pool_line_full``,
            ``pool_wait_timeout``, ``draining``; 502 and 504: those of ``dial`` and ``Resolver``.
        """
        started = self._clock.monotonic()
        probe = self._admit(started)
        if not fresh:
            self._budget.request(started)
        try:
            connection = await self._find(due, fresh or self.dialler.announces)
            queued = connecting = self._clock.monotonic()
            retries = 0
            if connection is None:
                connection, retries = await self._connect(due, connect_timeout, announced, probe=probe)
                connecting = self._clock.monotonic()
        except BaseException:
            if probe:
                self.abandon_probe()
            raise
        return Lease(
            self,
            connection,
            probe=probe,
            t_queue=queued - started,
            t_connect=connecting - queued,
            retries=retries,
        )

    async def connect(self, dial: Dial[T], *, due: float, connect_timeout: float) -> tuple[T, int]:
        """Connect for what is no exchange (tcp mode), outside `pool.connections` but with all retries and the
        breaker. Return what ``dial`` did, and the number of further tries. Raises ``Failure`` as ``acquire``.
        """
        now = self._clock.monotonic()
        probe = self._admit(now)
        self._budget.request(now)
        try:
            outcome = await self._dial_again(dial, due, connect_timeout, probe=probe)
        except BaseException:
            if probe:
                self.abandon_probe()
            raise
        self.record(ok=True, probe=probe)
        return outcome

    def may_retry(self) -> bool:
        """Spend one retry of the budget that re-sends and new tries to connect share; false: none left."""
        now = self._clock.monotonic()
        self.count(now)
        return self._budget.take(now)

    def record(self, *, ok: bool, probe: bool) -> None:
        """Tell the breaker how a request ended (``Lease.report`` does). When it opens, those in line are
        refused like those that come."""
        now = self._clock.monotonic()
        self.count(now)
        if ok:
            self.last_well = now
        else:
            self.last_ill = now
        before = self.breaker.state
        self.breaker.record(ok, now, probe=probe)
        if before is BreakerState.CLOSED and self.breaker.state is BreakerState.OPEN:
            for place in self._chooser.empty_line():
                place.refused(self._refusal(self.breaker.retry_after(now), FAILING))

    def abandon_probe(self) -> None:
        """The breaker's probe ended without telling anything (``Lease.release`` says so)."""
        self.breaker.abandon_probe()

    def take_back(self, connection: UpstreamConnection, reusable: bool) -> None:
        """The lease on ``connection`` has ended (``Lease.release`` does this)."""
        reusable = reusable and connection.usable and not self.dialler.announces
        if reusable:
            connection.resume()
        now = self._clock.monotonic()
        self._act(self._chooser.release(connection, reusable, now))
        if reusable:
            self.due = min(self.due, now + self.upstream.idle_timeout, connection.retire_at)

    # Ending.

    def close(self) -> None:
        """Close what is idle, refuse who waits and who comes; what is in use closes at its release."""
        self._closed = True
        if self._checking is not None:
            self._checking.cancel()
        self._knocker.stop()
        for place in self._chooser.empty_line():
            place.refused(_draining())
        self._chooser.close()
        for connection in list(self._sockets):
            if not connection.in_flight:
                connection.abort()

    async def wait_closed(self) -> None:
        """Return once, after ``close``, every connection is closed and every lease released.

        A dial that is under way ends by its own time-out.
        """
        if self._checking is not None:
            await asyncio.wait({self._checking})
            if not self._checking.cancelled():
                self._checking.result()
        await self._knocker.wait_stopped()
        await self.dialler.close()
        while self._sockets or self._chooser.dialling:
            self._quiet.clear()
            await self._quiet.wait()
        self._deadlines.forget(self)

    # What the sweep calls.

    def expire(self) -> None:
        """Close idle connections that are old, and refuse who has waited too long."""
        outcome = self._chooser.expire(self._clock.monotonic())
        self.due = self._chooser.next_due()
        self._act(outcome)

    # What connections tell (upstream.Owner).

    def opened(self, connection: UpstreamConnection) -> None:
        """A connection stands."""
        self._sockets.add(connection)

    def spoiled(self, connection: UpstreamConnection) -> None:
        """An idle connection was closed by the upstream, or spoke unasked."""
        self._act(self._chooser.drop(connection))

    def gone(self, connection: UpstreamConnection) -> None:
        """A connection's socket is closed."""
        self._sockets.discard(connection)
        self._quiet.set()

    # Inside.

    def _admit(self, now: float) -> bool:
        """Raise ``Failure`` if the upstream must not be asked now; return whether this is the probe."""
        if self._closed:
            raise _draining()
        if not self.health.up:
            raise self._refusal(self.health.next_probe - now, self.health.reason)
        admission = self.breaker.admit(now)
        if admission is Admission.REFUSED:
            raise self._refusal(self.breaker.retry_after(now), FAILING)
        return admission is Admission.PROBE

    def _refusal(self, retry_after: float, reason: str) -> Failure:
        seconds = max(1, math.ceil(retry_after))
        detail = f"upstream {self.name} is not asked for {seconds} s: {reason}"
        return Failure(Source.UPSTREAM, "breaker_open", 503, detail, Resend.ANY, retry_after=seconds)

    async def _find(self, due: float, fresh: bool) -> UpstreamConnection | None:
        """Return a connection, or ``None`` with the right to dial one; waits in line if need be."""
        choice = self._chooser.choose(self._clock.monotonic(), fresh=fresh)
        self._discard(choice.close)
        if choice.connection is not None:
            return choice.connection
        if choice.dial:
            return None
        if self._chooser.line_full:
            detail = f"{self._config.waiting} requests wait for upstream {self.name} already"
            raise Failure(Source.PROXY, "pool_line_full", 503, detail, Resend.ANY)
        place = Place(due, fresh)
        self._chooser.join(place)
        self.due = min(self.due, due)
        try:
            connection = await place.future
        except asyncio.CancelledError:
            self._leave(place)
            raise
        if connection is not None and not connection.usable:
            # It died between the grant and this line.
            self._chooser.replace(connection)
            connection.abort()
            return None
        return connection

    def _leave(self, place: Place) -> None:
        """The one who waited was cancelled: what was granted just now goes to the next one."""
        if self._chooser.leave(place) or place.future.cancelled() or place.future.exception() is not None:
            return
        connection = place.future.result()
        if connection is None:
            self._act(self._chooser.undialled())
        else:
            self.take_back(connection, reusable=True)

    async def _connect(
        self, due: float, connect_timeout: float, announced: Announcement | None, *, probe: bool
    ) -> tuple[UpstreamConnection, int]:
        """Use the right to dial; return the connection and the number of further tries."""
        dial = partial(self.dialler.stream, self._new_connection, announced)
        try:
            connection, retries = await self._dial_again(dial, due, connect_timeout, probe=probe)
        except BaseException:
            self._act(self._chooser.undialled())
            raise
        age = self._config.max_age * self._rng.uniform(1 - AGE_JITTER, 1 + AGE_JITTER)
        connection.retire_at = connection.created + age
        self._act(self._chooser.dialled(connection))
        return connection, retries

    async def _dial_again(
        self, dial: Dial[T], due: float, connect_timeout: float, *, probe: bool
    ) -> tuple[T, int]:
        """Dial until it works, or until tries, time or budget are used up."""
        retries = 0
        while True:
            try:
                end = min(due, self._clock.monotonic() + connect_timeout)
                return await dial(end, retries), retries
            except Failure as failure:
                pause = self._clock.monotonic() + self._rng.uniform(*RETRY_JITTER)
                if self._closed or retries >= self._config.retries or pause >= due or not self.may_retry():
                    if failure.source is Source.UPSTREAM:
                        self.record(ok=False, probe=probe)
                        self._knocker.begin()
                    raise
                retries += 1
                await self._deadlines.sleep(pause)

    def _new_connection(self, address: SocketAddress) -> UpstreamConnection:
        return UpstreamConnection(
            self._deadlines,
            self,
            self._open_exchange,
            address=str(address),
            # Reading must not pause before a head is complete, or longer than is allowed.
            read_limit=max(self._limits.read_buffer, self._limits.answer_head_bytes + 1),
            write_limit=self._limits.write_buffer,
        )

    async def _connect_for_probe(self, due: float) -> UpstreamConnection:
        """Open a connection that the chooser knows nothing of."""
        connection = await self.dialler.stream(self._new_connection, None, due)
        connection.in_flight = 1
        return connection

    def _act(self, outcome: Outcome[UpstreamConnection, Place]) -> None:
        self._quiet.set()
        if outcome is NOTHING:
            return
        self._discard(outcome.close)
        for place, connection in outcome.grants:
            place.granted(connection)
        for place in outcome.late:
            detail = f"no connection to upstream {self.name} became free in time"
            place.refused(Failure(Source.UPSTREAM, "pool_wait_timeout", 503, detail, Resend.ANY))

    def _discard(self, connections: Iterable[UpstreamConnection]) -> None:
        """Cut connections that carry nothing. One that a tunnel has closed may send its last bytes."""
        for connection in connections:
            if self._closed or not connection.transport.is_closing():
                connection.abort()


def _draining() -> Failure:
    return Failure(Source.PROXY, "draining", 503, "the proxy is shutting down", Resend.ANY)
