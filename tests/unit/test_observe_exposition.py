"""Prometheus's own parser reads what is exported, and finds the same numbers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

from proxy.observe.exposition import HELP, exposition
from proxy.observe.lifetime import Lifetime
from proxy.observe.metrics import GAUGES, PREFIX, Counters, Snapshot, Tally, add_snapshot
from tests.support.clock import HandClock

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric


def parsed(snapshot: Snapshot) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(exposition(snapshot))}


def value(family: Metric, name: str, **labels: str) -> float:
    (found,) = [each.value for each in family.samples if each.name == name and each.labels == labels]
    return float(found)


def test_counters_and_labels_come_out_as_they_went_in() -> None:
    counters = Counters()
    counters.request('/"odd"\\\n', "replay", b"POST", 200)
    counters.connections_total = 7
    families = parsed(counters.snapshot())
    labels = {"route": '/"odd"\\\n', "class": "replay", "method": "POST", "code": "2xx"}
    requests = families["posthog_proxy_requests"]
    assert requests.type == "counter"
    assert value(requests, "posthog_proxy_requests_total", **labels) == 1
    assert value(families["posthog_proxy_connections"], "posthog_proxy_connections_total") == 7


def test_a_histogram_of_two_processes_is_cumulative_and_has_sum_and_count() -> None:
    total: Snapshot = {}
    for seconds in (0.0005, 3.0):
        counters = Counters()
        counters.durations.of("flags").add(seconds)
        add_snapshot(total, counters.snapshot())
    family = parsed(total)["posthog_proxy_request_duration_seconds"]
    name = family.name
    assert family.type == "histogram"
    assert value(family, f"{name}_bucket", **{"class": "flags", "le": "0.001"}) == 1
    assert value(family, f"{name}_bucket", **{"class": "flags", "le": "2.048"}) == 1
    assert value(family, f"{name}_bucket", **{"class": "flags", "le": "+Inf"}) == 2
    assert value(family, f"{name}_sum", **{"class": "flags"}) == 3.0005
    assert value(family, f"{name}_count", **{"class": "flags"}) == 2


def test_every_name_has_its_type_and_its_help() -> None:
    snapshot = Counters().snapshot() | Lifetime(HandClock(), "1").snapshot()
    names = {name for name in snapshot if not name.endswith("_microseconds")} | GAUGES
    assert names == HELP.keys()
    assert all(text.endswith(".") for _, text in HELP.values())
    assert {name for name, (kind, _) in HELP.items() if kind == "gauge"} >= GAUGES


def test_the_page_about_it_has_a_line_for_every_name() -> None:
    page = (Path(__file__).parents[2] / "docs" / "observing.md").read_text("utf-8")
    for name, (kind, text) in HELP.items():
        line = rf"^\| `{name.removeprefix(PREFIX)}` \| {kind} \| [a-z, ]*\| {re.escape(text)} \|$"
        assert re.search(line, page, re.MULTILINE), name
    assert len(re.findall(r"^\| `\w+` \| (?:counter|gauge|histogram) ", page, re.MULTILINE)) == len(HELP)


def test_what_is_not_known_is_exported_all_the_same() -> None:
    assert exposition({"x": 1, "t": {'a="b"': 2}}) == '# TYPE x untyped\nx 1\n# TYPE t untyped\nt{a="b"} 2\n'


def test_it_stays_readable_with_all_labels_there_can_be() -> None:
    counters = Counters()
    tallies = [each for each in vars(counters).values() if isinstance(each, Tally)]
    for tally in tallies:
        for number in range(tally.cap + 10):
            tally.add(*(f"value {number}" for _ in tally.names))
    assert len(exposition(counters.snapshot())) < 1024 * 1024
    assert len(parsed(counters.snapshot())) == len(
        [
            name
            for name in counters.snapshot()
            if name.startswith(PREFIX) and not name.endswith("_microseconds")
        ]
    )
