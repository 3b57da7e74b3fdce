"""What is kept of a request that PostHog could not take, and what whoever keeps it must be able to do.

``Keeper`` is the interface that the serving paths and the replay know. The store on this machine's disk
(store.py) is one; an engine that replicates over several nodes could be another. All of its methods are for
the thread of the event loop, and none of them waits for a disk there.

::

    append ──────────────────▶ done(Receipt | SpoolFull | SpoolFailed)      small bodies, callback
    begin ─▶ write … write ─▶ commit ─▶ Receipt                             large bodies, in pieces
                           └▶ abandon
    oldest ─▶ Stored … ─▶ body ─▶ delivered | set_aside | postponed         replay

A record whose receipt was given survives the end of the process at any moment, and of the machine as far as
its disk honours fsync. It may come out more than once, never less.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

from proxy.errors import ProxyError
from proxy.message import EndpointClass
from proxy.wire.strict import HeadLimits

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping, Sequence


ANY_HEAD = HeadLimits(1 << 20, 1 << 12, 1 << 19)
"""For the head of a record: it was judged when it came, perhaps by higher limits than any of now."""


class RecordId(NamedTuple):
    """A record's name and its place in the order of delivery: by arrival (wall seconds), then by the key of
    the file that it is in, then by its row there."""

    arrived: float
    file: str
    row: int

    def __str__(self) -> str:
        return f"{self.file}:{self.row}"


# Those that each request makes are not frozen: that would make them dearer to make. Nobody changes them.
@dataclass(slots=True)
class SpoolRecord:
    """A request without its body, as it is to be sent later.

    ``arrived``: wall seconds. ``upstream``: the name of the queue (``queue_name``); ``route``: the name.
    ``client`` is equal for requests that should be delivered in the order of their arrival (``order_key``).
    ``head``: the request head exactly as it would have gone upstream, the framing replaced by Content-Length,
    to CRLFCRLF. ``length``: bytes of the body; ``None`` until its end is known (the length line then is still
    missing in ``head``: whoever commits the entry gives the final head).
    """

    arrived: float
    upstream: str
    route: str
    client: bytes
    head: bytes
    length: int | None


@dataclass(slots=True)
class Stored:
    """A record in the store. ``length``: bytes of its body; ``attempts``: deliveries that were put off.
    ``inline``: the body, where it is small and was read along; ``Keeper.body`` yields it in any case."""

    id: RecordId
    arrived: float
    upstream: str
    route: str
    client: bytes
    head: bytes
    length: int
    attempts: int
    inline: bytes | None = field(default=None, repr=False, compare=False)


@dataclass(slots=True)
class Receipt:
    """The record is durable. ``bytes``: what it is reckoned to take of the store's room."""

    id: RecordId
    bytes: int


