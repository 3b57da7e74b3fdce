"""The process around a proxy: what it says, how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RUN = """
import asyncio, sys
from proxy.config.load import config_from
from proxy.service import serve
config = config_from({"listen": ["127.0.0.1:0"], "upstream": "http://127.0.0.1:1",
                      "log": {"access": sys.argv[1], "errors": "stderr"}}).config
sys.exit(asyncio.run(serve(config, ("beware",))))
"""


class Service:
    """The service in a process of its own; ``said`` reads its error log line by line."""

    def __init__(self, access: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUN, access], stderr=subprocess.PIPE, text=True
        )

    def said(self) -> dict[str, Any]:
        assert self.process.stderr is not None
        line: dict[str, Any] = json.loads(self.process.stderr.readline())
        return line

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    started = Service(str(tmp_path / "access.log"))
    yield started
    started.end()


def test_warnings_then_addresses_then_a_drain_and_exit_0(service: Service) -> None:
    assert service.said()["detail"] == "beware"
    listening = service.said()
    assert listening["event"] == "listening"
    assert listening["address"].startswith("127.0.0.1:")
    os.kill(service.process.pid, signal.SIGTERM)
    assert (service.said()["event"], service.said()["event"]) == ("draining", "stopped")
    assert service.process.wait(10) == 0


def test_a_second_signal_ends_it_at_once(service: Service) -> None:
    service.said()
    host, _, port = service.said()["address"].rpartition(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(b"POST /e HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 100 ")  # an exchange that waits for its body
        os.kill(service.process.pid, signal.SIGINT)
        assert service.said()["event"] == "draining"
        os.kill(service.process.pid, signal.SIGTERM)
        assert service.said()["event"] == "stopped_at_once"
        assert service.process.wait(10) == 128 + signal.SIGTERM
