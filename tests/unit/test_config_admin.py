"""`[admin]`: nowhere unless said, never open to other machines without a token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from proxy.config.admin import LONGEST_TOKEN, is_private, read_token
from proxy.config.load import config_from
from proxy.config.notation import listen_address
from proxy.config.schema import TcpAddress, UnixAddress
from proxy.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from proxy.config.schema import Config

TOKEN = "0123456789abcdef"


def read(**admin: Any) -> Config:
    return config_from({"upstream": "http://web:1", "listen": ["127.0.0.1:8000"], "admin": admin}).config


def problem(**admin: Any) -> tuple[str, str]:
    with pytest.raises(ConfigError) as caught:
        read(**admin)
    (found,) = caught.value.problems
    return found.key, found.allowed


def test_it_is_off_unless_an_address_is_given() -> None:
    assert read().admin.listen is None
    assert read(listen="127.0.0.1:9100").admin.listen == TcpAddress("127.0.0.1", 9100)
    assert read(listen="unix:/run/admin.sock").admin.listen == UnixAddress("/run/admin.sock")


@pytest.mark.parametrize(
    ("address", "private"),
    [
        ("127.0.0.1:1", True),
        ("127.8.8.8:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("unix:/run/a.sock", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("10.0.0.1:1", False),
        ("monitor.internal:1", False),
    ],
)
def test_other_machines_need_a_token(tmp_path: Path, address: str, private: bool) -> None:
    assert is_private(listen_address(address)) == private
    path = tmp_path / "token"
    path.write_text(TOKEN)
    assert read(listen=address, token_file=str(path)).admin.listen == listen_address(address)
    if private:
        assert read(listen=address).admin.token_file == ""
    else:
        key, allowed = problem(listen=address)
        assert key == "admin.listen"
        assert "admin.token_file" in allowed


def test_it_is_no_address_of_clients() -> None:
    assert problem(listen="127.0.0.1:8000") == ("admin.listen", "is where clients are served; take another")


def test_a_token_without_an_address_is_a_mistake(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    assert problem(token_file=str(path)) == ("admin.token_file", "only means something with admin.listen")


@pytest.mark.parametrize(
    "content", ["", "short", "a" * (LONGEST_TOKEN + 1), "two words are no token", "é" * 16]
)
def test_a_token_that_is_none_is_refused_without_being_shown(tmp_path: Path, content: str) -> None:
    path = tmp_path / "token"
    path.write_text(content)
    key, allowed = problem(listen="127.0.0.1:1", token_file=str(path))
    assert key == "admin.token_file"
    assert "must hold" in allowed
    assert not content or content not in allowed


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    key, allowed = problem(listen="127.0.0.1:1", token_file=f"{tmp_path}/absent")
    assert (key, allowed) == ("admin.token_file", "cannot be read: No such file or directory")


def test_blanks_around_a_token_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(f" {TOKEN}\n")
    assert read_token(str(path)) == TOKEN.encode()
    assert read_token("") == b""
