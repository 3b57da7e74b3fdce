"""A keeper that a test looks into: records in a list, told as durable a turn of the event loop later."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from proxy.spool.record import (
    Figures,
    Receipt,
    RecordId,
    SpoolFull,
    SpoolRecord,
    Stored,
    Tended,
    UpstreamFigures,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from proxy.spool.record import Done, SpoolFailed


@dataclass
class Kept:
    """What was kept: records and bodies, in the order in which they became durable. ``refuses`` is what
    everything is answered with; ``waits``: nothing is durable before ``go_on``."""

    records: list[tuple[SpoolRecord, bytes]] = field(default_factory=list)
    abandoned: int = 0
    refuses: SpoolFull | SpoolFailed | None = None
    waits: bool = False
    delivers: bool = False
    """Give out what was kept; else it stays."""
    waiting: list[tuple[SpoolRecord, bytes, Done]] = field(default_factory=list)
    inline: int = 65_536
    gone: set[int] = field(default_factory=set)
    dead: list[tuple[int, str]] = field(default_factory=list)
    attempts: dict[int, int] = field(default_factory=dict)
    tended: Tended = field(default_factory=Tended)
    closed: bool = False

    def append(self, record: SpoolRecord, body: bytes, done: Done) -> None:
        self.waiting.append((record, body, done))
        if not self.waits:
            asyncio.get_running_loop().call_soon(self.go_on)

    def go_on(self) -> None:
        """Make everything durable that waits."""
        waiting, self.waiting = self.waiting, []
        for record, body, done in waiting:
            if self.refuses is not None:
                done(self.refuses)
            else:
                done(self.keep(record, body))

    def keep(self, record: SpoolRecord, body: bytes) -> Receipt:
        self.records.append((record, body))
        return Receipt(RecordId(record.arrived, "test", len(self.records)), len(body))

    def begin(self, record: SpoolRecord) -> Piecewise:
        if isinstance(self.refuses, SpoolFull):
            raise self.refuses
        return Piecewise(self, record)

    # What the replay asks.

    def stored(self) -> list[Stored]:
        """What is there still, oldest first."""
        found = [
            Stored(
                RecordId(record.arrived, "test", row),
                record.arrived,
                record.upstream,
                record.route,
                record.client,
                record.head,
                len(body),
                self.attempts.get(row, 0),
                body if len(body) <= self.inline else None,
            )
            for row, (record, body) in enumerate(self.records, 1)
            if row not in self.gone
        ]
        return sorted(found, key=lambda stored: stored.id)

    async def oldest(self, upstream: str, count: int, after: RecordId | None = None) -> list[Stored]:
        await asyncio.sleep(0)
        found = [one for one in self.stored() if one.upstream == upstream and (not after or one.id > after)]
        return found[:count] if self.delivers else []

    async def body(self, stored: Stored) -> AsyncIterator[bytes]:
        body = self.records[stored.id.row - 1][1]
        for at in range(0, len(body), self.inline):
            yield body[at : at + self.inline]

    async def delivered(self, ids: Sequence[RecordId]) -> None:
        self.gone |= {each.row for each in ids}

    async def set_aside(self, record: RecordId, status: int, reason: str) -> None:
        self.gone.add(record.row)
        self.dead.append((status, reason))

    async def postponed(self, record: RecordId) -> None:
        self.attempts[record.row] = self.attempts.get(record.row, 0) + 1

    async def tend(self) -> Tended:
        tended, self.tended = self.tended, Tended()
        return tended

    def figures(self) -> Figures:
        depth: dict[str, UpstreamFigures] = {}
        for stored in self.stored():
            before = depth.get(stored.upstream, UpstreamFigures()).depth
            depth[stored.upstream] = UpstreamFigures(before + 1)
        return Figures(depth, dead_letters=len(self.dead))

    async def close(self) -> None:
        self.closed = True


class Piecewise:
    """Wants a pause after each piece."""

    def __init__(self, kept: Kept, record: SpoolRecord) -> None:
        self._kept = kept
        self._record = record
        self._pieces: list[bytes] = []
        self._over = False

    def write(self, piece: bytes) -> bool:
        self._pieces.append(piece)
        return False

    async def ready(self) -> None:
        await asyncio.sleep(0)

    async def commit(self, head: bytes | None = None) -> Receipt:
        await asyncio.sleep(0)
        self._over = True
        if self._kept.refuses is not None:
            raise self._kept.refuses
        body = b"".join(self._pieces)
        record = self._record if head is None else replace(self._record, head=head, length=len(body))
        return self._kept.keep(record, body)

    def abandon(self) -> None:
        self._kept.abandoned += not self._over
        self._over = True
