"""A keeper that a test looks into: records in a list, told as durable a turn of the event loop later."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from proxy.spool.record import Receipt, RecordId, SpoolFull, SpoolRecord

if TYPE_CHECKING:
    from proxy.spool.record import Done, SpoolFailed


@dataclass
class Kept:
    """What was kept: records and bodies, in the order in which they became durable. ``refuses`` is what
    everything is answered with; ``waits``: nothing is durable before ``go_on``."""

    records: list[tuple[SpoolRecord, bytes]] = field(default_factory=list)
    abandoned: int = 0
    refuses: SpoolFull | SpoolFailed | None = None
    waits: bool = False
    woken: int = 0
    waiting: list[tuple[SpoolRecord, bytes, Done]] = field(default_factory=list)

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

    def wake(self) -> None:
        self.woken += 1


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
