"""A worker's process as its parent sees it, with real processes and real sockets."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from proxy.config.schema import TcpAddress
from proxy.config.sources import Sources
from proxy.net.listen import bind
from proxy.observe.turns import lock_file
from proxy.workers.channel import Accept, Channel, Close, Counted, Failed, Handed, Ready
from proxy.workers.child import Child

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxy.workers.channel import Message

WAIT = "import sys; sys.stdin.read()"


@contextmanager
def started(sources: Sources) -> Iterator[Child]:
    """A real worker, killed in the end."""
    settings, turns = os.memfd_create("settings"), lock_file()
    os.write(settings, sources.pack())
    child = Child.start(1, settings=settings, turns=turns)
    os.close(settings)
    os.close(turns)
    try:
        yield child
    finally:
        child.kill()
        child.wait()
        child.channel.close()


@pytest.fixture
def scripted() -> Iterator[tuple[Child, Channel]]:
    """A process that does nothing, and the worker's end of its channel."""
    ours, theirs = socket.socketpair()
    process = subprocess.Popen([sys.executable, "-c", WAIT], stdin=subprocess.PIPE)
    child, channel = Child(process, Channel(ours)), Channel(theirs)
    yield child, channel
    child.kill()
    child.wait()
    assert process.stdin is not None
    process.stdin.close()
    child.channel.close()
    channel.close()


def heard(child: Child, kind: type[Message]) -> Message:
    """Wait for a message of this kind."""
    while True:
        for message in child.channel.receive():
            if isinstance(message, kind):
                return message
        assert not child.channel.ended
        select.select([child.channel], [], [])


def test_a_worker_gets_ready_and_ends_when_it_is_told() -> None:
    with started(Sources(None, {"upstream": "http://127.0.0.1:1", "log.access": "off"})) as child:
        assert heard(child, Ready) == Ready()
        assert os.getpgid(child.pid) == child.pid != os.getpgid(0)
        assert child.ending() is None
        child.tell(Close())
        heard(child, Counted)
        child.wait()
        assert child.ending() == {"pid": child.pid, "exit_code": 0}
        assert repr(child) == f"<Child pid={child.pid} sockets=0>"


def test_a_worker_says_why_it_cannot_start(tmp_path: object) -> None:
    path = f"{tmp_path}/none/access.log"
    with started(Sources(None, {"upstream": "http://127.0.0.1:1", "log.access": path})) as child:
        assert heard(child, Failed) == Failed(f"{path}: No such file or directory")
        child.wait()
        assert child.ending() == {"pid": child.pid, "exit_code": 1}


def test_a_signal_is_named(scripted: tuple[Child, Channel]) -> None:
    child, _ = scripted
    child.kill()
    child.wait()
    assert child.ending() == {"pid": child.pid, "signal": "SIGKILL"}


def test_sockets_are_handed_once_and_named_ever_after(scripted: tuple[Child, Channel]) -> None:
    child, channel = scripted
    (one,), (two,) = bind(TcpAddress("127.0.0.1", 0), backlog=1), bind(TcpAddress("127.0.0.1", 0), backlog=1)
    child.share([one])
    child.share([one])
    child.share([one, two])
    child.share([two])
    child.share([one, two])
    messages = list(channel.receive())
    handed = [message for message in messages if isinstance(message, Handed)]
    assert [(each.number, each.address) for each in handed] == [
        (1, str(one.address)),
        (2, str(two.address)),
        (3, str(one.address)),  # it had forgotten the first
    ]
    accepts = [list(message.numbers) for message in messages if isinstance(message, Accept)]
    assert accepts == [[1], [1, 2], [2], [3, 2]] or accepts == [[1], [1, 2], [2], [2, 3]]
    for message in handed:
        with socket.socket(fileno=message.descriptor) as sock:
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    one.close()
    two.close()


def test_a_worker_that_takes_no_messages_is_killed(scripted: tuple[Child, Channel]) -> None:
    child, _ = scripted
    while child.ending() is None:
        child.tell(Failed("x" * 10_000))
    assert child.ending() == {"pid": child.pid, "signal": signal.SIGKILL.name}


def test_a_worker_that_takes_no_sockets_is_killed(scripted: tuple[Child, Channel]) -> None:
    child, _ = scripted
    while child.ending() is None:
        child.tell(Handed(1, "127.0.0.1:1", 0), 0)
    assert child.ending() == {"pid": child.pid, "signal": signal.SIGKILL.name}


def test_a_worker_that_is_gone_is_told_nothing(scripted: tuple[Child, Channel]) -> None:
    child, channel = scripted
    channel.close()
    child.tell(Close())
    assert child.ending() is None


def test_a_process_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    lock = lock_file()
    with pytest.raises(OSError, match="No such file"):
        Child.start(1, settings=lock, turns=lock)
    os.close(lock)
