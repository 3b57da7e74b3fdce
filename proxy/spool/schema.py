"""One file of the spool: an SQLite database in WAL mode, its tables, its versions, its soundness.

::

    names    text of upstreams and routes
    records  a request; ``status`` is NULL while it waits, else it is a dead letter. A small body stands in
             ``body``, a large one in pieces, and ``body`` is NULL
    pieces   id = record << PIECE_BITS | number of the piece; those without a record are left over from
             entries that never ended
    wishes   what a command asks of the process that owns the file

Durability (SQLite: "PRAGMA synchronous"): in WAL mode with synchronous=FULL a commit returns after fsync of
the log. A crash at any moment leaves every transaction whole or not there at all.
"""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

PIECE_BITS = 20

BUSY_SECONDS = 2.0
"""How long a transaction waits for another process's: a command's last a fraction of that."""

PAGE = 8192
"""Bytes of a page. Events of 2 to 4 KB waste half of one of 4096, and gain nothing from one of 16384."""

SETTINGS = (
    f"PRAGMA page_size = {PAGE}",
    "PRAGMA auto_vacuum = INCREMENTAL",  # only heeded in a new file: room is given back in slices
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA secure_delete = FAST",  # Debian's default of ON makes a delivery a half dearer
    "PRAGMA journal_size_limit = 16777216",
    "PRAGMA wal_autocheckpoint = 500",
    "PRAGMA temp_store = MEMORY",
)

MIGRATIONS: Sequence[Sequence[str]] = (
    (
        "CREATE TABLE names (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE)",
        """CREATE TABLE records (
            id INTEGER PRIMARY KEY,
            arrived REAL NOT NULL,
            upstream INTEGER NOT NULL,
            route INTEGER NOT NULL,
            size INTEGER NOT NULL,
            length INTEGER NOT NULL,
            attempts INTEGER NOT NULL DEFAULT 0,
            status INTEGER,
            reason TEXT,
            client BLOB NOT NULL,
            head BLOB NOT NULL,
            body BLOB
        )""",
        "CREATE INDEX waiting ON records (upstream, arrived, size) WHERE status IS NULL",
        "CREATE INDEX dead ON records (id, size) WHERE status IS NOT NULL",
        "CREATE TABLE pieces (id INTEGER PRIMARY KEY, data BLOB NOT NULL)",
        "CREATE TABLE wishes (name TEXT PRIMARY KEY)",
    ),
)
"""The statements that lead from version N to N + 1, at index N. ``PRAGMA user_version`` is the version."""


class Newer(Exception):
    """The file was written by a later version of this program."""


class Damaged(Exception):
    """The file is no database, or its check found faults."""


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """Open a file for the calling thread. Raises ``sqlite3.Error``."""
    mode = "ro" if read_only else "rw"
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None, timeout=BUSY_SECONDS
    )
    if not read_only:
        try:
            for setting in SETTINGS:
                connection.execute(setting)
        except BaseException:
            connection.close()
            raise
    return connection


def version_of(connection: sqlite3.Connection) -> int:
    """Return the version of the file's tables; 0 for an empty file."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def migrate(connection: sqlite3.Connection, migrations: Sequence[Sequence[str]] = MIGRATIONS) -> None:
    """Bring the tables to the newest version, each step whole or not at all. Raises ``Newer``, or
    ``sqlite3.Error``."""
    version = version_of(connection)
    _refuse_newer(version, migrations)
    for number, statements in enumerate(migrations[version:], version + 1):
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in statements:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number}")
            connection.execute("COMMIT")
        except BaseException:
            connection.rollback()
            raise


def _refuse_newer(version: int, migrations: Sequence[Sequence[str]]) -> None:
    if version > len(migrations):
        raise Newer(f"version {version}; this program knows up to {len(migrations)}")


def check(connection: sqlite3.Connection) -> None:
    """Read the whole file and raise ``Damaged`` unless it is sound. Linear in its size."""
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise Damaged(verdict)


def prepare(path: Path) -> None:
    """Check a file and bring it up to date, before anybody uses it; one of a later version is not touched.
    Raises ``Newer``, ``Damaged``, or ``sqlite3.Error`` where it could not be asked."""
    try:
        with contextlib.closing(connect(path, read_only=True)) as connection:
            _refuse_newer(version_of(connection), MIGRATIONS)
        with contextlib.closing(connect(path)) as connection:
            check(connection)
            migrate(connection)
    except sqlite3.DatabaseError as error:
        if primary_code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise Damaged(str(error)) from error
        raise


def primary_code(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code of an error, 0 where it has none."""
    return int(getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF
