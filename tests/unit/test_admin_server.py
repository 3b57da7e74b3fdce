"""The admin listener's sockets: one request each, late ones dropped, everything bounded. Real sockets on a
selector that the test turns, and the same on an event loop."""

from __future__ import annotations

import asyncio
import selectors
import socket
from typing import TYPE_CHECKING

import pytest

from proxy.admin.exchange import Answer, Request, said
from proxy.admin.polling import LoopPoller, SelectorPoller
from proxy.admin.server import (
    CLOSE_PATIENCE,
    CONNECTIONS,
    REQUEST_PATIENCE,
    STREAMS,
    TICK,
    WRITE_PATIENCE,
    AdminServer,
)
from proxy.clock import NEVER
from proxy.config.schema import TcpAddress, UnixAddress
from tests.support.clock import HandClock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GET = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"
HUGE = 8 * 1024 * 1024


class Scene:
    """A server on a selector, and its clients. ``turn`` serves whatever is ready now."""

    def __init__(self, address: UnixAddress) -> None:
        self.clock = HandClock()
        self.asked: list[Request] = []
        self.events = 0
        self.address = address
        self._selector = selectors.DefaultSelector()
        self.server = AdminServer(SelectorPoller(self._selector), self.clock, self._answer, self._event)
        self.server.listen(address)
        self._sockets: list[socket.socket] = []

    def _answer(self, request: Request) -> Answer:
        self.asked.append(request)
        if request.path == "/events":
            return Answer(200, b"", "text/event-stream", streams=True)
        return Answer(200, b"x" * HUGE) if request.path == "/huge" else said(200, "hello")

    def _event(self) -> bytes:
        self.events += 1
        return b"data: %d\n\n" % self.events

    def connect(self, data: bytes = b"") -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        self._sockets.append(sock)
        sock.settimeout(5)
        sock.connect(self.address.path)
        sock.sendall(data)
        self.turn()
        return sock

    def turn(self) -> None:
        while ready := self._selector.select(0):
            for key, _ in ready:
                key.data()

    def later(self, seconds: float) -> None:
        self.clock.now += seconds
        self.server.tick()
        self.turn()

    @property
    def clients(self) -> int:
        return len(self.server._clients)

    def close(self) -> None:
        self.server.close()
        self._selector.close()
        for sock in self._sockets:
            sock.close()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(UnixAddress(str(tmp_path / "admin.sock")))
    yield scene
    scene.close()


def test_one_request_one_answer_and_the_end(scene: Scene) -> None:
    sock = scene.connect(GET[:10])
    assert not scene.asked
    sock.sendall(GET[10:])
    scene.turn()
    assert sock.recv(4096).endswith(b"\r\n\r\nhello\n")
    assert sock.recv(1) == b""
    assert scene.clients == 1
    sock.close()
    scene.turn()
    assert scene.clients == 0


def test_more_than_the_request_is_let_go_and_does_not_eat_the_answer(scene: Scene) -> None:
    sock = scene.connect(GET + b"x" * 50_000)
    assert sock.recv(4096).endswith(b"hello\n")
    assert len(scene.asked) == 1
    scene.later(CLOSE_PATIENCE)
    assert scene.clients == 0


def test_what_is_no_request_is_told_so(scene: Scene) -> None:
    assert scene.connect(b"\x16\x03").recv(4096).startswith(b"HTTP/1.1 400 ")
    assert not scene.asked


def test_head_is_answered_without_a_body_also_where_there_is_a_stream(scene: Scene) -> None:
    for path in (b"/x", b"/events"):
        sock = scene.connect(b"HEAD %b HTTP/1.1\r\nHost: a\r\n\r\n" % path)
        assert sock.recv(4096).endswith(b"\r\n\r\n")
        assert sock.recv(1) == b""


def test_who_does_not_ask_is_dropped(scene: Scene) -> None:
    sock = scene.connect(GET[:-1])
    scene.later(REQUEST_PATIENCE - 0.1)
    assert scene.clients == 1
    scene.later(0.1)
    assert scene.clients == 0
    assert sock.recv(1) == b""


def test_who_does_not_take_the_answer_is_dropped(scene: Scene) -> None:
    scene.connect(GET.replace(b"/x", b"/huge"))
    scene.later(WRITE_PATIENCE - 0.1)
    assert scene.clients == 1
    scene.later(0.1)
    assert scene.clients == 0


def test_a_large_answer_goes_out_as_it_is_taken(scene: Scene) -> None:
    sock = scene.connect(GET.replace(b"/x", b"/huge"))
    size = 0
    while data := sock.recv(1024 * 1024):
        size += len(data)
        scene.turn()
    assert size > HUGE


