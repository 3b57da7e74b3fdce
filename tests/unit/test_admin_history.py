"""Rates of the last minutes."""

from __future__ import annotations

from proxy.admin.history import INTERVAL, KEPT, History, number, summed, tally
from proxy.observe.metrics import Counters


def test_rates_are_of_the_last_seconds_and_sparks_of_all_that_is_kept() -> None:
    history, counters = History(), Counters()
    for at in range(3 * KEPT):
        history.add(counters.snapshot(), at * INTERVAL)
        for _ in range(10 if at >= 2 * KEPT else 2):
            counters.request("/e", "ingest_v0", b"POST", 200)
    assert history.class_rates() == {"ingest_v0": 5.0}
    assert history.status_rates() == {"2xx": 5.0}
    spark = history.spark("ingest_v0")
    assert len(spark) == KEPT - 1
    assert (spark[0], spark[-1]) == (1.0 if KEPT % 2 else spark[0], 5.0)
    assert history.spark("replay") == [0.0] * (KEPT - 1)


def test_a_sum_that_has_lost_something_is_no_negative_rate() -> None:
    history, counters = History(), Counters()
    for _ in range(5):
        counters.request("/e", "ingest_v0", b"POST", 200)
    history.add(counters.snapshot(), 0.0)
    history.add(Counters().snapshot(), INTERVAL)
    history.add(counters.snapshot(), INTERVAL)
    assert history.spark("ingest_v0") == [0.0, 0.0]


def test_nothing_yet_is_nothing() -> None:
    history = History()
    assert history.due(0.0)
    assert history.class_rates() == history.status_rates() == {}
    assert sum(history.waits("default")) == 0
    history.add(Counters().snapshot(), 0.0)
    assert not history.due(INTERVAL / 2)
    assert history.due(INTERVAL)


def test_latencies_are_those_of_the_time_that_is_kept() -> None:
    history, counters = History(), Counters()
    counters.upstream_durations.of("web").add(60.0)
    history.add(counters.snapshot(), 0.0)
    for _ in range(3):
        counters.upstream_durations.of("web").add(0.003)
    history.add(counters.snapshot(), INTERVAL)
    waits = history.waits("web")
    assert (sum(waits), waits[2]) == (3, 3)


def test_numbers_of_a_snapshot() -> None:
    snapshot = {"posthog_proxy_a": 3, "posthog_proxy_t": {'x="1",y="2"': 4, 'x="1",y="3"': 5}}
    assert number(snapshot, "a") == 3
    assert number(snapshot, "t") == 9
    assert number(snapshot, "nothing") == 0
    assert tally(snapshot, "a") == {}
    assert summed(tally(snapshot, "t"), "x") == {"1": 9}
