"""What the parent tells operators of its workers."""

from __future__ import annotations

import socket
from collections import deque
from typing import TYPE_CHECKING

import pytest

from proxy.config.load import config_from
from proxy.config.schema import LogLevel
from proxy.observe.lifetime import Lifetime
from proxy.workers.channel import Channel, Keep
from proxy.workers.child import Child
from proxy.workers.facts import FleetFacts
from proxy.workers.fleet import Fleet, Start
from tests.support.clock import HandClock

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from proxy.observe.report import Report
    from proxy.workers.fleet import Command, Worker

CONFIG = config_from({"upstream": "http://web:1"}).config


class Scene:
    """A fleet of which every worker that is started has a child without a process."""

    def __init__(self) -> None:
        self.fleet = Fleet()
        self.children: dict[Worker, Child] = {}
        self.ends: dict[Worker, Channel] = {}
        self.facts = FleetFacts(
            self.fleet,
            self.children,
            CONFIG,
            Lifetime(HandClock(), "1"),
            snapshot=dict,
            begin_drain=lambda: self.do(self.fleet.stop(0.0)),
        )

    def do(self, commands: Iterable[Command]) -> None:
        pending = deque(commands)
        while pending:
            command = pending.popleft()
            if isinstance(command, Start):
                ours, theirs = socket.socketpair()
                self.children[command.worker] = Child(None, Channel(ours))  # type: ignore[arg-type]
                self.ends[command.worker] = Channel(theirs)

    def begin(self) -> list[Worker]:
        self.do(self.fleet.begin(2, 1.0, 0.0))
        assert self.fleet.upcoming is not None
        return list(self.fleet.upcoming.workers.values())

    def serve(self) -> list[Worker]:
        workers = self.begin()
        for worker in workers:
            self.do(self.fleet.ready(worker, 0.0))
        return workers

    def told(self, worker: Worker) -> list[object]:
        return list(self.ends[worker].receive())

    def close(self) -> None:
        for channel in (*self.ends.values(), *(child.channel for child in self.children.values())):
            channel.close()


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene()
    yield scene
    scene.close()


def words(reason: str) -> Report:
    return {"upstreams": {"web": {"url": "http://web", "reason": reason}}, "warnings": {}}


def test_it_is_ready_while_one_worker_accepts(scene: Scene) -> None:
    first, second = scene.begin()
    assert scene.facts.state == "starting"
    scene.do(scene.fleet.ready(first, 0.0))
    assert scene.facts.state == "starting"
    scene.do(scene.fleet.ready(second, 0.0))
    assert scene.facts.state == "ready"
    for worker, state in ((first, "ready"), (second, "starting")):
        scene.do(scene.fleet.ended(worker, {}, 1.0, clean=False))
        assert scene.facts.state == state
    scene.facts.begin_drain()
    assert scene.facts.state == "draining"


def test_all_workers_that_serve_are_heard_and_those_of_before_are_not(scene: Scene) -> None:
    assert scene.facts.report() == {"upstreams": {}, "warnings": {}}
    for worker, reason in zip(scene.serve(), ("", "answers 500"), strict=True):
        scene.children[worker].report = words(reason)
    assert scene.facts.report() == words("answers 500")
    workers = scene.serve()
    assert scene.facts.report() == {"upstreams": {}, "warnings": {}}
    scene.children[workers[0]].report = words("")
    assert scene.facts.report() == words("")


def test_a_level_is_told_to_all_and_to_those_that_come_later_until_a_reload(scene: Scene) -> None:
    first, second = scene.serve()
    scene.facts.settles(scene.children[first])
    scene.facts.set_log_level(LogLevel.DEBUG)
    assert scene.told(first) == scene.told(second) == [Keep("debug")]
    scene.facts.settles(scene.children[first])
    assert scene.told(first) == [Keep("debug")]
    scene.facts.serves(CONFIG)
    assert scene.facts.log_level is CONFIG.log.level
    scene.facts.settles(scene.children[first])
    assert scene.told(first) == []
