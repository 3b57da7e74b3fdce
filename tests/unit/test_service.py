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
from proxy.config.load import load_config
from proxy.service import serve
flags = {"log.access": sys.argv[1], "upstream": "http://127.0.0.1:1", "trust.proxies": "127.0.0.1"}
def load():
    return load_config(sys.argv[2], {}, flags)
sys.exit(asyncio.run(serve(load().config, ("beware",), reload=load)))
"""


class Service:
    """The service in a process of its own; ``said`` reads its error log line by line."""

    def __init__(self, folder: Path) -> None:
        self.access = folder / "access.log"
        self.file = folder / "proxy.toml"
        self.file.write_text("listen = ['127.0.0.1:0']\n")
        command = [sys.executable, "-c", RUN, str(self.access), str(self.file)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

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
    started = Service(tmp_path)
    yield started
    started.end()


def test_warnings_then_addresses_then_a_drain_and_exit_0(service: Service) -> None:
    assert service.said()["detail"] == "beware"
    listening = service.said()
    assert listening["event"] == "listening"
    assert listening["address"].startswith("127.0.0.1:")
    os.kill(service.process.pid, signal.SIGTERM)
    assert [service.said()["event"] for _ in range(3)] == ["draining", "counters", "stopped"]
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


def test_a_reload_serves_the_new_configuration_on_the_same_sockets(service: Service) -> None:
    service.said()
    host, _, port = service.said()["address"].rpartition(":")
    service.file.write_text("listen = ['127.0.0.1:0', '[::1]:0']\n")
    os.kill(service.process.pid, signal.SIGHUP)
    assert service.said()["event"] == "reloaded"
    assert service.said()["address"].startswith("[::1]:")
    socket.create_connection((host, int(port))).close()
    os.kill(service.process.pid, signal.SIGTERM)
    assert [service.said()["event"] for _ in range(3)] == ["draining", "counters", "stopped"]
    assert service.process.wait(10) == 0


def test_a_reload_that_cannot_be_is_refused_with_its_reasons(service: Service) -> None:
    service.said()
    host, _, port = service.said()["address"].rpartition(":")
    service.file.write_text("workers = 0\n[limits]\nbacklog = 0\n")
    os.kill(service.process.pid, signal.SIGHUP)
    said = [service.said() for _ in range(2)]
    assert [line["event"] for line in said] == ["reload_failed"] * 2
    assert [line["detail"].split(" = ")[0].split(": ")[1] for line in said] == ["workers", "limits.backlog"]
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        service.file.write_text(f"listen = ['127.0.0.1:0', '127.0.0.1:{taken}']\n")
        os.kill(service.process.pid, signal.SIGHUP)
        assert service.said()["detail"].startswith(f"cannot listen on 127.0.0.1:{taken}: ")
    socket.create_connection((host, int(port))).close()


def test_more_workers_need_a_restart(service: Service) -> None:
    service.said(), service.said()
    service.file.write_text("listen = ['127.0.0.1:0']\nworkers = 3\n")
    os.kill(service.process.pid, signal.SIGHUP)
    assert [service.said()["event"] for _ in range(2)] == ["reloaded", "workers_unchanged"]
