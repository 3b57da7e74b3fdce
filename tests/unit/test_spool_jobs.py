"""What the writer is asked to do: what each job writes, and what it says when its transaction is undone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from proxy.spool import schema
from proxy.spool.jobs import Append, Change, Commit, Drop, Growing, Job, Piece, Remove, add_all, remove_all
from proxy.spool.record import Receipt, RecordId, SpoolFailed, SpoolFull
from proxy.spool.table import Table, room
from tests.support.spooling import ARRIVED, record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FAILED = SpoolFailed("disk I/O error")


@pytest.fixture
def table(tmp_path: Path) -> Iterator[Table]:
    path = tmp_path / "x.spool"
    path.touch()
    schema.prepare(path)
    table = Table(schema.connect(path))
    table.load()
    table.begin()
    yield table
    table.rollback()
    table.close()


def test_appends_get_their_rows_together(table: Table) -> None:
    told: list[Any] = []
    jobs = [Append(record(length), b"x" * length, told.append, 0.0) for length in (3, 5)]
    add_all(table, jobs)
    add_all(table, [])
    for job in jobs:
        job.key = "0-a"
        job.finish(None)
    assert told == [
        Receipt(RecordId(ARRIVED, "0-a", row), room(record(length), length))
        for row, length in ((1, 3), (2, 5))
    ]
    assert [job.size for job in jobs] == [receipt.bytes for receipt in told]


async def test_what_many_have_delivered_is_deleted_together(table: Table) -> None:
    add_all(table, [Append(record(1), b"x", lambda _: None, 0.0) for _ in range(4)])
    loop = asyncio.get_running_loop()
    jobs = [
        Remove("0-a", rows, lambda: None, future, 0.0)
        for rows, future in (([1, 3], loop.create_future()), ([4], loop.create_future()))
    ]
    remove_all(table, jobs)
    remove_all(table, [])
    assert table.figures()["default"].depth == 1


def test_an_append_that_failed_says_so() -> None:
    told: list[Any] = []
    Append(record(1), b"x", told.append, 0.0).finish(FAILED)
    assert told == [FAILED]


def test_a_small_body_is_one_row_whatever_way_it_came(table: Table) -> None:
    told: list[Any] = []
    commit = Commit(Growing(), record(5), b"small", 5, told.append, 0.0)
    commit.apply(table)
    commit.finish(None)
    assert table.figures()["default"].depth == 1
    assert told[0].id.row == 1


def test_pieces_then_the_record(table: Table) -> None:
    growing, told, done = Growing(), [], []

    def tell(size: int, error: object) -> None:
        told.append((size, error))

    jobs = [Piece(growing, data, tell, 0.0) for data in (b"one", b"three")]
    for job in jobs:
        job.apply(table)
        job.finish(None)
    assert told == [(3, None), (5, None)]
    assert table.figures() == {}
    for last in (b"", b"more"):
        commit = Commit(growing, record(8), last, 8, done.append, 0.0)
        if last:
            growing.row = table.reserve_row()
        commit.apply(table)
    assert growing.pieces == 3
    assert table.figures()["default"].depth == 2


@pytest.mark.parametrize("later", [Piece, Commit])
def test_after_a_lost_piece_nothing_of_the_body_is_written(table: Table, later: type[Job]) -> None:
    growing = Growing()
    told: list[Any] = []

    def tell(size: int, error: object) -> None:
        told.append(error)

    Piece(growing, b"lost", tell, 0.0).spoil(FAILED)
    job: Job
    if later is Piece:
        job = Piece(growing, b"x", tell, 0.0)
    else:
        job = Commit(growing, record(5), b"x", 5, told.append, 0.0)
    job.apply(table)
    job.finish(None)
    assert told == [FAILED]
    assert growing.row == 0
    assert table.figures() == {}


def test_a_record_that_was_undone_is_not_kept(table: Table) -> None:
    growing, told = Growing(), []
    commit = Commit(growing, record(1), b"x", 1, told.append, 0.0)
    commit.apply(table)
    assert growing.recorded
    commit.spoil(FAILED)
    assert growing.error is FAILED
    assert not growing.recorded


def test_pieces_are_dropped_where_there_are_any(table: Table) -> None:
    growing = Growing()
    drop = Drop(growing, 0.0)
    drop.apply(table)
    growing.add(table, b"x")
    drop.apply(table)
    growing.recorded = True
    drop.apply(table)
    drop.finish(FAILED)
    assert drop.frees
    table.commit()
    assert len(table.garbage) == 1
    table.begin()


async def test_a_change_is_awaited(table: Table) -> None:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()
    seen: list[Table] = []
    change = Change("0-a", seen.append, lambda: None, future, 0.0)
    assert change.frees
    change.apply(table)
    change.finish(None)
    change.finish(FAILED)  # told already
    await future
    assert seen == [table]


async def test_a_change_that_failed_raises() -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    Change("0-a", lambda table: None, lambda: None, future, 0.0).finish(SpoolFull("disk"))
    with pytest.raises(SpoolFull):
        await future


def test_a_job_is_something(table: Table) -> None:
    job = Job("", 0.0, 0)
    job.spoil(FAILED)
    with pytest.raises(NotImplementedError):
        job.apply(table)
    with pytest.raises(NotImplementedError):
        job.finish(None)
