"""The files in the spool's directory, and who owns each: a lock file beside each database.

::

    WORKER-xxxxxxxx.spool (with -wal, -shm)   the records that a worker took
    WORKER-xxxxxxxx.lock                      locked (flock) by the process that owns them while it lives
    NAME.spool.damaged-N                      a file that was set aside; nothing here touches it again

No name is ever used twice: SQLite deletes the log of a database by its name when the last connection to it
ends, which must not be the log of another database that has the name meanwhile. The lock is not on the
database itself, because closing any descriptor of that would drop SQLite's own locks (fcntl(2)).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SUFFIX = ".spool"
COMPANIONS = ("-wal", "-shm")

DIRECTORY_MODE = 0o700
FILE_MODE = 0o600


class Claim:
    """A file that this process owns. ``key`` is its name without ``.spool``."""

    __slots__ = ("_lock", "key", "path")

    def __init__(self, path: Path, lock: int) -> None:
        self.key = path.name.removesuffix(SUFFIX)
        self.path = path
        self._lock = lock

    def __repr__(self) -> str:
        return f"<Claim {self.path} {'held' if self._lock >= 0 else 'released'}>"

    def release(self) -> None:
        """Let others claim the file; harmless if that was done."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def remove(self) -> None:
        """Delete the file, which nobody has open any more, and release it."""
        for path in (*_all_of(self.path), _lock_path(self.path)):
            path.unlink(missing_ok=True)
        self.release()

    def set_aside(self) -> Path:
        """Rename a damaged file so that it is never opened again; return its new name and release it."""
        number = 1
        while (aside := self.path.with_name(f"{self.path.name}.damaged-{number}")).exists():
            number += 1
        for path, companion in zip(_all_of(self.path), ("", *COMPANIONS), strict=True):
            with contextlib.suppress(FileNotFoundError):
                path.rename(f"{aside}{companion}")
        _lock_path(self.path).unlink(missing_ok=True)
        self.release()
        return aside


def _all_of(path: Path) -> list[Path]:
    return [path, *(Path(f"{path}{companion}") for companion in COMPANIONS)]


def _lock_path(path: Path) -> Path:
    return path.with_suffix(".lock")


def make_directory(directory: Path) -> None:
    """Make the spool's directory for its owner only. Raises ``OSError``."""
    directory.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)


def databases(directory: Path) -> list[Path]:
    """Return the spool's files by name. Raises ``OSError``."""
    return sorted(path for path in directory.iterdir() if path.suffix == SUFFIX)


def create(directory: Path, worker: str) -> Claim:
    """Make and claim a new, empty file, which belongs to the directory's owner also where root makes it
    (an import). Raises ``OSError``."""
    path = directory / f"{worker}-{os.urandom(4).hex()}{SUFFIX}"
    claim = _locked(path)
    if claim is None:
        raise FileExistsError(f"{path}: is locked")
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, FILE_MODE))
        if os.geteuid() == 0:
            owner = directory.stat()
            for made in (path, _lock_path(path)):
                os.chown(made, owner.st_uid, owner.st_gid)
        _sync(directory)
    except BaseException:
        claim.release()
        raise
    return claim


def claim_free(directory: Path, worker: str | None = None) -> Iterator[Claim]:
    """Claim the files that no living process owns: a worker's own, or all. Raises ``OSError``."""
    for path in databases(directory):
        if worker is None or path.name.startswith(f"{worker}-"):
            claim = _locked(path)
            if claim is not None and path.exists():
                yield claim
            elif claim is not None:
                claim.remove()  # its owner removed it between our look and our lock


def is_owned(path: Path) -> bool:
    """Whether a living process owns the file (only a glance: it may be claimed the next moment)."""
    try:
        descriptor = os.open(_lock_path(path), os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _locked(path: Path) -> Claim | None:
    """Lock a file for this process; ``None`` where another process has it, or another user."""
    lock = _lock_path(path)
    try:
        descriptor = os.open(lock, os.O_CREAT | os.O_RDWR, FILE_MODE)
    except PermissionError:
        if lock.exists():
            return None
        raise
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.stat(lock).st_ino == os.fstat(descriptor).st_ino:
            return Claim(path, descriptor)
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _sync(directory: Path) -> None:
    """Make the names in a directory durable (fsync(2): a file's own does not)."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
