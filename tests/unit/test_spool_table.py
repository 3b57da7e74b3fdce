"""The rows of one file, and whether the figures always are what a count of the rows gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from proxy.spool import schema
from proxy.spool.record import UpstreamFigures
from proxy.spool.table import REPLAY_NOW, SLICE, Table, room
from tests.support.spooling import ARRIVED, record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "x.spool"
    path.touch()
    schema.prepare(path)
    return path


@pytest.fixture
def table(path: Path) -> Iterator[Table]:
    table = Table(schema.connect(path))
    table.load()
    yield table
    table.close()


def within(table: Table, action: Callable[[], object]) -> None:
    """One transaction, after which the figures equal a fresh count."""
    table.begin()
    action()
    table.commit()
    figures, dead = table.figures(), (table.dead_letters, table.dead_letter_bytes)
    table.recount()
    assert (table.figures(), (table.dead_letters, table.dead_letter_bytes)) == (figures, dead)


def add(table: Table, *lengths: int, upstream: str = "default", arrived: float = ARRIVED) -> list[int]:
    records = [
        (record(length, upstream=upstream, arrived=arrived + number), b"x" * length)
        for number, length in enumerate(lengths)
    ]
    first = table.next_row
    within(table, lambda: table.add(records))
    return list(range(first, first + len(lengths)))


def add_large(table: Table, pieces: int) -> int:
    row = 0

    def action() -> None:
        nonlocal row
        row = table.reserve_row()
        for number in range(pieces):
            table.add_pieces([(row, number, b"piece")])
        table.add_in_pieces(row, record(5 * pieces), 5 * pieces)

    within(table, action)
    return row


def pieces_in(path: Path) -> int:
    connection = schema.connect(path, read_only=True)
    (count,) = connection.execute("SELECT count(*) FROM pieces").fetchone()
    connection.close()
    return int(count)


def test_records_add_up_for_each_upstream(table: Table) -> None:
    assert table.empty
    assert add(table, 10, 20) == [1, 2]
    assert add(table, 5, upstream="replay", arrived=ARRIVED - 100) == [3]
    assert add(table, 7, arrived=ARRIVED - 7) == [4]
    default = sum(room(record(length), length) for length in (10, 20, 7))
    assert table.figures() == {
        "default": UpstreamFigures(3, default, ARRIVED - 7),
        "replay": UpstreamFigures(1, room(record(5), 5), ARRIVED - 100),
    }
    assert not table.empty
    assert repr(table) == "<Table 4 records>"


def test_what_is_removed_is_subtracted(table: Table) -> None:
    rows = add(table, 10, 20, 30)
    within(table, lambda: table.remove(rows[:2]))
    within(table, lambda: table.remove([*rows[:2], 999]))
    assert table.figures()["default"] == UpstreamFigures(1, room(record(30), 30), ARRIVED + 2)
    within(table, lambda: table.remove(rows))
    assert table.figures() == {}
    assert table.empty


def test_rows_are_not_used_twice(table: Table, path: Path) -> None:
    rows = add(table, 1, 2)
    within(table, lambda: table.remove(rows))
    assert add(table, 3) == [3]
    other = Table(schema.connect(path))
    other.load()
    assert other.next_row == 4
    other.close()


def test_a_rollback_is_as_if_nothing_had_been(table: Table) -> None:
    row = add_large(table, 2)
    before = table.figures()
    table.begin()
    table.add([(record(1, upstream="new"), b"x")])
    table.remove([row])
    table.rollback()
    assert table.stale
    assert not table.garbage
    table.recount()
    assert not table.stale
    assert table.figures() == before
    table.rollback()  # of nothing
    assert add(table, 1, upstream="new") == [3]


def test_the_figures_of_a_rollback_are_counted_anew_before_more_is_written(table: Table) -> None:
    table.begin()
    table.add([(record(1), b"x")])
    table.rollback()
    table.begin()
    table.commit()
    assert table.figures() == {}


def test_pieces_of_a_record_go_in_slices(table: Table, path: Path) -> None:
    row = add_large(table, SLICE + 3)
    assert table.figures()["default"].bytes == room(record(5), 5 * (SLICE + 3)) + 1  # a longer number
    within(table, lambda: table.remove([row]))
    assert not table.empty
    left = []
    while table.garbage:
        within(table, table.sweep)
        left.append(pieces_in(path))
    assert left == [3, 0, 0]
    assert table.empty
    within(table, table.sweep)


def test_pieces_without_a_record_are_found_at_the_start(table: Table, path: Path) -> None:
    kept = add_large(table, 2)
    row = table.reserve_row()
    within(table, lambda: table.add_pieces([(row, number, b"left over") for number in range(3)]))
    other = Table(schema.connect(path))
    other.load()
    assert other.next_row == row + 1
    while other.garbage:
        within(other, other.sweep)
    assert pieces_in(path) == 2
    assert other.figures()["default"].depth == 1
    other.close()
    assert kept == 1


def test_dead_letters_wait_no_more(table: Table) -> None:
    rows = add(table, 10, 20)
    within(table, lambda: table.set_aside(rows[0], 400, "refused"))
    within(table, lambda: table.set_aside(rows[0], 413, "once more does nothing"))
    within(table, lambda: table.set_aside(99, 400, "gone"))
    assert table.figures()["default"] == UpstreamFigures(1, room(record(20), 20), ARRIVED + 1)
    assert (table.dead_letters, table.dead_letter_bytes) == (1, room(record(10), 10))
    within(table, lambda: table.remove([rows[0]]))
    assert (table.dead_letters, table.dead_letter_bytes) == (0, 0)


def test_dead_letters_live_again(table: Table) -> None:
    rows = add(table, 10, 20)
    within(table, lambda: table.postpone(rows))
    within(table, lambda: table.set_aside(rows[1], 400, "refused"))
    revived = []
    within(table, lambda: revived.append(table.revive(rows)))
    assert revived == [1]
    assert table.figures()["default"].depth == 2
    assert table.dead_letters == 0


def test_the_oldest_dead_letters_make_room(table: Table) -> None:
    rows = add(table, 10, 10, 10)
    for row in rows:
        within(table, lambda row=row: table.set_aside(row, 400, ""))
    one = room(record(10), 10)
    gone = []
    within(table, lambda: gone.append(table.trim_dead_letters(3 * one)))
    within(table, lambda: gone.append(table.trim_dead_letters(2 * one - 1)))
    assert gone == [0, 2]
    assert table.dead_letters == 1
    within(table, lambda: table.remove([rows[2]]))
    assert table.empty


def test_what_another_process_does_is_noticed(table: Table, path: Path) -> None:
    rows = add(table, 10)
    assert not table.changed_outside()
    add(table, 5)
    assert not table.changed_outside()
    other = Table(schema.connect(path))
    other.load()
    within(other, lambda: other.remove(rows))
    assert table.changed_outside()
    assert table.figures()["default"].depth == 1
    assert not table.changed_outside()
    other.close()


def test_wishes_are_taken_once(table: Table) -> None:
    assert table.take_wishes() == set()
    within(table, lambda: table.wish(REPLAY_NOW))
    within(table, lambda: table.wish(REPLAY_NOW))
    assert table.take_wishes() == {REPLAY_NOW}
    assert table.take_wishes() == set()


def test_room_is_given_back_to_the_disk(table: Table, path: Path) -> None:
    rows = add(table, *[100_000] * 20)
    within(table, lambda: table.remove(rows))
    table.empty_log()
    assert 20 * 100_000 < table.unused_bytes() < 20 * 120_000
    large = path.stat().st_size
    table.shrink(keep=10, pages=100)
    table.empty_log()
    assert large - 150 * schema.PAGE < path.stat().st_size < large - 50 * schema.PAGE
    for _ in range(10):
        table.shrink(keep=10, pages=100)
    table.empty_log()
    assert path.stat().st_size < 40 * schema.PAGE
