"""What is kept of what arrived, and the bounds of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from proxy.standin import journal as module
from proxy.standin.journal import Event, Journal, Kept, Request, bounded_properties


def request(number: int = 1, target: str = "/e/", **more: Any) -> Request:
    return Request(
        number=number,
        arrived=1_700_000_000.0,
        method="POST",
        target=target,
        version="1.1",
        peer="127.0.0.1",
        fields=(("Host", "a"), ("HOST", "b")),
        ip={"capture": "127.0.0.1"},
        **more,
    )


def event(number: int = 1, **more: Any) -> Event:
    values: dict[str, Any] = {
        "number": number,
        "token": "t",
        "name": "x",
        "distinct_id": "u",
        "uuid": "id-1",
        "time": 1_700_000_000.0,
        "properties": {"a": 1},
        "ip": "127.0.0.1",
        "request": request(),
    }
    return Event(**(values | more))


def test_the_number_kept_is_bounded() -> None:
    journal = Journal()
    for number in range(1, 1_101):
        journal.add_event(event(number), 10)
        journal.add_request(request(number))
    assert len(journal.events) == len(journal.requests) == 1_000
    assert journal.events[0].number == journal.requests[0].number == 101
    assert journal.event_count == journal.request_count == 1_100


def test_the_bytes_kept_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 100)
    kept: Kept[str] = Kept()
    for word in ("a", "b", "c"):
        kept.add(word, 40)
    assert kept.list() == ["b", "c"]
    kept.add("huge", 500)
    assert kept.list() == ["huge"]
    assert len(kept) == 1


def test_clearing_keeps_the_count() -> None:
    journal = Journal()
    journal.add_event(event(), 10)
    journal.add_request(request())
    journal.clear()
    assert not journal.events
    assert not journal.requests
    assert journal.event_count == 1


def test_large_properties_are_only_measured() -> None:
    small = {"a": 1}
    assert bounded_properties(small) == (small, 8)
    kept, size = bounded_properties({"$snapshot_data": "x" * 100_000})
    assert kept == {"$left_out": "100022 bytes of properties"}
    assert size < 100


def test_the_deduplication_key() -> None:
    assert event().key == ("t", "2023-11-14", "x", "u", "id-1")
    assert event(time=1_700_086_400.0).key != event().key
    assert event(number=2, properties={}).key == event().key


def test_headers_are_looked_up_without_case() -> None:
    assert request().header("host") == "a"
    assert request().header("cookie") is None


def test_as_dict() -> None:
    told = event().as_dict()
    assert told["event"] == "x"
    assert told["time"] == "2023-11-14T22:13:20.000Z"
    assert told["request"]["fields"] == [["Host", "a"], ["HOST", "b"]]
    assert told["request"]["status"] is None


async def test_waiting_ends_with_an_arrival_or_an_answer() -> None:
    journal = Journal()
    waiting = asyncio.ensure_future(journal.wait(lambda: bool(journal.events), 5))
    await asyncio.sleep(0)
    assert not waiting.done()
    journal.add_event(event(), 10)
    await waiting
    seen = request()
    waiting = asyncio.ensure_future(journal.wait(lambda: seen.status == 200, 5))
    await asyncio.sleep(0)
    journal.answered(seen, 200)
    await waiting


async def test_waiting_in_vain() -> None:
    with pytest.raises(TimeoutError):
        await Journal().wait(lambda: False, 0)


def test_subscribers_hear_of_further_events_until_they_leave() -> None:
    journal = Journal()
    heard: list[Event] = []
    leave = journal.subscribe(heard.append)
    journal.add_event(event(1), 10)
    leave()
    journal.add_event(event(2), 10)
    assert [one.number for one in heard] == [1]