class SpoolFull(ProxyError):
    """The record was not taken, for want of room; nothing old is dropped for it.

    ``reason``: ``bytes`` (spool.max_bytes), ``age`` (the upstream's oldest record is older than
    spool.max_age), ``disk`` (spool.keep_free, or the disk said so), ``memory`` (more is waiting for the disk
    than may be held).
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"spool full: {reason}")
        self.reason = reason


class SpoolFailed(ProxyError):
    """The disk failed, or was too slow: the record may or may not be kept, so the client must not be told
    that it is. ``detail`` is what the disk said."""

    def __init__(self, detail: str) -> None:
        super().__init__(f"spool failed: {detail}")
        self.detail = detail


def queue_name(upstream: str, endpoint: EndpointClass) -> str:
    """Return the name of the queue for what goes to an upstream: ``default``, or ``default/replay``.

    PostHog takes recordings by another service than events, with another store behind it: when one of them is
    sick, what is kept for the other is not to wait for it.
    """
    events, recordings = queues_of(upstream)
    return recordings if endpoint is EndpointClass.REPLAY else events


def queues_of(upstream: str) -> tuple[str, str]:
    """Return the names of the queues for an upstream: that of events, that of recordings."""
    return upstream, f"{upstream}/replay"


def upstream_of(queue: str) -> str:
    """Return the name of the upstream that a queue is for."""
    return queue.partition("/")[0]


def order_key(client: str, person: bytes | None) -> bytes:
    """Return what is equal for requests that should arrive in order: ``SpoolRecord.client``. ``client``: its
    canonical address; ``person``: a distinct id, if one is known."""
    return client.encode() if person is None else b"%b %b" % (client.encode(), person)


def names_person(key: bytes) -> bool:
    """Whether a key is that of one person (addresses have no blanks)."""
    return b" " in key


Outcome: TypeAlias = Receipt | SpoolFull | SpoolFailed
Done: TypeAlias = Callable[[Outcome], None]


@dataclass(frozen=True, slots=True)
class UpstreamFigures:
    """What waits in one queue. ``oldest``: the arrival (wall seconds) of the oldest record."""

    depth: int = 0
    bytes: int = 0
    oldest: float | None = None

    def __add__(self, other: UpstreamFigures) -> UpstreamFigures:
        arrivals = [oldest for oldest in (self.oldest, other.oldest) if oldest is not None]
        return UpstreamFigures(
            self.depth + other.depth, self.bytes + other.bytes, min(arrivals, default=None)
        )


def total(files: Iterable[Mapping[str, UpstreamFigures]]) -> dict[str, UpstreamFigures]:
    """Return what waits in each queue in all of these files together."""
    found: dict[str, UpstreamFigures] = {}
    for upstreams in files:
        for name, figures in upstreams.items():
            found[name] = found.get(name, UpstreamFigures()) + figures
    return found


@dataclass(frozen=True, slots=True)
class Figures:
    """The state of a store. ``upstreams`` names the queues with records; ``refused`` counts by reason what
    was not taken (SpoolFull); ``failed`` what the disk failed to take; ``waiting_bytes`` is what is held in
    memory for the disk; ``dropped_dead_letters`` made room for newer ones."""

    upstreams: Mapping[str, UpstreamFigures] = field(default_factory=dict)
    dead_letters: int = 0
    dead_letter_bytes: int = 0
    dropped_dead_letters: int = 0
    refused: Mapping[str, int] = field(default_factory=dict)
    failed: int = 0
    waiting_bytes: int = 0
    files: int = 0

    @property
    def depth(self) -> int:
        """Records of all queues."""
        return sum(upstream.depth for upstream in self.upstreams.values())

    @property
    def bytes(self) -> int:
        """Room taken by the records of all queues."""
        return sum(upstream.bytes for upstream in self.upstreams.values())


@dataclass(frozen=True, slots=True)
class Tended:
    """What ``Keeper.tend`` found: ``adopted`` files of workers that are gone; ``replay_now``: an operator
    wishes that replay tries at once (posthog-proxy spool replay --now); ``notices`` are sentences for the
    log about files that were damaged or cannot be read."""

    adopted: int = 0
    replay_now: bool = False
    notices: Sequence[str] = ()


class Entry(Protocol):
    """A record whose body comes in pieces. Exactly one of ``commit`` and ``abandon`` ends it."""

    def write(self, piece: bytes) -> bool:
        """Take a piece of the body. False: await ``ready`` before the next one, as memory is bounded."""

    async def ready(self) -> None:
        """Return when more may be written. Raises what ``commit`` would raise."""

    async def commit(self, head: bytes | None = None) -> Receipt:
        """Make the record durable. ``head`` replaces that of the record, for a body whose length was not
        known. Raises ``SpoolFull`` or ``SpoolFailed``; the pieces are dropped then."""

    def abandon(self) -> None:
        """Drop the pieces; harmless after the end."""


class Keeper(Protocol):
    """Where records are kept. See the module."""

    def append(self, record: SpoolRecord, body: bytes, done: Done) -> None:
        """Keep a record with its whole body. ``done`` is called on the loop, never from within this call:
        with a receipt once the record is durable, else with why not."""

    def begin(self, record: SpoolRecord) -> Entry:
        """Begin a record whose body comes in pieces. Raises ``SpoolFull`` or ``SpoolFailed``."""

    async def oldest(self, upstream: str, count: int, after: RecordId | None = None) -> list[Stored]:
        """Return up to ``count`` records of a queue in the order of delivery, from behind ``after``."""

    def body(self, stored: Stored) -> AsyncIterator[bytes]:
        """Yield the body in pieces of bounded size. Raises ``SpoolFailed`` where it cannot be read."""

    async def delivered(self, ids: Sequence[RecordId]) -> None:
        """Forget records; those that are gone already do no harm."""

    async def set_aside(self, record: RecordId, status: int, reason: str) -> None:
        """Make a record a dead letter: it is kept, but delivered no more."""

    async def postponed(self, record: RecordId) -> None:
        """Count one more attempt."""

    async def tend(self) -> Tended:
        """Look after the files, every few seconds: adopt those of workers that are gone, notice what
        commands did."""

    def figures(self) -> Figures:
        """Return the state, from memory."""

    async def close(self) -> None:
        """Make everything that waits durable and let go of the files."""
