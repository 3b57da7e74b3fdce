"""What the spool costs: `python -m benchmarks.spool [--rate N] [--seconds N] [--interval MS]`.

Records of 2 KB are appended at a fixed rate, by a loop that does nothing else, to a store in a new directory
under --directory (its disk is what is measured); then they are read and delivered, 100 at a time. CPU is that
of the whole process, threads included, less what the same loop costs without a store.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from proxy.clock import Clock
from proxy.config.schema import SpoolConfig
from proxy.spool.record import Receipt, SpoolRecord
from proxy.spool.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from proxy.spool.jobs import Job
    from proxy.spool.record import Outcome

HEAD = b"POST /e/ HTTP/1.1\r\nHost: posthog\r\nX-Filler: " + b"x" * 600 + b"\r\nContent-Length: 1200\r\n\r\n"
BODY = os.urandom(1200)
TICK = 0.001
PAGE = 100


class Commits:
    """Durations of commits, and records in each: a store's ``fault``."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.records: list[int] = []
        self._began = 0.0

    def __call__(self, step: str, jobs: Sequence[Job]) -> None:
        if step == "written":
            self._began = time.perf_counter()
        elif step == "committed" and jobs:
            self.seconds.append(time.perf_counter() - self._began)
            self.records.append(len(jobs))


async def paced(rate: int, seconds: float, one: Callable[[], None]) -> int:
    """Call ``one`` at a rate, in ticks of a millisecond; return how often."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    start, count = time.perf_counter(), 0

    def tick() -> None:
        nonlocal count
        passed = time.perf_counter() - start
        while count < passed * rate:
            count += 1
            one()
        if passed < seconds:
            loop.call_later(TICK, tick)
        else:
            done.set_result(None)

    tick()
    await done
    return count


def milliseconds(values: list[float], share: float) -> str:
    return f"{sorted(values)[min(len(values) - 1, int(len(values) * share))] * 1000:.2f}"


async def measure(options: argparse.Namespace, directory: Path) -> None:
    before = time.process_time()
    count = await paced(options.rate, options.seconds / 3, lambda: None)
    idle = (time.process_time() - before) / count

    commits, waits = Commits(), list[float]()
    settings = SpoolConfig(commit_interval=options.interval / 1000)
    store = await Store.open(directory, settings, Clock(), "0", fault=commits)
    refused = 0

    def append() -> None:
        asked = time.perf_counter()

        def done(outcome: Outcome) -> None:
            nonlocal refused
            waits.append(time.perf_counter() - asked)
            refused += not isinstance(outcome, Receipt)

        record = SpoolRecord(time.time(), "default", "/e", b"192.0.2.1 phc_token", HEAD, len(BODY))
        store.append(record, BODY, done)

    before = time.process_time()
    count = await paced(options.rate, options.seconds, append)
    await store.tend()  # comes after all that was asked before
    cost = (time.process_time() - before) / count - idle
    print(f"appended {count} at {options.rate}/s, refused {refused}; {cost * 1e6:.1f} µs CPU each")
    print(f"acknowledged after p50 {milliseconds(waits, 0.5)} p99 {milliseconds(waits, 0.99)} ms")
    print(
        f"{len(commits.seconds)} commits of {sum(commits.records) / len(commits.records):.1f} records:"
        f" p50 {milliseconds(commits.seconds, 0.5)} p99 {milliseconds(commits.seconds, 0.99)} ms"
    )

    before, start = time.process_time(), time.perf_counter()
    drained = 0
    while page := await store.oldest("default", PAGE):
        for stored in page:
            async for _ in store.body(stored):
                pass
        await store.delivered([stored.id for stored in page])
        drained += len(page)
    took = time.perf_counter() - start
    cost = (time.process_time() - before) / max(1, drained)
    print(f"read and deleted {drained} at {drained / took:.0f}/s; {cost * 1e6:.1f} µs CPU each")
    await store.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.spool", description=__doc__)
    parser.add_argument("--rate", type=int, default=2000, help="records a second")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--interval", type=float, default=10.0, help="spool.commit_interval in milliseconds")
    parser.add_argument("--directory", help="on the disk to measure; default: the temporary directory")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(dir=options.directory, prefix="spool-") as directory,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(measure(options, Path(directory)))


if __name__ == "__main__":
    main()
