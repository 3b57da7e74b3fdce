"""Turns of threads and of processes on one pipe."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from proxy.observe.sinks import FileSink
from proxy.observe.turns import SharedSink, Turns, lock_file

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[2]

LINE = 200_000
"""Bytes of a line: more than a pipe holds, so that its writer has to wait in the middle of it."""

LINES = 20

WRITE = f"""
import sys
from proxy.observe.sinks import FileSink
from proxy.observe.turns import SharedSink, Turns
sink = SharedSink(FileSink(1, owned=False), Turns(int(sys.argv[1])))
for _ in range({LINES}):
    sink(sys.argv[2].encode() * {LINE} + b"\\n")
"""


def whole(read: int) -> list[tuple[int, set[int]]]:
    """Read a pipe to its end: the length of each line, and of which letters it is made."""
    with open(read, "rb") as pipe:
        return [(len(line), set(line) - {10}) for line in pipe]


@pytest.mark.parametrize("lock", [lambda: None, lock_file])
def test_lines_of_threads_stay_whole(lock: Callable[[], int | None]) -> None:
    read, write = os.pipe()
    descriptor = lock()
    turns = Turns(descriptor)
    sinks = [SharedSink(FileSink(os.dup(write), owned=True), turns) for _ in range(3)]
    os.close(write)

    def say(sink: SharedSink, letter: bytes) -> None:
        for _ in range(LINES):
            sink(letter * LINE + b"\n")
        sink.close()

    threads = [
        threading.Thread(target=say, args=pair) for pair in zip(sinks, (b"a", b"b", b"c"), strict=True)
    ]
    for thread in threads:
        thread.start()
    lines = whole(read)
    for thread in threads:
        thread.join()
    assert lines.count((LINE + 1, {ord("a")})) == LINES
    assert len(lines) == 3 * LINES
    assert {length for length, _ in lines} == {LINE + 1}
    assert all(len(found) == 1 for _, found in lines)
    if descriptor is not None:
        os.close(descriptor)


def test_lines_of_processes_stay_whole() -> None:
    read, write = os.pipe()
    lock = lock_file()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WRITE, str(lock), letter], stdout=write, pass_fds=[lock], cwd=ROOT
        )
        for letter in "ab"
    ]
    os.close(write)
    lines = whole(read)
    assert [process.wait() for process in processes] == [0, 0]
    os.close(lock)
    assert len(lines) == 2 * LINES
    assert {length for length, _ in lines} == {LINE + 1}
    assert all(len(found) == 1 for _, found in lines)


def test_a_turn_is_given_back_when_the_writing_fails() -> None:
    read, write = os.pipe()
    os.close(read)
    lock = lock_file()
    sink = SharedSink(FileSink(write, owned=True), Turns(lock))
    for _ in range(2):
        with pytest.raises(BrokenPipeError):
            sink(b"x\n")
    sink.close()
    os.close(lock)


def test_other_places_do_not_wait() -> None:
    lock = lock_file()
    turns = Turns(lock)
    with turns.at(1), turns.at(2):
        pass
    os.close(lock)
