"""What systemd is told and what it hands over, with a socket and descriptors as it makes them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from proxy.notify import FIRST_DESCRIPTOR, Notifier, inherited_sockets
from tests.support.clock import HandClock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """The service manager's end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(5)
        yield sock


def heard(manager: socket.socket) -> list[str]:
    return manager.recv(4096).decode().split("\n")


def test_all_that_is_said(manager: socket.socket) -> None:
    clock = HandClock()
    notifier = Notifier(manager.getsockname())
    notifier.ready("serving on 127.0.0.1:80")
    assert heard(manager) == ["READY=1", "STATUS=serving on 127.0.0.1:80"]
    notifier.reloading(clock)
    assert heard(manager) == [
        "RELOADING=1",
        f"MONOTONIC_USEC={int(clock.now * 1e6)}",
        "STATUS=reloading",
    ]
    notifier.stopping("draining")
    assert heard(manager) == ["STOPPING=1", "STATUS=draining"]
    notifier.alive()
    assert heard(manager) == ["WATCHDOG=1"]


def test_an_address_in_the_abstract_namespace() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        name = f"\0posthog-proxy-test-{os.getpid()}"
        sock.bind(name)
        sock.settimeout(5)
        Notifier(f"@{name[1:]}").alive()
        assert heard(sock) == ["WATCHDOG=1"]


def test_nobody_to_tell_is_no_error(tmp_path: Path) -> None:
    Notifier().ready("x")
    gone = Notifier(str(tmp_path / "gone"))
    gone.ready("x")
    assert repr(gone) == f"<Notifier {str(tmp_path / 'gone')!r} watchdog=0s>"


def test_a_manager_that_does_not_listen_holds_nobody_up(manager: socket.socket) -> None:
    notifier = Notifier(manager.getsockname())
    for _ in range(1000):  # more than its queue takes
        notifier.alive()
    assert heard(manager) == ["WATCHDOG=1"]


@pytest.mark.parametrize(
    ("environ", "interval"),
    [
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "30000000"}, 10.0),
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 10.0),
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, 0.0),
        ({"NOTIFY_SOCKET": "/x"}, 0.0),
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "often"}, 0.0),
        ({"WATCHDOG_USEC": "30000000"}, 0.0),
        ({}, 0.0),
    ],
)
def test_how_often_the_watchdog_is_fed_and_nothing_stays_in_the_environment(
    environ: dict[str, str], interval: float
) -> None:
    environ["OTHER"] = "1"
    assert Notifier.from_environment(environ).interval == interval
    assert environ == {"OTHER": "1"}


INHERIT = """
import os
from proxy.notify import inherited_sockets
os.environ["LISTEN_PID"] = str(os.getpid())
found = inherited_sockets(os.environ)
names = [sock.getsockname() for sock in found]
print(names, [sock.getblocking() for sock in found], "LISTEN_FDS" in os.environ)
"""


def test_listening_sockets_are_taken_over_and_all_else_is_closed(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as unix,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket() as idle,
        open(os.devnull) as file,
    ):
        unix.bind(str(tmp_path / "s"))
        unix.listen()
        handed = [each.fileno() for each in (tcp, udp, file, idle, unix)]

        def place() -> None:  # as systemd does between fork and exec
            kept = [os.dup(each) for each in handed]
            high = [os.dup2(each, 100 + at) for at, each in enumerate(kept)]
            for at, each in enumerate(high):
                os.dup2(each, FIRST_DESCRIPTOR + at)

        done = subprocess.run(
            [sys.executable, "-c", INHERIT],
            preexec_fn=place,
            pass_fds=range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + 5),
            env={**os.environ, "LISTEN_FDS": "5", "LISTEN_FDNAMES": "a:b:c:d:e"},
            capture_output=True,
            text=True,
            check=True,
        )
        expected = [tcp.getsockname(), unix.getsockname()]
        assert done.stdout == f"{expected} [False, False] False\n"


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"LISTEN_FDS": "1", "LISTEN_PID": "1"},
        {"LISTEN_FDS": "many", "LISTEN_PID": str(os.getpid()), "LISTEN_FDNAMES": "x"},
        {"LISTEN_FDS": "0", "LISTEN_PID": str(os.getpid())},
    ],
)
def test_nothing_is_handed_over_to_us(environ: dict[str, str]) -> None:
    assert inherited_sockets(environ) == []
    assert environ == {}
