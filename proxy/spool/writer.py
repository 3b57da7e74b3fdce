"""The one thread that writes: everything asked since the last commit goes into the next one.

::

    loop's thread                      writer's thread
    ask(job) ──▶ SimpleQueue ──▶ batch ─▶ for each file: BEGIN, jobs, COMMIT (fsync) ─▶ told(Batch)
                                                               └ error: ROLLBACK, all its jobs fail

Two commits are at least ``spool.commit_interval`` apart, so that under load many records share one; the
first after a pause goes at once. An error of one file fails the jobs of that file in that batch and nothing
else; where the disk is full, the log's room is won back, and what frees room is tried once more.

The thread never calls into the loop but by ``told``, which hands a ``Batch`` over (call_soon_threadsafe).
However it ends, it says so with a last batch.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import threading
import time
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from proxy.spool.jobs import Append, Job, Remove, add_all, remove_all
from proxy.spool.record import SpoolFailed, SpoolFull, total
from proxy.spool.schema import connect, primary_code
from proxy.spool.table import REPLAY_NOW, Table

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path
    from typing import TypeAlias

    from proxy.clock import Clock
    from proxy.config.schema import SpoolConfig
    from proxy.spool.files import Claim
    from proxy.spool.jobs import Error
    from proxy.spool.record import UpstreamFigures

    Fault: TypeAlias = Callable[[str, Sequence[Job]], None]

T = TypeVar("T")

MOST_JOBS = 1000
MOST_BYTES = 8 * 1024 * 1024
"""What one batch holds at most."""

LEAST_FREE = 16 * 1024 * 1024
"""Room on the disk that is left in any case: what is in the log needs as much again when it is moved into the
database, and a batch may still come."""

LOOK_INTERVAL, LOOK_BYTES = 0.25, 1024 * 1024
"""Seconds, or bytes of records, after which the disk's free room is asked for again, while there is some."""

KEPT_PAGES = 2048
SHRINK_PAGES = 512
"""Unused pages (8 KiB) that a file keeps, and those that it gives back in one tending."""


@dataclass(frozen=True, slots=True)
class State:
    """What the files hold after a batch. ``keys`` names them, the one for new records first."""

    upstreams: Mapping[str, UpstreamFigures] = field(default_factory=dict)
    dead_letters: int = 0
    dead_letter_bytes: int = 0
    dropped_dead_letters: int = 0
    disk_full: bool = False
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Batch:
    """Jobs that are done, in the order asked, each with its error; ``last``: the thread has ended."""

    finished: Sequence[tuple[Job, Error | None]]
    state: State
    last: bool = False


class Upkeep(Job, Generic[T]):
    """Work on the files themselves, between transactions: ``action`` runs in the writer's thread, and
    ``future`` gets what it returned."""

    __slots__ = ("_action", "_future", "_result")

    def __init__(self, action: Callable[[Writer], T], future: asyncio.Future[T], since: float) -> None:
        super().__init__("", since, 0)
        self._action = action
        self._future = future
        self._result: T

    def run(self, writer: Writer) -> None:
        """Do it. Raises ``sqlite3.Error`` or ``OSError``."""
        self._result = self._action(writer)

    def finish(self, error: Error | None) -> None:
        if self._future.done():
            return
        if error is None:
            self._future.set_result(self._result)
        else:
            self._future.set_exception(error)


@dataclass(slots=True)
class _Opened:
    claim: Claim
    table: Table


