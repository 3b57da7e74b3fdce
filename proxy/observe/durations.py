"""How long things took: histograms that cost a request one addition each.

The bounds are powers of two of a millisecond, so the bucket is the number of bits of the whole milliseconds:
nothing is searched. A value that is exactly a bound is counted in the next bucket.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

BOUNDS: Sequence[float] = tuple(0.001 * 2**power for power in range(17))
"""Upper bounds in seconds, 1 ms to 65.536 s; what takes longer is in one more bucket."""

BOUND_NAMES: Sequence[str] = (*(f"{bound:g}" for bound in BOUNDS), "+Inf")
"""The same as the values of Prometheus's label ``le``."""

_LAST = len(BOUNDS)


class Durations:
    """Durations of one kind. ``buckets`` are not cumulative. Memory: 18 numbers."""

    __slots__ = ("buckets", "seconds")

    def __init__(self) -> None:
        self.buckets = [0] * (_LAST + 1)
        self.seconds = 0.0

    def add(self, seconds: float) -> None:
        """Count one of ``seconds``."""
        bucket = int(seconds * 1000).bit_length()
        self.buckets[bucket if bucket < _LAST else _LAST] += 1
        self.seconds += seconds


class Histogram(dict[str, Durations]):
    """Durations by the value of one label, whose values are few (classes, upstreams)."""

    __slots__ = ("label",)

    def __init__(self, label: str) -> None:
        super().__init__()
        self.label = label

    def of(self, value: str) -> Durations:
        """Return the durations of one label value."""
        return self.get(value) or self.setdefault(value, Durations())

    def counts(self) -> dict[str, int]:
        """Return how many there are in each bucket, empty ones left out."""
        return {
            f'{self.label}="{value}",le="{name}"': count
            for value, durations in self.items()
            for name, count in zip(BOUND_NAMES, durations.buckets, strict=True)
            if count
        }

    def sums(self) -> dict[str, int]:
        """Return the whole time of each label value in microseconds."""
        return {
            f'{self.label}="{value}"': round(durations.seconds * 1e6)
            for value, durations in self.items()
            if any(durations.buckets)
        }


def quantile(buckets: Sequence[int], share: float) -> float | None:
    """Return the duration in seconds below which a ``share`` of all lies, estimated inside its bucket as
    Prometheus's histogram_quantile does; ``None`` where there is none."""
    total = sum(buckets)
    if not total:
        return None
    wanted, below = share * total, 0
    for bucket, count in enumerate(buckets[:_LAST]):
        if count and below + count >= wanted:
            low = BOUNDS[bucket - 1] if bucket else 0.0
            return low + (BOUNDS[bucket] - low) * (wanted - below) / count
        below += count
    return BOUNDS[-1]


def by_label(counts: Mapping[str, int]) -> dict[str, list[int]]:
    """Read ``Histogram.counts``, or a sum of several: the buckets by label set, without ``le``."""
    found: dict[str, list[int]] = {}
    for text, count in counts.items():
        labels, _, bound = text.rpartition(',le="')
        buckets = found.setdefault(labels, [0] * len(BOUND_NAMES))
        buckets[BOUND_NAMES.index(bound.removesuffix('"'))] += count
    return found
