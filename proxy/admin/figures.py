"""The figures of status page and `top`, as one JSON value made of counters, words and the last minutes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from proxy.admin.history import number, summed, tally
from proxy.observe.durations import quantile
from proxy.observe.metrics import labels_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from proxy.admin.history import History
    from proxy.observe.metrics import Snapshot
    from proxy.observe.report import Report

EVENT_CLASSES = frozenset({"ingest_v0", "ingest_v1", "replay"})
"""Requests that bring events."""

REASONS = 12
"""Reasons of refusal that are shown, the commonest first."""

DAY = 86_400

Figures = dict[str, Any]


def figures(snapshot: Snapshot, report: Report, history: History, wall: float) -> Figures:
    """Return what is shown of traffic. Rates are of the last ten seconds, latencies of a minute and a half,
    totals since the start; durations in seconds. ``wall``: now."""
    total = number(snapshot, "requests_total")
    rates = history.class_rates()
    return {
        "requests": {
            "total": total,
            "per_second": _sum(rates.values()),
            "events_per_second": _sum(rate for name, rate in rates.items() if name in EVENT_CLASSES),
            "in_flight": number(snapshot, "requests_in_flight"),
            "connections": number(snapshot, "open_connections"),
        },
        "classes": _classes(snapshot, history, rates),
        "statuses": _statuses(snapshot, history),
        "fast_path": _share(number(snapshot, "fast_path_total"), total),
        "cache": _share(
            summed(tally(snapshot, "cache_requests_total"), "result").get("hit", 0),
            number(snapshot, "cache_requests_total"),
        ),
        "client_sources": _counted(snapshot, "client_address_source_total", "source"),
        "suspect_clients": number(snapshot, "client_ip_suspect_total"),
        "rejected": _counted(snapshot, "rejected_total", "reason")[:REASONS],
        "upstreams": [_upstream(name, snapshot, report, history) for name in report["upstreams"]],
        "warnings": sorted(report["warnings"].values(), key=lambda each: -each["at"]),
        "certificates": _certificates(snapshot, wall),
        "spool": _spool(snapshot),
    }


def _sum(rates: Iterable[float]) -> float:
    return round(sum(rates), 2)


def _share(part: int, total: int) -> Figures:
    return {"count": part, "total": total, "share": round(part / total, 4) if total else None}


def _classes(snapshot: Snapshot, history: History, rates: Mapping[str, float]) -> list[Figures]:
    totals = summed(tally(snapshot, "requests_total"), "class")
    return [
        {
            "name": name or "refused",
            "total": total,
            "per_second": rates.get(name, 0.0),
            "spark": history.spark(name),
        }
        for name, total in sorted(totals.items(), key=lambda item: (-item[1], item[0]))
    ]


def _statuses(snapshot: Snapshot, history: History) -> list[Figures]:
    rates = history.status_rates()
    totals = summed(tally(snapshot, "requests_total"), "code")
    return [
        {"code": code if code != "0xx" else "none", "total": total, "per_second": rates.get(code, 0.0)}
        for code, total in sorted(totals.items())
    ]


def _counted(snapshot: Snapshot, name: str, label: str) -> list[Figures]:
    counts = summed(tally(snapshot, name), label)
    return [
        {"name": value, "total": count}
        for value, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]


def _upstream(name: str, snapshot: Snapshot, report: Report, history: History) -> Figures:
    words, waits = report["upstreams"][name], history.waits(name)

    def of(metric: str) -> int:
        return summed(tally(snapshot, metric), "upstream").get(name, 0)

    breakers = {
        labels["state"]: count
        for text, count in tally(snapshot, "breaker_state").items()
        if (labels := labels_of(text)).get("upstream") == name and count
    }
    return {
        "name": name,
        "url": words["url"],
        "up": bool(of("upstream_up")),
        "reason": words["reason"],
        "breaker": breakers,
        "idle": of("upstream_pool_idle"),
        "in_use": of("upstream_pool_in_use"),
        "waiting": of("upstream_pool_waiting"),
        "retries": of("upstream_retries_total"),
        "failures": of("upstream_failures_total"),
        "p50": _rounded(quantile(waits, 0.5)),
        "p95": _rounded(quantile(waits, 0.95)),
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 5)


def _certificates(snapshot: Snapshot, wall: float) -> list[Figures]:
    ends = summed(tally(snapshot, "tls_certs_not_after"), "name")
    return [
        {"name": name, "days_left": int((end - wall) // DAY)}
        for name, end in sorted(ends.items(), key=lambda item: item[1])
    ]


def _spool(snapshot: Snapshot) -> Figures | None:
    """What waits on disk; ``None`` where nothing is kept there."""
    names = ("bytes", "requests", "oldest_seconds", "dead_letters")
    if not any(f"posthog_proxy_spool_{name}" in snapshot for name in names):
        return None
    return {name: number(snapshot, f"spool_{name}") for name in names}
