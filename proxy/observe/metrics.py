"""What is counted, by the names that it is exported under.

Counters are plain attributes and dictionaries: the hot path adds to an integer. One event loop owns
them, so nothing is locked. Labels are bounded (`Tally`), and never a path, a host or an address.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeAlias

from proxy.observe.durations import Histogram

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Labels: TypeAlias = tuple[str, ...]

Snapshot: TypeAlias = dict[str, int | dict[str, int]]
"""Every counter by its exported name; tallies as counts by label set."""

PREFIX = "posthog_proxy_"

NOT_AFTER = f"{PREFIX}tls_certs_not_after"

_GAUGES = (
    "open_connections",
    "requests_in_flight",
    "cache_bytes",
    "cache_entries",
    "tls_reload_failed",
    "tls_certs_not_after",
    "upstream_up",
    "upstream_pool_idle",
    "upstream_pool_in_use",
    "upstream_pool_waiting",
    "breaker_state",
    "spool_bytes",
    "spool_requests",
    "spool_oldest_seconds",
    "spool_dead_letters",
)

GAUGES = frozenset(PREFIX + name for name in _GAUGES)
"""What is now, not what has been: it ends with the process that it was counted in."""

LEAST = frozenset({NOT_AFTER, f"{PREFIX}upstream_up"})
"""Of these the sum of several processes is the least: the first end of a certificate, up as all see it."""

MOST = frozenset({f"{PREFIX}spool_oldest_seconds"})
"""Of these it is the most."""

HISTOGRAMS = frozenset({f"{PREFIX}request_duration_seconds", f"{PREFIX}upstream_duration_seconds"})
"""Counts by bucket (``le``), not cumulative."""

SUM = "_microseconds"
"""What the name of a histogram's sum ends in, instead of ``_seconds``."""

MAX_SUMMED_LABELS = 4096
"""Different label sets of one tally in a sum of snapshots; later ones are counted under ``OTHER``."""

MAX_LABELS = 256
"""Different label values of one counter; whatever comes later is counted under ``OTHER``."""

OTHER = "other"

METHODS: Mapping[bytes, str] = {
    method.encode(): method for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
}
"""The methods that have a label of their own."""


class Tally(dict[Labels, int]):
    """Counts by label values, one key part for each name in ``names``. Memory: ``cap + 1`` entries."""

    __slots__ = ("cap", "names")

    def __init__(self, *names: str, cap: int = MAX_LABELS) -> None:
        super().__init__()
        self.names = names
        self.cap = cap

    def add(self, *labels: str) -> None:
        """Count one more under these label values."""
        self.count(labels)

    def count(self, labels: Labels) -> None:
        """Count one more under ``labels``."""
        if labels in self:
            self[labels] += 1
            return
        if len(self) >= self.cap:
            labels = (OTHER,) * len(self.names)
        self[labels] = self.get(labels, 0) + 1

    def snapshot(self) -> dict[str, int]:
        """Return the counts by label set, written as Prometheus does: ``route="/e",code="2xx"``."""
        return {
            ",".join(f'{name}="{_escaped(value)}"' for name, value in zip(self.names, labels, strict=True)): n
            for labels, n in self.items()
        }


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


