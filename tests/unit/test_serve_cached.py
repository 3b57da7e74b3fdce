"""The asset cache on the general path: who is asked, who waits, what stands in, what is told and logged."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.play import Actor, Play

if TYPE_CHECKING:
    from proxy.serve.cached import AssetCache

READ = b"GET /static/array.js HTTP/1.1\r\nHost: ph.example\r\nAccept-Encoding: gzip\r\n\r\n"
CONFIG = READ.replace(b"/static/array.js", b"/array/phc_x/config")
SCRIPT = (
    b'HTTP/1.1 200 OK\r\nDate: D\r\nCache-Control: max-age=60\r\nETag: "x"\r\n'
    b"Content-Type: text/javascript\r\nContent-Length: 5\r\n\r\nhello"
)
UNCHANGED = b'HTTP/1.1 304 Not Modified\r\nDate: E\r\nETag: "x"\r\n\r\n'
SICK = b"HTTP/1.1 503 Service Unavailable\r\nDate: D\r\nContent-Length: 4\r\n\r\nsick"


class CachePlay(Play):
    """The general path, with a cache."""

    def __init__(self, **config: Any) -> None:
        super().__init__(**{"fast_path": False, **config})

    @property
    def cache(self) -> AssetCache:
        cache = self.proxy._runtime.cache
        assert cache is not None
        return cache

    @property
    def results(self) -> dict[str, int]:
        return {result: count for (result,), count in self.proxy.counters.cache.items()}

    @property
    def not_kept(self) -> set[str]:
        return {reason for (reason,) in self.proxy.counters.cache_not_kept}

    async def ask(self, client: Actor, request: bytes = READ) -> tuple[int, bytes, bytes]:
        client.say(request)
        return await client.hear_answer()

    async def filled(self, answer: bytes = SCRIPT, request: bytes = READ) -> tuple[Actor, Actor]:
        """A client that has asked, and the upstream that has answered."""
        return await self.answered(request, answer)


async def test_the_second_one_is_answered_from_memory() -> None:
    async with CachePlay() as play:
        client, _ = await play.filled()
        status, head, body = await play.ask(client)
        assert (status, body) == (200, b"hello")
        assert b"\r\nAge: 0\r\n" in head
        line = await play.line(2)
        assert (line["origin"], line["status"], line["upstream_status"]) == ("cache", 200, 0)
        assert (line["upstream"], line["upstream_addr"], line["t_connect"]) == ("default", "", None)
        assert line["bytes_out"] == len(head) + len(body)
        assert play.results == {"miss": 1, "hit": 1}
        counted = play.proxy.counters.snapshot()
        assert counted["posthog_proxy_cache_entries"] == 1
        assert counted["posthog_proxy_cache_bytes"] == play.cache.store.size
        assert repr(play.cache) == f"<AssetCache {play.cache.store!r} flights=0>"


async def test_a_head_request_is_answered_too_but_its_answer_is_not_kept() -> None:
    async with CachePlay() as play:
        head_request = READ.replace(b"GET", b"HEAD")
        client = await play.client()
        client.say(head_request)
        upstream = await play.upstream()
        await upstream.hear_head()
        upstream.say(SCRIPT.removesuffix(b"hello"))
        await client.hear_head()
        assert len(play.cache.store) == 0
        client.say(READ)
        await upstream.hear_head()
        upstream.say(SCRIPT)
        await client.hear_answer()
        client.say(head_request)
        assert b"Age: 0\r\nContent-Length: 5\r\n\r\n" in await client.hear_head()
        assert play.results == {"miss": 1, "hit": 1}


async def test_one_flies_and_the_others_wait() -> None:
    async with CachePlay() as play:
        clients = [await play.client() for _ in range(4)]
        for client in clients:
            client.say(READ)
        upstream = await play.upstream()
        await upstream.hear_head()
        await play.until(lambda: play.proxy.counters.requests_in_flight == 4)
        upstream.say(SCRIPT)
        for client in clients:
            assert (await client.hear_answer())[2] == b"hello"
        assert play.unasked
        assert play.results == {"miss": 1, "hit": 3}


async def test_the_first_one_hears_it_as_it_comes() -> None:
    async with CachePlay() as play:
        client = await play.client()
        client.say(READ)
        upstream = await play.upstream()
        await upstream.hear_head()
        upstream.say(SCRIPT.removesuffix(b"llo"))
        head = await client.hear_head()
        assert head.endswith(b"Content-Length: 5\r\n\r\n")
        await client.hear(b"he")
        upstream.say(b"llo")
        await client.hear(b"llo")
        assert (await play.ask(client))[2] == b"hello"


async def test_who_has_waited_long_enough_goes_alone() -> None:
    async with CachePlay(cache={"wait": 2}) as play:
        first, second = await play.client(), await play.client()
        first.say(READ)
        upstream = await play.upstream()
        await upstream.hear_head()
        second.say(READ)
        await play.until(lambda: play.proxy.counters.requests_in_flight == 2)
        play.turn(2.5)
        other = await play.upstream()
        await other.hear_head()
        other.say(SCRIPT)
        assert (await second.hear_answer())[2] == b"hello"
        upstream.say(SCRIPT.replace(b"hello", b"later"))
        assert (await first.hear_answer())[2] == b"later"


async def test_when_the_first_one_leaves_the_next_one_flies() -> None:
    async with CachePlay() as play:
        first, second, third = [await play.client() for _ in range(3)]
        first.say(READ)
        upstream = await play.upstream()
        await upstream.hear_head()
        for client in (second, third):
            client.say(READ)
        await play.until(lambda: play.proxy.counters.requests_in_flight == 3)
        first.hang_up()
        other = await play.upstream()
        await other.hear_head()
        other.say(SCRIPT)
        for client in (second, third):
            assert (await client.hear_answer())[2] == b"hello"
        assert play.unasked


async def test_when_the_answer_is_nobody_elses_all_go() -> None:
    async with CachePlay() as play:
        first, second = await play.client(), await play.client()
        first.say(READ)
        upstream = await play.upstream()
        await upstream.hear_head()
        second.say(READ)
        await play.until(lambda: play.proxy.counters.requests_in_flight == 2)
        private = SCRIPT.replace(b"max-age=60", b"private")
        upstream.say(private.removesuffix(b"lo"))
        other = await play.upstream()  # it does not wait for the end
        await other.hear_head()
        other.say(private)
        await second.hear_answer()
        upstream.say(b"lo")
        await first.hear_answer()
        assert play.not_kept == {"private"}
        # For a minute nobody waits, and the client's own conditions go up.
        first.say(READ[:-2] + b'If-None-Match: "mine"\r\n\r\n')
        assert (
            b'If-None-Match: "mine"'
            in await (upstream if play.unasked else await play.upstream()).hear_head()
        )


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (SCRIPT.replace(b'ETag: "x"', b"Set-Cookie: a=b"), "set_cookie"),
        (SCRIPT.replace(b"text/javascript", b"text/html"), "html"),
        (SCRIPT.replace(b"200 OK", b"404 Not Found"), "status"),
        (
            SCRIPT.replace(b"Content-Length: 5\r\n\r\nhello", b"Content-Length: 2000\r\n\r\n" + b"x" * 2000),
            "too_large",
        ),
    ],
)
async def test_what_is_not_kept(answer: bytes, reason: str) -> None:
    async with CachePlay(cache={"max_entry": 1024}) as play:
        client, upstream = await play.filled(answer)
        client.say(READ)
        await upstream.hear_head()
        assert play.not_kept == {reason}
        assert (len(play.cache.store), play.cache.store.size) == (0, 0)


async def test_a_body_of_unknown_length_is_given_up_when_it_grows_too_large() -> None:
    async with CachePlay(cache={"max_entry": 1024}) as play:
        client = await play.client()
        client.say(READ)
        upstream = await play.upstream()
        await upstream.hear_head()
        chunked = SCRIPT.replace(b"Content-Length: 5\r\n\r\nhello", b"Transfer-Encoding: chunked\r\n\r\n")
        upstream.say(chunked + b"400\r\n" + b"x" * 1024 + b"\r\n")
        await client.hear_head()
        await client.hear(b"400\r\n" + b"x" * 1024 + b"\r\n")
        assert play.cache.store.size == 1024
        upstream.say(b"1\r\ny\r\n1\r\nz\r\n0\r\n\r\n")
        assert (await client.reader.readuntil(b"0\r\n\r\n")).count(b"\r\n") >= 4
        await play.until(lambda: play.proxy.counters.requests_in_flight == 0)
        assert (play.not_kept, play.cache.store.size) == ({"too_large"}, 0)


async def test_a_chunked_answer_is_kept_with_its_length() -> None:
    async with CachePlay() as play:
        client = await play.client()
        client.say(READ)
        upstream = await play.upstream()
        await upstream.hear_head()
        chunked = SCRIPT.replace(b"Content-Length: 5\r\n\r\nhello", b"Transfer-Encoding: chunked\r\n\r\n")
        upstream.say(chunked + b"5\r\nhello\r\n0\r\n\r\n")
        await client.reader.readuntil(b"0\r\n\r\n")
        status, head, body = await play.ask(client)
        assert (status, body) == (200, b"hello")
        assert b"Transfer-Encoding" not in head


async def test_what_was_cut_is_not_kept() -> None:
    async with CachePlay() as play:
        client = await play.client()
        client.say(READ)
        upstream = await play.upstream()
        await upstream.hear_head()
        upstream.say(SCRIPT[:-1])
        await client.hear_head()
        upstream.hang_up()
        await client.hear_end()
        await play.until(lambda: play.proxy.counters.requests_in_flight == 0)
        assert (len(play.cache.store), play.cache.store.size) == (0, 0)
        assert (await play.line())["error"].startswith("truncated")


async def test_when_its_time_is_over_the_upstream_is_asked_by_our_condition() -> None:
    async with CachePlay() as play:
        _, upstream = await play.filled()
        play.turn(61)
        client = await play.client()
        client.say(READ[:-2] + b'If-None-Match: "old"\r\n\r\n')
        upstream = await play.upstream()
        asked = await upstream.hear_head()
        assert b'If-None-Match: "x"\r\n' in asked
        assert b"old" not in asked
        upstream.say(UNCHANGED)
        status, head, body = await client.hear_answer()
        assert (status, body) == (200, b"hello")
        assert b"Date: E\r\n" in head
        line = await play.line(2)
        assert (line["origin"], line["status"], line["upstream_status"]) == ("cache", 200, 304)
        assert (await play.ask(client))[2] == b"hello"
        assert play.results == {"miss": 1, "revalidated": 1, "hit": 1}


async def test_a_client_that_has_it_hears_304() -> None:
    async with CachePlay() as play:
        client, _ = await play.filled()
        status, head, body = await play.ask(client, READ[:-2] + b'If-None-Match: W/"x"\r\n\r\n')
        assert (status, body) == (304, b"")
        assert b"Content-" not in head


async def test_a_304_that_may_not_be_kept_ends_it() -> None:
    async with CachePlay() as play:
        await play.filled()
        play.turn(61)
        client = await play.client()
        client.say(READ)
        upstream = await play.upstream()
        await upstream.hear_head()
        upstream.say(UNCHANGED.replace(b"Date: E", b"Cache-Control: no-store"))
        assert (await client.hear_answer())[2] == b"hello"
        assert (len(play.cache.store), play.not_kept) == (0, {"no_store"})


async def test_a_client_may_insist() -> None:
    async with CachePlay() as play:
        client, upstream = await play.filled()
        client.say(READ[:-2] + b"Cache-Control: no-cache\r\n\r\n")
        assert b'If-None-Match: "x"' in await upstream.hear_head()
        upstream.say(SCRIPT.replace(b"hello", b"newer"))
        assert (await client.hear_answer())[2] == b"newer"
        assert (await play.ask(client))[2] == b"newer"


@pytest.mark.parametrize(
    "line", [b"Range: bytes=0-1", b"Authorization: Bearer x", b"Cache-Control: no-store"]
)
async def test_some_requests_go_past_it(line: bytes) -> None:
    async with CachePlay() as play:
        client, upstream = await play.filled()
        client.say(READ[:-2] + line + b"\r\n\r\n")
        assert line in await upstream.hear_head()
        upstream.say(SCRIPT.replace(b"hello", b"other"))
        assert (await client.hear_answer())[2] == b"other"
        assert (await play.ask(client))[2] == b"hello"


async def test_mobile_sdks_have_answers_of_their_own() -> None:
    async with CachePlay() as play:
        client, upstream = await play.filled(request=CONFIG)
        client.say(CONFIG[:-2] + b"User-Agent: posthog-ios/3.1\r\n\r\n")
        await upstream.hear_head()
        upstream.say(SCRIPT.replace(b"hello", b"phone"))
        assert (await client.hear_answer())[2] == b"phone"
        assert (await play.ask(client, CONFIG[:-2] + b"User-Agent: posthog-ios/4\r\n\r\n"))[2] == b"phone"
        assert (await play.ask(client, CONFIG[:-2] + b"User-Agent: curl/8\r\n\r\n"))[2] == b"hello"


BIG = SCRIPT.replace(b"Length: 5\r\n\r\nhello", b"Length: 24000000\r\n\r\n" + b"x" * 24_000_000)
"""More than the kernel takes."""
ROOM = {"max_entry": 32_000_000}


@pytest.mark.parametrize("fast_path", [True, False])
async def test_a_large_one_is_written_as_it_is_taken(fast_path: bool) -> None:
    async with CachePlay(fast_path=fast_path, cache=ROOM) as play:
        client, _ = await play.filled(BIG)
        client.say(READ)
        await client.hear_head()
        await play.until(lambda: any(not each.writable for each in play.proxy.connections))
        (connection,) = play.proxy.connections
        assert connection.transport.get_write_buffer_size() <= 2 * connection.write_limit
        assert await client.hear_some(24_000_000) == b"x" * 24_000_000
        assert (await play.line(2))["origin"] == "cache"


async def test_who_leaves_inside_a_large_one_is_noticed() -> None:
    async with CachePlay(cache=ROOM) as play:
        client, _ = await play.filled(BIG)
        client.say(READ)
        await client.hear_head()
        await play.until(lambda: any(not each.writable for each in play.proxy.connections))
        client.hang_up()
        line = await play.line(2)
        assert (line["origin"], line["termination"]) == ("cache", "CD")
        assert line["error"].startswith("truncated: client_gone")


async def test_who_takes_nothing_of_a_large_one_is_cut() -> None:
    async with CachePlay(cache=ROOM) as play:
        client, _ = await play.filled(BIG)
        client.say(READ)
        await client.hear_head()
        await play.until(lambda: any(not each.writable for each in play.proxy.connections))
        play.turn(61)
        await play.until(lambda: not play.proxy.connections)
        assert "client_write_timeout" in (await play.line(2))["error"]


class TestOutage:
    async def test_a_sick_answer_is_not_passed_on(self) -> None:
        async with CachePlay() as play:
            await play.filled()
            play.turn(61)
            client = await play.client()
            client.say(READ)
            upstream = await play.upstream()
            await upstream.hear_head()
            upstream.say(SICK)
            upstream = await play.upstream()  # an SDK's read is asked once more
            await upstream.hear_head()
            upstream.say(SICK)
            assert (await client.hear_answer())[2] == b"hello"
            line = await play.line(2)
            assert (line["origin"], line["status"], line["upstream_status"]) == ("cache", 200, 503)
            assert line["error"] == "stale: the upstream answered 503"
            assert play.results == {"miss": 1, "stale": 1}

    async def test_an_upstream_that_is_late(self) -> None:
        async with CachePlay() as play:
            await play.filled()
            play.turn(61)
            client, other = await play.client(), await play.client()
            client.say(READ)
            upstream = await play.upstream()
            await upstream.hear_head()
            play.turn(8)
            other.say(READ)
            await play.until(lambda: play.proxy.counters.requests_in_flight == 2)
            play.turn(3)
            for each in (client, other):
                assert b"Age: 72" in (await each.hear_answer())[1]
            errors = {line["error"].partition(":")[2].strip() for line in play.lines()[1:]}
            assert errors == {
                "upstream_timeout: the upstream did not answer in time",
                "the same request has just failed",
            }

    async def test_an_open_breaker(self) -> None:
        async with CachePlay(health={"consecutive_failures": 1}) as play:
            await play.filled()
            play.turn(61)
            play.proxy._pools["default"].record(ok=False, probe=False)
            client = await play.client()
            assert (await play.ask(client))[2] == b"hello"
            assert "breaker_open" in (await play.line(2))["error"]

    @pytest.mark.parametrize("directive", [b"max-age=60, must-revalidate", b"s-maxage=60"])
    async def test_not_where_the_answer_forbids_it(self, directive: bytes) -> None:
        async with CachePlay(health={"consecutive_failures": 1}) as play:
            await play.filled(SCRIPT.replace(b"max-age=60", directive))
            play.turn(61)
            play.proxy._pools["default"].record(ok=False, probe=False)
            assert (await play.ask(await play.client()))[0] == 503

    async def test_not_for_ever(self) -> None:
        async with CachePlay(health={"consecutive_failures": 1}, cache={"stale": 100}) as play:
            await play.filled()
            play.turn(161)
            play.proxy._pools["default"].record(ok=False, probe=False)
            assert (await play.ask(await play.client()))[0] == 503

    async def test_without_anything_kept_the_failure_is_told(self) -> None:
        async with CachePlay() as play:
            client = await play.client()
            client.say(READ.replace(b"GET /static", b"GET /array/phc_x/config?"))
            upstream = await play.upstream()
            await upstream.hear_head()
            upstream.say(b"HTTP/1.1 500 Oops\r\nDate: D\r\nContent-Length: 4\r\n\r\noops")
            assert (await client.hear_answer())[0] == 500
            assert play.results == {"miss": 1}


async def test_nothing_is_left_when_it_is_closed_in_flight() -> None:
    async with CachePlay() as play:
        client = await play.client()
        client.say(READ)
        upstream = await play.upstream()
        await upstream.hear_head()
        upstream.say(SCRIPT[:-1])
        await client.hear_head()
        cache = play.cache
    gc.collect()
    assert (len(cache.flights), cache.store.size) == (0, 0)