class Writer:
    """See the module. ``told`` is called in the thread. ``fault`` is called at each step of a transaction
    (``begun``, ``written``, ``committed``) with its jobs: tests are slow, raise or kill the process there."""

    def __init__(
        self,
        directory: Path,
        settings: SpoolConfig,
        clock: Clock,
        told: Callable[[Batch], None],
        *,
        most_dead_letters: int,
        fault: Fault | None = None,
    ) -> None:
        self._directory = directory
        self._settings = settings
        self._clock = clock
        self._told = told
        self._most_dead_letters = most_dead_letters
        self._fault = fault
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._files: dict[str, _Opened] = {}
        self._retired: dict[str, _Opened] = {}
        self._own = ""
        self._dropped = 0
        self._disk_full = False
        self._look_at, self._unlooked = float("-inf"), 0
        self._thread = threading.Thread(target=self._run, name="spool-writer", daemon=True)

    def start(self) -> None:
        """Start the thread. The first job is to be an ``Upkeep`` that adopts the file for new records."""
        self._thread.start()

    def ask(self, job: Job) -> None:
        """Have a job done after those asked before. Never waits."""
        self._queue.put(job)

    def stop(self) -> None:
        """End the thread after what was asked; its last batch says that it ended."""
        self._queue.put(None)

    def join(self) -> None:
        """Wait for the thread after its last batch, which is the last thing that it does."""
        self._thread.join()

    # The thread.

    def _run(self) -> None:
        with contextlib.ExitStack() as last_words:
            last_words.callback(lambda: self._told(Batch([], self._state(), last=True)))
            last_words.callback(self._close)
            self._work()

    def _close(self) -> None:
        with contextlib.ExitStack() as each:  # one that fails does not keep the others open
            for opened in (*self._files.values(), *self._retired.values()):
                each.callback(_close, opened)

    def _work(self) -> None:
        last = float("-inf")
        while True:
            item = self._next()
            pause = last + self._settings.commit_interval - self._clock.monotonic()
            if pause > 0:
                time.sleep(pause)
            jobs, item = self._gather(item)
            if jobs:
                last = self._clock.monotonic()
                finished = self._write(jobs)
                self._look(last, sum(job.size for job in jobs))
                self._told(Batch(finished, self._state()))
            if isinstance(item, Upkeep):
                error = self._keep_up(item)
                self._told(Batch([(item, error)], self._state()))
            elif item is None:
                return

    def _next(self) -> Job | None:
        """The next thing asked; until there is one, pieces that nothing refers to are deleted."""
        for opened in self._files.values():
            while opened.table.garbage:
                with contextlib.suppress(Empty):
                    return self._queue.get_nowait()
                if self._transaction(opened.table, ()) is not None:
                    break
        return self._queue.get()

    def _gather(self, item: Job | None) -> tuple[list[Job], Job | None]:
        """The jobs asked by now for one transaction, ``item`` the first, and what ended them: work of
        another kind, ``None`` (the end), or the last of them where there is no more or no more fits."""
        jobs: list[Job] = []
        size = 0
        while item is not None and not isinstance(item, Upkeep):
            jobs.append(item)
            size += item.size
            if len(jobs) >= MOST_JOBS or size >= MOST_BYTES:
                break
            try:
                item = self._queue.get_nowait()
            except Empty:
                break
        return jobs, item

    def _write(self, jobs: Sequence[Job]) -> list[tuple[Job, Error | None]]:
        by_file: dict[str, list[Job]] = {}
        for job in jobs:
            job.key = job.key or self._own
            by_file.setdefault(job.key, []).append(job)
        errors: dict[Job, Error] = {}
        for key, group in by_file.items():
            if key in self._files:
                errors |= self._commit(self._files[key].table, group)
            else:  # in a file that is gone nothing is left to change, and nothing can be kept
                gone = SpoolFailed(f"there is no file {key!r}")
                errors |= {job: gone for job in group if not job.frees}
        return [(job, errors.get(job)) for job in jobs]

    def _commit(self, table: Table, jobs: Sequence[Job]) -> dict[Job, Error]:
        """Do jobs in one transaction; return those that failed."""
        error = self._transaction(table, jobs)
        if error is None:
            return {}
        for job in jobs:
            job.spoil(error)
        errors = dict.fromkeys(jobs, error)
        if isinstance(error, SpoolFull) and _emptied(table):
            freeing = [job for job in jobs if job.frees]
            if freeing and self._transaction(table, freeing) is None:
                for job in freeing:
                    del errors[job]
        return errors

    def _transaction(self, table: Table, jobs: Sequence[Job]) -> Error | None:
        try:
            table.begin()
            self._step("begun", jobs)
            add_all(table, [job for job in jobs if isinstance(job, Append)])
            remove_all(table, [job for job in jobs if isinstance(job, Remove)])
            for job in jobs:
                if not isinstance(job, Append | Remove):
                    job.apply(table)
            if table.dead_letter_bytes > self._most_dead_letters:
                self._dropped += table.trim_dead_letters(self._most_dead_letters)
            table.sweep()
            self._step("written", jobs)
            table.commit()
        except (sqlite3.Error, OSError, MemoryError) as error:
            return _undone(table, error)
        self._step("committed", jobs)
        return None

    def _step(self, name: str, jobs: Sequence[Job]) -> None:
        if self._fault is not None:
            self._fault(name, jobs)

    # Upkeep: called by ``Upkeep`` jobs.

    def _keep_up(self, upkeep: Upkeep[Any]) -> Error | None:
        try:
            upkeep.run(self)
        except (sqlite3.Error, OSError) as error:
            return _reason(error)
        return None

    def adopt(self, claims: Iterable[Claim]) -> None:
        """Open files that this process has claimed and that are sound; the first of all is for new
        records. Raises ``sqlite3.Error``; what is not opened then is released."""
        left = list(claims)
        try:
            while left:
                table = Table(connect(left[0].path))
                try:
                    table.load()
                except sqlite3.Error:
                    table.close()
                    raise
                claim = left.pop(0)
                self._own = self._own or claim.key
                self._files[claim.key] = _Opened(claim, table)
        finally:
            for claim in left:
                claim.release()

    def tend(self) -> bool:
        """Notice what commands did, give room back, retire adopted files that are empty. Returns whether
        a replay is wished for. Raises ``sqlite3.Error``."""
        self._disk_full = self._is_disk_full()
        wishes: set[str] = set()
        for key, opened in list(self._files.items()):
            table = opened.table
            table.changed_outside()
            wishes |= table.take_wishes()
            if not self._disk_full:
                table.shrink(KEPT_PAGES, SHRINK_PAGES)
            elif _emptied(table):  # what moves pages needs room in the log
                table.shrink(0, SHRINK_PAGES)
                _emptied(table)
            if key != self._own and table.empty:
                self._retired[key] = self._files.pop(key)
        self._disk_full = self._is_disk_full()
        return REPLAY_NOW in wishes

    def remove_retired(self) -> None:
        """Delete retired files, which no other thread has open any more. Raises ``OSError``."""
        for key, opened in list(self._retired.items()):
            del self._retired[key]
            opened.table.close()
            opened.claim.remove()

    # Figures.

    def _state(self) -> State:
        tables = [opened.table for opened in self._files.values()]
        return State(
            total(table.figures() for table in tables),
            sum(table.dead_letters for table in tables),
            sum(table.dead_letter_bytes for table in tables),
            self._dropped,
            self._disk_full,
            tuple(self._files),
        )

    def _look(self, now: float, written: int) -> None:
        """Look at the disk, if it is time."""
        self._unlooked += written
        if self._disk_full or now >= self._look_at or self._unlooked >= LOOK_BYTES:
            self._disk_full = self._is_disk_full()
            self._look_at, self._unlooked = now + LOOK_INTERVAL, 0

    def _is_disk_full(self) -> bool:
        """Whether too little of the disk is free; what is unused in our own file can be used again."""
        try:
            disk = os.statvfs(self._directory)
            share = self._settings.keep_free
            wanted = max(disk.f_blocks * disk.f_frsize * share // 100, LEAST_FREE * (share > 0))
            lacking = wanted - disk.f_bavail * disk.f_frsize
            return lacking > 0 and lacking > self._files[self._own].table.unused_bytes()
        except (OSError, sqlite3.Error):  # whoever writes next will hear of it
            return False


def _undone(table: Table, error: Exception) -> Error:
    """Undo a transaction after an error; return what to say of it."""
    try:
        table.rollback()
    except sqlite3.Error as second:
        error = second
    return _reason(error)


def _emptied(table: Table) -> bool:
    """Win back the log's room."""
    try:
        table.empty_log()
    except sqlite3.Error:
        return False
    return True


def _reason(error: Exception) -> Error:
    full = isinstance(error, sqlite3.Error) and primary_code(error) == sqlite3.SQLITE_FULL
    if full or (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)):
        return SpoolFull("disk")
    return SpoolFailed(str(error) or type(error).__name__)


def _close(opened: _Opened) -> None:
    """Let go of a file; one with nothing in it goes."""
    try:
        opened.table.close()
        if opened.table.empty:
            opened.claim.remove()
    finally:
        opened.claim.release()