class Counters:
    """Everything that one process counts. Memory: at most ``cap + 1`` entries for each tally."""

    def __init__(self) -> None:
        # One connection or exchange adds to these directly.
        self.connections_total = 0
        self.open_connections = 0
        self.requests_in_flight = 0
        self.request_bytes = 0
        self.response_bytes = 0
        self.request_bytes_spliced = 0
        self.response_bytes_spliced = 0
        """Those of the bytes above that never came into the process (net/splice.py)."""
        self.client_ip_suspect = 0
        """Requests from a private address or the proxy's own: a sign of a wrong trust list."""
        self.html_on_sdk_path = Tally("route", "upstream")
        """Pages where an SDK expects JSON or a script: the mark of a missing route (rules/symptoms.py)."""
        self.redirect_loops = Tally("kind")
        """Redirects to the URL that was just asked for."""
        self.replay_too_large = 0
        """Session recordings that were refused for their size, here or behind."""
        self.one_client_ip = 0
        """Minutes in which most requests came from one address."""
        self.upstream_without_success = Tally("upstream")
        """Minutes in which an upstream had only failed for long."""
        self.fast_path = 0
        """Requests that took the fast path from end to end."""
        self.fast_path_missed = Tally("reason")
        """Requests on its routes that did not, by what was unusual."""
        self.tcp_connections = Tally("upstream", "end")
        """Connections in tcp mode that have ended, by upstream and cause."""
        self.tcp_bytes_in = 0
        self.tcp_bytes_out = 0
        self.tcp_bytes_spliced = 0
        self.spooled = Tally("mode")
        """Requests that were kept for later, by the mode that was the reason."""
        self.spool_replayed = Tally("upstream", "outcome")
        """Deliveries of what was kept: delivered, refused (a dead letter now), postponed."""
        self.spool_corrected = Tally("outcome")
        """What became of the times in them (rules/lateness.py)."""
        self.cache = Tally("result")
        """Requests that the asset cache had to do with: hit, miss, revalidated, stale."""
        self.cache_not_kept = Tally("reason")
        """Answers on its paths that could not be kept (rules/caching.terms_of)."""
        self.cache_bytes = 0
        self.cache_entries = 0
        self.cache_evictions = 0
        self.requests = Tally("route", "class", "method", "code", cap=2048)
        self.client_sources = Tally("source")
        """How the client addresses were found (message.AddressSource)."""
        self.durations = Histogram("class")
        """From the first byte of a request to the last of its answer."""
        self.upstream_durations = Histogram("upstream")
        """From the last byte sent upstream of what was held to the first of the answer."""
        self.rejected = Tally("reason")
        self.dropped_headers = Tally("word")
        self.retries = Tally("upstream")
        self.failures = Tally("upstream", "kind")
        self.tls_handshakes = 0
        self.tls_resumed = 0
        """Handshakes of clients that came back with a ticket."""
        self.tls_failures = Tally("reason")
        self.tls_reloads = 0
        self.tls_reload_failures = 0
        self.tls_reload_failed = 0
        """Certificates whose file has changed into one that cannot be used; the old one is still shown."""
        self.tls_certs_not_after = Tally("name", cap=1024)
        """When each certificate ends, in seconds since the epoch, by its first name."""

    def request(self, route: str, cls: str, method: bytes, status: int) -> None:
        """Count an answered request; ``status`` 0 means that it was never answered."""
        self.requests.add(*self.request_labels(route, cls, method, status))

    @staticmethod
    def request_labels(route: str, cls: str, method: bytes, status: int) -> Labels:
        """Return the label values under which ``request`` counts."""
        return route, cls, METHODS.get(method, OTHER), f"{status // 100}xx"

    def reject(self, reason: str) -> None:
        """Count something that was refused or cut, by its machine word."""
        self.rejected.add(reason)

    def retry(self, upstream: str) -> None:
        """Count a request that was sent again."""
        self.retries.add(upstream)

    def drop(self, words: Iterable[str]) -> None:
        """Count header lines that were left out for safety (``Forward.dropped``)."""
        for word in words:
            self.dropped_headers.add(word)

    def snapshot(self) -> Snapshot:
        """Return every counter under its exported name."""
        values: dict[str, int | Tally] = {
            "connections_total": self.connections_total,
            "open_connections": self.open_connections,
            "requests_in_flight": self.requests_in_flight,
            "request_size_bytes": self.request_bytes,
            "response_size_bytes": self.response_bytes,
            "request_spliced_bytes": self.request_bytes_spliced,
            "response_spliced_bytes": self.response_bytes_spliced,
            "client_ip_suspect_total": self.client_ip_suspect,
            "html_on_sdk_path_total": self.html_on_sdk_path,
            "redirect_loop_total": self.redirect_loops,
            "replay_too_large_total": self.replay_too_large,
            "one_client_ip_total": self.one_client_ip,
            "upstream_without_success_total": self.upstream_without_success,
            "fast_path_total": self.fast_path,
            "fast_path_missed_total": self.fast_path_missed,
            "tcp_connections_total": self.tcp_connections,
            "tcp_received_bytes": self.tcp_bytes_in,
            "tcp_sent_bytes": self.tcp_bytes_out,
            "tcp_spliced_bytes": self.tcp_bytes_spliced,
            "spool_kept_total": self.spooled,
            "spool_replayed_total": self.spool_replayed,
            "spool_corrected_total": self.spool_corrected,
            "cache_requests_total": self.cache,
            "cache_not_kept_total": self.cache_not_kept,
            "cache_bytes": self.cache_bytes,
            "cache_entries": self.cache_entries,
            "cache_evictions_total": self.cache_evictions,
            "requests_total": self.requests,
            "client_address_source_total": self.client_sources,
            "rejected_total": self.rejected,
            "dropped_headers_total": self.dropped_headers,
            "upstream_retries_total": self.retries,
            "upstream_failures_total": self.failures,
            "tls_handshakes_total": self.tls_handshakes,
            "tls_resumed_total": self.tls_resumed,
            "tls_handshake_failures_total": self.tls_failures,
            "tls_reloads_total": self.tls_reloads,
            "tls_reload_failures_total": self.tls_reload_failures,
            "tls_reload_failed": self.tls_reload_failed,
            "tls_certs_not_after": self.tls_certs_not_after,
        }
        snapshot: Snapshot = {
            f"{PREFIX}{name}": value.snapshot() if isinstance(value, Tally) else value
            for name, value in values.items()
        }
        for name, histogram in (("request", self.durations), ("upstream", self.upstream_durations)):
            snapshot[f"{PREFIX}{name}_duration_seconds"] = histogram.counts()
            snapshot[f"{PREFIX}{name}_duration{SUM}"] = histogram.sums()
        return snapshot


