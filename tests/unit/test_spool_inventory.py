"""The files as a command sees them, beside a store that uses them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from proxy.spool import files, schema
from proxy.spool.inventory import Inventory, SpoolUnusable
from tests.support.spooling import ARRIVED, everything, kept, opened, record

if TYPE_CHECKING:
    from pathlib import Path

    from proxy.spool.record import RecordId
    from proxy.spool.store import Store


async def dead(store: Store, count: int) -> list[RecordId]:
    ids = [await kept(store, b"refused", arrived=ARRIVED + number) for number in range(count)]
    for key in ids:
        await store.set_aside(key, 400, "no such project")
    return ids


async def test_figures_of_a_live_and_of_a_left_file(tmp_path: Path) -> None:
    async with opened(tmp_path, "7") as store:
        await kept(store, b"left")
    async with opened(tmp_path, "0") as store:
        await dead(store, 2)
        owned, left = Inventory(tmp_path).figures()
        assert (owned.owned, owned.dead_letters, owned.upstreams) == (True, 2, {})
        assert (left.owned, left.upstreams["default"].depth) == (False, 1)
        assert left.name.startswith("7-")


async def test_records_of_all_files_by_arrival(tmp_path: Path) -> None:
    async with opened(tmp_path, "0") as one, opened(tmp_path, "1") as two:
        for number in range(150):
            await kept(one if number % 2 else two, b"x", arrived=float(number))
        (letter,) = await dead(one, 1)
        inventory = Inventory(tmp_path)
        assert [held.stored.arrived for held in inventory.records()] == [float(n) for n in range(150)]
        (held,) = inventory.records(dead=True)
        assert (held.stored.id, held.status, held.reason) == (letter, 400, "no such project")
        assert inventory.find(str(letter)) == held
        first = next(inventory.records())
        assert inventory.find(str(first.stored.id)) == first
        assert first.status is None


async def test_bodies(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        small = await kept(store, b"small")
        entry = store.begin(record(None))
        entry.write(b"large" * 50_000)
        large = (await entry.commit()).id
        inventory = Inventory(tmp_path)
        assert list(inventory.body(small)) == [b"small"]
        assert b"".join(inventory.body(large)) == b"large" * 50_000
        await store.delivered([small])
        with pytest.raises(SpoolUnusable, match="is gone"):
            list(inventory.body(small))


@pytest.mark.parametrize("all_of_them", [False, True])
async def test_dead_letters_retried_while_the_store_is_in_use(tmp_path: Path, all_of_them: bool) -> None:
    async with opened(tmp_path) as store:
        ids = await dead(store, 3)
        names = None if all_of_them else [str(key) for key in ids[:2]]
        count = 3 if all_of_them else 2
        assert Inventory(tmp_path).revive(names) == count
        await store.tend()
        assert (store.figures().depth, store.figures().dead_letters) == (count, 3 - count)
        assert len(await everything(store)) == count


@pytest.mark.parametrize("all_of_them", [False, True])
async def test_dead_letters_dropped_with_their_pieces(tmp_path: Path, all_of_them: bool) -> None:
    async with opened(tmp_path) as store:
        entry = store.begin(record(None))
        entry.write(b"x" * 3_000_000)
        large = (await entry.commit()).id
        await store.set_aside(large, 413, "too large")
        (small,) = await dead(store, 1)
        names = None if all_of_them else [str(large)]
        assert Inventory(tmp_path).drop(names) == (2 if all_of_them else 1)
        await store.tend()
        assert store.figures().dead_letters == (0 if all_of_them else 1)
        await kept(store)
    (path,) = files.databases(tmp_path)
    connection = schema.connect(path)
    assert connection.execute("SELECT count(*) FROM pieces").fetchone() == (0,)
    connection.close()
    assert small.row > large.row


async def test_a_wish_reaches_only_living_processes(tmp_path: Path) -> None:
    async with opened(tmp_path, "7") as store:
        await kept(store)
    inventory = Inventory(tmp_path)
    assert inventory.wish_for_replay() == 0
    async with opened(tmp_path, "0") as store:
        assert inventory.wish_for_replay() == 1
        assert (await store.tend()).replay_now


async def test_what_cannot_be(tmp_path: Path) -> None:
    inventory = Inventory(tmp_path)
    async with opened(tmp_path) as store:
        key = await kept(store)
        for name, text in (
            ("nonsense", "no record's id"),
            (f"{key.file}:x", "no record's id"),
            (f"{key.file}:99", "no such record"),
            ("../../etc/passwd:1", "no such file"),
        ):
            with pytest.raises(SpoolUnusable, match=text):
                inventory.find(name)
        with pytest.raises(SpoolUnusable, match="waits for delivery"):
            inventory.drop([str(key)])
    with pytest.raises(SpoolUnusable, match="No such file"):
        Inventory(tmp_path / "none").figures()


async def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "0-a.spool.damaged-1").touch()
    (tmp_path / "0-a.spool.damaged-1-wal").touch()
    assert Inventory(tmp_path).damaged() == ["0-a.spool.damaged-1"]
    claim = files.create(tmp_path, "0")
    with pytest.raises(SpoolUnusable, match="another version"):
        Inventory(tmp_path).figures()
    claim.path.write_bytes(b"no database" * 1000)
    with pytest.raises(SpoolUnusable, match="not a database"):
        Inventory(tmp_path).figures()
    claim.release()
