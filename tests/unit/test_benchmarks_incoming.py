"""Messages that the benchmark reads for their heads only."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from benchmarks.incoming import Incoming

if TYPE_CHECKING:
    from collections.abc import Iterator

Pair = tuple[socket.socket, socket.socket]

MESSAGE = b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 11\r\n\r\nhello world"


@pytest.fixture
def pair() -> Iterator[Pair]:
    """A connection over TCP: only there MSG_TRUNC throws bytes away."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
        with ours, theirs:
            yield ours, theirs


@pytest.mark.parametrize("cut", range(1, len(MESSAGE)))
def test_a_message_in_two_pieces(pair: Pair, cut: int) -> None:
    ours, theirs = pair
    incoming = Incoming()
    theirs.sendall(MESSAGE[:cut])
    assert not incoming.receive(ours)
    theirs.sendall(MESSAGE[cut:])
    assert incoming.receive(ours)
    assert incoming.head.startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("length", [b"", b"content-length:0\r\n"])
def test_messages_without_a_body_one_after_another(pair: Pair, length: bytes) -> None:
    ours, theirs = pair
    incoming = Incoming()
    for path in (b"/a", b"/b"):
        theirs.sendall(b"GET %s HTTP/1.1\r\n%s\r\n" % (path, length))
        assert incoming.receive(ours)
        assert incoming.head.split()[1] == path


def test_a_large_body_is_thrown_away(pair: Pair) -> None:
    ours, theirs = pair
    incoming = Incoming()
    theirs.sendall(b"POST / HTTP/1.1\r\nContent-Length: 200000\r\n\r\n")
    assert not incoming.receive(ours)
    theirs.sendall(bytes(200_000))
    while not incoming.receive(ours):
        assert len(incoming.head) < 100
    theirs.sendall(MESSAGE)
    assert incoming.receive(ours)


@pytest.mark.parametrize("begun", [b"", MESSAGE[:5], MESSAGE[:-1]])
def test_the_end_of_the_stream_is_an_error(pair: Pair, begun: bytes) -> None:
    ours, theirs = pair
    incoming = Incoming()
    if begun:
        theirs.sendall(begun)
        assert not incoming.receive(ours)
    theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(ConnectionError):
        incoming.receive(ours)
