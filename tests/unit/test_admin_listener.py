"""The listener as a whole: where it is, what a reload does to it, and that nothing is loaded without one."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from proxy.admin.listener import AdminListener
from proxy.admin.polling import LoopPoller
from proxy.clock import NEVER
from proxy.config.load import config_from
from tests.support.asking import ask
from tests.support.facts import PlainFacts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from proxy.config.schema import Config


def config(**admin: str) -> Config:
    return config_from({"upstream": "http://web:1", "admin": admin}).config


class Scene:
    """A listener on this event loop, and what it said."""

    def __init__(self) -> None:
        self.facts = PlainFacts()
        self.said: list[tuple[str, dict[str, Any]]] = []
        self.admin = AdminListener(
            self.facts,
            lambda: LoopPoller(asyncio.get_running_loop()),
            self.facts.clock,
            lambda level, event, **fields: self.said.append((event, fields)),
        )

    async def ask(self, address: str, path: str, **words: Any) -> tuple[int, str]:
        return await asyncio.to_thread(ask, address, path, **words)


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    scene = Scene()
    yield scene
    scene.admin.close()


async def test_without_an_address_there_is_none(scene: Scene) -> None:
    scene.admin.use(config())
    scene.admin.tick()
    assert scene.admin.due == NEVER
    assert scene.said == []


def test_without_an_address_nothing_is_loaded() -> None:
    script = (
        "import sys\nimport proxy.workers.parent\n"
        "print([name for name in sys.modules if name.startswith('proxy.admin.')])"
    )
    found = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "['proxy.admin.listener', 'proxy.admin.polling']"


async def test_it_says_where_it_is_once_and_can_be_turned_off(scene: Scene, tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/admin.sock"
    for _ in range(2):
        scene.admin.use(config(listen=address))
    assert scene.said == [("admin_listening", {"address": address})]
    assert (await scene.ask(address, "/readyz"))[0] == 200
    assert scene.admin.due <= scene.facts.clock.now + 1
    scene.admin.use(config())
    with pytest.raises(FileNotFoundError):
        await scene.ask(address, "/readyz")


async def test_a_token_is_read_anew(scene: Scene, tmp_path: Path) -> None:
    token, address = tmp_path / "token", f"unix:{tmp_path}/admin.sock"
    for word in ("0123456789abcdef", "fedcba9876543210"):
        token.write_text(word)
        scene.admin.use(config(listen=address, token_file=str(token)))
        assert (await scene.ask(address, "/metrics"))[0] == 401
        fields = {"Authorization": f"Bearer {word}"}
        assert (await scene.ask(address, "/metrics", fields=fields))[0] == 200


@pytest.mark.parametrize("spoil", ["token", "address"])
async def test_what_cannot_be_used_is_said_and_changes_nothing(
    scene: Scene, tmp_path: Path, spoil: str
) -> None:
    token, address = tmp_path / "token", f"unix:{tmp_path}/admin.sock"
    token.write_text("0123456789abcdef")
    scene.admin.use(config(listen=address, token_file=str(token)))
    wanted = address if spoil == "token" else f"unix:{tmp_path}/absent/admin.sock"
    next_one = config(listen=wanted, token_file=str(token))
    if spoil == "token":
        token.write_text("short")
    scene.admin.reuse(next_one)
    event, fields = scene.said[-1]
    assert event == "admin_unchanged"
    assert ("token_file" if spoil == "token" else "/absent/") in fields["detail"]
    fields = {"Authorization": "Bearer 0123456789abcdef"}
    assert (await scene.ask(address, "/metrics", fields=fields))[0] == 200


async def test_a_bug_is_logged_and_ends_nothing(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"unix:{tmp_path}/admin.sock"
    scene.admin.use(config(listen=address))

    def broken() -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(scene.facts, "snapshot", broken)
    assert await scene.ask(address, "/metrics") == (500, "the error log says what broke\n")
    scene.admin.tick()
    events = [(event, fields.get("error")) for event, fields in scene.said[1:]]
    assert events == [("admin_error", "KeyError('a bug')")] * 2
    monkeypatch.undo()
    assert (await scene.ask(address, "/metrics"))[0] == 200


async def test_its_tick_samples_and_sends(scene: Scene, tmp_path: Path) -> None:
    path = f"{tmp_path}/admin.sock"
    scene.admin.use(config(listen=f"unix:{path}"))
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(b"GET /status/events HTTP/1.1\r\nHost: a\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"text/event-stream" in head
    first = await reader.readuntil(b"\n\n")
    scene.facts.state = "draining"
    scene.admin.tick()
    second = await reader.readuntil(b"\n\n")
    assert b'"state":"ready"' in first
    assert b'"state":"draining"' in second
    writer.close()
    await writer.wait_closed()
