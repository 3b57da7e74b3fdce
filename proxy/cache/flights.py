"""One request upstream for many that ask the same: the first goes, the others wait until it has landed.

Waiting is bounded by the caller's deadline. Whoever finds that the flight brought nothing to share goes by
itself; after one that was given up (its client left), the next in line flies.

Memory: a flight for each exchange that is under way, a future for each that waits; both are bounded by the
client connections.
"""

from __future__ import annotations

import asyncio
import enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proxy.clock import Deadlines
    from proxy.rules.caching import Key, Values

    Place = tuple[Key, Values]


class Landing(enum.Enum):
    """How a flight ended."""

    KEPT = "kept"
    """The answer is in the store."""
    ALONE = "alone"
    """There was one, but it is nobody else's."""
    FAILED = "failed"
    """The upstream failed."""
    GIVEN_UP = "given_up"
    """Nobody knows: whoever flew had to stop."""
    LATE = "late"
    """It is still under way: the caller's patience has ended."""


class _LateError(Exception):
    """Internal to ``join``: the moment came."""


class Flight:
    """A request that is under way; it ``land``s exactly once."""

    __slots__ = ("_flights", "_place", "_waiting")

    def __init__(self, flights: dict[Place, Flight], place: Place) -> None:
        self._flights = flights
        self._place = place
        self._waiting: set[asyncio.Future[Landing]] = set()
        flights[place] = self

    def __repr__(self) -> str:
        return f"<Flight {self._place[0][2]!r} waiting={len(self._waiting)}>"

    async def join(self, deadlines: Deadlines, due: float) -> Landing:
        """Wait until it has landed, or until ``due``."""
        future: asyncio.Future[Landing] = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            return await deadlines.wait(future, due, _LateError)
        except _LateError:
            return Landing.LATE
        finally:
            self._waiting.discard(future)

    def land(self, landing: Landing) -> None:
        """It is over; who waits goes on."""
        del self._flights[self._place]
        for future in self._waiting:
            if not future.done():
                future.set_result(landing)


class Flights:
    """All that are under way in one process."""

    def __init__(self, deadlines: Deadlines) -> None:
        self._deadlines = deadlines
        self._flights: dict[Place, Flight] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def take_off(self, key: Key, values: Values) -> Flight:
        """Begin one; there is none of that name."""
        return Flight(self._flights, (key, values))

    async def landed(self, key: Key, values: Values, due: float) -> Landing | None:
        """Wait for the one that is under way, until ``due``; ``None``: there is none."""
        flight = self._flights.get((key, values))
        return None if flight is None else await flight.join(self._deadlines, due)
