"""The fleet under any order of events: nobody is lost, nothing grows, everything ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from proxy.clock import NEVER
from proxy.workers import MAX_DRAINING
from proxy.workers.fleet import (
    MAX_DELAY,
    End,
    Fleet,
    GiveUp,
    Kill,
    Phase,
    Promote,
    Start,
    TellClose,
    TellDrain,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proxy.workers.fleet import Command, Generation, Worker

sizes = st.integers(1, 3)
indices = st.integers(0, 50)


class FleetMachine(RuleBasedStateMachine):
    """Processes are entries of ``alive``; what the fleet commands is done to them, or not done yet."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.fleet = Fleet()
        self.alive: list[Worker] = []
        self.served: Generation | None = None
        self.given_up: set[Generation] = set()
        self.stopped = self.over = False

    def do(self, commands: Iterable[Command]) -> None:
        for command in list(commands):
            assert not self.over
            match command:
                case Start(worker):
                    assert all(
                        (other.generation, other.number) != (worker.generation, worker.number)
                        for other in self.alive
                    )
                    self.alive.append(worker)
                case Promote(generation, before):
                    assert before is self.served
                    assert generation not in self.given_up
                    assert len(generation.serving) == generation.size
                    self.served = generation
                case GiveUp(generation):
                    assert generation is not self.served
                    self.given_up.add(generation)
                case TellDrain(worker) | TellClose(worker) | Kill(worker):
                    assert worker in self.alive
                    if not self.stopped and isinstance(command, TellDrain):
                        assert worker.generation is not self.served
                case End():
                    assert not self.alive
                    self.over = True

    def any_of(self, index: int, *phases: Phase) -> Worker | None:
        workers = [worker for worker in self.alive if worker.phase in phases]
        return workers[index % len(workers)] if workers else None

    @initialize(size=sizes)
    def begin(self, size: int) -> None:
        self.do(self.fleet.begin(size, 25.0, self.now))

    @precondition(lambda self: self.fleet.may_begin)
    @rule(size=sizes)
    def reload(self, size: int) -> None:
        self.do(self.fleet.begin(size, 25.0, self.now))

    @rule(index=indices)
    def ready(self, index: int) -> None:
        worker = self.any_of(index, Phase.STARTING, Phase.DRAINING)  # it may be late
        if worker is not None:
            self.do(self.fleet.ready(worker, self.now))

    @rule(index=indices)
    def retire(self, index: int) -> None:
        worker = self.any_of(index, Phase.DRAINING)
        if worker is not None:
            self.do(self.fleet.retired(worker))

    @rule(index=indices, clean=st.booleans())
    def end(self, index: int, clean: bool) -> None:
        worker = self.any_of(index, *Phase)
        if worker is not None:
            self.alive.remove(worker)
            self.do(self.fleet.ended(worker, {}, self.now, clean=clean))

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0, 7.0, 40.0, 100.0]))
    def turn(self, seconds: float) -> None:
        self.now += seconds
        self.do(self.fleet.tick(self.now))
        assert self.fleet.due > self.now

    @precondition(lambda self: not self.stopped and not self.fleet.stopping)
    @rule()
    def stop(self) -> None:
        self.stopped = True
        self.do(self.fleet.stop(self.now))

    @precondition(lambda self: self.stopped and not self.over)
    @rule()
    def abort(self) -> None:
        self.do(self.fleet.abort(self.now))

    @invariant()
    def nothing_grows(self) -> None:
        generations = {worker.generation for worker in self.alive}
        assert len(generations) <= MAX_DRAINING + 2
        assert len(self.fleet.leaving) <= MAX_DRAINING + 2

    @invariant()
    def whoever_served_goes_on_until_the_stop(self) -> None:
        current = self.fleet.current
        assert current is (None if self.stopped else self.served)
        if current is not None:
            for number in range(1, current.size + 1):
                there = number in current.workers
                assert there != (number in current.restarts)
                assert there or current.restarts[number] <= self.now + MAX_DELAY

    @invariant()
    def nobody_may_take_for_ever(self) -> None:
        limited = [worker for worker in self.alive if worker.phase is not Phase.SERVING]
        stuck = [worker for worker in limited if worker.due == NEVER]  # those were killed
        assert self.fleet.due < NEVER or len(stuck) == len(limited)

    def teardown(self) -> None:
        """A stop ends everything once all processes have ended."""
        if not self.stopped and not self.fleet.stopping:
            self.stop()
        while self.alive:
            self.end(0, clean=True)
        assert self.over


TestFleet = FleetMachine.TestCase
TestFleet.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
