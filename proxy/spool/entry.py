"""A record whose body comes in pieces: gathered to rows of `spool.piece` bytes and handed to the writer.

::

    OPEN ──commit──▶ ENDING ──▶ ENDED          a piece that failed: the entry fails, and says so once asked
      └───abandon──────────────▶ ENDED

Memory: what was written here and is not on disk yet: a piece that is not full, and ``WINDOW`` pieces on their
way; ``write`` says False beyond that, and ``ready`` waits until half of it is gone.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from proxy.spool.jobs import Commit, Drop, Growing, Piece
from proxy.spool.record import SpoolFailed, SpoolFull
from proxy.spool.table import room

if TYPE_CHECKING:
    from proxy.spool.jobs import Error, Job
    from proxy.spool.record import Outcome, Receipt, SpoolRecord

WINDOW = 8


class Owner(Protocol):
    """What an entry needs of its store."""

    def reserve(self, size: int, upstream: str) -> SpoolFull | None:
        """Set room aside; return why there is none."""

    def give_back(self, size: int) -> None:
        """Room that was reserved is not needed, or is counted among what is stored."""

    @property
    def crowded(self) -> bool:
        """Whether so much waits for the disk that everybody should wait."""

    def lost(self, error: Error) -> None:
        """Count a record that was not taken."""

    def ended(self) -> None:
        """The entry holds no memory any more."""

    def ask(self, job: Job) -> None:
        """Hand a job to the writer."""

    def now(self) -> float:
        """Return the time (monotonic)."""


class PiecewiseEntry:
    """See the module, and ``record.Entry``."""

    def __init__(self, owner: Owner, record: SpoolRecord, piece: int, reserved: int) -> None:
        self._owner = owner
        self._record = record
        self._piece = piece
        self._reserved = reserved
        self._needed = room(record, 0)
        self._growing = Growing()
        self._gathered: list[bytes] = []
        self._gathered_bytes = 0
        self._under_way = 0
        self._error: Error | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._length = 0
        self._ended = False

    def __repr__(self) -> str:
        state = "ended" if self._ended else "failed" if self._error is not None else "open"
        return f"<PiecewiseEntry {state}, {self._length} bytes>"

    def write(self, piece: bytes) -> bool:
        """Take a piece of the body; false: await ``ready`` before the next one."""
        if self._ended:
            raise RuntimeError("the entry has ended")
        self._length += len(piece)
        self._needed += len(piece)
        if self._error is None and self._needed > self._reserved:
            self._reserve(self._needed - self._reserved)
        if self._error is not None:
            self._gathered.clear()
            return False
        self._gathered.append(piece)
        self._gathered_bytes += len(piece)
        if self._gathered_bytes > self._piece:
            self._hand_over()
        return self._under_way <= self._window()

    def _window(self) -> int:
        return 0 if self._owner.crowded else WINDOW * self._piece

    def _reserve(self, size: int) -> None:
        """Get room for what comes, a piece's more than is needed now, to ask seldom."""
        size += self._piece
        refusal = self._owner.reserve(size, self._record.upstream)
        if refusal is None:
            self._reserved += size
        else:
            self._fail(refusal)

    def _fail(self, error: Error) -> None:
        if self._error is None:
            self._error = error
            self._owner.lost(error)

    def _hand_over(self) -> None:
        """Send full pieces on their way, and keep the rest; it is never empty, so that it can go with the
        record."""
        joined = b"".join(self._gathered)
        start = 0
        while len(joined) - start > self._piece:
            data = joined[start : start + self._piece]
            start += self._piece
            self._under_way += len(data)
            self._owner.ask(Piece(self._growing, data, self._told, self._owner.now()))
        self._gathered = [joined[start:]]
        self._gathered_bytes = len(joined) - start

    def _told(self, size: int, error: Error | None) -> None:
        """A piece is in the file, or will never be."""
        self._under_way -= size
        if error is not None and not self._ended:
            self._fail(error)
        if self._waiter is not None and self._may_go_on():
            waiter, self._waiter = self._waiter, None
            if not waiter.done():
                waiter.set_result(None)

    def _may_go_on(self) -> bool:
        return self._error is not None or self._under_way <= self._window() // 2

    async def ready(self) -> None:
        """Return when more may be written. Raises ``SpoolFull`` or ``SpoolFailed``, and the entry is
        ended."""
        if not self._may_go_on():
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self._error is not None:
            self.abandon()
            raise self._error

    async def commit(self, head: bytes | None = None) -> Receipt:
        """Make the record durable. Raises ``SpoolFull`` or ``SpoolFailed``."""
        if self._ended:
            raise self._error or RuntimeError("the entry has ended")
        if self._error is not None:
            self.abandon()
            raise self._error
        self._end()
        head = self._record.head if head is None else head
        record = replace(self._record, head=head, length=self._length)
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

        def done(outcome: Outcome) -> None:
            self._owner.give_back(self._reserved)
            if isinstance(outcome, SpoolFull | SpoolFailed):
                self._fail(outcome)
                self._owner.ask(Drop(self._growing, self._owner.now()))
            if not future.done():
                future.set_result(outcome)

        last = b"".join(self._gathered)
        self._gathered.clear()
        self._owner.ask(Commit(self._growing, record, last, self._length, done, self._owner.now()))
        outcome = await future
        if isinstance(outcome, SpoolFull | SpoolFailed):
            raise outcome
        return outcome

    def abandon(self) -> None:
        """Drop the pieces; harmless after the end."""
        if self._ended:
            return
        self._end()
        self._gathered.clear()
        self._owner.give_back(self._reserved)
        self._owner.ask(Drop(self._growing, self._owner.now()))

    def _end(self) -> None:
        self._ended = True
        self._owner.ended()
