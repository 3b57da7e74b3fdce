"""When which worker is started, told to drain, killed and replaced: decided here, done in parent.py.

Theory of operation. The fleet hears what happened, with the moment, and returns commands; it knows no
process, socket or clock. Each worker is in one phase::

    STARTING ──ready──▶ SERVING ──its generation is replaced, or a stop──▶ DRAINING ──▶ ended
        │                  └──────────dies──────────▶ ended (a successor after a delay)
        └──dies, or is not ready in time──▶ ended

and each generation in one place: ``upcoming`` until all its workers are ready, then ``current``, then
``leaving`` until the last has ended. If a worker of the upcoming generation dies, the whole generation
is given up: the current one goes on serving, or, where there is none yet, the start has failed.

A worker that serves says each second that its event loop turns; one that does not is stuck, and is killed.
A worker that died is replaced after a delay of its slot: 1 s, doubled each time up to 30 s, and 1 s again
once a worker has served for a minute: a fault that is met at once does not burn the CPU, and one that
comes once a day costs a second. Whoever takes too long (to start, to drain) is killed.

Memory: at most ``workers.MAX_DRAINING`` + 2 generations.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from proxy.clock import NEVER
from proxy.config.schema import LogLevel
from proxy.workers import MAX_DRAINING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FIRST_DELAY = 1.0
MAX_DELAY = 30.0
"""Seconds before a worker that died is replaced: the first time, and at most."""

HEALTHY = 60.0
"""Seconds of service after which a death counts as the first."""

START_PATIENCE = 60.0
"""Seconds until a started worker must be ready; a busy machine needs a few."""

DRAIN_MARGIN = 10.0
"""Seconds beyond the configured drain after which a worker that has not ended is stuck."""

ALIVE_PATIENCE = 15.0
"""Seconds without a sign of life (one comes each second) after which a worker that serves is stuck: half of
what systemd/posthog-proxy.service allows the parent."""

CLOSE_PATIENCE = 5.0
"""Seconds in which a worker that is told to end at once must have ended."""


class Phase(enum.Enum):
    """Where a worker is; see the module."""

    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"


class Backoff:
    """The delays of one slot."""

    def __init__(self) -> None:
        self._next = FIRST_DELAY

    def after(self, served: float) -> float:
        """Return the seconds to wait after the death of a worker that had served for ``served`` seconds."""
        delay = FIRST_DELAY if served >= HEALTHY else self._next
        self._next = min(2 * delay, MAX_DELAY)
        return delay


@dataclass(slots=True, eq=False)
class Worker:
    """One process. ``number`` is its slot, from 1. It is in its phase since ``since``; if it is still there
    at ``due``, it is stuck. ``accepts``: from its being ready until it says that it has retired."""

    generation: Generation
    number: int
    since: float
    due: float
    phase: Phase = Phase.STARTING
    accepts: bool = False


@dataclass(slots=True, eq=False)
class Generation:
    """The workers of one configuration. ``drain`` is the longest time in seconds that theirs may take,
    ``restarts`` when which slot gets a worker again."""

    number: int
    size: int
    drain: float
    workers: dict[int, Worker] = field(default_factory=dict)
    restarts: dict[int, float] = field(default_factory=dict)
    backoffs: dict[int, Backoff] = field(default_factory=dict)

    def __repr__(self) -> str:
        phases = ", ".join(f"{number} {worker.phase.name}" for number, worker in self.workers.items())
        return f"<Generation {self.number} of {self.size}: {phases}>"

    @property
    def serving(self) -> list[Worker]:
        """The workers that accept."""
        return [worker for worker in self.workers.values() if worker.phase is Phase.SERVING]


@dataclass(frozen=True, slots=True)
class Start:
    """Start the process of this worker."""

    worker: Worker


@dataclass(frozen=True, slots=True)
class Promote:
    """This generation serves now, instead of the one before."""

    generation: Generation
    before: Generation | None


@dataclass(frozen=True, slots=True)
class Replaced:
    """Nobody of the generation before accepts any more."""


@dataclass(frozen=True, slots=True)
class Share:
    """Tell the serving workers of this generation on which sockets each of them accepts now."""

    generation: Generation


@dataclass(frozen=True, slots=True)
class TellDrain:
    """Tell the worker to drain; ``handover``: others accept already."""

    worker: Worker
    handover: bool


@dataclass(frozen=True, slots=True)
class TellClose:
    """Tell the worker to end at once."""

    worker: Worker


@dataclass(frozen=True, slots=True)
class Kill:
    """End the process by force."""

    worker: Worker


@dataclass(frozen=True, slots=True)
class Note:
    """Write a line to the error log."""

    level: LogLevel
    event: str
    fields: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class GiveUp:
    """This generation will never serve."""

    generation: Generation


@dataclass(frozen=True, slots=True)
class End:
    """Nothing is left."""


Command: TypeAlias = Start | Promote | Replaced | Share | TellDrain | TellClose | Kill | Note | GiveUp | End


class Fleet:
    """See the module. An iterator of commands must be run to its end before the next call."""

    def __init__(self) -> None:
        self.upcoming: Generation | None = None
        self.current: Generation | None = None
        self.leaving: list[Generation] = []
        self.stopping = False
        self._begun = 0
        self._ticked = NEVER
        self._replacing: Generation | None = None

    def __repr__(self) -> str:
        return f"<Fleet current={self.current} upcoming={self.upcoming} leaving={self.leaving}>"

    @property
    def may_begin(self) -> bool:
        """Whether another generation may begin now."""
        return not self.stopping and self.upcoming is None and len(self.leaving) < MAX_DRAINING

    @property
    def due(self) -> float:
        """The next moment at which ``tick`` has something to do."""
        restarts = self.current.restarts.values() if self.current is not None else ()
        return min([*(worker.due for worker in self._workers()), *restarts], default=NEVER)

    def begin(self, size: int, drain: float, now: float) -> Iterator[Command]:
        """Begin a generation; ``may_begin`` must hold."""
        self._begun += 1
        self.upcoming = Generation(self._begun, size, drain)
        for number in range(1, size + 1):
            yield self._start(self.upcoming, number, now)

    def ready(self, worker: Worker, now: float) -> Iterator[Command]:
        """A worker could accept."""
        if worker.phase is not Phase.STARTING:
            return
        worker.phase, worker.since, worker.accepts = Phase.SERVING, now, True
        worker.due = now + ALIVE_PATIENCE
        generation = worker.generation
        if generation is self.current:
            yield Share(generation)
        elif len(generation.serving) == generation.size:
            yield from self._promote(generation, now)

    def alive(self, worker: Worker, now: float) -> None:
        """The event loop of a worker turns."""
        if worker.phase is Phase.SERVING:
            worker.due = now + ALIVE_PATIENCE

    def retired(self, worker: Worker) -> Iterator[Command]:
        """A worker that hands over accepts no more."""
        worker.accepts = False
        yield from self._settle()

    def ended(
        self, worker: Worker, how: Mapping[str, object], now: float, *, clean: bool
    ) -> Iterator[Command]:
        """A process has ended. ``how`` is for the log; ``clean``: by itself and with status 0."""
        generation = worker.generation
        del generation.workers[worker.number]
        about = {"worker": worker.number, **how}
        if worker.phase is Phase.DRAINING:
            level, event = (LogLevel.DEBUG, "worker_ended") if clean else (LogLevel.ERROR, "worker_died")
            yield Note(level, event, about)
        elif generation is self.current:
            backoff = generation.backoffs.setdefault(worker.number, Backoff())
            delay = backoff.after(now - worker.since if worker.phase is Phase.SERVING else 0.0)
            generation.restarts[worker.number] = now + delay
            yield Note(LogLevel.ERROR, "worker_died", {**about, "restart_in": delay})
            yield Share(generation)
        else:
            yield Note(LogLevel.ERROR, "worker_died", about)
            yield from self._give_up(generation, now)
        yield from self._settle()

    def tick(self, now: float) -> Iterator[Command]:
        """Do what is due. Where nobody asked for long, the parent itself was stopped, or the whole machine
        was: that the workers have not been heard says nothing then."""
        if now - self._ticked > ALIVE_PATIENCE / 2:
            for worker in self._workers():
                self.alive(worker, now)
        self._ticked = now
        for worker in [worker for worker in self._workers() if worker.due <= now]:
            worker.due = NEVER
            yield Note(LogLevel.ERROR, "worker_stuck", {"worker": worker.number, "phase": worker.phase.value})
            yield Kill(worker)
        current = self.current
        if current is not None:
            for number in [number for number, due in current.restarts.items() if due <= now]:
                del current.restarts[number]
                yield self._start(current, number, now)

    def stop(self, now: float) -> Iterator[Command]:
        """All drain."""
        self.stopping = True
        for generation in self.leaving:
            # They handed over; now their idle connections are closed too.
            yield from (TellDrain(worker, handover=False) for worker in generation.workers.values())
        for each in (self.current, self.upcoming):
            if each is not None:
                yield from self._leave(each, now, handover=False)
        self.current = self.upcoming = None
        yield from self._settle()

    def abort(self, now: float) -> Iterator[Command]:
        """All end at once; ``stop`` came before."""
        for worker in self._workers():
            worker.due = min(worker.due, now + CLOSE_PATIENCE)
            yield TellClose(worker)

    def _workers(self) -> list[Worker]:
        generations = [self.current, self.upcoming, *self.leaving]
        return [worker for each in generations if each is not None for worker in each.workers.values()]

    def _start(self, generation: Generation, number: int, now: float) -> Start:
        worker = Worker(generation, number, now, now + START_PATIENCE)
        generation.workers[number] = worker
        return Start(worker)

    def _promote(self, generation: Generation, now: float) -> Iterator[Command]:
        before, self.current, self.upcoming = self.current, generation, None
        yield Promote(generation, before)
        yield Share(generation)
        if before is not None:
            self._replacing = before
            yield from self._leave(before, now, handover=True)
            yield from self._settle()

    def _leave(self, generation: Generation, now: float, *, handover: bool) -> Iterator[Command]:
        """Those that serve drain, those that only start end; nobody is replaced any more."""
        self.leaving.append(generation)
        generation.restarts.clear()
        for worker in generation.workers.values():
            if worker.phase is Phase.SERVING:
                worker.due = now + generation.drain + DRAIN_MARGIN
                yield TellDrain(worker, handover)
            else:
                worker.due = now + CLOSE_PATIENCE
                yield TellClose(worker)
            worker.phase, worker.since = Phase.DRAINING, now

    def _give_up(self, generation: Generation, now: float) -> Iterator[Command]:
        """A worker of the upcoming generation has died before all were ready."""
        self.upcoming = None
        self.stopping = self.current is None
        yield GiveUp(generation)
        for worker in generation.workers.values():
            worker.phase = Phase.STARTING  # it has served nobody: there is nothing to drain
        yield from self._leave(generation, now, handover=False)

    def _settle(self) -> Iterator[Command]:
        """Look whether a handover is complete, and forget the generations that are over."""
        replacing = self._replacing
        if replacing is not None and not any(worker.accepts for worker in replacing.workers.values()):
            self._replacing = None
            yield Replaced()
        self.leaving = [generation for generation in self.leaving if generation.workers]
        if self.stopping and not self.leaving:
            yield End()
