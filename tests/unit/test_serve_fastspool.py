"""Keeping on the fast path: one callback from the store to the answer."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.serve.fastrecord import Stage
from proxy.spool.record import SpoolFull
from tests.support.fastplay import EVENT, OK, FastPlay
from tests.support.keeping import Kept

pytestmark = pytest.mark.both_loops


def play(kept: Kept, **config: Any) -> FastPlay:
    return FastPlay(keeper=kept, spool={"directory": "/nowhere", "mode": "first"}, **config)


async def test_events_are_kept_one_after_the_other_without_leaving_the_fast_path() -> None:
    kept = Kept()
    async with play(kept) as stage:
        client = await stage.client()
        for number in (1, 2, 3):
            client.say(EVENT)
            status, head, body = await client.hear_answer()
            assert (status, body) == (200, b'{"status":"Ok"}')
            assert b"\r\nAccess-Control-Allow-Origin: https://shop.example\r\n" in head
            line = await stage.line(number)
            assert (line["origin"], line["upstream_status"], line["bytes_in"]) == ("spool", 0, len(EVENT))
        assert (stage.fast, stage.missed) == (3, set())
        assert stage.proxy.counters.spooled == {("first",): 3}
    assert [body for _, body in kept.records] == [b"hello"] * 3
    assert {record.upstream for record, _ in kept.records} == {"default"}


async def test_recordings_have_a_queue_of_their_own() -> None:
    kept = Kept()
    async with play(kept) as stage:
        client = await stage.client()
        client.say(EVENT.replace(b"/e/", b"/s/"))
        assert (await client.hear_answer())[0] == 200
        assert stage.fast == 1
    assert [record.upstream for record, _ in kept.records] == ["default/replay"]


async def test_a_connection_that_is_to_end() -> None:
    kept = Kept()
    async with play(kept) as stage:
        client = await stage.client()
        client.say(EVENT.replace(b"\r\nOrigin", b"\r\nConnection: close\r\nOrigin"))
        assert b'\r\nConnection: close\r\n\r\n{"status":"Ok"}' in await client.hear_end()
        assert stage.fast == 1


async def test_a_large_body_and_a_full_spool_are_for_the_general_path() -> None:
    kept = Kept()
    async with play(kept) as stage:
        client = await stage.client()
        client.say(b"POST /s/ HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n" + b"x" * 200_000)
        assert (await client.hear_answer())[0] == 200
        kept.refuses = SpoolFull("bytes")
        client.say(EVENT)
        assert (await client.hear_answer())[0] == 503
        assert (stage.fast, stage.missed) == (0, {"handed_over"})
        assert stage.unasked
    assert [len(body) for _, body in kept.records] == [200_000]


async def test_a_client_that_leaves_before_it_is_told() -> None:
    kept = Kept(waits=True)
    async with play(kept) as stage:
        client = await stage.client()
        client.say(EVENT)
        await stage.until(lambda: bool(kept.waiting))
        (connection,) = stage.proxy.connections
        assert connection.fast_stage is Stage.KEEPING
        client.hang_up()
        assert (await stage.line())["error"].startswith("client_gone")
        kept.go_on()
        assert stage.proxy.counters.spooled == {("first",): 1}


async def test_what_the_spool_is_not_for_is_asked_for() -> None:
    kept = Kept()
    async with play(kept) as stage:
        client = await stage.client()
        upstream = None
        for request in (b"OPTIONS /e/", b"POST /flags/"):
            client.say(request + b" HTTP/1.1\r\nHost: a\r\n\r\n")
            upstream = upstream or await stage.upstream()
            await upstream.hear_head()
            upstream.say(OK)
            await client.hear(OK)
        assert stage.fast == 2
    assert kept.records == []
