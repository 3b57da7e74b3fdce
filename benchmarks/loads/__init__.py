"""The loads: what is asked for, by how many, and who answers. A further load is a further row.

Names here are those of the command line and of the tables.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.loads import requests

if TYPE_CHECKING:
    from benchmarks.loads.requests import Maker


class Origin(enum.Enum):
    """Who answers behind the proxies."""

    NGINX = "nginx"
    """Fixed answers as fast as can be. It answers before it has read a body of more than one packet train."""
    READER = "reader"
    """Reads every body to its end before it answers, after a delay if one is asked for
    (origins/reader.py)."""


PRIME = 997
"""Different requests at least, where they are not too large to keep."""

MANY = 9_973
"""Different requests where they are small: more than any cache in a proxy holds, so that a cache of whole
request lines or of clients' addresses does not look better than it is."""


@dataclass(frozen=True, slots=True)
class Load:
    """``connections`` keep-alive connections that each send their next request when the answer is there.

    ``distinct`` requests in turn. ``trusted``: they come from a balancer that the proxies believe. ``idle``:
    this many further connections are held open and say nothing. ``delay``: seconds until the origin answers.
    ``steady``: latency is also measured at a fixed rate. ``bulk``: bodies are too large for wrk. ``scheme``
    is where TLS goes. ``tcp``: the proxies relay the connections and know nothing of HTTP; those that can.
    ``cached``: the proxies answer from their caches; those that have one for it.
    """

    name: str
    title: str
    make: Maker
    connections: int = 64
    distinct: int = MANY
    origin: Origin = Origin.NGINX
    trusted: bool = False
    idle: int = 0
    delay: float = 0.0
    steady: bool = False
    bulk: bool = False
    scheme: str = "http"
    tcp: bool = False
    cached: bool = False


LOADS = (
    Load("ingest", "events, 64 connections", requests.ingest, steady=True),
    Load("ingest-512", "events, 512 connections", requests.ingest, connections=512),
    Load(
        "balancer",
        "events behind a balancer",
        requests.ingest_behind_balancer,
        trusted=True,
        steady=True,
    ),
    Load("closing", "events, a new connection for each", requests.ingest_closing),
    Load("tls", "events over TLS", requests.ingest, scheme="https"),
    Load("handshakes", "events over TLS, a new connection for each", requests.ingest_closing, scheme="https"),
    Load("idle", "events, beside idle connections", requests.ingest, idle=10_000),
    Load("flags", "flags", requests.flags, steady=True),
    Load("app", "page of the app, 16 KB", requests.app_page, steady=True),
    Load("script", "script, 190 KB", requests.script, connections=32, bulk=True),
    Load(
        "cached-script",
        "script from the cache, 190 KB",
        requests.cached_script,
        connections=32,
        distinct=PRIME,
        bulk=True,
        cached=True,
    ),
    Load(
        "upload",
        "replay upload, 2 MB",
        requests.replay,
        connections=16,
        distinct=7,
        origin=Origin.READER,
        bulk=True,
    ),
    Load("download", "download, 1 MB", requests.download, connections=16, distinct=PRIME, bulk=True),
    Load(
        "tcp",
        "bytes relayed (tcp), 2 MB up or 1 MB down",
        requests.large,
        connections=16,
        distinct=16,
        origin=Origin.READER,
        bulk=True,
        tcp=True,
    ),
    Load(
        "tcp-small",
        "bytes relayed (tcp), events",
        requests.ingest,
        origin=Origin.READER,
        tcp=True,
    ),
    Load(
        "slow",
        "events, upstream takes 20 ms, 1,000 in flight",
        requests.ingest,
        connections=1_000,
        origin=Origin.READER,
        delay=0.02,
    ),
    Load("mixed", "mixed", requests.mixed, distinct=4_999, origin=Origin.READER, steady=True),
)

BY_NAME = {load.name: load for load in LOADS}
