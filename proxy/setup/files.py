"""Writes files that can be taken away again: a record beside the configuration says what was written.

All of them or none: what cannot be finished is undone. A file that was changed since is its operator's, and
stays.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from proxy.setup.facts import below

if TYPE_CHECKING:
    from collections.abc import Mapping

RECORD = "/etc/posthog-proxy/installed.json"
"""Where the record is kept."""


class Occupied(Exception):
    """Files are there already, with another text; nothing was written. ``paths`` names them."""

    def __init__(self, paths: list[str]) -> None:
        super().__init__(", ".join(paths))
        self.paths = paths


@dataclass(frozen=True, slots=True)
class _Record:
    """``files``: SHA-256 of the text by path. ``folders``: those that were made, outer ones first."""

    files: dict[str, str]
    folders: list[str]

    @classmethod
    def read(cls, root: Path) -> Self | None:
        """Raises ``OSError`` where it is no record."""
        path = below(root, RECORD)
        text = _text(path)
        if text is None:
            return None
        try:
            said = json.loads(text)
            return cls(dict(said["files"]), list(said["folders"]))
        except (ValueError, LookupError, TypeError) as error:
            raise OSError(f"{path} is not what init has written") from error

    def text(self) -> str:
        return json.dumps({"files": self.files, "folders": self.folders}, indent=1) + "\n"


@dataclass(frozen=True, slots=True)
class Removal:
    """``kept``: what was changed since it was written."""

    removed: list[str]
    kept: list[str]


def write(root: Path, files: Mapping[str, str], *, force: bool) -> list[str]:
    """Write ``files`` (text by absolute path) below ``root``, and the record; return the paths that changed.

    :param force: write over what others have written.
    :raises Occupied: something is in the way.
    :raises OSError: it cannot be written; what was new is gone again.
    """
    texts = {path: _text(below(root, path)) for path in files}
    occupied = [path for path, text in texts.items() if text not in (None, files[path])]
    if occupied and not force:
        raise Occupied(occupied)
    changed = [path for path, text in texts.items() if text != files[path]]
    before = _Record.read(root) or _Record({}, [])
    hashes = {path: _digest(text) for path, text in files.items()}
    with ExitStack() as undo:
        folders = before.folders + _make_folders(root, [*files, RECORD], undo)
        record = _Record(before.files | hashes, list(dict.fromkeys(folders)))
        for path in changed:
            _replace(below(root, path), files[path], undo)
        _replace(below(root, RECORD), record.text(), undo)
        undo.pop_all()
    return changed


def remove(root: Path, *, force: bool) -> Removal | None:
    """Take away what ``write`` has written, and folders that are empty then; ``None``: there is no record.

    :param force: what was changed since, too.
    :raises OSError: it cannot be removed; the record is there until all else is done.
    """
    record = _Record.read(root)
    if record is None:
        return None
    removed, kept = [], []
    for path, digest in record.files.items():
        text = _text(below(root, path))
        if text is None:
            continue
        if _digest(text) != digest and not force:
            kept.append(path)
            continue
        below(root, path).unlink()
        removed.append(path)
    below(root, RECORD).unlink()
    for folder in reversed(record.folders):
        place = below(root, folder)
        if place.is_dir() and not any(place.iterdir()):
            place.rmdir()
            removed.append(folder)
    return Removal(removed, kept)


def _text(path: Path) -> str | None:
    try:
        return path.read_text("utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", errors="surrogateescape")).hexdigest()


def _make_folders(root: Path, paths: list[str], undo: ExitStack) -> list[str]:
    """Make the folders of ``paths``; return those that were not there."""
    made = []
    for path in paths:
        for folder in reversed([Path(path).parent, *Path(path).parent.parents]):
            place = below(root, str(folder))
            if not place.is_dir():
                place.mkdir()
                place.chmod(0o755)
                undo.callback(place.rmdir)
                made.append(str(folder))
    return made


def _replace(path: Path, text: str, undo: ExitStack) -> None:
    """Write a file in one step, readable for all: the service has a user of its own."""
    old = _text(path)
    fresh = path.with_name(f".{path.name}.new")
    undo.callback(fresh.unlink, missing_ok=True)
    fresh.write_text(text, "utf-8")
    fresh.chmod(0o644)
    os.replace(fresh, path)
    if old is None:
        undo.callback(path.unlink)
    else:
        undo.callback(path.write_text, old, "utf-8", errors="surrogateescape")
