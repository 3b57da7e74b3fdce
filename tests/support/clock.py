"""Time that stands still until the test turns it."""

from __future__ import annotations

from proxy.clock import Clock


class HandClock(Clock):
    """A clock that the test turns."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return 1_780_000_000.0 + self.now
