"""The asset cache on the fast path: what is fresh is answered in callbacks, the rest is handed over."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from proxy.serve.connection import State
from proxy.serve.fastcache import TARGETS
from tests.support.fastplay import FastPlay

if TYPE_CHECKING:
    from tests.support.play import Actor

READ = b"GET /static/array.js HTTP/1.1\r\nHost: ph.example\r\nAccept-Encoding: gzip\r\n\r\n"
SCRIPT = (
    b'HTTP/1.1 200 OK\r\nDate: D\r\nCache-Control: max-age=60\r\nETag: "x"\r\nContent-Length: 5\r\n\r\nhello'
)


class Cached(FastPlay):
    """A fast path with a cache, in which the script is."""

    def __init__(self, **config: object) -> None:
        super().__init__(**{"cache": {}, **config})

    async def filled(self, answer: bytes = SCRIPT, request: bytes = READ) -> tuple[Actor, Actor]:
        ends = await self.answered(request, answer)
        await self._nothing_in_flight()
        return ends


async def test_a_fresh_answer_never_leaves_the_callbacks() -> None:
    async with Cached() as play:
        client, _ = await play.filled()
        assert (play.fast, play.missed) == (0, {"handed_over"})
        for number in range(1, 4):
            client.say(READ)
            status, head, body = await client.hear_answer()
            assert (status, body) == (200, b"hello")
            assert play.fast == number
        assert play.states == {State.IDLE}
        line = await play.line(4)
        assert (line["origin"], line["status"], line["upstream_status"]) == ("cache", 200, 0)
        assert (line["bytes_in"], line["bytes_out"]) == (len(READ), len(head) + len(body))


async def test_a_client_that_has_it_hears_304() -> None:
    async with Cached() as play:
        client, _ = await play.filled()
        client.say(READ[:-2] + b'If-None-Match: "x"\r\n\r\n')
        assert (await client.hear_answer())[0] == 304
        assert play.fast == 1


async def test_an_alias_finds_what_it_stands_for() -> None:
    async with Cached(aliases={"prefix": "/x9"}) as play:
        client, _ = await play.filled()
        client.say(READ.replace(b"/static", b"/x9/static"))
        assert (await client.hear_answer())[2] == b"hello"
        assert play.fast == 1


async def test_a_refused_request_is_not_answered_from_it() -> None:
    async with Cached(access={"allowed_hosts": ["ph.example"]}) as play:
        client, _ = await play.filled()
        client.say(READ.replace(b"ph.example", b"other.example"))
        assert (await client.hear_answer())[0] == 421


async def test_an_answer_that_closes_closes() -> None:
    async with Cached() as play:
        client, _ = await play.filled()
        client.say(READ[:-2] + b"Connection: close\r\n\r\n")
        assert (await client.hear_end()).endswith(b"Connection: close\r\n\r\nhello")
        assert play.fast == 1


async def test_a_request_in_pieces_is_answered_too() -> None:
    async with Cached() as play:
        client, _ = await play.filled()
        client.say(READ[:30])
        await play.until(lambda: play.states == {State.HEAD})
        client.say(READ[30:])
        assert (await client.hear_answer())[2] == b"hello"
        assert play.fast == 1


@pytest.mark.parametrize(
    "request_",
    [
        READ.replace(b"gzip", b"br"),
        READ.replace(b"array.js", b"array.js?v=2"),
        READ[:-2] + b"Origin: https://a\r\n\r\n",
        READ[:-2] + b"Cache-Control: no-cache\r\n\r\n",
    ],
)
async def test_what_is_not_there_is_handed_over(request_: bytes) -> None:
    async with Cached() as play:
        client, upstream = await play.filled()
        client.say(request_)
        await upstream.hear_head()
        upstream.say(SCRIPT)
        await client.hear_answer()
        assert play.fast == 0


@pytest.mark.parametrize(
    "request_",
    [
        READ[:-2] + b"Authorization: Bearer x\r\n\r\n",
        READ[:-2] + b"Range: bytes=0-1\r\n\r\n",
        READ[:-2] + b"Content-Length: 1\r\n\r\nx",
        READ.replace(b"/static/array.js", b"/surveys"),
        READ.replace(b"GET", b"OPTIONS"),
    ],
)
async def test_what_the_cache_has_nothing_to_do_with_takes_the_fast_path(request_: bytes) -> None:
    async with Cached() as play:
        client, upstream = await play.filled()
        for count in (1, 2):
            client.say(request_)
            await upstream.hear_head()
            if request_.endswith(b"x"):
                await upstream.hear(b"x")
            upstream.say(SCRIPT.replace(b"hello", b"other"))
            assert (await client.hear_answer())[2] == b"other"
            assert play.fast == count


async def test_what_cannot_be_kept_takes_the_fast_path_from_the_second_time_on() -> None:
    async with Cached() as play:
        answer = SCRIPT.replace(b"max-age=60", b"no-store")
        client, upstream = await play.filled(answer)
        client.say(READ)
        await upstream.hear_head()
        upstream.say(answer)
        await client.hear_answer()
        assert play.fast == 1


async def test_a_stale_one_is_asked_for_again_on_the_general_path() -> None:
    async with Cached() as play:
        await play.filled()
        play.turn(61)
        client = await play.client()
        client.say(READ)
        upstream = await play.upstream()
        assert b'If-None-Match: "x"' in await upstream.hear_head()
        upstream.say(b"HTTP/1.1 304 Not Modified\r\nDate: E\r\n\r\n")
        assert (await client.hear_answer())[2] == b"hello"
        client.say(READ)
        await client.hear_answer()
        assert play.fast == 1


async def test_an_answer_in_text_form_is_logged() -> None:
    async with Cached(log={"format": "text"}) as play:
        client, _ = await play.filled()
        client.say(READ)
        await client.hear_answer()
        await play.until(lambda: (play.proxy.sweep() or play.access.count(b"\n")) == 2)
        assert b"cache" in play.access.splitlines()[1]


async def test_the_readings_of_a_header_block_are_bounded() -> None:
    async with Cached() as play:
        client, upstream = await play.filled(SCRIPT.replace(b"max-age=60", b"no-store"))
        for number in range(TARGETS + 1):
            client.say(READ.replace(b"array.js", b"%d.js" % number))
            await upstream.hear_head()
            upstream.say(SCRIPT.replace(b"max-age=60", b"no-store"))
            await client.hear_answer()
            await play._nothing_in_flight()
        fast = play.proxy._runtime.fast
        assert fast is not None
        assert max(len(shape.questions) for shape in fast.young.values()) <= TARGETS
