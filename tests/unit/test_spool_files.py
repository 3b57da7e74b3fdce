"""Who owns which file of the spool: locks, adoption, modes, what is set aside."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from proxy.spool import files

if TYPE_CHECKING:
    from pathlib import Path


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_only_the_owner_may_look(tmp_path: Path) -> None:
    directory = tmp_path / "deep" / "spool"
    files.make_directory(directory)
    files.make_directory(directory)
    claim = files.create(directory, "0")
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {0o600}
    claim.release()


def test_each_file_has_a_name_of_its_own(tmp_path: Path) -> None:
    claims = [files.create(tmp_path, "0") for _ in range(20)]
    assert len({claim.key for claim in claims}) == 20
    assert files.databases(tmp_path) == sorted(claim.path for claim in claims)
    for claim in claims:
        claim.release()


def test_a_file_has_one_owner_at_a_time(tmp_path: Path) -> None:
    claim = files.create(tmp_path, "0")
    assert files.is_owned(claim.path)
    assert list(files.claim_free(tmp_path)) == []
    claim.release()
    claim.release()
    assert not files.is_owned(claim.path)
    (again,) = files.claim_free(tmp_path)
    assert (again.key, again.path) == (claim.key, claim.path)
    again.release()


def test_a_worker_claims_its_own_first(tmp_path: Path) -> None:
    for worker in ("1", "11", "2"):
        files.create(tmp_path, worker).release()
    (claim,) = files.claim_free(tmp_path, "1")
    assert claim.key.startswith("1-")
    others = list(files.claim_free(tmp_path))
    assert [other.key.partition("-")[0] for other in others] == ["11", "2"]
    for each in (claim, *others):
        each.release()


def test_another_user_s_file_is_let_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.create(tmp_path, "0").release()
    other = files.create(tmp_path, "1")
    other.release()
    real = os.open

    def refused(path: Path, flags: int, mode: int = 0o777) -> int:
        if path.name in (f"{other.key}.lock", "new.lock"):
            raise PermissionError(13, "Permission denied")
        return real(path, flags, mode)

    monkeypatch.setattr(files.os, "open", refused)
    (claim,) = files.claim_free(tmp_path)
    assert claim.key.startswith("0-")
    claim.release()
    (tmp_path / "new.spool").touch()  # no lock there, and none may be made: nobody can work here
    with pytest.raises(PermissionError):
        list(files.claim_free(tmp_path))


def test_what_root_makes_belongs_to_the_directorys_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, tuple[int, int]] = {}
    monkeypatch.setattr(files.os, "geteuid", lambda: 0)
    monkeypatch.setattr(files.os, "chown", lambda path, *owner: given.setdefault(path.name, owner))
    claim = files.create(tmp_path, "import")
    owner = tmp_path.stat()
    assert given == {f"{claim.key}{suffix}": (owner.st_uid, owner.st_gid) for suffix in (".spool", ".lock")}
    claim.release()


def test_a_file_whose_lock_was_never_made_is_nobodys(tmp_path: Path) -> None:
    path = tmp_path / "import-1.spool"
    path.touch()
    assert not files.is_owned(path)
    (claim,) = files.claim_free(tmp_path)
    claim.release()


def test_removal_leaves_nothing(tmp_path: Path) -> None:
    claim = files.create(tmp_path, "0")
    for companion in files.COMPANIONS:
        (tmp_path / f"{claim.path.name}{companion}").touch()
    claim.remove()
    assert names(tmp_path) == []


def test_a_file_removed_while_we_looked_is_not_claimed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "databases", lambda directory: [directory / "gone.spool"])
    assert list(files.claim_free(tmp_path)) == []
    assert names(tmp_path) == []


def test_a_lock_that_is_deleted_under_our_hands_is_not_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.create(tmp_path, "0").release()
    flock = files.fcntl.flock

    def slow(descriptor: int, kind: int) -> None:
        flock(descriptor, kind)
        for lock in tmp_path.glob("*.lock"):
            lock.unlink()

    monkeypatch.setattr(files.fcntl, "flock", slow)
    assert list(files.claim_free(tmp_path)) == []


def test_a_damaged_file_is_renamed_with_all_that_belongs_to_it(tmp_path: Path) -> None:
    for number in (1, 2):
        path = tmp_path / "0-a.spool"
        path.write_text(f"broken {number}")
        (tmp_path / "0-a.spool-wal").touch()
        (claim,) = files.claim_free(tmp_path)
        aside = claim.set_aside()
        assert aside.name == f"0-a.spool.damaged-{number}"
        assert aside.read_text() == f"broken {number}"
    assert names(tmp_path) == [
        "0-a.spool.damaged-1",
        "0-a.spool.damaged-1-wal",
        "0-a.spool.damaged-2",
        "0-a.spool.damaged-2-wal",
    ]
    assert list(files.claim_free(tmp_path)) == []


def test_what_the_system_refuses_leaves_no_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> int:
        raise OSError(5, "Input/output error")

    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patched:
        patched.setattr(files, "_sync", refused)
        with pytest.raises(OSError, match="Input/output"):
            files.create(tmp_path, "0")
    with monkeypatch.context() as patched:
        patched.setattr(files.fcntl, "flock", refused)
        with pytest.raises(OSError, match="Input/output"):
            list(files.claim_free(tmp_path))
        with pytest.raises(OSError, match="Input/output"):
            files.is_owned(files.databases(tmp_path)[0])
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_claim_says_what_it_is(tmp_path: Path) -> None:
    claim = files.create(tmp_path, "0")
    assert repr(claim) == f"<Claim {claim.path} held>"
    claim.release()
    assert repr(claim) == f"<Claim {claim.path} released>"
