"""Reading from the files of a store, in a thread of its own, so that neither the loop nor the writer waits.

Each read is a transaction of its own and as short as can be: in WAL mode it sees the last commit, hinders no
writer, and holds the log no longer than it lasts. A connection is opened for a file when it is first read,
and closed when the file is no longer named (``keys``), before the file is deleted.
"""

from __future__ import annotations

import json
import sqlite3
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

_WAITING = "upstream = (SELECT id FROM names WHERE name = ?) AND status IS NULL"
_AFTER = " AND arrived >= ? AND (arrived > ? OR id > ?)"
_OLDEST = (
    # 17 digits are a double, exactly.
    "SELECT json_group_array(json_array(id, printf('%!.17g', arrived), name, attempts, length,"
    " length(client), length(head), length(inline))), group_concat(client || head || ifnull(inline, x''), '')"
    " FROM (SELECT r.id, arrived, name, attempts, length, client, head,"
    " CASE WHEN sum(length) OVER before <= ? THEN body END AS inline"
    " FROM (SELECT * FROM records WHERE {which} ORDER BY arrived, id LIMIT ?) r"
    " JOIN names ON names.id = r.route"
    " WINDOW before AS (ORDER BY arrived, r.id ROWS UNBOUNDED PRECEDING) ORDER BY arrived, r.id)"
)
"""All in one row: what they are as JSON, and their bytes one behind the other. Python's module lets go of the
interpreter at each row, and gets it back only when the event loop pauses."""


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
        """Return the first records of an upstream behind ``after``, over all files, with the bodies of those
        that fit into their file's share of ``INLINE_BYTES``. Raises ``SpoolFailed``."""
        keys = list(keys)
        self.use(keys)
        found = [self._of_file(key, upstream, count, after, INLINE_BYTES // len(keys)) for key in keys]
        return list(islice(merge(*found, key=lambda stored: stored.id), count))

    def _of_file(
        self, key: str, upstream: str, count: int, after: RecordId | None, room: int
    ) -> list[Stored]:
        which = _WAITING
        given: list[Any] = [room, upstream]
        if after is not None:
            # Rows of the same arrival: those of a file that sorts before are behind us, and the other way.
            row = after.row if key == after.file else -1 if key > after.file else 1 << 62
            which += _AFTER
            given += [after.arrived, after.arrived, row]
        ((said, packed),) = self._query(key, _OLDEST.format(which=which), [*given, count])
        found, at = [], 0
        for row, written, route, attempts, length, client, head, inline in json.loads(said):
            ends = at + client, at + client + head, at + client + head + (inline or 0)
            arrived = float(written)
            stored = Stored(
                RecordId(arrived, key, row),
                arrived,
                upstream,
                route,
                packed[at : ends[0]],
                packed[ends[0] : ends[1]],
                length,
                attempts,
                None if inline is None else packed[ends[1] : ends[2]],
            )
            found.append(stored)
            at = ends[2]
        return found

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
            connection.text_factory = bytes
            self._connections[key] = connection
        return connection
