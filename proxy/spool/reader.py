"""Reading from the files of a store, in a thread of its own, so that neither the loop nor the writer waits.

Each read is a transaction of its own and as short as can be: in WAL mode it sees the last commit, hinders no
writer, and holds the log no longer than it lasts. A connection is opened for a file when it is first read,
and closed when the file is no longer named (``keys``), before the file is deleted.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from heapq import merge
from itertools import islice
from typing import TYPE_CHECKING

from proxy.spool.files import SUFFIX
from proxy.spool.record import RecordId, SpoolFailed, Stored
from proxy.spool.schema import PIECE_BITS, connect

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from typing import Any

INLINE_BYTES = 1024 * 1024
"""Bytes of small bodies that one reading of records brings along."""

_COLUMNS = (
    "SELECT r.id, r.arrived, u.name, t.name, r.client, r.head, r.length, r.attempts"
    " FROM records r JOIN names u ON u.id = r.upstream JOIN names t ON t.id = r.route"
)
_WAITING = " WHERE r.upstream = (SELECT id FROM names WHERE name = ?) AND r.status IS NULL"
_ORDERED = " ORDER BY r.arrived, r.id LIMIT ?"
_AFTER = " AND r.arrived >= ? AND (r.arrived > ? OR r.id > ?)"


class Reader:
    """See the module; all of it for one thread. Memory: a connection a file (2 MB of cache at most)."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._connections: dict[str, sqlite3.Connection] = {}

    def use(self, keys: Iterable[str]) -> None:
        """Close what belongs to other files than these."""
        for key in set(self._connections) - set(keys):
            self._connections.pop(key).close()

    def close(self) -> None:
        """Close everything."""
        self.use(())

    def oldest(self, keys: Iterable[str], upstream: str, count: int, after: RecordId | None) -> list[Stored]:
        """Return the first records of an upstream behind ``after``, over all files. Raises
        ``SpoolFailed``."""
        self.use(keys)
        found = [self._of_file(key, upstream, count, after) for key in keys]
        first = list(islice(merge(*found, key=lambda stored: stored.id), count))
        return self._with_bodies(first)

    def _of_file(self, key: str, upstream: str, count: int, after: RecordId | None) -> list[Stored]:
        query = _COLUMNS + _WAITING
        given: list[Any] = [upstream, count]
        if after is not None:
            # Rows of the same arrival: those of a file that sorts before are behind us, and the other way.
            row = after.row if key == after.file else -1 if key > after.file else 1 << 62
            query += _AFTER
            given[1:1] = [after.arrived, after.arrived, row]
        rows = self._query(key, query + _ORDERED, given)
        return [Stored(RecordId(arrived, key, row), arrived, *rest) for row, arrived, *rest in rows]

    def _with_bodies(self, records: list[Stored]) -> list[Stored]:
        """The records with their small bodies, as far as the room goes."""
        room = INLINE_BYTES
        wanted: dict[str, list[int]] = {}
        for stored in records:
            room -= stored.length
            if room >= 0:
                wanted.setdefault(stored.id.file, []).append(stored.id.row)
        bodies: dict[tuple[str, int], bytes | None] = {}
        for key, rows in wanted.items():
            query = "SELECT id, body FROM records WHERE id IN (SELECT value FROM json_each(?))"
            for row, body in self._query(key, query, [json.dumps(rows)]):
                bodies[key, row] = body
        return [replace(stored, inline=bodies.get((stored.id.file, stored.id.row))) for stored in records]

    def body(self, stored: Stored, number: int) -> bytes | None:
        """Return a piece of a body, ``None`` behind the last. Raises ``SpoolFailed``."""
        row = stored.id.row
        if number == 0:
            rows = self._query(stored.id.file, "SELECT body FROM records WHERE id = ?", [row])
            if not rows:
                raise SpoolFailed(f"record {stored.id} is gone")
            if rows[0][0] is not None:
                return bytes(rows[0][0])
        found = self._query(
            stored.id.file, "SELECT data FROM pieces WHERE id = ?", [row << PIECE_BITS | number]
        )
        return bytes(found[0][0]) if found else None

    def _query(self, key: str, query: str, given: list[Any]) -> list[tuple[Any, ...]]:
        try:
            return self._connection(key).execute(query, given).fetchall()
        except sqlite3.Error as error:
            raise SpoolFailed(f"{key}: {error}") from error

    def _connection(self, key: str) -> sqlite3.Connection:
        connection = self._connections.get(key)
        if connection is None:
            connection = connect(self._directory / f"{key}{SUFFIX}", read_only=True)
            self._connections[key] = connection
        return connection
