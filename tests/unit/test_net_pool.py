"""The pool before an upstream that the test plays: reuse, line, retries, breaker, end."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
from functools import partial
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest

from proxy.clock import NEVER
from proxy.config.schema import Config
from proxy.errors import Failure, Resend, Source
from proxy.net.breaker import BreakerState
from proxy.net.gauges import UpstreamState
from proxy.net.http1 import Http1Exchange
from proxy.net.pool import UpstreamPool
from proxy.net.resolve import SocketAddress
from proxy.rules.announcing import Announcement
from proxy.wire.proxyproto import LOCAL, encode_header
from tests.support.play import PATIENCE
from tests.support.pooling import Pooling, upstream_at
from tests.support.turning import Time, turns, until

if TYPE_CHECKING:
    from proxy.net.lease import Lease
    from proxy.net.upstream import UpstreamConnection

pytestmark = pytest.mark.both_loops

ONE = {"connections": 1}


class TestReuse:
    async def test_a_new_connection(self) -> None:
        async with Pooling() as it:
            lease = await it.acquire()
            peer = await it.peer()
            lease.connection.write(b"hello")
            await peer.hear(b"hello")
            assert not lease.reused
            assert isinstance(lease.exchange, Http1Exchange)
            assert lease.address == f"127.0.0.1:{it.port}"
            assert (it.pool.state.in_use, it.pool.state.idle) == (1, 0)

    async def test_released_it_carries_the_next_exchange(self) -> None:
        async with Pooling() as it:
            first = await it.acquire()
            first.release(True)
            assert (it.pool.state.in_use, it.pool.state.idle) == (0, 1)
            second = await it.acquire()
            assert second.connection is first.connection
            assert second.reused
            assert second.exchange is not first.exchange

    async def test_last_in_first_out(self) -> None:
        async with Pooling() as it:
            first, second = await it.acquire(), await it.acquire()
            first.release(True)
            second.release(True)
            assert (await it.acquire()).connection is second.connection

    async def test_not_reusable_it_is_closed(self) -> None:
        async with Pooling() as it:
            lease = await it.acquire()
            peer = await it.peer()
            lease.release(False)
            assert await peer.hear_end() == b""
            assert it.pool.state.idle == 0

    async def test_bytes_after_the_answer_close_it(self) -> None:
        async with Pooling() as it:
            lease = await it.acquire()
            peer = await it.peer()
            peer.say(b"and another thing")
            await until(lambda: lease.connection.received)
            lease.release(True)
            assert await peer.hear_end() == b""

    async def test_an_end_within_the_exchange_closes_it(self) -> None:
        async with Pooling() as it:
            lease = await it.acquire()
            (await it.peer()).hang_up()
            await until(lambda: lease.connection.at_eof)
            lease.release(True)
            assert it.pool.state.idle == 0

    async def test_an_idle_one_that_the_upstream_closes_is_forgotten(self) -> None:
        async with Pooling() as it:
            lease = await it.acquire()
            peer = await it.peer()
            lease.release(True)
            peer.hang_up()
            await until(lambda: it.pool.state.idle == 0)
            assert not (await it.acquire()).reused

    async def test_an_idle_one_that_speaks_unasked_is_closed(self) -> None:
        async with Pooling() as it:
            lease = await it.acquire()
            peer = await it.peer()
            lease.release(True)
            peer.say(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
            assert await peer.hear_end() == b""
            assert it.pool.state.idle == 0

    async def test_what_a_tunnel_has_queued_is_sent_before_the_end(self) -> None:
        async with Pooling() as it:
            lease = await it.acquire()
            peer = await it.peer()
            lease.connection.write(b"x" * 5_000_000)
            lease.connection.close()
            lease.release(True)
            assert len(await peer.hear_end()) == 5_000_000


class TestTakingWithoutWaiting:
    async def test_nothing_there(self) -> None:
        async with Pooling() as it:
            assert it.pool.take_idle() is None

    async def test_an_idle_one(self) -> None:
        async with Pooling() as it:
            first = await it.acquire()
            first.release(True)
            lease = it.pool.take_idle()
            assert lease is not None
            assert lease.connection is first.connection
            assert it.pool.take_idle() is None
            lease.release(True)

    async def test_one_that_is_too_old_is_closed(self) -> None:
        async with Pooling() as it:
            lease = await it.acquire()
            peer = await it.peer()
            lease.release(True)
            it.time.hand.now += 4.0
            assert it.pool.take_idle() is None
            assert await peer.hear_end() == b""

    async def test_not_when_the_upstream_must_not_be_asked(self) -> None:
        async with Pooling() as it:
            (await it.acquire()).release(True)
            for _ in range(5):
                it.pool.record(ok=False, probe=False)
            assert it.pool.take_idle() is None


class TestTime:
    async def test_idle_for_four_seconds(self) -> None:
        async with Pooling() as it:
            lease = await it.acquire()
            peer = await it.peer()
            lease.release(True)
            it.time.turn(3.9)
            assert it.pool.state.idle == 1
            it.time.turn(0.1)
            assert it.pool.state.idle == 0
            assert await peer.hear_end() == b""

    async def test_a_use_starts_the_idle_time_again(self) -> None:
        async with Pooling() as it:
            for _ in range(3):
                (await it.acquire()).release(True)
                it.time.turn(3.0)
            assert it.pool.state.idle == 1

    async def test_the_greatest_age_is_spread_by_a_tenth(self) -> None:
        async with Pooling(keys={"idle_timeout": 1e6}) as it:
            leases = [await it.acquire() for _ in range(8)]
            for lease in leases:
                lease.release(True)
            it.time.turn(539.0)
            assert it.pool.state.idle == 8
            it.time.turn(61.0)
            assert 0 < it.pool.state.idle < 8
            it.time.turn(61.0)
            assert it.pool.state.idle == 0

    async def test_one_that_is_too_old_closes_at_its_release(self) -> None:
        async with Pooling() as it:
            lease = await it.acquire()
            it.time.turn(661.0)
            lease.release(True)
            assert it.pool.state.idle == 0

    async def test_no_idle_ones_are_kept_where_none_are_wanted(self) -> None:
        async with Pooling(bounds={"idle": 0}) as it:
            (await it.acquire()).release(True)
            assert it.pool.state.idle == 0

    async def test_it_is_one_object_for_the_sweep(self) -> None:
        async with Pooling() as it:
            leases = [await it.acquire() for _ in range(5)]
            for lease in leases:
                lease.release(True)
            assert len(it.time) == 1


class TestLine:
    async def test_first_come_first_served(self) -> None:
        async with Pooling(bounds=ONE) as it:
            holder = await it.acquire()
            one, two = await it.acquiring(), await it.acquiring()
            assert it.pool.state.waiting == 2
            it.time.turn(1.5)
            holder.release(True)
            lease = await one
            assert (lease.connection, lease.reused) == (holder.connection, True)
            assert (lease.t_queue, lease.t_connect) == (1.5, 0.0)
            assert not two.done()
            lease.release(True)
            assert (await two).connection is holder.connection

    async def test_a_closed_connection_lets_the_next_one_dial(self) -> None:
        async with Pooling(bounds=ONE) as it:
            holder = await it.acquire()
            waiting = await it.acquiring()
            holder.release(False)
            lease = await waiting
            assert not lease.reused

    async def test_full(self) -> None:
        async with Pooling(bounds=ONE | {"waiting": 1}) as it:
            holder = await it.acquire()
            waiting = await it.acquiring()
            with pytest.raises(Failure, match="1 requests wait for upstream default") as caught:
                await it.acquire()
            failure = caught.value
            assert (failure.source, failure.kind, failure.status) == (Source.PROXY, "pool_line_full", 503)
            assert failure.resend is Resend.ANY
            holder.release(True)
            await waiting

    async def test_too_late(self) -> None:
        async with Pooling(bounds=ONE) as it:
            await it.acquire()
            waiting, patient = await it.acquiring(seconds=2.5), await it.acquiring(seconds=9.0)
            it.time.turn(2.5)
            with pytest.raises(Failure, match="no connection to upstream default became free") as caught:
                await waiting
            assert (caught.value.kind, caught.value.status) == ("pool_wait_timeout", 503)
            assert caught.value.source is Source.UPSTREAM
            assert not patient.done()
            it.time.turn(6.5)
            with pytest.raises(Failure, match="became free in time"):
                await patient
            assert it.pool.breaker.state is BreakerState.CLOSED

    async def test_who_leaves_is_passed_over(self) -> None:
        async with Pooling(bounds=ONE) as it:
            holder = await it.acquire()
            leaving, staying = await it.acquiring(), await it.acquiring()
            leaving.cancel()
            await turns()
            assert it.pool.state.waiting == 1
            holder.release(True)
            assert (await staying).connection is holder.connection

    async def test_who_leaves_in_the_turn_of_the_grant_is_passed_over(self) -> None:
        async with Pooling(bounds=ONE) as it:
            holder = await it.acquire()
            leaving, staying = await it.acquiring(), await it.acquiring()
            leaving.cancel()
            holder.release(True)
            assert (await staying).connection is holder.connection
            assert leaving.cancelled()

    @pytest.mark.parametrize("reusable", [True, False])
    async def test_who_leaves_just_after_the_grant_gives_it_back(self, reusable: bool) -> None:
        async with Pooling(bounds=ONE) as it:
            holder = await it.acquire()
            leaving, staying = await it.acquiring(), await it.acquiring()
            holder.release(reusable)
            leaving.cancel()
            assert (await staying).reused is reusable
            assert leaving.cancelled()

    async def test_many_who_leave_at_once(self) -> None:
        async with Pooling(bounds=ONE | {"waiting": 3000}) as it:
            holder = await it.acquire()
            leaving = [await it.acquiring() for _ in range(3)]
            leaving += [asyncio.ensure_future(it.acquire()) for _ in range(2900)]
            await turns()
            staying = await it.acquiring()
            for task in leaving:
                task.cancel()
            holder.release(True)
            assert (await staying).connection is holder.connection
            await asyncio.wait(leaving)
            assert it.pool.state.waiting == 0

    async def test_a_refusal_and_a_departure_at_once(self) -> None:
        async with Pooling(bounds=ONE) as it:
            await it.acquire()
            leaving = await it.acquiring(seconds=2.0)
            it.time.turn(2.0)
            leaving.cancel()
            await asyncio.wait({leaving})
            assert it.pool.state.waiting == 0

    async def test_a_granted_connection_that_dies_meanwhile_is_replaced(self) -> None:
        async with Pooling(bounds=ONE) as it:
            holder = await it.acquire()
            waiting = await it.acquiring()
            holder.release(True)
            holder.connection.at_eof = True  # the loop read the end before it woke the one who waits
            lease = await waiting
            assert lease.connection is not holder.connection
            assert not lease.reused
            await until(lambda: holder.connection.lost)


class TestFresh:
    async def test_leaves_idle_ones_alone(self) -> None:
        async with Pooling() as it:
            (await it.acquire()).release(True)
            lease = await it.acquire(fresh=True)
            assert not lease.reused
            assert it.pool.state.idle == 1

    async def test_takes_the_place_of_an_idle_one(self) -> None:
        async with Pooling(bounds=ONE) as it:
            (await it.acquire()).release(True)
            peer = await it.peer()
            assert not (await it.acquire(fresh=True)).reused
            assert await peer.hear_end() == b""

    async def test_or_of_one_that_is_released(self) -> None:
        async with Pooling(bounds=ONE) as it:
            holder = await it.acquire()
            waiting = await it.acquiring(fresh=True)
            holder.release(True)
            assert not (await waiting).reused
            await until(lambda: holder.connection.lost)


class Names:
    """Answers every lookup with the same addresses, and counts them."""

    def __init__(self, *addresses: tuple[str, int]) -> None:
        self.addresses = [SocketAddress(socket.AF_INET, address) for address in addresses]
        self.lookups = 0

    async def __call__(self, host: str, port: int) -> list[SocketAddress]:
        self.lookups += 1
        return self.addresses


class TestConnecting:
    async def test_a_refusal_is_tried_again_twice(self) -> None:
        async with Pooling() as it:
            it.stop_listening()
            before = it.time.now
            with pytest.raises(Failure, match="connection refused") as caught:
                await it.passing(it.acquire())
            assert caught.value.kind == "connect_refused"
            assert 0.2 <= it.time.now - before <= 0.8
            assert (it.pool.state.dialling, it.pool.state.in_use) == (0, 0)
            assert [it.pool.may_retry(), it.pool.may_retry()] == [True, False]  # two of three were spent
            assert len(it.time) == 1

    async def test_the_name_is_looked_up_again_for_that(self, unused_tcp_port: int) -> None:
        names = Names(("127.0.0.1", unused_tcp_port))
        async with Pooling(host="posthog.internal", options={"lookup": names}) as it:
            with pytest.raises(Failure, match="refused"):
                await it.passing(it.acquire())
            assert names.lookups == 1  # it was looked up just before
            it.time.turn(2.0)
            names.addresses = [SocketAddress(socket.AF_INET, ("127.0.0.1", it.port))]
            before = it.time.now
            lease = await it.passing(it.acquire())
            assert (lease.retries, names.lookups) == (1, 2)
            assert lease.t_queue == 0.0
            assert 0.1 <= lease.t_connect <= it.time.now - before <= 0.5

    async def test_the_other_address_comes_first_then(self, unused_tcp_port: int) -> None:
        addresses = ("127.0.0.2", unused_tcp_port), ("127.0.0.3", unused_tcp_port)
        names = Names(*addresses)
        async with Pooling(host="posthog.internal", options={"lookup": names}, bounds={"retries": 1}) as it:
            with pytest.raises(Failure) as caught:
                await it.passing(it.acquire())
            order = [part.split(":")[0] for part in caught.value.detail.split("; ")]
            assert order == ["127.0.0.3", "127.0.0.2"]

    async def test_not_when_there_is_no_time_left(self) -> None:
        async with Pooling() as it:
            it.stop_listening()
            with pytest.raises(Failure, match="connection refused"):
                await it.acquire(seconds=0.1)
            assert len(it.time) == 1

    async def test_not_when_the_budget_is_spent(self) -> None:
        async with Pooling() as it:
            it.stop_listening()
            assert [it.pool.may_retry() for _ in range(4)] == [True, True, True, False]
            with pytest.raises(Failure, match="connection refused"):
                await it.acquire()

    async def test_cancelled_while_dialling(self) -> None:
        names = Names(("127.0.0.1", 1))
        names.addresses = []
        async with Pooling(host="posthog.internal", options={"lookup": names}, bounds=ONE) as it:
            acquiring = await it.acquiring()
            assert it.pool.state.dialling == 1
            waiting = await it.acquiring()
            acquiring.cancel()
            names.addresses = [SocketAddress(socket.AF_INET, ("127.0.0.1", it.port))]
            it.time.turn(1.0)
            assert not (await it.passing(_result(waiting))).reused
            assert acquiring.cancelled()

    async def test_cancelled_in_the_moment_of_the_connection(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async with Pooling() as it:
            opened = it.pool.opened

            def cancel(connection: UpstreamConnection) -> None:
                opened(connection)
                acquiring.cancel()

            monkeypatch.setattr(it.pool, "opened", cancel)
            acquiring = asyncio.ensure_future(it.acquire())
            await asyncio.wait({acquiring})
            assert acquiring.cancelled()
            await (await it.peer()).hear_end()
            await until(lambda: not it.pool._sockets)

    async def test_a_failed_dial_lets_the_next_one_try(self) -> None:
        async with Pooling(bounds=ONE | {"retries": 0}) as it:
            it.stop_listening()
            one, two = await it.acquiring(), await it.acquiring()
            for task in (one, two):
                with pytest.raises(Failure, match="refused"):
                    await task
            assert it.pool.state.dialling == 0

    async def test_a_unix_socket(self, tmp_path: Any) -> None:
        async with Pooling(unix=str(tmp_path / "s")) as it:
            lease = await it.acquire()
            peer = await it.peer()
            lease.connection.write(b"hello")
            await peer.hear(b"hello")
            assert lease.address == f"unix:{tmp_path}/s"


async def _result(task: asyncio.Task[Lease]) -> Lease:
    return await task


class TestBreaker:
    async def opened(self, it: Pooling) -> None:
        for _ in range(5):
            lease = await it.acquire()
            lease.report(503, None)
            lease.release(True)
        assert it.pool.state.breaker is BreakerState.OPEN

    async def test_failures_to_connect_open_it(self) -> None:
        async with Pooling(bounds={"retries": 0}) as it:
            it.stop_listening()
            for _ in range(5):
                with pytest.raises(Failure, match="connection refused"):
                    await it.acquire()
            with pytest.raises(Failure, match=r"default is not asked for . s: it keeps failing") as caught:
                await it.acquire()
            failure = caught.value
            assert (failure.source, failure.kind, failure.status) == (Source.UPSTREAM, "breaker_open", 503)
            assert failure.resend is Resend.ANY
            assert failure.retry_after in (5, 6)

    async def test_answers_that_say_so_open_it(self) -> None:
        async with Pooling() as it:
            await self.opened(it)
            with pytest.raises(Failure, match="breaker_open"):
                await it.acquire()

    async def test_one_probe_closes_it(self) -> None:
        async with Pooling() as it:
            await self.opened(it)
            it.time.turn(6.0)
            probe = await it.acquire()
            assert it.pool.state.breaker is BreakerState.HALF_OPEN
            with pytest.raises(Failure, match="breaker_open"):
                await it.acquire()
            probe.report(200, None)
            assert it.pool.state.breaker is BreakerState.CLOSED
            await it.acquire()

    async def test_a_probe_that_says_nothing_leaves_it_to_the_next(self) -> None:
        async with Pooling() as it:
            await self.opened(it)
            it.time.turn(6.0)
            (await it.acquire()).release(True)
            probe = await it.acquire()
            probe.report(504, None)
            assert it.pool.state.breaker is BreakerState.OPEN
            with pytest.raises(Failure, match="breaker_open") as caught:
                await it.acquire()
            assert caught.value.retry_after in (9, 10, 11)

    async def test_a_probe_that_cannot_connect_opens_it_again(self) -> None:
        async with Pooling(bounds={"retries": 0}) as it:
            await self.opened(it)
            it.stop_listening()
            it.time.turn(6.0)
            with pytest.raises(Failure, match="refused"):
                await it.acquire()
            assert it.pool.state.breaker is BreakerState.OPEN

    async def test_a_probe_that_is_cancelled_leaves_it_to_the_next(self) -> None:
        names = Names()
        async with Pooling(host="posthog.internal", options={"lookup": names}) as it:
            for _ in range(5):
                it.pool.record(ok=False, probe=False)
            it.time.turn(6.0)
            probing = await it.acquiring()
            assert it.pool.state.breaker is BreakerState.HALF_OPEN
            probing.cancel()
            await asyncio.wait({probing})
            assert it.pool.state.breaker is BreakerState.OPEN

    async def test_those_in_line_are_refused_when_it_opens(self) -> None:
        async with Pooling(bounds=ONE) as it:
            await it.acquire()
            waiting = [await it.acquiring() for _ in range(3)]
            for _ in range(5):
                it.pool.record(ok=False, probe=False)
            for task in waiting:
                with pytest.raises(Failure, match="breaker_open") as caught:
                    await task
                assert caught.value.retry_after in (5, 6)

    async def test_want_of_our_own_resources_does_not_count(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async with Pooling(bounds={"retries": 0}) as it:

            async def starving(*_: Any, **__: Any) -> None:
                raise Failure(Source.PROXY, "connect_failed", 503, "too many open files", Resend.ANY)

            monkeypatch.setattr("proxy.net.dialler.dial", starving)
            for _ in range(9):
                with pytest.raises(Failure, match="too many open files"):
                    await it.acquire()
            assert it.pool.state.breaker is BreakerState.CLOSED


class TestHealth:
    async def test_probes_take_it_out_and_bring_it_back(self) -> None:
        async with Pooling(keys={"health_path": "/_health"}) as it:
            it.pool.start()
            for _ in range(3):
                await self.probe(it, b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")
            state = it.pool.state
            assert (state.up, state.reason) == (False, "the health path answers 503")
            assert it.pool.take_idle() is None
            with pytest.raises(Failure, match="the health path answers 503") as caught:
                await it.acquire()
            assert (caught.value.kind, caught.value.status) == ("breaker_open", 503)
            assert caught.value.retry_after is not None
            assert 4 <= caught.value.retry_after <= 6
            for _ in range(2):
                await self.probe(it, b"HTTP/1.1 204 Fine\r\n\r\n")
            assert it.pool.state.up
            await it.acquire()

    async def probe(self, it: Pooling, answer: bytes) -> None:
        it.time.turn(6.0)
        peer = await it.peer()
        assert (await peer.hear_head()).startswith(b"GET /_health HTTP/1.1\r\n")
        assert (it.pool.state.in_use, it.pool.state.idle) == (0, 0)
        peer.say(answer)
        assert await peer.hear_end() == b""
        await until(lambda: len(it.time) == 2)

    async def test_without_a_path_nothing_is_asked(self) -> None:
        async with Pooling() as it:
            it.pool.start()
            await turns()
            assert len(it.time) == 1


class TestEnd:
    async def test_idle_ones_close_at_once_used_ones_at_their_release(self) -> None:
        async with Pooling() as it:
            busy, idle = await it.acquire(), await it.acquire()
            first, second = await it.peer(), await it.peer()
            idle.release(True)
            it.pool.close()
            assert await second.hear_end() == b""
            busy.connection.write(b"still here")
            await first.hear(b"still here")
            closing = asyncio.ensure_future(it.pool.wait_closed())
            await turns()
            assert not closing.done()
            busy.release(True)
            await closing
            assert await first.hear_end() == b""
            assert len(it.time) == 0

    async def test_who_comes_and_who_waits_is_refused(self) -> None:
        async with Pooling(bounds=ONE) as it:
            holder = await it.acquire()
            waiting = await it.acquiring()
            it.pool.close()
            with pytest.raises(Failure, match="shutting down") as caught:
                await waiting
            assert (caught.value.source, caught.value.kind) == (Source.PROXY, "draining")
            assert caught.value.status == 503
            with pytest.raises(Failure, match="shutting down"):
                await it.acquire()
            holder.release(True)
            assert it.pool.take_idle() is None

    async def test_a_dial_under_way_is_waited_for(self) -> None:
        async with Pooling(bounds={"retries": 0}) as it:
            acquiring = asyncio.ensure_future(it.acquire())
            await asyncio.sleep(0)
            it.pool.close()
            closing = asyncio.ensure_future(it.pool.wait_closed())
            lease = await acquiring
            assert not closing.done()
            lease.release(True)
            await closing

    async def test_a_pause_before_another_try_is_the_last(self) -> None:
        async with Pooling() as it:
            it.stop_listening()
            acquiring = await it.acquiring()
            await until(lambda: len(it.time) == 2)
            it.pool.close()
            it.time.turn(0.3)
            with pytest.raises(Failure, match="refused"):
                await acquiring
            await it.pool.wait_closed()

    async def test_a_fault_of_the_health_probes_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def broken(_: object) -> None:
            raise ZeroDivisionError

        async with Pooling(keys={"health_path": "/_health"}) as it:
            monkeypatch.setattr("proxy.net.health.HealthChecker.probe", broken)
            it.pool.start()
            await turns()
            it.pool.close()
            with pytest.raises(ZeroDivisionError):
                await it.pool.wait_closed()
            monkeypatch.setattr(it.pool, "_checking", None)


async def test_its_state_and_its_repr() -> None:
    async with Pooling() as it:
        await it.acquire()
        (await it.acquire()).release(True)
        assert it.pool.state == UpstreamState(
            name="default",
            url=f"http://127.0.0.1:{it.port}",
            up=True,
            reason="",
            breaker=BreakerState.CLOSED,
            idle=1,
            in_use=1,
            dialling=0,
            waiting=0,
        )
        assert repr(it.pool).startswith("<UpstreamPool default <Chooser idle=1 in_use=1")


class TestTheQuickWay:
    async def test_an_idle_connection_is_taken_and_given_back(self) -> None:
        async with Pooling() as it:
            lease = await it.acquire()
            connection = lease.connection
            assert it.pool.take_quickly(it.time.now) is None
            lease.release(True)
            for served in (2, 3):
                assert it.pool.take_quickly(it.time.now) is connection
                assert connection.served == served
                assert (it.pool.state.in_use, it.pool.state.idle) == (1, 0)
                it.pool.give_back_quickly(connection, True, it.time.now)
                assert (it.pool.state.in_use, it.pool.state.idle) == (0, 1)

    async def test_given_back_it_idles_out(self) -> None:
        async with Pooling(keys={"idle_timeout": 4.0}) as it:
            (await it.acquire()).release(True)
            peer = await it.peer()
            it.time.turn(3.9)
            connection = it.pool.take_quickly(it.time.now)
            assert connection is not None
            it.time.turn(10.0)  # while it carries something its age is no matter
            it.pool.give_back_quickly(connection, True, it.time.now)
            it.time.turn(3.9)
            assert it.pool.state.idle == 1
            it.time.turn(0.2)
            assert it.pool.state.idle == 0
            assert await peer.hear_end() == b""

    @pytest.mark.parametrize("fault", ["not reusable", "bytes left", "end"])
    async def test_what_is_not_fit_for_more_is_closed(self, fault: str) -> None:
        async with Pooling() as it:
            (await it.acquire()).release(True)
            peer = await it.peer()
            connection = it.pool.take_quickly(it.time.now)
            assert connection is not None
            if fault == "bytes left":
                peer.say(b"x")
                await until(lambda: connection.received)
            elif fault == "end":
                peer.hang_up()
                await until(lambda: connection.at_eof)
            it.pool.give_back_quickly(connection, fault != "not reusable", it.time.now)
            assert (it.pool.state.in_use, it.pool.state.idle) == (0, 0)
            assert await peer.hear_end() == b""

    async def test_who_waits_in_line_gets_what_is_given_back(self) -> None:
        async with Pooling(bounds=ONE) as it:
            (await it.acquire()).release(True)
            connection = it.pool.take_quickly(it.time.now)
            assert connection is not None
            waiting = await it.acquiring()
            assert it.pool.take_quickly(it.time.now) is None
            it.pool.give_back_quickly(connection, True, it.time.now)
            assert it.pool.take_quickly(it.time.now) is None
            assert (await waiting).connection is connection

    async def test_it_becomes_a_lease_that_knows_that_it_is_reused(self) -> None:
        async with Pooling() as it:
            (await it.acquire()).release(True)
            peer = await it.peer()
            connection = it.pool.take_quickly(it.time.now)
            assert connection is not None
            lease = it.pool.lend(connection)
            assert (lease.connection, lease.reused, connection.served) == (connection, True, 2)
            assert (lease.t_queue, lease.t_connect, lease.retries) == (0.0, 0.0, 0)
            lease.report(200, None)
            lease.release(True)
            assert it.pool.state.idle == 1
            assert (await it.acquire()).connection.served == 3
            peer.hang_up()

    async def test_there_is_no_quick_way_while_the_breaker_is_open(self) -> None:
        async with Pooling() as it:
            (await it.acquire()).release(True)
            for _ in range(5):
                it.pool.record(ok=False, probe=False)
            assert it.pool.take_quickly(it.time.now) is None
            assert it.pool.state.idle == 1

    async def test_there_is_none_to_an_upstream_that_is_down_or_whose_pool_is_closed(self) -> None:
        async with Pooling() as it:
            first, second = await it.acquire(), await it.acquire()
            first.release(True)
            for _ in range(3):
                it.pool.health.record("no answer")
            assert not it.pool.health.up
            assert it.pool.take_quickly(it.time.now) is None
            for _ in range(2):
                it.pool.health.record("")
            connection = it.pool.take_quickly(it.time.now)
            assert connection is first.connection
            second.release(True)
            it.pool.close()
            assert it.pool.take_quickly(it.time.now) is None
            it.pool.give_back_quickly(connection, True, it.time.now)
            assert (it.pool.state.in_use, it.pool.state.idle) == (0, 0)

    async def test_breaker_and_budget_are_told_at_the_sweep_or_before_they_are_asked(self) -> None:
        async with Pooling(bounds={"retry_share": 0.1}, health={"failure_share": 1.0}) as it:
            (await it.acquire()).release(True)

            def some(count: int) -> None:
                for _ in range(count):
                    connection = it.pool.take_quickly(it.time.now)
                    assert connection is not None
                    it.pool.give_back_quickly(connection, True, it.time.now)

            some(2)
            assert repr(it.pool.breaker) == "<Breaker CLOSED in_a_row=0 <Window 0/0>>"
            it.pool.count(it.time.now)
            assert repr(it.pool.breaker) == "<Breaker CLOSED in_a_row=0 <Window 0/2>>"
            for _ in range(3):
                for _ in range(4):
                    it.pool.record(ok=False, probe=False)
                some(1)
            it.pool.record(ok=False, probe=False)
            assert repr(it.pool.breaker) == "<Breaker CLOSED in_a_row=1 <Window 13/18>>"
            some(45)
            assert [it.pool.may_retry() for _ in range(7)] == [True] * 6 + [False]

    async def test_what_was_lent_is_not_counted_as_having_gone_well(self) -> None:
        async with Pooling() as it:
            (await it.acquire()).release(True)
            connection = it.pool.take_quickly(it.time.now)
            assert connection is not None
            lease = it.pool.lend(connection)
            it.pool.count(it.time.now)
            assert repr(it.pool.breaker) == "<Breaker CLOSED in_a_row=0 <Window 0/0>>"
            lease.report(503, None)
            lease.release(True)
            assert repr(it.pool.breaker) == "<Breaker CLOSED in_a_row=1 <Window 1/1>>"


async def test_of_a_configuration_it_speaks_http1_with_its_limits() -> None:
    server = await asyncio.start_server(_say_too_much, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    config = Config(upstreams={"app": upstream_at(port)})
    config = dataclasses.replace(config, limits=dataclasses.replace(config.limits, answer_head_bytes=1024))
    pool = UpstreamPool.of("app", config, Time())
    lease = await pool.acquire(due=NEVER, connect_timeout=3.0)
    with pytest.raises(Failure, match="1024"):
        await lease.exchange.read_head(NEVER, _never_late)
    lease.release(False)
    pool.close()
    await pool.wait_closed()
    server.close()
    await server.wait_closed()


async def _say_too_much(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 2000 + b"\r\n\r\n")
    await reader.read()
    writer.close()


def _never_late() -> Failure:
    raise AssertionError


class TestAnnouncing:
    """An upstream with `proxy_protocol`: each connection is one client's."""

    ONE_CLIENT = Announcement(ip_address("203.0.113.7"), 5000, ip_address("10.0.0.1"), 443)
    OTHER = Announcement(ip_address("203.0.113.8"), 5000, ip_address("10.0.0.1"), 443)

    async def test_each_lease_has_a_new_connection_that_names_its_client(self) -> None:
        async with Pooling(keys={"proxy_protocol": True}) as it:
            for client in (self.ONE_CLIENT, self.OTHER):
                lease = await it.acquire(announced=client)
                peer = await it.peer()
                await peer.hear(encode_header(client))
                assert not lease.reused
                lease.release(True)
                assert it.pool.state.idle == 0
                assert await peer.hear_end() == b""
            assert it.pool.take_idle() is None
            assert it.pool.take_quickly(it.time.now) is None

    async def test_one_after_the_other_where_there_is_one_place(self) -> None:
        async with Pooling(keys={"proxy_protocol": True}, bounds=ONE) as it:
            first = await it.acquire(announced=self.ONE_CLIENT)
            await (await it.peer()).hear(encode_header(self.ONE_CLIENT))
            waiting = asyncio.ensure_future(it.acquire(announced=self.OTHER))
            await turns()
            assert it.pool.state.waiting == 1
            first.release(True)
            assert not (await waiting).reused
            await (await it.peer()).hear(encode_header(self.OTHER))

    async def test_a_health_probe_speaks_for_the_proxy_itself(self) -> None:
        async with Pooling(keys={"proxy_protocol": True, "health_path": "/_health"}) as it:
            it.pool.start()
            peer = await it.peer()
            await peer.hear(LOCAL)
            assert (await peer.hear_head()).startswith(b"GET /_health ")


