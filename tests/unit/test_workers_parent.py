"""The parent in this process, with real workers; a thread plays the operator."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from proxy.config.sources import Sources
from proxy.observe.metrics import flattened
from proxy.workers.parent import Supervisor
from tests.support.process import PROBE_INTERVAL
from tests.support.wire import RawUpstream, exchange

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

EVENT = b"POST /e/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi"


def _heard_too_late(number: int, frame: object) -> None:
    """Nobody is left to be stopped."""


class Scene:
    """A supervisor that runs in the main thread while ``operator`` runs in another.

    The error log is a named pipe, whose lines ``said`` returns. The keys ``in_file`` are left to the file.
    """

    def __init__(self, folder: Path, upstream: RawUpstream, *in_file: str, **flags: str) -> None:
        self._pipe = folder / "errors"
        os.mkfifo(self._pipe)
        self._lines = os.fdopen(os.open(self._pipe, os.O_RDWR), "rb", buffering=0)
        self._buffer = b""
        self.file = folder / "proxy.toml"
        self.file.write_text("listen = ['127.0.0.1:0']\nlog.access = 'off'\n" if in_file else "")
        said = {
            "listen": "127.0.0.1:0",
            "upstream": upstream.url,
            "log.access": "off",
            "log.errors": str(self._pipe),
            "trust.proxies": "127.0.0.1",
            **flags,
        }
        flags = {key: value for key, value in said.items() if key not in in_file}
        sources = Sources(str(self.file), flags).fetch()
        self.supervisor = Supervisor(sources, sources.load({}), {})
        self.address = ("", 0)
        self.failed: list[BaseException] = []
        self._pausing = threading.Event()

    def said(self, event: str) -> dict[str, Any]:
        """Wait for the next line of this event; those before it are skipped."""
        while True:
            while b"\n" not in self._buffer:
                self._buffer += self._lines.read(65536)
            line, _, self._buffer = self._buffer.partition(b"\n")
            found: dict[str, Any] = json.loads(line)
            if found["event"] == event:
                return found

    def play(self, operator: Callable[[Scene], None]) -> int:
        """Run until the operator has stopped it; the exit status."""

        def act() -> None:
            try:
                host, _, port = self.said("listening")["address"].rpartition(":")
                self.address = (host, int(port))
                operator(self)
            except BaseException as error:  # noqa: BLE001 - told to the main thread
                self.failed.append(error)
            os.kill(os.getpid(), signal.SIGTERM)

        # The last signal may come when the supervisor is through: it must not end the test's own process.
        before = signal.signal(signal.SIGTERM, _heard_too_late)
        thread = threading.Thread(target=act)
        thread.start()
        try:
            status = self.supervisor.run()
        finally:
            thread.join()
            signal.signal(signal.SIGTERM, before)
            self._lines.close()
        assert self.failed == []
        return status

    def workers(self) -> list[int]:
        """The process numbers of the children."""
        me = os.getpid()
        with open(f"/proc/{me}/task/{me}/children") as file:
            return [int(pid) for pid in file.read().split()]

    def count(self, name: str) -> int:
        """A counter in the sum of all workers."""
        return flattened(self.supervisor.snapshot()).get(name, 0)

    def wait_for_count(self, name: str, number: int) -> None:
        """Wait until a counter has come to ``number``: workers push each second."""
        while self.count(name) < number:
            self._pausing.wait(PROBE_INTERVAL)


def test_it_serves_and_sums_and_signals_are_as_before_in_the_end(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)]

    def operate(scene: Scene) -> None:
        assert len(scene.workers()) == 2
        for _ in range(10):
            assert exchange(scene.address, EVENT).status == 200
        scene.wait_for_count("requests_total", 10)

    with RawUpstream() as upstream:
        scene = Scene(tmp_path, upstream, workers="2")
        assert scene.play(operate) == 0
    assert scene.count("requests_total") == scene.count("connections_total") == 10
    assert "open_connections" not in flattened(scene.supervisor.snapshot())
    assert before == [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)]


def test_what_a_killed_worker_has_counted_is_kept(tmp_path: Path) -> None:
    def operate(scene: Scene) -> None:
        for _ in range(10):
            assert exchange(scene.address, EVENT).status == 200
        scene.wait_for_count("requests_total", 10)
        for pid in scene.workers():
            os.kill(pid, signal.SIGKILL)
            assert scene.said("worker_died")["pid"] == pid
        assert scene.count("requests_total") == 10
        assert exchange(scene.address, EVENT).status == 200  # it waited for a successor

    with RawUpstream() as upstream:
        scene = Scene(tmp_path, upstream, workers="2")
        assert scene.play(operate) == 0
    assert scene.count("requests_total") == 11


def test_a_reload_reads_the_file_again(tmp_path: Path) -> None:
    def operate(scene: Scene) -> None:
        scene.file.write_text("nonsense = 1\n")
        os.kill(os.getpid(), signal.SIGHUP)
        assert "nonsense" in scene.said("reload_failed")["detail"]
        scene.file.write_text("[access]\nallowed_hosts = ['b']\n")
        os.kill(os.getpid(), signal.SIGHUP)
        assert scene.said("reloaded")["workers"] == 2
        assert exchange(scene.address, EVENT).status == 421

    with RawUpstream() as upstream:
        assert Scene(tmp_path, upstream, workers="2").play(operate) == 0


def test_a_reload_that_the_system_refuses(tmp_path: Path) -> None:
    """By the parent, which binds, and by the workers, which open the access log."""

    def operate(scene: Scene) -> None:
        before = scene.workers()
        with socket.create_server(("127.0.0.1", 0)) as other:
            taken = f"127.0.0.1:{other.getsockname()[1]}"
            scene.file.write_text(f"listen = ['127.0.0.1:0', '{taken}']\n")
            os.kill(os.getpid(), signal.SIGHUP)
            assert taken in scene.said("reload_failed")["detail"]
        scene.file.write_text(f"listen = ['127.0.0.1:0']\nlog.access = '{tmp_path}/none/log'\n")
        os.kill(os.getpid(), signal.SIGHUP)
        assert scene.said("worker_died")["exit_code"] == 1
        assert scene.said("reload_failed")["detail"] == f"{tmp_path}/none/log: No such file or directory"
        assert set(before) <= set(scene.workers())
        assert exchange(scene.address, EVENT).status == 200

    with RawUpstream() as upstream:
        scene = Scene(tmp_path, upstream, "log.access", "listen", workers="2")
        assert scene.play(operate) == 0


def test_a_second_signal_is_in_the_exit_status(tmp_path: Path) -> None:
    def operate(scene: Scene) -> None:
        with socket.create_connection(scene.address) as client:
            client.sendall(b"GET / HTTP/1.1\r\n")  # a head that does not end
            scene.wait_for_count("open_connections", 1)
            os.kill(os.getpid(), signal.SIGINT)
            scene.said("draining")
            os.kill(os.getpid(), signal.SIGINT)
            scene.said("stopped_at_once")

    with RawUpstream() as upstream:
        assert Scene(tmp_path, upstream, workers="2").play(operate) == 128 + signal.SIGINT


def start_error(sources: Sources) -> str:
    """Why it does not start."""
    with pytest.raises(OSError, match=r".") as error:
        Supervisor(sources, sources.load({}), {}).run()
    return str(error.value.strerror or error.value)


def test_why_it_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = {"listen": "127.0.0.1:0", "upstream": "http://127.0.0.1:1", "workers": "2", "log.errors": "off"}
    log = str(tmp_path / "none" / "log")
    assert start_error(Sources(None, flags | {"log.errors": log})) == "No such file or directory"
    assert start_error(Sources(None, flags | {"log.access": log})) == f"{log}: No such file or directory"
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        assert "Address already in use" in start_error(Sources(None, flags | {"listen": taken}))
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert start_error(Sources(None, flags)) == "/nowhere/python: No such file or directory"
