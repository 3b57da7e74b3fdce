"""Prometheus's text format, version 0.0.4, of a snapshot.

Written here and not by prometheus_client: its registry wants to own the counters, with a lock around each
addition, and to sum processes over files; ours are plain numbers of an event loop, summed already. What is
left is the writing. Its parser reads all of it in the tests.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

from proxy.observe.durations import BOUND_NAMES, by_label
from proxy.observe.metrics import HISTOGRAMS, PREFIX, SUM

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from proxy.observe.metrics import Snapshot

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_COUNTERS: Mapping[str, str] = {
    "connections_total": "Client connections that were accepted.",
    "request_size_bytes": "Bytes of requests, heads and bodies.",
    "response_size_bytes": "Bytes of answers, heads and bodies.",
    "request_spliced_bytes": "Bytes of requests that the kernel moved by itself.",
    "response_spliced_bytes": "Bytes of answers that the kernel moved by itself.",
    "client_ip_suspect_total": "Requests whose client address is private: a sign of a wrong trust list.",
    "html_on_sdk_path_total": "Web pages that answered an SDK: a sign of a missing route.",
    "redirect_loop_total": "Redirects to the URL that was just asked for.",
    "replay_too_large_total": "Session recordings that were refused for their size, here or behind.",
    "one_client_ip_total": "Minutes in which most requests came from one address.",
    "upstream_without_success_total": "Minutes in which an upstream had only failed for long.",
    "fast_path_total": "Requests that took the fast path from end to end.",
    "fast_path_missed_total": "Requests on its routes that did not, by what was unusual.",
    "tcp_connections_total": "Connections in tcp mode that have ended, by cause.",
    "tcp_received_bytes": "Bytes from clients in tcp mode.",
    "tcp_sent_bytes": "Bytes to clients in tcp mode.",
    "tcp_spliced_bytes": "Bytes in tcp mode that the kernel moved by itself.",
    "cache_requests_total": "Requests that the asset cache had to do with.",
    "cache_not_kept_total": "Answers on its paths that could not be kept.",
    "cache_evictions_total": "Answers that had to make room.",
    "requests_total": "Requests by route, class, method and status; 0xx: never answered.",
    "client_address_source_total": "Requests by how the client address was found.",
    "rejected_total": "What was refused or cut, by reason.",
    "dropped_headers_total": "Header lines that were left out for safety.",
    "upstream_retries_total": "Requests that were sent again.",
    "upstream_failures_total": "Failures of upstreams, by kind.",
    "tls_handshakes_total": "TLS handshakes.",
    "tls_resumed_total": "TLS handshakes of clients that came back with a ticket.",
    "tls_handshake_failures_total": "TLS handshakes that failed.",
    "tls_reloads_total": "Certificates that were loaded anew.",
    "tls_reload_failures_total": "Certificates that could not be loaded anew.",
    "spool_kept_total": "Requests that were kept on disk.",
    "spool_replayed_total": "Kept requests that were delivered, or given up.",
    "spool_corrected_total": "Kept requests whose times were corrected, or could not be.",
    "config_reloads_total": "Reloads of the configuration.",
}

_GAUGES: Mapping[str, str] = {
    "open_connections": "Client connections that are open.",
    "requests_in_flight": "Requests that are being served.",
    "cache_bytes": "Bytes in the asset cache.",
    "cache_entries": "Answers in the asset cache.",
    "tls_reload_failed": "Certificates whose file has changed into one that cannot be used.",
    "tls_certs_not_after": "When each certificate ends, in seconds since the epoch.",
    "upstream_up": "1 while all processes believe that the upstream can be asked: probes and breaker.",
    "upstream_pool_idle": "Connections to the upstream that wait for a request.",
    "upstream_pool_in_use": "Connections to the upstream that carry a request.",
    "upstream_pool_waiting": "Requests that wait for a connection.",
    "breaker_state": "Processes whose breaker is in this state.",
    "spool_bytes": "Room that the kept requests take.",
    "spool_requests": "Requests that are kept and not delivered yet.",
    "spool_oldest_seconds": "Since when the oldest of them waits.",
    "spool_dead_letters": "Requests that PostHog has refused for good, kept for an operator.",
    "build_info": "The version.",
    "start_time_seconds": "When the process started, in seconds since the epoch.",
    "workers": "Processes that serve.",
    "config_last_reload_success": "1 if the configuration that was read last is the one in use.",
    "config_last_reload_timestamp_seconds": "When the configuration in use was read.",
}

_HISTOGRAMS: Mapping[str, str] = {
    "request_duration_seconds": "From the first byte of a request to the end of its answer.",
    "upstream_duration_seconds": "From a request's going upstream to the first byte of the answer.",
}

HELP: Mapping[str, tuple[str, str]] = {
    PREFIX + name: (kind, text)
    for kind, texts in (("counter", _COUNTERS), ("gauge", _GAUGES), ("histogram", _HISTOGRAMS))
    for name, text in texts.items()
}
"""Type and help of every name."""


def exposition(snapshot: Snapshot) -> str:
    """Return a snapshot as text. What is not in ``HELP`` is exported untyped."""
    return "\n".join([*_lines(snapshot), ""])


def _lines(snapshot: Snapshot) -> Iterator[str]:
    for name, value in snapshot.items():
        if name.endswith(SUM):  # a part of its histogram
            continue
        kind, text = HELP.get(name, ("untyped", ""))
        if text:
            yield f"# HELP {name} {text}"
        yield f"# TYPE {name} {kind}"
        if isinstance(value, int):
            yield f"{name} {value}"
        elif name in HISTOGRAMS:
            yield from _histogram(name, value, snapshot.get(name.replace("_seconds", SUM), {}))
        else:
            yield from (f"{name}{{{labels}}} {number}" for labels, number in value.items())


def _histogram(name: str, counts: Mapping[str, int], sums: int | Mapping[str, int]) -> Iterator[str]:
    for labels, buckets in by_label(counts).items():
        for bound, below in zip(BOUND_NAMES, accumulate(buckets), strict=True):
            yield f'{name}_bucket{{{labels},le="{bound}"}} {below}'
        total = sums.get(labels, 0) if not isinstance(sums, int) else 0
        yield f"{name}_sum{{{labels}}} {total / 1e6}"
        yield f"{name}_count{{{labels}}} {sum(buckets)}"
