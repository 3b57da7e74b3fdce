"""Deadlines: what is late is found by the sweep, and only then."""

from __future__ import annotations

import asyncio

import pytest

from proxy.clock import NEVER, Clock, Deadlines
from tests.support.clock import HandClock


class Item:
    def __init__(self, due: float) -> None:
        self.due = due
        self.expired = 0

    def expire(self) -> None:
        self.expired += 1
        self.due = NEVER


def test_the_real_clock_goes_forward() -> None:
    clock = Clock()
    assert clock.monotonic() <= clock.monotonic()
    assert clock.wall() > 1_700_000_000


def test_watched_items_expire_once_and_forgotten_ones_never() -> None:
    clock = HandClock()
    deadlines = Deadlines(clock)
    late, later, forgotten = Item(1001), Item(1002), Item(1001)
    for item in (late, later, forgotten):
        deadlines.watch(item)
    deadlines.forget(forgotten)
    deadlines.sweep()
    assert late.expired == 0
    clock.now = 1001
    deadlines.sweep()
    deadlines.sweep()
    assert (late.expired, later.expired, forgotten.expired) == (1, 0, 0)
    assert len(deadlines) == 2


def test_an_item_may_take_another_out_while_it_expires() -> None:
    clock = HandClock()
    deadlines = Deadlines(clock)
    items = [Item(0), Item(0)]

    class Taker(Item):
        def expire(self) -> None:
            super().expire()
            for item in items:
                deadlines.forget(item)
                item.due = NEVER

    taker = Taker(0)
    for item in (*items, taker):
        deadlines.watch(item)
    deadlines.sweep()
    assert taker.expired == 1
    assert len(deadlines) == 1


async def test_a_wait_ends_with_the_future_or_with_the_failure() -> None:
    clock = HandClock()
    deadlines = Deadlines(clock)
    loop = asyncio.get_running_loop()
    future: asyncio.Future[int] = loop.create_future()
    waiting = asyncio.create_task(deadlines.wait(future, 1001, TimeoutError))
    await asyncio.sleep(0)
    future.set_result(7)
    clock.now = 1002
    deadlines.sweep()  # done already: nothing is overwritten
    assert await waiting == 7
    waiting = asyncio.create_task(deadlines.wait(loop.create_future(), 1003, TimeoutError))
    await asyncio.sleep(0)
    clock.now = 1003
    deadlines.sweep()
    with pytest.raises(TimeoutError):
        await waiting
    assert len(deadlines) == 0
    never: asyncio.Future[int] = loop.create_future()
    never.set_result(1)
    assert await deadlines.wait(never, NEVER, TimeoutError) == 1


async def test_sleep_returns_at_the_first_sweep_after_its_moment() -> None:
    clock = HandClock()
    deadlines = Deadlines(clock)
    sleeping = asyncio.create_task(deadlines.sleep(1005))
    await asyncio.sleep(0)
    clock.now = 1004
    deadlines.sweep()
    await asyncio.sleep(0)
    assert not sleeping.done()
    clock.now = 1005
    deadlines.sweep()
    await sleeping
    assert len(deadlines) == 0
