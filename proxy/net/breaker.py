"""The circuit breaker of one upstream: stop asking who keeps failing, and find out when it is back.

::

    CLOSED ──too many failures──▶ OPEN ──its time is over, one request comes──▶ HALF_OPEN
       ▲                           ▲    or it listens again (knock.py)             │
       │                           └──────the probe failed: twice the time─────────┤
       └──────────────────────────────────the probe succeeded──────────────────────┘

Failures are connect errors, time-outs and answers 502, 503 and 504, as the caller judges (net/lease.py): in
a row, or as a share of the last ten seconds. In HALF_OPEN exactly one request is under way as the probe;
what others report meanwhile belongs to an earlier state and is ignored, as it is in OPEN. A probe that has
told nothing for `open_max` seconds (an export that takes minutes) is not waited for any longer: the next
request is one too.

Precedents: nginx max_fails 1 in 10 s; Envoy 5 x 5xx, 30 s; Traefik open 10 s, recovery 10 s.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from proxy.net.window import Window

if TYPE_CHECKING:
    import random

    from proxy.config.schema import HealthConfig

MIN_REQUESTS = 20
"""Requests in the window below which their share of failures says nothing."""

JITTER = 0.1
"""Part by which an open time is spread, so that the workers do not probe all at once."""


class BreakerState(enum.Enum):
    """See the module's picture."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Admission(enum.Enum):
    """May this request go to the upstream? PROBE: yes, and everybody waits for how it ends."""

    ALLOWED = "allowed"
    PROBE = "probe"
    REFUSED = "refused"


class Breaker:
    """See the module. Every method takes ``now``, in seconds of the monotonic clock.

    Memory: a ``Window``.
    """

    def __init__(self, config: HealthConfig, rng: random.Random) -> None:
        self._config = config
        self._rng = rng
        self._window = Window()
        self._in_a_row = 0
        self._openings = 0
        self._refuse_until = 0.0
        self.state = BreakerState.CLOSED

    def __repr__(self) -> str:
        return f"<Breaker {self.state.name} in_a_row={self._in_a_row} {self._window!r}>"

    def admit(self, now: float) -> Admission:
        """Ask for one request. After PROBE exactly one of ``record(probe=True)`` and ``abandon_probe``
        must follow."""
        if self.state is BreakerState.CLOSED:
            return Admission.ALLOWED
        if now < self._refuse_until:
            return Admission.REFUSED
        self.state = BreakerState.HALF_OPEN
        self._refuse_until = now + self._config.open_max
        return Admission.PROBE

    def retry_after(self, now: float) -> float:
        """Return the seconds after which to ask again: until the next probe, or, while one is under way,
        the shortest time that the breaker would stay open."""
        if self.state is BreakerState.HALF_OPEN:
            return self._config.open_min
        return max(0.0, self._refuse_until - now)

    def record(self, ok: bool, now: float, *, probe: bool = False) -> None:
        """A request ended. ``probe``: it was admitted as PROBE."""
        if probe and self.state is BreakerState.HALF_OPEN:
            self._close() if ok else self._open(now)
        elif self.state is BreakerState.CLOSED and self._config.breaker:
            self._count(ok, now)

    def went_well(self, count: int, now: float) -> None:
        """So many requests have ended well: ``record`` for all of them at once."""
        if self.state is BreakerState.CLOSED and self._config.breaker:
            self._window.add(now, events=count)
            self._in_a_row = 0

    def is_back(self, now: float) -> None:
        """The upstream listens again (knock.py): where it is not asked, the next request is the probe."""
        if self.state is BreakerState.OPEN:
            self._refuse_until = min(self._refuse_until, now)

    def abandon_probe(self) -> None:
        """The probe told nothing (its client left); the next request is the probe. Does nothing if it
        has been recorded."""
        if self.state is BreakerState.HALF_OPEN:
            self.state = BreakerState.OPEN
            self._refuse_until = 0.0

    def _count(self, ok: bool, now: float) -> None:
        window = self._window
        window.add(now, marked=0 if ok else 1)
        self._in_a_row = 0 if ok else self._in_a_row + 1
        if ok:
            return
        share = self._config.failure_share
        many = window.events >= MIN_REQUESTS and window.marked >= share * window.events
        if many or self._in_a_row >= self._config.consecutive_failures:
            self._open(now)

    def _open(self, now: float) -> None:
        seconds = min(self._config.open_max, self._config.open_min * 2.0 ** min(self._openings, 32))
        self._openings += 1
        self._refuse_until = now + seconds * self._rng.uniform(1 - JITTER, 1 + JITTER)
        self.state = BreakerState.OPEN

    def _close(self) -> None:
        self._window.clear()
        self._in_a_row = 0
        self._openings = 0
        self.state = BreakerState.CLOSED
