"""The thread that writes logs: order, a place that is full, a place that fails."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest

from proxy.config.schema import LogConfig, LogLevel
from proxy.observe.sinks import NoSink, open_sink
from proxy.observe.turns import Turns
from proxy.observe.writer import QUEUED, Logs, LogWriter, log_writer, reopen_logs

if TYPE_CHECKING:
    from pathlib import Path


def test_batches_are_written_in_order_and_the_file_closed(tmp_path: Path) -> None:
    sink = open_sink(str(tmp_path / "log"))
    writer = LogWriter(sink)
    for number in range(10):
        writer(b"%d\n" % number)
    writer.close()
    assert (tmp_path / "log").read_bytes() == b"".join(b"%d\n" % number for number in range(10))
    sink.close()  # was closed already: harmless


class Gate(NoSink):
    """A place that takes nothing until it is opened, and then fails once."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.entered = threading.Event()
        self.calls = 0

    def __call__(self, data: bytes) -> None:
        self.entered.set()
        self.open.wait(10)
        self.calls += 1
        if self.calls == 1:
            raise OSError("no space left")


def test_a_place_that_takes_nothing_blocks_nobody_and_a_failure_loses_one_batch() -> None:
    gate = Gate()
    writer = LogWriter(gate)
    writer(b"first")
    assert gate.entered.wait(10)
    for _ in range(QUEUED + 3):
        writer(b"more")
    assert writer.dropped == 3
    writer.close(timeout=0.01)  # gives up: nothing moves
    gate.open.set()
    writer.close()
    assert (gate.calls, writer.lost) == (QUEUED + 1, 1)


def test_a_reader_that_is_gone_is_survived() -> None:
    read, write = os.pipe()
    os.close(read)
    sink = open_sink("off")
    writer = LogWriter(sink)
    writer(b"x")
    writer.close()
    assert writer.lost == 0
    os.close(write)


def test_both_logs_are_opened_and_closed(tmp_path: Path) -> None:
    path = tmp_path / "log"
    logs = Logs(LogConfig(access=str(path), errors=str(path)), Turns())
    logs.access(b"a\n" * 10)
    logs.errors(b"b\n" * 10)
    logs.close()
    assert sorted(path.read_bytes().split()) == [b"a"] * 10 + [b"b"] * 10
    Logs(LogConfig(access="off", errors="off"), Turns()).close()


def test_a_log_that_cannot_be_opened_leaves_the_other_closed(tmp_path: Path) -> None:
    threads = threading.active_count()
    with pytest.raises(FileNotFoundError):
        Logs(LogConfig(access=str(tmp_path / "log"), errors=str(tmp_path / "none" / "log")), Turns())
    assert threading.active_count() == threads


def test_files_that_were_moved_away_are_made_anew_before_the_next_line(tmp_path: Path) -> None:
    names = ("access", "errors")
    logs = Logs(LogConfig(access=str(tmp_path / "access"), errors=str(tmp_path / "errors")), Turns())
    logs.access(b"one\n")
    logs.errors(b"one\n")
    for name in names:
        while not (tmp_path / name).read_bytes():
            threading.Event().wait(0.01)
        (tmp_path / name).rename(tmp_path / f"{name}.1")
    logs.reopen()
    logs.access(b"two\n")
    logs.errors(b"two\n")
    logs.close()
    for name in names:
        assert (tmp_path / f"{name}.1").read_bytes() == b"one\n"
        assert (tmp_path / name).read_bytes() == b"two\n"


def test_a_place_that_cannot_be_opened_anew_costs_nothing_but_that(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    writer = log_writer(str(folder / "a"), Turns())
    told: list[tuple[object, ...]] = []

    def say(level: LogLevel, event: str, **fields: object) -> None:
        told.append((level, event, *fields.values()))

    folder.rename(tmp_path / "moved")
    reopen_logs(writer.reopen, say)
    writer(b"one\n")
    writer.close()
    detail = f"{folder / 'a'}: No such file or directory"
    assert (told, writer.lost) == ([(LogLevel.ERROR, "logs_not_reopened", detail)], 0)
    assert (tmp_path / "moved" / "a").read_bytes() == b"one\n"
