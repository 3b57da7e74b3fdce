"""What is told of a fast exchange: bytes, times and why others were not taken."""

from __future__ import annotations

from proxy.serve.fastrecord import Stage
from tests.support.fastplay import OK, READ, FastPlay, answered

LARGE = b"HTTP/1.1 200 OK\r\nDate: D\r\nContent-Length: 300000\r\n\r\n" + b"d" * 300_000
UPLOAD = b"POST /s/ HTTP/1.1\r\nHost: ph.example\r\nContent-Length: 300000\r\n\r\n"
BODY = b"u" * 300_000


async def test_the_parts_of_a_large_upload_and_a_large_answer() -> None:
    async with FastPlay() as play:
        client, upstream = await play.warm()
        play.turn(1)
        client.say(UPLOAD)
        await play.at(Stage.HELD)
        play.turn(0.5)
        client.say(BODY)
        await upstream.hear_head()
        await upstream.hear(BODY)
        play.turn(2)
        upstream.say(LARGE[:1000])
        await client.hear(LARGE[:1000])
        play.turn(4)
        upstream.say(LARGE[1000:])
        await client.hear(LARGE[1000:])
        line = await play.line(2)
        assert play.fast == 2
        assert (line["bytes_in"], line["bytes_out"]) == (len(UPLOAD) + len(BODY), len(LARGE))
        assert (line["t_head"], line["t_body"], line["t_queue"], line["t_connect"]) == (0, 0.5, 0, 0)
        assert (line["t_first_byte"], line["t_total"]) == (2, 6.5)
        assert (line["status"], line["reused"], line["retries"]) == (200, True, 0)


async def test_an_answer_is_counted_when_the_last_of_it_has_gone() -> None:
    async with FastPlay() as play:
        client, upstream = await play.sent(READ, b"")
        upstream.say(LARGE[:70_000])
        await client.hear(LARGE[:70_000])
        assert play.lines() == []
        assert play.proxy.counters.requests_in_flight == 1
        upstream.say(LARGE[70_000:])
        await client.hear(LARGE[70_000:])
        assert (await play.line())["bytes_out"] == len(LARGE)
        assert play.proxy.counters.requests_in_flight == 0


async def test_why_a_request_was_not_taken_is_counted() -> None:
    async with FastPlay() as play:
        client = await play.client()
        client.say(READ.replace(b"GET", b"HEAD"))
        upstream = await play.upstream()
        await upstream.hear_head()
        assert play.missed == {"request_line"}
        await answered(client, upstream, OK, OK.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
