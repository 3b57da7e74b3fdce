"""Counts of the last ten seconds."""

from __future__ import annotations

SECONDS = 10
"""Length of the window; one bucket a second, so up to one second more is seen."""


class Window:
    """Two counts over the last ``SECONDS``: events, and those of them that are marked.

    Memory: ``SECONDS`` buckets. ``now`` is in seconds and never goes back.
    """

    __slots__ = ("_events", "_marked", "_second", "events", "marked")

    def __init__(self) -> None:
        self._second = 0
        self.clear()

    def __repr__(self) -> str:
        return f"<Window {self.marked}/{self.events}>"

    def clear(self) -> None:
        """Forget everything."""
        self._events = [0] * SECONDS
        self._marked = [0] * SECONDS
        self.events = 0
        self.marked = 0

    def advance(self, now: float) -> None:
        """Drop what is too old. ``events`` and ``marked`` are true until ``now`` moves on."""
        second = int(now)
        if second == self._second:
            return
        for passed in range(max(self._second + 1, second - SECONDS + 1), second + 1):
            bucket = passed % SECONDS
            self.events -= self._events[bucket]
            self.marked -= self._marked[bucket]
            self._events[bucket] = self._marked[bucket] = 0
        self._second = second

    def add(self, now: float, *, events: int = 1, marked: int = 0) -> None:
        """Count."""
        self.advance(now)
        bucket = self._second % SECONDS
        self._events[bucket] += events
        self._marked[bucket] += marked
        self.events += events
        self.marked += marked


class RetryBudget:
    """How many requests may be tried again: retries multiply the load when an upstream is weakest.

    At most ``share`` of the requests of the last ten seconds, but always ``minimum`` (Envoy: 20 % of
    the active ones, at least 3).
    """

    def __init__(self, share: float, minimum: int = 3) -> None:
        self._share = share
        self._minimum = minimum
        self._window = Window()

    def __repr__(self) -> str:
        return f"<RetryBudget {self._window.marked} of {self._window.events} requests>"

    def request(self, now: float, count: int = 1) -> None:
        """A request came, or several."""
        self._window.add(now, events=count)

    def take(self, now: float) -> bool:
        """Spend one retry; false: there is none left."""
        window = self._window
        window.advance(now)
        if window.marked >= max(self._minimum, self._share * window.events):
            return False
        window.add(now, events=0, marked=1)
        return True
