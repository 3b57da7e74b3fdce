"""When workers are started, drained, killed and replaced: events in, commands out, no process anywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from proxy.config.schema import LogLevel
from proxy.workers import MAX_DRAINING
from proxy.workers.fleet import (
    ALIVE_PATIENCE,
    CLOSE_PATIENCE,
    DRAIN_MARGIN,
    HEALTHY,
    START_PATIENCE,
    Backoff,
    End,
    Fleet,
    GiveUp,
    Kill,
    Note,
    Phase,
    Promote,
    Replaced,
    Share,
    Start,
    TellClose,
    TellDrain,
)
from tests.support.clock import HandClock

if TYPE_CHECKING:
    from collections.abc import Collection

    from proxy.workers.fleet import Command, Worker

DRAIN = 25.0


class Stage:
    """A fleet, a clock that is turned by hand, and the workers in the order of their start."""

    def __init__(self, size: int = 2) -> None:
        self.clock = HandClock()
        self.fleet = Fleet()
        self.workers: list[Worker] = []
        self.begin(size)

    def begin(self, size: int = 2) -> list[Worker]:
        """Begin a generation; its workers."""
        assert self.fleet.may_begin
        commands = list(self.fleet.begin(size, DRAIN, self.clock.now))
        assert {type(command) for command in commands} == {Start}
        return self._started(commands)

    def serving(self) -> list[Worker]:
        """All workers of the upcoming generation get ready."""
        upcoming = self.fleet.upcoming
        assert upcoming is not None
        workers = list(upcoming.workers.values())
        for worker in workers:
            self.ready(worker)
        assert self.fleet.current is upcoming
        return workers

    def ready(self, worker: Worker) -> list[Command]:
        return list(self.fleet.ready(worker, self.clock.now))

    def ended(self, worker: Worker, *, clean: bool = False) -> list[Command]:
        return list(self.fleet.ended(worker, {"pid": 7}, self.clock.now, clean=clean))

    def turn(self, seconds: float, silent: Collection[Worker] = ()) -> list[Command]:
        """Let time pass; all workers but the ``silent`` ones say that they are alive."""
        self.clock.now += seconds
        for worker in self.workers:
            if worker not in silent:
                self.fleet.alive(worker, self.clock.now)
        commands = list(self.fleet.tick(self.clock.now))
        self._started(commands)
        return commands

    def _started(self, commands: list[Command]) -> list[Worker]:
        started = [command.worker for command in commands if isinstance(command, Start)]
        self.workers += started
        return started


@pytest.fixture
def stage() -> Stage:
    """Two workers that are only starting."""
    return Stage()


# Starting.


def test_a_generation_serves_once_all_its_workers_are_ready(stage: Stage) -> None:
    first, second = stage.workers
    assert (first.number, second.number) == (1, 2)
    assert stage.ready(second) == []
    assert stage.fleet.current is None
    generation = first.generation
    assert stage.ready(first) == [Promote(generation, None), Share(generation)]
    assert stage.fleet.current is generation
    assert stage.fleet.due == stage.clock.now + ALIVE_PATIENCE
    assert repr(generation) == "<Generation 1 of 2: 1 SERVING, 2 SERVING>"


def test_a_start_that_fails_ends_everything(stage: Stage) -> None:
    first, second = stage.workers
    stage.ready(first)
    assert stage.ended(second) == [
        Note(LogLevel.ERROR, "worker_died", {"worker": 2, "pid": 7}),
        GiveUp(first.generation),
        TellClose(first),
    ]
    assert stage.ready(first) == []
    assert stage.ended(first, clean=True) == [
        Note(LogLevel.DEBUG, "worker_ended", {"worker": 1, "pid": 7}),
        End(),
    ]
    assert not stage.fleet.may_begin


def test_a_worker_that_is_not_ready_in_time_is_killed(stage: Stage) -> None:
    first, second = stage.workers
    stage.ready(first)
    assert stage.turn(START_PATIENCE - 1) == []
    assert stage.turn(1) == [
        Note(LogLevel.ERROR, "worker_stuck", {"worker": 2, "phase": "starting"}),
        Kill(second),
    ]
    assert stage.turn(100) == []  # once


def test_a_worker_that_is_not_heard_is_killed(stage: Stage) -> None:
    first, second = stage.serving()
    heard = 0.0
    while heard + 1 < ALIVE_PATIENCE:
        assert stage.turn(1, silent=[first]) == []
        heard += 1
    assert stage.turn(1, silent=[first]) == [
        Note(LogLevel.ERROR, "worker_stuck", {"worker": 1, "phase": "serving"}),
        Kill(first),
    ]
    assert second.due > stage.clock.now
    assert stage.turn(1, silent=[first]) == []  # once
    (died, _) = stage.ended(first)
    assert isinstance(died, Note)
    assert died.event == "worker_died"


def test_nobody_is_killed_because_the_parent_itself_was_stopped(stage: Stage) -> None:
    workers = stage.serving()
    stage.turn(1)
    assert stage.turn(3600, silent=workers) == []
    assert stage.turn(ALIVE_PATIENCE / 2, silent=workers) == []
    assert [type(command) for command in stage.turn(ALIVE_PATIENCE / 2, silent=workers)] == [Note, Kill] * 2


def test_one_that_drains_has_the_time_of_the_drain(stage: Stage) -> None:
    workers = stage.serving()
    list(stage.fleet.stop(stage.clock.now))
    stage.turn(1)
    for _ in range(int(DRAIN)):
        assert stage.turn(1, silent=workers) == []


# Dying and coming again.


def test_a_worker_that_dies_is_replaced_after_a_delay_and_its_share_is_given_to_others(stage: Stage) -> None:
    first, _ = stage.serving()
    generation = first.generation
    stage.clock.now += 10
    assert stage.ended(first) == [
        Note(LogLevel.ERROR, "worker_died", {"worker": 1, "pid": 7, "restart_in": 1.0}),
        Share(generation),
    ]
    assert [worker.number for worker in generation.serving] == [2]
    assert stage.turn(0.75) == []
    assert stage.fleet.due == stage.clock.now + 0.25
    (start,) = stage.turn(0.25)
    assert isinstance(start, Start)
    assert (start.worker.number, start.worker.phase) == (1, Phase.STARTING)
    assert generation.serving == [generation.workers[2]]
    assert stage.ready(start.worker) == [Share(generation)]
    assert len(generation.serving) == 2


def test_the_delay_doubles_for_a_slot_and_for_no_other(stage: Stage) -> None:
    stage.serving()
    generation = stage.workers[0].generation
    delays = []
    for _ in range(7):
        stage.ended(generation.workers[1])
        delays.append(generation.restarts[1] - stage.clock.now)
        stage.turn(delays[-1])
    assert delays == [1, 2, 4, 8, 16, 30, 30]
    stage.ended(generation.workers[2])
    assert generation.restarts[2] - stage.clock.now == 1


def test_the_delay_begins_anew_after_a_while_of_service() -> None:
    backoff = Backoff()
    assert [backoff.after(0) for _ in range(3)] == [1, 2, 4]
    assert backoff.after(HEALTHY - 1) == 8
    assert backoff.after(HEALTHY) == 1
    assert backoff.after(0) == 2


# Reloading.


def test_a_reload_serves_with_the_new_ones_before_the_old_ones_drain(stage: Stage) -> None:
    old = stage.serving()
    new = stage.begin(3)
    assert not stage.fleet.may_begin
    assert stage.ready(new[0]) == stage.ready(new[1]) == []
    commands = stage.ready(new[2])
    assert commands == [
        Promote(new[0].generation, old[0].generation),
        Share(new[0].generation),
        *(TellDrain(worker, handover=True) for worker in old),
    ]
    assert stage.fleet.may_begin
    assert list(stage.fleet.retired(old[1])) == []
    assert list(stage.fleet.retired(old[0])) == [Replaced()]
    assert stage.fleet.leaving == [old[0].generation]
    for worker in old:
        assert stage.ended(worker, clean=True) == [
            Note(LogLevel.DEBUG, "worker_ended", {"worker": worker.number, "pid": 7})
        ]
    assert stage.fleet.leaving == []


def test_an_old_worker_that_dies_has_retired_too(stage: Stage) -> None:
    old = stage.serving()
    stage.begin()
    stage.serving()
    assert list(stage.fleet.retired(old[0])) == []
    assert stage.ended(old[1]) == [
        Note(LogLevel.ERROR, "worker_died", {"worker": 2, "pid": 7}),
        Replaced(),
    ]


def test_a_reload_replaces_also_what_waits_and_what_only_starts(stage: Stage) -> None:
    first, second = stage.serving()
    stage.ended(first)
    stage.turn(1)
    stage.ended(second)
    starting = stage.workers[-1]
    new = stage.begin()
    stage.ready(new[0])
    assert stage.ready(new[1]) == [
        Promote(new[0].generation, first.generation),
        Share(new[0].generation),
        TellClose(starting),
        Replaced(),  # none of them accepted any more
    ]
    assert stage.turn(CLOSE_PATIENCE - 1) == []  # no restart of what is over
    assert stage.turn(1) == [
        Note(LogLevel.ERROR, "worker_stuck", {"worker": 1, "phase": "draining"}),
        Kill(starting),
    ]


def test_a_reload_of_a_generation_without_workers(stage: Stage) -> None:
    for worker in stage.serving():
        stage.ended(worker)
    stage.begin(1)
    stage.serving()
    assert stage.fleet.leaving == []
    assert stage.turn(60) == []


@pytest.mark.parametrize("ready", [False, True])
def test_a_reload_that_fails_leaves_the_old_ones_serving(stage: Stage, *, ready: bool) -> None:
    old = stage.serving()
    new = stage.begin()
    if ready:
        stage.ready(new[0])
    assert stage.ended(new[1]) == [
        Note(LogLevel.ERROR, "worker_died", {"worker": 2, "pid": 7}),
        GiveUp(new[0].generation),
        TellClose(new[0]),
    ]
    assert stage.fleet.current is old[0].generation
    assert stage.fleet.upcoming is None
    assert all(worker.phase is Phase.SERVING for worker in old)
    stage.ended(new[0], clean=True)
    assert stage.fleet.leaving == []
    stage.begin()


def test_workers_are_replaced_while_a_reload_goes_on(stage: Stage) -> None:
    first, _ = stage.serving()
    stage.begin()
    stage.ended(first)
    (start,) = stage.turn(1)
    assert isinstance(start, Start)
    assert start.worker.generation is stage.fleet.current


def test_only_so_many_generations_may_drain(stage: Stage) -> None:
    stage.serving()
    for _ in range(MAX_DRAINING):
        stage.begin()
        stage.serving()
    assert not stage.fleet.may_begin
    for worker in stage.workers[:2]:
        stage.ended(worker, clean=True)
    assert stage.fleet.may_begin


def test_a_worker_that_does_not_end_after_its_drain_is_killed(stage: Stage) -> None:
    old = stage.serving()
    stage.begin()
    stage.serving()
    stage.ended(old[0], clean=True)
    assert stage.turn(DRAIN + DRAIN_MARGIN - 1) == []
    assert Kill(old[1]) in stage.turn(1)
    assert stage.ended(old[1])[0] == Note(LogLevel.ERROR, "worker_died", {"worker": 2, "pid": 7})


# Stopping.


def test_all_generations_drain_at_a_stop(stage: Stage) -> None:
    old = stage.serving()
    stage.begin()
    current = stage.serving()
    upcoming = stage.begin()
    stage.ended(current[0])
    assert list(stage.fleet.stop(stage.clock.now)) == [
        *(TellDrain(worker, handover=False) for worker in old),
        TellDrain(current[1], handover=False),
        *(TellClose(worker) for worker in upcoming),
    ]
    assert stage.turn(2) == []  # nobody is started any more
    ends = [stage.ended(worker, clean=True)[1:] for worker in (*upcoming, *old, current[1])]
    assert [commands for commands in ends if End() in commands] == ends[-1:]
    assert not stage.fleet.may_begin


def test_a_stop_with_nobody_there(stage: Stage) -> None:
    for worker in stage.serving():
        stage.ended(worker)
    assert list(stage.fleet.stop(stage.clock.now)) == [End()]


def test_a_stop_before_the_first_was_ready(stage: Stage) -> None:
    assert list(stage.fleet.stop(stage.clock.now)) == [TellClose(worker) for worker in stage.workers]
    stage.ended(stage.workers[0], clean=True)
    assert stage.ended(stage.workers[1], clean=True)[-1] == End()


def test_whoever_does_not_end_at_once_is_killed(stage: Stage) -> None:
    workers = stage.serving()
    list(stage.fleet.stop(stage.clock.now))
    assert list(stage.fleet.abort(stage.clock.now)) == [TellClose(worker) for worker in workers]
    stage.ended(workers[0], clean=True)
    assert stage.turn(CLOSE_PATIENCE) == [
        Note(LogLevel.ERROR, "worker_stuck", {"worker": 2, "phase": "draining"}),
        Kill(workers[1]),
    ]
    assert stage.ended(workers[1])[-1] == End()


def test_it_shows_its_generations(stage: Stage) -> None:
    stage.serving()
    assert repr(stage.fleet) == (
        "<Fleet current=<Generation 1 of 2: 1 SERVING, 2 SERVING> upcoming=None leaving=[]>"
    )
