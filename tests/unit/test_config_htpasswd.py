"""htpasswd files: what htpasswd itself writes, and a sentence for each line that cannot be used."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import bcrypt
import pytest

from proxy.config.htpasswd import MAX_FILE_BYTES, HtpasswdError, cost_of, parse_htpasswd, read_htpasswd
from tests.support.parts import find

if TYPE_CHECKING:
    from pathlib import Path

HASH = b"$2y$05$SToIVQgmq4m6K3wKsiicb.dPfmmj4EYBq/4CXWeFZll3Gb7Gw7peq"


@pytest.mark.needs("htpasswd")
def test_what_htpasswd_writes(tmp_path: Path) -> None:
    file = tmp_path / "users"
    for number, (user, password) in enumerate([("ann", "secret"), ("jörg", "ö" * 40)]):
        command = [find("htpasswd"), "-bB", "-C", "5", *(["-c"] if number == 0 else []), file, user, password]
        subprocess.run(command, check=True, capture_output=True)
    users = read_htpasswd(str(file))
    assert set(users) == {b"ann", "jörg".encode()}
    assert bcrypt.checkpw(b"secret", users[b"ann"])
    assert cost_of(users[b"ann"]) == 5


def test_blank_lines_comments_and_windows_ends() -> None:
    assert parse_htpasswd(b"# staff\n\n  \r\nann:" + HASH + b"\r\n") == {b"ann": HASH}


@pytest.mark.parametrize("kind", [b"2a", b"2b", b"2y"])
def test_every_kind_that_is_taken_can_be_checked(kind: bytes) -> None:
    for last in b".Oeu":
        digest = b"$" + kind + b"$04$" + b"." * 21 + bytes([last]) + b"." * 31
        parse_htpasswd(b"ann:" + digest)
        assert bcrypt.checkpw(b"x", digest) is False


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"ann", "line 1 is not USER:HASH"),
        (b"\n:" + HASH, 'line 2 (user "") has no user'),
        (b"ann:secret", 'line 1 (user "ann") holds no bcrypt hash; use htpasswd -B'),
        (b"ann:$apr1$r31.....$HqJZimcKQFAMYayBlzkrA/", "holds an apr1 (MD5) hash"),
        (b"ann:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "holds a SHA-1 hash"),
        (b"ann:$1$a$b", "holds an MD5 hash"),
        (b"ann:$5$a$b", "holds a SHA-256 hash"),
        (b"ann:$6$a$b", "holds a SHA-512 hash"),
        (b"ann:" + HASH[:-1], "cut short"),
        (b"ann:" + HASH + b":x", "cut short or of an unknown kind"),
        (b"ann:" + HASH.replace(b"2y", b"2x"), "of an unknown kind"),
        (b"ann:" + HASH.replace(b"$05", b"$17"), "has a cost of 17; it must be 4 to 16"),
        (b"ann:" + HASH.replace(b"$05", b"$03"), "has a cost of 3"),
        (b"ann:" + HASH + b"\nann:" + HASH, 'line 2 (user "ann") is a second line of this user'),
        (b"\xff\x1b:x", 'line 1 (user "\\xff\\x1b")'),
        (b"# nobody\n", "must hold at least one user"),
    ],
)
def test_each_line_that_cannot_be_used(data: bytes, sentence: str) -> None:
    with pytest.raises(HtpasswdError) as caught:
        parse_htpasswd(data)
    assert sentence in str(caught.value)
    assert HASH[8:20].decode() not in str(caught.value)


def test_all_bad_lines_are_named_up_to_twenty() -> None:
    with pytest.raises(HtpasswdError) as caught:
        parse_htpasswd(b"x\n" * 100)
    assert str(caught.value).count("line ") == 20


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path, sentence in [
        (str(tmp_path / "none"), "must be readable: No such file"),
        (str(tmp_path), "must be readable: Is a directory"),
        ("a\0b", "must be readable: "),
    ]:
        with pytest.raises(HtpasswdError, match=sentence):
            read_htpasswd(path)


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    file = tmp_path / "users"
    file.write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    with pytest.raises(HtpasswdError, match="must not be larger"):
        read_htpasswd(str(file))
