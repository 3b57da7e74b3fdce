"""One flies, the others wait; nobody waits for ever, and nobody is forgotten."""

from __future__ import annotations

import asyncio

import pytest

from proxy.cache.flights import Flights, Landing
from proxy.clock import Deadlines
from tests.support.clock import HandClock

KEY = ("default", b"ph.example", b"/static/array.js", b"", False)


class Airport:
    def __init__(self) -> None:
        self.clock = HandClock()
        self.deadlines = Deadlines(self.clock)
        self.flights = Flights(self.deadlines)

    def wait(self, seconds: float = 5.0) -> asyncio.Task[Landing | None]:
        return asyncio.ensure_future(self.flights.landed(KEY, (b"",), self.clock.now + seconds))


@pytest.fixture
async def airport() -> Airport:
    return Airport()


async def test_with_none_under_way_nobody_waits(airport: Airport) -> None:
    assert await airport.wait() is None


@pytest.mark.parametrize("landing", [Landing.KEPT, Landing.ALONE, Landing.FAILED, Landing.GIVEN_UP])
async def test_all_that_wait_hear_how_it_ended(airport: Airport, landing: Landing) -> None:
    flight = airport.flights.take_off(KEY, (b"",))
    waiting = [airport.wait() for _ in range(3)]
    await asyncio.sleep(0)
    assert repr(flight) == "<Flight b'/static/array.js' waiting=3>"
    flight.land(landing)
    assert await asyncio.gather(*waiting) == [landing] * 3
    assert len(airport.flights) == len(airport.deadlines) == 0


async def test_patience_ends(airport: Airport) -> None:
    flight = airport.flights.take_off(KEY, (b"",))
    waiting = airport.wait(5.0)
    await asyncio.sleep(0)
    airport.clock.now += 5.0
    airport.deadlines.sweep()
    assert await waiting is Landing.LATE
    assert repr(flight).endswith("waiting=0>")
    flight.land(Landing.KEPT)


async def test_who_leaves_does_not_wait_any_more(airport: Airport) -> None:
    flight = airport.flights.take_off(KEY, (b"",))
    leaving, staying = airport.wait(), airport.wait()
    await asyncio.sleep(0)
    leaving.cancel()
    flight.land(Landing.KEPT)
    assert await staying is Landing.KEPT
    with pytest.raises(asyncio.CancelledError):
        await leaving


async def test_other_variants_fly_by_themselves(airport: Airport) -> None:
    flight = airport.flights.take_off(KEY, (b"gzip",))
    assert await airport.wait() is None
    flight.land(Landing.ALONE)
