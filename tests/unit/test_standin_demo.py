"""`posthog-proxy demo`: the whole way, with the real proxy and the real SDK."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import re
import signal
import socket
import sys
import urllib.request
from typing import TYPE_CHECKING

from proxy.config.schema import TcpAddress
from proxy.standin import demo
from proxy.standin.server import Standin

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest


def test_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main(["--once", "--listen", "127.0.0.1:0"]) == 0
    said = capsys.readouterr().out
    assert "event    'demo' of 'demo-user', POST /batch/" in said
    assert "event    'lie' of 'liar', POST /e/" in said
    assert said.count("client   127.0.0.1 (ingestion), 127.0.0.1 (feature flags), 127.0.0.1 (web app)") == 2
    assert said.count("X-Forwarded-For: 127.0.0.1") == 2
    assert "6.6.6.6\n" not in said
    assert "The lie was not believed." in said


class Watched(io.StringIO):
    """Standard output that says when ``mark`` was written."""

    def __init__(self, mark: str) -> None:
        super().__init__()
        self.mark = mark
        self.seen = asyncio.Event()

    def write(self, text: str) -> int:
        if self.mark in text:
            self.seen.set()
        return super().write(text)


async def test_it_stays_up_until_a_signal(capfd: pytest.CaptureFixture[str]) -> None:
    with contextlib.redirect_stdout(Watched("Ctrl-C ends the demo")) as output:
        running = asyncio.ensure_future(demo.demonstrate("127.0.0.1:0", None, once=False))
        await asyncio.wait_for(output.seen.wait(), 30)
        said = output.getvalue()
        address = re.search(r"shown at  (\S+)", said)
        assert address is not None
        page = await asyncio.to_thread(_get, address[1])
        os.kill(os.getpid(), signal.SIGTERM)
        assert await running == 0
    assert "posthog.init(" in said
    assert "from posthog import Posthog" in said
    assert page.count(b"<article") == 2
    assert re.search(r"GET \S+/__standin__/ 200 ", capfd.readouterr().out)


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        body: bytes = answer.read()
    return body


def test_without_the_sdk_the_lie_alone_is_sent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "find_spec", _without("posthog"))
    assert demo.main(["--once", "--listen", "127.0.0.1:0"]) == 0
    said = capsys.readouterr().out
    assert "'demo'" not in said
    assert "The lie was not believed." in said


def test_without_aiohttp_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "find_spec", _without("aiohttp"))
    assert demo.main(["--once"]) == 1
    assert "pip install 'posthog-proxy[demo]'" in capsys.readouterr().err


def _without(name: str) -> Callable[[str], object | None]:
    return lambda asked: None if asked == name else sys.modules


def test_a_default_port_that_is_taken_is_no_obstacle(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setattr(demo, "DEFAULT_LISTEN", address)
        assert demo.main(["--once"]) == 0
        assert f"{address} is taken" in capsys.readouterr().out
        assert demo.main(["--once", "--listen", address]) == 1
        assert "in use" in capsys.readouterr().err


async def test_a_lie_that_is_believed_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    async with Standin() as standin:  # nobody in front: the lie arrives as it was told
        assert not await demo._send_and_show(standin, standin.url)
    assert "The lie was believed." in capsys.readouterr().out


async def test_an_event_that_is_lost_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "find_spec", _without("posthog"))
    async with Standin() as standin:
        standin.fail_with(503)
        assert not await demo._send_and_show(standin, standin.url)
    assert "the event did not arrive: HTTP Error 503" in capsys.readouterr().err


def test_what_listens_everywhere_is_reached_locally() -> None:
    assert demo._reachable(TcpAddress("0.0.0.0", 80)) == TcpAddress("127.0.0.1", 80)
    assert demo._reachable(TcpAddress("::", 80)) == TcpAddress("::1", 80)
    assert demo._reachable(TcpAddress("192.0.2.1", 80)) == TcpAddress("192.0.2.1", 80)
