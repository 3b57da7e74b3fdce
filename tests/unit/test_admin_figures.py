"""The figures that page and `top` show, made of real counters."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from proxy.admin.figures import figures
from proxy.admin.history import INTERVAL, History
from proxy.net.breaker import BreakerState
from proxy.net.gauges import UpstreamState, upstream_gauges
from proxy.observe.metrics import Counters, Snapshot, add_snapshot

if TYPE_CHECKING:
    from proxy.observe.report import Report, Warned

WALL = 1_800_000_000.0
NOTHING: Report = {"upstreams": {}, "warnings": {}}


def warned(event: str, at: float) -> Warned:
    return {"event": event, "at": at, "about": {}, "cure": "do this"}


def test_of_nothing_there_is_nothing() -> None:
    found = figures({}, NOTHING, History(), WALL)
    assert found["requests"]["total"] == 0
    assert found["fast_path"]["share"] is None
    assert found["spool"] is None
    assert found["classes"] == found["upstreams"] == found["warnings"] == found["certificates"] == []
    json.dumps(found)


def test_traffic_by_class_status_and_source() -> None:
    counters, history = Counters(), History()
    history.add(counters.snapshot(), 0.0)
    for status, times in ((200, 6), (503, 2), (0, 2)):
        for _ in range(times):
            counters.request("/e", "ingest_v0", b"POST", status)
    counters.request("", "", b"-", 400)
    counters.fast_path = 5
    counters.client_sources.add("peer")
    counters.reject("draining")
    history.add(counters.snapshot(), INTERVAL)
    found = figures(counters.snapshot(), NOTHING, history, WALL)
    assert [(each["name"], each["total"], each["per_second"]) for each in found["classes"]] == [
        ("ingest_v0", 10, 5.0),
        ("refused", 1, 0.5),
    ]
    assert found["requests"]["events_per_second"] == 5.0
    assert found["requests"]["per_second"] == 5.5
    assert {each["code"]: each["total"] for each in found["statuses"]} == {
        "none": 2,
        "2xx": 6,
        "4xx": 1,
        "5xx": 2,
    }
    assert found["fast_path"] == {"count": 5, "total": 11, "share": 0.4545}
    assert found["client_sources"] == [{"name": "peer", "total": 1}]
    assert found["rejected"] == [{"name": "draining", "total": 1}]


def test_an_upstream_of_two_workers_of_which_one_sees_it_down() -> None:
    total: Snapshot = {}
    for breaker in (BreakerState.CLOSED, BreakerState.OPEN):
        counters = Counters()
        counters.upstream_durations.of("web").add(0.003)
        counters.failures.add("web", "connect_refused")
        pool = UpstreamState("web", "http://a", True, "", breaker, idle=2, in_use=1, dialling=0, waiting=0)
        add_snapshot(total, counters.snapshot() | upstream_gauges([pool]))
    history = History()
    history.add(Counters().snapshot(), 0.0)
    history.add(total, INTERVAL)
    report: Report = {"upstreams": {"web": {"url": "http://a", "reason": "answers 500"}}, "warnings": {}}
    (web,) = figures(total, report, history, WALL)["upstreams"]
    assert not web["up"]
    assert web["reason"] == "answers 500"
    assert web["breaker"] == {"closed": 1, "open": 1}
    assert (web["idle"], web["in_use"], web["waiting"], web["failures"], web["retries"]) == (4, 2, 0, 2, 0)
    assert web["p50"] == 0.003
    assert 0.003 < web["p95"] <= 0.004


def test_warnings_newest_first_and_certificates_by_their_end() -> None:
    counters = Counters()
    counters.tls_certs_not_after["b.example",] = int(WALL + 40 * 86_400)
    counters.tls_certs_not_after["a.example",] = int(WALL - 1)
    report: Report = {"upstreams": {}, "warnings": {"old": warned("old", 1.0), "new": warned("new", 2.0)}}
    found = figures(counters.snapshot(), report, History(), WALL)
    assert [each["event"] for each in found["warnings"]] == ["new", "old"]
    assert found["certificates"] == [
        {"name": "a.example", "days_left": -1},
        {"name": "b.example", "days_left": 40},
    ]


def test_the_spool_has_its_place() -> None:
    snapshot: Snapshot = {"posthog_proxy_spool_bytes": 5, "posthog_proxy_spool_oldest_seconds": 7}
    assert figures(snapshot, NOTHING, History(), WALL)["spool"] == {
        "bytes": 5,
        "requests": 0,
        "oldest_seconds": 7,
        "dead_letters": 0,
    }
