"""Messages between parent and worker, over a real socket pair."""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING

import pytest

from proxy.workers.channel import (
    MAX_BYTES,
    Accept,
    Channel,
    Close,
    Counted,
    Drain,
    Failed,
    Handed,
    Ready,
    Retired,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxy.workers.channel import Message

LARGE = Counted({"requests_total": {f'route="/{number}"': number for number in range(50_000)}})
"""More than a socket takes at once."""


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    """Both ends of a channel."""
    one, other = (Channel(sock) for sock in socket.socketpair())
    yield one, other
    one.close()
    other.close()


@pytest.mark.parametrize(
    "message",
    [
        Accept([3, 1]),
        Accept([]),
        Drain(handover=True),
        Close(),
        Ready(),
        Retired(),
        Failed("/ü: \n"),
        Counted({"a": 1, "b": {'x="y"': 2}}),
    ],
)
def test_every_message_arrives_as_it_was(ends: tuple[Channel, Channel], message: Message) -> None:
    one, other = ends
    one.send(message)
    one.send(Ready())
    assert list(other.receive()) == [message, Ready()]
    assert list(other.receive()) == []
    assert not other.ended


def test_sockets_arrive_beside_their_messages(ends: tuple[Channel, Channel]) -> None:
    one, other = ends
    pipes = [os.pipe() for _ in range(3)]
    for number, (_, write) in enumerate(pipes):
        one.send(Handed(number, f"127.0.0.1:{number}", number + 5), write)
        one.send(Accept([number]))
        os.close(write)
    heard = list(other.receive())
    handed = [message for message in heard if isinstance(message, Handed)]
    assert [message.address for message in handed] == ["127.0.0.1:0", "127.0.0.1:1", "127.0.0.1:2"]
    assert [message.entry for message in handed] == [5, 6, 7]
    assert len(heard) == 6
    for message, (read, _) in zip(handed, pipes, strict=True):
        assert not os.get_inheritable(message.descriptor)
        os.write(message.descriptor, b"%d" % message.number)
        os.close(message.descriptor)
        assert os.read(read, 10) == b"%d" % message.number
        os.close(read)


def test_what_is_not_taken_is_kept_and_goes_first(ends: tuple[Channel, Channel]) -> None:
    one, other = ends
    assert not one.behind
    one.send(LARGE)
    assert one.behind
    heard = list(other.receive())
    while one.behind or not heard:
        heard += other.receive()
    one.send(Ready())
    assert [*heard, *other.receive()] == [LARGE, Ready()]


def test_a_socket_that_is_full_takes_no_descriptor(ends: tuple[Channel, Channel]) -> None:
    one, _ = ends
    one.send(LARGE)
    assert one.behind
    with pytest.raises(BlockingIOError):
        one.send(Handed(1, "127.0.0.1:1", 0), one.fileno())


def test_the_last_message_waits_for_its_taker(ends: tuple[Channel, Channel]) -> None:
    one, other = ends
    one.finish(LARGE, timeout=0.01)  # nobody reads: given up
    assert one.behind
    heard: list[Message] = []
    while one.behind:
        heard += other.receive()
    one.finish(Ready(), timeout=10)
    assert [*heard, *other.receive()] == [LARGE, Ready()]


def test_an_end_is_heard_after_all_that_was_said(ends: tuple[Channel, Channel]) -> None:
    one, other = ends
    one.send(Ready())
    one.close()
    assert list(other.receive()) == [Ready()]
    assert other.ended
    assert list(other.receive()) == []


def test_a_side_that_is_gone_takes_everything(ends: tuple[Channel, Channel]) -> None:
    one, other = ends
    other.send(Ready())  # unread when it goes: a reset
    one.close()
    other.send(LARGE)
    other.send(Handed(1, "127.0.0.1:1", 0), other.fileno())
    assert not other.behind
    list(other.receive())
    assert other.ended


def test_a_reset_is_an_end(ends: tuple[Channel, Channel]) -> None:
    one, other = ends
    other.send(Ready())
    one.close()
    assert list(other.receive()) == []
    assert other.ended


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (struct.pack("!I", MAX_BYTES + 1), "a message of"),
        (struct.pack("!I", 3) + b"{}}", "Extra data"),
        (struct.pack("!I", 2) + b"{}", "not known"),
        (struct.pack("!I", 16) + b'{"kind":"Reedy"}', "not known"),
        (struct.pack("!I", 22) + b'{"kind":"Ready","a":1}', "not known"),
        (struct.pack("!I", 42) + b'{"kind":"Handed","number":1,"address":"x"}', "not known"),
    ],
)
def test_what_is_no_message(said: bytes, error: str) -> None:
    ours, theirs = socket.socketpair()
    channel = Channel(ours)
    theirs.sendall(said)
    with pytest.raises(ValueError, match=error):
        list(channel.receive())
    channel.close()
    theirs.close()


def test_a_message_in_pieces() -> None:
    ours, theirs = socket.socketpair()
    channel = Channel(ours)
    text = struct.pack("!I", 16) + b'{"kind":"Ready"}'
    for index in range(len(text) - 1):
        theirs.sendall(text[index : index + 1])
        assert list(channel.receive()) == []
    theirs.sendall(text[-1:])
    assert list(channel.receive()) == [Ready()]
    channel.close()
    theirs.close()
