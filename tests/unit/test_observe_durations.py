"""Histograms: which bucket, what is estimated, and that a sum of processes is read like one."""

from __future__ import annotations

import pytest

from proxy.observe.durations import BOUND_NAMES, BOUNDS, Durations, Histogram, by_label, quantile


@pytest.mark.parametrize(
    ("seconds", "bound"),
    [(0, "0.001"), (0.0009, "0.001"), (0.0015, "0.002"), (0.003, "0.004"), (65, "65.536"), (1e9, "+Inf")],
)
def test_each_is_in_the_bucket_of_the_next_bound(seconds: float, bound: str) -> None:
    durations = Durations()
    durations.add(seconds)
    assert durations.buckets.index(1) == BOUND_NAMES.index(bound)
    assert durations.seconds == seconds


def test_no_bucket_holds_what_is_above_its_bound() -> None:
    for number in range(1, 80_000, 7):
        durations = Durations()
        durations.add(number / 1000 + 0.0001)
        bucket = durations.buckets.index(1)
        assert bucket == len(BOUNDS) or number / 1000 < BOUNDS[bucket]
        assert bucket == 0 or number / 1000 >= BOUNDS[bucket - 1]


def test_counts_and_sums_by_label_and_back() -> None:
    histogram = Histogram("class")
    for seconds in (0.0005, 0.0005, 3.0):
        histogram.of("replay").add(seconds)
    histogram.of("never")
    assert histogram.counts() == {'class="replay",le="0.001"': 2, 'class="replay",le="4.096"': 1}
    assert histogram.sums() == {'class="replay"': 3_001_000}
    assert by_label(histogram.counts()) == {'class="replay"': histogram.of("replay").buckets}


def test_a_quantile_lies_inside_its_bucket() -> None:
    buckets = [0] * len(BOUND_NAMES)
    assert quantile(buckets, 0.5) is None
    buckets[2] = 10
    assert quantile(buckets, 0.5) == pytest.approx(0.003)
    assert quantile(buckets, 1.0) == pytest.approx(0.004)
    buckets[-1] = 1000
    assert quantile(buckets, 0.95) == BOUNDS[-1]
