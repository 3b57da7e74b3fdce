"""What is kept, when, and what the client and the operator are told; on the general path, and on the fast one
where it hands over (test_serve_fastspool.py has the rest)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from proxy.spool.record import SpoolFailed, SpoolFull
from tests.support.keeping import Kept
from tests.support.play import Play

if TYPE_CHECKING:
    from tests.support.play import Actor

pytestmark = pytest.mark.both_loops

BODY = b'{"event":"x","distinct_id":"ann"}'
EVENT = (
    b"POST /e/?ip=1 HTTP/1.1\r\nHost: ph.example\r\nOrigin: https://shop.example\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
)
LARGE = b"POST /s/ HTTP/1.1\r\nHost: ph.example\r\nContent-Length: 200000\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nDate: D\r\nContent-Length: 2\r\n\r\nok"


def play(kept: Kept, mode: str = "fallback", **config: Any) -> Play:
    spool = {"directory": "/nowhere", "mode": mode}
    alone = {"fast_path": False, "pool": {"retries": 0}, "cache": {"enabled": False}}
    return Play(keeper=kept, spool=spool, **{**alone, **config})


async def told_ok(client: Actor) -> bytes:
    status, head, body = await client.hear_answer()
    assert (status, body) == (200, b'{"status":"Ok"}')
    return head


class TestFirst:
    async def test_the_client_is_answered_once_the_record_is_durable(self) -> None:
        kept = Kept(waits=True)
        async with play(kept, "first") as stage:
            client = await stage.client()
            client.say(EVENT)
            await stage.until(lambda: bool(kept.waiting))
            assert not client.reader._buffer  # type: ignore[attr-defined]
            kept.go_on()
            head = await told_ok(client)
            assert b"\r\nAccess-Control-Allow-Origin: https://shop.example\r\n" in head
            assert stage.unasked
            line = await stage.line()
            assert (line["status"], line["origin"], line["error"]) == (200, "spool", "")
            assert stage.proxy.counters.spooled == {("first",): 1}
        [(record, body)] = kept.records
        assert body == BODY
        assert (record.upstream, record.route, record.client) == ("default", "/e", b"127.0.0.1 ann")
        assert record.arrived == stage.clock.wall()
        assert record.head.startswith(b"POST /e/?ip=1 HTTP/1.1\r\nHost: ph.example\r\n")
        assert b"\r\nX-Forwarded-For: 127.0.0.1\r\n" in record.head

    async def test_a_large_body_goes_in_pieces(self) -> None:
        kept = Kept()
        async with play(kept, "first") as stage:
            client = await stage.client()
            client.say(LARGE + b"x" * 200_000)
            await told_ok(client)
            assert stage.unasked
        [(record, body)] = kept.records
        assert (record.length, body) == (200_000, b"x" * 200_000)
        assert (record.client, record.upstream) == (b"127.0.0.1", "default/replay")

    async def test_a_client_that_leaves_inside_its_body_leaves_nothing(self) -> None:
        kept = Kept()
        async with play(kept, "first") as stage:
            client = await stage.client()
            client.say(LARGE + b"x" * 100_000)
            await stage.waiting_for_body()
            client.hang_up()
            line = await stage.line()
            assert line["error"].startswith("body_incomplete")
        assert (kept.records, kept.abandoned) == ([], 1)

    async def test_other_methods_and_other_classes_are_asked_for(self) -> None:
        kept = Kept()
        async with play(kept, "first") as stage:
            client = await stage.client()
            for request in (b"OPTIONS /e/", b"GET /flags", b"GET /app", b"PUT /e/"):
                client.say(request + b" HTTP/1.1\r\nHost: a\r\n\r\n")
                upstream = await stage.upstream()
                await upstream.hear_head()
                upstream.say(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
                assert (await client.hear_answer())[0] == 200
        assert kept.records == []


class TestFallback:
    async def test_while_posthog_answers_nothing_is_kept(self) -> None:
        kept = Kept()
        async with play(kept) as stage:
            client = await stage.client()
            client.say(EVENT)
            upstream = await stage.upstream()
            await upstream.hear_head()
            upstream.say(OK.replace(b"200 OK", b"500 Oh"))
            assert (await client.hear_answer())[0] == 500
        assert kept.records == []

    @pytest.mark.parametrize("status", [502, 503, 504])
    async def test_an_answer_that_says_posthog_is_ill(self, status: int) -> None:
        kept = Kept()
        async with play(kept) as stage:
            client = await stage.client()
            client.say(EVENT)
            upstream = await stage.upstream()
            await upstream.hear_head()
            upstream.say(OK.replace(b"200 OK", b"%d Ill" % status))
            await told_ok(client)
            line = await stage.line()
            assert line["error"] == f"kept: sick_answer: the upstream answered {status}"
            assert (line["status"], line["origin"]) == (200, "spool")
            assert stage.proxy.counters.spooled == {("fallback",): 1}
        assert [body for _, body in kept.records] == [BODY]

    async def test_nobody_is_there_and_then_the_breaker_is_open(self) -> None:
        kept = Kept()
        async with play(kept, health={"consecutive_failures": 1}) as stage:
            await stage.stop_upstream()
            client = await stage.client()
            for number in (1, 2):
                client.say(EVENT)
                await told_ok(client)
                line = await stage.line(number)
                assert line["error"].startswith(("kept: connect_", "kept: breaker_open"))
        assert len(kept.records) == 2

    async def test_an_answer_that_is_late(self) -> None:
        kept = Kept()
        async with play(kept) as stage:
            client = await stage.client()
            client.say(EVENT)
            upstream = await stage.upstream()
            await upstream.hear_head()
            stage.turn(7.9)
            assert kept.records == []
            stage.turn(0.2)
            await told_ok(client)
        assert len(kept.records) == 1

    async def test_a_large_body_is_kept_where_nobody_has_had_it(self) -> None:
        kept = Kept()
        async with play(kept) as stage:
            await stage.stop_upstream()
            client = await stage.client()
            client.say(LARGE + b"x" * 200_000)
            await told_ok(client)
        assert [(record.length, body) for record, body in kept.records] == [(200_000, b"x" * 200_000)]

    async def test_what_was_sent_on_is_not_in_hand_and_the_sdk_still_has_it(self) -> None:
        kept = Kept()
        async with play(kept) as stage:
            client = await stage.client()
            client.say(LARGE + b"x" * 200_000)
            upstream = await stage.upstream()
            await upstream.hear_some(150_000)
            upstream.hang_up()
            status, _, body = await client.hear_answer()
            assert (status, kept.records) == (503, [])
            assert json.loads(body)["code"] != "spool_full"

    async def test_a_chunked_body_gets_a_length(self) -> None:
        kept = Kept()
        async with play(kept) as stage:
            await stage.stop_upstream()
            client = await stage.client()
            client.say(b"POST /e HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
            client.say(b"2\r\nhi\r\n0\r\n\r\n")
            await told_ok(client)
        [(record, body)] = kept.records
        assert body == b"hi"
        assert b"\r\nContent-Length: 2\r\n\r\n" in record.head
        assert b"chunked" not in record.head

    async def test_a_long_chunked_body_gets_it_at_its_end(self) -> None:
        kept = Kept()
        async with play(kept) as stage:
            await stage.stop_upstream()
            client = await stage.client()
            client.say(b"POST /e HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
            client.say(b"20000\r\n" + b"x" * 0x20000 + b"\r\n0\r\n\r\n")
            await told_ok(client)
        [(record, body)] = kept.records
        assert (record.length, len(body)) == (0x20000, 0x20000)
        assert b"\r\nContent-Length: 131072\r\n\r\n" in record.head


class TestTrouble:
    @pytest.mark.parametrize("mode", ["first", "fallback"])
    @pytest.mark.parametrize(
        ("error", "code"),
        [(SpoolFull("bytes"), "spool_full"), (SpoolFailed("disk I/O error"), "spool_failed")],
    )
    async def test_the_client_hears_503_and_keeps_it(
        self, mode: str, error: SpoolFull | SpoolFailed, code: str
    ) -> None:
        async with play(Kept(refuses=error), mode) as stage:
            await stage.stop_upstream()
            client = await stage.client()
            client.say(EVENT)
            status, head, body = await client.hear_answer()
            assert (status, json.loads(body)["code"]) == (503, code)
            assert b"\r\nRetry-After: " in head
            assert stage.proxy.counters.rejected[code,] == 1
            client.say(EVENT)
            await client.hear_answer()
            stage.proxy.sweep()
            said = [line for line in map(json.loads, stage.errors.splitlines()) if "cure" in line]
            assert [line["event"] for line in said if line["event"] == "spool_refused"] == ["spool_refused"]
            stage.turn(61)
            client.say(EVENT)
            await client.hear_answer()
            stage.proxy.sweep()
            assert stage.errors.count(b"spool_refused") == 2

    async def test_a_large_body_that_there_is_no_room_for(self) -> None:
        async with play(Kept(refuses=SpoolFull("bytes")), "first") as stage:
            client = await stage.client()
            client.say(LARGE + b"x" * 200_000)
            assert (await client.hear_answer())[0] == 503

    async def test_a_client_that_leaves_before_it_is_told_has_its_request_kept(self) -> None:
        kept = Kept(waits=True)
        async with play(kept, "first") as stage:
            client = await stage.client()
            client.say(EVENT)
            await stage.until(lambda: bool(kept.waiting))
            client.hang_up()
            line = await stage.line()
            assert line["error"].startswith("client_gone")
            kept.go_on()
            assert stage.proxy.counters.spooled == {("first",): 1}
        assert len(kept.records) == 1
