"""Where requests are kept that PostHog cannot take now, and how much of them: `[spool]`."""

# ruff: noqa: RUF009 -- `key` is dataclasses.field with metadata
from __future__ import annotations

from dataclasses import dataclass

from proxy.config.declaration import KIB, MIB, key
from proxy.message import SpoolMode


@dataclass(frozen=True, slots=True)
class SpoolConfig:
    """`[spool]`: events and replay that PostHog cannot take now are kept on disk and delivered later. Only
    v0 ingest and replay are: the answers of everything else cannot be given in PostHog's stead. Sizes hold
    for all workers together."""

    directory: str = key(
        "",
        form="directory",
        doc="Directory of the spool, made where it is missing; empty: no spool. One proxy uses it at a time; "
        "its disk should be local (SQLite's WAL does not work over NFS).",
        why="A proxy that may write nowhere still runs.",
    )
    mode: SpoolMode = key(
        SpoolMode.FALLBACK,
        doc="`fallback`: keep what PostHog did not take. `first`: answer as soon as a request is on disk, "
        "deliver in the background. `off`: only routes that say so. Means something with `directory` only.",
        why="While PostHog answers, its own answer is the truest.",
    )
    first_byte: float = key(
        8.0,
        unit="s",
        minimum=0.1,
        maximum=600.0,
        doc="In `fallback`: how long PostHog may take to begin its answer, where the route's own time is not "
        "shorter; then the request is kept.",
        why="Below the 10 s after which posthog-node sends again.",
    )
    max_bytes: int = key(
        1024 * MIB,
        unit="bytes",
        minimum=MIB,
        doc="Room for all records that wait. When it is used up, new requests get 503 with Retry-After, and "
        "nothing old is dropped.",
        why="Half a million events of 2 KB; SDKs that hear 503 keep theirs.",
    )
    max_age: float = key(
        86_400.0,
        unit="s",
        minimum=1.0,
        doc="When the oldest record for an upstream (of its events, or of its recordings) is older, nothing "
        "more is taken there (503).",
        why="An upstream that took nothing for a day needs a person.",
    )
    keep_free: int = key(
        5,
        unit="percent",
        minimum=0,
        maximum=90,
        doc="Take nothing more when less of the disk is free, or less than 16MiB; 0: until the disk is full, "
        "when not even delivered records can be deleted.",
        why="A full disk stops more than the spool.",
    )
    max_dead_letters: int = key(
        64 * MIB,
        unit="bytes",
        minimum=0,
        doc="Room for requests that PostHog refused for good (400, 401, 413), for an operator to look at; "
        "the oldest make room for new ones.",
        why="Without a spool they would be lost at once; with one they must not fill it.",
    )
    memory: int = key(
        32 * MIB,
        unit="bytes",
        minimum=MIB,
        maximum=1024 * MIB,
        doc="The most that each worker holds in memory on its way to disk; then 503.",
        why="Fifteen thousand events: several seconds.",
    )
    piece: int = key(
        64 * KIB,
        unit="bytes",
        minimum=4 * KIB,
        maximum=4 * MIB,
        doc="Larger bodies are written and read in pieces of this size.",
        why="Small beside `memory`, large beside what a row costs.",
    )
    commit_interval: float = key(
        0.01,
        unit="s",
        minimum=0.0,
        maximum=0.1,
        doc="Shortest time between two commits to disk; 0: as fast as the disk can.",
        why="A commit costs ten times what a record in it does; a client waits for 10 ms gladly.",
    )
    commit_timeout: float = key(
        5.0,
        unit="s",
        minimum=0.1,
        maximum=60.0,
        doc="How long a request waits for the disk; then 503.",
        why="The SDK still has its events, and its patience is 10 s.",
    )
