"""Delivering what was kept: oldest first, behind live traffic, at least once.

::

    nothing kept ─▶ wait for ``wake``
    kept ─▶ a window of the oldest ─▶ all of it delivered ─▶ the next window
                  │ the upstream is ill, late, away, or says 429
                  ▼
            pause (doubling, or as long as it said, or until a live request has reached it) ─▶ a probe ─▶ …

There is a queue for each upstream, and one for the recordings that it is to get (``queue_name``), each with a
delivery of its own.

Requests of one client go one after the other (but see ``BUSY``), those of different clients side by side: at
first one, then twice as many after each window that went well, up to ``MOST_IN_FLIGHT``. When deliveries
become slower, or live requests wait for a connection, half as many: what was kept has time. A record goes
with a 2xx; one that PostHog refuses for good becomes a dead letter; anything else stays where it is. Between
a 2xx and the disk's word that the record is gone the process may end: then PostHog hears it twice, and tells
by the uuid.

Memory: twice ``WINDOW`` records, with a MiB of bodies at most, and what ``MOST_IN_FLIGHT`` couriers hold
(courier.py).
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from proxy.clock import NEVER
from proxy.errors import Failure
from proxy.net.breaker import BreakerState
from proxy.spool.courier import Courier, PlainAnswers, Unsendable
from proxy.spool.pace import Pace
from proxy.spool.record import SpoolFailed, SpoolFull, names_person, queues_of, upstream_of

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping

    from proxy.clock import Deadlines
    from proxy.config.schema import TimeoutsConfig
    from proxy.net.pool import UpstreamPool
    from proxy.spool.courier import Correct
    from proxy.spool.record import Keeper, RecordId, Stored

T = TypeVar("T")

WINDOW = 64
"""Records that are read at a time: in less than a millisecond of a core that live requests may need."""

MOST_FORGETTING = 4
"""Windows of which the disk has yet to forget what was delivered."""

MOST_IN_FLIGHT = 64
"""Requests that are being delivered at a time from one queue by one process: 3,000 a second where each
takes 20 ms."""

MOST_LARGE = 8
"""The same while bodies are among them that have to be read from the disk one by one."""

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds until the next try after a failure; doubled each time."""

BUSY = 16
"""Records of one client in a window, persons unknown (compressed), that make it a server, or many behind one
address: one after the other, they would take a hundred times as long as they took to come. They are begun in
their order."""

LINE = 4
"""Of those, how many go one after the other."""

LOOK_INTERVAL = 1.0
"""Seconds between two looks, in a pause, at how live requests fare."""

MOST_A_TURN = 1
"""Requests that are begun in one turn of the event loop, for the sake of live ones: a compressed event takes
0.1 ms."""

MOST_ATTEMPTS = 50
"""Tries after which a request that fails by itself, while its upstream can be reached, is a dead letter."""

SUSPICIOUS = 5
"""Tries after which a request may be the reason itself why it fails."""

SUSPICIOUS_ALONE = 25
"""The same where only other routes can be asked besides."""

SLOWER = 2.0
"""So many times the usual time of a delivery means that the upstream has too much to do."""

_REFUSED = frozenset({400, 401, 403, 404, 405, 410, 411, 413, 414, 415, 422, 431})
"""What no further try would change."""

_MOST_OF_A_REASON = 200


@dataclass(slots=True)
class Told:
    """What became of a delivery to an upstream, for counters: ``outcome`` is delivered, refused, postponed or
    bug, with the ``error``."""

    upstream: str
    outcome: str
    detail: str = ""
    error: Exception | None = None


class Ill(Exception):
    """The upstream takes nothing now. ``wait``: seconds, where it or the pool said so. ``firm``: it was
    asked, and may be well for all but this request, so that no live one tells anything."""

    def __init__(self, detail: str, wait: float | None = None, *, firm: bool = False) -> None:
        super().__init__(detail)
        self.wait = wait
        self.firm = firm


