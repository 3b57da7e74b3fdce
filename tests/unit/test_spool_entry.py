"""A body in pieces: rows of one size, a bounded window, room that is asked for and given back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from proxy.spool.entry import WINDOW, PiecewiseEntry
from proxy.spool.jobs import Commit, Drop, Piece
from proxy.spool.record import Receipt, SpoolFailed, SpoolFull
from proxy.spool.table import room
from tests.support.spooling import record

if TYPE_CHECKING:
    from proxy.spool.jobs import Error, Job

PIECE = 10
FAILED = SpoolFailed("disk I/O error")


class Owner:
    """A store whose disk is the test."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.reserved = 0
        self.room = 1 << 30
        self.crowded = False
        self.losses: list[Error] = []
        self.open = 1

    def reserve(self, size: int, upstream: str) -> SpoolFull | None:
        if self.reserved + size > self.room:
            return SpoolFull("bytes")
        self.reserved += size
        return None

    def give_back(self, size: int) -> None:
        self.reserved -= size

    def lost(self, error: Error) -> None:
        self.losses.append(error)

    def ended(self) -> None:
        self.open -= 1

    def ask(self, job: Job) -> None:
        self.jobs.append(job)

    def now(self) -> float:
        return 0.0

    def entry(self, length: int | None = None) -> PiecewiseEntry:
        size = room(record(length), length or 0)
        self.reserved += size
        return PiecewiseEntry(self, record(length), PIECE, size)

    def finish(self, error: Error | None = None) -> None:
        """The disk did all it was asked, or failed."""
        jobs, self.jobs = self.jobs, []
        for job in jobs:
            if error is not None:
                job.spoil(error)
            job.finish(error)

    @property
    def kinds(self) -> list[type[Job]]:
        return [type(job) for job in self.jobs]


@pytest.fixture
def owner() -> Owner:
    return Owner()


async def committed(owner: Owner, entry: PiecewiseEntry, error: Error | None = None) -> Any:
    task = asyncio.ensure_future(entry.commit())
    await asyncio.sleep(0)
    owner.finish(error)
    try:
        return await task
    finally:
        owner.finish()


async def test_a_small_body_is_one_job(owner: Owner) -> None:
    entry = owner.entry(9)
    assert entry.write(b"four")
    assert entry.write(b"fives")
    assert owner.jobs == []
    receipt = await committed(owner, entry)
    assert isinstance(receipt, Receipt)
    assert receipt.bytes == room(record(9), 9)
    assert (owner.reserved, owner.open, owner.losses) == (0, 0, [])
    assert repr(entry) == "<PiecewiseEntry ended, 9 bytes>"


@pytest.mark.parametrize("cut", [1, 3, 10, 11, 95])
async def test_whatever_the_writes_the_rows_are_pieces(owner: Owner, cut: int) -> None:
    entry = owner.entry()
    body = bytes(range(95))
    rows: list[bytes] = []

    def finish() -> None:
        rows.extend(job._data for job in owner.jobs if isinstance(job, Piece | Commit))
        owner.finish()

    for start in range(0, len(body), cut):
        if not entry.write(body[start : start + cut]):
            finish()
            await entry.ready()
    task = asyncio.ensure_future(entry.commit())
    await asyncio.sleep(0)
    finish()
    await task
    assert b"".join(rows) == body
    assert {len(row) for row in rows[:-1]} == {PIECE}
    assert owner.reserved == 0


async def test_the_head_may_come_last(owner: Owner) -> None:
    entry = owner.entry()
    entry.write(b"12345")
    task = asyncio.ensure_future(entry.commit(b"final"))
    await asyncio.sleep(0)
    (job,) = owner.jobs
    assert isinstance(job, Commit)
    assert (job.record.head, job.record.length) == (b"final", 5)
    owner.finish()
    await task


