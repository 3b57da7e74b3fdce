"""The writer's thread: what shares a commit, what one error fails, what is tried again, how it ends."""

from __future__ import annotations

import errno
import sqlite3
import threading
from dataclasses import replace
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import pytest

from proxy.clock import Clock
from proxy.spool import files, schema
from proxy.spool.jobs import Append, Change, Growing, Job, Piece
from proxy.spool.record import Receipt, SpoolFailed, SpoolFull
from proxy.spool.table import REPLAY_NOW, Table
from proxy.spool.writer import Batch, Upkeep, Writer
from tests.support.spooling import ARRIVED, SETTINGS, record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from proxy.config.schema import SpoolConfig
    from proxy.spool.files import Claim

WAIT = 10.0


class Answer:
    """What a job's future would be, without a loop."""

    def __init__(self) -> None:
        self.result: Any = None
        self.error: Exception | None = None

    def done(self) -> bool:
        return False

    def set_result(self, result: object) -> None:
        self.result = result

    def set_exception(self, error: Exception) -> None:
        self.error = error


class Bench:
    """A writer whose batches the test takes one by one and finishes itself."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.batches: SimpleQueue[Batch] = SimpleQueue()
        self.fault: Callable[[str, Sequence[Job]], None] = lambda step, jobs: None
        self.started: list[Writer] = []
        self.told: list[Any] = []

    def start(self, settings: SpoolConfig = SETTINGS, most_dead_letters: int = 1 << 30) -> Writer:
        writer = Writer(
            self.directory,
            settings,
            Clock(),
            self.batches.put,
            most_dead_letters=most_dead_letters,
            fault=lambda *at: self.fault(*at),  # noqa: PLW0108 -- it changes
        )
        self.started.append(writer)
        writer.start()
        claim = self.claim()
        self.key = claim.key
        self.run(writer, lambda writer: writer.adopt([claim]))
        return writer

    def claim(self, worker: str = "0") -> Claim:
        claim = files.create(self.directory, worker)
        schema.prepare(claim.path)
        return claim

    def take(self) -> Batch:
        """The next batch, its jobs finished."""
        batch = self.batches.get(timeout=WAIT)
        for job, error in batch.finished:
            job.finish(error)
        return batch

    def run(self, writer: Writer, action: Callable[[Writer], Any]) -> Any:
        answer = Answer()
        writer.ask(Upkeep(action, answer, 0.0))  # type: ignore[arg-type]
        self.take()
        if answer.error is not None:
            raise answer.error
        return answer.result

    def change(self, action: Callable[[Table], Any], key: str = "") -> tuple[Change, Answer]:
        answer = Answer()
        return Change(key or self.key, action, lambda: None, answer, 0.0), answer  # type: ignore[arg-type]

    def append(self, body: bytes = b"x") -> Append:
        return Append(record(len(body)), body, self.told.append, 0.0)

    def held(self, writer: Writer) -> threading.Event:
        """Hold the writer within a transaction until the event; return once it is there."""
        there, go = threading.Event(), threading.Event()

        def hold(step: str, jobs: Sequence[Job]) -> None:
            if step == "begun" and not go.is_set():
                there.set()
                go.wait(WAIT)

        self.fault = hold
        writer.ask(self.append(b"first"))
        assert there.wait(WAIT)
        return go


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    for writer in bench.started:
        writer.stop()
        while not bench.take().last:
            pass
        writer.join()


def _later(jobs: Sequence[Job]) -> bool:
    """Whether there is a record in it that came after the held one."""
    return any(isinstance(job, Append) and job.body != b"first" for job in jobs)


def no_space(step: str, jobs: Sequence[Job]) -> None:
    if step == "written" and _later(jobs):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_what_came_during_a_commit_shares_the_next(bench: Bench) -> None:
    writer = bench.start()
    go = bench.held(writer)
    for _ in range(50):
        writer.ask(bench.append())
    go.set()
    assert [len(bench.take().finished) for _ in range(2)] == [1, 50]
    assert [receipt.id.row for receipt in bench.told] == list(range(1, 52))
    assert {receipt.id.file for receipt in bench.told} == {bench.key}


def test_a_batch_is_bounded_in_jobs_and_bytes(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.spool.writer.MOST_JOBS", 10)
    monkeypatch.setattr("proxy.spool.writer.MOST_BYTES", 5000)
    writer = bench.start()
    go = bench.held(writer)
    for _ in range(12):
        writer.ask(bench.append())
    for _ in range(3):
        writer.ask(bench.append(b"x" * 4000))
    go.set()
    sizes = []
    while sum(sizes) < 16:
        sizes.append(len(bench.take().finished))
    assert sizes == [1, 10, 4, 1]


def test_commits_are_apart_under_load_but_the_first_goes_at_once(bench: Bench) -> None:
    writer = bench.start(replace(SETTINGS, commit_interval=0.05))
    clock = Clock()
    start = clock.monotonic()
    for _ in range(3):
        writer.ask(bench.append())
        bench.take()
    assert clock.monotonic() - start >= 0.1


def test_the_state_says_what_is_there(bench: Bench) -> None:
    writer = bench.start()
    writer.ask(bench.append(b"12345"))
    state = bench.take().state
    assert state.keys == (bench.key,)
    assert (state.upstreams["default"].depth, state.upstreams["default"].oldest) == (1, ARRIVED)
    assert not state.disk_full


def test_one_error_fails_one_batch_of_one_file(bench: Bench) -> None:
    writer = bench.start()
    other = bench.claim("1")
    bench.run(writer, lambda writer: writer.adopt([other]))
    go = bench.held(writer)

    def fault(step: str, jobs: Sequence[Job]) -> None:
        if _later(jobs):
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
            raise error

    ours, mine = bench.change(lambda table: None)
    theirs, fine = bench.change(lambda table: table.wish("x"), other.key)
    for job in (bench.append(), ours, theirs):
        writer.ask(job)
    bench.fault, held = fault, bench.fault
    go.set()
    bench.take()
    bench.take()
    assert [type(outcome) for outcome in bench.told] == [Receipt, SpoolFailed]
    assert isinstance(mine.error, SpoolFailed)
    assert fine.error is None
    bench.fault = held
    writer.ask(bench.append())
    assert bench.take().state.upstreams["default"].depth == 2
    assert isinstance(bench.told[-1], Receipt)


def test_on_a_full_disk_room_can_still_be_freed(bench: Bench) -> None:
    writer = bench.start()
    go = bench.held(writer)
    bench.fault = no_space
    removal, answer = bench.change(lambda table: table.remove([1]))
    writer.ask(bench.append())
    writer.ask(removal)
    go.set()
    first, second = bench.take(), bench.take()
    assert (len(first.finished), len(second.finished)) == (1, 2)
    assert [type(outcome) for outcome in bench.told] == [Receipt, SpoolFull]
    assert bench.told[1].reason == "disk"
    assert answer.error is None


def test_a_disk_that_stays_full_fails_what_would_free_room_too(bench: Bench) -> None:
    writer = bench.start()

    def always(step: str, jobs: Sequence[Job]) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    bench.fault = always
    removal, answer = bench.change(lambda table: table.remove([1]))
    writer.ask(removal)
    bench.take()
    assert isinstance(answer.error, SpoolFull)


def test_a_log_that_cannot_be_emptied_is_no_second_try(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(table: Table) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(Table, "empty_log", broken)
    writer = bench.start()
    seen: list[str] = []

    def full(step: str, jobs: Sequence[Job]) -> None:
        seen.append(step)
        raise OSError(errno.ENOSPC, "No space left on device")

    bench.fault = full
    removal, answer = bench.change(lambda table: None)
    writer.ask(removal)
    bench.take()
    assert isinstance(answer.error, SpoolFull)
    assert seen == ["begun"]


def test_a_rollback_that_fails_is_the_reason(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(table: Table) -> None:
        original(table)
        raise sqlite3.OperationalError("rollback failed")

    original = Table.rollback
    monkeypatch.setattr(Table, "rollback", broken)
    writer = bench.start()
    bench.fault = no_space
    writer.ask(bench.append())
    bench.take()
    assert "rollback failed" in str(bench.told[0])


def test_a_lost_piece_spoils_its_body_before_the_next_batch(bench: Bench) -> None:
    writer = bench.start()
    growing = Growing()

    def fault(step: str, jobs: Sequence[Job]) -> None:
        raise MemoryError

    bench.fault = fault
    writer.ask(Piece(growing, b"x", lambda size, error: None, 0.0))
    bench.take()
    assert isinstance(growing.error, SpoolFailed)
    assert str(growing.error) == "spool failed: MemoryError"


def test_a_change_to_a_file_that_is_gone_is_done(bench: Bench) -> None:
    writer = bench.start()
    change, answer = bench.change(lambda table: table.remove([1]), "gone-1")
    append = bench.append()
    append.key = "gone-1"
    for job in (change, append):
        writer.ask(job)
    while not bench.told:
        bench.take()
    assert answer.error is None
    assert isinstance(bench.told[0], SpoolFailed)


def test_dead_letters_are_trimmed(bench: Bench) -> None:
    writer = bench.start(most_dead_letters=300)
    for _ in range(3):
        writer.ask(bench.append())
        bench.take()
    for row in (1, 2, 3):
        change, _ = bench.change(lambda table, row=row: table.set_aside(row, 400, "x"))
        writer.ask(change)
        state = bench.take().state
    assert (state.dead_letters, state.dropped_dead_letters) == (1, 2)


def test_a_full_disk_is_seen_before_it_is_full(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    writer = bench.start(replace(SETTINGS, keep_free=10))
    real = os.statvfs(bench.directory)
    free = [real.f_blocks // 20]

    def statvfs(path: object) -> Any:
        if not free:
            raise OSError(errno.EIO, "Input/output error")
        return os.statvfs_result((*real[:2], real.f_blocks, free[0], free[0], *real[5:]))

    monkeypatch.setattr("proxy.spool.writer.os.statvfs", statvfs)
    writer.ask(bench.append())
    assert bench.take().state.disk_full
    free[0] = real.f_blocks // 2
    writer.ask(bench.append())
    assert not bench.take().state.disk_full
    free[0] = 0
    bench.run(writer, Writer.tend)
    monkeypatch.setattr(Table, "unused_bytes", lambda table: real.f_blocks * real.f_frsize)
    writer.ask(bench.append())
    assert not bench.take().state.disk_full
    free.clear()
    bench.run(writer, Writer.tend)


def test_adopted_files_are_read_and_removed_when_they_are_empty(bench: Bench) -> None:
    writer = bench.start()
    claim = bench.claim("7")
    table = Table(schema.connect(claim.path))
    table.load()
    table.begin()
    table.add([(record(1), b"x")])
    table.commit()
    table.close()
    bench.run(writer, lambda writer: writer.adopt([claim]))
    bench.run(writer, Writer.tend)
    writer.ask(bench.append())
    state = bench.take().state
    assert state.keys == (bench.key, claim.key)
    assert state.upstreams["default"].depth == 2
    change, _ = bench.change(lambda table: table.remove([1]), claim.key)
    writer.ask(change)
    bench.take()
    bench.run(writer, Writer.tend)
    assert claim.path.exists()
    bench.run(writer, Writer.remove_retired)
    assert not claim.path.exists()
    writer.ask(bench.append())
    assert bench.take().state.keys == (bench.key,)


def test_what_cannot_be_adopted_is_released(bench: Bench) -> None:
    writer = bench.start()
    good, bad, empty = (bench.claim(name) for name in "789")
    bad.path.write_bytes(b"no database" * 1000)
    connection = schema.connect(empty.path)
    connection.execute("DROP TABLE pieces")
    connection.close()
    for claims, text in (([good, bad], "not a database"), ([empty], "no such table")):
        with pytest.raises(SpoolFailed, match=text):
            bench.run(writer, lambda writer, claims=claims: writer.adopt(claims))
    assert [files.is_owned(claim.path) for claim in (good, bad, empty)] == [True, False, False]


def test_pieces_that_nothing_refers_to_go_while_nothing_is_asked(bench: Bench) -> None:
    writer = bench.start()
    growing = Growing()
    swept = threading.Event()

    def fault(step: str, jobs: Sequence[Job]) -> None:
        if not jobs:
            swept.set()
            raise OSError(errno.EIO, "Input/output error")

    bench.fault = fault
    for _ in range(3):
        writer.ask(Piece(growing, b"x", lambda size, error: None, 0.0))
    writer.ask(bench.change(lambda table: table.discard_pieces(growing.row))[0])
    assert swept.wait(WAIT)  # it failed, and was not tried for ever
    bench.fault = lambda step, jobs: None
    writer.ask(bench.append())
    while not bench.told:
        bench.take()
    writer.ask(bench.change(lambda table: table.remove([bench.told[0].id.row]))[0])


def test_tending_takes_wishes(bench: Bench) -> None:
    writer = bench.start()
    other = Table(schema.connect(files.databases(bench.directory)[0]))
    other.load()
    other.begin()
    other.wish(REPLAY_NOW)
    other.commit()
    other.close()
    assert bench.run(writer, Writer.tend) is True
    assert bench.run(writer, Writer.tend) is False


def test_an_empty_file_does_not_outlive_a_clean_stop(tmp_path: Path) -> None:
    for filled in (False, True):
        bench = Bench(tmp_path)
        writer = bench.start()
        if filled:
            writer.ask(bench.append())
            bench.take()
        writer.stop()
        assert bench.take().last
        writer.join()
        assert len(files.databases(tmp_path)) == filled
        assert not list(tmp_path.glob("*-wal"))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_file_that_cannot_be_closed_keeps_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path)
    writer = bench.start()
    other = bench.claim("1")
    bench.run(writer, lambda writer: writer.adopt([other]))
    close = Table.close

    def broken(table: Table) -> None:
        close(table)
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(Table, "close", broken)
    writer.stop()
    assert bench.take().last
    writer.join()
    assert [files.is_owned(path) for path in files.databases(tmp_path)] == [False, False]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_whatever_ends_the_thread_is_said(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    writer = bench.start()

    def fault(step: str, jobs: Sequence[Job]) -> None:
        raise ZeroDivisionError

    bench.fault = fault
    writer.ask(bench.append())
    assert bench.take().last
    writer.join()
    (path,) = files.databases(tmp_path) or [None]
    assert path is None or not files.is_owned(path)
