"""Knocking at an upstream that does not listen, with real sockets."""

from __future__ import annotations

import pytest

from proxy.errors import Failure
from proxy.net.breaker import BreakerState
from proxy.net.knock import INTERVAL, SPREAD
from tests.support.pooling import Pooling
from tests.support.turning import turns, until

NO_RETRIES = {"retries": 0}
LONG = {"open_min": 60.0, "open_max": 60.0}
A_KNOCK = INTERVAL * (1 + SPREAD) + 0.01
"""Seconds within which there is one."""


async def refuse(it: Pooling) -> None:
    """The upstream is gone, and five requests have found out."""
    it.stop_listening()
    for _ in range(5):
        with pytest.raises(Failure, match="connection refused"):
            await it.acquire()
    assert it.pool.state.breaker is BreakerState.OPEN


async def knock(it: Pooling) -> None:
    """Let it knock once."""
    it.time.turn(A_KNOCK)
    await turns()


async def come_back(it: Pooling) -> None:
    """It listens again, and a knock has found out."""
    await it.listen_again()
    await knock(it)
    assert await (await it.peer()).hear_end() == b""
    await until(lambda: it.pool.breaker.retry_after(it.time.now) == 0)


async def test_the_next_request_is_a_probe_as_soon_as_somebody_listens_again() -> None:
    async with Pooling(bounds=NO_RETRIES, health=LONG) as it:
        await refuse(it)
        for _ in range(3):
            await knock(it)
            with pytest.raises(Failure, match="breaker_open"):
                await it.acquire()
        await come_back(it)
        lease = await it.acquire()
        assert it.pool.state.breaker is BreakerState.HALF_OPEN
        lease.report(200, None)
        assert it.pool.state.breaker is BreakerState.CLOSED
        await knock(it)
        await it.peer()
        assert it.unasked  # nobody knocks any more
        assert "resting" in repr(it.pool._knocker)


async def test_one_that_listens_but_is_sick_has_the_breakers_own_times() -> None:
    async with Pooling(bounds=NO_RETRIES, health=LONG) as it:
        for _ in range(5):
            lease = await it.acquire()
            lease.report(503, None)
            lease.release(False)
            await it.peer()
        assert it.pool.state.breaker is BreakerState.OPEN
        for _ in range(5):
            await knock(it)
        assert it.unasked


async def test_a_probe_that_finds_it_sick_ends_the_knocking() -> None:
    async with Pooling(bounds=NO_RETRIES, health=LONG) as it:
        await refuse(it)
        await come_back(it)
        lease = await it.acquire()
        await it.peer()
        lease.report(503, None)
        lease.release(False)
        for _ in range(5):
            await knock(it)
        assert it.unasked
        assert it.pool.breaker.retry_after(it.time.now) > 30


async def test_a_probe_that_cannot_connect_goes_on_with_it() -> None:
    async with Pooling(bounds=NO_RETRIES, health=LONG) as it:
        await refuse(it)
        await come_back(it)
        it.stop_listening()
        with pytest.raises(Failure, match="connection refused"):
            await it.acquire()
        assert "knocking" in repr(it.pool._knocker)
        await come_back(it)


async def test_a_request_that_was_quicker_ends_it() -> None:
    async with Pooling(bounds=NO_RETRIES, health={"open_min": 0.1, "open_max": 60.0}) as it:
        await refuse(it)
        await it.listen_again()
        it.time.turn(0.2)
        lease = await it.acquire()
        await it.peer()
        lease.report(200, None)
        await knock(it)
        assert it.unasked
        assert "resting" in repr(it.pool._knocker)


async def test_the_end_of_the_pool_ends_it() -> None:
    async with Pooling(bounds=NO_RETRIES, health=LONG) as it:
        await refuse(it)
        assert "knocking" in repr(it.pool._knocker)
    assert "resting" in repr(it.pool._knocker)


async def test_there_is_no_knocking_without_a_breaker() -> None:
    async with Pooling(bounds=NO_RETRIES, health={"breaker": False}) as it:
        it.stop_listening()
        for _ in range(6):
            with pytest.raises(Failure, match="connection refused"):
                await it.acquire()
        assert "resting" in repr(it.pool._knocker)