_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def labels_of(text: str) -> dict[str, str]:
    """Read a label set as ``Tally.snapshot`` writes it."""
    return {name: _unescaped(value) for name, value in _LABEL.findall(text)}


def _unescaped(value: str) -> str:
    return re.sub(r"\\(.)", lambda match: "\n" if match[1] == "n" else match[1], value)


_LABEL_VALUE = re.compile(r'="(?:[^"\\]|\\.)*"')


def add_snapshot(total: Snapshot, snapshot: Snapshot, *, ended: bool = False) -> None:
    """Add one process's counters to a sum. ``ended``: the process is gone, and its gauges with it.

    Memory: at most ``MAX_SUMMED_LABELS + 1`` label sets of each tally.
    """
    for name, value in snapshot.items():
        if ended and name in GAUGES:
            continue
        if isinstance(value, int):
            so_far = _number(total.get(name, 0))
            total[name] = max(so_far, value) if name in MOST else so_far + value
            continue
        tally = total.setdefault(name, {})
        if isinstance(tally, dict):
            for labels, count in value.items():
                if labels not in tally and len(tally) >= MAX_SUMMED_LABELS:
                    labels = _LABEL_VALUE.sub(f'="{OTHER}"', labels)
                if name in LEAST:
                    tally[labels] = min(tally.get(labels, count), count)
                else:
                    tally[labels] = tally.get(labels, 0) + count


def _number(value: int | dict[str, int]) -> int:
    return sum(value.values()) if isinstance(value, dict) else value


def flattened(snapshot: Snapshot) -> dict[str, int]:
    """Return every counter as one number, tallies added up, without the common prefix: for a log line.
    Moments, states and histograms are left out."""
    return {
        name.removeprefix(PREFIX): _number(value)
        for name, value in snapshot.items()
        if name not in LEAST and "_duration_" not in name
    }
