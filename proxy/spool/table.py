"""The rows of one file, and what they add up to: everything that writes SQL, for one thread.

All that changes rows is called within a transaction (``begin`` … ``commit``). After ``rollback`` the
numbers are ``stale`` until ``begin`` or ``recount`` has counted anew. The writer's thread uses it on files
that this process owns, commands on any file, in short transactions; ``changed_outside`` says whether others
did.

Memory: a few numbers for each upstream, a name each; ``garbage`` holds two numbers for each large body whose
pieces still have to be deleted, which is done in slices, so that no commit waits for all of it.
"""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxy.spool.record import UpstreamFigures
from proxy.spool.schema import PAGE, PIECE_BITS

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

    from proxy.spool.record import SpoolRecord

OVERHEAD = 120
"""Bytes that a record is reckoned to take beside its head, body and client: numbers, index, slack."""

SLICE = 16
"""Pieces that one transaction deletes at most."""

REPLAY_NOW = "replay now"

_INSERT = (
    "INSERT INTO records (id, arrived, upstream, route, size, length, client, head, body)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_GIVEN = "id IN (SELECT value FROM json_each(?))"


def room(record: SpoolRecord, length: int) -> int:
    """Return the bytes that a record with a body of ``length`` is reckoned to take."""
    return OVERHEAD + len(record.head) + len(record.client) + length


@dataclass(slots=True)
class Totals:
    """What waits for one upstream; see ``UpstreamFigures``."""

    depth: int = 0
    bytes: int = 0
    oldest: float | None = None


class Table:
    """See the module. ``next_row`` is the row that the next record gets; rows are not used twice."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._names: dict[str, int] = {}
        self._upstreams: dict[int, str] = {}
        self._totals: dict[int, Totals] = {}
        self._seen_version = 0
        self.dead_letters = 0
        self.dead_letter_bytes = 0
        self.next_row = 1
        self.stale = False
        self.garbage: deque[tuple[int, int]] = deque()
        self._discarded: list[tuple[int, int]] = []  # garbage once the transaction is committed

    def __repr__(self) -> str:
        return f"<Table {sum(totals.depth for totals in self._totals.values())} records>"

    # Transactions.

    def begin(self) -> None:
        """Begin a transaction that may write. Raises ``sqlite3.Error``, as do all the others."""
        if self.stale:
            self.recount()
        self._discarded.clear()
        self._connection.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Make everything since ``begin`` durable."""
        self._connection.execute("COMMIT")
        self.garbage.extend(self._discarded)
        self._discarded.clear()

    def rollback(self) -> None:
        """Undo everything since ``begin``, if there is a transaction."""
        self.stale = True
        self._discarded.clear()
        self._connection.rollback()

    def close(self) -> None:
        """Close the connection; the last one to a file moves its log into the database."""
        self._connection.close()

    # Counting.

    def load(self) -> None:
        """Count what is there when the file is opened, and find what entries that never ended left over."""
        self._seen_version = self._version()
        self.recount()
        rows = self._connection.execute(
            f"SELECT DISTINCT id >> {PIECE_BITS} AS record FROM pieces"
            " WHERE record NOT IN (SELECT id FROM records)"
        ).fetchall()
        self.garbage.extend((row << PIECE_BITS, (row + 1) << PIECE_BITS) for (row,) in rows)
        (last,) = self._connection.execute(
            "SELECT max(ifnull((SELECT max(id) FROM records), 0),"
            f" ifnull((SELECT max(id) >> {PIECE_BITS} FROM pieces), 0))"
        ).fetchone()
        self.next_row = max(self.next_row, last + 1)

    def recount(self) -> None:
        """Count the rows again; an index answers it."""
        self.stale = True
        execute = self._connection.execute
        names = execute("SELECT id, name FROM names").fetchall()
        self._upstreams = dict(names)
        self._names = {name: number for number, name in names}
        self._totals = {
            upstream: Totals(depth, size, oldest)
            for upstream, depth, size, oldest in execute(
                "SELECT upstream, count(*), sum(size), min(arrived) FROM records"
                " WHERE status IS NULL GROUP BY upstream"
            ).fetchall()
        }
        self.dead_letters, self.dead_letter_bytes = execute(
            "SELECT count(*), ifnull(sum(size), 0) FROM records WHERE status IS NOT NULL"
        ).fetchone()
        self.stale = False

    def changed_outside(self) -> bool:
        """Whether another connection has written since the last call; if so, everything is counted anew."""
        version = self._version()
        changed = version != self._seen_version
        self._seen_version = version
        if changed or self.stale:
            self.recount()
        return changed

    def _version(self) -> int:
        """A number that others' commits change, and ours do not."""
        (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        return int(version)

    def figures(self) -> dict[str, UpstreamFigures]:
        """Return what waits for each upstream."""
        return {
            self._upstreams[number]: UpstreamFigures(totals.depth, totals.bytes, totals.oldest)
            for number, totals in self._totals.items()
            if totals.depth
        }

    @property
    def empty(self) -> bool:
        """Whether the file holds nothing at all that anybody could want."""
        held = self.dead_letters or self.garbage or any(totals.depth for totals in self._totals.values())
        return not held and not self.stale

    # Records come.

    def add(self, records: Sequence[tuple[SpoolRecord, bytes]]) -> int:
        """Add records with their whole bodies; return the row of the first, the others follow it."""
        first = self.next_row
        self._connection.executemany(
            _INSERT,
            [
                self._values(first + number, record, len(body), body)
                for number, (record, body) in enumerate(records)
            ],
        )
        self.next_row += len(records)
        return first

    def reserve_row(self) -> int:
        """Return a row for a record whose pieces come before it."""
        self.next_row += 1
        return self.next_row - 1

    def add_pieces(self, pieces: Sequence[tuple[int, int, bytes]]) -> None:
        """Add pieces, each with its record's row and its number."""
        self._connection.executemany(
            "INSERT INTO pieces (id, data) VALUES (?, ?)",
            [(row << PIECE_BITS | number, data) for row, number, data in pieces],
        )

    def add_in_pieces(self, row: int, record: SpoolRecord, length: int) -> None:
        """Add the record of pieces that are there already."""
        self._connection.execute(_INSERT, self._values(row, record, length, None))

    def _values(self, row: int, record: SpoolRecord, length: int, body: bytes | None) -> tuple[object, ...]:
        upstream, size = self._name(record.upstream), room(record, length)
        totals = self._totals.setdefault(upstream, Totals())
        totals.depth += 1
        totals.bytes += size
        if totals.oldest is None or record.arrived < totals.oldest:
            totals.oldest = record.arrived
        route = self._name(record.route)
        return row, record.arrived, upstream, route, size, length, record.client, record.head, body

    def _name(self, name: str) -> int:
        number = self._names.get(name)
        if number is None:
            self._connection.execute("INSERT OR IGNORE INTO names (name) VALUES (?)", (name,))
            query = self._connection.execute("SELECT id FROM names WHERE name = ?", (name,))
            number = int(query.fetchone()[0])
            self._names[name], self._upstreams[number] = number, name
        return number

    # Records go.

    def remove(self, rows: Iterable[int]) -> None:
        """Delete records, dead letters too; those that are gone do no harm."""
        self._remove(json.dumps(list(rows)))

    def _remove(self, given: str) -> None:
        # A row for each upstream, not for each record: see reader.py.
        found = self._connection.execute(
            "SELECT upstream, sum(status IS NULL), total(CASE WHEN status IS NULL THEN size END),"
            " sum(status IS NOT NULL), total(CASE WHEN status IS NOT NULL THEN size END),"
            " json_group_array(id) FILTER (WHERE body IS NULL)"
            f" FROM records WHERE {_GIVEN} GROUP BY upstream",
            (given,),
        ).fetchall()
        if not found:
            return
        self._connection.execute(f"DELETE FROM records WHERE {_GIVEN}", (given,))
        for upstream, depth, size, dead, dead_size, in_pieces in found:
            if depth:
                self._subtract(upstream, int(size), depth)
            self.dead_letters -= dead
            self.dead_letter_bytes -= int(dead_size)
            for row in json.loads(in_pieces):
                self.discard_pieces(row)
        self._find_oldest(upstream for upstream, depth, *_ in found if depth)

    def _subtract(self, upstream: int, size: int, records: int = 1) -> None:
        totals = self._totals[upstream]
        totals.depth -= records
        totals.bytes -= size

    def _find_oldest(self, upstreams: Iterable[int]) -> None:
        for upstream in upstreams:
            (self._totals[upstream].oldest,) = self._connection.execute(
                "SELECT min(arrived) FROM records WHERE upstream = ? AND status IS NULL", (upstream,)
            ).fetchone()

    def discard_pieces(self, row: int) -> None:
        """Have the pieces of a record deleted in time."""
        self._discarded.append((row << PIECE_BITS, (row + 1) << PIECE_BITS))

    def sweep(self) -> None:
        """Delete a slice of the pieces that nothing refers to."""
        if not self.garbage:
            return
        first, last = self.garbage[0]
        (upto,) = self._connection.execute(
            f"SELECT max(id) FROM (SELECT id FROM pieces WHERE id >= ? AND id < ? ORDER BY id LIMIT {SLICE})",
            (first, last),
        ).fetchone()
        if upto is None:
            self.garbage.popleft()
        else:
            self._connection.execute("DELETE FROM pieces WHERE id >= ? AND id <= ?", (first, upto))

    # Records change.

    def set_aside(self, row: int, status: int, reason: str) -> None:
        """Make a waiting record a dead letter."""
        found = self._connection.execute(
            "SELECT upstream, size FROM records WHERE id = ? AND status IS NULL", (row,)
        ).fetchone()
        if found is None:
            return
        upstream, size = found
        self._connection.execute(
            "UPDATE records SET status = ?, reason = ? WHERE id = ?", (status, reason, row)
        )
        self._subtract(upstream, size)
        self._find_oldest({upstream})
        self.dead_letters += 1
        self.dead_letter_bytes += size

    def trim_dead_letters(self, most: int) -> int:
        """Delete the oldest dead letters until the rest take ``most`` bytes; return how many went."""
        gone, over = [], self.dead_letter_bytes - most
        if over <= 0:
            return 0
        for row, size in self._connection.execute(
            "SELECT id, size FROM records WHERE status IS NOT NULL ORDER BY id LIMIT 1000"
        ).fetchall():
            if over <= 0:
                break
            gone.append(row)
            over -= size
        self.remove(gone)
        return len(gone)

    def revive(self, rows: Iterable[int]) -> int:
        """Make dead letters wait again, their attempts forgotten; return how many there were."""
        changed = self._connection.execute(
            "UPDATE records SET status = NULL, reason = NULL, attempts = 0"
            f" WHERE {_GIVEN} AND status IS NOT NULL",
            (json.dumps(list(rows)),),
        ).rowcount
        self.recount()
        return int(changed)

    def postpone(self, rows: Iterable[int]) -> None:
        """Count one more attempt for each."""
        self._connection.execute(
            f"UPDATE records SET attempts = attempts + 1 WHERE {_GIVEN}", (json.dumps(list(rows)),)
        )

    # Wishes of commands; upkeep.

    def wish(self, name: str) -> None:
        """Leave a wish for the process that owns the file."""
        self._connection.execute("INSERT OR IGNORE INTO wishes (name) VALUES (?)", (name,))

    def take_wishes(self) -> set[str]:
        """Return the wishes and delete them; a transaction of its own."""
        wishes = {name for (name,) in self._connection.execute("SELECT name FROM wishes").fetchall()}
        if wishes:
            self._connection.execute("DELETE FROM wishes")
        return wishes

    def unused_bytes(self) -> int:
        """Return what the file has in pages that are not used."""
        (pages,) = self._connection.execute("PRAGMA freelist_count").fetchone()
        return int(pages) * PAGE

    def shrink(self, keep: int, pages: int) -> None:
        """Give up to ``pages`` unused pages back to the disk where there are more than ``keep``."""
        (unused,) = self._connection.execute("PRAGMA freelist_count").fetchone()
        if unused > keep:
            # A step of this statement frees one page, and only executescript takes them all.
            self._connection.executescript(f"PRAGMA incremental_vacuum({min(pages, unused - keep)})")

    def empty_log(self) -> None:
        """Move the whole log into the database, and give its room back to the disk."""
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
