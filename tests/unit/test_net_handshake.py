"""Handshakes on accepted sockets, and how the failed ones are counted."""

from __future__ import annotations

import asyncio
import socket
import ssl
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest

from proxy.net.handshake import Handshakes, failure_reason
from proxy.observe.metrics import Counters
from tests.support.clock import HandClock
from tests.support.tls import self_signed

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.needs("openssl"), pytest.mark.both_loops]

CLIENT = ip_address("203.0.113.7")


class Made:
    """Handshakes with a certificate, and what was logged about them."""

    def __init__(self, folder: Path) -> None:
        certificate = self_signed(folder, "a.test")
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(certificate.certificate, certificate.key)
        self.clock = HandClock()
        self.counters = Counters()
        self.said: list[dict[str, Any]] = []
        self.handshakes = Handshakes(
            self.clock, self.counters, lambda level, event, **fields: self.said.append(fields)
        )

    def begin(self, timeout: float = 20.0) -> tuple[socket.socket, asyncio.Task[None]]:
        """Begin a handshake; the client's socket and the server's side."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        shaking = self.handshakes.shake(
            asyncio.Protocol, ours, self.context, client=CLIENT, timeout=timeout, shutdown=1.0
        )
        return theirs, asyncio.get_running_loop().create_task(shaking)


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path)


async def test_one_that_succeeds(made: Made) -> None:
    theirs, shaking = made.begin()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    _, writer = await asyncio.open_unix_connection(sock=theirs, ssl=context, server_hostname="a.test")
    await shaking
    assert (made.counters.tls_handshakes, made.counters.tls_resumed) == (1, 0)
    assert repr(made.handshakes) == "<Handshakes made=1>"
    writer.close()
    await writer.wait_closed()


async def test_a_client_that_leaves(made: Made) -> None:
    theirs, shaking = made.begin()
    theirs.close()
    await shaking
    assert dict(made.counters.tls_failures) == {("client_left",): 1}
    assert made.said == [{"reason": "client_left", "peer": "203.0.113.7", "unsaid": 0}]


async def test_a_client_that_says_nothing(made: Made) -> None:
    theirs, shaking = made.begin(timeout=0.01)
    await shaking
    assert dict(made.counters.tls_failures) == {("late",): 1}
    theirs.close()


async def test_bytes_that_are_no_tls(made: Made) -> None:
    theirs, shaking = made.begin()
    theirs.send(b"GET / HTTP/1.1\r\n\r\n")
    await shaking
    assert dict(made.counters.tls_failures) == {("not_tls",): 1}
    theirs.close()


async def test_one_line_a_minute_for_each_reason(made: Made) -> None:
    for _ in range(5):
        made.handshakes.failed("version", CLIENT)
    made.handshakes.failed("late", None)
    made.clock.now += 60.0
    made.handshakes.failed("version", CLIENT)
    assert [(line["reason"], line["unsaid"]) for line in made.said] == [
        ("version", 0),
        ("late", 0),
        ("version", 4),
    ]
    assert made.counters.tls_failures[("version",)] == 6


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (ConnectionResetError(), "client_left"),
        (ConnectionAbortedError("SSL handshake is taking longer than 10 seconds: aborting"), "late"),
        (OSError("no"), "other"),
        (ssl.SSLError("no reason"), "other"),
    ],
)
async def test_words(error: OSError, word: str) -> None:
    assert failure_reason(error) == word
