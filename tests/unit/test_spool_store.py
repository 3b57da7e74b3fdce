"""The store as the loop sees it: receipts, caps, order, adoption, damage, time-outs, its end."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from proxy.clock import NEVER, Clock, Deadlines
from proxy.spool import files, schema
from proxy.spool.record import Figures, Receipt, SpoolFailed, SpoolFull, UpstreamFigures
from proxy.spool.store import Store
from proxy.spool.table import REPLAY_NOW, Table, room
from tests.support.clock import HandClock
from tests.support.spooling import (
    ARRIVED,
    SETTINGS,
    body_of,
    everything,
    kept,
    opened,
    outcome_of,
    record,
    swept,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from proxy.spool.jobs import Job

pytestmark = pytest.mark.both_loops


async def large(store: Store, body: bytes, length: int | None = None) -> Receipt:
    entry = store.begin(record(length))
    for start in range(0, len(body), 50_000):
        if not entry.write(body[start : start + 50_000]):
            await entry.ready()
    return await entry.commit()


class Disk:
    """A disk that stands still until the test lets it go on."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()

    def __call__(self, step: str, jobs: Sequence[Job]) -> None:
        if step == "written":
            assert self.go.wait(20)


async def test_a_record_survives_the_store(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        first = await kept(store, b"one")
        await kept(store, b"two", arrived=ARRIVED - 1, route="/batch")
    async with opened(tmp_path) as store:
        found = await everything(store)
    assert [(stored.route, body) for stored, body in found] == [("/batch", b"two"), ("/e", b"one")]
    assert found[1][0].id == first


async def test_the_receipt_is_not_given_from_within_append(tmp_path: Path) -> None:
    told: list[Any] = []
    full = replace(SETTINGS, max_bytes=1)
    for settings in (SETTINGS, full):
        async with opened(tmp_path, settings=settings) as store:
            store.append(record(1), b"x", told.append)
            assert told == []
            await outcome_of(store, b"y")
            assert len(told) == 1
        told.clear()


async def test_only_the_owner_may_read_what_is_kept(tmp_path: Path) -> None:
    directory = tmp_path / "spool"
    async with opened(directory) as store:
        await kept(store, b"private")
        await everything(store)
        modes = {path.name.rpartition("-")[2]: path.stat().st_mode & 0o777 for path in directory.iterdir()}
        assert len(modes) == 4
        assert set(modes.values()) == {0o600}
        assert directory.stat().st_mode & 0o777 == 0o700


async def test_the_loops_deadlines_watch_it(tmp_path: Path) -> None:
    clock, disk = HandClock(), Disk()
    deadlines = Deadlines(clock)
    async with opened(tmp_path, clock=clock, fault=disk) as store:
        deadlines.watch(store)
        disk.go.clear()
        waiting = asyncio.ensure_future(outcome_of(store))
        await asyncio.sleep(0)
        clock.now += SETTINGS.commit_timeout
        deadlines.sweep()
        assert isinstance(await waiting, SpoolFailed)
        disk.go.set()


async def test_figures(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        assert store.figures() == Figures(files=1)
        await kept(store, b"12345")
        await kept(store, b"1", upstream="replay")
        figures = store.figures()
        assert figures.upstreams["default"] == UpstreamFigures(1, room(record(5), 5), ARRIVED)
        assert (figures.depth, figures.waiting_bytes) == (2, 0)
        assert repr(store) == f"<Store {tmp_path} 2 records, 0 jobs>"


async def test_delivered_set_aside_postponed(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        ids = [await kept(store, b"x", arrived=ARRIVED + number) for number in range(4)]
        await store.delivered(ids[:2])
        await store.delivered(ids[:2])
        await store.delivered([])
        await store.set_aside(ids[2], 413, "too large")
        await store.postponed(ids[3])
        ((stored, _),) = await everything(store)
        assert (stored.id, stored.attempts) == (ids[3], 1)
        assert (store.figures().depth, store.figures().dead_letters) == (1, 1)


async def test_a_large_body_comes_back_in_pieces(tmp_path: Path) -> None:
    body = bytes(range(256)) * 4096
    async with opened(tmp_path) as store:
        receipts = [await large(store, body, length) for length in (None, len(body))]
        found = await everything(store)
        assert [content for _, content in found] == [body, body]
        pieces = [len(piece) async for piece in store.body(found[0][0])]
        assert max(pieces) <= SETTINGS.piece
        await store.delivered([receipt.id for receipt in receipts])
        await swept(store)
        assert store._reserved == 0
    assert files.databases(tmp_path) == []


async def test_an_entry_that_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        entry = store.begin(record(None))
        entry.write(b"x" * 500_000)
        entry.abandon()
        await store.tend()
        await swept(store)
        assert (await everything(store), store._reserved, store._entries) == ([], 0, 0)
    assert files.databases(tmp_path) == []


async def test_a_body_that_was_cut_short_is_not_passed_off_as_whole(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await large(store, b"x" * 300_000)
        ((stored, _),) = await everything(store)
        with pytest.raises(SpoolFailed, match="ends 1 bytes early"):
            await body_of(store, replace(stored, length=stored.length + 1))
        await store.delivered([stored.id])
        with pytest.raises(SpoolFailed, match="is gone"):
            await body_of(store, stored)


class TestFull:
    async def test_by_bytes(self, tmp_path: Path) -> None:
        one = room(record(100), 100)
        async with opened(tmp_path, settings=replace(SETTINGS, max_bytes=4 * one), share=2) as store:
            first = await kept(store, b"x" * 100)
            told: list[Any] = []
            for _ in range(2):  # on its way counts too
                store.append(record(100), b"x" * 100, told.append)
            refused = await outcome_of(store, b"x")
            assert isinstance(refused, SpoolFull)
            assert refused.reason == "bytes"
            await kept_in_time(store)
            assert {type(outcome) for outcome in told} == {SpoolFull, Receipt}
            with pytest.raises(SpoolFull):
                store.begin(record(None))
            assert store.figures().refused == {"bytes": 3}
            await store.delivered([first])
            await kept(store, b"x" * 100)

    async def test_by_age_of_the_same_upstream(self, tmp_path: Path) -> None:
        clock = HandClock()
        settings = replace(SETTINGS, max_age=60.0)
        async with opened(tmp_path, settings=settings, clock=clock) as store:
            first = await kept(store, arrived=clock.wall())
            clock.now += 61
            refused = await outcome_of(store)
            assert isinstance(refused, SpoolFull)
            assert refused.reason == "age"
            await kept(store, upstream="replay")
            await store.delivered([first])
            await kept(store)

    async def test_by_memory_while_the_disk_stands_still(self, tmp_path: Path) -> None:
        disk = Disk()
        settings = replace(SETTINGS, memory=1000, piece=400)
        async with opened(tmp_path, settings=settings, fault=disk) as store:
            disk.go.clear()
            told: list[Any] = []
            for _ in range(5):
                store.append(record(200), b"x" * 200, told.append)
            assert store.figures().waiting_bytes <= 1000
            assert store.crowded
            with pytest.raises(SpoolFull, match="memory"):
                store.begin(record(None))
            disk.go.set()
            await kept_in_time(store)
            taken = [outcome for outcome in told if isinstance(outcome, Receipt)]
            assert 0 < len(taken) < 5
            assert store.figures().refused == {"memory": 5 - len(taken) + 1}
            assert not store.crowded
            assert store._reserved == 0

    async def test_many_bodies_at_a_time_are_memory_too(self, tmp_path: Path) -> None:
        settings = replace(SETTINGS, memory=1000, piece=400)
        async with opened(tmp_path, settings=settings) as store:
            entries = [store.begin(record(None)) for _ in range(2)]
            with pytest.raises(SpoolFull, match="memory"):
                store.begin(record(None))
            entries[0].abandon()
            store.begin(record(None)).abandon()
            entries[1].abandon()

    async def test_by_what_is_free_on_the_disk(self, tmp_path: Path) -> None:
        async with opened(tmp_path, settings=replace(SETTINGS, keep_free=100)) as store:
            await store.tend()
            refused = await outcome_of(store)
            assert isinstance(refused, SpoolFull)
            assert refused.reason == "disk"


async def kept_in_time(store: Store) -> None:
    """Wait until everything asked by now is done."""
    await store.tend()


class TestSlowDisk:
    async def test_who_waits_too_long_is_told(self, tmp_path: Path) -> None:
        clock, disk = HandClock(), Disk()
        async with opened(tmp_path, clock=clock, fault=disk) as store:
            assert store.due == NEVER
            disk.go.clear()
            waiting = asyncio.ensure_future(outcome_of(store, b"slow"))
            await asyncio.sleep(0)
            assert store.due == clock.now + SETTINGS.commit_timeout
            clock.now += 3
            later = asyncio.ensure_future(outcome_of(store, b"later"))
            await asyncio.sleep(0)
            clock.now += SETTINGS.commit_timeout - 3
            store.expire()
            outcome = await waiting
            assert isinstance(outcome, SpoolFailed)
            assert "longer than 5 s" in str(outcome)
            assert not later.done()
            disk.go.set()
            assert isinstance(await later, Receipt)
            assert store.due == NEVER
            assert store.figures().failed == 1
            # It was written all the same: twice is better than never.
            assert [body for _, body in await everything(store)] == [b"slow", b"later"]
            assert store._reserved == 0

    async def test_a_large_body_whose_commit_took_too_long_is_whole_or_gone(self, tmp_path: Path) -> None:
        clock, disk = HandClock(), Disk()
        async with opened(tmp_path, clock=clock, fault=disk) as store:
            for body in (b"x" * 300_000, b"small"):
                entry = store.begin(record(len(body)))
                entry.write(body)
                await store.tend()
                disk.go.clear()
                waiting = asyncio.ensure_future(entry.commit())
                await asyncio.sleep(0)
                clock.now += SETTINGS.commit_timeout
                store.expire()
                with pytest.raises(SpoolFailed):
                    await waiting
                disk.go.set()
                await store.tend()
                await swept(store)
            assert [len(body) for _, body in await everything(store)] == [300_000, 5]
            assert (store.figures().failed, store._reserved, store._entries) == (2, 0, 0)


class TestFailingDisk:
    async def test_the_client_is_not_told_that_it_is_kept(self, tmp_path: Path) -> None:
        failing = True

        def disk(step: str, jobs: Sequence[Job]) -> None:
            if failing and step == "written":
                raise OSError(5, "Input/output error")

        failing = False
        async with opened(tmp_path, fault=disk) as store:
            first = await kept(store, b"before")
            failing = True
            assert isinstance(await outcome_of(store, b"lost"), SpoolFailed)
            with pytest.raises(SpoolFailed):
                await large(store, b"x" * 500_000)
            with pytest.raises(SpoolFailed):
                await store.delivered([first])
            failing = False
            await kept(store, b"after")
            assert [body for _, body in await everything(store)] == [b"before", b"after"]
            assert (store.figures().failed, store._reserved) == (2, 0)

    async def test_a_directory_that_cannot_be(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        for name in ("file", "file/below"):
            with pytest.raises(SpoolFailed, match="file"):
                await Store.open(tmp_path / name, SETTINGS, Clock(), "0")

    async def test_a_directory_that_goes_away(self, tmp_path: Path) -> None:
        directory = tmp_path / "spool"
        async with opened(directory) as store:
            await kept(store)
            moved = directory.rename(tmp_path / "moved")
            with pytest.raises(SpoolFailed):
                await store.tend()
            moved.rename(directory)
            await store.tend()


class TestFiles:
    async def test_two_workers_share_a_directory(self, tmp_path: Path) -> None:
        async with opened(tmp_path, "0") as one, opened(tmp_path, "1") as two:
            await kept(one, b"one")
            await kept(two, b"two")
            assert (await one.tend()).adopted == 0
            assert [body for _, body in await everything(one)] == [b"one"]

    async def test_a_worker_that_starts_while_its_predecessor_drains(self, tmp_path: Path) -> None:
        async with opened(tmp_path, "0") as new:
            async with opened(tmp_path, "0") as old:
                await kept(old, b"old")
            assert (await new.tend()).adopted == 1
            await kept(new, b"new", arrived=ARRIVED + 1)
            assert [body for _, body in await everything(new)] == [b"old", b"new"]
            assert new.figures().files == 2

    async def test_what_a_dead_worker_left_is_adopted_emptied_and_removed(self, tmp_path: Path) -> None:
        async with opened(tmp_path, "7") as gone:
            await kept(gone, b"left")
            await large(gone, b"x" * 300_000)
        async with opened(tmp_path, "0") as store:
            assert (await store.tend()).adopted == 1
            found = await everything(store)
            assert len(found) == 2
            await store.delivered([stored.id for stored, _ in found])
            await swept(store)
            await store.tend()
            assert [path.name[:2] for path in files.databases(tmp_path)] == ["0-"]
            await store.delivered([stored.id for stored, _ in found])
            assert store.figures() == Figures(files=1)

    async def test_each_left_file_is_adopted_by_one(self, tmp_path: Path) -> None:
        for worker in "456789":
            async with opened(tmp_path, worker) as store:
                await kept(store, worker.encode())
        async with opened(tmp_path, "0") as one, opened(tmp_path, "1") as two, opened(tmp_path, "2") as three:
            stores = (one, two, three)
            tended = await asyncio.gather(*(store.tend() for store in stores))
            assert sum(each.adopted for each in tended) == 6
            bodies = [body for store in stores for _, body in await everything(store)]
            assert sorted(bodies) == [worker.encode() for worker in "456789"]

    async def test_a_damaged_file_is_set_aside_and_reported(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as store:
            await kept(store)
        (path,) = files.databases(tmp_path)
        path.write_bytes(b"no database" * 1000)
        async with opened(tmp_path) as store:
            (notice,) = store.notices
            assert "is damaged" in notice
            assert (tmp_path / f"{path.name}.damaged-1").read_bytes().startswith(b"no database")
            tended = await store.tend()
            assert tended.notices == (notice,)
            assert (await store.tend()).notices == ()
            await kept(store)

    async def test_a_file_of_a_later_version_is_let_alone(self, tmp_path: Path) -> None:
        async with opened(tmp_path, "7") as store:
            await kept(store)
        (path,) = files.databases(tmp_path)
        connection = schema.connect(path)
        connection.execute("PRAGMA user_version = 99")
        connection.close()
        before = path.read_bytes()
        async with opened(tmp_path) as store:
            (notice,) = (await store.tend()).notices
            assert "version 99" in notice
            assert (await store.tend()).notices == ()
        assert path.read_bytes() == before

    async def test_a_file_that_cannot_be_used_now_is_tried_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with opened(tmp_path, "7") as store:
            await kept(store)
        prepare = schema.prepare

        def busy(path: Path) -> None:
            if path.name.startswith("7-"):
                raise sqlite3.OperationalError("database is locked")
            prepare(path)

        async with opened(tmp_path, "0") as store:
            with monkeypatch.context() as patched:
                patched.setattr(schema, "prepare", busy)
                assert ["is locked" in notice for notice in (await store.tend()).notices] == [True]
                assert (await store.tend()).notices == ()
            assert (await store.tend()).adopted == 1

    async def test_what_fails_midway_holds_no_locks(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for worker in ("7", "8"):
            async with opened(tmp_path, worker) as store:
                await kept(store)
        prepare = schema.prepare

        def refused(path: Path) -> None:
            if path.name.startswith("8-"):
                raise PermissionError(13, "Permission denied")
            prepare(path)

        async with opened(tmp_path, "0") as store:
            with monkeypatch.context() as patched:
                patched.setattr(schema, "prepare", refused)
                with pytest.raises(SpoolFailed, match="Permission denied"):
                    await store.tend()
            assert (await store.tend()).adopted == 2

    async def test_a_new_file_that_cannot_be_made_is_a_failure(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(path: Path) -> None:
            raise schema.Damaged("at once")

        monkeypatch.setattr(schema, "prepare", broken)
        with pytest.raises(SpoolFailed, match="at once"):
            await Store.open(tmp_path, SETTINGS, Clock(), "0")
        assert files.databases(tmp_path) == []

    async def test_a_command_s_wish(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as store:
            assert not (await store.tend()).replay_now
            table = Table(schema.connect(files.databases(tmp_path)[0]))
            table.load()
            table.begin()
            table.wish(REPLAY_NOW)
            table.commit()
            table.close()
            assert (await store.tend()).replay_now
            assert not (await store.tend()).replay_now


class TestTheEnd:
    async def test_what_was_asked_before_is_kept(self, tmp_path: Path) -> None:
        told: list[Any] = []
        async with opened(tmp_path) as store:
            for _ in range(10):
                store.append(record(1), b"x", told.append)
        assert [type(outcome) for outcome in told] == [Receipt] * 10
        async with opened(tmp_path) as store:
            assert store.figures().depth == 10

    async def test_afterwards_nothing_is_taken_and_nobody_hangs(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as store:
            entry = store.begin(record(None))
        await store.close()
        assert isinstance(await outcome_of(store), SpoolFailed)
        with pytest.raises(SpoolFailed, match="closed"):
            store.begin(record(None))
        with pytest.raises(SpoolFailed):
            await entry.commit()
        assert store.due == NEVER

    async def test_a_caller_s_mistake_leaves_the_others_answered(self, tmp_path: Path) -> None:
        loop = asyncio.get_running_loop()
        said: list[dict[str, Any]] = []
        handler = loop.get_exception_handler()
        loop.set_exception_handler(lambda loop, context: said.append(context))
        async with opened(tmp_path) as store:

            def broken(outcome: object) -> None:
                raise ZeroDivisionError

            store.append(record(1), b"x", broken)
            await kept(store, b"y")
        loop.set_exception_handler(handler)
        assert [type(context["exception"]) for context in said] == [ZeroDivisionError]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_if_the_thread_dies_everybody_is_told(tmp_path: Path) -> None:
    def fault(step: str, jobs: Sequence[Job]) -> None:
        raise ZeroDivisionError

    async with opened(tmp_path, fault=fault) as store:
        assert isinstance(await outcome_of(store), SpoolFailed)
        assert isinstance(await outcome_of(store), SpoolFailed)
        with pytest.raises(SpoolFailed):
            await store.tend()
        assert store.figures().failed == 2


async def test_a_loop_that_is_gone_hears_nothing(tmp_path: Path) -> None:
    def run() -> None:
        loop = asyncio.new_event_loop()
        store = loop.run_until_complete(Store.open(tmp_path, SETTINGS, Clock(), "0"))
        store.append(record(1), b"x", lambda outcome: None)
        store._writer.stop()
        loop.close()
        store._writer.join()
        store._reading.shutdown()

    await asyncio.to_thread(run)
    async with opened(tmp_path) as store:
        assert store.figures().depth == 1
