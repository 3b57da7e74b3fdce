"""The spool's files as a command sees them: read while a proxy uses them, changed in short transactions.

Reading is safe at any time (WAL: a reader sees the last commit and hinders nobody). Dead letters are changed
in transactions of ``CHUNK`` records; the process that owns the file notices when it next tends
(``Table.changed_outside``). What only that process can do is left as a wish in the file.
"""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import dataclass
from heapq import merge
from typing import TYPE_CHECKING

from proxy.errors import ProxyError
from proxy.spool import files, schema
from proxy.spool.record import RecordId, Stored
from proxy.spool.table import REPLAY_NOW, Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from proxy.spool.record import UpstreamFigures

CHUNK = 500


class SpoolUnusable(ProxyError):
    """A command cannot do what it was asked; the text is for the operator."""


class Gone(SpoolUnusable):
    """The record was delivered, or dropped, since it was listed."""


@dataclass(frozen=True, slots=True)
class Held:
    """A record as a command shows it. ``status`` and ``reason`` are a dead letter's."""

    stored: Stored
    status: int | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class FileFigures:
    """One file. ``owned``: a living process has it."""

    name: str
    owned: bool
    upstreams: Mapping[str, UpstreamFigures]
    dead_letters: int
    dead_letter_bytes: int


_QUERY = (
    "SELECT r.id, r.arrived, u.name, t.name, r.client, r.head, r.length, r.attempts, r.status, r.reason"
    " FROM records r JOIN names u ON u.id = r.upstream JOIN names t ON t.id = r.route WHERE r.status IS "
)
_WAITING, _DEAD = "NULL", "NOT NULL"


