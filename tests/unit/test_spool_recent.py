"""What was kept since nothing waited: all of it is known, or nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from proxy.spool import recent as module
from proxy.spool.recent import Recent
from proxy.spool.record import RecordId, SpoolRecord, UpstreamFigures

if TYPE_CHECKING:
    from collections.abc import Mapping


def depths(**waiting: int) -> Mapping[str, UpstreamFigures]:
    return {name: UpstreamFigures(depth) for name, depth in waiting.items()}


def keep(recent: Recent, row: int, *, upstream: str = "a", body: bytes | None = b"x") -> RecordId:
    id_ = RecordId(float(row), "0-a", row)
    record = SpoolRecord(id_.arrived, upstream, "/e", b"c", b"head", None)
    recent.kept(id_, record, 1 if body is None else len(body), body)
    return id_


def rows(recent: Recent, upstream: str = "a", count: int = 100, after: RecordId | None = None) -> list[int]:
    found = recent.oldest(upstream, count, after)
    assert found is not None
    return [stored.id.row for stored in found]


def test_it_knows_what_comes_and_goes() -> None:
    recent = Recent()
    assert rows(recent) == []
    ids = [keep(recent, row) for row in (1, 2, 3)]
    other = keep(recent, 4, upstream="b")
    recent.settle(depths(a=3, b=1))
    assert rows(recent) == [1, 2, 3]
    assert rows(recent, count=2) == [1, 2]
    assert rows(recent, after=ids[0]) == [2, 3]
    assert rows(recent, "b") == [4]
    recent.gone([ids[1], other])
    recent.gone([ids[1]])
    recent.settle(depths(a=2))
    assert rows(recent) == [1, 3]
    assert repr(recent) == "<Recent 2 records, 10 bytes>"


def test_a_record_is_what_reading_it_would_give() -> None:
    recent = Recent()
    keep(recent, 1, body=b"")
    keep(recent, 2, body=None)
    id_ = keep(recent, 3, body=b"hello")
    recent.postponed(id_)
    recent.postponed(id_)
    empty, pieces, small = recent.oldest("a", 9) or []
    assert (empty.inline, empty.length) == (b"", 0)
    assert (pieces.inline, pieces.length) == (None, 1)
    assert (small.inline, small.length, small.attempts) == (b"hello", 5, 2)
    assert (small.head, small.client, small.route, small.upstream) == (b"head", b"c", "/e", "a")


def test_it_knows_nothing_while_something_waits_that_did_not_come_by() -> None:
    recent = Recent()
    recent.settle(depths(a=7))
    keep(recent, 1)
    keep(recent, 2, upstream="b")
    recent.settle(depths(a=8, b=1))
    assert recent.oldest("a", 9) is None
    assert rows(recent, "b") == [2]
    recent.settle(depths(a=0, b=2))  # one was adopted
    assert recent.oldest("b", 9) is None
    assert rows(recent) == []
    keep(recent, 3)
    recent.settle(depths(a=1))
    assert rows(recent) == [3]
    assert repr(recent) == "<Recent 1 records, 5 bytes>"


def test_what_comes_out_of_its_turn_is_read() -> None:
    recent = Recent()
    keep(recent, 2)
    keep(recent, 1)
    assert recent.oldest("a", 9) is None
    recent.settle(depths(a=2))
    assert recent.oldest("a", 9) is None


@pytest.mark.parametrize(("name", "most"), [("MOST_RECORDS", 3), ("MOST_BYTES", 15)])
def test_its_memory_is_bounded(name: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, name, most)
    recent = Recent()
    for row in (1, 2, 3):
        keep(recent, row)
    assert rows(recent) == [1, 2, 3]
    keep(recent, 4)
    assert recent.oldest("a", 9) is None
    assert repr(recent) == "<Recent 0 records, 0 bytes>"
