"""What the writer's thread is asked to do, each as an object: done there, finished on the loop.

A job is for one file (``key``; empty: the file that new records go to). ``apply`` runs in the writer's
thread within that file's transaction; ``finish`` runs on the loop's thread after the commit, or with the
error that there was instead. ``since`` is when it was asked (monotonic), ``size`` what it holds in memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.spool.record import Receipt, RecordId, SpoolFailed, SpoolFull
from proxy.spool.table import room

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence
    from typing import TypeAlias

    from proxy.spool.recent import Recent
    from proxy.spool.record import Done, SpoolRecord
    from proxy.spool.table import Table

    Error: TypeAlias = SpoolFull | SpoolFailed


class Job:
    """See the module. ``answered``: whoever asked has been told already (it took too long). ``frees``: it is
    worth a second try when the disk is full."""

    __slots__ = ("answered", "key", "since", "size")

    frees = False

    def __init__(self, key: str, since: float, size: int) -> None:
        self.key = key
        self.since = since
        self.size = size
        self.answered = False

    def apply(self, table: Table) -> None:
        """Do it. Raises ``sqlite3.Error``."""
        raise NotImplementedError

    def spoil(self, error: Error) -> None:
        """Called in the writer's thread when its transaction was undone: what builds on it must fail too."""

    def committed(self, recent: Recent) -> None:
        """Called on the loop's thread, before anybody is told: note what waits now."""

    def finish(self, error: Error | None) -> None:
        """Tell whoever asked."""
        raise NotImplementedError


class Append(Job):
    """A record with its whole body. ``row`` is given by the writer, which adds many at once."""

    __slots__ = ("body", "done", "record", "row")

    def __init__(self, record: SpoolRecord, body: bytes, done: Done, since: float) -> None:
        super().__init__("", since, room(record, len(body)))
        self.record = record
        self.body = body
        self.done = done
        self.row = 0

    @property
    def _id(self) -> RecordId:
        return RecordId(self.record.arrived, self.key, self.row)

    def committed(self, recent: Recent) -> None:
        recent.kept(self._id, self.record, len(self.body), self.body)

    def finish(self, error: Error | None) -> None:
        self.done(error or Receipt(self._id, self.size))


class Growing:
    """A record whose pieces are in the file already: shared by its jobs. ``row`` is 0 before the first;
    ``error``: a piece was lost, so nothing that comes is written any more; ``recorded``: the record is
    there too. Changed in the writer's thread only."""

    __slots__ = ("error", "pieces", "recorded", "row")

    def __init__(self) -> None:
        self.row = 0
        self.pieces = 0
        self.recorded = False
        self.error: Error | None = None

    def add(self, table: Table, data: bytes) -> None:
        """Write the next piece."""
        if self.row == 0:
            self.row = table.reserve_row()
        table.add_pieces([(self.row, self.pieces, data)])
        self.pieces += 1


class Piece(Job):
    """A piece of a body."""

    __slots__ = ("_data", "_growing", "_told")

    def __init__(
        self, growing: Growing, data: bytes, told: Callable[[int, Error | None], None], since: float
    ) -> None:
        super().__init__("", since, len(data))
        self._growing = growing
        self._data = data
        self._told = told

    def apply(self, table: Table) -> None:
        if self._growing.error is None:
            self._growing.add(table, self._data)

    def spoil(self, error: Error) -> None:
        self._growing.error = error

    def finish(self, error: Error | None) -> None:
        self._told(self.size, error or self._growing.error)


class Commit(Job):
    """The end of a body: its last piece with the record."""

    __slots__ = ("_data", "_done", "_growing", "length", "record")

    def __init__(
        self, growing: Growing, record: SpoolRecord, data: bytes, length: int, done: Done, since: float
    ) -> None:
        super().__init__("", since, len(data))
        self._growing = growing
        self._data = data
        self._done = done
        self.record = record
        self.length = length

    def apply(self, table: Table) -> None:
        growing = self._growing
        if growing.error is not None:
            return
        growing.recorded = True
        if growing.row == 0:
            growing.row = table.add([(self.record, self._data)])
            return
        if self._data:
            growing.add(table, self._data)
        table.add_in_pieces(growing.row, self.record, self.length)

    def spoil(self, error: Error) -> None:
        self._growing.error = error
        self._growing.recorded = False

    @property
    def _id(self) -> RecordId:
        return RecordId(self.record.arrived, self.key, self._growing.row)

    def committed(self, recent: Recent) -> None:
        if self._growing.recorded:
            recent.kept(self._id, self.record, self.length, None)

    def finish(self, error: Error | None) -> None:
        error = error or self._growing.error
        self._done(error or Receipt(self._id, room(self.record, self.length)))


class Drop(Job):
    """The pieces of an entry that has ended without a record. One that was recorded after all, when nobody
    waited any more, stays: twice is better than never."""

    __slots__ = ("_growing",)

    frees = True

    def __init__(self, growing: Growing, since: float) -> None:
        super().__init__("", since, 0)
        self._growing = growing

    def apply(self, table: Table) -> None:
        if self._growing.row and not self._growing.recorded:
            table.discard_pieces(self._growing.row)

    def finish(self, error: Error | None) -> None:
        """Nobody waits for it; pieces that stay are found when the file is opened next."""


class Awaited(Job):
    """A change of rows that somebody awaits. ``note``: what is to be called for ``committed``."""

    __slots__ = ("_future", "_note")

    frees = True

    def __init__(
        self, key: str, note: Callable[[], None], future: asyncio.Future[None], since: float
    ) -> None:
        super().__init__(key, since, 0)
        self._note = note
        self._future = future

    def committed(self, recent: Recent) -> None:
        self._note()

    def finish(self, error: Error | None) -> None:
        if self._future.done():
            return
        if error is None:
            self._future.set_result(None)
        else:
            self._future.set_exception(error)


class Change(Awaited):
    """Any change."""

    __slots__ = ("_action",)

    def __init__(
        self,
        key: str,
        action: Callable[[Table], None],
        note: Callable[[], None],
        future: asyncio.Future[None],
        since: float,
    ) -> None:
        super().__init__(key, note, future, since)
        self._action = action

    def apply(self, table: Table) -> None:
        self._action(table)


class Remove(Awaited):
    """Records that were delivered. The writer deletes those of many jobs at once."""

    __slots__ = ("rows",)

    def __init__(
        self,
        key: str,
        rows: Sequence[int],
        note: Callable[[], None],
        future: asyncio.Future[None],
        since: float,
    ) -> None:
        super().__init__(key, note, future, since)
        self.rows = rows


def remove_all(table: Table, removes: Sequence[Remove]) -> None:
    """Apply many as one statement."""
    if removes:
        table.remove([row for job in removes for row in job.rows])


def add_all(table: Table, appends: Sequence[Append]) -> None:
    """Apply many appends as one statement."""
    if appends:
        first = table.add([(job.record, job.body) for job in appends])
        for row, job in enumerate(appends, first):
            job.row = row
