"""Clients and upstreams that leave at every moment: each exchange is logged, no descriptor stays behind,
and the process still ends when it is told to.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
from typing import TYPE_CHECKING

import pytest

from tests.support import servers
from tests.support.wire import OK, Client, RawUpstream, WireError, exchange

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.process import Process

ROUNDS = 40
"""Times that each accident happens: some races need luck."""

IDLE_UPSTREAM_CONNECTIONS = 2
"""Descriptors that may stay: what the pool keeps for the next request."""

BODY = bytes(range(256)) * 1024
POST = f"POST /s/ HTTP/1.1\r\nHost: a\r\nContent-Length: {len(BODY)}\r\n\r\n".encode()
CHUNKED = b"POST /s/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
BESIDE = b"GET /beside HTTP/1.1\r\nHost: a\r\n\r\n"
GET = b"GET /page HTTP/1.1\r\nHost: a\r\n\r\n"

LARGE = b"HTTP/1.1 200 OK\r\nContent-Length: 4000000\r\n\r\n" + b"x" * 4_000_000
ENDLESS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
TORN = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 100\r\n\r\nonly this"
GARBAGE = b"220 mail.example.test ESMTP\r\nConnection: close\r\n\r\n"


def reset(client: Client) -> None:
    """Close with a reset."""
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.sock.close()


def post(client: Client) -> None:
    """Send the body's last byte when the proxy has dealt with all others, and be answered at once."""
    client.send(POST + BODY[:-1])
    assert exchange(client.sock.getpeername(), BESIDE).status == 200
    client.send(BODY[-1:])
    assert client.answer().status == 200


def answered_and_gone(client: Client) -> None:
    post(client)


def answered_and_reset(client: Client) -> None:
    post(client)
    reset(client)


def gone_inside_the_head(client: Client) -> None:
    client.send(GET[:20])


def gone_inside_the_body(client: Client) -> None:
    client.send(POST + BODY[:100_000])


def reset_inside_the_body(client: Client) -> None:
    client.send(POST + BODY[:100_000])
    reset(client)


def gone_inside_a_chunk(client: Client) -> None:
    client.send(CHUNKED + b"ffff\r\nhalf")


def gone_before_the_answer(client: Client) -> None:
    client.send(GET)


def gone_inside_the_answer(client: Client) -> None:
    client.send(GET)
    client.until(b"\r\n\r\n")


def reset_inside_the_answer(client: Client) -> None:
    client.send(GET)
    client.until(b"\r\n\r\n")
    reset(client)


def half_closed(client: Client) -> None:
    """The request is whole; whether such a client is answered or let go, it must not be kept."""
    client.send(GET)
    client.sock.shutdown(socket.SHUT_WR)
    client.ended()


def torn_answer(client: Client) -> None:
    client.send(GET)
    with pytest.raises((WireError, ConnectionResetError)):
        client.answer()


def garbage_answer(client: Client) -> None:
    client.send(GET)
    assert client.answer().status == 502


ACCIDENTS = [
    (answered_and_gone, OK),
    (answered_and_reset, OK),
    (gone_inside_the_head, OK),
    (gone_inside_the_body, OK),
    (reset_inside_the_body, OK),
    (gone_inside_a_chunk, OK),
    (gone_before_the_answer, OK),
    (gone_inside_the_answer, LARGE),
    (gone_inside_the_answer, ENDLESS),
    (reset_inside_the_answer, LARGE),
    (half_closed, OK),
    (torn_answer, TORN),
    (garbage_answer, GARBAGE),
]


def descriptors(process: Process) -> int:
    return len(os.listdir(f"/proc/{process.pid}/fd"))


@pytest.mark.parametrize(
    ("accident", "answer"), ACCIDENTS, ids=[f"{a.__name__}-{len(answer)}" for a, answer in ACCIDENTS]
)
def test_nothing_stays_behind(accident: Callable[[Client], None], answer: bytes) -> None:
    with (
        RawUpstream(answer) as upstream,
        servers.posthog_proxy(upstream.url, "--set", "health.breaker=false") as proxy,
    ):
        process = proxy.process
        before = descriptors(process)
        for _ in range(ROUNDS):
            with Client(proxy.address) as client:
                accident(client)
        assert process.poll(lambda: descriptors(process) <= before + IDLE_UPSTREAM_CONNECTIONS), (
            f"{descriptors(process) - before} descriptors are left"
        )
        if accident is not gone_inside_the_head:
            logged = process.wait_for_lines('"path":"/(s/|page)"', ROUNDS, stream="stdout", timeout=10)
            assert len(logged) == ROUNDS
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    events = [line for line in process.stderr if '"event":"listening"' not in line]
    assert not any("Traceback" in line for line in events)
