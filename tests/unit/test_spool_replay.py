"""Delivery: the order, what each answer means, pauses that double, and how many at a time."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from proxy.delivery import Delivery
from proxy.spool import replay
from proxy.spool.courier import CORRECTED_BYTES
from proxy.spool.record import SpoolRecord
from proxy.spool.replay import MOST_ATTEMPTS, SUSPICIOUS, SUSPICIOUS_ALONE
from tests.support.keeping import Kept
from tests.support.play import Play

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from proxy.spool.record import RecordId, Stored
    from proxy.spool.replay import Feeder
    from tests.support.play import Actor

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def put(kept: Kept, body: bytes = b"hello", client: bytes = b"c", arrived: float = 0.0, **other: Any) -> None:
    head = b"POST /e/ HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
    record = SpoolRecord(
        arrived, other.get("upstream", "default"), other.get("route", "/e"), client, head, len(body)
    )
    kept.keep(record, body)


@asynccontextmanager
async def delivering(kept: Kept) -> AsyncIterator[tuple[Play, Delivery]]:
    async with Play(pool={"retries": 0}, health={"breaker": False}) as play:
        kept.delivers = True
        delivery = Delivery(play.proxy._runtime, kept)
        delivery.start()
        try:
            yield play, delivery
        finally:
            await delivery.end()
        assert kept.closed


async def asked(upstream: Actor, body: bytes = b"hello") -> bytes:
    head = await upstream.hear_head()
    assert await upstream.hear_some(len(body)) == body
    return head


async def taken(upstream: Actor, *bodies: bytes) -> None:
    """One after the other is asked, and taken."""
    for body in bodies:
        await asked(upstream, body)
        upstream.say(OK)


def put_in_order(kept: Kept, count: int) -> list[bytes]:
    """Records that came one after the other; their bodies."""
    bodies = [b"%d" % number for number in range(count)]
    for number, body in enumerate(bodies):
        put(kept, body, arrived=float(number))
    return bodies


def outcomes(play: Play) -> dict[str, int]:
    return {outcome: count for (_, outcome), count in play.proxy.counters.spool_replayed.items()}


async def test_the_oldest_first_and_each_once() -> None:
    kept = Kept()
    for number in (3, 1, 2):
        put(kept, b"%d" % number, arrived=float(number))
    async with delivering(kept) as (play, _):
        upstream = await play.upstream()
        for number in (1, 2, 3):
            await asked(upstream, b"%d" % number)
            upstream.say(OK)
        await play.until(lambda: not kept.stored())
        assert outcomes(play) == {"delivered": 3}
        put(kept)
        play.proxy._runtime.spooling.kept("first", "default")  # type: ignore[union-attr]
        await asked(upstream)
        upstream.say(OK)
        await play.until(lambda: not kept.stored())


async def test_requests_of_one_client_wait_for_each_other_and_others_do_not() -> None:
    kept = Kept()
    for client in (b"a", b"a", b"b", b"c"):
        put(kept, client, client=client)
    async with delivering(kept) as (play, delivery):
        delivery.replay._feeders["default"].in_flight = 3
        upstreams = [await play.upstream() for _ in range(3)]
        heard = set()
        for upstream in upstreams:
            await upstream.hear_head()
            heard.add(await upstream.hear_some(1))
        assert heard == {b"a", b"b", b"c"}
        assert play.unasked
        for upstream in upstreams:
            upstream.say(OK)
        await play.until(lambda: len(kept.stored()) in (0, 1, 4))
        last = upstreams[0]
        for upstream in upstreams:
            if upstream.reader._buffer:  # type: ignore[attr-defined]
                last = upstream
        await play.until(lambda: any(each.reader._buffer for each in upstreams))  # type: ignore[attr-defined]
        last = next(each for each in upstreams if each.reader._buffer)  # type: ignore[attr-defined]
        await asked(last, b"a")
        last.say(OK)
        await play.until(lambda: not kept.stored())


@pytest.mark.parametrize("status", [400, 401, 413, 404])
async def test_what_is_refused_for_good_is_set_aside(status: int) -> None:
    kept = Kept()
    put(kept, client=b"a")
    put(kept, client=b"a")
    async with delivering(kept) as (play, _):
        upstream = await play.upstream()
        await asked(upstream)
        upstream.say(OK.replace(b"200 OK", b"%d No" % status))
        await asked(upstream)
        upstream.say(OK)
        await play.until(lambda: not kept.stored())
        assert kept.dead == [(status, f"the upstream answered {status}")]
        assert outcomes(play) == {"refused": 1, "delivered": 1}


@pytest.mark.parametrize(
    "answer",
    [
        OK.replace(b"200 OK", b"503 Ill"),
        OK.replace(b"200 OK", b"301 Moved"),
        OK.replace(b"\r\n\r\n", b"\r\nContent-Type: text/html\r\n\r\n"),
    ],
)
async def test_anything_else_stays_and_the_pauses_double(answer: bytes) -> None:
    kept = Kept()
    put(kept)
    put(kept, client=b"other")
    async with delivering(kept) as (play, delivery):
        feeder = delivery.replay._feeders["default"]
        for pause in (1.0, 2.0, 4.0):
            upstream = await play.upstream()
            await asked(upstream)
            upstream.say(answer.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            await play.until(lambda pause=pause: feeder.pause == pause and feeder._waiter is not None)
            play.turn(pause - 0.1)
            await asyncio.sleep(0)
            assert feeder._pausing
            play.turn(0.2)
        upstream = await play.upstream()
        await asked(upstream)
        upstream.say(OK)
        await asked(upstream)
        upstream.say(OK)
        await play.until(lambda: not kept.stored())
        assert outcomes(play) == {"postponed": 3, "delivered": 2}
        assert feeder.pause == 0


async def test_the_upstream_may_say_how_long_and_an_operator_need_not_wait() -> None:
    kept = Kept()
    put(kept)
    async with delivering(kept) as (play, delivery):
        upstream = await play.upstream()
        feeder = delivery.replay._feeders["default"]
        await asked(upstream)
        upstream.say(OK.replace(b"200 OK", b"429 Slow").replace(b"\r\n\r\n", b"\r\nRetry-After: 30\r\n\r\n"))
        await play.until(lambda: feeder._pausing and feeder._waiter is not None)
        assert feeder.pause == 30
        play.turn(1.1)
        feeder._pool.last_well = play.clock.monotonic()  # it is well, but wants to be left alone
        play.turn(1.1)
        delivery.replay.wake()
        await asyncio.sleep(0)
        assert feeder._pausing
        delivery.replay.now()
        await asked(upstream)
        upstream.say(OK)
        await play.until(lambda: not kept.stored())


async def test_a_live_request_that_goes_well_ends_a_pause() -> None:
    kept = Kept()
    async with delivering(kept) as (play, delivery):
        feeder = delivery.replay._feeders["default"]
        await play.stop_upstream()
        put(kept)
        feeder.wake()
        for pause in (1.0, 2.0, 4.0):
            await play.until(lambda pause=pause: feeder.pause == pause and feeder._waiter is not None)
            play.turn(pause + 0.1)
        await play.until(lambda: feeder.pause == 8 and feeder._waiter is not None)
        play.turn(1.1)
        await asyncio.sleep(0)
        assert feeder.pause == 8
        feeder._pool.last_well = play.clock.monotonic()
        play.turn(1.1)
        await play.until(lambda: feeder.pause == 16)


async def test_nobody_there_is_not_the_requests_fault() -> None:
    kept = Kept()
    put(kept)
    async with delivering(kept) as (play, delivery):
        feeder = delivery.replay._feeders["default"]
        (await play.upstream()).hang_up()
        await play.until(lambda: feeder._pausing)
        assert kept.attempts == {1: 1}  # it may have been the request
        await play.stop_upstream()
        play.turn(1.1)
        await play.until(lambda: feeder.pause == 2)
        assert kept.attempts == {1: 1}


async def test_a_request_that_always_fails_is_set_aside_in_the_end() -> None:
    kept = Kept(attempts={1: MOST_ATTEMPTS - 1})
    put(kept)
    put(kept, b"next")
    async with delivering(kept) as (play, delivery):
        upstream = await play.upstream()
        await upstream.hear_head()
        upstream.hang_up()
        await play.until(lambda: delivery.replay._feeders["default"]._pausing)
        assert kept.dead[0][0] == 0
        play.turn(1.1)
        upstream = await play.upstream()
        await asked(upstream, b"next")
        upstream.say(OK)
        await play.until(lambda: not kept.stored())


async def test_what_no_request_can_be_made_of_does_not_keep_the_others() -> None:
    kept = Kept()
    kept.keep(SpoolRecord(0.0, "default", "/e", b"a", b"nonsense\r\n\r\n", 5), b"hello")
    put(kept, b"next", client=b"b")
    async with delivering(kept) as (play, delivery):
        upstream = await play.upstream()
        await asked(upstream, b"next")
        upstream.say(OK)
        await play.until(lambda: not kept.stored())
        assert kept.dead[0][0] == 0
        assert "it cannot be made ready" in kept.dead[0][1]
        assert outcomes(play) == {"refused": 1, "delivered": 1}
        assert not delivery.replay._tasks["default"].done()


async def test_an_event_with_a_number_of_any_size_is_delivered() -> None:
    kept = Kept()
    body = b'{"event":"x","offset":1' + b"0" * 400 + b"}"
    put(kept, body)
    async with delivering(kept) as (play, _):
        await asked(upstream := await play.upstream(), body)
        upstream.say(OK)
        await play.until(lambda: not kept.stored())
        assert outcomes(play) == {"delivered": 1}


async def test_large_bodies_go_in_pieces_and_an_early_no_is_heard() -> None:
    kept = Kept()
    large = b"x" * (CORRECTED_BYTES + 1)
    put(kept, large)
    put(kept, large)
    async with delivering(kept) as (play, _):
        upstream = await play.upstream()
        await asked(upstream, large)
        upstream.say(OK)
        await upstream.hear_head()
        upstream.say(OK.replace(b"200 OK", b"413 No"))
        await play.until(lambda: not kept.stored())
        assert [status for status, _ in kept.dead] == [413]


async def test_bodies_of_middling_size_are_read_whole() -> None:
    kept = Kept(inline=3)
    put(kept, b'{"event":"x"}')
    async with delivering(kept) as (play, _):
        play.clock.now += 60
        upstream = await play.upstream()
        assert b"Content-Length: " in await upstream.hear_head()
        assert (await upstream.hear_some(10)).startswith(b'{"offset":')
        upstream.say(OK)
        await play.until(lambda: not kept.stored())
        assert play.proxy.counters.spool_corrected == {("corrected",): 1}


async def test_more_at_a_time_while_it_goes_well_and_fewer_when_it_gets_slower(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replay, "WINDOW", 16)
    monkeypatch.setattr(replay, "MOST_IN_FLIGHT", most := 8)
    kept = Kept()
    for number in range(16 * 6):
        put(kept, client=b"%d" % number)
    async with delivering(kept) as (play, delivery):
        feeder, slow = delivery.replay._feeders["default"], False
        seen: list[int] = []

        async def answer(upstream: Actor) -> None:
            while True:
                await asked(upstream)
                if slow:
                    play.clock.now += 1
                seen.append(feeder.in_flight)
                upstream.say(OK)

        async def accept() -> None:
            async with asyncio.TaskGroup() as group:
                while True:
                    group.create_task(answer(await play.upstream()))

        accepting = asyncio.ensure_future(accept())
        await play.until(lambda: len(kept.stored()) <= 16)
        assert max(seen) == most
        slow = True
        await play.until(lambda: not kept.stored() and feeder.in_flight <= most // 2)
        accepting.cancel()
        await asyncio.gather(accepting, return_exceptions=True)


async def test_windows_do_not_wait_for_the_disk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replay, "WINDOW", 2)
    kept = Kept()
    bodies = put_in_order(kept, 7)
    forgotten, working = asyncio.Event(), kept.delivered

    async def slow(ids: Sequence[RecordId]) -> None:
        await forgotten.wait()
        await working(ids)

    monkeypatch.setattr(kept, "delivered", slow)
    async with delivering(kept) as (play, _):
        await taken(await play.upstream(), *bodies)
        await play.until(lambda: outcomes(play) == {"delivered": 7})
        assert len(kept.stored()) == 7
        forgotten.set()
        await play.until(lambda: not kept.stored())
        assert outcomes(play) == {"delivered": 7}


async def test_what_one_window_has_delivered_is_forgotten_though_the_next_one_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replay, "WINDOW", 2)
    kept = Kept()
    bodies = put_in_order(kept, 6)
    async with delivering(kept) as (play, delivery):
        upstream = await play.upstream()
        await taken(upstream, *bodies[:3])
        await upstream.hear_head()
        upstream.hang_up()
        again = await play.upstream()  # it may have been idle for too long
        await again.hear_head()
        again.hang_up()
        await play.until(lambda: delivery.replay._feeders["default"]._pausing)
        assert [stored.id.row for stored in kept.stored()] == [4, 5, 6]


def test_who_goes_after_whom() -> None:
    def lines(*clients: bytes) -> list[list[int]]:
        kept = Kept()
        for number, client in enumerate(clients):
            put(kept, client=client, arrived=float(number))
        return [[int(stored.arrived) for stored in line] for line in replay._by_client(kept.stored())]

    assert lines(b"a", b"b", b"a", b"a x") == [[0, 2], [1], [3]]
    few, many = [b"a"] * replay.BUSY, [b"a"] * (replay.BUSY + 1)
    assert lines(*few) == [list(range(replay.BUSY))]
    split = lines(*many)
    assert sorted(number for line in split for number in line) == list(range(len(many)))
    assert [line[0] for line in split] == list(range(len(split)))  # begun in their order
    assert max(map(len, split)) == replay.LINE
    assert lines(*[b"a person"] * 50) == [list(range(50))]


async def test_what_was_kept_for_an_upstream_that_is_gone_goes_to_the_default() -> None:
    kept = Kept()
    put(kept, upstream="moved")
    async with delivering(kept) as (play, delivery):
        assert repr(delivery.replay).startswith("<Replay [<Feeder default")
        delivery.replay.look()
        upstream = await play.upstream()
        await asked(upstream)
        upstream.say(OK)
        await play.until(lambda: not kept.stored())
        assert play.proxy.counters.spool_replayed == {("moved", "delivered"): 1}


async def fail_beside_another(play: Play, feeder: Feeder, suspect: bytes, other: bytes) -> None:
    """The suspect fails, then is asked again behind another one, which is taken, and fails."""
    ill = OK.replace(b"200 OK", b"500 No").replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    upstream = await play.upstream()
    await asked(upstream, suspect)
    upstream.say(ill)
    await play.until(lambda: feeder._pausing and feeder._waiter is not None)
    play.turn(1.1)
    upstream = await play.upstream()
    await taken(upstream, other)
    await asked(upstream, suspect)
    upstream.say(ill)


async def test_one_that_fails_again_and_again_does_not_hold_up_the_others() -> None:
    kept = Kept(attempts={1: SUSPICIOUS})
    put(kept, b"poison")
    put(kept, b"good")
    async with delivering(kept) as (play, delivery):
        await fail_beside_another(play, delivery.replay._feeders["default"], b"poison", b"good")
        await play.until(lambda: not kept.stored())
        [(status, reason)] = kept.dead
        assert (status, reason.partition(":")[0]) == (0, "failed 7 times while others were taken")


async def test_a_suspect_is_weighed_against_another_clients_record_of_its_route() -> None:
    kept = Kept(attempts={1: SUSPICIOUS})
    put(kept, b"poison")
    put(kept, b"else", route="/s", client=b"other")
    put(kept, b"next")
    put(kept, b"good", client=b"other")
    async with delivering(kept) as (play, delivery):
        await fail_beside_another(play, delivery.replay._feeders["default"], b"poison", b"good")
        await taken(await play.upstream(), b"else", b"next")
        await play.until(lambda: not kept.stored())
        assert len(kept.dead) == 1


@pytest.mark.parametrize("attempts", [SUSPICIOUS, SUSPICIOUS_ALONE])
async def test_what_other_routes_take_proves_little(attempts: int) -> None:
    kept = Kept(attempts={1: attempts})
    put(kept, b"recording", route="/s")
    put(kept, b"good")
    async with delivering(kept) as (play, delivery):
        feeder = delivery.replay._feeders["default"]
        await fail_beside_another(play, feeder, b"recording", b"good")
        if attempts == SUSPICIOUS:
            await play.until(lambda: feeder.pause == 2 and feeder._waiter is not None)
            assert kept.dead == []
            assert [stored.route for stored in kept.stored()] == ["/s"]
        else:
            await play.until(lambda: not kept.stored())
            assert len(kept.dead) == 1


async def test_events_do_not_wait_for_recordings() -> None:
    kept = Kept()
    put(kept, b"recording", route="/s", upstream="default/replay")
    async with delivering(kept) as (play, delivery):
        upstream = await play.upstream()
        await asked(upstream, b"recording")
        upstream.say(OK.replace(b"200 OK", b"500 No"))
        await play.until(lambda: delivery.replay._feeders["default/replay"]._pausing)
        put(kept, b"event")
        delivery.replay.wake("default")
        await taken(upstream, b"event")
        await play.until(lambda: [stored.route for stored in kept.stored()] == ["/s"])
        assert play.proxy.counters.spool_replayed == {
            ("default", "postponed"): 1,
            ("default", "delivered"): 1,
        }


async def test_while_the_upstream_is_ill_nothing_is_suspected() -> None:
    kept = Kept(attempts={1: SUSPICIOUS})
    put(kept, b"first")
    put(kept, b"second")
    async with delivering(kept) as (play, delivery):
        feeder = delivery.replay._feeders["default"]
        ill = OK.replace(b"200 OK", b"503 Ill").replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        for body in (b"first", b"second"):
            upstream = await play.upstream()
            await asked(upstream, body)
            upstream.say(ill)
            await play.until(lambda: feeder._pausing and feeder._waiter is not None)
            play.turn(feeder.pause + 0.1)
        await taken(await play.upstream(), b"second", b"first")  # well again: both are taken
        await play.until(lambda: not kept.stored())
        assert kept.dead == []


async def test_a_bug_of_ours_is_told_and_delivery_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept()
    async with delivering(kept) as (play, delivery):
        feeder = delivery.replay._feeders["default"]
        working = kept.oldest

        async def broken(*_: object) -> list[Stored]:
            raise ZeroDivisionError

        monkeypatch.setattr(kept, "oldest", broken)
        put(kept)
        feeder.wake()
        await play.until(lambda: feeder._pausing and feeder._waiter is not None)
        play.proxy.sweep()
        assert b"ZeroDivisionError" in play.errors
        monkeypatch.setattr(kept, "oldest", working)
        play.turn(61)
        upstream = await play.upstream()
        await asked(upstream)
        upstream.say(OK)
        await play.until(lambda: not kept.stored())
