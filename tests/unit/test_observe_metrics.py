"""Counters: exported names, bounded labels."""

from __future__ import annotations

from proxy.observe.durations import Histogram
from proxy.observe.metrics import (
    GAUGES,
    MAX_LABELS,
    MAX_SUMMED_LABELS,
    OTHER,
    Counters,
    Snapshot,
    Tally,
    add_snapshot,
    flattened,
    labels_of,
)


class TestTally:
    def test_counts_by_label(self) -> None:
        tally = Tally("a", "b")
        tally.add("x", "y")
        tally.add("x", "y")
        tally.add("x", "z")
        assert tally == {("x", "y"): 2, ("x", "z"): 1}
        assert tally.snapshot() == {'a="x",b="y"': 2, 'a="x",b="z"': 1}

    def test_new_labels_are_folded_once_the_cap_is_reached(self) -> None:
        tally = Tally("reason")
        for number in range(MAX_LABELS + 100):
            tally.add(f"word {number}")
        tally.add("word 0")
        assert len(tally) == MAX_LABELS + 1
        assert tally[OTHER,] == 100
        assert tally["word 0",] == 2
        assert sum(tally.values()) == MAX_LABELS + 101

    def test_label_values_are_escaped_as_prometheus_wants(self) -> None:
        tally = Tally("reason")
        tally.add('a"b\\c\nd')
        assert tally.snapshot() == {r'reason="a\"b\\c\nd"': 1}


class TestCounters:
    def test_a_fresh_one_is_all_zero(self) -> None:
        snapshot = Counters().snapshot()
        assert all(name.startswith("posthog_proxy_") for name in snapshot)
        assert all(value in (0, {}) for value in snapshot.values())

    def test_every_counter_is_in_the_snapshot(self) -> None:
        counters = Counters()
        numbers = [name for name, value in vars(counters).items() if isinstance(value, int)]
        for number, name in enumerate(numbers, start=1):
            setattr(counters, name, number)
        tallies = {name: value for name, value in vars(counters).items() if isinstance(value, Tally)}
        for name, tally in tallies.items():
            tally.add(*(name for _ in tally.names))
        values = list(counters.snapshot().values())
        assert [value for value in values if isinstance(value, int)] == list(range(1, len(numbers) + 1))
        assert len([value for value in values if value and isinstance(value, dict)]) == len(tallies)
        histograms = [value for value in vars(counters).values() if isinstance(value, Histogram)]
        assert len(values) == len(numbers) + len(tallies) + 2 * len(histograms)

    def test_requests_by_route_class_method_and_kind_of_status(self) -> None:
        counters = Counters()
        counters.request("/e", "ingest_v0", b"POST", 200)
        counters.request("/e", "ingest_v0", b"POST", 204)
        counters.request("/e", "ingest_v0", b"BREW", 503)
        counters.request("app", "protected", b"GET", 0)
        assert counters.snapshot()["posthog_proxy_requests_total"] == {
            'route="/e",class="ingest_v0",method="POST",code="2xx"': 2,
            'route="/e",class="ingest_v0",method="other",code="5xx"': 1,
            'route="app",class="protected",method="GET",code="0xx"': 1,
        }

    def test_words_for_what_was_refused_left_out_and_sent_again(self) -> None:
        counters = Counters()
        counters.reject("ambiguous_path")
        counters.drop(())
        counters.drop(("managed", "underscore_name"))
        counters.drop(("managed",))
        counters.retry("default")
        snapshot = counters.snapshot()
        assert snapshot["posthog_proxy_rejected_total"] == {'reason="ambiguous_path"': 1}
        assert snapshot["posthog_proxy_dropped_headers_total"] == {
            'word="managed"': 2,
            'word="underscore_name"': 1,
        }
        assert snapshot["posthog_proxy_upstream_retries_total"] == {'upstream="default"': 1}

    def test_a_snapshot_does_not_change_afterwards(self) -> None:
        counters = Counters()
        before = counters.snapshot()
        counters.connections_total += 1
        counters.reject("x")
        assert before["posthog_proxy_connections_total"] == 0
        assert before["posthog_proxy_rejected_total"] == {}


class TestSums:
    def test_counters_of_processes_are_added_up(self) -> None:
        total: Snapshot = {}
        add_snapshot(total, {"a": 1, "t": {'x="1"': 2}})
        add_snapshot(total, {"a": 3, "b": 4, "t": {'x="1"': 5, 'x="2"': 6}})
        assert total == {"a": 4, "b": 4, "t": {'x="1"': 7, 'x="2"': 6}}

    def test_a_sum_does_not_share_what_it_adds(self) -> None:
        total: Snapshot = {}
        first: Snapshot = {"t": {'x="1"': 2}}
        add_snapshot(total, first)
        add_snapshot(total, first)
        assert first == {"t": {'x="1"': 2}}

    def test_gauges_end_with_their_process(self) -> None:
        total: Snapshot = {}
        counters = Counters()
        counters.open_connections = counters.requests_in_flight = counters.connections_total = 5
        snapshot = dict.fromkeys(GAUGES, 1) | counters.snapshot()
        add_snapshot(total, snapshot, ended=True)
        assert total["posthog_proxy_connections_total"] == 5
        assert not total.keys() & GAUGES

    def test_label_sets_are_bounded_and_none_is_lost(self) -> None:
        total: Snapshot = {}
        for worker in range(3):
            labels = {f'a="{worker}\\"",b="{number}"': 1 for number in range(MAX_SUMMED_LABELS)}
            add_snapshot(total, {"t": labels})
        tally = total["t"]
        assert isinstance(tally, dict)
        assert len(tally) == MAX_SUMMED_LABELS + 1
        assert tally['a="other",b="other"'] == 2 * MAX_SUMMED_LABELS

    def test_an_upstream_is_up_only_where_all_see_it_up(self) -> None:
        total: Snapshot = {}
        for up in (1, 0, 1):
            add_snapshot(total, {"posthog_proxy_upstream_up": {'upstream="web"': up}})
        assert total == {"posthog_proxy_upstream_up": {'upstream="web"': 0}}

    def test_label_sets_are_read_as_they_are_written(self) -> None:
        tally = Tally("a", "b")
        tally.add('x"\\\n', "y,z=")
        (text,) = tally.snapshot()
        assert labels_of(text) == {"a": 'x"\\\n', "b": "y,z="}

    def test_histograms_and_moments_are_not_in_the_log_line(self) -> None:
        counters = Counters()
        counters.durations.of("replay").add(1.0)
        assert not [
            name for name in flattened(counters.snapshot()) if "duration" in name or "not_after" in name
        ]

    def test_one_number_for_each(self) -> None:
        counters = Counters()
        counters.connections_total = 3
        counters.reject("a")
        counters.reject("b")
        flat = flattened(counters.snapshot())
        assert flat["connections_total"] == 3
        assert flat["rejected_total"] == 2
        assert flat["requests_total"] == 0


def test_the_oldest_of_several_processes_is_the_oldest() -> None:
    total: Snapshot = {}
    for seconds in (3, 9, 4):
        add_snapshot(total, {"posthog_proxy_spool_oldest_seconds": seconds})
    assert total == {"posthog_proxy_spool_oldest_seconds": 9}
