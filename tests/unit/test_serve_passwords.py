"""Passwords checked in threads: right ones remembered, unknown users no quicker, a changed file heeded."""

from __future__ import annotations

import asyncio
import os
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import bcrypt
import pytest

from proxy.config.schema import AccessConfig, LogLevel
from proxy.errors import ConfigError
from proxy.serve import passwords
from proxy.serve.passwords import REMEMBERED, Passwords
from tests.support.clock import HandClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


def line(user: bytes, password: bytes, cost: int = 4) -> bytes:
    return user + b":" + bcrypt.hashpw(password, bcrypt.gensalt(cost)) + b"\n"


ANN = line(b"ann", b"secret")
LONG = line(b"len", b"x" * 72)


class Bench:
    """Passwords with a clock in the hand, and every check that bcrypt was asked for."""

    def __init__(self, file: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
        self.file = file
        self.clock = HandClock()
        self.said: list[tuple[LogLevel, str, dict[str, Any]]] = []
        self.asked: list[bytes] = []
        self.gate = threading.Event()
        self.gate.set()
        check = bcrypt.checkpw

        def watched(password: bytes, digest: bytes) -> bool:
            self.gate.wait(10)
            self.asked.append(digest)
            return check(password, digest)

        monkeypatch.setattr(passwords.bcrypt, "checkpw", watched)
        config = AccessConfig(basic_auth_file=str(file), **settings)
        self.passwords = Passwords(
            config, self.clock, lambda level, event, **fields: self.said.append((level, event, fields))
        )

    def turn(self, seconds: float) -> None:
        self.clock.now += seconds

    def rewrite(self, data: bytes) -> None:
        """Replace the file as editors do, so that the change shows whatever the clock's grain."""
        other = self.file.with_suffix(".new")
        other.write_bytes(data)
        os.replace(other, self.file)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "users"
    path.write_bytes(ANN + LONG)
    return path


@asynccontextmanager
async def bench(file: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> AsyncIterator[Bench]:
    made = Bench(file, monkeypatch, **settings)
    try:
        yield made
    finally:
        made.gate.set()
        await made.passwords.close()


async def test_right_and_wrong_and_unknown(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with bench(file, monkeypatch) as b:
        check = b.passwords.check
        assert await check(b"ann", b"secret") is True
        assert await check(b"ann", b"secret2") is False
        assert await check(b"ann", b"") is False
        assert await check(b"Ann", b"secret") is False
        assert await check(b"nobody", b"secret") is False
        assert repr(b.passwords) == "<Passwords users=2 running=0 right=1>"


async def test_bcrypt_sees_72_bytes(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with bench(file, monkeypatch) as b:
        assert await b.passwords.check(b"len", b"x" * 100) is True
        assert await b.passwords.check(b"len", b"x" * 71) is False


async def test_an_unknown_user_costs_a_check_like_the_dearest_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "users"
    file.write_bytes(ANN + line(b"bob", b"b", 6))
    async with bench(file, monkeypatch) as b:
        assert await b.passwords.check(b"nobody", b"secret") is False
        (digest,) = b.asked
        assert digest.startswith(b"$2b$06$")


async def test_a_right_password_is_remembered_for_a_while(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bench(file, monkeypatch, basic_auth_cache=60.0) as b:
        for _ in range(3):
            assert await b.passwords.check(b"ann", b"secret") is True
        assert len(b.asked) == 1
        assert await b.passwords.check(b"ann", b"wrong") is False
        assert await b.passwords.check(b"ann", b"wrong") is False
        assert len(b.asked) == 3  # a wrong one never is
        b.turn(61)
        assert await b.passwords.check(b"ann", b"secret") is True
        assert len(b.asked) == 4


async def test_nothing_is_remembered_for_no_time(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with bench(file, monkeypatch, basic_auth_cache=0.0) as b:
        for _ in range(2):
            assert await b.passwords.check(b"ann", b"secret") is True
        assert len(b.asked) == 2


async def test_no_password_is_kept(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with bench(file, monkeypatch) as b:
        await b.passwords.check(b"ann", b"secret")
        (key,) = b.passwords._right
        assert len(key) == 32
        assert not b.passwords._running


async def test_what_is_remembered_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "REMEMBERED", 3)
    assert REMEMBERED == 1024
    file = tmp_path / "users"
    file.write_bytes(b"".join(line(b"u%d" % n, b"p") for n in range(5)))
    async with bench(file, monkeypatch) as b:
        for n in range(5):
            assert await b.passwords.check(b"u%d" % n, b"p") is True
        assert len(b.passwords._right) == 3
        assert await b.passwords.check(b"u0", b"p") is True
        assert len(b.asked) == 6  # the oldest was forgotten


async def test_equal_checks_are_one_and_too_many_are_refused(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bench(file, monkeypatch, basic_auth_checks=2) as b:
        b.gate.clear()
        same = [asyncio.ensure_future(b.passwords.check(b"ann", b"secret")) for _ in range(30)]
        other = asyncio.ensure_future(b.passwords.check(b"ann", b"wrong"))
        await asyncio.sleep(0)
        assert await b.passwords.check(b"ann", b"third") is None
        same.pop().cancel()  # whoever leaves does not end it for the rest
        b.gate.set()
        assert set(await asyncio.gather(*same)) == {True}
        assert await other is False
        assert len(b.asked) == 2
        assert await b.passwords.check(b"ann", b"third") is False


async def test_closing_drops_those_that_wait_in_line(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    b = Bench(file, monkeypatch)
    b.gate.clear()
    checks = [asyncio.ensure_future(b.passwords.check(b"ann", b"%d" % n)) for n in range(6)]
    await asyncio.sleep(0)
    closing = asyncio.ensure_future(b.passwords.close())
    await asyncio.sleep(0)
    b.gate.set()
    await closing
    results = await asyncio.gather(*checks, return_exceptions=True)
    assert len(b.asked) == passwords.THREADS
    assert results.count(False) == passwords.THREADS
    assert repr(b.passwords) == "<Passwords users=2 running=0 right=0>"


class TestTheFile:
    async def test_a_changed_file_counts_within_a_second(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with bench(file, monkeypatch) as b:
            assert await b.passwords.check(b"ann", b"secret") is True
            b.rewrite(line(b"ann", b"new") + line(b"bob", b"b"))
            assert await b.passwords.check(b"ann", b"secret") is True  # not looked yet
            b.turn(1.0)
            assert await b.passwords.check(b"ann", b"secret") is False  # though it was remembered
            assert await b.passwords.check(b"ann", b"new") is True
            assert await b.passwords.check(b"bob", b"b") is True
            assert b.said == [(LogLevel.INFO, "passwords_reloaded", {"file": str(file), "users": 2})]

    async def test_a_user_who_was_taken_out_is_out(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        async with bench(file, monkeypatch) as b:
            assert await b.passwords.check(b"ann", b"secret") is True
            b.rewrite(LONG)
            b.turn(1.0)
            assert await b.passwords.check(b"ann", b"secret") is False

    @pytest.mark.parametrize("data", [b"ann:plain\n", None])
    async def test_a_bad_one_is_said_once_and_the_old_users_stay(
        self, file: Path, monkeypatch: pytest.MonkeyPatch, data: bytes | None
    ) -> None:
        async with bench(file, monkeypatch) as b:
            if data is None:
                os.unlink(file)
            else:
                b.rewrite(data)
            for _ in range(3):
                b.turn(1.0)
                assert await b.passwords.check(b"ann", b"secret") is True
            ((level, event, fields),) = b.said
            assert (level, event) == (LogLevel.ERROR, "passwords_not_reloaded")
            assert "bcrypt" in fields["detail"] or "readable" in fields["detail"]
            b.rewrite(LONG)
            b.turn(1.0)
            assert await b.passwords.check(b"ann", b"secret") is False

    def test_a_bad_one_at_the_start_is_a_config_error(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="basic_auth_file"):
            Passwords(AccessConfig(basic_auth_file=str(tmp_path / "none")), HandClock(), print)