class Replay:
    """Delivers all queues of one keeper.

    :param default: the upstream that takes what was kept for one that is no longer configured.
    :param correct: puts right the times in a request that is late.
    :param tell: told of each delivery.
    """

    def __init__(
        self,
        keeper: Keeper,
        pools: Mapping[str, UpstreamPool],
        default: str,
        deadlines: Deadlines,
        timeouts: TimeoutsConfig,
        *,
        correct: Correct,
        tell: Callable[[Told], None],
    ) -> None:
        self._keeper = keeper
        self._pools = pools
        self._default = default
        self._shared = (deadlines, timeouts, correct, tell)
        self._feeders = {name: self._feeder(name) for upstream in pools for name in queues_of(upstream)}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def __repr__(self) -> str:
        return f"<Replay {list(self._feeders.values())!r}>"

    def start(self) -> None:
        """Begin with what is there."""
        self.wake()
        for name, feeder in self._feeders.items():
            if name not in self._tasks:
                self._tasks[name] = asyncio.get_running_loop().create_task(feeder.run())

    def wake(self, queue: str | None = None) -> None:
        """Something was kept in a queue of a configured upstream, or adopted (``None``)."""
        feeders = self._feeders.values() if queue is None else [self._feeders[queue]]
        for feeder in feeders:
            feeder.wake()

    def look(self) -> None:
        """Look for records for upstreams that are no longer configured, every now and then."""
        for name in self._keeper.figures().upstreams.keys() - self._feeders.keys():
            self._feeders[name] = self._feeder(name)
        self.start()

    def _feeder(self, name: str) -> Feeder:
        pool = self._pools.get(upstream_of(name)) or self._pools[self._default]
        return Feeder(name, self._keeper, pool, *self._shared)

    def now(self) -> None:
        """Do not wait for the end of a pause: an operator wishes it."""
        for feeder in self._feeders.values():
            feeder.wake(at_once=True)

    async def stop(self) -> None:
        """Stop where it is; what is in flight was not delivered, as far as is known."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._tasks.clear()


class Feeder:
    """The delivery of one queue."""

    def __init__(
        self,
        name: str,
        keeper: Keeper,
        pool: UpstreamPool,
        deadlines: Deadlines,
        timeouts: TimeoutsConfig,
        correct: Correct,
        tell: Callable[[Told], None],
    ) -> None:
        self.name = name
        self._upstream = upstream_of(name)
        self.in_flight = 1
        self.pause = 0.0
        self._keeper = keeper
        self._pool = pool
        self._deadlines = deadlines
        self._timeouts = timeouts
        self._correct = correct
        self._tell = tell
        self._woken = False
        self._waiter: asyncio.Future[None] | None = None
        self._pausing = False
        self._usual: float | None = None
        self._slowest = 0.0
        self._answers = PlainAnswers()
        self._pace = Pace(MOST_A_TURN)
        self._couriers = [self._courier()]

    def __repr__(self) -> str:
        return f"<Feeder {self.name} in_flight={self.in_flight} pause={self.pause}>"

    def wake(self, *, at_once: bool = False) -> None:
        """There may be something to deliver. ``at_once``: also from a pause."""
        self._woken = True
        waiter = self._waiter
        if waiter is not None and not waiter.done() and (at_once or not self._pausing):
            waiter.set_result(None)

    async def run(self) -> None:
        """Deliver for ever."""
        while True:
            if not self._woken:
                await self._wait(NEVER)
            self._woken = False
            try:
                while await self._window():
                    pass
            except Ill as ill:
                self._woken = True
                await self._pause(ill.wait, firm=ill.firm)
            except (SpoolFailed, SpoolFull):  # the disk: told by the store; the records are still there
                self._woken = True
                await self._pause(None)
            except Exception as error:  # noqa: BLE001 - a bug of ours must not end the delivery for ever
                self._tell(Told(self._upstream, "bug", error=error))
                self._woken = True
                await self._pause(LONGEST_PAUSE)

    async def _pause(self, asked: float | None, *, firm: bool = False) -> None:
        """Wait: doubled each time, or as long as was asked; unless that is ``firm`` (``Ill``), no longer than
        until a live request went well."""
        clock = self._deadlines.clock
        self.in_flight = 1
        self.pause = min(LONGEST_PAUSE, asked or max(FIRST_PAUSE, 2 * self.pause))
        began = clock.monotonic()
        due = began + self.pause
        self._pausing = True
        try:
            while clock.monotonic() < due and not (self._well_since(began) and not firm):
                if await self._wait(min(due, clock.monotonic() + LOOK_INTERVAL)):
                    return
        finally:
            self._pausing = False

    def _well_since(self, moment: float) -> bool:
        well = self._pool.last_well
        return well is not None and well > moment and self._pool.breaker.state is BreakerState.CLOSED

    async def _wait(self, due: float) -> bool:
        """Wait to be woken; false: nobody did until then."""
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._deadlines.wait(self._waiter, due, TimeoutError)
        except TimeoutError:
            return False
        finally:
            self._waiter = None
        return True

    # A window of records.

    async def _window(self) -> bool:
        """Deliver the oldest records, and window after window of those behind them; false: there are none.
        Raises ``Ill`` once what was begun is done.

        While one window is delivered the next is read and the last one is forgotten, so that nobody waits for
        the disk.
        """
        if self.pause:
            return await self._probe()
        records = await self._keeper.oldest(self.name, WINDOW)
        if not records:
            return False
        ahead: asyncio.Task[list[Stored]] | None = None
        forgetting: deque[asyncio.Task[None]] = deque()
        try:
            while records:
                if len(records) == WINDOW:
                    ahead = _begun(self._keeper.oldest(self.name, WINDOW, records[-1].id))
                delivered: list[RecordId] = []
                try:
                    await self._side_by_side(records, delivered)
                finally:
                    if delivered:
                        forgetting.append(_begun(self._keeper.delivered(delivered)))
                if len(forgetting) > MOST_FORGETTING:
                    await forgetting.popleft()
                records, ahead = [] if ahead is None else await ahead, None
        finally:
            if ahead is not None:
                ahead.cancel()
            await asyncio.shield(asyncio.gather(*forgetting))
        return True

    async def _probe(self) -> bool:
        """Deliver the oldest record, to see whether the upstream is well again; false: there is none.

        One that has failed often may be what the upstream cannot take, while it takes all else: then another
        one is asked first, and if that is taken and the suspect still is not, it is a dead letter. What other
        routes take proves little, as other services may be behind them: it must have failed much oftener.
        """
        records = await self._keeper.oldest(self.name, WINDOW)
        if not records:
            return False
        oldest, *others = records
        if oldest.attempts < SUSPICIOUS or not others:
            await self._alone(oldest)
        else:
            like = [other for other in others if other.route == oldest.route]
            elses = [other for other in like if other.client != oldest.client]  # whose order is another one
            await self._alone((elses or like or others)[0])
            try:
                await self._alone(oldest)
            except Ill as ill:
                if not like and oldest.attempts < SUSPICIOUS_ALONE:
                    raise
                reason = f"failed {oldest.attempts + 1} times while others were taken: {ill}"
                await self._keeper.set_aside(oldest.id, 0, reason)
                self._tell(Told(self._upstream, "refused", str(ill)))
        self.pause = 0.0
        return True

    async def _alone(self, stored: Stored) -> None:
        if await self._deliver(self._couriers[0], stored):
            await self._keeper.delivered([stored.id])

    async def _side_by_side(self, records: list[Stored], delivered: list[RecordId]) -> None:
        """Several couriers, each with one client's records after the other's. When one finds the upstream
        ill, the others end what they have begun. Raises ``Ill`` then."""
        self._slowest = 0.0
        by_client = _by_client(records)
        most = MOST_LARGE if any(stored.inline is None for stored in records) else MOST_IN_FLIGHT
        count, lines = min(self.in_flight, most, len(by_client)), iter(by_client)
        ill: list[BaseException] = []

        async def carry(courier: Courier) -> None:
            """The records of a client in order, then those of the next client."""
            try:
                for line in lines:
                    for stored in line:
                        await self._pace.turn()
                        if ill:
                            return
                        if await self._deliver(courier, stored):
                            delivered.append(stored.id)
            except Exception as error:  # noqa: BLE001 - raised below, once the others have ended
                ill.append(error)

        self._couriers += [self._courier() for _ in range(count - len(self._couriers))]
        await asyncio.gather(*map(carry, self._couriers[:count]))
        if ill:
            raise ill[0]
        self._adapt()

    def _courier(self) -> Courier:
        return Courier(
            self._keeper, self._pool, self._deadlines, self._timeouts, self._correct, self._answers
        )

    def _adapt(self) -> None:
        slowest, usual = self._slowest, self._usual
        self._usual = slowest if usual is None else min(slowest, 0.8 * usual + 0.2 * slowest)
        slower = usual is not None and slowest > SLOWER * usual + 0.01
        if slower or self._pool.state.waiting:
            self.in_flight = max(1, self.in_flight // 2)
        else:
            self.in_flight = min(MOST_IN_FLIGHT, 2 * self.in_flight)

    # One record.

    async def _deliver(self, courier: Courier, stored: Stored) -> bool:
        """Send one; true: it may be forgotten. Raises ``Ill``."""
        started = self._deadlines.clock.monotonic()
        try:
            answer = await courier.ask(stored)
        except Unsendable as unsendable:
            await self._keeper.set_aside(stored.id, 0, str(unsendable)[:_MOST_OF_A_REASON])
            self._tell(Told(self._upstream, "refused", "unsendable"))
            return False
        except Failure as failure:
            await self._put_off(stored, failure)
            detail = f"{failure.kind}: {failure.detail}"
            raise Ill(detail, failure.retry_after, firm=not _was_not_asked(failure)) from failure
        self._slowest = max(self._slowest, self._deadlines.clock.monotonic() - started)
        if 200 <= answer.status < 300 and not answer.page:
            self._tell(Told(self._upstream, "delivered"))
            return True
        if answer.status in _REFUSED:
            await self._keeper.set_aside(stored.id, answer.status, f"the upstream answered {answer.status}")
            self._tell(Told(self._upstream, "refused", str(answer.status)))
            return False
        await self._keeper.postponed(stored.id)
        self._tell(Told(self._upstream, "postponed", str(answer.status)))
        page = " with a page, which no event endpoint has" if answer.page else ""
        raise Ill(f"the upstream answered {answer.status}{page}", answer.wait, firm=True)

    async def _put_off(self, stored: Stored, failure: Failure) -> None:
        """A failure that the request itself may be the cause of counts against it."""
        self._tell(Told(self._upstream, "postponed", failure.kind))
        if _was_not_asked(failure):
            return
        if stored.attempts + 1 >= MOST_ATTEMPTS:
            await self._keeper.set_aside(stored.id, 0, f"{MOST_ATTEMPTS} tries failed: {failure.kind}")
        else:
            await self._keeper.postponed(stored.id)


def _was_not_asked(failure: Failure) -> bool:
    """Whether the upstream was not reached: the request is not to blame."""
    return failure.kind == "breaker_open" or failure.kind.startswith(("connect", "dns", "pool_", "draining"))


def _begun(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    return asyncio.get_running_loop().create_task(work)


def _by_client(records: Iterable[Stored]) -> list[list[Stored]]:
    """Return lines of records that are to go one after the other."""
    lines: dict[bytes, list[Stored]] = {}
    for stored in records:
        lines.setdefault(stored.client, []).append(stored)
    found: list[list[Stored]] = []
    for client, line in lines.items():
        if len(line) > BUSY and not names_person(client):
            count = -(-len(line) // LINE)
            found += [line[number::count] for number in range(count)]
        else:
            found.append(line)
    return found
