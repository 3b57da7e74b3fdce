"""The database of one file: settings, versions, soundness."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import pytest

from proxy.spool import schema

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "x.spool").touch()
    return tmp_path / "x.spool"


@pytest.fixture
def connection(path: Path) -> Iterator[sqlite3.Connection]:
    connection = schema.connect(path)
    yield connection
    connection.close()


def pragma(connection: sqlite3.Connection, name: str) -> object:
    return connection.execute(f"PRAGMA {name}").fetchone()[0]


def test_a_commit_is_an_fsync(connection: sqlite3.Connection) -> None:
    assert pragma(connection, "journal_mode") == "wal"
    assert pragma(connection, "synchronous") == 2  # FULL
    assert pragma(connection, "page_size") == schema.PAGE
    assert pragma(connection, "auto_vacuum") == 2  # INCREMENTAL


def test_a_file_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    for read_only in (False, True):
        with pytest.raises(sqlite3.OperationalError):
            schema.connect(tmp_path / "none", read_only=read_only)
    assert not list(tmp_path.iterdir())


def test_no_database_is_no_connection(path: Path) -> None:
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(sqlite3.DatabaseError):
        schema.connect(path)


def test_an_empty_file_gets_all_tables_once(connection: sqlite3.Connection) -> None:
    schema.migrate(connection)
    schema.migrate(connection)
    assert schema.version_of(connection) == len(schema.MIGRATIONS)
    assert connection.execute("SELECT count(*) FROM records").fetchone() == (0,)


def test_each_version_leads_to_the_next(connection: sqlite3.Connection) -> None:
    first = schema.MIGRATIONS[:1]
    schema.migrate(connection, first)
    connection.execute("INSERT INTO names (name) VALUES ('default')")
    later = (*first, ("ALTER TABLE names ADD COLUMN note TEXT DEFAULT 'old'",), ("DELETE FROM wishes",))
    schema.migrate(connection, later)
    assert schema.version_of(connection) == 3
    assert connection.execute("SELECT name, note FROM names").fetchall() == [("default", "old")]


def test_a_step_that_fails_leaves_the_version_before(connection: sqlite3.Connection) -> None:
    later = (*schema.MIGRATIONS, ("CREATE TABLE extra (id)", "INSERT INTO nowhere VALUES (1)"))
    with pytest.raises(sqlite3.OperationalError, match="nowhere"):
        schema.migrate(connection, later)
    assert schema.version_of(connection) == len(schema.MIGRATIONS)
    assert connection.execute("SELECT name FROM sqlite_master WHERE name = 'extra'").fetchall() == []


def test_a_later_version_is_not_touched(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("PRAGMA user_version = 99")
    with pytest.raises(schema.Newer, match="version 99"):
        schema.prepare(path)
    assert schema.version_of(connection) == 99


def test_a_file_that_is_sound_is_prepared(path: Path) -> None:
    schema.prepare(path)
    schema.prepare(path)


def test_damage_is_found(path: Path) -> None:
    schema.prepare(path)
    connection = schema.connect(path)
    connection.execute("INSERT INTO names (name) VALUES ('default')")
    connection.execute("CREATE INDEX more ON names (name)")
    (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'names'").fetchone()
    connection.close()
    with path.open("r+b") as file:
        file.seek((root - 1) * schema.PAGE)
        file.write(b"\xff" * schema.PAGE)
    with pytest.raises(schema.Damaged):
        schema.prepare(path)


def test_no_database_is_damage(path: Path) -> None:
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(schema.Damaged, match="not a database"):
        schema.prepare(path)


def test_what_cannot_be_opened_is_not_called_damaged(tmp_path: Path) -> None:
    with pytest.raises(sqlite3.OperationalError):
        schema.prepare(tmp_path / "none")


def test_codes_of_errors() -> None:
    error = sqlite3.OperationalError("x")
    assert schema.primary_code(error) == 0
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
    assert schema.primary_code(error) == sqlite3.SQLITE_IOERR
