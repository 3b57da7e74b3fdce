"""The measurements on a stage: every proxy once in each round, right after each other, in changing order."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from benchmarks.loads.saturation import saturate
from benchmarks.machine import busy_time, processor_time, resident, spent
from benchmarks.process import StartError, run
from benchmarks.results import Footprint, Sample, Steady, good

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from typing import TypeAlias

    from benchmarks.peers import Running
    from benchmarks.results import Results
    from benchmarks.stage import Stage

    Say: TypeAlias = Callable[[str], None]

T = TypeVar("T")

SETTLE = 0.05
"""Seconds after a generator has ended in which a proxy closes its connections: that is part of the work."""

SHARE = 0.5
"""Of our own saturation: the rate at which latency is measured, unless the plan says one."""

DELIVERED_WITHIN = 120.0
"""Seconds in which a spool must be empty again."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how often. ``seconds`` and ``warm_up`` are whole seconds per measurement; ``steady``:
    whether latency is measured, ``rate``: at this one."""

    rounds: int
    seconds: int
    warm_up: int
    steady: bool = True
    rate: float | None = None


def order(peers: Sequence[T], number: int) -> list[T]:
    """The order of a round: over the rounds each proxy comes first as often as any other."""
    start = number // 2 % len(peers)
    turned = [*peers[start:], *peers[:start]]
    return turned if number % 2 == 0 else turned[::-1]


def measure(stage: Stage, plan: Plan, results: Results, say: Say) -> None:
    """Measure every proxy of ``stage`` as planned and add what was found to ``results``."""
    load = stage.load
    results.titles[load.name] = load.title
    results.configs[load.name] = {running.name: running.config for running in stage.peers}
    if plan.warm_up:
        plain = replace(load, scheme="http")  # the origin itself speaks no TLS
        straight = saturate(plain, stage.origin, stage.requests, seconds=plan.warm_up, core=stage.cores.load)
        results.ceilings[load.name] = straight.requests / straight.seconds
        say(f"{load.name}: straight at the origin {results.ceilings[load.name]:,.0f}/s")
        for running in stage.peers:
            saturate(load, running.address, stage.requests, seconds=plan.warm_up, core=stage.cores.load)
            delivered(running)
    logged = {running.name: -_size(running.log) for running in stage.peers}
    for number in range(plan.rounds):
        for running in order(stage.peers, number):
            sample = saturation_sample(stage, running, number, plan.seconds)
            results.samples.append(sample)
            say(_said(sample))
    logged = {running.name: logged[running.name] + _size(running.log) for running in stage.peers}
    if load.steady and plan.steady:
        _measure_steady(stage, plan, results, say)
    for running in stage.peers:
        answered = sum(sample.requests for sample in results.samples_of(load.name, running.name))
        results.footprints.append(_footprint(stage, running, logged[running.name] / max(1, answered)))


@dataclass(slots=True)
class Account:
    """What a proxy and its core did within the block that ``accounting`` ran. Times are in seconds."""

    used: float = 0.0
    busy: float = 0.0
    passed: float = 0.0
    troubles: Counter[str] = field(default_factory=Counter)


@contextmanager
def accounting(running: Running, core: int) -> Iterator[Account]:
    """Account for the processor time of a proxy over the block. What goes wrong is a trouble, not an
    exception."""
    account = Account()
    before, busy, began = processor_time(running.pid), busy_time(core), time.monotonic()
    yield account
    time.sleep(SETTLE)
    if not delivered(running):
        account.troubles["not delivered"] += 1
    account.passed = time.monotonic() - began
    account.busy = busy_time(core) - busy
    try:
        account.used = spent(before, processor_time(running.pid)) / 1e9
    except (LookupError, OSError):
        account.troubles["ended threads"] += 1


def delivered(running: Running) -> bool:
    """Wait until a proxy with a spool has delivered everything; false: it takes too long."""
    deadline = time.monotonic() + DELIVERED_WITHIN
    while running.waiting:
        if time.monotonic() > deadline:
            return False
        time.sleep(SETTLE)
    return True


def saturation_sample(stage: Stage, running: Running, number: int, seconds: int) -> Sample:
    """Let wrk ask a proxy for ``seconds`` and return what that took."""
    core = stage.cores.peer
    with accounting(running, core) as account:
        outcome = saturate(
            stage.load, running.address, stage.requests, seconds=seconds, core=stage.cores.load
        )
    troubles = dict(account.troubles) | outcome.troubles
    if not outcome.requests:
        troubles["no answers"] = 1
    return Sample(
        load=stage.load.name,
        peer=running.name,
        round=number,
        requests=outcome.requests,
        seconds=outcome.seconds,
        cpu=account.used / max(1, outcome.requests) * 1e6,
        rate=outcome.requests / outcome.seconds,
        busy=account.used / outcome.seconds,
        foreign=max(0.0, account.busy - account.used) / account.passed,
        p50=outcome.p50,
        p99=outcome.p99,
        troubles=troubles,
    )


def steady_rate(results: Results, load: str, peers: Sequence[Running]) -> float | None:
    """Half of what our first build gets through (the slowest proxy, where ours is not measured), in requests
    a second; ``None`` without a good round."""
    medians: dict[str, float] = {}
    for running in sorted(peers, key=lambda running: not running.ours):
        found = good(results.samples_of(load, running.name), lambda sample: sample.rate)
        if found is not None and running.ours:
            return SHARE * found.median
        if found is not None:
            medians[running.name] = found.median
    return SHARE * min(medians.values()) if medians else None


def _measure_steady(stage: Stage, plan: Plan, results: Results, say: Say) -> None:
    rate = plan.rate or steady_rate(results, stage.load.name, stage.peers)
    if rate is None:
        say(f"{stage.load.name}: no good round, so no rate to measure latency at")
        return
    for number in range(plan.rounds):
        for running in order(stage.peers, number):
            sample = steady_sample(stage, running, number, rate, plan.seconds)
            results.steady.append(sample)
            say(_said_steady(sample))


def steady_sample(stage: Stage, running: Running, number: int, rate: float, seconds: int) -> Steady:
    """Ask a proxy ``rate`` times a second for ``seconds`` and return how long its answers took."""
    load = stage.load
    argv = [sys.executable, "-m", "benchmarks.loads.steady", running.address[0], str(running.address[1])]
    argv += [f"{rate:.1f}", str(seconds), str(load.connections), str(stage.requests)]
    said: dict[str, Any] = {"answered": 0, "counted": 0, "p50": 0.0, "p99": 0.0, "late": 0.0, "troubles": {}}
    with accounting(running, stage.cores.peer) as account:
        try:
            said = json.loads(run(argv, core=stage.cores.load, timeout=seconds + 60))
        except StartError:
            account.troubles["generator failed"] += 1
    return Steady(
        load=load.name,
        peer=running.name,
        round=number,
        rate=rate,
        requests=said["counted"],
        p50=said["p50"],
        p99=said["p99"],
        late=said["late"],
        cpu=account.used / max(1, said["answered"]) * 1e6,
        troubles=dict(account.troubles) | said["troubles"],
    )


def _footprint(stage: Stage, running: Running, log: float) -> Footprint:
    return Footprint(
        load=stage.load.name,
        peer=running.name,
        started=stage.started[running.name],
        holding=stage.holding[running.name],
        ended=resident(running.pid),
        log=log,
        idle=stage.held(running.name),
        left=stage.release(running.name),
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _said(sample: Sample) -> str:
    return (
        f"{sample.load:<10} {sample.peer:<10} round {sample.round:<3} {sample.cpu:9.1f} µs/request "
        f"{sample.rate:9,.0f}/s  core {sample.busy:4.0%} others {sample.foreign:4.0%}{_troubled(sample)}"
    )


def _said_steady(sample: Steady) -> str:
    return (
        f"{sample.load:<10} {sample.peer:<10} round {sample.round:<3} p50 {sample.p50 / 1e3:7.2f} ms  "
        f"p99 {sample.p99 / 1e3:7.2f} ms at {sample.rate:,.0f}/s{_troubled(sample)}"
    )


def _troubled(sample: Sample | Steady) -> str:
    return "" if sample.good else f"  SPOILED {sample.troubles}"
