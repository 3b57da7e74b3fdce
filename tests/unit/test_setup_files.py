"""Files that are written, and taken away again."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from proxy.setup import files
from proxy.setup.files import RECORD, Occupied, remove, write

if TYPE_CHECKING:
    from pathlib import Path

A, B = "/etc/posthog-proxy/a.toml", "/etc/systemd/system/b.service"
TEXTS = {A: "a = 1\n", B: "[Unit]\n"}


def everything(root: Path) -> dict[str, str | None]:
    """All that is below a folder: the text of files, ``None`` for folders."""
    return {
        str(path.relative_to(root)): path.read_text() if path.is_file() else None for path in root.rglob("*")
    }


def test_what_is_written_goes_again_without_a_trace(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("x")
    before = everything(tmp_path)
    assert write(tmp_path, TEXTS, force=False) == [A, B]
    path = tmp_path / A[1:]
    assert path.read_text() == TEXTS[A]
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o644, 0o755)
    removal = remove(tmp_path, force=False)
    assert removal is not None
    assert removal.removed[:2] == [A, B]
    assert removal.kept == []
    assert everything(tmp_path) == before
    assert remove(tmp_path, force=False) is None


def test_the_same_again_changes_nothing(tmp_path: Path) -> None:
    write(tmp_path, TEXTS, force=False)
    before = everything(tmp_path)
    assert write(tmp_path, TEXTS, force=False) == []
    assert everything(tmp_path) == before


def test_what_is_there_is_written_over_only_by_force(tmp_path: Path) -> None:
    path = tmp_path / B[1:]
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine \xff")
    with pytest.raises(Occupied) as refused:
        write(tmp_path, TEXTS, force=False)
    assert refused.value.paths == [B]
    assert path.read_bytes() == b"mine \xff"
    assert not (tmp_path / "etc/posthog-proxy").exists()
    assert write(tmp_path, TEXTS, force=True) == [A, B]
    assert path.read_text() == TEXTS[B]


def test_another_wish_keeps_the_record_of_what_was_made_first(tmp_path: Path) -> None:
    write(tmp_path, {A: TEXTS[A]}, force=False)
    write(tmp_path, {B: TEXTS[B]}, force=False)
    assert remove(tmp_path, force=False) is not None
    assert everything(tmp_path) == {}


def test_what_was_changed_since_stays(tmp_path: Path) -> None:
    write(tmp_path, TEXTS, force=False)
    changed, gone = tmp_path / A[1:], tmp_path / B[1:]
    changed.write_text("a = 2\n")
    gone.unlink()
    removal = remove(tmp_path, force=False)
    assert removal is not None
    assert removal.kept == [A]
    assert everything(tmp_path) == {"etc": None, "etc/posthog-proxy": None, A[1:]: "a = 2\n"}


def test_unless_it_is_removed_by_force(tmp_path: Path) -> None:
    write(tmp_path, TEXTS, force=False)
    (tmp_path / A[1:]).write_text("a = 2\n")
    removal = remove(tmp_path, force=True)
    assert removal is not None
    assert removal.kept == []
    assert everything(tmp_path) == {}


@pytest.mark.parametrize("old", [None, "mine"])
def test_half_of_it_is_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str | None) -> None:
    if old is not None:
        (tmp_path / A[1:]).parent.mkdir(parents=True)
        (tmp_path / A[1:]).write_text(old)
    before = everything(tmp_path)

    def full(source: Path, target: Path) -> None:
        if target.name == "b.service":
            raise OSError("no space left on device")
        os.rename(source, target)

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        write(tmp_path, TEXTS, force=True)
    assert everything(tmp_path) == before


@pytest.mark.parametrize("text", ["{", "[]", '{"files": {}}'])
def test_a_record_that_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / RECORD[1:]
    path.parent.mkdir(parents=True)
    path.write_text(text)
    for call in (lambda: write(tmp_path, TEXTS, force=True), lambda: remove(tmp_path, force=True)):
        with pytest.raises(OSError, match="not what init has written"):
            call()
