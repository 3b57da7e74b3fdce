"""Reading: order over several files, where to go on, bodies."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from proxy.spool import reader as module
from proxy.spool import schema
from proxy.spool.reader import Reader
from proxy.spool.record import RecordId, SpoolFailed, Stored
from proxy.spool.table import Table
from tests.support.spooling import record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    reader = Reader(tmp_path)
    yield reader
    reader.close()


def fill(directory: Path, key: str, *arrivals: float, body: bytes = b"x", upstream: str = "default") -> None:
    path = directory / f"{key}.spool"
    path.touch()
    schema.prepare(path)
    table = Table(schema.connect(path))
    table.load()
    table.begin()
    table.add([(record(len(body), arrived=arrived, upstream=upstream), body) for arrived in arrivals])
    table.commit()
    table.close()


def arrivals(found: list[Stored]) -> list[float]:
    return [stored.arrived for stored in found]


def test_the_oldest_first_over_all_files(reader: Reader, tmp_path: Path) -> None:
    fill(tmp_path, "a", 1.0, 5.0, 3.0)
    fill(tmp_path, "b", 2.0, 4.0)
    fill(tmp_path, "b", 0.5, upstream="replay")
    assert arrivals(reader.oldest(["a", "b"], "default", 4, None)) == [1.0, 2.0, 3.0, 4.0]
    assert arrivals(reader.oldest(["b"], "default", 4, None)) == [2.0, 4.0]
    assert arrivals(reader.oldest(["a", "b"], "replay", 4, None)) == [0.5]
    assert reader.oldest(["a", "b"], "nobody", 4, None) == []
    assert reader.oldest([], "default", 4, None) == []


@pytest.mark.parametrize("count", [1, 2, 3, 100])
def test_page_by_page_nothing_is_missed_or_seen_twice(reader: Reader, tmp_path: Path, count: int) -> None:
    for key in ("a", "b", "c"):
        fill(tmp_path, key, 1.0, 1.0, 2.0, 1.0)
    seen: list[RecordId] = []
    while page := reader.oldest(["a", "b", "c"], "default", count, seen[-1] if seen else None):
        assert len(page) <= count
        seen += [stored.id for stored in page]
    assert len(seen) == 12
    assert seen == sorted(seen)


def test_what_was_stored_comes_back(reader: Reader, tmp_path: Path) -> None:
    fill(tmp_path, "a", 1.5, body=b"\x00body\xff")
    (stored,) = reader.oldest(["a"], "default", 1, None)
    made = record(6)
    assert stored == Stored(
        RecordId(1.5, "a", 1), 1.5, "default", "/e", made.client, made.head, 6, 0, b"\x00body\xff"
    )
    assert stored.inline == b"\x00body\xff"
    assert reader.body(stored, 0) == b"\x00body\xff"


def test_only_so_many_bodies_come_along(
    reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "INLINE_BYTES", 25)
    fill(tmp_path, "a", 1.0, 2.0, 3.0, body=b"ten bytes!")
    found = reader.oldest(["a"], "default", 5, None)
    assert [stored.inline for stored in found] == [b"ten bytes!", b"ten bytes!", None]
    assert reader.body(found[2], 0) == b"ten bytes!"


def test_all_files_share_the_room_for_bodies(
    reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "INLINE_BYTES", 25)
    fill(tmp_path, "a", 1.0, 3.0, body=b"ten bytes!")
    fill(tmp_path, "b", 2.0, 4.0, body=b"ten bytes!")
    found = reader.oldest(["a", "b"], "default", 5, None)
    assert [stored.inline for stored in found] == [b"ten bytes!", b"ten bytes!", None, None]


def test_a_body_in_pieces(reader: Reader, tmp_path: Path) -> None:
    fill(tmp_path, "a")
    table = Table(schema.connect(tmp_path / "a.spool"))
    table.load()
    table.begin()
    row = table.reserve_row()
    table.add_pieces([(row, 0, b"one"), (row, 1, b"two")])
    table.add_in_pieces(row, record(6), 6)
    table.commit()
    table.close()
    (stored,) = reader.oldest(["a"], "default", 1, None)
    assert stored.inline is None
    assert [reader.body(stored, number) for number in range(3)] == [b"one", b"two", None]


def test_what_cannot_be_read(reader: Reader, tmp_path: Path) -> None:
    fill(tmp_path, "a", 1.0)
    (stored,) = reader.oldest(["a"], "default", 1, None)
    with pytest.raises(SpoolFailed, match="a:7 is gone"):
        reader.body(replace(stored, id=RecordId(1.0, "a", 7)), 0)
    with pytest.raises(SpoolFailed, match="b: unable to open"):
        reader.oldest(["a", "b"], "default", 1, None)


def test_files_that_are_not_named_are_closed(reader: Reader, tmp_path: Path) -> None:
    fill(tmp_path, "a", 1.0)
    (stored,) = reader.oldest(["a"], "default", 1, None)
    (tmp_path / "a.spool").unlink()
    assert reader.body(stored, 0) == b"x"  # still open
    reader.use([])
    with pytest.raises(SpoolFailed):
        reader.body(stored, 0)
