"""The last minutes: what rates, sparklines and recent latencies are made of.

Memory: ``KEPT`` samples, each of the numbers of classes, statuses and upstreams (a few KiB).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from proxy.observe.durations import BOUND_NAMES, by_label
from proxy.observe.metrics import PREFIX, labels_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from proxy.observe.metrics import Snapshot

INTERVAL = 2.0
"""Seconds between two samples: workers push each second."""

KEPT = 46
"""Samples: one and a half minutes."""

RECENT = 5
"""Intervals over which "per second" is said: ten seconds."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Totals at one moment: requests by class and by status, upstream durations by upstream."""

    at: float
    classes: Mapping[str, int]
    statuses: Mapping[str, int]
    waits: Mapping[str, Sequence[int]]


class History:
    """See the module."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque(maxlen=KEPT)

    def __repr__(self) -> str:
        return f"<History samples={len(self._samples)}>"

    def due(self, now: float) -> bool:
        """Whether it is time for the next sample; a quarter of a second early is not too early."""
        return not self._samples or now - self._samples[-1].at >= INTERVAL - 0.25

    def add(self, snapshot: Snapshot, now: float) -> None:
        """Take a sample; ``now`` is the monotonic clock's."""
        durations = tally(snapshot, "upstream_duration_seconds")
        waits = {labels_of(labels)["upstream"]: buckets for labels, buckets in by_label(durations).items()}
        requests = tally(snapshot, "requests_total")
        self._samples.append(Sample(now, summed(requests, "class"), summed(requests, "code"), waits))

    def spark(self, cls: str) -> list[float]:
        """Requests a second of one class in each interval, the latest last."""
        samples = list(self._samples)
        return [
            _rate(before, after, before.classes.get(cls, 0), after.classes.get(cls, 0))
            for before, after in pairwise(samples)
        ]

    def class_rates(self) -> dict[str, float]:
        """Requests a second, lately, by class."""
        before, after = self._recent()
        return {
            name: _rate(before, after, before.classes.get(name, 0), n) for name, n in after.classes.items()
        }

    def status_rates(self) -> dict[str, float]:
        """The same by status (``2xx``)."""
        before, after = self._recent()
        return {
            name: _rate(before, after, before.statuses.get(name, 0), n) for name, n in after.statuses.items()
        }

    def waits(self, upstream: str) -> list[int]:
        """How long an upstream took in the time that is kept, as buckets of durations."""
        if not self._samples:
            return [0] * len(BOUND_NAMES)
        none = (0,) * len(BOUND_NAMES)
        before, after = (self._samples[at].waits.get(upstream, none) for at in (0, -1))
        return [max(0, now - then) for then, now in zip(before, after, strict=True)]

    def _recent(self) -> tuple[Sample, Sample]:
        if not self._samples:
            nothing = Sample(0.0, {}, {}, {})
            return nothing, nothing
        return self._samples[max(0, len(self._samples) - 1 - RECENT)], self._samples[-1]


def _rate(before: Sample, after: Sample, then: int, now: int) -> float:
    """Never below nothing: what a worker that was killed had not told any more is missing in the sum."""
    seconds = after.at - before.at
    return round(max(0, now - then) / seconds, 2) if seconds > 0 else 0.0


def tally(snapshot: Snapshot, name: str) -> dict[str, int]:
    """Return the counts of one name, empty where there are none."""
    value = snapshot.get(PREFIX + name)
    return value if isinstance(value, dict) else {}


def number(snapshot: Snapshot, name: str) -> int:
    """Return one number, 0 where it is not counted."""
    value = snapshot.get(PREFIX + name)
    return value if isinstance(value, int) else sum(value.values()) if value else 0


def summed(counts: Mapping[str, int], label: str) -> dict[str, int]:
    """Add counts up by one of their labels."""
    found: dict[str, int] = {}
    for labels, count in counts.items():
        value = labels_of(labels).get(label, "")
        found[value] = found.get(value, 0) + count
    return found