class Inventory:
    """All files of one directory. Everything raises ``SpoolUnusable`` where a file cannot be used."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def paths(self) -> list[Path]:
        """The files that can hold records."""
        try:
            return files.databases(self.directory)
        except OSError as error:
            raise SpoolUnusable(f"{self.directory}: {error.strerror}") from None

    def damaged(self) -> list[str]:
        """The names of files that were set aside."""
        names = (path.name for path in self.directory.glob(f"*{files.SUFFIX}.damaged-*"))
        return sorted(name for name in names if not name.endswith(files.COMPANIONS))

    def figures(self) -> list[FileFigures]:
        """What each file holds."""
        found = []
        for path in self.paths():
            with self._open(path, read_only=True) as connection:
                table = Table(connection)
                table.recount()
                sums = table.figures(), table.dead_letters, table.dead_letter_bytes
            found.append(FileFigures(path.name, files.is_owned(path), *sums))
        return found

    def records(self, *, dead: bool = False) -> Iterator[Held]:
        """Yield what waits, or the dead letters: of each file in the order in which it got them (by
        arrival, but for bodies that were long in coming), the files side by side. Memory: a page of each."""
        pages = [self._of_file(path, dead) for path in self.paths()]
        yield from merge(*pages, key=lambda held: held.stored.id)

    def _of_file(self, path: Path, dead: bool) -> Iterator[Held]:
        key = path.name.removesuffix(files.SUFFIX)
        query = _QUERY + (_DEAD if dead else _WAITING)
        query += " AND r.id > ? ORDER BY r.id LIMIT 100"
        last = 0
        while True:
            with self._open(path, read_only=True) as connection:
                rows = connection.execute(query, (last,)).fetchall()
            if not rows:
                return
            yield from (_held(key, row) for row in rows)
            last = rows[-1][0]

    def find(self, name: str) -> Held:
        """Return the record with this id (``FILE:ROW``)."""
        key, row = _split(name)
        with self._open(self._path(key), read_only=True) as connection:
            for state in (_WAITING, _DEAD):
                found = connection.execute(f"{_QUERY}{state} AND r.id = ?", (row,)).fetchone()
                if found is not None:
                    return _held(key, found)
        raise SpoolUnusable(f"{name}: there is no such record; see `spool list` and `spool dead-letter list`")

    def body(self, record: RecordId) -> Iterator[bytes]:
        """Yield a body in pieces, whole even if the record is delivered meanwhile. Raises ``Gone``
        before the first where it was delivered before."""
        first = record.row << schema.PIECE_BITS
        with self._open(self._path(record.file), read_only=True) as connection:
            connection.execute("BEGIN")  # what is seen then is as it was now
            found = connection.execute("SELECT body FROM records WHERE id = ?", (record.row,)).fetchone()
            if found is None:
                raise Gone(f"{record}: is gone")
            if found[0] is not None:
                yield found[0]
                return
            number = 0
            while piece := connection.execute(
                "SELECT data FROM pieces WHERE id = ?", (first | number,)
            ).fetchone():
                yield piece[0]
                number += 1

    def revive(self, names: Sequence[str] | None) -> int:
        """Make dead letters wait again (``None``: all); return how many."""
        return self._change(names, lambda table, rows: table.revive(rows))

    def drop(self, names: Sequence[str] | None) -> int:
        """Delete dead letters for good (``None``: all); return how many."""

        def action(table: Table, rows: list[int]) -> int:
            before = table.dead_letters
            table.remove(rows)
            return before - table.dead_letters

        return self._change(names, action)

    def _change(self, names: Sequence[str] | None, action: Callable[[Table, list[int]], int]) -> int:
        wanted: dict[str, list[int]] = {}
        if names is None:
            for held in self.records(dead=True):
                wanted.setdefault(held.stored.id.file, []).append(held.stored.id.row)
        else:
            for name in names:
                held = self.find(name)
                if held.status is None:
                    raise SpoolUnusable(f"{name}: is no dead letter; it waits for delivery")
                wanted.setdefault(held.stored.id.file, []).append(held.stored.id.row)
        return sum(self._change_file(key, rows, action) for key, rows in wanted.items())

    def _change_file(self, key: str, rows: list[int], action: Callable[[Table, list[int]], int]) -> int:
        changed = 0
        with self._open(self._path(key)) as connection:
            table = Table(connection)
            for start in range(0, len(rows), CHUNK):
                table.recount()
                table.begin()
                changed += action(table, rows[start : start + CHUNK])
                table.commit()
            while table.garbage:
                table.begin()
                table.sweep()
                table.commit()
        return changed

    def wish_for_replay(self) -> int:
        """Leave the wish that replay tries at once in every file that a living process has; return how
        many those are."""
        owned = [path for path in self.paths() if files.is_owned(path)]
        for path in owned:
            with self._open(path) as connection:
                table = Table(connection)
                table.begin()
                table.wish(REPLAY_NOW)
                table.commit()
        return len(owned)

    def _path(self, key: str) -> Path:
        path = self.directory / f"{key}{files.SUFFIX}"
        if path not in self.paths():
            raise SpoolUnusable(f"{key}: there is no such file in {self.directory}")
        return path

    @contextlib.contextmanager
    def _open(self, path: Path, *, read_only: bool = False) -> Iterator[sqlite3.Connection]:
        try:
            with contextlib.closing(schema.connect(path, read_only=read_only)) as connection:
                if schema.version_of(connection) != len(schema.MIGRATIONS):
                    raise SpoolUnusable(f"{path}: was written by another version of this program")
                yield connection
        except sqlite3.Error as error:
            raise SpoolUnusable(f"{path}: {error}") from error


def _held(key: str, row: tuple[object, ...]) -> Held:
    number, arrived, *rest, status, reason = row
    return Held(Stored(RecordId(arrived, key, number), arrived, *rest), status, reason)  # type: ignore[arg-type]


def _split(name: str) -> tuple[str, int]:
    key, colon, row = name.rpartition(":")
    if not colon or not row.isdecimal() or len(row) > 15:
        raise SpoolUnusable(f"{name}: is no record's id, which is FILE:NUMBER")
    return key, int(row)
