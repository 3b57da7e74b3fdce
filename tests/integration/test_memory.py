"""Memory of the process: small when idle, and the same when a gigabyte goes through it past a slow end."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

from tests.support import servers
from tests.support.wire import Reader, connect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.wire import Address

MIB = 1024 * 1024

IDLE_LIMIT = 45 * MIB
GROWTH_LIMIT = 8 * MIB

BLOCK = bytes(range(256)) * 4096  # 1 MiB
END_OF_CHUNKS = b"0\r\n\r\n"

STALLS = 4
"""Times that the slow end stands still in one transfer, each until the other end cannot go on."""

STUCK = 0.25
"""Seconds without a byte after which an end counts as held up by the other."""

OURS_UNDER_WAY = 4 * MIB
"""Bytes in the process and its pipe while the reader stands still. More than these and what the kernel lets
four sockets hold means that the writer was never held up."""

SPLICE_BYTES = {"copying": 0, "splicing": 128 * 1024}


def memory(pid: int, name: str) -> int:
    """Return a line of /proc/PID/status in bytes: VmRSS now, VmHWM at most since ``reset_peak``."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no {name} of {pid}")


def held_by_sockets() -> int:
    """What two pairs of TCP sockets hold at most, tens of megabytes on loopback (tcp(7))."""
    return 2 * sum(int(Path(f"/proc/sys/net/ipv4/tcp_{way}mem").read_text().split()[2]) for way in "rw")


def reset_peak(pid: int) -> None:
    """Let VmHWM begin anew (`5` to clear_refs, proc(5))."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


class Meter:
    """Counts the bytes of one end, so that the other can wait until no more come."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.count = 0

    def add(self, count: int) -> None:
        with self._changed:
            self.count += count
            self._changed.notify_all()

    def wait_until_stuck(self) -> int:
        """Wait until nothing was counted for ``STUCK`` seconds and return the count."""
        with self._changed:
            while self._changed.wait(STUCK):
                pass
            return self.count


class Transfer:
    """``size`` bytes from one socket to another, with the proxy between, past a slow reader or writer."""

    def __init__(self, size: int, *, chunked: bool, slow: Literal["reader", "writer"] | None = None) -> None:
        self.size = size
        self.chunked = chunked
        self.slow = slow
        self.most_under_way = 0
        self._written = Meter()
        self._read = Meter()

    @property
    def framing(self) -> str:
        return "Transfer-Encoding: chunked" if self.chunked else f"Content-Length: {self.size}"

    def write(self, sock: socket.socket) -> None:
        """Send everything, as fast as it is taken; a slow writer stops until nothing arrives any more."""
        stalls = self._stalls("writer")
        for at in range(0, self.size, MIB):
            if at in stalls:
                self._read.wait_until_stuck()
            self._send(sock, b"%x\r\n%b\r\n" % (MIB, BLOCK) if self.chunked else BLOCK)
        if self.chunked:
            self._send(sock, END_OF_CHUNKS)

    def _send(self, sock: socket.socket, data: bytes) -> None:
        view = memoryview(data)
        while view:
            sent = sock.send(view)
            self._written.add(sent)
            view = view[sent:]

    def read(self, sock: socket.socket, already: bytes) -> None:
        """Receive everything; a slow reader stops until nothing more can be sent."""
        stalls = self._stalls("reader")
        buffer = bytearray(MIB)
        tail = already[-len(END_OF_CHUNKS) :]
        received = len(already)
        while (tail != END_OF_CHUNKS) if self.chunked else (received < self.size):
            if stalls and received >= stalls[0]:
                stalls.pop(0)
                self.most_under_way = max(self.most_under_way, self._written.wait_until_stuck() - received)
            count = sock.recv_into(buffer)
            assert count, f"the stream ended after {received} of {self.size} bytes"
            tail = (tail + buffer[max(0, count - 5) : count])[-len(END_OF_CHUNKS) :]
            received += count
            self._read.add(count)

    def _stalls(self, end: str) -> list[int]:
        step = self.size // (STALLS + 1) // MIB * MIB
        return [step * (number + 1) for number in range(STALLS)] if end == self.slow else []


