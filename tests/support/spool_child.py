"""A process that uses a spool, for tests that end it: `python -m tests.support.spool_child WHAT DIRECTORY …`

It says on standard output, at once, what it was promised (``kept N``, ``gone N``, ``dead N``) and what it is
about to ask for (``going N``). The body of record N is made of N, so that whoever opens the spool afterwards
knows what must be in it.

work STEP KIND NUMBER  keep, deliver and set aside without end; SIGKILL itself at the NUMBERth transaction
                       that reaches STEP with a job of KIND in it (NUMBER 0: somebody else ends it)
fill FREE              keep until the disk is full, or FREE percent are left (then deliver, and keep again);
                       open anew; all of it checked
refused                open a spool in a directory that cannot be written
stall BODIES SIZE SECONDS   keep bodies of SIZE MiB, each commit SECONDS slow, and measure the loop's stalls
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import sys
import time
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from proxy.clock import Clock
from proxy.spool.record import Receipt, SpoolFailed, SpoolFull
from proxy.spool.store import Store
from tests.support.spooling import SETTINGS, everything, outcome_of, record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxy.spool.jobs import Job
    from proxy.spool.record import RecordId

LARGE_EVERY = 3
MIB = 1024 * 1024


def body_of_number(number: int) -> bytes:
    """Small, but for each third record, which comes in pieces."""
    return b"%09d" % number * (20_000 if number % LARGE_EVERY == 0 else 20)


def say(word: str, number: int) -> None:
    os.write(1, f"{word} {number}\n".encode())


async def keep(store: Store, number: int) -> RecordId:
    body, arrived = body_of_number(number), float(number)
    if len(body) < 1000:
        receipt = await outcome_of(store, body, arrived=arrived)
    else:
        entry = store.begin(record(len(body), arrived=arrived))
        for start in range(0, len(body), 30_000):
            if not entry.write(body[start : start + 30_000]):
                await entry.ready()
        receipt = await entry.commit()
    if not isinstance(receipt, Receipt):
        raise receipt
    say("kept", number)
    return receipt.id


async def work(directory: Path, step: str, kind: str, number: int) -> None:
    left = number

    def fault(reached: str, jobs: Sequence[Job]) -> None:
        nonlocal left
        kinds = [type(job).__name__ for job in jobs] or ["Sweep"]
        if reached == step and kind in kinds:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    store = await Store.open(directory, SETTINGS, Clock(), "0", fault=fault)
    for first in count(0, 6):
        ids = await asyncio.gather(*(keep(store, first + offset) for offset in range(6)))
        say("going", first)
        say("going", first + 1)
        await store.delivered(ids[:2])
        say("gone", first)
        say("gone", first + 1)
        say("going", first + 2)
        await store.set_aside(ids[2], 400, "refused")
        say("dead", first + 2)
        await store.postponed(ids[3])


async def keep_at_last(store: Store, number: int) -> RecordId:
    """Room that was freed can be used a little later: the pieces of large bodies go in slices."""
    for _ in range(5):
        try:
            return await keep(store, number)
        except SpoolFull:
            await store.tend()
    return await keep(store, number)


async def fill(directory: Path, free: int) -> None:
    settings = replace(SETTINGS, keep_free=free)
    store = await Store.open(directory, settings, Clock(), "0")
    kept: dict[int, RecordId] = {}
    reason = ""
    for number in range(100_000):
        try:
            kept[number] = await keep(store, number)
        except SpoolFull as full:
            reason = full.reason
            break
    assert reason == "disk", reason
    if free:
        delivered = sorted(kept)[: len(kept) // 2]
        await store.delivered([kept.pop(number) for number in delivered])
        for number in range(1_000_001, 1_000_007):
            kept[number] = await keep_at_last(store, number)
    for _ in range(2):
        found = await everything(store)
        assert [(stored.arrived, body) for stored, body in found] == [
            (float(number), body_of_number(number)) for number in sorted(kept)
        ]
        await store.close()
        store = await Store.open(directory, settings, Clock(), "0")
    await store.close()
    say("fine", len(kept))


async def refused(directory: Path) -> None:
    try:
        await Store.open(directory, SETTINGS, Clock(), "0")
    except SpoolFailed:
        say("refused", 0)


class Watch:
    """The longest time that the loop did not come round, in seconds."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._loop = asyncio.get_running_loop()
        self._last = time.perf_counter()
        self._tick()

    def _tick(self) -> None:
        now = time.perf_counter()
        self.longest = max(self.longest, now - self._last - 0.001)
        self._last = now
        self._timer = self._loop.call_later(0.001, self._tick)

    def stop(self) -> None:
        self._timer.cancel()


async def stall(directory: Path, bodies: int, size: int, seconds: float) -> None:
    def fault(reached: str, jobs: Sequence[Job]) -> None:
        if reached == "written" and seconds:
            time.sleep(seconds)

    store = await Store.open(directory, replace(SETTINGS, max_bytes=1 << 40), Clock(), "0", fault=fault)
    piece = os.urandom(64 * 1024)
    small: list[float] = []
    ended = False

    async def large() -> None:
        entry = store.begin(record(size * MIB))
        for _ in range(size * MIB // len(piece)):
            if not entry.write(piece):
                await entry.ready()
            await asyncio.sleep(0)
        await entry.commit()

    async def events() -> None:
        while not ended:
            before = time.perf_counter()
            await outcome_of(store, b"event" * 200)
            small.append(time.perf_counter() - before)
            await asyncio.sleep(0.005)

    watch = Watch()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    beside = asyncio.ensure_future(events())
    await asyncio.gather(*(large() for _ in range(bodies)))
    ended = True
    await beside
    took = time.perf_counter() - start
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    watch.stop()
    await store.close()
    small.sort()
    figures = {
        "stall": watch.longest,
        "grown_mib": grown / 1024,
        "mib_per_second": bodies * size / took,
        "small_p99": small[int(len(small) * 0.99)],
    }
    os.write(1, f"figures {json.dumps(figures)}\n".encode())


def main(what: str, directory: str, *rest: str) -> None:
    path = Path(directory)
    coroutine = {
        "work": lambda: work(path, rest[0], rest[1], int(rest[2])),
        "fill": lambda: fill(path, int(rest[0])),
        "refused": lambda: refused(path),
        "stall": lambda: stall(path, int(rest[0]), int(rest[1]), float(rest[2])),
    }[what]()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(coroutine)


if __name__ == "__main__":
    main(*sys.argv[1:])
