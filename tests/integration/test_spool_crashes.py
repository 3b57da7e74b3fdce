"""The spool with real processes: ended at each step, on disks that are full, read-only or slow.

What a process was promised on its standard output must be true for whoever opens the spool after it: a record
that is kept is there and whole, unless it was about to go; one that is gone stays gone.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
from collections import defaultdict
from typing import TYPE_CHECKING

import pytest

from proxy.spool import files
from tests.support.parts import find
from tests.support.process import Process
from tests.support.spool_child import body_of_number
from tests.support.spooling import everything, opened

if TYPE_CHECKING:
    from pathlib import Path

CHILD = [sys.executable, "-m", "tests.support.spool_child"]

STALL_BOUND = 0.5
"""Seconds. Measured on an idle machine: 3 to 8 ms; one that is busy with other tests may stop us longer."""

MEMORY_BOUND = 48
"""MiB, of three bodies of 64 MiB."""


def child(*words: object) -> Process:
    return Process([*CHILD, *map(str, words)], name="spool child")


def promises(process: Process) -> dict[str, set[int]]:
    said = defaultdict(set)
    for line in process.stdout:
        word, number = line.split()
        said[word].add(int(number))
    return said


async def check(directory: Path, said: dict[str, set[int]]) -> None:
    """Open the spool as another worker would, and compare."""
    async with opened(directory, "1") as store:
        tended = await store.tend()
        assert tended.notices == ()
        found = {int(stored.arrived): body for stored, body in await everything(store)}
        dead = store.figures().dead_letters
    for number, body in found.items():
        assert body == body_of_number(number), number
    assert said["kept"] - said["going"] <= found.keys()
    assert not found.keys() & (said["gone"] | said["dead"])
    assert dead >= len(said["dead"])


@pytest.mark.parametrize("step", ["begun", "written", "committed"])
@pytest.mark.parametrize(
    ("kind", "number"),
    [
        ("Append", 3),
        ("Piece", 5),
        ("Commit", 3),
        ("Change", 4),  # records that were delivered go
        ("Change", 5),  # one becomes a dead letter
        ("Sweep", 2),  # pieces of records that are gone
    ],
)
async def test_killed_at_each_step(tmp_path: Path, step: str, kind: str, number: int) -> None:
    with child("work", tmp_path, step, kind, number) as process:
        assert process.wait() == -signal.SIGKILL
        await check(tmp_path, promises(process))


async def test_killed_at_any_moment_again_and_again(tmp_path: Path) -> None:
    """The same files, worker after worker: what one leaves the next adopts."""
    chance = random.Random(7)
    for turn in range(8):
        directory = tmp_path / str(turn % 2)
        with child("work", directory, "never", "Append", 0) as process:
            process.wait_for_lines("kept", 6, stream="stdout")
            await asyncio.sleep(chance.random() * 0.15)  # the moment is the point
            process.send_signal(signal.SIGKILL)
            process.wait()
            said = promises(process)
        async with opened(directory, "1") as store:
            await store.tend()
            found = await everything(store)
            assert {int(stored.arrived) for stored, _ in found} >= said["kept"] - said["going"]
            for stored, body in found:
                assert body == body_of_number(int(stored.arrived))
            await store.delivered([stored.id for stored, _ in found])
        for path in files.databases(directory):
            assert not files.is_owned(path)


@pytest.mark.needs("mounts")
@pytest.mark.parametrize(("size", "free"), [("4m", 0), ("40m", 5)])
def test_a_full_disk_loses_nothing(tmp_path: Path, size: str, free: int) -> None:
    with _mounted(tmp_path, f"size={size}", "fill", free) as process:
        assert process.wait() == 0, process.report()
        assert any(line.startswith("fine ") for line in process.stdout)


@pytest.mark.needs("mounts")
def test_a_read_only_directory_is_refused(tmp_path: Path) -> None:
    with _mounted(tmp_path, "ro", "refused") as process:
        assert process.wait() == 0, process.report()
        assert process.stdout[-1] == "refused 0"


def _mounted(directory: Path, options: str, *words: object) -> Process:
    """A child that alone sees a small file system at ``directory``."""
    script = 'mount -t tmpfs -o "$1" none "$2" && shift 2 && exec "$@"'
    command = [*CHILD, str(words[0]), directory, *map(str, words[1:])]
    unshare = find("mounts")
    return Process([unshare, "-rm", "sh", "-c", script, "sh", options, directory, *command])


@pytest.mark.parametrize(("bodies", "size", "seconds"), [(3, 64, 0.0), (2, 8, 0.05)])
def test_large_bodies_and_a_slow_disk_stop_nobody(
    tmp_path: Path, bodies: int, size: int, seconds: float
) -> None:
    with child("stall", tmp_path, bodies, size, seconds) as process:
        assert process.wait(60) == 0, process.report()
        (line,) = (line for line in process.stdout if line.startswith("figures "))
    figures = json.loads(line.partition(" ")[2])
    assert figures["stall"] < STALL_BOUND, figures
    assert figures["grown_mib"] < MEMORY_BOUND, figures