@pytest.fixture(scope="module")
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.settimeout(30)
        yield made


@dataclass(frozen=True, slots=True)
class WarmProxy:
    """A proxy that has moved some megabytes each way, and its memory then."""

    running: servers.RunningProxy
    memory: int

    @property
    def pid(self) -> int:
        return self.running.process.pid


@pytest.fixture(scope="module")
def proxy(
    request: pytest.FixtureRequest, listener: socket.socket, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WarmProxy]:
    """``request.param``: what it does with a body of known length."""
    config = tmp_path_factory.mktemp("memory") / "proxy.toml"
    config.write_text(f"[limits]\nbody_app = {2048 * MIB}\nsplice_bytes = {SPLICE_BYTES[request.param]}\n")
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with servers.posthog_proxy(url, "--config", config) as running:
        for chunked in (False, True):
            for move in (upload, download):
                move(running.address, listener, Transfer(16 * MIB, chunked=chunked))
        yield WarmProxy(running, memory(running.process.pid, "VmRSS"))


def upload(proxy: Address, listener: socket.socket, transfer: Transfer) -> None:
    """Send a request whose body is the transfer."""
    with connect(proxy) as client, ThreadPoolExecutor(1) as beside:
        client.sendall(
            f"POST /up HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{transfer.framing}\r\n\r\n".encode()
        )
        writing = beside.submit(transfer.write, client)
        upstream, _ = listener.accept()
        with upstream:
            reader = Reader(upstream)
            reader.until(b"\r\n\r\n")
            transfer.read(upstream, reader.buffer)
            upstream.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        writing.result()
        assert Reader(client).rest().startswith(b"HTTP/1.1 200 ")


def download(proxy: Address, listener: socket.socket, transfer: Transfer) -> None:
    """Send a request whose answer is the transfer."""
    with connect(proxy) as client, ThreadPoolExecutor(1) as beside:
        client.sendall(b"GET /down HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        upstream, _ = listener.accept()
        with upstream:
            Reader(upstream).until(b"\r\n\r\n")
            head = f"HTTP/1.1 200 OK\r\nConnection: close\r\n{transfer.framing}\r\n\r\n"
            upstream.sendall(head.encode())
            writing = beside.submit(transfer.write, upstream)
            reader = Reader(client)
            assert reader.until(b"\r\n\r\n").startswith(b"HTTP/1.1 200 ")
            transfer.read(client, reader.buffer)
            writing.result()


@pytest.mark.parametrize("proxy", ["splicing"], indirect=True)
def test_idle(proxy: WarmProxy) -> None:
    assert proxy.memory <= IDLE_LIMIT


@pytest.mark.parametrize("move", [upload, download])
@pytest.mark.parametrize(
    ("proxy", "megabytes", "chunked", "slow"),
    [
        ("copying", 1024, False, "reader"),
        ("copying", 256, True, "reader"),
        ("copying", 256, False, "writer"),
        ("copying", 256, True, "writer"),
        ("splicing", 1024, False, "reader"),
        ("splicing", 256, False, "writer"),
    ],
    indirect=["proxy"],
)
def test_large_body_past_a_slow_end(
    proxy: WarmProxy,
    listener: socket.socket,
    move: Callable[[Address, socket.socket, Transfer], None],
    megabytes: int,
    chunked: bool,
    slow: Literal["reader", "writer"],
) -> None:
    reset_peak(proxy.pid)
    transfer = Transfer(megabytes * MIB, chunked=chunked, slow=slow)
    move(proxy.running.address, listener, transfer)
    assert memory(proxy.pid, "VmHWM") - proxy.memory <= GROWTH_LIMIT
    assert transfer.most_under_way <= held_by_sockets() + OURS_UNDER_WAY