def test_a_client_that_resets_is_forgotten(scene: Scene) -> None:
    sock = scene.connect(GET.replace(b"/x", b"/huge"))
    sock.close()
    scene.turn()
    assert scene.clients == 0


def test_a_full_house_waits_outside_until_somebody_leaves(scene: Scene) -> None:
    inside = [scene.connect() for _ in range(CONNECTIONS)]
    late = scene.connect(GET)
    assert scene.clients == CONNECTIONS
    assert not scene.asked
    inside[0].close()
    scene.turn()
    assert late.recv(4096).endswith(b"hello\n")


def test_every_stream_gets_an_event_each_tick_as_long_as_it_takes_them(scene: Scene) -> None:
    streams = [scene.connect(GET.replace(b"/x", b"/events")) for _ in range(2)]
    scene.later(TICK)
    scene.later(TICK)
    assert scene.events == 2  # made once for all
    for sock in streams:
        assert sock.recv(4096).endswith(b"data: 1\n\ndata: 2\n\n")
    streams[0].close()
    scene.turn()
    assert scene.clients == 1
    scene.later(10_000)
    assert scene.clients == 1


def test_without_a_stream_no_event_is_made(scene: Scene) -> None:
    scene.connect(GET)
    scene.later(TICK)
    assert scene.events == 0


def test_a_stream_that_takes_nothing_gets_nothing_more_and_is_dropped(scene: Scene) -> None:
    scene.connect(GET.replace(b"/x", b"/events"))
    (client,) = scene.server._clients
    scene.server._send(client, b"x" * HUGE)
    held = len(client.unsent)
    assert held
    scene.later(TICK)
    assert scene.events == 0
    assert len(client.unsent) == held
    scene.later(WRITE_PATIENCE)
    assert scene.clients == 0


def test_a_stream_that_has_gone_is_noticed_by_writing(scene: Scene) -> None:
    sock = scene.connect(GET.replace(b"/x", b"/events"))
    sock.close()
    scene.clock.now += TICK
    scene.server.tick()  # before the selector says that it has closed
    assert scene.clients == 0


def test_streams_are_fewer_than_connections(scene: Scene) -> None:
    for _ in range(STREAMS):
        scene.connect(GET.replace(b"/x", b"/events"))
    assert scene.connect(GET.replace(b"/x", b"/events")).recv(4096).startswith(b"HTTP/1.1 503 ")
    assert scene.connect(GET).recv(4096).endswith(b"hello\n")


def test_it_moves_to_another_address_and_keeps_one_that_stays(scene: Scene, tmp_path: Path) -> None:
    waiting = scene.connect(GET[:5])
    scene.server.listen(scene.address)
    waiting.sendall(GET[5:])
    scene.turn()
    assert waiting.recv(4096).endswith(b"hello\n")
    scene.server.listen(UnixAddress(str(tmp_path / "other.sock")))
    with pytest.raises(FileNotFoundError):
        scene.connect()
    scene.address = UnixAddress(str(tmp_path / "other.sock"))
    assert scene.connect(GET).recv(4096).endswith(b"hello\n")
    scene.server.listen(None)
    assert scene.server.addresses == ()


def test_an_address_that_cannot_be_had_changes_nothing(scene: Scene, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="cannot listen"):
        scene.server.listen(UnixAddress(f"{tmp_path}/absent/a.sock"))
    assert scene.connect(GET).recv(4096).endswith(b"hello\n")


def test_closed_it_has_nothing_to_do_and_its_file_is_gone(scene: Scene, tmp_path: Path) -> None:
    sock = scene.connect()
    scene.server.close()
    assert scene.server.due == NEVER
    assert sock.recv(1) == b""
    assert not (tmp_path / "admin.sock").exists()


class _NoDescriptors:
    """A listening socket at the limit of open files."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def accept(self) -> None:
        raise OSError(24, "Too many open files")


def test_without_descriptors_it_does_not_spin_and_tries_again_later(scene: Scene) -> None:
    (listening,) = scene.server._sockets()
    scene.server._accept(_NoDescriptors(listening))  # type: ignore[arg-type]
    sock = scene.connect(GET)
    assert not scene.asked
    scene.later(TICK)
    assert sock.recv(4096).endswith(b"hello\n")


async def test_the_same_on_an_event_loop() -> None:
    clock = HandClock()
    server = AdminServer(
        LoopPoller(asyncio.get_running_loop()), clock, lambda request: said(200, request.path), lambda: b""
    )
    server.listen(TcpAddress("127.0.0.1", 0))
    (address,) = server.addresses
    assert isinstance(address, TcpAddress)
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(GET)
    assert (await reader.read()).endswith(b"\r\n\r\n/x\n")
    writer.close()
    await writer.wait_closed()
    server.close()