async def test_the_window_is_bounded(owner: Owner) -> None:
    entry = owner.entry(1000)
    written = 0
    while entry.write(b"x" * PIECE):
        written += 1
    assert WINDOW <= written <= WINDOW + 2
    ready = asyncio.ensure_future(entry.ready())
    while len(owner.jobs) > WINDOW // 2:
        await asyncio.sleep(0)
        assert not ready.done()
        owner.jobs.pop(0).finish(None)
    await ready
    await entry.ready()  # at once
    entry.abandon()


async def test_with_a_crowd_each_waits_for_its_own(owner: Owner) -> None:
    owner.crowded = True
    entry = owner.entry(1000)
    assert entry.write(b"x" * PIECE)
    assert not entry.write(b"x")
    ready = asyncio.ensure_future(entry.ready())
    await asyncio.sleep(0)
    assert not ready.done()
    owner.finish()
    await ready
    entry.abandon()


async def test_who_gives_up_waiting_harms_nobody(owner: Owner) -> None:
    owner.crowded = True
    entry = owner.entry()
    entry.write(b"x" * 2 * PIECE)
    ready = asyncio.ensure_future(entry.ready())
    await asyncio.sleep(0)
    ready.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ready
    owner.finish()
    entry.abandon()


async def test_an_unknown_length_asks_for_room_as_it_grows(owner: Owner) -> None:
    owner.room = room(record(None), 0) + 5 * PIECE
    entry = owner.entry(None)
    for _ in range(4):
        entry.write(b"x" * PIECE)
    assert owner.reserved <= owner.room
    entry.write(b"x" * PIECE)
    assert not entry.write(b"x" * 2 * PIECE)
    assert repr(entry).startswith("<PiecewiseEntry failed")
    with pytest.raises(SpoolFull, match="bytes"):
        await entry.ready()
    with pytest.raises(SpoolFull, match="bytes"):
        await entry.commit()
    assert (owner.reserved, owner.open, len(owner.losses)) == (0, 0, 1)
    assert owner.kinds[-1] is Drop


async def test_a_piece_that_failed_fails_the_entry_once(owner: Owner) -> None:
    entry = owner.entry(100)
    entry.write(b"x" * 95)
    ready = asyncio.ensure_future(entry.ready())
    await asyncio.sleep(0)
    owner.finish(FAILED)
    with pytest.raises(SpoolFailed):
        await ready
    with pytest.raises(SpoolFailed):
        await entry.commit()
    entry.abandon()
    assert owner.kinds == [Drop]
    assert (owner.losses, owner.reserved) == ([FAILED], 0)


async def test_a_piece_fails_before_anybody_asks(owner: Owner) -> None:
    entry = owner.entry(100)
    entry.write(b"x" * 15)
    owner.finish(FAILED)
    assert not entry.write(b"x" * 15)
    with pytest.raises(SpoolFailed):
        await entry.commit()
    assert (owner.losses, owner.reserved) == ([FAILED], 0)


async def test_a_commit_that_failed_drops_the_pieces(owner: Owner) -> None:
    entry = owner.entry(95)
    entry.write(b"x" * 95)
    with pytest.raises(SpoolFailed):
        await committed(owner, entry, FAILED)
    assert (owner.losses, owner.reserved, owner.open) == ([FAILED], 0, 0)


async def test_a_commit_may_be_cancelled(owner: Owner) -> None:
    entry = owner.entry(5)
    entry.write(b"12345")
    task = asyncio.ensure_future(entry.commit())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    owner.finish()
    assert owner.reserved == 0


async def test_abandoned(owner: Owner) -> None:
    entry = owner.entry(100)
    entry.write(b"x" * 25)
    entry.abandon()
    entry.abandon()
    assert owner.kinds == [Piece, Piece, Drop]
    assert (owner.reserved, owner.open, owner.losses) == (0, 0, [])
    with pytest.raises(RuntimeError):
        entry.write(b"x")
    with pytest.raises(RuntimeError):
        await entry.commit()
    owner.finish(FAILED)
    assert owner.losses == []