class TestBareConnections:
    """For what is no exchange: tcp mode."""

    async def dialled(self, it: Pooling) -> tuple[socket.socket, int]:
        dial = partial(it.pool.dialler.bare, None)
        async with asyncio.timeout(PATIENCE):
            connected, retries = await it.pool.connect(dial, due=it.time.now + 10, connect_timeout=3)
        return connected[0], retries

    async def test_it_connects_and_counts_as_no_connection_of_the_pool(self) -> None:
        async with Pooling() as it:
            sock, retries = await self.dialled(it)
            with sock:
                sock.send(b"hello")
                await (await it.peer()).hear(b"hello")
            assert retries == 0
            assert (it.pool.state.in_use, it.pool.state.dialling) == (0, 0)

    async def test_failures_are_tried_again_and_open_the_breaker(self) -> None:
        async with Pooling(health={"consecutive_failures": 1}) as it:
            it.stop_listening()
            with pytest.raises(Failure) as caught:
                await it.passing(self.dialled(it))
            assert caught.value.kind == "connect_refused"
            assert it.pool.breaker.state is BreakerState.OPEN
            with pytest.raises(Failure) as caught:
                await self.dialled(it)
            assert caught.value.kind == "breaker_open"

    async def test_success_closes_it_again(self) -> None:
        async with Pooling(health={"consecutive_failures": 1}) as it:
            it.pool.record(ok=False, probe=False)
            it.time.turn(100)
            sock, _ = await self.dialled(it)
            sock.close()
            assert it.pool.breaker.state is BreakerState.CLOSED

    async def test_a_probe_that_is_cancelled_leaves_the_next_one_to_try(self) -> None:
        async with Pooling(health={"consecutive_failures": 1}) as it:
            it.pool.record(ok=False, probe=False)
            it.time.turn(100)
            never = asyncio.get_running_loop().create_future()

            async def dial(due: float, rotation: int) -> None:
                await never

            task = asyncio.ensure_future(it.pool.connect(dial, due=it.time.now + 10, connect_timeout=3))
            await turns()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            sock, _ = await self.dialled(it)
            sock.close()
