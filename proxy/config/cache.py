"""What is kept of PostHog's scripts and SDK configurations: `[cache]`."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.config.declaration import KIB, MIB, key


@dataclass(frozen=True, slots=True)
class CacheConfig:
    """`[cache]`: answers to GET on `/static/*` and `/array/*` that their headers allow to be kept. Each
    worker has a cache of its own."""

    enabled: bool = key(
        True,
        doc="Answer from memory what may be answered so; false: every request goes upstream.",
        why="The scripts are nine tenths of the bytes, and are the same for everybody.",
    )
    max_bytes: int = key(
        64 * MIB,
        unit="bytes",
        minimum=64 * KIB,
        doc="Memory for all of it, of each worker; what was not asked for longest goes first.",
        why="All scripts of some versions in all encodings are a tenth of it.",
    )
    max_entry: int = key(
        4 * MIB,
        unit="bytes",
        minimum=1024,
        maximum=1024 * MIB,
        doc="Largest body that is kept; a larger one is passed on as it comes.",
        why="PostHog's largest script is below 1 MiB; source maps are larger and asked for seldom.",
    )
    stale: float = key(
        3600.0,
        unit="s",
        minimum=0.0,
        doc="How long after its time an answer may still be given while the upstream fails; 0: never. "
        "`must-revalidate`, `s-maxage` and `stale-if-error` of the answer are heeded.",
        why="An hour is an outage; pages that load PostHog's script should not notice it.",
    )
    variants: int = key(
        32,
        unit="answers",
        minimum=1,
        maximum=1024,
        doc="Answers to one URL that differ by what Vary names (encoding, Origin, Referer).",
        why="PostHog's `/array/*/config*` vary by Origin and Referer: one for each page that loads them.",
    )
    wait: float = key(
        5.0,
        unit="s",
        minimum=0.0,
        maximum=60.0,
        doc="How long a request waits for the same one that is under way already, before it goes itself.",
        why="nginx proxy_cache_lock_timeout 5.",
    )
